//! Trains the four built-in models: two summarisers and two toxicity classifiers.
//!
//! ```sh
//! cargo run --release --example train_builtin_models -- --model t5 --data ../shared/data --steps 4812 --batch-size 128 --out FOLDER
//! ```
//!
//! Everything else in this project needs only the models themselves, which are included.
//! `speech.rs` and `summary.rs` write the training summaries, `vocabulary.rs` makes the tokenizers,
//! `policy.rs` and `classifier.rs` train, `fit.rs` has their common loop.

mod classifier;
mod corpora;
mod feed;
mod fit;
mod measure;
mod policy;
mod speech;
mod summary;
mod vocabulary;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use rlaif::core::Seed;
use rlaif::models::{Classifier, LanguageModel, LoadOptions, ModelCard, SaveOptions};
use rlaif::tch::{Device, Kind};
use rlaif::text::HfTokenizer;
use rlaif::torch::{DeviceChoice, Tf32, seeded};
use rlaif_examples::exit_code;

use classifier::Role;
use corpora::Corpora;
use fit::Budget;
use policy::Architecture;

/// Trains one of the built-in models.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Arguments {
    /// The model.
    #[arg(long, value_enum)]
    model: Model,
    /// The folder with hh/, tox/, summ/ and pretrain/.
    #[arg(long)]
    data: PathBuf,
    /// The output folder.
    #[arg(long)]
    out: PathBuf,
    /// Optimizer steps; for a classifier, those of masked-language-model training.
    #[arg(long, conflicts_with = "minutes", required_unless_present = "minutes")]
    steps: Option<u64>,
    /// Time limit of the steps in minutes, instead of their number; the number that fits is
    /// printed.
    #[arg(long)]
    minutes: Option<f64>,
    /// Rows per batch.
    #[arg(long, default_value_t = 128)]
    batch_size: usize,
    /// cpu, cuda or auto.
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Seed of all random numbers.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Arguments {
    /// The command that repeats this run, for the model card.
    fn command(&self, steps: u64) -> String {
        let model = self.model.to_possible_value();
        let model = model.as_ref().map_or("", |value| value.get_name());
        format!(
            "```sh\ncargo run --release --example train_builtin_models -- --model {model} --data ../shared/data \\\n    \
             --steps {steps} --batch-size {} --seed {} --out FOLDER\n```\n\nin f32 (TensorFloat-32 on a GPU), rounded to bf16 \
             afterwards; the numbers above are of the rounded weights.",
            self.batch_size, self.seed,
        )
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Model {
    /// The summariser with an encoder and a decoder.
    T5,
    /// The summariser with a chat template.
    Llama,
    /// The RoBERTa that rewards.
    Reward,
    /// The BERT that judges.
    Judge,
}

/// Size of each vocabulary.
const VOCABULARY: usize = 6100;

fn main() -> ExitCode {
    exit_code(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    rlaif::torch::init()?;
    rlaif::torch::set_tf32(Tf32::On)?;
    let device = arguments.device.resolve()?;
    let start = Instant::now();
    let corpora = Arc::new(Corpora::read(&arguments.data)?);
    let seed = Seed::new(arguments.seed);
    let budget = match (arguments.steps, arguments.minutes) {
        (Some(steps), _) => Budget::Steps(steps),
        (None, minutes) => Budget::Time(Duration::from_secs_f64(60. * minutes.unwrap_or(25.))),
    };

    let files = tempfile::tempdir()?;
    let texts = vocabulary_texts(&corpora, arguments.model, seed);
    let sort = match arguments.model {
        Model::T5 => Architecture::T5.sort(),
        Model::Llama => Architecture::Llama.sort(),
        Model::Reward => Role::Reward.sort(),
        Model::Judge => Role::Judge.sort(),
    };
    sort.train(&texts, VOCABULARY, files.path()).map_err(|error| error.to_string())?;
    println!("data and tokenizer: {:.0} s", start.elapsed().as_secs_f64());

    // Trained in f32, stored in bf16: half the size. Measurements use the stored model.
    let rounded = LoadOptions::new(device, Kind::BFloat16);
    let trained = tempfile::tempdir()?;
    let place = trained.path().join("f32");
    let plain = SaveOptions::default();
    let mut card = ModelCard {
        license: Some("cc-by-sa-4.0".to_owned()),
        library_name: Some("transformers".to_owned()),
        tags: vec!["rlaif".to_owned()],
        ..ModelCard::default()
    };
    match arguments.model {
        Model::T5 | Model::Llama => {
            let architecture =
                if arguments.model == Model::T5 { Architecture::T5 } else { Architecture::Llama };
            let corpora = Arc::clone(&corpora);
            let (model, steps) = seeded(seed.for_libtorch("weights"), || {
                let (files, size) = (files.path(), arguments.batch_size);
                policy::train(architecture, corpora, files, seed, device, budget, size)
            })??;
            model.save(&place, &plain)?;
            drop(model);
            let model = LanguageModel::load(&place, rounded)?;
            let in_f32 = as_f32(&model, trained.path(), device)?;
            let measured = measure::summaries(&in_f32, architecture, files.path(), seed)?;
            println!("{measured}");
            measure::describe_policy(&mut card, architecture, &arguments.command(steps), &measured);
            fs::write(files.path().join("generation_config.json"), architecture.generation())?;
            let options = SaveOptions { source: Some(files.path()), card: Some(&card), ..plain };
            model.save(&arguments.out, &options)?;
        }
        Model::Reward | Model::Judge => {
            let role = if arguments.model == Model::Reward { Role::Reward } else { Role::Judge };
            let trained = seeded(seed.for_libtorch("weights"), || {
                let (files, size) = (files.path(), arguments.batch_size);
                classifier::train(role, &corpora, files, seed, device, budget, size)
            })??;
            trained.model.save(&place, &plain)?;
            let model = Classifier::load(&place, rounded)?;
            let tokenizer = HfTokenizer::from_folder(files.path())?;
            let measured = measure::toxicity(&model, &tokenizer, &corpora, seed)?;
            println!("{measured}");
            let command = arguments.command(trained.steps.0);
            measure::describe_classifier(&mut card, role, &command, &measured);
            let options = SaveOptions { source: Some(files.path()), card: Some(&card), ..plain };
            model.save(&arguments.out, &options)?;
        }
    }
    println!("{} in {:.0} s", arguments.out.display(), start.elapsed().as_secs_f64());
    Ok(())
}

/// The bf16 weights as f32, the start of PPO.
fn as_f32(
    model: &LanguageModel,
    folder: &Path,
    device: Device,
) -> Result<LanguageModel, Box<dyn Error>> {
    let place = folder.join("bf16");
    model.save(&place, &SaveOptions::default())?;
    Ok(LanguageModel::load(&place, LoadOptions::new(device, Kind::Float))?)
}

/// The texts that the vocabulary is built from: those that the model has to read and to write.
fn vocabulary_texts(corpora: &Corpora, model: Model, seed: Seed) -> Vec<String> {
    let seed = seed.derive("vocabulary", 0);
    let pairs = (0..20_000).map(|n| summary::pair(corpora, seed, n));
    match model {
        Model::T5 | Model::Llama => pairs.flat_map(|pair| [pair.dialogue, pair.summary]).collect(),
        Model::Reward | Model::Judge => {
            let labelled = corpora.toxicity.iter().map(|row| row.text.clone());
            labelled.chain(pairs.map(|pair| pair.summary)).collect()
        }
    }
}
