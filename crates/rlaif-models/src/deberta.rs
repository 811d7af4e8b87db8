//! DeBERTa v2 and v3 with a head on texts or on tokens.
//!
//! Papers: [DeBERTa, 2020](https://arxiv.org/abs/2006.03654), [DeBERTaV3, 2021](https://arxiv.org/abs/2111.09543).
//! BERT's blocks with disentangled attention: to the scores of words on words are added those of words on
//! relative positions (c2p) and of relative positions on words (p2c). Positions may be in buckets, which widen
//! with the distance; a convolution may run beside the first block.

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
    layers::{Activation, Bias, Embedding, LayerNorm, Linear, dropout, hide, in_heads},
    recompute::{Shallow, recompute},
    roberta::{Block, BlockShape, TensorNames, segments},
    sort::{class, of_tokens},
    weights::{Init, ModelTensors, TensorTree},
};

/// The `model_type`.
const CLASS: &str = "deberta-v2";

/// The used fields of config.json. [`Config::parse`] adds those that the file lacks; the optional ones are
/// not in transformers' class, and read by it all the same.
#[derive(Debug, Deserialize)]
struct RawConfig {
    vocab_size: i64,
    hidden_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    intermediate_size: i64,
    hidden_act: String,
    hidden_dropout_prob: f64,
    attention_probs_dropout_prob: f64,
    max_position_embeddings: i64,
    type_vocab_size: i64,
    layer_norm_eps: f64,
    initializer_range: f64,
    relative_attention: bool,
    max_relative_positions: i64,
    position_biased_input: bool,
    pos_att_type: Option<Kinds>,
    pooler_dropout: f64,
    pooler_hidden_act: String,
    share_att_key: Option<bool>,
    position_buckets: Option<i64>,
    norm_rel_ebd: Option<String>,
    conv_kernel_size: Option<i64>,
    conv_groups: Option<i64>,
    conv_act: Option<String>,
    attention_head_size: Option<i64>,
    embedding_size: Option<i64>,
    pooler_hidden_size: Option<i64>,
    cls_dropout: Option<f64>,
}

/// Kinds of scores of relative positions: a list, or joined by `|`.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a list of `c2p` and `p2c`, or both joined by `|`")]
enum Kinds {
    List(Vec<String>),
    Joined(String),
}

impl RawConfig {
    fn read(config: &Config) -> Result<Self, ModelError> {
        let raw: Self = config.parse(CLASS)?;
        raw.check()?;
        Ok(raw)
    }

    fn check(&self) -> Result<(), ModelError> {
        let probability = |field, value| (field, value, Range::Probability);
        check_numbers([
            ("layer_norm_eps", Some(self.layer_norm_eps), Range::NotNegative),
            ("initializer_range", Some(self.initializer_range), Range::NotNegative),
            probability("hidden_dropout_prob", Some(self.hidden_dropout_prob)),
            probability("attention_probs_dropout_prob", Some(self.attention_probs_dropout_prob)),
            probability("pooler_dropout", Some(self.pooler_dropout)),
            probability("cls_dropout", self.cls_dropout),
        ])?;
        let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
        check_sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", hidden),
            ("num_attention_heads", heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            // Without segments, 0.
            ("type_vocab_size", self.type_vocab_size.saturating_add(1)),
            ("embedding_size", self.embedding_size()),
            ("conv_groups", self.conv_groups.unwrap_or(1)),
            ("max_relative_positions", self.max_relative_positions.max(1)),
            ("position_buckets", self.position_buckets.unwrap_or(1).max(1)),
        ])?;
        check_layers("num_hidden_layers", self.num_hidden_layers)?;
        if hidden % heads != 0 {
            let expected = format!("a multiple of num_attention_heads, {heads}");
            return Err(bad("hidden_size", hidden, expected));
        }
        // transformers cannot compute others either.
        for (field, size, wanted) in [
            ("attention_head_size", self.attention_head_size, hidden / heads),
            ("pooler_hidden_size", self.pooler_hidden_size, hidden),
        ] {
            if let Some(size) = size.filter(|size| *size != wanted) {
                return Err(bad(field, size, wanted.to_string()));
            }
        }
        let (kernel, groups) = (self.kernel(), self.conv_groups.unwrap_or(1));
        if kernel > 0 && kernel % 2 == 0 {
            return Err(bad("conv_kernel_size", kernel, "an odd number, or 0".to_owned()));
        }
        if kernel > 0 && hidden % groups != 0 {
            let expected = format!("a divisor of hidden_size, {hidden}");
            return Err(bad("conv_groups", groups, expected));
        }
        Ok(())
    }

    fn embedding_size(&self) -> i64 {
        self.embedding_size.unwrap_or(self.hidden_size)
    }

    /// Width of the convolution; 0 without one.
    fn kernel(&self) -> i64 {
        self.conv_kernel_size.unwrap_or(0).max(0)
    }

    /// `true` if scores of this kind are added.
    fn has(&self, kind: &str) -> bool {
        match &self.pos_att_type {
            None => false,
            Some(Kinds::List(kinds)) => kinds.iter().any(|name| name == kind),
            Some(Kinds::Joined(kinds)) => {
                kinds.to_lowercase().split('|').any(|name| name.trim() == kind)
            }
        }
    }

    /// The relative positions, if attention uses them.
    fn relative(&self) -> Option<Buckets> {
        let longest = match self.max_relative_positions {
            longest if longest < 1 => self.max_position_embeddings,
            longest => longest,
        };
        let buckets = self.position_buckets.filter(|buckets| *buckets > 0);
        let span = buckets.unwrap_or(longest);
        self.relative_attention.then_some(Buckets { buckets, longest, span })
    }
}

