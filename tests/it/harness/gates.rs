//! Gates that items wait at, so that a story decides when each item ends.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use sooner::wire::ItemSpec;

use super::{ServerSetup, item, within};

/// Named pipes. An item whose input is the path of one runs `cat` on it: it ends when the gate is
/// opened, its output is the gate's name, and before that nothing but a signal ends it.
#[derive(Debug)]
pub(crate) struct Gates {
    dir: PathBuf,
}

/// A gate with an item at it. Dropped unopened, it lets the item through with an empty output.
#[derive(Debug)]
pub(crate) struct Gate {
    name: String,
    pipe: File,
}

impl ServerSetup {
    /// A server whose items wait at gates, `slots` at once, with more configuration in front.
    pub(crate) fn gated(slots: usize, config: &str) -> Self {
        Self::new(&format!(
            "{config}\n[queues.default]\nhandler = {{ exec = [\"cat\", \"{{}}\"] }}\nslots = {slots}\nkill_grace = \"200ms\"\n"
        ))
    }
}

impl Gates {
    /// Shut gates of these names.
    pub(crate) fn new<'a>(setup: &ServerSetup, names: impl IntoIterator<Item = &'a str>) -> Self {
        let gates = Self { dir: setup.path("gates") };
        std::fs::create_dir_all(&gates.dir).unwrap();
        let paths = names.into_iter().map(|name| gates.dir.join(name));
        let made = Command::new("mkfifo").args(paths).status().unwrap();
        assert!(made.success());
        gates
    }

    /// An item, named like the gate it waits at.
    pub(crate) fn item(&self, name: &str) -> ItemSpec {
        let path = self.dir.join(name).display().to_string();
        ItemSpec { item_id: name.to_owned(), ..item(path) }
    }

    /// An item of that name that meets no gate.
    pub(crate) fn free_item(&self, name: &str) -> ItemSpec {
        std::fs::write(self.dir.join(name), name).unwrap();
        self.item(name)
    }

    /// The gate, once an item is at it: its attempt runs and cannot end by itself.
    pub(crate) async fn arrival(&self, name: &str) -> Gate {
        let path = self.dir.join(name);
        let (opened, pipe) = tokio::sync::oneshot::channel();
        // Opening waits for the item. A thread that waits in vain ends with the process.
        std::thread::spawn(move || opened.send(File::options().write(true).open(path)));
        Gate { name: name.to_owned(), pipe: within(pipe).await.unwrap().unwrap() }
    }

    /// Waits for the item and lets it through.
    pub(crate) async fn open(&self, name: &str) {
        self.arrival(name).await.open();
    }
}

impl Gate {
    /// Lets the item through.
    pub(crate) fn open(mut self) {
        self.pipe.write_all(self.name.as_bytes()).unwrap();
    }
}
