//! A special token that a text already has is not added again, regardless of its author.

use std::path::Path;

use rlaif_core::{Specials, TextCodec};
use rlaif_text::HfTokenizer;

fn open(name: &str) -> HfTokenizer {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    HfTokenizer::from_folder(fixtures.join(name)).unwrap().named(name)
}

#[test]
fn every_tokenizer_that_adds_tokens_adds_them_once() {
    // What each writes before and behind a text; see `golden.json` of each.
    for (name, before, behind) in [
        ("llama3", "<|begin_of_text|>", ""),
        ("mistral", "<s>", ""),
        ("llama_spm", "<s>", ""),
        ("llama_spm_eos", "<s>", "</s>"),
        ("t5", "", "</s>"),
        ("t5_spm", "", "</s>"),
        ("roberta", "<s>", "</s>"),
        ("xlm_roberta_spm", "<s>", "</s>"),
        ("bert", "[CLS]", "[SEP]"),
        ("bert_vocab", "[CLS]", "[SEP]"),
    ] {
        let tokenizer = open(name);
        let plain = tokenizer.encode("Is honey safe?", Specials::Include).unwrap();
        assert_eq!(tokenizer.take_notices(), Vec::<String>::new(), "{name}");
        let id = |token: &str| tokenizer.token_id(token);
        assert_eq!(plain.first().copied().filter(|_| !before.is_empty()), id(before), "{name}");
        assert_eq!(plain.last().copied().filter(|_| !behind.is_empty()), id(behind), "{name}");
        for (begins, ends) in [(1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (3, 2)] {
            let (begin, end) = (before.repeat(begins), behind.repeat(ends));
            let text = format!("{begin}Is honey safe?{end}");
            let ids = tokenizer.encode(&text, Specials::Include).unwrap();
            let count = |token: &str| ids.iter().filter(|&&i| Some(i) == id(token)).count();
            for token in [before, behind].into_iter().filter(|token| !token.is_empty()) {
                assert_eq!(count(token), 1, "{name}: {text:?} gives {ids:?}");
            }
            // The space that some put before a text's first word comes between.
            let bare = tokenizer.encode(&text, Specials::Exclude).unwrap();
            let once = ids.len() + begins.saturating_sub(1) + ends.saturating_sub(1);
            assert!(once >= bare.len(), "{name}: {text:?}");
            let cut = tokenizer.encode_truncated(&text, None, 64).unwrap();
            assert_eq!(cut.ids, ids, "{name}: {text:?}");
            assert_eq!(cut.type_ids.len(), ids.len());
        }
        let told = tokenizer.take_notices();
        let sides = usize::from(!before.is_empty()) + usize::from(!behind.is_empty());
        assert_eq!(told.len(), sides, "{name}: {told:?}");
        tokenizer.encode(&format!("{before}x{behind}"), Specials::Include).unwrap();
        assert_eq!(tokenizer.take_notices(), Vec::<String>::new(), "told once: {name}");
    }
}

#[test]
fn a_token_in_the_middle_of_a_text_stays() {
    let tokenizer = open("llama3");
    let bos = tokenizer.token_id("<|begin_of_text|>").unwrap();
    let ids = tokenizer.encode("a <|begin_of_text|> b", Specials::Include).unwrap();
    assert_eq!(ids.iter().filter(|&&id| id == bos).count(), 2);
    assert_eq!(tokenizer.encode("<|begin_of_text|>", Specials::Include).unwrap(), [bos]);
    // Two that somebody wrote are one as well.
    let two = tokenizer.encode("<|begin_of_text|><|begin_of_text|>a", Specials::Include).unwrap();
    assert_eq!(two, tokenizer.encode("a", Specials::Include).unwrap());
}
