//! A handler that computes: each attempt on a thread of its own, each result as soon as it is done,
//! and one that would take for ever cancelled. `cargo run --example cpu_bound`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use sooner::{Attempt, BatchId, ItemError, Queue, Sooner, Submission, TerminalState, blocking};

/// The smallest factor of a number above 1, by trying them all.
fn smallest_factor(attempt: &Attempt) -> Result<String, ItemError> {
    let number: u64 = attempt.text()?.parse()?;
    let mut factor = 2;
    while factor < number && !number.is_multiple_of(factor) {
        factor += 1;
        // Now and then: has somebody cancelled, is the attempt over its limit, does a drain end? A
        // thread cannot be stopped from outside.
        if factor % 4096 == 0 && attempt.is_stopped() {
            return Err(ItemError::retryable(
                "STOPPED",
                "stopped before a factor was found",
            ));
        }
    }
    Ok(factor.to_string())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let data = tempfile::tempdir()?;
    // As many threads as slots; the default is one for each processor.
    let queue = Queue::new(blocking(smallest_factor)).slots(2);
    let sooner = Sooner::builder(data.path())
        .queue("default", queue)
        .open()
        .await?;

    // The first is a prime, so large that it would take until tomorrow. Nobody waits for it.
    let numbers = ["18446744073709551557", "91", "9409", "1000003"];
    let submission = Submission::new(numbers).with_batch_id("factors")?;
    let mut results = sooner.submit(submission).await?;
    for _ in 1..numbers.len() {
        let result = results.next().await.expect("three of them end")?;
        let factor = result.ending.output().and_then(|output| output.as_text());
        println!("{}: {factor:?}", numbers[result.index as usize]);
    }
    sooner
        .cancel_items(&BatchId::parse("factors")?, &["0"])
        .await?;
    let last = results.next().await.expect("every item has a result")?;
    assert_eq!(last.ending.state(), TerminalState::Cancelled);
    println!("{}: cancelled", numbers[0]);
    assert!(results.next().await.is_none());

    sooner.close().await;
    Ok(())
}
