//! Programs that nobody has read, run without rights.

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod error;
mod program;
#[cfg(target_os = "linux")]
mod seal;

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use rlaif_core::BadSetting;

use program::Becoming;

pub use error::SandboxError;
pub use program::Program;

/// The exit code of a child that could not give up its rights.
const UNSEALED: i32 = 97;
/// Open files of a program.
const FILES: u64 = 64;
/// Pause between two looks at a child.
const LOOK: Duration = Duration::from_millis(3);
const BOOTSTRAP: &str = include_str!("bootstrap.py");

/// Limits of one program.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxLimits {
    /// Seconds that a program may run.
    pub timeout_s: f64,
    /// Memory that a program may have, in MiB.
    pub memory_mib: u64,
    /// Output that a program may write, in KiB.
    pub output_kib: u64,
}

impl Default for SandboxLimits {
    fn default() -> Self {
        Self { timeout_s: 5., memory_mib: 512, output_kib: 256 }
    }
}

/// The end of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ran {
    /// The program ended by itself.
    Ended {
        /// The exit code; `None` if a signal ended the program.
        code: Option<i32>,
        /// The program's output.
        output: String,
    },
    /// The program was still running at the time limit.
    TimedOut,
    /// The program wrote more than the output limit.
    TooMuchOutput,
}

/// Runs Python programs that cannot write, reach the network, start processes, send signals, or read
/// anything but the interpreter's own folders and the system's libraries.
///
/// It needs Linux 5.13 with Landlock and seccomp, which need no root, and Python with `ctypes`. A program is
/// one process: nothing that it does is running once it has ended. It shares memory with the tests that
/// run in the same process ([`Sandbox::run_tests`]), and may cheat them; it cannot cheat a comparison of its
/// output ([`Sandbox::run`]).
///
/// ```no_run
/// use rlaif_sandbox::{Ran, Sandbox, SandboxLimits};
/// let sandbox = Sandbox::new("python3", SandboxLimits::default())?;
/// let ran = sandbox.run("print(int(input()) + 1)", "41\n")?;
/// assert_eq!(ran, Ran::Ended { code: Some(0), output: "42\n".to_owned() });
/// let tests = ["assert add(1, 2) == 3".to_owned(), "assert add(1, 1) == 3".to_owned()];
/// let passed = sandbox.run_tests("def add(a, b): return a + b", &tests)?;
/// assert_eq!(passed, [true, false]);
/// # Ok::<(), rlaif_sandbox::SandboxError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sandbox {
    python: PathBuf,
    readable: Vec<PathBuf>,
    filters: Vec<String>,
    /// For a program that is not Python's.
    program_filters: Vec<String>,
    limits: SandboxLimits,
}

/// The work of a child.
#[derive(Clone, Copy)]
enum Task<'a> {
    Code { code: &'a str, tests: Option<&'a [String]>, marker: &'a str },
    Program { program: &'a Program, arguments: &'a [String] },
}

impl Sandbox {
    /// A sandbox for programs of the interpreter `python`, a name on the path or a file. A program that
    /// tries what is forbidden is run first.
    ///
    /// # Errors
    /// [`SandboxError::Interpreter`] where `python` is not a Python that can confine itself;
    /// [`SandboxError::Unavailable`] where this machine cannot confine programs;
    /// [`SandboxError::Setting`] for limits of 0.
    pub fn new(python: &str, limits: SandboxLimits) -> Result<Self, SandboxError> {
        let wrong = |setting, found: String| {
            Err(SandboxError::Setting(BadSetting::new(setting, found, "above 0")))
        };
        if !(limits.timeout_s > 0. && limits.timeout_s.is_finite()) {
            return wrong("timeout_s", limits.timeout_s.to_string());
        }
        if limits.memory_mib == 0 {
            return wrong("memory_mib", "0".to_owned());
        }
        if limits.output_kib == 0 {
            return wrong("output_kib", "0".to_owned());
        }
        let (python, readable) = interpreter(python)?;
        let [filters, program_filters] = [filters(Becoming::Denied)?, filters(Becoming::Allowed)?];
        let sandbox = Self { python, readable, filters, program_filters, limits };
        sandbox.probe()?;
        Ok(sandbox)
    }

