//! `nas-classify gpu-check`: does a card compute what the CPU computes?

use std::rc::Rc;

use anyhow::Result;
use nas_core::nn::{Mode, VarBuilder, autocast, channels_last};
use nas_core::run::cli::Compute;
use nas_core::space::WeightSharing;
use nas_core::task::TaskModel;
use nas_core::task::commands::gpu_check::{self, Case, GpuCheckArgs, evaluation, step, supernet};
use tch::{Device, Kind, Tensor};

use crate::cells::CellSpace;
use crate::loss::cross_entropy;
use crate::model::{Classifier, ModelConfig};
use crate::search_net::SearchNet;

const NUM_CLASSES: i64 = 10;

type Net = Box<dyn Classifier>;

/// Runs the command.
pub fn run(args: &GpuCheckArgs) -> Result<()> {
    gpu_check::run(args, cases)
}

/// Four images and their classes, drawn on the CPU.
fn batch(compute: Compute) -> (Tensor, Tensor) {
    let images = Tensor::randn([4, 3, 16, 16], (Kind::Float, Device::Cpu));
    let labels = Tensor::randint(NUM_CLASSES, [4], (Kind::Int64, Device::Cpu));
    (channels_last(&images.to_device(compute.device)), labels.to_device(compute.device))
}

fn cases() -> Result<Vec<Case>> {
    let space: Rc<dyn WeightSharing> = Rc::new(CellSpace { layers: 3, channels: 8, ..CellSpace::default() });
    let model = ModelConfig::preset("nasbench201_resnet")?;
    let build = move |vb: &VarBuilder| model.build(vb, NUM_CLASSES);
    let of_space = space.clone();
    let build_supernet = move |vb: &VarBuilder| Ok(SearchNet::new(vb, &*of_space, NUM_CLASSES));
    let loss = |net: &Net, compute: Compute| {
        let (images, labels) = batch(compute);
        let out = autocast(compute.amp, || net.forward(&images, Mode::train(0.0)));
        Ok(cross_entropy(&out.main, &labels, None, 0.1))
    };
    let logits = |net: &Net, compute: Compute| {
        let (images, _) = batch(compute);
        Ok(vec![autocast(compute.amp, || net.forward(&images, Mode::EVAL)).main])
    };
    let searched = supernet(space, build_supernet, |net: &SearchNet, mixture, compute| {
        let (images, labels) = batch(compute);
        let logits = autocast(compute.amp, || net.forward(&images, mixture, Mode::train(0.0)));
        Ok(cross_entropy(&logits, &labels, None, 0.0))
    });
    let mut cases = vec![step("training", build.clone(), loss), evaluation(build, logits)];
    cases.extend(searched);
    Ok(cases)
}
