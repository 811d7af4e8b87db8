//! Programs against their tests.

use std::sync::atomic::{AtomicUsize, Ordering};

use rlaif_core::{BadSetting, Exchange, RewardError, RewardModel, Scores};
use rlaif_sandbox::{Ran, Sandbox, SandboxError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::truth::{Truth, collected, kind};
use crate::ProviderError;

/// The score of a program by its tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TestScore {
    /// 1 if all tests pass, 0 otherwise.
    #[default]
    All,
    /// The share of tests that pass.
    Share,
}

/// The tests of a row.
#[derive(Debug, PartialEq)]
enum Tests {
    /// Pieces of Python, run behind the program.
    Asserts(Vec<String>),
    /// Inputs with the output of each.
    Pairs(Vec<(String, String)>),
}

/// Runs the program in a response against the tests of its row, in a sandbox.
///
/// The program is the last block of code in the response, or all of it. Tests are, by their form:
/// a text, which is Python run behind the program; a list of such texts (MBPP's `test_list`); or an object with
/// `inputs` and `outputs` (APPS, TACO), for programs that read standard input. An object may be written as JSON
/// in a text.
#[derive(Debug)]
pub struct CodeTests {
    sandbox: Sandbox,
    truth: Truth,
    entry_point: Option<Truth>,
    score: TestScore,
    concurrency: usize,
}

impl CodeTests {
    /// A reward by the tests that `truth` names, one program at a time.
    pub fn new(sandbox: Sandbox, truth: Truth, score: TestScore) -> Self {
        Self { sandbox, truth, entry_point: None, score, concurrency: 1 }
    }

    /// The same for tests that define `check(candidate)`, as HumanEval's do: `entry_point` names the
    /// function.
    #[must_use]
    pub fn checking(mut self, entry_point: Truth) -> Self {
        self.entry_point = Some(entry_point);
        self
    }

    /// The same with so many programs at a time.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] for 0.
    pub fn concurrency(mut self, programs: usize) -> Result<Self, ProviderError> {
        if programs == 0 {
            return Err(ProviderError::Setting(BadSetting::new("concurrency", "0", "at least 1")));
        }
        self.concurrency = programs;
        Ok(self)
    }

    fn tests(&self, exchange: &Exchange<'_>) -> Result<Tests, String> {
        let value = match self.truth {
            Truth::Reference => Value::String(self.truth.texts(exchange)?.remove(0)),
            Truth::Metadata(_) => self.truth.find(exchange)?.clone(),
        };
        let parsed = value.as_str().filter(|text| text.trim_start().starts_with(['{', '[']));
        let parsed = parsed.and_then(|text| serde_json::from_str::<Value>(text).ok());
        let value = parsed.unwrap_or(value);
        let wrong = || {
            let found = kind(&value);
            format!(
                "`{}` is {found}; expected Python code, a list of it, or an object with lists `inputs` \
                 and `outputs` of one length",
                self.truth
            )
        };
        let texts = |value: Option<&Value>| -> Option<Vec<String>> {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            value?.as_array()?.iter().map(text).collect()
        };
        let mut tests = match &value {
            Value::String(code) => Tests::Asserts(vec![code.clone()]),
            Value::Array(_) => Tests::Asserts(texts(Some(&value)).ok_or_else(wrong)?),
            Value::Object(object) => {
                let inputs = texts(object.get("inputs")).ok_or_else(wrong)?;
                let outputs = texts(object.get("outputs")).ok_or_else(wrong)?;
                if inputs.len() != outputs.len() {
                    return Err(wrong());
                }
                Tests::Pairs(inputs.into_iter().zip(outputs).collect())
            }
            _ => return Err(wrong()),
        };
        let count = match &tests {
            Tests::Asserts(all) => all.len(),
            Tests::Pairs(all) => all.len(),
        };
        if count == 0 {
            return Err(format!("`{}` has no test", self.truth));
        }
        if let (Some(entry_point), Tests::Asserts(all)) = (&self.entry_point, &mut tests) {
            let name = entry_point.texts(exchange)?.remove(0);
            all.iter_mut().for_each(|test| test.push_str(&format!("\ncheck({name})\n")));
        }
        Ok(tests)
    }

