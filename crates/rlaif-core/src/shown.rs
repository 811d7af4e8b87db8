//! Texts of others, as they may be shown on a terminal, in a log and on a page.

use std::borrow::Cow;

/// The most characters of one line: a file without line ends is not echoed whole.
const LONGEST: usize = 4_096;

/// Returns the code to show instead of a character that is invisible, reorders the text around it,
/// or controls the terminal; `None` for all other characters.
///
/// Line ends and tabs stay, and so do the joiners and presentation selectors that scripts and emoji
/// are written with.
///
/// ```
/// assert_eq!(rlaif_core::hidden('\u{202e}').as_deref(), Some("U+202E"));
/// assert_eq!(rlaif_core::hidden('\u{1b}').as_deref(), Some("U+001B"));
/// assert_eq!(rlaif_core::hidden('é'), None);
/// ```
#[must_use]
pub fn hidden(c: char) -> Option<String> {
    let hides = match c {
        '\n' | '\t' | '\u{200c}' | '\u{200d}' | '\u{fe0e}' | '\u{fe0f}' => false,
        // Format characters (Unicode's class Cf), line and paragraph separators.
        '\u{ad}'
        | '\u{600}'..='\u{605}'
        | '\u{61c}'
        | '\u{6dd}'
        | '\u{70f}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff0}'..='\u{fffb}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}' => true,
        // Fillers and selectors that show nothing.
        '\u{34f}'
        | '\u{115f}'
        | '\u{1160}'
        | '\u{17b4}'
        | '\u{17b5}'
        | '\u{180b}'..='\u{180d}'
        | '\u{180f}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0d}'
        | '\u{ffa0}' => true,
        other => other.is_control(),
    };
    hides.then(|| format!("U+{:04X}", u32::from(c)))
}

/// The text as it may be printed: with codes for [`hidden`] characters, and with its longest lines cut.
///
/// ```
/// assert_eq!(rlaif_core::printable("a\u{1b}[2Jb\n"), "a⟨U+001B⟩[2Jb\n");
/// let line = rlaif_core::printable(&"x".repeat(1_000_000)).into_owned();
/// assert!(line.ends_with(" .. (995904 more characters)"), "{line}");
/// ```
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    let fits = |line: &str| line.len() <= LONGEST || line.chars().count() <= LONGEST;
    if text.split('\n').all(fits) && text.chars().all(|c| hidden(c).is_none()) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::new();
    for (at, line) in text.split('\n').enumerate() {
        if at > 0 {
            shown.push('\n');
        }
        let mut rest = line.chars();
        for c in rest.by_ref().take(LONGEST) {
            match hidden(c) {
                Some(code) => shown.extend(["⟨", &code, "⟩"]),
                None => shown.push(c),
            }
        }
        let left = rest.count();
        if left > 0 {
            shown.push_str(&format!(" .. ({left} more characters)"));
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_and_nobody_sees_is_shown_as_a_code() {
        for text in [
            "\u{1b}]0;title\u{7}",
            "\u{9b}31m",
            "a\rb",
            "\u{8}",
            "\u{200e}",
            "\u{200f}",
            "\u{61c}",
            "\u{2066}",
            "\u{ad}",
            "\u{e0041}",
            "\u{3164}",
        ] {
            let shown = printable(text);
            assert!(shown.contains("⟨U+"), "{text:?}");
            assert!(shown.chars().all(|c| hidden(c).is_none()), "{shown:?}");
        }
        for text in ["plain\ttext\n", "نیم\u{200c}فاصله", "👩\u{200d}🚀", "❤\u{fe0f}", "日本語"]
        {
            assert_eq!(printable(text), text);
        }
    }
}
