//! Installs the pinned libtorch into `.libtorch` from PyTorch's wheels.
//!
//! Everything is written to `.libtorch.partial` and renamed when complete, so that a process killed
//! at any moment leaves either no `.libtorch` or a complete one. Completely downloaded wheels stay
//! there and are used by the next run.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::libtorch::{Cuda, Libtorch, VERSION};
use crate::progress::megabytes;
use crate::python;
use crate::requirement::{Requirement, pinned};

/// The part of libtorch that is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// The CPU part, with the two CUDA libraries that it links to.
    Cpu,
    /// All libraries, and the NVIDIA libraries that they need.
    Cuda,
}

impl Scope {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }

    /// The files of the wheels to keep.
    fn patterns(self) -> BTreeSet<&'static str> {
        let headers = ["torch/include/*"];
        let cpu = [
            "torch/lib/libtorch.so",
            "torch/lib/libtorch_cpu.so",
            "torch/lib/libc10.so",
            "torch/lib/libgomp*",
            "nvidia/cu13/lib/libcudart.so*",
            "nvidia/cu13/lib/libcupti.so*",
        ];
        let cuda = ["torch/lib/*.so*", "nvidia/*/lib/*.so*"];
        match self {
            Self::Cpu => headers.into_iter().chain(cpu).collect(),
            Self::Cuda => headers.into_iter().chain(cuda).collect(),
        }
    }

    /// `true` if the extra `name` of the CUDA toolkit is needed.
    fn needs_extra(self, name: &str) -> bool {
        self == Self::Cuda || matches!(name, "cudart" | "cupti")
    }
}

/// The folders in the root of the workspace that an installation writes.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    root: PathBuf,
}

impl Place {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn installed(&self) -> PathBuf {
        self.root.join(".libtorch")
    }

    /// The folder that `.cargo/config.toml` names.
    pub(crate) fn torch(&self) -> PathBuf {
        self.installed().join("torch")
    }

    fn marker(&self) -> PathBuf {
        self.installed().join("installed")
    }

    fn partial(&self) -> PathBuf {
        self.root.join(".libtorch.partial")
    }

    fn replaced(&self) -> PathBuf {
        self.root.join(".libtorch.replaced")
    }

    /// The scope of an earlier installation, if all of its files still exist.
    pub(crate) fn complete(&self) -> Option<Scope> {
        let text = fs::read_to_string(self.marker()).ok()?;
        let (version, scope, files) = parse_marker(&text)?;
        let whole = files.iter().all(|(size, file)| {
            fs::metadata(self.installed().join(file)).is_ok_and(|meta| meta.len() == *size)
        });
        (version == VERSION && whole).then_some(scope)
    }

    /// Makes plain cargo commands use the libtorch in `dir`.
    pub(crate) fn link_to(&self, dir: &Path) -> Result<(), Error> {
        if fs::read_link(self.torch()).is_ok_and(|target| target == dir) {
            return Ok(());
        }
        let _lock = self.lock()?;
        let result = self.fresh_tree().and_then(|tree| {
            symlink(dir, &tree.join("torch")).map_err(|e| python::write_error(&self.root, e))?;
            self.put_in_place(&tree)
        });
        self.remove_leftovers();
        result
    }

