//! Estimates the memory of a run from config.json and the headers of its weights, before it starts.

mod held;
mod needed;
mod sizes;

use std::path::PathBuf;

use rlaif_lm::Activations;
use rlaif_torch::Quantization;
use tch::{Device, Kind};

pub use held::{AnswerBatch, HeldModel, HeldModels};
pub use needed::{GenerationTime, MemoryError, MemoryNeeded};

use held::{bytes, caches_of};
use sizes::{
    ADAPTER_WIDTH, adapter_weights, cached_per_token, dimensions, gib, parameters, size, unsigned,
};

use crate::{config::Config, error::ModelError, family::Families};

/// The trained weights of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrainedWeights {
    /// Every weight.
    All,
    /// A new LoRA adapter of this rank on the projections of attention; the reference is the model
    /// without the adapter.
    Lora(usize),
    /// The adapter in this folder, which is trained further.
    Adapter(PathBuf),
}

/// The copy of the trained weights, as they were at the start, that is in memory as the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReferenceCopy {
    /// None: there is no reference, or it is another model, or the model without its new adapter.
    #[default]
    None,
    /// A copy of all trained weights.
    Trained,
}

/// The memory-relevant settings of a training run.
///
/// ```
/// use rlaif_models::{MemoryPlan, ReferenceCopy, TrainedWeights};
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/flan");
/// let plan = MemoryPlan {
///     reference: ReferenceCopy::Trained,
///     microbatch_size: 4,
///     batch_size: 16,
///     tokens: 640,
///     ..MemoryPlan::new(folder, tch::Kind::Float, tch::Device::Cpu)
/// };
/// assert!(plan.check()?.total() < 1 << 30);
/// let lora = MemoryPlan { trained: TrainedWeights::Lora(16), ..plan.clone() };
/// assert!(lora.needed()?.total() < plan.needed()?.total());
/// # Ok::<(), rlaif_models::MemoryError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryPlan {
    /// Folder of the trained model.
    pub model: PathBuf,
    /// The known families.
    pub families: Families,
    /// The dtype of the weights.
    pub kind: Kind,
    /// The format of the trunk's linear layers, of the policy and of separate references; `None` for that of
    /// the checkpoint.
    pub quantization: Option<Quantization>,
    /// The device of the run.
    pub device: Device,
    /// The trained weights.
    pub trained: TrainedWeights,
    /// The copy of the trained weights that is the reference.
    pub reference: ReferenceCopy,
    /// The time of generation.
    pub generation: GenerationTime,
    /// Folder of a value function with its own trunk, which is trained. A head to the vocabulary in the folder is counted as well,
    /// although it is not, so the sum is an upper bound.
    pub value: Option<PathBuf>,
    /// Folders of separate reference models.
    pub frozen: Vec<PathBuf>,
    /// Reward models and judges on the run's device.
    pub rewards: Vec<HeldModel>,
    /// Sequences per forward and backward pass.
    pub microbatch_size: usize,
    /// The activations kept for the backward pass.
    pub activations: Activations,
    /// Responses generated together; 0 without generation.
    pub batch_size: usize,
    /// Length of the longest sequence, prompt and response together, in tokens.
    pub tokens: usize,
}

/// Bytes of a gradient and of both Adam moments of a weight in f32.
const ADAM_F32: u64 = 12;
/// Bytes of logits in memory at a time, forward and backward, see [`rlaif_lm::token_log_probs`].
const LOGITS: u64 = 3 * (64 << 20);
/// Number of elements that a block keeps per token and hidden unit: Korthikanti et al. 2022,
/// arXiv:2205.05198, equation 1, in elements rather than bytes.
const PER_UNIT: u64 = 17;

impl MemoryPlan {
    /// A run that trains all weights of a model on one token at a time, and keeps nothing else in
    /// memory: the lower bound for any run.
    pub fn new(model: impl Into<PathBuf>, kind: Kind, device: Device) -> Self {
        Self {
            model: model.into(),
            families: Families::BUILT_IN,
            kind,
            quantization: None,
            device,
            trained: TrainedWeights::All,
            reference: ReferenceCopy::None,
            generation: GenerationTime::Alone,
            value: None,
            frozen: Vec::new(),
            rewards: Vec::new(),
            microbatch_size: 1,
            activations: Activations::Keep,
            batch_size: 0,
            tokens: 1,
        }
    }

