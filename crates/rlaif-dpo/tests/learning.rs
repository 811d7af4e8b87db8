//! Held-out preference accuracy rises on pairs made by a rule, offline and online.

use rlaif_core::{
    CodecError, Exchange, GenerationPrompt, Message, PromptRecord, Seed, Specials, TextCodec,
};
use rlaif_dpo::{DpoConfig, DpoTrainer, OnlineConfig, PairRow, Reference};
use rlaif_lm::{
    Draw, RecordedSampler, Sampled,
    generate::{FinishReason, GenerationConfig},
};
use rlaif_models::{Config, LanguageModel};
use rlaif_train::OptimizerConfig;
use tch::{Device, Kind};

const LLAMA: &str = r#"{"model_type": "llama", "vocab_size": 32, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "eos_token_id": 1}"#;
const T5: &str = r#"{"model_type": "t5", "vocab_size": 32, "d_model": 32, "d_kv": 8, "d_ff": 48,
    "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}"#;

fn model(json: &str) -> LanguageModel {
    tch::manual_seed(11);
    let config = Config::from_value(serde_json::from_str(json).unwrap());
    LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap()
}

/// Ids 2 to 31; words that end in an even id are polite. The chosen response is the politer one.
fn rows(from: u64, count: u64) -> Vec<PairRow> {
    let draw = |i: u64, what: &str, n: u64| Seed::new(i).derive(what, 0).get() % n;
    let response = |i: u64, what: &str, polite: u64| -> Vec<u32> {
        let length = 3 + draw(i, &format!("{what} length"), 5);
        let word = |t: u64| {
            let seven_of_eight = draw(i, &format!("{what} odd {t}"), 8) > 0;
            let parity = if seven_of_eight { polite } else { 1 - polite };
            2 + 2 * draw(i, &format!("{what} {t}"), 15) as u32 + parity as u32
        };
        (0..length).map(word).chain([1]).collect()
    };
    (from..from + count)
        .map(|i| PairRow {
            id: i.to_string(),
            prompt: (0..4).map(|t| 2 + draw(i, &format!("prompt {t}"), 30) as u32).collect(),
            chosen: response(i, "chosen", 0),
            rejected: response(i, "rejected", 1),
            margin: None,
        })
        .collect()
}

fn config(lr: f64) -> DpoConfig {
    let optimizer = OptimizerConfig { lr, ..OptimizerConfig::default() };
    DpoConfig { optimizer, ..DpoConfig::default() }
}

#[test]
fn held_out_pairs_are_told_apart_after_training() {
    let (train, held_out) = (rows(0, 320), rows(10_000, 100));
    for json in [LLAMA, T5] {
        let mut trainer = DpoTrainer::new(model(json), Reference::Given, config(3e-3), 40).unwrap();
        let sums = trainer.reference_of_pairs(&train, None).unwrap();
        let of_held_out = trainer.reference_of_pairs(&held_out, None).unwrap();
        let before = trainer.evaluate(&held_out, Some(&of_held_out)).unwrap();
        assert!((before.loss - 2f64.ln()).abs() < 1e-5);
        assert!(before.accuracy().ci95.1 < 0.75, "{:?}", before.accuracy());
        for epoch in 0..2 {
            for (at, batch) in train.chunks(16).enumerate() {
                let given = &sums.rows()[at * 16..][..batch.len()];
                let batch: Vec<&PairRow> = batch.iter().collect();
                let stats = trainer.update_pairs(&batch, Some(given)).unwrap();
                assert!(epoch + at > 0 || (stats.loss - 2f64.ln()).abs() < 1e-5);
            }
        }
        let after = trainer.evaluate(&held_out, Some(&of_held_out)).unwrap();
        // Both intervals, so that the rise is beyond chance.
        assert!(after.accuracy().ci95.0 > 0.85, "{:?}", after.accuracy());
        let likelier = [&before, &after].map(|evaluation| evaluation.likelihood_accuracy());
        assert!(likelier[1].ci95.0 > likelier[0].ci95.1, "{likelier:?}");
        assert!(after.margin() > before.margin() && after.loss < before.loss);
    }
}

/// An id is a character, from `a` on.
struct Letters;

