//! Verdicts in JSON, and in what is nearly JSON: line breaks within strings, trailing commas,
//! single quotes, comments, code fences, NaN, text around it, an end that is missing.

use super::super::answer::Scale;
use super::words::{self, Miss};

/// A value of an object, or of what is nearly one.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    /// A number, or anything else without quotes.
    Bare {
        text: String,
        /// `true` if the text ends here, so that the number may be incomplete.
        cut: bool,
    },
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

/// A verdict of an object, or why there is none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Object {
    Score {
        value: f64,
        /// The answer ends with the number.
        cut: bool,
    },
    Miss(Miss),
}

/// Objects within objects; more of them make no verdict.
const DEEPEST: usize = 16;
/// Beginnings of objects that are tried.
const MOST_OBJECTS: usize = 64;

/// The verdict of the objects of `text`; nothing when it has none.
pub(super) fn score(text: &str, scale: Scale) -> Option<Object> {
    // JSON that was written as a string of JSON.
    let unwrapped: Option<String> =
        text.trim().starts_with('"').then(|| serde_json::from_str(text.trim()).ok()).flatten();
    let text = unwrapped.as_deref().unwrap_or(text);
    let mut verdicts: Vec<Object> = Vec::new();
    let (mut from, mut any) = (0, false);
    for _ in 0..MOST_OBJECTS {
        let Some(at) = text[from..].find('{').map(|at| from + at) else { break };
        let mut reader = Reader { text, at };
        match reader.object(0) {
            Some(members) if !members.is_empty() => {
                any = true;
                verdicts.extend(of_members(&members, scale));
                from = reader.at.max(at + 1);
            }
            _ => from = at + 1,
        }
    }
    if !any {
        return None;
    }
    let first = *verdicts.first().unwrap_or(&Object::Miss(Miss::NoNumber));
    let differs = verdicts.iter().find(|other| match (first, other) {
        (Object::Score { value: a, .. }, Object::Score { value: b, .. }) => a != *b,
        _ => false,
    });
    Some(match (first, differs) {
        (Object::Score { value: a, .. }, Some(Object::Score { value: b, .. })) => {
            Object::Miss(Miss::Several(a, *b))
        }
        _ => verdicts.into_iter().find(|v| matches!(v, Object::Score { .. })).unwrap_or(first),
    })
}

/// Certainty that a key is that of the verdict, the surest first.
fn rank(key: &str) -> Option<u8> {
    let key: String =
        key.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    match key.as_str() {
        "score" => Some(0),
        "overallscore" | "finalscore" | "overall" | "finalrating" | "overallrating" | "verdict"
        | "finalverdict" | "final" | "gesamtbewertung" | "总分" | "最终评分" => Some(1),
        "rating" | "grade" | "mark" | "points" | "judgement" | "judgment" | "bewertung"
        | "punkte" | "punktzahl" | "note" | "nota" | "puntuación" | "puntuacion"
        | "calificación" | "punteggio" | "voto" | "оценка" | "评分" | "得分" | "分数"
        | "スコア" | "評価" | "点数" | "점수" | "평점" | "evaluation" | "scorevalue"
        | "numericscore" => Some(2),
        "value" | "answer" | "result" | "number" | "output" | "response" => Some(3),
        _ => None,
    }
}

/// Keys of verdicts that replace an earlier one.
fn is_revised(key: &str) -> bool {
    let key = key.to_lowercase();
    let revised = ["revised", "corrected", "updated", "adjusted", "final", "new"];
    let verdict = ["score", "rating", "grade", "verdict", "mark"];
    revised.iter().any(|part| key.contains(part)) && verdict.iter().any(|part| key.contains(part))
}

/// Keys of numbers that are not verdicts.
fn is_other(key: &str) -> bool {
    let key = key.to_lowercase();
    let others = [
        "confiden",
        "certain",
        "max",
        "min",
        "scale",
        "weight",
        "count",
        "length",
        "index",
        "id",
        "step",
        "year",
        "error",
        "issue",
        "problem",
        "token",
        "word",
        "version",
        "total",
        "threshold",
        "number",
    ];
    others.iter().any(|other| key.contains(other))
}

