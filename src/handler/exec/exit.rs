//! How the end of a process is noticed without reaping it, so that its number stays its own.

use std::future::pending;
use std::io;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A source of hints that a process may have ended.
pub(super) enum Exit {
    /// A descriptor of the process: it speaks of this one alone, however many others there are.
    #[cfg(target_os = "linux")]
    Descriptor(tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>),
    /// SIGCHLD, which speaks of any child. Where there is nothing better.
    Signals(Signal),
}

impl Exit {
    /// What must be there before a process is started: a failure afterwards would come too late.
    ///
    /// It also ends the state in which the kernel throws exit codes away: SIGCHLD ignored, which
    /// some parents hand on.
    pub(super) fn signals() -> io::Result<Signal> {
        signal(SignalKind::child())
    }

    /// The best source for a process that has been started.
    #[cfg(target_os = "linux")]
    pub(super) fn of(leader: Pid, signals: Signal) -> Self {
        use rustix::process::{PidfdFlags, pidfd_open};
        use tokio::io::Interest;
        use tokio::io::unix::AsyncFd;

        #[expect(
            deprecated,
            reason = "what replaces it is unsafe; an `OwnedFd` keeps its promise"
        )]
        let watch = |descriptor| AsyncFd::with_interest(descriptor, Interest::READABLE).ok();
        let descriptor = pidfd_open(leader, PidfdFlags::empty()).ok().and_then(watch);
        descriptor.map_or(Self::Signals(signals), Self::Descriptor)
    }

    /// The best source for a process that has been started.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn of(_leader: Pid, signals: Signal) -> Self {
        Self::Signals(signals)
    }

    /// Waits until `leader`, which is not reaped, has ended. Cancel safe.
    pub(super) async fn noticed(&mut self, leader: Pid) {
        while !has_ended(leader) {
            self.hint().await;
        }
    }

    /// Waits for a hint. One that comes before the wait is not lost.
    async fn hint(&mut self) {
        let heard = match self {
            #[cfg(target_os = "linux")]
            Self::Descriptor(descriptor) => {
                // The hint is taken before the process is looked at: the next one counts again.
                descriptor
                    .readable()
                    .await
                    .map(|mut ready| ready.clear_ready())
                    .ok()
            }
            Self::Signals(signals) => signals.recv().await,
        };
        if heard.is_none() {
            // The runtime is going down and drops this future next.
            pending::<()>().await;
        }
    }
}

/// Whether a child has ended. It is not reaped. One that is not ours any more, which only a stranger
/// who reaps our children can bring about, has ended.
pub(super) fn has_ended(child: Pid) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::Pid(child), look), Ok(None))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn each_source_notices_an_exit_before_and_during_the_wait_and_does_not_reap() {
        let sources = [Exit::of, |_, signals| Exit::Signals(signals)];
        for (source, early) in sources.into_iter().flat_map(|it| [(it, true), (it, false)]) {
            let signals = Exit::signals().unwrap();
            let mut command = Command::new("sh");
            let mut child = command
                .args(["-c", "read line; exit 7"])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            let pid = Pid::from_child(&child);
            let mut exit = source(pid, signals);
            let mut stdin = child.stdin.take().unwrap();
            let mut end = || stdin.write_all(b"\n").unwrap();
            if early {
                end();
                waitid(
                    WaitId::Pid(pid),
                    WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
                )
                .unwrap();
                exit.noticed(pid).await;
            } else {
                let mut wait = std::pin::pin!(exit.noticed(pid));
                assert!((&mut wait).now_or_never().is_none());
                end();
                wait.await;
            }
            assert_eq!(child.wait().unwrap().code(), Some(7));
        }
    }
}
