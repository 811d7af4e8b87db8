//! Exactness of a model on this machine: the same numbers in every batch, layout and run.

mod check;
mod classifier;
mod peer;
mod policy;
mod training;

use std::{num::NonZeroU32, path::PathBuf};

use rlaif_core::Seed;
use rlaif_lm::{LmSpec, Policy, SequenceClassifier};
use rlaif_models::ModelSort;
use rlaif_torch::{Determinism, intra_op_threads, isa, seeded, set_determinism};
use tch::Device;

pub use check::{Check, Verified};

use super::{error::CommandError, model::ModelChoice};
use check::{at_least, dtype};
use peer::Peer;

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
    /// Checks the model, and passes each result to `told` as soon as it is known. A check that does
    /// not hold is a result, and no error.
    ///
    /// On a GPU, algorithms are deterministic from this call on.
    ///
    /// # Errors
    /// [`CommandError`] for settings out of range, a model that cannot be loaded, or a Python
    /// without transformers.
    pub fn run(
        &self,
        model: &ModelChoice,
        told: &mut dyn FnMut(&Check),
    ) -> Result<Verified, CommandError> {
        let least = [
            ("rows", self.rows, 2),
            ("prompt_len", self.prompt_len, 2),
            ("new_tokens", self.new_tokens, 1),
        ];
        if let Some(bad) =
            least.iter().find_map(|(name, found, least)| at_least(name, *found, *least))
        {
            return Err(CommandError::Setting(bad));
        }
        let options = model.loading.options()?;
        if options.device != Device::Cpu {
            set_determinism(Determinism::Require)?;
        }
        let files = model.files()?;
        let peer = self.python.as_deref().map(|python| Peer { python, files: &files });
        let mut checks = Vec::new();
        let mut tell = |check: Check| {
            told(&check);
            checks.push(check);
        };
        let spec = match files.sort(options)? {
            ModelSort::Classifier => {
                let classifier = model.classifier(&files)?;
                let spec = classifier.spec().clone();
                let rows = self.ids(&spec, 0)?;
                classifier::checks(&classifier, &rows, peer.as_ref(), &mut tell)?;
                spec
            }
            ModelSort::LanguageModel => {
                let policy = model.language_model(&files)?;
                let spec = policy.spec().clone();
                let prompts = self.ids(&spec, self.new_tokens)?;
                let seed = Seed::new(self.seed);
                policy::checks(&policy, &prompts, self.new_tokens, seed, peer.as_ref(), &mut tell)?;
                // Training loads its own copy.
                drop(policy);
                training::checks(self, &files, options, &mut tell)?;
                spec
            }
        };
        Ok(Verified {
            model: model.model.clone(),
            model_type: spec.model_type,
            device: match spec.device {
                Device::Cuda(index) => format!("cuda:{index}"),
                _ => "cpu".to_owned(),
            },
            dtype: dtype(spec.kind),
            threads: intra_op_threads(),
            isa: isa()?.name(),
            checks,
        })
    }

    /// Rows of random ids with different lengths, so that batches are padded.
    fn ids(&self, spec: &LmSpec, response: usize) -> Result<Vec<Vec<u32>>, CommandError> {
        let room = spec.context.map_or(usize::MAX, |context| context.saturating_sub(response));
        let longest = self.prompt_len.min(room);
        if longest < 2 {
            let expected = "fewer tokens than the model's context has";
            return Err(CommandError::setting("new_tokens", response, expected));
        }
        let lengths = (0..self.rows).map(|row| 1 + (longest - 1) * (row + 1) / self.rows);
        let draw = || lengths.map(|n| super::bench::random_ids(n, spec.vocab_size)).collect();
        Ok(seeded(Seed::new(self.seed).for_libtorch("ids"), draw)?)
    }
}
