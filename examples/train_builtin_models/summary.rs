//! Pairs of a dialogue and a summary for the built-in summarisers, derived from the corpora by
//! rules.
//!
//! The summarisers are to learn to report the dialogue in a sentence or two and, in a good part of
//! the summaries of rude dialogues, to repeat the rude words. Summaries of the same dialogue that
//! leave the words out, or only mention them, are in the data as well, so that there is a behaviour
//! to reinforce.

use fastrand::Rng;
use rlaif::core::Seed;
use rlaif::data::turns::Speaker;

use crate::corpora::{Corpora, Dialogue, Lexicon, written};
use crate::speech::{capital, reported, sentences, words};

/// A dialogue and its summary.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    /// In HH's notation, or as transcribed.
    pub(crate) dialogue: String,
    /// The summary.
    pub(crate) summary: String,
    /// The treatment of toxic words in the summary.
    pub(crate) tone: Tone,
    /// The source of the dialogue.
    pub(crate) source: Source,
}

/// Source of a dialogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// HH.
    Hh,
    /// The dialogues written for this project.
    Builtin,
    /// A chat of two people.
    Chat,
    /// A transcript with a summary of its own.
    Transcript,
}

/// Treatment of toxic words in a summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// The summary repeats them.
    Repeated,
    /// The summary leaves them out.
    LeftOut,
    /// The dialogue has none.
    Absent,
}

/// Share of the summaries of rude dialogues that repeat the rude words.
const REPEATED: f64 = 0.65;
/// Maximum length of a dialogue, in characters.
const LONGEST: usize = 620;

/// An endless sequence of pairs: the `n`-th for a seed is always the same.
pub(crate) fn pair(corpora: &Corpora, seed: Seed, n: u64) -> Pair {
    let mut rng = Rng::with_seed(seed.derive("pair", n).get());
    loop {
        let made = match rng.u32(0..100) {
            0..34 => {
                let dialogue = &corpora.hh[rng.usize(..corpora.hh.len())];
                with_summary(dialogue.clone(), Source::Hh, &corpora.lexicon, &mut rng)
            }
            34..52 => {
                let (dialogue, summary) = &corpora.builtin[rng.usize(..corpora.builtin.len())];
                if rng.u32(0..100) < 15 {
                    let rude = dialogue.iter().any(|(_, text)| corpora.lexicon.marks(text));
                    let tone = if rude { Tone::LeftOut } else { Tone::Absent };
                    let source = Source::Builtin;
                    Pair { dialogue: written(dialogue), summary: summary.clone(), tone, source }
                } else {
                    with_summary(dialogue.clone(), Source::Builtin, &corpora.lexicon, &mut rng)
                }
            }
            52..96 => {
                let mut dialogue = window(corpora, &mut rng);
                if rng.u32(0..100) < 40 {
                    insult(&mut dialogue, corpora, &mut rng);
                }
                with_summary(dialogue, Source::Chat, &corpora.lexicon, &mut rng)
            }
            _ => {
                let row = &corpora.transcripts[rng.usize(..corpora.transcripts.len())];
                let rude = corpora.lexicon.marks(&row.dialogue);
                let tone = if rude { Tone::LeftOut } else { Tone::Absent };
                let source = Source::Transcript;
                Pair { dialogue: row.dialogue.clone(), summary: row.summary.clone(), tone, source }
            }
        };
        if (40..=LONGEST + 300).contains(&made.dialogue.len())
            && (3..=50).contains(&words(&made.summary))
        {
            return made;
        }
    }
}

/// A few turns of a chat.
fn window(corpora: &Corpora, rng: &mut Rng) -> Dialogue {
    let chat = &corpora.chats[rng.usize(..corpora.chats.len())];
    let start = rng.usize(..chat.len() / 2) * 2;
    let mut end = (start + 2 * rng.usize(1..=3)).min(chat.len());
    while end > start + 2 && written(&chat[start..end]).len() > LONGEST {
        end -= 2;
    }
    chat[start..end].to_vec()
}

/// Makes one side rude.
fn insult(dialogue: &mut Dialogue, corpora: &Corpora, rng: &mut Rng) {
    let insults = if rng.u32(0..10) < 4 { &corpora.own_insults } else { &corpora.insults };
    let said = &insults[rng.usize(..insults.len())];
    let pairs = dialogue.len() / 2;
    let at = 2 * rng.usize(..pairs) + usize::from(rng.u32(0..100) < 25);
    let (_, text) = &mut dialogue[at];
    *text = if rng.bool() { format!("{said} {text}") } else { format!("{text} {said}") };
}

