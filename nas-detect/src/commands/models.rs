//! `nas-detect models`: the detectors that have a name.

use anyhow::{Context, Result};
use nas_core::nn::{Cost, VarBuilder};
use nas_core::task::commands::models::{self, Facts, Model, ModelsArgs};

use crate::cost::reference;
use crate::model::{ModelConfig, presets};

/// Runs the command.
pub fn run(args: &ModelsArgs) -> Result<()> {
    models::run(args, presets().into_iter().map(model).collect::<Result<_>>()?)
}

fn model((name, config): (&'static str, ModelConfig)) -> Result<Model> {
    let (size, num_classes) = reference(name);
    let parts = config.build(&VarBuilder::dry(), num_classes)?.cost_parts(size);
    let mut cost = Cost::default();
    parts.into_iter().flatten().for_each(|(_, part)| cost += part);
    let facts = facts(name).with_context(|| format!("nothing is known of {name}"))?;
    Ok(Model { name: name.into(), size, num_classes, cost, facts })
}

const FCOS: &str = "FCOS (arXiv 1904.01355)";
const RETINANET: &str = "RetinaNet (arXiv 1708.02002)";
const DETNAS: &str = "DetNAS (arXiv 1903.10979)";

/// Scores are AP of COCO's val2017.
fn facts(name: &str) -> Option<Facts> {
    Some(match name {
        "fcos_detnas_tiny" => Facts::new(DETNAS, ""),
        "fcos_shufflenet_v2_x0_5" | "fcos_resnet18_fpn" | "fcos_mobilenet_v2_fpn" => Facts::new(FCOS, ""),
        "fcos_detnas_300m_fpn" => Facts::new(DETNAS, ""),
        "retinanet_detnas_300m_fpn" => Facts::new(DETNAS, "34.1 % AP COCO (authors' repository)"),
        "retinanet_resnet50_fpn" => Facts::new(RETINANET, "36.4 % AP COCO (torchvision)"),
        "retinanet_resnet50_fpn_v2" => Facts::new(RETINANET, "41.5 % AP COCO (torchvision)"),
        "fcos_resnet50_fpn" => Facts::new(FCOS, "39.2 % AP COCO (torchvision)"),
        "nasfpn_r50_7at256" => Facts::new("NAS-FPN (arXiv 1904.07392)", "39.9 % AP COCO"),
        "retinanet_resnet18_bifpn" => Facts::new("EfficientDet (arXiv 1911.09070)", ""),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_detector_has_its_counts_and_its_paper() {
        let models: Vec<Model> = presets().into_iter().map(|preset| model(preset).unwrap()).collect();
        assert!(models.iter().all(|model| model.cost.params > 0 && !model.facts.paper.is_empty()));
    }
}
