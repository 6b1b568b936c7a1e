//! Calls on behalf of a tenant, and a look at whether the server took them as such.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderValue, Request, Response};
use tonic::body::Body;
use tonic::transport::{Channel, Error};
use tower::Service;

use super::tell;
use crate::domain::ids::Tenant;

/// The header that names a tenant, in calls and in their answers.
const HEADER: &str = "sooner-tenant";

/// Says on whose behalf calls are made, if somebody said so.
#[derive(Clone, Debug)]
pub(super) struct OnBehalf(Option<Arc<Named>>);

#[derive(Debug)]
struct Named {
    header: HeaderValue,
    /// Whether it was told that the server takes calls for another tenant's, over whichever connection.
    told: Told,
}

/// Whether something was told that is told once.
pub(super) type Told = Arc<AtomicBool>;

/// A connection whose calls act for a tenant.
#[derive(Clone, Debug)]
pub(super) struct Line {
    channel: Channel,
    tenant: OnBehalf,
}

impl OnBehalf {
    pub(super) fn of(tenant: Option<&Tenant>, told: &Told) -> Self {
        let named = tenant.map(|tenant| Named {
            header: tenant.as_str().parse().expect("a tenant's name is ASCII"),
            told: Arc::clone(told),
        });
        Self(named.map(Arc::new))
    }

    /// Calls over this channel.
    pub(super) fn over(&self, channel: Channel) -> Line {
        let tenant = self.clone();
        Line { channel, tenant }
    }
}

impl Named {
    /// Says once that the server takes the calls for another tenant's, if it says so.
    fn look(&self, answer: &HeaderMap) {
        let Some(other) = answer.get(HEADER).filter(|told| **told != self.header) else {
            return;
        };
        if !self.told.swap(true, Ordering::Relaxed) {
            tell(&warning(text(&self.header), text(other)));
        }
    }
}

/// What is told of a server that acts for another tenant than it was asked to.
fn warning(asked: &str, other: &str) -> String {
    // A server that does not look at the header acts for everybody's tenant; any other name it was told.
    let why = if other == Tenant::default().as_str() {
        format!("it does not trust the header {HEADER} (trust_tenant_header in its configuration)")
    } else {
        format!("something in front of it, such as a proxy, sets the header {HEADER} itself")
    };
    format!("warning: the server acts for tenant {other}, not {asked}: {why}")
}

fn text(header: &HeaderValue) -> &str {
    header.to_str().unwrap_or("?")
}

impl Service<Request<Body>> for Line {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let OnBehalf(tenant) = self.tenant.clone();
        if let Some(named) = &tenant {
            let headers = request.headers_mut();
            headers.insert(HEADER, named.header.clone());
        }
        let answer = self.channel.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            if let Some(named) = tenant {
                named.look(answer.headers());
            }
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A proxy that says itself for whom calls act made this blame the server.
    #[test]
    fn the_warning_names_what_took_the_name_away() {
        let untrusted = warning("acme", "default");
        assert!(
            untrusted.contains("it does not trust the header"),
            "{untrusted}"
        );
        let replaced = warning("acme", "umbrella");
        assert_eq!(
            replaced,
            "warning: the server acts for tenant umbrella, not acme: something in front of it, such as \
             a proxy, sets the header sooner-tenant itself"
        );
    }
}
