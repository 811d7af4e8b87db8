//! The settings of generation.

use rlaif_core::{BadSetting, Eos};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{error::LmError, spec::LmSpec};

/// The settings of generation.
///
/// ```
/// use rlaif_lm::generate::{GenerationConfig, Sampling};
/// let config: GenerationConfig = serde_json::from_str(
///     r#"{ "max_new_tokens": 64, "sampling": { "method": "sample", "temperature": 0.7 } }"#,
/// )?;
/// assert_eq!(config.sampling.temperature(), 0.7);
/// assert_eq!(config.batch_size, GenerationConfig::default().batch_size);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GenerationConfig {
    /// Maximum length of a response, in tokens, the ending token included. A row may have its own
    /// limit.
    pub max_new_tokens: usize,
    /// Minimum length of a response, in tokens; until then, ids that end a response (end of
    /// sequence, `stop_ids`) are excluded.
    pub min_new_tokens: usize,
    /// The choice of the next token.
    pub sampling: Sampling,
    /// Penalty for tokens that occurred before; 1 to disable it. Logits of tokens that occurred are
    /// divided by it if positive and multiplied by it if negative
    /// ([CTRL](https://arxiv.org/abs/1909.05858)). For decoder-only models the prompt is included,
    /// for encoder-decoder models the start token.
    pub repetition_penalty: f64,
    /// The effect of the model's end-of-sequence ids.
    pub eos: Eos,
    /// Ids that end a response, besides the model's own.
    pub stop_ids: Vec<u32>,
    /// Texts that end a response; they need a tokenizer.
    pub stop_strings: Vec<String>,
    /// Sequences of ids that must not occur in a response; a sequence of one id forbids that token.
    pub bad_ids: Vec<Vec<u32>>,
    /// Rows decoded together. A finished row is replaced by the next prompt at once.
    pub batch_size: usize,
    /// Tokens between two checks for finished rows. By default, 1 on the CPU, and 8 on a GPU, which
    /// then need not wait for the host in between; tokens after the end of a row are dropped.
    /// Settings that depend on the tokens so far (stop strings, repetition penalty, ...) and
    /// listeners require 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check_every: Option<usize>,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            max_new_tokens: 128,
            min_new_tokens: 0,
            sampling: Sampling::default(),
            repetition_penalty: 1.,
            eos: Eos::Ends,
            stop_ids: Vec::new(),
            stop_strings: Vec::new(),
            bad_ids: Vec::new(),
            batch_size: 16,
            check_every: None,
        }
    }
}

/// The choice of the next token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum Sampling {
    /// The most probable token; of equal ones, the one with the lowest id.
    Greedy,
    /// A draw from softmax(logits / temperature), truncated by the settings below, in this order.
    Sample {
        /// Above 0.
        #[serde(default = "one")]
        temperature: f64,
        /// Keeps the k most probable tokens, and those as probable as the k-th.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        top_k: Option<usize>,
        /// Keeps the most probable tokens until their sum reaches p.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        top_p: Option<f64>,
        /// Keeps tokens at least this fraction as probable as the most probable one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min_p: Option<f64>,
    },
}

fn one() -> f64 {
    1.
}

impl Default for Sampling {
    fn default() -> Self {
        Self::at(1.)
    }
}

impl Sampling {
    /// Sampling from the whole vocabulary at a temperature, as in a rollout.
    pub fn at(temperature: f64) -> Self {
        Self::Sample { temperature, top_k: None, top_p: None, min_p: None }
    }

    /// The divisor of the logits; 1 for greedy decoding.
    pub fn temperature(&self) -> f64 {
        match self {
            Self::Greedy => 1.,
            Self::Sample { temperature, .. } => *temperature,
        }
    }

    /// `true` if some tokens are cut off before the draw.
    pub(super) fn truncates(&self) -> bool {
        match self {
            Self::Greedy => false,
            Self::Sample { top_k, top_p, min_p, .. } => {
                top_k.is_some() || top_p.is_some_and(|p| p < 1.) || min_p.is_some_and(|p| p > 0.)
            }
        }
    }
}

impl GenerationConfig {
    /// Checks every setting, and that the model supports it.
    ///
    /// # Errors
    /// [`LmError::Setting`] names the setting, its value and its range.
    pub fn check(&self, spec: &LmSpec) -> Result<(), LmError> {
        self.check_settings()?;
        let known = |id: &&u32| i64::from(**id) < spec.vocab_size;
        let ids = [
            ("stop_ids", self.stop_ids.iter().find(|id| !known(id))),
            ("bad_ids", self.bad_ids.iter().flatten().find(|id| !known(id))),
        ];
        match ids.into_iter().find_map(|(field, id)| Some((field, id?))) {
            Some((field, id)) => {
                Err(BadSetting::new(field, id, "ids of the model's vocabulary").into())
            }
            None => Ok(()),
        }
    }

