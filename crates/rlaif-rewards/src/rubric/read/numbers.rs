//! The numbers of a text, each with what belongs to it: a denominator, a percent sign, the other
//! end of a range.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// A number of a text and what it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    /// The position of the number, the denominator included.
    pub(super) span: Range<usize>,
    /// Place of its first number.
    pub(super) first: Range<usize>,
    pub(super) kind: Kind,
    /// Written as a word.
    pub(super) spelled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Number(f64),
    /// A fraction, such as 7 of 10.
    Of(f64, f64),
    Percent(f64),
    /// From this to that, or this or that.
    Range(f64, f64),
    /// Beyond what a number can be.
    NotFinite,
    /// Part of something else: a version, a date, a sum, a list.
    Other,
}

const WORDS: [&str; 11] =
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];

static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
    let words = WORDS.join("|");
    Regex::new(&format!(r"^(?:([+-]?)((?:\d+(?:[.,]\d+)*|\.\d+)(?:e[+-]?\d+)?)|({words})\b)"))
        .expect("a valid pattern")
});
/// Between a number and its denominator.
static OF: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^\s*(?:[★⭐☆]\s*)?(?:/|[(\[]?\s*(?:points?\s+|stars?\s+|punkte\s+)?(?:out\s+of|von|sur|su|из|van|av)\s+(?:a\s+(?:possible|maximum(?:\s+of)?)\s+)?|of\s+|de\s+)\s*").expect("a valid pattern")
});
/// Between the ends of a range, or between alternatives.
static TO: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^\s*(?:-{1,2}|—|~|\.\.+|/-|\s(?:to|through|or|bis|oder|à|ou|a|o|до|или|and|und|et|y|e|&)\s|至|到|から|或|부터)\s*")
        .expect("a valid pattern")
});
static ARITHMETIC: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^\s*(?:[×+^]|\sx\s|\s-\s*(?:\d)|±|\+/-|\s(?:plus|minus|times)\s|,\s*[+-]?\d|\s+and\s+a\s+half|\s+point\s+\w)|^\s*=\s*[+-]?\d").expect("a valid pattern")
});
/// Letters that may follow a number without a space: units of a verdict.
static UNIT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(?:pts?|points?|stars?|punkte?n?|балл\w*)\b").expect("a valid pattern")
});

/// Letters of scripts that put no spaces between words, which do not make a word of a number.
pub(super) fn is_unspaced(c: char) -> bool {
    matches!(c as u32, 0x0E00..=0x0E7F | 0x2E80..=0x9FFF | 0xAC00..=0xD7AF | 0xF900..=0xFAFF)
}

fn joins(c: char) -> bool {
    (c.is_alphanumeric() && !is_unspaced(c)) || c == '_'
}

/// One number at the start of `text`: its value, where it ends, whether it was a word.
enum Start {
    Value(f64, usize),
    Spelled(f64, usize),
    NotFinite(usize),
    Other(usize),
}

fn start(text: &str) -> Option<Start> {
    let found = NUMBER.captures(text)?;
    let end = found.get(0)?.end();
    if let Some(word) = found.get(3) {
        let value = WORDS.iter().position(|known| *known == word.as_str())?;
        return Some(Start::Spelled(value as f64, end));
    }
    let digits = found.get(2)?.as_str();
    let after = text[end..].chars().next().unwrap_or(' ');
    if joins(after) && !UNIT.is_match(&text[end..]) {
        // A word that begins with digits: 3d, 2nd, 8b.
        let word = text[end..].find(|c: char| !joins(c) && c != '.' && c != '-');
        return Some(Start::Other(word.map_or(text.len(), |word| end + word)));
    }
    let compound = text[end..].strip_prefix('-').and_then(|rest| rest.chars().next());
    if compound.is_some_and(|c| c.is_alphabetic() && !is_unspaced(c)) {
        return Some(Start::Other(end));
    }
    let (mantissa, exponent) = digits.split_once('e').unwrap_or((digits, "0"));
    let marks = mantissa.matches(['.', ',']).count();
    let written = match marks {
        0 => mantissa.to_owned(),
        1 => {
            let decimals = mantissa.split_once(',').map(|(_, decimals)| decimals.len());
            // 10,000 or 10,000: nobody knows.
            if decimals == Some(3) {
                return Some(Start::Other(end));
            }
            mantissa.replace(',', ".")
        }
        _ => return Some(Start::Other(end)),
    };
    let sign = if found.get(1)?.as_str() == "-" { -1. } else { 1. };
    let value: f64 = format!("{written}e{exponent}").parse().ok()?;
    Some(if value.is_finite() { Start::Value(sign * value, end) } else { Start::NotFinite(end) })
}