    /// The score of a row, or the reason why it has none.
    fn one(&self, exchange: &Exchange<'_>) -> Result<Result<f32, String>, ProviderError> {
        let tests = match self.tests(exchange) {
            Ok(tests) => tests,
            Err(reason) => return Ok(Err(reason)),
        };
        let code = program(exchange.response);
        let (passed, all) = match tests {
            Tests::Asserts(tests) => {
                let passed = self.sandbox.run_tests(code, &tests)?;
                (passed.iter().filter(|passed| **passed).count(), tests.len())
            }
            Tests::Pairs(pairs) => {
                let mut passed = 0;
                for (input, expected) in &pairs {
                    let right = match self.sandbox.run(code, input)? {
                        Ran::Ended { code: Some(0), output } => same_output(&output, expected),
                        Ran::Ended { .. } | Ran::TimedOut | Ran::TooMuchOutput => false,
                    };
                    passed += usize::from(right);
                    if !right && self.score == TestScore::All {
                        break;
                    }
                }
                (passed, pairs.len())
            }
        };
        Ok(Ok(match self.score {
            TestScore::All => f32::from(passed == all),
            TestScore::Share => passed as f32 / all as f32,
        }))
    }
}

impl RewardModel for CodeTests {
    fn name(&self) -> &'static str {
        "code-tests"
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut found = Vec::new();
            while let Some((at, exchange)) = {
                let at = next.fetch_add(1, Ordering::Relaxed);
                batch.get(at).map(|exchange| (at, exchange))
            } {
                found.push((at, self.one(exchange)?));
            }
            Ok::<_, ProviderError>(found)
        };
        let found: Result<Vec<_>, ProviderError> = std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..self.concurrency.min(batch.len())).map(|_| scope.spawn(work)).collect();
            let mut all = Vec::new();
            for worker in workers {
                let ended = worker.join().map_err(|_| SandboxError::Unavailable {
                    problem: "a thread that runs programs ended early".to_owned(),
                })?;
                all.extend(ended?);
            }
            Ok(all)
        });
        let mut found = found.map_err(|error| RewardError::Failed {
            model: self.name().to_owned(),
            source: Box::new(error),
        })?;
        found.sort_by_key(|(at, _)| *at);
        collected(self.name(), found.into_iter().map(|(_, result)| result))
    }
}

/// Output as it is compared: without white space at the ends of lines and of the whole.
fn same_output(output: &str, expected: &str) -> bool {
    let lines = |text: &str| -> Vec<String> {
        text.trim_end().lines().map(|line| line.trim_end().to_owned()).collect()
    };
    lines(output) == lines(expected)
}

