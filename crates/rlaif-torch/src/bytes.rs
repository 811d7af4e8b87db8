//! The memory of a CPU tensor as bytes, so that a file is read straight into it.

use std::collections::HashMap;
use std::ffi::c_void;
use std::slice;
use std::sync::{Mutex, PoisonError};

use tch::{Device, Tensor};

use crate::error::TorchError;
use crate::ffi;

/// Storages that are lent out now, by address: the number of readers, or [`WRITER`].
static LENT: Mutex<Option<HashMap<usize, u32>>> = Mutex::new(None);
const WRITER: u32 = u32::MAX;

/// Lends out the memory of a tensor for reading: its elements in row-major order, in the machine's
/// byte order.
///
/// # Errors
/// [`TorchError::Tensor`] if the tensor is not a contiguous one on the CPU, or if its memory is
/// lent out for writing.
///
/// ```
/// let t = tch::Tensor::from_slice(&[1i32, -1]);
/// let sum = rlaif_torch::with_bytes(&t, |bytes| bytes.iter().map(|b| u32::from(*b)).sum::<u32>())?;
/// assert_eq!(sum, 1 + 4 * 255);
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
pub fn with_bytes<R>(tensor: &Tensor, read: impl FnOnce(&[u8]) -> R) -> Result<R, TorchError> {
    let (start, len) = memory(tensor)?;
    let _loan = Loan::take(tensor, 1)?;
    // SAFETY: `memory` gave the extent of a contiguous CPU tensor, which `tensor` keeps alive. No
    // writer of this module has it, by the loan; initialised, as any bit pattern is bytes.
    Ok(read(unsafe { slice::from_raw_parts(start, len) }))
}

/// Lends out the memory of a tensor for writing: its elements in row-major order, in the machine's
/// byte order.
///
/// Every other handle to the same memory sees the bytes. While the closure runs, nothing else may
/// use the tensor or one that shares its memory; a second loan through this module is refused, but
/// operations of tch are not seen.
///
/// # Errors
/// [`TorchError::Tensor`] if the tensor is not a contiguous one on the CPU, if it is the result of
/// an operation that autograd follows, or if its memory is lent out already.
///
/// ```
/// use tch::{Device, Kind, Tensor};
///
/// let mut weight = Tensor::zeros([2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let mut file = std::io::Cursor::new([0, 0, 128, 63, 0, 0, 0, 64]);
/// rlaif_torch::with_bytes_mut(&mut weight, |bytes| std::io::Read::read_exact(&mut file, bytes))?
///     .expect("eight bytes");
/// assert_eq!(weight, Tensor::from_slice(&[1f32, 2.0]));
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
pub fn with_bytes_mut<R>(
    tensor: &mut Tensor,
    write: impl FnOnce(&mut [u8]) -> R,
) -> Result<R, TorchError> {
    let (start, len) = memory(tensor)?;
    if tensor.requires_grad() && !tensor.is_leaf() {
        let found = "the result of an operation that autograd follows".to_owned();
        return Err(unfit("a leaf, or no gradient", found));
    }
    let loan = Loan::take(tensor, WRITER)?;
    // SAFETY: `memory` gave the extent of a contiguous CPU tensor, which `tensor` keeps alive. By
    // the loan no other slice of this module covers it.
    let result = write(unsafe { slice::from_raw_parts_mut(start, len) });
    drop(loan);
    // SAFETY: the tensor is defined and alive.
    ffi::check("writing a tensor's memory", unsafe { ffi::rlaif_bump_version(tensor.as_ptr()) })?;
    Ok(result)
}

/// First byte and number of bytes.
fn memory(tensor: &Tensor) -> Result<(*mut u8, usize), TorchError> {
    const EXPECTED: &str = "a contiguous tensor on the CPU";
    if !tensor.defined() {
        return Err(unfit(EXPECTED, "none".to_owned()));
    }
    if tensor.device() != Device::Cpu {
        return Err(unfit(EXPECTED, format!("one on {:?}", tensor.device())));
    }
    if tensor.is_sparse() || tensor.is_mkldnn() || !tensor.is_contiguous() {
        return Err(unfit(EXPECTED, "another layout; call contiguous() first".to_owned()));
    }
    let len = tensor.numel() * tensor.f_kind()?.elt_size_in_bytes();
    let start = tensor.data_ptr().cast::<u8>();
    // An empty tensor may have no memory at all, and a slice must not start at null.
    Ok(if len == 0 || start.is_null() { (slice_of_nothing(), 0) } else { (start, len) })
}

