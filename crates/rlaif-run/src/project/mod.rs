//! New projects that depend on rlaif.

mod error;

use std::{
    fs,
    path::{Path, PathBuf},
};

use rlaif_data::builtin::{self, Part};

pub use error::ProjectError;

/// The first training of a new project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProjectKind {
    /// PPO against a reward of the project.
    #[default]
    Ppo,
    /// GRPO against a reward of the project.
    Reinforce,
    /// DPO on a file of pairs.
    Dpo,
    /// A reward model from a file of pairs.
    Reward,
}

/// A project that depends on rlaif: the `rlaif` command with a reward of the project's own, its tests, a run file, and a
/// workflow of continuous integration.
///
/// ```
/// use rlaif_run::{NewProject, ProjectKind};
/// # let place = tempfile::tempdir()?;
/// # let folder = place.path().join("brief");
/// let checkout = concat!(env!("CARGO_MANIFEST_DIR"), "/../..").into();
/// let project = NewProject { folder, kind: ProjectKind::Ppo, rlaif: checkout };
/// project.write()?;
/// assert!(project.folder.join("ppo.toml").exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct NewProject {
    /// The folder to create. Its name is the project's.
    pub folder: PathBuf,
    /// The first training.
    pub kind: ProjectKind,
    /// A checkout of rlaif, with the crates and the built-in models.
    pub rlaif: PathBuf,
}

/// Pairs in the file of a new project.
const PAIRS: usize = 32;

/// The most bytes of a file that is copied from the checkout.
const LONGEST: u64 = 1 << 24;

/// Names of crates that the project uses, and those that cargo does not allow.
const TAKEN: [&str; 9] =
    ["rlaif", "serde", "test", "core", "std", "build", "deps", "examples", "incremental"];

/// Files that every checkout has.
const CHECKOUT: [&str; 3] = ["crates/rlaif/Cargo.toml", "Cargo.lock", "rust-toolchain.toml"];

impl ProjectKind {
    /// The command of the first training, and the name of its run file.
    pub fn command(self) -> &'static str {
        match self {
            Self::Ppo => "ppo",
            Self::Reinforce => "reinforce",
            Self::Dpo => "dpo",
            Self::Reward => "reward",
        }
    }

    /// The command that uses the result.
    fn next(self) -> &'static str {
        match self {
            Self::Ppo | Self::Reinforce | Self::Dpo => "eval --config eval.toml --out runs/eval",
            Self::Reward => "exam --config exam.toml --out runs/exam",
        }
    }

    /// Options that make the training short.
    fn short(self) -> &'static str {
        match self {
            Self::Ppo => "--set ppo.steps=1",
            Self::Reinforce => "--set reinforce.steps=1",
            Self::Dpo | Self::Reward => "--set train.steps=1",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Ppo => "PPO against a reward of its own",
            Self::Reinforce => "GRPO against a reward of its own",
            Self::Dpo => "DPO on pairs of responses",
            Self::Reward => "A reward model from pairs of responses",
        }
    }

    /// The files of this kind, each with its content and its line in the README.
    fn files(self) -> Vec<(&'static str, &'static str, &'static str)> {
        let eval = ("eval.toml", include_str!("files/eval.toml.in"), EVAL);
        match self {
            Self::Ppo => vec![("ppo.toml", include_str!("files/ppo.toml.in"), RUN), eval],
            Self::Reinforce => {
                vec![("reinforce.toml", include_str!("files/reinforce.toml.in"), RUN), eval]
            }
            Self::Dpo => vec![("dpo.toml", include_str!("files/dpo.toml.in"), RUN), eval],
            Self::Reward => vec![
                ("reward.toml", include_str!("files/preference.toml.in"), RUN),
                ("exam.toml", include_str!("files/exam.toml.in"), EXAM),
            ],
        }
    }

    /// `true` if the training learns from pairs of responses.
    fn has_pairs(self) -> bool {
        match self {
            Self::Dpo | Self::Reward => true,
            Self::Ppo | Self::Reinforce => false,
        }
    }
}

