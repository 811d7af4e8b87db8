//! T5 and Flan-T5: an encoder and a decoder with relative position biases.
//!
//! Paper: [Raffel et al. 2020](https://arxiv.org/abs/1910.10683); v1.1 and Flan replace ReLU by a
//! gated GELU and untie the head. Checkpoints: `google-t5/t5-*` (v1.0), `google/t5-v1_1-*`,
//! `google/flan-t5-*`. Particularities: RMS norms before each layer, no biases anywhere, no scaling
//! by 1/√d in attention, one relative position bias (of block 0) for the whole stack, and, with
//! tied embeddings, logits scaled by `d_model^-0.5`.

mod config;
mod decode;

use rlaif_lm::{
    Activations, DecodeState, DecoderLm, EncoderStates, Forward, LmError, LmSpec, Parameters, Room,
    Seq2SeqLm, TokenBatch, VocabHead,
};
use rlaif_torch::Keys;
use tch::{Device, Kind, Tensor};

use crate::{
    adapter::Pass,
    architecture::{BuiltClassifier, Framed},
    config::{Config, check_ids},
    error::ModelError,
    frame::{Frame, Parts},
    labels::Labels,
    layers::{Activation, Bias, Embedding, Linear, RmsNorm, dropout},
    recompute::{Shallow, recompute},
    seq2seq::{
        self, Attention, AttentionBias, Cover, HeadSettings, Seq2SeqTrunk, Start, TrunkLayers,
        shared_words, with_head,
    },
    weights::{Init, ModelTensors, TensorTree},
};
use config::{Head, RawConfig, Shape};
pub(crate) use config::{Member, dimensions, written};

/// Direction of a relative position bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// Encoder: keys before and after the query have separate buckets.
    Both,
    /// Decoder: all buckets for keys before the query.
    Back,
}

/// A learned bias per head and bucket of the distance between query and key.
#[derive(Debug)]
struct RelativeBias {
    /// `[buckets, heads]`.
    weight: Tensor,
    /// Bucket of each distance from `-max_distance` to `max_distance` (key minus query), int64;
    /// larger distances use the outermost buckets.
    buckets: Tensor,
    max_distance: i64,
}

impl RelativeBias {
    fn load(weights: &TensorTree<'_>, shape: &Shape, direction: Direction) -> Self {
        let std = (shape.d_model as f64).powf(-0.5);
        Self {
            weight: weights.tensor("weight", &[shape.buckets, shape.heads], Init::Normal { std }),
            buckets: buckets(shape.buckets, shape.max_distance, direction)
                .to_device(weights.source().device()),
            max_distance: shape.max_distance,
        }
    }

    /// Bias `[1, heads, T, S]` for queries and keys at the first T and S positions.
    fn full(&self, queries: i64, keys: i64) -> Tensor {
        let options = (Kind::Int64, self.weight.device());
        let distance =
            Tensor::arange(keys, options) - Tensor::arange(queries, options).unsqueeze(1);
        self.by_distance(&distance).permute([2, 0, 1]).unsqueeze(0).contiguous()
    }

    /// Bias `[B, heads, 1, S]` for one query per row at `positions` `[B]`, keys at 0..S.
    fn at(&self, positions: &Tensor, keys: i64) -> Tensor {
        let distance =
            Tensor::arange(keys, (Kind::Int64, positions.device())) - positions.unsqueeze(1);
        self.by_distance(&distance).permute([0, 2, 1]).unsqueeze(2)
    }

    fn by_distance(&self, distance: &Tensor) -> Tensor {
        let index = distance.clamp(-self.max_distance, self.max_distance) + self.max_distance;
        let bucket = self.buckets.index_select(0, &index.flatten(0, -1)).view_as(distance);
        Tensor::embedding(&self.weight, &bucket, -1, false, false)
    }
}

