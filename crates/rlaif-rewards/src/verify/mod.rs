//! Rewards that check a response: against a right answer, a schema, or the tests of a program.
//!
//! A row without an answer to compare with has no score, and the reason why.

mod code;
mod instructions;
mod math;
mod schema;
mod text;
mod truth;

pub use code::{CodeTests, TestScore};
pub use instructions::{InstructionCheck, Instructions};
pub use math::{AnswerPlace, MathAnswer, same_answer};
pub use rlaif_sandbox::{Ran, Sandbox, SandboxLimits};
pub use schema::JsonSchemaCheck;
pub use text::{TextAnswer, TextComparison};
pub use truth::Truth;
