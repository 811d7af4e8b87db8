//! `rlaif reward`: training of a preference model.

use std::cell::Cell;

use rayon::prelude::*;
use rlaif_core::{BadSetting, PairRow, Record, TextCodec, TextKind};
use rlaif_data::ImportOptions;
use rlaif_lm::SequenceClassifier;
use rlaif_rewards::encode_judged;
use rlaif_text::HfTokenizer;
use rlaif_train::{FitConfig, LearnConfig, PreferenceRow, PreferenceTrainer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    columns::dropped,
    data::DataSection,
    error::RunError,
    file::RunFile,
    model::{ModelSection, Placement, tokenizer},
    pair_columns::PairFormat,
    prompt::{PromptSection, of_rows, rendered},
    recipe::{Basics, Recipe, Start},
    rows::{PairNames, RowReader},
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
    /// Format of the rows.
    #[serde(default)]
    pub columns: RewardColumns,
    /// The text of a prompt.
    #[serde(default)]
    pub prompt: PromptSection,
    /// The coefficient c of the squared sum of a pair's scores; keeps scores near 0.
    #[serde(default)]
    pub centring_coef: f64,
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
    /// Format of the rows.
    pub format: PairFormat,
    /// Column of prompts.
    pub prompt: String,
    /// Column of preferred responses.
    pub chosen: String,
    /// Column of the other responses.
    pub rejected: String,
    /// Column of margins by which the chosen response should score higher; null means no margin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<String>,
    /// Column of probabilities that the chosen response is the better one; null means 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<String>,
}

