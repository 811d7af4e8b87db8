//! Processes that are connected by c10d.

use std::{
    ffi::c_void,
    ptr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use tch::Tensor;

use super::{
    collective::{Collective, Pending},
    error::{DistError, Peer, Said},
    launch::Launch,
    store::{Store, StorePart, bytes_of, c_string, milliseconds},
    watch::{Watch, entered_of},
};
use crate::error::TorchError;
use crate::ffi;

/// Time after which a rank that waits checks the others for failures.
const LOOK: Duration = Duration::from_millis(100);

/// c10d's process group over Gloo.
#[derive(Debug)]
struct Gloo(*mut c_void);

// SAFETY: the C++ object locks its queue, and nothing in it belongs to a thread.
unsafe impl Send for Gloo {}
// SAFETY: as above.
unsafe impl Sync for Gloo {}

/// This process among those of a run.
#[derive(Debug)]
pub(super) struct C10d {
    launch: Launch,
    store: Store,
    /// Leaked after a failure: its destructor waits for operations that never end.
    gloo: Gloo,
    watch: Watch,
    failed: AtomicBool,
}

/// The host's name.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    name.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_else(|| "this host".to_owned())
}

fn message(error: TorchError) -> String {
    match error {
        TorchError::Libtorch { message, .. } => message,
        other => other.to_string(),
    }
}

impl C10d {
    /// Meets the other processes.
    pub(super) fn join(launch: &Launch) -> Result<Self, DistError> {
        let (rank, size) = (launch.rank, launch.size);
        // SAFETY: takes nothing.
        if unsafe { ffi::rlaif_dist_built() } == 0 {
            return Err(DistError::NotBuilt { size });
        }
        let started = Instant::now();
        let serves = rank == 0 && !launch.served;
        let part = if serves { StorePart::Server } else { StorePart::Client };
        let store = open(launch, part)?;
        let lost = |error: TorchError| DistError::NoRendezvous {
            host: launch.host.clone(),
            port: launch.port,
            seconds: started.elapsed().as_secs(),
            message: message(error),
        };
        if store.add(&format!("taken/{rank}"), 1).map_err(lost)? > 1 {
            return Err(DistError::RankTwice { rank });
        }
        let own = format!("{size}\n{}", host_name());
        store.set(&format!("join/{rank}"), own.as_bytes()).map_err(lost)?;
        let peers = meet(&store, launch, started, lost)?;
        let watch = Watch::start(open(launch, StorePart::Client)?, rank, peers);

        let (interface, host) = (
            c_string(&launch.interface),
            c_string(match launch.is_one_host() {
                true => "127.0.0.1",
                false => "",
            }),
        );
        let mut gloo = ptr::null_mut();
        // SAFETY: the store outlives the group, which counts it too; strings and `gloo` outlive the call.
        let status = unsafe {
            ffi::rlaif_group_open(
                store.raw(),
                rank as i32,
                size as i32,
                // Ours ends first, and says more.
                milliseconds(launch.patience + Duration::from_secs(60)),
                interface.as_ptr(),
                host.as_ptr(),
                &raw mut gloo,
            )
        };
        if let Err(error) = ffi::check("connecting ranks", status) {
            return Err(watch.explain().unwrap_or_else(|| DistError::Failed {
                operation: "connecting",
                size,
                message: message(error),
            }));
        }
        let failed = AtomicBool::new(false);
        Ok(Self { launch: launch.clone(), store, gloo: Gloo(gloo), watch, failed })
    }

    fn fail(&self, error: DistError) -> DistError {
        self.failed.store(true, Ordering::Relaxed);
        error
    }

    /// The error of an operation that libtorch refused or broke off.
    fn broken(&self, operation: &'static str, error: TorchError) -> DistError {
        let explained = self.watch.explain();
        self.fail(explained.unwrap_or_else(|| DistError::Failed {
            operation,
            size: self.launch.size,
            message: message(error),
        }))
    }

