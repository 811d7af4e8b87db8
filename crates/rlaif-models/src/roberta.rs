//! BERT and its kin with a head on texts or on tokens.
//!
//! Papers: [BERT, 2018](https://arxiv.org/abs/1810.04805), [RoBERTa, 2019](https://arxiv.org/abs/1907.11692),
//! [DistilBERT, 2019](https://arxiv.org/abs/1910.01108), [ALBERT, 2019](https://arxiv.org/abs/1909.11942),
//! [ELECTRA, 2020](https://arxiv.org/abs/2003.10555). They have the same trunk; RoBERTa counts positions
//! from `pad_token_id + 1`, DistilBERT and RoBERTa have no segments, ELECTRA and ALBERT may have narrower
//! embeddings, and ALBERT uses the same weights in many layers. All classify the first token, by different
//! heads. Among the checkpoints: `facebook/roberta-hate-speech-dynabench-r4-target`, `lvwerra/distilbert-imdb`.

use rlaif_lm::{Activations, LmError, TokenBatch};
use serde::Deserialize;
use tch::{Kind, Tensor};

use crate::{
    adapter::Pass,
    architecture::{BuiltClassifier, ClassifierLayers},
    config::{
        Config, FieldNames, Range, SpecialIds, check_layers, check_numbers, check_sizes,
        encoder_spec,
    },
    dimensions::Dimensions,
    error::ModelError,
    frame::{Frame, Parts},
    labels::Labels,
    layers::{
        Activation, Bias, Embedding, LayerNorm, Linear, Visible, attention, dropout, hide, in_heads,
    },
    recompute::{Shallow, recompute},
    sort::{self, of_tokens},
    weights::{ModelTensors, TensorTree},
};

/// The used fields of config.json. [`Config::parse`] adds those that the file lacks.
#[derive(Debug, Deserialize)]
struct RawConfig {
    vocab_size: i64,
    hidden_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    intermediate_size: i64,
    hidden_act: String,
    max_position_embeddings: i64,
    type_vocab_size: Option<i64>,
    layer_norm_eps: Option<f64>,
    /// Width of the embeddings, where it is not that of the hidden states.
    embedding_size: Option<i64>,
    /// ALBERT's groups of layers with the same weights, and the layers of each.
    num_hidden_groups: Option<usize>,
    inner_group_num: Option<usize>,
    hidden_dropout_prob: f64,
    attention_probs_dropout_prob: f64,
    classifier_dropout: Option<f64>,
    position_embedding_type: Option<String>,
    initializer_range: f64,
    /// Names of fields in the file, for errors.
    #[serde(skip)]
    names: FieldNames,
}

/// Names that classes of transformers have for a field, and its name here.
const NAMES: [(&str, &str); 9] = [
    ("dim", "hidden_size"),
    ("n_layers", "num_hidden_layers"),
    ("n_heads", "num_attention_heads"),
    ("hidden_dim", "intermediate_size"),
    ("activation", "hidden_act"),
    ("dropout", "hidden_dropout_prob"),
    ("attention_dropout", "attention_probs_dropout_prob"),
    ("seq_classif_dropout", "classifier_dropout"),
    ("classifier_dropout_prob", "classifier_dropout"),
];

/// The configuration class, one for each family.
fn class(config: &Config) -> &str {
    config.text("model_type").unwrap_or_default()
}

impl RawConfig {
    fn read(config: &Config) -> Result<Self, ModelError> {
        let mut raw: Self = config.parse_renamed(class(config), &NAMES)?;
        raw.names = FieldNames::of(config, &NAMES);
        Ok(raw)
    }

    fn embedding_size(&self) -> i64 {
        self.embedding_size.unwrap_or(self.hidden_size)
    }

    fn epsilon(&self) -> f64 {
        self.layer_norm_eps.unwrap_or(1e-12)
    }

