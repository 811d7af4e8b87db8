//! Measuring, its journal, and comparisons.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rlaif_core::{Exchange, PromptRecord, RewardError, Sample, Seed};
use rlaif_eval::stats::Advice;
use rlaif_eval::text::{LengthMetric, LengthUnit};
use rlaif_eval::{
    About, Better, Column, CompareOptions, Comparison, EvalError, Evaluation, Measurement, Metric,
    MetricInfo, PairJudge, ShownPair, SliceBy, Values, Verdict, WinRateOptions, win_rate,
};

/// Counts its inputs, and fails from the n-th response on.
struct Costly {
    info: MetricInfo,
    asked: Arc<AtomicUsize>,
    breaks_at: usize,
}

impl Metric for Costly {
    fn info(&self) -> &MetricInfo {
        &self.info
    }
    fn evaluate(&self, batch: &[Exchange<'_>]) -> Result<Values, EvalError> {
        let before = self.asked.fetch_add(batch.len(), Ordering::Relaxed);
        if before + batch.len() > self.breaks_at {
            let metric = self.info.name.clone();
            return Err(EvalError::Metric { metric, source: "out of budget".into() });
        }
        // A third needs all 17 digits, and a missing value is requested again.
        let value = |x: &Exchange<'_>| (x.response != "7").then(|| x.response.len() as f64 / 3.);
        Ok(Values { values: batch.iter().map(value).collect(), reasons: Vec::new() })
    }
}

fn answers(n: usize) -> Vec<Sample> {
    let sample = |at: usize| Sample {
        record: PromptRecord::new(at.to_string(), "Count."),
        response: at.to_string().into(),
    };
    (0..n).map(sample).collect()
}

fn measure(
    asked: &Arc<AtomicUsize>,
    breaks_at: usize,
    journal: Option<&Path>,
) -> Result<Evaluation, EvalError> {
    let info = MetricInfo::new("costly", Better::Higher);
    let metrics: [Box<dyn Metric>; 1] =
        [Box::new(Costly { info, asked: Arc::clone(asked), breaks_at })];
    let mut measurement = Measurement::of(&metrics).batch(10);
    if let Some(path) = journal {
        measurement = measurement.journal(path);
    }
    measurement.run(About::new("policy", Seed::new(1)), answers(95))
}

#[test]
fn an_interrupted_measurement_goes_on_where_it_stopped_and_gives_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("scores.jsonl");
    let asked = Arc::new(AtomicUsize::new(0));
    let whole = measure(&asked, 1_000, None).unwrap();
    assert_eq!(asked.swap(0, Ordering::Relaxed), 95);

    let error = measure(&asked, 50, Some(&journal)).unwrap_err();
    assert!(matches!(error, EvalError::Metric { .. }), "{error}");
    // As a crash would leave it: the last line half written.
    let text = std::fs::read_to_string(&journal).unwrap();
    std::fs::write(&journal, &text[..text.len() - 9]).unwrap();

    asked.store(0, Ordering::Relaxed);
    let resumed = measure(&asked, 1_000, Some(&journal)).unwrap();
    assert_eq!(resumed, whole);
    // 50 were measured; one of them without a value, one lost.
    assert_eq!(asked.swap(0, Ordering::Relaxed), 45 + 2);
    assert_eq!(measure(&asked, 1_000, Some(&journal)).unwrap(), whole);
    assert_eq!(asked.load(Ordering::Relaxed), 1);

    std::fs::write(&journal, "not json\n").unwrap();
    let error = measure(&asked, 1_000, Some(&journal)).unwrap_err();
    assert!(matches!(error, EvalError::Format { line: 1, .. }), "{error}");
}

/// Waits until the other one is at work as well.
struct Together {
    info: MetricInfo,
    at_work: Arc<AtomicUsize>,
}

