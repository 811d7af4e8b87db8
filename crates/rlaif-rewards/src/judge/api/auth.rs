//! The address of a service, and the keys for its requests.

use rlaif_http::{Address, BadAddress, Secret};

use super::super::sigv4::Credentials;
use rlaif_core::BadSetting;

use crate::ProviderError;

#[derive(Debug)]
pub(super) enum Auth {
    None,
    Header { name: &'static str, prefix: &'static str, key: Secret },
    Aws { credentials: Credentials, region: String },
}

/// Parses the address of a setting.
pub(in crate::judge) fn address(
    setting: &'static str,
    url: &str,
) -> Result<Address, ProviderError> {
    Address::parse(url).map_err(|bad| {
        ProviderError::Setting(BadSetting::new(setting, bad.found, BadAddress::EXPECTED))
    })
}
