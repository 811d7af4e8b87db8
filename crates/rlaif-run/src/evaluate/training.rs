//! Curves, findings and settings from the folder of a training run.

use std::path::Path;

use rlaif_eval::{Details, read_curves, read_findings};
use rlaif_rewards::ProviderError;
use serde_json::Value;

use super::EvaluateError;

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
        let text = std::fs::read_to_string(&settings).map_err(failed)?;
        let table = text.parse().map_err(|source: toml::de::Error| ProviderError::Config {
            origin: settings.display().to_string(),
            line: None,
            problem: source.message().to_owned(),
        })?;
        details.configuration.insert("training".to_owned(), as_json(toml::Value::Table(table)));
    }
    Ok(())
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
