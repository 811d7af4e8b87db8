//! Responses of several turns, with an environment between them.

mod config;
mod row;
mod transcript;

use std::{fmt, sync::Arc, time::Duration};

use rlaif_core::{BadSetting, ChatOptions, Seed, TextCodec};
use rlaif_env::{Environment, EnvironmentError, Session};
use rlaif_lm::{
    LmError, NumberedPrompt, Sampled, Sampler, SamplerCall,
    generate::{Ask, GenerationConfig},
};

pub use config::{EpisodeConfig, History};
use row::Row;
use transcript::Transcript;

/// Plays an episode of an environment for each prompt, with the turns of another sampler.
///
/// All episodes that are not over sample their next turn in one call, and their environments answer at
/// the same time. A response is the whole episode: the tokens that the policy sampled, as it sampled
/// them, and those of the environment between them, which no algorithm learns
/// ([`Played::given`](rlaif_lm::Played::given)). Where the chat template rewrites earlier turns, the response starts
/// over ([`Played::forks`](rlaif_lm::Played::forks)).
///
/// The tokens of a turn depend on the row's number and on the turn's, not on other rows. The seed of an
/// environment depends on the run's seed, on the step and on the id of the record.
///
/// ```no_run
/// use std::sync::Arc;
/// use rlaif_env::Guess;
/// use rlaif_rl::{EpisodeConfig, EpisodeSampler, core::{Seed, TextCodec}, lm::LocalSampler};
/// # fn sampler(codec: &dyn TextCodec) {
/// let config = EpisodeConfig { max_turns: 3, ..EpisodeConfig::default() };
/// let game = Arc::new(Guess { low: 1, high: 7, ..Guess::default() });
/// let sampler = EpisodeSampler::new(LocalSampler::new(codec), game, codec, config, Seed::new(1));
/// # }
/// ```
pub struct EpisodeSampler<'a> {
    inner: Box<dyn Sampler + 'a>,
    stage: Stage<'a>,
}

/// The other side of the episodes.
struct Stage<'a> {
    environment: Arc<dyn Environment>,
    codec: &'a dyn TextCodec,
    config: EpisodeConfig,
    options: ChatOptions,
    seed: Seed,
}

impl fmt::Debug for EpisodeSampler<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EpisodeSampler")
            .field("environment", &self.stage.environment.name())
            .field("config", &self.stage.config)
            .finish_non_exhaustive()
    }
}

impl<'a> EpisodeSampler<'a> {
    /// Plays episodes of `environment` with turns of `inner`, whose tokens are those of `codec`.
    pub fn new(
        inner: impl Sampler + 'a,
        environment: Arc<dyn Environment>,
        codec: &'a dyn TextCodec,
        config: EpisodeConfig,
        seed: Seed,
    ) -> Self {
        let stage = Stage { environment, codec, config, options: ChatOptions::default(), seed };
        Self { inner: Box::new(inner), stage }
    }

    /// Renders turns with these options of the chat template, those that rendered the prompts.
    #[must_use]
    pub fn chat_options(mut self, options: ChatOptions) -> Self {
        self.stage.options = options;
        self
    }
}

impl Stage<'_> {
    fn failed(&self, source: impl std::error::Error + Send + Sync + 'static) -> LmError {
        let sampler = self.environment.name().to_owned();
        LmError::Sampler { sampler, source: Box::new(source) }
    }

    /// Begins an episode for each row. They begin at the same time.
    fn begin(&self, rows: &[NumberedPrompt], step: u64) -> Result<Vec<Row<'_>>, LmError> {
        let limit = Duration::from_secs_f64(self.config.timeout_s);
        let seed = self.seed.derive("episodes", step);
        let open = |row: &NumberedPrompt| {
            let record = &row.prompt.record;
            let seed = seed.derive(&record.id, 0);
            Session::open(Arc::clone(&self.environment), Arc::clone(record), seed, limit)
        };
        let sessions: Vec<_> = rows.iter().map(open).collect();
        let begun = rows.iter().zip(sessions).map(|(NumberedPrompt { id, prompt }, session)| {
            let record = &prompt.record;
            let transcript = Transcript::new(self.codec, &self.config, &self.options, record);
            let mut row = Row::new(*id, prompt.ids.to_vec(), (self.codec, transcript));
            let opened = session.and_then(|mut session| Ok((session.opened()?, session)));
            match opened {
                Ok((first, session)) => row.open(session, &first)?,
                Err(EnvironmentError::Setting(error)) => return Err(self.failed(error)),
                Err(error) => row.fail(error.kind(), &error),
            }
            Ok(row)
        });
        begun.collect()
    }

    /// Lets every row whose episode continues take a turn; `false` if there is none.
    fn turn(
        &self,
        rows: &mut [Row<'_>],
        number: usize,
        sample: impl FnOnce(&[Ask]) -> Result<Vec<Sampled>, LmError>,
        (context, how): (usize, &GenerationConfig),
    ) -> Result<bool, LmError> {
        let (mut asks, mut live) = (Vec::new(), Vec::new());
        for (at, row) in rows.iter_mut().enumerate().filter(|(_, row)| row.goes_on()) {
            match row.room(context, self.config.max_tokens) {
                0 => row.stop("out_of_room"),
                room => {
                    live.push(at);
                    asks.push(row.ask(number, room.min(how.max_new_tokens)));
                }
            }
        }
        if asks.is_empty() {
            return Ok(false);
        }
        let turns = sample(&asks)?;
        if turns.len() != asks.len() {
            let (expected, found) = (asks.len(), turns.len());
            return Err(LmError::BatchMismatch { what: "turns of the sampler", expected, found });
        }
        for (&at, turn) in live.iter().zip(&turns) {
            rows[at].say(turn, number, how);
        }
        // Answers are awaited once every environment has its turn.
        let last = number + 1 == self.config.max_turns;
        for (&at, turn) in live.iter().zip(&turns) {
            rows[at].hear(turn, last)?;
        }
        Ok(true)
    }
}

impl Sampler for EpisodeSampler<'_> {
    /// Refuses: an ask has no record for an environment.
    fn sample(&mut self, _: &[Ask], _: SamplerCall<'_>) -> Result<Vec<Sampled>, LmError> {
        let expected = "an algorithm that plays episodes (PPO, or one of rlaif-reinforce)";
        let found = "one that samples responses of one turn";
        Err(self.stage.failed(BadSetting::new("environment", found, expected)))
    }

    fn play(
        &mut self,
        rows: &[NumberedPrompt],
        call: SamplerCall<'_>,
    ) -> Result<Vec<Sampled>, LmError> {
        let Self { inner, stage } = self;
        let SamplerCall { weights, how, draw } = call;
        stage.config.check().map_err(|error| stage.failed(error))?;
        let spec = weights.policy.spec();
        if spec.decoder_start_id.is_some() {
            let expected = "a decoder-only model: an encoder reads nothing between two turns";
            return Err(stage.failed(BadSetting::new("policy", &spec.model_type, expected)));
        }
        let context = spec.context.unwrap_or(usize::MAX);
        let mut rows = stage.begin(rows, draw.step)?;
        for number in 0..stage.config.max_turns {
            let sample = |asks: &[Ask]| inner.sample(asks, call);
            if !stage.turn(&mut rows, number, sample, (context, how))? {
                break;
            }
        }
        Ok(rows.into_iter().map(|row| row.finish(spec.pad_id, weights.version)).collect())
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }

    fn tokens_before(&self, ids: &[u32], bytes: usize) -> Result<Option<usize>, LmError> {
        self.inner.tokens_before(ids, bytes)
    }
}
