//! On whose behalf a call acts: what its header says, where that is trusted.

use http::{HeaderMap, HeaderValue};
use tonic::metadata::MetadataMap;

use super::violations::INVALID_FIELD;
use crate::domain::ids::{DEFAULT_TENANT, Tenant};
use crate::error::{Error, FieldViolation, Result};

/// The header that names a call's tenant.
pub(super) const HEADER: &str = "sooner-tenant";

/// Whether callers may say who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenancy {
    /// No: every call acts for tenant `default`, and the header is not looked at.
    Single,
    /// Yes: something in front of the server sees to it that the header is true.
    ByHeader,
}

impl Tenancy {
    /// By the header, if it is to be trusted.
    pub fn trusting(header: bool) -> Self {
        if header { Self::ByHeader } else { Self::Single }
    }

    /// What a caller that names a tenant is told in the same header: for whom its call acts. A name
    /// that is none is refused all the same.
    pub(super) fn told(self, headers: &HeaderMap) -> Option<HeaderValue> {
        let named = headers.get(HEADER)?;
        Some(match self {
            Self::Single => HeaderValue::from_static(DEFAULT_TENANT),
            Self::ByHeader => named.clone(),
        })
    }

    /// The tenant of a call with these headers.
    pub(super) fn of(self, headers: &MetadataMap) -> Result<Tenant> {
        match self {
            Self::Single => Ok(Tenant::default()),
            Self::ByHeader => named(headers),
        }
    }
}

fn named(headers: &MetadataMap) -> Result<Tenant> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else {
        return Ok(Tenant::default());
    };
    let tenant = match (value.to_str(), values.next()) {
        // A proxy that adds its value behind the caller's own would let the caller choose.
        (_, Some(_)) => Err("comes more than once".to_owned()),
        (Ok(text), None) => Tenant::parse(text),
        (Err(_), None) => Err("is not text".to_owned()),
    };
    tenant.map_err(|message| {
        let field = HEADER.to_owned();
        Error::invalid(INVALID_FIELD, vec![FieldViolation { field, message }])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_header_that_is_trusted_and_single_names_a_tenant() {
        let tenant = |tenancy: Tenancy, values: &[&str]| {
            let mut headers = MetadataMap::new();
            for value in values {
                headers.append(HEADER, value.parse().unwrap());
            }
            let tenant = tenancy.of(&headers).map_err(|error| error.to_string());
            tenant.map(|tenant| tenant.to_string())
        };
        let default = Ok("default".to_owned());
        assert_eq!(tenant(Tenancy::Single, &["acme"]), default);
        assert_eq!(tenant(Tenancy::Single, &["a b", ""]), default);
        assert_eq!(tenant(Tenancy::ByHeader, &[]), default);
        assert_eq!(tenant(Tenancy::ByHeader, &["acme"]), Ok("acme".to_owned()));
        for bad in [&["a b"][..], &[""], &["a", "b"], &["a", "a"], &["a,b"]] {
            let refused = tenant(Tenancy::ByHeader, bad).unwrap_err();
            assert!(refused.contains(HEADER), "{refused}");
        }
    }
}
