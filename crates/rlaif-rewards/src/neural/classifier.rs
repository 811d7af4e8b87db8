//! A sequence classifier as a reward.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rlaif_core::{
    BadSetting, ChatOptions, CodecError, Exchange, GenerationPrompt, Message, RewardError,
    RewardModel, Scores, Specials, TextCodec,
};
use rlaif_lm::{Forward, LabelScheme, Padding, SequenceClassifier, TokenBatch};
use rlaif_models::{Classifier, LoadOptions, ModelFiles};
use rlaif_text::HfTokenizer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use super::{
    folder::tokenizer_folder,
    judged::{JudgedTexts, closing_tokens},
};
use crate::ProviderError;

/// The hub id of the RoBERTa classifier of hate speech (Vidgen et al. 2021, arXiv 2012.15761)
/// whose not-hate logit is the usual reward for detoxification.
pub const NOT_HATE_MODEL: &str = "facebook/roberta-hate-speech-dynabench-r4-target";

/// Label of a classifier that is used for the score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum LabelChoice {
    /// The label's index among the logits, from 0.
    Index(usize),
    /// The label's name in config.json.
    Name(String),
}

impl From<&str> for LabelChoice {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<usize> for LabelChoice {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// Score of the chosen label l; z are the logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    /// z_l.
    #[default]
    Logit,
    /// p_l, which is softmax(z)_l, or σ(z_l) for independent labels.
    Probability,
    /// log p_l − log (1 − p_l): z_l − log Σ_{k≠l} exp z_k, or z_l for independent labels.
    LogOdds,
}

/// The part of an exchange that the classifier reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Input {
    /// Only the response: the part that the policy is responsible for. A response that is too long
    /// loses its end.
    #[default]
    Response,
    /// Prompt, separator and response as one text. A text that is too long loses its beginning: the
    /// response stands at the end. A reward model with a chat template reads a conversation as
    /// [`Input::Chat`], which is how it was trained on one.
    PromptAndResponse,
    /// Prompt and response as the two texts of a pair; the longer one is truncated first.
    Pair,
    /// The prompt's conversation, or the prompt as a user's turn, and the response as the assistant's,
    /// in the chat template of the model's folder; a response that was given as messages stays as it
    /// is. A list of turns `messages` in the metadata
    /// replaces the prompt; `tools` and `chat_template_kwargs` in it go to the template. A text that is too
    /// long loses its beginning, except for the first token.
    Chat,
}

/// Settings that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// The logit of `nothate` of [`NOT_HATE_MODEL`].
    NotHate,
    /// The probability of `hate` of [`NOT_HATE_MODEL`]: toxicity, as reported.
    Hate,
}

/// Options of a classifier as a reward.
///
/// ```
/// use rlaif_rewards::{ClassifierOptions, Output};
/// let toxicity = ClassifierOptions::new().label("hate").output(Output::Probability);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassifierOptions {
    name: Option<String>,
    label: Option<LabelChoice>,
    output: Output,
    input: Input,
    separator: String,
    chat: ChatOptions,
    max_tokens: Option<usize>,
    batch_size: usize,
    report: Option<Reading>,
}

/// A part of the score that is read from the same logits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reading {
    part: String,
    label: LabelChoice,
    output: Output,
}

impl Default for ClassifierOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ClassifierOptions {
    /// The logit of the only label, for the response without the prompt, 32 rows at a time.
    pub fn new() -> Self {
        Self {
            name: None,
            label: None,
            output: Output::default(),
            input: Input::default(),
            separator: String::new(),
            chat: ChatOptions::default(),
            max_tokens: None,
            batch_size: 32,
            report: None,
        }
    }

    /// The settings of a preset.
    pub fn preset(preset: Preset) -> Self {
        match preset {
            Preset::NotHate => Self::new().name("not-hate").label("nothate"),
            Preset::Hate => Self::new().name("hate").label("hate").output(Output::Probability),
        }
    }

