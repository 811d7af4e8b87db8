//! Runs of one target.

use std::any::Any;
use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::Mutator;

/// The most processor time for one input.
const TIME: Duration = Duration::from_secs(5);
/// The most time for one input, which may wait instead of compute.
const WAIT: Duration = Duration::from_secs(120);
/// The most memory that inputs may add to what the process had.
const MEMORY: u64 = 1 << 30;
/// Most inputs that are kept for further mutation.
const POOL: usize = 4096;

/// A reader.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name, as the command has it.
    pub name: &'static str,
    /// Valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words of its format.
    pub words: &'static [&'static str],
    /// Reads an input, in a folder of its own, and returns what came of it: the error's text, or any other.
    pub read: fn(&[u8], &Path) -> String,
}

/// The end of a run.
#[derive(Debug, Clone, Copy)]
pub enum Budget {
    /// A number of mutated inputs.
    Inputs(u64),
    /// A time.
    Time(Duration),
}

/// Counts of one run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Inputs, seeds and found ones included.
    pub inputs: u64,
    /// Different outcomes.
    pub outcomes: usize,
    /// The slowest input.
    pub slowest: Duration,
    /// Files of inputs that made the reader panic.
    pub panics: Vec<PathBuf>,
}

/// Runs of one target.
#[derive(Debug)]
pub struct Campaign<'a> {
    /// The reader.
    pub target: Target,
    /// The folder of inputs that were found earlier, `NAME/*`; new ones are added.
    pub found: &'a Path,
    /// The seed of the mutations.
    pub seed: u64,
}

/// The input at work, for the thread that watches it.
type Current = Arc<Mutex<Option<(Instant, Duration, Vec<u8>)>>>;

impl Campaign<'_> {
    /// Reads seeds, found inputs and mutated ones. An input that takes too long or too much memory ends
    /// the process with exit code 3 after it was written beside the found ones.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn run(&self, budget: Budget) -> io::Result<Report> {
        let place = tempfile::Builder::new().prefix("fuzz").tempdir_in(fast())?;
        let own = self.found.join(self.target.name);
        let current: Current = Arc::default();
        watch(&current, own.clone());
        let mut report = Report::default();
        let mut outcomes = HashSet::new();
        let mut pool = (self.target.seeds)();
        let mut earlier: Vec<PathBuf> = match fs::read_dir(&own) {
            Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?,
            Err(_) => Vec::new(),
        };
        earlier.sort();
        for path in earlier {
            pool.push(fs::read(path)?);
        }
        let bound = peak() + MEMORY;
        let mut one = |input: &[u8], report: &mut Report| -> io::Result<bool> {
            let start = Instant::now();
            *current.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((start, processor_time(), input.to_vec()));
            let outcome =
                catch_unwind(AssertUnwindSafe(|| (self.target.read)(input, place.path())));
            *current.lock().unwrap_or_else(PoisonError::into_inner) = None;
            report.inputs += 1;
            report.slowest = report.slowest.max(start.elapsed());
            if peak() > bound {
                give_up(&own, input, "needs more than 1 GiB");
            }
            match outcome {
                Ok(outcome) => Ok(outcomes.insert(shape(&outcome))),
                Err(panic) => {
                    if outcomes.insert(shape(&said(&*panic))) {
                        let path = keep(&own, input)?;
                        eprintln!("{}: panic: {}", path.display(), said(&*panic));
                        report.panics.push(path);
                    }
                    Ok(false)
                }
            }
        };
        for input in pool.clone() {
            one(&input, &mut report)?;
        }
        if pool.is_empty() {
            pool.push(Vec::new());
        }
        let mut mutator = Mutator::new(self.seed);
        let (start, mut drawn) = (Instant::now(), 0);
        loop {
            match budget {
                Budget::Inputs(most) if drawn >= most => break,
                Budget::Time(most) if start.elapsed() >= most => break,
                _ => {}
            }
            drawn += 1;
            let input = mutator.next(&pool, self.target.words);
            if one(&input, &mut report)? && pool.len() < POOL && input.len() < 1 << 16 {
                pool.push(input);
            }
        }
        report.outcomes = outcomes.len();
        Ok(report)
    }
}

/// A folder in memory, if the system has one.
fn fast() -> PathBuf {
    let shared = PathBuf::from("/dev/shm");
    if shared.is_dir() { shared } else { std::env::temp_dir() }
}

/// The words of an outcome, without numbers and what is quoted, which are those of the input.
fn shape(outcome: &str) -> u64 {
    let mut hash = DefaultHasher::new();
    let mut quoted = false;
    for c in outcome.chars().take(400) {
        match c {
            '`' | '"' => quoted = !quoted,
            c if !quoted && !c.is_ascii_digit() => c.hash(&mut hash),
            _ => {}
        }
    }
    hash.finish()
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

/// Writes an input under a name that its content decides.
fn keep(folder: &Path, input: &[u8]) -> io::Result<PathBuf> {
    let mut hash = DefaultHasher::new();
    input.hash(&mut hash);
    let path = folder.join(format!("{:016x}", hash.finish()));
    fs::create_dir_all(folder)?;
    fs::write(&path, input)?;
    Ok(path)
}

fn give_up(folder: &Path, input: &[u8], problem: &str) -> ! {
    match keep(folder, input) {
        Ok(path) => eprintln!("{}: the reader {problem}", path.display()),
        Err(error) => eprintln!("an input of {}: the reader {problem}; {error}", folder.display()),
    }
    exit(3)
}

fn watch(current: &Current, folder: PathBuf) {
    let current = Arc::downgrade(current);
    thread::spawn(move || {
        while let Some(current) = current.upgrade() {
            let held = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some((start, used, input)) = held {
                if processor_time().saturating_sub(used) > TIME {
                    give_up(&folder, &input, "computes for more than 5 s");
                }
                if start.elapsed() > WAIT {
                    give_up(&folder, &input, "waits for more than 120 s");
                }
            }
            drop(current);
            thread::sleep(Duration::from_millis(200));
        }
    });
}

/// The processor time of this process.
fn processor_time() -> Duration {
    // In hundredths of a second, behind the name, which may have spaces.
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = |at: usize| fields.split_whitespace().nth(at).and_then(|t| t.parse::<u64>().ok());
    Duration::from_millis(10 * (ticks(11).unwrap_or(0) + ticks(12).unwrap_or(0)))
}

/// The peak of this process's memory, in bytes; 0 where it is not known.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}
