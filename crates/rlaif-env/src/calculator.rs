//! A calculator.

use serde_json::Value;

use crate::tool::{Tool, ToolError, ToolSpec, only};

/// Parentheses and signs within each other: more than a model writes.
const DEEPEST: usize = 100;

/// A calculator with `+`, `-`, `*`, `/`, `^` and parentheses. Its only argument is `expression`.
///
/// ```
/// use rlaif_env::{Calculator, Tool};
/// use serde_json::json;
/// let calculator = Calculator::default();
/// assert_eq!(calculator.call(&json!({"expression": "2 * (3 + 4)"})).unwrap(), "14");
/// let error = calculator.call(&json!({"expression": "2 *"})).unwrap_err();
/// assert_eq!(error.to_string(), "expected a number at the end of `2 *`");
/// ```
#[derive(Debug)]
pub struct Calculator(ToolSpec);

impl Default for Calculator {
    fn default() -> Self {
        let description = "Computes an expression with + - * / ^ and parentheses.";
        Self(ToolSpec::new("calculator", description, &["expression"]))
    }
}

impl Tool for Calculator {
    fn spec(&self) -> &ToolSpec {
        &self.0
    }

    fn call(&self, arguments: &Value) -> Result<String, ToolError> {
        let value = compute(only(arguments, "expression")?).map_err(ToolError::Failed)?;
        if !value.is_finite() {
            return Err(ToolError::Failed("the result is not a number".to_owned()));
        }
        Ok(value.to_string())
    }
}

/// The value of an expression.
fn compute(text: &str) -> Result<f64, String> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    let value = parser.sum()?;
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(parser.expected("an operator")),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        let rest = self.text[self.at..].trim_start();
        self.at = self.text.len() - rest.len();
        rest.chars().next()
    }

    /// Takes one of these characters.
    fn take(&mut self, among: &[char]) -> Option<char> {
        let found = self.peek().filter(|c| among.contains(c))?;
        self.at += found.len_utf8();
        Some(found)
    }

    fn expected(&self, what: &str) -> String {
        match self.text[self.at..].trim().is_empty() {
            true => format!("expected {what} at the end of `{}`", self.text),
            false => format!("expected {what} before `{}`", self.text[self.at..].trim()),
        }
    }

    fn sum(&mut self) -> Result<f64, String> {
        let mut value = self.product()?;
        while let Some(operator) = self.take(&['+', '-']) {
            let other = self.product()?;
            value = if operator == '+' { value + other } else { value - other };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<f64, String> {
        let mut value = self.signed()?;
        while let Some(operator) = self.take(&['*', '/', '×', '÷']) {
            let other = self.signed()?;
            value = if ['*', '×'].contains(&operator) { value * other } else { value / other };
        }
        Ok(value)
    }

    fn signed(&mut self) -> Result<f64, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("more than {DEEPEST} parentheses and signs within each other"));
        }
        let value = match self.take(&['-', '+']) {
            Some('-') => -self.signed()?,
            Some(_) => self.signed()?,
            None => self.power()?,
        };
        self.depth -= 1;
        Ok(value)
    }

    fn power(&mut self) -> Result<f64, String> {
        let base = self.atom()?;
        match self.take(&['^']) {
            Some(_) => Ok(base.powf(self.signed()?)),
            None => Ok(base),
        }
    }

    fn atom(&mut self) -> Result<f64, String> {
        if self.take(&['(']).is_some() {
            let value = self.sum()?;
            return match self.take(&[')']) {
                Some(_) => Ok(value),
                None => Err(self.expected("`)`")),
            };
        }
        let start = match self.peek() {
            Some(_) => self.at,
            None => return Err(self.expected("a number")),
        };
        let rest = &self.text[start..];
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let value = rest[..end].parse().map_err(|_| self.expected("a number"))?;
        self.at += end;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_have_the_values_of_arithmetic() {
        for (text, value) in [
            ("1+2*3", 7.),
            ("(1+2)*3", 9.),
            ("2^3^2", 512.),
            ("-2^2", -4.),
            ("2^-1", 0.5),
            ("7 - 3 - 2", 2.),
            ("8/4/2", 1.),
            ("1.5 × 4", 6.),
            ("--3", 3.),
        ] {
            assert_eq!(compute(text), Ok(value), "{text}");
        }
        for text in ["", "2*", "(1", "1)", "a", "1..2", "2 3"] {
            assert!(compute(text).is_err(), "{text}");
        }
        assert!(compute(&"(".repeat(100_000)).unwrap_err().contains("within each other"));
        let zero = serde_json::json!({"expression": "1/0"});
        assert!(Calculator::default().call(&zero).is_err());
    }
}