/// The bucket of each distance (key minus query) from `-max_distance` to `max_distance`: one per
/// distance at first, then logarithmically wider. Computed by libtorch in f32, with the same
/// operations as in transformers, so that rounding at the edges agrees.
fn buckets(buckets: i64, max_distance: i64, direction: Direction) -> Tensor {
    let distance =
        Tensor::arange_start(-max_distance, max_distance + 1, (Kind::Int64, Device::Cpu));
    let (offset, buckets, back) = match direction {
        Direction::Both => {
            let half = buckets / 2;
            (distance.gt(0).to_kind(Kind::Int64) * half, half, distance.abs())
        }
        Direction::Back => (distance.zeros_like(), buckets, -distance.clamp_max(0)),
    };
    let exact = buckets / 2;
    let log = (back.to_kind(Kind::Float) / exact as f64).log()
        / (max_distance as f64 / exact as f64).ln()
        * (buckets - exact) as f64;
    let wide = (log.to_kind(Kind::Int64) + exact).clamp_max(buckets - 1);
    offset + back.where_self(&back.lt(exact), &wide)
}

/// Attention without biases and without scaling.
fn attention(weights: &TensorTree<'_>, shape: &Shape) -> Attention {
    let inner = shape.heads * shape.d_kv;
    let model = shape.d_model as f64;
    let inward = |key, std| Linear::load(&weights.at(key), shape.d_model, inner, Bias::Absent, std);
    Attention {
        q: inward("q", (model * shape.d_kv as f64).powf(-0.5)),
        k: inward("k", model.powf(-0.5)),
        v: inward("v", model.powf(-0.5)),
        o: Linear::load(
            &weights.at("o"),
            inner,
            shape.d_model,
            Bias::Absent,
            (inner as f64).powf(-0.5),
        ),
        heads: shape.heads,
        head_dim: shape.d_kv,
        scale: 1.,
        dropout: shape.dropout,
    }
}

/// The feed-forward layer: `wo act(wi x)`, or gated `wo (act(wi_0 x) · wi_1 x)`.
#[derive(Debug)]
struct FeedForward {
    wi: Linear,
    gate: Option<Linear>,
    wo: Linear,
    activation: Activation,
    dropout: f64,
}

impl FeedForward {
    fn load(weights: &TensorTree<'_>, shape: &Shape) -> Self {
        let inward = |key| {
            let std = (shape.d_model as f64).powf(-0.5);
            Linear::load(&weights.at(key), shape.d_model, shape.d_ff, Bias::Absent, std)
        };
        let (wi, gate) =
            if shape.gated { (inward("wi_1"), Some(inward("wi_0"))) } else { (inward("wi"), None) };
        // The widest sums of the model overflow f16, so this layer then stays in f32.
        let out = weights.at("wo");
        let out = if wi.weight.kind() == Kind::Half { out.in_kind(Kind::Float) } else { out };
        Self {
            wi,
            gate,
            wo: Linear::load(
                &out,
                shape.d_ff,
                shape.d_model,
                Bias::Absent,
                (shape.d_ff as f64).powf(-0.5),
            ),
            activation: shape.activation,
            dropout: shape.dropout,
        }
    }

    /// The input of the output layer.
    fn inner(&self, x: &Tensor, pass: Pass) -> Tensor {
        let inner = match &self.gate {
            Some(gate) => {
                let [gate, up] = Linear::project([gate, &self.wi], x, pass);
                self.activation.gated(&gate, &up)
            }
            None => self.activation.apply(&self.wi.forward(x, pass)),
        };
        let inner = dropout(inner, self.dropout, pass.dropout);
        inner.to_kind(self.wo.weight.kind())
    }

    fn linears(&mut self) -> impl Iterator<Item = &mut Linear> {
        [&mut self.wi, &mut self.wo].into_iter().chain(&mut self.gate)
    }
}

impl Shallow for FeedForward {
    fn handle(&self) -> Self {
        Self { wi: self.wi.handle(), gate: self.gate.handle(), wo: self.wo.handle(), ..*self }
    }
}

/// One layer of a stack: self-attention, in the decoder cross-attention, feed-forward; each with a
/// norm before it and a residual connection around it.
#[derive(Debug)]
struct Block {
    attention: Attention,
    attention_norm: RmsNorm,
    cross: Option<(Attention, RmsNorm)>,
    feed_forward: FeedForward,
    feed_forward_norm: RmsNorm,
    dropout: f64,
}

/// The tensors that a block reads besides its input.
struct Context<'a> {
    /// Self-attention.
    scores: AttentionBias<'a>,
    /// Cross-attention: hidden states of the encoder, and the exclusion of its padding.
    encoded: Option<(&'a Tensor, &'a Cover)>,
}

