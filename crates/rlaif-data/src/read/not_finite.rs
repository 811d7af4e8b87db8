//! JSON as Python's `json.dumps` writes it: with numbers that are too large, and with `NaN`,
//! `Infinity` and `-Infinity`, which are not JSON.

use serde_json::Value;

use crate::row::{Columns, NotFinite};

/// Python's spelling of a non-finite number.
pub(super) fn word(number: f64) -> Option<&'static str> {
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

/// The columns of a row with null for each non-finite number, and the places of these numbers.
/// `None` if there are none, or if the rest is not a JSON object either.
pub(super) fn read(text: &str) -> Option<(Columns<'static>, NotFinite)> {
    let (replaced, words) = replaced(text);
    if words.is_empty() {
        return None;
    }
    let columns: Columns<'_> = serde_json::from_str(&replaced).ok()?;
    let mut found = NotFinite::new();
    let columns = columns
        .0
        .into_iter()
        .map(|(name, mut value)| {
            settle(&name, &mut value, &words, &mut found);
            (name.into_owned().into(), value)
        })
        .collect();
    Some((Columns(columns), found))
}

/// With the number's index, a placeholder for a non-finite number; the noncharacter keeps it apart
/// from the text of rows.
const STANDS: &str = "\u{fdd0}number";

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
fn settle(place: &str, value: &mut Value, words: &[&'static str], found: &mut NotFinite) {
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
    fn what_python_writes_is_null_and_told_where_it_stood() {
        let text =
            r#"{"a":NaN,"b":["NaN",-Infinity,{"c":Infinity}],"d":"x\"NaN","e":1e999,"f":-12}"#;
        let (columns, found) = read(text).unwrap();
        let values: Vec<String> = columns.0.iter().map(|(_, value)| value.to_string()).collect();
        assert_eq!(values, ["null", r#"["NaN",null,{"c":null}]"#, r#""x\"NaN""#, "null", "-12"]);
        let expected =
            [("a", "NaN"), ("b[1]", "-Infinity"), ("b[2].c", "Infinity"), ("e", "Infinity")];
        let found: Vec<_> = found.iter().map(|(place, word)| (place.as_str(), *word)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn other_damage_stays_damage() {
        for text in
            [r#"{"a":Nan}"#, r#"{"a":NaN"#, r#"{"a":1}"#, r#"{"a":nan}"#, r#"{"a":"\"#, "NaN"]
        {
            assert!(read(text).is_none(), "{text}");
        }
    }
}
