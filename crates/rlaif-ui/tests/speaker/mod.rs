//! A model that says the same words to everybody.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rlaif_core::{
    Responder, ResponderError, ResponseEnd, ResponseEndReason, ResponseEvent, ResponseReport,
    ResponseRequest, ResponseToken, ShownToken,
};

/// Says the same words to everybody, a word in ten milliseconds.
#[derive(Debug)]
pub(crate) struct Speaker {
    pub(crate) name: &'static str,
    pub(crate) words: Vec<(&'static str, f32)>,
    pub(crate) asked: Arc<Mutex<Vec<ResponseRequest>>>,
}

impl Responder for Speaker {
    fn name(&self) -> &str {
        self.name
    }

    fn context(&self) -> usize {
        1000
    }

    fn has_chat_template(&self) -> bool {
        true
    }

    fn respond(
        &self,
        request: ResponseRequest,
        mut report: ResponseReport,
    ) -> Result<Vec<Vec<u32>>, ResponderError> {
        let count = request.max_new_tokens.unwrap_or(1000);
        let words = self.words.clone();
        self.asked.lock().unwrap().push(request);
        thread::spawn(move || {
            let mut whole = String::new();
            for (at, (word, probability)) in words.into_iter().cycle().take(count).enumerate() {
                whole.push_str(word);
                let shown = ShownToken {
                    text: word.to_owned(),
                    alternatives: vec![
                        (word.to_owned(), probability.ln()),
                        (" else".to_owned(), -3.),
                    ],
                };
                let reason = ResponseEndReason::Length;
                let end = (at + 1 == count).then(|| ResponseEnd { reason, text: whole.clone() });
                let token = ResponseToken {
                    response: 0,
                    id: 7,
                    log_prob: probability.ln(),
                    text: word.to_owned(),
                    shown: Some(shown),
                    end,
                };
                if report(ResponseEvent::Token(token)).is_break() {
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
        });
        Ok(vec![vec![1, 2, 3]])
    }
}
