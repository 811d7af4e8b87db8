//! Length, repetition and variety of responses. Words are separated by white space.

use std::collections::HashSet;

use rlaif_core::{BadSetting, Exchange};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Better, EvalError, Metric, MetricInfo, Values};

/// Share of a response's runs of `n` words that repeat an earlier run: 1 − distinct runs / runs,
/// seq-rep-n of Welleck et al. 2019 (arXiv 1908.04319).
///
/// 0 for a response with fewer than `n` words: nothing is repeated in it.
///
/// ```
/// use rlaif_eval::text::repetition;
/// assert_eq!(repetition("no no no no no", 1), 0.8);
/// assert_eq!(repetition("no no no no no", 4), 0.5);
/// assert_eq!(repetition("all of this is new", 2), 0.);
/// ```
///
/// # Panics
/// If `n` is 0.
pub fn repetition(response: &str, n: usize) -> f64 {
    let words: Vec<&str> = response.split_whitespace().collect();
    let runs = words.windows(n).len();
    if runs == 0 {
        return 0.;
    }
    let distinct: HashSet<&[&str]> = words.windows(n).collect();
    1. - distinct.len() as f64 / runs as f64
}

/// Distinct-n of a set of responses: distinct runs of `n` words over all runs of `n` words
/// (Li et al. 2016, arXiv 1510.03055). `None` where no response has `n` words.
///
/// It falls as the set grows, so compare sets of one size.
///
/// ```
/// use rlaif_eval::text::distinct_n;
/// assert_eq!(distinct_n(["I do not know", "I do not care"], 1), Some(5. / 8.));
/// assert_eq!(distinct_n(["", "Yes"], 2), None);
/// ```
///
/// # Panics
/// If `n` is 0.
pub fn distinct_n<'a>(responses: impl IntoIterator<Item = &'a str>, n: usize) -> Option<f64> {
    let mut distinct: HashSet<Box<[&str]>> = HashSet::new();
    let mut total = 0usize;
    for response in responses {
        let words: Vec<&str> = response.split_whitespace().collect();
        for run in words.windows(n) {
            total += 1;
            if !distinct.contains(run) {
                distinct.insert(run.into());
            }
        }
    }
    (total > 0).then(|| distinct.len() as f64 / total as f64)
}

/// The unit of a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LengthUnit {
    /// Runs of anything but white space.
    #[default]
    Words,
    /// Unicode scalar values.
    Characters,
}

impl LengthUnit {
    /// The length of a text in this unit.
    ///
    /// ```
    /// use rlaif_eval::text::LengthUnit;
    /// assert_eq!(LengthUnit::Words.of("naïve  text"), 2);
    /// assert_eq!(LengthUnit::Characters.of("naïve"), 5);
    /// ```
    pub fn of(self, text: &str) -> usize {
        match self {
            Self::Words => text.split_whitespace().count(),
            Self::Characters => text.chars().count(),
        }
    }
}

/// The length of the response as a metric: neither direction is better, but a reward that favours
/// length shows here.
///
/// ```
/// use rlaif_core::Exchange;
/// use rlaif_eval::{Metric, text::{LengthMetric, LengthUnit}};
/// let metric = LengthMetric::new(LengthUnit::Words);
/// assert_eq!(metric.evaluate(&[Exchange::new("Why?", "Just because.")])?.values, [Some(2.)]);
/// # Ok::<(), rlaif_eval::EvalError>(())
/// ```
#[derive(Debug, Clone)]
pub struct LengthMetric {
    unit: LengthUnit,
    info: MetricInfo,
}

impl LengthMetric {
    /// The metric `length_words` or `length_characters`.
    pub fn new(unit: LengthUnit) -> Self {
        let name = match unit {
            LengthUnit::Words => "length_words",
            LengthUnit::Characters => "length_characters",
        };
        let info = MetricInfo::new(name, Better::Neither).about("length of the response");
        Self { unit, info }
    }
}

impl Metric for LengthMetric {
    fn info(&self) -> &MetricInfo {
        &self.info
    }

    fn evaluate(&self, batch: &[Exchange<'_>]) -> Result<Values, EvalError> {
        Ok(Values::all(batch.iter().map(|x| self.unit.of(x.response) as f64)))
    }
}

/// [`repetition`] as a metric: less is better.
///
/// ```
/// use rlaif_core::Exchange;
/// use rlaif_eval::{Metric, text::RepetitionMetric};
/// let metric = RepetitionMetric::new(1)?;
/// assert_eq!(metric.info().name, "repetition_1");
/// assert_eq!(metric.evaluate(&[Exchange::new("Why?", "so so")])?.values, [Some(0.5)]);
/// # Ok::<(), rlaif_eval::EvalError>(())
/// ```
#[derive(Debug, Clone)]
pub struct RepetitionMetric {
    n: usize,
    info: MetricInfo,
}

impl RepetitionMetric {
    /// The metric `repetition_n`. Published results use `n` = 4.
    ///
    /// # Errors
    /// [`EvalError::Setting`] if `n` is 0.
    pub fn new(n: usize) -> Result<Self, EvalError> {
        if n == 0 {
            return Err(EvalError::Setting(BadSetting::new("n", "0", "1 or more words")));
        }
        let info = MetricInfo::new(format!("repetition_{n}"), Better::Lower)
            .about(format!("share of runs of {n} words that the response said before"));
        Ok(Self { n, info })
    }
}

impl Metric for RepetitionMetric {
    fn info(&self) -> &MetricInfo {
        &self.info
    }

    fn evaluate(&self, batch: &[Exchange<'_>]) -> Result<Values, EvalError> {
        Ok(Values::all(batch.iter().map(|x| repetition(x.response, self.n))))
    }
}
