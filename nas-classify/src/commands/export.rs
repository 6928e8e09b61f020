//! `nas-classify export`: a trained network as TorchScript, or its weights alone.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use nas_core::nn::{Mode, channels_last};
use nas_core::run::cli::{Format, TrainedArgs, print};
use nas_core::run::run_dir::write_atomic_with;
use nas_core::train::{all_variables, write_tensors};
use serde::Serialize;
use tch::{CModule, Kind, Tensor};

use super::eval::Trained;

/// Write TorchScript that PyTorch loads (FILE.pt), or the weights alone (FILE.safetensors)
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  nas-classify export --run runs/derived --out derived.pt
  python -c 'import torch; print(torch.jit.load(\"derived.pt\")(torch.zeros(1, 3, 32, 32)))'")]
pub struct ExportArgs {
    #[command(flatten)]
    trained: TrainedArgs,
    /// File to write; its ending chooses the format
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How to print what was written
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct ExportReport {
    file: PathBuf,
    /// Shape of the input; the batch may be of any size.
    input: [i64; 4],
    /// The training's normalisation, which the input must have.
    mean: [f32; 3],
    std: [f32; 3],
    classes: Vec<String>,
}

impl fmt::Display for ExportReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [_, c, h, w] = self.input;
        write!(f, "{}: images [B, {c}, {h}, {w}], RGB in 0..=1", self.file.display())?;
        write!(f, " minus {:?} over {:?}, to logits [B, {}]", self.mean, self.std, self.classes.len())
    }
}

/// Runs the command.
pub fn run(args: &ExportArgs) -> Result<()> {
    let mut trained = Trained::open(&args.trained)?;
    let size = trained.transform.size;
    let input = [1, 3, i64::from(size.height()), i64::from(size.width())];
    match args.out.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") => write_tensors(&args.out, all_variables(&trained.vs))?,
        Some("pt") => {
            // Variables that want a gradient cannot be constants of a script.
            trained.vs.freeze();
            // One image would hide a batch size that the trace has frozen; noise, as nothing depends on the values.
            let images = Tensor::randn([2, input[1], input[2], input[3]], (Kind::Float, trained.compute.device));
            let script = trace(&trained, &images)?;
            write_atomic_with(&args.out, |temporary| script.save(temporary))?;
        }
        other => anyhow::bail!("--out {}: ending {other:?}, expected pt or safetensors", args.out.display()),
    }
    let Trained { transform, classes, .. } = trained;
    let report = ExportReport { file: args.out.clone(), input, mean: transform.mean, std: transform.std, classes };
    print(&report, args.format)
}

fn trace(trained: &Trained, images: &Tensor) -> Result<CModule> {
    let mut forward = |inputs: &[Tensor]| vec![trained.net.forward(&channels_last(&inputs[0]), None, Mode::EVAL).main];
    let trace = || CModule::create_by_tracing("Classifier", "forward", &[images.shallow_clone()], &mut forward);
    tch::no_grad(trace).context("cannot trace the network")
}
