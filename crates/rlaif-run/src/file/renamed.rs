//! Keys of earlier versions.

use std::path::Path;

use rlaif_core::say;
use toml::{Table, Value};

use crate::{error::RunError, resume::lookup};

/// Keys of earlier versions, by their path, and their replacements.
const RENAMED: [(&str, &str); 25] = [
    ("data.chat", "`prompt.plain`, which is `chat` or `text`"),
    ("device", "`placement.device`"),
    ("model.precision", "`model.dtype`"),
    ("learn.microbatch", "`learn.microbatch_size`"),
    ("learn.recompute", "`learn.activations`, which is `keep` or `recompute`"),
    ("dpo.micro_batch_size", "`dpo.microbatch_size`"),
    ("dpo.recompute", "`dpo.activations`, which is `keep` or `recompute`"),
    ("ppo.seed", "`seed`, at the top of the file"),
    ("output.checkpoint_every", "`train.checkpoint_every`"),
    ("output.keep", "`train.keep`"),
    ("output.samples", "`train.samples`"),
    ("judge.explains", "`judge.answer`, which is `label` or `explained`"),
    ("reinforce.kl.loss.weighted", "`reinforce.kl.loss.weight`, which is `none` or `ratio`"),
    ("rows.max_tokens", "`data.max_tokens`"),
    ("dpo.prompts", "`dpo.prompt_forward`"),
    ("online.sampling", "`online.pairs`"),
    ("online.reference", "`online.reference_column`"),
    ("data.reference", "`data.reference_column`"),
    (
        "data.responses",
        "`data.response_files` for candidates, `data.initial_responses` for revisions",
    ),
    ("ppo.pretraining.path", "`ppo.pretraining.file`"),
    ("ppo.pretraining.rows", "`ppo.pretraining.batch_size`"),
    ("reward.exam.reference", "`reward.exam.reference_column`"),
    ("centring", "`centring_coef`"),
    ("rounds.most", "`rounds.max_rounds`"),
    ("episodes.time_limit_s", "`episodes.timeout_s`"),
];

/// `true` for a value that an earlier version had.
type IsValue = fn(&Value) -> bool;

/// Keys of earlier versions whose names other values have now, with the values that they had.
const RENAMED_VALUES: [(&str, IsValue, &str); 3] = [
    ("rows", Value::is_str, "`revisions`"),
    ("prompts", Value::is_integer, "`new_prompts`"),
    ("examples", Value::is_integer, "`shown_examples`"),
];

/// Refuses a key of an earlier version, with its current name.
pub(super) fn check_names(path: &Path, table: &Table) -> Result<(), RunError> {
    let find = |key: &str| {
        let (parts, last) = key.rsplit_once('.').unwrap_or(("", key));
        lookup(table, parts)?.get(last)
    };
    let refuse = |key: &str, problem: String| {
        Err(RunError::Content { path: path.to_owned(), key: key.to_owned(), problem })
    };
    if let Some((old, new)) = RENAMED.iter().find(|(old, _)| find(old).is_some()) {
        return refuse(old, format!("renamed to {new}"));
    }
    let had = |key: &str, is: IsValue| find(key).is_some_and(is);
    if let Some((old, _, new)) = RENAMED_VALUES.iter().find(|(old, is, _)| had(old, *is)) {
        return refuse(old, format!("renamed to {new}"));
    }
    match ["learn.dropout", "dpo.dropout", "likelihood"]
        .into_iter()
        .find(|key| find(key).is_some_and(|value| value.as_bool().is_some()))
    {
        Some(key) => refuse(key, "is `on` or `off` now, in quotation marks".to_owned()),
        None => Ok(()),
    }
}

/// Reads `data.chat` of earlier versions of `rlaif eval` as the `prompt.plain` that replaces it.
pub(super) fn with_prompt_form(written: &Table) -> Table {
    let mut table = written.clone();
    // Beside `[prompt]`, the old key is refused.
    if table.contains_key("prompt") {
        return table;
    }
    let Some(data) = table.get_mut("data").and_then(Value::as_table_mut) else { return table };
    if let Some(Value::Boolean(chat)) = data.get("chat") {
        let plain = if *chat { "chat" } else { "text" };
        say(format_args!(
            "`data.chat = {chat}` is read as `prompt.plain = \"{plain}\"`, its name now"
        ));
        data.remove("chat");
        let prompt = Table::from_iter([("plain".to_owned(), Value::from(plain))]);
        table.insert("prompt".to_owned(), Value::Table(prompt));
    }
    table
}
