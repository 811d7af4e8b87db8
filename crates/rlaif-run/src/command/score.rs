//! `rlaif score`.

use rlaif_core::{ChatOptions, Message, Metadata, Rendering, TextKind, TextOrMessages};
use rlaif_lm::{Forward, Padding, SequenceClassifier, TokenBatch};
use rlaif_models::Classifier;
use rlaif_rewards::{closing_tokens, encode_judged};
use rlaif_text::HfTokenizer;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use tch::no_grad;

use super::{
    error::{CommandError, RowFault},
    log_probs::last_turn,
    matrix::rows_of,
    model::ModelChoice,
    rows::{Job, RowStream, StreamProgress},
    tokenizer::RowTokenizer,
};

/// Logits and probabilities of a sequence classifier or reward model.
#[derive(Debug, Clone, Default)]
pub struct ScoreRows {
    /// The conversion of rows to texts.
    pub how: Rendering,
}

impl ScoreRows {
    /// Writes the logits and probabilities of each row.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn run(self, model: &ModelChoice, rows: RowStream<'_>) -> Result<(), CommandError> {
        let files = model.files()?;
        let classifier = model.classifier(&files)?;
        let tokenizer = RowTokenizer::new(&files, classifier.spec().vocab_size);
        let job = ScoreJob { model: &model.model, classifier, tokenizer, how: self.how };
        rows.run(&job)?;
        job.tokenizer.tell_notices();
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    text: Option<String>,
    text_pair: Option<String>,
    ids: Option<Vec<u32>>,
    prompt: Option<TextOrMessages>,
    #[serde(alias = "completion")]
    response: Option<TextOrMessages>,
    messages: Option<Vec<Message>>,
    #[serde(default, deserialize_with = "ChatOptions::kwargs_field")]
    chat_template_kwargs: Metadata,
    #[serde(default, deserialize_with = "ChatOptions::tools_field")]
    tools: Option<Vec<Value>>,
}

#[derive(Debug, Serialize)]
struct Answer {
    logits: Vec<f32>,
    #[serde(serialize_with = "as_map")]
    probabilities: Vec<(String, f32)>,
}

fn as_map<S: Serializer>(pairs: &[(String, f32)], serializer: S) -> Result<S::Ok, S::Error> {
    // Converted to f64: serde_json writes f32 with fewer digits, and programs read these numbers.
    serializer.collect_map(pairs.iter().map(|(label, value)| (label, f64::from(*value))))
}

/// A sequence, and where its second text starts if it has one.
struct Sequence {
    ids: Vec<u32>,
    second_start: usize,
}

struct ScoreJob<'a> {
    /// As the user named it.
    model: &'a str,
    classifier: Classifier,
    tokenizer: RowTokenizer,
    /// The conversion of rows to texts.
    how: Rendering,
}

impl ScoreJob<'_> {
    fn sequence(&self, row: Row) -> Result<Sequence, RowFault> {
        let Row { ids, text, text_pair, prompt, response, messages, .. } = row;
        let own = ChatOptions {
            kwargs: row.chat_template_kwargs,
            tools: row.tools,
            ..ChatOptions::default()
        };
        match (ids, text, prompt, response, messages) {
            (Some(ids), None, None, None, None) if text_pair.is_none() => {
                let second_start = ids.len();
                Ok(Sequence { ids, second_start })
            }
            (None, None, Some(prompt), Some(response), None) if text_pair.is_none() => {
                self.exchange(&prompt, &response, &own)
            }
            (None, None, None, None, Some(messages)) if text_pair.is_none() => {
                let (prompt, response) = last_turn(messages);
                self.exchange(&prompt, &response, &own)
            }
            (None, Some(text), None, None, None) => {
                let tokenizer = self.tokenizer.of_text()?;
                let encoded = tokenizer
                    .encode_truncated(&text, text_pair.as_deref(), self.limit(tokenizer))
                    .map_err(RowFault::Text)?;
                let second_start = encoded.type_ids.iter().position(|&t| t == 1);
                Ok(Sequence {
                    second_start: second_start.unwrap_or(encoded.ids.len()),
                    ids: self.read(tokenizer, encoded.ids)?,
                })
            }
            _ => Err(RowFault::Fields { expected: Self::FIELDS }),
        }
    }
}

