//! The answer within a response.

use super::{expr::Expr, parse::parse};

/// Boxes that are looked at, from the end.
const BOXES: usize = 32;
/// Bytes at the end of a response that an unmarked answer is looked for in.
const END: usize = 4_000;

/// Texts of an answer that a response marks as such.
pub(super) fn marked(response: &str) -> Option<String> {
    boxed(response).or_else(|| after_hashes(response))
}

/// The answer behind `####`, as GSM8K has it.
pub(super) fn after_hashes(text: &str) -> Option<String> {
    let (_, after) = text.rsplit_once("####")?;
    let line = after.trim_start().lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// The contents of the last `\boxed{..}`, and of those that a conjunction joins to it.
pub(super) fn boxed(text: &str) -> Option<String> {
    let mut found: Vec<(usize, usize, &str)> = Vec::new();
    for mark in ["\\boxed", "\\fbox"] {
        for (start, _) in text.rmatch_indices(mark).take(BOXES) {
            if let Some((inner, end)) = group(text, start + mark.len()) {
                found.push((start, end, inner));
            }
        }
    }
    found.sort_by_key(|(start, ..)| *start);
    // A box within a box is a part of it.
    let whole: Vec<_> = found
        .iter()
        .filter(|(start, end, _)| !found.iter().any(|(s, e, _)| s < start && end < e))
        .collect();
    let mut joined: Vec<&str> = Vec::new();
    let mut before: Option<usize> = None;
    for (start, end, inner) in whole.iter().rev() {
        let together = before.is_none_or(|before| is_conjunction(text.get(*end..before)));
        if !together {
            break;
        }
        joined.push(inner.trim());
        before = Some(*start);
    }
    joined.reverse();
    (!joined.is_empty()).then(|| joined.join(", "))
}

/// True for what joins two boxes to one answer: a comma, or a few words with "and" or "or".
fn is_conjunction(between: Option<&str>) -> bool {
    let Some(between) = between.filter(|between| between.chars().count() <= 40) else {
        return false;
    };
    let between = ["\\qquad", "\\quad", "\\text"]
        .iter()
        .fold(between.to_owned(), |text, command| text.replace(command, " "));
    let words: Vec<&str> =
        between.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).collect();
    let joins = |word: &&str| matches!(*word, "and" | "or");
    words.is_empty() && !between.contains('.') || words.iter().any(joins) && !between.contains('=')
}

/// The contents of `{..}` behind a command; what an end is missing from goes to the end of the line.
fn group(text: &str, start: usize) -> Option<(&str, usize)> {
    let rest = text.get(start..)?;
    let open = rest.len() - rest.trim_start().len();
    if !rest[open..].starts_with('{') {
        // `\boxed 3`.
        let word = rest.trim_start();
        let length = word.find(|c: char| c.is_whitespace() || c == '$').unwrap_or(word.len());
        return (open > 0 && length > 0).then_some((&word[..length], start + open + length));
    }
    let mut depth = 0;
    for (at, c) in rest.char_indices().skip_while(|(at, _)| *at < open) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((&rest[open + 1..at], start + at + 1));
        }
    }
    None
}

/// Every reading of a text that is an answer and nothing else.
pub(super) fn readings(text: &str) -> Vec<Expr> {
    let text = text.trim().trim_matches('$').trim();
    let mut found = Vec::new();
    let plain = !text.contains('\\');
    if plain {
        found.extend(separated(text).as_deref().and_then(parse));
    }
    found.extend(parse(text));
    if found.is_empty() {
        found.push(Expr::Text(text.to_owned()));
    }
    found
}

/// `7,425,000`, `1 000` and `2,74` as one number.
fn separated(text: &str) -> Option<String> {
    let core = text.trim_start_matches(['-', '+', '$', '€', '£']).trim_end_matches(['.', '%', '€']);
    let allowed = |c: char| c.is_ascii_digit() || matches!(c, ',' | '.' | ' ');
    if core.is_empty() || !core.chars().all(allowed) || !core.contains([',', ' ']) {
        return None;
    }
    let parts: Vec<&str> = core.split([',', ' ']).collect();
    let (first, others) = parts.split_first()?;
    let (last, middle) = others.split_last()?;
    let whole = last.split('.').next()?;
    let digits = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
    let grouped = digits(first)
        && (1..=3).contains(&first.len())
        && !first.starts_with('0')
        && middle.iter().all(|part| digits(part) && part.len() == 3)
        && digits(whole)
        && whole.len() == 3;
    if grouped {
        return Some(text.replace([',', ' '], ""));
    }
    let decimal = core.contains(',') && others.len() == 1 && digits(first) && digits(last);
    decimal.then(|| text.replace(',', "."))
}

/// The last answer of a response that marks none: behind "answer is", the last piece of mathematics,
/// or the last number.
pub(super) fn last(response: &str) -> Vec<Expr> {
    let end = response.len().saturating_sub(END);
    let response = (end..).find_map(|at| response.get(at..)).unwrap_or_default();
    if let Some(said) = announced(response) {
        return said;
    }
    let short = response.chars().count() <= 200 && !response.trim().contains('\n');
    if short && let Some(whole) = whole(response) {
        return whole;
    }
    latest(response)
}

