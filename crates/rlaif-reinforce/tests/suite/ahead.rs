//! Asynchronous rollouts and the replay buffer: which weights sample which step, and exact resuming.

use std::{cell::RefCell, thread::sleep, time::Duration};

use rlaif_core::{Exchange, Interrupted, RewardError, RewardModel, Scores};
use rlaif_lm::{
    Dropout, LmError, LocalSampler, NumberedPrompt, Policy, Sampled, Sampler, SamplerCall, Weights,
    generate::Ask,
};
use rlaif_models::LanguageModel;
use rlaif_reinforce::{
    Algorithm, Experience, NamedAlgorithm, Reference, ReinforceConfig, ReinforceTrainer, Replay,
    Rollouts,
    rl::{Anchor, Correction, KlForm, RatioLevel, RlError, ScoreScaling, Stats},
    train::{Checkpoints, Keep},
};
use tch::{Tensor, no_grad};

use crate::common::{
    FAMILIES, Family, Letters, alone, config, distance, policy, prompts, vowels, weights,
};

const STEPS: usize = 5;
const REPLAY: Replay = Replay { batch_size: 8, max_staleness: 2 };

/// Settings with dropout, and with a correction of old responses.
fn settings(rollouts: Rollouts, replay: Option<Replay>) -> ReinforceConfig {
    let correction = Correction::Truncate { level: RatioLevel::Token, least: 0., most: 2. };
    ReinforceConfig {
        rollouts,
        replay,
        correction: Some(correction),
        minibatch_size: Some(8),
        dropout: Dropout::On,
        ..config(NamedAlgorithm::Grpo)
    }
}

fn trainer(family: Family, config: ReinforceConfig) -> ReinforceTrainer<LanguageModel> {
    let reference = Reference::Frozen(Box::new(policy(family, 5)));
    let trainer = ReinforceTrainer::new(policy(family, 5), reference, config).unwrap();
    match trainer.config().rollouts {
        Rollouts::Synchronous => trainer,
        // Other weights than the policy's: they become its own.
        Rollouts::Asynchronous => trainer.sampling_copy(policy(family, 77)).unwrap(),
    }
}

/// One of [`STEPS`] steps.
fn step(
    trainer: &mut ReinforceTrainer<LanguageModel>,
    at: usize,
    reward: &dyn RewardModel,
) -> (Option<Experience>, Stats) {
    let of = |at: usize| prompts(4 * at, 4);
    let (mut sampler, mut spare) = (LocalSampler::new(&Letters), std::iter::empty());
    let found = match trainer.config().rollouts {
        Rollouts::Synchronous => trainer.step(&of(at), &mut spare, &mut sampler, reward),
        Rollouts::Asynchronous => {
            let next = (at + 1 < STEPS).then(|| of(at + 1));
            trainer.step_ahead(&of(at), next.as_deref(), &mut spare, &mut sampler, reward)
        }
    };
    found.unwrap()
}

/// Samples by the weights of the call before, in one thread.
struct Lagging {
    copy: LanguageModel,
    called: u64,
}

impl Sampler for Lagging {
    fn sample(&mut self, _: &[Ask], _: SamplerCall<'_>) -> Result<Vec<Sampled>, LmError> {
        unreachable!("the trainer plays")
    }

    fn play(
        &mut self,
        rows: &[NumberedPrompt],
        call: SamplerCall<'_>,
    ) -> Result<Vec<Sampled>, LmError> {
        let take = |copy: &LanguageModel| {
            for (name, own) in copy.parameters().iter() {
                let current = call.weights.policy.parameters().get(name).unwrap();
                no_grad(|| own.shallow_clone().copy_(current));
            }
        };
        if self.called == 0 {
            take(&self.copy);
        }
        let version = self.called.saturating_sub(1);
        let weights = Weights { version, ..Weights::of(&self.copy) };
        let sampled = LocalSampler::new(&Letters).play(rows, SamplerCall { weights, ..call })?;
        take(&self.copy);
        self.called += 1;
        Ok(sampled)
    }
}

