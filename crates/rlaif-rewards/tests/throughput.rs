//! How long a thousand rows take. By itself, so that no other test runs beside it.

mod support;

use std::time::{Duration, Instant};

use rlaif_core::{Exchange, RewardModel, Scores};
use support::{Reply, Server, judge, local, openai, row, user};

/// The best of up to three: other programs run on this machine as well.
fn quickest(limit: Duration, mut run: impl FnMut(usize) -> Duration) {
    let mut took = Vec::new();
    for attempt in 0..3 {
        took.push(run(attempt));
        if took[attempt] < limit {
            println!("took {:?}, limit {limit:?}", took[attempt]);
            return;
        }
    }
    panic!("took {took:?}, limit {limit:?}");
}

#[test]
fn a_thousand_rows_of_200_ms_take_under_4_s_and_from_the_cache_under_50_ms() {
    let server = Server::start(|request| {
        std::thread::sleep(Duration::from_millis(200));
        let verdict = row(&user(request)) % 11;
        Reply::Json(200, openai(&format!("{}", verdict as i32 - 5)))
    });
    let texts: Vec<String> = (0..1_000).map(|n| format!("This is row-{n} of them.")).collect();
    let batch: Vec<_> = texts.iter().map(|text| Exchange::new("p", text)).collect();
    let folder = tempfile::tempdir().unwrap();
    let toml = |cache: usize| {
        let cache = folder.path().join(format!("{cache}.sqlite"));
        local(&server.url, &format!("cache = {cache:?}"), "[limits]\nconcurrency = 64")
    };
    let scored = |scores: Scores| {
        for (row, score) in scores.total.iter().enumerate() {
            assert_eq!(score.unwrap().get(), (row % 11) as f32 - 5.);
        }
    };
    quickest(Duration::from_secs(4), |attempt| {
        let judge = judge(&toml(attempt));
        let start = Instant::now();
        let scores = judge.score(&batch).unwrap();
        let took = start.elapsed();
        scored(scores);
        took
    });
    let asked = server.requests().len();
    quickest(Duration::from_millis(50), |_| {
        let judge = judge(&toml(0));
        let start = Instant::now();
        let scores = judge.score(&batch).unwrap();
        let took = start.elapsed();
        scored(scores);
        assert_eq!(judge.usage().cached, 1_000);
        took
    });
    assert_eq!(server.requests().len(), asked, "asked for what is in the cache");
}
