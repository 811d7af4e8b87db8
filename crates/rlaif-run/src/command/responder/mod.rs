//! A language model that answers the requests of several clients, their rows in one batch.

mod queue;
mod text;

use std::{
    collections::HashMap,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use rlaif_core::{
    BadSetting, ChatOptions, CodecError, Fault, Rendering, Responder, ResponderError, ResponseEnd,
    ResponseEvent, ResponsePrompt, ResponseReport, ResponseRequest, ResponseToken, Seed, TextCodec,
};
use rlaif_lm::{
    Forward, Joiner, LmError, LmSpec, Policy,
    generate::{Ask, GenerationConfig, JoiningRow, OpenBatch, OpenToken, Sampling},
};
use rlaif_models::LanguageModel;
use rlaif_text::HfTokenizer;

use super::{
    error::{CommandError, at_least_one},
    model::ModelChoice,
    tokenizer::{RowTokenizer, tell_notices},
};
use queue::{Order, Queue, Waiting};
use text::GrowingText;

/// The default of [`ResponderModel::context`], for models with a longer context: keys and values of every row have
/// room for it.
const USUAL_CONTEXT: usize = 4096;

/// A model to be served.
#[derive(Debug, Clone)]
pub struct ResponderModel {
    /// The name by which clients ask for it.
    pub name: String,
    /// The model.
    pub model: ModelChoice,
    /// Rows decoded together.
    pub batch_size: usize,
    /// Maximum number of tokens of prompt and response together; by default that of the model, at most 4096.
    pub context: Option<usize>,
}

/// A language model on a thread of its own, which decodes the responses of all requests together. Requests join and leave
/// between two tokens.
#[derive(Debug)]
pub struct ModelResponder {
    name: String,
    context: usize,
    spec: LmSpec,
    tokenizer: Arc<ServedTokenizer>,
    queue: Arc<Queue>,
    worker: Option<JoinHandle<()>>,
}

/// The tokenizer, or the reason why there is none.
#[derive(Debug)]
struct ServedTokenizer(Result<HfTokenizer, String>);

impl ServedTokenizer {
    fn codec(&self) -> Option<&dyn TextCodec> {
        self.0.as_ref().ok().map(|tokenizer| tokenizer as &dyn TextCodec)
    }
}

/// The facts that the thread returns once the model is loaded.
struct Loaded {
    spec: LmSpec,
    context: usize,
    tokenizer: Arc<ServedTokenizer>,
}

impl ResponderModel {
    /// Loads the model on a new thread.
    ///
    /// # Errors
    /// [`CommandError`]; [`CommandError::Setting`] if the context exceeds the model's.
    pub fn start(self) -> Result<ModelResponder, CommandError> {
        at_least_one(&[("batch_size", self.batch_size), ("context", self.context.unwrap_or(1))])?;
        let queue = Arc::new(Queue::default());
        let (sender, receiver) = mpsc::channel();
        let (name, own) = (self.name.clone(), queue.clone());
        // The number of threads of libtorch's operations is a setting of the thread that calls them.
        let worker = thread::Builder::new().name(format!("model {name}")).spawn(move || {
            let outcome = self.work(&own, &sender);
            let reason = match outcome {
                Ok(()) => "the server stops".to_owned(),
                Err(error) => {
                    let reason = error.to_string();
                    let _ = sender.send(Err(error));
                    reason
                }
            };
            own.close(&reason);
        });
        let worker = worker.map_err(CommandError::Output)?;
        let Ok(loaded) = receiver.recv() else {
            return Err(CommandError::setting("model", name, "a model whose thread does not end"));
        };
        let Loaded { spec, context, tokenizer } = loaded?;
        Ok(ModelResponder { name, context, spec, tokenizer, queue, worker: Some(worker) })
    }

    fn work(
        &self,
        queue: &Queue,
        sender: &mpsc::Sender<Result<Loaded, CommandError>>,
    ) -> Result<(), CommandError> {
        let files = self.model.files()?;
        let policy = self.model.language_model(&files)?;
        let spec = policy.spec().clone();
        let context = self.context(&spec)?;
        let tokenizer = RowTokenizer::new(&files, spec.vocab_size);
        let tokenizer = tokenizer.needed().map_err(|error| error.to_string());
        if let Ok(tokenizer) = &tokenizer {
            tell_notices(tokenizer);
        }
        let tokenizer = Arc::new(ServedTokenizer(tokenizer));
        let of_model = |source| CommandError::OfModel { model: self.name.clone(), source };
        let mut worker = Worker::new(&policy, tokenizer.clone(), self.batch_size, context);
        let mut batch = worker.open().map_err(of_model)?;
        let _ = sender.send(Ok(Loaded { spec, context, tokenizer }));
        while let Some(waiting) = queue.take(batch.free(), batch.is_empty()) {
            if let Err(error) = worker.turn(&mut batch, waiting) {
                worker.fail(&error.to_string());
                batch = worker.open().map_err(of_model)?;
            }
        }
        worker.fail("the server stops");
        Ok(())
    }

    fn context(&self, spec: &LmSpec) -> Result<usize, CommandError> {
        match (self.context, spec.context) {
            (Some(asked), Some(most)) if asked > most => {
                let expected = format!("at most {most}, the context of the model");
                Err(CommandError::Setting(BadSetting::new("context", asked, expected)))
            }
            (Some(asked), _) => Ok(asked),
            (None, most) => Ok(most.unwrap_or(USUAL_CONTEXT).min(USUAL_CONTEXT)),
        }
    }
}

impl Drop for ModelResponder {
    fn drop(&mut self) {
        self.queue.close("the server stops");
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

/// A row in the batch.
struct Row {
    order: Arc<Order>,
    response: usize,
    prompt: Vec<u32>,
    text: GrowingText,
    stop_ids: Vec<u32>,
    shows: bool,
}

/// The thread's view of the batch.
struct Worker<'a> {
    policy: &'a LanguageModel,
    tokenizer: Arc<ServedTokenizer>,
    places: usize,
    context: usize,
    rows: HashMap<usize, Row>,
    next: usize,
}

impl<'a> Worker<'a> {
    fn new(
        policy: &'a LanguageModel,
        tokenizer: Arc<ServedTokenizer>,
        places: usize,
        context: usize,
    ) -> Self {
        Self { policy, tokenizer, places, context, rows: HashMap::new(), next: 0 }
    }

    fn open(&self) -> Result<OpenBatch<'a>, LmError> {
        OpenBatch::new(self.policy, Forward::default(), self.places, self.context)
    }

    /// Lets rows join, decodes a token for each row, and reports it.
    fn turn(&mut self, batch: &mut OpenBatch<'_>, waiting: Vec<Waiting>) -> Result<(), LmError> {
        let mut joining = Vec::with_capacity(waiting.len());
        for Waiting { order, response, mut row, shows } in waiting {
            row.number = self.next;
            self.next += 1;
            let text = GrowingText::new(row.config.stop_strings.clone());
            let (prompt, stop_ids) = (row.ask.prompt.clone(), row.config.stop_ids.clone());
            self.rows.insert(row.number, Row { order, response, prompt, text, stop_ids, shows });
            joining.push(row);
        }
        if !joining.is_empty() {
            batch.join(joining)?;
        }
        let tokenizer = self.tokenizer.clone();
        for token in batch.step(tokenizer.codec())? {
            let (number, ended) = (token.number, token.finish.is_some());
            let Some(row) = self.rows.get_mut(&number) else { continue };
            row.report(token, tokenizer.codec())?;
            if ended {
                self.rows.remove(&number);
            }
        }
        // Clients that have gone.
        let gone: Vec<usize> =
            self.rows.iter().filter(|(_, row)| row.order.is_over()).map(|(&n, _)| n).collect();
        for number in gone {
            batch.leave(number);
            self.rows.remove(&number);
        }
        Ok(())
    }

    /// Ends all rows.
    fn fail(&mut self, reason: &str) {
        for (_, row) in self.rows.drain() {
            row.order.report(ResponseEvent::Failed(reason.to_owned()));
        }
    }
}

impl Row {
    fn report(
        &mut self,
        token: OpenToken,
        codec: Option<&dyn TextCodec>,
    ) -> Result<(), CodecError> {
        let OpenToken { id, log_prob, alternatives, finish, .. } = token;
        let shown = match codec {
            Some(codec) if self.shows => {
                Some(self.text.shown(codec, &self.prompt, id, &alternatives)?)
            }
            _ => None,
        };
        let text = self.text.push(codec, id, finish)?;
        let end = match finish {
            None => None,
            Some(finish) => {
                let reason = self.text.reason(codec, finish, &self.stop_ids)?;
                Some(ResponseEnd { reason, text: self.text.whole(codec)? })
            }
        };
        let response = self.response;
        self.order.report(ResponseEvent::Token(ResponseToken {
            response,
            id,
            log_prob,
            text,
            shown,
            end,
        }));
        Ok(())
    }
}

impl ModelResponder {
    fn prompt(&self, prompt: ResponsePrompt) -> Result<Vec<u32>, String> {
        let (text, options) = match prompt {
            ResponsePrompt::Ids(ids) => return Ok(ids),
            ResponsePrompt::Text(text) => (text.into(), ChatOptions::default()),
            ResponsePrompt::Chat(messages, options) => (messages.into(), options),
        };
        let tokenizer = self.tokenizer.0.as_ref().map_err(|reason| {
            format!("it is a text, and the model has no tokenizer ({reason}); send token ids")
        })?;
        let rendered = Rendering::default().prompt(tokenizer, &text, &options);
        let opened = rendered
            .and_then(|(text, kind)| Joiner::new(tokenizer, &self.spec).open_one(&text, kind));
        opened.map_err(|error| error.to_string())
    }

    /// Checks a row.
    fn check(&self, prompt: usize, row: &JoiningRow) -> Result<(), ResponderError> {
        OpenBatch::check(row, &self.spec, self.context)
            .map_err(|error| refusal(prompt, row.ask.prompt.len(), error))
    }
}

/// The refusal of a prompt of so many tokens.
fn refusal(prompt: usize, tokens: usize, error: LmError) -> ResponderError {
    let problem = match error {
        LmError::Setting(setting) => return ResponderError::Setting(setting),
        LmError::EmptyInput { .. } => "it has no token".to_owned(),
        LmError::IdOutOfRange { position, id, vocab_size, .. } => format!(
            "token id {id} at position {position} is outside the vocabulary of {vocab_size}"
        ),
        LmError::TooLong { length, context, .. } => format!(
            "it has {tokens} tokens, {length} together with its response, and the context is {context}; shorten \
             one of them"
        ),
        error if error.is_users() => error.to_string(),
        error => return ResponderError::Failed { reason: error.to_string() },
    };
    ResponderError::Prompt { prompt, problem }
}

/// The settings of `rlaif generate` for a request.
fn config(request: &ResponseRequest) -> GenerationConfig {
    GenerationConfig {
        min_new_tokens: request.min_new_tokens,
        sampling: match request.temperature {
            0. => Sampling::Greedy,
            temperature => Sampling::Sample {
                temperature,
                top_k: request.top_k,
                top_p: request.top_p,
                min_p: request.min_p,
            },
        },
        repetition_penalty: request.repetition_penalty,
        eos: request.eos,
        stop_ids: request.stop_ids.clone(),
        stop_strings: request.stop_strings.clone(),
        ..GenerationConfig::default()
    }
}

impl Responder for ModelResponder {
    fn name(&self) -> &str {
        &self.name
    }

    fn context(&self) -> usize {
        self.context
    }

    fn has_chat_template(&self) -> bool {
        self.tokenizer.0.as_ref().is_ok_and(|tokenizer| tokenizer.chat_templates().next().is_some())
    }

    fn respond(
        &self,
        request: ResponseRequest,
        report: ResponseReport,
    ) -> Result<Vec<Vec<u32>>, ResponderError> {
        let config = config(&request);
        if !config.stop_strings.is_empty() && self.tokenizer.codec().is_none() {
            let expected = "nothing for a model without a tokenizer; use ids";
            return Err(BadSetting::new("stop_strings", "set", expected).into());
        }
        if request.prompts.is_empty() {
            return Err(ResponderError::Prompt { prompt: 0, problem: "there is none".to_owned() });
        }
        let order = Arc::new(Order::new(report));
        let (mut prompts, mut waiting) = (Vec::new(), Vec::new());
        for (at, prompt) in request.prompts.into_iter().enumerate() {
            let ids = self.prompt(prompt);
            let ids = ids.map_err(|problem| ResponderError::Prompt { prompt: at, problem })?;
            let rest = self.spec.remaining(self.context, ids.len()).max(1);
            let limit = request.max_new_tokens.unwrap_or(rest);
            let config = GenerationConfig { max_new_tokens: limit, ..config.clone() };
            for choice in 0..request.responses {
                let response = at * request.responses + choice;
                let row = JoiningRow {
                    number: 0,
                    ask: Ask { id: response as u64, prompt: ids.clone(), max_new_tokens: None },
                    config: config.clone(),
                    seed: Seed::new(request.seed),
                    alternatives: request.alternatives.unwrap_or(0),
                };
                if choice == 0 {
                    self.check(at, &row)?;
                }
                let shows = request.alternatives.is_some();
                waiting.push(Waiting { order: order.clone(), response, row, shows });
            }
            prompts.push(ids);
        }
        self.queue.put(waiting)?;
        Ok(prompts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_at_fault_only_for_what_its_client_can_mend() {
        let setting = BadSetting::new("min_new_tokens", 9, "at most 8");
        for (error, users) in [
            (LmError::Setting(setting), true),
            (LmError::EmptyInput { row: 0 }, true),
            (LmError::TooLong { row: 0, length: 9, context: 8 }, true),
            (LmError::NoMemory, false),
            (LmError::not_finite(0, 0), false),
            (LmError::Interrupted, false),
        ] {
            let refused = refusal(3, 7, error);
            assert_eq!(refused.is_users(), users, "{refused}");
            assert_eq!(matches!(refused, ResponderError::Failed { .. }), !users, "{refused}");
        }
        let refused = refusal(3, 7, LmError::TooLong { row: 0, length: 9, context: 8 });
        assert!(refused.to_string().starts_with("prompt 3: it has 7 tokens, 9"), "{refused}");
    }
}