    fn check(&self) -> Result<(), ModelError> {
        let name = |field| self.names.get(field);
        check_numbers([
            ("layer_norm_eps", self.layer_norm_eps, Range::NotNegative),
            (name("hidden_dropout_prob"), Some(self.hidden_dropout_prob), Range::Probability),
            (
                name("attention_probs_dropout_prob"),
                Some(self.attention_probs_dropout_prob),
                Range::Probability,
            ),
            (name("classifier_dropout"), self.classifier_dropout, Range::Probability),
            ("initializer_range", Some(self.initializer_range), Range::NotNegative),
        ])?;
        check_sizes([
            ("vocab_size", self.vocab_size),
            (name("hidden_size"), self.hidden_size),
            (name("intermediate_size"), self.intermediate_size),
            (name("num_attention_heads"), self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size.unwrap_or(1)),
            ("embedding_size", self.embedding_size()),
        ])?;
        for (field, count) in [
            ("num_hidden_groups", self.num_hidden_groups),
            ("inner_group_num", self.inner_group_num),
        ] {
            check_layers(field, count.unwrap_or(1))?;
            if count == Some(0) {
                return Err(ModelError::BadField {
                    file: None,
                    field,
                    found: "0".to_owned(),
                    expected: "at least 1".to_owned(),
                });
            }
        }
        check_layers(name("num_hidden_layers"), self.num_hidden_layers)?;
        if self.hidden_size % self.num_attention_heads != 0 {
            return Err(ModelError::BadField {
                file: None,
                field: name("hidden_size"),
                found: self.hidden_size.to_string(),
                expected: format!(
                    "a multiple of {}, {}",
                    name("num_attention_heads"),
                    self.num_attention_heads
                ),
            });
        }
        Ok(())
    }
}

/// Sizes of the layers, for memory estimates.
pub(crate) fn dimensions(config: &Config) -> Result<Dimensions, ModelError> {
    let raw = RawConfig::read(config)?;
    raw.check()?;
    Ok(Dimensions::of_encoder(raw.hidden_size, raw.num_hidden_layers, raw.num_attention_heads))
}

/// The encoders, which differ in names, positions, segments and head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Bert,
    Roberta,
    DistilBert,
    Electra,
    Albert,
}

/// Names of the tensors of a trunk.
pub(crate) struct TensorNames {
    pub(crate) trunk: &'static str,
    pub(crate) layers: &'static str,
    pub(crate) projections: [&'static str; 3],
    pub(crate) mixed: &'static str,
    pub(crate) mixed_norm: &'static str,
    pub(crate) inner: &'static str,
    pub(crate) outer: &'static str,
    pub(crate) outer_norm: &'static str,
    /// Dropout after the output of attention, and after the feed-forward layer.
    pub(crate) mixed_dropout: bool,
    pub(crate) outer_dropout: bool,
}

impl TensorNames {
    /// The names of BERT.
    pub(crate) const BERT: Self = Self {
        trunk: "bert",
        layers: "encoder.layer",
        projections: ["attention.self.query", "attention.self.key", "attention.self.value"],
        mixed: "attention.output.dense",
        mixed_norm: "attention.output.LayerNorm",
        inner: "intermediate.dense",
        outer: "output.dense",
        outer_norm: "output.LayerNorm",
        mixed_dropout: true,
        outer_dropout: true,
    };
}

impl Style {
    fn names(self) -> TensorNames {
        let bert = TensorNames::BERT;
        match self {
            Self::Bert => bert,
            Self::Roberta => TensorNames { trunk: "roberta", ..bert },
            Self::Electra => TensorNames { trunk: "electra", ..bert },
            Self::DistilBert => TensorNames {
                trunk: "distilbert",
                layers: "transformer.layer",
                projections: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
                mixed: "attention.out_lin",
                mixed_norm: "sa_layer_norm",
                inner: "ffn.lin1",
                outer: "ffn.lin2",
                outer_norm: "output_layer_norm",
                mixed_dropout: false,
                outer_dropout: true,
            },
            Self::Albert => TensorNames {
                trunk: "albert",
                layers: "encoder.albert_layer_groups",
                projections: ["attention.query", "attention.key", "attention.value"],
                mixed: "attention.dense",
                mixed_norm: "attention.LayerNorm",
                inner: "ffn",
                outer: "ffn_output",
                outer_norm: "full_layer_layer_norm",
                mixed_dropout: true,
                outer_dropout: false,
            },
        }
    }

