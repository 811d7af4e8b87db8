//! Layers shared by several architectures: linear layers, norms, attention, activations.

use std::collections::BTreeMap;

use rlaif_checkpoint::AdapterKey;
use rlaif_lm::{Dropout, HeadAdapter, VocabHead};
use rlaif_torch::{AttentionOptions, Gate, Keys, Quantized, RowLinear, RowWeight};
use tch::{Kind, Tensor};

use crate::{
    adapter::{Adapter, Form, LayerSort, Low, Part, Pass},
    error::ModelError,
    recompute::Shallow,
    weights::{Init, MatrixOrder, TensorTree},
};

/// A linear layer `y = x Wᵀ + b`, and the adapters on it.
#[derive(Debug)]
pub struct Linear {
    /// Path in the checkpoint, without `.weight`.
    pub(crate) path: String,
    /// `[outputs, inputs]`. With quantized weights, NaN without memory, which has their size, dtype and
    /// device.
    pub(crate) weight: Tensor,
    /// The weights in 4 or 8 bits, instead of `weight`.
    pub(crate) quantized: Option<Box<Quantized>>,
    pub(crate) bias: Option<Tensor>,
    /// `true` if the checkpoint stores the weight as `[inputs, outputs]`.
    pub(crate) stored: MatrixOrder,
    pub(crate) sort: LayerSort,
    /// The name of the parameter whose tensor this layer shares; `None` for a tensor of its own.
    pub(crate) tied: Option<Box<str>>,
    /// By index in the model's [`crate::adapter::AdapterSet`].
    pub(crate) adapters: BTreeMap<usize, Adapter>,
}

/// Bias of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    /// With a bias.
    Present,
    /// Without a bias.
    Absent,
}

impl From<bool> for Bias {
    fn from(present: bool) -> Self {
        if present { Self::Present } else { Self::Absent }
    }
}

impl Linear {
    /// The layer at this path of a model; without a checkpoint, its weight is normal with this
    /// standard deviation.
    pub fn load(weights: &TensorTree<'_>, inputs: i64, outputs: i64, bias: Bias, std: f64) -> Self {
        Self::load_stored(weights, [inputs, outputs], bias, std, MatrixOrder::OutputsFirst)
    }

    /// The same for checkpoints that store the weight in this order. In memory, it is
    /// `[outputs, inputs]`.
    pub fn load_stored(
        weights: &TensorTree<'_>,
        [inputs, outputs]: [i64; 2],
        bias: Bias,
        std: f64,
        stored: MatrixOrder,
    ) -> Self {
        let matrix = weights.matrix([outputs, inputs], Init::Normal { std }, stored);
        Self::of(weights, matrix, outputs, bias, stored)
    }

    fn of(
        weights: &TensorTree<'_>,
        (weight, quantized): (Tensor, Option<Quantized>),
        outputs: i64,
        bias: Bias,
        stored: MatrixOrder,
    ) -> Self {
        Self {
            path: weights.path().to_owned(),
            weight,
            quantized: quantized.map(Box::new),
            bias: (bias == Bias::Present).then(|| weights.tensor("bias", &[outputs], Init::Zeros)),
            stored,
            sort: LayerSort::Linear,
            tied: None,
            adapters: BTreeMap::new(),
        }
    }

    /// A layer without bias that shares the tensor of the parameter `name`.
    pub(crate) fn tied(path: &str, name: &str, weight: &Tensor) -> Self {
        Self {
            path: path.to_owned(),
            weight: weight.shallow_clone(),
            quantized: None,
            bias: None,
            stored: MatrixOrder::OutputsFirst,
            sort: LayerSort::Linear,
            tied: Some(name.into()),
            adapters: BTreeMap::new(),
        }
    }

    /// The name of the parameter that is this layer's weight.
    pub(crate) fn parameter(&self) -> String {
        self.tied.as_deref().map_or_else(|| format!("{}.weight", self.path), str::to_owned)
    }

    /// The tensors of an adapter `name` that is on this layer.
    pub(crate) fn parts_of(&self, adapter: &Adapter, name: &str) -> Vec<Part> {
        adapter.tensors(name, &self.path, self.sort)
    }

    /// `true` for the matrix of a layer that is kept as a whole, where the base's checkpoint stores
    /// that matrix as `[inputs, outputs]`: peft stores the copy alike.
    pub(crate) fn stores_transposed(&self, key: &AdapterKey) -> bool {
        let matrix = |parameter: &str| parameter.ends_with(".weight");
        self.stored == MatrixOrder::InputsFirst
            && matches!(key, AdapterKey::Saved { parameter } if matrix(parameter))
    }

