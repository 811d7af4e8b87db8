//! Chat templates: Jinja as transformers sets it up, on minijinja.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use jiff::ZonedDateTime;
use jiff::civil::DateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Kwargs, Object, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, context};
use rlaif_core::{ChatOptions, GenerationPrompt, Message};

use crate::bound;
use crate::json::tojson;
use crate::methods::unknown_method;
use crate::notice::Notice;

/// Limit on the cost of one rendering, in template instructions: a hundred times what long
/// conversations need, and an end to templates that have none.
const FUEL: u64 = 1_000_000;

/// The chat templates of one tokenizer.
pub(crate) struct Chat {
    templates: BTreeMap<String, Template>,
    /// `bos_token` and so on, as templates see them.
    specials: BTreeMap<String, String>,
    now: Arc<OnceLock<DateTime>>,
}

struct Template {
    source: String,
    compiled: OnceLock<Environment<'static>>,
    /// The same with [`BEGIN`] and [`END`] around what `{% generation %}` marks.
    marked: OnceLock<Environment<'static>>,
    /// The variables that it reads.
    variables: OnceLock<HashSet<String>>,
}

impl Template {
    fn new(source: String) -> Self {
        Self {
            source,
            compiled: OnceLock::new(),
            marked: OnceLock::new(),
            variables: OnceLock::new(),
        }
    }
}

/// Noncharacters of Unicode, which no text has.
const BEGIN: char = '\u{fdd0}';
const END: char = '\u{fdd1}';

impl Chat {
    pub(crate) fn new(
        templates: BTreeMap<String, String>,
        specials: BTreeMap<String, String>,
    ) -> Self {
        let templates =
            templates.into_iter().map(|(name, source)| (name, Template::new(source))).collect();
        Self { templates, specials, now: Arc::default() }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.templates.keys().map(String::as_str)
    }

    /// The source of the template of this name.
    pub(crate) fn source(&self, name: &str) -> Option<&str> {
        self.templates.get(name).map(|template| template.source.as_str())
    }

    /// Sets the date that `strftime_now` returns from now on.
    pub(crate) fn set_now(&mut self, now: DateTime) {
        self.now = Arc::new(OnceLock::from(now));
        // Compiled templates hold the clock that they were compiled with.
        for template in self.templates.values_mut() {
            template.compiled = OnceLock::new();
            template.marked = OnceLock::new();
        }
    }

    /// The text, and what the template did not look at.
    pub(crate) fn render(
        &self,
        messages: &[Message],
        generation_prompt: GenerationPrompt,
        options: &ChatOptions,
    ) -> Result<(String, BTreeSet<Notice>), Error> {
        self.render_as(messages, generation_prompt, options, Marks::Off)
    }

    /// Returns `true` if the template itself marks the learned parts.
    pub(crate) fn marks(&self, options: &ChatOptions) -> bool {
        let template = self.templates.get(self.name_of(options));
        template.is_some_and(|t| generation_blocks(&t.source, Marks::On) != t.source)
    }

