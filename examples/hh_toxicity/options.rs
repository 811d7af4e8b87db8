//! The flags of the example, and the settings behind them.

use std::error::Error;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use clap::Parser;
use rlaif::core::{Metadata, Seed};
use rlaif::lm::generate::{GenerationConfig, Sampling};
use rlaif::models::{HeldModel, LoadOptions, MemoryPlan, TrainedWeights};
use rlaif::ppo::{KlConfig, MetricStop, MissingScore, PpoConfig, ScoreConfig, StopConfig};
use rlaif::tch::Kind;
use rlaif::train::{KlControl, OptimizerConfig};
use serde::{Deserialize, Serialize};

use crate::reward::TOXICITY;

/// The models and data of the published pipeline.
const BLOG_POLICY: &str = "google/flan-t5-base";
const BLOG_DATASET: &str = "Anthropic/hh-rlhf";
const BLOG_REWARD: &str = "facebook/roberta-hate-speech-dynabench-r4-target";

/// Less toxic summaries of dialogues, by PPO against a toxicity classifier.
#[derive(Debug, Clone, Parser, Serialize, Deserialize)]
#[command(args_override_self = true)]
pub(crate) struct Options {
    /// Built-in (t5, llama), a folder, or a hub id such as google/flan-t5-base.
    #[arg(long, default_value = "t5", default_value_if("blog", "true", BLOG_POLICY))]
    pub(crate) policy: String,
    /// Built-in (roberta), a folder, or a hub id; several are averaged. By default, without
    /// --judge, the built-in one.
    #[arg(long)]
    pub(crate) reward: Vec<String>,
    /// A judge behind an API, as a TOML file (docs/rewards.md), in addition to or instead of
    /// --reward.
    #[arg(long)]
    pub(crate) judge: Option<PathBuf>,
    /// Built-in (builtin), a file of HH's rows, or a hub id such as Anthropic/hh-rlhf.
    #[arg(long, default_value = "builtin", default_value_if("blog", "true", BLOG_DATASET))]
    pub(crate) dataset: String,
    /// PPO steps.
    #[arg(long, default_value = "40", default_value_if("blog", "true", "10"))]
    pub(crate) steps: u64,
    /// Stops once the mean toxicity over five steps is at most this value.
    #[arg(long)]
    pub(crate) until_toxicity: Option<f64>,
    /// Prompts per step.
    #[arg(long, default_value = "32", default_value_if("blog", "true", "16"))]
    pub(crate) batch: usize,
    /// Learning rate; by default 1e-4 for built-in policies and 1.41e-5 for others.
    #[arg(long, default_value_if("blog", "true", "1.41e-5"))]
    pub(crate) lr: Option<f64>,
    /// Coefficient of the KL penalty against the reference policy, per nat.
    #[arg(long, default_value = "0.05", default_value_if("blog", "true", "0.2"))]
    pub(crate) kl_coef: f64,
    /// Maximum length of a response, in tokens.
    #[arg(long, default_value = "64", default_value_if("blog", "true", "300"))]
    pub(crate) max_new_tokens: usize,
    /// Number of held-out prompts to measure with.
    #[arg(long, default_value_t = 256)]
    pub(crate) eval_prompts: usize,
    /// Trains a LoRA adapter of this rank instead of all weights.
    #[arg(long)]
    pub(crate) lora: Option<NonZeroU32>,
    /// Seed of all random numbers.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// cpu, cuda, or auto: CUDA if available.
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// Dtype of the policy's weights: f32 or bf16.
    #[arg(long, default_value = "f32")]
    pub(crate) dtype: String,
    /// The settings of the published pipeline: one epoch in minibatches of 4, adaptive KL, prompt
    /// and response scored together; and, by default, 10 steps of 16 prompts, learning rate
    /// 1.41e-5, up to 300 tokens, and its models and data.
    #[arg(long)]
    pub(crate) blog: bool,
    /// Folder of the run; by default, the first of runs/toxicity-1, -2, .. that does not exist.
    #[arg(long)]
    #[serde(skip)]
    pub(crate) out: Option<PathBuf>,
    /// Continues the run in --out, with its settings.
    #[arg(long, requires = "out")]
    #[serde(skip)]
    pub(crate) resume: bool,
}

