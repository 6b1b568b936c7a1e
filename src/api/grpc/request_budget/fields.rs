//! Counts the fields of a protobuf message while it comes in, without unpacking it.
//!
//! An empty item has two bytes on the wire and some three hundred in memory: a message well within
//! its limit could grow to gigabytes. What says more than any call may ask for is refused unread.

/// A count over the bytes of one message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields {
    count: usize,
    step: Step,
    /// Whether fields that have a length are looked into, one level deep.
    nested: bool,
    /// Bytes that are left of the field that is looked into.
    inside: Option<u64>,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A field's tag, of which these bits have come.
    Tag(Varint),
    /// The length of its content.
    Length(Varint),
    /// A number, up to its last byte.
    Number,
    /// Content that is passed over.
    Content(u64),
}

#[derive(Clone, Copy, Debug, Default)]
struct Varint {
    value: u64,
    bits: u32,
}

impl Varint {
    /// Takes a byte; whether it was the last.
    fn take(&mut self, byte: u8) -> bool {
        let part = u64::from(byte & 0x7f);
        self.value |= part.checked_shl(self.bits).unwrap_or(0);
        self.bits += 7;
        byte & 0x80 == 0
    }
}

const NEXT: Step = Step::Tag(Varint { value: 0, bits: 0 });

impl Fields {
    /// A count of the fields of a message, and with `nested` of those of the messages in it.
    pub(super) fn new(nested: bool) -> Self {
        Self {
            count: 0,
            step: NEXT,
            nested,
            inside: None,
        }
    }

    /// How many fields have begun. Of bytes that are no protobuf it is just a number.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Goes on with the next bytes of the message.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while let Some(&byte) = bytes.first() {
            let taken = match &mut self.step {
                Step::Content(left) => {
                    let here = bytes.len() as u64;
                    let taken = here.min(*left).min(self.inside.unwrap_or(u64::MAX));
                    *left -= taken;
                    if *left == 0 {
                        self.step = NEXT;
                    }
                    taken
                }
                Step::Number => {
                    if byte & 0x80 == 0 {
                        self.step = NEXT;
                    }
                    1
                }
                Step::Tag(tag) => {
                    if tag.take(byte) {
                        let wire_type = tag.value & 7;
                        self.field(wire_type);
                    }
                    1
                }
                Step::Length(length) => {
                    if length.take(byte) {
                        let length = length.value;
                        self.content(length);
                        bytes = &bytes[1..];
                        continue;
                    }
                    1
                }
            };
            self.leave(taken);
            bytes = &bytes[usize::try_from(taken).expect("no more than there are")..];
        }
    }

    fn field(&mut self, wire_type: u64) {
        self.count += 1;
        self.step = match wire_type {
            0 => Step::Number,
            1 => Step::Content(8),
            2 => Step::Length(Varint::default()),
            5 => Step::Content(4),
            // Groups, or nonsense; fields come next, or the decoder refuses it.
            _ => NEXT,
        };
    }

    /// A field with content of this length, whose last byte of length was just read.
    fn content(&mut self, length: u64) {
        self.step = if length == 0 {
            NEXT
        } else {
            Step::Content(length)
        };
        if self.inside.is_some() {
            self.leave(1);
        } else if self.nested && length > 0 {
            self.inside = Some(length);
            self.step = NEXT;
        }
    }

    /// Bytes of the field that is looked into have been read. At its end what was begun in it ends.
    fn leave(&mut self, bytes: u64) {
        if let Some(left) = &mut self.inside {
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                self.inside = None;
                self.step = NEXT;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::wire::{CancelBatchRequest, ItemSpec, Payload, SubmitBatchRequest, payload};

    fn submit(items: usize) -> Vec<u8> {
        let body = Some(payload::Body::Data(vec![0x0a; 300].into()));
        let item = ItemSpec {
            item_id: "an item".to_owned(),
            input: Some(Payload {
                body,
                ..Payload::default()
            }),
            ..ItemSpec::default()
        };
        SubmitBatchRequest {
            batch_id: "batch".to_owned(),
            items: vec![item; items],
            on_disconnect: 2,
            ..SubmitBatchRequest::default()
        }
        .encode_to_vec()
    }

    fn counted(bytes: &[u8], nested: bool, chunk: usize) -> usize {
        let mut fields = Fields::new(nested);
        bytes.chunks(chunk).for_each(|chunk| fields.read(chunk));
        fields.count()
    }

    /// Wraps a message as the field with this number of another.
    fn wrapped(field: u8, message: &[u8]) -> Vec<u8> {
        let mut bytes = vec![field << 3 | 2];
        prost::encoding::encode_varint(message.len() as u64, &mut bytes);
        bytes.extend(message);
        bytes
    }

    #[test]
    fn fields_are_counted_however_the_message_is_cut() {
        let cancel = CancelBatchRequest {
            batch_id: "batch".to_owned(),
            item_ids: vec![String::new(); 1000],
            reason: "none".to_owned(),
        };
        let fixed = [[0x09, 1, 2, 3, 4, 5, 6, 7, 8, 0x15, 1, 2, 3, 4]; 3].concat();
        for chunk in [1, 2, 7, 300, usize::MAX] {
            assert_eq!(counted(&submit(100), false, chunk), 102, "{chunk}");
            assert_eq!(counted(&cancel.encode_to_vec(), false, chunk), 1002);
            assert_eq!(counted(&fixed, false, chunk), 6, "{chunk}");
            assert_eq!(counted(&[0x22, 0].repeat(5000), false, chunk), 5000);
        }
    }

    #[test]
    fn fields_of_a_message_in_a_message_are_counted_too() {
        let message = [wrapped(2, &submit(100)), wrapped(3, &[8, 1])].concat();
        for chunk in [1, 2, 7, 300, usize::MAX] {
            assert_eq!(counted(&message, true, chunk), 1 + 102 + 2, "{chunk}");
            assert_eq!(counted(&message, false, chunk), 2, "{chunk}");
        }
    }

    /// What is no message inside ends where its field ends, and what follows is counted as ever.
    #[test]
    fn nonsense_inside_does_not_spill_out() {
        for nonsense in [&[0xff; 20][..], &[0x0a, 0xff, 0xff, 0x7f], &[0x0a], &[0x09]] {
            let message = [wrapped(1, nonsense), wrapped(3, &[8, 1])].concat();
            for chunk in [1, usize::MAX] {
                let count = counted(&message, true, chunk);
                assert_eq!(
                    count - counted(&wrapped(1, nonsense), true, chunk),
                    2,
                    "{nonsense:?}"
                );
            }
        }
    }
}
