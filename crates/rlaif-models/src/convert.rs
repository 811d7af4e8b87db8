//! Puts a different head on an existing trunk: builds a classifier from any model folder, or a value
//! function from a reward model.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use rlaif_checkpoint::Checkpoint;
use rlaif_core::Fault;
use rlaif_lm::{Parameters, Policy, SequenceClassifier, ValueHead};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::{
    classifier::Classifier,
    config::Config,
    error::ModelError,
    family::Family,
    files::ModelFiles,
    language_model::LanguageModel,
    load::{Build, LoadOptions, open},
    sort::ModelSort,
    weights::{ModelTensors, Places, read_if_present},
};

/// Errors of putting another head on a folder's trunk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The folder holds a classifier with as many labels of other names.
    #[error(
        "the classifier in {} has the labels {labels:?}; name the same labels in the same order, \
         or start from a model without a head",
        .folder.display()
    )]
    Labels {
        /// The folder.
        folder: PathBuf,
        /// The labels it has.
        labels: Vec<String>,
    },
    /// The family has no classifier.
    #[error("the trunk of `{model_type}` cannot become a classifier; {known} can")]
    NoClassifier {
        /// The family.
        model_type: String,
        /// The families that have one.
        known: String,
    },
    /// The family has no classifier whose head is one layer on a language model's trunk.
    #[error(
        "the reward model in {} is a `{model_type}`; value functions start from those of {known}",
        .folder.display()
    )]
    NoValueFunction {
        /// The folder.
        folder: PathBuf,
        /// The family.
        model_type: String,
        /// The families that have one.
        known: String,
    },
    /// The checkpoint has no such head.
    #[error(
        "{} has no `{weight}`, so it is not a reward model; start the head at `zero` \
         (`value.init`)",
        .folder.display()
    )]
    NoHead {
        /// The folder.
        folder: PathBuf,
        /// The tensor.
        weight: &'static str,
    },
    /// There is no value head in the file or folder.
    #[error(
        "{} has no `{weight}`; expected the `value_head.safetensors` of a run of `rlaif ppo`, or a model that \
         TRL saved with its value head",
        .place.display()
    )]
    NoValueHead {
        /// The file or folder.
        place: PathBuf,
        /// The tensor.
        weight: &'static str,
    },
    /// The head has more than one output.
    #[error(
        "`{weight}` of {} has shape {shape:?}; expected one score, [1, hidden size]",
        .folder.display()
    )]
    HeadShape {
        /// The folder.
        folder: PathBuf,
        /// The tensor.
        weight: &'static str,
        /// The shape found.
        shape: Vec<i64>,
    },
    /// The checkpoint has not the whole trunk.
    #[error("{} lacks tensors of the trunk: {}", .folder.display(), .missing.join(", "))]
    Trunk {
        /// The folder.
        folder: PathBuf,
        /// The first tensors that are missing, or of another shape.
        missing: Vec<String>,
    },
    /// An adapter of a classifier on a base without a head, and without one of its own.
    #[error(
        "the adapter in {} has no head (`modules_to_save`), and its base {} has none either; name the \
         classifier that it was trained on as the base", .adapter.display(), .base.display()
    )]
    NoHeadInAdapter {
        /// The adapter's folder.
        adapter: PathBuf,
        /// The base's folder.
        base: PathBuf,
    },
    /// A part of an adapter's head that neither its base nor its file has.
    #[error(
        "neither the base {} nor the adapter in {} has {}; name the base that the adapter was trained on, \
         or train and save these weights in Python, too (`modules_to_save`)",
        .base.display(), .adapter.display(), listed(.missing)
    )]
    PartOfHead {
        /// The adapter's folder.
        adapter: PathBuf,
        /// The base's folder.
        base: PathBuf,
        /// The parameters.
        missing: Vec<String>,
    },
    /// An adapter of a language model where a classifier is to be trained.
    #[error(
        "the adapter in {} has no head (`modules_to_save`), which is to be trained; merge it \
         first (`rlaif merge`), and start from the merged model",
        .adapter.display()
    )]
    AdapterWithoutHead {
        /// The adapter's folder.
        adapter: PathBuf,
    },
    /// An adapter of a classifier of tokens where one of texts is to be trained.
    #[error(
        "the adapter in {} has a head on tokens (task_type TOKEN_CLS), and a training scores texts; merge it first \
         (`rlaif merge`), and start from the merged model",
        .adapter.display()
    )]
    AdapterOnTokens {
        /// The adapter's folder.
        adapter: PathBuf,
    },
    /// The folder cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl Fault for ConvertError {
    fn is_users(&self) -> bool {
        match self {
            Self::Labels { .. }
            | Self::NoClassifier { .. }
            | Self::NoValueFunction { .. }
            | Self::NoHead { .. }
            | Self::NoValueHead { .. }
            | Self::HeadShape { .. }
            | Self::NoHeadInAdapter { .. }
            | Self::PartOfHead { .. }
            | Self::AdapterWithoutHead { .. }
            | Self::AdapterOnTokens { .. }
            | Self::Trunk { .. } => true,
            Self::Model(error) => error.is_users(),
        }
    }
}

