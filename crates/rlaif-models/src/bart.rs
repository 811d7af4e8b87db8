//! BART, mBART and PEGASUS: an encoder and a decoder with absolute positions.
//!
//! Papers: [BART, 2019](https://arxiv.org/abs/1910.13461), [mBART, 2020](https://arxiv.org/abs/2001.08210),
//! [PEGASUS, 2019](https://arxiv.org/abs/1912.08777). Checkpoints: `facebook/bart-*`, `facebook/mbart-large-*`,
//! `google/pegasus-*`. Particularities: biases everywhere, a table of positions that begins with two unused rows
//! (PEGASUS: sines), a constant bias of the logits, norms after each part (the others: before). Positions are
//! those of real tokens, so padding on either side changes nothing.

mod config;
mod decode;

use rlaif_lm::{EncodedTokens, Padding, TokenBatch};
use tch::{Device, Kind, Tensor};

use crate::{
    adapter::Pass,
    architecture::{BuiltClassifier, LanguageLayers},
    config::Config,
    error::ModelError,
    labels::Labels,
    layers::{Activation, Bias, Embedding, LayerNorm, Linear, dropout},
    recompute::Shallow,
    seq2seq::{
        Attention, Attentions, Context, LmHead, Role, Seq2SeqBlock, classifier, language_model,
        shared_words,
    },
    vocabulary::LOGITS_BIAS,
    weights::{ModelTensors, TensorTree},
};
pub(crate) use config::{Member, dimensions};
use config::{NormPlace, Shape, Side};

/// ε of all norms, which config.json does not name.
const EPSILON: f64 = 1e-5;
/// Rows of a learned table before that of the first position.
const OFFSET: i64 = 2;

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
    attentions: Attentions<LayerNorm>,
    fc1: Linear,
    fc2: Linear,
    feed_forward_norm: LayerNorm,
    norms: NormPlace,
    activation: Activation,
    dropout: f64,
    activation_dropout: f64,
}

