//! Held-out preference accuracy rises on pairs made by a rule, offline and online.

use rlaif_core::{
    CodecError, Exchange, Fault, GenerationPrompt, Message, PromptRecord, RewardError, RewardModel,
    Score, Scores, Seed, Specials, TextCodec,
};
use rlaif_dpo::{
    Contest, DpoConfig, DpoTask, DpoTrainer, HeldOutRows, OnlineConfig, Reference, TokenPair,
    TrainRows,
};
use rlaif_lm::{
    Draw, LocalSampler, Policy, RecordedSampler, Sampled,
    generate::{FinishReason, GenerationConfig, Sampling},
};
use rlaif_models::{Config, LanguageModel};
use rlaif_rl::{Prompt, Symptom};
use rlaif_testing::drawn;
use rlaif_train::{Checkpoints, Fit, Keep, OptimizerConfig};
use tch::{Device, Kind};

const LLAMA: &str = r#"{"model_type": "llama", "vocab_size": 32, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "eos_token_id": 1}"#;
const T5: &str = r#"{"model_type": "t5", "vocab_size": 32, "d_model": 32, "d_kv": 8, "d_ff": 48,
    "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}"#;

fn model(json: &str) -> LanguageModel {
    let config = Config::from_value(serde_json::from_str(json).unwrap());
    drawn(11, || LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap())
}

