//! Scores from verdicts.

use rlaif_core::{Score, Scores, stats::mean_std};

use super::answer::{AnswerForm, Reading};

/// Result of one question: a reading, or the reason for none.
pub(crate) type Judged = Result<Reading, String>;

/// The mean of each row's verdicts, with its parts. A row without a verdict has the reason of its
/// first answer, or the reason why it could not be judged.
pub(crate) fn scores(
    rows: impl Iterator<Item = Result<Vec<Judged>, String>>,
    form: AnswerForm,
    samples: u32,
) -> Scores {
    let mut scores = Scores::default();
    let (mut coverage, mut count, mut spread) = (Vec::new(), Vec::new(), Vec::new());
    let score = |value: f64| Score::new(value as f32).ok();
    for (row, verdicts) in rows.enumerate() {
        let (verdicts, unasked) = match verdicts {
            Ok(verdicts) => (verdicts, None),
            Err(reason) => (Vec::new(), Some(reason)),
        };
        let readings: Vec<&Reading> = verdicts.iter().flatten().collect();
        if readings.is_empty() {
            let unread = verdicts.iter().find_map(|verdict| verdict.as_ref().err()).cloned();
            scores.reasons.push((row, unasked.or(unread).unwrap_or_default()));
            scores.total.push(None);
            coverage.push(None);
            count.push(score(0.));
            spread.push(None);
            continue;
        }
        let values: Vec<f64> = readings.iter().map(|r| f64::from(r.score.get())).collect();
        let covered: Vec<f64> = readings.iter().filter_map(|r| r.coverage).collect();
        let (mean, deviation) = mean_std(&values);
        scores.total.push(score(mean));
        coverage.push(score(mean_std(&covered).0));
        count.push(score(values.len() as f64));
        spread.push(score(deviation));
    }
    if form == AnswerForm::Expectation {
        scores.parts.push(("coverage".to_owned(), coverage));
    }
    if samples > 1 {
        scores.parts.push(("samples".to_owned(), count));
        scores.parts.push(("spread".to_owned(), spread));
    }
    scores
}
