//! Properties that hold for every text, and for every file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proptest::prelude::*;
use rlaif_core::{GenerationPrompt, Message, Specials, TextCodec};
use rlaif_text::HfTokenizer;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn open(name: &str) -> HfTokenizer {
    HfTokenizer::from_folder(fixture(name)).unwrap()
}

static LLAMA: LazyLock<HfTokenizer> = LazyLock::new(|| open("llama3"));
static ROBERTA: LazyLock<HfTokenizer> = LazyLock::new(|| open("roberta"));
static BERT: LazyLock<HfTokenizer> = LazyLock::new(|| open("bert"));

/// Opens a folder and uses what it gives; nothing of that may panic.
fn try_everything(folder: &Path) {
    let Ok(tokenizer) = HfTokenizer::from_folder(folder) else { return };
    let chat = [Message::new("user", "Is honey safe?"), Message::new("assistant", "No.")];
    // Errors are as good as results here.
    let _ = tokenizer.render_chat(&chat, GenerationPrompt::Add);
    let _ = tokenizer.encode_truncated("Is honey safe for infants? 👶", Some("No."), 9);
    let _ = tokenizer.encode("<s>a</s>\u{0}", Specials::Include);
    let _ = tokenizer.decode(&[0, 1, 2, 300, u32::MAX], Specials::Exclude);
    let _ = (tokenizer.vocab_size(), tokenizer.embedding_rows());
}

/// A fixture with one file changed at some bytes.
fn mutated(name: &str, file: &str, changes: &[(prop::sample::Index, u8)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let path = folder.path().join(file);
    let mut bytes = fs::read(&path).unwrap();
    for (index, byte) in changes {
        let at = index.index(bytes.len());
        bytes[at] = *byte;
    }
    fs::write(&path, bytes).unwrap();
    folder
}

/// Found cases are written into tests, not into files beside them.
fn cases(n: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(n) }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn byte_level_tokenizers_lose_nothing(text in any::<String>()) {
        for tokenizer in [&*LLAMA, &*ROBERTA] {
            let ids = tokenizer.encode(&text, Specials::Exclude).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids, Specials::Include).unwrap(), text.as_str());
            prop_assert!(ids.iter().all(|id| (*id as usize) < tokenizer.embedding_rows()));
        }
    }

    #[test]
    fn a_truncated_pair_fits_and_keeps_its_beginnings(
        text in "[a-z ]{0,60}", pair in "[a-z ]{0,60}", max_length in 5_usize..40,
    ) {
        let whole = ROBERTA.encode_truncated(&text, Some(&pair), 1000).unwrap();
        let cut = ROBERTA.encode_truncated(&text, Some(&pair), max_length).unwrap();
        prop_assert_eq!(whole.dropped, 0);
        prop_assert_eq!(cut.ids.len(), whole.ids.len().min(max_length));
        prop_assert_eq!(cut.dropped, whole.ids.len() - cut.ids.len());
        prop_assert_eq!(cut.ids.len(), cut.type_ids.len());
        let first = |ids: &[u32]| ids.iter().skip(1).take_while(|id| **id != 2).count();
        prop_assert_eq!(cut.ids[..=first(&cut.ids)].to_vec(), whole.ids[..=first(&cut.ids)].to_vec());
    }

    #[test]
    fn a_left_truncated_text_keeps_its_end(text in "[a-z ]{1,60}", max_length in 3_usize..30) {
        let whole = BERT.encode_truncated(&text, None, 1000).unwrap().ids;
        let cut = BERT.encode_truncated(&text, None, max_length).unwrap().ids;
        prop_assert_eq!(&cut[1..], &whole[whole.len() - (cut.len() - 1)..]);
    }
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn any_bytes_as_any_file(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        file in prop::sample::select(HfTokenizer::files().collect::<Vec<_>>()),
    ) {
        let name = if ["vocab.json", "merges.txt"].contains(&file) { "roberta" } else { "mistral" };
        let folder = mutated(name, "tokenizer_config.json", &[]);
        fs::write(folder.path().join(file), bytes).unwrap();
        try_everything(folder.path());
    }

    #[test]
    fn any_change_of_a_tokenizer_json(
        name in prop::sample::select(&["llama3", "chatml", "mistral", "t5", "bert"][..]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), b' '..b'~'), 1..4),
    ) {
        try_everything(mutated(name, "tokenizer.json", &changes).path());
    }

    #[test]
    fn any_change_of_a_vocabulary(
        file in prop::sample::select(&["vocab.json", "merges.txt", "tokenizer_config.json"][..]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        try_everything(mutated("roberta", file, &changes).path());
    }

    #[test]
    fn any_template(
        template in "(\\{%|%\\}|\\{\\{|\\}\\}|\\{#|#\\}|-|[a-z]{1,8}|generation|if|for|in|endif|endfor| |\\.|\\||'|\\[|\\]|[0-9]|messages|tojson|\\PC){0,40}",
        changes in prop::collection::vec((any::<prop::sample::Index>(), b' '..b'~'), 0..5),
    ) {
        let folder = mutated("chatml", "chat_template.jinja", &changes);
        try_everything(folder.path());
        fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
        try_everything(folder.path());
    }
}