    /// The layer from embeddings to wider hidden states, where widths differ or it is always there.
    fn projection(self, raw: &RawConfig) -> Option<&'static str> {
        match self {
            Self::Albert => Some("encoder.embedding_hidden_mapping_in"),
            Self::Bert | Self::Roberta | Self::DistilBert | Self::Electra => {
                (raw.embedding_size() != raw.hidden_size).then_some("embeddings_project")
            }
        }
    }

    /// The two layers of the head.
    fn head(self) -> [&'static str; 2] {
        match self {
            Self::Bert => ["bert.pooler.dense", "classifier"],
            Self::Albert => ["albert.pooler", "classifier"],
            Self::DistilBert => ["pre_classifier", "classifier"],
            Self::Roberta | Self::Electra => ["classifier.dense", "classifier.out_proj"],
        }
    }
}

/// The sum of word, position and segment embeddings.
#[derive(Debug)]
struct Embeddings {
    words: Embedding,
    positions: Embedding,
    segments: Option<Embedding>,
    norm: LayerNorm,
    /// Position of the first token.
    first: i64,
    /// The id that occupies no position, if there is one.
    pad_id: Option<i64>,
}

impl Embeddings {
    fn load(weights: &TensorTree<'_>, raw: &RawConfig, first: i64, pad_id: Option<i64>) -> Self {
        let size = raw.embedding_size();
        let table =
            |key, rows| Embedding::load(&weights.at(key), rows, size, raw.initializer_range);
        Self {
            words: table("word_embeddings", raw.vocab_size),
            positions: table("position_embeddings", raw.max_position_embeddings),
            segments: raw.type_vocab_size.map(|rows| table("token_type_embeddings", rows)),
            norm: LayerNorm::load(&weights.at("LayerNorm"), size, raw.epsilon()),
            first,
            pad_id,
        }
    }

    fn forward(&self, input: &TokenBatch, segments: &Tensor, pass: Pass) -> Tensor {
        // The n-th token is at position `first + n`, wherever the padding is. RoBERTa does not
        // count a pad id even inside a text.
        let counted = match self.pad_id {
            Some(pad_id) => input.ids().ne(pad_id),
            None => input.mask().tensor().shallow_clone(),
        };
        let counted = counted.to_kind(Kind::Int64);
        let positions = counted.cumsum(1, Kind::Int64) * &counted - 1 + self.first;
        let positions = positions.clamp_min(0);
        let sum = self.words.adapted(input.ids(), pass) + self.positions.adapted(&positions, pass);
        self.norm.forward(&match &self.segments {
            Some(table) => sum + table.adapted(segments, pass),
            None => sum,
        })
    }
}

/// One layer: attention, then feed-forward, each with a residual connection and a norm after it.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    value: Linear,
    mixed: Linear,
    mixed_norm: LayerNorm,
    inner: Linear,
    outer: Linear,
    outer_norm: LayerNorm,
    pub(crate) heads: i64,
    pub(crate) head_dim: i64,
    activation: Activation,
    /// After the output of attention, and after the feed-forward layer.
    dropouts: [f64; 2],
    pub(crate) attention_dropout: f64,
}

/// Sizes and settings of a block.
pub(crate) struct BlockShape {
    pub(crate) hidden: i64,
    /// Width of the feed-forward layer.
    pub(crate) wide: i64,
    pub(crate) heads: i64,
    pub(crate) epsilon: f64,
    pub(crate) activation: Activation,
    pub(crate) dropout: f64,
    pub(crate) attention_dropout: f64,
    /// Standard deviation of random weights.
    pub(crate) std: f64,
}

