//! Gated, private, missing and renamed repositories, and where the access token goes.

mod common;

use std::error::Error;
use std::sync::Mutex;

use common::{ID, Place, bytes};
use rlaif_hub::{HubError, RepoKind};
use rlaif_hub_testing::{Kind, ServerFault, Visibility};

const TOKEN: &str = "hf_averysecrettoken";

/// Everything that anyone logs in this process.
struct Log(Mutex<String>);

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}\n", record.target(), record.args());
        self.0.lock().unwrap().push_str(&line);
    }

    fn flush(&self) {}
}

static LOG: Log = Log(Mutex::new(String::new()));

fn place() -> Place {
    let place = Place::new();
    let files: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("model.safetensors", &bytes(1000))];
    place.server.commit(Kind::Model, ID, "main", &files);
    place
}

fn get(place: &Place, token: &str, file: &str) -> Result<std::path::PathBuf, HubError> {
    let hub = place.builder().token(token).build().unwrap();
    hub.repo(RepoKind::Model, ID, None).unwrap().get(file)
}

/// The error and its sources, as a user or a log would see them.
fn whole(error: &HubError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(" {error} {error:?}"));
        source = error.source();
    }
    text
}

#[test]
fn a_gated_repository_is_explained() {
    let place = place();
    place.server.restrict(Kind::Model, ID, Visibility::Gated(vec![TOKEN.to_owned()]));
    place.server.add_token("hf_other");
    let page = format!("{}/{ID}", place.server.endpoint());
    let anonymous = get(&place, "", "config.json").unwrap_err();
    assert!(matches!(anonymous, HubError::Gated { .. }), "{anonymous}");
    let text = anonymous.to_string();
    assert!(text.contains("HF_TOKEN") && text.contains(&page), "{text}");
    let waiting = get(&place, "hf_other", "config.json").unwrap_err();
    assert!(matches!(waiting, HubError::Gated { .. }), "{waiting}");
    assert!(waiting.to_string().contains("ask for it"), "{waiting}");
    get(&place, TOKEN, "config.json").unwrap();
    get(&place, TOKEN, "model.safetensors").unwrap();
}

#[test]
fn a_private_or_missing_repository_is_explained() {
    let place = place();
    place.server.restrict(Kind::Model, ID, Visibility::Private(vec![TOKEN.to_owned()]));
    place.server.add_token("hf_other");
    let anonymous = get(&place, "", "config.json").unwrap_err();
    assert!(matches!(anonymous, HubError::RepoNotFound { .. }), "{anonymous}");
    assert!(anonymous.to_string().contains("HF_TOKEN"), "{anonymous}");
    let other = get(&place, "hf_other", "config.json").unwrap_err();
    assert!(matches!(other, HubError::RepoNotFound { .. }), "{other}");
    assert!(other.to_string().contains("cannot see it"), "{other}");
    let expired = get(&place, "hf_expired", "config.json").unwrap_err();
    assert!(matches!(expired, HubError::BadToken { .. }), "{expired}");
    get(&place, TOKEN, "config.json").unwrap();
    // A model's id asked for as a data set's.
    let dataset = place.hub().repo(RepoKind::Dataset, ID, None).unwrap();
    let error = dataset.get("config.json").unwrap_err();
    assert!(matches!(error, HubError::RepoNotFound { kind: "dataset", .. }), "{error}");
}

#[test]
fn a_missing_revision_or_file_is_explained() {
    let place = place();
    let error = place.model(Some("v9")).get("config.json").unwrap_err();
    assert!(matches!(&error, HubError::RevisionNotFound { revision, .. } if revision == "v9"));
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let error = place.model(Some(commit)).get("config.json").unwrap_err();
    assert!(matches!(error, HubError::RevisionNotFound { .. }), "{error}");
    let error = place.model(None).get("tokenizer.json").unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, HubError::FileNotFound { .. }), "{error}");
    assert!(text.contains("`config.json`, `model.safetensors`"), "what is there: {text}");
    // Through a pinned commit the hub says it, not the listing.
    let commit = place.model(None).commit().unwrap().unwrap();
    let pinned = place.model(Some(&commit));
    assert_eq!(pinned.try_get("tokenizer.json").unwrap(), None);
    assert!(matches!(pinned.get("merges.txt"), Err(HubError::FileNotFound { .. })));
    place.server.fail(ServerFault::status("/revision/", 403).header("X-Error-Message", "no scope"));
    let error = place.model(None).get("config.json").unwrap_err();
    assert!(matches!(&error, HubError::Forbidden { .. }), "{error}");
    assert!(error.to_string().contains("no scope"), "{error}");
}

