//! Losses compared with TRL's own numbers, with published vectors, and with the equations in plain
//! f64.

use std::{f64::consts::LN_2, path::Path};

use proptest::prelude::*;
use rlaif_dpo::{
    BatchScale, Lengths, LossTerm, PairLoss, PairObjective, PairSums, ReferenceDivergence,
    ResponseSums, RewardShift, RunningMean, UnpairedLoss, Weighting, paired, unpaired,
};
use serde_json::Value;
use tch::{Kind, Tensor};

fn goldens(version: &str) -> Value {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/losses-{version}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        _ => vec![value.as_f64().unwrap()],
    }
}

fn of(values: &[f64]) -> Tensor {
    Tensor::from_slice(values)
}

fn values(x: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(x.to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

#[track_caller]
fn close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        let off = (got - want).abs();
        assert!(off <= tolerance * (1. + want.abs()), "{what} [{at}]: got {got}, want {want}");
    }
}

/// The exporter's inputs: two responses of up to T tokens for each of B pairs, chosen first.
struct Inputs {
    tokens: Tensor,
    lengths: Vec<f64>,
    reference: Vec<f64>,
    squares: Vec<Vec<f64>>,
}

impl Inputs {
    fn read(goldens: &Value) -> Self {
        let inputs = &goldens["inputs"];
        let lengths = numbers(&inputs["lengths"]);
        let rows = lengths.len() as i64;
        let squares = inputs["log_sum_squares"].as_array().unwrap().iter().map(numbers).collect();
        Self {
            tokens: of(&numbers(&inputs["tokens"])).view([rows, -1]).set_requires_grad(true),
            lengths,
            reference: numbers(&inputs["reference"]),
            squares,
        }
    }

    fn pairs(&self) -> usize {
        self.lengths.len() / 2
    }

    /// Sums over tokens; tokens beyond the shorter response are weighted by `tail_weight`.
    fn sums(&self, tail_weight: f64) -> PairSums {
        let pairs = self.pairs();
        let width = self.tokens.size()[1] as usize;
        let weights: Vec<f64> = (0..2 * pairs)
            .flat_map(|row| {
                let shorter = self.lengths[row].min(self.lengths[(row + pairs) % (2 * pairs)]);
                (0..width).map(move |t| if (t as f64) < shorter { 1. } else { tail_weight })
            })
            .collect();
        let weights = of(&weights).view([2 * pairs as i64, -1]);
        let sums = (&self.tokens * weights).sum_dim_intlist(1, false, Kind::Double);
        let half = pairs as i64;
        PairSums {
            chosen: sums.narrow(0, 0, half),
            rejected: sums.narrow(0, half, half),
            reference_chosen: of(&self.reference[..pairs]),
            reference_rejected: of(&self.reference[pairs..]),
            chosen_lengths: of(&self.lengths[..pairs]),
            rejected_lengths: of(&self.lengths[pairs..]),
            margins: of(&vec![f64::NAN; pairs]),
            weights: None,
        }
    }

    fn scale(&self) -> BatchScale {
        BatchScale {
            pairs: self.pairs() as f64,
            chosen_tokens: self.lengths[..self.pairs()].iter().sum(),
            reward_shift: 0.,
        }
    }

    /// WPO's weights, computed number by number.
    fn wpo(&self) -> Tensor {
        let tokens = values(&self.tokens);
        let width = self.tokens.size()[1] as usize;
        let weight = |row: usize| {
            let length = self.lengths[row] as usize;
            let sum: f64 =
                (0..length).map(|t| tokens[row * width + t] - self.squares[row][t]).sum();
            (sum / length as f64).exp()
        };
        let products: Vec<f64> =
            (0..self.pairs()).map(|i| weight(i) * weight(i + self.pairs())).collect();
        of(&products)
    }
}

const B: f64 = 0.1;

