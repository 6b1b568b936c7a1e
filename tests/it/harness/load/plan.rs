//! What a load consists of: chance, the queues, and batches whose items' fates are known.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::super::ServerSetup;
use super::super::history::{Fate, Planned, Submit};
use sooner::wire::{CreateBatchRequest, ItemSpec, SubmitBatchRequest};

/// The queue that echoes.
pub(super) const ECHO: &str = "default";

/// The queue whose items succeed, fail, are slow, or succeed at the second attempt, as their input says.
pub(super) const EXEC: &str = "exec";

/// The handler notes each execution in one write, then does what its input says.
const CONFIG: &str = r#"
[queues.default]
handler = { echo = { delay = "2ms" } }
slots = 6

[queues.exec]
slots = 4
retry = { initial_backoff = "4ms", max_backoff = "20ms" }
kill_grace = "200ms"
handler = { exec = ["sh", "-c", '''
read -r kind rest
echo "$SOONER_IDEMPOTENCY_KEY $SOONER_ATTEMPT $PPID" >> executions
case $kind in
slow) sleep "0.0$rest" ;;
again) [ "$SOONER_ATTEMPT" -gt 1 ] || exit 1 ;;
fails) exit 1 ;;
wrong) exit 65 ;;
esac
printf "%s %s %s" "$kind" "$rest" "$SOONER_ATTEMPT"
'''] }
"#;

/// A server with the queues that a load needs.
pub(crate) fn setup() -> ServerSetup {
    ServerSetup::new(&format!("{CONFIG}{}", super::redriver::CONFIG))
}

/// The seed of this run: `SOONER_SEED`, or a new one. It is printed, and shown if the test fails.
pub(crate) fn seed(test: &str) -> u64 {
    let given = std::env::var("SOONER_SEED").ok();
    let seed = given.and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(0) >> 32);
    eprintln!("run it again: SOONER_SEED={seed} cargo test --test it -- --exact {test}");
    seed
}

/// Chance from a seed (xorshift64*).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice of that seed.
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbouring seeds must not begin alike, and zero would stay zero.
        Self((seed ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(0xD129_0B26_93FE_8D4D) | 1)
    }

    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number from `least` up to `most`.
    pub(crate) fn within(&mut self, least: u64, most: u64) -> u64 {
        least + (self.next() >> 16) % (most - least + 1)
    }

    /// Whether something happens that does so in `percent` of all cases.
    pub(crate) fn hits(&mut self, percent: u64) -> bool {
        self.within(1, 100) <= percent
    }

    /// One of several.
    pub(crate) fn choose<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let last = from.len().checked_sub(1)?;
        from.get(usize::try_from(self.within(0, last as u64)).ok()?)
    }

    /// A new batch under that key.
    pub(super) fn submit(&mut self, key: String) -> Arc<Submit> {
        let exec = self.hits(45);
        let large = !exec && self.hits(25);
        Arc::new(self.batch(key, exec, large))
    }

    fn batch(&mut self, key: String, exec: bool, large: bool) -> Submit {
        let count = match (exec, large) {
            (true, _) => self.within(1, 8),
            (_, true) => self.within(1, 6),
            (false, false) => self.within(1, 60),
        };
        let items = (0..count).map(|index| match (exec, large) {
            (true, _) => self.executed(index),
            (_, true) => echoed(format!("{key}.{index} ").repeat(7000)),
            (false, false) => echoed(format!("{key}.{index}")),
        });
        let items = items.collect();
        let (by_request_id, named) = (self.hits(20), self.hits(40));
        let queue = if exec { EXEC } else { ECHO };
        Submit {
            key,
            by_request_id,
            uploaded: false,
            queue,
            named,
            items,
        }
    }

    /// A new batch under that key that is uploaded.
    pub(super) fn upload(&mut self, key: String) -> Arc<Submit> {
        let exec = self.hits(30);
        // Often of chunks that do not fit into a connection's window: they are cut in their middle.
        let large = !exec && self.hits(50);
        Arc::new(Submit {
            by_request_id: false,
            uploaded: true,
            ..self.batch(key, exec, large)
        })
    }

    fn executed(&mut self, index: u64) -> Planned {
        let (kind, fate) = match self.within(1, 10) {
            1..=4 => ("ok", Fate::Succeeds),
            5..=7 => ("slow", Fate::Succeeds),
            8 => ("again", Fate::Succeeds),
            9 => ("fails", Fate::Fails("EXIT_1", 3)),
            _ => ("wrong", Fate::Fails("EXIT_65", 1)),
        };
        let rest = if kind == "slow" {
            self.within(10, 60)
        } else {
            index
        };
        Planned {
            input: format!("{kind} {rest}"),
            fate,
        }
    }
}

fn echoed(input: String) -> Planned {
    Planned {
        input,
        fate: Fate::Echoes,
    }
}

impl Submit {
    /// The same key with other content.
    pub(super) fn altered(&self) -> Arc<Self> {
        let mut items = self.items.clone();
        let (input, fate) = match items[0].fate {
            Fate::Echoes => ("altered", Fate::Echoes),
            Fate::Succeeds | Fate::Fails(..) => ("ok 77", Fate::Succeeds),
        };
        items.push(Planned {
            input: input.to_owned(),
            fate,
        });
        let key = self.key.clone();
        Arc::new(Self {
            key,
            items,
            uploaded: false,
            ..*self
        })
    }

    /// Its items as they are sent.
    pub(super) fn specs(&self) -> Vec<ItemSpec> {
        let items = self.items.iter().enumerate();
        let spec = |(index, item): (usize, &Planned)| ItemSpec {
            item_id: if self.named {
                self.item_id(index)
            } else {
                String::new()
            },
            ..super::super::item(item.input.as_str())
        };
        items.map(spec).collect()
    }

    fn keys(&self) -> (String, String) {
        if self.by_request_id {
            (String::new(), self.key.clone())
        } else {
            (self.key.clone(), String::new())
        }
    }

    /// The request that submits and follows it.
    pub(super) fn submit_request(&self) -> SubmitBatchRequest {
        let (batch_id, request_id) = self.keys();
        SubmitBatchRequest {
            batch_id,
            request_id,
            queue: self.queue.to_owned(),
            items: self.specs(),
            ..SubmitBatchRequest::default()
        }
    }

    /// The request that only submits it.
    pub(super) fn create_request(&self) -> CreateBatchRequest {
        let (batch_id, request_id) = self.keys();
        CreateBatchRequest {
            batch_id,
            request_id,
            queue: self.queue.to_owned(),
            items: self.specs(),
            ..CreateBatchRequest::default()
        }
    }
}
