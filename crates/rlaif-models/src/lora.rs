//! LoRA adapters: several per model, selected by name per forward pass, in peft's file format.
//!
//! [Hu et al. 2021](https://arxiv.org/abs/2106.09685): `y = W x + s B A x` with A `[r, inputs]`,
//! B `[outputs, r]` and s = α/r, or α/√r with rank-stabilised scaling
//! ([Kalajdzievski 2023](https://arxiv.org/abs/2312.03732)).

use std::{collections::BTreeSet, path::Path};

use rlaif_checkpoint::{
    AdapterConfig, AdapterKey, AdapterRules, Checkpoint, FolderWriter, ModuleNames, TargetModules,
    TaskType,
};
use rlaif_lm::Parameters;
use rlaif_torch::TorchError;
use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};

use crate::{
    adapter::{Adapter, Form},
    error::{ModelError, TensorProblem},
    files::AdapterBase,
    frame::Parts,
    layers::Linear,
    save::{TensorList, of_adapter},
    weights::{read_checked, read_if_present},
};

/// Source of the tensors of a new adapter.
enum Origin<'a> {
    /// A drawn from libtorch's generator as in peft, B zero: at first, the adapter has no effect.
    Fresh,
    File(&'a Checkpoint),
}

/// The adapters of a model: add, switch, merge and save them.
///
/// [`rlaif_lm::Forward::adapters`] selects the adapter of a forward pass: the same weights serve as
/// the policy with the adapter and as the reference without.
pub struct ModelAdapters<'a> {
    parts: Parts<'a>,
}

impl<'a> ModelAdapters<'a> {
    pub(crate) fn new(parts: Parts<'a>) -> Self {
        Self { parts }
    }

    /// The names of the loaded adapters.
    pub fn names(&self) -> Vec<String> {
        self.parts.adapters.names()
    }

    /// The adapter that [`rlaif_lm::Adapters::Active`] selects.
    pub fn active(&self) -> Option<&str> {
        self.parts.adapters.active()
    }

    /// Makes `name` the active adapter.
    ///
    /// # Errors
    /// [`ModelError::UnknownAdapter`].
    pub fn activate(&mut self, name: &str) -> Result<(), ModelError> {
        let slot = self.parts.adapters.find(name)?;
        self.parts.adapters.activate(slot);
        Ok(())
    }

    /// Adds a fresh adapter without effect, and trains only it: all other parameters are frozen, as
    /// in peft. A is drawn from libtorch's generator: seed it before.
    ///
    /// # Errors
    /// [`ModelError::AdapterExists`]; [`ModelError::NoTarget`] if `target_modules` matches nothing,
    /// or a name in `modules_to_save` matches something other than linear layers.
    pub fn add(&mut self, name: &str, config: AdapterConfig) -> Result<(), ModelError> {
        self.attach(name, config, &Origin::Fresh)?;
        self.train(name)
    }

    /// Loads an adapter from a folder in peft's layout. It is frozen; [`Self::train`] changes that.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] if the files cannot be read or need an unsupported feature,
    /// [`ModelError::Tensors`] with all missing, unexpected and mis-shaped tensors, and as
    /// [`Self::add`].
    pub fn load(&mut self, name: &str, folder: &Path) -> Result<(), ModelError> {
        let config = AdapterConfig::read(folder)?;
        let weights = Checkpoint::open_adapter(folder)?;
        self.attach(name, config, &Origin::File(&weights))
    }

    /// Trains only this adapter, and freezes all other parameters.
    ///
    /// # Errors
    /// [`ModelError::UnknownAdapter`].
    pub fn train(&mut self, name: &str) -> Result<(), ModelError> {
        self.parts.adapters.find(name)?;
        let parts = [
            format!(".lora_A.{name}."),
            format!(".lora_B.{name}."),
            format!(".modules_to_save.{name}."),
        ];
        self.parts.parameters.train_where(|path| parts.iter().any(|part| path.contains(part)));
        Ok(())
    }

