//! The study's file: SQLite, in which every answer is on disk before it is acknowledged.

mod drafts;
mod imports;
mod records;
mod tables;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use rlaif_files::DatabaseKind;
use rusqlite::{
    Connection, ErrorCode, OptionalExtension as _, Transaction, TransactionBehavior, params,
};

use crate::{
    answer::PeopleAnswer,
    error::PeopleError,
    item::{StudyItem, share_of},
    settings::StudySettings,
};

pub(crate) use records::ImportedAnswer;
pub use records::{
    AddedItems, Annotator, AnnotatorRole, ShownItem, StoredAnswer, StudyContents, StudyProgress,
};
use tables::{
    ADDED_TABLES, CONFLICTS, FileIdentity, GIVEN, KIND, KNOWN, NOT_OWN, PLAIN, annotator, insert,
    json, prepared, private_file, text,
};

/// Time after which an item that an annotator has seen and not answered is given to another one.
const CLAIM_MS: i64 = 30 * 60 * 1000;

/// A study on disk. Threads and processes may share the file.
#[derive(Debug)]
pub struct Study {
    path: PathBuf,
    /// The file that was opened.
    file: FileIdentity,
    settings: StudySettings,
    connection: Mutex<Connection>,
}

impl Study {
    /// Creates a study, or opens one that exists. The settings of a study that exists are kept.
    ///
    /// # Errors
    /// [`PeopleError::Setting`], [`PeopleError::Foreign`], [`PeopleError::Store`].
    ///
    /// ```
    /// use rlaif_people::{AnnotatorRole, PeopleAnswer, PeopleChoice, Study, StudyItem, StudySettings};
    /// # let folder = tempfile::tempdir()?;
    /// let study = Study::create(&folder.path().join("people.sqlite"), &StudySettings::default())?;
    /// study.add_items(&[StudyItem::pair("7", "Why?", "Because.", "No.")])?;
    /// let ann = study.add_annotator("ann", AnnotatorRole::Annotator)?;
    /// let shown = study.next(&ann)?.unwrap();
    /// study.answer(&ann, shown.number, "key-1", PeopleAnswer::new(PeopleChoice::First))?;
    /// assert_eq!(study.next(&ann)?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn create(path: &Path, settings: &StudySettings) -> Result<Self, PeopleError> {
        settings.check()?;
        Self::connect(path, Some(settings))
    }

    /// Adds items to a study, and creates it if it does not exist; one that is new is deleted if an item is refused.
    ///
    /// # Errors
    /// Those of [`Study::create`] and [`Study::add_items`].
    pub fn create_with(
        path: &Path,
        settings: &StudySettings,
        items: &[StudyItem],
    ) -> Result<(Self, AddedItems), PeopleError> {
        let is_new = !path.exists();
        let study = Self::create(path, settings)?;
        match study.add_items(items) {
            Ok(counts) => Ok((study, counts)),
            Err(error) => {
                drop(study);
                if is_new {
                    // The error of the item is the one to tell.
                    let _ = std::fs::remove_file(path);
                }
                Err(error)
            }
        }
    }

    /// Opens a study that exists.
    ///
    /// # Errors
    /// [`PeopleError::Missing`], [`PeopleError::Foreign`], [`PeopleError::Store`].
    pub fn open(path: &Path) -> Result<Self, PeopleError> {
        if !path.exists() {
            return Err(PeopleError::Missing { path: path.to_owned() });
        }
        Self::connect(path, None)
    }

    fn connect(path: &Path, settings: Option<&StudySettings>) -> Result<Self, PeopleError> {
        private_file(path, settings.is_some())?;
        let failed = |source: rusqlite::Error| match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => PeopleError::Foreign {
                path: path.to_owned(),
                found: "another kind of file".to_owned(),
                expected: KIND.layout,
            },
            _ => PeopleError::Store { action: "open", path: path.to_owned(), source },
        };
        let connection = prepared(path, settings).map_err(failed)?;
        let kind = DatabaseKind::of(&connection).map_err(failed)?;
        if kind != KIND {
            let found = if kind.application == KIND.application {
                format!("a study of layout {}", kind.layout)
            } else {
                "another database".to_owned()
            };
            return Err(PeopleError::Foreign {
                path: path.to_owned(),
                found,
                expected: KIND.layout,
            });
        }
        let text: String = connection
            .query_row("SELECT value FROM meta WHERE key = 'settings'", [], |row| row.get(0))
            .map_err(failed)?;
        let settings = serde_json::from_str(&text).map_err(|e| PeopleError::Foreign {
            path: path.to_owned(),
            found: format!("a study with other settings ({e})"),
            expected: KIND.layout,
        })?;
        connection.execute_batch(ADDED_TABLES).map_err(failed)?;
        let file = FileIdentity::of(path);
        Ok(Self { path: path.to_owned(), file, settings, connection: Mutex::new(connection) })
    }

    /// The study's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The study's settings.
    pub fn settings(&self) -> &StudySettings {
        &self.settings
    }

    /// Adds items, all or none. An item that is there already, with the same texts, counts as equal.
    ///
    /// # Errors
    /// [`PeopleError::OtherItem`] for a known id with other texts, [`PeopleError::Answer`] for an item of fewer
    /// than two responses or a known answer that does not fit, [`PeopleError::Store`].
    pub fn add_items(&self, items: &[StudyItem]) -> Result<AddedItems, PeopleError> {
        for item in items {
            if item.responses.len() < 2 {
                let found = format!("{} of item `{}`", item.responses.len(), item.id);
                let setting = rlaif_core::BadSetting::new("responses", found, "at least 2");
                return Err(PeopleError::Answer(setting));
            }
            if let Some(known) = item.known {
                PeopleAnswer::new(known)
                    .check(item.responses.len())
                    .map_err(PeopleError::Answer)?;
            }
        }
        self.write("add items to", |transaction| {
            let mut counts = AddedItems::default();
            for item in items {
                let known: Option<StudyItem> = transaction
                    .prepare("SELECT body FROM items WHERE id = ?")?
                    .query_row([&item.id], |row| json(row, 0))
                    .optional()?;
                match known {
                    Some(known) if !known.says_as(item) => {
                        return Ok(Err(PeopleError::OtherItem {
                            id: item.id.clone(),
                            what: "other texts",
                        }));
                    }
                    Some(known) if known.known != item.known => {
                        let what = "another known answer";
                        return Ok(Err(PeopleError::OtherItem { id: item.id.clone(), what }));
                    }
                    Some(_) => counts.equal += 1,
                    None => {
                        let shared =
                            share_of(self.settings.seed, &format!("overlap of {}", item.id), 0);
                        transaction
                            .prepare(
                                "INSERT INTO items (id, body, shared, known) VALUES (?, ?, ?, ?)",
                            )?
                            .execute(params![
                                item.id,
                                text(item)?,
                                shared < self.settings.overlap,
                                item.known.is_some()
                            ])?;
                        counts.added += 1;
                    }
                }
            }
            Ok(Ok(counts))
        })
    }

    /// Adds an annotator, or returns the one of this name and role.
    ///
    /// # Errors
    /// [`PeopleError::Setting`] for an empty name, a very long one, or one of another role;
    /// [`PeopleError::Random`], [`PeopleError::Store`].
    pub fn add_annotator(&self, name: &str, role: AnnotatorRole) -> Result<Annotator, PeopleError> {
        if name.is_empty()
            || name.len() > 200
            || name.chars().any(|c| c.is_control() || rlaif_core::hidden(c).is_some())
        {
            let expected = "a name of 1 to 200 bytes, on one line, without hidden characters";
            let found = name.escape_debug().take(60).collect::<String>();
            return Err(rlaif_core::BadSetting::new("annotator", found, expected).into());
        }
        let token = (role != AnnotatorRole::Judge).then(random_token).transpose()?;
        let found = self.write("add an annotator to", |transaction| {
            let sql = "INSERT INTO annotators (name, role, token) VALUES (?, ?, ?) ON CONFLICT (name) DO NOTHING";
            transaction.execute(sql, params![name, role.name(), token])?;
            Ok(Ok(transaction.query_row(
                "SELECT number, name, role, token FROM annotators WHERE name = ?",
                [name],
                annotator,
            )?))
        })?;
        if found.role == role {
            return Ok(found);
        }
        let expected = format!("another name: this one is a {}'s", found.role.name());
        Err(rlaif_core::BadSetting::new("annotator", name, expected).into())
    }

    /// The annotators, in the order of their numbers.
    ///
    /// # Errors
    /// [`PeopleError::Store`].
    pub fn annotators(&self) -> Result<Vec<Annotator>, PeopleError> {
        self.read(|connection| {
            let mut query = connection
                .prepare("SELECT number, name, role, token FROM annotators ORDER BY number")?;
            query.query_map([], annotator)?.collect()
        })
    }

    /// The annotator with this token.
    ///
    /// # Errors
    /// [`PeopleError::NoAnnotator`], [`PeopleError::Store`].
    pub fn annotator_of_token(&self, token: &str) -> Result<Annotator, PeopleError> {
        let found = self.read(|connection| {
            connection
                .prepare("SELECT number, name, role, token FROM annotators WHERE token = ?")?
                .query_row([token], annotator)
                .optional()
        })?;
        found.ok_or_else(|| PeopleError::NoAnnotator { what: "this token".to_owned() })
    }

    /// The item that the annotator answers next, the same until it is answered; `None` at the end.
    ///
    /// A referee gets the open conflicts ([`StudyContents::conflicts`]) that they have not skipped.
    ///
    /// # Errors
    /// [`PeopleError::Store`].
    pub fn next(&self, annotator: &Annotator) -> Result<Option<ShownItem>, PeopleError> {
        let found = self.write("read", |transaction| {
            let Some(number) = self.next_number(transaction, annotator)? else {
                return Ok(Ok(None));
            };
            transaction
                .prepare("INSERT OR REPLACE INTO claims (item, annotator, at) VALUES (?, ?, ?)")?
                .execute(params![number, annotator.number, now_ms()])?;
            transaction
                .prepare("INSERT OR IGNORE INTO given (annotator, item) VALUES (?, ?)")?
                .execute([annotator.number, number])?;
            Ok(Ok(Some(number)))
        })?;
        found.map(|number| self.item_for(annotator, number)).transpose()
    }

    fn next_number(
        &self,
        transaction: &Transaction<'_>,
        annotator: &Annotator,
    ) -> rusqlite::Result<Option<i64>> {
        let own = annotator.number;
        if annotator.role == AnnotatorRole::Referee {
            return transaction
                .prepare(&format!("{CONFLICTS} {NOT_OWN} ORDER BY i.number LIMIT 1"))?
                .query_row([own], |row| row.get(0))
                .optional();
        }
        let done: i64 = transaction
            .prepare("SELECT count(*) FROM answers WHERE annotator = ?")?
            .query_row([own], |row| row.get(0))?;
        let known = || {
            transaction
                .prepare(&format!("{KNOWN} ORDER BY i.number LIMIT 1"))?
                .query_row([own], |row| row.get(0))
                .optional()
        };
        let every = self.settings.known_every;
        let drawn = share_of(self.settings.seed, &format!("known for {own}"), done.cast_unsigned());
        if every > 0
            && drawn < 1. / f64::from(every)
            && let Some(number) = known()?
        {
            return Ok(Some(number));
        }
        let plain = transaction
            .prepare(&format!("{PLAIN} ORDER BY i.number LIMIT 1"))?
            .query_row(params![own, now_ms() - CLAIM_MS], |row| row.get(0))
            .optional()?;
        match plain {
            None if every > 0 => known(),
            plain => Ok(plain),
        }
    }

    /// An item as this annotator sees it.
    ///
    /// # Errors
    /// [`PeopleError::NoItem`], [`PeopleError::Store`].
    pub fn item_for(&self, annotator: &Annotator, number: i64) -> Result<ShownItem, PeopleError> {
        let item = self.item(number)?;
        let draft = self.read(|connection| {
            connection
                .prepare("SELECT body FROM drafts WHERE annotator = ? AND item = ?")?
                .query_row([annotator.number, number], |row| json(row, 0))
                .optional()
        })?;
        let order = item.order(self.settings.seed, annotator.number.cast_unsigned());
        Ok(ShownItem { number, item, order, draft })
    }

    fn item(&self, number: i64) -> Result<StudyItem, PeopleError> {
        let found = self.read(|connection| {
            connection
                .prepare("SELECT body FROM items WHERE number = ?")?
                .query_row([number], |row| json(row, 0))
                .optional()
        })?;
        found.ok_or_else(|| PeopleError::NoItem { id: format!("number {number}") })
    }

    /// Stores an answer whose places are those that the annotator was shown. It is on disk when this returns.
    ///
    /// `key` identifies the request: the same answer sent again, after a connection that broke, is stored
    /// once. Returns `false` for such a repetition.
    ///
    /// # Errors
    /// [`PeopleError::Answer`], [`PeopleError::Answered`] for an item with an answer of another key,
    /// [`PeopleError::NotGiven`] for an item that [`Study::next`] has not given to the annotator,
    /// [`PeopleError::NoItem`], [`PeopleError::Store`].
    pub fn answer(
        &self,
        annotator: &Annotator,
        number: i64,
        key: &str,
        answer: PeopleAnswer,
    ) -> Result<bool, PeopleError> {
        check_key(key)?;
        let item = self.item(number)?;
        answer.check(item.responses.len()).map_err(PeopleError::Answer)?;
        self.settings.check_answer(&answer).map_err(PeopleError::Answer)?;
        let order = item.order(self.settings.seed, annotator.number.cast_unsigned());
        let answer = answer.in_study_order(&order);
        self.write("write an answer to", |transaction| {
            let own = annotator.number;
            let known: Option<(i64, String)> = transaction
                .prepare("SELECT item, key FROM history WHERE annotator = ? AND key = ?")?
                .query_row(params![own, key], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            if known.is_some() {
                return Ok(Ok(false));
            }
            let answered: bool = transaction
                .prepare("SELECT EXISTS (SELECT 1 FROM answers WHERE annotator = ? AND item = ?)")?
                .query_row([own, number], |row| row.get(0))?;
            if answered {
                return Ok(Err(PeopleError::Answered { id: item.id.clone() }));
            }
            if !transaction.prepare(GIVEN)?.query_row([own, number], |row| row.get(0))? {
                return Ok(Err(PeopleError::NotGiven { number }));
            }
            insert(transaction, own, number, &answer, &order, now_ms(), key)?;
            transaction
                .prepare("DELETE FROM drafts WHERE annotator = ? AND item = ?")?
                .execute([own, number])?;
            Ok(Ok(true))
        })
    }

    /// Counts the annotator's items.
    ///
    /// # Errors
    /// [`PeopleError::Store`].
    pub fn progress(&self, annotator: &Annotator) -> Result<StudyProgress, PeopleError> {
        let own = annotator.number;
        self.read(|connection| {
            let count = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
                connection
                    .prepare(&format!("SELECT count(*) FROM ({sql})"))?
                    .query_row(values, |row| row.get::<_, i64>(0))
            };
            let done = count("SELECT 1 FROM answers WHERE annotator = ?1", &[&own])?;
            let left = match annotator.role {
                AnnotatorRole::Referee => count(&format!("{CONFLICTS} {NOT_OWN}"), &[&own])?,
                AnnotatorRole::Annotator | AnnotatorRole::Judge => {
                    let plain = count(PLAIN, &[&own, &(now_ms() - CLAIM_MS)])?;
                    plain + if self.settings.known_every > 0 { count(KNOWN, &[&own])? } else { 0 }
                }
            };
            Ok(StudyProgress { done, left })
        })
    }

    /// The answers of others to an item, for a referee: notes and choices without names, in this order of
    /// places.
    ///
    /// # Errors
    /// [`PeopleError::Store`].
    pub fn others(&self, shown: &ShownItem) -> Result<Vec<PeopleAnswer>, PeopleError> {
        let answers: Vec<PeopleAnswer> = self.read(|connection| {
            let mut query = connection.prepare(
                "SELECT a.body FROM answers a JOIN annotators p ON p.number = a.annotator WHERE a.item = ? \
                 AND p.role = 'annotator' ORDER BY a.number",
            )?;
            query.query_map([shown.number], |row| json(row, 0))?.collect()
        })?;
        Ok(answers.into_iter().map(|answer| answer.in_shown_order(&shown.order)).collect())
    }

    /// Number of items in the study.
    ///
    /// # Errors
    /// [`PeopleError::Store`].
    pub fn count_items(&self) -> Result<i64, PeopleError> {
        self.read(|connection| {
            connection.query_row("SELECT count(*) FROM items", [], |row| row.get(0))
        })
    }

    /// Reads the whole study, at one moment.
    ///
    /// # Errors
    /// [`PeopleError::Store`].
    pub fn contents(&self) -> Result<StudyContents, PeopleError> {
        self.write("read", |transaction| {
            let items = transaction
                .prepare("SELECT number, body FROM items ORDER BY number")?
                .query_map([], |row| Ok((row.get(0)?, json(row, 1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            let annotators = transaction
                .prepare("SELECT number, name, role, token FROM annotators ORDER BY number")?
                .query_map([], annotator)?
                .collect::<rusqlite::Result<_>>()?;
            let answers = transaction
                .prepare("SELECT annotator, item, body, shown, at FROM answers ORDER BY number")?
                .query_map([], |row| {
                    Ok(StoredAnswer {
                        annotator: row.get(0)?,
                        item: row.get(1)?,
                        answer: json(row, 2)?,
                        order: json(row, 3)?,
                        at_ms: row.get(4)?,
                    })
                })?
                .collect::<rusqlite::Result<_>>()?;
            let conflicts = transaction
                .prepare(CONFLICTS)?
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let settings = self.settings.clone();
            Ok(Ok(StudyContents { settings, items, annotators, answers, conflicts }))
        })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere leaves no transaction open: dropping one rolls it back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, action: &'static str, source: rusqlite::Error) -> PeopleError {
        PeopleError::Store { action, path: self.path.clone(), source }
    }

    fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, PeopleError> {
        query(&self.lock()).map_err(|source| self.failed("read", source))
    }

    /// A transaction that is committed, and so on disk, if the change succeeds.
    ///
    /// SQLite's log is beside the path: if the file has been moved away, the next one who opens it would not
    /// find what was committed here.
    fn write<T>(
        &self,
        action: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<Result<T, PeopleError>>,
    ) -> Result<T, PeopleError> {
        if FileIdentity::of(&self.path) != self.file {
            return Err(PeopleError::Moved { path: self.path.clone() });
        }
        let failed = |source| self.failed(action, source);
        let mut connection = self.lock();
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let value = change(&transaction).map_err(failed)??;
        transaction.commit().map_err(failed)?;
        Ok(value)
    }
}

/// Checks the key that identifies a request.
fn check_key(key: &str) -> Result<(), PeopleError> {
    match key.len() {
        1..=100 => Ok(()),
        length => {
            let found = format!("{length} bytes long");
            let setting = rlaif_core::BadSetting::new("key", found, "1 to 100 bytes");
            Err(PeopleError::Answer(setting))
        }
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// 128 random bits, in hexadecimal digits.
///
/// # Errors
/// [`PeopleError::Random`].
pub fn random_token() -> Result<String, PeopleError> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|e| PeopleError::Random(e.to_string()))?;
    Ok(rlaif_files::hex(&bytes))
}
