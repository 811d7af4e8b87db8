//! The difference between a family's checkpoints and its GGUF files.

use crate::llama::{LlamaVariant, NormPlaces, NormRule};

/// The form of a family's GGUF files: the row of the family table that reads and writes them.
#[derive(Debug, Clone, Copy)]
pub struct GgufLayout {
    /// `general.architecture` in the file.
    pub architecture: &'static str,
    /// The order of the rows of queries and keys.
    pub rotary: GgufRotary,
    /// The computation of the family.
    pub variant: &'static LlamaVariant,
    /// The beginning of a text for a SentencePiece tokenizer where the file does not say it.
    pub text_start: GgufTextStart,
    /// The number of layers of the model whose attention is scaled by the hidden size divided by the number of
    /// heads, where others have the size of a head: the file does not say it, and llama.cpp knows the model by
    /// this number.
    pub scaled_by_share: Option<u64>,
}

/// The beginning of a text for a SentencePiece tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufTextStart {
    /// The tokenizer puts a space before the text.
    Space,
    /// The text is encoded as it is.
    Bare,
}

/// The order in which a head's numbers are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufRotary {
    /// Number i with number i + d/2, as in transformers.
    Halves,
    /// Number 2i with number 2i + 1.
    Pairs,
}

/// The difference between a tensor in the file and in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Same,
    /// The rows of query heads.
    Queries,
    /// The rows of key heads.
    Keys,
    /// The factors of a norm; the file has them with 1 added if the model computes `(1 + w) · x̂`.
    Norm,
}

/// The tensors outside of blocks: name in the file, name in transformers.
const OUTSIDE: [(&str, &str, Change); 3] = [
    ("token_embd", "model.embed_tokens", Change::Same),
    ("output_norm", "model.norm", Change::Norm),
    ("output", "lm_head", Change::Same),
];

/// The tensors of a block.
const IN_BLOCKS: [(&str, &str, Change); 10] = [
    ("attn_norm", "input_layernorm", Change::Norm),
    ("attn_q", "self_attn.q_proj", Change::Queries),
    ("attn_k", "self_attn.k_proj", Change::Keys),
    ("attn_v", "self_attn.v_proj", Change::Same),
    ("attn_output", "self_attn.o_proj", Change::Same),
    ("attn_q_norm", "self_attn.q_norm", Change::Norm),
    ("attn_k_norm", "self_attn.k_norm", Change::Norm),
    ("ffn_gate", "mlp.gate_proj", Change::Same),
    ("ffn_up", "mlp.up_proj", Change::Same),
    ("ffn_down", "mlp.down_proj", Change::Same),
];

/// The norm between attention and feed-forward layer.
const BEFORE: [(&str, &str, Change); 1] = [("ffn_norm", "post_attention_layernorm", Change::Norm)];

/// The norms of blocks that have them around each layer.
const AROUND: [(&str, &str, Change); 3] = [
    ("post_attention_norm", "post_attention_layernorm", Change::Norm),
    ("ffn_norm", "pre_feedforward_layernorm", Change::Norm),
    ("post_ffw_norm", "post_feedforward_layernorm", Change::Norm),
];

impl GgufLayout {
    /// `true` if a block has norms before and after each layer.
    pub(super) fn around(&self) -> bool {
        self.variant.norms == NormPlaces::Around
    }

    /// The number that the file adds to the factors of norms.
    pub(super) fn norm_offset(&self) -> f64 {
        if self.variant.norm == NormRule::RmsPlusOne { 1. } else { 0. }
    }

    fn blocks(&self) -> impl Iterator<Item = (&'static str, &'static str, Change)> {
        let norms: &[_] = if self.around() { &AROUND } else { &BEFORE };
        IN_BLOCKS.iter().chain(norms).copied()
    }

    /// The name in transformers of a tensor in the file.
    pub(super) fn read(&self, name: &str) -> Option<(String, Change)> {
        let (module, parameter) = name.rsplit_once('.')?;
        if let Some((layer, part)) = module.strip_prefix("blk.").and_then(|m| m.split_once('.')) {
            let (_, path, change) = self.blocks().find(|(known, ..)| *known == part)?;
            return Some((format!("model.layers.{layer}.{path}.{parameter}"), change));
        }
        let (_, path, change) = OUTSIDE.into_iter().find(|(known, ..)| *known == module)?;
        Some((format!("{path}.{parameter}"), change))
    }

    /// The name in the file of a tensor of transformers.
    pub(super) fn written(&self, name: &str) -> Option<(String, Change)> {
        let (module, parameter) = name.rsplit_once('.')?;
        let block = module.strip_prefix("model.layers.").and_then(|m| m.split_once('.'));
        if let Some((layer, path)) = block {
            let (part, _, change) = self.blocks().find(|(_, known, _)| *known == path)?;
            return Some((format!("blk.{layer}.{part}.{parameter}"), change));
        }
        let (part, _, change) = OUTSIDE.into_iter().find(|(_, known, _)| *known == module)?;
        Some((format!("{part}.{parameter}"), change))
    }
}
