//! Code shared by the examples: models, dialogues, answers to held-out prompts.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rlaif::core::{
    CodecError, GenerationPrompt, Message, PromptRecord, Sample, Seed, Specials, TextCodec,
};
use rlaif::data::builtin::{self, BuiltinDialogue, Part};
use rlaif::data::corpora::{DIALOGUE_CHARACTERS, Hh, HhRecord};
use rlaif::data::{Dataset, Fraction, HubDataset, PromptBuilder, Reader, Source};
use rlaif::eval::Report;
use rlaif::hub::Hub;
use rlaif::lm::generate::GenerationConfig;
use rlaif::lm::{
    Draw, Forward, LocalSampler, Padding, Policy, Prompt, Reference, Sampled, SamplerCall,
    TokenBatch, Weights, policy_log_probs, sample,
};
use rlaif::models::{Config, LanguageModel};
use rlaif::tch::{Device, Kind, no_grad_guard};
use rlaif::torch::seeded;
use serde_json::json;

/// Prints the error of an example, if there is one, and returns its exit code.
#[must_use]
pub fn exit_code(result: Result<(), Box<dyn Error>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            rlaif::core::say(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Returns a model's folder: that of a built-in model (`t5`, `llama`, `roberta`, `judge`), a local
/// folder, or a download from the hub.
///
/// # Errors
/// A model that does not exist.
pub fn model(name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let built_in = match name {
        "t5" => "summary-t5",
        "llama" => "summary-llama",
        "roberta" => "toxicity-roberta",
        "judge" => "toxicity-bert",
        other => return Ok(rlaif::model_folder(other, None)?),
    };
    Ok(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../models")).join(built_in))
}

/// A Llama of one layer and 12 tokens, with the same random weights every time.
///
/// # Errors
/// None with the configuration below.
pub fn tiny_llama() -> Result<LanguageModel, Box<dyn Error>> {
    let config = Config::from_value(json!({
        "model_type": "llama", "vocab_size": 12, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 16,
        "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": null, "tie_word_embeddings": false,
    }));
    let fresh = || LanguageModel::random(config, Kind::Float, Device::Cpu);
    let model = seeded(7, fresh)??;
    model.parameters().train_where(|_| true);
    Ok(model)
}

/// Returns the first folder `runs/NAME-1`, `-2`, .. that does not exist yet.
#[must_use]
pub fn free_folder(name: &str) -> PathBuf {
    let nth = |n: u32| PathBuf::from(format!("runs/{name}-{n}"));
    (1..).map(nth).find(|folder| !folder.exists()).unwrap_or_else(|| nth(0))
}

/// Prompts to train on, and dissimilar prompts to measure with, from the built-in dialogues
/// (`builtin`), from a file of HH's rows, or from a data set of the hub.
///
/// # Errors
/// Rows that cannot be read or encoded.
pub fn dialogues(
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
    // Always the same split: held-out dialogues are held out from every run.
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

/// A response to each prompt, its text without white space around it. The random numbers before and
/// after training are the same.
///
/// # Errors
/// Errors of the policy and the tokenizer.
pub fn respond(
    policy: &LanguageModel,
    prompts: &[Prompt],
    how: &GenerationConfig,
    seed: Seed,
    codec: &dyn TextCodec,
) -> Result<Vec<Sampled>, Box<dyn Error>> {
    let draw = Draw { seed: seed.derive("evaluate", 0), step: 0 };
    let mut sampler = LocalSampler::new(codec);
    let call = SamplerCall { weights: Weights::of(policy), how, draw };
    let mut sampled = sample(&mut sampler, prompts, call)?;
    sampled.iter_mut().for_each(|response| response.text = response.text.trim().to_owned());
    Ok(sampled)
}

/// The samples to measure: each prompt's record with the text of its response.
#[must_use]
pub fn samples(prompts: &[Prompt], responses: &[Sampled]) -> Vec<Sample> {
    let sample = |(prompt, response): (&Prompt, &Sampled)| Sample {
        record: (*prompt.record).clone(),
        response: response.text.clone().into(),
    };
    prompts.iter().zip(responses).map(sample).collect()
}

/// Σ_t log π(y_t) − log π_ref(y_t) of each response; 0 without a reference, which is the policy itself
/// then.
///
/// # Errors
/// Errors of the models.
pub fn kl(
    policy: &LanguageModel,
    reference: &Reference,
    prompts: &[Prompt],
    responses: &[Sampled],
) -> Result<Vec<f64>, Box<dyn Error>> {
    let Some((reference, forward)) = reference.resolve(policy) else {
        return Ok(vec![0.; responses.len()]);
    };
    let _guard = no_grad_guard();
    let mut all = Vec::new();
    for (prompts, responses) in prompts.chunks(32).zip(responses.chunks(32)) {
        let x = prompts.iter().map(|prompt| prompt.ids.to_vec()).collect();
        let x = TokenBatch::collate(x, policy.spec(), Padding::Right)?;
        let y = responses.iter().map(|response| response.ids.clone()).collect();
        let y = TokenBatch::responses(y, policy.spec())?;
        let of = |model: &dyn Policy, forward| {
            policy_log_probs(model, &x, &y, forward, 1.).map(|got| got.log_probs)
        };
        let gap = of(policy, Forward::default())? - of(reference, forward)?;
        all.extend(Vec::<f64>::try_from(gap.sum_dim_intlist(1, false, Kind::Double))?);
    }
    Ok(all)
}

/// Ten held-out prompts with both responses, as text: the five with the largest change of score,
/// and five others.
#[must_use]
pub fn ten_examples(report: &Report) -> String {
    let mut samples: Vec<_> = report.comparison().samples.iter().collect();
    let every = (samples.len() / 5).max(1);
    let more: Vec<_> = samples.iter().copied().step_by(every).take(5).collect();
    samples.sort_by(|a, b| {
        let change = |s: &rlaif::eval::SampleRow| (s.score_after - s.score_before).abs();
        change(b).total_cmp(&change(a))
    });
    let text = |sample: &rlaif::eval::SampleRow| {
        format!(
            "{}\n  before ({:.2}) {}\n  after  ({:.2}) {}\n\n",
            sample.prompt.trim(),
            sample.score_before,
            sample.before,
            sample.score_after,
            sample.after
        )
    };
    samples.into_iter().take(5).chain(more).map(text).collect()
}

/// Prints a curve, eight lines high.
pub fn draw_curve(title: &str, values: &[f64]) {
    const HEIGHT: usize = 8;
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    println!("\n{title}");
    for line in (0..HEIGHT).rev() {
        let level = low + (high - low) * line as f64 / (HEIGHT - 1) as f64;
        let half = (high - low) / (HEIGHT - 1) as f64 / 2.;
        let marks: String =
            values.iter().map(|v| if (v - level).abs() <= half { '•' } else { ' ' }).collect();
        println!("{level:>7.2} │{marks}");
    }
    println!("        └{}", "─".repeat(values.len()));
}

/// A codec for tiny models: the id of a character is its place. Token 0 pads, 1 ends a text; neither has a character.
#[derive(Debug)]
pub struct Characters(pub &'static str);

impl TextCodec for Characters {
    fn name(&self) -> &str {
        "characters"
    }

    fn encode(&self, text: &str, _: Specials) -> Result<Vec<u32>, CodecError> {
        let id = |c| self.0.find(c).and_then(|at| u32::try_from(at).ok());
        Ok(text.chars().filter_map(id).collect())
    }

    fn decode(&self, ids: &[u32], _: Specials) -> Result<String, CodecError> {
        let text = ids.iter().filter(|id| **id > 1);
        Ok(text.filter_map(|id| self.0.chars().nth(*id as usize)).collect())
    }

    fn render_chat(&self, _: &[Message], _: GenerationPrompt) -> Result<String, CodecError> {
        Err(CodecError::NoChatTemplate { codec: "characters".to_owned() })
    }
}
