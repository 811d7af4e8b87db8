//! Usage, cost and budget of a judge.

use std::ops::AddAssign;
use std::sync::{Condvar, Mutex, PoisonError};

use super::keys::{BudgetConfig, PriceConfig};
use crate::sync::lock;

/// Usage of a judge since it was created.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
#[non_exhaustive]
pub struct Usage {
    /// Requests sent, retries included.
    pub requests: u64,
    /// Number of these requests that are retries after an error.
    pub retries: u64,
    /// Number of these requests that repeat a question after an answer without a verdict.
    pub reasks: u64,
    /// Answers taken from the cache.
    pub cached: u64,
    /// Tokens of questions, as counted by the server.
    pub input_tokens: u64,
    /// Tokens of answers, as counted by the server.
    pub output_tokens: u64,
    /// Estimated tokens of questions whose answers were lost: they may have been billed.
    pub lost_tokens: u64,
    /// The cost, if prices are configured; lost tokens count as input.
    pub cost: Option<f64>,
}

/// Tokens of one request and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tokens {
    pub(super) input: u64,
    pub(super) output: u64,
}

/// Outcome of a request, for accounting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// Answered, with the server's token counts.
    Used(Tokens),
    /// Refused: no tokens were used.
    Nothing,
    /// Never sent.
    Unsent,
    /// No answer was received: the question may have been billed.
    Lost,
}

impl Settled {
    /// The tokens that the request used, or may have used, of those that were reserved for it.
    pub(super) fn spent(self, reserved: Tokens) -> Tokens {
        match self {
            Self::Used(tokens) => tokens,
            Self::Nothing | Self::Unsent => Tokens::default(),
            Self::Lost => Tokens { input: reserved.input, output: 0 },
        }
    }
}

impl AddAssign for Tokens {
    fn add_assign(&mut self, more: Self) {
        self.input += more.input;
        self.output += more.output;
    }
}

/// The accounts: usage, and reservations for requests in flight.
#[derive(Debug)]
pub(super) struct Ledger {
    price: Option<PriceConfig>,
    budget: Option<BudgetConfig>,
    open: Mutex<Open>,
    settled: Condvar,
}

#[derive(Debug, Default)]
struct Open {
    usage: Usage,
    under_way: u64,
    reserved: Tokens,
}

impl Ledger {
    pub(super) fn new(price: Option<PriceConfig>, budget: Option<BudgetConfig>) -> Self {
        Self { price, budget, open: Mutex::default(), settled: Condvar::new() }
    }

    pub(super) fn usage(&self) -> Usage {
        let mut usage = lock(&self.open).usage;
        usage.cost = self.price.map(|_| self.cost(spent(&usage)));
        usage
    }

    pub(super) fn count(&self, what: impl FnOnce(&mut Usage)) {
        what(&mut lock(&self.open).usage);
    }

    /// Reserves tokens for a request, or returns the limit that it would exceed.
    ///
    /// If requests in flight have reserved the tokens that this one needs, waits for their release.
    pub(super) fn reserve(&self, tokens: Tokens) -> Result<(), String> {
        let mut open = lock(&self.open);
        loop {
            let spent = spent(&open.usage);
            let all = Tokens {
                input: spent.input + open.reserved.input + tokens.input,
                output: spent.output + open.reserved.output + tokens.output,
            };
            let Some(broken) = self.broken_by(all, spent) else {
                open.reserved.input += tokens.input;
                open.reserved.output += tokens.output;
                open.under_way += 1;
                open.usage.requests += 1;
                return Ok(());
            };
            if open.under_way == 0 {
                return Err(broken);
            }
            open = self.settled.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn settle(&self, reserved: Tokens, how: Settled) {
        let mut open = lock(&self.open);
        open.reserved.input -= reserved.input;
        open.reserved.output -= reserved.output;
        open.under_way -= 1;
        match how {
            Settled::Used(tokens) => {
                open.usage.input_tokens += tokens.input;
                open.usage.output_tokens += tokens.output;
            }
            Settled::Nothing => {}
            Settled::Unsent => open.usage.requests -= 1,
            Settled::Lost => open.usage.lost_tokens += reserved.input,
        }
        self.settled.notify_all();
    }

    /// The cost of tokens, where prices are configured.
    pub(super) fn cost_of(&self, tokens: Tokens) -> Option<f64> {
        self.price.map(|_| self.cost(tokens))
    }

    fn cost(&self, tokens: Tokens) -> f64 {
        self.price.map_or(0., |price| {
            (tokens.input as f64 * price.input_per_million
                + tokens.output as f64 * price.output_per_million)
                / 1e6
        })
    }

    fn broken_by(&self, all: Tokens, spent: Tokens) -> Option<String> {
        let BudgetConfig { money, tokens } = self.budget?;
        if let Some(most) = tokens.filter(|most| all.input + all.output > *most) {
            let used = spent.input + spent.output;
            return Some(format!("the budget of {most} tokens is used up ({used} used)"));
        }
        let most = money.filter(|most| self.cost(all) > *most)?;
        Some(format!("the budget of {most} is used up ({:.6} spent)", self.cost(spent)))
    }
}

fn spent(usage: &Usage) -> Tokens {
    Tokens { input: usage.input_tokens + usage.lost_tokens, output: usage.output_tokens }
}
