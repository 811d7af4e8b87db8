//! The Llama family: Llama 2 and 3, Mistral, Qwen2 and Qwen3, as language models and as classifiers.
//!
//! Papers: [Touvron et al. 2023](https://arxiv.org/abs/2307.09288),
//! [Llama 3, 2024](https://arxiv.org/abs/2407.21783),
//! [Mistral, 2023](https://arxiv.org/abs/2310.06825), [Qwen2, 2024](https://arxiv.org/abs/2407.10671),
//! [Qwen3, 2025](https://arxiv.org/abs/2505.09388). One trunk: RMS norms, rotary positions, grouped
//! key-value heads, a gated feed-forward. The families differ by configuration: biases on q, k and v
//! (Qwen2), norms on queries and keys (Qwen3), a sliding window (Mistral), scaled rotary frequencies
//! (Llama 3.1).

mod run;

use rlaif_lm::{
    Activations, Branches, CacheShape, CausalLm, DecodeState, Forward, KvCache, LabelScheme,
    LmError, LmSpec, Padding, Parameters, Room, SequenceClassifier, TokenBatch, VocabHead,
};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::{
    adapt::{AdapterSet, Parts, Pass},
    config::{Config, OneOrMany},
    error::ModelError,
    labels::Labels,
    layers::{
        Activation, Bias, Embedding, Linear, RmsNorm, Visible, attend, attention, hide, in_heads,
    },
    rows,
    weights::{Source, Weights},
};

mod decode;

/// The fields of config.json that matter here.
#[derive(Debug, Deserialize)]
struct RawConfig {
    model_type: String,
    vocab_size: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    #[serde(default = "RawConfig::activation")]
    hidden_act: String,
    max_position_embeddings: usize,
    #[serde(default = "RawConfig::epsilon")]
    rms_norm_eps: f64,
    /// Older spelling: beside `rope_scaling`.
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    /// Newer spelling: both in one.
    rope_parameters: Option<RawRope>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    attention_dropout: f64,
    sliding_window: Option<i64>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<LayerType>>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default = "RawConfig::std")]
    initializer_range: f64,
    pad_token_id: Option<u32>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMany>,
}

impl RawConfig {
    fn activation() -> String {
        "silu".to_owned()
    }
    fn epsilon() -> f64 {
        1e-6
    }
    fn std() -> f64 {
        0.02
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    FullAttention,
    SlidingAttention,
}

#[derive(Debug, Clone, Deserialize)]
struct RawRope {
    /// `type` in checkpoints of before mid-2024.
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

/// How rotary frequencies are scaled for contexts longer than the model was first trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
enum RopeScaling {
    None,
    /// All frequencies divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, a smooth passage between.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        context: f64,
    },
}

impl RopeScaling {
    fn resolve(rope: Option<&RawRope>) -> Result<Self, ModelError> {
        let Some(rope) = rope else { return Ok(Self::None) };
        let need = |field: &'static str, value: Option<f64>| {
            value.filter(|value| *value > 0.).ok_or_else(|| ModelError::BadField {
                field,
                found: value.map_or("missing".to_owned(), |v| v.to_string()),
                expected: "a positive number beside this rope_type".to_owned(),
            })
        };
        Ok(match rope.rope_type.as_deref() {
            None | Some("default") => Self::None,
            Some("linear") => Self::Linear { factor: need("rope_scaling.factor", rope.factor)? },
            Some("llama3") => Self::Llama3 {
                factor: need("rope_scaling.factor", rope.factor)?,
                low: need("rope_scaling.low_freq_factor", rope.low_freq_factor)?,
                high: need("rope_scaling.high_freq_factor", rope.high_freq_factor)?,
                context: need(
                    "rope_scaling.original_max_position_embeddings",
                    rope.original_max_position_embeddings,
                )?,
            },
            Some(other) => {
                return Err(ModelError::UnsupportedField {
                    field: "rope_scaling.rope_type",
                    found: other.to_owned(),
                    supported: "default, linear, llama3",
                });
            }
        })
    }
}

/// Rotary position embedding.
#[derive(Debug)]
struct Rope {
    /// Angle per position, f32 `[D / 2]`.
    frequencies: Tensor,
}

