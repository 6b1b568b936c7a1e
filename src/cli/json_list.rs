//! A JSON object that holds one list, printed as the list comes: its length costs no memory.

use serde::Serialize;

use super::answer::out;
use super::exit::Failure;

/// The object.
#[derive(Debug)]
pub(super) struct JsonList {
    is_empty: bool,
}

impl JsonList {
    /// Begins an object whose one field is the list.
    pub(super) fn begin(field: &str) -> Result<Self, Failure> {
        out(head(field).as_bytes())?;
        Ok(Self { is_empty: true })
    }

    /// Prints the next entry.
    pub(super) fn push(&mut self, entry: &impl Serialize) -> Result<(), Failure> {
        let is_first = std::mem::take(&mut self.is_empty);
        out(row(is_first, entry).as_bytes())
    }

    /// Ends the object.
    pub(super) fn end(self) -> Result<(), Failure> {
        out(tail(self.is_empty).as_bytes())
    }
}

fn head(field: &str) -> String {
    format!("{{\n  \"{field}\": [")
}

fn row(is_first: bool, entry: &impl Serialize) -> String {
    let json = serde_json::to_string_pretty(entry).expect("our own shapes are JSON");
    let comma = if is_first { "" } else { "," };
    // No text holds a raw line break: each begins a line of the layout.
    format!("{comma}\n    {}", json.replace('\n', "\n    "))
}

fn tail(is_empty: bool) -> &'static str {
    if is_empty { "]\n}\n" } else { "\n  ]\n}\n" }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_laid_out_as_if_it_had_been_printed_at_once() {
        let entries = [json!({"a": "x\ny", "b": [1, {}]}), json!({"a": []})];
        for count in 0..=entries.len() {
            let rows = entries[..count].iter().enumerate();
            let rows: String = rows.map(|(i, entry)| row(i == 0, entry)).collect();
            let printed = head("rows") + &rows + tail(count == 0);
            let whole = json!({"rows": entries[..count]});
            assert_eq!(printed, format!("{whole:#}\n"));
        }
    }
}
