//! Rows in decoding: their settings, their state in the cache, their tokens and their ends.

use std::{collections::HashMap, sync::Arc};

use rlaif_core::{Eos, Seed, Specials, TextCodec};
use tch::{Device, Kind, Tensor};

use super::{
    ask::{Ask, FinishReason},
    choose::{self, Choice, Situation},
    config::GenerationConfig,
    philox,
    step::Stepper,
};
use crate::{
    batch::{Padding, TokenBatch},
    cache::{DecodeState, Room},
    error::LmError,
    forward::Forward,
    policy::Policy,
    spec::{ForcedIds, LmSpec},
};

/// The settings of rows, prepared for decoding.
pub(super) struct Settings {
    pub(super) config: GenerationConfig,
    /// Ids that end a response.
    ends: Vec<u32>,
    /// The key of the random numbers.
    key: u64,
}

impl Settings {
    pub(super) fn new(config: GenerationConfig, spec: &LmSpec, seed: Seed, step: u64) -> Self {
        let eos = match config.eos {
            Eos::Ends => spec.eos_ids.as_slice(),
            Eos::Ignored => &[],
        };
        let ends = [eos, &config.stop_ids].concat();
        Self { config, ends, key: seed.derive("generate", step).get() }
    }

    /// `true` if both settings choose the same token from the same logits and random number.
    fn chooses_like(&self, other: &Self) -> bool {
        let (one, two) = (&self.config, &other.config);
        std::ptr::eq(self, other)
            || (one.sampling == two.sampling
                && one.repetition_penalty == two.repetition_penalty
                && one.min_new_tokens == two.min_new_tokens
                && one.bad_ids == two.bad_ids)
    }
}

/// A row that is to be decoded.
#[derive(Clone)]
pub(super) struct Entry {
    /// Number of the row, for errors and for the caller.
    pub(super) row: usize,
    pub(super) ask: Arc<Ask>,
    pub(super) settings: Arc<Settings>,
}

impl Entry {
    /// A row before its first token.
    pub(super) fn starts(self, start: Start) -> Active {
        let limit = self.ask.limit(&self.settings.config).min(1024);
        let (ids, log_probs) = (Vec::with_capacity(limit), Vec::with_capacity(limit));
        Active { entry: self, start, input: start.input, ids, log_probs }
    }
}

/// A row in decoding.
pub(super) struct Active {
    pub(super) entry: Entry,
    /// The state after the prompt was read.
    pub(super) start: Start,
    /// The input token of the next step.
    input: u32,
    pub(super) ids: Vec<u32>,
    pub(super) log_probs: Vec<f32>,
}

/// Initial state of a row, common to all rows with the same prompt.
#[derive(Clone, Copy)]
pub(super) struct Start {
    /// Number of the prompt's tokens in the cache.
    pub(super) held: usize,
    /// The input token of the first step.
    input: u32,
}

impl Active {
    /// The random number of the row's next token, or of a later one.
    pub(super) fn uniform(&self, ahead: usize) -> f64 {
        let index = (self.ids.len() + ahead) as u64;
        philox::uniform(self.entry.settings.key, self.entry.ask.id, index)
    }

    /// The token that the row must have next.
    fn forced(&self, ForcedIds { first, last }: ForcedIds) -> Option<u32> {
        let config = &self.entry.settings.config;
        let is_last = self.ids.len() + 1 >= self.entry.ask.limit(config);
        // As in transformers, the end has precedence.
        let last = last.filter(|_| is_last && config.eos == Eos::Ends);
        last.or(first.filter(|_| self.ids.is_empty()))
    }

    /// Accepts the next token, and returns the reason if the row ended with it.
    pub(super) fn take(
        &mut self,
        Choice { id, log_prob }: Choice,
        spec: &LmSpec,
        codec: Option<&dyn TextCodec>,
    ) -> Result<Option<FinishReason>, LmError> {
        let id = u32::try_from(id).expect("an id of the vocabulary");
        self.input = id;
        self.ids.push(id);
        self.log_probs.push(log_prob);
        let config = &self.entry.settings.config;
        if config.eos == Eos::Ends && spec.is_eos(id) {
            return Ok(Some(FinishReason::Eos));
        }
        if config.stop_ids.contains(&id) || self.stops(codec)? {
            return Ok(Some(FinishReason::Stop));
        }
        let full = self.ids.len() >= self.entry.ask.limit(config);
        Ok(full.then_some(FinishReason::Length))
    }

    /// `true` if the text ends, or nearly ends, with a stop string: its last token may hold more
    /// text.
    fn stops(&self, codec: Option<&dyn TextCodec>) -> Result<bool, LmError> {
        let stops = &self.entry.settings.config.stop_strings;
        let (Some(longest), Some(codec)) = (stops.iter().map(String::len).max(), codec) else {
            return Ok(false);
        };
        // A token is at least one byte of text, except for special tokens, of which there are few.
        const SPARE: usize = 16;
        let tail = &self.ids[self.ids.len().saturating_sub(longest + SPARE)..];
        let text = codec.decode(tail, Specials::Exclude)?;
        Ok(stops.iter().any(|stop| text.contains(stop.as_str())))
    }
}

