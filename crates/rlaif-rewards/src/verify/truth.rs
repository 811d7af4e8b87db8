//! Right answers, which rows bring along.

use rlaif_core::{Exchange, RewardError, Score, Scores};
use serde_json::Value;

/// The place of a row's right answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Truth {
    /// The row's reference.
    #[default]
    Reference,
    /// A key of the row's metadata, or a path of keys: `reward_model`, `ground_truth`.
    Metadata(Vec<String>),
}

impl Truth {
    /// The place that a configuration names: a column, or a path such as `reward_model.ground_truth`.
    ///
    /// ```
    /// use rlaif_core::Exchange;
    /// use rlaif_rewards::verify::Truth;
    /// let row = serde_json::json!({"reward_model": {"ground_truth": "34"}});
    /// let exchange = Exchange { metadata: row.as_object(), ..Exchange::new("p", "r") };
    /// let truth = Truth::named(Some("reward_model.ground_truth"));
    /// assert_eq!(truth.find(&exchange).unwrap(), &serde_json::json!("34"));
    /// let nothing = truth.find(&Exchange::new("p", "r")).unwrap_err();
    /// assert_eq!(nothing, "the row has no `reward_model.ground_truth`");
    /// ```
    pub fn named(path: Option<&str>) -> Self {
        path.map_or(Self::Reference, |path| {
            Self::Metadata(path.split('.').map(str::to_owned).collect())
        })
    }

    /// The value of a row.
    ///
    /// # Errors
    /// A sentence for a row without one.
    pub fn find<'a>(&self, exchange: &Exchange<'a>) -> Result<&'a Value, String> {
        let Self::Metadata(path) = self else {
            return Err("a reference is a text".to_owned());
        };
        let (first, rest) = path.split_first().ok_or_else(|| "the path is empty".to_owned())?;
        let mut value = exchange.metadata.and_then(|metadata| metadata.get(first));
        for key in rest {
            value = value.and_then(|value| value.get(key));
        }
        value
            .filter(|value| !value.is_null())
            .ok_or_else(|| format!("the row has no `{}`", path.join(".")))
    }

    /// The right answers of a row: one text, or those of a list.
    ///
    /// # Errors
    /// A sentence for a row without an answer, or whose answer is neither a text, a number nor a list of
    /// these.
    pub fn texts(&self, exchange: &Exchange<'_>) -> Result<Vec<String>, String> {
        if *self == Self::Reference {
            let reference = exchange.reference.filter(|reference| !reference.trim().is_empty());
            let reference = reference.ok_or_else(|| "the row has no reference".to_owned())?;
            return Ok(vec![reference.to_owned()]);
        }
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            _ => None,
        };
        let value = self.find(exchange)?;
        let texts: Option<Vec<String>> = match value {
            Value::Array(all) if !all.is_empty() => all.iter().map(text).collect(),
            other => text(other).map(|text| vec![text]),
        };
        texts.ok_or_else(|| {
            format!("`{self}` is {}; expected a text, a number or a list of them", kind(value))
        })
    }

    /// The column of a row that it needs.
    pub(crate) fn column(&self) -> Option<&str> {
        match self {
            Self::Reference => None,
            Self::Metadata(path) => path.first().map(String::as_str),
        }
    }
}

impl std::fmt::Display for Truth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reference => f.write_str("reference"),
            Self::Metadata(path) => f.write_str(&path.join(".")),
        }
    }
}

/// A JSON value's kind in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Scores of a rule that may find nothing to compare with: the reason is kept.
pub(super) fn scored(
    name: &str,
    batch: &[Exchange<'_>],
    rule: impl Fn(&Exchange<'_>) -> Result<f32, String>,
) -> Result<Scores, RewardError> {
    collected(name, batch.iter().map(rule))
}

/// Scores of results in the order of the batch.
pub(super) fn collected(
    name: &str,
    results: impl Iterator<Item = Result<f32, String>>,
) -> Result<Scores, RewardError> {
    let mut scores = Scores::default();
    for (row, result) in results.enumerate() {
        let score = match result {
            Ok(value) => Some(
                Score::new(value).map_err(|source| RewardError::non_finite(name, row, source))?,
            ),
            Err(reason) => {
                scores.reasons.push((row, reason));
                None
            }
        };
        scores.total.push(score);
    }
    Ok(scores)
}
