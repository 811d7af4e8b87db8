//! Results that cost money, in a file that grows by one line as soon as a result is there.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    ops::ControlFlow,
    path::Path,
};

use rlaif_core::Interrupted;
use rlaif_files::Digest;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Map;
use toml::{Table, Value};

use crate::{
    error::RunError,
    resume::{Change, compare},
};

/// The end of the name of the file that results are in until the last one has come.
pub(crate) const UNORDERED: &str = ".unordered";

/// First line of the file: what its results depend on.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    /// The name of the settings in the file, and in refusals.
    pub(crate) section: &'static str,
    /// The settings.
    pub(crate) settings: Table,
    /// Number of rows.
    pub(crate) rows: usize,
    /// A hash of the rows.
    pub(crate) hash: String,
}

impl Header {
    /// The header of results by these settings.
    ///
    /// # Errors
    /// [`RunError::Unwritable`].
    pub(crate) fn new<'a>(
        section: &'static str,
        settings: &impl Serialize,
        rows: usize,
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, RunError> {
        let settings = Table::try_from(settings)
            .map_err(|source| RunError::Unwritable { source: source.into() })?;
        let hash = Digest::of(texts.into_iter().map(str::as_bytes)).hex(16);
        Ok(Self { section, settings, rows, hash })
    }

    fn to_line(&self) -> Result<Map<String, serde_json::Value>, serde_json::Error> {
        let mut line = Map::new();
        line.insert(self.section.to_owned(), serde_json::to_value(&self.settings)?);
        line.insert("rows".to_owned(), self.rows.into());
        line.insert("hash".to_owned(), self.hash.clone().into());
        Ok(line)
    }

    /// The header of a line of the same section.
    fn of_line(&self, line: &[u8]) -> Result<Self, String> {
        let found: Map<String, serde_json::Value> =
            serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let key = |name: &str| found.get(name).ok_or_else(|| format!("missing field `{name}`"));
        let settings = serde_json::from_value(key(self.section)?.clone());
        let rows = key("rows")?.as_u64().ok_or("`rows` is not a number")?;
        Ok(Self {
            section: self.section,
            settings: settings.map_err(|error| error.to_string())?,
            rows: usize::try_from(rows).map_err(|error| error.to_string())?,
            hash: key("hash")?.as_str().ok_or("`hash` is not a text")?.to_owned(),
        })
    }
}

/// A result whose cost is known.
pub(crate) trait Costed {
    /// The cost, where prices are configured.
    fn cost(&self) -> Option<f64>;
}

/// Results by row, and the cost of all of them.
pub(crate) struct Kept<T> {
    pub(crate) results: BTreeMap<usize, T>,
    /// The cost, with that of results that were made again; `None` without prices.
    pub(crate) cost: Option<f64>,
}

/// The results so far.
pub(crate) struct Journal {
    file: rlaif_files::Journal,
    /// Results as they are written, by row.
    known: BTreeMap<usize, String>,
    /// The cost of all results that the file had, those that are made again included.
    cost: Option<f64>,
}

impl Journal {
    /// Opens or creates it. Of the results in it those stay that `is_kept`; the others are made again.
    ///
    /// # Errors
    /// [`RunError::Busy`] if another process is writing it; [`RunError::Verdicts`] if its results are on other rows;
    /// [`RunError::Changed`] for results by other settings; [`RunError::Write`].
    pub(crate) fn open(
        path: &Path,
        own: &Header,
        is_kept: impl Fn(&Map<String, serde_json::Value>) -> bool,
    ) -> Result<Self, RunError> {
        let failed = |source| RunError::Write { path: path.to_owned(), source };
        let refused = |problem: String| RunError::Verdicts { path: path.to_owned(), problem };
        let (mut file, lines) =
            rlaif_files::Journal::open(path).map_err(|source| match source.kind() {
                io::ErrorKind::WouldBlock => RunError::Busy { path: path.to_owned() },
                _ => failed(source),
            })?;
        let unread = |line: usize, problem: &dyn std::fmt::Display| {
            refused(format!("line {line} is not one of its rows ({problem}); remove the file"))
        };
        let mut known = BTreeMap::new();
        let mut cost = None;
        for (number, line) in lines.numbered() {
            if number == 1 {
                let found = own.of_line(line).map_err(|problem| unread(1, &problem))?;
                check(path, &found, own)?;
                continue;
            }
            let line = std::str::from_utf8(line).map_err(|error| unread(number, &error))?;
            let fields: Map<String, serde_json::Value> =
                serde_json::from_str(line).map_err(|error| unread(number, &error))?;
            let row = fields.get("row").and_then(serde_json::Value::as_u64);
            let row = row.and_then(|row| usize::try_from(row).ok()).filter(|row| *row < own.rows);
            let row = row.ok_or_else(|| unread(number, &"its `row` is not one of the rows"))?;
            let own_cost = fields.get("cost").and_then(serde_json::Value::as_f64);
            cost = own_cost.map(|own| cost.unwrap_or(0.) + own).or(cost);
            // `{"row":7,"score":..}` without its row.
            let result = line.split_once(',').map(|(_, result)| format!("{{{result}"));
            if let Some(result) = result.filter(|_| is_kept(&fields)) {
                known.insert(row, result);
            }
        }
        if lines.is_empty() {
            let header = own.to_line().map_err(|source| failed(source.into()))?;
            file.append([header]).map_err(failed)?;
        }
        Ok(Self { file, known, cost })
    }

