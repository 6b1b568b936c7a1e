//! The three pipes of a program. Nothing that happens in them is a failure by itself: a program may
//! leave its input unread and close what it likes; what counts is how it exits.

use std::convert::Infallible;
use std::future::pending;
use std::os::fd::AsFd;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, Take};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

use super::ExecSettings;
use super::group::Pipes;
use crate::base::limits;

/// Bytes of one read. A pipe holds 64 KiB unless the program asks for more.
const CHUNK_BYTES: usize = 16 << 10;

/// Reads of one sweep: 1 MiB, the most that a pipe can hold for those without privileges. A bound
/// is needed because a process that left the group may still be writing.
const SWEEP_READS_MAX: usize = 64;

/// What goes to a program and what comes from it.
pub(super) struct Streams<'a> {
    pub(super) stdin: Input<'a>,
    pub(super) output: Output,
    pub(super) stderr: Tail,
}

/// What is written to a program.
pub(super) struct Input<'a> {
    to: Option<ChildStdin>,
    bytes: &'a [u8],
}

/// What a program writes to stdout, up to its cap.
pub(super) struct Output {
    from: Take<ChildStdout>,
    bytes: Vec<u8>,
    bytes_max: usize,
}

/// The last of what a program writes to stderr.
pub(super) struct Tail {
    from: ChildStderr,
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl<'a> Streams<'a> {
    /// The streams of a program that gets `input` if its stdin is a pipe.
    pub(super) fn new(pipes: Pipes, input: &'a [u8], settings: &ExecSettings) -> Self {
        let Pipes {
            stdin,
            stdout,
            stderr,
        } = pipes;
        let output_bytes_max = settings.output_bytes_max;
        // One byte more than allowed is read, to tell a full output from one that is too large.
        let from = stdout.take((output_bytes_max as u64).saturating_add(1));
        Self {
            stdin: Input {
                to: stdin,
                bytes: input,
            },
            output: Output {
                from,
                bytes: Vec::new(),
                bytes_max: output_bytes_max,
            },
            stderr: Tail {
                from: stderr,
                bytes: Vec::new(),
                bytes_max: settings.stderr_bytes_max,
            },
        }
    }

    /// Takes what the pipes hold at this moment.
    ///
    /// What a program wrote before it exited is there by then, but tokio may not have heard of it.
    pub(super) fn sweep(&mut self) {
        let Self { output, stderr, .. } = self;
        let Output {
            from,
            bytes,
            bytes_max,
        } = output;
        sweep_pipe(from.get_ref(), |chunk| {
            let room = bytes_max.saturating_add(1).saturating_sub(bytes.len());
            bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
        });
        let Tail {
            from,
            bytes,
            bytes_max,
        } = stderr;
        sweep_pipe(from, |chunk| {
            bytes.extend_from_slice(chunk);
            keep_last(bytes, *bytes_max);
        });
    }
}

impl Input<'_> {
    /// Writes the input, then closes the pipe. If dropped, it leaves the pipe open: a program must
    /// not take half an input for a whole one, even if it is killed a moment later.
    pub(super) async fn feed(&mut self) {
        if let Some(to) = &mut self.to {
            to.write_all(self.bytes).await.ok();
        }
        self.to = None;
    }
}

impl Output {
    /// Reads until the end, or past the cap. Cancel safe: what was read is kept.
    pub(super) async fn fill(&mut self) {
        read_all(&mut self.from, &mut self.bytes, |_| {}).await;
    }

    /// Reads on until the output is too large, which may be never. Cancel safe, as [`Self::fill`].
    pub(super) async fn overflow(&mut self) {
        self.fill().await;
        if !self.is_too_large() {
            pending::<()>().await;
        }
    }

    /// Reads on for as long as it is asked to, keeping no more than shows that it is too large: a
    /// program that wants to leave must not be stuck in a write. Cancel safe, as [`Self::fill`].
    pub(super) async fn keep_filling(&mut self) -> Infallible {
        self.fill().await;
        self.from.set_limit(u64::MAX);
        let most = self.bytes_max + 1;
        read_all(&mut self.from, &mut self.bytes, |bytes| {
            bytes.truncate(most);
        })
        .await;
        pending().await
    }

    /// Whether more was written than is allowed.
    pub(super) fn is_too_large(&self) -> bool {
        self.bytes.len() > self.bytes_max
    }

    /// What was written. It may be kept for long, so it has no spare room.
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        self.bytes.shrink_to_fit();
        self.bytes
    }
}

impl Tail {
    /// Reads until the end and keeps the last bytes. Cancel safe.
    pub(super) async fn follow(&mut self) {
        let bytes_max = self.bytes_max;
        let keep = |bytes: &mut Vec<u8>| keep_last(bytes, bytes_max);
        read_all(&mut self.from, &mut self.bytes, keep).await;
    }

    /// What was kept, as text for people.
    pub(super) fn text(&self) -> String {
        // A cut leaves at most three bytes of a character in front.
        let front = self.bytes.iter().take(3);
        let cut = front.take_while(|&&byte| byte & 0xc0 == 0x80).count();
        let text = String::from_utf8_lossy(&self.bytes[cut..]);
        // What replaces a wrong byte is longer than it, and the end matters more than the beginning.
        let text = text.trim_end();
        let over = text.len().saturating_sub(limits::ERROR_MESSAGE_BYTES_MAX);
        let start = (over..=text.len()).find(|&at| text.is_char_boundary(at));
        text[start.expect("the end of a text is a boundary")..].to_owned()
    }
}

/// Reads until the end, or until reading fails, and lets `keep` choose after each read what stays.
/// Cancel safe.
async fn read_all(
    from: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
    mut keep: impl FnMut(&mut Vec<u8>),
) {
    bytes.reserve(CHUNK_BYTES);
    while let Ok(1..) = from.read_buf(bytes).await {
        keep(bytes);
    }
}

fn keep_last(bytes: &mut Vec<u8>, bytes_max: usize) {
    bytes.drain(..bytes.len().saturating_sub(bytes_max));
}

fn sweep_pipe(pipe: impl AsFd, mut keep: impl FnMut(&[u8])) {
    let mut chunk = vec![0; CHUNK_BYTES];
    for _ in 0..SWEEP_READS_MAX {
        // The pipe does not block: an empty one is an error, a closed one is zero bytes.
        let Ok(count @ 1..) = rustix::io::read(&pipe, &mut chunk[..]) else {
            return;
        };
        keep(&chunk[..count]);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use futures_util::FutureExt as _;
    use tokio::process::Command;

    use super::*;
    use crate::handler::exec::group::Group;

    #[tokio::test]
    async fn a_feed_that_is_dropped_leaves_the_pipe_open_and_one_that_is_done_does_not() {
        let mut command = Command::new("sh");
        command.args(["-c", "cat >/dev/null"]).process_group(0);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (_group, pipes) = Group::spawn(&mut command).unwrap();
        let (to, bytes) = (pipes.stdin, &vec![0; 1 << 20][..]);
        let mut input = Input { to, bytes };
        assert!(
            input.feed().now_or_never().is_none(),
            "it takes more than one step"
        );
        assert!(input.to.is_some());
        input.bytes = b"few";
        input.feed().await;
        assert!(input.to.is_none());
    }
}
