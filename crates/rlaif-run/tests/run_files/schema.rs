//! The schemas against the run files of the documentation and of the tests, and the tables of keys in
//! the documentation against the schemas.

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::{Value, json};

fn pages() -> Vec<(String, PathBuf, String)> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs"));
    let mut pages: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).unwrap();
            (name, path, text)
        })
        .collect();
    pages.sort();
    pages
}

/// A validator of what these schemas consist of. A crate for all of JSON Schema would bring thirty
/// others along.
struct Checker(Value);

impl Checker {
    fn new(command: &str) -> Self {
        Self(rlaif_run::schema(command).unwrap())
    }

    fn check(&self, value: &Value) -> Result<(), String> {
        self.evaluated(&self.0, value, "").map(drop)
    }

    /// The properties that a schema knows of a value which is as it says.
    fn evaluated(
        &self,
        schema: &Value,
        value: &Value,
        at: &str,
    ) -> Result<BTreeSet<String>, String> {
        let Some(keywords) = schema.as_object() else {
            return match schema {
                Value::Bool(true) => Ok(BTreeSet::new()),
                _ => Err(format!("`{at}` is not allowed")),
            };
        };
        let mut known = BTreeSet::new();
        let fail = |why: String| Err(format!("`{at}`: {value} {why}"));
        for (keyword, argument) in keywords {
            let forms = || argument.as_array().into_iter().flatten();
            match keyword.as_str() {
                "$ref" => {
                    let name = argument.as_str().unwrap().trim_start_matches("#/$defs/");
                    known.extend(self.evaluated(&self.0["$defs"][name], value, at)?);
                }
                "type" => {
                    let one = |name: &Value| match name.as_str().unwrap() {
                        "object" => value.is_object(),
                        "array" => value.is_array(),
                        "string" => value.is_string(),
                        "boolean" => value.is_boolean(),
                        "integer" => value.is_i64() || value.is_u64(),
                        "number" => value.is_number(),
                        "null" => value.is_null(),
                        other => panic!("the type {other}"),
                    };
                    if !(one_or_more(argument).any(one)) {
                        return fail(format!("is no {argument}"));
                    }
                }
                "const" if argument != value => return fail(format!("is not {argument}")),
                "enum" if !forms().any(|word| word == value) => {
                    return fail(format!("is none of {argument}"));
                }
                "minimum" if value.as_f64().is_some_and(|v| v < argument.as_f64().unwrap()) => {
                    return fail(format!("is below {argument}"));
                }
                "anyOf" | "oneOf" => {
                    let found: Vec<_> =
                        forms().map(|form| self.evaluated(form, value, at)).collect();
                    let good = found.iter().filter(|found| found.is_ok()).count();
                    if good == 0 || (keyword == "oneOf" && good > 1) {
                        let why = found.into_iter().filter_map(Result::err).collect::<Vec<_>>();
                        return fail(format!("has {good} of its forms: {}", why.join("; ")));
                    }
                    known.extend(found.into_iter().flatten().flatten());
                }
                "allOf" => {
                    for form in forms() {
                        known.extend(self.evaluated(form, value, at)?);
                    }
                }
                "items" => {
                    for item in value.as_array().into_iter().flatten() {
                        self.evaluated(argument, item, at)?;
                    }
                }
                "properties" => {
                    for (name, property) in argument.as_object().unwrap() {
                        if let Some(value) = value.get(name) {
                            self.evaluated(property, value, &format!("{at}.{name}"))?;
                        }
                        known.insert(name.clone());
                    }
                }
                "required" => {
                    let mut names = forms();
                    if let Some(name) =
                        names.find(|name| value.get(name.as_str().unwrap()).is_none())
                    {
                        return fail(format!("lacks {name}"));
                    }
                }
                "$schema"
                | "$defs"
                | "title"
                | "description"
                | "default"
                | "format"
                | "const"
                | "enum"
                | "minimum"
                | "maximum"
                | "prefixItems"
                | "minItems"
                | "maxItems"
                | "additionalProperties"
                | "unevaluatedProperties"
                | "writeOnly" => {}
                other => panic!("the keyword {other} is unknown to this test"),
            }
        }
        for keyword in ["additionalProperties", "unevaluatedProperties"] {
            let Some(rest) = keywords.get(keyword) else { continue };
            for (name, value) in value.as_object().into_iter().flatten() {
                if !known.contains(name) {
                    self.evaluated(rest, value, &format!("{at}.{name}"))?;
                }
            }
        }
        Ok(known)
    }
}

