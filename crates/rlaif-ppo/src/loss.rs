//! The loss of the value function, per token, `[B, T]`: the caller takes the mean over the unmasked
//! tokens.

use tch::Tensor;

/// The value function's loss, `[B, T]` each.
#[derive(Debug)]
pub struct ValueLoss {
    /// The loss to minimise.
    pub loss: Tensor,
    /// 1 where the clipped branch is the larger one, else 0.
    pub clipped: Tensor,
}

/// The squared error of the values, clipped so that values gain nothing by leaving `old ± ε`
/// (OpenAI baselines' `ppo2`; TRL 0.11.4's `PPOTrainer.loss`):
///
/// ```text
/// V'_t = clip(V_t, V_old,t − ε, V_old,t + ε)
/// L_t = ½ max((V_t − R_t)², (V'_t − R_t)²)
/// ```
///
/// Without `clip` it is `½ (V_t − R_t)²`.
///
/// ```
/// use tch::Tensor;
/// let [v, old, returns] = [1f64, 0., 1.].map(|x| Tensor::from_slice(&[x]));
/// let found = rlaif_ppo::value_loss(&v, &old, &returns, Some(0.2));
/// assert!((found.loss.double_value(&[0]) - 0.32).abs() < 1e-12);
/// ```
pub fn value_loss(
    values: &Tensor,
    old_values: &Tensor,
    returns: &Tensor,
    clip: Option<f64>,
) -> ValueLoss {
    let plain = (values - returns).square();
    let Some(clip) = clip else {
        return ValueLoss { clipped: plain.zeros_like().detach(), loss: plain * 0.5 };
    };
    let near = values.maximum(&(old_values - clip)).minimum(&(old_values + clip));
    let clamped = (near - returns).square();
    let clipped = clamped.gt_tensor(&plain).to_kind(plain.kind());
    ValueLoss { loss: plain.maximum(&clamped) * 0.5, clipped }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rlaif_testing::close_to_scale;
    use tch::Kind;

    use super::*;

    fn token() -> impl Strategy<Value = (f64, f64, f64)> {
        (-6f64..0., -1.5f64..1.5, -3f64..3.)
    }

    proptest! {
        #[test]
        fn the_value_loss_equals_its_definition_in_f64(
            tokens in prop::collection::vec(token(), 1..20), clip in 0.05f64..0.5,
        ) {
            let column = |f: fn(&(f64, f64, f64)) -> f64| {
                Tensor::from_slice(&tokens.iter().map(f).collect::<Vec<_>>())
            };
            let (old, new, returns) = (column(|t| t.0), column(|t| t.0 + t.1), column(|t| t.2));
            let want = |clip: Option<f64>| -> Vec<f64> {
                tokens
                    .iter()
                    .map(|&(old, move_, r)| {
                        let v = old + move_;
                        let near = clip.map_or(v, |c| v.clamp(old - c, old + c));
                        0.5 * (v - r).powi(2).max((near - r).powi(2))
                    })
                    .collect()
            };
            for clip in [None, Some(clip)] {
                close_to_scale(&value_loss(&new, &old, &returns, clip).loss, &want(clip), 1e-9);
            }
        }
    }

    #[test]
    fn a_clipped_value_has_no_gradient_away_from_its_return_bound() {
        // Value 1 came from 0 and should be 1: outside the clip range, it must not be pushed
        // further.
        let v = Tensor::from_slice(&[1f64]).set_requires_grad(true);
        let [old, returns] = [0f64, 2.].map(|x| Tensor::from_slice(&[x]));
        value_loss(&v, &old, &returns, Some(0.2)).loss.sum(Kind::Double).backward();
        assert_eq!(v.grad().double_value(&[0]), 0.);
    }
}
