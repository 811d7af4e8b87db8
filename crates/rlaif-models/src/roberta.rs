//! BERT and RoBERTa with a sequence-classification head.
//!
//! Papers: [Devlin et al. 2018](https://arxiv.org/abs/1810.04805), [Liu et al.
//! 2019](https://arxiv.org/abs/1907.11692). Both have the same trunk; RoBERTa counts positions from
//! `pad_token_id + 1`, has no segments, and classifies the first token by its own head, where BERT
//! has a pooler. Among the checkpoints: `facebook/roberta-hate-speech-dynabench-r4-target`.

use rlaif_lm::{Activations, LmError, LmSpec, TokenBatch};
use serde::Deserialize;
use tch::{Kind, Tensor};

use crate::{
    adapter::Pass,
    architecture::{BuiltClassifier, ClassifierLayers},
    config::{Config, check_ids, check_layers, check_sizes, token_id},
    dimensions::Dimensions,
    error::ModelError,
    labels::Labels,
    layers::{
        Activation, Bias, Embedding, LayerNorm, Linear, Visible, attention, dropout, hide, in_heads,
    },
    recompute::{Shallow, recompute},
    weights::{Source, TensorTree},
};

/// The used fields of config.json. [`Config::parse`] adds those that the file lacks.
#[derive(Debug, Deserialize)]
struct RawConfig {
    model_type: String,
    vocab_size: i64,
    hidden_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    intermediate_size: i64,
    hidden_act: String,
    max_position_embeddings: i64,
    type_vocab_size: i64,
    layer_norm_eps: f64,
    hidden_dropout_prob: f64,
    attention_probs_dropout_prob: f64,
    classifier_dropout: Option<f64>,
    position_embedding_type: Option<String>,
    initializer_range: f64,
    #[serde(default, deserialize_with = "token_id")]
    pad_token_id: Option<u32>,
    #[serde(default, deserialize_with = "token_id")]
    bos_token_id: Option<u32>,
}

impl RawConfig {
    fn read(config: &Config) -> Result<Self, ModelError> {
        config.parse(config.text("model_type").unwrap_or_default())
    }

    fn check(&self) -> Result<(), ModelError> {
        check_sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ])?;
        check_layers("num_hidden_layers", self.num_hidden_layers)?;
        if self.hidden_size % self.num_attention_heads != 0 {
            return Err(ModelError::BadField {
                field: "hidden_size",
                found: self.hidden_size.to_string(),
                expected: "a multiple of num_attention_heads".to_owned(),
            });
        }
        Ok(())
    }
}

/// Sizes of the layers, for memory estimates.
pub(crate) fn dimensions(config: &Config) -> Result<Dimensions, ModelError> {
    let raw = RawConfig::read(config)?;
    raw.check()?;
    Ok(Dimensions {
        hidden: raw.hidden_size,
        blocks: raw.num_hidden_layers,
        heads: raw.num_attention_heads,
        kv_heads: raw.num_attention_heads,
        head_dim: raw.hidden_size / raw.num_attention_heads,
    })
}

/// The two encoders that differ in positions, segments and head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Bert,
    Roberta,
}

/// The sum of word, position and segment embeddings.
#[derive(Debug)]
struct Embeddings {
    words: Embedding,
    positions: Embedding,
    segments: Embedding,
    norm: LayerNorm,
    /// Position of the first token.
    first: i64,
    /// The id that occupies no position, if there is one.
    pad_id: Option<i64>,
}

impl Embeddings {
    fn load(weights: &TensorTree<'_>, raw: &RawConfig, first: i64, pad_id: Option<i64>) -> Self {
        let table = |key, rows| {
            Embedding::load(&weights.at(key), rows, raw.hidden_size, raw.initializer_range)
        };
        Self {
            words: table("word_embeddings", raw.vocab_size),
            positions: table("position_embeddings", raw.max_position_embeddings),
            segments: table("token_type_embeddings", raw.type_vocab_size),
            norm: LayerNorm::load(&weights.at("LayerNorm"), raw.hidden_size, raw.layer_norm_eps),
            first,
            pad_id,
        }
    }

