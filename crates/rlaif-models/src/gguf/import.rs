//! From a GGUF file to a model folder.

use std::{
    io::{self, Write},
    path::Path,
};

use rlaif_checkpoint::{
    CheckpointError, DEFAULT_SHARD_BYTES, Dtype, FolderWriter, Gguf, GgufValue, TensorSource,
    TensorSpec,
};
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use super::{
    layout::{Change, GgufLayout, GgufRotary},
    source::{FACTORS, Source},
    tokenizer,
};
use crate::{
    config::Config,
    error::ModelError,
    family::{Families, Family, Generates},
    llama::{BiasRule, Outline, ScalingRule},
    rope::FixedScaling,
    weights::dtype_of,
};

/// The factors of Llama 3's rotary positions, which belong to every checkpoint that has them.
const LOW: f64 = 1.;
const HIGH: f64 = 4.;

/// Writes a GGUF file as a model folder with weights of this dtype: f32, bf16 or f16.
///
/// # Errors
/// [`ModelError::Checkpoint`] for files that cannot be read or written, and for element types that are not
/// supported; [`ModelError::Gguf`] for architectures, tokenizers and settings that are not.
pub fn import_gguf(
    file: &Path,
    out: &Path,
    kind: Kind,
    families: Families,
) -> Result<(), ModelError> {
    let gguf = Gguf::open(file)?;
    let model = Import::new(Source::open(file, &gguf)?, families)?;
    let config = model.config()?;
    let (tokenizer, tokenizer_config) = tokenizer::files(&model.source, &model.layout)?;
    let weights = model.weights(&gguf, kind)?;
    let mut writer = FolderWriter::create(out)?;
    writer.weights(&weights, DEFAULT_SHARD_BYTES)?;
    writer.json("config.json", config.fields())?;
    writer.json("generation_config.json", &model.generation())?;
    writer.json("tokenizer.json", &tokenizer)?;
    writer.json("tokenizer_config.json", &tokenizer_config)?;
    Ok(writer.finish()?)
}

/// A file whose architecture is known.
pub(super) struct Import<'a> {
    source: Source<'a>,
    family: &'static Family,
    generates: Generates,
    layout: GgufLayout,
}

impl<'a> Import<'a> {
    pub(super) fn new(source: Source<'a>, families: Families) -> Result<Self, ModelError> {
        const KEY: &str = "general.architecture";
        let name = source.needed(KEY, source.text(KEY), "a text")?;
        let layouts = || {
            families.iter().filter_map(|family| {
                let generates = family.generates?;
                Some((family, generates, generates.gguf?))
            })
        };
        let Some((family, generates, layout)) =
            layouts().find(|(.., layout)| layout.architecture == name)
        else {
            let mut known: Vec<_> = layouts().map(|(.., layout)| layout.architecture).collect();
            known.dedup();
            let expected = format!("one of {}", known.join(", "));
            return Err(source.refuse(format!("`{KEY}`"), expected, name));
        };
        Ok(Self { source, family, generates, layout })
    }

