//! Counts of sentences.

/// Abbreviations that a full stop belongs to.
const ABBREVIATIONS: [&str; 30] = [
    "mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "inc", "ltd", "co", "corp", "gen",
    "col", "sen", "rep", "gov", "capt", "lt", "sgt", "rev", "jan", "feb", "aug", "sept", "oct",
    "nov", "dec", "e.g",
];

/// Number of sentences, as counted by Punkt's English model, except for rare abbreviations: a sentence ends at `.`, `!` or
/// `?`, with closing quotes and brackets, before white space. No sentence ends behind an abbreviation or an
/// initial.
pub(super) fn count_sentences(text: &str) -> usize {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut sentences = 0;
    let mut open = false;
    for (at, word) in words.iter().enumerate() {
        open = true;
        let core = word.trim_end_matches(['"', '\'', ')', ']', '”', '’', '*', '»']);
        let next = words.get(at + 1);
        let ends = match core.chars().next_back() {
            Some('!' | '?') => true,
            Some('.') => {
                let stem =
                    core.trim_end_matches('.').trim_start_matches(['(', '"', '\'', '[', '“']);
                let lower = stem.to_lowercase();
                let initial = stem.chars().count() == 1
                    && stem.chars().all(char::is_alphabetic)
                    && stem != "I";
                let dotted =
                    stem.contains('.') && stem.chars().all(|c| c.is_alphabetic() || c == '.');
                let before_lower =
                    next.and_then(|next| next.chars().next()).is_some_and(char::is_lowercase);
                let ellipsis = core.ends_with("..");
                let number = !stem.is_empty() && stem.chars().all(|c| c.is_ascii_digit());
                // A list's number is a sentence of its own, as Punkt has it, at the beginning alone.
                !(ABBREVIATIONS.contains(&lower.as_str())
                    || initial
                    || dotted && before_lower
                    || ellipsis && before_lower)
                    || number
            }
            _ => false,
        };
        if ends {
            sentences += 1;
            open = false;
        }
    }
    sentences + usize::from(open)
}
