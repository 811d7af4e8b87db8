//! Decoder-only language models, and their policy.

use tch::Tensor;

use crate::{
    batch::{Padding, TokenBatch, int},
    branches::{Branches, whole_rounds},
    cache::DecodeState,
    decoder::DecoderLm,
    error::LmError,
    forward::{Forward, Layout},
    policy::Policy,
    policy_by,
    spec::LmSpec,
};

/// A decoder-only language model. Implement it to add one; [`CausalPolicy`] makes it a [`Policy`].
///
/// In its state each row has room for [`crate::Room::total`] tokens, and [`DecoderLm::prefill`] reads tokens of
/// the decoder: a row may be empty.
pub trait CausalLm: DecoderLm {
    /// Last hidden states `[B, T, H]`, after the final norm. Padding on either side does not affect
    /// the rows of real tokens. In a batch with [`TokenBatch::segments`], positions restart at each
    /// segment, and tokens attend only within their segment.
    ///
    /// # Errors
    /// [`LmError::Torch`], [`LmError::UnknownAdapter`].
    fn hidden(&self, input: &TokenBatch, forward: Forward<'_>) -> Result<Tensor, LmError>;

    /// Last hidden states `[N, H]` of concatenated tokens, after the final norm. The default
    /// computes every row separately, including padding and repeated prompts; a model that can work
    /// on the concatenated tokens overrides it.
    ///
    /// # Errors
    /// As [`CausalLm::hidden`].
    fn run_hidden(&self, run: &Branches, forward: Forward<'_>) -> Result<Tensor, LmError> {
        Ok(run.from_rows(&self.hidden(&run.rows(self.spec())?, forward)?))
    }
}

/// A decoder-only model as a policy.
///
/// Prompt and response are joined without a hole and padded on the right, so that attention needs
/// no mask beyond causality and no column is spent on prompt padding.
#[derive(Debug)]
pub struct CausalPolicy<M>(pub M);

impl<M: CausalLm> Policy for CausalPolicy<M> {
    policy_by! { 0: spec head open step parameters }

    fn response_hidden(
        &self,
        prompts: &TokenBatch,
        responses: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        let spec = self.spec();
        same_rows(prompts, responses)?;
        // A response that starts over is several sequences: the first behind the prompt, the others on their own.
        let mut joined = Vec::with_capacity(prompts.len());
        let mut parts = Vec::with_capacity(prompts.len());
        for (row, (prompt, response)) in prompts.rows().iter().zip(responses.rows()).enumerate() {
            let whole = [response.len()];
            let lengths = responses.segments().map_or(&whole[..], |all| &all[row]);
            let mut start = 0;
            for &length in lengths {
                let before = if start == 0 { &**prompt } else { &[] };
                let part = &response[start..start + length];
                spec.check_length(row, before.len() + length)?;
                // The last token of a part predicts nothing that is asked for, but is routed.
                let unread = usize::from(forward.routers.is_none() && before.len() + length > 1);
                let inputs = &part[..length.saturating_sub(unread)];
                joined.push([before, inputs].concat());
                parts.push((row, start, before.len()));
                start += length;
            }
        }
        let (joined, places) = laid_out(joined, forward.layout, spec)?;
        let hidden = self.0.hidden(&joined, forward)?;

        let [_, width, size] = sizes(&hidden);
        // Where in the flattened states the token before each part is. Nothing predicts the first token of a part
        // that starts over, so any place serves.
        let starts = places.iter().zip(&parts).map(|(&(row, column), (.., before))| {
            (int(row) * width + int(column + before) - 1).max(0)
        });
        let starts: Vec<i64> = starts.collect();
        let flat = hidden.reshape([-1, size]);
        let on_device = |x: &[i64]| Tensor::from_slice(x).to_device(spec.device);
        let picked = if responses.segments().is_none() {
            let offsets = Tensor::arange(int(responses.width()), (tch::Kind::Int64, spec.device));
            on_device(&starts).unsqueeze(1) + offsets
        } else {
            let columns = responses.width();
            let mut all = vec![0; prompts.len() * columns];
            for (&(row, from, _), start) in parts.iter().zip(starts) {
                for (to, place) in
                    all[row * columns + from..(row + 1) * columns].iter_mut().zip(start..)
                {
                    *to = place;
                }
            }
            on_device(&all)
        };
        // Beyond a response's end any value will do, but the index must not exceed the states.
        let picked = flat.index_select(0, &picked.view([-1]).clamp_max(flat.size()[0] - 1));
        Ok(picked.view([int(prompts.len()), int(responses.width()), size]))
    }