fn bad(field: &'static str, found: i64, expected: String) -> ModelError {
    ModelError::BadField { file: None, field, found: found.to_string(), expected }
}

/// Sizes of the layers, for memory estimates.
pub(crate) fn dimensions(config: &Config) -> Result<Dimensions, ModelError> {
    let raw = RawConfig::read(config)?;
    Ok(Dimensions::of_encoder(raw.hidden_size, raw.num_hidden_layers, raw.num_attention_heads))
}

/// Relative positions and the rows of their table, `2 · span`.
#[derive(Debug, Clone, Copy)]
struct Buckets {
    /// Number of buckets on each side; `None` for one per position.
    buckets: Option<i64>,
    /// The position at which buckets end.
    longest: i64,
    span: i64,
}

impl Buckets {
    /// Row of the table for each query and key, int64 `[T, T]`, and for each key and query.
    fn rows(self, length: i64, like: &Tensor) -> (Tensor, Tensor) {
        let places = Tensor::arange(length, (Kind::Int64, like.device()));
        let mut distance = places.unsqueeze(1) - &places;
        if let Some(buckets) = self.buckets {
            // In f32, as in transformers, so that rounding gives the same buckets.
            let middle = buckets / 2;
            let near = distance.abs().lt(middle);
            let far = distance.abs().masked_fill(&near, (middle - 1) as f64);
            let ratio = Tensor::from((self.longest - 1) as f64 / middle as f64);
            let ratio = ratio.to_kind(Kind::Float).log().to_device(like.device());
            let steps = (far.to_kind(Kind::Float) / middle as f64).log() / ratio;
            let steps = (steps * (middle - 1) as f64).ceil() + middle as f64;
            let steps = (steps * distance.sign().to_kind(Kind::Float)).to_kind(Kind::Int64);
            distance = distance.where_self(&far.le(middle), &steps);
        }
        let rows = (distance + self.span).clamp(0, 2 * self.span - 1);
        // The gradient of a look-up by a strided index takes longer.
        let transposed = rows.tr().contiguous();
        (rows, transposed)
    }
}

/// A block of BERT with disentangled attention.
#[derive(Debug)]
struct Layer {
    block: Block,
    /// Projections of the table of positions to keys and to queries; those of words if they are shared.
    position_key: Option<Linear>,
    position_query: Option<Linear>,
    c2p: bool,
    p2c: bool,
    /// Probability of dropout on the table.
    dropout: f64,
}

impl Layer {
    fn load(weights: &TensorTree<'_>, raw: &RawConfig, shape: &BlockShape) -> Self {
        let own = raw.relative_attention && raw.share_att_key != Some(true);
        let projection = |key, there: bool| {
            let (size, std) = (raw.hidden_size, raw.initializer_range);
            (own && there).then(|| {
                let place = weights.at("attention.self").at(key);
                Linear::load(&place, size, size, Bias::Present, std)
            })
        };
        let (c2p, p2c) = (raw.has("c2p"), raw.has("p2c"));
        Self {
            block: Block::load(weights, shape, &NAMES),
            position_key: projection("pos_key_proj", c2p),
            position_query: projection("pos_query_proj", p2c),
            c2p,
            p2c,
            dropout: raw.hidden_dropout_prob,
        }
    }

