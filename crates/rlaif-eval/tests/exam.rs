//! Exams: statistics against scikit-learn and krippendorff, grades against numpy (`fixtures/export_exam.py`),
//! habits of judges that have them by construction.

use rlaif_core::{AskedPair, ExamName, ExamQuestion, Reply};
use rlaif_eval::stats::{
    Level, bradley_terry, calibration, cohen_kappa, fleiss_kappa, krippendorff_alpha,
};
use rlaif_eval::{EvalError, ExamOptions, ExamReport, ExamVerdict, grade};
use serde::Deserialize;

#[derive(Deserialize)]
struct Goldens {
    alpha: Vec<Alpha>,
    kappa: Vec<Kappa>,
    calibration: Calibrated,
    ties: Vec<Ties>,
}

#[derive(Deserialize)]
struct Alpha {
    items: Vec<Vec<f64>>,
    nominal: f64,
    interval: f64,
}

#[derive(Deserialize)]
struct Kappa {
    ratings: Vec<(i64, i64)>,
    kappa: f64,
}

#[derive(Deserialize)]
struct Calibrated {
    probabilities: Vec<f64>,
    error: f64,
    accuracy: Vec<f64>,
    brier: f64,
    log_loss: f64,
}

#[derive(Deserialize)]
struct Ties {
    rows: Vec<TiedRow>,
    parts: [f64; 5],
    score: f64,
}

#[derive(Deserialize)]
struct TiedRow {
    id: String,
    right: usize,
    scores: Vec<f64>,
}

fn goldens() -> Goldens {
    serde_json::from_str(include_str!("fixtures/exam.json")).unwrap()
}

#[track_caller]
fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found} instead of {expected}");
}

#[derive(Deserialize)]
struct PeopleGoldens {
    fleiss: Vec<Fleiss>,
    bradley_terry: Vec<Strengths>,
}

#[derive(Deserialize)]
struct Fleiss {
    items: Vec<Vec<i64>>,
    kappa: f64,
}

#[derive(Deserialize)]
struct Strengths {
    wins: Vec<Vec<f64>>,
    theta: Vec<f64>,
    error: Vec<f64>,
}

/// `fixtures/export_people.py`.
#[test]
fn agreement_of_many_and_strengths_are_those_of_statsmodels() {
    let PeopleGoldens { fleiss, bradley_terry: tables } =
        serde_json::from_str(include_str!("fixtures/people.json")).unwrap();
    for Fleiss { items, kappa } in fleiss {
        near(fleiss_kappa(&items).unwrap(), kappa);
    }
    assert_eq!(fleiss_kappa(&[]), None);
    assert_eq!(fleiss_kappa(&[vec![1, 1], vec![1, 1]]), None);
    for Strengths { wins, theta, error } in tables {
        let found = bradley_terry(&wins, 0.).unwrap();
        for (at, strength) in found.iter().enumerate() {
            near(strength.theta, theta[at]);
            near(strength.ci95.half_width(), 1.959_963_984_540_054 * error[at]);
        }
    }
}

#[test]
fn agreement_is_that_of_scikit_learn_and_krippendorff() {
    let Goldens { alpha, kappa, .. } = goldens();
    // Published: .743 and .849 of Krippendorff's own example.
    assert!((alpha[0].nominal - 0.743_421).abs() < 1e-6, "{}", alpha[0].nominal);
    assert!((alpha[0].interval - 0.849_107).abs() < 1e-6, "{}", alpha[0].interval);
    for Alpha { items, nominal, interval } in alpha {
        near(krippendorff_alpha(&items, Level::Nominal).unwrap(), nominal);
        near(krippendorff_alpha(&items, Level::Interval).unwrap(), interval);
    }
    assert!((kappa[0].kappa - 0.556_136).abs() < 1e-6);
    for Kappa { ratings, kappa } in kappa {
        near(cohen_kappa(&ratings).unwrap(), kappa);
    }
    assert_eq!(cohen_kappa(&[]), None);
    assert_eq!(krippendorff_alpha(&[vec![1.], vec![2.]], Level::Nominal), None);
}

