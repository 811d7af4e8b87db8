//! The switches of a forward pass. They are arguments, not state of the model, so that the same
//! weights serve as policy, as reference and in evaluation.

use rlaif_core::Seed;
use rlaif_torch::{TorchError, seeded};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::routers::Routers;

/// Mode of dropout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dropout {
    /// No dropout: rollouts, scoring, references, evaluation, and updates unless asked for.
    #[default]
    Off,
    /// Dropout with the probabilities of the model's configuration and of its adapters.
    On,
}

impl Dropout {
    /// Runs the passes of an update. With dropout, its noise depends on `seed` and `step` alone, and
    /// libtorch's generators are afterwards as they were.
    ///
    /// ```
    /// use rlaif_core::Seed;
    /// use rlaif_lm::Dropout;
    /// use tch::{Device, Kind, Tensor};
    ///
    /// let draw = || Tensor::rand([2], (Kind::Float, Device::Cpu));
    /// let noise = |step| Dropout::On.seeded(Seed::new(1), step, draw);
    /// assert_eq!(noise(3)?, noise(3)?);
    /// assert_ne!(noise(3)?, noise(4)?);
    /// # Ok::<(), rlaif_torch::TorchError>(())
    /// ```
    ///
    /// # Errors
    /// [`TorchError`] if libtorch refuses to read or to restore a generator.
    pub fn seeded<T>(
        self,
        seed: Seed,
        step: u64,
        update: impl FnOnce() -> T,
    ) -> Result<T, TorchError> {
        match self {
            Self::Off => Ok(update()),
            Self::On => seeded(seed.for_libtorch_at("dropout", step), update),
        }
    }
}

/// The LoRA adapter that takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Adapters<'a> {
    /// The model's active adapter; without any adapter, the plain weights.
    #[default]
    Active,
    /// The plain weights: a model with adapters is its own reference this way.
    Off,
    /// The adapter of this name.
    Named(&'a str),
}

/// Activations kept of the forward pass for the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activations {
    /// Everything: fastest.
    #[default]
    Keep,
    /// The input of each block; the rest is recomputed (gradient checkpointing). Same gradients,
    /// about a third more time, a fraction of the memory.
    Recompute,
}

/// Layout of the rows of a batch. It changes time and memory, and no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// As separate rows, padded to the longest.
    #[default]
    Padded,
    /// Several one after the other in rows of about this many tokens; attention stays within each.
    /// Decoder-only policies do so in [`crate::Policy::response_hidden`], others ignore it.
    Packed(usize),
}

/// Options of a forward pass.
///
/// ```
/// use rlaif_lm::{Adapters, Forward};
/// let reference = Forward { adapters: Adapters::Off, ..Forward::default() };
/// assert_ne!(reference, Forward::default());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forward<'a> {
    /// Mode of dropout.
    pub dropout: Dropout,
    /// The adapter that takes part.
    pub adapters: Adapters<'a>,
    /// Activations kept for the backward pass.
    pub activations: Activations,
    /// Layout of the rows.
    pub layout: Layout,
    /// Collector of the choices of routers, for their auxiliary loss; models without experts ignore it.
    pub routers: Option<&'a Routers>,
}
