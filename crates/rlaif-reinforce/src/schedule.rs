//! Schedule of an update: complete groups in each minibatch, equal prompts together in each pass.

use rlaif_core::Seed;
use rlaif_rl::{Groups, permutation};

/// The rows of each forward and backward pass of an optimizer step.
pub type Minibatch = Vec<Vec<usize>>;

/// The passes of each minibatch of each epoch. The order of groups changes with every epoch.
///
/// A pass holds the first responses to all its prompts, then the second responses, and so on,
/// so that a policy can compute each prompt once ([`rlaif_lm::Policy::branch_hidden`]).
pub(crate) fn schedule(
    groups: &Groups,
    length: impl Fn(usize) -> usize,
    sizes: Sizes,
    seed: Seed,
) -> Vec<Vec<Minibatch>> {
    let epoch = |epoch: u64| {
        let order = permutation(groups.len(), seed.derive("epoch", epoch));
        let minibatches = order.chunks(sizes.groups);
        minibatches.map(|of| passes(groups, of, &length, sizes.microbatch)).collect()
    };
    (0..sizes.epochs as u64).map(epoch).collect()
}

/// Sizes of an update.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) epochs: usize,
    /// Groups of an optimizer step.
    pub(crate) groups: usize,
    /// Responses of a pass.
    pub(crate) microbatch: usize,
}

fn passes(
    groups: &Groups,
    of: &[usize],
    length: impl Fn(usize) -> usize,
    microbatch: usize,
) -> Minibatch {
    let size = of.iter().map(|&group| groups.rows()[group].len()).max().unwrap_or(1);
    if microbatch < size {
        let rows = of.iter().flat_map(|&group| groups.rows()[group].chunks(microbatch));
        return rows.map(<[usize]>::to_vec).collect();
    }
    let together = microbatch / size;
    let mut of = of.to_vec();
    if of.len() > together {
        // Groups of similar length share a minibatch, so that short responses need little padding.
        let longest = |group: usize| groups.rows()[group].iter().map(|&row| length(row)).max();
        of.sort_by_key(|&group| (longest(group), group));
    }
    let pass = |part: &[usize]| {
        (0..size)
            .flat_map(|at| part.iter().filter_map(move |&g| groups.rows()[g].get(at).copied()))
            .collect()
    };
    of.chunks(together).map(pass).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minibatches_hold_whole_groups_and_passes_take_prompts_in_rounds() {
        let groups = Groups::of_size(12, 3);
        let sizes = |microbatch| Sizes { epochs: 2, groups: 2, microbatch };
        let of = |microbatch| schedule(&groups, |row| row, sizes(microbatch), Seed::new(1));
        for microbatch in [1, 3, 6] {
            let all = of(microbatch);
            assert_eq!((all.len(), all[0].len()), (2, 2));
            for epoch in &all {
                let mut rows: Vec<usize> = epoch.concat().concat();
                for minibatch in epoch {
                    let mut of: Vec<usize> = minibatch.concat();
                    of.sort_unstable();
                    assert!(of.chunks(3).all(|g| g[0] % 3 == 0 && g[2] == g[0] + 2), "{of:?}");
                    assert!(minibatch.iter().all(|pass| pass.len() == microbatch));
                }
                rows.sort_unstable();
                assert_eq!(rows, (0..12).collect::<Vec<_>>());
            }
        }
        for pass in of(6).concat().concat() {
            assert_eq!([pass[2] - pass[0], pass[4] - pass[2]], [1, 1], "{pass:?}");
        }
    }
}