    /// Installs libtorch. Waits for another installation in the same place.
    pub(crate) fn install(&self, scope: Scope) -> Result<(), Error> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
            let platform = format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH);
            return Err(Error::UnsupportedPlatform { platform });
        }
        let _lock = self.lock()?;
        if self.complete() >= Some(scope) {
            return Ok(());
        }
        let result = self.install_locked(scope);
        self.remove_leftovers();
        result
    }

    fn install_locked(&self, scope: Scope) -> Result<(), Error> {
        let tree = self.fresh_tree()?;
        let torch = self.fetch(&[Requirement::new("torch", VERSION)])?.remove(0);
        let mut wheels = vec![torch.clone()];
        wheels.extend(self.fetch(&self.nvidia_wheels(&torch, scope)?)?);

        for wheel in &wheels {
            self.reading(wheel, python::unpack(wheel, &tree, &scope.patterns()))?;
        }
        // Read by torch-sys; the wheel has its version only in Python.
        self.write(&tree.join("torch/build-version"), VERSION)?;
        let fault = Libtorch::at(&tree.join("torch")).check(Cuda::Auto).err();
        if let Some(fault) = fault {
            return Err(unknown_wheel(&torch, fault.to_string()));
        }
        let files = shared_libraries(&tree).map_err(|e| python::write_error(&tree, e))?;
        self.write(&tree.join("installed"), &marker(scope, &files))?;
        self.put_in_place(&tree)?;
        let _ = fs::remove_dir_all(self.partial().join("wheels"));
        Ok(())
    }

    /// NVIDIA's wheels that `torch` needs: those in its own METADATA, and those that the CUDA
    /// toolkit, a wheel without files, requires for the parts that torch requests.
    fn nvidia_wheels(&self, torch: &Path, scope: Scope) -> Result<Vec<Requirement>, Error> {
        let needs = pinned(&self.reading(torch, python::metadata(torch))?);
        let toolkit = needs
            .iter()
            .find(|need| need.name == "cuda-toolkit")
            .ok_or_else(|| unknown_wheel(torch, "it needs no CUDA toolkit".to_owned()))?;
        let toolkit_wheel = self.fetch(std::slice::from_ref(toolkit))?.remove(0);
        let parts = pinned(&self.reading(&toolkit_wheel, python::metadata(&toolkit_wheel))?);

        let mut wanted = vec![];
        for extra in toolkit.extras.iter().filter(|extra| scope.needs_extra(extra)) {
            let part = parts
                .iter()
                .find(|part| part.extra.as_ref() == Some(extra))
                .ok_or_else(|| unknown_wheel(&toolkit_wheel, format!("it has no part {extra}")))?;
            wanted.push(part.clone());
        }
        if scope == Scope::Cuda {
            wanted.extend(needs.iter().filter(|need| need.name.starts_with("nvidia-")).cloned());
        }
        Ok(wanted)
    }

    /// The wheels of `wanted`, in that order; missing ones are downloaded.
    fn fetch(&self, wanted: &[Requirement]) -> Result<Vec<PathBuf>, Error> {
        let wheels = self.partial().join("wheels");
        let missing: Vec<_> =
            wanted.iter().filter(|need| find(&wheels, need).is_none()).cloned().collect();
        if !missing.is_empty() {
            let download = self.partial().join("download");
            let _ = fs::remove_dir_all(&download);
            python::download(&missing, &download)?;
            // Only complete files count as downloaded.
            for need in &missing {
                let Some(wheel) = find(&download, need) else { continue };
                let name = wheel.file_name().unwrap_or_default();
                fs::rename(&wheel, wheels.join(name))
                    .map_err(|e| python::write_error(&wheels, e))?;
            }
        }
        let found = wanted.iter().map(|need| {
            find(&wheels, need).ok_or_else(|| Error::Pip {
                what: need.for_pip(),
                reason: "it ended without an error and without the wheel".to_owned(),
            })
        });
        found.collect()
    }

    /// Removes a wheel that turned out to be damaged, so that the next run downloads it again.
    fn reading<T>(&self, wheel: &Path, result: Result<T, Error>) -> Result<T, Error> {
        if matches!(result, Err(Error::Damaged { .. })) {
            fs::remove_file(wheel).map_err(|e| python::write_error(&self.partial(), e))?;
        }
        result
    }

    fn lock(&self) -> Result<File, Error> {
        // The folder itself: no lock file to leave behind. The system releases the lock with the
        // process.
        let error = |e| python::write_error(&self.root, e);
        let root = File::open(&self.root).map_err(error)?;
        if root.try_lock().is_err() {
            eprintln!("  waiting for another `cargo xtask setup` in this folder");
            root.lock().map_err(error)?;
        }
        Ok(root)
    }

    fn fresh_tree(&self) -> Result<PathBuf, Error> {
        let tree = self.partial().join("tree");
        for leftover in [tree.clone(), self.partial().join("download"), self.replaced()] {
            remove(&leftover).map_err(|e| python::write_error(&leftover, e))?;
        }
        for dir in [&tree, &self.partial().join("wheels")] {
            fs::create_dir_all(dir).map_err(|e| python::write_error(&self.root, e))?;
        }
        Ok(tree)
    }

    fn put_in_place(&self, tree: &Path) -> Result<(), Error> {
        let error = |e| python::write_error(&self.root, e);
        if fs::symlink_metadata(self.installed()).is_ok() {
            fs::rename(self.installed(), self.replaced()).map_err(error)?;
        }
        fs::rename(tree, self.installed()).map_err(error)?;
        let _ = fs::remove_dir_all(self.replaced());
        Ok(())
    }

    /// Removes everything but complete wheels, which the next run uses. Files that cannot be
    /// removed cost only disk space, and the next run tries again.
    fn remove_leftovers(&self) {
        for leftover in ["tree", "download"] {
            let _ = fs::remove_dir_all(self.partial().join(leftover));
        }
        // Removed only if empty.
        let _ = fs::remove_dir(self.partial().join("wheels"));
        let _ = fs::remove_dir(self.partial());
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), Error> {
        fs::write(path, text).map_err(|e| python::write_error(&self.root, e))
    }

    /// One line that describes the installation.
    pub(crate) fn describe(&self, scope: Scope) -> String {
        let text = fs::read_to_string(self.marker()).unwrap_or_default();
        let bytes = parse_marker(&text).map_or(0, |(_, _, files)| files.iter().map(|f| f.0).sum());
        format!(
            "libtorch {VERSION} ({}, libraries of {}) in {}",
            scope.name(),
            megabytes(bytes),
            self.torch().display()
        )
    }
}

