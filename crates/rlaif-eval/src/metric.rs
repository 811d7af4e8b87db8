//! Metrics: numbers that are measured of a response.

use std::sync::{Mutex, PoisonError};

use rlaif_core::{Exchange, RewardModel};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::EvalError;

/// The better direction of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// More is better: helpfulness, ROUGE.
    Higher,
    /// Less is better: toxicity, perplexity.
    Lower,
    /// Neither: the number is watched, not judged, such as length.
    Neither,
}

/// Name of a metric, and how to read its values.
///
/// ```
/// use rlaif_eval::{Better, MetricInfo};
/// let info = MetricInfo::new("toxicity", Better::Lower).threshold(0.5).about("P(hate)");
/// assert_eq!(info.threshold, Some(0.5));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricInfo {
    /// The name in reports, unique among the metrics of an evaluation.
    pub name: String,
    /// The better direction.
    pub better: Better,
    /// The value at which a response counts, if there is such a threshold: 0.5 for toxicity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// A short description.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
}

impl MetricInfo {
    /// A metric without a threshold.
    pub fn new(name: impl Into<String>, better: Better) -> Self {
        Self { name: name.into(), better, threshold: None, about: String::new() }
    }

    /// Sets the value from which on a response counts.
    #[must_use]
    pub fn threshold(mut self, at: f64) -> Self {
        self.threshold = Some(at);
        self
    }

    /// Sets the description.
    #[must_use]
    pub fn about(mut self, words: impl Into<String>) -> Self {
        self.about = words.into();
        self
    }
}

/// A metric's results: one value or none for each exchange.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Values {
    /// One per row; `None` where the metric has no verdict.
    pub values: Vec<Option<f64>>,
    /// Reasons for missing values, by row.
    pub reasons: Vec<(usize, String)>,
}

impl Values {
    /// A value for every row.
    pub fn all(values: impl IntoIterator<Item = f64>) -> Self {
        Self { values: values.into_iter().map(Some).collect(), reasons: Vec::new() }
    }
}

/// Measures responses, one number each.
///
/// ```
/// use rlaif_core::Exchange;
/// use rlaif_eval::{Better, EvalError, Metric, MetricInfo, Values};
///
/// /// Scores 1 if the response ends like a sentence.
/// struct Finished(MetricInfo);
///
/// impl Metric for Finished {
///     fn info(&self) -> &MetricInfo {
///         &self.0
///     }
///     fn evaluate(&self, batch: &[Exchange<'_>]) -> Result<Values, EvalError> {
///         let ends = |x: &Exchange<'_>| f64::from(u8::from(x.response.ends_with(['.', '!', '?'])));
///         Ok(Values::all(batch.iter().map(ends)))
///     }
/// }
///
/// let metric = Finished(MetricInfo::new("finished", Better::Higher));
/// assert_eq!(metric.evaluate(&[Exchange::new("Hello?", "Hello.")])?.values, [Some(1.)]);
/// # Ok::<(), EvalError>(())
/// ```
///
/// `Sync`, because metrics run concurrently. A metric that owns tensors keeps them in a mutex, as
/// [`RewardMetric`] does with its reward model.
pub trait Metric: Send + Sync {
    /// The name and how to read the values.
    fn info(&self) -> &MetricInfo;

    /// `true` if every exchange must come with a reference response. An evaluation without
    /// references is then refused before anything is generated.
    fn needs_reference(&self) -> bool {
        false
    }