/// The numbers in a text of plain characters, at most `most` of them.
pub(super) fn items(text: &str, most: usize) -> Vec<Item> {
    let mut items = Vec::new();
    let mut at = 0;
    while at < text.len() && items.len() < most {
        let Some(c) = text[at..].chars().next() else { break };
        let before = text[..at].chars().next_back().unwrap_or(' ');
        let signed = matches!(c, '+' | '-') && !joins(before) && before != c;
        let word_start =
            c.is_ascii_lowercase() && !joins(before) && before != '-' && before != '\'';
        let begins = c.is_ascii_digit() || c == '.' || signed || word_start;
        if !begins || (joins(before) && !signed) {
            // Digits within a word are passed over with it: gpt4, v1.2.3.
            let digits = c.is_ascii_digit();
            at += c.len_utf8();
            while digits
                && text[at..].starts_with(|c: char| joins(c) || c == '.')
                && text[at..].trim_start_matches('.').starts_with(joins)
            {
                at += text[at..].chars().next().map_or(1, char::len_utf8);
            }
            continue;
        }
        let in_word = |from: usize| {
            // A hyphen between letters and digits: gpt-4.
            before == '-' && text[..from].trim_end_matches('-').ends_with(char::is_alphabetic)
        };
        let Some(first) = start(&text[at..]) else {
            at += c.len_utf8();
            continue;
        };
        let item = item(text, at, &first);
        let end = item.span.end;
        if in_word(at) {
            items.push(Item { kind: Kind::Other, ..item });
        } else {
            items.push(item);
        }
        // Digits that belong to a longer word end with it.
        at = end.max(at + c.len_utf8());
    }
    items
}