impl Block {
    fn load(weights: &TensorTree<'_>, shape: &Shape, decoder: bool) -> Self {
        let layers = weights.at("layer");
        let norm = |layer: usize| {
            RmsNorm::load(&layers.at(layer).at("layer_norm"), shape.d_model, shape.epsilon)
        };
        let last = if decoder { 2 } else { 1 };
        Self {
            attention: attention(&layers.at(0).at("SelfAttention"), shape),
            attention_norm: norm(0),
            cross: decoder
                .then(|| (attention(&layers.at(1).at("EncDecAttention"), shape), norm(1))),
            feed_forward: FeedForward::load(&layers.at(last).at("DenseReluDense"), shape),
            feed_forward_norm: norm(last),
            dropout: shape.dropout,
        }
    }

    fn forward(&self, x: &Tensor, context: &Context<'_>, pass: Pass) -> Tensor {
        let (normed, x) = self.attention_norm.before(x);
        let mixed = self.attention.self_attention(&normed, &context.scores, pass);
        let mut x = self.add(&x, &self.attention.o, &mixed, pass);
        if let (Some((cross, norm)), Some((encoded, cover))) = (&self.cross, context.encoded) {
            let (normed, beside) = norm.before(&x);
            let mixed = cross.cross_attention(&normed, encoded, cover, pass);
            x = self.add(&beside, &cross.o, &mixed, pass);
        }
        self.finish(&x, pass)
    }

    /// As [`Self::forward`], recomputed in the backward pass.
    fn recomputed(&self, x: &Tensor, context: &Context<'_>, pass: Pass) -> Result<Tensor, LmError> {
        let AttentionBias { bias, cover, keys } = context.scores;
        let cover = cover.handle();
        let (encoded, shield) = context
            .encoded
            .map_or((None, Cover::Full), |(encoded, cover)| (Some(encoded), cover.handle()));
        // Gradients flow to both, so they are inputs of the segment.
        let optional = [bias, encoded];
        let there = optional.map(|tensor| tensor.is_some());
        let inputs: Vec<&Tensor> =
            std::iter::once(x).chain(optional.into_iter().flatten()).collect();
        recompute(self, &inputs, move |block, inputs| {
            let mut rest = inputs[1..].iter();
            let [bias, encoded] = there.map(|there| if there { rest.next() } else { None });
            let context = Context {
                scores: AttentionBias { bias, cover: &cover, keys },
                encoded: encoded.map(|encoded| (encoded, &shield)),
            };
            block.forward(&inputs[0], &context, pass)
        })
    }

    /// The feed-forward layer, shared by decoding and training.
    fn finish(&self, x: &Tensor, pass: Pass) -> Tensor {
        let (normed, x) = self.feed_forward_norm.before(x);
        let inner = self.feed_forward.inner(&normed, pass);
        self.add(&x, &self.feed_forward.wo, &inner, pass)
    }

    /// The residual connection around the part that ends in `layer`. In f16, the sum is clamped as
    /// in transformers.
    fn add(&self, x: &Tensor, layer: &Linear, inner: &Tensor, pass: Pass) -> Tensor {
        let half = x.kind() == Kind::Half;
        if !half && pass.dropout_p(self.dropout) == 0. {
            return layer.onto(x, inner, pass);
        }
        let sum = x + dropout(layer.forward(inner, pass), self.dropout, pass.dropout);
        if half { sum.clamp(-64_504., 64_504.) } else { sum }
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        let mut all: Vec<&mut Linear> = self.attention.linears().into();
        if let Some((cross, _)) = &mut self.cross {
            all.extend(cross.linears());
        }
        all.extend(self.feed_forward.linears());
        all
    }
}

impl Shallow for Block {
    fn handle(&self) -> Self {
        Self {
            attention: self.attention.handle(),
            attention_norm: self.attention_norm.handle(),
            cross: self.cross.handle(),
            feed_forward: self.feed_forward.handle(),
            feed_forward_norm: self.feed_forward_norm.handle(),
            dropout: self.dropout,
        }
    }
}

/// The encoder or the decoder.
#[derive(Debug)]
struct Stack {
    blocks: Vec<Block>,
    bias: RelativeBias,
    norm: RmsNorm,
    dropout: f64,
}

