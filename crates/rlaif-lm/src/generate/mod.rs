//! Generation: prompts in, responses out, batched over a preallocated cache.
//!
//! ```text
//! rows ─► queue ─► enter ─► step ─► choose ─► ended? ─► Generated, in the order of the rows
//!            ▲               ▲                 │  │
//!            └── room ───────┼─────────────────┘  no
//!                            └────────────────────┘
//! ```
//!
//! A row that ends leaves the batch, and the next prompt takes its place at once, so that a few
//! long rows do not hold up the rest. A token is decided by the logits and one random number, which
//! is a function of (seed, step, row id, token index) alone; so the tokens of a row do not depend
//! on the rows beside it, on the batch size or on the order of the rows. Logits do not either, to
//! the last bit where the model computes each row by itself and to rounding elsewhere.

mod choose;
mod config;
mod philox;

use std::{collections::VecDeque, ops::ControlFlow};

use rlaif_core::{Seed, Specials, TextCodec};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

pub use config::{Eos, GenerationConfig, Sampling};

use crate::{
    batch::{Padding, TokenBatch, int},
    cache::{DecodeState, Room},
    error::LmError,
    forward::Forward,
    policy::Policy,
};
use choose::{Refusal, Situation, choose};

/// A prompt to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationRow {
    /// Decides the row's random numbers; rows of one call have different ids.
    pub id: u64,
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// Most new tokens of this row; `None` for [`GenerationConfig::max_new_tokens`].
    pub max_new_tokens: Option<usize>,
}

/// A response.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// Its token ids, the one that ended it included. [`TokenBatch::responses`] makes a batch of
    /// them, whose mask is true through that one.
    pub ids: Vec<u32>,
    /// log π(y_t | x, y_<t) of each of them, from softmax(logits / temperature) over the whole
    /// vocabulary, which is what [`crate::token_log_probs`] gives; temperature 1 where greedy.
    ///
    /// Repetition penalty, bad ids, least length, top-k, top-p and min-p change what is chosen and
    /// not this number: with one of them on, it is not the log-probability of the draw.
    pub log_probs: Vec<f32>,
    /// Why it ended.
    pub finish: FinishReason,
}

/// Why a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// With an end-of-sequence id of the model.
    Eos,
    /// With one of the stop ids or stop strings.
    Stop,
    /// At the most tokens that were asked for.
    Length,
}

/// A token that was chosen just now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NewToken {
    /// Place of its row in the input.
    pub row: usize,
    /// Place in the response, from 0.
    pub index: usize,
    /// The token.
    pub id: u32,
    /// As in [`Generated::log_probs`].
    pub log_prob: f32,
    /// Set with a response's last token.
    pub finish: Option<FinishReason>,
}

/// What a caller may take part with.
#[derive(Default)]
pub struct Hooks<'a> {
    /// Makes text of ids; needed for stop strings.
    pub codec: Option<&'a dyn TextCodec>,
    /// Hears every token as it is chosen: streaming, progress. `Break` ends the call with
    /// [`LmError::Interrupted`].
    pub on_token: Option<&'a mut dyn FnMut(NewToken) -> ControlFlow<()>>,
}

impl std::fmt::Debug for Hooks<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks")
            .field("codec", &self.codec.map(TextCodec::name))
            .field("on_token", &self.on_token.is_some())
            .finish()
    }
}

/// Answers every row; the results are in the order of `rows`.
///
/// Row i's token t is decided by the random number of (`seed`, `step`, `rows[i].id`, t). No
/// gradient is recorded, and the weights are used as they are, adapters as `forward` says.
///
/// # Errors
/// Before anything is computed: [`LmError::BadSetting`], [`LmError::NoCodec`], and for a row's
/// prompt [`LmError::EmptyInput`], [`LmError::IdOutOfRange`], or [`LmError::TooLong`] if it does
/// not fit the context together with its response. [`LmError::BatchTooLarge`] if the keys and
/// values exceed the memory. On the way: [`LmError::NotFinite`], [`LmError::NothingAllowed`],
/// [`LmError::Codec`], [`LmError::Interrupted`], [`LmError::Torch`].
pub fn generate(
    policy: &dyn Policy,
    rows: &[GenerationRow],
    config: &GenerationConfig,
    seed: Seed,
    step: u64,
    forward: Forward<'_>,
    hooks: Hooks<'_>,
) -> Result<Vec<Generated>, LmError> {
    config.check(policy.spec())?;
    if !config.stop_strings.is_empty() && hooks.codec.is_none() {
        return Err(LmError::NoCodec);
    }
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let job = Job { policy, rows, config, forward, key: seed.derive("generate", step).get() };
    let room = job.room()?;
    no_grad(|| job.run(room, hooks))
}

