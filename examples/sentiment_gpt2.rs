//! TRL's first example: GPT-2 learns to write positive film reviews, and a DistilBERT rewards it.
//!
//! ```sh
//! cargo run --release --example sentiment_gpt2
//! cargo run --release --example sentiment_gpt2 -- --policy gpt2 --reward lvwerra/distilbert-imdb
//! ```
//!
//! Without arguments, both models are tiny and trained here, on reviews that a grammar makes: the
//! classifier to tell good ones from bad ones, the policy to continue them. Read it from `run` on.

use std::{error::Error, fs, path::Path, path::PathBuf, process::ExitCode};

use clap::Parser;
use rlaif::{
    core::{PromptRecord, RewardModel, Seed, Specials, TextCodec},
    lm::{Policy, ValueHead, ValueInit, generate::GenerationConfig},
    models::{Classifier, Config, LanguageModel, LoadOptions, SaveOptions},
    ppo::{PpoConfig, PpoTrainer, Prompt, Reference},
    rewards::{ClassifierOptions, ClassifierReward, Input},
    rl::score,
    tch::{Device, Kind},
    text::HfTokenizer,
    torch::{DeviceChoice, seeded},
    train::{
        ClassifierRow, ClassifierTrainer, KlControl, LearnConfig, OptimizerConfig, SftRow,
        SftTrainer,
    },
};
use rlaif_examples::{draw_curve, exit_code, model, respond};
use serde_json::{Map, Value, json};

/// Positive film reviews, by PPO against a sentiment classifier.
#[derive(Debug, Parser)]
struct Options {
    /// A folder or a hub id of a GPT-2; by default a tiny one is trained.
    #[arg(long)]
    policy: Option<String>,
    /// A folder or a hub id of a classifier with the label POSITIVE; by default a tiny one is trained.
    #[arg(long)]
    reward: Option<String>,
    /// Steps of PPO.
    #[arg(long, default_value_t = 40)]
    steps: u64,
    /// Reviews per step.
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// Learning rate; by default 1e-3 for the tiny policy, and 1.41e-5, as TRL has it, for another.
    #[arg(long)]
    lr: Option<f64>,
    /// Seed of all random numbers.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// cpu, cuda, or auto: CUDA if available.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Folder for the trained policy; by default it is not written.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    exit_code(run(&Options::parse()))
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    rlaif::torch::init()?;
    let seed = Seed::new(options.seed);
    let device = options.device.resolve()?;
    let scratch = tempfile::tempdir()?;
    let reviews: Vec<Review> = (0..800).map(|row| Review::draw(seed, row)).collect();

    // 1. The classifier that rewards, and the policy.
    let judge = match &options.reward {
        Some(name) => model(name)?,
        None => train_judge(&reviews, &scratch.path().join("judge"))?,
    };
    let base = match &options.policy {
        Some(name) => model(name)?,
        None => train_policy(&reviews, &scratch.path().join("policy"))?,
    };
    let load = LoadOptions::new(device, Kind::Float);
    let positive = ClassifierOptions::new().label("POSITIVE");
    let positive = positive.input(Input::PromptAndResponse).separator(" ");
    let reward = ClassifierReward::load(judge, load, positive)?;
    let tokenizer = HfTokenizer::from_folder(&base)?;
    let policy = LanguageModel::load(&base, load)?;
    policy.parameters().train_where(|_| true);

    // 2. Beginnings of reviews: some to train on, others to measure with.
    let prompt = |(row, review): (usize, &Review)| -> Result<Prompt, Box<dyn Error>> {
        let text = review.words[..3].join(" ");
        let ids = tokenizer.encode(&text, Specials::Exclude)?;
        Ok(Prompt::new(PromptRecord::new(row.to_string(), text), ids))
    };
    let prompts = reviews.iter().enumerate().map(prompt).collect::<Result<Vec<_>, _>>()?;
    let (held_out, prompts) = prompts.split_at(64);

