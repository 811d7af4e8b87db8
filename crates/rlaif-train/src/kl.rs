//! KL divergence of the policy from the reference: estimators per token, and control of the
//! coefficient.

use rlaif_lm::{LmError, TokenBatch, VocabHead};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// An estimator of KL(π ‖ π_ref) at one response token, from the log-ratio
/// `x = log π(y_t | ·) − log π_ref(y_t | ·)` of the token that was sampled
/// ([Schulman 2020](http://joschu.net/blog/kl-approx.html)).
///
/// ```
/// use rlaif_train::KlEstimator;
/// use tch::Tensor;
/// let (log_probs, reference) = (Tensor::from_slice(&[-1f32]), Tensor::from_slice(&[-1.2f32]));
/// let k3 = KlEstimator::K3.estimate(&log_probs, &reference);
/// assert!((k3.double_value(&[0]) - 0.018731).abs() < 1e-6);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// `x`: unbiased, and negative for some tokens. TRL 0.11 calls it `kl`.
    #[default]
    K1,
    /// `|x|`: biased, never negative. TRL 0.11 calls it `abs`.
    Abs,
    /// `x² / 2`: biased, little variance. TRL 0.11 calls it `mse`.
    K2,
    /// `e^(−x) − 1 + x`: unbiased, never negative.
    K3,
    /// `Σ_v π_v (log π_v − log π_ref,v)` over the whole vocabulary: the divergence itself instead
    /// of an estimate. It needs both distributions; see [`full_kl`].
    Full,
}

impl KlEstimator {
    /// The estimate at each token, from the log-probabilities of the sampled tokens, which may have
    /// any shape.
    ///
    /// # Panics
    /// For [`KlEstimator::Full`], which needs more than the log-probabilities of single tokens
    /// ([`full_kl`] computes it), and if the shapes differ.
    pub fn estimate(self, log_probs: &Tensor, reference: &Tensor) -> Tensor {
        assert_eq!(log_probs.size(), reference.size(), "log-probabilities of the same tokens");
        let x = log_probs - reference;
        match self {
            Self::K1 => x,
            Self::Abs => x.abs(),
            Self::K2 => x.square() * 0.5,
            Self::K3 => (-&x).expm1() + x,
            Self::Full => panic!("full KL needs whole distributions, see full_kl"),
        }
    }
}

/// Limit on the elements of f32 logits that [`full_kl`] holds of each model at a time: 64 MiB.
const CHUNK_ELEMENTS: i64 = 16 << 20;

/// KL(π ‖ π_ref) at each response token over the whole vocabulary, f32 `[B, T]`, 0 where masked:
/// `Σ_v π_v (log π_v − log π_ref,v)`, both at the sampling temperature.
///
/// `hidden` and `reference_hidden` are `[B, T, H]` as [`rlaif_lm::Policy::response_hidden`]
/// returned them for `responses`. Logits are computed for one chunk of tokens at a time, without
/// gradient.
///
/// # Errors
/// [`LmError::Torch`], out of memory among them.
///
/// # Panics
/// If hidden states do not fit the batch.
pub fn full_kl(
    head: &VocabHead,
    hidden: &Tensor,
    reference_head: &VocabHead,
    reference_hidden: &Tensor,
    responses: &TokenBatch,
    temperature: f64,
) -> Result<Tensor, LmError> {
    let size = hidden.size();
    assert_eq!(size[..2], responses.ids().size()[..], "hidden states of this batch");
    assert_eq!(size[..2], reference_hidden.size()[..2], "hidden states of the same responses");
    let _guard = tch::no_grad_guard();
    let tokens = size[0] * size[1];
    let (hidden, reference_hidden) =
        (hidden.reshape([tokens, size[2]]), reference_hidden.reshape([tokens, -1]));
    let chunk = (CHUNK_ELEMENTS / head.weight.size()[0]).max(1);
    let mut parts = Vec::new();
    let mut start = 0;
    while start < tokens {
        let length = chunk.min(tokens - start);
        let log_p = head.log_softmax(&hidden.f_narrow(0, start, length)?, temperature);
        let log_q =
            reference_head.log_softmax(&reference_hidden.f_narrow(0, start, length)?, temperature);
        let p = log_p.f_exp()?;
        parts.push((p * (log_p - log_q)).sum_dim_intlist(-1, false, Kind::Float));
        start += length;
    }
    let kl = Tensor::cat(&parts, 0).view([size[0], size[1]]);
    Ok(responses.mask().apply(&kl))
}

/// Control of the KL coefficient β.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum KlControl {
    /// β is constant.
    Fixed {
        /// β.
        coef: f64,
    },
    /// β follows the measured KL towards a target ([Ziegler et al.
    /// 2019](https://arxiv.org/abs/1909.08593), section 2.2): `β ← β · (1 + clip(KL / target − 1,
    /// ±0.2) · n / horizon)` after each batch of n responses, where n is capped at `horizon`, so
    /// that β stays positive.
    Adaptive {
        /// β at the start.
        init: f64,
        /// KL per response, in nats, summed over its tokens.
        target: f64,
        /// Number of responses over which β may change by at most a fifth.
        horizon: f64,
    },
}

