//! `rlaif inspect`.

use clap::Args;
use rlaif_models::{AdapterConfig, ModelError, ModelFiles, ModelNames};
use rlaif_run::{RunError, model_files};
use serde_json::json;

use super::{error::CliError, print::print};

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Folder in Hugging Face's layout, or hub id, of a model or of a LoRA adapter.
    model: String,
    /// Branch, tag or commit of a hub id.
    #[arg(long)]
    revision: Option<String>,
    /// Base of an adapter; by default, the base in its configuration.
    #[arg(long)]
    base: Option<String>,
}

impl Inspect {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let names = ModelNames {
            model: &self.model,
            revision: self.revision.as_deref(),
            adapter: None,
            base: self.base.as_deref(),
        };
        let ModelFiles { folder: base, adapter } = model_files(&names)?;
        let summary = rlaif_models::inspect(&base)?;
        // The folder's own files, and their metadata.
        let on_base = adapter.as_ref().map(|adapter| {
            let config = AdapterConfig::read(adapter).map_err(ModelError::from)?;
            Ok::<_, CliError>(json!({
                "base": base.display().to_string(),
                "rank": config.r,
                "alpha": config.lora_alpha,
                "task_type": config.task_type,
                "modules_to_save": config.modules_to_save,
            }))
        });
        let on_base = on_base.transpose()?;
        let folder = adapter.unwrap_or(base);
        let spec = &summary.spec;
        let files = std::fs::read_dir(&folder)
            .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
            .map_err(|source| RunError::Read { path: folder.clone(), source })?;
        let mut files: Vec<_> = files
            .into_iter()
            .filter_map(|entry| {
                // Follows links: the hub's cache consists of them.
                let metadata = std::fs::metadata(entry.path()).ok()?;
                let name = entry.file_name().to_string_lossy().into_owned();
                metadata.is_file().then(|| json!({ "name": name, "bytes": metadata.len() }))
            })
            .collect();
        files.sort_by_key(|file| file["name"].as_str().map(str::to_owned));
        let object = json!({
            "architecture": summary.architecture,
            "model_type": spec.model_type,
            "parameters": summary.parameters,
            "dtype": summary.dtype,
            "vocab_size": spec.vocab_size,
            "hidden_size": spec.hidden_size,
            "context": spec.context,
            "bos_token_id": spec.bos_id,
            "eos_token_ids": spec.eos_ids,
            "pad_token_id": spec.pad_id,
            "decoder_start_token_id": spec.decoder_start_id,
            "labels": summary.labels,
            "unread_tensors": summary.unread,
            "adapter": on_base,
            "files": files,
        });
        print(format_args!("{object:#}"))
    }
}
