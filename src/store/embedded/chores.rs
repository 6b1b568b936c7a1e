//! What is done a chunk a group, at low priority: the records of batches that end early, and the
//! copies of dead letters, which wait while there is no room for them.

use std::collections::VecDeque;

use crate::domain::ids::{BatchNo, Tenant};

/// What is to be done that nobody waits for.
#[derive(Debug, Default)]
pub(crate) struct Chores {
    /// Cancelled batches whose remaining items have no record yet, in turn.
    pub(crate) sweeps: VecDeque<BatchNo>,
    /// Redrives whose dead letters are not all copied yet.
    pub(crate) copies: Copying,
}

/// A chunk of each chore, and what is left of it once it is staged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chunks {
    pub(super) sweep: Option<(BatchNo, bool)>,
    pub(super) copy: Option<(BatchNo, Left)>,
}

/// What is left of a redrive's letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// None.
    Nothing,
    /// Some, which can be copied next.
    More,
    /// Some, which can be copied once there is room for the next one.
    Waits(Letter),
}

/// What a dead letter that waits to be copied asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    /// Whose it is.
    pub(crate) tenant: Tenant,
    /// Bytes of its input.
    pub(crate) bytes: u64,
    /// Whether others took the room before its turn came, so that it keeps its place in line.
    pub(crate) in_vain: bool,
}

/// Redrives whose dead letters are not all copied yet.
#[derive(Debug, Default)]
pub(crate) struct Copying {
    /// Those that go on, in turn.
    ready: VecDeque<BatchNo>,
    /// Those for whose next letter there is no room, by tenant. The first of a line goes on first.
    lines: VecDeque<(Tenant, Line)>,
}

/// A tenant's redrives that wait.
type Line = VecDeque<(BatchNo, u64)>;

impl Copying {
    /// All of those go on, for all that is known.
    pub(crate) fn of(batches: impl IntoIterator<Item = BatchNo>) -> Self {
        Self {
            ready: batches.into_iter().collect(),
            lines: VecDeque::new(),
        }
    }

    /// The one whose turn it is.
    pub(crate) fn first(&self) -> Option<BatchNo> {
        self.ready.front().copied()
    }

    /// Takes up what is left of a redrive.
    pub(crate) fn put(&mut self, batch: BatchNo, left: Left) {
        match left {
            Left::Nothing => {}
            Left::More => self.ready.push_back(batch),
            Left::Waits(letter) => self.line_up(batch, letter),
        }
    }

    fn line_up(&mut self, batch: BatchNo, letter: Letter) {
        let Letter {
            tenant,
            bytes,
            in_vain,
        } = letter;
        let line = self.lines.iter_mut().find(|(whose, _)| *whose == tenant);
        match (line, in_vain) {
            (Some((_, line)), false) => line.push_back((batch, bytes)),
            (Some((_, line)), true) => line.push_front((batch, bytes)),
            (None, false) => self.lines.push_back((tenant, Line::from([(batch, bytes)]))),
            (None, true) => self
                .lines
                .push_front((tenant, Line::from([(batch, bytes)]))),
        }
    }

    /// Takes away the one whose turn it was.
    pub(crate) fn take_first(&mut self) -> Option<BatchNo> {
        self.ready.pop_front()
    }

    /// Gives a redrive that ended early the next turn: it only lets go of its source, wherever it is.
    pub(crate) fn hurry(&mut self, batch: BatchNo) {
        let known = self.ready.len() + self.waiting();
        self.ready.retain(|&other| other != batch);
        for (_, line) in &mut self.lines {
            line.retain(|&(other, _)| other != batch);
        }
        self.lines.retain(|(_, line)| !line.is_empty());
        if self.ready.len() + self.waiting() < known {
            self.ready.push_front(batch);
        }
    }

    /// Lets the first of each tenant's line go on if there is room for its next letter.
    pub(crate) fn wake(&mut self, mut has_room: impl FnMut(&Tenant, u64) -> bool) {
        for _ in 0..self.lines.len() {
            let Some((tenant, mut line)) = self.lines.pop_front() else {
                return;
            };
            if let Some(&(batch, bytes)) = line.front()
                && has_room(&tenant, bytes)
            {
                line.pop_front();
                self.ready.push_back(batch);
            }
            if !line.is_empty() {
                self.lines.push_back((tenant, line));
            }
        }
    }

    /// How many wait.
    fn waiting(&self) -> usize {
        self.lines.iter().map(|(_, line)| line.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(tenant: &str, bytes: u64) -> Left {
        let (tenant, in_vain) = (Tenant::parse(tenant).unwrap(), false);
        Left::Waits(Letter {
            tenant,
            bytes,
            in_vain,
        })
    }

    fn waits_in_vain(tenant: &str, bytes: u64) -> Left {
        let (tenant, in_vain) = (Tenant::parse(tenant).unwrap(), true);
        Left::Waits(Letter {
            tenant,
            bytes,
            in_vain,
        })
    }

    fn in_turn(copying: &mut Copying) -> Vec<u32> {
        std::iter::from_fn(|| copying.take_first())
            .map(|no| no.0)
            .collect()
    }

    #[test]
    fn one_goes_on_of_each_tenant_that_has_room_and_in_the_order_in_which_they_came() {
        let mut copying = Copying::of([BatchNo(1)]);
        copying.put(BatchNo(2), waits("a", 5));
        copying.put(BatchNo(3), waits("a", 1));
        copying.put(BatchNo(4), waits("b", 5));
        copying.put(BatchNo(5), Left::Nothing);
        copying.wake(|_, bytes| bytes < 5);
        assert_eq!(in_turn(&mut copying), [1], "the first of a line goes first");
        copying.wake(|tenant, _| tenant.as_str() == "a");
        assert_eq!(in_turn(&mut copying), [2]);
        copying.wake(|_, _| true);
        assert_eq!(in_turn(&mut copying), [3, 4]);
        copying.wake(|_, _| true);
        assert_eq!(copying.first(), None, "each was told once");
    }

    #[test]
    fn whoever_was_woken_in_vain_keeps_its_place() {
        let mut copying = Copying::default();
        for no in 1..=3 {
            copying.put(BatchNo(no), waits("a", 1));
        }
        copying.put(BatchNo(4), waits("b", 1));
        copying.wake(|_, _| true);
        assert_eq!(in_turn(&mut copying), [1, 4]);
        copying.put(BatchNo(1), waits("a", 1));
        copying.put(BatchNo(4), waits_in_vain("b", 1));
        copying.wake(|_, _| true);
        assert_eq!(
            in_turn(&mut copying),
            [4, 2],
            "it comes before other tenants"
        );
        copying.put(BatchNo(2), waits_in_vain("a", 1));
        copying.wake(|_, _| true);
        assert_eq!(in_turn(&mut copying), [2], "and before its tenant's others");
        copying.wake(|_, _| true);
        copying.wake(|_, _| true);
        assert_eq!(in_turn(&mut copying), [3, 1]);
    }

    #[test]
    fn whoever_ended_early_is_first_and_nobody_is_invented() {
        let mut copying = Copying::of([BatchNo(1), BatchNo(2)]);
        copying.put(BatchNo(3), waits("a", 5));
        copying.hurry(BatchNo(9));
        copying.hurry(BatchNo(2));
        copying.hurry(BatchNo(3));
        assert_eq!(in_turn(&mut copying), [3, 2, 1]);
        copying.wake(|_, _| true);
        assert_eq!(copying.first(), None);
    }
}
