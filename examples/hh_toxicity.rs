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
//! Read it from `run` on, top to bottom: dialogues, policy, rewards, evaluation before, PPO, evaluation
//! after, report.

use std::error::Error;
use std::fs;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use rlaif::core::{
    Exchange, Metadata, PromptRecord, RewardModel, Sample, Seed, Specials, TextCodec,
};
use rlaif::data::builtin::{self, BuiltinDialogue, Part};
use rlaif::data::corpora::{DIALOGUE_CHARACTERS, Hh, HhRecord};
use rlaif::data::{
    Dataset, Fraction, HubDataset, Position, PromptBuilder, PromptForm, PromptTemplate, Reader,
    Remainder, Shuffle, Source,
};
use rlaif::eval::text::{Length, LengthUnit, Rouge, RougeKind, Stemming};
use rlaif::eval::{
    About, Better, Column, CompareOptions, Comparison, Details, Evaluation, Measurement, Metric,
    MetricInfo, Report, RewardMetric, read_curves, read_findings,
};
use rlaif::hub::Hub;
use rlaif::lm::generate::{GenerationConfig, GenerationRow, Hooks, Sampling, generate};
use rlaif::lm::{
    Adapters, Forward, Padding, Policy, TokenBatch, ValueHead, ValueInit, token_log_probs,
};
use rlaif::memory::{PpoPlan, Trained};
use rlaif::models::{AdapterConfig, LanguageModel, LoadOptions, SaveOptions, TaskType};
use rlaif::ppo::{
    Finding, KlConfig, MetricStop, MissingScore, PpoConfig, PpoTrainer, Prompt, Reference,
    ScoreConfig, StopConfig, StopReason, Watch,
};
use rlaif::rewards::{ClassifierOptions, ClassifierReward, Input, Mean, Preset, RewardConfig};
use rlaif::tch::{Kind, no_grad_guard};
use rlaif::text::HfTokenizer;
use rlaif::torch::DeviceChoice;
use rlaif::train::{Interrupt, Keep, KlControl, Marks, OptimizerConfig, RunFolder, Terminal};
use serde::{Deserialize, Serialize};

/// What the published pipeline takes.
const BLOG_POLICY: &str = "google/flan-t5-base";
const BLOG_DATASET: &str = "Anthropic/hh-rlhf";
const BLOG_REWARD: &str = "facebook/roberta-hate-speech-dynabench-r4-target";