/// `true` for a key of the scale's end, or of the scale, with another value than was asked for.
fn is_another_scale(key: &str, value: &Value, scale: Scale) -> bool {
    let key: String = key.chars().filter(|c| c.is_alphanumeric()).collect();
    let key = key.to_lowercase();
    let ends = ["max", "maximum", "maxscore", "maximumscore", "maxrating", "maxpoints", "outof"];
    let whole = ["scale", "scoringscale", "ratingscale", "scorerange"];
    if !ends.contains(&&*key) && !whole.contains(&&*key) {
        return false;
    }
    // The last number: "1-5", "1 to 5", [1, 5].
    let text = match value {
        Value::Text(text) | Value::Bare { text, .. } => text,
        Value::List(values) => match values.last() {
            Some(Value::Text(text) | Value::Bare { text, .. }) => text,
            _ => return false,
        },
        Value::Object(_) => return false,
    };
    let numbers = text.split(|c: char| !c.is_ascii_digit() && c != '.');
    let last = numbers.filter_map(|number| number.parse::<f64>().ok()).next_back();
    last.is_some_and(|high| (high - scale.high).abs() > 1e-9)
}

fn of_members(members: &[(String, Value)], scale: Scale) -> Option<Object> {
    let mut level: Vec<&[(String, Value)]> = vec![members];
    // The shallowest key that is a verdict's counts: what is below are its parts.
    while !level.is_empty() {
        let known = level.iter().flat_map(|members| members.iter());
        let ranked: Vec<(u8, &Value)> = known
            .filter_map(|(key, value)| Some((rank(key)?, value)))
            .filter(|(_, v)| is_leaf(v))
            .collect();
        if let Some(best) = ranked.iter().map(|(rank, _)| *rank).min() {
            let values = ranked.iter().filter(|(rank, _)| *rank == best).map(|(_, value)| *value);
            let found = agreed(values, scale);
            let beside = level.iter().flat_map(|members| members.iter());
            if beside.into_iter().any(|(key, value)| is_another_scale(key, value, scale)) {
                return Some(Object::Miss(Miss::AnotherScale));
            }
            // A later number under a key of its own: which of the two counts?
            if let Some(Object::Score { value: first, .. }) = found {
                let later = level.iter().flat_map(|members| members.iter());
                let later = later.filter(|(key, _)| rank(key) == Some(1) || is_revised(key));
                for (_, value) in later.filter(|(_, value)| is_leaf(value)) {
                    if let Object::Score { value, .. } = read(value, scale)
                        && value != first
                    {
                        return Some(Object::Miss(Miss::Several(first, value)));
                    }
                }
            }
            return found;
        }
        level = level
            .into_iter()
            .flat_map(|members| members.iter())
            .flat_map(|(_, v)| below(v))
            .collect();
    }
    // The only number, under any name.
    let mut leaves = Vec::new();
    numbers(members, &mut leaves, scale);
    match leaves[..] {
        [(key, value)] if !is_other(key) => Some(read(value, scale)),
        [] => None,
        [..] => Some(Object::Miss(Miss::Undecided)),
    }
}

fn is_leaf(value: &Value) -> bool {
    match value {
        Value::Object(_) => false,
        Value::List(values) => !values.iter().any(|value| matches!(value, Value::Object(_))),
        _ => true,
    }
}

fn below(value: &Value) -> Vec<&[(String, Value)]> {
    match value {
        Value::Object(members) => vec![members],
        Value::List(values) => values.iter().flat_map(below).collect(),
        _ => Vec::new(),
    }
}

fn numbers<'a>(members: &'a [(String, Value)], into: &mut Vec<(&'a str, &'a Value)>, scale: Scale) {
    for (key, value) in members {
        match value {
            Value::Bare { .. } if matches!(read(value, scale), Object::Score { .. }) => {
                into.push((key, value));
            }
            Value::Object(_) | Value::List(_) => {
                below(value).into_iter().for_each(|members| numbers(members, into, scale));
            }
            _ => {}
        }
    }
}

