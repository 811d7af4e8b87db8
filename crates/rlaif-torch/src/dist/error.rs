//! Errors between processes.

use std::fmt;

use rlaif_core::Fault;

/// A rank and its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The rank.
    pub rank: usize,
    /// The host's name; empty if the rank never came.
    pub host: String,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.as_str() {
            "" => write!(f, "rank {}", self.rank),
            host => write!(f, "rank {} on {host}", self.rank),
        }
    }
}

/// Reasons why several processes cannot begin or continue a run.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DistError {
    /// A variable of the launcher with a value that makes no sense.
    #[error("the environment variable {variable} is {found}; expected {expected}")]
    Launch {
        /// The variable.
        variable: String,
        /// The variable's value, in quotation marks, or `not set`.
        found: String,
        /// The requirement, and the remedy.
        expected: String,
    },
    /// A libtorch without process groups.
    #[error(
        "this is one of {size} processes, but this libtorch was built without c10d and Gloo; use the libtorch \
         that `cargo xtask setup` installs, or start one process"
    )]
    NotBuilt {
        /// Number of processes.
        size: usize,
    },
    /// No process answers where all are to meet.
    #[error(
        "no rank answers at {host}:{port}, where all ranks are to meet (waited {seconds} s): {message}. Check \
         that rank 0 runs, that MASTER_ADDR and MASTER_PORT are the same for all ranks, and that no firewall is \
         between them"
    )]
    NoRendezvous {
        /// The address.
        host: String,
        /// The port.
        port: u16,
        /// The time that was waited.
        seconds: u64,
        /// libtorch's message.
        message: String,
    },
    /// The port of rank 0 belongs to another program.
    #[error(
        "port {port} is taken, so the ranks cannot meet there; set MASTER_PORT to a free one for all ranks"
    )]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// Some ranks never came.
    #[error(
        "{} of {size} ranks came within {seconds} s; missing: {}. Check that as many processes as WORLD_SIZE were \
         started, and look for errors of the missing ones",
        .size - .missing.len(), list(.missing)
    )]
    Missing {
        /// Number of ranks.
        size: usize,
        /// The missing ranks.
        missing: Vec<usize>,
        /// The time that was waited.
        seconds: u64,
    },
    /// Ranks that disagree about their number.
    #[error(
        "{peer} believes that there are {theirs} ranks, this one {ours}; start all with the same WORLD_SIZE"
    )]
    OtherSize {
        /// The other rank.
        peer: Peer,
        /// The other rank's number of ranks.
        theirs: String,
        /// This rank's number.
        ours: usize,
    },
    /// Two processes of one rank.
    #[error("there are two processes of rank {rank}; give each a RANK of its own")]
    RankTwice {
        /// The rank.
        rank: usize,
    },
    /// Ranks that differ in what must be equal.
    #[error("{what} of {peer} differs from that of rank 0 ({theirs}, not {ours}); {remedy}")]
    Differs {
        /// The compared thing.
        what: String,
        /// The first rank that differs.
        peer: Peer,
        /// The value of this rank, or a digest.
        theirs: String,
        /// The value of rank 0.
        ours: String,
        /// Advice.
        remedy: &'static str,
        /// `true` in the one process that tells the user; the others end silently.
        tells: bool,
    },
    /// A rank has ended, or hangs.
    #[error("{peer} {}", words(.said))]
    Lost {
        /// The rank.
        peer: Peer,
        /// The rank's last words, or the reason why it is believed to be lost.
        said: Said,
        /// `true` in the one process that tells the user; the others end silently.
        tells: bool,
    },
    /// A collective operation failed although all ranks seem to live.
    #[error("{operation} between {size} ranks failed: {message}")]
    Failed {
        /// The operation.
        operation: &'static str,
        /// Number of ranks.
        size: usize,
        /// libtorch's message.
        message: String,
    },
    /// Work that only one process can do.
    #[error(
        "{what} runs in one process, and this is one of {size}; start it without torchrun, srun or mpirun"
    )]
    OneProcess {
        /// The work.
        what: String,
        /// Number of processes.
        size: usize,
    },
}

impl DistError {
    /// `false` if another rank shows this same error to the user.
    #[must_use]
    pub fn is_to_be_told(&self) -> bool {
        !matches!(self, Self::Lost { tells: false, .. } | Self::Differs { tells: false, .. })
    }

    /// `true` if every rank has this error by itself, or another rank caused it: then there is nothing to tell
    /// the others.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Differs { .. } | Self::OneProcess { .. })
    }

    /// The error of ranks in this chain of causes, if there is one.
    #[must_use]
    pub fn in_chain<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            let found = error
                .downcast_ref::<Self>()
                .or_else(|| error.downcast_ref::<Box<Self>>().map(|error| &**error));
            if found.is_some() {
                return found;
            }
            next = error.source();
        }
        None
    }
}

/// The end of a lost rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The rank reported this error.
    Words(String),
    /// The process ended without a word, or its machine.
    Nothing {
        /// Seconds without a sign of life.
        seconds: u64,
    },
    /// The rank lives, but does not come to an operation in which the others wait.
    Late {
        /// Seconds that the others waited.
        seconds: u64,
    },
}

fn words(said: &Said) -> String {
    match said {
        Said::Words(words) => format!("failed, so this run ends: {words}"),
        Said::Nothing { seconds } => format!(
            "has ended without a word, or hangs (no sign of life for {seconds} s), so this run ends; it was killed or \
             stopped, ran out of memory, or lost its machine or network"
        ),
        Said::Late { seconds } => format!(
            "is alive, but the other ranks waited for it for {seconds} s, so this run ends; set \
             RLAIF_RANK_TIMEOUT_S to more seconds if its work may take so long"
        ),
    }
}

fn list(ranks: &[usize]) -> String {
    let shown = ranks.iter().take(8).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match ranks.len() > 8 {
        true => format!("{shown} and {} more", ranks.len() - 8),
        false => shown,
    }
}

impl Fault for DistError {
    fn is_users(&self) -> bool {
        match self {
            Self::Launch { .. }
            | Self::NotBuilt { .. }
            | Self::PortTaken { .. }
            | Self::OtherSize { .. }
            | Self::RankTwice { .. }
            | Self::Differs { .. }
            | Self::OneProcess { .. } => true,
            Self::NoRendezvous { .. }
            | Self::Missing { .. }
            | Self::Lost { .. }
            | Self::Failed { .. } => false,
        }
    }
}
