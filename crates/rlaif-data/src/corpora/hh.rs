//! Anthropic's HH preferences (Bai et al. 2022, arXiv 2204.05862): pairs of dialogues with
//! different endings. <https://huggingface.co/datasets/Anthropic/hh-rlhf>

use std::ops::RangeInclusive;

use rlaif_core::{Conversation, PreferencePair, Record};

use super::{Corpus, Outcome};
use crate::error::DataError;
use crate::row::{Row, content_id};
use crate::turns::{self, DialogueProblem, Speaker};

/// The range of dialogue lengths, in characters, for the summarisation pipeline.
pub const DIALOGUE_CHARACTERS: RangeInclusive<usize> = 101..=500;

const EARLIER: &str = "the dialogues part before the last turn";
const SAME: &str = "chosen and rejected are the same";

/// The point at which the two dialogues of a pair diverge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DivergencePoint {
    /// In the last turn: both responses are one turn.
    LastTurn,
    /// Before the last turn: at least one response holds further turns, with their markers.
    Earlier,
}

/// Treatment of pairs that diverge before the last turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EarlierDivergence {
    /// The pairs are kept and counted.
    #[default]
    Keep,
    /// The pairs are left out and counted.
    Drop,
}

/// HH's preference pairs.
///
/// Rows hold either the two whole dialogues, as published (`chosen`, `rejected`), or the common
/// `prompt` and the two responses. A response without white space in front, after a prompt without
/// white space at its end, gets the space that the published dialogues have there. `subset` and `id`
/// are optional.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hh {
    /// Treatment of pairs that diverge before the last turn.
    pub earlier: EarlierDivergence,
}

/// One pair of HH.
#[derive(Debug, Clone, PartialEq)]
pub struct HhRecord {
    /// The prompt, which ends in `"\n\nAssistant:"`, and the two responses, which begin with the
    /// following space.
    pub pair: PreferencePair,
    /// The subset of HH that the row belongs to, where the file names it.
    pub subset: Option<String>,
    /// The point at which the two dialogues diverge.
    pub divergence: DivergencePoint,
}

impl HhRecord {
    /// The preferred dialogue, exactly as in the file.
    pub fn dialogue(&self) -> String {
        [self.pair.prompt.as_str(), &self.pair.chosen].concat()
    }

    /// Length of [`HhRecord::dialogue`] in Unicode characters.
    pub fn characters(&self) -> usize {
        self.pair.prompt.chars().count() + self.pair.chosen.chars().count()
    }

    /// The first turn of the dialogue. Dialogues that share it are variants of one another, and
    /// belong on one side of a split.
    pub fn first_turn(&self) -> &str {
        turns::parse(&self.pair.prompt)
            .ok()
            .and_then(|mut turns| turns.next())
            .map_or(&self.pair.prompt, |turn| turn.text.trim())
    }

    /// The preferred dialogue in turns.
    pub fn conversation(&self) -> Conversation {
        let dialogue = self.dialogue();
        let messages = turns::parse(&dialogue)
            .map(|turns| turns.map(|turn| turn.message()).collect())
            .unwrap_or_default();
        Conversation { id: self.pair.id.clone(), messages }
    }
}

impl Record for HhRecord {
    fn id(&self) -> &str {
        &self.pair.id
    }
}

impl Corpus for Hh {
    type Record = HhRecord;

    fn name(&self) -> String {
        "HH preference pairs".to_owned()
    }

