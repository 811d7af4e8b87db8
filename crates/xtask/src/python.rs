//! Python: pip for downloads, and reading wheels.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{env, fs, io, thread};

use crate::error::Error;
use crate::progress::Progress;
use crate::requirement::Requirement;

const RUN_PIP: &str = include_str!("pip.py");
const READ_WHEEL: &str = include_str!("wheel.py");
const DAMAGED: i32 = 65;

/// Free disk space for an installation: downloads and unpacked files together.
pub(crate) const NEED_FREE: &str = "1.1 GB (6.5 GB with CUDA)";

/// The interpreter that `torch-sys` uses too.
pub(crate) fn interpreter() -> &'static str {
    if env::var_os("VIRTUAL_ENV").is_some() { "python" } else { "python3" }
}

fn start_error(source: io::Error) -> Error {
    let python = interpreter();
    match source.kind() {
        io::ErrorKind::NotFound => Error::NoPython { python },
        _ => Error::Start { program: python.to_owned(), source },
    }
}

/// The folder of the torch package of the interpreter.
pub(crate) fn pytorch_folder() -> Result<PathBuf, Error> {
    let python = interpreter();
    // As torch-sys does it, but without the seconds that importing torch takes.
    let script = "import importlib.util as u, os; s = u.find_spec('torch'); \
                  print(os.path.dirname(s.origin) if s and s.origin else '')";
    let output = Command::new(python).args(["-c", script]).output().map_err(start_error)?;
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !folder.is_empty() {
        return Ok(folder.into());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let reason = last_line(&stderr).unwrap_or("it has no package torch").to_owned();
    Err(Error::NoPyTorch { python, reason })
}

/// Downloads the wheels of `wanted` into `folder`, which must be used by nothing else.
///
/// The wheels are those of one fixed platform, regardless of the Python that runs pip: only their
/// C++ part is used.
pub(crate) fn download(wanted: &[Requirement], folder: &Path) -> Result<(), Error> {
    let what = in_short(wanted);
    let temporary = folder.join("tmp");
    fs::create_dir_all(&temporary).map_err(|e| write_error(folder, e))?;

    let mut command = Command::new(interpreter());
    command.args(["-c", RUN_PIP, "download", "--no-deps", "--no-input", "--progress-bar", "off"]);
    command.args(["--disable-pip-version-check", "--only-binary=:all:"]);
    command.args(["--implementation", "cp", "--python-version", "3.12"]);
    command.args(["--abi", "cp312", "--abi", "abi3", "--abi", "none"]);
    command.args(["--platform", "manylinux2014_x86_64"]);
    for minor in (17..=28).rev() {
        command.args(["--platform", &format!("manylinux_2_{minor}_x86_64")]);
    }
    command.arg("--dest").arg(folder).args(wanted.iter().map(Requirement::for_pip));
    // On the disk of the result, and in a folder that is removed with it.
    command.env("TMPDIR", &temporary).env("PYTHONUNBUFFERED", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());

    let mut child = command.spawn().map_err(start_error)?;
    let said = Arc::new(Mutex::new(String::new()));
    let readers = [
        child.stdout.take().map(|out| listen(out, &said)),
        child.stderr.take().map(|err| listen(err, &said)),
    ];
    let mut progress = Progress::new(format!("downloading {what}"));
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {
                let total = announced(&said.lock().expect("no reader panics"));
                progress.show(size_of(folder), total);
                thread::sleep(Duration::from_millis(20));
            }
            Err(source) => return Err(Error::Start { program: interpreter().into(), source }),
        }
    };
    for reader in readers.into_iter().flatten() {
        let _ = reader.join();
    }
    if status.success() {
        progress.finish(size_of(folder));
        return Ok(());
    }
    let said = said.lock().expect("no reader panics");
    Err(why_pip_failed(&said, what, folder))
}

/// A short description of the wheels, for a line of progress or an error.
fn in_short(wanted: &[Requirement]) -> String {
    match wanted {
        [] => String::new(),
        [one] => one.for_pip(),
        [first, rest @ ..] => format!("{} and {} more", first.for_pip(), rest.len()),
    }
}

fn listen(from: impl Read + Send + 'static, said: &Arc<Mutex<String>>) -> thread::JoinHandle<()> {
    let said = Arc::clone(said);
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let mut said = said.lock().expect("no reader panics");
            said.push_str(&String::from_utf8_lossy(&line));
            said.push('\n');
        }
    })
}

/// The sum of the sizes in pip's lines "Downloading NAME (530.7 MB)".
fn announced(said: &str) -> Option<u64> {
    let sizes = said.lines().filter_map(|line| {
        let (file, size) = line.trim().strip_prefix("Downloading ")?.rsplit_once(" (")?;
        // pip announces the metadata of a wheel before the wheel.
        if file.ends_with(".metadata") {
            return None;
        }
        let (number, unit) = size.strip_suffix(')')?.split_once(' ')?;
        let scale = match unit {
            "GB" => 1e9,
            "MB" => 1e6,
            "kB" => 1e3,
            "bytes" => 1.0,
            _ => return None,
        };
        Some(number.parse::<f64>().ok()? * scale)
    });
    let total: f64 = sizes.sum();
    (total > 0.0).then_some(total as u64)
}

