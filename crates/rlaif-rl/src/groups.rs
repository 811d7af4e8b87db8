//! Groups: the responses to one prompt.

use std::{collections::HashMap, sync::Arc};

use rlaif_core::PromptRecord;

/// Rows of a batch, grouped by prompt.
///
/// ```
/// let groups = rlaif_rl::Groups::of(["a", "b", "a"]);
/// assert_eq!(groups.rows(), [vec![0, 2], vec![1]]);
/// assert_eq!(groups.smallest(), 1);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups(Vec<Vec<usize>>);

impl Groups {
    /// Groups the rows by the ids of their prompts, in the order of each id's first row.
    pub fn of<'a>(ids: impl IntoIterator<Item = &'a str>) -> Self {
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (row, id) in ids.into_iter().enumerate() {
            let place = *places.entry(id).or_insert(groups.len());
            if place == groups.len() {
                groups.push(Vec::new());
            }
            groups[place].push(row);
        }
        Self(groups)
    }

    /// Groups rows by the ids of their records.
    pub fn of_records(records: &[Arc<PromptRecord>]) -> Self {
        Self::of(records.iter().map(|record| record.id.as_str()))
    }

    /// Groups of `size` consecutive rows each; the last group may be smaller.
    pub fn of_size(rows: usize, size: usize) -> Self {
        let all: Vec<usize> = (0..rows).collect();
        Self(all.chunks(size.max(1)).map(<[usize]>::to_vec).collect())
    }

    /// The rows of each group.
    pub fn rows(&self) -> &[Vec<usize>] {
        &self.0
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// `true` without any row.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Rows of the smallest group; 0 without groups.
    pub fn smallest(&self) -> usize {
        self.0.iter().map(Vec::len).min().unwrap_or(0)
    }
}
