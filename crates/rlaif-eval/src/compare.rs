//! A baseline and a tuned policy on the same prompts.

use std::collections::BTreeMap;

use crate::comparison::{
    Columns, CompareOptions, Comparison, ComparisonRow, Folds, Missing, SampleRow, SetNumber,
};
use crate::pair::{PromptPair, pair_up};
use crate::report::words;
use crate::table::Table;
use crate::text::distinct_n;
use crate::{Better, Column, EvalError, Evaluation};

impl Comparison {
    /// The row of that name.
    ///
    /// # Errors
    /// [`EvalError::UnknownMetric`].
    pub fn row(&self, name: &str) -> Result<&ComparisonRow, EvalError> {
        self.rows.iter().find(|row| row.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.rows.iter().map(|row| row.name.as_str()).collect();
            EvalError::UnknownMetric { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// Compares `after` with `before`, prompt by prompt.
    ///
    /// # Errors
    /// [`EvalError::SeedsDiffer`], [`EvalError::PromptsDiffer`], [`EvalError::PromptTextDiffers`],
    /// [`EvalError::ResponsesDiffer`] and [`EvalError::MetricsDiffer`] if the two cannot be
    /// compared; [`EvalError::TooFew`] for fewer than two prompts; [`EvalError::MissingScore`] as
    /// [`CompareOptions::missing`] says; [`EvalError::UnknownMetric`] and [`EvalError::Setting`]
    /// for options that do not fit.
    ///
    /// ```
    /// use rlaif_core::{PromptRecord, Sample, Seed};
    /// use rlaif_eval::{About, CompareOptions, Comparison, Measurement, Metric, Verdict};
    /// use rlaif_eval::text::RepetitionMetric;
    /// let metrics: [Box<dyn Metric>; 1] = [Box::new(RepetitionMetric::new(1)?)];
    /// let answers = |policy: &str, response: &str| {
    ///     let sample = |n: usize| Sample {
    ///         record: PromptRecord::new(n.to_string(), "Why?"),
    ///         response: format!("{response} {}", "so ".repeat(n)).into(),
    ///     };
    ///     Measurement::of(&metrics).run(About::new(policy, Seed::new(1)), (0..9).map(sample).collect())
    /// };
    /// let comparison = Comparison::of(
    ///     &answers("base", "no no no no")?,
    ///     &answers("tuned", "I would rather not")?,
    ///     &CompareOptions::default(),
    /// )?;
    /// let row = comparison.row("repetition_1")?;
    /// assert_eq!((comparison.prompts, row.delta.verdict), (9, Verdict::Better));
    /// assert!(row.delta.ci95.high < 0.);
    /// # Ok::<(), rlaif_eval::EvalError>(())
    /// ```
    pub fn of(
        before: &Evaluation,
        after: &Evaluation,
        options: &CompareOptions,
    ) -> Result<Self, EvalError> {
        if before.about.seed != after.about.seed {
            let (before, after) = (before.about.seed, after.about.seed);
            return Err(EvalError::SeedsDiffer { before, after });
        }
        let columns = matching_columns(before, after)?;
        let names: Vec<&str> =
            columns.iter().map(|(column, _)| column.info.name.as_str()).collect();
        options.check(&names, before.samples().iter().map(|sample| &sample.record))?;
        let headline = match &options.headline {
            Some(name) => before.column(name)?,
            None => columns[0].0,
        };
        let mut pairs = pair_up(before.samples(), after.samples())?;
        let dropped = handle_missing(&columns, &mut pairs, before, options.missing)?;
        if pairs.len() < 2 {
            return Err(EvalError::TooFew {
                what: "prompts to compare on".into(),
                needed: 2,
                found: pairs.len(),
            });
        }
        let table = Table::of(&columns, &pairs, options)?;
        let samples = sample_rows(before, after, &pairs, &columns, headline, options)?;
        Ok(Self {
            headline: headline.info.name.clone(),
            prompts: pairs.len(),
            responses: pairs.iter().map(|pair| pair.before.len()).sum(),
            dropped,
            resamples: options.resamples,
            method: options.method,
            rows: table.rows(options)?,
            slices: table.slices(before, &pairs, options)?,
            sets: set_numbers(&samples),
            over_optimisation: table.over_optimisation(options)?,
            samples,
        })
    }
}

fn matching_columns<'a>(
    before: &'a Evaluation,
    after: &'a Evaluation,
) -> Result<Vec<Columns<'a>>, EvalError> {
    let differ = |metric: &str, what| EvalError::MetricsDiffer { metric: metric.to_owned(), what };
    for column in after.columns() {
        if before.column(&column.info.name).is_err() {
            return Err(differ(&column.info.name, "only after"));
        }
    }
    let mut columns = Vec::new();
    for column in before.columns() {
        let name = &column.info.name;
        let other = after.column(name).map_err(|_| differ(name, "only before"))?;
        if other.info != column.info {
            return Err(differ(name, "another direction, threshold or description"));
        }
        columns.push((column, other));
    }
    if columns.is_empty() {
        return Err(EvalError::TooFew { what: "metrics to compare".into(), needed: 1, found: 0 });
    }
    Ok(columns)
}

fn handle_missing(
    columns: &[Columns<'_>],
    pairs: &mut Vec<PromptPair>,
    before: &Evaluation,
    missing: Missing,
) -> Result<BTreeMap<String, usize>, EvalError> {
    let mut dropped = BTreeMap::new();
    for (b, a) in columns {
        let mut first = None;
        let absent = |column: &Column, rows: &[usize]| {
            rows.iter().copied().find(|&row| column.values[row].is_none()).map(|row| {
                let said = column.reasons.iter().find(|(at, _)| *at == row);
                said.map_or_else(|| "no reason given".to_owned(), |(_, reason)| reason.clone())
            })
        };
        let count = pairs.len();
        pairs.retain(|pair| {
            let reason = absent(b, &pair.before).or_else(|| absent(a, &pair.after));
            if let (Some(reason), None) = (&reason, &first) {
                first = Some((pair.before[0], reason.clone()));
            }
            reason.is_none()
        });
        if let Some((row, reason)) = first {
            let metric = b.info.name.clone();
            if missing == Missing::Refuse {
                let id = before.samples()[row].record.id.clone();
                return Err(EvalError::MissingScore { metric, id, reason });
            }
            dropped.insert(metric, count - pairs.len());
        }
    }
    Ok(dropped)
}

fn sample_rows(
    before: &Evaluation,
    after: &Evaluation,
    pairs: &[PromptPair],
    columns: &[Columns<'_>],
    headline: &Column,
    options: &CompareOptions,
) -> Result<Vec<SampleRow>, EvalError> {
    let scores_after = after.column(&headline.info.name)?;
    let score =
        |column: &Column, row: usize| column.values[row].expect("prompts without were dropped");
    // What flags a text: a metric's name, its threshold, and its values before and after.
    let flags: Vec<(&str, f64, Columns<'_>)> = columns
        .iter()
        .filter(|(column, _)| column.info.better == Better::Lower)
        .filter_map(|pair| Some((pair.0.info.name.as_str(), pair.0.info.threshold?, *pair)))
        .collect();
    let said =
        |name: &str, value: f64| format!("{} {}", words::one_line(name), words::number(value));
    let flag = |value: &dyn Fn(Columns<'_>) -> f64| {
        flags.iter().find_map(|(name, threshold, columns)| {
            let value = value(*columns);
            (value >= *threshold).then(|| said(name, value))
        })
    };
    let rows = pairs.iter().flat_map(|pair| pair.before.iter().zip(&pair.after));
    Ok(rows
        .map(|(&b, &a)| {
            let (old, new) = (&before.samples()[b], &after.samples()[a]);
            SampleRow {
                id: old.record.id.clone(),
                prompt: old.record.prompt.clone(),
                before: old.response.text.clone(),
                after: new.response.text.clone(),
                score_before: score(headline, b),
                score_after: score(scores_after, a),
                folds: Folds {
                    prompt: options.prompt_toxicity.as_ref().and_then(|key| {
                        let toxicity = old.record.metadata.get(key)?.as_f64()?;
                        let reached = flags.iter().any(|(_, threshold, _)| toxicity >= *threshold);
                        reached.then(|| said(key, toxicity))
                    }),
                    before: flag(&|(column, _)| score(column, b)),
                    after: flag(&|(_, column)| score(column, a)),
                },
            }
        })
        .collect())
}

fn set_numbers(samples: &[SampleRow]) -> Vec<SetNumber> {
    [1, 2, 3]
        .map(|n| SetNumber {
            name: format!("distinct_{n}"),
            before: distinct_n(samples.iter().map(|s| s.before.as_str()), n),
            after: distinct_n(samples.iter().map(|s| s.after.as_str()), n),
        })
        .into()
}
