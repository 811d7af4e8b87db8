//! A training-like loop with the C library's allocator as it comes, and after
//! `rlaif_torch::keep_large_blocks`. The set-up belongs to the process and cannot be undone, so the
//! arms run in that order.

use criterion::{Criterion, criterion_group, criterion_main};
use rlaif_torch::{
    AdamW, AdamWOptions, Denormals, ParamGroup, Support, keep_large_blocks, set_denormals,
};
use tch::{Device, Kind, Tensor};

const H: i64 = 512;
const TOKENS: i64 = 512;

/// Four feed-forward blocks and a head over 8,192 tokens; activations of 1 to 16 MiB.
struct Model {
    blocks: Vec<(Tensor, Tensor)>,
    head: Tensor,
    optimizer: AdamW,
}

impl Model {
    fn new() -> Self {
        let weight = |rows: i64, columns: i64| {
            (Tensor::randn([rows, columns], (Kind::Float, Device::Cpu)) / (rows as f64).sqrt())
                .set_requires_grad(true)
        };
        let blocks: Vec<_> = (0..4).map(|_| (weight(H, 4 * H), weight(4 * H, H))).collect();
        let head = weight(H, 8192);
        let tensors = blocks.iter().flat_map(|(up, down)| [up, down]).chain([&head]);
        let params =
            tensors.enumerate().map(|(i, t)| (format!("{i:02}"), t.shallow_clone())).collect();
        let group = ParamGroup { params, options: AdamWOptions::default() };
        let optimizer = AdamW::new(vec![group]).expect("parameters that fit");
        Self { blocks, head, optimizer }
    }

    fn step(&mut self, x: &Tensor, targets: &Tensor) {
        let hidden = self
            .blocks
            .iter()
            .fold(x.shallow_clone(), |x, (up, down)| &x + x.matmul(up).gelu("tanh").matmul(down));
        let loss = hidden.matmul(&self.head).cross_entropy_for_logits(targets);
        self.optimizer.zero_grad().expect("gradients are dropped");
        loss.backward();
        self.optimizer.step().expect("a step");
    }
}

fn loops(c: &mut Criterion) {
    set_denormals(Denormals::Flush).expect("denormals are set");
    tch::manual_seed(1);
    let x = Tensor::randn([TOKENS, H], (Kind::Float, Device::Cpu));
    let targets = Tensor::randint(8192, [TOKENS], (Kind::Int64, Device::Cpu));
    let mut run = |name: &str| {
        let mut model = Model::new();
        c.bench_function(name, |b| b.iter(|| model.step(&x, &targets)));
    };
    run("allocation/as it comes");
    if keep_large_blocks().expect("the allocator is set up") == Support::Set {
        run("allocation/large blocks kept");
    } else {
        println!("this C library has no such switches: nothing to compare");
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = loops
}
criterion_main!(benches);
