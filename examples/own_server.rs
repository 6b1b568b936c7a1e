//! A gRPC server with handlers of one's own, and a client that submits to it. A real one would wait
//! for a signal in place of the client. `cargo run --example own_server`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::net::SocketAddr;

use sooner::wire::batch_service_client::BatchServiceClient;
use sooner::wire::{self, SubmitBatchRequest, payload};
use sooner::{Attempt, ItemError, Queue, Sooner, blocking, handler_fn};
use tonic::transport::Endpoint;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let data = tempfile::tempdir()?;
    let greet = handler_fn(|attempt: Attempt| async move {
        Ok::<_, ItemError>(format!("hello, {}", attempt.text()?))
    });
    let count = blocking(|attempt: &Attempt| {
        let words = attempt.text()?.split_whitespace().count();
        Ok::<_, ItemError>(words.to_string())
    });
    // Two queues, each with threads of its own: neither's items wait for the other's.
    let server = Sooner::builder(data.path())
        .queue("greet", Queue::new(greet))
        .queue("count", Queue::new(count))
        .listen(SocketAddr::from(([127, 0, 0, 1], 0)))
        .open()
        .await?;
    let address = server.listen().expect("it was told to listen");
    println!("listening on {address}");

    for (queue, text) in [("greet", "world"), ("count", "the quick brown fox")] {
        let output = submit(address, queue, text).await?;
        println!("{queue}({text:?}) = {output}");
    }

    server.close().await;
    Ok(())
}

/// What a client does, in any language: submit, and read each result as it comes.
async fn submit(address: SocketAddr, queue: &str, text: &str) -> Result<String, Box<dyn Error>> {
    let endpoint = Endpoint::try_from(format!("http://{address}"))?;
    let mut client = BatchServiceClient::new(endpoint.connect().await?);
    let input = wire::Payload {
        body: Some(payload::Body::Text(text.to_owned())),
        ..wire::Payload::default()
    };
    let item = wire::ItemSpec {
        input: Some(input),
        ..wire::ItemSpec::default()
    };
    let request = SubmitBatchRequest {
        queue: queue.to_owned(),
        items: vec![item],
        ..SubmitBatchRequest::default()
    };
    let mut results = client.submit_batch(request).await?.into_inner();
    let result = results.message().await?.ok_or("there was no result")?;
    let output = result.output.and_then(|output| output.body);
    match output {
        Some(payload::Body::Text(text)) => Ok(text),
        other => Err(format!("{other:?} is not text").into()),
    }
}
