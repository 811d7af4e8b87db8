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
        Self { id, prompt, response, played: Played::default(), codec, transcript, session: None }
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
        let used = self.response.ids.len();
        most.saturating_sub(used).min(context.saturating_sub(self.context().len()))
    }

    /// The tokens that the policy reads before its next turn.
    fn context(&self) -> Vec<u32> {
        match self.played.forks.last() {
            Some(&start) => self.response.ids[start..].to_vec(),
            None => [&*self.prompt, &*self.response.ids].concat(),
        }
    }

    pub(super) fn ask(&self, number: usize, max_new_tokens: usize) -> Ask {
        // The first turn is that of a response without an environment.
        let id = match number {
            0 => self.id,
            number => Seed::new(self.id).derive("turn", number as u64).get(),
        };
        Ask { id, prompt: self.context(), max_new_tokens: Some(max_new_tokens) }
    }

    /// Takes a turn of the policy, and hands it to the environment unless it was cut off.
    pub(super) fn say(&mut self, turn: &Sampled, number: usize, how: &GenerationConfig) {
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
        let start = self.response.ids.len();
        let (tokens, text) = match self.kept(between)? {
            None => return Ok(()),
            Some(Next::Continued(tokens)) if tokens.is_empty() => return Ok(()),
            Some(Next::Continued(tokens)) => {
                let text = self.codec.decode(&tokens, Specials::Exclude)?;
                (tokens, text)
            }
            Some(Next::Forked { context, new }) => {
                self.played.forks.push(start);
                self.count("forks", 1);
                // The text of a response has each message once, and no special tokens.
                let new = self.codec.encode(&new, Specials::Exclude)?;
                (context, self.codec.decode(&new, Specials::Exclude)?)
            }
        };
        self.response.text.push_str(&text);
        self.response.ids.extend_from_slice(&tokens);
        self.played.given.push(start..self.response.ids.len());
        if let Some(log_probs) = &mut self.response.log_probs {
            // No policy sampled these.
            log_probs.resize(self.response.ids.len(), 0.);
        }
        Ok(())
    }

    /// The response. One that never began has a token, which is not the policy's.
    pub(super) fn finish(mut self, pad_id: u32, version: u64) -> Sampled {
        // Nothing was sampled behind a history without room for a turn.
        if let Some(start) = self.played.forks.pop() {
            if self.played.given.last() == Some(&(start..self.response.ids.len())) {
                self.played.given.pop();
                self.response.ids.truncate(start);
                if let Some(log_probs) = &mut self.response.log_probs {
                    log_probs.truncate(start);
                }
            } else {
                self.played.forks.push(start);
            }
        }
        if self.response.ids.is_empty() {
            self.response.ids.push(pad_id);
            self.response.log_probs = Some(vec![0.]);
            self.played.given.push(0..1);
        }
        Sampled { version, played: Some(Box::new(self.played)), ..self.response }
    }
}
