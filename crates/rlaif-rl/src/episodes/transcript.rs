//! The text between two turns of a policy.

use rlaif_core::{
    ChatOptions, CodecError, GenerationPrompt, Message, PromptRecord, Specials, TextCodec, TextKind,
};

use crate::episodes::config::{EpisodeConfig, History};

/// Stands for a turn of the policy where only the messages behind it are wanted.
const TURN: &str = "RLAIF_A_TURN_OF_THE_POLICY";
/// A text that tokenizers do not merge with the next one.
const ANCHOR: &str = "\n";

/// The reason why there is no text for the next turn.
#[derive(Debug, thiserror::Error)]
pub(super) enum TranscriptError {
    #[error(
        "the chat template rewrites earlier turns: {what}; set `history = \"fork\"` to continue with what it \
         writes, or `\"sampled\"` to keep them as they were sampled"
    )]
    Rewritten { what: &'static str },
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// The way from a turn of the policy to its next.
#[derive(Debug)]
pub(super) enum Next {
    /// Tokens that follow the turn.
    Continued(Vec<u32>),
    /// The template has rewritten earlier turns.
    Forked {
        /// The tokens of the whole conversation, up to the place where the policy answers.
        context: Vec<u32>,
        /// The text of the new messages.
        new: String,
    },
}

/// An episode as the chat template writes it, or as plain text.
pub(super) struct Transcript<'a> {
    codec: &'a dyn TextCodec,
    config: &'a EpisodeConfig,
    /// `None` for a plain prompt.
    chat: Option<Chat>,
}

struct Chat {
    messages: Vec<Message>,
    options: ChatOptions,
    /// The text up to the place where the policy answers.
    rendered: String,
}

impl<'a> Transcript<'a> {
    pub(super) fn new(
        codec: &'a dyn TextCodec,
        config: &'a EpisodeConfig,
        options: &ChatOptions,
        record: &PromptRecord,
    ) -> Self {
        let chat = record.kind == TextKind::Rendered && !record.messages.is_empty();
        let chat = chat.then(|| Chat {
            messages: record.messages.clone(),
            options: options.and(&ChatOptions::of_metadata(&record.metadata)),
            rendered: record.prompt.clone(),
        });
        Self { codec, config, chat }
    }

    /// The prompt with the environment's first messages, as tokens.
    pub(super) fn open(
        &mut self,
        prompt: &[u32],
        first: &[Message],
    ) -> Result<Vec<u32>, TranscriptError> {
        match &mut self.chat {
            None => Ok([prompt, &*self.after(&self.plain(first))?].concat()),
            Some(chat) => {
                chat.messages.extend_from_slice(first);
                chat.rendered = chat.render(self.codec)?;
                Ok(self.codec.encode(&chat.rendered, Specials::Exclude)?)
            }
        }
    }

    /// The way from a turn of the policy to its next: the rest of the turn that the template writes (`ending` is
    /// the text of the token that ended it), the messages, and the beginning of the next turn.
    pub(super) fn between(
        &mut self,
        turn: &str,
        ending: Option<&str>,
        messages: &[Message],
    ) -> Result<Next, TranscriptError> {
        let text = match &mut self.chat {
            None => self.plain(messages),
            Some(chat) => {
                let text = match self.config.history {
                    History::Strict => chat.continued(self.codec, turn, messages)?,
                    History::Sampled => chat.only_new(self.codec, messages)?,
                    History::Fork => match chat.continued(self.codec, turn, messages) {
                        Err(TranscriptError::Rewritten { .. }) => {
                            let context = self.codec.encode(&chat.rendered, Specials::Exclude)?;
                            // For readers alone, so a template that refuses this conversation does no harm.
                            let new = chat.only_new(self.codec, messages);
                            let new = new.unwrap_or_else(|_| self.plain(messages));
                            return Ok(Next::Forked { context, new });
                        }
                        continued => continued?,
                    },
                };
                let rest = ending.and_then(|ending| text.trim_start().strip_prefix(ending));
                rest.map_or_else(|| text.clone(), str::to_owned)
            }
        };
        Ok(Next::Continued(self.after(&text)?))
    }