    /// Checks every setting as far as this is possible without a model.
    ///
    /// # Errors
    /// [`BadSetting`] names the setting, its value and its range.
    pub fn check_settings(&self) -> Result<(), BadSetting> {
        let bad = |field: &'static str, found: &dyn std::fmt::Display, expected: &'static str| {
            Err(BadSetting::new(field, found, expected))
        };
        if self.max_new_tokens == 0 {
            return bad("max_new_tokens", &0, "at least 1");
        }
        if self.min_new_tokens > self.max_new_tokens {
            return bad("min_new_tokens", &self.min_new_tokens, "at most max_new_tokens");
        }
        if self.batch_size == 0 {
            return bad("batch_size", &0, "at least 1");
        }
        if self.check_every == Some(0) {
            return bad("check_every", &0, "at least 1");
        }
        if !(self.repetition_penalty > 0. && self.repetition_penalty.is_finite()) {
            return bad(
                "repetition_penalty",
                &self.repetition_penalty,
                "a positive number; 1 is off",
            );
        }
        if let Sampling::Sample { temperature, top_k, top_p, min_p } = self.sampling {
            if !(temperature > 0. && temperature.is_finite()) {
                return bad(
                    "sampling.temperature",
                    &temperature,
                    "a positive number; for the most probable token use the method `greedy`",
                );
            }
            if top_k == Some(0) {
                return bad("sampling.top_k", &0, "at least 1; leave it out to switch it off");
            }
            if let Some(p) = top_p.filter(|p| !(*p > 0. && *p <= 1.)) {
                return bad("sampling.top_p", &p, "above 0 and at most 1");
            }
            if let Some(p) = min_p.filter(|p| !(0. ..=1.).contains(p)) {
                return bad("sampling.min_p", &p, "0 to 1");
            }
        }
        if self.stop_strings.iter().any(String::is_empty) {
            return bad("stop_strings", &"\"\"", "texts of at least one character");
        }
        if self.bad_ids.iter().any(Vec::is_empty) {
            return bad("bad_ids", &"[]", "sequences of at least one id");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn spec() -> LmSpec {
        LmSpec {
            model_type: "llama".to_owned(),
            hidden_size: 8,
            vocab_size: 100,
            context: None,
            pad_id: 0,
            eos_ids: vec![2],
            bos_id: None,
            decoder_start_id: None,
            forced: crate::ForcedIds::default(),
            kind: Kind::Float,
            device: Device::Cpu,
        }
    }

    #[test]
    fn settings_that_cannot_be_are_refused_by_name() {
        let sample = |temperature, top_k, top_p, min_p| GenerationConfig {
            sampling: Sampling::Sample { temperature, top_k, top_p, min_p },
            ..GenerationConfig::default()
        };
        let base = GenerationConfig::default;
        let cases = [
            ("max_new_tokens", GenerationConfig { max_new_tokens: 0, ..base() }),
            ("min_new_tokens", GenerationConfig { min_new_tokens: 129, ..base() }),
            ("batch_size", GenerationConfig { batch_size: 0, ..base() }),
            ("check_every", GenerationConfig { check_every: Some(0), ..base() }),
            ("repetition_penalty", GenerationConfig { repetition_penalty: 0., ..base() }),
            ("repetition_penalty", GenerationConfig { repetition_penalty: f64::NAN, ..base() }),
            ("sampling.temperature", sample(0., None, None, None)),
            ("sampling.temperature", sample(f64::NAN, None, None, None)),
            ("sampling.temperature", sample(f64::INFINITY, None, None, None)),
            ("sampling.top_k", sample(1., Some(0), None, None)),
            ("sampling.top_p", sample(1., None, Some(0.), None)),
            ("sampling.top_p", sample(1., None, Some(1.1), None)),
            ("sampling.min_p", sample(1., None, None, Some(-0.1))),
            ("sampling.min_p", sample(1., None, None, Some(f64::NAN))),
            ("stop_strings", GenerationConfig { stop_strings: vec![String::new()], ..base() }),
            ("bad_ids", GenerationConfig { bad_ids: vec![vec![]], ..base() }),
            ("bad_ids", GenerationConfig { bad_ids: vec![vec![1, 100]], ..base() }),
            ("stop_ids", GenerationConfig { stop_ids: vec![100], ..base() }),
        ];
        for (name, config) in cases {
            let error = config.check(&spec()).unwrap_err();
            assert!(matches!(&error, LmError::Setting(error) if error.field == name), "{error}");
        }
        base().check(&spec()).unwrap();
        sample(0.7, Some(50), Some(1.), Some(0.)).check(&spec()).unwrap();
    }

    #[test]
    fn written_and_read_again_it_is_the_same() {
        let config = GenerationConfig {
            sampling: Sampling::Sample {
                temperature: 0.7,
                top_k: Some(5),
                top_p: None,
                min_p: Some(0.1),
            },
            bad_ids: vec![vec![1], vec![2, 3]],
            ..GenerationConfig::default()
        };
        for config in
            [GenerationConfig { sampling: Sampling::Greedy, ..GenerationConfig::default() }, config]
        {
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<GenerationConfig>(&text).unwrap(), config);
        }
        for unknown in [
            r#"{ "max_tokens": 3 }"#,
            r#"{ "sampling": { "method": "sample", "topk": 3 } }"#,
            r#"{ "sampling": { "method": "beam" } }"#,
        ] {
            assert!(serde_json::from_str::<GenerationConfig>(unknown).is_err(), "{unknown}");
        }
    }
}