    // 3. PPO, with the policy as it is now for its reference.
    let lr = options.lr.unwrap_or(if options.policy.is_some() { 1.41e-5 } else { 1e-3 });
    let mut config = PpoConfig {
        steps: options.steps,
        batch_size: options.batch_size,
        minibatch_size: options.batch_size.div_ceil(2),
        optimizer: OptimizerConfig { lr, ..OptimizerConfig::default() },
        seed,
        ..PpoConfig::default()
    };
    config.generation.max_new_tokens = 12;
    config.kl.control = KlControl::Adaptive { init: 0.2, target: 6., horizon: 10_000. };
    let head = ValueHead::new(policy.spec().hidden_size, ValueInit::Zero, device);
    let reference = Reference::Frozen(Box::new(LanguageModel::load(&base, load)?));
    let mut trainer = PpoTrainer::new(policy, head, reference, config)?;
    let how = trainer.config().generation.clone();
    let (before, first) = measure(trainer.policy(), held_out, &how, seed, &tokenizer, &reward)?;
    let mut rewards = Vec::new();
    for step in 0..options.steps {
        let start = usize::try_from(step)? * options.batch_size;
        let batch: Vec<Prompt> = (start..start + options.batch_size)
            .map(|i| prompts[i % prompts.len()].clone())
            .collect();
        let (_, stats) = trainer.step(&batch, &tokenizer, &reward)?;
        rewards.push(stats.get("env/reward_mean"));
        if (step + 1) % 10 == 0 {
            let (score, kl) = (stats.get("env/reward_mean"), stats.get("objective/kl"));
            println!("step {:>3}  reward {score:>6.3}  kl {kl:>6.3}", step + 1);
        }
    }

    // 4. The same prompts before and after.
    let (after, last) = measure(trainer.policy(), held_out, &how, seed, &tokenizer, &reward)?;
    draw_curve("mean reward by step", &rewards);
    println!("\nreward of held-out reviews: {before:.3} before, {after:.3} after");
    let good = |reviews: &[Scored]| {
        let words = |list: &[&str]| {
            let all = reviews.iter().flat_map(|(review, _)| review.split_whitespace());
            all.filter(|word| list.contains(word)).count() as f64
        };
        words(&GOOD) / (words(&GOOD) + words(&BAD)).max(1.)
    };
    println!(
        "praise among words of judgement: {:.2} before, {:.2} after",
        good(&first),
        good(&last)
    );
    for ((before, old), (after, new)) in first.iter().zip(&last).take(5) {
        println!("  before ({old:>5.2}) {before}\n  after  ({new:>5.2}) {after}");
    }
    if let Some(out) = &options.out {
        let source = Some(base.as_path());
        trainer.policy().save(out, &SaveOptions { source, ..SaveOptions::default() })?;
    }
    Ok(())
}

/// A review and its reward.
type Scored = (String, f64);

/// Mean reward of a review from each prompt, and the reviews.
fn measure(
    policy: &LanguageModel,
    prompts: &[Prompt],
    how: &GenerationConfig,
    seed: Seed,
    tokenizer: &HfTokenizer,
    reward: &dyn RewardModel,
) -> Result<(f64, Vec<Scored>), Box<dyn Error>> {
    let responses = respond(policy, prompts, how, seed, tokenizer)?;
    let scores = score(prompts, &responses, reward)?;
    let pairs = prompts.iter().zip(&responses);
    let texts =
        pairs.map(|(prompt, response)| format!("{} {}", prompt.record.prompt, response.text));
    let scores: Vec<f64> =
        scores.total.iter().flatten().map(|score| f64::from(score.get())).collect();
    let mean = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
    Ok((mean, texts.zip(scores).collect()))
}

const GOOD: [&str; 8] =
    ["wonderful", "brilliant", "moving", "funny", "superb", "lovely", "clever", "great"];
const BAD: [&str; 8] = ["boring", "awful", "dull", "clumsy", "terrible", "weak", "silly", "stupid"];
const THINGS: [&str; 8] = ["film", "plot", "cast", "music", "ending", "acting", "story", "camera"];
const OPENINGS: [&str; 4] = ["I thought", "We found", "They said", "It seems"];
const DEGREES: [&str; 4] = ["really", "rather", "quite", "so"];

/// A review, as a grammar makes it.
struct Review {
    words: Vec<&'static str>,
    positive: bool,
}

impl Review {
    fn draw(seed: Seed, row: u64) -> Self {
        let mut draws = 0;
        let mut of = |list: &[&'static str]| {
            draws += 1;
            list[seed.derive("review", row * 64 + draws).get() as usize % list.len()]
        };
        let positive = of(&["no", "yes"]) == "yes";
        let judgement = if positive { GOOD } else { BAD };
        let mut words: Vec<&str> = of(&OPENINGS).split(' ').collect();
        let clauses = if of(&["one", "two"]) == "two" { 2 } else { 1 };
        for clause in 0..clauses {
            if clause > 0 {
                words.push("and");
            }
            words.extend(["the", of(&THINGS), "was", of(&DEGREES), of(&judgement)]);
        }
        words.push(".");
        Self { words, positive }
    }
}

