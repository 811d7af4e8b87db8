//! Agreement of annotators, their habits, and strengths of the models whose responses they compared.

use std::collections::{BTreeMap, BTreeSet};

use rlaif_eval::{
    Habits,
    stats::{
        Level, Strength, bradley_terry, cohen_kappa, fleiss_kappa, krippendorff_alpha, quantile,
    },
};
use serde::Serialize;

use crate::{
    answer::{PeopleAnswer, PeopleChoice},
    labels::votes_of_people,
    store::{AnnotatorRole, StoredAnswer, StudyContents},
};

/// Wins and losses against an imaginary model, where comparisons alone give infinite strengths.
const WEAK_PRIOR: f64 = 0.5;

/// Agreement on one question: the choice, or a facet. Items with fewer than two answers are left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PeopleAgreement {
    /// Items with at least two answers.
    pub items: usize,
    /// Answers to these items.
    pub answers: usize,
    /// Share of agreeing pairs of answers, over all pairs of answers to one item.
    pub raw: Option<f64>,
    /// Fleiss' κ over the items with the most common number of answers.
    pub fleiss_kappa: Option<f64>,
    /// Items that Fleiss' κ is of.
    pub fleiss_items: usize,
    /// Krippendorff's α of first, tie, second and both bad as names.
    pub alpha_nominal: Option<f64>,
    /// Krippendorff's α of first, tie and second as −1, 0 and 1; both bad counts as a tie.
    pub alpha_interval: Option<f64>,
}

/// The answers of one annotator.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnnotatorSummary {
    /// The name.
    pub name: String,
    /// The task.
    pub role: AnnotatorRole,
    /// Answers, skipped items left out.
    pub answers: usize,
    /// Skipped items.
    pub skipped: usize,
    /// Median time of an answer, in seconds; `None` for imports.
    pub median_seconds: Option<f64>,
    /// Answers to items with a known answer.
    pub known: usize,
    /// Right ones among these.
    pub known_right: usize,
    /// Share of choices of the response shown first, among those that choose one.
    pub first_shown: Option<f64>,
    /// Share of choices that are those of the majority of the other people.
    pub with_majority: Option<f64>,
}

/// Agreement of two annotators.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairAgreement {
    /// One of them.
    pub one: String,
    /// The other.
    pub other: String,
    /// Items that both have answered.
    pub items: usize,
    /// Share of equal choices.
    pub raw: f64,
    /// Cohen's κ.
    pub cohen_kappa: Option<f64>,
}

/// The influence of the order of responses on a judge that saw both orders.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgePositions {
    /// The judge's name.
    pub name: String,
    /// Flips and preferences for a position, by facet, as in a report of `rlaif exam`.
    pub facets: BTreeMap<String, Habits>,
}

/// The strength of a model in people's comparisons.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MakerStrength {
    /// The maker of the responses.
    pub maker: String,
    /// Comparisons with other makers.
    pub comparisons: f64,
    /// The strength with its interval.
    #[serde(flatten)]
    pub strength: Strength,
    /// The strength as an Elo rating of mean 0.
    pub elo: f64,
}

/// Strengths of all makers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MakerStrengths {
    /// The makers, the strongest first.
    pub makers: Vec<MakerStrength>,
    /// The reason why strengths have a weak prior (half a win and half a loss against an imaginary model):
    /// without it, they would be infinite.
    pub prior_because: Option<String>,
    /// Groups of makers that were never compared with each other, or of which one never won. Strengths of
    /// different groups say nothing about each other.
    pub groups: Vec<Vec<String>>,
}

/// Agreement in a study.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudyAgreement {
    /// Items in the study.
    pub items: usize,
    /// Items with at least one answer.
    pub answered: usize,
    /// Open conflicts: items on which people disagree, and no referee has decided. They are those of a referee's page.
    pub conflicts: usize,
    /// Agreement of people on the choice.
    pub choice: PeopleAgreement,
    /// Krippendorff's α (interval) of the strengths.
    pub strength_alpha: Option<f64>,
    /// Agreement of people on each facet.
    pub facets: BTreeMap<String, PeopleAgreement>,
    /// Annotators, referees and judges.
    pub annotators: Vec<AnnotatorSummary>,
    /// Every two annotators with answers to the same items.
    pub pairs: Vec<PairAgreement>,
    /// Judges whose verdicts in both orders are known.
    pub judges: Vec<JudgePositions>,
    /// Strengths of the makers, if at least two are known.
    pub makers: Option<MakerStrengths>,
}

