//! `rlaif reward`: fitting a preference model.

use clap::Args;
use rlaif_core::{Record, Seed};
use rlaif_data::{
    DataError, Row,
    corpora::{Corpus, Outcome},
};
use rlaif_lm::SequenceClassifier;
use rlaif_models::SaveOptions;
use rlaif_text::HfTokenizer;
use rlaif_train::{
    FitConfig, FitPlan, Goal, LearnConfig, PreferenceRow, PreferenceTask, PreferenceTrainer, fit,
};
use serde::{Deserialize, Serialize};

use super::{
    error::CliError,
    model,
    run_arguments::{RunArguments, ended, interrupt, show, total_steps},
};
use crate::run::{DataSection, ModelSection, Placement, RunError, RunFile, ShuffledBatches};

#[derive(Debug, Args)]
pub(crate) struct Reward {
    #[command(flatten)]
    run: RunArguments,
}

/// The run file of `rlaif reward`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RewardRun {
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    placement: Placement,
    model: ModelSection,
    data: DataSection,
    #[serde(default)]
    columns: Columns,
    /// c, what the square of a pair's summed scores costs; keeps scores around 0.
    #[serde(default)]
    centring: f64,
    #[serde(default)]
    train: FitConfig,
    #[serde(default)]
    learn: LearnConfig,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Columns {
    prompt: String,
    chosen: String,
    rejected: String,
    /// By how much the chosen response should score higher; null for no margin.
    #[serde(skip_serializing_if = "Option::is_none")]
    margin: Option<String>,
    /// The probability that the chosen response is the better one; null for 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    probability: Option<String>,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            prompt: "prompt".to_owned(),
            chosen: "chosen".to_owned(),
            rejected: "rejected".to_owned(),
            margin: None,
            probability: None,
        }
    }
}

impl RunFile for RewardRun {
    const COMMAND: &'static str = "reward";

    fn locations(&mut self) -> Vec<&mut String> {
        let mut all = self.data.locations();
        all.push(&mut self.model.path);
        all
    }
}

/// A preference with what may be known of its strength.
#[derive(Debug)]
struct Pair {
    id: String,
    chosen: String,
    rejected: String,
    margin: f64,
    probability: f64,
}

impl Record for Pair {
    fn id(&self) -> &str {
        &self.id
    }
}

#[derive(Debug, Clone)]
struct PairCorpus(Columns);

impl Corpus for PairCorpus {
    type Record = Pair;

    fn name(&self) -> String {
        "preference pairs".to_owned()
    }

    fn record(&self, mut row: Row<'_>) -> Result<Outcome<Pair>, DataError> {
        let prompt = row.text(&self.0.prompt)?;
        let chosen = row.text(&self.0.chosen)?;
        let rejected = row.text(&self.0.rejected)?;
        let mut number = |column: &Option<String>, or: f64| match column {
            Some(column) => {
                row.expect(column)?;
                Ok(row.optional_number(column)?.unwrap_or(or))
            }
            None => Ok::<f64, DataError>(or),
        };
        let margin = number(&self.0.margin, 0.)?;
        let probability = number(&self.0.probability, 1.)?;
        let id = row.identity(None, &[&prompt, &chosen, &rejected])?;
        let (chosen, rejected) = (format!("{prompt}{chosen}"), format!("{prompt}{rejected}"));
        if chosen == rejected {
            return Ok(Outcome::Dropped("both responses are the same"));
        }
        Ok(Outcome::Kept(Pair { id, chosen, rejected, margin, probability }))
    }
}

fn rows(
    pairs: &[Pair],
    tokenizer: &HfTokenizer,
    limit: usize,
) -> Result<Vec<PreferenceRow>, RunError> {
    let texts: Vec<(&str, Option<&str>)> = pairs
        .iter()
        .flat_map(|pair| [(pair.chosen.as_str(), None), (pair.rejected.as_str(), None)])
        .collect();
    let encoded = tokenizer.encode_truncated_batch(&texts, limit)?;
    let mut ids = encoded.into_iter().map(|encoded| encoded.ids);
    let mut next = || ids.next().unwrap_or_default();
    let row = |pair: &Pair| PreferenceRow {
        chosen: next(),
        rejected: next(),
        margin: pair.margin,
        probability: pair.probability,
    };
    Ok(pairs.iter().map(row).collect())
}

impl Reward {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let open = self.run.open::<RewardRun>()?;
        let config = &open.config;
        let interrupt = interrupt()?;
        let seed = Seed::new(config.seed);
        let options = config.placement.options(config.model.precision)?;
        let folder = config.model.folder()?;
        tch::manual_seed(seed.derive("init", 0).get() as i64);
        let mut model = config.model.classifier(&["reward".to_owned()], options)?;
        let tokenizer = model::tokenizer(&folder, model.spec().vocab_size)?;
        let context = model.spec().context;
        let limit = context.into_iter().chain([config.data.max_tokens]).min();
        let limit = limit.unwrap_or(config.data.max_tokens);

        let (train, held_out) = config.data.read(&PairCorpus(config.columns.clone()), seed)?;
        let mut batches = ShuffledBatches::new(&train, config.train.batch_size, seed)?;
        let train = rows(&train, &tokenizer, limit)?;
        let held_out = rows(&held_out, &tokenizer, limit)?;
        let total_steps = total_steps(&config.train, train.len())?;
        let trainer = PreferenceTrainer::new(&model, &config.learn, config.centring, total_steps)
            .map_err(RunError::from)?;
        let (mut run, saved) = open.folder(config.train.keep(Goal::Lowest))?;
        let done = saved.as_ref().map_or(0, rlaif_train::Saved::step);
        show(&mut run, total_steps, done, &["loss", "rewards/accuracies", "eval/accuracy"]);
        let mut task = PreferenceTask::new(trainer, train, held_out);
        let plan = FitPlan { config: &config.train, total_steps, seed, interrupt: &interrupt };
        let ending = fit(&mut task, &mut batches, &mut run, saved.as_ref(), &plan)
            .map_err(RunError::from)?;
        task.finish();
        ended(&open, &mut run, ending)?;
        let result = run.model();
        match config.model.adapter() {
            Some(name) => model.adapters().save(name, &result)?,
            None => {
                let source = Some(folder.as_path());
                model.save(&result, &SaveOptions { source, ..SaveOptions::default() })?;
            }
        }
        run.say(&format!("the result is in {}", result.display())).map_err(RunError::from)?;
        Ok(())
    }
}
