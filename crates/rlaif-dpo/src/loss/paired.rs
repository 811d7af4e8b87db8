//! Losses of pairs, one function per equation.
//!
//! Everything here is `[B]`, one number per pair. With `w` the chosen and `l` the rejected
//! response, `a = log π(w|x) - log π_ref(w|x)` and `b` the same of `l` are the log-ratios, and
//! `d = s(a) - s(b)` is the difference of scores, where s is a
//! [`ReferenceDivergence`](crate::ReferenceDivergence): the identity for DPO.

use tch::{Kind, Tensor};

/// `-q log σ(β d) - (1 - q) log σ(-β d)`, with q the probability that the chosen response is the
/// better one: 1 for DPO (Rafailov et al. 2023, [arXiv:2305.18290](https://arxiv.org/abs/2305.18290),
/// equation 7), 1 - ε for conservative DPO (Mitchell 2023,
/// <https://ericmitchell.ai/cdpo.pdf>).
///
/// ```
/// use tch::Tensor;
/// let d = Tensor::from_slice(&[0f64]);
/// let loss = rlaif_dpo::paired::sigmoid(&d, 0.1, 0.);
/// assert!((loss.double_value(&[0]) - 2f64.ln()).abs() < 1e-12);
/// ```
pub fn sigmoid(d: &Tensor, beta: f64, label_smoothing: f64) -> Tensor {
    let h = d * beta;
    if label_smoothing == 0. {
        return -h.log_sigmoid();
    }
    -h.log_sigmoid() * (1. - label_smoothing) - (-h).log_sigmoid() * label_smoothing
}

/// [`sigmoid`] against soft labels: q = `labels`, `[B]`, the probability that the chosen response
/// of each pair is the better one.
pub fn soft_sigmoid(d: &Tensor, beta: f64, labels: &Tensor) -> Tensor {
    let h = d * beta;
    -h.log_sigmoid() * labels - (-h).log_sigmoid() * (1. - labels)
}

/// `[-(1 - ε) log σ(β d) + ε log σ(-β d)] / (1 - 2ε)`: the unbiased estimate of [`sigmoid`] where a
/// share ε of the labels is flipped (Chowdhury et al. 2024,
/// [arXiv:2403.00409](https://arxiv.org/abs/2403.00409)).
pub fn robust(d: &Tensor, beta: f64, label_smoothing: f64) -> Tensor {
    let h = d * beta;
    let kept = -h.log_sigmoid() * (1. - label_smoothing);
    let flipped = (-h).log_sigmoid() * label_smoothing;
    (kept + flipped) / (1. - 2. * label_smoothing)
}

/// `max(0, 1 - β d)` (Zhao et al. 2023, SLiC-HF, [arXiv:2305.10425](https://arxiv.org/abs/2305.10425),
/// on the log-ratios, as Liu et al. 2023, [arXiv:2309.06657](https://arxiv.org/abs/2309.06657), have it).
pub fn hinge(d: &Tensor, beta: f64) -> Tensor {
    (1f64 - d * beta).relu()
}

/// `(d - 1 / (2β))²` (Azar et al. 2023, [arXiv:2310.12036](https://arxiv.org/abs/2310.12036),
/// equation 17, whose τ is β). Whether `d` is made of sums or of means over tokens is the
/// caller's: [`crate::Lengths`].
pub fn ipo(d: &Tensor, beta: f64) -> Tensor {
    (d - 1. / (2. * beta)).square()
}

/// `KL(p_π ‖ p_h)` of the two-way distributions `p_π = (σ(β d), σ(-β d))` and `p_h = (1 - ε, ε)`:
/// `σ(β d) (log σ(β d) - log (1 - ε)) + σ(-β d) (log σ(-β d) - log ε)` (Ji et al. 2024, EXO-pref,
/// [arXiv:2402.00856](https://arxiv.org/abs/2402.00856), equation 16).
pub fn exo(d: &Tensor, beta: f64, label_smoothing: f64) -> Tensor {
    let h = d * beta;
    h.sigmoid() * (h.log_sigmoid() - (1. - label_smoothing).ln())
        + (-&h).sigmoid() * ((-&h).log_sigmoid() - label_smoothing.ln())
}

/// `-log σ(β a) - ½ log σ(-β a) - ½ log σ(-β b)` (Chen et al. 2024, NCA,
/// [arXiv:2402.05369](https://arxiv.org/abs/2402.05369), for two responses).
pub fn nca(a: &Tensor, b: &Tensor, beta: f64) -> Tensor {
    let (rw, rl) = (a * beta, b * beta);
    -rw.log_sigmoid() - (-&rw).log_sigmoid() * 0.5 - (-rl).log_sigmoid() * 0.5
}

