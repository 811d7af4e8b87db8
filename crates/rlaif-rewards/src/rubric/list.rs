//! Questions to a judge about several responses at once.

use rlaif_core::Exchange;

use super::Question;
use super::choice::{Comparison, ListChoice, PairAnswer, PairExample};
use super::pair::preamble;
use super::read::{Answer, NoVerdict};
use crate::ProviderError;

/// A question for the best of several responses to a prompt: that of [`PairRubric`](super::PairRubric) with a
/// label for each response, by default the letters `A` to `Z`. The probability of a label is that of every
/// token that writes it, normalised over the labels of the responses.
///
/// ```
/// use rlaif_core::Exchange;
/// use rlaif_rewards::rubric::{Answer, ListRubric};
/// let rubric = ListRubric::preset("helpful")?;
/// let responses = ["4", "Why?", "5"].map(|text| Exchange::new("2 + 2?", text));
/// assert!(rubric.ask(&responses).user.contains("Response C:"));
/// assert_eq!(rubric.read(&Answer::text("A"), 3)?.shares, [1., 0., 0.]);
/// assert!(rubric.read(&Answer::text("D"), 3).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ListRubric {
    comparison: Comparison,
}

impl ListRubric {
    /// A facet that comes with the library: `helpful`, `honest`, `harmless` or `summary`.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] lists them.
    pub fn preset(name: &str) -> Result<Self, ProviderError> {
        Ok(Self::new(preamble(name)?.replacen("two", "several", 1)))
    }

    /// A question with a custom preamble, which describes the best response.
    pub fn new(preamble: impl Into<String>) -> Self {
        let labels = ('A'..='Z').map(String::from).collect();
        Self { comparison: Comparison::new(preamble.into(), labels) }
    }

    /// The same question with examples, whose two responses have the first two labels.
    #[must_use]
    pub fn with_examples(self, examples: Vec<PairExample>) -> Self {
        Self { comparison: Comparison { examples, ..self.comparison } }
    }

    /// The same question with answers of this form.
    #[must_use]
    pub fn answering(self, answer: PairAnswer) -> Self {
        Self { comparison: Comparison { answer, ..self.comparison } }
    }

    /// The same question with other labels, in the order of the responses.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] for labels that are empty, equal, begin each other or have other
    /// characters than letters and digits, and for fewer than two.
    pub fn labelled(self, labels: Vec<String>) -> Result<Self, ProviderError> {
        let expected = "two or more different labels of letters and digits, such as `A` and `B`";
        Ok(Self { comparison: self.comparison.labelled(labels, expected)? })
    }

    /// The same question, whose probabilities need at least this share on the labels; 0.5 by default.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] when it is not in (0, 1].
    pub fn with_min_coverage(self, min_coverage: f64) -> Result<Self, ProviderError> {
        Ok(Self { comparison: self.comparison.with_min_coverage(min_coverage)? })
    }

    #[cfg(feature = "judge")]
    pub(crate) fn comparison(&self) -> &Comparison {
        &self.comparison
    }

    /// The labels, at least as many as the responses that it can be asked about.
    pub fn labels(&self) -> &[String] {
        &self.comparison.labels
    }

    /// The question about responses to one prompt, in this order. Each text from outside stands between markers,
    /// as in [`Rubric::ask`](super::Rubric::ask), with the same key in every order.
    pub fn ask(&self, responses: &[Exchange<'_>]) -> Question {
        let prompt = responses.first().map_or("", |exchange| exchange.prompt);
        let texts: Vec<&str> = responses.iter().map(|exchange| exchange.response).collect();
        self.comparison.ask(prompt, &texts)
    }

    /// Reads an answer to [`ListRubric::ask`] about so many responses.
    ///
    /// # Errors
    /// [`NoVerdict`] when it names none of their labels, is refused, empty or cut short, or has too little
    /// probability on the labels.
    pub fn read(&self, answer: &Answer, responses: usize) -> Result<ListChoice, NoVerdict> {
        self.comparison.of(responses).read(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rubric::TokenAlternatives;

    #[test]
    fn words_are_not_taken_for_labels() {
        let rubric = ListRubric::preset("helpful").unwrap();
        for (answer, label) in [
            ("C", Some(2)),
            ("(b)", Some(1)),
            ("Response C.", Some(2)),
            ("Preferred response=**A**", Some(0)),
            ("Preferred response: A, which says it all", Some(0)),
            ("Preferred response: a", Some(0)),
            ("Preferred response: a tie", None),
            ("Preferred response: I cannot choose", None),
            ("A good one.", None),
            ("J", None),
            ("", None),
        ] {
            let found = rubric.read(&Answer::text(answer), 9).ok();
            let found = found.and_then(|choice| choice.shares.iter().position(|p| *p == 1.));
            assert_eq!(found, label, "{answer:?}");
        }
    }

    #[test]
    fn only_the_labels_of_the_responses_count() {
        let alternatives = [("A", 0.4), (" A", 0.1), ("C", 0.2), ("D", 0.2)];
        let alternatives = alternatives.map(|(t, p): (_, f64)| (t.to_owned(), p.ln())).to_vec();
        let tokens = vec![TokenAlternatives { token: "A".to_owned(), alternatives }];
        let answer = Answer { tokens, ..Answer::text("A") };
        let found = ListRubric::new("?").read(&answer, 3).unwrap();
        for (share, expected) in found.shares.iter().zip([0.5 / 0.7, 0., 0.2 / 0.7]) {
            assert!((share - expected).abs() < 1e-12, "{found:?}");
        }
        assert!((found.coverage.unwrap() - 0.7).abs() < 1e-12);
    }

    #[test]
    fn labels_that_cannot_be_told_apart_are_refused() {
        for labels in [vec!["a", "A", "B"], vec!["1", "2", "12"], vec!["A", ""], vec!["A", "B."]] {
            let labels = labels.into_iter().map(str::to_owned).collect();
            let error = ListRubric::new("?").labelled(labels).unwrap_err().to_string();
            assert!(error.contains("two or more different labels"), "{error}");
        }
    }
}
