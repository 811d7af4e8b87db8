//! Changes that must not affect any number, and numbers that must be exact.

use rlaif_core::{
    Exchange, RewardError, RewardModel, Score, Scores, Specials, StepScore, TextCodec,
};
use rlaif_lm::{
    Dropout, Forward, LocalSampler, Padding, Policy, RecordedSampler, Routers, Sampled, Sampler,
    TokenBatch, generate::FinishReason,
};
use rlaif_models::{Architecture, Config, LanguageModel};
use rlaif_reinforce::{
    Algorithm, Curriculum, Experience, NamedAlgorithm, Reference, ReinforceConfig,
    ReinforceTrainer, TokenWeights, Weighted,
    rl::{AdvantageEstimator, KlForm, PolicyObjective, Prompt, RlError, Stats, Surrogate},
    train::{Checkpoints, Keep, KlEstimator, OptimizerConfig, SftRow, sft_loss},
};
use rlaif_torch::seeded;
use tch::{Device, Kind, Tensor};

use crate::common::{
    FAMILIES, Family, Letters, alone, config, distance, host, policy, prompts, step, trainer,
    vowels, weights,
};

fn ratios(stats: &Stats) -> &[f64] {
    &stats.distributions.iter().find(|(name, _)| *name == "ppo/policy/ratio").unwrap().1
}

#[test]
fn the_first_ratio_is_exactly_1_with_every_algorithm() {
    let _alone = alone();
    for family in FAMILIES {
        for algorithm in NamedAlgorithm::ALL {
            for microbatch_size in [0, 4, 2] {
                let config = ReinforceConfig { microbatch_size, ..config(algorithm) };
                let mut trainer = trainer(family, config);
                let (experience, stats) = step(&mut trainer, &prompts(0, 4));
                let rollout = &experience.as_ref().unwrap().rollout;
                let first =
                    rollout.tokens_of(&experience.as_ref().unwrap().schedule[0][0].concat());
                let (first, rest) = ratios(&stats).split_at(first);
                let anchored = algorithm == NamedAlgorithm::DppoTv;
                let near = |r: &f64| if anchored { (r - 1.).abs() < 1e-4 } else { *r == 1. };
                assert!(first.iter().all(near), "{family:?} {algorithm:?} {microbatch_size}");
                assert!(rest.iter().any(|r| *r != 1.), "{family:?} {algorithm:?}");
                assert!(stats.get("objective/mismatch_kl") < 1e-8, "{family:?} {algorithm:?}");
            }
        }
    }
}

fn after_two_steps(
    mut trainer: ReinforceTrainer<LanguageModel>,
    change: impl Fn(&mut Experience),
) -> Vec<Tensor> {
    for at in 0..2 {
        let mut spare = prompts(100, 40).into_iter();
        let mut sampler = LocalSampler::new(&Letters);
        let found = trainer.rollout(&prompts(4 * at, 4), &mut spare, &mut sampler, &vowels);
        let mut experience = found.unwrap().unwrap();
        change(&mut experience);
        let weights = trainer.weigh(&experience).unwrap();
        trainer.update(&experience, &weights).unwrap();
    }
    weights(&trainer)
}

#[test]
fn the_size_of_a_pass_changes_nothing() {
    let _alone = alone();
    for family in FAMILIES {
        for algorithm in NamedAlgorithm::ALL {
            let of = |microbatch_size| {
                let config = ReinforceConfig { microbatch_size, ..config(algorithm) };
                after_two_steps(trainer(family, config), |_| {})
            };
            let whole = of(0);
            let start = weights(&trainer(family, config(algorithm)));
            assert!(distance(&whole, &start) > 1e-3, "{family:?} {algorithm:?}");
            for size in [1, 2, 4] {
                let far = distance(&whole, &of(size));
                assert!(far < 2e-5, "{family:?} {algorithm:?} {size}: {far}");
            }
        }
    }
}

