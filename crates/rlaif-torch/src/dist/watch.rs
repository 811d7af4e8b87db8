//! A thread in each rank that gives signs of life, and learns when another rank has failed.
//!
//! Each rank writes `beat/RANK` every second: the number of signs, and of the operations that it has entered. Rank
//! 0 reads those of all ranks; the others read rank 0's alone, so that the store's work grows with the number of
//! ranks, not with its square. Time is counted in this thread's own ticks, not by the clock: processes that were all
//! stopped for a while (a suspended machine) do not believe each other dead.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    error::{DistError, Peer, Said},
    store::Store,
};

/// Time between two signs of life.
const TICK: Duration = Duration::from_millis(500);
/// Ticks without a sign after which a rank is believed lost.
const SILENT: u32 = 20;
/// The same, once a connection has broken.
const SUSPECTED: u32 = 6;

/// A failure of another rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) peer: Peer,
    pub(super) said: Said,
    /// The rank that reported it.
    reporter: usize,
}

impl Fault {
    fn encode(&self) -> Vec<u8> {
        let (kind, seconds, words) = match &self.said {
            Said::Words(words) => ("words", 0, words.as_str()),
            Said::Nothing { seconds } => ("nothing", *seconds, ""),
            Said::Late { seconds } => ("late", *seconds, ""),
        };
        let Peer { rank, host } = &self.peer;
        format!("{rank}\n{host}\n{}\n{kind}\n{seconds}\n{words}", self.reporter).into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let mut parts = text.splitn(6, '\n');
        let mut next = || parts.next();
        let rank = next()?.parse().ok()?;
        let host = next()?.to_owned();
        let reporter = next()?.parse().ok()?;
        let kind = next()?;
        let seconds = next()?.parse().ok()?;
        let said = match kind {
            "words" => Said::Words(next()?.to_owned()),
            "nothing" => Said::Nothing { seconds },
            _ => Said::Late { seconds },
        };
        Some(Self { peer: Peer { rank, host }, said, reporter })
    }
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    /// A connection to another rank has broken.
    suspect: AtomicBool,
    /// Operations entered.
    entered: AtomicU64,
    fault: Mutex<Option<Fault>>,
}

/// The thread.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    rank: usize,
    pub(super) peers: Vec<Peer>,
}

/// Signs of life of another rank, as seen from here.
#[derive(Debug, Clone, Default)]
struct Signs {
    last: Option<Vec<u8>>,
    silent: u32,
}

impl Watch {
    pub(super) fn start(store: Store, rank: usize, peers: Vec<Peer>) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            suspect: AtomicBool::new(false),
            entered: AtomicU64::new(0),
            fault: Mutex::new(None),
        });
        let watcher = Watcher { store, rank, peers: peers.clone(), shared: shared.clone() };
        let thread = thread::Builder::new().name("ranks".to_owned()).spawn(move || watcher.run());
        // Without a thread, failures are found by broken connections and time-outs alone.
        Self { shared, thread: thread.ok(), rank, peers }
    }

    /// Counts an operation that this rank enters.
    pub(super) fn enter(&self) {
        self.shared.entered.fetch_add(1, Ordering::Relaxed);
    }

    /// The failure of another rank, as an error.
    pub(super) fn fault(&self) -> Option<DistError> {
        let fault = self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        // Rank 0 tells; without it, the lowest that is left.
        let teller = usize::from(fault.peer.rank == 0);
        let tells = self.rank == teller;
        Some(DistError::Lost { peer: fault.peer, said: fault.said, tells })
    }

    /// Waits until the reason of a broken connection is known.
    pub(super) fn explain(&self) -> Option<DistError> {
        self.shared.suspect.store(true, Ordering::Relaxed);
        for _ in 0..4 * SUSPECTED {
            if let Some(fault) = self.fault() {
                return Some(fault);
            }
            thread::sleep(TICK / 2);
        }
        self.fault()
    }

    /// Reports a failure to all ranks; the first report counts.
    pub(super) fn report(&self, store: &Store, peer: Peer, said: Said) {
        let fault = Fault { peer, said, reporter: self.rank };
        // If the store is gone, the others find out by that.
        if matches!(store.add("reported", 1), Ok(1)) {
            let _ = store.set("fault", &fault.encode());
        }
        // The thread reads it back.
    }

    pub(super) fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }

    /// Operations entered by this rank.
    pub(super) fn entered(&self) -> u64 {
        self.shared.entered.load(Ordering::Relaxed)
    }
}

