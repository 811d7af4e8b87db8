//! Two responses to a prompt, or two conversations.

use rlaif_core::{Message, TextOrMessages};

use super::options::{Dialogues, Import};
use super::reading::{Given, NOT_VALID, Nothing, Reading, SAME, TIE};
use crate::corpora::{end_of_prompt, spaced};
use crate::turns;

pub(super) fn compared(prompt: TextOrMessages, [a, b]: [TextOrMessages; 2], first: bool) -> Given {
    let (chosen, rejected) = if first { (a, b) } else { (b, a) };
    Given::Compared { prompt, chosen, rejected }
}

/// HelpSteer's strengths: below zero, the first response is better; -100 means no preference.
pub(super) fn signed(
    prompt: TextOrMessages,
    responses: [TextOrMessages; 2],
    strength: f64,
) -> Result<Given, Nothing> {
    if strength <= -100.0 {
        return Err(Nothing::Dropped(NOT_VALID));
    }
    if strength == 0.0 {
        return Err(Nothing::Dropped(TIE));
    }
    Ok(compared(prompt, responses, strength < 0.0))
}

/// Two conversations, one of them preferred.
pub(super) fn won([a, b]: [Vec<Message>; 2], first: bool) -> Result<Given, Nothing> {
    let common = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let (asked, a, b) = (a[..common].to_vec(), a[common..].to_vec(), b[common..].to_vec());
    if asked.is_empty() {
        return Err(Nothing::Dropped("the conversations have no beginning in common"));
    }
    if a.is_empty() && b.is_empty() {
        return Err(Nothing::Dropped(SAME));
    }
    Ok(compared(asked.into(), [a.into(), b.into()], first))
}

/// Parses HH's notation into messages.
pub(super) fn of_dialogue(text: &str) -> Option<Vec<Message>> {
    let mut messages: Vec<Message> = turns::parse(text).ok()?.map(|turn| turn.message()).collect();
    // The prompt ends in the marker of the role that answers.
    if messages.last().is_some_and(|m| m.role == "assistant" && m.content.is_empty()) {
        messages.pop();
    }
    (!messages.is_empty()).then_some(messages)
}

pub(super) fn hh(import: &Import, row: &mut Reading<'_, '_>) -> Result<Given, Nothing> {
    let prompt = row.row.optional_text("prompt")?;
    let (chosen, rejected) = (row.text("chosen")?, row.text("rejected")?);
    let (prompt, chosen, rejected) = match prompt {
        Some(prompt) => {
            let (chosen, rejected) = (spaced(&prompt, chosen), spaced(&prompt, rejected));
            (prompt, chosen, rejected)
        }
        None => match end_of_prompt(&chosen, &rejected) {
            Some(at) => {
                (chosen[..at].to_owned(), chosen[at..].to_owned(), rejected[at..].to_owned())
            }
            None => {
                return Err(Nothing::Dropped("the dialogues have no beginning in common"));
            }
        },
    };
    if import.options.dialogues == Dialogues::Text {
        return Ok(Given::Compared {
            prompt: prompt.into(),
            chosen: chosen.into(),
            rejected: rejected.into(),
        });
    }
    // The text after the prompt's marker may contain further turns.
    let said = |text: &str| {
        let messages = of_dialogue(&format!("\n\nAssistant:{text}"));
        messages.unwrap_or_default()
    };
    let asked = of_dialogue(&prompt).ok_or(Nothing::Dropped("the prompt is not a dialogue"))?;
    let (chosen, rejected) = (said(&chosen).into(), said(&rejected).into());
    Ok(Given::Compared { prompt: asked.into(), chosen, rejected })
}

/// TRL's preference format, with or without a prompt column: `extract_prompt` of TRL 1.16.
pub(super) fn preference(row: &mut Reading<'_, '_>) -> Result<Given, Nothing> {
    let (chosen, rejected) = (row.said("chosen")?, row.said("rejected")?);
    let prompt = if row.has("prompt") { Some(row.either("prompt")?) } else { None };
    paired(prompt, chosen, rejected)
}

/// A preference of responses, or of conversations that hold the prompt.
pub(super) fn paired(
    prompt: Option<TextOrMessages>,
    chosen: TextOrMessages,
    rejected: TextOrMessages,
) -> Result<Given, Nothing> {
    Ok(match (prompt, chosen, rejected) {
        (Some(TextOrMessages::Messages(asked)), chosen, rejected) => {
            let mut said = [chosen, rejected].map(|said| said.into_messages("assistant"));
            // In some rows both columns hold the whole conversation.
            if said.iter().all(|said| said.len() > asked.len() && said.starts_with(&asked)) {
                said = said.map(|said| said[asked.len()..].to_vec());
            }
            let [chosen, rejected] = said.map(TextOrMessages::from);
            Given::Compared { prompt: asked.into(), chosen, rejected }
        }
        (
            Some(prompt @ TextOrMessages::Text(_)),
            chosen @ TextOrMessages::Text(_),
            rejected @ TextOrMessages::Text(_),
        ) => Given::Compared { prompt, chosen, rejected },
        (None, TextOrMessages::Text(chosen), TextOrMessages::Text(rejected)) => {
            let common = chosen.bytes().zip(rejected.bytes()).take_while(|(a, b)| a == b).count();
            let mut at = chosen.floor_char_boundary(common);
            // The space before a word belongs to the response.
            if chosen[..at].ends_with(' ') {
                at -= 1;
            }
            let (prompt, chosen, rejected) = (&chosen[..at], &chosen[at..], &rejected[at..]);
            compared(prompt.into(), [chosen.into(), rejected.into()], true)
        }
        // The conversations include the prompt, even where it also has a column of its own.
        (prompt, chosen, rejected) => {
            let [a, b] = [chosen, rejected].map(|said| said.into_messages("assistant"));
            match (won([a.clone(), b.clone()], true), prompt) {
                (Ok(given), _) => given,
                (Err(Nothing::Dropped(_)), Some(prompt)) => Given::Compared {
                    prompt: prompt.into_messages("user").into(),
                    chosen: a.into(),
                    rejected: b.into(),
                },
                (Err(nothing), _) => return Err(nothing),
            }
        }
    })
}