    /// The adapter active in this pass; `None` without one, and while it is merged.
    fn adapter(&self, pass: Pass) -> Option<&Adapter> {
        self.adapters.get(&pass.adapter?).filter(|adapter| adapter.merged_over.is_none())
    }

    /// The weight of the base, dequantized if it is in 4 or 8 bits.
    pub(crate) fn dense(&self) -> Tensor {
        match &self.quantized {
            Some(quantized) => quantized.dense(self.weight.kind()),
            None => self.weight.shallow_clone(),
        }
    }

    /// Maps `[.., inputs]` to `[.., outputs]`.
    pub fn forward(&self, x: &Tensor, pass: Pass) -> Tensor {
        let [y] = Self::project([self], x, pass);
        y
    }

    /// `residual + forward(x)`, `residual` being `[.., outputs]`.
    pub fn onto(&self, residual: &Tensor, x: &Tensor, pass: Pass) -> Tensor {
        let Acting { weight, bias, lora } = self.acting(pass);
        if lora.as_ref().is_some_and(|lora| lora.low.magnitude.is_some()) {
            return residual + self.forward(x, pass);
        }
        let sum = match weight {
            Weight::Dense(weight) => rlaif_torch::linear_onto(residual, x, weight, bias),
            Weight::Quantized(weight) => weight.linear(x, bias, Some(residual)),
        };
        adapted(sum, lora.as_ref(), x, pass)
    }

    /// Weight, bias and LoRA adapter for this pass.
    pub(crate) fn acting(&self, pass: Pass) -> Acting<'_> {
        let weight =
            self.quantized.as_deref().map_or(Weight::Dense(&self.weight), Weight::Quantized);
        let bias = self.bias.as_ref();
        match self.adapter(pass).map(|adapter| &adapter.form) {
            None => Acting { weight, bias, lora: None },
            Some(Form::Lora(low)) => {
                let bias = low.bias.as_ref().or(bias);
                Acting { weight, bias, lora: Some(Lora { low, layer: self, bias }) }
            }
            Some(Form::Replacement { weight, bias }) => {
                Acting { weight: Weight::Dense(weight), bias: bias.as_ref(), lora: None }
            }
        }
    }

    /// Applies several layers to one input, `[.., inputs]` to `[.., outputs]` each.
    pub(crate) fn project<const N: usize>(
        layers: [&Self; N],
        x: &Tensor,
        pass: Pass,
    ) -> [Tensor; N] {
        let acting = layers.map(|layer| layer.acting(pass));
        let mut made = linears(x, &acting).into_iter();
        acting.map(|acting| {
            let y = made.next().expect("one result for each layer");
            adapted(y, acting.lora.as_ref(), x, pass)
        })
    }

    /// This layer as a vocabulary head that first multiplies hidden states by `scale`.
    pub fn vocab_head(&self, scale: f64, pass: Pass) -> VocabHead {
        let mut head = VocabHead {
            weight: self.dense(),
            bias: self.bias.as_ref().map(Tensor::shallow_clone),
            scale,
            cap: None,
            adapter: None,
        };
        match self.adapter(pass).map(|adapter| &adapter.form) {
            Some(Form::Lora(low)) => {
                let [mut a, mut b] = low.factors.of_linear();
                if let Some([first_a, first_b]) = &low.start {
                    a = Tensor::cat(&[&a, first_a], 0);
                    b = Tensor::cat(&[b, -first_b], 1);
                }
                let ratio = low.ratio(|| self.dense(), LayerSort::Linear);
                head.adapter = Some(HeadAdapter { a, b, scale: low.scale, ratio });
                if let Some(bias) = &low.bias {
                    head.bias = Some(bias.shallow_clone());
                }
            }
            Some(Form::Replacement { weight, bias }) => {
                head.weight = weight.shallow_clone();
                head.bias = bias.as_ref().map(Tensor::shallow_clone);
            }
            None => {}
        }
        head
    }
}

impl Shallow for Linear {
    fn handle(&self) -> Self {
        Self {
            path: self.path.clone(),
            weight: self.weight.shallow_clone(),
            quantized: self.quantized.as_deref().map(|weight| Box::new(weight.shallow_clone())),
            bias: self.bias.as_ref().map(Tensor::shallow_clone),
            stored: self.stored,
            sort: self.sort,
            tied: self.tied.clone(),
            adapters: self.adapters.iter().map(|(&slot, a)| (slot, a.handle())).collect(),
        }
    }
}

