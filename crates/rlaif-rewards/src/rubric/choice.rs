//! The common part of pairs and lists: the question about labelled responses, and the reading of the answer.

use std::ops::Range;

use rlaif_core::BadSetting;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(feature = "judge")]
use super::AnswerShape;
use super::read::{self, Answer, Finish, NoVerdict};
use super::{Question, coverage, fence};
use crate::ProviderError;

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

/// A judge's verdict on labelled responses.
#[derive(Debug, Clone, PartialEq)]
pub struct ListChoice {
    /// For each response, in the order shown, the probability that it is the best one.
    pub shares: Vec<f64>,
    /// The total probability of the labels; `None` if the judge gave no probabilities, and then one share is 1.
    pub coverage: Option<f64>,
    /// The text before the verdict, of a judge that explains first.
    pub reason: String,
}

/// A comparison of labelled responses to a prompt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Comparison {
    pub(super) preamble: String,
    pub(super) examples: Vec<PairExample>,
    /// The labels, of which the first so many as there are responses are used.
    pub(super) labels: Vec<String>,
    pub(super) answer: PairAnswer,
    pub(super) min_coverage: f64,
    pub(super) controls: Vec<String>,
}

/// The words that the label follows.
pub(crate) const ENDING: &str = "Preferred response=";

impl Comparison {
    pub(super) fn new(preamble: String, labels: Vec<String>) -> Self {
        let (examples, controls) = (Vec::new(), Vec::new());
        Self { preamble, examples, labels, answer: PairAnswer::Label, min_coverage: 0.5, controls }
    }

    /// # Errors
    /// [`ProviderError::Setting`] for labels that are empty, equal, begin each other or have other
    /// characters than letters and digits.
    pub(super) fn labelled(
        self,
        labels: Vec<String>,
        expected: &'static str,
    ) -> Result<Self, ProviderError> {
        let plain = |label: &String| !label.is_empty() && label.chars().all(char::is_alphanumeric);
        // Answers are read without regard to case.
        let low: Vec<String> = labels.iter().map(|label| label.to_ascii_lowercase()).collect();
        let begins = |(at, label): (usize, &String)| {
            low.iter().enumerate().any(|(other, text)| other != at && text.starts_with(label))
        };
        if labels.len() < 2 || !labels.iter().all(plain) || low.iter().enumerate().any(begins) {
            let found = format!("`{}`", labels.join("` and `"));
            return Err(ProviderError::Setting(BadSetting::new("labels", found, expected)));
        }
        Ok(Self { labels, ..self })
    }

    pub(super) fn with_min_coverage(self, min_coverage: f64) -> Result<Self, ProviderError> {
        Ok(Self { min_coverage: coverage(min_coverage)?, ..self })
    }

    /// The same comparison, for a judge whose tokenizer reads these as control tokens.
    #[cfg(all(feature = "judge", feature = "neural"))]
    pub(crate) fn breaking_up(&self, controls: &[String]) -> Self {
        let kept = controls.iter().filter(|control| !fence::is_broken_up_anyway(control));
        Self { controls: kept.cloned().collect(), ..self.clone() }
    }

    #[cfg(all(feature = "judge", feature = "neural"))]
    pub(crate) fn labels(&self) -> &[String] {
        &self.labels
    }

    pub(crate) fn explains(&self) -> bool {
        self.answer == PairAnswer::Explained
    }

    /// The shape of its answers; `log_probs` for those that come with probabilities.
    #[cfg(feature = "judge")]
    pub(crate) fn shape(&self, log_probs: bool) -> AnswerShape {
        let max_tokens = if self.explains() { 512 } else { 8 };
        AnswerShape { max_tokens, log_probs, schema: false }
    }

    /// The same comparison of so many responses.
    pub(crate) fn of(&self, responses: usize) -> Self {
        let labels = self.labels.iter().take(responses).cloned().collect();
        Self { labels, ..self.clone() }
    }

