//! Bad settings and bad inputs are refused by name, before anything is sampled.

use rlaif_lm::LocalSampler;
use rlaif_reinforce::{
    NamedAlgorithm, Reference, ReinforceConfig, ReinforceTrainer,
    rl::{RlError, ScoreScaling, Surrogate},
};

use crate::common::{Family, Letters, alone, config, policy, prompts, trainer, vowels};

fn refused(change: impl FnOnce(&mut ReinforceConfig)) -> String {
    let mut config = config(NamedAlgorithm::Dapo);
    change(&mut config);
    config.check().unwrap_err().to_string()
}

#[test]
fn sizes_that_split_groups_are_refused() {
    let _alone = alone();
    for (message, field) in [
        (refused(|c| c.group_size = Some(1)), "`group_size` is 1"),
        (refused(|c| c.group_size = Some(3)), "`batch_size` is 16"),
        (refused(|c| c.minibatch_size = Some(6)), "`minibatch_size` is 6"),
        (refused(|c| c.minibatch_size = Some(12)), "`minibatch_size` is 12"),
        (refused(|c| c.microbatch_size = 3), "`microbatch_size` is 3"),
        (refused(|c| c.epochs = 0), "`epochs` is 0"),
        (refused(|c| c.steps = 0), "`steps` is 0"),
        (refused(|c| c.steps = u64::MAX), "`steps` is"),
    ] {
        assert!(message.contains(field), "{message}");
    }
}

#[test]
fn wrong_combinations_are_refused_with_the_reason() {
    let _alone = alone();
    let narrow = Surrogate::Truncated { least: 0., most: 0.2 };
    let message = refused(|c| c.surrogate = Some(narrow));
    assert!(message.contains("surrogate.truncated.most` is 0.2") && message.contains("cut"));
    let message = refused(|c| {
        c.generation.sampling = rlaif_lm::generate::Sampling::Sample {
            temperature: 1.,
            top_k: None,
            top_p: Some(0.9),
            min_p: None,
        };
    });
    assert!(message.contains("`generation.sampling.top_p` cuts"), "{message}");
    let mut remax = config(NamedAlgorithm::ReMax);
    remax.scores.scaling = ScoreScaling::Scale;
    assert!(remax.check().unwrap_err().to_string().contains("`scores.scaling`"));
}

#[test]
fn doubtful_combinations_are_warned_about() {
    let _alone = alone();
    let wide = ReinforceConfig {
        surrogate: Some(Surrogate::Clipped { low: 0.2, high: 0.2, dual_clip: None }),
        ..config(NamedAlgorithm::Gspo)
    };
    let trainer = trainer(Family::Llama, wide);
    let found = trainer.warnings();
    assert!(found.iter().any(|warning| warning.contains("never clips")), "{found:?}");
    for algorithm in NamedAlgorithm::ALL {
        // With the settings of its paper, an algorithm has no warning.
        let config = ReinforceConfig { algorithm, batch_size: 64, ..ReinforceConfig::default() };
        let policy = policy(Family::T5, 5);
        let reference = Reference::Frozen(Box::new(crate::common::policy(Family::T5, 5)));
        let trainer = ReinforceTrainer::new(policy, reference, config).unwrap();
        let of_combination = |warning: &&String| !warning.starts_with("rollout");
        assert_eq!(trainer.warnings().iter().find(of_combination), None, "{algorithm:?}");
    }
}

#[test]
fn a_penalty_needs_a_reference() {
    let _alone = alone();
    let config = config(NamedAlgorithm::Grpo);
    let error = ReinforceTrainer::new(policy(Family::Llama, 5), Reference::Given, config.clone());
    assert!(error.unwrap_err().to_string().contains("`reference` is none"));
    let free = ReinforceConfig { kl: Some(rlaif_reinforce::rl::KlForm::None), ..config };
    assert!(ReinforceTrainer::new(policy(Family::Llama, 5), Reference::Given, free).is_ok());
}

#[test]
fn a_batch_of_another_size_and_a_stale_rollout_are_refused() {
    let _alone = alone();
    let mut trainer = trainer(Family::Llama, config(NamedAlgorithm::DrGrpo));
    let mut sampler = LocalSampler::new(&Letters);
    let mut spare = std::iter::empty();
    let few = trainer.rollout(&prompts(0, 3), &mut spare, &mut sampler, &vowels);
    assert!(matches!(few, Err(RlError::Rows { expected: 4, found: 3, .. })));
    let found = trainer.rollout(&prompts(0, 4), &mut spare, &mut sampler, &vowels);
    let experience = found.unwrap().unwrap();
    let weights = trainer.weigh(&experience).unwrap();
    trainer.update(&experience, &weights).unwrap();
    let stale = trainer.update(&experience, &weights);
    assert!(matches!(stale, Err(RlError::StaleRollout { .. })));
    assert!(matches!(trainer.weigh(&experience), Err(RlError::StaleRollout { .. })));
}

/// A key of a table does not change the defaults of the table's other keys.
#[test]
fn absent_keys_of_a_table_keep_their_defaults() {
    let _alone = alone();
    let text = r#"{"optimizer": {"weight_decay": 0.1}, "scores": {"clip": 1.0},
        "generation": {"max_new_tokens": 7}}"#;
    let found: ReinforceConfig = serde_json::from_str(text).unwrap();
    let mut want = ReinforceConfig::default();
    want.optimizer.weight_decay = 0.1;
    want.scores.clip = Some(1.);
    want.generation.max_new_tokens = 7;
    assert_eq!(found, want);
    let unknown = serde_json::from_str::<ReinforceConfig>(r#"{"scores": {"clipp": 1.0}}"#);
    assert!(unknown.unwrap_err().to_string().contains("clipp"));
}
