//! Errors of reading, building, adapting and writing models.

use std::path::{Path, PathBuf};

use rlaif_checkpoint::CheckpointError;
use rlaif_core::Fault;
use rlaif_torch::TorchError;

/// Errors of reading, building, adapting and writing models.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// config.json names an unsupported architecture.
    #[error(
        "{}: unknown architecture `{found}` (field `{field}`); known: {known}",
        .file.display()
    )]
    UnknownArchitecture {
        /// The configuration file.
        file: PathBuf,
        /// `model_type` or `architectures`.
        field: &'static str,
        /// The value of the field.
        found: String,
        /// The supported classes and model types; of an unknown model type also the known one with the most
        /// similar config.json, and the differences.
        known: String,
    },
    /// The folder holds another sort of model than requested.
    #[error("{}: `{architecture}` is not {wanted}", .file.display())]
    WrongSort {
        /// The configuration file.
        file: PathBuf,
        /// The architecture found.
        architecture: String,
        /// The requested sort.
        wanted: &'static str,
    },
    /// A field of config.json has an unsupported value.
    #[error(
        "{}: `{field}` is `{found}`, which is not supported; supported: {supported}",
        config_file(.file.as_deref())
    )]
    UnsupportedField {
        /// The configuration file, if it is known.
        file: Option<PathBuf>,
        /// The field.
        field: &'static str,
        /// The value.
        found: String,
        /// The supported values.
        supported: &'static str,
    },
    /// Fields of config.json are invalid or contradict each other.
    #[error("{}: `{field}` is {found}, expected {expected}", config_file(.file.as_deref()))]
    BadField {
        /// The configuration file, if it is known.
        file: Option<PathBuf>,
        /// The field.
        field: &'static str,
        /// The value.
        found: String,
        /// The expected value.
        expected: String,
    },
    /// Tensors are missing, unexpected or mis-shaped; the error lists all of them.
    #[error("{}{}:{}", .file.display(), heading(.problems), bullets(.problems))]
    Tensors {
        /// The weights.
        file: PathBuf,
        /// Every tensor that does not fit.
        problems: Vec<TensorProblem>,
    },
    /// The weights have several dtypes, and none was requested.
    #[error(
        "{}: weights of several dtypes ({}); choose one (`--dtype`, or `LoadOptions::kind`)",
        .file.display(), .kinds.join(", ")
    )]
    MixedKinds {
        /// The weights.
        file: PathBuf,
        /// The dtypes found.
        kinds: Vec<String>,
    },
    /// A weight has an unsupported dtype.
    #[error(
        "{}: tensor `{tensor}` has the dtype {dtype}; expected f32, bf16, f16 or f64",
        .file.display()
    )]
    Dtype {
        /// The weights.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The tensor's dtype.
        dtype: String,
    },
    /// The weights are quantized.
    #[error(
        "{}: the weights are quantized by {method}, but rlaif reads weights in f32, bf16, f16, and \
         bitsandbytes' nf4 and int8; \
         name the original model, or convert the weights to bf16 in Python",
        .file.display()
    )]
    Quantized {
        /// The configuration file.
        file: PathBuf,
        /// The method, as the file names it.
        method: String,
    },
    /// A GGUF file has a setting that is not supported, or lacks one.
    #[error("{}: {field} should be {expected}, found {found}", .file.display())]
    Gguf {
        /// The file.
        file: PathBuf,
        /// The key or tensor.
        field: String,
        /// The supported values.
        expected: String,
        /// The value.
        found: String,
    },
    /// Weights in 4 or 8 bits are frozen.
    #[error(
        "the weights of {layer} and others are in 4 or 8 bits, and cannot be {what}; {}",
        if *.what == "trained" {
            "train an adapter on them (`[model.lora]`, or `PolicySetup::lora`)"
        } else {
            "save the adapter, or merge it, which dequantizes the weights"
        }
    )]
    QuantizedBase {
        /// `trained` or `saved`.
        what: &'static str,
        /// One of the layers.
        layer: String,
    },
    /// An adapter names layers that the model does not have.
    #[error(
        "{field} {targets} matches no linear layer or embedding of this model; the names of its layers \
         end in: {}",
        .layers.join(", ")
    )]
    NoTarget {
        /// `target_modules` or `modules_to_save`.
        field: &'static str,
        /// The requested names.
        targets: String,
        /// Last parts of the names of the model's layers.
        layers: Vec<String>,
    },
    /// PiSSA and OLoRA begin with a part of a linear layer's own weight.
    #[error(
        "`{layer}` of {size:?}{}: factors of rank {rank} with the scale {scale} cannot begin as {init}, which \
         needs a linear layer with at least {rank} rows and columns, and a positive scale; take the layer out of \
         `target_modules`, or choose another rank or initialisation",
        if *.table { ", an embedding" } else { "" }
    )]
    AdapterStart {
        /// `pissa` or `olora`.
        init: &'static str,
        /// The layer.
        layer: String,
        /// `true` for a table of embeddings.
        table: bool,
        /// The size of its weight.
        size: Vec<i64>,
        /// The rank of the factors.
        rank: i64,
        /// The factor of their product.
        scale: f64,
    },
    /// An adapter's file has tensors other than factors of the model's layers, replacements of them, and
    /// another vocabulary: for example norms that were trained, or embeddings of different numbers of rows.
    #[error(
        "{} has weights that do not fit this base: {}; merge the adapter with peft \
         (`merge_and_unload`), and name the merged model",
        .file.display(), few(.others)
    )]
    AdapterParts {
        /// The adapter's weights.
        file: PathBuf,
        /// The tensors.
        others: Vec<String>,
    },
    /// config.json or generation_config.json has a field of the wrong type, or lacks one.
    #[error("{}{}: {source}", .file.display(), place(.field))]
    Config {
        /// The configuration file.
        file: PathBuf,
        /// The path of the field, `.` for the whole document.
        field: String,
        /// The parser's error.
        #[source]
        source: serde_json::Error,
    },
    /// An adapter with this name is already loaded.
    #[error("an adapter named `{name}` is loaded already; remove it first or choose another name")]
    AdapterExists {
        /// The name.
        name: String,
    },
    /// No adapter has this name.
    #[error("no adapter named `{name}` is loaded; loaded: {}", .loaded.join(", "))]
    UnknownAdapter {
        /// The requested name.
        name: String,
        /// The existing names.
        loaded: Vec<String>,
    },
    /// An adapter is merged twice, or unmerged without being merged.
    #[error("adapter `{name}` cannot be {what}: {why}")]
    Merge {
        /// The adapter.
        name: String,
        /// Merged or unmerged.
        what: &'static str,
        /// The reason.
        why: String,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// libtorch failed.
    #[error(transparent)]
    Torch(#[from] TorchError),
}

/// A tensor of a checkpoint that does not fit the model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorProblem {
    /// The model needs the tensor, the checkpoint lacks it.
    #[error("missing `{name}` {shape:?}")]
    Missing {
        /// Name of the tensor.
        name: String,
        /// The shape it should have.
        shape: Vec<i64>,
    },
    /// The weights of a module that an adapter's `modules_to_save` names are missing.
    #[error("missing the weights of `{module}`, which modules_to_save names")]
    NotSaved {
        /// The module's name in the configuration.
        module: String,
    },
    /// The checkpoint has the tensor, but the model has no place for it.
    #[error("unexpected `{name}` {shape:?}")]
    Unexpected {
        /// Name of the tensor.
        name: String,
        /// The shape it has.
        shape: Vec<usize>,
    },
    /// The tensor's shape differs from the one that config.json implies.
    #[error("`{name}` is {found:?}, config.json implies {expected:?}")]
    Shape {
        /// Name of the tensor.
        name: String,
        /// The shape config.json implies.
        expected: Vec<i64>,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// config.json ties two names to one tensor, but the checkpoint has two different tensors.
    #[error(
        "`{alias}` differs from `{name}`, to which config.json ties it; set `tie_word_embeddings` \
         to false if it is a separate tensor"
    )]
    NotTied {
        /// The name that should be an alias.
        alias: String,
        /// The tensor it should be.
        name: String,
    },
    /// The checkpoint has the weights twice: in a tensor of their own, and in a tensor of several layers.
    #[error("`{name}` is also in `{other}`; remove one of the two forms from the files")]
    TwoForms {
        /// Name of the tensor of one layer.
        name: String,
        /// Name of the tensor of several layers.
        other: String,
    },
    /// The tensor has NaN or infinity.
    #[error("`{name}` in {file}: {count} of {size} numbers are NaN or infinite")]
    NotFinite {
        /// Name of the tensor.
        name: String,
        /// Name of its file.
        file: String,
        /// Number of such elements.
        count: usize,
        /// The numbers of the tensor.
        size: usize,
    },
    /// A part of a matrix that bitsandbytes quantized does not fit the others.
    #[error("`{name}` should be {expected}, found {found}")]
    Quantized {
        /// Name of the tensor.
        name: String,
        /// The expected dtype and length, or value.
        expected: String,
        /// The content of the file.
        found: String,
    },
    /// The tensor could not be read.
    #[error("`{name}`: {source}")]
    Unreadable {
        /// Name of the tensor.
        name: String,
        /// The error.
        #[source]
        source: Box<ModelError>,
    },
}

