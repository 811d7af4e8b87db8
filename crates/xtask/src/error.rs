//! Reasons why a command ended: one sentence each, with the remedy.

use std::io;
use std::path::PathBuf;

use crate::libtorch::{Fault, VERSION};

/// A failure of a command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    #[error("{0}")]
    Usage(String),

    #[error(
        "{variable} points to {}, but {fault}; point it to a libtorch {VERSION}, a folder with \
         `lib` and `include` in it, or unset it and run `cargo xtask setup`, which installs one",
        dir.display()
    )]
    BadLibtorch { variable: &'static str, dir: PathBuf, fault: Fault },

    #[error(
        "LIBTORCH is {}, a relative path, which each package would resolve from its own folder; \
         make it absolute",
        dir.display()
    )]
    RelativePath { dir: PathBuf },

    #[error(
        "LIBTORCH_USE_PYTORCH is set, but {python} cannot import torch ({reason}); install \
         torch=={VERSION} there, or unset the variable and `cargo xtask setup` installs libtorch"
    )]
    NoPyTorch { python: &'static str, reason: String },

    #[error(
        "LIBTORCH is {} and LIBTORCH_USE_PYTORCH points to {}; the build would use only the \
         second, so unset one of them",
        libtorch.display(), pytorch.display()
    )]
    TwoLibtorches { libtorch: PathBuf, pytorch: PathBuf },

    #[error(
        "libtorch {VERSION} can be installed on 64-bit x86 Linux with glibc, and this machine is \
         {platform}; install libtorch {VERSION} yourself and set LIBTORCH to its folder"
    )]
    UnsupportedPlatform { platform: String },

    #[error(
        "libtorch is downloaded with Python's pip, and {python} was not found; install Python 3 \
         with pip (Debian, Ubuntu: `apt install python3-pip`), or set LIBTORCH to a libtorch \
         {VERSION}"
    )]
    NoPython { python: &'static str },

    #[error(
        "libtorch is downloaded with Python's pip, and {python} has no pip; install it (Debian, \
         Ubuntu: `apt install python3-pip`; elsewhere: `{python} -m ensurepip`), or set LIBTORCH \
         to a libtorch {VERSION}"
    )]
    NoPip { python: &'static str },

    #[error(
        "pip could not reach the package index to download {what} ({reason}); check the network \
         or pip's settings (`pip config list`) and run the same command again"
    )]
    NoNetwork { what: String, reason: String },

    #[error(
        "pip did not find {what} ({reason}); check that pip's package index has it (`pip config \
         list`), or set LIBTORCH to a libtorch {VERSION}"
    )]
    NoSuchWheel { what: String, reason: String },

    #[error("pip could not download {what} ({reason}); fix this and run the same command again")]
    Pip { what: String, reason: String },

    #[error(
        "the disk of {} is full; libtorch {VERSION} needs {need} free there while it is \
         installed; make room and run the same command again, or set LIBTORCH to a libtorch \
         elsewhere", dir.display()
    )]
    DiskFull { dir: PathBuf, need: &'static str },

    #[error(
        "cannot write in {} ({source}); make it writable, or set LIBTORCH to a libtorch {VERSION}",
        dir.display()
    )]
    CannotWrite { dir: PathBuf, source: io::Error },

    #[error("the download {} is damaged ({reason}) and was removed; run the same command again",
        wheel.display())]
    Damaged { wheel: PathBuf, reason: String },

    #[error("cannot read the download {} ({reason}); run the same command again", wheel.display())]
    Wheel { wheel: PathBuf, reason: String },

    #[error(
        "the wheel {wheel} is not the one that this set-up knows ({reason}); check where pip got \
         it (`pip config list`), or set LIBTORCH to a libtorch {VERSION}"
    )]
    UnknownWheel { wheel: String, reason: String },

    #[error("cannot start `{program}` ({source}); check that it is installed and on PATH")]
    Start { program: String, source: io::Error },

    #[error("`{command}` failed ({status}); its own messages are above")]
    Failed { command: String, status: std::process::ExitStatus },

    #[error("cannot read what `{command}` printed ({source})")]
    Output { command: String, source: cargo_metadata::Error },

    #[error("cannot read {} ({source})", file.display())]
    Read { file: PathBuf, source: io::Error },

    #[error("cannot write {} ({source})", file.display())]
    Write { file: PathBuf, source: io::Error },

    #[error(
        "{file} does not say what the manifests do (- documented, + found); `cargo xtask docs` writes \
         the arrows, and rows of the table are written by hand:\n{faults}"
    )]
    Documented { file: &'static str, faults: String },

    #[error(
        "modules use each other in a circle; move the common part to a separate file, below them, or list \
         the circle with its reason in docs/architecture.md, \"Circles of modules that stay\":\n{0}"
    )]
    Circles(String),

    #[error(
        "public types of one name; rename one, so that a reader knows which is meant, or allow the name with its \
         reason in crates/xtask/src/names.rs:\n{0}"
    )]
    Names(String),

    #[error("These tests, which the documentation names, do not exist:\n{0}")]
    Claims(String),

    #[error("phrases of the list in CONTRIBUTING.md, \"English\"; reword them:\n{0}")]
    English(String),
}
