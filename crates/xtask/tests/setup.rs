//! Runs `xtask setup` in a temporary folder, with a fake pip that makes tiny wheels.
//!
//! Needs Python 3, as the command does; no network.
#![cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

/// A folder like the root of the workspace, removed at the end.
struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Self {
        let root = env::temp_dir().join(format!("xtask-{}-{name}", process::id()));
        fs::create_dir_all(root.join("crates/xtask")).unwrap();
        Self(root)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    /// `xtask setup` with a pip that behaves as `pip` says.
    fn command(&self, pip: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake");
        let foreign = [
            "LIBTORCH",
            "LIBTORCH_USE_PYTORCH",
            "LIBTORCH_INCLUDE",
            "LIBTORCH_LIB",
            "LIBTORCH_BYPASS_VERSION_CHECK",
            "VIRTUAL_ENV",
        ];
        for variable in foreign {
            command.env_remove(variable);
        }
        command.arg("setup").current_dir(&self.0);
        command.env("CARGO_MANIFEST_DIR", self.path("crates/xtask"));
        command.env("PYTHONPATH", fake).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("FAKE_PIP", pip).env("FAKE_PIP_LOG", self.path("log"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn setup(&self) -> String {
        succeed(self.command("").output().unwrap())
    }

    fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    fn downloads_of_torch(&self) -> usize {
        self.log().iter().filter(|line| line.starts_with("torch==")).count()
    }

    /// The files that set-up left.
    fn left(&self) -> Vec<String> {
        let names = fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.starts_with(".libtorch")).collect();
        names.sort();
        names
    }

    fn assert_installed(&self) {
        assert_eq!(self.left(), [".libtorch"]);
        for file in [
            "torch/include/torch/headeronly/version.h",
            "torch/lib/libtorch.so",
            "torch/lib/libtorch_cpu.so",
            "torch/lib/libc10.so",
            "torch/lib/libgomp.so.1",
            "nvidia/cu13/lib/libcudart.so.13",
            "nvidia/cu13/lib/libcupti.so.13",
        ] {
            assert!(self.path(".libtorch").join(file).is_file(), "{file}");
        }
        let version = fs::read_to_string(self.path(".libtorch/torch/build-version")).unwrap();
        assert_eq!(version, "2.11.0");
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn succeed(output: Output) -> String {
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    stderr
}

/// The error message of a failed command.
fn fail(output: Output) -> String {
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    let errors = stderr.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(errors, 1, "{stderr}");
    last.strip_prefix("error: ").unwrap_or_else(|| panic!("{stderr}")).to_owned()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(120), "waited for {what} in vain");
        thread::sleep(Duration::from_millis(5));
    }
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A folder that looks like a libtorch 2.`minor`.0.
fn fake_libtorch(dir: &Path, minor: u32) {
    let header = format!(
        "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR {minor}\n\
         #define TORCH_VERSION_PATCH 0\n"
    );
    fs::create_dir_all(dir.join("include/torch/headeronly")).unwrap();
    fs::create_dir_all(dir.join("lib")).unwrap();
    fs::write(dir.join("include/torch/headeronly/version.h"), header).unwrap();
    for library in ["torch", "torch_cpu", "c10"] {
        fs::write(dir.join(format!("lib/lib{library}.so")), "").unwrap();
    }
}

#[test]
fn installs_once() {
    let root = Root::new("once");
    let said = root.setup();
    assert!(said.contains("downloading torch==2.11.0"), "{said}");
    assert!(said.contains("unpacking torch-2.11.0"), "{said}");
    root.assert_installed();
    // The whole on a machine with an NVIDIA GPU, the CPU part elsewhere.
    let all = said.contains("libtorch 2.11.0 (cuda,");
    for file in ["torch/lib/libtorch_cuda.so", "nvidia/cu13/lib/libnvperf_host.so"] {
        assert_eq!(root.path(".libtorch").join(file).exists(), all, "{file}");
    }
    assert!(!root.path(".libtorch/torch/__init__.py").exists());

    let before = root.log();
    let said = root.setup();
    assert_eq!(root.log(), before, "nothing is downloaded again");
    assert!(said.starts_with("  libtorch 2.11.0 (") && said.lines().count() == 1, "{said}");
}

#[test]
fn cuda_brings_all_libraries_also_after_the_cpu_part() {
    let root = Root::new("cuda");
    root.setup();
    for _ in 0..2 {
        succeed(root.command("").arg("--cuda").output().unwrap());
        root.assert_installed();
        for file in ["torch/lib/libtorch_cuda.so", "nvidia/cu13/lib/libcublas.so.13"] {
            assert!(root.path(".libtorch").join(file).is_file(), "{file}");
        }
        assert!(root.path(".libtorch/nvidia/cudnn/lib/libcudnn.so.9").is_file());
    }
    let before = root.log();
    let said = root.setup();
    assert!(said.contains("(cuda,"), "{said}");
    assert_eq!(root.log(), before, "what has CUDA has the CPU part");
}

#[test]
fn a_file_that_is_gone_is_installed_again() {
    let root = Root::new("gone");
    root.setup();
    fs::remove_file(root.path(".libtorch/torch/lib/libc10.so")).unwrap();
    root.setup();
    root.assert_installed();
    assert_eq!(root.downloads_of_torch(), 2);
}

#[test]
fn killed_in_a_download_it_goes_on_from_there() {
    let root = Root::new("killed");
    let child = root.command("hang after torch").spawn().unwrap();
    let hanging =
        || root.log().iter().find_map(|line| Some(line.strip_prefix("hangs ")?.to_owned()));
    wait_for("the second download", || hanging().is_some());
    let pip = format!("/proc/{}", hanging().unwrap());
    assert!(Path::new(&pip).exists());
    kill(child);
    wait_for("the end of pip", || !Path::new(&pip).exists());
    assert_eq!(root.left(), [".libtorch.partial"]);

    root.setup();
    root.assert_installed();
    assert_eq!(root.downloads_of_torch(), 1, "the finished wheel was used");
}

#[test]
fn killed_at_any_moment_it_recovers() {
    let root = Root::new("any-moment");
    let whole = Instant::now();
    root.setup();
    let whole = whole.elapsed();
    for part in 0..6 {
        let _ = fs::remove_file(root.path(".libtorch/torch/lib/libc10.so"));
        let child = root.command("").spawn().unwrap();
        thread::sleep(whole * part / 6);
        kill(child);
        // The old installation, the complete new one, or none: never a part that counts as
        // complete.
        if root.path(".libtorch/torch/lib/libc10.so").exists() {
            assert!(root.path(".libtorch/installed").exists());
        }
    }
    root.setup();
    root.assert_installed();
}

#[test]
fn two_at_once_install_once() {
    let root = Root::new("two");
    let children = [(); 2].map(|()| root.command("slow").spawn().unwrap());
    for child in children {
        succeed(child.wait_with_output().unwrap());
    }
    root.assert_installed();
    assert_eq!(root.downloads_of_torch(), 1);
}

#[test]
fn a_damaged_wheel_is_removed_and_downloaded_again() {
    let root = Root::new("damaged");
    let sentence = fail(root.command("damaged").output().unwrap());
    assert!(sentence.contains("libtorch_cpu.so is not what the wheel's RECORD says"), "{sentence}");
    assert!(sentence.ends_with("was removed; run the same command again"), "{sentence}");
    assert!(!root.path(".libtorch").exists());
    root.setup();
    root.assert_installed();
    assert_eq!(root.downloads_of_torch(), 2);
}

#[test]
fn each_failure_of_a_download_is_one_sentence_and_leaves_nothing() {
    let root = Root::new("failures");
    for (pip, sentence) in [
        ("missing", "python3 has no pip; install it"),
        ("network", "pip could not reach the package index to download torch==2.11.0"),
        ("version", "pip did not find torch==2.11.0 (No matching distribution"),
        ("disk", "is full; libtorch 2.11.0 needs 1.1 GB"),
        ("crash", "pip could not download torch==2.11.0 (unknown option)"),
        ("nothing", "it ended without an error and without the wheel"),
    ] {
        let said = fail(root.command(pip).output().unwrap());
        assert!(said.contains(sentence), "{pip}: {said}");
        assert_eq!(root.left(), [] as [&str; 0], "{pip}");
    }
}

#[test]
fn a_wheel_with_another_version_inside_is_refused() {
    let root = Root::new("other-version");
    let said = fail(root.command("other version").output().unwrap());
    assert!(said.contains("it is libtorch 2.10.0, and rlaif needs libtorch 2.11.0"), "{said}");
    assert!(!root.path(".libtorch").exists());
}

#[test]
fn without_python_the_sentence_says_what_to_install() {
    let root = Root::new("no-python");
    let said = fail(root.command("").env("PATH", root.path("empty")).output().unwrap());
    assert!(said.contains("python3 was not found; install Python 3 with pip"), "{said}");
    assert_eq!(root.left(), [] as [&str; 0]);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let root = Root::new("unwritable");
    // A file as the obstacle, because permissions do not stop root.
    fs::write(root.path(".libtorch.partial"), "mine").unwrap();
    let said = fail(root.command("").output().unwrap());
    assert!(said.starts_with("cannot write in /") && said.contains("make it writable"), "{said}");
    assert_eq!(fs::read_to_string(root.path(".libtorch.partial")).unwrap(), "mine");
}

#[test]
fn the_users_libtorch_is_checked_and_nothing_is_written() {
    let root = Root::new("user");
    let [right, wrong, part] = ["right", "wrong", "part"].map(|name| root.path(name));
    fake_libtorch(&right, 11);
    fake_libtorch(&wrong, 10);
    fake_libtorch(&part, 11);
    fs::remove_file(part.join("lib/libc10.so")).unwrap();
    let with = |dir: &Path| root.command("").env("LIBTORCH", dir).output().unwrap();

    let said = succeed(with(&right));
    assert!(said.contains("(LIBTORCH)"), "{said}");
    for (dir, sentence) in [
        (Path::new("/nonexistent"), "LIBTORCH points to /nonexistent, but there is no such folder"),
        (&wrong, "but it is libtorch 2.10.0, and rlaif needs libtorch 2.11.0"),
        (&part, "/lib/libc10.so is missing"),
        (Path::new("right"), "LIBTORCH is right, a relative path"),
    ] {
        let said = fail(with(dir));
        assert!(said.contains(sentence), "{said}");
    }
    let said = fail(root.command("").arg("--cuda").env("LIBTORCH", &right).output().unwrap());
    assert!(said.contains("it has no CUDA, and --cuda asks for it"), "{said}");
    fs::write(right.join("lib/libtorch_cuda.so"), "").unwrap();
    succeed(root.command("").arg("--cuda").env("LIBTORCH", &right).output().unwrap());
    assert_eq!(root.left(), [] as [&str; 0]);
    assert_eq!(root.log(), [] as [&str; 0]);
}

#[test]
fn what_cargo_sets_is_not_taken_for_the_users() {
    let root = Root::new("cargo");
    let ours = root.path(".libtorch/torch");
    succeed(root.command("").env("LIBTORCH", ours).output().unwrap());
    root.assert_installed();
}

#[test]
fn a_pytorch_is_linked_and_serves_on() {
    let root = Root::new("pytorch");
    let site = root.path("site");
    fake_libtorch(&site.join("torch"), 11);
    fs::write(site.join("torch/__init__.py"), "").unwrap();
    let use_pytorch = |site: &Path| {
        let mut command = root.command("");
        command.env("LIBTORCH_USE_PYTORCH", "1").env("PYTHONPATH", site);
        command
    };
    succeed(use_pytorch(&site).output().unwrap());
    assert_eq!(fs::read_link(root.path(".libtorch/torch")).unwrap(), site.join("torch"));
    assert_eq!(root.left(), [".libtorch"]);
    // Plain cargo sets no LIBTORCH_USE_PYTORCH; the installation found is used.
    root.setup();
    assert_eq!(root.log(), [] as [&str; 0]);

    let other = root.path("other");
    fake_libtorch(&other, 11);
    let said = fail(use_pytorch(&site).env("LIBTORCH", &other).output().unwrap());
    assert!(said.contains("unset one of them"), "{said}");
    let said = fail(use_pytorch(&root.path("none")).output().unwrap());
    assert!(said.contains("cannot import torch (it has no package torch)"), "{said}");
    fake_libtorch(&site.join("torch"), 10);
    let said = fail(use_pytorch(&site).output().unwrap());
    assert!(said.starts_with("LIBTORCH_USE_PYTORCH points to"), "{said}");

    // The link leads to the wrong version now, so that set-up installs the right one.
    root.setup();
    root.assert_installed();
    assert!(!fs::symlink_metadata(root.path(".libtorch/torch")).unwrap().is_symlink());
    assert!(site.join("torch/lib/libc10.so").exists(), "only the link was removed");

    // And an installation is not removed because of a variable.
    fake_libtorch(&site.join("torch"), 11);
    succeed(use_pytorch(&site).output().unwrap());
    root.assert_installed();
}

#[test]
fn an_unknown_command_is_a_usage_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).arg("setpu").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("error: unknown: setpu") && said.contains("usage:"), "{said}");
}
