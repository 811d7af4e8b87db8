//! A hub: its address, its cache, and the credentials for it.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rlaif_http::Retry;

use crate::error::HubError;
use crate::http::Client;
use crate::progress::{Bars, DownloadProgress, Quiet};
use crate::token::Token;

/// Permission to make network requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Request files that are not in the cache.
    Online,
    /// Use the cache only.
    Offline,
}

/// A hub and the cache of its files on this disk. Cheap to clone.
///
/// The cache has the layout of Python's `huggingface_hub`; each finds the files that the other
/// downloaded.
///
/// ```
/// use rlaif_hub::{Hub, Network, RepoKind};
///
/// let cache = std::env::temp_dir();
/// let hub = Hub::builder().cache_dir(&cache).network(Network::Offline).build()?;
/// let repo = hub.repo(RepoKind::Model, "google/flan-t5-small", Some("main"))?;
/// // Offline, and never downloaded: the error says where it was looked for and what to do.
/// let error = repo.get("config.json").unwrap_err();
/// assert!(error.to_string().contains("HF_HUB_OFFLINE"));
/// # Ok::<(), rlaif_hub::HubError>(())
/// ```
#[derive(Clone)]
pub struct Hub {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) client: Client,
    pub(crate) cache: PathBuf,
    pub(crate) network: Network,
}

impl Hub {
    /// The hub that the environment names, as Python's `huggingface_hub` reads it.
    ///
    /// | variable | meaning | default |
    /// |---|---|---|
    /// | `HF_ENDPOINT` | the hub's address | `https://huggingface.co` |
    /// | `HF_HOME` | token and cache | `$XDG_CACHE_HOME/huggingface`, `~/.cache/huggingface` |
    /// | `HF_HUB_CACHE` | the cache alone | `$HF_HOME/hub` |
    /// | `HF_TOKEN` | access token | content of `HF_TOKEN_PATH`, else of `$HF_HOME/token` |
    /// | `HF_HUB_DISABLE_IMPLICIT_TOKEN` | `1`: send no token | |
    /// | `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE` | `1`: the cache alone | |
    /// | `HF_HUB_DISABLE_PROGRESS_BARS` | `1`: no bars, no notices | |
    ///
    /// # Errors
    /// [`HubError::InvalidEndpoint`], [`HubError::InvalidToken`], [`HubError::NoCacheFolder`], or
    /// [`HubError::Io`] when the token file exists but cannot be read.
    pub fn from_env() -> Result<Self, HubError> {
        HubBuilder::from_variables(|name| std::env::var_os(name))?.build()
    }

    /// A hub configured explicitly; the environment is not read.
    pub fn builder() -> HubBuilder {
        HubBuilder::default()
    }

    /// The folder of the cache.
    pub fn cache_dir(&self) -> &Path {
        &self.inner.cache
    }

    /// The hub's address.
    pub fn endpoint(&self) -> &str {
        self.inner.client.endpoint()
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("endpoint", &self.endpoint())
            .field("cache", &self.inner.cache)
            .field("network", &self.inner.network)
            .finish_non_exhaustive()
    }
}

/// Describes a [`Hub`].
#[must_use]
pub struct HubBuilder {
    endpoint: String,
    cache: Option<PathBuf>,
    token: Option<(String, String)>,
    network: Network,
    retry: Retry,
    progress: Arc<dyn DownloadProgress>,
}

impl Default for HubBuilder {
    fn default() -> Self {
        Self {
            endpoint: "https://huggingface.co".to_owned(),
            cache: None,
            token: None,
            network: Network::Online,
            retry: Retry::default(),
            progress: Arc::new(Bars::default()),
        }
    }
}

impl HubBuilder {
    /// As [`Hub::from_env`], with changes to follow.
    ///
    /// # Errors
    /// [`HubError::Io`] when the token file exists but cannot be read.
    pub fn from_env() -> Result<Self, HubError> {
        Self::from_variables(|name| std::env::var_os(name))
    }

    fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> Result<Self, HubError> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let text = |name: &str| get(name).and_then(|value| value.into_string().ok());
        let on = |name: &str| {
            text(name).is_some_and(|value| {
                matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
            })
        };
        let home_dir = std::env::home_dir();
        let path = |name: &str| {
            let path = PathBuf::from(get(name)?);
            match (path.strip_prefix("~"), &home_dir) {
                (Ok(rest), Some(home)) => Some(home.join(rest)),
                _ => Some(path),
            }
        };
        let home = path("HF_HOME")
            .or_else(|| Some(path("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(home_dir.clone()?.join(".cache").join("huggingface")));
        let mut builder = Self {
            cache: path("HF_HUB_CACHE").or_else(|| Some(home.clone()?.join("hub"))),
            ..Self::default()
        };
        if let Some(endpoint) = text("HF_ENDPOINT") {
            builder.endpoint = endpoint;
        }
        if on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE") {
            builder.network = Network::Offline;
        }
        if on("HF_HUB_DISABLE_PROGRESS_BARS") {
            builder.progress = Arc::new(Quiet);
        }
        if !on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            let file = path("HF_TOKEN_PATH").or_else(|| Some(home?.join("token")));
            builder.token = match text("HF_TOKEN") {
                Some(token) => Some((token, "HF_TOKEN".to_owned())),
                None => file.map(|file| read_token(&file)).transpose()?.flatten(),
            };
        }
        Ok(builder)
    }

