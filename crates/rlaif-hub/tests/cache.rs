//! The cache: Python's layout, pins, offline, and what happens without a network.

mod common;

use std::fs;

use common::{ID, Place, bytes, names};
use rlaif_hub::{Hub, HubError, Network, Quiet, Repo, RepoKind};
use rlaif_hub_testing::Kind;

#[test]
fn downloads_lie_where_python_looks_for_them() {
    let place = Place::new();
    let weights = bytes(5000);
    let commit = place.server.commit(
        Kind::Model,
        ID,
        "main",
        &[("config.json", b"{}"), ("onnx/model.onnx", &weights)],
    );
    let repo = place.model(None);
    let config = repo.get("config.json").unwrap();
    let model = repo.get("onnx/model.onnx").unwrap();

    let snapshot = place.folder().join("snapshots").join(&commit);
    assert_eq!(config, snapshot.join("config.json"));
    assert_eq!(model, snapshot.join("onnx/model.onnx"));
    assert_eq!(fs::read(&model).unwrap(), weights);
    assert_eq!(fs::read_to_string(place.folder().join("refs/main")).unwrap(), commit);
    #[cfg(unix)]
    {
        let etag = fs::read_link(&model).unwrap();
        let etag = etag.to_str().unwrap().strip_prefix("../../../blobs/").unwrap();
        assert_eq!(etag.len(), 64);
        assert!(place.folder().join("blobs").join(etag).is_file());
        let config = fs::read_link(&config).unwrap();
        assert!(config.to_str().unwrap().starts_with("../../blobs/"));
    }
    assert_eq!(names(&place.folder().join("blobs")).len(), 2, "nothing else is left there");
    assert_eq!(names(&snapshot), ["config.json", "onnx"]);
    assert_eq!(repo.commit().unwrap().as_deref(), Some(commit.as_str()));
    assert_eq!(repo.files().unwrap(), ["config.json", "onnx/model.onnx"]);
}

#[test]
fn datasets_have_their_own_paths() {
    let place = Place::new();
    let row = b"{\"chosen\":\"a\",\"rejected\":\"b\"}";
    place.server.commit(Kind::Dataset, "org/rows", "main", &[("harmless/train.jsonl.gz", row)]);
    let repo = place.hub().repo(RepoKind::Dataset, "org/rows", None).unwrap();
    let path = repo.get("harmless/train.jsonl.gz").unwrap();
    assert_eq!(fs::read(&path).unwrap(), row);
    assert!(path.starts_with(place.cache.path().join("datasets--org--rows/snapshots")));
}

#[test]
fn a_cache_that_python_wrote_is_found() {
    let cache = tempfile::tempdir().unwrap();
    let repo = cache.path().join("models--org--tiny");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let snapshot = repo.join("snapshots").join(commit);
    for folder in ["blobs", "refs/refs/pr", ".no_exist/0123456789abcdef0123456789abcdef01234567"] {
        fs::create_dir_all(repo.join(folder)).unwrap();
    }
    fs::create_dir_all(snapshot.join("sub")).unwrap();
    fs::write(repo.join("refs/main"), commit).unwrap();
    fs::write(repo.join("refs/refs/pr/1"), commit).unwrap();
    fs::write(repo.join("blobs/aa"), "config").unwrap();
    fs::write(repo.join("blobs/bb"), "weights").unwrap();
    fs::write(repo.join(".no_exist").join(commit).join("tokenizer.json"), "").unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("../../blobs/aa", snapshot.join("config.json")).unwrap();
        std::os::unix::fs::symlink("../../../blobs/bb", snapshot.join("sub/w.bin")).unwrap();
        std::os::unix::fs::symlink("../../blobs/gone", snapshot.join("gone.json")).unwrap();
    }
    let hub = Hub::builder()
        .cache_dir(cache.path())
        .network(Network::Offline)
        .progress(Quiet)
        .build()
        .unwrap();
    for revision in [None, Some("main"), Some("refs/pr/1"), Some(commit)] {
        let found = hub.repo(RepoKind::Model, ID, revision).unwrap();
        assert_eq!(fs::read_to_string(found.get("config.json").unwrap()).unwrap(), "config");
        assert_eq!(fs::read_to_string(found.get("sub/w.bin").unwrap()).unwrap(), "weights");
        assert_eq!(found.files().unwrap(), ["config.json", "sub/w.bin"]);
        assert_eq!(found.commit().unwrap().as_deref(), Some(commit));
        assert_eq!(found.try_get("gone.json").unwrap(), None, "its blob was deleted");
        assert!(matches!(found.get("tokenizer.json"), Err(HubError::FileNotFound { .. })));
    }
}

#[test]
fn a_commit_in_the_cache_needs_no_request() {
    let place = Place::new();
    let commit = place.server.commit(Kind::Model, ID, "main", &[("config.json", b"{}")]);
    place.model(None).get("config.json").unwrap();
    place.model(Some(&commit)).try_get("tokenizer.json").unwrap();
    place.server.forget_requests();

    let pinned = place.model(Some(&commit));
    pinned.get("config.json").unwrap();
    assert_eq!(pinned.try_get("tokenizer.json").unwrap(), None, "remembered as missing");
    assert_eq!(pinned.commit().unwrap(), Some(commit));
    assert_eq!(place.server.requests(), []);

    // A branch may have moved: one question, and no more for the files.
    let branch = place.model(None);
    branch.get("config.json").unwrap();
    branch.get("config.json").unwrap();
    assert_eq!(branch.try_get("tokenizer.json").unwrap(), None);
    assert_eq!(place.server.requests().len(), 1);
}