/// The name of a configuration file in messages.
fn config_file(file: Option<&Path>) -> String {
    file.map_or_else(|| "config.json".to_owned(), |file| file.display().to_string())
}

impl ModelError {
    /// The same error of a configuration with the path of its file.
    pub(crate) fn in_file(mut self, path: &Path) -> Self {
        if let Self::BadField { file, .. } | Self::UnsupportedField { file, .. } = &mut self {
            file.get_or_insert_with(|| path.to_owned());
        }
        self
    }
}

impl Fault for ModelError {
    fn is_users(&self) -> bool {
        match self {
            Self::UnknownArchitecture { .. }
            | Self::WrongSort { .. }
            | Self::UnsupportedField { .. }
            | Self::BadField { .. }
            | Self::MixedKinds { .. }
            | Self::Dtype { .. }
            | Self::Quantized { .. }
            | Self::NoTarget { .. }
            | Self::AdapterParts { .. }
            | Self::AdapterStart { .. }
            | Self::Gguf { .. }
            | Self::QuantizedBase { .. }
            | Self::Config { .. }
            | Self::AdapterExists { .. }
            | Self::UnknownAdapter { .. }
            | Self::Merge { .. } => true,
            Self::Tensors { problems, .. } => problems.iter().all(Fault::is_users),
            Self::Checkpoint(error) => error.is_users(),
            Self::Torch(error) => error.is_users(),
        }
    }
}

