//! Differences between the members of the Llama family, as data.

pub use crate::rope::RopeNames;
use crate::weights::MatrixOrder;

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
    /// The kind of the norms.
    pub norm: NormRule,
    /// Places of the norms of a block.
    pub norms: NormPlaces,
    /// Norms of queries and keys.
    pub query_key_norm: QueryKeyNorm,
    /// Tensors of queries, keys and values.
    pub projections: Projections,
    /// The feed-forward layer.
    pub gate: GateRule,
    /// Layers of experts in place of the feed-forward layer.
    pub experts: ExpertRule,
    /// The order in which checkpoints store the matrices of blocks.
    pub matrices: MatrixOrder,
    /// Positional information.
    pub positions: Positions,
    /// Names of the scalings of rotary positions.
    pub rope_names: RopeNames,
    /// Factors and caps that config.json names.
    pub scaling: ScalingRule,
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

/// Kind of the norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormRule {
    /// RMS norm, `w · x̂`.
    Rms,
    /// RMS norm, `(1 + w) · x̂`.
    RmsPlusOne,
    /// Layer norm with scale and shift.
    Layer,
}

/// Places of the norms of a block, and the order of its two layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlaces {
    /// Before attention, and before the feed-forward layer.
    Before,
    /// After each layer, before the residual is added.
    After,
    /// Before and after each layer.
    Around,
    /// Before each layer; if `use_parallel_residual` in config.json is true, both layers read the
    /// block's input.
    BeforeParallel,
}

/// Norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryKeyNorm {
    /// No norms.
    Absent,
    /// One norm per head.
    Heads,
    /// One norm over all heads.
    Width,
}

/// Tensors of queries, keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projections {
    /// Three tensors.
    Apart,
    /// One tensor: all queries, then all keys, then all values.
    Fused,
    /// One tensor, grouped by head: query, key and value.
    FusedByHead,
}

/// The feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateRule {
    /// `down (act(gate x) · up x)`.
    Apart,
    /// The same, with gate and up in one tensor.
    Fused,
    /// `down act(up x)`.
    Absent,
}

/// Layers of experts, of which a router chooses `num_experts_per_tok` for each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertRule {
    /// Never.
    Never,
    /// In every layer, `intermediate_size` wide, with weights that have the sum 1.
    Always,
    /// In each `decoder_sparse_step`-th layer outside `mlp_only_layers`, `moe_intermediate_size` wide.
    /// If config.json has `shared_expert_intermediate_size`, there is another expert for all tokens.
    Config,
}

/// Positional information.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Positions {
    /// Rotary embedding of queries and keys; by default, of the part `partial` of each head.
    Rotary {
        /// Part of a head.
        partial: f64,
    },
    /// Rotary embedding of queries and keys, except in each `no_rope_layer_interval`-th layer (or
    /// in those of `no_rope_layers`).
    RotaryInSome,
    /// Position embeddings.
    Learned,
}

/// Factors and caps that config.json names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalingRule {
    /// Attention divides by the square root of the head's size.
    Plain,
    /// `scale_attn_weights` and `scale_attn_by_inverse_layer_idx`.
    Gpt2,
    /// `query_pre_attn_scalar`, `final_logit_softcapping` and, if enabled,
    /// `attn_logit_softcapping`.
    Gemma {
        /// `true` to use `attn_logit_softcapping`.
        attention_cap: bool,
    },
    /// `embedding_multiplier`, `attention_multiplier`, `residual_multiplier` and `logits_scaling`.
    Granite,
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
    /// If `use_sliding_window` is true, in every layer.
    SwitchedAll,
    /// If `use_sliding_window` is true, in the layers 0, 2, .. below `max_window_layers`, or as `layer_types`
    /// says.
    SwitchedEven,
    /// By default, in every layer except each n-th, where n is this number, or
    /// `sliding_window_pattern` in config.json; `layer_types` takes precedence.
    Pattern(usize),
    /// If `use_sliding_window` is true, in the layers without rotary positions.
    WithoutRotary,
}