impl Stack {
    fn load(weights: &TensorTree<'_>, shape: &Shape, layers: usize, direction: Direction) -> Self {
        let block = weights.at("block");
        let first = block.at(0).at("layer").at(0).at("SelfAttention");
        let decoder = direction == Direction::Back;
        Self {
            blocks: (0..layers).map(|i| Block::load(&block.at(i), shape, decoder)).collect(),
            bias: RelativeBias::load(&first.at("relative_attention_bias"), shape, direction),
            norm: RmsNorm::load(&weights.at("final_layer_norm"), shape.d_model, shape.epsilon),
            dropout: shape.dropout,
        }
    }

    fn forward(
        &self,
        embedded: Tensor,
        context: &Context<'_>,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let mut x = dropout(embedded, self.dropout, pass.dropout);
        for block in &self.blocks {
            x = match pass.activations {
                Activations::Keep => block.forward(&x, context, pass),
                Activations::Recompute => block.recomputed(&x, context, pass)?,
            };
        }
        Ok(self.end(&x, pass))
    }

    fn end(&self, x: &Tensor, pass: Pass) -> Tensor {
        dropout(self.norm.forward(x), self.dropout, pass.dropout)
    }
}

/// A T5 model. [`rlaif_lm::Seq2SeqPolicy`] makes it a policy.
#[derive(Debug)]
pub(crate) struct T5 {
    frame: Frame,
    trunk: Trunk,
    /// The head, which may share the matrix of the embeddings.
    lm_head: Linear,
}

/// Encoder and decoder.
#[derive(Debug)]
struct Trunk {
    shape: Shape,
    /// The embeddings of the encoder and of the decoder, which share one matrix as a rule.
    words: [Embedding; 2],
    encoder: Stack,
    decoder: Stack,
}

impl Trunk {
    /// The layers under a path that is empty or ends in a dot, and the name of the matrix of embeddings.
    fn load(source: &ModelTensors<'_>, path: &str, shape: Shape) -> (Self, String) {
        let root = source.root();
        let (words, name) = shared_words(source, path, [shape.vocab_size, shape.d_model], 1.);
        let stack = |key: &str, layers, direction| {
            Stack::load(&root.at(format!("{path}{key}")), &shape, layers, direction)
        };
        let encoder = stack("encoder", shape.encoder_layers, Direction::Both);
        let decoder = stack("decoder", shape.decoder_layers, Direction::Back);
        (Self { words, encoder, decoder, shape }, name)
    }

    /// The matrix of embeddings.
    fn embeddings(&self) -> &Tensor {
        self.words[0].weight()
    }

    fn embed(&self, ids: &Tensor, pass: Pass) -> Tensor {
        self.words[1].adapted(ids, pass)
    }
}

impl Seq2SeqTrunk for Trunk {
    fn encode(&self, prompts: &TokenBatch, pass: Pass) -> Result<EncoderStates, LmError> {
        seq2seq::encode(self, prompts, pass)
    }

    fn decode(&self, ids: &Tensor, encoded: &EncoderStates, pass: Pass) -> Result<Tensor, LmError> {
        let padded = seq2seq::padded_if_needed(self, encoded, pass);
        let encoded = padded.as_ref().unwrap_or(encoded);
        let embedded = self.embed(ids, pass);
        let (kind, width) = (embedded.kind(), ids.size()[1]);
        let bias = self.decoder.bias.full(width, width);
        let cover = Cover::cross_attention(&encoded.tokens, width, kind);
        let scores = AttentionBias { bias: Some(&bias), cover: &Cover::Full, keys: Keys::Causal };
        let context = Context { scores, encoded: Some((&encoded.hidden, &cover)) };
        self.decoder.forward(embedded, &context, pass)
    }

    fn layers(&mut self) -> TrunkLayers<'_> {
        let Self { words, encoder, decoder, .. } = self;
        let blocks = encoder.blocks.iter_mut().chain(&mut decoder.blocks);
        let linears = blocks.flat_map(Block::linears).collect();
        TrunkLayers { linears, words: words.iter_mut().collect(), tables: Vec::new() }
    }
}

