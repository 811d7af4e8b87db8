//! Curves, findings and settings from the folder of a training run.

use std::path::Path;

use rlaif_eval::{Details, read_curves, read_findings};
use serde_json::Value;

use super::EvaluateError;

/// Takes the curves, the findings and the settings of the run in this folder into `details`, as far
/// as they are there and not told yet; the settings as `training` of the configuration.
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
        let settings: toml::Table = rlaif_rewards::read_toml(&settings)?;
        let settings = serde_json::to_value(settings).unwrap_or(Value::Null);
        details.configuration.insert("training".to_owned(), settings);
    }
    Ok(())
}
