//! Less toxic summaries of dialogues, by PPO against a toxicity classifier: the whole pipeline.
//!
//! ```sh
//! cargo run --release --example hh_toxicity                         # built-in models, minutes on a laptop
//! cargo run --release --example hh_toxicity -- --policy llama
//! cargo run --release --example hh_toxicity -- --policy google/flan-t5-base --dataset Anthropic/hh-rlhf \
//!     --reward facebook/roberta-hate-speech-dynabench-r4-target --device cuda
//! cargo run --release --example hh_toxicity -- --out runs/toxicity-1 --resume
//! ```
//!
//! Read it from `run` on: prepare, train, report. The flags are at the end.

use std::error::Error;
use std::fs;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, builder::ArgPredicate};
use rlaif::core::{RewardModel, Seed, TextCodec};
use rlaif::data::{PromptBuilder, PromptForm, PromptTemplate};
use rlaif::eval::text::{LengthMetric, LengthUnit, Rouge, RougeKind, Stemming};
use rlaif::eval::{self, Better, Evaluation, Metric, MetricInfo, Report, RewardMetric};
use rlaif::lm::generate::{GenerationConfig, Sampling};
use rlaif::lm::{Joiner, Policy, Reference, ValueHead, ValueInit};
use rlaif::models::{HeldModel, LanguageModel, LoadOptions, Lora, MemoryPlan, PolicySetup};
use rlaif::ppo::{MetricStop, MissingScore, PpoConfig, PpoTask, PpoTrainer, Prompt};
use rlaif::rewards::{
    ClassifierOptions, ClassifierReward, Input, Mean, Output, Preset, RewardConfig,
};
use rlaif::run::ShuffledBatches;
use rlaif::tch::Kind;
use rlaif::text::HfTokenizer;
use rlaif::torch::{DeviceChoice, seeded};
use rlaif::train::{self, Ending, FitConfig, FitPlan, KlControl, Precision, RunFolder};
use rlaif_examples::{
    dialogues, exit_code, free_folder, kl, model, respond, samples, ten_examples,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn ensure(holds: bool, fault: impl FnOnce() -> String) -> Outcome<()> {
    if holds { Ok(()) } else { Err(fault().into()) }
}

/// The metric of each step that is P(hate), from the logits with which the first classifier rewards;
/// a judge alone has none.
const TOXICITY: &str = "env/reward/classifier/toxicity";

fn main() -> ExitCode {
    exit_code(run(Options::parse()))
}

fn run(options: Options) -> Outcome<()> {
    rlaif::torch::init()?;
    let keep = train::Keep { newest: 2, best: None };
    let out = options.out.clone().unwrap_or_else(|| free_folder("toxicity"));
    let resumed = options.resume.then(|| RunFolder::resume(&out, keep)).transpose()?;
    let options: Options = match resumed {
        Some(_) => toml::from_str(&fs::read_to_string(out.join("run.toml"))?)?,
        None => options,
    };
    options.check()?;

    let (mut prepared, trainer) = prepare(&options)?;
    // All invalid and missing input has been refused by now, so no folder is left behind.
    let (mut folder, saved) = match resumed {
        Some(resumed) => resumed,
        None => (RunFolder::create(&out, &toml::to_string(&options)?, keep)?, None),
    };
    prepared.about.iter().try_for_each(|line| folder.say(line))?;
    let policy = trainer.policy();
    prepared.complete_references(policy)?;
    let before = prepared.measure(&options.policy, policy, &Reference::Given)?;
    let toxicity = before.column("toxicity")?.values.iter().flatten().sum::<f64>();
    folder.say(&format!("toxicity before: {:.3}", toxicity / before.samples().len() as f64))?;

    let Some(policy) = train(&options, &prepared, trainer, &mut folder, saved.as_ref())? else {
        return Ok(folder.say(&format!("stopped; continue with --out {} --resume", out.display()))?);
    };
    report(&options, &prepared, &before, policy, &folder)
}

/// Everything but the policy.
struct Prepared {
    /// A description of the run, for the log.
    about: [String; 2],
    seed: Seed,
    setup: PolicySetup,
    tokenizer: HfTokenizer,
    prompts: Vec<Prompt>,
    /// Prompts to measure with, and the sampling of responses to them.
    held_out: Vec<Prompt>,
    sampling: GenerationConfig,
    reward: Mean,
    metrics: [Box<dyn Metric>; 5],
}

fn prepare(options: &Options) -> Outcome<(Prepared, PpoTrainer<LanguageModel>)> {
    let (seed, ppo, kind) = (Seed::new(options.seed), options.ppo(), options.dtype.kind());
    let device = options.device.parse::<DeviceChoice>()?.resolve()?;
    let [load, in_f32] = [kind, Kind::Float].map(|kind| LoadOptions::new(device, kind));

    // Dialogues, and the instruction to summarise them.
    let base = model(&options.policy)?;
    let tokenizer = HfTokenizer::from_folder(&base)?;
    let chat = |_| PromptForm::Chat { system: None };
    let form = tokenizer.chat_templates().next().map_or(PromptForm::Plain, chat);
    let builder = PromptBuilder::new(PromptTemplate::summarise())
        .form(form)
        .limit(const { NonZeroUsize::new(512).expect("it is not 0") });
    let (train, held_out) = dialogues(&options.dataset, &builder, &tokenizer)?;
    let (train, held_out) =
        (train.into_records(), held_out.take(options.eval_prompts).into_records());
    ensure(train.len() >= options.batch_size, || {
        let has = format!("{} has only {} dialogues to train on", options.dataset, train.len());
        format!("--batch-size is {}, and {has}", options.batch_size)
    })?;
    ensure(held_out.len() > 1, || {
        let why = "cannot be compared on; take at least 2 (--eval-prompts, --dataset)";
        format!("{} held-out dialogues {why}", held_out.len())
    })?;
    let texts: Vec<_> = train.iter().chain(&held_out).map(|record| &*record.prompt).collect();

    // Memory; policy, reference, value head.
    let encoded = tokenizer.encode_batch(&texts, builder.specials())?;
    let rewards = options.reward.iter().map(|name| model(name)).collect::<Result<Vec<_>, _>>()?;
    let first = rewards.first().cloned().map_or_else(|| model("roberta"), Ok)?;
    let judge = model("judge")?;
    let held = rewards.iter().skip(1).chain([&first, &judge]);
    let new = |rank| Lora { base: Some(options.policy.clone()), ..Lora::new("toxicity", rank) };
    let setup = PolicySetup { lora: options.lora.map(new), ..PolicySetup::new(base, load) };
    let needed = MemoryPlan {
        rewards: held.map(|folder| HeldModel::new(folder).in_kind(Kind::Float)).collect(),
        microbatch_size: ppo.microbatch(),
        batch_size: ppo.generation.batch_size.max(ppo.batch_size),
        tokens: encoded.iter().map(Vec::len).max().unwrap_or(0) + ppo.generation.max_new_tokens,
        ..setup.memory()
    }
    .check()?;
    let (policy, reference, value) = seeded(seed.for_libtorch("weights"), || {
        let (policy, reference) = setup.load()?;
        let value = ValueHead::new(policy.spec().hidden_size, ValueInit::PyTorch, device);
        Ok::<_, rlaif::models::ModelError>((policy, reference, value))
    })??;
    let sampling = ppo.generation.clone();
    let trainer = PpoTrainer::new(policy, value, reference, ppo)?;
    let joiner = Joiner::new(&tokenizer, trainer.policy().spec());
    let prompts = Prompt::of_records(train, &joiner)?;
    let held_out = Prompt::of_records(held_out, &joiner)?;

    // The reward: the mean of the requested classifiers and of the judge.
    let toxicity = ClassifierReward::load(&first, in_f32, ClassifierOptions::preset(Preset::Hate))?;
    // By name, never by position: the order of the labels depends on the model.
    let not_hate = ClassifierOptions::preset(Preset::NotHate).input(match options.blog {
        true => Input::PromptAndResponse,
        false => Input::Response,
    });
    let named = not_hate.clone().name("classifier").report("toxicity", "hate", Output::Probability);
    let mut all: Vec<Box<dyn RewardModel>> = Vec::new();
    for folder in &rewards {
        all.push(Box::new(match all.is_empty() {
            true => toxicity.with(named.clone())?,
            false => ClassifierReward::load(folder, in_f32, not_hate.clone())?,
        }));
    }
    if let Some(file) = &options.judge {
        let (config, beside) = RewardConfig::from_file(file)?;
        all.push(rlaif::rewards_from_config(&config, &beside, device)?);
    }
    let reward = Mean::of("mean", all).ok_or("no reward: name one by --reward or --judge")?;

    // The reported metric: P(hate) of the response, by the rewarding classifier and by another one.
    let judge = ClassifierReward::load(&judge, in_f32, ClassifierOptions::preset(Preset::Hate))?;
    let metric = |name: &str, about: &str, classifier| {
        let info = MetricInfo::new(name, Better::Lower).about(about).threshold(0.5);
        Box::new(RewardMetric::new(info, classifier))
    };
    let metrics: [Box<dyn Metric>; 5] = [
        metric("toxicity", "P(hate), by the classifier that rewards", toxicity),
        metric("toxicity_judge", "P(hate), by a classifier not trained on", judge),
        Box::new(Rouge::new(RougeKind::N(1), Stemming::Porter)?),
        Box::new(Rouge::new(RougeKind::L, Stemming::Porter)?),
        Box::new(LengthMetric::new(LengthUnit::Words)),
    ];
    let about = [
        format!("{} on {device:?}: {needed}", options.policy),
        format!("{} dialogues to train on, {} held out", prompts.len(), held_out.len()),
    ];
    let prepared =
        Prepared { about, seed, setup, tokenizer, prompts, held_out, sampling, reward, metrics };
    Ok((prepared, trainer))
}

/// Runs PPO, from its beginning or from a checkpoint; returns the policy, or `None` if it was
/// interrupted.
fn train(
    options: &Options,
    prepared: &Prepared,
    trainer: PpoTrainer<LanguageModel>,
    folder: &mut RunFolder,
    saved: Option<&train::Saved>,
) -> Outcome<Option<LanguageModel>> {
    let Prepared { prompts, tokenizer, reward, seed, .. } = prepared;
    let mut batches = ShuffledBatches::new(prompts, options.batch_size, *seed)?.whole()?;
    let shown = [TOXICITY, "ppo/mean_scores", "objective/kl", "tokens/responses_len_mean"];
    folder.show(train::Terminal::new(options.steps, saved.map_or(0, train::Saved::step), shown));
    let config = FitConfig { checkpoint_every: 10, ..FitConfig::default() };
    let interrupt = &train::Interrupt::install()?;
    let plan = FitPlan { config: &config, total_steps: options.steps, seed: *seed, interrupt };
    let mut task = PpoTask::new(trainer, prompts, tokenizer, reward).samples(2);
    Ok(match train::drive(&mut task, &mut batches, folder, saved, &plan)? {
        Ending::Finished | Ending::Stopped => Some(task.into_trainer().into_policy()),
        Ending::Interrupted => None,
    })
}

impl Prepared {
    /// Uses the policy's own greedy summaries as references if there are no human-written ones.
    fn complete_references(&mut self, policy: &LanguageModel) -> Outcome<()> {
        if self.held_out.iter().all(|prompt| prompt.record.reference.is_some()) {
            return Ok(());
        }
        let greedy = GenerationConfig { sampling: Sampling::Greedy, ..self.sampling.clone() };
        let surest = respond(policy, &self.held_out, &greedy, self.seed, &self.tokenizer)?;
        for (prompt, response) in self.held_out.iter_mut().zip(surest) {
            Arc::make_mut(&mut prompt.record).reference = Some(response.text);
        }
        Ok(())
    }

    /// Samples a response to each held-out prompt, and measures them.
    fn measure(&self, name: &str, policy: &LanguageModel, base: &Reference) -> Outcome<Evaluation> {
        let responses =
            respond(policy, &self.held_out, &self.sampling, self.seed, &self.tokenizer)?;
        let kl = kl(policy, base, &self.held_out, &responses)?;
        let about = eval::About::new(name, self.seed);
        let samples = samples(&self.held_out, &responses);
        let mut evaluation = eval::Measurement::of(&self.metrics).run(about, samples)?;
        let info =
            MetricInfo::new("kl", Better::Neither).about("nats from the reference, per response");
        evaluation.add(eval::Column::new(info, kl))?;
        Ok(evaluation)
    }
}

/// Measures the policy after training and compares it with the measurement before; saves the model.
fn report(
    options: &Options,
    prepared: &Prepared,
    before: &Evaluation,
    mut policy: LanguageModel,
    folder: &RunFolder,
) -> Outcome<()> {
    let reference = prepared.setup.reference_of(policy.parameters())?;
    let after = prepared.measure("after PPO", &policy, &reference)?;
    let compare = eval::CompareOptions {
        headline: Some("toxicity".to_owned()),
        seed: prepared.seed,
        reward_and_judge: Some(("toxicity".to_owned(), "toxicity_judge".to_owned())),
        ..eval::CompareOptions::default()
    };
    let comparison = eval::Comparison::of(before, &after, &compare)?;
    let out = folder.path();
    let details = eval::Details {
        training: eval::read_curves(&out.join("metrics.jsonl"))?,
        findings: Some(eval::read_findings(&out.join("findings.json"))?),
        configuration: serde_json::from_value(json!({"options": options, "ppo": options.ppo()}))?,
        ..eval::Details::default()
    };
    let report = Report::new("Less toxic summaries, by PPO", before, &after, comparison, details)?;
    report.write(out)?;
    prepared.setup.save(&mut policy, &folder.model())?;
    // Printing to a closed pipe ends the process: the model is saved by now.
    println!("{}\n{}", report.to_terminal(), ten_examples(&report));
    let (page, model) = (out.join("report.html"), folder.model());
    println!("report: {}\nmodel:  {}", page.display(), model.display());
    Ok(())
}

/// Less toxic summaries of dialogues, by PPO against a toxicity classifier.
#[derive(Debug, Clone, Parser, Serialize, Deserialize)]
#[command(args_override_self = true)]
struct Options {
    /// Built-in (t5, llama), a folder, or a hub id such as google/flan-t5-base.
    #[arg(long, default_value = "t5", default_value_if("blog", "true", "google/flan-t5-base"))]
    policy: String,
    /// Built-in (roberta), a folder, or a hub id; several are averaged. By default, without
    /// --judge, the built-in one.
    #[arg(long, default_value = "roberta", default_value_ifs = [
        ("judge", ArgPredicate::IsPresent, None),
        ("blog", "true".into(), Some("facebook/roberta-hate-speech-dynabench-r4-target")),
    ])]
    reward: Vec<String>,
    /// A judge behind an API, as a TOML file (docs/rewards.md), beside --reward or instead of it.
    #[arg(long)]
    judge: Option<PathBuf>,
    /// Built-in (builtin), a file of HH's rows, or a hub id such as Anthropic/hh-rlhf.
    #[arg(long, default_value = "builtin", default_value_if("blog", "true", "Anthropic/hh-rlhf"))]
    dataset: String,
    /// PPO steps.
    #[arg(long, default_value = "40", default_value_if("blog", "true", "10"))]
    steps: u64,
    /// Stops once the mean toxicity over five steps is at most this value.
    #[arg(long)]
    until_toxicity: Option<f64>,
    /// Prompts per step.
    #[arg(long, default_value = "32", default_value_if("blog", "true", "16"))]
    batch_size: usize,
    /// Learning rate; by default 1e-4 for built-in policies and 1.41e-5 for others.
    #[arg(long, default_value_if("blog", "true", "1.41e-5"))]
    lr: Option<f64>,
    /// Coefficient of the KL penalty against the reference policy, per nat.
    #[arg(long, default_value = "0.05", default_value_if("blog", "true", "0.2"))]
    kl_coef: f64,
    /// Maximum length of a response, in tokens.
    #[arg(long, default_value = "64", default_value_if("blog", "true", "300"))]
    max_new_tokens: usize,
    /// Number of held-out prompts to measure with.
    #[arg(long, default_value_t = 256)]
    eval_prompts: usize,
    /// Trains a LoRA adapter of this rank instead of all weights.
    #[arg(long)]
    lora: Option<NonZeroU32>,
    /// Seed of all random numbers.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// cpu, cuda, or auto: CUDA if available.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Dtype of the policy's weights: f32 or bf16.
    #[arg(long, default_value = "f32")]
    dtype: Precision,
    /// The settings of the published pipeline: one epoch in minibatches of 4, adaptive KL, prompt
    /// and response scored together; and, by default, 10 steps of 16 prompts, learning rate
    /// 1.41e-5, up to 300 tokens, and its models and data.
    #[arg(long)]
    blog: bool,
    /// Folder of the run; by default, the first of runs/toxicity-1, -2, .. that does not exist.
    #[arg(long)]
    #[serde(skip)]
    out: Option<PathBuf>,
    /// Continues the run in --out, with its settings.
    #[arg(long, requires = "out")]
    #[serde(skip)]
    resume: bool,
}