/// `-log σ(β a - δ) - log σ(-(β b - δ))` with δ the reward shift (Jung et al. 2024, BCO,
/// [arXiv:2404.04656](https://arxiv.org/abs/2404.04656)).
pub fn bco(a: &Tensor, b: &Tensor, beta: f64, shift: f64) -> Tensor {
    -(a * beta - shift).log_sigmoid() - (-(b * beta - shift)).log_sigmoid()
}

/// `(a - 1 / (2β))² + (b + 1 / (2β))²` (Wu et al. 2024, SPPO,
/// [arXiv:2405.00675](https://arxiv.org/abs/2405.00675), equation 4.7 with the winner's
/// probability 1).
pub fn sppo_hard(a: &Tensor, b: &Tensor, beta: f64) -> Tensor {
    (a - 0.5 / beta).square() + (b + 0.5 / beta).square()
}

/// [`sigmoid`] of the differences of two samples sorted each on its own, `better₍ᵢ₎ - worse₍ᵢ₎`:
/// first-order stochastic dominance by optimal transport in one dimension (Melnyk et al. 2024,
/// AOT, [arXiv:2406.05882](https://arxiv.org/abs/2406.05882)).
///
/// For pairs, `better` is `log π(w) - log π(l)` and `worse` the same of the reference; unpaired,
/// they are the log-ratios of the chosen and of the rejected responses.
pub fn aot(better: &Tensor, worse: &Tensor, beta: f64, label_smoothing: f64) -> Tensor {
    let (better, _) = better.sort(0, false);
    let (worse, _) = worse.sort(0, false);
    sigmoid(&(better - worse), beta, label_smoothing)
}

/// `1 - σ(β a) + σ(β b)`: raises the chosen response and lowers the rejected one (D'Oosterlinck et
/// al. 2024, APO-zero, [arXiv:2408.06266](https://arxiv.org/abs/2408.06266), equation 7).
pub fn apo_zero(a: &Tensor, b: &Tensor, beta: f64) -> Tensor {
    1. - (a * beta).sigmoid() + (b * beta).sigmoid()
}

/// `σ(β a) + 1 - σ(β (a - b))`: lowers the chosen response, and the rejected one more (APO-down,
/// the same paper, equation 8).
pub fn apo_down(a: &Tensor, b: &Tensor, beta: f64) -> Tensor {
    (a * beta).sigmoid() + 1. - ((a - b) * beta).sigmoid()
}

/// `(1 - σ(β d / τ)) · -log σ(β d) + σ(β d / τ) · exp(-β d)`: the log-ratio modulated loss (Lu et
/// al. 2024, DiscoPOP, [arXiv:2406.08414](https://arxiv.org/abs/2406.08414), equation 5).
pub fn discopop(d: &Tensor, beta: f64, tau: f64) -> Tensor {
    let h = d * beta;
    let mix = (&h / tau).sigmoid();
    -h.log_sigmoid() * (1. - &mix) + (-h).exp() * mix
}

/// `-log σ(β (m_w - m_l) - γ)` with m the mean log-probability of a response's tokens, smoothed as
/// [`sigmoid`] is (Meng et al. 2024, SimPO,
/// [arXiv:2405.14734](https://arxiv.org/abs/2405.14734), equation 6). No reference.
pub fn simpo(mean_w: &Tensor, mean_l: &Tensor, beta: f64, gamma: f64, smoothing: f64) -> Tensor {
    sigmoid(&(mean_w - mean_l - gamma / beta), beta, smoothing)
}

/// `log odds(w) - log odds(l)` with `odds = p / (1 - p)` and p the geometric mean of a response's
/// token probabilities: `(m_w - m_l) - (log(1 - e^{m_w}) - log(1 - e^{m_l}))` (Hong et al. 2024,
/// ORPO, [arXiv:2403.07691](https://arxiv.org/abs/2403.07691), equation 7).
pub fn log_odds_ratio(mean_w: &Tensor, mean_l: &Tensor) -> Tensor {
    mean_w - mean_l - (log1mexp(mean_w) - log1mexp(mean_l))
}

/// `log(1 - e^x)` for x < 0, without cancellation on either side of -log 2. A probability of 1
/// (x = 0, all of a response certain) counts as the largest one below it.
fn log1mexp(x: &Tensor) -> Tensor {
    let epsilon = if x.kind() == Kind::Double { f64::EPSILON } else { f64::from(f32::EPSILON) };
    let x = x.clamp_max(-epsilon);
    let near = (-x.expm1()).log();
    let far = (-x.exp()).log1p();
    far.where_self(&x.lt(-std::f64::consts::LN_2), &near)
}
