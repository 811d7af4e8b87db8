//! The inputs of losses: sums of log-probabilities, and numbers of the whole batch.

use rlaif_torch::{TorchError, dist::World};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// Inputs of the losses of a batch of pairs. All tensors are `[B]`, of the same dtype.
#[derive(Debug)]
pub struct PairSums {
    /// Σ_t log π(y_t | x, y_<t) of the chosen responses.
    pub chosen: Tensor,
    /// Σ_t log π(y_t | x, y_<t) of the rejected responses.
    pub rejected: Tensor,
    /// The reference's sums for the chosen responses; zeros without a reference.
    pub reference_chosen: Tensor,
    /// The reference's sums for the rejected responses; zeros without a reference.
    pub reference_rejected: Tensor,
    /// Number of tokens of the chosen responses.
    pub chosen_lengths: Tensor,
    /// Number of tokens of the rejected responses.
    pub rejected_lengths: Tensor,
    /// The margin of each pair; NaN if the data do not state it. Needed by
    /// [`PairLoss::SoftSigmoid`](crate::PairLoss::SoftSigmoid) only.
    pub margins: Tensor,
    /// The weights of [`Weighting`](crate::Weighting); `None` for equal weights.
    pub weights: Option<Tensor>,
}

impl PairSums {
    /// Concatenates the parts of a batch.
    pub(crate) fn concatenate<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let parts: Vec<&Self> = parts.into_iter().collect();
        let join = |of: fn(&Self) -> &Tensor| {
            Tensor::cat(&parts.iter().map(|part| of(part)).collect::<Vec<_>>(), 0)
        };
        let weights: Option<Vec<&Tensor>> =
            parts.iter().map(|part| part.weights.as_ref()).collect();
        Self {
            chosen: join(|x| &x.chosen),
            rejected: join(|x| &x.rejected),
            reference_chosen: join(|x| &x.reference_chosen),
            reference_rejected: join(|x| &x.reference_rejected),
            chosen_lengths: join(|x| &x.chosen_lengths),
            rejected_lengths: join(|x| &x.rejected_lengths),
            margins: join(|x| &x.margins),
            weights: weights.map(|weights| Tensor::cat(&weights, 0)),
        }
    }

    /// The numbers of all ranks, one rank after another, from the parts of this one, which may be none. `weighted`
    /// pairs have weights.
    pub(crate) fn gathered<'a>(
        parts: impl IntoIterator<Item = &'a Self>,
        (device, weighted): (Device, bool),
        world: &World,
    ) -> Result<Self, TorchError> {
        let parts: Vec<&Self> = parts.into_iter().collect();
        if world.is_alone() {
            return Ok(Self::concatenate(parts));
        }
        let column = |of: fn(&Self) -> Option<&Tensor>| -> Result<Tensor, TorchError> {
            let mut own = Vec::new();
            for part in parts.iter().filter_map(|part| of(part)) {
                own.extend(Vec::<f64>::try_from(part.detach().to_kind(Kind::Double))?);
            }
            let all = world.gather_numbers(own)?;
            Ok(Tensor::from_slice(&all).to_kind(Kind::Float).to_device(device))
        };
        Ok(Self {
            chosen: column(|x| Some(&x.chosen))?,
            rejected: column(|x| Some(&x.rejected))?,
            reference_chosen: column(|x| Some(&x.reference_chosen))?,
            reference_rejected: column(|x| Some(&x.reference_rejected))?,
            chosen_lengths: column(|x| Some(&x.chosen_lengths))?,
            rejected_lengths: column(|x| Some(&x.rejected_lengths))?,
            margins: column(|x| Some(&x.margins))?,
            weights: if weighted { Some(column(|x| x.weights.as_ref())?) } else { None },
        })
    }

    /// The same numbers, detached from the graph.
    pub(crate) fn detached(&self) -> Self {
        Self {
            chosen: self.chosen.detach(),
            rejected: self.rejected.detach(),
            reference_chosen: self.reference_chosen.shallow_clone(),
            reference_rejected: self.reference_rejected.shallow_clone(),
            chosen_lengths: self.chosen_lengths.shallow_clone(),
            rejected_lengths: self.rejected_lengths.shallow_clone(),
            margins: self.margins.shallow_clone(),
            weights: self.weights.as_ref().map(Tensor::shallow_clone),
        }
    }
}

/// Numbers of the whole optimizer batch that a loss needs besides its own pairs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchScale {
    /// Number of pairs in the optimizer batch.
    pub pairs: f64,
    /// Number of tokens of the chosen responses in the optimizer batch.
    pub chosen_tokens: f64,
    /// δ of BCO.
    pub reward_shift: f64,
}

/// Inputs of the losses of single responses. All tensors are `[N]`, of the same dtype.
#[derive(Debug)]
pub struct ResponseSums {
    /// Σ_t log π(y_t | x, y_<t).
    pub policy: Tensor,
    /// The reference's sums.
    pub reference: Tensor,
    /// 1 for a desirable response, -1 for an undesirable one.
    pub signs: Tensor,
}

/// The running mean that is BCO's δ: the mean over batches of their mean implicit rewards, each
/// batch counted once, as in TRL.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct RunningMean {
    /// The mean so far; 0 before the first batch.
    pub mean: f64,
    /// Batches so far.
    pub count: u64,
}

impl RunningMean {
    /// Adds the value of a batch.
    pub fn update(&mut self, value: f64) {
        self.count += 1;
        self.mean += (value - self.mean) / self.count as f64;
    }
}
