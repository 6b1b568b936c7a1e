//! Collects what is wrong with a request, so that its sender learns all of it at once.

use crate::base::limits;
use crate::domain::bounds::OutOfBounds;
use crate::error::{Error, FieldViolation};

/// The reason of most violations.
pub(crate) const INVALID_FIELD: &str = "INVALID_FIELD";

/// What is wrong so far.
#[derive(Debug, Default)]
pub(crate) struct Violations {
    reason: Option<&'static str>,
    list: Vec<FieldViolation>,
}

impl Violations {
    /// Notes that `field` is wrong. The first reason becomes the error's.
    pub(crate) fn add(
        &mut self,
        reason: &'static str,
        field: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.reason.get_or_insert(reason);
        if self.list.len() < limits::VIOLATIONS_MAX {
            self.list.push(FieldViolation {
                field: field.into(),
                message: message.into(),
            });
        }
    }

    /// Notes the settings inside `field` that are out of their bounds.
    pub(crate) fn add_all(&mut self, field: &str, wrong: Vec<OutOfBounds>) {
        for OutOfBounds {
            field: inner,
            problem,
        } in wrong
        {
            self.add(INVALID_FIELD, format!("{field}.{inner}"), problem);
        }
    }

    /// The value if nothing was wrong.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Error> {
        match self.reason {
            None => Ok(value),
            Some(reason) => Err(Error::invalid(reason, self.list)),
        }
    }

    /// The value of a field that is there unless it was noted as wrong.
    pub(crate) fn required<T>(self, value: Option<T>) -> Result<T, Error> {
        self.or(value)
            .map(|value| value.expect("a missing value was noted as wrong"))
    }
}