    /// Sets the reward's name in metrics and errors; by default, the label's name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the label. Needed if there are several.
    #[must_use]
    pub fn label(mut self, label: impl Into<LabelChoice>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Sets the score of the label.
    #[must_use]
    pub fn output(mut self, output: Output) -> Self {
        self.output = output;
        self
    }

    /// Sets the part of an exchange that the classifier reads.
    #[must_use]
    pub fn input(mut self, input: Input) -> Self {
        self.input = input;
        self
    }

    /// Sets the text between prompt and response where they are one text; empty by default.
    #[must_use]
    pub fn separator(mut self, separator: impl Into<String>) -> Self {
        self.separator = separator.into();
        self
    }

    /// Sets what the model's chat template gets besides the messages.
    #[must_use]
    pub fn chat(mut self, chat: ChatOptions) -> Self {
        self.chat = chat;
        self
    }

    /// Sets the maximum length of a row, in tokens, special tokens included; by default, the
    /// model's limit.
    #[must_use]
    pub fn max_tokens(mut self, tokens: usize) -> Self {
        self.max_tokens = Some(tokens);
        self
    }

    /// Reports another score from the same logits as a part of each score, under this name; none by
    /// default.
    #[must_use]
    pub fn report(
        mut self,
        part: impl Into<String>,
        label: impl Into<LabelChoice>,
        output: Output,
    ) -> Self {
        self.report = Some(Reading { part: part.into(), label: label.into(), output });
        self
    }

    /// Sets the maximum number of rows that are computed together.
    #[must_use]
    pub fn batch_size(mut self, rows: usize) -> Self {
        self.batch_size = rows;
        self
    }
}

/// A model with its tokenizer.
#[derive(Debug)]
struct Model {
    classifier: Classifier,
    tokenizer: HfTokenizer,
}

/// A sequence classifier, or a reward model with a scalar head, as a reward.
///
/// Rows are computed in batches of similar length, to reduce padding; up to rounding, a row's score
/// does not depend on the other rows of its batch. Texts longer than the model's limit are
/// truncated as [`Input`] says, and counted in the metrics.
///
/// ```
/// # use rlaif_models::{Classifier, Config, SaveOptions};
/// # use serde_json::json;
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_models::LoadOptions;
/// use rlaif_rewards::{ClassifierOptions, ClassifierReward, Output, Preset};
/// # let text = concat!(env!("CARGO_MANIFEST_DIR"), "/../rlaif-text/tests/fixtures/roberta");
/// # let temporary = tempfile::tempdir()?;
/// # let folder = temporary.path().join("model");
/// # let config = Config::from_value(json!({
/// #     "model_type": "roberta", "architectures": ["RobertaForSequenceClassification"],
/// #     "vocab_size": 401, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
/// #     "num_attention_heads": 2, "max_position_embeddings": 34, "type_vocab_size": 1,
/// #     "pad_token_id": 1, "id2label": {"0": "nothate", "1": "hate"},
/// # }));
/// # tch::manual_seed(1);
/// # Classifier::random(config, tch::Kind::Float, tch::Device::Cpu)?
/// #     .save(&folder, &SaveOptions::default())?;
/// # for file in std::fs::read_dir(text)? {
/// #     let file = file?;
/// #     if file.file_name() != "config.json" { std::fs::copy(file.path(), folder.join(file.file_name()))?; }
/// # }
/// let reward =
///     ClassifierReward::load(&folder, LoadOptions::default(), ClassifierOptions::preset(Preset::NotHate))?;
/// let batch = [Exchange::new("Say something.", "I like you.")];
/// let logit = reward.score(&batch)?.total[0].unwrap().get();
///
/// // The same weights, read otherwise.
/// let toxicity = reward.with(ClassifierOptions::preset(Preset::Hate))?;
/// let expected = toxicity.score(&batch)?.total[0].unwrap().get();
/// assert!((0. ..=1.).contains(&expected));
///
/// // Both of one pass.
/// let options =
///     ClassifierOptions::preset(Preset::NotHate).report("toxicity", "hate", Output::Probability);
/// let scores = reward.with(options)?.score(&batch)?;
/// assert_eq!(scores.total[0].unwrap().get(), logit);
/// assert_eq!(scores.parts[0].1[0].unwrap().get(), expected);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ClassifierReward {
    name: String,
    /// Shared by the rewards that read the same weights differently. The mutex allows calls from
    /// several threads: tensors are not `Sync`.
    model: Arc<Mutex<Model>>,
    label: usize,
    /// The label of the reported part, if there is one.
    reported: Option<usize>,
    limit: usize,
    options: ClassifierOptions,
    shortened: AtomicU64,
}

/// One row as the model's input.
struct Sequence {
    ids: Vec<u32>,
    second_start: usize,
    shortened: bool,
    /// The reason why the chat template refuses the row.
    refused: Option<String>,
}

