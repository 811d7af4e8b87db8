//! LoRA adapters: several per model, selected by name per forward pass, in peft's file format.
//!
//! [Hu et al. 2021](https://arxiv.org/abs/2106.09685): `y = W x + s B A x` with A `[r, inputs]`,
//! B `[outputs, r]` and s = α/r, or α/√r with rank-stabilised scaling
//! ([Kalajdzievski 2023](https://arxiv.org/abs/2312.03732)). An embedding is a layer whose inputs are the ids.

mod attach;
mod file;
mod merge;

use std::path::Path;

use rlaif_checkpoint::{AdapterConfig, Checkpoint, FolderWriter};
use serde_json::{Map, Value};
use tch::Tensor;

use crate::{adapter::Form, error::ModelError, files::AdapterBase, frame::Parts, save::TensorList};
use attach::Origin;

/// A tensor of an adapter's file.
pub(crate) struct StoredTensor {
    /// Name in the file.
    pub(crate) key: String,
    /// Name in memory.
    pub(crate) parameter: String,
    /// The tensor as the file has it.
    pub(crate) tensor: Tensor,
}

/// The adapters of a model: add, switch, merge and save them.
///
/// [`rlaif_lm::Forward::adapters`] selects the adapter of a forward pass: the same weights serve as
/// the policy with the adapter and as the reference without.
pub struct ModelAdapters<'a> {
    parts: Parts<'a>,
}

impl<'a> ModelAdapters<'a> {
    pub(crate) fn new(parts: Parts<'a>) -> Self {
        Self { parts }
    }

    /// The names of the loaded adapters.
    pub fn names(&self) -> Vec<String> {
        self.parts.adapters.names()
    }

    /// The adapter that [`rlaif_lm::Adapters::Active`] selects.
    pub fn active(&self) -> Option<&str> {
        self.parts.adapters.active()
    }

    /// Makes `name` the active adapter.
    ///
    /// # Errors
    /// [`ModelError::UnknownAdapter`].
    pub fn activate(&mut self, name: &str) -> Result<(), ModelError> {
        let slot = self.parts.adapters.find(name)?;
        self.parts.adapters.activate(slot);
        Ok(())
    }

    /// Adds a fresh adapter without effect, and trains only it: all other parameters are frozen, as
    /// in peft. A is drawn from libtorch's generator: seed it before.
    ///
    /// # Errors
    /// [`ModelError::AdapterExists`]; [`ModelError::NoTarget`] if `target_modules` matches nothing,
    /// or a name in `modules_to_save` matches something other than linear layers and embeddings.
    pub fn add(&mut self, name: &str, config: AdapterConfig) -> Result<(), ModelError> {
        attach::attach(&mut self.parts, name, config, &Origin::Fresh)?;
        self.train(name)
    }

    /// Loads an adapter from a folder in peft's layout. It is frozen; [`Self::train`] changes that.
    ///
    /// Embeddings and a head that the file has besides the adapter, such as those of a resized vocabulary,
    /// replace the base's, as in peft: without the adapter, too.
    ///
    /// Returns the names of tensors in the file that have no effect, in transformers neither: those of the
    /// module `shared` of a T5, whose stacks read their own embeddings.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] if the files cannot be read or need an unsupported feature,
    /// [`ModelError::Tensors`] with all missing, unexpected and mis-shaped tensors, and as
    /// [`Self::add`].
    pub fn load(&mut self, name: &str, folder: &Path) -> Result<Vec<String>, ModelError> {
        let config = AdapterConfig::read(folder)?;
        let weights = Checkpoint::open_adapter(folder)?;
        attach::attach(&mut self.parts, name, config, &Origin::File(&weights))
    }

    /// Trains only this adapter, and freezes all other parameters.
    ///
    /// # Errors
    /// [`ModelError::UnknownAdapter`].
    pub fn train(&mut self, name: &str) -> Result<(), ModelError> {
        let slot = self.parts.adapters.find(name)?;
        let of_adapter: Vec<String> = self.own_parts(name, slot).collect();
        self.parts.parameters.train_where(|path| of_adapter.iter().any(|own| own == path));
        Ok(())
    }

    /// The names of an adapter's parameters.
    fn own_parts(&self, name: &str, slot: usize) -> impl Iterator<Item = String> {
        self.parts.layers().flat_map(move |layer| {
            let adapter = layer.adapters.get(&slot).filter(|adapter| !adapter.shared);
            let parts = adapter.map(|adapter| layer.parts_of(adapter, name)).unwrap_or_default();
            parts.into_iter().map(|part| part.parameter)
        })
    }

    /// Adds the adapter to the weights, so that a forward pass costs no more than without. The
    /// original weights are kept for [`Self::unmerge`]. Quantized weights are dequantized, and stay so.
    ///
    /// # Errors
    /// [`ModelError::UnknownAdapter`], [`ModelError::Merge`] if another adapter is merged.
    pub fn merge(&mut self, name: &str) -> Result<(), ModelError> {
        let slot = self.parts.adapters.find(name)?;
        if self.parts.adapters.merged().is_some() {
            return Err(ModelError::Merge {
                name: name.to_owned(),
                what: "merged",
                why: "an adapter is merged already; unmerge it first".to_owned(),
            });
        }
        merge::merge(&mut self.parts, slot);
        Ok(())
    }

