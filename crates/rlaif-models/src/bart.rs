//! BART, mBART and PEGASUS: an encoder and a decoder with absolute positions.
//!
//! Papers: [BART, 2019](https://arxiv.org/abs/1910.13461), [mBART, 2020](https://arxiv.org/abs/2001.08210),
//! [PEGASUS, 2019](https://arxiv.org/abs/1912.08777). Checkpoints: `facebook/bart-*`, `facebook/mbart-large-*`,
//! `google/pegasus-*`. Particularities: biases everywhere, a table of positions that begins with two unused rows
//! (PEGASUS: sines), a constant bias of the logits, norms after each part (the others: before). Positions are
//! those of real tokens, so padding on either side changes nothing.

mod config;
mod decode;

use rlaif_lm::{
    Activations, DecodeState, DecoderLm, EncodedTokens, EncoderStates, Forward, LmError, LmSpec,
    Padding, Parameters, Room, Seq2SeqLm, TokenBatch, VocabHead,
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
    layers::{Activation, Bias, Embedding, LayerNorm, Linear, dropout},
    recompute::{Shallow, recompute},
    seq2seq::{
        self, Attention, AttentionBias, Cover, HeadSettings, Seq2SeqTrunk, Start, TrunkLayers,
        shared_words, with_head,
    },
    weights::{ModelTensors, TensorTree},
};
pub(crate) use config::{Member, dimensions};
use config::{RawConfig, Shape, Side};

/// ε of all norms, which config.json does not name.
const EPSILON: f64 = 1e-5;
/// Rows of a learned table before that of the first position.
const OFFSET: i64 = 2;
/// The bias of the logits.
const LOGITS_BIAS: &str = "final_logits_bias";

/// Loads the attention at this path.
fn attention(weights: &TensorTree<'_>, shape: &Shape, side: Side) -> Attention {
    let load = |key| {
        let size = shape.d_model;
        Linear::load(&weights.at(key), size, size, Bias::Present, shape.std)
    };
    let head_dim = shape.d_model / side.heads;
    Attention {
        q: load("q_proj"),
        k: load("k_proj"),
        v: load("v_proj"),
        o: load("out_proj"),
        heads: side.heads,
        head_dim,
        scale: (head_dim as f64).powf(-0.5),
        dropout: shape.attention_dropout,
    }
}

/// One layer of a stack: self-attention, in the decoder cross-attention, feed-forward; each with a
/// residual connection around it, and a norm before it or after it.
#[derive(Debug)]
struct Block {
    attention: Attention,
    attention_norm: LayerNorm,
    cross: Option<(Attention, LayerNorm)>,
    fc1: Linear,
    fc2: Linear,
    feed_forward_norm: LayerNorm,
    norms_first: bool,
    activation: Activation,
    dropout: f64,
    activation_dropout: f64,
}

/// The tensors that a block reads besides its input.
struct Context<'a> {
    cover: &'a Cover,
    keys: Keys,
    /// Cross-attention: hidden states of the encoder, and the exclusion of its padding.
    encoded: Option<(&'a Tensor, &'a Cover)>,
}

impl Block {
    fn load(weights: &TensorTree<'_>, shape: &Shape, side: Side, decoder: bool) -> Self {
        let norm = |key| LayerNorm::load(&weights.at(key), shape.d_model, EPSILON);
        let linear = |key, inputs, outputs| {
            Linear::load(&weights.at(key), inputs, outputs, Bias::Present, shape.std)
        };
        Self {
            attention: attention(&weights.at("self_attn"), shape, side),
            attention_norm: norm("self_attn_layer_norm"),
            cross: decoder.then(|| {
                let cross = attention(&weights.at("encoder_attn"), shape, side);
                (cross, norm("encoder_attn_layer_norm"))
            }),
            fc1: linear("fc1", shape.d_model, side.inner),
            fc2: linear("fc2", side.inner, shape.d_model),
            feed_forward_norm: norm("final_layer_norm"),
            norms_first: shape.member.norms_first(),
            activation: shape.activation,
            dropout: shape.dropout,
            activation_dropout: shape.activation_dropout,
        }
    }

