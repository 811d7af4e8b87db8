//! Where a model's tensors come from: a checkpoint, or a seeded random start.
//!
//! A model asks for its tensors by the path that its code has, which is the checkpoint's key:
//! `weights.at("encoder").at("block").at(0)`. What is missing or mis-shaped is collected, and all of
//! it is reported at once when the model is complete.

use std::{cell::RefCell, collections::BTreeSet, fmt::Display, rc::Rc};

use rlaif_checkpoint::{Checkpoint, Dtype, TensorInfo};
use rlaif_lm::Parameters;
use tch::{Device, Kind, Tensor};

use crate::error::{ModelError, TensorProblem};

/// How a tensor starts where there is no checkpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All ones: the scale of a norm.
    Ones,
    /// All zeros: biases.
    Zeros,
    /// Normal around 0.
    Normal {
        /// Its standard deviation.
        std: f64,
    },
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = self.file().map(Checkpoint::origin);
        f.debug_struct("Source").field("file", &file).field("device", &self.device).finish()
    }
}

impl std::fmt::Debug for TensorTree<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TensorTree").field(&self.path).finish()
    }
}

enum Origin<'a> {
    Checkpoint(&'a Checkpoint),
    /// A checkpoint of which shapes are checked and no weight is read: the tensors have their
    /// shapes and no memory of their own, and are of no use beyond that.
    Headers(&'a Checkpoint),
    /// Draws from libtorch's generator: seed it first.
    Random,
}

/// The tensors of one model as it asks for them: those of a checkpoint, or random ones.
pub struct Source<'a> {
    origin: Origin<'a>,
    device: Device,
    kind: Option<Kind>,
    state: RefCell<State>,
    /// Filled by [`Self::finish`].
    unread: Unread,
}

/// The names of a checkpoint's tensors that its model has no use for.
pub(crate) type Unread = Rc<RefCell<Vec<String>>>;

#[derive(Default)]
struct State {
    parameters: Parameters,
    problems: Vec<TensorProblem>,
    /// Names in the checkpoint.
    used: BTreeSet<String>,
    /// Beginnings of names that are of no use.
    left: Vec<String>,
    /// Kinds of the tensors that the model does not want in one of its own choice.
    kinds: BTreeSet<&'static str>,
}

impl<'a> Source<'a> {
    /// Tensors of a checkpoint; in the checkpoint's own kind unless `kind` asks for another.
    pub(crate) fn checkpoint(
        checkpoint: &'a Checkpoint,
        kind: Option<Kind>,
        device: Device,
    ) -> Self {
        Self::new(Origin::Checkpoint(checkpoint), device, kind)
    }

    fn new(origin: Origin<'a>, device: Device, kind: Option<Kind>) -> Self {
        Self { origin, device, kind, state: RefCell::default(), unread: Unread::default() }
    }

    /// The names of the tensors without a use, once [`Self::finish`] has returned.
    pub(crate) fn unread(&self) -> Unread {
        Rc::clone(&self.unread)
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

    /// Fresh tensors.
    pub(crate) fn random(kind: Kind, device: Device) -> Source<'static> {
        Source::new(Origin::Random, device, Some(kind))
    }

