//! Rows of a Parquet file, which needs random access instead of a stream.

use std::fs::File;
use std::io::Write;
use std::panic::AssertUnwindSafe;

use parquet::errors::ParquetError;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::Row;
use parquet::record::reader::RowIter;

use rlaif_files::open_input;

use super::input::Content;
use crate::error::DataError;
use crate::source::Input;

/// Number of rows that one worker converts at a time.
const ROWS: usize = 1024;

/// Opens the file itself, or its decompressed content in an anonymous temporary file.
pub(super) fn random_access(input: &Input, content: &mut Content) -> Result<File, DataError> {
    let io_error = |source| DataError::Io { source_name: input.name.clone(), source };
    if !content.is_compressed() {
        return open_input(&input.path).map_err(io_error);
    }
    let mut spool = tempfile::tempfile().map_err(io_error)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = std::io::Read::read(content, &mut buffer);
        match count.map_err(|error| content.explain(error))? {
            0 => break,
            count => spool.write_all(&buffer[..count]).map_err(io_error)?,
        }
    }
    Ok(spool)
}

/// Passes on the rows in groups, each with the number of its first row (from 1), until `take`
/// returns `false`.
pub(super) fn for_each_group(
    file: File,
    source_name: &str,
    take: &mut dyn FnMut(Vec<Row>, u64) -> bool,
) -> Result<(), DataError> {
    // In places, the Parquet reader indexes by values from the file, and panics on a damaged file;
    // none of its state outlives the panic.
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| groups(file, take)));
    match result {
        Ok(result) => result
            .map_err(|source| DataError::Parquet { source_name: source_name.to_owned(), source }),
        Err(_) => Err(DataError::ParquetStructure { source_name: source_name.to_owned() }),
    }
}

fn groups(file: File, take: &mut dyn FnMut(Vec<Row>, u64) -> bool) -> Result<(), ParquetError> {
    let reader: Box<dyn FileReader> = Box::new(SerializedFileReader::new(file)?);
    let mut rows = RowIter::from_file_into(reader);
    let mut first = 1;
    loop {
        let group = rows.by_ref().take(ROWS).collect::<Result<Vec<_>, _>>()?;
        let count = group.len() as u64;
        if count == 0 || !take(group, first) {
            return Ok(());
        }
        first += count;
    }
}