impl Default for KlControl {
    /// TRL 0.11's default: adaptive from 0.2 towards 6 nats over 10,000 responses.
    fn default() -> Self {
        Self::Adaptive { init: 0.2, target: 6., horizon: 10_000. }
    }
}

/// The current KL coefficient β of a run.
///
/// ```
/// use rlaif_train::{KlControl, KlController};
/// let mut controller =
///     KlController::new(KlControl::Adaptive { init: 0.2, target: 6., horizon: 10_000. });
/// controller.observe(12., 256);
/// assert!((controller.coef() - 0.201024).abs() < 1e-9);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KlController {
    control: KlControl,
    coef: f64,
}

impl KlController {
    /// Starts at the initial β.
    pub fn new(control: KlControl) -> Self {
        let coef = match control {
            KlControl::Fixed { coef } => coef,
            KlControl::Adaptive { init, .. } => init,
        };
        Self { control, coef }
    }

    /// β.
    pub fn coef(&self) -> f64 {
        self.coef
    }

    /// Updates β from the mean KL per response, in nats, of a batch of `responses`. A NaN leaves β
    /// unchanged.
    pub fn observe(&mut self, kl: f64, responses: usize) {
        if let KlControl::Adaptive { target, horizon, .. } = self.control
            && !kl.is_nan()
        {
            let error = (kl / target - 1.).clamp(-0.2, 0.2);
            self.coef *= 1. + error * (responses as f64 / horizon).min(1.);
        }
    }

