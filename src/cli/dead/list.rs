//! `sooner dead list`: what failed, how often for which reason, and the items themselves.

use std::fmt::Write as _;
use std::time::Duration;

use super::FilterArguments;
use super::letter_json::{LetterJson, LettersJson};
use crate::base::{clock, tasks};
use crate::cli::answer::{AnswerForm, Lines, json, out};
use crate::cli::connect::{AdminStub, ServerArguments, Session};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::preview;
use crate::cli::shown::item_state;
use crate::wire;

/// Characters of a batch's or an item's name that are shown.
const NAME_CHARS_MAX: usize = 36;

/// Characters of a message that are shown.
const MESSAGE_CHARS_MAX: usize = 60;

/// Rows that are asked for at once.
const PAGE_ROWS: usize = 1000;

/// List dead letters
///
/// On top how many there are for which reason, below it the newest of them. `-o json` is one object
/// with all that is known, `-o jsonl` a line a letter, `-o name` a line with the batch and the item.
///
/// Exit codes: 0 they were listed, also if there are none; 2 bad usage; 6 no such batch; 9 the server
/// cannot be reached.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,

    #[command(flatten)]
    filter: FilterArguments,

    /// Also those that were redriven, with the batch that runs them again
    #[arg(long)]
    redriven: bool,

    /// List so many at most
    #[arg(long, value_name = "N", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    /// How they are shown
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    output: AnswerForm,

    /// Those of this batch
    #[arg(value_name = "BATCH", default_value = "", hide_default_value = true)]
    batch: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let mut session = arguments.server.remote()?.session();
    let runtime = tasks::runtime("sooner-client", 1)?;
    let list = runtime.block_on(letters(arguments, &mut session))?;
    match arguments.output {
        AnswerForm::Table => out(table(arguments, &list).as_bytes())?,
        AnswerForm::Json => json(&LettersJson::of(&list), Lines::Many)?,
        AnswerForm::Jsonl => {
            for letter in &list.dead_letters {
                json(&LetterJson::of(letter), Lines::One)?;
            }
        }
        AnswerForm::Name => {
            for letter in &list.dead_letters {
                out(format!("{} {}\n", letter.batch_id, letter.item_id).as_bytes())?;
            }
        }
    }
    Ok(Exit::Success)
}

/// As many as were asked for in one answer: that of the first page, with the rows of all.
async fn letters(
    arguments: &Arguments,
    session: &mut Session,
) -> Result<wire::ListDeadLettersResponse, Failure> {
    let mut list: Option<wire::ListDeadLettersResponse> = None;
    let limit = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    loop {
        let (got, token) = list.as_ref().map_or((0, ""), |list| {
            (list.dead_letters.len(), list.next_page_token.as_str())
        });
        let left = limit.saturating_sub(got).min(PAGE_ROWS);
        let request = wire::ListDeadLettersRequest {
            queue: arguments.filter.queue.clone(),
            batch_id: arguments.batch.clone(),
            reason: arguments.filter.reason.clone(),
            states: arguments.filter.states(),
            before: arguments.filter.before(),
            include_redriven: arguments.redriven,
            page_size: i32::try_from(left).expect("a page is short"),
            page_token: token.to_owned(),
        };
        let page = session.call_admin(|mut stub: AdminStub| {
            let request = request.clone();
            async move { stub.list_dead_letters(request).await }
        });
        let page = page.await?;
        let list = match &mut list {
            Some(list) => {
                list.dead_letters.extend(page.dead_letters);
                list.next_page_token = page.next_page_token;
                list
            }
            None => list.insert(page),
        };
        let got = list.dead_letters.len();
        if list.next_page_token.is_empty() && got <= limit {
            // All of them are here: whatever the server did not count can be.
            count(list);
        } else if got < limit {
            continue;
        }
        list.dead_letters.truncate(limit);
        return Ok(std::mem::take(list));
    }
}

/// Counts the reasons of a list that is whole, if the server has not.
fn count(list: &mut wire::ListDeadLettersResponse) {
    if !std::mem::take(&mut list.reasons_partial) {
        return;
    }
    list.reasons.clear();
    for letter in &list.dead_letters {
        let reason = letter.error.as_ref().map(|error| error.reason.clone());
        *list.reasons.entry(reason.unwrap_or_default()).or_default() += 1;
    }
}