    /// The output for `x`, with the table of positions `[2 · span, H]`, its row for each query and key, and the
    /// bias of hidden keys.
    fn forward(
        &self,
        x: &Tensor,
        positions: Option<&Tensor>,
        rows: Option<&(Tensor, Tensor)>,
        bias: Option<&Tensor>,
        pass: Pass,
    ) -> Tensor {
        let Block { heads, head_dim, query, key, .. } = &self.block;
        let [q, k, v] = self.block.project(x, pass).map(|x| x.transpose(1, 2));
        let parts = 1 + i64::from(self.c2p) + i64::from(self.p2c);
        let scale = ((head_dim * parts) as f64).powf(-0.5);
        let mut scores = q.matmul(&k.transpose(-1, -2));
        if let (Some(positions), Some((rows, transposed))) = (positions, rows) {
            let positions = dropout(positions.shallow_clone(), self.dropout, pass.dropout);
            // [heads, D, 2 · span]
            let projected = |layer: &Linear| {
                in_heads(&layer.forward(&positions, pass), *heads, *head_dim).permute([1, 2, 0])
            };
            let at =
                |x: Tensor, rows: &Tensor| x.gather(-1, &rows.expand(scores.size(), false), false);
            let mut sum = scores.zeros_like();
            if self.c2p {
                let keys = projected(self.position_key.as_ref().unwrap_or(key));
                sum += at(q.matmul(&keys), rows);
            }
            if self.p2c {
                let queries = projected(self.position_query.as_ref().unwrap_or(query));
                sum += at(k.matmul(&queries), transposed).transpose(-1, -2);
            }
            scores += sum;
        }
        scores *= scale;
        if let Some(bias) = bias {
            scores += bias;
        }
        let weights = scores.softmax(-1, Kind::Float).to_kind(v.kind());
        let weights = dropout(weights, self.block.attention_dropout, pass.dropout);
        let mixed = weights.matmul(&v).transpose(1, 2).flatten(2, 3);
        self.block.finish(x, &mixed, pass)
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        let mut all: Vec<&mut Linear> = self.block.linears().into_iter().collect();
        all.extend(self.position_key.iter_mut().chain(&mut self.position_query));
        all
    }
}

impl Shallow for Layer {
    fn handle(&self) -> Self {
        Self {
            block: self.block.handle(),
            position_key: self.position_key.handle(),
            position_query: self.position_query.handle(),
            ..*self
        }
    }
}

const NAMES: TensorNames = TensorNames {
    trunk: "deberta",
    projections: [
        "attention.self.query_proj",
        "attention.self.key_proj",
        "attention.self.value_proj",
    ],
    ..TensorNames::BERT
};

/// A convolution over the embeddings, added to the output of the first block.
#[derive(Debug)]
struct Convolution {
    weight: Tensor,
    bias: Tensor,
    norm: LayerNorm,
    groups: i64,
    /// `None` for tanh.
    activation: Option<Activation>,
    dropout: f64,
}

impl Convolution {
    fn load(weights: &TensorTree<'_>, raw: &RawConfig) -> Result<Self, ModelError> {
        let (hidden, groups) = (raw.hidden_size, raw.conv_groups.unwrap_or(1));
        let kernel = weights.at("conv");
        let init = Init::Normal { std: raw.initializer_range };
        Ok(Self {
            weight: kernel.tensor("weight", &[hidden, hidden / groups, raw.kernel()], init),
            bias: kernel.tensor("bias", &[hidden], Init::Zeros),
            norm: LayerNorm::load(&weights.at("LayerNorm"), hidden, raw.layer_norm_eps),
            groups,
            activation: activation("conv_act", raw.conv_act.as_deref().unwrap_or("tanh"))?,
            dropout: raw.hidden_dropout_prob,
        })
    }

    /// The sum of `x` and the convolution of `embedded`; `mask` is 1 for real tokens, `[B, T, 1]`.
    fn forward(&self, embedded: &Tensor, x: &Tensor, mask: &Tensor, pass: Pass) -> Tensor {
        let padding = (self.weight.size()[2] - 1) / 2;
        let made = embedded.transpose(1, 2).conv1d(
            &self.weight,
            Some(&self.bias),
            [1],
            [padding],
            [1],
            self.groups,
        );
        let made = dropout(made.transpose(1, 2) * mask, self.dropout, pass.dropout);
        self.norm.forward(&(x + apply(self.activation, &made))) * mask
    }
}