    /// The residual connection around `out(inner(x))`, and the norm.
    fn part(
        &self,
        x: &Tensor,
        norm: &LayerNorm,
        out: &Linear,
        pass: Pass,
        inner: impl FnOnce(&Tensor) -> Tensor,
    ) -> Tensor {
        let add = |inner: &Tensor| match pass.dropout_p(self.dropout) {
            0. => out.onto(x, inner, pass),
            _ => x + dropout(out.forward(inner, pass), self.dropout, pass.dropout),
        };
        if self.norms_first { add(&inner(&norm.forward(x))) } else { norm.forward(&add(&inner(x))) }
    }

    fn forward(&self, x: &Tensor, context: &Context<'_>, pass: Pass) -> Tensor {
        let scores = AttentionBias { bias: None, cover: context.cover, keys: context.keys };
        let layer = &self.attention;
        let mut x = self.part(x, &self.attention_norm, &layer.o, pass, |x| {
            layer.self_attention(x, &scores, pass)
        });
        if let (Some((cross, norm)), Some((encoded, cover))) = (&self.cross, context.encoded) {
            x = self
                .part(&x, norm, &cross.o, pass, |x| cross.cross_attention(x, encoded, cover, pass));
        }
        self.finish(&x, pass)
    }

    /// As [`Self::forward`], recomputed in the backward pass.
    fn recomputed(&self, x: &Tensor, context: &Context<'_>, pass: Pass) -> Result<Tensor, LmError> {
        let (cover, keys) = (context.cover.handle(), context.keys);
        let (encoded, shield) = context
            .encoded
            .map_or((None, Cover::Full), |(encoded, cover)| (Some(encoded), cover.handle()));
        let inputs: Vec<&Tensor> = std::iter::once(x).chain(encoded).collect();
        recompute(self, &inputs, move |block, inputs| {
            let encoded = inputs.get(1).map(|encoded| (encoded, &shield));
            block.forward(&inputs[0], &Context { cover: &cover, keys, encoded }, pass)
        })
    }

    /// The feed-forward layer, shared by decoding and training.
    fn finish(&self, x: &Tensor, pass: Pass) -> Tensor {
        let x = self.part(x, &self.feed_forward_norm, &self.fc2, pass, |x| {
            let inner = self.activation.apply(&self.fc1.forward(x, pass));
            dropout(inner, self.activation_dropout, pass.dropout)
        });
        // As in transformers, only the encoder's states are clamped.
        let clamps = x.kind() == Kind::Half && self.cross.is_none();
        if clamps { x.clamp(-64_504., 64_504.) } else { x }
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        let mut all: Vec<&mut Linear> = self.attention.linears().into();
        if let Some((cross, _)) = &mut self.cross {
            all.extend(cross.linears());
        }
        all.extend([&mut self.fc1, &mut self.fc2]);
        all
    }
}

impl Shallow for Block {
    fn handle(&self) -> Self {
        Self {
            attention: self.attention.handle(),
            attention_norm: self.attention_norm.handle(),
            cross: self.cross.handle(),
            fc1: self.fc1.handle(),
            fc2: self.fc2.handle(),
            feed_forward_norm: self.feed_forward_norm.handle(),
            ..*self
        }
    }
}

/// Embeddings of positions.
#[derive(Debug)]
enum Positions {
    /// A table whose first rows are unused.
    Learned(Embedding),
    /// Sines and cosines, which are not trained.
    Sines(Tensor),
}

impl Positions {
    fn load(weights: &TensorTree<'_>, shape: &Shape, kind: Kind) -> Self {
        let Shape { positions, d_model, .. } = *shape;
        if shape.member.learns_positions() {
            return Self::Learned(Embedding::load(weights, positions + OFFSET, d_model, shape.std));
        }
        Self::Sines(
            weights.fixed("weight", &[positions, d_model], kind, || sines(positions, d_model)),
        )
    }

    /// The embeddings of positions `[..]`, `[.., d_model]`.
    fn forward(&self, positions: &Tensor, pass: Pass) -> Tensor {
        match self {
            Self::Learned(table) => table.adapted(&(positions + OFFSET), pass),
            Self::Sines(table) => Tensor::embedding(table, positions, -1, false, false),
        }
    }
}

/// Sines of all positions in the first half of the columns, and cosines in the second; in f64, as in
/// transformers.
fn sines(positions: i64, size: i64) -> Tensor {
    let options = (Kind::Double, Device::Cpu);
    let angles = |first: i64| {
        let columns = Tensor::arange_start_step(first, size, 2, options) - first as f64;
        let frequencies = (columns * (-(10_000f64.ln()) / size as f64)).exp();
        Tensor::arange(positions, options).unsqueeze(1) * frequencies
    };
    Tensor::cat(&[angles(0).sin(), angles(1).cos()], 1).to_kind(Kind::Float)
}

