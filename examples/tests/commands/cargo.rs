//! Checks that the targets of a cargo command exist: this test runs built programs, without cargo.

use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

use crate::place::repository;

/// The request of a cargo command.
#[derive(Debug, Default)]
pub(crate) struct Cargo {
    /// The whole command.
    said: String,
    packages: Vec<String>,
    /// Kind (`example`, `test`, `bench`) and name of each target.
    targets: Vec<(String, String)>,
    /// Filters on names of tests.
    pub(crate) filters: Vec<String>,
    /// `true` for `run`, which needs exactly one program.
    runs: bool,
}

/// The packages of the workspace.
static PACKAGES: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let arguments = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let output = Command::new(cargo).args(arguments).current_dir(repository()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array_mut().map(std::mem::take).unwrap()
});

impl Cargo {
    /// Returns `None` if `plain` does not build or run a part of the workspace. Panics at an
    /// unknown option.
    pub(crate) fn parse(plain: &str) -> Option<Self> {
        let mut words = plain.split(' ').skip_while(|word| word.contains('='));
        let command = (words.next()? == "cargo").then(|| words.next())??;
        if !["bench", "build", "run", "test"].contains(&command) {
            return None;
        }
        let runs = command == "run";
        let mut cargo = Self { said: plain.to_owned(), runs, ..Self::default() };
        while let Some(word) = words.next().filter(|word| *word != "--") {
            match (word, word.strip_prefix("--")) {
                ("--release", _) => {}
                ("-p", _) => cargo.packages.extend(words.next().map(str::to_owned)),
                (_, Some(sort @ ("bench" | "example" | "test"))) => {
                    let name = words.next().unwrap_or_default();
                    cargo.targets.push((sort.to_owned(), name.to_owned()));
                }
                (filter, None) if command == "test" && !filter.starts_with('-') => {
                    cargo.filters.push(filter.to_owned());
                }
                _ => panic!("`{plain}`: {word} is not known here"),
            }
        }
        Some(cargo)
    }

    /// Panics unless every package has every target, with default features.
    pub(crate) fn check(&self) {
        let named = |package: &&Value| self.packages.iter().any(|name| package["name"] == **name);
        let packages: Vec<&Value> = PACKAGES.iter().filter(named).collect();
        assert_eq!(packages.len(), self.packages.len(), "`{}`: no such package", self.said);
        for (sort, name) in &self.targets {
            let fits = |package: &Value| has(package, sort, name);
            let there = match packages.is_empty() {
                true => PACKAGES.iter().filter(|package| fits(package)).count() == 1,
                false => packages.iter().all(|package| fits(package)),
            };
            assert!(there, "`{}`: no {sort} {name}, or not by default", self.said);
        }
        if self.runs && self.targets.is_empty() {
            for package in packages {
                let targets = package["targets"].as_array().unwrap();
                let programs = targets.iter().filter(|target| target["kind"][0] == "bin").count();
                assert_eq!(programs, 1, "`{}`: which program?", self.said);
            }
        }
    }
}

/// `true` if a package has a target that needs no further features.
fn has(package: &Value, sort: &str, name: &str) -> bool {
    let strings = |list: &Value| -> Vec<String> {
        let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let default = strings(&package["features"]["default"]);
    package["targets"].as_array().unwrap().iter().any(|target| {
        let needed = strings(&target["required-features"]);
        target["name"] == name
            && target["kind"][0] == sort
            && needed.iter().all(|feature| default.contains(feature))
    })
}

#[test]
fn what_cargo_does_not_have_is_told() {
    let check = |plain: &str| Cargo::parse(plain).unwrap().check();
    check("A=b cargo test -p rlaif-models -p rlaif-examples --test python");
    check("cargo run --release -p rlaif -- inspect --nothing");
    for plain in [
        "cargo build -p rlaif-nothing",
        "cargo run --example nothing",
        "cargo run -p rlaif-data --example hh_toxicity",
        "cargo test -p rlaif-data -p rlaif-models --test python",
        "cargo bench -p rlaif-benches --bench nothing",
        "cargo test --nothing",
        "cargo run -p rlaif-core",
    ] {
        assert!(std::panic::catch_unwind(|| check(plain)).is_err(), "{plain}");
    }
}
