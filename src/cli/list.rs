//! `sooner list`: batches, or the items of one.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::answer::{AnswerForm, Lines, json, out};
use super::batch_options::label;
use super::connect::{ServerArguments, Session, Stub};
use super::exit::{Exit, Failure};
use super::json::{BatchJson, ItemJson};
use super::json_list::JsonList;
use super::output::{gist, preview};
use super::shown::{Shown, batch_state, item_state};
use super::tell;
use crate::base::{clock, tasks};
use crate::wire;

/// Rows in one answer: few enough that the first are there at once.
const PAGE_SIZE: usize = 200;

/// Characters of an id or a text that are shown in a table.
const SHOWN_CHARS_MAX: usize = 60;

/// List batches, newest first, or the items of one, in the order of their indexes
///
/// Without an ID it tells batches: how far each is, how many of its items failed or expired, how long
/// ago it was submitted. With one it tells the batch's items. A large output is left out; get ID ITEM
/// has it. `-o json` is one object with all of them, `-o jsonl` a line for each.
///
/// Exit codes: 0 done, even if nothing was found; 2 bad usage; 6 no such batch; 9 the server cannot be
/// reached.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,

    /// Only those in this state, such as running or failed; may be repeated
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    state: Vec<String>,

    /// Only batches with this label; may be repeated, then all must match
    #[arg(long, value_name = "NAME=VALUE", value_parser = label, conflicts_with = "id")]
    label: Vec<(String, String)>,

    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "all",
          value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    /// All of them, however many there are
    #[arg(long)]
    all: bool,

    /// How they are shown
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    output: AnswerForm,

    /// The batch whose items are wanted
    #[arg(value_name = "ID")]
    id: Option<String>,
}

/// How many more are wanted, and what of the table is printed.
struct Listing {
    form: AnswerForm,
    left: usize,
    /// The object that is being printed, if they go into one.
    object: Option<JsonList>,
    /// The width of the column of ids, once there is one.
    width: Option<usize>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let mut session = arguments.server.remote()?.session();
    let listing = Listing {
        form: arguments.output,
        left: if arguments.all {
            usize::MAX
        } else {
            usize::try_from(arguments.limit).unwrap_or(usize::MAX)
        },
        object: None,
        width: None,
    };
    let runtime = tasks::runtime("sooner-client", 1)?;
    let more = runtime.block_on(async {
        match &arguments.id {
            None => list_batches(arguments, &mut session, listing).await,
            Some(id) => list_items(arguments, id, &mut session, listing).await,
        }
    })?;
    if more {
        tell("there are more: raise --limit, or say --all");
    }
    Ok(Exit::Success)
}

/// Lists batches; answers whether there may be more than were wanted.
async fn list_batches(
    arguments: &Arguments,
    session: &mut Session,
    mut listing: Listing,
) -> Result<bool, Failure> {
    let states = states(&arguments.state, "batch", batch_state, 1..=7)?;
    let mut page_token = String::new();
    loop {
        let request = wire::ListBatchesRequest {
            states: states.clone(),
            labels: arguments.label.iter().cloned().collect(),
            page_size: listing.page_size(),
            page_token,
        };
        let answer = session.call(|mut stub: Stub| {
            let request = request.clone();
            async move { stub.list_batches(request).await }
        });
        let answer = answer.await?;
        let batches = &answer.batches[..answer.batches.len().min(listing.left)];
        listing.left -= batches.len();
        let ids = batches.iter().map(|batch| &*batch.batch_id);
        match listing.form {
            AnswerForm::Table => {
                let width = listing.head(ids, |width| {
                    format!(
                        "{:<width$}  {:<10}  {:>15}  {:>7}  {:>4}  {:<12}  LABELS\n",
                        "BATCH", "STATE", "DONE", "FAILED", "AGE", "QUEUE"
                    )
                })?;
                let rows: String = batches
                    .iter()
                    .map(|batch| batch_row(batch, width))
                    .collect();
                out(rows.as_bytes())?;
            }
            AnswerForm::Json => listing.push("batches", batches.iter().map(BatchJson::of))?,
            AnswerForm::Jsonl => print(batches.iter().map(BatchJson::of))?,
            AnswerForm::Name => print_names(ids)?,
        }
        page_token = answer.next_page_token;
        if page_token.is_empty() || listing.left == 0 {
            listing.end("batches")?;
            return Ok(!page_token.is_empty());
        }
    }
}

