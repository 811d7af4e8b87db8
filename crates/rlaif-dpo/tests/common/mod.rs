//! Code shared by the tests of whole trainings.

use rlaif_models::{Config, LanguageModel};
use rlaif_testing::drawn;
use tch::{Device, Kind};

/// A model with random weights, always the same.
pub(crate) fn model(json: &str) -> LanguageModel {
    let config = Config::from_value(serde_json::from_str(json).unwrap());
    drawn(4, || LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap())
}
