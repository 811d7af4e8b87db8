//! Reads files into records: one thread decompresses and cuts, rayon's workers parse, in order.
//!
//! ```text
//! file -> hash, decompress, cut into chunks of whole rows -> [ parse | parse | .. ] -> records
//!         one thread                                         rayon                     the caller
//! ```
//!
//! A bounded number of chunks is in flight at any time, so memory does not grow with the file.

mod chunk;
mod format;
mod input;
mod mode;
mod not_finite;
mod parquet;
mod progress;
mod rows;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use rlaif_core::{Origin, Provenance, Step};

pub use format::FileFormat;
pub use mode::Mode;
pub use progress::{ProgressUpdate, ReadingProgress};

use crate::corpora::Corpus;
use crate::dataset::Dataset;
use crate::error::DataError;
use crate::source::{Input, Source};
use chunk::Chunks;
use input::Content;
use progress::Display;
use rows::{Parsed, SHOWN, Tally, Unparsed};

/// Reads rows from files and converts them to records.
///
/// ```
/// use rlaif_data::{Mode, Reader, Source, corpora::Hh};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("hh.jsonl");
/// # std::fs::write(&path, r#"{"chosen":"\n\nHuman: Hi\n\nAssistant: Hello!","rejected":"\n\nHuman: Hi\n\nAssistant: What?"}"#)?;
/// let pairs = Reader::new(Source::file(path)?).mode(Mode::Lenient).dataset(Hh::default())?;
/// assert_eq!(pairs.records()[0].pair.chosen, " Hello!");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Reader {
    source: Source,
    mode: Mode,
    progress: ReadingProgress,
    format: Option<FileFormat>,
}

impl Reader {
    /// A strict, silent reader that recognises the format by the content.
    pub fn new(source: Source) -> Self {
        Self { source, mode: Mode::default(), progress: ReadingProgress::default(), format: None }
    }

    /// Sets the treatment of rows that cannot be read.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the receiver of progress updates.
    #[must_use]
    pub fn progress(mut self, progress: ReadingProgress) -> Self {
        self.progress = progress;
        self
    }

    /// Sets the format of the (decompressed) content, instead of recognising it.
    #[must_use]
    pub fn format(mut self, format: FileFormat) -> Self {
        self.format = Some(format);
        self
    }

    /// Reads the records one by one, in the order of the rows, with bounded memory.
    pub fn stream<C: Corpus>(self, corpus: C) -> Records<C::Record> {
        Records::start(self, corpus)
    }

    /// The files that are read.
    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// All records, with their provenance and the row counts.
    ///
    /// # Errors
    /// The first error of reading, or [`DataError::NoRecords`] when no row became a record.
    pub fn dataset<C: Corpus>(self, corpus: C) -> Result<Dataset<C::Record>, DataError> {
        let mut stream = self.stream(corpus);
        let mut records = Vec::new();
        for record in stream.by_ref() {
            records.push(record?);
        }
        if records.is_empty() {
            return Err(DataError::NoRecords {
                rows: stream.tally.rows,
                malformed: stream.tally.malformed,
                dropped: stream.tally.dropped.iter().map(|(why, n)| (*why, *n)).collect(),
                first: stream.malformed.drain(..).next().map(Box::new),
            });
        }
        records.shrink_to_fit();
        Ok(Dataset::new(records, stream.provenance()))
    }
}

enum Item<R> {
    /// Rows that a worker is parsing or has parsed.
    Rows(Receiver<std::thread::Result<Parsed<R>>>),
    /// A file that was read to its end.
    File(Origin),
    Failed(DataError),
}

/// Records as they are read: an iterator that ends after its first error.
///
/// Dropping it stops the reading.
pub struct Records<R> {
    operation: String,
    items: Option<Receiver<Item<R>>>,
    producer: Option<JoinHandle<()>>,
    ready: std::vec::IntoIter<R>,
    failure: Option<DataError>,
    tally: Tally,
    malformed: Vec<DataError>,
    origins: Vec<Origin>,
    mode: Mode,
    display: Display,
    read_so_far: Arc<AtomicU64>,
    total_bytes: u64,
}