    /// The key of the architecture's own value.
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.layout.architecture)
    }

    fn integer(&self, key: &str) -> Result<u64, ModelError> {
        self.source.integer(&self.key(key))
    }

    fn optional(&self, key: &str) -> Option<&'a GgufValue> {
        self.source.value(&self.key(key))
    }

    fn has(&self, tensor: &str) -> bool {
        self.source.shapes.contains_key(tensor)
    }

    /// config.json.
    pub(super) fn config(&self) -> Result<Config, ModelError> {
        let source = &self.source;
        let (heads, hidden) =
            (self.integer("attention.head_count")?, self.integer("embedding_length")?);
        let rows = source.shapes.get("token_embd.weight").and_then(|shape| shape.first());
        let rows = source.needed("token_embd.weight", rows, "the embeddings")?;
        let layers = self.integer("block_count")?;
        let key_length = self.optional("attention.key_length").and_then(GgufValue::as_u64);
        let rotated = self.optional("rope.dimension_count").and_then(GgufValue::as_u64);
        let head_dim = key_length.or(rotated).unwrap_or(hidden / heads.max(1));
        if let Some(rotated) = rotated.filter(|rotated| *rotated != head_dim) {
            let key = format!("`{}`", self.key("rope.dimension_count"));
            return Err(source.refuse(key, head_dim.to_string(), rotated.to_string()));
        }
        let kv_heads = self.optional("attention.head_count_kv").and_then(GgufValue::as_u64);
        let theta = self.optional("rope.freq_base").and_then(GgufValue::as_f64);
        let mut config = Config::from_value(json!({
            "architectures": [self.generates.class],
            "model_type": self.family.model_type,
            "hidden_size": hidden,
            "intermediate_size": self.integer("feed_forward_length")?,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads.unwrap_or(heads),
            "head_dim": head_dim,
            "vocab_size": rows,
            "max_position_embeddings": self.integer("context_length")?,
            "rms_norm_eps": source.number(&self.key("attention.layer_norm_rms_epsilon"))?,
            "rope_theta": theta.unwrap_or(10_000.),
            "tie_word_embeddings": !self.has("output.weight"),
        }));
        for (key, field) in
            [("bos", "bos_token_id"), ("eos", "eos_token_id"), ("padding", "pad_token_id")]
        {
            config.set(field, self.token(key).into());
        }
        if self.has("blk.0.attn_q.bias") && self.layout.variant.qkv_bias == BiasRule::Config {
            config.set("attention_bias", true.into());
        }
        if self.has("blk.0.ffn_up.bias") {
            config.set("mlp_bias", true.into());
        }
        if let ScalingRule::Gemma { .. } = self.layout.variant.scaling {
            let share = hidden / heads.max(1);
            let by_share = self.layout.scaled_by_share == Some(layers);
            self.set_scaling(&mut config, if by_share { share } else { head_dim });
        }
        self.set_rope(&mut config, head_dim, theta.unwrap_or(10_000.))?;
        Ok(config)
    }

    /// The fields of [`ScalingRule::Gemma`], as llama.cpp has them: not all of them are in the file.
    fn set_scaling(&self, config: &mut Config, scalar: u64) {
        config.set("hidden_activation", "gelu_pytorch_tanh".into());
        config.set("query_pre_attn_scalar", scalar.into());
        for (key, field) in [
            ("attention.sliding_window", "sliding_window"),
            ("attn_logit_softcapping", "attn_logit_softcapping"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ] {
            let value = self.optional(key).map(|value| match value {
                GgufValue::Integer(_) => json!(value.as_u64()),
                GgufValue::Number(_)
                | GgufValue::Bool(_)
                | GgufValue::Text(_)
                | GgufValue::List(_) => json!(value.as_f64()),
            });
            config.set(field, value.unwrap_or(Value::Null));
        }
    }

    /// The scaling of rotary positions.
    fn set_rope(&self, config: &mut Config, head_dim: u64, theta: f64) -> Result<(), ModelError> {
        let source = &self.source;
        let key = self.key("rope.scaling.type");
        match source.text(&key) {
            None | Some("none") => {}
            Some("linear") => {
                let factor = source.number(&self.key("rope.scaling.factor"))?;
                config.set("rope_scaling", json!({ "rope_type": "linear", "factor": factor }));
            }
            Some(other) => return Err(source.refuse(format!("`{key}`"), "none or linear", other)),
        }
        let Some(factors) = &source.factors else { return Ok(()) };
        let largest = factors.iter().copied().fold(1f32, f32::max);
        let context = trained_context(factors, head_dim as f64, theta, f64::from(largest));
        config.set(
            "rope_scaling",
            json!({
                "rope_type": "llama3", "factor": largest, "low_freq_factor": LOW,
                "high_freq_factor": HIGH, "original_max_position_embeddings": context,
            }),
        );
        let made = Outline::of(config, self.layout.variant)?.rope.and_then(|rope| rope.fixed());
        let fits = matches!(
            made,
            Some((_, _, FixedScaling::Each(made))) if made.len() == factors.len()
                && made.iter().zip(factors).all(|(a, b)| (a - b).abs() <= 1e-3 * b.abs())
        );
        if fits {
            return Ok(());
        }
        let expected = "the factors of Llama 3's scaling of rotary positions (`rope_type` `llama3` with \
                        `low_freq_factor` 1 and `high_freq_factor` 4)";
        Err(source.refuse(format!("tensor `{FACTORS}`"), expected, format!("{factors:?}")))
    }

    /// A token's id.
    fn token(&self, key: &str) -> Option<u64> {
        let value = self.source.value(&format!("tokenizer.ggml.{key}_token_id"));
        value.and_then(GgufValue::as_u64)
    }

    /// generation_config.json: a turn may end in a token other than a text's last one.
    fn generation(&self) -> Map<String, Value> {
        let mut ends: Vec<u64> = Vec::new();
        for id in ["eos", "eot", "eom"].into_iter().filter_map(|key| self.token(key)) {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
        let ids = [
            ("bos_token_id", self.token("bos").into()),
            ("eos_token_id", ends.into()),
            ("pad_token_id", self.token("padding").into()),
        ];
        ids.into_iter().map(|(field, id): (_, Value)| (field.to_owned(), id)).collect()
    }

    /// The weights under the names of transformers.
    fn weights<'b>(&self, gguf: &'b Gguf, kind: Kind) -> Result<Weights<'b>, ModelError> {
        let heads = |key: &str| Ok::<_, ModelError>(self.integer(key)? as i64);
        let queries = heads("attention.head_count")?;
        let keys = heads("attention.head_count_kv").unwrap_or(queries);
        let mut entries = Vec::new();
        for (name, tensor) in gguf.tensors() {
            if name == FACTORS {
                continue;
            }
            let Some((new, change)) = self.layout.read(name) else {
                let expected = format!("tensors of a {} model", self.layout.architecture);
                return Err(self.source.refuse(format!("tensor `{name}`"), expected, "there"));
            };
            let pairs = self.layout.rotary == GgufRotary::Pairs;
            let rows = match change {
                Change::Queries if pairs => Rows::Heads(queries),
                Change::Keys if pairs => Rows::Heads(keys),
                Change::Norm => Rows::Minus(self.layout.norm_offset()),
                Change::Queries | Change::Keys | Change::Same => Rows::Same,
            };
            entries.push(Entry { new, old: name.clone(), shape: tensor.shape.clone(), rows });
        }
        let dtype = dtype_of(kind).ok_or_else(|| ModelError::Dtype {
            file: "model.safetensors".into(),
            tensor: entries.first().map_or_else(String::new, |entry| entry.new.clone()),
            dtype: format!("{kind:?}"),
        })?;
        Ok(Weights { gguf, kind, dtype, entries })
    }
}