const RUN: &str = "the training";
const EVAL: &str = "the comparison of the policy before and after the training";
const EXAM: &str = "the share of pairs on which the trained model and the reward in Rust, as one reward, are right";

/// Files of every project.
const COMMON: [(&str, &str); 8] = [
    ("Cargo.toml", include_str!("files/Cargo.toml.in")),
    (".cargo/config.toml", include_str!("files/config.toml.in")),
    ("build.rs", include_str!("files/build.rs.in")),
    ("src/main.rs", include_str!("files/src/main.rs")),
    ("src/reward.rs", include_str!("files/src/reward.rs")),
    (".github/workflows/ci.yml", include_str!("files/ci.yml.in")),
    (".gitignore", include_str!("files/gitignore.in")),
    ("README.md", include_str!("files/README.md.in")),
];

impl NewProject {
    /// Writes the project: the whole folder, or nothing.
    ///
    /// # Errors
    /// [`ProjectError`] for a folder that exists, a name that no package can have, and a folder that is not a
    /// checkout of rlaif.
    pub fn write(&self) -> Result<(), ProjectError> {
        let name = self.name()?;
        if let Some(missing) = CHECKOUT.into_iter().find(|file| !self.rlaif.join(file).is_file()) {
            let repository = env!("CARGO_PKG_REPOSITORY");
            return Err(ProjectError::Checkout { folder: self.rlaif.clone(), missing, repository });
        }
        if self.folder.symlink_metadata().is_ok() {
            return Err(ProjectError::Exists { folder: self.folder.clone() });
        }
        let parent = match self.folder.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(write_error(parent))?;
        let absolute = |path: &Path| {
            fs::canonicalize(path)
                .map_err(|source| ProjectError::Read { path: path.to_owned(), source })
        };
        let rlaif = way(&absolute(parent)?.join(name), &absolute(&self.rlaif)?);

        let aside = rlaif_files::unique_sibling(&self.folder);
        let written = self.fill(&aside, name, &rlaif).and_then(|()| {
            rlaif_files::rename_synced(&aside, &self.folder).map_err(write_error(&self.folder))
        });
        if written.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_dir_all(&aside);
        }
        written
    }

    /// The name of the folder, if a package can have it.
    fn name(&self) -> Result<&str, ProjectError> {
        let name = self.folder.file_name().unwrap_or_default();
        let is_good = |name: &&str| {
            name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
                && !["rlaif-", "rlaif_"].iter().any(|ours| name.starts_with(ours))
                && !TAKEN.contains(name)
        };
        name.to_str()
            .filter(is_good)
            .ok_or_else(|| ProjectError::Name { name: name.display().to_string() })
    }

    fn fill(&self, folder: &Path, name: &str, rlaif: &str) -> Result<(), ProjectError> {
        let kind = self.kind;
        let own = kind.files();
        let pairs =
            kind.has_pairs().then_some(("pairs.jsonl", "pairs of responses; put yours here"));
        let listed = own.iter().map(|(file, _, about)| (*file, *about)).chain(pairs);
        let files: Vec<_> = listed.map(|(file, about)| format!("| `{file}` | {about} |")).collect();
        let filled = |text: &str| {
            text.replace("@files@", &files.join("\n"))
                .replace("@name@", name)
                .replace("@rlaif@", rlaif)
                .replace("@command@", kind.command())
                .replace("@next@", kind.next())
                .replace("@short@", kind.short())
                .replace("@about@", kind.about())
        };
        for (file, text) in
            COMMON.into_iter().chain(own.iter().map(|(file, text, _)| (*file, *text)))
        {
            write(&folder.join(file), filled(text).as_bytes())?;
        }
        if kind.has_pairs() {
            write(&folder.join("pairs.jsonl"), pairs_of_the_corpus().as_bytes())?;
        }
        // The versions with which rlaif is tested; cargo adds the project, and removes those that it does not use.
        for file in ["Cargo.lock", "rust-toolchain.toml"] {
            let from = self.rlaif.join(file);
            let text = rlaif_files::read_text(&from, LONGEST)
                .map_err(|source| ProjectError::Read { path: from, source })?;
            write(&folder.join(file), text.as_bytes())?;
        }
        Ok(())
    }
}