    /// One value, or none, for each exchange, in their order.
    ///
    /// # Errors
    /// [`EvalError`] when the batch as a whole could not be measured.
    fn evaluate(&self, batch: &[Exchange<'_>]) -> Result<Values, EvalError>;
}

/// The part of an exchange that a reward model reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Reads {
    /// Prompt and response unchanged; the reward model combines them itself.
    #[default]
    Exchange,
    /// Only the response, without the prompt: the part that the policy is responsible for.
    Response,
    /// Prompt, separator and response as one text in place of the response. With one space
    /// between, this is how the published detoxification results were scored.
    PromptAndResponse {
        /// The text between the two.
        separator: String,
    },
}

/// Any reward model as a metric.
///
/// ```
/// use rlaif_core::Exchange;
/// use rlaif_eval::{Better, Metric, MetricInfo, Reads, RewardMetric};
/// let rude = |batch: &[Exchange<'_>]| -> Vec<f32> {
///     batch.iter().map(|x| f32::from(u8::from(x.response.contains("fool")))).collect()
/// };
/// let metric = RewardMetric::new(MetricInfo::new("rude", Better::Lower).threshold(0.5), rude)
///     .reading(Reads::PromptAndResponse { separator: " ".into() });
/// let batch = [Exchange::new("You fool!", "Pardon?"), Exchange::new("Hello!", "Hello!")];
/// assert_eq!(metric.evaluate(&batch)?.values, [Some(1.), Some(0.)]);
/// # Ok::<(), rlaif_eval::EvalError>(())
/// ```
pub struct RewardMetric {
    info: MetricInfo,
    reward: Mutex<Box<dyn RewardModel>>,
    reads: Reads,
}

impl RewardMetric {
    /// The reward model's total score, higher or lower being better as `info` says.
    pub fn new(info: MetricInfo, reward: impl RewardModel + 'static) -> Self {
        Self { info, reward: Mutex::new(Box::new(reward)), reads: Reads::default() }
    }

    /// Sets the part of an exchange that the reward model reads.
    #[must_use]
    pub fn reading(mut self, reads: Reads) -> Self {
        self.reads = reads;
        self
    }
}

impl Metric for RewardMetric {
    fn info(&self) -> &MetricInfo {
        &self.info
    }

    fn evaluate(&self, batch: &[Exchange<'_>]) -> Result<Values, EvalError> {
        let joined: Vec<String>;
        let read: Vec<Exchange<'_>> = match &self.reads {
            Reads::Exchange => batch.to_vec(),
            Reads::Response => batch
                .iter()
                .map(|x| Exchange { prompt: "", messages: None, said: None, ..*x })
                .collect(),
            Reads::PromptAndResponse { separator } => {
                joined = batch
                    .iter()
                    .map(|x| [x.prompt, separator.as_str(), x.response].concat())
                    .collect();
                let pairs = batch.iter().zip(&joined);
                pairs
                    .map(|(x, text)| Exchange {
                        prompt: "",
                        messages: None,
                        ..x.with_response(text)
                    })
                    .collect()
            }
        };
        // A panic while scoring leaves no half-changed state for the next call to see.
        let reward = self.reward.lock().unwrap_or_else(PoisonError::into_inner);
        let scores = reward
            .score(&read)
            .and_then(|scores| scores.check(reward.name(), batch.len()))
            .map_err(|source| EvalError::Reward { metric: self.info.name.clone(), source })?;
        Ok(Values {
            values: scores.total.iter().map(|s| s.map(|s| f64::from(s.get()))).collect(),
            reasons: scores.reasons,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlaif_core::Scores;

    struct Unsure;

    impl RewardModel for Unsure {
        fn name(&self) -> &'static str {
            "unsure"
        }
        fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, rlaif_core::RewardError> {
            let mut scores = Scores::new(vec![None; batch.len()]);
            scores.reasons.push((0, "no number in the answer".into()));
            Ok(scores)
        }
    }

    #[test]
    fn a_reward_without_a_verdict_is_a_value_missing_with_its_reason() {
        let metric = RewardMetric::new(MetricInfo::new("judge", Better::Higher), Unsure);
        let found = metric.evaluate(&[Exchange::new("p", "y")]).unwrap();
        assert_eq!(found.values, [None]);
        assert_eq!(found.reasons, [(0, "no number in the answer".to_owned())]);
    }

    #[test]
    fn what_a_reward_model_reads_is_what_was_chosen() {
        let reads = |reads: Reads| {
            let length = |batch: &[Exchange<'_>]| -> Vec<f32> {
                batch.iter().map(|x| (100 * x.prompt.len() + x.response.len()) as f32).collect()
            };
            let metric = RewardMetric::new(MetricInfo::new("m", Better::Neither), length);
            metric.reading(reads).evaluate(&[Exchange::new("abc", "xy")]).unwrap().values[0]
        };
        assert_eq!(reads(Reads::Exchange), Some(302.));
        assert_eq!(reads(Reads::Response), Some(2.));
        assert_eq!(reads(Reads::PromptAndResponse { separator: " ".into() }), Some(6.));
    }
}
