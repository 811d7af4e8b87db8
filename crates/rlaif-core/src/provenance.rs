//! The origin of records, and their treatment on the way.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One file, or one built-in corpus, that records were read from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Origin {
    /// The path, or the hub's id and the file within.
    pub source: String,
    /// The hub's commit, or a built-in corpus's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// SHA-256 of the file as stored, in hexadecimal. Absent when it was not read to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Size of the file as stored, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// One thing that was done to the records: reading, filtering, splitting.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Step {
    /// The operation, with its parameters.
    pub operation: String,
    /// Count of records that it let through.
    pub kept: u64,
    /// Counts of records that it dropped, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<String, u64>,
    /// Counts of records that it let through with a remark, by remark.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub noted: BTreeMap<String, u64>,
    /// The first few errors, if rows could not be read and the reader is lenient.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
}

impl Step {
    /// Count of dropped records, over all reasons.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }
}

/// The origin of records, and their treatment on the way.
///
/// ```
/// use rlaif_core::{Provenance, Step};
/// let mut provenance = Provenance::default();
/// provenance.steps.push(Step {
///     operation: "101 to 500 characters".into(),
///     kept: 1_056,
///     dropped: [("too short or too long".to_owned(), 1_256)].into(),
///     ..Step::default()
/// });
/// assert_eq!(provenance.steps[0].dropped_total(), 1_256);
/// assert!(provenance.to_string().contains("1056 kept, 1256 dropped (too short or too long: 1256)"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of rlaif.
    pub version: String,
    /// The sources read.
    pub origins: Vec<Origin>,
    /// The operations, in order.
    pub steps: Vec<Step>,
}

impl Default for Provenance {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            origins: Vec::new(),
            steps: Vec::new(),
        }
    }
}

impl std::fmt::Display for Provenance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "rlaif {}", self.version)?;
        for origin in &self.origins {
            write!(f, "from {}", origin.source)?;
            if let Some(revision) = &origin.revision {
                write!(f, " at {revision}")?;
            }
            if let Some(sha256) = &origin.sha256 {
                write!(f, ", sha256 {sha256}")?;
            }
            writeln!(f)?;
        }
        for step in &self.steps {
            writeln!(f, "{step}")?;
            for example in &step.examples {
                writeln!(f, "  {example}")?;
            }
        }
        Ok(())
    }
}

/// One line, without the examples.
impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} kept", self.operation, self.kept)?;
        if !self.dropped.is_empty() {
            write!(f, ", {} dropped ({})", self.dropped_total(), Counts(&self.dropped))?;
        }
        if !self.noted.is_empty() {
            write!(f, ", noted ({})", Counts(&self.noted))?;
        }
        Ok(())
    }
}

struct Counts<'a>(&'a BTreeMap<String, u64>);

impl std::fmt::Display for Counts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, (reason, count)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{reason}: {count}")?;
        }
        Ok(())
    }
}