/// Ids 2 to 31; words that end in an even id are polite. The chosen response is the politer one.
fn rows(from: u64, count: u64) -> Vec<TokenPair> {
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
        .map(|i| TokenPair {
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
                let batch: Vec<&TokenPair> = batch.iter().collect();
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

/// The prompts with the ids that the policy reads.
fn opened(records: impl IntoIterator<Item = PromptRecord>) -> Vec<Prompt> {
    let ids = |record: &PromptRecord| Letters.encode(&record.prompt, Specials::Exclude).unwrap();
    records.into_iter().map(|record| Prompt::new(record.clone(), ids(&record))).collect()
}

/// Share of a response's letters that are even ids.
fn politeness(response: &str) -> f32 {
    let even = response.chars().filter(|&c| (u32::from(c) - u32::from('a')).is_multiple_of(2));
    even.count() as f32 / response.chars().count().max(1) as f32
}

#[test]
fn online_the_policy_comes_to_give_what_the_reward_prefers() {
    let prompts = opened((0..16u8).map(|i| {
        let letter = |k: u8| char::from(b'c' + (i * 7 + k * 5) % 24);
        PromptRecord::new(i.to_string(), (0..4).map(letter).collect::<String>())
    }));
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
        let mut sampler = LocalSampler::new(&Letters);
        let draw = Draw { seed: Seed::new(5), step };
        let batch = trainer.sample_pairs(&mut sampler, &prompts, &reward, &online, draw).unwrap();
        if step == 0 {
            let again =
                trainer.sample_pairs(&mut sampler, &prompts, &reward, &online, draw).unwrap();
            assert_eq!(again, batch);
            assert_eq!(batch.unscored, None);
            let of = &batch.report;
            assert_eq!(of.pairs + of.identical + of.ties + of.unscored, of.prompts);
            assert!(batch.rows.iter().all(|row| row.margin > Some(0.)));
            let contest = &batch.contests[0];
            for (score, response) in contest.scores.iter().zip(&contest.responses) {
                assert_eq!(*score, Some(f64::from(politeness(&response.text))));
            }
        }
        scores.push(batch.report.mean_score);
        let pairs: Vec<&TokenPair> = batch.rows.iter().collect();
        trainer.update_pairs(&pairs, None).unwrap();
    }
    let mean = |scores: &[f64]| scores.iter().sum::<f64>() / scores.len() as f64;
    let (first, last) = (mean(&scores[..4]), mean(&scores[15..]));
    assert!(last > first + 0.2, "from {first} to {last}");
}

#[test]
fn an_online_batch_without_a_difference_teaches_nothing() {
    let prompts = opened([PromptRecord::new("0", "cdef")]);
    let mut sampler = LocalSampler::new(&Letters);
    let draw = Draw { seed: Seed::new(1), step: 0 };
    let same = |batch: &[Exchange<'_>]| vec![1.; batch.len()];
    let trainer = DpoTrainer::new(model(LLAMA), Reference::Given, config(1e-3), 1).unwrap();
    let mut online = OnlineConfig {
        generation: GenerationConfig { max_new_tokens: 6, ..GenerationConfig::default() },
        ..OnlineConfig::default()
    };
    let batch = trainer.sample_pairs(&mut sampler, &prompts, &same, &online, draw).unwrap();
    assert!(batch.rows.is_empty());
    assert_eq!(batch.report.ties + batch.report.identical, 1);
    // A response that does not end by itself is worth less.
    online.missing_eos_penalty = 1.;
    let finished = |batch: &rlaif_dpo::OnlineBatch| batch.report.finished;
    let batch = trainer.sample_pairs(&mut sampler, &prompts, &same, &online, draw).unwrap();
    assert_eq!(batch.rows.len(), usize::from(finished(&batch) == 0.5));
}

/// Two prompts, of which the policy writes letters.
fn two_prompts() -> Vec<Prompt> {
    opened([PromptRecord::new("first", "cdef"), PromptRecord::new("second", "ghij")])
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
    let mut sampler = LocalSampler::new(&Letters);
    let draw = Draw { seed: Seed::new(3), step: 0 };
    let batch = trainer.sample_pairs(&mut sampler, &two_prompts(), &reward, &online, draw).unwrap();
    let texts: Vec<&String> =
        batch.contests.iter().flat_map(|of| &of.responses).map(|response| &response.text).collect();
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
    let contests = |prompts: &[Prompt]| -> Vec<Contest> {
        let mut sampler = LocalSampler::new(&Letters);
        let draw = Draw { seed: Seed::new(3), step: 0 };
        trainer.sample_pairs(&mut sampler, prompts, &reward, &online, draw).unwrap().contests
    };
    let [first, second] = <[Prompt; 2]>::try_from(two_prompts()).unwrap();
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
        played: None,
    };
    let mut recorded = RecordedSampler::new(["cd", "ce", "gd", "dd"].map(response).to_vec());
    let online = OnlineConfig::default();
    let draw = Draw { seed: Seed::new(1), step: 0 };
    let prompts = two_prompts();
    let batch = trainer.sample_pairs(&mut recorded, &prompts, &reward, &online, draw).unwrap();
    let chosen: Vec<&[u32]> = batch.rows.iter().map(|row| &row.chosen[..]).collect();
    let [second, third] = ["ce", "gd"].map(|text| response(text).ids);
    assert_eq!(chosen, [second, third]);
    let error = trainer.sample_pairs(&mut recorded, &prompts, &reward, &online, draw).unwrap_err();
    assert!(error.to_string().contains("4 responses were recorded"), "{error}");
}

#[test]
fn an_online_batch_without_a_verdict_is_an_error_with_the_reason() {
    /// A judge that scores the first responses only.
    struct Down(usize);
    impl RewardModel for Down {
        fn name(&self) -> &'static str {
            "judge"
        }
        fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
            let score = |row: usize| (row < self.0).then(|| Score::new(row as f32).unwrap());
            let mut scores = Scores::new((0..batch.len()).map(score).collect());
            scores.reasons = vec![(self.0, "http://h:9: the connection broke".to_owned())];
            Ok(scores)
        }
    }
    let online = OnlineConfig::default();
    let partly = Down(3);
    let mut task = recorded_task(&partly, &online, 1);
    let step = task.step(&[0, 1]).unwrap();
    assert_eq!(step.metrics.get("online/unscored"), Some(1.));
    let [note] = step.notes.as_slice() else { panic!("{:?}", step.notes) };
    assert!(note.contains("`judge` gave no verdict on 1 of 4 responses of this step"), "{note}");
    assert!(note.contains("record `second`") && note.contains("http://h:9:"), "{note}");
    // Told once.
    assert!(task.step(&[0, 1]).unwrap().notes.is_empty());

    let down = Down(0);
    let mut task = recorded_task(&down, &online, 1);
    let error = task.step(&[0, 1]).unwrap_err();
    assert!(!error.is_users());
    let said = "reward `judge` gave none of the batch's responses a score";
    let error = error.to_string();
    assert!(error.contains(said) && error.contains("http://h:9: the connection broke"), "{error}");
}

/// Online training on recorded responses, four to a step.
fn recorded_task<'a>(
    reward: &'a dyn RewardModel,
    config: &'a OnlineConfig,
    seed: u64,
) -> DpoTask<'a, LanguageModel> {
    let recorded = ["cd", "ce", "gd", "dd"].map(|text| Sampled {
        ids: Letters.encode(text, Specials::Exclude).unwrap(),
        log_probs: None,
        text: text.to_owned(),
        finish: FinishReason::Length,
        version: 0,
        played: None,
    });
    let config_of_trainer = self::config(1e-3);
    let trainer =
        DpoTrainer::new(model(LLAMA), Reference::frozen(model(LLAMA)), config_of_trainer, 9);
    let prompts = TrainRows::Prompts(two_prompts());
    let folder = std::path::Path::new("no sums are kept");
    let held_out = HeldOutRows::Pairs(Vec::new());
    let task = DpoTask::new(trainer.unwrap(), prompts, held_out, folder).unwrap();
    let task = task.online(&Letters, reward, config, Seed::new(seed)).unwrap();
    task.sampler(RecordedSampler::new(vec![recorded; 4].concat())).samples(3)
}

