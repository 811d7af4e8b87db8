//! Preference labels by language models.
//!
//! A [`Labeller`] asks about pairs of responses, or about all responses to a prompt at once ([`Questions`]), facet by facet ([`FacetConfig`]), in both orders, and
//! makes one soft label of what it is told ([`Label`]). Facets are compared by a judge of pairs, as in
//! [Lee et al. 2023](https://arxiv.org/abs/2309.00267), or scored by any reward. Pairs come from files or
//! are made of candidates ([`Pairing`]). A [`Constitution`] has principles by which a model criticises and
//! revises responses ([`RevisionPrompts`]), and by which a facet compares them.
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::ops::ControlFlow;
//! use rlaif_label::{LabelPair, LabelSettings, Labeller};
//! use rlaif_rewards::Surroundings;
//!
//! let settings: LabelSettings = toml::from_str(r#"
//!     [[facets]]
//!     name = "brief"
//!     reward = { kind = "length", longest = 1, per = 1.0 }
//! "#)?;
//! let labeller = Labeller::new(&settings, &Surroundings::default())?;
//! let pairs = [LabelPair::new("7", "Why?", "Because I say so.", "Because.")];
//! let mut opinions = BTreeMap::new();
//! labeller.ask(&pairs, &BTreeMap::new(), &mut |question, opinion| {
//!     opinions.insert(question, opinion);
//!     ControlFlow::Continue(())
//! })?;
//! let label = labeller.label(0, &opinions)?;
//! // Three words more: the score is 3 lower.
//! assert!((label.first - 1. / (1. + 3f64.exp())).abs() < 1e-6);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod constitution;
mod error;
mod group;
mod labeller;
mod list;
mod settings;

pub use constitution::{Constitution, Principle, RevisionExample, RevisionPrompts};
pub use error::LabelError;
pub use group::{Group, GroupPairs, Pairing};
pub use labeller::{Asked, Label, LabelPair, Labeller, Lesson, LessonSet, Opinion, Subject};
pub use list::{ListLabel, PlaceShares};
pub use settings::{FacetCombination, FacetConfig, LabelSettings, Orders, Questions};
