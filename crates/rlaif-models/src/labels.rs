//! The labels of a classifier.

use std::collections::BTreeMap;

use rlaif_lm::LabelScheme;
use serde::Deserialize;

use crate::{config::Config, error::ModelError};

/// Label names in the order of the logits, and whether they exclude each other.
#[derive(Debug, Clone)]
pub struct Labels {
    names: Vec<String>,
    scheme: LabelScheme,
}

#[derive(Deserialize)]
struct Raw {
    /// Keys are numbers written as text.
    id2label: Option<BTreeMap<String, Name>>,
    num_labels: Option<usize>,
    problem_type: Option<String>,
}

/// The name of a label. Some checkpoints have numbers.
#[derive(Clone)]
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(name) => Ok(Self(name)),
            number @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => {
                Ok(Self(number.to_string()))
            }
            other => Err(serde::de::Error::custom(format_args!(
                "{other}, expected the name of a label, text or a number"
            ))),
        }
    }
}

impl Labels {
    /// From `id2label`, else `num_labels`, else two labels, as transformers reads them.
    pub(crate) fn from_config(config: &Config) -> Result<Self, ModelError> {
        let raw: Raw = config.parse("")?;
        let names: Vec<String> = match raw.id2label {
            None => (0..raw.num_labels.unwrap_or(2)).map(|i| format!("LABEL_{i}")).collect(),
            Some(by_id) => (0..by_id.len())
                .map(|i| {
                    by_id.get(&i.to_string()).map(|Name(name)| name.clone()).ok_or_else(|| {
                        ModelError::BadField {
                            file: Some(config.path().to_owned()),
                            field: "id2label",
                            found: format!("the keys {:?}", by_id.keys().collect::<Vec<_>>()),
                            expected: format!("the keys 0 to {}", by_id.len() - 1),
                        }
                    })
                })
                .collect::<Result<_, _>>()?,
        };
        // By name a label is chosen; the second of a name could not be.
        if let Some(at) = (1..names.len()).find(|&at| names[..at].contains(&names[at])) {
            let first = names.iter().position(|name| *name == names[at]).unwrap_or(at);
            return Err(ModelError::BadField {
                file: Some(config.path().to_owned()),
                field: "id2label",
                found: format!("`{}` for both {first} and {at}", names[at]),
                expected: "a unique name for each label".to_owned(),
            });
        }
        if names.is_empty() {
            return Err(ModelError::BadField {
                file: Some(config.path().to_owned()),
                field: "id2label",
                found: "no label".to_owned(),
                expected: "at least one label".to_owned(),
            });
        }
        let independent =
            names.len() == 1 || raw.problem_type.as_deref() == Some("multi_label_classification");
        let scheme = if independent { LabelScheme::Independent } else { LabelScheme::Exclusive };
        Ok(Self { names, scheme })
    }

    pub(crate) fn scheme(&self) -> LabelScheme {
        self.scheme
    }

    /// The names of the labels.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Number of labels.
    pub fn count(&self) -> i64 {
        i64::try_from(self.names.len()).expect("labels are few")
    }
}
