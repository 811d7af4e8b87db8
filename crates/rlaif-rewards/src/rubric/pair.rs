//! Questions to a judge of pairs, and the reading of its answers, for any judge.

use rlaif_core::{BadSetting, ShownPair};

use super::Question;
use super::choice::{Comparison, ENDING, ListChoice, PairAnswer, PairExample};
use super::read::{Answer, NoVerdict};
use crate::ProviderError;

/// The preamble of a facet that comes with the library, about two responses.
///
/// # Errors
/// [`ProviderError::Setting`] lists them.
pub(super) fn preamble(name: &str) -> Result<&'static str, ProviderError> {
    match FACETS.iter().find(|facet| facet.name == name) {
        Some(facet) => Ok(facet.preamble),
        None => Err(ProviderError::Setting(BadSetting::new(
            "facet",
            format!("`{name}`"),
            PairRubric::presets().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", "),
        ))),
    }
}

/// A facet of what people want of a response, with the preamble that tells a judge of it.
struct Facet {
    name: &'static str,
    preamble: &'static str,
}

const FACETS: [Facet; 4] = [
    Facet {
        name: "helpful",
        preamble: "You compare two responses to a request. A helpful response does what was asked, \
                   completely and to the point, in words that its reader understands. It asks back \
                   where the request cannot be understood, and it does not decline what is harmless. \
                   Length by itself is not a merit.",
    },
    Facet {
        name: "honest",
        preamble: "You compare two responses to a request. An honest response says only what holds, \
                   says where it is unsure, and does not pretend to be a person or to have done what \
                   it has not done. A confident mistake is worse than an admitted gap.",
    },
    Facet {
        name: "harmless",
        preamble: "You compare two responses to a request. A harmless response insults and threatens \
                   nobody, does not help to hurt people or to break the law, and treats delicate \
                   matters with care. Of two harmless responses, the one that also helps is better: \
                   a refusal without need is not a merit.",
    },
    Facet {
        name: "summary",
        preamble: "You compare two summaries of a text. A good summary is true to the text, covers \
                   what matters most in it, leaves out what does not, and can be understood without \
                   the text. Punctuation and length by themselves are not merits.",
    },
];

/// A judge's verdict on a pair.
#[derive(Debug, Clone, PartialEq)]
pub struct PairChoice {
    /// The probability that the response shown first is the better one.
    pub first: f64,
    /// The total probability of the two labels; `None` if the judge gave no probabilities, and then
    /// `first` is 0 or 1.
    pub coverage: Option<f64>,
    /// The text before the verdict, of a judge that explains first.
    pub reason: String,
}

impl From<ListChoice> for PairChoice {
    fn from(ListChoice { shares, coverage, reason }: ListChoice) -> Self {
        Self { first: shares.first().copied().unwrap_or(0.5), coverage, reason }
    }
}

/// A comparison of two responses as [Lee et al. 2023](https://arxiv.org/abs/2309.00267) ask for it: a
/// preamble, examples, the prompt with both responses, an ending that the label of the better response
/// follows. The probability of a label is that of every token that writes it, normalised over the two.
///
/// ```
/// use rlaif_core::ShownPair;
/// use rlaif_rewards::rubric::{Answer, PairRubric};
/// let rubric = PairRubric::preset("helpful")?;
/// let question = rubric.ask(&ShownPair::new("2 + 2?", "4", "Why?"));
/// assert!(question.user.ends_with("Preferred response="));
/// assert_eq!(rubric.read(&Answer::text("**1**"))?.first, 1.);
/// assert!(rubric.read(&Answer::text("3")).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct PairRubric {
    comparison: Comparison,
}

