//! Settings of a study.

use rlaif_core::{BadSetting, Seed};
use serde::{Deserialize, Serialize};

/// The settings of a study. They are stored in it when it is created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// All texts are shown on demand only.
    pub fold: bool,
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
            fold: false,
        }
    }
}

impl StudySettings {
    /// Checks that the overlap is a share.
    ///
    /// # Errors
    /// The field with its value.
    pub fn check(&self) -> Result<(), BadSetting> {
        match (0. ..=1.).contains(&self.overlap) {
            true => Ok(()),
            false => Err(BadSetting::new("overlap", self.overlap, "a share from 0 to 1")),
        }
    }
}