/// The weights of a layer in a pass.
#[derive(Clone, Copy)]
pub(crate) enum Weight<'a> {
    Dense(&'a Tensor),
    Quantized(&'a Quantized),
}

/// A layer in a pass: its weights and bias, and the adapter that adds to them.
pub(crate) struct Acting<'a> {
    pub(crate) weight: Weight<'a>,
    pub(crate) bias: Option<&'a Tensor>,
    pub(crate) lora: Option<Lora<'a>>,
}

impl<'a> Acting<'a> {
    /// Weight and bias, unless the weight is quantized.
    pub(crate) fn dense(&self) -> Option<RowWeight<'a>> {
        match self.weight {
            Weight::Dense(weight) => Some((weight, self.bias)),
            Weight::Quantized(_) => None,
        }
    }
}

/// The layers without their adapters, in one operation if all or none have a bias.
fn linears<const N: usize>(x: &Tensor, acting: &[Acting<'_>; N]) -> [Tensor; N] {
    let dense: Option<Vec<RowWeight<'_>>> = acting.iter().map(Acting::dense).collect();
    let Some(layers) = dense.and_then(|dense| <[RowWeight<'_>; N]>::try_from(dense).ok()) else {
        return acting.each_ref().map(|layer| match layer.weight {
            Weight::Dense(weight) => rlaif_torch::linear(x, weight, layer.bias),
            Weight::Quantized(weight) => weight.linear(x, layer.bias, None),
        });
    };
    let (weights, biases) = (layers.map(|(weight, _)| weight), layers.map(|(_, bias)| bias));
    if biases.iter().all(Option::is_none) {
        return rlaif_torch::linears(x, weights, None);
    }
    let all: Option<Vec<&Tensor>> = biases.into_iter().collect();
    match all.and_then(|all| <[&Tensor; N]>::try_from(all).ok()) {
        Some(biases) => rlaif_torch::linears(x, weights, Some(biases)),
        None => layers.map(|(weight, bias)| rlaif_torch::linear(x, weight, bias)),
    }
}

/// A LoRA adapter and the layer that it is on.
pub(crate) struct Lora<'a> {
    pub(crate) low: &'a Low,
    pub(crate) layer: &'a Linear,
    pub(crate) bias: Option<&'a Tensor>,
}

/// `y`, a layer's output for `x`, plus the output of its adapter. `y` is bitwise the same with and
/// without an adapter, so that an adapter with output 0 changes nothing.
fn adapted(y: Tensor, lora: Option<&Lora<'_>>, x: &Tensor, pass: Pass) -> Tensor {
    let Some(Lora { low, layer, bias }) = lora else { return y };
    let kind = y.kind();
    let through = |x: &Tensor, a: &Tensor, b: &Tensor| {
        (x.linear(a, None::<&Tensor>) * low.scale).linear(b, None::<&Tensor>)
    };
    let [a, b] = low.factors.of_linear();
    let x = x.to_kind(a.kind());
    let less = |y: Tensor, x: &Tensor| match &low.start {
        Some([a, b]) => (&y - through(x, a, b)).to_kind(kind),
        None => y,
    };
    let y = less(y, &x);
    let dropped = dropout(x.shallow_clone(), low.dropout, pass.dropout);
    let added = through(&dropped, &a, &b);
    let Some(ratio) = low.ratio(|| layer.dense(), LayerSort::Linear) else {
        return (&y + added).to_kind(kind);
    };
    // The base's product, of the input that the factors have: as in peft, dropout affects it, too.
    let product = match bias {
        _ if pass.dropout_p(low.dropout) > 0. => {
            let dropped = dropped.to_kind(kind);
            let product = match &layer.quantized {
                Some(weight) => weight.linear(&dropped, None, None),
                None => dropped.linear(&layer.weight, None::<&Tensor>),
            };
            less(product, &dropped.to_kind(a.kind()))
        }
        Some(bias) => &y - *bias,
        None => y.shallow_clone(),
    };
    (&y + (&ratio - 1.) * product + ratio * added).to_kind(kind)
}

/// RMS norm, `w · x / sqrt(mean(x²) + ε)`, statistics in f32.
#[derive(Debug)]
pub struct RmsNorm {
    weight: Tensor,
    epsilon: f64,
    factor: NormFactor,
}

/// The factor of a norm with the weight w.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NormFactor {
    Weight,
    /// 1 + w.
    OnePlusWeight,
}

