//! `sooner` as a client, as someone types it, and a way to it that can be cut.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use super::{Ended, Server, ended};

/// A client command that asks the server at this address, such as `127.0.0.1:4711`.
pub(crate) fn sooner(address: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sooner"));
    command
        .args(arguments)
        .env("SOONER_SERVER", format!("http://{address}"))
        .env_remove("SOONER_TENANT")
        .env_remove("RUST_LOG");
    command
}

/// Runs a client command to its end.
pub(crate) fn asked(server: &Server, arguments: &[&str]) -> Ended {
    ended(&mut sooner(server.address(), arguments), b"")
}

/// An address that leads to a server, to another one later, or to none.
#[derive(Debug)]
pub(crate) struct Relay {
    address: String,
    way: Arc<Mutex<Way>>,
}

#[derive(Debug, Default)]
struct Way {
    to: Option<String>,
    under_way: Vec<TcpStream>,
}

impl Relay {
    pub(crate) fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let way = Arc::new(Mutex::new(Way {
            to: Some(server.address().to_owned()),
            under_way: Vec::new(),
        }));
        let shared = Arc::clone(&way);
        thread::spawn(move || {
            for client in listener.incoming() {
                // What leads nowhere is closed at once.
                connect(&client.unwrap(), &shared).ok();
            }
        });
        Self { address, way }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Cuts every connection. New ones lead to nobody.
    pub(crate) fn cut(&self) {
        let mut way = self.way.lock().unwrap();
        way.to = None;
        for stream in way.under_way.drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    /// New connections lead to this server.
    pub(crate) fn lead_to(&self, server: &Server) {
        self.way.lock().unwrap().to = Some(server.address().to_owned());
    }
}

fn connect(client: &TcpStream, way: &Mutex<Way>) -> io::Result<()> {
    let mut way = way.lock().unwrap();
    let Some(to) = &way.to else { return Ok(()) };
    let server = TcpStream::connect(to)?;
    for (from, to) in [(client, &server), (&server, client)] {
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        way.under_way.push(from.try_clone()?);
        thread::spawn(move || {
            io::copy(&mut from, &mut to).ok();
            to.shutdown(Shutdown::Both).ok();
        });
    }
    Ok(())
}
