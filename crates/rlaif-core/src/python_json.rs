//! JSON as Python's `json.dumps` writes it: with `NaN`, `Infinity` and `-Infinity`, which are not
//! JSON, with numbers that are too large, and with halves of a surrogate pair, of strings that were
//! cut in the middle of a character. And rows of JSON Lines, one for each line.

use std::borrow::Cow;
use std::str::Utf8Error;

use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;

/// A line that is not a row.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Bytes that are not UTF-8.
    #[error(transparent)]
    NotUtf8(#[from] Utf8Error),
    /// Text that is not JSON, or JSON that is not such a row.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// The row on a line of JSON Lines; `None` for a blank line.
///
/// A byte-order mark is passed over, as it is at each beginning in files that were joined. What
/// Python writes and JSON does not have is read as in every file of rows: a number that is not finite
/// is null, and half of a surrogate pair the replacement character.
///
/// ```
/// use rlaif_core::python_json::line;
/// let row: Option<serde_json::Value> = line(br#"{"a": NaN, "b": "\ud83d", "c": 1}"#)?;
/// assert_eq!(row.unwrap().to_string(), "{\"a\":null,\"b\":\"\u{fffd}\",\"c\":1}");
/// # Ok::<(), rlaif_core::python_json::LineError>(())
/// ```
///
/// # Errors
/// [`LineError`].
pub fn line<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<T>, LineError> {
    let text = std::str::from_utf8(bytes)?.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Ok(None);
    }
    let error = match serde_json::from_str(text) {
        Ok(row) => return Ok(Some(row)),
        Err(error) => error,
    };
    let mended = mended(text);
    let (replaced, numbers) = NotFiniteNumbers::replaced(&mended);
    if mended == text && numbers.is_empty() {
        return Err(named::<T>(text, error).into());
    }
    // Other damage stays damage.
    let Ok(mut row) = serde_json::from_str::<Value>(&replaced) else { return Err(error.into()) };
    numbers.settle("", &mut row, &mut Vec::new());
    Ok(Some(serde_json::from_value(row)?))
}

/// The value itself, or the list or object that it has as JSON text.
pub fn json_text(value: &Value) -> Cow<'_, Value> {
    let nested = value.as_str().map(str::trim_start).filter(|text| text.starts_with(['[', '{']));
    match nested.and_then(|text| serde_json::from_str(&mended(text)).ok()) {
        Some(value) => Cow::Owned(value),
        None => Cow::Borrowed(value),
    }
}

/// The remedy for a line that is not a whole JSON value, to put behind the parser's message.
pub fn remedy(error: &serde_json::Error) -> &'static str {
    match error.is_eof() {
        true => {
            "; JSON Lines needs each object whole on one line (`jq -c . FILE` writes it so), and a \
             file that was cut off needs to be copied again"
        }
        false => "",
    }
}

/// The error with the key of the wrong value, where it does not say it itself.
fn named<T: DeserializeOwned>(text: &str, error: serde_json::Error) -> serde_json::Error {
    if !error.is_data() {
        return error;
    }
    let mut row = serde_json::Deserializer::from_str(text);
    let Err(found) = serde_path_to_error::deserialize::<_, T>(&mut row) else { return error };
    let (path, said) = (found.path().to_string(), error.to_string());
    // Types that are read twice give no path.
    if path == "." || path == "?" || said.contains(&format!("`{path}`")) {
        return error;
    }
    serde_json::Error::custom(format!("`{path}`: {said}"))
}

/// The places of numbers that are not finite, with Python's spelling of each.
pub type Places = Vec<(String, &'static str)>;

/// The text with the replacement character in place of each half that has no other half.
pub fn mended(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut out = String::new();
    let (mut at, mut copied) = (0, 0);
    while let Some(found) = bytes[at..].iter().position(|&byte| byte == b'\\') {
        at += found;
        let step = match unit(&bytes[at..]) {
            Some(0xd800..=0xdbff) if matches!(unit(&bytes[at + 6..]), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                out.push_str(&text[copied..at]);
                out.push_str("\\ufffd");
                copied = at + 6;
                6
            }
            Some(_) => 6,
            // Another escape, of two bytes.
            None => 2,
        };
        at = (at + step).min(bytes.len());
    }
    if copied == 0 {
        return text.into();
    }
    out.push_str(&text[copied..]);
    out.into()
}

/// The number of an escape, `\u` and four hexadecimal digits, that these bytes begin with.
fn unit(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    let digits = std::str::from_utf8(digits).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(())?;
    u16::from_str_radix(digits, 16).ok()
}

/// Python's spelling of a non-finite number.
pub fn word(number: f64) -> Option<&'static str> {
    if number.is_nan() {
        Some("NaN")
    } else if number == f64::INFINITY {
        Some("Infinity")
    } else if number == f64::NEG_INFINITY {
        Some("-Infinity")
    } else {
        None
    }
}

