//! Bad input is refused before the first step, by name.

use crate::common::{Family, Letters, VOCAB, drawn, policy, prompts, zero_head};
use rlaif_core::{Exchange, Fault, RewardError, RewardModel, Score, Scores};
use rlaif_lm::{
    LmError, RecordedSampler, Sampled, ValueHead, ValueInit,
    generate::{FinishReason, GenerationConfig, RolloutConcern, Sampling},
};
use rlaif_models::{Config, LanguageModel};
use rlaif_ppo::{
    MetricStop, MissingScore, PpoConfig, PpoError, PpoTrainer, PretrainingConfig, Reference,
    train::{KlControl, SftRow, TrainError},
};
use tch::{Device, Kind, Tensor};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

fn config() -> PpoConfig {
    let mut config =
        PpoConfig { batch_size: 4, minibatch_size: 2, epochs: 1, ..PpoConfig::default() };
    config.generation.max_new_tokens = 8;
    config
}

fn build(own: LanguageModel, config: PpoConfig) -> Result<PpoTrainer<LanguageModel>, PpoError> {
    let head = zero_head(&own);
    PpoTrainer::new(own, head, Reference::Frozen(Box::new(policy(Family::Llama, 1))), config)
}

fn field(error: &PpoError) -> String {
    match error {
        PpoError::Setting(error) | PpoError::Train(TrainError::Setting(error)) => {
            error.field.to_string()
        }
        PpoError::Rollout { source, .. } => source.setting().to_owned(),
        other => panic!("not a setting: {other}"),
    }
}

#[test]
fn settings_that_cannot_be_are_named() {
    let with = |change: &dyn Fn(&mut PpoConfig)| {
        let mut config = config();
        change(&mut config);
        let error = build(policy(Family::Llama, 1), config).map(|_| ()).unwrap_err();
        field(&error)
    };
    let sample = |top_k, top_p, min_p| Sampling::Sample { temperature: 1., top_k, top_p, min_p };
    type Change = Box<dyn Fn(&mut PpoConfig)>;
    let stop_at = |at_least, at_most| -> Change {
        let name = "env/reward_mean".to_owned();
        let rule = MetricStop { name, window: 1, at_least, at_most };
        Box::new(move |c| c.stop.metric = Some(rule.clone()))
    };
    let cases: Vec<(&str, Change)> = vec![
        ("batch_size", Box::new(|c| c.batch_size = 0)),
        ("minibatch_size", Box::new(|c| c.minibatch_size = 3)),
        ("minibatch_size", Box::new(|c| c.minibatch_size = 8)),
        ("microbatch_size", Box::new(|c| c.microbatch_size = 3)),
        ("epochs", Box::new(|c| c.epochs = 0)),
        ("steps", Box::new(|c| c.steps = 0)),
        ("steps", Box::new(|c| c.steps = u64::MAX)),
        ("epochs", Box::new(|c| c.epochs = 1_000_000_000)),
        ("optimizer.lr", Box::new(|c| c.optimizer.lr = f64::NAN)),
        ("optimizer.eps", Box::new(|c| c.optimizer.eps = 0.)),
        ("sampling", Box::new(|c| c.generation.sampling = Sampling::Greedy)),
        ("sampling.top_k", Box::new(move |c| c.generation.sampling = sample(Some(50), None, None))),
        (
            "sampling.top_p",
            Box::new(move |c| c.generation.sampling = sample(None, Some(0.9), None)),
        ),
        (
            "sampling.min_p",
            Box::new(move |c| c.generation.sampling = sample(None, None, Some(0.1))),
        ),
        ("generation.sampling.temperature", Box::new(|c| c.generation.sampling = Sampling::at(0.))),
        (
            "generation.sampling.temperature",
            Box::new(|c| c.generation.sampling = Sampling::at(1e-30)),
        ),
        ("repetition_penalty", Box::new(|c| c.generation.repetition_penalty = 1.2)),
        ("bad_ids", Box::new(|c| c.generation.bad_ids = vec![vec![3]])),
        ("generation.max_new_tokens", Box::new(|c| c.generation.max_new_tokens = 0)),
        ("generation.max_new_tokens", Box::new(|c| c.generation.max_new_tokens = 64)),
        ("kl.control.fixed.coef", Box::new(|c| c.kl.control = KlControl::Fixed { coef: -1. })),
        (
            "kl.control.adaptive.target",
            Box::new(|c| {
                c.kl.control = KlControl::Adaptive { init: 0.2, target: 0., horizon: 1. };
            }),
        ),
        (
            "kl.control.adaptive.horizon",
            Box::new(|c| {
                c.kl.control = KlControl::Adaptive { init: 0.2, target: 6., horizon: 3. };
            }),
        ),
        ("kl.control.fixed.coef", Box::new(|c| c.kl.control = KlControl::Fixed { coef: 1e308 })),
        ("scores.missing", Box::new(|c| c.scores.missing = MissingScore::Value(1e39))),
        ("scores.missing_eos_penalty", Box::new(|c| c.scores.missing_eos_penalty = 1e39)),
        ("value_coef", Box::new(|c| c.value_coef = 1e300)),
        ("scores.clip", Box::new(|c| c.scores.clip = Some(0.))),
        ("scores.missing_eos_penalty", Box::new(|c| c.scores.missing_eos_penalty = f64::NAN)),
        ("gamma", Box::new(|c| c.gamma = 1.1)),
        ("gae_lambda", Box::new(|c| c.gae_lambda = -0.1)),
        ("clip", Box::new(|c| c.clip = 0.)),
        ("dual_clip", Box::new(|c| c.dual_clip = Some(1.))),
        ("value_clip", Box::new(|c| c.value_clip = f64::NAN)),
        ("ratio_threshold", Box::new(|c| c.ratio_threshold = 0.)),
        ("value_coef", Box::new(|c| c.value_coef = f64::INFINITY)),
        ("entropy_coef", Box::new(|c| c.entropy_coef = -1.)),
        ("target_kl", Box::new(|c| c.target_kl = Some(0.))),
        (
            "pretraining.batch_size",
            Box::new(|c| c.pretraining = Some(PretrainingConfig { coef: 1., batch_size: 0 })),
        ),
        ("stop.max_kl", Box::new(|c| c.stop.max_kl = Some(-1.))),
        ("stop.metric.at_least", stop_at(Some(f64::NAN), None)),
        ("stop.metric.at_most", stop_at(None, Some(f64::INFINITY))),
    ];
    for (name, change) in cases {
        assert_eq!(with(&*change), name);
    }
}

