//! Reads JSON Lines and writes verdicts, for any reward.

use std::io::{BufRead, Write};
use std::ops::ControlFlow;

use rlaif_core::{
    CodecError, Exchange, Message, Metadata, PromptRecord, Rendering, RewardModel, Sample, Score,
    Scores, TextOrMessages, Unread,
    python_json::{self, LineError},
};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::ProviderError;

/// Number of rows scored together, for rewards that return nothing before the end of a batch.
const AT_ONCE: usize = 4_096;

/// Counts of rows by their outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Rows with a score.
    pub scored: usize,
    /// Rows without a score.
    pub missing: usize,
    /// The reason of the first row without a score, of those that were counted.
    pub first_missing: Option<String>,
}

impl Counted {
    /// Counts one more row.
    pub fn add(&mut self, verdict: &RowVerdict) {
        match verdict {
            RowVerdict::Scored { .. } => self.scored += 1,
            RowVerdict::Missing { reason, .. } => {
                self.missing += 1;
                self.first_missing.get_or_insert_with(|| reason.clone());
            }
        }
    }
}

/// The verdict on a row, as written: `{"score", "parts"}` or `{"score": null, "reason"}`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum RowVerdict {
    /// A score and its parts; a part without a score is null.
    Scored {
        /// The score.
        #[serde(serialize_with = "shortest")]
        score: Score,
        /// The parts by name.
        parts: Map<String, Value>,
    },
    /// No score.
    Missing {
        /// Always null.
        score: (),
        /// The reason.
        reason: String,
    },
}

/// Converts through the shortest decimal of the f32, so that 4.2 is not written as
/// 4.199999809265137.
fn number(score: Score) -> f64 {
    score.get().to_string().parse().unwrap_or_else(|_| f64::from(score.get()))
}

fn shortest<S: Serializer>(score: &Score, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(number(*score))
}

impl RowVerdict {
    /// The verdict in scores of one row.
    fn of(scores: &Scores) -> Self {
        let Some(score) = scores.total.first().copied().flatten() else {
            let reason = scores.reasons.first().map(|(_, reason)| reason.clone());
            let reason = reason.unwrap_or_else(|| "no verdict".to_owned());
            return Self::Missing { score: (), reason };
        };
        let part = |(name, column): &(String, Vec<Option<Score>>)| {
            let value = column.first().copied().flatten().map(number);
            (name.clone(), value.map_or(Value::Null, Value::from))
        };
        Self::Scored { score, parts: scores.parts.iter().map(part).collect() }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "ReadRow")]
struct Row {
    prompt: TextOrMessages,
    response: TextOrMessages,
    reference: Option<String>,
    metadata: Metadata,
    /// Other columns.
    more: Metadata,
}

/// A row in files: texts, messages, or a conversation whose last turn is the response.
#[derive(Deserialize)]
#[serde(expecting = "a JSON object")]
struct ReadRow {
    prompt: Option<TextOrMessages>,
    #[serde(alias = "completion")]
    response: Option<TextOrMessages>,
    messages: Option<Vec<Message>>,
    reference: Option<String>,
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(flatten)]
    more: Metadata,
}

impl TryFrom<ReadRow> for Row {
    type Error = &'static str;

    fn try_from(row: ReadRow) -> Result<Self, &'static str> {
        let ReadRow { prompt, response, messages, reference, metadata, more } = row;
        let metadata = metadata.unwrap_or_default();
        let (prompt, response) = match (prompt, response, messages) {
            (Some(prompt), Some(response), _) => (prompt, response),
            (None, None, Some(mut messages)) => {
                let last = messages.pop().ok_or("`messages` has no message")?;
                if ["user", "system", "developer"].contains(&&*last.role) {
                    return Err(
                        "the last of `messages` is not a response; expected the assistant's turn",
                    );
                }
                (messages.into(), vec![last].into())
            }
            (None, _, _) => return Err("missing field `prompt`"),
            (Some(_), None, _) => return Err("missing field `response`"),
        };
        let empty =
            |said: &TextOrMessages| matches!(said, TextOrMessages::Messages(m) if m.is_empty());
        if empty(&prompt) || empty(&response) {
            return Err("a list of messages is empty");
        }
        Ok(Self { prompt, response, reference, metadata, more })
    }
}

impl Row {
    /// The row as rewards read it: a judge reads text, not the special tokens of a chat template.
    /// Columns that the reward needs become metadata.
    fn sample(self, how: &Rendering, columns: &[String]) -> Result<Sample, CodecError> {
        let Self { prompt, response, reference, mut metadata, mut more } = self;
        // For a chat template, which only the reward knows.
        let of_templates = ["tools", "chat_template_kwargs"];
        for column in columns.iter().map(String::as_str).chain(of_templates) {
            let value = more.remove(column).filter(|value| !value.is_null());
            if let (Some(value), false) = (value, metadata.contains_key(column)) {
                metadata.insert(column.to_owned(), value);
            }
        }
        // The id is not needed: verdicts are in the order of the rows.
        let record = PromptRecord::asked("", prompt).asked_by(how)?;
        let record = PromptRecord { reference, metadata, ..record };
        Ok(Sample { record, response: response.into() })
    }
}