fn slice_of_nothing() -> *mut u8 {
    std::ptr::NonNull::dangling().as_ptr()
}

fn unfit(expected: &str, found: String) -> TorchError {
    TorchError::Tensor { name: "tensor".to_owned(), expected: expected.to_owned(), found }
}

/// An entry in [`LENT`], taken back when dropped, by a panic too.
struct Loan {
    storage: usize,
}

impl Loan {
    fn take(tensor: &Tensor, kind: u32) -> Result<Self, TorchError> {
        // SAFETY: the tensor is defined and alive; the address is only compared.
        let storage: *const c_void = unsafe { ffi::rlaif_storage(tensor.as_ptr()) };
        let storage = storage as usize;
        let mut lent = LENT.lock().unwrap_or_else(PoisonError::into_inner);
        let holders = lent.get_or_insert_default().entry(storage).or_insert(0);
        match (*holders, kind) {
            (0, _) => *holders = kind,
            (n, 1) if n < WRITER - 1 => *holders += 1,
            _ => return Err(unfit("memory that is free", "memory that is lent out".to_owned())),
        }
        Ok(Self { storage })
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut lent = LENT.lock().unwrap_or_else(PoisonError::into_inner);
        let lent = lent.get_or_insert_default();
        match lent.get_mut(&self.storage) {
            Some(holders) if (2..WRITER).contains(holders) => *holders -= 1,
            _ => drop(lent.remove(&self.storage)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn bytes_are_those_of_the_elements_in_row_major_order() {
        let mut t = Tensor::zeros([2, 3], (Kind::Int16, Device::Cpu));
        let written: Vec<u8> = (0..6u16).flat_map(|i| (i * 300).to_ne_bytes()).collect();
        with_bytes_mut(&mut t, |bytes| bytes.copy_from_slice(&written)).unwrap();
        assert_eq!(t.int64_value(&[1, 0]), 900);
        assert_eq!(with_bytes(&t, <[u8]>::to_vec).unwrap(), written);
    }

    #[test]
    fn a_slice_of_a_tensor_is_only_that_slice() {
        let whole = Tensor::zeros([4], (Kind::Uint8, Device::Cpu));
        with_bytes_mut(&mut whole.narrow(0, 1, 2), |bytes| bytes.fill(9)).unwrap();
        assert_eq!(whole, Tensor::from_slice(&[0u8, 9, 9, 0]));
    }

    #[test]
    fn empty_tensors_have_no_bytes() {
        let mut t = Tensor::zeros([0, 3], (Kind::Float, Device::Cpu));
        assert_eq!(with_bytes_mut(&mut t, |bytes| bytes.len()).unwrap(), 0);
    }

    #[test]
    fn what_has_no_plain_memory_is_refused() {
        let t = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        assert!(with_bytes(&t.transpose(0, 1), <[u8]>::len).is_err());
        assert!(with_bytes(&Tensor::new(), <[u8]>::len).is_err());
        assert!(with_bytes(&t.to_sparse_sparse_dim(2), <[u8]>::len).is_err());
        let mut result = t.set_requires_grad(true) * 2;
        assert!(with_bytes_mut(&mut result, |_| ()).is_err());
    }

    #[test]
    fn memory_is_lent_to_one_writer_or_to_readers() {
        let mut t = Tensor::zeros([4], (Kind::Uint8, Device::Cpu));
        let mut alias = t.shallow_clone();
        let inner = with_bytes_mut(&mut t, |_| {
            (with_bytes_mut(&mut alias, |_| ()).is_err(), with_bytes(&alias, |_| ()).is_err())
        });
        assert_eq!(inner.unwrap(), (true, true));
        let inner = with_bytes(&t, |_| {
            with_bytes(&alias, |_| with_bytes_mut(&mut alias.shallow_clone(), |_| ()).is_err())
        });
        assert!(inner.unwrap().unwrap());
        // Given back, also after a panic.
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = with_bytes_mut(&mut alias, |_| panic!("in the middle"));
        }));
        assert!(panic.is_err());
        with_bytes_mut(&mut t, |_| ()).unwrap();
    }

    #[test]
    fn autograd_notices_that_a_saved_tensor_was_written() {
        let mut w = Tensor::from_slice(&[3f32]);
        let x = Tensor::from_slice(&[2f32]).set_requires_grad(true);
        let product = &x * &w;
        with_bytes_mut(&mut w, |bytes| bytes.fill(0)).unwrap();
        let error = product.f_backward().unwrap_err().to_string();
        assert!(error.contains("modified by an inplace operation"), "{error}");
    }
}
