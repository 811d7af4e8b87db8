//! SQLite databases that several processes share.

use std::{path::Path, thread, time::Duration};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

/// Time to wait for another process that writes.
const BUSY: Duration = Duration::from_secs(30);
/// Attempts to switch to the write-ahead log, and the pause after each.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(50);

/// Creates the tables of an empty database.
pub type CreateTables<'a> = &'a dyn Fn(&Transaction<'_>) -> rusqlite::Result<()>;

/// The kind of a database, stored in its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseKind {
    /// SQLite's application id.
    pub application: i64,
    /// The layout of the tables: SQLite's user version.
    pub layout: i64,
}

impl DatabaseKind {
    /// Opens a database with a write-ahead log. An empty one becomes one of this kind, with the tables that
    /// `create` makes, in one transaction; without `create`, it stays empty.
    ///
    /// The kind of the result may be another one: [`DatabaseKind::of`].
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn open(
        self,
        path: &Path,
        create: Option<CreateTables<'_>>,
    ) -> rusqlite::Result<Connection> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let empty: bool =
            transaction
                .query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))?;
        if let (true, Some(create)) = (empty, create) {
            create(&transaction)?;
            transaction.pragma_update(None, "application_id", self.application)?;
            transaction.pragma_update(None, "user_version", self.layout)?;
        }
        transaction.commit()?;
        // The switch fails if another process opens the file at this moment, regardless of the
        // timeout: SQLite does not wait for it.
        let mut attempt = 0;
        while let Err(error) = connection.pragma_update(None, "journal_mode", "WAL") {
            let is_busy = error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy);
            if attempt == ATTEMPTS || !is_busy {
                return Err(error);
            }
            attempt += 1;
            thread::sleep(PAUSE);
        }
        Ok(connection)
    }

    /// The kind of an open database.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let number = |name| connection.pragma_query_value(None, name, |row| row.get(0));
        Ok(Self { application: number("application_id")?, layout: number("user_version")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: DatabaseKind = DatabaseKind { application: 0x7465_7374, layout: 2 };

    #[test]
    fn a_database_is_created_once_and_keeps_its_kind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sqlite");
        let empty = KIND.open(&path, None).unwrap();
        assert_eq!(DatabaseKind::of(&empty).unwrap(), DatabaseKind { application: 0, layout: 0 });
        let create: CreateTables<'_> = &|tables| tables.execute_batch("CREATE TABLE t (x)");
        let made = KIND.open(&path, Some(create)).unwrap();
        assert_eq!(DatabaseKind::of(&made).unwrap(), KIND);
        made.execute("INSERT INTO t VALUES (7)", []).unwrap();
        // Open in two places at once, and of another kind: nothing is created again.
        let other = DatabaseKind { application: 1, layout: 1 }.open(&path, Some(create)).unwrap();
        assert_eq!(DatabaseKind::of(&other).unwrap(), KIND);
        let x: i64 = other.query_row("SELECT x FROM t", [], |row| row.get(0)).unwrap();
        let mode = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
        let mode = other.pragma_query_value(None, "journal_mode", mode).unwrap();
        assert_eq!((x, mode.as_str()), (7, "wal"));
    }

    #[test]
    fn a_failed_creation_leaves_the_database_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sqlite");
        let fails: CreateTables<'_> =
            &|tables| tables.execute_batch("CREATE TABLE t (x); nonsense");
        KIND.open(&path, Some(fails)).unwrap_err();
        let again = KIND.open(&path, None).unwrap();
        let tables: i64 =
            again.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
        assert_eq!(tables, 0);
    }
}
