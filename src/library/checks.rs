//! What a program submits is checked as what a client sends: the engine and the store trust it then.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use crate::base::{clock, limits};
use crate::config::LimitsConfig;
use crate::domain::bounds::{OutOfBounds, check_timeout};
use crate::domain::ids::{self, check_item_id};
use crate::domain::item::ItemSpec;
use crate::domain::settings::BatchOptions;
use crate::error::{Error, FieldViolation, Result};

/// The wrong fields so far.
#[derive(Default)]
struct Violations {
    reason: Option<&'static str>,
    all: Vec<FieldViolation>,
}

impl Violations {
    fn add(&mut self, reason: &'static str, field: String, message: impl Into<String>) {
        self.reason.get_or_insert(reason);
        if self.all.len() < limits::VIOLATIONS_MAX {
            let message = message.into();
            self.all.push(FieldViolation { field, message });
        }
    }

    /// Adds what a check has to say, which begins with the name of the field inside.
    fn check(&mut self, field: &str, checked: Result<(), String>) {
        if let Err(message) = checked {
            self.add("INVALID_FIELD", field.to_owned(), message);
        }
    }

    /// Adds the settings inside a field that are out of their bounds.
    fn check_all(&mut self, field: &str, wrong: Vec<OutOfBounds>) {
        for OutOfBounds {
            field: inner,
            problem,
        } in wrong
        {
            self.add("INVALID_FIELD", format!("{field}.{inner}"), problem);
        }
    }

    fn or_ok(self) -> Result<()> {
        match self.reason {
            Some(reason) => Err(Error::invalid(reason, self.all)),
            None => Ok(()),
        }
    }
}

/// Checks a whole batch.
pub(super) fn check_batch(
    options: &BatchOptions,
    items: &[ItemSpec],
    limits: &LimitsConfig,
) -> Result<()> {
    let mut wrong = Violations::default();
    check_options(&mut wrong, options);
    let (has, max) = (items.len(), limits.submit_items);
    if has == 0 {
        wrong.check("items", Err("needs at least one item".to_owned()));
    } else if has > max {
        let message = format!("{has} items are more than the limit {max} of one submission");
        wrong.add("TOO_MANY_ITEMS", "items".to_owned(), message);
    } else {
        let mut seen = HashSet::with_capacity(has);
        for (index, item) in items.iter().enumerate() {
            check_item(&mut wrong, index, item, limits.input_bytes);
            if item.id.is_some() != items[0].id.is_some() {
                let message = "all items have an id or none has".to_owned();
                wrong.check(&format!("items[{index}].id"), Err(message));
            } else if item.id.as_ref().is_some_and(|id| !seen.insert(id)) {
                let message = "names an earlier item of the batch too";
                wrong.add("DUPLICATE_ITEM_ID", format!("items[{index}].id"), message);
            }
        }
    }
    wrong.or_ok()
}

/// Checks the settings of an upload.
pub(super) fn check_upload(options: &BatchOptions, open_timeout: Option<Duration>) -> Result<()> {
    let mut wrong = Violations::default();
    check_options(&mut wrong, options);
    if open_timeout.is_some_and(|timeout| timeout < limits::OPEN_TIMEOUT_MIN) {
        let message = format!("is below the minimum {:?}", limits::OPEN_TIMEOUT_MIN);
        wrong.check("terms.open_timeout", Err(message));
    }
    check_duration(&mut wrong, "terms.open_timeout", open_timeout);
    wrong.or_ok()
}

/// Checks items of an upload; `first` is the index of the first. Ids are compared by the store.
pub(super) fn check_chunk(first: u32, items: &[ItemSpec], input_bytes_max: usize) -> Result<()> {
    let mut wrong = Violations::default();
    let first = usize::try_from(first).unwrap_or(usize::MAX);
    for (index, item) in items.iter().enumerate() {
        check_item(
            &mut wrong,
            first.saturating_add(index),
            item,
            input_bytes_max,
        );
    }
    wrong.or_ok()
}

fn check_options(wrong: &mut Violations, options: &BatchOptions) {
    wrong.check_all("options", options.check(clock::now()));
    wrong.check_all("options.retry", options.retry.check());
    let (count, bytes) = (limits::LABELS_MAX, limits::LABEL_BYTES_MAX);
    wrong.check("options.labels", check_map(&options.labels, count, bytes));
}

