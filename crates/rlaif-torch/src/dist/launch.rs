//! The place of this process among others, as launchers tell it through the environment.

use std::{env, time::Duration};

use super::error::DistError;

/// The program that started the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Launcher {
    /// None: there is one process.
    #[default]
    None,
    /// torchrun, or anything else that sets RANK and WORLD_SIZE.
    Torchrun,
    /// Kubeflow's PET_* without torchrun.
    Kubeflow,
    /// srun.
    Slurm,
    /// mpirun of Open MPI.
    OpenMpi,
}

/// The place of this process among the processes of a run. The default is one process.
///
/// ```
/// use rlaif_torch::dist::{Launch, Launcher};
/// let torchrun = [("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2"),
///     ("MASTER_ADDR", "node-0"), ("MASTER_PORT", "29500")];
/// let find = |name: &str| torchrun.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
/// let launch = Launch::read(find)?;
/// assert_eq!((launch.rank, launch.size, launch.local_rank), (3, 4, 1));
/// assert_eq!(launch.by, Launcher::Torchrun);
/// assert_eq!(Launch::read(|_| None)?, Launch::default()); // one process
/// # Ok::<(), rlaif_torch::dist::DistError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Number of this process, from 0.
    pub rank: usize,
    /// Number of processes.
    pub size: usize,
    /// Number of this process among those of its host, from 0: the index of its GPU.
    pub local_rank: usize,
    /// Number of processes of this host.
    pub local_size: usize,
    /// Address of the store where the processes meet.
    pub host: String,
    /// Port of the store.
    pub port: u16,
    /// `true` if the launcher itself runs the store; else rank 0 does.
    pub served: bool,
    /// Prefix of all keys in the store: each restart has another.
    pub prefix: String,
    /// Number of restarts before this start.
    pub restarts: u64,
    /// The network interface of collective operations; empty for the host's own address.
    pub interface: String,
    /// Time to wait for the other processes at the start.
    pub meet: Duration,
    /// Time to wait for another process within an operation.
    pub patience: Duration,
    /// The launcher.
    pub by: Launcher,
}

impl Default for Launch {
    fn default() -> Self {
        Self {
            rank: 0,
            size: 1,
            local_rank: 0,
            local_size: 1,
            host: "127.0.0.1".to_owned(),
            port: PORT,
            served: false,
            prefix: String::new(),
            restarts: 0,
            interface: String::new(),
            meet: Duration::from_secs(300),
            patience: Duration::from_secs(1800),
            by: Launcher::None,
        }
    }
}

/// c10d's own default.
const PORT: u16 = 29500;

/// Looks variables up, and refuses those that make no sense.
struct Variables<F>(F);

impl<F: Fn(&str) -> Option<String>> Variables<F> {
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn number(&self, name: &str) -> Result<Option<usize>, DistError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let refuse = |_| DistError::Launch {
            variable: name.to_owned(),
            found: format!("`{value}`"),
            expected: "a whole number of at least 0".to_owned(),
        };
        value.trim().parse().map(Some).map_err(refuse)
    }

    fn needed(&self, name: &str, because: &str) -> Result<usize, DistError> {
        self.number(name)?.ok_or_else(|| missing(name, because))
    }

    fn seconds(&self, name: &str, default: Duration) -> Result<Duration, DistError> {
        Ok(self.number(name)?.map_or(default, |seconds| Duration::from_secs(seconds.max(1) as u64)))
    }

    fn port(&self, name: &str) -> Result<Option<u16>, DistError> {
        let Some(port) = self.number(name)? else { return Ok(None) };
        u16::try_from(port).map(Some).map_err(|_| DistError::Launch {
            variable: name.to_owned(),
            found: format!("`{port}`"),
            expected: "a port, at most 65535".to_owned(),
        })
    }
}

fn missing(name: &str, because: &str) -> DistError {
    DistError::Launch {
        variable: name.to_owned(),
        found: "not set".to_owned(),
        expected: format!("a value, because {because}"),
    }
}