fn one_or_more(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice).iter()
}

fn value(toml: &str) -> Value {
    let table: toml::Table = toml.parse().unwrap_or_else(|error| panic!("{error}\n{toml}"));
    serde_json::to_value(table).unwrap()
}

/// Finds the command that reads the file, by the page that it is on and by its tables.
fn command(page: &str, file: &Value) -> Option<&'static str> {
    let has = |key: &str| file.get(key).is_some();
    match page {
        "ppo" | "getting-started" if has("reward") && has("data") && has("model") => Some("ppo"),
        "reinforce" | "servers" if has("model") => Some("reinforce"),
        "distillation" if has("model") => Some("distill"),
        "dpo" if has("model") => Some("dpo"),
        "training" if has("labels") => Some("classifier"),
        "training" if has("model") => Some("sft"),
        "evaluation" if has("baseline") => Some("eval"),
        "feedback" if has("writers") => Some("candidates"),
        "feedback" if has("data") && has("facets") => Some("label"),
        "feedback" if has("data") && (has("reward") || has("judge")) => Some("exam"),
        "rewards" if has("kind") || has("api") || has("data") => Some("judge"),
        _ => None,
    }
}

#[test]
fn the_files_of_the_documentation_are_as_the_schemas_say() {
    let mut checked = Vec::new();
    for (page, _, text) in pages() {
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            let Ok(table) = block.parse::<toml::Table>() else { continue };
            let file = serde_json::to_value(table).unwrap();
            let Some(command) = command(&page, &file) else { continue };
            if let Err(error) = Checker::new(command).check(&file) {
                panic!("docs/{page}.md, a file of `rlaif {command}`: {error}\n{block}");
            }
            checked.push(command);
        }
    }
    for command in [
        "sft",
        "ppo",
        "dpo",
        "eval",
        "judge",
        "exam",
        "label",
        "candidates",
        "reinforce",
        "distill",
    ] {
        assert!(checked.contains(&command), "no file of `rlaif {command}` in the documentation");
    }
}

/// The sections `[reinforce]` on the page, in the run file at its top: each is a run of the algorithm
/// of its heading.
#[test]
fn every_algorithm_has_a_run_file_to_copy() {
    let pages = pages();
    let (_, _, text) = pages.iter().find(|(page, ..)| page == "reinforce").unwrap();
    let blocks = |text: &str| -> Vec<toml::Table> {
        let blocks = text.split("```toml\n").skip(1);
        blocks.map(|block| block.split("```").next().unwrap().parse().unwrap()).collect()
    };
    let mut seen = BTreeSet::new();
    for section in text.split("\n### ").skip(1) {
        let (heading, rest) = section.split_once('\n').unwrap();
        let rest = rest.split("\n## ").next().unwrap();
        let Some(own) = blocks(rest).into_iter().next() else { continue };
        let mut file = blocks(text).swap_remove(0);
        file.extend(own);
        let file: rlaif_run::ReinforceFile = file.try_into().unwrap();
        file.reinforce.check().unwrap_or_else(|error| panic!("{heading}: {error}"));
        assert_eq!(json!(file.reinforce.algorithm), heading);
        seen.insert(heading);
    }
    assert_eq!(seen.len(), rlaif_reinforce::NamedAlgorithm::ALL.len(), "{seen:?}");
}