/// The text before the first of `stops` in it; all of it without one.
///
/// ```
/// use rlaif_lm::generate::before_stop;
/// assert_eq!(before_stop("yes.\nUser: no", &["\nUser:".to_owned()]), "yes.");
/// assert_eq!(before_stop("yes.", &[]), "yes.");
/// ```
pub fn before_stop<'t>(text: &'t str, stops: &[String]) -> &'t str {
    let end = stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
    &text[..end.unwrap_or(text.len())]
}

/// One call of [`generate`].
struct Job<'a> {
    policy: &'a dyn Policy,
    rows: &'a [GenerationRow],
    config: &'a GenerationConfig,
    forward: Forward<'a>,
    key: u64,
}

/// A row that is being decoded.
struct Active {
    row: usize,
    /// The token that the next step takes.
    input: u32,
    ids: Vec<u32>,
    log_probs: Vec<f32>,
}

impl Job<'_> {
    /// The most new tokens of a row.
    fn limit(&self, row: usize) -> usize {
        self.rows[row].max_new_tokens.unwrap_or(self.config.max_new_tokens)
    }

    /// Checks every row, and says how much has to be kept at most.
    fn room(&self) -> Result<Room, LmError> {
        let spec = self.policy.spec();
        let mut room = Room { rows: 0, prompt: 0, response: 0, total: 0 };
        for (row, GenerationRow { prompt, .. }) in self.rows.iter().enumerate() {
            if prompt.is_empty() {
                return Err(LmError::EmptyInput { row });
            }
            spec.check_ids(row, prompt)?;
            let limit = self.limit(row);
            if limit == 0 {
                return Err(LmError::BadSetting {
                    field: "max_new_tokens",
                    found: format!("0 for row {row}"),
                    expected: "at least 1",
                });
            }
            let total = prompt.len().saturating_add(limit);
            // An encoder-decoder model counts prompt and response apart.
            match spec.decoder_start_id {
                None => spec.check_length(row, total)?,
                Some(_) => spec.check_length(row, prompt.len().max(limit))?,
            }
            room.prompt = room.prompt.max(prompt.len());
            room.response = room.response.max(limit);
            room.total = room.total.max(total);
        }
        room.rows = self.config.batch_size.min(self.rows.len());
        Ok(room)
    }

    /// Ids that end a response.
    fn ends(&self) -> Vec<u32> {
        let eos = match self.config.eos {
            Eos::Ends => self.policy.spec().eos_ids.as_slice(),
            Eos::Ignored => &[],
        };
        [eos, &self.config.stop_ids].concat()
    }

    fn run(&self, room: Room, mut hooks: Hooks<'_>) -> Result<Vec<Generated>, LmError> {
        let mut queue: VecDeque<usize> = (0..self.rows.len()).collect();
        // Rows that may take longest first, so that the batch stays full to the end.
        queue
            .make_contiguous()
            .sort_by_key(|&row| std::cmp::Reverse((self.limit(row), self.rows[row].prompt.len())));
        let ends = self.ends();
        let mut state = self.policy.open(room)?;
        let mut active: Vec<Active> = Vec::with_capacity(room.rows);
        let mut done: Vec<Option<Generated>> = self.rows.iter().map(|_| None).collect();
        loop {
            let free = room.rows - active.len();
            let entering: Vec<usize> = queue.drain(..free.min(queue.len())).collect();
            if !entering.is_empty() {
                self.enter(&entering, &mut state, &mut active)?;
            }
            if active.is_empty() {
                break;
            }
            let inputs: Vec<i64> = active.iter().map(|row| i64::from(row.input)).collect();
            let inputs = Tensor::from_slice(&inputs).to_device(self.policy.spec().device);
            let logits = self.policy.step(&mut state, &inputs, self.forward)?;
            let finishes = self.choose(&logits, &mut active, &ends, &mut hooks)?;
            // From the last on: what takes the place of a dropped row has been looked at.
            for (place, finish) in finishes.into_iter().enumerate().rev() {
                if let Some(finish) = finish {
                    let Active { row, ids, log_probs, .. } = active.swap_remove(place);
                    state.swap_remove(place);
                    done[row] = Some(Generated { ids, log_probs, finish });
                }
            }
        }
        Ok(done.into_iter().map(|row| row.expect("every row is decoded to its end")).collect())
    }

    fn enter(
        &self,
        entering: &[usize],
        state: &mut DecodeState,
        active: &mut Vec<Active>,
    ) -> Result<(), LmError> {
        let prompts = entering.iter().map(|&row| self.rows[row].prompt.clone()).collect();
        let prompts = TokenBatch::collate(prompts, self.policy.spec(), Padding::Right)?;
        let firsts = self.policy.enter(state, &prompts, self.forward)?;
        active.extend(entering.iter().zip(firsts).map(|(&row, input)| {
            let limit = self.limit(row).min(1024);
            let (ids, log_probs) = (Vec::with_capacity(limit), Vec::with_capacity(limit));
            Active { row, input, ids, log_probs }
        }));
        Ok(())
    }

    /// Chooses a token for each row, and says which rows ended with it.
    fn choose(
        &self,
        logits: &Tensor,
        active: &mut [Active],
        ends: &[u32],
        hooks: &mut Hooks<'_>,
    ) -> Result<Vec<Option<FinishReason>>, LmError> {
        let spec = self.policy.spec();
        let start: Vec<u32> = spec.decoder_start_id.into_iter().collect();
        let vocab = usize::try_from(spec.vocab_size).expect("a size is not negative");
        let logits = logits.to_kind(Kind::Float).reshape([int(active.len()) * spec.vocab_size]);
        let mut logits = Vec::<f32>::try_from(&logits)?;
        let mut finishes = Vec::with_capacity(active.len());
        for (active, logits) in active.iter_mut().zip(logits.chunks_exact_mut(vocab)) {
            let row = &self.rows[active.row];
            let token = active.ids.len();
            let before = if start.is_empty() { &row.prompt } else { &start };
            let uniform = philox::uniform(self.key, row.id, token as u64);
            let situation = Situation { before, response: &active.ids, ends, uniform };
            let choice = choose(logits, &situation, self.config).map_err(|refusal| {
                let row = active.row;
                match refusal {
                    Refusal::NotFinite => LmError::NotFinite { row, token },
                    Refusal::NothingAllowed => LmError::NothingAllowed { row, token },
                }
            })?;
            active.input = choice.id;
            active.ids.push(choice.id);
            active.log_probs.push(choice.log_prob);
            let finish = self.finish(active, hooks.codec)?;
            if let Some(on_token) = &mut hooks.on_token {
                let (id, log_prob) = (choice.id, choice.log_prob);
                let new = NewToken { row: active.row, index: token, id, log_prob, finish };
                if on_token(new).is_break() {
                    return Err(LmError::Interrupted);
                }
            }
            finishes.push(finish);
        }
        Ok(finishes)
    }

    /// Why the row ends with its last token, if it does.
    fn finish(
        &self,
        active: &Active,
        codec: Option<&dyn TextCodec>,
    ) -> Result<Option<FinishReason>, LmError> {
        let last = active.input;
        if self.config.eos == Eos::Ends && self.policy.spec().is_eos(last) {
            return Ok(Some(FinishReason::Eos));
        }
        if self.config.stop_ids.contains(&last) || self.stops(&active.ids, codec)? {
            return Ok(Some(FinishReason::Stop));
        }
        let full = active.ids.len() >= self.limit(active.row);
        Ok(full.then_some(FinishReason::Length))
    }

    /// True if the text ends, or nearly ends, with a stop string: its last token may hold more.
    fn stops(&self, ids: &[u32], codec: Option<&dyn TextCodec>) -> Result<bool, LmError> {
        let stops = &self.config.stop_strings;
        let (Some(longest), Some(codec)) = (stops.iter().map(String::len).max(), codec) else {
            return Ok(false);
        };
        // A token is a byte or more of text, but for special ones, of which there are few.
        const SPARE: usize = 16;
        let tail = &ids[ids.len().saturating_sub(longest + SPARE)..];
        let text = codec.decode(tail, Specials::Exclude)?;
        Ok(stops.iter().any(|stop| text.contains(stop.as_str())))
    }
}
