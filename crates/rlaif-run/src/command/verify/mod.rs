//! Exactness of a model on this machine: the same numbers in every batch, layout and run.

mod check;
mod classifier;
mod peer;
mod policy;
mod settings;
mod training;

use rlaif_core::Seed;
use rlaif_lm::{Policy, SequenceClassifier};
use rlaif_models::ModelSort;
use rlaif_torch::{Determinism, intra_op_threads, isa, set_determinism};
use tch::Device;

pub use check::{Check, Verified};
pub use settings::{Trained, Verification};

use super::{error::CommandError, model::ModelChoice};
use check::{at_least, dtype};
use peer::Peer;

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
}