    /// The hub's address (default `https://huggingface.co`).
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = endpoint.into();
        self
    }

    /// The folder of the cache, as `HF_HUB_CACHE` names it.
    pub fn cache_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache = Some(folder.into());
        self
    }

    /// The access token, sent to the hub's own address only; an empty token counts as absent.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some((token.into(), "the program".to_owned()));
        self
    }

    /// Permission to make requests (default [`Network::Online`]).
    pub fn network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// The retries after transient failures.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The receiver of progress events (default [`Bars`]).
    pub fn progress(mut self, progress: impl DownloadProgress + 'static) -> Self {
        self.progress = Arc::new(progress);
        self
    }

    /// Builds the hub.
    ///
    /// # Errors
    /// [`HubError::InvalidEndpoint`], [`HubError::InvalidToken`], and
    /// [`HubError::NoCacheFolder`] where no cache folder is given or known.
    pub fn build(self) -> Result<Hub, HubError> {
        let token = match self.token {
            Some((secret, origin)) => Token::new(&secret, origin)?,
            None => None,
        };
        let client = Client::new(&self.endpoint, token, self.retry, self.progress)?;
        let cache = self.cache.ok_or(HubError::NoCacheFolder)?;
        // Links in the cache are relative to it, and the working directory may change.
        let cache = std::path::absolute(&cache).map_err(HubError::io("find the folder", &cache))?;
        Ok(Hub { inner: Arc::new(Inner { client, cache, network: self.network }) })
    }
}

impl fmt::Debug for HubBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubBuilder")
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|(_, origin)| format!("*** from {origin}")))
            .field("network", &self.network)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

fn read_token(file: &Path) -> Result<Option<(String, String)>, HubError> {
    match rlaif_files::read_text(file, 1 << 16) {
        Ok(token) => Ok(Some((token, file.display().to_string()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HubError::io("read the access token in", file)(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> HubBuilder {
        HubBuilder::from_variables(|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value))
        })
        .unwrap()
    }

    #[test]
    fn the_environment_is_read_as_python_reads_it() {
        let home = std::env::home_dir().unwrap();
        assert_eq!(from(&[]).cache.unwrap(), home.join(".cache/huggingface/hub"));
        assert_eq!(from(&[]).endpoint, "https://huggingface.co");
        assert_eq!(from(&[]).network, Network::Online);
        let xdg = from(&[("XDG_CACHE_HOME", "/x")]);
        assert_eq!(xdg.cache.unwrap(), Path::new("/x/huggingface/hub"));
        let hf_home = from(&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/h")]);
        assert_eq!(hf_home.cache.unwrap(), home.join("h/hub"));
        let both = from(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")]);
        assert_eq!(both.cache.unwrap(), Path::new("/c"));
        let mirror = from(&[("HF_ENDPOINT", "https://mirror.test/"), ("HF_HUB_OFFLINE", "true")]);
        assert_eq!(mirror.network, Network::Offline);
        assert_eq!(mirror.build().unwrap().endpoint(), "https://mirror.test");
        assert_eq!(from(&[("HF_HUB_OFFLINE", "0")]).network, Network::Online);
        assert_eq!(from(&[("TRANSFORMERS_OFFLINE", "1")]).network, Network::Offline);
    }

    #[test]
    fn tokens_come_from_the_variable_then_the_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_str().unwrap();
        std::fs::write(home.path().join("token"), "hf_file\n").unwrap();
        std::fs::write(home.path().join("other"), "hf_other\n").unwrap();
        let other = format!("{path}/other");
        let secret = |variables: &[(&str, &str)]| from(variables).token.map(|(secret, _)| secret);
        assert_eq!(secret(&[("HF_HOME", path)]).as_deref(), Some("hf_file\n"));
        let by_path = [("HF_HOME", path), ("HF_TOKEN_PATH", other.as_str())];
        assert_eq!(secret(&by_path).as_deref(), Some("hf_other\n"));
        let variable = [("HF_HOME", path), ("HF_TOKEN", "hf_variable")];
        assert_eq!(secret(&variable).as_deref(), Some("hf_variable"));
        let disabled = [("HF_TOKEN", "hf_x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
        assert_eq!(secret(&disabled), None);
        let debug = format!("{:?}", from(&variable));
        assert!(!debug.contains("hf_variable") && debug.contains("HF_TOKEN"), "{debug}");
    }
}
