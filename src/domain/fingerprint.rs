//! The fingerprint of a submission's content: equal content, equal fingerprint.
//!
//! It is taken of the decoded content, because the bytes of a protobuf message are not canonical.
//! Every part is preceded by its length or its presence, so that no two contents run into the same
//! bytes; an unset field differs from its default written out. The first byte is the version of
//! this layout: a change of layout needs a new one, or old submissions could not be repeated.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::domain::failures::FailureAction;
use crate::domain::ids::{BatchId, QueueName};
use crate::domain::item::{ItemSpec, ItemTime};
use crate::domain::payload::{Body, Payload};
use crate::domain::retry::RetrySettings;
use crate::domain::settings::BatchOptions;

const LAYOUT_VERSION: u8 = 1;

const REDRIVE_LAYOUT_VERSION: u8 = 0x81;

/// A SHA-256 of a submission's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

/// The fingerprint of what a submission asks for: its queue, its settings and its items. Its keys
/// (batch id and request id) and how its caller wants to read it are not part of it.
pub fn fingerprint(
    queue: Option<&QueueName>,
    options: &BatchOptions,
    items: &[ItemSpec],
) -> Fingerprint {
    let mut hash = Hash(Sha256::new());
    hash.0.update([LAYOUT_VERSION]);
    hash.presence(queue, |hash, queue| hash.bytes(queue.as_str().as_bytes()));
    hash.duration(options.item_timeout);
    hash.retry(&options.retry);
    hash.map(&options.labels);
    hash.count(items.len());
    for item in items {
        hash.presence(item.id.as_deref(), |hash, id| hash.bytes(id.as_bytes()));
        hash.payload(&item.input);
        hash.duration(item.timeout);
        hash.retry(&item.retry);
        hash.map(&item.attributes);
    }
    hash.later_options(options);
    hash.item_times(items);
    Fingerprint(hash.0.finalize().into())
}

/// The fingerprint of a redrive: the batch it takes dead letters of, and which. The first byte tells
/// it from a submission.
pub fn redrive_fingerprint(
    source: &BatchId,
    queue: Option<&QueueName>,
    reason: Option<&str>,
    item_ids: &[Box<str>],
) -> Fingerprint {
    let mut hash = Hash(Sha256::new());
    hash.0.update([REDRIVE_LAYOUT_VERSION]);
    hash.bytes(source.as_str().as_bytes());
    hash.presence(queue, |hash, queue| hash.bytes(queue.as_str().as_bytes()));
    hash.presence(reason, |hash, reason| hash.bytes(reason.as_bytes()));
    hash.count(item_ids.len());
    for id in item_ids {
        hash.bytes(id.as_bytes());
    }
    Fingerprint(hash.0.finalize().into())
}

struct Hash(Sha256);

