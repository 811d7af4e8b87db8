//! The table and the dependency lines of `docs/architecture.md`, compared with cargo's metadata.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use cargo_metadata::{DependencyKind, Metadata};

use crate::error::Error;
use crate::links::Links;

const FILE: &str = "docs/architecture.md";
const BEGIN: &str = "<!-- arrows: written by `cargo xtask docs` -->\n```text\n";
const END: &str = "```\n<!-- end of arrows -->";

/// The crate of the command: flags and printing, so nothing of libtorch.
const COMMAND: &str = "rlaif";

/// The workspace crates that one crate needs: each with the features that enable the dependency, or
/// none if it is unconditional.
type Needs = BTreeMap<String, BTreeSet<String>>;

/// The workspace crates that belong to the library, with the needs of each, and the crates that link libtorch.
#[derive(Debug, PartialEq, Eq)]
struct House(BTreeMap<String, Needs>, Links);

/// Fails with the difference if the documented table or lines differ from the manifests.
pub(crate) fn check(root: &Path, metadata: &Metadata) -> Result<(), Error> {
    let faults = faults(&read(root)?, &House::of(metadata));
    match faults.is_empty() {
        true => Ok(()),
        false => Err(Error::Documented { file: FILE, faults: faults.join("\n") }),
    }
}

/// Rewrites the lines.
pub(crate) fn write(root: &Path, metadata: &Metadata) -> Result<(), Error> {
    let text = read(root)?;
    let Some((before, _, after)) = parts(&text) else {
        return Err(Error::Documented { file: FILE, faults: no_block() });
    };
    let text = format!("{before}{BEGIN}{}{END}{after}", House::of(metadata).arrows());
    let file = root.join(FILE);
    fs::write(&file, text).map_err(|source| Error::Write { file, source })
}

fn read(root: &Path) -> Result<String, Error> {
    let file = root.join(FILE);
    fs::read_to_string(&file).map_err(|source| Error::Read { file, source })
}

/// The text before the block of lines, the lines, and the text after the block.
fn parts(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (arrows, after) = rest.split_once(END)?;
    Some((before, arrows, after))
}

fn no_block() -> String {
    format!("it has no block of arrows, which begins with\n{BEGIN}and ends with\n{END}")
}

fn faults(text: &str, house: &House) -> Vec<String> {
    let mut faults = vec![];
    match parts(text) {
        None => faults.push(no_block()),
        Some((_, documented, _)) => {
            let arrows = house.arrows();
            let documented: BTreeSet<&str> = documented.lines().collect();
            let real: BTreeSet<&str> = arrows.lines().collect();
            faults.extend(documented.difference(&real).map(|line| format!("- {line}")));
            faults.extend(real.difference(&documented).map(|line| format!("+ {line}")));
        }
    }
    let rows = rows(text);
    for (name, libtorch) in house.libtorch() {
        match rows.get(&name) {
            None => faults.push(format!("+ | `{name}` | .. | {libtorch} |")),
            Some(documented) if *documented != libtorch => {
                faults.push(format!("- | `{name}` | .. | {documented} |"));
                faults.push(format!("+ | `{name}` | .. | {libtorch} |"));
            }
            Some(_) => {}
        }
    }
    let stray =
        rows.keys().filter(|name| name.starts_with("rlaif") && !house.0.contains_key(*name));
    faults.extend(stray.map(|name| format!("- | `{name}` | .. |")));
    if house.0.get(COMMAND).is_some_and(|needs| needs.contains_key("tch")) {
        faults.push(format!("- {COMMAND} -> tch: what the command computes is in rlaif-run"));
    }
    faults
}

/// The names in the first column of the table, with the words of the last one.
fn rows(text: &str) -> BTreeMap<String, String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    let rows = rows.filter_map(|row| {
        let (name, rest) = row.split_once('`')?;
        let (_, last) = rest.rsplit_once(" | ")?;
        Some((name.to_owned(), last.to_owned()))
    });
    rows.collect()
}

