//! Episodes: which tokens are whose, and what an environment may do.

use std::{sync::Arc, thread, time::Duration};

use rlaif_core::{Exchange, Message, PromptRecord, Seed, Specials, TextCodec};
use rlaif_lm::{LocalSampler, Sampled, Sampler, generate::Eos};
use rlaif_models::LanguageModel;
use rlaif_reinforce::{
    Experience, NamedAlgorithm, ReinforceConfig, ReinforceTrainer,
    rl::{
        AdvantageEstimator, EpisodeConfig, EpisodeSampler, MissingScore, Prompt, RlError, Stats,
        env::{Environment, EnvironmentAnswer, EnvironmentError, Episode, ModelTurn, Started},
    },
    train::{Checkpoints, Keep},
};

use crate::common::{Family, Letters, alone, config, distance, prompts, trainer, vowels, weights};

/// Answers `XY` to every turn, with a reward for its vowels, and ends after some turns. Records whose id
/// begins with `bad` misbehave in their second turn.
#[derive(Clone)]
pub(crate) struct Talk(pub(crate) usize);

impl Environment for Talk {
    fn name(&self) -> &'static str {
        "talk"
    }

    fn reset(&self, record: &PromptRecord, _: Seed) -> Result<Started, EnvironmentError> {
        if record.id == "bad refuses" {
            let problem = "no such task".to_owned();
            return Err(EnvironmentError::Failed { environment: "talk".to_owned(), problem });
        }
        Ok(Started::new(Conversation { turns: self.0, id: record.id.clone() }))
    }
}

struct Conversation {
    turns: usize,
    id: String,
}

impl Episode for Conversation {
    fn step(&mut self, turn: &ModelTurn) -> Result<EnvironmentAnswer, EnvironmentError> {
        let reward = f64::from(vowels(&[Exchange::new("", &turn.text)])[0]);
        if turn.number == 1 {
            match &*self.id {
                "bad hangs" => thread::sleep(Duration::from_secs(20)),
                // Without the message of a panic, whose trace takes its time.
                "bad panics" => std::panic::resume_unwind(Box::new("out of order")),
                "bad number" => return Ok(EnvironmentAnswer::end(f64::INFINITY)),
                _ => {}
            }
        }
        Ok(match turn.number + 1 == self.turns {
            true => EnvironmentAnswer::end(reward),
            false => {
                EnvironmentAnswer { reward, ..EnvironmentAnswer::say(Message::new("user", "XY")) }
                    .counting("xy")
            }
        })
    }
}

pub(crate) fn nothing(batch: &[Exchange<'_>]) -> Vec<f32> {
    vec![0.; batch.len()]
}

fn talk(turns: usize, config: &EpisodeConfig) -> EpisodeSampler<'static> {
    let config = EpisodeConfig { before: String::new(), after: String::new(), ..config.clone() };
    let environment = Arc::new(Talk(turns));
    EpisodeSampler::new(LocalSampler::new(&Letters), environment, &Letters, config, Seed::new(3))
}

/// Turns of exactly three tokens.
pub(crate) fn turns_of_three(algorithm: NamedAlgorithm) -> ReinforceConfig {
    let mut config = config(algorithm);
    config.generation.max_new_tokens = 3;
    config.generation.eos = Eos::Ignored;
    config
}

fn step(
    config: ReinforceConfig,
    prompts: &[Prompt],
    sampler: &mut dyn Sampler,
) -> Result<(Option<Experience>, Stats), RlError> {
    trainer(Family::Llama, config).step(prompts, &mut std::iter::empty(), sampler, &nothing)
}

#[test]
fn an_episode_of_one_turn_is_a_response() {
    let _alone = alone();
    for algorithm in [NamedAlgorithm::Grpo, NamedAlgorithm::ReinforcePlusPlus] {
        let mut config = turns_of_three(algorithm);
        config.group_size = Some(4);
        let mut plain = trainer(Family::Llama, config.clone());
        let mut played = trainer(Family::Llama, config);
        let mut sampler = talk(1, &EpisodeConfig::default());
        for at in 0..2 {
            let prompts = prompts(at * 4, 4);
            let mut local = LocalSampler::new(&Letters);
            plain.step(&prompts, &mut std::iter::empty(), &mut local, &vowels).unwrap();
            played.step(&prompts, &mut std::iter::empty(), &mut sampler, &nothing).unwrap();
        }
        assert_eq!(distance(&weights(&plain), &weights(&played)), 0., "{algorithm:?}");
    }
}

