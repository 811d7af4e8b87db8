//! The tables of a study's file, and its queries for the next item.

use std::path::Path;

use rlaif_core::FileAction;
use rlaif_files::{CreateTables, DatabaseKind};
use rusqlite::{Connection, Transaction, params};
use serde::{Serialize, de::DeserializeOwned};

use super::records::{Annotator, AnnotatorRole};
use crate::{
    answer::{PeopleAnswer, PeopleChoice},
    error::PeopleError,
    settings::StudySettings,
};

/// Files of this kind: `rlap` in ASCII.
pub(super) const KIND: DatabaseKind = DatabaseKind { application: 0x726c_6170, layout: 1 };

/// Items without a known answer that are left for annotator ?1: shared ones, and those that nobody else has
/// answered or, since ?2, seen.
pub(super) const PLAIN: &str = "SELECT i.number FROM items i WHERE i.known = 0 \
    AND NOT EXISTS (SELECT 1 FROM answers a WHERE a.item = i.number AND a.annotator = ?1) \
    AND (i.shared = 1 OR (NOT EXISTS (SELECT 1 FROM answers a JOIN annotators p ON p.number = a.annotator \
            WHERE a.item = i.number AND a.skipped = 0 AND p.role = 'annotator') \
        AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.item = i.number AND c.annotator <> ?1 AND c.at > ?2 \
            AND NOT EXISTS (SELECT 1 FROM answers s WHERE s.item = i.number AND s.annotator = c.annotator))))";

/// Items with a known answer that annotator ?1 has not answered.
pub(super) const KNOWN: &str = "SELECT i.number FROM items i WHERE i.known = 1 \
    AND NOT EXISTS (SELECT 1 FROM answers a WHERE a.item = i.number AND a.annotator = ?1)";

/// Open conflicts: items on which annotators disagree, by their choice or by their ranking, and on which no referee
/// has a verdict. Those who skip an item have none.
pub(super) const CONFLICTS: &str = "SELECT i.number FROM items i WHERE \
    (SELECT count(DISTINCT a.verdict) FROM answers a JOIN annotators p ON p.number = a.annotator \
        WHERE a.item = i.number AND a.skipped = 0 AND p.role = 'annotator') > 1 \
    AND NOT EXISTS (SELECT 1 FROM answers a JOIN annotators p ON p.number = a.annotator \
        WHERE a.item = i.number AND a.skipped = 0 AND p.role = 'referee')";

/// Restricts items to those that referee ?1 has not skipped.
pub(super) const NOT_OWN: &str =
    "AND NOT EXISTS (SELECT 1 FROM answers a WHERE a.item = i.number AND a.annotator = ?1)";

/// Tells if annotator ?1 was given item ?2. A study of an earlier version knows that by claims and drafts alone.
pub(super) const GIVEN: &str = "SELECT \
    EXISTS (SELECT 1 FROM given WHERE annotator = ?1 AND item = ?2) \
    OR EXISTS (SELECT 1 FROM claims WHERE annotator = ?1 AND item = ?2) \
    OR EXISTS (SELECT 1 FROM drafts WHERE annotator = ?1 AND item = ?2)";