#[test]
fn what_is_needed_is_enough_and_an_unknown_key_is_refused() {
    let model = "[model]\npath = 'm'\n";
    for (command, file) in [
        ("sft", format!("{model}[data]\ntrain = 'x.jsonl'")),
        ("classifier", format!("labels = ['a', 'b']\n{model}[data]\ntrain = 'x.jsonl'")),
        ("reward", format!("{model}[data]\ntrain = 'x.jsonl'")),
        (
            "ppo",
            format!("{model}[data]\nprompts = 'x.jsonl'\n[reward]\nkind = 'constant'\nvalue = 1.0"),
        ),
        ("dpo", model.to_owned()),
        (
            "eval",
            "metrics = [{ kind = 'length' }]\n[baseline]\nmodel = 'm'\n[tuned]\nmodel = 'm'\n\
             [data]\ncorpus = 'builtin'"
                .to_owned(),
        ),
        ("judge", "kind = 'length'\nlongest = 3\nper = 1.0".to_owned()),
        (
            "exam",
            "[data]\nfile = 'x.jsonl'\n[reward]\nkind = 'length'\nlongest = 3\nper = 1.0"
                .to_owned(),
        ),
        (
            "label",
            "[data]\nfile = 'x.jsonl'\n[[facets]]\nfacet = 'helpful'\n[judge.api]\nkind = 'openai'\nmodel = 'm'"
                .to_owned(),
        ),
    ] {
        let checker = Checker::new(command);
        let mut file = value(&file);
        checker.check(&file).unwrap_or_else(|error| panic!("{command}: {error}"));
        file["stpes"] = json!(3);
        assert!(checker.check(&file).is_err(), "{command}: an unknown key");
    }
}

#[test]
fn words_and_tables_of_a_kind_are_checked() {
    let checker = Checker::new("ppo");
    let file = |ppo: &str| {
        value(&format!(
            "[model]\npath = 'm'\n[data]\nprompts = 'x'\n[reward]\nkind = 'mean'\nname = 'm'\n\
             of = [{{ kind = 'constant', value = 1.0 }}]\n[ppo]\n{ppo}"
        ))
    };
    for good in [
        "dropout = 'on'\nactivations = 'recompute'",
        "kl = { control = { fixed = { coef = 0.1 } }, estimator = 'k3' }",
        "stop = { metric = { name = 'x', window = 3, at_least = 1.0 } }",
        "generation = { sampling = { method = 'greedy' } }",
    ] {
        checker.check(&file(good)).unwrap_or_else(|error| panic!("{good}: {error}"));
    }
    for bad in [
        "dropout = true",
        "steps = 'many'",
        "kl = { estimator = 'k9' }",
        "microbatch = 2",
        "seed = 1",
    ] {
        assert!(checker.check(&file(bad)).is_err(), "{bad}");
    }
}

/// Tables stand between `<!-- keys: COMMAND PATHS -->` and `<!-- end of keys -->`.
/// `cargo xtask docs` runs this with `RLAIF_WRITE_DOCS` set, and then it writes them.
#[test]
fn the_tables_of_keys_are_those_of_the_schemas() {
    const END: &str = "<!-- end of keys -->";
    let write = std::env::var_os("RLAIF_WRITE_DOCS").is_some();
    let mut tables = 0;
    for (page, path, text) in pages() {
        let mut parts = text.split("<!-- keys: ");
        let mut made = parts.next().unwrap().to_owned();
        for part in parts {
            let (of, rest) = part.split_once(" -->\n").expect("a marker ends its line");
            let (_, rest) = rest.split_once(END).expect("a table has an end");
            let table = match of.split_once(' ') {
                _ if of == "rewards" => rlaif_run::reward_table(),
                _ if of == "apis" => rlaif_run::api_table(),
                Some(("rewards", kind)) => rlaif_run::reward_key_table(kind),
                Some(("trl", trainer)) => rlaif_run::trl_table(trainer),
                Some((command, below)) => rlaif_run::key_table(command, below),
                None => rlaif_run::key_table(of, ""),
            };
            assert!(table.lines().count() > 2, "docs/{page}.md: no key of `{of}`");
            made.push_str(&format!("<!-- keys: {of} -->\n{table}{END}{rest}"));
            tables += 1;
        }
        if write {
            fs::write(&path, made).unwrap();
        } else {
            assert!(made == text, "docs/{page}.md has old tables of keys: run `cargo xtask docs`");
        }
    }
    assert!(tables >= 5, "{tables} tables");
}

/// The pages have the keys of every command with a file; `--help` lists the same.
#[test]
fn every_command_with_a_file_has_a_table_of_keys() {
    let texts: String = pages().into_iter().map(|(_, _, text)| text).collect();
    for command in rlaif_run::commands_with_files() {
        assert!(texts.contains(&format!("<!-- keys: {command} ")), "{command}");
    }
}

