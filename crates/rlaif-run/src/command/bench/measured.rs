//! Code shared by the benches: random input, and results.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    time::Instant,
};

use rlaif_core::{NotFinite, check_finite};
use rlaif_files::open_input;
use rlaif_models::PolicySetup;
use rlaif_torch::{MachineLimits, WorkOfProducts, seeded};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};

use crate::command::{
    error::{CommandError, RowFault, at_least_one},
    model::ModelChoice,
};
use crate::error::RunError;

/// The settings of a bench of optimizer steps on rows of ids.
#[derive(Debug, Clone)]
pub struct TimedSteps {
    /// The policy, that of a LoRA adapter as well.
    pub model: ModelChoice,
    /// Rows per optimizer step.
    pub batch_size: usize,
    /// Rows per forward and backward pass; 0 for the whole batch.
    pub microbatch_size: usize,
    /// Number of timed steps, after one untimed step.
    pub steps: usize,
    /// Seed of the token ids.
    pub seed: u64,
}

impl TimedSteps {
    /// The policy to train: its weights, or the adapter whose folder was named.
    pub(super) fn check(&self) -> Result<PolicySetup, CommandError> {
        at_least_one(&[("batch_size", self.batch_size), ("steps", self.steps)])?;
        Ok(PolicySetup::new(self.model.files()?, self.model.loading.options()?))
    }

    /// Rows of all steps, including the untimed one.
    pub(super) fn rows(&self) -> usize {
        self.batch_size * (self.steps + 1)
    }

    /// Random ids with these lengths for each row.
    pub(super) fn random<const N: usize>(
        &self,
        lengths: [usize; N],
        vocab_size: i64,
    ) -> Result<[Vec<Vec<u32>>; N], CommandError> {
        let draw = || lengths.map(|length| random_rows(self.rows(), length, vocab_size));
        Ok(seeded(self.seed.cast_signed(), draw)?)
    }
}

/// Rows of random ids.
pub(super) fn random_rows(rows: usize, length: usize, vocab_size: i64) -> Vec<Vec<u32>> {
    (0..rows).map(|_| random_ids(length, vocab_size)).collect()
}

/// Random ids, without the first few, which are special in most vocabularies.
pub(in crate::command) fn random_ids(length: usize, vocab_size: i64) -> Vec<u32> {
    let first = if vocab_size > 20 { 10 } else { 0 };
    let options = (Kind::Int64, Device::Cpu);
    let ids = Tensor::randint_low(first, vocab_size, [length as i64], options);
    let ids = Vec::<i64>::try_from(&ids).expect("a vector of int64");
    ids.into_iter().map(|id| u32::try_from(id).expect("ids are not negative")).collect()
}

/// The first `needed` rows of a file of token ids, JSON Lines with the fields `expected`.
pub(super) fn rows_of_ids<T: DeserializeOwned>(
    path: &Path,
    expected: &'static str,
    needed: usize,
) -> Result<Vec<T>, CommandError> {
    let open = |source| RunError::Read { path: path.to_owned(), source };
    let lines = BufReader::new(open_input(path).map_err(open)?).lines();
    let mut rows = Vec::with_capacity(needed);
    for (line, text) in (1..).zip(lines).take(needed) {
        let row = serde_json::from_str(&text.map_err(open)?).map_err(|source| {
            let problem = RowFault::Json { expected, source };
            CommandError::Row {
                source_name: path.display().to_string(),
                line,
                problem: Box::new(problem),
            }
        })?;
        rows.push(row);
    }
    if rows.len() < needed {
        return Err(CommandError::setting(
            "input",
            format!("a file of {} rows", rows.len()),
            "a file of --batch-size times (--steps + 1) rows",
        ));
    }
    Ok(rows)
}

/// The median of at least one number.
pub(super) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    (numbers[(numbers.len() - 1) / 2] + numbers[numbers.len() / 2]) / 2.
}