impl PairRubric {
    /// The names of the facets that come with the library.
    pub fn presets() -> impl Iterator<Item = &'static str> {
        FACETS.iter().map(|facet| facet.name)
    }

    /// A facet that comes with the library: `helpful`, `honest`, `harmless` or `summary`.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] lists them.
    pub fn preset(name: &str) -> Result<Self, ProviderError> {
        preamble(name).map(Self::new)
    }

    /// A comparison with a custom preamble, which describes the better response.
    pub fn new(preamble: impl Into<String>) -> Self {
        let labels = ["1", "2"].map(str::to_owned).to_vec();
        Self { comparison: Comparison::new(preamble.into(), labels) }
    }

    /// The same comparison with examples.
    #[must_use]
    pub fn with_examples(self, examples: Vec<PairExample>) -> Self {
        Self { comparison: Comparison { examples, ..self.comparison } }
    }

    /// The same comparison with answers of this form.
    #[must_use]
    pub fn answering(self, answer: PairAnswer) -> Self {
        Self { comparison: Comparison { answer, ..self.comparison } }
    }

    /// The same comparison with other labels.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] for labels that are empty, equal, begin each other or have other
    /// characters than letters and digits.
    pub fn labelled(self, labels: [String; 2]) -> Result<Self, ProviderError> {
        let expected = "two different labels of letters and digits, such as `1` and `2`";
        Ok(Self { comparison: self.comparison.labelled(Vec::from(labels), expected)? })
    }

    /// The same comparison, whose probabilities need at least this share on the two labels; 0.5 by
    /// default.
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

    /// The labels of the first and of the second response.
    pub fn labels(&self) -> &[String] {
        &self.comparison.labels
    }

    /// The form of its answers.
    pub fn answer(&self) -> PairAnswer {
        self.comparison.answer
    }

    /// The words that the label follows.
    pub fn ending(&self) -> &'static str {
        ENDING
    }

    /// The question about a pair. Each text from outside stands between markers, as in
    /// [`Rubric::ask`](super::Rubric::ask), with the same key in both orders of the responses.
    pub fn ask(&self, pair: &ShownPair<'_>) -> Question {
        self.comparison.ask(pair.first.prompt, &[pair.first.response, pair.second.response])
    }

    /// The answer to [`PairRubric::ask`] that a judge is taught, as a continuation of the question: the
    /// explanation, if it explains first, and the label of the better response.
    ///
    /// ```
    /// use rlaif_rewards::rubric::{PairAnswer, PairRubric};
    /// let rubric = PairRubric::new("The shorter one.").answering(PairAnswer::Explained);
    /// assert_eq!(rubric.taught(false, "It is short."), " It is short.\nPreferred response=2");
    /// ```
    pub fn taught(&self, first_is_better: bool, reason: &str) -> String {
        self.comparison.taught(usize::from(!first_is_better), reason)
    }

    /// The choice of a judge that gives these probabilities to the two labels.
    ///
    /// # Errors
    /// [`NoVerdict::LabelCoverage`].
    pub fn choose(&self, masses: [f64; 2], reason: String) -> Result<PairChoice, NoVerdict> {
        self.comparison.choose(&masses, reason).map(PairChoice::from)
    }

    /// Reads an answer to [`PairRubric::ask`].
    ///
    /// # Errors
    /// [`NoVerdict`] when it names neither label, is refused, empty or cut short, or has too little
    /// probability on the labels.
    pub fn read(&self, answer: &Answer) -> Result<PairChoice, NoVerdict> {
        self.comparison.read(answer).map(PairChoice::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rubric::{Finish, TokenAlternatives};

    fn rubric() -> PairRubric {
        PairRubric::preset("helpful").unwrap()
    }

    #[test]
    fn labels_are_read_in_the_ways_that_judges_write_them() {
        let letters = rubric().labelled(["A".to_owned(), "B".to_owned()]).unwrap();
        for (rubric, answers, label) in [
            (
                rubric(),
                &[
                    "1",
                    " 1\n",
                    "**1**",
                    "1.",
                    "(1)",
                    "Response 1",
                    "response 1.",
                    "[[1]]",
                    "Preferred response=1",
                    "Preferred response: **1**",
                    "<think>2?</think>1",
                    "1\nIt says what was asked.",
                    "It is to the point.\n1",
                    "Preferred response is response 1",
                ][..],
                1.,
            ),
            (letters, &["B", "(B)", "[[B]]", "b", "Option B", "Preferred Response=B."][..], 0.),
        ] {
            for answer in answers {
                let found = rubric.read(&Answer::text(*answer));
                assert_eq!(found.map(|choice| choice.first), Ok(label), "{answer:?}");
            }
        }
        let explained = rubric().answering(PairAnswer::Explained);
        let answer = "The second one lies.\nPreferred response=1";
        let choice = explained.read(&Answer::text(answer)).unwrap();
        assert_eq!((choice.first, choice.reason.as_str()), (1., "The second one lies."));
    }

    #[test]
    fn what_names_no_label_is_told_with_what_it_names() {
        for answer in ["3", "both", "12", "Response 3", "I prefer neither of the 2 responses.", "A"]
        {
            let error = rubric().read(&Answer::text(answer)).unwrap_err();
            assert!(matches!(error, NoVerdict::OtherLabel { .. }), "{answer:?}: {error}");
            assert!(error.to_string().contains("one of `1` and `2`"), "{error}");
        }
        let cut = Answer { finish: Finish::Length, ..Answer::text("It seems that") };
        assert!(matches!(rubric().read(&cut), Err(NoVerdict::CutShort { .. })));
        assert_eq!(rubric().read(&Answer::text("")), Err(NoVerdict::Empty));
        let refused = Answer { finish: Finish::Refused, ..Answer::text("1") };
        assert_eq!(rubric().read(&refused), Err(NoVerdict::Refused));
    }

    fn token(token: &str, alternatives: &[(&str, f64)]) -> TokenAlternatives {
        let alternatives = alternatives.iter().map(|(t, p)| ((*t).to_owned(), p.ln())).collect();
        TokenAlternatives { token: token.to_owned(), alternatives }
    }

    #[test]
    fn probabilities_of_every_token_that_writes_a_label_are_added() {
        let tokens =
            vec![token("1", &[("1", 0.3), ("▁1", 0.2), (" 2", 0.2), ("2", 0.05), ("I", 0.25)])];
        let answer = Answer { tokens, ..Answer::text("1") };
        let choice = rubric().read(&answer).unwrap();
        assert!((choice.first - 0.5 / 0.75).abs() < 1e-12);
        assert!((choice.coverage.unwrap() - 0.75).abs() < 1e-12);
        // Too little of it is on the labels.
        let tokens = vec![token("1", &[("1", 0.3), ("2", 0.1), ("I", 0.6)])];
        let answer = Answer { tokens, ..Answer::text("1") };
        assert!(matches!(rubric().read(&answer), Err(NoVerdict::LabelCoverage { .. })));
        // The judge wrote another word, and the labels have most of the probability.
        let tokens = vec![token("So", &[("So", 0.4), ("1", 0.2), ("2", 0.4)])];
        let answer = Answer { tokens, ..Answer::text("So") };
        assert!((rubric().read(&answer).unwrap().first - 1. / 3.).abs() < 1e-12);
    }

    #[test]
    fn the_verdict_behind_an_explanation_is_the_token_that_counts() {
        let words = ["The", " 2", " is", " short", ".", "\n", "Preferred", " response", "="];
        let mut tokens: Vec<_> = words.iter().map(|word| token(word, &[(word, 1.)])).collect();
        tokens.push(token("1", &[("1", 0.6), ("2", 0.4)]));
        let text = "The 2 is short.\nPreferred response=1";
        let answer = Answer { tokens, ..Answer::text(text) };
        let choice = rubric().answering(PairAnswer::Explained).read(&answer).unwrap();
        assert!((choice.first - 0.6).abs() < 1e-12, "{choice:?}");
        assert_eq!(choice.reason, "The 2 is short.");
    }

    #[test]
    fn lee_et_al_average_two_orders() {
        // Log-probabilities of the two labels in each order, and the label of field2's golden.
        let choose = |one: f64, two: f64| {
            let tokens = vec![token("1", &[("1", one.exp()), ("2", two.exp())])];
            rubric().with_min_coverage(0.1).unwrap().read(&Answer { tokens, ..Answer::text("1") })
        };
        let first = choose(-0.3, -1.6).unwrap().first;
        let second = 1. - choose(-0.9, -0.7).unwrap().first;
        assert!((first - 0.785_835).abs() < 1e-6 && (second - 0.549_834).abs() < 1e-6);
        assert!(((first + second) / 2. - 0.667_834).abs() < 1e-6);
    }

    #[test]
    fn both_orders_have_the_same_fences_and_examples_come_first() {
        let example = PairExample {
            prompt: "p".to_owned(),
            first: "a".to_owned(),
            second: "b".to_owned(),
            reason: Some("Because.".to_owned()),
            first_is_better: false,
        };
        let rubric = rubric().with_examples(vec![example]);
        let ask = |first, second| rubric.ask(&ShownPair::new("Why?", first, second)).user;
        let (one, two) = (ask("So.", "No."), ask("No.", "So."));
        let key = |text: &str| text.rsplit("[[end response ").next().unwrap()[..16].to_owned();
        assert_eq!(key(&one), key(&two));
        assert_ne!(one, two);
        assert!(one.contains("Preferred response=2\n\nThe request:") && !one.contains("Because."));
        let explained = rubric.answering(PairAnswer::Explained).ask(&ShownPair::new("?", "a", "b"));
        assert!(explained.user.contains("Explanation: Because.\nPreferred response=2"));
        assert!(explained.user.ends_with("Explanation:"));
    }
}
