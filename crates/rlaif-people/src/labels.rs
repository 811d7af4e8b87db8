//! Votes of people as soft labels.

use std::collections::{BTreeMap, BTreeSet};

use rlaif_core::{BadSetting, TextOrMessages, Ties};
use serde::Serialize;

use crate::{
    answer::PeopleChoice,
    item::StudyItem,
    store::{Annotator, AnnotatorRole, StoredAnswer, StudyContents},
};

/// One vote on a pair of responses.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Vote {
    /// 1 for the first response, 0 for the second, ½ for neither.
    pub(crate) for_first: f64,
    /// The annotator.
    pub(crate) annotator: i64,
    /// The strength, positive for the first response.
    pub(crate) strength: Option<i8>,
    /// Votes by facet.
    pub(crate) facets: BTreeMap<String, f64>,
    pub(crate) both_bad: bool,
    pub(crate) note: String,
}

/// An item with the places of two of its responses.
pub(crate) type PairOfItem = (i64, usize, usize);

/// The votes of people on each pair of responses, annotators in `without` left out. A referee's vote stands
/// alone.
pub(crate) fn votes_of_people(
    study: &StudyContents,
    without: &BTreeSet<i64>,
) -> BTreeMap<PairOfItem, Vec<Vote>> {
    let role: BTreeMap<i64, AnnotatorRole> =
        study.annotators.iter().map(|who| (who.number, who.role)).collect();
    let decided: BTreeSet<i64> = study
        .answers
        .iter()
        .filter(|stored| role.get(&stored.annotator) == Some(&AnnotatorRole::Referee))
        .filter(|stored| stored.answer.choice != PeopleChoice::Skip)
        .map(|stored| stored.item)
        .collect();
    let mut votes: BTreeMap<PairOfItem, Vec<Vote>> = BTreeMap::new();
    for stored in &study.answers {
        let counts = match role.get(&stored.annotator) {
            Some(AnnotatorRole::Referee) => true,
            Some(AnnotatorRole::Annotator) => !decided.contains(&stored.item),
            Some(AnnotatorRole::Judge) | None => false,
        };
        if !counts || without.contains(&stored.annotator) {
            continue;
        }
        let answer = &stored.answer;
        for (one, other, for_first) in answer.votes() {
            let facets = answer.facets.iter();
            votes.entry((stored.item, one, other)).or_default().push(Vote {
                for_first,
                annotator: stored.annotator,
                strength: answer.strength.map(|strength| -strength),
                facets: facets.filter_map(|(name, c)| Some((name.clone(), c.vote()?))).collect(),
                both_bad: answer.choice == PeopleChoice::BothBad,
                note: answer.note.clone(),
            });
        }
    }
    votes
}

/// Choices of what becomes a label.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LabelOptions {
    /// Treatment of pairs with as many votes for one response as for the other.
    pub ties: Ties,
    /// The least share of right answers to items with known answers; annotators below it are left out.
    pub least_known: Option<f64>,
    /// Treatment of items with known answers.
    pub known: KnownItems,
}

/// Treatment of items with known answers, which are there to measure annotators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KnownItems {
    /// No label.
    #[default]
    Drop,
    /// Labels as for other items.
    Keep,
}

impl LabelOptions {
    /// Checks that the least share of right answers is a share.
    ///
    /// # Errors
    /// The field with its value.
    ///
    /// ```
    /// use rlaif_people::LabelOptions;
    /// let options = LabelOptions { least_known: Some(7.), ..LabelOptions::default() };
    /// assert_eq!(options.check().unwrap_err().field, "least_known");
    /// ```
    pub fn check(&self) -> Result<(), BadSetting> {
        match self.least_known.filter(|share| !(0. ..=1.).contains(share)) {
            Some(share) => Err(BadSetting::new("least_known", share, "a share from 0 to 1")),
            None => Ok(()),
        }
    }
}

/// A preference pair with the share of votes as its soft label, in the columns of `rlaif label`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PeopleLabel {
    /// The item's id; of items of three or more responses with the places of the two.
    pub id: String,
    /// The prompt.
    pub prompt: TextOrMessages,
    /// The preferred response.
    pub chosen: TextOrMessages,
    /// The other response.
    pub rejected: TextOrMessages,
    /// Share of votes for the preferred response; ties count half.
    pub probability: f64,
    /// By how much it is more probable than the other.
    pub margin: f64,
    /// Mean strength from 0 to 3, where annotators state it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// Share of votes by facet.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub facets: BTreeMap<String, f64>,
    /// Number of votes.
    pub votes: usize,
    /// Annotators, in the order of their votes.
    pub annotators: Vec<String>,
    /// Origin of the label.
    pub labeller: &'static str,
    /// The preferred response's maker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen_maker: Option<String>,
    /// The other response's maker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected_maker: Option<String>,
    /// Notes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A prompt with a response that an annotator has edited.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PeopleDemonstration {
    /// The item's id and the annotator's number.
    pub id: String,
    /// The prompt.
    pub prompt: TextOrMessages,
    /// The edited response.
    pub response: String,
    /// The annotator.
    pub annotator: String,
}

