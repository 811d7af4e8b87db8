//! Prompts and responses as text to the token ids that one model reads.

use rlaif_core::{CodecError, Specials, TextCodec, TextKind};

use crate::spec::LmSpec;

/// Encodes prompts, and prompts with their responses, for one model.
///
/// Some tokenizers put an end of sequence behind every text. For a decoder-only model, a response
/// follows the prompt, so an end of sequence that the tokenizer itself added is not part of the
/// prompt; one that the text contains stays. An encoder reads its input whole and keeps both.
///
/// Texts of a chat template ([`TextKind::Rendered`]) hold every special token that there is to be:
/// no token is added to them, and none behind the response. An encoder-decoder model reads them as
/// any other text.
///
/// ```
/// # use rlaif_core::{CodecError, GenerationPrompt, Message};
/// # struct Bytes;
/// # impl TextCodec for Bytes {
/// #     fn name(&self) -> &str { "bytes" }
/// #     fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>, CodecError> {
/// #         let mut ids: Vec<u32> = text.bytes().map(u32::from).collect();
/// #         if specials == Specials::Include { ids.push(2) }
/// #         Ok(ids)
/// #     }
/// #     fn decode(&self, _: &[u32], _: Specials) -> Result<String, CodecError> { Ok(String::new()) }
/// #     fn render_chat(&self, _: &[Message], _: GenerationPrompt) -> Result<String, CodecError> { Ok(String::new()) }
/// # }
/// use rlaif_core::{Specials, TextCodec, TextKind};
/// use rlaif_lm::{Joiner, LmSpec, Texts};
/// # let spec = LmSpec { model_type: "llama".into(), hidden_size: 8, vocab_size: 300,
/// #     context: None, pad_id: 0, eos_ids: vec![2], bos_id: None, decoder_start_id: None,
/// #     forced: Default::default(), kind: tch::Kind::Float, device: tch::Device::Cpu };
/// // A tokenizer with a token for each byte, and 2 behind every text.
/// assert_eq!(Bytes.encode("a", Specials::Include)?, [97, 2]);
///
/// let joiner = Joiner::new(&Bytes, &spec);
/// assert_eq!(joiner.open(&[("a", TextKind::Plain)])?, [[97]]);
/// let texts = Texts { prompt: "a", responses: vec!["b"], kind: TextKind::Plain };
/// let mut joined = joiner.join(&[texts])?;
/// joiner.end(&mut joined[0].responses[0], TextKind::Plain);
/// assert_eq!((&joined[0].prompt, &joined[0].responses[0]), (&vec![97], &vec![98, 2]));
/// # Ok::<(), CodecError>(())
/// ```
#[derive(Clone, Copy)]
pub struct Joiner<'a> {
    codec: &'a dyn TextCodec,
    spec: &'a LmSpec,
}

impl std::fmt::Debug for Joiner<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Joiner")
            .field("codec", &self.codec.name())
            .field("model_type", &self.spec.model_type)
            .field("eos", &self.eos())
            .finish()
    }
}

/// A prompt and its responses as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts<'t> {
    /// The prompt.
    pub prompt: &'t str,
    /// Responses to it.
    pub responses: Vec<&'t str>,
    /// The origin of the texts.
    pub kind: TextKind,
}

/// A prompt and its responses as token ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Joined {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// The responses, in the order of their texts.
    pub responses: Vec<Vec<u32>>,
    /// `true` if tokens merge across the boundary: the prompt's last tokens are not among those of
    /// prompt and response as one text, and the responses begin with the merged token.
    pub merged: bool,
    /// The origin of the texts.
    pub kind: TextKind,
}

/// End at which a sequence loses tokens that do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shorten {
    /// The prompt loses its beginning, down to one token (and a BOS, which stays); then the
    /// responses lose their ends.
    #[default]
    PromptStart,
    /// The responses lose their ends. A prompt is only shortened if it exceeds its own limit:
    /// before its last token, which is the end of sequence of an encoder's input.
    ResponseEnd,
}

/// Maximum numbers of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Tokens of a prompt.
    pub prompt: Option<usize>,
    /// Tokens of a response.
    pub response: Option<usize>,
    /// Tokens of prompt and response together. The context of a decoder-only model is a further
    /// limit. For an encoder-decoder model, which reads them separately, this does not apply.
    pub together: Option<usize>,
    /// The part that is shortened.
    pub shorten: Shorten,
}

