//! The reward of the example: the mean of the requested classifiers and judges.

use std::error::Error;
use std::path::PathBuf;

use rlaif::core::RewardModel;
use rlaif::models::LoadOptions;
use rlaif::rewards::{
    ClassifierOptions, ClassifierReward, Input, Mean, Output, Preset, RewardConfig,
};
use rlaif_examples::model;

use crate::options::Options;

/// The metric of each step that is P(hate), from the logits with which the first classifier rewards;
/// a judge alone has none.
pub(crate) const TOXICITY: &str = "env/reward/classifier/toxicity";

/// The mean of the requested rewards, and the classifier that measures toxicity.
pub(crate) fn reward(
    options: &Options,
    classifiers: &[PathBuf],
    load: LoadOptions,
) -> Result<(Mean, ClassifierReward), Box<dyn Error>> {
    let first = classifiers.first().cloned().map_or_else(|| model("roberta"), Ok)?;
    let toxicity = ClassifierReward::load(&first, load, ClassifierOptions::preset(Preset::Hate))?;
    // By name, never by position: the order of the labels depends on the model.
    let settings = || match options.blog {
        true => ClassifierOptions::preset(Preset::NotHate).input(Input::PromptAndResponse),
        false => ClassifierOptions::preset(Preset::NotHate),
    };
    let mut all: Vec<Box<dyn RewardModel>> = Vec::new();
    if !classifiers.is_empty() {
        let reported =
            settings().name("classifier").report("toxicity", "hate", Output::Probability);
        all.push(Box::new(toxicity.with(reported)?));
    }
    for folder in classifiers.iter().skip(1) {
        all.push(Box::new(ClassifierReward::load(folder, load, settings())?));
    }
    if let Some(file) = &options.judge {
        let (config, beside) = RewardConfig::from_file(file)?;
        all.push(rlaif::rewards_from_config(&config, &beside, load.device)?);
    }
    let mut all = all.into_iter();
    let first = all.next().ok_or("no reward: name one by --reward or --judge")?;
    Ok((all.fold(Mean::new("mean", first), Mean::and), toxicity))
}