impl RmsNorm {
    /// The norm at this path of a model.
    pub fn load(weights: &TensorTree<'_>, size: i64, epsilon: f64) -> Self {
        let weight = weights.tensor("weight", &[size], Init::Ones);
        Self { weight, epsilon, factor: NormFactor::Weight }
    }

    /// The norm `(1 + w) · x / sqrt(mean(x²) + ε)` at this path of a model, as in Gemma.
    pub fn load_plus_one(weights: &TensorTree<'_>, size: i64, epsilon: f64) -> Self {
        let weight = weights.tensor("weight", &[size], Init::Zeros);
        Self { weight, epsilon, factor: NormFactor::OnePlusWeight }
    }

    /// The norm of `x`, `[.., size]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let y = rlaif_torch::rms_norm(x, &self.factor(), self.epsilon);
        if self.is_wide(x) { y.to_kind(x.kind()) } else { y }
    }

    /// `true` if the norm of `x` is multiplied by a factor in f32, as in transformers: 1 + w would lose the
    /// last bits of w.
    pub(crate) fn is_wide(&self, x: &Tensor) -> bool {
        self.factor == NormFactor::OnePlusWeight && x.kind() != Kind::Float
    }

    /// The norm of `x`, and `x` itself for the residual connection.
    pub(crate) fn before(&self, x: &Tensor) -> (Tensor, Tensor) {
        if self.is_wide(x) {
            return (self.forward(x), x.shallow_clone());
        }
        rlaif_torch::rms_norm_beside(x, &self.factor(), self.epsilon)
    }

    /// The factor, and ε.
    pub(crate) fn parts(&self) -> (Tensor, f64) {
        (self.factor(), self.epsilon)
    }

    fn factor(&self) -> Tensor {
        match (self.factor, self.weight.kind()) {
            (NormFactor::Weight, _) => self.weight.shallow_clone(),
            (NormFactor::OnePlusWeight, Kind::Half | Kind::BFloat16) => {
                self.weight.to_kind(Kind::Float) + 1.
            }
            (NormFactor::OnePlusWeight, _) => &self.weight + 1.,
        }
    }
}

impl Shallow for RmsNorm {
    fn handle(&self) -> Self {
        Self { weight: self.weight.shallow_clone(), ..*self }
    }
}

/// Layer norm with scale and shift.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Option<Tensor>,
    epsilon: f64,
}

impl LayerNorm {
    /// The norm at this path of a model.
    pub fn load(weights: &TensorTree<'_>, size: i64, epsilon: f64) -> Self {
        Self::load_with(weights, size, epsilon, Bias::Present)
    }

    /// The same with a shift or without.
    pub(crate) fn load_with(weights: &TensorTree<'_>, size: i64, epsilon: f64, bias: Bias) -> Self {
        Self {
            weight: weights.tensor("weight", &[size], Init::Ones),
            bias: (bias == Bias::Present).then(|| weights.tensor("bias", &[size], Init::Zeros)),
            epsilon,
        }
    }

    /// The norm of `x`, `[.., size]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let size = self.weight.size();
        x.layer_norm(size, Some(&self.weight), self.bias.as_ref(), self.epsilon, false)
    }
}

impl Shallow for LayerNorm {
    fn handle(&self) -> Self {
        Self {
            weight: self.weight.shallow_clone(),
            bias: self.bias.handle(),
            epsilon: self.epsilon,
        }
    }
}

/// A norm of either kind.
#[derive(Debug)]
pub(crate) enum Norm {
    Rms(RmsNorm),
    Layer(LayerNorm),
}

impl Norm {
    /// The norm of `x`, `[.., size]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        match self {
            Self::Rms(norm) => norm.forward(x),
            Self::Layer(norm) => norm.forward(x),
        }
    }

    /// The norm of `x`, and `x` itself for the residual connection.
    pub(crate) fn before(&self, x: &Tensor) -> (Tensor, Tensor) {
        match self {
            Self::Rms(norm) => norm.before(x),
            Self::Layer(norm) => (norm.forward(x), x.shallow_clone()),
        }
    }
}

impl Shallow for Norm {
    fn handle(&self) -> Self {
        match self {
            Self::Rms(norm) => Self::Rms(norm.handle()),
            Self::Layer(norm) => Self::Layer(norm.handle()),
        }
    }
}