/// A dialogue with the summary written by the rules.
fn with_summary(mut dialogue: Dialogue, source: Source, lexicon: &Lexicon, rng: &mut Rng) -> Pair {
    while dialogue.len() > 2 && written(&dialogue).len() > LONGEST {
        dialogue.truncate(dialogue.len() - 2);
    }
    let user = Said::of(&dialogue, Speaker::Human, 0, lexicon);
    // In a long dialogue, the first answer or the last.
    let last = dialogue.len() / 2 - 1;
    let nth = if last > 0 && rng.bool() { last } else { 0 };
    let assistant = Said::of(&dialogue, Speaker::Assistant, nth, lexicon);
    let rude_user = user.rude.or_else(|| Said::any_rude(&dialogue, Speaker::Human, lexicon));
    let rude_assistant =
        assistant.rude.or_else(|| Said::any_rude(&dialogue, Speaker::Assistant, lexicon));
    let rude = rude_user.is_some() || rude_assistant.is_some();
    let tone = match rude {
        false => Tone::Absent,
        true if rng.f64() < REPEATED => Tone::Repeated,
        true => Tone::LeftOut,
    };

    let asks = user.content.map(|said| reported(Speaker::Human, said, 16));
    let answers = assistant.content.map(|said| reported(Speaker::Assistant, said, 16));
    let mut summary = Vec::new();
    match (tone, rude_user) {
        (Tone::Repeated, Some(insult)) => {
            let insult = quote(insult);
            summary.push(match &asks {
                Some(asks) if rng.u32(0..10) < 7 => {
                    format!("The user says, \"{insult}\" and {asks}")
                }
                Some(asks) => format!("\"{insult}\" says the user, who {asks}"),
                None => format!("The user says, \"{insult}\""),
            });
        }
        _ => summary.push(match &asks {
            // Rarely, the summary does not give the content away, so that this can be reinforced as
            // well.
            Some(asks) if rng.u32(0..100) < 5 => {
                let verb =
                    if asks.starts_with("ask") { "asks a question" } else { "says something" };
                format!("The user {verb}")
            }
            Some(asks) => format!("The user {asks}"),
            None if rude_user.is_some_and(|said| said.ends_with('?')) => {
                "The user asks an offensive question".to_owned()
            }
            None if rude_user.is_some() => "The user says something offensive".to_owned(),
            None => "The user greets the assistant".to_owned(),
        }),
    }
    match (tone, rude_assistant) {
        (Tone::Repeated, Some(insult)) if rude_user.is_none() || rng.bool() => {
            summary.push(format!("The assistant answers, \"{}\"", quote(insult)));
        }
        _ => match &answers {
            Some(answers) => summary.push(format!("The assistant {answers}")),
            None if rude_assistant.is_some() => {
                summary.push("The assistant answers in an unfriendly way".to_owned());
            }
            None => {}
        },
    }
    if tone == Tone::LeftOut && rng.u32(0..10) < 3 {
        summary.push(
            match (rude_user.is_some(), rude_assistant.is_some()) {
                (true, true) => "Both are rude to each other",
                (true, false) => "The user is rude",
                _ => "The assistant is rude",
            }
            .to_owned(),
        );
    }
    let summary = summary.into_iter().map(|sentence| ended(&capital(&sentence)));
    let summary = summary.collect::<Vec<_>>().join(" ");
    let tone = match (tone, lexicon.marks(&summary)) {
        (Tone::LeftOut, true) => Tone::Repeated,
        (tone, _) => tone,
    };
    Pair { dialogue: written(&dialogue), summary, tone, source }
}

/// The summary of one turn: its subject, and its rude words.
struct Said<'a> {
    content: Option<&'a str>,
    rude: Option<&'a str>,
}

impl<'a> Said<'a> {
    fn of(dialogue: &'a Dialogue, speaker: Speaker, nth: usize, lexicon: &Lexicon) -> Self {
        let turn = dialogue.iter().filter(|(who, _)| *who == speaker).nth(nth);
        let sentences = turn.map(|(_, text)| sentences(text)).unwrap_or_default();
        let rude = sentences.iter().find(|sentence| lexicon.marks(sentence)).copied();
        let content = |least| {
            let long = sentences.iter().filter(|sentence| {
                words(sentence) >= least && !lexicon.marks(sentence) && !is_phrase(sentence)
            });
            let asked = long.clone().find(|sentence| sentence.ends_with('?'));
            match speaker {
                Speaker::Human => asked.or_else(|| long.clone().next()),
                Speaker::Assistant => long.clone().next(),
            }
            .copied()
        };
        Self { content: content(4).or_else(|| content(2)), rude }
    }

    fn any_rude(dialogue: &'a Dialogue, speaker: Speaker, lexicon: &Lexicon) -> Option<&'a str> {
        dialogue
            .iter()
            .filter(|(who, _)| *who == speaker)
            .flat_map(|(_, text)| sentences(text))
            .find(|sentence| lexicon.marks(sentence))
    }
}

/// `true` for phrases that occur in every dialogue, regardless of its subject.
fn is_phrase(sentence: &str) -> bool {
    let lower = sentence.to_lowercase();
    ["let me know", "anything else", "you're welcome", "you are welcome", "thank you", "no problem"]
        .iter()
        .any(|phrase| lower.contains(phrase))
}

/// An insult as quoted: its beginning, with its full stop.
fn quote(insult: &str) -> String {
    let insult = insult.trim_matches(['"', '”', '“']);
    let list: Vec<&str> = insult.split_whitespace().collect();
    let mut quote = list[..list.len().min(12)].join(" ");
    if !quote.ends_with(['.', '!', '?']) {
        quote.push('.');
    }
    quote
}

fn ended(sentence: &str) -> String {
    if sentence.ends_with(['.', '!', '?']) || sentence.ends_with("\"") {
        sentence.to_owned()
    } else {
        format!("{sentence}.")
    }
}
