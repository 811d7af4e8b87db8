//! Counts of the rows that a run does not learn from.

use std::collections::BTreeMap;

/// Counts of training rows that were skipped, by reason, or truncated.
///
/// ```
/// use rlaif_run::SkippedRows;
/// let mut skipped = SkippedRows::default();
/// assert_eq!(skipped.to_string(), "none left out");
/// skipped.leave_out("nothing to learn");
/// skipped.cut += 2;
/// assert_eq!(skipped.to_string(), "1 left out (nothing to learn), 2 cut");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkippedRows {
    /// Rows that were left out, by why.
    pub out: BTreeMap<String, u64>,
    /// Rows that were cut to fit.
    pub cut: u64,
}

impl SkippedRows {
    /// Counts one more row that is left out.
    pub fn leave_out(&mut self, why: &str) {
        *self.out.entry(why.to_owned()).or_default() += 1;
    }

    /// Counts what was counted elsewhere as well.
    pub fn add(&mut self, other: Self) {
        for (why, n) in other.out {
            *self.out.entry(why).or_default() += n;
        }
        self.cut += other.cut;
    }
}

impl std::fmt::Display for SkippedRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts: Vec<String> =
            self.out.iter().map(|(why, n)| format!("{n} left out ({why})")).collect();
        if parts.is_empty() {
            parts.push("none left out".to_owned());
        }
        if self.cut > 0 {
            parts.push(format!("{} cut", self.cut));
        }
        f.write_str(&parts.join(", "))
    }
}
