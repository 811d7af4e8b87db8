//! Sources of a model's tensors: a checkpoint, or seeded random weights.
//!
//! A model requests its tensors by the path that its code has, which is the checkpoint's key:
//! `weights.at("encoder").at("block").at(0)`. Missing and mis-shaped tensors are collected, and all
//! of them are reported at once when the model is complete.

mod kinds;
mod places;
mod stacks;
mod stored;

use std::{borrow::Cow, cell::RefCell, collections::BTreeSet, fmt::Display, rc::Rc};

use rlaif_checkpoint::Checkpoint;
use rlaif_lm::Parameters;
use rlaif_torch::{Quantization, Quantized};
use tch::{Device, Kind, Tensor};

pub(crate) use kinds::{dtype_name, dtype_of, kind_name};
pub(crate) use places::Places;
pub(crate) use stacks::Stack;
pub(crate) use stored::{read_checked, read_if_present, rows_of, stored};

use places::Place;
use stored::{checked, same_bytes, usual_kind};

use crate::{
    error::{ModelError, TensorProblem},
    quantized::{self, Matrix, Reading},
};

/// The name of the head to the vocabulary that transformers 5 writes for every family, beside the row's own.
pub(crate) const COMMON_HEAD: &str = "lm_head";

/// Initialisation of a tensor without a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All ones: the scale of a norm.
    Ones,
    /// All zeros: biases.
    Zeros,
    /// Normal around 0.
    Normal {
        /// The standard deviation.
        std: f64,
    },
}

impl std::fmt::Debug for ModelTensors<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = self.file().map(Checkpoint::origin);
        f.debug_struct("ModelTensors").field("file", &file).field("device", &self.device).finish()
    }
}

impl std::fmt::Debug for TensorTree<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TensorTree").field(&self.path).finish()
    }
}

enum Origin<'a> {
    Checkpoint(&'a Checkpoint),
    /// A checkpoint whose shapes are checked while no weight is read: the tensors have shapes but
    /// no memory, and serve no other purpose.
    Headers(&'a Checkpoint),
    /// Random numbers from libtorch's generator: seed it first.
    Random,
}

/// The order in which a checkpoint stores a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatrixOrder {
    /// `[outputs, inputs]`, as in memory.
    OutputsFirst,
    /// `[inputs, outputs]`, as GPT-2 does.
    InputsFirst,
}

/// The tensors that a model requests: those of a checkpoint, or random ones.
pub struct ModelTensors<'a> {
    origin: Origin<'a>,
    device: Device,
    kind: Option<Kind>,
    /// The format of the trunk's matrices.
    quantization: Option<Quantization>,
    /// The first parts of the names of heads, which are not quantized.
    heads: Vec<&'static str>,
    state: RefCell<State>,
    places: Places,
    /// Filled by [`Self::finish`].
    unread: Unread,
}

/// The names of a checkpoint's tensors that its model does not use.
pub(crate) type Unread = Rc<RefCell<Vec<String>>>;

#[derive(Default)]
struct State {
    parameters: Parameters,
    problems: Vec<TensorProblem>,
    /// Names in the checkpoint.
    used: BTreeSet<String>,
    /// Aliases and names of equal tensors.
    equal: BTreeSet<(String, String)>,
    /// Prefixes of names of unused tensors.
    left: Vec<String>,
    /// Dtypes of the tensors for which the model does not choose a dtype.
    kinds: BTreeSet<&'static str>,
}

impl<'a> ModelTensors<'a> {
    /// Tensors of a checkpoint; with the checkpoint's dtype, or with `kind` if given.
    pub(crate) fn checkpoint(
        checkpoint: &'a Checkpoint,
        kind: Option<Kind>,
        device: Device,
    ) -> Self {
        Self::new(Origin::Checkpoint(checkpoint), device, kind)
    }

    fn new(origin: Origin<'a>, device: Device, kind: Option<Kind>) -> Self {
        let (state, places) = (RefCell::default(), Places::default());
        let (heads, unread) = (Vec::new(), Unread::default());
        Self { origin, device, kind, quantization: None, heads, state, places, unread }
    }

    /// Quantizes the matrices of linear layers, except those of heads, as they are read.
    #[must_use]
    pub(crate) fn quantized(self, quantization: Option<Quantization>) -> Self {
        Self { quantization, ..self }
    }

