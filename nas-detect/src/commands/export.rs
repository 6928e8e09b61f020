//! `nas-detect export`: a trained detector for other programs, with scores and boxes, or with detections, as outputs.

use anyhow::{Result, ensure};
use clap::Args;
use nas_core::run::export::onnx::DETECTIONS;
use nas_core::run::export::{FileFormat, Network, Suppressed};
use nas_core::task::Task;
use nas_core::task::commands::export::{self, About, ExportArgs, Trained, names};
use nas_core::train::all_variables;
use serde_json::json;
use tch::Tensor;

use crate::head::Detections;
use crate::task::Detection;

/// Write a trained network as ONNX, TorchScript, PyTorch source or safetensors
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-detect export --run runs/bccd --out bccd.onnx --nms
  nas-detect export --run runs/bccd --out bccd_int8.onnx --int8 --calibration 200
  python -c 'import onnxruntime as ort; print(ort.InferenceSession(\"bccd.onnx\").get_modelmeta().custom_metadata_map)'")]
pub struct DetectorExportArgs {
    /// What all tasks have
    #[command(flatten)]
    export: ExportArgs,
    /// Suppress doubles in the file (.onnx alone), as `eval` does: its outputs are detections, best first, in the place of all
    /// predictions
    #[arg(long)]
    nms: bool,
}

/// Runs the command.
pub fn run(DetectorExportArgs { export: args, nms }: &DetectorExportArgs) -> Result<()> {
    ensure!(
        !nms || FileFormat::of(args.out())? == FileFormat::Onnx,
        "--nms --out {}: doubles are suppressed in ONNX alone; expected a file that ends in .onnx",
        args.out().display()
    );
    let mut trained = args.open::<Detection>()?;
    let experiment = &mut trained.experiment;
    let divisor = experiment.model.largest_stride().max(i64::from(experiment.augment.pad_multiple));
    // Network and file are scored on images that both take.
    experiment.augment.pad_multiple = u32::try_from(divisor)?;
    let Trained { experiment, classes, vs, net, .. } = &trained;
    let forward = |images: &Tensor| Detection::outputs(net, images);
    let suppression = net.top().suppression(classes.len());
    let detect = |[scores, boxes]: [&Tensor; 2], size: (i64, i64), room: i64| {
        Ok(Detections::padded(&net.top().detections(scores, boxes, size)?, room as usize))
    };
    let settings = json!({
        "score": suppression.score, "per_level": suppression.per_level, "iou": suppression.iou, "max": suppression.max,
    });
    let network = Network {
        variables: all_variables(vs),
        forward: &forward,
        outputs: names::<Detection>(),
        size: args.size((2 * divisor, 3 * divisor), divisor)?,
        divisor,
        fixed: None,
        suppressed: nms.then_some(Suppressed { suppression, detect: &detect }),
    };
    const PREDICTIONS: [(&str, &str); 2] = [
        ("scores", "[batch, predictions, classes] in 0..=1, before suppression of doubles"),
        ("boxes", "[batch, predictions, 4]: left, top, right, bottom in pixels"),
    ];
    const MEANINGS: [&str; 4] = [
        "[batch, detections, 4]: left, top, right, bottom in pixels, best first",
        "[batch, detections] in 0..=1; 0 is padding",
        "[batch, detections]; -1 is padding",
        "[batch]: detections before the padding",
    ];
    let about = About {
        classes: classes.clone(),
        mean: experiment.augment.mean,
        std: experiment.augment.std,
        model: serde_json::to_value(&experiment.model)?,
        outputs: if *nms { DETECTIONS.into_iter().zip(MEANINGS).collect() } else { PREDICTIONS.to_vec() },
        more: if *nms { vec![("nms", settings)] } else { Vec::new() },
    };
    export::run(args, &trained, &network, about)
}