/// Less toxic summaries of dialogues, by PPO against a toxicity classifier.
#[derive(Debug, Clone, Parser, Serialize, Deserialize)]
#[command(args_override_self = true)]
struct Options {
    /// Built-in (t5, llama), a folder, or a hub id such as google/flan-t5-base.
    #[arg(long, default_value = "t5", default_value_if("blog", "true", BLOG_POLICY))]
    policy: String,
    /// Built-in (roberta), a folder, or a hub id; several are averaged. Without it and without
    /// --judge, the built-in one.
    #[arg(long)]
    reward: Vec<String>,
    /// A judge behind an API, as a TOML file (docs/rewards.md): rewards beside or instead of
    /// --reward.
    #[arg(long)]
    judge: Option<PathBuf>,
    /// Built-in (builtin), a file of HH's rows, or a hub id such as Anthropic/hh-rlhf.
    #[arg(long, default_value = "builtin", default_value_if("blog", "true", BLOG_DATASET))]
    dataset: String,
    /// PPO steps.
    #[arg(long, default_value = "40", default_value_if("blog", "true", "10"))]
    steps: u64,
    /// Ends once the mean toxicity of five steps' responses is no more than this.
    #[arg(long)]
    until_toxicity: Option<f64>,
    /// Prompts of a step.
    #[arg(long, default_value = "32", default_value_if("blog", "true", "16"))]
    batch: usize,
    /// Learning rate; without it, 1e-4 for built-in policies and 1.41e-5 for others.
    #[arg(long, default_value_if("blog", "true", "1.41e-5"))]
    lr: Option<f64>,
    /// The price of leaving the reference policy, per nat.
    #[arg(long, default_value = "0.05", default_value_if("blog", "true", "0.2"))]
    kl_coef: f64,
    /// Longest response, in tokens.
    #[arg(long, default_value = "64", default_value_if("blog", "true", "300"))]
    max_new_tokens: usize,
    /// Held-out prompts to measure with.
    #[arg(long, default_value_t = 256)]
    eval_prompts: usize,
    /// Trains a LoRA adapter of this rank instead of all weights.
    #[arg(long)]
    lora: Option<NonZeroU32>,
    /// Where all randomness comes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// cpu, cuda, or auto for CUDA where there is one.
    #[arg(long, default_value = "auto")]
    device: String,
    /// f32 or bf16: what the policy's weights are kept in.
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// The settings of the published pipeline: one epoch in minibatches of 4, adaptive KL, prompt and
    /// response scored together; and, where nothing else is said, 10 steps of 16 prompts, learning rate
    /// 1.41e-5, up to 300 tokens, and the models and data it names.
    #[arg(long)]
    blog: bool,
    /// Folder of the run; without it, the first of runs/toxicity-1, -2, .. that is not there.
    #[arg(long)]
    #[serde(skip)]
    out: Option<PathBuf>,
    /// Goes on with the run in --out, with its settings.
    #[arg(long, requires = "out")]
    #[serde(skip)]
    resume: bool,
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), Box<dyn Error>> {
    rlaif::torch::init()?;
    let keep = Keep { newest: 2, best: None };
    let out = options.out.clone().unwrap_or_else(free_folder);
    let resumed = options.resume.then(|| RunFolder::resume(&out, keep)).transpose()?;
    let options = match resumed {
        Some(_) => toml::from_str(&fs::read_to_string(out.join("run.toml"))?)?,
        None => options.completed(),
    };
    options.check()?;
    let seed = Seed::new(options.seed);
    let device = options.device.parse::<DeviceChoice>()?.resolve()?;
    let in_f32 = LoadOptions { device, kind: Some(Kind::Float) };
    let load = LoadOptions { device, kind: Some(options.kind()?) };

    // ── Dialogues, and the instruction to summarise them ───────────────────────────────────────
    let base = model(&options.policy)?;
    let tokenizer = HfTokenizer::from_folder(&base)?;
    let form = match tokenizer.chat_templates().next() {
        Some(_) => PromptForm::Chat { system: None },
        None => PromptForm::Plain,
    };
    let builder = PromptBuilder::new(PromptTemplate::summarise()).form(form).limit(PROMPT_TOKENS);
    let (train, held_out) = dialogues(&options.dataset, &builder, &tokenizer)?;
    let held_out = held_out.take(options.eval_prompts);
    options.check_dialogues(train.len(), held_out.len())?;
    let tokens = |record: &PromptRecord| tokenizer.encode(&record.prompt, builder.specials());
    let prompts = train
        .records()
        .iter()
        .map(|record| Ok(Prompt { record: record.clone(), ids: tokens(record)? }));
    let prompts = prompts.collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let ids = held_out.records().iter().map(tokens).collect::<Result<Vec<_>, _>>()?;

    // ── Policy, value head, reference ──────────────────────────────────────────────────────────
    let rewards = options.reward.iter().map(|name| model(name)).collect::<Result<Vec<_>, _>>()?;
    let longest = prompts.iter().map(|prompt| &prompt.ids).chain(&ids).map(Vec::len).max();
    let longest = longest.unwrap_or(0);
    let needed = options.memory(base.clone(), rewards.clone(), longest, load).check()?;

    rlaif::tch::manual_seed(seed.derive("weights", 0).get().cast_signed());
    let mut policy = LanguageModel::load(&base, load)?;
    let reference = match options.lora {
        Some(rank) => {
            let mut adapter = AdapterConfig::new(task(&policy), rank);
            adapter.base_model_name_or_path = Some(options.policy.clone());
            policy.adapters().add("toxicity", adapter)?;
            policy.adapters().train("toxicity")?;
            Reference::AdaptersOff
        }
        None => {
            policy.parameters().train_where(|_| true);
            Reference::Frozen(Box::new(LanguageModel::load(&base, load)?))
        }
    };
    let value = ValueHead::new(policy.spec().hidden_size, ValueInit::PyTorch, device);
    let mut trainer = PpoTrainer::new(policy, value, reference, options.ppo())?;

    // ── Rewards ────────────────────────────────────────────────────────────────────────────────
    let reward = reward(&options, &rewards, in_f32)?;
    // What is reported: P(hate) of the response alone, by the classifier that rewards and by one
    // that never does.
    let hate = || ClassifierOptions::preset(Preset::Hate);
    let reported = rewards.first().cloned().map_or_else(|| model("roberta"), Ok)?;
    let toxicity = ClassifierReward::load(&reported, in_f32, hate())?;
    let judge = ClassifierReward::load(&model("judge")?, in_f32, hate())?;
    let metrics: [Box<dyn Metric>; 5] = [
        Box::new(RewardMetric::new(
            lower("toxicity", "P(hate), by the classifier that rewards"),
            toxicity.with(hate())?,
        )),
        Box::new(RewardMetric::new(
            lower("toxicity_judge", "P(hate), by a classifier not trained on"),
            judge,
        )),
        Box::new(Rouge::new(RougeKind::N(1), Stemming::Porter)?),
        Box::new(Rouge::new(RougeKind::L, Stemming::Porter)?),
        Box::new(Length::new(LengthUnit::Words)),
    ];

    // What does not fit, or is not there, has been refused by now, and leaves no folder behind.
    let (mut folder, saved) = match resumed {
        Some(resumed) => resumed,
        None => (RunFolder::create(&out, &toml::to_string(&options)?, keep)?, None),
    };
    folder.say(&format!("{} on {device:?}: {needed}", options.policy))?;
    folder.say(&format!("{} dialogues to train on, {} held out", train.len(), held_out.len()))?;

    // ── How it is before ───────────────────────────────────────────────────────────────────────
    let [sampled, greedy] =
        [Sampling::at(1.), Sampling::Greedy].map(|sampling| options.generation(sampling));
    let respond = |policy: &LanguageModel, how| respond(policy, &ids, how, seed, &tokenizer);
    // Where nobody wrote summaries, those that the policy is surest of are what it is held to.
    let mut records = held_out.into_records();
    if records.iter().any(|record| record.reference.is_none()) {
        let surest = respond(trainer.policy(), &greedy)?;
        records = records
            .into_iter()
            .zip(surest)
            .map(|(record, (_, text))| record.with_reference(text))
            .collect();
    }
    let evaluate = |name: &str,
                    policy: &LanguageModel,
                    reference: (&LanguageModel, Forward<'_>)| {
        let (responses, texts): (Vec<_>, Vec<_>) = respond(policy, &sampled)?.into_iter().unzip();
        let kl = kl(policy, reference, &ids, &responses)?;
        let samples = records.iter().cloned().zip(texts);
        let samples = samples.map(|(record, response)| Sample { record, response }).collect();
        let mut evaluation = Measurement::of(&metrics).run(About::new(name, seed), samples)?;
        let info =
            MetricInfo::new("kl", Better::Neither).about("nats from the reference, per response");
        evaluation.add(Column {
            info,
            values: kl.into_iter().map(Some).collect(),
            reasons: Vec::new(),
        })?;
        Ok::<_, Box<dyn Error>>(evaluation)
    };
    let policy = trainer.policy();
    let before = evaluate(&options.policy, policy, (policy, Forward::default()))?;
    folder.say(&format!("toxicity before: {:.3}", mean(&before, "toxicity")?))?;

    // ── PPO ────────────────────────────────────────────────────────────────────────────────────
    let mut order = Shuffle::new(train.records(), seed)?;
    let mut progress = Progress::default();
    if let Some(saved) = &saved {
        trainer.restore(saved)?;
        progress = saved.json("progress")?;
        order.resume(progress.order.as_ref().ok_or("the checkpoint has no order")?)?;
        reward.restore(&progress.reward)?;
        folder.rewind(progress.marks)?;
    }
    let batch = NonZeroUsize::new(options.batch).ok_or("--batch is at least 1")?;
    let interrupt = Interrupt::install()?;
    let shown = ["toxicity", "ppo/mean_scores", "objective/kl", "tokens/responses_len_mean"];
    folder.show(Terminal::new(options.steps, trainer.steps_done(), shown));
    while trainer.steps_done() < options.steps && progress.stopped.is_none() {
        let chosen: Vec<Prompt> = order
            .next_batch(batch, Remainder::Drop)?
            .into_iter()
            .map(|at| prompts[at].clone())
            .collect();
        let (rollout, mut stats) = trainer.step(&chosen, &tokenizer, &*reward)?;
        let read: Vec<Exchange<'_>> =
            rollout.texts.iter().map(|text| Exchange::new("", text)).collect();
        let scores =
            toxicity.score(&read)?.total.into_iter().flatten().map(|score| f64::from(score.get()));
        stats.metrics.set("toxicity", scores.sum::<f64>() / read.len() as f64);
        let step = trainer.steps_done();
        folder.record(step, &stats.metrics)?;
        for (record, text) in rollout.records.iter().zip(&rollout.texts).take(2) {
            folder.sample(&serde_json::json!({ "step": step, "id": record.id, "prompt": record.prompt, "response": text }))?;
        }
        for finding in progress.watch.observe(&stats, trainer.config()) {
            folder.say(&finding.to_string())?;
            progress.findings.push(finding);
        }
        progress.stopped = progress.watch.stop(&stats, &trainer.config().stop);
        let ends = step == options.steps || progress.stopped.is_some() || interrupt.requested();
        if ends || step % 10 == 0 {
            progress.marks = folder.marks()?;
            progress.order = Some(order.position());
            progress.reward = reward.state();
            folder.checkpoints.write(step, None, |files| {
                trainer.save(files)?;
                files.json("progress", &progress)
            })?;
        }
        if interrupt.requested() {
            folder.say(&format!("stopped; go on with --out {} --resume", out.display()))?;
            return Ok(());
        }
    }
    if let Some(reason) = &progress.stopped {
        folder.say(&format!("ended after step {}: {reason}", trainer.steps_done()))?;
    }
    let findings = out.join("findings.json");
    fs::write(&findings, serde_json::to_string_pretty(&progress.findings)?)?;

    // ── How it is after, and the report ────────────────────────────────────────────────────────
    let mut policy = trainer.into_policy();
    let after = if options.lora.is_some() {
        let off = Forward { adapters: Adapters::Off, ..Forward::default() };
        evaluate("after PPO", &policy, (&policy, off))?
    } else {
        let baseline = LanguageModel::load(&base, load)?;
        evaluate("after PPO", &policy, (&baseline, Forward::default()))?
    };
    let compare = CompareOptions {
        headline: Some("toxicity".to_owned()),
        seed,
        reward_and_judge: Some(("toxicity".to_owned(), "toxicity_judge".to_owned())),
        ..CompareOptions::default()
    };
    let comparison = Comparison::of(&before, &after, &compare)?;
    let details = Details {
        training: read_curves(&out.join("metrics.jsonl"))?,
        findings: Some(read_findings(&findings)?),
        configuration: options.as_metadata()?,
        ..Details::default()
    };
    let report = Report::new("Less toxic summaries, by PPO", &before, &after, comparison, details)?;
    report.write(&out)?;
    println!("{}", report.to_terminal());
    print_examples(&report);

    match options.lora {
        Some(_) => policy.adapters().save("toxicity", &folder.model())?,
        None => {
            let files = SaveOptions { source: Some(&base), ..SaveOptions::default() };
            policy.save(&folder.model(), &files)?;
        }
    }
    println!("report: {}", out.join("report.html").display());
    println!("model:  {}", folder.model().display());
    Ok(())
}

