//! Tools that a model may call.

use std::fmt;

use rlaif_core::BadSetting;
use rlaif_sandbox::{Program, Ran, Sandbox, SandboxError};
use serde_json::{Value, json};

/// A tool that a model may call.
pub trait Tool: Send + Sync {
    /// The name, the description and the arguments, for the chat template.
    fn spec(&self) -> &ToolSpec;

    /// Answers a call. `arguments` is an object.
    ///
    /// # Errors
    /// [`ToolError`]. The model reads the message, and the episode continues, unless the tool cannot run at all.
    fn call(&self, arguments: &Value) -> Result<String, ToolError>;
}

/// A tool as a chat template shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolSpec {
    /// The name.
    pub name: String,
    /// The description.
    pub description: String,
    /// The JSON schema of the arguments.
    pub parameters: Value,
}

impl ToolSpec {
    /// A tool with these arguments, all of them texts.
    ///
    /// ```
    /// let spec = rlaif_env::ToolSpec::new("clock", "Tells the time.", &["zone"]);
    /// assert_eq!(spec.schema()["function"]["parameters"]["required"][0], "zone");
    /// ```
    pub fn new(name: &str, description: &str, arguments: &[&str]) -> Self {
        let properties = arguments.iter();
        let properties: serde_json::Map<String, Value> =
            properties.map(|name| ((*name).to_owned(), json!({"type": "string"}))).collect();
        let parameters = json!({"type": "object", "properties": properties, "required": arguments});
        Self { name: name.to_owned(), description: description.to_owned(), parameters }
    }

    /// The JSON schema that chat templates read.
    pub fn schema(&self) -> Value {
        let Self { name, description, parameters } = self;
        json!({"type": "function", "function": {
            "name": name, "description": description, "parameters": parameters,
        }})
    }
}

/// Reasons why a call has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    /// Arguments that the tool cannot use, or a failure that the model should know of.
    #[error("{0}")]
    Failed(String),
    /// A sandbox that does not run programs.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// A closure as a tool.
///
/// ```
/// use rlaif_env::{FnTool, Tool, ToolSpec};
/// use serde_json::json;
/// let spec = ToolSpec::new("shout", "Shouts.", &["text"]);
/// let shout = FnTool::new(spec, |arguments| match arguments["text"].as_str() {
///     Some(text) => Ok(text.to_uppercase()),
///     None => Err("no `text`".to_owned()),
/// });
/// assert_eq!(shout.call(&json!({"text": "so"})).unwrap(), "SO");
/// assert_eq!(shout.call(&json!({})).unwrap_err().to_string(), "no `text`");
/// ```
pub struct FnTool<F> {
    spec: ToolSpec,
    call: F,
}

impl<F> fmt::Debug for FnTool<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FnTool").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl<F: Fn(&Value) -> Result<String, String> + Send + Sync> FnTool<F> {
    /// A tool that calls a function.
    pub fn new(spec: ToolSpec, call: F) -> Self {
        Self { spec, call }
    }
}

impl<F: Fn(&Value) -> Result<String, String> + Send + Sync> Tool for FnTool<F> {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, arguments: &Value) -> Result<String, ToolError> {
        (self.call)(arguments).map_err(ToolError::Failed)
    }
}

/// A Python program in a sandbox as a tool. It reads the arguments as JSON from its standard input, and
/// its answer is its output.
#[derive(Debug)]
pub struct ProgramTool {
    spec: ToolSpec,
    code: String,
    sandbox: Sandbox,
}

impl ProgramTool {
    /// A tool that runs this Python code.
    pub fn new(spec: ToolSpec, code: impl Into<String>, sandbox: Sandbox) -> Self {
        Self { spec, code: code.into(), sandbox }
    }
}

impl Tool for ProgramTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, arguments: &Value) -> Result<String, ToolError> {
        answer(self.sandbox.run(&self.code, &arguments.to_string())?)
    }
}

