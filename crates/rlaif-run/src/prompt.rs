//! `[prompt]`: the rendering of prompts, the same for training and evaluation.

use std::path::Path;

use rayon::prelude::*;
use rlaif_checkpoint::CheckpointError;
use rlaif_core::{BadSetting, ChatOptions, CodecError, Metadata, PlainText, Rendering};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{error::RunError, skipped::SkippedRows};

/// The rendering of prompts. Prompts that are messages always use the model's chat template.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PromptSection {
    /// Rendering of prompts that are texts: `text` leaves them unchanged, `chat` renders each as a
    /// user's message by the chat template.
    pub plain: PlainText,
    /// Text around prompts that are texts, with `{prompt}` in place of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The system message of conversations that have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The name of the chat template, if the tokenizer has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// Variables of the chat template, such as `enable_thinking`. A row's own variables override
    /// them.
    #[serde(skip_serializing_if = "Metadata::is_empty")]
    pub chat_template_kwargs: Metadata,
}

/// The file with the rendering of a run's prompts, in the folder of the run and in that of its model.
pub(crate) const PROMPT_FILE: &str = "prompt.json";

impl PromptSection {
    /// Checks everything that needs no row.
    ///
    /// # Errors
    /// [`RunError::Setting`].
    pub fn check(&self) -> Result<(), RunError> {
        let Some(template) = &self.template else { return Ok(()) };
        match template.matches("{prompt}").count() {
            1 => Ok(()),
            count => {
                let found = format!("a text with `{{prompt}}` {count} times");
                Err(BadSetting::new("prompt.template", found, "a text with it once").into())
            }
        }
    }

    /// The conversion of rows to texts.
    pub fn rendering(&self) -> Rendering {
        Rendering {
            chat: ChatOptions {
                template: self.chat_template.clone(),
                kwargs: self.chat_template_kwargs.clone(),
                ..ChatOptions::default()
            },
            plain: self.plain,
            system: self.system.clone(),
            prompt_template: self.template.clone(),
        }
    }
}

/// Describes the rendering of prompts, in one sentence.
pub(crate) fn described(how: &Rendering) -> String {
    let mut said = match (how.plain, &how.prompt_template) {
        (PlainText::Chat, _) => "prompts go through the chat template".to_owned(),
        (PlainText::Text, None) => "prompts are texts as they are".to_owned(),
        (PlainText::Text, Some(_)) => "prompts are texts".to_owned(),
    };
    if let Some(template) = &how.prompt_template {
        said.push_str(&format!(", put into {template:?}"));
    }
    if let Some(system) = &how.system {
        said.push_str(&format!(", with the system message {system:?}"));
    }
    if let Some(name) = &how.chat.template {
        said.push_str(&format!(", by the template `{name}`"));
    }
    if !how.chat.kwargs.is_empty() {
        let kwargs = serde_json::Value::Object(how.chat.kwargs.clone());
        said.push_str(&format!(", with {kwargs}"));
    }
    said
}

/// The rendering of a run: after training on conversations, a text is a user's message.
pub(crate) fn of_rows(section: &PromptSection, conversations: bool) -> Rendering {
    let mut how = section.rendering();
    if conversations {
        how.plain = PlainText::Chat;
    }
    how
}

/// The rendering that the folder of a run, or of a model that a run wrote, holds; `None` if it holds
/// none.
///
/// # Errors
/// [`CheckpointError`] of a damaged file.
pub(crate) fn held_in(folder: &Path) -> Result<Option<Rendering>, CheckpointError> {
    rlaif_checkpoint::read_json_if_present(&folder.join(PROMPT_FILE))
}

/// Writes into the folder of a model the rendering that another folder holds, if it holds one: an
/// evaluation of the model, or of a copy of it, asks as its training did.
///
/// # Errors
/// [`CheckpointError`] of reading or writing.
pub fn pass_on_rendering(from: &Path, model: &Path) -> Result<(), CheckpointError> {
    match held_in(from)? {
        Some(rendering) => rlaif_checkpoint::write_json(&model.join(PROMPT_FILE), &rendering),
        None => Ok(()),
    }
}

/// Renders rows. A row that the chat template refuses becomes `None` and is counted.
///
/// # Errors
/// [`RunError::Codec`] where no row can be rendered.
pub(crate) fn rendered<R: Sync, T: Send>(
    rows: &[R],
    skipped: &mut SkippedRows,
    render: impl Fn(&R) -> Result<T, CodecError> + Sync,
) -> Result<Vec<Option<T>>, RunError> {
    let all: Vec<Result<T, CodecError>> = rows.par_iter().map(&render).collect();
    let mut rows = Vec::with_capacity(all.len());
    let mut first = None;
    for row in all {
        match row {
            Ok(row) => rows.push(Some(row)),
            Err(error @ (CodecError::ChatTemplate { .. } | CodecError::Conversation { .. })) => {
                skipped.leave_out(match &error {
                    CodecError::Conversation { problem } => problem,
                    _ => REFUSED,
                });
                first.get_or_insert(error);
                rows.push(None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    match first {
        Some(error) if rows.iter().all(Option::is_none) => Err(error.into()),
        _ => Ok(rows),
    }
}

/// The reason for leaving out a conversation that the chat template refuses.
pub(crate) const REFUSED: &str = "the chat template refuses the conversation";
