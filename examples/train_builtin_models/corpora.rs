//! The dialogues that the summarisers are trained on, and the sources of insults.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::error::Error;
use std::fs;
use std::path::Path;

use rlaif::core::PreferencePair;
use rlaif::data::builtin::{self, Part};
use rlaif::data::corpora::Hh;
use rlaif::data::turns::{self, Speaker};
use rlaif::data::{Reader, Source};
use serde::Deserialize;

use crate::speech::{sentences, words};

/// Turns in order, beginning with the user's and ending with the assistant's.
pub(crate) type Dialogue = Vec<(Speaker, String)>;

/// A dialogue in HH's notation.
pub(crate) fn written(dialogue: &[(Speaker, String)]) -> String {
    dialogue.iter().map(|(speaker, text)| format!("{} {text}", speaker.marker())).collect()
}

/// A dialogue with a human-written summary.
pub(crate) struct Summarised {
    /// In HH's notation, or as transcribed.
    pub(crate) dialogue: String,
    /// The summary.
    pub(crate) summary: String,
}

/// One text of the toxicity data.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Labelled {
    /// The text.
    pub(crate) text: String,
    /// 1 for toxic or offensive, 0 for neither.
    pub(crate) label: u8,
    /// The source of the text.
    pub(crate) src: String,
}

/// All data, read once.
pub(crate) struct Corpora {
    /// HH's dialogues, and their openings that end with the assistant's turn.
    pub(crate) hh: Vec<Dialogue>,
    /// Chats of people, as long conversations.
    pub(crate) chats: Vec<Dialogue>,
    /// The training part of the dialogues written for this project, with their summaries.
    pub(crate) builtin: Vec<(Dialogue, String)>,
    /// Transcripts with summaries.
    pub(crate) transcripts: Vec<Summarised>,
    /// The toxicity data for training.
    pub(crate) toxicity: Vec<Labelled>,
    /// The toxicity data for validation.
    pub(crate) toxicity_val: Vec<Labelled>,
    /// Words that mark a sentence as toxic.
    pub(crate) lexicon: Lexicon,
    /// Insults of the built-in dialogues, to put into chats.
    pub(crate) own_insults: Vec<String>,
    /// Insults of the toxicity data, to put into chats.
    pub(crate) insults: Vec<String>,
}

impl Corpora {
    /// Reads the folder of data.
    pub(crate) fn read(folder: &Path) -> Result<Self, Box<dyn Error>> {
        let toxicity: Vec<Labelled> = lines(&folder.join("tox/train.jsonl"))?;
        let toxicity_val = lines(&folder.join("tox/val.jsonl"))?;
        let lexicon = Lexicon::learn(&toxicity);
        let builtin: Vec<_> = builtin::dialogues(Part::Train)
            .into_records()
            .into_iter()
            .filter_map(|record| Some((parsed(&record.dialogue)?, record.summary)))
            .collect();
        let own_insults = own_insults(&builtin, &lexicon);
        let insults = insults(&toxicity, &lexicon);
        Ok(Self {
            hh: hh(&folder.join("hh/train.jsonl"))?,
            chats: chats(&folder.join("pretrain"))?,
            transcripts: transcripts(&folder.join("summ/train.jsonl"))?,
            builtin,
            toxicity,
            toxicity_val,
            lexicon,
            own_insults,
            insults,
        })
    }
}

fn lines<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Vec<T>, Box<dyn Error>> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    text.lines()
        .enumerate()
        .map(|(n, line)| {
            serde_json::from_str(line)
                .map_err(|error| format!("{}:{}: {error}", path.display(), n + 1).into())
        })
        .collect()
}

fn parsed(dialogue: &str) -> Option<Dialogue> {
    let turns = turns::parse(dialogue).ok()?;
    let turns: Dialogue = turns.map(|turn| (turn.speaker, turn.text.trim().to_owned())).collect();
    let alternates = turns.iter().enumerate().all(|(at, (speaker, text))| {
        *speaker == [Speaker::Human, Speaker::Assistant][at % 2] && !text.is_empty()
    });
    (alternates && turns.len().is_multiple_of(2) && !turns.is_empty()).then_some(turns)
}

/// Both dialogues of each pair, and their openings.
fn hh(path: &Path) -> Result<Vec<Dialogue>, Box<dyn Error>> {
    let records = Reader::new(Source::file(path)?).dataset(Hh::default())?.into_records();
    let mut seen = HashSet::new();
    let mut dialogues = Vec::new();
    for record in records {
        let PreferencePair { prompt, chosen, rejected, .. } = &record.pair;
        for response in [chosen, rejected] {
            let Some(whole) = parsed(&[prompt.as_str(), response].concat()) else { continue };
            for end in (2..=whole.len()).step_by(2) {
                let opening = whole[..end].to_vec();
                if seen.insert(written(&opening)) {
                    dialogues.push(opening);
                }
            }
        }
    }
    Ok(dialogues)
}

