//! Lines that are JSON objects, each the description of an item.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::pieces::{self, Next};
use super::{Chunks, wrong};
use crate::base::clock::Timestamp;
use crate::config::parse_duration;
use crate::domain::item::ItemSpec;
use crate::domain::payload::{Body, JSON, Payload};
use crate::domain::retry::RetrySettings;

/// How much longer than its input a line may be: every byte may stand as `\u00ff`, and ids,
/// attributes and reasons come on top.
const ESCAPE_FACTOR: usize = 6;
const SURROUNDINGS_BYTES_MAX: usize = 256 << 10;

/// An item as a line describes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    item_id: Option<Box<str>>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    input_text: Option<Box<str>>,
    #[serde(borrow)]
    input_base64: Option<Cow<'a, str>>,
    content_type: Option<Box<str>>,
    timeout: Option<String>,
    start_by: Option<Box<str>>,
    finish_by: Option<Box<str>>,
    #[serde(default)]
    retry_policy: Retry,
    #[serde(default)]
    attributes: BTreeMap<Box<str>, Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Retry {
    max_attempts: Option<u32>,
    initial_backoff: Option<String>,
    max_backoff: Option<String>,
    multiplier: Option<f64>,
    jitter: Option<f64>,
    non_retryable_reasons: Vec<Box<str>>,
    max_crashes: Option<u32>,
}

/// Reads every line as an item, or the item in `field` of every line. Blank lines are none.
pub(super) fn read(
    field: Option<&str>,
    name: &str,
    mut from: impl BufRead,
    chunks: &mut Chunks,
    item_bytes_max: usize,
) -> io::Result<()> {
    let line_bytes_max = item_bytes_max
        .saturating_mul(ESCAPE_FACTOR)
        .saturating_add(SURROUNDINGS_BYTES_MAX);
    let (mut text, mut line) = (Vec::new(), 0);
    while chunks.is_wanted
        && let Some(next) = pieces::next(&mut from, b'\n', line_bytes_max, &mut text)?
    {
        line += 1;
        if text.len() > line_bytes_max {
            let problem = format!("the line is longer than {line_bytes_max} bytes");
            return Err(wrong(name, line, problem));
        }
        if !text.trim_ascii().is_empty() {
            let item = match field {
                _ if !is_object(&text) => Err("a line is to be a JSON object".to_owned()),
                Some(field) => picked(&text, field),
                None => described(&text),
            };
            item.and_then(|item| chunks.push_described(item, item_bytes_max))
                .map_err(|problem| wrong(name, line, problem))?;
        }
        text.clear();
        if next == Next::MayTakeLong {
            chunks.flush();
        }
    }
    Ok(())
}

/// Whether a line can be an object. The parser would take an array, too, for the fields in their order.
fn is_object(text: &[u8]) -> bool {
    text.trim_ascii_start().starts_with(b"{")
}

fn described(text: &[u8]) -> Result<ItemSpec, String> {
    let line: Line<'_> = serde_json::from_slice(text).map_err(|error| without_line(&error))?;
    let body = match (line.input, line.input_text, line.input_base64) {
        (Some(json), None, None) => {
            let content_type = line.content_type.unwrap_or_else(|| JSON.into());
            (Body::Text(json.get().into()), content_type)
        }
        (None, Some(text), None) => (Body::Text(text), line.content_type.unwrap_or_default()),
        (None, None, Some(base64)) => {
            let data = BASE64_STANDARD
                .decode(base64.as_bytes())
                .map_err(|error| format!("input_base64 is not base64: {error}"))?;
            (
                Body::Data(data.into()),
                line.content_type.unwrap_or_default(),
            )
        }
        (None, None, None) => {
            return Err("has none of input, input_text and input_base64".to_owned());
        }
        _ => return Err("has more than one of input, input_text and input_base64".to_owned()),
    };
    Ok(ItemSpec {
        id: line.item_id,
        input: Payload {
            body: body.0,
            content_type: body.1,
        },
        timeout: duration("timeout", line.timeout.as_ref())?,
        start_by: time("start_by", line.start_by.as_deref())?,
        finish_by: time("finish_by", line.finish_by.as_deref())?,
        retry: retry(line.retry_policy)?,
        attributes: line.attributes,
    })
}

/// The item in one field of an object.
fn picked(text: &[u8], field: &str) -> Result<ItemSpec, String> {
    let object: HashMap<Cow<'_, str>, &RawValue> =
        serde_json::from_slice(text).map_err(|error| without_line(&error))?;
    let input = object
        .get(field)
        .ok_or_else(|| format!("has no field {field:?}"))?;
    let id = object.get("item_id").map(|id| {
        serde_json::from_str::<Box<str>>(id.get()).map_err(|_| "item_id is not a string".to_owned())
    });
    Ok(ItemSpec {
        id: id.transpose()?,
        input: match serde_json::from_str::<Box<str>>(input.get()) {
            Ok(text) => Payload::text(text),
            Err(_) => Payload {
                body: Body::Text(input.get().into()),
                content_type: JSON.into(),
            },
        },
        ..ItemSpec::default()
    })
}

fn retry(retry: Retry) -> Result<RetrySettings, String> {
    let backoff =
        |name: &str, text: Option<&String>| duration(&format!("retry_policy.{name}"), text);
    Ok(RetrySettings {
        max_attempts: retry.max_attempts,
        initial_backoff: backoff("initial_backoff", retry.initial_backoff.as_ref())?,
        max_backoff: backoff("max_backoff", retry.max_backoff.as_ref())?,
        multiplier: retry.multiplier,
        jitter: retry.jitter,
        non_retryable_reasons: retry.non_retryable_reasons,
        max_crashes: retry.max_crashes,
    })
}

