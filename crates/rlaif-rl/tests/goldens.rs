//! Losses, gradients, advantages and weights are those of TRL 1.16, verl 0.9 and prime-rl, in f64. The
//! numbers are in `fixtures/rl`, with the script that exported them.

use std::{collections::BTreeMap, num::NonZeroUsize};

use rlaif_lm::Mask;
use rlaif_rl::{
    AdvantageEstimator, AdvantageScale, Anchor, Average, Correction, Groups, KlForm, KlWeight,
    OffPolicyMask, PolicyObjective, PolicyTokens, RatioLevel, Rewarded, Surrogate, token_rewards,
    train::KlEstimator,
};
use serde::Deserialize;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

#[derive(Deserialize)]
struct Goldens {
    lengths: Vec<usize>,
    rewards: Vec<f64>,
    missing: BTreeMap<String, Vec<Option<f64>>>,
    log_probs: Vec<Vec<f64>>,
    old: Vec<Vec<f64>>,
    sampler: Vec<Vec<f64>>,
    reference: Vec<Vec<f64>>,
    losses: BTreeMap<String, Loss>,
    advantages: BTreeMap<String, Value>,
    importance: BTreeMap<String, Vec<Vec<f64>>>,
    kl: BTreeMap<String, Vec<Vec<f64>>>,
}

#[derive(Deserialize)]
struct Loss {
    loss: f64,
    gradient: Vec<Vec<f64>>,
}

fn read() -> Goldens {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/rl/goldens.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

const WIDTH: usize = 5;
const GROUP: usize = 4;

fn tensor(rows: &[Vec<f64>]) -> Tensor {
    Tensor::from_slice2(rows)
}

fn host(x: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(x.reshape([-1])).unwrap()
}

/// The real tokens of rows; none of rows without a score.
fn mask(lengths: &[usize], scores: &[Option<f64>]) -> Mask {
    let rows = lengths.iter().zip(scores);
    let real = rows.flat_map(|(n, score)| (0..WIDTH).map(move |t| t < *n && score.is_some()));
    let real: Vec<bool> = real.collect();
    Mask::new(Tensor::from_slice(&real).view([-1, WIDTH as i64]))
}

fn close(name: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{name}");
    for (at, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() < 1e-6, "{name}[{at}]: {g}, expected {w}");
    }
}

/// Advantages of responses with these scores and a KL penalty of this weight, at their first token.
fn advantages(
    goldens: &Goldens,
    estimator: AdvantageEstimator,
    scores: &[Option<f64>],
    beta: f64,
    greedy: Option<&[Option<f64>]>,
) -> Tensor {
    let mask = mask(&goldens.lengths, scores);
    let kl = tensor(&goldens.old) - tensor(&goldens.reference);
    let values: Vec<f64> = scores.iter().map(|score| score.unwrap_or(-99.)).collect();
    let rewards = token_rewards(&Tensor::from_slice(&values), &kl, beta, &mask);
    let groups = Groups::of_size(scores.len(), GROUP);
    estimator
        .estimate(Rewarded { rewards: &rewards, mask: &mask, groups: &groups, greedy, steps: None })
        .unwrap()
}

const fn group_mean(scale: AdvantageScale) -> AdvantageEstimator {
    AdvantageEstimator::GroupMean { scale }
}

const TRL: AdvantageEstimator = group_mean(AdvantageScale::Group { eps: 1e-4 });
const VERL: AdvantageEstimator = group_mean(AdvantageScale::Group { eps: 1e-6 });
const CENTRED: AdvantageEstimator = group_mean(AdvantageScale::None);
const LEAVE_ONE_OUT: AdvantageEstimator =
    AdvantageEstimator::LeaveOneOut { scale: AdvantageScale::None };

