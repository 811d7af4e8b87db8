//! `--model` and the related flags.

use clap::{Args, ValueEnum};
use rlaif_models::Quantization;
use rlaif_rewards::neural::ModelDtype;
use rlaif_run::command::{Loading, ModelChoice};
use rlaif_torch::DeviceChoice;

/// The model, and the options for loading it.
#[derive(Debug, Args)]
pub(crate) struct ModelArguments {
    /// Folder in Hugging Face's layout, or hub id such as google/flan-t5-small. A LoRA adapter
    /// stands for its base model with the adapter.
    #[arg(long, alias = "policy")]
    model: String,
    /// Branch, tag or commit of a hub id.
    #[arg(long)]
    revision: Option<String>,
    /// Folder or hub id of a LoRA adapter on the model.
    #[arg(long)]
    adapter: Option<String>,
    /// Base of the adapter named by --model; by default, the base named in its configuration.
    #[arg(long)]
    base: Option<String>,
    #[command(flatten)]
    placement: Placement,
}

impl ModelArguments {
    /// The model that the flags name.
    pub(crate) fn choice(&self) -> ModelChoice {
        ModelChoice {
            model: self.model.clone(),
            revision: self.revision.clone(),
            adapter: self.adapter.clone(),
            base: self.base.clone(),
            loading: self.placement.loading(),
        }
    }
}

/// A model that is asked and not trained.
#[derive(Debug, Args)]
pub(crate) struct AskedModel {
    #[command(flatten)]
    model: ModelArguments,
    /// Keeps the weights of linear layers, except for heads, in 4 or 8 bits.
    #[arg(long)]
    quantization: Option<Format>,
}

/// A format of frozen weights.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Nf4,
    Int8,
}

impl AskedModel {
    /// The model that the flags name.
    pub(crate) fn choice(&self) -> ModelChoice {
        let choice = self.model.choice();
        let quantization = self.quantization.map(|format| match format {
            Format::Nf4 => Quantization::Nf4,
            Format::Int8 => Quantization::Int8,
        });
        ModelChoice { loading: Loading { quantization, ..choice.loading }, ..choice }
    }
}

/// Device and dtype of a model.
#[derive(Debug, Args)]
pub(crate) struct Placement {
    /// cpu, cuda, cuda:N, or auto: CUDA if available.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Dtype of the weights; by default, that of the checkpoint.
    #[arg(long)]
    dtype: Option<Dtype>,
    /// Number of threads; by default, that of libtorch.
    #[arg(long)]
    threads: Option<usize>,
}

/// A dtype of weights.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Dtype {
    F32,
    Bf16,
    F16,
}

impl From<Dtype> for ModelDtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
            Dtype::F16 => Self::F16,
        }
    }
}

impl Placement {
    /// The options for loading.
    pub(crate) fn loading(&self) -> Loading {
        let dtype = self.dtype.map(ModelDtype::from);
        Loading { device: self.device, dtype, threads: self.threads, ..Loading::default() }
    }

    /// The model of this name, with these options.
    pub(crate) fn model(&self, name: &str) -> ModelChoice {
        ModelChoice { loading: self.loading(), ..ModelChoice::new(name) }
    }
}