fn agreed<'a>(values: impl Iterator<Item = &'a Value>, scale: Scale) -> Option<Object> {
    let read: Vec<Object> = values.map(|value| read(value, scale)).collect();
    let first = *read.first()?;
    let value = |object: &Object| match object {
        Object::Score { value, .. } => Some(*value),
        Object::Miss(_) => None,
    };
    match read.iter().find(|other| value(other) != value(&first)) {
        None => Some(first),
        Some(other) => Some(match (value(&first), value(other)) {
            (Some(a), Some(b)) => Object::Miss(Miss::Several(a, b)),
            (None, _) => first,
            (_, None) => *other,
        }),
    }
}

fn read(value: &Value, scale: Scale) -> Object {
    match value {
        Value::Bare { text, cut } => read_text(text, *cut, scale),
        Value::Text(text) => read_text(text, false, scale),
        Value::List(values) => match &values[..] {
            [one] => read(one, scale),
            [] => Object::Miss(Miss::NoNumber),
            [..] => Object::Miss(Miss::Undecided),
        },
        Value::Object(_) => Object::Miss(Miss::Undecided),
    }
}

fn read_text(text: &str, cut: bool, scale: Scale) -> Object {
    let text = text.trim();
    // "Score: " marks the following value as a verdict, as in words.
    match words::verdict(&format!("Score: {text}"), scale) {
        Ok(found) if !text.is_empty() => {
            Object::Score { value: found.value, cut: cut && found.ends }
        }
        Ok(_) => Object::Miss(Miss::NoNumber),
        Err(miss) => Object::Miss(miss),
    }
}