impl Rope {
    fn new(head_dim: i64, theta: f64, scaling: RopeScaling, device: Device) -> Self {
        let exponent =
            Tensor::arange_start_step(0, head_dim, 2, (Kind::Float, Device::Cpu)) / head_dim as f64;
        let frequencies = Tensor::pow_scalar(theta, &exponent).reciprocal();
        let frequencies = match scaling {
            RopeScaling::None => frequencies,
            RopeScaling::Linear { factor } => frequencies / factor,
            RopeScaling::Llama3 { factor, low, high, context } => {
                let length = frequencies.reciprocal() * (2. * std::f64::consts::PI);
                let smooth = (length.reciprocal() * context - low) / (high - low);
                let scaled = &frequencies / factor;
                let between = (1. - &smooth) * &scaled + &smooth * &frequencies;
                let long = length.gt(context / low);
                let short = length.lt(context / high);
                let frequencies = frequencies.where_self(&short, &between);
                scaled.where_self(&long, &frequencies)
            }
        };
        Self { frequencies: frequencies.to_device(device) }
    }

    /// Cosines and sines `[.., 1, D]` for positions `[..]`, so that they broadcast over heads.
    fn angles(&self, positions: &Tensor, kind: Kind) -> (Tensor, Tensor) {
        let angles = positions.to_kind(Kind::Float).unsqueeze(-1) * &self.frequencies;
        let angles = Tensor::cat(&[&angles, &angles], -1).unsqueeze(-2);
        (angles.cos().to_kind(kind), angles.sin().to_kind(kind))
    }
}

/// What the trunk uses; nothing is optional any more.
#[derive(Debug)]
struct Shape {
    hidden: i64,
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
    layers: usize,
    /// The sliding window of each layer that has one.
    windows: Vec<Option<i64>>,
    attention_dropout: f64,
}

/// Fields of config.json as the families mean them: what one leaves out, another has by default.
struct Family {
    qkv_bias: Bias,
    output_bias: Bias,
    mlp_bias: Bias,
    norm_queries_and_keys: bool,
    window: Option<i64>,
}

impl Family {
    fn resolve(raw: &RawConfig) -> Result<Self, ModelError> {
        let plain = Self {
            qkv_bias: raw.attention_bias.into(),
            output_bias: raw.attention_bias.into(),
            mlp_bias: raw.mlp_bias.into(),
            norm_queries_and_keys: false,
            window: None,
        };
        let optional_window =
            if raw.use_sliding_window == Some(true) { raw.sliding_window } else { None };
        Ok(match raw.model_type.as_str() {
            "llama" => plain,
            "mistral" => Self {
                qkv_bias: Bias::Absent,
                output_bias: Bias::Absent,
                mlp_bias: Bias::Absent,
                window: raw.sliding_window,
                ..plain
            },
            "qwen2" => Self {
                qkv_bias: Bias::Present,
                output_bias: Bias::Absent,
                mlp_bias: Bias::Absent,
                window: optional_window,
                ..plain
            },
            "qwen3" => Self {
                mlp_bias: Bias::Absent,
                norm_queries_and_keys: true,
                window: optional_window,
                ..plain
            },
            other => {
                return Err(ModelError::UnsupportedField {
                    field: "model_type",
                    found: other.to_owned(),
                    supported: "llama, mistral, qwen2, qwen3",
                });
            }
        })
    }
}

impl Shape {
    fn resolve(raw: &RawConfig, family: &Family) -> Result<Self, ModelError> {
        let kv_heads = raw.num_key_value_heads.unwrap_or(raw.num_attention_heads);
        for (field, value) in [
            ("vocab_size", raw.vocab_size),
            ("hidden_size", raw.hidden_size),
            ("intermediate_size", raw.intermediate_size),
            ("num_attention_heads", raw.num_attention_heads),
            ("num_key_value_heads", kv_heads),
            ("head_dim", raw.head_dim.unwrap_or(1)),
        ] {
            if value < 1 {
                return Err(bad(field, value, "at least 1"));
            }
        }
        if raw.num_attention_heads % kv_heads != 0 {
            return Err(bad("num_key_value_heads", kv_heads, "a divisor of num_attention_heads"));
        }
        let head_dim = match raw.head_dim {
            Some(head_dim) => head_dim,
            None if raw.model_type == "qwen3" => 128,
            None if raw.hidden_size % raw.num_attention_heads == 0 => {
                raw.hidden_size / raw.num_attention_heads
            }
            None => return Err(bad("hidden_size", raw.hidden_size, "a multiple of the heads")),
        };
        if head_dim % 2 != 0 {
            return Err(bad("head_dim", head_dim, "even, for rotary positions"));
        }
        let windows = (0..raw.num_hidden_layers)
            .map(|layer| {
                let slides = match (&raw.layer_types, raw.max_window_layers) {
                    (Some(types), _) => types.get(layer) == Some(&LayerType::SlidingAttention),
                    (None, Some(first)) if raw.model_type != "mistral" => layer >= first,
                    _ => true,
                };
                family.window.filter(|_| slides)
            })
            .collect();
        Ok(Self {
            hidden: raw.hidden_size,
            heads: raw.num_attention_heads,
            kv_heads,
            head_dim,
            layers: raw.num_hidden_layers,
            windows,
            attention_dropout: raw.attention_dropout,
        })
    }
}

