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
//! Read it from `run` on: prepare, train, report. `options.rs` has the flags and the settings
//! behind them, `reward.rs` the reward.

mod options;
mod reward;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use rlaif::core::{Sample, Seed, TextCodec};
use rlaif::data::{PromptBuilder, PromptForm, PromptTemplate};
use rlaif::eval::text::{Length, LengthUnit, Rouge, RougeKind, Stemming};
use rlaif::eval::{
    About, Better, Column, CompareOptions, Comparison, Details, Evaluation, Measurement, Metric,
    MetricInfo, Report, RewardMetric, read_curves, read_findings,
};
use rlaif::lm::generate::{GenerationConfig, Sampling};
use rlaif::lm::{Adapters, Forward, Joiner, Policy, Sampled, ValueHead, ValueInit};
use rlaif::models::{LanguageModel, LoadOptions, Lora, ModelError, PolicySetup, SaveOptions};
use rlaif::ppo::{PpoTask, PpoTrainer, Prompt, Reference};
use rlaif::rewards::{ClassifierOptions, ClassifierReward, Mean, Preset};
use rlaif::run::ShuffledBatches;
use rlaif::tch::Kind;
use rlaif::text::HfTokenizer;
use rlaif::torch::{DeviceChoice, seeded};
use rlaif::train::{
    Ending, FitConfig, FitPlan, Interrupt, Keep, RunFolder, Saved, Terminal, drive,
};
use rlaif_examples::{dialogues, exit_code, free_folder, kl, model, respond, ten_examples};

use options::Options;
use reward::{TOXICITY, reward};

fn main() -> ExitCode {
    exit_code(run(Options::parse()))
}

