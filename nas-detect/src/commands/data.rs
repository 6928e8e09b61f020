//! `nas-detect data synth`: a synthetic data set.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use nas_core::run::cli;
use nas_core::run::run_dir::open_output;
use nas_datasets::det::shapes;

/// Write seeded pictures of circles, squares and triangles in COCO's layout
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  nas-detect data synth --out data/shapes --images 400 --seed 0")]
pub struct SynthArgs {
    /// Folder to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Training images; a quarter as many validation images come with them
    #[arg(long, value_name = "N", value_parser = cli::count(1, 10_000_000))]
    images: usize,
    /// Seed of the pictures
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
}

/// Writes the set.
pub fn synth(args: &SynthArgs) -> Result<()> {
    let num_val = (args.images / 4).max(1);
    open_output(&args.out, &cli::job())?;
    shapes::write_coco(&args.out, args.images, num_val, args.seed)?;
    println!("{} train and {num_val} val images in {}", args.images, args.out.display());
    Ok(())
}