fn bad(field: &'static str, found: i64, expected: &str) -> ModelError {
    ModelError::BadField { field, found: found.to_string(), expected: expected.to_owned() }
}

/// Self-attention with rotary positions and grouped key-value heads.
#[derive(Debug)]
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    norms: Option<(RmsNorm, RmsNorm)>,
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
    dropout: f64,
}

impl Attention {
    fn load(weights: &Weights<'_>, raw: &RawConfig, shape: &Shape, family: &Family) -> Self {
        let std = raw.initializer_range;
        let (queries, keys) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let qkv =
            |key, width| Linear::load(&weights.at(key), shape.hidden, width, family.qkv_bias, std);
        Self {
            q: qkv("q_proj", queries),
            k: qkv("k_proj", keys),
            v: qkv("v_proj", keys),
            o: Linear::load(&weights.at("o_proj"), queries, shape.hidden, family.output_bias, std),
            norms: family.norm_queries_and_keys.then(|| {
                let norm = |key| RmsNorm::load(&weights.at(key), shape.head_dim, raw.rms_norm_eps);
                (norm("q_norm"), norm("k_norm"))
            }),
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            dropout: shape.attention_dropout,
        }
    }

    /// Turned queries, turned keys and values, each `[B, T, heads, D]`.
    fn project(&self, x: &Tensor, angles: &(Tensor, Tensor), pass: Pass) -> [Tensor; 3] {
        let [q, k, v] = Linear::project([&self.q, &self.k, &self.v], x, pass);
        let mut q = in_heads(&q, self.heads, self.head_dim);
        let mut k = in_heads(&k, self.kv_heads, self.head_dim);
        if let Some((q_norm, k_norm)) = &self.norms {
            q = q_norm.forward(&q);
            k = k_norm.forward(&k);
        }
        let (cos, sin) = angles;
        let turn = |x: &Tensor| rlaif_torch::rope(x, cos, sin);
        [turn(&q), turn(&k), in_heads(&v, self.kv_heads, self.head_dim)]
    }

    fn scale(&self) -> f64 {
        (self.head_dim as f64).powf(-0.5)
    }

    fn forward(
        &self,
        x: &Tensor,
        angles: &(Tensor, Tensor),
        visible: &Visible<'_>,
        pass: Pass,
    ) -> (Tensor, [Tensor; 2]) {
        let [q, k, v] = self.project(x, angles, pass);
        let p = pass.dropout_p(self.dropout);
        let mixed = attention(&q, &k, &v, visible, self.scale(), p);
        (self.o.forward(&mixed, pass), [k, v])
    }

    /// One query per row against a cache. The queries of a group see the same keys, so they stand
    /// as rows of one attention and no key is repeated.
    fn step(
        &self,
        x: &Tensor,
        angles: &(Tensor, Tensor),
        cache: &mut KvCache,
        layer: usize,
        bias: Option<&Tensor>,
        pass: Pass,
    ) -> Tensor {
        let [q, k, v] = self.project(x, angles, pass);
        let (k, v) = cache.append(layer, &k, &v);
        let b = q.size()[0];
        let q = q.view([b, self.kv_heads, self.heads / self.kv_heads, self.head_dim]);
        let visible = bias.map_or(Visible::All, Visible::Bias);
        let p = pass.dropout_p(self.dropout);
        let mixed = attend(&q, &k, &v, &visible, self.scale(), p);
        // [B, kv, group, D]: the heads of the query, in order.
        let mixed = mixed.reshape([b, 1, self.heads * self.head_dim]);
        self.o.forward(&mixed, pass)
    }

