//! Overlap of a text with another one.

use rlaif_core::{Exchange, RewardError, RewardModel, Score, Scores};
use rlaif_eval::text::{RougeKind, Stemming, rouge};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Measure of overlap; each is an F₁ in [0, 1], as in `rlaif-eval` and in the package rouge-score
/// (Lin 2004), without stemming. Words are runs of `a` to `z` and digits in lower case: a text in
/// another script overlaps with nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OverlapMeasure {
    /// ROUGE-1: words in common.
    Rouge1,
    /// ROUGE-2: pairs of neighbouring words in common.
    Rouge2,
    /// ROUGE-L: the longest common subsequence of words.
    #[serde(rename = "rougeL")]
    RougeL,
}

impl OverlapMeasure {
    /// The overlap of `candidate` with `reference`.
    ///
    /// ```
    /// use rlaif_rewards::OverlapMeasure;
    /// let f1 = OverlapMeasure::Rouge1.f1("the cat sat", "The cat, it slept.");
    /// assert!((f1 - 4. / 7.).abs() < 1e-12);
    /// ```
    pub fn f1(self, candidate: &str, reference: &str) -> f64 {
        let kind = match self {
            Self::Rouge1 => RougeKind::N(1),
            Self::Rouge2 => RougeKind::N(2),
            Self::RougeL => RougeKind::L,
        };
        rouge(reference, candidate, kind, Stemming::Off).f1
    }
}

/// The text that the response is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Against {
    /// The record's reference; rows without one have no verdict.
    #[default]
    Reference,
    /// The prompt, for example to measure how much of it is copied.
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
    /// The overlap `measure` with the text selected by `against`.
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
            OverlapMeasure::Rouge1 => "rouge1",
            OverlapMeasure::Rouge2 => "rouge2",
            OverlapMeasure::RougeL => "rougeL",
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
