//! Properties that must not change the result: microbatches, padding, shared prompts, a cached
//! reference, recomputed activations, an interruption.

mod common;

use std::num::NonZeroU32;

use rlaif_core::Desirability;
use rlaif_dpo::{
    DpoConfig, DpoError, DpoStats, DpoTrainer, LossTerm, Objective, PairLoss, PairObjective,
    PairProblem, PromptForward, Reference, ReferenceConfig, ReferenceUpdate, ResponseRow,
    RewardShift, TokenPair, UnpairedLoss, Weighting,
};
use rlaif_lm::{Activations, Forward, Padding, Policy, Routers, TokenBatch};
use rlaif_models::{AdapterConfig, Architecture, LanguageModel, LoadOptions, TaskType};
use rlaif_testing::{LLAMA, RouterGoldens, T5, alone};
use rlaif_train::{Checkpoints, Keep, OptimizerConfig, TrainError};
use tch::{Kind, Tensor};

use common::model;

/// Seven pairs of different lengths.
fn rows() -> Vec<TokenPair> {
    (0..7u32)
        .map(|i| {
            let ids = |from: u32, n: u32| (0..n).map(|t| 2 + (from * 7 + t * 11) % 37).collect();
            TokenPair {
                id: format!("pair {i}"),
                prompt: ids(i, 2 + i % 4),
                chosen: ids(i + 10, 1 + (i * 3) % 5),
                rejected: ids(i + 20, 1 + (i * 5) % 6),
                margin: Some(f64::from(i) * 0.3),
            }
        })
        .collect()
}

/// The loss of transformers for the routers of a model, over the rows of one batch, and its gradient.
#[test]
fn the_loss_of_routers_is_that_of_transformers() {
    const COEFFICIENT: f64 = 0.5;
    let _alone = alone();
    for name in RouterGoldens::MODELS {
        let goldens = RouterGoldens::read(name);
        let folder = &goldens.folder;
        let rows: Vec<ResponseRow> = (goldens.rows.iter().cloned())
            .map(|[prompt, response]| ResponseRow {
                id: String::new(),
                prompt,
                mismatched: response.clone(),
                response,
                desirability: Desirability::Desirable,
            })
            .collect();
        let rows: Vec<&ResponseRow> = rows.iter().collect();
        let update = |coefficient, microbatch_size| {
            let policy = LanguageModel::load(folder, LoadOptions::default()).unwrap();
            // With this β, the gradient is that of the routers' loss.
            let loss =
                UnpairedLoss::Kto { beta: 1e-9, desirable_weight: 1., undesirable_weight: 1. };
            let config = DpoConfig {
                objective: Objective::Unpaired(loss),
                router_aux_loss_coef: coefficient,
                microbatch_size,
                ..DpoConfig::default()
            };
            let given = vec![[0f32; 2]; rows.len()];
            let mut trainer = DpoTrainer::new(policy, Reference::Given, config, 1).unwrap();
            trainer.update_responses(&rows, Some(&given)).unwrap()
        };
        let stats = update(COEFFICIENT, 0);
        let want = goldens.loss;
        assert!((stats.router_aux_loss.unwrap() - want).abs() < 1e-5, "{name}: {stats:?} {want}");
        // The tests of the models compare this gradient with that of transformers.
        let policy = LanguageModel::load(folder, LoadOptions::default()).unwrap();
        let Architecture::DecoderOnly(model) = policy.architecture() else { unreachable!() };
        let routers = Routers::default();
        let whole = rows.iter().map(|row| [&row.prompt[..], &row.response].concat()).collect();
        let batch = TokenBatch::collate(whole, policy.spec(), Padding::Right).unwrap();
        let forward = Forward { routers: Some(&routers), ..Forward::default() };
        let _hidden = model.hidden(&batch, forward).unwrap();
        routers.loss().unwrap().backward();
        let gradients = policy.parameters().iter().map(|(_, tensor)| tensor.grad());
        let squares = gradients.filter(Tensor::defined);
        let squares = squares.map(|gradient| gradient.square().sum(Kind::Double));
        let norm = squares.map(|sum| sum.double_value(&[])).sum::<f64>().sqrt() * COEFFICIENT;
        assert!((stats.grad_norm - norm).abs() < 1e-4 * norm, "{name}: {} {norm}", stats.grad_norm);
        // Each pass has its own shares of experts, as with gradient accumulation in TRL.
        let parts = update(COEFFICIENT, 1);
        assert!((parts.router_aux_loss.unwrap() - want).abs() < 0.5, "{name}: {parts:?}");
        assert!((parts.loss - stats.loss).abs() < 1e-6, "{name}");
        let off = update(0., 0);
        assert_eq!(off.router_aux_loss, None);
        assert!(off.grad_norm < 1e-6 * norm && (off.loss - stats.loss).abs() < 1e-6, "{name}");
    }
}