/// A reader of what is nearly JSON.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip(&mut self, c: char) -> bool {
        let there = self.peek() == Some(c);
        self.at += if there { c.len_utf8() } else { 0 };
        there
    }

    /// Passes over white space and comments.
    fn space(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
            self.at += rest.len() - trimmed.len();
            let comment = if trimmed.starts_with("//") || trimmed.starts_with('#') {
                trimmed.find('\n').unwrap_or(trimmed.len())
            } else if trimmed.starts_with("/*") {
                trimmed.find("*/").map_or(trimmed.len(), |end| end + 2)
            } else {
                return;
            };
            self.at += comment;
        }
    }

    /// An object at its brace; `None` without an object. One without an end has what it has.
    fn object(&mut self, depth: usize) -> Option<Vec<(String, Value)>> {
        if depth > DEEPEST || !self.skip('{') {
            return None;
        }
        let mut members = Vec::new();
        loop {
            self.space();
            if self.skip(',') {
                continue;
            }
            match self.peek() {
                None => return Some(members),
                Some('}') => {
                    self.at += 1;
                    return Some(members);
                }
                Some(_) => {}
            }
            let key = self.key()?;
            self.space();
            if self.peek().is_none() {
                return Some(members);
            }
            if !(self.skip(':') || self.skip('=') || self.skip('：')) {
                return None;
            }
            self.skip('>');
            self.space();
            if self.peek().is_none() {
                return Some(members);
            }
            members.push((key, self.value(depth)?));
        }
    }

    fn key(&mut self) -> Option<String> {
        if let Some(close) = self.peek().and_then(closing) {
            return Some(self.string(close, true));
        }
        let rest = self.rest();
        let end =
            rest.find(|c: char| !(c.is_alphanumeric() || "_-$ ".contains(c))).unwrap_or(rest.len());
        let key = rest[..end].trim().to_owned();
        self.at += end;
        (!key.is_empty() && key.len() <= 60).then_some(key)
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        match self.peek()? {
            '{' => self.object(depth + 1).map(Value::Object),
            '[' => self.list(depth + 1).map(Value::List),
            c if closing(c).is_some() => {
                let close = closing(c)?;
                Some(Value::Text(self.string(close, false)))
            }
            _ => {
                let rest = self.rest();
                let comment =
                    |at: usize| rest[at..].starts_with("//") || rest[at..].starts_with("/*");
                // A comma between digits is that of a decimal.
                let decimal = |at: usize| {
                    rest[..at].ends_with(|c: char| c.is_ascii_digit())
                        && rest[at + 1..].starts_with(|c: char| c.is_ascii_digit())
                };
                let end = rest.char_indices().find(|&(at, c)| match c {
                    ',' => !decimal(at),
                    '}' | ']' | '\n' => true,
                    '/' => comment(at),
                    _ => false,
                });
                let end = end.map(|(at, _)| at);
                let text = rest[..end.unwrap_or(rest.len())].trim().to_owned();
                let cut = end.is_none();
                self.at += end.unwrap_or(rest.len());
                Some(Value::Bare { text, cut })
            }
        }
    }

    fn list(&mut self, depth: usize) -> Option<Vec<Value>> {
        if depth > DEEPEST || !self.skip('[') {
            return None;
        }
        let mut values = Vec::new();
        loop {
            self.space();
            if self.skip(',') {
                continue;
            }
            match self.peek() {
                None => return Some(values),
                Some(']') => {
                    self.at += 1;
                    return Some(values);
                }
                // A missing bracket.
                Some('}') => return Some(values),
                Some(_) => {
                    let before = self.at;
                    values.push(self.value(depth)?);
                    if self.at == before {
                        return None;
                    }
                }
            }
        }
    }

    /// A string at its opening mark. Quotation marks that were not escaped are told from the
    /// closing one by what follows.
    fn string(&mut self, close: char, key: bool) -> String {
        let open = self.peek().map_or(0, char::len_utf8);
        self.at += open;
        let mut string = String::new();
        while let Some(c) = self.peek() {
            self.at += c.len_utf8();
            match c {
                '\\' => {
                    let Some(escaped) = self.peek() else { break };
                    self.at += escaped.len_utf8();
                    match escaped {
                        'n' | 'r' => string.push('\n'),
                        't' => string.push('\t'),
                        'u' => {
                            let code = self
                                .rest()
                                .get(..4)
                                .and_then(|hex| u32::from_str_radix(hex, 16).ok());
                            let decoded = code.and_then(char::from_u32);
                            self.at += if code.is_some() { 4 } else { 0 };
                            string.push(decoded.unwrap_or(' '));
                        }
                        c => string.push(c),
                    }
                }
                c if c == close => {
                    let after = self.rest().trim_start();
                    let ends = match after.chars().next() {
                        None | Some('}' | ']') => true,
                        Some(':' | '：' | '=') => key,
                        Some(',') if !key => {
                            let next = after[1..].trim_start();
                            let word =
                                next.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
                            next.is_empty()
                                || next
                                    .starts_with(|c| closing(c).is_some() || "}]{[/#".contains(c))
                                || word.trim_start().starts_with([':', ',', ']'])
                        }
                        Some('/' | '#') => true,
                        // A comma was forgotten.
                        Some(c) => {
                            !key && closing(c).is_some()
                                && self.rest().starts_with(char::is_whitespace)
                        }
                    };
                    if ends {
                        return string;
                    }
                    string.push(c);
                }
                c => string.push(c),
            }
        }
        string
    }
}