/// A pass of several groups computes each prompt once; a pass of single responses computes it
/// each time.
#[test]
fn a_prompt_that_is_read_once_gives_the_numbers_of_one_read_each_time() {
    let _alone = alone();
    for family in FAMILIES {
        let config = config(NamedAlgorithm::Grpo);
        let (mut one, mut two) = (trainer(family, config.clone()), trainer(family, config));
        let rollout = |trainer: &mut ReinforceTrainer<LanguageModel>| {
            let mut sampler = LocalSampler::new(&Letters);
            trainer.rollout(&prompts(0, 4), &mut std::iter::empty(), &mut sampler, &vowels)
        };
        let (whole, mut single) = (rollout(&mut one).unwrap(), rollout(&mut two).unwrap());
        let experience = single.as_mut().unwrap();
        for passes in experience.schedule.iter_mut().flatten() {
            *passes = passes.concat().into_iter().map(|row| vec![row]).collect();
        }
        let update = |trainer: &mut ReinforceTrainer<LanguageModel>, experience: &Experience| {
            let weights = trainer.weigh(experience).unwrap();
            trainer.update(experience, &weights).unwrap();
            self::weights(trainer)
        };
        let far = distance(
            &update(&mut one, whole.as_ref().unwrap()),
            &update(&mut two, single.as_ref().unwrap()),
        );
        assert!(far < 2e-5, "{family:?}: {far}");
    }
}

/// With a single pass, the update uses the rollout's.
#[test]
fn a_pass_that_is_used_again_gives_the_numbers_of_one_computed_again() {
    let _alone = alone();
    for family in FAMILIES {
        for algorithm in NamedAlgorithm::ALL {
            let config = ReinforceConfig { minibatch_size: None, epochs: 1, ..config(algorithm) };
            let kept = after_two_steps(trainer(family, config.clone()), |_| {});
            let again = after_two_steps(trainer(family, config.clone()), |e| e.drop_graph());
            assert_eq!(distance(&kept, &again), 0., "{family:?} {algorithm:?}");
            let start = weights(&trainer(family, config));
            assert!(distance(&kept, &start) > 0., "{family:?} {algorithm:?}");
        }
    }
}

/// Several responses to each prompt are computed as one run of tokens without padding. In another
/// order they are rows, padded to the longest.
#[test]
fn packed_and_padded_rows_give_the_same_numbers() {
    let _alone = alone();
    for family in FAMILIES {
        for algorithm in NamedAlgorithm::ALL {
            let of = |rows: fn(&mut Vec<usize>)| {
                after_two_steps(trainer(family, config(algorithm)), |experience| {
                    experience.schedule.iter_mut().flatten().flatten().for_each(rows);
                })
            };
            // Sorted, the responses to a prompt are neighbours, and no round of prompts repeats.
            let far = distance(&of(|_| {}), &of(|rows| rows.sort_unstable()));
            assert!(far < 2e-5, "{family:?} {algorithm:?}: {far}");
        }
    }
}

/// A long prompt with long responses pads all others. Without scores it has no effect.
#[test]
fn padding_changes_nothing() {
    let _alone = alone();
    for family in FAMILIES {
        for algorithm in NamedAlgorithm::ALL {
            let of = |prompt: usize, response: usize| {
                let config = ReinforceConfig {
                    minibatch_size: None,
                    dynamic_sampling: Some(rlaif_reinforce::DynamicSampling { rounds: 0 }),
                    ..config(algorithm)
                };
                let mut trainer = trainer(family, config);
                let mut given = prompts(0, 4);
                given[3].ids = vec![7; prompt].into();
                // Sixteen responses, and those that ReMax compares them with.
                let sampled = (0..20).map(|row| {
                    let own = (2..5 + row % 3).map(|at| 3 + (row * 5 + at) as u32 % 30);
                    let ids =
                        if (12..16).contains(&row) { vec![9; response] } else { own.collect() };
                    let text = Letters.decode(&ids, Specials::Exclude).unwrap();
                    Sampled {
                        ids,
                        log_probs: None,
                        text,
                        finish: FinishReason::Length,
                        version: 0,
                        played: None,
                    }
                });
                let mut sampler = RecordedSampler::new(sampled.collect());
                let reward = Undecided((12..16).collect());
                trainer.step(&given, &mut std::iter::empty(), &mut sampler, &reward).unwrap();
                weights(&trainer)
            };
            let narrow = of(2, 1);
            let start = weights(&trainer(family, config(algorithm)));
            assert!(distance(&narrow, &start) > 1e-3, "{family:?} {algorithm:?}");
            let far = distance(&narrow, &of(20, 8));
            assert!(far < 2e-5, "{family:?} {algorithm:?}: {far}");
        }
    }
}

