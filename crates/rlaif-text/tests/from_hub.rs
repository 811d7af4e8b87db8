//! Tokenizers through the hub: fetched by the names that are asked for, read from the cache.

use std::path::Path;

use rlaif_core::{Specials, TextCodec};
use rlaif_hub::{Hub, Quiet, RepoKind};
use rlaif_hub_testing::{HubServer, Kind};
use rlaif_text::HfTokenizer;

#[test]
fn a_tokenizer_is_read_from_a_repository() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let server = HubServer::start().unwrap();
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::builder()
        .endpoint(server.endpoint())
        .cache_dir(cache.path())
        .progress(Quiet)
        .build()
        .unwrap();
    // RoBERTa's has no tokenizer.json, and the other's template is a file of its own.
    for name in ["roberta", "chatml"] {
        let id = format!("org/{name}");
        server.commit_folder(Kind::Model, &id, "main", &fixtures.join(name)).unwrap();
        let repo = hub.repo(RepoKind::Model, &id, None).unwrap();
        let mut folder = None;
        for file in HfTokenizer::files() {
            if let Some(path) = repo.try_get(file).unwrap() {
                folder = path.parent().map(Path::to_owned);
            }
        }
        let found = HfTokenizer::from_folder(folder.unwrap()).unwrap().named(repo.name());
        let expected = HfTokenizer::from_folder(fixtures.join(name)).unwrap();
        assert_eq!(found.name(), id);
        let text = "Is <mask> honey safe for infants? 👶";
        let ids = found.encode(text, Specials::Include).unwrap();
        assert_eq!(ids, expected.encode(text, Specials::Include).unwrap());
        let templates: Vec<&str> = found.chat_templates().collect();
        assert_eq!(templates.is_empty(), name == "roberta", "{templates:?}");
    }
}

#[test]
fn long_runs_of_one_character_are_encoded() {
    // The pattern of byte-level tokenizers looks ahead at the end of white space.
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for name in ["llama3", "chatml", "roberta"] {
        let tokenizer = HfTokenizer::from_folder(fixtures.join(name)).unwrap();
        for run in [" ", "\n", "a", "!", "1", " \n"] {
            let text = run.repeat(50_000);
            let ids = tokenizer.encode(&text, Specials::Exclude).unwrap();
            assert_eq!(tokenizer.decode(&ids, Specials::Include).unwrap(), text, "{name} {run:?}");
        }
    }
}
