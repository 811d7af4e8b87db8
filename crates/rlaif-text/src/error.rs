//! Errors of a tokenizer's files.

use std::path::PathBuf;

use rlaif_core::{Fault, is_bad_input_file};

/// Errors of reading and using a tokenizer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The folder has none of the files that a tokenizer can be read from.
    #[error(
        "{} has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt, vocab.txt or a \
         SentencePiece model (tokenizer.model, spiece.model) is there, only {}; save one with `tokenizer.save_pretrained(folder)` in Python, or give another folder",
        .folder.display(), listed(.found)
    )]
    NoTokenizer {
        /// The folder looked in.
        folder: PathBuf,
        /// The contents found.
        found: Vec<String>,
    },
    /// A vocabulary is there, but not of a tokenizer that can be built from it.
    #[error(
        "{} has {found} and no tokenizer.json, but its tokenizer class is {}, and the classes \
         supported without one are {known}: name the model's class as `tokenizer_class` in \
         tokenizer_config.json, or save a tokenizer.json with a fast tokenizer in Python",
        .folder.display(), .class.as_deref().map_or("not named".to_owned(), |c| format!("`{c}`"))
    )]
    UnknownClass {
        /// The folder.
        folder: PathBuf,
        /// `tokenizer_class` of tokenizer_config.json, or `model_type` of config.json.
        class: Option<String>,
        /// The vocabulary's files that are there.
        found: String,
        /// The classes that can be built.
        known: &'static str,
    },
    /// A file could not be read.
    #[error("could not read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's message.
        #[source]
        source: std::io::Error,
    },
    /// A file is not the JSON it should be.
    #[error(
        "{} is not in the format that transformers writes: download or save it again, or correct \
         it",
        .path.display()
    )]
    Json {
        /// The file.
        path: PathBuf,
        /// The reader's message, with line and column.
        #[source]
        source: serde_json::Error,
    },
    /// The tokenizer library refuses the files.
    #[error(
        "no tokenizer can be built from {}: the file is damaged, or from a newer version; download \
         or save it again",
        .path.display()
    )]
    Build {
        /// The file.
        path: PathBuf,
        /// The library's message.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A text could not be encoded.
    #[error("the tokenizer of {name} failed to encode a text of {bytes} bytes")]
    Encode {
        /// The tokenizer's name.
        name: String,
        /// The text's length.
        bytes: usize,
        /// The library's message.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The maximum length leaves no room for a token of the text.
    #[error(
        "a maximum length of {max_length} tokens leaves no room for text: the tokenizer of {name} \
         adds {added} special tokens"
    )]
    TooShort {
        /// The tokenizer's name.
        name: String,
        /// The length asked for, in tokens.
        max_length: usize,
        /// Special tokens that are always there.
        added: usize,
    },
    /// A date for templates is invalid.
    #[error("`{given}` is not a date and time: write it as 2024-07-26 or 2024-07-26T12:00:00")]
    Date {
        /// The text given.
        given: String,
        /// The reader's message.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Fault for TextError {
    fn is_users(&self) -> bool {
        match self {
            Self::Read { source, .. } => is_bad_input_file(source),
            Self::NoTokenizer { .. }
            | Self::UnknownClass { .. }
            | Self::Json { .. }
            | Self::Build { .. }
            | Self::Encode { .. }
            | Self::TooShort { .. }
            | Self::Date { .. } => true,
        }
    }
}

fn listed(found: &[String]) -> String {
    const SHOWN: usize = 12;
    if found.is_empty() {
        return "nothing".to_owned();
    }
    let mut text =
        found.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if found.len() > SHOWN {
        text.push_str(&format!(" and {} more", found.len() - SHOWN));
    }
    text
}
