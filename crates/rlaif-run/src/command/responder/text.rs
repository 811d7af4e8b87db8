//! The text of a response while it grows.

use rlaif_core::{CodecError, ResponseEndReason, ShownToken, Specials, TextCodec};
use rlaif_lm::generate::{FinishReason, before_stop};

use super::super::generate::ready;

/// Ids before a token that its text may depend on, such as whether it begins with a space.
const BEFORE: usize = 4;

/// The text of a response while it grows.
#[derive(Debug)]
pub(super) struct GrowingText {
    ids: Vec<u32>,
    stops: Vec<String>,
    /// The text of the ids before `read`.
    text: String,
    /// Ids from here on are decoded with each new one; a whole response would take quadratic time.
    window: usize,
    read: usize,
    /// Bytes of `text` that have been reported.
    reported: usize,
}

impl GrowingText {
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self { ids: Vec::new(), stops, text: String::new(), window: 0, read: 0, reported: 0 }
    }

    /// Adds an id, and returns the text that is certain now and was not before. With `finish` it is the rest.
    pub(super) fn push(
        &mut self,
        codec: Option<&dyn TextCodec>,
        id: u32,
        finish: Option<FinishReason>,
    ) -> Result<String, CodecError> {
        self.ids.push(id);
        let Some(codec) = codec else { return Ok(String::new()) };
        let known = codec.decode(&self.ids[self.window..self.read], Specials::Exclude)?;
        let now = codec.decode(&self.ids[self.window..], Specials::Exclude)?;
        // The last character may have further tokens.
        let whole = finish.is_some() || !now.ends_with(char::REPLACEMENT_CHARACTER);
        if let Some(new) = now.strip_prefix(known.as_str()).filter(|_| whole) {
            self.text.push_str(new);
            self.window = self.read;
            self.read = self.ids.len();
        }
        let certain = ready(&self.text, &self.stops, finish);
        let new = certain.get(self.reported..).unwrap_or_default().to_owned();
        self.reported += new.len();
        Ok(new)
    }

    /// The whole text, as `rlaif generate` decodes it.
    pub(super) fn whole(&self, codec: Option<&dyn TextCodec>) -> Result<String, CodecError> {
        let Some(codec) = codec else { return Ok(String::new()) };
        let text = codec.decode(&self.ids, Specials::Exclude)?;
        Ok(before_stop(&text, &self.stops).to_owned())
    }

    /// The reason for the end.
    pub(super) fn reason(
        &self,
        codec: Option<&dyn TextCodec>,
        finish: FinishReason,
        stop_ids: &[u32],
    ) -> Result<ResponseEndReason, CodecError> {
        let last = self.ids.last().filter(|id| stop_ids.contains(id));
        Ok(match (finish, last) {
            (FinishReason::Eos, _) => ResponseEndReason::Eos,
            (FinishReason::Length, _) => ResponseEndReason::Length,
            (FinishReason::Stop, Some(&id)) => ResponseEndReason::StopId(id),
            (FinishReason::Stop, None) => {
                let text = match codec {
                    Some(codec) => codec.decode(&self.ids, Specials::Exclude)?,
                    None => String::new(),
                };
                let found =
                    self.stops.iter().filter_map(|stop| Some((text.find(stop.as_str())?, stop)));
                let first = found.min_by_key(|(at, _)| *at);
                ResponseEndReason::StopString(
                    first.map(|(_, stop)| stop.clone()).unwrap_or_default(),
                )
            }
        })
    }

    /// The text of the token `id` after `prompt` and the ids so far, and those of others in its place.
    pub(super) fn shown(
        &self,
        codec: &dyn TextCodec,
        prompt: &[u32],
        id: u32,
        alternatives: &[(u32, f32)],
    ) -> Result<ShownToken, CodecError> {
        let own = &self.ids[self.ids.len().saturating_sub(BEFORE)..];
        let before = &prompt[prompt.len().saturating_sub(BEFORE - own.len())..];
        let mut ids = [before, own].concat();
        let known = codec.decode(&ids, Specials::Include)?;
        let mut text = |id: u32| {
            ids.push(id);
            let both = codec.decode(&ids, Specials::Include)?;
            ids.pop();
            match both.strip_prefix(known.as_str()) {
                Some(text) if !text.is_empty() => Ok(text.to_owned()),
                _ => codec.decode(&[id], Specials::Include),
            }
        };
        let alternatives = alternatives.iter().map(|&(id, log_prob)| Ok((text(id)?, log_prob)));
        let alternatives = alternatives.collect::<Result<_, CodecError>>()?;
        Ok(ShownToken { text: text(id)?, alternatives })
    }
}
