//! Whether a run fits into memory, found out before it starts.

use std::{fmt, path::PathBuf};

use rlaif_core::Fault;
use rlaif_models::{Config, ModelError, inspect};
use tch::{Device, Kind};

/// What of a policy is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trained {
    /// Every weight; the reference is a second copy.
    All,
    /// A LoRA adapter of this rank on the attention's projections; the reference is the policy
    /// without it.
    Lora(usize),
}

/// A PPO run, as far as memory is concerned.
#[derive(Debug, Clone, PartialEq)]
pub struct PpoPlan {
    /// Folder of the policy.
    pub policy: PathBuf,
    /// Folders of the classifiers that reward.
    pub rewards: Vec<PathBuf>,
    /// What the policy's weights are kept in.
    pub kind: Kind,
    /// What is trained.
    pub trained: Trained,
    /// Responses of one forward and backward pass.
    pub microbatch: usize,
    /// Responses that are generated together.
    pub batch: usize,
    /// Tokens of the longest prompt and the longest response together.
    pub tokens: usize,
    /// Where it runs.
    pub device: Device,
}

/// What a run needs, in bytes.
///
/// Weights, gradients, optimizer state and caches are exact for the architectures built here;
/// activations are estimated from above by what a transformer block keeps for its backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryNeeded {
    /// The policy's weights, and the reference's where it is a copy.
    pub weights: u64,
    /// Gradients, both moments and, of weights below 32 bits, the master copy or what they lack to it.
    pub optimizer: u64,
    /// What the backward pass of a microbatch keeps, and one chunk of logits.
    pub activations: u64,
    /// Keys and values while a batch is generated.
    pub cache: u64,
    /// The reward models.
    pub rewards: u64,
}

impl MemoryNeeded {
    /// All of it: activations and cache are not needed at the same time.
    pub fn total(&self) -> u64 {
        self.weights + self.optimizer + self.rewards + self.activations.max(self.cache)
    }
}

impl fmt::Display for MemoryNeeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [weights, optimizer, activations, cache, rewards] =
            [self.weights, self.optimizer, self.activations, self.cache, self.rewards].map(gib);
        write!(
            f,
            "weights {weights}, gradients and optimizer {optimizer}, activations {activations}, \
             generation {cache}, rewards {rewards}"
        )
    }
}

/// Why a run cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// It would not fit.
    #[error(
        "the run needs about {}, and {device:?} has {} free ({needed}). {suggestion}",
        gib(needed.total()), gib(*free)
    )]
    TooLarge {
        /// What it needs.
        needed: Box<MemoryNeeded>,
        /// What is there.
        free: u64,
        /// Where.
        device: Device,
        /// What would help.
        suggestion: String,
    },
    /// A model's folder cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl Fault for MemoryError {
    fn is_users(&self) -> bool {
        match self {
            // The run would fit with other settings, or on another machine.
            Self::TooLarge { .. } => false,
            Self::Model(error) => error.is_users(),
        }
    }
}

/// Bytes of logits that are held at one time, see [`rlaif_lm::token_log_probs`], forward and
/// backward.
const LOGITS: u64 = 3 * (64 << 20);
/// Numbers that a block keeps per token and hidden unit: Korthikanti et al. 2022,
/// arXiv:2205.05198, equation 1, in elements rather than bytes.
const PER_UNIT: u64 = 17;

impl PpoPlan {
    /// What the run needs. Configurations and headers are read, no weight.
    ///
    /// # Errors
    /// [`ModelError`] when a folder cannot be read.
    pub fn needed(&self) -> Result<MemoryNeeded, ModelError> {
        let config = Config::read(&self.policy)?;
        let summary = inspect(&self.policy)?;
        let number = |names: &[&str]| {
            let found = names.iter().find_map(|name| config.fields().get(*name)?.as_u64());
            found.unwrap_or(0)
        };
        let count = summary.parameters as u64;
        let width = size(self.kind);
        let hidden = number(&["hidden_size", "d_model"]);
        let layers = number(&["num_hidden_layers", "num_layers"]).max(1);
        let decoder = if config.text("model_type") == Some("t5") {
            number(&["num_decoder_layers", "num_layers"])
        } else {
            0
        };
        let blocks = layers + decoder;
        let heads = number(&["num_attention_heads", "num_heads"]).max(1);
        let kv_heads = number(&["num_key_value_heads", "num_attention_heads", "num_heads"]).max(1);
        let head_dim =
            number(&["head_dim", "d_kv"]).max(1).max(if decoder == 0 { hidden / heads } else { 0 });

        let (trained, copies) = match self.trained {
            Trained::All => (count, 2),
            // Four projections of a block, two factors each.
            Trained::Lora(rank) => (blocks * 8 * hidden * rank as u64, 1),
        };
        // What weights in low precision lack to f32, as `rlaif_torch::AdamW` keeps it.
        let master = match (self.kind, self.device) {
            (Kind::BFloat16, Device::Cpu) => 2,
            _ if width < 4 => 4,
            _ => 0,
        };
        let tokens = self.tokens as u64;
        let microbatch = self.microbatch as u64;
        // Attention of our own keeps no scores.
        let own = rlaif_torch::attends_rows(self.kind, self.device, head_dim.cast_signed());
        let scores = if own { 0 } else { heads * tokens.min(4096) * 2 };
        let per_token = blocks * (PER_UNIT * hidden + scores);
        let mut rewards = 0;
        for folder in &self.rewards {
            let summary = inspect(folder)?;
            rewards += summary.parameters as u64 * 4;
        }
        Ok(MemoryNeeded {
            weights: copies * count * width,
            optimizer: trained * (width + 8 + master),
            activations: microbatch * tokens * per_token * width + LOGITS,
            cache: self.batch as u64 * tokens * blocks * 2 * kv_heads * head_dim * width,
            rewards,
        })
    }