impl ClassifierReward {
    /// Loads the classifier of a folder in Hugging Face's layout, or of an adapter on one, with the
    /// tokenizer in the folder.
    ///
    /// # Errors
    /// [`ProviderError::Model`] and [`ProviderError::Text`] when the folder cannot be read, and as
    /// [`ClassifierReward::new`].
    pub fn load(
        files: impl Into<ModelFiles>,
        load: LoadOptions,
        options: ClassifierOptions,
    ) -> Result<Self, ProviderError> {
        let files = files.into();
        let tokenizer = HfTokenizer::from_folder(tokenizer_folder(&files))?;
        Self::new(files.classifier(load)?, tokenizer, options)
    }

    /// Wraps a classifier in memory.
    ///
    /// # Errors
    /// [`ProviderError::Label`], which lists the labels; [`ProviderError::Setting`] for a setting
    /// that the model does not support; [`ProviderError::Vocabulary`] when the tokenizer belongs to
    /// another model.
    pub fn new(
        classifier: Classifier,
        tokenizer: HfTokenizer,
        options: ClassifierOptions,
    ) -> Result<Self, ProviderError> {
        let (rows, embedding) = (tokenizer.embedding_rows(), classifier.spec().vocab_size);
        if i64::try_from(rows).is_ok_and(|rows| rows > embedding) {
            return Err(ProviderError::Vocabulary {
                tokenizer: tokenizer.name().to_owned(),
                largest: rows - 1,
                rows: embedding,
            });
        }
        Self::of(Arc::new(Mutex::new(Model { classifier, tokenizer })), options)
    }

    /// Creates another reward of the same weights, which stay in memory once.
    ///
    /// # Errors
    /// As [`ClassifierReward::new`].
    pub fn with(&self, options: ClassifierOptions) -> Result<Self, ProviderError> {
        Self::of(Arc::clone(&self.model), options)
    }

    fn of(model: Arc<Mutex<Model>>, options: ClassifierOptions) -> Result<Self, ProviderError> {
        let (label, reported, limit, default_name) = {
            let model = model.lock().unwrap_or_else(PoisonError::into_inner);
            let label = chosen(&model, options.label.as_ref())?;
            let reported = options.report.as_ref();
            let reported =
                reported.map(|reading| chosen(&model, Some(&reading.label))).transpose()?;
            let limit = limit(&model, options.max_tokens)?;
            if options.input == Input::Chat {
                // A faulty template is reported now instead of at the first batch.
                render(&model.tokenizer, &Exchange::new("a", "b"), &options.chat)
                    .map_err(ProviderError::Codec)?;
            }
            (label, reported, limit, model.classifier.labels()[label].clone())
        };
        if options.batch_size == 0 {
            return Err(ProviderError::Setting(BadSetting::new("batch_size", "0", "at least 1")));
        }
        if !options.separator.is_empty() && options.input != Input::PromptAndResponse {
            return Err(ProviderError::Setting(BadSetting::new(
                "separator",
                format!("{:?} with another input", options.separator),
                "used with the input `prompt-and-response`",
            )));
        }
        if !options.chat.is_empty()
            && !matches!(options.input, Input::Chat | Input::PromptAndResponse)
        {
            return Err(ProviderError::Setting(BadSetting::new(
                "chat_template",
                "another input",
                "used with the input `chat` or `prompt-and-response`, as `chat_template_kwargs` is",
            )));
        }
        let name = options.name.clone().unwrap_or(default_name);
        Ok(Self { name, model, label, reported, limit, options, shortened: AtomicU64::new(0) })
    }

