//! What tests of whole trainings share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rlaif_models::{Config, LanguageModel};
use tch::{Device, Kind};

/// One test at a time: libtorch's generator is one for all threads, and what is computed again in a
/// backward pass sets it back.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static TESTS: Mutex<()> = Mutex::new(());
    // Tiny tensors gain nothing from a second thread.
    rlaif_torch::set_intra_op_threads(1).unwrap();
    TESTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A model of random weights, always the same.
pub(crate) fn model(json: &str) -> LanguageModel {
    tch::manual_seed(4);
    let config = Config::from_value(serde_json::from_str(json).unwrap());
    LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap()
}