impl Hash {
    fn count(&mut self, count: usize) {
        self.0.update((count as u64).to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.update(bytes);
    }

    fn presence<T>(&mut self, value: Option<T>, hash: impl FnOnce(&mut Self, T)) {
        self.0.update([u8::from(value.is_some())]);
        if let Some(value) = value {
            hash(self, value);
        }
    }

    fn duration(&mut self, duration: Option<Duration>) {
        self.presence(duration, |hash, duration| {
            hash.0.update(duration.as_nanos().to_le_bytes());
        });
    }

    /// Options that came after the layout: only what is set, each behind its number, so that a
    /// submission without them has the fingerprint that it always had. They come last: what is before
    /// them tells where it ends, and in its midst an option could pass for a count of items.
    fn later_options(&mut self, options: &BatchOptions) {
        let mut set = vec![
            (options.priority != 0).then(|| (1, i128::from(options.priority))),
            options.not_before.map(|at| (2, at.0.into())),
            options.max_parallelism.map(|most| (3, most.into())),
            options.deadline.map(|at| (4, at.0.into())),
            options
                .max_duration
                .map(|most| (5, most.as_nanos().cast_signed())),
            options.enough.map(|enough| (6, enough.into())),
            options.at_most_once.then_some((11, 1)),
            options
                .retention
                .map(|time| (12, time.as_nanos().cast_signed())),
        ];
        if let Some(policy) = &options.failure_policy {
            set.extend([
                Some((7, i128::from(policy.action == FailureAction::Cancel))),
                policy.max_failed_items.map(|most| (8, most.into())),
                policy
                    .max_failed_ratio
                    .map(|most| (9, most.to_bits().into())),
                policy.min_items.map(|least| (10, least.into())),
            ]);
        }
        for (number, value) in set.into_iter().flatten() {
            self.0.update([b'+', number]);
            self.0.update(value.to_le_bytes());
        }
    }

    /// The items' own times, each behind its item's index: they came later still.
    fn item_times(&mut self, items: &[ItemSpec]) {
        for (index, item) in items.iter().enumerate() {
            for kind in ItemTime::ALL {
                if let Some(at) = kind.of(item) {
                    self.0.update([b'#', kind as u8]);
                    self.count(index);
                    self.0.update(at.0.to_le_bytes());
                }
            }
        }
    }

    fn number(&mut self, number: Option<f64>) {
        self.presence(number, |hash, number| {
            hash.0.update(number.to_bits().to_le_bytes());
        });
    }

    fn map(&mut self, map: &BTreeMap<Box<str>, Box<str>>) {
        self.count(map.len());
        for (key, value) in map {
            self.bytes(key.as_bytes());
            self.bytes(value.as_bytes());
        }
    }

    fn payload(&mut self, payload: &Payload) {
        self.0.update([match payload.body {
            Body::Data(_) => 0,
            Body::Text(_) => 1,
        }]);
        self.bytes(payload.bytes());
        self.bytes(payload.content_type.as_bytes());
    }

    fn retry(&mut self, retry: &RetrySettings) {
        self.number(retry.max_attempts.map(f64::from));
        self.duration(retry.initial_backoff);
        self.duration(retry.max_backoff);
        self.number(retry.multiplier);
        self.number(retry.jitter);
        self.number(retry.max_crashes.map(f64::from));
        self.count(retry.non_retryable_reasons.len());
        for reason in &retry.non_retryable_reasons {
            self.bytes(reason.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Timestamp;
    use crate::domain::failures::FailurePolicy;

    fn of(items: &[ItemSpec]) -> Fingerprint {
        fingerprint(None, &BatchOptions::default(), items)
    }

    fn item(text: &str) -> ItemSpec {
        ItemSpec {
            input: Payload::text(text),
            ..ItemSpec::default()
        }
    }

    #[test]
    fn content_that_differs_anywhere_differs() {
        let with_id = ItemSpec {
            id: Some("a".into()),
            ..item("a")
        };
        let data = ItemSpec {
            input: Payload::data("a".as_bytes()),
            ..ItemSpec::default()
        };
        let timed = ItemSpec {
            timeout: Some(Duration::from_secs(1)),
            ..item("a")
        };
        let retried = ItemSpec {
            retry: RetrySettings {
                max_attempts: Some(3),
                ..RetrySettings::default()
            },
            ..item("a")
        };
        let contents = [
            vec![item("a")],
            vec![item("a"), item("")],
            vec![item(""), item("a")],
            vec![with_id],
            vec![data],
            vec![timed],
            vec![retried],
            vec![item("a").with_start_by(Timestamp(1))],
            vec![item("a").with_finish_by(Timestamp(1))],
            vec![item("a").with_finish_by(Timestamp(2))],
            vec![item("a").with_finish_by(Timestamp(1)), item("b")],
            vec![item("a"), item("b").with_finish_by(Timestamp(1))],
        ];
        for (i, left) in contents.iter().enumerate() {
            for (j, right) in contents.iter().enumerate() {
                assert_eq!(of(left) == of(right), i == j, "{i} and {j}");
            }
        }
    }

    // Later options once stood before the items, whose count could look like one: the least byte of
    // 1,835 is an option's mark and the next its number, and an empty item goes on as its value.
    #[test]
    fn no_option_passes_for_a_count_of_items() {
        let policy = BatchOptions {
            failure_policy: Some(FailurePolicy::default()),
            ..BatchOptions::default()
        };
        // A type of one byte is the mark of B's id; a limit of 294 << 8 ns, behind its presence, is
        // the length of that id; and the id is what is left of the 1,835 items, padded to that length.
        let mut first = ItemSpec {
            timeout: Some(Duration::from_nanos(294)),
            ..ItemSpec::default()
        };
        first.input.content_type = "\u{1}".into();
        let mut items = vec![ItemSpec::default(); 1835];
        items[0] = first;
        items[1].input = Payload::data(vec![0; 80]);
        // From the rest of the limit to the length of the second item's input; then that, and zeros.
        let mut id = vec![0; 294 * 256 + 1];
        id[9 + 14 + 8 + 2] = 80;
        let named = ItemSpec {
            id: Some(String::from_utf8(id).unwrap().into()),
            ..ItemSpec::default()
        };
        assert_ne!(of(&items), fingerprint(None, &policy, &[named]));
    }

    #[test]
    fn the_layout_is_the_one_on_disk() {
        let Fingerprint(bytes) = of(&[item("a")]);
        assert_eq!(
            u64::from_be_bytes(*bytes.first_chunk().unwrap()),
            0x041d_ff10_3392_7c00,
            "a new layout needs a new version"
        );
    }
}
