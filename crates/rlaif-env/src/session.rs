//! An episode on a thread of its own, with a time limit.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use rlaif_core::{Message, PromptRecord, Seed};

use crate::{
    environment::{Environment, EnvironmentAnswer, ModelTurn, Progress},
    error::EnvironmentError,
};

/// An episode that runs beside others: the caller sends turns to several sessions, and then collects
/// their answers.
///
/// A session that is dropped ends with its episode's current step. Rust cannot stop a thread, so an
/// environment in this process that never returns keeps its thread until the program ends; the session
/// is over nevertheless.
#[derive(Debug)]
pub struct Session {
    turns: Sender<ModelTurn>,
    answers: Receiver<Answer>,
    environment: String,
    limit: Duration,
    asked: Instant,
}

/// An answer of the thread.
enum Answer {
    Opened(Result<Vec<Message>, EnvironmentError>),
    Stepped(Result<EnvironmentAnswer, EnvironmentError>),
    Panicked(String),
}

impl Session {
    /// Begins an episode; [`Session::opened`] has the result. `limit` is the time for each answer.
    ///
    /// # Errors
    /// [`EnvironmentError::Died`] if the system has no thread for it.
    pub fn open(
        environment: Arc<dyn Environment>,
        record: Arc<PromptRecord>,
        seed: Seed,
        limit: Duration,
    ) -> Result<Self, EnvironmentError> {
        let (turns, to_play) = channel();
        let (answer, answers) = channel();
        let name = environment.name().to_owned();
        let run = move || play(&*environment, &record, seed, &to_play, &answer);
        let started = thread::Builder::new().name("episode".to_owned()).spawn(run);
        match started {
            Ok(_) => Ok(Self { turns, answers, environment: name, limit, asked: Instant::now() }),
            Err(error) => {
                let problem = format!("no thread for an episode: {error}");
                Err(EnvironmentError::Died { environment: name, problem })
            }
        }
    }

    /// Waits for the beginning of the episode, and returns its first messages.
    ///
    /// # Errors
    /// The environment's errors; [`EnvironmentError::TimedOut`], [`EnvironmentError::Died`].
    pub fn opened(&mut self) -> Result<Vec<Message>, EnvironmentError> {
        match self.wait()? {
            Answer::Opened(opened) => opened,
            Answer::Stepped(_) | Answer::Panicked(_) => Err(self.died("it lost its place")),
        }
    }

    /// Sends a turn of the model; [`Session::answer`] has the result.
    pub fn tell(&mut self, turn: ModelTurn) {
        self.asked = Instant::now();
        // A thread that has ended is noticed when its answer is missing.
        let _ = self.turns.send(turn);
    }

    /// Waits for the answer to the last turn.
    ///
    /// # Errors
    /// As [`Session::opened`]; [`EnvironmentError::Garbage`] for a reward that is not finite, and for an
    /// episode that continues without a message.
    pub fn answer(&mut self) -> Result<EnvironmentAnswer, EnvironmentError> {
        let outcome = match self.wait()? {
            Answer::Stepped(outcome) => outcome?,
            Answer::Opened(_) | Answer::Panicked(_) => return Err(self.died("it lost its place")),
        };
        let garbage = |found: String, expected| {
            let environment = self.environment.clone();
            Err(EnvironmentError::Garbage { environment, found, expected })
        };
        if !outcome.reward.is_finite() {
            return garbage(format!("a reward of {}", outcome.reward), "a finite number");
        }
        if outcome.progress == Progress::Goes && outcome.messages.is_empty() {
            return garbage("nothing".to_owned(), "a message, or the end of the episode");
        }
        Ok(outcome)
    }

    fn wait(&self) -> Result<Answer, EnvironmentError> {
        let left = self.limit.saturating_sub(self.asked.elapsed());
        match self.answers.recv_timeout(left) {
            Ok(Answer::Panicked(problem)) => Err(self.died(&problem)),
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Timeout) => Err(EnvironmentError::TimedOut {
                environment: self.environment.clone(),
                seconds: self.limit.as_secs_f64(),
            }),
            Err(RecvTimeoutError::Disconnected) => Err(self.died("its thread has ended")),
        }
    }

    fn died(&self, problem: &str) -> EnvironmentError {
        let environment = self.environment.clone();
        EnvironmentError::Died { environment, problem: problem.to_owned() }
    }
}