/// The output of a program that ended well, without the white space at its end.
fn answer(ran: Ran) -> Result<String, ToolError> {
    let problem = match ran {
        Ran::Ended { code: Some(0), output } => return Ok(output.trim_end().to_owned()),
        Ran::Ended { code: Some(code), .. } => format!("the program ended with {code}"),
        Ran::Ended { code: None, .. } => "the program was ended by a signal".to_owned(),
        Ran::TimedOut => "the program took too long".to_owned(),
        Ran::TooMuchOutput => "the program wrote too much".to_owned(),
    };
    Err(ToolError::Failed(problem))
}

/// Any program in a sandbox as a tool. The arguments of a call are in its arguments and its standard input, and its
/// answer is its output.
///
/// `{name}` stands for the argument of this name. It becomes a part of one argument of the program, without a shell.
///
/// ```no_run
/// use rlaif_env::{CommandTool, Program, Sandbox, SandboxLimits, Tool, ToolSpec};
/// let sandbox = Sandbox::new("python3", SandboxLimits::default())?;
/// let spec = ToolSpec::new("bc", "A calculator.", &["expression"]);
/// let bc = Program::new("bc", &[])?;
/// let bc = CommandTool::new(spec, bc, vec!["-l".to_owned()], sandbox).input("{expression}\n");
/// assert_eq!(bc.call(&serde_json::json!({"expression": "6 * 7"}))?, "42");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct CommandTool {
    spec: ToolSpec,
    program: Program,
    arguments: Vec<String>,
    input: Option<String>,
    sandbox: Sandbox,
}

impl CommandTool {
    /// A tool that runs this program with these arguments. Its standard input is the call's arguments as JSON.
    pub fn new(spec: ToolSpec, program: Program, arguments: Vec<String>, sandbox: Sandbox) -> Self {
        Self { spec, program, arguments, input: None, sandbox }
    }

    /// Sets the text of the program's standard input.
    #[must_use]
    pub fn input(self, input: impl Into<String>) -> Self {
        Self { input: Some(input.into()), ..self }
    }

    /// Checks that every argument of the tool has a place.
    ///
    /// # Errors
    /// [`BadSetting`] names `input` and the argument that is in neither the program's arguments nor its input.
    pub fn check(&self) -> Result<(), BadSetting> {
        let Some(input) = &self.input else { return Ok(()) };
        let texts = || self.arguments.iter().chain([input]);
        let mut names = names_of(&self.spec).into_iter();
        match names.find(|name| !texts().any(|text| text.contains(&format!("{{{name}}}")))) {
            None => Ok(()),
            Some(name) => {
                let expected =
                    format!("`{{{name}}}` in it or in `command`, for the argument `{name}`");
                Err(BadSetting::new("input", input, expected))
            }
        }
    }
}

impl Tool for CommandTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, arguments: &Value) -> Result<String, ToolError> {
        let names = names_of(&self.spec);
        let mut values = Vec::with_capacity(names.len());
        for name in &names {
            // Plain calls have one text without a name.
            let plain = || arguments.get("input").filter(|_| names.len() == 1);
            let value = arguments.get(*name).or_else(plain);
            let value = value
                .ok_or_else(|| ToolError::Failed(format!("no `{name}` among the arguments")))?;
            values.push((*name, value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
        }
        let own: Vec<String> = self.arguments.iter().map(|text| filled(text, &values)).collect();
        let input = match &self.input {
            Some(text) => filled(text, &values),
            None => arguments.to_string(),
        };
        answer(self.sandbox.run_program(&self.program, &own, &input)?)
    }
}

/// The names of a tool's arguments.
fn names_of(spec: &ToolSpec) -> Vec<&str> {
    let properties = spec.parameters.get("properties").and_then(Value::as_object);
    properties.into_iter().flat_map(|all| all.keys().map(String::as_str)).collect()
}

/// A text with values in place of `{name}`; braces around other words stay.
fn filled(text: &str, values: &[(&str, String)]) -> String {
    let (mut all, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('{') {
        let inner = &rest[at + 1..];
        let known = values
            .iter()
            .find_map(|(name, value)| Some((value, inner.strip_prefix(name)?.strip_prefix('}')?)));
        all.push_str(&rest[..at]);
        match known {
            // Values are not searched for names.
            Some((value, behind)) => (all, rest) = (all + value, behind),
            None => (all, rest) = (all + "{", inner),
        }
    }
    all + rest
}

/// Python that the model writes, run in a sandbox. Its only argument is `code`, and its answer what the code
/// prints.
#[derive(Debug)]
pub struct Python {
    spec: ToolSpec,
    sandbox: Sandbox,
}

impl Python {
    /// The tool `python`.
    pub fn new(sandbox: Sandbox) -> Self {
        Self { spec: Self::described(), sandbox }
    }

    /// Name, description and argument of the tool.
    pub fn described() -> ToolSpec {
        ToolSpec::new("python", "Runs Python code and returns what it prints.", &["code"])
    }
}

impl Tool for Python {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, arguments: &Value) -> Result<String, ToolError> {
        let code = only(arguments, "code")?;
        let spec = self.spec.clone();
        ProgramTool::new(spec, code, self.sandbox.clone()).call(&json!({}))
    }
}

/// The text of the argument of this name, or of `input`, where plain calls have it.
pub(crate) fn only<'a>(arguments: &'a Value, name: &str) -> Result<&'a str, ToolError> {
    let found = arguments.get(name).or_else(|| arguments.get("input")).and_then(Value::as_str);
    found.ok_or_else(|| ToolError::Failed(format!("no text `{name}` among the arguments")))
}

