//! Input that cannot be measured or compared is refused with a descriptive error.

use std::path::Path;

use rlaif_core::{Exchange, FileAction, PromptRecord, RewardError, Sample, Seed};
use rlaif_eval::text::{RepetitionMetric, Rouge, RougeKind, Stemming};
use rlaif_eval::{
    About, Better, Column, CompareOptions, Comparison, EvalError, Evaluation, Measurement, Metric,
    MetricInfo, Missing, PairJudge, RewardMetric, ShownPair, SliceBy, Values, WinRateOptions,
    win_rate,
};

fn sample(id: &str, response: &str) -> Sample {
    Sample { record: PromptRecord::new(id, format!("Prompt {id}?")), response: response.into() }
}

fn samples(ids: &[&str]) -> Vec<Sample> {
    ids.iter().map(|id| sample(id, "Well.")).collect()
}

fn scored(samples: Vec<Sample>, values: &[Option<f64>]) -> Evaluation {
    let mut evaluation = Evaluation::new(About::new("policy", Seed::new(1)), samples);
    let info = MetricInfo::new("toxicity", Better::Lower).threshold(0.5);
    evaluation
        .add(Column { info, values: values.to_vec(), reasons: vec![(1, "refused".into())] })
        .unwrap();
    evaluation
}

fn compare(before: &Evaluation, after: &Evaluation) -> Result<Comparison, EvalError> {
    Comparison::of(before, after, &CompareOptions::default())
}

#[test]
fn different_prompts_are_refused_by_id_by_text_and_by_number() {
    let before = scored(samples(&["a", "b", "c"]), &[Some(0.1); 3]);
    let error = compare(&before, &scored(samples(&["a", "c", "d"]), &[Some(0.1); 3])).unwrap_err();
    let EvalError::PromptsDiffer { only_before: 1, first_before, only_after: 1, first_after } =
        &error
    else {
        panic!("{error}")
    };
    assert_eq!((first_before.as_deref(), first_after.as_deref()), (Some("b"), Some("d")));

    let mut other = samples(&["a", "b", "c"]);
    other[2].record.prompt.replace_range(7..8, "X");
    let error = compare(&before, &scored(other, &[Some(0.1); 3])).unwrap_err();
    assert!(matches!(&error, EvalError::PromptTextDiffers { id, at: 7 } if id == "c"), "{error}");

    let error =
        compare(&before, &scored(samples(&["a", "b", "c", "a"]), &[Some(0.1); 4])).unwrap_err();
    assert!(matches!(&error, EvalError::ResponsesDiffer { before: 1, after: 2, .. }), "{error}");
}

#[test]
fn the_order_of_prompts_does_not_matter() {
    let before = scored(samples(&["a", "b", "c"]), &[Some(0.1), Some(0.2), Some(0.3)]);
    let after = scored(samples(&["c", "a", "b"]), &[Some(0.3), Some(0.1), Some(0.2)]);
    let row = compare(&before, &after).unwrap().rows.swap_remove(0);
    assert_eq!((row.delta.mean, row.delta.rose, row.delta.fell), (0., 0., 0.));
}

#[test]
fn fewer_than_two_prompts_are_refused() {
    let one = scored(samples(&["a"]), &[Some(0.1)]);
    let error = compare(&one, &one).unwrap_err();
    assert!(matches!(error, EvalError::TooFew { needed: 2, found: 1, .. }), "{error}");
    let none = scored(Vec::new(), &[]);
    assert!(matches!(compare(&none, &none).unwrap_err(), EvalError::TooFew { found: 0, .. }));
    // Ten responses to one prompt are still one prompt.
    let many = scored(samples(&["a"; 10]), &[Some(0.1); 10]);
    assert!(matches!(compare(&many, &many).unwrap_err(), EvalError::TooFew { found: 1, .. }));
}

#[test]
fn a_missing_score_is_refused_with_its_reason_or_its_prompt_is_dropped_and_counted() {
    let before = scored(samples(&["a", "b", "c"]), &[Some(0.1), None, Some(0.4)]);
    let after = scored(samples(&["a", "b", "c"]), &[Some(0.1); 3]);
    let error = compare(&before, &after).unwrap_err();
    let EvalError::MissingScore { metric, id, reason } = &error else { panic!("{error}") };
    assert_eq!((metric.as_str(), id.as_str(), reason.as_str()), ("toxicity", "b", "refused"));

    let options = CompareOptions { missing: Missing::DropPrompt, ..CompareOptions::default() };
    let found = Comparison::of(&before, &after, &options).unwrap();
    assert_eq!((found.prompts, found.dropped["toxicity"]), (2, 1));
    assert!((found.rows[0].before.moments.mean - 0.25).abs() < 1e-12);
}