/// Plays an episode until nobody listens.
fn play(
    environment: &dyn Environment,
    record: &PromptRecord,
    seed: Seed,
    turns: &Receiver<ModelTurn>,
    answer: &Sender<Answer>,
) {
    let started = catch_unwind(AssertUnwindSafe(|| environment.reset(record, seed)));
    let mut episode = match started {
        Ok(Ok(started)) => {
            let _ = answer.send(Answer::Opened(Ok(started.messages)));
            started.episode
        }
        Ok(Err(error)) => {
            let _ = answer.send(Answer::Opened(Err(error)));
            return;
        }
        Err(panic) => {
            let _ = answer.send(Answer::Panicked(said(&*panic)));
            return;
        }
    };
    while let Ok(turn) = turns.recv() {
        let stepped = catch_unwind(AssertUnwindSafe(|| episode.step(&turn)));
        let (stepped, ends) = match stepped {
            Ok(stepped) => {
                let ends = !matches!(&stepped, Ok(outcome) if outcome.progress == Progress::Goes);
                (Answer::Stepped(stepped), ends)
            }
            Err(panic) => (Answer::Panicked(said(&*panic)), true),
        };
        if answer.send(stepped).is_err() || ends {
            return;
        }
    }
}

/// The message of a panic.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::{Episode, Started};

    /// An environment whose behaviour is the text of the prompt.
    struct Bad;

    impl Environment for Bad {
        fn name(&self) -> &'static str {
            "bad"
        }

        fn reset(&self, record: &PromptRecord, _: Seed) -> Result<Started, EnvironmentError> {
            match record.prompt.as_str() {
                "refuses" => Err(EnvironmentError::Failed {
                    environment: "bad".to_owned(),
                    problem: "no such task".to_owned(),
                }),
                "panics at once" => panic!("at {}", record.id),
                how => Ok(Started::new(Behaves(how.to_owned()))),
            }
        }
    }

    struct Behaves(String);

    impl Episode for Behaves {
        fn step(&mut self, turn: &ModelTurn) -> Result<EnvironmentAnswer, EnvironmentError> {
            match self.0.as_str() {
                "hangs" => thread::sleep(Duration::from_secs(30)),
                "panics" => panic!("on turn {}", turn.number),
                "is silent" => {
                    return Ok(EnvironmentAnswer {
                        messages: Vec::new(),
                        ..EnvironmentAnswer::say(Message::new("user", ""))
                    });
                }
                "gives nothing a number" => return Ok(EnvironmentAnswer::end(f64::NAN)),
                _ => {}
            }
            Ok(EnvironmentAnswer::say(Message::new("user", turn.text.to_uppercase())))
        }
    }

    fn open(how: &str) -> Session {
        let record = Arc::new(PromptRecord::new("7", how));
        let limit = Duration::from_millis(if how == "hangs" { 50 } else { 20_000 });
        Session::open(Arc::new(Bad), record, Seed::new(1), limit).unwrap()
    }

    #[test]
    fn a_session_hands_on_turns_and_answers() {
        let mut session = open("works");
        assert_eq!(session.opened().unwrap(), []);
        for number in 0..3 {
            session.tell(ModelTurn { text: format!("said {number}"), number });
            let outcome = session.answer().unwrap();
            assert_eq!(outcome.messages, [Message::new("user", format!("SAID {number}"))]);
        }
    }

    #[test]
    fn environments_that_misbehave_are_errors_of_their_kind() {
        for (how, kind, message) in [
            ("hangs", "timed_out", "did not answer within 0.05 s"),
            ("panics", "died", "died: on turn 0"),
            ("is silent", "garbage", "answered nothing; expected a message"),
            ("gives nothing a number", "garbage", "a reward of NaN; expected a finite number"),
        ] {
            let mut session = open(how);
            session.opened().unwrap();
            session.tell(ModelTurn { text: String::new(), number: 0 });
            let error = session.answer().unwrap_err();
            assert_eq!(error.kind(), kind, "{how}");
            assert!(error.to_string().contains(message), "{error}");
        }
        for (how, kind, message) in [
            ("refuses", "failed", "failed: no such task"),
            ("panics at once", "died", "died: at 7"),
        ] {
            let error = open(how).opened().unwrap_err();
            assert_eq!(error.kind(), kind, "{how}");
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}
