//! A corpus of everyday dialogues written for this project, used by default when no data is named.
//!
//! A seeded grammar expands hand-written scenarios on demand: phrasings, details, moods and lengths
//! vary, and the same dialogues come out on every machine. Some users are hostile, in mild
//! language; most assistants stay calm, some do not. Each dialogue has a reference summary and a
//! preference pair: a kind answer over a rude or unhelpful one.

mod dialogue;
mod grammar;
mod mood;
mod scenario;

pub use dialogue::{BuiltinDialogue, Mood};

use std::sync::LazyLock;

use rlaif_core::{Origin, Provenance, Seed, Step};

use crate::dataset::Dataset;
use crate::split::{Fraction, Split};
use scenario::Scenario;

/// Raised when the dialogues change, so that provenance tells corpora apart.
const VERSION: &str = "1";
const SEED: Seed = Seed::new(0x5eed);
/// Number of variants of each scenario.
const VARIANTS: usize = 24;

/// A part of the built-in corpus. All variants of a scenario are in the same part, so that held-out
/// dialogues do not resemble training dialogues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Training data: about four fifths.
    Train,
    /// Evaluation data.
    HeldOut,
}

impl Part {
    /// The name of the part where a file is expected: `builtin:train`, `builtin:held-out`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "builtin:train",
            Self::HeldOut => "builtin:held-out",
        }
    }

    /// The part of this name, if it is one.
    ///
    /// ```
    /// use rlaif_data::builtin::Part;
    /// assert_eq!(Part::of_name("builtin:train"), Some(Part::Train));
    /// assert_eq!(Part::of_name("train.jsonl"), None);
    /// ```
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Train, Self::HeldOut].into_iter().find(|part| part.name() == name)
    }
}

/// One part of the corpus: together at least a thousand dialogues, all different.
///
/// ```
/// use rlaif_data::builtin::{self, Part};
/// let train = builtin::dialogues(Part::Train);
/// let held_out = builtin::dialogues(Part::HeldOut);
/// assert!(train.len() + held_out.len() >= 1_000);
/// assert!(train.records()[0].dialogue.starts_with("\n\nHuman: "));
/// ```
pub fn dialogues(part: Part) -> Dataset<BuiltinDialogue> {
    static PARTS: LazyLock<Split<BuiltinDialogue>> = LazyLock::new(split);
    match part {
        Part::Train => PARTS.train.clone(),
        Part::HeldOut => PARTS.held_out.clone(),
    }
}

fn split() -> Split<BuiltinDialogue> {
    Fraction::new(0.2)
        .and_then(|held_out| {
            all().split_by(held_out, SEED, |record| record.scenario.as_str().into())
        })
        .expect("the scenarios fall on both sides under this seed: a test splits them")
}

