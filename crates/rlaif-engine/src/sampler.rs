//! The sampler over vLLM.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use rlaif_core::{Fault, Seed, Specials, TextCodec, say};
use rlaif_http::{EnvVars, Secret};
use rlaif_lm::{
    LmError, LmSpec, LocalSampler, Sampled, Sampler, SamplerCall,
    generate::{Ask, before_stop},
};
use rlaif_models::WeightsWriter;

use crate::{
    check::{Compared, distances},
    config::VllmConfig,
    delivery::{Delivery, Proofs, Written},
    error::EngineError,
    queue::{Done, Ready, ask},
    server::{Expected, Failure, Server},
    wire::{Group, Manner},
};

/// Samples responses on vLLM servers.
///
/// The weights of a call are delivered first if a server does not have them: as an adapter under a new name if an
/// adapter is trained, else as a folder that the servers reload while they are paused. Digests of the servers, and
/// log-probabilities of the first responses, prove that they arrived.
///
/// All responses to a prompt are one request, whose seed is determined by the first row: responses depend on the call's seed and
/// step and on the row, not on the other rows.
///
/// ```no_run
/// use rlaif_engine::{VllmConfig, VllmSampler};
/// use rlaif_lm::Policy;
/// use rlaif_models::{LanguageModel, WeightsWriter};
/// # fn sampler(
/// #     policy: &mut LanguageModel,
/// #     codec: &dyn rlaif_core::TextCodec,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let config =
///     VllmConfig { urls: vec!["http://localhost:8000".to_owned()], ..VllmConfig::default() };
/// let writer = WeightsWriter::new(policy, None)?;
/// let environment = |name: &str| std::env::var(name).ok();
/// let (model, folder) = ((policy.spec(), writer), "runs/sampler".as_ref());
/// let sampler = VllmSampler::connect(config, model, codec, folder, &environment)?;
/// # Ok(())
/// # }
/// ```
pub struct VllmSampler<'a> {
    config: VllmConfig,
    codec: &'a dyn TextCodec,
    vocab_size: i64,
    servers: Vec<Arc<Server>>,
    delivery: Delivery,
    proofs: Arc<Proofs>,
    /// The failure of each server that is not asked, as it was told.
    failing: Vec<Option<String>>,
    /// Servers whose log-probabilities were compared, by index and version of the weights.
    compared: BTreeSet<(usize, u64)>,
}

impl std::fmt::Debug for VllmSampler<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VllmSampler")
            .field("config", &self.config)
            .field("codec", &self.codec.name())
            .finish_non_exhaustive()
    }
}

impl<'a> VllmSampler<'a> {
    /// A sampler over the servers of the settings, which are asked for their model and their tokenizer: those of a policy of
    /// `spec`, whose weights `writer` writes. `folder` is that for the weights. If the settings
    /// name one, the weights go to a folder within it, whose name `folder` determines.
    ///
    /// # Errors
    /// [`EngineError::Setting`], [`EngineError::Key`]; [`EngineError::NoModel`] and [`EngineError::OtherTokenizer`] for
    /// a server that does not serve the policy; [`EngineError::NoServer`] if none answers. Servers that
    /// do not answer while others do are asked later.
    pub fn connect(
        config: VllmConfig,
        (spec, writer): (&LmSpec, WeightsWriter),
        codec: &'a dyn TextCodec,
        folder: &Path,
        environment: EnvVars<'_>,
    ) -> Result<Self, EngineError> {
        config.check()?;
        let vocab_size = spec.vocab_size;
        let key = match &config.api_key_env {
            Some(name) => Some(Secret::from_environment(name, environment)?),
            None => None,
        };
        let server = |url: &String| Server::new(url, &config, key.clone()).map(Arc::new);
        let servers = config.urls.iter().map(server).collect::<Result<Vec<_>, _>>()?;
        let model = config.model.as_ref();
        let met = at_all(&servers, |server| server.meet(Expected { model, codec, vocab_size }));
        let failing = failures(&servers, met, &vec![None; servers.len()])?;
        let folder = match &config.folder {
            Some(shared) => of_run(Path::new(shared), folder),
            None => folder.to_owned(),
        };
        let delivery = Delivery::new(writer, &folder, config.max_staleness);
        let proofs = Arc::default();
        Ok(Self {
            config,
            codec,
            vocab_size,
            servers,
            delivery,
            proofs,
            failing,
            compared: BTreeSet::new(),
        })
    }

