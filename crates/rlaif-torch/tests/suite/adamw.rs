//! Fused AdamW against a scalar AdamW in f64.

use crate::common::{Numbers, devices};
use rlaif_torch::{AdamW, AdamWOptions, ParamGroup, TorchError};
use tch::{Device, Kind, Tensor};

/// Odd sizes, an empty parameter, and one longer than the chunks that bf16 is converted in.
const SIZES: [usize; 6] = [1, 7, 0, 1023, 65_537, 300_001];

/// AdamW for one parameter, element by element, straight from Algorithm 2 of arXiv:1711.05101.
struct Scalar {
    theta: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
    t: i32,
}

impl Scalar {
    fn new(theta: Vec<f64>) -> Self {
        let zeros = vec![0.0; theta.len()];
        Self { m: zeros.clone(), v: zeros, theta, t: 0 }
    }

    fn step(&mut self, grad: &[f64], o: &AdamWOptions) {
        self.t += 1;
        let (b1, b2) = o.betas;
        let (c1, c2) = (1.0 - b1.powi(self.t), 1.0 - b2.powi(self.t));
        for (i, g) in grad.iter().enumerate() {
            self.theta[i] -= o.lr * o.weight_decay * self.theta[i];
            self.m[i] = b1 * self.m[i] + (1.0 - b1) * g;
            self.v[i] = b2 * self.v[i] + (1.0 - b2) * g * g;
            self.theta[i] -= o.lr * (self.m[i] / c1) / ((self.v[i] / c2).sqrt() + o.eps);
        }
    }
}

fn leaf(values: &[f64], kind: Kind, device: Device) -> Tensor {
    Tensor::from_slice(values).to_kind(kind).to_device(device).set_requires_grad(true)
}

fn values(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Double).reshape([-1]);
    Vec::try_from(flat).unwrap()
}

/// Gives the parameter the gradient `coef` by differentiating `Σ coef·w`.
fn differentiate(param: &Tensor, coef: &[f64]) {
    let coef = Tensor::from_slice(coef).to_kind(param.kind()).to_device(param.device());
    (param * coef.reshape(param.size())).sum(Kind::Float).backward();
}

fn assert_close(found: &[f64], expected: &[f64], absolute: f64, what: &str) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        // Relative too: f32 has 24 bits, and errors of many steps add up.
        assert!((f - e).abs() <= absolute + 2e-6 * e.abs(), "{what}[{i}]: {f} != {e}");
    }
}

fn group(params: &[(&str, &Tensor)], options: AdamWOptions) -> ParamGroup {
    let params = params.iter().map(|(n, t)| ((*n).to_owned(), t.shallow_clone())).collect();
    ParamGroup { params, options }
}

fn find(optimizer: &AdamW, name: &str) -> Tensor {
    optimizer.state().into_iter().find(|(n, _)| n == name).expect(name).1
}

/// The f32 weight behind a parameter.
fn stepped(optimizer: &AdamW, name: &str, param: &Tensor) -> Tensor {
    match (param.kind(), param.device()) {
        (Kind::Float, _) => param.shallow_clone(),
        (Kind::BFloat16, Device::Cpu) => {
            let upper = param.detach().view_dtype(Kind::Int16).to_kind(Kind::Int);
            let remainder = find(optimizer, &format!("{name}.remainder")).to_kind(Kind::Int);
            let upper = upper.bitwise_left_shift_tensor_scalar(16);
            (upper + remainder).view_dtype(Kind::Float)
        }
        _ => find(optimizer, &format!("{name}.master")),
    }
}

