//! `rlaif import` and `rlaif export`: model folders from GGUF files, and GGUF files from models.

use std::path::PathBuf;

use rlaif_lm::Policy;
use rlaif_models::{Families, GgufFormat, GgufTokenizer, export_gguf, import_gguf};
use rlaif_rewards::neural::ModelDtype;
use rlaif_text::SpecialToken;
use tch::Kind;

use super::{error::CommandError, model::ModelChoice};
use crate::{
    error::RunError,
    model::{tell_of_unread, tokenizer},
};

/// Writes a GGUF file as a model folder.
#[derive(Debug, Clone)]
pub struct ImportGguf {
    /// The GGUF file.
    pub file: PathBuf,
    /// The folder to write.
    pub out: PathBuf,
    /// Dtype of the written weights.
    pub dtype: ModelDtype,
}

impl ImportGguf {
    /// Dequantizes the weights, and rebuilds configuration and tokenizer.
    ///
    /// # Errors
    /// [`CommandError::Run`], as [`import_gguf`].
    pub fn run(&self) -> Result<(), CommandError> {
        let kind = Kind::from(self.dtype);
        import_gguf(&self.file, &self.out, kind, Families::BUILT_IN).map_err(RunError::from)?;
        Ok(())
    }
}

/// Writes a language model and its tokenizer as a GGUF file.
#[derive(Debug, Clone)]
pub struct ExportGguf {
    /// The model; an adapter is merged into its base.
    pub model: ModelChoice,
    /// The file to write.
    pub out: PathBuf,
    /// Element type of the matrices.
    pub format: GgufFormat,
}

impl ExportGguf {
    /// Loads the model, and writes the file.
    ///
    /// # Errors
    /// [`CommandError::Run`], as [`export_gguf`]; also for a model without a tokenizer.
    pub fn run(&self) -> Result<(), CommandError> {
        let files = self.model.files()?;
        let options = self.model.loading.options()?;
        let model = match files.adapter {
            Some(_) => files.merged_language_model(options)?,
            None => files.language_model(options)?,
        };
        tell_of_unread(&self.model.model, model.unread());
        let tokenizer = tokenizer(&files, model.spec().vocab_size)?;
        let json = tokenizer.to_json().map_err(RunError::from)?;
        let id = |token: &Option<SpecialToken>| token.as_ref().map(|token| token.id);
        let specials = tokenizer.special_tokens();
        let tokenizer = GgufTokenizer {
            json: &json,
            bos: id(&specials.bos),
            eos: id(&specials.eos),
            unk: id(&specials.unk),
            pad: id(&specials.pad),
            chat_template: tokenizer.chat_template("default"),
        };
        export_gguf(&model, &tokenizer, &self.out, self.format, options.families)
            .map_err(RunError::from)?;
        Ok(())
    }
}