impl Options {
    /// Refuses impossible settings, before anything is loaded.
    fn check(&self) -> Outcome<()> {
        self.ppo().check()?;
        let bound = self.until_toxicity.unwrap_or(0.);
        ensure((0. ..=1.).contains(&bound), || {
            format!("--until-toxicity is {bound}; it is a probability")
        })?;
        ensure(self.until_toxicity.is_none() || !self.reward.is_empty(), || {
            "--until-toxicity: a judge alone tells no toxicity; add a classifier by --reward".into()
        })?;
        ensure(self.reward.iter().all(|name| name != "judge"), || {
            let why = "it measures without having been trained on; reward with another (roberta)";
            format!("--reward is judge, the independent classifier: {why}")
        })
    }

    /// The section `[ppo]` of a run file.
    fn ppo(&self) -> PpoConfig {
        let Self { steps, batch_size, seed, .. } = *self;
        let mut ppo = PpoConfig { steps, batch_size, seed: Seed::new(seed), ..Default::default() };
        ppo.minibatch_size = batch_size / if batch_size.is_multiple_of(2) { 2 } else { 1 };
        ppo.epochs = 2;
        (ppo.generation.max_new_tokens, ppo.generation.batch_size) = (self.max_new_tokens, 64);
        ppo.generation.sampling = Sampling::at(1.);
        ppo.kl.control = KlControl::Fixed { coef: self.kl_coef };
        let built_in = matches!(self.policy.as_str(), "t5" | "llama");
        ppo.optimizer.lr = self.lr.unwrap_or(if built_in { 1e-4 } else { 1.41e-5 });
        ppo.optimizer.value_head_lr = Some(1e-3);
        // A judge that does not answer costs a row, not the run.
        ppo.scores.missing = MissingScore::Drop;
        ppo.stop.metric = self.until_toxicity.map(|bound| MetricStop {
            name: TOXICITY.to_owned(),
            window: 5,
            at_least: None,
            at_most: Some(bound),
        });
        if self.blog {
            (ppo.minibatch_size, ppo.epochs) = (4, 1);
            // With the end of sequence suppressed, the run warns of negative KL.
            ppo.generation.min_new_tokens = 5;
            (ppo.optimizer.value_head_lr, ppo.optimizer.max_grad_norm) = (None, 0.);
            let (init, target, horizon) = (self.kl_coef, 6., 10_000.);
            ppo.kl.control = KlControl::Adaptive { init, target, horizon };
        }
        ppo
    }
}