impl Block {
    pub(crate) fn load(weights: &TensorTree<'_>, shape: &BlockShape, names: &TensorNames) -> Self {
        let BlockShape { hidden, wide, heads, .. } = *shape;
        let linear = |key, inputs, outputs| {
            Linear::load(&weights.at(key), inputs, outputs, Bias::Present, shape.std)
        };
        let norm = |key| LayerNorm::load(&weights.at(key), hidden, shape.epsilon);
        let [query, key, value] = names.projections.map(|key| linear(key, hidden, hidden));
        Self {
            query,
            key,
            value,
            mixed: linear(names.mixed, hidden, hidden),
            mixed_norm: norm(names.mixed_norm),
            inner: linear(names.inner, hidden, wide),
            outer: linear(names.outer, wide, hidden),
            outer_norm: norm(names.outer_norm),
            heads,
            head_dim: hidden / heads,
            activation: shape.activation,
            dropouts: [names.mixed_dropout, names.outer_dropout]
                .map(|there| if there { shape.dropout } else { 0. }),
            attention_dropout: shape.attention_dropout,
        }
    }

    /// Queries, keys and values, `[B, T, heads, D]`.
    pub(crate) fn project(&self, x: &Tensor, pass: Pass) -> [Tensor; 3] {
        Linear::project([&self.query, &self.key, &self.value], x, pass)
            .map(|x| in_heads(&x, self.heads, self.head_dim))
    }

    fn forward(&self, x: &Tensor, visible: &Visible<'_>, pass: Pass) -> Tensor {
        let [q, k, v] = self.project(x, pass);
        let mixed = attention(
            &q,
            &k,
            &v,
            visible,
            (self.head_dim as f64).powf(-0.5),
            pass.dropout_p(self.attention_dropout),
        );
        self.finish(x, &mixed, pass)
    }

    /// The output for `x` and the result of attention.
    pub(crate) fn finish(&self, x: &Tensor, mixed: &Tensor, pass: Pass) -> Tensor {
        let mixed = dropout(self.mixed.forward(mixed, pass), self.dropouts[0], pass.dropout);
        let x = self.mixed_norm.forward(&(x + mixed));
        let inner = self.activation.apply(&self.inner.forward(&x, pass));
        let outer = dropout(self.outer.forward(&inner, pass), self.dropouts[1], pass.dropout);
        self.outer_norm.forward(&(x + outer))
    }

    pub(crate) fn linears(&mut self) -> [&mut Linear; 6] {
        [
            &mut self.query,
            &mut self.key,
            &mut self.value,
            &mut self.mixed,
            &mut self.inner,
            &mut self.outer,
        ]
    }
}

impl Shallow for Block {
    fn handle(&self) -> Self {
        Self {
            query: self.query.handle(),
            key: self.key.handle(),
            value: self.value.handle(),
            mixed: self.mixed.handle(),
            mixed_norm: self.mixed_norm.handle(),
            inner: self.inner.handle(),
            outer: self.outer.handle(),
            outer_norm: self.outer_norm.handle(),
            ..*self
        }
    }
}

/// Maps the hidden state of the first token to logits, or that of any token.
#[derive(Debug)]
struct Head {
    /// RoBERTa's `classifier.dense`, BERT's `pooler.dense`: a tanh layer either way. A head on tokens has none.
    dense: Option<Linear>,
    out: Linear,
    style: Style,
    dropout: f64,
}

impl Head {
    fn load(
        config: &Config,
        raw: &RawConfig,
        style: Style,
        labels: i64,
        source: &ModelTensors<'_>,
    ) -> Self {
        let size = raw.hidden_size;
        let linear = |path, outputs| {
            let place = source.root().at(path);
            Linear::load(&place, size, outputs, Bias::Present, raw.initializer_range)
        };
        let tokens = of_tokens(sort::class(config));
        let given = match (style, tokens) {
            // transformers has `seq_classif_dropout` for texts alone.
            (Style::DistilBert, true) => None,
            _ => raw.classifier_dropout,
        };
        let dropout = given.unwrap_or(raw.hidden_dropout_prob);
        if tokens {
            return Self { dense: None, out: linear("classifier", labels), style, dropout };
        }
        let [dense, out] = style.head();
        Self { dense: Some(linear(dense, size)), out: linear(out, labels), style, dropout }
    }

