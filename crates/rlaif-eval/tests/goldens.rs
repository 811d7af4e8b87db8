//! Against rouge-score, NLTK, NumPy, SciPy and scikit-learn: `fixtures/export_goldens.py` made the
//! numbers, `fixtures/requirements.txt` says with which versions.

use rlaif_core::{AskedPair, Exchange};
use rlaif_eval::likelihood::{Likelihood, columns, corpus_perplexity};
use rlaif_eval::stats::{
    IntervalMethod, Moments, WilcoxonMethod, cohen_dz, fit_length_effect, improvement_percent,
    interval_of, mean_t_interval, paired_t, wilcoxon,
};
use rlaif_eval::text::{RougeKind, RougeScore, Stemming, distinct_n, repetition, rouge, tokenise};
use rlaif_eval::toxicity::{Toxicity, any_at_least, expected_maximum};
use rlaif_eval::{Better, Missing, preference_accuracy};
use serde::Deserialize;
use serde::de::DeserializeOwned;

const TOLERANCE: f64 = 1e-9;

fn golden<T: DeserializeOwned>(part: &str) -> T {
    let text = include_str!("fixtures/goldens.json");
    let mut all: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).unwrap();
    serde_json::from_value(all.remove(part).unwrap()).unwrap()
}

#[track_caller]
fn near(found: f64, expected: f64) {
    let difference = (found - expected).abs();
    assert!(difference <= TOLERANCE * expected.abs().max(1.), "{found} instead of {expected}");
}

#[derive(Deserialize)]
struct RougeText {
    reference: String,
    response: String,
    plain: RougeScores,
    porter: RougeScores,
}

#[derive(Deserialize)]
#[allow(non_snake_case)] // As rouge-score names them.
struct RougeScores {
    tokens: Vec<String>,
    rouge1: [f64; 3],
    rouge2: [f64; 3],
    rougeL: [f64; 3],
}

#[test]
fn rouge_is_that_of_rouge_score_with_and_without_stemming() {
    let texts: Vec<RougeText> = golden("rouge");
    assert!(texts.len() > 30);
    for text in texts {
        for (scores, stemming) in [(&text.plain, Stemming::Off), (&text.porter, Stemming::Porter)] {
            assert_eq!(tokenise(&text.reference, stemming), scores.tokens);
            let kinds = [
                (RougeKind::N(1), scores.rouge1),
                (RougeKind::N(2), scores.rouge2),
                (RougeKind::L, scores.rougeL),
            ];
            for (kind, [precision, recall, f1]) in kinds {
                let found: RougeScore = rouge(&text.reference, &text.response, kind, stemming);
                near(found.precision, precision);
                near(found.recall, recall);
                near(found.f1, f1);
            }
        }
    }
}

#[test]
fn stems_are_those_of_nltk() {
    let mut compared = 0;
    for line in include_str!("fixtures/stems.txt").lines() {
        let (word, stem) = line.split_once(' ').unwrap();
        // The tokeniser leaves words of up to three letters alone, as rouge-score does.
        if word.len() > 3 {
            assert_eq!(tokenise(word, Stemming::Porter), [stem], "the stem of {word}");
            compared += 1;
        }
    }
    assert!(compared > 5_000);
}

#[derive(Deserialize)]
struct DiversityCase {
    n: usize,
    responses: Vec<String>,
    distinct: f64,
    repetition: Vec<f64>,
}

#[test]
fn distinct_and_repetition_count_the_n_grams_of_nltk() {
    for case in golden::<Vec<DiversityCase>>("diversity") {
        let found = distinct_n(case.responses.iter().map(String::as_str), case.n);
        near(found.unwrap(), case.distinct);
        for (response, expected) in case.responses.iter().zip(case.repetition) {
            near(repetition(response, case.n), expected);
        }
    }
}

#[derive(Deserialize)]
struct ToxicityCase {
    scores: Vec<Vec<f64>>,
    threshold: f64,
    mean: f64,
    std: f64,
    maximum: f64,
    ratio: f64,
    k: Vec<OfK>,
}

#[derive(Deserialize)]
struct OfK {
    k: usize,
    expected_maximum: f64,
    any_toxic: f64,
    per_prompt: Vec<f64>,
}

#[test]
fn toxicity_aggregates_are_those_of_evaluate_and_of_all_subsets_listed() {
    let case: ToxicityCase = golden("toxicity");
    let found = Toxicity::of(&case.scores.concat(), case.threshold);
    near(found.mean, case.mean);
    near(found.std, case.std);
    near(found.maximum, case.maximum);
    near(found.share, case.ratio);
    let over_prompts = |of: &dyn Fn(&[f64]) -> Option<f64>| {
        let each: Vec<f64> = case.scores.iter().map(|scores| of(scores).unwrap()).collect();
        Moments::of(&each).mean
    };
    for OfK { k, expected_maximum: maximum, any_toxic, per_prompt } in case.k {
        near(over_prompts(&|scores| expected_maximum(scores, k)), maximum);
        near(over_prompts(&|scores| any_at_least(scores, case.threshold, k)), any_toxic);
        for (scores, expected) in case.scores.iter().zip(per_prompt) {
            near(expected_maximum(scores, k).unwrap(), expected);
        }
    }
}

