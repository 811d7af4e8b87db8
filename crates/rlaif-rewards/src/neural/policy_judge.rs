//! A policy of this library as the judge.

use std::collections::HashMap;

use rlaif_core::{
    BadSetting, ChatOptions, Exchange, PromptRecord, RewardError, RewardModel, Scores, Seed,
    Specials, TextCodec,
};
use rlaif_lm::generate::{Ask, GenerationConfig, Sampling};
use rlaif_lm::{Draw, Forward, LmError, Padding, Policy, RowIds, Sampled, TokenBatch};
use tch::{Tensor, no_grad};

use super::asker::PolicyAsker;
use crate::ProviderError;
use crate::rubric::{Answer, AnswerForm, Finish, Judged, Rubric, TokenAlternatives, scores};

/// A policy as the judge: it answers a rubric, and the number is read from its answer. If the
/// rubric asks for an expectation, its probabilities of the numbers of the scale are read instead
/// (direct RLAIF, [Lee et al. 2023](https://arxiv.org/abs/2309.00267)).
///
/// For an expectation, every token of the vocabulary that spells a number counts, with any space
/// around it, so the coverage is exact. Instructions and question are a system's and a user's
/// message if the tokenizer has a chat template, and one text otherwise. Equal rows are asked about
/// once; a row that is too long for the policy has no verdict. In the judged texts, strings that
/// the tokenizer would read as special tokens are broken up, as are the control tokens of other
/// judges.
///
/// ```
/// # use rlaif_models::{Config, LanguageModel};
/// # use rlaif_text::HfTokenizer;
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::neural::PolicyJudge;
/// use rlaif_rewards::rubric::Rubric;
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../rlaif-text/tests/fixtures/chatml");
/// # let codec = HfTokenizer::from_folder(folder)?;
/// # let config = Config::from_value(serde_json::json!({
/// #     "model_type": "llama", "vocab_size": codec.embedding_rows(), "hidden_size": 16,
/// #     "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
/// #     "max_position_embeddings": 2048, "eos_token_id": 1,
/// # }));
/// # tch::manual_seed(7);
/// # let policy = LanguageModel::random(config, tch::Kind::Float, tch::Device::Cpu)?;
/// // A policy and its tokenizer, from wherever.
/// let judge = PolicyJudge::new(Rubric::preset("summary")?.with_min_coverage(1e-6)?, policy, codec)?;
/// let scores = judge.score(&[Exchange::new("A long story.", "A story.")])?;
/// assert!((-1. ..=1.).contains(&scores.total[0].unwrap().get()));
/// assert_eq!(scores.parts[0].0, "coverage");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PolicyJudge {
    name: String,
    rubric: Rubric,
    asker: PolicyAsker,
    generation: GenerationConfig,
    samples: u32,
    seed: Seed,
    numbers: Numbers,
}

/// The tokens that spell a number.
struct Numbers {
    ids: Vec<u32>,
    texts: Vec<String>,
}

/// One question as the policy's input.
struct Prompt {
    ids: Vec<u32>,
    /// A function of the question and the sample only, so that a row's answer does not depend on
    /// the other rows.
    row: u64,
    /// The exchange that the question is about, by its place in the batch.
    about: usize,
}

impl PolicyJudge {
    /// Wraps `policy`, whose text `codec` encodes and decodes; decoding is greedy by default.
    ///
    /// # Errors
    /// [`ProviderError::Codec`] when the tokenizer fails.
    pub fn new(
        rubric: Rubric,
        policy: impl Policy + 'static,
        codec: impl TextCodec + 'static,
    ) -> Result<Self, ProviderError> {
        let generation = GenerationConfig {
            max_new_tokens: rubric.form().shape().max_tokens as usize,
            sampling: Sampling::Greedy,
            ..GenerationConfig::default()
        };
        let numbers = match rubric.form() {
            AnswerForm::Expectation => Numbers::of(&codec, policy.spec().vocab_size)?,
            AnswerForm::Number | AnswerForm::NumberThenReason | AnswerForm::Json => {
                Numbers { ids: Vec::new(), texts: Vec::new() }
            }
        };
        let asker = PolicyAsker::new(policy, codec);
        Ok(Self {
            name: "judge".to_owned(),
            rubric: rubric.breaking_up(asker.controls().to_vec()),
            asker,
            generation,
            samples: 1,
            seed: Seed::new(0),
            numbers,
        })
    }

