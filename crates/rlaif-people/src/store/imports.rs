//! Answers that come from a file.

use rusqlite::{OptionalExtension as _, params};

use super::{
    Study, now_ms,
    records::{Annotator, ImportedAnswer},
    tables::{insert, json},
};
use crate::{answer::PeopleAnswer, error::PeopleError, item::StudyItem};

impl Study {
    /// Stores answers of another tool or of a judge, whose places are those of the study, all or none. An
    /// answer to an item that this annotator has answered replaces the earlier one.
    ///
    /// # Errors
    /// [`PeopleError::Answer`], [`PeopleError::NoItem`], [`PeopleError::Store`].
    pub fn import_answers(
        &self,
        annotator: &Annotator,
        answers: &[(String, PeopleAnswer)],
    ) -> Result<(), PeopleError> {
        let imported = |(item, answer): &(String, PeopleAnswer)| ImportedAnswer {
            annotator: annotator.number,
            item: item.clone(),
            answer: answer.clone(),
            order: Vec::new(),
            at_ms: None,
        };
        self.import(answers.iter().map(imported).collect())
    }

    /// Stores answers in the order of their times, all or none; those without a time come last, as of now.
    pub(crate) fn import(&self, mut answers: Vec<ImportedAnswer>) -> Result<(), PeopleError> {
        answers.sort_by_key(|one| one.at_ms.unwrap_or(i64::MAX));
        self.write("write answers to", |transaction| {
            for ImportedAnswer { annotator, item: id, answer, order, at_ms } in &answers {
                let found: Option<(i64, StudyItem)> = transaction
                    .prepare("SELECT number, body FROM items WHERE id = ?")?
                    .query_row([id], |row| Ok((row.get(0)?, json(row, 1)?)))
                    .optional()?;
                let Some((number, item)) = found else {
                    return Ok(Err(PeopleError::NoItem { id: format!("`{id}`") }));
                };
                if let Err(setting) = answer.check(item.responses.len()) {
                    return Ok(Err(PeopleError::Answer(setting)));
                }
                transaction
                    .prepare("DELETE FROM answers WHERE annotator = ? AND item = ?")?
                    .execute(params![annotator, number])?;
                let last: i64 = transaction
                    .prepare("SELECT coalesce(max(number), 0) FROM history")?
                    .query_row([], |row| row.get(0))?;
                let (at, key) = (at_ms.unwrap_or_else(now_ms), format!("import after {last}"));
                insert(transaction, *annotator, number, answer, order, at, &key)?;
            }
            Ok(Ok(()))
        })
    }
}
