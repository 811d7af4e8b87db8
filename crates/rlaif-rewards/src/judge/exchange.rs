//! Sends a question to a service until there is an answer, a reason for having none, or an
//! error that ends all requests.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use rlaif_core::Interrupted;
use rlaif_http::{
    Connections, GivenUp, HttpReply, Lost, Pace, Patience, Retry, Stop, post, shown_url,
};

use super::keys::LimitsConfig;
use super::optional::Optional;
use super::refusal::{Complaint, Fatal, Refusal, Whom};
use super::spending::{Ledger, Settled, Tokens};

/// Headers by name, in lower case.
pub(super) type Headers = Vec<(&'static str, String)>;

/// The shortest pause before the first retry.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// A service: connections, rate limits, retries and the ledger.
#[derive(Debug)]
pub(super) struct Service {
    agent: rlaif_http::ureq::Agent,
    pace: Pace,
    retry: Retry,
    concurrency: usize,
    pub(super) ledger: Ledger,
    refusals: Refusals,
}

/// One request in its current form.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) headers: Headers,
    pub(super) body: Vec<u8>,
    /// Estimated tokens of question and answer.
    pub(super) estimate: Tokens,
}

/// Content of a successful reply.
pub(super) enum Read<T> {
    /// An answer with its token counts, or the reason why it has no verdict.
    Done(Result<T, String>, Tokens),
    /// An answer without a verdict; the question is asked once more.
    Again(Tokens),
    /// A reply that this kind of service never sends, with a description. The next reply may be
    /// valid.
    Foreign(String),
}

/// One question: the request for it, and the parsing of a reply.
pub(super) trait Asking {
    type Answer;
    type Error;

    /// The name of the missing result, in reasons.
    const WHAT: &'static str;

    fn url(&self) -> &str;

    fn message(&mut self) -> Message;

    /// Parses the body of a successful reply.
    fn read(&mut self, body: &[u8]) -> Result<Read<Self::Answer>, Self::Error>;

    /// The optional parts of the last message.
    fn sent(&self) -> Vec<Optional>;

    /// Omits this part from later messages.
    fn leave_out(&mut self, optional: Optional);

    /// `text` without secrets.
    fn redact(&self, text: &str) -> String;

    /// The error for a refusal that affects every row.
    fn fatal(&self, fatal: Fatal, complaint: Complaint) -> Self::Error;
}

/// The end of a question.
pub(super) struct Answered<T> {
    /// The answer, if there is one.
    pub(super) end: Result<T, NoAnswer>,
    /// The tokens of all its requests, those included that gave no answer.
    pub(super) spent: Tokens,
}

/// The reason why a question has no answer.
pub(super) enum NoAnswer {
    /// The reason of the service, or of the budget.
    Reason(String),
    /// The run was stopped before the question was sent, or sent again.
    Stopped,
}

/// A question between its requests.
#[derive(Default)]
struct Course {
    failed_once: bool,
    spent: Tokens,
}

/// The next action for a question after a reply.
enum Next<T> {
    /// The question is finished.
    End(Result<T, String>),
    /// Ask again immediately.
    Now,
    /// Ask again after a pause, if retries are left.
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

    /// Sends a question, and returns its answer or the reason for having none.
    pub(super) fn ask<A: Asking>(
        &self,
        mut asking: A,
        stop: &Stop,
    ) -> Result<Answered<A::Answer>, A::Error> {
        let mut patience = self.retry.patience();
        let mut course = Course::default();
        let end = loop {
            let message = asking.message();
            if let Err(end) = self.reserve(message.estimate, stop) {
                break Err(end);
            }
            let reply = post(&self.agent, asking.url(), &message.headers, &message.body);
            match self.react(reply, &mut asking, message.estimate, &mut course)? {
                Next::End(end) => break end.map_err(NoAnswer::Reason),
                Next::Now => {}
                Next::Later { why, asked, whom } => {
                    if let Err(end) = self.wait(&mut patience, asked, whom, stop) {
                        break Err(NoAnswer::Reason(format!("no {} {end}: {why}", A::WHAT)));
                    }
                    self.ledger.count(|usage| usage.retries += 1);
                }
            }
        };
        Ok(Answered { end, spent: course.spent })
    }

