//! Chat templates: Jinja as transformers sets it up, on minijinja.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use jiff::ZonedDateTime;
use jiff::civil::DateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, context};
use rlaif_core::{GenerationPrompt, Message};

use crate::json::tojson;
use crate::methods::unknown_method;

/// What one rendering may cost, in template instructions: a thousand times what long
/// conversations need, and an end to templates that have none.
const FUEL: u64 = 10_000_000;

/// The chat templates of one tokenizer.
pub(crate) struct Chat {
    templates: BTreeMap<String, Template>,
    /// `bos_token` and so on, as templates see them.
    specials: Value,
    now: Arc<OnceLock<DateTime>>,
}

struct Template {
    source: String,
    compiled: OnceLock<Environment<'static>>,
}

impl Chat {
    pub(crate) fn new(
        templates: BTreeMap<String, String>,
        specials: BTreeMap<String, String>,
    ) -> Self {
        let templates = templates
            .into_iter()
            .map(|(name, source)| (name, Template { source, compiled: OnceLock::new() }))
            .collect();
        Self { templates, specials: Value::from(specials), now: Arc::default() }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.templates.keys().map(String::as_str)
    }

    /// What `strftime_now` sees from now on.
    pub(crate) fn set_now(&mut self, now: DateTime) {
        self.now = Arc::new(OnceLock::from(now));
        // Compiled templates hold the clock that they were compiled with.
        for template in self.templates.values_mut() {
            template.compiled = OnceLock::new();
        }
    }

    pub(crate) fn render(
        &self,
        name: &str,
        messages: &[Message],
        generation_prompt: GenerationPrompt,
    ) -> Result<String, Error> {
        let Some(template) = self.templates.get(name) else {
            let names: Vec<&str> = self.names().collect();
            let message = format!("no template is named `{name}`, only {}", names.join(", "));
            return Err(Error::new(ErrorKind::TemplateNotFound, message));
        };
        if messages.is_empty() {
            let message = "the conversation is empty: give at least one message";
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        let environment = match template.compiled.get() {
            Some(environment) => environment,
            None => {
                let environment = self.compile(&template.source)?;
                template.compiled.get_or_init(|| environment)
            }
        };
        let variables = context! {
            messages => messages.iter().map(message).collect::<Vec<_>>(),
            tools => (),
            documents => (),
            add_generation_prompt => generation_prompt == GenerationPrompt::Add,
            ..self.specials.clone()
        };
        environment.get_template(NAME)?.render(variables)
    }

    fn compile(&self, source: &str) -> Result<Environment<'static>, Error> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(unknown_method);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("tojson", |value: &Value, kwargs: Kwargs| tojson(value, &kwargs));
        environment.add_function("raise_exception", raise_exception);
        let now = Arc::clone(&self.now);
        environment.add_function("strftime_now", move |format: &str| strftime(&now, format));
        environment.add_template_owned(NAME, without_generation_blocks(source))?;
        Ok(environment)
    }
}

/// The template's name in the engine's messages.
const NAME: &str = "chat_template";

fn message(message: &Message) -> Value {
    context! { role => message.role.as_str(), content => message.content.as_str() }
}

fn raise_exception(message: &str) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

fn strftime(now: &OnceLock<DateTime>, format: &str) -> Result<String, Error> {
    let now = now.get().copied().unwrap_or_else(|| ZonedDateTime::now().datetime());
    jiff::fmt::strtime::format(format, now).map_err(|source| {
        let message = format!("strftime_now: `{format}` is no format of a date and time");
        Error::new(ErrorKind::InvalidOperation, message).with_source(source)
    })
}

/// `{% generation %} .. {% endgeneration %}` marks what an assistant says, for masks that are not
/// made here. The engine knows no such block, so it becomes one that is always taken.
fn without_generation_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, block) = rest.split_at(start);
        out.push_str(before);
        // Not from the start: `{%}` is no block.
        let Some(end) = block[2..].find("%}").map(|end| end + 2) else {
            rest = block;
            break;
        };
        let inner = &block[2..end];
        let (open, word) = match inner.strip_prefix(['-', '+']) {
            Some(word) => (&inner[..1], word),
            None => ("", inner),
        };
        let (word, close) = match word.strip_suffix(['-', '+']) {
            Some(less) => (less, &word[less.len()..]),
            None => (word, ""),
        };
        match word.trim() {
            "generation" => out.push_str(&format!("{{%{open} if true {close}%}}")),
            "endgeneration" => out.push_str(&format!("{{%{open} endif {close}%}}")),
            _ => out.push_str(&block[..end + 2]),
        }
        rest = &block[end + 2..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_blocks_keep_their_whitespace_control_and_others_stay() {
        let source = "{%- generation -%}a{% endgeneration +%}{% if x %}%}{{ '{%' }}{% raw %}";
        assert_eq!(
            without_generation_blocks(source),
            "{%- if true -%}a{% endif +%}{% if x %}%}{{ '{%' }}{% raw %}"
        );
        assert_eq!(without_generation_blocks("{%"), "{%");
        for odd in ["{%%}{%-%}", "{%}}", "{%}%}", "{%-+%}"] {
            assert_eq!(without_generation_blocks(odd), odd);
        }
    }
}
