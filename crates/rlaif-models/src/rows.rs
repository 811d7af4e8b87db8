//! Layers in decoding: over rows without padding, each bitwise independent of the others.

use rlaif_lm::{Dropout, TokenBatch};
use rlaif_torch::{RowActivation, RowCount, RowLinear};
use tch::{Device, Kind, Tensor};

use crate::{
    adapter::{LayerSort, Pass},
    layers::{Acting, Activation, Linear, RmsNorm, Weight},
};

/// `true` if this pass can run over rows: on the CPU, in f32 or bf16, without gradients or dropout.
pub(crate) fn serve(kind: Kind, device: Device, pass: Pass) -> bool {
    pass.dropout == Dropout::Off && rlaif_torch::rows_serve(kind, device)
}

/// Applies layers to the normed rows `x` `[M, K]`, `[M, N_i]` each.
pub(crate) fn project<const N: usize>(
    x: &Tensor,
    norm: Option<&RmsNorm>,
    layers: [&Linear; N],
    count: RowCount,
    pass: Pass,
) -> [Tensor; N] {
    let (x, norm) = &normed(x, norm);
    let norm = norm.map(RmsNorm::parts);
    let norm = norm.as_ref().map(|(weight, epsilon)| (weight, *epsilon));
    let rows = RowLinear { norm, count, ..RowLinear::default() };
    let acting = layers.map(|layer| layer.acting(pass));
    let mut results = products(rows, x, &acting).into_iter();
    acting.map(|acting| {
        let y = results.next().expect("one result for each layer");
        let Some(lora) = acting.lora else { return y };
        let kind = y.kind();
        // Adapters may have another dtype than the layer.
        let plus = |y: Tensor, [a, b]: [Tensor; 2], scale: f64| {
            let [a, b] = [a, b].map(|factor| factor.to_kind(kind));
            let low = rows.apply(x, &[(&a, None)]).remove(0) * scale;
            let layer = RowLinear { residual: Some(&y), count, ..RowLinear::default() };
            layer.apply(&low, &[(&b, None)]).remove(0)
        };
        let y = match &lora.low.start {
            Some(start) => plus(y, start.each_ref().map(Tensor::shallow_clone), -lora.low.scale),
            None => y,
        };
        let sum = plus(y, lora.low.factors.of_linear(), lora.low.scale);
        match (lora.low.ratio(|| lora.layer.dense(), LayerSort::Linear), lora.bias) {
            (None, _) => sum,
            (Some(ratio), None) => sum * ratio.to_kind(kind),
            (Some(ratio), Some(bias)) => (sum - bias) * ratio.to_kind(kind) + bias,
        }
    })
}

/// The rows, and the norm that the next layer applies first; normed rows, if the layer cannot.
fn normed<'a>(x: &Tensor, norm: Option<&'a RmsNorm>) -> (Tensor, Option<&'a RmsNorm>) {
    match norm.filter(|norm| norm.is_wide(x)) {
        Some(norm) => (norm.forward(x), None),
        None => (x.shallow_clone(), norm),
    }
}

