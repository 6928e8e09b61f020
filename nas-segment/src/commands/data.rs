//! `nas-segment data synth`: a synthetic data set.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::Args;
use nas_core::run::cli::{self, parse_size};
use nas_core::run::run_dir::open_output;
use nas_datasets::{Size, synth};

/// Write a seeded synthetic street set in Cityscapes' layout
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  nas-segment data synth --out data/street --images 200 --size 128x256 --seed 0")]
pub struct SynthArgs {
    /// Folder to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Training images; a quarter as many validation images come with them
    #[arg(long, value_name = "N", value_parser = cli::count(1, 10_000_000))]
    images: usize,
    /// Height and width
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    size: (i64, i64),
    /// Seed of the scenes
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
}

/// Writes the set.
pub fn synth(args: &SynthArgs) -> Result<()> {
    let num_val = (args.images / 4).max(1);
    let (h, w) = args.size;
    // Before anything is written.
    Size::try_from([h as u32, w as u32]).map_err(|found| anyhow!("--size: {found}"))?;
    open_output(&args.out, &cli::job())?;
    synth::write_cityscapes(&args.out, args.images, num_val, (h as u32, w as u32), args.seed)?;
    println!("{} train and {num_val} val images in {}", args.images, args.out.display());
    Ok(())
}