/// All objectives that TRL 1 has a name for.
fn objectives_of_trl_1() -> Vec<(&'static str, PairObjective)> {
    let one = |loss: PairLoss| PairObjective::from(loss);
    let sigmoid = PairLoss::Sigmoid { beta: B, label_smoothing: 0. };
    let diverging = |divergence| PairObjective { divergence, ..sigmoid.into() };
    let bco = PairLoss::BcoPair { beta: B, shift: RewardShift::None };
    vec![
        ("sigmoid", one(sigmoid)),
        ("hinge", one(PairLoss::Hinge { beta: B })),
        ("ipo", one(PairLoss::Ipo { beta: B, lengths: Lengths::Averaged })),
        ("exo_pair", one(PairLoss::ExoPair { beta: B, label_smoothing: 1e-3 })),
        ("nca_pair", one(PairLoss::NcaPair { beta: B })),
        ("robust", one(PairLoss::Robust { beta: B, label_smoothing: 0.1 })),
        ("bco_pair", one(bco)),
        ("sppo_hard", one(PairLoss::SppoHard { beta: B })),
        ("aot", one(PairLoss::Aot { beta: B, label_smoothing: 0.1 })),
        ("aot_unpaired", one(PairLoss::AotUnpaired { beta: B, label_smoothing: 0.1 })),
        ("apo_zero", one(PairLoss::ApoZero { beta: B })),
        ("apo_down", one(PairLoss::ApoDown { beta: B })),
        ("discopop", one(PairLoss::Discopop { beta: B, tau: 0.05 })),
        ("sft", one(PairLoss::Nll {})),
        ("sigmoid_norm", one(PairLoss::SigmoidNorm { beta: 5., label_smoothing: 0. })),
        ("forward_kl", diverging(ReferenceDivergence::ForwardKl)),
        ("js_divergence", diverging(ReferenceDivergence::JensenShannon)),
        ("alpha_divergence", diverging(ReferenceDivergence::Alpha { alpha: 0.5 })),
        ("ld", PairObjective { tail_weight: 0.3, ..sigmoid.into() }),
        ("wpo", PairObjective { weighting: Weighting::Wpo, ..sigmoid.into() }),
        (
            "sum",
            PairObjective {
                terms: vec![
                    LossTerm { weight: 0.8, loss: sigmoid },
                    LossTerm { weight: 0.2, loss: bco },
                    LossTerm { weight: 1., loss: PairLoss::Nll {} },
                ],
                ..sigmoid.into()
            },
        ),
    ]
}

#[test]
fn losses_gradients_and_rewards_are_those_of_trl_1() {
    let goldens = goldens("1.16.0");
    let cases = goldens["paired"].as_object().unwrap();
    let objectives = objectives_of_trl_1();
    assert_eq!(objectives.len(), cases.len());
    for (name, objective) in objectives {
        objective.check().unwrap();
        let inputs = Inputs::read(&goldens);
        let mut sums = inputs.sums(objective.tail_weight);
        if objective.weighting == Weighting::Wpo {
            sums.weights = Some(inputs.wpo());
        }
        let loss = objective.losses(&sums, inputs.scale()).mean(Kind::Double);
        // TRL computes the alpha-divergence, and the label smoothing of EXO, in f32.
        let single = ["alpha_divergence", "exo_pair"].contains(&name);
        let tolerance = if single { 2e-6 } else { 1e-12 };
        close(name, &[loss.double_value(&[])], &[cases[name]["loss"].as_f64().unwrap()], tolerance);
        let gradient = Tensor::run_backward(&[&loss], &[&inputs.tokens], false, false);
        // TRL's values beyond a response's end are multiplied by zero.
        let want = numbers(&cases[name]["gradient"]);
        let width = inputs.tokens.size()[1] as usize;
        let real = |x: &[f64]| -> Vec<f64> {
            let kept = x.iter().enumerate();
            kept.filter(|(at, _)| ((at % width) as f64) < inputs.lengths[at / width])
                .map(|(_, value)| *value)
                .collect()
        };
        close(name, &real(&values(&gradient[0])), &real(&want), tolerance * 10.);

        let rewards = &cases[name]["rewards"];
        if !["sft", "sigmoid_norm"].contains(&name) {
            let (chosen, rejected) = objective.rewards(&sums);
            let mean = |x: &Tensor| x.mean(Kind::Double).double_value(&[]);
            let accuracy = chosen.gt_tensor(&rejected).to_kind(Kind::Double);
            let got = [mean(&chosen), mean(&rejected), mean(&accuracy)];
            let want =
                ["chosen", "rejected", "accuracies"].map(|name| rewards[name].as_f64().unwrap());
            // TRL counts correct pairs in f32.
            close(name, &got, &want, 1e-6);
        }
    }
}

