//! PPO learns: three tasks, two architectures, three seeds each, from fixed random weights; and
//! with a learning rate of 0 it does not.

use rlaif_core::{Exchange, PromptRecord, Seed, Specials, TextCodec};
use rlaif_lm::generate::Eos;
use rlaif_ppo::{
    PpoConfig, PpoTrainer, Prompt, Reference,
    train::{KlControl, OptimizerConfig},
};

use rlaif_testing::curves::{Panel, Picture};

use crate::common::{Family, Letters, policy, zero_head};

/// A task to learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    /// Responses of six letters.
    Length,
    /// A `Q` in every response.
    Keyword,
    /// The digits after those of the prompt, counting up.
    Digits,
}

/// The id of the digit 0 in the alphabet of [`Letters`], written `D`.
const ZERO: u32 = 4;

impl Task {
    fn score(self, x: &Exchange<'_>) -> f32 {
        match self {
            Self::Length => -(x.response.len() as f32 - 6.).abs() / 6.,
            Self::Keyword => f32::from(u8::from(x.response.contains('Q'))),
            Self::Digits => {
                let digit = |c: u8| u32::from(c).wrapping_sub(u32::from('@') + ZERO);
                let last = digit(*x.prompt.as_bytes().last().unwrap());
                let right =
                    x.response.bytes().zip(1..).filter(|(c, i)| digit(*c) == (last + i) % 10);
                right.count() as f32 / 4.
            }
        }
    }

    fn prompts(step: usize, n: usize) -> Vec<Prompt> {
        (0..n)
            .map(|i| {
                let draw = Seed::new(3).derive("prompt", (step * n + i) as u64).get();
                let first = (draw % 10) as u32;
                let length = 2 + (draw >> 32) as u32 % 3;
                let ids: Vec<u32> = (0..length).map(|j| ZERO + (first + j) % 10).collect();
                let text = Letters.decode(&ids, Specials::Exclude).unwrap();
                let id = format!("{step}-{i}");
                Prompt::new(PromptRecord::new(id, text), ids)
            })
            .collect()
    }

    /// Maximum length of a response, maximum number of steps, and the mean score over five steps
    /// that counts as learned. A policy that ignores the prompt gets at most 0.1 in
    /// [`Self::Digits`].
    fn terms(self) -> (usize, u64, f64) {
        match self {
            Self::Length => (12, 80, -0.1),
            Self::Keyword => (8, 30, 0.95),
            Self::Digits => (4, 120, 0.6),
        }
    }
}

/// Target of adaptive KL control, in nats per response. Four digits given with certainty are 14
/// nats away from random weights.
const KL_TARGET: f64 = 20.;
const SEEDS: [u64; 3] = [1, 2, 3];
const RATE: f64 = 1e-3;
/// With 32 responses per step, too few are right by chance: the policy becomes deterministic before
/// it has found the rule.
const BATCH: usize = 128;

#[derive(Default)]
struct Curve {
    scores: Vec<f64>,
    kl: Vec<f64>,
}

impl Curve {
    /// The mean score over the last five steps.
    fn recent(&self) -> f64 {
        let from = self.scores.len().saturating_sub(5);
        let last = &self.scores[from..];
        last.iter().sum::<f64>() / last.len() as f64
    }
}

/// Runs until `enough` returns `true`, or to the last step.
fn run(task: Task, family: Family, seed: u64, lr: f64, enough: impl Fn(&Curve) -> bool) -> Curve {
    let (longest, steps, _) = task.terms();
    let mut config = PpoConfig {
        steps,
        batch_size: BATCH,
        minibatch_size: BATCH / 4,
        // Without training, further epochs change nothing.
        epochs: if lr > 0. { 4 } else { 1 },
        value_coef: 0.5,
        optimizer: OptimizerConfig { lr, ..OptimizerConfig::default() },
        seed: Seed::new(seed),
        ..PpoConfig::default()
    };
    config.kl.control = KlControl::Adaptive { init: 0.01, target: KL_TARGET, horizon: 1000. };
    config.generation.max_new_tokens = longest;
    if task == Task::Digits {
        config.generation.eos = Eos::Ignored;
    }
    let own = policy(family, 21);
    let head = zero_head(&own);
    let reference = Reference::Frozen(Box::new(policy(family, 21)));
    let mut trainer = PpoTrainer::new(own, head, reference, config).unwrap();
    let reward = move |batch: &[Exchange<'_>]| batch.iter().map(|x| task.score(x)).collect();
    let mut curve = Curve::default();
    for step in 0..steps as usize {
        let (_, stats) = trainer.step(&Task::prompts(step, BATCH), &Letters, &reward).unwrap();
        curve.scores.push(stats.get("env/reward_mean"));
        curve.kl.push(stats.get("objective/kl"));
        if curve.scores.len() >= 5 && enough(&curve) {
            break;
        }
    }
    curve
}

fn check(task: Task) {
    let (_, steps, level) = task.terms();
    for family in [Family::T5, Family::Llama] {
        for seed in SEEDS {
            let curve = run(task, family, seed, RATE, |curve| curve.recent() >= level);
            let name = format!("{task:?}, {family:?}, seed {seed}");
            let reached = curve.recent();
            assert!(reached >= level, "{name}: {reached} after {steps} steps");
            let furthest = curve.kl.iter().copied().fold(0., f64::max);
            assert!(furthest < KL_TARGET, "{name}: KL {furthest}");

            let control = run(task, family, seed, 0., |curve| curve.recent() >= level);
            assert_eq!(control.scores.len() as u64, steps, "{name}: without learning");
            assert!(control.kl.iter().all(|kl| kl.abs() < 1e-4), "{name}: without learning");
        }
    }
}

#[test]
fn it_learns_to_hit_a_length() {
    check(Task::Length);
}

#[test]
fn it_learns_to_say_a_word() {
    check(Task::Keyword);
}

#[test]
fn it_learns_to_count_on() {
    check(Task::Digits);
}

/// Draws docs/ppo-learning.svg: every run to its last step, and one without training. A debug build
/// tests the code with five steps of one run each, and does not change the picture.
#[test]
#[ignore = "writes a file of the documentation"]
fn draw_the_curves() {
    let picture = Picture::new("ppo");
    let is_trial = picture.is_trial();
    let panel = |task: Task, family: Family| {
        let (_, _, level) = task.terms();
        let range = if task == Task::Length { (-1., 0.) } else { (0., 1.) };
        let runs = SEEDS.map(|seed| (seed, RATE)).into_iter().chain([(1, 0.)]);
        let runs = runs.take(if is_trial { 1 } else { 4 }).map(|(seed, lr)| {
            let curve = run(task, family, seed, lr, |_| is_trial);
            // Up to the last step, not only until the level is reached.
            assert!(curve.kl.iter().all(|kl| *kl < KL_TARGET), "{task:?}, {family:?}, {seed}");
            curve.scores
        });
        let title = format!("{task:?}, {family:?}");
        Panel { title, range, level: Some(level), runs: runs.collect() }
    };
    let tasks = [Task::Length, Task::Keyword, Task::Digits];
    let rows =
        [Family::T5, Family::Llama].map(|family| tasks.map(|task| panel(task, family)).to_vec());
    picture.draw(&rows);
}
