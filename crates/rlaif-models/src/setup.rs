//! The models of a run: a policy, its adapter, and its reference.

use std::{num::NonZeroU32, path::Path};

use rlaif_checkpoint::{AdapterConfig, Initialisation, TargetModules, TaskType, TrainedBiases};
use rlaif_lm::{Parameters, Policy, Reference};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Kind;

use crate::{
    classifier::Classifier,
    error::ModelError,
    files::{ADAPTER, ModelFiles},
    footprint::{MemoryPlan, ReferenceCopy, TrainedWeights},
    language_model::LanguageModel,
    load::LoadOptions,
    save::SaveOptions,
};

/// The computation of an adapted layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LoraVariant {
    /// The layer's output plus that of the factors.
    #[default]
    Lora,
    /// The same, and each output of the layer has a trained magnitude
    /// ([Liu et al. 2024](https://arxiv.org/abs/2402.09353)).
    Dora,
}

/// A LoRA adapter to train.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// The adapter's name in the model.
    pub name: String,
    /// Rank r of the adapter.
    pub rank: NonZeroU32,
    /// α; the adapter's output is scaled by α / r.
    pub alpha: f64,
    /// Dropout of the adapter's input.
    pub dropout: f64,
    /// The layers with the adapter.
    pub targets: TargetModules,
    /// LoRA or DoRA.
    pub variant: LoraVariant,
    /// The factors at the start of training.
    pub init: Initialisation,
    /// Biases that are trained with the factors.
    pub bias: TrainedBiases,
    /// Modules that are trained as a whole and saved with the adapter, such as `embed_tokens` and `lm_head`.
    pub modules_to_save: Vec<String>,
    /// The base model's hub id or folder, for the adapter's files.
    pub base: Option<String>,
}

impl Lora {
    /// An adapter with peft's defaults: α = 8, no dropout, on every linear layer except the head.
    pub fn new(name: impl Into<String>, rank: NonZeroU32) -> Self {
        let (name, targets) = (name.into(), TargetModules::AllLinear);
        Self {
            name,
            rank,
            alpha: 8.,
            dropout: 0.,
            targets,
            variant: LoraVariant::Lora,
            init: Initialisation::Zero,
            bias: TrainedBiases::Absent,
            modules_to_save: Vec::new(),
            base: None,
        }
    }

    fn config(&self, task: TaskType) -> AdapterConfig {
        let mut config = AdapterConfig::new(task, self.rank);
        config.lora_alpha = self.alpha;
        config.lora_dropout = self.dropout;
        config.target_modules = self.targets.clone();
        config.use_dora = self.variant == LoraVariant::Dora;
        config.init_lora_weights = self.init;
        config.bias = self.bias;
        config.modules_to_save.clone_from(&self.modules_to_save);
        config.base_model_name_or_path.clone_from(&self.base);
        if task == TaskType::SequenceClassification {
            // A fresh head must be trained; peft does the same.
            config.modules_to_save.extend(["classifier".to_owned(), "score".to_owned()]);
        }
        config
    }

    /// Adds the adapter to a language model, and trains only it.
    ///
    /// # Errors
    /// As [`crate::ModelAdapters::add`].
    pub fn add_to(&self, model: &mut LanguageModel) -> Result<(), ModelError> {
        let config = self.config(model.architecture().task());
        model.adapters().add(&self.name, config)
    }

    /// Adds the adapter to a classifier, and trains only it and the head.
    ///
    /// # Errors
    /// As [`crate::ModelAdapters::add`].
    pub fn add_to_classifier(&self, model: &mut Classifier) -> Result<(), ModelError> {
        let mut config = self.config(TaskType::SequenceClassification);
        // Random weights that are not saved would be others at the next load, such as BERT's pooler.
        let rules = config.rules()?;
        let modules = model.made_anew().iter().filter_map(|name| name.rsplit_once('.'));
        let mut modules: Vec<String> = modules.map(|(module, _)| module.to_owned()).collect();
        modules.dedup();
        config.modules_to_save.extend(modules.into_iter().filter(|module| !rules.saves(module)));
        model.adapters().add(&self.name, config)
    }
}

