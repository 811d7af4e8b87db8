//! The stage `annotate` of pipelines: people compare responses, and their votes become labels.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rlaif_core::{BadSetting, Ties, say};
use rlaif_people::{
    AnnotatorRole, ItemPurpose, LabelOptions, PeopleLabels, Study, StudyAgreement, StudySettings,
    read_answers, read_items,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{error::RunError, file::RunFile, results::ResultFile, work::Work};

/// The settings of a stage of `annotate`. `docs/pipeline.md` describes every key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AnnotateFile {
    /// The items.
    pub data: AnnotateData,
    /// The people who answer on the page. The stage is complete when none of them has an item left.
    #[serde(default)]
    pub annotators: Vec<String>,
    /// The people who decide what annotators disagree on. The stage waits for them too.
    #[serde(default)]
    pub referees: Vec<String>,
    /// The settings of the study.
    #[serde(default)]
    pub study: StudySettings,
    /// Treatment of pairs with as many votes for one response as for the other.
    #[serde(default)]
    pub ties: Ties,
    /// The least share of right answers to items with known answers; annotators below it are left out.
    pub least_known: Option<f64>,
}

/// The items of a study, and answers that are there already.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AnnotateData {
    /// A file, or a pattern: rows of `prompt` and `responses`, or preference pairs in any form.
    pub file: String,
    /// Files of items with known answers, which measure annotators.
    #[serde(default)]
    pub known: Vec<String>,
    /// Files of answers: of Label Studio, Argilla, Ground Truth or another study.
    #[serde(default)]
    pub answers: Vec<String>,
}

/// Counts of a study whose annotators have answered.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct AnnotateSummary {
    /// Items of the study.
    pub items: usize,
    /// Labels, each of a pair of responses.
    pub labels: usize,
    /// Votes in the labels.
    pub votes: usize,
    /// Items and pairs without a label; `OUT.missing` has the reasons.
    pub without_label: usize,
    /// Share of agreeing pairs of answers.
    pub agreement: Option<f64>,
    /// Fleiss κ of the choices.
    pub fleiss_kappa: Option<f64>,
}

/// The study in the folder of the stage.
const STUDY: &str = "people.sqlite";

impl RunFile for AnnotateFile {
    const COMMAND: &'static str = "annotate";

    fn locations(&mut self) -> Vec<&mut String> {
        let AnnotateData { file, known, answers } = &mut self.data;
        std::iter::once(file).chain(known).chain(answers).collect()
    }
}

impl Work for AnnotateFile {
    const OUT: &'static str = "the file of labels";
    const KEEPS: &'static str = "answers";
    type Out = PathBuf;
    type Summary = AnnotateSummary;
    type Error = RunError;

    /// Creates the study beside `out`, unless it is there. Writes the labels if all have answered.
    ///
    /// # Errors
    /// [`RunError::Unanswered`] if somebody has items left.
    fn work(&self, _base: &Path, out: &PathBuf) -> Result<AnnotateSummary, RunError> {
        self.check()?;
        let results = ResultFile::new(out)?;
        let path = out.with_file_name(STUDY);
        if !path.exists() {
            self.create(&path)?;
        }
        let study = Study::open(&path)?;
        let mut left = Vec::new();
        for (names, role) in
            [(&self.annotators, AnnotatorRole::Annotator), (&self.referees, AnnotatorRole::Referee)]
        {
            for name in names {
                let open = study.progress(&study.add_annotator(name, role)?)?.left;
                if open > 0 {
                    left.push(format!("{name} ({open})"));
                }
            }
        }
        if !left.is_empty() {
            return Err(RunError::Unanswered { study: path, left: left.join(", ") });
        }
        let contents = study.contents()?;
        let found = PeopleLabels::of(&contents, &self.options());
        found.sentences().iter().for_each(say);
        if let Some(left_out) = contents.beside_preferences() {
            say(left_out);
        }
        if found.labels.is_empty() {
            let why = format!("{}; `ties = \"keep\"` keeps ties", found.sentences().join("; "));
            return Err(RunError::NoLabels { pairs: found.dropped.len(), why });
        }
        let missing = found.dropped.iter().map(|(id, why)| json!({"id": id, "reason": why}));
        results.write(&found.labels, &missing.collect::<Vec<Value>>())?;
        let choice = StudyAgreement::of(&contents).choice;
        Ok(AnnotateSummary {
            items: contents.items.len(),
            labels: found.labels.len(),
            votes: found.labels.iter().map(|label| label.votes).sum(),
            without_label: found.dropped.len(),
            agreement: choice.raw,
            fleiss_kappa: choice.fleiss_kappa,
        })
    }
}

impl AnnotateFile {
    /// Checks everything that needs no data.
    ///
    /// # Errors
    /// [`RunError::Setting`].
    pub(crate) fn check(&self) -> Result<(), RunError> {
        self.options().check()?;
        self.study.check().map_err(|error| error.within("study"))?;
        if self.annotators.is_empty() && self.data.answers.is_empty() {
            let found = "empty, and so is `data.answers`";
            return Err(BadSetting::new("annotators", found, "at least one who answers").into());
        }
        Ok(())
    }

    fn options(&self) -> LabelOptions {
        LabelOptions { ties: self.ties, least_known: self.least_known, ..LabelOptions::default() }
    }

    /// Creates the study with its items and the answers of files. After a kill it is whole, or not there.
    fn create(&self, path: &Path) -> Result<(), RunError> {
        let mut items = Vec::new();
        let mut equal = 0;
        let files = self.data.known.iter().map(|file| (file, ItemPurpose::Measure));
        for (file, purpose) in std::iter::once((&self.data.file, ItemPurpose::Answer)).chain(files)
        {
            let read = read_items(Path::new(file), purpose)?;
            items.extend(read.items);
            equal += read.equal_responses;
        }
        if equal > 0 {
            say(format_args!("rows with equal responses left out: {equal}"));
        }
        let failed = |source| RunError::Write { path: path.to_owned(), source };
        let folder = path.parent().unwrap_or(Path::new("."));
        let aside =
            tempfile::Builder::new().prefix(".people").tempdir_in(folder).map_err(failed)?;
        let made = aside.path().join(STUDY);
        let (study, _) = Study::create_with(&made, &self.study, &items)?;
        for file in &self.data.answers {
            let merged = study.merge(&read_answers(Path::new(file))?, None, None)?;
            say(format_args!("{file}: {} answers, {} new items", merged.answers, merged.items));
        }
        drop(study);
        fs::rename(&made, path).map_err(failed)
    }
}
