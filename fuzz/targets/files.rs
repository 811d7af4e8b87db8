//! Seeds from files of the repository, inputs in folders, and the texts of outcomes.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn folder() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// Files of the repository.
pub(crate) fn files(paths: &[&str]) -> Vec<Vec<u8>> {
    let read = |path: &&str| fs::read(folder().join("..").join(path)).expect(path);
    paths.iter().map(read).collect()
}

/// The files of a folder whose names end so, up to this many bytes.
pub(crate) fn files_of(path: &str, ending: &str, most: u64) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder().join("..").join(path)).expect(path);
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .filter(|path| path.metadata().is_ok_and(|about| about.len() <= most))
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a file")).collect()
}

/// This file in each folder of a folder, up to this many bytes.
pub(crate) fn each(path: &str, name: &str, most: u64) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder().join("..").join(path)).expect(path);
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path().join(name))
        .filter(|path| path.metadata().is_ok_and(|about| about.len() <= most))
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a file")).collect()
}

pub(crate) fn texts_of(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Writes an input under this name.
pub(crate) fn put(place: &Path, name: &str, input: &[u8]) {
    fs::write(place.join(name), input).expect("a file in memory");
}

/// Copies a file once.
pub(crate) fn beside(place: &Path, name: &str, from: &str) {
    if !place.join(name).exists() {
        fs::copy(folder().join("..").join(from), place.join(name)).expect(from);
    }
}

/// The texts of an error and of what caused it.
pub(crate) fn outcome<T, E: Error>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "fine".to_owned(),
        Err(error) => told(&error),
    }
}

pub(crate) fn told(error: &dyn Error) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

pub(crate) fn text(input: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(input)
}
