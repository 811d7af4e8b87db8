//! A folder with libtorch: its version, and its completeness.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// The version that tch 0.24 and the C++ layer require.
pub(crate) const VERSION: &str = "2.11.0";

const LIBRARIES: [&str; 3] = ["torch", "torch_cpu", "c10"];
const VERSION_HEADERS: [&str; 2] =
    ["torch/headeronly/version.h", "torch/csrc/api/include/torch/version.h"];

/// The requested libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cuda {
    /// With CUDA if there is an NVIDIA GPU and a choice.
    Auto,
    /// With CUDA.
    Wanted,
}

/// Reasons why a folder cannot serve as libtorch.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("there is no such folder")]
    NoFolder,
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
    #[error("it has no CUDA, and --cuda asks for it")]
    NoCuda,
    #[error("it is libtorch {0}, and rlaif needs libtorch {VERSION}")]
    Version(String),
}

/// The folders that `torch-sys` would compile and link against, given `LIBTORCH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Libtorch {
    pub(crate) dir: PathBuf,
    include: PathBuf,
    lib: PathBuf,
}

impl Libtorch {
    /// A libtorch whose parts are all in `dir`.
    pub(crate) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), include: dir.join("include"), lib: dir.join("lib") }
    }

    /// As [`Libtorch::at`], with the user's `LIBTORCH_INCLUDE` and `LIBTORCH_LIB` in place of the
    /// parts that they name, as in `torch-sys`.
    pub(crate) fn of_user(dir: &Path) -> Self {
        let part = |variable, name| {
            env::var_os(variable).map_or_else(|| dir.into(), PathBuf::from).join(name)
        };
        Self {
            dir: dir.to_owned(),
            include: part("LIBTORCH_INCLUDE", "include"),
            lib: part("LIBTORCH_LIB", "lib"),
        }
    }

    /// Checks that the folder has the headers and libraries of the right version, and the CUDA
    /// libraries if they are requested.
    ///
    /// # Errors
    /// The fault of the folder.
    pub(crate) fn check(&self, cuda: Cuda) -> Result<(), Fault> {
        if !self.dir.is_dir() {
            return Err(Fault::NoFolder);
        }
        for path in LIBRARIES.map(|name| self.library(name)) {
            if !path.is_file() {
                return Err(Fault::Missing(path));
            }
        }
        if cuda == Cuda::Wanted && !self.library("torch_cuda").is_file() {
            return Err(Fault::NoCuda);
        }
        let Some(found) = self.version() else {
            return Err(Fault::Missing(self.include.join(VERSION_HEADERS[0])));
        };
        // The switch that torch-sys has for the same purpose.
        if found != VERSION && env::var_os("LIBTORCH_BYPASS_VERSION_CHECK").is_none() {
            return Err(Fault::Version(found));
        }
        Ok(())
    }

    fn library(&self, name: &str) -> PathBuf {
        let file = format!("{}{name}{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
        self.lib.join(file)
    }

    /// The version in the headers, because the build compiles against them. (Only libtorch's
    /// archives have a `build-version` file, and only wheels a `version.py`.)
    fn version(&self) -> Option<String> {
        VERSION_HEADERS
            .iter()
            .filter_map(|header| fs::read_to_string(self.include.join(header)).ok())
            .find_map(|text| version_in_header(&text))
    }
}

/// The version that a `torch/version.h` defines.
fn version_in_header(text: &str) -> Option<String> {
    let number = |name: &str| {
        text.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("#define") && words.next() == Some(name)).then_some(())?;
            words.next()?.parse::<u32>().ok()
        })
    };
    let [major, minor, patch] =
        ["MAJOR", "MINOR", "PATCH"].map(|part| number(&format!("TORCH_VERSION_{part}")));
    Some(format!("{}.{}.{}", major?, minor?, patch?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_header() {
        let header = "#pragma once\n/// text\n#define TORCH_VERSION_MAJOR 2\n\
                      #define TORCH_VERSION_MINOR 11\n#define TORCH_VERSION_PATCH 0\n\
                      #define TORCH_VERSION \\\n  \"2.11.0\"\n";
        assert_eq!(version_in_header(header).as_deref(), Some("2.11.0"));
    }

    #[test]
    fn a_header_without_the_version_has_none() {
        assert_eq!(version_in_header("#include <torch/headeronly/version.h>\n"), None);
        let half = "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR x\n";
        assert_eq!(version_in_header(half), None);
    }
}