    fn forward(&self, input: &TokenBatch, segments: &Tensor) -> Tensor {
        // The n-th token is at position `first + n`, wherever the padding is. RoBERTa does not
        // count a pad id even inside a text.
        let counted = match self.pad_id {
            Some(pad_id) => input.ids().ne(pad_id),
            None => input.mask().tensor().shallow_clone(),
        };
        let counted = counted.to_kind(Kind::Int64);
        let positions = counted.cumsum(1, Kind::Int64) * &counted - 1 + self.first;
        let positions = positions.clamp_min(0);
        let sum = self.words.forward(input.ids())
            + self.positions.forward(&positions)
            + self.segments.forward(segments);
        self.norm.forward(&sum)
    }
}

/// One layer: attention, then feed-forward, each with a residual connection and a norm after it.
#[derive(Debug)]
struct Block {
    query: Linear,
    key: Linear,
    value: Linear,
    mixed: Linear,
    mixed_norm: LayerNorm,
    inner: Linear,
    outer: Linear,
    outer_norm: LayerNorm,
    heads: i64,
    head_dim: i64,
    activation: Activation,
    dropout: f64,
    attention_dropout: f64,
}

impl Block {
    fn load(weights: &TensorTree<'_>, raw: &RawConfig) -> Result<Self, ModelError> {
        let linear = |place: &TensorTree<'_>, inputs, outputs| {
            Linear::load(place, inputs, outputs, Bias::Present, raw.initializer_range)
        };
        let norm = |place: &TensorTree<'_>| {
            LayerNorm::load(&place.at("LayerNorm"), raw.hidden_size, raw.layer_norm_eps)
        };
        let (hidden, wide) = (raw.hidden_size, raw.intermediate_size);
        let attention = weights.at("attention");
        let project = |key| linear(&attention.at("self").at(key), hidden, hidden);
        Ok(Self {
            query: project("query"),
            key: project("key"),
            value: project("value"),
            mixed: linear(&attention.at("output").at("dense"), hidden, hidden),
            mixed_norm: norm(&attention.at("output")),
            inner: linear(&weights.at("intermediate").at("dense"), hidden, wide),
            outer: linear(&weights.at("output").at("dense"), wide, hidden),
            outer_norm: norm(&weights.at("output")),
            heads: raw.num_attention_heads,
            head_dim: hidden / raw.num_attention_heads,
            activation: Activation::parse("hidden_act", &raw.hidden_act)?,
            dropout: raw.hidden_dropout_prob,
            attention_dropout: raw.attention_probs_dropout_prob,
        })
    }

    fn forward(&self, x: &Tensor, visible: &Visible<'_>, pass: Pass) -> Tensor {
        let [q, k, v] = Linear::project([&self.query, &self.key, &self.value], x, pass)
            .map(|x| in_heads(&x, self.heads, self.head_dim));
        let mixed = attention(
            &q,
            &k,
            &v,
            visible,
            (self.head_dim as f64).powf(-0.5),
            pass.dropout_p(self.attention_dropout),
        );
        let mixed = dropout(self.mixed.forward(&mixed, pass), self.dropout, pass.dropout);
        let x = self.mixed_norm.forward(&(x + mixed));
        let inner = self.activation.apply(&self.inner.forward(&x, pass));
        let outer = dropout(self.outer.forward(&inner, pass), self.dropout, pass.dropout);
        self.outer_norm.forward(&(x + outer))
    }

    fn linears(&mut self) -> [&mut Linear; 6] {
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

/// Maps the first token's hidden state to logits.
#[derive(Debug)]
struct Head {
    /// RoBERTa's `classifier.dense`, BERT's `pooler.dense`: a tanh layer either way.
    dense: Linear,
    out: Linear,
    style: Style,
    dropout: f64,
}

impl Head {
    fn forward(&self, first: Tensor, pass: Pass) -> Tensor {
        let first = match self.style {
            Style::Roberta => dropout(first, self.dropout, pass.dropout),
            Style::Bert => first,
        };
        let pooled = self.dense.forward(&first, pass).tanh();
        self.out.forward(&dropout(pooled, self.dropout, pass.dropout), pass)
    }
}

/// BERT or RoBERTa with a sequence-classification head.
#[derive(Debug)]
pub(crate) struct Roberta {
    embeddings: Embeddings,
    blocks: Vec<Block>,
    head: Head,
    segments: i64,
    dropout: f64,
}

impl Roberta {
    /// Builds the layers that `config` describes from the tensors of `source`.
    pub(crate) fn build(
        config: &Config,
        labels: &Labels,
        source: Source<'_>,
        style: Style,
    ) -> Result<BuiltClassifier, ModelError> {
        let raw = RawConfig::read(config)?;
        raw.check()?;
        if let Some(other) = raw.position_embedding_type.as_deref().filter(|t| *t != "absolute") {
            return Err(ModelError::UnsupportedField {
                field: "position_embedding_type",
                found: other.to_owned(),
                supported: "absolute",
            });
        }
        let pad_id = raw.pad_token_id.unwrap_or(match style {
            Style::Bert => 0,
            Style::Roberta => 1,
        });
        let (prefix, first, uncounted) = match style {
            Style::Bert => ("bert", 0, None),
            Style::Roberta => ("roberta", i64::from(pad_id) + 1, Some(i64::from(pad_id))),
        };
        let trunk = source.root().at(prefix);
        let embeddings = Embeddings::load(&trunk.at("embeddings"), &raw, first, uncounted);
        let layers = trunk.at("encoder").at("layer");
        let blocks = (0..raw.num_hidden_layers)
            .map(|i| Block::load(&layers.at(i), &raw))
            .collect::<Result<_, _>>()?;
        let classifier = source.root().at("classifier");
        let linear = |place: &TensorTree<'_>, outputs| {
            let std = raw.initializer_range;
            Linear::load(place, raw.hidden_size, outputs, Bias::Present, std)
        };
        let (dense, out) = match style {
            Style::Bert => (trunk.at("pooler").at("dense"), classifier),
            Style::Roberta => (classifier.at("dense"), classifier.at("out_proj")),
        };
        let head = Head {
            dense: linear(&dense, raw.hidden_size),
            out: linear(&out, labels.count()),
            style,
            dropout: raw.classifier_dropout.unwrap_or(raw.hidden_dropout_prob),
        };
        let device = source.device();
        if style == Style::Roberta {
            source.leave("roberta.pooler.");
        }
        let parameters = source.finish(|name| name.ends_with("embeddings.position_ids"))?;
        let context = raw.max_position_embeddings - first;
        let spec = LmSpec {
            model_type: raw.model_type.clone(),
            hidden_size: raw.hidden_size,
            vocab_size: raw.vocab_size,
            context: Some(usize::try_from(context).map_err(|_| ModelError::BadField {
                field: "max_position_embeddings",
                found: raw.max_position_embeddings.to_string(),
                expected: format!("more than {first}"),
            })?),
            pad_id,
            eos_ids: config.ends()?,
            bos_id: raw.bos_token_id,
            decoder_start_id: None,
            kind: embeddings.words.weight.kind(),
            device,
        };
        check_ids(&spec)?;
        let dropout = raw.hidden_dropout_prob;
        let model = Self { embeddings, blocks, head, segments: raw.type_vocab_size, dropout };
        Ok((Box::new(model), spec, parameters))
    }

    /// The segment of each token, int64 `[B, T]`: 1 from the start of the second text.
    fn segments(
        &self,
        input: &TokenBatch,
        second_start: Option<&[usize]>,
    ) -> Result<Tensor, LmError> {
        let Some(starts) = second_start.filter(|_| self.segments > 1) else {
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
}

impl ClassifierLayers for Roberta {
    fn hidden(
        &self,
        input: &TokenBatch,
        second_start: Option<&[usize]>,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let segments = self.segments(input, second_start)?;
        let embedded = self.embeddings.forward(input, &segments);
        let kind = embedded.kind();
        let mut x = dropout(embedded, self.dropout, pass.dropout);
        let bias = (!input.is_full())
            .then(|| hide(&input.mask().tensor().unsqueeze(1).unsqueeze(1), kind));
        for block in &self.blocks {
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

    fn linears(&mut self) -> (Vec<&mut Linear>, Vec<&mut Linear>) {
        let trunk = self.blocks.iter_mut().flat_map(Block::linears).collect();
        (trunk, vec![&mut self.head.dense, &mut self.head.out])
    }

    fn read_token(&self, _: &[u32]) -> usize {
        0
    }

    fn score(&self, first: Tensor, pass: Pass) -> Tensor {
        self.head.forward(first, pass)
    }
}
