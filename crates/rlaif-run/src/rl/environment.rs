//! Environments from run files.

use std::{path::Path, sync::Arc};

use rlaif_core::{BadSetting, ChatOptions, Rendering, Seed, TextCodec};
use rlaif_env::{
    Calculator, CallForm, CommandTool, Environment, Guess, OpenEnv, Program, ProgramTool, Python,
    Sandbox, SandboxError, SandboxLimits, Tool, ToolSpec, Tools, interpreter_path,
};
use rlaif_lm::{LmSpec, Sampler};
use rlaif_rewards::RewardConfig;
use rlaif_rl::{EpisodeConfig, EpisodeSampler};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::RunError;

/// An environment: what happens between the turns of the policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum EnvironmentConfig {
    /// The policy guesses a number, and is told `higher` or `lower`; the reward of the right guess is 1.
    Guess(Guess),
    /// An environment of an OpenEnv server, over WebSocket; the rewards are the server's.
    #[serde(rename = "openenv")]
    OpenEnv(OpenEnv),
    /// The policy may call tools before it answers.
    Tools {
        /// The form of calls.
        #[serde(default)]
        form: CallForm,
        /// The tools.
        tools: Vec<ToolConfig>,
    },
}

/// A tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ToolConfig {
    /// Arithmetic; its argument is `expression`.
    Calculator,
    /// Python that the policy writes, in a sandbox; its argument is `code`.
    Python {
        /// The interpreter: a name on the path, or a file.
        #[serde(default = "python")]
        python: String,
        /// Limits of a program.
        #[serde(default)]
        limits: SandboxLimits,
    },
    /// A Python program in a sandbox, which reads the arguments as JSON and prints the answer.
    Program {
        /// The name.
        name: String,
        /// The description that the policy reads.
        description: String,
        /// The names of the arguments, which are texts.
        arguments: Vec<String>,
        /// The program's file.
        file: String,
        /// The interpreter: a name on the path, or a file.
        #[serde(default = "python")]
        python: String,
        /// Limits of the program.
        #[serde(default)]
        limits: SandboxLimits,
    },
    /// Any program in a sandbox; its output is the answer.
    Command {
        /// The name.
        name: String,
        /// The description that the policy reads.
        description: String,
        /// The names of the arguments, which are texts.
        arguments: Vec<String>,
        /// The program, a name on the path or a file, and its arguments. `{name}` in them stands for the argument of
        /// this name.
        command: Vec<String>,
        /// The program's standard input, in which `{name}` stands for an argument; by default, all arguments as JSON.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<String>,
        /// Files and folders that the program may read, besides the system's programs and libraries.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        readable: Vec<String>,
        /// The Python that confines the program: a name on the path, or a file.
        #[serde(default = "python")]
        python: String,
        /// Limits of the program.
        #[serde(default)]
        limits: SandboxLimits,
    },
}

fn python() -> String {
    "python3".to_owned()
}

impl EnvironmentConfig {
    /// `true` if the environment gives rewards; the answers of others need a reward to score them.
    pub fn rewards(&self) -> bool {
        match self {
            Self::Guess(_) | Self::OpenEnv(_) => true,
            Self::Tools { .. } => false,
        }
    }

    /// The keys that may be local paths.
    pub(crate) fn locations(&mut self) -> Vec<&mut String> {
        match self {
            Self::Guess(_) => Vec::new(),
            Self::OpenEnv(server) => server.certificates.iter_mut().collect(),
            Self::Tools { tools, form: _ } => {
                tools.iter_mut().flat_map(ToolConfig::locations).collect()
            }
        }
    }

    /// The reward of a run: without one, that of an environment which gives its own.
    pub(crate) fn reward_beside(reward: Option<&RewardConfig>) -> &RewardConfig {
        static NOTHING: RewardConfig = RewardConfig::Constant { value: 0. };
        reward.unwrap_or(&NOTHING)
    }

