//! `rlaif sft`: supervised fine-tuning.

use rlaif_core::{Conversation, Demonstration, Record, Seed};
use rlaif_data::corpora::{ConversationColumns, Corpus, DemonstrationColumns};
use rlaif_lm::Policy;
use rlaif_models::MemoryPlan;
use rlaif_train::{FitConfig, LearnConfig, SftRow, SftTrainer, SupervisedTask};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    columns::{ColumnSection, DataFormat, TextColumn, TextRecord},
    data::{DataRows, DataSection, ShuffledBatches},
    encode::Encoder,
    error::RunError,
    file::RunFile,
    memory::{Weights, longest, rows_of_pass},
    model::{ModelSection, Placement, tokenizer},
    recipe::{Outline, Recipe, Start, about, in_learn, present, total_steps},
    skipped::SkippedRows,
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
    /// Contents of rows.
    #[serde(default)]
    pub columns: ColumnSection,
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
        all.push(&mut self.model.path);
        all
    }
}

/// Rows ready to be learned from, and the order of the training rows.
struct Prepared {
    train: Vec<SftRow>,
    held_out: Vec<SftRow>,
    batches: ShuffledBatches,
    skipped: SkippedRows,
}

impl SftFile {
    fn prepare(&self, encoder: &Encoder<'_>, seed: Seed) -> Result<Prepared, RunError> {
        let columns = &self.columns;
        match columns.format {
            DataFormat::Demonstrations => {
                let (prompt, response) = (columns.prompt.clone(), columns.response.clone());
                let corpus = DemonstrationColumns { id: None, prompt, response };
                let encode = |rows: &[Demonstration]| encoder.demonstrations(rows);
                self.encoded(&corpus, encode, seed)
            }
            DataFormat::Conversations => {
                let corpus = ConversationColumns { id: None, messages: columns.messages.clone() };
                let encode = |rows: &[Conversation]| encoder.conversations(rows);
                self.encoded(&corpus, encode, seed)
            }
            DataFormat::Texts => {
                let encode = |rows: &[TextRecord]| {
                    encoder.texts(&rows.iter().map(|row| row.text.as_str()).collect::<Vec<_>>())
                };
                self.encoded(&TextColumn::new(&columns.text), encode, seed)
            }
        }
    }

    fn encoded<C: Corpus + Clone>(
        &self,
        corpus: &C,
        encode: impl Fn(&[C::Record]) -> Result<(Vec<Option<SftRow>>, SkippedRows), RunError>,
        seed: Seed,
    ) -> Result<Prepared, RunError>
    where
        C::Record: Record,
    {
        let DataRows { train, held_out, mut skipped } = self.data.read(corpus, seed)?;
        let encode = |rows: &[C::Record]| {
            encode(rows).map_err(|error| error.placed(|id| self.data.place(corpus, id)))
        };
        let (rows, of_encoding) = encode(&train)?;
        skipped.add(of_encoding);
        let (records, train) = present(train, rows);
        let (held_out, _) = encode(&held_out)?;
        total_steps(&self.train, train.len())?;
        let batches = ShuffledBatches::new(&records, self.train.batch_size, seed)?;
        Ok(Prepared { train, held_out: held_out.into_iter().flatten().collect(), batches, skipped })
    }
}

impl Recipe for SftFile {
    const SHOWN: &'static [&'static str] = &["loss", "eval/loss", "time/tokens_per_s"];

    fn seed(&self) -> Seed {
        Seed::new(self.seed)
    }

    fn placement(&self) -> &Placement {
        &self.placement
    }

    fn model(&self) -> &ModelSection {
        &self.model
    }

    fn check(&self) -> Result<(), RunError> {
        self.model.check_learn(&self.learn)
    }

    fn train(&self, start: Start<'_, Self>) -> Result<(), RunError> {
        let memory = start.memory_of(self.learn.activations)?;
        let mut policy = start.fresh(|| self.model.language_model(start.options))?;
        let tokenizer = tokenizer(&self.model.folder()?, policy.spec().vocab_size)?;
        let encoder = Encoder::new(&tokenizer, policy.spec(), self.data.max_tokens);
        let Prepared { train, held_out, mut batches, skipped } =
            self.prepare(&encoder, start.seed)?;
        let total_steps = total_steps(&self.train, train.len())?;
        let rows = rows_of_pass(self.learn.microbatch_size, self.train.batch_size.min(train.len()));
        let tokens = longest(train.iter().map(|row| row.prompt.len() + row.response.len()));
        let memory = MemoryPlan { microbatch: rows, tokens, ..memory };
        self.placement.check_memory(&memory, Weights::Loaded)?;
        let trainer = SftTrainer::new(&policy, &self.learn, total_steps).map_err(in_learn)?;
        let about = about(train.len(), &skipped, held_out.len(), total_steps);
        let mut run = start.begin(&Outline { about, fit: &self.train, total_steps })?;
        let mut task = SupervisedTask::new(trainer, train, held_out);
        run.drive(&mut task, &mut batches)?;
        task.finish();
        run.write(&mut policy)
    }
}
