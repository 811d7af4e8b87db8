//! Each part against an independent reference, on the CPU, and on CUDA if there is a GPU.

mod adamw;
mod common;
mod device;
mod grad;
mod graph;
mod kinds;
mod memory;
mod recompute;
mod rng;
