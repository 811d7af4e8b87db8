//! Bodies of annotators' requests.

use std::collections::{BTreeMap, BTreeSet};

use rlaif_people::{EditedResponse, PeopleAnswer, PeopleChoice, PeopleDraft};

use crate::fields::{FieldFault, Fields};

/// An answer with places as shown.
#[derive(Debug)]
pub(crate) struct GivenAnswer {
    /// The item's number.
    pub(crate) item: i64,
    /// The key of the request.
    pub(crate) key: String,
    pub(crate) answer: PeopleAnswer,
}

impl GivenAnswer {
    pub(crate) fn read(mut fields: Fields) -> Result<Self, FieldFault> {
        let item = fields.needed("item", "the number of an item")?;
        let key = key(&mut fields)?;
        let expected = "an object with `choice`";
        let Some(mut own) = fields.inner("answer")? else {
            return Err(fields.missing("answer", expected));
        };
        let expected = "first, second, tie, both-bad, skip or ranked";
        let choice: PeopleChoice = own.needed("choice", expected)?;
        let PeopleDraft { strength, facets, reasons, note, edited, ranking, seconds } = parts(own)?;
        fields.end()?;
        let given = PeopleAnswer { strength, facets, reasons, note, ..PeopleAnswer::new(choice) };
        Ok(Self { item, key, answer: PeopleAnswer { edited, ranking, seconds, ..given } })
    }
}

/// The key that identifies a request.
pub(crate) fn key(fields: &mut Fields) -> Result<String, FieldFault> {
    fields.needed("key", "a text that is new for each request")
}

/// A draft with places as shown.
pub(crate) fn draft(fields: Fields) -> Result<PeopleDraft, FieldFault> {
    parts(fields)
}

/// The fields that answers and drafts have in common.
fn parts(mut fields: Fields) -> Result<PeopleDraft, FieldFault> {
    let strength = fields.take("strength", "a whole number from -3 to 3")?;
    let expected = "an object of facets, each with first, second, tie or both-bad";
    let facets: Option<BTreeMap<String, PeopleChoice>> = fields.take("facets", expected)?;
    let reasons: Option<BTreeSet<String>> = fields.take("reasons", "a list of texts")?;
    let note: Option<String> = fields.take("note", "a text")?;
    let edited = match fields.inner("edited")? {
        Some(mut own) => {
            let response = own.needed("response", "the place of a response, from 0")?;
            let text = own.needed("text", "a text")?;
            own.end()?;
            Some(EditedResponse { response, text })
        }
        None => None,
    };
    let ranking: Option<Vec<usize>> = fields.take("ranking", "a list of places, from 0")?;
    let seconds: Option<f64> = fields.take("seconds", "a number of seconds")?;
    fields.end()?;
    Ok(PeopleDraft {
        strength,
        facets: facets.unwrap_or_default(),
        reasons: reasons.unwrap_or_default(),
        note: note.unwrap_or_default(),
        edited,
        ranking: ranking.unwrap_or_default(),
        seconds: seconds.unwrap_or_default(),
    })
}