/// Pairs of the built-in corpus, a row for each.
fn pairs_of_the_corpus() -> String {
    let all = builtin::dialogues(Part::Train).into_records();
    let step = (all.len() / PAIRS).max(1);
    let row = |pair: &rlaif_core::PreferencePair| {
        serde_json::json!({
            "prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected,
        })
    };
    all.iter().step_by(step).take(PAIRS).map(|all| format!("{}\n", row(&all.pair))).collect()
}

/// The relative path from a folder to another one, with `/` between its parts.
fn way(from: &Path, to: &Path) -> String {
    let (from, to): (Vec<_>, Vec<_>) = (from.components().collect(), to.components().collect());
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from[shared..].iter().map(|_| "..".to_owned());
    let down = to[shared..].iter().map(|part| part.as_os_str().display().to_string());
    let parts: Vec<_> = up.chain(down).collect();
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ProjectError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(write_error(folder))?;
    }
    rlaif_files::write_bytes(path, bytes).map_err(write_error(path))
}

fn write_error(path: &Path) -> impl FnOnce(std::io::Error) -> ProjectError {
    let path = path.to_owned();
    |source| ProjectError::Write { path, source }
}

#[cfg(test)]
mod tests {
    use rlaif_core::Fault;

    use super::*;

    fn checkout() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    fn new(folder: PathBuf, kind: ProjectKind) -> NewProject {
        NewProject { folder, kind, rlaif: checkout() }
    }

    #[test]
    fn a_relative_path_leads_from_the_project_to_the_checkout() {
        let way = |from: &str, to: &str| way(Path::new(from), Path::new(to));
        assert_eq!(way("/home/a/brief", "/home/a/rlaif"), "../rlaif");
        assert_eq!(way("/home/a/brief", "/opt/rlaif"), "../../../opt/rlaif");
        assert_eq!(way("/home/a/rlaif/target/brief", "/home/a/rlaif"), "../..");
    }

    #[test]
    fn every_kind_is_written_without_a_placeholder() {
        let place = tempfile::tempdir().unwrap();
        for kind in
            [ProjectKind::Ppo, ProjectKind::Reinforce, ProjectKind::Dpo, ProjectKind::Reward]
        {
            let project = new(place.path().join(kind.command()), kind);
            project.write().unwrap();
            let mut folders = vec![project.folder.clone()];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_dir() {
                        folders.push(path);
                        continue;
                    }
                    let text = fs::read_to_string(&path).unwrap();
                    for placeholder in [
                        "@name@",
                        "@rlaif@",
                        "@command@",
                        "@next@",
                        "@short@",
                        "@about@",
                        "@files@",
                    ] {
                        assert!(!text.contains(placeholder), "{}: {placeholder}", path.display());
                    }
                }
            }
            let run = project.folder.join(format!("{}.toml", kind.command()));
            assert!(run.exists(), "{}", run.display());
            assert_eq!(project.folder.join("pairs.jsonl").exists(), kind.has_pairs());
        }
        // Nothing was left aside.
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 4);
    }

    #[test]
    fn what_is_there_stays_and_bad_names_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("brief");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("mine"), "kept").unwrap();
        let error = new(folder.clone(), ProjectKind::Ppo).write().unwrap_err();
        assert!(matches!(error, ProjectError::Exists { .. }) && error.is_users(), "{error}");
        assert_eq!(fs::read_to_string(folder.join("mine")).unwrap(), "kept");

        for name in ["1st", "a b", "serde", "rlaif", "rlaif-core", "build", "é", "a.b"] {
            let error = new(place.path().join(name), ProjectKind::Ppo).write().unwrap_err();
            assert!(matches!(error, ProjectError::Name { .. }) && error.is_users(), "{error}");
        }
        let elsewhere = NewProject {
            rlaif: place.path().to_owned(),
            ..new(place.path().join("b"), ProjectKind::Ppo)
        };
        let error = elsewhere.write().unwrap_err();
        assert!(matches!(error, ProjectError::Checkout { .. }) && error.is_users(), "{error}");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