    fn failed<E>(&self) -> impl Fn(E) -> RewardError
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let model = self.name.clone();
        move |source| RewardError::Failed { model: model.clone(), source: Box::new(source) }
    }

    fn sequences(
        &self,
        model: &Model,
        batch: &[Exchange<'_>],
    ) -> Result<Vec<Sequence>, RewardError> {
        let tokenizer = &model.tokenizer;
        let closing = match model.classifier.has_token_head() {
            true => closing_tokens(tokenizer).map_err(self.failed())?,
            false => Vec::new(),
        };
        match self.options.input {
            Input::Response | Input::Pair => {
                let pair = self.options.input == Input::Pair;
                let rows: Vec<(&str, Option<&str>)> = batch
                    .iter()
                    .map(|x| if pair { (x.prompt, Some(x.response)) } else { (x.response, None) })
                    .collect();
                let encoded =
                    tokenizer.encode_truncated_batch(&rows, self.limit).map_err(self.failed())?;
                let sequence = |row: rlaif_text::Encoded| {
                    let second = row.type_ids.iter().position(|&t| t == 1);
                    Sequence {
                        second_start: second.unwrap_or(row.ids.len()),
                        ids: row.ids,
                        shortened: row.dropped > 0,
                        refused: None,
                    }
                    .without_end(&closing)
                };
                Ok(encoded.into_iter().map(sequence).collect())
            }
            Input::PromptAndResponse => {
                let joined = |x: &Exchange<'_>| {
                    [x.prompt, self.options.separator.as_str(), x.response].concat()
                };
                let texts: Vec<String> = batch.iter().map(joined).collect();
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                // A model with one label is a reward model, and was trained on texts with an end of
                // sequence, here and in TRL.
                let reward_model = model.classifier.labels().len() == 1;
                let judged = match reward_model && !model.classifier.has_token_head() {
                    true => JudgedTexts::of_reward_model(tokenizer, self.limit),
                    false => JudgedTexts::of_classifier(tokenizer, self.limit),
                };
                let chat = reward_model
                    && self.options.separator.is_empty()
                    && tokenizer.chat_templates().next().is_some();
                let whole =
                    tokenizer.encode_batch(&texts, Specials::Include).map_err(self.failed())?;
                whole
                    .into_iter()
                    .zip(texts)
                    .zip(batch)
                    .map(|((ids, text), exchange)| {
                        if chat && (exchange.messages.is_some() || exchange.said.is_some()) {
                            return self.chat(tokenizer, exchange);
                        }
                        let read = judged.plain(text, ids).map_err(self.failed())?;
                        Ok(Sequence::of(read).without_end(&closing))
                    })
                    .collect()
            }
            Input::Chat => batch.iter().map(|exchange| self.chat(tokenizer, exchange)).collect(),
        }
    }

    /// An exchange as the chat template has it.
    fn chat(
        &self,
        tokenizer: &HfTokenizer,
        exchange: &Exchange<'_>,
    ) -> Result<Sequence, RewardError> {
        let text = match render(tokenizer, exchange, &self.options.chat) {
            Ok(text) => text,
            Err(error @ CodecError::ChatTemplate { .. }) => {
                let refused = Some(error.to_string());
                return Ok(Sequence { refused, ..Sequence::of((Vec::new(), false)) });
            }
            Err(error) => return Err(self.failed()(error)),
        };
        let ids = tokenizer.encode(&text, Specials::Exclude).map_err(self.failed())?;
        let judged = JudgedTexts::of_reward_model(tokenizer, self.limit);
        judged.rendered(ids).map(Sequence::of).map_err(self.failed())
    }

    /// The score of each row, and its reported part, from logits, f32 `[B, 1 or 2]`.
    fn outputs(&self, scheme: LabelScheme, logits: &Tensor) -> Tensor {
        let mut columns = vec![self.options.output.of(self.label, scheme, logits)];
        if let (Some(label), Some(reading)) = (self.reported, &self.options.report) {
            columns.push(reading.output.of(label, scheme, logits));
        }
        Tensor::stack(&columns, 1)
    }
}

impl Output {
    /// One number per row, from logits, f32 `[B]`.
    fn of(self, label: usize, scheme: LabelScheme, logits: &Tensor) -> Tensor {
        let label = label as i64;
        let column = |x: &Tensor| x.select(1, label);
        match (self, scheme) {
            (Self::Logit, _) | (Self::LogOdds, LabelScheme::Independent) => column(logits),
            (Self::Probability, _) => column(&scheme.probabilities(logits)),
            (Self::LogOdds, LabelScheme::Exclusive) => {
                let others = logits.copy();
                let _ = others.select(1, label).fill_(f64::NEG_INFINITY);
                column(logits) - others.logsumexp([1], false)
            }
        }
        .to_kind(Kind::Float)
    }
}

impl Sequence {
    fn of((ids, shortened): (Vec<u32>, bool)) -> Self {
        Self { second_start: ids.len(), ids, shortened, refused: None }
    }

    /// The row without these tokens at its end.
    fn without_end(mut self, closing: &[u32]) -> Self {
        let kept = self.ids.strip_suffix(closing).map_or(self.ids.len(), <[u32]>::len);
        self.ids.truncate(kept);
        self
    }
}

fn chosen(model: &Model, label: Option<&LabelChoice>) -> Result<usize, ProviderError> {
    let known = model.classifier.labels();
    let found = match label {
        None => (known.len() == 1).then_some(0),
        Some(LabelChoice::Index(index)) => (*index < known.len()).then_some(*index),
        Some(LabelChoice::Name(name)) => known.iter().position(|label| label == name),
    };
    found.ok_or_else(|| ProviderError::Label {
        model: model.tokenizer.name().to_owned(),
        found: match label {
            None => "none was chosen".to_owned(),
            Some(LabelChoice::Index(index)) => format!("it has no label {index}"),
            Some(LabelChoice::Name(name)) => format!("it has no label `{name}`"),
        },
        known: known.to_vec(),
    })
}