    /// The text, and the byte ranges of it that the template marks.
    pub(crate) fn render_marked(
        &self,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<(String, Vec<Range<usize>>), Error> {
        let (marked, _) = self.render_as(messages, GenerationPrompt::Omit, options, Marks::On)?;
        let (mut text, mut ranges, mut begin) = (String::new(), Vec::new(), None);
        for c in marked.chars() {
            match c {
                BEGIN => begin = Some(text.len()),
                END => ranges.extend(begin.take().map(|begin| begin..text.len())),
                c => text.push(c),
            }
        }
        Ok((text, ranges))
    }

    fn render_as(
        &self,
        messages: &[Message],
        generation_prompt: GenerationPrompt,
        options: &ChatOptions,
        marks: Marks,
    ) -> Result<(String, BTreeSet<Notice>), Error> {
        let name = self.name_of(options);
        let Some(template) = self.templates.get(name) else {
            let names: Vec<&str> = self.names().collect();
            let message = format!("no template is named `{name}`, only {}", names.join(", "));
            return Err(Error::new(ErrorKind::TemplateNotFound, message));
        };
        if messages.is_empty() {
            let message = "the conversation is empty: give at least one message";
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        let compiled = match marks {
            Marks::Off => &template.compiled,
            Marks::On => &template.marked,
        };
        let environment = match compiled.get() {
            Some(environment) => environment,
            None => {
                let environment = self.compile(&template.source, marks)?;
                compiled.get_or_init(|| environment)
            }
        };
        let read = Arc::new(Mutex::new(BTreeSet::new()));
        let seen: Vec<Value> = messages
            .iter()
            .map(|message| Value::from_object(Seen::new(message, Arc::clone(&read))))
            .collect();
        // Later ones win, as in transformers: the caller's over the tokenizer's.
        let mut others: BTreeMap<String, Value> = self
            .specials
            .iter()
            .map(|(name, token)| (name.clone(), Value::from(token.as_str())))
            .collect();
        let kwargs = options.kwargs.iter();
        others.extend(kwargs.map(|(name, value)| (name.clone(), of_json(value))));
        let variables = context! {
            messages => seen,
            tools => options.tools.as_ref().map(|tools| tools.iter().map(of_json).collect::<Vec<_>>()),
            documents => options.documents.as_ref().map(|list| list.iter().map(of_json).collect::<Vec<_>>()),
            add_generation_prompt => generation_prompt == GenerationPrompt::Add,
            ..Value::from(others)
        };
        let compiled = environment.get_template(NAME)?;
        let refused = |message: String| Error::new(ErrorKind::InvalidOperation, message);
        // Only a namespace can hold values that were nested by a loop, of any depth.
        let text = if template.source.contains("namespace") {
            on_deep_stack(|| compiled.render(variables))??
        } else {
            compiled.render(variables)?
        };
        bound::rendered(&text, size(messages, options)).map_err(refused)?;
        let read = read.lock().unwrap_or_else(PoisonError::into_inner);
        let unread = messages
            .iter()
            .flat_map(|message| message.more.iter())
            .filter(|(key, value)| !value.is_null() && !is_read(key, &read))
            .map(|(key, _)| Notice::Unread(key.clone()));
        let mut unread: BTreeSet<Notice> = unread.collect();
        if !options.is_empty() {
            let known = template.variables.get_or_init(|| compiled.undeclared_variables(false));
            let kwargs = options.kwargs.iter().filter(|(_, value)| !value.is_null());
            let lists = [("tools", &options.tools), ("documents", &options.documents)];
            let lists = lists.into_iter().filter(|(_, list)| list.is_some());
            let given = lists.map(|(name, _)| name).chain(kwargs.map(|(name, _)| name.as_str()));
            let unused = given.filter(|name| !known.contains(*name));
            unread.extend(unused.map(|name| Notice::Unused(name.to_owned())));
        }
        Ok((text, unread))
    }

    /// The name of the template that these options mean: with tools, the one that is for them, if
    /// there is one, as in transformers.
    pub(crate) fn name_of<'a>(&self, options: &'a ChatOptions) -> &'a str {
        match &options.template {
            Some(name) => name,
            None if options.tools.is_some() && self.templates.contains_key("tool_use") => {
                "tool_use"
            }
            None => "default",
        }
    }

    fn compile(&self, source: &str, marks: Marks) -> Result<Environment<'static>, Error> {
        let source = generation_blocks(source, marks);
        bound::template(&source).map_err(|message| Error::new(ErrorKind::SyntaxError, message))?;
        on_deep_stack(|| self.compile_here(source))?
    }

    fn compile_here(&self, source: String) -> Result<Environment<'static>, Error> {
        let mut environment = Environment::new();
        // Errors would take the variables along, of any depth and with the user's texts.
        environment.set_debug(false);
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(unknown_method);
        environment.set_fuel(Some(FUEL));
        // Calls of macros are on the caller's stack, which may be that of a small thread.
        environment.set_recursion_limit(100);
        environment.add_test("iterable", is_iterable);
        environment.add_test("sequence", is_iterable);
        environment.add_test("number", is_number);
        environment.add_filter("tojson", |value: &Value, kwargs: Kwargs| tojson(value, &kwargs));
        environment.add_function("raise_exception", raise_exception);
        let now = Arc::clone(&self.now);
        environment.add_function("strftime_now", move |format: &str| strftime(&now, format));
        environment.add_template_owned(NAME, source)?;
        Ok(environment)
    }
}