/// Otherwise they would fail in the first rollout, when the run folder already exists.
#[test]
fn settings_of_generation_are_refused_before_the_first_rollout() {
    let refused = |change: &dyn Fn(&mut GenerationConfig)| {
        let mut config = config();
        change(&mut config.generation);
        build(policy(Family::Llama, 1), config).map(|_| ()).unwrap_err().to_string()
    };
    for (error, says) in [
        (refused(&|c| c.batch_size = 0), "`generation.batch_size` is 0"),
        (refused(&|c| c.stop_strings = vec![String::new()]), "`generation.stop_strings`"),
        (refused(&|c| c.stop_ids = vec![9999]), "generation: `stop_ids` is 9999"),
        (refused(&|c| c.min_new_tokens = c.max_new_tokens + 1), "`generation.min_new_tokens`"),
    ] {
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn what_may_do_harm_in_a_rollout_is_a_warning() {
    let mut config = config();
    assert!(build(policy(Family::Llama, 1), config.clone()).unwrap().warnings().is_empty());
    config.generation.min_new_tokens = 2;
    let trainer = build(policy(Family::Llama, 1), config).unwrap();
    assert_eq!(trainer.warnings(), [RolloutConcern::LeastLength { min: 2 }]);
}

#[test]
fn a_policy_that_cannot_be_trained_is_refused() {
    let frozen = policy(Family::Llama, 1);
    rlaif_lm::Policy::parameters(&frozen).train_where(|_| false);
    assert_eq!(field(&build(frozen, config()).map(|_| ()).unwrap_err()), "policy");

    // Without an end of sequence, and with one that the vocabulary does not have.
    for eos in [None, Some(VOCAB + 7)] {
        let endless = Config::from_value(serde_json::json!({
            "model_type": "llama", "vocab_size": VOCAB, "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "eos_token_id": eos, "pad_token_id": 0,
        }));
        let draw = || LanguageModel::random(endless, Kind::Float, Device::Cpu).unwrap();
        let endless = drawn(1, draw);
        rlaif_lm::Policy::parameters(&endless).train_where(|_| true);
        let error = build(endless, config()).map(|_| ()).unwrap_err();
        assert_eq!(field(&error), "stop_ids");
    }

    // What the penalty is measured against would move with the policy.
    let own = policy(Family::Llama, 1);
    let head = zero_head(&own);
    let error = PpoTrainer::new(own, head, Reference::AdaptersOff, config()).map(|_| ());
    assert_eq!(field(&error.unwrap_err()), "reference");

    let own = policy(Family::Llama, 1);
    let head = ValueHead::new(16, ValueInit::Zero, Device::Cpu);
    let reference = Reference::Frozen(Box::new(policy(Family::Llama, 1)));
    let error = PpoTrainer::new(own, head, reference, config()).map(|_| ());
    assert_eq!(field(&error.unwrap_err()), "value");

    let own = policy(Family::Llama, 1);
    let head = zero_head(&own);
    let other = Config::from_value(serde_json::json!({
        "model_type": "llama", "vocab_size": VOCAB + 1, "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }));
    let other = drawn(1, || LanguageModel::random(other, Kind::Float, Device::Cpu).unwrap());
    let reference = Reference::Frozen(Box::new(other));
    let error = PpoTrainer::new(own, head, reference, config()).map(|_| ()).unwrap_err();
    assert_eq!(field(&error), "reference");
}

#[test]
fn batches_that_do_not_fit_are_refused_and_nothing_changes() {
    let mut trainer = build(policy(Family::Llama, 1), config()).unwrap();
    let reward = |batch: &[Exchange<'_>]| vec![1.; batch.len()];
    let error = trainer.rollout(&prompts(0, 3), &Letters, &reward).unwrap_err();
    assert!(matches!(error, PpoError::Rows { expected: 4, found: 3, .. }), "{error}");

    let mut long = prompts(0, 4);
    long[2].ids = vec![5; 57].into();
    let error = trainer.rollout(&long, &Letters, &reward).unwrap_err();
    let too_long = PpoError::Lm(LmError::TooLong { row: 2, length: 65, context: 64 });
    assert_eq!(error.to_string(), too_long.to_string());

    let (queries, responses) = (vec![vec![5u32]; 4], vec![vec![6u32, 1]; 4]);
    let error = trainer.rollout_of(queries.clone(), responses.clone(), &[1.; 3]).unwrap_err();
    assert!(matches!(error, PpoError::Rows { what: "scores", found: 3, .. }), "{error}");
    let error = trainer.rollout_of(queries.clone(), responses.clone(), &[1., f64::NAN, 1., 1.]);
    assert!(matches!(error, Err(PpoError::Score { row: 1, .. })));
    let mut empty = responses.clone();
    empty[3].clear();
    let error = trainer.rollout_of(queries.clone(), empty, &[1.; 4]).unwrap_err();
    assert!(matches!(error, PpoError::EmptyResponse { row: 3 }), "{error}");

    let rollout =
        trainer.rollout_of(queries.clone(), responses.clone(), &[1., 2., 3., 4.]).unwrap();
    let mut advantages = trainer.advantages(&rollout).unwrap();
    let whole = std::mem::replace(&mut advantages.returns, Tensor::zeros([4, 1], FLOAT));
    let error = trainer.update(&rollout, &advantages).unwrap_err();
    assert!(matches!(error, PpoError::Shape { what: "returns", expected: [4, 2], .. }), "{error}");
    advantages.returns = whole;
    let mut other = trainer.rollout_of(queries, responses, &[1.; 4]).unwrap();
    other.orders[0][1] = 4;
    let error = trainer.update(&other, &advantages).unwrap_err();
    assert!(matches!(error, PpoError::Order { epoch: 0, row: 4, rows: 4 }), "{error}");
    let mut larger = config();
    (larger.batch_size, larger.minibatch_size) = (8, 8);
    let larger = build(policy(Family::Llama, 1), larger).unwrap();
    let error = larger.advantages(&rollout).unwrap_err();
    assert!(matches!(error, PpoError::Rows { expected: 8, found: 4, .. }), "{error}");

    trainer.update(&rollout, &advantages).unwrap();
    let error = trainer.update(&rollout, &advantages).unwrap_err();
    assert!(matches!(error, PpoError::StaleRollout { expected: 1, found: 0 }), "{error}");
}

#[test]
fn what_a_setting_asks_for_must_have_been_given() {
    let mix = PretrainingConfig { coef: 1., batch_size: 2 };
    let with_mix = || {
        build(policy(Family::Llama, 1), PpoConfig { pretraining: Some(mix), ..config() }).unwrap()
    };
    let reward = |batch: &[Exchange<'_>]| vec![1.; batch.len()];
    let error = with_mix().rollout(&prompts(0, 4), &Letters, &reward).unwrap_err();
    assert_eq!(field(&error), "pretraining");
    let row = SftRow::new(vec![5], vec![6, 1]);
    let error = with_mix().with_pretraining(vec![row]).map(|_| ()).unwrap_err();
    assert_eq!(field(&error), "pretraining.batch_size");
}

/// Responses that are brought end where those that are sampled would.
#[test]
fn a_stop_id_ends_a_response_that_is_brought() {
    let mut config = config();
    config.generation.stop_ids = vec![5];
    config.scores.missing_eos_penalty = 1.;
    let mut trainer = build(policy(Family::Llama, 1), config).unwrap();
    let responses = vec![vec![6, 5], vec![6, 1], vec![6, 7], vec![5, 7]];
    let rollout = trainer.rollout_of(vec![vec![5u32]; 4], responses, &[1.; 4]).unwrap();
    assert_eq!(rollout.scores, [Some(1.), Some(1.), Some(0.), Some(0.)]);
}

#[test]
fn rewards_that_give_no_or_wrong_scores_are_errors() {
    struct Silent;
    impl RewardModel for Silent {
        fn name(&self) -> &str {
            "silent"
        }
        fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
            let mut scores = Scores::new(vec![Some(Score::new(1.).unwrap()); batch.len()]);
            scores.total[1] = None;
            scores.reasons.push((1, "it did not answer".into()));
            Ok(scores)
        }
    }
    let mut trainer = build(policy(Family::Llama, 1), config()).unwrap();
    let error = trainer.rollout(&prompts(0, 4), &Letters, &Silent).unwrap_err().to_string();
    let record = prompts(0, 4)[1].record.place();
    let said = format!("`silent` gave the response to {record} no score: it did not answer");
    assert!(error.contains(&said), "{error}");

    let nan = |batch: &[Exchange<'_>]| vec![f32::NAN; batch.len()];
    let error = trainer.rollout(&prompts(0, 4), &Letters, &nan).unwrap_err();
    assert!(matches!(error, PpoError::Reward(RewardError::NonFinite { row: 0, .. })), "{error}");
    let record = prompts(0, 4)[0].record.place();
    assert!(error.to_string().contains(&format!("`function`, {record}: ")), "{error}");
    let few = |_: &[Exchange<'_>]| vec![1.];
    let error = trainer.rollout(&prompts(0, 4), &Letters, &few).unwrap_err();
    assert!(matches!(error, PpoError::Reward(RewardError::Count { .. })), "{error}");
}

#[test]
fn an_unknown_key_is_an_error() {
    let error = serde_json::from_str::<PpoConfig>(r#"{ "mini_batch_size": 4 }"#).unwrap_err();
    assert!(error.to_string().contains("mini_batch_size"), "{error}");
    let error =
        serde_json::from_str::<PpoConfig>(r#"{ "kl": { "coef": 0.1 } }"#).unwrap_err().to_string();
    assert!(error.contains("coef"), "{error}");
    let _ = GenerationConfig::default();
}

#[test]
fn a_sampler_gives_a_log_probability_for_each_token_or_none() {
    let mut trainer = build(policy(Family::Llama, 1), config()).unwrap();
    let reward = |batch: &[Exchange<'_>]| vec![1.; batch.len()];
    let of = |log_probs: [Option<Vec<f32>>; 4]| {
        let response = |log_probs| Sampled {
            ids: vec![5, 6, 1],
            log_probs,
            text: "ab".to_owned(),
            finish: FinishReason::Eos,
            version: 0,
            played: None,
        };
        RecordedSampler::new(log_probs.map(response).into())
    };
    let whole = || Some(vec![-1.; 3]);
    let mut short = of([whole(), whole(), Some(vec![-1.; 2]), whole()]);
    let error = trainer.rollout_from(&mut short, &prompts(0, 4), &reward).unwrap_err();
    assert!(
        matches!(error, PpoError::SamplerLogProbs { row: 2, expected: 3, found: 2 }),
        "{error}"
    );
    let mut some = of([whole(), None, whole(), whole()]);
    let rollout = trainer.rollout_from(&mut some, &prompts(0, 4), &reward).unwrap();
    assert!(rollout.sampler_log_probs.is_none());
    let all = of([whole(), whole(), whole(), whole()]);
    let rollout = trainer.rollout_from(&mut { all }, &prompts(0, 4), &reward).unwrap();
    assert!(rollout.sampler_log_probs.is_some());
}

/// A service that is down.
struct Down;

impl RewardModel for Down {
    fn name(&self) -> &'static str {
        "judge"
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let mut scores = Scores::new(vec![None; batch.len()]);
        scores.reasons = vec![(0, "the server answered 503".to_owned())];
        Ok(scores)
    }
}

#[test]
fn a_batch_without_a_score_is_not_the_users_fault_and_says_why() {
    let mut config = config();
    config.scores.missing = MissingScore::Drop;
    let mut trainer = build(policy(Family::Llama, 1), config).unwrap();
    let error = trainer.rollout(&prompts(0, 4), &Letters, &Down).unwrap_err();
    assert!(matches!(error, PpoError::NothingScored { .. }), "{error}");
    assert!(!error.is_users());
    assert!(error.to_string().contains("`judge`") && error.to_string().contains("503"), "{error}");
}
