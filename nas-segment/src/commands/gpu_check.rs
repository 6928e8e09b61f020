//! `nas-segment gpu-check`: does a card compute what the CPU computes?

use std::rc::Rc;

use anyhow::Result;
use nas_core::nn::{Mode, VarBuilder, autocast, channels_last};
use nas_core::run::cli::Compute;
use nas_core::task::TaskModel;
use nas_core::task::commands::gpu_check::{self, Case, GpuCheckArgs, evaluation, step, supernet};
use tch::{Device, Kind, Tensor};

use crate::auto_deeplab::{AutoDeepLabSpace, SearchNet};
use crate::deeplabv3plus::{BackboneConfig, MobileNetV2Config};
use crate::loss::cross_entropy;
use crate::model::{ModelConfig, SegNet};

const NUM_CLASSES: i64 = 19;
const SIDE: i64 = 49;

/// Runs the command.
pub fn run(args: &GpuCheckArgs) -> Result<()> {
    gpu_check::run(args, cases)
}

/// Four images and their labels, drawn on the CPU.
fn batch(compute: Compute) -> (Tensor, Tensor) {
    let images = Tensor::randn([4, 3, SIDE, SIDE], (Kind::Float, Device::Cpu));
    let labels = Tensor::randint(NUM_CLASSES, [4, SIDE, SIDE], (Kind::Int64, Device::Cpu));
    (channels_last(&images.to_device(compute.device)), labels.to_device(compute.device))
}

fn cases() -> Result<Vec<Case>> {
    let space = AutoDeepLabSpace { layers: 4, blocks: 2, filters: 4, ..AutoDeepLabSpace::default() };
    let mut model = ModelConfig::preset("deeplabv3plus_mobilenet_v2")?;
    if let ModelConfig::Deeplabv3plus(config) = &mut model {
        // Each norm without training multiplies what half precision loses.
        config.backbone = BackboneConfig::MobilenetV2(MobileNetV2Config { blocks: 7, ..Default::default() });
        // One pass settles the statistics; by those that norms begin with, half precision loses the maps of a deep network.
        (config.bn.momentum, config.head.bn.momentum) = (1.0, 1.0);
    }
    let build = move |vb: &VarBuilder| model.build(vb, NUM_CLASSES);
    let of_space = space.clone();
    let build_supernet = move |vb: &VarBuilder| Ok(SearchNet::new(vb, &of_space, NUM_CLASSES));
    let loss = |net: &SegNet, compute: Compute| {
        let (images, labels) = batch(compute);
        let logits = autocast(compute.amp, || net.forward(&images, Mode::train(0.0)));
        Ok(cross_entropy(&logits, &labels, None))
    };
    let logits = |net: &SegNet, compute: Compute| {
        let (images, _) = batch(compute);
        let _ = autocast(compute.amp, || net.forward(&images, Mode::train(0.0)));
        Ok(vec![autocast(compute.amp, || net.forward(&images, Mode::EVAL))])
    };
    let searched = supernet(Rc::new(space), build_supernet, |net: &SearchNet, mixture, compute| {
        let (images, labels) = batch(compute);
        let logits = autocast(compute.amp, || net.forward(&images, mixture, Mode::train(0.0)));
        Ok(cross_entropy(&logits, &labels, None))
    });
    let mut cases = vec![step("training", build.clone(), loss), evaluation(build, logits)];
    cases.extend(searched);
    Ok(cases)
}
