//! Settings of a study.

use rlaif_core::{BadSetting, Seed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::answer::{PeopleAnswer, PeopleDraft, check_names};

/// The settings of a study. They are stored in it when it is created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StudySettings {
    /// The title of the page.
    pub title: String,
    /// Instructions to annotators, shown above the items.
    pub instructions: String,
    /// The seed of the order of responses, of shared items, and of the places of items with known answers.
    pub seed: Seed,
    /// Share of the items that every annotator answers, 0 to 1. Each of the others is answered by one.
    pub overlap: f64,
    /// One item in so many has a known answer, as long as there are any; 0 for none.
    pub known_every: u32,
    /// Facets that are compared besides the choice.
    pub facets: Vec<String>,
    /// Reasons to choose from.
    pub reasons: Vec<String>,
    /// The texts that are shown on demand only.
    #[schemars(with = "bool")]
    pub fold: FoldedTexts,
}

/// The texts of a study that the page shows on demand only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "bool", into = "bool")]
pub enum FoldedTexts {
    /// Texts of items that are marked as toxic.
    #[default]
    Toxic,
    /// All texts.
    All,
}

/// Studies store `fold` as `true` or `false`.
impl From<bool> for FoldedTexts {
    fn from(all: bool) -> Self {
        if all { Self::All } else { Self::Toxic }
    }
}

impl From<FoldedTexts> for bool {
    fn from(folded: FoldedTexts) -> Self {
        folded == FoldedTexts::All
    }
}

impl Default for StudySettings {
    fn default() -> Self {
        Self {
            title: "Which answer is better?".to_owned(),
            instructions: String::new(),
            seed: Seed::default(),
            overlap: 0.2,
            known_every: 20,
            facets: ["helpful", "honest", "harmless"].map(str::to_owned).to_vec(),
            reasons: ["more correct", "clearer", "better style", "safer", "follows the request"]
                .map(str::to_owned)
                .to_vec(),
            fold: FoldedTexts::Toxic,
        }
    }
}

impl StudySettings {
    /// Checks that the overlap is a share, and that facets and reasons have different names of an admissible length.
    ///
    /// # Errors
    /// The field with its value.
    pub fn check(&self) -> Result<(), BadSetting> {
        if !(0. ..=1.).contains(&self.overlap) {
            return Err(BadSetting::new("overlap", self.overlap, "a share from 0 to 1"));
        }
        for (field, names) in [("facets", &self.facets), ("reasons", &self.reasons)] {
            check_names(field, names.iter())?;
            let twice = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name));
            if let Some((_, name)) = twice {
                let found = format!("`{name}` twice");
                return Err(BadSetting::new(field, found, "different names"));
            }
        }
        Ok(())
    }

    /// Checks that the page has given the study's facets and reasons alone.
    fn check_names<'a>(
        &self,
        facets: impl IntoIterator<Item = &'a String>,
        reasons: impl IntoIterator<Item = &'a String>,
    ) -> Result<(), BadSetting> {
        let other = |field: &'static str, known: &[String], name: Option<&String>| {
            let Some(name) = name else { return Ok(()) };
            let found = format!("`{}`", name.chars().take(40).collect::<String>());
            Err(BadSetting::new(field, found, format!("those of the study: {}", known.join(", "))))
        };
        let facet = facets.into_iter().find(|name| !self.facets.contains(name));
        other("facets", &self.facets, facet)?;
        let reason = reasons.into_iter().find(|name| !self.reasons.contains(name));
        other("reasons", &self.reasons, reason)
    }

    /// Checks the names of a draft of the page.
    pub(crate) fn check_draft(&self, draft: &PeopleDraft) -> Result<(), BadSetting> {
        self.check_names(draft.facets.keys(), &draft.reasons)
    }

    /// Checks the names of an answer of the page.
    pub(crate) fn check_answer(&self, answer: &PeopleAnswer) -> Result<(), BadSetting> {
        self.check_names(answer.facets.keys(), &answer.reasons)?;
        match answer.verdicts.keys().next() {
            None => Ok(()),
            Some(facet) => {
                let found = format!("given for `{}`", facet.chars().take(40).collect::<String>());
                Err(BadSetting::new("verdicts", found, "no value: a person sees one order"))
            }
        }
    }
}
