//! Kinder answers, by DPO on preference pairs, without a reward model in training.
//!
//! ```sh
//! cargo run --release --example dpo_preferences                        # built-in model and pairs
//! cargo run --release --example dpo_preferences -- --policy t5 --steps 60
//! cargo run --release --example dpo_preferences -- --pairs hh.jsonl    # HH's rows
//! ```
//!
//! Read it from `run` on, top to bottom: policy, pairs, the reference's log-probabilities,
//! measurement before, DPO, measurement after, report. The run file of `rlaif dpo` does the same
//! with checkpoints and resumption.

use std::error::Error;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use rlaif::core::{PreferencePair, PromptRecord, Sample, Seed};
use rlaif::data::builtin::{self, Part};
use rlaif::data::corpora::Hh;
use rlaif::data::{Fraction, Reader, Remainder, Shuffle, Source};
use rlaif::dpo::{DpoConfig, DpoTrainer, PairOutcome, Reference, RowConfig, TokenPair, pair_rows};
use rlaif::eval::{
    About, Better, Column, CompareOptions, Comparison, Details, Evaluation, Measurement, Metric,
    MetricInfo, Report, RewardMetric, read_curves,
};
use rlaif::lm::generate::{GenerationConfig, Sampling};
use rlaif::lm::{Policy, Prompt};
use rlaif::models::{LanguageModel, LoadOptions, SaveOptions};
use rlaif::rewards::{ClassifierOptions, ClassifierReward, Preset};
use rlaif::tch::Kind;
use rlaif::text::HfTokenizer;
use rlaif::torch::DeviceChoice;
use rlaif::train::{Keep, OptimizerConfig, RunFolder, Terminal};
use rlaif_examples::{exit_code, free_folder, model, respond, samples};

/// Kinder answers, by DPO on preference pairs.
#[derive(Debug, Clone, Parser)]
#[command(args_override_self = true)]
struct Options {
    /// Built-in (llama, t5), a folder, or a hub id.
    #[arg(long, default_value = "llama")]
    policy: String,
    /// A file of HH's rows; without it, the built-in pairs.
    #[arg(long)]
    pairs: Option<PathBuf>,
    /// Optimizer steps.
    #[arg(long, default_value_t = 60)]
    steps: u64,
    /// Pairs per step.
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
    /// Learning rate.
    #[arg(long, default_value_t = 5e-5)]
    lr: f64,
    /// Number of held-out pairs to measure with.
    #[arg(long, default_value_t = 128)]
    eval_pairs: usize,
    /// Seed of all random numbers.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// cpu, cuda, or auto: CUDA if available.
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Folder of the run; by default, the first of runs/preferences-1, -2, .. that does not exist.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    exit_code(run(&Options::parse()))
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    rlaif::torch::init()?;
    let out = options.out.clone().unwrap_or_else(|| free_folder("preferences"));
    let seed = Seed::new(options.seed);
    let device = options.device.resolve()?;
    let load = LoadOptions::new(device, Kind::Float);

    // ── Policy and pairs ───────────────────────────────────────────────────────────────────────
    let base = model(&options.policy)?;
    let tokenizer = HfTokenizer::from_folder(&base)?;
    let policy = LanguageModel::load(&base, load)?;
    let (train, mut held_out) = pairs(options.pairs.as_deref(), seed)?;
    held_out.truncate(options.eval_pairs);
    let limits = RowConfig { max_tokens: Some(256), ..RowConfig::default() };
    let (rows, report) = pair_rows(&train, &tokenizer, policy.spec(), &limits)?;
    let (held_out_rows, _) = pair_rows(&held_out, &tokenizer, policy.spec(), &limits)?;
    let settings = format!("# {options:?}\n");
    let mut folder = RunFolder::create(&out, &settings, Keep { newest: 1, best: None })?;
    folder.say(&format!("{report}; {} held out", held_out_rows.len()))?;

    // ── The reference: the policy as it is now, asked once ─────────────────────────────────────
    let config = DpoConfig {
        microbatch_size: 8,
        optimizer: OptimizerConfig { lr: options.lr, ..OptimizerConfig::default() },
        ..DpoConfig::default()
    };
    let mut trainer = DpoTrainer::new(policy, Reference::Given, config, options.steps)?;
    let cache = out.join("reference");
    let reference = trainer.reference_of_pairs(&rows, Some(&cache))?;
    let of_held_out = trainer.reference_of_pairs(&held_out_rows, Some(&cache))?;

