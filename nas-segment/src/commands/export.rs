//! `nas-segment export`: a trained network for other programs.

use anyhow::Result;
use nas_core::run::export::Network;
use nas_core::task::Task;
use nas_core::task::commands::export::{self, About, ExportArgs, Trained, names};
use nas_core::train::all_variables;
use tch::Tensor;

use crate::task::Segmentation;

/// Runs the command.
pub fn run(args: &ExportArgs) -> Result<()> {
    let trained = args.open::<Segmentation>()?;
    let Trained { experiment, classes, vs, net, .. } = &trained;
    let forward = |images: &Tensor| Segmentation::outputs(net, images);
    let crop = experiment.augment.crop;
    let network = Network {
        variables: all_variables(vs),
        forward: &forward,
        outputs: names::<Segmentation>(),
        size: args.size((i64::from(crop.height()), i64::from(crop.width())), 1)?,
        divisor: 1,
        fixed: net.varies_with_size(),
        suppressed: None,
    };
    let about = About {
        classes: classes.clone(),
        mean: experiment.augment.mean,
        std: experiment.augment.std,
        model: serde_json::to_value(&experiment.model)?,
        outputs: vec![("logits", "[batch, classes, height, width]: a pixel's class is the largest")],
        more: Vec::new(),
    };
    export::run(args, &trained, &network, about)
}
