//! The contract between an environment and the rollout.

use rlaif_core::{Message, PromptRecord, Seed};

use crate::error::EnvironmentError;

/// A kind of task that a model solves over several turns.
///
/// ```
/// use rlaif_core::{Message, PromptRecord, Seed};
/// use rlaif_env::{Environment, EnvironmentError, Episode, EnvironmentAnswer, Started, ModelTurn};
///
/// /// Says everything back, and ends with a reward of 1 once the model is silent.
/// struct Echo;
///
/// impl Environment for Echo {
///     fn name(&self) -> &str {
///         "echo"
///     }
///
///     fn reset(&self, _: &PromptRecord, _: Seed) -> Result<Started, EnvironmentError> {
///         Ok(Started::new(Echo))
///     }
/// }
///
/// impl Episode for Echo {
///     fn step(&mut self, turn: &ModelTurn) -> Result<EnvironmentAnswer, EnvironmentError> {
///         Ok(match turn.text.trim() {
///             "" => EnvironmentAnswer::end(1.),
///             said => EnvironmentAnswer::say(Message::new("user", said)),
///         })
///     }
/// }
/// ```
pub trait Environment: Send + Sync {
    /// The name for messages.
    fn name(&self) -> &str;

    /// Begins an episode for a prompt. The seed is the same for all episodes of a group, so that
    /// they face one task; it changes from step to step.
    ///
    /// # Errors
    /// [`EnvironmentError`] if there is no episode for this prompt. The row then has no score.
    fn reset(&self, record: &PromptRecord, seed: Seed) -> Result<Started, EnvironmentError>;
}

/// An episode: the state of an environment between two turns of the model.
pub trait Episode: Send {
    /// Answers a turn of the model.
    ///
    /// # Errors
    /// [`EnvironmentError`] ends the episode. The row then has no score.
    fn step(&mut self, turn: &ModelTurn) -> Result<EnvironmentAnswer, EnvironmentError>;
}

/// An episode that has begun.
pub struct Started {
    /// The episode.
    pub episode: Box<dyn Episode>,
    /// Messages that follow the prompt before the model's first turn; often none.
    pub messages: Vec<Message>,
}

impl std::fmt::Debug for Started {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Started").field("messages", &self.messages).finish_non_exhaustive()
    }
}

impl Started {
    /// An episode whose first observation is the prompt alone.
    pub fn new(episode: impl Episode + 'static) -> Self {
        Self { episode: Box::new(episode), messages: Vec::new() }
    }
}

/// A turn of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelTurn {
    /// The text, without special tokens.
    pub text: String,
    /// The number of the turn, from 0.
    pub number: usize,
}

/// The answer of an environment to a turn.
#[derive(Debug, Clone, PartialEq)]
pub struct EnvironmentAnswer {
    /// Messages for the model, which it reads before its next turn.
    pub messages: Vec<Message>,
    /// The reward of the turn; the score of an episode is their sum.
    pub reward: f64,
    /// Continuation of the episode.
    pub progress: Progress,
    /// Events of the turn by name, for the metrics.
    pub counts: Vec<(&'static str, u32)>,
}

/// Continuation of an episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The model has another turn.
    Goes,
    /// The episode is over.
    Over,
}

impl EnvironmentAnswer {
    /// The episode continues with a message.
    pub fn say(message: Message) -> Self {
        Self { messages: vec![message], reward: 0., progress: Progress::Goes, counts: Vec::new() }
    }

    /// The episode is over, with this reward for its last turn.
    pub fn end(reward: f64) -> Self {
        Self { messages: Vec::new(), reward, progress: Progress::Over, counts: Vec::new() }
    }

    /// The same with an event for the metrics.
    #[must_use]
    pub fn counting(mut self, event: &'static str) -> Self {
        self.counts.push((event, 1));
        self
    }
}
