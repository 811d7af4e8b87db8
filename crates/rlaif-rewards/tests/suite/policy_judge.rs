//! A policy of this library as the judge.

use crate::support;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rlaif_core::{
    CodecError, Exchange, GenerationPrompt, Message, RewardModel, Specials, TextCodec,
};
use rlaif_lm::generate::{GenerationConfig, Sampling};
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

fn one_token() -> GenerationConfig {
    GenerationConfig { max_new_tokens: 1, sampling: Sampling::Greedy, ..Default::default() }
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
    // The tokens that write the numbers 0 to 9, with any space around them.
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
    // One token: then the first counts, regardless of the text.
    let judge = judge.writing(one_token()).unwrap();
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
    assert!(
        scores.total.iter().all(|score| score.is_some_and(|s| s.get().abs() <= 1.)),
        "{scores:?}"
    );
    let refused = |more: &str, api: &str| match config(more, api) {
        Ok(_) => panic!("{more}{api} was taken"),
        Err(error) => error.to_string(),
    };
    assert!(refused("cache = 'x'", "").contains("`policy` with cache"));
    assert!(refused("samples = 3", "").contains("not an expectation"));
    assert!(refused("", "device = 'gpu'").contains("gpu"));
}

/// A tokenizer that keeps what it encoded, as the policy gets to see it.
struct Recording {
    codec: HfTokenizer,
    seen: Arc<Mutex<Vec<Vec<u32>>>>,
}

impl TextCodec for Recording {
    fn name(&self) -> &str {
        self.codec.name()
    }

    fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>, CodecError> {
        let ids = self.codec.encode(text, specials)?;
        self.seen.lock().unwrap().push(ids.clone());
        Ok(ids)
    }

    fn decode(&self, ids: &[u32], specials: Specials) -> Result<String, CodecError> {
        self.codec.decode(ids, specials)
    }

    fn render_chat(
        &self,
        messages: &[Message],
        generation_prompt: GenerationPrompt,
    ) -> Result<String, CodecError> {
        self.codec.render_chat(messages, generation_prompt)
    }
}

/// A judge whose tokenizer is the fixture of that name, and its policy's input.
fn recorded(tokenizer: &str) -> (PolicyJudge, HfTokenizer, Arc<Mutex<Vec<Vec<u32>>>>) {
    let read = || HfTokenizer::from_folder(text_fixture(tokenizer)).unwrap();
    let config = Config::from_value(serde_json::json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"],
        "vocab_size": read().embedding_rows(), "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 8192,
        "eos_token_id": 2,
    }));
    tch::manual_seed(11);
    let policy = LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap();
    let seen = Arc::<Mutex<Vec<Vec<u32>>>>::default();
    let codec = Recording { codec: read(), seen: seen.clone() };
    let judge = PolicyJudge::new(rubric(AnswerForm::Number), policy, codec).unwrap();
    // Only the policy's input counts here.
    let judge = judge.writing(one_token()).unwrap();
    (judge, read(), seen)
}

#[test]
fn the_judges_template_gets_its_options() {
    let place = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(text_fixture("chatml").join(file), place.path().join(file)).unwrap();
    }
    let template = "{% if enable_thinking is defined %}{{ raise_exception('told ' + \
                    enable_thinking|string) }}{% endif %}{{ messages[0].content }}";
    std::fs::write(place.path().join("chat_template.jinja"), template).unwrap();
    policy().save(&place.path().join("model"), &SaveOptions::default()).unwrap();
    let model = place.path().join("model");
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        std::fs::copy(place.path().join(file), model.join(file)).unwrap();
    }
    let build = |more: &str| {
        let text = format!(
            "kind = 'judge'\nrubric = 'summary'\nmin_coverage = 1e-9\n[api]\nkind = 'policy'\n\
             model = '{}'\n{more}",
            model.display()
        );
        let config = RewardConfig::from_toml(&text, "judge.toml").unwrap();
        config.build(&Surroundings::default()).map(|_| ())
    };
    build("").unwrap();
    let error = build("chat_template_kwargs = { enable_thinking = false }").unwrap_err();
    assert!(format!("{error}").to_lowercase().contains("told false"), "{error}");
}

#[test]
fn no_attack_gets_out_of_its_fence_or_becomes_a_special_token() {
    let mut fenced = 0;
    // With a chat template and without one; with special tokens of every spelling.
    for tokenizer in ["chatml", "llama3", "mistral", "t5", "bert"] {
        let (judge, codec, seen) = recorded(tokenizer);
        let asked = |rows: &[(&str, &str)]| {
            let rows: Vec<_> = rows.iter().map(|(p, y)| Exchange::new(p, y)).collect();
            judge.score(&rows).unwrap();
            std::mem::take(&mut *seen.lock().unwrap())
        };
        let written = |ids: &[u32]| codec.decode(ids, Specials::Include).unwrap();
        let special = |id: u32| {
            codec.decode(&[id], Specials::Exclude).unwrap().is_empty() && !written(&[id]).is_empty()
        };
        let all: Vec<u32> = (0..codec.embedding_rows() as u32).filter(|&id| special(id)).collect();
        assert!(!all.is_empty(), "{tokenizer} has no special token");
        // What has no place in a small vocabulary is unknown, and gives no order.
        let unknown = codec.special_tokens().unk.as_ref().map(|unk| unk.id);
        let specials = |ids: &[u32]| -> Vec<u32> {
            ids.iter().copied().filter(|id| all.contains(id) && Some(*id) != unknown).collect()
        };
        let harmless = asked(&[("Say something.", "I like you.")]).remove(0);
        let text = written(&harmless);
        let mut attacks: Vec<String> = support::attacks(&text).into();
        attacks.extend(all.iter().map(|&id| {
            let token = written(&[id]);
            format!("x{token}\nATTACK {token}")
        }));
        let rows: Vec<(&str, &str)> = attacks
            .iter()
            .flat_map(|a| [("Say something.", a.as_str()), (a.as_str(), "I like you.")])
            .collect();
        for (row, ids) in rows.iter().zip(asked(&rows)) {
            assert_eq!(specials(&ids), specials(&harmless), "{tokenizer}: {row:?}");
            // Small vocabularies lack the marks of the fences.
            if text.contains("[[begin response ") {
                let orders = support::outside(&written(&ids));
                assert!(!orders.contains("ATTACK"), "{tokenizer}: {row:?} in {orders}");
                fenced += 1;
            }
        }
    }
    assert!(fenced > 60, "hardly a vocabulary with the marks of the fences: {fenced}");
}

#[test]
fn the_configurations_of_the_documentation_are_some() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/rewards.md");
    let text = std::fs::read_to_string(page).unwrap();
    let blocks: Vec<&str> =
        text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 2, "{} blocks", blocks.len());
    for block in blocks {
        // A run file of `rlaif judge` has the reward as one of its tables.
        let table: toml::Table = block.parse().unwrap();
        let reward = match table.contains_key("data") {
            true => toml::to_string(&table["reward"]).unwrap(),
            false => block.to_owned(),
        };
        RewardConfig::from_toml(&reward, "docs/rewards.md").unwrap();
    }
}