/// The number of operations that a sign of life tells.
pub(super) fn entered_of(beat: &[u8]) -> Option<u64> {
    std::str::from_utf8(beat).ok()?.split_once(' ')?.1.parse().ok()
}

struct Watcher {
    store: Store,
    rank: usize,
    peers: Vec<Peer>,
    shared: Arc<Shared>,
}

impl Watcher {
    fn run(&self) {
        let mut signs = vec![Signs::default(); self.peers.len()];
        let mut own = 0u64;
        let mut broken = 0;
        while !self.shared.stop.load(Ordering::Relaxed) {
            own += 1;
            match self.tick(own, &mut signs) {
                Ok(None) => broken = 0,
                Ok(Some(fault)) => return self.found(fault),
                // The store is gone: with rank 0, or with the launcher that served it.
                Err(_) => {
                    broken += 1;
                    if broken >= 2 {
                        let seconds = TICK.as_secs().max(1);
                        let (peer, said) = (self.peers[0].clone(), Said::Nothing { seconds });
                        return self.found(Fault { peer, said, reporter: self.rank });
                    }
                }
            }
            thread::park_timeout(TICK);
        }
        // Nobody waits for a rank that has left.
        let _ = self.store.set(&format!("beat/{}", self.rank), b"left");
    }

    fn found(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        let _ = self.store.add("heard", 1);
    }

    fn tick(
        &self,
        own: u64,
        signs: &mut [Signs],
    ) -> Result<Option<Fault>, crate::error::TorchError> {
        let entered = self.shared.entered.load(Ordering::Relaxed);
        self.store.set(&format!("beat/{}", self.rank), format!("{own} {entered}").as_bytes())?;
        if let Some(fault) = self.store.get("fault")?.as_deref().and_then(Fault::decode)
            && fault.peer.rank != self.rank
        {
            return Ok(Some(fault));
        }
        if self.shared.suspect.load(Ordering::Relaxed) {
            self.store.set("suspect", b"1")?;
        }
        let suspected = self.store.get("suspect")?.is_some();
        let patience = if suspected { SUSPECTED } else { SILENT };
        let watched = if self.rank == 0 { 1..self.peers.len() } else { 0..1 };
        for rank in watched {
            let beat = self.store.get(&format!("beat/{rank}"))?;
            let of = &mut signs[rank];
            if beat.as_deref() == Some(b"left") || beat != of.last {
                *of = Signs { last: beat, silent: 0 };
                continue;
            }
            of.silent += 1;
            // Without a first sign, the rank is still starting.
            if of.last.is_some() && of.silent >= patience {
                let seconds = u64::from(of.silent) * TICK.as_millis() as u64 / 1000;
                let peer = self.peers[rank].clone();
                let fault = Fault { peer, said: Said::Nothing { seconds }, reporter: self.rank };
                if self.store.add("reported", 1)? == 1 {
                    self.store.set("fault", &fault.encode())?;
                }
                return Ok(Some(fault));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_survive_the_store() {
        for said in [
            Said::Words("the disk\nis full".to_owned()),
            Said::Nothing { seconds: 3 },
            Said::Late { seconds: 1800 },
        ] {
            let peer = Peer { rank: 3, host: "node-b".to_owned() };
            let fault = Fault { peer, said, reporter: 1 };
            assert_eq!(Fault::decode(&fault.encode()), Some(fault));
        }
        assert_eq!(Fault::decode(b"x"), None);
        assert_eq!(entered_of(b"17 4"), Some(4));
        assert_eq!(entered_of(b"left"), None);
    }
}