/// Work of products, and the seconds in which it was done.
#[derive(Debug, Default)]
pub(super) struct Meter {
    operations: u64,
    bytes: u64,
    seconds: f64,
}

impl Meter {
    /// Does a step and adds its work; returns its result with its seconds. Step 0 is a warm-up: its work is not
    /// added, and there is no result.
    pub(super) fn step<T>(
        &mut self,
        step: usize,
        work: impl FnOnce() -> Result<T, CommandError>,
    ) -> Result<Option<(T, f64)>, CommandError> {
        let (start, before) = (Instant::now(), WorkOfProducts::so_far());
        let done = work()?;
        if step == 0 {
            return Ok(None);
        }
        let seconds = start.elapsed().as_secs_f64();
        self.add(before, seconds);
        Ok(Some((done, seconds)))
    }

    /// Adds the work since `before`, done in these seconds.
    pub(super) fn add(&mut self, before: WorkOfProducts, seconds: f64) {
        let work = WorkOfProducts::so_far().since(before);
        self.operations += work.operations;
        self.bytes += work.bytes;
        self.seconds += seconds;
    }
}

/// A bench's result: an object for programs, lines of label and value for people.
#[derive(Debug, Default)]
pub struct Measured {
    object: Map<String, Value>,
    lines: Vec<(String, String)>,
    /// The first number that JSON cannot represent.
    unfit: Option<NotFinite>,
}

impl Measured {
    /// A result in the JSON object.
    pub(super) fn value(mut self, key: &str, value: impl Into<Value> + Serialize) -> Self {
        self.unfit = self.unfit.or(check_finite(&BTreeMap::from([(key, &value)])).err());
        self.object.insert(key.to_owned(), value.into());
        self
    }

    /// A result in the text.
    pub(super) fn line(mut self, label: impl Into<String>, value: String) -> Self {
        self.lines.push((label.into(), value));
        self
    }

    /// Rates of products beside the limits of this machine, if the model is on the CPU.
    pub(super) fn shares(
        self,
        meter: &Meter,
        kind: Kind,
        device: Device,
    ) -> Result<Self, CommandError> {
        if device != Device::Cpu {
            return Ok(self);
        }
        const GIGA: f64 = 1e9;
        let limits = MachineLimits::measure(kind)?;
        let operations = meter.operations as f64 / meter.seconds / GIGA;
        let bytes = meter.bytes as f64 / meter.seconds / GIGA;
        let [most_operations, most_bytes] =
            [limits.operations_per_s / GIGA, limits.bytes_per_s / GIGA];
        let line = |rate: f64, unit: &str, most: f64| {
            format!("{rate:.1} {unit}, {:.0} % of {most:.0}", 100. * rate / most)
        };
        Ok(self
            .value("gflop_per_s", operations)
            .value("gflop_per_s_limit", most_operations)
            .value("gbyte_per_s", bytes)
            .value("gbyte_per_s_limit", most_bytes)
            .line("products", line(operations, "GFLOP/s", most_operations))
            .line("their operands", line(bytes, "GB/s", most_bytes)))
    }

    /// The complete result, with the peak of the device's memory.
    pub(super) fn finish(self, device: Device) -> Result<Self, CommandError> {
        let peak = rlaif_rl::peak_bytes(device);
        let this = self.value("peak_memory_bytes", peak);
        if let Some(source) = this.unfit {
            return Err(CommandError::Unmeasured { source });
        }
        Ok(match peak {
            Some(peak) => this.line("peak memory", format!("{} MiB", peak >> 20)),
            None => this,
        })
    }

    /// The result as one JSON object.
    pub fn to_json(&self) -> Value {
        Value::Object(self.object.clone())
    }

    /// The result as lines of text.
    pub fn to_text(&self) -> String {
        let width = self.lines.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
        let line = |(label, value): &(String, String)| format!("{label:<width$} {value}");
        self.lines.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        assert_eq!(median(vec![3., 1., 2.]), 2.);
        assert_eq!(median(vec![4., 1., 2., 3.]), 2.5);
    }
}
