//! The responses of one policy, and their measurements.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

use rlaif_core::{BadSetting, Exchange, Metadata, Provenance, RewardError, Sample, Seed};
use serde::{Deserialize, Serialize};

use crate::journal::Journal;
use crate::{EvalError, Metric, MetricInfo, files};

/// The policy that answered, and its sampling settings.
///
/// ```
/// use rlaif_core::Seed;
/// let about = rlaif_eval::About::new("runs/ppo/model", Seed::new(42));
/// assert_eq!(about.policy, "runs/ppo/model");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The policy: a folder or a hub id.
    pub policy: String,
    /// The seed its responses were sampled with.
    pub seed: Seed,
    /// The sampling settings to report: length, temperature and others.
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub generation: Metadata,
}

impl About {
    /// A policy with unknown sampling settings.
    pub fn new(policy: impl Into<String>, seed: Seed) -> Self {
        Self { policy: policy.into(), seed, generation: Metadata::new() }
    }
}

/// One metric's values, one for each sample of an evaluation, in their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// The metric.
    pub info: MetricInfo,
    /// One per sample; `None` where the metric has no verdict.
    pub values: Vec<Option<f64>>,
    /// Reasons for missing values, by row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<(usize, String)>,
}

impl Column {
    /// The values of a metric that has a verdict on every sample.
    pub fn new(info: MetricInfo, values: impl IntoIterator<Item = f64>) -> Self {
        Self { info, values: values.into_iter().map(Some).collect(), reasons: Vec::new() }
    }
}

/// The responses of one policy, and their measurements.
///
/// Several responses to one prompt share the prompt's id; averages and resamples are taken by
/// prompt.
///
/// ```
/// use rlaif_core::{PromptRecord, Sample, Seed};
/// use rlaif_eval::{About, Measurement, Metric, text::{LengthMetric, LengthUnit}};
/// let samples = vec![Sample { record: PromptRecord::new("a", "Why?"), response: "Just so.".into() }];
/// let metrics: [Box<dyn Metric>; 1] = [Box::new(LengthMetric::new(LengthUnit::Words))];
/// let evaluation = Measurement::of(&metrics).run(About::new("base", Seed::new(0)), samples)?;
/// assert_eq!(evaluation.column("length_words")?.values, [Some(2.)]);
/// # Ok::<(), rlaif_eval::EvalError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// The policy that answered.
    pub about: About,
    /// The origin of the prompts.
    pub provenance: Provenance,
    samples: Vec<Sample>,
    columns: Vec<Column>,
}

impl Evaluation {
    /// Responses without measurements.
    pub fn new(about: About, samples: Vec<Sample>) -> Self {
        Self { about, provenance: Provenance::default(), samples, columns: Vec::new() }
    }

