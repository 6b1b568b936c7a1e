//! How client commands reach a server: where it is, and how long to go on trying.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tonic::transport::Endpoint;

use super::exit::{Exit, Failure};
use super::on_behalf::{Line, OnBehalf, Told};
use super::refusal::{self, Trouble};
use super::room::Room;
use super::tell;
use crate::base::{clock, entropy, limits};
use crate::config::parse_duration;
use crate::domain::ids::Tenant;
use crate::wire::admin_service_client::AdminServiceClient;
use crate::wire::batch_service_client::BatchServiceClient;

/// Where a server listens unless something else is said.
const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";

/// How long one connection attempt may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long a server that was never reached is tried: long enough for one that is just starting,
/// short enough for a person who has mistyped its address.
const FIRST_CONTACT_MAX: Duration = Duration::from_secs(3);

/// How long a server that was there is waited for: an upgrade, or a machine that starts again.
const RESTART_MAX: Duration = Duration::from_secs(600);

/// The first wait before another try; each further one is twice as long.
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// The longest wait before another try.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The generated client of those who submit and read.
pub(super) type Stub = BatchServiceClient<Line>;

/// The generated client of operators.
pub(super) type AdminStub = AdminServiceClient<Line>;

/// Which server is asked, and how patiently.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ServerArguments {
    /// The server to talk to
    #[arg(
        long,
        value_name = "URL",
        env = "SOONER_SERVER",
        default_value = DEFAULT_SERVER
    )]
    server: String,

    /// How long to try again while the server cannot be reached or, for new work, has no room
    /// [default: 10m, or 3s for one that was never reached]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    retry_for: Option<Duration>,

    /// Act for this tenant, on a server that trusts the header `sooner-tenant`
    #[arg(long, value_name = "NAME", env = "SOONER_TENANT", value_parser = Tenant::parse)]
    tenant: Option<Tenant>,

    /// Whether it was told that the server acts for another one.
    #[arg(skip)]
    other_tenant_told: Told,
}

/// A server's address, checked.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    endpoint: Endpoint,
    url: String,
    /// What leads another command to the same server.
    flags: String,
    tenant: OnBehalf,
    retry_for: Option<Duration>,
    /// Whether the server has ever answered.
    reached: Arc<AtomicBool>,
}

/// A connection that is made anew when it breaks.
#[derive(Debug)]
pub(super) struct Session {
    remote: Remote,
    patience: Patience,
    line: Option<Line>,
}

/// The clients that share a connection.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    pub(super) batches: Stub,
    pub(super) admin: AdminStub,
    /// What must be added to a command for it to reach the same server as the same tenant.
    pub(super) flags: String,
}

/// How long trouble has lasted and what it is like to wait for its end.
#[derive(Debug)]
pub(super) struct Patience {
    url: String,
    retry_for: Option<Duration>,
    /// The remote's.
    reached: Arc<AtomicBool>,
    /// When the trouble began that is not over yet.
    since: Option<Instant>,
    tries: u32,
    /// How long the server has had no room: that is not over once it answers.
    pub(super) room: Room,
}

impl ServerArguments {
    /// Checks the address. Nothing is connected yet.
    pub(super) fn remote(&self) -> Result<Remote, Failure> {
        let wrong = |problem: &str| {
            let server = &self.server;
            Failure::new(
                Exit::Usage,
                format!("--server {server:?} {problem}, such as {DEFAULT_SERVER}"),
            )
        };
        let endpoint =
            Endpoint::from_shared(self.server.clone()).map_err(|_| wrong("is not a URL"))?;
        let uri = endpoint.uri();
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(wrong("asks for TLS, which is not there yet; use http")),
            Some(_) | None => return Err(wrong("is not an http URL")),
        }
        if uri.host().is_none_or(str::is_empty) || !["", "/"].contains(&uri.path()) {
            return Err(wrong("is not just a host and a port"));
        }
        Ok(Remote {
            endpoint: endpoint
                .connect_timeout(CONNECT_MAX)
                .http2_keep_alive_interval(limits::KEEPALIVE_INTERVAL)
                .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT),
            url: self.server.clone(),
            flags: self.flags(),
            tenant: OnBehalf::of(self.tenant.as_ref(), &self.other_tenant_told),
            retry_for: self.retry_for,
            reached: Arc::default(),
        })
    }

    /// What must be added to a command for it to reach the same server as the same tenant.
    pub(super) fn flags(&self) -> String {
        let is_other = self.server != DEFAULT_SERVER;
        let server = is_other.then(|| format!(" --server {}", self.server));
        let tenant = self.tenant.as_ref();
        let tenant = tenant.map(|tenant| format!(" --tenant {tenant}"));
        server.into_iter().chain(tenant).collect()
    }
}

impl Remote {
    /// A connection.
    pub(super) async fn connect(&self) -> Result<Clients, Trouble> {
        Ok(self.clients(&self.line().await?))
    }

    fn clients(&self, line: &Line) -> Clients {
        Clients {
            batches: stub(line.clone()),
            admin: admin_stub(line.clone()),
            flags: self.flags.clone(),
        }
    }

    /// What the clients of all services speak over.
    async fn line(&self) -> Result<Line, Trouble> {
        let channel = self.endpoint.connect().await?;
        Ok(self.tenant.over(channel))
    }

