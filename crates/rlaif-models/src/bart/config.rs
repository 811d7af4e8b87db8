//! config.json of BART's kin, and its meaning.

use rlaif_lm::LmSpec;
use serde::Deserialize;
use tch::Tensor;

use crate::{
    config::{
        Config, Range, TokenIds, check_layers, check_numbers, check_sizes, off_if_null, token_id,
    },
    dimensions::Dimensions,
    error::ModelError,
    layers::Activation,
    seq2seq::{HeadSettings, Role, Start, check_encoder_decoder},
};

/// A member of BART's family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Member {
    /// Norms after each part, learned positions.
    Bart,
    /// Norms before each part and at the end, learned positions.
    MBart,
    /// The same without a norm of the embeddings, and with sines as positions.
    Pegasus,
}

impl Member {
    pub(super) fn read(self, config: &Config) -> Result<RawConfig, ModelError> {
        config.parse(match self {
            Self::Bart => "bart",
            Self::MBart => "mbart",
            Self::Pegasus => "pegasus",
        })
    }

    /// The places of the norms.
    pub(super) fn norms(self) -> NormPlace {
        match self {
            Self::Bart => NormPlace::After,
            Self::MBart | Self::Pegasus => NormPlace::Before,
        }
    }

    /// `true` if the embeddings have a norm.
    pub(super) fn norms_embeddings(self) -> bool {
        self != Self::Pegasus
    }

    /// `true` if positions are learned.
    pub(super) fn learns_positions(self) -> bool {
        self != Self::Pegasus
    }
}

/// The places of the norms of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NormPlace {
    /// Before each part; one more follows the last block.
    Before,
    /// After each part.
    After,
}

/// The used fields of config.json. [`Config::parse`] adds those that the file lacks.
#[derive(Debug, Deserialize)]
pub(super) struct RawConfig {
    model_type: String,
    vocab_size: i64,
    d_model: i64,
    max_position_embeddings: i64,
    encoder_layers: usize,
    encoder_attention_heads: i64,
    encoder_ffn_dim: i64,
    decoder_layers: usize,
    decoder_attention_heads: i64,
    decoder_ffn_dim: i64,
    activation_function: String,
    dropout: f64,
    attention_dropout: f64,
    activation_dropout: f64,
    classifier_dropout: Option<f64>,
    init_std: f64,
    #[serde(default, deserialize_with = "off_if_null")]
    scale_embedding: Option<bool>,
    tie_word_embeddings: Option<bool>,
    is_encoder_decoder: Option<bool>,
    #[serde(default, deserialize_with = "token_id")]
    pad_token_id: Option<u32>,
    #[serde(default, deserialize_with = "token_id")]
    bos_token_id: Option<u32>,
    #[serde(default)]
    eos_token_id: TokenIds,
    #[serde(default, deserialize_with = "token_id")]
    decoder_start_token_id: Option<u32>,
}

impl RawConfig {
    /// The settings of a classification head.
    pub(super) fn head(&self, member: Member, spec: &LmSpec) -> HeadSettings {
        HeadSettings {
            start: match member {
                Member::MBart => Start::LastOfText,
                Member::Bart | Member::Pegasus => Start::of(spec),
            },
            eos_ids: self.eos_token_id.0.clone(),
            dropout: self.classifier_dropout.unwrap_or(0.),
            std: self.init_std,
        }
    }

    /// `true` if config.json ties the head to the embeddings.
    pub(super) fn ties_head(&self) -> bool {
        self.tie_word_embeddings != Some(false)
    }

    /// Facts about the model with these embeddings.
    pub(super) fn spec(&self, config: &Config, embeddings: &Tensor) -> Result<LmSpec, ModelError> {
        // `generate` of transformers starts with this token in the absence of one for the decoder.
        let start = self.decoder_start_token_id.or(config.generation_id("decoder_start_token_id")?);
        let Some(start) = start.or(self.bos_token_id) else {
            return Err(ModelError::BadField {
                file: None,
                field: "decoder_start_token_id",
                found: "null".to_owned(),
                expected: "the first token of the decoder, such as that of a language".to_owned(),
            });
        };
        Ok(LmSpec {
            model_type: self.model_type.clone(),
            hidden_size: self.d_model,
            vocab_size: self.vocab_size,
            context: usize::try_from(self.max_position_embeddings).ok(),
            pad_id: self.pad_token_id.unwrap_or(0),
            eos_ids: config.ends()?,
            bos_id: self.bos_token_id,
            decoder_start_id: Some(start),
            forced: config.forced()?,
            kind: embeddings.kind(),
            device: embeddings.device(),
        })
    }
}