/// The encoder or the decoder.
#[derive(Debug)]
struct Stack {
    positions: Positions,
    embedding_norm: Option<LayerNorm>,
    blocks: Vec<Block>,
    norm: Option<LayerNorm>,
    /// Factor of the embeddings.
    scale: f64,
    dropout: f64,
}

impl Stack {
    fn load(
        weights: &TensorTree<'_>,
        shape: &Shape,
        side: Side,
        decoder: bool,
        kind: Kind,
    ) -> Self {
        let norm = |key: &str, present: bool| {
            present.then(|| LayerNorm::load(&weights.at(key), shape.d_model, EPSILON))
        };
        let layers = weights.at("layers");
        let block = |i| Block::load(&layers.at(i), shape, side, decoder);
        Self {
            positions: Positions::load(&weights.at("embed_positions"), shape, kind),
            embedding_norm: norm("layernorm_embedding", shape.member.norms_embeddings()),
            blocks: (0..side.layers).map(block).collect(),
            norm: norm("layer_norm", shape.member.norms_first()),
            scale: shape.scale,
            dropout: shape.dropout,
        }
    }

    /// The input of the first block, for embedded tokens at these positions.
    fn begin(&self, embedded: Tensor, positions: &Tensor, pass: Pass) -> Tensor {
        let scaled = if self.scale == 1. { embedded } else { embedded * self.scale };
        let x = scaled + self.positions.forward(positions, pass);
        let x = self.embedding_norm.as_ref().map_or_else(|| x.shallow_clone(), |n| n.forward(&x));
        dropout(x, self.dropout, pass.dropout)
    }

    fn forward(&self, mut x: Tensor, context: &Context<'_>, pass: Pass) -> Result<Tensor, LmError> {
        for block in &self.blocks {
            x = match pass.activations {
                Activations::Keep => block.forward(&x, context, pass),
                Activations::Recompute => block.recomputed(&x, context, pass)?,
            };
        }
        Ok(self.end(x))
    }

    fn end(&self, x: Tensor) -> Tensor {
        match &self.norm {
            Some(norm) => norm.forward(&x),
            None => x,
        }
    }
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

/// Positions of real tokens in the layout of an encoder's input, int64.
fn positions(prompts: &TokenBatch, tokens: &EncodedTokens) -> Tensor {
    let device = prompts.ids().device();
    let rows = prompts.rows();
    if matches!(tokens, EncodedTokens::Unpadded(_)) {
        let all: Vec<i64> = rows.iter().flat_map(|row| 0..row.len() as i64).collect();
        return Tensor::from_slice(&all).unsqueeze(0).to_device(device);
    }
    let width = prompts.width() as i64;
    let row = |length: i64| {
        let before = match prompts.padding() {
            Padding::Right => 0,
            Padding::Left => width - length,
        };
        (0..width).map(move |column| (column - before).max(0))
    };
    let all: Vec<i64> = rows.iter().flat_map(|ids| row(ids.len() as i64)).collect();
    Tensor::from_slice(&all).view([-1, width]).to_device(device)
}

impl Trunk {
    /// The layers, and the name of the matrix of embeddings.
    fn load(source: &ModelTensors<'_>, shape: Shape) -> (Self, String) {
        let size = [shape.vocab_size, shape.d_model];
        let (words, name) = shared_words(source, "model.", size, shape.std);
        let words = words.map(|words| words.with_padding(shape.padding));
        let kind = words[0].weight().kind();
        let root = source.root().at("model");
        let encoder = Stack::load(&root.at("encoder"), &shape, shape.encoder, false, kind);
        let decoder = Stack::load(&root.at("decoder"), &shape, shape.decoder, true, kind);
        (Self { shape, words, encoder, decoder }, name)
    }

    /// The matrix of embeddings.
    fn embeddings(&self) -> &Tensor {
        self.words[0].weight()
    }
}

impl Seq2SeqTrunk for Trunk {
    fn encode(&self, prompts: &TokenBatch, pass: Pass) -> Result<EncoderStates, LmError> {
        seq2seq::encode(self, prompts, pass)
    }