/// The names in a sentence.
fn listed(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Loads a classifier of texts with these labels. A folder that holds a language model or a bare encoder
/// lends its trunk; the head is then drawn from libtorch's generator. A head on tokens becomes a head on
/// texts, and keeps the tensors that have the same names there.
///
/// # Errors
/// [`ConvertError::Labels`], [`ConvertError::NoClassifier`], [`ConvertError::Trunk`];
/// [`ConvertError::Model`] for a folder that cannot be read.
///
/// ```
/// use rlaif_lm::SequenceClassifier;
/// use rlaif_models::{LoadOptions, classifier_with_labels};
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/llama3");
/// let labels = ["reward".to_owned()];
/// let model = classifier_with_labels(folder.as_ref(), &labels, LoadOptions::default())?;
/// assert_eq!(model.labels(), labels);
/// # Ok::<(), rlaif_models::ConvertError>(())
/// ```
pub fn classifier_with_labels(
    folder: &Path,
    labels: &[String],
    options: LoadOptions,
) -> Result<Classifier, ConvertError> {
    classifier_with_head(folder, labels, HeadPlace::Texts, options)
}

/// The unit that a head scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadPlace {
    /// A whole text.
    Texts,
    /// A token.
    Tokens,
}

/// As [`classifier_with_labels`], with a head there.
pub(crate) fn classifier_with_head(
    folder: &Path,
    labels: &[String],
    place: HeadPlace,
    options: LoadOptions,
) -> Result<Classifier, ConvertError> {
    let (config, checkpoint) = open(folder)?;
    let model_type = config.text("model_type").unwrap_or("");
    let family = options.families.find(model_type);
    let class_and_heads = |family: &Family| {
        let classifies = family.classifies?;
        match place {
            HeadPlace::Texts => Some((classifies, classifies.class, classifies.head.to_vec())),
            HeadPlace::Tokens => {
                let tokens = classifies.tokens?;
                Some((classifies, tokens.class, vec![tokens.head]))
            }
        }
    };
    let Some((classifies, class, heads)) = family.and_then(class_and_heads) else {
        return Err(ConvertError::NoClassifier {
            model_type: model_type.to_owned(),
            known: options.families.named(|family| class_and_heads(family).is_some()),
        });
    };
    if classifies.has_head(&checkpoint)
        && matches!(options.families.of(&config), Ok((_, ModelSort::Classifier)))
    {
        let loaded = Classifier::load(folder, options)?;
        let own = loaded.labels();
        // A head on tokens scores each token, and becomes a head on texts below.
        if own == labels && loaded.has_token_head() == (place == HeadPlace::Tokens) {
            return Ok(loaded);
        }
        // A head with the right number of labels is kept below, under the new names, so the old
        // names must have no meaning (a single score, or transformers' default names `LABEL_0`,
        // ..).
        let nameless = own.len() == 1 || own.iter().all(|label| label.starts_with("LABEL_"));
        if own.len() == labels.len() && own != labels && !nameless {
            return Err(ConvertError::Labels { folder: folder.to_owned(), labels: own.to_vec() });
        }
    }
    let config = with_labels(config, class, labels);
    let places = places::<Classifier>(&config, &checkpoint, options);
    let mut model = Classifier::fresh(config, options)?;
    let parameters = model.parameters();
    let read = |name: &str| read_as(parameters, &checkpoint, &places, name);
    let fresh = fill(parameters, &heads, read, folder)?;
    model.set_made_anew(fresh);
    model.resize(options)?;
    Ok(model)
}

