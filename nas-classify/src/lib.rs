//! Image classification: cell and block search spaces, networks, training, and the proof of the search strategies on a table
//! of trained networks.

pub mod cells;
pub mod chain;
pub mod commands;
pub mod drawing;
pub mod evaluation;
pub mod experiment;
pub mod loss;
pub mod metric;
pub mod mobile;
pub mod model;
pub mod nasbench201;
pub mod one_shot;
pub mod search_net;
pub mod searching;
pub mod train_experiment;
pub mod training;
pub mod trial_training;
pub mod zero_cost;
