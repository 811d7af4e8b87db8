//! An import: the form of the rows, and the choices that the data sets leave open.

use super::form::RowForm;

/// The pairs made of more than two ranked answers to one prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Ranked {
    /// The best and the worst.
    #[default]
    BestAndWorst,
    /// The best and each of the others.
    BestAndOthers,
    /// Every two.
    All,
}

/// The verdict of PKU-SafeRLHF that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SafeRlhfVerdict {
    /// `better_response_id`.
    #[default]
    Better,
    /// `safer_response_id`.
    Safer,
}

/// Treatment of HH's notation, in HH and Nectar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Dialogues {
    /// It stays text: `"\n\nHuman: ..\n\nAssistant:"`.
    #[default]
    Text,
    /// Messages, for the chat template.
    Messages,
}

/// Choices that the data sets themselves leave open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ImportOptions {
    /// Pairs of ranked answers (UltraFeedback, Nectar).
    pub ranked: Ranked,
    /// PKU-SafeRLHF's verdict.
    pub safe_rlhf: SafeRlhfVerdict,
    /// HH's notation.
    pub dialogues: Dialogues,
}

/// Reads rows of a form that is known.
///
/// Every reading leaves out what cannot be learned from, a tie, an empty response, two equal
/// responses, a row without an answer, and counts it in the provenance. Preferences always have the
/// preferred response in `chosen`, regardless of the sign, number or letter in the data set.
///
/// ```
/// use rlaif_data::{Import, Reader, RowForm, Source};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("hs3.jsonl");
/// # std::fs::write(&path, r#"{"domain":"general","context":[{"role":"user","content":"Hi"}],"response1":"Go away.","response2":"Hello!","overall_preference":3}"#)?;
/// let source = Source::file(path)?;
/// let import = Import::find(&source)?;
/// assert_eq!(import.form, RowForm::HelpSteer3);
/// let pairs = import.pairs(Reader::new(source))?;
/// assert_eq!(pairs.records()[0].chosen, "Hello!".into());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Import {
    /// The form of the rows.
    pub form: RowForm,
    /// Choices that the data sets leave open.
    pub options: ImportOptions,
}