    fn record(&self, mut row: Row<'_>) -> Result<Outcome<HhRecord>, DataError> {
        let subset = row.optional_text("subset")?;
        let given_prompt = row.optional_text("prompt")?;
        let chosen = row.text("chosen")?;
        let rejected = row.text("rejected")?;
        let (prompt, chosen, rejected) = match given_prompt {
            Some(prompt) => {
                let (chosen, rejected) = (spaced(&prompt, chosen), spaced(&prompt, rejected));
                (prompt, chosen, rejected)
            }
            None => {
                // Each column is searched for the first marker, so that the error names the right
                // one.
                for (column, text) in [("chosen", &chosen), ("rejected", &rejected)] {
                    turns::parse(text).map_err(|problem| not_a_dialogue(&row, column, problem))?;
                }
                let at = end_of_prompt(&chosen, &rejected).ok_or_else(|| {
                    not_a_dialogue(&row, "rejected", DialogueProblem::NothingInCommon)
                })?;
                (chosen[..at].to_owned(), chosen[at..].to_owned(), rejected[at..].to_owned())
            }
        };
        turns::parse(&prompt).map_err(|problem| not_a_dialogue(&row, "prompt", problem))?;
        let content = [prompt.as_str(), &chosen, &rejected];
        let id =
            if row.has("id") { row.identity(Some("id"), &content)? } else { content_id(&content) };
        let further = |response: &str| {
            [Speaker::Human, Speaker::Assistant]
                .into_iter()
                .any(|speaker| turns::end_of_last_marker(response, speaker).is_some())
        };
        let divergence = if further(&chosen) || further(&rejected) {
            DivergencePoint::Earlier
        } else {
            DivergencePoint::LastTurn
        };
        let same = chosen == rejected;
        let pair = PreferencePair::new(id, prompt, chosen, rejected);
        let record = HhRecord { pair, subset, divergence };
        Ok(match (divergence, self.earlier) {
            (DivergencePoint::Earlier, EarlierDivergence::Drop) => Outcome::Dropped(EARLIER),
            (DivergencePoint::Earlier, EarlierDivergence::Keep) => Outcome::Noted(record, EARLIER),
            (DivergencePoint::LastTurn, _) if same => Outcome::Noted(record, SAME),
            (DivergencePoint::LastTurn, _) => Outcome::Kept(record),
        })
    }
}

fn not_a_dialogue(row: &Row<'_>, column: &'static str, problem: DialogueProblem) -> DataError {
    DataError::Dialogue {
        source_name: row.source_name().to_owned(),
        line: row.line(),
        column,
        problem,
    }
}

/// A response as it follows this prompt, with a space in front where neither has white space.
pub(crate) fn spaced(prompt: &str, response: String) -> String {
    if prompt.ends_with(char::is_whitespace) || response.starts_with(char::is_whitespace) {
        response
    } else {
        format!(" {response}")
    }
}