    /// Restores the weights, bit by bit, to their state before [`Self::merge`].
    ///
    /// # Errors
    /// [`ModelError::Merge`] if no adapter is merged.
    pub fn unmerge(&mut self) -> Result<(), ModelError> {
        let Some((slot, changes)) = self.parts.adapters.take_merged() else {
            return Err(ModelError::Merge {
                name: self.active().unwrap_or("").to_owned(),
                what: "unmerged",
                why: "none is merged".to_owned(),
            });
        };
        merge::unmerge(&mut self.parts, slot, changes);
        Ok(())
    }

    /// Removes an adapter from the model. A merged adapter stays in the weights permanently.
    ///
    /// # Errors
    /// [`ModelError::UnknownAdapter`].
    pub fn remove(&mut self, name: &str) -> Result<(), ModelError> {
        let slot = self.parts.adapters.find(name)?;
        let own: Vec<String> = self.own_parts(name, slot).collect();
        for parameter in own {
            self.parts.parameters.remove(&parameter);
        }
        for layer in self.parts.layers_mut() {
            layer.adapters.remove(&slot);
        }
        if self.parts.adapters.merged() == Some(slot) {
            self.parts.adapters.take_merged();
        }
        self.parts.adapters.remove(slot);
        Ok(())
    }

    /// Writes an adapter as a folder that peft loads: `adapter_config.json` and
    /// `adapter_model.safetensors`.
    ///
    /// # Errors
    /// [`ModelError::UnknownAdapter`], [`ModelError::Checkpoint`] if it cannot be written; no
    /// partial folder is left behind.
    pub fn save(&self, name: &str, folder: &Path) -> Result<(), ModelError> {
        self.write(name, folder, None, None, None)
    }

    /// As [`Self::save`], with the base that its configuration is to name, and a config.json and the
    /// tokenizer of a folder beside it.
    pub(crate) fn write(
        &self,
        name: &str,
        folder: &Path,
        base: Option<&AdapterBase>,
        config: Option<&Map<String, Value>>,
        tokenizer: Option<&Path>,
    ) -> Result<(), ModelError> {
        let slot = self.parts.adapters.find(name)?;
        let mut tensors = TensorList::default();
        for StoredTensor { key, tensor, .. } in self.stored(name, slot) {
            tensors.push(key, &tensor)?;
        }
        let mut writer = FolderWriter::create(folder)?;
        let mut own = self.parts.adapters.config(slot).clone();
        if let Some(AdapterBase { model, revision }) = base {
            own.base_model_name_or_path = Some(model.clone());
            own.revision.clone_from(revision);
        }
        writer.adapter(&own, &tensors)?;
        if let Some(config) = config {
            writer.json("config.json", config)?;
        }
        if let Some(tokenizer) = tokenizer {
            writer.copy_tokenizer(tokenizer)?;
        }
        Ok(writer.finish()?)
    }

    /// The configuration of an adapter, and its tensors.
    pub(crate) fn file_of(
        &self,
        name: &str,
    ) -> Result<(AdapterConfig, Vec<StoredTensor>), ModelError> {
        let slot = self.parts.adapters.find(name)?;
        Ok((self.parts.adapters.config(slot).clone(), self.stored(name, slot)))
    }

    /// The tensors of an adapter's file.
    fn stored(&self, name: &str, slot: usize) -> Vec<StoredTensor> {
        let mut all = Vec::new();
        for layer in self.parts.layers() {
            let Some(adapter) = layer.adapters.get(&slot) else { continue };
            for part in layer.parts_of(adapter, name) {
                let transposed = layer.stores_transposed(&part.key);
                let tensor = if transposed { part.tensor.tr() } else { part.tensor };
                let key = part.key.to_string();
                all.push(StoredTensor { key, parameter: part.parameter, tensor });
            }
        }
        for parameter in self.parts.adapters.replaced(slot) {
            if let Some(tensor) = self.parts.parameters.get(parameter) {
                let (key, tensor) = (self.key_of_base(parameter, slot), tensor.shallow_clone());
                all.push(StoredTensor { key, parameter: parameter.clone(), tensor });
            }
        }
        all
    }

    /// The key under which peft finds a copy of a parameter of the base: where an adapter is on the layer,
    /// within its wrapper.
    fn key_of_base(&self, parameter: &str, slot: usize) -> String {
        let module = parameter.strip_suffix(".weight").unwrap_or(parameter);
        let layer = self.parts.layers().find(|layer| layer.path == module);
        let form = layer.and_then(|layer| layer.adapters.get(&slot)).map(|adapter| &adapter.form);
        let wrapper = match form {
            None => "",
            Some(Form::Lora(_)) => ".base_layer",
            Some(Form::Replacement { .. }) => ".original_module",
        };
        file::prefixed(&format!("{module}{wrapper}.weight"))
    }
}
