//! Frozen matrices in 4 or 8 bits, in bitsandbytes' formats, and linear layers on them.

use std::ptr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::{
    error::TorchError,
    ffi::{self, check, take},
};

/// The 16 numbers of NF4: quantiles of the normal distribution
/// ([Dettmers et al. 2023](https://arxiv.org/abs/2305.14314)).
const NF4: [f32; 16] = [
    -1.,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.,
];

/// Numbers of one scale in NF4, and scales of one scale, as bitsandbytes has them by default.
const BLOCK: i64 = 64;
const NESTED_BLOCK: i64 = 256;

/// A format of quantized weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// bitsandbytes' NF4 with double quantization: 4.13 bits per weight.
    Nf4,
    /// 8 bits with one scale for each row, the row's largest absolute value. Products are computed with the
    /// dequantized weights: LLM.int8's separate treatment of outliers in the input is not part of it.
    Int8,
}

impl Quantization {
    /// The name in run files: `nf4` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nf4 => "nf4",
            Self::Int8 => "int8",
        }
    }

    /// Bytes of a matrix of this size, in which each row is quantized apart or the whole in blocks.
    pub fn bytes(self, rows: u64, columns: u64) -> u64 {
        let numbers = rows * columns;
        match self {
            Self::Nf4 => {
                let blocks = numbers.div_ceil(BLOCK as u64);
                numbers.div_ceil(2) + blocks + 4 * blocks.div_ceil(NESTED_BLOCK as u64)
            }
            Self::Int8 => numbers + 4 * rows,
        }
    }
}

/// Scales of NF4 that are themselves codes.
#[derive(Debug)]
pub struct NestedScales {
    /// Scale of each block of scales, f32.
    pub scales: Tensor,
    /// The numbers that codes stand for, f32 `[256]`.
    pub code: Tensor,
    /// Added to each scale.
    pub offset: f64,
    /// Number of scales in a block.
    pub block: i64,
}

/// The parts of a matrix in NF4.
#[derive(Debug)]
pub struct Nf4Parts {
    /// Codes of two numbers in each byte, the first in the upper half; uint8.
    pub codes: Tensor,
    /// Scale of each block: f32, or uint8 if they are nested.
    pub scales: Tensor,
    /// Scales of the scales.
    pub nested: Option<NestedScales>,
    /// The numbers that codes stand for, f32 `[16]`.
    pub code: Tensor,
    /// Number of weights in a block.
    pub block: i64,
    /// Rows and columns.
    pub size: [i64; 2],
    /// The dtype that weights had before.
    pub kind: Kind,
}

/// A frozen matrix `[rows, columns]` in 4 or 8 bits.
///
/// ```
/// use rlaif_torch::{Quantization, Quantized, tch::{Device, Kind, Tensor}};
/// let weight = Tensor::randn([8, 64], (Kind::Float, Device::Cpu));
/// let quantized = Quantized::new(&weight, Quantization::Nf4)?;
/// let x = Tensor::ones([1, 64], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let y = quantized.linear(&x, None, None);
/// y.sum(Kind::Float).backward();
/// assert_eq!((y.size(), x.grad().size()), (vec![1, 8], vec![1, 64]));
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
#[derive(Debug)]
pub struct Quantized {
    codes: Tensor,
    scales: Tensor,
    nested: Option<NestedScales>,
    /// `None` for int8.
    code: Option<Tensor>,
    block: i64,
    size: [i64; 2],
    /// The number of the dtype that weights had before.
    kind: i32,
}

/// The number of a weight's dtype in C++.
fn number(kind: Kind) -> Result<i32, TorchError> {
    ffi::Float::of(kind).map(i32::from).ok_or_else(|| TorchError::Kind {
        operation: "quantization",
        message: format!("weights in Float, BFloat16 or Half are needed, these are {kind:?}"),
    })
}

/// As [`number`], for a dtype that the caller promises to have one.
fn expect_number(kind: Kind) -> i32 {
    number(kind).unwrap_or_else(|error| panic!("{error}"))
}

impl Quantized {
    /// Quantizes a matrix on its device, as bitsandbytes does.
    ///
    /// # Errors
    /// [`TorchError::Kind`] for a weight of another dtype than f32, bf16 and f16; [`TorchError`] if memory runs
    /// out.
    ///
    /// # Panics
    /// Unless the weight has two dimensions.
    pub fn new(weight: &Tensor, how: Quantization) -> Result<Self, TorchError> {
        let size = <[i64; 2]>::try_from(weight.size()).expect("a matrix has two dimensions");
        let kind = number(weight.kind())?;
        tch::no_grad(|| match how {
            Quantization::Nf4 => Self::nf4(weight, size, kind),
            Quantization::Int8 => Self::int8(weight, size, kind),
        })
        .map_err(TorchError::from)
    }

