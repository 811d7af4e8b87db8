//! Flags for the rendering of prompts: the keys of a run file's `[prompt]`.

use clap::{Args, ValueEnum};
use rlaif_core::{Metadata, PlainText, Rendering};
use rlaif_run::PromptSection;

use super::error::CliError;

/// Rendering of prompts, before any chat template.
#[derive(Debug, Args)]
pub(crate) struct AskedArguments {
    /// Prompts that are texts: as they are, or each as what the user says, through the chat template.
    #[arg(long, value_enum, default_value_t = Plain::Text)]
    plain: Plain,
    /// Text around prompts that are texts, with {prompt} in place of the prompt.
    #[arg(long)]
    prompt_template: Option<String>,
    /// The system message of conversations that have none.
    #[arg(long)]
    system: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PromptArguments {
    #[command(flatten)]
    asked: AskedArguments,
    /// The name of the chat template, where the tokenizer has several.
    #[arg(long)]
    chat_template: Option<String>,
    /// Variables of the chat template as JSON, such as '{"enable_thinking": false}'.
    #[arg(long, value_name = "JSON")]
    chat_template_kwargs: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Plain {
    Text,
    Chat,
}

impl AskedArguments {
    fn section(&self) -> Result<PromptSection, CliError> {
        let section = PromptSection {
            plain: match self.plain {
                Plain::Text => PlainText::Text,
                Plain::Chat => PlainText::Chat,
            },
            template: self.prompt_template.clone(),
            system: self.system.clone(),
            ..PromptSection::default()
        };
        section.check().map_err(|_| {
            let found = section.template.as_deref().unwrap_or_default();
            CliError::flag("prompt-template", found, "a text with {prompt} in it, once")
        })?;
        Ok(section)
    }

    /// The conversion of prompts to what is asked.
    pub(crate) fn rendering(&self) -> Result<Rendering, CliError> {
        Ok(self.section()?.rendering())
    }
}

impl PromptArguments {
    /// The conversion of prompts to texts.
    pub(crate) fn rendering(&self) -> Result<Rendering, CliError> {
        let kwargs = self.chat_template_kwargs.as_deref();
        let kwargs: Option<Metadata> = kwargs
            .map(|json| {
                serde_json::from_str(json).map_err(|_| {
                    let expected = "a JSON object, such as {\"enable_thinking\": false}";
                    CliError::flag("chat-template-kwargs", json, expected)
                })
            })
            .transpose()?;
        let section = PromptSection {
            chat_template: self.chat_template.clone(),
            chat_template_kwargs: kwargs.unwrap_or_default(),
            ..self.asked.section()?
        };
        Ok(section.rendering())
    }
}