    /// The top of the tree of tensors.
    pub fn root(&self) -> TensorTree<'_> {
        TensorTree { source: self, path: String::new(), kind: self.kind }
    }

    /// The device of the tensors.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Whether the checkpoint holds this tensor. A random start holds every tensor.
    pub fn has(&self, name: &str) -> bool {
        self.file().is_none_or(|checkpoint| stored(checkpoint, name).is_some())
    }

    /// The first of `names` that the checkpoint holds, or the first of them all.
    pub fn first_of<'n>(&self, names: &[&'n str]) -> &'n str {
        names.iter().copied().find(|name| self.has(name)).unwrap_or(names[0])
    }

    /// Says that `alias` is another name of the parameter `name`: it need not be in the
    /// checkpoint, and is no surprise there.
    pub fn tie(&self, alias: &str, name: &str) {
        let mut state = self.state.borrow_mut();
        state.parameters.tie(alias, name);
        state.used.insert(self.stored(alias).to_owned());
    }

    /// Says that the tensors whose names begin so are of no use to the model, although they are in a
    /// part that it reads: a pooler, say.
    pub fn leave(&self, beginning: &str) {
        self.state.borrow_mut().left.push(beginning.to_owned());
    }

    /// The name of a tensor in the checkpoint, or `name` where it is not there.
    fn stored<'n>(&'n self, name: &'n str) -> &'n str {
        self.file().and_then(|file| stored(file, name)).map_or(name, |(stored, _)| stored)
    }

    /// The parameters, once the model has asked for all of them.
    ///
    /// `harmless` accepts names that may be in a checkpoint without being asked for. Other tensors that
    /// no one asked for are an error in a part of the checkpoint that the model reads, because its
    /// config.json then describes another computation; heads of other models are left aside.
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
                .filter(|(alias, name)| !same_bytes(checkpoint, alias, name))
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

    fn tensor(&self, name: String, shape: &[i64], init: Init, kind: Option<Kind>) -> Tensor {
        let tensor = match self.origin {
            Origin::Checkpoint(checkpoint) => {
                self.placed(read_checked(checkpoint, &name, shape), kind)
            }
            Origin::Headers(checkpoint) => self.placed(
                checked(checkpoint, &name, shape)
                    .map(|_| Tensor::zeros([], (Kind::Float, Device::Cpu)).expand(shape, false)),
                None,
            ),
            Origin::Random => {
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
        state.used.insert(self.stored(&name).to_owned());
        if kind.is_none() {
            state.kinds.insert(kind_name(tensor.kind()));
        }
        state.parameters.insert(name, tensor.shallow_clone());
        tensor
    }

    /// The tensor on its device in its kind; where it could not be read, notes why and gives an
    /// empty one, so that the model can go on asking and every problem is found.
    fn placed(&self, read: Result<Tensor, TensorProblem>, kind: Option<Kind>) -> Tensor {
        match read {
            Ok(tensor) => {
                let kind = kind.unwrap_or(tensor.kind());
                tensor.to_device(self.device).to_kind(kind)
            }
            Err(problem) => {
                self.state.borrow_mut().problems.push(problem);
                Tensor::zeros([0], (Kind::Float, Device::Cpu))
            }
        }
    }
}

/// A place in a model's tree of tensors.
#[derive(Clone)]
pub struct TensorTree<'a> {
    source: &'a Source<'a>,
    path: String,
    kind: Option<Kind>,
}

impl<'a> TensorTree<'a> {
    /// One step down.
    #[must_use]
    pub fn at(&self, key: impl Display) -> Self {
        let path =
            if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) };
        Self { source: self.source, path, kind: self.kind }
    }

    /// The same place with its tensors in another kind than the rest of the model.
    #[must_use]
    pub fn in_kind(&self, kind: Kind) -> Self {
        Self { kind: Some(kind), ..self.clone() }
    }

    /// The tensor `key` of this shape at this place. One that is missing or has another shape is
    /// reported by [`Source::finish`].
    pub fn tensor(&self, key: &str, shape: &[i64], init: Init) -> Tensor {
        self.source.tensor(self.at(key).path, shape, init, self.kind)
    }

    /// The path from the top, as it is in the checkpoint.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The source of the tensors.
    pub fn source(&self) -> &'a Source<'a> {
        self.source
    }
}

/// Reads a tensor that should have this shape.
pub(crate) fn read_checked(
    checkpoint: &Checkpoint,
    name: &str,
    shape: &[i64],
) -> Result<Tensor, TensorProblem> {
    let (stored, info) = checked(checkpoint, name, shape)?;
    read_tensor(checkpoint, stored, shape, info.dtype).map_err(|source| TensorProblem::Unreadable {
        name: name.to_owned(),
        source: Box::new(source),
    })
}

/// Reads a tensor of any shape on the CPU; `None` if there is none of this name, or of integers.
pub(crate) fn read_if_present(
    checkpoint: &Checkpoint,
    name: &str,
) -> Result<Option<Tensor>, ModelError> {
    let Some((stored, info)) = stored(checkpoint, name) else { return Ok(None) };
    if kind_of(info.dtype).is_none() {
        return Ok(None);
    }
    let shape: Vec<i64> = info.shape.iter().map(|&size| size as i64).collect();
    read_tensor(checkpoint, stored, &shape, info.dtype).map(Some)
}

