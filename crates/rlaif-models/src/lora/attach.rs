//! A new adapter: its layers by the configuration, its tensors fresh or from a file.

use std::collections::BTreeSet;

use rlaif_checkpoint::{
    AdapterConfig, AdapterKey, AdapterRules, Checkpoint, Initialisation, ModuleNames,
    TargetModules, TaskType, TrainedBiases,
};
use rlaif_lm::{Parameters, is_adapter};
use rlaif_torch::TorchError;
use tch::{Device, Kind, Tensor};

use super::file::{HEADS, Vocabulary, is_copy, of_classifier, prefixed, unwrapped};
use crate::{
    adapter::{Adapter, Factors, Form, LayerSort, Low},
    error::{ModelError, TensorProblem},
    frame::Parts,
    layers::Linear,
    weights::{read_checked, read_if_present},
};

/// Source of the tensors of a new adapter.
pub(super) enum Origin<'a> {
    /// Drawn from libtorch's generator as in peft: A or B is zero, so the adapter has no effect at first.
    Fresh,
    File(&'a Checkpoint),
}

/// Puts an adapter on the layers that its configuration names, and returns the names of the tensors in its
/// file that have no effect.
pub(super) fn attach(
    parts: &mut Parts<'_>,
    name: &str,
    mut config: AdapterConfig,
    origin: &Origin<'_>,
) -> Result<Vec<String>, ModelError> {
    let slot = parts.adapters.vacant(name)?;
    let rules = config.rules()?;
    let settings = config.clone();
    let all_linear = config.target_modules == TargetModules::AllLinear;
    let tying = config.ensure_weight_tying;
    let vocabulary = match origin {
        Origin::Fresh => Vocabulary::of_base(parts),
        Origin::File(file) => Vocabulary::of_file(parts, file, &rules, tying)?,
    };
    let mut maker = Maker {
        rules: &rules,
        config: &settings,
        origin,
        used: vocabulary.keys.clone(),
        problems: vec![],
        others: vec![],
        without_effect: vec![],
        without_head: false,
    };
    let mut made: Vec<(usize, Adapter)> = Vec::new();
    for (number, layer) in parts.layers().enumerate() {
        let size = vocabulary.size_of(layer, parts);
        let is_tied = |other: &Linear| tying && other.parameter() == layer.parameter();
        // The factors that this layer shares with one before it.
        let source = made.iter().find(|(other, _)| parts.layers().nth(*other).is_some_and(is_tied));
        let named = |layer: &Linear| rules.targets(&layer.path);
        let with_tied = match origin {
            Origin::Fresh => parts.layers().any(|other| is_tied(other) && named(other)),
            Origin::File(file) => tying && has_factors(file, layer),
        };
        if let Some((_, source)) = source
            && maker.shares(layer, source)?
        {
            made.push((number, source.shared_with(layer.sort)));
        } else if rules.saves(&layer.path) {
            made.push((number, maker.replacement(layer, &size)));
        } else if (!all_linear || parts.is_of_trunk(number)) && (named(layer) || with_tied) {
            made.push((number, maker.lora(layer, &size)?));
        }
    }
    maker.check_others(parts.parameters)?;
    let layers: Vec<&str> = parts.layers().map(|layer| layer.path.as_str()).collect();
    let no_target = |field, targets| {
        let ends: BTreeSet<&str> =
            layers.iter().map(|path| path.rsplit('.').next().unwrap_or("")).collect();
        let layers = ends.into_iter().map(str::to_owned).collect();
        Err(ModelError::NoTarget { field, targets, layers })
    };
    if !made.iter().any(|(_, adapter)| matches!(adapter.form, Form::Lora(_))) {
        return no_target("target_modules", described(&config.target_modules));
    }
    let (others, unknown) = unsaved(&config, &rules, &layers, parts.parameters);
    match (origin, others.iter().chain(&unknown).next()) {
        (Origin::Fresh, Some(first)) => {
            return no_target("modules_to_save", format!("`{first}`"));
        }
        // A name that the model lacks has no effect, as in peft.
        (Origin::Fresh, None) | (Origin::File(_), _) => maker.not_saved(others),
    }
    if maker.without_head {
        config.modules_to_save.retain(|module| !HEADS.contains(&module.as_str()));
        config.task_type = None;
    }
    let without_effect = maker.finish()?;
    let replaced = vocabulary.apply(parts)?;
    for (number, adapter) in made {
        let Some(layer) = parts.layers_mut().nth(number) else { continue };
        let tensors = layer.parts_of(&adapter, name);
        let shared = adapter.shared;
        layer.adapters.insert(slot, adapter);
        for part in tensors.into_iter().filter(|_| !shared) {
            parts.parameters.insert(part.parameter, part.tensor);
        }
    }
    parts.adapters.push(name, config, replaced);
    Ok(without_effect)
}

