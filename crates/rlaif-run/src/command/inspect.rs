//! `rlaif inspect`.

use std::{fs, num::NonZeroU32, path::Path};

use rlaif_models::{
    AdapterConfig, Capability, Families, ModelError, ModelFiles, ModelNames, TaskType, WeightMemory,
};
use serde::Serialize;

use super::error::CommandError;
use crate::{error::RunError, fetch::model_files};

/// Facts about a model or an adapter, read without its weights.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// The class in config.json.
    pub architecture: String,
    /// `model_type` of config.json.
    pub model_type: String,
    /// Number of weights.
    pub parameters: usize,
    /// Dtype of the weights.
    pub dtype: String,
    /// Bytes of the weights in memory, by the dtype in which they are loaded.
    pub memory: WeightMemory,
    /// The supported uses.
    pub supported: Vec<Capability>,
    /// Rows of the vocabulary head.
    pub vocab_size: i64,
    /// Width of the hidden states.
    pub hidden_size: i64,
    /// Maximum sequence length; `None` without a limit.
    pub context: Option<usize>,
    /// Beginning of sequence.
    pub bos_token_id: Option<u32>,
    /// The ids that end a response.
    pub eos_token_ids: Vec<u32>,
    /// The padding token.
    pub pad_token_id: u32,
    /// The first token of the decoder of an encoder-decoder model.
    pub decoder_start_token_id: Option<u32>,
    /// A classifier's labels.
    pub labels: Vec<String>,
    /// Tensors of the files that the model does not read.
    pub unread_tensors: Vec<String>,
    /// The adapter.
    pub adapter: Option<InspectedAdapter>,
    /// The files of the folder.
    pub files: Vec<InspectedFile>,
}

/// Facts about an adapter.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct InspectedAdapter {
    /// The folder of the base.
    pub base: String,
    /// Rank r.
    pub rank: NonZeroU32,
    /// The numerator of the scale.
    pub alpha: f64,
    /// peft's `task_type`.
    pub task_type: Option<TaskType>,
    /// Modules that are trained whole.
    pub modules_to_save: Vec<String>,
}

/// A file of a model folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct InspectedFile {
    /// File name.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
}

impl Inspection {
    /// Inspects a folder or a hub repository, whose files are downloaded first.
    ///
    /// # Errors
    /// [`CommandError::Run`].
    pub fn of(names: &ModelNames<'_>) -> Result<Self, CommandError> {
        let ModelFiles { folder: base, adapter } = model_files(names)?;
        let summary = rlaif_models::inspect(&base)?;
        let memory = WeightMemory::of(Families::BUILT_IN, &base)?;
        let on_base = adapter.as_deref().map(|adapter| {
            let config = AdapterConfig::read(adapter).map_err(ModelError::from)?;
            Ok::<_, CommandError>(InspectedAdapter {
                base: base.display().to_string(),
                rank: config.r,
                alpha: config.lora_alpha,
                task_type: config.task_type,
                modules_to_save: config.modules_to_save,
            })
        });
        let on_base = on_base.transpose()?;
        let files = files_of(adapter.as_deref().unwrap_or(&base))?;
        let spec = summary.spec;
        Ok(Self {
            architecture: summary.architecture,
            model_type: spec.model_type,
            parameters: summary.parameters,
            dtype: summary.dtype,
            memory,
            supported: summary.supported,
            vocab_size: spec.vocab_size,
            hidden_size: spec.hidden_size,
            context: spec.context,
            bos_token_id: spec.bos_id,
            eos_token_ids: spec.eos_ids,
            pad_token_id: spec.pad_id,
            decoder_start_token_id: spec.decoder_start_id,
            labels: summary.labels,
            unread_tensors: summary.unread,
            adapter: on_base,
            files,
        })
    }
}

/// The files of a folder, sorted by name.
fn files_of(folder: &Path) -> Result<Vec<InspectedFile>, RunError> {
    let entries = fs::read_dir(folder)
        .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
        .map_err(|source| RunError::Read { path: folder.to_owned(), source })?;
    let mut files: Vec<InspectedFile> = entries
        .into_iter()
        .filter_map(|entry| {
            // Follows links: the hub's cache consists of them.
            let metadata = fs::metadata(entry.path()).ok()?;
            let name = entry.file_name().to_string_lossy().into_owned();
            metadata.is_file().then_some(InspectedFile { name, bytes: metadata.len() })
        })
        .collect();
    files.sort();
    Ok(files)
}