/// Pairs have the loss of their responses, each read with its prompt.
#[test]
fn pairs_have_the_loss_of_routers_of_both_responses() {
    let _alone = alone();
    let moe = r#"{"model_type": "mixtral", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": 1,
        "num_local_experts": 4, "num_experts_per_tok": 1, "max_position_embeddings": 32, "initializer_range": 0.3}"#;
    let rows = rows();
    let pairs: Vec<&TokenPair> = rows.iter().collect();
    let each: Vec<ResponseRow> = rows
        .iter()
        .flat_map(|row| [&row.chosen, &row.rejected].map(|response| (row, response)))
        .map(|(row, response)| ResponseRow {
            id: String::new(),
            prompt: row.prompt.clone(),
            response: response.clone(),
            desirability: Desirability::Desirable,
            mismatched: response.clone(),
        })
        .collect();
    let each: Vec<&ResponseRow> = each.iter().collect();
    let with = |objective| DpoConfig {
        objective,
        router_aux_loss_coef: 0.1,
        ..config(PairLoss::Sigmoid { beta: 0.1, label_smoothing: 0. })
    };
    let single =
        Objective::Unpaired(UnpairedLoss::Bco { beta: 0.1, shift: RewardShift::default() });
    let mut of_each =
        DpoTrainer::new(model(moe), Reference::frozen(model(moe)), with(single), 3).unwrap();
    let want = of_each.update_responses(&each, None).unwrap().router_aux_loss.unwrap();
    let plain = config(PairLoss::Sigmoid { beta: 0.1, label_smoothing: 0. });
    for prompt_forward in [PromptForward::Shared, PromptForward::Twice] {
        let config = DpoConfig { prompt_forward, ..with(plain.objective.clone()) };
        let (stats, _) = run(moe, config);
        let [first, .., last] = [0, 1, 2].map(|step: usize| stats[step].router_aux_loss.unwrap());
        assert!((first - want).abs() < 1e-5, "{first} {want}");
        assert!(last < first, "{first} {last}");
        assert!((stats[0].loss - run(moe, plain.clone()).0[0].loss).abs() < 1e-5);
    }
    let mut dense =
        DpoTrainer::new(model(LLAMA), Reference::frozen(model(LLAMA)), with(plain.objective), 3)
            .unwrap();
    let error = dense.update_pairs(&pairs, None).unwrap_err().to_string();
    assert!(error.contains("router_aux_loss_coef") && error.contains("no experts"), "{error}");
}

fn config(objective: impl Into<PairObjective>) -> DpoConfig {
    DpoConfig {
        objective: Objective::Pairs(objective.into()),
        optimizer: OptimizerConfig { lr: 3e-3, ..OptimizerConfig::default() },
        ..DpoConfig::default()
    }
}

fn weights(policy: &LanguageModel) -> Vec<Tensor> {
    policy.parameters().iter().map(|(_, tensor)| tensor.copy()).collect()
}

