//! Verdicts from answers.

use super::{AnswerForm, Scale};

/// Why an answer stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Finish {
    /// The judge was done.
    #[default]
    Complete,
    /// The limit on its length was reached.
    Length,
    /// The judge, or a filter before it, declined.
    Refused,
}

/// One token of an answer, with the likeliest tokens at its place.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenAlternatives {
    /// The token that was written.
    pub token: String,
    /// Tokens that could have been, the written one among them, each with its log-prob (nats).
    pub alternatives: Vec<(String, f64)>,
}

/// What a judge answered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Its tokens, where the judge gives log-probs.
    pub tokens: Vec<TokenAlternatives>,
}

impl Answer {
    /// A complete answer, without log-probs.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}

/// Why an answer, or a row, gives no verdict.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Unread {
    /// The template compares with a reference and the row has none.
    #[error("the template names {{reference}} and the row has none")]
    NoReference,
    /// The judge declined.
    #[error("the judge declined to answer")]
    Refused,
    /// Nothing was answered.
    #[error("the judge's answer is empty")]
    Empty,
    /// The answer has no number.
    #[error("the judge's answer has no number: {}", Excerpt(.answer))]
    NoNumber {
        /// The answer.
        answer: String,
    },
    /// The answer ends within its number, or before it.
    #[error("the judge's answer was cut short by `max_tokens`: {}", Excerpt(.answer))]
    CutShort {
        /// The answer.
        answer: String,
    },
    /// The number is outside the scale.
    #[error("the judge answered {found}, which is outside {low} to {high}")]
    OutOfRange {
        /// The number.
        found: f64,
        /// The scale's low end.
        low: f64,
        /// The scale's high end.
        high: f64,
    },
    /// An expectation was asked for and the answer came without log-probs.
    #[error("the judge's answer has no log-probs; ask a server that gives them, or for a number")]
    NoLogProbs,
    /// Too little of the probability is on numbers of the scale.
    #[error(
        "numbers of the scale cover {covered:.3} of the probability, less than the {required} \
         required: {}", Excerpt(.answer)
    )]
    Coverage {
        /// Σ P(i) over the scale.
        covered: f64,
        /// The least that is enough.
        required: f64,
        /// The answer.
        answer: String,
    },
}

struct Excerpt<'a>(&'a str);

impl std::fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let excerpt: String = self.0.chars().take(80).collect();
        let more = if excerpt.len() < self.0.len() { " ..." } else { "" };
        write!(f, "{excerpt:?}{more}")
    }
}

/// The verdict of an answer in words or JSON.
pub(super) fn number(answer: &Answer, form: AnswerForm) -> Result<f64, Unread> {
    if answer.finish == Finish::Refused {
        return Err(Unread::Refused);
    }
    let text = answer.text.trim();
    let cut = answer.finish == Finish::Length;
    if text.is_empty() {
        return Err(if cut { Unread::CutShort { answer: String::new() } } else { Unread::Empty });
    }
    // A judge that was held to the schema, or at least kept to it; others may still give a number.
    if form == AnswerForm::Json
        && let Some(score) = json_score(text)
    {
        return Ok(score);
    }
    let unread = |text: &str| match answer.finish {
        Finish::Length => Unread::CutShort { answer: text.to_owned() },
        _ => Unread::NoNumber { answer: text.to_owned() },
    };
    // In broken JSON the first number may be of the justification.
    if form == AnswerForm::Json && text.contains('{') {
        return Err(unread(text));
    }
    let (value, end) = first_decimal(text).ok_or_else(|| unread(text))?;
    if cut && end == text.len() {
        return Err(Unread::CutShort { answer: text.to_owned() });
    }
    Ok(value)
}

fn json_score(text: &str) -> Option<f64> {
    let (start, end) = (text.find('{')?, text.rfind('}')?);
    let object: serde_json::Value = serde_json::from_str(text.get(start..=end)?).ok()?;
    match object.get("score")? {
        serde_json::Value::String(text) => first_decimal(text.trim()).map(|(value, _)| value),
        number => number.as_f64(),
    }
}

/// The first signed decimal of `text` and where it ends: `+5`, `-4.50`, `−3`, `.5`.
///
/// Digits within a word (`GPT4`) are none, nor is a hyphen between words or numbers a sign.
fn first_decimal(text: &str) -> Option<(f64, usize)> {
    let mut before: Option<char> = None;
    let mut before_sign: Option<char> = None;
    for (at, c) in text.char_indices() {
        let joined = before.is_some_and(|b| b.is_alphanumeric() || b == '_' || b == '.');
        let fraction = c == '.' && text[at + 1..].starts_with(|d: char| d.is_ascii_digit());
        if !joined && (c.is_ascii_digit() || fraction) {
            let signed = !before_sign.is_some_and(char::is_alphanumeric);
            let sign = match before {
                Some('-' | '\u{2212}' | '\u{2013}') if signed => -1.,
                _ => 1.,
            };
            let end = decimal_end(&text[at..]) + at;
            let value: f64 = text[at..end].parse().ok()?;
            return value.is_finite().then_some((sign * value, end));
        }
        before_sign = before;
        before = Some(c);
    }
    None
}