    /// The responses.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The measurements, one column per metric.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The values of one metric.
    ///
    /// # Errors
    /// [`EvalError::UnknownMetric`].
    pub fn column(&self, name: &str) -> Result<&Column, EvalError> {
        self.columns.iter().find(|column| column.info.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.columns.iter().map(|c| c.info.name.as_str()).collect();
            EvalError::UnknownMetric { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// Adds numbers that were computed elsewhere: perplexity, KL divergence, anything.
    ///
    /// # Errors
    /// [`EvalError::Count`] if there is not one for each sample, [`EvalError::NotFinite`] for NaN
    /// or infinity, [`EvalError::DuplicateMetric`] for a name that is taken.
    pub fn add(&mut self, column: Column) -> Result<(), EvalError> {
        self.check(&column)?;
        if self.columns.iter().any(|other| other.info.name == column.info.name) {
            return Err(EvalError::DuplicateMetric { name: column.info.name });
        }
        self.columns.push(column);
        Ok(())
    }

    fn check(&self, column: &Column) -> Result<(), EvalError> {
        if column.values.len() != self.samples.len() {
            return Err(EvalError::Count {
                what: format!("metric `{}`", column.info.name),
                expected: self.samples.len(),
                found: column.values.len(),
            });
        }
        for (value, sample) in column.values.iter().zip(&self.samples) {
            if let Some(value) = value.filter(|value| !value.is_finite()) {
                return Err(EvalError::NotFinite {
                    metric: column.info.name.clone(),
                    id: sample.record.id.clone(),
                    value,
                });
            }
        }
        Ok(())
    }

    /// Writes the evaluation as JSON, so that a baseline is measured once and compared often.
    ///
    /// # Errors
    /// [`EvalError::Io`]. A file that was there stays as it was.
    pub fn write(&self, path: &Path) -> Result<(), EvalError> {
        files::write_json(path, self)
    }

    /// Reads the file that [`Evaluation::write`] wrote.
    ///
    /// # Errors
    /// [`EvalError::Io`], [`EvalError::Format`], and what [`Evaluation::add`] refuses.
    pub fn read(path: &Path) -> Result<Self, EvalError> {
        let read: Unchecked = files::read_json(path, "an evaluation as `rlaif eval` writes it")?;
        let mut evaluation = Self::new(read.about, read.samples);
        evaluation.provenance = read.provenance;
        for column in read.columns {
            evaluation.add(column)?;
        }
        Ok(evaluation)
    }
}

/// An evaluation in the file format.
#[derive(Deserialize)]
struct Unchecked {
    about: About,
    provenance: Provenance,
    samples: Vec<Sample>,
    columns: Vec<Column>,
}

/// Progress of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeasuringProgress<'a> {
    /// The running metric.
    pub metric: &'a str,
    /// Number of samples measured, earlier runs included.
    pub done: usize,
    /// Number of samples in all.
    pub total: usize,
}

type OnProgress<'a> = dyn FnMut(MeasuringProgress<'_>) + 'a;

/// Measures samples with metrics, batch by batch. All metrics run concurrently: while one waits for
/// a judge on the network, another computes.
///
/// With a journal, every batch is on disk as soon as it is measured, and an interrupted run
/// continues where it stopped, so that nothing is paid for twice.
pub struct Measurement<'a> {
    metrics: &'a [Box<dyn Metric>],
    batch: usize,
    journal: Option<PathBuf>,
    progress: Option<Box<OnProgress<'a>>>,
}

impl<'a> Measurement<'a> {
    /// Measures with these metrics, 64 samples at a time, without a journal.
    pub fn of(metrics: &'a [Box<dyn Metric>]) -> Self {
        Self { metrics, batch: 64, journal: None, progress: None }
    }

    /// Sets the number of samples per batch.
    #[must_use]
    pub fn batch(mut self, samples: usize) -> Self {
        self.batch = samples;
        self
    }

    /// Keeps measured values in this file, and reuses those that the file already holds.
    ///
    /// A value is reused for the same metric (name, direction, threshold, description) on the same
    /// prompt, response, reference and metadata. After a change to the metric itself, change its
    /// description too, or use a new file. Missing values are requested again.
    #[must_use]
    pub fn journal(mut self, path: impl Into<PathBuf>) -> Self {
        self.journal = Some(path.into());
        self
    }

