//! What a person calls the fields of a request: the flags that set them, and the fields of an input's
//! lines.

/// A field's name in the API, and the flag or argument by which a person sets it. Which message a field
/// is in tells calls apart; an index or a key in brackets is none of the name.
const NAMES: &[(&str, &str)] = &[
    ("start.batch_id", "--batch-id"),
    ("start.queue", "--queue"),
    ("start.options.item_timeout", "--item-timeout"),
    ("start.options.retry_policy.max_attempts", "--max-attempts"),
    ("start.options.labels", "--label"),
    ("start.options.priority", "--priority"),
    ("start.options.max_parallelism", "--max-parallelism"),
    ("start.options.not_before", "--not-before"),
    ("start.options.deadline", "--deadline"),
    ("start.options.max_duration", "--max-duration"),
    ("start.options.enough", "--enough"),
    ("start.options.at_most_once", "--at-most-once"),
    (
        "start.options.failure_policy.max_failed_items",
        "--max-failed",
    ),
    (
        "start.options.failure_policy.max_failed_ratio",
        "--max-failed-ratio",
    ),
    ("start.options.failure_policy.action", "--on-failures"),
    ("start.options.failure_policy", "--max-failed"),
    ("start.options.retention", "--retention"),
    ("sooner-tenant", "--tenant"),
    ("after_sequence", "--after"),
    ("after_index", "--after"),
    ("page_size", "--limit"),
    ("labels", "--label"),
    ("states", "--state"),
    ("before", "--before"),
    ("reason", "--reason"),
    ("request_id", "--request-id"),
    ("batch_id", "the batch's ID"),
    ("item_id", "ITEM"),
    ("item_ids", "ITEM"),
];

/// What a person reads in place of a field's path. A field that nobody can set stays as it is.
pub(super) fn told(path: &str) -> String {
    if let Some(of_item) = of_item(path) {
        return of_item.to_owned();
    }
    let (name, key) = match path.split_once('[') {
        Some((name, key)) => (name, key.trim_end_matches(']')),
        None => (path, ""),
    };
    let Some((_, said)) = NAMES.iter().find(|(known, _)| *known == name) else {
        return path.to_owned();
    };
    if key.is_empty() || key.bytes().all(|byte| byte.is_ascii_digit()) {
        (*said).to_owned()
    } else {
        format!("{said} {key}")
    }
}

/// The field of an item, as a line of the input names it.
fn of_item(path: &str) -> Option<&str> {
    let (_, field) = path.strip_prefix("items.items[")?.split_once(']')?;
    Some(field.strip_prefix('.').unwrap_or("the item"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn a_field_is_told_as_a_person_sets_it() {
        for (path, name) in [
            ("start.options.retention", "--retention"),
            ("start.options.labels", "--label"),
            ("start.options.labels[\"a b\"]", "--label \"a b\""),
            ("states[1]", "--state"),
            ("items.items[3].input", "input"),
            (
                "items.items[3].retry_policy.max_attempts",
                "retry_policy.max_attempts",
            ),
            ("items.items[3]", "the item"),
            ("start.open_timeout", "start.open_timeout"),
        ] {
            assert_eq!(told(path), name, "{path}");
        }
    }

    /// Every flag that is told is one that a command takes.
    #[test]
    fn the_flags_are_there() {
        fn flags(command: &clap::Command, all: &mut Vec<String>) {
            let own = command.get_arguments().filter_map(clap::Arg::get_long);
            all.extend(own.map(|flag| format!("--{flag}")));
            for command in command.get_subcommands() {
                flags(command, all);
            }
        }
        let mut all = Vec::new();
        flags(&super::super::Arguments::command(), &mut all);
        for (path, flag) in NAMES.iter().filter(|(_, name)| name.starts_with("--")) {
            assert!(all.iter().any(|known| known == flag), "{path}: {flag}");
        }
    }

    /// Whatever of a batch's settings has a flag is told by it.
    #[test]
    fn every_setting_of_a_batch_has_its_flag() {
        let command = super::super::Arguments::command();
        let submit = command.find_subcommand("submit").expect("it is there");
        let group = submit
            .get_groups()
            .find(|group| group.get_id() == "OptionArguments")
            .expect("settings are a group");
        for id in group.get_args() {
            let flag = format!("--{}", id.as_str().replace('_', "-"));
            assert!(NAMES.iter().any(|(_, name)| *name == flag), "{flag}");
        }
    }
}