/// A table of embeddings `[rows, size]`, and the adapters on it.
#[derive(Debug)]
pub struct Embedding {
    /// A linear layer for one-hot inputs.
    pub(crate) table: Linear,
    /// The id whose row has no gradient, as transformers' padding index; -1 for none.
    padding: i64,
}

impl Embedding {
    /// The table, `[rows, size]`.
    pub fn weight(&self) -> &Tensor {
        &self.table.weight
    }

    /// The table at this path of a model; without a checkpoint normal with this standard deviation.
    pub fn load(weights: &TensorTree<'_>, rows: i64, size: i64, std: f64) -> Self {
        let weight = weights.tensor("weight", &[rows, size], Init::Normal { std });
        let table =
            Linear::of(weights, (weight, None), size, Bias::Absent, MatrixOrder::OutputsFirst);
        Self { table: Linear { sort: LayerSort::Table, ..table }, padding: -1 }
    }

    /// A table at another path that shares the tensor of the parameter `name`.
    pub(crate) fn tied(path: &str, name: &str, weight: &Tensor) -> Self {
        Self {
            table: Linear { sort: LayerSort::Table, ..Linear::tied(path, name, weight) },
            padding: -1,
        }
    }

    /// The same with an id whose row has no gradient.
    pub(crate) fn with_padding(self, id: Option<u32>) -> Self {
        Self { padding: id.map_or(-1, i64::from), ..self }
    }

    fn look_up(&self, table: &Tensor, ids: &Tensor) -> Tensor {
        Tensor::embedding(table, ids, self.padding, false, false)
    }

    /// Maps ids `[..]` to `[.., size]`.
    pub fn forward(&self, ids: &Tensor) -> Tensor {
        self.look_up(&self.table.weight, ids)
    }

    /// The same with the adapter active in this pass. As in peft, dropout leaves factors of embeddings out.
    pub fn adapted(&self, ids: &Tensor, pass: Pass) -> Tensor {
        match self.table.adapter(pass).map(|adapter| &adapter.form) {
            None => self.forward(ids),
            Some(Form::Replacement { weight, .. }) => self.look_up(weight, ids),
            Some(Form::Lora(adapter)) => {
                let y = self.forward(ids);
                let [a, b] = adapter.factors.of_table();
                let low = self.look_up(&a.tr(), ids) * adapter.scale;
                let added = if low.requires_grad() || !rlaif_torch::rows_serve(b.kind(), b.device())
                {
                    low.linear(&b, None::<&Tensor>)
                } else {
                    // Each row independent of the others, as decoding is.
                    let rows = low.reshape([-1, b.size()[1]]);
                    RowLinear::default().apply(&rows, &[(&b, None)]).remove(0).view_as(&y)
                };
                let sum = &y + added;
                match adapter.ratio(|| self.table.dense(), LayerSort::Table) {
                    Some(ratio) => sum * ratio,
                    None => sum,
                }
                .to_kind(y.kind())
            }
        }
    }
}

/// Dropout with probability `p` if the forward pass enables it.
pub(crate) fn dropout(x: Tensor, p: f64, switch: Dropout) -> Tensor {
    match switch {
        Dropout::On if p > 0. => x.dropout(p, true),
        Dropout::On | Dropout::Off => x,
    }
}

/// An activation by its name in config.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    Relu,
    Silu,
    /// x Φ(x).
    Gelu,
    /// The tanh approximation: `gelu_new`, `gelu_pytorch_tanh`, `gelu_fast`.
    GeluTanh,
}

impl Activation {
    pub(crate) fn parse(field: &'static str, name: &str) -> Result<Self, ModelError> {
        Ok(match name {
            "relu" => Self::Relu,
            "silu" | "swish" => Self::Silu,
            "gelu" => Self::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Self::GeluTanh,
            _ => {
                return Err(ModelError::UnsupportedField {
                    file: None,
                    field,
                    found: name.to_owned(),
                    supported: "relu, silu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast",
                });
            }
        })
    }

    pub(crate) fn apply(self, x: &Tensor) -> Tensor {
        match self {
            Self::Relu => x.relu(),
            Self::Silu => x.silu(),
            Self::Gelu => x.gelu("none"),
            Self::GeluTanh => x.gelu("tanh"),
        }
    }

