//! Gradient norms and clipping against f64.

use crate::common::{Numbers, devices};
use rlaif_torch::{TorchError, clip_grad_norm, clip_grad_norm_async, non_finite_grads};
use tch::{Device, Kind, Tensor};

/// Parameters of odd sizes whose gradients are known, and the gradients in f64.
fn params(kind: Kind, device: Device, scale: f64) -> (Vec<Tensor>, Vec<Vec<f64>>) {
    let mut numbers = Numbers(7);
    let mut grads = Vec::new();
    let tensors = [1usize, 7, 1023, 1_000_001].map(|n| {
        let coef = (Tensor::from_slice(&numbers.draw(n)) * scale).to_kind(kind).to_device(device);
        let w = Tensor::zeros([n as i64], (kind, device)).set_requires_grad(true);
        (&w * &coef).sum(kind).backward();
        grads.push(values(&coef));
        w
    });
    (tensors.into(), grads)
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_device(Device::Cpu).to_kind(Kind::Double)).unwrap()
}

fn norm(grads: &[Vec<f64>]) -> f64 {
    grads.iter().flatten().map(|g| g * g).sum::<f64>().sqrt()
}

fn assert_close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance * expected, "{found} != {expected}");
}

#[test]
fn the_norm_and_the_clipped_gradients_are_those_of_f64() {
    for device in devices() {
        // In bf16 the factor and the product are rounded, by 2^-8 each.
        for (kind, tolerance) in
            [(Kind::Float, 1e-6), (Kind::BFloat16, 8e-3), (Kind::Double, 1e-12)]
        {
            let (params, grads) = params(kind, device, 3.0);
            let expected = norm(&grads);
            let found = clip_grad_norm(&params, None).unwrap();
            assert_close(found, expected, if kind == Kind::Double { 1e-12 } else { 1e-5 });
            assert_eq!(clip_grad_norm(&params, Some(0.5)).unwrap(), found);
            let scale = 0.5 / (found + 1e-6);
            for (param, grad) in params.iter().zip(&grads) {
                let found = values(&param.grad());
                for (f, g) in found.iter().zip(grad) {
                    assert!((f - g * scale).abs() <= tolerance * g.abs() * scale, "{f} {g}");
                }
            }
        }
    }
}

#[test]
fn without_the_host_the_same_is_computed() {
    for device in devices() {
        // A product may round to the bf16 beside.
        for (kind, tolerance) in [(Kind::Float, 1e-6), (Kind::BFloat16, 8e-3)] {
            let (a, _) = params(kind, device, 2.0);
            let (b, _) = params(kind, device, 2.0);
            let waited = clip_grad_norm(&a, Some(0.1)).unwrap();
            let on_device = clip_grad_norm_async(&b, 0.1).unwrap();
            assert_close(on_device.double_value(&[]), waited, 1e-12);
            for (a, b) in a.iter().zip(&b) {
                assert!(a.grad().allclose(&b.grad(), tolerance, 0.0, false));
            }
        }
    }
}

#[test]
fn gradients_below_the_limit_keep_their_bits() {
    for device in devices() {
        let (params, grads) = params(Kind::Float, device, 1.0);
        let before: Vec<Tensor> = params.iter().map(|p| p.grad().copy()).collect();
        clip_grad_norm(&params, Some(norm(&grads) + 1.0)).unwrap();
        assert!(params.iter().zip(&before).all(|(p, g)| p.grad() == *g));
    }
}

#[test]
fn parameters_without_a_gradient_count_as_zero() {
    for device in devices() {
        let lonely = Tensor::zeros([3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        assert_eq!(clip_grad_norm(&[&lonely], Some(1.0)).unwrap(), 0.0);
        let (mut params, grads) = params(Kind::Float, device, 1.0);
        params.insert(1, lonely);
        assert_close(clip_grad_norm(&params, None).unwrap(), norm(&grads), 1e-5);
    }
}

#[test]
fn a_gradient_that_is_not_finite_is_named_and_none_is_touched() {
    for device in devices() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (params, _) = params(Kind::Float, device, 1.0);
            let _ = params[2].grad().narrow(0, 500, 1).fill_(f64::from(bad));
            let healthy = params[0].grad().copy();
            assert!(!clip_grad_norm(&params, Some(0.01)).unwrap().is_finite());
            assert_eq!(params[0].grad(), healthy);
            let names = ["a", "b", "c", "d"];
            let named = names.into_iter().zip(&params);
            assert_eq!(non_finite_grads(named).unwrap(), ["c"]);
        }
    }
}

#[test]
fn large_finite_gradients_are_not_taken_for_infinite() {
    let w = Tensor::from_slice(&[0f32, 0.0]).set_requires_grad(true);
    (&w * 3e38).sum(Kind::Float).backward();
    assert!(non_finite_grads([("w", &w)]).unwrap().is_empty());
}

#[test]
fn a_limit_that_is_not_positive_is_refused() {
    for limit in [0.0, -1.0, f64::NAN] {
        let error = clip_grad_norm::<Tensor>(&[], Some(limit)).unwrap_err();
        assert!(matches!(error, TorchError::Setting(error) if error.field == "max_norm"));
    }
}