#[test]
fn tokens_stay_as_sampled_and_those_of_the_environment_are_left_out() {
    let _alone = alone();
    let prompts = prompts(0, 4);
    let mut sampler = talk(3, &EpisodeConfig::default());
    let (experience, stats) =
        step(turns_of_three(NamedAlgorithm::Grpo), &prompts, &mut sampler).unwrap();
    let rollout = &experience.unwrap().rollout;
    let mask = Vec::<Vec<bool>>::try_from(rollout.mask.tensor()).unwrap();
    let own = [true, true, true];
    let others = [false, false];
    for (row, ids) in rollout.responses.rows().iter().enumerate() {
        assert_eq!(rollout.given[row], [3..5, 8..10]);
        let answer = Letters.encode("XY", Specials::Exclude).unwrap();
        assert!(ids[3..5] == answer && ids[8..10] == answer && ids.len() == 13);
        assert_eq!(mask[row], [&own[..], &others, &own, &others, &own].concat());
        assert_eq!(rollout.tokens(row), 9);
        // Vowels of the environment do not count, and those of all turns do.
        let text = Letters.decode(ids, Specials::Exclude).unwrap();
        assert_eq!(rollout.texts[row], text);
        let expected = vowels(&[Exchange::new("", &text)])[0];
        assert_eq!(rollout.scores[row], Some(f64::from(expected)));
    }
    // The sampler had the environment's tokens in its context, as the training pass has them.
    assert!(stats.get("objective/sampler_gap") < 1e-5);
    for (name, expected) in [
        ("episodes/turns", 3.),
        ("episodes/own_tokens", 9.),
        ("episodes/xy", 32.),
        ("episodes/over", 16.),
    ] {
        assert_eq!(stats.get(name), expected, "{name}");
    }
    assert_eq!(stats.get("env/reward/environment"), stats.get("env/reward_mean"));
}

#[test]
fn weights_at_tokens_of_the_environment_change_nothing() {
    let _alone = alone();
    let prompts = prompts(0, 4);
    let of = |garbage: f64| {
        let mut trainer = trainer(Family::Llama, turns_of_three(NamedAlgorithm::Grpo));
        let mut sampler = talk(3, &EpisodeConfig::default());
        let none = &mut std::iter::empty();
        let experience = trainer.rollout(&prompts, none, &mut sampler, &nothing).unwrap().unwrap();
        let mut all = trainer.weigh(&experience).unwrap();
        if let Some(weighted) = &mut all.policy_gradient {
            for at in [3, 4, 8, 9] {
                weighted
                    .weights
                    .select(1, at)
                    .copy_(&(weighted.weights.select(1, 0) * 0. + garbage));
            }
        }
        trainer.update(&experience, &all).unwrap();
        weights(&trainer)
    };
    assert_eq!(distance(&of(0.), &of(1e9)), 0.);
}

#[test]
fn turns_do_not_depend_on_the_other_episodes() {
    let _alone = alone();
    let all = prompts(0, 4);
    let played = |prompts: &[Prompt], rows: usize| {
        let mut config = turns_of_three(NamedAlgorithm::Grpo);
        config.generation.batch_size = rows;
        config.batch_size = 4 * prompts.len();
        config.minibatch_size = None;
        let mut sampler = talk(3, &EpisodeConfig::default());
        let (experience, _) = step(config, prompts, &mut sampler).unwrap();
        experience.unwrap().rollout.responses.rows().to_vec()
    };
    let together = played(&all, 128);
    assert_eq!(together, played(&all, 3));
    assert_eq!(together[4..8], played(&all[1..2], 128));
    let mut reversed = all;
    reversed.reverse();
    assert_eq!(together[..4], played(&reversed, 128)[12..]);
}

#[test]
fn environments_that_misbehave_cost_their_own_episode() {
    let _alone = alone();
    let bad = ["bad hangs", "bad panics", "bad number", "bad refuses"];
    let mut all = prompts(0, 4);
    for (prompt, id) in all.iter_mut().zip(bad) {
        *prompt =
            Prompt::new(PromptRecord::new(id, prompt.record.prompt.clone()), prompt.ids.to_vec());
    }
    all.extend(prompts(10, 1));
    let limit = EpisodeConfig { timeout_s: 1., ..EpisodeConfig::default() };
    let config = || {
        let mut config = turns_of_three(NamedAlgorithm::Grpo);
        (config.batch_size, config.minibatch_size) = (20, None);
        config
    };
    let (experience, stats) = step(config(), &all, &mut talk(3, &limit)).unwrap();
    let rollout = experience.unwrap().rollout;
    for row in 0..16 {
        assert_eq!((rollout.scores[row], rollout.tokens(row)), (None, 0), "{row}");
    }
    assert!(rollout.scores[16..].iter().all(Option::is_some));
    for (name, expected) in [
        ("episodes/timed_out", 4.),
        ("episodes/died", 4.),
        ("episodes/garbage", 4.),
        ("episodes/failed", 4.),
        ("episodes/over", 4.),
        ("env/dropped", 16.),
    ] {
        assert_eq!(stats.get(name), expected, "{name}");
    }
    let warning = rollout.unscored.unwrap();
    assert!(warning.contains("`talk` did not answer within 1 s"), "{warning}");
    let mut strict = config();
    strict.scores.missing = MissingScore::Error;
    let error = step(strict, &all, &mut talk(3, &limit)).unwrap_err();
    assert!(matches!(&error, RlError::NoScore { reason, .. } if reason.contains("did not answer")));
}

