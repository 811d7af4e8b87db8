//! `adapter_config.json`.

use std::num::NonZeroU32;

use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A LoRA adapter's `adapter_config.json`.
///
/// Field names are peft's. Settings that cannot be honoured (any method other than LoRA and DoRA,
/// initialisations that cannot be repeated) are refused by name when the file is read.
///
/// ```
/// use std::num::NonZeroU32;
/// use rlaif_checkpoint::{AdapterConfig, ModuleNames, TargetModules, TaskType};
///
/// let mut config = AdapterConfig::new(TaskType::Seq2SeqLm, NonZeroU32::new(32).unwrap());
/// config.lora_alpha = 32.0;
/// config.target_modules = TargetModules::Named(ModuleNames::Suffixes(vec!["q".into(), "v".into()]));
/// let rules = config.rules()?;
/// assert!(rules.targets("encoder.block.0.layer.0.SelfAttention.q"));
/// assert!(!rules.targets("encoder.block.0.layer.0.SelfAttention.o"));
/// assert_eq!(rules.scaling("encoder.block.0.layer.0.SelfAttention.q"), 1.0);
/// # Ok::<(), rlaif_checkpoint::CheckpointError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "the fields are peft's")]
#[non_exhaustive]
pub struct AdapterConfig {
    /// The task of the base model; `None` if the file does not state it.
    pub task_type: Option<TaskType>,
    /// Hub id or folder of the base model.
    pub base_model_name_or_path: Option<String>,
    /// The base model's revision.
    pub revision: Option<String>,
    /// Rank of the factors.
    pub r: NonZeroU32,
    /// The product of the factors is multiplied by `lora_alpha / r`; see `use_rslora`.
    pub lora_alpha: f64,
    /// Dropout probability on the adapter's input, in training.
    pub lora_dropout: f64,
    /// The layers that get factors.
    pub target_modules: TargetModules,
    /// The layers among them that get none.
    pub exclude_modules: Option<ModuleNames>,
    /// Modules that are trained and saved as a whole, such as a classifier head.
    pub modules_to_save: Vec<String>,
    /// Numbers of the layers that get factors; all layers if empty.
    pub layers_to_transform: Vec<u32>,
    /// Names of the module lists that the layer numbers index, such as `layers`; any list if empty.
    pub layers_pattern: Vec<String>,
    /// Ranks of individual modules, by pattern; the first match counts.
    pub rank_pattern: Vec<(String, NonZeroU32)>,
    /// Alphas of individual modules, by pattern; the first match counts.
    pub alpha_pattern: Vec<(String, f64)>,
    /// `true` for the scale `lora_alpha / sqrt(r)` (arXiv 2312.03732) instead of `lora_alpha / r`.
    pub use_rslora: bool,
    /// `true` if base weights are stored `[in, out]`, as GPT-2's are; without effect on other
    /// models.
    pub fan_in_fan_out: bool,
    /// `true` if layers that share one matrix, such as embeddings and head, share their factors as well.
    pub ensure_weight_tying: bool,
    /// `true` for DoRA (arXiv 2402.09353): each output of a layer has a trained magnitude.
    pub use_dora: bool,
    /// The factors at the start of training.
    pub init_lora_weights: Initialisation,
    /// Biases that are trained with the factors.
    pub bias: TrainedBiases,
}

/// The factors of an adapter at the start of training.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Initialisation {
    /// One of the two is zero: the adapter has no effect at first.
    #[default]
    Zero,
    /// PiSSA (arXiv 2404.02948): the largest singular values of the base's weight, which the base then lacks.
    Pissa,
    /// OLoRA (arXiv 2406.01775): the first columns of the base's QR factorisation, which the base then lacks.
    Olora,
}

impl Initialisation {
    /// peft's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Zero => "true",
            Self::Pissa => "pissa",
            Self::Olora => "olora",
        }
    }
}

/// Biases of the base that an adapter trains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum TrainedBiases {
    /// None of them.
    #[default]
    Absent,
    /// Biases of the linear layers with factors: `lora_only`.
    OfLora,
}