impl<'a> Joiner<'a> {
    /// A joiner for the model that `spec` describes, and its tokenizer.
    pub fn new(codec: &'a dyn TextCodec, spec: &'a LmSpec) -> Self {
        Self { codec, spec }
    }

    /// The end of sequence that responses get: the tokenizer's `eos_token`, or the first of the
    /// model's configuration if the tokenizer has none.
    pub fn eos(&self) -> Option<u32> {
        self.codec.eos_id().or(self.spec.eos_ids.first().copied())
    }

    /// `true` if `id` ends a sequence.
    pub fn is_eos(&self, id: u32) -> bool {
        self.spec.is_eos(id) || self.eos() == Some(id)
    }

    /// `true` for a model that reads prompts with an encoder.
    pub fn is_encoder_decoder(&self) -> bool {
        self.spec.decoder_start_id.is_some()
    }

    /// Prompts as the model reads them before it answers, each with the origin of its text.
    ///
    /// # Errors
    /// [`CodecError`] if a text cannot be encoded.
    pub fn open(&self, prompts: &[(&str, TextKind)]) -> Result<Vec<Vec<u32>>, CodecError> {
        let mut all = self.encode(prompts)?;
        if self.is_encoder_decoder() {
            return Ok(all);
        }
        let plain = |row: usize| prompts[row].1 == TextKind::Plain;
        let ended: Vec<usize> =
            (0..all.len()).filter(|&row| plain(row) && self.ends(&all[row])).collect();
        if ended.is_empty() {
            return Ok(all);
        }
        let texts: Vec<&str> = ended.iter().map(|&row| prompts[row].0).collect();
        let plain = self.codec.encode_batch(&texts, Specials::Exclude)?;
        for (row, plain) in ended.into_iter().zip(plain) {
            let ids = &mut all[row];
            // Without the last token, the text is still there whole: the tokenizer added it.
            if ids[..ids.len() - 1].ends_with(&plain) {
                ids.pop();
            }
        }
        Ok(all)
    }

    /// One prompt, as [`Joiner::open`] encodes it.
    ///
    /// # Errors
    /// As [`Joiner::open`].
    pub fn open_one(&self, prompt: &str, kind: TextKind) -> Result<Vec<u32>, CodecError> {
        Ok(self.open(&[(prompt, kind)])?.pop().unwrap_or_default())
    }

    /// Texts with the special tokens that their kind asks for, in their order.
    fn encode(&self, texts: &[(&str, TextKind)]) -> Result<Vec<Vec<u32>>, CodecError> {
        let mut all = vec![Vec::new(); texts.len()];
        for specials in [Specials::Include, Specials::Exclude] {
            let rows: Vec<usize> =
                (0..texts.len()).filter(|&row| self.specials(texts[row].1) == specials).collect();
            let part: Vec<&str> = rows.iter().map(|&row| texts[row].0).collect();
            for (row, ids) in rows.into_iter().zip(self.codec.encode_batch(&part, specials)?) {
                all[row] = ids;
            }
        }
        Ok(all)
    }

    fn specials(&self, kind: TextKind) -> Specials {
        if self.is_encoder_decoder() { Specials::Include } else { kind.specials() }
    }

