//! Several processes, on one machine or many: libtorch's own c10d under anybody's launcher.
//!
//! ```no_run
//! use rlaif_torch::dist::World;
//! let world = World::from_env()?; // torchrun, srun, mpirun, Kubeflow; else one process
//! let mut count = [world.share(1000).len() as f64];
//! world.sum(&mut count)?;
//! assert_eq!(count, [1000.]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Ranks meet in c10d's `TCPStore` and work together by its process group over Gloo, which is inside libtorch. The
//! wheel lacks Gloo's headers; `cpp/gloo_names/README.md` says why names suffice. Tensors on a GPU are summed on the
//! host.
//!
//! Each rank gives a sign of life every half second. A rank that fails leaves its last words
//! ([`World::last_words`]), and one that is killed or hangs is noticed; the others end with [`DistError::Lost`] within
//! seconds.

mod collective;
pub(crate) mod error;
mod group;
mod launch;
mod store;
mod watch;
mod world;

pub use collective::{Collective, Pending};
pub use error::{DistError, Peer, Said};
pub use launch::{Launch, Launcher};
pub use world::World;
