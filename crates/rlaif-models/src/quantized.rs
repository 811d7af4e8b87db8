//! Weights in 4 or 8 bits of checkpoints that bitsandbytes quantized.

use rlaif_checkpoint::{Checkpoint, Dtype};
use rlaif_torch::{NestedScales, Nf4Parts, Quantization, Quantized};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::error::{ModelError, TensorProblem};

/// Ending of the tensor in which bitsandbytes describes a matrix in NF4.
const STATE: &str = ".quant_state.bitsandbytes__nf4";
/// Endings of the other tensors of a quantized matrix.
const PARTS: [&str; 5] =
    [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".nested_offset"];

/// The dtypes of parts, and tch's names of them.
const BYTES: (Dtype, Kind) = (Dtype::U8, Kind::Uint8);
const FLOATS: (Dtype, Kind) = (Dtype::F32, Kind::Float);

/// bitsandbytes' description of a matrix in NF4.
#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: i64,
    dtype: String,
    shape: Vec<i64>,
    #[serde(default)]
    nested_blocksize: Option<i64>,
    #[serde(default)]
    nested_offset: Option<f64>,
}

/// `true` if a checkpoint has this matrix in bitsandbytes' NF4 or int8.
pub(crate) fn is_quantized(checkpoint: &Checkpoint, name: &str) -> bool {
    let tensors = checkpoint.tensors();
    let bytes = tensors.get(name).is_some_and(|info| matches!(info.dtype, Dtype::U8 | Dtype::I8));
    let has = |ending: &str| tensors.contains_key(&format!("{name}{ending}"));
    bytes || has(STATE) || has(".absmax")
}

/// `true` for the names of tensors in a checkpoint that belong to a quantized matrix.
pub(crate) fn is_part(name: &str) -> bool {
    let of_weight =
        |ending: &str| name.strip_suffix(ending).is_some_and(|of| of.ends_with(".weight"));
    of_weight(STATE)
        || PARTS.into_iter().any(of_weight)
        || name.ends_with(".SCB")
        || name.ends_with(".weight_format")
}

/// The part of a matrix that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The description, which is checked.
    Headers,
    /// The numbers as well.
    Numbers,
}

/// A matrix of a checkpoint.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    /// The name of its weight.
    pub(crate) name: &'a str,
    /// Rows and columns.
    pub(crate) size: [i64; 2],
    pub(crate) reading: Reading,
}

/// A problem of a quantized matrix.
fn problem(name: &str, part: &str, expected: String, found: String) -> TensorProblem {
    let name = format!("{name}{part}");
    TensorProblem::Quantized { name, expected, found }
}

fn unreadable(name: String, source: ModelError) -> TensorProblem {
    TensorProblem::Unreadable { name, source: Box::new(source) }
}

/// The format in which a checkpoint has a matrix in 4 or 8 bits, by its dtype; `None` for other dtypes.
pub(crate) fn stored_as(checkpoint: &Checkpoint, name: &str) -> Option<Quantization> {
    match checkpoint.tensors().get(name)?.dtype {
        Dtype::I8 => Some(Quantization::Int8),
        Dtype::U8 => Some(Quantization::Nf4),
        Dtype::F64
        | Dtype::F32
        | Dtype::F16
        | Dtype::BF16
        | Dtype::I64
        | Dtype::I32
        | Dtype::I16
        | Dtype::Bool => None,
    }
}

