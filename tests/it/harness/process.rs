//! A command that runs to its end.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;

use super::PATIENCE;

/// How a command ended and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code, unless a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end, with this on its standard input.
pub(crate) fn ended(command: &mut Command, input: &[u8]) -> Ended {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (pid, mut stdin) = (child.id(), child.stdin.take().unwrap());
    let input = input.to_owned();
    // A command may end before it has read everything.
    std::thread::spawn(move || stdin.write_all(&input).ok());
    let (done, output) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let Ok(output) = output.recv_timeout(PATIENCE) else {
        Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()
            .ok();
        panic!("the command does not end: {command:?}");
    };
    Ended::from(output.unwrap())
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}
