//! Stages, and the outputs of others that they name.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use toml::{Table, Value};

use crate::{
    error::RunError,
    pipeline::commands::{COMMANDS, StageCommand},
};

/// A stage whose command is known.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) command: &'static StageCommand,
    /// The command's run file, with references.
    pub(crate) settings: Table,
    /// The stages whose outputs it reads.
    pub(crate) needs: BTreeSet<String>,
}

/// An output of a stage: `@stage.output`, or `@stage` for the first output of its command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) stage: String,
    pub(crate) output: &'static str,
    /// The output's place in the folder of its stage.
    pub(crate) place: &'static str,
}

/// The stages of a file in an order in which each follows the stages that it needs: those whose outputs it reads, and
/// the one that it waits for.
///
/// # Errors
/// [`RunError::Content`] names the stage and the key: an unknown command, stage or output, or a circle.
pub(crate) fn stages(
    file: &Path,
    tables: &BTreeMap<String, Table>,
    waits_for: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Stage>, RunError> {
    let refuse = |key: String, problem: String| {
        Err(RunError::Content { path: file.to_owned(), key, problem })
    };
    if tables.is_empty() {
        let problem = "there is no stage; add a table [stages.NAME] with `command`".to_owned();
        return refuse("stages".to_owned(), problem);
    }
    let mut commands: BTreeMap<&str, &'static StageCommand> = BTreeMap::new();
    for (name, table) in tables {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(is_plain) {
            let problem = "is not a name; use letters, digits, `-` and `_`".to_owned();
            return refuse(format!("stages.{name}"), problem);
        }
        let key = format!("stages.{name}.command");
        let known =
            || COMMANDS.iter().map(|c| format!("`{}`", c.name)).collect::<Vec<_>>().join(", ");
        let command = match table.get("command") {
            Some(Value::String(command)) => command,
            Some(_) => {
                return refuse(key, format!("found another type, expected one of {}", known()));
            }
            None => return refuse(key, format!("is missing; expected one of {}", known())),
        };
        match COMMANDS.iter().find(|known| known.name == command) {
            Some(command) => commands.insert(name, command),
            None => {
                let problem = format!("unknown command `{command}` (known: {})", known());
                return refuse(key, problem);
            }
        };
    }
    let mut stages = Vec::new();
    for (name, table) in tables {
        let mut settings = table.clone();
        settings.remove("command");
        let mut needs: BTreeSet<String> = waits_for(name).into_iter().collect();
        each_text_mut(&format!("stages.{name}"), &mut settings, &mut |key, text| {
            if let Some(found) = reference(file, key, text, &commands)? {
                needs.insert(found.stage);
            }
            Ok(())
        })?;
        stages.push(Stage {
            name: name.clone(),
            command: commands[name.as_str()],
            settings,
            needs,
        });
    }
    in_order(stages).map_err(|circle| RunError::Content {
        path: file.to_owned(),
        key: "stages".to_owned(),
        problem: format!(
            "these stages need each other: {}; each may read outputs of earlier ones only",
            circle.join(" -> ")
        ),
    })
}

/// The reference in a text, if it is one. A text that begins with `@@` is one that begins with `@`.
pub(crate) fn reference(
    file: &Path,
    key: &str,
    text: &str,
    commands: &BTreeMap<&str, &'static StageCommand>,
) -> Result<Option<Reference>, RunError> {
    let Some(named) = text.strip_prefix('@').filter(|rest| !rest.starts_with('@')) else {
        return Ok(None);
    };
    let refuse = |problem: String| {
        Err(RunError::Content { path: file.to_owned(), key: key.to_owned(), problem })
    };
    let (stage, output) = match named.split_once('.') {
        Some((stage, output)) => (stage, Some(output)),
        None => (named, None),
    };
    let Some(command) = commands.get(stage) else {
        let known: Vec<String> = commands.keys().map(|name| format!("`{name}`")).collect();
        return refuse(format!(
            "`{text}` names no stage (known: {}); a text that begins with `@` is written with `@@`",
            known.join(", ")
        ));
    };
    let found = match output {
        None => command.outputs.first(),
        Some(output) => command.outputs.iter().find(|(name, _)| *name == output),
    };
    match found {
        Some((output, place)) => Ok(Some(Reference { stage: stage.to_owned(), output, place })),
        None => {
            let known: Vec<String> =
                command.outputs.iter().map(|(name, _)| format!("`@{stage}.{name}`")).collect();
            refuse(format!(
                "`{text}`: a stage of `{}` has no such output (known: {})",
                command.name,
                known.join(", ")
            ))
        }
    }
}

/// The same settings with each reference replaced.
pub(crate) fn replaced(
    settings: &Table,
    commands: &BTreeMap<&str, &'static StageCommand>,
    of: &mut dyn FnMut(&Reference) -> String,
) -> Table {
    let mut settings = settings.clone();
    let done = each_text_mut("", &mut settings, &mut |_, text| {
        if let Some(found) = reference(Path::new(""), "", text, commands)? {
            *text = of(&found);
        } else if let Some(rest) = text.strip_prefix('@') {
            *text = rest.to_owned();
        }
        Ok(())
    });
    debug_assert!(done.is_ok(), "references were checked when the stages were made");
    settings
}

/// Calls `of` for each text of a table, with its path.
pub(crate) fn each_text_mut(
    path: &str,
    table: &mut Table,
    of: &mut dyn FnMut(&str, &mut String) -> Result<(), RunError>,
) -> Result<(), RunError> {
    fn walk(
        path: &str,
        value: &mut Value,
        of: &mut dyn FnMut(&str, &mut String) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        match value {
            Value::String(text) => of(path, text),
            Value::Array(all) => all
                .iter_mut()
                .enumerate()
                .try_for_each(|(at, value)| walk(&format!("{path}[{at}]"), value, of)),
            Value::Table(table) => each_text_mut(path, table, of),
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => Ok(()),
        }
    }
    table.iter_mut().try_for_each(|(key, value)| walk(&format!("{path}.{key}"), value, of))
}

/// Sorts stages; of those that could come next, the first by name does. The error is a circle.
fn in_order(mut stages: Vec<Stage>) -> Result<Vec<Stage>, Vec<String>> {
    let mut sorted: Vec<Stage> = Vec::new();
    while !stages.is_empty() {
        let is_sorted = |name: &String| sorted.iter().any(|stage| stage.name == *name);
        match stages.iter().position(|stage| stage.needs.iter().all(is_sorted)) {
            Some(at) => sorted.push(stages.remove(at)),
            None => {
                // Each of the stages left needs another one of them: following these meets a circle.
                let mut path = vec![stages[0].name.clone()];
                loop {
                    let last = path.last().and_then(|name| stages.iter().find(|s| s.name == *name));
                    let next =
                        last.and_then(|stage| stage.needs.iter().find(|name| !is_sorted(name)));
                    let Some(next) = next else { return Err(path) };
                    if let Some(at) = path.iter().position(|name| name == next) {
                        path.push(next.clone());
                        return Err(path.split_off(at));
                    }
                    path.push(next.clone());
                }
            }
        }
    }
    Ok(sorted)
}
