//! Progress on a terminal.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use rlaif_core::{MetricError, MetricSink, Metrics, say};

/// Pause between two plain lines, except before the first and the last step.
const PAUSE: Duration = Duration::from_secs(10);

/// Progress on standard error: a bar with the main numbers, steps per second and the remaining
/// time; without a terminal, an occasional plain line.
///
/// ```
/// use rlaif_core::{MetricSink, Metrics};
/// use rlaif_train::Terminal;
/// let mut terminal = Terminal::new(100, 0, ["loss", "lr"]);
/// terminal.record(1, &[("loss", 0.7), ("lr", 1e-5)].into_iter().collect())?;
/// # Ok::<(), rlaif_core::MetricError>(())
/// ```
#[derive(Debug)]
pub struct Terminal {
    total: u64,
    first: u64,
    shown: Vec<String>,
    start: Instant,
    said: Option<Instant>,
    bar: Option<ProgressBar>,
}

impl Terminal {
    /// Progress of a run of `total` steps, of which `done` were made before; it shows the metrics
    /// with these names, in this order.
    pub fn new<N: Into<String>>(total: u64, done: u64, shown: impl IntoIterator<Item = N>) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{bar:24} {pos}/{len}  {msg}  {per_sec}, {eta} left");
            let bar = ProgressBar::new(total)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_position(done);
            // Otherwise the earlier steps would count as very fast ones.
            bar.reset_eta();
            bar
        });
        Self {
            total,
            first: done,
            shown: shown.into_iter().map(Into::into).collect(),
            start: Instant::now(),
            said: None,
            bar,
        }
    }

    /// Prints a message beside the progress.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    fn numbers(&self, metrics: &Metrics) -> String {
        let last = |name: &'_ str| name.rsplit('/').next().map(str::to_owned);
        let number = |name: &String| {
            // Two names with the same last part (`loss` and `eval/loss`) are shown in full.
            let alike = self.shown.iter().filter(|other| last(other) == last(name)).count();
            let short = last(name).filter(|_| alike == 1);
            Some(format!("{} {}", short.as_ref().unwrap_or(name), compact(metrics.get(name)?)))
        };
        self.shown.iter().filter_map(number).collect::<Vec<_>>().join("  ")
    }
}

impl MetricSink for Terminal {
    fn record(&mut self, step: u64, metrics: &Metrics) -> Result<(), MetricError> {
        let numbers = self.numbers(metrics);
        if let Some(bar) = &self.bar {
            bar.set_message(numbers);
            bar.set_position(step);
            if step >= self.total {
                bar.finish();
            }
            return Ok(());
        }
        let due = self.said.is_none_or(|at| at.elapsed() >= PAUSE) || step >= self.total;
        if due {
            self.said = Some(Instant::now());
            let rate = (step - self.first.min(step)) as f64 / self.start.elapsed().as_secs_f64();
            let left = self.total.saturating_sub(step) as f64 / rate;
            let left = if left.is_finite() { duration(left) } else { "?".to_owned() };
            let total = self.total;
            say(format_args!("step {step}/{total}  {numbers}  {rate:.2} steps/s, {left} left"));
        }
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

/// Four significant digits, for numbers of any size.
fn compact(value: f64) -> String {
    match value.abs() {
        0. => "0".to_owned(),
        size if (1e-3..1e4).contains(&size) => format!("{value:.4}"),
        _ => format!("{value:.2e}"),
    }
}

fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_those_asked_for() {
        let terminal = Terminal::new(9, 0, ["train/loss", "lr", "absent"]);
        let metrics = [("lr", 1e-5), ("train/loss", 0.123456), ("other", 2.)];
        let numbers = terminal.numbers(&metrics.into_iter().collect());
        assert_eq!(numbers, "loss 0.1235  lr 1.00e-5");
        let terminal = Terminal::new(9, 0, ["loss", "eval/loss"]);
        let metrics = [("loss", 0.5), ("eval/loss", 0.25)];
        let numbers = terminal.numbers(&metrics.into_iter().collect());
        assert_eq!(numbers, "loss 0.5000  eval/loss 0.2500");
    }

    #[test]
    fn durations_are_read_at_a_glance() {
        assert_eq!(duration(7.4), "7 s");
        assert_eq!(duration(125.), "2 min 05 s");
        assert_eq!(duration(7500.), "2 h 05 min");
    }
}
