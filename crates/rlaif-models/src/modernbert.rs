//! ModernBERT with a head on texts or on tokens.
//!
//! Paper: [Warner et al. 2024](https://arxiv.org/abs/2412.13663). An encoder with rotary positions, norms before
//! the layers, gated feed-forward layers, and attention to all tokens in every third layer, to near ones in
//! the others. The head reads the first token or the mean of all.

use rlaif_lm::{Activations, LmError, TokenBatch};
use serde::Deserialize;
use tch::{Kind, Tensor};

use crate::{
    adapter::Pass,
    architecture::{BuiltClassifier, ClassifierLayers},
    config::{Config, Range, check_layers, check_numbers, check_sizes, encoder_spec},
    dimensions::Dimensions,
    error::ModelError,
    frame::{Frame, Parts},
    labels::Labels,
    layers::{
        Activation, Bias, Embedding, LayerNorm, Linear, Visible, attention, dropout, hide, in_heads,
    },
    recompute::{Shallow, recompute},
    rope::{Angles, RawRope, Rope, RopeContext, RopeNames, RopeSpec, turn},
    sort::{class, of_tokens},
    weights::{ModelTensors, TensorTree},
};

/// The `model_type`.
const CLASS: &str = "modernbert";

/// The used fields of config.json. [`Config::parse`] adds those that the file lacks.
#[derive(Debug, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the fields of a file")]
struct RawConfig {
    vocab_size: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    hidden_activation: String,
    max_position_embeddings: i64,
    initializer_range: f64,
    norm_eps: f64,
    norm_bias: bool,
    attention_bias: bool,
    attention_dropout: f64,
    layer_types: Option<Vec<LayerType>>,
    /// Older spelling: each n-th layer attends to all tokens, from the first on.
    global_attn_every_n_layers: Option<usize>,
    local_attention: i64,
    rope_parameters: Option<RawRope>,
    rope_scaling: Option<RawRope>,
    global_rope_theta: Option<f64>,
    local_rope_theta: Option<f64>,
    embedding_dropout: f64,
    mlp_bias: bool,
    mlp_dropout: f64,
    classifier_pooling: String,
    classifier_dropout: f64,
    classifier_bias: bool,
    classifier_activation: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    /// Attention to all tokens.
    FullAttention,
    /// Attention to near tokens.
    SlidingAttention,
}

impl LayerType {
    const ALL: [Self; 2] = [Self::FullAttention, Self::SlidingAttention];

    /// One of the values for [`Self::ALL`].
    fn of<T>(self, [full, sliding]: &[T; 2]) -> &T {
        match self {
            Self::FullAttention => full,
            Self::SlidingAttention => sliding,
        }
    }
}

/// The input of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pooling {
    /// The first token.
    Cls,
    /// The mean of all tokens.
    Mean,
    /// The last token, for a head on tokens.
    Last,
}

impl RawConfig {
    fn read(config: &Config) -> Result<Self, ModelError> {
        let raw: Self = config.parse(CLASS)?;
        let probability = |field, value| (field, Some(value), Range::Probability);
        check_numbers([
            ("norm_eps", Some(raw.norm_eps), Range::NotNegative),
            ("initializer_range", Some(raw.initializer_range), Range::NotNegative),
            ("global_rope_theta", raw.global_rope_theta, Range::Positive),
            ("local_rope_theta", raw.local_rope_theta, Range::Positive),
            probability("attention_dropout", raw.attention_dropout),
            probability("embedding_dropout", raw.embedding_dropout),
            probability("mlp_dropout", raw.mlp_dropout),
            probability("classifier_dropout", raw.classifier_dropout),
        ])?;
        let (hidden, heads, layers) =
            (raw.hidden_size, raw.num_attention_heads, raw.num_hidden_layers);
        check_sizes([
            ("vocab_size", raw.vocab_size),
            ("hidden_size", hidden),
            ("intermediate_size", raw.intermediate_size),
            ("num_attention_heads", heads),
            ("max_position_embeddings", raw.max_position_embeddings),
            ("local_attention", raw.local_attention),
        ])?;
        check_layers("num_hidden_layers", layers)?;
        let bad = |field, found: String, expected| ModelError::BadField {
            file: None,
            field,
            found,
            expected,
        };
        if hidden % heads != 0 {
            let expected = format!("a multiple of num_attention_heads, {heads}");
            return Err(bad("hidden_size", hidden.to_string(), expected));
        }
        if let Some(types) = raw.layer_types.as_ref().filter(|types| types.len() != layers) {
            let expected = format!("one for each of num_hidden_layers, {layers}");
            return Err(bad("layer_types", types.len().to_string(), expected));
        }
        if raw.global_attn_every_n_layers == Some(0) {
            let expected = "at least 1".to_owned();
            return Err(bad("global_attn_every_n_layers", "0".to_owned(), expected));
        }
        Ok(raw)
    }

