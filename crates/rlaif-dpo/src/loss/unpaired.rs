//! Losses of single responses that are known to be desirable or not, one function per equation.
//!
//! Everything is `[N]`, one number per response; `r = log π(y|x) - log π_ref(y|x)`, and
//! `sign` is 1 for a desirable response and -1 for an undesirable one.

use tch::Tensor;

/// `1 - σ(sign · β (r - z))` with z the KL baseline (Ethayarajh et al. 2024, KTO,
/// [arXiv:2402.01306](https://arxiv.org/abs/2402.01306), equations 7 and 8, before the weights λ).
///
/// z is `max(0, mean of r over mismatched prompts and responses)`, no gradient: see
/// [`kto_baseline`].
///
/// ```
/// use tch::Tensor;
/// let (r, sign) = (Tensor::from_slice(&[0f64, 0.]), Tensor::from_slice(&[1f64, -1.]));
/// let loss = rlaif_dpo::unpaired::kto(&r, &sign, 0.1, 0.);
/// assert_eq!(Vec::<f64>::try_from(loss)?, [0.5, 0.5]);
/// # Ok::<(), tch::TchError>(())
/// ```
pub fn kto(r: &Tensor, sign: &Tensor, beta: f64, baseline: f64) -> Tensor {
    1. - ((r - baseline) * sign * beta).sigmoid()
}

/// The baseline z of [`kto`] from the log-ratios `[N]` of mismatched prompts and responses.
pub fn kto_baseline(mismatched: &[f64]) -> f64 {
    if mismatched.is_empty() {
        return 0.;
    }
    (mismatched.iter().sum::<f64>() / mismatched.len() as f64).max(0.)
}

/// `-log σ(sign · (β r - δ))` with δ the reward shift, a running mean of β r over all responses
/// (Jung et al. 2024, BCO, [arXiv:2404.04656](https://arxiv.org/abs/2404.04656)).
pub fn bco(r: &Tensor, sign: &Tensor, beta: f64, shift: f64) -> Tensor {
    -((r * beta - shift) * sign).log_sigmoid()
}

/// `1 - σ(β r)` of desirable responses and `σ(β r)` of undesirable ones, that is
/// `1 - σ(sign · β r)` (APO-zero on single responses, D'Oosterlinck et al. 2024,
/// [arXiv:2408.06266](https://arxiv.org/abs/2408.06266), equation 7).
pub fn apo_zero(r: &Tensor, sign: &Tensor, beta: f64) -> Tensor {
    1. - (r * sign * beta).sigmoid()
}