/// 40 steps of two groups; each parameter misses its gradient once, at a step of its own.
fn many_steps(kind: Kind, device: Device) {
    let first = AdamWOptions { lr: 3e-3, weight_decay: 0.1, ..Default::default() };
    let mut second = AdamWOptions { lr: 1e-2, betas: (0.8, 0.95), eps: 1e-6, weight_decay: 0.0 };
    let mut numbers = Numbers(1);
    let mut references = Vec::new();
    let mut params = Vec::new();
    for (i, n) in SIZES.iter().enumerate() {
        let param = leaf(&numbers.draw(*n), kind, device);
        // The reference starts from the rounded weights.
        references.push(Scalar::new(values(&param)));
        params.push((format!("p{i}"), param));
    }
    let named: Vec<_> = params.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let groups = vec![group(&named[..3], first), group(&named[3..], second)];
    let mut optimizer = AdamW::new(groups).unwrap();

    for step in 0..40 {
        optimizer.zero_grad().unwrap();
        if step == 20 {
            second.lr = 5e-3;
            optimizer.set_lr(1, second.lr).unwrap();
        }
        for (i, (_, param)) in params.iter().enumerate() {
            if step == i + 2 {
                continue;
            }
            // Some gradients are tiny, so that ε matters.
            let size = if step % 5 == 0 { 1e-6 } else { 1.0 };
            let coef: Vec<f64> = numbers.draw(SIZES[i]).iter().map(|x| x * size).collect();
            differentiate(param, &coef);
            references[i].step(&values(&param.grad()), if i < 3 { &first } else { &second });
        }
        optimizer.step().unwrap();
    }

    for (i, (name, param)) in params.iter().enumerate() {
        let reference = &references[i];
        let stepped = stepped(&optimizer, name, param);
        assert_eq!(stepped.kind(), Kind::Float);
        assert_close(&values(&stepped), &reference.theta, 1e-6, name);
        // Where it is split, a tie goes up, where it is cast, to the even number.
        let tie = stepped.view_dtype(Kind::Int).bitwise_and(0xffff).eq(0x8000);
        let rounded = param.where_self(&tie, &stepped.to_kind(kind));
        assert_eq!(values(param), values(&rounded), "{name} is the master rounded");
        let (m, v) = (format!("{name}.exp_avg"), format!("{name}.exp_avg_sq"));
        assert_close(&values(&find(&optimizer, &m)), &reference.m, 1e-7, &m);
        // libtorch's CUDA kernel subtracts β₂ from 1 in f32: of 0.001, one part in 50,000 is lost, and v is below 0.1.
        let lost = if device.is_cuda() { 2e-6 } else { 1e-7 };
        assert_close(&values(&find(&optimizer, &v)), &reference.v, lost, &v);
        let t = find(&optimizer, &format!("{name}.step")).double_value(&[]);
        assert_eq!(t, f64::from(reference.t));
        assert_eq!(reference.t, if i < 38 { 39 } else { 40 });
    }
}

#[test]
fn f32_follows_the_scalar_reference() {
    devices().into_iter().for_each(|device| many_steps(Kind::Float, device));
}

#[test]
fn bf16_with_a_master_follows_the_scalar_reference() {
    devices().into_iter().for_each(|device| many_steps(Kind::BFloat16, device));
}

#[test]
fn f16_with_a_master_follows_the_scalar_reference() {
    devices().into_iter().for_each(|device| many_steps(Kind::Half, device));
}

#[test]
fn a_parameter_stored_by_columns_is_stepped_element_by_element() {
    for device in devices() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let mut numbers = Numbers(5);
            let rows = Tensor::from_slice(&numbers.draw(35)).to_kind(kind).to_device(device);
            let param = rows.reshape([5, 7]).transpose(0, 1).detach().set_requires_grad(true);
            assert!(!param.is_contiguous());
            let mut reference = Scalar::new(values(&param));
            let options = AdamWOptions { lr: 0.01, ..Default::default() };
            let mut optimizer = AdamW::new(vec![group(&[("w", &param)], options)]).unwrap();
            for _ in 0..5 {
                optimizer.zero_grad().unwrap();
                differentiate(&param, &numbers.draw(35));
                reference.step(&values(&param.grad()), &options);
                optimizer.step().unwrap();
            }
            let tolerance = if kind == Kind::Float { 1e-6 } else { 4e-3 };
            assert_close(&values(&param), &reference.theta, tolerance, "w");
        }
    }
}