/// The context length of Llama 3's scaling with these factors.
fn trained_context(factors: &[f32], head_dim: f64, theta: f64, largest: f64) -> f64 {
    /// The context of all of Meta's models.
    const USUAL: f64 = 8192.;
    for (i, factor) in factors.iter().map(|factor| f64::from(*factor)).enumerate() {
        // Of the frequencies between the kept and the divided ones, any tells it.
        if factor > 1.01 && factor < 0.99 * largest {
            let length = 2. * std::f64::consts::PI * theta.powf(2. * i as f64 / head_dim);
            let share = (factor.recip() - largest.recip()) / (1. - largest.recip());
            let context = length * (LOW + share * (HIGH - LOW));
            return if (context / USUAL - 1.).abs() < 1e-3 { USUAL } else { context.round() };
        }
    }
    USUAL
}

#[derive(Clone, Copy)]
enum Rows {
    Same,
    /// In pairs, within this many heads.
    Heads(i64),
    Minus(f64),
}

struct Entry {
    new: String,
    old: String,
    shape: Vec<usize>,
    rows: Rows,
}

/// Dequantizes one tensor at a time, as it is written.
struct Weights<'a> {
    gguf: &'a Gguf,
    kind: Kind,
    /// `kind` in a file.
    dtype: Dtype,
    entries: Vec<Entry>,
}

impl Weights<'_> {
    fn tensor(&self, entry: &Entry) -> Result<Tensor, CheckpointError> {
        let numbers = Tensor::from_slice(&self.gguf.read(&entry.old)?);
        let shape: Vec<i64> = entry.shape.iter().map(|&size| size as i64).collect();
        let changed = match entry.rows {
            Rows::Same => numbers,
            Rows::Minus(offset) => numbers - offset,
            Rows::Heads(heads) => {
                let half = shape[0] / (2 * heads);
                numbers.view([heads, half, 2, -1]).transpose(1, 2).contiguous()
            }
        };
        Ok(changed.reshape(&shape).to_kind(self.kind))
    }
}

impl TensorSource for Weights<'_> {
    fn tensors(&self) -> Vec<TensorSpec> {
        let spec = |entry: &Entry| TensorSpec {
            name: entry.new.clone(),
            dtype: self.dtype,
            shape: entry.shape.clone(),
        };
        self.entries.iter().map(spec).collect()
    }

    fn write(&self, name: &str, out: &mut dyn Write) -> io::Result<()> {
        let entry = self.entries.iter().find(|entry| entry.new == name);
        let missing = || io::Error::new(io::ErrorKind::NotFound, name.to_owned());
        let tensor = self.tensor(entry.ok_or_else(missing)?).map_err(io::Error::other)?;
        rlaif_torch::with_bytes(&tensor, |bytes| out.write_all(bytes)).map_err(io::Error::other)?
    }
}