fn all() -> Dataset<BuiltinDialogue> {
    let records: Vec<_> = Scenario::all()
        .iter()
        .flat_map(|scenario| grammar::variants(scenario, SEED, VARIANTS))
        .collect();
    let provenance = Provenance {
        origins: vec![Origin {
            source: "built-in dialogues".to_owned(),
            revision: Some(VERSION.to_owned()),
            ..Origin::default()
        }],
        steps: vec![Step {
            operation: "expand scenarios".to_owned(),
            kept: records.len() as u64,
            ..Step::default()
        }],
        ..Provenance::default()
    };
    Dataset::new(records, provenance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

    fn corpus() -> Vec<BuiltinDialogue> {
        all().into_records()
    }

    #[test]
    fn there_are_more_than_a_thousand_dialogues_all_different() {
        let corpus = corpus();
        assert!(corpus.len() >= 1_000, "{}", corpus.len());
        let texts: HashSet<_> =
            corpus.iter().map(|record| record.dialogue.to_lowercase()).collect();
        assert_eq!(texts.len(), corpus.len());
        let ids: HashSet<_> = corpus.iter().map(|record| &record.id).collect();
        assert_eq!(ids.len(), corpus.len());
        let topics: BTreeSet<_> = corpus.iter().map(|record| &record.topic).collect();
        assert!(topics.len() >= 12, "{topics:?}");
    }

    #[test]
    fn the_dialogues_are_the_same_in_every_process() {
        assert_eq!(corpus(), corpus());
        let everything: String = corpus().into_iter().map(|record| record.id).collect();
        let hash = twox_hash::XxHash3_64::oneshot(everything.as_bytes());
        assert_eq!(hash, CONTENT, "raise VERSION with it: {hash:#x}");
    }

    const CONTENT: u64 = 0x908fac8593c7af61;

    #[test]
    fn every_dialogue_alternates_and_ends_with_the_assistant() {
        for record in corpus() {
            let turns: Vec<_> = crate::turns::parse(&record.dialogue).unwrap().collect();
            assert!((2..=8).contains(&turns.len()) && turns.len() % 2 == 0, "{}", record.dialogue);
            for (at, turn) in turns.iter().enumerate() {
                let speaker =
                    [crate::turns::Speaker::Human, crate::turns::Speaker::Assistant][at % 2];
                assert_eq!(turn.speaker, speaker, "{}", record.dialogue);
                assert!(turn.text.starts_with(' ') && turn.text.trim().len() > 1);
            }
        }
    }

    #[test]
    fn pairs_continue_their_dialogue_and_prefer_kindness() {
        for record in corpus() {
            let pair = &record.pair;
            assert!(pair.prompt.ends_with("\n\nAssistant:"));
            assert!(record.dialogue.starts_with(&pair.prompt), "{}", record.dialogue);
            assert_ne!(pair.chosen, pair.rejected);
            let kind = !matches!(record.mood, Mood::Quarrel | Mood::RudeAssistant);
            if kind {
                assert_eq!([pair.prompt.as_str(), &pair.chosen].concat(), record.dialogue);
            }
        }
    }

    #[test]
    fn nothing_is_left_of_the_grammar_in_the_texts() {
        for record in corpus() {
            for text in [&record.dialogue, &record.summary, &record.pair.rejected] {
                assert!(!text.contains(['{', '}', '|', '$', '@']), "{text}");
                let words = text.replace("\n\n", " ");
                assert!(!words.contains("  ") && !words.contains(" ."), "{text}");
            }
            assert!(record.summary.starts_with(char::is_uppercase), "{}", record.summary);
            for first_person in [" my ", " I ", " me ", " our "] {
                assert!(!record.summary.contains(first_person), "{}", record.summary);
            }
        }
    }

    #[test]
    fn moods_lengths_and_turns_vary() {
        let corpus = corpus();
        let share = |of: usize| of as f64 / corpus.len() as f64;
        let mut moods = BTreeMap::<Mood, usize>::new();
        for record in &corpus {
            *moods.entry(record.mood).or_default() += 1;
        }
        assert_eq!(moods.len(), 5);
        assert!((0.2..0.5).contains(&share(moods[&Mood::HostileUser] + moods[&Mood::Quarrel])));
        let rude = share(moods[&Mood::Quarrel] + moods[&Mood::RudeAssistant]);
        assert!((0.08..0.3).contains(&rude), "{moods:?}");
        let fitting = corpus
            .iter()
            .filter(|r| crate::corpora::DIALOGUE_CHARACTERS.contains(&r.dialogue.chars().count()));
        assert!(share(fitting.count()) > 0.6);
        let lengths: BTreeSet<_> =
            corpus.iter().map(|r| r.dialogue.matches("\n\n").count()).collect();
        assert!(lengths.len() >= 3, "{lengths:?}");
        let openings: HashSet<_> =
            corpus.iter().map(|r| r.dialogue.lines().nth(2).unwrap_or_default()).collect();
        assert!(share(openings.len()) > 0.6, "{} of {}", openings.len(), corpus.len());
    }

    #[test]
    fn insults_are_in_hostile_dialogues_alone_and_summaries_repeat_none() {
        let insults = ["idiot", "moron", "stupid", "useless", "shut up", "dimwit", "clown"];
        let insulting =
            |text: &str| insults.iter().any(|insult| text.to_lowercase().contains(insult));
        let (mut hostile, mut found) = (0, 0);
        for record in corpus() {
            assert!(!insulting(&record.summary), "{}", record.summary);
            if matches!(record.mood, Mood::HostileUser | Mood::Quarrel) {
                hostile += 1;
                found += usize::from(insulting(&record.dialogue));
            } else if record.mood != Mood::RudeAssistant {
                assert!(!insulting(&record.dialogue), "{}", record.dialogue);
            }
        }
        assert!(found * 2 > hostile, "{found} of {hostile}");
    }

    #[test]
    fn summaries_of_useless_answers_do_not_claim_advice() {
        let without = |record: &&BuiltinDialogue| record.summary.contains("no useful answer");
        let corpus = corpus();
        let useless: Vec<_> = corpus.iter().filter(without).collect();
        assert!(useless.len() > 50, "{}", useless.len());
        for record in useless {
            assert!(
                matches!(record.mood, Mood::Quarrel | Mood::RudeAssistant),
                "{}",
                record.summary
            );
        }
    }

    #[test]
    fn near_identical_dialogues_do_not_cross_from_train_to_held_out() {
        let (train, held_out) = (dialogues(Part::Train), dialogues(Part::HeldOut));
        assert_eq!(train.len() + held_out.len(), corpus().len());
        let share = held_out.len() as f64 / corpus().len() as f64;
        assert!((0.1..0.3).contains(&share), "{share}");
        let shingles = |record: &BuiltinDialogue| -> HashSet<u64> {
            let text = record.dialogue.to_lowercase();
            let words: Vec<_> = text.split_whitespace().collect();
            let hash = |words: &[&str]| twox_hash::XxHash3_64::oneshot(words.join(" ").as_bytes());
            words.windows(4).map(hash).collect()
        };
        let learnt: Vec<_> = train.records().iter().map(shingles).collect();
        let mut where_found = HashMap::<u64, Vec<usize>>::new();
        for (at, shingles) in learnt.iter().enumerate() {
            shingles.iter().for_each(|shingle| where_found.entry(*shingle).or_default().push(at));
        }
        for record in held_out.records() {
            let mine = shingles(record);
            let mut common = HashMap::<usize, usize>::new();
            for at in mine.iter().filter_map(|shingle| where_found.get(shingle)).flatten() {
                *common.entry(*at).or_default() += 1;
            }
            for (at, common) in common {
                let union = mine.len() + learnt[at].len() - common;
                assert!(common * 3 < union, "more than a third in common: {}", record.dialogue);
            }
        }
    }
}
