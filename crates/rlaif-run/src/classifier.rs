//! `rlaif classifier`: training of a classifier on labelled texts.

use std::collections::{BTreeMap, BTreeSet};

use rlaif_core::{BadSetting, Record, TextCodec};
use rlaif_data::{
    DataError, Row,
    corpora::{Corpus, Outcome},
};
use rlaif_lm::SequenceClassifier;
use rlaif_text::HfTokenizer;
use rlaif_train::{ClassWeights, ClassifierRow, ClassifierTrainer, FitConfig, LearnConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    data::DataSection,
    error::{RowProblem, RunError},
    file::RunFile,
    model::{ModelSection, Placement, tokenizer},
    recipe::{Basics, Recipe, Start},
    skipped::SkippedRows,
    supervised::{EncodedRow, SupervisedSections},
};

/// The run file of `rlaif classifier`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassifierFile {
    /// The seed of all random numbers.
    #[serde(default)]
    pub seed: u64,
    /// Device, threads and memory.
    #[serde(default)]
    pub placement: Placement,
    /// The model whose trunk is trained.
    pub model: ModelSection,
    /// The rows.
    pub data: DataSection,
    /// Columns of the rows.
    #[serde(default)]
    pub columns: ClassifierColumns,
    /// Names of the labels; a row has the name or the index of its label.
    pub labels: Vec<String>,
    /// Weights of the labels.
    #[serde(default)]
    pub class_weights: ClassWeights,
    /// Steps, evaluations, checkpoints.
    #[serde(default)]
    pub train: FitConfig,
    /// Training of the weights.
    #[serde(default)]
    pub learn: LearnConfig,
}

/// Columns of labelled texts.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClassifierColumns {
    /// Column of texts.
    pub text: String,
    /// Column of labels.
    pub label: String,
    /// Column of the second texts of pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
}

impl Default for ClassifierColumns {
    fn default() -> Self {
        Self { text: "text".to_owned(), label: "label".to_owned(), text_pair: None }
    }
}

impl RunFile for ClassifierFile {
    const COMMAND: &'static str = "classifier";

    fn locations(&mut self) -> Vec<&mut String> {
        let mut all = self.data.locations();
        all.extend(self.model.locations());
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
struct LabelledColumns(ClassifierColumns);

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

impl EncodedRow for ClassifierRow {
    fn tokens(&self) -> usize {
        self.ids.len()
    }
}

impl ClassifierFile {
    fn check_labels(&self) -> Result<(), RunError> {
        self.model.check_learn(&self.learn)?;
        let refuse =
            |found: String, expected| Err(BadSetting::new("labels", found, expected).into());
        let mut known = BTreeSet::new();
        match self.labels.iter().find(|label| !known.insert(*label)) {
            Some(twice) => {
                refuse(format!("a list with `{twice}` twice"), "a unique name for each label")
            }
            None if self.labels.len() < 2 => {
                refuse(format!("{:?}", self.labels), "at least two labels to tell apart")
            }
            None => Ok(()),
        }
    }

    fn rows(
        &self,
        records: &[Labelled],
        tokenizer: &HfTokenizer,
        limit: usize,
        skipped: &mut SkippedRows,
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
            skipped.cut += u64::from(encoded.dropped > 0);
            let start = encoded.type_ids.iter().position(|&t| t == 1);
            let second_start = start.unwrap_or(encoded.ids.len());
            Ok(ClassifierRow { ids: encoded.ids, second_start, label: *label })
        });
        rows.collect()
    }
}

impl Recipe for ClassifierFile {
    const SHOWN: &'static [&'static str] = &["loss", "eval/accuracy", "eval/auc"];
    const DATA_PARALLEL: bool = true;

    fn basics(&self) -> Basics<'_> {
        Basics { seed: self.seed, placement: &self.placement, model: &self.model }
    }

    fn check(&self) -> Result<(), RunError> {
        self.check_labels()
    }

    fn train(&self, start: Start<'_, Self>) -> Result<(), RunError> {
        let memory = start.memory_of(self.learn.activations)?;
        let mut classifier = start.fresh(|| self.model.classifier(&self.labels, start.options))?;
        let tokenizer = tokenizer(&self.model.files()?, classifier.spec().vocab_size)?;
        let limit = self.data.limit(classifier.spec());
        let Self { data, train, learn, .. } = self;
        let corpus = LabelledColumns(self.columns.clone());
        let rows = data.read(&corpus, start.seed)?;
        let mut rows =
            SupervisedSections { train, learn }.encoded(rows, start.seed, |records, skipped| {
                let rows = self.rows(&records, &tokenizer, limit, skipped)?;
                Ok((records, rows))
            })?;
        rows.notes.extend(tokenizer.take_notices());
        let weights = self.class_weights.resolve(&rows.train, self.labels.len())?;
        let mut run = rows.learn(start, memory, |steps| {
            ClassifierTrainer::new(&classifier, learn, weights, steps)
        })?;
        run.write(&mut classifier)
    }
}
