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
    /// Whether it was told that the server takes calls for another tenant's.
    told: AtomicBool,
}

/// A connection whose calls act for a tenant.
#[derive(Clone, Debug)]
pub(super) struct Line {
    channel: Channel,
    tenant: OnBehalf,
}

impl OnBehalf {
    pub(super) fn of(tenant: Option<&Tenant>) -> Self {
        let named = tenant.map(|tenant| Named {
            header: tenant.as_str().parse().expect("a tenant's name is ASCII"),
            told: AtomicBool::new(false),
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
            let (asked, other) = (text(&self.header), text(other));
            tell(&format!(
                "warning: the server acts for tenant {other}, not {asked}: it does not trust the header {HEADER} (trust_tenant_header in its configuration)"
            ));
        }
    }
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
