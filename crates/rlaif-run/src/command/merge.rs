//! `rlaif merge`.

use std::path::Path;

use rlaif_models::{ModelError, ModelNames, ModelSort, SaveOptions};
use rlaif_rewards::neural::tokenizer_folder;

use super::{error::CommandError, model::Loading};
use crate::{fetch::model_files, model::tell_of_unread, prompt::pass_on_rendering};

/// A LoRA adapter to merge into the weights of its base.
#[derive(Debug, Clone)]
pub struct MergeAdapter {
    /// Folder or hub id of the adapter.
    pub adapter: String,
    /// Branch, tag or commit of a hub id.
    pub revision: Option<String>,
    /// Folder or hub id of the base; by default, the base in the adapter's configuration.
    pub base: Option<String>,
    /// Device and dtype.
    pub loading: Loading,
}

impl MergeAdapter {
    /// Writes the complete model into the folder `out`, with the tokenizer and the rendering of prompts.
    ///
    /// # Errors
    /// [`CommandError::Setting`] for a folder without an adapter, and the errors of loading and writing.
    pub fn run(&self, out: &Path) -> Result<(), CommandError> {
        let options = self.loading.options()?;
        let files = model_files(&ModelNames {
            model: &self.adapter,
            revision: self.revision.as_deref(),
            adapter: None,
            base: self.base.as_deref(),
        })?;
        let Some(adapter) = &files.adapter else {
            let expected =
                "the folder of an adapter, with an adapter_config.json and no whole model";
            return Err(CommandError::setting("adapter", &self.adapter, expected));
        };
        let save = SaveOptions { source: Some(tokenizer_folder(&files)), ..SaveOptions::default() };
        match files.sort(options)? {
            ModelSort::LanguageModel => {
                let model = files.merged_language_model(options)?;
                tell_of_unread(&self.adapter, model.unread());
                model.save(out, &save)?;
            }
            ModelSort::Classifier => {
                let model = files.merged_classifier(options)?;
                tell_of_unread(&self.adapter, model.unread());
                model.save(out, &save)?;
            }
        }
        pass_on_rendering(adapter, out).map_err(ModelError::from)?;
        Ok(())
    }
}