/// The sizes of the encoder or of the decoder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side {
    pub(super) layers: usize,
    pub(super) heads: i64,
    pub(super) inner: i64,
}

/// The resolved configuration, without optional fields.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) member: Member,
    pub(super) vocab_size: i64,
    pub(super) d_model: i64,
    /// Number of positions.
    pub(super) positions: i64,
    pub(super) encoder: Side,
    pub(super) decoder: Side,
    pub(super) activation: Activation,
    pub(super) dropout: f64,
    pub(super) attention_dropout: f64,
    pub(super) activation_dropout: f64,
    /// Factor of the embeddings.
    pub(super) scale: f64,
    pub(super) std: f64,
    /// The id whose row of the embeddings is not trained by the inputs.
    pub(super) padding: Option<u32>,
}

impl Shape {
    /// The sizes of this side.
    pub(super) fn side(&self, role: Role) -> Side {
        match role {
            Role::Encoder => self.encoder,
            Role::Decoder => self.decoder,
        }
    }

    pub(super) fn resolve(raw: &RawConfig, member: Member) -> Result<Self, ModelError> {
        check_sizes([
            ("vocab_size", raw.vocab_size),
            ("d_model", raw.d_model),
            ("max_position_embeddings", raw.max_position_embeddings),
            ("encoder_attention_heads", raw.encoder_attention_heads),
            ("encoder_ffn_dim", raw.encoder_ffn_dim),
            ("decoder_attention_heads", raw.decoder_attention_heads),
            ("decoder_ffn_dim", raw.decoder_ffn_dim),
        ])?;
        check_numbers([
            ("dropout", Some(raw.dropout), Range::Probability),
            ("attention_dropout", Some(raw.attention_dropout), Range::Probability),
            ("activation_dropout", Some(raw.activation_dropout), Range::Probability),
            ("classifier_dropout", raw.classifier_dropout, Range::Probability),
            ("init_std", Some(raw.init_std), Range::NotNegative),
        ])?;
        check_layers("encoder_layers", raw.encoder_layers)?;
        check_layers("decoder_layers", raw.decoder_layers)?;
        for (field, heads) in [
            ("encoder_attention_heads", raw.encoder_attention_heads),
            ("decoder_attention_heads", raw.decoder_attention_heads),
        ] {
            if raw.d_model % heads != 0 {
                return Err(ModelError::BadField {
                    file: None,
                    field,
                    found: heads.to_string(),
                    expected: format!("a divisor of d_model, which is {}", raw.d_model),
                });
            }
        }
        check_encoder_decoder(raw.is_encoder_decoder)?;
        let scaled = raw.scale_embedding == Some(true);
        Ok(Self {
            member,
            vocab_size: raw.vocab_size,
            d_model: raw.d_model,
            positions: raw.max_position_embeddings,
            encoder: Side {
                layers: raw.encoder_layers,
                heads: raw.encoder_attention_heads,
                inner: raw.encoder_ffn_dim,
            },
            decoder: Side {
                layers: raw.decoder_layers,
                heads: raw.decoder_attention_heads,
                inner: raw.decoder_ffn_dim,
            },
            activation: Activation::parse("activation_function", &raw.activation_function)?,
            dropout: raw.dropout,
            attention_dropout: raw.attention_dropout,
            activation_dropout: raw.activation_dropout,
            scale: if scaled { (raw.d_model as f64).sqrt() } else { 1. },
            std: raw.init_std,
            padding: raw.pad_token_id.filter(|&id| i64::from(id) < raw.vocab_size),
        })
    }
}

/// Sizes of the layers, for memory estimates.
pub(crate) fn dimensions(config: &Config, member: Member) -> Result<Dimensions, ModelError> {
    let shape = Shape::resolve(&member.read(config)?, member)?;
    let blocks = shape.encoder.layers + shape.decoder.layers;
    Ok(Dimensions::of_encoder(shape.d_model, blocks, shape.decoder.heads))
}