/// Names of the tensors of a trunk.
#[derive(Debug, Clone, Copy)]
pub struct LlamaNames {
    /// The whole trunk.
    pub trunk: &'static str,
    /// The embeddings.
    pub embeddings: &'static str,
    /// The position embeddings, if there are any.
    pub positions: &'static str,
    /// The list of layers.
    pub layers: &'static str,
    /// The norm after the last layer.
    pub norm: &'static str,
    /// The norm before attention.
    pub attention_norm: &'static str,
    /// Attention.
    pub attention: &'static str,
    /// Projections of attention to queries, keys and values, and of its output. If the first three
    /// are one tensor, its name is the first one.
    pub projections: [&'static str; 4],
    /// The norm after attention, if there is one.
    pub attention_post_norm: &'static str,
    /// The norm before the feed-forward layer.
    pub feed_forward_norm: &'static str,
    /// The feed-forward layer.
    pub feed_forward: &'static str,
    /// The gate, up and down projections. The second name is also that of a tensor with gate and up
    /// together.
    pub feed_forward_layers: [&'static str; 3],
    /// The gate, up and down projections of an expert.
    pub expert_layers: [&'static str; 3],
    /// The feed-forward layer in files that have the experts of a layer in one tensor.
    pub fused_experts: &'static str,
    /// The norm after the feed-forward layer, if there is one.
    pub feed_forward_post_norm: &'static str,
    /// The vocabulary head, if it has its own tensor.
    pub head: &'static str,
    /// The head on tokens.
    pub token_head: &'static str,
}

impl LlamaNames {
    /// The names of Hugging Face's checkpoints.
    pub const HUGGING_FACE: Self = Self {
        trunk: "model",
        embeddings: "embed_tokens",
        positions: "embed_positions",
        layers: "layers",
        norm: "norm",
        attention_norm: "input_layernorm",
        attention: "self_attn",
        projections: ["q_proj", "k_proj", "v_proj", "o_proj"],
        attention_post_norm: "post_attention_layernorm",
        feed_forward_norm: "post_attention_layernorm",
        feed_forward: "mlp",
        feed_forward_layers: ["gate_proj", "up_proj", "down_proj"],
        expert_layers: ["gate_proj", "up_proj", "down_proj"],
        fused_experts: "mlp",
        feed_forward_post_norm: "post_feedforward_layernorm",
        head: "lm_head",
        token_head: "score",
    };

    /// The names of GPT-2.
    const GPT2: Self = Self {
        trunk: "transformer",
        embeddings: "wte",
        positions: "wpe",
        layers: "h",
        norm: "ln_f",
        attention_norm: "ln_1",
        attention: "attn",
        projections: ["c_attn", "", "", "c_proj"],
        feed_forward_norm: "ln_2",
        feed_forward: "mlp",
        feed_forward_layers: ["", "c_fc", "c_proj"],
        token_head: "classifier",
        ..Self::HUGGING_FACE
    };

    /// The names of GPT-NeoX.
    const GPT_NEOX: Self = Self {
        trunk: "gpt_neox",
        embeddings: "embed_in",
        norm: "final_layer_norm",
        attention: "attention",
        projections: ["query_key_value", "", "", "dense"],
        feed_forward_layers: ["", "dense_h_to_4h", "dense_4h_to_h"],
        head: "embed_out",
        token_head: "classifier",
        ..Self::HUGGING_FACE
    };

    /// The names of models with norms around each layer.
    pub(super) const AROUND: Self =
        Self { feed_forward_norm: "pre_feedforward_layernorm", ..Self::HUGGING_FACE };
}

impl LlamaVariant {
    /// Llama 2 and 3.
    pub const LLAMA: Self = Self {
        defaults: "llama",
        qkv_bias: BiasRule::Config,
        output_bias: BiasRule::Config,
        mlp_bias: BiasRule::Config,
        norm: NormRule::Rms,
        norms: NormPlaces::Before,
        query_key_norm: QueryKeyNorm::Absent,
        projections: Projections::Apart,
        gate: GateRule::Apart,
        experts: ExpertRule::Never,
        matrices: MatrixOrder::OutputsFirst,
        positions: Positions::Rotary { partial: 1. },
        rope_names: RopeNames::Usual,
        scaling: ScalingRule::Plain,
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
        query_key_norm: QueryKeyNorm::Heads,
        window: WindowRule::Switched,
        head_dim: Some(128),
        ..Self::LLAMA
    };

    /// GPT-2 and DistilGPT-2.
    pub const GPT2: Self = Self {
        defaults: "gpt2",
        qkv_bias: BiasRule::Present,
        output_bias: BiasRule::Present,
        mlp_bias: BiasRule::Present,
        norm: NormRule::Layer,
        projections: Projections::Fused,
        gate: GateRule::Absent,
        matrices: MatrixOrder::InputsFirst,
        positions: Positions::Learned,
        scaling: ScalingRule::Gpt2,
        names: LlamaNames::GPT2,
        ..Self::LLAMA
    };

    /// GPT-NeoX and Pythia.
    pub const GPT_NEOX: Self = Self {
        defaults: "gpt_neox",
        mlp_bias: BiasRule::Present,
        norm: NormRule::Layer,
        norms: NormPlaces::BeforeParallel,
        projections: Projections::FusedByHead,
        gate: GateRule::Absent,
        positions: Positions::Rotary { partial: 0.25 },
        names: LlamaNames::GPT_NEOX,
        ..Self::LLAMA
    };

    /// Gemma 2.
    pub const GEMMA2: Self = Self {
        defaults: "gemma2",
        mlp_bias: BiasRule::Absent,
        norm: NormRule::RmsPlusOne,
        norms: NormPlaces::Around,
        scaling: ScalingRule::Gemma { attention_cap: true },
        window: WindowRule::Pattern(2),
        head_dim: Some(256),
        embedding_scale: |hidden| (hidden as f64).sqrt(),
        names: LlamaNames::AROUND,
        ..Self::LLAMA
    };

    /// Gemma 3, its text model.
    pub const GEMMA3: Self = Self {
        defaults: "gemma3_text",
        query_key_norm: QueryKeyNorm::Heads,
        // transformers reads the field, but does not apply it.
        scaling: ScalingRule::Gemma { attention_cap: false },
        window: WindowRule::Pattern(6),
        ..Self::GEMMA2
    };

    /// Phi-3, Phi-3.5 and Phi-4.
    pub const PHI3: Self = Self {
        defaults: "phi3",
        qkv_bias: BiasRule::Absent,
        output_bias: BiasRule::Absent,
        mlp_bias: BiasRule::Absent,
        projections: Projections::Fused,
        gate: GateRule::Fused,
        rope_names: RopeNames::LongAsYarn,
        window: WindowRule::Given,
        names: LlamaNames {
            projections: ["qkv_proj", "", "", "o_proj"],
            feed_forward_layers: ["", "gate_up_proj", "down_proj"],
            ..LlamaNames::HUGGING_FACE
        },
        ..Self::LLAMA
    };

    /// OLMo 2.
    pub const OLMO2: Self = Self {
        defaults: "olmo2",
        mlp_bias: BiasRule::Absent,
        norms: NormPlaces::After,
        query_key_norm: QueryKeyNorm::Width,
        ..Self::LLAMA
    };

    /// SmolLM3.
    pub const SMOLLM3: Self = Self {
        defaults: "smollm3",
        positions: Positions::RotaryInSome,
        window: WindowRule::WithoutRotary,
        ..Self::LLAMA
    };

    /// Mixtral.
    pub const MIXTRAL: Self = Self {
        defaults: "mixtral",
        experts: ExpertRule::Always,
        names: LlamaNames {
            feed_forward: "block_sparse_moe",
            expert_layers: ["w1", "w3", "w2"],
            ..LlamaNames::HUGGING_FACE
        },
        ..Self::MISTRAL
    };

    /// Qwen1.5-MoE and Qwen2-MoE.
    pub const QWEN2_MOE: Self = Self {
        defaults: "qwen2_moe",
        qkv_bias: BiasRule::Config,
        output_bias: BiasRule::Absent,
        mlp_bias: BiasRule::Absent,
        experts: ExpertRule::Config,
        window: WindowRule::SwitchedEven,
        ..Self::LLAMA
    };

    /// Qwen3-MoE.
    pub const QWEN3_MOE: Self = Self {
        defaults: "qwen3_moe",
        experts: ExpertRule::Config,
        window: WindowRule::SwitchedAll,
        head_dim: None,
        ..Self::QWEN3
    };

    /// Granite.
    pub const GRANITE: Self =
        Self { defaults: "granite", scaling: ScalingRule::Granite, ..Self::LLAMA };
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
