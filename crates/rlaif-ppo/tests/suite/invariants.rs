//! Settings that must not change a number, and numbers that must be exact.

use std::num::NonZeroU32;

use crate::common::{Family, Letters, drawn, host, policy, policy_in, prompts, zero_head};
use rlaif_core::{Exchange, Seed};
use rlaif_lm::{Policy, ValueFunction, ValueHead, ValueInit};
use rlaif_models::{AdapterConfig, LanguageModel, LoadOptions, TargetModules, TaskType};
use rlaif_ppo::{
    PpoConfig, PpoTrainer, PretrainingConfig, Prompt, Reference, Rollout, ValueModel, Whitening,
    train::{Checkpoints, Keep, KlControl, KlEstimator, OptimizerConfig, SftRow},
};
use rlaif_testing::alone;
use tch::{Device, Kind, Tensor};

const FAMILIES: [Family; 2] = [Family::T5, Family::Llama];

fn config() -> PpoConfig {
    let mut config = PpoConfig {
        steps: 4,
        batch_size: 8,
        minibatch_size: 4,
        epochs: 2,
        // With the usual ε, rounding decides the direction of weights with near-zero gradients.
        optimizer: OptimizerConfig { lr: 1e-2, eps: 1e-2, ..OptimizerConfig::default() },
        seed: Seed::new(9),
        ..PpoConfig::default()
    };
    config.generation.max_new_tokens = 8;
    config
}