    /// Adds the adapter to the weights, so that a forward pass costs no more than without. The
    /// original weights are kept for [`Self::unmerge`].
    ///
    /// # Errors
    /// [`ModelError::UnknownAdapter`], [`ModelError::Merge`] if another adapter is merged.
    pub fn merge(&mut self, name: &str) -> Result<(), ModelError> {
        let slot = self.parts.adapters.find(name)?;
        if self.parts.adapters.merged().is_some() {
            return Err(ModelError::Merge {
                name: name.to_owned(),
                what: "merged",
                why: "an adapter is merged already; unmerge it first".to_owned(),
            });
        }
        tch::no_grad(|| {
            for layer in self.parts.linears.iter_mut().chain(&mut self.parts.head) {
                merge_layer(layer, slot);
            }
        });
        self.parts.adapters.set_merged(Some(slot));
        Ok(())
    }

    /// Restores the weights, bit by bit, to their state before [`Self::merge`].
    ///
    /// # Errors
    /// [`ModelError::Merge`] if no adapter is merged.
    pub fn unmerge(&mut self) -> Result<(), ModelError> {
        let Some(slot) = self.parts.adapters.merged() else {
            return Err(ModelError::Merge {
                name: self.active().unwrap_or("").to_owned(),
                what: "unmerged",
                why: "none is merged".to_owned(),
            });
        };
        tch::no_grad(|| {
            for layer in self.parts.linears.iter_mut().chain(&mut self.parts.head) {
                let over = layer.adapters.get_mut(&slot).and_then(|a| a.merged_over.take());
                if let Some((weight, bias)) = over {
                    layer.weight.copy_(&weight);
                    if let (Some(to), Some(from)) = (&mut layer.bias, bias) {
                        to.copy_(&from);
                    }
                }
            }
        });
        self.parts.adapters.set_merged(None);
        Ok(())
    }

    /// Removes an adapter from the model. A merged adapter stays in the weights permanently.
    ///
    /// # Errors
    /// [`ModelError::UnknownAdapter`].
    pub fn remove(&mut self, name: &str) -> Result<(), ModelError> {
        let slot = self.parts.adapters.find(name)?;
        let Parts { linears, head, parameters, adapters } = &mut self.parts;
        for layer in linears.iter_mut().chain(head) {
            if let Some(adapter) = layer.adapters.remove(&slot) {
                for (key, _, _) in adapter.tensors(name, &layer.path) {
                    parameters.remove(&key);
                }
            }
        }
        if adapters.merged() == Some(slot) {
            adapters.set_merged(None);
        }
        adapters.remove(slot);
        Ok(())
    }

    /// Writes an adapter as a folder that peft loads: `adapter_config.json` and
    /// `adapter_model.safetensors`.
    ///
    /// # Errors
    /// [`ModelError::UnknownAdapter`], [`ModelError::Checkpoint`] if it cannot be written; no
    /// partial folder is left behind.
    pub fn save(&self, name: &str, folder: &Path) -> Result<(), ModelError> {
        self.write(name, folder, None, None, None)
    }

    /// As [`Self::save`], with the base that its configuration is to name, and a config.json and the
    /// tokenizer of a folder beside it.
    pub(crate) fn write(
        &self,
        name: &str,
        folder: &Path,
        base: Option<&AdapterBase>,
        config: Option<&Map<String, Value>>,
        tokenizer: Option<&Path>,
    ) -> Result<(), ModelError> {
        let slot = self.parts.adapters.find(name)?;
        let mut tensors = TensorList::default();
        for layer in self.parts.linears.iter().chain(&self.parts.head) {
            let Some(adapter) = layer.adapters.get(&slot) else { continue };
            for (_, key, tensor) in adapter.tensors(name, &layer.path) {
                let stored = stored_transposed(layer, &key).then(|| tensor.tr());
                tensors.push(key.to_string(), stored.as_ref().unwrap_or(tensor))?;
            }
        }
        let mut writer = FolderWriter::create(folder)?;
        let mut own = self.parts.adapters.config(slot).clone();
        if let Some(AdapterBase { model, revision }) = base {
            own.base_model_name_or_path = Some(model.clone());
            own.revision.clone_from(revision);
        }
        writer.adapter(&own, &tensors)?;
        if let Some(config) = config {
            writer.json("config.json", config)?;
        }
        if let Some(tokenizer) = tokenizer {
            writer.copy_tokenizer(tokenizer)?;
        }
        Ok(writer.finish()?)
    }

