//! Tools that a model may call.

use std::fmt;

use rlaif_core::BadSetting;
use rlaif_sandbox::{Ran, Sandbox, SandboxError};
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
        let problem = match self.sandbox.run(&self.code, &arguments.to_string())? {
            Ran::Ended { code: Some(0), output } => return Ok(output.trim_end().to_owned()),
            Ran::Ended { code: Some(code), .. } => format!("the program ended with {code}"),
            Ran::Ended { code: None, .. } => "the program was ended by a signal".to_owned(),
            Ran::TimedOut => "the program took too long".to_owned(),
            Ran::TooMuchOutput => "the program wrote too much".to_owned(),
        };
        Err(ToolError::Failed(problem))
    }
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