/// Where a decimal that starts `text` ends.
fn decimal_end(text: &str) -> usize {
    let digits = |from: usize| {
        text[from..].find(|c: char| !c.is_ascii_digit()).map_or(text.len(), |n| from + n)
    };
    let whole = digits(0);
    match text[whole..].strip_prefix('.') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => digits(whole + 1),
        _ => whole,
    }
}

/// Σ i·P(i) / Σ P(i) over the scale, and Σ P(i).
///
/// Variants of one number (`7`, ` 7`) are added up. Where a tokenizer writes a number of two
/// digits as two tokens, the mass of the first one is shared by what may follow it, which is known
/// if it was the one written; else it counts for no number.
pub(super) fn expectation(
    answer: &Answer,
    scale: Scale,
    min_coverage: f64,
) -> Result<(f64, f64), Unread> {
    if answer.finish == Finish::Refused {
        return Err(Unread::Refused);
    }
    if answer.tokens.is_empty() {
        let nothing = answer.text.trim().is_empty();
        return Err(if nothing { Unread::Empty } else { Unread::NoLogProbs });
    }
    let (low, high) = (scale.low as u32, scale.high as u32);
    let is_number = |token: &str| token.trim().parse::<u32>().is_ok();
    let at = answer.tokens.iter().position(|t| is_number(&t.token));
    let at = at.or_else(|| answer.tokens.iter().position(|t| !t.token.trim().is_empty()));
    let at = at.unwrap_or(0);
    let mass = masses(&answer.tokens[at]);
    let of = |mass: &[(String, f64)], number: &str| -> f64 {
        mass.iter().filter(|(token, _)| token == number).map(|(_, p)| p).sum()
    };
    let (mut covered, mut sum) = (0., 0.);
    for i in low..=high {
        let number = i.to_string();
        // Numbers of the scale that begin with this one and are no token of their own here.
        let longer = (low..=high).map(|n| n.to_string()).any(|longer| {
            longer.len() > number.len() && longer.starts_with(&number) && of(&mass, &longer) == 0.
        });
        let written = answer.tokens[at].token.trim() == number;
        let mut p = of(&mass, &number);
        if longer && written {
            let next = answer.tokens.get(at + 1).map(masses).unwrap_or_default();
            for digit in 0..10 {
                let share = p * of(&next, &digit.to_string());
                let followed = i * 10 + digit;
                if (low..=high).contains(&followed) {
                    covered += share;
                    sum += f64::from(followed) * share;
                }
            }
            let digits: f64 = (0..10).map(|d: u32| of(&next, &d.to_string())).sum();
            p *= 1. - digits.min(1.);
        } else if longer {
            p = 0.;
        }
        covered += p;
        sum += f64::from(i) * p;
    }
    if covered < min_coverage {
        return Err(Unread::Coverage {
            covered,
            required: min_coverage,
            answer: answer.text.clone(),
        });
    }
    Ok((sum / covered, covered.min(1.)))
}

