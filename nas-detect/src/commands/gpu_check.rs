//! `nas-detect gpu-check`: does a card compute what the CPU computes?

use anyhow::Result;
use nas_core::nn::{Mode, VarBuilder, autocast};
use nas_core::run::cli::Compute;
use nas_core::space::{ChoiceSpace, Mixture};
use nas_core::task::TaskModel;
use nas_core::task::commands::gpu_check::{self, Case, GpuCheckArgs, evaluation, step};
use nas_datasets::det::DetTarget;
use nas_datasets::rng::stream;
use tch::{Device, Kind, Tensor};

use crate::backbone::BackboneConfig;
use crate::model::{Detector, ModelConfig, SuperDetector};

const NUM_CLASSES: i64 = 4;
const SIDE: i64 = 96;

/// Runs the command.
pub fn run(args: &GpuCheckArgs) -> Result<()> {
    gpu_check::run(args, cases)
}

/// Two images, drawn on the CPU, with two objects and one.
fn batch(compute: Compute) -> (Tensor, [DetTarget; 2]) {
    let images = Tensor::randn([2, 3, SIDE, SIDE], (Kind::Float, Device::Cpu));
    let targets = [
        DetTarget::new(&[[8.0, 10.0, 40.0, 50.0], [30.0, 20.0, 90.0, 88.0]], &[1, 3]),
        DetTarget::new(&[[5.0, 40.0, 60.0, 70.0]], &[0]),
    ];
    (images.to_device(compute.device), targets)
}

fn cases() -> Result<Vec<Case>> {
    let model = ModelConfig::preset("fcos_detnas_tiny")?;
    let (of_model, of_supernet) = (model.clone(), model.clone());
    let build = move |vb: &VarBuilder| of_model.build(vb, NUM_CLASSES);
    let build_supernet = move |vb: &VarBuilder| of_supernet.build_supernet(vb, NUM_CLASSES);
    let loss = |net: &Detector, compute: Compute| {
        let (images, targets) = batch(compute);
        let predictions = autocast(compute.amp, || net.forward(&images, Mode::train(0.0)));
        Ok(net.top.loss(&predictions, (SIDE, SIDE), &targets).total())
    };
    // What an evaluation makes boxes of; which ones it keeps hangs on the last digits.
    let predictions = |net: &Detector, compute: Compute| {
        let (images, targets) = batch(compute);
        let predictions = autocast(compute.amp, || net.forward(&images, Mode::EVAL));
        Ok(vec![net.top.loss(&predictions, (SIDE, SIDE), &targets).total()])
    };
    let path = move |net: &SuperDetector, compute: Compute| {
        let (images, targets) = batch(compute);
        let BackboneConfig::Detnas(config) = &model.backbone else { unreachable!("the preset's backbone is searched") };
        let arch = config.space()?.sample(&mut stream(0, "path", 0));
        let forward = || net.forward(&images, Mixture::Path(&arch), Mode::train(0.0));
        Ok(net.top.loss(&autocast(compute.amp, forward), (SIDE, SIDE), &targets).total())
    };
    Ok(vec![
        step("training", build.clone(), loss),
        evaluation(build, predictions),
        step("path search", build_supernet, path),
    ])
}
