//! A batch that rows join and leave between its decoding steps.

use std::sync::Arc;

use rlaif_core::{BadSetting, Seed, TextCodec};
use tch::{Device, Kind, Tensor, no_grad};

use super::{
    ask::{Ask, FinishReason},
    config::GenerationConfig,
    rows::{Entry, Rows, Settings},
};
use crate::{
    batch::int, cache::Room, error::LmError, forward::Forward, policy::Policy, spec::LmSpec,
};

/// Responses that are decoded together while others join: for a server, whose requests arrive at any time.
///
/// Each row has its own settings and seed. Its tokens are those of [`generate`](super::generate()) with the same
/// prompt, settings, seed and id at step 0, regardless of the other rows.
///
/// ```
/// use rlaif_core::Seed;
/// use rlaif_lm::generate::{Ask, GenerationConfig, JoiningRow, OpenBatch};
/// use rlaif_lm::{Forward, LmError, Policy};
///
/// fn answer(policy: &dyn Policy, prompt: Vec<u32>) -> Result<Vec<u32>, LmError> {
///     let mut batch = OpenBatch::new(policy, Forward::default(), 1, 512)?;
///     let ask = Ask { id: 0, prompt, max_new_tokens: Some(20) };
///     let config = GenerationConfig::default();
///     batch.join(vec![JoiningRow { number: 0, ask, config, seed: Seed::new(1), alternatives: 0 }])?;
///     let mut ids = Vec::new();
///     while !batch.is_empty() {
///         ids.extend(batch.step(None)?.into_iter().map(|token| token.id));
///     }
///     Ok(ids)
/// }
/// ```
pub struct OpenBatch<'a> {
    policy: &'a dyn Policy,
    rows: Rows<'a>,
    /// Number of alternatives of each row in use.
    alternatives: Vec<usize>,
    places: usize,
    tokens: usize,
}

impl std::fmt::Debug for OpenBatch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenBatch")
            .field("policy", &self.policy.spec().model_type)
            .field("rows", &self.rows.active.len())
            .field("places", &self.places)
            .field("tokens", &self.tokens)
            .finish()
    }
}

/// A row that joins an [`OpenBatch`].
#[derive(Debug, Clone)]
pub struct JoiningRow {
    /// Number of the row, which its tokens carry; different from those of all rows in the batch.
    pub number: usize,
    /// The prompt, and the id that determines the random numbers.
    pub ask: Ask,
    /// The row's settings; `batch_size` and `check_every` have no effect.
    pub config: GenerationConfig,
    /// The seed of the random numbers.
    pub seed: Seed,
    /// Number of the most probable tokens that are returned with each token.
    pub alternatives: usize,
}

/// A token of an [`OpenBatch`].
#[derive(Debug, Clone, PartialEq)]
pub struct OpenToken {
    /// [`JoiningRow::number`].
    pub number: usize,
    /// The token.
    pub id: u32,
    /// As in [`Generated::log_probs`](super::Generated::log_probs).
    pub log_prob: f32,
    /// The most probable tokens and their log-probabilities, the most probable one first.
    pub alternatives: Vec<(u32, f32)>,
    /// Set with a response's last token; the row has then left the batch.
    pub finish: Option<FinishReason>,
}

impl<'a> OpenBatch<'a> {
    /// An empty batch for `places` rows of `tokens` tokens, prompt and response together. Encoder-decoder models have
    /// room for that many tokens of each.
    ///
    /// # Errors
    /// [`LmError::Setting`] for a number of 0, [`LmError::BatchTooLarge`] if the keys and values exceed the memory.
    pub fn new(
        policy: &'a dyn Policy,
        forward: Forward<'a>,
        places: usize,
        tokens: usize,
    ) -> Result<Self, LmError> {
        for (name, value) in [("places", places), ("tokens", tokens)] {
            if value == 0 {
                return Err(BadSetting::new(name, 0, "at least 1").into());
            }
        }
        let room = Room { rows: places, prompt: tokens, response: tokens, total: tokens };
        let rows = no_grad(|| Rows::new(policy, forward, room))?;
        Ok(Self { policy, rows, alternatives: Vec::with_capacity(places), places, tokens })
    }

    /// Number of rows that can join.
    pub fn free(&self) -> usize {
        self.places - self.rows.active.len()
    }

    /// `true` if no row is decoded.
    pub fn is_empty(&self) -> bool {
        self.rows.active.is_empty()
    }

    /// Checks that a batch of rows of `tokens` tokens can have this row.
    ///
    /// # Errors
    /// As [`generate`](super::generate()); [`LmError::TooLong`] if the row exceeds `tokens`.
    pub fn check(row: &JoiningRow, spec: &LmSpec, tokens: usize) -> Result<(), LmError> {
        row.config.check(spec)?;
        let context = Some(spec.context.map_or(tokens, |context| context.min(tokens)));
        row.ask.check(row.number, &row.config, &LmSpec { context, ..spec.clone() })
    }

