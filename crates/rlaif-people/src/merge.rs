//! Answers of other tools and of judges, added to a study.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::PeopleError,
    forms::{ReadAnswer, ReadAnswers},
    item::StudyItem,
    store::{AnnotatorRole, ImportedAnswer, Study, StudyContents},
};

/// Counts of answers that were added to a study.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MergedAnswers {
    /// Items that the study did not have.
    pub items: usize,
    /// Answers.
    pub answers: usize,
    /// Answers of judges, and of labels, to items that the study does not have; they are left out.
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
    /// Adds answers of a file, and the items that the study does not have. Items are found by their texts, in any
    /// order of responses. An answer to an item that its annotator has answered replaces the earlier one. Answers
    /// keep the times and the orders that the file has.
    ///
    /// A judge's answers do not add items, if the file has labels or `role` is the judge's.
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
        let matched = Matches::of(&contents).of_items(read);
        let mut merged = MergedAnswers::default();
        let mut fresh: BTreeSet<&str> = BTreeSet::new();
        let mut given: Vec<&ReadAnswer> = Vec::new();
        for one in &read.answers {
            let Some(known) = matched.get(one.item.as_str()) else {
                return Err(PeopleError::NoItem { id: format!("`{}`", one.item) });
            };
            let is_judges = role.unwrap_or(one.role) == AnnotatorRole::Judge;
            let is_label = role.is_some() || read.labelled.contains(&one.item);
            if known.is_none() && is_judges && is_label {
                merged.unmatched += 1;
                continue;
            }
            if known.is_none() {
                fresh.insert(&one.item);
            }
            given.push(one);
        }
        let answered: BTreeSet<&str> = read.answers.iter().map(|one| one.item.as_str()).collect();
        let is_fresh = |item: &&StudyItem| {
            let id = item.id.as_str();
            let alone = !answered.contains(id) && matched[id].is_none();
            fresh.contains(id) || (alone && role != Some(AnnotatorRole::Judge))
        };
        let items: Vec<StudyItem> = read.items.iter().filter(is_fresh).cloned().collect();
        merged.items = self.add_items(&items)?.added;
        let mut people: BTreeMap<(&str, AnnotatorRole), i64> = BTreeMap::new();
        let mut answers = Vec::new();
        for one in given {
            let who = (name.unwrap_or(&one.annotator), role.unwrap_or(one.role));
            let annotator = match people.get(&who) {
                Some(number) => *number,
                None => *people.entry(who).or_insert(self.add_annotator(who.0, who.1)?.number),
            };
            let (item, places) = match &matched[one.item.as_str()] {
                Some((known, places)) => (known.id.clone(), places.clone()),
                None => (one.item.clone(), Vec::new()),
            };
            let of_file = |place: &usize| places.get(*place).copied().unwrap_or(*place);
            answers.push(ImportedAnswer {
                annotator,
                item,
                order: one.order.iter().map(of_file).collect(),
                answer: one.answer.clone().in_study_order(&places),
                at_ms: one.at_ms,
            });
        }
        merged.answers = answers.len();
        self.import(answers)?;
        Ok(merged)
    }
}

/// The items of a study by id and by texts.
struct Matches<'a> {
    by_id: BTreeMap<&'a str, &'a StudyItem>,
    by_texts: BTreeMap<(String, Vec<&'a str>), &'a StudyItem>,
}

impl<'a> Matches<'a> {
    fn of(contents: &'a StudyContents) -> Self {
        let mut found = Self { by_id: BTreeMap::new(), by_texts: BTreeMap::new() };
        for (_, item) in &contents.items {
            found.by_texts.entry(texts(item)).or_insert(item);
            found.by_id.insert(&item.id, item);
        }
        found
    }

    /// For each item of a file, by its id, the study's item and the places of its responses there.
    fn of_items<'b>(
        &self,
        read: &'b ReadAnswers,
    ) -> BTreeMap<&'b str, Option<(&'a StudyItem, Vec<usize>)>> {
        let matched = |item: &'b StudyItem| {
            let same = |own: &&'a StudyItem| Some((*own, places(item, own)?));
            // Items of different ids may have equal texts.
            let by_id = self.by_id.get(item.id.as_str()).and_then(same);
            by_id.or_else(|| self.by_texts.get(&texts(item)).and_then(same))
        };
        read.items.iter().map(|item| (item.id.as_str(), matched(item))).collect()
    }
}
