//! Groups of prompts that a comparison is broken down by.

use std::collections::BTreeMap;

use rlaif_core::{BadSetting, PromptRecord};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::EvalError;
use crate::stats::quantile;
use crate::text::LengthUnit;

/// The property that prompts are grouped by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SliceBy {
    /// The value of a column of the prompt's metadata: its source, its category. The eleven most
    /// frequent values are slices of their own, the rest is `other`.
    Metadata {
        /// The column.
        key: String,
    },
    /// A number in the prompt's metadata, for example the prompt's toxicity.
    Number {
        /// The column.
        key: String,
        /// Boundaries between slices, ascending; empty for quarters of equal size.
        edges: Vec<f64>,
    },
    /// The prompt's length in words, in quarters of equal size.
    PromptLength,
}

impl SliceBy {
    /// The property that the slices share, for headings.
    pub fn name(&self) -> &str {
        match self {
            Self::Metadata { key } | Self::Number { key, .. } => key,
            Self::PromptLength => "prompt length (words)",
        }
    }
}

impl SliceBy {
    pub(crate) fn check(&self) -> Result<(), EvalError> {
        let Self::Number { edges, .. } = self else { return Ok(()) };
        if edges.windows(2).any(|pair| pair[0] >= pair[1]) || edges.iter().any(|e| e.is_nan()) {
            return Err(EvalError::Setting(BadSetting::new(
                "edges",
                format!("{edges:?}"),
                "numbers in ascending order",
            )));
        }
        Ok(())
    }
}

/// A slice's name and the indices of its prompts.
pub(crate) type Group = (String, Vec<usize>);

const LARGEST: usize = 11;

/// The slices of `prompts`, in reading order. Each prompt is in exactly one.
pub(crate) fn group(by: &SliceBy, prompts: &[&PromptRecord]) -> Result<Vec<Group>, EvalError> {
    by.check()?;
    match by {
        SliceBy::Metadata { key } => Ok(by_value(prompts, key)),
        SliceBy::Number { key, edges } => {
            let number = |p: &&PromptRecord| p.metadata.get(key).and_then(Value::as_f64);
            Ok(by_range(&prompts.iter().map(number).collect::<Vec<_>>(), edges))
        }
        SliceBy::PromptLength => {
            let length = |p: &&PromptRecord| Some(LengthUnit::Words.of(&p.prompt) as f64);
            Ok(by_range(&prompts.iter().map(length).collect::<Vec<_>>(), &[]))
        }
    }
}

fn by_value(prompts: &[&PromptRecord], key: &str) -> Vec<Group> {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, prompt) in prompts.iter().enumerate() {
        let name = match prompt.metadata.get(key) {
            None | Some(Value::Null) => "(none)".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        groups.entry(name).or_default().push(at);
    }
    let mut groups: Vec<Group> = groups.into_iter().collect();
    groups.sort_by_key(|(_, rows)| std::cmp::Reverse(rows.len()));
    if groups.len() > LARGEST + 1 {
        let mut rest: Vec<usize> = groups.drain(LARGEST..).flat_map(|(_, rows)| rows).collect();
        rest.sort_unstable();
        groups.push(("other".into(), rest));
    }
    groups
}

fn by_range(numbers: &[Option<f64>], edges: &[f64]) -> Vec<Group> {
    let mut ascending: Vec<f64> = numbers.iter().flatten().copied().collect();
    ascending.sort_by(f64::total_cmp);
    let mut edges = edges.to_vec();
    if edges.is_empty() && !ascending.is_empty() {
        edges = [0.25, 0.5, 0.75].map(|p| quantile(&ascending, p)).to_vec();
        // Many equal numbers make quarters coincide, and an edge at the minimum splits nothing.
        edges.dedup();
        edges.retain(|edge| *edge > ascending[0]);
    }
    let mut groups: Vec<Vec<usize>> = vec![Vec::new(); edges.len() + 1];
    let mut none = Vec::new();
    for (at, number) in numbers.iter().enumerate() {
        match number {
            Some(number) => groups[edges.partition_point(|edge| edge <= number)].push(at),
            None => none.push(at),
        }
    }
    let name = |at: usize| match (at.checked_sub(1).map(|low| edges[low]), edges.get(at)) {
        (None, None) => "all".to_owned(),
        (None, Some(high)) => format!("< {}", brief(*high)),
        (Some(low), None) => format!("≥ {}", brief(low)),
        (Some(low), Some(high)) => format!("{} to < {}", brief(low), brief(*high)),
    };
    let named = groups.into_iter().enumerate().map(|(at, rows)| (name(at), rows));
    named.chain([("(none)".to_owned(), none)]).filter(|(_, rows)| !rows.is_empty()).collect()
}

fn brief(number: f64) -> String {
    let rounded = format!("{number:.3}");
    rounded.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(values: &[Value]) -> Vec<PromptRecord> {
        let record = |(at, value): (usize, &Value)| {
            let mut record = PromptRecord::new(at.to_string(), "word ".repeat(at + 1));
            record.metadata.insert("key".into(), value.clone());
            record
        };
        values.iter().enumerate().map(record).collect()
    }

    fn grouped(by: &SliceBy, values: &[Value]) -> Vec<Group> {
        let records = prompts(values);
        group(by, &records.iter().collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn values_are_slices_the_largest_first_and_rare_ones_together() {
        let by = SliceBy::Metadata { key: "key".into() };
        let few = grouped(&by, &["b".into(), "a".into(), "a".into(), Value::Null]);
        let names: Vec<&str> = few.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "(none)", "b"]);
        let many: Vec<Value> = (0..20).map(Value::from).collect();
        let many = grouped(&by, &many);
        assert_eq!(many.len(), 12);
        assert_eq!(many[11].0, "other");
        assert_eq!(many.iter().map(|(_, rows)| rows.len()).sum::<usize>(), 20);
    }

    #[test]
    fn numbers_fall_between_edges_and_a_missing_one_is_a_slice_of_its_own() {
        let by = SliceBy::Number { key: "key".into(), edges: vec![0.25, 0.5] };
        let found = grouped(&by, &[0.5.into(), 0.25.into(), 0.1.into(), Value::Null]);
        let expected = [
            ("< 0.25", vec![2]),
            ("0.25 to < 0.5", vec![1]),
            ("≥ 0.5", vec![0]),
            ("(none)", vec![3]),
        ];
        assert_eq!(found, expected.map(|(name, rows)| (name.to_owned(), rows)));
    }

    #[test]
    fn quarters_are_of_equal_size_and_equal_numbers_stay_together() {
        let found = grouped(&SliceBy::PromptLength, &vec![Value::Null; 8]);
        assert_eq!(found.iter().map(|(_, rows)| rows.len()).collect::<Vec<_>>(), [2, 2, 2, 2]);
        let by = SliceBy::Number { key: "key".into(), edges: Vec::new() };
        assert_eq!(grouped(&by, &vec![1.into(); 5]), [("all".to_owned(), vec![0, 1, 2, 3, 4])]);
    }

    #[test]
    fn edges_out_of_order_are_an_error() {
        let by = SliceBy::Number { key: "key".into(), edges: vec![0.5, 0.25] };
        let error = group(&by, &[]).unwrap_err();
        assert!(matches!(&error, EvalError::Setting(bad) if bad.field == "edges"), "{error}");
    }
}
