//! Predictions of a network and their score on a labelled set.

use anyhow::{Result, bail, ensure};
use nas_core::nn::{Mode, channels_last, ranks, resize_bilinear};
use nas_core::run::cli::Compute;
use nas_core::run::confusion::Confusion;
use nas_datasets::{EvalTransform, IGNORE, SampleSet, SegDataset, eval_samples};
use std::sync::Arc;
use tch::{Kind, Tensor, no_grad};

use crate::metric::ConfusionMatrix;
use crate::task::EvalConfig;

/// Logits `[B, K, H, W]` of normalised images `[B, 3, H, W]` in evaluation mode.
pub type Forward<'a> = dyn Fn(&Tensor, Mode) -> Result<Tensor> + 'a;

/// Pixels of a labelled set by true class and by that which `net` says, every label at its own resolution. `tick` is called after
/// each image.
pub fn evaluate(
    net: &Forward,
    dataset: &Arc<dyn SegDataset>,
    transform: &EvalTransform,
    config: &EvalConfig,
    compute: Compute,
    mut tick: impl FnMut(),
) -> Result<Confusion> {
    if !dataset.has_labels() {
        bail!("the split has no labels to score against");
    }
    let mut matrix = ConfusionMatrix::new(dataset.classes().len());
    let own = dataset.subset(ranks::part_of(dataset.len(), 1).collect());
    ranks::together(|| {
        for sample in eval_samples(own, transform.clone(), compute.threads, PREFETCH) {
            let sample = sample?;
            let Some(label) = &sample.label else { continue };
            let size = (i64::from(label.height()), i64::from(label.width()));
            let predicted = predict(net, &sample.image, size, config, compute)?;
            matrix.add(label.as_raw(), &predicted);
            tick();
        }
        Ok(())
    })?;
    matrix.of_all_ranks();
    ensure!(
        matrix.labelled_pixels() > 0,
        "no pixel of the split has a label that counts (all are {IGNORE}, ignored); there is no score"
    );
    Ok(matrix.named(&dataset.classes().names))
}

/// Images that are read ahead.
pub const PREFETCH: usize = 4;

/// Train ids, row by row, at `size` (height, width) for one normalised image `[1, 3, H, W]`.
pub fn predict(
    net: &Forward,
    image: &Tensor,
    size: (i64, i64),
    config: &EvalConfig,
    compute: Compute,
) -> Result<Vec<u8>> {
    let image = image.to_device(compute.device);
    let classes = no_grad(|| {
        let scores = match config.scales.as_slice() {
            [scale] if *scale == 1.0 && !config.flip => resize_bilinear(&forward(net, &image, compute.amp)?, size),
            scales => probabilities(net, &image, size, scales, config.flip, compute.amp)?,
        };
        anyhow::Ok(scores.argmax(1, false).to_kind(Kind::Uint8).to_device(tch::Device::Cpu).flatten(0, -1))
    })?;
    Ok(Vec::<u8>::try_from(&classes).expect("a flat tensor of bytes"))
}

/// Sum over scales and flips of class probabilities `[1, K, H, W]` at `size`.
fn probabilities(
    net: &Forward,
    image: &Tensor,
    size: (i64, i64),
    scales: &[f64],
    flip: bool,
    amp: bool,
) -> Result<Tensor> {
    let (_, _, h, w) = image.size4().expect("an image batch has four dimensions");
    let mut sum: Option<Tensor> = None;
    for scale in scales {
        let scaled = |n: i64| ((n as f64 * scale).round() as i64).max(1);
        let resized = channels_last(&resize_bilinear(image, (scaled(h), scaled(w))));
        for mirrored in [false, true].into_iter().take(1 + usize::from(flip)) {
            let mirror = |xs: Tensor| if mirrored { xs.flip([3]) } else { xs };
            let logits = mirror(forward(net, &mirror(resized.shallow_clone()), amp)?);
            let scores = resize_bilinear(&logits, size).softmax(1, Kind::Float);
            sum = Some(sum.map_or_else(|| scores.shallow_clone(), |sum| sum + &scores));
        }
    }
    Ok(sum.expect("at least one scale"))
}

fn forward(net: &Forward, image: &Tensor, amp: bool) -> Result<Tensor> {
    Ok(nas_core::nn::autocast(amp, || net(image, Mode::EVAL))?.to_kind(Kind::Float))
}