impl<R: Send + 'static> Records<R> {
    fn start<C: Corpus<Record = R>>(reader: Reader, corpus: C) -> Self {
        let inputs = reader.source.into_inputs();
        let total_bytes = inputs
            .iter()
            .map(|input| match &input.content {
                Some(content) => content.len() as u64,
                None => std::fs::metadata(&input.path).map_or(0, |metadata| metadata.len()),
            })
            .sum();
        let read_so_far = Arc::new(AtomicU64::new(0));
        let mode = reader.mode;
        let operation = format!(
            "read as {}, {}",
            corpus.name(),
            match mode {
                Mode::Strict => "strict",
                Mode::Lenient => "lenient",
            }
        );
        // Enough to keep every worker busy while the caller processes records.
        let (sender, items) = sync_channel(2 * rayon::current_num_threads());
        let producer = Producer {
            corpus: Arc::new(corpus),
            mode,
            format: reader.format,
            sender,
            read_so_far: Arc::clone(&read_so_far),
        };
        let producer = std::thread::spawn(move || producer.run(&inputs));
        Self {
            operation,
            items: Some(items),
            producer: Some(producer),
            ready: Vec::new().into_iter(),
            failure: None,
            tally: Tally::default(),
            malformed: Vec::new(),
            origins: Vec::new(),
            mode,
            display: Display::new(reader.progress, total_bytes),
            read_so_far,
            total_bytes,
        }
    }
}

impl<R> Records<R> {
    /// The files read completely so far, and the row counts so far.
    pub fn provenance(&self) -> Provenance {
        let tally = &self.tally;
        let owned = |(reason, count): (&&'static str, &u64)| ((*reason).to_owned(), *count);
        let mut dropped: std::collections::BTreeMap<_, _> =
            tally.dropped.iter().map(owned).collect();
        if tally.malformed > 0 {
            dropped.insert("malformed row".to_owned(), tally.malformed);
        }
        let step = Step {
            operation: self.operation.clone(),
            kept: tally.kept,
            dropped,
            noted: tally.noted.iter().map(owned).collect(),
            examples: self.malformed.iter().map(ToString::to_string).collect(),
        };
        Provenance { origins: self.origins.clone(), steps: vec![step], ..Provenance::default() }
    }

    /// The first few malformed rows that were left out, in lenient mode.
    pub fn malformed(&self) -> &[DataError] {
        &self.malformed
    }

    fn take(&mut self, parsed: Parsed<R>) {
        self.tally.add(&parsed.tally);
        self.ready = parsed.records.into_iter();
        match self.mode {
            Mode::Strict => self.failure = parsed.errors.into_iter().next(),
            Mode::Lenient => {
                let room = SHOWN - self.malformed.len();
                self.malformed.extend(parsed.errors.into_iter().take(room));
            }
        }
        self.display.show(ProgressUpdate {
            bytes: self.read_so_far.load(Ordering::Relaxed),
            total_bytes: self.total_bytes,
            rows: self.tally.rows,
        });
    }

    fn end(&mut self) {
        self.display.finish();
        // Without a receiver the producer's next message fails, and it ends.
        self.items = None;
        if let Some(producer) = self.producer.take()
            && let Err(panic) = producer.join()
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl<R> Iterator for Records<R> {
    type Item = Result<R, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.ready.next() {
                return Some(Ok(record));
            }
            if let Some(failure) = self.failure.take() {
                self.end();
                return Some(Err(failure));
            }
            match self.items.as_ref()?.recv() {
                Ok(Item::Rows(parsed)) => match wait_for(&parsed) {
                    Ok(parsed) => self.take(parsed),
                    Err(panic) => {
                        self.end();
                        std::panic::resume_unwind(panic)
                    }
                },
                Ok(Item::File(origin)) => self.origins.push(origin),
                Ok(Item::Failed(error)) => self.failure = Some(error),
                Err(_) => self.end(),
            }
        }
    }
}

impl<R> Drop for Records<R> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<R> std::fmt::Debug for Records<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records")
            .field("operation", &self.operation)
            .field("tally", &self.tally)
            .finish_non_exhaustive()
    }
}

/// The beginning of the first line that is not blank, for messages.
fn first_line(head: &[u8]) -> String {
    const SHOWN: usize = 60;
    let head = head.strip_prefix(format::BYTE_ORDER_MARK).unwrap_or(head).trim_ascii_start();
    let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(line).trim().chars().take(SHOWN).collect()
}

