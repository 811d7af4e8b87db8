//! Tensors as rows of numbers.

use tch::{Device, Kind, Tensor};

/// Splits `[B, T]` into rows.
pub(super) fn rows_of(x: &Tensor) -> Vec<Vec<f32>> {
    let x = x.to_device(Device::Cpu).to_kind(Kind::Float);
    Vec::<Vec<f32>>::try_from(&x).expect("a matrix of f32")
}