/// The policy of a run and its reference.
///
/// ```
/// use rlaif_lm::{Policy, Reference};
/// use rlaif_models::{Lora, LoadOptions, ModelError, PolicySetup};
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/flan");
/// let setup = PolicySetup::new(folder, LoadOptions::default());
/// let (policy, reference) = setup.load()?;
/// assert!(policy.parameters().count_trainable() > 0);
/// assert!(matches!(reference, Reference::Frozen(_)));
///
/// // With an adapter, the reference is the policy without it.
/// let lora = Lora::new("default", 4.try_into().unwrap());
/// let (policy, reference) = PolicySetup { lora: Some(lora), ..setup }.load()?;
/// assert!(policy.parameters().count_trainable() > 0);
/// assert!(matches!(reference, Reference::AdaptersOff));
/// # Ok::<(), ModelError>(())
/// ```
#[derive(Debug, Clone)]
pub struct PolicySetup {
    /// The policy. If it has an adapter, only the adapter is trained.
    pub files: ModelFiles,
    /// Options for loading the weights.
    pub options: LoadOptions,
    /// A fresh adapter to train, for files without one; `None` trains the weights, or the files'
    /// adapter.
    pub lora: Option<Lora>,
    /// A separate model as the reference.
    pub reference: Option<ModelFiles>,
}

impl PolicySetup {
    /// A policy with all weights trained, and a copy of it as the reference.
    pub fn new(files: impl Into<ModelFiles>, options: LoadOptions) -> Self {
        Self { files: files.into(), options, lora: None, reference: None }
    }

    /// Loads the policy, with its adapter if it has one. A fresh adapter is drawn from libtorch's
    /// generator. Without an adapter, all weights are trained.
    ///
    /// # Errors
    /// As [`LanguageModel::load`] and [`crate::ModelAdapters::add`].
    pub fn policy(&self) -> Result<LanguageModel, ModelError> {
        let mut policy = self.files.language_model(self.options)?;
        match (&self.lora, &self.files.adapter) {
            (Some(lora), _) => lora.add_to(&mut policy)?,
            (None, Some(_)) => policy.adapters().train(ADAPTER)?,
            (None, None) => {
                if let Some(layer) = policy.parameters().quantized().next() {
                    return Err(ModelError::QuantizedBase { what: "trained", layer: layer.into() });
                }
                policy.parameters().train_where(|_| true);
            }
        }
        Ok(policy)
    }

    /// Loads the reference. It is the policy itself without its adapter if that is fresh. For a policy
    /// whose existing adapter is trained further, the reference is its initial state, adapter
    /// included. The reference shares the memory of the policy's frozen layers: freeze them first.
    ///
    /// # Errors
    /// As [`LanguageModel::load`].
    pub fn reference_of(&self, policy: &Parameters) -> Result<Reference, ModelError> {
        Ok(match (&self.reference, &self.lora) {
            (Some(files), _) => Reference::frozen(files.language_model(self.options)?),
            (None, Some(_)) => Reference::AdaptersOff,
            (None, None) => {
                let copy = self.files.language_model(self.options)?;
                policy.share_frozen(copy.parameters());
                Reference::frozen(copy)
            }
        })
    }

    /// The least memory that the policy needs: one token at a time. The caller adds rows, batches and
    /// rewards.
    pub fn policy_memory(&self) -> MemoryPlan {
        let trained = match (&self.files.adapter, &self.lora) {
            (Some(adapter), _) => TrainedWeights::Adapter(adapter.clone()),
            (None, Some(lora)) => TrainedWeights::Lora(lora.rank.get() as usize),
            (None, None) => TrainedWeights::All,
        };
        // New rows of a vocabulary are too few to count.
        let LoadOptions { kind, device, quantization, families, vocabulary: _ } = self.options;
        let plan = MemoryPlan::new(&self.files.folder, kind.unwrap_or(Kind::Float), device);
        MemoryPlan { families, quantization, trained, ..plan }
    }

    /// The least memory that the policy and its reference need.
    pub fn memory(&self) -> MemoryPlan {
        let plan = self.policy_memory();
        match &self.reference {
            Some(files) => MemoryPlan { frozen: vec![files.folder.clone()], ..plan },
            None => MemoryPlan { reference: ReferenceCopy::Trained, ..plan },
        }
    }

    /// Saves what was trained: the adapter, or all weights with the other files of the model's
    /// folder.
    ///
    /// # Errors
    /// As [`LanguageModel::save`] and [`crate::ModelAdapters::save`].
    pub fn save(&self, policy: &mut LanguageModel, folder: &Path) -> Result<(), ModelError> {
        match (&self.lora, &self.files.adapter) {
            (Some(lora), _) => policy.adapters().save(&lora.name, folder),
            (None, Some(_)) => policy.adapters().save(ADAPTER, folder),
            (None, None) => {
                let source = Some(self.files.folder.as_path());
                policy.save(folder, &SaveOptions { source, ..SaveOptions::default() })
            }
        }
    }

    /// Loads both. To freeze some of the policy's weights, call [`Self::policy`] before and
    /// [`Self::reference_of`] after.
    ///
    /// # Errors
    /// As [`Self::policy`] and [`Self::reference_of`].
    pub fn load(&self) -> Result<(LanguageModel, Reference), ModelError> {
        let policy = self.policy()?;
        let reference = self.reference_of(policy.parameters())?;
        Ok((policy, reference))
    }
}