/// Three updates over the same pairs; the reference is a copy of the initial policy.
fn run(json: &str, config: DpoConfig) -> (Vec<DpoStats>, Vec<Tensor>) {
    let mut trainer =
        DpoTrainer::new(model(json), Reference::frozen(model(json)), config, 3).unwrap();
    let rows = rows();
    let batch: Vec<&TokenPair> = rows.iter().collect();
    let stats = (0..3).map(|_| trainer.update_pairs(&batch, None).unwrap()).collect();
    (stats, weights(trainer.policy()))
}

#[track_caller]
fn same(what: &str, a: &(Vec<DpoStats>, Vec<Tensor>), b: &(Vec<DpoStats>, Vec<Tensor>)) {
    for (a, b) in a.0.iter().zip(&b.0) {
        // If policy and reference are equal, the order of the rewards is decided by rounding.
        let tied = a.margin.abs() < 1e-6;
        for ((name, a), (_, b)) in a.metrics().iter().zip(b.metrics().iter()) {
            if name != "num_tokens" && !(tied && name == "rewards/accuracies") {
                assert!((a - b).abs() < 2e-5 * (1. + a.abs()), "{what}: {name} {a} {b}");
            }
        }
    }
    let mut off = 0;
    let mut all = 0;
    for (a, b) in a.1.iter().zip(&b.1) {
        off += (a - b).abs().gt(1e-4).sum(Kind::Int64).int64_value(&[]);
        all += a.numel() as i64;
    }
    // Adam divides by the root of the squared gradient: if the gradient is only rounding, so is the
    // step.
    assert!(off * 500 < all, "{what}: {off} of {all} weights differ");
}

fn objectives() -> Vec<(&'static str, PairObjective)> {
    let sigmoid = PairLoss::Sigmoid { beta: 0.1, label_smoothing: 0. };
    let bco = PairLoss::BcoPair { beta: 0.1, shift: RewardShift::RunningMean };
    let nll = LossTerm { weight: 0.5, loss: PairLoss::Nll {} };
    vec![
        ("sigmoid", sigmoid.into()),
        (
            "sum",
            PairObjective {
                terms: vec![LossTerm { weight: 1., loss: sigmoid }, nll],
                tail_weight: 0.4,
                ..sigmoid.into()
            },
        ),
        ("wpo", PairObjective { weighting: Weighting::Wpo, ..sigmoid.into() }),
        ("aot", PairLoss::Aot { beta: 0.1, label_smoothing: 0.1 }.into()),
        ("bco", bco.into()),
        ("soft", PairLoss::SoftSigmoid { beta: 0.1, scale: 1. }.into()),
        ("orpo", PairLoss::Orpo { lambda: 0.1 }.into()),
    ]
}

#[test]
fn parts_of_a_batch_give_the_result_of_the_whole() {
    let _alone = alone();
    for (name, objective) in objectives() {
        let whole = run(LLAMA, config(objective.clone()));
        for microbatch_size in [1, 3] {
            let parts = DpoConfig { microbatch_size, ..config(objective.clone()) };
            same(name, &run(LLAMA, parts), &whole);
        }
    }
    let sigmoid = objectives().swap_remove(0).1;
    let whole = run(T5, config(sigmoid.clone()));
    same("t5", &run(T5, DpoConfig { microbatch_size: 2, ..config(sigmoid) }), &whole);
}

#[test]
fn prompts_computed_once_and_activations_computed_twice_change_nothing() {
    let _alone = alone();
    for json in [LLAMA, T5] {
        let sigmoid = objectives().swap_remove(0).1;
        let want = run(json, config(sigmoid.clone()));
        let twice = DpoConfig { prompt_forward: PromptForward::Twice, ..config(sigmoid.clone()) };
        same("twice", &run(json, twice), &want);
        same(
            "recompute",
            &run(json, DpoConfig { activations: Activations::Recompute, ..config(sigmoid) }),
            &want,
        );
    }
}

