//! Questions that a model answers with the help of tools.

use std::{fmt, sync::Arc};

use rlaif_core::{BadSetting, Message, PromptRecord, Seed};
use serde_json::Value;

use crate::{
    call::{Call, CallError, CallForm},
    environment::{Environment, EnvironmentAnswer, Episode, ModelTurn, Started},
    error::EnvironmentError,
    tool::{Tool, ToolError, check_names},
};

/// The model may call tools; a turn without a call is its answer, and ends the episode. Answers are scored
/// by a reward model, not by the environment.
///
/// Each call is answered by a message of the role `tool`. A call that cannot be read, one of an unknown tool, and
/// one that fails are answered by a message that says so, and counted.
///
/// ```
/// use rlaif_core::{PromptRecord, Seed};
/// use rlaif_env::{Calculator, CallForm, Environment, Tools, ModelTurn};
/// let tools = Tools::new(CallForm::Plain, vec![Box::new(Calculator::default())])?;
/// let mut episode = tools.reset(&PromptRecord::new("a", "17 * 3?"), Seed::new(1))?.episode;
/// let outcome = episode.step(&ModelTurn { text: "@calculator 17 * 3".into(), number: 0 })?;
/// assert_eq!((outcome.messages[0].role.as_str(), outcome.messages[0].content.as_str()), ("tool", "51"));
/// # Ok::<(), rlaif_env::EnvironmentError>(())
/// ```
#[derive(Clone)]
pub struct Tools {
    form: CallForm,
    tools: Arc<[Box<dyn Tool>]>,
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.tools.iter().map(|tool| &tool.spec().name);
        f.debug_struct("Tools")
            .field("form", &self.form)
            .field("tools", &names.collect::<Vec<_>>())
            .finish()
    }
}

impl Tools {
    /// An environment with these tools.
    ///
    /// # Errors
    /// [`BadSetting`] without a tool, and for two of one name.
    pub fn new(form: CallForm, tools: Vec<Box<dyn Tool>>) -> Result<Self, BadSetting> {
        if tools.is_empty() {
            return Err(BadSetting::new("tools", "none", "at least one tool"));
        }
        check_names(&tools)?;
        Ok(Self { form, tools: tools.into() })
    }

    /// The JSON schemas of the tools, for the chat template.
    pub fn schemas(&self) -> Vec<Value> {
        self.tools.iter().map(|tool| tool.spec().schema()).collect()
    }

    /// The answer to a call, and its event for the metrics.
    fn answer(
        &self,
        call: Result<Call, CallError>,
    ) -> Result<(Message, &'static str), EnvironmentError> {
        let says = |text: String| Message::new("tool", format!("error: {text}"));
        let call = match call {
            Ok(call) => call,
            Err(error) => return Ok((says(error.to_string()), "tools/malformed")),
        };
        let Some(tool) = self.tools.iter().find(|tool| tool.spec().name == call.name) else {
            let known: Vec<&str> = self.tools.iter().map(|tool| &*tool.spec().name).collect();
            let text = format!("no tool is named `{}`; there is {}", call.name, known.join(", "));
            return Ok((says(text), "tools/unknown"));
        };
        let (message, event) = match tool.call(&call.arguments) {
            Ok(answer) => (Message::new("tool", answer), "tools/answered"),
            Err(ToolError::Failed(problem)) => (says(problem), "tools/failed"),
            Err(error @ ToolError::Sandbox(_)) => {
                let problem = format!("the tool `{}`: {error}", call.name);
                let environment = self.name().to_owned();
                return Err(EnvironmentError::Failed { environment, problem });
            }
        };
        Ok((message.with("name", call.name), event))
    }
}

impl Environment for Tools {
    fn name(&self) -> &'static str {
        "tools"
    }

    fn reset(&self, _: &PromptRecord, _: Seed) -> Result<Started, EnvironmentError> {
        Ok(Started::new(self.clone()))
    }
}

