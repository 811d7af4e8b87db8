//! What a batch of prompts came to: responses, scores, and what the models say of them.

use rlaif_core::{PromptRecord, Record, Seed};
use rlaif_lm::{LmError, Mask, TokenBatch, generate::FinishReason};
use tch::{Device, Kind, Tensor};

use crate::error::PpoError;

/// A prompt as text and as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// What rewards and reports read.
    pub record: PromptRecord,
    /// What the policy reads: the tokens of `record.prompt`, special tokens included.
    pub ids: Vec<u32>,
}

impl Record for Prompt {
    fn id(&self) -> &str {
        &self.record.id
    }
}

/// One batch of experience. Tensors are f32 `[B, T]`, 0 where masked; T is the longest response.
#[derive(Debug)]
pub struct Rollout {
    /// The trainer's step it was sampled at.
    pub step: u64,
    /// What was asked; empty if ids alone were brought.
    pub records: Vec<PromptRecord>,
    /// Token ids of the prompts.
    pub prompts: TokenBatch,
    /// Token ids of the responses, EOS included.
    pub responses: TokenBatch,
    /// The responses as text, as reward models read them; empty if ids alone were brought.
    pub texts: Vec<String>,
    /// Why each response ended; empty if ids alone were brought.
    pub finish: Vec<FinishReason>,
    /// The tokens that count: rewards, advantages, losses and statistics go by it.
    pub mask: Mask,
    /// log π(y_t), by the weights that sampled.
    pub log_probs: Tensor,
    /// log π_ref(y_t).
    pub ref_log_probs: Tensor,
    /// The KL penalty's estimate at each token.
    pub kl: Tensor,
    /// V(s_t), by the weights that sampled.
    pub values: Tensor,
    /// The score of each response as the reward model gave it, less the penalty for a missing EOS;
    /// `None` where the response is dropped.
    pub scores: Vec<Option<f64>>,
    /// What scores are made of, by name.
    pub parts: Vec<(String, Vec<Option<f64>>)>,
    /// The scores after scaling and clipping, which are trained on.
    pub shaped_scores: Vec<Option<f64>>,
    /// In which order each epoch of an update takes the rows. Drawn with the rollout, because its
    /// log-probabilities are computed in the batches of the first epoch: the first ratio is exactly
    /// 1 for that.
    pub orders: Vec<Vec<usize>>,
    /// Mean absolute difference between the log-probabilities of the sampler and of the training
    /// pass, in nats; `None` if responses were brought.
    pub sampler_gap: Option<f64>,
    /// Seconds of each phase so far, by the names of `time/ppo/`.
    pub seconds: Vec<(&'static str, f64)>,
}

impl Rollout {
    /// Number of responses B.
    pub fn len(&self) -> usize {
        self.responses.len()
    }

    /// Never true: a batch has rows.
    pub fn is_empty(&self) -> bool {
        self.responses.is_empty()
    }

    /// Whether a tensor has a number for each token.
    pub(crate) fn check_shape(&self, what: &'static str, found: &Tensor) -> Result<(), PpoError> {
        let expected = [int(self.len()), int(self.responses.width())];
        if found.size() == expected {
            return Ok(());
        }
        Err(PpoError::Shape { what, expected, found: found.size() })
    }

    /// Which rows count: those with a score.
    pub(crate) fn counts(&self, row: usize) -> bool {
        self.scores[row].is_some()
    }

    /// Tokens of a row that count.
    pub(crate) fn tokens(&self, row: usize, skipped: usize) -> usize {
        if !self.counts(row) {
            return 0;
        }
        self.responses.rows()[row].len().saturating_sub(skipped)
    }
}

/// The mask of tokens that count: those of responses with a score, less the first `skipped`.
pub(crate) fn counted(responses: &TokenBatch, scores: &[Option<f64>], skipped: usize) -> Mask {
    let width = responses.width();
    let real: Vec<bool> = responses
        .rows()
        .iter()
        .zip(scores)
        .flat_map(|(row, score)| {
            (0..width).map(|t| score.is_some() && t >= skipped && t < row.len())
        })
        .collect();
    let shape = [int(responses.len()), int(width)];
    Mask::new(Tensor::from_slice(&real).view(shape).to_device(responses.ids().device()))
}

/// An order of `n` rows: Fisher and Yates, with numbers derived from the seed.
pub(crate) fn permutation(n: usize, seed: Seed) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        // The bias of a 64-bit remainder is beyond measure at these sizes.
        let j = seed.derive("swap", i as u64).get() % (i as u64 + 1);
        order.swap(i, usize::try_from(j).expect("below n"));
    }
    order
}

/// Rows that were computed in pieces, in the order of the batch and at its width: `pieces` are
/// `[b, t]` with t at most `width`, for the rows of `chunks` in turn.
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

/// The rows of a tensor `[B, T]`, at width `width`.
pub(crate) fn pick(x: &Tensor, rows: &[usize], width: usize) -> Tensor {
    let index: Vec<i64> = rows.iter().copied().map(int).collect();
    x.narrow(1, 0, int(width)).index_select(0, &Tensor::from_slice(&index).to_device(x.device()))
}

pub(crate) fn int(n: usize) -> i64 {
    i64::try_from(n).expect("a size fits 63 bits")
}

/// Scores as a tensor f32 `[B]`, 0 where there is none.
pub(crate) fn score_tensor(scores: &[Option<f64>], device: Device) -> Tensor {
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
