//! Quantities that the models compute for the tokens of responses.

use std::cell::RefCell;

use rlaif_lm::{
    Forward, Mask, Policy, PolicyLogProbs, Prompt, Reference, TokenBatch, ValueFunction, place,
    policy_log_probs,
};
use rlaif_torch::{TorchError, dist::World};
use rlaif_train::{KlEstimator, full_kl};
use tch::{Device, Tensor};

use crate::{batch::gather, error::RlError};

/// The models that compute quantities for the tokens of responses, and their settings.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// The trained policy.
    pub policy: &'a dyn Policy,
    /// Mode of the policy's forward pass: the same as in training, so that the first ratio of an
    /// update is exactly 1.
    pub forward: Forward<'a>,
    /// The value function, for algorithms that have one.
    pub critic: Option<&'a dyn ValueFunction>,
    /// The reference of the policy. Without one ([`Reference::Given`]), the KL is 0.
    pub reference: &'a Reference,
    /// Estimator of the KL at a token.
    pub estimator: KlEstimator,
    /// The sampling temperature.
    pub temperature: f64,
    /// Receives the policy's pass with its graph, if there is a single one: an update whose first pass has
    /// the same rows can use it instead of computing it again.
    pub keep: Option<&'a RefCell<Option<KeptPass>>>,
    /// The processes that compute together: each has its share of every pass, and all get all quantities.
    pub world: &'a World,
}

/// A forward pass of the policy, with its graph.
#[derive(Debug)]
pub struct KeptPass {
    /// The rows, in their order.
    pub rows: Vec<usize>,
    /// The result.
    pub found: PolicyLogProbs,
}

impl std::fmt::Debug for Asking<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asking")
            .field("policy", &self.policy.spec().model_type)
            .field("critic", &self.critic.is_some())
            .field("reference", &self.reference)
            .field("estimator", &self.estimator)
            .field("temperature", &self.temperature)
            .finish_non_exhaustive()
    }
}

/// Quantities of each token, f32 `[B, T]`; unspecified where there is no token.
#[derive(Debug)]
pub struct TokenQuantities {
    /// log π(y_t).
    pub log_probs: Tensor,
    /// log π_ref(y_t).
    pub ref_log_probs: Tensor,
    /// The estimate of the KL divergence from the reference.
    pub kl: Tensor,
    /// V(s_t), with a value function.
    pub values: Option<Tensor>,
}

impl TokenQuantities {
    /// Checks that the reference and the value function give a number for every token that counts:
    /// otherwise the optimizer would only find that no gradient is finite.
    ///
    /// # Errors
    /// [`RlError::NotFinite`] names the model and the record of the first row.
    pub fn check(&self, mask: &Mask, prompts: &[Prompt]) -> Result<(), RlError> {
        let reference = [("reference", &self.ref_log_probs)];
        let values = self.values.iter().map(|values| ("value function", values));
        for (model, numbers) in reference.into_iter().chain(values) {
            // One number waits for the device.
            let of_rows = mask.apply(numbers).isfinite().logical_not().any_dim(1, false);
            if of_rows.any().int64_value(&[]) == 0 {
                continue;
            }
            let rows =
                Vec::<bool>::try_from(of_rows.to_device(Device::Cpu)).map_err(TorchError::from)?;
            let row = rows.iter().position(|lost| *lost).unwrap_or_default();
            return Err(RlError::NotFinite { model, row: place(prompts)(row) });
        }
        Ok(())
    }
}

