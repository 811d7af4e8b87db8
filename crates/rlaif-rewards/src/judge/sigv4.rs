//! AWS Signature Version 4, for requests without a query.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>.
//! This is a hundred lines instead of the SDK's signer, which needs an async runtime. Tests compare
//! it with AWS's published vectors and botocore.

use std::fmt::Write as _;
use std::time::SystemTime;

use hmac::{Hmac, KeyInit, Mac};
use rlaif_files::hex;
use rlaif_http::Secret;
use sha2::{Digest, Sha256};

/// The signer.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    pub(super) access_key_id: String,
    pub(super) secret_access_key: Secret,
    pub(super) session_token: Option<Secret>,
}

/// The signed request.
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    pub(super) service: &'a str,
    pub(super) region: &'a str,
    /// With the port, unless it is the scheme's default.
    pub(super) host: &'a str,
    /// As sent: percent-encoded once.
    pub(super) path: &'a str,
    pub(super) content_type: Option<&'a str>,
    pub(super) body: &'a [u8],
    pub(super) at: SystemTime,
}

impl Credentials {
    /// The headers that authenticate the request.
    pub(super) fn sign(&self, request: &Signed<'_>) -> Vec<(&'static str, String)> {
        let (date, time) = date_and_time(request.at);
        let stamp = format!("{date}T{time}Z");
        let mut headers = vec![("host", request.host.to_owned()), ("x-amz-date", stamp.clone())];
        headers.extend(request.content_type.map(|t| ("content-type", t.to_owned())));
        let token = self.session_token.as_ref().map(|t| t.expose().to_owned());
        headers.extend(token.clone().map(|t| ("x-amz-security-token", t)));
        headers.sort();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();

        let canonical = format!(
            "{}\n{}\n\n{lines}\n{names}\n{}",
            request.method,
            encoded_path(request.path),
            hex(&Sha256::digest(request.body)),
        );
        let scope = format!("{date}/{}/{}/aws4_request", request.region, request.service);
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}",
            hex(&Sha256::digest(canonical.as_bytes()))
        );
        let first = format!("AWS4{}", self.secret_access_key.expose()).into_bytes();
        let steps = [date.as_str(), request.region, request.service, "aws4_request", &to_sign];
        let signature = steps.iter().fold(first, |key, step| hmac(&key, step.as_bytes()));

        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={}",
            self.access_key_id,
            hex(&signature),
        );
        let mut sent = vec![("x-amz-date", stamp), ("authorization", authorization)];
        sent.extend(token.map(|t| ("x-amz-security-token", t)));
        sent
    }
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

/// Percent-encodes a path segment: all but letters, digits and `-._~`.
pub(super) fn encoded_segment(segment: &str) -> String {
    segment.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// The canonical path: the path as sent, encoded once more.
fn encoded_path(path: &str) -> String {
    path.split('/').map(encoded_segment).collect::<Vec<_>>().join("/")
}

/// `YYYYMMDD` and `HHMMSS` of a time in UTC; times before 1970 give the start of 1970.
fn date_and_time(at: SystemTime) -> (String, String) {
    let at = jiff::Timestamp::try_from(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    (at.strftime("%Y%m%d").to_string(), at.strftime("%H%M%S").to_string())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn signatures_are_those_of_botocore_and_of_awss_test_suite() {
        let goldens: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/sigv4.json")).unwrap();
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let secret = |value: String| {
            Secret::from_environment("GOLDEN", &move |_| Some(value.clone())).unwrap()
        };
        let at = UNIX_EPOCH + Duration::from_secs(goldens["seconds"].as_u64().unwrap());
        for case in goldens["cases"].as_array().unwrap() {
            let credentials = Credentials {
                access_key_id: text(&goldens["access_key_id"]).unwrap(),
                secret_access_key: secret(text(&goldens["secret_access_key"]).unwrap()),
                session_token: text(&case["session_token"]).map(secret),
            };
            let headers = credentials.sign(&Signed {
                method: case["method"].as_str().unwrap(),
                service: case["service"].as_str().unwrap(),
                region: case["region"].as_str().unwrap(),
                host: case["host"].as_str().unwrap(),
                path: case["path"].as_str().unwrap(),
                content_type: case["content_type"].as_str(),
                body: case["body"].as_str().unwrap().as_bytes(),
                at,
            });
            let found = headers.iter().find(|(name, _)| *name == "authorization").unwrap();
            assert_eq!(found.1, text(&case["authorization"]).unwrap(), "{}", case["name"]);
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        // `date -u -d @N +%Y%m%d %H%M%S`.
        let golden = [
            (0, "19700101", "000000"),
            (951_782_400, "20000229", "000000"),
            (1_440_938_160, "20150830", "123600"),
            (1_709_251_199, "20240229", "235959"),
            (4_107_542_400, "21000301", "000000"),
        ];
        for (seconds, date, time) in golden {
            let found = date_and_time(UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(found, (date.to_owned(), time.to_owned()));
        }
    }
}
