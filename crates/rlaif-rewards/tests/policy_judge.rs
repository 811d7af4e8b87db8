//! A policy of this library as the judge.

use std::path::{Path, PathBuf};

use rlaif_core::{Exchange, GenerationPrompt, Message, RewardModel, Specials, TextCodec};
use rlaif_lm::{Forward, Padding, Policy, TokenBatch};
use rlaif_models::{Config, LanguageModel, SaveOptions};
use rlaif_rewards::rubric::{AnswerForm, Rubric, Scale};
use rlaif_rewards::{PolicyJudge, RewardConfig, Surroundings};
use rlaif_text::HfTokenizer;
use tch::{Device, Kind, no_grad};

fn text_fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../rlaif-text/tests/fixtures").join(name)
}

fn codec() -> HfTokenizer {
    HfTokenizer::from_folder(text_fixture("chatml")).unwrap()
}

/// The same weights whenever it is called.
fn policy() -> LanguageModel {
    let config = Config::from_value(serde_json::json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"],
        "vocab_size": codec().embedding_rows(), "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 2048,
        "eos_token_id": 2, "initializer_range": 0.5,
    }));
    tch::manual_seed(11);
    LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap()
}

fn rubric(form: AnswerForm) -> Rubric {
    Rubric::new("Rate it.", "{prompt} {response}", Scale { low: 0., high: 9. })
        .unwrap()
        .answered_as(form)
        .unwrap()
        .with_min_coverage(1e-9)
        .unwrap()
}

const ROWS: [(&str, &str); 3] =
    [("Say something.", "I like you."), ("Why?", ""), ("Is honey safe?", "No, honey isn't safe.")];

fn batch() -> Vec<Exchange<'static>> {
    ROWS.iter().map(|(prompt, response)| Exchange::new(prompt, response)).collect()
}

#[test]
fn an_expectation_is_that_of_the_policys_own_probabilities() {
    let (policy, codec) = (policy(), codec());
    // The tokens that write the numbers 0 to 9, with whatever space around them.
    let digits: Vec<(u32, f64)> = (0..codec.embedding_rows() as u32)
        .filter_map(|id| {
            let text = codec.decode(&[id], Specials::Exclude).unwrap();
            let digit = text.trim().parse::<f64>().ok().filter(|_| text.trim().len() == 1)?;
            Some((id, digit))
        })
        .collect();
    assert!(digits.len() >= 10);
    let rubric = rubric(AnswerForm::Expectation);
    let want: Vec<(f64, f64)> = batch()
        .iter()
        .map(|exchange| {
            let question = rubric.ask(exchange).unwrap();
            let messages =
                [Message::new("system", question.system), Message::new("user", question.user)];
            let text = codec.render_chat(&messages, GenerationPrompt::Add).unwrap();
            let ids = codec.encode(&text, Specials::Exclude).unwrap();
            let x = TokenBatch::collate(vec![ids], policy.spec(), Padding::Right).unwrap();
            let y = TokenBatch::responses(vec![vec![0]], policy.spec()).unwrap();
            let log_probs = no_grad(|| {
                let hidden = policy.response_hidden(&x, &y, Forward::default()).unwrap();
                policy.head(Forward::default()).unwrap().log_softmax(&hidden, 1.)
            });
            let p = |id: u32| log_probs.double_value(&[0, 0, i64::from(id)]).exp();
            let mass: f64 = digits.iter().map(|(id, _)| p(*id)).sum();
            (digits.iter().map(|(id, digit)| digit * p(*id)).sum::<f64>() / mass, mass)
        })
        .collect();
    let judge = PolicyJudge::new(rubric, policy, codec).unwrap();
    // One token: then it is the first that counts, whatever is written.
    let one = rlaif_lm::generate::GenerationConfig {
        max_new_tokens: 1,
        sampling: rlaif_lm::generate::Sampling::Greedy,
        ..Default::default()
    };
    let judge = judge.writing(one).unwrap();
    let scores = judge.score(&batch()).unwrap();
    let (name, coverage) = &scores.parts[0];
    assert_eq!(name, "coverage");
    for (row, (mean, mass)) in want.iter().enumerate() {
        let got = f64::from(scores.total[row].unwrap().get());
        assert!((got - mean).abs() < 1e-4, "row {row}: {got}, expected {mean}");
        let covered = f64::from(coverage[row].unwrap().get());
        assert!((covered - mass).abs() < 1e-6, "row {row}: {covered}, expected {mass}");
    }
}

#[test]
fn a_row_is_judged_alike_whatever_rows_are_beside_it_and_every_row_ends_with_or_without_a_score() {
    for form in [AnswerForm::Number, AnswerForm::Expectation] {
        let judge = PolicyJudge::new(rubric(form), policy(), codec()).unwrap();
        let together = judge.score(&batch()).unwrap().check("judge", 3).unwrap();
        for (row, exchange) in batch().iter().enumerate() {
            let alone = judge.score(&[*exchange]).unwrap();
            match (together.total[row], alone.total[0]) {
                (Some(a), Some(b)) => assert!((a.get() - b.get()).abs() < 1e-4),
                (a, b) => assert_eq!((a, b), (None, None)),
            }
        }
        let missing = together.total.iter().filter(|score| score.is_none()).count();
        assert_eq!(together.reasons.len(), missing);
    }
}

#[test]
fn a_row_that_is_too_long_has_no_verdict_and_why() {
    let judge = PolicyJudge::new(rubric(AnswerForm::Expectation), policy(), codec()).unwrap();
    let long = "very ".repeat(2_000);
    let rows = [Exchange::new("p", "y"), Exchange::new("p", &long)];
    let scores = judge.score(&rows).unwrap();
    assert!(scores.total[0].is_some() && scores.total[1].is_none());
    assert!(scores.reasons[0].1.contains("context of 2048"), "{:?}", scores.reasons);
}

#[test]
fn a_configuration_builds_it_and_refuses_what_says_nothing_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    policy().save(&model, &SaveOptions::default()).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        std::fs::copy(text_fixture("chatml").join(file), model.join(file)).unwrap();
    }
    let config = |more: &str, api: &str| {
        let text = format!(
            "rubric = 'summary'\nmin_coverage = 1e-9\n{more}\n[api]\nkind = 'policy'\nmodel = '{}'\n{api}",
            model.display()
        );
        RewardConfig::from_toml(&text, "judge.toml").unwrap().build(&Surroundings::default())
    };
    let judge = config("name = 'own'", "batch_size = 2").unwrap();
    assert_eq!(judge.name(), "own");
    let scores = judge.score(&batch()).unwrap();
    assert!(scores.total.iter().all(|score| score.is_some_and(|s| s.get().abs() <= 1.)));
    let refused = |more: &str, api: &str| match config(more, api) {
        Ok(_) => panic!("{more}{api} was taken"),
        Err(error) => error.to_string(),
    };
    assert!(refused("cache = 'x'", "").contains("`policy` with cache"));
    assert!(refused("samples = 3", "").contains("no expectation"));
    assert!(refused("", "device = 'gpu'").contains("gpu"));
}
