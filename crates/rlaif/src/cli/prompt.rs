//! Flags for the rendering of prompts: the keys of a run file's `[prompt]`.

use clap::{Args, ValueEnum};
use rlaif_core::{Metadata, PlainText, Rendering};
use rlaif_run::PromptSection;

use super::error::CliError;

/// Rendering of prompts, before any chat template.
#[derive(Debug, Args)]
pub(crate) struct AskedArguments {
    /// Prompts that are texts: as they are (the default), or each as what the user says, through the chat
    /// template.
    #[arg(long, value_enum)]
    plain: Option<Plain>,
    /// Text around prompts that are texts, with {prompt} in place of the prompt.
    #[arg(long, alias = "prompt-template")]
    template: Option<String>,
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
    /// Sets the keys of the flags that are given.
    pub(crate) fn set(&self, section: &mut PromptSection) -> Result<(), CliError> {
        match self.plain {
            Some(Plain::Text) => section.plain = PlainText::Text,
            Some(Plain::Chat) => section.plain = PlainText::Chat,
            None => {}
        }
        if let Some(system) = &self.system {
            section.system = Some(system.clone());
        }
        if let Some(template) = &self.template {
            section.template = Some(template.clone());
            section.check().map_err(|_| {
                CliError::flag("prompt-template", template, "a text with {prompt} in it, once")
            })?;
        }
        Ok(())
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
        let mut section = PromptSection {
            chat_template: self.chat_template.clone(),
            chat_template_kwargs: kwargs.unwrap_or_default(),
            ..PromptSection::default()
        };
        self.asked.set(&mut section)?;
        Ok(section.rendering())
    }
}