#[test]
fn losses_of_each_pair_are_those_of_trl_0_11() {
    let goldens = goldens("0.11.4");
    let inputs = Inputs::read(&goldens);
    let sums = inputs.sums(1.);
    let (chosen, rejected) = PairObjective::from(PairLoss::NcaPair { beta: B }).rewards(&sums);
    let mut shift = RunningMean::default();
    shift.update(Tensor::cat(&[chosen, rejected], 0).mean(Kind::Double).double_value(&[]));
    let scale = BatchScale { reward_shift: shift.mean, ..inputs.scale() };

    let sigmoid = PairLoss::Sigmoid { beta: B, label_smoothing: 0. };
    let kl = ReferenceDivergence::ReverseKl;
    let cases = [
        ("sigmoid", PairLoss::Sigmoid { beta: B, label_smoothing: 0.1 }, kl),
        ("robust", PairLoss::Robust { beta: B, label_smoothing: 0.1 }, kl),
        ("exo_pair", PairLoss::ExoPair { beta: B, label_smoothing: 1e-3 }, kl),
        ("hinge", PairLoss::Hinge { beta: B }, kl),
        ("ipo", PairLoss::Ipo { beta: B, lengths: Lengths::Summed }, kl),
        ("bco_pair", PairLoss::BcoPair { beta: B, shift: RewardShift::RunningMean }, kl),
        ("sppo_hard", PairLoss::SppoHard { beta: B }, kl),
        ("nca_pair", PairLoss::NcaPair { beta: B }, kl),
        ("aot", PairLoss::Aot { beta: B, label_smoothing: 0.1 }, kl),
        ("aot_pair", PairLoss::AotUnpaired { beta: B, label_smoothing: 0.1 }, kl),
        ("apo_zero", PairLoss::ApoZero { beta: B }, kl),
        ("apo_down", PairLoss::ApoDown { beta: B }, kl),
        ("js_divergence", sigmoid, ReferenceDivergence::JensenShannon),
        ("alpha_divergence", sigmoid, ReferenceDivergence::Alpha { alpha: 1. - 0.7 }),
    ];
    assert_eq!(cases.len(), goldens["paired"].as_object().unwrap().len());
    for (name, loss, divergence) in cases {
        let got = values(&loss.losses(&sums, divergence, scale));
        // TRL's running mean is f32.
        let tolerance = if name == "bco_pair" { 1e-7 } else { 1e-12 };
        close(name, &got, &numbers(&goldens["paired"][name]), tolerance);
    }
}

#[test]
fn losses_of_single_responses_are_those_of_trl() {
    let new = goldens("1.16.0");
    let kto = &new["kto"];
    let inputs = Inputs::read(&new);
    let labels = kto["labels"].as_array().unwrap();
    let signs: Vec<f64> =
        labels.iter().map(|label| if label.as_bool().unwrap() { 1. } else { -1. }).collect();
    let x = ResponseSums {
        policy: inputs.tokens.sum_dim_intlist(1, false, Kind::Double),
        reference: of(&inputs.reference),
        signs: of(&signs),
    };
    let baseline = unpaired::kto_baseline(&numbers(&kto["mismatched"]));
    close("baseline", &[baseline], &[kto["kto"]["kl"].as_f64().unwrap()], 1e-12);
    let weighted = UnpairedLoss::Kto { beta: B, desirable_weight: 1.3, undesirable_weight: 0.7 };
    for (name, loss) in
        [("kto", weighted), ("apo_zero_unpaired", UnpairedLoss::ApoZero { beta: B })]
    {
        let loss = loss.losses(&x, baseline).mean(Kind::Double);
        close(name, &[loss.double_value(&[])], &[kto[name]["loss"].as_f64().unwrap()], 1e-12);
        let gradient = Tensor::run_backward(&[&loss], &[&inputs.tokens], true, false);
        close(name, &values(&gradient[0]), &numbers(&kto[name]["gradient"]), 1e-11);
    }

    let old = goldens("0.11.4");
    let inputs = Inputs::read(&old);
    let pairs = inputs.pairs();
    let signs: Vec<f64> = (0..2 * pairs).map(|i| if i < pairs { 1. } else { -1. }).collect();
    let loss = UnpairedLoss::Bco { beta: B, shift: RewardShift::RunningMean };
    let mut shift = RunningMean::default();
    for (batch, scale) in old["bco"]["batches"].as_array().unwrap().iter().zip([1., 0.5]) {
        let x = ResponseSums {
            policy: inputs.tokens.sum_dim_intlist(1, false, Kind::Double) * scale,
            reference: of(&inputs.reference),
            signs: of(&signs),
        };
        shift.update(((&x.policy - &x.reference) * B).mean(Kind::Double).double_value(&[]));
        close("delta", &[shift.mean], &numbers(&batch["delta"]), 1e-6);
        close("bco", &values(&loss.losses(&x, shift.mean)), &numbers(&batch["losses"]), 1e-6);
    }
}