/// Everything that may go wrong in a run of `T` goes wrong, and the advice names keys that its run
/// file has.
fn advice_names_keys_of<'a>(command: &str, watched: rlaif_rl::Watched<'a>) {
    let keys = rlaif_run::keys(command);
    let known = |key: &str| {
        let path = format!("{command}.{key}");
        // A key may be a table of keys, or a part of a value that is one key.
        let mut parents = path.match_indices('.').map(|(at, _)| &path[..at]).skip(1);
        keys.iter().any(|known| known.path == path || known.path.starts_with(&format!("{path}.")))
            || parents.any(|parent| keys.iter().any(|known| known.path == parent))
    };
    let wrong = [
        ("objective/kl", -3.),
        ("ppo/policy/entropy", 2.),
        ("ppo/updates_not_finite", 1.),
        ("ppo/policy/ratio", 3.),
        ("env/reward_std", 0.),
        ("tokens/responses_ended", 0.),
        ("objective/sampler_gap", 1.),
    ];
    let later = [("objective/kl", 1e4), ("ppo/policy/entropy", 0.01)];
    let ceiling = [("env/reward_std", 1.), ("env/reward_mean", 0.5)];
    let top = [("env/reward_std", 0.01), ("env/reward_mean", 1.)];
    let steps: [&[(&str, f64)]; 8] = [&wrong, &wrong, &wrong, &later, &ceiling, &top, &top, &top];
    let mut symptoms = BTreeSet::new();
    let mut watch = rlaif_rl::Watch::default();
    let mut other = rlaif_rl::Watch::default();
    for (at, numbers) in steps.into_iter().enumerate() {
        let mut stats = rlaif_rl::Stats { step: at as u64 + 1, ..Default::default() };
        for (name, number) in [("env/reward_mean", 0.)].iter().chain(numbers) {
            stats.push(*name, *number);
        }
        // A ceiling is one of scores that were apart.
        let watch = if at < 4 { &mut watch } else { &mut other };
        for finding in watch.observe(&stats, watched) {
            let quoted = finding.advice.split('`').skip(1).step_by(2);
            for key in quoted.filter(|quoted| !quoted.contains("::")) {
                assert!(known(key), "`rlaif {command}` has no `{key}`: {}", finding.advice);
            }
            symptoms.insert(finding.symptom);
        }
    }
    let all = rlaif_rl::Symptom::ALL.map(|symptom| symptom.name().to_owned());
    assert_eq!(symptoms, BTreeSet::from(all), "{command}");
}

#[test]
fn advice_names_keys_that_the_run_file_has() {
    advice_names_keys_of("ppo", (&rlaif_ppo::PpoConfig::default()).into());
    advice_names_keys_of("reinforce", (&rlaif_reinforce::ReinforceConfig::default()).into());
}

/// The table of losses in docs/dpo.md is written by hand, because it tells each one's name in the literature. Its keys and
/// defaults are those of the schema.
#[test]
fn the_table_of_losses_has_their_keys_and_defaults() {
    let schema = rlaif_run::schema("dpo").unwrap();
    let (_, _, page) = pages().into_iter().find(|(page, ..)| page == "dpo").unwrap();
    let (_, section) = page.split_once("## Losses").unwrap();
    let (section, _) = section.split_once("Further keys of").unwrap();
    let rows: Vec<Vec<&str>> =
        section.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
    let mut defaults = 0;
    for form in schema["$defs"]["LossTerm"]["oneOf"].as_array().unwrap() {
        let name = form["properties"]["type"]["const"].as_str().unwrap();
        let is_named = |cell: &&str| cell.split(", ").any(|one| one == format!("`{name}`"));
        let row = rows.iter().find(|row| row.get(1).is_some_and(is_named)).expect(name);
        let keys = form["properties"].as_object().unwrap();
        for (key, property) in keys.iter().filter(|(key, _)| *key != "type") {
            assert!(row[3].contains(&format!("`{key}`")), "{name}: {key}");
            let told = row[3].split_once(&format!("`{key}` (")).map(|(_, rest)| rest);
            let Some(told) = told.and_then(|rest| rest.split([')', ';']).next()) else { continue };
            let default = &property["default"];
            let told: Value = serde_json::from_str(told.trim_matches('`')).unwrap();
            let same = told == *default || (told.is_number() && told.as_f64() == default.as_f64());
            assert!(same, "{name}: {key} is {default}, told as {told}");
            defaults += 1;
        }
    }
    assert!(defaults >= 10, "{defaults}");
}