    /// Names the heads of the family, and the one to the vocabulary among them.
    #[must_use]
    pub(crate) fn with_heads(
        self,
        mut heads: Vec<&'static str>,
        vocab: Option<&'static str>,
    ) -> Self {
        if let Some(own) = vocab {
            let [own, common] = [own, COMMON_HEAD].map(|head| (head, format!("{head}.weight")));
            let vocab = if self.first_of(&[&own.1, &common.1]) == own.1 { own.0 } else { common.0 };
            heads.push(vocab);
            self.state.borrow_mut().parameters.set_vocab_head(vocab);
        }
        Self { heads, ..self }
    }

    /// `true` for a parameter of a head, which stays as it is where a trunk is quantized: transformers leaves them
    /// out as well.
    fn is_of_head(&self, name: &str) -> bool {
        let of = |head: &str| name.strip_prefix(head).is_some_and(|rest| rest.starts_with('.'));
        self.heads.iter().any(|head| of(head)) || part(name) == BEFORE_HEAD
    }

    /// The names of the unused tensors, once [`Self::finish`] has returned.
    pub(crate) fn unread(&self) -> Unread {
        Rc::clone(&self.unread)
    }

    /// The tensors that the checkpoint has in another place, once the model has requested all of them.
    pub(crate) fn places(&self) -> Places {
        self.places.clone()
    }

    /// The shapes of a checkpoint.
    pub(crate) fn headers(checkpoint: &'a Checkpoint) -> Self {
        Self::new(Origin::Headers(checkpoint), Device::Cpu, Some(Kind::Float))
    }

