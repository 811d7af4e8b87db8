//! Rewards, judges and classifiers: one program, so that what they depend on is linked once.

#[cfg(feature = "judge")]
mod apis;
#[cfg(feature = "neural")]
mod classifier;
mod combinators;
#[cfg(feature = "judge")]
mod command;
#[cfg(feature = "judge")]
mod faults;
#[cfg(feature = "judge")]
mod hostile;
#[cfg(all(feature = "judge", feature = "neural"))]
mod policy_judge;
#[cfg(feature = "judge")]
mod support;
#[cfg(feature = "judge")]
mod throughput;
