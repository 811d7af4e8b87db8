//! `rlaif merge`.

use std::path::PathBuf;

use clap::Args;
use rlaif_core::say;
use rlaif_models::{LoadOptions, ModelError, ModelFiles, ModelNames, ModelSort, SaveOptions};
use rlaif_rewards::neural::tokenizer_folder;
use rlaif_run::{model_files, pass_on_rendering, tell_of_unread};

use super::{error::CliError, model::Placement};

#[derive(Debug, Args)]
pub(crate) struct Merge {
    /// Folder or hub id of a LoRA adapter.
    adapter: String,
    /// The folder to write.
    #[arg(long)]
    out: PathBuf,
    /// Branch, tag or commit of a hub id.
    #[arg(long)]
    revision: Option<String>,
    /// Folder or hub id of the adapter's base; by default, the base in its configuration.
    #[arg(long)]
    base: Option<String>,
    #[command(flatten)]
    placement: Placement,
}

impl Merge {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let options = self.placement.loading().options()?;
        let files = model_files(&ModelNames {
            model: &self.adapter,
            revision: self.revision.as_deref(),
            adapter: None,
            base: self.base.as_deref(),
        })?;
        let Some(adapter) = &files.adapter else {
            let expected =
                "the folder of an adapter, with an adapter_config.json and no whole model";
            return Err(CliError::flag("adapter", &self.adapter, expected));
        };
        let source = tokenizer_folder(&files);
        let save = SaveOptions { source: Some(source), ..SaveOptions::default() };
        self.write(&files, options, &save)?;
        pass_on_rendering(adapter, &self.out).map_err(ModelError::from)?;
        say(format_args!("the merged model is in {}", self.out.display()));
        Ok(())
    }

    fn write(
        &self,
        files: &ModelFiles,
        options: LoadOptions,
        save: &SaveOptions<'_>,
    ) -> Result<(), CliError> {
        match files.sort(options)? {
            ModelSort::LanguageModel => {
                let model = files.merged_language_model(options)?;
                tell_of_unread(&self.adapter, model.unread());
                model.save(&self.out, save)?;
            }
            ModelSort::Classifier => {
                let model = files.merged_classifier(options)?;
                tell_of_unread(&self.adapter, model.unread());
                model.save(&self.out, save)?;
            }
        }
        Ok(())
    }
}