impl StudyAgreement {
    /// The agreement in a study.
    pub fn of(study: &StudyContents) -> Self {
        let role: BTreeMap<i64, AnnotatorRole> =
            study.annotators.iter().map(|who| (who.number, who.role)).collect();
        let is_person =
            |stored: &&StoredAnswer| role.get(&stored.annotator) == Some(&AnnotatorRole::Annotator);
        let people: Vec<&StoredAnswer> = study.answers.iter().filter(is_person).collect();
        let choice = |answer: &PeopleAnswer| answer.choice.category();
        let by_item = ratings(&people, choice);
        let strengths = ratings(&people, |answer| answer.strength.map(i64::from));
        let facets: BTreeSet<&String> =
            people.iter().flat_map(|stored| stored.answer.facets.keys()).collect();
        let facets = facets.into_iter().map(|facet| {
            let rated = |answer: &PeopleAnswer| answer.facets.get(facet)?.category();
            (facet.clone(), agreement(&ratings(&people, rated)))
        });
        let answered: BTreeSet<i64> = study.answers.iter().map(|stored| stored.item).collect();
        Self {
            items: study.items.len(),
            answered: answered.len(),
            conflicts: study.conflicts.len(),
            choice: agreement(&by_item),
            strength_alpha: alpha(&strengths, Level::Interval, |value| value as f64),
            facets: facets.collect(),
            annotators: summaries(study, &by_item),
            pairs: pairs(study),
            judges: judges(study),
            makers: makers(study),
        }
    }
}

/// For each item the annotators with their categories.
type Ratings = BTreeMap<i64, Vec<(i64, i64)>>;

fn ratings(answers: &[&StoredAnswer], rated: impl Fn(&PeopleAnswer) -> Option<i64>) -> Ratings {
    let mut found = Ratings::new();
    for stored in answers {
        if let Some(value) = rated(&stored.answer) {
            found.entry(stored.item).or_default().push((stored.annotator, value));
        }
    }
    found
}

fn alpha(ratings: &Ratings, level: Level, value: impl Fn(i64) -> f64) -> Option<f64> {
    let items: Vec<Vec<f64>> = ratings
        .values()
        .map(|ratings| ratings.iter().map(|(_, category)| value(*category)).collect())
        .collect();
    krippendorff_alpha(&items, level)
}

fn agreement(ratings: &Ratings) -> PeopleAgreement {
    let items: Vec<Vec<i64>> = ratings
        .values()
        .filter(|ratings| ratings.len() > 1)
        .map(|ratings| ratings.iter().map(|(_, value)| *value).collect())
        .collect();
    let (mut equal, mut all) = (0usize, 0usize);
    for values in &items {
        for (at, one) in values.iter().enumerate() {
            equal += values[at + 1..].iter().filter(|other| *other == one).count();
            all += values.len() - at - 1;
        }
    }
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    items.iter().for_each(|values| *counts.entry(values.len()).or_default() += 1);
    let usual = counts.iter().max_by_key(|(_, count)| **count).map(|(raters, _)| *raters);
    let same: Vec<Vec<i64>> =
        items.iter().filter(|values| Some(values.len()) == usual).cloned().collect();
    PeopleAgreement {
        items: items.len(),
        answers: items.iter().map(Vec::len).sum(),
        raw: (all > 0).then(|| equal as f64 / all as f64),
        fleiss_kappa: fleiss_kappa(&same),
        fleiss_items: same.len(),
        alpha_nominal: alpha(ratings, Level::Nominal, |value| value as f64),
        // Both bad is a tie on the line from the first to the second.
        alpha_interval: alpha(
            ratings,
            Level::Interval,
            |value| {
                if value == 2 { 0. } else { value as f64 }
            },
        ),
    }
}

fn summaries(study: &StudyContents, people: &Ratings) -> Vec<AnnotatorSummary> {
    let known: BTreeMap<i64, PeopleChoice> =
        study.items.iter().filter_map(|(number, item)| Some((*number, item.known?))).collect();
    let summary = |who: &crate::store::Annotator| {
        let own: Vec<&StoredAnswer> =
            study.answers.iter().filter(|stored| stored.annotator == who.number).collect();
        let given: Vec<&&StoredAnswer> =
            own.iter().filter(|stored| stored.answer.choice != PeopleChoice::Skip).collect();
        let mut seconds: Vec<f64> = given
            .iter()
            .filter(|stored| !stored.order.is_empty())
            .map(|stored| stored.answer.seconds)
            .collect();
        seconds.sort_by(f64::total_cmp);
        let asked: Vec<bool> = given
            .iter()
            .filter_map(|stored| Some(*known.get(&stored.item)? == stored.answer.choice))
            .collect();
        let first = given.iter().filter_map(|stored| {
            let chosen = match stored.answer.choice {
                PeopleChoice::First => 0,
                PeopleChoice::Second => 1,
                PeopleChoice::Tie
                | PeopleChoice::BothBad
                | PeopleChoice::Skip
                | PeopleChoice::Ranked => return None,
            };
            Some(*stored.order.first()? == chosen)
        });
        let with_majority = given.iter().filter_map(|stored| {
            let others: Vec<i64> = people
                .get(&stored.item)?
                .iter()
                .filter(|(annotator, _)| *annotator != who.number)
                .map(|(_, value)| *value)
                .collect();
            Some(majority(&others)? == stored.answer.choice.category()?)
        });
        AnnotatorSummary {
            name: who.name.clone(),
            role: who.role,
            answers: given.len(),
            skipped: own.len() - given.len(),
            median_seconds: (!seconds.is_empty()).then(|| quantile(&seconds, 0.5)),
            known: asked.len(),
            known_right: asked.iter().filter(|right| **right).count(),
            first_shown: share(first),
            with_majority: share(with_majority),
        }
    };
    study.annotators.iter().map(summary).collect()
}

