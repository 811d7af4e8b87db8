//! `rlaif sft`: supervised fine-tuning.

use rlaif_core::{Conversation, Demonstration, Record, Seed};
use rlaif_data::corpora::{ConversationColumns, Corpus, DemonstrationColumns};
use rlaif_lm::Policy;
use rlaif_train::{FitConfig, LearnConfig, SftRow, SftTrainer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    columns::{ColumnSection, DataFormat, TextColumn, TextRecord},
    data::DataSection,
    encode::Encoder,
    error::RunError,
    file::RunFile,
    model::{ModelSection, Placement, tokenizer},
    recipe::{Basics, Recipe, Start},
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
    ) -> Result<SupervisedRows<'_, SftRow>, RunError>
    where
        C::Record: Record,
    {
        let Self { data, train, learn, .. } = self;
        SupervisedSections { data, train, learn }.read(corpus, seed, |records, skipped| {
            let (rows, of_encoding) =
                encode(&records).map_err(|error| error.placed(|id| data.place(corpus, id)))?;
            skipped.add(of_encoding);
            let rows = records.into_iter().zip(rows);
            Ok(rows.filter_map(|(record, row)| Some((record, row?))).unzip())
        })
    }
}

impl Recipe for SftFile {
    const SHOWN: &'static [&'static str] = &["loss", "eval/loss", "time/tokens_per_s"];

    fn basics(&self) -> Basics<'_> {
        Basics { seed: self.seed, placement: &self.placement, model: &self.model }
    }

    fn check(&self) -> Result<(), RunError> {
        self.model.check_learn(&self.learn)
    }

    fn train(&self, start: Start<'_, Self>) -> Result<(), RunError> {
        let memory = start.memory_of(self.learn.activations)?;
        let mut policy = start.fresh(|| self.model.language_model(start.options))?;
        let tokenizer = tokenizer(&self.model.files()?, policy.spec().vocab_size)?;
        let encoder = Encoder::new(&tokenizer, policy.spec(), self.data.max_tokens);
        let rows = self.rows(&encoder, start.seed)?;
        let mut run =
            rows.learn(start, memory, |steps| SftTrainer::new(&policy, &self.learn, steps))?;
        run.write(&mut policy)
    }
}
