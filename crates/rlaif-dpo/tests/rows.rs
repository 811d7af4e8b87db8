//! Texts to rows: what is cut, left out, refused, and counted.

use rlaif_core::{Desirability, PreferencePair, UnpairedPreference};
use rlaif_dpo::{
    Boundary, DpoError, OnProblem, PairProblem, RowConfig, RowEnd, TooLong, pair_rows,
    response_rows,
};
use rlaif_lm::LmSpec;
use rlaif_testing::Bytes;
use tch::{Device, Kind};

const BOS: u32 = Bytes::BOS;
const EOS: u32 = Bytes::EOS;

const CAUSAL: Bytes = Bytes { bos: true, eos: false };
const T5: Bytes = Bytes { bos: false, eos: true };

fn spec(codec: &Bytes, context: usize) -> LmSpec {
    LmSpec {
        model_type: "llama".into(),
        hidden_size: 8,
        vocab_size: 500,
        context: codec.bos.then_some(context),
        pad_id: 0,
        eos_ids: vec![EOS],
        bos_id: codec.bos.then_some(BOS),
        decoder_start_id: (!codec.bos).then_some(0),
        forced: rlaif_lm::ForcedIds::default(),
        kind: Kind::Float,
        device: Device::Cpu,
    }
}

fn pair(prompt: &str, chosen: &str, rejected: &str) -> PreferencePair {
    PreferencePair {
        margin: Some(0.5),
        ..PreferencePair::new(format!("{prompt}|{chosen}"), prompt, chosen, rejected)
    }
}

fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(|byte| 100 + u32::from(byte)).collect()
}

fn with(before: &[u32], text: &str, after: &[u32]) -> Vec<u32> {
    [before, &bytes(text), after].concat()
}

#[test]
fn prompt_and_responses_are_what_the_model_will_read() {
    let config = RowConfig::default();
    let pairs = [pair("Q: a", " b", " cd")];
    let (rows, report) = pair_rows(&pairs, &CAUSAL, &spec(&CAUSAL, 64), &config).unwrap();
    assert_eq!(rows[0].prompt, with(&[BOS], "Q: a", &[]));
    assert_eq!(rows[0].chosen, with(&[], " b", &[EOS]));
    assert_eq!(rows[0].rejected, with(&[], " cd", &[EOS]));
    assert_eq!((rows[0].margin, report.read, report.kept), (Some(0.5), 1, 1));

    let open = RowConfig { ending: RowEnd::Open, ..config };
    let (rows, _) = pair_rows(&pairs, &CAUSAL, &spec(&CAUSAL, 64), &open).unwrap();
    assert_eq!(rows[0].chosen, bytes(" b"));

    // The tokenizer of an encoder-decoder model ends both texts.
    let (rows, _) = pair_rows(&pairs, &T5, &spec(&T5, 64), &config).unwrap();
    assert_eq!(rows[0].prompt, with(&[], "Q: a", &[EOS]));
    assert_eq!(rows[0].chosen, with(&[], " b", &[EOS]));
    // One that ends every text, before a decoder-only model: the prompt stays open.
    let both = Bytes { bos: true, eos: true };
    let (rows, report) = pair_rows(&pairs, &both, &spec(&both, 64), &config).unwrap();
    assert_eq!(rows[0].prompt, with(&[BOS], "Q: a", &[]));
    assert_eq!((rows[0].chosen.clone(), report.merged), (with(&[], " b", &[EOS]), 0));
}

#[test]
fn tokens_that_merge_across_the_boundary_are_noticed() {
    let pairs = [pair("cat", "hat", "dog")];
    let spec = spec(&CAUSAL, 64);
    let make = |boundary| {
        pair_rows(&pairs, &CAUSAL, &spec, &RowConfig { boundary, ..RowConfig::default() })
    };
    let (rows, report) = make(Boundary::Apart).unwrap();
    assert_eq!(rows[0].prompt, with(&[BOS], "cat", &[]));
    assert_eq!(rows[0].chosen, with(&[], "hat", &[EOS]));
    assert_eq!(report.merged, 1);
    // As TRL parts them: both responses begin with the first token that is not in all texts.
    let (rows, report) = make(Boundary::Merge).unwrap();
    assert_eq!(rows[0].prompt, with(&[BOS], "ca", &[]));
    assert_eq!(rows[0].chosen, with(&[400], "at", &[EOS]));
    assert_eq!(rows[0].rejected, with(&[], "tdog", &[EOS]));
    assert_eq!(report.merged, 1);
    assert!(report.to_string().contains(", 1 with tokens that merge across the boundary"));
    let error = make(Boundary::Error).unwrap_err();
    assert!(
        matches!(&error, DpoError::Pair { id, problem: PairProblem::NotAPrefix } if id == "cat|hat"),
        "{error}"
    );
    let error = make(Boundary::Skip).unwrap_err().to_string();
    assert!(error.contains("1 were read, 1 were left out (prompt is not a prefix)"), "{error}");
}