    /// Reserves the tokens of a request and waits for its turn, or returns the reason for not
    /// sending it.
    fn reserve(&self, estimate: Tokens, stop: &Stop) -> Result<(), NoAnswer> {
        self.ledger.reserve(estimate).map_err(NoAnswer::Reason)?;
        self.pace.wait(estimate.input + estimate.output, stop);
        if stop.stopped() {
            self.ledger.settle(estimate, Settled::Unsent);
            return Err(NoAnswer::Stopped);
        }
        Ok(())
    }

    /// Decides the next action for a question by its reply. The ledger is already up to date.
    fn react<A: Asking>(
        &self,
        reply: Result<HttpReply, Lost>,
        asking: &mut A,
        estimate: Tokens,
        course: &mut Course,
    ) -> Result<Next<A::Answer>, A::Error> {
        let mut settle = |how: Settled| {
            course.spent += how.spent(estimate);
            self.settle(estimate, how);
        };
        let later = |why| Next::Later { why, asked: None, whom: Whom::This };
        let reply = match reply {
            Ok(reply) => reply,
            Err(lost) => {
                settle(Settled::Lost);
                return Ok(later(asking.redact(&lost.why)));
            }
        };
        if !(200..300).contains(&reply.status) {
            settle(Settled::Nothing);
            return self.refused(&reply, asking, &mut course.failed_once);
        }
        let read = asking.read(&reply.body);
        let used = match &read {
            Ok(Read::Done(_, used) | Read::Again(used)) => Settled::Used(*used),
            Ok(Read::Foreign(_)) | Err(_) => Settled::Lost,
        };
        if let Settled::Used(_) = used {
            self.refusals.answered();
        }
        settle(used);
        Ok(match read? {
            Read::Done(end, _) => Next::End(end),
            Read::Again(_) => {
                self.ledger.count(|usage| usage.reasks += 1);
                Next::Now
            }
            Read::Foreign(why) => later(asking.redact(&why)),
        })
    }

    /// Decides the next action for a question after a refusal.
    fn refused<A: Asking>(
        &self,
        reply: &HttpReply,
        asking: &mut A,
        failed_once: &mut bool,
    ) -> Result<Next<A::Answer>, A::Error> {
        let mut complaint = Complaint::of(reply, SystemTime::now());
        complaint.message = asking.redact(&complaint.message);
        let address = shown_url(asking.url());
        let why = format!("{address}: {}: {}", complaint.status, complaint.message);
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

    /// Waits before a retry, or returns the reason against one: no retries left, or the server
    /// asks for a longer wait than the limit.
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

    /// Does `work` on 0..jobs, at most `concurrency` at a time, and passes each result to
    /// `tell` as it arrives. A stop, a `Break` from `tell` and Ctrl-C prevent jobs that have not
    /// begun; those that have are completed, because they are already paid for.
    pub(super) fn each<T: Send>(
        &self,
        jobs: usize,
        stop: &Stop,
        work: impl Fn(usize) -> T + Sync,
        mut tell: impl FnMut(usize, T) -> ControlFlow<()>,
    ) {
        /// Interval between two checks for Ctrl-C.
        const LOOK: Duration = Duration::from_millis(100);
        let next = AtomicUsize::new(0);
        let (sender, results) = mpsc::channel();
        let worker = |sender: mpsc::Sender<(usize, T)>| {
            while !stop.stopped() {
                let job = next.fetch_add(1, Ordering::Relaxed);
                // The channel is closed only after the receiver has panicked.
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

/// The reason for a row that was not sent because the run was stopped.
pub(super) fn stopped(who: &str) -> String {
    format!("the {who} was stopped")
}

/// Refusals before the first answer. After enough of them, the cause is the service and not the
/// rows.
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

    /// Counts a refusal; returns `true` if there were too many without an answer.
    fn refused(&self) -> bool {
        let refused = 1 + self.refused.fetch_add(1, Ordering::Relaxed);
        refused >= Self::TOO_MANY && self.answered.load(Ordering::Relaxed) == 0
    }
}
