//! The metrics of an evaluation, from their configuration.

use rlaif_eval::text::{
    Declined, LengthMetric, LengthUnit, RepetitionMetric, Rouge, RougeKind, Stemming,
};
use rlaif_eval::{Better, Metric, MetricInfo, RewardMetric, ScorerCard};
use rlaif_rewards::{ClassifierConfig, Input, Preset, RewardConfig, Surroundings};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::RunError;

/// A metric of responses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum MetricConfig {
    /// The probability of hate speech; a response counts as toxic from 0.5.
    Toxicity {
        /// The name in the report.
        #[serde(default = "MetricConfig::toxicity")]
        name: String,
        /// The classifier; by default, the RoBERTa model of hate speech. With `input =
        /// "prompt-and-response"` it reads both, one space between.
        #[serde(default = "MetricConfig::hate")]
        classifier: Box<ClassifierConfig>,
    },
    /// Any reward's score.
    Reward {
        /// The name in the report.
        name: String,
        /// The better direction.
        better: Better,
        /// The value at which a response counts.
        threshold: Option<f64>,
        /// The reward.
        reward: RewardConfig,
    },
    /// F1 of words shared with the reference response.
    Rouge {
        /// `1`, `2`, ..; `L` by default.
        n: Option<usize>,
        /// Reduction of words to their stems.
        #[serde(default)]
        stemming: Stemming,
    },
    /// Length.
    Length {
        /// The unit.
        #[serde(default)]
        unit: LengthUnit,
    },
    /// Share of runs of `n` words that occurred earlier in the response.
    Repetition {
        /// The length of the runs.
        n: usize,
    },
    /// Share of responses that decline, by English phrases.
    Refusal {},
    /// Share of responses that neither answer nor explain, by English phrases.
    Evasion {},
}

impl MetricConfig {
    fn toxicity() -> String {
        "toxicity".to_owned()
    }

    fn hate() -> Box<ClassifierConfig> {
        Box::new(ClassifierConfig { preset: Some(Preset::Hate), ..ClassifierConfig::default() })
    }

    /// The reward behind it, with its defaults.
    pub(super) fn as_reward(&self) -> Option<RewardConfig> {
        match self {
            Self::Toxicity { classifier, .. } => {
                Some(RewardConfig::Classifier(of_toxicity(classifier)))
            }
            Self::Reward { reward, .. } => Some(reward.clone()),
            Self::Rouge { .. }
            | Self::Length { .. }
            | Self::Repetition { .. }
            | Self::Refusal {}
            | Self::Evasion {} => None,
        }
    }

    /// The configured reward, if it is one.
    pub(super) fn reward(&self) -> Option<&RewardConfig> {
        match self {
            Self::Reward { reward, .. } => Some(reward),
            // Its classifier is of the response, or of one text of both.
            Self::Toxicity { .. }
            | Self::Rouge { .. }
            | Self::Length { .. }
            | Self::Repetition { .. }
            | Self::Refusal {}
            | Self::Evasion {} => None,
        }
    }

    pub(super) fn build(&self, around: &Surroundings<'_>) -> Result<Box<dyn Metric>, RunError> {
        // The journal is keyed by the description, so the description must name everything that the score
        // depends on.
        Ok(match self {
            Self::Toxicity { name, classifier } => {
                let classifier = of_toxicity(classifier);
                let about = about("P(hate)", &classifier);
                let info = MetricInfo::new(name, Better::Lower).threshold(0.5).about(about);
                let reward = RewardConfig::Classifier(classifier).build(around)?;
                Box::new(RewardMetric::new(info, reward))
            }
            Self::Reward { name, better, threshold, reward } => {
                let mut info = MetricInfo::new(name, *better).about(about("reward", reward));
                info.threshold = *threshold;
                Box::new(RewardMetric::new(info, reward.build(around)?))
            }
            Self::Rouge { n, stemming } => {
                Box::new(Rouge::new(n.map_or(RougeKind::L, RougeKind::N), *stemming)?)
            }
            Self::Length { unit } => Box::new(LengthMetric::new(*unit)),
            Self::Repetition { n } => Box::new(RepetitionMetric::new(*n)?),
            Self::Refusal {} => Box::new(Declined::refusals()),
            Self::Evasion {} => Box::new(Declined::evasions()),
        })
    }
}

/// The classifier of toxicity with its defaults.
fn of_toxicity(classifier: &ClassifierConfig) -> Box<ClassifierConfig> {
    let mut classifier = Box::new(classifier.clone());
    classifier.preset.get_or_insert(Preset::Hate);
    if classifier.input == Some(Input::PromptAndResponse) {
        classifier.separator.get_or_insert_with(|| " ".to_owned());
    }
    classifier
}

/// Describes a metric by its configuration in one line of JSON, without keys that are not set.
fn about(what: &str, config: &impl Serialize) -> String {
    fn told(value: Value) -> Value {
        match value {
            Value::Object(map) => Value::Object(
                map.into_iter()
                    .filter(|(_, value)| !value.is_null())
                    .map(|(key, value)| (key, told(value)))
                    .collect(),
            ),
            Value::Array(list) => Value::Array(list.into_iter().map(told).collect()),
            other => other,
        }
    }
    let config = serde_json::to_value(config).map(told).unwrap_or_default();
    format!("{what} {config}")
}

/// Known facts about the model behind a metric.
pub(super) fn card(metric: &MetricConfig) -> Option<ScorerCard> {
    let (name, settings) = match metric {
        MetricConfig::Toxicity { name, classifier, .. } => (name, serde_json::to_value(classifier)),
        MetricConfig::Reward { name, reward, .. } => (name, serde_json::to_value(reward)),
        MetricConfig::Rouge { .. }
        | MetricConfig::Length { .. }
        | MetricConfig::Repetition { .. }
        | MetricConfig::Refusal {}
        | MetricConfig::Evasion {} => return None,
    };
    let Ok(Value::Object(settings)) = settings else { return None };
    let fact = |(key, value): (String, Value)| match value {
        Value::Null => None,
        Value::String(text) => Some((key, text)),
        other => Some((key, other.to_string())),
    };
    Some(ScorerCard { name: name.clone(), facts: settings.into_iter().filter_map(fact).collect() })
}
