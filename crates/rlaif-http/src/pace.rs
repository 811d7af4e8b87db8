//! The time of the next request: limits of requests and tokens per minute, and pauses that servers
//! request.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A signal that ends the work of several threads, and the sleep of those that wait.
///
/// ```
/// use std::time::{Duration, Instant};
/// let stop = rlaif_http::Stop::default();
/// stop.stop();
/// stop.sleep_until(Instant::now() + Duration::from_secs(3_600)); // returns at once
/// assert!(stop.stopped());
/// ```
#[derive(Debug, Default)]
pub struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Ends all work permanently.
    pub fn stop(&self) {
        *lock(&self.stopped) = true;
        self.changed.notify_all();
    }

    /// Returns true once the work is to end.
    pub fn stopped(&self) -> bool {
        *lock(&self.stopped)
    }

    /// Sleeps until `until`, or until all is stopped.
    pub fn sleep_until(&self, until: Instant) {
        let mut stopped = lock(&self.stopped);
        while !*stopped {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            stopped =
                self.changed.wait_timeout(stopped, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Spaces requests evenly, so that no window of time sees more than its share.
///
/// Providers refill their limits continuously, so that bursts are refused even where the minute
/// as a whole would allow them.
///
/// ```
/// let (pace, stop) = (rlaif_http::Pace::new(Some(600_000.), None), rlaif_http::Stop::default());
/// pace.wait(100, &stop);
/// pace.settle(100, 20); // what the service counted
/// ```
#[derive(Debug)]
pub struct Pace {
    between_requests: Duration,
    per_token: Duration,
    /// Held while waiting for a turn: turns are taken one by one, at least the interval apart, even
    /// if a thread wakes late.
    turn: Mutex<()>,
    next: Mutex<Next>,
}

#[derive(Debug, Clone, Copy)]
struct Next {
    /// The time of the next request.
    request: Instant,
    /// The time at which the tokens requested so far are paid off.
    tokens: Instant,
}

impl Pace {
    /// A pace with these limits of requests and tokens per minute; `None` sets no limit.
    pub fn new(requests_per_minute: Option<f64>, tokens_per_minute: Option<f64>) -> Self {
        let share = |per_minute: Option<f64>| {
            per_minute.map_or(Duration::ZERO, |n| Duration::from_secs_f64(60. / n))
        };
        let now = Instant::now();
        Self {
            between_requests: share(requests_per_minute),
            per_token: share(tokens_per_minute),
            turn: Mutex::new(()),
            next: Mutex::new(Next { request: now, tokens: now }),
        }
    }

    /// Waits for the turn of a request of about `tokens` tokens.
    pub fn wait(&self, tokens: u64, stop: &Stop) {
        let _turn = lock(&self.turn);
        while !stop.stopped()
            && let Some(due) = self.take(tokens, Instant::now())
        {
            stop.sleep_until(due);
        }
    }

    /// Takes the turn at the time `now`, or gives the time from which on it can be taken.
    fn take(&self, tokens: u64, now: Instant) -> Option<Instant> {
        let mut next = lock(&self.next);
        let due = next.request.max(next.tokens);
        if due > now {
            return Some(due);
        }
        next.request = now + self.between_requests;
        next.tokens = next.tokens.max(now) + self.cost(tokens);
        None
    }

    /// Corrects an estimate of tokens by what they were.
    pub fn settle(&self, estimated: u64, actual: u64) {
        let mut next = lock(&self.next);
        if actual >= estimated {
            next.tokens += self.cost(actual - estimated);
        } else {
            let refund = self.cost(estimated - actual);
            next.tokens = next.tokens.checked_sub(refund).unwrap_or(next.tokens);
        }
    }

    /// Lets no request go before `until`: a server said that all of them are too many.
    pub fn pause_until(&self, until: Instant) {
        let mut next = lock(&self.next);
        next.request = next.request.max(until);
    }

    fn cost(&self, tokens: u64) -> Duration {
        let seconds = self.per_token.as_secs_f64() * tokens as f64;
        Duration::from_secs_f64(seconds.min(86_400.))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_never_closer_than_the_interval() {
        let start = Instant::now();
        let pace = Pace::new(Some(12_000.), None);
        let stop = Stop::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..10).for_each(|_| pace.wait(1, &stop)));
            }
        });
        // No upper bound: who wakes late has all those behind wait.
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(79 * 5), "{took:?}");
    }

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_late_turn_shifts_the_next_one_and_a_pause_all_of_them() {
        let pace = Pace::new(Some(12_000.), None);
        let start = Instant::now();
        assert_eq!(pace.take(1, start), None);
        assert_eq!(pace.take(1, start), Some(start + ms(5)));
        assert_eq!(pace.take(1, start + ms(7)), None);
        assert_eq!(pace.take(1, start + ms(10)), Some(start + ms(12)));
        pace.pause_until(start + ms(1_000));
        assert_eq!(pace.take(1, start + ms(12)), Some(start + ms(1_000)));
        pace.pause_until(start + ms(500));
        assert_eq!(pace.take(1, start + ms(999)), Some(start + ms(1_000)), "a pause cut short");
        assert_eq!(pace.take(1, start + ms(1_000)), None);
    }

    #[test]
    fn tokens_are_paid_off_before_the_next_request() {
        // A thousand tokens a second.
        let pace = Pace::new(None, Some(60_000.));
        let start = Instant::now();
        assert_eq!(pace.take(100, start), None);
        assert_eq!(pace.take(0, start), Some(start + ms(100)));
        assert_eq!(pace.take(100_000, start + ms(100)), None);
        assert_eq!(pace.take(0, start + ms(100)), Some(start + ms(100_100)));
        pace.settle(100_000, 50);
        assert_eq!(pace.take(0, start + ms(100)), Some(start + ms(150)));
        assert_eq!(pace.take(0, start + ms(150)), None);
        pace.settle(0, 20);
        assert_eq!(pace.take(0, start + ms(150)), Some(start + ms(170)));
    }

    #[test]
    fn who_waits_is_woken_by_a_stop() {
        let pace = Pace::new(Some(1.), None);
        let stop = Stop::default();
        pace.wait(1, &stop);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let start = Instant::now();
                pace.wait(1, &stop);
                start.elapsed()
            });
            std::thread::sleep(Duration::from_millis(20));
            stop.stop();
            assert!(waiting.join().unwrap() < Duration::from_secs(30));
        });
    }
}