impl Matrix<'_> {
    /// The matrix on a device; `None` if only its description is read.
    pub(crate) fn read(&self, device: Device) -> Result<Option<Quantized>, TensorProblem> {
        match stored_as(self.checkpoint, self.name) {
            Some(Quantization::Int8) => self.int8(device),
            // Any other dtype than U8 is refused there.
            Some(Quantization::Nf4) | None => self.nf4(device),
        }
    }

    /// The tensor with this name, of this dtype and length.
    fn part(
        &self,
        full: &str,
        (dtype, kind): (Dtype, Kind),
        length: i64,
    ) -> Result<Option<Tensor>, TensorProblem> {
        let expected = || format!("{dtype} of {length}");
        let Some(info) = self.checkpoint.tensors().get(full) else {
            return Err(problem(full, "", expected(), "missing".to_owned()));
        };
        let found = info.shape.iter().product::<usize>();
        if info.dtype != dtype || i64::try_from(found) != Ok(length) {
            return Err(problem(full, "", expected(), format!("{} of {found}", info.dtype)));
        }
        if self.reading == Reading::Headers {
            return Ok(None);
        }
        let shape: Vec<i64> = info.shape.iter().map(|&size| size as i64).collect();
        let read = || -> Result<Tensor, ModelError> {
            let mut tensor = Tensor::f_empty(&shape, (kind, Device::Cpu))
                .map_err(|source| ModelError::Torch(source.into()))?;
            rlaif_torch::with_bytes_mut(&mut tensor, |bytes| {
                self.checkpoint.read_into(full, bytes)
            })??;
            Ok(tensor)
        };
        read().map(Some).map_err(|source| unreadable(full.to_owned(), source))
    }

    fn nf4(&self, device: Device) -> Result<Option<Quantized>, TensorProblem> {
        let Self { checkpoint, name, size, .. } = *self;
        let described = format!("{name}{STATE}");
        let Some(info) = checkpoint.tensors().get(&described) else {
            let found = checkpoint.tensors().keys().find(|key| {
                key.strip_prefix(name).is_some_and(|rest| rest.starts_with(".quant_state."))
            });
            let found = found.map_or("missing".to_owned(), |key| format!("`{key}`"));
            return Err(problem(name, STATE, "bitsandbytes' NF4".to_owned(), found));
        };
        let mut bytes = vec![0; usize::try_from(info.bytes).unwrap_or(0)];
        checkpoint
            .read_into(&described, &mut bytes)
            .map_err(|source| unreadable(described.clone(), source.into()))?;
        let state: State = serde_json::from_slice(&bytes).map_err(|source| {
            problem(name, STATE, "a JSON object of bitsandbytes".to_owned(), source.to_string())
        })?;
        let wrong = |field: &str, expected: String, found: String| {
            problem(name, STATE, format!("`{field}` {expected}"), found)
        };
        if state.quant_type != "nf4" {
            return Err(wrong("quant_type", "nf4".to_owned(), state.quant_type));
        }
        if state.shape != size {
            return Err(wrong("shape", format!("{size:?}"), format!("{:?}", state.shape)));
        }
        let sizes = [32, 64, 128, 256, 512, 1024, 2048, 4096];
        if !sizes.contains(&state.blocksize) {
            return Err(wrong(
                "blocksize",
                format!("one of {sizes:?}"),
                state.blocksize.to_string(),
            ));
        }
        let kind = match state.dtype.as_str() {
            "float32" => Kind::Float,
            "bfloat16" => Kind::BFloat16,
            "float16" => Kind::Half,
            other => {
                let expected = "float32, bfloat16 or float16".to_owned();
                return Err(wrong("dtype", expected, other.to_owned()));
            }
        };
        let count = size[0] * size[1];
        let blocks = (count + state.blocksize - 1) / state.blocksize;
        let get = |ending, dtype, length| self.part(&format!("{name}{ending}"), dtype, length);
        let codes = get("", BYTES, (count + 1) / 2)?;
        let code = get(".quant_map", FLOATS, 16)?;
        let (scales, nested) = match (state.nested_blocksize, state.nested_offset) {
            (None, None) => (get(".absmax", FLOATS, blocks)?, None),
            (Some(block), Some(offset)) if block > 0 => {
                let scales = get(".absmax", BYTES, blocks)?;
                let nested = get(".nested_absmax", FLOATS, (blocks + block - 1) / block)?;
                let code = get(".nested_quant_map", FLOATS, 256)?;
                (scales, Some((nested, code, offset, block)))
            }
            (block, offset) => {
                let expected = "above 0, beside `nested_offset`".to_owned();
                return Err(wrong("nested_blocksize", expected, format!("{block:?}, {offset:?}")));
            }
        };
        let (Some(codes), Some(code), Some(scales)) = (codes, code, scales) else {
            return Ok(None);
        };
        let placed = |tensor: Tensor| tensor.to_device(device).view([-1]);
        let nested = match nested {
            Some((Some(scales), Some(code), offset, block)) => {
                Some(NestedScales { scales: placed(scales), code: placed(code), offset, block })
            }
            _ => None,
        };
        for (ending, tensor) in [
            (".absmax", (nested.is_none()).then_some(&scales)),
            (".nested_absmax", nested.as_ref().map(|nested| &nested.scales)),
        ] {
            let finite = |tensor: &Tensor| tensor.isfinite().all().int64_value(&[]) == 1;
            if tensor.is_some_and(|tensor| !finite(tensor)) {
                let found = "NaN or infinity".to_owned();
                return Err(problem(name, ending, "finite numbers".to_owned(), found));
            }
        }
        let [codes, code, scales] = [codes, code, scales].map(placed);
        let block = state.blocksize;
        Ok(Some(Quantized::from_nf4(Nf4Parts { codes, scales, nested, code, block, size, kind })))
    }

    fn int8(&self, device: Device) -> Result<Option<Quantized>, TensorProblem> {
        let Self { checkpoint, name, size, reading } = *self;
        let module = name.strip_suffix("weight").unwrap_or(name);
        let found =
            checkpoint.tensors().get(name).map(|info| info.shape.clone()).unwrap_or_default();
        if !found.iter().map(|&size| i64::try_from(size).ok()).eq(size.map(Some)) {
            let (name, expected) = (name.to_owned(), size.to_vec());
            return Err(TensorProblem::Shape { name, expected, found });
        }
        let codes = self.part(name, (Dtype::I8, Kind::Int8), size[0] * size[1])?;
        let scales = self.part(&format!("{module}SCB"), FLOATS, size[0])?;
        let format = checkpoint.tensors().get(&format!("{module}weight_format"));
        if let Some(format) = format
            && reading == Reading::Numbers
            && format.bytes == 1
        {
            let mut number = [0];
            let key = format!("{module}weight_format");
            checkpoint
                .read_into(&key, &mut number)
                .map_err(|source| unreadable(key.clone(), source.into()))?;
            if number != [0] {
                let expected = "0, rows in order".to_owned();
                return Err(problem(module, "weight_format", expected, number[0].to_string()));
            }
        }
        let (Some(codes), Some(scales)) = (codes, scales) else { return Ok(None) };
        let scales = scales.to_device(device).view([-1]);
        Ok(Some(Quantized::from_int8(&codes.to_device(device), &scales, Kind::Float)))
    }
}