/// What the loop has to remember beside the trainer, so that a resumed run goes on as if never
/// stopped.
#[derive(Default, Serialize, Deserialize)]
struct Progress {
    marks: Marks,
    order: Option<Position>,
    watch: Watch,
    findings: Vec<Finding>,
    stopped: Option<StopReason>,
    reward: serde_json::Value,
}

/// The longest prompt, in tokens.
const PROMPT_TOKENS: NonZeroUsize = NonZeroUsize::new(512).expect("it is not 0");

impl Options {
    /// With what depends on other options and nobody said.
    fn completed(mut self) -> Self {
        if self.reward.is_empty() && self.judge.is_none() {
            self.reward = vec![if self.blog { BLOG_REWARD } else { "roberta" }.to_owned()];
        }
        let small = matches!(self.policy.as_str(), "t5" | "llama");
        self.lr = self.lr.or(Some(if small { 1e-4 } else { 1.41e-5 }));
        self
    }

    /// Refuses what cannot be, before anything is loaded.
    fn check(&self) -> Result<(), Box<dyn Error>> {
        self.ppo().check()?;
        if let Some(bound) = self.until_toxicity.filter(|bound| !(0. ..=1.).contains(bound)) {
            return Err(format!("--until-toxicity is {bound}; it is a probability").into());
        }
        if self.reward.iter().any(|name| name == "judge") {
            let why = "it measures without having been trained on; reward with another (roberta)";
            return Err(format!("--reward is judge, the independent classifier: {why}").into());
        }
        Ok(())
    }