/// Labels of a study, and the pairs without one.
#[derive(Debug, Clone, PartialEq)]
pub struct PeopleLabels {
    /// The labels, in the order of items.
    pub labels: Vec<PeopleLabel>,
    /// Items and pairs that have none, with the reason.
    pub dropped: Vec<(String, &'static str)>,
    /// Annotators left out because of their answers to items with known answers.
    pub left_out: Vec<String>,
}

impl PeopleLabels {
    /// The labels of a study.
    ///
    /// ```
    /// use rlaif_people::{AnnotatorRole, LabelOptions, PeopleAnswer, PeopleChoice, PeopleLabels, Study};
    /// use rlaif_people::{StudyItem, StudySettings};
    /// # let folder = tempfile::tempdir()?;
    /// let settings = StudySettings { overlap: 1., ..StudySettings::default() };
    /// let study = Study::create(&folder.path().join("people.sqlite"), &settings)?;
    /// study.add_items(&[StudyItem::pair("7", "Why?", "Because.", "No.")])?;
    /// for (name, choice) in [("ann", PeopleChoice::First), ("bob", PeopleChoice::First), ("cy", PeopleChoice::Tie)] {
    ///     let who = study.add_annotator(name, AnnotatorRole::Judge)?;
    ///     study.import_answers(&who, &[("7".to_owned(), PeopleAnswer::new(choice))])?;
    /// }
    /// // Judges are not people.
    /// assert!(PeopleLabels::of(&study.contents()?, &LabelOptions::default()).labels.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of(study: &StudyContents, options: &LabelOptions) -> Self {
        let out = below(study, options.least_known);
        let votes = votes_of_people(study, &out.iter().map(|who| who.number).collect());
        let names: BTreeMap<i64, &str> =
            study.annotators.iter().map(|who| (who.number, who.name.as_str())).collect();
        let mut found = Self {
            labels: Vec::new(),
            dropped: Vec::new(),
            left_out: out.iter().map(|who| who.name.clone()).collect(),
        };
        let answered: BTreeSet<i64> = study.answers.iter().map(|stored| stored.item).collect();
        for (number, item) in &study.items {
            if item.known.is_some() && options.known == KnownItems::Drop {
                found.dropped.push((item.id.clone(), "its answer is known"));
                continue;
            }
            let pairs: Vec<_> =
                votes.range((*number, 0, 0)..=(*number, usize::MAX, usize::MAX)).collect();
            if pairs.is_empty() {
                let why = match answered.contains(number) {
                    true => {
                        "skipped, or answered only by judges or by annotators that are left out"
                    }
                    false => "no answer",
                };
                found.dropped.push((item.id.clone(), why));
            }
            for ((_, one, other), votes) in pairs {
                match label(item, (*one, *other), votes, &names, options.ties) {
                    Ok(label) => found.labels.push(label),
                    Err(why) => found.dropped.push((pair_id(item, *one, *other), why)),
                }
            }
        }
        found
    }
}

impl PeopleLabels {
    /// Sentences for a log: labels and votes, what has no label by reason, and annotators that are left out.
    pub fn sentences(&self) -> Vec<String> {
        let votes: usize = self.labels.iter().map(|label| label.votes).sum();
        let mut said = vec![format!("{} labels of {votes} votes", self.labels.len())];
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, why) in &self.dropped {
            *reasons.entry(why).or_default() += 1;
        }
        said.extend(reasons.iter().map(|(why, count)| format!("{count} without a label: {why}")));
        if !self.left_out.is_empty() {
            said.push(format!("annotators left out: {}", self.left_out.join(", ")));
        }
        said
    }
}

fn pair_id(item: &StudyItem, one: usize, other: usize) -> String {
    match item.responses.len() {
        2 => item.id.clone(),
        _ => format!("{}/{one}-{other}", item.id),
    }
}

