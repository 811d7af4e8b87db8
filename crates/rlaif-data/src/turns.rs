//! Dialogues in HH's notation: turns that begin with "\n\nHuman:" or "\n\nAssistant:".

use rlaif_core::Message;

/// The speaker of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Speaker {
    /// The person.
    Human,
    /// The assistant.
    Assistant,
}

impl Speaker {
    /// The marker at the beginning of a turn of this speaker.
    pub const fn marker(self) -> &'static str {
        match self {
            Self::Human => "\n\nHuman:",
            Self::Assistant => "\n\nAssistant:",
        }
    }

    /// The role of this speaker in a chat template.
    pub const fn role(self) -> &'static str {
        match self {
            Self::Human => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn, as written in the text.
///
/// [`Turn::marker`](Speaker::marker) and `text` of all turns, concatenated, give the text again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn<'a> {
    /// The speaker.
    pub speaker: Speaker,
    /// Everything between this turn's marker and the next marker, white space included.
    pub text: &'a str,
}

impl Turn<'_> {
    /// The turn as chat templates expect it: its role, and its text without the surrounding white
    /// space.
    pub fn message(&self) -> Message {
        Message::new(self.speaker.role(), self.text.trim())
    }
}

/// Faults of a text that should be a dialogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialogueProblem {
    /// The text does not begin with a turn.
    NoTurn,
    /// The two dialogues of a pair have no turn of the assistant in common.
    NothingInCommon,
}

impl std::fmt::Display for DialogueProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoTurn => {
                "is not a dialogue: it should begin with \"\\n\\nHuman:\" or \"\\n\\nAssistant:\""
            }
            Self::NothingInCommon => {
                "shares no beginning with `chosen` that ends in \"\\n\\nAssistant:\", so there is \
                 no prompt that both answer"
            }
        })
    }
}

/// The turns of a dialogue.
///
/// # Errors
/// [`DialogueProblem::NoTurn`] when the text does not begin with one of the two markers.
///
/// ```
/// use rlaif_data::turns::{Speaker, parse};
/// let turns: Vec<_> = parse("\n\nHuman: Hi\n\nAssistant: Hello.\n\nHow are you?")?.collect();
/// assert_eq!(turns.len(), 2);
/// assert_eq!(turns[1].speaker, Speaker::Assistant);
/// assert_eq!(turns[1].message().content, "Hello.\n\nHow are you?");
/// # Ok::<(), rlaif_data::turns::DialogueProblem>(())
/// ```
pub fn parse(text: &str) -> Result<Turns<'_>, DialogueProblem> {
    match strip_marker(text) {
        Some((speaker, rest)) => Ok(Turns { next: Some((speaker, rest)) }),
        None => Err(DialogueProblem::NoTurn),
    }
}

impl std::error::Error for DialogueProblem {}

/// The turns of a dialogue, oldest first.
#[derive(Debug, Clone)]
pub struct Turns<'a> {
    next: Option<(Speaker, &'a str)>,
}

impl<'a> Iterator for Turns<'a> {
    type Item = Turn<'a>;

    fn next(&mut self) -> Option<Turn<'a>> {
        let (speaker, rest) = self.next.take()?;
        let mut from = 0;
        while let Some(at) = memchr::memmem::find(&rest.as_bytes()[from..], b"\n\n") {
            let at = from + at;
            if let Some(next) = strip_marker(&rest[at..]) {
                self.next = Some(next);
                return Some(Turn { speaker, text: &rest[..at] });
            }
            // Of three line breaks, the last two may begin a turn.
            from = at + 1;
        }
        Some(Turn { speaker, text: rest })
    }
}

fn strip_marker(text: &str) -> Option<(Speaker, &str)> {
    [Speaker::Human, Speaker::Assistant]
        .into_iter()
        .find_map(|speaker| Some((speaker, text.strip_prefix(speaker.marker())?)))
}

/// The end of the last marker of `speaker` in `text`.
pub(crate) fn end_of_last_marker(text: &str, speaker: Speaker) -> Option<usize> {
    text.rfind(speaker.marker()).map(|at| at + speaker.marker().len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(turns: Turns<'_>) -> String {
        turns.map(|turn| format!("{}{}", turn.speaker.marker(), turn.text)).collect()
    }

    #[test]
    fn a_marker_may_follow_a_line_break_of_the_turn_before() {
        let text = "\n\nHuman: a\n\n\nAssistant: b";
        let turns: Vec<_> = parse(text).unwrap().collect();
        assert_eq!(turns[0].text, " a\n");
        assert_eq!(turns[1].text, " b");
    }

    #[test]
    fn words_that_look_like_markers_are_not() {
        let turns = parse("\n\nHuman: Human: hi\n\nHumanity: x \n\nassistant: y").unwrap();
        assert_eq!(turns.count(), 1);
        assert_eq!(parse("Human: hi").unwrap_err(), DialogueProblem::NoTurn);
    }

    proptest! {
        #[test]
        fn turns_put_together_again_are_the_text(
            parts in proptest::collection::vec("\n\nHuman:|\n\nAssistant:|\n|Human:| hé", 0..12)
        ) {
            let text = format!("\n\nHuman:{}", parts.concat());
            prop_assert_eq!(written(parse(&text).unwrap()), text);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            if let Ok(turns) = parse(&text) {
                prop_assert_eq!(written(turns), text);
            }
        }
    }
}
