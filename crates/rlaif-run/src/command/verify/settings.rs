//! Settings of the checks, and the rows that they use.

use std::{num::NonZeroU32, path::PathBuf};

use rlaif_core::Seed;
use rlaif_lm::LmSpec;
use rlaif_torch::seeded;

use crate::command::{bench::random_ids, error::CommandError};

/// The weights that the checks of training train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trained {
    /// None: the checks of training are left out.
    Nothing,
    /// LoRA adapters of this rank on every linear layer. A model that is an adapter trains this
    /// adapter instead.
    Lora(NonZeroU32),
    /// All weights, which takes the memory of a full fine-tuning.
    All,
}

/// The checks of `rlaif verify`.
///
/// ```no_run
/// use rlaif_run::command::{ModelChoice, Verification};
///
/// let model = ModelChoice::new("google/flan-t5-small");
/// let verified = Verification::default().run(&model, &mut |check| println!("{}", check.to_text()))?;
/// assert!(verified.failed().is_empty());
/// # Ok::<(), rlaif_run::command::CommandError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Verification {
    /// Rows of random ids.
    pub rows: usize,
    /// Tokens of the longest prompt.
    pub prompt_len: usize,
    /// Tokens per response.
    pub new_tokens: usize,
    /// Seed of ids, draws and new weights.
    pub seed: u64,
    /// The weights that the checks of training train.
    pub trained: Trained,
    /// A Python interpreter with transformers, to compare with.
    pub python: Option<PathBuf>,
}

impl Default for Verification {
    /// 6 rows of up to 48 tokens with 16 new ones; LoRA of rank 8; no comparison with transformers.
    fn default() -> Self {
        Self {
            rows: 6,
            prompt_len: 48,
            new_tokens: 16,
            seed: 1,
            trained: NonZeroU32::new(8).map_or(Trained::Nothing, Trained::Lora),
            python: None,
        }
    }
}

impl Verification {
    /// Rows of random ids with different lengths, so that batches are padded.
    pub(super) fn ids(
        &self,
        spec: &LmSpec,
        response: usize,
    ) -> Result<Vec<Vec<u32>>, CommandError> {
        let room = spec.context.map_or(usize::MAX, |context| spec.remaining(context, response));
        let longest = self.prompt_len.min(room);
        if longest < 2 {
            let expected = "fewer tokens than the model's context has";
            return Err(CommandError::setting("new_tokens", response, expected));
        }
        let lengths = (0..self.rows).map(|row| 1 + (longest - 1) * (row + 1) / self.rows);
        let draw = || lengths.map(|n| random_ids(n, spec.vocab_size)).collect();
        Ok(seeded(Seed::new(self.seed).for_libtorch("ids"), draw)?)
    }
}
