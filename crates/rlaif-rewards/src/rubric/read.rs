//! Parsing of answers into verdicts.

mod expectation;
mod numbers;
mod object;
mod plain;
mod reasoning;
mod words;

use super::answer::{AnswerForm, Scale};
pub(super) use expectation::expectation;
#[cfg(any(feature = "judge", feature = "neural"))]
pub(super) use expectation::{TokenText, written};
use object::Object;
use words::Miss;

/// Reasons why an answer stopped.
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

/// One token of an answer, with the most probable tokens at its position.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenAlternatives {
    /// The token that was written.
    pub token: String,
    /// Tokens that could have been, the written one among them, each with its log-prob (nats).
    pub alternatives: Vec<(String, f64)>,
}

/// The answer of a judge.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// The reason why the answer ended.
    pub finish: Finish,
    /// The tokens of the answer, if the judge returns log-probs.
    pub tokens: Vec<TokenAlternatives>,
}

impl Answer {
    /// A complete answer, without log-probs.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}

/// Reasons why an answer, or a row, has no verdict.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NoVerdict {
    /// The template compares with a reference and the row has none.
    #[error("the template names {{reference}} and the row has none")]
    NoReference,
    /// The judge declined.
    #[error("the judge declined to answer")]
    Refused,
    /// The answer is empty.
    #[error("the judge's answer is empty")]
    Empty,
    /// The answer has no number.
    #[error("the judge's answer has no number: {}", Excerpt(.answer))]
    NoNumber {
        /// The answer.
        answer: String,
    },
    /// The answer has numbers, none of which is marked as the verdict: for example counts,
    /// quotations, dates.
    #[error("no number in the judge's answer is marked as the verdict: {}", Excerpt(.answer))]
    Undecided {
        /// The answer.
        answer: String,
    },
    /// The answer has several verdicts, none of which is marked as the final one.
    #[error("the judge's answer has two verdicts, {first} and {second}: {}", Excerpt(.answer))]
    Several {
        /// One of them.
        first: f64,
        /// Another one.
        second: f64,
        /// The answer.
        answer: String,
    },
    /// The answer names a range, or alternatives.
    #[error("the judge's answer is a range, not a number: {}", Excerpt(.answer))]
    Between {
        /// The answer.
        answer: String,
    },
    /// The verdict is on another scale than the one that was asked for.
    #[error("the judge's answer is on another scale than {low} to {high}: {}", Excerpt(.answer))]
    AnotherScale {
        /// The scale's low end.
        low: f64,
        /// The scale's high end.
        high: f64,
        /// The answer.
        answer: String,
    },
    /// The verdict is NaN, infinite, or too large.
    #[error("the judge's number is not finite: {}", Excerpt(.answer))]
    NotFinite {
        /// The answer.
        answer: String,
    },
    /// The answer ends within its reasoning.
    #[error("the judge's answer ends within its reasoning: {}", Excerpt(.answer))]
    InReasoning {
        /// The answer.
        answer: String,
    },
    /// The number of an expectation has decimals.
    #[error("the judge answered {found}, but an expectation needs integers")]
    NotWhole {
        /// The number.
        found: f64,
    },
    /// The answer ends within its number, or before it.
    #[error("the judge's answer was cut short by `max_new_tokens`: {}", Excerpt(.answer))]
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
    #[error(
        "the judge's answer has no log-probs; use a server that returns them, or ask for a \
         number"
    )]
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
    /// The answer of a judge of pairs names neither response.
    #[error("the judge's answer should be one of `{labels}`, but is: {}", Excerpt(.answer))]
    OtherLabel {
        /// The labels of the two responses.
        labels: String,
        /// The answer.
        answer: String,
    },
    /// Too little of the probability is on the labels of the two responses.
    #[error("`{labels}` cover {covered:.3} of the probability, less than the {required} required")]
    LabelCoverage {
        /// The labels of the two responses.
        labels: String,
        /// The probability of both.
        covered: f64,
        /// The least that is enough.
        required: f64,
    },
}

