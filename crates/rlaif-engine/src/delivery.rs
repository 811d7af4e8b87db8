//! Weights on their way to servers: written once for each version, and proved by the servers' digests.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use rlaif_core::{Seed, say};
use rlaif_lm::{LmError, Parameters, Weights, is_adapter};
use rlaif_models::WeightsWriter;
use tch::{Kind, Tensor};

use crate::{error::EngineError, wire::Checksums};

/// A version of the weights, in a folder that servers read.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) version: u64,
    /// Name of the version that no other run gives.
    pub(crate) name: String,
    folder: PathBuf,
    pub(crate) is_adapter: bool,
    /// The version before it with other weights, if there is one.
    differs_from: Option<String>,
    /// The oldest version that is still asked.
    pub(crate) oldest: u64,
}

impl Written {
    /// The folder, as a server is told.
    pub(crate) fn path(&self) -> String {
        self.folder.to_string_lossy().into_owned()
    }
}

/// Writes versions of the weights.
#[derive(Debug)]
pub(crate) struct Delivery {
    writer: WeightsWriter,
    folder: PathBuf,
    /// Beginning of the names.
    run: String,
    max_staleness: u64,
    newest: Option<(Arc<Written>, Vec<u64>)>,
}

impl Delivery {
    pub(crate) fn new(writer: WeightsWriter, folder: &Path, max_staleness: u64) -> Self {
        // Not random numbers of the run: two runs with the same seed have different names.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanoseconds = now.as_secs().wrapping_mul(1_000_000_000) + u64::from(now.subsec_nanos());
        let run = Seed::new(nanoseconds).derive("sampler", u64::from(process::id())).get();
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        Self {
            writer,
            folder,
            run: format!("rlaif-{:08x}", run >> 32),
            max_staleness,
            newest: None,
        }
    }

    /// The folder with these weights, which is written if they are new.
    pub(crate) fn written(&mut self, weights: Weights<'_>) -> Result<Arc<Written>, EngineError> {
        if let Some((newest, _)) =
            self.newest.as_ref().filter(|(newest, _)| newest.version == weights.version)
        {
            return Ok(Arc::clone(newest));
        }
        let (version, parameters) = (weights.version, weights.policy.parameters());
        let folder = self.folder.join(format!("version-{version}"));
        self.writer.write(parameters, &folder)?;
        let is_adapter = self.writer.adapter().is_some();
        let print = fingerprint(parameters, is_adapter).map_err(failed)?;
        let differs_from = match &self.newest {
            Some((before, other)) if *other != print => Some(before.name.clone()),
            Some((before, _)) => before.differs_from.clone(),
            None => None,
        };
        let name = format!("{}-{version}", self.run);
        let oldest = version.saturating_sub(self.max_staleness);
        let written = Arc::new(Written { version, name, folder, is_adapter, differs_from, oldest });
        if let Some((before, _)) = self.newest.replace((Arc::clone(&written), print)) {
            // A server may still be reading the one before.
            self.remove_before(oldest.min(before.version));
        }
        Ok(written)
    }

    fn remove_before(&self, oldest: u64) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let version =
                name.to_str().and_then(|name| name.strip_prefix("version-")?.parse::<u64>().ok());
            if version.is_some_and(|version| version < oldest) {
                // What cannot be removed takes up room, and does no other harm.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn failed(error: LmError) -> EngineError {
    EngineError::Setting(rlaif_core::BadSetting::new(
        "policy",
        error,
        "weights that libtorch can add up",
    ))
}

/// Numbers that differ if the weights differ: the sum of each tensor, and of its absolute values.
fn fingerprint(parameters: &Parameters, adapter: bool) -> Result<Vec<u64>, LmError> {
    let _guard = tch::no_grad_guard();
    let quantized: Vec<&str> = parameters.quantized().collect();
    let own = |name: &str| is_adapter(name) == adapter && !quantized.contains(&name);
    let mut sums = Vec::new();
    for (_, tensor) in parameters.iter().filter(|(name, _)| own(name)) {
        sums.push(tensor.f_sum(Kind::Double)?);
        sums.push(tensor.f_abs()?.f_sum(Kind::Double)?);
    }
    if sums.is_empty() {
        return Ok(Vec::new());
    }
    let sums = Tensor::f_stack(&sums, 0)?.to_device(tch::Device::Cpu);
    let sums = Vec::<f64>::try_from(&sums)?;
    Ok(sums.into_iter().map(f64::to_bits).collect())
}

/// The digests that servers have told, by the name of the version.
#[derive(Debug, Default)]
pub(crate) struct Proofs {
    digests: Mutex<BTreeMap<String, (u64, String, Checksums)>>,
    /// `true` once the absence of digests was told.
    told: AtomicBool,
}

impl Proofs {
    /// Checks the digests of a server that has loaded weights, `before` being those before it loaded them.
    pub(crate) fn check(
        &self,
        server: &str,
        written: &Written,
        digests: &Checksums,
        before: Option<&Checksums>,
    ) -> Result<(), String> {
        let mut all = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, other, known)) = all.get(&written.name) {
            // Servers that are divided differently have different tensors.
            let same_names = known.checksums.keys().eq(digests.checksums.keys());
            if same_names && known != digests {
                let differ = known
                    .checksums
                    .iter()
                    .filter(|(name, digest)| digests.checksums[*name] != **digest);
                let first = differ.map(|(name, _)| name.as_str()).next().unwrap_or_default();
                return Err(format!(
                    "its digest of `{first}` is not that of {other} for the same weights"
                ));
            }
        }
        let unchanged = |older: &Checksums| older == digests;
        let of_older = written.differs_from.as_ref().and_then(|older| all.get(older));
        let arrived = !of_older.is_some_and(|(.., older)| unchanged(older));
        if !arrived && before.is_none_or(unchanged) {
            return Err("its digests are still those of the version before; if the server rounds the weights to a \
                        coarser dtype than the policy's, start it with `--dtype float32`"
                .to_owned());
        }
        let needed = |name: &String| written.differs_from.as_ref() == Some(name);
        all.retain(|name, (version, ..)| *version >= written.oldest || needed(name));
        all.entry(written.name.clone())
            .or_insert_with(|| (written.version, server.to_owned(), digests.clone()));
        Ok(())
    }

    /// Tells once that a server gives no digests.
    pub(crate) fn told(&self, has_digests: bool) {
        if !has_digests && !self.told.swap(true, Ordering::Relaxed) {
            say("note: the servers have no /weight_checker, so digests do not prove that weights \
                 arrive; log-probabilities are compared");
        }
    }
}
