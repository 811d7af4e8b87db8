//! The processes of runs on this machine.
//!
//! A run locks its log.txt. The kernel knows the process that holds the lock, so the process that gets a signal is the
//! run's, and not another one that has its number by now.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The locks of this machine, as Linux lists them; elsewhere there are none.
#[derive(Debug)]
pub(crate) struct Locks(String);

impl Locks {
    pub(crate) fn read() -> Self {
        Self(std::fs::read_to_string("/proc/locks").unwrap_or_default())
    }

    /// The process that runs in a folder: it holds the lock of log.txt, and has the file open.
    pub(crate) fn holder(&self, run: &Path) -> Option<u32> {
        let log = std::fs::canonicalize(run.join("log.txt")).ok()?;
        let inode = inode(&log)?;
        let of_file = self.0.lines().filter_map(flock).filter(|(_, of)| *of == inode);
        of_file.map(|(pid, _)| pid).find(|pid| has_open(*pid, &log))
    }
}

#[cfg(unix)]
fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(std::fs::metadata(path).ok()?.ino())
}

#[cfg(not(unix))]
fn inode(_: &Path) -> Option<u64> {
    None
}

/// Process and inode of a line such as `3: FLOCK  ADVISORY  WRITE 8489 fe:00:10010714 0 EOF`.
fn flock(line: &str) -> Option<(u32, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, "WRITE", pid, file, ..] = fields.as_slice() else { return None };
    Some((pid.parse().ok()?, file.rsplit(':').next()?.parse().ok()?))
}

/// `true` if the process has the file open. Inodes alone do not name a file: there are several file systems.
fn has_open(pid: u32, file: &Path) -> bool {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let mut links =
        open.into_iter().flatten().flatten().filter_map(|entry| entry.path().read_link().ok());
    links.any(|link| link == file)
}

/// Runs that were asked to stop, by folder and process.
#[derive(Debug, Default)]
pub(crate) struct Stopped(Mutex<HashSet<(PathBuf, u32)>>);

impl Stopped {
    /// Remembers a stop; false if it was asked for already.
    pub(crate) fn add(&self, run: &Path, pid: u32) -> bool {
        self.runs().insert((run.to_owned(), pid))
    }

    /// Forgets a stop that failed.
    pub(crate) fn remove(&self, run: &Path, pid: u32) {
        self.runs().remove(&(run.to_owned(), pid));
    }

    fn runs(&self) -> MutexGuard<'_, HashSet<(PathBuf, u32)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_read_by_line() {
        assert_eq!(flock("3: FLOCK  ADVISORY  WRITE 8489 fe:00:1001 0 EOF"), Some((8489, 1001)));
        for other in [
            "",
            "3: POSIX  ADVISORY  WRITE 8489 fe:00:1001 0 EOF",
            "3: FLOCK  ADVISORY  READ 8489 fe:00:1001 0 EOF",
            "3: -> FLOCK ADVISORY WRITE 1 fe:00:1 0 EOF",
        ] {
            assert_eq!(flock(other), None, "{other}");
        }
    }
}
