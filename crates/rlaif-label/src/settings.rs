//! Settings of labels.

use rlaif_core::{BadSetting, Seed};
use rlaif_rewards::judge::ComparerConfig;
use rlaif_rewards::neural::LocalModel;
use rlaif_rewards::rubric::PairExample;
use rlaif_rewards::{RewardConfig, RewardInput};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::constitution::{Constitution, Principle};
use crate::error::LabelError;

/// The facets by which pairs are labelled, and how they become one label.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelSettings {
    /// The judge of pairs, for facets without one of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<ComparerConfig>,
    /// The facets, at least one.
    pub facets: Vec<FacetConfig>,
    /// The way from facets to a label.
    #[serde(default)]
    pub combine: FacetCombination,
    /// The responses that a judge is shown at once.
    #[serde(default, skip_serializing_if = "Questions::are_pairs")]
    pub questions: Questions,
    /// The orders in which the responses of a pair are shown.
    #[serde(default)]
    pub orders: Orders,
    /// The number of rotations in which a list is shown; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotations: Option<usize>,
    /// The least and the greatest probability of a label, such as `[0.4, 0.6]`: judges that explain
    /// first are too sure of themselves (Bai et al. 2022).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clamp: Option<(f64, f64)>,
    /// The seed by which principles are drawn.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub seed: Seed,
}

fn is_zero(seed: &Seed) -> bool {
    *seed == Seed::default()
}

/// The way from the probabilities of several facets to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FacetCombination {
    /// The weighted mean of the facets.
    #[default]
    Mean,
    /// The weighted share of facets that prefer the response; one that prefers neither is half a vote.
    Vote,
}

/// The responses that a judge is shown at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Questions {
    /// Two responses: one question about each pair and order.
    #[default]
    Pairs,
    /// All responses to a prompt: one question about each rotation of the list.
    Lists,
}

impl Questions {
    /// `true` for pairs.
    pub fn are_pairs(&self) -> bool {
        *self == Self::Pairs
    }
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
    /// Files of constitutions, TOML or published JSON: each pair is compared by one of their principles with
    /// a comparison, drawn by `seed` and the pair.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constitution: Vec<String>,
    /// Principles in place of files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub principles: Vec<Principle>,
    /// The least and the greatest probability of this facet. `[0.4, 0.6]` by default for a constitution
    /// whose judge explains first, which makes it too sure (Bai et al. 2022); else `[0.0, 1.0]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clamp: Option<(f64, f64)>,
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

impl Default for FacetConfig {
    /// A facet without a comparison.
    fn default() -> Self {
        Self {
            facet: None,
            name: None,
            preamble: None,
            constitution: Vec::new(),
            principles: Vec::new(),
            clamp: None,
            examples: Vec::new(),
            weight: one(),
            judge: None,
            reward: None,
            temperature: one(),
        }
    }
}

impl FacetConfig {
    /// The name in rows and reports.
    pub fn name(&self) -> &str {
        self.name.as_deref().or(self.facet.as_deref()).unwrap_or("facet")
    }

    /// Every setting that may name a folder or a file on this disk.
    pub fn locations(&mut self) -> Vec<&mut String> {
        let Self { judge, reward, constitution, .. } = self;
        let mut all: Vec<&mut String> = constitution.iter_mut().collect();
        all.extend(judge.iter_mut().flat_map(|judge| judge.locations()));
        all.extend(reward.iter_mut().flat_map(|reward| reward.locations()));
        all
    }

    /// `true` if pairs are compared by drawn principles.
    pub(crate) fn has_constitution(&self) -> bool {
        !self.constitution.is_empty() || !self.principles.is_empty()
    }
}

impl LabelSettings {
    /// Every setting that may name a folder or a file on this disk.
    pub fn locations(&mut self) -> Vec<&mut String> {
        let mut all: Vec<&mut String> =
            self.judge.iter_mut().flat_map(ComparerConfig::locations).collect();
        all.extend(self.facets.iter_mut().flat_map(FacetConfig::locations));
        all
    }

