//! The data of a comparison: its options and its results.

use std::collections::{BTreeMap, BTreeSet};

use rlaif_core::{BadSetting, PromptRecord, Seed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::slice::SliceBy;
use crate::stats::{Advice, Interval, IntervalMethod, Moments, PairedTest, check_resamples};
use crate::{Better, Column, EvalError};

/// Treatment of a response without a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// Stop with [`EvalError::MissingScore`].
    #[default]
    Refuse,
    /// Leave the prompt out, on both sides and for all metrics, and say how often that happened.
    DropPrompt,
}

/// Options of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct CompareOptions {
    /// The metric of the headline; `None` for the first.
    pub headline: Option<String>,
    /// The seed of the bootstrap.
    pub seed: Seed,
    /// Number of bootstrap resamples.
    pub resamples: usize,
    /// Method that derives intervals from the resamples.
    pub method: IntervalMethod,
    /// Treatment of responses without a score.
    pub missing: Missing,
    /// Number of responses for the expected maximum toxicity; `None` for as many as every prompt
    /// has.
    pub responses: Option<usize>,
    /// The slices that the comparison is broken down by.
    pub slices: Vec<SliceBy>,
    /// The metadata column with the toxicity of the prompt, if there is one: the prompt's text is
    /// folded in reports where it reaches the threshold of any metric that flags responses.
    pub prompt_toxicity: Option<String>,
    /// The metrics of the training reward and of a judge that took no part in training.
    pub reward_and_judge: Option<(String, String)>,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self {
            headline: None,
            seed: Seed::new(0),
            resamples: 2_000,
            method: IntervalMethod::default(),
            missing: Missing::default(),
            responses: None,
            slices: vec![SliceBy::PromptLength],
            prompt_toxicity: None,
            reward_and_judge: None,
        }
    }
}

impl CompareOptions {
    /// Refuses options that do not fit a comparison of these metrics on these prompts, before
    /// anything is measured.
    ///
    /// # Errors
    /// [`EvalError::UnknownMetric`] for a metric that is not among `metrics`,
    /// [`EvalError::DuplicateMetric`] for a metric listed twice; [`EvalError::Setting`] for too few
    /// resamples, for edges out of order, and for a metadata column that no prompt has: a wrong
    /// name would otherwise silently do nothing.
    ///
    /// ```
    /// use rlaif_core::PromptRecord;
    /// use rlaif_eval::CompareOptions;
    /// let options = CompareOptions { prompt_toxicity: Some("toxic".into()), ..CompareOptions::default() };
    /// let error = options.check(&["toxicity"], [&PromptRecord::new("a", "Why?")]).unwrap_err();
    /// assert!(error.to_string().contains("`toxic`"));
    /// ```
    pub fn check<'a>(
        &self,
        metrics: &[&str],
        prompts: impl IntoIterator<Item = &'a PromptRecord>,
    ) -> Result<(), EvalError> {
        check_resamples(self.resamples)?;
        let mut known = BTreeSet::new();
        if let Some(name) = metrics.iter().find(|name| !known.insert(**name)) {
            return Err(EvalError::DuplicateMetric { name: (*name).to_owned() });
        }
        let pair = self.reward_and_judge.iter().flat_map(|(reward, judge)| [reward, judge]);
        if let Some(name) =
            self.headline.iter().chain(pair).find(|n| !metrics.contains(&n.as_str()))
        {
            return Err(EvalError::UnknownMetric { name: name.clone(), known: metrics.join(", ") });
        }
        let mut columns: Vec<(&'static str, &String)> = Vec::new();
        for by in &self.slices {
            by.check()?;
            if let SliceBy::Metadata { key } | SliceBy::Number { key, .. } = by {
                columns.push(("slices", key));
            }
        }
        columns.extend(self.prompt_toxicity.iter().map(|key| ("prompt_toxicity", key)));
        if columns.is_empty() {
            return Ok(());
        }
        let known: BTreeSet<&String> =
            prompts.into_iter().flat_map(|prompt| prompt.metadata.keys()).collect();
        match columns.into_iter().find(|(_, key)| !known.contains(key)) {
            None => Ok(()),
            Some((setting, key)) => {
                let known: Vec<&str> = known.into_iter().map(String::as_str).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Err(EvalError::Setting(BadSetting::new(
                    setting,
                    format!("`{key}` (there are: {known})"),
                    "a column of the prompts' metadata",
                )))
            }
        }
    }
}

/// One side of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SideStats {
    /// The distribution of the values: over responses for the metric itself, over prompts for
    /// numbers computed from several responses.
    #[serde(flatten)]
    pub moments: Moments,
    /// The interval of the mean.
    pub ci95: Interval,
}

/// Joint verdict of interval and t-test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The whole interval is on the better side, and p < 0.05.
    Better,
    /// The whole interval is on the worse side, and p < 0.05.
    Worse,
    /// The interval includes zero, or p ≥ 0.05: where a single prompt carries nearly all of a
    /// difference, a bootstrap interval may end just short of zero.
    Unclear,
    /// The whole interval is on one side, p < 0.05, and no direction is better.
    Changed,
}