#[cfg(any(feature = "judge", feature = "neural"))]
/// The last part of an answer that is outside its reasoning; nothing when the answer ends within it.
pub(super) fn outside_reasoning(text: &str) -> Option<std::ops::Range<usize>> {
    let parts = reasoning::outside(text)?;
    let blank = |part: &std::ops::Range<usize>| text[part.clone()].trim().is_empty();
    parts.iter().rev().find(|part| !blank(part)).or(parts.last()).cloned()
}

struct Excerpt<'a>(&'a str);

impl std::fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let excerpt: String = self.0.chars().take(80).collect();
        let more = if excerpt.len() < self.0.len() { " ..." } else { "" };
        write!(f, "{excerpt:?}{more}")
    }
}

/// The reason why this answer has no verdict.
fn unread(miss: Miss, answer: &str, scale: Scale) -> NoVerdict {
    let Scale { low, high } = scale;
    let answer = answer.to_owned();
    match miss {
        Miss::InReasoning => NoVerdict::InReasoning { answer },
        Miss::NoNumber => NoVerdict::NoNumber { answer },
        Miss::Undecided => NoVerdict::Undecided { answer },
        Miss::Several(first, second) => NoVerdict::Several { first, second, answer },
        Miss::Between => NoVerdict::Between { answer },
        Miss::AnotherScale => NoVerdict::AnotherScale { low, high, answer },
        Miss::NotFinite => NoVerdict::NotFinite { answer },
        Miss::OutOfRange(found) => NoVerdict::OutOfRange { found, low, high },
    }
}