#[test]
fn losses_without_a_reference_are_those_of_trl() {
    let goldens = goldens("1.16.0");
    let inputs = Inputs::read(&goldens);
    let sums = inputs.sums(1.);
    let scale = inputs.scale();
    let kl = ReferenceDivergence::ReverseKl;
    let want = |name: &str| numbers(&goldens["reference_free"][name]);
    let nll = values(&PairLoss::Nll {}.losses(&sums, kl, scale));

    let simpo = PairLoss::Simpo { beta: 2., gamma: 0.5, label_smoothing: 0. };
    close("simpo", &values(&simpo.losses(&sums, kl, scale)), &want("simpo"), 1e-12);
    // TRL gives β log σ of the log-odds ratio, in f32, and subtracts it from the likelihood term.
    let orpo = values(&PairLoss::Orpo { lambda: B }.losses(&sums, kl, scale));
    let both: Vec<f64> = nll.iter().zip(want("orpo")).map(|(nll, ratio)| nll - ratio).collect();
    close("orpo", &orpo, &both, 1e-7);
    let cpo = PairLoss::Cpo { beta: B, label_smoothing: 0.1, nll_weight: 0.7 };
    let both: Vec<f64> = nll.iter().zip(want("cpo")).map(|(nll, cpo)| 0.7 * nll + cpo).collect();
    close("cpo", &values(&cpo.losses(&sums, kl, scale)), &both, 1e-12);
}

// torchtune's test_dpo_loss inputs: d = [0, 10, 20], a = [0, .1, -.9], b = [0, -9.9, -20.9].
#[test]
fn the_published_vectors_hold() {
    let (a, b) = (of(&[0., 0.1, -0.9]), of(&[0., -9.9, -20.9]));
    let d = &a - &b;
    for (name, got, want) in [
        ("sigmoid", paired::sigmoid(&d, B, 0.), [LN_2, 0.313262, 0.126928]),
        ("cDPO", paired::sigmoid(&d, B, 0.1), [LN_2, 0.413262, 0.326928]),
        ("robust", paired::robust(&d, B, 0.1), [LN_2, 0.188262, -0.123072]),
        ("hinge", paired::hinge(&d, B), [1., 0., 0.]),
        ("ipo", paired::ipo(&d, B), [25., 25., 225.]),
        ("exo", paired::exo(&d, B, 1e-3), [2.761231, 1.276310, 0.458972]),
        ("nca", paired::nca(&a, &b, B), [1.386294, 1.195220, 1.122047]),
        ("bco", paired::bco(&a, &b, B, 0.), [1.386294, 1.004121, 0.855775]),
        ("sppo", paired::sppo_hard(&a, &b, B), [50., 48.02, 287.62]),
        ("apo_zero", paired::apo_zero(&a, &b, B), [1., 0.768412, 0.632557]),
        ("apo_down", paired::apo_down(&a, &b, B), [1., 0.771441, 0.596718]),
    ] {
        close(name, &values(&got), &want, 1e-6);
    }
}

fn sigma(x: f64) -> f64 {
    1. / (1. + (-x).exp())
}

