//! The processes of a run, seen from one of them.

use std::{ops::Range, sync::Arc};

use rlaif_core::say;
use tch::{Device, Kind, Tensor};

use super::{
    collective::{Collective, Pending},
    error::{DistError, Peer},
    group::C10d,
    launch::Launch,
};
use crate::error::TorchError;

/// Bytes of gradients that are summed at a time.
const BUCKET: usize = 25 << 20;

/// One process.
#[derive(Debug)]
struct Alone;

struct Done;

impl Pending for Done {
    fn wait(self: Box<Self>) -> Result<(), DistError> {
        Ok(())
    }
}

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn start_sum<'g>(&'g self, _: &Tensor) -> Result<Box<dyn Pending + 'g>, DistError> {
        Ok(Box::new(Done))
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, DistError> {
        Ok(vec![bytes.to_vec()])
    }

    fn peer(&self, rank: usize) -> Peer {
        Peer { rank, host: String::new() }
    }

    fn last_words(&self, _: &str) {}
}

/// Gradients that are summed together.
struct Bucket<'a, 'g> {
    /// With `true` where this rank has a gradient.
    parameters: &'a [(&'a Tensor, bool)],
    flat: Tensor,
    pending: Box<dyn Pending + 'g>,
}

/// The processes of a run; by default, one. A cheap handle.
///
/// ```
/// use rlaif_torch::dist::World;
/// let world = World::default();
/// assert_eq!((world.rank(), world.size(), world.share(5)), (0, 1, 0..5));
/// ```
#[derive(Debug, Clone)]
pub struct World(Arc<dyn Collective>);

impl Default for World {
    fn default() -> Self {
        Self(Arc::new(Alone))
    }
}

impl World {
    /// Another kind of group.
    pub fn new(group: impl Collective + 'static) -> Self {
        Self(Arc::new(group))
    }

    /// Meets the other processes, as the launcher's variables describe them ([`Launch::from_env`]).
    ///
    /// # Errors
    /// [`DistError`] tells who or what is missing.
    pub fn from_env() -> Result<Self, DistError> {
        Self::join(&Launch::from_env()?)
    }

    /// Meets the other processes; one process meets nobody.
    ///
    /// # Errors
    /// [`DistError`] tells who or what is missing.
    pub fn join(launch: &Launch) -> Result<Self, DistError> {
        if launch.size == 1 {
            return Ok(Self::default());
        }
        Ok(Self::new(C10d::join(launch)?))
    }