#[test]
fn calibration_is_that_of_scikit_learn() {
    let expected = goldens().calibration;
    let found = calibration(&expected.probabilities, 10).unwrap();
    near(found.error, expected.error);
    near(found.brier, expected.brier);
    near(found.log_loss, expected.log_loss);
    let filled: Vec<f64> =
        found.bins.iter().filter(|bin| bin.n > 0).map(|bin| bin.accuracy).collect();
    assert_eq!(filled.len(), expected.accuracy.len());
    filled.iter().zip(&expected.accuracy).for_each(|(found, expected)| near(*found, *expected));
}

fn answers(n: usize) -> Vec<Reply> {
    (0..n).map(|at| Reply::new(format!("{at}"))).collect()
}

fn question(id: &str, subset: &str, right: usize, wrong: usize) -> ExamQuestion {
    let pair = ExamQuestion::from(AskedPair::new(id, "?", "", ""));
    ExamQuestion { subset: subset.to_owned(), right: answers(right), wrong: answers(wrong), ..pair }
}

fn graded(exam: ExamName, questions: &[ExamQuestion], verdicts: &[ExamVerdict]) -> ExamReport {
    grade(exam, "judge", questions, verdicts, &ExamOptions::default()).unwrap()
}

#[test]
fn ties_of_reward_bench_2_are_scored_as_published() {
    for Ties { rows, parts, score } in goldens().ties {
        let questions: Vec<_> = rows
            .iter()
            .map(|row| question(&row.id, "Ties", row.right, row.scores.len() - row.right))
            .collect();
        let verdicts: Vec<_> =
            rows.iter().map(|row| ExamVerdict::Scores(row.scores.clone())).collect();
        let report = graded(ExamName::RewardBench2, &questions, &verdicts);
        let ties = report.ties.unwrap();
        let found = [
            ties.tied_accuracy,
            ties.ref_accuracy,
            ties.margin_above_spread,
            ties.both_margins_above_spread,
            ties.margin_score,
        ];
        found.iter().zip(parts).for_each(|(found, expected)| near(*found, expected));
        near(ties.score, score);
        near(report.grade, score);
        assert!(report.ci95.low <= score && score <= report.ci95.high, "{:?}", report.ci95);
    }
}

#[test]
fn best_of_four_shares_a_tie_and_the_grade_is_the_mean_of_subsets() {
    let questions = [
        question("a", "Math", 1, 3),
        question("b", "Math", 1, 3),
        question("c", "Safety", 1, 3),
        question("d", "Safety", 1, 3),
    ];
    let scores =
        [vec![2., 1., 1., 0.], vec![2., 2., 1., 0.], vec![2., 3., 1., 0.], vec![1., 1., 1., 1.]];
    let verdicts = scores.map(ExamVerdict::Scores);
    let report = graded(ExamName::RewardBench2, &questions, &verdicts);
    let subsets: Vec<f64> = report.subsets.iter().map(|s| s.accuracy.share).collect();
    assert_eq!(subsets, [0.75, 0.125]);
    near(report.grade, (0.75 + 0.125) / 2.);
}

#[test]
fn sections_of_reward_bench_weigh_subsets_by_the_published_counts() {
    let subsets = ["alpacaeval-easy", "mt-bench-med", "math-prm", "hep-rust", "donotanswer"];
    let questions: Vec<_> = subsets.iter().map(|s| question(s, s, 1, 1)).collect();
    let right = |right: bool| ExamVerdict::Scores(vec![f64::from(u8::from(right)), 0.5]);
    let verdicts = [right(true), right(false), right(true), right(false), right(true)];
    let report = graded(ExamName::RewardBench, &questions, &verdicts);
    let found: Vec<(&str, f64)> =
        report.sections.iter().map(|s| (s.section.as_str(), s.score)).collect();
    let (chat, reasoning) = (100. / 140., 984. / 1148.);
    assert_eq!(found, [("Chat", chat), ("Safety", 1.), ("Reasoning", reasoning)]);
    near(report.grade, (chat + 1. + reasoning) / 3.);
}

fn orders(right_first: f64, right_second: f64) -> ExamVerdict {
    ExamVerdict::Orders { right_first, right_second }
}

