//! Numbers that a run reports, and where they go.

use std::{borrow::Cow, error::Error};

/// The numbers of one step, by name, in the order in which they were added.
///
/// Names are the field's (`objective/kl`, `loss`); `time/...` holds what differs between two runs
/// of the same seed.
///
/// ```
/// use rlaif_core::Metrics;
/// let mut metrics = Metrics::new();
/// metrics.set("loss", 0.7);
/// metrics.set(format!("reward/{}", "toxicity"), -1.5);
/// assert_eq!(metrics.get("loss"), Some(0.7));
/// assert_eq!(metrics.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["loss", "reward/toxicity"]);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics(Vec<(Cow<'static, str>, f64)>);

impl Metrics {
    /// No numbers.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Sets a number; an existing one with the same name keeps its position.
    pub fn set(&mut self, name: impl Into<Cow<'static, str>>, value: f64) {
        let name = name.into();
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// The number of this name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// Names and numbers in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), *value))
    }

    /// The number of metrics.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// `true` if there is no number.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds all numbers of `other`.
    pub fn extend(&mut self, other: Self) {
        for (name, value) in other.0 {
            self.set(name, value);
        }
    }
}

impl<N: Into<Cow<'static, str>>> FromIterator<(N, f64)> for Metrics {
    fn from_iter<I: IntoIterator<Item = (N, f64)>>(numbers: I) -> Self {
        let mut metrics = Self::new();
        for (name, value) in numbers {
            metrics.set(name, value);
        }
        metrics
    }
}

/// Destination of the numbers of a run: a file, a terminal, a service.
///
/// Implement it to send them anywhere else; a closure is one already.
///
/// ```
/// use rlaif_core::{MetricError, MetricSink, Metrics};
/// let mut losses = Vec::new();
/// let mut sink = |_step: u64, metrics: &Metrics| {
///     losses.extend(metrics.get("loss"));
///     Ok::<(), MetricError>(())
/// };
/// sink.record(1, &[("loss", 0.7)].into_iter().collect())?;
/// assert_eq!(losses, [0.7]);
/// # Ok::<(), MetricError>(())
/// ```
pub trait MetricSink: Send {
    /// Takes the numbers of `step`, counted from 1. Steps come in order.
    ///
    /// # Errors
    /// [`MetricError`] if they cannot be passed on; the run stops.
    fn record(&mut self, step: u64, metrics: &Metrics) -> Result<(), MetricError>;

    /// Makes what was taken so far durable.
    ///
    /// # Errors
    /// As [`MetricSink::record`].
    fn flush(&mut self) -> Result<(), MetricError> {
        Ok(())
    }
}

impl<F: FnMut(u64, &Metrics) -> Result<(), MetricError> + Send> MetricSink for F {
    fn record(&mut self, step: u64, metrics: &Metrics) -> Result<(), MetricError> {
        self(step, metrics)
    }
}

/// A sink could not pass numbers on.
#[derive(Debug, thiserror::Error)]
#[error("metrics to {sink}: {source}")]
pub struct MetricError {
    /// File or service.
    pub sink: String,
    /// The error message.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

impl MetricError {
    /// The error of `sink`.
    pub fn new(sink: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { sink: sink.into(), source: source.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_there_once_and_keeps_its_place() {
        let mut metrics: Metrics = [("a", 1.), ("b", 2.)].into_iter().collect();
        metrics.extend([("b", 3.), ("c", 4.)].into_iter().collect());
        metrics.set("a", 5.);
        let all: Vec<_> = metrics.iter().collect();
        assert_eq!(all, [("a", 5.), ("b", 3.), ("c", 4.)]);
        assert_eq!((metrics.len(), metrics.get("d")), (3, None));
    }
}