/// Every word is a token: 0 pads, 1 ends a text, 2 and 3 stand around what a BERT reads.
fn write_tokenizer(folder: &Path) -> Result<(), Box<dyn Error>> {
    let specials = ["<pad>", "<|endoftext|>", "[CLS]", "[SEP]", "[UNK]"];
    let openings: Vec<&str> = OPENINGS.iter().flat_map(|words| words.split(' ')).collect();
    let others = ["the", "was", "and", "."];
    let lists = [&specials[..], &openings, &others, &THINGS, &DEGREES, &GOOD, &BAD];
    let mut vocabulary = Map::new();
    for word in lists.concat() {
        let id = vocabulary.len();
        vocabulary.entry(word).or_insert(id.into());
    }
    let added: Vec<Value> = (0..)
        .zip(specials)
        .map(|(id, content)| {
            json!({ "id": id, "content": content, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true })
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]" },
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string())?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>",
        "pad_token": "<pad>", "unk_token": "[UNK]",
    });
    fs::write(folder.join("tokenizer_config.json"), config.to_string())?;
    Ok(())
}

/// The settings of both trainings.
fn learning() -> LearnConfig {
    LearnConfig {
        optimizer: OptimizerConfig { lr: 3e-3, ..OptimizerConfig::default() },
        ..LearnConfig::default()
    }
}

/// A tiny DistilBERT that tells good reviews from bad ones.
fn train_judge(reviews: &[Review], folder: &Path) -> Result<PathBuf, Box<dyn Error>> {
    const STEPS: usize = 30;
    let source = tempfile::tempdir()?;
    write_tokenizer(source.path())?;
    let tokenizer = HfTokenizer::from_folder(source.path())?;
    let config = Config::from_value(json!({
        "model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"],
        "vocab_size": tokenizer.embedding_rows(), "dim": 32, "hidden_dim": 64, "n_layers": 1,
        "n_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
        "id2label": { "0": "NEGATIVE", "1": "POSITIVE" },
        "label2id": { "NEGATIVE": 0, "POSITIVE": 1 },
    }));
    let judge = seeded(3, || Classifier::random(config, Kind::Float, Device::Cpu))??;
    let rows = reviews
        .iter()
        .map(|review| {
            let ids = tokenizer.encode(&review.words.join(" "), Specials::Exclude)?;
            let (second_start, label) = (ids.len(), usize::from(review.positive));
            Ok(ClassifierRow { ids, second_start, label })
        })
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let (held_out, rows) = rows.split_at(100);
    let mut trainer = ClassifierTrainer::new(&judge, &learning(), vec![1., 1.], STEPS as u64)?;
    for batch in rows.chunks(32).cycle().take(STEPS) {
        trainer.step(&batch.iter().collect::<Vec<_>>())?;
    }
    println!(
        "classifier: accuracy {:.3} on held-out reviews",
        trainer.evaluate(held_out)?.accuracy
    );
    judge.save(folder, &SaveOptions { source: Some(source.path()), ..SaveOptions::default() })?;
    Ok(folder.to_owned())
}

/// A tiny GPT-2 that continues reviews, good and bad ones alike.
fn train_policy(reviews: &[Review], folder: &Path) -> Result<PathBuf, Box<dyn Error>> {
    const STEPS: usize = 60;
    let source = tempfile::tempdir()?;
    write_tokenizer(source.path())?;
    let tokenizer = HfTokenizer::from_folder(source.path())?;
    let config = Config::from_value(json!({
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"],
        "vocab_size": tokenizer.embedding_rows(), "n_embd": 64, "n_layer": 2, "n_head": 4,
        "n_positions": 64, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0,
    }));
    let policy = seeded(4, || LanguageModel::random(config, Kind::Float, Device::Cpu))??;
    let rows = reviews
        .iter()
        .map(|review| {
            let mut ids = tokenizer.encode(&review.words.join(" "), Specials::Exclude)?;
            ids.push(1);
            let response = ids.split_off(3);
            Ok(SftRow::new(ids, response))
        })
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let (held_out, rows) = rows.split_at(100);
    let mut trainer = SftTrainer::new(&policy, &learning(), STEPS as u64)?;
    for batch in rows.chunks(32).cycle().take(STEPS) {
        trainer.step(&batch.iter().collect::<Vec<_>>())?;
    }
    println!(
        "policy: perplexity {:.2} on held-out reviews",
        trainer.evaluate(held_out)?.perplexity()
    );
    policy.save(folder, &SaveOptions { source: Some(source.path()), ..SaveOptions::default() })?;
    Ok(folder.to_owned())
}
