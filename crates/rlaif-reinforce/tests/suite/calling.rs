//! The policy learns to call a calculator, with three seeds. With a learning rate of 0 it does not learn.

use std::sync::Arc;

use rlaif_core::{
    CodecError, Exchange, GenerationPrompt, Message, PromptRecord, Seed, Specials, TextCodec,
};
use rlaif_lm::LocalSampler;
use rlaif_models::LanguageModel;
use rlaif_reinforce::{
    NamedAlgorithm, Reference, ReinforceConfig, ReinforceTrainer,
    rl::{
        EpisodeConfig, EpisodeSampler, KlForm, Prompt,
        env::{CallForm, FnTool, ToolSpec, Tools},
    },
    train::{LearnConfig, OptimizerConfig, SftRow, SftTrainer},
};
use rlaif_testing::{
    Characters, alone,
    curves::{Panel, Picture},
};

use crate::guessing::model;

const STEPS: u64 = 60;
const RATE: f64 = 1e-3;
const SEEDS: [u64; 3] = [1, 2, 3];
const RIGHT: &str = "env/reward_mean";
/// The token of a call.
const CALL: u32 = 2;
/// The token of the digit 0.
const ZERO: u32 = 3;

/// The digits from 0 to 7, and a token for a call.
struct Octal;

impl TextCodec for Octal {
    fn name(&self) -> &'static str {
        "octal"
    }

    fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>, CodecError> {
        Characters("..@01234567").encode(text, specials)
    }

    fn decode(&self, ids: &[u32], specials: Specials) -> Result<String, CodecError> {
        Ok(Characters("..@01234567").decode(ids, specials)?.replace('@', "@sum "))
    }

    fn render_chat(&self, _: &[Message], _: GenerationPrompt) -> Result<String, CodecError> {
        Err(CodecError::NoChatTemplate { codec: "octal".to_owned() })
    }
}

/// The last octal digit of a sum of digits.
fn sum(text: &str) -> Option<u32> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(8)).collect();
    digits.filter(|digits| digits.len() == 3).map(|digits| digits.iter().sum::<u32>() % 8)
}

fn digits(seed: Seed, row: u64) -> Vec<u32> {
    (0..3).map(|at| ZERO + (seed.derive("digit", row * 3 + at).get() % 8) as u32).collect()
}

/// A model that knows the form of calls, as one that was fine-tuned for tools. Half of its demonstrations guess, and
/// half call a calculator, whose answers are random digits. Half of those repeat the answer, and the others guess.
fn warmed(seed: u64) -> LanguageModel {
    let model = model();
    let optimizer = OptimizerConfig { lr: 3e-3, ..OptimizerConfig::default() };
    let config = LearnConfig { optimizer, ..LearnConfig::default() };
    let steps = 500;
    let mut trainer = SftTrainer::new(&model, &config, steps).unwrap();
    let seed = Seed::new(seed).derive("demonstrations", 0);
    for step in 0..steps {
        let row = |row: u64| {
            let row = step * 64 + row;
            let operands = digits(seed, row);
            let random = |name| ZERO + (seed.derive(name, row).get() % 8) as u32;
            match row % 2 {
                0 => SftRow::new(operands, vec![random("guess"), 1]),
                _ => {
                    let call = [&[CALL], &*operands, &[1, random("answer")]].concat();
                    let learned = [vec![true; 5], vec![false, true, true]].concat();
                    let is_repeated = seed.derive("repeated", row).get().is_multiple_of(2);
                    let answer = if is_repeated { call[5] } else { random("guess") };
                    let response = [&*call, &[answer, 1]].concat();
                    SftRow { learned: Some(learned), ..SftRow::new(operands, response) }
                }
            }
        };
        let rows: Vec<SftRow> = (0..64).map(row).collect();
        trainer.step(&rows.iter().collect::<Vec<_>>()).unwrap();
    }
    drop(trainer);
    model
}

