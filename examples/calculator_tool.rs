//! A calculator as a tool: a tiny language model that knows the form of calls learns by GRPO to call it, and to repeat
//! its answer instead of guessing. In training, the tool is a closure. Afterwards the same policy calls a program of
//! the system in a sandbox without network and files.
//!
//! ```sh
//! cargo run --release --example calculator_tool
//! ```

use std::sync::Arc;

use rlaif::core::{
    CodecError, Exchange, GenerationPrompt, Message, PromptRecord, Seed, Specials, TextCodec,
};
use rlaif::lm::{Draw, LocalSampler, SamplerCall, Weights, generate::GenerationConfig, play};
use rlaif::models::LanguageModel;
use rlaif::reinforce::{NamedAlgorithm, Reference, ReinforceConfig, ReinforceTrainer};
use rlaif::rl::env::{
    CallForm, CommandTool, FnTool, Program, Sandbox, SandboxLimits, Tool, ToolSpec, Tools,
};
use rlaif::rl::{EpisodeConfig, EpisodeSampler, KlForm, Prompt};
use rlaif::train::{LearnConfig, OptimizerConfig, SftRow, SftTrainer};
use rlaif_examples::{Characters, draw_curve, tiny_llama};

const STEPS: u64 = 60;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    rlaif::torch::init()?;
    // The model is so small that a second thread would cost more than it gives.
    rlaif::torch::set_intra_op_threads(1)?;
    let policy = tiny_llama()?;
    show_the_form(&policy)?;

    let mut config = ReinforceConfig {
        algorithm: NamedAlgorithm::Grpo,
        steps: STEPS,
        batch_size: 256,
        group_size: Some(8),
        kl: Some(KlForm::None),
        optimizer: OptimizerConfig { lr: 1e-3, ..OptimizerConfig::default() },
        seed: Seed::new(1),
        ..ReinforceConfig::default()
    };
    // A call is five tokens: `@`, three digits, and the end.
    config.generation.max_new_tokens = 5;
    let how = config.generation.clone();
    let mut trainer = ReinforceTrainer::new(policy, Reference::Given, config)?;
    let mut sampler = sampler(Box::new(closure()))?;
    // A reward reads the last turn.
    let right = |batch: &[Exchange<'_>]| -> Vec<f32> {
        let is_right = |x: &Exchange<'_>| sum(x.prompt).ok().as_deref() == Some(x.response.trim());
        batch.iter().map(|x| f32::from(u8::from(is_right(x)))).collect()
    };
    let mut found = Vec::new();
    for step in 0..STEPS {
        let prompts = prompts(step, trainer.config().prompts_per_step() as u64)?;
        let (experience, stats) =
            trainer.step(&prompts, &mut std::iter::empty(), &mut sampler, &right)?;
        found.push(stats.get("env/reward_mean"));
        if let Some(experience) = experience.filter(|_| (step + 1) % 10 == 0) {
            println!(
                "step {:>3}  right {:>5.3}  calls answered {:>3}  e.g. {} -> {}",
                step + 1,
                stats.get("env/reward_mean"),
                stats.metrics.get("episodes/tools/answered").unwrap_or(0.),
                experience.rollout.records[0].prompt,
                experience.rollout.texts[0],
            );
        }
    }
    draw_curve("share of right sums by step", &found);
    match command() {
        Ok(tool) => in_a_sandbox(trainer.policy(), tool, &how),
        // It needs Linux with Landlock, and Python to confine the program.
        Err(error) => {
            println!("no sandbox here: {error}");
            Ok(())
        }
    }
}

