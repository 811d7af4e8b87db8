//! The parameters of a model, by name.

use std::collections::{BTreeMap, BTreeSet};

use tch::Tensor;

/// `true` for a parameter of an adapter, by its name as in `rlaif-models` and peft:
/// `….lora_A.…`, `….lora_B.…`, `….lora_embedding_A.…`, `….lora_embedding_B.…`, `….modules_to_save.…`.
///
/// ```
/// assert!(rlaif_lm::is_adapter("layers.0.q_proj.lora_A.default.weight"));
/// assert!(!rlaif_lm::is_adapter("layers.0.q_proj.weight"));
/// ```
pub fn is_adapter(name: &str) -> bool {
    const PARTS: [&str; 6] = [
        ".lora_A.",
        ".lora_B.",
        ".lora_embedding_A.",
        ".lora_embedding_B.",
        ".lora_magnitude_vector.",
        ".modules_to_save.",
    ];
    PARTS.iter().any(|part| name.contains(part))
}

/// The parameters of a model under their checkpoint names, in name order.
///
/// The tensors are handles: an optimizer that changes one in place changes the model. Names that
/// share one tensor (tied embeddings) are kept apart, so that nothing is counted, decayed or saved
/// twice.
#[derive(Debug, Default)]
pub struct Parameters {
    tensors: BTreeMap<String, Tensor>,
    tied: BTreeMap<String, String>,
    transposed: BTreeSet<String>,
    quantized: BTreeSet<String>,
    fixed: BTreeSet<String>,
    vocab_head: Option<String>,
}