fn check_item(wrong: &mut Violations, index: usize, item: &ItemSpec, input_bytes_max: usize) {
    let field = |name: &str| format!("items[{index}].{name}");
    if let Some(id) = &item.id {
        let empty = id.is_empty().then(|| "is empty".to_owned());
        let checked = empty.map_or_else(|| check_item_id(id), Err);
        wrong.check(&field("id"), checked);
    }
    let (has, max) = (item.input.bytes().len(), input_bytes_max);
    if has > max {
        let message = format!("{has} bytes are more than the limit {max}");
        wrong.add("INPUT_TOO_LARGE", field("input"), message);
    } else {
        wrong.check(&field("input"), item.input.check());
    }
    wrong.check(
        &field("timeout"),
        item.timeout.map_or(Ok(()), check_timeout),
    );
    wrong.check_all(&format!("items[{index}]"), item.check_times(clock::now()));
    wrong.check_all(&field("retry"), item.retry.check());
    let (count, bytes) = (limits::ATTRIBUTES_MAX, limits::ATTRIBUTE_BYTES_MAX);
    wrong.check(
        &field("attributes"),
        check_map(&item.attributes, count, bytes),
    );
}

fn check_duration(wrong: &mut Violations, field: &str, duration: Option<Duration>) {
    if duration.is_some_and(|duration| duration > limits::DURATION_MAX) {
        wrong.check(field, Err("is more than ten years".to_owned()));
    }
}

fn check_map(
    map: &BTreeMap<Box<str>, Box<str>>,
    count_max: usize,
    bytes_max: usize,
) -> Result<(), String> {
    if map.len() > count_max {
        let has = map.len();
        return Err(format!("{has} entries are more than the limit {count_max}"));
    }
    for (name, value) in map {
        ids::name(name, limits::NAME_CHARS_MAX)
            .map_err(|message| format!("the name {name:?} {message}"))?;
        if value.len() > bytes_max {
            let has = value.len();
            return Err(format!(
                "the value of {name:?} has {has} bytes, more than the limit {bytes_max}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Timestamp;
    use crate::config::Config;
    use crate::domain::failures::FailurePolicy;
    use crate::domain::payload::Payload;
    use crate::domain::retry::RetrySettings;

    fn refusal(options: &BatchOptions, items: &[ItemSpec]) -> String {
        let limits = Config::default().limits;
        let error = check_batch(options, items, &limits).expect_err("it is refused");
        let fields: Vec<_> = error.violations().iter().map(|it| &*it.field).collect();
        format!("{} {}", error.reason(), fields.join(" "))
    }

    #[test]
    fn what_is_wrong_is_named() {
        let plain = BatchOptions::default();
        let item = |text: &str| ItemSpec::new(text);
        let large = ItemSpec::new(vec![0; limits::INPUT_BYTES_MAX + 1]);
        let cases = [
            (vec![], "INVALID_FIELD items"),
            (vec![item(""); 10_001], "TOO_MANY_ITEMS items"),
            (vec![item(""), large], "INPUT_TOO_LARGE items[1].input"),
            (
                vec![Payload::json("{").into()],
                "INVALID_FIELD items[0].input",
            ),
            (
                vec![item("").with_id("a"); 2],
                "DUPLICATE_ITEM_ID items[1].id",
            ),
            (
                vec![item("").with_id("a"), item("")],
                "INVALID_FIELD items[1].id",
            ),
            (vec![item("").with_id("")], "INVALID_FIELD items[0].id"),
            (
                vec![item("").with_start_by(Timestamp(-1))],
                "INVALID_FIELD items[0].start_by",
            ),
            (
                vec![item("").with_finish_by(Timestamp(i64::MAX))],
                "INVALID_FIELD items[0].finish_by",
            ),
            (
                vec![item("").with_attribute("a b", "")],
                "INVALID_FIELD items[0].attributes",
            ),
        ];
        for (items, expected) in cases {
            assert_eq!(refusal(&plain, &items), expected);
        }
        let retry = RetrySettings {
            jitter: Some(f64::NAN),
            ..RetrySettings::default()
        };
        let options = BatchOptions {
            item_timeout: Some(Duration::ZERO),
            retry,
            ..plain
        };
        let expected = "INVALID_FIELD options.item_timeout options.retry.jitter";
        assert_eq!(refusal(&options, &[item("")]), expected);
        let options = BatchOptions {
            not_before: Some(Timestamp(-1)),
            max_parallelism: Some(0),
            deadline: Some(Timestamp(i64::MAX)),
            max_duration: Some(Duration::ZERO),
            enough: Some(0),
            failure_policy: Some(FailurePolicy {
                max_failed_items: Some(0),
                max_failed_ratio: Some(1.5),
                ..FailurePolicy::default()
            }),
            ..BatchOptions::default()
        };
        let expected = "INVALID_FIELD options.max_duration options.max_parallelism options.enough \
             options.not_before options.deadline options.failure_policy.max_failed_items \
             options.failure_policy.max_failed_ratio";
        assert_eq!(refusal(&options, &[item("")]), expected);
        let options = BatchOptions {
            failure_policy: Some(FailurePolicy::default()),
            ..BatchOptions::default()
        };
        let expected = "INVALID_FIELD options.failure_policy";
        assert_eq!(refusal(&options, &[item("")]), expected);
    }
}
