//! A report of several parts: of each a heading, sentences, tables and files.

use std::path::Path;

use maud::html;

use super::markdown::inline;
use super::page::{Page, foreign};
use crate::{EvalError, files};

/// A report of several parts.
///
/// ```
/// use rlaif_eval::{Overview, OverviewPart};
/// let part = OverviewPart {
///     name: "labels".into(),
///     sentences: vec!["12 pairs.".into()],
///     ..OverviewPart::default()
/// };
/// let report = Overview { title: "Labels and PPO".into(), sentences: vec![], parts: vec![part] };
/// assert!(report.to_markdown().contains("## labels\n\n12 pairs."));
/// assert!(report.to_html().contains(">labels</bdi></h2>"));
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Overview {
    /// The heading.
    pub title: String,
    /// Sentences below it.
    pub sentences: Vec<String>,
    /// The parts.
    pub parts: Vec<OverviewPart>,
}

/// A part of an [`Overview`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OverviewPart {
    /// The heading.
    pub name: String,
    /// Sentences, one a paragraph.
    pub sentences: Vec<String>,
    /// The header of the table.
    pub header: Vec<String>,
    /// Rows of the table; without any, there is no table.
    pub rows: Vec<Vec<String>>,
    /// Names of files, with their paths relative to the report.
    pub files: Vec<(String, String)>,
}

impl Overview {
    /// The report as Markdown.
    pub fn to_markdown(&self) -> String {
        let mut text = format!("# {}\n", inline(&self.title));
        let mut paragraph = |sentence: &str| text.push_str(&format!("\n{sentence}\n"));
        for sentence in &self.sentences {
            paragraph(&inline(sentence));
        }
        for part in &self.parts {
            paragraph(&format!("## {}", inline(&part.name)));
            for sentence in &part.sentences {
                paragraph(&inline(sentence));
            }
            if !part.rows.is_empty() {
                let row = |cells: &[String]| {
                    let cells: Vec<String> = cells.iter().map(|cell| inline(cell)).collect();
                    format!("| {} |", cells.join(" | "))
                };
                let rule = format!("|{}", "---|".repeat(part.header.len()));
                let mut lines = vec![row(&part.header), rule];
                lines.extend(part.rows.iter().map(|cells| row(cells)));
                paragraph(&lines.join("\n"));
            }
            for (name, path) in &part.files {
                paragraph(&format!("[{}](<{path}>)", inline(name)));
            }
        }
        text
    }

    /// The report as one page.
    pub fn to_html(&self) -> String {
        let body = html! {
            h1 { (foreign(&self.title)) }
            @for sentence in &self.sentences { p { (foreign(sentence)) } }
            @for part in &self.parts {
                section {
                    h2 { (foreign(&part.name)) }
                    @for sentence in &part.sentences { p { (foreign(sentence)) } }
                    @if !part.rows.is_empty() {
                        table {
                            thead { tr { @for cell in &part.header { th { (foreign(cell)) } } } }
                            tbody {
                                @for row in &part.rows {
                                    tr { @for cell in row { td { (foreign(cell)) } } }
                                }
                            }
                        }
                    }
                    @for (name, path) in &part.files {
                        p { a href=(path) { (foreign(name)) } }
                    }
                }
            }
        };
        Page { title: &self.title, body }.render()
    }

    /// Writes `report.md` and `report.html` into a folder.
    ///
    /// # Errors
    /// [`EvalError::Io`].
    pub fn write(&self, folder: &Path) -> Result<(), EvalError> {
        files::write(&folder.join("report.md"), self.to_markdown().as_bytes())?;
        files::write(&folder.join("report.html"), self.to_html().as_bytes())
    }
}
