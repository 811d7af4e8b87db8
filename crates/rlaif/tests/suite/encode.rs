//! The learned tokens: in conversations the assistant's turns, in demonstrations the responses.

use rlaif::{
    core::{ChatOptions, ConversationRow, Demonstration, Message, Rendering, Specials, TextCodec},
    lm::LmSpec,
    run::Encoder,
    tch::{Device, Kind},
    text::HfTokenizer,
    train::SftRow,
};

use crate::support;

fn tokenizer(name: &str) -> HfTokenizer {
    HfTokenizer::from_folder(support::tokenizer(name)).unwrap()
}

fn spec(tokenizer: &HfTokenizer, decoder_start_id: Option<u32>) -> LmSpec {
    LmSpec {
        model_type: "llama".to_owned(),
        hidden_size: 8,
        vocab_size: tokenizer.embedding_rows() as i64,
        context: Some(512),
        pad_id: 0,
        eos_ids: tokenizer.special_tokens().eos.iter().map(|token| token.id).collect(),
        bos_id: None,
        decoder_start_id,
        forced: rlaif_lm::ForcedIds::default(),
        kind: Kind::Float,
        device: Device::Cpu,
    }
}

fn conversation(turns: &[(&str, &str)]) -> ConversationRow {
    let messages: Vec<Message> =
        turns.iter().map(|(role, content)| Message::new(*role, *content)).collect();
    let (id, chat) = ("1".to_owned(), ChatOptions::default());
    ConversationRow { id, conversation: messages.into(), chat }
}

/// The text of a row in order, split into learned parts (`true`) and parts that are only read.
fn told_apart(row: &SftRow, tokenizer: &HfTokenizer) -> Vec<(bool, String)> {
    let learned: Vec<bool> = match &row.learned {
        Some(learned) => learned.clone(),
        None => vec![true; row.response.len()],
    };
    assert_eq!(learned.len(), row.response.len());
    let prompt = row.prompt.iter().map(|&id| (false, id));
    let mut parts: Vec<(bool, Vec<u32>)> = Vec::new();
    for (learns, id) in prompt.chain(learned.into_iter().zip(row.response.iter().copied())) {
        match parts.last_mut() {
            Some((same, ids)) if *same == learns => ids.push(id),
            _ => parts.push((learns, vec![id])),
        }
    }
    let text = |ids: Vec<u32>| tokenizer.decode(&ids, Specials::Include).unwrap();
    parts.into_iter().map(|(learns, ids)| (learns, text(ids))).collect()
}

#[test]
fn of_a_conversation_every_turn_of_the_assistant_is_learned_and_nothing_else() {
    let tokenizer = tokenizer("chatml");
    let spec_of_model = spec(&tokenizer, None);
    let encoder = Encoder::new(&tokenizer, &spec_of_model, 512);
    let rows = [
        conversation(&[
            ("user", "Hello there."),
            ("assistant", "Hello."),
            ("user", "And now?"),
            ("assistant", "Bye."),
        ]),
        conversation(&[("user", "Nobody answers.")]),
    ];
    let how = Rendering::default();
    let (encoded, left) = encoder.conversations(&rows, &how).unwrap();
    assert!(encoded[1].is_none());
    assert_eq!(left.to_string(), "1 left out (the assistant says nothing)");
    let parts = told_apart(encoded[0].as_ref().unwrap(), &tokenizer);
    let part = |learns, text: &str| (learns, text.to_owned());
    let want = [
        part(
            false,
            "<|im_start|>system\nYou answer briefly.<|im_end|>\n<|im_start|>user\nHello there.\
             <|im_end|>\n<|im_start|>assistant\n",
        ),
        // The template marks the learned parts.
        part(true, "Hello.<|im_end|>"),
        part(false, "\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"),
        part(true, "Bye.<|im_end|>"),
        part(false, "\n"),
    ];
    assert_eq!(parts, want);

    // A conversation that is too long loses its end, and the rest of a cut turn is learned.
    let whole = encoded[0].as_ref().unwrap().len();
    let encoder = Encoder::new(&tokenizer, &spec_of_model, whole - 2);
    let (cut, left) = encoder.conversations(&rows[..1], &how).unwrap();
    assert_eq!((cut[0].as_ref().unwrap().len(), left.cut), (whole - 2, 1));
    let cut = told_apart(cut[0].as_ref().unwrap(), &tokenizer);
    assert_eq!(cut[..3], want[..3]);
    assert!(want[3].1.starts_with(&cut[3].1) && cut[3].1.len() < want[3].1.len());
}