/// The closing mark of an opening one.
fn closing(open: char) -> Option<char> {
    match open {
        '"' | '\'' | '`' => Some(open),
        '\u{201c}' => Some('\u{201d}'),
        '\u{2018}' => Some('\u{2019}'),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_and_what_is_nearly_one_give_their_score() {
        let cases = [
            (r#"{"justification": "2 of 3", "score": 8}"#, Some(8.)),
            ("{\"justification\": \"2 of\n3\", \"score\": 8}", Some(8.)),
            (r#"{"justification": "x", "score": 8,}"#, Some(8.)),
            (r#"{"score": 8, "justification": "x",}"#, Some(8.)),
            ("```json\n{\"score\": 8}\n```", Some(8.)),
            ("Here is 1 object:\n{\"score\": 8}\nIt has 2 lines.", Some(8.)),
            ("{'justification': 'it is good', 'score': 8}", Some(8.)),
            ("{'justification': \"it's good\", 'score': 8}", Some(8.)),
            ("{'justification': 'it's good', 'score': 8}", Some(8.)),
            (r#"{"justification": "he said "7", twice", "score": 8}"#, Some(8.)),
            (r#"{score: 8, justification: "x"}"#, Some(8.)),
            ("{\"score\": 8 // of 10\n}", Some(8.)),
            ("{/* 7? */ \"score\": 8}", Some(8.)),
            ("{\n# 7\n\"score\": 8}", Some(8.)),
            (r#"{"score": "8"}"#, Some(8.)),
            (r#"{"score": "8/10"}"#, Some(8.)),
            (r#"{"score": 8/10}"#, Some(8.)),
            (r#"{"score": 8 out of 10}"#, Some(8.)),
            (r#"{"score": "8 out of 10"}"#, Some(8.)),
            (r#"{"score": "+3.5"}"#, Some(3.5)),
            (r#"{"score": +8}"#, Some(8.)),
            (r#"{"score": 7,5}"#, Some(7.5)),
            (r#"{"score": 8.}"#, Some(8.)),
            (r#"{"Score": 8}"#, Some(8.)),
            (r#"{"rating": 8}"#, Some(8.)),
            (r#"{"final_score": 8, "max_score": 10}"#, Some(8.)),
            (r#"{"score": 4, "max_score": 5}"#, None),
            (r#"{"score": 4, "out_of": 5}"#, None),
            (r#"{"score": 4, "scale": "1-5"}"#, None),
            (r#"{"score": 4, "scale": [1, 5]}"#, None),
            (r#"{"score": 8, "scale": "1-10"}"#, Some(8.)),
            (r#"{"score": 8, "scale": "helpfulness"}"#, Some(8.)),
            (r#"{"helpfulness": 7, "clarity": 9, "overall": 8}"#, Some(8.)),
            (r#"{"parts": {"score": 7}, "overall": 8}"#, Some(8.)),
            (r#"{"evaluation": {"score": 8, "reason": "1 flaw"}}"#, Some(8.)),
            (r#"{"name": "verdict", "arguments": {"score": 8}}"#, Some(8.)),
            (r#"{"name": "verdict", "arguments": "{\"score\": 8}"}"#, None),
            (r#"{"helpfulness": 8, "justification": "2 of 3"}"#, Some(8.)),
            (r#"[{"score": 8}]"#, Some(8.)),
            (r#"{"score": [8]}"#, Some(8.)),
            (r#""{\"score\": 8}""#, Some(8.)),
            (r#"{"score": 8, "justification": "it is"#, Some(8.)),
            (r#"{"score": 8"#, Some(8.)),
            ("{\"score\": 8\n\"justification\": \"x\"}", Some(8.)),
            (r#"{“score”: 8}"#, Some(8.)),
            (r#"{"score": 8} {"score": 8}"#, Some(8.)),
            (r#"{"score": 7} {"score": 8}"#, None),
            (r#"{"score": 7, "score": 8}"#, None),
            (r#"[{"score": 7}, {"score": 8}]"#, None),
            (r#"{"helpfulness": 7, "clarity": 9}"#, None),
            (r#"{"confidence": 8}"#, None),
            (r#"{"score": NaN}"#, None),
            (r#"{"score": Infinity}"#, None),
            (r#"{"score": 1e999}"#, None),
            (r#"{"score": null}"#, None),
            (r#"{"score": ""}"#, None),
            (r#"{"score": true}"#, None),
            (r#"{"score": "high"}"#, None),
            (r#"{"score": "7-8"}"#, None),
            (r#"{"score": [7, 8]}"#, None),
            (r#"{"score": {"low": 7, "high": 8}}"#, None),
            (r#"{"score": 85}"#, None),
            (r#"{"score": <1 to 10>, "justification": "2 of 3"}"#, None),
            (r#"{"justification": "2 of"#, None),
            (r#"{"justification": "2 of 3"}"#, None),
            ("{}", None),
            ("{8}", None),
        ];
        for (text, expected) in cases {
            let found = match score(text, Scale { low: 1., high: 10. }) {
                Some(Object::Score { value, .. }) => Some(value),
                _ => None,
            };
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn deep_or_many_objects_are_no_verdict_and_take_no_time() {
        let scale = Scale { low: 1., high: 10. };
        for text in ["{\"a\":".repeat(20_000), "{\"".repeat(20_000), "[{".repeat(20_000)] {
            assert!(!matches!(score(&text, scale), Some(Object::Score { .. })));
        }
    }
}
