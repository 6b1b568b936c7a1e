//! One bit per item: which items are terminal.

/// A growing set of small numbers, one bit each: ten million items take 1.3 MB.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    /// Whether `index` is in the set.
    pub(crate) fn contains(&self, index: u32) -> bool {
        let (word, bit) = place(index);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Puts `index` into the set.
    pub(crate) fn insert(&mut self, index: u32) {
        let (word, bit) = place(index);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= bit;
    }

    /// Takes `index` out of the set.
    pub(crate) fn remove(&mut self, index: u32) {
        let (word, bit) = place(index);
        if let Some(word) = self.words.get_mut(word) {
            *word &= !bit;
        }
    }

    /// The first number from `from` on that is not in the set.
    pub(crate) fn first_absent(&self, from: u32) -> u32 {
        let (first, _) = place(from);
        for (at, &word) in self.words.iter().enumerate().skip(first) {
            let below = if at == first {
                (1 << (from % 64)) - 1
            } else {
                0
            };
            let open = !(word | below);
            if open != 0 {
                let base = u32::try_from(at * 64).expect("indexes fit into 32 bits");
                return base + open.trailing_zeros();
            }
        }
        let end = u32::try_from(self.words.len() * 64).unwrap_or(u32::MAX);
        from.max(end)
    }
}

fn place(index: u32) -> (usize, u64) {
    (index as usize / 64, 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_set_holds(
            inserted in prop::collection::vec(0u32..300, 0..200),
            removed in prop::collection::vec(0u32..300, 0..20),
            from in 0u32..400,
        ) {
            let (mut bitmap, mut set) = (Bitmap::default(), BTreeSet::new());
            for index in inserted {
                bitmap.insert(index);
                set.insert(index);
            }
            for index in removed {
                bitmap.remove(index);
                set.remove(&index);
            }
            prop_assert!((0..400).all(|index| bitmap.contains(index) == set.contains(&index)));
            let absent = (from..500).find(|index| !set.contains(index));
            prop_assert_eq!(Some(bitmap.first_absent(from)), absent);
        }
    }
}
