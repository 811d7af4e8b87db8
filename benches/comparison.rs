//! A comparison of the size people run, and its page: 10,000 prompts, eight metrics, a thousand
//! resamples. (Not optimised: of 500 prompts.)

use criterion::{Criterion, criterion_group, criterion_main};
use rlaif_core::{PromptRecord, Sample, Seed};
use rlaif_eval::{
    About, Better, Column, CompareOptions, Comparison, Details, Evaluation, MetricInfo, Report,
};

const PROMPTS: usize = if cfg!(debug_assertions) { 500 } else { 10_000 };

fn side(scale: f64) -> Evaluation {
    let sample = |at: usize| Sample {
        record: PromptRecord::new(at.to_string(), "a prompt of a few words ".repeat(5 + at % 20)),
        response: format!("{at} {}", "an answer that goes on ".repeat(at % 9)).into(),
    };
    let samples = (0..PROMPTS).map(sample).collect();
    let mut evaluation = Evaluation::new(About::new("policy", Seed::new(1)), samples);
    for metric in 0..8 {
        let info = MetricInfo::new(format!("metric {metric}"), Better::Lower).threshold(0.5);
        let value = |at: usize| ((at * 7_919 + metric * 31) % 10_007) as f64 / 10_007.;
        let values = (0..PROMPTS).map(|at| Some(value(at).powi(3) * scale)).collect();
        evaluation.add(Column { info, values, reasons: Vec::new() }).expect("a column that fits");
    }
    evaluation
}

fn comparison(c: &mut Criterion) {
    let (before, after) = (side(1.), side(0.9));
    let options = CompareOptions { resamples: 1_000, ..CompareOptions::default() };
    let compare = || Comparison::of(&before, &after, &options).expect("sides of the same prompts");
    let report = |comparison| {
        Report::new("Speed", &before, &after, comparison, Details::default()).expect("a report")
    };
    let mut group = c.benchmark_group(format!("{PROMPTS} prompts"));
    group.sample_size(10);
    group.bench_function("comparison", |b| b.iter(compare));
    let compared = report(compare());
    group.bench_function("page", |b| b.iter(|| compared.to_html()));
}

criterion_group!(benches, comparison);
criterion_main!(benches);