/// Trains the form of calls, which a model for tools has learned before. Half of the demonstrations guess, and half
/// call a tool, whose answers are random digits. Half of those repeat the answer, and the others guess.
fn show_the_form(policy: &LanguageModel) -> Result<(), Box<dyn std::error::Error>> {
    const SHOWN: u64 = 500;
    let optimizer = OptimizerConfig { lr: 3e-3, ..OptimizerConfig::default() };
    let config = LearnConfig { optimizer, ..LearnConfig::default() };
    let mut trainer = SftTrainer::new(policy, &config, SHOWN)?;
    let seed = Seed::new(3);
    for step in 0..SHOWN {
        let row = |row: u64| {
            let (digits, row) = (digits(step, row), step * 64 + row);
            let random = |name| 3 + (seed.derive(name, row).get() % 8) as u32;
            if row.is_multiple_of(2) {
                return SftRow::new(digits, vec![random("guess"), 1]);
            }
            let sum = random("sum");
            let is_repeated = seed.derive("repeated", row).get().is_multiple_of(2);
            let answer = if is_repeated { sum } else { random("guess") };
            let response = [&[2], &*digits, &[1, sum, answer, 1]].concat();
            // The tool's answer is read, and not learned.
            let learned = (0..response.len()).map(|at| at != 5).collect();
            SftRow { learned: Some(learned), ..SftRow::new(digits, response) }
        };
        let rows: Vec<SftRow> = (0..64).map(row).collect();
        trainer.step(&rows.iter().collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Episodes of two turns with a tool.
fn sampler(tool: Box<dyn Tool>) -> Result<EpisodeSampler<'static>, Box<dyn std::error::Error>> {
    let environment = Arc::new(Tools::new(CallForm::Plain, vec![tool])?);
    let (before, after) = (String::new(), String::new());
    let episodes = EpisodeConfig { max_turns: 2, before, after, ..EpisodeConfig::default() };
    let local = LocalSampler::new(&Octal);
    Ok(EpisodeSampler::new(local, environment, &Octal, episodes, Seed::new(1)))
}

fn spec() -> ToolSpec {
    ToolSpec::new("sum", "Adds three octal digits, as in 123, modulo 8.", &["digits"])
}

/// The tool as a Rust closure.
fn closure() -> impl Tool {
    // Calls of the form `@sum 123` have one text without a name.
    FnTool::new(spec(), |arguments| sum(arguments["input"].as_str().ok_or("no text")?))
}

fn sum(text: &str) -> Result<String, String> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(8)).collect();
    let digits = digits.filter(|digits| digits.len() == 3).ok_or("three octal digits, please")?;
    Ok((digits.iter().sum::<u32>() % 8).to_string())
}

/// The tool as a program: a shell adds the digits on its standard input.
fn command() -> Result<CommandTool, Box<dyn std::error::Error>> {
    let sandbox = Sandbox::new("python3", SandboxLimits::default())?;
    let script = "read d; echo $(((d / 100 % 10 + d / 10 % 10 + d % 10) % 8))";
    let arguments = vec!["-c".to_owned(), script.to_owned()];
    let shell = Program::new("sh", &[])?;
    // The 1 keeps the shell from reading a number that begins with 0 as an octal one.
    let script_input = "1{digits}\n";
    let tool = CommandTool::new(spec(), shell, arguments, sandbox).input(script_input);
    tool.check()?;
    Ok(tool)
}

/// Eight new sums, with the program as the tool.
fn in_a_sandbox(
    policy: &LanguageModel,
    tool: CommandTool,
    how: &GenerationConfig,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut sampler = sampler(Box::new(tool))?;
    let draw = Draw { seed: Seed::new(5), step: 0 };
    let prompts = prompts(STEPS, 8)?;
    let call = SamplerCall { weights: Weights::of(policy), how, draw };
    println!("the tool as a program in a sandbox:");
    for (prompt, played) in prompts.iter().zip(play(&mut sampler, &prompts, call)?) {
        let answer = played.played.map(|played| played.answer).unwrap_or_default();
        let verdict = match sum(&prompt.record.prompt)? == answer.trim() {
            true => "right",
            false => "wrong",
        };
        println!("  {} -> {:<12} {verdict}", prompt.record.prompt, played.text);
    }
    Ok(())
}

/// Three random digits as tokens.
fn digits(step: u64, row: u64) -> Vec<u32> {
    let seed = Seed::new(2).derive("digits", step).derive("row", row);
    (0..3).map(|at| 3 + (seed.derive("digit", at).get() % 8) as u32).collect()
}

/// New prompts for every step.
fn prompts(step: u64, n: u64) -> Result<Vec<Prompt>, CodecError> {
    let prompt = |row| {
        let ids = digits(1000 + step, row);
        let text = Octal.decode(&ids, Specials::Exclude)?;
        Ok(Prompt::new(PromptRecord::new(format!("{step}-{row}"), text), ids))
    };
    (0..n).map(prompt).collect()
}

/// Token 0 pads, 1 ends a turn, 2 begins a call, and 3 to 10 are the octal digits.
struct Octal;

const CHARACTERS: Characters = Characters("..@01234567");

impl TextCodec for Octal {
    fn name(&self) -> &str {
        "octal"
    }

    fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>, CodecError> {
        CHARACTERS.encode(text, specials)
    }

    /// The name of the tool is a part of the token of a call.
    fn decode(&self, ids: &[u32], specials: Specials) -> Result<String, CodecError> {
        Ok(CHARACTERS.decode(ids, specials)?.replace('@', "@sum "))
    }

    fn render_chat(&self, _: &[Message], _: GenerationPrompt) -> Result<String, CodecError> {
        Err(CodecError::NoChatTemplate { codec: "octal".to_owned() })
    }
}