    /// Compares what the run needs with what its device has free.
    ///
    /// # Errors
    /// [`MemoryError::TooLarge`] with what would help: of a smaller batch, bf16 and LoRA the first
    /// that fits, or all three. Where nobody tells what is free (the CPU on systems other than
    /// Linux), nothing is refused.
    ///
    /// ```
    /// use rlaif::memory::{PpoPlan, Trained};
    /// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/flan");
    /// let plan = PpoPlan {
    ///     policy: folder.into(),
    ///     rewards: Vec::new(),
    ///     kind: tch::Kind::Float,
    ///     trained: Trained::All,
    ///     microbatch: 4,
    ///     batch: 16,
    ///     tokens: 640,
    ///     device: tch::Device::Cpu,
    /// };
    /// assert!(plan.check()?.total() < 1 << 30);
    /// # Ok::<(), rlaif::memory::MemoryError>(())
    /// ```
    pub fn check(&self) -> Result<MemoryNeeded, MemoryError> {
        match free(self.device) {
            Some(free) => self.check_against(free),
            None => Ok(self.needed()?),
        }
    }

    /// The same with the batch halved, and its microbatches with it, until it fits, and what it needs
    /// then; `None` if a batch of one does not.
    fn halved_to_fit(&self, free: u64) -> Result<Option<(Self, u64)>, ModelError> {
        let mut plan = self.clone();
        loop {
            let total = plan.needed()?.total();
            if total <= free {
                return Ok(Some((plan, total)));
            }
            if plan.batch <= 1 && plan.microbatch <= 1 {
                return Ok(None);
            }
            plan.batch = (plan.batch / 2).max(1);
            plan.microbatch = (plan.microbatch / 2).max(1);
        }
    }

    fn check_against(&self, free: u64) -> Result<MemoryNeeded, MemoryError> {
        let needed = self.needed()?;
        if needed.total() <= free {
            return Ok(needed);
        }
        let lora = Self { trained: Trained::Lora(16), ..self.clone() };
        let narrow = Self { kind: Kind::BFloat16, ..self.clone() };
        let both = Self { kind: Kind::BFloat16, ..lora.clone() };
        let mut suggestion = None;
        for (plan, what) in [
            (self.clone(), None),
            (narrow, Some("bf16")),
            (lora, Some("LoRA")),
            (both, Some("LoRA in bf16")),
        ] {
            let Some((plan, total)) = plan.halved_to_fit(free)? else { continue };
            let batch = (plan.batch < self.batch).then(|| {
                format!("a batch of {} in microbatches of {}", plan.batch, plan.microbatch)
            });
            let with = [what.map(str::to_owned), batch].into_iter().flatten().collect::<Vec<_>>();
            suggestion =
                Some(format!("It would fit with {}: about {}.", with.join(" and "), gib(total)));
            break;
        }
        Err(MemoryError::TooLarge {
            needed: Box::new(needed),
            free,
            device: self.device,
            suggestion: suggestion.unwrap_or_else(|| {
                "Neither LoRA in bf16 nor the smallest batch would make it fit: take a smaller model \
                 or a larger device."
                    .to_owned()
            }),
        })
    }
}

/// Bytes that are free on a device, where that is told.
fn free(device: Device) -> Option<u64> {
    match device {
        Device::Cpu => rlaif_torch::host_memory_available(),
        Device::Cuda(index) => rlaif_torch::cuda_memory_free(index).ok(),
        _ => None,
    }
}

fn size(kind: Kind) -> u64 {
    match kind {
        Kind::BFloat16 | Kind::Half => 2,
        _ => 4,
    }
}

fn gib(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1 << 30);
    if gib < 1. { format!("{:.0} MiB", gib * 1024.) } else { format!("{gib:.1} GiB") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> PpoPlan {
        let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models");
        PpoPlan {
            policy: format!("{models}/llama3").into(),
            rewards: vec![format!("{models}/roberta").into()],
            kind: Kind::Float,
            trained: Trained::All,
            microbatch: 4,
            batch: 16,
            tokens: 500,
            device: Device::Cpu,
        }
    }

    #[test]
    fn weights_and_optimizer_are_counted_exactly() {
        let parameters = inspect(&plan().policy).unwrap().parameters as u64;
        let needed = plan().needed().unwrap();
        assert_eq!(needed.weights, 2 * parameters * 4);
        // A gradient and two moments.
        assert_eq!(needed.optimizer, 3 * parameters * 4);
        let narrow = PpoPlan { kind: Kind::BFloat16, ..plan() }.needed().unwrap();
        assert_eq!(narrow.weights, 2 * parameters * 2);
        // A gradient in bf16, two moments in f32, and the 16 bits that the weights lack to f32.
        assert_eq!(narrow.optimizer, parameters * (2 + 8 + 2));
        let cuda = PpoPlan { kind: Kind::BFloat16, device: Device::Cuda(0), ..plan() };
        // There it is a master copy in f32.
        assert_eq!(cuda.needed().unwrap().optimizer, parameters * (2 + 8 + 4));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let needed = plan().needed().unwrap().total();
        assert!(plan().check_against(needed).is_ok());
        let error = plan().check_against(needed - 1).unwrap_err().to_string();
        assert!(error.contains("would fit with a batch of 8 in microbatches of 2"), "{error}");
        let error = plan().check_against(1).unwrap_err().to_string();
        assert!(error.contains("smaller model"), "{error}");
    }
}
