//! Stages that are repeated in rounds, such as those of self-rewarding.

use std::{collections::BTreeMap, path::Path};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml::Table;

use crate::{error::RunError, pipeline::graph::each_text_mut};

/// Stages that are repeated: round 2 of the stage `dpo` is the stage `dpo-2`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rounds {
    /// The stages of a round. `@STAGE` in them is an output of the same round, `@previous.STAGE` one of the
    /// round before.
    pub stages: Vec<String>,
    /// The largest number of rounds.
    pub max_rounds: u32,
    /// Inputs of the first round in place of outputs of the round before, by stage: `{ dpo = "MODEL" }`.
    #[serde(default)]
    pub first: BTreeMap<String, String>,
    /// The evaluation that ends the rounds: there is no next one if the metric did not gain, by its 95 %
    /// interval. Without it, there are `max_rounds` rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gain: Option<RoundGain>,
}

/// The gain that a round must have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoundGain {
    /// A stage of `eval`, which compares the round's policy with that of the round before.
    pub stage: String,
    /// The metric.
    pub metric: String,
}

/// The word for the round before, in references.
const PREVIOUS: &str = "previous";

impl Rounds {
    /// The stages of all rounds in place of those that are repeated.
    ///
    /// # Errors
    /// [`RunError::Content`] names the key.
    pub(crate) fn expanded(
        &self,
        file: &Path,
        mut tables: BTreeMap<String, Table>,
    ) -> Result<BTreeMap<String, Table>, RunError> {
        let refuse = |key: String, problem: String| RunError::Content {
            path: file.to_owned(),
            key,
            problem,
        };
        if !(1..=100).contains(&self.max_rounds) {
            let problem = format!("is {}; expected a number from 1 to 100", self.max_rounds);
            return Err(refuse("rounds.max_rounds".to_owned(), problem));
        }
        let mut repeated = BTreeMap::new();
        for name in &self.stages {
            match tables.remove(name) {
                Some(table) => repeated.insert(name.clone(), table),
                None => {
                    let problem = format!("`{name}` is not a stage, or is there twice");
                    return Err(refuse("rounds.stages".to_owned(), problem));
                }
            };
        }
        if repeated.is_empty() {
            return Err(refuse(
                "rounds.stages".to_owned(),
                "is empty; name at least one stage".to_owned(),
            ));
        }
        if let Some(RoundGain { stage, .. }) = &self.gain {
            let command = repeated.get(stage).and_then(|table| table.get("command"));
            if command.and_then(toml::Value::as_str) != Some("eval") {
                let problem = format!("`{stage}` is not a repeated stage of `eval`");
                return Err(refuse("rounds.gain.stage".to_owned(), problem));
            }
        }
        for round in 1..=self.max_rounds {
            for (name, table) in &repeated {
                let mut table = table.clone();
                each_text_mut(&format!("stages.{name}"), &mut table, &mut |key, text| {
                    let Some(named) = text.strip_prefix('@') else { return Ok(()) };
                    let (stage, rest) = named.split_once('.').unwrap_or((named, ""));
                    let with = |stage: &str, round: u32, output: &str| {
                        let dot = if output.is_empty() { "" } else { "." };
                        format!("@{stage}-{round}{dot}{output}")
                    };
                    if stage == PREVIOUS {
                        let (stage, output) = rest.split_once('.').unwrap_or((rest, ""));
                        if !repeated.contains_key(stage) {
                            let problem =
                                format!("`{text}`: `{stage}` is not among `rounds.stages`");
                            return Err(refuse(key.to_owned(), problem));
                        }
                        *text = match (round, self.first.get(stage)) {
                            (1, Some(first)) => first.clone(),
                            (1, None) => {
                                let problem = format!(
                                    "`{text}`: the first round has none; add `first.{stage}` to [rounds]"
                                );
                                return Err(refuse(key.to_owned(), problem));
                            }
                            (round, _) => with(stage, round - 1, output),
                        };
                    } else if repeated.contains_key(stage) {
                        *text = with(stage, round, rest);
                    }
                    Ok(())
                })?;
                tables.insert(format!("{name}-{round}"), table);
            }
        }
        Ok(tables)
    }

    /// The round of a stage, by its name.
    pub(crate) fn round_of(&self, name: &str) -> Option<u32> {
        let (stage, round) = name.rsplit_once('-')?;
        self.stages.iter().any(|known| known == stage).then(|| round.parse().ok())?
    }

    /// The stage of the round before that decides about the round of this stage.
    pub(crate) fn waits_for(&self, name: &str) -> Option<String> {
        let before = self.round_of(name)?.checked_sub(1).filter(|round| *round > 0)?;
        self.gain.as_ref().map(|gain| format!("{}-{before}", gain.stage))
    }

    /// For the record of the stage that decides, a sentence on why there is no further round.
    pub(crate) fn ends_after(&self, name: &str, summary: &Value) -> Option<String> {
        let RoundGain { stage, metric } = self.gain.as_ref()?;
        let round = self.round_of(name).filter(|round| *name == format!("{stage}-{round}"))?;
        let rows = summary["metrics"].as_array()?;
        let Some(row) = rows.iter().find(|row| row["metric"] == metric.as_str()) else {
            return Some(format!("round {round} has no metric `{metric}`; the rounds end"));
        };
        let (low, high) = (row["low"].as_f64()?, row["high"].as_f64()?);
        let gains = if row["better"] == "lower" { high < 0. } else { low > 0. };
        (!gains).then(|| {
            format!(
                "round {round} does not gain by `{metric}` (95 % interval of the change {low:.4} to \
                 {high:.4}); the rounds end"
            )
        })
    }
}
