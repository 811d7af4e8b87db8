//! Verdicts in a file: written as they come, and put in the order of the rows at the end.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use rlaif_core::{RewardModel, Sample};
use rlaif_rewards::{Counted, ProviderError, RewardConfig, RowVerdict, score_each_row};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use toml::{Table, Value};

use crate::{
    error::RunError,
    resume::{Change, compare},
};

/// The end of the name of the file that verdicts are in until the last one has come.
const UNORDERED: &str = ".unordered";

/// First line of that file: what its verdicts depend on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// The configuration of the reward.
    reward: Table,
    rows: usize,
    /// A hash of the rows.
    hash: String,
}

/// The place of a verdict's row, before the verdict itself.
#[derive(Deserialize)]
struct Place {
    row: usize,
    score: Option<f64>,
}

/// Scores rows into the file `out`, in their order.
///
/// Until the last verdict has come, they are in `OUT.unordered`, each as soon as it is there. The same
/// call after an interruption takes up what is there, and asks for the rows without a score alone.
///
/// # Errors
/// [`RunError::Verdicts`] if `out` exists, or another process is at it, or the verdicts so far are on
/// other rows; [`RunError::Changed`] for those of another reward; [`RunError::Write`];
/// [`RunError::Reward`].
pub fn score_into(
    config: &RewardConfig,
    reward: &dyn RewardModel,
    rows: &[Sample],
    out: &Path,
) -> Result<Counted, RunError> {
    if out.exists() {
        let problem = "is there already; name another file, or move it away".to_owned();
        return Err(RunError::Verdicts { path: out.to_owned(), problem });
    }
    let mut file = Unordered::open(config, rows, out)?;
    let open: Vec<usize> = (0..rows.len()).filter(|row| !file.known.contains_key(row)).collect();
    score_each_row(reward, rows, &open, &mut |row, verdict| {
        let action = "write the verdicts";
        file.add(row, &verdict).map_err(|source| ProviderError::Stream { action, source })
    })?;
    file.finish(rows.len(), out)
}

/// The verdicts so far.
struct Unordered {
    path: PathBuf,
    /// Locked as long as this process is at it.
    file: File,
    /// Verdicts as they are written, by row.
    known: BTreeMap<usize, String>,
    counted: Counted,
}

impl Unordered {
    fn open(config: &RewardConfig, rows: &[Sample], out: &Path) -> Result<Self, RunError> {
        let path = rlaif_files::sibling(out, UNORDERED);
        let failed = |source| RunError::Write { path: path.clone(), source };
        let refused = |problem: String| RunError::Verdicts { path: path.clone(), problem };
        let mut file = rlaif_files::open_growing(&path).map_err(failed)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(refused("another process is writing it".to_owned()));
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed)?;
        // A last line that was cut off goes.
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        if whole < text.len() {
            file.set_len(whole as u64).map_err(failed)?;
        }
        let reward = Table::try_from(config)
            .map_err(|source| RunError::Unwritable { source: source.into() })?;
        let own = Header { reward, rows: rows.len(), hash: hash(rows) };
        let unread = |line: usize, source: &dyn std::fmt::Display| {
            refused(format!("line {line} is not one of its verdicts ({source}); remove the file"))
        };
        let mut known = BTreeMap::new();
        let mut counted = Counted::default();
        let lines = text[..whole].split(|&byte| byte == b'\n').enumerate();
        for (at, line) in lines.filter(|(_, line)| !line.is_empty()) {
            if at == 0 {
                let found: Header =
                    serde_json::from_slice(line).map_err(|error| unread(1, &error))?;
                check(&path, &found, &own)?;
                continue;
            }
            let line = std::str::from_utf8(line).map_err(|error| unread(at + 1, &error))?;
            let place: Place =
                serde_json::from_str(line).map_err(|error| unread(at + 1, &error))?;
            // `{"row":7,"score":..}` without its row.
            let verdict = line.split_once(',').map(|(_, verdict)| format!("{{{verdict}"));
            // A row without a score is asked about again.
            if let (Some(verdict), Some(_)) = (verdict, place.score) {
                counted.scored += usize::from(known.insert(place.row, verdict).is_none());
            }
        }
        if whole == 0 {
            let mut header = serde_json::to_vec(&own).map_err(|source| failed(source.into()))?;
            header.push(b'\n');
            file.write_all(&header).map_err(failed)?;
        }
        Ok(Self { path, file, known, counted })
    }

    fn add(&mut self, row: usize, verdict: &RowVerdict) -> io::Result<()> {
        let verdict_text = serde_json::to_string(verdict)?;
        let line = format!("{{\"row\":{row},{}\n", &verdict_text[1..]);
        // One write, so that a reader never sees half of a line.
        self.file.write_all(line.as_bytes())?;
        self.counted.add(verdict);
        self.known.insert(row, verdict_text);
        Ok(())
    }

    /// Writes the verdicts in order, and removes the file of those that came.
    fn finish(self, rows: usize, out: &Path) -> Result<Counted, RunError> {
        let Self { path, file, known, counted } = self;
        if known.len() < rows {
            // Only a reward that breaks its contract comes here.
            let problem = format!("has {} of {rows} verdicts", known.len());
            return Err(RunError::Verdicts { path, problem });
        }
        let failed = |source| RunError::Write { path: out.to_owned(), source };
        rlaif_files::write_aside(out, failed, |writer| {
            known.values().try_for_each(|verdict| writeln!(writer, "{verdict}")).map_err(failed)
        })?;
        drop(file);
        fs::remove_file(&path).map_err(|source| RunError::Write { path, source })?;
        Ok(counted)
    }
}

/// Refuses verdicts on other rows, or of another reward.
fn check(path: &Path, found: &Header, own: &Header) -> Result<(), RunError> {
    if (found.rows, &found.hash) != (own.rows, &own.hash) {
        let problem = format!(
            "has verdicts on other rows ({} of them, now {}); name another file, or remove it",
            found.rows, own.rows
        );
        return Err(RunError::Verdicts { path: path.to_owned(), problem });
    }
    let as_run =
        |reward: &Table| Table::from_iter([("reward".to_owned(), Value::Table(reward.clone()))]);
    let changes: Vec<Change> =
        compare(&as_run(&found.reward), &as_run(&own.reward), |_| None).refused;
    if changes.is_empty() {
        return Ok(());
    }
    Err(RunError::Changed { file: path.to_owned(), changes })
}

fn hash(rows: &[Sample]) -> String {
    let mut hash = Sha256::new();
    for Sample { record, response } in rows {
        let mut metadata = serde_json::Value::Object(record.metadata.clone());
        metadata.sort_all_objects();
        let reference =
            record.reference.as_ref().map_or("null".to_owned(), |text| format!("={text}"));
        for part in [&record.prompt, response, &reference, &metadata.to_string()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
    }
    hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use rlaif_core::{Exchange, PromptRecord, RewardError, Scores, Tell};

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
            unreachable!("rows are told one by one")
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
            .map(|n| Sample { record: PromptRecord::new("", "?"), response: "x".repeat(n) })
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
