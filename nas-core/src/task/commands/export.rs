//! The command `export`: a trained network for other programs.

mod int8;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use tch::nn::VarStore;

use self::int8::Int8Report;
use super::trained::NetworkArgs;
use crate::run::cli::{Compute, ComputeArgs, Format, count, parse_size, print};
use crate::run::export::{FileFormat, Network, Written, write};
use crate::task::Task;
use crate::task::experiment::TrainExperiment;
use crate::task::supervised::trained_network;

/// Write a trained network as ONNX, TorchScript, PyTorch source or safetensors
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  PROGRAM export --run runs/derived --out derived.onnx
  PROGRAM export --run runs/derived --out derived_int8.onnx --int8 --calibration 200
  python -c 'import onnxruntime as ort; print(ort.InferenceSession(\"derived.onnx\").get_modelmeta().custom_metadata_map)'")]
pub struct ExportArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// File to write; its ending chooses the format: .onnx, .pt (TorchScript whose weights can be trained), .py (a PyTorch module,
    /// with its weights beside it) or .safetensors (weights alone)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Height and width of the images of the comparison, and of all images where the network allows one size only [default:
    /// that of the training]
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    size: Option<(i64, i64)>,
    /// Compute in integers of 8 bits (.onnx alone): ranges of values are those of images of the train split, and the file is scored
    /// on the val split beside the network
    #[arg(long)]
    int8: bool,
    /// Images of the train split that the ranges are taken from, drawn by the run's seed; all where there are fewer
    #[arg(long, value_name = "N", default_value_t = 100, requires = "int8", value_parser = count(1, 1_000_000))]
    calibration: usize,
    /// Bits of their bytes that weights use. 8 are for Arm and for x86 with VNNI: other x86 processors lose the ends of sums of such
    /// weights, and networks points of their score
    #[arg(long, value_name = "7|8", default_value_t = 7, requires = "int8", value_parser = clap::value_parser!(u8).range(7..=8))]
    weight_bits: u8,
    /// Images of the val split that are scored, drawn by the run's seed [default: all]
    #[arg(long, value_name = "N", requires = "int8", value_parser = count(1, 10_000_000))]
    samples: Option<usize>,
    /// How to print what was written
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// A trained network that is exported; on the CPU, so that what is written asks for no other device.
pub struct Trained<T: Task> {
    /// How it was trained.
    pub experiment: TrainExperiment<T>,
    /// Names of its classes.
    pub classes: Vec<String>,
    /// Holds its weights.
    pub vs: VarStore,
    /// The network.
    pub net: T::Net,
    /// Where it is scored.
    pub compute: Compute,
}

impl ExportArgs {
    /// The network. A file of a format that is not known, or that holds no int8, is an error before it is read.
    pub fn open<T: Task>(&self) -> Result<Trained<T>> {
        let format = FileFormat::of(&self.out)?;
        ensure!(
            !self.int8 || format == FileFormat::Onnx,
            "--int8 --out {}: networks in int8 are written as ONNX alone; expected a file that ends in .onnx",
            self.out.display()
        );
        let compute = ComputeArgs::cpu().resolve()?;
        let experiment = self.network.experiment::<T>()?;
        let (classes, weights) = (self.network.classes(&experiment)?, self.network.weights::<T>()?);
        let (vs, net) = trained_network::<T>(&experiment.model, classes.len(), weights.path(), compute)?;
        Ok(Trained { experiment, classes, vs, net, compute })
    }

    /// The file to write.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// Height and width of the images that the network is compared on, `default` where none are given; multiples of `divisor`.
    pub fn size(&self, default: (i64, i64), divisor: i64) -> Result<(i64, i64)> {
        let (h, w) = self.size.unwrap_or(default);
        ensure!(h % divisor == 0 && w % divisor == 0, "--size {h}x{w}; expected multiples of {divisor}");
        Ok((h, w))
    }
}

/// Names of what a file of a task's networks gives.
pub fn names<T: Task>() -> Vec<String> {
    T::OUTPUTS.iter().map(ToString::to_string).collect()
}

/// What is worth knowing of a network besides its weights.
#[derive(Clone, Debug)]
pub struct About {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// What is subtracted from the channels red, green and blue, in 0..=1.
    pub mean: [f32; 3],
    /// What they are divided by then.
    pub std: [f32; 3],
    /// The section `[model]` of the experiment.
    pub model: serde_json::Value,
    /// What the outputs are, by name.
    pub outputs: Vec<(&'static str, &'static str)>,
    /// More that a file should say, by key.
    pub more: Vec<(&'static str, serde_json::Value)>,
}

impl About {
    fn metadata(&self) -> Vec<(String, String)> {
        let mut entries = vec![
            ("classes".to_string(), serde_json::json!(self.classes).to_string()),
            ("mean".to_string(), serde_json::json!(self.mean).to_string()),
            ("std".to_string(), serde_json::json!(self.std).to_string()),
            ("input".to_string(), "RGB in 0..=1, minus mean, over std; [batch, 3, height, width]".to_string()),
            ("model".to_string(), self.model.to_string()),
            ("version".to_string(), env!("CARGO_PKG_VERSION").to_string()),
        ];
        entries.extend(self.outputs.iter().map(|(name, what)| (format!("output.{name}"), what.to_string())));
        entries.extend(self.more.iter().map(|(key, value)| (key.to_string(), value.to_string())));
        entries
    }
}

#[derive(Serialize)]
struct ExportReport {
    #[serde(flatten)]
    written: Written,
    #[serde(skip_serializing_if = "Option::is_none")]
    int8: Option<Int8Report>,
    outputs: Vec<&'static str>,
    mean: [f32; 3],
    std: [f32; 3],
    classes: Vec<String>,
}

impl fmt::Display for ExportReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let files: Vec<String> = self.written.files.iter().map(|file| file.display().to_string()).collect();
        write!(
            f,
            "{}: images [B, 3, H, W], RGB in 0..=1 minus {:?} over {:?}, ",
            files.join(", "),
            self.mean,
            self.std
        )?;
        write!(f, "to {} of {} classes", self.outputs.join(", "), self.classes.len())?;
        if let Some(((h, w), because)) = self.written.fixed_size.zip(self.written.fixed_because.as_ref()) {
            write!(f, "\nheight and width are fixed at {h}x{w}: {because}")?;
        }
        if let Some(difference) = self.written.max_difference {
            let shapes: Vec<String> = self.written.compared.iter().map(|shape| format!("{shape:?}")).collect();
            let before = if self.int8.is_some() { ", before rounding" } else { "" };
            write!(
                f,
                "\nlargest difference to the network{before}: {difference:.1e} (images {})",
                shapes.join(" and ")
            )?;
        }
        self.int8.iter().try_for_each(|int8| write!(f, "\n{int8}"))
    }
}

/// Writes the network and prints what was written; of one in int8 what it scores beside the network too.
pub fn run<T: Task>(args: &ExportArgs, trained: &Trained<T>, network: &Network, about: About) -> Result<()> {
    let metadata = about.metadata();
    let (written, int8) = match args.int8 {
        true => int8::write(args, trained, network, metadata).map(|(written, report)| (written, Some(report)))?,
        false => (write(network, &args.out, &metadata)?, None),
    };
    let outputs = about.outputs.iter().map(|(name, _)| *name).collect();
    let (mean, std, classes) = (about.mean, about.std, about.classes);
    print(&ExportReport { written, int8, outputs, mean, std, classes }, args.format)
}