fn size_of(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let sizes = entries.filter_map(Result::ok).map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size_of(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

fn why_pip_failed(said: &str, what: String, folder: &Path) -> Error {
    let has = |marks: &[&str]| marks.iter().any(|mark| said.contains(mark));
    if has(&["xtask: no pip"]) {
        return Error::NoPip { python: interpreter() };
    }
    if has(&["No space left on device", "Errno 28", "Disk quota exceeded"]) {
        return disk_full(folder);
    }
    let error = said.lines().rfind(|line| line.starts_with("ERROR:"));
    let last = error.or_else(|| last_line(said)).unwrap_or("pip said nothing");
    let reason = last.trim_start_matches("ERROR:").trim().to_owned();
    // pip retries, then reports that it found no version at all; its warnings give the reason.
    let unreachable = [
        "Retrying (",
        "ConnectionError",
        "NewConnectionError",
        "Temporary failure in name resolution",
        "Network is unreachable",
        "Connection refused",
        "Connection reset",
        "ConnectTimeout",
        "Read timed out",
        "ReadTimeoutError",
        "ProxyError",
        "SSLError",
        "IncompleteRead",
    ];
    if has(&unreachable) {
        return Error::NoNetwork { what, reason };
    }
    if has(&["Could not find a version", "No matching distribution"]) {
        return Error::NoSuchWheel { what, reason };
    }
    Error::Pip { what, reason }
}

/// The METADATA of a wheel.
pub(crate) fn metadata(wheel: &Path) -> Result<String, Error> {
    let mut command = Command::new(interpreter());
    command.args(["-c", READ_WHEEL, "metadata"]).arg(wheel);
    let output = command.output().map_err(start_error)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(why_unreadable(
        wheel,
        wheel,
        output.status.code(),
        &String::from_utf8_lossy(&output.stderr),
    ))
}

/// Unpacks the files of `wheel` that fit one of `patterns` into `folder`, and compares each with
/// the hash in the wheel's RECORD.
pub(crate) fn unpack(wheel: &Path, folder: &Path, patterns: &BTreeSet<&str>) -> Result<(), Error> {
    let mut command = Command::new(interpreter());
    command.args(["-c", READ_WHEEL, "unpack"]).arg(wheel).arg(folder).args(patterns);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(start_error)?;
    let file = wheel.file_name().unwrap_or_default().to_string_lossy();
    let name = file.split('-').take(2).collect::<Vec<_>>().join("-");
    let mut progress = Progress::new(format!("unpacking {name}"));
    let done = child.stdout.take().map_or(0, |out| follow_unpacking(out, &mut progress));
    let output = child.wait_with_output().map_err(start_error)?;
    if output.status.success() {
        progress.finish(done);
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(why_unreadable(wheel, folder, output.status.code(), &stderr))
}

fn follow_unpacking(out: ChildStdout, progress: &mut Progress) -> u64 {
    let mut last = 0;
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        let mut numbers = line.split(' ').filter_map(|word| word.parse::<u64>().ok());
        if let (Some(done), total) = (numbers.next(), numbers.next()) {
            last = done;
            progress.show(done, total);
        }
    }
    last
}

fn why_unreadable(wheel: &Path, folder: &Path, code: Option<i32>, stderr: &str) -> Error {
    let reason = last_line(stderr).unwrap_or("no reason given").to_owned();
    if stderr.contains("No space left on device") || stderr.contains("Errno 28") {
        return disk_full(folder);
    }
    let wheel = wheel.to_owned();
    match code {
        Some(DAMAGED) => Error::Damaged { wheel, reason },
        _ => Error::Wheel { wheel, reason },
    }
}

fn disk_full(dir: &Path) -> Error {
    Error::DiskFull { dir: dir.to_owned(), need: NEED_FREE }
}

/// An error of writing in `dir`.
pub(crate) fn write_error(dir: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => disk_full(dir),
        _ => Error::CannotWrite { dir: dir.to_owned(), source },
    }
}

fn last_line(text: &str) -> Option<&str> {
    text.lines().map(str::trim).rfind(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(said: &str) -> String {
        why_pip_failed(said, "torch==2.11.0".to_owned(), Path::new("/x")).to_string()
    }

    #[test]
    fn the_sizes_that_pip_announces_are_added() {
        let said = "Collecting torch==2.11.0\n  Downloading torch-2.11.0-cp312.whl.metadata (29 kB)\n\
                    \x20 Downloading torch-2.11.0-cp312.whl (530.7 MB)\n\
                    \x20 Downloading https://host/a (b).whl (2.5 kB)\n";
        assert_eq!(announced(said), Some(530_702_500));
        assert_eq!(announced("Collecting torch==2.11.0\n"), None);
    }

    #[test]
    fn many_wheels_are_named_in_few_words() {
        let wheels = ["torch", "nvidia-cublas", "nvidia-cufft"].map(|n| Requirement::new(n, "1"));
        assert_eq!(in_short(&wheels[..1]), "torch==1");
        assert_eq!(in_short(&wheels), "torch==1 and 2 more");
    }

    #[test]
    fn a_missing_network_is_told_from_a_missing_version() {
        let versions = "ERROR: Could not find a version that satisfies the requirement \
                        torch==2.11.0 (from versions: none)\n\
                        ERROR: No matching distribution found for torch==2.11.0\n";
        let network =
            format!("WARNING: Retrying (Retry(total=4)) after connection broken\n{versions}");
        assert!(why(&network).starts_with("pip could not reach the package index"));
        assert!(why(versions).starts_with("pip did not find torch==2.11.0 (No matching"));
    }

    #[test]
    fn other_failures_of_pip_keep_its_last_words() {
        assert!(why("xtask: no pip\n").contains("has no pip; install it"));
        assert!(
            why("ERROR: [Errno 28] No space left on device\n").contains("the disk of /x is full")
        );
        assert!(why("usage\nERROR: no such option\n").contains("(no such option)"));
        assert!(why("").contains("(pip said nothing)"));
    }
}
