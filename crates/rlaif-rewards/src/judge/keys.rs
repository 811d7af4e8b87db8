//! The keys of all configurations that ask a language model: judges, judges of pairs, writers.

use std::path::PathBuf;

use rlaif_core::BadSetting;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ProviderError;

/// Declares a configuration with its own keys and those of a service.
///
/// The keys of a service stand here once. They are not a flattened struct, because serde then knows
/// neither the line of a wrong key nor the nearest known one.
macro_rules! with_service_keys {
    (
        $(#[$about:meta])*
        pub struct $name:ident $(<$kind:ident = $any:ident>)? { $($own:tt)* }
        $(#[$model:meta])*
        api: $api:ty $(,)?
    ) => {
        $(#[$about])*
        #[derive(
            Debug, Clone, PartialEq, serde::Deserialize, serde::Serialize, schemars::JsonSchema,
        )]
        #[serde(deny_unknown_fields)]
        pub struct $name $(<$kind = $any>)? {
            $($own)*
            $(#[$model])*
            pub api: $api,
            /// Sampling of its answers.
            #[serde(default)]
            pub sampling: $crate::judge::SamplingConfig,
            /// Limits of rate and time.
            #[serde(default)]
            pub limits: $crate::judge::LimitsConfig,
            /// Prices of tokens, for the cost.
            pub price: Option<$crate::judge::PriceConfig>,
            /// Limits of spending.
            pub budget: Option<$crate::judge::BudgetConfig>,
            /// The file of answers, for later runs and other processes.
            pub cache: Option<std::path::PathBuf>,
        }

        impl $(<$kind>)? $name $(<$kind>)? {
            /// The keys of a service. A relative `cache` is relative to `folder`.
            pub(crate) fn service(
                &self,
                folder: &std::path::Path,
            ) -> $crate::judge::keys::ServiceKeys<'_> {
                $crate::judge::keys::ServiceKeys {
                    reasks: self.reasks,
                    sampling: &self.sampling,
                    limits: &self.limits,
                    price: self.price,
                    budget: self.budget,
                    cache: self.cache.as_ref().map(|cache| folder.join(cache)),
                }
            }
        }
    };
}
pub(super) use with_service_keys;

/// Sampling of a judge. Only keys that are set are sent.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SamplingConfig {
    /// Maximum length of an answer, in tokens; by default 16 for numbers, 4 for expectations, 300
    /// with a justification, 512 for a writer's text.
    pub max_new_tokens: Option<u32>,
    /// The temperature.
    pub temperature: Option<f64>,
    /// The probability mass in top-p sampling.
    pub top_p: Option<f64>,
    /// The number of tokens in top-k sampling.
    pub top_k: Option<u32>,
    /// The seed of the first sample, for servers that accept one; further samples use the next
    /// seeds.
    pub seed: Option<u64>,
}

/// Limits of rate and time for a server.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Maximum number of concurrent requests.
    pub concurrency: usize,
    /// Requests per minute, evenly spaced, retries included.
    pub requests_per_minute: Option<f64>,
    /// Tokens per minute, question and answer.
    pub tokens_per_minute: Option<f64>,
    /// Time limit for a complete answer, in seconds.
    pub timeout_s: f64,
    /// Time limit for a connection, in seconds.
    pub connect_timeout_s: f64,
    /// Number of retries after transient errors.
    pub retries: u32,
    /// The longest wait before a retry, in seconds; if the server asks for a longer wait, there is
    /// no retry.
    pub longest_wait_s: f64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            concurrency: 8,
            requests_per_minute: None,
            tokens_per_minute: None,
            timeout_s: 60.,
            connect_timeout_s: 10.,
            retries: 5,
            longest_wait_s: 120.,
        }
    }
}

/// Prices of tokens, in any currency.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceConfig {
    /// The price of a million tokens of questions.
    pub input_per_million: f64,
    /// The price of a million tokens of answers.
    pub output_per_million: f64,
}

/// Spending limits of one process, from its start.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetConfig {
    /// The limit in the currency of the prices.
    pub money: Option<f64>,
    /// The limit in tokens, of questions and answers.
    pub tokens: Option<u64>,
}

