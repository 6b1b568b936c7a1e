//! Gates that items wait at, so that a story decides when each item ends.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use sooner::wire::ItemSpec;

use super::{ServerSetup, item, within};

/// Named pipes. An item whose input is the path of one runs `cat` on it: it ends when the gate is
/// opened, its output is the gate's name, and before that nothing but a signal ends it.
///
/// A story that kills its server should wait for all arrivals first and drop them after the kill:
/// then nothing the dead server left behind stands at a gate. Dropping the gates lets go whoever
/// still does.
#[derive(Debug)]
pub(crate) struct Gates {
    dir: PathBuf,
    pipes: Vec<PathBuf>,
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
        Self::in_directory(setup.path("gates"), names)
    }

    /// Shut gates in a directory of their own.
    pub(crate) fn in_directory<'a>(dir: PathBuf, names: impl IntoIterator<Item = &'a str>) -> Self {
        std::fs::create_dir_all(&dir).unwrap();
        let pipes: Vec<_> = names.into_iter().map(|name| dir.join(name)).collect();
        let made = Command::new("mkfifo").args(&pipes).status().unwrap();
        assert!(made.success());
        Self { dir, pipes }
    }

    /// What an item reads that waits at a gate.
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// What an item reads that meets no gate.
    pub(crate) fn free_path(&self, name: &str) -> String {
        std::fs::write(self.dir.join(name), name).unwrap();
        self.path(name)
    }

    /// An item, named like the gate it waits at.
    pub(crate) fn item(&self, name: &str) -> ItemSpec {
        ItemSpec {
            item_id: name.to_owned(),
            ..item(self.path(name))
        }
    }

    /// An item of that name that meets no gate.
    pub(crate) fn free_item(&self, name: &str) -> ItemSpec {
        ItemSpec {
            item_id: name.to_owned(),
            ..item(self.free_path(name))
        }
    }

    /// The gate, once an item is at it: its attempt runs and cannot end by itself.
    pub(crate) async fn arrival(&self, name: &str) -> Gate {
        let path = self.dir.join(name);
        let (opened, pipe) = tokio::sync::oneshot::channel();
        // Opening waits for the item. A thread that waits in vain ends with the process.
        std::thread::spawn(move || opened.send(File::options().write(true).open(path)));
        Gate {
            name: name.to_owned(),
            pipe: within(pipe).await.unwrap().unwrap(),
        }
    }

    /// Waits for the item and lets it through.
    pub(crate) async fn open(&self, name: &str) {
        self.arrival(name).await.open();
    }
}

impl Drop for Gates {
    fn drop(&mut self) {
        for pipe in &self.pipes {
            // Opened for both, a pipe waits for nobody and wakes whoever waits for the other end.
            File::options().read(true).write(true).open(pipe).ok();
        }
    }
}

impl Gate {
    /// Lets the item through.
    pub(crate) fn open(mut self) {
        self.pipe.write_all(self.name.as_bytes()).unwrap();
    }
}
