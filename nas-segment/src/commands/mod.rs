//! One file per command of `nas-segment`.

pub mod bench;
pub mod compare;
pub mod data;
pub mod eval;
pub mod gpu_check;
pub mod predict;
pub mod report;
pub mod search;
pub mod train;

use std::path::Path;

use anyhow::{Context, Result, bail};
use nas_datasets::{SegDataset, check};

/// Looks at every sample of a set before hours are spent on it.
fn require_sound(dataset: &dyn SegDataset, what: &str) -> Result<()> {
    let problems = check(dataset);
    if problems.is_empty() {
        return Ok(());
    }
    const SHOWN: usize = 10;
    let shown: Vec<String> = problems.iter().take(SHOWN).map(|problem| format!("\n  {problem}")).collect();
    let more = problems.len().saturating_sub(SHOWN);
    let more =
        if more > 0 { format!("\n  and {more} more (`nas-segment data check` lists all)") } else { String::new() };
    bail!("{} of {} samples of the {what} split are broken:{}{more}", problems.len(), dataset.len(), shown.concat())
}

fn write_png<P, C>(path: &Path, picture: &image::ImageBuffer<P, C>) -> Result<()>
where
    P: image::PixelWithColorType<Subpixel = u8>,
    C: std::ops::Deref<Target = [u8]>,
{
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("{}: cannot create", parent.display()))?;
    }
    picture.save(path).with_context(|| format!("{}: cannot write", path.display()))
}
