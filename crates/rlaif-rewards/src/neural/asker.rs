//! A policy of this library that is asked questions: what judges and labellers share.

use rlaif_core::{
    ChatOptions, CodecError, GenerationPrompt, Message, Specials, TextCodec, TextKind,
};
use rlaif_lm::generate::{Ask, GenerationConfig};
use rlaif_lm::{
    Draw, Joiner, LmError, LmSpec, LocalSampler, Policy, Sampled, Sampler, SamplerCall, Weights,
};
#[cfg(feature = "judge")]
use rlaif_lm::{Forward, Padding, TokenBatch, policy_log_probs};
#[cfg(feature = "judge")]
use tch::{Kind, Tensor, no_grad};

use crate::rubric::Question;

/// A policy with its tokenizer.
pub(crate) struct PolicyAsker {
    policy: Box<dyn Policy>,
    codec: Box<dyn TextCodec>,
    controls: Vec<String>,
    chat: ChatOptions,
}

/// The token sequences that write each of several labels.
#[cfg(feature = "judge")]
pub(crate) struct Labels {
    /// Single tokens, by label.
    single: Vec<Vec<u32>>,
    /// Sequences of several tokens, by label, none of which begins with a single one of them.
    longer: Vec<Vec<Vec<u32>>>,
}

impl PolicyAsker {
    pub(crate) fn new(policy: impl Policy + 'static, codec: impl TextCodec + 'static) -> Self {
        let controls = special_tokens(&codec, policy.spec().vocab_size);
        let chat = ChatOptions::default();
        Self { policy: Box::new(policy), codec: Box::new(codec), controls, chat }
    }

    /// Sets what the chat template gets besides the messages, `enable_thinking` for instance.
    ///
    /// # Errors
    /// [`CodecError`] for options without a chat template, or that the template cannot take: at
    /// once, not at the first batch.
    pub(crate) fn with_chat(mut self, chat: ChatOptions) -> Result<Self, CodecError> {
        self.chat = chat;
        if !self.chat.is_empty() {
            self.rendered(&Question { system: "a".to_owned(), user: "b".to_owned() })?;
        }
        Ok(self)
    }

    pub(crate) fn policy(&self) -> &dyn Policy {
        &*self.policy
    }

    pub(crate) fn spec(&self) -> &LmSpec {
        self.policy.spec()
    }

    pub(crate) fn codec(&self) -> &dyn TextCodec {
        &*self.codec
    }

    /// Texts that the tokenizer reads as special tokens.
    pub(crate) fn controls(&self) -> &[String] {
        &self.controls
    }

    /// The question as token ids: a system's and a user's message where the tokenizer has a chat
    /// template, and one text elsewhere, which `ending` closes.
    pub(crate) fn encode(&self, question: &Question, ending: &str) -> Result<Vec<u32>, CodecError> {
        match self.rendered(question) {
            Ok(text) => self.codec.encode(&text, Specials::Exclude),
            Err(CodecError::NoChatTemplate { .. }) => Joiner::new(&*self.codec, self.policy.spec())
                .open_one(&format!("{}{ending}", question.text()), TextKind::Plain),
            Err(error) => Err(error),
        }
    }

    /// The text of a question by the chat template.
    fn rendered(&self, question: &Question) -> Result<String, CodecError> {
        let Question { system, user } = question;
        let render = |messages: &[Message]| {
            self.codec.render_chat_with(messages, GenerationPrompt::Add, &self.chat)
        };
        let apart = [Message::new("system", system), Message::new("user", user)];
        render(&apart[usize::from(system.is_empty())..]).or_else(|error| match error {
            // Some templates have no system role.
            CodecError::ChatTemplate { .. } => render(&[Message::new("user", question.text())]),
            error => Err(error),
        })
    }

    /// Tells if a question does not fit the policy beside an answer of up to `new` tokens.
    pub(crate) fn fits(&self, prompt: &[u32], new: usize) -> Result<(), String> {
        let spec = self.policy.spec();
        match spec.context {
            Some(context) if spec.positions(prompt.len(), new) > context => Err(format!(
                "the question has {} tokens and the answer up to {new}, which the judge's \
                 context of {context} cannot hold",
                prompt.len()
            )),
            _ => Ok(()),
        }
    }

    /// Responses to prompts of ids.
    pub(crate) fn write(
        &self,
        rows: &[Ask],
        how: &GenerationConfig,
        draw: Draw,
    ) -> Result<Vec<Sampled>, LmError> {
        let call = SamplerCall { weights: Weights::of(&*self.policy), how, draw };
        LocalSampler::new(&*self.codec).sample(rows, call)
    }