#[test]
fn a_cached_reference_gives_what_a_live_one_gives_and_notices_every_change() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let rows = rows();
    let batch: Vec<&TokenPair> = rows.iter().collect();
    let settings = config(objectives().swap_remove(0).1);
    let live = run(LLAMA, settings.clone());
    let start = |json: &str, config: &DpoConfig| {
        DpoTrainer::new(model(json), Reference::Given, config.clone(), 3).unwrap()
    };
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    let mut trainer = start(LLAMA, &settings);
    let sums = trainer.reference_of_pairs(&rows, Some(folder.path())).unwrap();
    let stats = (0..3).map(|_| trainer.update_pairs(&batch, Some(sums.rows())).unwrap()).collect();
    same("cached", &(stats, weights(trainer.policy())), &live);
    assert_eq!(files(), 1);

    // Again: read, not computed, and bit for bit the same.
    let again = start(LLAMA, &settings).reference_of_pairs(&rows, Some(folder.path())).unwrap();
    assert_eq!((again, files()), (sums.clone(), 1));
    // A damaged file is computed again.
    let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let again = start(LLAMA, &settings).reference_of_pairs(&rows, Some(folder.path())).unwrap();
    assert_eq!((again, files()), (sums, 1));

    // Any change makes another file: a weight, a token, the temperature, the weight of the tail.
    let mut known = 1;
    let mut changed = |what: &str, trainer: &DpoTrainer<LanguageModel>, rows: &[TokenPair]| {
        trainer.reference_of_pairs(rows, Some(folder.path())).unwrap();
        known += 1;
        assert_eq!(files(), known, "{what}");
    };
    let other = start(LLAMA, &settings);
    tch::no_grad(|| {
        let (_, weight) = other.policy().parameters().iter().next().unwrap();
        let _ = weight.view([-1]).get(0).shallow_clone().fill_(0.123);
    });
    changed("weight", &other, &rows);
    let mut edited = rows.clone();
    edited[3].rejected[0] ^= 1;
    changed("token", &start(LLAMA, &settings), &edited);
    let warmer = DpoConfig { temperature: 0.9, ..settings };
    changed("temperature", &start(LLAMA, &warmer), &rows);
    let sigmoid = PairLoss::Sigmoid { beta: 0.1, label_smoothing: 0. };
    let desensitised = config(PairObjective { tail_weight: 0.5, ..sigmoid.into() });
    changed("tail", &start(LLAMA, &desensitised), &rows);
}

#[test]
fn adapters_are_trained_alone_and_the_reference_is_the_model_without_them() {
    let _alone = alone();
    for (json, task) in [(LLAMA, TaskType::CausalLm), (T5, TaskType::Seq2SeqLm)] {
        let mut policy = model(json);
        let config_of_adapter = AdapterConfig::new(task, NonZeroU32::new(4).unwrap());
        policy.adapters().add("dpo", config_of_adapter).unwrap();
        let before = weights(&model(json));
        let settings = config(objectives().swap_remove(0).1);
        let mut trainer = DpoTrainer::new(policy, Reference::AdaptersOff, settings, 8).unwrap();
        let rows = rows();
        let batch: Vec<&TokenPair> = rows.iter().collect();
        let first = trainer.update_pairs(&batch, None).unwrap();
        assert!((first.loss - 2f64.ln()).abs() < 1e-6, "{}", first.loss);
        let mut last = first.clone();
        for _ in 0..7 {
            last = trainer.update_pairs(&batch, None).unwrap();
        }
        assert!(last.loss < first.loss);
        let policy = trainer.into_policy();
        let plain = policy.parameters().iter().filter(|(name, _)| !name.contains(".lora_"));
        assert!(plain.zip(&before).all(|((_, now), before)| now == before));
    }
}