#[test]
fn elements_without_a_gradient_so_far_stand_still_and_others_move_on() {
    for (kind, weight_decay) in
        [(Kind::Float, 0.0), (Kind::Float, 0.1), (Kind::BFloat16, 0.0), (Kind::BFloat16, 0.1)]
    {
        let start: Vec<f64> = (0..1500).map(|i| f64::from(i % 7) - 3.0).collect();
        let param = leaf(&start, kind, Device::Cpu);
        let options = AdamWOptions { lr: 0.01, weight_decay, ..AdamWOptions::default() };
        let mut optimizer = AdamW::new(vec![group(&[("w", &param)], options)]).unwrap();
        let mut reference = Scalar::new(start);
        // Of three blocks of 512, first the second has a gradient, then the first, then none.
        for filled in [600..700, 0..10, 0..0] {
            let grad: Vec<f64> =
                (0..1500).map(|i| f64::from(u8::from(filled.contains(&i)))).collect();
            differentiate(&param, &grad);
            reference.step(&grad, &options);
            optimizer.step().unwrap();
            optimizer.zero_grad().unwrap();
            let found = values(&stepped(&optimizer, "w", &param));
            assert_close(&found, &reference.theta, 1e-6, &format!("{kind:?} {weight_decay}"));
        }
    }
}

#[test]
fn a_clipped_step_is_clipping_and_a_step() {
    let options = AdamWOptions { lr: 0.1, ..AdamWOptions::default() };
    for max_norm in [None, Some(0.5), Some(1e6)] {
        let params = [0, 1].map(|_| leaf(&[1.0, -2.0, 0.5], Kind::Float, Device::Cpu));
        let mut both =
            params.each_ref().map(|w| AdamW::new(vec![group(&[("w", w)], options)]).unwrap());
        for round in 1..4 {
            let coef = [0.3, -1.0, 2.0].map(|c| c * f64::from(round));
            params.iter().for_each(|w| differentiate(w, &coef));
            let norm = both[0].clip_grad_norm(max_norm).unwrap();
            both[0].step().unwrap();
            assert_eq!(both[1].step_clipped(max_norm).unwrap(), norm);
            both.iter_mut().for_each(|optimizer| optimizer.zero_grad().unwrap());
            assert_eq!(values(&params[0]), values(&params[1]));
        }
        // Nothing is written if a gradient is NaN.
        let before = values(&params[1]);
        differentiate(&params[1], &[f64::NAN, 0.0, 0.0]);
        assert!(both[1].step_clipped(max_norm).unwrap().is_nan());
        assert_eq!(values(&params[1]), before);
    }
}

#[test]
fn a_restored_run_continues_bit_by_bit() {
    for device in devices() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let run = |param: &Tensor, optimizer: &mut AdamW, steps: std::ops::Range<u64>| {
                for step in steps {
                    optimizer.zero_grad().unwrap();
                    differentiate(param, &Numbers(step).draw(1023));
                    optimizer.step().unwrap();
                }
            };
            let build = |param: &Tensor| {
                AdamW::new(vec![group(&[("w", param)], AdamWOptions::default())]).unwrap()
            };
            let whole = leaf(&Numbers(3).draw(1023), kind, device);
            let mut optimizer = build(&whole);
            run(&whole, &mut optimizer, 0..5);
            let saved: Vec<_> = optimizer.state().into_iter().map(|(n, t)| (n, t.copy())).collect();
            let weights = whole.detach().copy();
            run(&whole, &mut optimizer, 5..10);

            let resumed = weights.set_requires_grad(true);
            let mut optimizer = build(&resumed);
            optimizer.load_state(&saved).unwrap();
            run(&resumed, &mut optimizer, 5..10);
            assert_eq!(values(&resumed), values(&whole));
        }
    }
}

#[test]
fn a_state_that_does_not_fit_is_named_and_changes_nothing() {
    devices();
    let param = leaf(&[1.0, 2.0], Kind::BFloat16, Device::Cpu);
    let mut optimizer = AdamW::new(vec![group(&[("w", &param)], AdamWOptions::default())]).unwrap();
    differentiate(&param, &[1.0, 1.0]);
    optimizer.step().unwrap();
    let before: Vec<_> = optimizer.state().iter().map(|(_, t)| values(t)).collect();

    let float = |n: i64| Tensor::zeros([n], (Kind::Float, Device::Cpu));
    let state = vec![
        ("w.exp_avg".to_owned(), float(2)),
        ("w.exp_avg_sq".to_owned(), float(3)),
        ("w.step".to_owned(), float(1).squeeze().to_kind(Kind::Int64)),
        ("v.exp_avg".to_owned(), float(2)),
    ];
    let error = optimizer.load_state(&state).unwrap_err();
    let TorchError::State { missing, unexpected, mismatched, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(missing, &["w.remainder"]);
    assert_eq!(unexpected, &["v.exp_avg"]);
    assert_eq!(mismatched.len(), 2, "{error}");
    assert!(mismatched[0].contains("expected Float [2], found Float [3]"), "{error}");
    let after: Vec<_> = optimizer.state().iter().map(|(_, t)| values(t)).collect();
    assert_eq!(before, after);
}

#[test]
fn parameters_are_kept_in_the_order_of_names() {
    let [a, b, c] = [1.0, 2.0, 3.0].map(|x| leaf(&[x], Kind::Float, Device::Cpu));
    let options = AdamWOptions::default();
    let groups = vec![group(&[("c", &c), ("a", &a)], options), group(&[("b", &b)], options)];
    let optimizer = AdamW::new(groups).unwrap();
    let names: Vec<_> = optimizer.parameters().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "c", "b"]);
    assert_eq!(optimizer.state()[0].0, "a.exp_avg");
}

