//! The process group of one attempt, and the promise that it does not outlive the attempt.
//!
//! A group is named by the number of its leader. That number is the leader's own until the leader is
//! reaped; afterwards, once the group is empty, the system may give it to anyone, and a signal to the
//! group would hit strangers. So the leader's end is noticed without reaping it (see [`Exit`]), the
//! group is killed, and only then is the leader reaped. Nobody else reaps: tokio does it for a child
//! that was dropped, and dropping a [`Group`] kills it first.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use super::exit::{self, Exit};
use super::members;

/// How long the kernel gets to end a leader that was killed. One that is stuck in a device does not
/// hold up its slot: it will not run another instruction, and tokio reaps it when it is gone.
const REAP_MAX: Duration = Duration::from_secs(1);

/// Between two looks at whether a group has emptied, of which nothing tells.
const EMPTIED_INTERVAL: Duration = Duration::from_millis(20);

/// A process and those it started, as far as they stayed in its group.
pub(super) struct Group {
    child: Child,
    leader: Pid,
    exit: Exit,
}

/// This side's ends of a program's pipes.
pub(super) struct Pipes {
    /// None if the program's stdin is not a pipe.
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
}

impl Group {
    /// Starts a command that leads a group of its own and has its output piped.
    pub(super) fn spawn(command: &mut Command) -> io::Result<(Self, Pipes)> {
        let signals = Exit::signals()?;
        let mut child = command.spawn()?;
        let number = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let leader = number.expect("a process that nobody has waited for has its number");
        let pipes = Pipes {
            stdin: child.stdin.take(),
            stdout: child.stdout.take().expect("stdout is piped"),
            stderr: child.stderr.take().expect("stderr is piped"),
        };
        Ok((
            Self {
                child,
                leader,
                exit: Exit::of(leader, signals),
            },
            pipes,
        ))
    }

    /// Whether the leader has ended.
    pub(super) fn has_exited(&self) -> bool {
        exit::has_ended(self.leader)
    }

    /// Waits until the leader has ended. It is not reaped. Cancel safe.
    pub(super) async fn exited(&mut self) {
        self.exit.noticed(self.leader).await;
    }

    /// Waits until nobody in the group is alive. The leader is not reaped. Cancel safe.
    pub(super) async fn emptied(&mut self) {
        self.exited().await;
        while members::has_living(self.leader) {
            tokio::time::sleep(EMPTIED_INTERVAL).await;
        }
    }

    /// Asks all processes of the group to leave.
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends all processes of the group.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Takes the leader's exit status. The group must have been killed: from here on it cannot be.
    pub(super) async fn reap(&mut self) -> io::Result<ExitStatus> {
        tokio::time::timeout(REAP_MAX, self.child.wait()).await?
    }

    fn signal(&self, signal: Signal) {
        // `id` is none from the moment that the leader is reaped.
        if self.child.id().is_some() {
            // An error says that nobody is left to hear it, or that they have become someone whom
            // this process may not signal.
            kill_process_group(self.leader, signal).ok();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
