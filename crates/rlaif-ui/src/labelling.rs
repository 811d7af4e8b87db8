//! Requests of annotators and of the study's owner.

use std::{path::PathBuf, sync::Arc};

use axum::{
    body::Bytes,
    extract::{Path, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    response::{IntoResponse, Response},
};
use rlaif_core::Responder;
use rlaif_people::{
    Annotator, AnnotatorRole, FoldedTexts, LabelOptions, PeopleError, PeopleLabels, ShownItem,
    Study, StudyAgreement, StudyForm, write_answers,
};
use serde_json::{Value, json};

use crate::{
    error::{Json, Refusal},
    fields::Fields,
    given::{GivenAnswer, draft as draft_of, key},
    late::refused,
    locks::Stopped,
    rewards::Rewards,
    shown::{hidden_pattern, pieces},
};

/// State of all requests.
#[derive(Debug)]
pub(crate) struct App {
    /// The study.
    pub(crate) study: Option<Study>,
    /// The folder of runs.
    pub(crate) runs: Option<PathBuf>,
    /// The models that answer.
    pub(crate) models: Vec<Arc<dyn Responder>>,
    /// The rewards that score responses.
    pub(crate) rewards: Rewards,
    /// The owner's token.
    pub(crate) token: String,
    /// Runs that were asked to stop.
    pub(crate) stopped: Stopped,
}

/// The sender of a request.
#[derive(Debug)]
pub(crate) enum Sender {
    /// The one who started the server.
    Owner,
    /// An annotator or a referee.
    Annotator(Annotator),
}

pub(crate) type Reply = Result<Json, Refusal>;
pub(crate) type Body = Result<Bytes, BytesRejection>;

/// The token of a request: `Authorization: Bearer TOKEN`. A browser never sends it by itself, unlike cookies, so
/// a page of another site cannot act for an annotator.
fn token(headers: &HeaderMap) -> Result<&str, Refusal> {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim).ok_or_else(|| {
        Refusal::new(StatusCode::UNAUTHORIZED, "no token; open the address that `rlaif ui` printed")
    })
}

/// `true` if both are equal; the time does not depend on the place of the first difference.
fn equal(one: &str, other: &str) -> bool {
    let differences = one.bytes().zip(other.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    one.len() == other.len() && differences == 0
}

impl App {
    pub(crate) fn sender(&self, headers: &HeaderMap) -> Result<Sender, Refusal> {
        let token = token(headers)?;
        if equal(token, &self.token) {
            return Ok(Sender::Owner);
        }
        match &self.study {
            Some(study) => Ok(Sender::Annotator(study.annotator_of_token(token)?)),
            None => Err(Refusal::new(StatusCode::UNAUTHORIZED, "the token is not of this server")),
        }
    }

    fn study(&self) -> Result<&Study, Refusal> {
        self.study.as_ref().ok_or_else(|| Refusal::not_found("study; name one: `rlaif ui STUDY`"))
    }

    pub(crate) fn owner(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match self.sender(headers)? {
            Sender::Owner => Ok(()),
            Sender::Annotator(_) => {
                Err(Refusal::new(StatusCode::FORBIDDEN, "this is for the owner of the study alone"))
            }
        }
    }

    fn annotator(&self, headers: &HeaderMap) -> Result<(&Study, Annotator), Refusal> {
        match self.sender(headers)? {
            Sender::Annotator(annotator) => Ok((self.study()?, annotator)),
            Sender::Owner => {
                let reason = "the owner has no items; open an annotator's link";
                Err(Refusal::new(StatusCode::FORBIDDEN, reason))
            }
        }
    }
}

/// Runs work that waits for the disk beside the server's thread.
pub(crate) async fn blocking<T: Send + 'static>(
    app: Arc<App>,
    work: impl FnOnce(&App) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(move || work(&app)).await;
    done.unwrap_or_else(|e| Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())))
}

/// The fields of a body.
pub(crate) fn fields(given: Body) -> Result<Fields, Refusal> {
    let bytes = given.map_err(|error| refused(&error))?;
    Ok(Fields::read(&bytes)?)
}