fn label(
    item: &StudyItem,
    (one, other): (usize, usize),
    votes: &[Vote],
    names: &BTreeMap<i64, &str>,
    ties: Ties,
) -> Result<PeopleLabel, &'static str> {
    let n = votes.len() as f64;
    let first = votes.iter().map(|vote| vote.for_first).sum::<f64>() / n;
    if first == 0.5 && ties == Ties::Drop {
        return Err(match votes.iter().all(|vote| vote.both_bad) {
            true => "both responses are bad",
            false => "a tie",
        });
    }
    let (chosen, rejected) = if first >= 0.5 { (one, other) } else { (other, one) };
    let of_chosen = |value: f64| if chosen == one { value } else { 1. - value };
    let (Some(better), Some(worse)) = (item.responses.get(chosen), item.responses.get(rejected))
    else {
        return Err("a response that the item does not have");
    };
    let strengths: Vec<f64> =
        votes.iter().filter_map(|vote| vote.strength).map(f64::from).collect();
    let sign = if chosen == one { 1. } else { -1. };
    let mut facets: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for (name, vote) in votes.iter().flat_map(|vote| &vote.facets) {
        let (sum, count) = facets.entry(name.clone()).or_default();
        *sum += of_chosen(*vote);
        *count += 1.;
    }
    let probability = of_chosen(first);
    Ok(PeopleLabel {
        id: pair_id(item, one, other),
        prompt: item.prompt.clone(),
        chosen: better.clone().into(),
        rejected: worse.clone().into(),
        probability,
        margin: 2. * probability - 1.,
        strength: (!strengths.is_empty())
            .then(|| sign * strengths.iter().sum::<f64>() / strengths.len() as f64),
        facets: facets.into_iter().map(|(name, (sum, count))| (name, sum / count)).collect(),
        votes: votes.len(),
        annotators: votes
            .iter()
            .map(|vote| names.get(&vote.annotator).copied().unwrap_or_default().to_owned())
            .collect(),
        labeller: "people",
        chosen_maker: better.maker.clone(),
        rejected_maker: worse.maker.clone(),
        notes: votes.iter().filter(|v| !v.note.is_empty()).map(|v| v.note.clone()).collect(),
    })
}

impl StudyContents {
    /// Content that preferences have no column for, with counts, in a sentence; `None` without any.
    pub fn beside_preferences(&self) -> Option<String> {
        let count = |holds: fn(&StoredAnswer) -> bool| {
            self.answers.iter().filter(|stored| holds(stored)).count()
        };
        let counts = [
            ("edited responses", count(|stored| stored.answer.edited.is_some()), "demonstrations"),
            ("answers with reasons", count(|stored| !stored.answer.reasons.is_empty()), "answers"),
        ];
        let counts = counts.iter().filter(|(_, count, _)| *count > 0);
        let counts: Vec<String> = counts
            .map(|(what, count, form)| format!("{what}: {count} (format `{form}`)"))
            .collect();
        (!counts.is_empty()).then(|| format!("not in preferences: {}", counts.join("; ")))
    }

    /// Prompts with the responses that people have made better, for supervised fine-tuning.
    pub fn demonstrations(&self) -> Vec<PeopleDemonstration> {
        let items: BTreeMap<i64, &StudyItem> =
            self.items.iter().map(|(number, item)| (*number, item)).collect();
        let names: BTreeMap<i64, &str> =
            self.annotators.iter().map(|who| (who.number, who.name.as_str())).collect();
        let row = |stored: &StoredAnswer| {
            let item = items.get(&stored.item)?;
            Some(PeopleDemonstration {
                id: format!("{}/{}", item.id, stored.annotator),
                prompt: item.prompt.clone(),
                response: stored.answer.edited.as_ref()?.text.clone(),
                annotator: (*names.get(&stored.annotator)?).to_owned(),
            })
        };
        self.answers.iter().filter_map(row).collect()
    }
}

/// Annotators whose share of right answers to items with known answers is below the least.
fn below(study: &StudyContents, least: Option<f64>) -> Vec<&Annotator> {
    let Some(least) = least else { return Vec::new() };
    let known: BTreeMap<i64, PeopleChoice> =
        study.items.iter().filter_map(|(number, item)| Some((*number, item.known?))).collect();
    let share = |who: &&Annotator| {
        let own = study.answers.iter().filter(|stored| stored.annotator == who.number);
        let own = own.filter(|stored| stored.answer.choice != PeopleChoice::Skip);
        let right: Vec<bool> = own
            .filter_map(|stored| Some(*known.get(&stored.item)? == stored.answer.choice))
            .collect();
        let all = right.len() as f64;
        all > 0. && (right.iter().filter(|right| **right).count() as f64) < least * all
    };
    study.annotators.iter().filter(share).collect()
}