/// Rewards vowels: sufficient for different scores.
fn vowels(batch: &[Exchange<'_>]) -> Vec<f32> {
    batch
        .iter()
        .map(|x| x.response.chars().filter(|c| "AEIOU".contains(*c)).count() as f32)
        .collect()
}

fn trainer(family: Family, config: PpoConfig) -> PpoTrainer<LanguageModel> {
    trainer_of(policy(family, 5), policy(family, 5), config)
}

fn trainer_of(
    own: LanguageModel,
    reference: LanguageModel,
    config: PpoConfig,
) -> PpoTrainer<LanguageModel> {
    let head = zero_head(&own);
    PpoTrainer::new(own, head, Reference::Frozen(Box::new(reference)), config).unwrap()
}

fn weights(trainer: &PpoTrainer<LanguageModel>) -> Vec<(String, Tensor)> {
    let all = trainer.policy().parameters().iter().chain(trainer.value().parameters().iter());
    all.map(|(name, tensor)| (name.to_owned(), tensor.detach().copy())).collect()
}

fn distance(one: &[(String, Tensor)], two: &[(String, Tensor)]) -> f64 {
    let far = |(a, b): (&(String, Tensor), &(String, Tensor))| {
        assert_eq!(a.0, b.0);
        host(&(&a.1 - &b.1).abs().max())[0]
    };
    one.iter().zip(two).map(far).fold(0., f64::max)
}

fn adapter(family: Family) -> AdapterConfig {
    let task = match family {
        Family::T5 => TaskType::Seq2SeqLm,
        Family::Llama => TaskType::CausalLm,
    };
    let mut config = AdapterConfig::new(task, NonZeroU32::new(4).unwrap());
    config.target_modules = TargetModules::AllLinear;
    config
}

#[test]
fn at_the_start_kl_is_0_and_the_first_ratio_exactly_1() {
    for family in FAMILIES {
        for microbatch_size in [0, 2] {
            let mut trainer = trainer(family, PpoConfig { microbatch_size, ..config() });
            let (rollout, stats) = trainer.step(&prompts(0, 8), &Letters, &vowels).unwrap();
            let kl = stats.get("objective/kl");
            assert!(kl.abs() < 1e-5, "{family:?} {microbatch_size}: {kl}");
            let (_, ratios) =
                stats.distributions.iter().find(|(name, _)| *name == "ppo/policy/ratio").unwrap();
            let first: usize =
                rollout.orders[0][..4].iter().map(|&row| rollout.responses.rows()[row].len()).sum();
            assert!(ratios[..first].iter().all(|r| *r == 1.), "{family:?} {:?}", &ratios[..first]);
            assert!(ratios[first..].iter().any(|r| *r != 1.));
            assert!(stats.get("objective/sampler_gap") < 1e-5, "{family:?}");
        }
    }
}

#[test]
fn with_one_update_nothing_is_clipped() {
    for family in FAMILIES {
        let config = PpoConfig { minibatch_size: 8, epochs: 1, ..config() };
        let (_, stats) = trainer(family, config).step(&prompts(0, 8), &Letters, &vowels).unwrap();
        assert_eq!(stats.get("ppo/policy/clipfrac"), 0.);
        assert_eq!(stats.get("ppo/policy/approxkl"), 0.);
        assert_eq!(stats.get("ppo/policy/ratio"), 1.);
        assert!(stats.get("ppo/policy/advantages_mean").abs() < 1e-6);
    }
}

fn after_two_steps(
    mut trainer: PpoTrainer<LanguageModel>,
    change: impl Fn(&mut Rollout),
) -> Vec<(String, Tensor)> {
    for step in 0..2 {
        let mut rollout = trainer.rollout(&prompts(8 * step, 8), &Letters, &vowels).unwrap();
        change(&mut rollout);
        let advantages = trainer.advantages(&rollout).unwrap();
        trainer.update(&rollout, &advantages).unwrap();
    }
    weights(&trainer)
}

#[test]
fn the_size_of_a_pass_changes_nothing() {
    for family in FAMILIES {
        let of = |size| {
            let config = PpoConfig { microbatch_size: size, entropy_coef: 0.01, ..config() };
            after_two_steps(trainer(family, config), |_| {})
        };
        let whole = of(0);
        let start = weights(&trainer(family, config()));
        assert!(distance(&whole, &start) > 1e-3);
        for size in [1, 2] {
            let far = distance(&whole, &of(size));
            assert!(far < 2e-5, "{family:?} {size}: {far}");
        }
    }
}

#[test]
fn recomputed_activations_change_nothing() {
    // Recomputation sets the generator back, from which other tests draw their models.
    let _alone = alone();
    for family in FAMILIES {
        let of = |activations| {
            let config = PpoConfig { activations, ..config() };
            after_two_steps(trainer(family, config), |_| {})
        };
        use rlaif_lm::Activations::{Keep, Recompute};
        assert!(distance(&of(Keep), &of(Recompute)) < 1e-5);
    }
}

#[test]
fn what_is_masked_does_not_matter() {
    for family in FAMILIES {
        let clean = after_two_steps(trainer(family, config()), |_| {});
        let garbage = after_two_steps(trainer(family, config()), |rollout| {
            let real = rollout.mask.tensor().shallow_clone();
            let nan = Tensor::full([], f64::NAN, (Kind::Float, Device::Cpu));
            for x in [
                &mut rollout.log_probs,
                &mut rollout.ref_log_probs,
                &mut rollout.kl,
                rollout.values.as_mut().unwrap(),
            ] {
                *x = x.where_self(&real, &nan);
            }
        });
        assert_eq!(distance(&clean, &garbage), 0., "{family:?}");
    }
}

#[test]
fn companions_and_their_padding_change_no_row() {
    for family in FAMILIES {
        let config = PpoConfig { minibatch_size: 8, ..config() };
        let mut given = prompts(0, 8);
        let rollout = trainer(family, config.clone()).rollout(&given, &Letters, &vowels).unwrap();
        // A much longer prompt in place of the last one, and the other prompts in another order.
        given[7].ids = (0..40).map(|i| 3 + i % 20).collect();
        std::sync::Arc::make_mut(&mut given[7].record).id = "long".into();
        given.rotate_right(3);
        let other = trainer(family, config).rollout(&given, &Letters, &vowels).unwrap();
        for row in 0..7 {
            let moved = (row + 3) % 8;
            assert_eq!(rollout.responses.rows()[row], other.responses.rows()[moved]);
            let n = rollout.responses.rows()[row].len() as i64;
            let (one, two) = (row as i64, moved as i64);
            for (a, b) in [(&rollout.log_probs, &other.log_probs), (&rollout.kl, &other.kl)] {
                let (a, b) = (a.get(one).narrow(0, 0, n), b.get(two).narrow(0, 0, n));
                assert!(host(&(a - b).abs().max())[0] < 1e-5, "{family:?}, row {row}");
            }
        }
    }
}

#[test]
fn the_order_of_the_batch_changes_nothing() {
    for family in FAMILIES {
        let config = PpoConfig { minibatch_size: 8, ..config() };
        let of = |turned: usize| {
            let mut trainer = trainer(family, config.clone());
            for step in 0..2 {
                let mut given = prompts(8 * step, 8);
                given.rotate_left(turned);
                trainer.step(&given, &Letters, &vowels).unwrap();
            }
            weights(&trainer)
        };
        let far = distance(&of(0), &of(3));
        assert!(far < 2e-5, "{family:?}: {far}");
    }
}

#[test]
fn adapters_off_is_the_copied_reference() {
    for family in FAMILIES {
        let run = |copied: bool| {
            let mut own = policy(family, 5);
            drawn(77, || own.adapters().add("ppo", adapter(family)).unwrap());
            let head = zero_head(&own);
            let reference = if copied {
                Reference::Frozen(Box::new(policy(family, 5)))
            } else {
                Reference::AdaptersOff
            };
            let mut trainer = PpoTrainer::new(own, head, reference, config()).unwrap();
            let mut kl = Vec::new();
            for step in 0..3 {
                let (_, stats) = trainer.step(&prompts(8 * step, 8), &Letters, &vowels).unwrap();
                kl.push(stats.get("objective/kl"));
            }
            (weights(&trainer), kl)
        };
        let ((one, kl), (two, copied_kl)) = (run(true), run(false));
        assert_eq!(distance(&one, &two), 0., "{family:?}");
        assert_eq!(kl, copied_kl);
        assert!(kl[0].abs() < 1e-5 && kl[2].abs() > 1e-4, "{kl:?}");
        // Only the adapter was trained.
        let start = policy(family, 5);
        for (name, tensor) in start.parameters().iter() {
            let now = one.iter().find(|(n, _)| n == name).unwrap();
            assert_eq!(now.1, tensor.detach(), "{name}");
        }
    }
}

#[test]
fn a_fresh_adapter_has_a_kl_of_exactly_0() {
    for family in FAMILIES {
        for kind in [Kind::Float, Kind::BFloat16] {
            let mut own = policy_in(family, 5, kind);
            drawn(6, || own.adapters().add("ppo", adapter(family)).unwrap());
            let head = zero_head(&own);
            let mut trainer = PpoTrainer::new(own, head, Reference::AdaptersOff, config()).unwrap();
            let rollout = trainer.rollout(&prompts(0, 8), &Letters, &vowels).unwrap();
            assert!(host(&rollout.kl).iter().all(|kl| *kl == 0.), "{family:?} {kind:?}");
            assert_eq!(rollout.log_probs, rollout.ref_log_probs, "{family:?} {kind:?}");
        }
    }
}

#[test]
fn a_reference_that_shares_frozen_layers_is_the_copied_reference() {
    for family in FAMILIES {
        let lower = |name: &str| {
            name.contains("embed") || name.contains("shared") || name.contains("encoder")
        };
        let run = |shared: bool| {
            let own = policy(family, 5);
            own.parameters().train_where(|name| !lower(name));
            let reference = policy(family, 5);
            let saved =
                if shared { own.parameters().share_frozen(reference.parameters()) } else { 0 };
            let head = zero_head(&own);
            let reference = Reference::Frozen(Box::new(reference));
            let trainer = PpoTrainer::new(own, head, reference, config()).unwrap();
            (after_two_steps(trainer, |_| {}), saved)
        };
        let ((one, none), (two, saved)) = (run(false), run(true));
        assert_eq!((distance(&one, &two), none), (0., 0));
        assert!(saved >= 4 * 32 * 32, "{family:?}: {saved} bytes");
    }
}

#[test]
fn a_restored_trainer_goes_on_bit_by_bit() {
    // Dropout draws from libtorch's generator.
    let _alone = alone();
    for family in FAMILIES {
        let config = PpoConfig {
            scores: rlaif_ppo::ScoreConfig {
                scaling: rlaif_ppo::ScoreScaling::Normalize,
                ..Default::default()
            },
            dropout: rlaif_lm::Dropout::On,
            ..config()
        };
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoints =
            Checkpoints::open(folder.path(), Keep { newest: 1, best: None }).unwrap();
        let mut whole = trainer(family, config.clone());
        let mut want = Vec::new();
        for step in 0..4 {
            if step == 2 {
                checkpoints.write(2, None, |files| whole.save(files)).unwrap();
            }
            let (rollout, stats) = whole.step(&prompts(8 * step, 8), &Letters, &vowels).unwrap();
            want.push((rollout.texts, without_times(&stats)));
        }
        let mut resumed = trainer(family, config);
        // Earlier draws must not matter.
        tch::manual_seed(4711);
        resumed.restore(&checkpoints.newest_valid().unwrap().saved.unwrap()).unwrap();
        assert_eq!(resumed.steps_done(), 2);
        for (step, want) in want.iter().enumerate().skip(2) {
            let (rollout, stats) = resumed.step(&prompts(8 * step, 8), &Letters, &vowels).unwrap();
            assert_eq!(&(rollout.texts, without_times(&stats)), want);
        }
        assert_eq!(distance(&weights(&whole), &weights(&resumed)), 0.);
    }
}

/// As text, so that NaN equals NaN.
fn without_times(stats: &rlaif_ppo::PpoStats) -> String {
    let kept: Vec<_> =
        stats.metrics.iter().filter(|(name, _)| !name.starts_with("time/")).collect();
    format!("{kept:?}{:?}", stats.distributions)
}

#[test]
fn every_estimator_is_0_at_the_start_and_full_kl_is_never_negative() {
    for family in FAMILIES {
        for estimator in
            [KlEstimator::K1, KlEstimator::Abs, KlEstimator::K2, KlEstimator::K3, KlEstimator::Full]
        {
            let mut config = config();
            config.kl.estimator = estimator;
            let mut trainer = trainer(family, config);
            let mut kl = Vec::new();
            for step in 0..2 {
                let (_, stats) = trainer.step(&prompts(8 * step, 8), &Letters, &vowels).unwrap();
                kl.push(stats.get("objective/kl"));
            }
            assert!(kl[0].abs() < 1e-5 && kl[1] != 0., "{family:?} {estimator:?} {kl:?}");
            assert!(estimator == KlEstimator::K1 || kl[1] > 0., "{family:?} {estimator:?} {kl:?}");
        }
    }
}

#[test]
fn a_huge_penalty_keeps_the_policy_where_it_is() {
    for family in FAMILIES {
        let distance = |coef| {
            let mut config = config();
            config.kl.estimator = KlEstimator::Full;
            config.kl.control = KlControl::Fixed { coef };
            config.advantage_whitening = Whitening::None;
            // Small steps: large ones overshoot despite the penalty.
            config.optimizer.lr = 2e-3;
            config.steps = 30;
            let mut trainer = trainer(family, config);
            let mut last = 0.;
            for step in 0..30 {
                let (_, stats) = trainer.step(&prompts(8 * step, 8), &Letters, &vowels).unwrap();
                last = stats.get("objective/kl");
            }
            last
        };
        let (free, held) = (distance(0.), distance(50.));
        assert!(held < 0.5 * free, "{family:?}: {held} of {free}");
    }
}

#[test]
fn while_the_value_head_warms_up_the_policy_stays() {
    for family in FAMILIES {
        let config = PpoConfig { value_warmup_steps: 1, ..config() };
        let mut trainer = trainer(family, config);
        let start = weights(&trainer);
        trainer.step(&prompts(0, 8), &Letters, &vowels).unwrap();
        for ((name, before), (_, after)) in start.iter().zip(weights(&trainer)) {
            assert_eq!(*before != after, name.starts_with("v_head."), "{name}");
        }
        trainer.step(&prompts(8, 8), &Letters, &vowels).unwrap();
        assert!(distance(&start, &weights(&trainer)) > 1e-4);
    }
}

#[test]
fn a_value_model_has_no_head_to_the_vocabulary_under_any_name() {
    for (family, head) in [("gpt-neox", "embed_out.weight"), ("flan", "lm_head.weight")] {
        let folder = format!("{}/../../fixtures/models/{family}", env!("CARGO_MANIFEST_DIR"));
        let trunk = LanguageModel::load(folder.as_ref(), LoadOptions::default()).unwrap();
        assert!(trunk.parameters().iter().any(|(name, _)| name == head), "{family}");
        let size = trunk.spec().hidden_size;
        let value = ValueModel::new(trunk, ValueHead::new(size, ValueInit::PyTorch, Device::Cpu));
        let names: Vec<&str> = value.parameters().iter().map(|(name, _)| name).collect();
        assert!(names.iter().all(|name| !name.ends_with(head)), "{names:?}");
        assert!(names.iter().any(|name| name.starts_with("value.")));
    }
}

#[test]
fn a_value_model_of_its_own_learns_values_and_leaves_the_policy_alone() {
    // Far from a new head's values, so that the error's fall exceeds the noise of the samples.
    let far_vowels = |batch: &[Exchange<'_>]| -> Vec<f32> {
        vowels(batch).into_iter().map(|score| score + 5.).collect()
    };
    for family in FAMILIES {
        let own = policy(family, 5);
        let trunk = policy(family, 6);
        let before = trunk.parameters().iter().map(|(n, t)| (n.to_owned(), t.detach().copy()));
        let before: Vec<_> = before.collect();
        let head = drawn(7, || ValueHead::new(32, ValueInit::PyTorch, Device::Cpu));
        let reference = Reference::Frozen(Box::new(policy(family, 5)));
        let config = PpoConfig { value_warmup_steps: 4, value_coef: 1., ..config() };
        let mut trainer =
            PpoTrainer::new(own, ValueModel::new(trunk, head), reference, config).unwrap();
        let start = weights(&trainer);
        let mut errors = Vec::new();
        for _ in 0..4 {
            let (_, stats) = trainer.step(&prompts(0, 8), &Letters, &far_vowels).unwrap();
            errors.push(stats.get("ppo/val/error"));
        }
        assert!(errors[3] < errors[0] / 2., "{family:?} {errors:?}");
        let now = weights(&trainer);
        for ((name, was), (_, is)) in start.iter().zip(&now) {
            let of_value = name.starts_with("value.") || name.starts_with("v_head.");
            assert!(of_value || was == is, "{name}");
        }
        assert!(before.iter().any(|(name, was)| {
            now.iter().any(|(n, is)| *n == format!("value.{name}") && is != was)
        }));
    }
}

#[test]
fn the_pretraining_mix_pulls_towards_its_text() {
    for family in FAMILIES {
        let row = SftRow::new(vec![5, 6, 7], vec![8, 9, 10, crate::common::EOS]);
        let surprise = |trainer: &PpoTrainer<LanguageModel>| {
            let spec = trainer.policy().spec().clone();
            let x = rlaif_lm::TokenBatch::collate(
                vec![row.prompt.clone()],
                &spec,
                rlaif_lm::Padding::Right,
            )
            .unwrap();
            let y = rlaif_lm::TokenBatch::responses(vec![row.response.clone()], &spec).unwrap();
            let hidden = trainer.policy().response_hidden(&x, &y, Default::default()).unwrap();
            let head = trainer.policy().head(Default::default()).unwrap();
            let found = rlaif_lm::token_log_probs(&head, &hidden, &y, 1.).unwrap();
            -host(&found.log_probs.sum(Kind::Float))[0]
        };
        let run = |coef: f64| {
            let pretraining = Some(PretrainingConfig { coef, batch_size: 2 });
            let config = PpoConfig { pretraining, ..config() };
            let mut trainer =
                trainer(family, config).with_pretraining(vec![row.clone(), row.clone()]).unwrap();
            for step in 0..4 {
                trainer.step(&prompts(8 * step, 8), &Letters, &vowels).unwrap();
            }
            surprise(&trainer)
        };
        let (without, with) = (run(0.), run(5.));
        assert!(with < 0.8 * without, "{family:?}: {with} against {without}");
    }
}

/// With a reward that would otherwise make the policy deterministic.
#[test]
fn the_entropy_bonus_keeps_the_policy_open() {
    for family in FAMILIES {
        let last_entropy = |entropy_coef| {
            let mut trainer = trainer(family, PpoConfig { entropy_coef, ..config() });
            let mut step =
                |at: usize| trainer.step(&prompts(8 * at, 8), &Letters, &vowels).unwrap().1;
            (0..6).map(|at| step(at).get("ppo/policy/entropy")).last().unwrap()
        };
        let (without, with) = (last_entropy(0.), last_entropy(1.));
        assert!(with > without + 0.2, "{family:?}: {with} against {without} nats");
    }
}

#[test]
fn an_update_ends_where_the_policy_has_gone_too_far() {
    for family in FAMILIES {
        let config = PpoConfig { target_kl: Some(1e-4), epochs: 4, ..config() };
        let (_, stats) = trainer(family, config).step(&prompts(0, 8), &Letters, &vowels).unwrap();
        assert_eq!(stats.get("ppo/stopped_early"), 1.);
        assert!(stats.get("ppo/updates") < 8.);
        let config = PpoConfig { ratio_threshold: 1.000_001, epochs: 4, ..self::config() };
        let mut trainer = trainer(family, config);
        let (_, stats) = trainer.step(&prompts(0, 8), &Letters, &vowels).unwrap();
        let (made, left) = (stats.get("ppo/updates"), stats.get("ppo/updates_skipped"));
        assert!(left >= 1. && made + left == 8., "{family:?} {made} {left}");
    }
}

#[test]
fn a_dropped_response_counts_nowhere() {
    use rlaif_core::{RewardError, RewardModel, Score, Scores};
    struct Undecided;
    impl RewardModel for Undecided {
        fn name(&self) -> &str {
            "undecided"
        }
        fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
            let of = |i: usize| (i != 2).then(|| Score::new(i as f32).unwrap());
            Ok(Scores::new((0..batch.len()).map(of).collect()))
        }
    }
    for family in FAMILIES {
        let mut config = config();
        config.scores.missing = rlaif_ppo::MissingScore::Drop;
        let mut trainer = trainer(family, config);
        let rollout = trainer.rollout(&prompts(0, 8), &Letters, &Undecided).unwrap();
        assert_eq!(host(&rollout.mask.tensor().get(2).to_kind(Kind::Float).sum(Kind::Float)), [0.]);
        let advantages = trainer.advantages(&rollout).unwrap();
        assert_eq!(host(&advantages.returns.get(2).abs().sum(Kind::Float)), [0.]);
        let stats = trainer.update(&rollout, &advantages).unwrap();
        assert_eq!(stats.get("env/dropped"), 1.);
        assert!((stats.get("env/reward_mean") - (1. + 3. + 4. + 5. + 6. + 7.) / 7.).abs() < 1e-9);
        assert!(stats.get("ppo/loss/total").is_finite());
    }
}

/// A prompt that occurs twice in a batch gets two different responses.
#[test]
fn the_same_prompt_twice_has_two_responses() {
    let mut given = prompts(0, 8);
    given[1] = given[0].clone();
    let rollout = trainer(Family::Llama, config()).rollout(&given, &Letters, &vowels).unwrap();
    assert_ne!(rollout.texts[0], rollout.texts[1]);
    let _: &Prompt = &given[1];
}