/// The end of the last assistant's marker that both dialogues have in common.
pub(crate) fn end_of_prompt(chosen: &str, rejected: &str) -> Option<usize> {
    let common = chosen.bytes().zip(rejected.bytes()).take_while(|(a, b)| a == b).count();
    turns::end_of_last_marker(&chosen[..chosen.floor_char_boundary(common)], Speaker::Assistant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Columns, Place};
    use proptest::prelude::*;
    use serde_json::Value;

    fn read(columns: &[(&'static str, &str)]) -> Result<Outcome<HhRecord>, DataError> {
        let columns =
            columns.iter().map(|(name, text)| ((*name).into(), Value::from(*text))).collect();
        let place = Place { source_name: "hh.jsonl", line: 1 };
        Hh::default().record(Row::new(place, Columns(columns)))
    }

    fn kept(outcome: Outcome<HhRecord>) -> HhRecord {
        match outcome {
            Outcome::Kept(record) | Outcome::Noted(record, _) => record,
            Outcome::Dropped(reason) => panic!("dropped: {reason}"),
        }
    }

    #[test]
    fn the_common_beginning_is_the_prompt_and_the_endings_are_the_responses() {
        let record = kept(
            read(&[
                ("chosen", "\n\nHuman: Hi\n\nAssistant: Yes, hello"),
                ("rejected", "\n\nHuman: Hi\n\nAssistant: Yes, what"),
            ])
            .unwrap(),
        );
        assert_eq!(record.pair.prompt, "\n\nHuman: Hi\n\nAssistant:");
        assert_eq!(record.pair.chosen, " Yes, hello");
        assert_eq!(record.pair.rejected, " Yes, what");
        assert_eq!(record.divergence, DivergencePoint::LastTurn);
        assert_eq!(record.first_turn(), "Hi");
        assert_eq!(record.conversation().messages.len(), 2);
    }

    #[test]
    fn dialogues_that_part_earlier_are_kept_whole_and_noted() {
        let chosen = "\n\nHuman: Hi\n\nAssistant: A\n\nHuman: B\n\nAssistant: C";
        let rejected = "\n\nHuman: Hi\n\nAssistant: A\n\nHuman: D\n\nAssistant: E";
        let outcome = read(&[("chosen", chosen), ("rejected", rejected)]).unwrap();
        assert!(matches!(outcome, Outcome::Noted(_, EARLIER)));
        let record = kept(outcome);
        assert_eq!(record.pair.chosen, " A\n\nHuman: B\n\nAssistant: C");
        assert_eq!(record.dialogue(), chosen);
        assert_eq!([record.pair.prompt, record.pair.rejected].concat(), rejected);
    }

    #[test]
    fn they_are_left_out_if_asked() {
        let place = Place { source_name: "hh.jsonl", line: 1 };
        let columns = Columns(vec![
            ("chosen".into(), "\n\nHuman: Hi\n\nAssistant: A\n\nHuman: B".into()),
            ("rejected".into(), "\n\nHuman: Hi\n\nAssistant: C".into()),
        ]);
        let corpus = Hh { earlier: EarlierDivergence::Drop };
        assert_eq!(corpus.record(Row::new(place, columns)).unwrap(), Outcome::Dropped(EARLIER));
    }

    #[test]
    fn identical_dialogues_are_noted() {
        let same = "\n\nHuman: Hi\n\nAssistant: A";
        let outcome = read(&[("chosen", same), ("rejected", same)]).unwrap();
        assert!(matches!(outcome, Outcome::Noted(_, SAME)));
    }

    #[test]
    fn both_ways_to_write_a_row_give_the_same_record() {
        let whole = read(&[
            ("chosen", "\n\nHuman: Hi\n\nAssistant: Yes"),
            ("rejected", "\n\nHuman: Hi\n\nAssistant: No"),
        ]);
        let apart = read(&[
            ("prompt", "\n\nHuman: Hi\n\nAssistant:"),
            ("chosen", "Yes"),
            ("rejected", "No"),
        ]);
        let whole = kept(whole.unwrap());
        assert_eq!(whole, kept(apart.unwrap()));
        // As Dahoas/full-hh-rlhf has them: one space, not two.
        for (prompt, chosen) in [("Assistant:", " Yes"), ("Assistant: ", "Yes")] {
            let prompt = format!("\n\nHuman: Hi\n\n{prompt}");
            let row = [("prompt", &*prompt), ("chosen", chosen), ("rejected", " No")];
            assert_eq!(kept(read(&row).unwrap()).dialogue(), whole.dialogue());
        }
    }

    #[test]
    fn an_id_in_the_file_is_the_id() {
        let row = [
            ("id", "row-7"),
            ("chosen", "\n\nHuman: Hi\n\nAssistant: Yes"),
            ("rejected", "\n\nHuman: Hi\n\nAssistant: No"),
        ];
        assert_eq!(kept(read(&row).unwrap()).id(), "row-7");
    }

    #[test]
    fn texts_that_are_no_dialogues_are_refused_with_the_column() {
        let error = read(&[("chosen", "Hi"), ("rejected", "Ho")]).unwrap_err().to_string();
        assert!(error.starts_with("hh.jsonl, line 1: `chosen` is not a dialogue"), "{error}");
        let error = read(&[
            ("chosen", "\n\nHuman: a\n\nAssistant: b"),
            ("rejected", "\n\nHuman: c\n\nAssistant: d"),
        ]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("`rejected` shares no beginning"), "{error}");
    }

    proptest! {
        #[test]
        fn prompt_and_response_put_together_are_the_source(
            common in "( \u{e9}|\n\nHuman:|\n\nAssistant:|x){0,8}",
            left in "( \u{e8}|\n\nHuman:|\n\nAssistant:|y){0,4}",
            right in "( \u{e9}|\n\nHuman:|\n\nAssistant:|z){0,4}",
        ) {
            let chosen = format!("\n\nHuman: q\n\nAssistant:{common}{left}");
            let rejected = format!("\n\nHuman: q\n\nAssistant:{common}{right}");
            let record = kept(read(&[("chosen", &chosen), ("rejected", &rejected)]).unwrap());
            prop_assert!(record.pair.prompt.ends_with("\n\nAssistant:"));
            prop_assert_eq!(record.dialogue(), chosen);
            prop_assert_eq!([record.pair.prompt, record.pair.rejected].concat(), rejected);
        }
    }
}
