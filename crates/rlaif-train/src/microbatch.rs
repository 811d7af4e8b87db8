//! Division of an optimizer batch into forward passes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Grouping of the rows of an optimizer batch into forward passes. It changes time and memory only:
/// losses are means over the whole batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Batching {
    /// In order, padded to the longest row.
    Padded,
    /// Sorted by length, and divided where the saved padding is worth another pass.
    #[default]
    Length,
    /// As with `length`, but rows are concatenated instead of padded; attention stays within each
    /// row. Decoder-only models.
    Packed,
}

/// Returns the rows of one forward and backward pass, from the setting `microbatch_size`, in which 0
/// means the whole batch of `rows`.
///
/// ```
/// use rlaif_train::rows_of_pass;
/// assert_eq!((rows_of_pass(0, 32), rows_of_pass(4, 32)), (32, 4));
/// ```
#[must_use]
pub fn rows_of_pass(microbatch_size: usize, rows: usize) -> usize {
    if microbatch_size == 0 { rows } else { microbatch_size }
}

/// Cost of an additional pass besides its tokens (accumulating gradients, launching kernels), in
/// tokens.
const PASS: usize = 24;

impl Batching {
    /// Divides rows of these lengths into groups of at most `rows`, as indices.
    ///
    /// ```
    /// use rlaif_train::Batching;
    /// let groups = Batching::Length.divide(&[500, 20, 510, 25], 4);
    /// assert_eq!(groups, [vec![1, 3], vec![0, 2]]);
    /// assert_eq!(Batching::Padded.divide(&[500, 20, 510], 2), [vec![0, 1], vec![2]]);
    /// ```
    ///
    /// # Panics
    /// If `rows` is 0.
    #[must_use]
    pub fn divide(self, lengths: &[usize], rows: usize) -> Vec<Vec<usize>> {
        assert!(rows > 0, "a forward pass has at least one row");
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        match self {
            Self::Padded | Self::Packed => order.chunks(rows).map(<[usize]>::to_vec).collect(),
            Self::Length => {
                order.sort_by_key(|&i| lengths[i]);
                cheapest(&order, lengths, rows)
            }
        }
    }
}

/// The division of sorted rows into consecutive groups with the lowest total cost of padded tokens
/// and passes.
fn cheapest(order: &[usize], lengths: &[usize], rows: usize) -> Vec<Vec<usize>> {
    let n = order.len();
    // best[i]: the lowest cost of the first i rows, and the start of their last group.
    let mut best: Vec<(usize, usize)> = vec![(0, 0)];
    for end in 1..=n {
        let longest = lengths[order[end - 1]];
        let candidates = (end.saturating_sub(rows)..end)
            .map(|start| (best[start].0 + (end - start) * longest + PASS, start));
        best.push(candidates.min().expect("a group has at least one row"));
    }
    let mut groups = Vec::new();
    let mut end = n;
    while end > 0 {
        let start = best[end].1;
        groups.push(order[start..end].to_vec());
        end = start;
    }
    groups.reverse();
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cost(groups: &[Vec<usize>], lengths: &[usize]) -> usize {
        groups
            .iter()
            .map(|g| g.len() * g.iter().map(|&i| lengths[i]).max().unwrap_or(0) + PASS)
            .sum()
    }

    /// The lowest cost over all divisions of a sorted list.
    fn least(order: &[usize], lengths: &[usize], rows: usize) -> usize {
        let n = order.len();
        (0u32..1 << (n - 1))
            .filter_map(|cuts| {
                let mut groups = vec![vec![order[0]]];
                for (i, &row) in order.iter().enumerate().skip(1) {
                    if cuts >> (i - 1) & 1 == 1 {
                        groups.push(vec![]);
                    }
                    groups.last_mut()?.push(row);
                }
                groups.iter().all(|g| g.len() <= rows).then(|| cost(&groups, lengths))
            })
            .min()
            .unwrap()
    }

    proptest! {
        #[test]
        fn every_row_is_there_once_and_no_division_is_cheaper(
            lengths in prop::collection::vec(1usize..300, 1..9), rows in 1usize..9
        ) {
            for batching in [Batching::Padded, Batching::Length] {
                let groups = batching.divide(&lengths, rows);
                prop_assert!(groups.iter().all(|g| !g.is_empty() && g.len() <= rows));
                let mut all: Vec<usize> = groups.concat();
                all.sort_unstable();
                prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            }
            let mut order: Vec<usize> = (0..lengths.len()).collect();
            order.sort_by_key(|&i| lengths[i]);
            let groups = Batching::Length.divide(&lengths, rows);
            prop_assert_eq!(cost(&groups, &lengths), least(&order, &lengths, rows));
        }
    }
}