    fn attach(
        &mut self,
        name: &str,
        mut config: AdapterConfig,
        origin: &Origin<'_>,
    ) -> Result<(), ModelError> {
        let slot = self.parts.adapters.vacant(name)?;
        let rules = config.rules()?;
        let all_linear = config.target_modules == TargetModules::AllLinear;
        let mut maker = Maker {
            rules: &rules,
            dropout: config.lora_dropout,
            origin,
            used: BTreeSet::new(),
            problems: vec![],
            others: vec![],
            without_head: false,
        };
        let trunk = self.parts.linears.len();
        let Parts { linears, head, parameters, adapters } = &mut self.parts;
        let mut made = Vec::new();
        for (i, layer) in linears.iter().chain(head.iter()).enumerate() {
            if rules.saves(&layer.path) {
                made.push((i, maker.replacement(layer)));
            } else if rules.targets(&layer.path) && !(all_linear && i >= trunk) {
                made.push((i, maker.lora(layer)?));
            }
        }
        maker.check_others(parameters)?;
        let layers: Vec<&str> =
            linears.iter().chain(head.iter()).map(|layer| layer.path.as_str()).collect();
        let no_target = |field, targets| {
            let ends: BTreeSet<&str> =
                layers.iter().map(|path| path.rsplit('.').next().unwrap_or("")).collect();
            let layers = ends.into_iter().map(str::to_owned).collect();
            Err(ModelError::NoTarget { field, targets, layers })
        };
        if !made.iter().any(|(_, adapter)| matches!(adapter.form, Form::Lora { .. })) {
            return no_target("target_modules", described(&config.target_modules));
        }
        let unsaved = unsaved(&config, &rules, &layers, parameters);
        match (origin, unsaved.as_slice()) {
            (Origin::Fresh, [first, ..]) => {
                return no_target("modules_to_save", format!("`{first}`"));
            }
            _ => maker.not_saved(unsaved),
        }
        if maker.without_head {
            config.modules_to_save.retain(|module| !HEADS.contains(&module.as_str()));
            config.task_type = None;
        }
        maker.finish()?;
        for (i, adapter) in made {
            let layer = if i < trunk { &mut *linears[i] } else { &mut *head[i - trunk] };
            for (key, _, tensor) in adapter.tensors(name, &layer.path) {
                parameters.insert(key, tensor.shallow_clone());
            }
            layer.adapters.insert(slot, adapter);
        }
        adapters.push(name, config);
        Ok(())
    }
}

/// The modules that `modules_to_save` names and that contain no linear layer, under that name or,
/// if the model has them, under their own.
fn unsaved(
    config: &AdapterConfig,
    rules: &AdapterRules,
    layers: &[&str],
    parameters: &Parameters,
) -> Vec<String> {
    let module =
        |parameter: &'_ str| parameter.rsplit_once('.').map(|(module, _)| module.to_owned());
    let of_model = parameters.iter().filter(|(name, _)| !of_adapter(name));
    let others: BTreeSet<String> = of_model
        .filter_map(|(name, _)| module(name))
        .filter(|module| rules.saves(module) && !layers.contains(&module.as_str()))
        .collect();
    let mut all: Vec<&str> = layers.to_vec();
    all.extend(others.iter().map(String::as_str));
    // peft lists both names of heads for every adapter of a classifier; a model has only one of
    // them.
    let head = |name: &str| HEADS.contains(&name);
    let of_classifier = config.task_type == Some(TaskType::SequenceClassification);
    let unknown = rules.unsaved(&all).filter(|name| !(of_classifier && head(name)));
    let unknown: Vec<String> = unknown.map(str::to_owned).collect();
    others.into_iter().chain(unknown).collect()
}

fn described(targets: &TargetModules) -> String {
    match targets {
        TargetModules::AllLinear => "all-linear".to_owned(),
        TargetModules::Named(ModuleNames::Pattern(pattern)) => format!("`{pattern}`"),
        TargetModules::Named(ModuleNames::Suffixes(names)) => format!("{names:?}"),
    }
}

fn merge_layer(layer: &mut Linear, slot: usize) {
    let Some(adapter) = layer.adapters.get_mut(&slot) else { return };
    adapter.merged_over = Some((layer.weight.copy(), layer.bias.as_ref().map(Tensor::copy)));
    match &adapter.form {
        Form::Lora { a, b, scale, .. } => {
            let delta = b.to_kind(Kind::Float).matmul(&a.to_kind(Kind::Float)) * *scale;
            let sum = layer.weight.to_kind(Kind::Float) + delta;
            layer.weight.copy_(&sum);
        }
        Form::Replacement { weight, bias } => {
            layer.weight.copy_(weight);
            if let (Some(to), Some(from)) = (&mut layer.bias, bias) {
                to.copy_(from);
            }
        }
    }
}

