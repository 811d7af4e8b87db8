//! The loss of routers in a step of a trainer, compared with that of transformers.

use std::{fs, path::PathBuf};

use tch::{Kind, Tensor};

use crate::close;

/// A tiny model with experts, and the loss of its routers over a batch, as transformers computes it.
#[derive(Debug)]
pub struct RouterGoldens {
    /// The model's folder.
    pub folder: PathBuf,
    /// Prompt and response of each row of the batch.
    pub rows: Vec<[Vec<u32>; 2]>,
    /// The loss without a coefficient.
    pub loss: f64,
    /// Gradients of this loss by the names of the routers' weights.
    pub gradients: Vec<(String, Tensor)>,
}

impl RouterGoldens {
    /// The models with experts.
    pub const MODELS: [&str; 3] = ["mixtral", "qwen3-moe", "qwen2-moe"];

    /// Reads a model of `fixtures/models`.
    ///
    /// # Panics
    /// If a file is missing.
    pub fn read(name: &str) -> Self {
        let folder =
            PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models")).join(name);
        let text = fs::read(folder.join("goldens.json")).expect("goldens.json");
        let json: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        let ids =
            |row: &serde_json::Value| serde_json::from_value(row.clone()).expect("a list of ids");
        let rows = json["rows"].as_array().expect("rows").iter();
        let rows = rows.map(|row| [ids(&row["prompt_ids"]), ids(&row["response_ids"])]).collect();
        let tensors = Tensor::read_safetensors(folder.join("goldens.safetensors"));
        let gradients = tensors.expect("goldens.safetensors").into_iter();
        let gradients = gradients.filter_map(|(name, tensor)| {
            name.strip_prefix("router.grad.").map(|name| (name.to_owned(), tensor))
        });
        let loss = json["router_loss"].as_f64().expect("a number");
        Self { folder, rows, loss, gradients: gradients.collect() }
    }

    /// Asserts that a weight of a router has moved by the first step of Adam on this loss alone, times a
    /// coefficient: that with a learning rate and an ε of 1, without clipping.
    ///
    /// # Panics
    /// If an element differs by more than 1e-5.
    #[track_caller]
    pub fn assert_moved(&self, name: &str, before: &Tensor, after: &Tensor, coefficient: f64) {
        let gradient = self.gradients.iter().find(|(own, _)| own == name);
        let (_, gradient) = gradient.expect("the weight of a router");
        let gradient = gradient.to_kind(Kind::Double) * coefficient;
        assert!(gradient.abs().max().double_value(&[]) > 1e-3, "{name}: the test compares nothing");
        let step = &gradient / (gradient.abs() + 1.);
        close(after, &crate::numbers(&(before.to_kind(Kind::Double) - step)), 1e-5);
    }
}
