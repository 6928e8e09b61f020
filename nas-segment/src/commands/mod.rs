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

/// `512x1024` as (height, width).
fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let expected = || format!("{text:?} is no size; expected HEIGHTxWIDTH, such as 512x1024");
    let (h, w) = text.split_once('x').ok_or_else(expected)?;
    let side = |text: &str| text.parse().ok().filter(|side| *side > 0).ok_or_else(expected);
    Ok((side(h)?, side(w)?))
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