    fn forward(&self, first: Tensor, pass: Pass) -> Tensor {
        let drop = |x| dropout(x, self.dropout, pass.dropout);
        let Some(dense) = &self.dense else { return self.out.forward(&drop(first), pass) };
        let first = match self.style {
            Style::Roberta | Style::Electra => drop(first),
            Style::Bert | Style::DistilBert | Style::Albert => first,
        };
        let dense = dense.forward(&first, pass);
        let pooled = match self.style {
            Style::Bert | Style::Roberta | Style::Albert => dense.tanh(),
            Style::DistilBert => dense.relu(),
            Style::Electra => Activation::Gelu.apply(&dense),
        };
        self.out.forward(&drop(pooled), pass)
    }
}

/// BERT or RoBERTa with a sequence-classification head.
#[derive(Debug)]
pub(crate) struct Roberta {
    embeddings: Embeddings,
    /// From embeddings to hidden states.
    projection: Option<Linear>,
    blocks: Vec<Block>,
    /// The block of each layer.
    order: Vec<usize>,
    head: Head,
    segments: i64,
    dropout: f64,
}

impl Roberta {
    /// Builds the layers that `config` describes from the tensors of `source`.
    pub(crate) fn build(
        config: &Config,
        labels: &Labels,
        source: ModelTensors<'_>,
        style: Style,
    ) -> Result<BuiltClassifier, ModelError> {
        let raw = RawConfig::read(config)?;
        raw.check()?;
        if let Some(other) = raw.position_embedding_type.as_deref().filter(|t| *t != "absolute") {
            return Err(ModelError::UnsupportedField {
                file: None,
                field: "position_embedding_type",
                found: other.to_owned(),
                supported: "absolute",
            });
        }
        let ids = config.special_ids(class(config))?;
        let pad_id = ids.pad_token_id.unwrap_or(u32::from(style == Style::Roberta));
        let (first, uncounted) = match style {
            Style::Roberta => (i64::from(pad_id) + 1, Some(i64::from(pad_id))),
            Style::Bert | Style::DistilBert | Style::Electra | Style::Albert => (0, None),
        };
        let names = style.names();
        let trunk = source.root().at(names.trunk);
        let embeddings = Embeddings::load(&trunk.at("embeddings"), &raw, first, uncounted);
        let linear = |place: &TensorTree<'_>, inputs, outputs| {
            Linear::load(place, inputs, outputs, Bias::Present, raw.initializer_range)
        };
        let projection = style
            .projection(&raw)
            .map(|key| linear(&trunk.at(key), raw.embedding_size(), raw.hidden_size));
        let layers = trunk.at(names.layers);
        let (mut places, mut order) = (Vec::new(), Vec::new());
        if style == Style::Albert {
            let (groups, inner) =
                (raw.num_hidden_groups.unwrap_or(1), raw.inner_group_num.unwrap_or(1));
            for group in 0..groups {
                let group = layers.at(group).at("albert_layers");
                places.extend((0..inner).map(|i| group.at(i)));
            }
            for layer in 0..raw.num_hidden_layers {
                let group = layer * groups / raw.num_hidden_layers;
                order.extend(group * inner..(group + 1) * inner);
            }
        } else {
            places.extend((0..raw.num_hidden_layers).map(|i| layers.at(i)));
            order.extend(0..raw.num_hidden_layers);
        }
        let shape = BlockShape {
            hidden: raw.hidden_size,
            wide: raw.intermediate_size,
            heads: raw.num_attention_heads,
            epsilon: raw.epsilon(),
            activation: Activation::parse("hidden_act", &raw.hidden_act)?,
            dropout: raw.hidden_dropout_prob,
            attention_dropout: raw.attention_probs_dropout_prob,
            std: raw.initializer_range,
        };
        let blocks = places.iter().map(|place| Block::load(place, &shape, &names)).collect();
        let head = Head::load(config, &raw, style, labels.count(), &source);
        if head.dense.is_none() || style == Style::Roberta {
            source.leave(&format!("{}.pooler.", names.trunk));
        }
        let parameters = source.finish(|name| name.ends_with("embeddings.position_ids"))?;
        let positions = raw.max_position_embeddings - first;
        if positions < 1 {
            return Err(ModelError::BadField {
                file: None,
                field: "max_position_embeddings",
                found: raw.max_position_embeddings.to_string(),
                expected: format!("more than {first} (RoBERTa counts from pad_token_id + 1)"),
            });
        }
        let ids = SpecialIds { pad_token_id: Some(pad_id), ..ids };
        let spec =
            encoder_spec(config, ids, raw.hidden_size, positions, embeddings.words.weight())?;
        let dropout = raw.hidden_dropout_prob;
        let segments = raw.type_vocab_size.unwrap_or(0);
        let model = Self { embeddings, projection, blocks, order, head, segments, dropout };
        Ok((Box::new(model), spec, parameters))
    }
}

