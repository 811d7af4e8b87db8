//! Trunks that change their heads: a classifier from whatever a folder holds, a value function from
//! a reward model.

use std::{collections::BTreeSet, path::Path};

use rlaif_checkpoint::Checkpoint;
use rlaif_lm::{Parameters, Policy, SequenceClassifier, ValueHead};
use rlaif_models::{Classifier, Config, LanguageModel, LoadOptions, ModelError, ModelSort};
use serde_json::Value;
use tch::{Kind, Tensor};

use super::error::RunError;

/// What a fresh head is called, by architecture.
const HEADS: [&str; 3] = ["score.", "classifier.", "bert.pooler."];

/// Loads a classifier with these labels. A folder that holds a language model or a bare encoder
/// lends its trunk; the head is drawn from libtorch's generator then: seed it before.
pub(crate) fn classifier(
    folder: &Path,
    labels: &[String],
    options: LoadOptions,
) -> Result<Classifier, RunError> {
    let config = Config::read(folder)?;
    if matches!(ModelSort::of(&config), Ok(ModelSort::Classifier)) && has_head(folder)? {
        let loaded = Classifier::load(folder, options)?;
        let own = loaded.labels();
        if own == labels {
            return Ok(loaded);
        }
        // A head for as many labels is kept below, under the new names; so the old ones must mean
        // nothing (a single score, or `LABEL_0`, which transformers writes for want of a name).
        let nameless = own.len() == 1 || own.iter().all(|label| label.starts_with("LABEL_"));
        if own.len() == labels.len() && !nameless {
            return Err(RunError::Setting {
                key: "labels",
                problem: format!(
                    "the classifier in {} has the labels {own:?}; name the same in the same order, \
                     or begin from a model without a head",
                    folder.display()
                ),
            });
        }
    }
    let config = with_labels(&config, labels)?;
    let kind = options.kind.unwrap_or(Kind::Float);
    let model = Classifier::random(config, kind, options.device)?;
    fill(model.parameters(), &HEADS, folder, "model.path")?;
    Ok(model)
}

fn has_head(folder: &Path) -> Result<bool, RunError> {
    let checkpoint = Checkpoint::open(folder)?;
    let has = checkpoint
        .tensors()
        .keys()
        .any(|name| name.starts_with("score.") || name.starts_with("classifier."));
    Ok(has)
}

/// config.json as that of a classifier.
fn with_labels(config: &Config, labels: &[String]) -> Result<Config, RunError> {
    let mut config = config.clone();
    let architecture = match config.text("model_type").unwrap_or("") {
        "roberta" => "RobertaForSequenceClassification",
        "bert" => "BertForSequenceClassification",
        "llama" => "LlamaForSequenceClassification",
        "mistral" => "MistralForSequenceClassification",
        "qwen2" => "Qwen2ForSequenceClassification",
        "qwen3" => "Qwen3ForSequenceClassification",
        other => {
            return Err(RunError::Setting {
                key: "model.path",
                problem: format!(
                    "the trunk of `{other}` cannot become a classifier; roberta, bert, llama, \
                     mistral, qwen2 and qwen3 can"
                ),
            });
        }
    };
    config.set("architectures", serde_json::json!([architecture]));
    let id2label: serde_json::Map<String, Value> =
        labels.iter().enumerate().map(|(i, label)| (i.to_string(), label.clone().into())).collect();
    let label2id: serde_json::Map<String, Value> =
        labels.iter().enumerate().map(|(i, label)| (label.clone(), i.into())).collect();
    config.set("id2label", id2label.into());
    config.set("label2id", label2id.into());
    config.set("num_labels", labels.len().into());
    // Of the trunk's head, if it had one; transformers refuses that of several labels for one.
    let several = "single_label_classification";
    config.set("problem_type", if labels.len() == 1 { Value::Null } else { several.into() });
    if config.fields().get("pad_token_id").is_none_or(Value::is_null) {
        // transformers reads the last token that is no padding, and must know which is.
        let eos = config.fields().get("eos_token_id").cloned().unwrap_or_default();
        let eos = eos.as_array().and_then(|ids| ids.first().cloned()).unwrap_or(eos);
        if !eos.is_null() {
            config.set("pad_token_id", eos);
        }
    }
    Ok(config)
}

