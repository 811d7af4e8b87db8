//! Unfinished answers of the page, and answers that were taken back.

use rusqlite::{OptionalExtension as _, params};

use super::{
    Study, check_key, now_ms,
    records::{Annotator, ShownItem},
    tables::{GIVEN, json, text},
};
use crate::{
    answer::{PeopleAnswer, PeopleDraft},
    error::PeopleError,
    item::StudyItem,
};

impl Study {
    /// Takes back the annotator's last answer, which becomes the item's draft, and returns the item; `None`
    /// without an answer.
    ///
    /// `key` identifies the request: one sent again, after a connection that broke, takes nothing more back, and
    /// returns the same item.
    ///
    /// # Errors
    /// [`PeopleError::Answer`] for a key of another length than 1 to 100 bytes, [`PeopleError::Store`].
    pub fn undo(&self, annotator: &Annotator, key: &str) -> Result<Option<ShownItem>, PeopleError> {
        check_key(key)?;
        let own = annotator.number;
        let undone = self.write("undo an answer in", |transaction| {
            let again: Option<i64> = transaction
                .prepare("SELECT item FROM undos WHERE annotator = ? AND key = ?")?
                .query_row(params![own, key], |row| row.get(0))
                .optional()?;
            if again.is_some() {
                return Ok(Ok(again));
            }
            let last: Option<(i64, i64, PeopleAnswer)> = transaction
                .prepare(
                    "SELECT number, item, body FROM answers WHERE annotator = ? ORDER BY number DESC LIMIT 1",
                )?
                .query_row([own], |row| Ok((row.get(0)?, row.get(1)?, json(row, 2)?)))
                .optional()?;
            let Some((number, item, answer)) = last else { return Ok(Ok(None)) };
            let body: StudyItem = transaction
                .prepare("SELECT body FROM items WHERE number = ?")?
                .query_row([item], |row| json(row, 0))?;
            let shown = answer.in_shown_order(&body.order(self.settings.seed, own.cast_unsigned()));
            transaction.execute("DELETE FROM answers WHERE number = ?", [number])?;
            transaction.execute(
                "UPDATE history SET undone_at = ? WHERE number = ?",
                params![now_ms(), number],
            )?;
            transaction.execute(
                "INSERT OR REPLACE INTO drafts (annotator, item, body) VALUES (?, ?, ?)",
                params![own, item, text(&PeopleDraft::from(shown))?],
            )?;
            let insert = "INSERT INTO undos (annotator, key, item) VALUES (?, ?, ?)";
            transaction.execute(insert, params![own, key, item])?;
            let insert = "INSERT OR IGNORE INTO given (annotator, item) VALUES (?, ?)";
            transaction.execute(insert, [own, item])?;
            Ok(Ok(Some(item)))
        })?;
        undone.map(|item| self.item_for(annotator, item)).transpose()
    }

    /// Saves an unfinished answer of the page.
    ///
    /// # Errors
    /// [`PeopleError::Answer`] for a draft that the page could not show, [`PeopleError::NotGiven`] for an item that
    /// [`Study::next`] has not given to the annotator, [`PeopleError::NoItem`], [`PeopleError::Store`].
    pub fn save_draft(
        &self,
        annotator: &Annotator,
        number: i64,
        draft: &PeopleDraft,
    ) -> Result<(), PeopleError> {
        let item = self.item(number)?;
        draft.check(item.responses.len()).map_err(PeopleError::Answer)?;
        self.settings.check_draft(draft).map_err(PeopleError::Answer)?;
        self.write("save a draft in", |transaction| {
            let own = annotator.number;
            if !transaction.prepare(GIVEN)?.query_row([own, number], |row| row.get(0))? {
                return Ok(Err(PeopleError::NotGiven { number }));
            }
            // A draft that arrives behind its answer is late, not new.
            transaction
                .prepare(
                    "INSERT OR REPLACE INTO drafts (annotator, item, body) SELECT ?1, ?2, ?3 WHERE NOT \
                     EXISTS (SELECT 1 FROM answers WHERE annotator = ?1 AND item = ?2)",
                )?
                .execute(params![own, number, text(draft)?])?;
            Ok(Ok(()))
        })
    }
}