fn share(holds: impl Iterator<Item = bool>) -> Option<f64> {
    let (mut count, mut all) = (0usize, 0usize);
    for one in holds {
        count += usize::from(one);
        all += 1;
    }
    (all > 0).then(|| count as f64 / all as f64)
}

/// The most common value; `None` if two are equally common.
fn majority(values: &[i64]) -> Option<i64> {
    let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
    values.iter().for_each(|value| *counts.entry(*value).or_default() += 1);
    let most = *counts.values().max()?;
    let mut leading = counts.iter().filter(|(_, count)| **count == most);
    let (value, _) = leading.next()?;
    leading.next().is_none().then_some(*value)
}

/// Every two of those who answer, judges and referees included.
fn pairs(study: &StudyContents) -> Vec<PairAgreement> {
    let mut own: BTreeMap<i64, BTreeMap<i64, i64>> = BTreeMap::new();
    for stored in &study.answers {
        if let Some(value) = stored.answer.choice.category() {
            own.entry(stored.annotator).or_default().insert(stored.item, value);
        }
    }
    let mut found = Vec::new();
    for (at, one) in study.annotators.iter().enumerate() {
        for other in &study.annotators[at + 1..] {
            let (Some(a), Some(b)) = (own.get(&one.number), own.get(&other.number)) else {
                continue;
            };
            let both: Vec<(i64, i64)> =
                a.iter().filter_map(|(item, value)| Some((*value, *b.get(item)?))).collect();
            if both.is_empty() {
                continue;
            }
            let equal = both.iter().filter(|(a, b)| a == b).count();
            found.push(PairAgreement {
                one: one.name.clone(),
                other: other.name.clone(),
                items: both.len(),
                raw: equal as f64 / both.len() as f64,
                cohen_kappa: cohen_kappa(&both),
            });
        }
    }
    found
}

fn judges(study: &StudyContents) -> Vec<JudgePositions> {
    let judges = study.annotators.iter().filter(|who| who.role == AnnotatorRole::Judge);
    let positions = judges.map(|who| {
        let mut orders: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        let own = study.answers.iter().filter(|stored| stored.annotator == who.number);
        for (facet, both) in own.flat_map(|stored| &stored.answer.verdicts) {
            orders.entry(facet.clone()).or_default().push((both.shown_first, both.shown_second));
        }
        let habits = |(facet, orders): (String, Vec<_>)| (facet, Habits::of_position(&orders));
        JudgePositions { name: who.name.clone(), facets: orders.into_iter().map(habits).collect() }
    });
    positions.filter(|judge| !judge.facets.is_empty()).collect()
}

fn makers(study: &StudyContents) -> Option<MakerStrengths> {
    let items: BTreeMap<i64, &crate::item::StudyItem> =
        study.items.iter().map(|(number, item)| (*number, item)).collect();
    let votes = votes_of_people(study, &BTreeSet::new());
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let mut compared: Vec<(&str, &str, f64)> = Vec::new();
    for ((number, one, other), votes) in &votes {
        let item = items.get(number)?;
        let maker = |place: usize| item.responses.get(place)?.maker.as_deref();
        let (Some(a), Some(b)) = (maker(*one), maker(*other)) else { continue };
        if a == b {
            continue;
        }
        names.extend([a, b]);
        compared.extend(votes.iter().map(|vote| (a, b, vote.for_first)));
    }
    let names: Vec<&str> = names.into_iter().collect();
    if names.len() < 2 {
        return None;
    }
    let place = |name: &str| names.binary_search(&name).unwrap_or_default();
    let mut wins = vec![vec![0.; names.len()]; names.len()];
    for (a, b, vote) in compared {
        wins[place(a)][place(b)] += vote;
        wins[place(b)][place(a)] += 1. - vote;
    }
    let (strengths, prior_because, groups) = match bradley_terry(&wins, 0.) {
        Ok(strengths) => (strengths, None, Vec::new()),
        Err(error) => {
            let strengths = bradley_terry(&wins, WEAK_PRIOR).ok()?;
            (strengths, Some(error.to_string()), error.groups().to_vec())
        }
    };
    let games = |at: usize| (0..names.len()).map(|other| wins[at][other] + wins[other][at]).sum();
    let mut makers: Vec<MakerStrength> = strengths
        .into_iter()
        .enumerate()
        .map(|(at, strength)| MakerStrength {
            maker: names[at].to_owned(),
            comparisons: games(at),
            elo: strength.elo(),
            strength,
        })
        .collect();
    makers.sort_by(|a, b| b.strength.theta.total_cmp(&a.strength.theta));
    let named = |group: Vec<usize>| group.into_iter().map(|at| names[at].to_owned()).collect();
    Some(MakerStrengths { makers, prior_because, groups: groups.into_iter().map(named).collect() })
}