impl House {
    fn of(metadata: &Metadata) -> Self {
        let members = metadata.workspace_packages();
        let ours: BTreeSet<&str> = members.iter().map(|p| p.name.as_str()).collect();
        // `xtask`, the examples and the benchmarks are not part of the library.
        let library = members.iter().filter(|p| p.name == "rlaif" || p.name.starts_with("rlaif-"));
        let library =
            library.filter(|p| p.manifest_path.components().any(|c| c.as_str() == "crates"));
        let crates = library.map(|package| {
            let mut needs = Needs::new();
            for dependency in &package.dependencies {
                let name = dependency.name.as_str();
                let inside = ours.contains(name) || name == "tch";
                if dependency.kind != DependencyKind::Normal || !inside {
                    continue;
                }
                let brings =
                    |enabled: &String| *enabled == format!("dep:{name}") || enabled == name;
                let features = package.features.iter();
                let features = features.filter(|(_, enabled)| enabled.iter().any(brings));
                let features = features.map(|(feature, _)| feature.clone());
                let features =
                    if dependency.optional { features.collect() } else { BTreeSet::new() };
                needs.insert(name.to_owned(), features);
            }
            (package.name.to_string(), needs)
        });
        Self(crates.collect(), Links::of(metadata))
    }

    /// All unconditional dependencies of a crate, transitively.
    fn below(&self, name: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut open = vec![name];
        while let Some(name) = open.pop() {
            let needs = self.0.get(name).into_iter().flatten();
            for (need, _) in needs.filter(|(_, features)| features.is_empty()) {
                if found.insert(need.as_str()) {
                    open.push(need);
                }
            }
        }
        found
    }

    fn floor(&self, name: &str) -> usize {
        let needs = self.0.get(name).into_iter().flat_map(BTreeMap::keys);
        needs.map(|need| 1 + self.floor(need)).max().unwrap_or(0)
    }

    /// One line for each crate, lowest layer first: its dependencies, without those implied by
    /// others.
    fn arrows(&self) -> String {
        let short = |name: &str| name.strip_prefix("rlaif-").unwrap_or(name).to_owned();
        let mut names: Vec<&String> = self.0.keys().collect();
        names.sort_by_key(|name| (self.floor(name), *name));
        let width = names.iter().map(|name| short(name).len()).max().unwrap_or(0);
        let mut lines = String::new();
        for name in names {
            let needs = self.0[name].iter().filter(|(need, _)| *need != "tch");
            let direct: Vec<_> = needs.collect();
            let implied = |need: &str, features: &BTreeSet<String>| {
                let others = direct.iter().filter(|(other, with)| {
                    *other != need && (with.is_empty() || *with == features)
                });
                others.into_iter().any(|(other, _)| self.below(other).contains(need))
            };
            let shown = direct.iter().filter(|(need, features)| !implied(need, features));
            let shown = shown.map(|(need, features)| {
                let features: Vec<_> = features.iter().map(String::as_str).collect();
                match features.is_empty() {
                    true => short(need),
                    false => format!("{} ({})", short(need), features.join(", ")),
                }
            });
            let shown = shown.collect::<Vec<_>>().join(", ");
            let line = format!("{:width$} -> {shown}", short(name));
            let _ = writeln!(lines, "{}", line.trim_end_matches(" -> ").trim_end());
        }
        lines
    }

