//! Writes models as folders that transformers and peft load.

use std::{
    io::{self, Write},
    path::Path,
};

use rlaif_checkpoint::{
    DEFAULT_SHARD_BYTES, Dtype, FolderWriter, ModelCard, TensorSource, TensorSpec,
};
use rlaif_lm::{Parameters, is_adapter};
use serde_json::{Map, Value};
use tch::{Device, Tensor};

use crate::{
    config::Config,
    error::ModelError,
    family::Family,
    frame::{Frame, Parts},
    weights::{dtype_of, kind_name},
};

/// Contents of a model folder besides the weights.
#[derive(Debug, Clone)]
pub struct SaveOptions<'a> {
    /// Folder whose tokenizer files are copied.
    pub source: Option<&'a Path>,
    /// The model card.
    pub card: Option<&'a ModelCard>,
    /// Size from which weights are split into shards, in bytes.
    pub shard_bytes: u64,
}

impl Default for SaveOptions<'_> {
    fn default() -> Self {
        Self { source: None, card: None, shard_bytes: DEFAULT_SHARD_BYTES }
    }
}

/// Writes config.json, the weights and the contents in `options`. Adapters are left out.
pub(crate) fn write_model(
    folder: &Path,
    frame: &Frame,
    family: &Family,
    options: &SaveOptions<'_>,
) -> Result<(), ModelError> {
    ModelSettings::of(frame, family).write(folder, &frame.parameters, options)
}

/// The settings in a model folder.
#[derive(Debug, Clone)]
pub(crate) struct ModelSettings {
    config: Map<String, Value>,
    generation: Option<Map<String, Value>>,
    /// Names of matrices that are written beside the parameters, and the parameter that each is a copy of.
    copies: Vec<(String, String)>,
}

impl ModelSettings {
    pub(crate) fn of(frame: &Frame, family: &Family) -> Self {
        Self {
            config: written_config(&frame.config, &frame.parameters, family),
            generation: frame.config.generation().cloned(),
            copies: Vec::new(),
        }
    }

    /// The same settings for folders in which the head has a matrix of its own, though it shares that of the
    /// embeddings.
    pub(crate) fn untied(mut self, parts: &Parts<'_>) -> Self {
        for layer in &parts.head {
            if let Some(shared) = layer.tied.as_deref() {
                self.copies.push((format!("{}.weight", layer.path), shared.to_owned()));
            }
        }
        if !self.copies.is_empty() {
            let fields = parts.untied.iter();
            self.config.extend(fields.map(|(field, value)| ((*field).to_owned(), (*value).into())));
        }
        self
    }

    /// Writes a model folder with these settings and the weights in `parameters`, without adapters.
    pub(crate) fn write(
        &self,
        folder: &Path,
        parameters: &Parameters,
        options: &SaveOptions<'_>,
    ) -> Result<(), ModelError> {
        if let Some(layer) = parameters.quantized().next() {
            return Err(ModelError::QuantizedBase { what: "saved", layer: layer.to_owned() });
        }
        let mut tensors = TensorList::default();
        for (name, tensor) in parameters.iter().filter(|(name, _)| !is_adapter(name)) {
            let transposed = parameters.is_transposed(name).then(|| tensor.tr());
            let stored = transposed.as_ref().unwrap_or(tensor);
            for (alias, _) in self.copies.iter().filter(|(_, shared)| shared == name) {
                tensors.push(alias.clone(), stored)?;
            }
            tensors.push(name.to_owned(), stored)?;
        }
        let mut writer = FolderWriter::create(folder)?;
        writer.weights(&tensors, options.shard_bytes)?;
        writer.json("config.json", &self.config)?;
        if let Some(generation) = &self.generation {
            writer.json("generation_config.json", generation)?;
        }
        if let Some(source) = options.source {
            writer.copy_tokenizer(source)?;
        }
        if let Some(card) = options.card {
            writer.card(card)?;
        }
        Ok(writer.finish()?)
    }
}

/// config.json as it was read, with the current dtype of the weights, spelled so that older and
/// newer versions of transformers can read it.
fn written_config(config: &Config, parameters: &Parameters, family: &Family) -> Map<String, Value> {
    let mut fields = config.fields().clone();
    if let Some((_, tensor)) = parameters.iter().next() {
        fields.remove("dtype");
        let name = match kind_name(tensor.kind()) {
            "bf16" => "bfloat16",
            "f16" => "float16",
            "f64" => "float64",
            _ => "float32",
        };
        fields.insert("torch_dtype".to_owned(), name.into());
    }
    (family.written)(&mut fields, parameters);
    fields
}

/// Tensors to write; they are copied to the host one at a time.
#[derive(Debug, Default)]
pub(crate) struct TensorList(Vec<(String, Tensor, Dtype)>);

impl TensorList {
    pub(crate) fn push(&mut self, name: String, tensor: &Tensor) -> Result<(), ModelError> {
        let Some(dtype) = dtype_of(tensor.kind()) else {
            return Err(ModelError::Dtype {
                file: "model.safetensors".into(),
                tensor: name,
                dtype: format!("{:?}", tensor.kind()),
            });
        };
        self.0.push((name, tensor.detach(), dtype));
        Ok(())
    }
}

impl TensorSource for TensorList {
    fn tensors(&self) -> Vec<TensorSpec> {
        self.0
            .iter()
            .map(|(name, tensor, dtype)| TensorSpec {
                name: name.clone(),
                dtype: *dtype,
                shape: tensor
                    .size()
                    .into_iter()
                    .map(|size| usize::try_from(size).expect("a size is not negative"))
                    .collect(),
            })
            .collect()
    }

    fn write(&self, name: &str, out: &mut dyn Write) -> io::Result<()> {
        let (_, tensor, _) = self
            .0
            .iter()
            .find(|(known, _, _)| known == name)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, name.to_owned()))?;
        let tensor = tensor.to_device(Device::Cpu).contiguous();
        rlaif_torch::with_bytes(&tensor, |bytes| out.write_all(bytes)).map_err(io::Error::other)?
    }
}
