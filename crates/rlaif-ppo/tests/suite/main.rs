//! The trainer as a whole, on tiny models. One program, because linking libtorch takes longer than
//! most of these tests.

mod common;
mod invariants;
mod learning;
mod parity;
mod refusals;
mod routers;