/// Maximum length of a prompt, in tokens.
pub(crate) const PROMPT_TOKENS: NonZeroUsize = NonZeroUsize::new(512).expect("it is not 0");

impl Options {
    /// Fills in defaults that depend on other options.
    pub(crate) fn completed(mut self) -> Self {
        if self.reward.is_empty() && self.judge.is_none() {
            self.reward = vec![if self.blog { BLOG_REWARD } else { "roberta" }.to_owned()];
        }
        let small = matches!(self.policy.as_str(), "t5" | "llama");
        self.lr = self.lr.or(Some(if small { 1e-4 } else { 1.41e-5 }));
        self
    }

    /// Refuses impossible settings, before anything is loaded.
    pub(crate) fn check(&self) -> Result<(), Box<dyn Error>> {
        self.ppo().check()?;
        if let Some(bound) = self.until_toxicity.filter(|bound| !(0. ..=1.).contains(bound)) {
            return Err(format!("--until-toxicity is {bound}; it is a probability").into());
        }
        if self.until_toxicity.is_some() && self.reward.is_empty() {
            let why = "a judge alone tells no toxicity; add a classifier by --reward";
            return Err(format!("--until-toxicity: {why}").into());
        }
        if self.reward.iter().any(|name| name == "judge") {
            let why = "it measures without having been trained on; reward with another (roberta)";
            return Err(format!("--reward is judge, the independent classifier: {why}").into());
        }
        Ok(())
    }

    /// Checks that there are as many dialogues as requested.
    pub(crate) fn check_dialogues(
        &self,
        train: usize,
        held_out: usize,
    ) -> Result<(), Box<dyn Error>> {
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

    pub(crate) fn kind(&self) -> Result<Kind, String> {
        match self.dtype.as_str() {
            "f32" => Ok(Kind::Float),
            "bf16" => Ok(Kind::BFloat16),
            other => Err(format!("--dtype is f32 or bf16, not `{other}`")),
        }
    }

    pub(crate) fn generation(&self, sampling: Sampling) -> GenerationConfig {
        GenerationConfig {
            max_new_tokens: self.max_new_tokens,
            // The blog's setting; if the end of sequence is suppressed, the run warns of negative
            // KL.
            min_new_tokens: if self.blog { 5 } else { 0 },
            sampling,
            batch_size: 64,
            ..GenerationConfig::default()
        }
    }

    pub(crate) fn ppo(&self) -> PpoConfig {
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
                    name: TOXICITY.to_owned(),
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

    /// All settings that determine the run, for the report.
    pub(crate) fn as_metadata(&self) -> Result<Metadata, Box<dyn Error>> {
        let (options, ppo) = (serde_json::to_value(self)?, serde_json::to_value(self.ppo())?);
        Ok([("options".to_owned(), options), ("ppo".to_owned(), ppo)].into_iter().collect())
    }

    pub(crate) fn memory(
        &self,
        policy: PathBuf,
        rewards: Vec<PathBuf>,
        longest_prompt: usize,
        load: LoadOptions,
    ) -> MemoryPlan {
        let ppo = self.ppo();
        let held = |folder| HeldModel::new(folder).in_kind(Kind::Float);
        MemoryPlan {
            rewards: rewards.into_iter().map(held).collect(),
            copy: true,
            trained: self
                .lora
                .map_or(TrainedWeights::All, |rank| TrainedWeights::Lora(rank.get() as usize)),
            microbatch: ppo.microbatch(),
            batch: ppo.generation.batch_size.max(ppo.batch_size),
            tokens: longest_prompt + self.max_new_tokens,
            ..MemoryPlan::new(policy, load.kind.unwrap_or(Kind::Float), load.device)
        }
    }
}