#[test]
fn recomputed_activations_change_nothing() {
    let _alone = alone();
    for family in FAMILIES {
        let of = |activations| {
            let config = ReinforceConfig { activations, ..config(NamedAlgorithm::Grpo) };
            after_two_steps(trainer(family, config), |_| {})
        };
        use rlaif_lm::Activations::{Keep, Recompute};
        assert!(distance(&of(Keep), &of(Recompute)) < 1e-5);
    }
}

#[test]
fn masked_tokens_do_not_matter() {
    let _alone = alone();
    for family in FAMILIES {
        for algorithm in NamedAlgorithm::ALL {
            let clean = after_two_steps(trainer(family, config(algorithm)), |_| {});
            let garbage = after_two_steps(trainer(family, config(algorithm)), |experience| {
                let rollout = &mut experience.rollout;
                let real = rollout.mask.tensor().shallow_clone();
                let nan = Tensor::full([], f64::NAN, (Kind::Float, Device::Cpu));
                for x in [&mut rollout.log_probs, &mut rollout.ref_log_probs, &mut rollout.kl]
                    .into_iter()
                    .chain(rollout.sampler_log_probs.as_mut())
                {
                    *x = x.where_self(&real, &nan);
                }
            });
            assert_eq!(distance(&clean, &garbage), 0., "{family:?} {algorithm:?}");
        }
    }
}

#[test]
fn the_order_of_groups_changes_nothing() {
    let _alone = alone();
    for family in FAMILIES {
        for algorithm in NamedAlgorithm::ALL {
            let of = |turned: usize| {
                let config = ReinforceConfig {
                    minibatch_size: None,
                    dynamic_sampling: Some(rlaif_reinforce::DynamicSampling { rounds: 0 }),
                    ..config(algorithm)
                };
                let mut trainer = trainer(family, config);
                for at in 0..2 {
                    let mut given = prompts(4 * at, 4);
                    given.rotate_left(turned);
                    step(&mut trainer, &given);
                }
                weights(&trainer)
            };
            let far = distance(&of(0), &of(3));
            assert!(far < 2e-5, "{family:?} {algorithm:?}: {far}");
        }
    }
}

/// Scores vowels, except for responses whose place in the batch is listed.
struct Undecided(Vec<usize>);

impl RewardModel for Undecided {
    fn name(&self) -> &str {
        "undecided"
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let scores = vowels(batch).into_iter().enumerate();
        let scores = scores.map(|(row, score)| {
            let value = if self.0.contains(&row) { None } else { Some(score) };
            value.and_then(|value| Score::new(value).ok())
        });
        Ok(Scores::new(scores.collect()))
    }
}

/// A response without a score has no effect: it counts in no mean, deviation or loss.
#[test]
fn a_response_without_a_score_counts_nowhere() {
    let _alone = alone();
    for family in FAMILIES {
        for algorithm in NamedAlgorithm::ALL {
            let of = |garble: bool| {
                let config = ReinforceConfig { minibatch_size: None, ..config(algorithm) };
                let mut trainer = trainer(family, config);
                let mut sampler = LocalSampler::new(&Letters);
                let reward = Undecided(vec![1, 6, 7]);
                let found =
                    trainer.rollout(&prompts(0, 4), &mut std::iter::empty(), &mut sampler, &reward);
                let mut experience = found.unwrap().unwrap();
                assert!(!experience.rollout.counts(1) && experience.rollout.tokens(6) == 0);
                if garble {
                    // The numbers of a response that does not count may have any value.
                    let rollout = &mut experience.rollout;
                    for x in [&mut rollout.log_probs, &mut rollout.ref_log_probs] {
                        let _ = x.get(1).fill_(f64::NAN);
                    }
                }
                let weights = trainer.weigh(&experience).unwrap();
                if let Some(policy_gradient) = &weights.policy_gradient {
                    let rows = host(&policy_gradient.weights.abs().sum_dim_intlist(
                        1,
                        false,
                        Kind::Double,
                    ));
                    assert_eq!([rows[1], rows[6], rows[7]], [0.; 3], "{algorithm:?}");
                }
                let stats = trainer.update(&experience, &weights).unwrap();
                (self::weights(&trainer), stats.get("env/dropped"))
            };
            let ((one, dropped), (two, _)) = (of(false), of(true));
            assert_eq!(distance(&one, &two), 0., "{family:?} {algorithm:?}");
            assert_eq!(dropped, 3.);
        }
    }
}