fn table(arguments: &Arguments, list: &wire::ListDeadLettersResponse) -> String {
    let total: u64 = list.reasons.values().sum();
    if total == 0 && list.dead_letters.is_empty() && !list.reasons_partial {
        return "no dead letters\n".to_owned();
    }
    let mut told = String::new();
    let at_least = if list.reasons_partial {
        "at least "
    } else {
        ""
    };
    let (letters, s) = (
        format!("{at_least}{total} dead letter"),
        if total == 1 { "" } else { "s" },
    );
    writeln!(told, "{letters}{s}").expect("a string takes everything");
    let mut reasons: Vec<_> = list.reasons.iter().collect();
    reasons.sort_unstable_by_key(|&(reason, count)| (std::cmp::Reverse(*count), reason));
    for (reason, count) in reasons {
        writeln!(told, "{count:>7}  {reason}").expect("a string takes everything");
    }
    if list.dead_letters.is_empty() {
        return told;
    }
    told.push('\n');
    told.push_str(&rows(arguments, list));
    let shown = list.dead_letters.len();
    if !list.next_page_token.is_empty() {
        let more = format!("\nthe newest {shown} are shown; --limit shows more\n");
        told.push_str(&more);
    }
    told
}

fn rows(arguments: &Arguments, list: &wire::ListDeadLettersResponse) -> String {
    let head = [
        "BATCH",
        "ITEM",
        "STATE",
        "REASON",
        "TRIES",
        "AGE",
        "REDRIVEN TO",
        "MESSAGE",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(list.dead_letters.iter().map(row));
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let widest = rows.iter().map(|row| row[column].chars().count()).max();
            widest.unwrap_or_default()
        })
        .collect();
    let mut told = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, text) in row.iter().enumerate() {
            if head[column] == "REDRIVEN TO" && !arguments.redriven {
                continue;
            }
            let width = widths[column];
            // Numbers end below each other, words begin there.
            let padded = if ["TRIES", "AGE"].contains(&head[column]) {
                format!("{text:>width$}  ")
            } else {
                format!("{text:<width$}  ")
            };
            line.push_str(&padded);
        }
        writeln!(told, "{}", line.trim_end()).expect("a string takes everything");
    }
    told
}

fn row(letter: &wire::DeadLetter) -> [String; 8] {
    let error = letter.error.clone().unwrap_or_default();
    let lines = error.message.trim().lines();
    // The last line of a program's standard error most often says it.
    let message = lines.last().unwrap_or_default();
    [
        preview(&letter.batch_id, NAME_CHARS_MAX),
        preview(&letter.item_id, NAME_CHARS_MAX),
        item_state(letter.state).to_owned(),
        error.reason,
        letter.attempt_count.to_string(),
        age(letter.finish_time.as_ref()),
        preview(&letter.redriven_to, NAME_CHARS_MAX),
        preview(message, MESSAGE_CHARS_MAX),
    ]
}

/// How long ago that was, in its largest unit.
fn age(time: Option<&prost_types::Timestamp>) -> String {
    let Some(time) = time.filter(|time| time.seconds > 0) else {
        return "?".to_owned();
    };
    let now = clock::now().0.div_euclid(1000);
    let ago = u64::try_from(now - time.seconds).unwrap_or_default();
    rounded(Duration::from_secs(ago))
}

fn rounded(ago: Duration) -> String {
    let seconds = ago.as_secs();
    let units = [("d", 86_400), ("h", 3600), ("m", 60)];
    let unit = units.into_iter().find(|(_, unit)| seconds >= *unit);
    let (name, unit) = unit.unwrap_or(("s", 1));
    format!("{}{name}", seconds / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_in_their_largest_unit() {
        let rows = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (7199, "1h"),
            (86_400, "1d"),
            (10 * 86_400 - 1, "9d"),
        ];
        for (seconds, told) in rows {
            assert_eq!(rounded(Duration::from_secs(seconds)), told);
        }
        assert_eq!(age(None), "?");
    }
}