    /// Sets the name in metrics and errors; `judge` by default.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets what its chat template gets besides the messages, `enable_thinking` for instance.
    ///
    /// # Errors
    /// [`ProviderError::Codec`] for options without a chat template, or that it cannot take.
    pub fn asked_with(mut self, chat: ChatOptions) -> Result<Self, ProviderError> {
        self.asker = self.asker.with_chat(chat)?;
        Ok(self)
    }

    /// Sets the generation settings of its answers, including the batch size.
    ///
    /// # Errors
    /// [`ProviderError::Lm`] for settings that the policy does not support.
    pub fn writing(mut self, generation: GenerationConfig) -> Result<Self, ProviderError> {
        generation.check(self.asker.spec())?;
        self.generation = generation;
        Ok(self)
    }

    /// Uses the mean of this number of sampled verdicts.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] for 0, or for several samples of a judge whose answers are
    /// greedy, or are already an expectation.
    pub fn samples(mut self, samples: u32, seed: Seed) -> Result<Self, ProviderError> {
        let alike = self.generation.sampling == Sampling::Greedy
            || self.rubric.form() == AnswerForm::Expectation;
        if samples == 0 || (samples > 1 && alike) {
            return Err(ProviderError::Setting(BadSetting::new(
                "samples",
                samples,
                "1, or more where a temperature is set and the answer is not an expectation",
            )));
        }
        (self.samples, self.seed) = (samples, seed);
        Ok(self)
    }

    /// The current generation settings of its answers.
    #[cfg(feature = "judge")]
    pub(crate) fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    fn failed<E>(&self) -> impl Fn(E) -> RewardError
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let model = self.name.clone();
        move |source| RewardError::Failed { model: model.clone(), source: Box::new(source) }
    }

    fn answers(
        &self,
        prompts: &[Prompt],
        batch: &[Exchange<'_>],
    ) -> Result<Vec<Answer>, RewardError> {
        let row = |prompt: &Prompt| Ask {
            id: prompt.row,
            prompt: prompt.ids.clone(),
            max_new_tokens: None,
        };
        let rows: Vec<Ask> = prompts.iter().map(row).collect();
        let draw = Draw { seed: self.seed, step: 0 };
        let sampled = self.asker.write(&rows, &self.generation, draw);
        let sampled = sampled.map_err(|error| {
            let asked = |row: usize| batch[prompts[row].about].prompt;
            self.failed()(error.in_row(|row| PromptRecord::new("", asked(row)).place()))
        })?;
        let tokens = match self.rubric.form() {
            AnswerForm::Expectation => {
                no_grad(|| self.alternatives(prompts, &sampled)).map_err(self.failed())?
            }
            AnswerForm::Number | AnswerForm::NumberThenReason | AnswerForm::Json => {
                sampled.iter().map(|_| Vec::new()).collect()
            }
        };
        let answers = sampled.into_iter().zip(tokens).map(|(sampled, tokens)| {
            let finish = if sampled.is_finished() { Finish::Complete } else { Finish::Length };
            Answer { text: sampled.text, finish, tokens }
        });
        Ok(answers.collect())
    }

    /// For each token of each answer, its probability and that of every number at its position.
    fn alternatives(
        &self,
        prompts: &[Prompt],
        sampled: &[Sampled],
    ) -> Result<Vec<Vec<TokenAlternatives>>, LmError> {
        let spec = self.asker.spec();
        let ids: Vec<i64> = self.numbers.ids.iter().map(|&id| i64::from(id)).collect();
        let ids = Tensor::from_slice(&ids).to_device(spec.device);
        let head = self.asker.policy().head(Forward::default())?;
        let mut all = Vec::with_capacity(prompts.len());
        let rows: Vec<(&Prompt, &Sampled)> = prompts.iter().zip(sampled).collect();
        for rows in rows.chunks(self.generation.batch_size) {
            let x = rows.iter().map(|(prompt, _)| prompt.ids.clone()).collect();
            let x = TokenBatch::collate(x, spec, Padding::Right)?;
            let y = rows.iter().map(|(_, sampled)| sampled.ids.clone()).collect();
            let y = TokenBatch::responses(y, spec)?;
            let hidden = self.asker.policy().response_hidden(&x, &y, Forward::default())?;
            // [B, T, numbers] of [B, T, V]; T is four or so.
            let of_numbers = head.log_softmax(&hidden, 1.).index_select(2, &ids);
            let (width, count) = (y.width(), self.numbers.ids.len());
            let of_numbers = Vec::<f32>::try_from(of_numbers.reshape([-1]))?;
            for (row, (_, sampled)) in rows.iter().enumerate() {
                let log_probs = sampled.log_probs.iter().flatten();
                let tokens = sampled.ids.iter().zip(log_probs).enumerate();
                let token = |(t, (&id, &log_prob)): (usize, (&u32, &f32))| {
                    let start = (row * width + t) * count;
                    self.token(id, log_prob, &of_numbers[start..start + count])
                };
                all.push(tokens.map(token).collect());
            }
        }
        Ok(all)
    }

    fn token(&self, id: u32, log_prob: f32, of_numbers: &[f32]) -> TokenAlternatives {
        // For some tokenizers, several tokens spell the same text, such as " 7" and "7".
        let mut mass: HashMap<&str, f64> = HashMap::new();
        for (text, log_prob) in self.numbers.texts.iter().zip(of_numbers) {
            *mass.entry(text).or_default() += f64::from(*log_prob).exp();
        }
        let written = self.numbers.ids.iter().position(|&number| number == id);
        let token = match written {
            Some(at) => self.numbers.texts[at].clone(),
            None => self.asker.codec().decode(&[id], Specials::Exclude).unwrap_or_default(),
        };
        let mut alternatives: Vec<(String, f64)> =
            mass.into_iter().map(|(text, p)| (text.to_owned(), p.ln())).collect();
        if written.is_none() {
            alternatives.push((token.clone(), f64::from(log_prob)));
        }
        TokenAlternatives { token, alternatives }
    }
}

