//! T5 and Flan-T5: an encoder and a decoder with relative position biases.
//!
//! Paper: [Raffel et al. 2020](https://arxiv.org/abs/1910.10683); v1.1 and Flan replace ReLU by a
//! gated GELU and untie the head. Checkpoints: `google-t5/t5-*` (v1.0), `google/t5-v1_1-*`,
//! `google/flan-t5-*`. Particularities: RMS norms before each layer, no biases anywhere, no scaling
//! by 1/√d in attention, one relative position bias (of block 0) for the whole stack, and, with
//! tied embeddings, logits scaled by `d_model^-0.5`.

mod config;
mod decode;
pub(crate) mod tokens;

use rlaif_lm::{LmError, LmSpec};
use tch::{Device, Kind, Tensor};

use crate::{
    adapter::Pass,
    architecture::{BuiltClassifier, LanguageLayers},
    config::Config,
    error::ModelError,
    labels::Labels,
    layers::{Activation, Bias, Linear, RmsNorm, dropout},
    recompute::Shallow,
    seq2seq::{
        Attention, Attentions, Context, LmHead, Role, Seq2SeqBlock, classifier, language_model,
        run_blocks, shared_words,
    },
    weights::{Init, ModelTensors, TensorTree},
};
use config::{FeedForwardForm, Head, Shape};
pub(crate) use config::{Member, dimensions, written};

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
    fn load(weights: &TensorTree<'_>, shape: &Shape, role: Role) -> Self {
        let std = (shape.d_model as f64).powf(-0.5);
        Self {
            weight: weights.tensor("weight", &[shape.buckets, shape.heads], Init::Normal { std }),
            buckets: buckets(shape.buckets, shape.max_distance, role)
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
fn buckets(buckets: i64, max_distance: i64, role: Role) -> Tensor {
    let distance =
        Tensor::arange_start(-max_distance, max_distance + 1, (Kind::Int64, Device::Cpu));
    let (offset, buckets, back) = match role {
        // Keys before and after the query have separate buckets.
        Role::Encoder => {
            let half = buckets / 2;
            (distance.gt(0).to_kind(Kind::Int64) * half, half, distance.abs())
        }
        // All buckets are for keys before the query.
        Role::Decoder => (distance.zeros_like(), buckets, -distance.clamp_max(0)),
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
        let (wi, gate) = match shape.feed_forward {
            FeedForwardForm::Gated => (inward("wi_1"), Some(inward("wi_0"))),
            FeedForwardForm::Plain => (inward("wi"), None),
        };
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
    attentions: Attentions<RmsNorm>,
    feed_forward: FeedForward,
    feed_forward_norm: RmsNorm,
    dropout: f64,
}

impl Block {
    fn load(weights: &TensorTree<'_>, shape: &Shape, role: Role) -> Self {
        let layers = weights.at("layer");
        let norm = |layer: usize| {
            RmsNorm::load(&layers.at(layer).at("layer_norm"), shape.d_model, shape.epsilon)
        };
        let attended =
            |layer: usize, key| (attention(&layers.at(layer).at(key), shape), norm(layer));
        let last = match role {
            Role::Encoder => 1,
            Role::Decoder => 2,
        };
        Self {
            attentions: Attentions::load(
                role,
                || attended(0, "SelfAttention"),
                || attended(1, "EncDecAttention"),
            ),
            feed_forward: FeedForward::load(&layers.at(last).at("DenseReluDense"), shape),
            feed_forward_norm: norm(last),
            dropout: shape.dropout,
        }
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
        self.attentions.linears().chain(self.feed_forward.linears()).collect()
    }
}

impl Shallow for Block {
    fn handle(&self) -> Self {
        Self {
            attentions: self.attentions.handle(),
            feed_forward: self.feed_forward.handle(),
            feed_forward_norm: self.feed_forward_norm.handle(),
            dropout: self.dropout,
        }
    }
}

impl Seq2SeqBlock for Block {
    fn forward(&self, x: &Tensor, context: &Context<'_>, pass: Pass) -> Tensor {
        let Attentions { own: (own, norm), cross } = &self.attentions;
        let (normed, x) = norm.before(x);
        let mixed = own.self_attention(&normed, &context.scores, pass);
        let mut x = self.add(&x, &own.o, &mixed, pass);
        if let (Some((cross, norm)), Some((encoded, cover))) = (cross, context.encoded) {
            let (normed, beside) = norm.before(&x);
            let mixed = cross.cross_attention(&normed, encoded, cover, pass);
            x = self.add(&beside, &cross.o, &mixed, pass);
        }
        self.finish(&x, pass)
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
    fn load(weights: &TensorTree<'_>, shape: &Shape, layers: usize, role: Role) -> Self {
        let block = weights.at("block");
        let first = block.at(0).at("layer").at(0).at("SelfAttention");
        Self {
            blocks: (0..layers).map(|i| Block::load(&block.at(i), shape, role)).collect(),
            bias: RelativeBias::load(&first.at("relative_attention_bias"), shape, role),
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
        let x = dropout(embedded, self.dropout, pass.dropout);
        Ok(self.end(&run_blocks(&self.blocks, x, context, pass)?, pass))
    }

    fn end(&self, x: &Tensor, pass: Pass) -> Tensor {
        dropout(self.norm.forward(x), self.dropout, pass.dropout)
    }
}

/// Encoder and decoder.
type Trunk = crate::seq2seq::Trunk<Shape, Stack>;

impl Trunk {
    /// The layers under a path that is empty or ends in a dot, and the name of the matrix of embeddings.
    fn load(source: &ModelTensors<'_>, path: &str, shape: Shape) -> (Self, String) {
        let root = source.root();
        let (words, name) = shared_words(source, path, [shape.vocab_size, shape.d_model], 1.);
        let stack = |key: &str, layers, role| {
            Stack::load(&root.at(format!("{path}{key}")), &shape, layers, role)
        };
        let encoder = stack("encoder", shape.encoder_layers, Role::Encoder);
        let decoder = stack("decoder", shape.decoder_layers, Role::Decoder);
        (Self { words, encoder, decoder, shape }, name)
    }
}

/// Old checkpoints contain an unused cross-attention position bias.
fn harmless(name: &str) -> bool {
    name.ends_with("EncDecAttention.relative_attention_bias.weight")
}

/// Fields of config.json for a head with a matrix of its own.
fn untied(shape: &Shape) -> Vec<(&'static str, bool)> {
    vec![("tie_word_embeddings", false), ("scale_decoder_outputs", shape.head_scale != 1.)]
}

/// Builds the model that `config` describes from the tensors of `source`.
pub(crate) fn build(
    mut config: Config,
    source: ModelTensors<'_>,
    member: Member,
) -> Result<Box<dyn LanguageLayers>, ModelError> {
    let raw = member.read(&config)?;
    raw.check_encoder_decoder()?;
    let shape = Shape::resolve(&raw, member, |name| source.has(name))?;
    let mut head = shape.head;
    let (trunk, name) = Trunk::load(&source, "", shape);
    let shape = &trunk.shape;
    let untied = untied(shape);
    if head == Head::Tied {
        if source.differ("lm_head.weight", &name) {
            head = Head::Own;
            for (field, value) in &untied {
                config.set(field, (*value).into());
            }
        } else {
            source.tie("lm_head.weight", &name);
        }
    }
    let layer = match head {
        Head::Own => Linear::load(
            &source.root().at("lm_head"),
            shape.d_model,
            shape.vocab_size,
            Bias::Absent,
            (shape.d_model as f64).powf(-0.5),
        ),
        Head::Tied => Linear::tied("lm_head", &name, trunk.embeddings()),
    };
    let forced = config.forced()?;
    let spec = LmSpec { forced, ..raw.spec(trunk.embeddings(), config.ends()?) };
    let head = LmHead { layer, scale: shape.head_scale, bias: None, cap: None, untied };
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
    raw.check_encoder_decoder()?;
    let shape = Shape::resolve(&raw, member, |_| false)?;
    let (trunk, _) = Trunk::load(&source, "transformer.", shape);
    let spec = raw.spec(trunk.embeddings(), config.ends()?);
    let settings = raw.head(&spec);
    classifier(trunk, spec, labels, source, settings, harmless)
}
