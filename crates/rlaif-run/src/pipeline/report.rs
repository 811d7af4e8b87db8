//! One report over all stages.

use std::path::Path;

use rlaif_eval::{Overview, OverviewPart};
use serde_json::{Value, json};

use crate::{
    error::RunError,
    pipeline::stage::{PlannedStage, StageRecord},
};

/// Writes `report.md`, `report.html` and `pipeline.json`.
pub(super) fn write(
    title: &str,
    out: &Path,
    sentences: Vec<String>,
    both: &[(&PlannedStage, StageRecord)],
) -> Result<(), RunError> {
    let row = |(stage, record): &(&PlannedStage, StageRecord)| {
        let place = format!("{}/{}", stage.name, stage.key);
        let seconds = format!("{:.1}", record.seconds);
        vec![stage.name.clone(), stage.command.to_owned(), stage.needs.join(", "), place, seconds]
    };
    let all = OverviewPart {
        name: "Stages".to_owned(),
        header: ["stage", "command", "after", "folder", "seconds"].map(str::to_owned).into(),
        rows: both.iter().map(row).collect(),
        ..OverviewPart::default()
    };
    let parts = both.iter().map(|(stage, record)| part(stage, record));
    let overview = Overview {
        title: title.to_owned(),
        sentences,
        parts: std::iter::once(all).chain(parts).collect(),
    };
    overview.write(out)?;
    let records: Vec<&StageRecord> = both.iter().map(|(_, record)| record).collect();
    let told = json!({"title": title, "stages": records});
    Ok(rlaif_checkpoint::write_json(&out.join("pipeline.json"), &told)?)
}

/// A number with four significant digits, or any other value that is not a table or a list.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) if number.is_f64() => number.as_f64().map(short),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(if *value { "yes" } else { "no" }.to_owned()),
        Value::String(text) => Some(text.clone()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn short(number: f64) -> String {
    let digits = if number == 0. { 0. } else { number.abs().log10().floor() };
    let places = (3. - digits).clamp(0., 6.) as usize;
    format!("{number:.places$}")
}

fn part(stage: &PlannedStage, record: &StageRecord) -> OverviewPart {
    let summary = &record.summary;
    let mut part = OverviewPart { name: stage.name.clone(), ..OverviewPart::default() };
    let facts: Vec<String> = summary
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some(format!("{}: {}", name.replace('_', " "), plain(value)?)))
        .collect();
    if !facts.is_empty() {
        part.sentences.push(facts.join("; "));
    }
    let cell = |value: &Value| plain(value).unwrap_or_default();
    let cells = |row: &Value, names: &[&str]| names.iter().map(|name| cell(&row[*name])).collect();
    match stage.command {
        "eval" => {
            let names = ["metric", "before", "after", "change", "low", "high"];
            let header = ["metric", "before", "after", "change", "95 % from", "to"];
            part.header = header.map(str::to_owned).into();
            let rows = summary["metrics"].as_array().into_iter().flatten();
            part.rows = rows.map(|row| cells(row, &names)).collect();
            let points = summary["over_optimisation"].as_array().into_iter().flatten();
            let points: Vec<String> = points
                .map(|at| {
                    let [kl, reward, judge] = ["kl", "reward", "judge"].map(|name| cell(&at[name]));
                    format!("at {kl} nats {reward} and {judge}")
                })
                .collect();
            if !points.is_empty() {
                let points = points.join(", ");
                part.sentences
                    .push(format!("Reward and held-out judge by KL divergence: {points}."));
            }
            part.files.push((
                "The report of the evaluation".to_owned(),
                format!("{}/{}/eval/report.html", stage.name, stage.key),
            ));
        }
        "revise" => {
            let names = ["harmlessness", "refusals", "evasions", "words"];
            part.header = ["round", "harmlessness", "refusals", "evasions", "words"]
                .map(str::to_owned)
                .into();
            let rows = summary["rounds"].as_array().into_iter().flatten().enumerate();
            part.rows = rows
                .map(|(round, row)| {
                    let mut all = vec![round.to_string()];
                    all.extend::<Vec<String>>(cells(row, &names));
                    all
                })
                .collect();
        }
        "label" => {
            part.header = ["facet", "position bias (nats)", "agreement with the file"]
                .map(str::to_owned)
                .into();
            let has_preferences = summary["has_preferences"] == true;
            let facets = summary["facets"].as_object().into_iter().flatten();
            part.rows = facets
                .map(|(name, report)| {
                    let bias = cell(&report["habits"]["position_bias"]["nats"]);
                    let grade =
                        if has_preferences { cell(&report["grade"]) } else { String::new() };
                    vec![name.clone(), bias, grade]
                })
                .collect();
            let places = summary["places"].as_object().into_iter().flatten();
            part.rows.extend(places.map(|(name, places)| {
                vec![name.clone(), cell(&places["first_nats"]), String::new()]
            }));
        }
        "exam" => {
            let interval: Vec<String> =
                summary["ci95"].as_array().into_iter().flatten().map(cell).collect();
            part.sentences.push(format!("95 % interval of the grade: {}", interval.join(" to ")));
        }
        "candidates" | "red-team" | "annotate" => {}
        _ => {
            part.header = ["metric", "first", "last", "steps"].map(str::to_owned).into();
            let rows = summary.as_object().into_iter().flatten();
            part.rows = rows
                .map(|(name, ends)| {
                    let mut all = vec![name.clone()];
                    all.extend::<Vec<String>>(cells(ends, &["first", "last", "steps"]));
                    all
                })
                .collect();
        }
    }
    part
}