/// The rows that are decoded together, and their keys and values.
pub(super) struct Rows<'a> {
    policy: &'a dyn Policy,
    forward: Forward<'a>,
    stepper: Stepper<'a>,
    pub(super) state: DecodeState,
    pub(super) active: Vec<Active>,
}

impl<'a> Rows<'a> {
    /// No rows, with room for these.
    pub(super) fn new(
        policy: &'a dyn Policy,
        forward: Forward<'a>,
        room: Room,
    ) -> Result<Self, LmError> {
        let state = policy.open(room)?;
        let active = Vec::with_capacity(room.rows);
        Ok(Self { policy, forward, stepper: Stepper::new(policy, forward), state, active })
    }

    /// Reads the prompts that no row in use has, and copies those that one has.
    pub(super) fn enter(&mut self, entering: &[Entry]) -> Result<(), LmError> {
        let active = &mut self.active;
        let places = active.iter().enumerate();
        let mut known: HashMap<&[u32], usize> =
            places.map(|(place, row)| (row.entry.ask.prompt.as_slice(), place)).collect();
        let mut fresh: Vec<Entry> = Vec::new();
        let mut copies = Vec::new();
        for entry in entering {
            match known.get(entry.ask.prompt.as_slice()) {
                Some(&place) => copies.push((entry.clone(), place)),
                None => {
                    known.insert(&entry.ask.prompt, active.len() + fresh.len());
                    fresh.push(entry.clone());
                }
            }
        }
        if !fresh.is_empty() {
            let ids = fresh.iter().map(|entry| entry.ask.prompt.clone()).collect();
            let batch = TokenBatch::collate(ids, self.policy.spec(), Padding::Right)?;
            let firsts = self.policy.enter(&mut self.state, &batch, self.forward)?;
            let held = self.state.cache.layers().lengths()[active.len()..].to_vec();
            let starts = firsts.into_iter().zip(held).map(|(input, held)| Start { held, input });
            active.extend(fresh.into_iter().zip(starts).map(|(entry, start)| entry.starts(start)));
        }
        if !copies.is_empty() {
            let places: Vec<usize> = copies.iter().map(|&(_, place)| place).collect();
            let held: Vec<usize> = places.iter().map(|&place| active[place].start.held).collect();
            self.state.repeat(&places, &held)?;
            for (entry, place) in copies {
                let start = active[place].start;
                active.push(entry.starts(start));
            }
        }
        Ok(())
    }

    /// The input tokens of the next step, int64 `[B]`.
    pub(super) fn inputs(&self) -> Tensor {
        let inputs: Vec<i64> = self.active.iter().map(|row| i64::from(row.input)).collect();
        Tensor::from_slice(&inputs).to_device(self.policy.spec().device)
    }

    /// Logits `[B, V]` after the tokens `inputs`, int64 `[B]`; the next step overwrites them.
    pub(super) fn logits(&mut self, inputs: &Tensor) -> Result<Tensor, LmError> {
        self.stepper.step(&mut self.state, inputs)
    }

    /// Chooses a token for each row, with the row's own settings. The logits may be overwritten.
    pub(super) fn choose(&self, logits: &Tensor) -> Result<Vec<Choice>, LmError> {
        let logits = logits.to_kind(Kind::Float).to_device(Device::Cpu).contiguous();
        let mut groups: Vec<(&Settings, Vec<usize>)> = Vec::new();
        for (place, row) in self.active.iter().enumerate() {
            let own = &*row.entry.settings;
            match groups.iter_mut().find(|(settings, _)| settings.chooses_like(own)) {
                Some((_, places)) => places.push(place),
                None => groups.push((own, vec![place])),
            }
        }
        if let [(settings, places)] = groups.as_slice() {
            return choose::choose(logits, &self.situations(places), &settings.config);
        }
        let mut choices = vec![None; self.active.len()];
        for (settings, places) in groups {
            let index: Vec<i64> = places.iter().map(|&place| crate::batch::int(place)).collect();
            let own = logits.index_select(0, &Tensor::from_slice(&index));
            let chosen = choose::choose(own, &self.situations(&places), &settings.config)?;
            for (place, choice) in places.into_iter().zip(chosen) {
                choices[place] = Some(choice);
            }
        }
        Ok(choices.into_iter().map(|choice| choice.expect("every row is in one group")).collect())
    }

    fn situations(&self, places: &[usize]) -> Vec<Situation<'_>> {
        let start = self.policy.spec().decoder_start_id.as_ref().map(std::slice::from_ref);
        let situation = |&place: &usize| {
            let row = &self.active[place];
            Situation {
                row: row.entry.row,
                before: start.unwrap_or(&row.entry.ask.prompt),
                response: &row.ids,
                ends: &row.entry.settings.ends,
                forced: row.forced(self.policy.spec().forced),
                uniform: row.uniform(0),
            }
        };
        places.iter().map(situation).collect()
    }

    /// Drops a row; the last row takes its place.
    pub(super) fn swap_remove(&mut self, place: usize) -> Active {
        self.state.swap_remove(place);
        self.active.swap_remove(place)
    }
}
