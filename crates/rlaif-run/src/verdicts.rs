//! Verdicts in a file: written as they come, and put in the order of the rows at the end.

use std::path::Path;

use rlaif_core::{PromptRecord, Reply, RewardModel, Sample};
use rlaif_rewards::{Counted, ProviderError, RewardConfig, RowVerdict, score_each_row};

use crate::{
    error::RunError,
    journal::{Header, Journal},
    results::ResultFile,
};

/// Scores rows into the file `out`, in their order.
///
/// Until the end, verdicts are in `OUT.unordered`, where each is written as it arrives. After an
/// interruption, the same call continues from that file, and requests only the rows without a
/// score.
///
/// # Errors
/// [`RunError::Verdicts`] if `out` exists, or another process uses it, or the verdicts so far are
/// on other rows; [`RunError::Changed`] for those of another reward; [`RunError::Write`];
/// [`RunError::Reward`]; [`RunError::NoVerdicts`], and no file `out`, if no row has a score.
pub fn score_into(
    config: &RewardConfig,
    reward: &dyn RewardModel,
    rows: &[Sample],
    out: &Path,
) -> Result<Counted, RunError> {
    let files = ResultFile::new(out)?;
    let mut journal = open(config, rows, &files.journal())?;
    let mut counted = Counted { scored: journal.known().len(), ..Counted::default() };
    score_open(reward, rows, &mut journal, |verdict| counted.add(verdict))?;
    any_scored(&counted)?;
    journal.finish(rows.len(), out)?;
    files.remove_journal()?;
    Ok(counted)
}

/// Checks that at least one row has a score, if there are rows.
///
/// # Errors
/// [`RunError::NoVerdicts`] with the first reason: a whole file without a score is a fault of the service
/// behind the reward, or of its settings.
pub fn any_scored(counted: &Counted) -> Result<(), RunError> {
    match &counted.first_missing {
        Some(why) if counted.scored == 0 => {
            Err(RunError::NoVerdicts { what: "rows", count: counted.missing, why: why.clone() })
        }
        _ => Ok(()),
    }
}

/// Scores rows, each kept in the file `path` as soon as it is there: the score of each row, or why it has
/// none. The same call asks again for the rows without a score alone. Without a file nothing is kept.
///
/// # Errors
/// As [`score_into`].
pub(crate) fn scores_kept(
    config: &RewardConfig,
    reward: &dyn RewardModel,
    rows: &[Sample],
    path: Option<&Path>,
) -> Result<Vec<Result<f64, String>>, RunError> {
    let mut scores: Vec<Result<f64, String>> = vec![Err("no verdict".to_owned()); rows.len()];
    let read = |verdict: &RowVerdict| match verdict {
        RowVerdict::Scored { score, .. } => Ok(f64::from(score.get())),
        RowVerdict::Missing { reason, .. } => Err(reason.clone()),
    };
    let Some(path) = path else {
        let all: Vec<usize> = (0..rows.len()).collect();
        score_each_row(reward, rows, &all, &mut |row, verdict| {
            scores[row] = read(&verdict);
            Ok(())
        })?;
        return Ok(scores);
    };
    let mut journal = open(config, rows, path)?;
    score_open(reward, rows, &mut journal, |_| {})?;
    for (row, verdict) in journal.known() {
        let verdict: serde_json::Value = serde_json::from_str(verdict).unwrap_or_default();
        // Written by its shortest decimal: equal scores stay equal as what they are, f32.
        scores[*row] = match verdict["score"].as_f64() {
            Some(score) => Ok(f64::from(score as f32)),
            None => Err(verdict["reason"].as_str().unwrap_or_default().to_owned()),
        };
    }
    Ok(scores)
}

/// The verdicts so far; a row without a score is asked about again.
fn open(config: &RewardConfig, rows: &[Sample], path: &Path) -> Result<Journal, RunError> {
    let texts: Vec<String> = rows.iter().flat_map(texts).collect();
    let texts = texts.iter().map(String::as_str);
    let header = Header::new("reward", config, rows.len(), texts)?;
    // Scores that depend on other rows are computed again, from verdicts that were kept.
    let alone = !config.depends_on_other_rows();
    Journal::open(path, &header, |verdict| {
        alone && verdict.get("score").is_some_and(|score| score.is_number())
    })
}

/// Scores the rows that have no score yet.
fn score_open(
    reward: &dyn RewardModel,
    rows: &[Sample],
    journal: &mut Journal,
    mut told: impl FnMut(&RowVerdict),
) -> Result<(), RunError> {
    let open: Vec<usize> =
        (0..rows.len()).filter(|row| !journal.known().contains_key(row)).collect();
    score_each_row(reward, rows, &open, &mut |row, verdict| {
        told(&verdict);
        let action = "write the verdicts";
        journal.add(row, &verdict).map_err(|source| ProviderError::Stream { action, source })
    })?;
    Ok(())
}

/// Everything of a row that its verdict depends on.
fn texts(row: &Sample) -> Vec<String> {
    texts_of(&row.record, &[&row.response])
}