/// The modules of the model that `modules_to_save` names and that contain no layer, and the names that
/// the model lacks.
fn unsaved(
    config: &AdapterConfig,
    rules: &AdapterRules,
    layers: &[&str],
    parameters: &Parameters,
) -> (Vec<String>, Vec<String>) {
    let module =
        |parameter: &'_ str| parameter.rsplit_once('.').map(|(module, _)| module.to_owned());
    let of_model = parameters.iter().filter(|(name, _)| !is_adapter(name));
    let others: BTreeSet<String> = of_model
        .filter_map(|(name, _)| module(name))
        .filter(|module| rules.saves(module) && !layers.contains(&module.as_str()))
        .collect();
    let mut all: Vec<&str> = layers.to_vec();
    all.extend(others.iter().map(String::as_str));
    // peft lists both names of heads for every adapter of a classifier; a model has only one of
    // them.
    let head = |name: &str| HEADS.contains(&name);
    let of_classifier = matches!(
        config.task_type,
        Some(TaskType::SequenceClassification | TaskType::TokenClassification)
    );
    let unknown = rules.unsaved(&all).filter(|name| !(of_classifier && head(name)));
    let unknown = unknown.map(str::to_owned).collect();
    (others.into_iter().collect(), unknown)
}

fn described(targets: &TargetModules) -> String {
    match targets {
        TargetModules::AllLinear => "all-linear".to_owned(),
        TargetModules::Named(ModuleNames::Pattern(pattern)) => format!("`{pattern}`"),
        TargetModules::Named(ModuleNames::Suffixes(names)) => format!("{names:?}"),
    }
}

/// Creates the tensors of one adapter, and collects the faults of its file.
struct Maker<'a> {
    rules: &'a AdapterRules,
    config: &'a AdapterConfig,
    origin: &'a Origin<'a>,
    used: BTreeSet<String>,
    problems: Vec<TensorProblem>,
    /// Tensors of the file that are neither factors nor replacements of layers.
    others: Vec<String>,
    /// Tensors of the file that have no effect.
    without_effect: Vec<String>,
    /// `true` if the file has the head of a classifier, and the model has none.
    without_head: bool,
}

/// The keys of a layer's factors.
fn factor_keys(layer: &Linear) -> [AdapterKey; 2] {
    let module = || layer.path.clone();
    if layer.sort == LayerSort::Table {
        [AdapterKey::EmbeddingA { module: module() }, AdapterKey::EmbeddingB { module: module() }]
    } else {
        [AdapterKey::LoraA { module: module() }, AdapterKey::LoraB { module: module() }]
    }
}

/// `true` if a file has factors of this layer.
fn has_factors(file: &Checkpoint, layer: &Linear) -> bool {
    factor_keys(layer).iter().all(|key| file.tensors().contains_key(&key.to_string()))
}

