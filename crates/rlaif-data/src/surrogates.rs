//! JSON with halves of a surrogate pair, as Python's `json.dumps` writes strings that were cut in the
//! middle of a character.

use std::borrow::Cow;

/// The text with the replacement character in place of each half that has no other half.
pub(crate) fn mended(text: &str) -> Cow<'_, str> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