impl Fault for TensorProblem {
    fn is_users(&self) -> bool {
        match self {
            Self::Missing { .. }
            | Self::Quantized { .. }
            | Self::NotSaved { .. }
            | Self::Unexpected { .. }
            | Self::Shape { .. }
            | Self::NotFinite { .. }
            | Self::NotTied { .. }
            | Self::TwoForms { .. } => true,
            Self::Unreadable { source, .. } => source.is_users(),
        }
    }
}

/// The field in a sentence; nothing for the whole document.
fn place(field: &str) -> String {
    if field == "." { String::new() } else { format!(", field `{field}`") }
}

/// The first names.
fn few(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(SHOWN);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{more}", shown.join(", "))
}

/// The end of a sentence about the file, before the list.
fn heading(problems: &[TensorProblem]) -> &'static str {
    let of_values = |problem: &TensorProblem| matches!(problem, TensorProblem::NotFinite { .. });
    if problems.iter().all(of_values) {
        " has weights that no model can compute with; the training that wrote it diverged, or the file is \
         damaged, so take an earlier checkpoint or another copy"
    } else {
        " does not fit its config.json"
    }
}

fn bullets(problems: &[TensorProblem]) -> String {
    const SHOWN: usize = 20;
    let mut text: String = problems.iter().take(SHOWN).map(|p| format!("\n  {p}")).collect();
    if problems.len() > SHOWN {
        text.push_str(&format!("\n  and {} more", problems.len() - SHOWN));
    }
    text
}
