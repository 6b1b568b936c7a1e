//! Pieces of a stream that end in a byte: lines, and what NULs separate.

use std::io::{self, BufRead};

use super::Chunks;
use crate::domain::item::ItemSpec;
use crate::domain::payload::Payload;

/// Whether more of the input has been read already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    IsThere,
    MayTakeLong,
}

/// Reads every piece as an item.
pub(super) fn read(
    end: u8,
    mut from: impl BufRead,
    chunks: &mut Chunks,
    item_bytes_max: usize,
) -> io::Result<()> {
    let mut piece = Vec::new();
    while chunks.is_wanted
        && let Some(next) = next(&mut from, end, item_bytes_max, &mut piece)?
    {
        let input = Payload::sniff(std::mem::take(&mut piece));
        chunks.push(ItemSpec {
            input,
            ..ItemSpec::default()
        });
        if next == Next::MayTakeLong {
            chunks.flush();
        }
    }
    Ok(())
}

/// Reads up to the next `end`, keeping one byte more than `bytes_max`. `None` at the input's end.
pub(super) fn next(
    from: &mut impl BufRead,
    end: u8,
    bytes_max: usize,
    piece: &mut Vec<u8>,
) -> io::Result<Option<Next>> {
    let mut any = false;
    loop {
        let buffer = match from.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            buffer => buffer?,
        };
        if buffer.is_empty() {
            return Ok(any.then_some(Next::MayTakeLong));
        }
        any = true;
        let at = buffer.iter().position(|&byte| byte == end);
        let part = &buffer[..at.unwrap_or(buffer.len())];
        let room = (bytes_max + 1).saturating_sub(piece.len());
        piece.extend_from_slice(&part[..part.len().min(room)]);
        let used = at.map_or(buffer.len(), |at| at + 1);
        let next = if used < buffer.len() {
            Next::IsThere
        } else {
            Next::MayTakeLong
        };
        from.consume(used);
        if at.is_some() {
            return Ok(Some(next));
        }
    }
}
