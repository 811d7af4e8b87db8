//! For build scripts of packages that stand on `rlaif-torch`: their binaries, tests and examples
//! find libtorch's shared libraries when they are run directly, without `LD_LIBRARY_PATH`.
//!
//! Cargo hands a linker argument to the package that asked for it and to no other, so every
//! package with a binary needs a build script of its own. This is all of it:
//!
//! ```no_run
//! // build.rs, with `rlaif-build` under [build-dependencies]
//! fn main() {
//!     rlaif_build::link_libtorch();
//! }
//! ```
//!
//! `cargo run` and `cargo test` work without it, because cargo itself sets the search path.
//! `rlaif-torch`, or a crate that passes the folder on, must be among the package's
//! `[dependencies]`: cargo tells a build script nothing about `[dev-dependencies]`.
//!
//! A library that others build on also sets `links = "some_unique_name"` in its manifest: the
//! folder then travels on to *its* dependents, which need not depend on `rlaif-torch` themselves.

#![expect(clippy::needless_doctest_main, reason = "the example is a whole build script")]

use std::path::{Path, PathBuf};

/// The key under which the folder travels from build script to build script. Cargo hands it to
/// direct dependents as `DEP_<links>_LIBTORCH_LIB`; `torch-sys` starts the chain.
const KEY: &str = "LIBTORCH_LIB";

/// Gives the binaries of this package a run-time search path to libtorch, and passes libtorch's
/// folder on to the build scripts of dependents.
///
/// Returns the folder of libtorch's shared libraries, or `None` where there is none to link: no
/// direct dependency says where libtorch is, or the build only makes documentation
/// (`doc-only`). On Windows, which has no such search path, nothing is linked; the folder must be
/// on `PATH`.
///
/// Call it from a build script only: it speaks to cargo on standard output.
#[expect(clippy::must_use_candidate, reason = "most callers need the effect alone")]
pub fn link_libtorch() -> Option<PathBuf> {
    // Without any such line cargo runs the script again for every changed file of the package.
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    let dir = libtorch_lib(
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, PathBuf::from(value)))),
    )?;
    println!("cargo::metadata={KEY}={}", dir.display());
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os != "windows") {
        for dir in search_path(&dir) {
            println!("cargo::rustc-link-arg=-Wl,-rpath,{}", dir.display());
        }
    }
    Some(dir)
}

/// The folder that a direct dependency named. All of them got it from the one `torch-sys` in the
/// build, so the first in the order of names is as good as any, and the same at each build.
fn libtorch_lib(vars: impl Iterator<Item = (String, PathBuf)>) -> Option<PathBuf> {
    let suffix = format!("_{KEY}");
    vars.filter(|(name, dir)| {
        name.starts_with("DEP_") && name.ends_with(&suffix) && !dir.as_os_str().is_empty()
    })
    .min()
    .map(|(_, dir)| dir)
}

/// libtorch's folder, then CUDA's where the PyTorch wheel put it beside. Libtorch's own libraries
/// carry that path themselves; it is repeated for builds of libtorch that do not.
fn search_path(lib: &Path) -> Vec<PathBuf> {
    let mut path = vec![lib.to_path_buf()];
    let nvidia = lib.parent().and_then(Path::parent).map(|site| site.join("nvidia"));
    if let Some(cuda) = nvidia.map(|n| n.join("cu13/lib")).filter(|dir| dir.is_dir()) {
        path.push(cuda);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn var(name: &str, value: &str) -> (String, PathBuf) {
        (name.to_owned(), PathBuf::from(value))
    }

    #[test]
    fn the_folder_comes_from_any_direct_dependency() {
        let vars = [var("PATH", "/bin"), var("DEP_TCH_LIBTORCH_LIB", "/t/lib")];
        assert_eq!(libtorch_lib(vars.into_iter()), Some(PathBuf::from("/t/lib")));
        let vars = [var("DEP_RLAIF_TORCH_LIBTORCH_LIB", "/u/lib"), var("DEP_Z_ROOT", "/z")];
        assert_eq!(libtorch_lib(vars.into_iter()), Some(PathBuf::from("/u/lib")));
    }

    #[test]
    fn other_variables_are_not_taken_for_the_folder() {
        let vars = [var("LIBTORCH_LIB", "/a"), var("DEP_TCH_LIBTORCH", "/b")];
        assert_eq!(libtorch_lib(vars.into_iter()), None);
        assert_eq!(libtorch_lib([var("DEP_TCH_LIBTORCH_LIB", "")].into_iter()), None);
    }

    #[test]
    fn cuda_of_the_wheel_is_added_only_where_it_is() {
        let site = std::env::temp_dir().join(format!("rlaif-build-{}", std::process::id()));
        let lib = site.join("torch/lib");
        std::fs::create_dir_all(&lib).unwrap();
        assert_eq!(search_path(&lib), std::slice::from_ref(&lib));
        let cuda = site.join("nvidia/cu13/lib");
        std::fs::create_dir_all(&cuda).unwrap();
        assert_eq!(search_path(&lib), [lib, cuda]);
        std::fs::remove_dir_all(&site).unwrap();
    }
}