    /// Runs a program that tries what is forbidden.
    fn probe(&self) -> Result<(), SandboxError> {
        const ATTEMPTS: &str = include_str!("probe.py");
        let patient = Self {
            limits: SandboxLimits { timeout_s: self.limits.timeout_s.max(30.), ..self.limits },
            ..self.clone()
        };
        match patient.run(ATTEMPTS, "")? {
            Ran::Ended { output, .. } if output.trim() == "confined" => Ok(()),
            Ran::Ended { output, .. } if !output.trim().is_empty() => {
                Err(SandboxError::unavailable(format!(
                    "a program in the sandbox could {}",
                    output.trim()
                )))
            }
            other => Err(SandboxError::unavailable(format!(
                "a program in the sandbox did not end well ({other:?}); is `memory_mib` = {} enough for \
                 {}?",
                self.limits.memory_mib,
                self.python.display()
            ))),
        }
    }

    /// Runs a program with `input` as its standard input.
    ///
    /// # Errors
    /// [`SandboxError::Unavailable`] if the program could not be confined; it has not run then.
    pub fn run(&self, code: &str, input: &str) -> Result<Ran, SandboxError> {
        self.start(Task::Code { code, tests: None, marker: "" }, input)
    }

    /// Runs a program that is not Python's with these arguments, and with `input` as its standard input. It has the
    /// limits of a Python program: it is one process without network, which cannot write or start others, though it may
    /// become another program, as the last command of a shell does. `memory_mib` bounds its addresses.
    ///
    /// An exit code of 126 may mean that the file is not a program of this machine.
    ///
    /// # Errors
    /// As [`Sandbox::run`].
    ///
    /// ```no_run
    /// use rlaif_sandbox::{Program, Ran, Sandbox, SandboxLimits};
    /// let sandbox = Sandbox::new("python3", SandboxLimits::default())?;
    /// let sort = Program::new("sort", &[])?;
    /// let ran = sandbox.run_program(&sort, &["-n".to_owned()], "10\n9\n")?;
    /// assert_eq!(ran, Ran::Ended { code: Some(0), output: "9\n10\n".to_owned() });
    /// # Ok::<(), rlaif_sandbox::SandboxError>(())
    /// ```
    pub fn run_program(
        &self,
        program: &Program,
        arguments: &[String],
        input: &str,
    ) -> Result<Ran, SandboxError> {
        self.start(Task::Program { program, arguments }, input)
    }

    /// Runs a program and then each test, a piece of Python that raises an exception if it fails. Tests see
    /// the names of the program. A program that raises, ends the process, or exceeds a limit passes none.
    ///
    /// # Errors
    /// As [`Sandbox::run`].
    pub fn run_tests(&self, code: &str, tests: &[String]) -> Result<Vec<bool>, SandboxError> {
        let marker = marker()?;
        let ran = self.start(Task::Code { code, tests: Some(tests), marker: &marker }, "")?;
        let none = vec![false; tests.len()];
        let Ran::Ended { output, .. } = ran else { return Ok(none) };
        let told =
            output.trim_end().rsplit('\n').next().and_then(|line| line.strip_prefix(&marker));
        let Some(told) = told.map(str::trim).filter(|told| told.len() == tests.len()) else {
            return Ok(none);
        };
        Ok(told.chars().map(|passed| passed == '1').collect())
    }

    fn start(&self, task: Task<'_>, input: &str) -> Result<Ran, SandboxError> {
        let seconds = self.limits.timeout_s.ceil() as u64 + 1;
        let mut readable = self.readable.clone();
        let (filters, what) = match task {
            Task::Code { code, tests, marker } => {
                (&self.filters, json!({"code": code, "tests": tests, "marker": marker}))
            }
            Task::Program { program, arguments } => {
                readable.extend(program.paths().cloned());
                let name = program.name.to_string_lossy();
                let all = std::iter::once(&*name).chain(arguments.iter().map(String::as_str));
                (&self.program_filters, json!({"program": all.collect::<Vec<_>>()}))
            }
        };
        let job = json!({
            "parent": std::process::id(),
            "filters": filters,
            "limits": {
                "RLIMIT_AS": self.limits.memory_mib << 20, "RLIMIT_CPU": seconds, "RLIMIT_CORE": 0,
                "RLIMIT_FSIZE": 0, "RLIMIT_NOFILE": FILES,
            },
            "task": what,
        });
        let job = job.to_string();
        let message = format!("{}\n{job}{input}", job.len());
        // A thread of its own gives up its rights, and its child has none to begin with. It lives as long
        // as the child, which is killed when this thread ends.
        std::thread::scope(|scope| {
            let child = scope.spawn(|| {
                confine(&readable)?;
                let child = self.spawn()?;
                self.attend(child, &message)
            });
            child.join().unwrap_or_else(|_| {
                Err(SandboxError::unavailable("the thread of a program ended early"))
            })
        })
    }