    // ── How it is before ───────────────────────────────────────────────────────────────────────
    let judge =
        ClassifierReward::load(&model("judge")?, load, ClassifierOptions::preset(Preset::Hate))?;
    let toxicity = MetricInfo::new("toxicity", Better::Lower)
        .about("P(hate) of a sampled answer, by a classifier that no training saw")
        .threshold(0.5);
    let metrics: [Box<dyn Metric>; 1] = [Box::new(RewardMetric::new(toxicity, judge))];
    let measure = |name: &str, trainer: &DpoTrainer<LanguageModel>| {
        let samples = answers(trainer.policy(), &tokenizer, &held_out, &held_out_rows, seed)?;
        let mut evaluation = Measurement::of(&metrics).run(About::new(name, seed), samples)?;
        let pairs = trainer.evaluate(&held_out_rows, Some(&of_held_out))?;
        let info = MetricInfo::new("prefers_chosen", Better::Higher)
            .about("share of held-out pairs whose chosen answer has the higher implicit reward");
        // Before training, policy and reference are the same: the difference between two rewards is
        // rounding.
        let prefers = |pair: &PairOutcome| match pair.reward_chosen - pair.reward_rejected {
            tie if tie.abs() < 1e-4 => 0.5,
            difference => f64::from(u8::from(difference > 0.)),
        };
        evaluation.add(Column::new(info, pairs.outcomes.iter().map(prefers)))?;
        let info = MetricInfo::new("likelier_chosen", Better::Higher)
            .about("share of held-out pairs whose chosen answer is the likelier one per token");
        let likelier = pairs.outcomes.iter().map(PairOutcome::likelihood_accuracy);
        evaluation.add(Column::new(info, likelier))?;
        Ok::<_, Box<dyn Error>>((evaluation, pairs))
    };
    let (before, _): (Evaluation, _) = measure(&options.policy, &trainer)?;

    // ── DPO ────────────────────────────────────────────────────────────────────────────────────
    folder.show(Terminal::new(options.steps, 0, ["loss", "rewards/accuracies", "rewards/margins"]));
    let records: Vec<PromptRecord> =
        rows.iter().map(|row| PromptRecord::new(row.id.clone(), "")).collect();
    let mut order = Shuffle::new(&records, seed)?;
    let size = NonZeroUsize::new(options.batch_size).ok_or("--batch-size is at least 1")?;
    for step in 1..=options.steps {
        let places = order.next_batch(size, Remainder::Drop)?;
        let batch: Vec<&TokenPair> = places.iter().map(|&place| &rows[place]).collect();
        let given: Vec<[f32; 2]> = places.iter().map(|&place| reference.rows()[place]).collect();
        let stats = trainer.update_pairs(&batch, Some(&given))?;
        folder.record(step, &stats.metrics())?;
    }

    // ── How it is after, and the report ────────────────────────────────────────────────────────
    let (after, pairs) = measure("after DPO", &trainer)?;
    let accuracy = pairs.accuracy();
    folder.say(&format!(
        "the chosen answer has the higher implicit reward in {:.3} [{:.3}, {:.3}] of the held-out pairs",
        accuracy.value, accuracy.ci95.0, accuracy.ci95.1
    ))?;
    let compare = CompareOptions {
        headline: Some("prefers_chosen".to_owned()),
        seed,
        ..CompareOptions::default()
    };
    let comparison = Comparison::of(&before, &after, &compare)?;
    let training = read_curves(&out.join("metrics.jsonl"))?;
    let details = Details { training, ..Details::default() };
    let report = Report::new("Kinder answers, by DPO", &before, &after, comparison, details)?;
    report.write(&out)?;
    println!("{}", report.to_terminal());
    let files = SaveOptions { source: Some(&base), ..SaveOptions::default() };
    trainer.into_policy().save(&folder.model(), &files)?;
    println!("report: {}", out.join("report.html").display());
    println!("model:  {}", folder.model().display());
    Ok(())
}

type Pairs = Vec<PreferencePair>;

/// Pairs to train on, and dissimilar pairs to measure with.
fn pairs(file: Option<&Path>, seed: Seed) -> Result<(Pairs, Pairs), Box<dyn Error>> {
    let Some(file) = file else {
        let of =
            |part| builtin::dialogues(part).into_records().into_iter().map(|d| d.pair).collect();
        return Ok((of(Part::Train), of(Part::HeldOut)));
    };
    let split = Reader::new(Source::file(file)?).dataset(Hh::default())?.split_by(
        Fraction::new(0.1)?,
        seed,
        |record| record.first_turn().into(),
    )?;
    let of = |part: rlaif::data::Dataset<rlaif::data::corpora::HhRecord>| {
        part.into_records().into_iter().map(|record| record.pair).collect()
    };
    Ok((of(split.train), of(split.held_out)))
}

/// A sampled answer to each held-out prompt.
fn answers(
    policy: &LanguageModel,
    tokenizer: &HfTokenizer,
    pairs: &[PreferencePair],
    rows: &[TokenPair],
    seed: Seed,
) -> Result<Vec<Sample>, Box<dyn Error>> {
    let config = GenerationConfig {
        max_new_tokens: 40,
        sampling: Sampling::at(1.),
        ..GenerationConfig::default()
    };
    let text = |id: &str| pairs.iter().find(|pair| pair.id == id).map_or("", |pair| &pair.prompt);
    let prompt = |row: &TokenPair| {
        Prompt::new(PromptRecord::new(row.id.clone(), text(&row.id)), row.prompt.clone())
    };
    let prompts: Vec<Prompt> = rows.iter().map(prompt).collect();
    let answers = respond(policy, &prompts, &config, seed, tokenizer)?;
    Ok(samples(&prompts, &answers))
}