    /// Prompts with their responses.
    ///
    /// For a decoder-only model, prompt and response are encoded as one text, as the model reads
    /// them, and split after the prompt's tokens. Where tokens merge across the boundary, the
    /// responses begin at the first token that is not the prompt's ([`Joined::merged`]), as in
    /// TRL's trainers. For an encoder-decoder model, each text is encoded separately, with the
    /// special tokens that the tokenizer adds.
    ///
    /// # Errors
    /// [`CodecError`] if a text cannot be encoded.
    pub fn join(&self, rows: &[Texts<'_>]) -> Result<Vec<Joined>, CodecError> {
        let prompts: Vec<(&str, TextKind)> =
            rows.iter().map(|row| (row.prompt, row.kind)).collect();
        let prompts = self.open(&prompts)?;
        let wholes: Vec<(String, TextKind)> = rows
            .iter()
            .flat_map(|row| row.responses.iter().map(move |response| (row, *response)))
            .map(|(row, response)| {
                let whole = if self.is_encoder_decoder() {
                    response.to_owned()
                } else {
                    [row.prompt, response].concat()
                };
                (whole, row.kind)
            })
            .collect();
        let wholes: Vec<(&str, TextKind)> =
            wholes.iter().map(|(text, kind)| (text.as_str(), *kind)).collect();
        // An end that the tokenizer adds does not belong to a response: `end` puts it there.
        let mut wholes = self.open(&wholes)?.into_iter();
        rows.iter()
            .zip(prompts)
            .map(|(row, mut prompt)| {
                let mut responses: Vec<Vec<u32>> =
                    wholes.by_ref().take(row.responses.len()).collect();
                let mut merged = false;
                if !self.is_encoder_decoder() {
                    // All responses share one prompt.
                    let common = responses.iter().map(|whole| common(&prompt, whole)).min();
                    let common = common.unwrap_or(prompt.len());
                    merged = common < prompt.len();
                    prompt.truncate(common);
                    for whole in &mut responses {
                        whole.drain(..common);
                    }
                }
                Ok(Joined { prompt, responses, merged, kind: row.kind })
            })
            .collect()
    }

    /// A prompt and its responses, each text encoded by itself: the tokens that a policy reads and
    /// writes when it generates.
    ///
    /// # Errors
    /// [`CodecError`] if a text cannot be encoded.
    pub fn apart(&self, row: &Texts<'_>) -> Result<Joined, CodecError> {
        let prompt = self.open_one(row.prompt, row.kind)?;
        let specials =
            if self.is_encoder_decoder() { Specials::Include } else { Specials::Exclude };
        let responses = self.codec.encode_batch(&row.responses, specials)?;
        Ok(Joined { prompt, responses, merged: false, kind: row.kind })
    }

    /// Puts the end of sequence behind a response that does not end in it, as TRL does: not behind
    /// one of a chat template, which has written how a turn ends. A decoder learns to end anyway.
    pub fn end(&self, response: &mut Vec<u32>, kind: TextKind) {
        if kind == TextKind::Rendered && !self.is_encoder_decoder() {
            return;
        }
        if let Some(eos) = self.eos()
            && response.last() != Some(&eos)
        {
            response.push(eos);
        }
    }

    /// The first limit that a row exceeds: the length found and the length allowed.
    pub fn excess(&self, row: &Joined, limits: &Limits) -> Option<(usize, usize)> {
        let longest = longest(row);
        [
            (row.prompt.len(), limits.prompt),
            (longest, limits.response),
            (row.prompt.len() + longest, self.together(limits)),
        ]
        .into_iter()
        .find_map(|(length, limit)| limit.filter(|&limit| length > limit).map(|l| (length, l)))
    }

    /// Shortens a row until it fits, and returns whether it had to. All responses keep one and the
    /// same prompt.
    pub fn fit(&self, row: &mut Joined, limits: &Limits) -> bool {
        if self.excess(row, limits).is_none() {
            return false;
        }
        match limits.shorten {
            Shorten::PromptStart => self.shorten_prompt(row, limits),
            Shorten::ResponseEnd => {
                if let Some(limit) = limits.prompt.filter(|&limit| row.prompt.len() > limit) {
                    let last = row.prompt.pop();
                    row.prompt.truncate(limit.saturating_sub(1));
                    row.prompt.extend(last);
                }
                let room = self.together(limits).map(|all| all.saturating_sub(row.prompt.len()));
                if let Some(room) = [room, limits.response].into_iter().flatten().min() {
                    row.responses.iter_mut().for_each(|response| response.truncate(room));
                }
            }
        }
        true
    }

    fn shorten_prompt(&self, row: &mut Joined, limits: &Limits) {
        let bos = usize::from(self.spec.bos_id.is_some_and(|id| row.prompt.first() == Some(&id)));
        let shorten = |prompt: &mut Vec<u32>, length: usize| {
            let length = length.max(1 + bos);
            if prompt.len() > length {
                prompt.drain(bos..prompt.len() - (length - bos));
            }
        };
        if let Some(limit) = limits.prompt {
            shorten(&mut row.prompt, limit);
        }
        if let Some(limit) = limits.response {
            row.responses.iter_mut().for_each(|response| response.truncate(limit.max(1)));
        }
        if let Some(limit) = self.together(limits) {
            let longest = longest(row);
            shorten(&mut row.prompt, limit.saturating_sub(longest));
            let room = limit.saturating_sub(row.prompt.len()).max(1);
            row.responses.iter_mut().for_each(|response| response.truncate(room));
        }
    }

    /// Most tokens of prompt and response together.
    fn together(&self, limits: &Limits) -> Option<usize> {
        if self.is_encoder_decoder() {
            return None;
        }
        [limits.together, self.spec.context].into_iter().flatten().min()
    }

    fn ends(&self, ids: &[u32]) -> bool {
        ids.last().is_some_and(|&id| self.is_eos(id))
    }
}

/// Tokens that two sequences begin with.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn longest(row: &Joined) -> usize {
    row.responses.iter().map(Vec::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rlaif_testing::Bytes;
    use tch::{Device, Kind};

    use super::*;

    use TextKind::{Plain, Rendered};

    const BOS: u32 = Bytes::BOS;
    const EOS: u32 = Bytes::EOS;

    fn spec(encoder_decoder: bool, eos_ids: Vec<u32>) -> LmSpec {
        LmSpec {
            model_type: "llama".into(),
            hidden_size: 8,
            vocab_size: 500,
            context: None,
            pad_id: 0,
            eos_ids,
            bos_id: Some(BOS),
            decoder_start_id: encoder_decoder.then_some(0),
            forced: crate::ForcedIds::default(),
            kind: Kind::Float,
            device: Device::Cpu,
        }
    }

    #[test]
    fn an_end_that_the_tokenizer_added_is_no_part_of_a_prompt_and_one_of_the_text_is() {
        let open = |codec: Bytes, spec: &LmSpec, text| {
            Joiner::new(&codec, spec).open(&[(text, Plain)]).unwrap().remove(0)
        };
        let causal = spec(false, vec![EOS]);
        let a = 100 + u32::from(b'a');
        for bos in [false, true] {
            let before: &[u32] = if bos { &[BOS] } else { &[] };
            for eos in [false, true] {
                let codec = Bytes { bos, eos };
                assert_eq!(open(codec, &causal, "a"), [before, &[a]].concat(), "{codec:?}");
                assert_eq!(open(codec, &causal, "a$"), [before, &[a, EOS]].concat(), "{codec:?}");
                assert_eq!(open(codec, &causal, ""), before, "{codec:?}");
            }
        }
        // An encoder's input keeps it.
        let ending = Bytes { bos: false, eos: true };
        assert_eq!(open(ending, &spec(true, vec![EOS]), "a"), [a, EOS]);
        // An end of sequence that only the tokenizer knows.
        let unnamed = spec(false, vec![]);
        assert_eq!(open(ending, &unnamed, "a"), [a]);
        // Texts that hold their special tokens are taken as they are, among others.
        let joiner = Joiner::new(&ending, &causal);
        let opened = joiner.open(&[("a", Plain), ("a$", Rendered), ("a", Rendered)]).unwrap();
        assert_eq!(opened, [vec![a], vec![a, EOS], vec![a]]);
    }

    #[test]
    fn a_response_ends_in_the_tokenizers_end_and_one_of_a_template_as_the_template_says() {
        let codec = Bytes { bos: true, eos: false };
        // The layout of Llama-3.1-Instruct: the tokenizer's end is not the first of the model's.
        let spec = spec(false, vec![400, EOS]);
        let joiner = Joiner::new(&codec, &spec);
        let y = 100 + u32::from(b'y');
        let join = |prompt, response, kind| {
            let texts = [Texts { prompt, responses: vec![response], kind }];
            let Joined { prompt, mut responses, .. } = joiner.join(&texts).unwrap().remove(0);
            joiner.end(&mut responses[0], kind);
            (prompt, responses.remove(0))
        };
        let a = 100 + u32::from(b'a');
        assert_eq!(join("a", "y", Plain), (vec![BOS, a], vec![y, EOS]));
        assert_eq!(join("a", "y$", Plain), (vec![BOS, a], vec![y, EOS]));
        assert_eq!(join("a$", "y$", Plain), (vec![BOS, a, EOS], vec![y, EOS]));
        assert_eq!(join("a$", "y$", Rendered), (vec![a, EOS], vec![y, EOS]));
        assert_eq!(join("a$", "y", Rendered), (vec![a, EOS], vec![y]));
    }

    #[test]
    fn a_response_begins_with_the_token_that_merges_across_the_boundary() {
        let spec = spec(false, vec![EOS]);
        let joiner = Joiner::new(&Bytes { bos: true, eos: true }, &spec);
        let [c, a, t] = [b'c', b'a', b't'].map(|byte| 100 + u32::from(byte));
        for (kind, before) in [(Plain, &[BOS][..]), (Rendered, &[])] {
            let texts = |responses| Texts { prompt: "cat", responses, kind };
            let rows = joiner.join(&[texts(vec!["hat", "dog"]), texts(vec!["dog"])]).unwrap();
            assert_eq!((rows[0].merged, rows[1].merged), (true, false));
            assert_eq!(rows[0].prompt, [before, &[c, a]].concat());
            assert_eq!(rows[0].responses[0], [400, a, t]);
            assert_eq!(rows[0].responses[1], [&[t], &rows[1].responses[0][..]].concat());
            assert_eq!(rows[1].prompt, [before, &[c, a, t]].concat());
            let apart = joiner.apart(&texts(vec!["hat"])).unwrap();
            let h = 100 + u32::from(b'h');
            assert_eq!((apart.prompt, apart.merged), (rows[1].prompt.clone(), false));
            assert_eq!(apart.responses, [[h, a, t]]);
        }
    }

    #[test]
    fn an_encoders_input_keeps_its_end() {
        let spec = spec(true, vec![EOS]);
        let joiner = Joiner::new(&Bytes { bos: false, eos: true }, &spec);
        let limits = Limits {
            prompt: Some(3),
            response: Some(2),
            together: Some(1),
            shorten: Shorten::ResponseEnd,
        };
        let texts = Texts { prompt: "abcd", responses: vec!["efg"], kind: Plain };
        let mut row = joiner.join(&[texts]).unwrap().remove(0);
        assert_eq!(joiner.excess(&row, &limits), Some((5, 3)));
        assert!(joiner.fit(&mut row, &limits));
        assert_eq!(row.prompt, [197, 198, EOS]);
        assert_eq!(row.responses, [[201, 202]]);
        assert!(!joiner.fit(&mut row, &limits));
    }

    proptest! {
        #[test]
        fn a_row_is_its_text_and_fits(
            (prompt, response) in ("[a-z]{1,12}", "[a-z]{1,12}"),
            (bos, eos) in any::<(bool, bool)>(),
            limit in 4usize..40,
            keep_prompt in any::<bool>(),
        ) {
            let codec = Bytes { bos, eos };
            let spec = spec(false, vec![EOS]);
            let joiner = Joiner::new(&codec, &spec);
            let texts = [Texts { prompt: &prompt, responses: vec![&response], kind: Plain }];
            let mut row = joiner.join(&texts).unwrap().remove(0);
            joiner.end(&mut row.responses[0], Plain);
            // Ends once, and the prompt does not end.
            prop_assert_eq!(row.responses[0].iter().filter(|&&id| id == EOS).count(), 1);
            prop_assert!(!row.prompt.contains(&EOS));
            {
                let mut whole = codec.encode(&format!("{prompt}{response}"), Specials::Include).unwrap();
                joiner.end(&mut whole, Plain);
                prop_assert_eq!([row.prompt.clone(), row.responses[0].clone()].concat(), whole);
            }
            let shorten = if keep_prompt { Shorten::ResponseEnd } else { Shorten::PromptStart };
            let limits = Limits { together: Some(limit), shorten, ..Limits::default() };
            let before = row.clone();
            let cut = joiner.fit(&mut row, &limits);
            prop_assert_eq!(cut, row != before);
            if keep_prompt {
                prop_assert_eq!(&row.prompt, &before.prompt);
                prop_assert!(row.responses[0].len() <= limit.saturating_sub(row.prompt.len()));
            } else {
                prop_assert!(row.prompt.len() + row.responses[0].len() <= limit);
                prop_assert!(!row.responses[0].is_empty());
                prop_assert_eq!(row.prompt.first() == Some(&BOS), bos);
            }
            prop_assert!(before.responses[0].starts_with(&row.responses[0]));
        }
    }
}