/// As [`bound::on_deep_stack`], with the error of templates.
fn on_deep_stack<T: Send>(call: impl FnOnce() -> T + Send) -> Result<T, Error> {
    bound::on_deep_stack(call).map_err(|source| {
        let message = "no thread for the template";
        Error::new(ErrorKind::InvalidOperation, message).with_source(source)
    })
}

/// Bytes of what a template is given.
fn size(messages: &[Message], options: &ChatOptions) -> usize {
    fn bytes(value: &serde_json::Value) -> usize {
        match value {
            serde_json::Value::String(text) => text.len(),
            serde_json::Value::Array(items) => items.iter().map(|item| 1 + bytes(item)).sum(),
            serde_json::Value::Object(entries) => {
                entries.iter().map(|(key, value)| 1 + key.len() + bytes(value)).sum()
            }
            _ => 8,
        }
    }
    let of_message = |message: &Message| -> usize {
        message.keys().filter_map(|key| message.get(key)).map(|value| bytes(&value)).sum()
    };
    let lists = options.tools.iter().chain(&options.documents).flatten().map(bytes);
    let kwargs = options.kwargs.values().map(bytes);
    messages.iter().map(of_message).chain(lists).chain(kwargs).sum()
}

/// The template's name in the engine's messages.
const NAME: &str = "chat_template";

/// Jinja2's tests `iterable` and `sequence`, which agree on every value that JSON has: minijinja's
/// take `none` for an empty list, and mappings and strings for no sequences.
fn is_iterable(value: &Value) -> bool {
    !matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number)
}

/// Jinja2's test `number`: Python counts `true` and `false` among the numbers.
fn is_number(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
}

/// A JSON value as templates see it, keys in their order.
fn of_json(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(truth) => Value::from(*truth),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => items.iter().map(of_json).collect::<Vec<_>>().into(),
        serde_json::Value::Object(entries) => {
            let entries = entries.iter().map(|(key, value)| (key.clone(), of_json(value)));
            Value::from_object(Entries(entries.collect()))
        }
    }
}

/// An object whose keys keep their order.
#[derive(Debug)]
struct Entries(Vec<(String, Value)>);

impl Object for Entries {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let key = key.as_str()?;
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.iter().map(|(key, _)| Value::from(key.as_str())).collect())
    }
}

/// The keys of a message's reasoning; templates read one or another, and transformers gives each
/// the same value.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

fn is_read(key: &str, read: &BTreeSet<String>) -> bool {
    if REASONING.contains(&key) {
        REASONING.iter().any(|name| read.contains(*name))
    } else {
        read.contains(key)
    }
}

/// A message as templates see it, which notes what they look at.
#[derive(Debug)]
struct Seen {
    entries: Vec<(String, Value)>,
    read: Arc<Mutex<BTreeSet<String>>>,
}

impl Seen {
    fn new(message: &Message, read: Arc<Mutex<BTreeSet<String>>>) -> Self {
        let mut entries: Vec<(String, Value)> = message
            .keys()
            .filter_map(|key| Some((key.to_owned(), of_json(&*message.get(key)?))))
            .collect();
        let reasoning = REASONING
            .iter()
            .find_map(|name| message.more.get(*name).filter(|value| !value.is_null()).map(of_json));
        if let Some(reasoning) = reasoning {
            if !message.more.contains_key("thinking") {
                entries.insert(0, ("thinking".to_owned(), reasoning.clone()));
            }
            match entries.iter_mut().find(|(key, _)| key == "reasoning_content") {
                Some((_, value)) => *value = reasoning,
                None => entries.push(("reasoning_content".to_owned(), reasoning)),
            }
        }
        Self { entries, read }
    }