    fn spawn(&self) -> Result<Child, SandboxError> {
        let mut command = Command::new(&self.python);
        command.args(["-I", "-B", "-c", BOOTSTRAP]).env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // Ctrl-C in a terminal is for the trainer.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.spawn().map_err(|error| {
            SandboxError::unavailable(format!("{}: {error}", self.python.display()))
        })
    }

    /// Feeds a child, reads its output, and ends it in time.
    fn attend(&self, mut child: Child, message: &str) -> Result<Ran, SandboxError> {
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        // With the byte that tells that the child is sealed.
        let most = (self.limits.output_kib << 10) + 1;
        let deadline = Instant::now() + Duration::from_secs_f64(self.limits.timeout_s.min(1e6));
        let over = AtomicBool::new(false);
        let over = &over;
        std::thread::scope(|scope| {
            // A program need not read its input.
            let feeding = scope
                .spawn(move || stdin.map(|mut stdin| stdin.write_all(message.as_bytes()).is_ok()));
            let reading = scope.spawn(move || {
                let mut output = Vec::new();
                if let Some(stdout) = stdout {
                    // An error ends the output.
                    let _ = stdout.take(most + 1).read_to_end(&mut output);
                }
                over.store(output.len() as u64 > most, Ordering::Relaxed);
                output
            });
            let ended = loop {
                match child.try_wait() {
                    Ok(Some(status)) => break Some(status),
                    Ok(None) => {}
                    Err(_) => break None,
                }
                if over.load(Ordering::Relaxed) || Instant::now() >= deadline {
                    break None;
                }
                std::thread::sleep(LOOK);
            };
            // The only process: nothing is left when it is gone.
            let _ = child.kill();
            let _ = child.wait();
            let _ = feeding.join();
            let output = reading.join().unwrap_or_default();
            // From that byte on, the exit code is the program's.
            if output.is_empty() && ended.and_then(|status| status.code()) == Some(UNSEALED) {
                return Err(SandboxError::unavailable(
                    "the child process could not give up its rights",
                ));
            }
            if output.len() as u64 > most {
                return Ok(Ran::TooMuchOutput);
            }
            let Some(status) = ended else { return Ok(Ran::TimedOut) };
            let output = output.get(1..).unwrap_or_default();
            let output = String::from_utf8_lossy(output).into_owned();
            Ok(Ran::Ended { code: status.code(), output })
        })
    }
}

/// The interpreter `python` of a setting if it is a path, as in a shell: one with a `/`. Without one it is a
/// name on the path, even where the current folder has such a file.
///
/// ```
/// use rlaif_sandbox::interpreter_path;
/// assert!(interpreter_path(&mut "venv/bin/python".to_owned()).is_some());
/// assert!(interpreter_path(&mut "python3".to_owned()).is_none());
/// ```
pub fn interpreter_path(python: &mut String) -> Option<&mut String> {
    python.contains('/').then_some(python)
}

/// The interpreter's file, and the folders that it reads.
fn interpreter(python: &str) -> Result<(PathBuf, Vec<PathBuf>), SandboxError> {
    const ASK: &str = "import sys, json, ctypes, resource; print(json.dumps([sys.executable, sys.prefix, \
                       sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]))";
    let failed = |found: String| SandboxError::Interpreter { python: python.to_owned(), found };
    let output =
        Command::new(python).args(["-I", "-c", ASK]).stdin(Stdio::null()).output().map_err(
            |error| {
                if is_short_of_room(&error) {
                    SandboxError::unavailable(format!("{python}: {error}"))
                } else {
                    failed(error.to_string())
                }
            },
        )?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(said.lines().last().unwrap_or("it failed").to_owned()));
    }
    let paths: Vec<PathBuf> = serde_json::from_slice(&output.stdout)
        .map_err(|_| failed("it does not tell its folders".to_owned()))?;
    let (executable, prefixes) =
        paths.split_first().ok_or_else(|| failed("it tells no folder".to_owned()))?;
    // A prefix of `/usr` or `/` means its libraries, not all that is below.
    let broad = ["/", "/usr", "/usr/local"].map(Path::new);
    let mut readable: Vec<PathBuf> =
        prefixes.iter().filter(|path| !broad.contains(&path.as_path())).cloned().collect();
    readable.extend(
        [
            "/lib",
            "/lib64",
            "/usr/lib",
            "/usr/lib64",
            "/usr/local/lib",
            "/usr/bin",
            "/usr/local/bin",
            "/usr/share/zoneinfo",
            "/etc/ld.so.cache",
            "/etc/localtime",
            "/dev/urandom",
        ]
        .map(PathBuf::from),
    );
    Ok((executable.clone(), readable))
}