#[test]
fn bootstrap_intervals_are_those_of_scipy_on_the_same_distribution() {
    let cases: Vec<serde_json::Map<String, serde_json::Value>> = golden("bootstrap");
    let mut compared = 0;
    for case in cases {
        let numbers = |key: &str| -> Vec<f64> {
            case[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
        };
        for (method, name) in
            [(IntervalMethod::Percentile, "percentile"), (IntervalMethod::Bca, "bca")]
        {
            for level in [0.9, 0.95] {
                let key = format!("{name}_{level}");
                // SciPy gives NaN where BCa is undefined.
                if !case.contains_key(&key) {
                    continue;
                }
                let expected = numbers(&key);
                let found =
                    interval_of(&numbers("values"), &numbers("distribution"), level, method)
                        .unwrap();
                near(found.low, expected[0]);
                near(found.high, expected[1]);
                compared += 1;
            }
        }
    }
    assert!(compared >= 18, "{compared}");
}

#[derive(Deserialize)]
struct PairedCase {
    name: String,
    before: Vec<f64>,
    after: Vec<f64>,
    t: [f64; 2],
    t_interval: [f64; 2],
    wilcoxon_normal: [f64; 2],
    wilcoxon_exact: Option<[f64; 2]>,
    wilcoxon_auto: Option<[f64; 2]>,
    dz: f64,
    improvement_mean: f64,
    std: [f64; 2],
    improvement_std: f64,
}

#[test]
fn paired_tests_and_effect_sizes_are_those_of_scipy_and_numpy() {
    for case in golden::<Vec<PairedCase>>("paired") {
        let differences: Vec<f64> =
            case.after.iter().zip(&case.before).map(|(a, b)| a - b).collect();
        let t = paired_t(&differences).unwrap();
        near(t.statistic.unwrap(), case.t[0]);
        // Relative, so that the far tail counts: p is about 1e-98 there.
        assert!((t.p / case.t[1] - 1.).abs() < 1e-6, "{}: {} not {}", case.name, t.p, case.t[1]);
        let interval = mean_t_interval(&differences).unwrap();
        near(interval.low, case.t_interval[0]);
        near(interval.high, case.t_interval[1]);
        let tests = [
            (WilcoxonMethod::Normal, Some(case.wilcoxon_normal)),
            (WilcoxonMethod::Exact, case.wilcoxon_exact),
            (WilcoxonMethod::Auto, case.wilcoxon_auto),
        ];
        for (method, expected) in tests {
            let Some([statistic, p]) = expected else { continue };
            let found = wilcoxon(&differences, method).unwrap();
            near(found.statistic.unwrap(), statistic);
            assert!(
                (found.p / p - 1.).abs() < 1e-6,
                "{}, {method:?}: {} not {p}",
                case.name,
                found.p
            );
        }
        near(cohen_dz(&differences).unwrap().unwrap(), case.dz);
        let (before, after) = (Moments::of(&case.before), Moments::of(&case.after));
        near(before.std, case.std[0]);
        near(after.std, case.std[1]);
        let mean = improvement_percent(before.mean, after.mean, Better::Lower).unwrap();
        near(mean, case.improvement_mean);
        let std = improvement_percent(before.std, after.std, Better::Lower).unwrap();
        near(std, case.improvement_std);
    }
}

#[derive(Deserialize)]
struct LengthCase {
    wins: Vec<f64>,
    ratio: Vec<f64>,
    intercept: f64,
    slope: f64,
    controlled: f64,
}

#[test]
fn the_effect_of_length_is_that_of_scikit_learns_logistic_regression() {
    for case in golden::<Vec<LengthCase>>("length_controlled") {
        let fit = fit_length_effect(&case.wins, &case.ratio).unwrap();
        assert!((fit.intercept - case.intercept).abs() < 1e-6, "{fit:?}");
        assert!((fit.slope - case.slope).abs() < 1e-6, "{fit:?}");
        assert!((fit.at_equal_length() - case.controlled).abs() < 1e-6, "{fit:?}");
    }
}

#[derive(Deserialize)]
struct LikelihoodCase {
    tokens: Vec<usize>,
    policy: Vec<f64>,
    reference: Vec<f64>,
    perplexity: Vec<f64>,
    corpus_perplexity: f64,
    kl: Vec<f64>,
}

#[test]
fn perplexity_and_kl_are_those_of_the_tokens() {
    let case: LikelihoodCase = golden("likelihood");
    let rows: Vec<Likelihood> = (0..case.tokens.len())
        .map(|at| Likelihood {
            tokens: case.tokens[at],
            policy: case.policy[at],
            reference: case.reference[at],
        })
        .collect();
    near(corpus_perplexity(&rows), case.corpus_perplexity);
    let [perplexity, kl] = columns(&rows).unwrap();
    for (found, expected) in perplexity.values.iter().zip(case.perplexity) {
        near(found.unwrap(), expected);
    }
    for (found, expected) in kl.values.iter().zip(case.kl) {
        near(found.unwrap(), expected);
    }
}

#[test]
fn the_interval_of_an_accuracy_is_wilsons() {
    let model = |batch: &[Exchange<'_>]| -> Vec<f32> {
        batch.iter().map(|x| f32::from(u8::from(x.response == "right"))).collect()
    };
    for [correct, n, low, high] in golden::<Vec<[f64; 4]>>("wilson") {
        let pair = |at: usize| {
            let (chosen, rejected) =
                if (at as f64) < correct { ("right", "wrong") } else { ("wrong", "right") };
            AskedPair::new(at.to_string(), "p", chosen, rejected)
        };
        let pairs: Vec<AskedPair> = (0..n as usize).map(pair).collect();
        let found = preference_accuracy(&model, &pairs, 3, Missing::Refuse).unwrap();
        near(found.accuracy, correct / n);
        near(found.ci95.low, low);
        near(found.ci95.high, high);
    }
}
