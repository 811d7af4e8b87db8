//! `rlaif classifier`: fitting a classifier to labelled texts.

use std::collections::BTreeMap;

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
    ClassWeights, ClassifierRow, ClassifierTask, ClassifierTrainer, FitConfig, FitPlan, Goal,
    LearnConfig, fit,
};
use serde::{Deserialize, Serialize};

use super::{
    error::CliError,
    model,
    run_arguments::{RunArguments, ended, interrupt, show, total_steps},
};
use crate::run::{DataSection, ModelSection, Placement, RunError, RunFile, ShuffledBatches};

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
    fn rows(
        &self,
        records: &[Labelled],
        tokenizer: &HfTokenizer,
        limit: usize,
    ) -> Result<Vec<ClassifierRow>, RunError> {
        let mut known: BTreeMap<String, usize> =
            (0..self.labels.len()).map(|i| (i.to_string(), i)).collect();
        known.extend(self.labels.iter().enumerate().map(|(i, name)| (name.clone(), i)));
        let texts: Vec<(&str, Option<&str>)> =
            records.iter().map(|row| (row.text.as_str(), row.pair.as_deref())).collect();
        let encoded = tokenizer.encode_truncated_batch(&texts, limit)?;
        let rows = records.iter().zip(encoded).map(|(record, encoded)| {
            let label = known.get(&record.label).ok_or_else(|| RunError::Setting {
                key: "labels",
                problem: format!(
                    "row `{}` has the label `{}`, which is neither one of {:?} nor an index of \
                     them",
                    record.id, record.label, self.labels
                ),
            })?;
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
        let interrupt = interrupt()?;
        let seed = Seed::new(config.seed);
        let options = config.placement.options(config.model.precision)?;
        let folder = config.model.folder()?;
        tch::manual_seed(seed.derive("init", 0).get() as i64);
        let mut classifier = config.model.classifier(&config.labels, options)?;
        let tokenizer = model::tokenizer(&folder, classifier.spec().vocab_size)?;
        let context = classifier.spec().context;
        let limit = context.into_iter().chain([config.data.max_tokens]).min();
        let limit = limit.unwrap_or(config.data.max_tokens);

        let (train, held_out) = config.data.read(&LabelledColumns(config.columns.clone()), seed)?;
        let mut batches = ShuffledBatches::new(&train, config.train.batch_size, seed)?;
        let train = config.rows(&train, &tokenizer, limit)?;
        let held_out = config.rows(&held_out, &tokenizer, limit)?;
        let total_steps = total_steps(&config.train, train.len())?;
        let weights = config.class_weights.resolve(&train, config.labels.len());
        let weights = weights.map_err(RunError::from)?;
        let trainer = ClassifierTrainer::new(&classifier, &config.learn, weights, total_steps)
            .map_err(RunError::from)?;
        let (mut run, saved) = open.folder(config.train.keep(Goal::Lowest))?;
        let done = saved.as_ref().map_or(0, rlaif_train::Saved::step);
        show(&mut run, total_steps, done, &["loss", "eval/accuracy", "eval/auc"]);
        let mut task = ClassifierTask::new(trainer, train, held_out);
        let plan = FitPlan { config: &config.train, total_steps, seed, interrupt: &interrupt };
        let ending = fit(&mut task, &mut batches, &mut run, saved.as_ref(), &plan)
            .map_err(RunError::from)?;
        task.finish();
        ended(&open, &mut run, ending)?;
        let model = run.model();
        match config.model.adapter() {
            Some(name) => classifier.adapters().save(name, &model)?,
            None => {
                let source = Some(folder.as_path());
                classifier.save(&model, &SaveOptions { source, ..SaveOptions::default() })?;
            }
        }
        run.say(&format!("the result is in {}", model.display())).map_err(RunError::from)?;
        Ok(())
    }
}