    /// Checks the sections of an environment, of its episodes and of the reward beside it.
    ///
    /// # Errors
    /// [`BadSetting`] names the first field that is out of range, and `reward` if nothing rewards.
    pub(crate) fn check_all(
        environment: Option<&Self>,
        episodes: &EpisodeConfig,
        reward: Option<&RewardConfig>,
    ) -> Result<(), BadSetting> {
        if reward.is_none() && !environment.is_some_and(Self::rewards) {
            let found = match environment {
                Some(_) => "none, and an environment that gives no rewards",
                None => "none, and no environment",
            };
            return Err(BadSetting::new("reward", found, "a section `[reward]`"));
        }
        let Some(environment) = environment else { return Ok(()) };
        environment.check()?;
        episodes.check().map_err(|error| error.within("episodes"))
    }

    /// Checks what needs no sandbox and no file.
    fn check(&self) -> Result<(), BadSetting> {
        match self {
            Self::Guess(guess) => guess.check(),
            Self::OpenEnv(server) => server.check(),
            Self::Tools { tools, .. } if tools.is_empty() => {
                Err(BadSetting::new("tools", "none", "at least one tool"))
            }
            Self::Tools { .. } => Ok(()),
        }
        .map_err(|error| error.within("environment"))
    }

    /// Checks that a policy can take turns.
    pub(crate) fn check_policy(spec: &LmSpec) -> Result<(), BadSetting> {
        if spec.decoder_start_id.is_none() {
            return Ok(());
        }
        let found = format!("a model of the type `{}`", spec.model_type);
        let expected = "a decoder-only model, with `[environment]`: an encoder reads nothing between two turns";
        Err(BadSetting::new("model.path", found, expected))
    }

    /// The tools for the chat template.
    pub(crate) fn schemas(&self) -> Option<Vec<Value>> {
        let Self::Tools { tools, .. } = self else { return None };
        Some(tools.iter().map(|tool| tool.spec().schema()).collect())
    }

    fn build(&self) -> Result<Arc<dyn Environment>, RunError> {
        Ok(match self {
            Self::Guess(guess) => Arc::new(guess.clone()),
            Self::OpenEnv(server) => Arc::new(server.clone()),
            Self::Tools { form, tools } => {
                let tools: Result<Vec<_>, RunError> = tools.iter().map(ToolConfig::build).collect();
                let tools = Tools::new(*form, tools?);
                Arc::new(tools.map_err(|error| error.within("environment"))?)
            }
        })
    }

    /// The sampler that plays episodes of this environment, with `turns` of another one.
    ///
    /// # Errors
    /// [`RunError`] for a sandbox that is not available, and for a program that cannot be read.
    pub(crate) fn sampler<'a>(
        &self,
        turns: Box<dyn Sampler + 'a>,
        episodes: &EpisodeConfig,
        codec: &'a dyn TextCodec,
        (rendering, seed): (Rendering, u64),
    ) -> Result<EpisodeSampler<'a>, RunError> {
        let environment = self.build()?;
        let seed = Seed::new(seed).derive("environment", 0);
        let sampler = EpisodeSampler::new(turns, environment, codec, episodes.clone(), seed);
        let chat = ChatOptions { tools: self.schemas(), ..rendering.chat };
        Ok(sampler.chat_options(chat))
    }
}

impl ToolConfig {
    /// The keys that may be local paths.
    fn locations(&mut self) -> Vec<&mut String> {
        match self {
            Self::Calculator => Vec::new(),
            Self::Python { python, limits: _ } => interpreter_path(python).into_iter().collect(),
            Self::Program { file, python, name: _, description: _, arguments: _, limits: _ } => {
                std::iter::once(file).chain(interpreter_path(python)).collect()
            }
            Self::Command {
                command,
                readable,
                python,
                name: _,
                description: _,
                arguments: _,
                input: _,
                limits: _,
            } => {
                let program = command.first_mut().and_then(interpreter_path);
                program.into_iter().chain(readable).chain(interpreter_path(python)).collect()
            }
        }
    }

    fn spec(&self) -> ToolSpec {
        match self {
            Self::Calculator => Calculator::default().spec().clone(),
            Self::Python { .. } => Python::described(),
            Self::Program { name, description, arguments, .. }
            | Self::Command { name, description, arguments, .. } => {
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                ToolSpec::new(name, description, &arguments)
            }
        }
    }

