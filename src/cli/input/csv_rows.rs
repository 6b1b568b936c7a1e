//! Rows of CSV, each an item.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, Read};

use super::{Chunks, READ_BYTES, wrong};
use crate::domain::item::ItemSpec;
use crate::domain::payload::{Body, JSON, Payload};

/// How much longer than its item a row may be: each byte a doubled quote, and room for columns that
/// are left out.
const QUOTE_FACTOR: usize = 2;
const SURROUNDINGS_BYTES_MAX: usize = 1 << 20;

/// The column that names items.
const ID: &str = "item_id";

/// What is read, measured from one row to the next: a quote that nobody closes would make the rest
/// of the input one row.
struct Measured<'a, 'c, R> {
    from: R,
    chunks: &'a RefCell<&'c mut Chunks>,
    row_bytes: &'a Cell<usize>,
    row_bytes_max: usize,
}

impl<R: Read> Read for Measured<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.row_bytes.get() > self.row_bytes_max {
            let max = self.row_bytes_max;
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the row is longer than {max} bytes; is a quote not closed?"),
            ));
        }
        // The next row may take long; those read so far must not wait for it.
        self.chunks.borrow_mut().flush();
        let read = self.from.read(buffer)?;
        self.row_bytes.set(self.row_bytes.get() + read);
        Ok(read)
    }
}

/// Reads every row behind the first as an item, or the item in the column `field` of every row.
pub(super) fn read(
    field: Option<&str>,
    name: &str,
    from: impl BufRead,
    chunks: &mut Chunks,
    item_bytes_max: usize,
) -> io::Result<()> {
    let chunks = RefCell::new(chunks);
    let row_bytes = Cell::new(0);
    let row_bytes_max = item_bytes_max
        .saturating_mul(QUOTE_FACTOR)
        .saturating_add(SURROUNDINGS_BYTES_MAX);
    let mut rows = csv::ReaderBuilder::new()
        .buffer_capacity(READ_BYTES)
        .from_reader(Measured {
            from,
            chunks: &chunks,
            row_bytes: &row_bytes,
            row_bytes_max,
        });
    let columns = rows
        .headers()
        .map_err(|error| placed(name, 1, error))?
        .clone();
    let columns = Columns::of(&columns, field).map_err(|problem| wrong(name, 1, problem))?;
    let mut row = csv::StringRecord::new();
    while chunks.borrow().is_wanted {
        row_bytes.set(0);
        let begins = rows.position().line();
        if !rows
            .read_record(&mut row)
            .map_err(|error| placed(name, begins, error))?
        {
            break;
        }
        let line = row.position().map_or(begins, csv::Position::line);
        let pushed = chunks
            .borrow_mut()
            .push_described(columns.item(&row), item_bytes_max);
        pushed.map_err(|problem| wrong(name, line, problem))?;
    }
    Ok(())
}

/// The columns by name.
struct Columns {
    /// As JSON strings, in their order.
    names: Vec<String>,
    id: Option<usize>,
    field: Option<usize>,
}

impl Columns {
    fn of(names: &csv::StringRecord, field: Option<&str>) -> Result<Self, String> {
        for (i, name) in names.iter().enumerate() {
            if names.iter().take(i).any(|earlier| earlier == name) {
                return Err(format!("two columns are named {name:?}"));
            }
        }
        let find = |name: &str| names.iter().position(|column| column == name);
        let field = field.map(|field| {
            find(field).ok_or_else(|| {
                let there: Vec<_> = names.iter().collect();
                format!("there is no column {field:?}, only {}", there.join(", "))
            })
        });
        Ok(Self {
            names: names.iter().map(json).collect(),
            id: find(ID),
            field: field.transpose()?,
        })
    }

    fn item(&self, row: &csv::StringRecord) -> ItemSpec {
        let input = match self.field {
            Some(field) => Payload::text(&row[field]),
            None => Payload {
                body: Body::Text(self.object(row).into()),
                content_type: JSON.into(),
            },
        };
        ItemSpec {
            id: self.id.map(|id| row[id].into()),
            input,
            ..ItemSpec::default()
        }
    }

    /// The row as a JSON object, its fields in the order of the columns.
    fn object(&self, row: &csv::StringRecord) -> String {
        let fields = self.names.iter().zip(row.iter());
        let fields: Vec<_> = fields
            .map(|(name, value)| format!("{name}:{}", json(value)))
            .collect();
        format!("{{{}}}", fields.join(","))
    }
}

fn json(text: &str) -> String {
    serde_json::to_string(text).expect("a string is JSON")
}

/// An error of the reader: of the system below it, or of the row that begins in this line.
fn placed(name: &str, line: u64, error: csv::Error) -> io::Error {
    let line = error.position().map_or(line, csv::Position::line);
    let told = if let csv::ErrorKind::UnequalLengths {
        expected_len, len, ..
    } = error.kind()
    {
        format!("the row has {len} fields, the first row {expected_len}")
    } else if let csv::ErrorKind::Utf8 { err, .. } = error.kind() {
        format!("field {} is not UTF-8", err.field() + 1)
    } else {
        error.to_string()
    };
    if let csv::ErrorKind::Io(error) = error.into_kind() {
        if error.kind() == io::ErrorKind::InvalidData {
            return wrong(name, line, error);
        }
        return error;
    }
    wrong(name, line, told)
}

#[cfg(test)]
mod tests {
    use super::super::{Format, tests};
    use super::*;

    fn read(text: &[u8], field: Option<&str>) -> (Vec<ItemSpec>, Option<String>) {
        let field = field.map(str::to_owned);
        let (items, end) = tests::read(Format::Csv { field }, text, 100);
        (items, end.err().map(|error| error.to_string()))
    }

    #[test]
    fn a_row_is_a_json_object_and_may_name_its_item() {
        let (items, end) = read(
            b"item_id,b,a\r\nx,1,\"say \"\"hi\"\",\nthere\"\r\ny,,\n",
            None,
        );
        assert_eq!(end, None);
        assert_eq!(
            items[0].input.as_text(),
            Some(r#"{"item_id":"x","b":"1","a":"say \"hi\",\nthere"}"#)
        );
        assert_eq!(items[1].id.as_deref(), Some("y"));
        let (items, end) = read(b"a,b\n1,2\n", Some("b"));
        assert_eq!(end, None);
        assert_eq!((items[0].input.as_text(), &items[0].id), (Some("2"), &None));
    }

    #[test]
    fn a_bad_row_is_told_with_its_place() {
        for (text, field, says) in [
            (
                &b"a,b\n\"1\n2\",2\n3\n"[..],
                None,
                "list:4: the row has 1 fields, the first row 2",
            ),
            (b"a,b\n1,\xff\n", None, "list:2: field 2 is not UTF-8"),
            (b"a,a\n", None, "list:1: two columns are named \"a\""),
            (
                b"a,b\n",
                Some("c"),
                "list:1: there is no column \"c\", only a, b",
            ),
            (b"item_id\na\n\"\"\n", None, "list:3: item_id is empty"),
        ] {
            assert_eq!(read(text, field).1.as_deref(), Some(says));
        }
    }

    #[test]
    fn a_quote_that_nobody_closes_does_not_swallow_the_input() {
        let mut text = b"a\n1\n\"".to_vec();
        text.resize(SURROUNDINGS_BYTES_MAX * 3, b'x');
        let (items, end) = read(&text, None);
        assert_eq!(items.len(), 1);
        let end = end.unwrap();
        assert!(end.starts_with("list:3: the row is longer than"), "{end}");
    }
}
