//! Combinators and rules.

use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use rlaif_core::{Exchange, Metadata, RewardError, RewardModel, Score, Scores, Tell};
use rlaif_rewards::combine::Centring;
use rlaif_rewards::{
    Cached, Constant, Format, Gated, Length, LowerBound, Mean, Minimum, Overlap, OverlapMeasure,
    ProviderError, Repetition, RewardExt, WeightedSum, Words,
};

/// Scores a response that is a number with that number; others get no score.
#[derive(Debug)]
struct Numbers(&'static str);

impl RewardModel for Numbers {
    fn name(&self) -> &str {
        self.0
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let number = |x: &Exchange<'_>| x.response.parse().ok().and_then(|n| Score::new(n).ok());
        let total: Vec<_> = batch.iter().map(number).collect();
        let missing = total.iter().enumerate().filter(|(_, score)| score.is_none());
        let reasons = missing.map(|(row, _)| (row, "no number".to_owned())).collect();
        Ok(Scores { total, reasons, ..Scores::default() })
    }
}

fn batch<'a>(responses: &[&'a str]) -> Vec<Exchange<'a>> {
    responses.iter().map(|response| Exchange::new("p", response)).collect()
}

fn totals(scores: &Scores) -> Vec<Option<f32>> {
    scores.total.iter().map(|score| score.map(Score::get)).collect()
}

#[test]
fn a_sum_has_a_column_for_each_term_and_passes_on_why_a_row_has_none() {
    let sum = WeightedSum::new("sum").term(2., Numbers("a")).term(1., Numbers("a"));
    let scores = sum.score(&batch(&["1", "x", "3"])).unwrap();
    assert_eq!(totals(&scores), [Some(3.), None, Some(9.)]);
    let names: Vec<&str> = scores.parts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", "a 2"]);
    assert_eq!(scores.reasons, [(1, "a: no number; a 2: no number".to_owned())]);
    assert_eq!(totals(&WeightedSum::new("empty").score(&batch(&["1"])).unwrap()), [Some(0.)]);
}