    /// Reads the prompts of rows, which are decoded from the next step on. A prompt that a row in the batch has is
    /// not read again.
    ///
    /// # Errors
    /// As [`OpenBatch::check`], before any row has joined; [`LmError::BatchMismatch`] for more rows than there are free
    /// places.
    pub fn join(&mut self, joining: Vec<JoiningRow>) -> Result<(), LmError> {
        if joining.len() > self.free() {
            let (expected, found) = (self.free(), joining.len());
            return Err(LmError::BatchMismatch { what: "rows that join", expected, found });
        }
        let spec = self.policy.spec();
        for row in &joining {
            Self::check(row, spec, self.tokens)?;
        }
        let mut entries: Vec<(Entry, usize)> = Vec::with_capacity(joining.len());
        for JoiningRow { number, ask, config, seed, alternatives } in joining {
            let settings = Arc::new(Settings::new(config, spec, seed, 0));
            let vocab = usize::try_from(spec.vocab_size).unwrap_or(usize::MAX);
            let entry = Entry { row: number, ask: Arc::new(ask), settings };
            entries.push((entry, alternatives.min(vocab)));
        }
        let all: Vec<Entry> = entries.iter().map(|(entry, _)| entry.clone()).collect();
        no_grad(|| self.rows.enter(&all))?;
        // Rows whose prompts are copied enter after the others.
        for row in &self.rows.active[self.alternatives.len()..] {
            let own = entries.iter().find(|(entry, _)| entry.row == row.entry.row);
            self.alternatives.push(own.map_or(0, |(_, alternatives)| *alternatives));
        }
        Ok(())
    }

    /// Removes a row before its end.
    pub fn leave(&mut self, number: usize) {
        if let Some(place) = self.rows.active.iter().position(|row| row.entry.row == number) {
            self.remove(place);
        }
    }

    fn remove(&mut self, place: usize) {
        self.rows.swap_remove(place);
        self.alternatives.swap_remove(place);
    }

    /// Decodes a token for each row, and returns them. Rows that end with it leave. `codec` is needed by rows with
    /// stop strings.
    ///
    /// # Errors
    /// As [`generate`](super::generate()) during generation. The batch is then not to be used any more.
    pub fn step(&mut self, codec: Option<&dyn TextCodec>) -> Result<Vec<OpenToken>, LmError> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let (choices, mut alternatives) = no_grad(|| {
            let logits = self.rows.logits(&self.rows.inputs())?;
            let alternatives = self.most_probable(&logits)?;
            Ok::<_, LmError>((self.rows.choose(&logits)?, alternatives))
        })?;
        self.rows.state.advance();
        let mut tokens = Vec::with_capacity(choices.len());
        for (place, choice) in choices.into_iter().enumerate() {
            let row = &mut self.rows.active[place];
            let finish = row.take(choice, self.policy.spec(), codec)?;
            let id = row.ids[row.ids.len() - 1];
            let (number, log_prob) = (row.entry.row, choice.log_prob);
            let mut alternatives = std::mem::take(&mut alternatives[place]);
            // One number for one token: the two are computed by different kernels, and differ by rounding.
            for (_, own) in alternatives.iter_mut().filter(|(other, _)| *other == id) {
                *own = log_prob;
            }
            tokens.push(OpenToken { number, id, log_prob, alternatives, finish });
        }
        // Iterates backwards: the last row fills the gap, and has then already been handled.
        for place in (0..tokens.len()).rev() {
            if tokens[place].finish.is_some() {
                self.remove(place);
            }
        }
        Ok(tokens)
    }

    /// The most probable tokens of the rows that ask for them.
    fn most_probable(&self, logits: &Tensor) -> Result<Vec<Vec<(u32, f32)>>, LmError> {
        let mut all = vec![Vec::new(); self.alternatives.len()];
        let asking = self.alternatives.iter().enumerate().filter(|(_, count)| **count > 0);
        for (place, &count) in asking {
            let settings = &self.rows.active[place].entry.settings;
            let own = logits.get(int(place)).to_kind(Kind::Float);
            let own = own / settings.config.sampling.temperature();
            let (log_probs, ids) =
                own.log_softmax(-1, Kind::Float).f_topk(int(count), -1, true, true)?;
            let ids = Vec::<i64>::try_from(&ids.to_device(Device::Cpu))?;
            let log_probs = Vec::<f32>::try_from(&log_probs.to_device(Device::Cpu))?;
            let ids = ids.into_iter().map(|id| u32::try_from(id).expect("an id of the vocabulary"));
            all[place] = ids.zip(log_probs).collect();
        }
        Ok(all)
    }
}