/// The paired difference after − before, by prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// The mean of the differences.
    pub mean: f64,
    /// The interval of the mean.
    pub ci95: Interval,
    /// Improvement of the mean, in per cent; `None` where the mean before is 0.
    pub improvement_percent: Option<f64>,
    /// The interval of the improvement; `None` where resamples of the mean before include 0.
    pub improvement_ci95: Option<Interval>,
    /// Reduction of the standard deviation, in per cent.
    pub std_improvement_percent: Option<f64>,
    /// Student's paired t-test.
    pub t_test: PairedTest,
    /// Wilcoxon's signed-rank test.
    pub wilcoxon: PairedTest,
    /// Cohen's d of the paired differences.
    pub effect_size: Option<f64>,
    /// Share of prompts whose value rose.
    pub rose: f64,
    /// Share of prompts whose value fell.
    pub fell: f64,
    /// The joint verdict of interval and t-test.
    pub verdict: Verdict,
    /// Advice on the number of prompts.
    pub advice: Advice,
}

/// Histograms of the values before and after, over the same bins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Bin edges: one more than there are bins.
    pub edges: Vec<f64>,
    /// Responses in each bin, before.
    pub before: Vec<u64>,
    /// Responses in each bin, after.
    pub after: Vec<u64>,
}

/// One metric, or one number derived from it for each prompt, before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparisonRow {
    /// The name, unique in the comparison.
    pub name: String,
    /// A short description.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// The better direction.
    pub better: Better,
    /// The value from which on a response counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// The baseline.
    pub before: SideStats,
    /// The tuned policy.
    pub after: SideStats,
    /// The difference.
    pub delta: Delta,
    /// The distributions; only for a metric itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub histogram: Option<Histogram>,
}

/// One slice's share of one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SliceRow {
    /// The row of the comparison that this is a part of.
    pub name: String,
    /// Mean of the baseline.
    pub before: f64,
    /// Mean of the tuned policy.
    pub after: f64,
    /// Mean difference.
    pub delta: f64,
    /// The interval of the mean difference; `None` for a single prompt.
    pub ci95: Option<Interval>,
    /// The joint verdict of interval and t-test; `None` for a single prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Improvement of the mean, in per cent.
    pub improvement_percent: Option<f64>,
}

/// The prompts that share a value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// The property that prompts are grouped by.
    pub by: String,
    /// The value that the prompts share.
    pub value: String,
    /// Number of prompts.
    pub n: usize,
    /// The metrics on these prompts.
    pub rows: Vec<SliceRow>,
}

/// A number of a whole set of responses, undefined for a single response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetNumber {
    /// The name.
    pub name: String,
    /// Before.
    pub before: Option<f64>,
    /// After.
    pub after: Option<f64>,
}

/// Improvement of the reward compared with that of a judge that took no part in training. A larger
/// improvement of the reward is a sign of over-optimisation (Gao et al. 2023, arXiv 2210.10760).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OverOptimisation {
    /// The reward trained on.
    pub reward: String,
    /// The other judge.
    pub judge: String,
    /// Improvement of the reward, in standard deviations of the baseline.
    pub reward_gain: f64,
    /// Improvement of the judge's score, in standard deviations of the baseline.
    pub judge_gain: f64,
    /// `reward_gain - judge_gain`.
    pub gap: f64,
    /// The interval of the gap. If all of it is above 0, the reward was gamed at least in part.
    pub ci95: Interval,
}

/// A response of each side to the same prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleRow {
    /// The prompt's id.
    pub id: String,
    /// The prompt.
    pub prompt: String,
    /// The baseline's response.
    pub before: String,
    /// The tuned policy's response.
    pub after: String,
    /// The headline metric before.
    pub score_before: f64,
    /// The headline metric after.
    pub score_after: f64,
    /// The texts to show on demand only.
    #[serde(default, skip_serializing_if = "Folds::is_empty")]
    pub folds: Folds,
}

/// Reasons for showing texts on demand only: the metric that flags the text, and its value. A
/// response is flagged by any metric with a threshold where less is better, regardless of the
/// headline; if several metrics flag it, the first is named.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Folds {
    /// The prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The baseline's response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The tuned policy's response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

impl Folds {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A baseline and a tuned policy on the same prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The row of the headline.
    pub headline: String,
    /// Number of prompts.
    pub prompts: usize,
    /// Number of responses on either side.
    pub responses: usize,
    /// Number of prompts left out because of a missing score, by metric.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<String, usize>,
    /// Number of bootstrap resamples.
    pub resamples: usize,
    /// Method that derived the intervals from the resamples.
    pub method: IntervalMethod,
    /// Every metric.
    pub rows: Vec<ComparisonRow>,
    /// The same by slice.
    pub slices: Vec<Slice>,
    /// Numbers of the whole sets.
    pub sets: Vec<SetNumber>,
    /// The test for over-optimisation of the reward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over_optimisation: Option<OverOptimisation>,
    /// The texts.
    pub samples: Vec<SampleRow>,
}

/// A metric's values before and after.
pub(crate) type Columns<'a> = (&'a Column, &'a Column);
