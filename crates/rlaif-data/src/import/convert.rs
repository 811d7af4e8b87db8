//! Conversion of parsed rows to the records that algorithms learn from.

use std::marker::PhantomData;

use rlaif_core::{
    ConversationRow, DemonstrationRow, Desirability, LabelledRow, PairRow, PromptRow, Step,
    StepsRow, TextOrMessages, UnpairedRow,
};

use super::form::RowForm;
use super::given::content;
use super::options::{Import, Ranked, Unusable};
use super::reading::{Content, Given, NO_ANSWER, Nothing, SAME, TIE};
use super::value::last_answer;
use crate::corpora::{Corpus, Outcome};
use crate::dataset::Dataset;
use crate::error::DataError;
use crate::read::Reader;
use crate::row::{Row, content_id};

const EMPTY: &str = "an empty response";
const NO_PROMPT: &str = "no prompt";

/// Rows of a form as records of type `T`, possibly several of each.
pub(super) struct Making<T> {
    import: Import,
    made: PhantomData<fn() -> T>,
}

impl<T> Making<T> {
    pub(super) fn new(import: Import) -> Self {
        Self { import, made: PhantomData }
    }
}

impl<T: Made> Corpus for Making<T> {
    type Record = Vec<T>;

    fn name(&self) -> String {
        self.import.form.name().to_owned()
    }

    fn record(&self, mut row: Row<'_>) -> Result<Outcome<Vec<T>>, DataError> {
        let columns = &self.import.columns;
        row.rename(&columns.renamed)?;
        columns.needed.iter().try_for_each(|column| row.expect(column))?;
        let id = columns.id.as_deref().map(|column| row.identity(Some(column), &[])).transpose()?;
        let made = content(&self.import, &mut row)
            .and_then(|content| T::make(content, &self.import).map_err(Nothing::Dropped));
        match made {
            Ok(mut made) => {
                // If a row gives several records, each has an id of its own.
                if let (Some(id), [only]) = (id, made.as_mut_slice()) {
                    only.set_id(id);
                }
                Ok(Outcome::Kept(made))
            }
            Err(Nothing::Dropped(reason)) => Ok(Outcome::Dropped(reason)),
            Err(Nothing::Failed(error)) => Err(error),
        }
    }
}

/// Kinds of records that rows can become.
pub trait Made: Sized + Send + 'static {
    /// `true` if rows of a form give this kind.
    #[doc(hidden)]
    fn of_form(form: RowForm) -> bool;
    /// Makes the records of one row, or gives the reason for none.
    #[doc(hidden)]
    fn make(content: Content, import: &Import) -> Result<Vec<Self>, &'static str>;
    /// Sets a record's id to that of its row.
    #[doc(hidden)]
    fn set_id(&mut self, id: String);
    /// Reads the rows of a file.
    #[doc(hidden)]
    fn read(
        import: &Import,
        reader: Reader,
        name: &'static str,
    ) -> Result<Dataset<Self>, DataError> {
        import.read(reader, name)
    }
}

fn id(texts: &[&TextOrMessages]) -> String {
    let parts: Vec<_> = texts.iter().flat_map(|text| text.content_parts()).collect();
    let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
    content_id(&parts)
}

fn checked(
    import: &Import,
    prompt: &TextOrMessages,
    responses: &[&TextOrMessages],
) -> Result<(), &'static str> {
    if matches!(prompt, TextOrMessages::Messages(messages) if messages.is_empty()) {
        return Err(NO_PROMPT);
    }
    let texts_too = import.options.unusable == Unusable::LeftOut;
    let counts = |said: &TextOrMessages| texts_too || matches!(said, TextOrMessages::Messages(_));
    if responses.iter().any(|response| response.is_blank() && counts(response)) {
        return Err(EMPTY);
    }
    Ok(())
}

/// The answers sorted, best first.
fn sorted(mut answers: Vec<(TextOrMessages, f64)>) -> Vec<(TextOrMessages, f64)> {
    answers.retain(|(answer, _)| !answer.is_blank());
    answers.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    answers
}

impl Made for PairRow {
    fn set_id(&mut self, id: String) {
        self.id = id;
    }

    fn read(
        import: &Import,
        reader: Reader,
        name: &'static str,
    ) -> Result<Dataset<Self>, DataError> {
        if import.form == RowForm::HelpSteer2 {
            return Ok(neighbours(import.read(reader, name)?));
        }
        import.read(reader, name)
    }

