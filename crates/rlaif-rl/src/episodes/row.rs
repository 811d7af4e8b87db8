//! One episode of a batch.

use rlaif_core::{Message, Seed, Specials, TextCodec};
use rlaif_env::{EnvironmentError, ModelTurn, Progress, Session};
use rlaif_lm::{
    LmError, Played, Sampled,
    generate::{Ask, Eos, FinishReason, GenerationConfig},
};

use crate::episodes::transcript::{Next, Transcript, TranscriptError};

/// An episode and its response so far.
pub(super) struct Row<'a> {
    id: u64,
    /// The tokens that the policy reads.
    prompt: Vec<u32>,
    response: Sampled,
    played: Played,
    codec: &'a dyn TextCodec,
    transcript: Transcript<'a>,
    /// The conversation as the template has rewritten it, as tokens, and the text of its new messages. It becomes a part
    /// of the response with the next turn.
    fork: Option<(Vec<u32>, String)>,
    /// `None` once the episode is over.
    session: Option<Session>,
}

impl<'a> Row<'a> {
    pub(super) fn new(
        id: u64,
        prompt: Vec<u32>,
        (codec, transcript): (&'a dyn TextCodec, Transcript<'a>),
    ) -> Self {
        let response = Sampled {
            ids: Vec::new(),
            log_probs: Some(Vec::new()),
            text: String::new(),
            finish: FinishReason::Length,
            version: 0,
            played: None,
        };
        let played = Played::default();
        Self { id, prompt, response, played, codec, transcript, fork: None, session: None }
    }

    pub(super) fn goes_on(&self) -> bool {
        self.session.is_some()
    }

    /// Begins with the environment's first messages.
    pub(super) fn open(&mut self, session: Session, first: &[Message]) -> Result<(), LmError> {
        self.session = Some(session);
        if first.is_empty() {
            return Ok(());
        }
        self.played.said.extend_from_slice(first);
        let opened = self.transcript.open(&self.prompt, first);
        if let Some(prompt) = self.kept(opened)? {
            self.prompt.clone_from(&prompt);
            self.played.prompt = Some(prompt);
        }
        Ok(())
    }

    /// The continuation of a transcript. One that the template rewrites ends the episode.
    fn kept<T>(&mut self, next: Result<T, TranscriptError>) -> Result<Option<T>, LmError> {
        match next {
            Ok(next) => Ok(Some(next)),
            Err(error @ TranscriptError::Rewritten { .. }) => {
                self.fail("rewritten", &error);
                Ok(None)
            }
            Err(TranscriptError::Codec(error)) => Err(error.into()),
        }
    }

    /// Ends the episode without a score.
    pub(super) fn fail(&mut self, kind: &'static str, problem: &impl ToString) {
        self.stop(kind);
        self.played.problem = Some(problem.to_string());
    }

    /// Ends the episode with its rewards so far.
    pub(super) fn stop(&mut self, event: &'static str) {
        self.session = None;
        self.count(event, 1);
    }

    fn count(&mut self, event: &str, times: u32) {
        *self.played.counts.entry(event.to_owned()).or_default() += times;
    }

    /// Number of tokens that fit behind those so far.
    pub(super) fn room(&self, context: usize, most: usize) -> usize {
        let fork = self.fork.as_ref().map_or(0, |(fork, _)| fork.len());
        let used = self.response.ids.len() + fork;
        let read: usize = self.context().iter().map(|part| part.len()).sum();
        most.saturating_sub(used).min(context.saturating_sub(read))
    }

    /// The tokens that the policy reads before its next turn, in two parts.
    fn context(&self) -> [&[u32]; 2] {
        match (&self.fork, self.played.forks.last()) {
            (Some((fork, _)), _) => [fork, &[]],
            (None, Some(&start)) => [&self.response.ids[start..], &[]],
            (None, None) => [&self.prompt, &self.response.ids],
        }
    }

    pub(super) fn ask(&self, number: usize, max_new_tokens: usize) -> Ask {
        // The first turn is that of a response without an environment.
        let id = match number {
            0 => self.id,
            number => Seed::new(self.id).derive("turn", number as u64).get(),
        };
        Ask { id, prompt: self.context().concat(), max_new_tokens: Some(max_new_tokens) }
    }