    fn handle(&self) -> Self {
        Self {
            q: self.q.handle(),
            k: self.k.handle(),
            v: self.v.handle(),
            o: self.o.handle(),
            norms: self.norms.as_ref().map(|(q, k)| (q.handle(), k.handle())),
            ..*self
        }
    }
}

/// The gated feed-forward: `down (act(gate x) · up x)`.
#[derive(Debug)]
struct FeedForward {
    gate: Linear,
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl FeedForward {
    fn load(weights: &Weights<'_>, raw: &RawConfig, family: &Family) -> Result<Self, ModelError> {
        let (hidden, inner) = (raw.hidden_size, raw.intermediate_size);
        let layer = |key, inputs, outputs| {
            let bias = family.mlp_bias;
            Linear::load(&weights.at(key), inputs, outputs, bias, raw.initializer_range)
        };
        Ok(Self {
            gate: layer("gate_proj", hidden, inner),
            up: layer("up_proj", hidden, inner),
            down: layer("down_proj", inner, hidden),
            activation: Activation::parse("hidden_act", &raw.hidden_act)?,
        })
    }

    fn forward(&self, x: &Tensor, pass: Pass) -> Tensor {
        let [gate, up] = Linear::project([&self.gate, &self.up], x, pass);
        self.down.forward(&self.activation.gated(&gate, &up), pass)
    }

    fn handle(&self) -> Self {
        Self {
            gate: self.gate.handle(),
            up: self.up.handle(),
            down: self.down.handle(),
            activation: self.activation,
        }
    }
}

/// One layer: attention, then feed-forward, a norm before and a residual around each.
#[derive(Debug)]
struct Block {
    attention_norm: RmsNorm,
    attention: Attention,
    feed_forward_norm: RmsNorm,
    feed_forward: FeedForward,
}

impl Block {
    fn forward(
        &self,
        x: &Tensor,
        angles: &(Tensor, Tensor),
        visible: &Visible<'_>,
        pass: Pass,
    ) -> (Tensor, [Tensor; 2]) {
        let normed = self.attention_norm.forward(x);
        let (mixed, kv) = self.attention.forward(&normed, angles, visible, pass);
        (self.finish(&(x + mixed), pass), kv)
    }

    /// The feed-forward layer, which decoding shares with training.
    fn finish(&self, x: &Tensor, pass: Pass) -> Tensor {
        x + self.feed_forward.forward(&self.feed_forward_norm.forward(x), pass)
    }

    fn linears(&mut self) -> [&mut Linear; 7] {
        let Attention { q, k, v, o, .. } = &mut self.attention;
        let FeedForward { gate, up, down, .. } = &mut self.feed_forward;
        [q, k, v, o, gate, up, down]
    }