impl Launch {
    /// Reads the environment: of torchrun (or any program that sets RANK and WORLD_SIZE), Kubeflow, SLURM's srun, Open MPI, in
    /// this order; without any of them, there is one process.
    ///
    /// # Errors
    /// [`DistError::Launch`] names the variable that is missing or makes no sense.
    pub fn from_env() -> Result<Self, DistError> {
        Self::read(|name| env::var(name).ok())
    }

    /// As [`Launch::from_env`], with the variables that `find` knows.
    ///
    /// # Errors
    /// As [`Launch::from_env`].
    pub fn read(find: impl Fn(&str) -> Option<String>) -> Result<Self, DistError> {
        let variables = Variables(find);
        let defaults = Self::default();
        let common = Self {
            interface: variables.get("GLOO_SOCKET_IFNAME").unwrap_or_default(),
            meet: variables.seconds("RLAIF_MEET_TIMEOUT_S", defaults.meet)?,
            patience: variables.seconds("RLAIF_RANK_TIMEOUT_S", defaults.patience)?,
            ..defaults
        };
        let launch = if variables.get("RANK").is_some() || variables.get("WORLD_SIZE").is_some() {
            torchrun(&variables, common)?
        } else if variables.get("PET_NNODES").is_some() {
            kubeflow(&variables, common)?
        } else if variables.get("SLURM_STEP_NUM_TASKS").is_some() {
            // Only srun sets it. A batch script has SLURM_PROCID and SLURM_NTASKS too, but runs once.
            slurm(&variables, common)?
        } else if variables.get("OMPI_COMM_WORLD_SIZE").is_some() {
            open_mpi(&variables, common)?
        } else {
            common
        };
        launch.checked()
    }

    fn checked(self) -> Result<Self, DistError> {
        let refuse = |variable: &str, found: usize, expected: String| {
            let (variable, found) = (variable.to_owned(), format!("`{found}`"));
            Err(DistError::Launch { variable, found, expected })
        };
        let names = match self.by {
            Launcher::Slurm => ["SLURM_STEP_NUM_TASKS", "SLURM_PROCID"],
            Launcher::OpenMpi => ["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"],
            Launcher::Kubeflow => ["PET_NNODES", "PET_NODE_RANK"],
            Launcher::Torchrun | Launcher::None => ["WORLD_SIZE", "RANK"],
        };
        if self.size == 0 {
            return refuse(names[0], 0, "at least 1".to_owned());
        }
        if self.rank >= self.size {
            let expected = format!("below the number of processes, {} ({})", self.size, names[0]);
            return refuse(names[1], self.rank, expected);
        }
        Ok(self)
    }

    /// `true` if all processes run on this host.
    pub fn is_one_host(&self) -> bool {
        self.local_size >= self.size
    }
}

fn torchrun<F: Fn(&str) -> Option<String>>(
    variables: &Variables<F>,
    common: Launch,
) -> Result<Launch, DistError> {
    let rank = variables.needed("RANK", "WORLD_SIZE is set")?;
    let size = variables.needed("WORLD_SIZE", "RANK is set")?;
    let local_rank = variables.number("LOCAL_RANK")?;
    let local_size = variables.number("LOCAL_WORLD_SIZE")?;
    let restarts = variables.number("TORCHELASTIC_RESTART_COUNT")?.unwrap_or(0) as u64;
    let served = variables.get("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True");
    let host = variables.get("MASTER_ADDR");
    let port = variables.port("MASTER_PORT")?;
    if size > 1 && (host.is_none() || port.is_none()) {
        let name = if host.is_none() { "MASTER_ADDR" } else { "MASTER_PORT" };
        return Err(missing(name, "WORLD_SIZE is above 1"));
    }
    let host = host.unwrap_or_else(|| common.host.clone());
    let here = matches!(host.as_str(), "127.0.0.1" | "localhost" | "::1");
    Ok(Launch {
        rank,
        size,
        local_rank: local_rank.unwrap_or(if here { rank } else { 0 }),
        local_size: local_size.unwrap_or(if here { size } else { 1 }),
        host,
        port: port.unwrap_or(PORT),
        served,
        prefix: if served { format!("/worker/attempt_{restarts}") } else { String::new() },
        restarts,
        by: Launcher::Torchrun,
        ..common
    })
}