    fn of_form(form: RowForm) -> bool {
        use RowForm as F;
        match form {
            F::Hh
            | F::UltraFeedback
            | F::UltraFeedbackResponses
            | F::HelpSteer2
            | F::HelpSteer2Preference
            | F::HelpSteer3
            | F::SafeRlhf
            | F::ArenaCsv
            | F::Arena
            | F::Nectar
            | F::Shp
            | F::SummaryComparison
            | F::PrometheusPreference
            | F::OrcaPairs
            | F::AlpacaPairs
            | F::ShareGptPairs
            | F::Preference
            | F::ImplicitPreference => true,
            F::SummaryAxes
            | F::PrometheusFeedback
            | F::Steps
            | F::Unpaired
            | F::PromptCompletion
            | F::ShareGpt
            | F::Messages
            | F::Dapo
            | F::Gsm8k
            | F::Math
            | F::Alpaca
            | F::Text
            | F::Prompt => false,
        }
    }

    fn make(content: Content, import: &Import) -> Result<Vec<Self>, &'static str> {
        let Content { given, chat, margin, metadata, .. } = content;
        match given {
            Given::Compared { prompt, chosen, rejected } => {
                checked(import, &prompt, &[&chosen, &rejected])?;
                if chosen == rejected && import.options.unusable == Unusable::LeftOut {
                    return Err(SAME);
                }
                let id = id(&[&prompt, &chosen, &rejected]);
                Ok(vec![Self { id, prompt, chosen, rejected, margin, chat, metadata }])
            }
            Given::Ranked { prompt, answers } => {
                let answers = sorted(answers);
                if answers.len() < 2 {
                    return Err(NO_ANSWER);
                }
                let last = answers.len() - 1;
                let all = || (0..=last).flat_map(|a| (a + 1..=last).map(move |b| (a, b)));
                let pairs: Vec<(usize, usize)> = match import.options.ranked {
                    Ranked::BestAndWorst => vec![(0, last)],
                    Ranked::BestAndOthers => (1..=last).map(|b| (0, b)).collect(),
                    Ranked::All => all().collect(),
                };
                let pairs: Vec<Self> = pairs
                    .into_iter()
                    .filter(|&(a, b)| answers[a].1 > answers[b].1 && answers[a].0 != answers[b].0)
                    .map(|(a, b)| {
                        let ((chosen, best), (rejected, worst)) =
                            (answers[a].clone(), answers[b].clone());
                        let mut metadata = metadata.clone();
                        metadata.insert("score_chosen".to_owned(), best.into());
                        metadata.insert("score_rejected".to_owned(), worst.into());
                        let (prompt, chat) = (prompt.clone(), chat.clone());
                        let id = id(&[&prompt, &chosen, &rejected]);
                        Self { id, prompt, chosen, rejected, margin: None, chat, metadata }
                    })
                    .collect();
                if pairs.is_empty() { Err(TIE) } else { Ok(pairs) }
            }
            Given::Labelled { .. }
            | Given::Unpaired { .. }
            | Given::Answered { .. }
            | Given::Problem { .. }
            | Given::Whole(_)
            | Given::Steps { .. }
            | Given::Prompt(_) => Err(NO_ANSWER),
        }
    }
}

impl Made for DemonstrationRow {
    fn set_id(&mut self, id: String) {
        self.id = id;
    }

    fn of_form(form: RowForm) -> bool {
        !matches!(form, RowForm::Steps | RowForm::Prompt | RowForm::Text | RowForm::Dapo)
    }

    fn make(content: Content, import: &Import) -> Result<Vec<Self>, &'static str> {
        let (prompt, response) = match content.given {
            Given::Compared { prompt, chosen, .. } => (prompt, chosen),
            Given::Ranked { prompt, answers } => {
                let best = sorted(answers).into_iter().next().ok_or(NO_ANSWER)?;
                (prompt, best.0)
            }
            Given::Labelled { prompt, response, .. } | Given::Answered { prompt, response } => {
                (prompt, response)
            }
            Given::Unpaired { desirable: false, .. } => return Err("an undesirable response"),
            Given::Unpaired { prompt, response, .. } => (prompt, response),
            Given::Whole(TextOrMessages::Messages(messages)) => {
                let (asked, said) = last_answer(&messages).ok_or(NO_ANSWER)?;
                (asked.into(), said.into())
            }
            Given::Problem { prompt, solution: Some(solution), .. } => (prompt, solution.into()),
            Given::Problem { solution: None, .. }
            | Given::Whole(_)
            | Given::Steps { .. }
            | Given::Prompt(_) => return Err(NO_ANSWER),
        };
        checked(import, &prompt, &[&response])?;
        let id = id(&[&prompt, &response]);
        Ok(vec![Self { id, prompt, response, chat: content.chat }])
    }
}

