//! Rows of a batch: the tokens that count, orders, chunks.

use std::ops::Range;

use rlaif_core::Seed;
use rlaif_lm::{LmError, Mask, TokenBatch};
use tch::{Device, Kind, Tensor};

/// The mask of tokens that count: those of responses with a score, without those that the policy did not
/// choose (`given`, by row).
pub fn counted(
    responses: &TokenBatch,
    scores: &[Option<f64>],
    given: &[Vec<Range<usize>>],
) -> Mask {
    let width = responses.width();
    let mut real = Vec::with_capacity(responses.len() * width);
    for (row, score) in responses.rows().iter().zip(scores) {
        real.extend((0..width).map(|t| score.is_some() && t < row.len()));
    }
    for (row, given) in given.iter().enumerate() {
        for t in given.iter().flat_map(Clone::clone).take_while(|t| *t < width) {
            real[row * width + t] = false;
        }
    }
    let shape = [int(responses.len()), int(width)];
    Mask::new(Tensor::from_slice(&real).view(shape).to_device(responses.ids().device()))
}

/// A random order of `n` rows: a Fisher–Yates shuffle with numbers derived from the seed.
pub fn permutation(n: usize, seed: Seed) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        // The bias of a 64-bit remainder is negligible at these sizes.
        let j = seed.derive("swap", i as u64).get() % (i as u64 + 1);
        order.swap(i, usize::try_from(j).expect("below n"));
    }
    order
}

/// The passes over one minibatch. If one pass takes all rows, they keep their order; otherwise they
/// are sorted by the lengths of their responses, which reduces padding.
///
/// ```
/// let lengths = [3, 1, 2, 1];
/// let passes = |size| rlaif_rl::passes(&[0, 1, 2, 3], |row| lengths[row], size);
/// assert_eq!(passes(4), [[0, 1, 2, 3]]);
/// assert_eq!(passes(2), [[1, 3], [2, 0]]);
/// ```
pub fn passes(
    minibatch: &[usize],
    length: impl Fn(usize) -> usize,
    size: usize,
) -> Vec<Vec<usize>> {
    let mut rows = minibatch.to_vec();
    if rows.len() > size {
        rows.sort_by_key(|&row| (length(row), row));
    }
    rows.chunks(size).map(<[usize]>::to_vec).collect()
}

/// Joins rows that were computed in chunks, in the order of the batch and at its width: `pieces`
/// are `[b, t]` with t at most `width`, for the rows of each of `chunks`.
pub(crate) fn gather(
    pieces: &[Tensor],
    chunks: &[Vec<usize>],
    width: usize,
) -> Result<Tensor, LmError> {
    let wide: Vec<Tensor> = pieces
        .iter()
        .map(|piece| {
            let missing = int(width) - piece.size()[1];
            if missing == 0 { piece.shallow_clone() } else { piece.constant_pad_nd([0, missing]) }
        })
        .collect();
    let rows: Vec<usize> = chunks.concat();
    let mut places = vec![0i64; rows.len()];
    for (place, &row) in rows.iter().enumerate() {
        places[row] = int(place);
    }
    let all = Tensor::cat(&wide, 0);
    Ok(all.f_index_select(0, &Tensor::from_slice(&places).to_device(all.device()))?)
}

/// Selects rows of a tensor `[B, T]`, at width `width`.
pub fn pick(x: &Tensor, rows: &[usize], width: usize) -> Tensor {
    let index: Vec<i64> = rows.iter().copied().map(int).collect();
    x.narrow(1, 0, int(width)).index_select(0, &Tensor::from_slice(&index).to_device(x.device()))
}

/// A tensor's elements on the host.
pub fn host(x: &Tensor) -> Vec<f64> {
    let flat = x.to_kind(Kind::Double).to_device(Device::Cpu).reshape([-1]);
    Vec::<f64>::try_from(flat).expect("a vector of f64")
}

pub(crate) fn int(n: usize) -> i64 {
    i64::try_from(n).expect("a size fits 63 bits")
}

/// Scores as a tensor f32 `[B]`, 0 for a missing score.
pub fn score_tensor(scores: &[Option<f64>], device: Device) -> Tensor {
    let values: Vec<f64> = scores.iter().map(|score| score.unwrap_or(0.)).collect();
    Tensor::from_slice(&values).to_kind(Kind::Float).to_device(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_permutation_and_follows_the_seed() {
        let seed = Seed::new(3);
        for n in [1, 2, 17, 128] {
            let mut order = permutation(n, seed);
            assert_eq!(order, permutation(n, seed));
            order.sort_unstable();
            assert_eq!(order, (0..n).collect::<Vec<_>>());
        }
        assert_ne!(permutation(50, seed), permutation(50, Seed::new(4)));
    }

    #[test]
    fn every_order_of_three_is_about_as_likely() {
        let mut seen = std::collections::BTreeMap::new();
        for n in 0..6000 {
            *seen.entry(permutation(3, Seed::new(n))).or_insert(0) += 1;
        }
        // 1000 expected; five standard deviations are 145.
        assert!(seen.len() == 6 && seen.values().all(|n| (855..=1145).contains(n)), "{seen:?}");
    }

    #[test]
    fn pieces_come_back_in_the_order_of_the_batch() {
        let pieces =
            [Tensor::from_slice2(&[[20f32, 21.], [0., 1.]]), Tensor::from_slice2(&[[10f32]])];
        let whole = gather(&pieces, &[vec![2, 0], vec![1]], 3).unwrap();
        let rows = Vec::<Vec<f32>>::try_from(&whole).unwrap();
        assert_eq!(rows, [[0., 1., 0.], [10., 0., 0.], [20., 21., 0.]]);
        let picked = Vec::<Vec<f32>>::try_from(pick(&whole, &[2, 1], 1)).unwrap();
        assert_eq!(picked, [[20.], [10.]]);
    }
}