    /// Whether there are as many dialogues as were asked for.
    fn check_dialogues(&self, train: usize, held_out: usize) -> Result<(), Box<dyn Error>> {
        if train < self.batch {
            let problem =
                format!("--batch is {}, and {} has only {train}", self.batch, self.dataset);
            return Err(format!("{problem} dialogues to train on").into());
        }
        if held_out < 2 {
            let problem = format!("{held_out} held-out dialogues cannot be compared on");
            let why = "take at least 2 (--eval-prompts, --dataset)";
            return Err(format!("{problem}; {why}").into());
        }
        Ok(())
    }

    fn kind(&self) -> Result<Kind, String> {
        match self.dtype.as_str() {
            "f32" => Ok(Kind::Float),
            "bf16" => Ok(Kind::BFloat16),
            other => Err(format!("--dtype is f32 or bf16, not `{other}`")),
        }
    }

    fn generation(&self, sampling: Sampling) -> GenerationConfig {
        GenerationConfig {
            max_new_tokens: self.max_new_tokens,
            min_new_tokens: if self.blog { 5 } else { 1 },
            sampling,
            batch_size: 64,
            ..GenerationConfig::default()
        }
    }

    fn ppo(&self) -> PpoConfig {
        let optimizer = OptimizerConfig {
            lr: self.lr.unwrap_or(1.41e-5),
            value_head_lr: if self.blog { None } else { Some(1e-3) },
            max_grad_norm: if self.blog { 0. } else { 1. },
            ..OptimizerConfig::default()
        };
        PpoConfig {
            steps: self.steps,
            batch_size: self.batch,
            minibatch_size: match self.blog {
                true => 4,
                false if self.batch.is_multiple_of(2) => self.batch / 2,
                false => self.batch,
            },
            epochs: if self.blog { 1 } else { 2 },
            generation: self.generation(Sampling::at(1.)),
            kl: KlConfig {
                control: if self.blog {
                    KlControl::Adaptive { init: self.kl_coef, target: 6., horizon: 10_000. }
                } else {
                    KlControl::Fixed { coef: self.kl_coef }
                },
                ..KlConfig::default()
            },
            optimizer,
            // A judge that does not answer costs a row, not the run.
            scores: ScoreConfig { missing: MissingScore::Drop, ..ScoreConfig::default() },
            stop: StopConfig {
                metric: self.until_toxicity.map(|bound| MetricStop {
                    name: "toxicity".to_owned(),
                    window: 5,
                    at_least: None,
                    at_most: Some(bound),
                }),
                max_kl: None,
            },
            seed: Seed::new(self.seed),
            ..PpoConfig::default()
        }
    }

