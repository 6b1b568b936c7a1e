//! The first bytes of a connection, which say what its client speaks.

use std::io::{self, Cursor};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;

/// What every HTTP/2 client says first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The type of the record that every TLS client sends first.
const TLS_HANDSHAKE: u8 = 22;

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/2, HTTP/1, or anything else that HTTP/1 tells what is wrong.
    Http,
    Tls,
    /// It left before it had said enough.
    Gone,
}

/// Waits for the client's first words. The stream that is answered still begins with them.
pub(super) async fn open(
    stream: TcpStream,
) -> io::Result<(Protocol, impl AsyncRead + AsyncWrite + Unpin + Send)> {
    // Not peeked: what has been peeked at stays readable, and waiting for more would spin.
    let (mut reader, writer) = stream.into_split();
    let (protocol, first) = listen(&mut reader).await?;
    Ok((
        protocol,
        tokio::io::join(Cursor::new(first).chain(reader), writer),
    ))
}

/// Reads until the bytes can belong to one protocol only.
async fn listen(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<(Protocol, Vec<u8>)> {
    let mut first = Vec::with_capacity(PREFACE.len());
    loop {
        let room = PREFACE.len() - first.len();
        if reader.take(room as u64).read_buf(&mut first).await? == 0 {
            return Ok((Protocol::Gone, first));
        }
        if !PREFACE.starts_with(&first) {
            let tls = first[0] == TLS_HANDSHAKE;
            let protocol = if tls { Protocol::Tls } else { Protocol::Http };
            return Ok((protocol, first));
        }
        if first.len() == PREFACE.len() {
            return Ok((Protocol::Http, first));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_bytes_tell_the_protocol() {
        let cases: [(&[u8], Protocol); 8] = [
            (PREFACE, Protocol::Http),
            (b"GET / HTTP/1.1\r\n", Protocol::Http),
            (b"POST /", Protocol::Http),
            (b"PRI * HTTP/1.1\r\n\r\n", Protocol::Http),
            (b"\x16\x03\x01\x02\x00", Protocol::Tls),
            (b"\0\0\0", Protocol::Http),
            (b"PRI * HT", Protocol::Gone),
            (b"", Protocol::Gone),
        ];
        for (mut bytes, expected) in cases {
            let said = bytes;
            let (protocol, first) = listen(&mut bytes).await.unwrap();
            assert_eq!(protocol, expected, "{said:?}");
            assert!(said.starts_with(&first), "{said:?}");
            assert_eq!(first.len() + bytes.len(), said.len(), "nothing is lost");
        }
    }
}
