//! `rlaif sft`: supervised fine-tuning.

use rlaif_core::{Seed, TextCodec};
use rlaif_lm::Policy;
use rlaif_train::{FitConfig, LearnConfig, SftRow, SftTrainer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    columns::ColumnSection,
    data::DataSection,
    encode::Encoder,
    error::RunError,
    file::RunFile,
    model::{ModelSection, Placement, tokenizer},
    prompt::{PromptSection, of_rows},
    recipe::{Basics, Recipe, Start},
    rows::{LearnedRow, learned_rows, place_of_learned},
    skipped::SkippedRows,
    supervised::{EncodedRow, SupervisedRows, SupervisedSections},
};

/// The run file of `rlaif sft`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SftFile {
    /// The seed of all random numbers.
    #[serde(default)]
    pub seed: u64,
    /// Device, threads and memory.
    #[serde(default)]
    pub placement: Placement,
    /// The policy.
    pub model: ModelSection,
    /// The rows.
    pub data: DataSection,
    /// Format of the rows.
    #[serde(default)]
    pub columns: ColumnSection,
    /// The text of a prompt.
    #[serde(default)]
    pub prompt: PromptSection,
    /// Steps, evaluations, checkpoints.
    #[serde(default)]
    pub train: FitConfig,
    /// Training of the weights.
    #[serde(default)]
    pub learn: LearnConfig,
}

impl RunFile for SftFile {
    const COMMAND: &'static str = "sft";

    fn locations(&mut self) -> Vec<&mut String> {
        let mut all = self.data.locations();
        all.extend(self.model.locations());
        all
    }
}

impl EncodedRow for SftRow {
    fn tokens(&self) -> usize {
        self.prompt.len() + self.response.len()
    }
}

impl SftFile {
    fn rows(
        &self,
        encoder: &Encoder<'_>,
        seed: Seed,
    ) -> Result<SupervisedRows<'_, SftRow>, RunError> {
        let Self { data, train, learn, prompt, .. } = self;
        let reader = self.columns.reader(data.import);
        let rows = data.split(seed, |path| learned_rows(&reader, path))?;
        let conversations = rows.train.iter().any(LearnedRow::is_conversation);
        let how = prompt.rendering();
        let encode = |records: Vec<LearnedRow>, skipped: &mut SkippedRows| {
            let rows = encoder
                .learned(&records, &how, skipped)
                .map_err(|error| error.placed(|id| place_of_learned(&reader, &data.files(), id)))?;
            let rows = records.into_iter().zip(rows);
            Ok(rows.filter_map(|(record, row)| Some((record, row?))).unzip())
        };
        let sections = SupervisedSections { train, learn };
        let mut rows = sections.encoded(rows, seed, encode)?;
        rows.rendering = Some(of_rows(prompt, conversations));
        Ok(rows)
    }
}

impl Recipe for SftFile {
    const SHOWN: &'static [&'static str] = &["loss", "eval/loss", "time/tokens_per_s"];
    const DATA_PARALLEL: bool = true;

    fn basics(&self) -> Basics<'_> {
        Basics { seed: self.seed, placement: &self.placement, model: &self.model }
    }

    fn check(&self) -> Result<(), RunError> {
        self.prompt.check()?;
        self.model.check_learn(&self.learn)
    }

    fn train(&self, start: Start<'_, Self>) -> Result<(), RunError> {
        let memory = start.memory_of(self.learn.activations)?;
        let mut policy = start.fresh(|| self.model.language_model(start.options))?;
        let tokenizer = tokenizer(&self.model.files()?, policy.spec().vocab_size)?;
        let encoder = Encoder::new(&tokenizer, policy.spec(), self.data.max_tokens);
        let mut rows = self.rows(&encoder, start.seed)?;
        rows.notes.extend(tokenizer.take_notices());
        let mut run =
            rows.learn(start, memory, |steps| SftTrainer::new(&policy, &self.learn, steps))?;
        run.write(&mut policy)
    }
}
