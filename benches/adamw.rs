//! The optimizer's step on 20 M parameters in a transformer's shapes: `rlaif_torch::AdamW` in f32
//! and in bf16 with f32 masters, against tch's AdamW and Adam.
//!
//! tch is measured as a program finds it, then after `rlaif_torch::init`, whose allocator helps it
//! too: it makes temporary tensors, and ours makes none. The set-up cannot be undone, hence the
//! order.

use criterion::{Criterion, criterion_group, criterion_main};
use rlaif_torch::{AdamW, AdamWOptions, ParamGroup};
use tch::nn::OptimizerConfig;
use tch::{Device, Kind, Tensor, nn};

/// Six layers of width 512 and an embedding of 2,048 tokens: 19.9 M parameters.
fn shapes() -> Vec<(String, Vec<i64>)> {
    const H: i64 = 512;
    let mut shapes = vec![("embed".to_owned(), vec![2048, H])];
    for layer in 0..6 {
        for (name, shape) in [
            ("q", vec![H, H]),
            ("k", vec![H, H]),
            ("v", vec![H, H]),
            ("o", vec![H, H]),
            ("up", vec![4 * H, H]),
            ("down", vec![H, 4 * H]),
            ("bias_up", vec![4 * H]),
            ("bias_down", vec![H]),
            ("norm_1", vec![H]),
            ("norm_2", vec![H]),
        ] {
            shapes.push((format!("layer_{layer}.{name}"), shape));
        }
    }
    shapes
}

/// Gives every parameter a gradient.
fn differentiate<'a>(params: impl IntoIterator<Item = &'a Tensor>) {
    for param in params {
        (param * param.detach()).sum(Kind::Float).backward();
    }
}

fn ours(c: &mut Criterion, kind: Kind, name: &str) {
    let params: Vec<(String, Tensor)> = shapes()
        .into_iter()
        .map(|(name, shape)| {
            (name, Tensor::randn(shape, (kind, Device::Cpu)).set_requires_grad(true))
        })
        .collect();
    differentiate(params.iter().map(|(_, param)| param));
    let group = ParamGroup { params, options: AdamWOptions::default() };
    let mut optimizer = AdamW::new(vec![group]).expect("parameters that fit");
    c.bench_function(name, |b| b.iter(|| optimizer.step().expect("a step")));
}

fn theirs(c: &mut Criterion, config: impl OptimizerConfig, name: &str) {
    let store = nn::VarStore::new(Device::Cpu);
    for (name, shape) in shapes() {
        let init = nn::Init::Randn { mean: 0.0, stdev: 1.0 };
        let _ = store.root().var(&name.replace('.', "_"), &shape, init);
    }
    differentiate(&store.trainable_variables());
    let mut optimizer = config.build(&store, 1e-3).expect("an optimizer");
    c.bench_function(name, |b| b.iter(|| optimizer.step()));
}

fn steps(c: &mut Criterion) {
    let adamw = nn::AdamW { wd: 1e-2, ..Default::default() };
    theirs(c, adamw, "adamw/tch AdamW f32");
    theirs(c, nn::Adam::default(), "adamw/tch Adam f32");
    rlaif_torch::init().expect("libtorch is set up");
    theirs(c, adamw, "adamw/tch AdamW f32, after init");
    ours(c, Kind::Float, "adamw/rlaif f32");
    ours(c, Kind::BFloat16, "adamw/rlaif bf16, f32 masters");
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = steps
}
criterion_main!(benches);