    /// The rank that keeps the others waiting, which is told to all.
    fn late(&self, operation: &'static str) -> DistError {
        let seconds = self.launch.patience.as_secs();
        let own = self.watch.entered();
        let behind = (0..self.launch.size).filter(|&rank| rank != self.launch.rank).find(|rank| {
            let beat = self.store.get(&format!("beat/{rank}")).ok().flatten();
            beat.as_deref().and_then(entered_of).is_some_and(|entered| entered < own)
        });
        let Some(rank) = behind else {
            let message = format!("it took longer than {seconds} s");
            return self.fail(DistError::Failed { operation, size: self.launch.size, message });
        };
        let peer = self.watch.peers[rank].clone();
        self.watch.report(&self.store, peer.clone(), Said::Late { seconds });
        let fault = self.watch.explain();
        self.fail(fault.unwrap_or(DistError::Lost {
            peer,
            said: Said::Late { seconds },
            tells: true,
        }))
    }
}

/// A connection to the store of this launch.
fn open(launch: &Launch, part: StorePart) -> Result<Store, DistError> {
    let opened = Store::open(&launch.host, launch.port, part, launch.meet, &launch.prefix);
    opened.map_err(|error| {
        let message = message(error);
        if part == StorePart::Server
            && (message.contains("EADDRINUSE") || message.contains("already in use"))
        {
            return DistError::PortTaken { port: launch.port };
        }
        DistError::NoRendezvous {
            host: launch.host.clone(),
            port: launch.port,
            seconds: launch.meet.as_secs(),
            message: message.lines().next().unwrap_or_default().to_owned(),
        }
    })
}

/// Waits until all ranks have come, and returns them.
fn meet(
    store: &Store,
    launch: &Launch,
    started: Instant,
    lost: impl Fn(TorchError) -> DistError,
) -> Result<Vec<Peer>, DistError> {
    let mut peers: Vec<Option<Peer>> = vec![None; launch.size];
    loop {
        for (rank, peer) in peers.iter_mut().enumerate().filter(|(_, peer)| peer.is_none()) {
            let Some(joined) = store.get(&format!("join/{rank}")).map_err(&lost)? else { continue };
            let joined = String::from_utf8_lossy(&joined).into_owned();
            let (theirs, host) = joined.split_once('\n').unwrap_or((&joined, ""));
            let found = Peer { rank, host: host.to_owned() };
            if theirs != launch.size.to_string() {
                let (theirs, ours) = (theirs.to_owned(), launch.size);
                return Err(DistError::OtherSize { peer: found, theirs, ours });
            }
            *peer = Some(found);
        }
        if peers.iter().all(Option::is_some) {
            return Ok(peers.into_iter().flatten().collect());
        }
        if started.elapsed() >= launch.meet {
            let missing = (0..launch.size).filter(|&rank| peers[rank].is_none()).collect();
            let seconds = launch.meet.as_secs();
            return Err(DistError::Missing { size: launch.size, missing, seconds });
        }
        thread::sleep(Duration::from_millis(20));
    }
}

impl Collective for C10d {
    fn rank(&self) -> usize {
        self.launch.rank
    }

    fn size(&self) -> usize {
        self.launch.size
    }

