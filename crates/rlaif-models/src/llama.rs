//! The Llama family: Llama 2 and 3, Mistral, Qwen2 and Qwen3, as language models and as classifiers.
//!
//! Papers: [Touvron et al. 2023](https://arxiv.org/abs/2307.09288),
//! [Llama 3, 2024](https://arxiv.org/abs/2407.21783),
//! [Mistral, 2023](https://arxiv.org/abs/2310.06825), [Qwen2, 2024](https://arxiv.org/abs/2407.10671),
//! [Qwen3, 2025](https://arxiv.org/abs/2505.09388). One trunk: RMS norms, rotary positions, grouped
//! key-value heads, a gated feed-forward. The families differ by configuration: biases on q, k and v
//! (Qwen2), norms on queries and keys (Qwen3), a sliding window (Mistral), scaled rotary frequencies
//! (Llama 3.1).

mod config;
mod decode;
mod run;

use rlaif_lm::{
    Activations, Branches, CacheShape, CausalLm, DecodeState, Forward, KvCache, LmError, LmSpec,
    Padding, Parameters, Room, TokenBatch, VocabHead,
};
use tch::{Device, Kind, Tensor};

use crate::{
    adapt::{Parts, Pass},
    config::{Config, check_ids},
    error::ModelError,
    frame::Frame,
    labels::Labels,
    layers::{
        Activation, Bias, Embedding, Linear, RmsNorm, Visible, attend, attention, hide, in_heads,
    },
    rows,
    weights::{Source, Weights},
};
use config::{Family, RawConfig, RopeScaling, Shape};

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
        (mixed, [k, v])
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
        mixed.reshape([b, 1, self.heads * self.head_dim])
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

    /// `residual + down (act(gate x) · up x)`.
    fn onto(&self, residual: &Tensor, x: &Tensor, pass: Pass) -> Tensor {
        let [gate, up] = Linear::project([&self.gate, &self.up], x, pass);
        self.down.onto(residual, &self.activation.gated(&gate, &up), pass)
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
        let (normed, x) = self.attention_norm.before(x);
        let (mixed, kv) = self.attention.forward(&normed, angles, visible, pass);
        (self.finish(&self.attention.o.onto(&x, &mixed, pass), pass), kv)
    }

    /// The feed-forward layer, which decoding shares with training.
    fn finish(&self, x: &Tensor, pass: Pass) -> Tensor {
        let (normed, x) = self.feed_forward_norm.before(x);
        self.feed_forward.onto(&x, &normed, pass)
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
        let (theta, scaling) = raw.rope()?;
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
            rope: Rope::new(shape.head_dim, theta, scaling, weights.source().device()),
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
                    filled = cache.layers().fill(layer, k, v);
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
            x = block.finish(&block.attention.o.onto(&x, &mixed, pass), pass);
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
    frame: Frame,
    trunk: Trunk,
    /// `None` if the embeddings serve as the head.
    lm_head: Option<Linear>,
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
        let parameters = source.finish(harmless)?;
        let spec = raw.spec(&trunk.embed.weight);
        check_ids(&spec)?;
        let frame = Frame::new(spec, config, parameters);
        Ok(Self { frame, trunk, lm_head })
    }

    pub(crate) fn frame(&self) -> &Frame {
        &self.frame
    }

    pub(crate) fn parts(&mut self) -> Parts<'_> {
        self.frame.parts(self.trunk.linears(), self.lm_head.iter_mut().collect())
    }
}

/// Old checkpoints hold the rotary frequencies, which follow from the configuration.
fn harmless(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

impl CausalLm for Llama {
    fn spec(&self) -> &LmSpec {
        &self.frame.spec
    }

    fn hidden(&self, input: &TokenBatch, forward: Forward<'_>) -> Result<Tensor, LmError> {
        self.trunk.forward(input, self.frame.adapters.resolve(forward)?, |_, _| ())
    }

    fn run_hidden(&self, run: &Branches, forward: Forward<'_>) -> Result<Tensor, LmError> {
        self.trunk.forward_run(run, self.frame.adapters.resolve(forward)?)
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
        self.trunk.prefill(&mut state.cache, tokens, self.frame.adapters.resolve(forward)?)
    }

    fn decode_step(
        &self,
        state: &mut DecodeState,
        tokens: &Tensor,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        let pass = self.frame.adapters.resolve(forward)?;
        self.trunk.step(&mut state.cache, tokens, pass)
    }

    fn head(&self, forward: Forward<'_>) -> Result<VocabHead, LmError> {
        let pass = self.frame.adapters.resolve(forward)?;
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
        &self.frame.parameters
    }
}

/// The trunk of the Llama family with a linear head on the last token: the usual form of a reward
/// model (one label), and of classifiers.
#[derive(Debug)]
pub(crate) struct LlamaClassifier {
    trunk: Trunk,
    score: Linear,
    /// The id that is passed over when the last token is looked for.
    pad_id: Option<u32>,
}

impl LlamaClassifier {
    /// Builds the layers that `config` describes from the tensors of `source`.
    pub(crate) fn build(
        config: &Config,
        labels: &Labels,
        source: Source<'_>,
    ) -> Result<(Self, LmSpec, Parameters), ModelError> {
        let raw: RawConfig = config.parse()?;
        let trunk = Trunk::load(&source.root().at("model"), &raw)?;
        let score = Linear::load(
            &source.root().at("score"),
            raw.hidden_size,
            labels.count(),
            Bias::Absent,
            raw.initializer_range,
        );
        let spec = raw.spec(&trunk.embed.weight);
        let parameters = source.finish(harmless)?;
        check_ids(&spec)?;
        Ok((Self { trunk, score, pad_id: raw.pad_token_id }, spec, parameters))
    }

    /// The linear layers of the trunk, and of the head.
    pub(crate) fn linears(&mut self) -> (Vec<&mut Linear>, Vec<&mut Linear>) {
        (self.trunk.linears(), vec![&mut self.score])
    }

    /// Last hidden states `[B, T, H]`.
    pub(crate) fn hidden(&self, input: &TokenBatch, pass: Pass) -> Result<Tensor, LmError> {
        self.trunk.forward(input, pass, |_, _| ())
    }

    /// The token of a row whose hidden state is classified: the last one, pad ids passed over, as
    /// transformers finds it.
    pub(crate) fn read_token(&self, row: &[u32]) -> usize {
        row.iter().rposition(|id| Some(*id) != self.pad_id).unwrap_or(0)
    }

    /// Logits `[B, labels]` of hidden states `[B, H]`.
    pub(crate) fn score(&self, hidden: &Tensor, pass: Pass) -> Tensor {
        self.score.forward(hidden, pass)
    }
}