    fn pooling(&self, config: &Config) -> Result<Pooling, ModelError> {
        if of_tokens(class(config)) {
            return Ok(Pooling::Last);
        }
        match self.classifier_pooling.as_str() {
            "cls" => Ok(Pooling::Cls),
            "mean" => Ok(Pooling::Mean),
            other => Err(ModelError::UnsupportedField {
                file: None,
                field: "classifier_pooling",
                found: other.to_owned(),
                supported: "cls, mean",
            }),
        }
    }

    fn head_dim(&self) -> i64 {
        self.hidden_size / self.num_attention_heads
    }

    /// The attention of each layer.
    fn attentions(&self) -> Vec<LayerType> {
        self.layer_types.clone().unwrap_or_else(|| {
            let every = self.global_attn_every_n_layers.unwrap_or(3);
            let of = |layer: usize| match layer % every {
                0 => LayerType::FullAttention,
                1.. => LayerType::SlidingAttention,
            };
            (0..self.num_hidden_layers).map(of).collect()
        })
    }

    /// The rotary embeddings of layers that attend to all tokens, and of the others.
    fn ropes(&self) -> Result<[RopeSpec; 2], ModelError> {
        let resolve =
            |section: fn(&RawRope) -> &Option<Box<RawRope>>, theta: Option<f64>, default| {
                let own = self.rope_parameters.as_ref().and_then(|rope| section(rope).as_deref());
                let base = own.and_then(|own| own.rope_theta).or(theta).unwrap_or(default);
                let context = RopeContext {
                    head_dim: self.head_dim(),
                    theta: base,
                    partial: 1.,
                    positions: usize::try_from(self.max_position_embeddings).unwrap_or(usize::MAX),
                    trained: None,
                    names: RopeNames::Usual,
                };
                RopeSpec::resolve(self.rope_scaling.as_ref().or(own), &context)
            };
        Ok([
            resolve(|rope| &rope.full_attention, self.global_rope_theta, 160_000.)?,
            resolve(|rope| &rope.sliding_attention, self.local_rope_theta, 10_000.)?,
        ])
    }
}

/// Sizes of the layers, for memory estimates.
pub(crate) fn dimensions(config: &Config) -> Result<Dimensions, ModelError> {
    let raw = RawConfig::read(config)?;
    Ok(Dimensions::of_encoder(raw.hidden_size, raw.num_hidden_layers, raw.num_attention_heads))
}

/// One layer: attention, then feed-forward, each after a norm and with a residual connection.
#[derive(Debug)]
struct Block {
    /// `None` in the first layer, where embeddings are normed already.
    attention_norm: Option<LayerNorm>,
    qkv: Linear,
    mixed: Linear,
    inner_norm: LayerNorm,
    /// Both halves of the gated layer.
    inner: Linear,
    outer: Linear,
    heads: i64,
    head_dim: i64,
    activation: Activation,
    attention_dropout: f64,
    inner_dropout: f64,
    attention: LayerType,
}

fn norm(weights: &TensorTree<'_>, raw: &RawConfig) -> LayerNorm {
    LayerNorm::load_with(weights, raw.hidden_size, raw.norm_eps, raw.norm_bias.into())
}