#[test]
fn nan_and_infinity_are_refused_wherever_they_come_from() {
    let info = MetricInfo::new("m", Better::Higher);
    for bad in [f64::NAN, f64::INFINITY] {
        let mut evaluation = Evaluation::new(About::new("p", Seed::new(1)), samples(&["a"]));
        let column = Column { info: info.clone(), values: vec![Some(bad)], reasons: Vec::new() };
        let error = evaluation.add(column).unwrap_err();
        assert!(matches!(&error, EvalError::NotFinite { id, .. } if id == "a"), "{error}");
    }
    let reward = |batch: &[Exchange<'_>]| vec![f32::NAN; batch.len()];
    let metrics: [Box<dyn Metric>; 1] = [Box::new(RewardMetric::new(info, reward))];
    let error = run(&metrics, samples(&["a"])).unwrap_err();
    assert!(matches!(error, EvalError::Reward { .. }), "{error}");
}

struct Broken(MetricInfo, Vec<Option<f64>>);

impl Metric for Broken {
    fn info(&self) -> &MetricInfo {
        &self.0
    }
    fn evaluate(&self, _: &[Exchange<'_>]) -> Result<Values, EvalError> {
        Ok(Values { values: self.1.clone(), reasons: vec![(99, "no such row".into())] })
    }
}

fn run(metrics: &[Box<dyn Metric>], samples: Vec<Sample>) -> Result<Evaluation, EvalError> {
    Measurement::of(metrics).run(About::new("policy", Seed::new(1)), samples)
}

#[test]
fn a_metric_that_gives_too_few_values_or_nan_is_refused() {
    let broken = |values: &[Option<f64>]| -> [Box<dyn Metric>; 1] {
        [Box::new(Broken(MetricInfo::new("m", Better::Higher), values.to_vec()))]
    };
    let error = run(&broken(&[Some(1.)]), samples(&["a", "b"])).unwrap_err();
    assert!(matches!(error, EvalError::Count { expected: 2, found: 1, .. }), "{error}");
    let error = run(&broken(&[Some(1.), Some(f64::NAN)]), samples(&["a", "b"])).unwrap_err();
    assert!(matches!(&error, EvalError::NotFinite { id, .. } if id == "b"), "{error}");
}

#[test]
fn metrics_that_share_a_name_or_differ_between_the_sides_are_refused() {
    let metrics: [Box<dyn Metric>; 2] =
        [Box::new(RepetitionMetric::new(2).unwrap()), Box::new(RepetitionMetric::new(2).unwrap())];
    let error = run(&metrics, samples(&["a"])).unwrap_err();
    assert!(matches!(error, EvalError::DuplicateMetric { .. }), "{error}");

    let before = scored(samples(&["a", "b"]), &[Some(0.1); 2]);
    let mut after = Evaluation::new(About::new("policy", Seed::new(1)), samples(&["a", "b"]));
    let error = compare(&before, &after).unwrap_err();
    assert!(matches!(error, EvalError::MetricsDiffer { what: "only before", .. }), "{error}");
    let info = MetricInfo::new("toxicity", Better::Higher).threshold(0.5);
    after.add(Column { info, values: vec![Some(0.1); 2], reasons: Vec::new() }).unwrap();
    let error = compare(&before, &after).unwrap_err();
    assert!(matches!(error, EvalError::MetricsDiffer { .. }), "{error}");
    let bare = Evaluation::new(About::new("policy", Seed::new(1)), samples(&["a", "b"]));
    assert!(matches!(compare(&bare, &bare).unwrap_err(), EvalError::TooFew { needed: 1, .. }));
}

#[test]
fn different_seeds_and_settings_that_do_not_fit_are_refused() {
    let before = scored(samples(&["a", "b"]), &[Some(0.1); 2]);
    let mut after = before.clone();
    after.about.seed = Seed::new(2);
    let error = compare(&before, &after).unwrap_err();
    assert!(matches!(error, EvalError::SeedsDiffer { .. }), "{error}");

    let refused = |options: CompareOptions| Comparison::of(&before, &before, &options).unwrap_err();
    let with = CompareOptions::default;
    let error = refused(CompareOptions { resamples: 10, ..with() });
    assert!(matches!(&error, EvalError::Setting(bad) if bad.field == "resamples"), "{error}");
    let error = refused(CompareOptions { responses: Some(2), ..with() });
    assert!(matches!(&error, EvalError::Setting(bad) if bad.field == "responses"), "{error}");
    let error = refused(CompareOptions { headline: Some("charm".into()), ..with() });
    assert!(error.to_string().contains("the metrics are toxicity"), "{error}");
    let slices = vec![SliceBy::Number { key: "k".into(), edges: vec![f64::NAN] }];
    let error = refused(CompareOptions { slices, ..with() });
    assert!(matches!(&error, EvalError::Setting(bad) if bad.field == "edges"), "{error}");
    let slices = vec![SliceBy::Metadata { key: "sauce".into() }];
    let error = refused(CompareOptions { slices, ..with() });
    assert!(matches!(&error, EvalError::Setting(bad) if bad.field == "slices"), "{error}");
    let error = refused(CompareOptions { prompt_toxicity: Some("toxic".into()), ..with() });
    assert!(error.to_string().contains("`toxic` (there are: none)"), "{error}");
    let pair = Some(("toxicity".to_owned(), "charm".to_owned()));
    let error = refused(CompareOptions { reward_and_judge: pair, ..with() });
    assert!(matches!(&error, EvalError::UnknownMetric { name, .. } if name == "charm"), "{error}");
}

#[test]
fn rouge_without_a_reference_and_without_words_is_refused() {
    let metrics: [Box<dyn Metric>; 1] =
        [Box::new(Rouge::new(RougeKind::L, Stemming::Off).unwrap())];
    let error = run(&metrics, samples(&["a"])).unwrap_err();
    assert!(matches!(error, EvalError::NoReference { row: 0, .. }), "{error}");
    assert!(Rouge::new(RougeKind::N(0), Stemming::Off).is_err());
    assert!(RepetitionMetric::new(0).is_err());
}

struct Judge(fn(&ShownPair<'_>) -> Option<f64>);

impl PairJudge for Judge {
    fn name(&self) -> &'static str {
        "judge"
    }
    fn prefer(&self, batch: &[ShownPair<'_>]) -> Result<Vec<Option<f64>>, RewardError> {
        Ok(batch.iter().map(self.0).collect())
    }
}

#[test]
fn a_judge_with_a_verdict_that_is_no_probability_or_missing_is_refused() {
    let both = samples(&["a", "b", "c"]);
    let ask = |judge: &Judge, missing| {
        win_rate(judge, &both, &both, &WinRateOptions { missing, ..WinRateOptions::default() })
    };
    let error = ask(&Judge(|_| Some(1.5)), Missing::Refuse).unwrap_err();
    assert!(matches!(error, EvalError::NotFinite { value: 1.5, .. }), "{error}");
    assert!(ask(&Judge(|_| Some(f64::NAN)), Missing::Refuse).is_err());
    let unsure = Judge(|x| (x.first.prompt != "Prompt b?").then_some(0.5));
    let error = ask(&unsure, Missing::Refuse).unwrap_err();
    assert!(matches!(&error, EvalError::MissingScore { id, .. } if id == "b"), "{error}");
    let found = ask(&unsure, Missing::DropPrompt).unwrap();
    assert_eq!((found.n, found.dropped), (2, 1));
    let error = ask(&Judge(|_| None), Missing::DropPrompt).unwrap_err();
    assert!(matches!(error, EvalError::TooFew { found: 0, .. }), "{error}");
}

#[test]
fn files_that_hold_something_else_are_refused_with_their_path_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("evaluation.json");
    std::fs::write(&path, "{\n  \"about\": 3\n}").unwrap();
    let error = Evaluation::read(&path).unwrap_err();
    assert!(matches!(&error, EvalError::Format { line: 2, .. }), "{error}");
    assert!(error.to_string().contains("evaluation.json"), "{error}");
    let error = Evaluation::read(Path::new("no/such/file")).unwrap_err();
    assert!(matches!(error, EvalError::Io { action: FileAction::Read, .. }), "{error}");

    // A column that does not fit the samples is refused however it got there.
    let good = scored(samples(&["a", "b"]), &[Some(0.1), None]);
    good.write(&path).unwrap();
    assert_eq!(Evaluation::read(&path).unwrap(), good);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["samples"].as_array_mut().unwrap().pop();
    std::fs::write(&path, json.to_string()).unwrap();
    assert!(matches!(Evaluation::read(&path).unwrap_err(), EvalError::Count { .. }));
}

#[test]
fn numbers_that_are_not_finite_end_and_are_never_significant() {
    use rlaif_eval::stats::{
        IntervalMethod, WilcoxonMethod, cohen_dz, fit_length_effect, interval_of, paired_t,
        wilcoxon,
    };
    use rlaif_eval::toxicity::{any_at_least, expected_maximum};
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let values = [0.1, bad, 0.3, -0.2, 0.5];
        let t = paired_t(&values).unwrap();
        assert!(t.p.is_nan() && t.statistic.is_none(), "{t:?}");
        assert_eq!(cohen_dz(&values).unwrap(), None);
        for method in [WilcoxonMethod::Auto, WilcoxonMethod::Exact, WilcoxonMethod::Normal] {
            // An infinite difference has the highest rank; a NaN has none.
            assert_eq!(wilcoxon(&values, method).unwrap().p.is_nan(), bad.is_nan());
        }
        for method in [IntervalMethod::Percentile, IntervalMethod::Bca] {
            let interval = interval_of(&values, &values, 0.95, method).unwrap();
            assert!(!(interval.low.is_finite() && interval.high.is_finite()), "{interval:?}");
        }
        assert!(fit_length_effect(&[1., 0., 1., 0., 1.], &values).is_err());
        assert!(fit_length_effect(&values, &[1., 2., 1.5, 0.5, 0.7]).is_err());
    }
    let scores = [0.9, f64::NAN, 0.1];
    assert!(expected_maximum(&scores, 2).unwrap().is_nan());
    assert!(any_at_least(&scores, 0.5, 2).unwrap().is_nan());
}
