//! A handler that runs a program: one process per attempt, its input on stdin, its output on stdout.
//!
//! ```text
//!   program ─▶ group ─▶ conversation ─▶ kill what is left ─▶ reap ─▶ verdict
//!   (argv,     (spawn)  (stdin, stdout, stderr, until the
//!    environment)        program exits, writes too much or is stopped)
//! ```
//! The contract, as people who write such programs read it, is in the manual. Two rules shape the
//! code. A program gets a process group of its own, and no path through an attempt leaves anything
//! of that group alive: not an exit, not a stop, not a panic, not a dropped future. And the group is
//! killed before its leader is reaped, because from then on its number may be somebody else's.

mod environment;
mod exit;
mod group;
mod members;
mod program;
mod streams;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::group::Group;
pub use self::members::end_orphans;
use self::program::Program;
use self::streams::Streams;
use crate::domain::attempt::Outcome;
use crate::engine::{Attempt, Handler};

/// How long a process that outlives its program may keep stdout open. Long enough for a `tee` to
/// write its last lines, short enough not to be felt as a hang.
const LINGER: Duration = Duration::from_secs(1);

/// What a stop may take beyond the grace: a second for the kernel to end what was killed, and one
/// to notice.
const STOP_MARGIN: Duration = Duration::from_secs(2);

/// Runs a program for each item.
pub struct Exec {
    settings: ExecSettings,
    program: Program,
}

/// What to run, and within which bounds.
#[derive(Clone, Debug)]
pub struct ExecSettings {
    /// The program and its arguments. They never pass through a shell. An argument that is exactly
    /// `{}` is replaced by the item's input.
    pub command: Vec<String>,
    /// What the program finds in its environment beside the variables about its item.
    pub environment: Environment,
    /// How long a program that was asked to stop may take before it is killed.
    pub kill_grace: Duration,
    /// Bytes of output. More of it is a failure.
    pub output_bytes_max: usize,
    /// Bytes of stderr that are kept, from its end, for the message of a failure.
    pub stderr_bytes_max: usize,
    /// Media type of the output; empty stands for the default of text or data.
    pub content_type: String,
}

/// What a program finds in its environment beside the variables about its item.
#[derive(Clone, Debug)]
pub enum Environment {
    /// All that this process has in its own.
    Inherit,
    /// PATH, HOME, USER, LANG, `LC_*`, TZ, TMPDIR and no more than what is named here.
    Clean {
        /// Names of variables that are handed on where they are set.
        pass: Vec<String>,
        /// Variables by name. They win over those that are handed on.
        set: BTreeMap<String, String>,
    },
}

/// What ended the conversation with a program.
enum End {
    /// The program did.
    Exited,
    /// Its output went over the cap.
    Overflowed,
    /// The attempt was asked to stop.
    Stopped,
}

impl Exec {
    /// A handler for `settings`, if there is such a program. The error is one line for the user.
    pub fn new(settings: ExecSettings) -> Result<Self, String> {
        let program = Program::find(&settings.command, &settings.environment)?;
        Ok(Self { settings, program })
    }

    async fn compute(&self, attempt: &Attempt) -> Outcome {
        if attempt.stop.is_cancelled() {
            return verdict::stopped("");
        }
        let mut command = match self.program.command(attempt) {
            Ok(command) => command,
            Err(error) => return Outcome::Failed(error),
        };
        let (group, pipes) = match Group::spawn(&mut command) {
            Ok(spawned) => spawned,
            Err(error) => return verdict::not_started(&error, &self.program),
        };
        let mut streams = Streams::new(pipes, attempt.spec.input.bytes(), &self.settings);
        // Bound after the streams, so dropped before them: a program that sees its pipes close is
        // dead already, and cannot take half an input for a whole one.
        let mut group = group;
        let end = self.converse(&mut group, &mut streams, &attempt.stop).await;
        group.kill();
        streams.sweep();
        let status = group.reap().await;
        let Streams { output, stderr, .. } = streams;
        let is_well = status.as_ref().is_ok_and(ExitStatus::success);
        if matches!(end, End::Stopped) && !is_well {
            return verdict::stopped(&stderr.text());
        }
        if output.is_too_large() {
            return verdict::too_large(self.settings.output_bytes_max);
        }
        match status {
            Ok(status) if status.success() => {
                verdict::succeeded(output.into_bytes(), &self.settings.content_type)
            }
            Ok(status) => verdict::failed(status, &stderr.text()),
            Err(error) => verdict::lost(&error),
        }
    }

    /// Serves the program's pipes until there is nothing more to expect from it.
    async fn converse(
        &self,
        group: &mut Group,
        streams: &mut Streams<'_>,
        stop: &CancellationToken,
    ) -> End {
        let Streams {
            stdin,
            output,
            stderr,
        } = streams;
        let mut aside = pin!(async {
            tokio::join!(stdin.feed(), stderr.follow());
            pending::<Infallible>().await
        });
        let end = tokio::select! {
            biased; // A program that has ended counts, whatever else has come.
            () = group.exited() => End::Exited,
            () = stop.cancelled() => if group.has_exited() { End::Exited } else { End::Stopped },
            () = output.overflow() => End::Overflowed,
            never = &mut aside => match never {},
        };
        match end {
            End::Exited => tokio::select! {
                biased; // What was written counts, even if it is read at the last moment.
                () = output.fill() => {}
                () = sleep(LINGER) => {}
                () = stop.cancelled() => {}
                never = &mut aside => match never {},
            },
            End::Stopped => {
                group.terminate();
                // The pipes are served on, so that nobody who wants to leave is stuck in a write.
                tokio::select! {
                    biased;
                    () = group.emptied() => {}
                    () = sleep(self.settings.kill_grace) => {}
                    never = output.keep_filling() => match never {},
                    never = &mut aside => match never {},
                }
            }
            End::Overflowed => {}
        }
        end
    }
}

#[async_trait]
impl Handler for Exec {
    /// A program that exits with 0 has succeeded, even if it was asked to stop before: one that cares
    /// finishes what it has begun. What the attempt then counts as, the engine knows.
    async fn handle(&self, attempt: Attempt) -> Outcome {
        self.compute(&attempt).await
    }

    fn stop_grace(&self) -> Duration {
        self.settings.kill_grace.saturating_add(STOP_MARGIN)
    }

    fn kind(&self) -> &'static str {
        "exec"
    }

    fn may_block(&self) -> bool {
        false
    }
}

impl fmt::Debug for Exec {
    // The environment stays out: it may hold secrets, and handlers are shown in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec")
            .field("command", &self.settings.command)
            .finish_non_exhaustive()
    }
}