impl Numbers {
    /// Every token of the vocabulary that spells an integer of at most three digits, with any space
    /// around it.
    fn of(codec: &dyn TextCodec, vocab_size: i64) -> Result<Self, ProviderError> {
        let (mut ids, mut texts) = (Vec::new(), Vec::new());
        for id in 0..u32::try_from(vocab_size).unwrap_or(u32::MAX) {
            // Rows of the embedding beyond the tokenizer's last id have no text.
            let Ok(text) = codec.decode(&[id], Specials::Exclude) else { continue };
            let digits = text.trim();
            let number = !digits.is_empty() && digits.len() <= 3;
            if number && digits.bytes().all(|byte| byte.is_ascii_digit()) {
                ids.push(id);
                texts.push(text);
            }
        }
        if ids.is_empty() {
            return Err(ProviderError::Setting(BadSetting::new(
                "answer",
                format!("the tokenizer {}", codec.name()),
                "a form other than `expectation`: no token of this judge is a number",
            )));
        }
        Ok(Self { ids, texts })
    }
}

impl RewardModel for PolicyJudge {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let mut prompts: Vec<Prompt> = Vec::new();
        let mut known: HashMap<u64, usize> = HashMap::new();
        let mut rows: Vec<Result<Vec<usize>, String>> = Vec::with_capacity(batch.len());
        for (about, exchange) in batch.iter().enumerate() {
            let question = match self.rubric.ask(exchange) {
                Ok(question) => question,
                Err(unread) => {
                    rows.push(Err(unread.to_string()));
                    continue;
                }
            };
            let ids = self.asker.encode(&question, "\n").map_err(self.failed())?;
            let fits = self.asker.fits(&ids, self.generation.max_new_tokens);
            rows.push(fits.map(|()| {
                let mut of_sample = |sample: u32| {
                    let row = RowIds::of_tokens(&ids, sample);
                    *known.entry(row).or_insert_with(|| {
                        prompts.push(Prompt { ids: ids.clone(), row, about });
                        prompts.len() - 1
                    })
                };
                (0..self.samples).map(&mut of_sample).collect()
            }));
        }
        let answers = self.answers(&prompts, batch)?;
        let read = |answer: &Answer| self.rubric.read(answer).map_err(|unread| unread.to_string());
        let verdicts: Vec<Judged> = answers.iter().map(read).collect();
        let rows = rows
            .into_iter()
            .map(|row| Ok(row?.into_iter().map(|prompt| verdicts[prompt].clone()).collect()));
        Ok(scores(rows, self.rubric.form(), self.samples))
    }
}

impl std::fmt::Debug for PolicyJudge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PolicyJudge")
            .field("name", &self.name)
            .field("rubric", &self.rubric)
            .field("policy", self.asker.spec())
            .field("codec", &self.asker.codec().name())
            .field("generation", &self.generation)
            .field("samples", &self.samples)
            .finish_non_exhaustive()
    }
}