impl Made for ConversationRow {
    fn set_id(&mut self, id: String) {
        self.id = id;
    }

    fn of_form(form: RowForm) -> bool {
        !matches!(form, RowForm::Steps | RowForm::Prompt | RowForm::Dapo)
    }

    fn make(content: Content, import: &Import) -> Result<Vec<Self>, &'static str> {
        if let Given::Whole(conversation) = content.given {
            if conversation.is_blank() {
                return Err("an empty text");
            }
            if let TextOrMessages::Messages(messages) = &conversation
                && !messages.iter().any(|message| {
                    let empty = message.content.trim().is_empty() && message.more.is_empty();
                    message.role == "assistant" && !empty
                })
            {
                return Err("the assistant says nothing");
            }
            let id = id(&[&conversation]);
            return Ok(vec![Self { id, conversation, chat: content.chat }]);
        }
        let rows = DemonstrationRow::make(content, import)?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let conversation = match (row.prompt, row.response) {
                    (TextOrMessages::Text(prompt), TextOrMessages::Text(response)) => {
                        format!("{prompt}{response}").into()
                    }
                    (prompt, response) => {
                        let mut whole = prompt.into_messages("user");
                        whole.extend(response.into_messages("assistant"));
                        whole.into()
                    }
                };
                Self { id: row.id, conversation, chat: row.chat }
            })
            .collect())
    }
}

impl Made for PromptRow {
    fn set_id(&mut self, id: String) {
        self.id = id;
    }

    fn of_form(form: RowForm) -> bool {
        form != RowForm::Text
    }

    fn make(content: Content, import: &Import) -> Result<Vec<Self>, &'static str> {
        let Content { given, chat, metadata, reference: named, .. } = content;
        let (prompt, reference) = match given {
            Given::Compared { prompt, chosen, .. } => (prompt, Some(chosen)),
            Given::Ranked { prompt, answers } => {
                let best = sorted(answers).into_iter().next();
                (prompt, best.map(|(answer, _)| answer))
            }
            Given::Labelled { prompt, response, .. } | Given::Answered { prompt, response } => {
                (prompt, Some(response))
            }
            Given::Unpaired { prompt, response, desirable } => {
                (prompt, desirable.then_some(response))
            }
            Given::Problem { prompt, answer, .. } => {
                let answer = answer.filter(|answer| !answer.trim().is_empty());
                (prompt, answer.map(Into::into))
            }
            Given::Whole(TextOrMessages::Messages(messages)) => {
                let (asked, said) = last_answer(&messages).ok_or(NO_ANSWER)?;
                (asked.into(), Some(said.into()))
            }
            Given::Whole(TextOrMessages::Text(_)) => return Err(NO_PROMPT),
            Given::Steps { prompt, .. } => (prompt.into(), None),
            Given::Prompt(prompt) => (prompt, None),
        };
        if prompt.is_blank() {
            return Err(NO_PROMPT);
        }
        let reference = reference.map(|reference| match reference {
            TextOrMessages::Text(text) => text,
            TextOrMessages::Messages(messages) => {
                messages.into_iter().next().map(|message| message.content).unwrap_or_default()
            }
        });
        let id = id(&[&prompt]);
        let reference = if import.columns.reference.is_some() { named } else { reference };
        Ok(vec![Self { id, prompt, reference, chat, metadata }])
    }
}

impl Made for UnpairedRow {
    fn set_id(&mut self, id: String) {
        self.id = id;
    }

    fn of_form(form: RowForm) -> bool {
        form == RowForm::Unpaired || PairRow::of_form(form) && form != RowForm::HelpSteer2
    }