#[test]
fn of_a_demonstration_the_response_and_its_end_are_learned() {
    let tokenizer = tokenizer("llama3");
    let spec = spec(&tokenizer, None);
    let encoder = Encoder::new(&tokenizer, &spec, 64);
    let row = |prompt: &str, response: &str| Demonstration::new(prompt, prompt, response);
    let rows = [
        row("Bears eat", " honey."),
        row("honey ".repeat(80).as_str(), " too long"),
        row("Bears say", " "),
    ];
    let (encoded, left) = encoder.demonstrations(&rows).unwrap();
    assert!(encoded[1].is_none() && encoded[2].is_none());
    let told = "1 left out (an empty response), 1 left out (nothing to learn fits)";
    assert_eq!(left.to_string(), told);
    let got = encoded[0].as_ref().unwrap();
    // Encoded as one text, so that the tokens are those of the text that is read.
    let whole = tokenizer.encode("Bears eat honey.", Specials::Include).unwrap();
    assert_eq!(
        [&got.prompt[..], &got.response].concat(),
        [&whole[..], &spec.eos_ids[..1]].concat()
    );
    assert_eq!(got.prompt, tokenizer.encode("Bears eat", Specials::Include).unwrap());
    assert_eq!(got.learned_tokens(), got.response.len());
}

/// As in TRL 1.16, whose loss has no token before the first one to predict it from: no token is made up.
#[test]
fn of_an_empty_prompt_the_first_token_of_the_response_is_only_read() {
    let tokenizer = tokenizer("chatml");
    let spec = LmSpec { bos_id: Some(3), ..spec(&tokenizer, None) };
    let encoder = Encoder::new(&tokenizer, &spec, 64);
    let row = Demonstration::new("1", "", "Bears eat honey.");
    let (encoded, _) = encoder.demonstrations(std::slice::from_ref(&row)).unwrap();
    let got = encoded[0].as_ref().unwrap();
    let whole = tokenizer.encode("Bears eat honey.", Specials::Include).unwrap();
    let eos = tokenizer.special_tokens().eos.as_ref().unwrap().id;
    assert_eq!(got.prompt, whole[..1]);
    assert_eq!(got.response, [&whole[1..], &[eos]].concat());
}

#[test]
fn an_encoder_reads_the_prompt_and_its_decoder_learns_the_response() {
    let tokenizer = tokenizer("t5");
    let spec = spec(&tokenizer, Some(0));
    let encoder = Encoder::new(&tokenizer, &spec, 6);
    let row = Demonstration::new("1", "Bears eat honey and much more than that.", "Yes.");
    let (encoded, left) = encoder.demonstrations(std::slice::from_ref(&row)).unwrap();
    let got = encoded[0].as_ref().unwrap();
    // The prompt was truncated before its end of sequence; the row counts once.
    let eos = spec.eos_ids[0];
    let whole = tokenizer.encode(&row.prompt, Specials::Include).unwrap();
    assert!(whole.len() > 6 && left.cut == 1);
    assert_eq!(got.prompt, [&whole[..5], &[eos]].concat());
    let mut response = tokenizer.encode("Yes.", Specials::Exclude).unwrap();
    response.push(eos);
    assert_eq!(got.response, response[..response.len().min(6)]);
    let conversation = "Bears.".into();
    let text = ConversationRow { conversation, ..self::conversation(&[]) };
    let how = Rendering::default();
    let error = encoder.conversations(&[text], &how).unwrap_err().to_string();
    assert!(error.contains("columns.format") && error.contains("encoder-decoder"), "{error}");
}
