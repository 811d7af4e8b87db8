//! What `cargo metadata` says about the workspace.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::Error;
use crate::run::Run;

/// One package, ours or a dependency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    pub(crate) features: Vec<String>,
    pub(crate) benches: Vec<String>,
    id: String,
}

/// The workspace and everything it depends on.
#[derive(Debug)]
pub(crate) struct Workspace {
    packages: Vec<Package>,
    members: BTreeSet<String>,
    pub(crate) target: PathBuf,
}

impl Workspace {
    pub(crate) fn read(root: &Path) -> Result<Self, Error> {
        // For all platforms, so that the checks say the same everywhere.
        let metadata = Run::new(root, "cargo metadata --format-version 1 --locked").json()?;
        Ok(Self::from_metadata(&metadata))
    }

    fn from_metadata(metadata: &Value) -> Self {
        let members = strings(&metadata["workspace_members"]);
        let packages = array(&metadata["packages"]).map(package).collect();
        Self {
            packages,
            members: members.collect(),
            target: string(&metadata["target_directory"]).into(),
        }
    }

    /// Our own packages.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.members.contains(&package.id))
    }

    /// The packages of others.
    pub(crate) fn dependencies(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| !self.members.contains(&package.id))
    }

    /// The names of which there is more than one version, with these versions.
    pub(crate) fn duplicates(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut versions = BTreeMap::<&str, BTreeSet<&str>>::new();
        for package in self.dependencies() {
            versions.entry(&package.name).or_default().insert(&package.version);
        }
        versions.retain(|_, versions| versions.len() > 1);
        versions
    }
}

fn package(value: &Value) -> Package {
    let is_bench = |target: &&Value| strings(&target["kind"]).any(|kind| kind == "bench");
    Package {
        name: string(&value["name"]),
        version: string(&value["version"]),
        license: value["license"].as_str().map(str::to_owned),
        features: value["features"]
            .as_object()
            .into_iter()
            .flat_map(|f| f.keys().cloned())
            .collect(),
        benches: array(&value["targets"]).filter(is_bench).map(|t| string(&t["name"])).collect(),
        id: string(&value["id"]),
    }
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn strings(value: &Value) -> impl Iterator<Item = String> {
    array(value).map(string)
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read() {
        let metadata = serde_json::json!({
            "target_directory": "/t", "workspace_members": ["path+a"],
            "packages": [
                {"name": "a", "version": "0.1.0", "id": "path+a", "license": null,
                 "features": {"default": [], "doc-only": []},
                 "targets": [{"kind": ["lib"], "name": "a"}, {"kind": ["bench"], "name": "speed"}]},
                {"name": "b", "version": "1.0.0", "id": "b1", "license": "MIT", "features": {}, "targets": []},
                {"name": "b", "version": "2.0.0", "id": "b2", "license": "MIT", "features": {}, "targets": []},
            ],
        });
        let workspace = Workspace::from_metadata(&metadata);
        let ours: Vec<_> = workspace.members().collect();
        assert_eq!(ours.len(), 1);
        assert_eq!(ours[0].features, ["default", "doc-only"]);
        assert_eq!(ours[0].benches, ["speed"]);
        let twice = workspace.duplicates();
        assert_eq!(
            twice.into_iter().collect::<Vec<_>>(),
            [("b", BTreeSet::from(["1.0.0", "2.0.0"]))]
        );
    }
}
