//! Requests to vLLM, and its answers.

use std::collections::BTreeMap;

use rlaif_core::{BadSetting, Eos};
use rlaif_lm::{
    LmSpec,
    generate::{FinishReason, GenerationConfig, Sampling},
};
use serde::Deserialize;
use serde_json::{Value, json};

/// The models of a server.
#[derive(Debug, Deserialize)]
pub(crate) struct Models {
    pub(crate) data: Vec<ServedModel>,
}

/// A model of a server: a base model, or an adapter.
#[derive(Debug, Deserialize)]
pub(crate) struct ServedModel {
    pub(crate) id: String,
    /// The folder or the id of its files.
    pub(crate) root: Option<String>,
    /// The base of an adapter.
    pub(crate) parent: Option<String>,
    pub(crate) max_model_len: Option<usize>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Tokenized {
    pub(crate) tokens: Vec<u32>,
}

/// The answer of `/is_paused`.
#[derive(Debug, Deserialize)]
pub(crate) struct Paused {
    pub(crate) is_paused: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct WeightInfo {
    pub(crate) weight_version: Option<Value>,
}

/// The digests of a server's weights, by name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Checksums {
    pub(crate) checksums: BTreeMap<String, String>,
}

/// The answer of `/v1/completions`.
#[derive(Debug, Deserialize)]
pub(crate) struct Completion {
    pub(crate) model: Option<String>,
    pub(crate) choices: Vec<Choice>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Choice {
    pub(crate) index: usize,
    pub(crate) finish_reason: Option<String>,
    pub(crate) stop_reason: Option<Value>,
    pub(crate) token_ids: Option<Vec<u32>>,
    pub(crate) prompt_token_ids: Option<Vec<u32>>,
    pub(crate) logprobs: Option<LogProbs>,
    pub(crate) weight_versions: Option<Vec<VersionSpan>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct LogProbs {
    pub(crate) token_logprobs: Vec<Option<f32>>,
}

/// Tokens of one version of the weights.
#[derive(Debug, Deserialize)]
pub(crate) struct VersionSpan {
    pub(crate) version: Option<Value>,
}

/// A text or a number as text.
pub(crate) fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The settings of generation as those of vLLM, by which all requests of a call are made.
#[derive(Debug, Clone)]
pub(crate) struct Manner {
    fields: Value,
    /// Ids that end a response because the policy says so.
    eos: Vec<u32>,
    stops: Vec<u32>,
    pub(crate) greedy: bool,
    /// `true` if the server's log-probabilities are those of the whole softmax.
    pub(crate) whole: bool,
    vocab_size: i64,
}

impl Manner {
    /// # Errors
    /// [`BadSetting`] for a setting that vLLM does not have.
    pub(crate) fn of(how: &GenerationConfig, spec: &LmSpec) -> Result<Self, BadSetting> {
        how.check_settings()?;
        let refused = |field: &'static str, found: String, expected: &'static str| {
            Err(BadSetting::new(field, found, expected))
        };
        if !how.bad_ids.is_empty() {
            let expected = "empty with a sampler over vLLM, which forbids words and not ids";
            return refused("bad_ids", format!("{:?}", how.bad_ids), expected);
        }
        if spec.forced.first.is_some() || spec.forced.last.is_some() {
            let expected = "no forced tokens with a sampler over vLLM, which has none; delete the keys from generation_config.json";
            return refused("forced", format!("{:?}", spec.forced), expected);
        }
        if spec.decoder_start_id.is_some() {
            let expected = "a decoder-only model with a sampler over vLLM";
            return refused(
                "policy",
                format!("the encoder-decoder model `{}`", spec.model_type),
                expected,
            );
        }
        let (temperature, top_k, top_p, min_p, greedy) = match how.sampling {
            Sampling::Greedy => (0., None, None, None, true),
            Sampling::Sample { temperature, top_k, top_p, min_p } => {
                (temperature, top_k, top_p, min_p, false)
            }
        };
        let cut = top_k.is_some() || top_p.is_some_and(|p| p < 1.) || min_p.is_some_and(|p| p > 0.);
        let penalised = (how.repetition_penalty - 1.).abs() > 0.;
        let eos = match how.eos {
            Eos::Ends => spec.eos_ids.clone(),
            Eos::Ignored => Vec::new(),
        };
        let mut ends = eos.clone();
        ends.extend(how.stop_ids.iter().filter(|id| !eos.contains(id)));
        // Every setting is sent: a server fills in those of the model's generation_config.json.
        let fields = json!({
            "temperature": temperature,
            "top_k": top_k.unwrap_or(0),
            "top_p": top_p.unwrap_or(1.),
            "min_p": min_p.unwrap_or(0.),
            "repetition_penalty": how.repetition_penalty,
            "presence_penalty": 0.,
            "frequency_penalty": 0.,
            "min_tokens": how.min_new_tokens,
            "stop": how.stop_strings,
            "stop_token_ids": ends,
            "ignore_eos": how.eos == Eos::Ignored,
            "logprobs": 0,
            "return_token_ids": true,
            "return_tokens_as_token_ids": true,
            "return_weight_versions": true,
        });
        let stops = how.stop_ids.clone();
        let whole = !cut && !penalised && how.min_new_tokens == 0;
        Ok(Self { fields, eos, stops, greedy, whole, vocab_size: spec.vocab_size })
    }

    /// The request of `n` responses to a prompt.
    pub(crate) fn request(&self, model: &str, salt: &str, group: &Group) -> Value {
        let mut body = self.fields.clone();
        body["model"] = model.into();
        body["cache_salt"] = salt.into();
        body["prompt"] = json!([group.prompt]);
        body["max_tokens"] = group.limit.into();
        body["n"] = if self.greedy { 1 } else { group.rows.len() }.into();
        body["seed"] = group.seed.into();
        body
    }

    /// The responses in an answer, in the order of the rows.
    ///
    /// # Errors
    /// The fault of the answer, in words.
    pub(crate) fn read(&self, group: &Group, answer: Completion) -> Result<Vec<Answered>, String> {
        let wanted = if self.greedy { 1 } else { group.rows.len() };
        if answer.choices.len() != wanted {
            return Err(format!("{} choices instead of {wanted}", answer.choices.len()));
        }
        let mut all: Vec<Option<Answered>> = (0..wanted).map(|_| None).collect();
        for choice in answer.choices {
            let place = all.get_mut(choice.index).filter(|place| place.is_none());
            let place = place.ok_or_else(|| format!("a choice of index {}", choice.index))?;
            *place = Some(self.choice(group, choice)?);
        }
        let mut all: Vec<Answered> = all.into_iter().flatten().collect();
        if self.greedy {
            let one = all.swap_remove(0);
            all = vec![one; group.rows.len()];
        }
        Ok(all)
    }

    fn choice(&self, group: &Group, choice: Choice) -> Result<Answered, String> {
        let Some(ids) = choice.token_ids else {
            return Err(
                "no `token_ids`; vLLM has them since 0.10.2 (`return_token_ids`)".to_owned()
            );
        };
        if choice.prompt_token_ids.is_some_and(|prompt| prompt != group.prompt) {
            return Err("`prompt_token_ids` that are not those of the prompt".to_owned());
        }
        let known = |id: &&u32| i64::from(**id) >= self.vocab_size;
        if let Some(id) = ids.iter().find(known) {
            return Err(format!(
                "the token id {id}, and the vocabulary of the policy has {}",
                self.vocab_size
            ));
        }
        if ids.is_empty() || ids.len() > group.limit {
            return Err(format!("{} tokens instead of 1 to {}", ids.len(), group.limit));
        }
        let told = choice.logprobs.map(|told| told.token_logprobs);
        let Some(told) = told.filter(|told| told.len() == ids.len()) else {
            return Err(format!("no log-probability for each of {} tokens", ids.len()));
        };
        // Rounding may leave a little above 0.
        if let Some(x) = told.iter().flatten().find(|x| **x > 1e-3) {
            return Err(format!("the log-probability {x}"));
        }
        let last = ids.last().copied();
        let ends_by = |ends: &[u32]| last.is_some_and(|id| ends.contains(&id));
        let finish = match (choice.finish_reason.as_deref(), &choice.stop_reason) {
            (Some("length"), _) if ids.len() == group.limit => FinishReason::Length,
            (Some("stop"), Some(Value::String(_))) => FinishReason::Stop,
            (Some("stop"), _) if ends_by(&self.eos) => FinishReason::Eos,
            (Some("stop"), _) if ends_by(&self.stops) => FinishReason::Stop,
            (Some("stop"), _) => {
                return Err(format!(
                    "a response that ends with the token {}, which ends none of the policy; name it in \
                     `generation.stop_ids`, or start the server with `--generation-config vllm`",
                    last.unwrap_or_default()
                ));
            }
            (reason, _) => {
                let reason = reason.unwrap_or("none");
                return Err(format!("the finish reason `{reason}` after {} tokens", ids.len()));
            }
        };
        let versions = choice.weight_versions.unwrap_or_default();
        let versions =
            versions.iter().filter_map(|span| span.version.as_ref().map(as_text)).collect();
        let log_probs = told.into_iter().map(|x| x.unwrap_or(f32::NAN)).collect();
        Ok(Answered { ids, log_probs, finish, versions })
    }
}

/// Responses to one prompt, asked in one request.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) prompt: Vec<u32>,
    pub(crate) limit: usize,
    /// The seed of the first row; the server takes the next numbers for the others.
    pub(crate) seed: i64,
    pub(crate) rows: Vec<usize>,
}

/// A response of a server.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answered {
    pub(crate) ids: Vec<u32>,
    pub(crate) log_probs: Vec<f32>,
    pub(crate) finish: FinishReason,
    /// The versions of the weights that sampled it, if the server tells them.
    pub(crate) versions: Vec<String>,
}
