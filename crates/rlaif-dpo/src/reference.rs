//! The reference policy, and its log-probabilities on disk.

use std::path::Path;

use rlaif_core::BadSetting;
use rlaif_lm::{Adapters, Parameters};
use rlaif_torch::with_bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::no_grad;
use twox_hash::XxHash3_128;

use crate::{error::DpoError, forward::PromptForward};

/// Moves the reference towards the policy during training (Gorbatovski et al. 2024, TR-DPO,
/// [arXiv:2404.09656](https://arxiv.org/abs/2404.09656)): every `every` steps, `θ_ref ← α θ + (1 -
/// α) θ_ref`. Needs a [`rlaif_lm::Reference::Frozen`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReferenceUpdate {
    /// Optimizer steps between two updates.
    pub every: u64,
    /// α; 1 replaces the reference.
    #[serde(default = "ReferenceUpdate::mixup")]
    pub mixup: f64,
}

impl ReferenceUpdate {
    fn mixup() -> f64 {
        0.6
    }

    pub(crate) fn check(self) -> Result<(), DpoError> {
        let setting = |field: &'static str, found: String, expected: &'static str| {
            Err(BadSetting::new(field, found, expected).into())
        };
        if self.every == 0 {
            return setting("reference.update.every", "0".to_owned(), "at least 1 step");
        }
        if !(self.mixup > 0. && self.mixup <= 1.) {
            return setting("reference.update.mixup", self.mixup.to_string(), "above 0, at most 1");
        }
        Ok(())
    }

    /// Moves `reference` towards `policy`.
    pub(crate) fn apply(self, reference: &Parameters, policy: &Parameters) {
        no_grad(|| {
            for (name, kept) in reference.iter() {
                if let Some(new) = policy.get(name) {
                    let mut kept = kept.shallow_clone();
                    let _ = kept.lerp_(new, self.mixup);
                }
            }
        });
    }
}

/// A 128-bit key of everything that the log-probabilities of a reference depend on: every weight,
/// every token, the temperature, and the method of computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheKey(u128);

impl std::fmt::Display for CacheKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Raised when the meaning of the numbers in a cache changes.
const VERSION: u32 = 1;

/// The inputs of a key, besides the weights.
#[derive(Debug)]
pub(crate) struct CacheInputs<'a> {
    pub(crate) model_type: &'a str,
    pub(crate) parameters: &'a Parameters,
    pub(crate) adapters: Adapters<'static>,
    pub(crate) temperature: f64,
    pub(crate) tail_weight: f64,
    pub(crate) prompt_forward: PromptForward,
    pub(crate) batch_size: usize,
}

impl CacheInputs<'_> {
    /// The key for these weights and settings over `rows`, each a prompt and its two responses.
    pub(crate) fn key<'r>(
        &self,
        rows: impl Iterator<Item = [&'r [u32]; 3]>,
    ) -> Result<CacheKey, DpoError> {
        let mut hash = XxHash3_128::new();
        let mut text = |text: &str| {
            hash.write(&(text.len() as u64).to_le_bytes());
            hash.write(text.as_bytes());
        };
        text(&format!(
            "rlaif reference {VERSION} {} {:?} {} {} {:?} {}",
            self.model_type,
            self.adapters,
            self.temperature,
            self.tail_weight,
            self.prompt_forward,
            self.batch_size
        ));
        for (name, tensor) in self.parameters.iter() {
            hash.write(format!("{name} {:?} {:?};", tensor.kind(), tensor.size()).as_bytes());
            let here = tensor.to_device(tch::Device::Cpu).contiguous();
            with_bytes(&here, |bytes| hash.write(bytes))?;
        }
        for row in rows {
            for ids in row {
                hash.write(&(ids.len() as u64).to_le_bytes());
                ids.iter().for_each(|id| hash.write(&id.to_le_bytes()));
            }
        }
        Ok(CacheKey(hash.finish_128()))
    }
}

/// The reference's sums of log-probabilities, two for each row.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceSums(pub(crate) Vec<[f32; 2]>);

impl ReferenceSums {
    /// Both sums of each row: of the chosen and the rejected response or, for an unpaired row, of
    /// its response and of the mismatched response (0 if the loss does not need it).
    pub fn rows(&self) -> &[[f32; 2]] {
        &self.0
    }
}

/// First bytes of a cache file, before its key, the number of rows and the sums.
const MAGIC: &[u8; 8] = b"rlaifref";

/// The sums under this key, if the folder has all of them. A file that is damaged, or has another
/// number of rows, is ignored and its content computed again.
pub(crate) fn read_cache(folder: &Path, key: CacheKey, rows: usize) -> Option<ReferenceSums> {
    let bytes = rlaif_files::read_bytes(&file(folder, key), u64::MAX).ok()?;
    let (body, checksum) = bytes.split_last_chunk::<16>()?;
    if XxHash3_128::oneshot(body).to_le_bytes() != *checksum {
        return None;
    }
    let body = body.strip_prefix(MAGIC)?.strip_prefix(&key.0.to_le_bytes())?;
    let sums: Vec<[f32; 2]> = body
        .as_chunks::<8>()
        .0
        .iter()
        .map(|bytes| {
            let [a, b, c, d, e, f, g, h] = *bytes;
            [f32::from_le_bytes([a, b, c, d]), f32::from_le_bytes([e, f, g, h])]
        })
        .collect();
    (sums.len() == rows && body.len() == 8 * rows).then_some(ReferenceSums(sums))
}

/// Writes the sums under this key to a temporary file, which is then renamed.
pub(crate) fn write_cache(
    folder: &Path,
    key: CacheKey,
    sums: &ReferenceSums,
) -> Result<(), DpoError> {
    let path = file(folder, key);
    let mut bytes = [MAGIC.as_slice(), &key.0.to_le_bytes()].concat();
    for row in &sums.0 {
        row.iter().for_each(|sum| bytes.extend(sum.to_le_bytes()));
    }
    bytes.extend(XxHash3_128::oneshot(&bytes).to_le_bytes());
    // Several runs may share the folder.
    rlaif_files::write_shared(&path, &bytes).map_err(|source| DpoError::Cache { path, source })
}

fn file(folder: &Path, key: CacheKey) -> std::path::PathBuf {
    folder.join(format!("reference-{key}.bin"))
}