    /// The same settings with the principles of files in place of the files, so that labels depend on these
    /// settings alone.
    ///
    /// # Errors
    /// [`LabelError::Constitution`]; [`LabelError::Setting`] for a constitution without a comparison.
    pub fn resolved(mut self) -> Result<Self, LabelError> {
        for (at, facet) in self.facets.iter_mut().enumerate() {
            if !facet.has_constitution() {
                continue;
            }
            let principles = std::mem::take(&mut facet.principles);
            let own = Constitution { principles, examples: Vec::new() };
            own.check().map_err(|error| error.within(&format!("facets[{at}]")))?;
            let files = Constitution::from_files(std::mem::take(&mut facet.constitution))?;
            let all = own.principles.into_iter().chain(files.principles);
            facet.principles = all.filter(|principle| principle.compare.is_some()).collect();
            if facet.principles.is_empty() {
                let found = "without a principle that has `compare`";
                let expected = "at least one description of the better response";
                return Err(
                    BadSetting::new(format!("facets[{at}].constitution"), found, expected).into()
                );
            }
        }
        Ok(self)
    }

    /// The models that its judges and rewards run in this process.
    pub fn local_models(&self) -> Vec<LocalModel<'_>> {
        let mut judges: Vec<&ComparerConfig> = Vec::new();
        let mut models = Vec::new();
        for FacetConfig { judge, reward, .. } in &self.facets {
            match (reward, judge.as_deref().or(self.judge.as_ref())) {
                (Some(reward), _) => models.extend(reward.local_models()),
                // Facets with the same judge share it.
                (None, Some(judge)) if !judges.contains(&judge) => judges.push(judge),
                (None, _) => {}
            }
        }
        models.extend(judges.into_iter().filter_map(ComparerConfig::local_model));
        models
    }

    /// The columns of rows that its rewards read besides prompt, response and reference.
    pub fn columns(&self) -> Vec<String> {
        let rewards = self.facets.iter().filter_map(|facet| facet.reward.as_deref());
        rewards.flat_map(RewardConfig::columns).collect()
    }

    /// The input of its judges and rewards: the most that one of them reads.
    pub fn input(&self) -> RewardInput {
        let of_facet = |facet: &FacetConfig| {
            facet.reward.as_deref().map_or(RewardInput::Text, RewardConfig::input)
        };
        self.facets.iter().map(of_facet).max().unwrap_or_default()
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
                ("constitution", facet.has_constitution()),
            ];
            let given: Vec<&str> =
                given.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
            if given.len() != 1 {
                let found =
                    if given.is_empty() { "none of them".to_owned() } else { given.join(" and ") };
                let expected = "one of `facet`, `preamble`, `constitution` and `reward`";
                return refuse(format!("facets[{at}]"), found, expected);
            }
            if facet.name.is_none() && preset.is_none() {
                return refuse(key("name"), "missing".to_owned(), "a name for your own facet");
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
            check_clamp(key("clamp"), facet.clamp)?;
            let same = |other: &FacetConfig| other.name() == facet.name();
            if self.facets[..at].iter().any(same) {
                let found = format!("`{}` twice", facet.name());
                return refuse("facets".to_owned(), found, "a name of its own for each facet");
            }
        }
        match (self.questions, self.orders, self.rotations) {
            (Questions::Pairs, _, Some(rotations)) => {
                let expected = "left out without `questions = \"lists\"`; pairs have `orders`";
                return refuse("rotations".to_owned(), rotations.to_string(), expected);
            }
            (Questions::Lists, _, Some(0)) => {
                let expected = "1 or more, or left out for all";
                return refuse("rotations".to_owned(), "0".to_owned(), expected);
            }
            (Questions::Lists, Orders::One, _) => {
                let expected = "left out beside `questions = \"lists\"`, which has `rotations`";
                return refuse("orders".to_owned(), "`one`".to_owned(), expected);
            }
            _ => {}
        }
        let uses = |facet: &FacetConfig| facet.judge.is_none() && facet.reward.is_none();
        if self.judge.is_some() && !self.facets.iter().any(uses) {
            let expected = "left out where every facet has a judge or a reward of its own";
            return refuse("judge".to_owned(), "given".to_owned(), expected);
        }
        Ok(check_clamp("clamp".to_owned(), self.clamp)?)
    }
}

fn check_clamp(key: String, clamp: Option<(f64, f64)>) -> Result<(), BadSetting> {
    match clamp {
        Some((low, high)) if !(0. ..=0.5).contains(&low) || !(0.5..=1.).contains(&high) => {
            let expected = "two probabilities around 0.5, such as `[0.4, 0.6]`";
            Err(BadSetting::new(key, format!("[{low}, {high}]"), expected))
        }
        _ => Ok(()),
    }
}