    /// Calls back after each batch.
    #[must_use]
    pub fn progress(mut self, call: impl FnMut(MeasuringProgress<'_>) + 'a) -> Self {
        self.progress = Some(Box::new(call));
        self
    }

    /// Measures all of `samples` with all metrics.
    ///
    /// # Errors
    /// The metric's error; any error of [`Evaluation::add`]; [`EvalError::Io`] and
    /// [`EvalError::Format`] of the journal. Values measured before the error are in the journal.
    pub fn run(mut self, about: About, samples: Vec<Sample>) -> Result<Evaluation, EvalError> {
        if self.batch == 0 {
            return Err(EvalError::Setting(BadSetting::new("batch", "0", "at least 1")));
        }
        let mut names = BTreeSet::new();
        for metric in self.metrics {
            if !names.insert(&metric.info().name) {
                return Err(EvalError::DuplicateMetric { name: metric.info().name.clone() });
            }
        }
        let journal = self.journal.take().map(|path| Journal::open(&path)).transpose()?;
        let mut evaluation = Evaluation::new(about, samples);
        let (tell, told) = mpsc::channel();
        let work = Work {
            samples: &evaluation.samples,
            batch: self.batch,
            journal: journal.map(Mutex::new),
            stopped: AtomicBool::new(false),
        };
        let metrics = self.metrics;
        let columns: Vec<Result<Column, EvalError>> = std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = metrics
                .iter()
                .map(|metric| {
                    let tell = tell.clone();
                    scope.spawn(move || {
                        let measured = work.measure(&**metric, &tell);
                        work.stopped.fetch_or(measured.is_err(), Ordering::Relaxed);
                        measured
                    })
                })
                .collect();
            drop(tell);
            let total = work.samples.len();
            for (metric, done) in told {
                if let Some(call) = &mut self.progress {
                    call(MeasuringProgress { metric, done, total });
                }
            }
            let ended = threads.into_iter().map(|thread| thread.join());
            ended.map(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        // Metrics that stopped because another failed have no error of their own.
        let (measured, failed): (Vec<_>, Vec<_>) = columns.into_iter().partition(Result::is_ok);
        if let Some(error) = failed.into_iter().find_map(Result::err) {
            return Err(error);
        }
        for column in measured.into_iter().flatten() {
            evaluation.add(column)?;
        }
        Ok(evaluation)
    }
}

/// The input of the metrics.
struct Work<'a> {
    samples: &'a [Sample],
    batch: usize,
    journal: Option<Mutex<Journal>>,
    /// Set when a metric failed.
    stopped: AtomicBool,
}

impl Work<'_> {
    fn journal(&self) -> Option<MutexGuard<'_, Journal>> {
        Some(self.journal.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Measures one metric's column; stops early if another metric fails meanwhile.
    fn measure<'m>(
        &self,
        metric: &'m dyn Metric,
        tell: &mpsc::Sender<(&'m str, usize)>,
    ) -> Result<Column, EvalError> {
        let (info, samples) = (metric.info(), self.samples);
        let mut column =
            Column { info: info.clone(), values: vec![None; samples.len()], reasons: Vec::new() };
        let mut open: Vec<usize> = (0..samples.len()).collect();
        if let Some(journal) = self.journal() {
            open.retain(|&row| {
                column.values[row] = journal.value(info, &samples[row]);
                column.values[row].is_none()
            });
        }
        let mut done = samples.len() - open.len();
        for rows in open.chunks(self.batch) {
            if self.stopped.load(Ordering::Relaxed) {
                break;
            }
            RewardError::if_interrupted(&info.name)
                .map_err(|source| EvalError::Reward { metric: info.name.clone(), source })?;
            let batch: Vec<Exchange<'_>> = rows.iter().map(|&r| samples[r].exchange()).collect();
            let found = metric.evaluate(&batch).map_err(|error| match error {
                EvalError::Reward { metric, source } => {
                    let source = source.in_row(|row| match rows.get(row) {
                        Some(&row) => samples[row].record.place(),
                        None => format!("response {row}"),
                    });
                    EvalError::Reward { metric, source }
                }
                other => other,
            })?;
            if found.values.len() != rows.len() {
                return Err(EvalError::Count {
                    what: format!("metric `{}`", info.name),
                    expected: rows.len(),
                    found: found.values.len(),
                });
            }
            for (&row, value) in rows.iter().zip(&found.values) {
                if let Some(value) = value.filter(|value| !value.is_finite()) {
                    let (metric, id) = (info.name.clone(), samples[row].record.id.clone());
                    return Err(EvalError::NotFinite { metric, id, value });
                }
                column.values[row] = *value;
            }
            let reasons = found.reasons.into_iter();
            column
                .reasons
                .extend(reasons.filter_map(|(at, reason)| Some((*rows.get(at)?, reason))));
            if let Some(mut journal) = self.journal() {
                let measured = rows.iter().map(|&row| (&samples[row], column.values[row]));
                journal.append(info, measured)?;
            }
            done += rows.len();
            // The receiver outlives all senders.
            let _ = tell.send((&info.name, done));
        }
        Ok(column)
    }
}