    fn decode(&self, ids: &Tensor, encoded: &EncoderStates, pass: Pass) -> Result<Tensor, LmError> {
        let padded = seq2seq::padded_if_needed(self, encoded, pass);
        let encoded = padded.as_ref().unwrap_or(encoded);
        let embedded = self.words[1].adapted(ids, pass);
        let (kind, width) = (embedded.kind(), ids.size()[1]);
        let positions = Tensor::arange(width, (Kind::Int64, ids.device()));
        let x = self.decoder.begin(embedded, &positions, pass);
        let cover = Cover::cross_attention(&encoded.tokens, width, kind);
        let encoded = Some((&encoded.hidden, &cover));
        let context = Context { cover: &Cover::Full, keys: Keys::Causal, encoded };
        self.decoder.forward(x, &context, pass)
    }

    fn layers(&mut self) -> TrunkLayers<'_> {
        let Self { words, encoder, decoder, .. } = self;
        let (mut linears, mut tables) = (Vec::new(), Vec::new());
        for Stack { positions, blocks, .. } in [encoder, decoder] {
            linears.extend(blocks.iter_mut().flat_map(Block::linears));
            tables.extend(match positions {
                Positions::Learned(table) => Some(table),
                Positions::Sines(_) => None,
            });
        }
        TrunkLayers { linears, words: words.iter_mut().collect(), tables }
    }
}

/// A BART, mBART or PEGASUS model. [`rlaif_lm::Seq2SeqPolicy`] makes it a policy.
#[derive(Debug)]
pub(crate) struct Bart {
    frame: Frame,
    trunk: Trunk,
    /// The head, which shares the matrix of the embeddings as a rule.
    lm_head: Linear,
}

/// Versions in old checkpoints.
fn harmless(name: &str) -> bool {
    matches!(name, "encoder.version" | "decoder.version")
        || matches!(name, "model.encoder.version" | "model.decoder.version")
}

impl Bart {
    /// Builds the model that `config` describes from the tensors of `source`.
    pub(crate) fn build(
        config: Config,
        source: ModelTensors<'_>,
        member: Member,
    ) -> Result<Self, ModelError> {
        let raw = RawConfig::read(&config, member)?;
        let (trunk, name) = Trunk::load(&source, Shape::resolve(&raw, member)?);
        let Shape { vocab_size, d_model, std, .. } = trunk.shape;
        let lm_head = if raw.ties_head() && !source.differ("lm_head.weight", &name) {
            source.tie("lm_head.weight", &name);
            Linear::tied("lm_head", &name, trunk.embeddings())
        } else {
            Linear::load(&source.root().at("lm_head"), d_model, vocab_size, Bias::Absent, std)
        };
        let kind = trunk.embeddings().kind();
        let _ = source.root().fixed(LOGITS_BIAS, &[1, vocab_size], kind, || {
            Tensor::zeros([1, vocab_size], (Kind::Float, Device::Cpu))
        });
        let parameters = source.finish(harmless)?;
        let spec = raw.spec(&config, trunk.embeddings())?;
        check_ids(&spec)?;
        Ok(Self { frame: Frame::new(spec, config, parameters), trunk, lm_head })
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
    let (trunk, _) = Trunk::load(&source, Shape::resolve(&raw, member)?);
    let spec = raw.spec(config, trunk.embeddings())?;
    let start = match member {
        Member::MBart => Start::LastOfText,
        Member::Bart | Member::Pegasus => {
            Start::Token(spec.decoder_start_id.unwrap_or(spec.pad_id))
        }
    };
    let settings = HeadSettings {
        start,
        eos_ids: raw.eos_ids(),
        dropout: raw.classifier_dropout(),
        std: raw.std(),
    };
    with_head(trunk, spec, labels, source, settings, harmless)
}

impl Framed for Bart {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn parts(&mut self) -> Parts<'_> {
        let TrunkLayers { linears, words, tables } = self.trunk.layers();
        let mut parts =
            self.frame.parts(linears, vec![&mut self.lm_head]).embeddings(words, tables);
        // transformers 5 reads a head that differs. With `tie_word_embeddings` false, it would expect the
        // embeddings of encoder and decoder apart as well.
        parts.untied = Vec::new();
        parts
    }
}

impl Seq2SeqLm for Bart {
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

impl DecoderLm for Bart {
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
        let mut head = self.lm_head.vocab_head(1., pass);
        let bias = self.frame.parameters.get(LOGITS_BIAS);
        head.bias = bias.map(|bias| bias.view([-1]));
        Ok(head)
    }

    fn parameters(&self) -> &Parameters {
        &self.frame.parameters
    }
}
