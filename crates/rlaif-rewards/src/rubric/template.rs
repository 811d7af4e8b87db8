//! Templates of questions: text with `{prompt}`, `{response}` and `{reference}`.

use rlaif_core::Exchange;

use super::{NoVerdict, fence};
use crate::ProviderError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Prompt,
    Response,
    Reference,
}

impl Field {
    const ALL: [Self; 3] = [Self::Prompt, Self::Response, Self::Reference];

    fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Response => "response",
            Self::Reference => "reference",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(Field),
}

/// A template, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

impl Template {
    pub(super) fn parse(template: &str) -> Result<Self, ProviderError> {
        let refused =
            |problem: String| ProviderError::Template { template: template.to_owned(), problem };
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
                text.push_str(&rest[..1]);
                rest = after;
                continue;
            }
            let name = rest.strip_prefix('{').and_then(|after| after.split_once('}'));
            let Some((name, after)) = name else {
                return Err(refused(
                    "a brace stands alone; write `{{` or `}}` for a brace".to_owned(),
                ));
            };
            let field = Field::ALL.into_iter().find(|field| field.name() == name.trim());
            let Some(field) = field else {
                return Err(refused(format!(
                    "`{{{name}}}` is unknown; there are `{{prompt}}`, `{{response}}` and \
                     `{{reference}}`, and `{{{{` for a brace"
                )));
            };
            pieces.push(Piece::Text(std::mem::take(&mut text)));
            pieces.push(Piece::Field(field));
            rest = after;
        }
        text.push_str(rest);
        pieces.push(Piece::Text(text));
        if !pieces.contains(&Piece::Field(Field::Response)) {
            return Err(refused(
                "it lacks `{response}`, so the judge would not see what it judges".to_owned(),
            ));
        }
        Ok(Self(pieces))
    }

    /// The template with the exchange's texts, each between fences, `controls` broken up in them.
    pub(super) fn fill(
        &self,
        exchange: &Exchange<'_>,
        controls: &[String],
    ) -> Result<String, NoVerdict> {
        let key = fence::key(&[Some(exchange.prompt), Some(exchange.response), exchange.reference]);
        let mut filled = String::new();
        for piece in &self.0 {
            let field = match piece {
                Piece::Text(text) => {
                    filled.push_str(text);
                    continue;
                }
                Piece::Field(field) => *field,
            };
            let text = match field {
                Field::Prompt => exchange.prompt,
                Field::Response => exchange.response,
                Field::Reference => exchange.reference.ok_or(NoVerdict::NoReference)?,
            };
            filled.push_str(&fence::fenced(field.name(), &key, text, controls));
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(template: &str) -> String {
        Template::parse(template).unwrap_err().to_string()
    }

    #[test]
    fn a_template_without_the_response_is_refused() {
        assert!(problem("Rate {prompt}").contains("lacks `{response}`"));
        assert!(problem("Rate {{response}}").contains("lacks `{response}`"));
        assert!(problem("{response} {respnse}").contains("`{respnse}` is unknown"));
        assert!(problem("{response} {").contains("brace"));
        assert!(problem("{response} }").contains("brace"));
    }

    #[test]
    fn texts_are_filled_in_once_and_not_expanded_again() {
        let template = Template::parse("{{x}} {response}|{prompt}").unwrap();
        let filled = template.fill(&Exchange::new("{response}", "{prompt}"), &[]).unwrap();
        assert!(filled.starts_with("{x} [[begin response "));
        assert_eq!(filled.matches("{prompt}").count(), 1);
        assert_eq!(filled.matches("{response}").count(), 1);
    }

    #[test]
    fn a_missing_reference_is_said() {
        let template = Template::parse("{response}{reference}").unwrap();
        assert_eq!(template.fill(&Exchange::new("p", "y"), &[]), Err(NoVerdict::NoReference));
    }
}