#[test]
fn an_online_task_takes_a_sampler_and_tells_what_it_sees() {
    let polite = |batch: &[Exchange<'_>]| -> Vec<f32> {
        batch.iter().map(|exchange| politeness(exchange.response)).collect()
    };
    let online = OnlineConfig::default();
    let mut task = recorded_task(&polite, &online, 1);
    // The configuration has no pad id, so it is the end of sequence.
    assert!(task.warnings()[0].contains("`pad_token_id` is 1"), "{:?}", task.warnings());
    let first = task.step(&[0, 1]).unwrap();
    let rows = &first.samples;
    assert_eq!(rows.len(), 3);
    let of = |key: &str| rows.iter().map(|row| row[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("id"), ["first", "first", "second"]);
    assert_eq!(of("response"), ["cd", "ce", "gd"]);
    assert_eq!(of("score"), [0.5, 1., 0.5]);
    assert_eq!(of("chosen"), [false, true, true]);
    assert_eq!((&rows[0]["step"], &rows[0]["prompt"]), (&1.into(), &"cdef".into()));
    assert_eq!(rows[0]["finish_reason"], "length");
    let symptoms = |task: &mut DpoTask<'_, _>| -> Vec<String> {
        let findings = task.step(&[0, 1]).unwrap().findings;
        findings.into_iter().map(|finding| finding.symptom).collect()
    };
    assert!(symptoms(&mut task).is_empty());
    assert_eq!(symptoms(&mut task), [Symptom::NeverEnds.name()]);

    // A reward that tells nothing apart.
    let same = |batch: &[Exchange<'_>]| vec![1.; batch.len()];
    let mut task = recorded_task(&same, &online, 1);
    let all: Vec<String> = (0..3).flat_map(|_| symptoms(&mut task)).collect();
    assert_eq!(all, [Symptom::EqualScores.name(), Symptom::NeverEnds.name()]);
}

#[test]
fn online_training_goes_on_with_its_own_settings_only() {
    let reward = |batch: &[Exchange<'_>]| vec![1.; batch.len()];
    let online = OnlineConfig::default();
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoints = Checkpoints::open(folder.path(), Keep { newest: 1, best: None }).unwrap();
    let mut task = recorded_task(&reward, &online, 1);
    task.step(&[0, 1]).unwrap();
    checkpoints.write(1, None, |files| task.save(files)).unwrap();
    let saved = checkpoints.newest_valid().unwrap().saved.unwrap();
    recorded_task(&reward, &online, 1).restore(&saved).unwrap();
    let refused = |online: &OnlineConfig, seed| {
        recorded_task(&reward, online, seed).restore(&saved).unwrap_err().to_string()
    };
    let error = refused(&online, 2);
    assert!(error.contains("seed: expected 2, found 1"), "{error}");
    let longer = GenerationConfig { max_new_tokens: 7, ..GenerationConfig::default() };
    let error = refused(&OnlineConfig { generation: longer, ..online.clone() }, 1);
    assert!(error.contains("generation: expected"), "{error}");
    let error = refused(&OnlineConfig { missing_eos_penalty: 2., ..online.clone() }, 1);
    assert!(error.contains("missing_eos_penalty: expected 2, found 0"), "{error}");
}

#[test]
fn settings_of_online_training_are_checked_by_name() {
    let of = |generation| OnlineConfig { generation, ..OnlineConfig::default() };
    let none = GenerationConfig { max_new_tokens: 0, ..GenerationConfig::default() };
    let greedy = GenerationConfig { sampling: Sampling::Greedy, ..GenerationConfig::default() };
    for (config, field) in [
        (of(none), "`generation.max_new_tokens` is 0"),
        (of(greedy), "`generation.sampling` is greedy"),
        (OnlineConfig { missing_eos_penalty: -1., ..Default::default() }, "`missing_eos_penalty`"),
        (OnlineConfig { least_difference: f64::NAN, ..Default::default() }, "`least_difference`"),
    ] {
        let error = config.check().unwrap_err().to_string();
        assert!(error.starts_with(field), "{error}");
    }
    let endless = LLAMA.replace(r#""eos_token_id": 1"#, r#""eos_token_id": null"#);
    let concerns = OnlineConfig::default().check_policy(model(&endless).spec()).unwrap();
    assert!(concerns.iter().any(|of| of.setting() == "stop_ids"), "{concerns:?}");
}