#[test]
fn a_reference_that_follows_the_policy_is_the_average_it_should_be() {
    let _alone = alone();
    let update = ReferenceUpdate { every: 2, mixup: 0.25 };
    let settings = DpoConfig {
        reference: ReferenceConfig::Live { update: Some(update) },
        ..config(objectives().swap_remove(0).1)
    };
    let rows = rows();
    let batch: Vec<&TokenPair> = rows.iter().collect();
    let reference = model(LLAMA);
    let handle: Vec<Tensor> =
        reference.parameters().iter().map(|(_, tensor)| tensor.shallow_clone()).collect();
    let start = weights(&reference);
    let mut trainer =
        DpoTrainer::new(model(LLAMA), Reference::frozen(reference), settings.clone(), 3).unwrap();
    trainer.update_pairs(&batch, None).unwrap();
    assert!(handle.iter().zip(&start).all(|(now, start)| now == start));
    trainer.update_pairs(&batch, None).unwrap();
    for ((now, start), policy) in handle.iter().zip(&start).zip(weights(trainer.policy())) {
        let want = start * 0.75 + policy * 0.25;
        assert!((now - want).abs().max().double_value(&[]) < 1e-6);
    }
    let refused = DpoTrainer::new(model(LLAMA), Reference::Given, settings, 3).unwrap_err();
    assert!(refused.to_string().starts_with("`reference.update` is"), "{refused}");
}

#[test]
fn a_restored_trainer_goes_on_bit_by_bit() {
    let _alone = alone();
    let rows = rows();
    let batch: Vec<&TokenPair> = rows.iter().collect();
    let bco = PairLoss::BcoPair { beta: 0.1, shift: RewardShift::RunningMean };
    let update = ReferenceUpdate { every: 1, mixup: 0.5 };
    let settings = DpoConfig {
        reference: ReferenceConfig::Live { update: Some(update) },
        microbatch_size: 3,
        ..config(bco)
    };
    let start = || {
        DpoTrainer::new(model(LLAMA), Reference::frozen(model(LLAMA)), settings.clone(), 6).unwrap()
    };
    let mut straight = start();
    let whole: Vec<_> = (0..6).map(|_| straight.update_pairs(&batch, None).unwrap()).collect();

    let folder = tempfile::tempdir().unwrap();
    let mut checkpoints = Checkpoints::open(folder.path(), Keep { newest: 1, best: None }).unwrap();
    let mut first = start();
    for _ in 0..3 {
        first.update_pairs(&batch, None).unwrap();
    }
    checkpoints
        .write(3, None, |files| {
            first.save(files).map_err(|error| match error {
                DpoError::Train(error) => error,
                other => panic!("{other}"),
            })
        })
        .unwrap();
    drop(first);
    let mut second = start();
    let saved = checkpoints.newest_valid().unwrap().saved.unwrap();
    second.restore(&saved).unwrap();
    assert_eq!(second.steps_done(), 3);
    let rest: Vec<_> = (3..6).map(|_| second.update_pairs(&batch, None).unwrap()).collect();
    assert_eq!(rest, whole[3..]);
    for (a, b) in weights(straight.policy()).iter().zip(&weights(second.policy())) {
        assert_eq!(a, b);
    }
}

/// The same rows, one response of each, every third undesirable.
fn single_responses() -> Vec<ResponseRow> {
    rows()
        .into_iter()
        .zip(0..)
        .map(|(row, i): (TokenPair, u32)| ResponseRow {
            id: row.id,
            prompt: row.prompt,
            response: row.chosen,
            desirability: if i % 3 == 0 {
                Desirability::Undesirable
            } else {
                Desirability::Desirable
            },
            mismatched: row.rejected,
        })
        .collect()
}

