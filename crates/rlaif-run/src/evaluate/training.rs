//! Curves, findings and settings from the folder of a training run.

use std::path::Path;

use rlaif_core::{Exchange, FileAction, RewardModel};
use rlaif_eval::{Details, EvalError, OptimisationPoint, read_curves, read_findings};
use rlaif_rewards::ProviderError;
use serde::Deserialize;
use serde_json::Value;

use super::EvaluateError;
use crate::file::LONGEST;

/// Copies the curves, the findings and the settings of the run in this folder into `details`, if
/// they exist and are not yet there. The settings become `training` of the configuration.
///
/// # Errors
/// [`EvaluateError`] for a file that is there and cannot be read.
pub fn tell_of_training(details: &mut Details, folder: &Path) -> Result<(), EvaluateError> {
    let (curves, findings, settings) =
        (folder.join("metrics.jsonl"), folder.join("findings.json"), folder.join("run.toml"));
    if details.training.is_empty() && curves.is_file() {
        details.training = read_curves(&curves)?;
    }
    if details.findings.is_none() && findings.is_file() {
        details.findings = Some(read_findings(&findings)?);
    }
    if !details.configuration.contains_key("training") && settings.is_file() {
        let failed = |source| EvaluateError::File { path: settings.clone(), source };
        let text = rlaif_files::read_text(&settings, LONGEST).map_err(failed)?;
        let table = text.parse().map_err(|source: toml::de::Error| ProviderError::Config {
            origin: settings.display().to_string(),
            line: None,
            problem: source.message().to_owned(),
        })?;
        details.configuration.insert("training".to_owned(), as_json(toml::Value::Table(table)));
    }
    Ok(())
}

/// Number of points of an over-optimisation curve.
const POINTS: u64 = 12;

/// A row of a run's samples.jsonl.
#[derive(Deserialize)]
struct Kept {
    step: u64,
    prompt: String,
    response: String,
    score: Option<f64>,
}

/// The over-optimisation curve of the run in this folder: for parts of its steps the KL divergence from the
/// reference, the scores of the reward that it was trained on, and those that a judge gives the same
/// responses, which the run kept in samples.jsonl.
///
/// # Errors
/// [`EvaluateError::Eval`] for files that cannot be read; [`EvaluateError::Reward`] of the judge.
pub(super) fn over_optimisation(
    folder: &Path,
    judge: &dyn RewardModel,
) -> Result<Vec<OptimisationPoint>, EvaluateError> {
    let path = folder.join("samples.jsonl");
    let text = rlaif_files::read_text(&path, u64::MAX).map_err(|source| EvalError::Io {
        action: FileAction::Read,
        path: path.clone(),
        source,
    })?;
    let mut kept: Vec<Kept> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let row = serde_json::from_str(line).map_err(|source| EvalError::Format {
            path: path.clone(),
            line: at + 1,
            expected: "a response that a training kept",
            source,
        })?;
        kept.push(row);
    }
    let curves = read_curves(&folder.join("metrics.jsonl"))?;
    let divergence = curves.iter().find(|curve| ["objective/kl", "kl"].contains(&&*curve.name));
    let divergence = divergence.map(|curve| curve.points.as_slice()).unwrap_or_default();
    let batch: Vec<Exchange<'_>> =
        kept.iter().map(|row| Exchange::new(&row.prompt, &row.response)).collect();
    let scores = judge.score(&batch).map_err(ProviderError::from)?.total;
    let last = kept.iter().map(|row| row.step).max().unwrap_or(0);
    let size = last.div_ceil(POINTS).max(1);
    let mean = |values: &[f64]| {
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let mut points = Vec::new();
    for part in 0..last.div_ceil(size) {
        let steps = (part * size + 1, ((part + 1) * size).min(last));
        let within = |step: u64| (steps.0..=steps.1).contains(&step);
        let (mut rewards, mut judged) = (Vec::new(), Vec::new());
        for (row, score) in kept.iter().zip(&scores).filter(|(row, _)| within(row.step)) {
            if let (Some(reward), Some(score)) = (row.score, score) {
                rewards.push(reward);
                judged.push(f64::from(score.get()));
            }
        }
        let kl: Vec<f64> =
            divergence.iter().filter(|(step, _)| within(*step as u64)).map(|(_, kl)| *kl).collect();
        if let (Some(kl), Some(reward), Some(judge)) = (mean(&kl), mean(&rewards), mean(&judged)) {
            points.push(OptimisationPoint { steps, kl, reward, judge, responses: rewards.len() });
        }
    }
    Ok(points)
}

/// TOML as JSON, with words for the numbers that JSON does not have.
fn as_json(value: toml::Value) -> Value {
    match value {
        toml::Value::Table(table) => {
            table.into_iter().map(|(key, value)| (key, as_json(value))).collect()
        }
        toml::Value::Array(all) => all.into_iter().map(as_json).collect(),
        toml::Value::Float(number) if !number.is_finite() => Value::from(number.to_string()),
        other => serde_json::to_value(other).unwrap_or(Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reward_and_judge_are_means_over_the_responses_of_the_same_steps() {
        let folder = tempfile::tempdir().unwrap();
        // Of step s: KL s, a score of 10 s and of 10 s + 1, and responses of s and s + 2 words.
        let (mut metrics, mut samples) = (String::new(), String::new());
        for step in 1..=24u32 {
            metrics.push_str(&format!("{}\n", json!({"step": step, "objective/kl": step})));
            for more in [0, 1] {
                let response = "so ".repeat((step + 2 * more) as usize);
                let score = 10 * step + more;
                let row =
                    json!({"step": step, "prompt": "p", "response": response, "score": score});
                samples.push_str(&format!("{row}\n"));
            }
        }
        // Without a score in training, a response does not count.
        let row = json!({"step": 24, "prompt": "p", "response": "", "score": null});
        samples.push_str(&format!("{row}\n"));
        std::fs::write(folder.path().join("metrics.jsonl"), metrics).unwrap();
        std::fs::write(folder.path().join("samples.jsonl"), samples).unwrap();
        let judge = |batch: &[Exchange<'_>]| -> Vec<f32> {
            batch.iter().map(|x| x.response.split_whitespace().count() as f32).collect()
        };
        let points = over_optimisation(folder.path(), &judge).unwrap();
        assert_eq!(points.len(), 12);
        for (at, point) in points.iter().enumerate() {
            let first = 2 * at as u64 + 1;
            let middle = first as f64 + 0.5;
            assert_eq!((point.steps, point.responses), ((first, first + 1), 4));
            assert_eq!(
                (point.kl, point.reward, point.judge),
                (middle, 10. * middle + 0.5, middle + 1.)
            );
        }
        std::fs::write(folder.path().join("samples.jsonl"), "{\"step\":1}\n").unwrap();
        let error = over_optimisation(folder.path(), &judge).unwrap_err().to_string();
        assert!(error.contains("samples.jsonl") && error.contains("line 1"), "{error}");
    }
}