#[test]
fn responses_of_a_step_are_those_of_the_weights_before_the_last_update() {
    let _alone = alone();
    for family in FAMILIES {
        let mut one = trainer(family, settings(Rollouts::Asynchronous, None));
        let mut two = trainer(family, settings(Rollouts::Synchronous, None));
        let mut lagging = Lagging { copy: policy(family, 5), called: 0 };
        lagging.copy.parameters().train_where(|_| false);
        for at in 0..STEPS {
            let (experience, stats) = step(&mut one, at, &vowels);
            let rollout = experience.unwrap().rollout;
            let version = at.saturating_sub(1) as u64;
            assert_eq!(rollout.versions, [version; 16]);
            assert_eq!(stats.get("rollout/staleness_max"), f64::from(u8::from(at > 0)));
            let mut spare = std::iter::empty();
            let found = two.step(&prompts(4 * at, 4), &mut spare, &mut lagging, &vowels);
            let (experience, same) = found.unwrap();
            let want = experience.unwrap().rollout;
            assert_eq!(rollout.responses.rows(), want.responses.rows());
            assert_eq!(rollout.sampler_log_probs, want.sampler_log_probs);
            for name in ["objective/mismatch_kl", "ppo/loss/total", "ppo/grad_norm"] {
                assert_eq!(stats.get(name), same.get(name), "{family:?} {at} {name}");
            }
            // Once the weights have moved, they are not those of the sampler.
            assert_eq!(stats.get("objective/mismatch_kl") > 1e-5, at > 0, "{family:?} {at}");
            assert_eq!(stats.get("objective/sampler_gap").is_nan(), at > 0);
            assert_eq!(distance(&weights(&one), &weights(&two)), 0., "{family:?} {at}");
        }
    }
}

