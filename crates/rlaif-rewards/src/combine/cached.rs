//! Verdicts remembered within a run.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use rlaif_core::{Exchange, RewardError, RewardModel, Scores, Tell};
use rlaif_files::Digest;
use serde_json::json;

use super::member::checked;
use crate::sync::lock;

/// Remembers verdicts in memory, by prompt, response, reference, metadata and messages.
///
/// For a model that always gives the same verdict on the same text. The oldest verdict is dropped
/// first; a row without a verdict is judged again. Judges have their own store, on disk.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::RewardExt;
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// static ASKED: AtomicUsize = AtomicUsize::new(0);
/// let slow = |batch: &[Exchange<'_>]| {
///     ASKED.fetch_add(batch.len(), Ordering::Relaxed);
///     vec![1.; batch.len()]
/// };
/// let reward = slow.cached(1_000);
/// let batch = [Exchange::new("p", "y"), Exchange::new("p", "y")];
/// assert_eq!(reward.score(&batch)?, reward.score(&batch)?);
/// assert_eq!(ASKED.load(Ordering::Relaxed), 1);
/// # Ok::<(), rlaif_core::RewardError>(())
/// ```
#[derive(Debug)]
pub struct Cached<R> {
    inner: R,
    memory: Mutex<Memory>,
}

#[derive(Debug)]
struct Memory {
    capacity: usize,
    /// The verdict on one row each.
    known: HashMap<[u8; 32], Scores>,
    by_age: VecDeque<[u8; 32]>,
}

impl Memory {
    fn insert(&mut self, key: [u8; 32], verdict: Scores) {
        if self.capacity == 0 {
            return;
        }
        if self.known.insert(key, verdict).is_none() {
            self.by_age.push_back(key);
        }
        while self.known.len() > self.capacity {
            let Some(oldest) = self.by_age.pop_front() else { return };
            self.known.remove(&oldest);
        }
    }
}

impl<R: RewardModel> Cached<R> {
    /// `inner`, with a memory of at most `capacity` verdicts.
    pub fn new(inner: R, capacity: usize) -> Self {
        let memory = Memory { capacity, known: HashMap::new(), by_age: VecDeque::new() };
        Self { inner, memory: Mutex::new(memory) }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }
}

/// A hash of everything that a verdict on a row depends on.
pub(super) fn key(exchange: &Exchange<'_>) -> [u8; 32] {
    // A map without entries is equivalent to none.
    let metadata = exchange.metadata.filter(|m| !m.is_empty());
    let metadata = metadata.map(|m| serde_json::Value::Object(m.clone()).to_string());
    let messages = exchange.messages.map(|messages| json!(messages).to_string());
    let said = exchange.said.map(|said| json!(said).to_string());
    let fields = [
        Some(exchange.prompt),
        Some(exchange.response),
        exchange.reference,
        metadata.as_deref(),
        messages.as_deref(),
    ];
    let fields = fields.into_iter().chain(said.as_deref().map(Some));
    Digest::of_optional(fields.map(|field| field.map(str::as_bytes))).bytes()
}

impl<R: RewardModel> RewardModel for Cached<R> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let keys: Vec<_> = batch.iter().map(key).collect();
        // Equal rows are one.
        let mut places: HashMap<[u8; 32], usize> = HashMap::new();
        let mut distinct = Vec::new();
        for (row, key) in keys.iter().enumerate() {
            places.entry(*key).or_insert_with(|| {
                distinct.push(row);
                distinct.len() - 1
            });
        }
        let mut known = Vec::new();
        let mut open = Vec::new();
        {
            let memory = self.memory();
            for (place, &row) in distinct.iter().enumerate() {
                match memory.known.get(&keys[row]) {
                    Some(verdict) => known.push((place, verdict.clone())),
                    None => open.push(place),
                }
            }
        }
        let mut scores = Scores::new(vec![None; distinct.len()]);
        if !open.is_empty() {
            let rows: Vec<usize> = open.iter().map(|&at| distinct[at]).collect();
            let asked: Vec<Exchange<'_>> = rows.iter().map(|&row| batch[row]).collect();
            let answered = checked(&self.inner, &asked).map_err(|error| error.among(&rows))?;
            let mut memory = self.memory();
            for (at, &place) in open.iter().enumerate() {
                if answered.total[at].is_some() {
                    memory.insert(keys[distinct[place]], answered.gather(&[at]));
                }
            }
            scores.fill_from(answered, &open);
        }
        for (place, verdict) in known {
            scores.fill_from(verdict, &[place]);
        }
        let of_rows: Vec<usize> = keys.iter().map(|key| places[key]).collect();
        Ok(scores.gather(&of_rows))
    }

    fn score_each(&self, batch: &[Exchange<'_>], tell: &mut Tell<'_>) -> Result<(), RewardError> {
        // Equal rows are one.
        let mut places: HashMap<[u8; 32], usize> = HashMap::new();
        let mut distinct: Vec<([u8; 32], Vec<usize>)> = Vec::new();
        for (row, exchange) in batch.iter().enumerate() {
            let key = key(exchange);
            let place = *places.entry(key).or_insert_with(|| {
                distinct.push((key, Vec::new()));
                distinct.len() - 1
            });
            distinct[place].1.push(row);
        }
        let mut all = |rows: &[usize], verdict: &Scores| {
            rows.iter().try_for_each(|&row| tell(row, verdict.clone()))
        };
        let mut open = Vec::new();
        for (key, rows) in distinct {
            let known = self.memory().known.get(&key).cloned();
            match known {
                Some(verdict) if all(&rows, &verdict).is_break() => return Ok(()),
                Some(_) => {}
                None => open.push((key, rows)),
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        let firsts: Vec<usize> = open.iter().map(|(_, rows)| rows[0]).collect();
        let asked: Vec<Exchange<'_>> = firsts.iter().map(|&row| batch[row]).collect();
        let scored = self.inner.score_each(&asked, &mut |at, verdict| {
            let (key, rows) = &open[at];
            if verdict.total.first().copied().flatten().is_some() {
                self.memory().insert(*key, verdict.clone());
            }
            all(rows, &verdict)
        });
        scored.map_err(|error| error.among(&firsts))
    }

    state_of_inner!();
}