fn unknown_wheel(wheel: &Path, reason: String) -> Error {
    let wheel = wheel.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Error::UnknownWheel { wheel, reason }
}

fn find(folder: &Path, need: &Requirement) -> Option<PathBuf> {
    let mut wheels = fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    wheels.find(|path| path.file_name().is_some_and(|name| need.is_met_by(&name.to_string_lossy())))
}

/// Sizes and paths of the shared libraries in `tree`, sorted.
fn shared_libraries(tree: &Path) -> io::Result<Vec<(u64, String)>> {
    let mut files = vec![];
    let mut folders = vec![tree.join("torch/lib"), tree.join("nvidia")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let (path, meta) = {
                let entry = entry?;
                (entry.path(), entry.metadata()?)
            };
            if meta.is_dir() {
                folders.push(path);
            } else if let Ok(relative) = path.strip_prefix(tree) {
                files.push((meta.len(), relative.to_string_lossy().into_owned()));
            }
        }
    }
    files.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(files)
}

/// The marker: version and scope, then size and path of each library. It is written last.
fn marker(scope: Scope, files: &[(u64, String)]) -> String {
    let lines = files.iter().map(|(size, path)| format!("{size} {path}\n"));
    format!("{VERSION} {}\n{}", scope.name(), lines.collect::<String>())
}

type Marker<'a> = (&'a str, Scope, Vec<(u64, &'a str)>);

fn parse_marker(text: &str) -> Option<Marker<'_>> {
    let mut lines = text.lines();
    let (version, scope) = lines.next()?.split_once(' ')?;
    let scope = [Scope::Cpu, Scope::Cuda].into_iter().find(|s| s.name() == scope)?;
    let files = lines.map(|line| {
        let (size, path) = line.split_once(' ')?;
        Some((size.parse().ok()?, path))
    });
    Some((version, scope, files.collect::<Option<_>>()?))
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_dir(target, link)
}

/// Removes a folder, if it is there. A process of a set-up that was killed may write into it for a moment more.
fn remove(folder: &Path) -> io::Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match fs::remove_dir_all(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty && Instant::now() < end => {
                thread::sleep(Duration::from_millis(50));
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_reads_back() {
        let files = [(3, "torch/lib/a b.so".to_owned()), (4, "nvidia/cu13/lib/c.so".to_owned())];
        let text = marker(Scope::Cuda, &files);
        let (version, scope, read) = parse_marker(&text).unwrap();
        assert_eq!((version, scope), (VERSION, Scope::Cuda));
        assert_eq!(read, [(3, "torch/lib/a b.so"), (4, "nvidia/cu13/lib/c.so")]);
    }

    #[test]
    fn a_damaged_marker_counts_as_none() {
        for text in ["", "2.11.0", "2.11.0 tpu\n", "2.11.0 cpu\nx torch/lib/a.so\n"] {
            assert!(parse_marker(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn all_of_libtorch_serves_where_the_cpu_part_is_wanted() {
        assert!(Some(Scope::Cuda) >= Some(Scope::Cpu));
        assert!(Some(Scope::Cpu) < Some(Scope::Cuda));
        assert!(None < Some(Scope::Cpu));
    }
}