/// Builds the classifier that `config` describes from the tensors of `source`.
pub(crate) fn build_classifier(
    config: &Config,
    labels: &Labels,
    source: ModelTensors<'_>,
    member: Member,
) -> Result<BuiltClassifier, ModelError> {
    let raw = RawConfig::read(config, member)?;
    let shape = Shape::resolve(&raw, member, |_| false)?;
    let (trunk, _) = Trunk::load(&source, "transformer.", shape);
    let spec = raw.spec(trunk.embeddings(), config.ends()?);
    let settings = HeadSettings {
        start: Start::Token(spec.decoder_start_id.unwrap_or(spec.pad_id)),
        eos_ids: raw.eos_ids(),
        dropout: raw.classifier_dropout(),
        std: (trunk.shape.d_model as f64).powf(-0.5),
    };
    with_head(trunk, spec, labels, source, settings, harmless)
}

/// Old checkpoints contain an unused cross-attention position bias.
fn harmless(name: &str) -> bool {
    name.ends_with("EncDecAttention.relative_attention_bias.weight")
}

/// Fields of config.json for a head with a matrix of its own.
fn untied(shape: &Shape) -> Vec<(&'static str, bool)> {
    vec![("tie_word_embeddings", false), ("scale_decoder_outputs", shape.head_scale != 1.)]
}

impl T5 {
    /// Builds the model that `config` describes from the tensors of `source`.
    pub(crate) fn build(
        mut config: Config,
        source: ModelTensors<'_>,
        member: Member,
    ) -> Result<Self, ModelError> {
        let raw = RawConfig::read(&config, member)?;
        let shape = Shape::resolve(&raw, member, |name| source.has(name))?;
        let mut head = shape.head;
        let (trunk, name) = Trunk::load(&source, "", shape);
        let shape = &trunk.shape;
        if head == Head::Tied {
            if source.differ("lm_head.weight", &name) {
                head = Head::Own;
                for (field, value) in untied(shape) {
                    config.set(field, value.into());
                }
            } else {
                source.tie("lm_head.weight", &name);
            }
        }
        let lm_head = match head {
            Head::Own => Linear::load(
                &source.root().at("lm_head"),
                shape.d_model,
                shape.vocab_size,
                Bias::Absent,
                (shape.d_model as f64).powf(-0.5),
            ),
            Head::Tied => Linear::tied("lm_head", &name, trunk.embeddings()),
        };
        let parameters = source.finish(harmless)?;
        let forced = config.forced()?;
        let spec = LmSpec { forced, ..raw.spec(trunk.embeddings(), config.ends()?) };
        check_ids(&spec)?;
        let frame = Frame::new(spec, config, parameters);
        Ok(Self { frame, trunk, lm_head })
    }
}

impl Framed for T5 {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn parts(&mut self) -> Parts<'_> {
        let untied = untied(&self.trunk.shape);
        let TrunkLayers { linears, words, tables } = self.trunk.layers();
        let mut parts =
            self.frame.parts(linears, vec![&mut self.lm_head]).embeddings(words, tables);
        parts.untied = untied;
        parts
    }
}

impl Seq2SeqLm for T5 {
    fn encode(&self, prompts: &TokenBatch, forward: Forward<'_>) -> Result<EncoderStates, LmError> {
        self.trunk.encode(prompts, self.frame.adapters.resolve(forward)?)
    }

    fn decode(
        &self,
        ids: &Tensor,
        encoded: &EncoderStates,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        self.trunk.decode(ids, encoded, self.frame.adapters.resolve(forward)?)
    }
}

impl DecoderLm for T5 {
    fn spec(&self) -> &LmSpec {
        &self.frame.spec
    }

    fn open(&self, room: Room) -> Result<DecodeState, LmError> {
        seq2seq::open(&self.trunk, &self.frame.spec, room)
    }

    fn prefill(
        &self,
        state: &mut DecodeState,
        prompts: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<(), LmError> {
        let pass = self.frame.adapters.resolve(forward)?;
        seq2seq::prefill(&self.trunk, &self.frame.spec, state, prompts, pass)
    }

    fn decode_step(
        &self,
        state: &mut DecodeState,
        tokens: &Tensor,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        let pass = self.frame.adapters.resolve(forward)?;
        seq2seq::decode_step(&self.trunk, &self.frame.spec, state, tokens, pass)
    }

    fn head(&self, forward: Forward<'_>) -> Result<VocabHead, LmError> {
        let pass = self.frame.adapters.resolve(forward)?;
        Ok(self.lm_head.vocab_head(self.trunk.shape.head_scale, pass))
    }

    fn parameters(&self) -> &Parameters {
        &self.frame.parameters
    }
}
