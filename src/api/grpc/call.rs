//! What every call brings besides its message: until when it waits, and for whom it acts.

use tonic::Request;

use super::deadline::Deadline;
use super::tenancy::Tenancy;
use crate::domain::ids::Tenant;
use crate::error::Result;

/// Takes a call apart that came just now. Headers that are trusted must be right.
pub(super) fn opened<T>(request: Request<T>, tenancy: Tenancy) -> Result<(Deadline, Tenant, T)> {
    let deadline = Deadline::of(request.metadata());
    let tenant = tenancy.of(request.metadata())?;
    Ok((deadline, tenant, request.into_inner()))
}
