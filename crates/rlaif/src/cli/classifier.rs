//! `rlaif classifier`: fitting a classifier to labelled texts.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use rlaif_core::{Record, Seed};
use rlaif_data::{
    DataError, Row,
    corpora::{Corpus, Outcome},
};
use rlaif_lm::SequenceClassifier;
use rlaif_models::MemoryPlan;
use rlaif_text::HfTokenizer;
use rlaif_torch::seeded;
use rlaif_train::{
    ClassWeights, ClassifierRow, ClassifierTrainer, FitConfig, Goal, LearnConfig, SupervisedTask,
};
use serde::{Deserialize, Serialize};

use super::{
    error::CliError,
    model,
    run_arguments::{OngoingRun, RunArguments, Shown, about, in_learn, interrupt, total_steps},
};
use crate::run::{
    DataRows, DataSection, Left, ModelSection, Placement, RowProblem, RunError, RunFile,
    ShuffledBatches, Weights, kept_activations, longest, rows_of_pass,
};

#[derive(Debug, Args)]
pub(crate) struct ClassifierCommand {
    #[command(flatten)]
    run: RunArguments,
}

/// The run file of `rlaif classifier`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassifierRun {
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    placement: Placement,
    model: ModelSection,
    data: DataSection,
    #[serde(default)]
    columns: Columns,
    /// Names of the labels; a row's label is one of them, or its index.
    labels: Vec<String>,
    #[serde(default)]
    class_weights: ClassWeights,
    #[serde(default)]
    train: FitConfig,
    #[serde(default)]
    learn: LearnConfig,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Columns {
    text: String,
    label: String,
    /// The second text of a pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    text_pair: Option<String>,
}

impl Default for Columns {
    fn default() -> Self {
        Self { text: "text".to_owned(), label: "label".to_owned(), text_pair: None }
    }
}

impl RunFile for ClassifierRun {
    const COMMAND: &'static str = "classifier";

    fn locations(&mut self) -> Vec<&mut String> {
        let mut all = self.data.locations();
        all.push(&mut self.model.path);
        all
    }
}

/// A text with its label.
#[derive(Debug)]
struct Labelled {
    id: String,
    text: String,
    pair: Option<String>,
    label: String,
}

impl Record for Labelled {
    fn id(&self) -> &str {
        &self.id
    }
}

#[derive(Debug, Clone)]
struct LabelledColumns(Columns);

impl Corpus for LabelledColumns {
    type Record = Labelled;

    fn name(&self) -> String {
        "labelled texts".to_owned()
    }

    fn record(&self, mut row: Row<'_>) -> Result<Outcome<Labelled>, DataError> {
        let text = row.text(&self.0.text)?;
        let pair = self.0.text_pair.as_deref().map(|column| row.text(column)).transpose()?;
        let label = match row.take(&self.0.label)? {
            serde_json::Value::String(label) => label,
            other => other.to_string(),
        };
        let id = row.identity(None, &[&text, pair.as_deref().unwrap_or("")])?;
        Ok(Outcome::Kept(Labelled { id, text, pair, label }))
    }
}

impl ClassifierRun {
    fn check(&self) -> Result<(), RunError> {
        self.model.check_learn(&self.learn)?;
        let refuse = |problem| Err(RunError::Setting { key: "labels", problem });
        let mut known = BTreeSet::new();
        match self.labels.iter().find(|label| !known.insert(*label)) {
            Some(twice) => {
                refuse(format!("`{twice}` is there twice; a label has a name of its own"))
            }
            None if self.labels.len() < 2 => {
                refuse(format!("{:?} leaves nothing to tell apart; name two or more", self.labels))
            }
            None => Ok(()),
        }
    }

    fn rows(
        &self,
        records: &[Labelled],
        tokenizer: &HfTokenizer,
        limit: usize,
        left: &mut Left,
    ) -> Result<Vec<ClassifierRow>, RunError> {
        let mut known: BTreeMap<String, usize> =
            (0..self.labels.len()).map(|i| (i.to_string(), i)).collect();
        known.extend(self.labels.iter().enumerate().map(|(i, name)| (name.clone(), i)));
        let texts: Vec<(&str, Option<&str>)> =
            records.iter().map(|row| (row.text.as_str(), row.pair.as_deref())).collect();
        let encoded = tokenizer.encode_truncated_batch(&texts, limit)?;
        let rows = records.iter().zip(encoded).map(|(record, encoded)| {
            let label = known.get(&record.label).ok_or_else(|| RunError::Row {
                row: self.data.place(&LabelledColumns(self.columns.clone()), &record.id),
                problem: RowProblem::Label {
                    label: record.label.clone(),
                    known: self.labels.clone(),
                },
            })?;
            left.cut += u64::from(encoded.dropped > 0);
            let start = encoded.type_ids.iter().position(|&t| t == 1);
            let second_start = start.unwrap_or(encoded.ids.len());
            Ok(ClassifierRow { ids: encoded.ids, second_start, label: *label })
        });
        rows.collect()
    }
}

impl ClassifierCommand {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let open = self.run.open::<ClassifierRun>()?;
        let config = &open.config;
        config.check()?;
        let interrupt = interrupt()?;
        let seed = Seed::new(config.seed);
        let options = config.placement.options(config.model.precision)?;
        let memory = MemoryPlan {
            activations: kept_activations(config.learn.recompute),
            ..config.model.memory(options)?
        };
        config.placement.check_memory(&memory, Weights::NotLoaded)?;
        let load = || config.model.classifier(&config.labels, options);
        let mut classifier = seeded(seed.for_libtorch("init"), load)??;
        let tokenizer = model::tokenizer(&config.model.folder()?, classifier.spec().vocab_size)?;
        let limit = config.data.limit(classifier.spec());

        let DataRows { train, held_out, mut left } =
            config.data.read(&LabelledColumns(config.columns.clone()), seed)?;
        let mut batches = ShuffledBatches::new(&train, config.train.batch_size, seed)?;
        let train = config.rows(&train, &tokenizer, limit, &mut left)?;
        let held_out = config.rows(&held_out, &tokenizer, limit, &mut Left::default())?;
        let total_steps = total_steps(&config.train, train.len())?;
        let weights = config.class_weights.resolve(&train, config.labels.len());
        let weights = weights.map_err(RunError::from)?;
        let memory = MemoryPlan {
            microbatch: rows_of_pass(
                config.learn.microbatch,
                config.train.batch_size.min(train.len()),
            ),
            tokens: longest(train.iter().map(|row| row.ids.len())),
            ..memory
        };
        config.placement.check_memory(&memory, Weights::Loaded)?;
        let trainer = ClassifierTrainer::new(&classifier, &config.learn, weights, total_steps)
            .map_err(in_learn)?;
        let about = about(train.len(), &left, held_out.len(), total_steps);
        let shown = Shown { total_steps, metrics: &["loss", "eval/accuracy", "eval/auc"] };
        let mut run =
            OngoingRun::begin(&open, interrupt, config.train.keep(Goal::Lowest), &about, &shown)?;
        let mut task = SupervisedTask::new(trainer, train, held_out);
        run.fit(&mut task, &mut batches, &config.train, total_steps, seed)?;
        task.finish();
        run.write(&mut classifier, &config.model)
    }
}