#[test]
fn a_renamed_repository_is_followed() {
    let place = place();
    place.server.rename(Kind::Model, "old/name", ID);
    place.server.restrict(Kind::Model, ID, Visibility::Gated(vec![TOKEN.to_owned()]));
    let hub = place.builder().token(TOKEN).build().unwrap();
    let repo = hub.repo(RepoKind::Model, "old/name", None).unwrap();
    assert_eq!(std::fs::read(repo.get("config.json").unwrap()).unwrap(), b"{}");
    assert_eq!(std::fs::read(repo.get("model.safetensors").unwrap()).unwrap(), bytes(1000));
}

#[test]
fn the_token_goes_to_the_hub_alone_and_is_never_shown() {
    log::set_logger(&LOG).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let place = place();
    place.server.restrict(Kind::Model, ID, Visibility::Gated(vec![TOKEN.to_owned()]));
    place.server.fail(ServerFault::status("/revision/", 503));
    get(&place, TOKEN, "model.safetensors").unwrap();
    let requests = place.server.requests();
    assert!(requests.iter().any(|request| request.to_storage));
    for request in requests {
        let expected = (!request.to_storage).then(|| format!("Bearer {TOKEN}"));
        assert_eq!(request.authorization, expected, "{} {}", request.method, request.path);
    }
    // To another host, even where the hub itself sends us there.
    let elsewhere = Place::new();
    elsewhere.server.commit(Kind::Model, ID, "main", &[("config.json", b"{}")]);
    let moved = format!("{}/api/models/{ID}/revision/main", elsewhere.server.endpoint());
    place.server.fail(ServerFault::status("/revision/", 302).header("Location", &moved));
    get(&place, TOKEN, "config.json").unwrap_err();
    let authorizations: Vec<_> =
        elsewhere.server.requests().into_iter().map(|request| request.authorization).collect();
    assert_eq!(authorizations, [None]);

    // A server that echoes what it was sent, in a header and in a body.
    for fault in [
        ServerFault::status("/revision/", 403).header("X-Error-Message", "denied: {authorization}"),
        ServerFault::status("/revision/", 400).header("X-Error-Message", "bad: {authorization}"),
        ServerFault::status("/revision/", 500)
            .header("X-Error-Message", "{authorization}")
            .times(10),
    ] {
        let place = self::place();
        place.server.add_token(TOKEN);
        place.server.fail(fault);
        let error = get(&place, TOKEN, "config.json").unwrap_err();
        assert!(!whole(&error).contains(TOKEN), "{}", whole(&error));
    }
    let storage_down = self::place();
    storage_down.server.add_token(TOKEN);
    let sha256 = {
        get(&storage_down, TOKEN, "model.safetensors").unwrap();
        let requests = storage_down.storage();
        std::fs::remove_dir_all(storage_down.folder()).unwrap();
        requests[0].path.clone()
    };
    storage_down.server.fail(ServerFault::status(&sha256, 500).times(10));
    let error = get(&storage_down, TOKEN, "model.safetensors").unwrap_err();
    assert!(matches!(error, HubError::Status { status: 500, .. }), "{error}");
    assert!(!whole(&error).contains("storage-secret"), "a signature: {}", whole(&error));

    let hub = place.builder().token(TOKEN).build().unwrap();
    assert!(!format!("{hub:?} {:?}", place.builder().token(TOKEN)).contains(TOKEN));
    let log = LOG.0.lock().unwrap();
    let line = log.lines().find(|line| line.contains(TOKEN));
    assert_eq!(line, None);
}
