//! What a command of any task runs in: arguments, experiment files, the device, the run folder, lines, curves and pictures.

pub mod cli;
pub mod config;
pub mod confusion;
pub mod device;
pub mod drawing;
pub mod export;
pub mod import;
pub mod interrupt;
pub mod launch;
pub mod page;
pub mod picture;
pub mod plot;
pub mod precision_recall;
pub mod progress;
pub mod ranges;
pub mod run_dir;
pub mod tensor_file;
pub mod tensorboard;
pub mod times;
mod watch;
pub mod words;