/// Lists items; answers whether there may be more than were wanted.
async fn list_items(
    arguments: &Arguments,
    id: &str,
    session: &mut Session,
    mut listing: Listing,
) -> Result<bool, Failure> {
    let states = states(&arguments.state, "item", item_state, 1..=6)?;
    let mut page_token = String::new();
    loop {
        let request = wire::ListItemsRequest {
            batch_id: id.to_owned(),
            states: states.clone(),
            page_size: listing.page_size(),
            page_token,
        };
        let answer = session.call(|mut stub: Stub| {
            let request = request.clone();
            async move { stub.list_items(request).await }
        });
        let answer = answer.await?;
        let items = &answer.items[..answer.items.len().min(listing.left)];
        listing.left -= items.len();
        let ids = items.iter().map(|item| &*item.item_id);
        let results = items.iter().map(|item| item.result.as_ref());
        let results: Vec<_> = results.map(|it| it.map(Shown::of_result)).collect();
        let shown = items.iter().zip(&results);
        let shown = shown.map(|(item, result)| ItemJson::of(item, result.as_ref()));
        match listing.form {
            AnswerForm::Table => {
                let width = listing.head(ids, |width| {
                    format!(
                        "{:>7}  {:<width$}  {:<9}  {:>5}  OUTPUT OR ERROR\n",
                        "INDEX", "ITEM", "STATE", "TRIES"
                    )
                })?;
                let rows: String = items.iter().map(|item| item_row(item, width)).collect();
                out(rows.as_bytes())?;
            }
            AnswerForm::Json => listing.push("items", shown)?,
            AnswerForm::Jsonl => print(shown)?,
            AnswerForm::Name => print_names(ids)?,
        }
        page_token = answer.next_page_token;
        if page_token.is_empty() || listing.left == 0 {
            listing.end("items")?;
            return Ok(!page_token.is_empty());
        }
    }
}

impl Listing {
    fn page_size(&self) -> i32 {
        i32::try_from(self.left.clamp(1, PAGE_SIZE)).expect("pages are small")
    }

    /// Prints the rows of a page into the object that holds them all.
    fn push(
        &mut self,
        field: &str,
        mut rows: impl Iterator<Item = impl Serialize>,
    ) -> Result<(), Failure> {
        let object = match &mut self.object {
            Some(object) => object,
            // Only now: what is refused leaves nothing on standard output.
            None => self.object.insert(JsonList::begin(field)?),
        };
        rows.try_for_each(|row| object.push(&row))
    }

    /// Ends the object; in a table that nothing was found is worth saying.
    fn end(self, what: &str) -> Result<(), Failure> {
        match (self.object, self.form, self.width) {
            (Some(object), _, _) => object.end(),
            (None, AnswerForm::Table, None) => out(format!("no {what}\n").as_bytes()),
            (None, _, _) => Ok(()),
        }
    }

    /// Prints the head of the table before its first rows; answers the width of the ids.
    fn head<'a>(
        &mut self,
        ids: impl Iterator<Item = &'a str>,
        head: impl Fn(usize) -> String,
    ) -> Result<usize, Failure> {
        if let Some(width) = self.width {
            return Ok(width);
        }
        let longest = ids.map(|id| id.chars().count()).max();
        let Some(longest) = longest else {
            // Perhaps the next page has some.
            return Ok(0);
        };
        let width = longest.clamp("BATCH".len(), SHOWN_CHARS_MAX + 1);
        self.width = Some(width);
        out(head(width).as_bytes())?;
        Ok(width)
    }
}

