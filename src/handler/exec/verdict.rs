//! What the end of a process means for its item.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::io::Errno;

use super::program::Program;
use crate::domain::attempt::{ItemError, Outcome, Reason, Shortage};
use crate::domain::payload::Payload;

/// Exit codes by which a program says that another attempt is of no use: wrong usage, wrong data, no
/// input, no permission. They are those of `sysexits.h`.
const FINAL_CODES: [i32; 4] = [64, 65, 66, 77];

/// How long an item waits when the system has run out of something: others must end first.
const EXHAUSTED_WAIT: Duration = Duration::from_secs(1);

/// The program did what it should.
pub(super) fn succeeded(output: Vec<u8>, content_type: &str) -> Outcome {
    let content_type = content_type.into();
    Outcome::Succeeded(Payload {
        content_type,
        ..Payload::sniff(output)
    })
}

/// The program said that it failed, or died.
pub(super) fn failed(status: ExitStatus, stderr: &str) -> Outcome {
    let (reason, retryable, what) = if let Some(code) = status.code() {
        let retryable = !FINAL_CODES.contains(&code);
        (
            format!("EXIT_{code}"),
            retryable,
            format!("exited with code {code}"),
        )
    } else {
        let name = signal_name(status.signal().unwrap_or_default());
        (
            format!("SIGNAL_{name}"),
            true,
            format!("ended by signal {name}"),
        )
    };
    let message = if stderr.is_empty() { &what } else { stderr };
    Outcome::Failed(ItemError::handler(&reason, message, retryable))
}

/// The program wrote more than it may.
pub(super) fn too_large(output_bytes_max: usize) -> Outcome {
    let message = format!("the output has more than {output_bytes_max} bytes");
    Outcome::Failed(ItemError::of(Reason::OUTPUT_TOO_LARGE, &message))
}

/// The program was asked to stop. Why, and what that means for the item, the engine knows; here are its
/// last words, if it had any.
pub(super) fn stopped(stderr: &str) -> Outcome {
    Outcome::Failed(ItemError::of(Reason::INTERRUPTED, stderr))
}

/// Somebody else took the exit status, or it does not come.
pub(super) fn lost(error: &io::Error) -> Outcome {
    let message = format!("the exit status is lost: {error}");
    Outcome::Failed(ItemError::of(Reason::INTERRUPTED, &message))
}

/// The program could not be started.
pub(super) fn not_started(error: &io::Error, program: &Program) -> Outcome {
    let failure = ItemError::of(
        Reason::SPAWN_FAILED,
        &format!("cannot start {:?}: {error}", program.name()),
    );
    match Errno::from_io_error(error) {
        // Not failed: the item is innocent of what the system is short of.
        Some(Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOMEM) => {
            Outcome::Short(Shortage {
                error: failure,
                wait: EXHAUSTED_WAIT,
            })
        }
        Some(Errno::TOOBIG) if program.takes_input_as_argument() => {
            let message = "the input is too long for an argument";
            Outcome::Failed(ItemError::of(Reason::INPUT_TOO_LARGE, message))
        }
        _ => Outcome::Failed(failure),
    }
}

fn signal_name(number: i32) -> String {
    let name = signal_hook::low_level::signal_name(number);
    name.map_or_else(
        || number.to_string(),
        |name| name.trim_start_matches("SIG").to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::attempt::Code;
    use crate::handler::exec::Environment;

    fn error_of(outcome: Outcome) -> ItemError {
        match outcome {
            Outcome::Failed(error)
            | Outcome::FailedFor { error, .. }
            | Outcome::Released { error, .. }
            | Outcome::Short(Shortage { error, .. }) => error,
            Outcome::Succeeded(output) => panic!("succeeded with {output:?}"),
        }
    }

    #[test]
    fn exit_codes_and_signals_become_reasons() {
        for (wait_status, reason, retryable) in [
            (1 << 8, "EXIT_1", true),
            (64 << 8, "EXIT_64", false),
            (65 << 8, "EXIT_65", false),
            (66 << 8, "EXIT_66", false),
            (75 << 8, "EXIT_75", true),
            (77 << 8, "EXIT_77", false),
            (255 << 8, "EXIT_255", true),
            (6, "SIGNAL_ABRT", true),
            (9, "SIGNAL_KILL", true),
            (11, "SIGNAL_SEGV", true),
            (15, "SIGNAL_TERM", true),
            (0x8b, "SIGNAL_SEGV", true), // with a core dump
            (50, "SIGNAL_50", true),
        ] {
            let error = error_of(failed(ExitStatus::from_raw(wait_status), ""));
            assert_eq!((&*error.reason, error.retryable), (reason, retryable));
            assert_eq!(error.code, Code::ABORTED);
            assert!(!error.message.is_empty());
        }
        assert_eq!(
            &*error_of(failed(ExitStatus::from_raw(256), "boom")).message,
            "boom"
        );
    }

    #[test]
    fn a_system_that_is_short_of_something_costs_no_attempt() {
        let program = |argv: &[&str]| {
            let argv: Vec<String> = argv.iter().map(ToString::to_string).collect();
            Program::find(&argv, &Environment::Inherit).unwrap_or_else(|error| panic!("{error}"))
        };
        let (plain, by_argument) = (program(&["cat"]), program(&["echo", "{}"]));
        for errno in [Errno::AGAIN, Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            let outcome = not_started(&errno.into(), &plain);
            assert!(matches!(&outcome, Outcome::Short(it) if it.wait == EXHAUSTED_WAIT));
            assert_eq!(&*error_of(outcome).reason, "SPAWN_FAILED");
        }
        for (errno, program, reason, retryable) in [
            (Errno::NOENT, &plain, "SPAWN_FAILED", true),
            (Errno::ACCESS, &by_argument, "SPAWN_FAILED", true),
            // Not the input: the command or the environment is what does not fit.
            (Errno::TOOBIG, &plain, "SPAWN_FAILED", true),
            (Errno::TOOBIG, &by_argument, "INPUT_TOO_LARGE", false),
        ] {
            let outcome = not_started(&errno.into(), program);
            assert!(matches!(outcome, Outcome::Failed(_)), "{errno}");
            let error = error_of(outcome);
            assert_eq!(
                (&*error.reason, error.retryable),
                (reason, retryable),
                "{errno}"
            );
        }
    }
}
