//! Answers of people, and their check against the item.

use std::collections::{BTreeMap, BTreeSet};

use rlaif_core::BadSetting;
use serde::{Deserialize, Serialize};

/// Longest note and longest edited text, in bytes.
const MAX_TEXT: usize = 200_000;
/// Longest time on an item, in seconds: a year.
const MAX_SECONDS: f64 = 366. * 24. * 3600.;
/// Longest name of a facet or reason, in bytes, and the largest number of them.
const MAX_NAME: usize = 200;
const MAX_NAMES: usize = 64;

/// The better one of two responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeopleChoice {
    /// The first response.
    First,
    /// The second response.
    Second,
    /// Both are equally good.
    Tie,
    /// Both are bad.
    BothBad,
    /// No opinion: the annotator skipped the item.
    Skip,
    /// The ranking of three or more responses says it.
    Ranked,
}

impl PeopleChoice {
    /// The choice with the two responses exchanged.
    ///
    /// ```
    /// use rlaif_people::PeopleChoice;
    /// assert_eq!(PeopleChoice::First.swapped(), PeopleChoice::Second);
    /// assert_eq!(PeopleChoice::Tie.swapped(), PeopleChoice::Tie);
    /// ```
    #[must_use]
    pub fn swapped(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
            Self::Tie | Self::BothBad | Self::Skip | Self::Ranked => self,
        }
    }

    /// The vote for the first response: 1, 0, or ½ for a tie or two bad ones; `None` without an opinion.
    #[must_use]
    pub fn vote(self) -> Option<f64> {
        match self {
            Self::First => Some(1.),
            Self::Second => Some(0.),
            Self::Tie | Self::BothBad => Some(0.5),
            Self::Skip | Self::Ranked => None,
        }
    }

    /// The category in statistics of agreement: −1 first, 0 tie, 1 second, 2 both bad.
    pub(crate) fn category(self) -> Option<i64> {
        match self {
            Self::First => Some(-1),
            Self::Tie => Some(0),
            Self::Second => Some(1),
            Self::BothBad => Some(2),
            Self::Skip | Self::Ranked => None,
        }
    }
}

/// A response that the annotator has made better: a demonstration for supervised fine-tuning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditedResponse {
    /// The place of the response that was edited.
    pub response: usize,
    /// The better text.
    pub text: String,
}

impl EditedResponse {
    /// Checks the place and the length of the text, which may be empty.
    fn check(&self, responses: usize) -> Result<(), BadSetting> {
        if self.response >= responses {
            let expected = format!("a place below {responses}");
            return Err(BadSetting::new("edited.response", self.response, expected));
        }
        if self.text.len() > MAX_TEXT {
            let found = format!("{} bytes long", self.text.len());
            return Err(BadSetting::new("edited.text", found, format!("at most {MAX_TEXT} bytes")));
        }
        Ok(())
    }
}

fn check_seconds(seconds: f64) -> Result<(), BadSetting> {
    match (0. ..=MAX_SECONDS).contains(&seconds) {
        true => Ok(()),
        false => {
            let expected = format!("a time from 0 to {MAX_SECONDS}, a year");
            Err(BadSetting::new("seconds", seconds, expected))
        }
    }
}

fn check_note(note: &str) -> Result<(), BadSetting> {
    match note.len() {
        0..=MAX_TEXT => Ok(()),
        long => {
            let found = format!("{long} bytes long");
            Err(BadSetting::new("note", found, format!("at most {MAX_TEXT} bytes")))
        }
    }
}

/// Checks the names of a field: facets or reasons.
pub(crate) fn check_names<'a>(
    field: &'static str,
    mut names: impl ExactSizeIterator<Item = &'a String>,
) -> Result<(), BadSetting> {
    let count = names.len();
    if count > MAX_NAMES {
        let expected = format!("at most {MAX_NAMES} names");
        return Err(BadSetting::new(field, format!("{count} names"), expected));
    }
    match names.find(|name| name.is_empty() || name.len() > MAX_NAME) {
        Some(name) => {
            let found = format!("`{}`", name.chars().take(40).collect::<String>());
            Err(BadSetting::new(field, found, format!("names of 1 to {MAX_NAME} bytes")))
        }
        None => Ok(()),
    }
}

fn check_facets(facets: &BTreeMap<String, PeopleChoice>) -> Result<(), BadSetting> {
    let is_none = |choice: &PeopleChoice| match choice {
        PeopleChoice::Skip | PeopleChoice::Ranked => true,
        PeopleChoice::First | PeopleChoice::Second | PeopleChoice::Tie | PeopleChoice::BothBad => {
            false
        }
    };
    match facets.values().find(|choice| is_none(choice)) {
        Some(choice) => {
            let expected = "first, second, tie or both-bad";
            Err(BadSetting::new("facets", format!("{choice:?}"), expected))
        }
        None => Ok(()),
    }
}

