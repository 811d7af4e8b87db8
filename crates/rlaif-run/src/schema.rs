//! Keys of run files, from their types: JSON Schema for editors, tables of keys for the
//! documentation and for `--help`.

use rlaif_rewards::{RewardConfig, judge::JudgeConfig};
use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde_json::{Map, Value};

use crate::{
    AnnotateFile, CandidatesFile, ClassifierFile, DistillFile, DpoFile, EvalFile, ExamFile,
    JudgeFile, LabelFile, PipelineFile, PpoFile, RedTeamFile, ReinforceFile, ReviseFile,
    RewardFile, SftFile, file::RunFile,
};

/// Creates the schema of a file.
type Maker = fn() -> Schema;

/// The commands that train by a run file, with the file's type.
const RUNS: [(&str, Maker); 7] = [
    run::<SftFile>(),
    run::<ClassifierFile>(),
    run::<RewardFile>(),
    run::<PpoFile>(),
    run::<ReinforceFile>(),
    run::<DistillFile>(),
    run::<DpoFile>(),
];

const fn run<T: RunFile + JsonSchema>() -> (&'static str, Maker) {
    (T::COMMAND, of::<T>)
}

/// The other commands that read a run file, with the file's type.
const OTHERS: [(&str, Maker); 8] = [
    run::<EvalFile>(),
    (JudgeFile::COMMAND, of::<AnyJudgeFile>),
    run::<ExamFile>(),
    run::<LabelFile>(),
    run::<CandidatesFile>(),
    run::<ReviseFile>(),
    run::<RedTeamFile>(),
    ("pipeline", of::<PipelineFile>),
];

/// Stages of pipelines without a command of their own that reads a run file.
const STAGES: [(&str, Maker); 1] = [run::<AnnotateFile>()];

/// The forms of the file of `rlaif judge`.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is read by `JudgeFile::read`, and here for its schema")]
enum AnyJudgeFile {
    /// A reward, with the rows and the placement.
    File(Box<JudgeFile>),
    /// Any reward.
    Reward(Box<RewardConfig>),
    /// A judge, which needs no `kind`.
    Judge(Box<JudgeConfig>),
}

/// The names of the commands that [`schema`] knows.
pub fn commands_with_files() -> impl Iterator<Item = &'static str> {
    RUNS.iter().chain(&OTHERS).map(|(name, _)| *name)
}

/// The names of the commands that train, by a run file.
pub fn commands_with_runs() -> impl Iterator<Item = &'static str> {
    RUNS.iter().map(|(name, _)| *name)
}

/// The JSON Schema (draft 2020-12) of a command's file, or of the settings of a pipeline's stage, with which editors complete and check TOML;
/// `None` for a command without a file.
///
/// ```
/// let schema = rlaif_run::schema("ppo").unwrap();
/// assert_eq!(schema["properties"]["seed"]["default"], 0);
/// assert_eq!(schema["additionalProperties"], false);
/// assert!(rlaif_run::schema("inspect").is_none());
/// ```
pub fn schema(command: &str) -> Option<Value> {
    let (_, make) = RUNS.iter().chain(&OTHERS).chain(&STAGES).find(|(name, _)| *name == command)?;
    let mut schema = make().to_value();
    plain(&mut schema);
    Some(schema)
}

fn of<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>()
}

/// Removes rustdoc's links and line breaks from descriptions.
fn plain(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == "description" => *text = without_links(text),
                    other => plain(other),
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(plain),
        _ => {}
    }
}

/// `` [`name`] `` and `` [`name`](path) `` become `` `name` ``, and each paragraph becomes one
/// line.
fn without_links(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("[`") {
        out.push_str(&rest[..start]);
        let Some(end) = rest[start..].find("`]") else { break };
        let path = &rest[start + 2..start + end];
        let name = path.rsplit("::").next().unwrap_or(path);
        out.push_str(&format!("`{name}`"));
        rest = &rest[start + end + 2..];
        if rest.starts_with('(')
            && let Some(end) = rest.find(')')
        {
            rest = &rest[end + 1..];
        }
    }
    out.push_str(rest);
    out.replace("\n\n", "\u{0}").replace('\n', " ").replace('\u{0}', "\n\n")
}

/// A key of a run file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The path, with dots.
    pub path: String,
    /// The values: a type, or a list of words.
    pub value: String,
    /// The default, as TOML; `None` if there is none. An empty text means that the key is absent.
    pub default: Option<String>,
    /// The meaning in one sentence.
    pub meaning: String,
}

