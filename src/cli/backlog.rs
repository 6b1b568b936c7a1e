//! Items that were read and are not yet known to be durable on the server.
//!
//! They are kept to be sent again after a broken connection; the input itself may be a pipe. What is
//! kept is bounded: beyond it the input waits.

use std::collections::VecDeque;

use prost::Message as _;

use crate::wire::{ItemSpec, StreamItems};

/// Bytes that may be kept, but for the last message.
const KEPT_BYTES_MAX: usize = 8 << 20;

/// Messages that may be kept. A few under way hide the time that a commit takes. With more, they
/// would become small: what is read meanwhile is gathered into the next one.
const KEPT_MESSAGES_MAX: usize = 4;

/// The items.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    /// How many of the chunks were sent on this connection.
    sent: usize,
    /// How many items were read in all.
    read: u64,
    /// Items known to be durable.
    durable: u64,
    /// Items that go into a message at most; `None` leaves them as they were read.
    piece: Option<usize>,
}

#[derive(Debug)]
struct Chunk {
    message: StreamItems,
    bytes: usize,
    /// Whether the server has had a chance to compare it with what it has.
    was_sent: bool,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.message.first_index + self.message.items.len() as u64
    }
}

impl Backlog {
    /// Whether more may be read.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < KEPT_BYTES_MAX && self.chunks.len() < KEPT_MESSAGES_MAX
    }

    /// How many items were read in all.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// Whether the server has everything that was read.
    pub(super) fn is_durable(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Whether everything that was read was sent on this connection.
    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.chunks.len()
    }

    /// Takes the next items of the input.
    pub(super) fn push(&mut self, items: Vec<ItemSpec>) {
        let first_index = self.read;
        self.read += items.len() as u64;
        self.keep(StreamItems { first_index, items }, false);
    }

    /// Keeps items, in messages that are small enough.
    fn keep(&mut self, message: StreamItems, was_sent: bool) {
        let piece = self.piece.unwrap_or(usize::MAX).max(1);
        let mut first_index = message.first_index;
        let mut rest = message.items;
        while !rest.is_empty() {
            let behind = rest.split_off(rest.len().min(piece));
            let items = std::mem::replace(&mut rest, behind);
            let count = items.len() as u64;
            let message = StreamItems { first_index, items };
            first_index += count;
            let bytes = message.encoded_len();
            self.bytes += bytes;
            self.chunks.push_back(Chunk {
                message,
                bytes,
                was_sent,
            });
        }
    }

    /// The first message that is not durable was too much at once: from now on all are half as long.
    /// Answers false if it cannot be cut.
    pub(super) fn cut(&mut self) -> bool {
        let refused = self.chunks.iter().find(|chunk| chunk.end() > self.durable);
        let Some(count) = refused.map(|chunk| chunk.message.items.len()) else {
            return false;
        };
        if count < 2 {
            return false;
        }
        self.piece = Some(count / 2);
        (self.bytes, self.sent) = (0, 0);
        for chunk in std::mem::take(&mut self.chunks) {
            self.keep(chunk.message, chunk.was_sent);
        }
        true
    }

    /// A new connection, on which the server says how many items it has. Everything kept will be
    /// sent. Answers false if the server has lost items that it had confirmed.
    pub(super) fn begin_again(&mut self, durable: u64) -> bool {
        self.sent = 0;
        if durable < self.durable {
            return false;
        }
        self.confirm(durable);
        true
    }

    /// The next items to send, if there are any.
    pub(super) fn next(&mut self) -> Option<StreamItems> {
        let chunk = self.chunks.get_mut(self.sent)?;
        chunk.was_sent = true;
        self.sent += 1;
        let message = chunk.message.clone();
        self.forget_durable();
        Some(message)
    }

    /// The server has these items.
    pub(super) fn confirm(&mut self, durable: u64) {
        self.durable = self.durable.max(durable);
        self.forget_durable();
    }

    /// Nothing of it is wanted any more.
    pub(super) fn forget_all(&mut self) {
        self.chunks.clear();
        (self.bytes, self.sent) = (0, 0);
    }

    /// The item that the server means by its place in the message that begins with, or holds, the
    /// first one that is not durable.
    pub(super) fn index_of(&self, place: u64) -> Option<u64> {
        let refused = self
            .chunks
            .iter()
            .find(|chunk| chunk.end() > self.durable)?;
        Some(refused.message.first_index + place)
    }

    // Only what was sent: what the server had before this upload began is compared with the input.
    fn forget_durable(&mut self) {
        while let Some(first) = self.chunks.front()
            && first.was_sent
            && first.end() <= self.durable
        {
            self.bytes -= first.bytes;
            self.sent = self.sent.saturating_sub(1);
            self.chunks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(count: usize) -> Vec<ItemSpec> {
        vec![ItemSpec::default(); count]
    }

    fn sent(backlog: &mut Backlog) -> Vec<(u64, usize)> {
        std::iter::from_fn(|| backlog.next())
            .map(|message| (message.first_index, message.items.len()))
            .collect()
    }

    #[test]
    fn what_is_not_durable_is_sent_again() {
        let mut backlog = Backlog::default();
        backlog.push(items(3));
        backlog.push(items(2));
        assert_eq!(sent(&mut backlog), [(0, 3), (3, 2)]);
        backlog.confirm(3);
        assert!(backlog.is_sent() && !backlog.is_durable());
        // A message may be durable in part.
        assert!(backlog.begin_again(4));
        backlog.push(items(1));
        assert_eq!(sent(&mut backlog), [(3, 2), (5, 1)]);
        assert_eq!(backlog.index_of(1), Some(4));
        backlog.confirm(6);
        assert!(backlog.is_durable());
        assert!(!backlog.begin_again(5), "confirmed items are gone");
    }

    #[test]
    fn what_is_too_much_at_once_is_cut_and_what_follows_too() {
        let mut backlog = Backlog::default();
        backlog.push(items(3));
        backlog.push(items(8));
        sent(&mut backlog);
        backlog.confirm(3);
        assert!(backlog.cut());
        backlog.push(items(5));
        assert!(backlog.begin_again(3));
        assert_eq!(sent(&mut backlog), [(3, 4), (7, 4), (11, 4), (15, 1)]);
        assert!(backlog.cut() && backlog.cut());
        assert!(backlog.begin_again(14));
        assert_eq!(sent(&mut backlog), [(14, 1), (15, 1)]);
        assert!(!backlog.cut(), "an item is no further to be cut");
        backlog.confirm(16);
        assert!(backlog.is_durable() && backlog.bytes == 0);
    }

    #[test]
    fn what_the_server_had_before_is_sent_once_to_be_compared() {
        let mut backlog = Backlog::default();
        assert!(backlog.begin_again(100));
        backlog.push(items(60));
        backlog.push(items(60));
        assert!(!backlog.is_durable());
        assert_eq!(sent(&mut backlog), [(0, 60), (60, 60)]);
        assert!(backlog.begin_again(100));
        assert_eq!(sent(&mut backlog), [(60, 60)]);
    }

    #[test]
    fn room_is_bounded_but_for_the_last_message() {
        let mut backlog = Backlog::default();
        let item = ItemSpec {
            item_id: "x".repeat(KEPT_BYTES_MAX / 2),
            ..ItemSpec::default()
        };
        backlog.push(vec![item.clone()]);
        assert!(backlog.has_room());
        backlog.push(vec![item]);
        assert!(!backlog.has_room());
        sent(&mut backlog);
        backlog.confirm(1);
        assert!(backlog.has_room());
        for _ in 0..KEPT_MESSAGES_MAX - 1 {
            assert!(backlog.has_room());
            backlog.push(items(1));
        }
        assert!(!backlog.has_room());
    }
}
