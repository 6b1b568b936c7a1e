//! The contract with programs, each rule against real ones.

mod conversation;
mod endings;
mod surroundings;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;
use crate::base::clock::Timestamp;
use crate::domain::attempt::ItemError;
use crate::domain::ids::{BatchId, BatchUid};
use crate::domain::item::ItemSpec;
use crate::domain::payload::{Body, Payload};

/// Longer than anything takes that works.
const SOON: Duration = Duration::from_secs(30);

fn settings(argv: &[&str]) -> ExecSettings {
    ExecSettings {
        command: argv.iter().map(ToString::to_string).collect(),
        environment: Environment::Inherit,
        kill_grace: SOON,
        output_bytes_max: 3 << 20,
        stderr_bytes_max: 4 << 10,
        content_type: String::new(),
    }
}

fn exec(argv: &[&str]) -> Exec {
    Exec::new(settings(argv)).unwrap()
}

fn shell(script: &str) -> Exec {
    exec(&["sh", "-c", script])
}

fn attempt(input: Payload) -> Attempt {
    let spec = ItemSpec {
        id: Some("pages/7".into()),
        input,
        ..ItemSpec::default()
    };
    Attempt {
        spec: Arc::new(spec),
        batch_id: BatchId::parse("nightly").unwrap(),
        batch_uid: BatchUid(Uuid::from_u128(9)),
        index: 6,
        number: 2,
        deadline: Timestamp(1_500),
        stop: CancellationToken::new(),
        origin: None,
        slot: None,
    }
}

async fn outcome(exec: &Exec, input: Payload) -> Outcome {
    timeout(SOON, exec.handle(attempt(input)))
        .await
        .expect("the attempt ends")
}

/// What an attempt ends with that is stopped once its program has said `line`.
async fn outcome_of_stop(exec: &Exec, witness: &mut Witness, line: &str) -> Outcome {
    let attempt = attempt(Payload::default());
    let stop = attempt.stop.clone();
    let (outcome, ()) = tokio::join!(timeout(SOON, exec.handle(attempt)), async {
        witness.hears(line).await;
        stop.cancel();
    });
    outcome.expect("the attempt ends")
}

async fn output(exec: &Exec, input: Payload) -> Body {
    succeeded(outcome(exec, input).await)
}

async fn output_text(exec: &Exec, input: &str) -> String {
    match output(exec, Payload::text(input)).await {
        Body::Text(text) => text.into(),
        Body::Data(data) => panic!("not text: {data:?}"),
    }
}

async fn error(exec: &Exec, input: Payload) -> ItemError {
    failed(outcome(exec, input).await)
}

fn succeeded(outcome: Outcome) -> Body {
    match outcome {
        Outcome::Succeeded(output) => output.body,
        other @ (Outcome::Failed(_)
        | Outcome::FailedFor { .. }
        | Outcome::Released { .. }
        | Outcome::Short(_)) => {
            panic!("{other:?}")
        }
    }
}

fn failed(outcome: Outcome) -> ItemError {
    match outcome {
        Outcome::Failed(error) => error,
        other @ (Outcome::Succeeded(_)
        | Outcome::FailedFor { .. }
        | Outcome::Released { .. }
        | Outcome::Short(_)) => {
            panic!("{other:?}")
        }
    }
}

/// A pipe that programs open as descriptor 3. It tells what they say there, and when all of them
/// are gone.
struct Witness {
    dir: tempfile::TempDir,
    pipe: pipe::Receiver,
}

impl Witness {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = Command::new("mkfifo")
            .arg(Self::path(&dir))
            .status()
            .unwrap();
        assert!(made.success());
        let pipe = pipe::OpenOptions::new()
            .open_receiver(Self::path(&dir))
            .unwrap();
        Self { dir, pipe }
    }

    fn path(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("fifo")
    }

    /// A shell that holds the pipe and passes it on to its children.
    fn shell(&self, script: &str) -> Exec {
        shell(&self.script(script))
    }

    fn script(&self, script: &str) -> String {
        format!("exec 3>'{}'; {script}", Self::path(&self.dir).display())
    }

    /// Waits for the next line.
    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let byte = timeout(SOON, self.pipe.read_u8())
                .await
                .expect("somebody speaks");
            line.push(byte.expect("somebody is there"));
        }
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }

    async fn hears(&mut self, expected: &str) {
        assert_eq!(self.line().await, expected);
    }

    /// Waits until nobody holds the pipe any more, and returns what they still said.
    async fn alone(mut self) -> String {
        let mut last = String::new();
        timeout(SOON, self.pipe.read_to_string(&mut last))
            .await
            .expect("they leave")
            .unwrap();
        last
    }
}