    /// Computes the memory that the run needs, from configurations and headers, without reading
    /// weights.
    ///
    /// # Errors
    /// [`ModelError`] when a folder cannot be read.
    pub fn needed(&self) -> Result<MemoryNeeded, ModelError> {
        let config = Config::read(&self.model)?;
        let width = size(self.kind);
        let model = parameters(self.families, &self.model, self.quantization)?;
        let count = model.count;
        let shape = dimensions(self.families, &config)?;
        let (hidden, heads) = (unsigned(shape.hidden), unsigned(shape.heads));
        let blocks = shape.blocks as u64;

        let sampling = match self.generation {
            GenerationTime::Alone => 0,
            GenerationTime::BesideUpdates => 1,
        };
        let copies = sampling
            + match self.reference {
                ReferenceCopy::None => 1,
                ReferenceCopy::Trained => 2,
            };
        let (mut trained, adapter, mut weights) = match &self.trained {
            TrainedWeights::All => (count, 0, copies * model.bytes(width)),
            // Four projections per block, two factors each.
            TrainedWeights::Lora(rank) => {
                let adapter = blocks * 8 * hidden * *rank as u64;
                (0, adapter, model.bytes(width) + (1 + sampling) * adapter * ADAPTER_WIDTH)
            }
            TrainedWeights::Adapter(folder) => {
                let adapter = adapter_weights(folder)?;
                (0, adapter, model.bytes(width) + copies * adapter * ADAPTER_WIDTH)
            }
        };
        // Quantized weights are not shared.
        if self.quantization.is_some() {
            weights += sampling * model.bytes(width);
        }
        if let Some(value) = &self.value {
            let value = parameters(self.families, value, None)?;
            (weights, trained) = (weights + value.bytes(width), trained + value.count);
        }
        for folder in &self.frozen {
            weights += parameters(self.families, folder, self.quantization)?.bytes(width);
        }
        // The missing bits of weights in low precision, as `rlaif_torch::AdamW` keeps them.
        let master = match (self.kind, self.device) {
            (Kind::BFloat16, Device::Cpu) => 2,
            _ if width < 4 => 4,
            _ => 0,
        };
        let tokens = self.tokens as u64;
        let microbatch = self.microbatch_size as u64;
        // rlaif's own attention keeps no scores.
        let own = rlaif_torch::attends_rows(self.kind, self.device, shape.head_dim);
        let scores = if own { 0 } else { heads * tokens.min(4096) * 2 };
        let in_block = PER_UNIT * hidden + scores;
        let per_token = match self.activations {
            Activations::Keep => blocks * in_block,
            // The input of each block, and all activations of the block being recomputed.
            Activations::Recompute => blocks * hidden + in_block,
        };
        Ok(MemoryNeeded {
            weights,
            optimizer: trained * (width + 8 + master) + adapter * ADAM_F32,
            activations: microbatch * tokens * per_token * width + LOGITS,
            cache: self.batch_size as u64 * tokens * cached_per_token(&shape) * width,
            rewards: bytes(&self.rewards, self.families)?,
            judging: caches_of(&self.rewards, self.families)?,
            generation: self.generation,
        })
    }

    /// Compares the memory that the run needs with the free memory of its device.
    ///
    /// # Errors
    /// [`MemoryError::TooLarge`] with the first change among a smaller batch, bf16 and LoRA that
    /// would make the run fit, or with all three. If the free memory is unknown (the CPU on systems
    /// other than Linux), nothing is refused.
    pub fn check(&self) -> Result<MemoryNeeded, MemoryError> {
        match rlaif_torch::free_memory(self.device) {
            Some(free) => self.check_within(free),
            None => Ok(self.needed()?),
        }
    }

    /// The plan with the batch, and its microbatches, halved until it fits, and the memory it then
    /// needs; `None` if even a batch of one does not fit.
    fn halved_to_fit(&self, free: u64) -> Result<Option<(Self, u64)>, ModelError> {
        let mut plan = self.clone();
        loop {
            let total = plan.needed()?.total();
            if total <= free {
                return Ok(Some((plan, total)));
            }
            if plan.batch_size <= 1 && plan.microbatch_size <= 1 {
                return Ok(None);
            }
            // A run without generation has no batch to halve.
            plan.batch_size = (plan.batch_size / 2).max(plan.batch_size.min(1));
            plan.microbatch_size = (plan.microbatch_size / 2).max(1);
        }
    }