/// `true` if the machine has no room for another process at present; the interpreter itself may be good.
fn is_short_of_room(error: &io::Error) -> bool {
    // EMFILE and ENFILE have no kind of their own.
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory)
        || matches!(error.raw_os_error(), Some(23 | 24))
}

/// A text that a program cannot guess.
#[expect(clippy::disallowed_methods, reason = "a device")]
fn marker() -> Result<String, SandboxError> {
    let mut random = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .map_err(|error| SandboxError::unavailable(format!("/dev/urandom: {error}")))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(target_os = "linux")]
use seal::{confine, filters};

#[cfg(not(target_os = "linux"))]
fn confine(_: &[PathBuf]) -> Result<(), SandboxError> {
    Err(SandboxError::unavailable("it needs Linux"))
}

#[cfg(not(target_os = "linux"))]
fn filters(_: Becoming) -> Result<Vec<String>, SandboxError> {
    Err(SandboxError::unavailable("it needs Linux"))
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use super::*;

    /// Held by tests that count this process's children.
    static COUNTING: std::sync::Mutex<()> = std::sync::Mutex::new(());

    /// A sandbox, where there is a Python to run in it.
    fn sandbox(limits: SandboxLimits) -> Option<Sandbox> {
        let python = std::env::var("RLAIF_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        match Sandbox::new(&python, limits) {
            Ok(sandbox) => Some(sandbox),
            Err(error) => {
                eprintln!("SKIPPED the sandbox: {error}");
                assert!(std::env::var_os("RLAIF_SKIP_NOTHING").is_none(), "{error}");
                None
            }
        }
    }

    /// Children of this process that run in a sandbox.
    fn left() -> usize {
        let me = std::process::id().to_string();
        let status = |entry: std::fs::DirEntry| {
            let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
            let line = String::from_utf8_lossy(&read("cmdline")).into_owned();
            let status = String::from_utf8_lossy(&read("status")).into_owned();
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
            line.contains("gives up its rights") && parent.map(str::trim) == Some(&me)
        };
        std::fs::read_dir("/proc").unwrap().flatten().map(status).filter(|is| *is).count()
    }

    #[test]
    fn hostile_programs_are_stopped_and_leave_nothing() {
        let _alone = COUNTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let limits = SandboxLimits { timeout_s: 60., memory_mib: 256, output_kib: 64 };
        let Some(sandbox) = sandbox(limits) else { return };
        let home = tempfile::tempdir().unwrap();
        let secret = home.path().join("secret");
        std::fs::write(&secret, "secret").unwrap();
        let secret = secret.display();
        let attempts = [
            "import os; os.fork()".to_owned(),
            "import os; os.posix_spawn('/bin/sh', ['sh'], {})".to_owned(),
            "import subprocess; subprocess.run(['/bin/true'])".to_owned(),
            "import os; os.execv('/bin/true', ['true'])".to_owned(),
            "import os; os.listdir(os.path.expanduser('~'))".to_owned(),
            "import os; os.listdir('/root')".to_owned(),
            "import os; os.listdir('/home')".to_owned(),
            format!("open('{secret}').read()"),
            format!("open('{secret}', 'w')"),
            format!("import os; os.remove('{secret}')"),
            format!("import os; os.rename('{secret}', '{secret}2')"),
            format!("import os; os.truncate('{secret}', 0)"),
            format!("import os; os.chmod('{secret}', 0)"),
            "open('/tmp/rlaif-sandbox-test', 'w')".to_owned(),
            "import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM)".to_owned(),
            "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)".to_owned(),
            "import socket; socket.socketpair()".to_owned(),
            "import socket; socket.create_connection(('127.0.0.1', 80))".to_owned(),
            "import os; os.kill(os.getppid(), 9)".to_owned(),
            "import os; os.kill(-1, 9)".to_owned(),
            "import os, fcntl; r, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())"
                .to_owned(),
            "import resource as r; r.setrlimit(r.RLIMIT_CPU, (r.RLIM_INFINITY, r.RLIM_INFINITY))"
                .to_owned(),
            "import os; os.fstat(9)".to_owned(),
            "import os; open(f'/proc/{os.getppid()}/environ').read()".to_owned(),
            "import os; open(f'/proc/{os.getppid()}/mem', 'r+b')".to_owned(),
            "import resource; resource.prlimit(1, resource.RLIMIT_CPU, (1, 1))".to_owned(),
            "import os; os.memfd_create('m')".to_owned(),
            "import os; os.setuid(1)".to_owned(),
            "import os; os.sched_setaffinity(os.getppid(), [0])".to_owned(),
            "import os; os.unshare(os.CLONE_NEWUSER) if hasattr(os, 'unshare') else os.fork()"
                .to_owned(),
            "import ctypes; l = ctypes.CDLL(None, use_errno=True); r = l.syscall(425, 1, 0); \
             (_ for _ in ()).throw(OSError(ctypes.get_errno())) if r < 0 else None"
                .to_owned(),
        ];
        let trying = format!(
            "for attempt in {}:\n    try:\n        exec(attempt, {{}})\n        print('done:', attempt)\n    \
             except (OSError, ValueError):\n        pass",
            serde_json::json!(attempts)
        );
        let expected = Ran::Ended { code: Some(0), output: String::new() };
        assert_eq!(sandbox.run(&trying, "").unwrap(), expected);
        assert_eq!(std::fs::read_to_string(home.path().join("secret")).unwrap(), "secret");
        // An exit code of its own is not that of a child that could not be sealed.
        let exits = sandbox.run("import sys; sys.exit(97)", "").unwrap();
        assert_eq!(exits, Ran::Ended { code: Some(97), output: String::new() });
        // Threads and memory come to an end by themselves, output by its limit.
        let flood = "while True: print('x' * 1_000_000)";
        assert_eq!(sandbox.run(flood, "").unwrap(), Ran::TooMuchOutput);
        let hoard = "x = []\nwhile True: x.append(bytearray(1 << 24))";
        let threads = "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,), \
                       daemon=True).start()";
        for greedy in [hoard, threads] {
            let ran = sandbox.run(greedy, "").unwrap();
            assert!(matches!(ran, Ran::Ended { code: Some(1), .. }), "{greedy}: {ran:?}");
        }
        let limits = SandboxLimits { timeout_s: 1., ..limits };
        let sandbox = Sandbox { limits, ..sandbox };
        let fork_bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass";
        assert_eq!(sandbox.run(fork_bomb, "").unwrap(), Ran::TimedOut);
        assert_eq!(sandbox.run("while True: pass", "").unwrap(), Ran::TimedOut);
        assert_eq!(sandbox.run("import time; time.sleep(1000)", "").unwrap(), Ran::TimedOut);
        let closed = "import os\nos.close(1)\nwhile True: pass";
        assert_eq!(sandbox.run(closed, "").unwrap(), Ran::TimedOut);
        assert_eq!(left(), 0);
    }

    #[test]
    fn other_programs_have_the_same_limits() {
        let _alone = COUNTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let limits = SandboxLimits { timeout_s: 60., memory_mib: 256, output_kib: 64 };
        let Some(sandbox) = sandbox(limits) else { return };
        let home = tempfile::tempdir().unwrap();
        let secret = home.path().join("secret");
        std::fs::write(&secret, "secret").unwrap();
        let secret = secret.display().to_string();
        let sh = Program::new("sh", &[]).unwrap();
        let run = |program: &Program, arguments: &[&str], input: &str| {
            let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
            sandbox.run_program(program, &arguments, input).unwrap()
        };
        let said = |text: &str| Ran::Ended { code: Some(0), output: text.to_owned() };
        assert_eq!(run(&sh, &["-c", "echo $((6 * 7))"], ""), said("42\n"));
        // Arguments are not words of a shell, and the rest of standard input is the program's.
        let odd = "a b; $(c) \"d\" \u{e9}\n";
        assert_eq!(run(&sh, &["-c", "printf %s \"$1\"", "sh", odd], ""), said(odd));
        let cat = Program::new("cat", &[]).unwrap();
        let long = "line\n".repeat(9_000);
        assert_eq!(run(&cat, &[], &long), said(&long));
        // A program that is a link acts by the link's name.
        #[cfg(unix)]
        {
            let link = home.path().join("linked");
            std::os::unix::fs::symlink("/bin/sh", &link).unwrap();
            let linked = link.display().to_string();
            let program = Program::new(&linked, &[]).unwrap();
            assert_eq!(run(&program, &["-c", "echo $0"], ""), said(&format!("{linked}\n")));
        }
        // A file is read only if it is named.
        let fails = |ran: Ran| match ran {
            Ran::Ended { code: Some(code), output } => code != 0 && output.is_empty(),
            _ => false,
        };
        assert!(fails(run(&cat, &[&secret], "")));
        let named = Program::new("cat", std::slice::from_ref(&secret)).unwrap();
        assert_eq!(run(&named, &[&secret], ""), said("secret"));
        for attempt in [
            format!("exec cat {secret}"),
            "exec cat /etc/passwd".to_owned(),
            "exec ls /home".to_owned(),
            format!("echo no > {secret}"),
            "echo no > /tmp/rlaif-sandbox-test".to_owned(),
            "(true)".to_owned(),
            "/bin/true && echo started".to_owned(),
            "kill -9 $PPID".to_owned(),
            "exit 7".to_owned(),
        ] {
            let ran = run(&sh, &["-c", &attempt], "");
            assert!(fails(ran.clone()), "{attempt}: {ran:?}");
        }
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "secret");
        // Neither does a Python that a program becomes get rights back.
        let python = sandbox.python.display().to_string();
        let socket = "import socket; socket.socket()";
        assert!(fails(run(&sh, &["-c", &format!("exec {python} -c \"{socket}\"")], "")));
        let flood = run(&sh, &["-c", "while :; do echo xxxxxxxxxxxxxxxx; done"], "");
        assert_eq!(flood, Ran::TooMuchOutput);
        let sandbox =
            Sandbox { limits: SandboxLimits { timeout_s: 1., ..limits }, ..sandbox.clone() };
        for endless in ["while :; do :; done", "exec sleep 1000"] {
            let arguments = ["-c".to_owned(), endless.to_owned()];
            assert_eq!(sandbox.run_program(&sh, &arguments, "").unwrap(), Ran::TimedOut);
        }
        assert_eq!(left(), 0);
    }

    #[test]
    fn programs_that_are_not_there_are_refused_by_name() {
        for (program, readable, says) in [
            ("no-such-program", "", "no folder of `PATH` has it"),
            ("/nowhere/program", "", "No such file"),
            ("/", "", "not an executable file"),
            ("cat", "/nowhere/data", "`/nowhere/data`, which it may read"),
        ] {
            let readable: Vec<String> =
                Some(readable.to_owned()).into_iter().filter(|path| !path.is_empty()).collect();
            let error = Program::new(program, &readable).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains(program), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_confined_is_refused() {
        let limits = SandboxLimits::default();
        let error = Sandbox::new("/nowhere/python", limits).unwrap_err();
        assert!(matches!(error, SandboxError::Interpreter { .. }), "{error}");
        assert!(error.to_string().contains("/nowhere/python"), "{error}");
        // Programs that start and are not Python, and a folder.
        for other in ["true", "false", "/"] {
            let error = Sandbox::new(other, limits).unwrap_err();
            assert!(matches!(error, SandboxError::Interpreter { .. }), "{error}");
        }
        for (code, short) in
            [(2, false), (8, false), (11, true), (12, true), (13, false), (24, true)]
        {
            assert_eq!(is_short_of_room(&io::Error::from_raw_os_error(code)), short, "{code}");
        }
        let error = Sandbox::new("python3", SandboxLimits { timeout_s: 0., ..limits }).unwrap_err();
        assert!(error.to_string().contains("`timeout_s` is 0; expected above 0"), "{error}");
    }
}
