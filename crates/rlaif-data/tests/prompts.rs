//! Prompts keep to their limits and never lose the instruction.

mod common;

use std::num::NonZeroUsize;

use common::Counting;
use proptest::prelude::*;
use rlaif_core::{PromptRecord, Provenance, Specials, TextCodec};
use rlaif_data::{DataError, Dataset, PromptBuilder, PromptForm, PromptTemplate, Shortening};

const DIALOGUE: &str = "\n\nHuman: One two three\n\nAssistant: four five\n\nHuman: six";

fn limit(tokens: usize) -> NonZeroUsize {
    NonZeroUsize::new(tokens).unwrap()
}

fn chat(system: Option<&str>) -> PromptForm {
    PromptForm::Chat { system: system.map(str::to_owned) }
}

proptest! {
    #[test]
    fn no_prompt_exceeds_its_limit_or_loses_its_instruction(
        turns in proptest::collection::vec("(\n\nHuman:|\n\nAssistant:|\n)[ a-z\u{e9}\u{1F642}\n]{0,40}", 0..8),
        before in "[A-Z ]{1,12}",
        after in "[0-9 ]{1,12}",
        tokens in 1usize..60,
        per_token in 1usize..6,
        in_chat: bool,
    ) {
        let dialogue = turns.concat();
        let template = PromptTemplate::new(&format!("{before}{{dialogue}}{after}")).unwrap();
        let form = if in_chat { chat(Some("Be brief.")) } else { PromptForm::Plain };
        let builder = PromptBuilder::new(template).form(form).limit(limit(tokens));
        let codec = Counting { per_token };
        match builder.build(&codec, "id", &dialogue) {
            Ok(built) => {
                let counted = codec.encode(&built.text, builder.specials()).unwrap().len();
                prop_assert_eq!(counted, built.tokens);
                prop_assert!(built.tokens <= tokens);
                // A chat template leaves out the space around the message; where the other end of
                // the instruction is blank, that may be space on either side of this one.
                let head = match (in_chat, after.trim().is_empty()) {
                    (true, true) => before.trim(),
                    (true, false) => before.trim_start(),
                    (false, _) => &before,
                };
                let tail = match (in_chat, before.trim().is_empty()) {
                    (true, true) => after.trim(),
                    (true, false) => after.trim_end(),
                    (false, _) => &after,
                };
                prop_assert!(built.text.contains(head), "{}", built.text);
                prop_assert!(built.text.contains(tail), "{}", built.text);
                if built.shortening == Shortening::None {
                    prop_assert!(built.text.contains(&dialogue) || in_chat);
                }
            }
            Err(DataError::TokenLimit { needed, limit, .. }) => {
                prop_assert_eq!(limit, tokens);
                prop_assert!(needed > tokens);
            }
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        }
    }

    #[test]
    fn no_more_turns_are_dropped_than_needed(tokens in 46usize..140) {
        let dialogue = "\n\nHuman: abcdef".repeat(6);
        let builder = PromptBuilder::new(PromptTemplate::new("Sum up {dialogue}\nSo: ").unwrap())
            .limit(limit(tokens));
        let built = builder.build(&Counting { per_token: 1 }, "id", &dialogue).unwrap();
        // 12 characters of instruction, 1 special token and 15 characters for each turn.
        let fit = (tokens - 13) / 15;
        prop_assert_eq!(built.tokens, 13 + 15 * fit.min(6));
    }
}

#[test]
fn the_default_instruction_is_to_summarise() {
    let text = PromptTemplate::default().fill(DIALOGUE);
    assert_eq!(
        text,
        "\nSummarize the following conversation.\n\n\n\nHuman: One two three\n\nAssistant: four \
         five\n\nHuman: six\n\nSummary:\n"
    );
}

#[test]
fn the_oldest_turns_go_first_and_then_the_beginning_of_the_last() {
    let template = PromptTemplate::new("Sum: {dialogue} End:").unwrap();
    let codec = Counting { per_token: 1 };
    let build = |tokens| {
        let builder = PromptBuilder::new(template.clone()).limit(limit(tokens));
        let built = builder.build(&codec, "id", DIALOGUE).unwrap();
        (built.text, built.shortening)
    };
    // The instruction takes 10 tokens, the special token one, the turns 22, 22 and 12.
    assert_eq!(build(67).1, Shortening::None);
    assert_eq!(
        build(66),
        ("Sum: \n\nAssistant: four five\n\nHuman: six End:".to_owned(), Shortening::Turns(1))
    );
    assert_eq!(build(44).0, "Sum: \n\nHuman: six End:");
    assert_eq!(build(23), ("Sum: \n\nHuman: six End:".to_owned(), Shortening::Turns(2)));
    assert_eq!(build(21), ("Sum: \n\nHuman:ix End:".to_owned(), Shortening::WithinTurn));
    assert_eq!(build(11), ("Sum:  End:".to_owned(), Shortening::WithinTurn));
    let builder = PromptBuilder::new(template).limit(limit(10));
    let error = builder.build(&codec, "id", DIALOGUE).unwrap_err();
    assert!(matches!(error, DataError::TokenLimit { needed: 11, limit: 10, .. }), "{error}");
}

#[test]
fn dialogues_in_lines_lose_their_oldest_lines() {
    let builder = PromptBuilder::new(PromptTemplate::new("{dialogue}!").unwrap()).limit(limit(24));
    let dialogue = "#Person1#: Good morning.\n#Person2#: Hi there.\n#Person1#: Bye.\n";
    let built = builder.build(&Counting { per_token: 1 }, "id", dialogue).unwrap();
    assert_eq!(built.text, "#Person1#: Bye.\n!");
    assert_eq!(built.shortening, Shortening::Turns(2));
}

#[test]
fn chat_models_get_the_same_text_as_a_message() {
    let codec = Counting { per_token: 1 };
    let builder = PromptBuilder::default().form(chat(Some("Be brief.")));
    let built = builder.build(&codec, "id", "\n\nHuman: Hi").unwrap();
    assert_eq!(
        built.text,
        "<bos><system>Be brief.</><user>Summarize the following conversation.\n\n\n\nHuman: \
         Hi\n\nSummary:</><assistant>"
    );
    assert_eq!(builder.specials(), Specials::Exclude);
    assert_eq!(built.tokens, built.text.len());
    assert_eq!(PromptBuilder::default().specials(), Specials::Include);
}

#[test]
fn prompts_of_a_dataset_keep_ids_and_references_and_count_what_was_shortened() {
    let records: Vec<_> = (0..200)
        .map(|n| {
            let turns = "\n\nHuman: hello there".repeat(n % 4 + 1);
            PromptRecord::new(n.to_string(), turns).with_reference(format!("summary {n}"))
        })
        .collect();
    let dialogues = Dataset::new(records, Provenance::default());
    let builder =
        PromptBuilder::new(PromptTemplate::new("Sum: {dialogue}").unwrap()).limit(limit(50));
    let prompts = builder
        .build_all(
            &Counting { per_token: 1 },
            &dialogues,
            |record| record.prompt.as_str().into(),
            |record| record.reference.clone(),
        )
        .unwrap();
    assert_eq!(prompts.len(), 200);
    assert_eq!(prompts.records()[7].id, "7");
    assert_eq!(prompts.records()[7].reference.as_deref(), Some("summary 7"));
    let step = &prompts.provenance().steps[0];
    assert_eq!(step.operation, "prompts of at most 50 tokens of counting");
    assert_eq!(step.noted["shortened by its oldest turns"], 100);
}
