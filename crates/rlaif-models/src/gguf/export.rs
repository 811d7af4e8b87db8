//! From a model to a GGUF file.

use std::{collections::BTreeMap, path::Path};

use rlaif_checkpoint::{CheckpointError, GgufSpec, GgufType, GgufValue, write_gguf};
use rlaif_lm::{Parameters, Policy, is_adapter};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::{
    import::Import,
    layout::{Change, GgufLayout, GgufRotary},
    source::{FACTORS, Source, refused},
    vocabulary::{self, GgufTokenizer},
};
use crate::{
    config::Config,
    error::ModelError,
    family::Families,
    language_model::LanguageModel,
    llama::{Outline, same_computation},
    rope::FixedScaling,
};

/// The element type of the matrices in a GGUF file; vectors are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufFormat {
    /// f32.
    F32,
    /// f16.
    F16,
    /// bf16.
    Bf16,
    /// 32 numbers of 8 bits with a scale; f16 for matrices with another number of columns than a multiple of 32.
    Q8_0,
}

impl GgufFormat {
    /// `general.file_type`.
    fn number(self) -> i128 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::Bf16 => 32,
        }
    }

    /// The element type of a tensor of this shape.
    fn of(self, shape: &[usize]) -> GgufType {
        match (self, shape) {
            (Self::F32, _) | (_, [] | [_]) => GgufType::F32,
            (Self::F16, _) => GgufType::F16,
            (Self::Bf16, _) => GgufType::BF16,
            (Self::Q8_0, [.., columns]) if columns % 32 == 0 => GgufType::Q8_0,
            (Self::Q8_0, _) => GgufType::F16,
        }
    }
}

/// Writes a language model and its tokenizer as a GGUF file, which llama.cpp and programs on it, such as
/// Ollama, run. Adapters are left out: merge them first.
///
/// # Errors
/// [`ModelError::Gguf`] for a family without a form in GGUF, and for settings of config.json or tokenizers that
/// llama.cpp does not have, by name; [`ModelError::QuantizedBase`]; [`ModelError::Checkpoint`] if the file cannot
/// be written. Nothing is left behind.
pub fn export_gguf(
    model: &LanguageModel,
    tokenizer: &GgufTokenizer<'_>,
    out: &Path,
    format: GgufFormat,
    families: Families,
) -> Result<(), ModelError> {
    let family = model.family();
    let Some(layout) = family.generates.and_then(|generates| generates.gguf) else {
        let supported = families
            .named(|family| family.generates.is_some_and(|generates| generates.gguf.is_some()));
        return Err(refused(out, "the model's `model_type`", supported, family.model_type));
    };
    let export = Export { model, layout, out };
    let outline = Outline::of(model.config(), layout.variant)?;
    let (tensors, factors) = export.tensors(format, &outline)?;
    let mut metadata = export.metadata(format, &outline);
    metadata.extend(vocabulary::metadata(tokenizer, outline.vocab_size as usize, out)?);
    export.check(&metadata, &tensors, factors.clone(), families)?;
    let metadata: Vec<_> = metadata.into_iter().collect();
    let specs: Vec<GgufSpec> = tensors.iter().map(|tensor| tensor.spec.clone()).collect();
    let written = write_gguf(out, &metadata, &specs, |name| {
        match (tensors.iter().find(|tensor| tensor.spec.name == name), &factors) {
            (Some(Planned { old: Some(old), change, .. }), _) => {
                export.numbers(old, *change, &outline)
            }
            (_, Some(factors)) => Ok(factors.clone()),
            _ => Ok(Vec::new()),
        }
    });
    Ok(written?)
}

/// A tensor to write.
struct Planned {
    spec: GgufSpec,
    /// The model's parameter; `None` for the factors of rotary frequencies.
    old: Option<String>,
    change: Change,
}

struct Export<'a> {
    model: &'a LanguageModel,
    layout: GgufLayout,
    out: &'a Path,
}

