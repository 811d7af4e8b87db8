//! Generation: prompts in, responses out, batched over a preallocated cache.
//!
//! ```text
//! rows ─► queue ─► enter ─► step ─► choose ─► ended? ─► Generated, in the order of the rows
//!            ▲               ▲                 │  │
//!            └── room ───────┼─────────────────┘  no
//!                            └────────────────────┘
//! ```
//!
//! A finished row leaves the batch, and the next prompt takes its place at once, so that a few long
//! rows do not hold up the rest. Rows with the same prompt are several responses to it: the model
//! reads the prompt once, and its keys and values are copied from row to row. A token is determined
//! by the logits and one random number, which is a function of (seed, step, row id, token index)
//! alone. So the tokens of a row do not depend on the other rows, on the batch size or on the order
//! of the rows. Neither do the logits: exactly if the model computes each row by itself, otherwise
//! up to rounding.

mod ask;
mod choose;
mod config;
mod open;
mod philox;
mod rollout;
mod rows;
mod step;

use std::{
    collections::{HashMap, VecDeque},
    ops::ControlFlow,
    sync::Arc,
};

use rlaif_core::{Interrupted, Seed, TextCodec};
use tch::{Device, Tensor, no_grad};

pub use crate::concern::RolloutConcern;
pub use ask::{Ask, FinishReason};
pub use config::{GenerationConfig, Sampling};
pub use open::{JoiningRow, OpenBatch, OpenToken};
pub use rlaif_core::Eos;
pub use rollout::{check_rollout, end_concerns, rollout_concerns};

use crate::{
    batch::int, cache::Room, error::LmError, forward::Forward, policy::Policy, spec::ForcedIds,
};
use choose::Choice;
use rows::{Active, Entry, Rows, Settings};

/// A response.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// The token ids, the ending one included. [`crate::TokenBatch::responses`] makes a batch of them,
    /// with a mask that is `true` up to and including the ending token.
    pub ids: Vec<u32>,
    /// log π(y_t | x, y_<t) of each token, from softmax(logits / temperature) over the whole
    /// vocabulary, as in [`crate::token_log_probs`]; temperature 1 for greedy decoding.
    ///
    /// Repetition penalty, bad ids, minimum length, forced ids, top-k, top-p and min-p change the choice but
    /// not this number: with one of them enabled, it is not the log-probability of the draw.
    pub log_probs: Vec<f32>,
    /// The reason why the response ended.
    pub finish: FinishReason,
}

/// A token that was just chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NewToken {
    /// Index of the row in the input.
    pub row: usize,
    /// Index of the token in the response, from 0.
    pub index: usize,
    /// The token.
    pub id: u32,
    /// As in [`Generated::log_probs`].
    pub log_prob: f32,
    /// Set with a response's last token.
    pub finish: Option<FinishReason>,
}

/// Callbacks and helpers of the caller.
#[derive(Default)]
pub struct Hooks<'a> {
    /// Decodes ids to text; needed for stop strings.
    pub codec: Option<&'a dyn TextCodec>,
    /// Called with every token as it is chosen, for streaming and progress. `Break` ends the call
    /// with [`LmError::Interrupted`].
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

/// Generates a response to every row; the results are in the order of `rows`.
///
/// Row i's token t is determined by the random number of (`seed`, `step`, `rows[i].id`, t). No
/// gradient is recorded. The weights are used unchanged, with the adapters of `forward`.
///
/// # Errors
/// Before anything is computed: [`LmError::Setting`], [`LmError::NoCodec`], and for a row's prompt
/// [`LmError::EmptyInput`], [`LmError::IdOutOfRange`], or [`LmError::TooLong`] if it does not fit
/// the context together with its response. [`LmError::BatchTooLarge`] if the keys and values exceed
/// the memory. During generation: [`LmError::NotFinite`], [`LmError::NothingAllowed`],
/// [`LmError::Codec`], [`LmError::Interrupted`], [`LmError::Torch`].
pub fn generate(
    policy: &dyn Policy,
    rows: &[Ask],
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
    let job = Job { policy, rows, config, forward };
    let room = job.room()?;
    let settings = Arc::new(Settings::new(config.clone(), policy.spec(), seed, step));
    no_grad(|| job.run(room, &settings, hooks))
}

