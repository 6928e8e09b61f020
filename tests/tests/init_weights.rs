//! Trainings that start from weights of others.

use std::fs;

use nas_tests::{SEGMENT, data};

/// A training of one step.
const TRAIN: &str = "kind = 'train'
[model]
preset = 'mobile_seg_deeplabv3plus_11'
[train]
epochs = 1
batch_size = 2
[data]
kind = 'synth'
num_images = 2
num_val = 1
height = 32
width = 64
seed = 0
[augment]
crop = [33, 33]
";

#[test]
fn mobilenet_v2_of_torchvision_starts_the_backbone_of_a_segmenter_and_the_rest_is_named() {
    let Some(weights) = data("mobilenet_v2/mobilenet_v2-b0353104.safetensors") else { return };
    let temp = tempfile::tempdir().unwrap();
    let config = temp.path().join("train.toml");
    fs::write(&config, TRAIN).unwrap();
    let init = format!("train.init={}", weights.display());
    let out = temp.path().join("run");
    let args = ["train", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap(), "--device", "cpu"];
    let set = ["--set", &init, "--set", "train.init_prefix=backbone."];
    let output = SEGMENT.command(&[&args[..], &set].concat()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    // The stem, and the first 11 blocks: five tensors of each convolution with its norm; two convolutions in the first block,
    // three in the others.
    let backbone = 5 * (1 + 2 + 10 * 3);
    assert!(text.contains(&format!("{backbone} of {backbone} backbone tensors, head new")), "{text}");
    assert!(text.contains(&format!("{} tensors of the file are not used", 262 - backbone)), "{text}");

    let other = temp.path().join("other");
    let args = ["train", "--config", config.to_str().unwrap(), "--out", other.to_str().unwrap(), "--device", "cpu"];
    let text = SEGMENT.fail(&[&args[..], &["--set", &init]].concat());
    assert!(text.contains("tensor backbone.features.0.0.weight is missing"), "{text}");
    let text = SEGMENT.fail(&[&args[..], &["--set", &init, "--set", "train.init_prefix=body."]].concat());
    assert!(text.contains("fits") && text.contains("backbone.features.0.0.weight"), "{text}");
    let text = SEGMENT.fail(&[&args[..], &["--set", "train.init_prefix=body."]].concat());
    assert!(text.contains("train.init_prefix without train.init"), "{text}");
}