impl Block {
    fn load(weights: &TensorTree<'_>, shape: &Shape, side: Side, role: Role) -> Self {
        let norm = |key| LayerNorm::load(&weights.at(key), shape.d_model, EPSILON);
        let linear = |key, inputs, outputs| {
            Linear::load(&weights.at(key), inputs, outputs, Bias::Present, shape.std)
        };
        let attended = |key, norm_key| (attention(&weights.at(key), shape, side), norm(norm_key));
        Self {
            attentions: Attentions::load(
                role,
                || attended("self_attn", "self_attn_layer_norm"),
                || attended("encoder_attn", "encoder_attn_layer_norm"),
            ),
            fc1: linear("fc1", shape.d_model, side.inner),
            fc2: linear("fc2", side.inner, shape.d_model),
            feed_forward_norm: norm("final_layer_norm"),
            norms: shape.member.norms(),
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
        match self.norms {
            NormPlace::Before => add(&inner(&norm.forward(x))),
            NormPlace::After => norm.forward(&add(&inner(x))),
        }
    }

    /// The feed-forward layer, shared by decoding and training.
    fn finish(&self, x: &Tensor, pass: Pass) -> Tensor {
        let x = self.part(x, &self.feed_forward_norm, &self.fc2, pass, |x| {
            let inner = self.activation.apply(&self.fc1.forward(x, pass));
            dropout(inner, self.activation_dropout, pass.dropout)
        });
        // As in transformers, only the encoder's states are clamped.
        let clamps = x.kind() == Kind::Half && self.attentions.cross.is_none();
        if clamps { x.clamp(-64_504., 64_504.) } else { x }
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        self.attentions.linears().chain([&mut self.fc1, &mut self.fc2]).collect()
    }
}

impl Shallow for Block {
    fn handle(&self) -> Self {
        Self {
            attentions: self.attentions.handle(),
            fc1: self.fc1.handle(),
            fc2: self.fc2.handle(),
            feed_forward_norm: self.feed_forward_norm.handle(),
            ..*self
        }
    }
}

impl Seq2SeqBlock for Block {
    fn forward(&self, x: &Tensor, context: &Context<'_>, pass: Pass) -> Tensor {
        let Attentions { own: (own, norm), cross } = &self.attentions;
        let mut x =
            self.part(x, norm, &own.o, pass, |x| own.self_attention(x, &context.scores, pass));
        if let (Some((cross, norm)), Some((encoded, cover))) = (cross, context.encoded) {
            x = self
                .part(&x, norm, &cross.o, pass, |x| cross.cross_attention(x, encoded, cover, pass));
        }
        self.finish(&x, pass)
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
    fn load(weights: &TensorTree<'_>, shape: &Shape, role: Role, kind: Kind) -> Self {
        let side = shape.side(role);
        let norm = |key| LayerNorm::load(&weights.at(key), shape.d_model, EPSILON);
        let layers = weights.at("layers");
        let block = |i| Block::load(&layers.at(i), shape, side, role);
        Self {
            positions: Positions::load(&weights.at("embed_positions"), shape, kind),
            embedding_norm: shape.member.norms_embeddings().then(|| norm("layernorm_embedding")),
            blocks: (0..side.layers).map(block).collect(),
            norm: (shape.member.norms() == NormPlace::Before).then(|| norm("layer_norm")),
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

    fn end(&self, x: Tensor) -> Tensor {
        match &self.norm {
            Some(norm) => norm.forward(&x),
            None => x,
        }
    }
}

/// Encoder and decoder.
type Trunk = crate::seq2seq::Trunk<Shape, Stack>;

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
        let encoder = Stack::load(&root.at("encoder"), &shape, Role::Encoder, kind);
        let decoder = Stack::load(&root.at("decoder"), &shape, Role::Decoder, kind);
        (Self { shape, words, encoder, decoder }, name)
    }
}

/// Versions in old checkpoints.
fn harmless(name: &str) -> bool {
    matches!(name, "encoder.version" | "decoder.version")
        || matches!(name, "model.encoder.version" | "model.decoder.version")
}

/// Builds the model that `config` describes from the tensors of `source`.
pub(crate) fn build(
    config: Config,
    source: ModelTensors<'_>,
    member: Member,
) -> Result<Box<dyn LanguageLayers>, ModelError> {
    let raw = member.read(&config)?;
    let (trunk, name) = Trunk::load(&source, Shape::resolve(&raw, member)?);
    let Shape { vocab_size, d_model, std, .. } = trunk.shape;
    let layer = if raw.ties_head() && !source.differ("lm_head.weight", &name) {
        source.tie("lm_head.weight", &name);
        Linear::tied("lm_head", &name, trunk.embeddings())
    } else {
        Linear::load(&source.root().at("lm_head"), d_model, vocab_size, Bias::Absent, std)
    };
    let kind = trunk.embeddings().kind();
    let _ = source.root().fixed(LOGITS_BIAS, &[1, vocab_size], kind, || {
        Tensor::zeros([1, vocab_size], (Kind::Float, Device::Cpu))
    });
    let spec = raw.spec(&config, trunk.embeddings())?;
    // transformers 5 reads a head that differs. With `tie_word_embeddings` false, it would expect the
    // embeddings of encoder and decoder apart as well.
    let (bias, untied) = (Some(LOGITS_BIAS), Vec::new());
    let head = LmHead { layer, scale: 1., cap: None, bias, untied };
    language_model(trunk, head, spec, config, source, harmless)
}

/// Builds the classifier that `config` describes from the tensors of `source`.
pub(crate) fn build_classifier(
    config: &Config,
    labels: &Labels,
    source: ModelTensors<'_>,
    member: Member,
) -> Result<BuiltClassifier, ModelError> {
    let raw = member.read(config)?;
    let (trunk, _) = Trunk::load(&source, Shape::resolve(&raw, member)?);
    let spec = raw.spec(config, trunk.embeddings())?;
    let settings = raw.head(member, &spec);
    classifier(trunk, spec, labels, source, settings, harmless)
}