/// The keys of a service.
#[derive(Debug, Clone)]
pub(crate) struct ServiceKeys<'a> {
    pub(crate) reasks: Option<u32>,
    pub(crate) sampling: &'a SamplingConfig,
    pub(crate) limits: &'a LimitsConfig,
    pub(crate) price: Option<PriceConfig>,
    pub(crate) budget: Option<BudgetConfig>,
    pub(crate) cache: Option<PathBuf>,
}

impl ServiceKeys<'_> {
    /// Checks constraints that the types do not express; fields may have been set by code.
    pub(crate) fn check(&self) -> Result<(), ProviderError> {
        let LimitsConfig {
            concurrency,
            requests_per_minute,
            tokens_per_minute,
            timeout_s,
            connect_timeout_s,
            retries,
            longest_wait_s,
        } = self.limits;
        at_least_one("limits.concurrency", *concurrency, 1_024)?;
        at_least_one("limits.retries + 1", *retries as usize + 1, 101)?;
        for (setting, value) in [
            ("limits.requests_per_minute", *requests_per_minute),
            ("limits.tokens_per_minute", *tokens_per_minute),
            ("limits.timeout_s", Some(*timeout_s)),
            ("limits.connect_timeout_s", Some(*connect_timeout_s)),
            ("limits.longest_wait_s", Some(*longest_wait_s)),
        ] {
            if value.is_some_and(|value| !(1e-3..=1e9).contains(&value)) {
                return Err(ProviderError::Setting(BadSetting::new(
                    setting,
                    value.unwrap_or(f64::NAN),
                    "a number from 0.001 to 1e9",
                )));
            }
        }
        if let Some(reasks) = self.reasks {
            at_least_one("reasks + 1", reasks as usize + 1, 101)?;
        }
        if let Some(price) = self.price {
            let PriceConfig { input_per_million, output_per_million } = price;
            let sane = |price: f64| price >= 0. && price.is_finite();
            if !(sane(input_per_million) && sane(output_per_million)) {
                return Err(ProviderError::Setting(BadSetting::new(
                    "price",
                    format!("{input_per_million} and {output_per_million}"),
                    "two numbers of at least 0",
                )));
            }
        }
        match self.budget {
            Some(BudgetConfig { money: Some(money), .. }) if !(money > 0. && money.is_finite()) => {
                Err(ProviderError::Setting(BadSetting::new(
                    "budget.money",
                    money,
                    "a number above 0",
                )))
            }
            Some(BudgetConfig { money: Some(_), .. }) if self.price.is_none() => {
                Err(ProviderError::Setting(BadSetting::new(
                    "budget.money",
                    "given without `price`",
                    "used with `price.input_per_million` and `price.output_per_million`",
                )))
            }
            Some(BudgetConfig { money: None, tokens: None }) => Err(ProviderError::Setting(
                BadSetting::new("budget", "neither", "`money`, `tokens` or both"),
            )),
            _ => Ok(()),
        }
    }

    /// Refuses keys that have no effect on a policy of this library.
    #[cfg(feature = "neural")]
    pub(crate) fn check_for_policy(&self) -> Result<(), ProviderError> {
        let given = [
            ("limits", *self.limits != LimitsConfig::default()),
            ("price", self.price.is_some()),
            ("budget", self.budget.is_some()),
            ("cache", self.cache.is_some()),
            ("reasks", self.reasks.is_some()),
        ];
        let given: Vec<&str> =
            given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect();
        if given.is_empty() {
            return Ok(());
        }
        Err(ProviderError::Setting(BadSetting::new(
            "api.kind",
            format!("`policy` with {}", given.join(", ")),
            "that of a service, where those keys mean something",
        )))
    }
}

pub(super) fn at_least_one(
    setting: &'static str,
    value: usize,
    most: usize,
) -> Result<(), ProviderError> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(ProviderError::Setting(BadSetting::new(
        setting,
        value,
        format!("a whole number from 1 to {most}"),
    )))
}
