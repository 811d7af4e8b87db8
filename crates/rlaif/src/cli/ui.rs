//! `rlaif ui`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{ArgGroup, Args};
use rlaif_core::{Interrupted, Responder, say};
use rlaif_people::{AnnotatorRole, Study};
use rlaif_run::{JudgeFile, RunError, Work, command::ResponderModel};
use rlaif_train::Interrupt;
use rlaif_ui::{Page, Rewards, UiServer};

use super::{error::CliError, model::Placement, print::print};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("content").args(["study", "runs", "model"]).required(true).multiple(true))]
pub(crate) struct Ui {
    /// The study that people answer; `rlaif annotate add STUDY FILE` makes one.
    study: Option<PathBuf>,
    /// A folder with runs to watch, up to two levels below it.
    #[arg(long)]
    runs: Option<PathBuf>,
    /// A model that answers in OpenAI's form, below /v1: folder, hub id, or LoRA adapter, or NAME=MODEL for another name than
    /// that; may be given several times.
    #[arg(long, value_name = "MODEL")]
    model: Vec<String>,
    /// Responses of a model that are decoded together.
    #[arg(long, default_value_t = 64, requires = "model")]
    batch_size: usize,
    /// Maximum number of tokens of a prompt and its response; by default the model's context, at most 4096.
    #[arg(long, requires = "model")]
    context: Option<usize>,
    /// The file of a reward that scores responses on the page, in the form of `rlaif judge`; may be given several times.
    #[arg(long, value_name = "FILE", requires = "model")]
    reward: Vec<PathBuf>,
    #[command(flatten)]
    placement: Placement,
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
    /// Loads the models.
    fn models(&self) -> Result<Vec<Arc<dyn Responder>>, CliError> {
        let mut models: Vec<Arc<dyn Responder>> = Vec::new();
        for given in &self.model {
            let (name, model) = named(given);
            if models.iter().any(|known| known.name() == name) {
                return Err(CliError::flag(
                    "model",
                    given,
                    "models of different names: `--model NAME=MODEL`",
                ));
            }
            let responder = ResponderModel {
                name: name.to_owned(),
                model: self.placement.model(model),
                batch_size: self.batch_size,
                context: self.context,
            };
            models.push(Arc::new(responder.start()?));
        }
        Ok(models)
    }

    /// Builds the rewards.
    fn rewards(&self) -> Result<Rewards, CliError> {
        let reward = |path: &PathBuf| {
            let file = JudgeFile::read(path, &[])?;
            let folder = path.parent().unwrap_or(Path::new(""));
            Ok(file.build(folder)?)
        };
        let rewards = self.reward.iter().map(reward);
        Ok(Rewards::new(rewards.collect::<Result<_, CliError>>()?))
    }

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
        let (models, rewards) = (self.models()?, self.rewards()?);
        let page = Page { study, runs: self.runs.clone(), models, rewards };
        let page = page.on(UiServer::bind(SocketAddr::new(self.host, self.port))?)?;
        if !self.host.is_loopback() {
            say("other machines can open the page, and its connections are not encrypted");
        }
        Interrupt::install().map_err(RunError::from)?;
        print(format_args!("owner {}", page.link(page.token())))?;
        if !self.model.is_empty() {
            print(format_args!("api {} {}", page.api(), page.token()))?;
        }
        for who in people {
            if let Some(token) = &who.token {
                print(format_args!("{} {}", who.name, page.link(token)))?;
            }
        }
        page.serve(&|| Interrupted::check().is_err());
        Ok(())
    }
}

/// Name and model of `--model`.
fn named(given: &str) -> (&str, &str) {
    match given.split_once('=') {
        Some((name, model)) if !name.is_empty() && !Path::new(given).exists() => (name, model),
        _ => (given, given),
    }
}
