//! `export --int8`: ranges from images of the train split, and what the file scores on the val split beside the network.

use std::fmt;

use anyhow::{Context, Result};
use nas_datasets::{SampleSet, Split, hold_out, require_same_classes};
use serde::Serialize;
use tch::Tensor;

use super::{ExportArgs, Trained};
use crate::run::cli::require_sound;
use crate::run::export::onnx::quantize::WeightBits;
use crate::run::export::onnx::{self, interpreter::Interpreter};
use crate::run::export::{Network, Outputs, Written, write_int8};
use crate::run::progress::Progress;
use crate::task::experiment::Setting;
use crate::task::{Pass, Scores, Task};

/// What the integers cost and save.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Int8Report {
    /// Images that ranges were taken from.
    calibration: usize,
    /// Bits of weights that are used.
    weight_bits: u8,
    /// Images that were scored.
    samples: usize,
    /// Key and heading of what they are scored by.
    metric: &'static str,
    #[serde(skip)]
    heading: &'static str,
    /// Of the network.
    fp32: f64,
    /// Of the file.
    int8: f64,
    /// By how much the file is worse.
    drop: f64,
    /// Size of the file.
    bytes: u64,
    /// Size of the network's parameters and statistics alone.
    fp32_bytes: u64,
}

impl fmt::Display for Int8Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { calibration, samples, heading, bytes, fp32_bytes, .. } = self;
        let [fp32, int8, drop] = [self.fp32, self.int8, self.drop].map(|score| 100.0 * score);
        writeln!(
            f,
            "{bytes} bytes (the network's numbers alone are {fp32_bytes}); ranges of {calibration} images of the train split"
        )?;
        write!(f, "{heading} in % of {samples} images of the val split: fp32 {fp32:.2}, int8 {int8:.2}, drop {drop:.2}")
    }
}

/// Writes the network in int8, and scores the file as it was read back.
pub(super) fn write<T: Task>(
    args: &ExportArgs,
    trained: &Trained<T>,
    network: &Network,
    mut metadata: Vec<(String, String)>,
) -> Result<(Written, Int8Report)> {
    let setting = trained.experiment.setting();
    let seen = part::<T>(trained, &setting, Split::Train, Some(args.calibration))?;
    let scored = part::<T>(trained, &setting, Split::Val, args.samples)?;
    let bits = if args.weight_bits == 8 { WeightBits::Eight } else { WeightBits::Seven };
    let about =
        format!("weights of {} bits by channel; ranges of {} images of the train split", args.weight_bits, seen.len());
    metadata.push(("int8".into(), about));
    let written = write_int8(network, &args.out, &metadata, bits, |outputs| {
        validate(outputs, trained, &setting, &seen, "ranges").map(drop)
    })?;

    let (key, heading) = T::METRICS[0];
    let main = |validation: &T::Validation| {
        let score = T::scores(validation, &trained.classes).metric(key);
        score
            .with_context(|| format!("the {} images of the val split hold nothing that {heading} scores", scored.len()))
    };
    let pass = Pass { net: &trained.net, mixture: None, compute: trained.compute };
    let mut progress = Progress::new("fp32", scored.len(), 0, None)?;
    let fp32 = main(&T::validate(pass, &setting, &scored, &mut || progress.step(|| "images".into()))?)?;
    drop(progress);
    let model = onnx::read(&args.out)?;
    let file = Interpreter::new(model.graph.as_ref().context("a model without a graph")?)?;
    let int8 = main(&validate(&|images| file.outputs(images, &mut |_, _| {}), trained, &setting, &scored, "int8")?)?;
    let bytes = std::fs::metadata(&args.out).with_context(|| args.out.display().to_string())?.len();
    let fp32_bytes = network.variables.iter().map(|(_, tensor)| 4 * tensor.numel() as u64).sum();
    let (calibration, samples, weight_bits) = (seen.len(), scored.len(), args.weight_bits);
    let drop = fp32 - int8;
    Ok((
        written,
        Int8Report { calibration, weight_bits, samples, metric: key, heading, fp32, int8, drop, bytes, fp32_bytes },
    ))
}

/// `count` samples of a split by the run's seed, or all; sound ones of the network's classes.
fn part<T: Task>(trained: &Trained<T>, setting: &Setting<T>, split: Split, count: Option<usize>) -> Result<T::Set> {
    let whole = T::open(&setting.data, split)?;
    require_same_classes("the network", &trained.classes, &format!("the {split} split"), &T::classes(&whole))?;
    let set = match count.filter(|count| *count < whole.len()) {
        Some(count) => whole.subset(hold_out(whole.len(), count, trained.experiment.seed).1),
        None => whole,
    };
    require_sound(&set.problems(), set.len(), split.as_str(), T::PROGRAM)?;
    Ok(set)
}

fn validate<T: Task>(
    outputs: &Outputs,
    trained: &Trained<T>,
    setting: &Setting<T>,
    set: &T::Set,
    label: &str,
) -> Result<T::Validation> {
    let mut progress = Progress::new(label, set.len(), 0, None)?;
    let mut tick = || progress.step(|| "images".into());
    let outputs = |images: &Tensor| {
        outputs(images)
            .context("--size HxW is the size of a file that takes one alone; expected that of the images in validation")
    };
    T::validate_outputs(&outputs, &trained.net, setting, set, trained.compute.threads, &mut tick)
}
