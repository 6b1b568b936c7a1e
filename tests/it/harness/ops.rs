//! The ops port of a server, asked as a probe or a scraper asks it.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{PATIENCE, Server, within};

/// What it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: String,
}

/// Asks over HTTP/1, on a connection of its own.
pub(crate) async fn ask(address: &str, method: &str, path: &str) -> io::Result<Answer> {
    ask_for(address, (method, path), "*/*").await
}

/// The same, accepting only this content type.
pub(crate) async fn ask_for(
    address: &str,
    (method, path): (&str, &str),
    accept: &str,
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: ops\r\naccept: {accept}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let content_type = head
        .lines()
        .find_map(|line| line.strip_prefix("content-type: "));
    Ok(Answer {
        status: status.unwrap(),
        content_type: content_type.unwrap_or_default().to_owned(),
        body: body.to_owned(),
    })
}

impl Server {
    /// What its ops port answers.
    pub(crate) async fn ops(&self, path: &str) -> Answer {
        within(ask(self.ops_address(), "GET", path)).await.unwrap()
    }

    /// All series of `/metrics` with their values, as they are written.
    pub(crate) async fn metrics(&self) -> BTreeMap<String, String> {
        let text = self.ops("/metrics").await.body;
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.to_owned())
        };
        samples.map(sample).collect()
    }

    /// Waits until a series is what it must become.
    pub(crate) async fn metric_becomes(&self, series: &str, is: impl Fn(&str) -> bool) {
        let began = Instant::now();
        loop {
            let value = self.metrics().await.remove(series).unwrap_or_default();
            if is(&value) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{series} stays {value:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
