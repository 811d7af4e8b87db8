//! The numbers of a comparison, from a table with one row for each prompt.

use ndarray::{Array2, Axis};
use rlaif_core::{BadSetting, PromptRecord};

use crate::comparison::{
    Columns, CompareOptions, ComparisonRow, Delta, Histogram, OverOptimisation, SideStats, Slice,
    SliceRow, Verdict,
};
use crate::pair::PromptPair;
use crate::reading::{Reading, readings};
use crate::slice::group;
use crate::stats::{
    Interval, IntervalMethod, Moments, PairedTest, WilcoxonMethod, advise, cohen_dz,
    improvement_percent, interval_of, is_clear, mean, paired_t, resample_means, wilcoxon,
};
use crate::{Better, Column, EvalError, Evaluation};

/// The measurements, one row for each prompt: readings before, then readings after.
pub(crate) struct Table {
    readings: Vec<Reading>,
    values: Array2<f64>,
    /// The metrics' values themselves, by metric: before, after.
    raw: Vec<(Vec<f64>, Vec<f64>)>,
}

impl Table {
    pub(crate) fn of(
        columns: &[Columns<'_>],
        pairs: &[PromptPair],
        options: &CompareOptions,
    ) -> Result<Self, EvalError> {
        let fewest = pairs.iter().map(|pair| pair.before.len()).min().unwrap_or(0);
        let responses = options.responses.unwrap_or(fewest);
        if responses == 0 || responses > fewest {
            return Err(EvalError::Setting(BadSetting::new(
                "responses",
                responses,
                "at least 1 and at most as many as every prompt has responses",
            )));
        }
        let infos = columns.iter().map(|(column, _)| &column.info);
        let readings = readings(infos, responses)?;
        let take = |column: &Column, rows: &[usize]| -> Vec<f64> {
            rows.iter()
                .map(|&row| column.values[row].expect("prompts without were dropped"))
                .collect()
        };
        let count = readings.len();
        let mut values = Array2::zeros((pairs.len(), 2 * count));
        for (mut row, pair) in values.rows_mut().into_iter().zip(pairs) {
            for (at, reading) in readings.iter().enumerate() {
                let (before, after) = columns[reading.metric];
                row[at] = reading.of(&take(before, &pair.before));
                row[count + at] = reading.of(&take(after, &pair.after));
            }
        }
        let raw = columns
            .iter()
            .map(|(before, after)| {
                let all = |column, rows: fn(&PromptPair) -> &[usize]| {
                    pairs.iter().flat_map(|pair| take(column, rows(pair))).collect()
                };
                (all(before, |pair| &pair.before), all(after, |pair| &pair.after))
            })
            .collect();
        Ok(Self { readings, values, raw })
    }

    fn column(&self, at: usize) -> Vec<f64> {
        self.values.column(at).to_vec()
    }

    pub(crate) fn rows(&self, options: &CompareOptions) -> Result<Vec<ComparisonRow>, EvalError> {
        let drawn = resample_means(&self.values.view(), options.resamples, options.seed);
        let count = self.readings.len();
        let interval = |values: &[f64], distribution: &[f64]| {
            interval_of(values, distribution, 0.95, options.method)
        };
        let row = |(at, reading): (usize, &Reading)| {
            let (before, after) = (self.column(at), self.column(count + at));
            let (drawn_before, drawn_after) =
                (drawn.column(at).to_vec(), drawn.column(count + at).to_vec());
            let differences = minus(&after, &before);
            let ci95 = interval(&differences, &minus(&drawn_after, &drawn_before))?;
            let raw = reading.is_the_metric().then(|| &self.raw[reading.metric]);
            let (spread_before, spread_after) = raw.map_or((&before, &after), |(b, a)| (b, a));
            let side = |values: &[f64], spread: &[f64], drawn: &[f64]| {
                // The mean is over prompts, which weigh alike regardless of their number of
                // responses.
                let moments = Moments { mean: mean(values), ..Moments::of(spread) };
                Ok::<_, EvalError>(SideStats { moments, ci95: interval(values, drawn)? })
            };
            let before_side = side(&before, spread_before, &drawn_before)?;
            let after_side = side(&after, spread_after, &drawn_after)?;
            let share = |holds: fn(f64) -> bool| {
                differences.iter().filter(|d| holds(**d)).count() as f64 / differences.len() as f64
            };
            let info = &reading.info;
            let t_test = paired_t(&differences)?;
            let (b, a) = (&before_side.moments, &after_side.moments);
            let delta = Delta {
                mean: mean(&differences),
                ci95,
                improvement_percent: improvement_percent(b.mean, a.mean, info.better),
                improvement_ci95: improvement_interval(&drawn_before, &drawn_after, info.better),
                std_improvement_percent: improvement_percent(b.std, a.std, Better::Lower),
                t_test,
                wilcoxon: wilcoxon(&differences, WilcoxonMethod::Auto)?,
                effect_size: cohen_dz(&differences)?,
                rose: share(|d| d > 0.),
                fell: share(|d| d < 0.),
                verdict: verdict(ci95, t_test, info.better),
                advice: advise(&differences, ci95)?,
            };
            Ok(ComparisonRow {
                name: info.name.clone(),
                about: info.about.clone(),
                better: info.better,
                threshold: info.threshold,
                before: before_side,
                after: after_side,
                delta,
                histogram: raw.map(|(before, after)| Histogram::of(before, after)),
            })
        };
        self.readings.iter().enumerate().map(row).collect()
    }

    pub(crate) fn slices(
        &self,
        before: &Evaluation,
        pairs: &[PromptPair],
        options: &CompareOptions,
    ) -> Result<Vec<Slice>, EvalError> {
        let prompts: Vec<&PromptRecord> =
            pairs.iter().map(|pair| &before.samples()[pair.before[0]].record).collect();
        let count = self.readings.len();
        let mut slices = Vec::new();
        for by in &options.slices {
            for (value, members) in group(by, &prompts)? {
                let seed = options.seed.derive("slice", slices.len() as u64);
                let values = self.values.select(Axis(0), &members);
                let drawn = resample_means(&values.view(), options.resamples, seed);
                let row = |(at, reading): (usize, &Reading)| {
                    let column = |at: usize| values.column(at).to_vec();
                    let (before, after) = (column(at), column(count + at));
                    let differences = minus(&after, &before);
                    let distribution =
                        minus(&drawn.column(count + at).to_vec(), &drawn.column(at).to_vec());
                    let interval =
                        || interval_of(&differences, &distribution, 0.95, options.method);
                    let ci95 = (members.len() > 1).then(interval).transpose()?;
                    let (b, a) = (mean(&before), mean(&after));
                    Ok(SliceRow {
                        name: reading.info.name.clone(),
                        before: b,
                        after: a,
                        delta: mean(&differences),
                        ci95,
                        verdict: ci95
                            .map(|ci95| {
                                let t_test = paired_t(&differences)?;
                                Ok::<_, EvalError>(verdict(ci95, t_test, reading.info.better))
                            })
                            .transpose()?,
                        improvement_percent: improvement_percent(b, a, reading.info.better),
                    })
                };
                let rows: Result<_, EvalError> =
                    self.readings.iter().enumerate().map(row).collect();
                slices.push(Slice {
                    by: by.name().to_owned(),
                    value,
                    n: members.len(),
                    rows: rows?,
                });
            }
        }
        Ok(slices)
    }

    pub(crate) fn over_optimisation(
        &self,
        options: &CompareOptions,
    ) -> Result<Option<OverOptimisation>, EvalError> {
        let Some((reward, judge)) = &options.reward_and_judge else {
            return Ok(None);
        };
        let gains = |name: &str| -> Result<Vec<f64>, EvalError> {
            let at = self.readings.iter().position(|r| r.info.name == name && r.is_the_metric());
            let at = at.ok_or_else(|| {
                let known: Vec<&str> = self.readings.iter().map(|r| r.info.name.as_str()).collect();
                EvalError::UnknownMetric { name: name.to_owned(), known: known.join(", ") }
            })?;
            let (before, after) = (self.column(at), self.column(self.readings.len() + at));
            let std = Moments::of(&before).std;
            let sign = match self.readings[at].info.better {
                Better::Lower => -1.,
                Better::Higher | Better::Neither => 1.,
            };
            let scale = if std > 0. { sign / std } else { 0. };
            Ok(minus(&after, &before).iter().map(|d| d * scale).collect())
        };
        let (rewarded, judged) = (gains(reward)?, gains(judge)?);
        let gaps = minus(&rewarded, &judged);
        let column = Array2::from_shape_vec((gaps.len(), 1), gaps.clone()).expect("one column");
        let drawn = resample_means(&column.view(), options.resamples, options.seed);
        let ci95 = interval_of(&gaps, &drawn.column(0).to_vec(), 0.95, options.method)?;
        Ok(Some(OverOptimisation {
            reward: reward.clone(),
            judge: judge.clone(),
            reward_gain: mean(&rewarded),
            judge_gain: mean(&judged),
            gap: mean(&gaps),
            ci95,
        }))
    }
}

fn minus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

pub(crate) fn verdict(ci95: Interval, t_test: PairedTest, better: Better) -> Verdict {
    let rose = ci95.low > 0.;
    match (is_clear(ci95, t_test), better) {
        (false, _) => Verdict::Unclear,
        (true, Better::Neither) => Verdict::Changed,
        (true, Better::Higher) if rose => Verdict::Better,
        (true, Better::Lower) if !rose => Verdict::Better,
        (true, _) => Verdict::Worse,
    }
}

/// By quantiles: a ratio of means has no jackknife as simple as a mean's.
fn improvement_interval(before: &[f64], after: &[f64], better: Better) -> Option<Interval> {
    let one_sign = before.iter().all(|b| *b > 0.) || before.iter().all(|b| *b < 0.);
    let each = before.iter().zip(after);
    let drawn: Option<Vec<f64>> = each.map(|(b, a)| improvement_percent(*b, *a, better)).collect();
    let drawn = drawn.filter(|_| one_sign)?;
    interval_of(&drawn, &drawn, 0.95, IntervalMethod::Percentile).ok()
}

impl Histogram {
    const BINS: usize = 24;

    fn of(before: &[f64], after: &[f64]) -> Self {
        let all = || before.iter().chain(after);
        let low = all().copied().fold(f64::INFINITY, f64::min);
        let high = all().copied().fold(f64::NEG_INFINITY, f64::max);
        // Scores that are shares or probabilities are drawn on the whole scale from 0 to 1.
        let (low, high) = match (low, high) {
            (low, high) if low >= 0. && high <= 1. && high > 0.25 => (0., 1.),
            (low, high) if low == high => (low - 0.5, high + 0.5),
            bounds => bounds,
        };
        let width = (high - low) / Self::BINS as f64;
        let count = |values: &[f64]| {
            let mut bins = vec![0; Self::BINS];
            for value in values {
                bins[(((value - low) / width) as usize).min(Self::BINS - 1)] += 1;
            }
            bins
        };
        let edges = (0..=Self::BINS).map(|at| low + width * at as f64).collect();
        Self { edges, before: count(before), after: count(after) }
    }
}
