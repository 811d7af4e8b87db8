//! Records of a study, and of its answers.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    answer::{PeopleAnswer, PeopleDraft},
    item::StudyItem,
    settings::StudySettings,
};

/// Tasks of an annotator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnnotatorRole {
    /// A person who answers items.
    Annotator,
    /// A person who decides items on which annotators disagree.
    Referee,
    /// A model, or an import from another tool: it has answers and no page.
    Judge,
}

impl AnnotatorRole {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Annotator => "annotator",
            Self::Referee => "referee",
            Self::Judge => "judge",
        }
    }

    pub(super) fn of(name: &str) -> Self {
        match name {
            "referee" => Self::Referee,
            "judge" => Self::Judge,
            _ => Self::Annotator,
        }
    }
}

/// One who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Annotator {
    /// The number in the study, from 1.
    pub number: i64,
    /// The name.
    pub name: String,
    /// The task.
    pub role: AnnotatorRole,
    /// The secret in the annotator's link. A judge has none.
    #[serde(skip)]
    pub token: Option<String>,
}

/// An item as one annotator sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownItem {
    /// The number in the study, from 1.
    pub number: i64,
    /// The item.
    pub item: StudyItem,
    /// The order of its responses: `order[n]` is the place of the n-th shown one.
    pub order: Vec<usize>,
    /// The unfinished answer that the page has saved.
    pub draft: Option<PeopleDraft>,
}

/// Counts of an annotator's items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StudyProgress {
    /// Items answered, skipped ones included.
    pub done: i64,
    /// Items that are left for this annotator.
    pub left: i64,
}

/// An answer in the study.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredAnswer {
    /// The annotator's number.
    pub annotator: i64,
    /// The item's number.
    pub item: i64,
    /// The answer, with places in the study.
    pub answer: PeopleAnswer,
    /// The order in which the responses were shown; empty for imports.
    pub order: Vec<usize>,
    /// The time of the answer, in milliseconds since 1970.
    pub at_ms: i64,
}

/// Everything that a study has.
#[derive(Debug, Clone, PartialEq)]
pub struct StudyContents {
    /// The settings.
    pub settings: StudySettings,
    /// The items with their numbers, in the order of import.
    pub items: Vec<(i64, StudyItem)>,
    /// The annotators.
    pub annotators: Vec<Annotator>,
    /// The answers in force, in the order of time.
    pub answers: Vec<StoredAnswer>,
    /// Open conflicts: numbers of the items on which annotators disagree, by their choice or by their ranking, and
    /// on which no referee has decided. Skipped items have no verdict.
    pub conflicts: BTreeSet<i64>,
}

/// An answer of a file, with places in the study.
#[derive(Debug)]
pub(crate) struct ImportedAnswer {
    /// The annotator's number.
    pub(crate) annotator: i64,
    /// The item's id.
    pub(crate) item: String,
    pub(crate) answer: PeopleAnswer,
    /// The order in which the responses were shown, if known.
    pub(crate) order: Vec<usize>,
    /// The time of the answer, if known.
    pub(crate) at_ms: Option<i64>,
}

/// Counts of items by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddedItems {
    /// New items.
    pub added: usize,
    /// Items that were in the study already.
    pub equal: usize,
}