    fn make(content: Content, import: &Import) -> Result<Vec<Self>, &'static str> {
        let Given::Unpaired { prompt, response, desirable } = content.given else {
            let pairs = PairRow::make(content, import)?;
            return Ok(pairs.into_iter().flat_map(PairRow::into_unpaired).collect());
        };
        checked(import, &prompt, &[&response])?;
        let id = id(&[&prompt, &response]);
        let desirability =
            if desirable { Desirability::Desirable } else { Desirability::Undesirable };
        Ok(vec![Self { id, prompt, response, desirability, chat: content.chat }])
    }
}

impl Made for LabelledRow {
    fn set_id(&mut self, id: String) {
        self.id = id;
    }

    fn of_form(form: RowForm) -> bool {
        use RowForm as F;
        matches!(
            form,
            F::HelpSteer2 | F::SummaryAxes | F::PrometheusFeedback | F::UltraFeedback | F::Nectar
        )
    }

    fn make(content: Content, import: &Import) -> Result<Vec<Self>, &'static str> {
        let Content { given, chat, .. } = content;
        let row = |prompt: TextOrMessages, response, scores| {
            checked(import, &prompt, &[&response])?;
            let id = id(&[&prompt, &response]);
            Ok(Self { id, prompt, response, scores, chat: chat.clone() })
        };
        match given {
            Given::Labelled { prompt, response, scores } => {
                Ok(vec![row(prompt, response, scores)?])
            }
            Given::Ranked { prompt, answers } => answers
                .into_iter()
                .filter(|(answer, _)| !answer.is_blank())
                .map(|(answer, score)| {
                    row(prompt.clone(), answer, [("score".to_owned(), score)].into())
                })
                .collect(),
            Given::Compared { .. }
            | Given::Unpaired { .. }
            | Given::Answered { .. }
            | Given::Problem { .. }
            | Given::Whole(_)
            | Given::Steps { .. }
            | Given::Prompt(_) => Err("no score"),
        }
    }
}

impl Made for StepsRow {
    fn set_id(&mut self, id: String) {
        self.id = id;
    }

    fn of_form(form: RowForm) -> bool {
        form == RowForm::Steps
    }

    fn make(content: Content, _: &Import) -> Result<Vec<Self>, &'static str> {
        let Given::Steps { prompt, steps, labels } = content.given else {
            return Err(NO_ANSWER);
        };
        if steps.is_empty() {
            return Err("no step");
        }
        let parts: Vec<&str> = [&prompt].into_iter().chain(&steps).map(String::as_str).collect();
        Ok(vec![Self { id: content_id(&parts), prompt, steps, labels }])
    }
}

/// Pairs of adjacent rows that answer one prompt; the more helpful one is chosen.
fn neighbours(rows: Dataset<LabelledRow>) -> Dataset<PairRow> {
    let mut provenance = rows.provenance().clone();
    let mut step = Step {
        operation: "pair neighbouring rows of one prompt by `helpfulness`".to_owned(),
        ..Step::default()
    };
    let mut drop = |reason: &str| *step.dropped.entry(reason.to_owned()).or_default() += 1;
    let mut pairs = Vec::new();
    let mut rows = rows.into_records().into_iter().peekable();
    while let Some(first) = rows.next() {
        let Some(second) = rows.next_if(|second| second.prompt == first.prompt) else {
            drop("a prompt with one response");
            continue;
        };
        let helpful = |row: &LabelledRow| row.scores.get("helpfulness").copied();
        let (a, b) = (helpful(&first), helpful(&second));
        let (chosen, rejected) = match a.partial_cmp(&b) {
            Some(std::cmp::Ordering::Greater) => (first, second),
            Some(std::cmp::Ordering::Less) => (second, first),
            _ => {
                drop(TIE);
                continue;
            }
        };
        if chosen.response == rejected.response {
            drop(SAME);
            continue;
        }
        let metadata = [("score_chosen", &chosen), ("score_rejected", &rejected)]
            .into_iter()
            .map(|(name, row)| (name.to_owned(), helpful(row).into()))
            .collect();
        pairs.push(PairRow {
            id: id(&[&chosen.prompt, &chosen.response, &rejected.response]),
            prompt: chosen.prompt,
            chosen: chosen.response,
            rejected: rejected.response,
            margin: None,
            chat: chosen.chat,
            metadata,
        });
    }
    step.kept = pairs.len() as u64;
    provenance.steps.push(step);
    Dataset::new(pairs, provenance)
}
