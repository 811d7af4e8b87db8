//! Code shared by the tests of whole trainings.

use rlaif_models::{Config, LanguageModel};
use tch::{Device, Kind};

/// A model with random weights, always the same.
pub(crate) fn model(json: &str) -> LanguageModel {
    tch::manual_seed(4);
    let config = Config::from_value(serde_json::from_str(json).unwrap());
    LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap()
}
