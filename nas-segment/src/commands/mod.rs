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

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nas_core::cli::{Compute, RunArgs};
use nas_core::device;
use nas_core::run_dir::RunDir;
use nas_datasets::{SegDataset, check};
use serde::Serialize;

/// What is worth knowing about a run besides its config.
#[derive(Serialize)]
struct Meta {
    command: Vec<String>,
    version: &'static str,
    commit: Option<String>,
    device: String,
    threads: usize,
    amp: bool,
    started_unix_secs: u64,
}

impl Meta {
    fn new(compute: Compute) -> Self {
        let git = std::process::Command::new("git").args(["rev-parse", "HEAD"]).output().ok();
        let commit = git.filter(|output| output.status.success());
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            command: std::env::args().collect(),
            version: env!("CARGO_PKG_VERSION"),
            commit: commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string()),
            device: device::describe(compute.device),
            threads: compute.threads,
            amp: compute.amp,
            started_unix_secs: since.map_or(0, |time| time.as_secs()),
        }
    }
}

/// Opens the run folder of a command.
fn open_run(args: &RunArgs, seed: Option<u64>, config: &impl Serialize, compute: Compute) -> Result<RunDir> {
    let out = args.out.clone().unwrap_or_else(|| default_out(&args.config, seed));
    RunDir::open(&out, &nas_core::config::to_toml(config), args.resume, &Meta::new(compute))
}

fn default_out(config: &Path, seed: Option<u64>) -> PathBuf {
    let stem = config.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let seed = seed.map(|seed| format!("-s{seed}")).unwrap_or_default();
    PathBuf::from("runs").join(format!("{stem}{seed}"))
}

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