    fn plain(&self, messages: &[Message]) -> String {
        let EpisodeConfig { before, after, .. } = self.config;
        messages.iter().map(|message| [before, &*message.content, after].concat()).collect()
    }

    /// The tokens of a text in the middle of a sequence: some tokenizers put a space before a text at
    /// its beginning.
    fn after(&self, text: &str) -> Result<Vec<u32>, CodecError> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let ids = self.codec.encode(text, Specials::Exclude)?;
        let anchor = self.codec.encode(ANCHOR, Specials::Exclude);
        let whole = self.codec.encode(&[ANCHOR, text].concat(), Specials::Exclude);
        Ok(match (anchor, whole) {
            (Ok(anchor), Ok(mut whole)) if whole.starts_with(&anchor) => {
                whole.split_off(anchor.len())
            }
            // A codec without that character, or one that merges it.
            _ => ids,
        })
    }
}

impl Chat {
    fn render(&self, codec: &dyn TextCodec) -> Result<String, CodecError> {
        codec.render_chat_with(&self.messages, GenerationPrompt::Add, &self.options)
    }

    /// The text behind a turn, by rendering the conversation without and with the new messages. The conversation
    /// has the turn and the messages also where the template rewrites it.
    fn continued(
        &mut self,
        codec: &dyn TextCodec,
        turn: &str,
        messages: &[Message],
    ) -> Result<String, TranscriptError> {
        let rewritten = |what| TranscriptError::Rewritten { what };
        self.messages.push(Message::new("assistant", turn));
        let said = codec.render_chat_with(&self.messages, GenerationPrompt::Omit, &self.options)?;
        self.messages.extend_from_slice(messages);
        let whole = self.render(codec)?;
        let before = std::mem::replace(&mut self.rendered, whole);
        let behind = said.strip_prefix(&*before);
        let behind = behind.ok_or_else(|| rewritten("another text before the new turn"))?;
        // Templates trim turns. White space that the policy sampled stays in its tokens.
        let rest = behind.trim_start().strip_prefix(turn.trim());
        let rest = rest.ok_or_else(|| rewritten("another text of the new turn"))?;
        let new = self.rendered.strip_prefix(&*said);
        let new = new.ok_or_else(|| rewritten("another text before the new messages"))?;
        Ok([rest, new].concat())
    }

    /// The text behind any turn with these messages after it.
    fn only_new(
        &self,
        codec: &dyn TextCodec,
        messages: &[Message],
    ) -> Result<String, TranscriptError> {
        let both = [Message::new("user", TURN), Message::new("assistant", TURN)];
        let with = [&both, messages].concat();
        let whole = codec.render_chat_with(&with, GenerationPrompt::Add, &self.options)?;
        let rest = whole.rsplit_once(TURN).map(|(_, rest)| rest.to_owned());
        rest.ok_or(TranscriptError::Rewritten { what: "not even the text of a turn" })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rlaif_text::HfTokenizer;
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        name: String,
        tokenizer: String,
        template: String,
        tools: Option<Vec<serde_json::Value>>,
        kwargs: rlaif_core::Metadata,
        eos: String,
        messages: Vec<Message>,
        prompt: String,
        turns: Vec<GoldenTurn>,
    }

    #[derive(Deserialize)]
    struct GoldenTurn {
        said: String,
        behind: Vec<Message>,
        text: Option<String>,
        ids: Option<Vec<u32>>,
        suffix: Option<Vec<u32>>,
    }

    /// A tokenizer of rlaif-text's tests, with the template of the case.
    fn tokenizer(golden: &Golden) -> HfTokenizer {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rlaif-text/tests/fixtures");
        let own = own.join(&golden.tokenizer);
        let folder = tempfile::tempdir().unwrap();
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(own.join(name), folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("chat_template.jinja"), &golden.template).unwrap();
        HfTokenizer::from_folder(folder.path()).unwrap()
    }