#[test]
fn single_responses_are_learnt_from_in_parts_as_in_one() {
    let _alone = alone();
    let rows = single_responses();
    let batch: Vec<&ResponseRow> = rows.iter().collect();
    for loss in [
        UnpairedLoss::Kto { beta: 0.1, desirable_weight: 1., undesirable_weight: 1.2 },
        UnpairedLoss::Bco { beta: 0.1, shift: RewardShift::RunningMean },
        UnpairedLoss::ApoZero { beta: 0.1 },
    ] {
        let run = |microbatch_size, cached: bool| {
            let settings = DpoConfig {
                objective: Objective::Unpaired(loss),
                microbatch_size,
                ..config(objectives().swap_remove(0).1)
            };
            let reference = if cached { Reference::Given } else { Reference::frozen(model(LLAMA)) };
            let mut trainer = DpoTrainer::new(model(LLAMA), reference, settings, 3).unwrap();
            let sums = cached.then(|| trainer.reference_of_responses(&rows, None).unwrap());
            let given = sums.as_ref().map(|sums| sums.rows());
            let stats = (0..3).map(|_| trainer.update_responses(&batch, given).unwrap()).collect();
            (stats, weights(trainer.policy()))
        };
        let whole = run(0, false);
        same("parts", &run(2, false), &whole);
        same("cached", &run(0, true), &whole);
        assert_ne!(whole.0[0].loss, whole.0[2].loss);
    }
}

#[test]
fn evaluation_is_that_of_an_update_before_it_learns() {
    let _alone = alone();
    let rows = rows();
    let batch: Vec<&TokenPair> = rows.iter().collect();
    for (name, objective) in objectives().into_iter().take(1) {
        let settings = DpoConfig { microbatch_size: 2, ..config(objective) };
        let reference = Reference::frozen(model(LLAMA));
        let mut trainer = DpoTrainer::new(model(LLAMA), reference, settings, 3).unwrap();
        trainer.update_pairs(&batch, None).unwrap();
        let evaluation = trainer.evaluate(&rows, None).unwrap();
        let ids: Vec<&str> = evaluation.outcomes.iter().map(|pair| pair.id.as_str()).collect();
        let want: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(ids, want);
        let stats = trainer.update_pairs(&batch, None).unwrap();
        let metrics = evaluation.metrics();
        for (name, want) in [
            ("eval/loss", stats.loss),
            ("eval/rewards/chosen", stats.reward_chosen),
            ("eval/rewards/margins", stats.margin),
            ("eval/rewards/accuracies", stats.accuracy),
            ("eval/logps/chosen", stats.log_prob_chosen),
        ] {
            let got = metrics.get(name).unwrap();
            assert!((got - want).abs() < 1e-4, "{name}: {got} {want}");
        }
        let accuracy = evaluation.accuracy();
        assert!(accuracy.ci95.0 <= accuracy.value && accuracy.value <= accuracy.ci95.1, "{name}");
    }
}

#[test]
fn evaluation_of_single_responses_is_that_of_an_update_before_it_learns() {
    let _alone = alone();
    let rows = single_responses();
    let batch: Vec<&ResponseRow> = rows.iter().collect();
    for loss in [
        UnpairedLoss::Kto { beta: 0.1, desirable_weight: 1., undesirable_weight: 1.2 },
        UnpairedLoss::ApoZero { beta: 0.1 },
    ] {
        let settings = DpoConfig {
            objective: Objective::Unpaired(loss),
            microbatch_size: 2,
            ..config(objectives().swap_remove(0).1)
        };
        let reference = Reference::frozen(model(LLAMA));
        let mut trainer = DpoTrainer::new(model(LLAMA), reference, settings, 3).unwrap();
        trainer.update_responses(&batch, None).unwrap();
        let evaluation = trainer.evaluate_responses(&rows, None).unwrap();
        let ids: Vec<&str> = evaluation.outcomes.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(ids, rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>());
        let got = evaluation.metrics();
        let want = trainer.update_responses(&batch, None).unwrap().metrics();
        let mut compared = 0;
        for (name, got) in got.iter() {
            let want = want.get(name.strip_prefix("eval/").unwrap()).unwrap();
            assert!((got - want).abs() < 1e-4, "{name}: {got} {want}");
            compared += 1;
        }
        assert_eq!(compared, 7 + usize::from(loss.needs_baseline()));
        let error = trainer.evaluate_responses(&[], None).unwrap_err();
        assert!(matches!(error, DpoError::NoRows { .. }), "{error}");
    }
}