#[test]
fn limits_end_an_episode_with_its_rewards_so_far() {
    let _alone = alone();
    let prompts = prompts(0, 4);
    let base = || turns_of_three(NamedAlgorithm::Grpo);
    let mut cut = base();
    cut.generation.eos = Eos::Ends;
    // Every turn of one token that is not the end is cut off.
    cut.generation.max_new_tokens = 1;
    let few = EpisodeConfig { max_turns: 2, ..EpisodeConfig::default() };
    let short = EpisodeConfig { max_tokens: 7, ..EpisodeConfig::default() };
    for (config, episode, event, turns) in [
        (base(), few, "episodes/out_of_turns", 2.),
        // Three tokens, two of the environment, two of three; then two of the environment.
        (base(), short, "episodes/out_of_room", 2.),
        (cut, EpisodeConfig::default(), "episodes/cut", 1.),
    ] {
        let (experience, stats) = step(config, &prompts, &mut talk(9, &episode)).unwrap();
        assert!(stats.get(event) >= 12., "{event}: {}", stats.get(event));
        assert!((stats.get("episodes/turns") - turns).abs() < 0.5, "{event}");
        assert!(experience.unwrap().rollout.scores.iter().all(Option::is_some));
    }
}

#[test]
fn rewards_of_turns_can_be_steps() {
    let _alone = alone();
    let mut config = turns_of_three(NamedAlgorithm::Grpo);
    config.advantage = Some(AdvantageEstimator::GroupSteps { eps: 1e-4 });
    let mut trainer = trainer(Family::Llama, config);
    let mut sampler = talk(3, &EpisodeConfig::default());
    let none = &mut std::iter::empty();
    let experience =
        trainer.rollout(&prompts(0, 4), none, &mut sampler, &nothing).unwrap().unwrap();
    let steps = experience.steps.as_ref().unwrap();
    assert!(steps.iter().all(|of_row| of_row.iter().map(|step| step.0).eq([2, 7, 12])));
    let weights = trainer.weigh(&experience).unwrap().policy_gradient.unwrap().weights;
    let weights = Vec::<Vec<f64>>::try_from(weights.to_kind(tch::Kind::Double)).unwrap();
    let scores: Vec<f64> = steps[..4].iter().flatten().map(|step| step.1).collect();
    let mean = scores.iter().sum::<f64>() / 12.;
    let std = (scores.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 11.).sqrt();
    let expected = (steps[0][2].1 - mean) / (std + 1e-4);
    assert!((weights[0][12] - expected).abs() < 1e-5);
    let expected = expected + (steps[0][1].1 - mean) / (std + 1e-4);
    assert!((weights[0][5] - expected).abs() < 1e-5 && weights[0][3] == 0.);
}

#[test]
fn a_restored_run_plays_on_to_the_bit() {
    let _alone = alone();
    let fresh = || trainer(Family::Llama, turns_of_three(NamedAlgorithm::Rloo));
    let step = |trainer: &mut ReinforceTrainer<LanguageModel>, at: usize| {
        let mut sampler = talk(3, &EpisodeConfig::default());
        let none = &mut std::iter::empty();
        trainer.step(&prompts(at * 4, 4), none, &mut sampler, &nothing).unwrap();
    };
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoints = Checkpoints::open(folder.path(), Keep { newest: 1, best: None }).unwrap();
    let mut whole = fresh();
    step(&mut whole, 0);
    checkpoints.write(1, None, |files| whole.save(files)).unwrap();
    (1..3).for_each(|at| step(&mut whole, at));
    let mut resumed = fresh();
    resumed.restore(&checkpoints.newest_valid().unwrap().saved.unwrap()).unwrap();
    (1..3).for_each(|at| step(&mut resumed, at));
    assert_eq!(distance(&weights(&whole), &weights(&resumed)), 0.);
    assert!(distance(&weights(&whole), &weights(&fresh())) > 1e-3);
}

#[test]
fn encoders_and_other_algorithms_are_refused_by_name() {
    let _alone = alone();
    let config = turns_of_three(NamedAlgorithm::Grpo);
    let mut t5 = trainer(Family::T5, config);
    let mut sampler = talk(2, &EpisodeConfig::default());
    let none = &mut std::iter::empty();
    let error = t5.step(&prompts(0, 4), none, &mut sampler, &nothing).unwrap_err().to_string();
    assert!(error.contains("`policy` is t5") && error.contains("decoder-only"), "{error}");
    let policy = crate::common::policy(Family::Llama, 1);
    let weights = rlaif_lm::Weights::of(&policy);
    let draw = rlaif_lm::Draw { seed: Seed::new(1), step: 0 };
    let how = rlaif_lm::generate::GenerationConfig::default();
    let sampled: Result<Vec<Sampled>, _> = rlaif_lm::sample(
        &mut sampler,
        &prompts(0, 1),
        rlaif_lm::SamplerCall { weights, how: &how, draw },
    );
    let error = sampled.unwrap_err().to_string();
    assert!(error.contains("an algorithm that plays episodes"), "{error}");
}
