//! Answers of other tools and of judges, added to a study.

use std::collections::BTreeMap;

use crate::{
    answer::PeopleAnswer,
    error::PeopleError,
    forms::ReadAnswers,
    item::StudyItem,
    store::{AnnotatorRole, Study},
};

/// Counts of answers that were added to a study.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MergedAnswers {
    /// Items that the study did not have.
    pub items: usize,
    /// Answers.
    pub answers: usize,
    /// Answers of judges to items that the study does not have; they are left out.
    pub unmatched: usize,
}

/// A study's item as other tools show it: its texts, sorted.
fn texts(item: &StudyItem) -> (String, Vec<&str>) {
    let mut responses: Vec<&str> = item.responses.iter().map(|reply| reply.text.as_str()).collect();
    responses.sort_unstable();
    (item.prompt.readable(), responses)
}

/// For each response of `read` its place in `item`; `None` if they have different texts.
fn places(read: &StudyItem, item: &StudyItem) -> Option<Vec<usize>> {
    let place = |text: &str| item.responses.iter().position(|reply| reply.text == text);
    let places: Vec<usize> =
        read.responses.iter().map(|reply| place(&reply.text)).collect::<Option<_>>()?;
    let same =
        places.len() == item.responses.len() && read.prompt.readable() == item.prompt.readable();
    same.then_some(places)
}

impl Study {
    /// Adds answers of a file, and the items of people's answers that the study does not have. Items are
    /// found by their texts, in any order of responses. An answer to an item that its annotator has
    /// answered replaces the earlier one.
    ///
    /// `name` and `role`, if given, take the place of those in the file.
    ///
    /// # Errors
    /// [`PeopleError::OtherItem`] for an id that has other texts in the study, and the errors of
    /// [`Study::add_items`], [`Study::add_annotator`] and [`Study::import_answers`].
    pub fn merge(
        &self,
        read: &ReadAnswers,
        name: Option<&str>,
        role: Option<AnnotatorRole>,
    ) -> Result<MergedAnswers, PeopleError> {
        let contents = self.contents()?;
        let mut by_texts: BTreeMap<(String, Vec<&str>), &StudyItem> = BTreeMap::new();
        for (_, item) in &contents.items {
            by_texts.entry(texts(item)).or_insert(item);
        }
        let mut merged = MergedAnswers::default();
        let mut own: BTreeMap<(String, AnnotatorRole), Vec<(String, PeopleAnswer)>> =
            BTreeMap::new();
        let read_items: BTreeMap<&str, &StudyItem> =
            read.items.iter().map(|item| (item.id.as_str(), item)).collect();
        let mut fresh: BTreeMap<&str, &StudyItem> = BTreeMap::new();
        for one in &read.answers {
            let Some(item) = read_items.get(one.item.as_str()) else {
                return Err(PeopleError::NoItem { id: format!("`{}`", one.item) });
            };
            let role = role.unwrap_or(one.role);
            let known = by_texts.get(&texts(item));
            let (id, answer) = match known.and_then(|known| Some((known, places(item, known)?))) {
                Some((known, places)) => (&known.id, one.answer.clone().in_study_order(&places)),
                None if role == AnnotatorRole::Judge => {
                    merged.unmatched += 1;
                    continue;
                }
                None => {
                    fresh.insert(&item.id, item);
                    (&item.id, one.answer.clone())
                }
            };
            let name = name.unwrap_or(&one.annotator).to_owned();
            own.entry((name, role)).or_default().push((id.clone(), answer));
            merged.answers += 1;
        }
        let fresh: Vec<StudyItem> = fresh.into_values().cloned().collect();
        merged.items = self.add_items(&fresh)?.added;
        for ((name, role), answers) in own {
            let who = self.add_annotator(&name, role)?;
            self.import_answers(&who, &answers)?;
        }
        Ok(merged)
    }
}
