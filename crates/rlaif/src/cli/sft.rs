//! `rlaif sft`: supervised fine-tuning.

use clap::Args;
use rlaif_core::{Conversation, Demonstration, Record, Seed};
use rlaif_data::corpora::{ConversationColumns, Corpus, DemonstrationColumns};
use rlaif_lm::Policy;
use rlaif_models::MemoryPlan;
use rlaif_torch::seeded;
use rlaif_train::{FitConfig, Goal, LearnConfig, SftRow, SftTrainer, SupervisedTask};
use serde::{Deserialize, Serialize};

use super::{
    error::CliError,
    model,
    run_arguments::{
        OngoingRun, RunArguments, Shown, about, in_learn, interrupt, present, total_steps,
    },
};
use crate::run::{
    ColumnSection, DataFormat, DataRows, DataSection, Encoder, Left, ModelSection, Placement,
    RunError, RunFile, ShuffledBatches, TextColumn, TextRecord, Weights, kept_activations, longest,
    rows_of_pass,
};

#[derive(Debug, Args)]
pub(crate) struct Sft {
    #[command(flatten)]
    run: RunArguments,
}

/// The run file of `rlaif sft`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SftRun {
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    placement: Placement,
    model: ModelSection,
    data: DataSection,
    #[serde(default)]
    columns: ColumnSection,
    #[serde(default)]
    train: FitConfig,
    #[serde(default)]
    learn: LearnConfig,
}

impl RunFile for SftRun {
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
    left: Left,
}

impl SftRun {
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
        encode: impl Fn(&[C::Record]) -> Result<(Vec<Option<SftRow>>, Left), RunError>,
        seed: Seed,
    ) -> Result<Prepared, RunError>
    where
        C::Record: Record,
    {
        let DataRows { train, held_out, mut left } = self.data.read(corpus, seed)?;
        let encode = |rows: &[C::Record]| {
            encode(rows).map_err(|error| error.placed(|id| self.data.place(corpus, id)))
        };
        let (rows, of_encoding) = encode(&train)?;
        left.add(of_encoding);
        let (records, train) = present(train, rows);
        let (held_out, _) = encode(&held_out)?;
        total_steps(&self.train, train.len())?;
        let batches = ShuffledBatches::new(&records, self.train.batch_size, seed)?;
        Ok(Prepared { train, held_out: held_out.into_iter().flatten().collect(), batches, left })
    }
}

impl Sft {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let open = self.run.open::<SftRun>()?;
        let config = &open.config;
        config.model.check_learn(&config.learn)?;
        let interrupt = interrupt()?;
        let seed = Seed::new(config.seed);
        let options = config.placement.options(config.model.precision)?;
        let memory = MemoryPlan {
            activations: kept_activations(config.learn.recompute),
            ..config.model.memory(options)?
        };
        config.placement.check_memory(&memory, Weights::NotLoaded)?;
        let mut policy =
            seeded(seed.for_libtorch("init"), || config.model.language_model(options))??;
        let tokenizer = model::tokenizer(&config.model.folder()?, policy.spec().vocab_size)?;
        let encoder = Encoder::new(&tokenizer, policy.spec(), config.data.max_tokens);
        let Prepared { train, held_out, mut batches, left } = config.prepare(&encoder, seed)?;

        let total_steps = total_steps(&config.train, train.len())?;
        let memory = MemoryPlan {
            microbatch: rows_of_pass(
                config.learn.microbatch,
                config.train.batch_size.min(train.len()),
            ),
            tokens: longest(train.iter().map(|row| row.prompt.len() + row.response.len())),
            ..memory
        };
        config.placement.check_memory(&memory, Weights::Loaded)?;
        let trainer = SftTrainer::new(&policy, &config.learn, total_steps).map_err(in_learn)?;
        let about = about(train.len(), &left, held_out.len(), total_steps);
        let shown = Shown { total_steps, metrics: &["loss", "eval/loss", "time/tokens_per_s"] };
        let mut run =
            OngoingRun::begin(&open, interrupt, config.train.keep(Goal::Lowest), &about, &shown)?;
        let mut task = SupervisedTask::new(trainer, train, held_out);
        run.fit(&mut task, &mut batches, &config.train, total_steps, seed)?;
        task.finish();
        run.write(&mut policy, &config.model)
    }
}