impl Default for RewardColumns {
    fn default() -> Self {
        Self {
            format: PairFormat::Auto,
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

/// A preference as complete texts, with its strength if known.
#[derive(Debug)]
struct Pair {
    id: String,
    chosen: String,
    rejected: String,
    kind: TextKind,
    margin: f64,
    probability: f64,
}

impl Record for Pair {
    fn id(&self) -> &str {
        &self.id
    }
}

impl RewardColumns {
    fn reader(&self, options: ImportOptions) -> RowReader {
        let names = PairNames {
            prompt: &self.prompt,
            chosen: &self.chosen,
            rejected: &self.rejected,
            margin: self.margin.as_deref(),
        };
        let mut reader = names.reader(self.format.form(), options);
        reader.columns.metadata.extend(self.probability.clone());
        reader
    }

    /// The probability that the chosen response is the better one.
    fn probability(&self, row: &PairRow) -> Result<f64, RunError> {
        let Some(value) = self.probability.as_ref().and_then(|column| row.metadata.get(column))
        else {
            return Ok(1.);
        };
        // In CSV, numbers are text.
        let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
        number.filter(|number| number.is_finite()).ok_or_else(|| {
            let found = format!("a column with {value} in row `{}`", row.id);
            BadSetting::new("columns.probability", found, "a number or null in each row").into()
        })
    }
}

impl EncodedRow for PreferenceRow {
    /// Both sides of a pair are rows of one pass.
    const SEQUENCES: usize = 2;

    fn tokens(&self) -> usize {
        self.chosen.len().max(self.rejected.len())
    }
}

/// Pairs as token ids, with their records. Pairs whose responses are equal within `limit` have no
/// learning signal and are left out.
fn rows(
    pairs: Vec<Pair>,
    tokenizer: &HfTokenizer,
    limit: usize,
    skipped: &mut SkippedRows,
) -> Result<(Vec<Pair>, Vec<PreferenceRow>), RunError> {
    let sides: Vec<_> = pairs
        .par_iter()
        .map(|pair| {
            let side = |text: &str| encode_judged(tokenizer, text, pair.kind, limit);
            Ok((side(&pair.chosen)?, side(&pair.rejected)?))
        })
        .collect::<Result<_, RunError>>()?;
    let mut kept = (Vec::new(), Vec::new());
    for (pair, ((chosen, cut), (rejected, cut_too))) in pairs.into_iter().zip(sides) {
        if chosen == rejected {
            skipped.leave_out("both responses are the same once cut");
            continue;
        }
        skipped.cut += u64::from(cut || cut_too);
        let (margin, probability) = (pair.margin, pair.probability);
        kept.1.push(PreferenceRow { chosen, rejected, margin, probability });
        kept.0.push(pair);
    }
    Ok(kept)
}

impl RewardFile {
    /// The rows of a file as token ids, of at most `limit` each, and counts of the others.
    ///
    /// # Errors
    /// [`RunError::Data`], [`RunError::Codec`], [`RunError::Text`], [`RunError::Setting`].
    pub fn read(
        &self,
        path: &str,
        tokenizer: &HfTokenizer,
        limit: usize,
    ) -> Result<(Vec<PreferenceRow>, SkippedRows), RunError> {
        let (pairs, _) = self.columns.reader(self.data.import).read::<PairRow>(path)?;
        let mut skipped = dropped(&pairs);
        let texts = self.texts(pairs.records(), tokenizer, &mut skipped)?;
        let (_, rows) = rows(texts, tokenizer, limit, &mut skipped)?;
        Ok((rows, skipped))
    }

    /// Pairs as complete texts.
    fn texts(
        &self,
        pairs: &[PairRow],
        tokenizer: &HfTokenizer,
        skipped: &mut SkippedRows,
    ) -> Result<Vec<Pair>, RunError> {
        let how = self.prompt.rendering();
        let texts = rendered(pairs, skipped, |pair| pair.render(tokenizer, &how))?;
        let pairs = pairs.iter().zip(texts).filter_map(|(row, pair)| Some((row, pair?)));
        let pairs = pairs.map(|(row, pair)| {
            Ok(Pair {
                chosen: [pair.prompt.as_str(), &pair.chosen].concat(),
                rejected: [pair.prompt.as_str(), &pair.rejected].concat(),
                id: pair.id,
                kind: pair.kind,
                margin: self.columns.margin.as_ref().and(row.margin).unwrap_or(0.),
                probability: self.columns.probability(row)?,
            })
        });
        pairs.collect()
    }
}

impl Recipe for RewardFile {
    const SHOWN: &'static [&'static str] = &["loss", "rewards/accuracies", "eval/accuracy"];
    const DATA_PARALLEL: bool = true;

    fn basics(&self) -> Basics<'_> {
        Basics { seed: self.seed, placement: &self.placement, model: &self.model }
    }

    fn check(&self) -> Result<(), RunError> {
        self.model.check_learn(&self.learn)?;
        self.prompt.check()?;
        if self.columns.format == PairFormat::Unpaired {
            let expected = "pairs, from which a preference model learns";
            return Err(BadSetting::new("columns.format", "`unpaired`", expected).into());
        }
        if !(self.centring_coef.is_finite() && self.centring_coef >= 0.) {
            let expected = "a finite number of at least 0";
            return Err(BadSetting::new("centring_coef", self.centring_coef, expected).into());
        }
        Ok(())
    }

    fn train(&self, start: Start<'_, Self>) -> Result<(), RunError> {
        let memory = start.memory_of(self.learn.activations)?;
        let labels = ["reward".to_owned()];
        let mut model = start.fresh(|| self.model.classifier(&labels, start.options))?;
        let tokenizer = tokenizer(&self.model.files()?, model.spec().vocab_size)?;
        let limit = self.data.limit(model.spec());
        let Self { data, train, learn, .. } = self;
        let pairs = data.import::<PairRow>(&self.columns.reader(data.import), start.seed)?;
        let conversations = Cell::new(false);
        let encode = |pairs: Vec<PairRow>, skipped: &mut SkippedRows| {
            let texts = self.texts(&pairs, &tokenizer, skipped)?;
            let rendered = texts.iter().any(|pair| pair.kind == TextKind::Rendered);
            conversations.set(conversations.get() || rendered);
            rows(texts, &tokenizer, limit, skipped)
        };
        let mut rows = SupervisedSections { train, learn }.encoded(pairs, start.seed, encode)?;
        rows.rendering = Some(of_rows(&self.prompt, conversations.get()));
        rows.notes.extend(tokenizer.take_notices());
        let mut run = rows.learn(start, memory, |steps| {
            PreferenceTrainer::new(&model, learn, self.centring_coef, steps)
        })?;
        run.write(&mut model)
    }
}
