//! What goes into an item and what comes out.

use bytes::Bytes;

use crate::base::limits;

/// Content and its media type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The content.
    pub body: Body,
    /// Media type as the caller gave it; empty stands for the default of the body's kind.
    pub content_type: Box<str>,
}

/// Raw bytes or text; callers get back which of the two they, or a handler, put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Raw bytes.
    Data(Bytes),
    /// UTF-8 text.
    Text(Box<str>),
}

/// The media type of JSON text, which is validated at accept.
pub const JSON: &str = "application/json";

impl Payload {
    /// Text of the default media type.
    pub fn text(text: impl Into<Box<str>>) -> Self {
        Self {
            body: Body::Text(text.into()),
            content_type: "".into(),
        }
    }

    /// Bytes of the default media type.
    pub fn data(data: impl Into<Bytes>) -> Self {
        Self {
            body: Body::Data(data.into()),
            content_type: "".into(),
        }
    }

    /// JSON text. As an input it must be valid; numbers and the order of keys stay as they are.
    pub fn json(text: impl Into<Box<str>>) -> Self {
        Self::text(text).with_content_type(JSON)
    }

    /// The same content with a media type: printable ASCII, at most 256 bytes.
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<Box<str>>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// Text if the bytes are valid UTF-8, else data: how a program's output becomes a payload.
    pub fn sniff(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self::text(text),
            Err(error) => Self::data(error.into_bytes()),
        }
    }

    /// The content as bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.body {
            Body::Data(data) => data,
            Body::Text(text) => text.as_bytes(),
        }
    }

    /// The content as text, if it is some.
    pub fn as_text(&self) -> Option<&str> {
        match &self.body {
            Body::Data(data) => std::str::from_utf8(data).ok(),
            Body::Text(text) => Some(text),
        }
    }

    /// Checks what a caller sent, apart from its size.
    pub fn check(&self) -> Result<(), String> {
        self.check_content_type()?;
        if let Body::Text(text) = &self.body
            && is_json(&self.content_type)
        {
            // Nothing is built from it: numbers and key order stay as they came.
            serde_json::from_str::<&serde_json::value::RawValue>(text)
                .map_err(|error| format!("text is not valid JSON: {error}"))?;
        }
        Ok(())
    }

    /// Checks the media type alone: what it says of the content is for its readers.
    pub fn check_content_type(&self) -> Result<(), String> {
        let content_type = &self.content_type;
        if content_type.len() > limits::CONTENT_TYPE_BYTES_MAX {
            let (has, max) = (content_type.len(), limits::CONTENT_TYPE_BYTES_MAX);
            return Err(format!(
                "content_type has {has} bytes, more than the limit {max}"
            ));
        }
        if !content_type
            .bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic())
        {
            return Err("content_type holds something other than printable ASCII".to_owned());
        }
        Ok(())
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self::data(Bytes::new())
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<Vec<u8>> for Payload {
    fn from(data: Vec<u8>) -> Self {
        Self::data(data)
    }
}

impl From<Bytes> for Payload {
    fn from(data: Bytes) -> Self {
        Self::data(data)
    }
}

/// The longest beginning of `text` that has at most `bytes_max` bytes.
pub fn clip(text: &str, bytes_max: usize) -> &str {
    let most = bytes_max.min(text.len());
    let end = (0..=most)
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0);
    &text[..end]
}

/// Whether a media type says JSON, whatever its parameters.
pub fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(JSON)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_text_is_validated_and_left_as_it_is() {
        let json = |text: &str| Payload {
            body: Body::Text(text.into()),
            content_type: JSON.into(),
        };
        assert!(
            json(r#"{"n": 12345678901234567890.10, "a":1}"#)
                .check()
                .is_ok()
        );
        assert!(
            json(r#"{"n": }"#)
                .check()
                .unwrap_err()
                .contains("not valid JSON")
        );
        assert!(
            Payload::text("{").check().is_ok(),
            "only what says it is JSON must be"
        );
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(clip("aä", 3), "aä");
        assert_eq!(clip("aä", 2), "a");
        assert_eq!(clip("ä", 1), "");
    }

    #[test]
    fn bytes_become_text_where_they_are_text() {
        assert_eq!(Payload::sniff(b"ok\n".to_vec()), Payload::text("ok\n"));
        assert_eq!(Payload::sniff(vec![0xff]), Payload::data(vec![0xff]));
    }
}