#[test]
fn a_restored_trainer_goes_on_bit_by_bit() {
    let _alone = alone();
    // Dropout draws from libtorch's generator.
    for family in FAMILIES {
        for algorithm in [NamedAlgorithm::Grpo, NamedAlgorithm::Dapo, NamedAlgorithm::ReMax] {
            let trainer = || {
                let curriculum = Curriculum {
                    start: 0.3,
                    steps: 5,
                    leave_out_after: 1,
                    ..Curriculum::default()
                };
                let config = ReinforceConfig {
                    dropout: Dropout::On,
                    curriculum: Some(curriculum),
                    ..config(algorithm)
                };
                let reference = Reference::Frozen(Box::new(policy(family, 5)));
                ReinforceTrainer::new(policy(family, 5), reference, config).unwrap()
            };
            let all = prompts(0, 30);
            let step = |trainer: &mut ReinforceTrainer<LanguageModel>, at: usize| {
                let rows: Vec<usize> = (4 * at..4 * at + 4).collect();
                let choice = trainer.choose(&all, &rows);
                let of = |rows: &[usize]| rows.iter().map(|&row| all[row].clone()).collect();
                let (own, spare): (Vec<Prompt>, Vec<Prompt>) =
                    (of(&choice.rows), of(&choice.spare));
                let mut sampler = LocalSampler::new(&Letters);
                let found = trainer.step(&own, &mut spare.into_iter(), &mut sampler, &vowels);
                let mut stats = found.unwrap().1;
                stats.metrics.extend(choice.metrics);
                told(&stats)
            };
            let folder = tempfile::tempdir().unwrap();
            let mut checkpoints =
                Checkpoints::open(folder.path(), Keep { newest: 1, best: None }).unwrap();
            let mut whole = trainer();
            let mut want = Vec::new();
            for at in 0..4 {
                if at == 2 {
                    checkpoints.write(2, None, |files| whole.save(files)).unwrap();
                }
                want.push(step(&mut whole, at));
            }
            let mut resumed = trainer();
            // Earlier draws must not matter.
            tch::manual_seed(4711);
            resumed.restore(&checkpoints.newest_valid().unwrap().saved.unwrap()).unwrap();
            assert_eq!(resumed.steps_done(), 2);
            for (at, want) in want.iter().enumerate().skip(2) {
                assert_eq!(&step(&mut resumed, at), want);
            }
            assert_eq!(distance(&weights(&whole), &weights(&resumed)), 0.);
        }
    }
}

/// As text, because NaN equals NaN there.
fn told(stats: &Stats) -> String {
    let kept: Vec<_> =
        stats.metrics.iter().filter(|(name, _)| !name.starts_with("time/")).collect();
    format!("{kept:?}{:?}", stats.distributions)
}

/// Imitates every response: only the likelihood, with weight 1.
struct Imitation;

impl Algorithm for Imitation {
    fn objective(&self) -> PolicyObjective {
        PolicyObjective::new(Surrogate::Reinforce)
    }

    fn weigh(&self, experience: &Experience) -> Result<TokenWeights, RlError> {
        let rollout = &experience.rollout;
        let weights = rollout.log_probs.ones_like();
        let mask = rollout.mask.clone();
        Ok(TokenWeights { likelihood: Some(Weighted { weights, mask }), ..Default::default() })
    }
}

