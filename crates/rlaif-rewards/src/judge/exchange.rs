//! Asking a service until there is an answer, a reason why there is none, or cause to stop
//! altogether.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use rlaif_core::Interrupted;
use rlaif_http::{Connections, GivenUp, Lost, Pace, Patience, Reply, Retry, Stop, post};

use super::config::LimitsConfig;
use super::optional::Optional;
use super::refusal::{Complaint, Fatal, Refusal, Whom};
use super::spending::{Ledger, Settled, Tokens};

/// Headers by name, in lower case.
pub(super) type Headers = Vec<(&'static str, String)>;

/// The shortest pause before a first repetition.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// A service that is asked: connections, pace, patience and the books.
#[derive(Debug)]
pub(super) struct Service {
    agent: rlaif_http::ureq::Agent,
    pace: Pace,
    retry: Retry,
    concurrency: usize,
    pub(super) ledger: Ledger,
    refusals: Refusals,
}

/// One request, as it is sent now.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) headers: Headers,
    pub(super) body: Vec<u8>,
    /// The tokens that question and answer may take.
    pub(super) estimate: Tokens,
}

/// Contents of a reply of success.
pub(super) enum Read<T> {
    /// An answer, of so many tokens; or the reason why it has no verdict.
    Done(Result<T, String>, Tokens),
    /// An answer without a verdict, which is asked for once more.
    Again(Tokens),
    /// Not an answer of such a service; why. The next one may be.
    Foreign(String),
}

/// One question: what is sent for it, and how a reply is read.
pub(super) trait Asking {
    type Answer;
    type Error;

    /// The party that was stopped, in reasons.
    const WHO: &'static str;
    /// The thing that did not come, in reasons.
    const WHAT: &'static str;

    fn url(&self) -> &str;

    fn message(&mut self) -> Message;

    /// Reads the body of a reply of success.
    fn read(&mut self, body: &[u8]) -> Result<Read<Self::Answer>, Self::Error>;

    /// The optional things of the last message.
    fn sent(&self) -> Vec<Optional>;

    /// Leaves this out of the messages to come.
    fn leave_out(&mut self, optional: Optional);

    /// `text` without secrets.
    fn redact(&self, text: &str) -> String;

    /// The error of a service that no row can ask.
    fn fatal(&self, fatal: Fatal, complaint: Complaint) -> Self::Error;
}

/// The next step for a question after a reply.
enum Next<T> {
    /// There is nothing more to ask.
    End(Result<T, String>),
    /// It is asked once more at once.
    Now,
    /// It is asked once more after a pause, if there is patience left.
    Later { why: String, asked: Option<Duration>, whom: Whom },
}

impl Service {
    /// A service at this host.
    pub(super) fn new(host: &str, limits: &LimitsConfig, ledger: Ledger) -> Self {
        let connections = Connections {
            connect: Duration::from_secs_f64(limits.connect_timeout_s),
            whole: Some(Duration::from_secs_f64(limits.timeout_s)),
            kept: Some(limits.concurrency),
            ..Connections::new(concat!("rlaif/", env!("CARGO_PKG_VERSION")))
        };
        Self {
            agent: rlaif_http::agent(host, connections),
            pace: Pace::new(limits.requests_per_minute, limits.tokens_per_minute),
            retry: Retry {
                retries: limits.retries as usize,
                first_pause: FIRST_PAUSE,
                longest_pause: Duration::from_secs_f64(limits.longest_wait_s),
            },
            concurrency: limits.concurrency,
            ledger,
            refusals: Refusals::default(),
        }
    }

    /// The answer to a question, or the reason why there is none.
    pub(super) fn ask<A: Asking>(
        &self,
        mut asking: A,
        stop: &Stop,
    ) -> Result<Result<A::Answer, String>, A::Error> {
        let mut patience = self.retry.patience();
        let mut failed_once = false;
        loop {
            let message = asking.message();
            if let Err(reason) = self.reserve(message.estimate, A::WHO, stop) {
                return Ok(Err(reason));
            }
            let reply = post(&self.agent, asking.url(), &message.headers, &message.body);
            match self.react(reply, &mut asking, message.estimate, &mut failed_once)? {
                Next::End(end) => return Ok(end),
                Next::Now => {}
                Next::Later { why, asked, whom } => {
                    if let Err(end) = self.wait(&mut patience, asked, whom, stop) {
                        return Ok(Err(format!("no {} {end}: {why}", A::WHAT)));
                    }
                    self.ledger.count(|usage| usage.retries += 1);
                }
            }
        }
    }

    /// Sets the tokens of a request aside and waits for its turn, or says why it is not sent.
    fn reserve(&self, estimate: Tokens, who: &str, stop: &Stop) -> Result<(), String> {
        self.ledger.reserve(estimate)?;
        self.pace.wait(estimate.input + estimate.output, stop);
        if stop.stopped() {
            self.ledger.settle(estimate, Settled::Unsent);
            return Err(stopped(who));
        }
        Ok(())
    }