    fn note(&self, key: &str) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if !read.contains(key) {
            read.insert(key.to_owned());
        }
    }
}

impl Object for Seen {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let key = key.as_str()?;
        self.note(key);
        self.entries.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.entries.iter().map(|(key, _)| Value::from(key.as_str())).collect())
    }
}

fn raise_exception(message: &str) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

fn strftime(now: &OnceLock<DateTime>, format: &str) -> Result<String, Error> {
    let now = now.get().copied().unwrap_or_else(|| ZonedDateTime::now().datetime());
    jiff::fmt::strtime::format(format, now).map_err(|source| {
        let message = format!("strftime_now: `{format}` is not a format of a date and time");
        Error::new(ErrorKind::InvalidOperation, message).with_source(source)
    })
}

/// Marking, in the text, of what a template marks as the assistant's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marks {
    Off,
    On,
}

/// `{% generation %} .. {% endgeneration %}` marks what an assistant says. The engine knows no such
/// block, so it becomes one that is always taken, with marks around it if they are wanted.
fn generation_blocks(source: &str, marks: Marks) -> String {
    let (begin_mark, end_mark) = match marks {
        Marks::Off => (String::new(), String::new()),
        Marks::On => (format!("{{{{ '{BEGIN}' }}}}"), format!("{{{{ '{END}' }}}}")),
    };
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, block) = rest.split_at(start);
        out.push_str(before);
        // Not from the start: `{%}` is not a block.
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
            "generation" => match marks {
                Marks::Off => out.push_str(&format!("{{%{open} if true {close}%}}")),
                // The first block takes the space before, the last the space behind.
                Marks::On => out
                    .push_str(&format!("{{%{open} if true %}}{begin_mark}{{% if true {close}%}}")),
            },
            "endgeneration" => match marks {
                Marks::Off => out.push_str(&format!("{{%{open} endif {close}%}}")),
                Marks::On => {
                    out.push_str(&format!("{{%{open} endif %}}{end_mark}{{% endif {close}%}}"));
                }
            },
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
            generation_blocks(source, Marks::Off),
            "{%- if true -%}a{% endif +%}{% if x %}%}{{ '{%' }}{% raw %}"
        );
        assert_eq!(generation_blocks("{%", Marks::Off), "{%");
        for odd in ["{%%}{%-%}", "{%}}", "{%}%}", "{%-+%}"] {
            assert_eq!(generation_blocks(odd, Marks::Off), odd);
        }
    }

    #[test]
    fn tests_of_values_are_those_of_jinja2() {
        // From `jinja2.sandbox.ImmutableSandboxedEnvironment().tests` of Jinja2 3.1:
        // iterable, sequence, number, mapping, string, integer, float.
        let expected = [
            ("none", [0, 0, 0, 0, 0, 0, 0]),
            ("true", [0, 0, 1, 0, 0, 0, 0]),
            ("0", [0, 0, 1, 0, 0, 1, 0]),
            ("1.5", [0, 0, 1, 0, 0, 0, 1]),
            ("''", [1, 1, 0, 0, 1, 0, 0]),
            ("[]", [1, 1, 0, 0, 0, 0, 0]),
            ("{}", [1, 1, 0, 1, 0, 0, 0]),
            ("missing", [1, 1, 0, 0, 0, 0, 0]),
        ];
        let chat = Chat::new(BTreeMap::new(), BTreeMap::new());
        for (value, answers) in expected {
            let tests = ["iterable", "sequence", "number", "mapping", "string", "integer", "float"];
            for (test, answer) in tests.into_iter().zip(answers) {
                let source = format!("{{{{ 1 if {value} is {test} else 0 }}}}");
                let environment = chat.compile(&source, Marks::Off).unwrap();
                let found = environment.get_template(NAME).unwrap().render(()).unwrap();
                assert_eq!(found, answer.to_string(), "{value} is {test}");
            }
        }
    }
}