impl TextCodec for Letters {
    fn name(&self) -> &'static str {
        "letters"
    }

    fn encode(&self, text: &str, _: Specials) -> Result<Vec<u32>, CodecError> {
        Ok(text.chars().map(|c| u32::from(c) - u32::from('a')).collect())
    }

    fn decode(&self, ids: &[u32], _: Specials) -> Result<String, CodecError> {
        let letter = |&id: &u32| char::from_u32(u32::from('a') + id).unwrap_or('?');
        Ok(ids.iter().filter(|&&id| id != 1).map(letter).collect())
    }

    fn render_chat(&self, _: &[Message], _: GenerationPrompt) -> Result<String, CodecError> {
        unreachable!("prompts are plain text")
    }
}

/// Share of a response's letters that are even ids.
fn politeness(response: &str) -> f32 {
    let even = response.chars().filter(|&c| (u32::from(c) - u32::from('a')).is_multiple_of(2));
    even.count() as f32 / response.chars().count().max(1) as f32
}

#[test]
fn online_the_policy_comes_to_give_what_the_reward_prefers() {
    let prompts: Vec<PromptRecord> = (0..16u8)
        .map(|i| {
            let letter = |k: u8| char::from(b'c' + (i * 7 + k * 5) % 24);
            PromptRecord::new(i.to_string(), (0..4).map(letter).collect::<String>())
        })
        .collect();
    let reward = |batch: &[Exchange<'_>]| -> Vec<f32> {
        batch.iter().map(|exchange| politeness(exchange.response)).collect()
    };
    let online = OnlineConfig {
        generation: GenerationConfig { max_new_tokens: 8, ..GenerationConfig::default() },
        ..OnlineConfig::default()
    };
    let mut trainer =
        DpoTrainer::new(model(LLAMA), Reference::frozen(model(LLAMA)), config(4e-3), 20).unwrap();
    let mut scores = Vec::new();
    for step in 0..20 {
        let batch =
            trainer.sample_pairs(&prompts, &Letters, &reward, &online, Seed::new(5), step).unwrap();
        if step == 0 {
            let again = trainer
                .sample_pairs(&prompts, &Letters, &reward, &online, Seed::new(5), step)
                .unwrap();
            assert_eq!(again, batch);
            let of = &batch.report;
            assert_eq!(of.pairs + of.identical + of.ties + of.unscored, of.prompts);
            assert!(batch.rows.iter().all(|row| row.margin > Some(0.)));
            let contest = &batch.contests[0];
            for (score, response) in contest.scores.iter().zip(&contest.responses) {
                assert_eq!(*score, Some(f64::from(politeness(response))));
            }
        }
        scores.push(batch.report.mean_score);
        let pairs: Vec<&PairRow> = batch.rows.iter().collect();
        trainer.update_pairs(&pairs, None).unwrap();
    }
    let mean = |scores: &[f64]| scores.iter().sum::<f64>() / scores.len() as f64;
    let (first, last) = (mean(&scores[..4]), mean(&scores[15..]));
    assert!(last > first + 0.2, "from {first} to {last}");
}