/// The task of an adapter's base model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TaskType {
    /// A decoder that continues text.
    #[serde(rename = "CAUSAL_LM")]
    CausalLm,
    /// An encoder and a decoder.
    #[serde(rename = "SEQ_2_SEQ_LM")]
    Seq2SeqLm,
    /// A classifier of whole texts.
    #[serde(rename = "SEQ_CLS")]
    SequenceClassification,
    /// A classifier of tokens.
    #[serde(rename = "TOKEN_CLS")]
    TokenClassification,
}

/// Modules by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ModuleNames {
    /// A regular expression that must match the whole path.
    Pattern(String),
    /// Whole paths, or their endings after a dot.
    Suffixes(Vec<String>),
}

/// The layers that get factors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetModules {
    /// Every linear layer except the head.
    AllLinear,
    /// The layers with these names.
    Named(ModuleNames),
}

/// peft's spelling of [`TargetModules::AllLinear`].
pub(super) const ALL_LINEAR: &str = "all-linear";

impl AdapterConfig {
    /// peft's defaults, on every linear layer: alpha 8, no dropout.
    #[must_use]
    pub fn new(task_type: TaskType, r: NonZeroU32) -> Self {
        Self {
            task_type: Some(task_type),
            base_model_name_or_path: None,
            revision: None,
            r,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: TargetModules::AllLinear,
            exclude_modules: None,
            modules_to_save: Vec::new(),
            layers_to_transform: Vec::new(),
            layers_pattern: Vec::new(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            use_rslora: false,
            fan_in_fan_out: false,
            ensure_weight_tying: false,
            use_dora: false,
            init_lora_weights: Initialisation::Zero,
            bias: TrainedBiases::Absent,
        }
    }
}

/// Writes peft's own spelling, with its `sort_keys`.
impl Serialize for AdapterConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let targets = match &self.target_modules {
            TargetModules::AllLinear => json!(ALL_LINEAR),
            TargetModules::Named(names) => json!(names),
        };
        let alphas: Vec<_> =
            self.alpha_pattern.iter().map(|(key, alpha)| (key, number(*alpha))).collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("alpha_pattern", &InOrder(&alphas))?;
        map.serialize_entry("base_model_name_or_path", &self.base_model_name_or_path)?;
        let bias = match self.bias {
            TrainedBiases::Absent => "none",
            TrainedBiases::OfLora => "lora_only",
        };
        map.serialize_entry("bias", bias)?;
        map.serialize_entry("ensure_weight_tying", &self.ensure_weight_tying)?;
        map.serialize_entry("exclude_modules", &self.exclude_modules)?;
        map.serialize_entry("fan_in_fan_out", &self.fan_in_fan_out)?;
        map.serialize_entry("inference_mode", &true)?;
        let init = match self.init_lora_weights {
            Initialisation::Zero => json!(true),
            other => json!(other.name()),
        };
        map.serialize_entry("init_lora_weights", &init)?;
        map.serialize_entry("layers_pattern", &none_if_empty(&self.layers_pattern))?;
        map.serialize_entry("layers_to_transform", &none_if_empty(&self.layers_to_transform))?;
        map.serialize_entry("lora_alpha", &number(self.lora_alpha))?;
        map.serialize_entry("lora_dropout", &self.lora_dropout)?;
        map.serialize_entry("modules_to_save", &none_if_empty(&self.modules_to_save))?;
        map.serialize_entry("peft_type", "LORA")?;
        map.serialize_entry("r", &self.r)?;
        map.serialize_entry("rank_pattern", &InOrder(&self.rank_pattern))?;
        map.serialize_entry("revision", &self.revision)?;
        map.serialize_entry("target_modules", &targets)?;
        map.serialize_entry("task_type", &self.task_type)?;
        map.serialize_entry("use_dora", &self.use_dora)?;
        map.serialize_entry("use_rslora", &self.use_rslora)?;
        map.end()
    }
}

/// An object whose order matters.
struct InOrder<'a, K, V>(&'a [(K, V)]);

impl<K: Serialize, V: Serialize> Serialize for InOrder<'_, K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

fn none_if_empty<T>(items: &[T]) -> Option<&[T]> {
    (!items.is_empty()).then_some(items)
}

/// peft declares alpha an integer, but computes with any number.
fn number(alpha: f64) -> Value {
    if alpha.fract() == 0.0 && alpha.abs() < 1e15 { json!(alpha as i64) } else { json!(alpha) }
}