/// The trainer does not depend on the algorithm: with likelihood as the only component, it is
/// fine-tuning.
#[test]
fn the_likelihood_of_all_tokens_is_supervised_fine_tuning() {
    let _alone = alone();
    for family in FAMILIES {
        let config = ReinforceConfig {
            minibatch_size: None,
            microbatch_size: 2,
            epochs: 1,
            ..config(NamedAlgorithm::DrGrpo)
        };
        let mut trainer = ReinforceTrainer::with_algorithm(
            policy(family, 5),
            Reference::Given,
            config,
            Imitation,
        )
        .unwrap();
        let mut sampler = LocalSampler::new(&Letters);
        let found = trainer.rollout(&prompts(0, 4), &mut std::iter::empty(), &mut sampler, &vowels);
        let experience = found.unwrap().unwrap();
        let rollout = &experience.rollout;
        let rows: Vec<SftRow> = (rollout.prompts.rows().iter().zip(rollout.responses.rows()))
            .map(|(prompt, response)| SftRow::new(prompt.clone(), response.clone()))
            .collect();
        let rows: Vec<&SftRow> = rows.iter().collect();
        let tokens: usize = rows.iter().map(|row| row.learned_tokens()).sum();
        let own = policy(family, 5);
        let loss = sft_loss(&own, &rows, Default::default()).unwrap() / tokens as f64;
        loss.backward();
        let config = OptimizerConfig { lr: 1e-2, eps: 1e-2, ..OptimizerConfig::default() };
        let mut optimizer =
            rlaif_reinforce::train::Optimizer::new(own.parameters().trainable(), &config, 4)
                .unwrap();
        optimizer.step().unwrap();
        let weights = trainer.weigh(&experience).unwrap();
        let stats = trainer.update(&experience, &weights).unwrap();
        assert!((stats.get("ppo/loss/total") - host(&loss.detach())[0]).abs() < 1e-5);
        let tuned: Vec<Tensor> = own.parameters().iter().map(|(_, t)| t.detach().copy()).collect();
        let far = distance(&self::weights(&trainer), &tuned);
        assert!(far < 1e-5, "{family:?}: {far}");
    }
}

/// Gives equal scores to all responses to the first prompts.
struct Blind;

impl RewardModel for Blind {
    fn name(&self) -> &str {
        "blind"
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let known = prompts(0, 3);
        let seen = |prompt: &str| known.iter().any(|known| known.record.prompt == prompt);
        let scores = vowels(batch).into_iter().zip(batch);
        let scores: Vec<f32> =
            scores.map(|(score, x)| if seen(x.prompt) { 1. } else { score }).collect();
        Scores::from_values("blind", &scores)
    }
}