/// The readings of a text that is an expression as a whole; a sentence is not one, though its letters
/// could be variables.
fn whole(text: &str) -> Option<Vec<Expr>> {
    let words = text.split_whitespace().filter(|word| {
        word.len() > 1 && word.chars().all(|c| c.is_alphabetic() || matches!(c, '.' | ','))
    });
    let within = text.trim().trim_matches('$');
    if within.contains('$') || text.contains("\\(") || text.contains("\\[") || words.count() > 1 {
        return None;
    }
    let readings = readings(text);
    let said = readings.iter().any(|expr| !matches!(expr, Expr::Text(_) | Expr::Variable(_)));
    said.then_some(readings)
}

/// The last piece of mathematics or the last number, which of them comes later.
fn latest(text: &str) -> Vec<Expr> {
    match (mathematics(text), last_number(text)) {
        (Some((end, text)), Some((at, _))) if end > at => readings(&text),
        (_, Some((_, number))) => readings(&number),
        (Some((_, text)), None) => readings(&text),
        (None, None) => Vec::new(),
    }
}

/// The answer behind the last "answer is" or "answer:".
fn announced(response: &str) -> Option<Vec<Expr>> {
    let lower = response.to_ascii_lowercase();
    let marks = ["answer is", "answer:", "answer is:", "answers are", "answer**:", "answer:**"];
    let at = marks.iter().filter_map(|mark| Some(lower.rfind(mark)? + mark.len())).max()?;
    let said = response.get(at..)?;
    let said = said.trim_start_matches([':', ' ', '*', '\n']);
    let said = said.split("I hope").next()?;
    let line = said.lines().next()?.trim();
    let line = line.trim_end_matches(['.', '*', '"', ' ']);
    let sentence = line.split(". ").next()?;
    if let Some(whole) = whole(sentence) {
        return Some(whole);
    }
    let found = latest(sentence);
    Some(if found.is_empty() { readings(sentence) } else { found })
}

/// The last piece of mathematics, and the place where it ends.
fn mathematics(text: &str) -> Option<(usize, String)> {
    let mut found: Option<(usize, String)> = None;
    let mut rest = 0;
    while let Some(open) = next_open(text, rest) {
        let (at, mark) = open;
        let close = match mark {
            "\\[" => "\\]",
            "\\(" => "\\)",
            other => other,
        };
        let from = at + mark.len();
        let Some(end) = unescaped(text, from, close) else {
            rest = from;
            continue;
        };
        let inner = &text[from..end];
        let inline = matches!(mark, "$" | "\\(");
        if !(inner.trim().is_empty() || inline && inner.contains('\n')) {
            // A percent sign may stand outside.
            let behind = text[end + close.len()..].trim_start();
            let percent =
                ["%", "\\%", "percent", "pct"].iter().any(|mark| behind.starts_with(mark));
            let percent = if percent { "\\%" } else { "" };
            found = Some((end + close.len(), format!("{}{percent}", last_line(inner))));
        }
        rest = end + close.len();
    }
    found
}

/// The last line of aligned equations.
fn last_line(text: &str) -> String {
    if text.contains("matrix}") || text.contains("{array}") {
        return text.to_owned();
    }
    let line = text.rsplit("\\\\").find(|line| !line.trim().is_empty()).unwrap_or(text);
    ["aligned", "align*", "align", "split", "gathered"].iter().fold(
        line.replace('&', " "),
        |line, name| {
            line.replace(&format!("\\begin{{{name}}}"), "").replace(&format!("\\end{{{name}}}"), "")
        },
    )
}

fn next_open(text: &str, from: usize) -> Option<(usize, &'static str)> {
    ["$$", "\\[", "\\(", "$"]
        .into_iter()
        .filter_map(|mark| Some((unescaped(text, from, mark)?, mark)))
        .min_by_key(|(at, mark)| (*at, std::cmp::Reverse(mark.len())))
}

/// The next occurrence of a mark that no backslash stands before.
fn unescaped(text: &str, from: usize, mark: &str) -> Option<usize> {
    let mut start = from;
    loop {
        let at = start + text.get(start..)?.find(mark)?;
        if !text[..at].ends_with('\\') {
            return Some(at);
        }
        start = at + mark.len();
    }
}

/// The numbers of a text: where each ends, and its text.
fn numbers(text: &str) -> Vec<(usize, String)> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let starts = bytes[at].is_ascii_digit()
            || bytes[at] == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        if !starts {
            at += 1;
            continue;
        }
        let attached =
            text[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let mut end = at;
        while end < bytes.len() {
            let next = |by: usize| bytes.get(end + by).is_some_and(u8::is_ascii_digit);
            match bytes[end] {
                b'0'..=b'9' => end += 1,
                b'.' | b',' | b'/' if next(1) => end += 1,
                b' ' if (1..=3).all(next)
                    && !next(4)
                    && bytes[at..end].iter().all(u8::is_ascii_digit)
                    && end - at <= 3 =>
                {
                    end += 1;
                }
                _ => break,
            }
        }
        let letters = text[end..].chars().next().is_some_and(|c| c.is_ascii_uppercase());
        if !attached && !letters {
            let negative = text[..at].ends_with('-')
                && !text[..at - 1].ends_with(|c: char| c.is_alphanumeric() || c == ')');
            let sign = if negative { "-" } else { "" };
            let behind = text[end..].trim_start();
            let percent =
                ["%", "\\%", "percent", "pct"].iter().any(|mark| behind.starts_with(mark));
            let percent = if percent { "%" } else { "" };
            found.push((end, format!("{sign}{}{percent}", &text[at..end])));
        }
        at = end.max(at + 1);
    }
    found
}

fn last_number(text: &str) -> Option<(usize, String)> {
    numbers(text).pop()
}
