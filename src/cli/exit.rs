//! How the program ends. The numbers are a contract; scripts rely on them.

use std::process::ExitCode;

use crate::config::ConfigError;
use crate::error::{Error, ErrorKind};
use crate::server::StartError;
use crate::store::OpenError;

/// An exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    /// All is well; of a run: every item succeeded.
    Success = 0,
    /// Something failed that has no code of its own.
    Failed = 1,
    /// The command line, the input or the configuration is wrong, or the handler's command does not
    /// exist; of a server, that it found a request to be so.
    Usage = 2,
    /// An item failed or expired, or the batch did.
    ItemsFailed = 3,
    /// The batch was cancelled, or some of its items were.
    Cancelled = 4,
    /// It was not over within the time that was to be waited.
    NotYet = 5,
    /// The server has no such batch, item or call.
    NotFound = 6,
    /// The id is taken by other content, or the batch is not in a state for this.
    Conflict = 7,
    /// The server wants other credentials.
    Denied = 8,
    /// The server cannot be reached, or cannot serve, after several tries.
    Unavailable = 9,
    /// The server has no room for this now.
    Exhausted = 10,
    /// The store is damaged, or of a newer format.
    Damaged = 65,
    /// An input cannot be read.
    NoInput = 66,
    /// A port or a data directory is in use.
    InUse = 69,
    /// A bug.
    Internal = 70,
    /// A directory cannot be written.
    CannotCreate = 73,
    /// Reading or writing failed.
    Io = 74,
    /// Ended by Ctrl-C.
    Interrupted = 130,
    /// Ended by SIGHUP.
    HungUp = 129,
    /// Ended by SIGTERM.
    Terminated = 143,
}

/// Why a command failed: a line, and perhaps lines below it with the fields at fault and a hint.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    /// The same, with one more line.
    #[must_use]
    pub(super) fn and(mut self, line: &str) -> Self {
        self.message.push('\n');
        self.message.push_str(line);
        self
    }

    /// The input could not be read to its end: the system's fault, or that of a line in it.
    pub(super) fn of_input(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::InvalidData {
            Self::new(Exit::Usage, error.to_string())
        } else {
            Self::new(Exit::Io, format!("read the input: {error}"))
        }
    }
}

/// Standard output could not be written. That a reader has gone is nothing to speak of: then the
/// program ends as any filter does.
pub(super) fn of_output(error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        // Ends the process; what is left to do is only for systems where it cannot.
        signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGPIPE).ok();
    }
    Failure::new(Exit::Io, format!("write the output: {error}"))
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let exit = match &error {
            StartError::Bind(_, _, error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                Exit::InUse
            }
            // Such as an address this machine does not have.
            StartError::Handler(..) | StartError::Bind(..) | StartError::Unfinished(..) => {
                Exit::Usage
            }
            StartError::Store(error) => match error {
                OpenError::InUse(_) => Exit::InUse,
                OpenError::NotWritable(..) => Exit::CannotCreate,
                OpenError::Foreign(_) | OpenError::Damaged(_) => Exit::Damaged,
                OpenError::Io(..) | OpenError::Sqlite(..) => Exit::Io,
            },
        };
        Self::new(exit, error.to_string())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match error.kind() {
            ErrorKind::Invalid | ErrorKind::Precondition => Exit::Usage,
            ErrorKind::Corrupt => Exit::Damaged,
            ErrorKind::Internal => Exit::Internal,
            ErrorKind::NotFound
            | ErrorKind::Conflict
            | ErrorKind::OutOfRange
            | ErrorKind::Exhausted
            | ErrorKind::Unavailable
            | ErrorKind::Unknown
            | ErrorKind::Superseded
            | ErrorKind::Deadline => Exit::Io,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Io, error.to_string())
    }
}