impl Block {
    fn load(
        weights: &TensorTree<'_>,
        raw: &RawConfig,
        layer: usize,
        attention: LayerType,
    ) -> Result<Self, ModelError> {
        let (hidden, wide) = (raw.hidden_size, raw.intermediate_size);
        let linear = |key: &str, [inputs, outputs]: [i64; 2], bias: bool| {
            Linear::load(&weights.at(key), inputs, outputs, bias.into(), raw.initializer_range)
        };
        Ok(Self {
            attention_norm: (layer > 0).then(|| norm(&weights.at("attn_norm"), raw)),
            qkv: linear("attn.Wqkv", [hidden, 3 * hidden], raw.attention_bias),
            mixed: linear("attn.Wo", [hidden, hidden], raw.attention_bias),
            inner_norm: norm(&weights.at("mlp_norm"), raw),
            inner: linear("mlp.Wi", [hidden, 2 * wide], raw.mlp_bias),
            outer: linear("mlp.Wo", [wide, hidden], raw.mlp_bias),
            heads: raw.num_attention_heads,
            head_dim: raw.head_dim(),
            activation: Activation::parse("hidden_activation", &raw.hidden_activation)?,
            attention_dropout: raw.attention_dropout,
            inner_dropout: raw.mlp_dropout,
            attention,
        })
    }

    fn forward(&self, x: &Tensor, angles: &Angles, visible: &Visible<'_>, pass: Pass) -> Tensor {
        let normed = self.attention_norm.as_ref().map_or(x.shallow_clone(), |norm| norm.forward(x));
        let all = in_heads(&self.qkv.forward(&normed, pass), 3 * self.heads, self.head_dim);
        let part = |nth| all.narrow(-2, nth * self.heads, self.heads);
        let (q, k) = (turn(&part(0), angles), turn(&part(1), angles));
        let p = pass.dropout_p(self.attention_dropout);
        let scale = (self.head_dim as f64).powf(-0.5);
        let mixed = attention(&q, &k, &part(2), visible, scale, p);
        let mixed = self.mixed.forward(&mixed, pass);
        let x = x + dropout(mixed, self.attention_dropout, pass.dropout);
        let both = self.inner.forward(&self.inner_norm.forward(&x), pass);
        let half = both.size()[2] / 2;
        let inner = self.activation.gated(&both.narrow(-1, 0, half), &both.narrow(-1, half, half));
        let inner = dropout(inner, self.inner_dropout, pass.dropout);
        self.outer.onto(&x, &inner, pass)
    }

    fn linears(&mut self) -> [&mut Linear; 4] {
        [&mut self.qkv, &mut self.mixed, &mut self.inner, &mut self.outer]
    }
}

impl Shallow for Block {
    fn handle(&self) -> Self {
        Self {
            attention_norm: self.attention_norm.handle(),
            qkv: self.qkv.handle(),
            mixed: self.mixed.handle(),
            inner_norm: self.inner_norm.handle(),
            inner: self.inner.handle(),
            outer: self.outer.handle(),
            ..*self
        }
    }
}

/// ModernBERT with a sequence-classification head.
#[derive(Debug)]
struct ModernBert {
    words: Embedding,
    norm: LayerNorm,
    blocks: Vec<Block>,
    final_norm: LayerNorm,
    /// Rotations of layers that attend to all tokens, and of the others.
    ropes: [Rope; 2],
    /// The farthest token that a local layer attends to, on either side.
    reach: i64,
    dense: Linear,
    dense_activation: Activation,
    dense_norm: LayerNorm,
    classifier: Linear,
    pooling: Pooling,
    embedding_dropout: f64,
    classifier_dropout: f64,
}

/// Builds the layers that `config` describes from the tensors of `source`.
pub(crate) fn build(
    config: &Config,
    labels: &Labels,
    source: ModelTensors<'_>,
) -> Result<BuiltClassifier, ModelError> {
    let raw = RawConfig::read(config)?;
    let (hidden, std, device) = (raw.hidden_size, raw.initializer_range, source.device());
    let root = source.root();
    let (trunk, head) = (root.at("model"), root.at("head"));
    let (embeddings, layers) = (trunk.at("embeddings"), trunk.at("layers"));
    let ropes = raw.ropes()?;
    let blocks = raw.attentions().into_iter().enumerate();
    let model = ModernBert {
        words: Embedding::load(&embeddings.at("tok_embeddings"), raw.vocab_size, hidden, std),
        norm: norm(&embeddings.at("norm"), &raw),
        blocks: blocks
            .map(|(i, attention)| Block::load(&layers.at(i), &raw, i, attention))
            .collect::<Result<_, _>>()?,
        final_norm: norm(&trunk.at("final_norm"), &raw),
        ropes: ropes.each_ref().map(|spec| Rope::new(spec, device)),
        reach: raw.local_attention / 2,
        dense: Linear::load(&head.at("dense"), hidden, hidden, raw.classifier_bias.into(), std),
        dense_activation: Activation::parse("classifier_activation", &raw.classifier_activation)?,
        dense_norm: norm(&head.at("norm"), &raw),
        classifier: Linear::load(
            &root.at("classifier"),
            hidden,
            labels.count(),
            Bias::Present,
            std,
        ),
        pooling: raw.pooling(config)?,
        embedding_dropout: raw.embedding_dropout,
        classifier_dropout: raw.classifier_dropout,
    };
    let parameters = source.finish(|name| name.ends_with("rotary_emb.inv_freq"))?;
    let (ids, positions) = (config.special_ids(CLASS)?, raw.max_position_embeddings);
    let spec = encoder_spec(config, ids, hidden, positions, model.words.weight())?;
    Ok((Box::new(model), spec, parameters))
}