/// The text before the first occurrence of any of `stops`; the whole text without one.
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
    rows: &'a [Ask],
    config: &'a GenerationConfig,
    forward: Forward<'a>,
}

impl Job<'_> {
    /// Maximum number of new tokens of a row.
    fn limit(&self, row: usize) -> usize {
        self.rows[row].limit(self.config)
    }

    /// Checks every row, and returns the upper bounds of the state.
    fn room(&self) -> Result<Room, LmError> {
        let mut room = Room { rows: 0, prompt: 0, response: 0, total: 0 };
        for (i, row) in self.rows.iter().enumerate() {
            row.check(i, self.config, self.policy.spec())?;
            let limit = row.limit(self.config);
            room.prompt = room.prompt.max(row.prompt.len());
            room.response = room.response.max(limit);
            room.total = room.total.max(row.prompt.len().saturating_add(limit));
        }
        room.rows = self.config.batch_size.min(self.rows.len());
        Ok(room)
    }

    /// Number of tokens between two checks for finished rows.
    fn stride(&self, hooks: &Hooks<'_>) -> usize {
        let config = self.config;
        let each = hooks.on_token.is_some()
            || !config.stop_strings.is_empty()
            || config.repetition_penalty != 1.
            || !config.bad_ids.is_empty()
            || config.min_new_tokens > 0
            || self.policy.spec().forced != ForcedIds::default()
            || config.sampling.truncates();
        let usual = if self.policy.spec().device == Device::Cpu { 1 } else { 8 };
        if each { 1 } else { config.check_every.unwrap_or(usual) }
    }

    /// For each row, the first row with the same prompt.
    fn prompts(&self) -> Vec<usize> {
        let mut first: HashMap<&[u32], usize> = HashMap::new();
        let rows = self.rows.iter().enumerate();
        rows.map(|(at, row)| *first.entry(&row.prompt).or_insert(at)).collect()
    }

    /// The order in which rows enter: those that may take longest first, so that the batch stays
    /// full to the end, and rows with the same prompt consecutively.
    fn queue(&self, prompts: &[usize]) -> VecDeque<usize> {
        let mut limits = vec![0; self.rows.len()];
        for (row, &prompt) in prompts.iter().enumerate() {
            limits[prompt] = self.limit(row).max(limits[prompt]);
        }
        let mut queue: Vec<usize> = (0..self.rows.len()).collect();
        queue.sort_by_key(|&row| {
            let prompt = prompts[row];
            (std::cmp::Reverse((limits[prompt], self.rows[row].prompt.len())), prompt)
        });
        queue.into()
    }

    fn run(
        &self,
        mut room: Room,
        settings: &Arc<Settings>,
        mut hooks: Hooks<'_>,
    ) -> Result<Vec<Generated>, LmError> {
        let prompts = self.prompts();
        let mut queue = self.queue(&prompts);
        let stride = self.stride(&hooks);
        // Tokens decoded between a row's end and the next check.
        room.response = room.response.saturating_add(stride - 1);
        room.total = room.total.saturating_add(stride - 1);
        let mut rows = Rows::new(self.policy, self.forward, room)?;
        let mut done: Vec<Option<Generated>> = self.rows.iter().map(|_| None).collect();
        let entry = |row: usize| {
            let ask = Arc::new(self.rows[row].clone());
            Entry { row, ask, settings: settings.clone() }
        };
        loop {
            Interrupted::check()?;
            let free = room.rows - rows.active.len();
            let entering: Vec<Entry> = queue.drain(..free.min(queue.len())).map(entry).collect();
            if !entering.is_empty() {
                rows.enter(&entering)?;
            }
            if rows.active.is_empty() {
                break;
            }
            let finishes = if stride == 1 {
                let logits = rows.logits(&rows.inputs())?;
                let choices = rows.choose(&logits)?;
                rows.state.advance();
                let rows = rows.active.iter_mut().zip(choices);
                rows.map(|(row, choice)| self.take(row, choice, &mut hooks))
                    .collect::<Result<_, _>>()?
            } else {
                self.stretch(&mut rows, stride, &mut hooks)?
            };
            // Iterates backwards: `swap_remove` fills the gap with the last row, which has then
            // already been handled.
            for (place, finish) in finishes.into_iter().enumerate().rev() {
                let Some(finish) = finish else { continue };
                let prompt = prompts[rows.active[place].entry.row];
                // The next response to the same prompt starts from the same state. It must start
                // now: such rows are consecutive in the queue, so a prompt is read only once, for
                // any batch size.
                let ended = match queue.pop_front_if(|next| prompts[*next] == prompt) {
                    Some(next) => {
                        let start = rows.active[place].start;
                        rows.state.rewind(place, start.held);
                        std::mem::replace(&mut rows.active[place], entry(next).starts(start))
                    }
                    None => rows.swap_remove(place),
                };
                let Active { entry, ids, log_probs, .. } = ended;
                done[entry.row] = Some(Generated { ids, log_probs, finish });
            }
        }
        Ok(done.into_iter().map(|row| row.expect("every row is decoded to its end")).collect())
    }

    /// Decodes `stride` tokens for each row without waiting for them, and then accepts those up to
    /// each row's end.
    fn stretch(
        &self,
        rows: &mut Rows<'_>,
        stride: usize,
        hooks: &mut Hooks<'_>,
    ) -> Result<Vec<Option<FinishReason>>, LmError> {
        let device = self.policy.spec().device;
        let uniforms: Vec<f64> = (0..stride)
            .flat_map(|ahead| rows.active.iter().map(move |row| (row, ahead)))
            .map(|(row, ahead)| row.uniform(ahead))
            .collect();
        let size = [int(stride), int(rows.active.len())];
        let uniforms = Tensor::from_slice(&uniforms).view(size).to_device(device);
        let mut inputs = rows.inputs();
        let (mut ids, mut log_probs) = (Vec::with_capacity(stride), Vec::with_capacity(stride));
        for ahead in 0..int(stride) {
            let logits = rows.logits(&inputs)?;
            let drawn = step::draw(&logits, &self.config.sampling, &uniforms.get(ahead));
            rows.state.advance();
            inputs = drawn.ids.shallow_clone();
            ids.push(drawn.ids);
            log_probs.push(drawn.log_probs);
        }
        // The only place where the host waits.
        let ids = Vec::<Vec<i64>>::try_from(&Tensor::stack(&ids, 0).to_device(Device::Cpu))?;
        let log_probs =
            Vec::<Vec<f32>>::try_from(&Tensor::stack(&log_probs, 0).to_device(Device::Cpu))?;
        let mut finishes = vec![None; rows.active.len()];
        for (ids, log_probs) in ids.into_iter().zip(log_probs) {
            for (place, (id, log_prob)) in ids.into_iter().zip(log_probs).enumerate() {
                if finishes[place].is_none() {
                    let row = &mut rows.active[place];
                    if log_prob.is_nan() {
                        return Err(LmError::not_finite(row.entry.row, row.ids.len()));
                    }
                    finishes[place] = self.take(row, Choice { id, log_prob }, hooks)?;
                }
            }
        }
        Ok(finishes)
    }

    /// Accepts a row's next token, and returns the reason if the row ended with it.
    fn take(
        &self,
        row: &mut Active,
        choice: Choice,
        hooks: &mut Hooks<'_>,
    ) -> Result<Option<FinishReason>, LmError> {
        let finish = row.take(choice, self.policy.spec(), hooks.codec)?;
        if let Some(on_token) = &mut hooks.on_token {
            let index = row.ids.len() - 1;
            let (id, log_prob) = (row.ids[index], choice.log_prob);
            if on_token(NewToken { row: row.entry.row, index, id, log_prob, finish }).is_break() {
                return Err(LmError::Interrupted);
            }
        }
        Ok(finish)
    }
}