#[test]
fn what_cannot_be_learnt_from_is_refused_and_nothing_changes() {
    let _alone = alone();
    let good = rows();
    let mut bad = good.clone();
    bad[2].chosen.clear();
    let before = weights(&model(LLAMA));
    let soft = config(PairLoss::SoftSigmoid { beta: 0.1, scale: 1. });
    let mut trainer =
        DpoTrainer::new(model(LLAMA), Reference::frozen(model(LLAMA)), soft, 3).unwrap();
    let update = |trainer: &mut DpoTrainer<_>, rows: &[TokenPair]| {
        trainer.update_pairs(&rows.iter().collect::<Vec<_>>(), None).unwrap_err()
    };
    let error = update(&mut trainer, &bad);
    assert!(
        matches!(&error, DpoError::Pair { id, problem: PairProblem::EmptyResponse } if id == "pair 2"),
        "{error}"
    );
    let mut bad = good.clone();
    bad[4].margin = None;
    let error = update(&mut trainer, &bad);
    assert!(matches!(&error, DpoError::Pair { problem: PairProblem::NoMargin, .. }), "{error}");
    let mut bad = good.clone();
    bad[0].rejected = vec![99];
    assert!(update(&mut trainer, &bad).to_string().contains("99"));
    let mut bad = good.clone();
    bad[0].prompt = vec![3; 40];
    assert!(update(&mut trainer, &bad).to_string().contains("context"));
    assert!(weights(trainer.policy()).iter().zip(&before).all(|(now, before)| now == before));

    let sigmoid = config(objectives().swap_remove(0).1);
    let mut given = DpoTrainer::new(model(LLAMA), Reference::Given, sigmoid, 3).unwrap();
    assert!(update(&mut given, &good).to_string().starts_with("`reference` is"));
    let error = given.update_responses(&[], None).unwrap_err();
    assert!(error.to_string().starts_with("`objective` is"), "{error}");
}

#[test]
fn gradients_without_a_number_stop_the_run_in_the_end() {
    let _alone = alone();
    let rows = rows();
    let batch: Vec<&TokenPair> = rows.iter().collect();
    let settings = DpoConfig {
        optimizer: OptimizerConfig { max_skipped: 2, ..OptimizerConfig::default() },
        ..config(objectives().swap_remove(0).1)
    };
    let mut trainer = DpoTrainer::new(model(LLAMA), Reference::Given, settings, 3).unwrap();
    let given = vec![[f32::NAN; 2]; rows.len()];
    let good = vec![[-9f32, -8.]; rows.len()];
    trainer.update_pairs(&batch, Some(&good)).unwrap();
    let stats = trainer.update_pairs(&batch, Some(&given)).unwrap();
    assert!(stats.skipped.is_some() && stats.metrics().get("skipped") == Some(1.), "{stats:?}");
    let error = trainer.update_pairs(&batch, Some(&given)).unwrap_err();
    assert!(matches!(error, DpoError::Train(TrainError::NonFinite { .. })), "{error}");

    // The first step of all stops it at once.
    let loss = config(objectives().swap_remove(0).1);
    let mut trainer = DpoTrainer::new(model(LLAMA), Reference::Given, loss, 3).unwrap();
    let error = trainer.update_pairs(&batch, Some(&given)).unwrap_err();
    assert!(error.to_string().starts_with("step 1: NaN or infinity in the gradient of"), "{error}");

    // A batch with NaN does not change BCO's running mean.
    let bco = PairLoss::BcoPair { beta: 0.1, shift: RewardShift::RunningMean };
    let mut trainer = DpoTrainer::new(model(LLAMA), Reference::Given, config(bco), 3).unwrap();
    trainer.update_pairs(&batch, Some(&good)).unwrap();
    trainer.update_pairs(&batch, Some(&given)).unwrap();
    let stats = trainer.update_pairs(&batch, Some(&good)).unwrap();
    assert!(stats.loss.is_finite() && stats.baseline.is_some_and(f64::is_finite), "{stats:?}");
}
