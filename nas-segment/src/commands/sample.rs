//! `nas-segment sample`: random networks of the space `mobile_seg` under a bound, as sections `[model]`.

use std::fmt;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use nas_core::nn::Cost;
use nas_core::run::cli::{self, Format, parse_size, print};
use nas_core::run::config::{self, to_toml};
use nas_core::run::run_dir::{open_output, write_atomic};
use nas_core::search::goals::{Constraint, Restricted};
use nas_core::space::{Architecture, ChoiceSpace};
use nas_datasets::rng;
use serde::Serialize;

use crate::mobile_seg::MobileSegSpace;
use crate::model::ModelConfig;

/// Draw random networks of the space mobile_seg, such as the baseline of a search, and write them as models of experiments
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example, eight networks of 90 to 100 % of a bound:
  nas-segment sample --count 8 --macs 425.7e6..473e6 --size 360x480 --num-classes 11 --out runs/random")]
pub struct SampleArgs {
    /// File with the keys of the space [default: its preset mobilenet_v2]
    #[arg(long, value_name = "FILE")]
    space: Option<PathBuf>,
    /// How many networks
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    count: u64,
    /// Least and most multiply-adds [default: any]
    #[arg(long, value_name = "MIN..MAX", value_parser = parse_range)]
    macs: Option<(f64, f64)>,
    /// Height and width of the image that multiply-adds are for
    #[arg(long, value_name = "HxW", default_value = "360x480", value_parser = parse_size)]
    size: (i64, i64),
    /// Classes of the logits
    #[arg(long, value_name = "K", default_value_t = 11, value_parser = clap::value_parser!(i64).range(1..=65_536))]
    num_classes: i64,
    /// Seed of the draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder for one file per network
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How to print the list
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn parse_range(text: &str) -> Result<(f64, f64), String> {
    let error = || format!("{text:?}: expected MIN..MAX, such as 425.7e6..473e6");
    let (least, most) = text.split_once("..").ok_or_else(error)?;
    let number = |text: &str| text.parse::<f64>().map_err(|_| error());
    let (least, most) = (number(least)?, number(most)?);
    if least > 0.0 && least <= most { Ok((least, most)) } else { Err(error()) }
}

#[derive(Serialize)]
struct Sampled {
    file: PathBuf,
    arch: Architecture,
    #[serde(flatten)]
    cost: Cost,
}

#[derive(Serialize)]
struct SampleReport {
    networks: Vec<Sampled>,
}

impl fmt::Display for SampleReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (i, Sampled { file, arch, cost }) in self.networks.iter().enumerate() {
            let line = if i == 0 { "" } else { "\n" };
            let [params, macs] = [cost.params, cost.macs].map(|count| count as f64 / 1e6);
            write!(f, "{line}{} {params:.3} M parameters, {macs:.1} M multiply-adds, {arch}", file.display())?;
        }
        Ok(())
    }
}

/// Runs the command.
pub fn run(args: &SampleArgs) -> Result<()> {
    let space = match &args.space {
        None => MobileSegSpace::default(),
        Some(path) => config::load::<MobileSegSpace>(path, &[])?,
    };
    space.check()?;
    let network_cost = |arch: &Architecture| space.network_cost(arch, args.num_classes, args.size);
    let macs = |arch: &Architecture| {
        let cost = network_cost(arch).map_or(f64::NAN, |cost| cost.macs as f64);
        [("macs".to_string(), cost)].into()
    };
    let bound =
        args.macs.map(|(lower, upper)| Constraint { metric: "macs".into(), upper: Some(upper), lower: Some(lower) });
    let restricted = Restricted::new(&space, bound.as_slice(), &macs)?;
    let network = |i: u64| {
        let arch = restricted.sample(&mut rng::stream(args.seed, "sample", i));
        let file = args.out.join(format!("{i:03}.toml"));
        let model = toml::Table::from_iter([(
            "model".to_string(),
            toml::Value::try_from(ModelConfig::MobileSeg(space.decode(&arch)?))?,
        )]);
        write_atomic(&file, to_toml(&model).as_bytes())?;
        Ok(Sampled { file, cost: network_cost(&arch)?, arch })
    };
    open_output(&args.out, &cli::job())?;
    let networks = (0..args.count).map(network).collect::<Result<_>>()?;
    print(&SampleReport { networks }, args.format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_or_refused() {
        assert_eq!(parse_range("425.7e6..473e6"), Ok((425.7e6, 473e6)));
        for text in ["1", "2..1", "0..1", "a..b", ".."] {
            assert!(parse_range(text).unwrap_err().contains("MIN..MAX"), "{text}");
        }
    }
}