/// Names of the heads of classifiers.
const HEADS: [&str; 2] = ["classifier", "score"];

/// `true` for a tensor of a classifier's head that the model does not have.
fn of_classifier(parameter: &str, parameters: &Parameters) -> bool {
    let first = parameter.split('.').next().unwrap_or(parameter);
    let beginning = format!("{first}.");
    HEADS.contains(&first) && !parameters.iter().any(|(name, _)| name.starts_with(&beginning))
}

/// The name of a tensor without the names of peft's wrappers.
fn unwrapped(name: &str) -> String {
    let wrapper = |part: &&str| !["base_layer", "original_module"].contains(part);
    name.split('.').filter(wrapper).collect::<Vec<_>>().join(".")
}

/// `true` for a tensor of an adapter's file that is a copy of the base's parameter with this name.
fn is_copy(
    file: &Checkpoint,
    name: &str,
    parameter: &str,
    parameters: &Parameters,
) -> Result<bool, ModelError> {
    let tied = parameters.tied().find(|(alias, _)| *alias == parameter).map(|(_, name)| name);
    let Some(own) = parameters.get(tied.unwrap_or(parameter)) else { return Ok(false) };
    let Some(copy) = read_if_present(file, name)? else { return Ok(false) };
    let copy = copy.to_device(own.device()).to_kind(own.kind());
    let copy = match parameters.is_transposed(parameter) {
        true if copy.dim() == 2 => copy.tr(),
        _ => copy,
    };
    Ok(copy.size() == own.size() && own.equal(&copy))
}

/// `true` for the matrix of a layer that is kept as a whole, where the base's checkpoint stores that
/// matrix as `[inputs, outputs]`: peft stores the copy alike.
fn stored_transposed(layer: &Linear, key: &AdapterKey) -> bool {
    let matrix = |parameter: &str| parameter.ends_with(".weight");
    layer.transposed && matches!(key, AdapterKey::Saved { parameter } if matrix(parameter))
}

/// Creates the tensors of one adapter, and collects the faults of its file.
struct Maker<'a> {
    rules: &'a AdapterRules,
    dropout: f64,
    origin: &'a Origin<'a>,
    used: BTreeSet<String>,
    problems: Vec<TensorProblem>,
    /// Tensors of the file that are neither factors nor replacements of linear layers.
    others: Vec<String>,
    /// `true` if the file has the head of a classifier, and the model has none.
    without_head: bool,
}