/// The maximum length of a row, in tokens.
fn limit(model: &Model, asked: Option<usize>) -> Result<usize, ProviderError> {
    let of_model =
        model.classifier.spec().context.into_iter().chain(model.tokenizer.max_length()).min();
    // Two special tokens and one token of text.
    let (least, most) = (3, of_model.unwrap_or(usize::MAX));
    match asked {
        Some(asked) if !(least..=most).contains(&asked) => {
            Err(ProviderError::Setting(BadSetting::new(
                "max_tokens",
                asked,
                match of_model {
                    Some(most) => format!("from {least} to the model's limit, {most}"),
                    None => format!("at least {least}"),
                },
            )))
        }
        Some(asked) => Ok(asked),
        None => Ok(most),
    }
}

fn render(
    tokenizer: &HfTokenizer,
    exchange: &Exchange<'_>,
    chat: &ChatOptions,
) -> Result<String, CodecError> {
    let earlier = exchange.metadata.and_then(|metadata| metadata.get("messages"));
    let earlier: Option<Vec<Message>> =
        earlier.and_then(|messages| serde_json::from_value(messages.clone()).ok());
    let mut messages = earlier
        .or_else(|| exchange.messages.map(<[Message]>::to_vec))
        .unwrap_or_else(|| vec![Message::new("user", exchange.prompt)]);
    match (exchange.said, messages.last_mut()) {
        (Some(said), _) => messages.extend_from_slice(said),
        // The response continued the turn that the prompt ends in.
        (None, Some(Message { role, content, other_content: None, .. })) if role == "assistant" => {
            content.push_str(exchange.response);
        }
        _ => messages.push(Message::new("assistant", exchange.response)),
    }
    let own = exchange.metadata.map(ChatOptions::of_metadata);
    let chat = own.map_or_else(|| chat.clone(), |own| chat.and(&own));
    tokenizer.render_chat_with(&messages, GenerationPrompt::Omit, &chat)
}

impl RewardModel for ClassifierReward {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        let sequences = self.sequences(&model, batch)?;
        let shortened = sequences.iter().filter(|sequence| sequence.shortened).count();
        self.shortened.fetch_add(shortened as u64, Ordering::Relaxed);

        let mut scores = Scores::new(vec![None; batch.len()]);
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.retain(|&row| {
            let empty = sequences[row].ids.is_empty();
            if empty {
                let refused = sequences[row].refused.clone();
                let why = refused.unwrap_or_else(|| "there is no token to read".to_owned());
                scores.reasons.push((row, why));
            }
            !empty
        });
        order.sort_by_key(|&row| sequences[row].ids.len());
        let spec = model.classifier.spec();
        // Results stay on the device until the end: one wait instead of one per batch.
        let mut outputs = Vec::new();
        for rows in order.chunks(self.options.batch_size) {
            RewardError::if_interrupted(&self.name)?;
            let ids = rows.iter().map(|&row| sequences[row].ids.clone()).collect();
            let starts: Vec<usize> = rows.iter().map(|&row| sequences[row].second_start).collect();
            outputs.push(
                no_grad(|| {
                    let input = TokenBatch::collate(ids, spec, Padding::Right)?;
                    let logits =
                        model.classifier.logits(&input, Some(&starts), Forward::default())?;
                    Ok(self.outputs(model.classifier.scheme(), &logits))
                })
                .map_err(self.failed::<rlaif_lm::LmError>())?,
            );
        }
        if outputs.is_empty() {
            return Ok(scores);
        }
        let values = Tensor::cat(&outputs, 0).to_device(tch::Device::Cpu);
        let values = Vec::<Vec<f32>>::try_from(values).map_err(self.failed())?;
        let mut part = vec![None; batch.len()];
        for (row, values) in order.into_iter().zip(values) {
            for (column, value) in [&mut scores.total, &mut part].into_iter().zip(values) {
                let score = rlaif_core::Score::new(value).map_err(|source| {
                    // A label alone does not say which model it is.
                    let model = format!("{} ({})", self.name, model.tokenizer.name());
                    RewardError::non_finite(model, row, source)
                })?;
                column[row] = Some(score);
            }
        }
        if let Some(reading) = &self.options.report {
            scores.parts.push((reading.part.clone(), part));
        }
        Ok(scores)
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        let shortened = self.shortened.load(Ordering::Relaxed);
        vec![(format!("{}/shortened", self.name), shortened as f64)]
    }
}