    /// The tokens behind a turn, and those of the prompt and all turns so far.
    type Between = (Vec<u32>, Vec<u32>);

    /// The tokens behind each turn, or the reason why there are none.
    fn play(golden: &Golden, history: History) -> Result<Vec<Between>, TranscriptError> {
        let codec = tokenizer(golden);
        let kwargs = golden.kwargs.clone();
        let options = ChatOptions { kwargs, tools: golden.tools.clone(), ..Default::default() };
        let config = EpisodeConfig { history, ..EpisodeConfig::default() };
        let record = PromptRecord {
            messages: golden.messages.clone(),
            kind: TextKind::Rendered,
            ..PromptRecord::new("a", &golden.prompt)
        };
        let encode = |text: &str| codec.encode(text, Specials::Exclude).unwrap();
        let eos = encode(&golden.eos);
        let mut transcript = Transcript::new(&codec, &config, &options, &record);
        let mut context = encode(&golden.prompt);
        let mut all = Vec::new();
        for turn in golden.turns.iter().filter(|turn| turn.text.is_some()) {
            context.extend([encode(&turn.said), eos.clone()].concat());
            match transcript.between(&turn.said, Some(&golden.eos), &turn.behind)? {
                Next::Continued(between) => {
                    context.extend(&between);
                    all.push((between, context.clone()));
                }
                Next::Forked { context: anew, new } => {
                    assert!(history == History::Fork);
                    context.clone_from(&anew);
                    all.push((encode(&new), anew));
                }
            }
        }
        Ok(all)
    }

    fn goldens() -> Vec<Golden> {
        serde_json::from_str(include_str!("../../tests/fixtures/episodes.json")).unwrap()
    }

    #[test]
    fn episodes_are_the_tokens_of_the_rendered_conversation() {
        let mut compared = 0;
        for golden in goldens() {
            let rewrites = golden.name == "qwen3 thinks and is asked again";
            let played = match play(&golden, History::Strict) {
                Err(error) => {
                    assert!(rewrites && error.to_string().contains("rewrites"), "{error}");
                    continue;
                }
                Ok(played) => played,
            };
            assert!(!rewrites);
            assert_eq!(played, play(&golden, History::Fork).unwrap(), "{}", golden.name);
            let sampled = play(&golden, History::Sampled).unwrap();
            for ((turn, (between, context)), kept) in golden.turns.iter().zip(&played).zip(&sampled)
            {
                assert_eq!(Some(context), turn.ids.as_ref(), "{}", golden.name);
                assert_eq!(between, &kept.0, "{}", golden.name);
                if let Some(suffix) = &turn.suffix {
                    assert_eq!(between, suffix, "{}", golden.name);
                }
                compared += 1;
            }
        }
        assert_eq!(compared, 7);
    }

    #[test]
    fn an_episode_continues_with_what_a_template_rewrites() {
        let golden = goldens().into_iter().find(|g| g.name == "qwen3 thinks and is asked again");
        let golden = golden.unwrap();
        let [(new, context)] = &*play(&golden, History::Fork).unwrap() else { panic!() };
        // transformers' tokens of the conversation without the reasoning.
        assert_eq!(Some(context), golden.turns[0].ids.as_ref());
        let new = tokenizer(&golden).decode(new, Specials::Exclude).unwrap();
        assert!(new.contains("higher") && !new.contains("Four?"), "{new}");
    }

    #[test]
    fn turns_that_a_template_rewrites_can_stay_as_they_were_sampled() {
        let golden = goldens().into_iter().find(|g| g.name == "qwen3 thinks and is asked again");
        let golden = golden.unwrap();
        let [(_, context)] = &*play(&golden, History::Sampled).unwrap() else { panic!() };
        let text = tokenizer(&golden).decode(context, Specials::Include).unwrap();
        let turn = &golden.turns[0];
        let new = "<|im_end|>\n<|im_start|>user\nhigher<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(text, [&*golden.prompt, &turn.said, new].concat());
        // The template leaves out the reasoning.
        assert!(!turn.text.as_ref().unwrap().contains("The middle."));
    }
}
