//! Retries of requests: pauses that double, with jitter, and the server's `Retry-After`.

use std::time::{Duration, SystemTime};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use ureq::http::HeaderMap;
use ureq::http::header::RETRY_AFTER;

/// The longest pause that no server asked for.
const LONGEST_OF_OUR_OWN: Duration = Duration::from_secs(30);

/// Handling of failures that may pass.
///
/// Pauses double from `first_pause`, each up to twice as long by chance, and are never shorter than
/// the server asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Attempts after the first one.
    pub retries: usize,
    /// The shortest pause before the first of them.
    pub first_pause: Duration,
    /// No pause is longer; one that no server asks for is at most half a minute besides. A server
    /// that asks for a longer pause is not asked again.
    pub longest_pause: Duration,
}

impl Default for Retry {
    /// Five retries, from half a second on, and never more than two minutes.
    fn default() -> Self {
        Self {
            retries: 5,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_mins(2),
        }
    }
}

impl Retry {
    /// The patience with one request.
    pub fn patience(self) -> Patience {
        // Jitter adds as much again at most.
        let longest = self.longest_pause.min(LONGEST_OF_OUR_OWN) / 2;
        let pauses = ExponentialBuilder::default()
            .with_min_delay(self.first_pause.min(longest))
            .with_max_delay(longest)
            .with_max_times(self.retries)
            .with_jitter()
            .build();
        Patience { pauses, attempts: 1, longest: self.longest_pause }
    }
}

/// Progress of one request.
#[derive(Debug)]
pub struct Patience {
    pauses: ExponentialBackoff,
    attempts: usize,
    longest: Duration,
}

/// Reasons for giving up on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GivenUp {
    /// The maximum number of attempts is reached.
    #[error("after request {attempts}")]
    Attempts {
        /// Requests so far.
        attempts: usize,
    },
    /// The server asks for a longer pause than it is worth.
    #[error("it asks for a wait of {} s, more than {} s", .asked.as_secs(), .longest.as_secs_f64())]
    Wait {
        /// The pause that the server asks for.
        asked: Duration,
        /// The longest that is made.
        longest: Duration,
    },
}

impl Patience {
    /// Requests so far.
    pub fn attempts(&self) -> usize {
        self.attempts
    }

    /// The pause before the next attempt, which is not shorter than the server `asked` for.
    ///
    /// # Errors
    /// [`GivenUp`] when there is to be none.
    pub fn pause(&mut self, asked: Option<Duration>) -> Result<Duration, GivenUp> {
        let Some(own) = self.pauses.next() else {
            return Err(GivenUp::Attempts { attempts: self.attempts });
        };
        let asked = asked.unwrap_or_default();
        if asked > self.longest {
            return Err(GivenUp::Wait { asked, longest: self.longest });
        }
        self.attempts += 1;
        Ok(own.max(asked))
    }
}

/// The wait that a server asks for: milliseconds in `Retry-After-Ms` (OpenAI's own header),
/// seconds or a date in `Retry-After` (RFC 9110, section 10.2.3), which is compared with `now`.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use rlaif_http::ureq::http::HeaderMap;
/// let mut headers = HeaderMap::new();
/// headers.insert("retry-after", "2".parse()?);
/// let asked = rlaif_http::retry_after(&headers, SystemTime::now());
/// assert_eq!(asked, Some(Duration::from_secs(2)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let number = |text: &str| text.parse().ok().filter(|n: &f64| (0. ..1e9).contains(n));
    let milliseconds = headers.get("retry-after-ms").and_then(|ms| ms.to_str().ok());
    if let Some(ms) = milliseconds.and_then(|ms| number(ms.trim())) {
        return Some(Duration::from_secs_f64(ms / 1e3));
    }
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Some(seconds) = number(value) {
        return Some(Duration::from_secs_f64(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_of_retry_after_is_understood() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let after = |ms: Option<&str>, s: Option<&str>| {
            let mut headers = HeaderMap::new();
            for (name, value) in [("retry-after-ms", ms), ("retry-after", s)] {
                if let Some(value) = value {
                    headers.insert(name, value.parse().unwrap());
                }
            }
            retry_after(&headers, now)
        };
        assert_eq!(after(None, None), None);
        assert_eq!(after(None, Some("2")), Some(Duration::from_secs(2)));
        assert_eq!(after(Some("150"), Some("2")), Some(Duration::from_millis(150)));
        assert_eq!(after(None, Some("-1")), None);
        assert_eq!(after(None, Some("soon")), None);
        assert_eq!(after(None, Some("Wed, 21 Oct 2015 07:28:00 GMT")), Some(Duration::ZERO));
        let date = httpdate::fmt_http_date(now + Duration::from_secs(30));
        assert_eq!(after(None, Some(&date)), Some(Duration::from_secs(30)));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let headers = |value: &str| HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(retry_after(&headers("7"), now), Some(Duration::from_secs(7)));
        let date = headers("Sun, 06 Nov 1994 08:49:47 GMT");
        assert_eq!(retry_after(&date, now), Some(Duration::from_secs(10)));
        let past = headers("Sun, 06 Nov 1994 08:49:07 GMT");
        assert_eq!(retry_after(&past, now), Some(Duration::ZERO));
        assert_eq!(retry_after(&headers("soon"), now), None);
    }

    proptest! {
        #[test]
        fn pauses_double_and_stay_within_their_bounds(
            first in 0_u64..2_000, longest in 0_u64..100_000, retries in 0_usize..12,
            asked in prop::option::of(0_u64..200_000),
        ) {
            let ms = Duration::from_millis;
            let retry =
                Retry { retries, first_pause: ms(first), longest_pause: ms(longest) };
            let mut patience = retry.patience();
            for n in 0..retries {
                let pause = patience.pause(asked.map(ms));
                if asked.is_some_and(|asked| asked > longest) {
                    let refused = matches!(pause, Err(GivenUp::Wait { .. }));
                    prop_assert!(refused);
                    return Ok(());
                }
                let pause = pause.unwrap();
                let least = ms(first << n).min(ms(longest.min(30_000)) / 2);
                // Doubling is in f32.
                prop_assert!(pause.as_secs_f64() >= least.as_secs_f64() * 0.999);
                prop_assert!(pause >= ms(asked.unwrap_or(0)));
                prop_assert!(pause <= ms(longest));
                let most = (2. * least.as_secs_f64()).max(asked.unwrap_or(0) as f64 / 1e3);
                prop_assert!(pause.as_secs_f64() <= most * 1.001);
            }
            prop_assert_eq!(
                patience.pause(None),
                Err(GivenUp::Attempts { attempts: retries + 1 })
            );
        }
    }
}
