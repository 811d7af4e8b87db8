//! Sampling and scoring by several ranks, so that all of them have all responses with the same scores.

use std::sync::{Mutex, PoisonError};

use rlaif_core::{Exchange, RewardError, RewardModel, Score, Scores, StepScore};
use rlaif_lm::{LmError, NumberedPrompt, Sampled, Sampler, SamplerCall, generate::Ask};
use rlaif_torch::{TorchError, dist::World};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A sampler in each rank: every rank samples its share of the responses, and gets all of them. Of a sampler over
/// servers ([`Sampler::is_remote`]), rank 0 asks for all of them.
///
/// The tokens of a response depend on its ask and on `draw`, so they are those of one process up to rounding.
pub struct RankedSampler<'a> {
    inner: &'a mut dyn Sampler,
    world: &'a World,
}

impl std::fmt::Debug for RankedSampler<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RankedSampler").field("world", self.world).finish_non_exhaustive()
    }
}

impl<'a> RankedSampler<'a> {
    /// Shares the work of `inner`.
    pub fn new(inner: &'a mut dyn Sampler, world: &'a World) -> Self {
        Self { inner, world }
    }
}

impl Sampler for RankedSampler<'_> {
    fn sample(&mut self, asks: &[Ask], call: SamplerCall<'_>) -> Result<Vec<Sampled>, LmError> {
        self.share(asks, |inner, own| inner.sample(own, call))
    }

    fn play(
        &mut self,
        rows: &[NumberedPrompt],
        call: SamplerCall<'_>,
    ) -> Result<Vec<Sampled>, LmError> {
        self.share(rows, |inner, own| inner.play(own, call))
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }

    fn tokens_before(&self, ids: &[u32], bytes: usize) -> Result<Option<usize>, LmError> {
        self.inner.tokens_before(ids, bytes)
    }
}

impl RankedSampler<'_> {
    /// The responses to all rows, of which this rank samples its share.
    fn share<T>(
        &mut self,
        rows: &[T],
        sample: impl FnOnce(&mut dyn Sampler, &[T]) -> Result<Vec<Sampled>, LmError>,
    ) -> Result<Vec<Sampled>, LmError> {
        if self.world.is_alone() {
            return sample(self.inner, rows);
        }
        let own = match (self.inner.is_remote(), self.world.is_first()) {
            (false, _) => &rows[self.world.share(rows.len())],
            (true, true) => rows,
            (true, false) => &rows[..0],
        };
        let own = match own.is_empty() {
            true => Vec::new(),
            false => sample(self.inner, own)?,
        };
        self.gather(&own)
    }

    /// The responses of all ranks, in the order of the rows.
    fn gather(&self, own: &[Sampled]) -> Result<Vec<Sampled>, LmError> {
        let failed = |error: serde_json::Error| LmError::Sampler {
            sampler: "the ranks".to_owned(),
            source: Box::new(error),
        };
        let bytes = serde_json::to_vec(own).map_err(failed)?;
        let mut all = Vec::new();
        for of_rank in self.world.gather(&bytes).map_err(LmError::from)? {
            all.extend(serde_json::from_slice::<Vec<Sampled>>(&of_rank).map_err(failed)?);
        }
        Ok(all)
    }
}

/// A reward that rank 0 asks, and whose scores all ranks get: an API is paid once, and a score that depends on the
/// whole batch or on earlier ones is that of one process.
///
/// Without it, each rank asks its own reward for all scores. They must then be equal.
pub struct RankedReward {
    /// In rank 0.
    inner: Option<Box<dyn RewardModel>>,
    world: World,
    /// After the last scores.
    metrics: Mutex<Vec<(String, f64)>>,
}

impl std::fmt::Debug for RankedReward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RankedReward").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl RankedReward {
    /// Has rank 0 ask `inner`; the other ranks need none.
    pub fn new(inner: Option<Box<dyn RewardModel>>, world: &World) -> Self {
        Self { inner, world: world.clone(), metrics: Mutex::default() }
    }

    fn failed(&self, source: impl std::error::Error + Send + Sync + 'static) -> RewardError {
        RewardError::Failed { model: self.name().to_owned(), source: Box::new(source) }
    }
}