/// Waits for a worker. If the caller is itself one of rayon's workers, it works meanwhile: if all
/// workers waited, none would parse.
fn wait_for<T>(receiver: &Receiver<std::thread::Result<T>>) -> std::thread::Result<T> {
    const LOST: &str = "a worker always sends what it parsed, or its panic";
    if rayon::current_thread_index().is_none() {
        return receiver.recv().expect(LOST);
    }
    loop {
        match receiver.try_recv() {
            Ok(parsed) => return parsed,
            Err(TryRecvError::Disconnected) => panic!("{LOST}"),
            Err(TryRecvError::Empty) => {
                if rayon::yield_now() != Some(rayon::Yield::Executed) {
                    std::thread::yield_now();
                }
            }
        }
    }
}

/// The thread that reads.
struct Producer<C: Corpus> {
    corpus: Arc<C>,
    mode: Mode,
    format: Option<FileFormat>,
    sender: SyncSender<Item<C::Record>>,
    read_so_far: Arc<AtomicU64>,
}

/// The caller has dropped the receiver: stop.
struct Abandoned;

impl<C: Corpus> Producer<C> {
    fn run(self, inputs: &[Input]) {
        for input in inputs {
            let item = match self.read(input) {
                Ok(Ok(origin)) => Item::File(origin),
                Ok(Err(error)) => Item::Failed(error),
                Err(Abandoned) => return,
            };
            let failed = matches!(item, Item::Failed(_));
            if self.sender.send(item).is_err() || failed {
                return;
            }
        }
    }

    fn read(&self, input: &Input) -> Result<Result<Origin, DataError>, Abandoned> {
        let content = Content::open(input, Arc::clone(&self.read_so_far));
        let opened = content.and_then(|content| {
            let recognised = FileFormat::recognise(content.head(), &input.name)?;
            Ok((content, self.format.unwrap_or(recognised)))
        });
        let (mut content, format) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        let name: Arc<str> = input.name.as_str().into();
        let rows = if format == FileFormat::Parquet {
            self.read_parquet(input, &mut content, &name)?
        } else {
            self.read_text(&mut content, format, &name)?
        };
        Ok(match rows {
            Ok(0) => Err(DataError::Empty { source_name: input.name.clone() }),
            Ok(_) => content.finish(),
            Err(error) => Err(error),
        })
    }

    /// Sends the rows of a text format to the parsers; returns the number of bytes that contained
    /// rows.
    fn read_text(
        &self,
        content: &mut Content,
        format: FileFormat,
        name: &Arc<str>,
    ) -> Result<Result<u64, DataError>, Abandoned> {
        let first_line = first_line(content.head());
        let mut chunks = Chunks::new(name, content, format);
        let mut header = None;
        let mut bytes = 0;
        loop {
            let mut chunk = match chunks.next_chunk() {
                Ok(Some(chunk)) => chunk,
                Ok(None) if bytes == 0 && header.is_some() => {
                    let source_name = name.to_string();
                    return Ok(Err(DataError::HeaderAlone { source_name, header: first_line }));
                }
                Ok(None) => return Ok(Ok(bytes)),
                Err(error) => return Ok(Err(error)),
            };
            if format == FileFormat::Csv && header.is_none() {
                match rows::take_csv_header(&mut chunk, name) {
                    Ok(columns) => header = Some(Arc::new(columns)),
                    Err(error) => return Ok(Err(error)),
                }
            }
            bytes += chunk.bytes.trim_ascii().len() as u64;
            self.parse(Unparsed::text(chunk, format, &header.clone().unwrap_or_default()), name)?;
        }
    }

    fn read_parquet(
        &self,
        input: &Input,
        content: &mut Content,
        name: &Arc<str>,
    ) -> Result<Result<u64, DataError>, Abandoned> {
        let file = match parquet::random_access(input, content) {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        let mut abandoned = false;
        let mut count = 0;
        let result = parquet::for_each_group(file, name, &mut |rows, first| {
            count += rows.len() as u64;
            abandoned = self.parse(Unparsed::Parquet { rows, first }, name).is_err();
            !abandoned
        });
        if abandoned { Err(Abandoned) } else { Ok(result.map(|()| count)) }
    }

    fn parse(&self, unparsed: Unparsed, name: &Arc<str>) -> Result<(), Abandoned> {
        let (sender, receiver) = sync_channel(1);
        let (corpus, name, mode) = (Arc::clone(&self.corpus), Arc::clone(name), self.mode);
        rayon::spawn(move || {
            let parsed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                rows::parse(unparsed, &*corpus, mode, &name)
            }));
            // A caller that stopped listening does not need the result.
            let _ = sender.send(parsed);
        });
        self.sender.send(Item::Rows(receiver)).map_err(|_| Abandoned)
    }
}
