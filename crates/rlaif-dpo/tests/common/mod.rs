//! Code shared by the tests of whole trainings.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rlaif_models::{Config, LanguageModel};
use tch::{Device, Kind};

/// Runs one test at a time: all threads share libtorch's generator, and recomputation in a backward
/// pass resets it.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static TESTS: Mutex<()> = Mutex::new(());
    // Tiny tensors gain nothing from a second thread.
    rlaif_torch::set_intra_op_threads(1).unwrap();
    TESTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A model with random weights, always the same.
pub(crate) fn model(json: &str) -> LanguageModel {
    tch::manual_seed(4);
    let config = Config::from_value(serde_json::from_str(json).unwrap());
    LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap()
}
