//! The Llama family: Llama 2 and 3, Mistral, Qwen2 and Qwen3, as language models and as classifiers.
//!
//! Papers: [Touvron et al. 2023](https://arxiv.org/abs/2307.09288),
//! [Llama 3, 2024](https://arxiv.org/abs/2407.21783),
//! [Mistral, 2023](https://arxiv.org/abs/2310.06825), [Qwen2, 2024](https://arxiv.org/abs/2407.10671),
//! [Qwen3, 2025](https://arxiv.org/abs/2505.09388). One trunk: RMS norms, rotary positions, grouped
//! key-value heads, a gated feed-forward. The members differ by [`LlamaVariant`]: biases on q, k and v
//! (Qwen2), norms on queries and keys (Qwen3), a sliding window (Mistral). Scaled rotary frequencies
//! (Llama 3.1) are in config.json.

mod config;
mod decode;
mod run;
mod variant;

use rlaif_lm::{
    Activations, Branches, CacheShape, CausalLm, DecodeState, DecoderLm, Forward, KvCache, LmError,
    LmSpec, Padding, Parameters, Room, TokenBatch, VocabHead,
};
use tch::{Device, Kind, Tensor};

use crate::{
    adapter::Pass,
    architecture::{BuiltClassifier, ClassifierLayers, Framed},
    config::{Config, check_ids},
    error::ModelError,
    frame::{Frame, Parts},
    labels::Labels,
    layers::{
        Activation, Bias, Embedding, Linear, RmsNorm, Visible, attend, attention, hide, in_heads,
    },
    recompute::{Shallow, recompute},
    rows,
    weights::{Source, TensorTree},
};
pub use config::dimensions;
use config::{RawConfig, RopeScaling, Shape};
pub use variant::{BiasRule, LlamaNames, LlamaVariant, WindowRule};

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
    fn load(weights: &TensorTree<'_>, raw: &RawConfig, shape: &Shape, names: &LlamaNames) -> Self {
        let std = raw.initializer_range;
        let [q, k, v, o] = names.projections;
        let (queries, keys) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let qkv =
            |key, width| Linear::load(&weights.at(key), shape.hidden, width, shape.qkv_bias, std);
        Self {
            q: qkv(q, queries),
            k: qkv(k, keys),
            v: qkv(v, keys),
            o: Linear::load(&weights.at(o), queries, shape.hidden, shape.output_bias, std),
            norms: shape.norm_queries_and_keys.then(|| {
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
}

impl Shallow for Attention {
    fn handle(&self) -> Self {
        Self {
            q: self.q.handle(),
            k: self.k.handle(),
            v: self.v.handle(),
            o: self.o.handle(),
            norms: self.norms.handle(),
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
    fn load(
        weights: &TensorTree<'_>,
        raw: &RawConfig,
        shape: &Shape,
        names: &LlamaNames,
    ) -> Result<Self, ModelError> {
        let [gate, up, down] = names.feed_forward_layers;
        let (hidden, inner) = (raw.hidden_size, raw.intermediate_size);
        let layer = |key, inputs, outputs| {
            let bias = shape.mlp_bias;
            Linear::load(&weights.at(key), inputs, outputs, bias, raw.initializer_range)
        };
        Ok(Self {
            gate: layer(gate, hidden, inner),
            up: layer(up, hidden, inner),
            down: layer(down, inner, hidden),
            activation: Activation::parse("hidden_act", &raw.hidden_act)?,
        })
    }

    /// `residual + down (act(gate x) · up x)`.
    fn onto(&self, residual: &Tensor, x: &Tensor, pass: Pass) -> Tensor {
        let [gate, up] = Linear::project([&self.gate, &self.up], x, pass);
        self.down.onto(residual, &self.activation.gated(&gate, &up), pass)
    }
}

impl Shallow for FeedForward {
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
}

impl Shallow for Block {
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
    embeddings: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    rope: Rope,
}

/// Positions and segments of the tokens of packed rows, int64 `[B, T]` each.
struct Segments {
    /// The position in the segment.
    positions: Tensor,
    /// The segment's number in its row; padding has one of its own.
    segment: Tensor,
}

impl Segments {
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
    fn load(
        root: &TensorTree<'_>,
        raw: &RawConfig,
        variant: &LlamaVariant,
    ) -> Result<Self, ModelError> {
        let names = &variant.names;
        let weights = root.at(names.trunk);
        let shape = Shape::resolve(raw, variant)?;
        let (theta, scaling) = raw.rope()?;
        let epsilon = raw.rms_norm_eps;
        let blocks = (0..shape.layers)
            .map(|i| {
                let layer = weights.at(names.layers).at(i);
                let norm = |key| RmsNorm::load(&layer.at(key), shape.hidden, epsilon);
                Ok(Block {
                    attention_norm: norm(names.attention_norm),
                    attention: Attention::load(&layer.at(names.attention), raw, &shape, names),
                    feed_forward_norm: norm(names.feed_forward_norm),
                    feed_forward: FeedForward::load(
                        &layer.at(names.feed_forward),
                        raw,
                        &shape,
                        names,
                    )?,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        Ok(Self {
            embeddings: Embedding::load(
                &weights.at(names.embeddings),
                raw.vocab_size,
                shape.hidden,
                raw.initializer_range,
            ),
            blocks,
            norm: RmsNorm::load(&weights.at(names.norm), shape.hidden, epsilon),
            rope: Rope::new(shape.head_dim, theta, scaling, weights.source().device()),
            shape,
        })
    }

    /// Embeddings `[.., H]` of ids `[..]`.
    fn embed(&self, ids: &Tensor) -> Tensor {
        let x = self.embeddings.forward(ids);
        if self.shape.embedding_scale == 1. { x } else { x * self.shape.embedding_scale }
    }

    /// Last hidden states `[B, T, H]`; `keep` is given each layer's keys and values.
    fn forward(
        &self,
        input: &TokenBatch,
        pass: Pass,
        mut keep: impl FnMut(usize, &[Tensor; 2]),
    ) -> Result<Tensor, LmError> {
        let mut x = self.embed(input.ids());
        let (kind, device) = (x.kind(), x.device());
        let width = input.ids().size()[1];
        // Right padding is never seen by what precedes it, so causality alone is enough and all
        // rows count alike. Left padding shifts the rows and has to be hidden.
        let shifted = input.padding() == Padding::Left && !input.is_full();
        let columns = Tensor::arange(width, (Kind::Int64, device));
        let packed = input.segments().map(|rows| Segments::new(rows, width, device));
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
            if let Some(Segments { segment, .. }) = &packed {
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
                Activations::Recompute => {
                    let (angles, bias) = (angles.handle(), visible.bias().map(Tensor::handle));
                    recompute(block, &[&x], move |block, inputs| {
                        let visible = bias.as_ref().map_or(Visible::Causal, Visible::Bias);
                        block.forward(&inputs[0], &angles, &visible, pass).0
                    })?
                }
            };
        }
        Ok(self.norm.forward(&x))
    }

    fn open(&self, room: Room) -> Result<DecodeState, LmError> {
        let shape = CacheShape {
            layers: self.shape.layers,
            heads: self.shape.kv_heads,
            head_dim: self.shape.head_dim,
            kind: self.embeddings.weight.kind(),
            device: self.embeddings.weight.device(),
        };
        Ok(DecodeState { cache: KvCache::new(shape, room.rows, room.total)?, memory: None })
    }

    fn prefill(&self, cache: &mut KvCache, tokens: &TokenBatch, pass: Pass) -> Result<(), LmError> {
        if rows::serve(self.embeddings.weight.kind(), self.embeddings.weight.device(), pass) {
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
        if rows::serve(self.embeddings.weight.kind(), self.embeddings.weight.device(), pass) {
            return Ok(self.step_rows(cache, tokens, pass));
        }
        let mut x = self.embed(&tokens.unsqueeze(1));
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
    ///
    /// # Errors
    /// [`ModelError::Config`], [`ModelError::BadField`] and [`ModelError::UnsupportedField`] for a
    /// configuration that cannot be honoured, [`ModelError::Tensors`] and
    /// [`ModelError::MixedKinds`] for tensors that do not fit it.
    pub fn build(
        config: Config,
        source: Source<'_>,
        variant: &LlamaVariant,
    ) -> Result<Self, ModelError> {
        let raw: RawConfig = config.parse(variant.defaults)?;
        let trunk = Trunk::load(&source.root(), &raw, variant)?;
        let LlamaNames { trunk: path, embeddings, head, .. } = variant.names;
        let lm_head = if raw.tie_word_embeddings {
            source.tie(&format!("{head}.weight"), &format!("{path}.{embeddings}.weight"));
            None
        } else {
            let std = raw.initializer_range;
            let head = source.root().at(head);
            Some(Linear::load(&head, raw.hidden_size, raw.vocab_size, Bias::Absent, std))
        };
        let parameters = source.finish(harmless)?;
        let spec = raw.spec(&trunk.embeddings.weight, config.ends()?);
        check_ids(&spec)?;
        let frame = Frame::new(spec, config, parameters);
        Ok(Self { frame, trunk, lm_head })
    }
}

impl Framed for Llama {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn parts(&mut self) -> Parts<'_> {
        self.frame.parts(self.trunk.linears(), self.lm_head.iter_mut().collect())
    }
}

/// Old checkpoints hold the rotary frequencies, which follow from the configuration.
fn harmless(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

impl CausalLm for Llama {
    fn hidden(&self, input: &TokenBatch, forward: Forward<'_>) -> Result<Tensor, LmError> {
        self.trunk.forward(input, self.frame.adapters.resolve(forward)?, |_, _| ())
    }

    fn run_hidden(&self, run: &Branches, forward: Forward<'_>) -> Result<Tensor, LmError> {
        self.trunk.forward_run(run, self.frame.adapters.resolve(forward)?)
    }
}

impl DecoderLm for Llama {
    fn spec(&self) -> &LmSpec {
        &self.frame.spec
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
                weight: self.trunk.embeddings.weight.shallow_clone(),
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
pub struct LlamaClassifier {
    trunk: Trunk,
    score: Linear,
    /// The id that is passed over when the last token is looked for.
    pad_id: Option<u32>,
}

impl LlamaClassifier {
    /// Builds the layers that `config` describes from the tensors of `source`.
    ///
    /// # Errors
    /// As [`Llama::build`].
    pub fn build(
        config: &Config,
        labels: &Labels,
        source: Source<'_>,
        variant: &LlamaVariant,
    ) -> Result<BuiltClassifier, ModelError> {
        let raw: RawConfig = config.parse(variant.defaults)?;
        let trunk = Trunk::load(&source.root(), &raw, variant)?;
        let score = Linear::load(
            &source.root().at("score"),
            raw.hidden_size,
            labels.count(),
            Bias::Absent,
            raw.initializer_range,
        );
        let spec = raw.spec(&trunk.embeddings.weight, config.ends()?);
        let parameters = source.finish(harmless)?;
        check_ids(&spec)?;
        let layers = Self { trunk, score, pad_id: raw.pad_token_id };
        Ok((Box::new(layers), spec, parameters))
    }
}

impl ClassifierLayers for LlamaClassifier {
    fn linears(&mut self) -> (Vec<&mut Linear>, Vec<&mut Linear>) {
        (self.trunk.linears(), vec![&mut self.score])
    }

    fn hidden(
        &self,
        input: &TokenBatch,
        _: Option<&[usize]>,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        self.trunk.forward(input, pass, |_, _| ())
    }

    /// The last token, pad ids passed over, as transformers finds it.
    fn read_token(&self, row: &[u32]) -> usize {
        row.iter().rposition(|id| Some(*id) != self.pad_id).unwrap_or(0)
    }

    fn score(&self, hidden: Tensor, pass: Pass) -> Tensor {
        self.score.forward(&hidden, pass)
    }
}