impl ModernBert {
    /// The bias of hidden keys, if any are hidden.
    fn bias(&self, input: &TokenBatch, attention: LayerType, kind: Kind) -> Option<Tensor> {
        let width = input.width() as i64;
        let real = (!input.is_full()).then(|| input.mask().tensor().unsqueeze(1).unsqueeze(1));
        let sliding = attention == LayerType::SlidingAttention;
        let near = (sliding && self.reach < width - 1).then(|| {
            let columns = Tensor::arange(width, (Kind::Int64, input.ids().device()));
            (columns.unsqueeze(1) - &columns).abs().le(self.reach)
        });
        let seen = match (real, near) {
            (Some(real), Some(near)) => Some(real.logical_and(&near)),
            (real, near) => real.or(near),
        };
        seen.map(|seen| hide(&seen, kind))
    }
}

impl ClassifierLayers for ModernBert {
    fn hidden(
        &self,
        input: &TokenBatch,
        _: Option<&[usize]>,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let embedded = self.norm.forward(&self.words.adapted(input.ids(), pass));
        let mut x = dropout(embedded, self.embedding_dropout, pass.dropout);
        let kind = x.kind();
        let biases = LayerType::ALL.map(|attention| self.bias(input, attention, kind));
        let counted = input.mask().to_kind(Kind::Int64);
        let positions = (counted.cumsum(1, Kind::Int64) - 1).clamp_min(0);
        let lengths = counted.sum_dim_intlist(1, true, Kind::Int64);
        let angles = self.ropes.each_ref().map(|rope| rope.angles(&positions, &lengths, kind));
        for block in &self.blocks {
            let (bias, angles) =
                (block.attention.of(&biases).as_ref(), block.attention.of(&angles));
            x = match pass.activations() {
                Activations::Keep => {
                    let visible = bias.map_or(Visible::All, Visible::Bias);
                    block.forward(&x, angles, &visible, pass)
                }
                Activations::Recompute => {
                    let (bias, angles) = (bias.map(Tensor::handle), angles.handle());
                    recompute(block, &[&x], move |block, inputs| {
                        let visible = bias.as_ref().map_or(Visible::All, Visible::Bias);
                        block.forward(&inputs[0], &angles, &visible, pass)
                    })?
                }
            };
        }
        Ok(self.final_norm.forward(&x))
    }

    fn parts<'a>(&'a mut self, frame: &'a mut Frame) -> Parts<'a> {
        let trunk = self.blocks.iter_mut().flat_map(Block::linears).collect();
        frame
            .parts(trunk, vec![&mut self.dense, &mut self.classifier])
            .embeddings(vec![&mut self.words], Vec::new())
    }

    fn read_token(&self, row: &[u32]) -> usize {
        if self.pooling == Pooling::Last { row.len().saturating_sub(1) } else { 0 }
    }

    fn pooled(&self, hidden: &Tensor, input: &TokenBatch) -> Option<Tensor> {
        if self.pooling != Pooling::Mean {
            return None;
        }
        let real = input.mask().to_kind(Kind::Int64).unsqueeze(-1);
        let sum = (hidden * &real).sum_dim_intlist(1, false, hidden.kind());
        Some(sum / real.sum_dim_intlist(1, false, Kind::Int64))
    }

    fn score(&self, pooled: Tensor, pass: Pass) -> Tensor {
        let dense = self.dense_activation.apply(&self.dense.forward(&pooled, pass));
        let dense = self.dense_norm.forward(&dense);
        self.classifier.forward(&dropout(dense, self.classifier_dropout, pass.dropout), pass)
    }
}