/// As [`Numbers`], from the last row to the first, one by one, and the count of rows so far.
#[derive(Debug, Clone)]
struct OneByOne(&'static str, Arc<Mutex<usize>>);

impl RewardModel for OneByOne {
    fn name(&self) -> &str {
        self.0
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        Numbers(self.0).score(batch)
    }

    fn score_each(&self, batch: &[Exchange<'_>], tell: &mut Tell<'_>) -> Result<(), RewardError> {
        for (row, exchange) in batch.iter().enumerate().rev() {
            *self.1.lock().unwrap() += 1;
            if exchange.response == "broken" {
                let source = "the connection broke".into();
                return Err(RewardError::Failed { model: self.0.to_owned(), source });
            }
            if tell(row, Numbers(self.0).score(&[*exchange])?).is_break() {
                break;
            }
        }
        Ok(())
    }
}

#[test]
fn combinators_tell_rows_as_their_members_do() {
    let count = Arc::new(Mutex::new(0));
    let one = |name| OneByOne(name, Arc::clone(&count));
    let make = |kind: usize| -> Box<dyn RewardModel> {
        match kind {
            0 => Box::new(WeightedSum::new("s").term(2., one("a")).term(1., one("a"))),
            1 => Box::new(Mean::new("m", one("a")).and(Numbers("b"))),
            2 => Box::new(Minimum::new("n", one("a")).and(one("b").scaled(-1., 0.).unwrap())),
            3 => Box::new(one("a").scaled(3., 1.).unwrap().clipped(-5., 9.).unwrap()),
            4 => Box::new(Gated::new(one("a"), one("g"), 2., -1.).unwrap()),
            5 => Box::new(one("a").or_else(Constant::new(7.).unwrap())),
            6 => Box::new(Cached::new(one("a"), 8)),
            _ => Box::new(WeightedSum::new("empty")),
        }
    };
    let rows = batch(&["1", "x", "3", "1", "-4"]);
    for kind in 0..8 {
        let whole = make(kind).score(&rows).unwrap();
        let reward = make(kind);
        // A second time, for what is remembered.
        for _ in 0..2 {
            let mut told = vec![Scores::default(); rows.len()];
            let mut tell = |row: usize, scores: Scores| {
                told[row] = scores;
                ControlFlow::Continue(())
            };
            reward.score_each(&rows, &mut tell).unwrap();
            for (row, told) in told.into_iter().enumerate() {
                let expected = whole.gather(&[row]);
                assert_eq!((&told.total, &told.reasons), (&expected.total, &expected.reasons));
                // What a gate keeps back has no parts of the model behind it.
                assert!(kind == 4 || told.parts == expected.parts, "{kind}, {row}: {told:?}");
            }
        }
        if kind == 7 {
            continue;
        }
        // After a `Break` no row is passed on; rows that came before an error are.
        *count.lock().unwrap() = 0;
        let mut heard = 0;
        let many = batch(&["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]);
        let mut tell = |_: usize, _: Scores| {
            heard += 1;
            ControlFlow::Break(())
        };
        make(kind).score_each(&many, &mut tell).unwrap();
        assert_eq!(heard, 1, "{kind}");
        let broken = batch(&["1", "broken", "3", "4"]);
        let mut heard = Vec::new();
        let mut tell = |row: usize, _: Scores| {
            heard.push(row);
            ControlFlow::Continue(())
        };
        let error = make(kind).score_each(&broken, &mut tell).unwrap_err().to_string();
        assert!(error.contains("the connection broke"), "{error}");
        // Of several members, the error of one may come before a row of another.
        assert!(![3, 5, 6].contains(&kind) || heard == [3, 2], "{kind}: {heard:?}");
    }
}

/// Blocks until `count` callers have arrived.
fn meet(there: &(Mutex<usize>, Condvar), count: usize) {
    let (arrived, changed) = there;
    let mut arrived = arrived.lock().unwrap();
    *arrived += 1;
    changed.notify_all();
    let long = Duration::from_secs(60);
    let (arrived, _) = changed.wait_timeout_while(arrived, long, |n| *n < count).unwrap();
    assert!(*arrived >= count, "{arrived} of {count} were there");
}

#[test]
fn members_are_asked_at_the_same_time() {
    let there = Arc::new((Mutex::new(0), Condvar::new()));
    let member = || {
        let there = Arc::clone(&there);
        move |batch: &[Exchange<'_>]| {
            meet(&there, 5);
            vec![1.; batch.len()]
        }
    };
    let mean = Mean::new("m", member()).and(member()).and(member()).and(member()).and(member());
    assert_eq!(totals(&mean.score(&batch(&["y"])).unwrap()), [Some(1.)]);
}

#[test]
fn the_error_of_a_member_is_the_error_of_the_whole() {
    let short = |_: &[Exchange<'_>]| vec![1.];
    let sum = WeightedSum::new("sum").term(1., Numbers("a")).term(1., short);
    let error = sum.score(&batch(&["1", "2"])).unwrap_err();
    assert!(matches!(error, RewardError::Count { expected: 2, found: 1, .. }), "{error}");
    let nan = |batch: &[Exchange<'_>]| vec![f32::NAN; batch.len()];
    let error = Minimum::new("m", Numbers("a")).and(nan).score(&batch(&["1"])).unwrap_err();
    assert!(matches!(error, RewardError::NonFinite { row: 0, .. }), "{error}");
    let error = WeightedSum::new("s").term(f32::INFINITY, Numbers("a")).score(&batch(&["1"]));
    assert!(matches!(error, Err(RewardError::NonFinite { .. })), "{error:?}");
    let error = Numbers("a").scaled(f32::MAX, 0.).unwrap().score(&batch(&["9"])).unwrap_err();
    assert!(matches!(error, RewardError::NonFinite { .. }), "{error}");
}

/// A combinator that asks its member about some rows alone names the row of the whole batch.
#[test]
fn a_score_that_is_not_finite_is_of_the_row_of_the_batch() {
    let nan_at_two = |batch: &[Exchange<'_>]| -> Vec<f32> {
        batch.iter().map(|x| if x.response == "2" { f32::NAN } else { 1. }).collect()
    };
    let passes = |batch: &[Exchange<'_>]| -> Vec<f32> {
        batch.iter().map(|x| if x.response == "0" { 0. } else { 1. }).collect()
    };
    let batch = batch(&["0", "1", "0", "2"]);
    let gated = || Gated::new(nan_at_two, passes, 0.5, 0.).unwrap();
    let error = gated().score(&batch).unwrap_err();
    assert!(matches!(error, RewardError::NonFinite { row: 3, .. }), "{error}");
    let error = gated().score_each(&batch, &mut |_, _| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, RewardError::NonFinite { row: 3, .. }), "{error}");
    let cached = Cached::new(nan_at_two, 9);
    let error = cached.score(&batch).unwrap_err();
    assert!(matches!(error, RewardError::NonFinite { row: 3, .. }), "{error}");
    let error = cached.score_each(&batch, &mut |_, _| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, RewardError::NonFinite { row: 3, .. }), "{error}");
}

#[test]
fn a_gate_asks_only_about_what_passes() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let inner = move |batch: &[Exchange<'_>]| {
        seen.lock().unwrap().extend(batch.iter().map(|x| x.response.to_owned()));
        vec![7.; batch.len()]
    };
    let gated = Gated::new(inner, Numbers("gate"), 2., -1.).unwrap();
    let scores = gated.score(&batch(&["1", "2", "x", "3"])).unwrap();
    assert_eq!(totals(&scores), [Some(-1.), Some(7.), None, Some(7.)]);
    assert_eq!(*asked.lock().unwrap(), ["2", "3"]);
    assert_eq!(scores.reasons, [(2, "gate: no number".to_owned())]);
    assert_eq!(scores.parts[0].0, "gate gate");
}

#[test]
fn a_fallback_answers_what_the_first_cannot() {
    let scores =
        Numbers("a").or_else(Constant::new(0.).unwrap()).score(&batch(&["1", "x"])).unwrap();
    assert_eq!(totals(&scores), [Some(1.), Some(0.)]);
    assert_eq!(scores.reasons, []);
    let scores = Numbers("a").or_else(Numbers("b")).score(&batch(&["1", "x"])).unwrap();
    assert_eq!(scores.reasons, [(1, "no number; b: no number".to_owned())]);
}

#[test]
fn a_cache_tells_rows_apart_by_all_that_they_are_and_forgets_the_oldest() {
    let asked = Arc::new(Mutex::new(0));
    let seen = asked.clone();
    let counting = move |batch: &[Exchange<'_>]| {
        *seen.lock().unwrap() += batch.len();
        vec![1.; batch.len()]
    };
    let cached = Cached::new(counting, 3);
    let metadata: Metadata = [("a".to_owned(), serde_json::json!(1))].into_iter().collect();
    let y = Exchange::new("p", "y");
    let rows = [
        y,
        Exchange { reference: Some("r"), ..y },
        Exchange { metadata: Some(&metadata), ..y },
        Exchange::new("py", ""),
    ];
    cached.score(&rows).unwrap();
    assert_eq!(*asked.lock().unwrap(), 4);
    cached.score(&rows[1..]).unwrap();
    assert_eq!(*asked.lock().unwrap(), 4);
    cached.score(&rows[..1]).unwrap();
    assert_eq!(*asked.lock().unwrap(), 5);
    let nothing = Numbers("n").cached(0);
    assert_eq!(totals(&nothing.score(&batch(&["x", "1"])).unwrap()), [None, Some(1.)]);
    assert_eq!(nothing.score(&batch(&["x"])).unwrap().reasons, [(0, "no number".to_owned())]);
}

#[test]
fn a_cache_takes_metadata_without_entries_for_none() {
    let asked = Arc::new(Mutex::new(0));
    let seen = asked.clone();
    let counting = move |batch: &[Exchange<'_>]| {
        *seen.lock().unwrap() += batch.len();
        vec![1.; batch.len()]
    };
    let (cached, empty) = (Cached::new(counting, 3), Metadata::new());
    let y = Exchange::new("p", "y");
    cached.score(&[y, Exchange { metadata: Some(&empty), ..y }]).unwrap();
    assert_eq!(*asked.lock().unwrap(), 1);
}

/// As [`Numbers`], with the response's length as a part of every row.
struct WithLength(&'static str);

impl RewardModel for WithLength {
    fn name(&self) -> &str {
        self.0
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let mut scores = Numbers(self.0).score(batch)?;
        let length = |x: &Exchange<'_>| Score::new(x.response.len() as f32).ok();
        scores.parts.push((format!("length {}", self.0), batch.iter().map(length).collect()));
        Ok(scores)
    }
}

#[test]
fn no_combinator_loses_a_part_or_a_reason() {
    let rows = batch(&["1", "xx", "333", "xx"]);
    let part = |scores: &Scores, name: &str| {
        let found = scores.parts.iter().find(|(known, _)| known == name);
        let (_, column) = found.unwrap_or_else(|| panic!("no {name} in {:?}", scores.parts));
        column.iter().map(|score| score.map(Score::get)).collect::<Vec<_>>()
    };
    let all = [Some(1.), Some(2.), Some(3.), Some(2.)];
    let why = |reason: &str| vec![(1, reason.to_owned()), (3, reason.to_owned())];

    // Rows without a verdict have parts, and equal rows have the same parts.
    let cached = WithLength("a").cached(9);
    for _ in 0..2 {
        let scores = cached.score(&rows).unwrap();
        assert_eq!(totals(&scores), [Some(1.), None, Some(333.), None]);
        assert_eq!(part(&scores, "length a"), all);
        assert_eq!(scores.reasons, why("no number"));
    }
    // The model with the last word reports its parts.
    let scores = WithLength("a").or_else(WithLength("b")).score(&rows).unwrap();
    assert_eq!(part(&scores, "length a"), all);
    assert_eq!(part(&scores, "length b"), [None, Some(2.), None, Some(2.)]);
    assert_eq!(scores.reasons, why("no number; b: no number"));
    // So does a gate.
    let scores = WithLength("a").only_when(WithLength("g"), 2., 0.).unwrap().score(&rows).unwrap();
    assert_eq!(totals(&scores), [Some(0.), None, Some(333.), None]);
    assert_eq!(part(&scores, "gate g"), [Some(1.), None, Some(333.), None]);
    assert_eq!(part(&scores, "gate g/length g"), all);
    assert_eq!(part(&scores, "length a"), [None, None, Some(3.), None]);
    assert_eq!(scores.reasons, why("g: no number"));
}

#[test]
fn two_gates_of_one_name_are_two_columns_around_an_outer_gate_too() {
    let gated = Numbers("a").only_when(Numbers("g"), 2., 0.).unwrap();
    let gated = gated.only_when(Numbers("g"), 3., 0.).unwrap();
    let gated = gated.only_when(Numbers("h"), 1., 0.).unwrap();
    let scores = gated.score(&batch(&["3", "2", "0"])).unwrap();
    let names: Vec<&str> = scores.parts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["gate h", "gate g", "gate g"]);
}

/// Mean and sample deviation of all values, computed in two passes.
fn schoolbook(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    (mean, (squares / (n - 1.)).sqrt())
}

proptest! {
    #[test]
    fn running_moments_are_those_of_all_scores_so_far(
        batches in prop::collection::vec(prop::collection::vec(-100..100_i32, 2..20), 1..8)
    ) {
        let model = Numbers("n").normalised(Centring::Centred);
        let mut all = Vec::new();
        for values in &batches {
            all.extend(values.iter().map(|&v| f64::from(v)));
            let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
            let rows: Vec<_> = texts.iter().map(|text| Exchange::new("p", text)).collect();
            let scores = model.score(&rows).unwrap();
            let (mean, std) = schoolbook(&all);
            for (score, value) in scores.total.iter().zip(values) {
                let expected = (f64::from(*value) - mean) / (std + f64::from(f32::EPSILON));
                let found = f64::from(score.unwrap().get());
                prop_assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.), "{} {}", found, expected);
            }
        }
    }

    #[test]
    fn an_overlap_is_between_0_and_1_and_the_same_both_ways(a in "[a-c ]{0,30}", b in "[a-c ]{0,30}") {
        for measure in [OverlapMeasure::Rouge1, OverlapMeasure::Rouge2, OverlapMeasure::RougeL] {
            let f1 = measure.f1(&a, &b);
            prop_assert!((0. ..=1.).contains(&f1));
            prop_assert_eq!(f1, measure.f1(&b, &a));
        }
    }
}

#[test]
fn a_run_that_is_resumed_normalises_as_if_it_had_never_stopped() {
    let model = || {
        let normalised = Numbers("n").normalised(Centring::KeepMean);
        WeightedSum::new("sum").term(1., normalised).term(1., Constant::new(0.).unwrap())
    };
    let (first, second) = (batch(&["1", "5", "9"]), batch(&["2", "4"]));
    let whole = model();
    whole.score(&first).unwrap();
    let state: serde_json::Value = serde_json::from_str(&whole.state().to_string()).unwrap();
    let expected = whole.score(&second).unwrap();
    let resumed = model();
    resumed.restore(&state).unwrap();
    assert_eq!(resumed.score(&second).unwrap(), expected);
    assert_ne!(model().score(&second).unwrap(), expected);
    assert!(whole.metrics().iter().any(|(name, _)| name == "n/running_std"));

    let other = WeightedSum::new("sum").term(1., Numbers("n"));
    let error = other.restore(&state).unwrap_err();
    assert!(matches!(error, RewardError::State { .. }), "{error}");
    let bad = serde_json::json!([{"moments": {"count": -1, "mean": 0, "variance": 1}, "inner": null}, null]);
    assert!(matches!(model().restore(&bad), Err(RewardError::State { .. })));
    assert!(other.state().is_null());
    other.restore(&serde_json::Value::Null).unwrap();
}

#[test]
fn one_score_or_equal_scores_do_not_divide_by_zero() {
    let model = Numbers("n").normalised(Centring::KeepMean);
    assert_eq!(totals(&model.score(&batch(&["3"])).unwrap()), [Some(3. / (1. + f32::EPSILON))]);
    let model = Numbers("n").normalised(Centring::Centred);
    assert_eq!(totals(&model.score(&batch(&["3", "3"])).unwrap()), [Some(0.), Some(0.)]);
    assert_eq!(totals(&model.score(&batch(&["x"])).unwrap()), [None]);
}

#[test]
fn rouge_is_that_of_the_reference_implementation() {
    // rouge_score 0.1.2's README.
    let (target, prediction) =
        ("The quick brown fox jumps over the lazy dog", "The quick brown dog jumps on the log.");
    let f1 = |measure: OverlapMeasure| measure.f1(prediction, target);
    assert!((f1(OverlapMeasure::Rouge1) - 0.705_882_352_941_176_5).abs() < 1e-12);
    assert!((f1(OverlapMeasure::RougeL) - 0.588_235_294_117_647_1).abs() < 1e-12);
    assert_eq!(OverlapMeasure::Rouge2.f1("a", "a"), 0.);
    assert_eq!(totals(&Overlap::rouge_l().score(&batch(&["y"])).unwrap()), [None]);
}

#[test]
fn rules_take_odd_texts_and_refuse_odd_settings() {
    let odd = batch(&["", " \n", "\u{1f600}\u{200d}", "\0", "Stra\u{df}e STRASSE"]);
    let rules: [Box<dyn RewardModel>; 5] = [
        Box::new(Length::within(1, 2, 1.).unwrap()),
        Box::new(Repetition::of_words(2).unwrap()),
        Box::new(Format::new("(?s)^.*$").unwrap()),
        Box::new(Words::forbidden(["c++", "two words"]).unwrap()),
        Box::new(Overlap::rouge_l()),
    ];
    for rule in rules {
        assert_eq!(rule.score(&odd).unwrap().check(rule.name(), 5).unwrap().total.len(), 5);
        assert_eq!(rule.score(&[]).unwrap().total, []);
    }
    let plus = Words::forbidden(["c++"]).unwrap();
    assert_eq!(totals(&plus.score(&batch(&["I know C++.", "c"])).unwrap()), [Some(-1.), Some(0.)]);
    let setting =
        |error: ProviderError| assert!(matches!(error, ProviderError::Setting(_)), "{error}");
    setting(Length::target(1, 0.).unwrap_err());
    setting(Length::within(2, 1, 1.).unwrap_err());
    setting(Repetition::of_words(0).unwrap_err());
    setting(Words::forbidden(["a", " "]).unwrap_err());
    setting(Numbers("n").clipped(1., 0.).unwrap_err());
    setting(Numbers("n").scaled(f32::NAN, 0.).unwrap_err());
    setting(Constant::new(f32::NAN).unwrap_err());
    assert!(matches!(Format::new("(").unwrap_err(), ProviderError::Pattern { .. }));
}

#[test]
fn an_ensemble_is_the_mean_less_deviations_of_its_members() {
    let of = |factor: f32| {
        move |batch: &[Exchange<'_>]| -> Vec<f32> {
            batch.iter().map(|x| factor * x.response.len() as f32).collect()
        }
    };
    let bound = LowerBound::new("careful", 1.5, of(1.)).unwrap().and(of(2.)).and(of(4.));
    let batch = [Exchange::new("p", "four"), Exchange::new("p", "a good many more")];
    let scores = bound.score(&batch).unwrap();
    for (row, exchange) in batch.iter().enumerate() {
        let x = exchange.response.len() as f64;
        let mean = 7. * x / 3.;
        let squares: f64 = [1., 2., 4.].iter().map(|f: &f64| (f * x - mean).powi(2)).sum();
        let expected = mean - 1.5 * (squares / 2.).sqrt();
        assert!((f64::from(scores.total[row].unwrap().get()) - expected).abs() < 1e-5);
    }
    assert_eq!(scores.parts.len(), 3);
    // A single model is certain of itself.
    let alone = LowerBound::new("alone", 9., of(1.)).unwrap();
    assert_eq!(alone.score(&batch).unwrap().total[0].unwrap().get(), 4.);
    assert!(LowerBound::new("x", -1., of(1.)).is_err());
    let config: rlaif_rewards::RewardConfig = toml::from_str(
        "kind = 'lower-bound'\nname = 'e'\ndeviations = 1.0\n\
         of = [{ kind = 'constant', value = 1.0 }, { kind = 'constant', value = 3.0 }]",
    )
    .unwrap();
    let built = config.build(&rlaif_rewards::Surroundings::default()).unwrap();
    let score = built.score(&batch).unwrap().total[0].unwrap().get();
    assert!((score - (2. - 2f32.sqrt())).abs() < 1e-6);
}
