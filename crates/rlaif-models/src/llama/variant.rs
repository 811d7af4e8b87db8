//! Differences between the members of the Llama family, as data.

/// A member of the Llama family: the properties of the trunk that config.json does not state, and
/// the names of the tensors. Another member is a constant of this type and a row of the family
/// table:
///
/// ```
/// use rlaif_models::extend::{LlamaNames, LlamaVariant};
///
/// const SCALED: LlamaVariant = LlamaVariant {
///     embedding_scale: |hidden| (hidden as f64).sqrt(),
///     names: LlamaNames { trunk: "transformer", ..LlamaNames::HUGGING_FACE },
///     ..LlamaVariant::LLAMA
/// };
/// assert_eq!((SCALED.embedding_scale)(16), 4.);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct LlamaVariant {
    /// `model_type` of the configuration class in transformers that provides defaults for missing
    /// fields of config.json.
    pub defaults: &'static str,
    /// Biases on queries, keys and values.
    pub qkv_bias: BiasRule,
    /// A bias on the output projection of attention.
    pub output_bias: BiasRule,
    /// Biases in the feed-forward layer.
    pub mlp_bias: BiasRule,
    /// `true` if queries and keys are normed per head.
    pub norm_queries_and_keys: bool,
    /// The rule for the sliding window of attention.
    pub window: WindowRule,
    /// Size of a head if config.json does not state it; `None` divides the hidden size.
    pub head_dim: Option<i64>,
    /// Factor of the embeddings, as a function of the hidden size.
    pub embedding_scale: fn(i64) -> f64,
    /// Names of the tensors.
    pub names: LlamaNames,
}

/// Presence of a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BiasRule {
    /// As `attention_bias` or `mlp_bias` in config.json says.
    Config,
    /// Always.
    Present,
    /// Never.
    Absent,
}

/// Rule for the sliding window of attention, `sliding_window` tokens wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowRule {
    /// Never.
    Never,
    /// If config.json gives one, in each layer that `layer_types` does not exempt.
    Given,
    /// If `use_sliding_window` is true, from the layer `max_window_layers` on.
    Switched,
}

/// Names of the tensors of a trunk.
#[derive(Debug, Clone, Copy)]
pub struct LlamaNames {
    /// The whole trunk.
    pub trunk: &'static str,
    /// The embeddings.
    pub embeddings: &'static str,
    /// The list of layers.
    pub layers: &'static str,
    /// The norm after the last layer.
    pub norm: &'static str,
    /// The norm before attention.
    pub attention_norm: &'static str,
    /// Attention.
    pub attention: &'static str,
    /// Projections of attention to queries, keys and values, and of its output.
    pub projections: [&'static str; 4],
    /// The norm before the feed-forward layer.
    pub feed_forward_norm: &'static str,
    /// The feed-forward layer.
    pub feed_forward: &'static str,
    /// Its gate, up and down projections.
    pub feed_forward_layers: [&'static str; 3],
    /// The vocabulary head, if it has its own tensor.
    pub head: &'static str,
}

impl LlamaNames {
    /// The names of Hugging Face's checkpoints.
    pub const HUGGING_FACE: Self = Self {
        trunk: "model",
        embeddings: "embed_tokens",
        layers: "layers",
        norm: "norm",
        attention_norm: "input_layernorm",
        attention: "self_attn",
        projections: ["q_proj", "k_proj", "v_proj", "o_proj"],
        feed_forward_norm: "post_attention_layernorm",
        feed_forward: "mlp",
        feed_forward_layers: ["gate_proj", "up_proj", "down_proj"],
        head: "lm_head",
    };
}

impl LlamaVariant {
    /// Llama 2 and 3.
    pub const LLAMA: Self = Self {
        defaults: "llama",
        qkv_bias: BiasRule::Config,
        output_bias: BiasRule::Config,
        mlp_bias: BiasRule::Config,
        norm_queries_and_keys: false,
        window: WindowRule::Never,
        head_dim: None,
        embedding_scale: |_| 1.,
        names: LlamaNames::HUGGING_FACE,
    };

    /// Mistral.
    pub const MISTRAL: Self = Self {
        defaults: "mistral",
        qkv_bias: BiasRule::Absent,
        output_bias: BiasRule::Absent,
        mlp_bias: BiasRule::Absent,
        window: WindowRule::Given,
        ..Self::LLAMA
    };

    /// Qwen2 and Qwen2.5.
    pub const QWEN2: Self = Self {
        defaults: "qwen2",
        qkv_bias: BiasRule::Present,
        output_bias: BiasRule::Absent,
        mlp_bias: BiasRule::Absent,
        window: WindowRule::Switched,
        ..Self::LLAMA
    };

    /// Qwen3.
    pub const QWEN3: Self = Self {
        defaults: "qwen3",
        mlp_bias: BiasRule::Absent,
        norm_queries_and_keys: true,
        window: WindowRule::Switched,
        head_dim: Some(128),
        ..Self::LLAMA
    };
}

impl BiasRule {
    pub(super) fn resolve(self, config: bool) -> crate::layers::Bias {
        match self {
            Self::Config => config.into(),
            Self::Present => crate::layers::Bias::Present,
            Self::Absent => crate::layers::Bias::Absent,
        }
    }
}