impl Maker<'_> {
    /// The factors of a layer whose weight has this size.
    fn lora(&mut self, layer: &Linear, size: &[i64]) -> Result<Adapter, ModelError> {
        let start = self.start(layer, size)?;
        let rank = i64::from(self.rules.rank(&layer.path));
        let scale = self.rules.scaling(&layer.path);
        let device = layer.weight.device();
        let (inputs, outputs) = match layer.sort {
            LayerSort::Linear => (size[1], size[0]),
            LayerSort::Table => (size[0], size[1]),
        };
        let (shape_a, shape_b) = ([rank, inputs], [outputs, rank]);
        let (a, b) = match (self.origin, &start) {
            (Origin::Fresh, Some([a, b])) => (a.copy(), b.copy()),
            (Origin::Fresh, None) => {
                let options = (Kind::Float, device);
                // The rank is user input: a faulty one is an error, not a panic.
                let zeros = |shape| Tensor::f_zeros(shape, options).map_err(TorchError::from);
                let (mut a, mut b) = (zeros(shape_a)?, zeros(shape_b)?);
                if layer.sort == LayerSort::Table {
                    (a, b.normal_(0., 1.))
                } else {
                    // Equivalent to peft's kaiming_uniform_(a = sqrt(5)).
                    let bound = 1. / (inputs as f64).sqrt();
                    (a.uniform_(-bound, bound), b)
                }
            }
            (Origin::File(_), _) => {
                let [key_a, key_b] = factor_keys(layer);
                (self.read(&key_a, &shape_a, device), self.read(&key_b, &shape_b, device))
            }
        };
        let factors = Factors { a, b, of_other: false };
        let dropout = self.config.lora_dropout;
        let mut low = Low { factors, scale, dropout, start, magnitude: None, bias: None };
        let module = || layer.path.clone();
        if self.config.use_dora {
            low.magnitude = Some(match self.origin {
                Origin::Fresh => tch::no_grad(|| low.norm(&layer.dense(), layer.sort)),
                Origin::File(_) => {
                    self.read(&AdapterKey::Magnitude { module: module() }, &[outputs], device)
                }
            });
        }
        if let (TrainedBiases::OfLora, Some(bias)) = (self.config.bias, &layer.bias) {
            low.bias = Some(match self.origin {
                Origin::Fresh => bias.detach().copy(),
                Origin::File(_) => {
                    let key = AdapterKey::Bias { module: module() };
                    self.read(&key, &[outputs], device).to_kind(bias.kind())
                }
            });
        }
        Ok(Adapter::new(Form::Lora(low)))
    }

    /// The factors at the start of training that are a part of the base's weight: those of PiSSA and OLoRA.
    ///
    /// # Errors
    /// [`ModelError::AdapterStart`] for layers that have none.
    fn start(&self, layer: &Linear, size: &[i64]) -> Result<Option<[Tensor; 2]>, ModelError> {
        let init = self.config.init_lora_weights;
        if init == Initialisation::Zero {
            return Ok(None);
        }
        let rank = i64::from(self.rules.rank(&layer.path));
        let scale = self.rules.scaling(&layer.path);
        let least = size.iter().min().copied().unwrap_or(0);
        if layer.sort == LayerSort::Table
            || layer.weight.size() != size
            || rank > least
            || scale <= 0.
        {
            return Err(ModelError::AdapterStart {
                init: init.name(),
                layer: layer.path.clone(),
                table: layer.sort == LayerSort::Table,
                size: size.to_vec(),
                rank,
                scale,
            });
        }
        tch::no_grad(|| {
            let weight = layer.dense().to_kind(Kind::Float);
            let failed = |source: tch::TchError| ModelError::Torch(source.into());
            Ok(Some(if init == Initialisation::Pissa {
                let (u, s, v) = weight.f_svd(true, true).map_err(failed)?;
                let roots = (s.narrow(0, 0, rank) / scale).sqrt();
                let a = roots.unsqueeze(1) * v.narrow(1, 0, rank).tr();
                [a, u.narrow(1, 0, rank) * &roots]
            } else {
                let (q, r) = Tensor::f_linalg_qr(&weight, "reduced").map_err(failed)?;
                [r.narrow(0, 0, rank).contiguous(), q.narrow(1, 0, rank).contiguous()]
            }))
        })
    }

    /// `true` if this layer has the tensors of `source`, the adapter of a layer with the same weight: in a
    /// file those that it has for both.
    fn shares(&mut self, layer: &Linear, source: &Adapter) -> Result<bool, ModelError> {
        let Origin::File(file) = self.origin else { return Ok(true) };
        let shared = source.shared_with(layer.sort);
        let parts = layer.parts_of(&shared, "");
        if !parts.iter().all(|part| file.tensors().contains_key(&part.key.to_string())) {
            return Ok(false);
        }
        for part in parts {
            let key = part.key.to_string();
            let copy = read_if_present(file, &key)?;
            let same = copy.is_some_and(|copy| {
                let own = part.tensor.to_device(Device::Cpu).to_kind(Kind::Float);
                copy.size() == own.size() && own.equal(&copy.to_kind(Kind::Float))
            });
            if !same {
                self.others.push(key.clone());
            }
            self.used.insert(key);
        }
        Ok(true)
    }

    /// The weights of a layer that is kept as a whole, its matrix of this size.
    fn replacement(&mut self, layer: &Linear, size: &[i64]) -> Adapter {
        let (weight, bias) = match self.origin {
            Origin::Fresh => {
                let copy = |tensor: &Tensor| tensor.detach().copy();
                (copy(&layer.dense()), layer.bias.as_ref().map(copy))
            }
            Origin::File(file) => {
                let device = layer.weight.device();
                let kind = layer.weight.kind();
                let mut read = |key, size: &[i64]| {
                    let key = AdapterKey::Saved { parameter: format!("{}.{key}", layer.path) };
                    let problems = self.problems.len();
                    let transposed = layer.stores_transposed(&key);
                    let mut shape = size.to_vec();
                    if transposed {
                        shape.reverse();
                    }
                    let tensor = self.read(&key, &shape, device);
                    let tensor = if transposed && tensor.dim() == 2 {
                        tensor.tr().contiguous()
                    } else {
                        tensor
                    };
                    // A head for other labels.
                    if let Some(TensorProblem::Shape { name, found, .. }) =
                        self.problems.get(problems)
                    {
                        self.others.push(format!("{name} {found:?}"));
                    }
                    tensor.to_kind(kind)
                };
                let weight = read("weight", size);
                let bias = layer.bias.as_ref().map(|bias| read("bias", &bias.size()));
                // peft writes the matrices of a resized vocabulary under the names of its wrapper, too.
                let again = prefixed(&format!("{}.modules_to_save.weight", layer.path));
                if file.tensors().contains_key(&again) {
                    self.used.insert(again);
                }
                (weight, bias)
            }
        };
        Adapter::new(Form::Replacement { weight, bias })
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
        // A module that has the matrix of the embeddings, and is not among the layers.
        let idle = |module: &str| {
            let parameter = format!("{module}.weight");
            parameters.tied().any(|(alias, name)| alias == parameter || name == parameter)
        };
        for name in file.tensors().keys() {
            if self.used.contains(name) {
                continue;
            }
            let other = match AdapterKey::parse(name) {
                Some(AdapterKey::LoraA { .. } | AdapterKey::LoraB { .. }) => continue,
                Some(AdapterKey::Magnitude { .. }) if self.config.use_dora => continue,
                Some(AdapterKey::Magnitude { .. }) => true,
                Some(AdapterKey::Bias { module }) => {
                    !is_copy(file, name, &format!("{module}.bias"), parameters)?
                }
                Some(AdapterKey::EmbeddingA { module } | AdapterKey::EmbeddingB { module }) => {
                    let idle = idle(&module) && !self.rules.saves(&module);
                    self.without_effect.extend(idle.then(|| name.clone()));
                    !idle
                }
                // The head of a classifier's adapter, on a model without one.
                Some(AdapterKey::Saved { parameter }) if of_classifier(&parameter, parameters) => {
                    self.without_head = true;
                    false
                }
                Some(AdapterKey::Saved { parameter }) => {
                    let module = parameter.trim_end_matches(".weight");
                    let idle = idle(module) && self.rules.saves(module);
                    self.without_effect.extend(idle.then(|| name.clone()));
                    !idle && !is_copy(file, name, &parameter, parameters)?
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
            } else {
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

    /// The tensors without effect, if there are no problems.
    fn finish(mut self) -> Result<Vec<String>, ModelError> {
        let Origin::File(file) = self.origin else { return Ok(Vec::new()) };
        for (name, info) in file.tensors() {
            if !self.used.contains(name) {
                let (name, shape) = (name.clone(), info.shape.clone());
                self.problems.push(TensorProblem::Unexpected { name, shape });
            }
        }
        if self.problems.is_empty() {
            return Ok(self.without_effect);
        }
        Err(ModelError::Tensors { file: file.origin().to_owned(), problems: self.problems })
    }
}
