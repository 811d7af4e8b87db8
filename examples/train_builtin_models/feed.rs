//! Batches prepared ahead of time by other threads, in an order that depends on the seed alone.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// Number of batches that one thread makes at a time, sorted by length to reduce padding.
pub(crate) const CHUNK: usize = 16;

/// An endless supply of batches.
pub(crate) struct Feed<T> {
    workers: Vec<Receiver<Vec<T>>>,
    chunk: u64,
    ready: std::vec::IntoIter<T>,
}

impl<T: Send + 'static> Feed<T> {
    /// Starts the threads. `make` makes the `n`-th chunk.
    pub(crate) fn start(make: impl Fn(u64) -> Vec<T> + Send + Clone + 'static) -> Self {
        let count = thread::available_parallelism().map_or(1, |n| (n.get() / 4).clamp(1, 4)) as u64;
        let workers = (0..count)
            .map(|worker| {
                let (send, receive) = sync_channel(2);
                let make = make.clone();
                thread::spawn(move || {
                    let mut chunk = worker;
                    // Ends when the receiver is dropped.
                    while send.send(make(chunk)).is_ok() {
                        chunk += count;
                    }
                });
                receive
            })
            .collect();
        Self { workers, chunk: 0, ready: Vec::new().into_iter() }
    }

    /// The next batch.
    pub(crate) fn next(&mut self) -> T {
        loop {
            if let Some(batch) = self.ready.next() {
                return batch;
            }
            let worker = (self.chunk % self.workers.len() as u64) as usize;
            self.ready = self.workers[worker].recv().expect("its threads never end").into_iter();
            self.chunk += 1;
        }
    }
}

/// `rows` in batches of rows of similar length, the batches in random order.
pub(crate) fn batched<R>(
    mut rows: Vec<R>,
    size: usize,
    length: impl Fn(&R) -> usize,
    rng: &mut fastrand::Rng,
) -> Vec<Vec<R>> {
    rows.sort_by_key(|row| length(row));
    let mut batches = Vec::new();
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        batches.push(rows.by_ref().take(size).collect());
    }
    rng.shuffle(&mut batches);
    batches
}