/// config.json as that of a classifier.
fn with_labels(mut config: Config, class: &str, labels: &[String]) -> Config {
    config.set("architectures", serde_json::json!([class]));
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
        // transformers reads the last token that is not padding, and must know the padding id.
        let eos = config.fields().get("eos_token_id").cloned().unwrap_or_default();
        let eos = eos.as_array().and_then(|ids| ids.first().cloned()).unwrap_or(eos);
        if !eos.is_null() {
            config.set("pad_token_id", eos);
        }
    }
    config
}

/// The trunk of a reward model as a policy, with its score layer as a value head: what a value
/// function starts from. The vocabulary head, which goes unused, is the embeddings. An adapter is added
/// into the weights.
///
/// # Errors
/// [`ConvertError::NoValueFunction`], [`ConvertError::NoHead`], [`ConvertError::HeadShape`],
/// [`ConvertError::Trunk`]; [`ConvertError::Model`] for a folder that cannot be read.
pub fn value_function(
    files: &ModelFiles,
    options: LoadOptions,
) -> Result<(LanguageModel, ValueHead), ConvertError> {
    let folder = &*files.folder;
    let (mut config, checkpoint) = open(folder)?;
    let merged = match files.adapter {
        Some(_) => {
            // Its rows are copied before new ones are added.
            let options = LoadOptions { vocabulary: None, ..options };
            Some(files.merged_classifier(options)?)
        }
        None => None,
    };
    let model_type = config.text("model_type").unwrap_or("").to_owned();
    let family = options.families.find(&model_type);
    let generates = family.and_then(|family| family.generates);
    let weight = family.and_then(|family| family.classifies?.linear_head);
    let (Some(generates), Some(weight)) = (generates, weight) else {
        let with = |family: &Family| {
            family.generates.is_some()
                && family.classifies.is_some_and(|classifies| classifies.linear_head.is_some())
        };
        let (folder, known) = (folder.to_owned(), options.families.named(with));
        return Err(ConvertError::NoValueFunction { folder, model_type, known });
    };
    let head = match &merged {
        Some(model) => model.parameters().get(weight).map(Tensor::detach),
        None => read_if_present(&checkpoint, weight)?,
    };
    let Some(layer) = head else {
        return Err(ConvertError::NoHead { folder: folder.to_owned(), weight });
    };
    if layer.dim() != 2 || layer.size()[0] != 1 {
        let (folder, shape) = (folder.to_owned(), layer.size());
        return Err(ConvertError::HeadShape { folder, weight, shape });
    }
    config.set("architectures", serde_json::json!([generates.class]));
    config.set("tie_word_embeddings", true.into());
    let places = places::<LanguageModel>(&config, &checkpoint, options);
    let mut trunk = LanguageModel::fresh(config, options)?;
    let parameters = trunk.parameters();
    let read = |name: &str| match &merged {
        Some(model) => Ok(model.parameters().get(name).map(Tensor::detach)),
        None => read_as(parameters, &checkpoint, &places, name),
    };
    fill(parameters, &[], read, folder)?;
    trunk.resize(options)?;
    let weight = layer.to_kind(Kind::Float).to_device(options.device);
    let bias = Tensor::zeros([1], (Kind::Float, options.device));
    Ok((trunk, ValueHead::from_tensors(&weight, &bias)))
}