/// The trunk of a reward model as a policy, with its score layer as a value head: what a value
/// function starts from. The vocabulary head, which goes unused, is the embeddings.
pub(crate) fn reward_trunk(
    folder: &Path,
    options: LoadOptions,
) -> Result<(LanguageModel, ValueHead), RunError> {
    const KEY: &str = "value.model";
    let refused = |problem: String| RunError::Setting { key: KEY, problem };
    let mut config = Config::read(folder)?;
    let architecture = match config.text("model_type").unwrap_or("") {
        "llama" => "LlamaForCausalLM",
        "mistral" => "MistralForCausalLM",
        "qwen2" => "Qwen2ForCausalLM",
        "qwen3" => "Qwen3ForCausalLM",
        other => {
            return Err(refused(format!(
                "the reward model in {} is a `{other}`; value functions start from those of llama, \
                 mistral, qwen2 and qwen3",
                folder.display()
            )));
        }
    };
    let checkpoint = Checkpoint::open(folder)?;
    let Some(layer) = read(&checkpoint, "score.weight")? else {
        return Err(refused(format!(
            "{} has no `score.weight`, so it is no reward model; start the head at `zero` \
             (`value.init`)",
            folder.display()
        )));
    };
    if layer.dim() != 2 || layer.size()[0] != 1 {
        return Err(refused(format!(
            "`score.weight` of {} has shape {:?}; expected one score, [1, hidden size]",
            folder.display(),
            layer.size()
        )));
    }
    config.set("architectures", serde_json::json!([architecture]));
    config.set("tie_word_embeddings", true.into());
    let trunk = LanguageModel::random(config, options.kind.unwrap_or(Kind::Float), options.device)?;
    fill(trunk.parameters(), &[], folder, KEY)?;
    let weight = layer.to_kind(Kind::Float).to_device(options.device);
    let bias = Tensor::zeros([1], (Kind::Float, options.device));
    Ok((trunk, ValueHead::from_tensors(&weight, &bias)))
}

/// A tensor of floating-point numbers from a checkpoint, on the CPU; `None` if it has none of this
/// name.
fn read(checkpoint: &Checkpoint, name: &str) -> Result<Option<Tensor>, RunError> {
    let Some(info) = checkpoint.tensors().get(name) else { return Ok(None) };
    let kind = match info.dtype {
        rlaif_checkpoint::Dtype::F32 => Kind::Float,
        rlaif_checkpoint::Dtype::BF16 => Kind::BFloat16,
        rlaif_checkpoint::Dtype::F16 => Kind::Half,
        rlaif_checkpoint::Dtype::F64 => Kind::Double,
        _ => return Ok(None),
    };
    let shape: Vec<i64> = info.shape.iter().map(|&n| n as i64).collect();
    let mut tensor = Tensor::f_empty(&shape, (kind, tch::Device::Cpu))
        .map_err(|source| RunError::Torch(source.into()))?;
    rlaif_torch::with_bytes_mut(&mut tensor, |bytes| checkpoint.read_into(name, bytes))?
        .map_err(ModelError::from)?;
    Ok(Some(tensor))
}

/// Copies the trunk's tensors into the model's parameters; those of `heads` may be missing.
fn fill(
    parameters: &Parameters,
    heads: &[&str],
    folder: &Path,
    key: &'static str,
) -> Result<(), RunError> {
    let checkpoint = Checkpoint::open(folder)?;
    let mut missing = BTreeSet::new();
    for (name, parameter) in parameters.iter() {
        let is_head = heads.iter().any(|head| name.starts_with(head));
        let Some(tensor) = read(&checkpoint, name)? else {
            if !is_head {
                missing.insert(name.to_owned());
            }
            continue;
        };
        if tensor.size() != parameter.size() {
            // A head for other labels.
            if !is_head {
                missing.insert(format!("{name} of shape {:?}", parameter.size()));
            }
            continue;
        }
        tch::no_grad(|| parameter.shallow_clone().copy_(&tensor));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.into_iter().take(5).collect::<Vec<_>>().join(", ");
    Err(RunError::Setting {
        key,
        problem: format!("{} lacks tensors of the trunk: {names}", folder.display()),
    })
}
