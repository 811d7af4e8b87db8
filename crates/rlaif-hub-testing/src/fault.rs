//! Faults on demand.

/// A fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Sends this answer instead of the right one. In the body and the headers, `{authorization}`
    /// becomes the request's own header.
    Answer {
        /// HTTP status.
        status: u16,
        /// Additional headers.
        headers: Vec<(String, String)>,
        /// Body.
        body: String,
    },
    /// Cuts the connection after this number of bytes of the body.
    CutAfter(u64),
    /// Changes the last byte of the body.
    Corrupt,
    /// Ignores `Range` and sends everything.
    IgnoreRange,
}

/// A fault of the next requests whose path matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFault {
    /// Substring of the decoded path of the affected requests, on either address.
    pub path: String,
    /// The fault.
    pub action: Action,
    /// Number of affected requests.
    pub times: usize,
}

impl ServerFault {
    /// Answers the next request for `path` with `status`.
    pub fn status(path: &str, status: u16) -> Self {
        let action = Action::Answer { status, headers: Vec::new(), body: String::new() };
        Self { path: path.to_owned(), action, times: 1 }
    }

    /// Adds a header to the answer (for [`Action::Answer`]).
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Action::Answer { headers, .. } = &mut self.action {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Sets the number of affected requests.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }
}