impl Asking<'_> {
    /// Computes the quantities in the batches of `chunks`, which together contain every row.
    ///
    /// # Errors
    /// [`RlError::Lm`] if a model refuses its input or fails.
    pub fn ask(
        &self,
        prompts: &TokenBatch,
        responses: &TokenBatch,
        chunks: &[Vec<usize>],
    ) -> Result<TokenQuantities, RlError> {
        let (temperature, world) = (self.temperature, self.world);
        let mut pieces: [Vec<Tensor>; 4] = Default::default();
        let own: Vec<Vec<usize>> = shares(chunks, world, world.rank());
        for rows in &own {
            let (x, y) = (prompts.select(rows)?, responses.select(rows)?);
            // Gradients are recorded although none is needed: without them libtorch chooses other
            // kernels, and the ratio of the first minibatch would be 1 only up to rounding.
            let (hidden, head, log_probs, values) = {
                let found = policy_log_probs(self.policy, &x, &y, self.forward, temperature)?;
                let values = match self.critic {
                    Some(critic) => Some(critic.values(&x, &y, &found.hidden)?.detach()),
                    None => None,
                };
                let (hidden, log_probs) = (found.hidden.detach(), found.log_probs.detach());
                let head = self.policy.head(self.forward)?;
                // The graph is freed before the reference's pass, unless it is used again.
                if let (Some(keep), [_], true) = (self.keep, chunks, world.is_alone()) {
                    *keep.borrow_mut() = Some(KeptPass { rows: rows.clone(), found });
                }
                (hidden, head, log_probs, values)
            };

            let _guard = tch::no_grad_guard();
            let (ref_log_probs, kl) = match self.reference.resolve(self.policy) {
                Some((reference, forward)) => {
                    let found = policy_log_probs(reference, &x, &y, forward, temperature)?;
                    let kl = match self.estimator {
                        KlEstimator::Full => {
                            full_kl(&head, &hidden, &found.head, &found.hidden, &y, temperature)?
                        }
                        estimator => estimator.estimate(&log_probs, &found.log_probs),
                    };
                    (found.log_probs, kl)
                }
                None => (log_probs.shallow_clone(), log_probs.zeros_like()),
            };
            let [a, b, c, d] = &mut pieces;
            a.push(log_probs);
            b.push(ref_log_probs);
            c.push(kl);
            d.extend(values);
        }
        let whole = |pieces: &[Tensor]| gather_ranks(pieces, (&own, chunks), responses, world);
        let [log_probs, ref_log_probs, kl, values] = &pieces;
        let values = self.critic.map(|_| whole(values)).transpose();
        Ok(TokenQuantities {
            log_probs: whole(log_probs)?,
            ref_log_probs: whole(ref_log_probs)?,
            kl: whole(kl)?,
            values: values?,
        })
    }
}

/// The rows of a rank in each pass; passes without such rows are left out.
fn shares(chunks: &[Vec<usize>], world: &World, rank: usize) -> Vec<Vec<usize>> {
    let of = |rows: &Vec<usize>| rows[world.share_of(rank, rows.len())].to_vec();
    chunks.iter().map(of).filter(|rows| !rows.is_empty()).collect()
}

/// Joins what all ranks have computed for their shares of `chunks`, in the order of the batch and at its width.
fn gather_ranks(
    pieces: &[Tensor],
    (own, chunks): (&[Vec<usize>], &[Vec<usize>]),
    responses: &TokenBatch,
    world: &World,
) -> Result<Tensor, RlError> {
    let width = responses.width();
    if world.is_alone() {
        return Ok(gather(pieces, own, width)?);
    }
    let mut numbers = Vec::new();
    for piece in pieces {
        let wide = piece.constant_pad_nd([0, width as i64 - piece.size()[1]]);
        let flat = wide.detach().to_kind(tch::Kind::Double).reshape([-1]);
        numbers.extend(Vec::<f64>::try_from(flat).map_err(TorchError::from)?);
    }
    let numbers = world.gather_numbers(numbers)?;
    let rows: Vec<usize> =
        (0..world.size()).flat_map(|rank| shares(chunks, world, rank)).flatten().collect();
    let all = Tensor::from_slice(&numbers).to_kind(tch::Kind::Float);
    let all = all.reshape([rows.len() as i64, width as i64]).to_device(responses.ids().device());
    Ok(gather(&[all], &[rows], width)?)
}