impl Episode for Tools {
    fn step(&mut self, turn: &ModelTurn) -> Result<EnvironmentAnswer, EnvironmentError> {
        let calls = self.form.calls(&turn.text);
        let mut outcome = EnvironmentAnswer::end(0.);
        for call in calls {
            let (message, event) = self.answer(call)?;
            let counted = EnvironmentAnswer::say(message).counting(event);
            outcome.messages.extend(counted.messages);
            outcome.counts.extend(counted.counts);
            outcome.progress = counted.progress;
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use rlaif_sandbox::SandboxLimits;

    use super::*;
    use crate::{
        calculator::Calculator,
        environment::Progress,
        tool::{FnTool, ProgramTool, Python, ToolSpec},
    };

    fn say(tools: &Tools, text: &str) -> EnvironmentAnswer {
        let mut episode = tools.reset(&PromptRecord::new("a", ""), Seed::new(1)).unwrap().episode;
        episode.step(&ModelTurn { text: text.to_owned(), number: 0 }).unwrap()
    }

    fn contents(outcome: &EnvironmentAnswer) -> Vec<&str> {
        outcome.messages.iter().map(|message| message.content.as_str()).collect()
    }

    #[test]
    fn calls_are_answered_in_order_and_what_goes_wrong_is_counted() {
        let fails = FnTool::new(ToolSpec::new("fails", "", &[]), |_| Err("not today".to_owned()));
        let tools: Vec<Box<dyn Tool>> = vec![Box::new(Calculator::default()), Box::new(fails)];
        let tools = Tools::new(CallForm::Hermes, tools).unwrap();
        let text = [
            "{\"name\": \"calculator\", \"arguments\": {\"expression\": \"6*7\"}}",
            "six",
            "{\"name\": \"clock\", \"arguments\": {}}",
            "{\"name\": \"fails\", \"arguments\": {}}",
        ]
        .map(|call| format!("<tool_call>{call}</tool_call>"))
        .concat();
        let outcome = say(&tools, &text);
        let contents = contents(&outcome);
        assert_eq!(contents[0], "42");
        assert!(contents[1].starts_with("error: the call is not JSON"), "{}", contents[1]);
        assert_eq!(contents[2], "error: no tool is named `clock`; there is calculator, fails");
        assert_eq!(contents[3], "error: not today");
        let events = ["tools/answered", "tools/malformed", "tools/unknown", "tools/failed"];
        assert_eq!(outcome.counts, events.map(|event| (event, 1)));
        assert_eq!(outcome.progress, Progress::Goes);
        assert_eq!(say(&tools, "It is 42."), EnvironmentAnswer::end(0.));
        let twice: Vec<Box<dyn Tool>> =
            vec![Box::new(Calculator::default()), Box::new(Calculator::default())];
        assert!(Tools::new(CallForm::Hermes, twice).is_err());
        assert!(Tools::new(CallForm::Hermes, Vec::new()).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn programs_run_in_the_sandbox() {
        let limits = SandboxLimits { timeout_s: 2., output_kib: 1, ..SandboxLimits::default() };
        let Some(sandbox) = crate::sandboxed::sandbox(limits) else { return };
        let spec = ToolSpec::new("reverse", "Reverses a text.", &["input"]);
        let code = "import json, sys\nprint(json.load(sys.stdin)['input'][::-1])";
        let reverse = ProgramTool::new(spec, code, sandbox.clone());
        let tools: Vec<Box<dyn Tool>> = vec![Box::new(reverse), Box::new(Python::new(sandbox))];
        let tools = Tools::new(CallForm::Plain, tools).unwrap();
        for (text, answer) in [
            ("@reverse abc", "cba"),
            ("@python print(6 * 7)", "42"),
            ("@python import socket; socket.socket()", "error: the program ended with 1"),
            ("@python while True: pass", "error: the program took too long"),
            ("@python print('x' * 9999)", "error: the program wrote too much"),
        ] {
            assert_eq!(contents(&say(&tools, text)), [answer], "{text}");
        }
    }
}
