//! A client that says what it likes: bytes on a socket, HTTP/2 frames written by hand.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::{Server, within};

/// What every HTTP/2 client says first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags of frames.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const ACK: u8 = 1;

/// Codes of a GOAWAY.
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// A connection.
#[derive(Debug)]
pub(crate) struct RawConnection {
    stream: TcpStream,
}

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The code of a GOAWAY.
    pub(crate) fn goaway_code(&self) -> Option<u32> {
        let code = self.payload.get(4..8)?.try_into().ok()?;
        (self.kind == GOAWAY).then(|| u32::from_be_bytes(code))
    }

    /// Whether it ends a call.
    pub(crate) fn is_trailers(&self) -> bool {
        self.kind == HEADERS && self.flags & END_STREAM != 0
    }
}

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A call with its one message, as the connection's first stream.
pub(crate) fn call(path: &str, request: &impl prost::Message) -> Vec<u8> {
    call_on(1, path, request)
}

/// A call with its one message.
pub(crate) fn call_on(stream: u32, path: &str, request: &impl prost::Message) -> Vec<u8> {
    let message = message(&request.encode_to_vec());
    let headers = frame(HEADERS, END_HEADERS, stream, &call_block(path, &[]));
    [headers, frame(DATA, END_STREAM, stream, &message)].concat()
}

/// Headers as literals that nobody has to remember.
pub(crate) fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in headers {
        bytes.push(0);
        for text in [name, value] {
            put_length(&mut bytes, text.len());
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// The headers of a gRPC call, to which more may be added.
pub(crate) fn call_block(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "sooner"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    block(&[&headers, more].concat())
}

/// A gRPC message with its prefix.
pub(crate) fn message(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[0], &length[..], bytes].concat()
}

fn put_length(bytes: &mut Vec<u8>, length: usize) {
    let mut rest = match u8::try_from(length) {
        Ok(short @ ..127) => return bytes.push(short),
        Ok(_) | Err(_) => length - 127,
    };
    bytes.push(127);
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
}

impl RawConnection {
    /// Connects and says nothing.
    pub(crate) async fn silent(server: &Server) -> Self {
        let stream = within(TcpStream::connect(server.address())).await.unwrap();
        Self { stream }
    }

    /// Connects from another address of this machine.
    pub(crate) async fn from(server: &Server, address: [u8; 4]) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((address, 0))).unwrap();
        let connected = socket.connect(server.address().parse().unwrap());
        let stream = within(connected).await.unwrap();
        Self { stream }
    }

    /// Connects and says what every client of HTTP/2 says first.
    pub(crate) async fn http2(server: &Server) -> Self {
        let mut connection = Self::silent(server).await;
        connection.hello().await;
        connection
    }

    /// Says what every client of HTTP/2 says first. Whether anybody listens shows later.
    pub(crate) async fn hello(&mut self) {
        let hello = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        self.send(&hello).await.ok();
    }

    /// Sends these bytes; fails once the server has closed.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        within(self.stream.write_all(bytes)).await
    }

    /// Sends the same bytes again and again, as often as the server lets it.
    pub(crate) async fn flood(&mut self, bytes: &[u8], times: usize) -> io::Result<()> {
        // Not a write each: it is the server that is to be busy.
        let chunk = bytes.repeat(100);
        for _ in 0..times.div_ceil(100) {
            self.send(&chunk).await?;
        }
        Ok(())
    }

    /// The next frame; `None` once the server has closed.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        within(self.stream.read_exact(&mut head)).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap();
        let mut payload = vec![0; length];
        within(self.stream.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes(stream);
        Some(Frame {
            kind,
            flags,
            stream,
            payload,
        })
    }

    /// The next frame of this kind, whatever comes before.
    pub(crate) async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Everything that is said until the server closes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A reset is an end too.
        within(self.stream.read_to_end(&mut bytes)).await.ok();
        bytes
    }

    /// Acknowledges pings until the server closes; answers the frames that came.
    pub(crate) async fn frames_to_the_end(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(came) = self.next().await {
            if came.kind == PING && came.flags & ACK == 0 {
                self.send(&frame(PING, ACK, 0, &came.payload)).await.ok();
            }
            frames.push(came);
        }
        frames
    }
}