    fn handle(&self) -> Self {
        Self {
            attention_norm: self.attention_norm.handle(),
            attention: self.attention.handle(),
            feed_forward_norm: self.feed_forward_norm.handle(),
            feed_forward: self.feed_forward.handle(),
        }
    }
}

/// Everything between token ids and the last hidden states.
#[derive(Debug)]
struct Trunk {
    shape: Shape,
    embed: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    rope: Rope,
}

/// Where the tokens of packed rows stand, int64 `[B, T]` each.
struct Packed {
    /// In their segment.
    positions: Tensor,
    /// The segment's number in its row; padding has one of its own.
    segment: Tensor,
}

impl Packed {
    fn new(rows: &[Vec<usize>], width: i64, device: Device) -> Self {
        let (mut positions, mut segment) = (Vec::new(), Vec::new());
        for row in rows {
            let end = positions.len() + width as usize;
            for (number, &length) in (0..).zip(row) {
                positions.extend(0..length as i64);
                segment.extend(std::iter::repeat_n(number, length));
            }
            positions.resize(end, 0);
            segment.resize(end, -1i64);
        }
        let tensor =
            |values: &[i64]| Tensor::from_slice(values).view([-1, width]).to_device(device);
        Self { positions: tensor(&positions), segment: tensor(&segment) }
    }
}

impl Trunk {
    fn load(weights: &Weights<'_>, raw: &RawConfig) -> Result<Self, ModelError> {
        let family = Family::resolve(raw)?;
        let shape = Shape::resolve(raw, &family)?;
        let rope = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref());
        let theta = rope.and_then(|rope| rope.rope_theta).or(raw.rope_theta).unwrap_or(10_000.);
        let epsilon = raw.rms_norm_eps;
        let blocks = (0..shape.layers)
            .map(|i| {
                let layer = weights.at("layers").at(i);
                let norm = |key| RmsNorm::load(&layer.at(key), shape.hidden, epsilon);
                Ok(Block {
                    attention_norm: norm("input_layernorm"),
                    attention: Attention::load(&layer.at("self_attn"), raw, &shape, &family),
                    feed_forward_norm: norm("post_attention_layernorm"),
                    feed_forward: FeedForward::load(&layer.at("mlp"), raw, &family)?,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        Ok(Self {
            embed: Embedding::load(
                &weights.at("embed_tokens"),
                raw.vocab_size,
                shape.hidden,
                raw.initializer_range,
            ),
            blocks,
            norm: RmsNorm::load(&weights.at("norm"), shape.hidden, epsilon),
            rope: Rope::new(
                shape.head_dim,
                theta,
                RopeScaling::resolve(rope)?,
                weights.source().device(),
            ),
            shape,
        })
    }

    /// Last hidden states `[B, T, H]`; `keep` is given each layer's keys and values.
    fn forward(
        &self,
        input: &TokenBatch,
        pass: Pass,
        mut keep: impl FnMut(usize, &[Tensor; 2]),
    ) -> Result<Tensor, LmError> {
        let mut x = self.embed.forward(input.ids());
        let (kind, device) = (x.kind(), x.device());
        let width = input.ids().size()[1];
        // Right padding is never seen by what precedes it, so causality alone is enough and all
        // rows count alike. Left padding shifts the rows and has to be hidden.
        let shifted = input.padding() == Padding::Left && !input.is_full();
        let columns = Tensor::arange(width, (Kind::Int64, device));
        let packed = input.segments().map(|rows| Packed::new(rows, width, device));
        let positions = if let Some(packed) = &packed {
            packed.positions.shallow_clone()
        } else if shifted {
            (input.mask().to_kind(Kind::Int64).cumsum(1, Kind::Int64) - 1).clamp_min(0)
        } else {
            columns.shallow_clone()
        };
        let angles = self.rope.angles(&positions, kind);
        let bias = |window: Option<i64>| {
            let distance = columns.unsqueeze(1) - &columns;
            let mut seen = distance.ge(0);
            if let Some(window) = window {
                seen = seen.logical_and(&distance.lt(window));
            }
            if shifted {
                seen = seen.logical_and(&input.mask().tensor().unsqueeze(1).unsqueeze(1));
            }
            if let Some(Packed { segment, .. }) = &packed {
                let same = segment.unsqueeze(2).eq_tensor(&segment.unsqueeze(1));
                seen = seen.logical_and(&same.unsqueeze(1));
            }
            // [T, T], or [B, 1, T, T] with padding or packing: both broadcast over heads.
            hide(&seen, kind)
        };
        let acts = |window: Option<i64>| window.filter(|window| *window < width);
        let plain = (shifted || packed.is_some()).then(|| bias(None));
        let mut windowed: Option<(i64, Tensor)> = None;
        for (i, block) in self.blocks.iter().enumerate() {
            let visible = match acts(self.shape.windows[i]) {
                Some(window) => {
                    if windowed.as_ref().is_none_or(|(of, _)| *of != window) {
                        windowed = Some((window, bias(Some(window))));
                    }
                    windowed.as_ref().map_or(Visible::Causal, |(_, bias)| Visible::Bias(bias))
                }
                None => plain.as_ref().map_or(Visible::Causal, Visible::Bias),
            };
            x = match pass.activations {
                Activations::Keep => {
                    let (x, kv) = block.forward(&x, &angles, &visible, pass);
                    keep(i, &kv);
                    x
                }
                Activations::Recompute => recompute(block, &x, &angles, &visible, pass)?,
            };
        }
        Ok(self.norm.forward(&x))
    }

    fn open(&self, room: Room) -> Result<DecodeState, LmError> {
        let shape = CacheShape {
            layers: self.shape.layers,
            heads: self.shape.kv_heads,
            head_dim: self.shape.head_dim,
            kind: self.embed.weight.kind(),
            device: self.embed.weight.device(),
        };
        Ok(DecodeState { cache: KvCache::new(shape, room.rows, room.total)?, memory: None })
    }

    fn prefill(&self, cache: &mut KvCache, tokens: &TokenBatch, pass: Pass) -> Result<(), LmError> {
        if rows::serve(self.embed.weight.kind(), self.embed.weight.device(), pass) {
            return self.prefill_rows(cache, tokens, pass);
        }
        if tokens.width() > 0 {
            let pass = Pass { activations: Activations::Keep, ..pass };
            let mut filled = Ok(());
            let _hidden = self.forward(tokens, pass, |layer, [k, v]| {
                if filled.is_ok() {
                    filled = cache.fill(layer, k, v);
                }
            })?;
            filled?;
        }
        cache.enter(&tokens.rows().iter().map(Vec::len).collect::<Vec<_>>())
    }

    fn step(&self, cache: &mut KvCache, tokens: &Tensor, pass: Pass) -> Result<Tensor, LmError> {
        cache.check_space()?;
        if rows::serve(self.embed.weight.kind(), self.embed.weight.device(), pass) {
            return Ok(self.step_rows(cache, tokens, pass));
        }
        let mut x = self.embed.forward(&tokens.unsqueeze(1));
        let angles = self.rope.angles(&cache.positions().unsqueeze(1), x.kind());
        let mut biases: Vec<(Option<i64>, Option<Tensor>)> = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            let window = self.shape.windows[i];
            if !biases.iter().any(|(of, _)| *of == window) {
                let bias = cache.visible(window).map(|seen| hide(&seen, x.kind()));
                biases.push((window, bias));
            }
            let bias = biases.iter().find(|(of, _)| *of == window).and_then(|(_, b)| b.as_ref());
            let normed = block.attention_norm.forward(&x);
            let mixed = block.attention.step(&normed, &angles, cache, i, bias, pass);
            // Not in place: a graph may still need what was added to.
            x = &x + mixed;
            x = block.finish(&x, pass);
        }
        Ok(self.norm.forward(&x).squeeze_dim(1))
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        self.blocks.iter_mut().flat_map(Block::linears).collect()
    }
}

/// A block whose inner activations are computed again in the backward pass.
fn recompute(
    block: &Block,
    x: &Tensor,
    angles: &(Tensor, Tensor),
    visible: &Visible<'_>,
    pass: Pass,
) -> Result<Tensor, LmError> {
    let block = block.handle();
    let angles = (angles.0.shallow_clone(), angles.1.shallow_clone());
    let bias = match visible {
        Visible::Bias(bias) => Some(bias.shallow_clone()),
        Visible::Causal | Visible::All => None,
    };
    let segment = move |inputs: &[Tensor]| {
        let visible = bias.as_ref().map_or(Visible::Causal, Visible::Bias);
        Ok::<_, LmError>(block.forward(&inputs[0], &angles, &visible, pass).0)
    };
    rlaif_torch::checkpoint(&[x], segment)
}

/// A language model of the Llama family. [`rlaif_lm::CausalPolicy`] makes it a policy.
#[derive(Debug)]
pub struct Llama {
    spec: LmSpec,
    config: Config,
    trunk: Trunk,
    /// `None` if the embeddings serve as the head.
    lm_head: Option<Linear>,
    parameters: Parameters,
    adapters: AdapterSet,
}

impl Llama {
    /// Builds the model that `config` describes from the tensors of `source`.
    pub(crate) fn build(config: Config, source: Source<'_>) -> Result<Self, ModelError> {
        let raw: RawConfig = config.parse()?;
        let trunk = Trunk::load(&source.root().at("model"), &raw)?;
        let lm_head = if raw.tie_word_embeddings {
            source.tie("lm_head.weight", "model.embed_tokens.weight");
            None
        } else {
            let std = raw.initializer_range;
            let head = source.root().at("lm_head");
            Some(Linear::load(&head, raw.hidden_size, raw.vocab_size, Bias::Absent, std))
        };
        let spec = spec(&raw, &trunk, source.device());
        let parameters = source.finish(harmless)?;
        Ok(Self { spec, config, trunk, lm_head, parameters, adapters: AdapterSet::default() })
    }

    pub(crate) fn parts(&mut self) -> Parts<'_> {
        Parts {
            linears: self.trunk.linears(),
            head: self.lm_head.iter_mut().collect(),
            parameters: &mut self.parameters,
            adapters: &mut self.adapters,
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }
}

/// Old checkpoints hold the rotary frequencies, which follow from the configuration.
fn harmless(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

fn spec(raw: &RawConfig, trunk: &Trunk, device: Device) -> LmSpec {
    let eos_ids = raw.eos_token_id.clone().map_or_else(Vec::new, OneOrMany::into_vec);
    LmSpec {
        model_type: raw.model_type.clone(),
        hidden_size: raw.hidden_size,
        vocab_size: raw.vocab_size,
        context: Some(raw.max_position_embeddings),
        pad_id: raw.pad_token_id.or(eos_ids.first().copied()).unwrap_or(0),
        eos_ids,
        bos_id: raw.bos_token_id,
        decoder_start_id: None,
        kind: trunk.embed.weight.kind(),
        device,
    }
}

impl CausalLm for Llama {
    fn spec(&self) -> &LmSpec {
        &self.spec
    }

    fn hidden(&self, input: &TokenBatch, forward: Forward<'_>) -> Result<Tensor, LmError> {
        self.trunk.forward(input, self.adapters.resolve(forward)?, |_, _| ())
    }

    fn run_hidden(&self, run: &Branches, forward: Forward<'_>) -> Result<Tensor, LmError> {
        self.trunk.forward_run(run, self.adapters.resolve(forward)?)
    }

    fn open(&self, room: Room) -> Result<DecodeState, LmError> {
        self.trunk.open(room)
    }

    fn prefill(
        &self,
        state: &mut DecodeState,
        tokens: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<(), LmError> {
        self.trunk.prefill(&mut state.cache, tokens, self.adapters.resolve(forward)?)
    }

    fn decode_step(
        &self,
        state: &mut DecodeState,
        tokens: &Tensor,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        let pass = self.adapters.resolve(forward)?;
        self.trunk.step(&mut state.cache, tokens, pass)
    }

    fn head(&self, forward: Forward<'_>) -> Result<VocabHead, LmError> {
        let pass = self.adapters.resolve(forward)?;
        Ok(match &self.lm_head {
            Some(head) => head.vocab_head(1., pass),
            None => VocabHead {
                weight: self.trunk.embed.weight.shallow_clone(),
                bias: None,
                scale: 1.,
                adapter: None,
            },
        })
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}

/// The trunk of the Llama family with a linear head on the last token: the usual form of a reward
/// model (one label), and of classifiers.
#[derive(Debug)]
pub struct LlamaClassifier {
    spec: LmSpec,
    config: Config,
    labels: Labels,
    trunk: Trunk,
    score: Linear,
    parameters: Parameters,
    adapters: AdapterSet,
}

impl LlamaClassifier {
    /// Builds the model that `config` describes from the tensors of `source`.
    pub(crate) fn build(config: Config, source: Source<'_>) -> Result<Self, ModelError> {
        let raw: RawConfig = config.parse()?;
        let labels = Labels::from_config(&config)?;
        let trunk = Trunk::load(&source.root().at("model"), &raw)?;
        let score = Linear::load(
            &source.root().at("score"),
            raw.hidden_size,
            labels.count(),
            Bias::Absent,
            raw.initializer_range,
        );
        let spec = spec(&raw, &trunk, source.device());
        let parameters = source.finish(harmless)?;
        let adapters = AdapterSet::default();
        Ok(Self { spec, config, labels, trunk, score, parameters, adapters })
    }

    pub(crate) fn parts(&mut self) -> Parts<'_> {
        Parts {
            linears: self.trunk.linears(),
            head: vec![&mut self.score],
            parameters: &mut self.parameters,
            adapters: &mut self.adapters,
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }
}

impl SequenceClassifier for LlamaClassifier {
    fn spec(&self) -> &LmSpec {
        &self.spec
    }

    fn labels(&self) -> &[String] {
        self.labels.names()
    }

    fn scheme(&self) -> LabelScheme {
        self.labels.scheme()
    }

    fn logits(
        &self,
        input: &TokenBatch,
        _second_start: Option<&[usize]>,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        let pass = self.adapters.resolve(forward)?;
        let hidden = self.trunk.forward(input, pass, |_, _| ())?;
        let size = hidden.size();
        let last: Vec<i64> = input
            .rows()
            .iter()
            .zip(0..)
            .map(|(row, i)| {
                let column = match input.padding() {
                    Padding::Right => row.len() as i64 - 1,
                    Padding::Left => size[1] - 1,
                };
                i * size[1] + column
            })
            .collect();
        let last = Tensor::from_slice(&last).to_device(self.spec.device);
        let hidden = hidden.reshape([size[0] * size[1], size[2]]).index_select(0, &last);
        Ok(self.score.forward(&hidden, pass).to_kind(Kind::Float))
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}
