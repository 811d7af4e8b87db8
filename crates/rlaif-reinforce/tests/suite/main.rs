//! Tests of the whole trainer on tiny models. They share one program, because linking libtorch
//! takes longer than most of them.

mod ahead;
mod calling;
mod common;
mod episodes;
mod forks;
mod guessing;
mod invariants;
mod learning;
mod parity;
mod refusals;