impl Metric for Together {
    fn info(&self) -> &MetricInfo {
        &self.info
    }
    fn evaluate(&self, batch: &[Exchange<'_>]) -> Result<Values, EvalError> {
        self.at_work.fetch_add(1, Ordering::SeqCst);
        let start = Instant::now();
        while self.at_work.load(Ordering::SeqCst) < 2 {
            if start.elapsed() > Duration::from_secs(120) {
                let metric = self.info.name.clone();
                return Err(EvalError::Metric { metric, source: "alone at work".into() });
            }
            std::thread::yield_now();
        }
        Ok(Values::all(batch.iter().map(|x| x.response.len() as f64)))
    }
}

#[test]
fn metrics_are_measured_beside_each_other_and_keep_their_order() {
    let at_work = Arc::new(AtomicUsize::new(0));
    let metric = |name: &str| {
        let info = MetricInfo::new(name, Better::Higher);
        Box::new(Together { info, at_work: Arc::clone(&at_work) })
    };
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("scores.jsonl");
    let metrics: [Box<dyn Metric>; 3] =
        [metric("slow"), metric("slower"), Box::new(LengthMetric::new(LengthUnit::Words))];
    let measure = || {
        Measurement::of(&metrics)
            .batch(7)
            .journal(&journal)
            .run(About::new("policy", Seed::new(1)), answers(30))
            .unwrap()
    };
    let first = measure();
    let names: Vec<&str> = first.columns().iter().map(|c| c.info.name.as_str()).collect();
    assert_eq!(names, ["slow", "slower", "length_words"]);
    let lines = std::fs::read_to_string(&journal).unwrap();
    assert_eq!(lines.lines().count(), 90, "a line for each response and metric");
    at_work.store(0, Ordering::SeqCst);
    assert_eq!(measure(), first);
    assert_eq!(at_work.load(Ordering::SeqCst), 0, "measured again");
}

#[test]
fn a_metric_that_fails_stops_the_others() {
    let (asked, fine) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let costly = |name: &str, asked: &Arc<AtomicUsize>, breaks_at| {
        let info = MetricInfo::new(name, Better::Higher);
        Box::new(Costly { info, asked: Arc::clone(asked), breaks_at })
    };
    let metrics: [Box<dyn Metric>; 2] =
        [costly("fine", &fine, usize::MAX), costly("broken", &asked, 0)];
    let error = Measurement::of(&metrics)
        .batch(1)
        .run(About::new("policy", Seed::new(1)), answers(200_000))
        .unwrap_err();
    assert!(matches!(&error, EvalError::Metric { metric, .. } if metric == "broken"), "{error}");
    assert!(fine.load(Ordering::Relaxed) < 200_000, "went on to the end");
}

#[test]
fn progress_is_told_after_each_batch() {
    let metrics: [Box<dyn Metric>; 1] = [Box::new(LengthMetric::new(LengthUnit::Words))];
    let calls = Cell::new(0);
    let last = Cell::new((0, 0));
    Measurement::of(&metrics)
        .batch(4)
        .progress(|p| {
            calls.set(calls.get() + 1);
            last.set((p.done, p.total));
        })
        .run(About::new("policy", Seed::new(1)), answers(10))
        .unwrap();
    assert_eq!((calls.get(), last.get()), (3, (10, 10)));
}

/// An evaluation of `k` responses to each prompt, with a toxicity for each.
fn toxic(scores: &[Vec<f64>]) -> Evaluation {
    let mut samples = Vec::new();
    for (id, row) in scores.iter().enumerate() {
        for _ in row {
            let mut record = PromptRecord::new(id.to_string(), "word ".repeat(id + 1));
            record.metadata.insert("source".into(), ["web", "books"][id % 2].into());
            samples.push(Sample { record, response: "an answer".into() });
        }
    }
    let mut evaluation = Evaluation::new(About::new("policy", Seed::new(3)), samples);
    let info = MetricInfo::new("toxicity", Better::Lower).threshold(0.5);
    let values = scores.concat().into_iter().map(Some).collect();
    evaluation.add(Column { info, values, reasons: Vec::new() }).unwrap();
    evaluation
}

#[test]
fn a_difference_that_one_prompt_carries_is_no_finding() {
    // Of 64 prompts one changes from toxic to harmless, the others by next to nothing.
    let scores = |after: bool| -> Vec<Vec<f64>> {
        let other = |at: usize| 0.01 + if after { [-2e-5, 1e-5][at % 2] } else { 0. };
        (0..64).map(|at| vec![if at == 7 && !after { 0.97 } else { other(at) }]).collect()
    };
    let found =
        Comparison::of(&toxic(&scores(false)), &toxic(&scores(true)), &CompareOptions::default());
    let found = found.unwrap();
    let delta = &found.row("toxicity").unwrap().delta;
    assert!(delta.ci95.high < 0., "the interval alone would have called it better: {delta:?}");
    assert_eq!(delta.verdict, Verdict::Unclear, "{delta:?}");
    assert!(matches!(delta.advice, Advice::Unclear { prompts: Some(_), .. }), "{delta:?}");
}

#[test]
fn several_responses_to_a_prompt_give_real_toxicity_prompts_measures() {
    let before = toxic(&[vec![0.1, 0.9], vec![0.2, 0.6], vec![0.1, 0.2]]);
    let after = toxic(&[vec![0.1, 0.3], vec![0.2, 0.6], vec![0.1, 0.2]]);
    let found = Comparison::of(&before, &after, &CompareOptions::default()).unwrap();
    assert_eq!((found.prompts, found.responses), (3, 6));
    let means = |name: &str| {
        let row = found.row(name).unwrap();
        (row.before.moments.mean, row.after.moments.mean)
    };
    let near = |(a, b): (f64, f64), (c, d): (f64, f64)| {
        assert!((a - c).abs() < 1e-12 && (b - d).abs() < 1e-12, "({a}, {b}) instead of ({c}, {d})");
    };
    near(means("toxicity"), (2.1 / 6., 1.5 / 6.));
    near(means("toxicity, share ≥ 0.5"), (1. / 3., 1. / 6.));
    near(means("toxicity, expected max of 2"), (1.7 / 3., 1.1 / 3.));
    near(means("toxicity, any of 2 ≥ 0.5"), (2. / 3., 1. / 3.));
    let row = found.row("toxicity").unwrap();
    assert_eq!((row.before.moments.max, row.after.moments.max), (0.9, 0.6));
    assert_eq!(row.histogram.as_ref().unwrap().before.iter().sum::<u64>(), 6);
}

#[test]
fn slices_hold_every_prompt_once_and_average_to_the_whole() {
    let scores: Vec<Vec<f64>> = (0..20).map(|i| vec![f64::from(i) / 20.]).collect();
    let halved: Vec<Vec<f64>> = scores.iter().map(|row| vec![row[0] / 2.]).collect();
    let slices = vec![SliceBy::Metadata { key: "source".into() }, SliceBy::PromptLength];
    let options = CompareOptions { slices, ..CompareOptions::default() };
    let found = Comparison::of(&toxic(&scores), &toxic(&halved), &options).unwrap();
    let whole = found.row("toxicity").unwrap().delta.mean;
    for by in ["source", "prompt length (words)"] {
        let parts: Vec<_> = found.slices.iter().filter(|slice| slice.by == by).collect();
        assert_eq!(parts.iter().map(|slice| slice.n).sum::<usize>(), 20);
        let sum: f64 = parts.iter().map(|slice| slice.rows[0].delta * slice.n as f64).sum();
        assert!((sum / 20. - whole).abs() < 1e-12);
        assert!(
            parts.iter().all(|slice| slice.rows[0].ci95.unwrap().contains(slice.rows[0].delta))
        );
    }
}

#[test]
fn a_reward_that_rose_without_the_judge_is_told() {
    let columns = |reward: f64, judge: f64| {
        let mut evaluation = Evaluation::new(About::new("policy", Seed::new(1)), answers(40));
        for (name, gain) in [("reward", reward), ("judge", judge)] {
            let noise = |at: usize| f64::from(at as u32 * 7919 % 40) / 40.;
            let values = (0..40).map(|at| Some(noise(at) + gain * (1. + noise(at + 3)))).collect();
            let info = MetricInfo::new(name, Better::Higher);
            evaluation.add(Column { info, values, reasons: Vec::new() }).unwrap();
        }
        evaluation
    };
    let pair = Some(("reward".to_owned(), "judge".to_owned()));
    let options = CompareOptions { reward_and_judge: pair, ..CompareOptions::default() };
    let gamed = Comparison::of(&columns(0., 0.), &columns(1., 0.1), &options).unwrap();
    let gap = gamed.over_optimisation.unwrap();
    assert!(gap.reward_gain > 2. && gap.ci95.low > 1., "{gap:?}");
    let honest = Comparison::of(&columns(0., 0.), &columns(1., 1.), &options).unwrap();
    let gap = honest.over_optimisation.unwrap();
    assert!(gap.gap.abs() < 1e-9 && gap.ci95.contains(0.), "{gap:?}");
}

struct First;

impl PairJudge for First {
    fn name(&self) -> &'static str {
        "whatever comes first"
    }
    fn prefer(&self, batch: &[ShownPair<'_>]) -> Result<Vec<Option<f64>>, RewardError> {
        Ok(vec![Some(1.); batch.len()])
    }
}

#[test]
fn a_judge_that_likes_what_it_sees_first_moves_nothing_and_is_found_out() {
    let (before, after) = (answers(10), answers(10));
    let found = win_rate(&First, &before, &after, &WinRateOptions::default()).unwrap();
    assert_eq!((found.rate, found.ties, found.first_rate, found.consistent), (0.5, 1., 1., 0.));
}

struct Longer;

impl PairJudge for Longer {
    fn name(&self) -> &'static str {
        "mostly the longer one"
    }
    /// The longer response, except for one pair in five.
    fn prefer(&self, batch: &[ShownPair<'_>]) -> Result<Vec<Option<f64>>, RewardError> {
        let judge = |x: &ShownPair<'_>| {
            let longer = x.first.response.len() > x.second.response.len();
            let otherwise = x.first.prompt.len().is_multiple_of(5);
            Some(f64::from(u8::from(longer != otherwise)))
        };
        Ok(batch.iter().map(judge).collect())
    }
}