impl ScoreJob<'_> {
    /// The most tokens that the classifier reads of a text.
    fn limit(&self, tokenizer: &HfTokenizer) -> usize {
        let context = self.classifier.spec().context;
        context.into_iter().chain(tokenizer.max_length()).min().unwrap_or(usize::MAX)
    }

    /// The ids of a text without the special tokens at its end, for a head on tokens.
    fn read(&self, tokenizer: &HfTokenizer, mut ids: Vec<u32>) -> Result<Vec<u32>, RowFault> {
        if self.classifier.has_token_head() {
            let closing = closing_tokens(tokenizer).map_err(RowFault::Codec)?;
            let kept = ids.strip_suffix(&closing[..]).map_or(ids.len(), <[u32]>::len);
            ids.truncate(kept);
        }
        Ok(ids)
    }

    /// A prompt with its response, in the format that `rlaif reward` trains on.
    fn exchange(
        &self,
        prompt: &TextOrMessages,
        response: &TextOrMessages,
        own: &ChatOptions,
    ) -> Result<Sequence, RowFault> {
        let tokenizer = self.tokenizer.of_text()?;
        let rendered = self.how.exchange(tokenizer, prompt, &[response], own);
        let (prompt, mut said, kind) = rendered.map_err(RowFault::Codec)?;
        let whole = [prompt, said.pop().unwrap_or_default()].concat();
        let limit = self.limit(tokenizer);
        // A reward model has one label; a classifier reads texts unchanged.
        let is_reward = self.classifier.labels().len() == 1 && !self.classifier.has_token_head();
        let ids = if kind == TextKind::Rendered || is_reward {
            encode_judged(tokenizer, &whole, kind, limit).map_err(RowFault::Codec)?.0
        } else {
            let encoded = tokenizer.encode_truncated(&whole, None, limit);
            self.read(tokenizer, encoded.map_err(RowFault::Text)?.ids)?
        };
        Ok(Sequence { second_start: ids.len(), ids })
    }
}

impl Job for ScoreJob<'_> {
    type Input = Row;
    type Prepared = Sequence;
    type Output = Answer;
    const FIELDS: &'static str =
        "`text` (with `text_pair` for a pair), `ids`, `prompt` and `response`, or `messages`";

    fn prepare(&self, rows: Vec<Row>) -> Vec<Result<Sequence, RowFault>> {
        rows.into_iter()
            .map(|row| {
                let sequence = self.sequence(row)?;
                self.classifier.spec().check(0, &sequence.ids).map_err(RowFault::Lm)?;
                Ok(sequence)
            })
            .collect()
    }

    fn model(&self) -> &str {
        self.model
    }

    fn length(row: &Sequence) -> usize {
        row.ids.len()
    }

    fn compute(
        &self,
        rows: &[&Sequence],
        _: &mut dyn FnMut(StreamProgress),
    ) -> Result<Vec<Answer>, CommandError> {
        let ids = rows.iter().map(|row| row.ids.clone()).collect();
        let batch = TokenBatch::collate(ids, self.classifier.spec(), Padding::Right)?;
        let starts: Vec<usize> = rows.iter().map(|row| row.second_start).collect();
        let logits = no_grad(|| self.classifier.logits(&batch, Some(&starts), Forward::default()))?;
        let probabilities = rows_of(&self.classifier.scheme().probabilities(&logits));
        Ok(rows_of(&logits)
            .into_iter()
            .zip(probabilities)
            .map(|(logits, probabilities)| Answer {
                logits,
                probabilities: self
                    .classifier
                    .labels()
                    .iter()
                    .cloned()
                    .zip(probabilities)
                    .collect(),
            })
            .collect())
    }
}