/// The numbers of a text that are not finite.
#[derive(Debug)]
pub struct NotFiniteNumbers(Vec<&'static str>);

/// With the number's index, a placeholder for a non-finite number; the noncharacter keeps it apart
/// from the text of rows.
const STANDS: &str = "\u{fdd0}number";

impl NotFiniteNumbers {
    /// Returns `true` for a text without such numbers.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text with a placeholder string for each of them, which [`NotFiniteNumbers::settle`] knows.
    pub fn replaced(text: &str) -> (String, Self) {
        let (text, words) = replaced(text);
        (text, Self(words))
    }

    /// Replaces the placeholders in a value by null, and adds their places to `found`. `place` is that of
    /// the value.
    pub fn settle(&self, place: &str, value: &mut Value, found: &mut Places) {
        settle(place, value, &self.0, found);
    }
}

/// The text with a placeholder string for each non-finite number, and the original spellings.
fn replaced(text: &str) -> (String, Vec<&'static str>) {
    let bytes = text.as_bytes();
    let (mut out, mut words) = (String::with_capacity(text.len() + 64), Vec::new());
    let (mut at, mut copied) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'N' | b'I' | b'-' | b'0'..=b'9' => {
                let end = bytes[at..]
                    .iter()
                    .position(|byte| !(byte.is_ascii_alphanumeric() || b"+-.".contains(byte)))
                    .map_or(bytes.len(), |length| at + length);
                let word = match &text[at..end] {
                    "NaN" => Some("NaN"),
                    "Infinity" => Some("Infinity"),
                    "-Infinity" => Some("-Infinity"),
                    number if number.contains(['e', 'E']) || number.len() > 300 => {
                        number.parse().ok().and_then(word)
                    }
                    _ => None,
                };
                if let Some(word) = word {
                    out.push_str(&text[copied..at]);
                    out.push_str(&format!("\"{STANDS}{}\"", words.len()));
                    copied = end;
                    words.push(word);
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    (out, words)
}

/// Replaces a placeholder by null, and records the original spelling.
fn settle(place: &str, value: &mut Value, words: &[&'static str], found: &mut Places) {
    match value {
        Value::String(text) if text.starts_with(STANDS) => {
            let index: Option<usize> = text[STANDS.len()..].parse().ok();
            found.extend(index.and_then(|i| Some((place.to_owned(), *words.get(i)?))));
            *value = Value::Null;
        }
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                settle(&format!("{place}[{i}]"), item, words, found);
            }
        }
        Value::Object(entries) => {
            for (key, entry) in entries {
                settle(&format!("{place}.{key}"), entry, words, found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_row_with_anything_that_python_writes() {
        let read =
            |text: &str| line::<Value>(text.as_bytes()).map(|row| row.map(|r| r.to_string()));
        for (text, expected) in [
            ("  \r\n", None),
            ("\u{feff}", None),
            ("\u{feff}{\"a\":1}\r", Some(r#"{"a":1}"#)),
            (
                r#"{"a":NaN,"b":[-Infinity,"NaN"],"c":1e999}"#,
                Some(r#"{"a":null,"b":[null,"NaN"],"c":null}"#),
            ),
            (r#"{"a":"x\ud83d","b":Infinity}"#, Some("{\"a\":\"x\u{fffd}\",\"b\":null}")),
        ] {
            assert_eq!(read(text).unwrap().as_deref(), expected, "{text}");
        }
        for text in [r#"{"a":NaN"#, r#"{"a":nan}"#, r#"{"a":"\ud83d}"#, "x"] {
            assert!(matches!(read(text), Err(LineError::Json(_))), "{text}");
        }
        assert!(matches!(line::<Value>(b"{\"a\":\"\xff\"}"), Err(LineError::NotUtf8(_))));
        // The key of a wrong value is told.
        type Texts = std::collections::BTreeMap<String, String>;
        let error = line::<Texts>(br#"{"a":"x","b":3}"#).unwrap_err().to_string();
        assert!(error.starts_with("`b`: invalid type: integer `3`"), "{error}");
        // A number where one is needed is refused like any other null.
        assert!(line::<Vec<u32>>(b"[1, NaN]").is_err());
    }

    #[test]
    fn a_half_alone_becomes_the_replacement_character() {
        for (text, expected) in [
            (r#"{"a":"\ud83d"}"#, r#"{"a":"\ufffd"}"#),
            (
                r#"["\ud83d\ude00","\ude00x","\uD835 b\udc9c"]"#,
                r#"["\ud83d\ude00","\ufffdx","\ufffd b\ufffd"]"#,
            ),
            (r#"["\\ud83d","é\ud83d\ud83d\ude00"]"#, r#"["\\ud83d","é\ufffd\ud83d\ude00"]"#),
            (r#"["\u00e9","\n\ud8"#, r#"["\u00e9","\n\ud8"#),
            (r"\", r"\"),
        ] {
            assert_eq!(mended(text), expected);
        }
    }
}
