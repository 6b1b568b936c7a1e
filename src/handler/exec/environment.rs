//! What a program finds in its environment: what its queue hands on, and the facts about its item.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use super::Environment;
use crate::base::clock::Timestamp;
use crate::domain::attempt::{ItemError, Reason};
use crate::engine::Attempt;

/// The variable that marks the processes of an item, also after this server's death.
pub(super) const IDEMPOTENCY_KEY: &str = "SOONER_IDEMPOTENCY_KEY";

/// What programs need to find their files and to speak their user's language.
const ALWAYS_PASSED: [&str; 6] = ["PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR"];

const ATTRIBUTE_PREFIX: &str = "SOONER_ATTR_";

/// The variables that are the same for every item.
pub(super) fn base(wanted: &Environment) -> Result<BTreeMap<OsString, OsString>, String> {
    let own = std::env::vars_os();
    match wanted {
        // An attribute of another item, under which this server itself may run, is none of this one.
        Environment::Inherit => Ok(own
            .filter(|(name, _)| !starts(name, ATTRIBUTE_PREFIX))
            .collect()),
        Environment::Clean { pass, set } => {
            let is_passed = |name: &OsStr| {
                let always = ALWAYS_PASSED.iter().any(|it| name == *it) || starts(name, "LC_");
                always || pass.iter().any(|it| name == it.as_str())
            };
            let mut base: BTreeMap<_, _> = own.filter(|(name, _)| is_passed(name)).collect();
            for (name, value) in set {
                check(name, value)?;
                base.insert(name.into(), value.into());
            }
            Ok(base)
        }
    }
}

/// The variables about an attempt's item.
///
/// Of two attributes whose names become the same variable, the one that sorts later is seen.
pub(super) fn of_item(attempt: &Attempt) -> Result<Vec<(String, String)>, ItemError> {
    let mut variables: Vec<(String, String)> = [
        ("SOONER_BATCH_ID", attempt.batch_id.to_string()),
        ("SOONER_ITEM_ID", attempt.item_id()),
        ("SOONER_ITEM_INDEX", attempt.index.to_string()),
        ("SOONER_ATTEMPT", attempt.number.to_string()),
        (IDEMPOTENCY_KEY, attempt.idempotency_key()),
        ("SOONER_DEADLINE", rfc3339(attempt.deadline)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    for (name, value) in &attempt.spec.attributes {
        if value.contains('\0') {
            let message = format!("attribute {name:?} holds NUL, which no variable can");
            return Err(ItemError::of(Reason::INPUT_NOT_TEXT, &message));
        }
        variables.push((attribute_variable(name), value.to_string()));
    }
    Ok(variables)
}

fn attribute_variable(name: &str) -> String {
    let upper = name.chars().map(|char| char.to_ascii_uppercase());
    let allowed = |char: char| char.is_ascii_uppercase() || char.is_ascii_digit();
    let name: String = upper
        .map(|char| if allowed(char) { char } else { '_' })
        .collect();
    format!("{ATTRIBUTE_PREFIX}{name}")
}

/// Far ends of time are clipped to the year 9999, the last that the format can write.
fn rfc3339(time: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.0)
        .unwrap_or(jiff::Timestamp::MAX)
        .to_string()
}

fn check(name: &str, value: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
        return Err(format!(
            "environment variable {name:?} is empty or holds `=` or NUL"
        ));
    }
    Ok(())
}

fn starts(name: &OsStr, prefix: &str) -> bool {
    name.as_encoded_bytes().starts_with(prefix.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_become_names_that_every_shell_can_read() {
        for (name, variable) in [
            ("colour", "SOONER_ATTR_COLOUR"),
            ("A.b-c_9", "SOONER_ATTR_A_B_C_9"),
            ("größe=x", "SOONER_ATTR_GR__E_X"),
            ("", "SOONER_ATTR_"),
        ] {
            assert_eq!(attribute_variable(name), variable);
        }
    }

    #[test]
    fn deadlines_are_written_as_rfc_3339() {
        assert_eq!(rfc3339(Timestamp(0)), "1970-01-01T00:00:00Z");
        assert_eq!(
            rfc3339(Timestamp(1_767_225_600_250)),
            "2026-01-01T00:00:00.25Z"
        );
        assert!(rfc3339(Timestamp(i64::MAX)).starts_with("9999-12-30T22:00:00"));
    }

    #[test]
    fn variables_that_the_system_cannot_hold_are_refused() {
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "\0")] {
            let set = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            let wanted = Environment::Clean {
                pass: Vec::new(),
                set,
            };
            assert!(
                base(&wanted).unwrap_err().contains("environment variable"),
                "{name:?}"
            );
        }
    }
}
