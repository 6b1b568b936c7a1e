//! A handler in asynchronous Rust: it asks something slow, and says which failures are worth another
//! attempt. `cargo run --example async_handler`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::time::Duration;

use sooner::{
    Attempt, Handler, ItemError, ItemSpec, Outcome, Queue, Sooner, Submission, async_trait,
};

/// Looks up the population of a city, in a service that is slow and sometimes busy.
#[derive(Debug)]
struct Census {
    latency: Duration,
}

#[async_trait]
impl Handler for Census {
    async fn handle(&self, attempt: Attempt) -> Outcome {
        let city = match attempt.text() {
            Ok(city) => city,
            Err(not_text) => return Outcome::Failed(not_text),
        };
        tokio::select! {
            answer = self.ask(city, attempt.number) => answer,
            // A cancel, the attempt's limit, or the end of a drain: hang up in good order. What the
            // attempt ends with is decided by why it was stopped.
            () = attempt.stop.cancelled() => {
                Outcome::Failed(ItemError::retryable("HUNG_UP", "stopped before the answer"))
            }
        }
    }

    fn stop_grace(&self) -> Duration {
        Duration::from_millis(100)
    }
}

impl Census {
    async fn ask(&self, city: &str, attempt: u32) -> Outcome {
        tokio::time::sleep(self.latency).await;
        match city {
            "Oslo" => Outcome::Succeeded("709,000".into()),
            // Busy at first: the service says when to come again.
            "Bern" if attempt == 1 => Outcome::FailedFor {
                error: ItemError::retryable("BUSY", "429 Too Many Requests"),
                wait: Duration::from_millis(20),
            },
            "Bern" => Outcome::Succeeded("134,000".into()),
            // No other attempt would help.
            _ => Outcome::Failed(ItemError::permanent("NO_SUCH_CITY", city)),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let data = tempfile::tempdir()?;
    let census = Census {
        latency: Duration::from_millis(10),
    };
    // It waits more than it computes: many at once.
    let queue = Queue::new(census).slots(64);
    let sooner = Sooner::builder(data.path())
        .queue("default", queue)
        .open()
        .await?;

    let cities = ["Bern", "Oslo", "Atlantis"].map(|city| ItemSpec::new(city).with_id(city));
    let mut results = sooner.submit(Submission::new(cities)).await?;
    while let Some(result) = results.next().await {
        let result = result?;
        match (result.ending.output(), result.ending.error()) {
            (Some(output), _) => println!("{}: {:?}", result.item_id(), output.as_text()),
            (None, error) => println!("{}: {error:?}", result.item_id()),
        }
    }
    let tally = results.batch().tally;
    assert_eq!((tally.succeeded, tally.failed), (2, 1));

    sooner.close().await;
    Ok(())
}
