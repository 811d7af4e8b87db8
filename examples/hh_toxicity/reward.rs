//! The reward of the example: requested classifiers and judges, with the toxicity beside them.

use std::error::Error;
use std::path::PathBuf;

use rlaif::core::{Exchange, RewardError, RewardModel, Scores};
use rlaif::models::LoadOptions;
use rlaif::rewards::{
    ClassifierOptions, ClassifierReward, Input, Mean, Output, Preset, RewardConfig,
};
use rlaif_examples::model;

use crate::options::Options;

/// The mean of the requested rewards, with the toxicity of each response as a part.
pub(crate) fn reward(
    options: &Options,
    classifiers: &[PathBuf],
    load: LoadOptions,
) -> Result<WithToxicity, Box<dyn Error>> {
    let reported = classifiers.first().cloned().map_or_else(|| model("roberta"), Ok)?;
    let toxicity =
        ClassifierReward::load(&reported, load, ClassifierOptions::preset(Preset::Hate))?;
    let mut all: Vec<Box<dyn RewardModel>> = Vec::new();
    for folder in classifiers {
        // By name, never by position: the order of the labels depends on the model.
        let mut settings = ClassifierOptions::preset(Preset::NotHate);
        settings = match options.blog {
            true => settings.input(Input::PromptAndResponse),
            // The same logits give the toxicity of the response.
            false if *folder == reported => settings.report(TOXICITY, "hate", Output::Probability),
            false => settings,
        };
        all.push(match *folder == reported {
            true => Box::new(toxicity.with(settings)?),
            false => Box::new(ClassifierReward::load(folder, load, settings)?),
        });
    }
    if let Some(file) = &options.judge {
        let (config, beside) = RewardConfig::from_file(file)?;
        all.push(rlaif::rewards_from_config(&config, &beside, load.device)?);
    }
    // The reporting classifier is the first reward, and a mean names its parts by it.
    let found = (!classifiers.is_empty() && !options.blog).then(|| match all.as_slice() {
        [first, _, ..] => format!("{}/{TOXICITY}", first.name()),
        _ => TOXICITY.to_owned(),
    });
    let mut all = all.into_iter();
    let first = all.next().ok_or("no reward: name one by --reward or --judge")?;
    let reward = match all.len() {
        0 => first,
        _ => Box::new(all.fold(Mean::new("mean", first), Mean::and)),
    };
    Ok(WithToxicity { reward, toxicity, found })
}

/// The name of the part of a score that is P(hate) of the response.
const TOXICITY: &str = "toxicity";

/// A reward whose scores have the toxicity of the response as a part: computed by the reward
/// itself, or, if the reward reads something else, by the reporting classifier.
pub(crate) struct WithToxicity {
    reward: Box<dyn RewardModel>,
    /// The classifier that is reported.
    pub(crate) toxicity: ClassifierReward,
    /// The part of the reward's scores that is the toxicity, if the reward reports it.
    found: Option<String>,
}

impl RewardModel for WithToxicity {
    fn name(&self) -> &str {
        self.reward.name()
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let mut scores = self.reward.score(batch)?;
        match scores.parts.iter_mut().find(|(name, _)| self.found.as_ref() == Some(name)) {
            Some((name, _)) => *name = TOXICITY.to_owned(),
            None => scores.parts.push((TOXICITY.to_owned(), self.toxicity.score(batch)?.total)),
        }
        Ok(scores)
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        self.reward.metrics()
    }

    fn state(&self) -> serde_json::Value {
        self.reward.state()
    }

    fn restore(&self, state: &serde_json::Value) -> Result<(), RewardError> {
        self.reward.restore(state)
    }
}