/// The last block of code of a response, or all of it.
fn program(response: &str) -> &str {
    let mut last = None;
    let mut rest = response;
    while let Some(open) = rest.find("```") {
        let after = &rest[open + 3..];
        let Some((language, code)) = after.split_once('\n') else { break };
        let (code, behind) = code.split_once("```").unwrap_or((code, ""));
        if matches!(language.trim().to_lowercase().as_str(), "" | "python" | "py" | "python3") {
            last = Some(code);
        }
        rest = behind;
    }
    last.unwrap_or(response)
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    use rlaif_sandbox::SandboxLimits;

    use super::*;

    #[test]
    fn the_last_block_of_python_is_the_program() {
        for (response, code) in [
            ("print(1)", "print(1)"),
            ("So:\n```python\nprint(1)\n```\nDone.", "print(1)\n"),
            ("```py\na\n```\n```python\nb\n```\n```text\nc\n```", "b\n"),
            ("```\na\n", "a\n"),
            ("```", "```"),
        ] {
            assert_eq!(program(response), code, "{response}");
        }
    }

    #[test]
    fn output_is_compared_without_white_space_at_ends() {
        assert!(same_output("1 \n2\n\n", "1\n2"));
        assert!(!same_output("1\n\n2", "1\n2"));
        assert!(!same_output(" 1", "1"));
    }

    #[cfg(target_os = "linux")]
    /// A sandbox, where there is a Python to run in it.
    fn sandbox(limits: SandboxLimits) -> Option<Sandbox> {
        let python = std::env::var("RLAIF_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        match Sandbox::new(&python, limits) {
            Ok(sandbox) => Some(sandbox),
            Err(error) => {
                eprintln!("SKIPPED the sandbox: {error}");
                assert!(std::env::var_os("RLAIF_SKIP_NOTHING").is_none(), "{error}");
                None
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn programs_are_scored_by_their_tests() {
        let limits = SandboxLimits { timeout_s: 10., ..Default::default() };
        let Some(sandbox) = sandbox(limits) else { return };
        let add = "Here:\n```python\ndef add(a, b):\n    return a + b\n```";
        let list = serde_json::json!({"tests": ["assert add(1, 2) == 3", "assert add(1, 1) == 3"]});
        let check = serde_json::json!({"entry_point": "add", "tests":
            "def check(candidate):\n    assert candidate(2, 2) == 4\n"});
        let pairs = serde_json::json!({"tests":
            "{\"inputs\": [\"1 2\\n\", \"5 6\\n\"], \"outputs\": [\"3\\n\", \"11\"]}"});
        let none = serde_json::json!({"tests": []});
        let score = |reward: &CodeTests, response: &str, row: &Value| {
            let exchange = Exchange { metadata: row.as_object(), ..Exchange::new("p", response) };
            let scores = reward.score(&[exchange]).unwrap();
            scores.total[0].map(|score| score.get()).ok_or_else(|| scores.reasons[0].1.clone())
        };
        let tests = || Truth::named(Some("tests"));
        let all = CodeTests::new(sandbox.clone(), tests(), TestScore::All);
        let share = CodeTests::new(sandbox.clone(), tests(), TestScore::Share);
        let human_eval = CodeTests::new(sandbox.clone(), tests(), TestScore::All)
            .checking(Truth::named(Some("entry_point")));
        assert_eq!(score(&all, add, &list), Ok(0.));
        assert_eq!(score(&share, add, &list), Ok(0.5));
        assert_eq!(score(&human_eval, add, &check), Ok(1.));
        assert_eq!(score(&human_eval, "def add(a, b): return 5", &check), Ok(0.));
        let reads = "a, b = map(int, input().split())\nprint(a + b)";
        assert_eq!(score(&all, reads, &pairs), Ok(1.));
        assert_eq!(score(&share, "print(3)", &pairs), Ok(0.5));
        // Ends without its tests.
        for cheat in ["import os; os._exit(0)", "import sys; sys.exit(0)", "raise SystemExit", "("]
        {
            assert_eq!(score(&share, cheat, &list), Ok(0.), "{cheat}");
        }
        let error = score(&all, add, &none).unwrap_err();
        assert_eq!(error, "`tests` has no test");
        let error = score(&all, add, &serde_json::json!({"tests": 3})).unwrap_err();
        assert!(error.contains("`tests` is a number; expected Python code"), "{error}");
        // In the order of the batch, side by side.
        let reward = CodeTests::new(sandbox, tests(), TestScore::All).concurrency(2).unwrap();
        let one = serde_json::json!({"tests": "assert x % 2 == 0"});
        let responses: Vec<String> = (0..6).map(|x| format!("x = {x}")).collect();
        let batch: Vec<Exchange<'_>> = responses
            .iter()
            .map(|said| Exchange { metadata: one.as_object(), ..Exchange::new("p", said) })
            .collect();
        let scores = reward.score(&batch).unwrap();
        let found: Vec<f32> = scores.total.iter().flatten().map(|score| score.get()).collect();
        assert_eq!(found, [1., 0., 1., 0., 1., 0.]);
    }
}