#[test]
fn judge_bench_counts_both_orders() {
    let questions: Vec<_> = (0..5).map(|n| question(&n.to_string(), "math", 1, 1)).collect();
    let verdicts = [
        orders(1., 1.),
        // One for, one against: not right, regardless of the margin.
        orders(0.99, 0.4),
        orders(1., 0.5),
        ExamVerdict::OneOrder { probability: 1., missing: Some("it was cut".to_owned()) },
        ExamVerdict::Missing("it declined".to_owned()),
    ];
    let report = graded(ExamName::JudgeBench, &questions, &verdicts);
    assert_eq!(report.grade, 3. / 5.);
    assert_eq!((report.missing, report.one_order), (1, 1));
    assert_eq!(report.first_missing.as_deref(), Some("it was cut"));
    let told = report.to_terminal();
    assert!(told.contains("1 questions have no verdict and count as wrong\n"), "{told}");
    assert!(told.contains("1 pairs have a verdict in one order only: the other order"), "{told}");
    assert!(told.contains("the first missing verdict: it was cut\n"), "{told}");
    let flip = report.habits.position_flip.unwrap();
    assert_eq!((flip.share, flip.n), (0.5, 2));
    // The same as preference pairs: the mean probability of both orders decides, and one order alone is
    // no verdict.
    let pairs = graded(ExamName::Pairs, &questions, &verdicts);
    assert_eq!((pairs.grade, pairs.missing, pairs.one_order), (3. / 5., 2, 1));
    assert_eq!(pairs.subsets[0].missing, 2);
    let told = pairs.to_terminal();
    assert!(told.contains("in one order only: they are among those without"), "{told}");
    let one = graded(ExamName::RewardBench, &questions[3..], &verdicts[3..]);
    assert_eq!((one.grade, one.missing), (0., 2));
    // Where only one order was asked, it decides.
    let asked_once =
        [0.9, 0.4].map(|probability| ExamVerdict::OneOrder { probability, missing: None });
    let once = graded(ExamName::Pairs, &questions[..2], &asked_once);
    assert_eq!((once.grade, once.missing, once.one_order), (0.5, 0, 0));
}

/// A judge whose log-odds for the right answer are the `quality` of the question, plus `bias` nats
/// for the answer shown first.
fn biased(qualities: &[f64], bias: f64) -> Vec<ExamVerdict> {
    let sigmoid = |x: f64| 1. / (1. + (-x).exp());
    qualities.iter().map(|q| orders(sigmoid(q + bias), sigmoid(q - bias))).collect()
}

#[test]
fn a_planted_position_bias_is_found_with_its_interval() {
    let qualities: Vec<f64> = (0..40).map(|n| f64::from(n % 10) / 5. - 0.3).collect();
    let questions: Vec<_> = (0..40).map(|n| question(&n.to_string(), "", 1, 1)).collect();
    let report = graded(ExamName::Pairs, &questions, &biased(&qualities, 1.));
    let bias = report.habits.position_bias.unwrap();
    near(bias.nats, 1.);
    let ci = bias.ci95.unwrap();
    assert!(ci.low > 0.9 && ci.high < 1.1, "{ci:?}");
    // Both orders averaged: right wherever the quality is above 0, with the bias cancelled.
    let right = qualities.iter().filter(|q| **q > 0.).count() as f64 / 40.;
    assert_eq!(report.grade, right);
    let flips = qualities.iter().filter(|q| q.abs() < 1.).count() as f64 / 40.;
    near(report.habits.position_flip.unwrap().share, flips);
    let first = qualities
        .iter()
        .map(|q| f64::from(u8::from(q + 1. > 0.)) + f64::from(u8::from(q - 1. < 0.)));
    near(report.habits.first_wins.unwrap().share, first.sum::<f64>() / 80.);
    assert!(!report.habits.always_one_position);
}

#[test]
fn a_judge_that_always_says_first_is_told() {
    let questions: Vec<_> = (0..4).map(|n| question(&n.to_string(), "", 1, 1)).collect();
    let verdicts: Vec<_> = (0..4).map(|_| orders(1., 0.)).collect();
    let report = graded(ExamName::Pairs, &questions, &verdicts);
    assert!(report.habits.always_one_position);
    assert_eq!((report.grade, report.habits.position_flip.unwrap().share), (0., 1.));
    let told = report.to_terminal();
    assert!(told.contains("Every verdict is for one and the same position"), "{told}");
}

