//! Texts as the page shows them.

use std::sync::LazyLock;

use rlaif_core::hidden;

/// The text in pieces: those at even places are shown as they are, those at odd places are the codes of
/// characters that reorder or hide text.
///
/// The page puts the first kind into text nodes, so that nothing of a text is ever markup.
pub(crate) fn pieces(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for c in text.chars() {
        match hidden(c) {
            Some(code) => pieces.extend([code, String::new()]),
            None => {
                if let Some(last) = pieces.last_mut() {
                    last.push(c);
                }
            }
        }
    }
    pieces
}

/// The hidden characters as a regular expression of JavaScript, for texts that reach the page whole.
pub(crate) fn hidden_pattern() -> &'static str {
    static PATTERN: LazyLock<String> = LazyLock::new(|| {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for code in ('\0'..=char::MAX).filter(|&c| hidden(c).is_some()).map(u32::from) {
            match ranges.last_mut() {
                Some((_, end)) if *end + 1 == code => *end = code,
                _ => ranges.push((code, code)),
            }
        }
        let range = |(start, end)| format!("\\u{{{start:x}}}-\\u{{{end:x}}}");
        format!("[{}]", ranges.into_iter().map(range).collect::<String>())
    });
    &PATTERN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_reorder_text_are_codes() {
        assert_eq!(pieces("plain\n<b>"), ["plain\n<b>"]);
        assert_eq!(pieces("a\u{202e}b\u{0}"), ["a", "U+202E", "b", "U+0000", ""]);
        assert_eq!(pieces(""), [""]);
        let pattern = hidden_pattern();
        assert!(pattern.starts_with("[\\u{0}-\\u{8}\\u{b}-\\u{1f}\\u{7f}-"), "{pattern}");
        assert!(pattern.contains("\\u{2028}-\\u{202e}"), "{pattern}");
    }
}