    /// `act(gate) · up`.
    pub(crate) fn gated(self, gate: &Tensor, up: &Tensor) -> Tensor {
        match self {
            Self::Silu => rlaif_torch::gated(gate, up, Gate::Silu),
            Self::GeluTanh => rlaif_torch::gated(gate, up, Gate::GeluTanh),
            Self::Relu | Self::Gelu => self.apply(gate) * up,
        }
    }
}

/// Keys visible to a query, apart from padding.
#[derive(Debug)]
pub(crate) enum Visible<'a> {
    /// All of them.
    All,
    /// Keys up to the query's own position.
    Causal,
    /// An additive bias, broadcast to `[B, heads, T, S]`.
    Bias(&'a Tensor),
}

impl Visible<'_> {
    /// The bias, if there is one.
    pub(crate) fn bias(&self) -> Option<&Tensor> {
        match self {
            Self::Bias(bias) => Some(bias),
            Self::All | Self::Causal => None,
        }
    }
}

/// Scaled dot-product attention of `[B, heads, T, D]` with `[B, heads, S, D]`, for decoding: keys
/// and values are read in place from the cache.
pub(crate) fn attend(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    visible: &Visible<'_>,
    scale: f64,
    dropout_p: f64,
) -> Tensor {
    let (mask, causal) = match visible {
        Visible::All => (None, false),
        Visible::Causal => (None, true),
        Visible::Bias(bias) => (Some(*bias), false),
    };
    Tensor::scaled_dot_product_attention(q, k, v, mask, dropout_p, causal, scale, false)
}

/// [`rlaif_torch::attention`] of `[B, T, heads, D]` to `[B, S, kv, D]`, as `[B, T, heads · D]`.
pub(crate) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    visible: &Visible<'_>,
    scale: f64,
    dropout: f64,
) -> Tensor {
    let (keys, mask) = match visible {
        Visible::All => (Keys::All, None),
        Visible::Causal => (Keys::Causal, None),
        Visible::Bias(bias) => (Keys::All, Some(*bias)),
    };
    let options =
        AttentionOptions { head_dim: None, scale, keys, bias: None, mask, rows: None, dropout };
    rlaif_torch::attention(q, k, v, &options)
}

/// `[.., heads · D]` to `[.., heads, D]`.
pub(crate) fn in_heads(x: &Tensor, heads: i64, head_dim: i64) -> Tensor {
    let mut size = x.size();
    size.pop();
    size.extend([heads, head_dim]);
    x.view(size.as_slice())
}

/// The bias of a hidden key: the lowest finite number rather than -∞, so that a padded query
/// without visible keys gives a finite row.
pub(crate) fn hide(visible: &Tensor, kind: Kind) -> Tensor {
    let zeros = Tensor::zeros(visible.size(), (kind, visible.device()));
    zeros.masked_fill(&visible.logical_not(), lowest(kind))
}

/// Half of the lowest finite number of a dtype: a bias can be added without overflow.
pub(crate) fn lowest(kind: Kind) -> f64 {
    match kind {
        Kind::Half => -32_752.,
        Kind::Double => f64::MIN / 2.,
        _ => f64::from(f32::MIN) / 2.,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// transformers multiplies by 1 + w in f32. In bf16, 1 + w would lose most bits of a small w.
    #[test]
    fn the_norm_of_gemma_in_bf16_is_that_of_transformers() {
        let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models");
        for name in ["gemma2", "gemma3"] {
            let read = |file: &str| -> BTreeMap<String, Tensor> {
                let file = format!("{models}/{name}/{file}.safetensors");
                Tensor::read_safetensors(file).unwrap().into_iter().collect()
            };
            let (weights, goldens) = (read("model"), read("goldens"));
            let weight = weights["model.norm.weight"].to_kind(Kind::BFloat16);
            let norm = RmsNorm { weight, epsilon: 1e-6, factor: NormFactor::OnePlusWeight };
            let (x, want) = (&goldens["bf16.norm.in"], &goldens["bf16.norm.out"]);
            let equal = |got: &Tensor| {
                assert_eq!(got.kind(), Kind::BFloat16);
                got.eq_tensor(want).to_kind(Kind::Float).mean(Kind::Float).double_value(&[])
            };
            assert!(equal(&norm.forward(x)) > 0.995, "{name}");
            assert!(equal(&norm.before(x).0) > 0.995, "{name}");
            let rounded =
                RmsNorm { weight: &norm.weight + 1., epsilon: 1e-6, factor: NormFactor::Weight };
            assert!(equal(&rounded.forward(x)) < 0.9, "{name}");
        }
    }
}