    /// The servers that can be asked, with the weights that they have.
    fn ready(&mut self, written: &Arc<Written>) -> Result<Vec<(usize, Ready)>, EngineError> {
        let (model, codec, vocab_size) = (self.config.model.as_ref(), self.codec, self.vocab_size);
        let expected = Expected { model, codec, vocab_size };
        let outcomes =
            at_all(&self.servers, |server| server.catch_up(written, &self.proofs, expected));
        let mut ready = Vec::new();
        let mut left = Vec::new();
        for (index, outcome) in outcomes.into_iter().enumerate() {
            let server = Arc::clone(&self.servers[index]);
            let Err(failure) = outcome else {
                ready.push((index, Ready { server, written: Arc::clone(written) }));
                left.push(Ok(()));
                continue;
            };
            left.push(match (server.loaded(), failure) {
                (_, Failure::Fatal(error)) => Err(Failure::Fatal(error)),
                (Some(older), failure)
                    if (written.oldest..written.version).contains(&older.version) =>
                {
                    let why = failure.error(&server);
                    say(format_args!(
                        "{} is asked with version {} of the weights instead of {}: {why}",
                        server.name, older.version, written.version
                    ));
                    ready.push((index, Ready { server, written: older }));
                    Ok(())
                }
                (_, Failure::Lost(problem)) => Err(server.not_arrived(written, problem)),
                (_, failure) => Err(failure),
            });
        }
        self.failing = failures(&self.servers, left, &self.failing)?;
        Ok(ready)
    }

    fn ask(
        &self,
        groups: Vec<Group>,
        ready: &[(usize, Ready)],
        manner: &Manner,
    ) -> Result<Vec<Done>, EngineError> {
        let asked: Vec<Ready> = ready.iter().map(|(_, ready)| ready.clone()).collect();
        let limits = (self.config.concurrency, self.config.retries as usize);
        ask(groups, &asked, manner.clone(), &self.proofs, limits)
    }

    /// The servers that have answered and still have the weights that they were asked for, by their places in `ready`.
    fn holding(done: &[Done], ready: &[(usize, Ready)]) -> Result<BTreeSet<usize>, EngineError> {
        let used: BTreeSet<usize> = done.iter().map(|done| done.by).collect();
        let mut holding = BTreeSet::new();
        for by in used {
            let Ready { server, written } = &ready[by].1;
            match server.still_holds(written) {
                Ok(true) => {
                    holding.insert(by);
                }
                Ok(false) => say(format_args!(
                    "{} was started again while it answered; its responses are asked for again",
                    server.name
                )),
                Err(Failure::Fatal(error)) => return Err(*error),
                // No server that can be asked proves them.
                Err(failure) => say(format_args!(
                    "the responses of {} are asked for again: {}",
                    server.name,
                    failure.error(server)
                )),
            }
        }
        Ok(holding)
    }