    fn nf4(weight: &Tensor, size: [i64; 2], kind: i32) -> Result<Self, tch::TchError> {
        let device = weight.device();
        let count = size[0] * size[1];
        let blocks = (count + BLOCK - 1) / BLOCK;
        let flat = weight.f_reshape([-1])?.f_to_kind(Kind::Float)?;
        let flat = flat.f_constant_pad_nd([0, blocks * BLOCK - count])?.f_view([blocks, BLOCK])?;
        let scales = flat.abs().f_amax([1], false)?;
        let each = scales.clamp_min(1e-38).f_reciprocal()?.unsqueeze(1);
        let scaled = flat.f_mul(&each)?.f_clamp_(-1., 1.)?.view([-1]);
        let code = Tensor::from_slice(&NF4).to_device(device);
        let indices = nearest(&scaled, &code)?.narrow(0, 0, (count + 1) / 2 * 2).view([-1, 2]);
        let codes = indices.select(1, 0) * 16 + indices.select(1, 1);
        let codes = codes.f_to_kind(Kind::Uint8)?;

        let mean = scales.mean(Kind::Float);
        let offset = mean.double_value(&[]);
        let nested_blocks = (blocks + NESTED_BLOCK - 1) / NESTED_BLOCK;
        let differences = (&scales - mean)
            .f_constant_pad_nd([0, nested_blocks * NESTED_BLOCK - blocks])?
            .f_view([nested_blocks, NESTED_BLOCK])?;
        let nested = differences.abs().f_amax([1], false)?;
        // A block of equal scales has the nested scale 0; its differences are 0 as well.
        let divisors = nested.where_self(&nested.gt(0.), &nested.ones_like()).unsqueeze(1);
        let nested_code = dynamic_map().to_device(device);
        let scales = nearest(&(differences / divisors).view([-1]), &nested_code)?;
        let scales = scales.narrow(0, 0, blocks).f_to_kind(Kind::Uint8)?;
        let nested =
            NestedScales { scales: nested, code: nested_code, offset, block: NESTED_BLOCK };
        let (nested, code) = (Some(nested), Some(code));
        Ok(Self { codes, scales, nested, code, block: BLOCK, size, kind })
    }

    fn int8(weight: &Tensor, size: [i64; 2], kind: i32) -> Result<Self, tch::TchError> {
        let wide = weight.f_to_kind(Kind::Float)?;
        let scales = wide.abs().f_amax([1], false)?;
        let steps = scales.where_self(&scales.gt(0.), &scales.ones_like()).f_reciprocal()? * 127.;
        let codes = wide.f_mul(&steps.unsqueeze(1))?.f_round_()?.f_to_kind(Kind::Int8)?;
        let block = size[1];
        Ok(Self { codes, scales, nested: None, code: None, block, size, kind })
    }

    /// A matrix in NF4 from its parts.
    ///
    /// # Panics
    /// If a part has another size or dtype than the matrix needs, or another device than the others.
    pub fn from_nf4(parts: Nf4Parts) -> Self {
        let Nf4Parts { codes, scales, nested, code, block, size, kind } = parts;
        let count = size[0] * size[1];
        let blocks = (count + block - 1) / block;
        let is = |t: &Tensor, kind, length| {
            assert!(
                t.kind() == kind && t.numel() as i64 == length && t.device() == codes.device(),
                "{:?} of {:?} does not fit a matrix of {size:?}",
                t.size(),
                t.kind()
            );
        };
        is(&codes, Kind::Uint8, (count + 1) / 2);
        is(&code, Kind::Float, 16);
        is(&scales, if nested.is_some() { Kind::Uint8 } else { Kind::Float }, blocks);
        if let Some(NestedScales { scales, code, block, .. }) = &nested {
            is(scales, Kind::Float, (blocks + block - 1) / block);
            is(code, Kind::Float, 256);
        }
        let (codes, scales) = (codes.contiguous(), scales.contiguous());
        let kind = expect_number(kind);
        Self { codes, scales, nested, code: Some(code), block, size, kind }
    }