    /// The checkpoint, if there is one.
    fn file(&self) -> Option<&'a Checkpoint> {
        match self.origin {
            Origin::Checkpoint(checkpoint) | Origin::Headers(checkpoint) => Some(checkpoint),
            Origin::Random => None,
        }
    }

    /// Random tensors.
    pub(crate) fn random(kind: Kind, device: Device) -> ModelTensors<'static> {
        ModelTensors::new(Origin::Random, device, Some(kind))
    }

    /// The root of the tree of tensors.
    pub fn root(&self) -> TensorTree<'_> {
        TensorTree { source: self, path: String::new(), kind: self.kind }
    }

    /// The device of the tensors.
    pub fn device(&self) -> Device {
        self.device
    }

    /// `true` unless the weights are random.
    pub(crate) fn is_of_files(&self) -> bool {
        self.file().is_some()
    }

    /// `true` if the checkpoint contains this tensor. Random weights contain every tensor.
    pub fn has(&self, name: &str) -> bool {
        self.file().is_none_or(|checkpoint| stored(checkpoint, name).is_some())
    }

    /// The first of `names` in the checkpoint, or the first of all if it contains none.
    pub fn first_of<'n>(&self, names: &[&'n str]) -> &'n str {
        names.iter().copied().find(|name| self.has(name)).unwrap_or(names[0])
    }

    /// Declares `alias` as another name of the parameter `name`: it may be missing in the
    /// checkpoint, and is not reported as unexpected.
    pub fn tie(&self, alias: &str, name: &str) {
        let mut state = self.state.borrow_mut();
        state.parameters.tie(alias, name);
        state.used.insert(self.stored(alias).to_owned());
    }

    /// `true` if the checkpoint has two different tensors under these names. Where config.json ties them,
    /// transformers 5 then reads both.
    pub(crate) fn differ(&self, alias: &str, name: &str) -> bool {
        let Some(checkpoint) = self.file() else { return false };
        let both = stored(checkpoint, alias).zip(stored(checkpoint, name));
        if both.is_none_or(|((alias, _), (name, _))| alias == name) {
            return false;
        }
        let same = same_bytes(checkpoint, alias, name);
        if same {
            self.state.borrow_mut().equal.insert((alias.to_owned(), name.to_owned()));
        }
        !same
    }

    /// The name of a parameter, or the one of its aliases that a checkpoint has instead.
    fn held<'n>(&self, name: &'n str) -> Cow<'n, str> {
        if self.has(name) {
            return name.into();
        }
        if let Some(Place::Renamed(other)) = self.places.get(name) {
            return other.into();
        }
        let state = self.state.borrow();
        let mut aliases = state.parameters.tied().filter(|(_, of)| *of == name);
        let alias = aliases.find(|(alias, _)| self.has(alias));
        alias.map_or(name.into(), |(alias, _)| alias.to_owned().into())
    }

    /// Declares tensors with this prefix as unused, although they are in a part that the model
    /// reads, for example a pooler.
    pub fn leave(&self, beginning: &str) {
        self.state.borrow_mut().left.push(beginning.to_owned());
    }

    /// The name of a tensor in the checkpoint, or `name` if the checkpoint lacks it.
    fn stored<'n>(&'n self, name: &'n str) -> &'n str {
        self.file().and_then(|file| stored(file, name)).map_or(name, |(stored, _)| stored)
    }

    /// The parameters, once the model has requested all of them.
    ///
    /// `harmless` returns `true` for names that may be in a checkpoint without being used. Other
    /// unused tensors are an error if they are in a part of the checkpoint that the model reads,
    /// because its config.json then describes another computation; heads of other models are
    /// ignored.
    ///
    /// # Errors
    /// [`ModelError::Tensors`] with every tensor that does not fit, [`ModelError::MixedKinds`].
    pub fn finish(self, harmless: impl Fn(&str) -> bool) -> Result<Parameters, ModelError> {
        let file = self.file();
        let mut state = self.state.into_inner();
        if let Some(checkpoint) = file {
            let differing: Vec<TensorProblem> = state
                .parameters
                .tied()
                .filter(|(alias, name)| {
                    !state.equal.contains(&((*alias).to_owned(), (*name).to_owned()))
                        && !same_bytes(checkpoint, alias, name)
                })
                .map(|(alias, name)| TensorProblem::NotTied {
                    alias: alias.to_owned(),
                    name: name.to_owned(),
                })
                .collect();
            state.problems.extend(differing);
            let read: BTreeSet<&str> = state.used.iter().map(|name| part(name)).collect();
            let mut unread = self.unread.borrow_mut();
            for (name, info) in checkpoint.tensors() {
                if state.used.contains(name) || harmless(name) {
                    continue;
                }
                if state.left.iter().any(|left| name.starts_with(left))
                    || !read.contains(part(name))
                    || is_beyond(&state.used, name)
                {
                    unread.push(name.clone());
                } else {
                    state.problems.push(TensorProblem::Unexpected {
                        name: name.clone(),
                        shape: info.shape.clone(),
                    });
                }
            }
            if !state.problems.is_empty() {
                return Err(ModelError::Tensors {
                    file: checkpoint.origin().to_owned(),
                    problems: state.problems,
                });
            }
        }
        if self.kind.is_none() && state.kinds.len() > 1 {
            return Err(ModelError::MixedKinds {
                file: file.map(|checkpoint| checkpoint.origin().to_owned()).unwrap_or_default(),
                kinds: state.kinds.into_iter().map(str::to_owned).collect(),
            });
        }
        Ok(state.parameters)
    }

    fn tensor(
        &self,
        name: String,
        shape: &[i64],
        init: Init,
        kind: Option<Kind>,
        stored_as: MatrixOrder,
    ) -> Tensor {
        let reversed: Vec<i64> = shape.iter().rev().copied().collect();
        let stored = match stored_as {
            MatrixOrder::OutputsFirst => shape,
            MatrixOrder::InputsFirst => &reversed,
        };
        let held = self.held(&name).into_owned();
        let place = self.places.get(&name);
        let shaped = || Tensor::zeros([], (Kind::Float, Device::Cpu)).expand(shape, false);
        let tensor = match (&self.origin, place) {
            (Origin::Checkpoint(_) | Origin::Headers(_), Some(Place::Reported)) => empty(),
            (Origin::Checkpoint(checkpoint), Some(Place::Rows(rows))) => {
                self.placed(rows.read(checkpoint, shape), kind)
            }
            (Origin::Headers(_), Some(Place::Rows(_))) => shaped(),
            (Origin::Checkpoint(checkpoint), Some(Place::Renamed(_)) | None) => {
                let read = read_checked(checkpoint, &held, stored);
                self.placed(
                    read.map(|read| match stored_as {
                        MatrixOrder::OutputsFirst => read,
                        MatrixOrder::InputsFirst => read.tr().contiguous(),
                    }),
                    kind,
                )
            }
            (Origin::Headers(checkpoint), Some(Place::Renamed(_)) | None) => {
                self.placed(checked(checkpoint, &held, stored).map(|_| shaped()), None)
            }
            (Origin::Random, _) => {
                let options = (kind.unwrap_or(Kind::Float), self.device);
                match init {
                    Init::Ones => Tensor::ones(shape, options),
                    Init::Zeros => Tensor::zeros(shape, options),
                    Init::Normal { std } => {
                        (Tensor::randn(shape, (Kind::Float, self.device)) * std).to_kind(options.0)
                    }
                }
            }
        };
        let tensor = tensor.set_requires_grad(true);
        let mut state = self.state.borrow_mut();
        state.used.insert(self.stored(&held).to_owned());
        if kind.is_none() {
            state.kinds.insert(kind_name(tensor.kind()));
        }
        if stored_as == MatrixOrder::InputsFirst {
            state.parameters.transpose(&name);
        }
        state.parameters.insert(name, tensor.shallow_clone());
        tensor
    }

    /// The matrix of a linear layer, or one in its stead without memory, and the quantized weights.
    fn matrix(
        &self,
        name: String,
        size: [i64; 2],
        init: Init,
        kind: Option<Kind>,
        stored_as: MatrixOrder,
    ) -> (Tensor, Option<Quantized>) {
        if let Some(checkpoint) = self.file()
            && let held = self.held(&name).into_owned()
            && quantized::is_quantized(checkpoint, self.stored(&held))
        {
            return self.read_quantized(
                checkpoint,
                name,
                self.stored(&held),
                size,
                kind,
                stored_as,
            );
        }
        let tensor = self.tensor(name.clone(), &size, init, kind, stored_as);
        let how = self.quantization.filter(|_| !self.is_of_head(&name) && tensor.size() == size);
        let Some(how) = how else { return (tensor, None) };
        let made = match self.origin {
            Origin::Headers(_) => None,
            Origin::Checkpoint(_) | Origin::Random => match Quantized::new(&tensor.detach(), how) {
                Ok(made) => Some(made),
                Err(source) => {
                    let source = Box::new(source.into());
                    self.state
                        .borrow_mut()
                        .problems
                        .push(TensorProblem::Unreadable { name, source });
                    return (tensor, None);
                }
            },
        };
        let instead = self.without_memory(size, tensor.kind());
        let mut state = self.state.borrow_mut();
        state.parameters.insert(name.clone(), instead.shallow_clone());
        state.parameters.set_quantized(name);
        (instead, made)
    }

    /// A matrix that the checkpoint has in bitsandbytes' format.
    fn read_quantized(
        &self,
        checkpoint: &Checkpoint,
        name: String,
        stored: &str,
        size: [i64; 2],
        kind: Option<Kind>,
        stored_as: MatrixOrder,
    ) -> (Tensor, Option<Quantized>) {
        let reading = match self.origin {
            Origin::Headers(_) => Reading::Headers,
            Origin::Checkpoint(_) | Origin::Random => Reading::Numbers,
        };
        let read = Matrix { checkpoint, name: stored, size, reading }.read(self.device);
        let instead = self.without_memory(size, kind.unwrap_or_else(|| usual_kind(checkpoint)));
        let mut state = self.state.borrow_mut();
        state.used.insert(stored.to_owned());
        let module = stored.strip_suffix("weight").unwrap_or(stored).to_owned();
        let parts = checkpoint.tensors().range(module.clone()..).map(|(part, _)| part);
        let parts = parts.take_while(|part| part.starts_with(&module));
        state.used.extend(parts.filter(|part| quantized::is_part(part)).cloned());
        state.parameters.insert(name.clone(), instead.shallow_clone());
        if stored_as == MatrixOrder::InputsFirst {
            state.parameters.transpose(&name);
        }
        state.parameters.set_quantized(name);
        match read {
            Ok(made) => (instead, made),
            Err(problem) => {
                state.problems.push(problem);
                (instead, None)
            }
        }
    }

    /// NaN of a size, for weights that are elsewhere.
    fn without_memory(&self, size: [i64; 2], kind: Kind) -> Tensor {
        Tensor::full([1, 1], f64::NAN, (kind, self.device)).expand(size, false)
    }

    /// The tensor on its device with its dtype. If it could not be read, records the reason and
    /// returns an empty tensor, so that the model continues and every problem is found.
    fn placed(&self, read: Result<Tensor, TensorProblem>, kind: Option<Kind>) -> Tensor {
        match read {
            Ok(tensor) => {
                let kind = kind.unwrap_or(tensor.kind());
                tensor.to_device(self.device).to_kind(kind)
            }
            Err(problem) => {
                self.state.borrow_mut().problems.push(problem);
                empty()
            }
        }
    }
}