    /// Restores a β from [`Self::coef`], saved in a checkpoint. A fixed β is not changed.
    pub fn restore(&mut self, coef: f64) {
        if matches!(self.control, KlControl::Adaptive { .. }) {
            self.coef = coef;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rlaif_lm::{Mask, TokenBatch};
    use rlaif_testing::{close, numbers};
    use tch::Device;

    use super::*;

    // TRL 0.11.4, tests/test_ppo_trainer.py, test_ppo_trainer_kl_penalty.
    #[test]
    fn estimators_give_the_numbers_of_trl() {
        let log_probs = Tensor::from_slice2(&[[0.5f32, 0.2, 0.1], [0.6, 0.2, 0.1]]);
        let reference = Tensor::from_slice2(&[[0.4f32, 0.3, 0.0], [0.7, 0.1, 0.3]]);
        let of = |estimator: KlEstimator| estimator.estimate(&log_probs, &reference);
        close(&of(KlEstimator::K1), &[0.1, -0.1, 0.1, -0.1, 0.1, -0.2], 1e-6);
        close(&of(KlEstimator::Abs), &[0.1, 0.1, 0.1, 0.1, 0.1, 0.2], 1e-6);
        close(&of(KlEstimator::K2), &[0.005, 0.005, 0.005, 0.005, 0.005, 0.02], 1e-6);
    }

    #[test]
    fn estimators_give_published_numbers() {
        let log_probs = Tensor::from_slice(&[-1f64, -2.]);
        let reference = Tensor::from_slice(&[-1.2f64, -1.5]);
        let of = |estimator: KlEstimator| estimator.estimate(&log_probs, &reference);
        close(&of(KlEstimator::K1), &[0.2, -0.5], 1e-12);
        close(&of(KlEstimator::K2), &[0.02, 0.125], 1e-12);
        close(&of(KlEstimator::K3), &[0.018_731, 0.148_721], 1e-6);
    }

    /// A head with the identity as W, so that hidden states are logits.
    fn identity(vocab: i64) -> VocabHead {
        VocabHead {
            weight: Tensor::eye(vocab, (Kind::Float, Device::Cpu)),
            bias: None,
            scale: 1.,
            cap: None,
            adapter: None,
        }
    }

    fn spec(vocab_size: i64) -> rlaif_lm::LmSpec {
        rlaif_lm::LmSpec {
            model_type: "test".into(),
            hidden_size: vocab_size,
            vocab_size,
            context: None,
            pad_id: 0,
            eos_ids: vec![1],
            bos_id: None,
            decoder_start_id: None,
            forced: rlaif_lm::ForcedIds::default(),
            kind: Kind::Float,
            device: Device::Cpu,
        }
    }

    // TRL 0.11.4, tests/test_ppo_trainer.py, test_ppo_trainer_full_kl_penalty.
    #[test]
    fn full_kl_gives_the_numbers_of_trl_and_zero_where_masked() {
        let p = Tensor::from_slice2(&[[0.98f32, 0.01, 0.01], [0.49, 0.02, 0.49]]).log();
        let q = Tensor::from_slice2(&[[0.01f32, 0.01, 0.98], [0.01, 0.98, 0.01]]).log();
        let pad = Tensor::full([1, 3], f64::NAN, (Kind::Float, Device::Cpu));
        let stack = |x: &Tensor| {
            // Row 0 has both tokens, row 1 only the second: the first is padding.
            Tensor::stack(
                &[x.shallow_clone(), Tensor::cat(&[x.narrow(0, 1, 1), pad.shallow_clone()], 0)],
                0,
            )
        };
        let responses = TokenBatch::responses(vec![vec![1, 2], vec![1]], &spec(3)).unwrap();
        let kl =
            full_kl(&identity(3), &stack(&p), &identity(3), &stack(&q), &responses, 1.).unwrap();
        close(&kl, &[4.4474, 3.7361, 3.7361, 0.], 1e-4);
    }

    #[test]
    fn full_kl_is_the_mean_of_k1_and_k3_under_the_policy() {
        tch::manual_seed(2);
        let (p, q) = (
            Tensor::randn([1, 1, 5], (Kind::Float, Device::Cpu)),
            Tensor::randn([1, 1, 5], (Kind::Float, Device::Cpu)),
        );
        let responses = TokenBatch::responses(vec![vec![1]], &spec(5)).unwrap();
        let temperature = 0.7;
        let full = full_kl(&identity(5), &p, &identity(5), &q, &responses, temperature).unwrap();
        let log = |x: &Tensor| (x / temperature).log_softmax(-1, Kind::Double).view([-1]);
        let (p, q) = (log(&p), log(&q));
        for estimator in [KlEstimator::K1, KlEstimator::K3] {
            let mean = (p.exp() * estimator.estimate(&p, &q)).sum(Kind::Double);
            close(&full, &numbers(&mean), 1e-6);
        }
    }

    proptest! {
        #[test]
        fn estimators_equal_their_definitions_in_f64(
            pairs in prop::collection::vec((-20f64..0., -20f64..0.), 1..20)
        ) {
            let (p, q): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
            let (p, q) = (Tensor::from_slice(&p), Tensor::from_slice(&q));
            let want = |f: fn(f64) -> f64| pairs.iter().map(|(p, q)| f(p - q)).collect::<Vec<_>>();
            for (estimator, definition) in [
                (KlEstimator::K1, (|x| x) as fn(f64) -> f64),
                (KlEstimator::Abs, f64::abs),
                (KlEstimator::K2, |x| 0.5 * x * x),
                (KlEstimator::K3, |x| (-x).exp() - 1. + x),
            ] {
                let got = numbers(&estimator.estimate(&p, &q));
                for (g, w) in got.iter().zip(want(definition)) {
                    prop_assert!((g - w).abs() <= 1e-9 * (1. + w.abs()), "{estimator:?} {g} {w}");
                    prop_assert!(estimator == KlEstimator::K1 || *g >= -1e-12);
                }
            }
            // Masked elements must not matter.
            let real: Vec<bool> = pairs.iter().map(|(p, _)| *p > -10.).collect();
            let mask = Mask::new(Tensor::from_slice(&real));
            let kl = mask.apply(&KlEstimator::K1.estimate(&p, &q));
            prop_assert_eq!(kl.numel(), pairs.len());
        }

        #[test]
        fn an_adaptive_coefficient_moves_towards_its_target_and_never_faster_than_a_fifth(
            kl in -5f64..50., n in 1usize..512, horizon in prop_oneof![1e-9f64..10., 10f64..1e5]
        ) {
            let control = KlControl::Adaptive { init: 0.2, target: 6., horizon };
            let mut controller = KlController::new(control);
            controller.observe(kl, n);
            let bound = 0.2 * (n as f64 / horizon).min(1.);
            let change = controller.coef() / 0.2 - 1.;
            prop_assert!(controller.coef() > 0.);
            prop_assert!(change.abs() <= bound + 1e-12);
            prop_assert!(change * (kl - 6.) >= 0.);
        }
    }

    #[test]
    fn control_is_as_published() {
        let control = KlControl::Adaptive { init: 0.2, target: 6., horizon: 10_000. };
        for (kl, want) in [(12., 0.201_024), (3., 0.198_976), (6., 0.2), (f64::NAN, 0.2)] {
            let mut controller = KlController::new(control);
            controller.observe(kl, 256);
            assert!((controller.coef() - want).abs() < 1e-12);
            let mut resumed = KlController::new(control);
            resumed.restore(controller.coef());
            assert_eq!(resumed, controller);
        }
        let mut fixed = KlController::new(KlControl::Fixed { coef: 0.05 });
        fixed.observe(50., 256);
        fixed.restore(0.7);
        assert!((fixed.coef() - 0.05).abs() < f64::EPSILON);
    }
}
