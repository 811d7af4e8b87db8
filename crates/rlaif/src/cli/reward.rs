//! `rlaif reward`: fitting a preference model.

use clap::Args;
use rlaif_core::{Record, Seed};
use rlaif_data::{
    DataError, Row,
    corpora::{Corpus, Outcome},
};
use rlaif_lm::SequenceClassifier;
use rlaif_models::MemoryPlan;
use rlaif_text::{HfTokenizer, Side};
use rlaif_torch::seeded;
use rlaif_train::{FitConfig, Goal, LearnConfig, PreferenceRow, PreferenceTrainer, SupervisedTask};
use serde::{Deserialize, Serialize};

use super::{
    error::CliError,
    model,
    run_arguments::{OngoingRun, RunArguments, Shown, about, in_learn, interrupt, total_steps},
};
use crate::run::{
    DataRows, DataSection, Left, ModelSection, Placement, RunError, RunFile, ShuffledBatches,
    Weights, kept_activations, longest, rows_of_pass,
};

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

/// Pairs as token ids, with their records. Those whose responses are the same within `limit` teach
/// nothing and are left out.
fn rows(
    pairs: Vec<Pair>,
    tokenizer: &HfTokenizer,
    limit: usize,
    left: &mut Left,
) -> Result<(Vec<Pair>, Vec<PreferenceRow>), RunError> {
    let texts: Vec<(&str, Option<&str>)> = pairs
        .iter()
        .flat_map(|pair| [(pair.chosen.as_str(), None), (pair.rejected.as_str(), None)])
        .collect();
    let mut encoded = tokenizer.encode_truncated_batch(&texts, limit)?.into_iter();
    let mut kept = (Vec::new(), Vec::new());
    for pair in pairs {
        let (Some(chosen), Some(rejected)) = (encoded.next(), encoded.next()) else { break };
        if chosen.ids == rejected.ids {
            left.leave_out("both responses are the same once cut");
            continue;
        }
        left.cut += u64::from(chosen.dropped > 0 || rejected.dropped > 0);
        kept.1.push(PreferenceRow {
            chosen: chosen.ids,
            rejected: rejected.ids,
            margin: pair.margin,
            probability: pair.probability,
        });
        kept.0.push(pair);
    }
    Ok(kept)
}

impl Reward {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let open = self.run.open::<RewardRun>()?;
        let config = &open.config;
        config.model.check_learn(&config.learn)?;
        if !(config.centring.is_finite() && config.centring >= 0.) {
            let problem = format!("is {}; expected a finite number of at least 0", config.centring);
            return Err(RunError::Setting { key: "centring", problem }.into());
        }
        let interrupt = interrupt()?;
        let seed = Seed::new(config.seed);
        let options = config.placement.options(config.model.precision)?;
        let memory = MemoryPlan {
            activations: kept_activations(config.learn.recompute),
            ..config.model.memory(options)?
        };
        config.placement.check_memory(&memory, Weights::NotLoaded)?;
        let labels = ["reward".to_owned()];
        let load = || config.model.classifier(&labels, options);
        let mut model = seeded(seed.for_libtorch("init"), load)??;
        // What is judged stands at the end; a classifier that rewards cuts there as well.
        let tokenizer = model::tokenizer(&config.model.folder()?, model.spec().vocab_size)?
            .truncating(Side::Left);
        let limit = config.data.limit(model.spec());

        let DataRows { train, held_out, mut left } =
            config.data.read(&PairCorpus(config.columns.clone()), seed)?;
        let (train, rows_of_train) = rows(train, &tokenizer, limit, &mut left)?;
        let (_, held_out) = rows(held_out, &tokenizer, limit, &mut Left::default())?;
        let total_steps = total_steps(&config.train, train.len())?;
        let mut batches = ShuffledBatches::new(&train, config.train.batch_size, seed)?;
        let memory = MemoryPlan {
            // Both sides of a pair are rows of one pass.
            microbatch: 2 * rows_of_pass(
                config.learn.microbatch,
                config.train.batch_size.min(train.len()),
            ),
            tokens: longest(
                rows_of_train.iter().flat_map(|row| [row.chosen.len(), row.rejected.len()]),
            ),
            ..memory
        };
        config.placement.check_memory(&memory, Weights::Loaded)?;
        let trainer = PreferenceTrainer::new(&model, &config.learn, config.centring, total_steps)
            .map_err(in_learn)?;
        let about = about(train.len(), &left, held_out.len(), total_steps);
        let metrics = &["loss", "rewards/accuracies", "eval/accuracy"];
        let shown = Shown { total_steps, metrics };
        let mut run =
            OngoingRun::begin(&open, interrupt, config.train.keep(Goal::Lowest), &about, &shown)?;
        let mut task = SupervisedTask::new(trainer, rows_of_train, held_out);
        run.fit(&mut task, &mut batches, &config.train, total_steps, seed)?;
        task.finish();
        run.write(&mut model, &config.model)
    }
}
