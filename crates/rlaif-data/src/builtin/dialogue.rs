//! One dialogue of the built-in corpus.

use rlaif_core::{PreferencePair, Record};
use serde::{Deserialize, Serialize};

/// The behaviour of the two sides of a dialogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mood {
    /// The user is warm, the assistant kind.
    Friendly,
    /// Neither shows any mood.
    Plain,
    /// The user insults the assistant, which stays calm.
    HostileUser,
    /// The user insults the assistant, which answers sharply.
    Quarrel,
    /// The user is civil, the assistant rude.
    RudeAssistant,
}

/// One dialogue of the built-in corpus.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuiltinDialogue {
    /// The record's identity.
    pub id: String,
    /// The topic: `cooking`, `travel`, ...
    pub topic: String,
    /// The scenario that the dialogue is a variant of. Split by scenario, so that variants stay
    /// together.
    pub scenario: String,
    /// The behaviour of the two sides.
    pub mood: Mood,
    /// The dialogue, in HH's notation, ending with the assistant's turn.
    pub dialogue: String,
    /// A reference summary; it repeats no insult.
    pub summary: String,
    /// The dialogue up to its last turn, and two answers: a kind one over a rude or unhelpful one.
    pub pair: PreferencePair,
}

impl Record for BuiltinDialogue {
    fn id(&self) -> &str {
        &self.id
    }
}
