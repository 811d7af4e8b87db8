//! `rlaif ui`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use clap::Args;
use rlaif_core::{Interrupted, say};
use rlaif_people::{AnnotatorRole, Study};
use rlaif_run::RunError;
use rlaif_train::Interrupt;
use rlaif_ui::{Page, UiServer};

use super::{error::CliError, print::print};

#[derive(Debug, Args)]
pub(crate) struct Ui {
    /// The study that people answer; `rlaif annotate add STUDY FILE` makes one.
    study: Option<PathBuf>,
    /// A folder with runs to watch, up to two levels below it.
    #[arg(long, required_unless_present = "study")]
    runs: Option<PathBuf>,
    /// The address to listen on. Others than loopback addresses let other machines in.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// The port; 0 for a free one.
    #[arg(long, default_value_t = 8642)]
    port: u16,
    /// Names of new annotators, separated by commas.
    #[arg(long, value_delimiter = ',')]
    annotators: Vec<String>,
}

impl Ui {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let study = self.study.as_deref().map(Study::open).transpose()?;
        if let Some(folder) = self.runs.as_deref().filter(|folder| !folder.is_dir()) {
            return Err(CliError::flag("runs", folder.display(), "a folder"));
        }
        let mut people = Vec::new();
        match &study {
            Some(study) => {
                for name in &self.annotators {
                    study.add_annotator(name, AnnotatorRole::Annotator)?;
                }
                people = study.annotators()?;
            }
            None if !self.annotators.is_empty() => {
                let found = self.annotators.join(",");
                return Err(CliError::flag("annotators", found, "no value without a study"));
            }
            None => {}
        }
        let page = Page { study, runs: self.runs.clone() };
        let page = page.on(UiServer::bind(SocketAddr::new(self.host, self.port))?)?;
        if !self.host.is_loopback() {
            say("other machines can open the page, and its connections are not encrypted");
        }
        Interrupt::install().map_err(RunError::from)?;
        print(format_args!("owner {}", page.link(page.token())))?;
        for who in people {
            if let Some(token) = &who.token {
                print(format_args!("{} {}", who.name, page.link(token)))?;
            }
        }
        page.serve(&|| Interrupted::check().is_err());
        Ok(())
    }
}
