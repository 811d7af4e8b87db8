//! Requests to several servers: a server that fails gives its request back to the others.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use rlaif_core::{Interrupted, say};
use rlaif_http::{Patience, Stop};

use crate::{
    delivery::{Proofs, Written},
    error::EngineError,
    server::{Failure, Server},
    wire::{Answered, Group, Manner},
};

/// A server, and the weights that it is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    pub(crate) server: Arc<Server>,
    pub(crate) written: Arc<Written>,
}

/// The responses to a group.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) rows: Vec<usize>,
    pub(crate) answers: Vec<Answered>,
    /// Index of the server among those that were ready.
    pub(crate) by: usize,
}

#[derive(Debug)]
struct Job {
    group: Group,
    attempts: usize,
}

enum Event {
    Done(Done),
    /// A server is not asked again.
    Down(usize, String),
    Failed(Box<EngineError>),
}

struct Shared {
    jobs: Mutex<VecDeque<Job>>,
    more: Condvar,
    stop: Stop,
    manner: Manner,
    proofs: Arc<Proofs>,
    most_failures: usize,
    most_attempts: usize,
}

/// A server in one call.
struct Asked {
    ready: Ready,
    index: usize,
    streak: Mutex<Streak>,
}

/// Failures of a server in a row. Requests that fail together, such as all that run while the server breaks off, are one
/// failure: one that began before the end of the pause after a failure does not count.
struct Streak {
    failures: usize,
    patience: Patience,
    /// The end of the pause after the last failure.
    rests: Instant,
    /// `true` once the server is not asked again.
    is_down: bool,
}

impl Asked {
    fn streak(&self) -> MutexGuard<'_, Streak> {
        self.streak.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a request was answered.
    fn answered(&self) {
        let mut streak = self.streak();
        if streak.failures > 0 && !streak.is_down {
            streak.failures = 0;
            streak.patience = self.ready.server.patience();
        }
    }

    /// Notes that a request that began at `begun` failed, after which the server asks for a pause. Returns the end of the
    /// pause; why the server is not asked again, if it is not.
    fn failed(
        &self,
        begun: Instant,
        pause: Option<Duration>,
        most: usize,
    ) -> Result<Instant, String> {
        let mut streak = self.streak();
        if streak.is_down {
            return Err(String::new());
        }
        if begun < streak.rests {
            return Ok(streak.rests);
        }
        streak.failures += 1;
        let given_up = if streak.failures > most {
            String::new()
        } else {
            match streak.patience.pause(pause) {
                Ok(pause) => {
                    streak.rests = Instant::now() + pause;
                    return Ok(streak.rests);
                }
                Err(given_up) => format!(" ({given_up})"),
            }
        };
        streak.is_down = true;
        Err(given_up)
    }
}

/// Asks for the responses to all groups.
///
/// # Errors
/// [`EngineError::NoServer`] if every server has failed too often, [`EngineError::Unanswered`] for a group that fails everywhere,
/// and what a server refuses.
pub(crate) fn ask(
    groups: Vec<Group>,
    ready: &[Ready],
    manner: Manner,
    proofs: &Arc<Proofs>,
    (concurrency, retries): (usize, usize),
) -> Result<Vec<Done>, EngineError> {
    let mut left = groups.len();
    let jobs = groups.into_iter().map(|group| Job { group, attempts: 0 }).collect();
    let shared = Arc::new(Shared {
        jobs: Mutex::new(jobs),
        more: Condvar::new(),
        stop: Stop::default(),
        manner,
        proofs: Arc::clone(proofs),
        most_failures: retries,
        most_attempts: (retries + 1) * ready.len(),
    });
    let (sender, events) = mpsc::channel();
    let workers = concurrency.min(left);
    for (index, ready) in ready.iter().enumerate() {
        let (patience, rests) = (ready.server.patience(), Instant::now());
        let streak = Mutex::new(Streak { failures: 0, patience, rests, is_down: false });
        let asked = Arc::new(Asked { ready: ready.clone(), index, streak });
        for _ in 0..workers {
            let (shared, asked, sender) = (Arc::clone(&shared), Arc::clone(&asked), sender.clone());
            // Not scoped: a user who asks for the end does not wait for an answer on its way.
            thread::spawn(move || work(&shared, &asked, &sender));
        }
    }
    drop(sender);
    let mut down: Vec<Option<String>> = vec![None; ready.len()];
    let mut done = Vec::with_capacity(left);
    let outcome = loop {
        if left == 0 {
            break Ok(done);
        }
        if let Err(interrupted) = Interrupted::check() {
            break Err(interrupted.into());
        }
        match events.recv_timeout(Duration::from_millis(100)) {
            Ok(Event::Done(responses)) => {
                left -= 1;
                done.push(responses);
            }
            Ok(Event::Down(index, why)) if down[index].is_none() => {
                let name = &ready[index].server.name;
                if down.iter().filter(|down| down.is_none()).count() > 1 {
                    say(format_args!("{name} is not asked again in this step: {why}"));
                }
                down[index] = Some(format!("{name}: {why}"));
                if down.iter().all(Option::is_some) {
                    break Err(EngineError::NoServer {
                        servers: down.into_iter().flatten().collect(),
                    });
                }
            }
            Ok(Event::Down(..)) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Event::Failed(error)) => break Err(*error),
            Err(RecvTimeoutError::Disconnected) => {
                break Err(EngineError::NoServer { servers: down.into_iter().flatten().collect() });
            }
        }
    };
    shared.stop.stop();
    shared.more.notify_all();
    outcome
}

impl Shared {
    fn jobs(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job; `None` once the work is to end.
    fn next(&self) -> Option<Job> {
        let mut jobs = self.jobs();
        loop {
            if self.stop.stopped() {
                return None;
            }
            if let Some(job) = jobs.pop_front() {
                return Some(job);
            }
            // A job may come back from another server.
            let waited = self.more.wait_timeout(jobs, Duration::from_millis(200));
            jobs = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn give_back(&self, job: Job) {
        self.jobs().push_back(job);
        self.more.notify_one();
    }
}

fn work(shared: &Shared, asked: &Asked, events: &Sender<Event>) {
    let Ready { server, written } = &asked.ready;
    loop {
        if asked.streak().is_down {
            return;
        }
        let Some(mut job) = shared.next() else { return };
        let begun = Instant::now();
        let (why, pause) = match server.complete(&shared.manner, written, &job.group) {
            Ok(answers) => {
                asked.answered();
                let done = Done { rows: job.group.rows, answers, by: asked.index };
                if events.send(Event::Done(done)).is_err() {
                    return;
                }
                continue;
            }
            Err(Failure::Fatal(error)) => {
                let _ = events.send(Event::Failed(error));
                return;
            }
            Err(Failure::Transient { why, asked }) => (why, asked),
            Err(Failure::Lost(why)) => match server.renew(written, &shared.proofs) {
                Ok(()) => (why, None),
                Err(failure) => (format!("{why}; {}", failure.error(server)), None),
            },
        };
        job.attempts += 1;
        let attempts = job.attempts;
        let outcome = asked.failed(begun, pause, shared.most_failures);
        shared.give_back(job);
        match outcome {
            Err(given_up) => {
                let _ = events.send(Event::Down(asked.index, format!("{why}{given_up}")));
                return;
            }
            // The server answers others, and no server answers this one.
            Ok(_) if attempts >= shared.most_attempts => {
                let server = server.name.clone();
                let error = EngineError::Unanswered { attempts, server, why };
                let _ = events.send(Event::Failed(Box::new(error)));
                return;
            }
            Ok(rests) => shared.stop.sleep_until(rests),
        }
    }
}