    /// The probability that a prompt continues with each label, in any of its tokenisations.
    #[cfg(feature = "judge")]
    pub(crate) fn label_masses(
        &self,
        prompts: &[Vec<u32>],
        labels: &Labels,
    ) -> Result<Vec<Vec<f64>>, LmError> {
        no_grad(|| {
            let spec = self.policy.spec();
            let x = TokenBatch::collate(prompts.to_vec(), spec, Padding::Right)?;
            let mut masses = vec![vec![0.; labels.single.len()]; prompts.len()];
            // What is next is known before any token of the response.
            let y = TokenBatch::responses(vec![vec![0]; prompts.len()], spec)?;
            let hidden = self.policy.response_hidden(&x, &y, Forward::default())?;
            let next = self.policy.head(Forward::default())?.log_softmax(&hidden, 1.);
            for (label, ids) in labels.single.iter().enumerate().filter(|(_, ids)| !ids.is_empty())
            {
                let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
                let ids = Tensor::from_slice(&ids).to_device(spec.device);
                let of_label = next.index_select(2, &ids).to_kind(Kind::Double).exp();
                let of_label = of_label.sum_dim_intlist([1i64, 2].as_slice(), false, Kind::Double);
                let of_label = Vec::<f64>::try_from(of_label)?;
                masses.iter_mut().zip(of_label).for_each(|(mass, p)| mass[label] += p);
            }
            for (label, sequences) in labels.longer.iter().enumerate() {
                for ids in sequences {
                    let y = TokenBatch::responses(vec![ids.clone(); prompts.len()], spec)?;
                    let found = policy_log_probs(&*self.policy, &x, &y, Forward::default(), 1.)?;
                    let sums = found.log_probs.to_kind(Kind::Double);
                    let sums = sums.sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
                    let sums = Vec::<f64>::try_from(sums)?;
                    masses.iter_mut().zip(sums).for_each(|(mass, l)| mass[label] += l.exp());
                }
            }
            Ok(masses)
        })
    }
}

#[cfg(feature = "judge")]
impl Labels {
    /// Every token of the vocabulary that writes a label, with any space around it, and what the
    /// tokenizer makes of the label where that is several tokens.
    pub(crate) fn of(asker: &PolicyAsker, labels: &[String]) -> Result<Self, CodecError> {
        let codec = asker.codec();
        let vocab_size = u32::try_from(asker.spec().vocab_size).unwrap_or(u32::MAX);
        let (single, longer) = (vec![Vec::new(); labels.len()], vec![Vec::new(); labels.len()]);
        let mut all = Self { single, longer };
        for id in 0..vocab_size {
            // Rows of the embedding beyond the tokenizer's last id write nothing.
            let Ok(text) = codec.decode(&[id], Specials::Exclude) else { continue };
            if let Some(label) = labels.iter().position(|label| label == text.trim()) {
                all.single[label].push(id);
            }
        }
        for (label, text) in labels.iter().enumerate() {
            for written in [text.clone(), format!(" {text}")] {
                let ids = codec.encode(&written, Specials::Exclude)?;
                let new = !all.longer[label].contains(&ids);
                let begun = ids.first().is_none_or(|first| all.single[label].contains(first));
                let same = codec.decode(&ids, Specials::Exclude)?.trim() == text;
                if ids.len() > 1 && new && !begun && same {
                    all.longer[label].push(ids);
                }
            }
        }
        Ok(all)
    }

    /// The length of the longest token sequence that writes a label.
    pub(crate) fn longest(&self) -> usize {
        self.longer.iter().flatten().map(Vec::len).max().unwrap_or(1)
    }

    /// The label that no token sequence writes.
    pub(crate) fn missing(&self) -> Option<usize> {
        let mut both = self.single.iter().zip(&self.longer);
        both.position(|(single, longer)| single.is_empty() && longer.is_empty())
    }
}

impl std::fmt::Debug for PolicyAsker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PolicyAsker")
            .field("policy", self.policy.spec())
            .field("codec", &self.codec.name())
            .finish_non_exhaustive()
    }
}

/// The tokenizer's spellings of its special tokens: the text that vanishes when they are excluded.
fn special_tokens(codec: &dyn TextCodec, vocab_size: i64) -> Vec<String> {
    let text = |id: u32, specials| codec.decode(&[id], specials).unwrap_or_default();
    (0..u32::try_from(vocab_size).unwrap_or(u32::MAX))
        .filter(|&id| text(id, Specials::Exclude).is_empty())
        .map(|id| text(id, Specials::Include).trim().to_owned())
        // A single character cannot be broken up.
        .filter(|token| token.chars().nth(1).is_some())
        .collect()
}