/// A judge's verdicts on two responses, which it saw in both orders.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BothOrders {
    /// The probability that the first response is better, when it is shown first.
    pub shown_first: f64,
    /// The same when it is shown second.
    pub shown_second: f64,
}

impl BothOrders {
    fn swapped(self) -> Self {
        Self { shown_first: 1. - self.shown_second, shown_second: 1. - self.shown_first }
    }

    fn are_probabilities(self) -> bool {
        [self.shown_first, self.shown_second].iter().all(|p| (0. ..=1.).contains(p))
    }
}

/// An annotator's answer to an item. Places are those of the item's responses in the study; on the page and
/// in its requests they are the places shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeopleAnswer {
    /// The choice.
    pub choice: PeopleChoice,
    /// The strength from −3 (the first is much better) to 3 (the second is), if stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<i8>,
    /// Choices by facet.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facets: BTreeMap<String, PeopleChoice>,
    /// Reasons, from the study's list.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub reasons: BTreeSet<String>,
    /// A note.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// A better response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited: Option<EditedResponse>,
    /// The responses from the best to the worst, for items of three or more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranking: Vec<usize>,
    /// A judge's verdicts in both orders, by facet. People have none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub verdicts: BTreeMap<String, BothOrders>,
    /// Time on the item, in seconds.
    #[serde(default)]
    pub seconds: f64,
}

impl PeopleAnswer {
    /// An answer of a choice alone.
    pub fn new(choice: PeopleChoice) -> Self {
        Self {
            choice,
            strength: None,
            facets: BTreeMap::new(),
            reasons: BTreeSet::new(),
            note: String::new(),
            edited: None,
            ranking: Vec::new(),
            verdicts: BTreeMap::new(),
            seconds: 0.,
        }
    }

    /// Checks the answer against the number of responses of its item.
    ///
    /// # Errors
    /// The field that does not fit, with its value.
    ///
    /// ```
    /// use rlaif_people::{PeopleChoice, PeopleAnswer};
    /// let answer = PeopleAnswer { strength: Some(2), ..PeopleAnswer::new(PeopleChoice::First) };
    /// let error = answer.check(2).unwrap_err();
    /// assert_eq!(error.field, "strength");
    /// ```
    pub fn check(&self, responses: usize) -> Result<(), BadSetting> {
        check_seconds(self.seconds)?;
        check_note(&self.note)?;
        check_names("facets", self.facets.keys())?;
        check_names("reasons", self.reasons.iter())?;
        check_names("verdicts", self.verdicts.keys())?;
        if let Some((name, orders)) =
            self.verdicts.iter().find(|(_, orders)| !orders.are_probabilities())
        {
            let found = format!("{orders:?} for `{name}`");
            return Err(BadSetting::new("verdicts", found, "probabilities from 0 to 1"));
        }
        if let Some(edited) = &self.edited {
            edited.check(responses)?;
            if edited.text.is_empty() {
                let expected = format!("1 to {MAX_TEXT} bytes");
                return Err(BadSetting::new("edited.text", "0 bytes long", expected));
            }
        }
        if let Some(strength) = self.strength {
            let fits = match self.choice {
                PeopleChoice::First => (-3..0).contains(&strength),
                PeopleChoice::Second => (1..=3).contains(&strength),
                PeopleChoice::Tie | PeopleChoice::BothBad => strength == 0,
                PeopleChoice::Skip | PeopleChoice::Ranked => false,
            };
            if !fits {
                let expected =
                    "-3 to -1 for the first response, 1 to 3 for the second, 0 for a tie";
                return Err(BadSetting::new("strength", strength, expected));
            }
        }
        check_facets(&self.facets)?;
        self.check_ranking(responses)
    }

    fn check_ranking(&self, responses: usize) -> Result<(), BadSetting> {
        match (self.choice, responses) {
            (PeopleChoice::Ranked, _) => {
                let mut places = self.ranking.clone();
                places.sort_unstable();
                if responses < 3 || places != (0..responses).collect::<Vec<_>>() {
                    let expected =
                        format!("each of the {responses} responses once, 3 or more of them");
                    return Err(BadSetting::new(
                        "ranking",
                        format!("{:?}", self.ranking),
                        expected,
                    ));
                }
            }
            _ if !self.ranking.is_empty() => {
                let expected = "none unless `choice` is `ranked`";
                return Err(BadSetting::new("ranking", format!("{:?}", self.ranking), expected));
            }
            (PeopleChoice::First | PeopleChoice::Second, 3..) => {
                let expected = format!("`ranked`, with a ranking of {responses} responses");
                return Err(BadSetting::new("choice", format!("{:?}", self.choice), expected));
            }
            _ => {}
        }
        Ok(())
    }