    /// Compares the log-probabilities of servers with those of the policy, for the first responses to the call's version of the
    /// weights.
    fn compare(
        &mut self,
        call: SamplerCall<'_>,
        asks: &[Ask],
        (done, ready): (&[Done], &[(usize, Ready)]),
    ) -> Result<(), LmError> {
        let version = call.weights.version;
        let mut rows = Vec::new();
        let mut taken: BTreeMap<usize, usize> = BTreeMap::new();
        for Done { rows: of_group, answers, by } in done {
            let (server, Ready { written, .. }) = &ready[*by];
            if written.version != version || self.compared.contains(&(*server, version)) {
                continue;
            }
            for (row, answer) in of_group.iter().zip(answers) {
                let taken = taken.entry(*server).or_default();
                if *taken < self.config.compared {
                    *taken += 1;
                    let (prompt, ids) = (asks[*row].prompt.as_slice(), answer.ids.as_slice());
                    rows.push((*server, Compared { prompt, ids, log_probs: &answer.log_probs }));
                }
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let (by, rows): (Vec<usize>, Vec<Compared<'_>>) = rows.into_iter().unzip();
        let mut sums: BTreeMap<usize, (f64, usize)> = BTreeMap::new();
        for (server, (sum, tokens)) in by.into_iter().zip(distances(call, &rows)?) {
            let all = sums.entry(server).or_default();
            *all = (all.0 + sum, all.1 + tokens);
        }
        for (server, (sum, tokens)) in sums {
            // Without a token there is no proof.
            let (kl, limit) = (sum / tokens as f64, self.config.max_mismatch_kl);
            // NaN and infinity are too far as well.
            if kl.is_nan() || kl > limit {
                let server = self.servers[server].name.clone();
                return Err(EngineError::Mismatch { server, version, kl, limit }.into());
            }
            self.compared.insert((server, version));
        }
        self.compared.retain(|(_, of)| of + self.config.max_staleness + 1 >= version);
        Ok(())
    }
}

/// The folder of a run within a folder that runs share: two runs have versions of the same numbers.
fn of_run(shared: &Path, own: &Path) -> PathBuf {
    let own = std::path::absolute(own).unwrap_or_else(|_| own.to_owned());
    let name = Seed::new(0).derive(&own.to_string_lossy(), 0).get() >> 32;
    shared.join(format!("run-{name:08x}"))
}

/// Checks that a server's context has room for each prompt with its response.
fn check_room(groups: &[Group], ready: &[(usize, Ready)]) -> Result<(), EngineError> {
    let longest = groups.iter().map(|group| group.prompt.len() + group.limit).max().unwrap_or(0);
    for (_, Ready { server, .. }) in ready {
        if let Some(context) = server.context().filter(|context| *context < longest) {
            let server = server.name.clone();
            return Err(EngineError::TooShort { server, context, needed: longest });
        }
    }
    Ok(())
}

/// Does the same at all servers, at the same time.
fn at_all(
    servers: &[Arc<Server>],
    call: impl Fn(&Server) -> Result<(), Failure> + Sync,
) -> Vec<Result<(), Failure>> {
    thread::scope(|scope| {
        let call = &call;
        let calls: Vec<_> =
            servers.iter().map(|server| scope.spawn(move || call(server))).collect();
        let joined = calls.into_iter().map(thread::ScopedJoinHandle::join);
        joined
            .map(|outcome| outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// The failures of servers that are not asked, which are told when they begin and end.
///
/// # Errors
/// An error that the user mends, if there is one; another one if every server has failed.
fn failures(
    servers: &[Arc<Server>],
    outcomes: Vec<Result<(), Failure>>,
    before: &[Option<String>],
) -> Result<Vec<Option<String>>, EngineError> {
    let mut all = Vec::with_capacity(servers.len());
    let mut last = None;
    for (server, outcome) in servers.iter().zip(outcomes) {
        let Err(failure) = outcome else {
            all.push(None);
            continue;
        };
        let error = failure.error(server);
        if error.is_users() || matches!(error, EngineError::Interrupted(_)) {
            return Err(error);
        }
        let why = match &error {
            EngineError::NoServer { servers } => servers.join("; "),
            other => other.to_string(),
        };
        all.push(Some(why));
        last = Some(error);
    }
    if let Some(error) = last.filter(|_| all.iter().all(Option::is_some)) {
        return Err(match servers.len() {
            1 => error,
            _ => EngineError::NoServer { servers: all.into_iter().flatten().collect() },
        });
    }
    for ((server, now), before) in servers.iter().zip(&all).zip(before) {
        match (before, now) {
            (None, Some(why)) => say(format_args!("without a server until it answers: {why}")),
            (Some(_), None) => say(format_args!("{} is asked again", server.name)),
            _ => {}
        }
    }
    Ok(all)
}

/// The requests of a call: rows with the same prompt and the same limit are one.
fn groups(asks: &[Ask], call: SamplerCall<'_>) -> Vec<Group> {
    let seed = call.draw.seed.derive("server", call.draw.step);
    let mut places: HashMap<(&[u32], usize), usize> = HashMap::new();
    let mut all: Vec<Group> = Vec::new();
    for (row, ask) in asks.iter().enumerate() {
        let limit = ask.max_new_tokens.unwrap_or(call.how.max_new_tokens);
        let place = *places.entry((&ask.prompt, limit)).or_insert(all.len());
        if let Some(group) = all.get_mut(place) {
            group.rows.push(row);
            continue;
        }
        // Room for the numbers that follow, which are the seeds of the other rows.
        let seed = (seed.derive("row", ask.id).get() >> 2).cast_signed();
        all.push(Group { prompt: ask.prompt.clone(), limit, seed, rows: vec![row] });
    }
    all
}

impl Sampler for VllmSampler<'_> {
    fn sample(&mut self, asks: &[Ask], call: SamplerCall<'_>) -> Result<Vec<Sampled>, LmError> {
        let (spec, how) = (call.weights.policy.spec(), call.how);
        let manner = Manner::of(how, spec)?;
        for (row, ask) in asks.iter().enumerate() {
            ask.check(row, how, spec)?;
        }
        if asks.is_empty() {
            return Ok(Vec::new());
        }
        let written = self.delivery.written(call.weights)?;
        let mut groups = groups(asks, call);
        let mut all: Vec<Option<Sampled>> = vec![None; asks.len()];
        // A server that was started again has answered by the weights that it started with.
        for restarts in 0..=self.config.retries {
            let ready = self.ready(&written)?;
            check_room(&groups, &ready)?;
            let mut done = self.ask(groups.clone(), &ready, &manner)?;
            let holding = Self::holding(&done, &ready)?;
            done.retain(|done| holding.contains(&done.by));
            if manner.whole {
                self.compare(call, asks, (&done, &ready))?;
            }
            for Done { rows, answers, by } in done {
                let version = ready[by].1.written.version;
                for (row, answer) in rows.into_iter().zip(answers) {
                    let text = self.codec.decode(&answer.ids, Specials::Exclude)?;
                    all[row] = Some(Sampled {
                        text: before_stop(&text, &how.stop_strings).to_owned(),
                        ids: answer.ids,
                        log_probs: manner.whole.then_some(answer.log_probs),
                        finish: answer.finish,
                        version,
                        played: None,
                    });
                }
            }
            groups.retain(|group| group.rows.iter().any(|&row| all[row].is_none()));
            if groups.is_empty() {
                break;
            }
            if restarts == self.config.retries {
                let names: Vec<_> =
                    ready.iter().map(|(_, ready)| ready.server.name.clone()).collect();
                let problem = "a server that was started again while it answered, in each attempt";
                let told = names.into_iter().map(|name| format!("{name}: {problem}"));
                return Err(EngineError::NoServer { servers: told.collect() }.into());
            }
        }
        // Each row is in one group, and each group is done.
        Ok(all.into_iter().flatten().collect())
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn tokens_before(&self, ids: &[u32], bytes: usize) -> Result<Option<usize>, LmError> {
        LocalSampler::new(self.codec).tokens_before(ids, bytes)
    }
}
