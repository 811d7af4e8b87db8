//! `cargo xtask setup`: finds libtorch, or installs it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::error::Error;
use crate::install::{Place, Scope};
use crate::libtorch::{Cuda, Libtorch, VERSION};
use crate::python;

/// Sees to it that cargo finds a libtorch of the right version. The first of: the user's
/// `LIBTORCH`, PyTorch if `LIBTORCH_USE_PYTORCH` is set, a system libtorch, `.libtorch`, a new one
/// in `.libtorch`.
pub(crate) fn run(root: &Path, cuda: Cuda) -> Result<(), Error> {
    let place = Place::new(root);
    let user = env::var_os("LIBTORCH").and_then(|dir| of_user(&dir, &place.torch()));
    let pytorch = match env::var_os("LIBTORCH_USE_PYTORCH") {
        Some(_) => Some(python::pytorch_folder()?),
        None => None,
    };
    if let Some(dir) = user {
        if dir.is_relative() {
            return Err(Error::RelativePath { dir });
        }
        check(&Libtorch::of_user(&dir), cuda, "LIBTORCH")?;
        if let Some(pytorch) = pytorch.filter(|pytorch| !same_folder(pytorch, &dir)) {
            return Err(Error::TwoLibtorches { libtorch: dir, pytorch });
        }
        eprintln!("  libtorch {VERSION} in {} (LIBTORCH)", dir.display());
        return Ok(());
    }
    if let Some(dir) = pytorch {
        check(&Libtorch::at(&dir), cuda, "LIBTORCH_USE_PYTORCH")?;
        // An installation is kept regardless of the current value of a variable; torch-sys reads
        // the variable itself.
        if place.complete().is_none() {
            place.link_to(&dir)?;
        }
        eprintln!("  libtorch {VERSION} in {} (LIBTORCH_USE_PYTORCH)", dir.display());
        return Ok(());
    }
    // The one place that torch-sys looks in.
    if cfg!(target_os = "linux") && Path::new("/usr/lib/libtorch.so").exists() {
        let dir = Path::new("/usr");
        match Libtorch::at(dir).check(cuda) {
            Ok(()) => {
                place.link_to(dir)?;
                eprintln!("  libtorch {VERSION} in /usr (system)");
                return Ok(());
            }
            Err(why) => eprintln!("  the libtorch in /usr/lib is not used: {why}"),
        }
    }
    use_or_install(&place, cuda)
}

fn use_or_install(place: &Place, cuda: Cuda) -> Result<(), Error> {
    // A link made for a PyTorch or a system libtorch serves on.
    if fs::symlink_metadata(place.torch()).is_ok_and(|meta| meta.is_symlink())
        && Libtorch::at(&place.torch()).check(cuda).is_ok()
    {
        eprintln!("  libtorch {VERSION} in {}", place.torch().display());
        return Ok(());
    }
    let scope = match cuda {
        Cuda::Auto if !has_nvidia_gpu() => Scope::Cpu,
        _ => Scope::Cuda,
    };
    if place.complete() < Some(scope) {
        eprintln!("  installing libtorch {VERSION} in {}", place.installed().display());
        place.install(scope)?;
    }
    eprintln!("  {}", place.describe(place.complete().unwrap_or(scope)));
    Ok(())
}

fn check(libtorch: &Libtorch, cuda: Cuda, variable: &'static str) -> Result<(), Error> {
    let dir = libtorch.dir.clone();
    libtorch.check(cuda).map_err(|fault| Error::BadLibtorch { variable, dir, fault })
}

/// `LIBTORCH` as the user set it, or `None` if cargo set it from `.cargo/config.toml`.
fn of_user(value: &OsStr, ours: &Path) -> Option<PathBuf> {
    let dir = PathBuf::from(value);
    (!value.is_empty() && dir != ours).then_some(dir)
}

fn same_folder(a: &Path, b: &Path) -> bool {
    matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

/// By the traces of the driver; the last is that of Windows' Linux subsystem.
fn has_nvidia_gpu() -> bool {
    ["/proc/driver/nvidia/version", "/dev/nvidiactl", "/usr/lib/wsl/lib/libcuda.so.1"]
        .iter()
        .any(|trace| Path::new(trace).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_set_is_not_the_users() {
        let ours = Path::new("/repository/.libtorch/torch");
        assert_eq!(of_user(OsStr::new("/repository/.libtorch/torch"), ours), None);
        assert_eq!(of_user(OsStr::new(""), ours), None);
        assert_eq!(of_user(OsStr::new("/opt/torch"), ours), Some("/opt/torch".into()));
    }
}