/// The metrics of each step.
fn run(algorithm: NamedAlgorithm, (seed, lr): (u64, f64), steps: u64) -> Vec<Vec<(String, f64)>> {
    let mut config = ReinforceConfig {
        algorithm,
        steps: STEPS,
        batch_size: 256,
        group_size: Some(8),
        kl: Some(KlForm::None),
        optimizer: OptimizerConfig { lr, ..OptimizerConfig::default() },
        seed: Seed::new(seed),
        ..ReinforceConfig::default()
    };
    config.generation.max_new_tokens = 5;
    let mut trainer = ReinforceTrainer::new(warmed(seed), Reference::Given, config).unwrap();
    let spec = ToolSpec::new(
        "sum",
        "Adds octal digits, as in 123; the last digit of the sum.",
        &["digits"],
    );
    let tool = FnTool::new(spec, |arguments| {
        let text = arguments["input"].as_str().ok_or("no text")?;
        sum(text).map(|sum| sum.to_string()).ok_or_else(|| "?".to_owned())
    });
    let tools = Arc::new(Tools::new(CallForm::Plain, vec![Box::new(tool)]).unwrap());
    let (before, after) = (String::new(), String::new());
    let episodes = EpisodeConfig { max_turns: 2, before, after, ..EpisodeConfig::default() };
    let mut sampler =
        EpisodeSampler::new(LocalSampler::new(&Octal), tools, &Octal, episodes, Seed::new(seed));
    let right = |batch: &[Exchange<'_>]| {
        let is_right = |x: &Exchange<'_>| {
            sum(x.prompt).is_some_and(|sum| sum.to_string() == x.response.trim())
        };
        batch.iter().map(|x| f32::from(u8::from(is_right(x)))).collect::<Vec<f32>>()
    };
    let step = |step: u64| {
        let prompt = |row: usize| {
            let ids = digits(Seed::new(seed).derive("prompts", step), row as u64);
            let text = Octal.decode(&ids, Specials::Exclude).unwrap();
            Prompt::new(PromptRecord::new(format!("{step}-{row}"), text), ids)
        };
        let prompts: Vec<Prompt> = (0..trainer.config().prompts_per_step()).map(prompt).collect();
        let none = &mut std::iter::empty();
        let (_, stats) = trainer.step(&prompts, none, &mut sampler, &right).unwrap();
        stats.metrics.iter().map(|(name, value)| (name.to_owned(), value)).collect()
    };
    (0..steps).map(step).collect()
}

/// The means of a metric over the first and the last five steps.
fn ends(steps: &[Vec<(String, f64)>], name: &str) -> (f64, f64) {
    let found = steps
        .iter()
        .map(|step| step.iter().find(|(found, _)| found == name).map_or(0., |(_, value)| *value));
    let found: Vec<f64> = found.collect();
    let mean = |found: &[f64]| found.iter().sum::<f64>() / found.len() as f64;
    (mean(&found[..5]), mean(&found[found.len() - 5..]))
}

#[test]
fn it_learns_to_call_a_tool_and_to_use_its_answer() {
    let _alone = alone();
    for seed in SEEDS {
        let steps = run(NamedAlgorithm::Grpo, (seed, RATE), STEPS);
        let (first, last) = ends(&steps, RIGHT);
        let (few, many) = ends(&steps, "episodes/tools/answered");
        eprintln!("{seed}: right {first:.3} to {last:.3}, calls {few:.0} to {many:.0}");
        assert!(first < 0.5 && last > 0.9, "{seed}: {first:.2} to {last:.2}");
        assert!(few < 200. && many > 240., "{seed}: calls {few:.0} to {many:.0}");
    }
    let (first, last) = ends(&run(NamedAlgorithm::Grpo, (1, 0.), 15), RIGHT);
    assert!((first - last).abs() < 0.1, "without learning: {first:.2} to {last:.2}");
}

/// Draws docs/tools-learning.svg from the metrics of these runs, which are kept in `target/learning/tools`. A debug
/// build tests the code with two steps of one run each, and does not change the picture.
#[test]
#[ignore = "writes a file of the documentation"]
fn draw_the_calls() {
    let _alone = alone();
    let picture = Picture::new("tools");
    let (count, steps) = if picture.is_trial() { (1, 2) } else { (4, STEPS) };
    let panel = |algorithm: NamedAlgorithm| {
        let runs = SEEDS.map(|seed| (seed, RATE)).into_iter().chain([(1, 0.)]);
        let runs = runs.take(count).map(|(seed, lr)| {
            let name = format!("{algorithm:?}-{seed}-{lr}").to_lowercase();
            picture.curve(&name, &run(algorithm, (seed, lr), steps), RIGHT)
        });
        let title = format!("{algorithm:?}");
        Panel { title, range: (0., 1.), level: None, runs: runs.collect() }
    };
    picture.draw(&[vec![panel(NamedAlgorithm::Grpo), panel(NamedAlgorithm::Rloo)]]);
}
