//! The speed of this machine on a model, with random token ids of fixed length.

mod dpo;
mod forward;
mod generate;
mod lengths;
mod measured;
mod ppo;
mod reinforce;
mod rl;
mod sft;

pub use dpo::{DpoBench, ReferenceFrom};
pub use forward::ForwardBench;
pub use generate::GenerateBench;
pub use lengths::BenchLengths;
pub(super) use measured::random_ids;
pub use measured::{Measured, TimedSteps};
pub use ppo::PpoBench;
pub use reinforce::ReinforceBench;
pub use rl::RlSteps;
pub use sft::SftBench;