/// The tensor of a checkpoint that a model calls `name`, by its name there.
///
/// Old BERTs call the weight and bias of a LayerNorm gamma and beta, and a trunk that was saved by
/// itself lacks the first part of its names.
pub(crate) fn stored<'c>(
    checkpoint: &'c Checkpoint,
    name: &str,
) -> Option<(&'c str, &'c TensorInfo)> {
    let tensors = checkpoint.tensors();
    let find = |name: &str| {
        let old = || match name.rsplit_once("LayerNorm.")? {
            (place, "weight") => Some(format!("{place}LayerNorm.gamma")),
            (place, "bias") => Some(format!("{place}LayerNorm.beta")),
            _ => None,
        };
        let found = tensors.get_key_value(name).or_else(|| tensors.get_key_value(&old()?));
        found.map(|(stored, info)| (stored.as_str(), info))
    };
    find(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        let beginning = format!("{first}.");
        let mut from = tensors.range(beginning.clone()..);
        let has_first = from.next().is_some_and(|(name, _)| name.starts_with(&beginning));
        find(rest).filter(|_| !has_first)
    })
}

/// The first part of a tensor's name, by which trunks and heads are told apart.
fn part(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// Whether two tensors of a checkpoint are one, or the first is not there at all.
fn same_bytes(checkpoint: &Checkpoint, alias: &str, name: &str) -> bool {
    let pair = (stored(checkpoint, alias), stored(checkpoint, name));
    let (Some((alias, one)), Some((name, other))) = pair else { return true };
    if one.shape != other.shape || one.dtype != other.dtype {
        return false;
    }
    let read = |name| {
        let mut bytes = vec![0; usize::try_from(one.bytes).ok()?];
        checkpoint.read_into(name, &mut bytes).ok()?;
        Some(bytes)
    };
    // What cannot be read is reported where it is read for itself.
    read(alias) == read(name)
}

/// The header of a tensor that should have this shape, and its name in the checkpoint.
fn checked<'c>(
    checkpoint: &'c Checkpoint,
    name: &str,
    shape: &[i64],
) -> Result<(&'c str, &'c TensorInfo), TensorProblem> {
    let Some((stored, info)) = stored(checkpoint, name) else {
        return Err(TensorProblem::Missing { name: name.to_owned(), shape: shape.to_vec() });
    };
    if !same_shape(&info.shape, shape) {
        return Err(TensorProblem::Shape {
            name: name.to_owned(),
            expected: shape.to_vec(),
            found: info.shape.clone(),
        });
    }
    Ok((stored, info))
}

/// Reads one tensor of a checkpoint into memory of its own, in the checkpoint's kind.
fn read_tensor(
    checkpoint: &Checkpoint,
    name: &str,
    shape: &[i64],
    dtype: Dtype,
) -> Result<Tensor, ModelError> {
    let kind = kind_of(dtype).ok_or_else(|| ModelError::Dtype {
        file: checkpoint.origin().to_owned(),
        tensor: name.to_owned(),
        dtype: dtype.to_string(),
    })?;
    let mut tensor = Tensor::f_empty(shape, (kind, Device::Cpu))
        .map_err(|source| ModelError::Torch(source.into()))?;
    rlaif_torch::with_bytes_mut(&mut tensor, |bytes| checkpoint.read_into(name, bytes))??;
    Ok(tensor)
}

fn same_shape(found: &[usize], expected: &[i64]) -> bool {
    found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|(&found, &expected)| i64::try_from(found) == Ok(expected))
}

/// Kinds that weights can have.
fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F64 => Kind::Double,
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        _ => return None,
    })
}

/// The name of a weight's type; `None` for types that only buffers have.
pub(crate) fn dtype_name(dtype: Dtype) -> Option<&'static str> {
    kind_of(dtype).map(kind_name)
}

/// The name of a kind as configuration files and the command line spell it.
pub(crate) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Float => "f32",
        Kind::BFloat16 => "bf16",
        Kind::Half => "f16",
        Kind::Double => "f64",
        _ => "not a floating-point kind",
    }
}