    /// The question about as many responses as there are labels. Each text from outside stands between
    /// markers, with the same key in every order of the responses.
    pub(crate) fn ask(&self, prompt: &str, responses: &[&str]) -> Question {
        let better = if responses.len() == 2 { "better" } else { "the best" };
        let named = |label: &dyn Fn(&String) -> String| {
            let labels: Vec<String> = self.labels.iter().take(responses.len()).map(label).collect();
            match labels.split_last() {
                Some((last, [])) => last.clone(),
                Some((last, others)) => format!("{} or {last}", others.join(", ")),
                None => String::new(),
            }
        };
        let answer = if self.explains() {
            let lines = named(&|label| format!("`{ENDING}{label}`"));
            format!(
                "First explain in a few sentences which response is {better} and why. Then end with a \
                 line {lines}."
            )
        } else {
            let labels = named(&String::clone);
            let better = better.trim_start_matches("the ");
            format!("Answer with the label of the {better} response, {labels}, and nothing else.")
        };
        let mut user = String::new();
        for example in &self.examples {
            let PairExample { prompt, first, second, reason, first_is_better } = example;
            let label = &self.labels[usize::from(!first_is_better)];
            user.push_str(&self.sample(prompt, &[first, second]));
            if let Some(reason) = reason.as_ref().filter(|_| self.explains()) {
                user.push_str(&format!("Explanation: {}\n", reason.trim()));
            }
            user.push_str(&format!("{ENDING}{label}\n\n"));
        }
        user.push_str(&self.sample(prompt, responses));
        user.push_str(if self.explains() { "Explanation:" } else { ENDING });
        let parts = [self.preamble.as_str(), fence::NOTICE, &answer];
        Question { system: parts.join("\n\n"), user }
    }

    /// The answer that a judge is taught, as a continuation of the question.
    pub(super) fn taught(&self, best: usize, reason: &str) -> String {
        let label = &self.labels[best];
        match self.answer {
            PairAnswer::Label => label.clone(),
            PairAnswer::Explained => format!(" {}\n{ENDING}{label}", reason.trim()),
        }
    }

    fn sample(&self, prompt: &str, responses: &[&str]) -> String {
        let mut sorted = responses.to_vec();
        sorted.sort_unstable();
        let texts: Vec<Option<&str>> = std::iter::once(prompt).chain(sorted).map(Some).collect();
        let key = fence::key(&texts);
        let fenced = |name: &str, text: &str| fence::fenced(name, &key, text, &self.controls);
        let mut sample = format!("The request:\n{}\n\n", fenced("prompt", prompt));
        for (label, response) in self.labels.iter().zip(responses) {
            sample.push_str(&format!("Response {label}:\n{}\n\n", fenced("response", response)));
        }
        sample
    }

    /// The choice of a judge that gives these probabilities to the labels.
    ///
    /// # Errors
    /// [`NoVerdict::LabelCoverage`].
    pub(crate) fn choose(&self, masses: &[f64], reason: String) -> Result<ListChoice, NoVerdict> {
        let covered: f64 = masses.iter().sum();
        if covered < self.min_coverage || covered.is_nan() {
            let labels = self.labels.join("` and `");
            return Err(NoVerdict::LabelCoverage { labels, covered, required: self.min_coverage });
        }
        let shares = masses.iter().map(|mass| mass / covered).collect();
        Ok(ListChoice { shares, coverage: Some(covered.min(1.)), reason })
    }

    /// Reads an answer to [`Comparison::ask`].
    ///
    /// # Errors
    /// [`NoVerdict`] when it names no label, is refused, empty or cut short, or has too little
    /// probability on the labels.
    pub(crate) fn read(&self, answer: &Answer) -> Result<ListChoice, NoVerdict> {
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
                    let share = |at: usize| if at == label { 1. } else { 0. };
                    let shares = (0..self.labels.len()).map(share).collect();
                    return Ok(ListChoice { shares, coverage: None, reason: reason(at) });
                }
                self.choose(&self.masses(answer, tokens.token_at(at)), reason(at))
            }
            // The judge wrote something else; how probable the labels were is known all the same.
            None if !self.explains() && !answer.tokens.is_empty() => {
                let blank = |text: &str| text.trim().is_empty();
                let first = answer.tokens.iter().position(|token| !blank(&token.token));
                let masses = self.masses(answer, first.unwrap_or(0));
                self.choose(&masses, String::new()).map_err(|_| self.neither(answer, text))
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

    /// The probabilities of the labels at a token: those of every token that writes one.
    fn masses(&self, answer: &Answer, at: usize) -> Vec<f64> {
        let mut masses = vec![0.; self.labels.len()];
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
                let (said, rest) = rest.split_at(self.labels[label].len());
                return (!is_word(said, &self.labels[label], rest)).then_some((label, at));
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

/// True for the words `a` and `I` in front of another word, which are not labels.
fn is_word(said: &str, label: &str, rest: &str) -> bool {
    let before_a_word = rest
        .strip_prefix(' ')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_alphabetic() && c.is_lowercase()));
    before_a_word && label.chars().all(char::is_alphabetic) && (said != label || said == "I")
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
