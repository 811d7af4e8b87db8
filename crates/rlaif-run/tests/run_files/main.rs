//! Run files: one program, so that what they depend on is linked once.

mod own_command;
mod pipeline;
mod prose;
mod schema;
mod tokens;
mod trl;
mod vllm;
#[path = "../../../rlaif-engine/tests/suite/server.rs"]
#[expect(dead_code, reason = "faults are those of the tests of rlaif-engine")]
mod vllm_server;