/// Scores rows `{"prompt", "response"}`, optionally with `"reference"` and `"metadata"`, or
/// `{"messages"}`, whose last turn is the response; prompts and responses may be messages. Writes
/// one row `{"score", "parts"}` or `{"score": null, "reason"}` for each, in order, as soon as the
/// verdicts up to this row exist.
///
/// Blank lines and a byte-order mark are skipped; other keys are ignored. All rows are read before
/// the first one is scored, so that a faulty row costs nothing.
///
/// ```
/// use rlaif_rewards::{Length, score_rows};
/// let rows = r#"{"prompt": "Greet me.", "response": "Good morning to you!"}"#;
/// let mut verdicts = Vec::new();
/// let counted = score_rows(&Length::at_most(2, 1.)?, rows.as_bytes(), &mut verdicts)?;
/// assert_eq!((counted.scored, counted.missing), (1, 0));
/// assert_eq!(String::from_utf8(verdicts)?, "{\"score\":-2.0,\"parts\":{}}\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`ProviderError::Row`] and [`ProviderError::NotUtf8`] with the line of a faulty row;
/// [`ProviderError::Reward`] when no row can be scored; [`ProviderError::Stream`].
pub fn score_rows(
    reward: &dyn RewardModel,
    reader: impl BufRead,
    writer: impl Write,
) -> Result<Counted, ProviderError> {
    score_in_order(reward, &read_rows(reader, &Rendering::default(), &[])?.rows, writer)
}

/// The same for rows that were already read.
///
/// # Errors
/// [`ProviderError::Reward`] when no row can be scored; [`ProviderError::Stream`].
pub fn score_in_order(
    reward: &dyn RewardModel,
    rows: &[Sample],
    mut writer: impl Write,
) -> Result<Counted, ProviderError> {
    let failed = |source| ProviderError::Stream { action: "write the verdicts", source };
    let mut counted = Counted::default();
    let mut waiting: Vec<Option<RowVerdict>> = vec![None; rows.len()];
    let mut written = 0;
    let all: Vec<usize> = (0..rows.len()).collect();
    score_each_row(reward, rows, &all, &mut |row, verdict| {
        counted.add(&verdict);
        waiting[row] = Some(verdict);
        let mut lines = Vec::new();
        while let Some(verdict) = waiting.get_mut(written).and_then(Option::take) {
            written += 1;
            serde_json::to_writer(&mut lines, &verdict).map_err(|error| failed(error.into()))?;
            lines.push(b'\n');
        }
        writer.write_all(&lines).and_then(|()| writer.flush()).map_err(failed)
    })?;
    Ok(counted)
}

/// Scores the rows at these indices, and passes each verdict on as soon as it exists, in any order.
/// An error of `tell` stops the work.
///
/// # Errors
/// [`ProviderError::Reward`] when no row can be scored; the error of `tell`.
pub fn score_each_row(
    reward: &dyn RewardModel,
    rows: &[Sample],
    places: &[usize],
    tell: &mut dyn FnMut(usize, RowVerdict) -> Result<(), ProviderError>,
) -> Result<(), ProviderError> {
    for chunk in places.chunks(AT_ONCE) {
        let batch: Vec<Exchange<'_>> = chunk.iter().map(|&row| rows[row].exchange()).collect();
        let mut failure = None;
        let scored = reward.score_each(&batch, &mut |at, scores| match tell(
            chunk[at],
            RowVerdict::of(&scores),
        ) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failure.get_or_insert(error);
                ControlFlow::Break(())
            }
        });
        failure.map_or(Ok(()), Err)?;
        scored.map_err(|error| {
            error.among(chunk).in_row(|row| match rows.get(row) {
                Some(Sample { record, .. }) if !record.id.is_empty() => record.place(),
                Some(Sample { record, .. }) => format!("row {}, {}", row + 1, record.place()),
                None => format!("row {}", row + 1),
            })
        })?;
    }
    Ok(())
}

/// Rows as rewards read them.
#[derive(Debug, Clone, Default)]
pub struct ReadRows {
    /// The rows.
    pub rows: Vec<Sample>,
    /// Contents of messages that the text of the rows leaves out.
    pub unread: Unread,
}

/// Reads rows `{"prompt", "response"}`, with `"reference"` and `"metadata"` where there are any. Blank
/// lines and a byte-order mark are passed over. `how` says whether a prompt that is a text is put into a
/// template or is what the user says, and which system message conversations without one get. `columns`
/// are those that the reward needs ([`RewardConfig::columns`](crate::RewardConfig::columns)).
///
/// # Errors
/// [`ProviderError::Row`] and [`ProviderError::NotUtf8`] with the line of a faulty row;
/// [`ProviderError::Codec`] for a rendering that contradicts itself; [`ProviderError::Stream`].
pub fn read_rows(
    reader: impl BufRead,
    how: &Rendering,
    columns: &[String],
) -> Result<ReadRows, ProviderError> {
    let mut read = ReadRows::default();
    for (at, bytes) in reader.split(b'\n').enumerate() {
        let line = at + 1;
        let bytes =
            bytes.map_err(|source| ProviderError::Stream { action: "read the rows", source })?;
        let row: Option<Row> = python_json::line(&bytes).map_err(|error| match error {
            LineError::NotUtf8(source) => ProviderError::NotUtf8 { line, source },
            LineError::Json(source) => ProviderError::Row { line, source },
        })?;
        let Some(row) = row else { continue };
        read.unread.add([&row.prompt, &row.response]);
        read.rows.push(row.sample(how, columns)?);
    }
    Ok(read)
}