    /// A matrix of int8 `[rows, columns]` with the largest absolute value of each row, f32 `[rows]`: the
    /// weights are `codes · scales / 127`.
    ///
    /// # Panics
    /// If sizes, dtypes or devices do not fit.
    pub fn from_int8(codes: &Tensor, scales: &Tensor, kind: Kind) -> Self {
        let size = <[i64; 2]>::try_from(codes.size()).expect("a matrix has two dimensions");
        assert!(
            codes.kind() == Kind::Int8
                && scales.kind() == Kind::Float
                && scales.size() == [size[0]]
                && scales.device() == codes.device(),
            "int8 has one f32 scale for each row"
        );
        let (codes, scales) = (codes.contiguous(), scales.contiguous());
        let kind = expect_number(kind);
        Self { codes, scales, nested: None, code: None, block: size[1], size, kind }
    }

    /// Rows and columns.
    pub fn size(&self) -> [i64; 2] {
        self.size
    }

    /// The device.
    pub fn device(&self) -> Device {
        self.codes.device()
    }

    /// Another handle on the same memory.
    pub fn shallow_clone(&self) -> Self {
        Self {
            codes: self.codes.shallow_clone(),
            scales: self.scales.shallow_clone(),
            nested: self.nested.as_ref().map(|nested| NestedScales {
                scales: nested.scales.shallow_clone(),
                code: nested.code.shallow_clone(),
                ..*nested
            }),
            code: self.code.as_ref().map(Tensor::shallow_clone),
            ..*self
        }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let nested = self.nested.as_ref();
        let parts = [Some(&self.codes), Some(&self.scales), nested.map(|nested| &nested.scales)];
        parts.into_iter().flatten().map(|t| t.numel() * t.kind().elt_size_in_bytes()).sum()
    }

    fn call(&self) -> ffi::Quantized {
        let or_null = |t: Option<&Tensor>| t.map_or(ptr::null(), Tensor::as_ptr);
        let nested = self.nested.as_ref();
        ffi::Quantized {
            codes: self.codes.as_ptr(),
            scales: self.scales.as_ptr(),
            nested: or_null(nested.map(|nested| &nested.scales)),
            nested_code: or_null(nested.map(|nested| &nested.code)),
            code: or_null(self.code.as_ref()),
            offset: nested.map_or(0., |nested| nested.offset),
            rows: self.size[0],
            columns: self.size[1],
            block: self.block,
            nested_block: nested.map_or(1, |nested| nested.block),
            kind: self.kind,
        }
    }

    /// The weights `[rows, columns]` in f32, bf16 or f16.
    pub fn dense(&self, kind: Kind) -> Tensor {
        self.rows(0, self.size[0], kind)
    }

    /// Some rows of the weights in f32, bf16 or f16.
    ///
    /// # Panics
    /// If the matrix has fewer rows, or for another dtype.
    pub fn rows(&self, first: i64, count: i64, kind: Kind) -> Tensor {
        assert!(first >= 0 && count >= 0 && first + count <= self.size[0], "rows of the matrix");
        let to = expect_number(kind);
        let call = self.call();
        let mut out = ptr::null_mut();
        // SAFETY: the tensors outlive the call, have the sizes and dtypes that the constructors check, and
        // the rows exist; `out` is written only on success.
        let status =
            unsafe { ffi::rlaif_dequantize(&raw const call, first, count, to, &raw mut out) };
        if let Err(error) = check("dequantization", status) {
            panic!("{error}");
        }
        // SAFETY: written by the successful call, and taken once.
        unsafe { take(out) }
    }

    /// `x Wᵀ + bias + residual` for `x` `[.., columns]`, `[.., rows]`. The gradient is that of `x`, the bias
    /// and the residual. Forward and backward pass dequantize the weights a few rows at a time.
    ///
    /// # Panics
    /// If the shapes or devices do not fit.
    pub fn linear(&self, x: &Tensor, bias: Option<&Tensor>, residual: Option<&Tensor>) -> Tensor {
        assert_eq!(x.size().last(), Some(&self.size[1]), "inputs have a number for each column");
        let call = self.call();
        let or_null = |t: Option<&Tensor>| t.map_or(ptr::null(), Tensor::as_ptr);
        let mut out = ptr::null_mut();
        // SAFETY: as in `rows`.
        let status = unsafe {
            ffi::rlaif_quantized_linear(
                x.as_ptr(),
                &raw const call,
                or_null(bias),
                or_null(residual),
                &raw mut out,
            )
        };
        if let Err(error) = check("a linear layer on quantized weights", status) {
            panic!("{error}");
        }
        // SAFETY: written by the successful call, and taken once.
        unsafe { take(out) }
    }
}

