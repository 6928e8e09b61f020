//! The frame that every task fills: experiment files and commands.

pub mod commands;
pub mod experiment;