impl Export<'_> {
    fn parameters(&self) -> &Parameters {
        self.model.parameters()
    }

    /// The tensors, and the factors of rotary frequencies if the model has any.
    fn tensors(
        &self,
        format: GgufFormat,
        outline: &Outline,
    ) -> Result<(Vec<Planned>, Option<Vec<f32>>), ModelError> {
        let parameters = self.parameters();
        if let Some(layer) = parameters.quantized().next() {
            return Err(ModelError::QuantizedBase { what: "saved", layer: layer.to_owned() });
        }
        let mut planned = Vec::new();
        for (old, tensor) in parameters.iter().filter(|(name, _)| !is_adapter(name)) {
            let Some((name, change)) = self.layout.written(old) else {
                let expected = format!("a tensor of llama.cpp's {}", self.layout.architecture);
                return Err(refused(self.out, "the model's tensors", expected, format!("`{old}`")));
            };
            let shape: Vec<usize> = tensor.size().iter().map(|&size| size as usize).collect();
            let kind = format.of(&shape);
            let spec = GgufSpec { name, shape, kind };
            planned.push(Planned { spec, old: Some(old.to_owned()), change });
        }
        let factors = match outline.rope.as_ref().and_then(|rope| rope.fixed()) {
            Some((_, _, FixedScaling::Each(factors))) => Some(factors),
            Some((_, _, FixedScaling::None | FixedScaling::Linear(_))) | None => None,
        };
        if let Some(factors) = &factors {
            let shape = vec![factors.len()];
            let spec = GgufSpec { name: FACTORS.to_owned(), shape, kind: GgufType::F32 };
            planned.push(Planned { spec, old: None, change: Change::Same });
        }
        Ok((planned, factors))
    }

    /// The metadata, all but the tokenizer's.
    fn metadata(&self, format: GgufFormat, outline: &Outline) -> BTreeMap<String, GgufValue> {
        let integer = |value: i64| GgufValue::Integer(value.into());
        let name = self.layout.architecture;
        let mut out = BTreeMap::from([
            ("general.architecture".to_owned(), GgufValue::Text(name.to_owned())),
            ("general.file_type".to_owned(), GgufValue::Integer(format.number())),
        ]);
        if format == GgufFormat::Q8_0 {
            out.insert("general.quantization_version".to_owned(), GgufValue::Integer(2));
        }
        let mut own = |key: &str, value: GgufValue| {
            out.insert(format!("{name}.{key}"), value);
        };
        own("vocab_size", integer(outline.vocab_size));
        own("context_length", integer(outline.context as i64));
        own("embedding_length", integer(outline.hidden));
        own("block_count", integer(outline.layers as i64));
        own("feed_forward_length", integer(outline.inner));
        own("attention.head_count", integer(outline.heads));
        own("attention.head_count_kv", integer(outline.kv_heads));
        own("attention.key_length", integer(outline.head_dim));
        own("attention.value_length", integer(outline.head_dim));
        own("attention.layer_norm_rms_epsilon", GgufValue::Number(outline.norm_eps));
        if let Some((rotated, theta, scaling)) = outline.rope.as_ref().and_then(|rope| rope.fixed())
        {
            own("rope.dimension_count", integer(rotated));
            own("rope.freq_base", GgufValue::Number(theta));
            if let FixedScaling::Linear(factor) = scaling {
                own("rope.scaling.type", GgufValue::Text("linear".to_owned()));
                own("rope.scaling.factor", GgufValue::Number(factor));
            }
        }
        let optional = [
            ("attention.sliding_window", outline.window.map(integer)),
            ("attn_logit_softcapping", outline.attention_cap.map(GgufValue::Number)),
            ("final_logit_softcapping", outline.head_cap.map(GgufValue::Number)),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                own(key, value);
            }
        }
        out
    }

    /// Refuses a configuration that the file does not state: the one read from it must describe the same
    /// computation.
    fn check(
        &self,
        metadata: &BTreeMap<String, GgufValue>,
        tensors: &[Planned],
        factors: Option<Vec<f32>>,
        families: Families,
    ) -> Result<(), ModelError> {
        let shape = |tensor: &Planned| (tensor.spec.name.clone(), tensor.spec.shape.clone());
        let shapes = tensors.iter().map(shape).collect();
        let source = Source { file: self.out, metadata, shapes, factors };
        let read = Import::new(source, families)?.config()?;
        let (variant, own) = (self.layout.variant, self.model.config());
        // As the model was read: Mistral's file is one of Llama.
        let with = |fields: &[(&String, &Value)]| {
            let mut config = Config::from_value(Value::Object(read.fields().clone()));
            config.set("model_type", self.model.family().model_type.into());
            for (field, value) in fields {
                config.set(field, (*value).clone());
            }
            config
        };
        if same_computation(&with(&[]), own, variant)? {
            return Ok(());
        }
        let changes = |(field, value): &(&String, &Value)| {
            !same_computation(&with(&[(field, value)]), &with(&[]), variant).unwrap_or(false)
        };
        let fields: Vec<_> = own.fields().iter().filter(changes).collect();
        let found: Vec<String> =
            fields.iter().map(|(field, value)| format!("`{field}` = {value}")).collect();
        let found = if found.is_empty() { "others".to_owned() } else { found.join(", ") };
        let expected = format!("those of llama.cpp's {}", self.layout.architecture);
        Err(refused(self.out, "the settings of config.json", expected, found))
    }

    /// The numbers of a parameter, in the file's order.
    fn numbers(
        &self,
        name: &str,
        change: Change,
        outline: &Outline,
    ) -> Result<Vec<f32>, CheckpointError> {
        let unknown = || CheckpointError::UnknownTensor {
            origin: self.out.to_owned(),
            tensor: name.to_owned(),
        };
        let parameters = self.parameters();
        let (_, tensor) =
            parameters.iter().find(|(known, _)| *known == name).ok_or_else(unknown)?;
        let tensor = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float);
        let pairs = |heads: i64| -> Tensor {
            let half = tensor.size()[0] / (2 * heads);
            tensor.contiguous().view([heads, 2, half, -1]).transpose(1, 2)
        };
        let rotary = self.layout.rotary == GgufRotary::Pairs;
        let changed = match change {
            Change::Queries if rotary => pairs(outline.heads),
            Change::Keys if rotary => pairs(outline.kv_heads),
            Change::Norm => &tensor + self.layout.norm_offset(),
            Change::Queries | Change::Keys | Change::Same => tensor.shallow_clone(),
        };
        Vec::try_from(changed.contiguous().reshape([-1])).map_err(|_| unknown())
    }
}
