//! Image classification: cell and block search spaces, and the proof of the search strategies on a table of trained
//! networks.

pub mod commands;
pub mod evaluation;
pub mod experiment;
pub mod loss;
pub mod metric;
pub mod model;
pub mod nasbench201;
pub mod train_experiment;
pub mod training;
pub mod trial_training;