/// Scores on their way to the other ranks. Numbers that are not finite do not occur.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Message {
    total: Vec<Option<f32>>,
    parts: Vec<(String, Vec<Option<f32>>)>,
    reasons: Vec<(usize, String)>,
    steps: Vec<(usize, Vec<(usize, f32)>)>,
    /// As bits, because they need not be finite.
    metrics: Vec<(String, u64)>,
}

fn numbers(scores: &[Option<Score>]) -> Vec<Option<f32>> {
    scores.iter().map(|score| score.map(Score::get)).collect()
}

fn scores(numbers: &[Option<f32>]) -> Vec<Option<Score>> {
    numbers.iter().map(|number| number.and_then(|number| Score::new(number).ok())).collect()
}

impl Message {
    fn of(scores: &Scores, metrics: Vec<(String, f64)>) -> Self {
        let steps = scores.steps.iter().map(|(row, steps)| {
            (*row, steps.iter().map(|step| (step.end, step.score.get())).collect())
        });
        Self {
            total: numbers(&scores.total),
            parts: scores.parts.iter().map(|(name, part)| (name.clone(), numbers(part))).collect(),
            reasons: scores.reasons.clone(),
            steps: steps.collect(),
            metrics: metrics.into_iter().map(|(name, x)| (name, x.to_bits())).collect(),
        }
    }

    fn scores(&self) -> Scores {
        let step = |&(end, score): &(usize, f32)| {
            Score::new(score).ok().map(|score| StepScore { end, score })
        };
        let steps = self.steps.iter();
        Scores {
            total: scores(&self.total),
            parts: self.parts.iter().map(|(name, part)| (name.clone(), scores(part))).collect(),
            reasons: self.reasons.clone(),
            steps: steps
                .map(|(row, steps)| (*row, steps.iter().filter_map(step).collect()))
                .collect(),
        }
    }
}

impl RewardModel for RankedReward {
    fn name(&self) -> &str {
        self.inner.as_ref().map_or("the reward of rank 0", |inner| inner.name())
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let bytes = match &self.inner {
            Some(inner) => {
                let message = Message::of(&inner.score(batch)?, inner.metrics());
                serde_json::to_vec(&message).map_err(|error| self.failed(error))?
            }
            None => Vec::new(),
        };
        let all = self.world.gather(&bytes).map_err(|error: TorchError| self.failed(error))?;
        let message: Message =
            serde_json::from_slice(&all[0]).map_err(|error| self.failed(error))?;
        let metrics = message.metrics.iter();
        let metrics = metrics.map(|(name, bits)| (name.clone(), f64::from_bits(*bits))).collect();
        *self.metrics.lock().unwrap_or_else(PoisonError::into_inner) = metrics;
        Ok(message.scores())
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn state(&self) -> Value {
        self.inner.as_ref().map_or(Value::Null, |inner| inner.state())
    }

    fn restore(&self, state: &Value) -> Result<(), RewardError> {
        self.inner.as_ref().map_or(Ok(()), |inner| inner.restore(state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_arrive_as_they_were_sent() {
        let score = |x: f32| Score::new(x).unwrap();
        let sent = Scores {
            total: vec![Some(score(0.1)), None],
            parts: vec![("length".to_owned(), vec![None, Some(score(-3.5))])],
            reasons: vec![(1, "no number".to_owned())],
            steps: vec![(0, vec![StepScore { end: 7, score: score(1e-30) }])],
        };
        let metrics = vec![("cost".to_owned(), f64::NAN)];
        let bytes = serde_json::to_vec(&Message::of(&sent, metrics)).unwrap();
        let got: Message = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(got.scores(), sent);
        assert!(f64::from_bits(got.metrics[0].1).is_nan());
    }
}
