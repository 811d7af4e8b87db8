//! Transfers: cut, continued, corrupted, limited.

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{ID, Place, bytes, names, quick};
use rlaif_hub::{HubError, RepoKind, Retry};
use rlaif_hub_testing::{Action, HubServer, Kind, ServerFault};

const WEIGHTS: &str = "model.safetensors";
const SIZE: usize = 1_000_000;

fn with_weights() -> (Place, Vec<u8>) {
    let place = Place::new();
    let weights = bytes(SIZE);
    place.server.commit(Kind::Model, ID, "main", &[(WEIGHTS, &weights), ("a.json", b"[1,2,3]")]);
    (place, weights)
}

fn cut(server: &HubServer, after: u64, times: usize) {
    // The storage address knows files by hash, so its path is matched by anything.
    server.fail(ServerFault { path: String::new(), action: Action::CutAfter(after), times });
}

#[test]
fn a_cut_connection_is_continued_with_a_range() {
    let (place, weights) = with_weights();
    cut(&place.server, 300_000, 2);
    let path = place.model(None).get(WEIGHTS).unwrap();
    assert_eq!(fs::read(path).unwrap(), weights);
    let ranges: Vec<_> = place.storage().into_iter().map(|request| request.range).collect();
    let expected = [None, Some("bytes=300000-".to_owned()), Some("bytes=600000-".to_owned())];
    assert_eq!(ranges, expected);
    assert!(place.ear.heard("broke at 300000 of 1000000"));
    assert!(place.ear.heard("Started") && place.ear.heard("Ended"));
    assert_eq!(names(&place.folder().join("blobs")).len(), 1, "no partial file is left");
}

#[test]
fn progress_resets_the_patience_and_its_lack_ends_it() {
    let (place, weights) = with_weights();
    // Ten cuts, more than the three retries, but each brings bytes.
    cut(&place.server, 90_000, 10);
    assert_eq!(fs::read(place.model(None).get(WEIGHTS).unwrap()).unwrap(), weights);

    let (place, _) = with_weights();
    cut(&place.server, 0, 100);
    let error = place.model(None).get(WEIGHTS).unwrap_err();
    assert!(
        matches!(
            error,
            HubError::Interrupted { attempts: 4, received: 0, expected: 1_000_000, .. }
        ),
        "{error}"
    );
}

#[test]
fn the_next_run_continues_where_this_one_stopped() {
    let (place, weights) = with_weights();
    cut(&place.server, 400_000, 1);
    let impatient = place.builder().retry(Retry { retries: 0, ..quick() }).build().unwrap();
    let repo = impatient.repo(RepoKind::Model, ID, None).unwrap();
    let error = repo.get(WEIGHTS).unwrap_err();
    assert!(matches!(error, HubError::Interrupted { received: 400_000, .. }), "{error}");
    assert!(error.to_string().contains("run the command again"));
    let blobs = names(&place.folder().join("blobs"));
    assert!(blobs.len() == 1 && blobs[0].ends_with(".incomplete"), "{blobs:?}");
    assert!(names(&place.folder().join("snapshots")).is_empty());

    place.server.forget_requests();
    assert_eq!(fs::read(place.model(None).get(WEIGHTS).unwrap()).unwrap(), weights);
    assert_eq!(place.storage()[0].range.as_deref(), Some("bytes=400000-"));
}

#[test]
fn a_server_without_ranges_is_read_from_the_start() {
    let (place, weights) = with_weights();
    cut(&place.server, 400_000, 1);
    place.server.fail(ServerFault { path: String::new(), action: Action::IgnoreRange, times: 1 });
    assert_eq!(fs::read(place.model(None).get(WEIGHTS).unwrap()).unwrap(), weights);
}

#[test]
fn a_leftover_that_does_not_fit_is_replaced() {
    for leftover in [vec![7; 1000], vec![7; SIZE], vec![7; SIZE + 1]] {
        let (place, weights) = with_weights();
        let commit = place.model(None).commit().unwrap().unwrap();
        let sha256 = {
            let other = Place::new();
            other.server.commit(Kind::Model, ID, "main", &[(WEIGHTS, &weights)]);
            other.model(None).get(WEIGHTS).unwrap();
            names(&other.folder().join("blobs")).remove(0)
        };
        let blobs = place.folder().join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{sha256}.incomplete")), &leftover).unwrap();
        let path = place.model(Some(&commit)).get(WEIGHTS).unwrap();
        assert_eq!(fs::read(path).unwrap(), weights);
        assert_eq!(names(&blobs), [sha256]);
    }
}

#[test]
fn a_corrupted_file_is_refused_and_deleted() {
    let (place, _) = with_weights();
    place.server.fail(ServerFault { path: String::new(), action: Action::Corrupt, times: 1 });
    let error = place.model(None).get(WEIGHTS).unwrap_err();
    assert!(matches!(&error, HubError::Corrupted { what: "SHA-256", .. }), "{error}");
    assert!(names(&place.folder().join("blobs")).is_empty());
    assert!(names(&place.folder().join("snapshots")).is_empty());
    place.model(None).get(WEIGHTS).unwrap();
}

