//! How long a comparison of the size people run takes. For optimised builds:
//! `cargo test --release -p rlaif-eval --test speed -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use rlaif_core::{PromptRecord, Sample, Seed};
use rlaif_eval::{
    About, Better, Column, CompareOptions, Comparison, Details, Evaluation, MetricInfo, Report,
};

/// A build that is not optimised only sees that it works.
const PROMPTS: usize = if cfg!(debug_assertions) { 500 } else { 10_000 };

fn side(scale: f64) -> Evaluation {
    let sample = |at: usize| Sample {
        record: PromptRecord::new(at.to_string(), "a prompt of a few words ".repeat(5 + at % 20)),
        response: format!("{at} {}", "an answer that goes on ".repeat(at % 9)),
    };
    let samples = (0..PROMPTS).map(sample).collect();
    let mut evaluation = Evaluation::new(About::new("policy", Seed::new(1)), samples);
    for metric in 0..8 {
        let info = MetricInfo::new(format!("metric {metric}"), Better::Lower).threshold(0.5);
        let value = |at: usize| ((at * 7_919 + metric * 31) % 10_007) as f64 / 10_007.;
        let values = (0..PROMPTS).map(|at| Some(value(at).powi(3) * scale)).collect();
        evaluation.add(Column { info, values, reasons: Vec::new() }).unwrap();
    }
    evaluation
}

#[test]
#[ignore = "a time, which means something in an optimised build on a quiet machine only"]
fn ten_thousand_prompts_eight_metrics_and_a_thousand_resamples_take_under_two_seconds() {
    let (before, after) = (side(1.), side(0.9));
    let options = CompareOptions { resamples: 1_000, ..CompareOptions::default() };
    let start = Instant::now();
    let comparison = Comparison::of(&before, &after, &options).unwrap();
    let compared = start.elapsed();
    let report = Report::new("Speed", &before, &after, comparison, Details::default()).unwrap();
    let html = report.to_html();
    let rendered = start.elapsed() - compared;
    println!("compared in {compared:.2?}, {} bytes of HTML in {rendered:.2?}", html.len());
    let optimised = !cfg!(debug_assertions);
    assert!(!optimised || compared + rendered < Duration::from_secs(2));
}