    fn start_sum<'g>(&'g self, tensor: &Tensor) -> Result<Box<dyn Pending + 'g>, DistError> {
        self.watch.enter();
        let mut work = ptr::null_mut();
        // SAFETY: group and tensor live; the work counts the tensor's memory as its own.
        let status = unsafe { ffi::rlaif_group_sum(self.gloo.0, tensor.as_ptr(), &raw mut work) };
        match ffi::check("sum", status) {
            Ok(()) => Ok(Box::new(Work { of: self, work, operation: "a sum" })),
            Err(error) => Err(self.broken("a sum", error)),
        }
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, DistError> {
        let lengths = self.gather_equal(&Tensor::from_slice(&[bytes.len() as i64]))?;
        let lengths: Vec<usize> =
            lengths.iter().map(|length| length.int64_value(&[0]) as usize).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if longest == 0 {
            return Ok(vec![Vec::new(); lengths.len()]);
        }
        let mut padded = bytes.to_vec();
        padded.resize(longest, 0);
        let gathered = self.gather_equal(&Tensor::from_slice(&padded))?;
        Ok(gathered
            .iter()
            .zip(lengths)
            .map(|(tensor, length)| {
                let mut bytes = bytes_of(tensor);
                bytes.truncate(length);
                bytes
            })
            .collect())
    }

    fn peer(&self, rank: usize) -> Peer {
        let unknown = || Peer { rank, host: String::new() };
        self.watch.peers.get(rank).cloned().unwrap_or_else(unknown)
    }

    fn last_words(&self, words: &str) {
        self.failed.store(true, Ordering::Relaxed);
        self.watch.report(&self.store, self.peer(self.launch.rank), Said::Words(words.to_owned()));
        if self.launch.rank == 0 && !self.launch.served {
            // The words are in this process: it stays until the others have read them.
            for _ in 0..30 {
                match self.store.add("heard", 0) {
                    Ok(heard) if (heard as usize) < self.launch.size - 1 => thread::sleep(LOOK),
                    _ => break,
                }
            }
        }
    }
}

impl C10d {
    fn gather_equal(&self, tensor: &Tensor) -> Result<Vec<Tensor>, DistError> {
        self.watch.enter();
        let outputs: Vec<Tensor> = (0..self.launch.size).map(|_| tensor.empty_like()).collect();
        let list = ffi::list(&outputs);
        let mut work = ptr::null_mut();
        // SAFETY: group and tensors live; the work counts the tensors' memory as its own.
        let status = unsafe {
            let tensor = tensor.as_ptr();
            ffi::rlaif_group_gather(self.gloo.0, tensor, list.as_ptr(), list.len(), &raw mut work)
        };
        if let Err(error) = ffi::check("gather", status) {
            return Err(self.broken("a gathering", error));
        }
        Box::new(Work { of: self, work, operation: "a gathering" }).wait()?;
        Ok(outputs)
    }
}

impl Drop for C10d {
    fn drop(&mut self) {
        let failed = self.failed.load(Ordering::Relaxed);
        self.watch.stop();
        if failed {
            return;
        }
        let _ = self.store.add("left", 1);
        if self.launch.rank == 0 && !self.launch.served {
            // The store of the others is in this process.
            for _ in 0..100 {
                match self.store.add("left", 0) {
                    Ok(left) if (left as usize) < self.launch.size => thread::sleep(LOOK),
                    _ => break,
                }
            }
        }
        // SAFETY: the pointer came from `rlaif_group_open`, is freed once, and no work is left.
        unsafe { ffi::rlaif_group_free(self.gloo.0) }
    }
}

/// An operation that runs.
struct Work<'g> {
    of: &'g C10d,
    work: *mut c_void,
    operation: &'static str,
}

impl Pending for Work<'_> {
    fn wait(self: Box<Self>) -> Result<(), DistError> {
        let started = Instant::now();
        loop {
            let mut done = 0;
            // SAFETY: the work lives until it is dropped; `done` outlives the call.
            let status =
                unsafe { ffi::rlaif_work_wait(self.work, milliseconds(LOOK), &raw mut done) };
            if let Err(error) = ffi::check(self.operation, status) {
                return Err(self.of.broken(self.operation, error));
            }
            if done != 0 {
                return Ok(());
            }
            if let Some(fault) = self.of.watch.fault() {
                return Err(self.of.fail(fault));
            }
            if started.elapsed() >= self.of.launch.patience {
                return Err(self.of.late(self.operation));
            }
        }
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the call that started the work, and is freed once. Work that still runs is
        // counted by the group's thread too.
        unsafe { ffi::rlaif_work_free(self.work) }
    }
}