    /// The need for libtorch of each crate, as in the table.
    fn libtorch(&self) -> BTreeMap<String, String> {
        self.0.keys().map(|name| (name.clone(), self.1.column(name))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::{Linked, LinkedDependency, Presence};

    /// core below data and torch; rewards on core, and with a feature on torch; rlaif on everything.
    fn house() -> House {
        let needs = |needs: &[(&str, &str)]| {
            let needs = needs.iter().map(|(need, feature)| {
                let features = Some(*feature).filter(|f| !f.is_empty()).map(str::to_owned);
                ((*need).to_owned(), features.into_iter().collect())
            });
            needs.collect::<Needs>()
        };
        let crates = BTreeMap::from([
            ("rlaif-core".to_owned(), needs(&[])),
            ("rlaif-data".to_owned(), needs(&[("rlaif-core", "")])),
            ("rlaif-torch".to_owned(), needs(&[("tch", "")])),
            ("rlaif-rewards".to_owned(), needs(&[("rlaif-core", ""), ("rlaif-torch", "neural")])),
            (
                "rlaif".to_owned(),
                needs(&[("rlaif-core", ""), ("rlaif-data", ""), ("rlaif-rewards", "")]),
            ),
        ]);
        let links = crates.iter().map(|(name, needs)| (name.clone(), linked(needs))).collect();
        House(crates, Links(links))
    }

    /// The same needs, in the words of Cargo.toml.
    fn linked(needs: &Needs) -> Linked {
        let dependency = |(name, features): (&String, &BTreeSet<String>)| LinkedDependency {
            name: name.clone(),
            presence: match features.is_empty() {
                true => Presence::Always,
                false => Presence::Optional,
            },
            ..LinkedDependency::default()
        };
        let features = needs.iter().flat_map(|(name, features)| {
            features.iter().map(move |feature| (feature.clone(), vec![format!("dep:{name}")]))
        });
        let features = features.collect();
        Linked { features, dependencies: needs.iter().map(dependency).collect() }
    }

    fn document(arrows: &str) -> String {
        format!(
            "| crate | for | libtorch |\n|---|---|---|\n\
             | `rlaif-core` | a \\| b | no |\n| `rlaif-data` | x | no |\n| `rlaif-torch` | x | yes |\n\
             | `rlaif-rewards` | x | `neural` alone |\n| `rlaif` | x | no |\n\
             | `examples/` | not a crate of the library | yes |\n\n{BEGIN}{arrows}{END}\n"
        )
    }

    #[test]
    fn arrows_skip_what_others_bring_and_name_features() {
        let arrows = "core\ndata    -> core\ntorch\nrewards -> core, torch (neural)\nrlaif   -> data, rewards\n";
        assert_eq!(house().arrows().lines().collect::<BTreeSet<_>>(), arrows.lines().collect());
        assert!(house().arrows().starts_with("core\n") && house().arrows().ends_with("rewards\n"));
        assert_eq!(faults(&document(&house().arrows()), &house()), Vec::<String>::new());
    }

    #[test]
    fn a_planted_wrong_arrow_is_shown_beside_the_right_one() {
        let wrong = house().arrows().replace("data    -> core", "data    -> core, torch");
        let faults = faults(&document(&wrong), &house());
        assert_eq!(faults, ["- data    -> core, torch", "+ data    -> core"]);
    }

    #[test]
    fn a_command_that_computes_is_a_fault() {
        let mut house = house();
        house.0.get_mut(COMMAND).unwrap().insert("tch".to_owned(), BTreeSet::new());
        assert_eq!(
            faults(&document(&house.arrows()), &house),
            ["- rlaif -> tch: what the command computes is in rlaif-run"]
        );
    }

    #[test]
    fn rows_of_the_table_are_those_of_the_crates() {
        let text = document(&house().arrows())
            .replace("| `rlaif-torch` | x | yes |", "| `rlaif-torch` | x | no |")
            .replace("| `rlaif-data` | x | no |", "| `rlaif-ghost` | x | no |");
        assert_eq!(
            faults(&text, &house()),
            [
                "+ | `rlaif-data` | .. | no |",
                "- | `rlaif-torch` | .. | no |",
                "+ | `rlaif-torch` | .. | yes |",
                "- | `rlaif-ghost` | .. |",
            ]
        );
        assert!(faults("nothing", &house())[0].starts_with("it has no block"));
    }
}
