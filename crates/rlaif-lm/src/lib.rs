//! The contract between language models and algorithms.
//!
//! ```text
//! ids ──► TokenBatch ──► Policy::response_hidden ──► hidden [B, T, H] ──► token_log_probs ──► [B, T]
//!                                                            └──────────► ValueHead ────────► [B, T]
//! ```
//!
//! A model author implements [`CausalLm`] or [`Seq2SeqLm`] and gets a [`Policy`] from
//! [`CausalPolicy`] or [`Seq2SeqPolicy`], which own the shift by one. Weights are `&self`; caches,
//! dropout and adapters are arguments.

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod as_policy;
mod batch;
mod branches;
mod cache;
mod causal;
mod classify;
mod concern;
mod decoder;
mod error;
mod forward;
pub mod generate;
mod head;
mod joiner;
mod log_prob;
mod mask;
mod params;
mod policy;
mod prompt;
mod reference;
mod respond;
mod router_loss;
mod routers;
mod row_ids;
mod sampled;
mod sampler;
mod seq2seq;
mod spec;
mod value;

pub use as_policy::AsPolicy;
pub use batch::{Padding, TokenBatch};
pub use branches::Branches;
pub use cache::{CacheShape, DecodeState, KvCache, Layers, Memory, Room};
pub use causal::{CausalLm, CausalPolicy};
pub use classify::{LabelScheme, SequenceClassifier};
pub use decoder::DecoderLm;
pub use error::LmError;
pub use forward::{Activations, Adapters, Dropout, Forward, Layout};
pub use head::{HeadAdapter, VocabHead};
pub use joiner::{Joined, Joiner, Limits, Shorten, Texts};
pub use log_prob::{PolicyLogProbs, TokenLogProbs, policy_log_probs, token_log_probs};
pub use mask::{Mask, Whiten};
pub use params::{Parameters, is_adapter};
pub use policy::Policy;
pub use prompt::{Prompt, place};
pub use reference::Reference;
pub use respond::respond;
pub use router_loss::RouterLoss;
pub use routers::Routers;
pub use row_ids::RowIds;
pub use sampled::{Draw, Played, Sampled, SamplerCall, Weights};
pub use sampler::{LocalSampler, NumberedPrompt, RecordedSampler, Sampler, play, sample};
pub use seq2seq::{EncodedTokens, EncoderStates, Seq2SeqLm, Seq2SeqPolicy};
pub use spec::{ForcedIds, LmSpec};
pub use tch;
pub use value::{ValueFunction, ValueHead, ValueInit};