/// `GET /api/me`.
pub(crate) async fn me(State(app): State<Arc<App>>, headers: HeaderMap) -> Reply {
    blocking(app, move |app| {
        let settings = app.study.as_ref().map(|study| {
            let settings = study.settings();
            json!({
                "title": settings.title, "instructions": settings.instructions,
                "facets": settings.facets, "reasons": settings.reasons, "fold": settings.fold,
            })
        });
        Ok(Json(match app.sender(&headers)? {
            Sender::Owner => {
                let models = app.models.iter();
                let models = models
                    .map(|model| json!({"name": model.name(), "chat": model.has_chat_template()}));
                json!({"role": "owner", "study": settings, "runs": app.runs.is_some(),
                    "models": models.collect::<Vec<_>>(), "rewards": app.rewards.names(),
                    "hidden": hidden_pattern()})
            }
            Sender::Annotator(who) => json!({
                "role": who.role, "name": who.name, "study": settings,
                "progress": app.study()?.progress(&who)?,
            }),
        }))
    })
    .await
}

fn shown(study: &Study, who: &Annotator, item: Option<ShownItem>) -> Result<Value, PeopleError> {
    let progress = study.progress(who)?;
    let Some(shown) = item else { return Ok(json!({"item": null, "progress": progress})) };
    let others = match who.role {
        AnnotatorRole::Referee => study.others(&shown)?,
        AnnotatorRole::Annotator | AnnotatorRole::Judge => Vec::new(),
    };
    let others: Vec<Value> = others
        .into_iter()
        .map(|answer| {
            json!({"choice": answer.choice, "strength": answer.strength,
                "ranking": answer.ranking, "note": pieces(&answer.note)})
        })
        .collect();
    let responses = shown.order.iter().filter_map(|&place| shown.item.responses.get(place));
    let responses: Vec<Vec<String>> = responses.map(|reply| pieces(&reply.text)).collect();
    // Neither makers nor ids nor known answers: they could tell which response is which.
    Ok(json!({
        "item": {
            "number": shown.number,
            "prompt": pieces(&shown.item.prompt.readable()),
            "responses": responses,
            "fold": shown.item.toxic || study.settings().fold == FoldedTexts::All,
            "draft": shown.draft,
            "others": others,
        },
        "progress": progress,
    }))
}

/// `GET /api/next`.
pub(crate) async fn next(State(app): State<Arc<App>>, headers: HeaderMap) -> Reply {
    blocking(app, move |app| {
        let (study, who) = app.annotator(&headers)?;
        Ok(Json(shown(study, &who, study.next(&who)?)?))
    })
    .await
}

/// `POST /api/answer`: stores the answer, and returns the next item.
pub(crate) async fn answer(State(app): State<Arc<App>>, headers: HeaderMap, given: Body) -> Reply {
    blocking(app, move |app| {
        let (study, who) = app.annotator(&headers)?;
        let GivenAnswer { item, key, answer } = GivenAnswer::read(fields(given)?)?;
        let stored = study.answer(&who, item, &key, answer)?;
        let mut reply = shown(study, &who, study.next(&who)?)?;
        reply["stored"] = stored.into();
        Ok(Json(reply))
    })
    .await
}

/// `POST /api/undo`: takes the last answer back, once for each key.
pub(crate) async fn undo(State(app): State<Arc<App>>, headers: HeaderMap, given: Body) -> Reply {
    blocking(app, move |app| {
        let (study, who) = app.annotator(&headers)?;
        let mut given = fields(given)?;
        let key = key(&mut given)?;
        given.end()?;
        let Some(undone) = study.undo(&who, &key)? else {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "there is no answer to undo"));
        };
        Ok(Json(shown(study, &who, Some(undone))?))
    })
    .await
}