#[test]
fn dynamic_sampling_takes_other_prompts_in_place_of_groups_that_teach_nothing() {
    let _alone = alone();
    for family in FAMILIES {
        let mut trainer = trainer(family, config(NamedAlgorithm::Dapo));
        let mut sampler = LocalSampler::new(&Letters);
        let mut spare = prompts(100, 40).into_iter();
        let (experience, stats) =
            trainer.step(&prompts(0, 4), &mut spare, &mut sampler, &Blind).unwrap();
        let experience = experience.unwrap();
        assert_eq!((experience.rollout.len(), experience.groups.len()), (16, 4));
        assert!(experience.left_out >= 3 && stats.get("groups/left_out") >= 3.);
        assert_eq!(stats.get("groups/equal"), 0.);
        let ids = experience.rollout.records.iter().map(|record| record.id.as_str());
        assert!(ids.clone().filter(|id| ["p-0", "p-1", "p-2"].contains(id)).count() == 0);
        // Without other prompts the batch is smaller; without any learning signal the policy
        // does not change.
        let (experience, _) =
            trainer.step(&prompts(0, 4), &mut std::iter::empty(), &mut sampler, &Blind).unwrap();
        assert!(experience.is_none_or(|experience| experience.groups.len() == 1));
        let before = weights(&trainer);
        let equal = |batch: &[Exchange<'_>]| vec![1f32; batch.len()];
        let (experience, stats) =
            trainer.step(&prompts(0, 4), &mut std::iter::empty(), &mut sampler, &equal).unwrap();
        assert!(experience.is_none() && stats.step == 3);
        assert_eq!(distance(&before, &weights(&trainer)), 0.);
    }
}

/// Scores the vowels of each pair of letters; a step is a pair.
struct Pairs;

impl RewardModel for Pairs {
    fn name(&self) -> &str {
        "pairs"
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let mut scores = Scores::from_values("pairs", &vowels(batch))?;
        for (row, x) in batch.iter().enumerate() {
            let mut end = 0;
            let pairs = x.response.as_bytes().chunks(2).map(|pair| {
                end += pair.len();
                let pair = std::str::from_utf8(pair).unwrap();
                let score = vowels(&[Exchange::new("", pair)])[0];
                StepScore { end, score: Score::new(score).unwrap() }
            });
            let pairs: Vec<StepScore> = pairs.collect();
            let none = || vec![StepScore { end: 0, score: Score::new(0.).unwrap() }];
            scores.steps.push((row, if pairs.is_empty() { none() } else { pairs }));
        }
        Ok(scores)
    }
}

#[test]
fn a_token_has_the_scores_of_the_steps_that_end_with_it_or_later() {
    let _alone = alone();
    let config = ReinforceConfig {
        advantage: Some(AdvantageEstimator::GroupSteps { eps: 0. }),
        ..config(NamedAlgorithm::DrGrpo)
    };
    let mut trainer = trainer(Family::Llama, config.clone());
    let mut sampler = LocalSampler::new(&Letters);
    let found = trainer.rollout(&prompts(0, 4), &mut std::iter::empty(), &mut sampler, &Pairs);
    let experience = found.unwrap().unwrap();
    let weights = trainer.weigh(&experience).unwrap().policy_gradient.unwrap().weights;
    let rows = &experience.rollout.texts;
    let steps = |row: usize| -> Vec<f64> {
        let pairs = rows[row].as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        let scores = pairs.map(|pair| f64::from(vowels(&[Exchange::new("", pair)])[0]));
        let scores: Vec<f64> = scores.collect();
        if scores.is_empty() { vec![0.] } else { scores }
    };
    let mut moved = false;
    for group in experience.groups.rows() {
        let all: Vec<f64> = group.iter().flat_map(|&row| steps(row)).collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let squares = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
        let std = (squares / (all.len() as f64 - 1.)).sqrt();
        for &row in group {
            let own = host(&weights.get(row as i64));
            let parts: Vec<f64> = steps(row).iter().map(|x| (x - mean) / std).collect();
            for (t, own) in own.iter().enumerate().take(experience.rollout.tokens(row)) {
                // Special tokens do not count as letters; tokens behind the last letter belong to the last step.
                let before = &experience.rollout.responses.rows()[row][..t];
                let letters = before.iter().filter(|id| **id > 1).count();
                let step = (letters / 2).min(parts.len() - 1);
                let want = if std > 0. { parts[step..].iter().sum() } else { 0. };
                assert!((own - want).abs() < 1e-5, "row {row}, token {t}: {own} {want}");
                moved |= want != 0.;
            }
        }
    }
    assert!(moved);
    let mut without = |sampler: &mut dyn Sampler, reward: &dyn RewardModel| {
        let error = trainer.step(&prompts(0, 4), &mut std::iter::empty(), sampler, reward);
        error.unwrap_err()
    };
    assert!(matches!(without(&mut sampler, &vowels), RlError::NoSteps { row: 0 }));
    let recorded = experience.rollout.responses.rows().iter().map(|ids| Sampled {
        ids: ids.clone(),
        log_probs: None,
        text: "AA".to_owned(),
        finish: FinishReason::Length,
        version: 0,
        played: None,
    });
    let mut recorded = RecordedSampler::new(recorded.collect());
    assert!(matches!(without(&mut recorded, &Pairs), RlError::NoTokensOfSteps));
    let kl = Some(KlForm::Reward { coef: 0.1, estimator: KlEstimator::K1 });
    let error = ReinforceConfig { kl, ..config }.check().unwrap_err().to_string();
    assert!(error.starts_with("`kl` is in the reward"), "{error}");
}

#[test]
fn equal_scores_move_nothing_without_a_penalty() {
    let _alone = alone();
    for family in [Family::Llama] {
        for algorithm in [NamedAlgorithm::DrGrpo, NamedAlgorithm::Gspo, NamedAlgorithm::Cispo] {
            let mut trainer = trainer(family, config(algorithm));
            let before = weights(&trainer);
            let equal = |batch: &[Exchange<'_>]| vec![0.1f32; batch.len()];
            let mut sampler = LocalSampler::new(&Letters);
            let (_, stats) = trainer
                .step(&prompts(0, 4), &mut std::iter::empty(), &mut sampler, &equal)
                .unwrap();
            assert_eq!(stats.get("groups/equal"), 1.);
            assert_eq!(distance(&before, &weights(&trainer)), 0., "{algorithm:?}");
        }
    }
}

/// With equal scores and the policy as its own reference, the loss of routers is all there is: that of the
/// rows, read by a copy of the policy.
#[test]
fn the_loss_of_routers_is_added_with_its_coefficient() {
    let _alone = alone();
    let moe = || {
        let config = Config::from_value(serde_json::json!({
            "model_type": "mixtral", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": 1,
            "num_local_experts": 4, "num_experts_per_tok": 1, "max_position_embeddings": 32,
            "initializer_range": 0.3,
        }));
        let draw = || LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap();
        let policy = seeded(5, draw).unwrap();
        policy.parameters().train_where(|_| true);
        policy
    };
    let equal = |batch: &[Exchange<'_>]| vec![1f32; batch.len()];
    let step = |coefficient, microbatch_size| {
        let config = ReinforceConfig {
            minibatch_size: None,
            epochs: 1,
            microbatch_size,
            router_aux_loss_coef: coefficient,
            ..config(NamedAlgorithm::Grpo)
        };
        let reference = Reference::Frozen(Box::new(moe()));
        let mut trainer = ReinforceTrainer::new(moe(), reference, config).unwrap();
        let mut spare = std::iter::empty();
        let mut sampler = LocalSampler::new(&Letters);
        let (experience, stats) =
            trainer.step(&prompts(0, 4), &mut spare, &mut sampler, &equal).unwrap();
        (experience.unwrap(), stats)
    };
    let (experience, stats) = step(0.5, 0);
    let rollout = &experience.rollout;
    let rows = rollout.prompts.rows().iter().zip(rollout.responses.rows());
    let rows = rows.map(|(prompt, response)| [&prompt[..], response].concat()).collect();
    let policy = moe();
    let routers = Routers::default();
    let Architecture::DecoderOnly(model) = policy.architecture() else { unreachable!() };
    let batch = TokenBatch::collate(rows, policy.spec(), Padding::Right).unwrap();
    let forward = Forward { routers: Some(&routers), ..Forward::default() };
    let _hidden = model.hidden(&batch, forward).unwrap();
    let loss = routers.loss().unwrap().double_value(&[]);
    assert!((stats.get("router_aux_loss") - loss).abs() < 1e-5, "{loss}");
    let want = 0.5 * loss;
    let total = stats.get("ppo/loss/total");
    assert!((total - want).abs() < 1e-5, "{total} {want}");
    assert!(stats.get("ppo/grad_norm") > 1e-4);
    let (_, off) = step(0., 0);
    assert!(off.get("router_aux_loss").is_nan());
    assert!(off.get("ppo/loss/total").abs() < 1e-6 && off.get("ppo/grad_norm") < 1e-5);
    // In passes of 4, it is the mean of theirs.
    let (_, parts) = step(0.5, 4);
    assert!((parts.get("ppo/loss/total") - want).abs() < 0.3 * want);
}
