//! Decoding of encoder-decoder families: their state, and the pass over the prompts.

use rlaif_lm::{
    CacheShape, DecodeState, EncodedTokens, EncoderStates, KvCache, LmError, LmSpec, Memory,
    Padding, Room, TokenBatch,
};
use rlaif_torch::RowCount;
use tch::Tensor;

use super::{Attention, Seq2SeqTrunk, as_collated, padded};
use crate::{
    adapter::Pass,
    rows::{self, PackedRows},
};

/// An encoder and a decoder that continues token by token.
pub(crate) trait CachedTrunk: Seq2SeqTrunk {
    /// Number of heads of the decoder's attention, and their width.
    fn decoder_heads(&self) -> [i64; 2];

    /// The cross-attention of each block of the decoder, in order.
    fn crosses(&self) -> impl Iterator<Item = &Attention>;

    /// `true` if attention supports rows of different lengths without padding.
    fn attends_rows(&self, pass: Pass) -> bool;

    /// Runs the encoder over the tokens in the given layout.
    fn encode_as(
        &self,
        tokens: EncodedTokens,
        prompts: &TokenBatch,
        pass: Pass,
    ) -> Result<EncoderStates, LmError>;

    /// The encoder's last hidden states `[N, d_model]` of rows without padding.
    fn encode_rows(&self, packed: &PackedRows, pass: Pass) -> Tensor;

    /// Hidden states `[B, d_model]` after one more decoder token per row, over rows without padding.
    fn decode_rows(
        &self,
        state: &mut DecodeState,
        tokens: &Tensor,
        pass: Pass,
    ) -> Result<Tensor, LmError>;

    /// As [`CachedTrunk::decode_rows`], by libtorch's operations.
    fn decode_next(
        &self,
        state: &mut DecodeState,
        tokens: &Tensor,
        pass: Pass,
    ) -> Result<Tensor, LmError>;
}

/// Runs the encoder over the prompts, without padding if attention supports it.
pub(crate) fn encode(
    trunk: &impl CachedTrunk,
    prompts: &TokenBatch,
    pass: Pass,
) -> Result<EncoderStates, LmError> {
    let lengths: Vec<i64> = prompts.rows().iter().map(|row| row.len() as i64).collect();
    let unpadded = !prompts.is_full() && trunk.attends_rows(pass) && !lengths.contains(&0);
    let tokens = if unpadded { EncodedTokens::Unpadded(lengths) } else { as_collated(prompts) };
    trunk.encode_as(tokens, prompts, pass)
}

/// The encoder's states with padding, if attention does not support these rows without it.
pub(crate) fn padded_if_needed(
    trunk: &impl CachedTrunk,
    encoded: &EncoderStates,
    pass: Pass,
) -> Option<EncoderStates> {
    match &encoded.tokens {
        EncodedTokens::Unpadded(lengths) if !trunk.attends_rows(pass) => {
            Some(padded(&encoded.hidden, lengths))
        }
        EncodedTokens::Unpadded(_) | EncodedTokens::Padded(_) | EncodedTokens::Full => None,
    }
}

/// An empty state, with room for these rows.
pub(crate) fn open(
    trunk: &impl CachedTrunk,
    spec: &LmSpec,
    room: Room,
) -> Result<DecodeState, LmError> {
    let [heads, head_dim] = trunk.decoder_heads();
    let layers = trunk.crosses().count();
    let shape = CacheShape { layers, heads, head_dim, kind: spec.kind, device: spec.device };
    Ok(DecodeState {
        cache: KvCache::new(shape, room.rows, room.response)?,
        memory: Some(Memory::new(shape, room.rows, room.prompt)?),
    })
}

/// Runs the encoder over the prompts, and stores the keys and values of its states.
pub(crate) fn prefill(
    trunk: &impl CachedTrunk,
    spec: &LmSpec,
    state: &mut DecodeState,
    prompts: &TokenBatch,
    pass: Pass,
) -> Result<(), LmError> {
    if rows::serve(spec.kind, spec.device, pass) {
        return prefill_rows(trunk, state, prompts, pass);
    }
    let memory = state.memory.as_mut().ok_or(LmError::NoMemory)?;
    // The state stores rows left-aligned.
    let right = match prompts.padding() {
        Padding::Right => None,
        Padding::Left => Some(TokenBatch::collate(prompts.rows().to_vec(), spec, Padding::Right)?),
    };
    let prompts = right.as_ref().unwrap_or(prompts);
    let hidden = trunk.encode_as(as_collated(prompts), prompts, pass)?.hidden;
    for (i, cross) in trunk.crosses().enumerate() {
        let [k, v] = cross.keys_values(&hidden, pass);
        memory.layers().fill(i, &k, &v)?;
    }
    memory.enter(&prompts.rows().iter().map(Vec::len).collect::<Vec<_>>())?;
    state.cache.enter(&vec![0; prompts.len()])
}

fn prefill_rows(
    trunk: &impl CachedTrunk,
    state: &mut DecodeState,
    prompts: &TokenBatch,
    pass: Pass,
) -> Result<(), LmError> {
    let packed = PackedRows::new(prompts);
    let memory = state.memory.as_mut().ok_or(LmError::NoMemory)?;
    let encoded = trunk.encode_rows(&packed, pass);
    for (i, cross) in trunk.crosses().enumerate() {
        let [k, v] = rows::project(&encoded, None, [&cross.k, &cross.v], RowCount::Many, pass);
        memory.layers().fill_packed(i, &k, &v, &packed.lengths)?;
    }
    memory.enter(&packed.lengths)?;
    state.cache.enter(&vec![0; packed.lengths.len()])
}

/// Hidden states `[B, d_model]` after one more decoder token per row.
pub(crate) fn decode_step(
    trunk: &impl CachedTrunk,
    spec: &LmSpec,
    state: &mut DecodeState,
    tokens: &Tensor,
    pass: Pass,
) -> Result<Tensor, LmError> {
    if rows::serve(spec.kind, spec.device, pass) {
        trunk.decode_rows(state, tokens, pass)
    } else {
        trunk.decode_next(state, tokens, pass)
    }
}