/// A node in a model's tree of tensors.
#[derive(Clone)]
pub struct TensorTree<'a> {
    source: &'a ModelTensors<'a>,
    path: String,
    kind: Option<Kind>,
}

impl<'a> TensorTree<'a> {
    /// The child node `key`.
    #[must_use]
    pub fn at(&self, key: impl Display) -> Self {
        let path =
            if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) };
        Self { source: self.source, path, kind: self.kind }
    }

    /// The same node, with its tensors in another dtype than the rest of the model.
    #[must_use]
    pub fn in_kind(&self, kind: Kind) -> Self {
        Self { kind: Some(kind), ..self.clone() }
    }

    /// The tensor `key` with this shape at this node. [`ModelTensors::finish`] reports it if it is
    /// missing or has another shape.
    pub fn tensor(&self, key: &str, shape: &[i64], init: Init) -> Tensor {
        self.source.tensor(self.at(key).path, shape, init, self.kind, MatrixOrder::OutputsFirst)
    }

    /// The tensor `key`, which is saved with the model and never trained, in this dtype. A checkpoint may lack
    /// it: it then has this value.
    pub(crate) fn fixed(
        &self,
        key: &str,
        shape: &[i64],
        kind: Kind,
        value: impl FnOnce() -> Tensor,
    ) -> Tensor {
        let (name, source) = (self.at(key).path, self.source);
        let tensor = match source.file().filter(|file| stored(file, &name).is_some()) {
            Some(_) => source.tensor(
                name.clone(),
                shape,
                Init::Zeros,
                Some(kind),
                MatrixOrder::OutputsFirst,
            ),
            None => value().to_kind(kind).to_device(source.device),
        };
        let mut state = source.state.borrow_mut();
        state.parameters.insert(name.clone(), tensor.shallow_clone());
        state.parameters.set_fixed(name);
        tensor
    }

    /// The weight `[outputs, inputs]` of a linear layer at this node, and its quantized form if it has one.
    /// `stored_as` is the order in the checkpoint.
    pub(crate) fn matrix(
        &self,
        size: [i64; 2],
        init: Init,
        stored_as: MatrixOrder,
    ) -> (Tensor, Option<Quantized>) {
        self.source.matrix(self.at("weight").path, size, init, self.kind, stored_as)
    }

    /// The path from the root, as in the checkpoint.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The source of the tensors.
    pub fn source(&self) -> &'a ModelTensors<'a> {
        self.source
    }
}

/// DistilBERT's layer before its classifier, which transformers does not quantize either. Only this family has the
/// name, and its row has the layer behind it as the head.
const BEFORE_HEAD: &str = "pre_classifier";

/// The tensor in place of one that could not be read.
fn empty() -> Tensor {
    Tensor::zeros([0], (Kind::Float, Device::Cpu))
}

/// The first part of a tensor's name, which distinguishes trunks and heads.
fn part(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// `true` for a tensor of a numbered layer none of whose tensors are used, although those of other numbers are:
/// config.json has fewer layers than the checkpoint.
fn is_beyond(used: &BTreeSet<String>, name: &str) -> bool {
    let reads = |beginning: &str| {
        let mut from = used.range(beginning.to_owned()..);
        from.next().is_some_and(|name| name.starts_with(beginning))
    };
    let mut start = 0;
    name.split('.').any(|part| {
        let (stack, end) = (&name[..start], start + part.len());
        start = end + 1;
        let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        is_number && reads(stack) && !reads(&format!("{}.", &name[..end]))
    })
}