    /// Decides the next step for a question by its reply; the books are settled.
    fn react<A: Asking>(
        &self,
        reply: Result<Reply, Lost>,
        asking: &mut A,
        estimate: Tokens,
        failed_once: &mut bool,
    ) -> Result<Next<A::Answer>, A::Error> {
        let later = |why| Next::Later { why, asked: None, whom: Whom::This };
        let reply = match reply {
            Ok(reply) => reply,
            Err(lost) => {
                self.settle(estimate, Settled::Lost);
                return Ok(later(asking.redact(&lost.why)));
            }
        };
        if !(200..300).contains(&reply.status) {
            self.settle(estimate, Settled::Nothing);
            return self.refused(&reply, asking, failed_once);
        }
        let read = asking.read(&reply.body);
        let used = match &read {
            Ok(Read::Done(_, used) | Read::Again(used)) => Settled::Used(*used),
            Ok(Read::Foreign(_)) | Err(_) => Settled::Lost,
        };
        if let Settled::Used(_) = used {
            self.refusals.answered();
        }
        self.settle(estimate, used);
        Ok(match read? {
            Read::Done(end, _) => Next::End(end),
            Read::Again(_) => {
                self.ledger.count(|usage| usage.reasks += 1);
                Next::Now
            }
            Read::Foreign(why) => later(asking.redact(&why)),
        })
    }

    /// Decides the next step for a question by a refusal.
    fn refused<A: Asking>(
        &self,
        reply: &Reply,
        asking: &mut A,
        failed_once: &mut bool,
    ) -> Result<Next<A::Answer>, A::Error> {
        let mut complaint = Complaint::of(reply, SystemTime::now());
        complaint.message = asking.redact(&complaint.message);
        let why = format!("{}: {}", complaint.status, complaint.message);
        Ok(match complaint.refusal(&asking.sent()) {
            Refusal::Passing { wait, all } => Next::Later { why, asked: wait, whom: all },
            Refusal::PassingOnce if *failed_once => Next::End(Err(why)),
            Refusal::PassingOnce => {
                *failed_once = true;
                Next::Later { why, asked: None, whom: Whom::This }
            }
            Refusal::Without(optional) => {
                asking.leave_out(optional);
                Next::Now
            }
            Refusal::Row if self.refusals.refused() => {
                return Err(asking.fatal(Fatal::Unexpected, complaint));
            }
            Refusal::Row => Next::End(Err(why)),
            Refusal::Fatal(fatal) => return Err(asking.fatal(fatal, complaint)),
        })
    }

    /// Waits before a repetition, or says why there is none: no patience left, or the server asks
    /// for more than it is worth.
    fn wait(
        &self,
        patience: &mut Patience,
        asked: Option<Duration>,
        whom: Whom,
        stop: &Stop,
    ) -> Result<(), String> {
        let pause = patience.pause(asked).map_err(|end| match end {
            GivenUp::Wait { asked, longest: _ } => format!(
                "it asks for a wait of {} s, more than `limits.longest_wait_s`",
                asked.as_secs()
            ),
            end @ GivenUp::Attempts { .. } => end.to_string(),
        })?;
        let now = Instant::now();
        if let (Whom::All, Some(asked)) = (whom, asked) {
            self.pace.pause_until(now + asked);
        }
        stop.sleep_until(now + pause);
        Ok(())
    }

    fn settle(&self, estimate: Tokens, how: Settled) {
        self.ledger.settle(estimate, how);
        let actual = match how {
            Settled::Used(tokens) => tokens.input + tokens.output,
            Settled::Nothing | Settled::Unsent => 0,
            Settled::Lost => return,
        };
        self.pace.settle(estimate.input + estimate.output, actual);
    }

    /// Does `work` on 0..jobs, at most `concurrency` at a time, and tells the result of each as it
    /// comes. A stop, a `Break` of `tell` and Ctrl-C forestall what has not begun; what has is waited
    /// for, as it is paid for.
    pub(super) fn each<T: Send>(
        &self,
        jobs: usize,
        stop: &Stop,
        work: impl Fn(usize) -> T + Sync,
        mut tell: impl FnMut(usize, T) -> ControlFlow<()>,
    ) {
        /// Between two looks at whether Ctrl-C was pressed.
        const LOOK: Duration = Duration::from_millis(100);
        let next = AtomicUsize::new(0);
        let (sender, results) = mpsc::channel();
        let worker = |sender: mpsc::Sender<(usize, T)>| {
            while !stop.stopped() {
                let job = next.fetch_add(1, Ordering::Relaxed);
                // Nobody listens only where the listener panicked.
                if job >= jobs || sender.send((job, work(job))).is_err() {
                    break;
                }
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.concurrency.min(jobs))
                .map(|_| {
                    let sender = sender.clone();
                    scope.spawn(|| worker(sender))
                })
                .collect();
            drop(sender);
            loop {
                match results.recv_timeout(LOOK) {
                    Ok((job, result)) => {
                        if tell(job, result).is_break() {
                            stop.stop();
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                if Interrupted::check().is_err() {
                    stop.stop();
                }
            }
            for thread in workers {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
    }
}

/// The reason of a row that was not asked about because all was stopped.
pub(super) fn stopped(who: &str) -> String {
    format!("the {who} was stopped")
}

/// Requests that were refused before any was answered: with enough of them it is not the rows.
#[derive(Debug, Default)]
struct Refusals {
    refused: AtomicU64,
    answered: AtomicU64,
}

impl Refusals {
    const TOO_MANY: u64 = 16;

    fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a refusal; returns true when there were too many without an answer.
    fn refused(&self) -> bool {
        let refused = 1 + self.refused.fetch_add(1, Ordering::Relaxed);
        refused >= Self::TOO_MANY && self.answered.load(Ordering::Relaxed) == 0
    }
}