    fn branch_hidden(
        &self,
        prompts: &TokenBatch,
        responses: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        if responses.segments().is_some() {
            whole_rounds(prompts, responses)?;
            let rows: Vec<usize> = (0..responses.len()).map(|row| row % prompts.len()).collect();
            return self.response_hidden(&prompts.select(&rows)?, responses, forward);
        }
        let run = Branches::new(prompts, responses, self.spec())?;
        Ok(run.predicting(&self.0.run_hidden(&run, forward)?))
    }

    /// Everything but a prompt's last token is read at once; that one is the first step's.
    fn enter(
        &self,
        state: &mut DecodeState,
        prompts: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<Vec<u32>, LmError> {
        let spec = self.spec();
        let mut firsts = Vec::with_capacity(prompts.len());
        let mut rest = Vec::with_capacity(prompts.len());
        for (row, prompt) in prompts.rows().iter().enumerate() {
            let (&last, before) = prompt.split_last().ok_or(LmError::EmptyInput { row })?;
            firsts.push(last);
            rest.push(before.to_vec());
        }
        let rest = TokenBatch::pad(rest, spec.pad_id, Padding::Right, spec.device)?;
        self.0.prefill(state, &rest, forward)?;
        Ok(firsts)
    }
}

/// Sequences as a batch, and the row and column of the batch at which each begins.
fn laid_out(
    sequences: Vec<Vec<u32>>,
    layout: Layout,
    spec: &LmSpec,
) -> Result<(TokenBatch, Vec<(usize, usize)>), LmError> {
    let Layout::Packed(room) = layout else {
        let places = (0..sequences.len()).map(|row| (row, 0)).collect();
        return Ok((TokenBatch::pad(sequences, spec.pad_id, Padding::Right, spec.device)?, places));
    };
    // First fit, the longest first.
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(sequences[i].len()));
    let room = room.max(order.first().map_or(0, |&i| sequences[i].len()));
    let mut places = vec![(0, 0); sequences.len()];
    let mut rows: Vec<(usize, Vec<Vec<u32>>)> = Vec::new();
    let mut sequences: Vec<Option<Vec<u32>>> = sequences.into_iter().map(Some).collect();
    for i in order {
        let Some(sequence) = sequences[i].take() else { continue };
        let row = match rows.iter().position(|(filled, _)| filled + sequence.len() <= room) {
            Some(row) => row,
            None => {
                rows.push((0, Vec::new()));
                rows.len() - 1
            }
        };
        let (filled, packed) = &mut rows[row];
        places[i] = (row, *filled);
        *filled += sequence.len();
        packed.push(sequence);
    }
    let rows = rows.into_iter().map(|(_, packed)| packed).collect();
    Ok((TokenBatch::packed(rows, spec.pad_id, spec.device)?, places))
}

pub(crate) fn same_rows(prompts: &TokenBatch, responses: &TokenBatch) -> Result<(), LmError> {
    if prompts.len() == responses.len() {
        return Ok(());
    }
    Err(LmError::BatchMismatch {
        what: "responses of a batch of prompts",
        expected: prompts.len(),
        found: responses.len(),
    })
}

fn sizes(hidden: &Tensor) -> [i64; 3] {
    let (batch, width, size) = hidden.size3().expect("hidden states are [B, T, H]");
    [batch, width, size]
}