/// The layers without their adapters.
fn products<const N: usize>(
    rows: RowLinear<'_>,
    x: &Tensor,
    acting: &[Acting<'_>; N],
) -> Vec<Tensor> {
    /// Numbers of the rows of a weight that are dequantized together.
    const TILE: i64 = 1 << 18;
    let dense: Option<Vec<_>> = acting.iter().map(Acting::dense).collect();
    if let Some(dense) = dense {
        return rows.apply(x, &dense);
    }
    let each = acting.iter().map(|layer| match layer.weight {
        Weight::Dense(weight) => rows.apply(x, &[(weight, layer.bias)]).remove(0),
        Weight::Quantized(weight) => {
            let [outputs, inputs] = weight.size();
            let most = (TILE / inputs.max(1)).clamp(1, outputs.max(1));
            let tiles = (0..outputs).step_by(usize::try_from(most).unwrap_or(1)).map(|first| {
                let count = most.min(outputs - first);
                let tile = weight.rows(first, count, x.kind());
                let bias = layer.bias.map(|bias| bias.narrow(0, first, count));
                rows.apply(x, &[(&tile, bias.as_ref())]).remove(0)
            });
            Tensor::cat(&tiles.collect::<Vec<_>>(), 1)
        }
    });
    each.collect()
}

/// `residual + layer(x)`.
pub(crate) fn add(
    residual: &Tensor,
    x: &Tensor,
    layer: &Linear,
    count: RowCount,
    pass: Pass,
) -> Tensor {
    let acting = layer.acting(pass);
    match acting.dense() {
        Some(weight) if acting.lora.is_none() => {
            let rows = RowLinear { residual: Some(residual), count, ..RowLinear::default() };
            rows.apply(x, &[weight]).remove(0)
        }
        _ => residual + &project(x, None, [layer], count, pass)[0],
    }
}

/// `act(gate(norm x)) · up(norm x)`; without a gate, `act(up(norm x))`.
pub(crate) fn gated(
    x: &Tensor,
    norm: Option<&RmsNorm>,
    gate: Option<&Linear>,
    up: &Linear,
    activation: Activation,
    count: RowCount,
    pass: Pass,
) -> Tensor {
    let acting = [gate.unwrap_or(up), up].map(|layer| layer.acting(pass));
    let plain = |acting: &Acting<'_>| acting.dense().is_some() && acting.lora.is_none();
    let dense = acting.each_ref().map(Acting::dense);
    let ([Some(first), Some(second)], true) = (dense, acting.iter().all(plain)) else {
        return match gate {
            Some(gate) => {
                let [gate, up] = project(x, norm, [gate, up], count, pass);
                activation.apply(&gate) * up
            }
            None => activation.apply(&project(x, norm, [up], count, pass)[0]),
        };
    };
    let activation = Some(match activation {
        Activation::Relu => RowActivation::Relu,
        Activation::Silu => RowActivation::Silu,
        Activation::Gelu => RowActivation::Gelu,
        Activation::GeluTanh => RowActivation::GeluTanh,
    });
    let (x, norm) = &normed(x, norm);
    let norm = norm.map(RmsNorm::parts);
    let norm = norm.as_ref().map(|(weight, epsilon)| (weight, *epsilon));
    let rows = RowLinear { norm, activation, count, ..RowLinear::default() };
    match gate {
        Some(_) => rows.gated(x, first, second),
        None => rows.apply(x, &[second]).remove(0),
    }
}

/// Rows of tokens, concatenated without padding.
pub(crate) struct PackedRows {
    /// int64 `[N]`.
    pub(crate) ids: Tensor,
    /// Number of tokens in each row.
    pub(crate) lengths: Vec<usize>,
}

impl PackedRows {
    pub(crate) fn new(batch: &TokenBatch) -> Self {
        let ids: Vec<i64> = batch.rows().iter().flatten().map(|&id| i64::from(id)).collect();
        let lengths = batch.rows().iter().map(Vec::len).collect();
        Self { ids: Tensor::from_slice(&ids).to_device(batch.ids().device()), lengths }
    }

    /// First token and number of tokens of each row that is not empty.
    fn spans(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        let mut end = 0;
        self.lengths.iter().filter(|&&length| length > 0).map(move |&length| {
            end += length as i64;
            (end - length as i64, length as i64)
        })
    }

    /// Positions in their rows, int64 `[N]`.
    pub(crate) fn positions(&self) -> Tensor {
        let positions: Vec<i64> = self.spans().flat_map(|(_, length)| 0..length).collect();
        Tensor::from_slice(&positions).to_device(self.ids.device())
    }

    /// Length of each token's row, int64 `[N]`.
    pub(crate) fn row_lengths(&self) -> Tensor {
        let each =
            self.spans().flat_map(|(_, length)| std::iter::repeat_n(length, length as usize));
        Tensor::from_slice(&each.collect::<Vec<i64>>()).to_device(self.ids.device())
    }

    /// Attention within each row: `attend` has queries, keys and values `[1, heads, T, D]` of a row
    /// of T tokens, from `[N, heads, D]`, and gives `[1, heads, T, D]`; the result is
    /// `[N, heads · D]`.
    pub(crate) fn attention(
        &self,
        qkv: [&Tensor; 3],
        attend: impl Fn([Tensor; 3], i64) -> Tensor,
    ) -> Tensor {
        let parts: Vec<Tensor> = self
            .spans()
            .map(|(start, length)| {
                let row = |x: &Tensor| x.narrow(0, start, length).unsqueeze(0).transpose(1, 2);
                let mixed = attend(qkv.map(row), length);
                mixed.squeeze_dim(0).transpose(0, 1).flatten(1, 2)
            })
            .collect();
        Tensor::cat(&parts, 0)
    }
}
