//! Writes the weights of a model that is being trained, again and again, for another program.

use std::path::{Path, PathBuf};

use rlaif_checkpoint::{AdapterConfig, FolderWriter};
use rlaif_lm::{AsPolicy, Parameters};
use tch::Tensor;

use crate::{
    error::ModelError,
    language_model::LanguageModel,
    lora::StoredTensor,
    save::{ModelSettings, SaveOptions, TensorList},
};

/// Writes folders with the current weights of a model: its adapter if an adapter is active, and the whole model
/// otherwise. It keeps what the parameters do not tell, so that it can write those of a copy as well, and of a
/// policy that is known by its parameters only.
///
/// A head that shares the matrix of the embeddings gets a matrix of its own in the folder: servers that keep a packed
/// copy of it do not renew that copy when they load the embeddings.
///
/// ```
/// use rlaif_lm::Policy;
/// use rlaif_models::{Config, LanguageModel, WeightsWriter};
/// use tch::{Device, Kind};
/// let config = Config::from_value(serde_json::json!({
///     "model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
///     "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64,
/// }));
/// tch::manual_seed(7);
/// let mut policy = LanguageModel::random(config, Kind::Float, Device::Cpu)?;
/// let writer = WeightsWriter::new(&mut policy, None)?;
/// assert!(writer.adapter().is_none());
/// let place = tempfile::tempdir()?;
/// writer.write(policy.parameters(), &place.path().join("version-1"))?;
/// assert!(place.path().join("version-1/model.safetensors").exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct WeightsWriter {
    content: Content,
    tokenizer: Option<PathBuf>,
}

#[derive(Debug)]
enum Content {
    Model(ModelSettings),
    Adapter { config: Box<AdapterConfig>, tensors: Vec<Place> },
}

/// The source of a tensor in an adapter's file.
#[derive(Debug)]
struct Place {
    key: String,
    parameter: String,
    /// `true` if the file has the transposed matrix.
    transposed: bool,
}

impl WeightsWriter {
    /// A writer of the weights of this model. Folders of whole models get the tokenizer of the folder `tokenizer`.
    ///
    /// # Errors
    /// [`ModelError::AdapterParts`] for an adapter with a tensor that is not a parameter of the model.
    pub fn new(model: &mut LanguageModel, tokenizer: Option<&Path>) -> Result<Self, ModelError> {
        let tokenizer = tokenizer.map(Path::to_owned);
        let active = model.adapters().active().map(str::to_owned);
        let Some(name) = active else {
            return Ok(Self { content: Content::Model(model.untied_settings()), tokenizer });
        };
        let (config, stored) = model.adapters().file_of(&name)?;
        let parameters = model.as_policy().parameters();
        let place = |stored: StoredTensor| {
            let (parameter, own) =
                source_of(&stored, parameters).ok_or_else(|| ModelError::AdapterParts {
                    file: name.clone().into(),
                    others: vec![stored.key.clone()],
                })?;
            let transposed =
                own.size() != stored.tensor.size() || own.stride() != stored.tensor.stride();
            Ok(Place { key: stored.key, parameter, transposed })
        };
        let tensors = stored.into_iter().map(place).collect::<Result<_, ModelError>>()?;
        Ok(Self { content: Content::Adapter { config: Box::new(config), tensors }, tokenizer })
    }

    /// The configuration of the adapter, if the folders have an adapter.
    pub fn adapter(&self) -> Option<&AdapterConfig> {
        match &self.content {
            Content::Model(_) => None,
            Content::Adapter { config, .. } => Some(config),
        }
    }

    /// Writes a folder with the weights in `parameters`, which are those of the model or of a copy of it. A folder of this
    /// name is replaced.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] if it cannot be written; no partial folder is left behind.
    /// [`ModelError::QuantizedBase`] for the weights of a quantized model.
    pub fn write(&self, parameters: &Parameters, folder: &Path) -> Result<(), ModelError> {
        let (config, tensors) = match &self.content {
            Content::Model(settings) => {
                let source = self.tokenizer.as_deref();
                let options = SaveOptions { source, ..SaveOptions::default() };
                return settings.write(folder, parameters, &options);
            }
            Content::Adapter { config, tensors } => (config, tensors),
        };
        let mut list = TensorList::default();
        for Place { key, parameter, transposed } in tensors {
            let own = parameters.get(parameter).ok_or_else(|| ModelError::AdapterParts {
                file: folder.to_owned(),
                others: vec![parameter.clone()],
            })?;
            let turned = transposed.then(|| own.tr());
            list.push(key.clone(), turned.as_ref().unwrap_or(own))?;
        }
        let mut writer = FolderWriter::create(folder)?;
        writer.adapter(config, &list)?;
        Ok(writer.finish()?)
    }
}

/// The parameter with a stored tensor's memory, and its tensor. Layers that share a matrix share the tensors of their adapter,
/// under the name of one of them.
fn source_of<'a>(
    stored: &StoredTensor,
    parameters: &'a Parameters,
) -> Option<(String, &'a Tensor)> {
    if let Some(own) = parameters.get(&stored.parameter) {
        return Some((stored.parameter.clone(), own));
    }
    let mut all = parameters.iter();
    all.find(|(_, own)| own.data_ptr() == stored.tensor.data_ptr())
        .map(|(name, own)| (name.to_owned(), own))
}

#[cfg(test)]
mod tests {
    use rlaif_lm::{Forward, Padding, Policy, TokenBatch, policy_log_probs};
    use serde_json::json;
    use tch::{Device, Kind};

    use super::*;
    use crate::{Config, LoadOptions};

    fn log_probs(model: &LanguageModel) -> Tensor {
        let policy = model.as_policy();
        let prompts = TokenBatch::collate(vec![vec![3, 4, 5]], policy.spec(), Padding::Right);
        let responses = TokenBatch::responses(vec![vec![6, 7]], policy.spec());
        let forward = Forward::default();
        let found =
            policy_log_probs(policy, &prompts.unwrap(), &responses.unwrap(), forward, 1.).unwrap();
        found.log_probs.detach()
    }

    #[test]
    fn a_shared_head_gets_a_matrix_of_its_own_which_is_loaded_as_the_same_model() {
        let llama = json!({"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64});
        let gpt2 = json!({"model_type": "gpt2", "vocab_size": 32, "n_embd": 16, "n_layer": 1, "n_head": 2,
            "n_positions": 64});
        let t5 = json!({"model_type": "t5", "vocab_size": 32, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1,
            "num_heads": 2, "decoder_start_token_id": 0});
        for mut fields in [llama, gpt2, t5] {
            for ties in [false, true] {
                fields["tie_word_embeddings"] = ties.into();
                let place = tempfile::tempdir().unwrap();
                let folder = place.path().join("version-0");
                let config = Config::from_value(fields.clone());
                let model = || LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap();
                let mut model = rlaif_testing::drawn(3, model);
                let writer = WeightsWriter::new(&mut model, None).unwrap();
                writer.write(model.parameters(), &folder).unwrap();
                let options = LoadOptions::new(Device::Cpu, Kind::Float);
                let again = LanguageModel::load(&folder, options).unwrap();
                assert!(again.parameters().get("lm_head.weight").is_some(), "{fields}");
                let here = log_probs(&model);
                assert!(here.equal(&log_probs(&again)), "{fields}");
            }
        }
    }
}
