//! Answers that are compared as text.

use regex::Regex;
use rlaif_core::{Exchange, RewardError, RewardModel, Scores};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::truth::{Truth, scored};
use crate::ProviderError;

/// Differences between two texts that do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TextComparison {
    /// White space around the texts.
    #[default]
    Exact,
    /// Case, punctuation, the articles `a`, `an` and `the`, and white space: the exact match of SQuAD.
    Folded,
}

impl TextComparison {
    fn same(self, a: &str, b: &str) -> bool {
        match self {
            Self::Exact => a.trim() == b.trim(),
            Self::Folded => match (folded(a), folded(b)) {
                // A text that consists of articles and punctuation is compared unfolded.
                (x, y) if x.is_empty() || y.is_empty() => {
                    a.trim().to_lowercase() == b.trim().to_lowercase()
                }
                (x, y) => x == y,
            },
        }
    }
}

fn folded(text: &str) -> String {
    let letters = text.to_lowercase().replace(|c: char| c.is_ascii_punctuation(), "");
    let words = letters.split_whitespace().filter(|word| !matches!(*word, "a" | "an" | "the"));
    words.collect::<Vec<_>>().join(" ")
}

/// 1 for a response that is the right answer, 0 for any other. With a pattern, what the first group (or
/// the whole pattern) last matched is the answer; a response that it does not match scores 0.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::verify::{TextAnswer, TextComparison, Truth};
/// let reward = TextAnswer::new(Truth::Reference, TextComparison::Folded)
///     .found_by(r"(?s)<answer>(.*?)</answer>")?;
/// let said = Exchange { reference: Some("The cat."), ..Exchange::new("p", "<answer>cat</answer>") };
/// assert_eq!(reward.score(&[said])?.total[0].unwrap().get(), 1.);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct TextAnswer {
    truth: Truth,
    comparison: TextComparison,
    pattern: Option<Regex>,
}

impl TextAnswer {
    /// A comparison of whole responses with the answer that `truth` names.
    pub fn new(truth: Truth, comparison: TextComparison) -> Self {
        Self { truth, comparison, pattern: None }
    }

    /// The same of the part of a response that a regular expression finds.
    ///
    /// # Errors
    /// [`ProviderError::Pattern`].
    pub fn found_by(mut self, pattern: &str) -> Result<Self, ProviderError> {
        let compiled = Regex::new(pattern).map_err(|source| ProviderError::Pattern {
            pattern: pattern.to_owned(),
            source: Box::new(source),
        })?;
        self.pattern = Some(compiled);
        Ok(self)
    }

    fn answer<'a>(&self, response: &'a str) -> Option<&'a str> {
        let Some(pattern) = &self.pattern else { return Some(response) };
        let last = pattern.captures_iter(response).last()?;
        last.get(1).or_else(|| last.get(0)).map(|found| found.as_str())
    }
}

impl RewardModel for TextAnswer {
    fn name(&self) -> &'static str {
        "text-answer"
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        scored(self.name(), batch, |exchange| {
            let right = self.truth.texts(exchange)?;
            let answer = self.answer(exchange.response);
            let is_right =
                |answer: &str| right.iter().any(|right| self.comparison.same(answer, right));
            Ok(f32::from(answer.is_some_and(is_right)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_texts_are_those_of_squad() {
        // `normalize_answer` of SQuAD's evaluate-v1.1.py.
        for (text, folds) in [
            ("The  Cat, sat!", "cat sat"),
            ("An apple a day", "apple day"),
            ("U.S.A.", "usa"),
            ("theatre", "theatre"),
            ("", ""),
        ] {
            assert_eq!(folded(text), folds, "{text}");
        }
    }

    #[test]
    fn the_last_match_counts_and_several_answers_may_be_right() {
        let row = serde_json::json!({"answers": ["7", "seven"]});
        let score = |response: &str| {
            let reward = TextAnswer::new(Truth::named(Some("answers")), TextComparison::Exact)
                .found_by(r"<(\w+)>")
                .unwrap();
            let exchange = Exchange { metadata: row.as_object(), ..Exchange::new("p", response) };
            reward.score(&[exchange]).unwrap().total[0].unwrap().get()
        };
        assert_eq!(score("<6> no, <seven>"), 1.);
        assert_eq!(score("<7> no, <6>"), 0.);
        assert_eq!(score("seven"), 0.);
    }

    #[test]
    fn a_row_without_an_answer_has_no_score_and_the_reason() {
        let reward = TextAnswer::new(Truth::named(Some("answers")), TextComparison::Exact);
        let (empty, number) =
            (serde_json::json!({"answers": null}), serde_json::json!({"answers": {}}));
        let of = |row| Exchange { metadata: row, ..Exchange::new("p", "7") };
        let batch = [of(None), of(empty.as_object()), of(number.as_object())];
        let scores = reward.score(&batch).unwrap();
        assert!(scores.total.iter().all(Option::is_none));
        let reasons: Vec<&str> = scores.reasons.iter().map(|(_, reason)| &**reason).collect();
        assert_eq!(reasons[0], "the row has no `answers`");
        assert_eq!(reasons[1], "the row has no `answers`");
        assert!(reasons[2].contains("`answers` is an object; expected a text"), "{}", reasons[2]);
    }
}
