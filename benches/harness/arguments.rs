//! The arguments that every bench takes.

use tokio::runtime::Runtime;

use sooner::base::tasks::{self, Tasks};

/// How long a bench waits for anything before it gives up.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(600);

/// What every bench can be told.
#[derive(Clone, Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(crate) struct Common {
    /// Runs only if the bench's name contains this, so that `cargo bench NAME` runs one
    filter: Option<String>,

    /// Prints one JSON object in place of the screen
    #[arg(long)]
    pub(crate) json: bool,

    /// How often each side is measured, in turns
    #[arg(long, value_name = "N")]
    pub(crate) repetitions: Option<usize>,

    /// Tiny sizes: shows that the bench works, not how fast anything is
    #[arg(long)]
    test: bool,

    // `cargo bench` says the first; `cargo test --benches` may say the others.
    #[arg(long, hide = true)]
    bench: bool,
    #[arg(long, hide = true)]
    nocapture: bool,
    #[arg(long, hide = true)]
    list: bool,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Enough to tell something.
    Full,
    /// Enough to run every line once.
    Tiny,
}

impl Common {
    /// How much the bench `name` is asked to measure; `None` if it is not asked to run at all.
    ///
    /// Without cargo's `--bench` it is a test, as other harnesses have it.
    pub(crate) fn scale(&self, name: &str) -> Option<Scale> {
        let wanted = self.filter.as_ref().is_none_or(|part| name.contains(part));
        let tiny = self.test || !self.bench;
        (wanted && !self.list).then_some(if tiny { Scale::Tiny } else { Scale::Full })
    }
}

impl Scale {
    /// What was asked for, or else the size that fits.
    pub(crate) fn size(self, asked: Option<usize>, full: usize, tiny: usize) -> usize {
        asked.unwrap_or(match self {
            Self::Full => full,
            Self::Tiny => tiny,
        })
    }
}

/// The client's threads: one, because the server wants the other core.
pub(crate) fn runtime() -> (Runtime, Tasks) {
    let runtime = tasks::runtime("bench", 1).expect("the system has a thread to give");
    let tasks = Tasks::on(runtime.handle().clone());
    (runtime, tasks)
}