/// The keys of a command's file, in the order of their paths, without those of a table that is of
/// one of several kinds (a reward, a loss).
///
/// ```
/// let keys = rlaif_run::keys("ppo");
/// let clip = keys.iter().find(|key| key.path == "ppo.clip").unwrap();
/// assert_eq!(clip.default.as_deref(), Some("0.2"));
/// ```
pub fn keys(command: &str) -> Vec<Key> {
    let Some(schema) = schema(command) else { return Vec::new() };
    let mut all = Vec::new();
    // A judge's file may have the keys of its reward alone.
    let table = if command == "judge" { &schema["$defs"]["JudgeFile"] } else { &schema };
    Walk { root: &schema, all: &mut all }.table("", table, None);
    if command == "judge" {
        // Its reward is one of several kinds, mostly a judge.
        let of_judge = reward_keys("judge").into_iter();
        all.extend(of_judge.map(|key| Key { path: format!("reward.{}", key.path), ..key }));
    }
    all
}

/// The keys of a reward of this kind.
///
/// ```
/// let keys = rlaif_run::reward_keys("classifier");
/// assert!(keys.iter().any(|key| key.path == "preset"));
/// ```
pub fn reward_keys(kind: &str) -> Vec<Key> {
    let Some(schema) = schema("judge") else { return Vec::new() };
    let mut kinds = schema["$defs"]["RewardConfig"]["oneOf"].as_array().into_iter().flatten();
    let Some(found) = kinds.find(|form| form["properties"]["kind"]["const"] == kind) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    Walk { root: &schema, all: &mut all }.table("", found, None);
    all.retain(|key| key.path != "kind");
    all
}

/// The kinds of reward, and the keys of each, as a table in Markdown.
pub fn reward_table() -> String {
    kind_table("RewardConfig")
}

/// The kinds of `api`, and the keys of each, as a table in Markdown.
pub fn api_table() -> String {
    kind_table("ApiConfig")
}

/// The kinds of a definition in the schema of a judge's file.
fn kind_table(definition: &str) -> String {
    let mut table = "| `kind` | keys | meaning |\n|---|---|---|\n".to_owned();
    let Some(schema) = schema("judge") else { return table };
    let walk = Walk { root: &schema, all: &mut Vec::new() };
    for kind in schema["$defs"][definition]["oneOf"].as_array().into_iter().flatten() {
        let properties = kind["properties"].as_object().into_iter().flatten();
        let keys = properties.filter(|(name, _)| *name != "kind").map(|(name, property)| {
            let default = property.get("default").filter(|default| !default.is_null());
            let default = default.map(|value| format!(" ({})", toml_value(value)));
            format!("`{name}`{}", default.unwrap_or_default())
        });
        let keys = match kind.get("$ref") {
            Some(_) => "below".to_owned(),
            None => keys.collect::<Vec<_>>().join(", "),
        };
        let name = quoted(&kind["properties"]["kind"]["const"]);
        table.push_str(&format!("| {name} | {keys} | {} |\n", walk.meaning(kind)));
    }
    table
}

/// The keys of a command's file, as a table in Markdown: all keys, or those below the paths in
/// `below`, which are separated by spaces.
///
/// ```
/// let table = rlaif_run::key_table("sft", "placement");
/// assert!(table.contains("| `placement.device` | text | `\"auto\"` |"));
/// ```
pub fn key_table(command: &str, below: &str) -> String {
    let wanted = |path: &str| {
        let mut prefixes = below.split_whitespace();
        let is_below = |prefix| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        below.is_empty() || prefixes.any(is_below)
    };
    table_of(keys(command).into_iter().filter(|key| wanted(&key.path)))
}

/// The keys of a reward of this kind, as a table in Markdown.
pub fn reward_key_table(kind: &str) -> String {
    table_of(reward_keys(kind))
}

fn table_of(keys: impl IntoIterator<Item = Key>) -> String {
    let mut table = "| key | value | default | meaning |\n|---|---|---|---|\n".to_owned();
    for key in keys {
        let default = match key.default.as_deref() {
            None => "needed".to_owned(),
            Some("") => String::new(),
            Some(default) => format!("`{default}`"),
        };
        let cells = [format!("`{}`", key.path), key.value, default, key.meaning];
        let cells = cells.map(|cell| cell.replace('|', "\\|"));
        table.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    table
}

/// The keys for `--help`: path, default and meaning, one key per line.
pub fn key_lines(command: &str) -> String {
    keys(command)
        .iter()
        .map(|key| {
            let default = match key.default.as_deref() {
                None => " (needed)".to_owned(),
                Some("") => String::new(),
                Some(default) => format!(" = {default}"),
            };
            format!("  {}{default}\n      {}\n", key.path, key.meaning)
        })
        .collect()
}

/// Traversal of a schema's tables.
struct Walk<'a> {
    root: &'a Value,
    all: &'a mut Vec<Key>,
}

