//! `nas-segment models`: the networks that have a name.

use anyhow::{Context, Result};
use nas_core::nn::VarBuilder;
use nas_core::task::commands::models::{self, Facts, Model, ModelsArgs};

use crate::model::{ModelConfig, presets};

/// Height and width of Cityscapes' images, and its classes.
const SIZE: (i64, i64) = (1024, 2048);
const CLASSES: i64 = 19;

/// Runs the command.
pub fn run(args: &ModelsArgs) -> Result<()> {
    models::run(args, presets().into_iter().map(model).collect::<Result<_>>()?)
}

fn model((name, config): (&'static str, ModelConfig)) -> Result<Model> {
    let cost = config.build(&VarBuilder::dry(), CLASSES)?.cost(SIZE);
    let facts = facts(name).with_context(|| format!("nothing is known of {name}"))?;
    Ok(Model { name: name.into(), size: SIZE, num_classes: CLASSES, cost, facts })
}

const AUTO_DEEPLAB: &str = "Auto-DeepLab (arXiv 1901.02985)";
const DEEPLABV3PLUS: &str = "DeepLabv3+ (arXiv 1802.02611)";
const SQUEEZENAS: &str = "SqueezeNAS (arXiv 1908.01748)";
const SQUEEZENAS_WEIGHTS: &str = "github.com/ashaw596/squeezenas, MIT (`import`)";

const SHIPPED: &str = "come with the program; github.com/ashaw596/squeezenas, MIT";

const MOBILENET_V2: &str =
    "of the backbone, torchvision's MobileNetV2, BSD 3-Clause (`train.init`, `train.init_prefix = \"backbone.\"`)";

/// Scores are mIOU of Cityscapes' val split at one scale.
fn facts(name: &str) -> Option<Facts> {
    let squeezenas = |miou| Facts::new(SQUEEZENAS, miou).weights(SQUEEZENAS_WEIGHTS);
    Some(match name {
        "auto_deeplab_s" => Facts::new(AUTO_DEEPLAB, "79.74 % Cityscapes"),
        "auto_deeplab_m" => Facts::new(AUTO_DEEPLAB, "80.04 % Cityscapes"),
        "auto_deeplab_l" => Facts::new(AUTO_DEEPLAB, "80.33 % Cityscapes"),
        "deeplabv3plus_xception65" => Facts::new(DEEPLABV3PLUS, "79.14 % Cityscapes"),
        "deeplabv3plus_xception71" => Facts::new(DEEPLABV3PLUS, "79.55 % Cityscapes"),
        "deeplabv3plus_xception41" | "deeplabv3plus_resnet101" => Facts::new(DEEPLABV3PLUS, ""),
        "deeplabv3plus_mobilenet_v2" => Facts::new(DEEPLABV3PLUS, "").weights(MOBILENET_V2),
        "mobile_seg_deeplabv3plus_13" => {
            Facts::new(DEEPLABV3PLUS, "").own("56.04 ± 0.69 % CamVid (docs/results/camvid.md)").weights(MOBILENET_V2)
        }
        "mobile_seg_deeplabv3plus_11" => {
            Facts::new(DEEPLABV3PLUS, "").own("57.04 ± 0.25 % CamVid (docs/results/camvid.md)").weights(MOBILENET_V2)
        }
        "mobile_seg_hand_a" | "mobile_seg_hand_c" => Facts::new("made here by hand", ""),
        "squeezenas_mac_small" => squeezenas("66.77 % Cityscapes").weights(SHIPPED),
        "squeezenas_mac_large" => squeezenas("72.40 % Cityscapes"),
        "squeezenas_mac_xlarge" => squeezenas("74.62 % Cityscapes"),
        "squeezenas_lat_small" => squeezenas("68.01 % Cityscapes"),
        "squeezenas_lat_large" => squeezenas("73.51 % Cityscapes"),
        "squeezenas_lat_xlarge" => squeezenas("75.06 % Cityscapes"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use nas_core::nn::Cost;

    use super::*;

    #[test]
    fn every_named_network_has_its_counts_and_its_paper() {
        let models: Vec<Model> = presets().into_iter().map(|preset| model(preset).unwrap()).collect();
        assert!(models.iter().all(|model| !model.facts.paper.is_empty()));
        let small = models.iter().find(|model| model.name == "squeezenas_mac_small").unwrap();
        assert_eq!(small.cost, Cost { params: 277_598, macs: 3_007_512_576 });
    }
}