/// The segment of each token, int64 `[B, T]`: 1 from the start of the second text, in a model with this
/// number of segments.
pub(crate) fn segments(
    input: &TokenBatch,
    second_start: Option<&[usize]>,
    number: i64,
) -> Result<Tensor, LmError> {
    let Some(starts) = second_start.filter(|_| number > 1) else {
        return Ok(input.ids().zeros_like());
    };
    if starts.len() != input.len() {
        return Err(LmError::BatchMismatch {
            what: "starts of the second text of a batch of pairs",
            expected: input.len(),
            found: starts.len(),
        });
    }
    let starts: Vec<i64> =
        starts.iter().map(|&start| i64::try_from(start).unwrap_or(i64::MAX)).collect();
    let nth = input.mask().to_kind(Kind::Int64).cumsum(1, Kind::Int64) - 1;
    let starts = Tensor::from_slice(&starts).to_device(input.ids().device()).unsqueeze(1);
    Ok(nth.ge_tensor(&starts).to_kind(Kind::Int64) * input.mask().to_kind(Kind::Int64))
}

impl ClassifierLayers for Roberta {
    fn hidden(
        &self,
        input: &TokenBatch,
        second_start: Option<&[usize]>,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let segments = segments(input, second_start, self.segments)?;
        let embedded = self.embeddings.forward(input, &segments, pass);
        let kind = embedded.kind();
        let mut x = dropout(embedded, self.dropout, pass.dropout);
        let bias = (!input.is_full())
            .then(|| hide(&input.mask().tensor().unsqueeze(1).unsqueeze(1), kind));
        if let Some(projection) = &self.projection {
            x = projection.forward(&x, pass);
        }
        for block in self.order.iter().map(|&block| &self.blocks[block]) {
            x = match pass.activations {
                Activations::Keep => {
                    block.forward(&x, &bias.as_ref().map_or(Visible::All, Visible::Bias), pass)
                }
                Activations::Recompute => {
                    let bias = bias.handle();
                    recompute(block, &[&x], move |block, inputs| {
                        let visible = bias.as_ref().map_or(Visible::All, Visible::Bias);
                        block.forward(&inputs[0], &visible, pass)
                    })?
                }
            };
        }
        Ok(x)
    }

    fn parts<'a>(&'a mut self, frame: &'a mut Frame) -> Parts<'a> {
        let blocks = self.blocks.iter_mut().flat_map(Block::linears);
        let trunk = self.projection.iter_mut().chain(blocks).collect();
        let Embeddings { words, positions, segments, .. } = &mut self.embeddings;
        let others = std::iter::once(positions).chain(segments).collect();
        let head = self.head.dense.iter_mut().chain([&mut self.head.out]).collect();
        frame.parts(trunk, head).embeddings(vec![words], others)
    }

    fn read_token(&self, row: &[u32]) -> usize {
        if self.head.dense.is_some() { 0 } else { row.len().saturating_sub(1) }
    }

    fn score(&self, first: Tensor, pass: Pass) -> Tensor {
        self.head.forward(first, pass)
    }
}
