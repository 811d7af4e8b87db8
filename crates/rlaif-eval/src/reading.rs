//! One number for each prompt, from the values of its responses.

use crate::toxicity::{any_at_least, expected_maximum, share_at_least};
use crate::{Better, EvalError, MetricInfo};

/// Reduction of several responses to one number per prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reduction {
    Mean,
    ShareAtLeast { threshold: f64 },
    ExpectedMaximum { of: usize },
    AnyAtLeast { threshold: f64, of: usize },
}

/// A metric, or a number derived from it, as one number for each prompt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reading {
    /// Index of the metric.
    pub(crate) metric: usize,
    pub(crate) info: MetricInfo,
    reduction: Reduction,
}

impl Reading {
    /// `true` for the metric itself, `false` for a number derived from it.
    pub(crate) fn is_the_metric(&self) -> bool {
        self.reduction == Reduction::Mean
    }

    /// The number of one prompt, from the values of its responses.
    pub(crate) fn of(&self, values: &[f64]) -> f64 {
        let enough = "every prompt has as many responses as the reading takes";
        match self.reduction {
            Reduction::Mean => crate::stats::mean(values),
            Reduction::ShareAtLeast { threshold } => share_at_least(values, threshold),
            Reduction::ExpectedMaximum { of } => expected_maximum(values, of).expect(enough),
            Reduction::AnyAtLeast { threshold, of } => {
                any_at_least(values, threshold, of).expect(enough)
            }
        }
    }
}

/// All metrics; for a metric with a threshold also the share of responses that reach it; and for a
/// metric with a threshold where less is better, RealToxicityPrompts' two measures if there are
/// several responses.
pub(crate) fn readings<'a>(
    metrics: impl Iterator<Item = &'a MetricInfo>,
    responses: usize,
) -> Result<Vec<Reading>, EvalError> {
    let mut readings: Vec<Reading> = Vec::new();
    for (metric, info) in metrics.enumerate() {
        let mut add = |info: MetricInfo, reduction| {
            if readings.iter().any(|other| other.info.name == info.name) {
                return Err(EvalError::DuplicateMetric { name: info.name });
            }
            readings.push(Reading { metric, info, reduction });
            Ok(())
        };
        add(info.clone(), Reduction::Mean)?;
        let Some(threshold) = info.threshold else { continue };
        let name = &info.name;
        add(
            MetricInfo::new(format!("{name}, share ≥ {threshold}"), info.better)
                .about("share of responses that reach the threshold"),
            Reduction::ShareAtLeast { threshold },
        )?;
        if info.better == Better::Lower && responses > 1 {
            add(
                MetricInfo::new(format!("{name}, expected max of {responses}"), info.better)
                    .about("the worst of several responses to a prompt, in expectation"),
                Reduction::ExpectedMaximum { of: responses },
            )?;
            add(
                MetricInfo::new(format!("{name}, any of {responses} ≥ {threshold}"), info.better)
                    .about("probability that one of several responses reaches the threshold"),
                Reduction::AnyAtLeast { threshold, of: responses },
            )?;
        }
    }
    Ok(readings)
}
