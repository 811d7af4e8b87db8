//! Things that go wrong on demand.

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// This answer instead of the right one. In the body and the headers, `{authorization}`
    /// becomes the request's own header.
    Answer {
        /// HTTP status.
        status: u16,
        /// Additional headers.
        headers: Vec<(String, String)>,
        /// Body.
        body: String,
    },
    /// The connection is cut after so many bytes of the body.
    CutAfter(u64),
    /// The last byte of the body is another one.
    Corrupt,
    /// `Range` is ignored and everything is sent.
    IgnoreRange,
}

/// Something that goes wrong for the next requests whose path matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Requests whose decoded path holds this, on either address.
    pub path: String,
    /// What happens.
    pub action: Action,
    /// To how many requests.
    pub times: usize,
}

impl Fault {
    /// The next request for `path` is answered with `status`.
    pub fn status(path: &str, status: u16) -> Self {
        let action = Action::Answer { status, headers: Vec::new(), body: String::new() };
        Self { path: path.to_owned(), action, times: 1 }
    }

    /// The same with one more header (for [`Action::Answer`]).
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Action::Answer { headers, .. } = &mut self.action {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// The same for so many requests.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }
}