fn duration(name: &str, text: Option<&String>) -> Result<Option<Duration>, String> {
    text.map(|text| parse_duration(text).map_err(|problem| format!("{name}: {problem}")))
        .transpose()
}

fn time(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, String> {
    let Some(text) = text else { return Ok(None) };
    let time: jiff::Timestamp = text
        .parse()
        .map_err(|_| format!("{name}: {text:?} is not a time such as \"2030-01-31T08:00:00Z\""))?;
    Ok(Some(Timestamp(time.as_millisecond())))
}

/// What is wrong, with the column; the parser takes every line for the first.
fn without_line(error: &serde_json::Error) -> String {
    let told = error.to_string();
    let problem = told
        .rsplit_once(" at line ")
        .map_or(&*told, |(problem, _)| problem);
    match error.column() {
        0 => problem.to_owned(),
        column => format!("{problem} (column {column})"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, tests};
    use super::*;

    fn read(text: &str, field: Option<&str>) -> (Vec<ItemSpec>, Option<String>) {
        let field = field.map(str::to_owned);
        let (items, end) = tests::read(Format::JsonLines { field }, text.as_bytes(), 40);
        (items, end.err().map(|error| error.to_string()))
    }

    #[test]
    fn a_line_describes_an_item_with_all_its_fields() {
        let text = r#"
            {"item_id":"a","input":{"n": 1.10},"timeout":"1s","attributes":{"k":"v"},"retry_policy":{"max_attempts":5,"max_backoff":"2s"}}

            {"item_id":"b","input_text":"t","content_type":"text/csv","start_by":"2031-01-31T08:00:00Z","finish_by":"2031-01-31T10:00:00.5+01:00"}
            {"item_id":"c","input_base64":"Zm//"}"#;
        let (items, end) = read(text, None);
        assert_eq!(end, None);
        assert_eq!(items[0].input.as_text(), Some(r#"{"n": 1.10}"#));
        assert_eq!(&*items[0].input.content_type, JSON);
        assert_eq!(items[0].timeout, Some(Duration::from_secs(1)));
        assert_eq!(items[0].retry.max_attempts, Some(5));
        assert_eq!(items[0].retry.max_backoff, Some(Duration::from_secs(2)));
        assert_eq!(&*items[0].attributes["k"], "v");
        assert_eq!(&*items[1].input.content_type, "text/csv");
        let times = (items[1].start_by, items[1].finish_by);
        let eight = 1_927_612_800_000;
        let told = (Some(Timestamp(eight)), Some(Timestamp(eight + 3_600_500)));
        assert_eq!(times, told);
        assert_eq!((items[0].start_by, items[0].finish_by), (None, None));
        assert_eq!(items[2].input.bytes(), b"fo\xff");
    }

    #[test]
    fn a_field_is_picked_as_text_or_as_json() {
        let text = "{\"url\":\"http://a\",\"item_id\":\"x\",\"n\":1}\n{\"url\":[1,  2],\"item_id\":\"y\"}\n";
        let (items, end) = read(text, Some("url"));
        assert_eq!(end, None);
        assert_eq!(items[0].input, Payload::text("http://a"));
        assert_eq!(items[0].id.as_deref(), Some("x"));
        assert_eq!(items[1].input.as_text(), Some("[1,  2]"));
        assert_eq!(&*items[1].input.content_type, JSON);
    }

    #[test]
    fn a_bad_line_is_told_with_its_place() {
        for (line, says) in [
            ("{\"input\":", "EOF while parsing"),
            ("{\"inptu\":1}", "unknown field `inptu`"),
            ("{}", "has none of input"),
            ("{\"input\":1,\"input_text\":\"\"}", "has more than one of"),
            ("{\"input_base64\":\"?\"}", "input_base64 is not base64"),
            (
                "{\"input\":1,\"timeout\":\"5\"}",
                "timeout: \"5\" is not a duration",
            ),
            ("{\"input\":1,\"timeout\":\"0s\"}", "timeout: 0ns is below"),
            (
                "{\"input\":1,\"start_by\":\"noon\"}",
                "start_by: \"noon\" is not a time",
            ),
            (
                "{\"input\":1,\"finish_by\":\"2999-01-01T00:00:00Z\"}",
                "finish_by: is not a time from 1970",
            ),
            (
                "{\"input\":1,\"item_id\":\"a\"}",
                "although earlier items have none",
            ),
            ("{\"input\":1,\"item_id\":\"\"}", "item_id is empty"),
            (
                "{\"input\":1,\"retry_policy\":{\"jitter\":2}}",
                "retry_policy.jitter: 2",
            ),
            (
                "{\"input\":1,\"attributes\":{\"a b\":\"\"}}",
                "attributes: the name",
            ),
            ("[1]", "is to be a JSON object"),
            ("[]", "is to be a JSON object"),
            (
                r#"["x",1,null,null,null,null,null,null,{},{}]"#,
                "is to be a JSON object",
            ),
        ] {
            let (items, end) = read(
                &format!("{{\"input\":1}}\n\n{line}\n{{\"input\":2}}\n"),
                None,
            );
            let end = end.unwrap();
            assert!(end.starts_with("list:3: "), "{end}");
            assert!(end.contains(says), "{end}\n  does not say {says}");
            assert_eq!(items.len(), 1);
        }
        let (_, end) = read("{\"a\":1}\n", Some("b"));
        assert_eq!(end.unwrap(), "list:1: has no field \"b\"");
    }
}