/// The verdict of an answer in words or JSON.
///
/// A number counts if it stands alone, or is marked as the verdict; see the modules `words` and
/// `object`. In doubt there is no verdict rather than a wrong one.
pub(super) fn number(answer: &Answer, form: AnswerForm, scale: Scale) -> Result<f64, NoVerdict> {
    if answer.finish == Finish::Refused {
        return Err(NoVerdict::Refused);
    }
    let text = answer.text.trim();
    let cut_short = || NoVerdict::CutShort { answer: text.to_owned() };
    let cut = answer.finish == Finish::Length;
    if text.is_empty() {
        return Err(if cut { cut_short() } else { NoVerdict::Empty });
    }
    let missed = |miss| if cut { cut_short() } else { unread(miss, text, scale) };
    let kept = reasoning::outside(text).ok_or(Miss::InReasoning).map_err(missed)?;
    let outside: String = kept.into_iter().map(|part| &text[part]).collect::<Vec<_>>().join("\n");
    if outside.trim().is_empty() {
        return Err(missed(Miss::InReasoning));
    }
    match object::score(&outside, scale) {
        Some(Object::Score { value, cut: at_end }) => {
            if cut && at_end {
                return Err(cut_short());
            }
            let behind = outside.rfind('}').map_or("", |at| &outside[at + 1..]);
            return words::changed_by(behind, value, scale).map(|()| value).map_err(missed);
        }
        Some(Object::Miss(miss)) => return Err(missed(miss)),
        // In broken JSON, a number may belong to the justification.
        None if form == AnswerForm::Json && outside.contains('{') => {
            return Err(missed(Miss::NoNumber));
        }
        None => {}
    }
    let found = words::verdict(text, scale).map_err(missed)?;
    // Numbers in a judge's reasoning are not verdicts.
    if cut && (found.ends || !found.marked) {
        return Err(cut_short());
    }
    Ok(found.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEN: Scale = Scale { low: 1., high: 10. };

    /// The verdicts of `tests/verdicts.txt`, each on the scale that its line names.
    #[test]
    fn the_verdicts_of_the_table_are_read() {
        let mut wrong = Vec::new();
        let table = include_str!("../../tests/fixtures/verdicts.txt");
        for line in table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (expected, answer) = line.split_once(" | ").unwrap();
            let (expected, scale) = match expected.split_once('@') {
                Some((expected, scale)) => {
                    let (low, high) = scale.split_once("..").unwrap();
                    let [low, high] = [low, high].map(|end| end.trim().parse().unwrap());
                    (expected.trim(), Scale { low, high })
                }
                None => (expected.trim(), TEN),
            };
            let text: String = serde_json::from_str(answer).unwrap();
            for form in [AnswerForm::Number, AnswerForm::NumberThenReason, AnswerForm::Json] {
                let found = number(&Answer::text(&*text), form, scale);
                let told = found.as_ref().map_or("none".to_owned(), f64::to_string);
                // Braces are an object only where JSON was asked for.
                let brace = form == AnswerForm::Json && text.contains('{');
                if told != expected && !brace {
                    wrong.push(format!("{expected} expected of {answer}, and {found:?}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    proptest! {
        #[test]
        fn every_decimal_is_read_as_itself(value in 1. ..10_f64, places in 0..4_usize) {
            let written = format!("{value:+.places$}");
            let expected: f64 = written.parse().unwrap();
            for answer in [written.clone(), format!("Rating: {written}, I think")] {
                let found = number(&Answer::text(answer), AnswerForm::Number, TEN);
                prop_assert_eq!(found, Ok(expected));
            }
        }

        #[test]
        fn nothing_panics(text in ".*", form in 0..2_usize) {
            let form = [AnswerForm::Number, AnswerForm::Json][form];
            let _ = number(&Answer::text(text), form, TEN);
        }

        #[test]
        fn nothing_panics_on_what_resembles_an_answer(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "8", "10", "-", "/", " out of ", "Score", ": ", "\n", "**", "<think>", "</think>",
                    "８", "½", "分", "\u{200b}", "{", "}", "\"", "score", ",", "[[", "]]", "%", "to",
                    " a ", "\\boxed{", "~~", "$", "é", "1e999", "one", ".", "overall", "\\frac{",
                ]),
                0..20,
            )
        ) {
            let text = parts.concat();
            for form in [AnswerForm::Number, AnswerForm::Json] {
                let _ = number(&Answer::text(&*text), form, TEN);
            }
        }
    }

    #[test]
    fn a_long_answer_takes_no_time() {
        for part in ["8 ", "Score: ", "<think>", "\\boxed{", "{\"a\": ", "\"8", "1. a\n", "[["] {
            let answer = Answer::text(part.repeat(4_000));
            for form in [AnswerForm::Number, AnswerForm::Json] {
                assert!(number(&answer, form, TEN).is_err(), "{part}");
            }
        }
    }

    #[test]
    fn an_answer_that_stops_within_its_number_is_none() {
        let cut = Answer { finish: Finish::Length, ..Answer::text("1") };
        assert!(matches!(number(&cut, AnswerForm::Number, TEN), Err(NoVerdict::CutShort { .. })));
        for text in ["Score: 8.", "{\"score\": 8."] {
            let cut = Answer { finish: Finish::Length, ..Answer::text(text) };
            let found = number(&cut, AnswerForm::Number, TEN);
            assert!(matches!(found, Err(NoVerdict::CutShort { .. })), "{text}: {found:?}");
        }
        let after = Answer { finish: Finish::Length, ..Answer::text("4.5 because it") };
        assert_eq!(number(&after, AnswerForm::Number, TEN), Ok(4.5));
        let empty = Answer { finish: Finish::Length, ..Answer::text("") };
        assert!(matches!(number(&empty, AnswerForm::Number, TEN), Err(NoVerdict::CutShort { .. })));
    }

    #[test]
    fn json_is_read_by_its_key() {
        let read = |text: &str| number(&Answer::text(text), AnswerForm::Json, TEN);
        assert_eq!(read(r#"{"justification":"2 of 3 points","score":4}"#), Ok(4.));
        assert_eq!(read("```json\n{\"score\": \"+3.5\"}\n```"), Ok(3.5));
        assert_eq!(read("4"), Ok(4.));
        assert!(matches!(read(r#"{"justification":"2 of"#), Err(NoVerdict::NoNumber { .. })));
    }
}