#[test]
fn advantages_are_those_of_trl_and_verl() {
    let goldens = read();
    let all: Vec<Option<f64>> = goldens.rewards.iter().copied().map(Some).collect();
    let mut greedy = all.clone();
    greedy.rotate_right(1);
    let normalized =
        AdvantageEstimator::LeaveOneOut { scale: AdvantageScale::Whitened { eps: 1e-4 } };
    let batch = group_mean(AdvantageScale::Batch { eps: 1e-4 });
    for (name, want) in &goldens.advantages {
        let (scores, of) = match name.split_once("_missing/") {
            Some((which, of)) => (&goldens.missing[which], of),
            None => (&all, name.as_str()),
        };
        let (estimator, beta) = match of {
            "group" => (TRL, 0.),
            "batch" => (batch, 0.),
            "none" => (CENTRED, 0.),
            "rloo" | "verl_rloo" => (LEAVE_ONE_OUT, 0.),
            "rloo_kl" => (LEAVE_ONE_OUT, 0.05),
            "rloo_normalized" => (normalized, 0.),
            "verl_grpo" => (VERL, 0.),
            "verl_opo" => (AdvantageEstimator::LengthWeighted, 0.),
            "verl_remax" => (AdvantageEstimator::Greedy, 0.),
            "verl_reinforce_plus_plus_kl" => (AdvantageEstimator::ToGo { gamma: 1. }, 0.05),
            "verl_reinforce_plus_plus_discounted" => {
                (AdvantageEstimator::ToGo { gamma: 0.9 }, 0.05)
            }
            "verl_reinforce_plus_plus_baseline" => (AdvantageEstimator::WhitenedGroupMean, 0.),
            other => panic!("no estimator for {other}"),
        };
        let found = advantages(&goldens, estimator, scores, beta, Some(&greedy));
        let want: Vec<f64> = match want[0] {
            // One number for each response: at its first token, 0 without a score.
            Value::Number(_) => serde_json::from_value(want.clone()).unwrap(),
            _ => {
                let rows: Vec<Vec<f64>> = serde_json::from_value(want.clone()).unwrap();
                // ReMax of verl is not masked.
                let rows = mask(&goldens.lengths, scores).apply(&tensor(&rows));
                close(name, &host(&found), &host(&rows));
                continue;
            }
        };
        close(name, &host(&found.select(1, 0)), &want);
    }
    assert_eq!(goldens.advantages.len(), 29);
}

