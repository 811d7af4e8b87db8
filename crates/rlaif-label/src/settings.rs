//! Settings of labels.

use rlaif_core::BadSetting;
use rlaif_rewards::RewardConfig;
use rlaif_rewards::judge::ComparerConfig;
use rlaif_rewards::rubric::PairExample;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::LabelError;

/// The facets by which pairs are labelled, and how they become one label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelSettings {
    /// The judge of pairs, for facets without one of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<ComparerConfig>,
    /// The facets, at least one.
    pub facets: Vec<FacetConfig>,
    /// The way from facets to a label.
    #[serde(default)]
    pub combine: Combination,
    /// The orders in which responses are shown.
    #[serde(default)]
    pub orders: Orders,
    /// The least and the greatest probability of a label, such as `[0.4, 0.6]`: judges that explain
    /// first are too sure of themselves (Bai et al. 2022).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clamp: Option<(f64, f64)>,
}

/// The way from the probabilities of several facets to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Combination {
    /// The weighted mean of the facets.
    #[default]
    Mean,
    /// The weighted share of facets that prefer the response; one that prefers neither is half a vote.
    Vote,
}

/// The orders in which a judge of pairs is shown responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Orders {
    /// Both, whose probabilities are averaged: what a judge prefers for its position cancels out.
    #[default]
    Both,
    /// The order of the pair: half the cost, but labels with the judge's position bias.
    One,
}

/// A facet of what people want: how two responses are compared by it, or how one is scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FacetConfig {
    /// A facet that comes with the library: `helpful`, `honest`, `harmless` or `summary`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facet: Option<String>,
    /// Name in rows and reports; that of `facet` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A custom facet: a description of the better response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preamble: Option<String>,
    /// Examples that the judge is shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<PairExample>,
    /// The facet's weight.
    #[serde(default = "one")]
    pub weight: f64,
    /// A judge of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<Box<ComparerConfig>>,
    /// In place of a judge of pairs, a reward that scores each response: the probability is
    /// σ((r − r') / `temperature`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<Box<RewardConfig>>,
    /// The difference of scores that counts as one nat.
    #[serde(default = "one")]
    pub temperature: f64,
}

fn one() -> f64 {
    1.
}

impl FacetConfig {
    /// The name in rows and reports.
    pub fn name(&self) -> &str {
        self.name.as_deref().or(self.facet.as_deref()).unwrap_or("facet")
    }
}

impl LabelSettings {
    /// Every setting that may name a folder or a file on this disk.
    pub fn locations(&mut self) -> Vec<&mut String> {
        let mut all: Vec<&mut String> =
            self.judge.iter_mut().flat_map(ComparerConfig::locations).collect();
        for FacetConfig { judge, reward, .. } in &mut self.facets {
            all.extend(judge.iter_mut().flat_map(|judge| judge.locations()));
            all.extend(reward.iter_mut().flat_map(|reward| reward.locations()));
        }
        all
    }

    /// Checks what the types do not say.
    ///
    /// # Errors
    /// [`LabelError::Setting`].
    pub fn check(&self) -> Result<(), LabelError> {
        let refuse = |setting: String, found: String, expected: &'static str| {
            Err(BadSetting::new(setting, found, expected).into())
        };
        if self.facets.is_empty() {
            return refuse("facets".to_owned(), "empty".to_owned(), "at least one facet");
        }
        for (at, facet) in self.facets.iter().enumerate() {
            let key = |name: &str| format!("facets[{at}].{name}");
            let FacetConfig { facet: preset, preamble, weight, judge, reward, temperature, .. } =
                facet;
            if !(*weight > 0. && weight.is_finite()) {
                return refuse(key("weight"), weight.to_string(), "a number above 0");
            }
            if !(*temperature > 0. && temperature.is_finite()) {
                return refuse(key("temperature"), temperature.to_string(), "a number above 0");
            }
            if reward.is_none() && *temperature != 1. {
                let expected = "left out beside a judge of pairs: it belongs to a `reward`";
                return refuse(key("temperature"), temperature.to_string(), expected);
            }
            let given = [
                ("facet", preset.is_some()),
                ("preamble", preamble.is_some()),
                ("reward", reward.is_some()),
            ];
            let given: Vec<&str> =
                given.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
            if given.len() != 1 {
                let found =
                    if given.is_empty() { "none of them".to_owned() } else { given.join(" and ") };
                let expected = "one of `facet`, `preamble` and `reward`";
                return refuse(format!("facets[{at}]"), found, expected);
            }
            if facet.name.is_none() && preset.is_none() {
                return refuse(
                    key("name"),
                    "missing".to_owned(),
                    "a name for a facet of one's own",
                );
            }
            let pairs_only = judge.is_some() || !facet.examples.is_empty();
            if reward.is_some() && pairs_only {
                let expected =
                    "no `judge` and no `examples` beside a `reward`, which scores responses";
                return refuse(format!("facets[{at}]"), "both".to_owned(), expected);
            }
            if reward.is_none() && judge.is_none() && self.judge.is_none() {
                let expected = "a judge of pairs, for all facets or here";
                return refuse("judge".to_owned(), "missing".to_owned(), expected);
            }
            let same = |other: &FacetConfig| other.name() == facet.name();
            if self.facets[..at].iter().any(same) {
                let found = format!("`{}` twice", facet.name());
                return refuse("facets".to_owned(), found, "a name of its own for each facet");
            }
        }
        let uses = |facet: &FacetConfig| facet.judge.is_none() && facet.reward.is_none();
        if self.judge.is_some() && !self.facets.iter().any(uses) {
            let expected = "left out where every facet has a judge or a reward of its own";
            return refuse("judge".to_owned(), "given".to_owned(), expected);
        }
        match self.clamp {
            Some((low, high)) if !(0. ..=0.5).contains(&low) || !(0.5..=1.).contains(&high) => {
                let expected = "two probabilities around 0.5, such as `[0.4, 0.6]`";
                refuse("clamp".to_owned(), format!("[{low}, {high}]"), expected)
            }
            _ => Ok(()),
        }
    }
}
