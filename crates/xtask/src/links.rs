//! The crates that link libtorch, with features as cargo resolves them.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata};

/// The crate that links libtorch.
const TCH: &str = "tch";

/// Features and dependencies of the workspace's crates.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Links(pub(crate) BTreeMap<String, Linked>);

/// A crate.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Linked {
    /// The features, each with what it enables, in the words of Cargo.toml.
    pub(crate) features: BTreeMap<String, Vec<String>>,
    pub(crate) dependencies: Vec<LinkedDependency>,
}

/// A dependency of a crate.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkedDependency {
    pub(crate) name: String,
    pub(crate) features: Vec<String>,
    pub(crate) defaults: Defaults,
    pub(crate) presence: Presence,
}

/// Default features of a dependency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Defaults {
    #[default]
    On,
    Off,
}

/// Presence of a dependency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Presence {
    #[default]
    Always,
    Optional,
}

/// The crates of a program, each with its features that are on.
type Program = BTreeMap<String, BTreeSet<String>>;

impl Links {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let crates = metadata.workspace_packages().into_iter().map(|package| {
            let normal = package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal);
            let dependencies = normal.map(|dependency| LinkedDependency {
                name: dependency.name.clone(),
                features: dependency.features.clone(),
                defaults: match dependency.uses_default_features {
                    true => Defaults::On,
                    false => Defaults::Off,
                },
                presence: match dependency.optional {
                    true => Presence::Optional,
                    false => Presence::Always,
                },
            });
            let features = package.features.clone().into_iter().collect();
            let dependencies = dependencies.collect();
            (package.name.to_string(), Linked { features, dependencies })
        });
        Self(crates.collect())
    }

    /// The column of a crate: `yes` or `no`; the features that bring libtorch, with the addition `by default`
    /// if a default feature is among them, and `alone` otherwise.
    pub(crate) fn column(&self, name: &str) -> String {
        if self.links(name, []) {
            return "yes".to_owned();
        }
        let features = self.0.get(name).into_iter().flat_map(|one| one.features.keys());
        let own = features
            .filter(|feature| *feature != "default" && self.links(name, [feature.as_str()]));
        let own: Vec<_> = own.map(|feature| format!("`{feature}`")).collect();
        match (own.is_empty(), self.links(name, ["default"])) {
            (true, false) => "no".to_owned(),
            (_, true) => format!("by default ({})", own.join(", ")),
            (false, false) => format!("{} alone", own.join(", ")),
        }
    }

    /// `true` if a program with this crate, and these of its features, links libtorch.
    fn links<'a>(&self, name: &str, features: impl IntoIterator<Item = &'a str>) -> bool {
        let features = features.into_iter().map(str::to_owned).collect();
        let mut program = Program::from([(name.to_owned(), features)]);
        // Features of a crate may enable others of its dependencies, until nothing changes.
        loop {
            let before = program.clone();
            for (name, features) in &before {
                if let Some(linked) = self.0.get(name) {
                    linked.add(features, &mut program);
                }
            }
            if program == before {
                return program.contains_key(TCH);
            }
        }
    }
}

impl Linked {
    /// Adds what the crate needs with these features.
    fn add(&self, features: &BTreeSet<String>, program: &mut Program) {
        let enabled = self.enabled(features);
        for dependency in &self.dependencies {
            let name = &dependency.name;
            let strong = format!("{name}/");
            let asked = |item: &String| {
                *item == format!("dep:{name}") || item == name || item.starts_with(&strong)
            };
            if dependency.presence == Presence::Optional && !enabled.iter().any(asked) {
                continue;
            }
            let on = program.entry(name.clone()).or_default();
            on.extend(dependency.features.iter().cloned());
            if dependency.defaults == Defaults::On {
                on.insert("default".to_owned());
            }
            let weak = format!("{name}?/");
            let passed = enabled
                .iter()
                .filter_map(|item| item.strip_prefix(&strong).or_else(|| item.strip_prefix(&weak)));
            on.extend(passed.map(str::to_owned));
        }
    }

    /// Everything that these features enable, transitively within the crate.
    fn enabled(&self, features: &BTreeSet<String>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut open: Vec<&String> = features.iter().collect();
        while let Some(item) = open.pop() {
            if found.insert(item.clone()) {
                open.extend(self.features.get(item).into_iter().flatten());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(name: &str, presence: Presence, defaults: Defaults) -> LinkedDependency {
        LinkedDependency { name: name.to_owned(), features: Vec::new(), defaults, presence }
    }

    fn linked(features: &[(&str, &[&str])], dependencies: Vec<LinkedDependency>) -> Linked {
        let items = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        let features = features.iter().map(|(name, on)| ((*name).to_owned(), items(on)));
        Linked { features: features.collect(), dependencies }
    }

    #[test]
    fn features_are_resolved_through_dependencies() {
        use {Defaults::*, Presence::*};
        let on = |name| vec![need(name, Always, On)];
        let links = Links(BTreeMap::from([
            ("torch".to_owned(), linked(&[], on("tch"))),
            (
                "rewards".to_owned(),
                linked(
                    &[("default", &["neural"]), ("neural", &["dep:torch"])],
                    vec![need("torch", Optional, On)],
                ),
            ),
            ("label".to_owned(), linked(&[], on("rewards"))),
            ("page".to_owned(), linked(&[], vec![need("rewards", Always, Off)])),
            (
                "tool".to_owned(),
                linked(&[("local", &["rewards/neural"])], vec![need("rewards", Always, Off)]),
            ),
            (
                "weak".to_owned(),
                linked(
                    &[("local", &["rewards?/neural"]), ("rewards", &["dep:rewards"])],
                    vec![need("rewards", Optional, Off)],
                ),
            ),
        ]));
        let found = ["torch", "rewards", "label", "page", "tool", "weak"].map(|x| links.column(x));
        assert_eq!(found, ["yes", "by default (`neural`)", "yes", "no", "`local` alone", "no"]);
    }
}