#[test]
fn a_branch_that_moves_is_followed_and_a_pin_is_not() {
    let place = Place::new();
    let old = place.server.commit(Kind::Model, ID, "main", &[("config.json", b"old")]);
    place.server.tag(Kind::Model, ID, "v1", &old);
    let before = place.model(None);
    before.get("config.json").unwrap();
    let new = place.server.commit(Kind::Model, ID, "main", &[("config.json", b"new")]);
    let text = |repo: &Repo| fs::read_to_string(repo.get("config.json").unwrap()).unwrap();
    assert_eq!(text(&before), "old", "one `Repo` stays at one commit");
    assert_eq!(text(&place.offline(None)), "old", "asking alone changes no reference");
    assert_eq!(text(&place.model(None)), "new");
    assert_eq!(text(&place.offline(None)), "new");
    assert_eq!(text(&place.model(Some("v1"))), "old");
    assert_eq!(text(&place.offline(Some("v1"))), "old");
    assert_eq!(text(&place.model(Some(&old))), "old");
    assert_ne!(old, new);
}

#[test]
fn a_revision_with_a_slash_is_one_revision() {
    let place = Place::new();
    let commit = place.server.commit(Kind::Model, ID, "refs/pr/1", &[("config.json", b"pr")]);
    place.model(Some("refs/pr/1")).get("config.json").unwrap();
    assert_eq!(fs::read_to_string(place.folder().join("refs/refs/pr/1")).unwrap(), commit);
    place.offline(Some("refs/pr/1")).get("config.json").unwrap();
}

#[test]
fn file_names_may_hold_anything_a_repository_may() {
    let place = Place::new();
    let files: [(&str, &[u8]); 3] =
        [("a b/100% #1?.json", b"x"), ("模型.bin", b"y"), ("empty.txt", b"")];
    place.server.commit(Kind::Model, ID, "main", &files);
    let repo = place.model(None);
    for (name, content) in files {
        assert_eq!(fs::read(repo.get(name).unwrap()).unwrap(), content, "{name}");
    }
}

#[test]
fn offline_says_what_is_not_cached_and_what_to_do() {
    let place = Place::new();
    place.server.commit(Kind::Model, ID, "main", &[("config.json", b"{}"), ("b.json", b"{}")]);
    let error = place.offline(None).get("config.json").unwrap_err();
    assert!(matches!(error, HubError::NotCached { .. }), "{error}");
    assert!(!error.to_string().contains("any file"), "{error}");
    let text = error.to_string();
    assert!(text.contains("HF_HUB_OFFLINE") && text.contains(ID), "{text}");
    assert!(place.offline(None).try_get("config.json").is_err(), "nothing is known of it");

    place.model(None).get("config.json").unwrap();
    place.server.forget_requests();
    let offline = place.offline(None);
    offline.get("config.json").unwrap();
    assert_eq!(offline.try_get("tokenizer.json").unwrap(), None);
    assert!(matches!(offline.get("b.json"), Err(HubError::NotCached { .. })));
    assert_eq!(offline.files().unwrap(), ["config.json"]);
    assert!(place.server.requests().is_empty());
}

#[test]
fn an_unreachable_hub_falls_back_to_the_cache_and_says_so() {
    let mut place = Place::new();
    let commit = place.server.commit(Kind::Model, ID, "main", &[("config.json", b"{}")]);
    place.model(None).get("config.json").unwrap();
    // A port that nobody listens at any more.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = place.builder().endpoint(format!("http://{free}")).build().unwrap();
    let repo = gone.repo(RepoKind::Model, ID, None).unwrap();
    repo.get("config.json").unwrap();
    assert_eq!(repo.commit().unwrap(), Some(commit));
    assert!(place.ear.heard("cannot be reached"));

    place.cache = tempfile::tempdir().unwrap();
    let gone = place.builder().endpoint(format!("http://{free}")).build().unwrap();
    let error = gone.repo(RepoKind::Model, ID, None).unwrap().get("config.json").unwrap_err();
    assert!(matches!(error, HubError::Network { attempts: 4, .. }), "{error}");
    assert!(error.to_string().contains("HF_ENDPOINT"));
}

#[test]
fn a_folder_is_opened_before_an_id() {
    let place = Place::new();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    let path = folder.path().to_str().unwrap();
    let repo = place.hub().open(RepoKind::Model, path, None).unwrap();
    assert_eq!(repo.get("config.json").unwrap(), folder.path().join("config.json"));
    assert_eq!(repo.commit().unwrap(), None);
    let error = repo.get("model.safetensors").unwrap_err().to_string();
    assert!(error.contains("`model.safetensors`") && error.contains("`config.json`"), "{error}");
    let pinned = place.hub().open(RepoKind::Model, path, Some("main")).unwrap_err();
    assert!(matches!(pinned, HubError::FolderHasNoRevisions { .. }));
    let neither = place.hub().open(RepoKind::Model, "./no/such/folder", None).unwrap_err();
    assert!(neither.to_string().contains("neither a folder on this disk nor"), "{neither}");
    for bad in ["", "../x", "/etc/passwd", "a//b", "a/./b", "a\\b", "C:x"] {
        let error = repo.get(bad).unwrap_err();
        assert!(matches!(error, HubError::InvalidFileName { .. }), "{bad}");
    }
    for bad in ["", "../main", "a b", "a//b"] {
        let error = place.hub().repo(RepoKind::Model, ID, Some(bad)).unwrap_err();
        assert!(matches!(error, HubError::InvalidRevision { .. }), "{bad}");
    }
}
