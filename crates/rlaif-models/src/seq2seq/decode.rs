//! Passes of encoder-decoder families: training over whole responses, and decoding with its state.

use rlaif_lm::{
    CacheShape, DecodeState, EncodedTokens, EncoderStates, KvCache, LmError, LmSpec, Memory,
    Padding, Room, TokenBatch,
};
use rlaif_torch::RowCount;
use tch::Tensor;

use super::{Cover, CrossKeys, TrunkLayers, as_collated, padded};
use crate::{
    adapter::Pass,
    layers::{Embedding, hide},
    rows::{self, PackedRows},
};

/// An encoder and a decoder, without a head.
pub(crate) trait Seq2SeqTrunk: std::fmt::Debug + Send {
    /// The embeddings of the encoder and of the decoder.
    fn words(&self) -> &[Embedding; 2];

    /// Number of heads of the decoder's attention, and their width.
    fn decoder_heads(&self) -> [i64; 2];

    /// The keys and values of the cross-attention of each block of the decoder, in order.
    fn crosses(&self) -> impl Iterator<Item = CrossKeys<'_>>;

    /// `true` if attention supports rows of different lengths without padding.
    fn attends_rows(&self, pass: Pass) -> bool;

    /// The encoder's last hidden states of embedded prompts in the given layout.
    fn encode(
        &self,
        embedded: Tensor,
        prompts: &TokenBatch,
        tokens: &EncodedTokens,
        pass: Pass,
    ) -> Result<Tensor, LmError>;

    /// The encoder's last hidden states `[N, d_model]` of embedded rows without padding.
    fn encode_rows(&self, embedded: Tensor, packed: &PackedRows, pass: Pass) -> Tensor;

    /// The decoder's last hidden states of embedded tokens `[B, T, d_model]`, with the encoder's states and
    /// the exclusion of their padding.
    fn decode(
        &self,
        embedded: Tensor,
        encoded: (&Tensor, &Cover),
        pass: Pass,
    ) -> Result<Tensor, LmError>;

    /// Hidden states `[B, d_model]` after one more decoder token per row, over rows without padding.
    fn decode_rows(&self, step: RowStep<'_>, pass: Pass) -> Tensor;

    /// As [`Self::decode_rows`], `[B, 1, d_model]`, by libtorch's operations.
    fn decode_next(&self, step: Step<'_>, pass: Pass) -> Tensor;

    /// The layers that adapters can be put on.
    fn layers(&mut self) -> TrunkLayers<'_>;
}

/// One more token of the decoder in each row.
pub(crate) struct RowStep<'a> {
    /// `[B, d_model]`.
    pub(crate) embedded: Tensor,
    pub(crate) cache: &'a mut KvCache,
    pub(crate) memory: &'a Memory,
    /// Numbers of the decoder's tokens that each row attends to.
    pub(crate) lengths: Vec<i64>,
    /// Numbers of the prompt's tokens that each row attends to.
    pub(crate) prompts: Vec<i64>,
}

/// As [`RowStep`], with padding.
pub(crate) struct Step<'a> {
    /// `[B, 1, d_model]`.
    pub(crate) embedded: Tensor,
    pub(crate) cache: &'a mut KvCache,
    pub(crate) memory: &'a Memory,
    /// The bias that hides the padding of prompts.
    pub(crate) hidden: Option<Tensor>,
}

/// Runs the encoder over the prompts, without padding if attention supports it.
pub(crate) fn encode(
    trunk: &impl Seq2SeqTrunk,
    prompts: &TokenBatch,
    pass: Pass,
) -> Result<EncoderStates, LmError> {
    let lengths: Vec<i64> = prompts.rows().iter().map(|row| row.len() as i64).collect();
    let unpadded = !prompts.is_full() && trunk.attends_rows(pass) && !lengths.contains(&0);
    let tokens = if unpadded { EncodedTokens::Unpadded(lengths) } else { as_collated(prompts) };
    encode_as(trunk, tokens, prompts, pass)
}

