//! Keys that the prose of the documentation names, against the schemas.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

/// First parts of names with dots that are tensors, not keys.
const TENSORS: [&str; 1] = ["model.embed_tokens"];

/// Endings of the names of files.
const FILES: [&str; 6] = ["rs", "json", "jsonl", "toml", "csv", "parquet"];

/// The names of all keys and the words of all values, the keys at the top of files, and each key with one that
/// may follow it.
#[derive(Default)]
struct Known {
    names: BTreeSet<String>,
    sections: BTreeSet<String>,
    steps: BTreeSet<(String, String)>,
}

impl Known {
    fn of_all_commands() -> Self {
        let mut known = Self::default();
        for command in rlaif_run::commands_with_files().chain(["annotate"]) {
            let schema = rlaif_run::schema(command).unwrap();
            known.collect(&schema);
            let sections = schema["properties"].as_object().into_iter().flatten();
            known.sections.extend(sections.map(|(name, _)| name.clone()));
            known.follow(&schema, &schema, None);
            for definition in schema["$defs"].as_object().into_iter().flatten() {
                known.follow(&schema, definition.1, None);
            }
        }
        known
    }

    fn collect(&mut self, schema: &Value) {
        match schema {
            Value::Object(object) => {
                for (keyword, argument) in object {
                    match (keyword.as_str(), argument) {
                        ("properties", Value::Object(keys)) => {
                            self.names.extend(keys.keys().cloned());
                        }
                        ("const", Value::String(word)) => drop(self.names.insert(word.clone())),
                        ("enum", Value::Array(words)) => {
                            self.names
                                .extend(words.iter().filter_map(Value::as_str).map(str::to_owned));
                        }
                        _ => {}
                    }
                    self.collect(argument);
                }
            }
            Value::Array(all) => all.iter().for_each(|one| self.collect(one)),
            _ => {}
        }
    }

    /// Notes which keys follow `key`, whose schema this is, and which follow those.
    fn follow(&mut self, root: &Value, schema: &Value, key: Option<&str>) {
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.trim_start_matches("#/$defs/");
            let target = &root["$defs"][name];
            // What follows the keys of a definition is noted once, for the definition itself.
            return self.forms(root, target, key, false);
        }
        self.forms(root, schema, key, true);
    }

    fn forms(&mut self, root: &Value, schema: &Value, key: Option<&str>, deeper: bool) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if let Some(key) = key {
                self.steps.insert((key.to_owned(), name.clone()));
            }
            if deeper {
                self.follow(root, property, Some(name));
            }
        }
        for keyword in ["anyOf", "oneOf", "allOf"] {
            for form in schema[keyword].as_array().into_iter().flatten() {
                match form["$ref"].as_str() {
                    Some(_) => self.follow(root, form, key),
                    None => self.forms(root, form, key, deeper),
                }
            }
        }
        for keyword in ["items", "additionalProperties"] {
            if schema[keyword].is_object() {
                self.follow(root, &schema[keyword], key);
            }
        }
    }

    /// The first step of a path that no schema has.
    fn wrong_step<'a>(&self, path: &'a str) -> Option<(&'a str, &'a str)> {
        let names: Vec<&str> = path.split('.').collect();
        let steps = names.windows(2).map(|step| (step[0], step[1]));
        steps
            .into_iter()
            .find(|(from, to)| !self.steps.contains(&((*from).to_owned(), (*to).to_owned())))
    }
}

/// Text in backticks outside of blocks of code, with its line.
fn quoted(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    let lines = text.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    });
    lines.flat_map(|(at, line)| {
        line.split('`').skip(1).step_by(2).map(move |quoted| (at + 1, quoted))
    })
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// `true` for a key with a value of TOML.
fn is_setting(quoted: &str) -> bool {
    let value = quoted.split_once(" = ").map(|(_, value)| format!("x = {value}"));
    value.is_some_and(|value| value.parse::<toml::Table>().is_ok())
}

/// The faults of a page: paths and settings of keys that no run file has, and, on a page of `advice`, also single
/// names.
fn faults(page: &str, text: &str, known: &Known, advice: bool) -> Vec<String> {
    let mut found = Vec::new();
    for (line, quoted) in quoted(text) {
        let name = quoted.split('=').next().unwrap_or_default().trim().trim_matches(['[', ']']);
        let mut parts = name.split('.');
        let is_file = FILES.iter().any(|ending| name.contains(&format!(".{ending}")));
        let is_tensor = TENSORS.iter().any(|tensor| name.starts_with(tensor));
        if is_file || is_tensor || !parts.all(is_name) {
            continue;
        }
        let first = name.split('.').next().unwrap_or_default();
        if name.contains('.') {
            let wrong = known.sections.contains(first).then(|| known.wrong_step(name)).flatten();
            found.extend(wrong.map(|(from, to)| {
                format!("docs/{page}, line {line}: `{quoted}`: `{from}` has no key `{to}`")
            }));
        } else if ((advice && name.contains('_')) || is_setting(quoted))
            && !known.names.contains(name)
        {
            found.push(format!("docs/{page}, line {line}: no run file has `{name}`"));
        }
    }
    found
}

#[test]
fn keys_in_prose_are_keys_of_run_files() {
    let known = Known::of_all_commands();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let mut found = Vec::new();
    let mut pages = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "md") {
            let page = path.file_name().unwrap().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).unwrap();
            found.extend(faults(&page, &text, &known, page == "troubleshooting.md"));
            pages += 1;
        }
    }
    assert!(pages > 20, "{pages}");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_key_that_does_not_exist_is_a_fault() {
    let known = Known::of_all_commands();
    let text = "Raise `ppo.kl_coef`, `kl_coef` or `ppo.kl.control.fixed.coef`.\n\n```toml\n`ppo.code`\n```\n\
                `run.toml` and `train.jsonl` are files, `ppo.stop = { .. }` and `[ppo.kl]` are keys, `train.py` is a fault.\n";
    assert_eq!(
        faults("x.md", text, &known, true),
        [
            "docs/x.md, line 1: `ppo.kl_coef`: `ppo` has no key `kl_coef`",
            "docs/x.md, line 1: no run file has `kl_coef`",
            "docs/x.md, line 6: `train.py`: `train` has no key `py`",
        ]
    );
    assert_eq!(
        faults("x.md", "`kl_coef`, `x=3`, `d = r − s`", &known, false),
        Vec::<String>::new()
    );
    assert_eq!(
        faults("x.md", "`explains = true`, `answer = \"label\"`", &known, false),
        ["docs/x.md, line 1: no run file has `explains`"]
    );
}