impl Parameters {
    /// No parameters.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a parameter; one of the same name is replaced.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        let name = name.into();
        self.quantized.remove(&name);
        self.tensors.insert(name, tensor);
    }

    /// Declares that the weights of this name are in 4 or 8 bits and frozen: its tensor has their size, and NaN
    /// without memory.
    pub fn set_quantized(&mut self, name: impl Into<String>) {
        self.quantized.insert(name.into());
    }

    /// Declares that the parameter of this name is saved with the model and never trained, as what transformers
    /// calls a buffer.
    pub fn set_fixed(&mut self, name: impl Into<String>) {
        let name = name.into();
        if let Some(tensor) = self.tensors.get(&name) {
            let _ = tensor.set_requires_grad(false);
        }
        self.fixed.insert(name);
    }

    /// Declares the name of the layer from hidden states to the vocabulary, such as `lm_head`.
    pub fn set_vocab_head(&mut self, layer: impl Into<String>) {
        self.vocab_head = Some(layer.into());
    }

    /// `true` for a parameter of the layer from hidden states to the vocabulary. Embeddings that are this layer too are
    /// parameters of the trunk.
    ///
    /// ```
    /// let mut parameters = rlaif_lm::Parameters::new();
    /// parameters.set_vocab_head("embed_out");
    /// assert!(parameters.is_of_vocab_head("embed_out.weight"));
    /// assert!(!parameters.is_of_vocab_head("embed_outer.weight"));
    /// ```
    pub fn is_of_vocab_head(&self, name: &str) -> bool {
        let rest = self.vocab_head.as_deref().and_then(|layer| name.strip_prefix(layer));
        rest.is_some_and(|rest| rest.starts_with('.'))
    }

    /// The names of quantized weights.
    pub fn quantized(&self) -> impl Iterator<Item = &str> {
        self.quantized.iter().map(String::as_str)
    }

    /// Takes a parameter out; names tied to it go with it.
    pub fn remove(&mut self, name: &str) -> Option<Tensor> {
        self.tied.retain(|_, of| of != name);
        self.tensors.remove(name)
    }

    /// Says that `alias` is the same tensor as the parameter `name`.
    pub fn tie(&mut self, alias: impl Into<String>, name: impl Into<String>) {
        self.tied.insert(alias.into(), name.into());
    }

    /// Gives an alias a tensor of its own.
    pub fn untie(&mut self, alias: &str, tensor: Tensor) {
        self.tied.remove(alias);
        self.tensors.insert(alias.to_owned(), tensor);
    }

    /// Declares that checkpoints store the matrix with this name transposed.
    pub fn transpose(&mut self, name: impl Into<String>) {
        self.transposed.insert(name.into());
    }

    /// `true` for a matrix that checkpoints store transposed.
    pub fn is_transposed(&self, name: &str) -> bool {
        self.transposed.contains(name)
    }

    /// The parameter of this name, or the one it is tied to.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        let name = self.tied.get(name).map_or(name, String::as_str);
        self.tensors.get(name)
    }

    /// Every parameter once, in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Aliases and the parameters they stand for.
    pub fn tied(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tied.iter().map(|(alias, name)| (alias.as_str(), name.as_str()))
    }

    /// The parameters that are trained, in name order.
    pub fn trainable(&self) -> Vec<(String, Tensor)> {
        self.iter()
            .filter(|(_, tensor)| tensor.requires_grad())
            .map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone()))
            .collect()
    }

    /// A parameter that is trained and not of an adapter, if there is one: with adapters off, the
    /// model does not stay what it was then.
    pub fn trained_base(&self) -> Option<&str> {
        let mut all = self.iter();
        all.find(|(name, tensor)| tensor.requires_grad() && !is_adapter(name)).map(|(name, _)| name)
    }

    /// Trains the parameters for which `choose` is true, and freezes the others.
    ///
    /// ```
    /// use rlaif_lm::Parameters;
    /// use tch::{Device, Kind, Tensor};
    /// let mut parameters = Parameters::new();
    /// parameters.insert("head.weight", Tensor::zeros([2], (Kind::Float, Device::Cpu)));
    /// parameters.insert("trunk.weight", Tensor::zeros([3], (Kind::Float, Device::Cpu)));
    /// parameters.train_where(|name| name.starts_with("head"));
    /// assert_eq!(parameters.trainable().len(), 1);
    /// ```
    pub fn train_where(&self, choose: impl Fn(&str) -> bool) {
        for (name, tensor) in self.iter() {
            let fixed = self.quantized.contains(name) || self.fixed.contains(name);
            let _ = tensor.set_requires_grad(!fixed && choose(name));
        }
    }

    /// Lets another model, such as a frozen copy of this one, use this model's memory for every
    /// parameter that this model does not train. Freeze them first ([`Self::train_where`]). Returns
    /// the bytes that are no longer held twice.
    ///
    /// Only parameters that hold the same numbers are shared, so the other model computes as before.
    ///
    /// ```
    /// use rlaif_lm::Parameters;
    /// use tch::{Device, Kind, Tensor};
    /// let [policy, reference] = [1., 2.].map(|head| {
    ///     let mut parameters = Parameters::new();
    ///     parameters.insert("layers.0.weight", Tensor::ones([4], (Kind::Float, Device::Cpu)));
    ///     parameters.insert("head.weight", Tensor::full([4], head, (Kind::Float, Device::Cpu)));
    ///     parameters
    /// });
    /// policy.train_where(|name| name.starts_with("head"));
    /// assert_eq!(policy.share_frozen(&reference), 16);
    /// ```
    pub fn share_frozen(&self, reference: &Self) -> usize {
        let _guard = tch::no_grad_guard();
        let mut saved = 0;
        for (name, own) in self.iter().filter(|(_, tensor)| !tensor.requires_grad()) {
            let Some(other) = reference.get(name) else { continue };
            let same = own.kind() == other.kind()
                && own.device() == other.device()
                && own.data_ptr() != other.data_ptr()
                && own.size() == other.size()
                && own.equal(other);
            if same {
                other.shallow_clone().set_data(own);
                saved += own.numel() * own.kind().elt_size_in_bytes();
            }
        }
        saved
    }

    /// Number of scalars, tied ones once.
    pub fn count(&self) -> usize {
        self.tensors.values().map(Tensor::numel).sum()
    }

    /// Number of scalars that are trained.
    pub fn count_trainable(&self) -> usize {
        self.tensors.values().filter(|t| t.requires_grad()).map(Tensor::numel).sum()
    }
}