    /// Number of this process, from 0.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.0.rank()
    }

    /// Number of processes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.size()
    }

    /// `true` for a single process.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.size() == 1
    }

    /// `true` in the process that writes and prints.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// This rank's part of `count` items in order. The parts of all ranks are all items, once.
    #[must_use]
    pub fn share(&self, count: usize) -> Range<usize> {
        self.share_of(self.rank(), count)
    }

    /// As [`World::share`], of another rank.
    #[must_use]
    pub fn share_of(&self, rank: usize, count: usize) -> Range<usize> {
        let at = |rank: usize| count * rank / self.size();
        at(rank)..at(rank + 1)
    }

    /// This rank's part of items that are dealt like cards: of items sorted by length, each rank has short and long
    /// ones.
    #[must_use]
    pub fn deal<T: Copy>(&self, items: &[T]) -> Vec<T> {
        items.iter().skip(self.rank()).step_by(self.size()).copied().collect()
    }

    /// The parts that [`World::deal`] gives to all ranks, one rank after another.
    #[must_use]
    pub fn dealt<T: Copy>(&self, items: &[T]) -> Vec<T> {
        let of = |rank| items.iter().skip(rank).step_by(self.size()).copied();
        (0..self.size()).flat_map(of).collect()
    }

    /// Sums numbers over all ranks, in place.
    ///
    /// # Errors
    /// [`TorchError::Dist`].
    pub fn sum(&self, numbers: &mut [f64]) -> Result<(), TorchError> {
        if self.is_alone() || numbers.is_empty() {
            return Ok(());
        }
        let tensor = Tensor::from_slice(numbers);
        self.0.start_sum(&tensor)?.wait()?;
        let len = numbers.len();
        tensor.f_copy_data(numbers, len)?;
        Ok(())
    }

    /// `true` if `flag` is so in any rank.
    ///
    /// # Errors
    /// [`TorchError::Dist`].
    pub fn any(&self, flag: bool) -> Result<bool, TorchError> {
        let mut count = [f64::from(u8::from(flag))];
        self.sum(&mut count)?;
        Ok(count[0] > 0.)
    }

    /// The bytes of every rank, in the order of ranks.
    ///
    /// # Errors
    /// [`TorchError::Dist`].
    pub fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TorchError> {
        Ok(self.0.gather(bytes)?)
    }

    /// The numbers of all ranks, one rank after another.
    ///
    /// # Errors
    /// [`TorchError::Dist`].
    pub fn gather_numbers(&self, own: Vec<f64>) -> Result<Vec<f64>, TorchError> {
        if self.is_alone() {
            return Ok(own);
        }
        let bytes: Vec<u8> = own.iter().flat_map(|number| number.to_le_bytes()).collect();
        let all = self.0.gather(&bytes)?.concat();
        let numbers = all.chunks_exact(8).map(|bytes| {
            let mut number = [0; 8];
            number.copy_from_slice(bytes);
            f64::from_le_bytes(number)
        });
        Ok(numbers.collect())
    }

    /// Waits for all ranks.
    ///
    /// # Errors
    /// [`TorchError::Dist`].
    pub fn barrier(&self) -> Result<(), TorchError> {
        self.sum(&mut [0.])
    }

    /// Refuses ranks whose `what` differs from that of rank 0.
    ///
    /// # Errors
    /// [`DistError::Differs`] in every rank; [`TorchError::Dist`].
    pub fn same(&self, what: &str, value: &str, remedy: &'static str) -> Result<(), TorchError> {
        if self.is_alone() {
            return Ok(());
        }
        let all = self.0.gather(value.as_bytes())?;
        let text = |rank: usize| String::from_utf8_lossy(&all[rank]).into_owned();
        match (1..all.len()).find(|&rank| all[rank] != all[0]) {
            None => Ok(()),
            Some(rank) => {
                let (theirs, ours) = first_difference(&text(rank), &text(0));
                let (what, tells) = (what.to_owned(), self.is_first());
                let peer = self.0.peer(rank);
                Err(DistError::Differs { what, peer, theirs, ours, remedy, tells }.into())
            }
        }
    }

    /// Runs `first` in rank 0 while the others wait; they get `None`.
    ///
    /// # Errors
    /// Those of `first` in rank 0; the others end by [`World::last_words`] of it.
    pub fn first<T, E: From<TorchError>>(
        &self,
        first: impl FnOnce() -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        let done = if self.is_first() { Some(first()?) } else { None };
        self.barrier()?;
        Ok(done)
    }

    /// Tells the other ranks why this one ends; they then end with these words.
    pub fn last_words(&self, words: &str) {
        self.0.last_words(words);
    }

    /// Prints in rank 0.
    pub fn say(&self, text: &str) {
        if self.is_first() {
            say(text);
        }
    }

    /// Sums the gradients of `parameters` over all ranks, in buckets of 25 MiB of f32, each while the next is filled.
    /// A parameter without a gradient in this rank counts as zero; without one in any rank, it stays so.
    ///
    /// Sums are made in f32 for gradients of any dtype, and all ranks get the same bits.
    ///
    /// # Errors
    /// [`TorchError::Dist`]; [`TorchError::Tch`] for a gradient that is not dense.
    pub fn sum_gradients<'a>(
        &self,
        parameters: impl IntoIterator<Item = &'a Tensor>,
    ) -> Result<(), TorchError> {
        if self.is_alone() {
            return Ok(());
        }
        let _guard = tch::no_grad_guard();
        // In reverse: the last layers' gradients are the first that a backward pass has.
        let mut parameters: Vec<&Tensor> = parameters.into_iter().collect();
        parameters.reverse();
        let mut has: Vec<f64> =
            parameters.iter().map(|p| f64::from(u8::from(p.grad().defined()))).collect();
        self.sum(&mut has)?;
        let mut all: Vec<(&Tensor, bool)> = Vec::new();
        for (parameter, count) in parameters.into_iter().zip(has) {
            if count > 0. {
                all.push((parameter, parameter.grad().defined()));
            }
        }
        let mut running: Vec<Bucket<'_, '_>> = Vec::new();
        let mut rest = &all[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let len = rest
                .iter()
                .take_while(|(parameter, _)| {
                    let fits = bytes < BUCKET;
                    bytes += parameter.numel() * 4;
                    fits
                })
                .count();
            let (bucket, after) = rest.split_at(len);
            rest = after;
            let flat: Vec<Tensor> = bucket
                .iter()
                .map(|(parameter, has)| match has {
                    true => parameter.grad().f_to_dtype(Kind::Float, false, false)?.f_reshape([-1]),
                    false => Tensor::f_zeros(
                        [parameter.numel() as i64],
                        (Kind::Float, parameter.device()),
                    ),
                })
                .collect::<Result<_, _>>()?;
            let flat = Tensor::f_cat(&flat, 0)?.f_to_device(Device::Cpu)?;
            let pending = self.0.start_sum(&flat)?;
            running.push(Bucket { parameters: bucket, flat, pending });
        }
        for Bucket { parameters, flat, pending } in running {
            pending.wait()?;
            let mut at = 0;
            for (parameter, has) in parameters {
                let len = parameter.numel() as i64;
                let sum = flat.f_narrow(0, at, len)?.f_reshape(parameter.size())?;
                at += len;
                if !has {
                    give_gradient(parameter)?;
                }
                parameter.grad().f_copy_(&sum)?;
            }
        }
        Ok(())
    }
}

/// The first lines that differ.
fn first_difference(one: &str, other: &str) -> (String, String) {
    let (mut one, mut other) = (one.lines(), other.lines());
    loop {
        match (one.next(), other.next()) {
            (None, None) => return Default::default(),
            (a, b) if a != b => {
                let line = |line: Option<&str>| line.unwrap_or("nothing").trim().to_owned();
                return (line(a), line(b));
            }
            _ => {}
        }
    }
}

/// Gives a parameter a gradient of zeros.
fn give_gradient(parameter: &Tensor) -> Result<(), TorchError> {
    tch::with_grad(|| {
        let zero = parameter.f_sum(parameter.kind())?.f_mul_scalar(0.)?;
        zero.f_backward()
    })?;
    // A weight that is not finite times zero is NaN.
    let _ = parameter.grad().f_zero_()?;
    Ok(())
}
