//! Progress bars on standard error.

use std::io::{self, IsTerminal as _};

use indicatif::{ProgressBar, ProgressStyle};
use rlaif_run::command::StreamProgress;

/// A bar of this length if standard error is a terminal and the length is known, else a hidden bar.
pub(crate) fn bar(length: Option<u64>, template: &str) -> ProgressBar {
    match length {
        Some(length) if io::stderr().is_terminal() => ProgressBar::new(length).with_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        ),
        _ => ProgressBar::hidden(),
    }
}

/// The bars of a command on rows: one for the input, one for the responses to the rows read ahead.
#[derive(Default)]
pub(crate) struct StreamBars {
    input: Option<ProgressBar>,
    responses: Option<ProgressBar>,
}

impl StreamBars {
    pub(crate) fn show(&mut self, at: StreamProgress) {
        match at {
            StreamProgress::Input { done, size } => {
                let template = "{bar:40} {percent:>3} %  {elapsed} elapsed, {eta} left";
                let bar = self.input.get_or_insert_with(|| bar(size, template));
                bar.set_position(done);
                // Notices follow.
                if Some(done) == size {
                    bar.finish_and_clear();
                }
            }
            StreamProgress::Responses { done, of, tokens } => {
                let template = "{bar:40} {pos} of {len} responses  {msg}";
                let bar = self.responses.get_or_insert_with(|| bar(Some(of as u64), template));
                bar.set_position(done as u64);
                if tokens.is_multiple_of(64) && tokens > 0 {
                    let rate = tokens as f64 / bar.elapsed().as_secs_f64().max(1e-3);
                    bar.set_message(format!("{tokens} tokens, {rate:.0} per second"));
                }
                if done == of {
                    bar.finish_and_clear();
                    self.responses = None;
                }
            }
        }
    }
}

impl Drop for StreamBars {
    fn drop(&mut self) {
        for bar in [&self.input, &self.responses].into_iter().flatten() {
            bar.finish_and_clear();
        }
    }
}