#[test]
fn a_blob_of_the_wrong_size_is_fetched_again() {
    let (place, weights) = with_weights();
    let path = place.model(None).get(WEIGHTS).unwrap();
    let blob = fs::canonicalize(&path).unwrap();
    fs::write(&blob, b"cut short by a full disk").unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(fs::read(place.model(None).get(WEIGHTS).unwrap()).unwrap(), weights);
}

#[test]
fn failures_that_pass_are_retried_and_others_are_not() {
    let (place, _) = with_weights();
    place.server.fail(ServerFault::status("/revision/", 503).times(2));
    place.server.fail(ServerFault::status("a.json", 500).times(3));
    place.model(None).get("a.json").unwrap();
    assert!(place.ear.heard("503") && place.ear.heard("500"));

    let (place, _) = with_weights();
    place.server.fail(ServerFault::status("/revision/", 502).times(100));
    let error = place.model(None).get("a.json").unwrap_err();
    assert!(matches!(error, HubError::Status { status: 502, .. }), "{error}");
    assert_eq!(place.server.requests().len(), 4);

    let (place, _) = with_weights();
    place.server.fail(ServerFault::status("/revision/", 418));
    let error = place.model(None).get("a.json").unwrap_err();
    assert!(matches!(error, HubError::Status { status: 418, .. }), "{error}");
    assert_eq!(place.server.requests().len(), 1);
}

#[test]
fn retry_after_is_the_shortest_pause() {
    let (place, _) = with_weights();
    place.server.fail(ServerFault::status("/revision/", 429).header("Retry-After", "1"));
    let start = Instant::now();
    place.model(None).get("a.json").unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));

    let (place, _) = with_weights();
    place.server.fail(ServerFault::status("/revision/", 429).header("Retry-After", "3600"));
    let error = place.model(None).get("a.json").unwrap_err();
    assert!(matches!(error, HubError::RateLimited { wait_s: Some(3600), .. }), "{error}");
    assert!(error.to_string().contains("HF_TOKEN"));
    assert_eq!(place.server.requests().len(), 1);

    let (place, _) = with_weights();
    place.server.fail(ServerFault::status("/revision/", 429).times(100));
    let error = place.model(None).get("a.json").unwrap_err();
    assert!(matches!(error, HubError::RateLimited { wait_s: None, .. }), "{error}");
    assert_eq!(place.server.requests().len(), 4);
}

#[test]
fn two_threads_download_a_file_once() {
    let (place, weights) = with_weights();
    let hub = place.hub();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let hub = hub.clone();
                scope.spawn(move || {
                    hub.repo(RepoKind::Model, ID, None).unwrap().get(WEIGHTS).unwrap()
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(fs::read(thread.join().unwrap()).unwrap(), weights);
        }
    });
    assert_eq!(place.storage().len(), 1);
}

#[test]
fn a_server_that_is_no_hub_is_told_from_one() {
    let answer = |path: &str, status, headers: &[(&str, &str)], body: &str| ServerFault {
        path: path.to_owned(),
        action: Action::Answer {
            status,
            headers: headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            body: body.to_owned(),
        },
        times: 100,
    };
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let outside = format!("{{\"sha\":\"{commit}\",\"siblings\":[{{\"rfilename\":\"../../x\"}}]}}");
    let cases = [
        answer("/revision/", 200, &[], "<html>log in</html>"),
        answer("/revision/", 200, &[], "{\"sha\":\"../..\",\"siblings\":[]}"),
        answer("/revision/", 200, &[], &outside),
        answer("/revision/", 302, &[], ""),
        answer("/revision/", 302, &[("Location", "file:///etc/passwd")], ""),
        answer("/revision/", 302, &[("Location", "/api/models/org/tiny/revision/main")], ""),
        answer("a.json", 200, &[("ETag", "\"aa\"")], "[]"),
        answer("a.json", 200, &[("ETag", "\"aa\""), ("X-Repo-Commit", commit)], "[]"),
    ];
    for fault in cases {
        let (place, _) = with_weights();
        let shown = format!("{fault:?}");
        place.server.fail(fault);
        let error = place.model(None).get("a.json").unwrap_err();
        assert!(
            matches!(
                error,
                HubError::Listing { .. }
                    | HubError::Protocol { .. }
                    | HubError::InvalidFileName { .. }
            ),
            "{shown}: {error}"
        );
        assert!(names(&place.folder()).is_empty(), "{shown}: nothing is written");
    }
    // An ETag that would be a path.
    let (place, _) = with_weights();
    let real = place.model(None).commit().unwrap().unwrap();
    let headers = [("ETag", "\"../../x\""), ("X-Repo-Commit", real.as_str())];
    place.server.fail(answer("a.json", 200, &headers, "[]"));
    let error = place.model(None).get("a.json").unwrap_err();
    assert!(matches!(error, HubError::Protocol { .. }), "{error}");
}