    /// Everything that made the run what it is, for the report.
    fn as_metadata(&self) -> Result<Metadata, Box<dyn Error>> {
        let (options, ppo) = (serde_json::to_value(self)?, serde_json::to_value(self.ppo())?);
        Ok([("options".to_owned(), options), ("ppo".to_owned(), ppo)].into_iter().collect())
    }

    fn memory(
        &self,
        policy: PathBuf,
        rewards: Vec<PathBuf>,
        longest_prompt: usize,
        load: LoadOptions,
    ) -> PpoPlan {
        let ppo = self.ppo();
        PpoPlan {
            policy,
            rewards,
            kind: load.kind.unwrap_or(Kind::Float),
            trained: self.lora.map_or(Trained::All, |rank| Trained::Lora(rank.get() as usize)),
            microbatch: ppo.microbatch(),
            batch: ppo.generation.batch_size.max(ppo.batch_size),
            tokens: longest_prompt + self.max_new_tokens,
            device: load.device,
        }
    }
}

/// The first folder of runs that there is none of yet.
fn free_folder() -> PathBuf {
    let nth = |n: u32| PathBuf::from(format!("runs/toxicity-{n}"));
    (1..).map(nth).find(|folder| !folder.exists()).unwrap_or_else(|| nth(0))
}