fn log_sigma(x: f64) -> f64 {
    sigma(x).ln()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The equations, in plain f64, one pair at a time.
    #[test]
    fn losses_are_their_equations(
        a in -20f64..20., b in -20f64..20., beta in 0.01f64..1., e in 0.001f64..0.49,
        tau in 0.5f64..2., q in 0f64..1., shift in -1f64..1., gamma in 0f64..2.,
    ) {
        let d = a - b;
        let h = beta * d;
        let (ta, tb, td) = (of(&[a]), of(&[b]), of(&[d]));
        let (near, far) = (-a.abs() - 0.01, -b.abs() - 0.01);
        let odds = |m: f64| m - (1. - m.exp()).ln();
        let mix = sigma(h / tau);
        let cases = [
            (paired::sigmoid(&td, beta, e), -(1. - e) * log_sigma(h) - e * log_sigma(-h)),
            (paired::soft_sigmoid(&td, beta, &of(&[q])), -q * log_sigma(h) - (1. - q) * log_sigma(-h)),
            (
                paired::robust(&td, beta, e),
                (-(1. - e) * log_sigma(h) + e * log_sigma(-h)) / (1. - 2. * e),
            ),
            (paired::hinge(&td, beta), (1. - h).max(0.)),
            (paired::ipo(&td, beta), (d - 1. / (2. * beta)).powi(2)),
            (
                paired::exo(&td, beta, e),
                sigma(h) * (log_sigma(h) - (1. - e).ln()) + sigma(-h) * (log_sigma(-h) - e.ln()),
            ),
            (
                paired::nca(&ta, &tb, beta),
                -log_sigma(beta * a) - 0.5 * log_sigma(-beta * a) - 0.5 * log_sigma(-beta * b),
            ),
            (
                paired::bco(&ta, &tb, beta, shift),
                -log_sigma(beta * a - shift) - log_sigma(shift - beta * b),
            ),
            (
                paired::sppo_hard(&ta, &tb, beta),
                (a - 0.5 / beta).powi(2) + (b + 0.5 / beta).powi(2),
            ),
            (paired::apo_zero(&ta, &tb, beta), 1. - sigma(beta * a) + sigma(beta * b)),
            (paired::apo_down(&ta, &tb, beta), sigma(beta * a) + 1. - sigma(h)),
            (
                paired::discopop(&td, beta, tau),
                -log_sigma(h) * (1. - mix) + (-h).exp() * mix,
            ),
            (paired::simpo(&ta, &tb, beta, gamma, 0.), -log_sigma(h - gamma)),
            (paired::log_odds_ratio(&of(&[near]), &of(&[far])), odds(near) - odds(far)),
            (unpaired::kto(&ta, &of(&[1.]), beta, shift), 1. - sigma(beta * (a - shift))),
            (unpaired::kto(&ta, &of(&[-1.]), beta, shift), 1. - sigma(beta * (shift - a))),
            (unpaired::bco(&ta, &of(&[-1.]), beta, shift), -log_sigma(-(beta * a - shift))),
            (unpaired::apo_zero(&ta, &of(&[-1.]), beta), sigma(beta * a)),
        ];
        for (at, (got, want)) in cases.iter().enumerate() {
            close(&format!("case {at}"), &values(got), &[*want], 1e-9);
        }
    }

    /// f' of each divergence, by a difference quotient of its generator f.
    #[test]
    fn scores_are_derivatives_of_the_generators(log_u in -2f64..2., alpha in -2f64..3.) {
        let u = log_u.exp();
        prop_assume!((alpha - 1.).abs() > 0.05 && alpha.abs() > 0.05);
        type Generator = Box<dyn Fn(f64) -> f64>;
        let generators: [(ReferenceDivergence, Generator); 4] = [
            (ReferenceDivergence::ReverseKl, Box::new(|u| u * u.ln())),
            (ReferenceDivergence::ForwardKl, Box::new(|u| -u.ln())),
            (ReferenceDivergence::JensenShannon, Box::new(|u| u * u.ln() - (1. + u) * ((1. + u) / 2.).ln())),
            (
                ReferenceDivergence::Alpha { alpha },
                Box::new(move |u| (u.powf(alpha) - alpha * u - (1. - alpha)) / (alpha * (alpha - 1.))),
            ),
        ];
        for (divergence, f) in generators {
            let slope = |u: f64| (f(u + 1e-6) - f(u - 1e-6)) / 2e-6;
            // Scores are f' up to a constant, which the value at u = 1 takes away.
            let want = slope(u) - slope(1.);
            let score = |log_u: f64| divergence.score(&of(&[log_u])).double_value(&[0]);
            let got = score(log_u) - score(0.);
            prop_assert!((got - want).abs() < 1e-5 * (1. + want.abs()), "{divergence:?}: {got} {want}");
        }
    }

    /// Sorting makes AOT independent of the pairing of responses.
    #[test]
    fn aot_does_not_depend_on_the_order_of_its_samples(
        a in prop::collection::vec(-9f64..9., 6), b in prop::collection::vec(-9f64..9., 6),
        by in 0usize..6,
    ) {
        let mut turned = a.clone();
        turned.rotate_left(by);
        let one = values(&paired::aot(&of(&a), &of(&b), B, 0.1));
        let other = values(&paired::aot(&of(&turned), &of(&b), B, 0.1));
        prop_assert_eq!(one, other);
    }
}