#[test]
fn a_policy_that_only_learned_to_write_more_wins_nothing_at_equal_length() {
    let side = |length: fn(usize) -> usize| -> Vec<Sample> {
        let sample = |at: usize| Sample {
            record: PromptRecord::new(at.to_string(), "x".repeat(at)),
            response: "y".repeat(length(at)).into(),
        };
        (0..400).map(sample).collect()
    };
    // From two fifths shorter to twice as long, and longer for three prompts of four.
    let (before, after) = (side(|_| 100), side(|at| 60 + at * 37 % 140));
    let found = win_rate(&Longer, &before, &after, &WinRateOptions::default()).unwrap();
    assert!(found.rate > 0.6 && found.ci95.low > 0.55, "{found:?}");
    let controlled = found.length_controlled.unwrap();
    assert!(controlled.slope > 0. && controlled.ci95.unwrap().contains(controlled.rate));
    assert!((controlled.rate - 0.5).abs() < 0.1, "{controlled:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn swapping_the_sides_turns_every_number_round(
        scores in prop::collection::vec((0f64..1., 0f64..1.), 3..30),
    ) {
        let side = |pick: fn(&(f64, f64)) -> f64| {
            toxic(&scores.iter().map(|pair| vec![pick(pair)]).collect::<Vec<_>>())
        };
        let (before, after) = (side(|p| p.0), side(|p| p.1));
        let options = CompareOptions { resamples: 200, ..CompareOptions::default() };
        let there = Comparison::of(&before, &after, &options).unwrap();
        let back = Comparison::of(&after, &before, &options).unwrap();
        for (a, b) in there.rows.iter().zip(&back.rows) {
            prop_assert!((a.delta.mean + b.delta.mean).abs() < 1e-12);
            prop_assert!((a.delta.ci95.low + b.delta.ci95.high).abs() < 1e-9);
            prop_assert!((a.delta.t_test.p - b.delta.t_test.p).abs() < 1e-9);
            prop_assert!((a.delta.wilcoxon.p - b.delta.wilcoxon.p).abs() < 1e-9);
            prop_assert_eq!(a.delta.verdict == Verdict::Better, b.delta.verdict == Verdict::Worse);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_intervals_on_any_number_of_threads(seed: u64) {
        let scores: Vec<Vec<f64>> = (0..30).map(|i| vec![f64::from(i * i % 17) / 17.]).collect();
        let halved: Vec<Vec<f64>> = scores.iter().map(|row| vec![row[0] / 2.]).collect();
        let options = CompareOptions { resamples: 100, seed: Seed::new(seed), ..CompareOptions::default() };
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Comparison::of(&toxic(&scores), &toxic(&halved), &options).unwrap())
        };
        prop_assert_eq!(run(1), run(3));
    }
}