    /// The results of all rows: those that the file `path` has, and those that `ask` makes of the others,
    /// each kept in the file as soon as it is there. Without a file nothing is kept.
    ///
    /// # Errors
    /// Those of [`Journal::open`] and of `ask`; [`RunError::Write`]; [`RunError::Stopped`] after Ctrl-C.
    pub(crate) fn kept<T, E>(
        path: Option<&Path>,
        own: &Header,
        is_kept: impl Fn(&Map<String, serde_json::Value>) -> bool,
        ask: impl FnOnce(
            &BTreeMap<usize, T>,
            &mut dyn FnMut(usize, T) -> ControlFlow<()>,
        ) -> Result<(), E>,
    ) -> Result<Kept<T>, RunError>
    where
        T: Serialize + DeserializeOwned + Costed,
        RunError: From<E>,
    {
        let mut journal = match path {
            Some(path) => Some(Self::open(path, own, is_kept)?),
            None => None,
        };
        let mut known: BTreeMap<usize, T> = BTreeMap::new();
        for (row, result) in journal.iter().flat_map(|journal| &journal.known) {
            if let Ok(result) = serde_json::from_str(result) {
                known.insert(*row, result);
            }
        }
        let mut came = BTreeMap::new();
        let mut cost = journal.as_ref().and_then(|journal| journal.cost);
        let mut failure = None;
        let asked = ask(&known, &mut |row, result| {
            let written = journal.as_mut().map_or(Ok(()), |journal| journal.add(row, &result));
            cost = result.cost().map(|own| cost.unwrap_or(0.) + own).or(cost);
            came.insert(row, result);
            match written {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        if let (Some(source), Some(path)) = (failure, path) {
            return Err(RunError::Write { path: path.to_owned(), source });
        }
        asked?;
        Interrupted::check().map_err(RunError::Stopped)?;
        known.extend(came);
        Ok(Kept { results: known, cost })
    }

    /// The results so far, by row, as JSON.
    pub(crate) fn known(&self) -> &BTreeMap<usize, String> {
        &self.known
    }

    /// Adds the result of a row: an object with at least one field.
    pub(crate) fn add(&mut self, row: usize, result: &impl Serialize) -> io::Result<()> {
        self.file.append([Line { row, result }])?;
        self.known.insert(row, serde_json::to_string(result)?);
        Ok(())
    }

    /// Writes the results in order, and removes the file of those that came.
    ///
    /// # Errors
    /// [`RunError::Verdicts`] if there is not one for each row; [`RunError::Write`].
    pub(crate) fn finish(self, rows: usize, out: &Path) -> Result<(), RunError> {
        let Self { file, known, cost: _ } = self;
        let path = file.path().to_owned();
        if known.len() < rows {
            // Only a reward that breaks its contract comes here.
            let problem = format!("has {} of {rows} rows", known.len());
            return Err(RunError::Verdicts { path, problem });
        }
        let failed = |source| RunError::Write { path: out.to_owned(), source };
        rlaif_files::write_aside(out, failed, |writer| {
            known.values().try_for_each(|result| writeln!(writer, "{result}")).map_err(failed)
        })?;
        drop(file);
        fs::remove_file(&path).map_err(|source| RunError::Write { path, source })
    }
}

/// A result with its row.
#[derive(Serialize)]
struct Line<'a, T> {
    row: usize,
    #[serde(flatten)]
    result: &'a T,
}

/// Refuses results on other rows, or by other settings.
fn check(path: &Path, found: &Header, own: &Header) -> Result<(), RunError> {
    if (found.rows, &found.hash) != (own.rows, &own.hash) {
        let problem = format!(
            "has verdicts on other rows ({} of them, now {}); name another file, or remove it",
            found.rows, own.rows
        );
        return Err(RunError::Verdicts { path: path.to_owned(), problem });
    }
    let as_run = |settings: &Table| {
        Table::from_iter([(own.section.to_owned(), Value::Table(settings.clone()))])
    };
    let changes: Vec<Change> =
        compare(&as_run(&found.settings), &as_run(&own.settings), |_| None).refused;
    if changes.is_empty() {
        return Ok(());
    }
    Err(RunError::Changed { file: path.to_owned(), changes })
}