#[test]
fn where_policy_and_reference_agree_every_sigmoid_is_ln_2() {
    let zero = of(&[0.; 3]);
    for got in values(&paired::sigmoid(&zero, 0.3, 0.2))
        .into_iter()
        .chain(values(&paired::robust(&zero, 0.3, 0.2)))
    {
        assert!((got - 2f64.ln()).abs() < 1e-12);
    }
}

#[test]
fn a_certain_response_has_a_finite_odds_ratio_and_gradient() {
    let certain = Tensor::from_slice(&[0f32, -1e-9, -0.7]).set_requires_grad(true);
    let ratio = paired::log_odds_ratio(&certain, &Tensor::from_slice(&[-1f32; 3]));
    ratio.sum(Kind::Float).backward();
    assert!(values(&ratio).iter().chain(&values(&certain.grad())).all(|x| x.is_finite()));
}

#[test]
fn settings_are_read_with_their_defaults_and_checked() {
    let read = |json: &str| serde_json::from_str::<PairObjective>(json);
    let objective = read(
        r#"{"terms": [{"type": "sigmoid"}, {"type": "nll", "weight": 0.2},
            {"type": "simpo", "gamma": 0.3}], "divergence": {"type": "alpha", "alpha": 0.3}}"#,
    )
    .unwrap();
    assert_eq!(objective.terms[0].loss, PairLoss::Sigmoid { beta: 0.1, label_smoothing: 0. });
    assert_eq!(objective.terms[1], LossTerm { weight: 0.2, loss: PairLoss::Nll {} });
    objective.check().unwrap();
    let again: PairObjective =
        serde_json::from_value(serde_json::to_value(&objective).unwrap()).unwrap();
    assert_eq!(again, objective);
    assert!(read(r#"{"terms": [{"type": "sigmoid", "betta": 0.1}]}"#).is_err());
    assert!(read(r#"{"terms": [{"type": "sigmoyd"}]}"#).is_err());

    for (json, field) in [
        (r#"{"terms": []}"#, "terms"),
        (
            r#"{"terms": [{"type": "sigmoid", "beta": 0}]}"#,
            "terms[0].beta` is 0; expected a positive number",
        ),
        (r#"{"terms": [{"type": "robust", "label_smoothing": 0.5}]}"#, "terms[0].label_smoothing"),
        (r#"{"terms": [{"type": "exo_pair", "label_smoothing": 0}]}"#, "terms[0].label_smoothing"),
        (r#"{"terms": [{"type": "discopop", "tau": -1}]}"#, "terms[0].tau"),
        (r#"{"terms": [{"type": "sigmoid"}], "tail_weight": 1.5}"#, "tail_weight"),
        (
            r#"{"terms": [{"type": "nca_pair"}], "divergence": {"type": "forward_kl"}}"#,
            "divergence",
        ),
        (r#"{"terms": [{"type": "aot"}], "weighting": "wpo"}"#, "weighting"),
        (r#"{"terms": [{"type": "nll"}, {"type": "orpo", "lambda": -1}]}"#, "terms[1].lambda"),
    ] {
        let error = read(json).unwrap().check().unwrap_err().to_string();
        assert!(error.trim_start_matches('`').starts_with(field), "{json}: {error}");
    }
    let kto = UnpairedLoss::Kto { beta: 0.1, desirable_weight: -1., undesirable_weight: 1. };
    assert!(kto.check().unwrap_err().to_string().starts_with("`desirable_weight` is"));
}