fn run(options: Options) -> Result<(), Box<dyn Error>> {
    rlaif::torch::init()?;
    let keep = Keep { newest: 2, best: None };
    let out = options.out.clone().unwrap_or_else(|| free_folder("toxicity"));
    let resumed = options.resume.then(|| RunFolder::resume(&out, keep)).transpose()?;
    let options: Options = match resumed {
        Some(_) => toml::from_str(&fs::read_to_string(out.join("run.toml"))?)?,
        None => options.completed(),
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
    let before = prepared.evaluate(&options.policy, policy, (policy, Forward::default()))?;
    folder.say(&format!("toxicity before: {:.3}", mean(&before, "toxicity")?))?;

    match train(&options, &prepared, trainer, &mut folder, saved.as_ref())? {
        Some(policy) => report(&options, &prepared, &before, policy, &folder),
        None => {
            Ok(folder.say(&format!("stopped; continue with --out {} --resume", out.display()))?)
        }
    }
}

/// Everything but the policy.
struct Prepared {
    /// A description of the run, for the log.
    about: [String; 2],
    seed: Seed,
    /// The policy's folder, and the options to load models from it.
    base: PathBuf,
    load: LoadOptions,
    tokenizer: HfTokenizer,
    /// Prompts to train on.
    prompts: Vec<Prompt>,
    /// Prompts to measure with.
    held_out: Vec<Prompt>,
    reward: Mean,
    metrics: [Box<dyn Metric>; 5],
    /// Decoding of held-out prompts: sampling, and greedy.
    sampled: GenerationConfig,
    greedy: GenerationConfig,
}

// ── Prepare ────────────────────────────────────────────────────────────────────────────────────

fn prepare(options: &Options) -> Result<(Prepared, PpoTrainer<LanguageModel>), Box<dyn Error>> {
    let seed = Seed::new(options.seed);
    let device = options.device.parse::<DeviceChoice>()?.resolve()?;
    let in_f32 = LoadOptions::new(device, Kind::Float);
    let load = LoadOptions::new(device, options.kind()?);

    // Dialogues, and the instruction to summarise them.
    let base = model(&options.policy)?;
    let tokenizer = HfTokenizer::from_folder(&base)?;
    let chat = |_| PromptForm::Chat { system: None };
    let form = tokenizer.chat_templates().next().map_or(PromptForm::Plain, chat);
    let builder =
        PromptBuilder::new(PromptTemplate::summarise()).form(form).limit(options::PROMPT_TOKENS);
    let (train, held_out) = dialogues(&options.dataset, &builder, &tokenizer)?;
    let (train, held_out) =
        (train.into_records(), held_out.take(options.eval_prompts).into_records());
    options.check_dialogues(train.len(), held_out.len())?;
    let texts: Vec<_> = train.iter().chain(&held_out).map(|record| &*record.prompt).collect();

    // Policy, value head, reference.
    let rewards = options.reward.iter().map(|name| model(name)).collect::<Result<Vec<_>, _>>()?;
    let encoded = tokenizer.encode_batch(&texts, builder.specials())?;
    let longest = encoded.iter().map(Vec::len).max().unwrap_or(0);
    let needed = options.memory(base.clone(), rewards.clone(), longest, load).check()?;
    let (policy, reference, value) = seeded(seed.for_libtorch("weights"), || {
        let (policy, reference) = policy(options, &base, load)?;
        let value = ValueHead::new(policy.spec().hidden_size, ValueInit::PyTorch, device);
        Ok::<_, ModelError>((policy, reference, value))
    })??;
    let trainer = PpoTrainer::new(policy, value, reference, options.ppo())?;
    let joiner = Joiner::new(&tokenizer, trainer.policy().spec());
    let prompts = Prompt::of_records(train, &joiner)?;
    let held_out = Prompt::of_records(held_out, &joiner)?;

    // The reward, and the reported metric: P(hate) of the response alone, by the classifier that
    // rewards and by one that never does.
    let (reward, toxicity) = reward(options, &rewards, in_f32)?;
    let hate = || ClassifierOptions::preset(Preset::Hate);
    let judge = ClassifierReward::load(&model("judge")?, in_f32, hate())?;
    let metrics: [Box<dyn Metric>; 5] = [
        Box::new(RewardMetric::new(
            lower("toxicity", "P(hate), by the classifier that rewards"),
            toxicity,
        )),
        Box::new(RewardMetric::new(
            lower("toxicity_judge", "P(hate), by a classifier not trained on"),
            judge,
        )),
        Box::new(Rouge::new(RougeKind::N(1), Stemming::Porter)?),
        Box::new(Rouge::new(RougeKind::L, Stemming::Porter)?),
        Box::new(Length::new(LengthUnit::Words)),
    ];
    let about = [
        format!("{} on {device:?}: {needed}", options.policy),
        format!("{} dialogues to train on, {} held out", prompts.len(), held_out.len()),
    ];
    let [sampled, greedy] =
        [Sampling::at(1.), Sampling::Greedy].map(|sampling| options.generation(sampling));
    let prepared = Prepared {
        about,
        seed,
        base,
        load,
        tokenizer,
        prompts,
        held_out,
        reward,
        metrics,
        sampled,
        greedy,
    };
    Ok((prepared, trainer))
}

/// The policy, with the LoRA adapter if one is trained, and the reference.
fn policy(
    options: &Options,
    base: &Path,
    load: LoadOptions,
) -> Result<(LanguageModel, Reference), ModelError> {
    let base_name = Some(options.policy.clone());
    let lora = options.lora.map(|rank| Lora { base: base_name, ..Lora::new("toxicity", rank) });
    PolicySetup { lora, ..PolicySetup::new(base, load) }.load()
}

// ── Train ──────────────────────────────────────────────────────────────────────────────────────

/// Runs PPO, from its beginning or from a checkpoint; returns the policy, or `None` if it was
/// interrupted.
fn train(
    options: &Options,
    prepared: &Prepared,
    trainer: PpoTrainer<LanguageModel>,
    folder: &mut RunFolder,
    saved: Option<&Saved>,
) -> Result<Option<LanguageModel>, Box<dyn Error>> {
    let Prepared { prompts, tokenizer, reward, seed, .. } = prepared;
    let mut batches = ShuffledBatches::new(prompts, options.batch, *seed)?.whole()?;
    let shown = [TOXICITY, "ppo/mean_scores", "objective/kl", "tokens/responses_len_mean"];
    folder.show(Terminal::new(options.steps, saved.map_or(0, Saved::step), shown));
    let config = FitConfig { checkpoint_every: 10, ..FitConfig::default() };
    let interrupt = &Interrupt::install()?;
    let plan = FitPlan { config: &config, total_steps: options.steps, seed: *seed, interrupt };
    let mut task = PpoTask::new(trainer, prompts, tokenizer, reward).samples(2);
    Ok(match drive(&mut task, &mut batches, folder, saved, &plan)? {
        Ending::Finished | Ending::Stopped => Some(task.into_trainer().into_policy()),
        Ending::Interrupted => None,
    })
}

// ── Report ─────────────────────────────────────────────────────────────────────────────────────

impl Prepared {
    /// Uses the policy's own greedy summaries as references if there are no human-written ones.
    fn complete_references(&mut self, policy: &LanguageModel) -> Result<(), Box<dyn Error>> {
        if self.held_out.iter().all(|prompt| prompt.record.reference.is_some()) {
            return Ok(());
        }
        let surest = respond(policy, &self.held_out, &self.greedy, self.seed, &self.tokenizer)?;
        for (prompt, response) in self.held_out.iter_mut().zip(surest) {
            Arc::make_mut(&mut prompt.record).reference = Some(response.text);
        }
        Ok(())
    }

    /// Samples a response to each held-out prompt, and measures them.
    fn evaluate(
        &self,
        name: &str,
        policy: &LanguageModel,
        reference: (&LanguageModel, Forward<'_>),
    ) -> Result<Evaluation, Box<dyn Error>> {
        let held_out = &self.held_out;
        let responses = respond(policy, held_out, &self.sampled, self.seed, &self.tokenizer)?;
        let kl = kl(policy, reference, held_out, &responses)?;
        let sample = |(prompt, response): (&Prompt, Sampled)| Sample {
            record: (*prompt.record).clone(),
            response: response.text.into(),
        };
        let samples = held_out.iter().zip(responses).map(sample).collect();
        let about = About::new(name, self.seed);
        let mut evaluation = Measurement::of(&self.metrics).run(about, samples)?;
        let info =
            MetricInfo::new("kl", Better::Neither).about("nats from the reference, per response");
        let values = kl.into_iter().map(Some).collect();
        evaluation.add(Column { info, values, reasons: Vec::new() })?;
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
) -> Result<(), Box<dyn Error>> {
    let after = if options.lora.is_some() {
        let off = Forward { adapters: Adapters::Off, ..Forward::default() };
        prepared.evaluate("after PPO", &policy, (&policy, off))?
    } else {
        let baseline = LanguageModel::load(&prepared.base, prepared.load)?;
        prepared.evaluate("after PPO", &policy, (&baseline, Forward::default()))?
    };
    let compare = CompareOptions {
        headline: Some("toxicity".to_owned()),
        seed: prepared.seed,
        reward_and_judge: Some(("toxicity".to_owned(), "toxicity_judge".to_owned())),
        ..CompareOptions::default()
    };
    let comparison = Comparison::of(before, &after, &compare)?;
    let out = folder.path();
    let details = Details {
        training: read_curves(&out.join("metrics.jsonl"))?,
        findings: Some(read_findings(&out.join("findings.json"))?),
        configuration: options.as_metadata()?,
        ..Details::default()
    };
    let report = Report::new("Less toxic summaries, by PPO", before, &after, comparison, details)?;
    report.write(out)?;
    match options.lora {
        Some(_) => policy.adapters().save("toxicity", &folder.model())?,
        None => {
            let files = SaveOptions { source: Some(&prepared.base), ..SaveOptions::default() };
            policy.save(&folder.model(), &files)?;
        }
    }
    // Printing to a closed pipe ends the process: the model is saved by now.
    println!("{}\n{}", report.to_terminal(), ten_examples(&report));
    println!("report: {}", out.join("report.html").display());
    println!("model:  {}", folder.model().display());
    Ok(())
}

fn lower(name: &str, about: &str) -> MetricInfo {
    MetricInfo::new(name, Better::Lower).about(about).threshold(0.5)
}

fn mean(evaluation: &Evaluation, metric: &str) -> Result<f64, Box<dyn Error>> {
    let values: Vec<f64> = evaluation.column(metric)?.values.iter().copied().flatten().collect();
    Ok(values.iter().sum::<f64>() / values.len() as f64)
}
