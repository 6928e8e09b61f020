//! Scores of a network on a set.

use std::sync::Arc;

use anyhow::Result;
use nas_core::nn::{Mode, channels_last};
use nas_core::run::cli::Compute;
use nas_datasets::LoaderConfig;
use nas_datasets::classify::{ClassifyDataset, ClassifyEvalTransform, eval_batches};
use tch::{Kind, Tensor};

use crate::metric::ConfusionMatrix;
use crate::model::Classifier;

/// Counts what `net` predicts for every image of a set. `tick` is called after each image.
pub fn evaluate(
    net: &dyn Classifier,
    dataset: &Arc<dyn ClassifyDataset>,
    transform: &ClassifyEvalTransform,
    config: &LoaderConfig,
    compute: Compute,
    mut tick: impl FnMut(),
) -> Result<ConfusionMatrix> {
    let mut matrix = ConfusionMatrix::new(dataset.classes().len());
    for batch in eval_batches(dataset.clone(), transform.clone(), config)? {
        let batch = batch?;
        matrix.add(&logits(net, &batch.images, compute), &batch.labels);
        batch.indices.iter().for_each(|_| tick());
    }
    Ok(matrix)
}

/// Logits `[B, K]` of images `[B, 3, H, W]` in evaluation.
pub fn logits(net: &dyn Classifier, images: &Tensor, compute: Compute) -> Tensor {
    let images = images.to_device(compute.device);
    let images = if compute.device.is_cuda() { channels_last(&images) } else { images };
    let forward = || tch::autocast(compute.amp, || net.forward(&images, Mode::EVAL).main);
    tch::no_grad(forward).to_kind(Kind::Float)
}