/// A value head that was saved: `value_head.safetensors` of a run of PPO, or a folder in which TRL saved a model or an
/// adapter with its value head (`v_head.summary.weight` beside the weights, in safetensors or pytorch_model.bin).
///
/// `hidden_size` is the width that the head must have.
///
/// # Errors
/// [`ConvertError::NoValueHead`], [`ConvertError::HeadShape`]; [`ConvertError::Model`] for a file that cannot be
/// read.
pub fn saved_value_head(
    place: &Path,
    hidden_size: i64,
    device: Device,
) -> Result<ValueHead, ConvertError> {
    const WEIGHT: &str = "v_head.summary.weight";
    const BIAS: &str = "v_head.summary.bias";
    let checkpoint =
        if place.is_dir() { Checkpoint::open(place) } else { Checkpoint::open_file(place) };
    let checkpoint = checkpoint.map_err(ModelError::from)?;
    let read = |name, shape: &[i64]| -> Result<Tensor, ConvertError> {
        let Some(tensor) = read_if_present(&checkpoint, name)? else {
            return Err(ConvertError::NoValueHead { place: place.to_owned(), weight: name });
        };
        if tensor.size() != shape {
            let (folder, shape) = (place.to_owned(), tensor.size());
            return Err(ConvertError::HeadShape { folder, weight: name, shape });
        }
        Ok(tensor.to_kind(Kind::Float).to_device(device))
    };
    let (weight, bias) = (read(WEIGHT, &[1, hidden_size])?, read(BIAS, &[1])?);
    Ok(ValueHead::from_tensors(&weight, &bias))
}

/// The tensors that a checkpoint has in another place than under the names of this model.
fn places<M: Build>(config: &Config, checkpoint: &Checkpoint, options: LoadOptions) -> Places {
    let source = ModelTensors::headers(checkpoint);
    let places = source.places();
    // The head may be missing; `fill` reports what else is.
    drop(M::build(options.families, config.clone(), source));
    places
}

/// A tensor of a checkpoint in the layout of a model with these parameters.
fn read_as(
    parameters: &Parameters,
    checkpoint: &Checkpoint,
    places: &Places,
    name: &str,
) -> Result<Option<Tensor>, ModelError> {
    let tensor = places.read(checkpoint, name)?;
    let transposed = parameters.is_transposed(name);
    Ok(tensor.map(|tensor| if transposed && tensor.dim() == 2 { tensor.tr() } else { tensor }))
}

/// Copies the trunk's tensors, which `read` finds by name, into the model's parameters; those of `heads`
/// may be missing, and their names are returned.
fn fill(
    parameters: &Parameters,
    heads: &[&str],
    read: impl Fn(&str) -> Result<Option<Tensor>, ModelError>,
    folder: &Path,
) -> Result<Vec<String>, ConvertError> {
    let (mut missing, mut fresh) = (BTreeSet::new(), Vec::new());
    for (name, parameter) in parameters.iter() {
        let is_head = heads.iter().any(|head| name.starts_with(head));
        let Some(tensor) = read(name)? else {
            if is_head {
                fresh.push(name.to_owned());
            } else {
                missing.insert(name.to_owned());
            }
            continue;
        };
        if tensor.size() != parameter.size() {
            // A head for other labels.
            if is_head {
                fresh.push(name.to_owned());
            } else {
                missing.insert(format!("{name} of shape {:?}", parameter.size()));
            }
            continue;
        }
        tch::no_grad(|| parameter.shallow_clone().copy_(&tensor));
    }
    if missing.is_empty() {
        return Ok(fresh);
    }
    let missing = missing.into_iter().take(5).collect();
    Err(ConvertError::Trunk { folder: folder.to_owned(), missing })
}