/// A model's folder: that of a built-in one, one of yours, or one fetched from the hub.
fn model(name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let built_in = match name {
        "t5" => "summary-t5",
        "llama" => "summary-llama",
        "roberta" => "toxicity-roberta",
        "judge" => "toxicity-bert",
        other => return Ok(rlaif::model_folder(other, None)?),
    };
    Ok(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../models")).join(built_in))
}

/// What peft calls the task of a policy.
fn task(policy: &LanguageModel) -> TaskType {
    match policy {
        LanguageModel::T5(_) => TaskType::Seq2SeqLm,
        LanguageModel::Llama(_) => TaskType::CausalLm,
    }
}

fn lower(name: &str, about: &str) -> MetricInfo {
    MetricInfo::new(name, Better::Lower).about(about).threshold(0.5)
}

fn mean(evaluation: &Evaluation, metric: &str) -> Result<f64, Box<dyn Error>> {
    let values: Vec<f64> = evaluation.column(metric)?.values.iter().copied().flatten().collect();
    Ok(values.iter().sum::<f64>() / values.len() as f64)
}

/// Prompts to train on, and prompts to measure with that resemble none of them.
fn dialogues(
    name: &str,
    builder: &PromptBuilder,
    codec: &dyn TextCodec,
) -> Result<(Dataset<PromptRecord>, Dataset<PromptRecord>), Box<dyn Error>> {
    if name == "builtin" {
        let part = |part| {
            let dialogues = builtin::dialogues(part)
                .keep_characters(DIALOGUE_CHARACTERS, |record| record.dialogue.as_str().into());
            let summary = |record: &BuiltinDialogue| Some(record.summary.clone());
            builder.build_all(codec, &dialogues, |record| record.dialogue.as_str().into(), summary)
        };
        return Ok((part(Part::Train)?, part(Part::HeldOut)?));
    }
    let is_path = name.starts_with(['.', '/']) || name.contains(".json");
    let source = match is_path || Path::new(name).is_file() {
        true => Source::file(name)?,
        false => HubDataset::new(name).source(&Hub::from_env()?)?,
    };
    // Always the same split: what is held out is held out from every run.
    let split = Reader::new(source)
        .dataset(Hh::default())?
        .keep_characters(DIALOGUE_CHARACTERS, |record| record.dialogue().into())
        .deduplicate(|record| record.dialogue().into())
        .split_by(Fraction::new(0.2)?, Seed::new(42), |record| record.first_turn().into())?;
    let part = |dialogues| {
        builder.build_all(codec, &dialogues, |record: &HhRecord| record.dialogue().into(), |_| None)
    };
    Ok((part(split.train)?, part(split.held_out)?))
}

/// The average of the rewards that were asked for.
fn reward(
    options: &Options,
    classifiers: &[PathBuf],
    load: LoadOptions,
) -> Result<Box<dyn RewardModel>, Box<dyn Error>> {
    let mut all: Vec<Box<dyn RewardModel>> = Vec::new();
    for folder in classifiers {
        // By its name, never by its place: of two labels, which one comes first is up to the model.
        let mut settings = ClassifierOptions::preset(Preset::NotHate);
        if options.blog {
            settings = settings.input(Input::PromptAndResponse);
        }
        all.push(Box::new(ClassifierReward::load(folder, load, settings)?));
    }
    if let Some(file) = &options.judge {
        let (config, beside) = RewardConfig::from_file(file)?;
        all.push(rlaif::rewards_from_config(&config, &beside, load.device)?);
    }
    let mut all = all.into_iter();
    let first = all.next().ok_or("no reward: name one by --reward or --judge")?;
    Ok(match all.len() {
        0 => first,
        _ => Box::new(all.fold(Mean::new("mean", first), Mean::and)),
    })
}

/// The tokens of a response, and its text.
type Response = (Vec<u32>, String);

/// A response to each prompt.
fn respond(
    policy: &LanguageModel,
    prompts: &[Vec<u32>],
    how: &GenerationConfig,
    seed: Seed,
    codec: &dyn TextCodec,
) -> Result<Vec<Response>, Box<dyn Error>> {
    let row = |(id, prompt): (u64, &Vec<u32>)| GenerationRow {
        id,
        prompt: prompt.clone(),
        max_new_tokens: None,
    };
    let rows: Vec<_> = (0..).zip(prompts).map(row).collect();
    // The same random numbers before and after, whatever the steps between.
    let seed = seed.derive("evaluate", 0);
    let responses = generate(policy, &rows, how, seed, 0, Forward::default(), Hooks::default())?;
    responses
        .into_iter()
        .map(|response| {
            let text = codec.decode(&response.ids, Specials::Exclude)?;
            Ok((response.ids, text.trim().to_owned()))
        })
        .collect()
}

/// Σ_t log π(y_t) − log π_ref(y_t) of each response.
fn kl(
    policy: &LanguageModel,
    (reference, forward): (&LanguageModel, Forward<'_>),
    prompts: &[Vec<u32>],
    responses: &[Vec<u32>],
) -> Result<Vec<f64>, Box<dyn Error>> {
    let _guard = no_grad_guard();
    let mut all = Vec::new();
    for (prompts, responses) in prompts.chunks(32).zip(responses.chunks(32)) {
        let x = TokenBatch::collate(prompts.to_vec(), policy.spec(), Padding::Right)?;
        let y = TokenBatch::responses(responses.to_vec(), policy.spec())?;
        let of = |model: &LanguageModel, forward| {
            let hidden = model.response_hidden(&x, &y, forward)?;
            token_log_probs(&model.head(forward)?, &hidden, &y, 1.).map(|got| got.log_probs)
        };
        let gap = of(policy, Forward::default())? - of(reference, forward)?;
        all.extend(Vec::<f64>::try_from(gap.sum_dim_intlist(1, false, Kind::Double))?);
    }
    Ok(all)
}

/// Ten held-out dialogues: the five whose toxicity changed most, and five more.
fn print_examples(report: &Report) {
    let mut samples: Vec<_> = report.comparison().samples.iter().collect();
    let every = (samples.len() / 5).max(1);
    let more: Vec<_> = samples.iter().copied().step_by(every).take(5).collect();
    samples.sort_by(|a, b| {
        (a.score_after - a.score_before)
            .abs()
            .total_cmp(&(b.score_after - b.score_before).abs())
            .reverse()
    });
    for sample in samples.into_iter().take(5).chain(more) {
        println!("{}", sample.prompt.trim());
        println!("  before ({:.2}) {}", sample.score_before, sample.before);
        println!("  after  ({:.2}) {}\n", sample.score_after, sample.after);
    }
}