#[test]
fn an_online_batch_without_a_difference_teaches_nothing() {
    let prompts = [PromptRecord::new("0", "cdef")];
    let same = |batch: &[Exchange<'_>]| vec![1.; batch.len()];
    let trainer = DpoTrainer::new(model(LLAMA), Reference::Given, config(1e-3), 1).unwrap();
    let mut online = OnlineConfig {
        generation: GenerationConfig { max_new_tokens: 6, ..GenerationConfig::default() },
        ..OnlineConfig::default()
    };
    let batch = trainer.sample_pairs(&prompts, &Letters, &same, &online, Seed::new(1), 0).unwrap();
    assert!(batch.rows.is_empty());
    assert_eq!(batch.report.ties + batch.report.identical, 1);
    // A response that does not end by itself is worth less.
    online.unfinished_penalty = 1.;
    let finished = |batch: &rlaif_dpo::OnlineBatch| batch.report.finished;
    let batch = trainer.sample_pairs(&prompts, &Letters, &same, &online, Seed::new(1), 0).unwrap();
    assert_eq!(batch.rows.len(), usize::from(finished(&batch) == 0.5));
}

/// Two prompts, of which the policy writes letters.
fn two_prompts() -> [PromptRecord; 2] {
    [PromptRecord::new("first", "cdef"), PromptRecord::new("second", "ghij")]
}

#[test]
fn online_responses_end_before_a_stop_string() {
    let seen = std::sync::Mutex::new(Vec::new());
    let reward = |batch: &[Exchange<'_>]| -> Vec<f32> {
        seen.lock().unwrap().extend(batch.iter().map(|exchange| exchange.response.to_owned()));
        batch.iter().map(|exchange| politeness(exchange.response)).collect()
    };
    let trainer = DpoTrainer::new(model(LLAMA), Reference::Given, config(1e-3), 1).unwrap();
    let stops: Vec<String> = ('a'..='z').step_by(2).map(String::from).collect();
    let online = OnlineConfig {
        generation: GenerationConfig {
            max_new_tokens: 12,
            stop_strings: stops.clone(),
            ..GenerationConfig::default()
        },
        ..OnlineConfig::default()
    };
    let prompts = two_prompts();
    let batch =
        trainer.sample_pairs(&prompts, &Letters, &reward, &online, Seed::new(3), 0).unwrap();
    let texts: Vec<&String> = batch.contests.iter().flat_map(|of| &of.responses).collect();
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.len(), 4);
    for text in texts.into_iter().chain(&seen) {
        assert!(stops.iter().all(|stop| !text.contains(stop.as_str())), "{text}");
    }
    assert_eq!(batch.report.finished, 1.);
}

#[test]
fn an_online_response_depends_on_its_record_and_not_on_its_place() {
    let reward = |batch: &[Exchange<'_>]| -> Vec<f32> {
        batch.iter().map(|exchange| politeness(exchange.response)).collect()
    };
    let trainer = DpoTrainer::new(model(LLAMA), Reference::Given, config(1e-3), 1).unwrap();
    let online = OnlineConfig {
        generation: GenerationConfig { max_new_tokens: 12, ..GenerationConfig::default() },
        ..OnlineConfig::default()
    };
    let contests = |prompts: &[PromptRecord]| {
        trainer.sample_pairs(prompts, &Letters, &reward, &online, Seed::new(3), 0).unwrap().contests
    };
    let [first, second] = two_prompts();
    let both = contests(&[first.clone(), second.clone()]);
    let swapped = contests(&[second.clone(), first]);
    assert_eq!(both[0], swapped[1]);
    assert_eq!(both[1], swapped[0]);
    assert_eq!(contests(&[second])[0], both[1]);
    assert_ne!(both[0].responses[0], both[0].responses[1]);
}

#[test]
fn online_pairs_can_be_made_of_recorded_responses() {
    let reward = |batch: &[Exchange<'_>]| -> Vec<f32> {
        batch.iter().map(|exchange| politeness(exchange.response)).collect()
    };
    let trainer = DpoTrainer::new(model(LLAMA), Reference::Given, config(1e-3), 1).unwrap();
    let response = |text: &str| Sampled {
        ids: Letters.encode(text, Specials::Exclude).unwrap(),
        log_probs: None,
        text: text.to_owned(),
        finish: FinishReason::Eos,
        version: 0,
    };
    let mut recorded = RecordedSampler::new(["cd", "ce", "gd", "dd"].map(response).to_vec());
    let online = OnlineConfig::default();
    let draw = Draw { seed: Seed::new(1), step: 0 };
    let batch = trainer
        .sample_pairs_from(&mut recorded, &two_prompts(), &Letters, &reward, &online, draw)
        .unwrap();
    let chosen: Vec<&[u32]> = batch.rows.iter().map(|row| &row.chosen[..]).collect();
    let [second, third] = ["ce", "gd"].map(|text| response(text).ids);
    assert_eq!(chosen, [second, third]);
    let error = trainer
        .sample_pairs_from(&mut recorded, &two_prompts(), &Letters, &reward, &online, draw)
        .unwrap_err();
    assert!(error.to_string().contains("4 responses were recorded"), "{error}");
}
