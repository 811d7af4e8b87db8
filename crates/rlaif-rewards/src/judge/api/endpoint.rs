//! Addresses of servers with OpenAI's chat completions.

use rlaif_http::Address;

use super::super::sigv4;
use super::auth::address;
use rlaif_core::BadSetting;

use crate::ProviderError;

/// The address of a server with OpenAI's chat completions.
#[derive(Debug, PartialEq)]
pub(super) struct Endpoint {
    /// The part before `/chat/completions`.
    pub(super) base: Address,
    /// The part behind it: empty, or the version of Azure's API.
    pub(super) query: String,
    /// `true` for Azure OpenAI, which expects its keys in a header of its own.
    pub(super) azure: bool,
}

impl Endpoint {
    /// Accepts any address that a service documents: the host alone, with or without `/v1`, up to
    /// the deployment, or complete with `/chat/completions?api-version=..`.
    pub(super) fn openai(
        base_url: Option<&str>,
        api_version: Option<&str>,
        model: &str,
    ) -> Result<Self, ProviderError> {
        let url = base_url.unwrap_or("https://api.openai.com/v1");
        let (url, version) = match url.split_once("?api-version=") {
            Some((url, version)) => (url, Some(version)),
            None => (url, None),
        };
        let mut base = address("api.base_url", url)?;
        let whole = base.path.ends_with("/chat/completions");
        base.path.truncate(base.path.trim_end_matches("/chat/completions").len());
        let is_azure = |host: &str| {
            let name = host.split(':').next().unwrap_or(host);
            name.contains(".openai.azure.")
                || name.ends_with(".cognitiveservices.azure.com")
                || name.ends_with(".services.ai.azure.com")
        };
        let version = api_version.or(version);
        // The folder of the deployments: the model's name is that of the deployment.
        let deployments = base.path.ends_with("/openai/deployments");
        let deployed = deployments || base.path.contains("/openai/deployments/");
        let azure = is_azure(&base.host) || deployed || version.is_some();
        if let Some(version) = version {
            let sane = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
            if version.is_empty() || !version.chars().all(sane) {
                return Err(ProviderError::Setting(BadSetting::new(
                    "api.api_version", // Other query parameters may hold a key.
                    "something else",
                    "a version of Azure's API such as `2024-10-21`",
                )));
            }
        } else if deployed {
            return Err(ProviderError::Setting(BadSetting::new(
                "api.api_version",
                "none",
                "the version of Azure's API that the deployment is asked by, such as \
                           `2024-10-21` (or `?api-version=..` at the end of `api.base_url`)",
            )));
        }
        if deployments {
            base.path.push('/');
            base.path.push_str(&sigv4::encoded_segment(model));
        } else if azure && matches!(base.path.as_str(), "" | "/openai") && !whole {
            base.path = match version {
                Some(_) => format!("/openai/deployments/{}", sigv4::encoded_segment(model)),
                None => "/openai/v1".to_owned(),
            };
        } else if base.path.is_empty() && !whole {
            base.path.push_str("/v1");
        }
        let query = version.map_or_else(String::new, |version| format!("?api-version={version}"));
        Ok(Self { base, query, azure })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(base: &str, version: Option<&str>) -> Result<(String, bool), String> {
        let endpoint =
            Endpoint::openai(Some(base), version, "gpt-4o").map_err(|error| error.to_string())?;
        Ok((endpoint.base.join("/chat/completions") + &endpoint.query, endpoint.azure))
    }

    /// Addresses as the services document them: OpenAI's API reference, vLLM's server, Ollama's
    /// page on compatibility, Google's on OpenAI libraries, Azure OpenAI's REST reference.
    #[test]
    fn every_address_that_a_service_shows_leads_to_its_chat_completions() {
        let azure = "https://res.openai.azure.com";
        let deployment = format!("{azure}/openai/deployments/gpt4");
        let asked = format!("{deployment}/chat/completions?api-version=2024-10-21");
        let google = "https://generativelanguage.googleapis.com/v1beta/openai";
        for (base, version, expected) in [
            ("https://api.openai.com", None, "https://api.openai.com/v1/chat/completions"),
            ("https://api.openai.com/v1/", None, "https://api.openai.com/v1/chat/completions"),
            ("http://h:8000/v1/chat/completions", None, "http://h:8000/v1/chat/completions"),
            ("http://h:8000/chat/completions", None, "http://h:8000/chat/completions"),
            ("http://h:11434", None, "http://h:11434/v1/chat/completions"),
            ("https://h/api", None, "https://h/api/chat/completions"),
            (&format!("{google}/"), None, &format!("{google}/chat/completions")),
            (&format!("{deployment}?api-version=2024-10-21"), None, &asked),
            (&format!("{deployment}/"), Some("2024-10-21"), &asked),
            (&asked, None, &asked),
            (
                azure,
                Some("2024-10-21"),
                &format!(
                    "{azure}/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
                ),
            ),
            (
                &format!("{azure}/openai/deployments/"),
                Some("2024-10-21"),
                &format!(
                    "{azure}/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
                ),
            ),
            (azure, None, &format!("{azure}/openai/v1/chat/completions")),
            (&format!("{azure}/openai/v1/"), None, &format!("{azure}/openai/v1/chat/completions")),
            (
                "https://gateway.example/openai/deployments/x",
                Some("2024-10-21"),
                "https://gateway.example/openai/deployments/x/chat/completions?api-version=2024-10-21",
            ),
        ] {
            let is_azure = base.contains("azure") || base.contains("deployments");
            assert_eq!(url(base, version).unwrap(), (expected.to_owned(), is_azure), "{base}");
        }
        assert!(url(&deployment, None).unwrap_err().contains("`api.api_version`"));
        for secret in ["?key=sk-1", "?api-version=1&key=sk-1"] {
            let error = url(&format!("{deployment}{secret}"), None).unwrap_err();
            assert!(!error.contains("sk-1"), "{error}");
        }
    }
}
