//! Contents of one request, independent of the wire format.

use serde_json::{Map, Value, json};

use super::super::keys::SamplingConfig;
use super::super::optional::{Optional, Without};
use crate::rubric::{AnswerShape, Question};

/// Contents of one request.
#[derive(Debug, Clone, Copy)]
pub(in crate::judge) struct Ask<'a> {
    pub(in crate::judge) question: &'a Question,
    pub(in crate::judge) shape: AnswerShape,
    pub(in crate::judge) sampling: &'a SamplingConfig,
    /// Index of the sample.
    pub(in crate::judge) sample: u32,
    pub(in crate::judge) without: Without,
}

impl Ask<'_> {
    pub(in crate::judge) fn max_tokens(&self) -> u32 {
        self.sampling.max_new_tokens.unwrap_or(self.shape.max_tokens)
    }

    fn unless<T>(&self, dropped: Optional, value: Option<T>) -> Option<T> {
        value.filter(|_| !self.without.has(dropped))
    }

    pub(super) fn temperature(&self) -> Option<f64> {
        self.unless(Optional::Temperature, self.sampling.temperature)
    }

    pub(super) fn top_p(&self) -> Option<f64> {
        self.unless(Optional::TopP, self.sampling.top_p)
    }

    pub(super) fn top_k(&self) -> Option<u32> {
        self.unless(Optional::TopK, self.sampling.top_k)
    }

    pub(super) fn seed(&self) -> Option<u64> {
        let seed = self.unless(Optional::Seed, self.sampling.seed)?;
        Some(seed.wrapping_add(u64::from(self.sample)))
    }

    pub(super) fn schema(&self) -> Option<Value> {
        let asked = self.shape.schema && !self.without.has(Optional::Schema);
        // No bounds on the number: most services refuse them. The reader of answers has them.
        asked.then(|| {
            json!({
                "type": "object",
                "properties": {
                    "justification": {"type": "string"},
                    "score": {"type": "number"},
                },
                "required": ["justification", "score"],
                "additionalProperties": false,
            })
        })
    }
}

/// Puts `value` under `key`, if there is a value.
pub(super) fn put<T: Into<Value>>(body: &mut Map<String, Value>, key: &str, value: Option<T>) {
    if let Some(value) = value {
        body.insert(key.to_owned(), value.into());
    }
}
