//! SIGINT and SIGTERM as a flag that long jobs look at between steps.

use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Starts to listen. The first signal raises the flag, so that a job can save and stop; the second ends the process.
pub fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::SeqCst) {
            std::process::exit(1);
        }
    })?;
    Ok(())
}

/// Raises the flag: a signal has come to another process of this run.
pub(crate) fn request() {
    REQUESTED.store(true, Ordering::SeqCst);
}

/// Whether a signal has come.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// A job that stopped because a signal came; what it had computed is saved.
#[derive(Debug, thiserror::Error)]
#[error("stopped by a signal; the work so far is saved, the same command with --resume goes on with it")]
pub struct Interrupted;