    /// The answer with places in the study, from one with places as they were shown in this order.
    #[must_use]
    pub fn in_study_order(mut self, order: &[usize]) -> Self {
        if order == [1, 0] {
            self.choice = self.choice.swapped();
            self.strength = self.strength.map(|strength| -strength);
            self.facets.values_mut().for_each(|choice| *choice = choice.swapped());
            self.verdicts.values_mut().for_each(|orders| *orders = orders.swapped());
        }
        let place = |shown: &mut usize| *shown = order.get(*shown).copied().unwrap_or(*shown);
        if let Some(edited) = &mut self.edited {
            place(&mut edited.response);
        }
        self.ranking.iter_mut().for_each(place);
        self
    }

    /// The answer with places as they were shown in this order, from one with places in the study.
    #[must_use]
    pub fn in_shown_order(self, order: &[usize]) -> Self {
        let mut inverse = vec![0; order.len()];
        order.iter().enumerate().for_each(|(shown, &own)| inverse[own] = shown);
        self.in_study_order(&inverse)
    }

    /// The votes on pairs of responses: (one, other, the vote for one). A ranking has one for each pair.
    pub(crate) fn votes(&self) -> Vec<(usize, usize, f64)> {
        match self.choice.vote() {
            Some(vote) => vec![(0, 1, vote)],
            None => {
                let ranked = self.ranking.iter().enumerate();
                let pairs = ranked.flat_map(|(at, better)| {
                    self.ranking[at + 1..].iter().map(move |worse| (*better, *worse))
                });
                let vote = |(better, worse): (usize, usize)| {
                    if better < worse { (better, worse, 1.) } else { (worse, better, 0.) }
                };
                pairs.map(vote).collect()
            }
        }
    }
}

/// An unfinished answer, as the page saves it. Places are those shown.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeopleDraft {
    /// The strength.
    pub strength: Option<i8>,
    /// Choices by facet.
    pub facets: BTreeMap<String, PeopleChoice>,
    /// Reasons.
    pub reasons: BTreeSet<String>,
    /// A note.
    pub note: String,
    /// A better response.
    pub edited: Option<EditedResponse>,
    /// The responses that have a rank, from the best to the worst.
    pub ranking: Vec<usize>,
    /// Time on the item, in seconds.
    pub seconds: f64,
}

impl PeopleDraft {
    /// Checks the draft against the number of responses of its item.
    ///
    /// # Errors
    /// The field that does not fit, with its value.
    ///
    /// ```
    /// use rlaif_people::PeopleDraft;
    /// let draft = PeopleDraft { ranking: vec![2, 0], ..PeopleDraft::default() };
    /// assert!(draft.check(3).is_ok());
    /// assert_eq!(draft.check(2).unwrap_err().field, "ranking");
    /// ```
    pub fn check(&self, responses: usize) -> Result<(), BadSetting> {
        check_seconds(self.seconds)?;
        check_note(&self.note)?;
        check_names("facets", self.facets.keys())?;
        check_names("reasons", self.reasons.iter())?;
        check_facets(&self.facets)?;
        if let Some(edited) = &self.edited {
            edited.check(responses)?;
        }
        if let Some(strength) = self.strength.filter(|strength| !(-3..=3).contains(strength)) {
            return Err(BadSetting::new("strength", strength, "-3 to 3"));
        }
        let places: BTreeSet<usize> = self.ranking.iter().copied().collect();
        let fits = responses > 2
            && places.len() == self.ranking.len()
            && places.iter().all(|place| *place < responses);
        if !self.ranking.is_empty() && !fits {
            let expected = match responses {
                0..=2 => format!("none, as the item has {responses} responses"),
                _ => format!("places below {responses}, each once"),
            };
            return Err(BadSetting::new("ranking", format!("{:?}", self.ranking), expected));
        }
        Ok(())
    }
}

