//! Run files: one program, so that what they depend on is linked once.

mod own_command;
mod pipeline;
mod prose;
mod schema;
mod tokens;
mod trl;