#[test]
fn unfit_parameters_and_settings_are_refused() {
    let fit = leaf(&[1.0], Kind::Float, Device::Cpu);
    let try_new = |name: &str, param: &Tensor, options: AdamWOptions| {
        AdamW::new(vec![group(&[("fit", &fit), (name, param)], options)]).unwrap_err()
    };
    let ok = AdamWOptions::default();
    let wide = Tensor::zeros([1], (Kind::Float, Device::Cpu)).expand([3], false);
    for (name, param) in [
        ("fit", fit.shallow_clone()),
        ("frozen", fit.detach()),
        ("result", &fit * 2),
        ("double", leaf(&[1.0], Kind::Double, Device::Cpu)),
        ("overlapping", wide.set_requires_grad(true)),
        ("none", Tensor::new()),
    ] {
        let error = try_new(name, &param, ok);
        assert!(matches!(&error, TorchError::Tensor { name: n, .. } if n == name), "{error}");
    }
    for (wrong, options) in [
        ("lr", AdamWOptions { lr: -1.0, ..ok }),
        ("lr", AdamWOptions { lr: f64::NAN, ..ok }),
        ("betas.0", AdamWOptions { betas: (1.0, 0.9), ..ok }),
        ("betas.1", AdamWOptions { betas: (0.9, -0.1), ..ok }),
        ("eps", AdamWOptions { eps: -1e-8, ..ok }),
        ("weight_decay", AdamWOptions { weight_decay: f64::INFINITY, ..ok }),
    ] {
        let error = try_new("w", &leaf(&[1.0], Kind::Float, Device::Cpu), options);
        assert!(matches!(&error, TorchError::Setting(error) if error.field == wrong), "{error}");
    }
    let mut optimizer = AdamW::new(vec![group(&[("fit", &fit)], ok)]).unwrap();
    assert!(optimizer.set_lr(1, 0.1).is_err());
    assert!(optimizer.set_lr(0, -0.1).is_err());
    assert_eq!(optimizer.options().next().unwrap().lr, ok.lr);
}

#[test]
fn a_parameter_that_changed_its_shape_is_refused_before_anything_is_written() {
    let mut changing = leaf(&[1.0, 2.0], Kind::Float, Device::Cpu);
    let steady = leaf(&[1.0], Kind::Float, Device::Cpu);
    let params = [("a", &steady), ("b", &changing)];
    let mut optimizer = AdamW::new(vec![group(&params, AdamWOptions::default())]).unwrap();
    changing.set_data(&Tensor::zeros([1 << 16], (Kind::Float, Device::Cpu)));
    for param in [&steady, &changing] {
        param.sum(Kind::Float).backward();
    }
    let error = optimizer.step().unwrap_err();
    assert!(error.to_string().contains("changed its shape"), "{error}");
    assert_eq!(values(&steady), [1.0]);
}

#[test]
fn dropping_gradients_leaves_none() {
    let param = leaf(&[1.0], Kind::Float, Device::Cpu);
    let mut optimizer = AdamW::new(vec![group(&[("w", &param)], AdamWOptions::default())]).unwrap();
    differentiate(&param, &[2.0]);
    optimizer.zero_grad().unwrap();
    assert!(!param.grad().defined());
    optimizer.step().unwrap();
    assert_eq!(values(&param), [1.0]);
    assert_eq!(find(&optimizer, "w.step").double_value(&[]), 0.0);
}