/// Takes another time for each batch.
fn slow(batch: &[Exchange<'_>]) -> Vec<f32> {
    sleep(Duration::from_millis(batch[0].response.len() as u64 * 10));
    vowels(batch)
}

#[test]
fn time_changes_nothing() {
    let _alone = alone();
    for replay in [None, Some(REPLAY)] {
        let of = |reward: &dyn RewardModel| {
            let mut trainer = trainer(Family::Llama, settings(Rollouts::Asynchronous, replay));
            let told: Vec<_> =
                (0..STEPS).map(|at| told(&step(&mut trainer, at, reward).1)).collect();
            (told, weights(&trainer))
        };
        let (one, two) = (of(&vowels), of(&slow));
        assert_eq!(one.0, two.0);
        assert_eq!(distance(&one.1, &two.1), 0.);
    }
}

/// As text, because NaN equals NaN there.
fn told(stats: &Stats) -> String {
    let kept: Vec<_> =
        stats.metrics.iter().filter(|(name, _)| !name.starts_with("time/")).collect();
    format!("{kept:?}{:?}", stats.distributions)
}

#[test]
fn a_resumed_run_gives_the_same_bits() {
    let _alone = alone();
    for family in FAMILIES {
        for (rollouts, replay) in [
            (Rollouts::Asynchronous, None),
            (Rollouts::Asynchronous, Some(REPLAY)),
            (Rollouts::Synchronous, Some(REPLAY)),
        ] {
            for algorithm in [NamedAlgorithm::Grpo, NamedAlgorithm::ReMax] {
                let mut config = ReinforceConfig { algorithm, ..settings(rollouts, replay) };
                config.kl = Some(KlForm::None);
                let folder = tempfile::tempdir().unwrap();
                let keep = Keep { newest: 1, best: None };
                let mut checkpoints = Checkpoints::open(folder.path(), keep).unwrap();
                let mut whole = trainer(family, config.clone());
                let mut want = Vec::new();
                for at in 0..STEPS {
                    if at == 3 {
                        checkpoints.write(3, None, |files| whole.save(files)).unwrap();
                    }
                    want.push(told(&step(&mut whole, at, &vowels).1));
                }
                let saved = checkpoints.newest_valid().unwrap().saved.unwrap();
                let mut resumed = trainer(family, config.clone());
                resumed.restore(&saved).unwrap();
                for (at, want) in want.iter().enumerate().skip(3) {
                    assert_eq!(&told(&step(&mut resumed, at, &vowels).1), want, "{algorithm:?}");
                }
                assert_eq!(distance(&weights(&whole), &weights(&resumed)), 0.);

                let other = ReinforceConfig {
                    rollouts: match rollouts {
                        Rollouts::Synchronous => Rollouts::Asynchronous,
                        Rollouts::Asynchronous => Rollouts::Synchronous,
                    },
                    ..config
                };
                let error = trainer(family, other).restore(&saved).unwrap_err();
                let found = matches!(&error, RlError::State { what, .. } if what == "rollouts");
                assert!(found, "{error}");
            }
        }
    }
}

/// Scores vowels. The call of this number ends as if the user had asked for the end.
struct Interrupting {
    calls: RefCell<usize>,
    at: usize,
    error: fn() -> RewardError,
}

fn interrupted() -> RewardError {
    RewardError::Interrupted { model: "it".to_owned(), source: Interrupted }
}

impl RewardModel for Interrupting {
    fn name(&self) -> &str {
        "interrupting"
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        *self.calls.borrow_mut() += 1;
        if *self.calls.borrow() == self.at {
            return Err((self.error)());
        }
        Scores::from_values("interrupting", &vowels(batch))
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        vec![("interrupting/calls".to_owned(), *self.calls.borrow() as f64)]
    }

    fn state(&self) -> serde_json::Value {
        serde_json::json!(*self.calls.borrow())
    }

    fn restore(&self, state: &serde_json::Value) -> Result<(), RewardError> {
        *self.calls.borrow_mut() = state.as_u64().unwrap() as usize;
        Ok(())
    }
}

#[test]
fn a_run_that_is_interrupted_beside_an_update_gives_the_same_bits() {
    let _alone = alone();
    for family in FAMILIES {
        let of = || trainer(family, settings(Rollouts::Asynchronous, None));
        let (mut whole, mut stopped) = (of(), of());
        let uninterrupted =
            |calls| Interrupting { calls: RefCell::new(calls), at: usize::MAX, error: interrupted };
        let reward = uninterrupted(0);
        let want: Vec<String> =
            (0..STEPS).map(|at| told(&step(&mut whole, at, &reward).1)).collect();
        assert!(want[2].contains("interrupting/calls"), "{}", want[2]);
        // The responses of the fourth step, beside the update of the third.
        let reward = Interrupting { calls: RefCell::new(0), at: 4, error: interrupted };
        for (at, want) in want.iter().enumerate().take(3) {
            assert_eq!(&told(&step(&mut stopped, at, &reward).1), want);
        }
        assert_eq!(*reward.calls.borrow(), 3, "the call that was interrupted is undone");
        let folder = tempfile::tempdir().unwrap();
        let keep = Keep { newest: 1, best: None };
        let mut checkpoints = Checkpoints::open(folder.path(), keep).unwrap();
        checkpoints.write(3, None, |files| stopped.save(files)).unwrap();
        let mut resumed = of();
        resumed.restore(&checkpoints.newest_valid().unwrap().saved.unwrap()).unwrap();
        for trainer in [&mut stopped, &mut resumed] {
            let reward = uninterrupted(3);
            for (at, want) in want.iter().enumerate().skip(3) {
                assert_eq!(&told(&step(trainer, at, &reward).1), want, "{family:?} {at}");
            }
            assert_eq!(distance(&weights(&whole), &weights(trainer)), 0.);
        }
    }
}

#[test]
fn a_reward_that_fails_beside_an_update_loses_no_update() {
    let _alone = alone();
    let failed = || RewardError::Failed { model: "it".to_owned(), source: "no connection".into() };
    for family in FAMILIES {
        let of = || trainer(family, settings(Rollouts::Asynchronous, None));
        let (mut whole, mut failing) = (of(), of());
        let steady = Interrupting { calls: RefCell::new(0), at: usize::MAX, error: interrupted };
        let want: Vec<String> =
            (0..STEPS).map(|at| told(&step(&mut whole, at, &steady).1)).collect();
        let reward = Interrupting { calls: RefCell::new(0), at: 4, error: failed };
        for (at, want) in want.iter().enumerate().take(3) {
            assert_eq!(&told(&step(&mut failing, at, &reward).1), want, "{family:?} {at}");
        }
        // The third update is there, and the fourth step has the error.
        let (mut sampler, mut spare) = (LocalSampler::new(&Letters), std::iter::empty());
        let error = failing
            .step_ahead(&prompts(12, 4), Some(&prompts(16, 4)), &mut spare, &mut sampler, &reward)
            .err()
            .unwrap();
        assert!(matches!(error, RlError::Reward(_)), "{error}");
        // It can be made again.
        let reward = Interrupting { calls: RefCell::new(3), at: usize::MAX, error: failed };
        for (at, want) in want.iter().enumerate().skip(3) {
            assert_eq!(&told(&step(&mut failing, at, &reward).1), want, "{family:?} {at}");
        }
        assert_eq!(distance(&weights(&whole), &weights(&failing)), 0.);
    }
}

#[test]
fn replayed_groups_are_whole_groups_of_earlier_steps() {
    let _alone = alone();
    for rollouts in [Rollouts::Synchronous, Rollouts::Asynchronous] {
        let mut trainer = trainer(Family::Llama, settings(rollouts, Some(REPLAY)));
        let mut known: Vec<(Vec<u32>, u64)> = Vec::new();
        let mut replayed = 0;
        for at in 0..STEPS {
            let (experience, stats) = step(&mut trainer, at, &vowels);
            let experience = experience.unwrap();
            let rollout = &experience.rollout;
            assert_eq!(rollout.len(), 16 + 4 * experience.replayed);
            assert_eq!(stats.get("rollout/replayed_groups"), experience.replayed as f64);
            assert!(stats.get("rollout/staleness_max") <= 2.);
            let rows = rollout.responses.rows().iter().zip(&rollout.versions);
            let rows: Vec<_> = rows.map(|(ids, version)| (ids.clone(), *version)).collect();
            let (new, old) = rows.split_at(16);
            assert!(
                new.iter()
                    .all(|(_, version)| at as u64 - version == rollouts.staleness().min(at as u64))
            );
            for row in old {
                assert!(known.contains(row), "{row:?}");
                assert!(row.1 <= new[0].1);
            }
            for group in old.chunks(4) {
                assert!(group.iter().all(|(_, version)| *version == group[0].1));
            }
            // The mean of a group is that of all its responses.
            for group in experience.groups.rows() {
                let ids = group.iter().map(|&row| &rollout.records[row].id);
                assert!(ids.clone().all(|id| id == &rollout.records[group[0]].id));
            }
            replayed += experience.replayed;
            known.extend_from_slice(new);
        }
        assert!(replayed >= 5, "{rollouts:?}: {replayed}");
    }
}

/// A group whose scores are all equal teaches nothing to algorithms that compare within groups, and as much as any
/// other to those that compare with the batch.
#[test]
fn groups_of_equal_scores_are_replayed_where_they_teach() {
    let _alone = alone();
    let by_prompt =
        |batch: &[Exchange<'_>]| batch.iter().map(|x| x.prompt.len() as f32).collect::<Vec<f32>>();
    for (algorithm, teaches) in
        [(NamedAlgorithm::Grpo, false), (NamedAlgorithm::ReinforcePlusPlus, true)]
    {
        let config = ReinforceConfig { algorithm, ..settings(Rollouts::Synchronous, Some(REPLAY)) };
        let mut trainer = trainer(Family::Llama, config);
        let replayed = (0..2).map(|at| {
            let (none, mut local) = (&mut std::iter::empty(), LocalSampler::new(&Letters));
            let (found, _) =
                trainer.step(&prompts(at * 4, 4), none, &mut local, &by_prompt).unwrap();
            found.map_or(0, |experience| experience.replayed)
        });
        assert_eq!(replayed.sum::<usize>() > 0, teaches, "{algorithm:?}");
    }
}

/// The weight of an old response is that of the paper: the ratio of the current weights to those that sampled.
#[test]
fn old_responses_have_the_weight_of_their_age() {
    let _alone = alone();
    let of = |correction, anchor| {
        let config = ReinforceConfig {
            correction: Some(correction),
            anchor: Some(anchor),
            kl: Some(KlForm::None),
            minibatch_size: None,
            epochs: 1,
            dropout: Dropout::Off,
            ..settings(Rollouts::Asynchronous, None)
        };
        let mut trainer = trainer(Family::Llama, config);
        step(&mut trainer, 0, &vowels);
        step(&mut trainer, 1, &vowels);
        let (experience, stats) = step(&mut trainer, 2, &vowels);
        (trainer, experience.unwrap(), stats)
    };
    let all = Correction::Truncate { level: RatioLevel::Token, least: 0., most: 1e6 };
    let (_, _, plain) = of(Correction::None, Anchor::Trainer);
    let (trainer, experience, corrected) = of(all, Anchor::Trainer);
    let (_, _, anchored) = of(Correction::None, Anchor::Sampler);

    // The first ratio is 1, so the loss of a token is its advantage times its weight.
    let rollout = &experience.rollout;
    let advantages = {
        let algorithm = trainer.config().settings().combination;
        algorithm.weigh(&experience).unwrap().policy_gradient.unwrap().weights
    };
    let sampled = rollout.sampler_log_probs.as_ref().unwrap();
    let (mut with, mut without) = (0., 0.);
    for (row, ids) in rollout.responses.rows().iter().enumerate() {
        let at = |tensor: &Tensor, t: usize| tensor.double_value(&[row as i64, t as i64]);
        let of_row = |weight: &dyn Fn(usize) -> f64| -> f64 {
            let losses = (0..ids.len()).map(|t| -weight(t) * at(&advantages, t));
            losses.sum::<f64>() / ids.len() as f64 / rollout.len() as f64
        };
        with += of_row(&|t| (at(&rollout.log_probs, t) - at(sampled, t)).exp());
        without += of_row(&|_| 1.);
    }
    let close = |stats: &Stats, want: f64| (stats.get("ppo/loss/policy") - want).abs() < 1e-6;
    assert!(close(&corrected, with), "{} {with}", corrected.get("ppo/loss/policy"));
    assert!(close(&plain, without), "{} {without}", plain.get("ppo/loss/policy"));
    assert!((with - without).abs() > 1e-4, "{with} {without}");
    assert_eq!(plain.get("ppo/policy/ratio_max"), 1.);
    assert!(anchored.get("ppo/policy/ratio_max") > 1.001);
}

#[test]
fn bad_settings_are_refused_by_name() {
    let _alone = alone();
    let refused = |config: ReinforceConfig| config.check().unwrap_err().to_string();
    let replay = |batch_size, max_staleness| Some(Replay { batch_size, max_staleness });
    let of = |rollouts, replay| settings(rollouts, replay);
    for (config, field) in [
        (of(Rollouts::Synchronous, replay(6, 1)), "`replay.batch_size` is 6"),
        (of(Rollouts::Synchronous, replay(0, 1)), "`replay.batch_size` is 0"),
        (of(Rollouts::Synchronous, replay(8, 0)), "`replay.max_staleness` is 0"),
        (of(Rollouts::Asynchronous, replay(8, 1)), "`replay.max_staleness` is 1"),
        (
            ReinforceConfig { minibatch_size: Some(16), ..of(Rollouts::Synchronous, replay(8, 1)) },
            "the sum of `batch_size` and `replay.batch_size`, which is 24",
        ),
    ] {
        let message = refused(config);
        assert!(message.contains(field), "{message}");
    }
    let mut scaled = of(Rollouts::Synchronous, Some(REPLAY));
    scaled.scores.scaling = ScoreScaling::Scale;
    assert!(refused(scaled).contains("`scores.scaling` is scale"));

    // Nothing corrects for old responses by default.
    let plain = ReinforceConfig { correction: None, ..of(Rollouts::Asynchronous, None) };
    let warnings = trainer(Family::Llama, plain).warnings().to_vec();
    assert!(warnings.iter().any(|w| w.contains("up to 1 update(s) old")), "{warnings:?}");

    let mut sampler = LocalSampler::new(&Letters);
    let mut spare = std::iter::empty();
    let next = prompts(4, 4);
    let mut without = ReinforceTrainer::new(
        policy(Family::Llama, 5),
        Reference::Frozen(Box::new(policy(Family::Llama, 5))),
        of(Rollouts::Asynchronous, None),
    )
    .unwrap();
    let error = without.step_ahead(&prompts(0, 4), Some(&next), &mut spare, &mut sampler, &vowels);
    let message = error.unwrap_err().to_string();
    assert!(message.contains("sampling_copy"), "{message}");
    let message = without.sampling_copy(policy(Family::T5, 5)).unwrap_err().to_string();
    assert!(message.contains("which the policy lacks"), "{message}");
    let mut synchronous = trainer(Family::Llama, of(Rollouts::Synchronous, None));
    let error =
        synchronous.step_ahead(&prompts(0, 4), Some(&next), &mut spare, &mut sampler, &vowels);
    assert!(error.unwrap_err().to_string().contains("`rollouts` is synchronous"));
}

/// Gives no log-probabilities.
struct Silent;

impl Sampler for Silent {
    fn sample(&mut self, asks: &[Ask], call: SamplerCall<'_>) -> Result<Vec<Sampled>, LmError> {
        let sampled = LocalSampler::new(&Letters).sample(asks, call)?;
        Ok(sampled.into_iter().map(|row| Sampled { log_probs: None, ..row }).collect())
    }
}

#[test]
fn old_responses_need_the_log_probabilities_of_their_sampler() {
    let _alone = alone();
    let mut trainer = trainer(Family::Llama, settings(Rollouts::Asynchronous, None));
    let mut step = |at: usize| {
        let next = prompts(4 * at + 4, 4);
        let mut spare = std::iter::empty();
        trainer.step_ahead(&prompts(4 * at, 4), Some(&next), &mut spare, &mut Silent, &vowels)
    };
    step(0).unwrap();
    let error = step(1).unwrap_err();
    assert!(matches!(error, RlError::StaleWithoutLogProbs { staleness: 1 }), "{error}");
}

#[test]
fn a_copy_shares_the_memory_of_frozen_weights() {
    let _alone = alone();
    let own = policy(Family::Llama, 5);
    own.parameters().train_where(|name| name.contains("norm"));
    let config =
        ReinforceConfig { kl: Some(KlForm::None), ..settings(Rollouts::Asynchronous, None) };
    let copy = policy(Family::Llama, 5);
    let handles: Vec<(String, Tensor)> =
        copy.parameters().iter().map(|(name, t)| (name.to_owned(), t.shallow_clone())).collect();
    let trainer = ReinforceTrainer::new(own, Reference::Given, config).unwrap();
    let trainer = trainer.sampling_copy(copy).unwrap();
    for (name, copy) in handles {
        let own = trainer.policy().parameters().get(&name).unwrap();
        let shared = own.data_ptr() == copy.data_ptr();
        assert_eq!(shared, !name.contains("norm"), "{name}");
        assert!(!copy.requires_grad());
    }
}
