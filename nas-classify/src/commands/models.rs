//! `nas-classify models`: the networks that have a name.

use anyhow::{Context, Result};
use nas_core::nn::{Cost, Shape, VarBuilder};
use nas_core::task::commands::models::{self, Facts, Model, ModelsArgs};

use crate::model::{ModelConfig, presets};

/// Runs the command.
pub fn run(args: &ModelsArgs) -> Result<()> {
    models::run(args, presets().into_iter().map(model).collect::<Result<_>>()?)
}

fn model((name, config): (&'static str, ModelConfig)) -> Result<Model> {
    let reference = config.reference();
    let (h, w) = reference.size;
    let parts = config.build(&VarBuilder::dry(), reference.num_classes)?.cost_parts(Shape::new(3, h, w));
    let mut cost = Cost::default();
    parts.into_iter().for_each(|(_, part)| cost += part);
    let facts = facts(name).with_context(|| format!("nothing is known of {name}"))?;
    Ok(Model { name: name.into(), size: (h, w), num_classes: reference.num_classes, cost, facts })
}

const NASBENCH201: &str = "NAS-Bench-201 (arXiv 2001.00326)";
const DARTS: &str = "DARTS (arXiv 1806.09055)";
const PC_DARTS: &str = "PC-DARTS (arXiv 1907.05737)";
const NASNET: &str = "NASNet (arXiv 1707.07012)";
const AMOEBANET: &str = "AmoebaNet (arXiv 1802.01548)";
const MOBILENET_V3: &str = "MobileNetV3 (arXiv 1905.02244)";
const FBNET: &str = "FBNet (arXiv 1812.03443)";
const RESNET: &str = "ResNet (arXiv 1512.03385)";
const TORCHVISION: &str = "torchvision's, BSD 3-Clause, by the same names (`import`)";

/// Scores are top-1, those of CIFAR-10 on its test split, those of ImageNet on its validation split.
fn facts(name: &str) -> Option<Facts> {
    Some(match name {
        "nasbench201_best_cifar10" => Facts::new(NASBENCH201, "94.37 % CIFAR-10"),
        "nasbench201_resnet" => Facts::new(NASBENCH201, "93.97 % CIFAR-10"),
        "darts_v1" => Facts::new(DARTS, "97.00 % CIFAR-10"),
        "darts_v2" => Facts::new(DARTS, "97.24 % CIFAR-10"),
        "pc_darts" => Facts::new(PC_DARTS, "97.43 % CIFAR-10"),
        "nasnet_a" => Facts::new(NASNET, "97.35 % CIFAR-10"),
        "amoebanet_a" => Facts::new(AMOEBANET, "96.66 % CIFAR-10"),
        "darts_v1_imagenet" => Facts::new(DARTS, ""),
        "darts_v2_imagenet" => Facts::new(DARTS, "73.3 % ImageNet"),
        "pc_darts_cifar_imagenet" => Facts::new(PC_DARTS, "74.9 % ImageNet"),
        "pc_darts_imagenet" => Facts::new(PC_DARTS, "75.8 % ImageNet"),
        "nasnet_a_imagenet" => Facts::new(NASNET, "74.0 % ImageNet"),
        "amoebanet_a_imagenet" => Facts::new(AMOEBANET, "74.5 % ImageNet"),
        "mobilenet_v2" => Facts::new("MobileNetV2 (arXiv 1801.04381)", "72.0 % ImageNet").weights(TORCHVISION),
        "mobilenet_v3_large" => Facts::new(MOBILENET_V3, "75.2 % ImageNet").weights(TORCHVISION),
        "mobilenet_v3_small" => Facts::new(MOBILENET_V3, "67.4 % ImageNet").weights(TORCHVISION),
        "mnasnet_a1" => Facts::new("MnasNet (arXiv 1807.11626)", "75.2 % ImageNet"),
        "fbnet_a" => Facts::new(FBNET, "73.0 % ImageNet"),
        "fbnet_b" => Facts::new(FBNET, "74.1 % ImageNet"),
        "fbnet_c" => Facts::new(FBNET, "74.9 % ImageNet"),
        "proxyless_gpu" => Facts::new("ProxylessNAS (arXiv 1812.00332)", "75.1 % ImageNet"),
        "resnet18" => Facts::new(RESNET, "69.76 % ImageNet (torchvision)").weights(TORCHVISION),
        "resnet20" => Facts::new(RESNET, "91.25 % CIFAR-10")
            .weights("github.com/akamaster/pytorch_resnet_cifar10, BSD 2-Clause (`import --rename linear=fc`)"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_network_has_its_counts_and_its_paper() {
        let models: Vec<Model> = presets().into_iter().map(|preset| model(preset).unwrap()).collect();
        assert!(models.iter().all(|model| model.cost.params > 0 && !model.facts.paper.is_empty()));
        let darts = models.iter().find(|model| model.name == "darts_v2").unwrap();
        assert_eq!(darts.cost, Cost { params: 3_349_342, macs: 528_359_040 });
    }
}