/// The estimator and the loss of a golden.
fn case(name: &str) -> (AdvantageEstimator, f64, PolicyObjective) {
    let clipped = |low, high| Surrogate::Clipped { low, high, dual_clip: None };
    let dual = |high, c| Surrogate::Clipped { low: 0.2, high, dual_clip: Some(c) };
    let tokens = PolicyObjective::new;
    let with = |average, surrogate| PolicyObjective { average, ..tokens(surrogate) };
    let sequence = |surrogate| PolicyObjective {
        ratio: RatioLevel::Sequence,
        ..with(Average::Responses, surrogate)
    };
    let kl = |weight, objective| PolicyObjective {
        kl: KlForm::Loss { coef: 0.04, estimator: KlEstimator::K3, weight },
        ..objective
    };
    let corrected = |correction, high| PolicyObjective { correction, ..tokens(clipped(0.2, high)) };
    let truncate = |level, least, most| Correction::Truncate { level, least, most };
    let responses = with(Average::Responses, clipped(0.2, 0.2));
    let cispo = |least, most| tokens(Surrogate::Truncated { least, most });
    let trl = |objective| (TRL, 0., objective);
    let verl = |objective| (VERL, 0., objective);
    match name {
        "grpo" => trl(responses),
        "grpo_kl" => trl(kl(KlWeight::Ratio, responses)),
        "grpo_kl_unweighted" => trl(kl(KlWeight::None, responses)),
        "dapo" => trl(tokens(clipped(0.2, 0.28))),
        // TRL's `delta` of 1.2 is below the clip: positive advantages are cut by it, negative ones
        // by the clip.
        "dapo_delta" => trl(tokens(dual(0.2, 1.28))),
        "dapo_delta_wide" => trl(tokens(dual(0.28, 1.35))),
        "bnpo" => trl(tokens(clipped(0.2, 0.2))),
        "dr_grpo" | "verl_constant_length" => (
            CENTRED,
            0.,
            with(Average::Constant(const { NonZeroUsize::new(16).unwrap() }), clipped(0.2, 0.2)),
        ),
        "gspo" => trl(sequence(clipped(3e-4, 4e-4))),
        "gspo_wide" => trl(sequence(clipped(0.2, 0.2))),
        "cispo" => trl(cispo(0., 5.)),
        "cispo_narrow" => trl(cispo(0., 0.2)),
        "sapo" => {
            trl(with(Average::Responses, Surrogate::SoftGate { positive: 1., negative: 1.05 }))
        }
        "luspo" => trl(PolicyObjective {
            average: Average::Constant(NonZeroUsize::MIN),
            ..sequence(clipped(0.2, 0.2))
        }),
        "vespo" => trl(PolicyObjective {
            ratio: RatioLevel::Product,
            ..tokens(Surrogate::Gamma { positive: (2., 3.), negative: (3., 2.) })
        }),
        "opsm" => trl(PolicyObjective {
            off_policy: Some(OffPolicyMask { max_kl: 0.05 }),
            ..tokens(clipped(0.2, 0.2))
        }),
        "token_truncate" => trl(corrected(truncate(RatioLevel::Token, 0., 1.05), 0.2)),
        "sequence_mask" => {
            let level = RatioLevel::Product;
            trl(corrected(Correction::Mask { level, least: 0., most: 1.04 }, 0.2))
        }
        "sequence_truncate_kl" => trl(PolicyObjective {
            correction: truncate(RatioLevel::Product, 0.9, 1.03),
            ..kl(KlWeight::Ratio, responses)
        }),
        "rloo_kl" => {
            let ratio = RatioLevel::Product;
            (LEAVE_ONE_OUT, 0.05, PolicyObjective { ratio, ..responses })
        }
        "prime_rl" => {
            let surrogate = Surrogate::TotalVariation { bound: 0.2, penalty: 1e-3 };
            (CENTRED, 0., PolicyObjective { anchor: Anchor::Sampler, ..tokens(surrogate) })
        }
        "verl_clip_higher" => verl(tokens(clipped(0.2, 0.28))),
        "verl_sequence_mean" => verl(responses),
        "verl_sequence_sum" => verl(with(Average::Constant(NonZeroUsize::MIN), clipped(0.2, 0.2))),
        "verl_dual_clip" => verl(tokens(dual(0.2, 1.3))),
        "verl_gspo" => verl(sequence(clipped(3e-4, 4e-4))),
        "verl_cispo_narrow" => verl(cispo(0.8, 1.2)),
        "verl_cispo" => verl(cispo(0., 5.)),
        "verl_truncated" => verl(corrected(truncate(RatioLevel::Token, 0., 1.05), 0.28)),
        "verl_ice_pop" => verl(corrected(Correction::ice_pop(0.95, 1.05), 0.28)),
        other => panic!("no case for {other}"),
    }
}

/// A tensor whose masked elements are NaN.
fn spoilt(x: &Tensor, mask: &Mask) -> Tensor {
    x.where_self(mask.tensor(), &Tensor::full([], f64::NAN, (Kind::Double, Device::Cpu)))
}

/// The loss with everything masked being NaN, and its gradient.
fn loss(goldens: &Goldens, name: &str) -> (f64, Vec<f64>) {
    let (estimator, beta, objective) = case(name);
    let all: Vec<Option<f64>> = goldens.rewards.iter().copied().map(Some).collect();
    let mask = mask(&goldens.lengths, &all);
    let of = |rows| spoilt(&tensor(rows), &mask);
    let advantages = spoilt(&advantages(goldens, estimator, &all, beta, None), &mask);
    let log_probs = of(&goldens.log_probs).set_requires_grad(true);
    let losses = objective.losses(PolicyTokens {
        log_probs: &log_probs,
        old: &of(&goldens.old),
        sampler: Some(&of(&goldens.sampler)),
        reference: Some(&of(&goldens.reference)),
        advantages: &advantages,
        mask: &mask,
    });
    let loss = objective.average.of(&losses.total(), &mask);
    loss.backward();
    (loss.double_value(&[]), host(&log_probs.grad()))
}

#[test]
fn losses_and_gradients_are_those_of_trl_verl_and_prime_rl() {
    let goldens = read();
    assert_eq!(goldens.losses.len(), 31);
    for (name, want) in &goldens.losses {
        let (found, gradient) = loss(&goldens, name);
        close(name, &[found], &[want.loss]);
        close(name, &gradient, &want.gradient.concat());
    }
}

