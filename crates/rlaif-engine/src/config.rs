//! The settings of a sampler over vLLM.

use rlaif_core::BadSetting;
use rlaif_http::Address;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The settings of a sampler over vLLM servers.
///
/// ```
/// let config = rlaif_engine::VllmConfig {
///     urls: vec!["http://localhost:8000".to_owned()],
///     ..rlaif_engine::VllmConfig::default()
/// };
/// config.check()?;
/// # Ok::<(), rlaif_core::BadSetting>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VllmConfig {
    /// Addresses of the servers, such as `http://localhost:8000`. They serve the same model.
    pub urls: Vec<String>,
    /// Name of the model on the servers; by default, that of the only base model that they serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Folder for the weights on their way to the servers, which see it under the same path; each run has a folder of its
    /// own in it. By default, `sampler` in the run's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// The environment variable with the key of the servers (`--api-key` of vLLM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// Maximum number of concurrent requests to a server, each of all responses to a prompt.
    pub concurrency: usize,
    /// Time limit for a complete answer, in seconds; that of loading weights as well.
    pub timeout_s: f64,
    /// Time limit for a connection, in seconds.
    pub connect_timeout_s: f64,
    /// Number of failures in a row after which a server is not asked again in a step, and the number of retries of
    /// any other call.
    pub retries: u32,
    /// The longest wait before a retry, in seconds.
    pub longest_wait_s: f64,
    /// Maximum number of updates between the weights of a server and those of the policy. With 0, a server whose weights could not be
    /// renewed is not asked; with more, it is asked until they are that old.
    pub max_staleness: u64,
    /// Largest KL per token between servers and policy, on the first responses to each version of the weights: a run
    /// whose servers compute another model ends.
    pub max_mismatch_kl: f64,
    /// Number of responses of each server whose log-probabilities are compared, for each version of the weights.
    pub compared: usize,
}

impl Default for VllmConfig {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            model: None,
            folder: None,
            api_key_env: None,
            concurrency: 32,
            timeout_s: 600.,
            connect_timeout_s: 10.,
            retries: 3,
            longest_wait_s: 10.,
            max_staleness: 0,
            max_mismatch_kl: 0.02,
            compared: 4,
        }
    }
}

impl VllmConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`BadSetting`] names the setting, its value and its range.
    pub fn check(&self) -> Result<(), BadSetting> {
        if self.urls.is_empty() {
            return Err(BadSetting::new("urls", "empty", "the address of at least one server"));
        }
        for url in &self.urls {
            Address::parse(url).map_err(|error| {
                BadSetting::new("urls", error.found, rlaif_http::BadAddress::EXPECTED)
            })?;
        }
        let plain = |url: &String| url.trim_end_matches('/').to_ascii_lowercase();
        let before =
            |at: usize| self.urls[..at].iter().any(|url| plain(url) == plain(&self.urls[at]));
        if let Some(url) = (1..self.urls.len()).find(|&at| before(at)) {
            return Err(BadSetting::new(
                "urls",
                format!("{} twice", self.urls[url]),
                "each server once",
            ));
        }
        for (field, number) in [("concurrency", self.concurrency), ("compared", self.compared)] {
            if !(1..=4096).contains(&number) {
                return Err(BadSetting::new(field, number, "a number from 1 to 4096"));
            }
        }
        if self.retries > 100 {
            return Err(BadSetting::new("retries", self.retries, "at most 100"));
        }
        for (field, seconds) in [
            ("timeout_s", self.timeout_s),
            ("connect_timeout_s", self.connect_timeout_s),
            ("longest_wait_s", self.longest_wait_s),
        ] {
            if !(1e-3..=1e6).contains(&seconds) {
                return Err(BadSetting::new(field, seconds, "a number from 0.001 to 1e6"));
            }
        }
        if self.max_mismatch_kl.is_nan() || self.max_mismatch_kl <= 0. {
            let expected = "a number above 0, in nats per token";
            return Err(BadSetting::new("max_mismatch_kl", self.max_mismatch_kl, expected));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_out_of_range_is_refused_by_its_name() {
        let base = || VllmConfig {
            urls: vec!["http://one:8000".to_owned(), "http://two:8000".to_owned()],
            ..VllmConfig::default()
        };
        assert_eq!(base().check(), Ok(()));
        let urls = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect();
        for (field, config) in [
            ("urls", VllmConfig { urls: urls(&[]), ..base() }),
            ("urls", VllmConfig { urls: urls(&["localhost:8000"]), ..base() }),
            ("urls", VllmConfig { urls: urls(&["http://a", "http://A/"]), ..base() }),
            ("concurrency", VllmConfig { concurrency: 0, ..base() }),
            ("compared", VllmConfig { compared: 0, ..base() }),
            ("retries", VllmConfig { retries: 101, ..base() }),
            ("timeout_s", VllmConfig { timeout_s: 0., ..base() }),
            ("connect_timeout_s", VllmConfig { connect_timeout_s: f64::NAN, ..base() }),
            ("longest_wait_s", VllmConfig { longest_wait_s: -1., ..base() }),
            ("max_mismatch_kl", VllmConfig { max_mismatch_kl: f64::NAN, ..base() }),
        ] {
            assert_eq!(config.check().unwrap_err().field, field);
        }
    }
}