fn item(text: &str, at: usize, first: &Start) -> Item {
    let (value, end, spelled) = match *first {
        Start::Value(value, end) => (value, at + end, false),
        Start::Spelled(value, end) => (value, at + end, true),
        Start::NotFinite(end) | Start::Other(end) => {
            let kind = match first {
                Start::NotFinite(_) => Kind::NotFinite,
                _ => Kind::Other,
            };
            return Item { span: at..at + end, first: at..at + end, kind, spelled: false };
        }
    };
    let one = |kind, end| Item { span: at..end, first: at..at + (end - at), kind, spelled };
    let first = at..end;
    let rest = &text[end..];
    let second = |pattern: &Regex| {
        let between = pattern.find(rest)?.end();
        let number = start(&rest[between..])?;
        Some((number, between, &rest[..between]))
    };
    if let Some((number, between, words)) = second(&OF) {
        let (of, length) = match number {
            Start::Value(of, length) | Start::Spelled(of, length) => (of, length),
            Start::NotFinite(length) | Start::Other(length) => {
                return one(Kind::Other, end + between + length);
            }
        };
        let close = words.contains(['(', '[']) && rest[between + length..].starts_with([')', ']']);
        let end = end + between + length + usize::from(close);
        // A date: 7/10/2024.
        let more = text[end..].trim_start().strip_prefix('/').map(str::trim_start);
        let date = more.is_some_and(|more| more.starts_with(|c: char| c.is_ascii_digit()));
        if date {
            let year = text[end..].find(|c: char| !(c == '/' || c == ' ' || c.is_ascii_digit()));
            return one(Kind::Other, year.map_or(text.len(), |year| end + year));
        }
        return Item { span: at..end, first, kind: Kind::Of(value, of), spelled };
    }
    let percent = rest.trim_start_matches(' ');
    let percent =
        ["%", "percent", "per cent", "prozent"].iter().find_map(|p| percent.strip_prefix(p));
    if let Some(percent) = percent {
        return Item {
            span: at..text.len() - percent.len(),
            first,
            kind: Kind::Percent(value),
            spelled,
        };
    }
    if let Some((number, between, _)) = second(&TO) {
        let (to, length) = match number {
            Start::Value(to, length) | Start::Spelled(to, length) => (to, length),
            Start::NotFinite(length) | Start::Other(length) => {
                return one(Kind::Other, end + between + length);
            }
        };
        let end = end + between + length;
        let more = text[end..].trim_start();
        // A date: 2024-10-07; a sum: 10 - 2 = 8.
        let longer = more.starts_with(['-', '='])
            || TO
                .find(&text[end..])
                .is_some_and(|to| text[end + to.end()..].starts_with(|c: char| c.is_ascii_digit()));
        if longer {
            let rest = text[end..].find(|c: char| !(c == '-' || c.is_ascii_digit()));
            return one(Kind::Other, rest.map_or(text.len(), |rest| end + rest));
        }
        let kind = Kind::Range(value, to);
        // What the range is out of, "7-8/10", goes with it.
        let of = OF.find(&text[end..]).and_then(|of| match start(&text[end + of.end()..])? {
            Start::Value(_, length) => Some(of.end() + length),
            _ => None,
        });
        return Item { span: at..end + of.unwrap_or(0), first, kind, spelled };
    }
    // A time of day, a ratio: 8:30.
    let ratio = rest.strip_prefix(':').is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()));
    if ratio {
        let rest = text[end..].find(|c: char| !(c == ':' || c.is_ascii_digit()));
        return one(Kind::Other, rest.map_or(text.len(), |rest| end + rest));
    }
    let part = ARITHMETIC.is_match(rest);
    Item {
        span: at..end,
        first,
        kind: if part { Kind::Other } else { Kind::Number(value) },
        spelled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_from_what_looks_like_them() {
        use Kind::*;
        let cases: &[(&str, &[Kind])] = &[
            ("+5", &[Number(5.)]),
            ("-4", &[Number(-4.)]),
            ("4.50", &[Number(4.5)]),
            (".5", &[Number(0.5)]),
            ("7,5", &[Number(7.5)]),
            ("i rate it 3.", &[Number(3.)]),
            ("a-4 paper", &[Other]),
            ("gpt4 says 2", &[Number(2.)]),
            ("v1.2.3 gets 9", &[Number(9.)]),
            ("1.2.3", &[Other]),
            ("8/10", &[Of(8., 10.)]),
            ("8 out of ten", &[Of(8., 10.)]),
            ("-4 / 5", &[Of(-4., 5.)]),
            ("7/10/2024", &[Other]),
            ("2024-10-07", &[Other]),
            ("7-8", &[Range(7., 8.)]),
            ("7 or 8", &[Range(7., 8.)]),
            ("-5 to +5", &[Range(-5., 5.)]),
            ("80%", &[Percent(80.)]),
            ("1e999", &[NotFinite]),
            ("1e1", &[Number(10.)]),
            ("10,000", &[Other]),
            ("8:30", &[Other]),
            ("10-point 3d 2nd", &[Other, Other, Other]),
            ("7 + 1", &[Other, Number(1.)]),
            ("none", &[]),
            ("-", &[]),
        ];
        for (text, expected) in cases {
            let found: Vec<Kind> = items(text, 10).iter().map(|item| item.kind).collect();
            assert_eq!(found, *expected, "{text:?}");
        }
    }
}