fn kubeflow<F: Fn(&str) -> Option<String>>(
    variables: &Variables<F>,
    common: Launch,
) -> Result<Launch, DistError> {
    let because = "PET_NNODES is set";
    if let Some(processes) = variables.get("PET_NPROC_PER_NODE").filter(|n| n != "1") {
        return Err(DistError::Launch {
            variable: "PET_NPROC_PER_NODE".to_owned(),
            found: format!("`{processes}`"),
            expected: "1, or `torchrun --no-python rlaif ..` as the command: it starts the others"
                .to_owned(),
        });
    }
    let address = "PET_MASTER_ADDR";
    let port = variables.port("PET_MASTER_PORT")?;
    Ok(Launch {
        rank: variables.needed("PET_NODE_RANK", because)?,
        size: variables.needed("PET_NNODES", because)?,
        host: variables.get(address).ok_or_else(|| missing(address, because))?,
        port: port.ok_or_else(|| missing("PET_MASTER_PORT", because))?,
        by: Launcher::Kubeflow,
        ..common
    })
}

fn slurm<F: Fn(&str) -> Option<String>>(
    variables: &Variables<F>,
    common: Launch,
) -> Result<Launch, DistError> {
    let size = variables.needed("SLURM_STEP_NUM_TASKS", "srun sets it")?;
    let because = "SLURM_STEP_NUM_TASKS is set";
    let rank = variables.needed("SLURM_PROCID", because)?;
    let nodes =
        variables.get("SLURM_STEP_NODELIST").or_else(|| variables.get("SLURM_JOB_NODELIST"));
    let host = match (variables.get("MASTER_ADDR"), nodes) {
        (Some(host), _) => host,
        (None, Some(nodes)) => first_node(&nodes),
        (None, None) if size == 1 => common.host.clone(),
        (None, None) => return Err(missing("SLURM_STEP_NODELIST", because)),
    };
    let job = variables.number("SLURM_JOB_ID")?.unwrap_or(0);
    // The tasks of this node, as `4` or `4(x2),3`: where they differ, only GPUs need the number.
    let tasks = variables.get("SLURM_STEP_TASKS_PER_NODE").unwrap_or_default();
    let first = tasks.split(['(', ',']).next().and_then(|n| n.parse().ok());
    let one_node = variables.number("SLURM_STEP_NUM_NODES")? == Some(1);
    Ok(Launch {
        rank,
        size,
        local_rank: variables.number("SLURM_LOCALID")?.unwrap_or(0),
        local_size: if one_node { size } else { first.unwrap_or(1).min(size.max(2) - 1) },
        host,
        // The same for all tasks of a job, and rarely that of another job.
        port: variables.port("MASTER_PORT")?.unwrap_or(20_000 + (job % 20_000) as u16),
        restarts: variables.number("SLURM_RESTART_COUNT")?.unwrap_or(0) as u64,
        by: Launcher::Slurm,
        ..common
    })
}

fn open_mpi<F: Fn(&str) -> Option<String>>(
    variables: &Variables<F>,
    common: Launch,
) -> Result<Launch, DistError> {
    let because = "OMPI_COMM_WORLD_SIZE is set";
    let size = variables.needed("OMPI_COMM_WORLD_SIZE", because)?;
    let local_size = variables.number("OMPI_COMM_WORLD_LOCAL_SIZE")?.unwrap_or(1);
    let host = match variables.get("MASTER_ADDR") {
        Some(host) => host,
        None if local_size >= size => common.host.clone(),
        None => {
            let because = "Open MPI started processes on several hosts: the address of rank 0's";
            return Err(missing("MASTER_ADDR", because));
        }
    };
    Ok(Launch {
        rank: variables.needed("OMPI_COMM_WORLD_RANK", because)?,
        size,
        local_rank: variables.number("OMPI_COMM_WORLD_LOCAL_RANK")?.unwrap_or(0),
        local_size,
        host,
        port: variables.port("MASTER_PORT")?.unwrap_or(PORT),
        by: Launcher::OpenMpi,
        ..common
    })
}

