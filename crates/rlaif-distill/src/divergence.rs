//! The distance of a student from its teacher at a token.

use rlaif_core::BadSetting;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// The distance of the student's distribution S from the teacher's T at a token.
///
/// ```
/// use rlaif_distill::TeacherDivergence;
/// use tch::Tensor;
/// // The teacher is sure of the first token, the student undecided: ln 2 nats.
/// let student = Tensor::from_slice(&[0f64, 0.]).unsqueeze(0);
/// let teacher = Tensor::from_slice(&[50f64, 0.]).unsqueeze(0);
/// let sampled = Tensor::from_slice(&[0i64]);
/// let forward = TeacherDivergence::Jsd { beta: 0. };
/// let loss = forward.of_tokens(&student, &teacher, &sampled).double_value(&[0]);
/// assert!((loss - 2f64.ln()).abs() < 1e-9);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TeacherDivergence {
    /// Generalised Jensen-Shannon: `β KL(T ‖ M) + (1 − β) KL(S ‖ M)` with `M = (1 − β) S + β T`; at its ends
    /// the forward `KL(T ‖ S)` for β = 0 and the reverse `KL(S ‖ T)` for β = 1, as TRL has it.
    Jsd {
        /// β, in [0, 1].
        beta: f64,
    },
    /// The forward KL over the teacher's k most probable tokens: `Σ T (log T − log S)`.
    TopK {
        /// k.
        k: i64,
    },
    /// The reverse KL as a policy gradient: the advantage of a sampled token is `log T − log S`.
    PolicyGradient {
        /// The most that an advantage may be, and the least below 0.
        clip: f64,
    },
}

impl Default for TeacherDivergence {
    /// The reverse KL, with which students of several sizes learned best on their own responses.
    fn default() -> Self {
        Self::Jsd { beta: 1. }
    }
}

impl TeacherDivergence {
    pub(crate) fn check(self) -> Result<(), BadSetting> {
        match self {
            Self::Jsd { beta } if !(0. ..=1.).contains(&beta) => {
                Err(BadSetting::new("divergence.jsd.beta", beta, "from 0 to 1"))
            }
            Self::TopK { k } if k < 1 => {
                Err(BadSetting::new("divergence.top_k.k", k, "at least 1"))
            }
            Self::PolicyGradient { clip } if !(clip > 0. && clip.is_finite()) => {
                Err(BadSetting::new("divergence.policy_gradient.clip", clip, "above 0"))
            }
            Self::Jsd { .. } | Self::TopK { .. } | Self::PolicyGradient { .. } => Ok(()),
        }
    }

    /// The loss of each token, `[N]`, with a graph to the student's logits `[N, V]`; the teacher's
    /// logits have the same shape, and `sampled` names the token of each row, i64 `[N]`. Logits are
    /// divided by the temperature before.
    ///
    /// For [`TeacherDivergence::PolicyGradient`] the loss is `−A ρ` with ρ = 1 at the weights that sampled: its gradient is
    /// that of the policy gradient, its value minus the clipped advantage.
    pub fn of_tokens(self, student: &Tensor, teacher: &Tensor, sampled: &Tensor) -> Tensor {
        let kind = student.kind();
        let log_s = student.log_softmax(-1, kind);
        let log_t = teacher.log_softmax(-1, kind).detach();
        let sum = |x: Tensor| x.sum_dim_intlist(-1, false, kind);
        match self {
            Self::Jsd { beta: 0. } => sum(log_t.exp() * (&log_t - &log_s)),
            Self::Jsd { beta: 1. } => sum(log_s.exp() * (&log_s - &log_t)),
            Self::Jsd { beta } => {
                let log_m = (&log_s + (-beta).ln_1p()).logaddexp(&(&log_t + beta.ln()));
                let of_teacher = sum(log_t.exp() * (&log_t - &log_m));
                let of_student = sum(log_s.exp() * (&log_s - &log_m));
                of_teacher * beta + of_student * (1. - beta)
            }
            Self::TopK { k } => {
                let vocabulary = log_t.size().last().copied().unwrap_or(1);
                let (log_t, places) = log_t.topk(k.min(vocabulary), -1, true, false);
                let log_s = log_s.gather(-1, &places, false);
                sum(log_t.exp() * (&log_t - log_s))
            }
            Self::PolicyGradient { clip } => {
                let of =
                    |log: &Tensor| log.gather(-1, &sampled.unsqueeze(-1), false).squeeze_dim(-1);
                let (log_s, log_t) = (of(&log_s), of(&log_t));
                let advantage = (log_t - log_s.detach()).clamp(-clip, clip);
                let ratio = (&log_s - log_s.detach()).exp();
                -(advantage * ratio)
            }
        }
    }

    /// The reverse KL of each token, which metrics tell for every divergence.
    pub(crate) fn reverse_kl(student: &Tensor, teacher: &Tensor) -> Tensor {
        let log_s = student.log_softmax(-1, Kind::Float);
        let log_t = teacher.log_softmax(-1, Kind::Float);
        (log_s.exp() * (&log_s - log_t)).sum_dim_intlist(-1, false, Kind::Float)
    }
}
