//! The engine inside a program, without a server: what was accepted survives the program, and a
//! reader goes on where it was. `cargo run --example embedded`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::Path;

use sooner::{
    Attempt, BatchId, ItemError, ItemSpec, OpenError, Order, Queue, Sooner, UploadStart, handler_fn,
};

async fn open(data: &Path) -> Result<Sooner, OpenError> {
    let reverse = handler_fn(|attempt: Attempt| async move {
        Ok::<_, ItemError>(attempt.text()?.chars().rev().collect::<String>())
    });
    Sooner::builder(data)
        .queue("default", Queue::new(reverse))
        .open()
        .await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let data = tempfile::tempdir()?;
    let id = BatchId::parse("words")?;

    // The first life of the program: it is still uploading when it ends.
    let sooner = open(data.path()).await?;
    let mut upload = sooner.upload(UploadStart::named("words")?).await?;
    upload.append(["stressed", "drawer"]).await?;
    // Results come while the batch still grows.
    let mut results = sooner.watch(&id, Order::default()).await?;
    let first = results.next().await.expect("two items are there")?;
    println!("{}: {:?}", first.sequence.0, first.ending.output());
    let cursor = results.cursor();
    // Not even closed: as after a crash, only that the handles let go of the directory.
    drop((upload, results, sooner));

    // The second life: it goes on behind what is durable, and reads on behind what it has seen.
    let sooner = open(data.path()).await?;
    let mut upload = sooner.upload(UploadStart::named("words")?).await?;
    println!("{} items are there already", upload.accepted());
    assert_eq!(upload.accepted(), 2);
    upload.append([ItemSpec::new("live")]).await?;
    upload.finish().await?;
    let mut results = sooner.watch(&id, cursor).await?;
    while let Some(result) = results.next().await {
        let result = result?;
        println!("{}: {:?}", result.sequence.0, result.ending.output());
    }
    assert_eq!(results.batch().tally.succeeded, 3);

    sooner.close().await;
    Ok(())
}