/// `PUT /api/draft/ITEM`.
pub(crate) async fn draft(
    State(app): State<Arc<App>>,
    Path(item): Path<String>,
    headers: HeaderMap,
    given: Body,
) -> Reply {
    blocking(app, move |app| {
        let (study, who) = app.annotator(&headers)?;
        let item = item.parse().map_err(|_| Refusal::not_found("such item"))?;
        study.save_draft(&who, item, &draft_of(fields(given)?)?)?;
        Ok(Json(json!({})))
    })
    .await
}

/// `GET /api/study`: those who answer, with their tokens, and their agreement.
pub(crate) async fn overview(State(app): State<Arc<App>>, headers: HeaderMap) -> Reply {
    blocking(app, move |app| {
        app.owner(&headers)?;
        let study = app.study()?;
        let contents = study.contents()?;
        let mut people = Vec::new();
        for who in &contents.annotators {
            let progress = study.progress(who)?;
            people.push(json!({
                "name": who.name, "role": who.role, "token": who.token,
                "done": progress.done, "left": progress.left,
            }));
        }
        Ok(Json(json!({"people": people, "agreement": StudyAgreement::of(&contents)})))
    })
    .await
}

/// `POST /api/annotators`.
pub(crate) async fn add_annotator(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    given: Body,
) -> Reply {
    blocking(app, move |app| {
        app.owner(&headers)?;
        let mut given = fields(given)?;
        let name: String = given.needed("name", "the name of an annotator")?;
        let referee = given.take("referee", "true or false")?.unwrap_or(false);
        given.end()?;
        let role = if referee { AnnotatorRole::Referee } else { AnnotatorRole::Annotator };
        let who = app.study()?.add_annotator(name.trim(), role)?;
        Ok(Json(json!({"name": who.name, "role": who.role, "token": who.token})))
    })
    .await
}

/// The header of an export with the content that its form has no place for.
const LEFT_OUT: &str = "x-left-out";

/// `GET /api/export/FORM`.
pub(crate) async fn export(
    State(app): State<Arc<App>>,
    Path(form): Path<String>,
    headers: HeaderMap,
) -> Response {
    let exported = blocking(app, move |app| {
        app.owner(&headers)?;
        let contents = app.study()?.contents()?;
        let form = match form.as_str() {
            "preferences" => {
                let labels = PeopleLabels::of(&contents, &LabelOptions::default()).labels;
                let text = labels.iter().map(|label| format!("{}\n", json!(label))).collect();
                return Ok((text, contents.beside_preferences()));
            }
            "demonstrations" => {
                let rows = contents.demonstrations();
                let text = rows.iter().map(|row| format!("{}\n", json!(row))).collect::<String>();
                return Ok((text, None));
            }
            "answers" => StudyForm::Answers,
            "label-studio" => StudyForm::LabelStudio,
            "argilla" => StudyForm::Argilla,
            "ground-truth" => StudyForm::GroundTruth,
            _ => return Err(Refusal::not_found("such form")),
        };
        let written = write_answers(&contents, form);
        let left_out = written.left_out();
        Ok((written.text, left_out))
    });
    match exported.await {
        Ok((text, left_out)) => {
            let headers = [
                ("content-type", "application/octet-stream".to_owned()),
                (LEFT_OUT, left_out.unwrap_or_default()),
            ];
            (headers, text).into_response()
        }
        Err(refusal) => refusal.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use rlaif_people::PeopleChoice;

    use super::*;

    #[test]
    fn tokens_are_compared_whole() {
        assert!(equal("abc", "abc"));
        for other in ["", "ab", "abd", "abcd", "xbc"] {
            assert!(!equal("abc", other));
        }
    }

    #[test]
    fn the_page_knows_every_choice() {
        let script = include_str!("assets/label.js");
        for choice in [
            PeopleChoice::First,
            PeopleChoice::Second,
            PeopleChoice::Tie,
            PeopleChoice::BothBad,
            PeopleChoice::Skip,
            PeopleChoice::Ranked,
        ] {
            let name = serde_json::to_string(&choice).unwrap();
            assert!(script.contains(&name), "{name}");
        }
    }
}
