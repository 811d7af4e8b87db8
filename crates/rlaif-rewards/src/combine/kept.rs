//! Verdicts in a file, of rewards whose scores come only at the end of a batch.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rlaif_core::{Exchange, RewardError, RewardModel, Score, Scores};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::cached::key;
use super::member::finite;
use crate::ProviderError;
use crate::sync::lock;

/// Verdicts of any rewards, in a file that grows by one line as soon as a verdict is there.
#[derive(Debug)]
struct Store {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    known: HashMap<String, Line>,
}

/// A line of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    /// A hash of the reward and the row.
    key: String,
    score: f32,
    parts: Vec<(String, Option<f32>)>,
}

impl Store {
    /// Opens or creates the file. A last line that was cut off, or a damaged line, does not count.
    fn open(path: &Path) -> Result<Self, ProviderError> {
        let failed =
            |source| ProviderError::Stream { action: "read and write the kept verdicts", source };
        let mut file = rlaif_files::open_growing(path).map_err(failed)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        if whole < text.len() {
            file.set_len(whole as u64).map_err(failed)?;
        }
        let lines = text[..whole].split(|&byte| byte == b'\n');
        let known = lines
            .filter_map(|line| serde_json::from_slice::<Line>(line).ok())
            .map(|line| (line.key.clone(), line))
            .collect();
        Ok(Self { inner: Mutex::new(Inner { file, known }) })
    }

    fn get(&self, key: &str) -> Option<Line> {
        lock(&self.inner).known.get(key).cloned()
    }

    fn put(&self, line: Line) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        let mut inner = lock(&self.inner);
        inner.file.write_all(&text)?;
        inner.known.insert(line.key.clone(), line);
        Ok(())
    }
}

/// A file of verdicts that is opened when the first reward needs it.
#[derive(Debug, Default)]
pub(crate) struct Keeping {
    path: Option<PathBuf>,
    store: Mutex<Option<Arc<Store>>>,
    /// Rewards so far, in the order in which they are built.
    rewards: AtomicUsize,
}

impl Keeping {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path: Some(path), ..Self::default() }
    }

    /// The reward with its verdicts kept, or as it is if nothing is kept.
    pub(crate) fn kept(
        &self,
        reward: Box<dyn RewardModel>,
    ) -> Result<Box<dyn RewardModel>, ProviderError> {
        let Some(path) = &self.path else { return Ok(reward) };
        let mut store = lock(&self.store);
        let store = match &*store {
            Some(store) => Arc::clone(store),
            None => Arc::clone(store.insert(Arc::new(Store::open(path)?))),
        };
        let number = self.rewards.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Kept { inner: reward, number, store }))
    }
}

/// A reward whose verdicts are kept: those in the file are not asked for again.
struct Kept {
    inner: Box<dyn RewardModel>,
    /// The place of the reward among those of the file, for the keys.
    number: usize,
    store: Arc<Store>,
}

impl Kept {
    fn key(&self, exchange: &Exchange<'_>) -> String {
        let mut hash = Sha256::new();
        hash.update((self.number as u64).to_le_bytes());
        hash.update(key(exchange));
        rlaif_files::hex(&hash.finalize())
    }

    fn scores(&self, line: &Line, row: usize) -> Result<Scores, RewardError> {
        let name = self.inner.name();
        let score = |value: f32| finite(value, name, row);
        let mut scores = Scores::new(vec![Some(score(line.score)?)]);
        for (part, value) in &line.parts {
            scores.parts.push((part.clone(), vec![value.map(score).transpose()?]));
        }
        Ok(scores)
    }
}

impl RewardModel for Kept {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let keys: Vec<String> = batch.iter().map(|exchange| self.key(exchange)).collect();
        let mut scores = Scores::new(vec![None; batch.len()]);
        let (mut open, mut asked) = (Vec::new(), Vec::new());
        for (row, exchange) in batch.iter().enumerate() {
            match self.store.get(&keys[row]) {
                Some(line) => scores.fill_from(self.scores(&line, row)?, &[row]),
                None => {
                    open.push(row);
                    asked.push(*exchange);
                }
            }
        }
        let mut failure = None;
        let scored = self.inner.score_each(&asked, &mut |at, verdict| {
            let row = open[at];
            let score = verdict.total.first().copied().flatten();
            let kept = score.map_or(Ok(()), |score| {
                let part = |(name, column): &(String, Vec<Option<Score>>)| {
                    (name.clone(), column.first().copied().flatten().map(Score::get))
                };
                let parts = verdict.parts.iter().map(part).collect();
                self.store.put(Line { key: keys[row].clone(), score: score.get(), parts })
            });
            scores.fill_from(verdict, &[row]);
            match kept {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        if let Some(source) = failure {
            let source = ProviderError::Stream { action: "keep the verdicts", source };
            let model = self.inner.name().to_owned();
            return Err(RewardError::Failed { model, source: Box::new(source) });
        }
        scored.map_err(|error| error.among(&open))?;
        Ok(scores)
    }

    state_of_inner!();
}