    /// Fresh patience for one piece of work.
    pub(super) fn patience(&self) -> Patience {
        Patience {
            url: self.url.clone(),
            retry_for: self.retry_for,
            reached: Arc::clone(&self.reached),
            since: None,
            tries: 0,
            room: Room::waited_for(self.retry_for.unwrap_or(RESTART_MAX)),
        }
    }

    /// Calls that are made one after the other.
    pub(super) fn session(&self) -> Session {
        Session {
            remote: self.clone(),
            patience: self.patience(),
            line: None,
        }
    }
}

impl Session {
    /// Makes a call that may be repeated without harm, until it is answered or refused.
    pub(super) async fn call<T, F>(&mut self, call: impl Fn(Stub) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        self.call_on(|line| call(stub(line))).await
    }

    /// The same of the operators' service.
    pub(super) async fn call_admin<T, F>(
        &mut self,
        call: impl Fn(AdminStub) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        self.call_on(|line| call(admin_stub(line))).await
    }

    /// The clients of the connection that is there, if one is.
    pub(super) fn clients(&self) -> Option<Clients> {
        self.line.as_ref().map(|line| self.remote.clients(line))
    }

    async fn call_on<T, F>(&mut self, call: impl Fn(Line) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        loop {
            match self.call_once(&call).await {
                Ok(answer) => {
                    self.patience.reward();
                    return Ok(answer);
                }
                Err(trouble) => {
                    self.line = None;
                    self.patience.bear(trouble).await?;
                }
            }
        }
    }

    async fn call_once<T, F>(&mut self, call: impl Fn(Line) -> F) -> Result<T, Trouble>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let line = match &self.line {
            Some(line) => line.clone(),
            None => self.line.insert(self.remote.line().await?).clone(),
        };
        Ok(call(line).await?.into_inner())
    }
}

fn stub(line: Line) -> Stub {
    Stub::new(line).max_decoding_message_size(largest())
}

fn admin_stub(line: Line) -> AdminStub {
    AdminStub::new(line).max_decoding_message_size(largest())
}

/// Bytes of the largest answer: an item as it was submitted, its result and its failed attempts come
/// in one message.
const fn largest() -> usize {
    2 * limits::message_bytes_max(limits::INPUT_BYTES_CEILING)
}

impl Patience {
    /// The work has gone on: trouble, if there was any, is over.
    pub(super) fn reward(&mut self) {
        self.answered();
        self.room.came();
    }

    /// The server has answered, which says nothing about whether it has room.
    pub(super) fn answered(&mut self) {
        self.reached.store(true, Ordering::Relaxed);
        self.since = None;
        self.tries = 0;
    }

    /// Waits before the next try, longer from time to time and never in step with other clients.
    /// Fails if the trouble will not pass, or has lasted too long.
    pub(super) async fn bear(&mut self, trouble: Trouble) -> Result<(), Failure> {
        if !trouble.may_pass() {
            return Err(refusal::failure(&trouble, &self.url));
        }
        if let Some((reason, why)) = trouble.lack_of_room() {
            self.reached.store(true, Ordering::Relaxed);
            let wait = self.backoff().max(trouble.retry_delay());
            if let Some(line) = self.room.none(&reason, why) {
                tell(&line);
            }
            self.room.check(wait)?;
            tokio::time::sleep(wait).await;
            return Ok(());
        }
        let now = clock::instant();
        let reached = self.reached.load(Ordering::Relaxed);
        let longest = self.retry_for.unwrap_or(if reached {
            RESTART_MAX
        } else {
            FIRST_CONTACT_MAX
        });
        if self.since.is_none() && reached {
            tell(&format!(
                "lost the server at {}: {trouble}; trying again",
                self.url
            ));
        }
        let since = *self.since.get_or_insert(now);
        let wait = self.backoff().max(trouble.retry_delay());
        if now.duration_since(since) + wait > longest {
            return Err(refusal::failure(&trouble, &self.url));
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    fn backoff(&mut self) -> Duration {
        let grown = BACKOFF_MIN.saturating_mul(1 << self.tries.min(10));
        self.tries += 1;
        grown
            .min(BACKOFF_MAX)
            .mul_f64(0.5 + entropy::fraction() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(server: &str) -> ServerArguments {
        ServerArguments {
            server: server.into(),
            retry_for: None,
            tenant: None,
            other_tenant_told: Told::default(),
        }
    }

    #[test]
    fn an_address_is_an_http_url_without_a_path() {
        for good in [
            DEFAULT_SERVER,
            "http://[::1]:1/",
            "http://sooner.example:50051",
        ] {
            assert!(arguments(good).remote().is_ok(), "{good}");
        }
        for bad in [
            "",
            "nonsense here",
            "127.0.0.1:50051",
            "ftp://a:1",
            "https://a:1",
            "http://a:1/x",
        ] {
            let failure = arguments(bad).remote().map(|_| ()).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{bad}");
            assert!(failure.message.contains(&format!("{bad:?}")), "{failure:?}");
        }
    }

    #[test]
    fn waits_grow_to_a_bound_and_begin_anew_after_an_answer() {
        let mut patience = arguments(DEFAULT_SERVER).remote().unwrap().patience();
        let waits: Vec<_> = (0..12).map(|_| patience.backoff()).collect();
        assert!(waits[0] <= BACKOFF_MIN && waits[0] >= BACKOFF_MIN / 2);
        assert!(waits[11] <= BACKOFF_MAX && waits[11] >= BACKOFF_MAX / 2);
        patience.reward();
        assert!(patience.backoff() <= BACKOFF_MIN);
    }
}