/// Checks that no two tools have the same name.
pub(crate) fn check_names(tools: &[Box<dyn Tool>]) -> Result<(), BadSetting> {
    let mut known = std::collections::BTreeSet::new();
    for tool in tools {
        let name = &tool.spec().name;
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(BadSetting::new("tools.name", name, "a name without white space"));
        }
        if !known.insert(name.as_str()) {
            return Err(BadSetting::new("tools.name", name, "a name that no other tool has"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rlaif_sandbox::SandboxLimits;

    use super::*;

    #[test]
    fn values_take_the_places_of_their_names_once() {
        let values = [("a", "{b}".to_owned()), ("b", "2".to_owned())];
        assert_eq!(filled("{a}+{b} {c} {", &values), "{b}+2 {c} {");
        assert_eq!(filled("{print $1}", &values), "{print $1}");
    }

    #[test]
    fn any_program_is_a_tool() {
        let limits = SandboxLimits { timeout_s: 60., ..SandboxLimits::default() };
        let Some(sandbox) = crate::sandboxed::sandbox(limits) else { return };
        let tool = |arguments: &[&str], names: &[&str]| {
            let arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
            let program = Program::new("sh", &[]).unwrap();
            CommandTool::new(ToolSpec::new("t", "d", names), program, arguments, sandbox.clone())
        };
        let add = tool(&["-c", "echo $(($1 + $2))", "sh", "{a}", "{b}"], &["a", "b"]).input("");
        add.check().unwrap();
        assert_eq!(add.call(&json!({"a": "40", "b": 2})).unwrap(), "42");
        let error = add.call(&json!({"a": "40"})).unwrap_err().to_string();
        assert_eq!(error, "no `b` among the arguments");
        // The value is one argument, regardless of its text.
        let say = tool(&["-c", "echo \"$1\"", "sh", "{text}"], &["text"]).input("");
        assert_eq!(say.call(&json!({"input": "; exit 3"})).unwrap(), "; exit 3");
        let read = tool(&["-c", "read line; echo \"<$line>\""], &["text"]);
        assert_eq!(
            read.call(&json!({"text": "so"})).unwrap(),
            "<{text:so}>".replace("text", "\"text\"").replace("so", "\"so\"")
        );
        let read = read.input("{text}\n");
        assert_eq!(read.call(&json!({"text": "so"})).unwrap(), "<so>");
        let fails = tool(&["-c", "exit 3"], &[]).call(&json!({})).unwrap_err();
        assert_eq!(fails.to_string(), "the program ended with 3");
        let error = tool(&["-c", "true"], &["text"]).input("x").check().unwrap_err().to_string();
        assert!(error.contains("`input` is x") && error.contains("{text}"), "{error}");
    }
}