/// Runs the encoder over the tokens in the given layout.
fn encode_as(
    trunk: &impl Seq2SeqTrunk,
    tokens: EncodedTokens,
    prompts: &TokenBatch,
    pass: Pass,
) -> Result<EncoderStates, LmError> {
    let words = &trunk.words()[0];
    let embedded = match &tokens {
        EncodedTokens::Unpadded(_) => words.adapted(&prompts.unpadded_ids(), pass),
        EncodedTokens::Full | EncodedTokens::Padded(_) => words.adapted(prompts.ids(), pass),
    };
    Ok(EncoderStates { hidden: trunk.encode(embedded, prompts, &tokens, pass)?, tokens })
}

/// Last hidden states `[B, T, d_model]` of the decoder for ids `[B, T]`.
pub(crate) fn decode(
    trunk: &impl Seq2SeqTrunk,
    ids: &Tensor,
    encoded: &EncoderStates,
    pass: Pass,
) -> Result<Tensor, LmError> {
    let padded = padded_if_needed(trunk, encoded, pass);
    let encoded = padded.as_ref().unwrap_or(encoded);
    let embedded = trunk.words()[1].adapted(ids, pass);
    let cover = Cover::cross_attention(&encoded.tokens, ids.size()[1], embedded.kind());
    trunk.decode(embedded, (&encoded.hidden, &cover), pass)
}

/// The encoder's states with padding, if attention does not support these rows without it.
fn padded_if_needed(
    trunk: &impl Seq2SeqTrunk,
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
    trunk: &impl Seq2SeqTrunk,
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
    trunk: &impl Seq2SeqTrunk,
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
    let hidden = encode_as(trunk, as_collated(prompts), prompts, pass)?.hidden;
    for (i, cross) in trunk.crosses().enumerate() {
        let [k, v] = cross.of(&hidden, pass);
        memory.layers().fill(i, &k, &v)?;
    }
    memory.enter(&prompts.rows().iter().map(Vec::len).collect::<Vec<_>>())?;
    state.cache.enter(&vec![0; prompts.len()])
}

fn prefill_rows(
    trunk: &impl Seq2SeqTrunk,
    state: &mut DecodeState,
    prompts: &TokenBatch,
    pass: Pass,
) -> Result<(), LmError> {
    let packed = PackedRows::new(prompts);
    let memory = state.memory.as_mut().ok_or(LmError::NoMemory)?;
    let embedded = trunk.words()[0].adapted(&packed.ids, pass);
    let encoded = trunk.encode_rows(embedded, &packed, pass);
    for (i, cross) in trunk.crosses().enumerate() {
        let [k, v] = rows::project(&encoded, None, [cross.k, cross.v], RowCount::Many, pass);
        memory.layers().fill_packed(i, &k, &v, &packed.lengths)?;
    }
    memory.enter(&packed.lengths)?;
    state.cache.enter(&vec![0; packed.lengths.len()])
}

/// Hidden states `[B, d_model]` after one more decoder token per row.
pub(crate) fn decode_step(
    trunk: &impl Seq2SeqTrunk,
    spec: &LmSpec,
    state: &mut DecodeState,
    tokens: &Tensor,
    pass: Pass,
) -> Result<Tensor, LmError> {
    let DecodeState { cache, memory } = state;
    let memory = memory.as_ref().ok_or(LmError::NoMemory)?;
    cache.check_space()?;
    let words = &trunk.words()[1];
    if rows::serve(spec.kind, spec.device, pass) {
        let plus = |lengths: &[usize], more| lengths.iter().map(|&n| n as i64 + more).collect();
        let (lengths, prompts) =
            (plus(cache.layers().lengths(), 1), plus(memory.layers().lengths(), 0));
        let embedded = words.adapted(tokens, pass);
        return Ok(trunk.decode_rows(RowStep { embedded, cache, memory, lengths, prompts }, pass));
    }
    let embedded = words.adapted(&tokens.unsqueeze(1), pass);
    let hidden = memory.visible().map(|seen| hide(seen, words.weight().kind()));
    Ok(trunk.decode_next(Step { embedded, cache, memory, hidden }, pass).squeeze_dim(1))
}
