//! One file per command of `nas-classify`.

pub mod bench;
pub mod bench_step;
pub mod compare;
pub mod cost;
pub mod data;
pub mod eval;
pub mod export;
mod one_shot;
pub mod predict;
pub mod report;
pub mod search;
pub mod strategies;
pub mod train;
pub mod trial;

use anyhow::{Result, bail};
use nas_datasets::classify::{ClassifyDataset, check};

/// Looks at every sample of a set before hours are spent on it.
fn require_sound(dataset: &dyn ClassifyDataset, what: &str) -> Result<()> {
    let problems = check(dataset);
    if problems.is_empty() {
        return Ok(());
    }
    const SHOWN: usize = 10;
    let shown: Vec<String> = problems.iter().take(SHOWN).map(|problem| format!("\n  {problem}")).collect();
    let more = match problems.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!("\n  and {more} more (`nas-classify data check` lists all)"),
    };
    bail!("{} of {} samples of the {what} split are broken:{}{more}", problems.len(), dataset.len(), shown.concat())
}