/// An activation by its name; `None` for tanh.
fn activation(field: &'static str, name: &str) -> Result<Option<Activation>, ModelError> {
    if name == "tanh" { Ok(None) } else { Activation::parse(field, name).map(Some) }
}

fn apply(activation: Option<Activation>, x: &Tensor) -> Tensor {
    activation.map_or_else(|| x.tanh(), |activation| activation.apply(x))
}

/// DeBERTa with a head.
#[derive(Debug)]
struct Deberta {
    words: Embedding,
    positions: Option<Embedding>,
    segments: Option<Embedding>,
    /// From embeddings to hidden states, where their widths differ.
    projection: Option<Linear>,
    norm: LayerNorm,
    layers: Vec<Layer>,
    /// The table of relative positions, and its norm.
    relative: Option<(Embedding, Option<LayerNorm>, Buckets)>,
    convolution: Option<Convolution>,
    /// Absent from a head on tokens.
    pooler: Option<Linear>,
    pooler_activation: Option<Activation>,
    classifier: Linear,
    /// Number of segments.
    types: i64,
    dropout: f64,
    /// Before the pooler and after it.
    head_dropouts: [f64; 2],
}

/// Builds the layers that `config` describes from the tensors of `source`.
pub(crate) fn build(
    config: &Config,
    labels: &Labels,
    source: ModelTensors<'_>,
) -> Result<BuiltClassifier, ModelError> {
    let raw = RawConfig::read(config)?;
    let (hidden, width, std) = (raw.hidden_size, raw.embedding_size(), raw.initializer_range);
    let trunk = source.root().at(NAMES.trunk);
    let (embeddings, encoder) = (trunk.at("embeddings"), trunk.at("encoder"));
    let table = |key, rows| Embedding::load(&embeddings.at(key), rows, width, std);
    let norm = |place: &TensorTree<'_>| {
        LayerNorm::load(&place.at("LayerNorm"), hidden, raw.layer_norm_eps)
    };
    let linear =
        |key, outputs| Linear::load(&source.root().at(key), hidden, outputs, Bias::Present, std);
    let shape = BlockShape {
        hidden,
        wide: raw.intermediate_size,
        heads: raw.num_attention_heads,
        epsilon: raw.layer_norm_eps,
        activation: Activation::parse("hidden_act", &raw.hidden_act)?,
        dropout: raw.hidden_dropout_prob,
        attention_dropout: raw.attention_probs_dropout_prob,
        std,
    };
    let layers = trunk.at(NAMES.layers);
    let tokens = of_tokens(class(config));
    if tokens {
        source.leave("pooler.");
    }
    let normed = raw.norm_rel_ebd.as_deref().unwrap_or("none").to_lowercase();
    let normed = normed.split('|').any(|part| part.trim() == "layer_norm");
    let relative = raw.relative().map(|buckets| {
        let place = encoder.at("rel_embeddings");
        let table = Embedding::load(&place, 2 * buckets.span, hidden, std);
        (table, normed.then(|| norm(&encoder)), buckets)
    });
    let model = Deberta {
        words: table("word_embeddings", raw.vocab_size),
        positions: raw
            .position_biased_input
            .then(|| table("position_embeddings", raw.max_position_embeddings)),
        segments: (raw.type_vocab_size > 0)
            .then(|| table("token_type_embeddings", raw.type_vocab_size)),
        projection: (width != hidden)
            .then(|| Linear::load(&embeddings.at("embed_proj"), width, hidden, Bias::Absent, std)),
        norm: norm(&embeddings),
        layers: (0..raw.num_hidden_layers)
            .map(|i| Layer::load(&layers.at(i), &raw, &shape))
            .collect(),
        relative,
        convolution: match raw.kernel() {
            0 => None,
            _ => Some(Convolution::load(&encoder.at("conv"), &raw)?),
        },
        pooler: (!tokens).then(|| linear("pooler.dense", hidden)),
        pooler_activation: activation("pooler_hidden_act", &raw.pooler_hidden_act)?,
        classifier: linear("classifier", labels.count()),
        types: raw.type_vocab_size,
        dropout: raw.hidden_dropout_prob,
        head_dropouts: match tokens {
            true => [0., raw.hidden_dropout_prob],
            false => [raw.pooler_dropout, raw.cls_dropout.unwrap_or(raw.hidden_dropout_prob)],
        },
    };
    let absolute = raw.position_biased_input;
    let parameters = source.finish(|name| {
        name.ends_with("embeddings.position_ids")
            || (!absolute && name.contains("embeddings.position_embeddings."))
    })?;
    let (ids, positions) = (config.special_ids(CLASS)?, raw.max_position_embeddings);
    let spec = encoder_spec(config, ids, hidden, positions, model.words.weight())?;
    Ok((Box::new(model), spec, parameters))
}