impl Maker<'_> {
    fn lora(&mut self, layer: &Linear) -> Result<Adapter, TorchError> {
        let size = layer.weight.size();
        let rank = i64::from(self.rules.rank(&layer.path));
        let scale = self.rules.scaling(&layer.path);
        let device = layer.weight.device();
        let (shape_a, shape_b) = ([rank, size[1]], [size[0], rank]);
        let (a, b) = match self.origin {
            Origin::Fresh => {
                // Equivalent to peft's kaiming_uniform_(a = sqrt(5)).
                let bound = 1. / (size[1] as f64).sqrt();
                let options = (Kind::Float, device);
                // The rank is user input: a faulty one is an error, not a panic.
                (
                    Tensor::f_zeros(shape_a, options)?.uniform_(-bound, bound),
                    Tensor::f_zeros(shape_b, options)?,
                )
            }
            Origin::File(_) => (
                self.read(&AdapterKey::LoraA { module: layer.path.clone() }, &shape_a, device),
                self.read(&AdapterKey::LoraB { module: layer.path.clone() }, &shape_b, device),
            ),
        };
        let form = Form::Lora { a, b, scale, dropout: self.dropout };
        Ok(Adapter { form, merged_over: None })
    }

    fn replacement(&mut self, layer: &Linear) -> Adapter {
        let (weight, bias) = match self.origin {
            Origin::Fresh => {
                let copy = |tensor: &Tensor| tensor.detach().copy();
                (copy(&layer.weight), layer.bias.as_ref().map(copy))
            }
            Origin::File(_) => {
                let device = layer.weight.device();
                let kind = layer.weight.kind();
                let mut read = |key, like: &Tensor| {
                    let key = AdapterKey::Saved { parameter: format!("{}.{key}", layer.path) };
                    let problems = self.problems.len();
                    let transposed = stored_transposed(layer, &key);
                    let mut shape = like.size();
                    if transposed {
                        shape.reverse();
                    }
                    let tensor = self.read(&key, &shape, device);
                    let tensor = if transposed && tensor.dim() == 2 {
                        tensor.tr().contiguous()
                    } else {
                        tensor
                    };
                    // A head of another size, from a resized vocabulary.
                    if let Some(TensorProblem::Shape { name, found, .. }) =
                        self.problems.get(problems)
                    {
                        self.others.push(format!("{name} {found:?}"));
                    }
                    tensor.to_kind(kind)
                };
                let weight = read("weight", &layer.weight);
                (weight, layer.bias.as_ref().map(|bias| read("bias", bias)))
            }
        };
        Adapter { form: Form::Replacement { weight, bias }, merged_over: None }
    }

    /// Records the modules whose weights the file lacks; those it has are recorded as unexpected.
    fn not_saved(&mut self, modules: Vec<String>) {
        let Origin::File(file) = self.origin else { return };
        for module in modules {
            let prefix = AdapterKey::Saved { parameter: format!("{module}.") }.to_string();
            if !file.tensors().keys().any(|name| name.starts_with(&prefix)) {
                self.problems.push(TensorProblem::NotSaved { module });
            }
        }
    }

    /// Refuses tensors of the file that this model has no place for, except copies of its weights.
    fn check_others(&mut self, parameters: &Parameters) -> Result<(), ModelError> {
        let Origin::File(file) = self.origin else { return Ok(()) };
        for name in file.tensors().keys() {
            if self.used.contains(name) {
                continue;
            }
            let of_tied_head = |module: &str| {
                parameters.tied().any(|(alias, _)| alias.strip_suffix(".weight") == Some(module))
            };
            let other = match AdapterKey::parse(name) {
                Some(AdapterKey::LoraA { module } | AdapterKey::LoraB { module }) => {
                    of_tied_head(&module)
                }
                // The head of a classifier's adapter, on a model without one.
                Some(AdapterKey::Saved { parameter }) if of_classifier(&parameter, parameters) => {
                    self.without_head = true;
                    false
                }
                Some(AdapterKey::Saved { parameter }) => {
                    !is_copy(file, name, &parameter, parameters)?
                }
                // peft's wrappers of a layer, which contain the layer itself as well.
                None => match AdapterKey::parse(&unwrapped(name)) {
                    Some(AdapterKey::Saved { parameter }) if unwrapped(name) != *name => {
                        !is_copy(file, name, &parameter, parameters)?
                    }
                    _ => true,
                },
            };
            if other {
                self.others.push(name.clone());
            } else if !matches!(
                AdapterKey::parse(name),
                Some(AdapterKey::LoraA { .. } | AdapterKey::LoraB { .. })
            ) {
                self.used.insert(name.clone());
            }
        }
        if self.others.is_empty() {
            return Ok(());
        }
        let others = std::mem::take(&mut self.others);
        Err(ModelError::AdapterParts { file: file.origin().to_owned(), others })
    }

    /// A tensor of the file in f32; or an empty tensor, with the problem recorded.
    fn read(&mut self, key: &AdapterKey, shape: &[i64], device: Device) -> Tensor {
        let Origin::File(file) = self.origin else { unreachable!("a fresh adapter has no file") };
        let name = key.to_string();
        let tensor = read_checked(file, &name, shape);
        self.used.insert(name);
        match tensor {
            Ok(tensor) => tensor.to_device(device).to_kind(Kind::Float),
            Err(problem) => {
                self.problems.push(problem);
                Tensor::zeros([0], (Kind::Float, Device::Cpu))
            }
        }
    }

    fn finish(mut self) -> Result<(), ModelError> {
        let Origin::File(file) = self.origin else { return Ok(()) };
        for (name, info) in file.tensors() {
            if !self.used.contains(name) {
                let (name, shape) = (name.clone(), info.shape.clone());
                self.problems.push(TensorProblem::Unexpected { name, shape });
            }
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        Err(ModelError::Tensors { file: file.origin().to_owned(), problems: self.problems })
    }
}