impl From<PeopleAnswer> for PeopleDraft {
    fn from(answer: PeopleAnswer) -> Self {
        let PeopleAnswer { strength, facets, reasons, note, edited, ranking, seconds, .. } = answer;
        Self { strength, facets, reasons, note, edited, ranking, seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::StudySettings;

    #[test]
    fn places_return_from_any_order() {
        let answer = PeopleAnswer {
            ranking: vec![2, 0, 3, 1],
            edited: Some(EditedResponse { response: 3, text: "better".to_owned() }),
            ..PeopleAnswer::new(PeopleChoice::Ranked)
        };
        let order = [3, 1, 0, 2];
        let shown = answer.clone().in_shown_order(&order);
        assert_eq!(shown.ranking, [3, 2, 0, 1]);
        assert_eq!(shown.edited.as_ref().unwrap().response, 0);
        assert_eq!(shown.in_study_order(&order), answer);

        let pair = PeopleAnswer {
            strength: Some(-2),
            facets: BTreeMap::from([("honest".to_owned(), PeopleChoice::Second)]),
            verdicts: BTreeMap::from([(
                "honest".to_owned(),
                BothOrders { shown_first: 0.75, shown_second: 0.5 },
            )]),
            ..PeopleAnswer::new(PeopleChoice::First)
        };
        let shown = pair.clone().in_shown_order(&[1, 0]);
        assert_eq!((shown.choice, shown.strength), (PeopleChoice::Second, Some(2)));
        assert_eq!(shown.facets["honest"], PeopleChoice::First);
        // The other response, shown first, wins where this one, shown second, loses.
        let swapped = BothOrders { shown_first: 0.5, shown_second: 0.25 };
        assert_eq!(shown.verdicts["honest"], swapped);
        assert_eq!(shown.in_study_order(&[1, 0]), pair);
        assert_eq!(pair.clone().in_shown_order(&[0, 1]), pair);
    }

    #[test]
    fn names_that_do_not_fit_are_refused_by_their_field() {
        let long = || "x".repeat(MAX_NAME + 1);
        let many = || (0..=MAX_NAMES).map(|at| at.to_string());
        let plain = PeopleAnswer::new(PeopleChoice::Tie);
        let facets = |names: Vec<String>| {
            names.into_iter().map(|name| (name, PeopleChoice::Tie)).collect::<BTreeMap<_, _>>()
        };
        let half = BothOrders { shown_first: 0.5, shown_second: 0.5 };
        for names in [vec![long()], vec![String::new()], many().collect()] {
            let by_facet = PeopleAnswer { facets: facets(names.clone()), ..plain.clone() };
            let reasons: BTreeSet<String> = names.iter().cloned().collect();
            let with_reasons = PeopleAnswer { reasons: reasons.clone(), ..plain.clone() };
            let verdicts = names.iter().map(|name| (name.clone(), half)).collect();
            let with_verdicts = PeopleAnswer { verdicts, ..plain.clone() };
            let draft = PeopleDraft { reasons, ..PeopleDraft::default() };
            let settings = StudySettings { reasons: names.clone(), ..StudySettings::default() };
            for (error, field) in [
                (by_facet.check(2), "facets"),
                (with_reasons.check(2), "reasons"),
                (with_verdicts.check(2), "verdicts"),
                (draft.check(2), "reasons"),
                (settings.check(), "reasons"),
                (StudySettings { facets: names, ..StudySettings::default() }.check(), "facets"),
            ] {
                assert_eq!(error.unwrap_err().field, field);
            }
        }
        // Each list has room for as many.
        let most: Vec<String> = many().skip(1).collect();
        let reasons = most.iter().cloned().collect();
        assert!(PeopleAnswer { facets: facets(most), reasons, ..plain }.check(2).is_ok());
    }

    #[test]
    fn answers_that_do_not_fit_are_refused_by_their_field() {
        let plain = |choice| PeopleAnswer::new(choice);
        let cases = [
            (PeopleAnswer { strength: Some(4), ..plain(PeopleChoice::Second) }, 2, "strength"),
            (PeopleAnswer { strength: Some(0), ..plain(PeopleChoice::Skip) }, 2, "strength"),
            (PeopleAnswer { seconds: f64::NAN, ..plain(PeopleChoice::Tie) }, 2, "seconds"),
            (PeopleAnswer { seconds: 1e300, ..plain(PeopleChoice::Tie) }, 2, "seconds"),
            (PeopleAnswer { ranking: vec![0, 1], ..plain(PeopleChoice::Ranked) }, 2, "ranking"),
            (PeopleAnswer { ranking: vec![0, 1, 1], ..plain(PeopleChoice::Ranked) }, 3, "ranking"),
            (PeopleAnswer { ranking: vec![0, 1], ..plain(PeopleChoice::First) }, 2, "ranking"),
            (plain(PeopleChoice::First), 3, "choice"),
            (
                PeopleAnswer {
                    verdicts: BTreeMap::from([(
                        "honest".to_owned(),
                        BothOrders { shown_first: 0.5, shown_second: 1.5 },
                    )]),
                    ..plain(PeopleChoice::First)
                },
                2,
                "verdicts",
            ),
            (
                PeopleAnswer { note: "x".repeat(MAX_TEXT + 1), ..plain(PeopleChoice::Tie) },
                2,
                "note",
            ),
        ];
        for (answer, responses, field) in cases {
            assert_eq!(answer.check(responses).unwrap_err().field, field);
        }
        let ranked = PeopleAnswer { ranking: vec![2, 0, 1], ..plain(PeopleChoice::Ranked) };
        assert!(ranked.check(3).is_ok());
        assert_eq!(ranked.votes(), [(0, 2, 0.), (1, 2, 0.), (0, 1, 1.)]);
    }
}
