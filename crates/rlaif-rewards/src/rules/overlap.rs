//! How much of a text comes back in another one.

use std::collections::HashMap;

use rlaif_core::{Exchange, RewardError, RewardModel, Score, Scores};

/// Which overlap is measured; each is an F₁ in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OverlapMeasure {
    /// ROUGE-1: words in common (Lin 2004).
    Rouge1,
    /// ROUGE-2: pairs of neighbouring words in common (Lin 2004).
    Rouge2,
    /// ROUGE-L: the longest common subsequence of words (Lin 2004).
    RougeL,
}

impl OverlapMeasure {
    /// The overlap of `candidate` with `reference`, without stemming.
    ///
    /// Words are runs of letters and digits in lower case. An empty text overlaps with nothing.
    ///
    /// ```
    /// use rlaif_rewards::OverlapMeasure;
    /// let f1 = OverlapMeasure::Rouge1.f1("the cat sat", "The cat, it slept.");
    /// assert!((f1 - 4. / 7.).abs() < 1e-12);
    /// ```
    pub fn f1(self, candidate: &str, reference: &str) -> f64 {
        let (candidate, reference) = (words(candidate), words(reference));
        let (common, candidates, references) = match self {
            Self::Rouge1 => common_grams(&candidate, &reference, 1),
            Self::Rouge2 => common_grams(&candidate, &reference, 2),
            Self::RougeL => (lcs(&candidate, &reference), candidate.len(), reference.len()),
        };
        if common == 0 { 0. } else { 2. * common as f64 / (candidates + references) as f64 }
    }
}

fn words(text: &str) -> Vec<String> {
    let runs = text.split(|c: char| !c.is_alphanumeric()).filter(|run| !run.is_empty());
    runs.map(str::to_lowercase).collect()
}

/// n-grams in common, each as often as both have it; n-grams of the one; n-grams of the other.
fn common_grams(a: &[String], b: &[String], n: usize) -> (usize, usize, usize) {
    let mut counts: HashMap<&[String], usize> = HashMap::new();
    for gram in b.windows(n) {
        *counts.entry(gram).or_default() += 1;
    }
    let mut common = 0;
    for gram in a.windows(n) {
        if let Some(left) = counts.get_mut(gram).filter(|left| **left > 0) {
            *left -= 1;
            common += 1;
        }
    }
    (common, a.windows(n).len(), b.windows(n).len())
}

/// Length of the longest common subsequence, in |a|·|b| time and |b| space.
fn lcs(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

/// What the response is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Against {
    /// The record's reference; rows without one have no verdict.
    Reference,
    /// The prompt: how much of it is copied, say.
    Prompt,
}

/// The overlap of a response with its reference, or with its prompt.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::{Overlap, OverlapMeasure, rules::Against};
/// let batch = [Exchange { reference: Some("a red car"), ..Exchange::new("p", "a red car") }];
/// assert_eq!(Overlap::rouge_l().score(&batch)?.total[0].unwrap().get(), 1.);
/// let copying = Overlap::new(OverlapMeasure::Rouge2, Against::Prompt);
/// assert_eq!(copying.score(&batch)?.total[0].unwrap().get(), 0.);
/// # Ok::<(), rlaif_core::RewardError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Overlap {
    measure: OverlapMeasure,
    against: Against,
}

impl Overlap {
    /// Of `measure` with what `against` names.
    pub fn new(measure: OverlapMeasure, against: Against) -> Self {
        Self { measure, against }
    }

    /// ROUGE-L against the reference.
    pub fn rouge_l() -> Self {
        Self::new(OverlapMeasure::RougeL, Against::Reference)
    }
}

impl RewardModel for Overlap {
    fn name(&self) -> &'static str {
        match self.measure {
            OverlapMeasure::Rouge1 => "rouge-1",
            OverlapMeasure::Rouge2 => "rouge-2",
            OverlapMeasure::RougeL => "rouge-l",
        }
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let mut scores = Scores::default();
        for (row, exchange) in batch.iter().enumerate() {
            let text = match self.against {
                Against::Reference => exchange.reference,
                Against::Prompt => Some(exchange.prompt),
            };
            if text.is_none() {
                scores.reasons.push((row, "the row has no reference to compare with".to_owned()));
            }
            let f1 = text.map(|text| self.measure.f1(exchange.response, text));
            scores.total.push(f1.and_then(|f1| Score::new(f1 as f32).ok()));
        }
        Ok(scores)
    }
}
