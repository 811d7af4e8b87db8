//! Prompts that a form writes in a notation of its own.

use rlaif_core::{Message, TextOrMessages, python_json::json_text};
use serde_json::Value;

use super::reading::Reading;
use crate::error::DataError;

/// A conversation in ShareGPT's columns, with the system message that stands beside it.
pub(super) fn share_gpt(row: &mut Reading<'_, '_>) -> Result<Vec<Message>, DataError> {
    let column = if row.has("conversations") { "conversations" } else { "conversation" };
    let mut said = row.messages(column)?;
    if let Some(system) = row.row.optional_text("system")?.filter(|text| !text.is_empty())
        && said.first().is_some_and(|first| first.role != "system")
    {
        said.insert(0, Message::new("system", system));
    }
    Ok(said)
}

/// Instruction and input, a text; or a conversation, with a system message or earlier turns beside
/// them.
pub(super) fn alpaca_prompt(row: &mut Reading<'_, '_>) -> Result<TextOrMessages, DataError> {
    let mut prompt = row.text("instruction")?;
    if let Some(input) = row.row.optional_text("input")?.filter(|text| !text.is_empty()) {
        prompt = format!("{prompt}\n\n{input}");
    }
    let mut said: Vec<Message> = row
        .row
        .optional_text("system")?
        .filter(|text| !text.is_empty())
        .map(|system| Message::new("system", system))
        .into_iter()
        .collect();
    if row.has("history") {
        let value = row.row.take("history")?;
        let wrong =
            || row.wrong("history", "a list of pairs, each an instruction and its answer", &value);
        let turns = json_text(&value);
        let turns = match turns.as_array() {
            Some(turns) => turns.as_slice(),
            None if value.as_str().is_some_and(|text| text.trim().is_empty()) => &[],
            None => return Err(wrong()),
        };
        for turn in turns {
            let turn: Option<Vec<&str>> =
                turn.as_array().and_then(|turn| turn.iter().map(Value::as_str).collect());
            let Some([asked, answered]) = turn.as_deref() else { return Err(wrong()) };
            said.extend([Message::new("user", *asked), Message::new("assistant", *answered)]);
        }
    }
    if said.is_empty() {
        return Ok(prompt.into());
    }
    said.push(Message::new("user", prompt));
    Ok(said.into())
}

/// HelpSteer2 separates turns by `<extra_id_1>` and the speaker's name.
pub(super) fn help_steer_prompt(prompt: String) -> TextOrMessages {
    const MARK: &str = "<extra_id_1>";
    if !prompt.contains(MARK) {
        return prompt.into();
    }
    let mut parts = prompt.split(MARK);
    let first = parts.next().unwrap_or_default().trim_end();
    let mut said = vec![Message::new("user", first)];
    for part in parts {
        let (speaker, text) = part.split_once('\n').unwrap_or((part, ""));
        let role = match speaker.trim() {
            "Assistant" => "assistant",
            "User" => "user",
            // The text does not follow that notation after all.
            _ => return prompt.into(),
        };
        said.push(Message::new(role, text.trim_end_matches('\n')));
    }
    said.into()
}

pub(super) fn summary_prompt(row: &mut Reading<'_, '_>) -> Result<TextOrMessages, DataError> {
    let info = row.object("info")?;
    let text = |key: &str| info.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (post, title) = (text("post"), text("title").unwrap_or_default());
    Ok(match (post, text("article")) {
        (Some(post), _) => {
            let subreddit = text("subreddit").unwrap_or_default();
            format!("SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:").into()
        }
        (None, Some(article)) => format!("{article}\n\nTL;DR:").into(),
        (None, None) => {
            let expected = "an object with a `post` or an `article`";
            return Err(row.wrong("info", expected, &Value::Object(info)));
        }
    })
}