impl<'a> Walk<'a> {
    /// Collects the keys of a table; `default` is its default, if the table above has one.
    fn table(&mut self, path: &str, schema: &'a Value, default: Option<&Value>) {
        let needed: Vec<&str> = schema["required"]
            .as_array()
            .map(|names| names.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let Some(properties) = schema["properties"].as_object() else { return };
        // Plain keys come before tables, as in a file.
        let (tables, plain): (Vec<_>, Vec<_>) =
            properties.iter().partition(|(_, property)| self.as_table(property).is_some());
        for (name, property) in plain.into_iter().chain(tables) {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let default = default.map_or_else(|| property.get("default"), |above| above.get(name));
            if let Some(table) = self.as_table(property) {
                self.table(&path, table, default.filter(|value| value.is_object()));
                continue;
            }
            let needed = needed.contains(&name.as_str());
            self.all.push(Key {
                path,
                value: self.value(property),
                default: (!needed).then(|| default.map_or_else(String::new, toml_value)),
                meaning: self.meaning(property),
            });
        }
    }

    /// Resolves a reference, or the one form of an optional value.
    fn resolved(&self, schema: &'a Value) -> &'a Value {
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.trim_start_matches("#/$defs/");
            return self.resolved(&self.root["$defs"][name]);
        }
        let forms = schema["anyOf"].as_array();
        let mut forms = forms.iter().flat_map(|all| all.iter()).filter(|f| f["type"] != "null");
        match (forms.next(), forms.next()) {
            (Some(only), None) => self.resolved(only),
            _ => schema,
        }
    }

    fn as_table(&self, schema: &'a Value) -> Option<&'a Value> {
        let resolved = self.resolved(schema);
        resolved["properties"].is_object().then_some(resolved)
    }

    /// The type of a value, or the list of words.
    fn value(&self, schema: &'a Value) -> String {
        let resolved = self.resolved(schema);
        if let Some(words) = resolved["enum"].as_array() {
            return words.iter().map(quoted).collect::<Vec<_>>().join(", ");
        }
        let forms = resolved["oneOf"].as_array().or_else(|| resolved["anyOf"].as_array());
        if let Some(forms) = forms {
            let mut names: Vec<String> = forms.iter().map(|form| self.form(form)).collect();
            names.dedup();
            return names.join(", ");
        }
        let kind = |name: &str| match name {
            "integer" => "integer",
            "number" => "number",
            "boolean" => "true or false",
            "string" => "text",
            "array" => "list",
            "object" => "table",
            _ => "",
        };
        match &resolved["type"] {
            Value::String(name) => kind(name).to_owned(),
            Value::Array(names) => {
                let names = names.iter().filter_map(Value::as_str).map(kind);
                names.filter(|name| !name.is_empty()).collect::<Vec<_>>().join(", ")
            }
            _ => "any".to_owned(),
        }
    }

    /// One of several forms: a word, or a table with the key that distinguishes it.
    fn form(&self, form: &'a Value) -> String {
        if let Some(word) = form.get("const") {
            return quoted(word);
        }
        let Some(properties) = form["properties"].as_object() else { return self.value(form) };
        let tag = properties.iter().find_map(|(name, property)| {
            Some(format!("`{name} = {}`", toml_value(property.get("const")?)))
        });
        tag.or_else(|| properties.keys().next().map(|name| format!("`{{ {name} = .. }}`")))
            .unwrap_or_else(|| "table".to_owned())
    }

    /// The first sentence of the description of a key, or else of its type.
    fn meaning(&self, schema: &'a Value) -> String {
        let said = |schema: &'a Value| schema["description"].as_str();
        let text = said(schema).or_else(|| said(self.resolved(schema))).unwrap_or_default();
        let paragraph = text.split("\n\n").next().unwrap_or_default();
        let end = paragraph.find(". ").unwrap_or(paragraph.len());
        paragraph[..end].trim_end_matches('.').to_owned()
    }
}

fn quoted(word: &Value) -> String {
    format!("`{}`", word.as_str().map_or_else(|| word.to_string(), str::to_owned))
}

/// A value as TOML, on one line.
fn toml_value(value: &Value) -> String {
    let table = |object: &Map<String, Value>| {
        let entries = object.iter().filter(|(_, value)| !value.is_null());
        entries.map(|(name, value)| format!("{name} = {}", toml_value(value))).collect::<Vec<_>>()
    };
    match value {
        Value::Null => String::new(),
        Value::Object(object) if object.is_empty() => "{}".to_owned(),
        Value::Object(object) => format!("{{ {} }}", table(object).join(", ")),
        Value::Array(all) => {
            format!("[{}]", all.iter().map(toml_value).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_rustdoc_are_plain_text_in_a_schema() {
        let text = "Ends at [`Self::stop`], or at\n[`x`](crate::x).\n\nMore.";
        assert_eq!(without_links(text), "Ends at `stop`, or at `x`.\n\nMore.");
    }

    #[test]
    fn every_key_says_what_it_means() {
        for command in commands_with_files() {
            let keys = keys(command);
            assert!(keys.len() > 2, "{command}");
            for key in keys {
                assert!(!key.meaning.is_empty(), "{command}: {}", key.path);
                assert!(!key.value.is_empty(), "{command}: {}", key.path);
            }
        }
    }
}