    /// Appends tokens that are not the policy's.
    fn give(&mut self, tokens: &[u32], text: &str) {
        let response = &mut self.response;
        let start = response.ids.len();
        response.text.push_str(text);
        response.ids.extend_from_slice(tokens);
        self.played.given.push(start..response.ids.len());
        if let Some(log_probs) = &mut response.log_probs {
            // No policy sampled these.
            log_probs.resize(response.ids.len(), 0.);
        }
    }

    /// Puts the rewritten conversation before the turn that was sampled behind it.
    fn start_over(&mut self) {
        let Some((context, text)) = self.fork.take() else { return };
        if self.response.ids.is_empty() {
            // Nothing was sampled before, so it is the prompt.
            self.response.text.push_str(&text);
            self.prompt.clone_from(&context);
            self.played.prompt = Some(context);
            return;
        }
        self.count("forks", 1);
        self.played.forks.push(self.response.ids.len());
        self.give(&context, &text);
    }

    /// Takes a turn of the policy, and hands it to the environment unless it was cut off.
    pub(super) fn say(&mut self, turn: &Sampled, number: usize, how: &GenerationConfig) {
        self.start_over();
        let response = &mut self.response;
        response.ids.extend_from_slice(&turn.ids);
        response.log_probs = match (response.log_probs.take(), &turn.log_probs) {
            (Some(all), Some(new)) => Some([&*all, &**new].concat()),
            _ => None,
        };
        response.text.push_str(&turn.text);
        response.finish = turn.finish;
        self.played.answer.clone_from(&turn.text);
        self.played.said.push(Message::new("assistant", &turn.text));
        self.played.rewards.push((response.ids.len().saturating_sub(1), 0.));
        let cut = turn.finish == FinishReason::Length && how.eos == Eos::Ends;
        match &mut self.session {
            Some(_) if cut => self.stop("cut"),
            Some(session) => session.tell(ModelTurn { text: turn.text.clone(), number }),
            None => {}
        }
    }

    /// Waits for the answer of the environment, and appends it if there is another turn.
    pub(super) fn hear(&mut self, turn: &Sampled, last: bool) -> Result<(), LmError> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let outcome = match session.answer() {
            Ok(outcome) => outcome,
            Err(EnvironmentError::Setting(error)) => {
                let source = Box::new(error);
                return Err(LmError::Sampler { sampler: "the environment".to_owned(), source });
            }
            Err(error) => {
                self.fail(error.kind(), &error);
                return Ok(());
            }
        };
        for (event, times) in &outcome.counts {
            self.count(event, *times);
        }
        if let Some((_, reward)) = self.played.rewards.last_mut() {
            *reward = outcome.reward;
        }
        self.played.said.extend_from_slice(&outcome.messages);
        if outcome.progress == Progress::Over {
            self.stop("over");
            return Ok(());
        }
        if last {
            self.stop("out_of_turns");
            return Ok(());
        }
        let ended = turn.ids.last().filter(|_| turn.finish != FinishReason::Length);
        let ending = ended.map(|id| self.codec.decode(&[*id], Specials::Include)).transpose()?;
        let ending = ending.as_deref().filter(|ending| !ending.is_empty());
        let between = self.transcript.between(&turn.text, ending, &outcome.messages);
        match self.kept(between)? {
            Some(Next::Continued(tokens)) if !tokens.is_empty() => {
                let text = self.codec.decode(&tokens, Specials::Exclude)?;
                self.give(&tokens, &text);
            }
            Some(Next::Forked { context, new }) => {
                // The text of a response has each message once, and no special tokens.
                let new = self.codec.encode(&new, Specials::Exclude)?;
                self.fork = Some((context, self.codec.decode(&new, Specials::Exclude)?));
            }
            Some(Next::Continued(_)) | None => {}
        }
        Ok(())
    }

    /// The response. One that never began has a token, which is not the policy's.
    pub(super) fn finish(mut self, pad_id: u32, version: u64) -> Sampled {
        if self.response.ids.is_empty() {
            self.response.ids.push(pad_id);
            self.response.log_probs = Some(vec![0.]);
            self.played.given.push(0..1);
        }
        Sampled { version, played: Some(Box::new(self.played)), ..self.response }
    }
}