/// Everything of a prompt and its responses that verdicts on them depend on.
pub(crate) fn texts_of(record: &PromptRecord, replies: &[&Reply]) -> Vec<String> {
    let mut metadata = serde_json::Value::Object(record.metadata.clone());
    metadata.sort_all_objects();
    let reference = record.reference.as_ref().map_or("null".to_owned(), |text| format!("={text}"));
    let mut all = vec![record.prompt.clone()];
    all.extend(replies.iter().map(|reply| reply.text.clone()));
    all.extend([reference, metadata.to_string()]);
    let messages = [&record.messages].into_iter().chain(replies.iter().map(|r| &r.messages));
    let messages = messages.filter(|messages| !messages.is_empty());
    all.extend(messages.map(|messages| serde_json::json!(messages).to_string()));
    all
}

#[cfg(test)]
mod tests {
    use std::{fs, ops::ControlFlow};

    use rlaif_core::{Exchange, Fault, RewardError, Scores, Tell};

    use super::*;

    /// Scores by length, in reverse order, and fails before the row `fails`.
    struct Backwards {
        fails: Option<usize>,
        asked: std::sync::Mutex<usize>,
    }

    impl RewardModel for Backwards {
        fn name(&self) -> &'static str {
            "backwards"
        }

        fn score(&self, _: &[Exchange<'_>]) -> Result<Scores, RewardError> {
            unreachable!("rows are passed on one by one")
        }

        fn score_each(
            &self,
            batch: &[Exchange<'_>],
            tell: &mut Tell<'_>,
        ) -> Result<(), RewardError> {
            for (row, exchange) in batch.iter().enumerate().rev() {
                if Some(row) == self.fails {
                    let source = "the connection broke".into();
                    return Err(RewardError::Failed { model: "backwards".to_owned(), source });
                }
                *self.asked.lock().unwrap() += 1;
                let score = exchange.response.len() as f32 / 3.;
                if let ControlFlow::Break(()) =
                    tell(row, Scores::from_values("backwards", &[score])?)
                {
                    break;
                }
            }
            Ok(())
        }
    }

    fn rows(count: usize) -> Vec<Sample> {
        (0..count)
            .map(|n| Sample { record: PromptRecord::new("", "?"), response: "x".repeat(n).into() })
            .collect()
    }

    fn backwards(fails: Option<usize>) -> Backwards {
        Backwards { fails, asked: 0.into() }
    }

    #[test]
    fn what_was_paid_for_is_kept_and_the_order_is_that_of_the_rows() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("verdicts.jsonl");
        let unordered = folder.path().join("verdicts.jsonl.unordered");
        let config: RewardConfig = toml::from_str("kind = 'repetition'\nn = 2").unwrap();
        let rows = rows(5);
        score_into(&config, &backwards(Some(1)), &rows, &out).unwrap_err();
        let text = fs::read_to_string(&unordered).unwrap();
        assert_eq!(text.lines().count(), 4, "{text}");
        // A kill in the middle of a line, and of another row.
        fs::write(&unordered, format!("{text}{{\"row\":0,\"sco")).unwrap();

        let again = backwards(None);
        let counted = score_into(&config, &again, &rows, &out).unwrap();
        assert_eq!((counted.scored, counted.missing), (5, 0));
        assert_eq!(*again.asked.lock().unwrap(), 2, "only the rows that were missing");
        let mut direct = Vec::new();
        rlaif_rewards::score_rows(
            &|batch: &[Exchange<'_>]| -> Vec<f32> {
                batch.iter().map(|x| x.response.len() as f32 / 3.).collect()
            },
            (0..5)
                .map(|n| format!("{{\"prompt\":\"?\",\"response\":\"{}\"}}\n", "x".repeat(n)))
                .collect::<String>()
                .as_bytes(),
            &mut direct,
        )
        .unwrap();
        assert_eq!(fs::read(&out).unwrap(), direct);
        assert!(!unordered.exists());
        let error = score_into(&config, &backwards(None), &rows, &out).unwrap_err();
        assert!(error.to_string().contains("is there already"), "{error}");
    }

    #[test]
    fn rows_without_any_verdict_are_an_error_and_can_be_judged_again() {
        struct Down;
        impl RewardModel for Down {
            fn name(&self) -> &'static str {
                "down"
            }
            fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
                let mut scores = Scores::new(vec![None; batch.len()]);
                scores.reasons = (0..batch.len()).map(|row| (row, "503".to_owned())).collect();
                Ok(scores)
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("v.jsonl");
        let config: RewardConfig = toml::from_str("kind = 'repetition'\nn = 2").unwrap();
        let error = score_into(&config, &Down, &rows(3), &out).unwrap_err();
        assert_eq!(error.to_string(), "none of 3 rows has a verdict: 503");
        assert!(!error.is_users() && !out.exists());
        // The same call asks again.
        let counted = score_into(&config, &backwards(None), &rows(3), &out).unwrap();
        assert_eq!(counted, Counted { scored: 3, ..Counted::default() });
    }

    #[test]
    fn verdicts_of_another_reward_or_on_other_rows_are_not_mixed() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("v.jsonl");
        let config = |n: u8| toml::from_str(&format!("kind = 'repetition'\nn = {n}")).unwrap();
        score_into(&config(2), &backwards(Some(0)), &rows(3), &out).unwrap_err();
        let told = |config: &RewardConfig, count: usize| {
            score_into(config, &backwards(None), &rows(count), &out).unwrap_err().to_string()
        };
        assert!(told(&config(3), 3).contains("`reward.n`: 2 -> 3"), "{}", told(&config(3), 3));
        assert!(told(&config(2), 4).contains("other rows"), "{}", told(&config(2), 4));
        score_into(&config(2), &backwards(None), &rows(3), &out).unwrap();
    }
}