    /// Compares the memory that the run needs with this number of bytes.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn check_within(&self, free: u64) -> Result<MemoryNeeded, MemoryError> {
        let needed = self.needed()?;
        if needed.total() <= free {
            return Ok(needed);
        }
        let lora = Self { trained: TrainedWeights::Lora(16), ..self.clone() };
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
            let batch = (plan.batch_size < self.batch_size
                || plan.microbatch_size < self.microbatch_size)
                .then(|| {
                    let microbatches = format!("microbatches of {}", plan.microbatch_size);
                    match self.batch_size {
                        0 => microbatches,
                        _ => format!("a batch of {} in {microbatches}", plan.batch_size),
                    }
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::inspect::{inspect, summary};

    fn plan() -> MemoryPlan {
        let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models");
        MemoryPlan {
            reference: ReferenceCopy::Trained,
            rewards: vec![HeldModel::new(format!("{models}/roberta"))],
            microbatch_size: 4,
            batch_size: 16,
            tokens: 500,
            ..MemoryPlan::new(format!("{models}/llama3"), Kind::Float, Device::Cpu)
        }
    }

    #[test]
    fn weights_and_optimizer_are_counted_exactly() {
        let parameters = inspect(&plan().model).unwrap().parameters as u64;
        let needed = plan().needed().unwrap();
        assert_eq!(needed.weights, 2 * parameters * 4);
        // A gradient and two moments.
        assert_eq!(needed.optimizer, 3 * parameters * 4);
        let narrow = MemoryPlan { kind: Kind::BFloat16, ..plan() }.needed().unwrap();
        assert_eq!(narrow.weights, 2 * parameters * 2);
        // A gradient in bf16, two moments in f32, and the 16 bits that the weights lack compared
        // with f32.
        assert_eq!(narrow.optimizer, parameters * (2 + 8 + 2));
        let cuda = MemoryPlan { kind: Kind::BFloat16, device: Device::Cuda(0), ..plan() };
        // On CUDA, a master copy in f32.
        assert_eq!(cuda.needed().unwrap().optimizer, parameters * (2 + 8 + 4));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let needed = plan().needed().unwrap().total();
        assert!(plan().check_within(needed).is_ok());
        let error = plan().check_within(needed - 1).unwrap_err().to_string();
        assert!(error.contains("would fit with a batch of 8 in microbatches of 2"), "{error}");
        let error = plan().check_within(1).unwrap_err().to_string();
        assert!(error.contains("smaller model"), "{error}");
    }

    #[test]
    fn rewards_are_counted_in_their_dtype() {
        let parameters = inspect(&plan().rewards[0].folder).unwrap().parameters as u64;
        assert_eq!(plan().needed().unwrap().rewards, 4 * parameters);
        let rewards = plan().rewards.into_iter().map(|reward| reward.in_kind(Kind::Half)).collect();
        let narrow = MemoryPlan { rewards, ..plan() };
        assert_eq!(narrow.needed().unwrap().rewards, 2 * parameters);
        let held = HeldModels { rewards: plan().rewards, ..HeldModels::on(Device::Cpu) };
        assert!(held.check_within(4 * parameters).is_ok());
        let error = held.check_within(4 * parameters - 1).unwrap_err().to_string();
        assert!(error.contains("would fit in bf16") && !error.contains("generation"), "{error}");
    }

    #[test]
    fn a_judge_in_4_bits_is_counted_as_one() {
        let judge = HeldModel::new(plan().model).in_kind(Kind::BFloat16);
        let bytes = |model: &HeldModel| model.bytes(Families::BUILT_IN).unwrap();
        let narrow = HeldModel { quantization: Some(Quantization::Nf4), ..judge.clone() };
        let summary = summary(Families::BUILT_IN, &judge.folder, narrow.quantization).unwrap();
        assert_eq!(bytes(&narrow), summary.bytes(2));
        assert!(bytes(&narrow) < bytes(&judge));
    }

    #[test]
    fn adapters_and_answers_are_counted() {
        let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models");
        let adapter = PathBuf::from(format!("{models}/../adapters/dora-llama3"));
        // A length, a header of JSON, and then f32 only.
        let file = std::fs::read(adapter.join("adapter_model.safetensors")).unwrap();
        let header = u64::from_le_bytes(file[..8].try_into().unwrap());
        let count = (file.len() as u64 - 8 - header) / 4;
        let plain = MemoryPlan { reference: ReferenceCopy::None, ..plan() };
        let base = plain.needed().unwrap();
        let trained = TrainedWeights::Adapter(adapter.clone());
        let further = MemoryPlan { trained, ..plain.clone() };
        // In f32, as a gradient and two moments are; the reference is the adapter at the start.
        assert_eq!(further.needed().unwrap().weights, base.weights + 4 * count);
        assert_eq!(further.needed().unwrap().optimizer, 12 * count);
        let copied = MemoryPlan { reference: ReferenceCopy::Trained, ..further };
        assert_eq!(copied.needed().unwrap().weights, base.weights + 8 * count);
        let generation = GenerationTime::BesideUpdates;
        let beside = MemoryPlan { generation, batch_size: 2, ..copied }.needed().unwrap();
        assert_eq!(beside.weights, base.weights + 12 * count);
        let answering = beside.cache.max(beside.judging);
        let held = beside.weights + beside.optimizer + beside.rewards;
        assert!(answering > 0 && beside.total() == held + beside.activations + answering);

        let judge = HeldModel::new(plain.model).in_kind(Kind::BFloat16);
        let with = HeldModel { adapter: Some(adapter), ..judge.clone() };
        let bytes = |model: &HeldModel| model.bytes(Families::BUILT_IN).unwrap();
        assert_eq!(bytes(&with), bytes(&judge) + 4 * count);
        let answers = Some(AnswerBatch { rows: 3, tokens: 50 });
        let answering = HeldModels {
            rewards: vec![HeldModel { answers, ..judge.clone() }],
            ..HeldModels::on(Device::Cpu)
        };
        // Keys and values of 3 x 50 tokens, 2 bytes each; the sizes are those of config.json.
        let config = Config::read(&judge.folder).unwrap();
        let of = |name: &str| config.fields()[name].as_u64().unwrap();
        let head_dim = of("hidden_size") / of("num_attention_heads");
        let token = 2 * of("num_hidden_layers") * of("num_key_value_heads") * head_dim;
        let needed = answering.needed().unwrap();
        assert_eq!((needed.rewards, needed.judging), (bytes(&judge), 150 * 2 * token));
        assert_eq!(needed.total(), needed.rewards + needed.judging);
    }

    /// The numbers that were read by their keys in config.json before there were families.
    #[test]
    fn every_family_says_its_dimensions() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models");
        for name in ["llama3", "llama-head-dim", "qwen3", "roberta", "bert", "flan"] {
            let config = Config::read(&models.join(name)).unwrap();
            let dimensions = Families::BUILT_IN.family(&config).unwrap().dimensions;
            let got = dimensions(&config).unwrap();
            let number = |names: &[&str]| {
                names.iter().find_map(|name| config.fields().get(*name)?.as_i64()).unwrap_or(0)
            };
            let layers = number(&["num_hidden_layers", "num_layers"]);
            let decoder =
                if name == "flan" { number(&["num_decoder_layers", "num_layers"]) } else { 0 };
            let hidden = number(&["hidden_size", "d_model"]);
            assert_eq!(got.hidden, hidden, "{name}");
            assert_eq!(got.blocks as i64, layers + decoder, "{name}");
            let heads = number(&["num_attention_heads", "num_heads"]);
            assert_eq!(got.heads, heads, "{name}");
            let kv_heads = ["num_key_value_heads", "num_attention_heads", "num_heads"];
            assert_eq!(got.kv_heads, number(&kv_heads), "{name}");
            let head_dim = match number(&["head_dim", "d_kv"]) {
                0 => hidden / heads,
                head_dim => head_dim,
            };
            assert_eq!(got.head_dim, head_dim, "{name}");
        }
    }

    #[test]
    fn a_trunk_without_its_head_is_counted_by_its_tensors() {
        let folder = tempfile::tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/roberta");
        std::fs::copy(from.join("model.safetensors"), folder.path().join("model.safetensors"))
            .unwrap();
        let mut config = Config::read(&from).unwrap();
        config.set("architectures", serde_json::json!(["RobertaForMaskedLM"]));
        let text = serde_json::to_string(config.fields()).unwrap();
        std::fs::write(folder.path().join("config.json"), text).unwrap();
        let plan = |folder: &Path| MemoryPlan::new(folder, Kind::Float, Device::Cpu).needed();
        assert_eq!(plan(folder.path()).unwrap(), plan(&from).unwrap());
    }
}
