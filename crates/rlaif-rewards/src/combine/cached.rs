//! Verdicts remembered within a run.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rlaif_core::{Exchange, RewardError, RewardModel, Score, Scores};
use sha2::{Digest, Sha256};

use super::checked;

/// Remembers verdicts in memory, by prompt, response, reference and metadata.
///
/// For a model that always says the same of the same text. The oldest verdict goes first; a row
/// without a verdict is asked again. Judges have a store of their own, on disk.
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

/// A total and its parts.
type Verdict = (Score, Vec<(String, Option<Score>)>);

#[derive(Debug)]
struct Memory {
    capacity: usize,
    known: HashMap<[u8; 32], Verdict>,
    by_age: VecDeque<[u8; 32]>,
}

impl Memory {
    fn insert(&mut self, key: [u8; 32], verdict: Verdict) {
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
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(exchange: &Exchange<'_>) -> [u8; 32] {
    let mut hash = Sha256::new();
    let metadata = exchange.metadata.map(|m| serde_json::Value::Object(m.clone()).to_string());
    let fields =
        [Some(exchange.prompt), Some(exchange.response), exchange.reference, metadata.as_deref()];
    for field in fields {
        // The length before the text, so that no two rows run together into the same bytes.
        let field = field.map(str::as_bytes);
        hash.update(field.map_or(u64::MAX, |f| f.len() as u64).to_le_bytes());
        hash.update(field.unwrap_or_default());
    }
    hash.finalize().into()
}

impl<R: RewardModel> RewardModel for Cached<R> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let keys: Vec<_> = batch.iter().map(key).collect();
        let mut rows: HashMap<[u8; 32], Verdict> = HashMap::new();
        let mut asked_keys = Vec::new();
        let mut asked = Vec::new();
        {
            let memory = self.memory();
            let mut seen = std::collections::HashSet::new();
            for (key, exchange) in keys.iter().zip(batch) {
                if !seen.insert(*key) {
                    continue;
                }
                if let Some(verdict) = memory.known.get(key) {
                    rows.insert(*key, verdict.clone());
                } else {
                    asked_keys.push(*key);
                    asked.push(*exchange);
                }
            }
        }
        let mut reasons = HashMap::new();
        if !asked.is_empty() {
            let scores = checked(&self.inner, &asked)?;
            let mut memory = self.memory();
            for (at, key) in asked_keys.iter().enumerate() {
                if let Some(total) = scores.total[at] {
                    let parts = scores.parts.iter().map(|(name, c)| (name.clone(), c[at]));
                    let verdict = (total, parts.collect());
                    rows.insert(*key, verdict.clone());
                    memory.insert(*key, verdict);
                }
            }
            for (at, reason) in scores.reasons {
                if let Some(key) = asked_keys.get(at) {
                    reasons.insert(*key, reason);
                }
            }
        }
        let mut scores = Scores::new(keys.iter().map(|k| rows.get(k).map(|v| v.0)).collect());
        for (row, key) in keys.iter().enumerate() {
            for (name, part) in rows.get(key).map(|v| v.1.as_slice()).unwrap_or_default() {
                let at = scores.parts.iter().position(|(n, _)| n == name).unwrap_or_else(|| {
                    scores.parts.push((name.clone(), vec![None; batch.len()]));
                    scores.parts.len() - 1
                });
                scores.parts[at].1[row] = *part;
            }
            scores.reasons.extend(reasons.get(key).map(|reason| (row, reason.clone())));
        }
        Ok(scores)
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        self.inner.metrics()
    }

    fn state(&self) -> serde_json::Value {
        self.inner.state()
    }

    fn restore(&self, state: &serde_json::Value) -> Result<(), RewardError> {
        self.inner.restore(state)
    }
}