/// Chats between two people, the first of whom becomes the user.
fn chats(folder: &Path) -> Result<Vec<Dialogue>, Box<dyn Error>> {
    let mut chats = Vec::new();
    for file in ["sgd.txt", "synthetic_persona_chat.txt", "taskmaster4.txt", "topical_chat.txt"] {
        let path = folder.join(file);
        let text =
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        for chat in text.split("\n\n") {
            let mut dialogue: Dialogue = Vec::new();
            for line in chat.lines() {
                let Some((_, said)) = line.split_once(": ") else { continue };
                let speaker = [Speaker::Human, Speaker::Assistant][dialogue.len() % 2];
                if !said.trim().is_empty() {
                    dialogue.push((speaker, said.trim().to_owned()));
                }
            }
            dialogue.truncate(dialogue.len() / 2 * 2);
            if dialogue.len() >= 2 {
                chats.push(dialogue);
            }
        }
    }
    Ok(chats)
}

fn transcripts(path: &Path) -> Result<Vec<Summarised>, Box<dyn Error>> {
    #[derive(Deserialize)]
    struct Row {
        dialogue: String,
        summary: String,
    }
    let rows: Vec<Row> = lines(path)?;
    Ok(rows
        .into_iter()
        .filter(|row| row.dialogue.len() <= 900 && words(&row.summary) <= 32)
        .map(|row| Summarised { dialogue: row.dialogue, summary: row.summary })
        .collect())
}

/// Words that mark a sentence as toxic, learned from the toxicity data.
pub(crate) struct Lexicon(HashSet<String>);

/// Mild insults of the built-in dialogues, which are rare in the data.
const MILD: [&str; 8] =
    ["dimwit", "dimwits", "useless", "rubbish", "pathetic", "clueless", "fool", "clown"];

impl Lexicon {
    /// Words that occur in at least a dozen texts, 17 in 20 of them toxic. Tweets are left out:
    /// their words depend more on the author than on the meaning.
    fn learn(rows: &[Labelled]) -> Self {
        let mut counts = HashMap::<String, (u32, u32)>::new();
        for row in rows.iter().filter(|row| row.src != "davidson" && row.src != "jigsaw-templates")
        {
            let distinct: HashSet<String> = tokens(&row.text).collect();
            for word in distinct.into_iter().filter(|word| word.len() > 2) {
                let (all, toxic) = counts.entry(word).or_default();
                *all += 1;
                *toxic += u32::from(row.label);
            }
        }
        let learnt = counts
            .into_iter()
            .filter(|(_, (all, toxic))| *all >= 12 && toxic * 20 >= all * 17)
            .map(|(word, _)| word);
        Self(learnt.chain(MILD.map(str::to_owned)).collect())
    }

    /// `true` if a sentence contains such a word.
    pub(crate) fn marks(&self, text: &str) -> bool {
        tokens(text).any(|word| self.0.contains(&word))
    }
}

fn tokens(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'')
        .map(|word| word.trim_matches('\'').to_lowercase())
        .filter(|word| !word.is_empty())
}

/// Slurs about groups are for the classifiers to recognise; no summary repeats them.
const NOT_TO_REPEAT: [&str; 22] = [
    "nig", "fag", "retard", "cunt", "dyke", "coon", "beaner", "jew", "muslim", "black", "white",
    "gay", "rape", "whore", "slut", "trann", "hoe", "bitch", "tard", "dick", "pussy", "cock",
];

fn own_insults(builtin: &[(Dialogue, String)], lexicon: &Lexicon) -> Vec<String> {
    let said =
        builtin.iter().flat_map(|(dialogue, _)| dialogue).flat_map(|(_, text)| sentences(text));
    let rude: BTreeSet<&str> = said.filter(|sentence| lexicon.marks(sentence)).collect();
    rude.into_iter().map(str::to_owned).collect()
}

fn insults(toxicity: &[Labelled], lexicon: &Lexicon) -> Vec<String> {
    toxicity
        .iter()
        .filter(|row| row.label == 1 && matches!(row.src.as_str(), "paradetox" | "surge"))
        .map(|row| {
            row.text
                .replace(" '", "'")
                .replace(" ,", ",")
                .replace(" .", ".")
                .replace(" !", "!")
                .replace(" ?", "?")
        })
        .filter(|text| {
            let lower = text.to_lowercase();
            (3..=10).contains(&words(text))
                && text.is_ascii()
                && !text.contains(['@', '#', '/', '*', '"', '-', '&', ':'])
                && lexicon.marks(text)
                && !NOT_TO_REPEAT.iter().any(|stem| lower.contains(stem))
        })
        .map(|text| {
            let text = crate::speech::capital(text.trim());
            if text.ends_with(['.', '!', '?']) { text } else { format!("{text}.") }
        })
        .collect()
}
