//! `rlaif score`.

use clap::Args;
use rlaif_lm::{Forward, Padding, SequenceClassifier, TokenBatch};
use rlaif_models::Classifier;
use rlaif_text::HfTokenizer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tch::no_grad;

use super::{
    error::{CliError, RowProblem},
    log_probs::rows_of,
    model::{self, ModelArguments},
    rows::{Job, RowArguments},
};

#[derive(Debug, Args)]
pub(crate) struct Score {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    rows: RowArguments,
}

impl Score {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let files = self.model.files()?;
        let classifier = self.model.classifier(&files)?;
        let tokenizer = model::tokenizer(&files, classifier.spec().vocab_size);
        self.rows.run(&ScoreJob { classifier, tokenizer })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    text: Option<String>,
    text_pair: Option<String>,
    ids: Option<Vec<u32>>,
}

#[derive(Debug, Serialize)]
struct Answer {
    logits: Vec<f32>,
    probabilities: Map<String, Value>,
}

/// A sequence, and where its second text starts if it has one.
struct Sequence {
    ids: Vec<u32>,
    second_start: usize,
}

struct ScoreJob {
    classifier: Classifier,
    /// Needed by rows of text alone.
    tokenizer: Result<HfTokenizer, CliError>,
}

impl ScoreJob {
    fn sequence(&self, row: Row) -> Result<Sequence, RowProblem> {
        match row {
            Row { ids: Some(ids), text: None, text_pair: None } => {
                let second_start = ids.len();
                Ok(Sequence { ids, second_start })
            }
            Row { text: Some(text), text_pair, ids: None } => {
                let tokenizer =
                    self.tokenizer.as_ref().map_err(|reason| RowProblem::NoTokenizer {
                        problem: "the row holds text",
                        reason: reason.to_string(),
                    })?;
                let context = self.classifier.spec().context;
                let limit = context.into_iter().chain(tokenizer.max_length()).min();
                let encoded = tokenizer
                    .encode_truncated(&text, text_pair.as_deref(), limit.unwrap_or(usize::MAX))
                    .map_err(RowProblem::Text)?;
                let second_start = encoded.type_ids.iter().position(|&t| t == 1);
                Ok(Sequence {
                    second_start: second_start.unwrap_or(encoded.ids.len()),
                    ids: encoded.ids,
                })
            }
            _ => Err(RowProblem::Fields { expected: Self::FIELDS }),
        }
    }
}

impl Job for ScoreJob {
    type Input = Row;
    type Prepared = Sequence;
    type Output = Answer;
    const FIELDS: &'static str = "`text` (with `text_pair` for a pair), or `ids`";

    fn prepare(&self, rows: Vec<Row>) -> Vec<Result<Sequence, RowProblem>> {
        rows.into_iter()
            .map(|row| {
                let sequence = self.sequence(row)?;
                self.classifier.spec().check(0, &sequence.ids).map_err(RowProblem::Lm)?;
                Ok(sequence)
            })
            .collect()
    }

    fn length(row: &Sequence) -> usize {
        row.ids.len()
    }

    fn compute(&self, rows: &[&Sequence]) -> Result<Vec<Answer>, CliError> {
        let ids = rows.iter().map(|row| row.ids.clone()).collect();
        let batch = TokenBatch::collate(ids, self.classifier.spec(), Padding::Right)?;
        let starts: Vec<usize> = rows.iter().map(|row| row.second_start).collect();
        let logits = no_grad(|| self.classifier.logits(&batch, Some(&starts), Forward::default()))?;
        let probabilities = rows_of(&self.classifier.scheme().probabilities(&logits));
        Ok(rows_of(&logits)
            .into_iter()
            .zip(probabilities)
            .map(|(logits, probabilities)| Answer {
                logits,
                probabilities: self
                    .classifier
                    .labels()
                    .iter()
                    .cloned()
                    .zip(probabilities.into_iter().map(Value::from))
                    .collect(),
            })
            .collect())
    }
}
