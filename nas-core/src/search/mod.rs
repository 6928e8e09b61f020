//! Searches: what is to be made better, the log of trials, and the loop that runs them.

pub mod analysis;
pub mod board;
pub mod goals;
pub mod layers;
pub mod log;
pub mod operators;
pub mod pareto;
pub mod rows;
mod search_loop;
mod searcher;
pub mod start;
pub mod table;

pub use search_loop::{SearchLoop, best_so_far};
pub use searcher::Searcher;
