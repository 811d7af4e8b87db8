//! Texts as the page shows them.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_reorder_text_are_codes() {
        assert_eq!(pieces("plain\n<b>"), ["plain\n<b>"]);
        assert_eq!(pieces("a\u{202e}b\u{0}"), ["a", "U+202E", "b", "U+0000", ""]);
        assert_eq!(pieces(""), [""]);
    }
}