/// The index of the nearest of `code`'s numbers, which ascend; of two equally near the first.
fn nearest(x: &Tensor, code: &Tensor) -> Result<Tensor, tch::TchError> {
    let length = code.size()[0] - 1;
    let middles = (code.narrow(0, 0, length) + code.narrow(0, 1, length)) / 2.;
    x.f_bucketize(&middles, true, false)
}

/// The 256 numbers of bitsandbytes' dynamic 8-bit type: fractions of 0 to 6 bits for each power of ten.
fn dynamic_map() -> Tensor {
    let options = (Kind::Float, Device::Cpu);
    let mut all = vec![Tensor::from_slice(&[0f32, 1.])];
    for (bits, power) in [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.].into_iter().enumerate() {
        let count = 1 << bits;
        let bounds = Tensor::linspace(0.1, 1., count + 1, options);
        let means = (bounds.narrow(0, 0, count) + bounds.narrow(0, 1, count)) / 2.;
        let scaled = means * power;
        all.push(-&scaled);
        all.push(scaled);
    }
    Tensor::cat(&all, 0).sort(0, false).0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn randn(size: [i64; 2]) -> Tensor {
        Tensor::randn(size, (Kind::Float, Device::Cpu))
    }

    /// The largest distance of two neighbours in NF4 is 0.304.
    #[test]
    fn numbers_are_near_what_they_were() {
        tch::manual_seed(1);
        for size in [[3, 64], [5, 33], [1, 1], [40, 1000], [7, 2]] {
            let weight = randn(size);
            for (how, most) in [(Quantization::Nf4, 0.16), (Quantization::Int8, 0.004)] {
                let quantized = Quantized::new(&weight, how).unwrap();
                let dense = quantized.dense(Kind::Float);
                let largest = weight.abs().max().double_value(&[]);
                let distance = (&dense - &weight).abs().max().double_value(&[]);
                assert!(distance <= most * largest, "{how:?} {size:?}: {distance} of {largest}");
                let bytes = how.bytes(size[0] as u64, size[1] as u64);
                assert_eq!(quantized.bytes() as u64, bytes, "{how:?} {size:?}");
                // Rows alone, and other dtypes, are the same numbers.
                let last = size[0] - 1;
                assert_eq!(quantized.rows(last, 1, Kind::Float), dense.narrow(0, last, 1));
                for kind in [Kind::BFloat16, Kind::Half] {
                    assert_eq!(quantized.dense(kind), dense.to_kind(kind), "{how:?} {size:?}");
                }
            }
        }
    }

    #[test]
    fn linear_layers_and_their_gradients_are_those_of_the_dense_weight() {
        tch::manual_seed(2);
        // The second has several tiles.
        for size in [[6, 64], [1100, 4096], [5, 33]] {
            let (weight, bias) = (randn(size), randn([1, size[0]]).squeeze());
            for how in [Quantization::Nf4, Quantization::Int8] {
                for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
                    let quantized = Quantized::new(&weight.to_kind(kind), how).unwrap();
                    let input = || randn([7, size[1]]).view([1, 7, size[1]]).to_kind(kind);
                    tch::manual_seed(3);
                    let (x, residual) = (input().set_requires_grad(true), randn([7, size[0]]));
                    let residual = residual.view([1, 7, size[0]]).to_kind(kind);
                    let (bias, residual) = (
                        bias.to_kind(kind).detach().set_requires_grad(true),
                        residual.set_requires_grad(true),
                    );
                    let y = quantized.linear(&x, Some(&bias), Some(&residual));
                    let dense = quantized.dense(Kind::Float).to_kind(Kind::Double);
                    let want =
                        x.to_kind(Kind::Double).linear(&dense, Some(&bias.to_kind(Kind::Double)))
                            + &residual;
                    let pull = randn([7, size[0]]).view([1, 7, size[0]]);
                    let grads = |y: &Tensor| {
                        let loss = (y.to_kind(Kind::Double) * &pull).sum(Kind::Double);
                        Tensor::run_backward(&[loss], &[&x, &bias, &residual], true, false)
                    };
                    let tolerance = if kind == Kind::Float { 1e-5 } else { 2e-2 };
                    let close = |got: &Tensor, want: &Tensor| {
                        let scale = want.abs().max().double_value(&[]).max(1.);
                        let distance = (got.to_kind(Kind::Double) - want).abs().max();
                        let distance = distance.double_value(&[]);
                        assert!(
                            distance < tolerance * scale,
                            "{how:?} {kind:?} {distance} {scale}"
                        );
                    };
                    close(&y, &want);
                    for (got, want) in grads(&y).iter().zip(grads(&want)) {
                        close(got, &want);
                    }
                }
            }
        }
    }
}