/// The numbers of states that someone typed.
fn states(
    typed: &[String],
    of: &str,
    name: fn(i32) -> &'static str,
    numbers: std::ops::RangeInclusive<i32>,
) -> Result<Vec<i32>, Failure> {
    let number = |text: &String| {
        let found = numbers
            .clone()
            .find(|&number| name(number) == text.to_lowercase());
        found.ok_or_else(|| {
            let known: Vec<_> = numbers.clone().map(name).collect();
            let known = known.join(", ");
            let problem = format!("--state {text:?} is not a state of an {of}: {known}");
            Failure::new(Exit::Usage, problem.replace("an batch", "a batch"))
        })
    };
    typed.iter().map(number).collect()
}

fn print(mut rows: impl Iterator<Item = impl Serialize>) -> Result<(), Failure> {
    rows.try_for_each(|row| json(&row, Lines::One))
}

fn print_names<'a>(ids: impl Iterator<Item = &'a str>) -> Result<(), Failure> {
    let lines: String = ids.flat_map(|id| [id, "\n"]).collect();
    out(lines.as_bytes())
}

fn batch_row(batch: &wire::Batch, width: usize) -> String {
    let counts = batch.counts.unwrap_or_default();
    let done = counts.total - counts.pending - counts.running;
    let failed = match counts.failed + counts.expired {
        0 => "-".to_owned(),
        failed => failed.to_string(),
    };
    let state = if batch.paused {
        "paused"
    } else {
        batch_state(batch.state)
    };
    let created = batch.create_time.unwrap_or_default().seconds;
    let age = Duration::from_secs(u64::try_from(clock::now().0 / 1000 - created).unwrap_or(0));
    let mut labels: Vec<_> = batch.labels.iter().collect();
    labels.sort_unstable();
    let labels: Vec<_> = labels
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut row = format!(
        "{:<width$}  {state:<10}  {:>15}  {failed:>7}  {:>4}  {:<12}  {}",
        preview(&batch.batch_id, SHOWN_CHARS_MAX),
        format!("{done}/{}", counts.total),
        brief(age),
        preview(&batch.queue, 12),
        preview(&labels.join(" "), SHOWN_CHARS_MAX),
    );
    row.truncate(row.trim_end().len());
    row.push('\n');
    row
}

fn item_row(item: &wire::Item, width: usize) -> String {
    let result = item.result.as_ref().map(Shown::of_result);
    let tries = match &result {
        Some(result) => result.attempt_count,
        None => item.attempts.last().map_or(0, |attempt| attempt.attempt),
    };
    let mut row = format!(
        "{:>7}  {:<width$}  {:<9}  {tries:>5}  ",
        item.index,
        preview(&item.item_id, SHOWN_CHARS_MAX),
        item_state(item.state),
    );
    let failure = item.attempts.iter().rev().find_map(|it| it.error.as_ref());
    let told = match (&result, failure) {
        (Some(result), _) if result.output_omitted => "(large)".to_owned(),
        (Some(result), _) => gist(result),
        (None, Some(error)) => {
            let message = preview(error.message.trim(), SHOWN_CHARS_MAX);
            format!("after {}: {message}", error.reason)
        }
        (None, None) => String::new(),
    };
    writeln!(row, "{told}").expect("a string takes everything");
    if told.is_empty() {
        row.truncate(row.trim_end().len());
        row.push('\n');
    }
    row
}

/// A time in its largest unit: enough to tell yesterday's batch from today's.
fn brief(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        86_400.. => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_in_their_largest_unit() {
        let told = [0, 59, 60, 3599, 3600, 86_399, 86_400, 864_000];
        let told = told.map(|seconds| brief(Duration::from_secs(seconds)));
        assert_eq!(told, ["0s", "59s", "1m", "59m", "1h", "23h", "1d", "10d"]);
    }

    #[test]
    fn an_unknown_state_is_told_with_those_that_are_known() {
        let typed = ["Failed".to_owned(), "running".to_owned()];
        let of_items = states(&typed, "item", item_state, 1..=6);
        assert_eq!(of_items.unwrap(), [4, 2]);
        let wrong = states(&["done".to_owned()], "batch", batch_state, 1..=7);
        assert_eq!(
            wrong.unwrap_err().message,
            "--state \"done\" is not a state of a batch: open, running, completed, cancelling, \
             cancelled, failed, expired"
        );
    }
}