impl Deberta {
    /// Embeddings `[B, T, H]`, 0 for padding; `mask` is 1 for real tokens, `[B, T, 1]`.
    fn embed(
        &self,
        input: &TokenBatch,
        second_start: Option<&[usize]>,
        mask: &Tensor,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let mut x = self.words.adapted(input.ids(), pass);
        if let Some(table) = &self.positions {
            let nth = input.mask().to_kind(Kind::Int64).cumsum(1, Kind::Int64) - 1;
            x += table.adapted(&nth.clamp_min(0), pass);
        }
        if let Some(table) = &self.segments {
            x += table.adapted(&segments(input, second_start, self.types)?, pass);
        }
        if let Some(projection) = &self.projection {
            x = projection.forward(&x, pass);
        }
        Ok(dropout(self.norm.forward(&x) * mask, self.dropout, pass.dropout))
    }
}

impl ClassifierLayers for Deberta {
    fn hidden(
        &self,
        input: &TokenBatch,
        second_start: Option<&[usize]>,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let kind = self.words.weight().kind();
        let mask = input.mask().to_kind(kind).unsqueeze(-1);
        let embedded = self.embed(input, second_start, &mask, pass)?;
        let bias = (!input.is_full())
            .then(|| hide(&input.mask().tensor().unsqueeze(1).unsqueeze(1), kind));
        let relative = self.relative.as_ref().map(|(table, norm, buckets)| {
            let table = table.weight();
            let table = norm.as_ref().map_or(table.shallow_clone(), |norm| norm.forward(table));
            (table, buckets.rows(input.width() as i64, &embedded))
        });
        let (positions, rows) = relative.unzip();
        let mut x = embedded.shallow_clone();
        for (i, layer) in self.layers.iter().enumerate() {
            x = match pass.activations() {
                Activations::Keep => {
                    layer.forward(&x, positions.as_ref(), rows.as_ref(), bias.as_ref(), pass)
                }
                Activations::Recompute => {
                    let (rows, bias) = (rows.handle(), bias.handle());
                    let inputs: Vec<&Tensor> = std::iter::once(&x).chain(&positions).collect();
                    recompute(layer, &inputs, move |layer, inputs| {
                        let (rows, bias) = (rows.as_ref(), bias.as_ref());
                        layer.forward(&inputs[0], inputs.get(1), rows, bias, pass)
                    })?
                }
            };
            if let Some(convolution) = self.convolution.as_ref().filter(|_| i == 0) {
                x = convolution.forward(&embedded, &x, &mask, pass);
            }
        }
        Ok(x)
    }

    fn parts<'a>(&'a mut self, frame: &'a mut Frame) -> Parts<'a> {
        let layers = self.layers.iter_mut().flat_map(Layer::linears);
        let trunk = self.projection.iter_mut().chain(layers).collect();
        let others = self.positions.iter_mut().chain(&mut self.segments).collect();
        let head = self.pooler.iter_mut().chain([&mut self.classifier]).collect();
        frame.parts(trunk, head).embeddings(vec![&mut self.words], others)
    }

    fn read_token(&self, row: &[u32]) -> usize {
        if self.pooler.is_some() { 0 } else { row.len().saturating_sub(1) }
    }

    fn score(&self, first: Tensor, pass: Pass) -> Tensor {
        let [before, after] = self.head_dropouts;
        let pooled = match &self.pooler {
            Some(pooler) => {
                let pooled = pooler.forward(&dropout(first, before, pass.dropout), pass);
                apply(self.pooler_activation, &pooled)
            }
            None => first,
        };
        self.classifier.forward(&dropout(pooled, after, pass.dropout), pass)
    }
}