/// Probability by token without its white space; the written token is not counted twice.
fn masses(token: &TokenAlternatives) -> Vec<(String, f64)> {
    let mut seen = std::collections::HashSet::new();
    let distinct = token.alternatives.iter().filter(|(token, _)| seen.insert(token.as_str()));
    distinct.map(|(token, log_prob)| (token.trim().to_owned(), log_prob.exp())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_signed_decimal_is_found() {
        let cases = [
            ("+5", Some(5.)),
            ("-4", Some(-4.)),
            ("\u{2212}3.5", Some(-3.5)),
            ("Score: 7/10", Some(7.)),
            ("**4.50**", Some(4.5)),
            (".5", Some(0.5)),
            ("I rate it 3.", Some(3.)),
            ("3-4", Some(3.)),
            ("A-4 paper", Some(4.)),
            ("GPT4 says 2", Some(2.)),
            ("v1.2.3 gets 9", Some(9.)),
            ("none", None),
            ("", None),
            ("-", None),
            ("NaN", None),
            ("inf", None),
        ];
        for (text, expected) in cases {
            assert_eq!(first_decimal(text).map(|(v, _)| v), expected, "{text:?}");
        }
        assert_eq!(first_decimal(&"9".repeat(400)), None);
    }

    proptest! {
        #[test]
        fn every_decimal_is_read_as_itself(value in -1e6..1e6_f64, places in 0..4_usize) {
            let written = format!("{value:+.places$}");
            let expected: f64 = written.parse().unwrap();
            prop_assert_eq!(first_decimal(&format!("Rating: {written}, I think")).unwrap().0, expected);
        }

        #[test]
        fn nothing_panics(text in ".*") {
            let _ = first_decimal(&text);
            let _ = number(&Answer::text(text), AnswerForm::Json);
        }
    }

    #[test]
    fn an_answer_that_stops_within_its_number_is_none() {
        let cut = Answer { finish: Finish::Length, ..Answer::text("1") };
        assert!(matches!(number(&cut, AnswerForm::Number), Err(Unread::CutShort { .. })));
        let after = Answer { finish: Finish::Length, ..Answer::text("4.5 because it") };
        assert_eq!(number(&after, AnswerForm::Number), Ok(4.5));
        let empty = Answer { finish: Finish::Length, ..Answer::text("") };
        assert!(matches!(number(&empty, AnswerForm::Number), Err(Unread::CutShort { .. })));
    }

    #[test]
    fn json_is_read_by_its_key() {
        let read = |text: &str| number(&Answer::text(text), AnswerForm::Json);
        assert_eq!(read(r#"{"justification":"2 of 3 points","score":4}"#), Ok(4.));
        assert_eq!(read("```json\n{\"score\": \"+3.5\"}\n```"), Ok(3.5));
        assert_eq!(read("4"), Ok(4.));
        assert!(matches!(read(r#"{"justification":"2 of"#), Err(Unread::NoNumber { .. })));
    }

    fn token(token: &str, alternatives: &[(&str, f64)]) -> TokenAlternatives {
        let alternatives = alternatives.iter().map(|(t, p)| ((*t).to_owned(), p.ln())).collect();
        TokenAlternatives { token: token.to_owned(), alternatives }
    }

    fn answer(tokens: Vec<TokenAlternatives>) -> Answer {
        let text = tokens.iter().map(|t| t.token.as_str()).collect::<String>();
        Answer { text, finish: Finish::Complete, tokens }
    }

    const TEN: Scale = Scale { low: 1., high: 10. };

    #[test]
    fn an_expectation_adds_variants_and_reports_its_coverage() {
        let tops = [("7", 0.4), (" 7", 0.1), ("8", 0.2), ("10", 0.1), ("the", 0.2)];
        let (mean, covered) = expectation(&answer(vec![token("7", &tops)]), TEN, 0.5).unwrap();
        assert!((covered - 0.8).abs() < 1e-12);
        assert!((mean - (7. * 0.5 + 8. * 0.2 + 10. * 0.1) / 0.8).abs() < 1e-12);
        let error = expectation(&answer(vec![token("7", &tops)]), TEN, 0.9).unwrap_err();
        assert!(matches!(error, Unread::Coverage { .. }), "{error}");
    }

    #[test]
    fn ten_in_two_tokens_is_told_from_one() {
        let tokens = vec![
            token("1", &[("1", 0.8), ("9", 0.2)]),
            token("0", &[("0", 0.75), ("<end>", 0.25)]),
        ];
        let (mean, covered) = expectation(&answer(tokens), TEN, 0.5).unwrap();
        assert!((covered - 1.).abs() < 1e-12);
        assert!((mean - (10. * 0.6 + 0.2 + 9. * 0.2)).abs() < 1e-12);
        // "1" was not written, so what would have followed it is unknown: it covers nothing.
        let tokens = vec![token("9", &[("1", 0.2), ("9", 0.8)])];
        let (mean, covered) = expectation(&answer(tokens), TEN, 0.5).unwrap();
        assert_eq!(mean, 9.);
        assert!((covered - 0.8).abs() < 1e-12);
    }

    #[test]
    fn words_before_the_number_are_passed_over() {
        let tokens = vec![
            token("Score", &[("Score", 1.)]),
            token(":", &[(":", 1.)]),
            token(" 6", &[(" 6", 0.9), (" 5", 0.1)]),
        ];
        let (mean, _) = expectation(&answer(tokens), TEN, 0.5).unwrap();
        assert!((mean - 5.9).abs() < 1e-12);
    }

    #[test]
    fn an_answer_without_log_probs_is_said() {
        assert_eq!(expectation(&Answer::text("7"), TEN, 0.5), Err(Unread::NoLogProbs));
        assert_eq!(expectation(&Answer::text(" "), TEN, 0.5), Err(Unread::Empty));
    }
}
