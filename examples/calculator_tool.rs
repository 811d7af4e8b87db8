//! A calculator as a tool, twice: as a closure, and as a program of the system in a sandbox without network and
//! files. A scripted policy calls it and repeats its answer, so that the mechanics can be seen without a trained
//! model: which tokens are the policy's, and what a step of GRPO learns of them.
//!
//! ```sh
//! cargo run --release --example calculator_tool
//! ```

use std::sync::Arc;

use rlaif::core::{CodecError, Exchange, PromptRecord, Seed, Specials, TextCodec};
use rlaif::lm::{
    LmError, Sampled, Sampler, SamplerCall,
    generate::{Ask, FinishReason},
};
use rlaif::reinforce::{NamedAlgorithm, Reference, ReinforceConfig, ReinforceTrainer};
use rlaif::rl::env::{
    CallForm, CommandTool, FnTool, Program, Sandbox, SandboxLimits, Tool, ToolSpec, Tools,
};
use rlaif::rl::{EpisodeConfig, EpisodeSampler, KlForm, Prompt};
use rlaif_examples::{Characters, tiny_llama};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    rlaif::torch::init()?;
    play("a closure", Box::new(closure()))?;
    match command() {
        Ok(tool) => play("a program in a sandbox", Box::new(tool))?,
        // It needs Linux with Landlock, and Python to confine the program.
        Err(error) => println!("no sandbox here: {error}"),
    }
    Ok(())
}

fn spec() -> ToolSpec {
    ToolSpec::new("sum", "Adds whole numbers, as in 3+4.", &["expression"])
}

/// The tool as a Rust closure.
fn closure() -> impl Tool {
    FnTool::new(spec(), |arguments| {
        // Calls of the form `@sum 3+4` have one text without a name.
        let text = arguments["input"].as_str().ok_or("no text")?;
        let numbers: Result<Vec<i64>, _> = text.split('+').map(|n| n.trim().parse()).collect();
        let numbers = numbers.map_err(|error| format!("{text}: {error}"))?;
        Ok(numbers.iter().sum::<i64>().to_string())
    })
}

/// The tool as a program: a shell adds what is on its standard input.
fn command() -> Result<CommandTool, Box<dyn std::error::Error>> {
    let sandbox = Sandbox::new("python3", SandboxLimits::default())?;
    let script = "read expression; echo $(($expression))";
    let arguments = vec!["-c".to_owned(), script.to_owned()];
    let shell = Program::new("sh", &[])?;
    let tool = CommandTool::new(spec(), shell, arguments, sandbox).input("{expression}\n");
    tool.check()?;
    Ok(tool)
}

/// A step of GRPO on two prompts with two responses each. Every second response guesses instead of calling.
fn play(kind: &str, tool: Box<dyn Tool>) -> Result<(), Box<dyn std::error::Error>> {
    let mut config = ReinforceConfig {
        algorithm: NamedAlgorithm::DrGrpo,
        batch_size: 4,
        group_size: Some(2),
        kl: Some(KlForm::None),
        ..ReinforceConfig::default()
    };
    config.generation.max_new_tokens = 8;
    let mut trainer = ReinforceTrainer::new(tiny_llama()?, Reference::Given, config)?;
    let environment = Arc::new(Tools::new(CallForm::Plain, vec![tool])?);
    // An answer stands between two line breaks, as the codec has only a few characters.
    let episodes = EpisodeConfig { max_turns: 2, max_tokens: 40, ..EpisodeConfig::default() };
    let scripted = Scripted::default();
    let mut sampler =
        EpisodeSampler::new(scripted, environment, &CHARACTERS, episodes, Seed::new(1));

    let prompts: Vec<Prompt> = ["3+4", "2+5"]
        .into_iter()
        .map(|text| {
            let ids = CHARACTERS.encode(text, Specials::Exclude)?;
            Ok(Prompt::new(PromptRecord::new(text, text).with_reference("7"), ids))
        })
        .collect::<Result<_, CodecError>>()?;
    // The answer is the last turn.
    let right = |batch: &[Exchange<'_>]| {
        let score = |x: &Exchange<'_>| f32::from(u8::from(x.response.trim() == "7"));
        batch.iter().map(score).collect::<Vec<f32>>()
    };
    let mut none = std::iter::empty();
    let found = trainer.rollout(&prompts, &mut none, &mut sampler, &right)?;
    let experience = found.ok_or("no experience")?;
    let weights = trainer.weigh(&experience)?;
    let rollout = &experience.rollout;
    println!("{kind}:");
    for (row, text) in rollout.texts.iter().enumerate() {
        println!(
            "  {} {:<16} score {}, {} of {} tokens are learned",
            rollout.records[row].prompt,
            text.replace('\n', "/"),
            rollout.scores[row].unwrap_or(f64::NAN),
            rollout.tokens(row),
            rollout.responses.rows()[row].len(),
        );
    }
    let stats = trainer.update(&experience, &weights)?;
    println!("  calls answered: {}", stats.get("episodes/tools/answered"));
    Ok(())
}

/// Calls the tool with the prompt, and then repeats its answer. Every second response guesses `5`.
#[derive(Default)]
struct Scripted {
    turns: usize,
}

impl Sampler for Scripted {
    fn sample(&mut self, asks: &[Ask], call: SamplerCall<'_>) -> Result<Vec<Sampled>, LmError> {
        let first = self.turns == 0;
        self.turns += 1;
        let answer = |(row, ask): (usize, &Ask)| {
            let read = CHARACTERS.decode(&ask.prompt, Specials::Exclude)?;
            let text = match (first, row % 2) {
                (true, 0) => format!("@{read}"),
                (true, _) => "5".to_owned(),
                (false, _) => read.trim().rsplit('\n').next().unwrap_or_default().to_owned(),
            };
            let mut ids = CHARACTERS.encode(&text, Specials::Exclude)?;
            ids.push(1);
            Ok(Sampled {
                ids,
                log_probs: None,
                text: spoken(&text),
                finish: FinishReason::Eos,
                version: call.weights.version,
                played: None,
            })
        };
        asks.iter().enumerate().map(answer).collect()
    }
}

/// Tokens 2 to 11; the vocabulary of the model has 12 entries.
const CHARACTERS: Characters = Characters("..@\n+1234567");

/// The text with the name of the tool behind `@`, which is a part of that token.
fn spoken(text: &str) -> String {
    text.replace('@', "@sum ")
}
