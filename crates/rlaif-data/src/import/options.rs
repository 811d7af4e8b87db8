//! Options of an import: the form of the rows, and the choices that the data sets leave open.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::form::RowForm;

/// The pairs made from more than two ranked answers to one prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ranked {
    /// The best and the worst.
    #[default]
    BestAndWorst,
    /// The best and each of the others.
    BestAndOthers,
    /// Every pair of answers.
    All,
}

/// The verdict of PKU-SafeRLHF that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SafeRlhfVerdict {
    /// `better_response_id`.
    #[default]
    Better,
    /// `safer_response_id`.
    Safer,
}

/// Treatment of HH's notation, in HH and Nectar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Dialogues {
    /// As text: `"\n\nHuman: ..\n\nAssistant:"`.
    #[default]
    Text,
    /// Messages, for the chat template.
    Messages,
}

/// Choices that the data sets themselves leave open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImportOptions {
    /// Pairs of ranked answers (UltraFeedback, Nectar).
    pub ranked: Ranked,
    /// PKU-SafeRLHF's verdict.
    pub safe_rlhf: SafeRlhfVerdict,
    /// HH's notation.
    pub dialogues: Dialogues,
    /// Texts that nothing can be learned from: empty responses, and pairs of equal responses.
    #[serde(skip)]
    pub unusable: Unusable,
}

/// Treatment of texts that nothing can be learned from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Unusable {
    /// Unusable rows are left out and counted.
    #[default]
    LeftOut,
    /// Unusable rows are read, for an algorithm that counts them itself. Empty messages are left
    /// out anyway.
    Read,
}

/// Names of columns that are not those of a form, and columns that are read besides.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ImportColumns {
    /// Names of columns in the file, each with the form's name for it.
    pub renamed: Vec<(String, String)>,
    /// The column of ids; without it, a record's id is the hash of its contents.
    pub id: Option<String>,
    /// The column of reference responses, of prompts; a row may leave it empty (null).
    pub reference: Option<String>,
    /// Columns that become metadata of prompts and pairs; every row must have them.
    pub metadata: Vec<String>,
    /// Further columns that every row must have; a value may be empty.
    pub needed: Vec<String>,
}

impl ImportColumns {
    /// The same with one column renamed to the form's name for it.
    #[must_use]
    pub fn rename(mut self, column: &str, of_the_form: &str) -> Self {
        if column != of_the_form {
            self.renamed.push((column.to_owned(), of_the_form.to_owned()));
        }
        self
    }
}

/// Reads rows of a known form.
///
/// Each reader leaves out rows that nothing can be learned from (a tie, an empty response, two
/// equal responses, a row without an answer) and counts them in the provenance. In a preference,
/// `chosen` always holds the preferred response, regardless of the sign, number or letter that the
/// data set uses.
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The form of the rows.
    pub form: RowForm,
    /// Choices that the data sets leave open.
    pub options: ImportOptions,
    /// Columns by other names, and further ones.
    pub columns: ImportColumns,
}