#[test]
fn weights_of_the_sampler_are_those_of_trl() {
    let goldens = read();
    let all = vec![Some(0.); goldens.lengths.len()];
    let mask = mask(&goldens.lengths, &all);
    assert_eq!(goldens.importance.len(), 8);
    for (name, want) in &goldens.importance {
        let mut parts = name.split('/');
        let mode = parts.next().unwrap();
        let bound = |text: Option<&str>| text.unwrap().parse().unwrap_or(0.);
        let (least, most) = (bound(parts.next()), bound(parts.next()));
        let level = if mode.starts_with("token") { RatioLevel::Token } else { RatioLevel::Product };
        let correction = match mode.split_once('_').unwrap().1 {
            "truncate" => Correction::Truncate { level, least, most },
            "mask" => Correction::Mask { level, least, most },
            other => panic!("no correction for {other}"),
        };
        let [old, sampler] = [&goldens.old, &goldens.sampler].map(|rows| tensor(rows));
        let weights = correction.weights(&old, &sampler, &mask).unwrap();
        let [found, want] = [weights.expand_as(&old), tensor(want)].map(|x| host(&mask.apply(&x)));
        close(name, &found, &want);
    }
}

#[test]
fn a_sampler_that_does_not_tell_a_probability_is_not_corrected_there() {
    let goldens = read();
    let mask = mask(&goldens.lengths, &vec![Some(0.); goldens.lengths.len()]);
    let (old, sampler) = (tensor(&goldens.old), tensor(&goldens.sampler));
    let unknown = Tensor::full_like(&sampler, f64::NAN);
    for level in [RatioLevel::Token, RatioLevel::Sequence, RatioLevel::Product] {
        let correction = Correction::Truncate { level, least: 0., most: 2. };
        let weights = correction.weights(&old, &unknown, &mask).unwrap();
        assert!(host(&weights).iter().all(|w| *w == 1.), "{level:?}");
    }
    assert_eq!(rlaif_rl::Mismatch::of(&old, &unknown, &mask), Default::default());
    let told = rlaif_rl::Mismatch::of(&old, &sampler, &mask);
    assert!((told.largest - 0.1).abs() < 1e-12 && told.kl > 0. && told.kl < 0.01, "{told:?}");
}

#[test]
fn estimates_of_kl_are_those_of_verl() {
    let goldens = read();
    let [log_probs, reference] = [&goldens.log_probs, &goldens.reference].map(|rows| tensor(rows));
    for (name, want) in &goldens.kl {
        let estimator: KlEstimator = serde_json::from_value(name.as_str().into()).unwrap();
        close(name, &host(&estimator.estimate(&log_probs, &reference)), &want.concat());
    }
}

/// The mean of an optimizer batch is that of its parts, however it is cut into passes.
#[test]
fn the_size_of_a_pass_changes_no_loss_and_no_gradient() {
    let goldens = read();
    let all: Vec<Option<f64>> = goldens.rewards.iter().copied().map(Some).collect();
    let mask_of_all = mask(&goldens.lengths, &all);
    for name in goldens.losses.keys() {
        let (estimator, beta, objective) = case(name);
        let advantages = advantages(&goldens, estimator, &all, beta, None);
        let (whole, gradient) = loss(&goldens, name);
        for size in [1, 3] {
            let log_probs = tensor(&goldens.log_probs).set_requires_grad(true);
            let count = objective.average.count(&mask_of_all);
            let mut sum = 0.;
            for start in (0..8).step_by(size) {
                let n = size.min(8 - start) as i64;
                let part = |x: &Tensor| x.narrow(0, start as i64, n);
                let of = |rows| part(&tensor(rows));
                let mask = Mask::new(part(mask_of_all.tensor()));
                let losses = objective.losses(PolicyTokens {
                    log_probs: &part(&log_probs),
                    old: &of(&goldens.old),
                    sampler: Some(&of(&goldens.sampler)),
                    reference: Some(&of(&goldens.reference)),
                    advantages: &part(&advantages),
                    mask: &mask,
                });
                let loss = objective.average.sum(&losses.total(), &mask) / &count;
                loss.backward();
                sum += loss.double_value(&[]);
            }
            close(name, &[sum], &[whole]);
            close(name, &host(&log_probs.grad()), &gradient);
        }
    }
}