/// The first node of a list in SLURM's form: `gpu[003-005,9],login1` is `gpu003`.
fn first_node(list: &str) -> String {
    let Some((name, rest)) = list.split_once('[').filter(|(name, _)| !name.contains(',')) else {
        return list.split(',').next().unwrap_or(list).to_owned();
    };
    let (inner, after) = rest.split_once(']').unwrap_or((rest, ""));
    let number = inner.split(['-', ',']).next().unwrap_or_default();
    let suffix = after.split(',').next().unwrap_or_default();
    format!("{name}{number}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Launch, DistError> {
        let find = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Launch::read(find)
    }

    /// The variables that each launcher sets, copied from a process that it started (torchrun 2.11) or from its
    /// manual.
    #[test]
    fn launchers_are_recognised() {
        let torchrun = read(&[
            ("LOCAL_RANK", "1"),
            ("RANK", "3"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("WORLD_SIZE", "4"),
            ("MASTER_ADDR", "node-0"),
            ("MASTER_PORT", "29400"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ])
        .unwrap();
        assert_eq!((torchrun.rank, torchrun.size, torchrun.restarts), (3, 4, 2));
        assert!(torchrun.served && !torchrun.is_one_host());
        assert_eq!(torchrun.prefix, "/worker/attempt_2");

        let kubeflow = read(&[
            ("PET_NNODES", "3"),
            ("PET_NPROC_PER_NODE", "1"),
            ("PET_NODE_RANK", "2"),
            ("PET_MASTER_ADDR", "job-node-0-0.job"),
            ("PET_MASTER_PORT", "29400"),
        ])
        .unwrap();
        assert_eq!((kubeflow.rank, kubeflow.size, kubeflow.port), (2, 3, 29400));

        let slurm = [
            ("SLURM_PROCID", "5"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_JOB_ID", "1234567"),
            ("SLURM_STEP_NODELIST", "gpu[003-004]"),
            ("SLURM_STEP_NUM_NODES", "2"),
            ("SLURM_STEP_TASKS_PER_NODE", "4(x2)"),
            ("SLURM_STEP_NUM_TASKS", "8"),
        ];
        let launch = read(&slurm).unwrap();
        assert_eq!((launch.rank, launch.size, launch.local_rank), (5, 8, 1));
        assert_eq!((launch.host.as_str(), launch.port), ("gpu003", 34_567));
        assert!(!launch.is_one_host());
        // A batch script without srun is one process.
        assert_eq!(read(&slurm[..3]).unwrap(), Launch::default());

        let mpi = read(&[
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
        ])
        .unwrap();
        assert_eq!((mpi.rank, mpi.by, mpi.is_one_host()), (1, Launcher::OpenMpi, true));
    }

    #[test]
    fn variables_that_make_no_sense_are_refused_by_name() {
        for (variables, says) in [
            (&[("RANK", "1")][..], "WORLD_SIZE is not set"),
            (&[("RANK", "x"), ("WORLD_SIZE", "2")], "RANK is `x`; expected a whole number"),
            (
                &[("RANK", "2"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "1")],
                "RANK is `2`; expected below",
            ),
            (&[("RANK", "0"), ("WORLD_SIZE", "2")], "MASTER_ADDR is not set"),
            (
                &[
                    ("RANK", "0"),
                    ("WORLD_SIZE", "2"),
                    ("MASTER_ADDR", "a"),
                    ("MASTER_PORT", "70000"),
                ],
                "MASTER_PORT is `70000`; expected a port",
            ),
            (&[("PET_NNODES", "2"), ("PET_NPROC_PER_NODE", "8")], "PET_NPROC_PER_NODE is `8`"),
        ] {
            let said = read(variables).unwrap_err().to_string();
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn the_first_node_of_a_list() {
        for (list, first) in [
            ("login1", "login1"),
            ("a,b", "a"),
            ("gpu[3-5,9],login1", "gpu3"),
            ("gpu[003,007]", "gpu003"),
            ("a,gpu[1-2]", "a"),
            ("rack1-[01-02]-n", "rack1-01-n"),
        ] {
            assert_eq!(first_node(list), first);
        }
    }
}
