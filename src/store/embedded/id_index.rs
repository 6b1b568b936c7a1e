//! Which item ids an open upload has used: so that none comes twice, however long the upload is.
//!
//! Ids are known by their 64-bit hash. Those of the newest items are kept in memory, sorted; once
//! there are enough of them they become a run in the table `item_ids`, written in one sequential
//! sweep, and leave only a trace in a filter. So an upload of any length costs a bounded set and a
//! few bytes an item while it is open, and a duplicate is found without a look at every run.

use std::collections::BTreeSet;

use crate::base::limits;

/// A hash of an item id and the item's index. Hashes may collide; who finds one compares the ids.
pub(crate) type Entry = (i64, u32);

/// The ids of one open upload.
#[derive(Debug, Default)]
pub(crate) struct IdIndex {
    /// Whether its items have ids of their own; unknown before the first.
    named: Option<bool>,
    /// Those in no run yet.
    pending: BTreeSet<Entry>,
    /// Those in a run that is not durable yet.
    flushing: BTreeSet<Entry>,
    /// Those in runs.
    written: Filter,
}

/// The items that may have an id's hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Suspects {
    /// Items in no run.
    pub(crate) indexes: Vec<u32>,
    /// Whether the runs may hold it too.
    pub(crate) in_runs: bool,
}

impl Suspects {
    pub(crate) fn is_empty(&self) -> bool {
        self.indexes.is_empty() && !self.in_runs
    }
}

impl IdIndex {
    /// Whether the upload's items have ids of their own; unknown before the first item.
    pub(crate) fn named(&self) -> Option<bool> {
        self.named
    }

    /// Who may have this hash already.
    pub(crate) fn suspects(&self, hash: i64) -> Suspects {
        let same = (hash, 0)..=(hash, u32::MAX);
        let unwritten = self.pending.range(same.clone());
        Suspects {
            indexes: unwritten
                .chain(self.flushing.range(same))
                .map(|&(_, index)| index)
                .collect(),
            in_runs: self.written.may_hold(hash),
        }
    }

    /// Notes items that were appended, with their hashes if they have ids.
    pub(crate) fn append(&mut self, entries: Option<impl IntoIterator<Item = Entry>>) {
        self.named = Some(entries.is_some());
        self.pending.extend(entries.into_iter().flatten());
    }

    /// Whether it is time for a run.
    pub(crate) fn is_run_due(&self) -> bool {
        self.pending.len() >= limits::ID_RUN_ITEMS
    }

    /// The next run, sorted, to be written in the transaction under way.
    pub(crate) fn take_run(&mut self) -> Vec<Entry> {
        let run: Vec<_> = std::mem::take(&mut self.pending).into_iter().collect();
        for &(hash, _) in &run {
            self.written.insert(hash);
        }
        self.flushing.extend(&run);
        run
    }

    /// The transaction is durable.
    pub(crate) fn committed(&mut self) {
        self.flushing.clear();
    }

    /// The transaction was rolled back: the upload has `total` items again.
    pub(crate) fn take_back(&mut self, total: u32) {
        // What the filter says too much costs a look, nothing else.
        self.pending.append(&mut self.flushing);
        self.pending.retain(|&(_, index)| index < total);
        if total == 0 {
            self.named = None;
        }
    }

    /// Notes a hash that a run of an earlier process holds.
    pub(crate) fn found_written(&mut self, hash: i64) {
        self.named = Some(true);
        self.written.insert(hash);
    }
}

/// A Bloom filter that grows: layers of twice the size each, 16 bits an entry and 6 probes, which
/// finds 1 in 1,000 strangers guilty (Bloom, "Space/time trade-offs in hash coding", 1970).
#[derive(Debug, Default)]
struct Filter {
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    bits: Box<[u64]>,
    room: usize,
}

const BITS_PER_ENTRY: usize = 16;
const PROBES: u64 = 6;

impl Filter {
    fn insert(&mut self, hash: i64) {
        if self.layers.last().is_none_or(|layer| layer.room == 0) {
            let entries = limits::ID_RUN_ITEMS << self.layers.len().min(16);
            self.layers.push(Layer {
                bits: vec![0; entries * BITS_PER_ENTRY / 64].into(),
                room: entries,
            });
        }
        let layer = self.layers.last_mut().expect("a layer was added");
        layer.room -= 1;
        for (word, bit) in probes(hash, layer.bits.len()) {
            layer.bits[word] |= bit;
        }
    }

    fn may_hold(&self, hash: i64) -> bool {
        let holds = |layer: &Layer| {
            probes(hash, layer.bits.len()).all(|(word, bit)| layer.bits[word] & bit != 0)
        };
        self.layers.iter().any(holds)
    }
}

/// The places of a hash in `words` words: its halves are two hashes, combined as in Kirsch and
/// Mitzenmacher, "Less hashing, same performance" (2006).
fn probes(hash: i64, words: usize) -> impl Iterator<Item = (usize, u64)> {
    let hash = hash.cast_unsigned();
    let (start, step) = (hash & 0xFFFF_FFFF, (hash >> 32) | 1);
    let bits = words as u64 * 64;
    (0..PROBES).map(move |probe| {
        let at = start.wrapping_add(probe.wrapping_mul(step)) % bits;
        let word = usize::try_from(at / 64).expect("a word of memory has an address");
        (word, 1 << (at % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(index: u32) -> i64 {
        // SplitMix64, so that neighbours are strangers.
        let mut z = u64::from(index).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)).cast_signed()
    }

    #[test]
    fn every_id_is_suspected_wherever_it_is() {
        let mut ids = IdIndex::default();
        let count = 3 * u32::try_from(limits::ID_RUN_ITEMS).unwrap() + 7;
        for index in 0..count {
            ids.append(Some([(hash(index), index)]));
            if ids.is_run_due() {
                let run = ids.take_run();
                assert!(run.is_sorted(), "a run is written in order");
                ids.committed();
            }
        }
        assert_eq!(ids.pending.len(), 7, "memory holds what no run holds");
        assert!((0..count).all(|index| !ids.suspects(hash(index)).is_empty()));
        let strangers = (count..2 * count).filter(|&index| ids.suspects(hash(index)).in_runs);
        assert!(
            strangers.count() < 1000,
            "three layers of 1 in 1,000 each find at most 600 of 200,000 guilty"
        );
    }

    #[test]
    fn what_is_rolled_back_is_unknown_again() {
        let mut ids = IdIndex::default();
        ids.append(Some([(5, 0), (6, 1)]));
        assert_eq!(ids.take_run(), [(5, 0), (6, 1)]);
        assert_eq!(ids.suspects(6).indexes, [1], "not durable is not lost");
        ids.append(Some([(7, 2)]));
        ids.take_back(1);
        assert_eq!(ids.suspects(5).indexes, [0]);
        assert!(ids.suspects(7).is_empty());
        assert_eq!(ids.suspects(6).indexes, [] as [u32; 0]);
        ids.take_back(0);
        assert_eq!(ids.named(), None);
    }
}
