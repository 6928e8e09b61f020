//! `nas-classify export`: a trained network for other programs.

use anyhow::Result;
use nas_core::run::export::Network;
use nas_core::task::Task;
use nas_core::task::commands::export::{self, About, ExportArgs, Trained, names};
use nas_core::train::all_variables;
use nas_datasets::classify::ClassifyEvalTransform;
use tch::Tensor;

use crate::task::Classification;

/// Runs the command.
pub fn run(args: &ExportArgs) -> Result<()> {
    let trained = args.open::<Classification>()?;
    let Trained { experiment, classes, vs, net, .. } = &trained;
    let transform = ClassifyEvalTransform::like(&experiment.augment, experiment.eval.resize)?;
    let forward = |images: &Tensor| Classification::outputs(net, images);
    let network = Network {
        variables: all_variables(vs),
        forward: &forward,
        outputs: names::<Classification>(),
        size: args.size((i64::from(transform.size.height()), i64::from(transform.size.width())), 1)?,
        divisor: 1,
        fixed: None,
        suppressed: None,
    };
    let about = About {
        classes: classes.clone(),
        mean: transform.mean,
        std: transform.std,
        model: serde_json::to_value(&experiment.model)?,
        outputs: vec![("logits", "[batch, classes]: the class is the largest")],
        more: Vec::new(),
    };
    export::run(args, &trained, &network, about)
}
