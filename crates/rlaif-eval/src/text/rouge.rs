//! ROUGE (Lin 2004), as the package rouge-score computes it.

use std::collections::HashMap;

use rayon::prelude::*;
use rlaif_core::{BadSetting, Exchange};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stem::stem;
use crate::{Better, EvalError, Metric, MetricInfo, Values};

/// Reduction of words to their stems before they are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stemming {
    /// Words as they are, in lower case: rouge-score's `use_stemmer=False`.
    #[default]
    Off,
    /// Porter's stemmer with NLTK's extensions, for words of more than three letters:
    /// rouge-score's `use_stemmer=True`.
    Porter,
}

/// The units that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RougeKind {
    /// Runs of so many words: ROUGE-1, ROUGE-2, ...
    N(usize),
    /// The longest common subsequence of words.
    L,
}

/// Overlap of two texts. Each number lies between 0 and 1; higher means more overlap.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RougeScore {
    /// Overlap divided by the units of the response.
    pub precision: f64,
    /// Overlap divided by the units of the reference.
    pub recall: f64,
    /// Harmonic mean of the two: the "ROUGE score" of papers.
    pub f1: f64,
}

impl RougeScore {
    fn of(overlap: usize, response: usize, reference: usize) -> Self {
        let precision = overlap as f64 / response.max(1) as f64;
        let recall = overlap as f64 / reference.max(1) as f64;
        let sum = precision + recall;
        let f1 = if sum > 0. { 2. * precision * recall / sum } else { 0. };
        Self { precision, recall, f1 }
    }
}

/// The words of a text: lower case, split at everything but `a` to `z` and digits, stemmed or not.
///
/// Like rouge-score's own tokeniser, it knows no other letters: a text in another script has no
/// words at all, and an accent splits a word.
///
/// ```
/// use rlaif_eval::text::{Stemming, tokenise};
/// assert_eq!(tokenise("The cats' naïve Relations!", Stemming::Off), ["the", "cats", "na", "ve", "relations"]);
/// assert_eq!(tokenise("relations", Stemming::Porter), ["relat"]);
/// ```
pub fn tokenise(text: &str, stemming: Stemming) -> Vec<String> {
    text.to_lowercase()
        .split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit()))
        .filter(|word| !word.is_empty())
        .map(|word| match stemming {
            Stemming::Porter if word.len() > 3 => stem(word),
            _ => word.to_owned(),
        })
        .collect()
}

/// ROUGE-n of words: the overlap of runs of `n` words, each counted as often as both have it.
///
/// # Panics
/// If `n` is 0.
pub fn rouge_n(reference: &[String], response: &[String], n: usize) -> RougeScore {
    let mut open: HashMap<&[String], usize> = HashMap::new();
    for gram in reference.windows(n) {
        *open.entry(gram).or_default() += 1;
    }
    let mut overlap = 0;
    for gram in response.windows(n) {
        if let Some(left) = open.get_mut(gram).filter(|left| **left > 0) {
            *left -= 1;
            overlap += 1;
        }
    }
    let grams = |words: &[String]| (words.len() + 1).saturating_sub(n);
    RougeScore::of(overlap, grams(response), grams(reference))
}

/// ROUGE-L of words: the longest subsequence both have, over the whole text.
pub fn rouge_l(reference: &[String], response: &[String]) -> RougeScore {
    // One row of the usual table: lengths for the reference so far and each end of the response.
    let mut row = vec![0usize; response.len() + 1];
    for word in reference {
        let mut diagonal = 0;
        for (at, other) in response.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = if word == other { diagonal + 1 } else { above.max(row[at]) };
            diagonal = above;
        }
    }
    RougeScore::of(row[response.len()], response.len(), reference.len())
}

/// ROUGE of two texts.
///
/// ```
/// use rlaif_eval::text::{RougeKind, Stemming, rouge};
/// let score = rouge("the cat sat", "the cat slept there", RougeKind::N(1), Stemming::Off);
/// assert_eq!((score.precision, score.recall), (0.5, 2. / 3.));
/// ```
///
/// # Panics
/// If `kind` is `N(0)`.
pub fn rouge(reference: &str, response: &str, kind: RougeKind, stemming: Stemming) -> RougeScore {
    let (reference, response) = (tokenise(reference, stemming), tokenise(response, stemming));
    match kind {
        RougeKind::N(n) => rouge_n(&reference, &response, n),
        RougeKind::L => rouge_l(&reference, &response),
    }
}

/// ROUGE's F1 of the response against the prompt's reference, as a metric.
///
/// ```
/// use rlaif_core::{PromptRecord, Sample};
/// use rlaif_eval::{Metric, text::{Rouge, RougeKind, Stemming}};
/// let metric = Rouge::new(RougeKind::L, Stemming::Porter)?;
/// assert_eq!(metric.info().name, "rougeL");
/// let record = PromptRecord::new("a", "Greet.").with_reference("hello there");
/// let sample = Sample { record, response: "Hello there!".into() };
/// assert_eq!(metric.evaluate(&[sample.exchange()])?.values, [Some(1.)]);
/// # Ok::<(), rlaif_eval::EvalError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Rouge {
    kind: RougeKind,
    stemming: Stemming,
    info: MetricInfo,
}

impl Rouge {
    /// The metric `rouge1`, `rouge2`, .. or `rougeL`.
    ///
    /// # Errors
    /// [`EvalError::Setting`] for runs of no words.
    pub fn new(kind: RougeKind, stemming: Stemming) -> Result<Self, EvalError> {
        let name = match kind {
            RougeKind::N(0) => {
                return Err(EvalError::Setting(BadSetting::new(
                    "n",
                    "0",
                    "1 or more words for ROUGE-n",
                )));
            }
            RougeKind::N(n) => format!("rouge{n}"),
            RougeKind::L => "rougeL".to_owned(),
        };
        let about = match kind {
            RougeKind::N(1) => "F1 of the words shared with the reference response",
            RougeKind::N(_) => "F1 of the runs of words shared with the reference response",
            RougeKind::L => {
                "F1 of the longest words in common, in order, with the reference response"
            }
        };
        let info = MetricInfo::new(name, Better::Higher).about(about);
        Ok(Self { kind, stemming, info })
    }
}

impl Metric for Rouge {
    fn info(&self) -> &MetricInfo {
        &self.info
    }

    fn needs_reference(&self) -> bool {
        true
    }

    fn evaluate(&self, batch: &[Exchange<'_>]) -> Result<Values, EvalError> {
        let values: Result<Vec<f64>, EvalError> = batch
            .par_iter()
            .enumerate()
            .map(|(row, exchange)| {
                let reference = exchange.reference.ok_or_else(|| EvalError::NoReference {
                    metric: self.info.name.clone(),
                    row,
                })?;
                Ok(rouge(reference, exchange.response, self.kind, self.stemming).f1)
            })
            .collect();
        Ok(Values::all(values?))
    }
}
