//! Commands that all tasks share.

pub mod analyse;
pub mod ask;
pub mod bench;
pub mod common;
pub mod compare;
pub mod cost;
pub mod data;
pub mod export;
pub mod gpu_check;
pub mod import;
pub mod init;
pub mod latency;
pub mod latency_table;
pub mod models;
mod one_shot;
pub mod report;
pub mod search;
pub mod strategies;
pub mod train;
pub mod trained;
pub mod trainings;
pub mod trial;
pub mod watch;