/// Tables that studies of earlier versions lack, and that those versions do not read.
pub(super) const ADDED_TABLES: &str = "
    CREATE TABLE IF NOT EXISTS given (
        annotator INTEGER NOT NULL,
        item INTEGER NOT NULL,
        PRIMARY KEY (annotator, item)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS undos (
        annotator INTEGER NOT NULL,
        key TEXT NOT NULL,
        item INTEGER NOT NULL,
        PRIMARY KEY (annotator, key)
    ) WITHOUT ROWID;
";

/// Makes sure that the file, which has texts and tokens, is readable by its owner alone if it is new.
pub(super) fn private_file(path: &Path, create: bool) -> Result<(), PeopleError> {
    let failed =
        |source| PeopleError::Io { action: FileAction::Create, path: path.to_owned(), source };
    if !create || path.exists() {
        return Ok(());
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        // Another process was faster.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map(|_| ()).map_err(failed),
    }
}

/// Device and inode of a file; elsewhere than on Unix all files are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity(Option<(u64, u64)>);

impl FileIdentity {
    #[cfg(unix)]
    pub(super) fn of(path: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self(std::fs::metadata(path).ok().map(|data| (data.dev(), data.ino())))
    }

    #[cfg(not(unix))]
    pub(super) fn of(_: &Path) -> Self {
        Self(None)
    }
}

pub(super) fn prepared(
    path: &Path,
    settings: Option<&StudySettings>,
) -> rusqlite::Result<Connection> {
    let create = |tables: &Transaction<'_>| {
        let Some(settings) = settings else { return Ok(()) };
        tables.execute_batch(TABLES)?;
        let insert = "INSERT INTO meta (key, value) VALUES ('settings', ?)";
        tables.execute(insert, [text(settings)?]).map(|_| ())
    };
    let connection = KIND.open(path, settings.is_some().then_some(&create as CreateTables<'_>))?;
    // The log is synced at each commit, so that a power cut loses no acknowledged answer either.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(connection)
}

const TABLES: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE items (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        body TEXT NOT NULL,
        shared INTEGER NOT NULL,
        known INTEGER NOT NULL
    );
    CREATE TABLE annotators (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        role TEXT NOT NULL,
        token TEXT UNIQUE
    );
    CREATE TABLE history (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        annotator INTEGER NOT NULL REFERENCES annotators,
        item INTEGER NOT NULL REFERENCES items,
        key TEXT NOT NULL,
        body TEXT NOT NULL,
        shown TEXT NOT NULL,
        at INTEGER NOT NULL,
        undone_at INTEGER,
        UNIQUE (annotator, key)
    );
    CREATE TABLE answers (
        number INTEGER PRIMARY KEY NOT NULL,
        annotator INTEGER NOT NULL REFERENCES annotators,
        item INTEGER NOT NULL REFERENCES items,
        body TEXT NOT NULL,
        shown TEXT NOT NULL,
        at INTEGER NOT NULL,
        skipped INTEGER NOT NULL,
        verdict TEXT NOT NULL,
        UNIQUE (item, annotator)
    );
    CREATE INDEX answers_of_annotator ON answers (annotator, number);
    CREATE TABLE claims (
        item INTEGER PRIMARY KEY NOT NULL,
        annotator INTEGER NOT NULL,
        at INTEGER NOT NULL
    );
    CREATE TABLE drafts (
        annotator INTEGER NOT NULL,
        item INTEGER NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (annotator, item)
    ) WITHOUT ROWID;
";

/// A value as the JSON that is stored.
pub(super) fn text(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
}

/// Adds an answer to the history and to those in force.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    annotator: i64,
    item: i64,
    answer: &PeopleAnswer,
    order: &[usize],
    at: i64,
    key: &str,
) -> rusqlite::Result<()> {
    let (body, shown) = (text(answer)?, text(&order)?);
    transaction
        .prepare(
            "INSERT INTO history (annotator, item, key, body, shown, at) VALUES (?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![annotator, item, key, body, shown, at])?;
    let number = transaction.last_insert_rowid();
    let skipped = answer.choice == PeopleChoice::Skip;
    // Equal for answers that agree.
    let verdict = format!("{:?} {:?}", answer.choice, answer.ranking);
    transaction
        .prepare(
            "INSERT INTO answers (number, annotator, item, body, shown, at, skipped, verdict) VALUES (?, ?, \
             ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![number, annotator, item, body, shown, at, skipped, verdict])?;
    Ok(())
}

/// An annotator from number, name, role and token.
pub(super) fn annotator(row: &rusqlite::Row<'_>) -> rusqlite::Result<Annotator> {
    Ok(Annotator {
        number: row.get(0)?,
        name: row.get(1)?,
        role: AnnotatorRole::of(&row.get::<_, String>(2)?),
        token: row.get(3)?,
    })
}

/// A value of a column of JSON.
pub(super) fn json<T: DeserializeOwned>(
    row: &rusqlite::Row<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(e))
    })
}