    fn build(&self) -> Result<Box<dyn Tool>, RunError> {
        Ok(match self {
            Self::Calculator => Box::new(Calculator::default()),
            Self::Python { python, limits } => Box::new(Python::new(sandbox(python, *limits)?)),
            Self::Program { file, python, limits, .. } => {
                let path = Path::new(file);
                let code = rlaif_files::read_text(path, LONGEST_PROGRAM)
                    .map_err(|source| RunError::Read { path: path.to_owned(), source })?;
                Box::new(ProgramTool::new(self.spec(), code, sandbox(python, *limits)?))
            }
            Self::Command { command, input, readable, python, limits, .. } => {
                let Some((program, arguments)) = command.split_first() else {
                    let expected = "a program, and its arguments";
                    let error = BadSetting::new("environment.tools.command", "empty", expected);
                    return Err(error.into());
                };
                let program = Program::new(program, readable).map_err(RunError::Sandbox)?;
                let sandbox = sandbox(python, *limits)?;
                let tool = CommandTool::new(self.spec(), program, arguments.to_vec(), sandbox);
                let tool = match input {
                    Some(input) => tool.input(input),
                    None => tool,
                };
                tool.check().map_err(|error| error.within("environment.tools"))?;
                Box::new(tool)
            }
        })
    }
}

/// Bytes of a program.
const LONGEST_PROGRAM: u64 = 1 << 20;

fn sandbox(python: &str, limits: SandboxLimits) -> Result<Sandbox, RunError> {
    Sandbox::new(python, limits).map_err(|error| match error {
        SandboxError::Setting(error) => error.within("environment.tools.limits").into(),
        error => RunError::Sandbox(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_an_environment_is_among_its_locations() {
        let program = "kind = 'program'\nname = 'n'\ndescription = 'd'\narguments = ['a']";
        let command = program.replace("'program'", "'command'");
        let text = format!(
            "kind = 'tools'\n[[tools]]\nkind = 'calculator'\n\
             [[tools]]\nkind = 'python'\n[[tools]]\nkind = 'python'\npython = 'venv/bin/python'\n\
             [[tools]]\n{program}\nfile = 'one.py'\n\
             [[tools]]\n{program}\nfile = 'two.py'\npython = './python'\n\
             [[tools]]\n{command}\ncommand = ['./units', '--from', '{{a}}']\nreadable = ['units.dat']\n\
             [[tools]]\n{command}\ncommand = ['bc', '-l']\ninput = '{{a}}'\n"
        );
        let mut config: EnvironmentConfig = toml::from_str(&text).unwrap();
        assert_eq!(
            config.locations(),
            ["venv/bin/python", "one.py", "two.py", "./python", "./units", "units.dat",]
        );
        let text = "kind = 'openenv'\nurl = 'wss://localhost'\ncertificates = 'ca.pem'";
        let mut config: EnvironmentConfig = toml::from_str(text).unwrap();
        assert_eq!(config.locations(), ["ca.pem"]);
        for other in ["kind = 'guess'", "kind = 'openenv'\nurl = 'ws://127.0.0.1:8000'"] {
            let mut config: EnvironmentConfig = toml::from_str(other).unwrap();
            assert!(config.locations().is_empty());
        }
    }

    #[test]
    fn commands_that_cannot_be_tools_are_refused_by_name() {
        let python = std::env::var("RLAIF_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        if let Err(error) = Sandbox::new(&python, SandboxLimits::default()) {
            eprintln!("SKIPPED the sandbox: {error}");
            assert!(std::env::var_os("RLAIF_SKIP_NOTHING").is_none(), "{error}");
            return;
        }
        let build = |rest: &str| {
            let text = format!(
                "kind = 'command'\nname = 'n'\ndescription = 'd'\narguments = ['a']\npython = '{python}'\n{rest}"
            );
            toml::from_str::<ToolConfig>(&text).unwrap().build()
        };
        let tool = build(
            "command = ['sh', '-c', 'read line; echo $line $1', 'sh', '{a}']\ninput = \"so {a}\\n\"",
        );
        let said = tool.unwrap().call(&serde_json::json!({"a": "1"}));
        assert_eq!(said.unwrap(), "so 1 1");
        for (rest, says) in [
            ("command = []", "`environment.tools.command` is empty"),
            ("command = ['no-such-program']", "the program `no-such-program` cannot be used"),
            ("command = ['cat']\ninput = 'x'", "`environment.tools.input` is x"),
            ("command = ['cat']\nreadable = ['/nowhere']", "/nowhere"),
        ] {
            let error = build(rest).err().unwrap().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
