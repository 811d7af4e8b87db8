//! Python's `huggingface_hub` and this crate share a cache, and agree on what the test server
//! says. Runs where `RLAIF_PYTHON` (default `python3`) has that package, and says so elsewhere.

mod common;

use std::fs;
use std::process::{Command, Output};

use common::{ID, Place, bytes};
use rlaif_hub::HubError;
use rlaif_hub_testing::{Action, Kind, ServerFault, Visibility};

fn python(place: &Place, offline: bool, script: &str) -> Output {
    let program = std::env::var("RLAIF_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    Command::new(program)
        .args(["-c", script])
        .env("HF_ENDPOINT", place.server.endpoint())
        .env("HF_HUB_CACHE", place.cache.path())
        .env("HF_HOME", place.cache.path().join("home"))
        .env("HF_HUB_OFFLINE", if offline { "1" } else { "0" })
        .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        .env("HF_HUB_DISABLE_XET", "1")
        .env("NO_PROXY", "127.0.0.1")
        .env_remove("HF_TOKEN")
        .output()
        .unwrap()
}

fn has_python() -> bool {
    let program = std::env::var("RLAIF_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&program)
        .args(["-c", "import huggingface_hub"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: {program} has no huggingface_hub (set RLAIF_PYTHON)");
    }
    found
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap().trim().to_owned()
}

#[test]
fn what_we_download_python_finds() {
    let place = Place::new();
    if !has_python() {
        return;
    }
    let weights = bytes(50_000);
    let files: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("sub/w.safetensors", &weights)];
    let commit = place.server.commit(Kind::Model, ID, "main", &files);
    // Cut on the way, so that it is a continued blob that Python reads.
    place.server.fail(ServerFault { path: String::new(), action: Action::CutAfter(999), times: 1 });
    let repo = place.model(None);
    let ours = repo.get("sub/w.safetensors").unwrap();
    repo.get("config.json").unwrap();
    repo.try_get("tokenizer.json").unwrap();
    place.server.forget_requests();
    let script = format!(
        "from huggingface_hub import hf_hub_download, try_to_load_from_cache\n\
         from huggingface_hub.file_download import _CACHED_NO_EXIST as missing\n\
         print(hf_hub_download('{ID}', 'sub/w.safetensors'))\n\
         print(hf_hub_download('{ID}', 'config.json', revision='{commit}'))\n\
         print(try_to_load_from_cache('{ID}', 'tokenizer.json') is missing)\n"
    );
    let output = printed(&python(&place, true, &script));
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], ours.to_str().unwrap());
    assert_eq!(lines[1], repo.get("config.json").unwrap().to_str().unwrap());
    assert_eq!(lines[2], "True");
    // Online, Python asks whether the files are current, and loads none again.
    let script = format!(
        "from huggingface_hub import hf_hub_download\n\
         print(hf_hub_download('{ID}', 'sub/w.safetensors'))\n"
    );
    assert_eq!(printed(&python(&place, false, &script)), ours.to_str().unwrap());
    assert!(place.storage().is_empty(), "{:?}", place.storage());
}

#[test]
fn what_python_downloads_we_find() {
    let place = Place::new();
    if !has_python() {
        return;
    }
    let weights = bytes(50_000);
    let files: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("sub/w.safetensors", &weights)];
    let commit = place.server.commit(Kind::Model, ID, "main", &files);
    place.server.tag(Kind::Model, ID, "v1.0", &commit);
    let script = format!(
        "from huggingface_hub import hf_hub_download\n\
         print(hf_hub_download('{ID}', 'sub/w.safetensors', revision='v1.0'))\n\
         print(hf_hub_download('{ID}', 'config.json'))\n\
         try:\n    hf_hub_download('{ID}', 'tokenizer.json')\n\
         except Exception as e:\n    print(type(e).__name__)\n"
    );
    let output = printed(&python(&place, false, &script));
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines[2].ends_with("EntryNotFoundError"), "{}", lines[2]);
    place.server.forget_requests();
    let offline = place.offline(Some("v1.0"));
    let path = offline.get("sub/w.safetensors").unwrap();
    assert_eq!(path.to_str().unwrap(), lines[0]);
    assert_eq!(fs::read(path).unwrap(), weights);
    let main = place.offline(None);
    assert_eq!(main.get("config.json").unwrap().to_str().unwrap(), lines[1]);
    assert!(matches!(main.get("tokenizer.json"), Err(HubError::FileNotFound { .. })));
    assert!(place.server.requests().is_empty());
}

#[test]
fn the_test_server_refuses_as_the_hub_does() {
    let place = Place::new();
    if !has_python() {
        return;
    }
    place.server.commit(Kind::Model, ID, "main", &[("config.json", b"{}")]);
    place.server.commit(Kind::Model, "org/gated", "main", &[("config.json", b"{}")]);
    place.server.restrict(Kind::Model, "org/gated", Visibility::Gated(vec!["hf_a".to_owned()]));
    place.server.rename(Kind::Model, "old/name", ID);
    let script = format!(
        "from huggingface_hub import hf_hub_download, HfApi\n\
         def name(*a, **k):\n    \
             try:\n        hf_hub_download(*a, **k)\n        return 'ok'\n    \
             except Exception as e:\n        return type(e).__name__\n\
         print(name('org/none', 'config.json'), name('org/gated', 'config.json'),\n      \
             name('{ID}', 'config.json', revision='v9'), name('old/name', 'config.json'),\n      \
             name('org/gated', 'config.json', token='hf_a'), \n      \
             [s.rfilename for s in HfApi().model_info('{ID}').siblings][0])\n"
    );
    assert_eq!(
        printed(&python(&place, false, &script)),
        "RepositoryNotFoundError GatedRepoError RevisionNotFoundError ok ok config.json"
    );
}