#[test]
fn equal_and_empty_rows_are_left_out_or_refused() {
    let pairs = [
        pair("a", " b", " c"),
        pair("a", " b", " b"),
        pair("a", "", " c"),
        pair("a", " b", "  "),
        pair("", " b", " c"),
    ];
    let spec = spec(&CAUSAL, 64);
    let (rows, report) = pair_rows(&pairs, &CAUSAL, &spec, &RowConfig::default()).unwrap();
    assert_eq!((rows.len(), report.kept, report.read), (1, 1, 5));
    assert_eq!(report.skipped["identical responses"], 1);
    assert_eq!(report.skipped["empty response"], 2);
    assert_eq!(report.skipped["empty prompt"], 1);
    assert_eq!(
        report.to_string(),
        "1 of 5 rows, 1 were left out (empty prompt), 2 were left out (empty response), 1 were \
         left out (identical responses)"
    );
    for (at, config, want) in [
        (
            1,
            RowConfig { identical: OnProblem::Error, ..RowConfig::default() },
            PairProblem::Identical,
        ),
        (
            2,
            RowConfig { empty: OnProblem::Error, ..RowConfig::default() },
            PairProblem::EmptyResponse,
        ),
        (
            4,
            RowConfig { empty: OnProblem::Error, ..RowConfig::default() },
            PairProblem::EmptyPrompt,
        ),
    ] {
        let error = pair_rows(&pairs[at..=at], &CAUSAL, &spec, &config).unwrap_err();
        assert!(matches!(&error, DpoError::Pair { problem, .. } if *problem == want), "{error}");
    }
}

#[test]
fn what_is_too_long_is_cut_as_stated() {
    let pairs = [pair("0123456789", " chosen", " rejected")];
    let make = |context: usize, config: RowConfig| {
        pair_rows(&pairs, &CAUSAL, &spec(&CAUSAL, context), &config)
    };
    // The prompt loses its beginning, the BOS stays; the longer response has 10 tokens with its EOS.
    let (rows, report) = make(16, RowConfig::default()).unwrap();
    assert_eq!(rows[0].prompt, with(&[BOS], "56789", &[]));
    assert_eq!(rows[0].rejected, with(&[], " rejected", &[EOS]));
    assert_eq!(report.truncated, 1);
    // Down to one token beside the BOS; then the responses lose their end, and with it their EOS.
    let (rows, _) = make(8, RowConfig::default()).unwrap();
    assert_eq!(rows[0].prompt, with(&[BOS], "9", &[]));
    assert_eq!(rows[0].chosen, bytes(" chose"));
    assert_eq!(rows[0].rejected, bytes(" rejec"));
    // Limits of their own.
    let limits = RowConfig {
        max_prompt_tokens: Some(4),
        max_response_tokens: Some(3),
        ..RowConfig::default()
    };
    let (rows, _) = make(64, limits.clone()).unwrap();
    assert_eq!(rows[0].prompt, with(&[BOS], "789", &[]));
    assert_eq!(rows[0].chosen, bytes(" ch"));
    // An encoder-decoder model's prompt keeps the EOS at its end.
    let (rows, _) = pair_rows(&pairs, &T5, &spec(&T5, 64), &limits).unwrap();
    assert_eq!(rows[0].prompt, with(&[], "789", &[EOS]));

    let error = make(16, RowConfig { too_long: TooLong::Error, ..RowConfig::default() });
    let want = PairProblem::TooLong { length: 21, limit: 16 };
    assert!(matches!(error.unwrap_err(), DpoError::Pair { problem, .. } if problem == want));
    let error = make(16, RowConfig { too_long: TooLong::Skip, ..RowConfig::default() });
    assert!(error.unwrap_err().to_string().contains("(too long)"));
    // Cut to the same beginning, nothing tells the two apart.
    let alike = [pair("a", " same 1", " same 2")];
    let config = RowConfig { max_response_tokens: Some(4), ..RowConfig::default() };
    let error = pair_rows(&alike, &CAUSAL, &spec(&CAUSAL, 64), &config).unwrap_err();
    assert!(error.to_string().contains("(identical responses)"), "{error}");
}

#[test]
fn single_responses_have_the_one_before_as_their_mismatch() {
    let record = |prompt: &str, response: &str, desirability| {
        UnpairedPreference::new(prompt, prompt, response, desirability)
    };
    let records = [
        record("a", " x", Desirability::Desirable),
        record("b", "", Desirability::Desirable),
        record("c", " y", Desirability::Undesirable),
    ];
    let spec = spec(&CAUSAL, 64);
    let (rows, report) = response_rows(&records, &CAUSAL, &spec, &RowConfig::default()).unwrap();
    assert_eq!((rows.len(), report.skipped["empty response"]), (2, 1));
    assert_eq!((&rows[0].mismatched, &rows[1].mismatched), (&rows[1].response, &rows[0].response));
    assert_eq!((rows[0].sign(), rows[1].sign()), (1., -1.));
}
