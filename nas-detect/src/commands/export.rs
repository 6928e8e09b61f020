//! `nas-detect export`: a trained detector for other programs, with scores and boxes as outputs.

use anyhow::Result;
use nas_core::run::export::Network;
use nas_core::task::commands::export::{self, About, ExportArgs, Trained};
use nas_core::train::all_variables;
use tch::Tensor;

use crate::task::Detection;

/// Runs the command.
pub fn run(args: &ExportArgs) -> Result<()> {
    let mut trained = args.open::<Detection>()?;
    let experiment = &mut trained.experiment;
    let divisor = experiment.model.largest_stride().max(i64::from(experiment.augment.pad_multiple));
    // Network and file are scored on images that both take.
    experiment.augment.pad_multiple = u32::try_from(divisor)?;
    let Trained { experiment, classes, vs, net, .. } = &trained;
    let forward = |images: &Tensor| net.scores_and_boxes(images).into();
    let network = Network {
        variables: all_variables(vs),
        forward: &forward,
        outputs: vec!["scores".into(), "boxes".into()],
        size: args.size((2 * divisor, 3 * divisor), divisor)?,
        divisor,
        fixed: None,
    };
    let about = About {
        classes: classes.clone(),
        mean: experiment.augment.mean,
        std: experiment.augment.std,
        model: serde_json::to_value(&experiment.model)?,
        outputs: vec![
            ("scores", "[batch, predictions, classes] in 0..=1, before suppression of doubles"),
            ("boxes", "[batch, predictions, 4]: left, top, right, bottom in pixels"),
        ],
    };
    export::run(args, &trained, &network, about)
}
