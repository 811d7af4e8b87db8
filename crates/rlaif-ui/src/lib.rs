//! The local web page of rlaif.
//!
//! A [`Page`] serves a study of people's answers ([`rlaif_people::Study`]), the curves of runs, and models on one address. Models
//! also answer in OpenAI's form. The page's files are inside the program, and it talks to no other host. Each request needs a token: the owner's is new at each start,
//! annotators have theirs in the study. Requests that name another host or come from another site are refused.

mod assets;
mod bodies;
mod error;
mod fields;
mod given;
mod guard;
mod labelling;
mod late;
mod locks;
mod openai;
mod rewards;
mod runs;
mod server;
mod shown;
mod stop;
mod talk;

use std::{path::PathBuf, sync::Arc};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::from_fn_with_state,
    routing::{get, post, put},
};
use rlaif_core::Responder;
use rlaif_people::{Study, random_token};

pub use error::UiError;
pub use rewards::Rewards;
pub use server::UiServer;

use guard::{Guard, Hosts, guard};
use labelling::App;
use locks::Stopped;

/// Largest body of a request, in bytes: a note and an edited response.
const BODY: usize = 1024 * 1024;

/// The contents of the page.
#[derive(Debug, Default)]
pub struct Page {
    /// The study that annotators answer.
    pub study: Option<Study>,
    /// The folder with runs to watch: folders with a metrics.jsonl, up to two levels below it.
    pub runs: Option<PathBuf>,
    /// The models that answer, with different names.
    pub models: Vec<Arc<dyn Responder>>,
    /// The rewards that score responses on the page.
    pub rewards: Rewards,
}

/// A page on its address, not yet served.
#[derive(Debug)]
pub struct ServedPage {
    server: UiServer,
    app: Arc<App>,
}

impl Page {
    /// Puts the page on a server.
    ///
    /// # Errors
    /// [`UiError::People`] without random bytes for the owner's token.
    ///
    /// ```no_run
    /// use rlaif_people::Study;
    /// use rlaif_ui::{Page, UiServer};
    /// let study = Study::open("people.sqlite".as_ref())?;
    /// let page = Page { study: Some(study), ..Page::default() }.on(UiServer::bind(([127, 0, 0, 1], 0).into())?)?;
    /// println!("{}", page.link(page.token()));
    /// page.serve(&|| false);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on(self, server: UiServer) -> Result<ServedPage, UiError> {
        let Self { study, runs, models, rewards } = self;
        let (token, stopped) = (random_token()?, Stopped::default());
        let app = App { study, runs, models, rewards, token, stopped };
        Ok(ServedPage { server, app: Arc::new(app) })
    }
}

impl ServedPage {
    /// The owner's token.
    pub fn token(&self) -> &str {
        &self.app.token
    }

    /// The address to open with a token. The token is in the fragment, which browsers send to nobody.
    pub fn link(&self, token: &str) -> String {
        format!("http://{}/#{token}", self.server.address())
    }

    /// The address of the models for clients of OpenAI's interface. Their key is the owner's token.
    pub fn api(&self) -> String {
        format!("http://{}/v1", self.server.address())
    }

    /// The study.
    pub fn study(&self) -> Option<&Study> {
        self.app.study.as_ref()
    }

    /// Serves until `stop` returns true, or Ctrl-C is pressed.
    pub fn serve(self, stop: &dyn Fn() -> bool) {
        let address = self.server.address();
        let state = Guard { hosts: Hosts::of(address), address };
        let router = Router::new()
            .merge(assets::routes())
            .route("/api/me", get(labelling::me))
            .route("/api/next", get(labelling::next))
            .route("/api/answer", post(labelling::answer))
            .route("/api/undo", post(labelling::undo))
            .route("/api/draft/{item}", put(labelling::draft))
            .route("/api/study", get(labelling::overview))
            .route("/api/annotators", post(labelling::add_annotator))
            .route("/api/export/{form}", get(labelling::export))
            .route("/api/score", post(talk::score))
            .route("/api/runs", get(runs::list))
            .route("/api/run/{*name}", get(runs::run))
            .route("/api/stop/{*name}", post(stop::stop))
            .route("/api/curves", post(runs::curves))
            .layer(DefaultBodyLimit::max(BODY))
            .layer(from_fn_with_state(self.app.clone(), bodies::admit))
            .merge(openai::routes(self.app.clone()))
            .layer(from_fn_with_state(state, guard))
            .with_state(self.app);
        self.server.serve(router, stop);
    }
}
