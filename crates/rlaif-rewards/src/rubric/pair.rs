//! Questions to a judge of pairs, and the reading of its answers, for any judge.

use std::ops::Range;

use rlaif_core::{BadSetting, ShownPair};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::read::{self, Answer, Finish, NoVerdict};
use super::{AnswerShape, Question, coverage, fence};
use crate::ProviderError;

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

/// An example that a judge of pairs is shown before its question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PairExample {
    /// The prompt.
    pub prompt: String,
    /// The first response.
    pub first: String,
    /// The second response.
    pub second: String,
    /// The reason for the preference, for judges that explain first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// True if the first is the better one.
    pub first_is_better: bool,
}

/// The form of a judge's answer about a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PairAnswer {
    /// The label of the better response.
    #[default]
    Label,
    /// An explanation, and then the label.
    Explained,
}

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
    preamble: String,
    examples: Vec<PairExample>,
    labels: [String; 2],
    answer: PairAnswer,
    min_coverage: f64,
    controls: Vec<String>,
}

/// The words that the label follows.
const ENDING: &str = "Preferred response=";

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
        match FACETS.iter().find(|facet| facet.name == name) {
            Some(facet) => Ok(Self::new(facet.preamble)),
            None => Err(ProviderError::Setting(BadSetting::new(
                "facet",
                format!("`{name}`"),
                Self::presets().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", "),
            ))),
        }
    }

    /// A comparison with a custom preamble, which describes the better response.
    pub fn new(preamble: impl Into<String>) -> Self {
        Self {
            preamble: preamble.into(),
            examples: Vec::new(),
            labels: ["1".to_owned(), "2".to_owned()],
            answer: PairAnswer::Label,
            min_coverage: 0.5,
            controls: Vec::new(),
        }
    }

    /// The same comparison with examples.
    #[must_use]
    pub fn with_examples(self, examples: Vec<PairExample>) -> Self {
        Self { examples, ..self }
    }

    /// The same comparison with answers of this form.
    #[must_use]
    pub fn answering(self, answer: PairAnswer) -> Self {
        Self { answer, ..self }
    }

    /// The same comparison with other labels.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] for labels that are empty, equal, begin each other or have other
    /// characters than letters and digits.
    pub fn labelled(self, labels: [String; 2]) -> Result<Self, ProviderError> {
        let [a, b] = &labels;
        let plain = |label: &str| !label.is_empty() && label.chars().all(char::is_alphanumeric);
        // Answers are read without regard to case.
        let (low_a, low_b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
        if !plain(a) || !plain(b) || low_a.starts_with(&low_b) || low_b.starts_with(&low_a) {
            return Err(ProviderError::Setting(BadSetting::new(
                "labels",
                format!("`{a}` and `{b}`"),
                "two different labels of letters and digits, such as `1` and `2`",
            )));
        }
        Ok(Self { labels, ..self })
    }

    /// The same comparison, whose probabilities need at least this share on the two labels; 0.5 by
    /// default.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] when it is not in (0, 1].
    pub fn with_min_coverage(self, min_coverage: f64) -> Result<Self, ProviderError> {
        Ok(Self { min_coverage: coverage(min_coverage)?, ..self })
    }

    /// The same comparison, for a judge whose tokenizer reads these as control tokens.
    #[cfg(all(feature = "judge", feature = "neural"))]
    pub(crate) fn breaking_up(&self, controls: &[String]) -> Self {
        let kept = controls.iter().filter(|control| !fence::is_broken_up_anyway(control));
        Self { controls: kept.cloned().collect(), ..self.clone() }
    }

    /// The labels of the first and of the second response.
    pub fn labels(&self) -> &[String; 2] {
        &self.labels
    }

    /// The form of its answers.
    pub fn answer(&self) -> PairAnswer {
        self.answer
    }

    fn explains(&self) -> bool {
        self.answer == PairAnswer::Explained
    }

    /// The words that the label follows.
    pub fn ending(&self) -> &'static str {
        ENDING
    }

    /// The shape of its answers; `log_probs` for those that come with probabilities.
    #[cfg(feature = "judge")]
    pub(crate) fn shape(&self, log_probs: bool) -> AnswerShape {
        let max_tokens = if self.explains() { 512 } else { 8 };
        AnswerShape { max_tokens, log_probs, schema: false }
    }

    /// The question about a pair. Each text from outside stands between markers, as in
    /// [`Rubric::ask`](super::Rubric::ask), with the same key in both orders of the responses.
    pub fn ask(&self, pair: &ShownPair<'_>) -> Question {
        let [one, two] = &self.labels;
        let answer = if self.explains() {
            format!(
                "First explain in a few sentences which response is better and why. Then end with a \
                 line `{ENDING}{one}` or `{ENDING}{two}`."
            )
        } else {
            format!(
                "Answer with the label of the better response, {one} or {two}, and nothing else."
            )
        };
        let mut user = String::new();
        for example in &self.examples {
            let PairExample { prompt, first, second, reason, first_is_better } = example;
            let label = if *first_is_better { one } else { two };
            user.push_str(&self.sample(&ShownPair::new(prompt, first, second)));
            if let Some(reason) = reason.as_ref().filter(|_| self.explains()) {
                user.push_str(&format!("Explanation: {}\n", reason.trim()));
            }
            user.push_str(&format!("{ENDING}{label}\n\n"));
        }
        user.push_str(&self.sample(pair));
        user.push_str(if self.explains() { "Explanation:" } else { ENDING });
        let parts = [self.preamble.as_str(), fence::NOTICE, &answer];
        Question { system: parts.join("\n\n"), user }
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
        let label = &self.labels[usize::from(!first_is_better)];
        match self.answer {
            PairAnswer::Label => label.clone(),
            PairAnswer::Explained => format!(" {}\n{ENDING}{label}", reason.trim()),
        }
    }

    fn sample(&self, pair: &ShownPair<'_>) -> String {
        let (prompt, first, second) =
            (pair.first.prompt, pair.first.response, pair.second.response);
        let (low, high) = if first <= second { (first, second) } else { (second, first) };
        let key = fence::key(&[Some(prompt), Some(low), Some(high)]);
        let fenced = |name: &str, text: &str| fence::fenced(name, &key, text, &self.controls);
        let [one, two] = &self.labels;
        format!(
            "The request:\n{}\n\nResponse {one}:\n{}\n\nResponse {two}:\n{}\n\n",
            fenced("prompt", prompt),
            fenced("response", first),
            fenced("response", second)
        )
    }

    /// The choice of a judge that gives these probabilities to the two labels.
    ///
    /// # Errors
    /// [`NoVerdict::LabelCoverage`].
    pub fn choose(&self, masses: [f64; 2], reason: String) -> Result<PairChoice, NoVerdict> {
        let [first, second] = masses;
        let covered = first + second;
        if covered < self.min_coverage || covered.is_nan() {
            let labels = self.labels.join("` and `");
            return Err(NoVerdict::LabelCoverage { labels, covered, required: self.min_coverage });
        }
        Ok(PairChoice { first: first / covered, coverage: Some(covered.min(1.)), reason })
    }

    /// Reads an answer to [`PairRubric::ask`].
    ///
    /// # Errors
    /// [`NoVerdict`] when it names neither label, is refused, empty or cut short, or has too little
    /// probability on the labels.
    pub fn read(&self, answer: &Answer) -> Result<PairChoice, NoVerdict> {
        if answer.finish == Finish::Refused {
            return Err(NoVerdict::Refused);
        }
        let tokens = read::TokenText::of(answer);
        let text = if answer.tokens.is_empty() { answer.text.as_str() } else { tokens.visible() };
        if text.trim().is_empty() {
            return Err(NoVerdict::Empty);
        }
        let Some(part) = read::outside_reasoning(text) else {
            return Err(NoVerdict::InReasoning { answer: text.trim().to_owned() });
        };
        let found = self.find(&text[part.clone()]);
        let reason = |end: usize| {
            let before = text[..end].trim_end();
            let lower = before.to_ascii_lowercase();
            let end = lower.rfind("preferred response").unwrap_or(before.len());
            if self.explains() { before[..end].trim().to_owned() } else { String::new() }
        };
        match found {
            Some((label, at)) => {
                let at = part.start + at;
                if answer.tokens.is_empty() {
                    let first = if label == 0 { 1. } else { 0. };
                    return Ok(PairChoice { first, coverage: None, reason: reason(at) });
                }
                self.choose(self.masses(answer, tokens.token_at(at)), reason(at))
            }
            // The judge wrote something else; how probable the labels were is known all the same.
            None if !self.explains() && !answer.tokens.is_empty() => {
                let blank = |text: &str| text.trim().is_empty();
                let first = answer.tokens.iter().position(|token| !blank(&token.token));
                let masses = self.masses(answer, first.unwrap_or(0));
                self.choose(masses, String::new()).map_err(|_| self.neither(answer, text))
            }
            None => Err(self.neither(answer, text)),
        }
    }

    fn neither(&self, answer: &Answer, text: &str) -> NoVerdict {
        let answer_text = text.trim().to_owned();
        match answer.finish {
            Finish::Length => NoVerdict::CutShort { answer: answer_text },
            Finish::Complete | Finish::Refused => {
                NoVerdict::OtherLabel { labels: self.labels.join("` and `"), answer: answer_text }
            }
        }
    }

    /// The probabilities of the two labels at a token: those of every token that writes one.
    fn masses(&self, answer: &Answer, at: usize) -> [f64; 2] {
        let mut masses = [0.; 2];
        let mut seen = std::collections::HashSet::new();
        let alternatives = answer.tokens.get(at).map(|token| token.alternatives.as_slice());
        for (token, log_prob) in alternatives.unwrap_or_default() {
            let written = read::written(token);
            let bare = bare(&written);
            let label = self.labels.iter().position(|label| label.eq_ignore_ascii_case(bare));
            if let Some(label) = label.filter(|_| seen.insert(token.as_str())) {
                masses[label] += log_prob.exp();
            }
        }
        masses
    }

    /// The label that a text names as its verdict, and where.
    fn find(&self, text: &str) -> Option<(usize, usize)> {
        let lower = text.to_ascii_lowercase();
        let marker = "preferred response";
        if let Some(at) = lower.rfind(marker) {
            return self.label_from(text, at + marker.len());
        }
        if let Some(at) = text.rfind("[[") {
            return self.label_from(text, at);
        }
        let lines = [whole(text), first_line(text), last_line(text)];
        let lines = if self.explains() { &lines[2..] } else { &lines[..] };
        lines.iter().find_map(|line| {
            let said = &text[line.clone()];
            let mut from = line.start + said.find(char::is_alphanumeric)?;
            let rest = text[from..line.end].to_ascii_lowercase();
            for word in ["response ", "answer ", "option ", "summary "] {
                if rest.starts_with(word) {
                    from += word.len();
                    break;
                }
            }
            let (label, at) = self.label_from(&text[..line.end], from)?;
            let end = at + self.labels[label].len();
            text[end..line.end].chars().all(|c| !c.is_alphanumeric()).then_some((label, at))
        })
    }

    /// The label that begins at a place, behind signs and the words between a marker and its label.
    fn label_from(&self, text: &str, from: usize) -> Option<(usize, usize)> {
        let mut at = from;
        loop {
            let rest = &text[at..];
            let skipped = rest.find(char::is_alphanumeric)?;
            at += skipped;
            let rest = &text[at..];
            let label = self.labels.iter().position(|label| {
                let beginning = rest.get(..label.len());
                beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(label))
                    && !rest[label.len()..].starts_with(char::is_alphanumeric)
            });
            if let Some(label) = label {
                return Some((label, at));
            }
            let word = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            if !["is", "response", "answer", "option"].contains(&word.to_ascii_lowercase().as_str())
            {
                return None;
            }
            at += word.len();
        }
    }
}

/// A token without the signs and spaces around its letters and digits.
fn bare(token: &str) -> &str {
    token.trim_matches(|c: char| !c.is_alphanumeric())
}

fn whole(text: &str) -> Range<usize> {
    0..text.len()
}

fn first_line(text: &str) -> Range<usize> {
    let start = text.len() - text.trim_start().len();
    let end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    start..end
}

fn last_line(text: &str) -> Range<usize> {
    let end = text.trim_end().len();
    let start = text[..end].rfind('\n').map_or(0, |at| at + 1);
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rubric::TokenAlternatives;

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