#[test]
fn length_and_family_are_told_beside_what_is_right() {
    let with = |right: &str, wrong: &str, makers: [&str; 2]| {
        let answer = |text: &str, maker: &str| Reply::new(text).by(Some(maker.to_owned()));
        let pair = AskedPair::new(right, "?", answer(right, makers[0]), answer(wrong, makers[1]));
        ExamQuestion::from(pair)
    };
    let questions = [
        with("long one", "no", ["GPT-4", "claude-3"]),
        with("no", "long one", ["claude-3", "gpt-4o"]),
        with("no", "on", ["claude-3", "claude-2"]),
    ];
    // The longer one wins, and so does GPT.
    let verdicts = [vec![1., 0.], vec![0., 1.], vec![1., 0.]].map(ExamVerdict::Scores);
    let options = ExamOptions { family: vec!["gpt".to_owned()], ..ExamOptions::default() };
    let report = grade(ExamName::Pairs, "rm", &questions, &verdicts, &options).unwrap();
    let habits = &report.habits;
    let share = |share: Option<rlaif_eval::Share>| share.map(|s| (s.share, s.n));
    assert_eq!(share(habits.longer_wins), Some((1., 2)));
    assert_eq!(share(habits.longer_is_right), Some((0.5, 2)));
    assert_eq!(share(habits.own_family_wins), Some((1., 2)));
    assert_eq!(share(habits.own_family_is_right), Some((0.5, 2)));
    assert_eq!((habits.position_flip, habits.position_bias), (None, None));
}

#[test]
fn agreement_with_people_is_with_their_majority_and_with_each_of_them() {
    let voted = |n: usize, first: bool, votes: &[f64]| ExamQuestion {
        right_is_first: Some(first),
        votes: votes.to_vec(),
        ..question(&n.to_string(), "", 1, 1)
    };
    let questions = [
        voted(0, true, &[1., 2., -1.]),
        voted(1, false, &[3., 1.]),
        voted(2, true, &[-1., -2., 0.]),
        voted(3, false, &[1., -1.]),
        voted(4, true, &[]),
    ];
    let verdicts = [1., 1., -1., 1., 1.].map(|s| ExamVerdict::Scores(vec![s, 0.]));
    let report = graded(ExamName::Pairs, &questions, &verdicts);
    assert_eq!(report.agreement.voted, 4);
    // First, second, tie as 1, −1, 0; people: 1, −1, −1, 0; the judge: 1, −1, −1, −1.
    let pairs = [(1, 1), (-1, -1), (-1, -1), (0, -1)];
    assert_eq!(report.agreement.people_kappa, cohen_kappa(&pairs));
    let all =
        [vec![1., 1., -1., 1.], vec![-1., -1., -1.], vec![-1., -1., 0., -1.], vec![-1., 1., -1.]];
    assert_eq!(report.agreement.people_alpha, krippendorff_alpha(&all, Level::Nominal));
}

#[test]
fn what_cannot_be_graded_is_refused_by_name() {
    let one = [question("q", "Math", 1, 3)];
    let grade = |exam, verdict| grade(exam, "judge", &one, &[verdict], &ExamOptions::default());
    let refused = grade(ExamName::RewardBench2, orders(1., 0.)).unwrap_err().to_string();
    assert!(refused.contains("`exam` is reward-bench-2"), "{refused}");
    let refused = grade(ExamName::Pairs, ExamVerdict::Scores(vec![1., 2.])).unwrap_err();
    assert!(matches!(refused, EvalError::Count { expected: 4, found: 2, .. }), "{refused}");
    let nan = ExamVerdict::Scores(vec![1., f64::NAN, 0., 0.]);
    assert!(grade(ExamName::Pairs, nan).unwrap_err().to_string().contains("NaN for prompt `q`"));
    assert!(grade(ExamName::Pairs, orders(1.5, 0.)).is_err());
}
