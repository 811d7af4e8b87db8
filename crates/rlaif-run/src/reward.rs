//! `rlaif reward`: fitting a preference model.

use rlaif_core::Record;
use rlaif_data::{
    DataError, Row,
    corpora::{Corpus, Outcome},
};
use rlaif_lm::SequenceClassifier;
use rlaif_text::{HfTokenizer, SequenceSide};
use rlaif_train::{FitConfig, LearnConfig, PreferenceRow, PreferenceTrainer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    data::DataSection,
    error::RunError,
    file::RunFile,
    model::{ModelSection, Placement, tokenizer},
    recipe::{Basics, Recipe, Start},
    skipped::SkippedRows,
    supervised::{EncodedRow, SupervisedSections},
};

/// The run file of `rlaif reward`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RewardFile {
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
    /// RewardColumns of the rows.
    #[serde(default)]
    pub columns: RewardColumns,
    /// The price c of the square of a pair's summed scores; keeps scores around 0.
    #[serde(default)]
    pub centring: f64,
    /// Steps, evaluations, checkpoints.
    #[serde(default)]
    pub train: FitConfig,
    /// Training of the weights.
    #[serde(default)]
    pub learn: LearnConfig,
}

/// Columns of preference pairs.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewardColumns {
    /// Column of prompts.
    pub prompt: String,
    /// Column of preferred responses.
    pub chosen: String,
    /// Column of the other responses.
    pub rejected: String,
    /// Column of margins, by which the chosen response should score higher; a null means no margin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<String>,
    /// Column of probabilities that the chosen response is the better one; a null is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<String>,
}

impl Default for RewardColumns {
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

impl RunFile for RewardFile {
    const COMMAND: &'static str = "reward";

    fn locations(&mut self) -> Vec<&mut String> {
        let mut all = self.data.locations();
        all.extend(self.model.locations());
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
struct PairCorpus(RewardColumns);

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

impl EncodedRow for PreferenceRow {
    /// Both sides of a pair are rows of one pass.
    const SEQUENCES: usize = 2;

    fn tokens(&self) -> usize {
        self.chosen.len().max(self.rejected.len())
    }
}

/// Pairs as token ids, with their records. Those whose responses are the same within `limit` teach
/// nothing and are left out.
fn rows(
    pairs: Vec<Pair>,
    tokenizer: &HfTokenizer,
    limit: usize,
    skipped: &mut SkippedRows,
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
            skipped.leave_out("both responses are the same once cut");
            continue;
        }
        skipped.cut += u64::from(chosen.dropped > 0 || rejected.dropped > 0);
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

impl Recipe for RewardFile {
    const SHOWN: &'static [&'static str] = &["loss", "rewards/accuracies", "eval/accuracy"];

    fn basics(&self) -> Basics<'_> {
        Basics { seed: self.seed, placement: &self.placement, model: &self.model }
    }

    fn check(&self) -> Result<(), RunError> {
        self.model.check_learn(&self.learn)?;
        if !(self.centring.is_finite() && self.centring >= 0.) {
            let problem = format!("is {}; expected a finite number of at least 0", self.centring);
            return Err(RunError::Setting { key: "centring", problem });
        }
        Ok(())
    }

    fn train(&self, start: Start<'_, Self>) -> Result<(), RunError> {
        let memory = start.memory_of(self.learn.activations)?;
        let labels = ["reward".to_owned()];
        let mut model = start.fresh(|| self.model.classifier(&labels, start.options))?;
        // What is judged stands at the end; a classifier that rewards cuts there as well.
        let tokenizer = tokenizer(&self.model.files()?, model.spec().vocab_size)?
            .truncating(SequenceSide::Left);
        let limit = self.data.limit(model.spec());
        let Self { data, train, learn, .. } = self;
        let corpus = PairCorpus(self.columns.clone());
        let rows = SupervisedSections { data, train, learn }.read(
            &corpus,
            start.seed,
            |pairs, skipped| rows(pairs, &tokenizer, limit, skipped),
        )?;
        let mut run = rows.learn(start, memory, |steps| {
            PreferenceTrainer::new(&model, learn, self.centring, steps)
        })?;
        run.write(&mut model)
    }
}
