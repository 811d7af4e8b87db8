//! Answers on disk, for later runs and for other processes.
//!
//! The store is SQLite with a write-ahead log. Every answer is a transaction of its own, so a
//! killed process loses no written answer and leaves the file intact, and processes may share the
//! file. The key is a hash of service, model, parameters and text. The value is the judge's answer,
//! not the verdict, so a change of the scale needs no new request.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};
use serde_json::{Value, json};

use rlaif_core::BadSetting;
use rlaif_files::{DatabaseKind, Digest};

use crate::ProviderError;
use crate::rubric::{Answer, Finish, TokenAlternatives};
use crate::sync::lock;

/// Files of this kind: `rlaf` in ASCII.
const KIND: DatabaseKind = DatabaseKind { application: 0x726c_6166, layout: 1 };

pub(super) type Key = [u8; 32];

#[derive(Debug)]
pub(super) struct Cache {
    path: PathBuf,
    connection: Mutex<Connection>,
}

/// The key of a request: a hash of everything that affects its answer.
pub(super) fn key(url: &str, body: &Value, sample: u32) -> Key {
    // The key does not depend on the order of the fields.
    let mut body = body.clone();
    body.sort_all_objects();
    Digest::of([url.as_bytes(), body.to_string().as_bytes(), &sample.to_le_bytes()]).bytes()
}

impl Cache {
    pub(super) fn open(path: &Path) -> Result<Self, ProviderError> {
        let connection = connect(path).map_err(|source| failed(path, source))?;
        let found = DatabaseKind::of(&connection).map_err(|source| failed(path, source))?;
        if found != KIND {
            return Err(ProviderError::Setting(BadSetting::new(
                "cache",
                format!("{}, some other database", path.display()),
                format!(
                    "a file that does not exist yet, or a judge's cache of layout {}",
                    KIND.layout
                ),
            )));
        }
        Ok(Self { path: path.to_owned(), connection: Mutex::new(connection) })
    }

    /// The stored answers to these requests.
    pub(super) fn get(&self, keys: &[Key]) -> Result<Vec<Option<Answer>>, ProviderError> {
        let read = || {
            let mut connection = lock(&self.connection);
            let transaction = connection.transaction()?;
            let mut select =
                transaction.prepare("SELECT text, finish, tokens FROM answers WHERE key = ?1")?;
            keys.iter()
                .map(|key| select.query_row(params![key.as_slice()], answer).optional())
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(read().map_err(|e| self.failed(e))?.into_iter().map(Option::flatten).collect())
    }

    /// Stores an answer; the first answer to a request is kept.
    pub(super) fn put(&self, key: &Key, answer: &Answer) -> Result<(), ProviderError> {
        let tokens = (!answer.tokens.is_empty()).then(|| {
            let token = |t: &TokenAlternatives| json!([t.token, t.alternatives]);
            Value::Array(answer.tokens.iter().map(token).collect()).to_string()
        });
        let finish = match answer.finish {
            Finish::Complete => "complete",
            Finish::Length => "length",
            Finish::Refused => "refused",
        };
        let connection = lock(&self.connection);
        let insert =
            "INSERT OR IGNORE INTO answers (key, text, finish, tokens) VALUES (?, ?, ?, ?)";
        let inserted = connection.prepare(insert).and_then(|mut insert| {
            insert.execute(params![key.as_slice(), answer.text, finish, tokens])
        });
        inserted.map(|_| ()).map_err(|e| self.failed(e))
    }

    fn failed(&self, source: rusqlite::Error) -> ProviderError {
        failed(&self.path, source)
    }
}

/// A full or read-only disk is an environment fault, a wrong name a user's.
fn failed(path: &Path, source: rusqlite::Error) -> ProviderError {
    let misnamed = match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => true,
        Some(ErrorCode::CannotOpen) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            path.is_dir() || folder.is_some_and(|folder| !folder.is_dir())
        }
        _ => false,
    };
    ProviderError::Cache { path: path.to_owned(), source: Box::new(source), misnamed }
}

fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = KIND.open(
        path,
        Some(&|tables| {
            tables.execute_batch(
                "CREATE TABLE answers (
                    key BLOB PRIMARY KEY NOT NULL,
                    text TEXT NOT NULL,
                    finish TEXT NOT NULL,
                    tokens TEXT
                ) WITHOUT ROWID;",
            )
        }),
    )?;
    // A power cut may lose the last answers, but leaves the file intact.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(connection)
}

/// A token and its alternatives, as stored.
type Token = (String, Vec<(String, f64)>);

/// `None` if a row is damaged: the question is asked again.
fn answer(row: &rusqlite::Row<'_>) -> Result<Option<Answer>, rusqlite::Error> {
    let finish = match row.get::<_, String>(1)?.as_str() {
        "complete" => Finish::Complete,
        "length" => Finish::Length,
        "refused" => Finish::Refused,
        _ => return Ok(None),
    };
    let tokens: Option<String> = row.get(2)?;
    let tokens: Option<Vec<Token>> = match tokens {
        Some(tokens) => serde_json::from_str(&tokens).ok(),
        None => Some(Vec::new()),
    };
    let Some(tokens) = tokens else { return Ok(None) };
    let token = |(token, alternatives)| TokenAlternatives { token, alternatives };
    Ok(Some(Answer { text: row.get(0)?, finish, tokens: tokens.into_iter().map(token).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_comes_back_from_another_connection() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("judge.sqlite");
        let (one, two) = (Cache::open(&path).unwrap(), Cache::open(&path).unwrap());
        let alternatives = vec![("7".to_owned(), -0.1), (" 7".to_owned(), -3.)];
        let tokens = vec![TokenAlternatives { token: "7".to_owned(), alternatives }];
        let answer =
            Answer { text: "7 \u{2212} \"x\"".to_owned(), finish: Finish::Complete, tokens };
        let (known, other) = (key("u", &json!({}), 0), key("u", &json!({}), 1));
        one.put(&known, &answer).unwrap();
        two.put(&known, &Answer::text("a later answer")).unwrap();
        assert_eq!(two.get(&[other, known]).unwrap(), [None, Some(answer)]);
    }

    #[test]
    fn many_may_open_and_write_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("judge.sqlite");
        std::thread::scope(|scope| {
            for writer in 0..8_u32 {
                let path = &path;
                scope.spawn(move || {
                    let cache = Cache::open(path).unwrap();
                    for n in 0..20 {
                        cache.put(&key("u", &json!(writer), n), &Answer::text("1")).unwrap();
                    }
                });
            }
        });
        let cache = Cache::open(&path).unwrap();
        for writer in 0..8_u32 {
            let keys: Vec<_> = (0..20).map(|n| key("u", &json!(writer), n)).collect();
            assert!(cache.get(&keys).unwrap().iter().all(Option::is_some));
        }
    }

    #[test]
    fn another_file_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("notes.txt");
        std::fs::write(&text, "not a database, and longer than a header of SQLite would be, so that it is read as one and found to be none").unwrap();
        let error = Cache::open(&text).unwrap_err().to_string();
        assert!(error.contains("notes.txt"), "{error}");
        let database = folder.path().join("other.sqlite");
        Connection::open(&database).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        let error = Cache::open(&database).unwrap_err().to_string();
        assert!(error.contains("some other database"), "{error}");
        assert!(Cache::open(&folder.path().join("no/such/folder/x")).is_err());
    }
}
