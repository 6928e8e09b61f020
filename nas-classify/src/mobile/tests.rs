use std::path::Path;

use nas_core::estimator::predictor::{Predictor, PredictorConfig};
use nas_core::nn::{Mode, Shape, VarBuilder};
use nas_core::space::{Architecture, ChoiceSpace};
use nas_core::stats::spearman;
use nas_core::task::TaskModel;
use nas_core::train::{all_variables, copy_into, read_tensors};
use nas_datasets::rng::stream;
use serde_json::Value;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::MobileSpace;
use crate::model::{Classifier, ModelConfig};

const GOLDEN: &str = include_str!("../../../tests/golden/torchvision/forward.json");

fn preset(name: &str, vs: &VarStore) -> Box<dyn Classifier> {
    ModelConfig::preset(name).unwrap().build(&VarBuilder::new(vs), 1000).unwrap()
}

/// `x[i] = sin(0.01 i) + 0.5 cos(0.0037 i)`.
fn images(side: i64) -> Tensor {
    let i = Tensor::arange(3 * side * side, (Kind::Double, Device::Cpu));
    ((&i * 0.01).sin() + (&i * 0.0037).cos() * 0.5).to_kind(Kind::Float).view([1, 3, side, side])
}

/// Torchvision's order of modules.
fn module_order(name: &str) -> Vec<String> {
    let rank = |part: &str| match part.parse::<u32>() {
        Ok(number) => format!("{number:03}"),
        Err(_) => {
            let order = ["features", "classifier", "conv1", "bn1", "conv2", "bn2", "layer", "downsample", "fc"];
            let found = order.iter().position(|known| part.starts_with(known));
            let found = if part.starts_with("fc") && part != "fc" { None } else { found };
            found.map_or(part.to_string(), |rank| format!("{rank}{part}"))
        }
    };
    name.rsplit_once('.').map(|(module, _)| module).unwrap_or("").split('.').map(rank).collect()
}

/// The closed-form weights of the golden numbers.
fn fill(vs: &VarStore) {
    const LEAVES: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];
    let mut variables = all_variables(vs);
    let leaf = |name: &str| LEAVES.iter().position(|leaf| name.ends_with(leaf)).unwrap();
    variables.sort_by_key(|(name, _)| (module_order(name), leaf(name)));
    let mut position = 0;
    for (name, tensor) in &variables {
        let i = Tensor::arange(tensor.numel() as i64, (Kind::Double, Device::Cpu)).view(&tensor.size()[..]);
        let s = (i * 0.3 + f64::from(position)).sin();
        let one_dimensional = tensor.dim() == 1;
        let value = match (one_dimensional, leaf(name)) {
            (true, 3) => &s * &s * 0.1 + 1.0,
            (true, 0) => s * 0.1 + 1.0,
            (true, _) => s * 0.05,
            (false, _) => s * (2.0 / (tensor.numel() as f64 / tensor.size()[0] as f64)).sqrt(),
        };
        tch::no_grad(|| tensor.shallow_clone().copy_(&value));
        // The count of batches follows a norm's variance.
        position += if leaf(name) == 3 { 2 } else { 1 };
    }
}

fn assert_golden(logits: &Tensor, golden: &Value, name: &str) {
    let norm = golden["norm"].as_f64().unwrap();
    let close = |found: f64, expected: &Value, what: &str| {
        let expected = expected.as_f64().unwrap();
        assert!((found - expected).abs() < 1e-4 * norm, "{name}, {what}: {found}, expected {expected}");
    };
    close(logits.sum(Kind::Double).double_value(&[]), &golden["sum"], "sum");
    close(logits.norm().double_value(&[]), &golden["norm"], "norm");
    let first = golden.get("first5").or(golden.get("first10")).unwrap().as_array().unwrap();
    for (i, expected) in first.iter().enumerate() {
        let found = logits.double_value(&[0, i as i64]);
        let expected = expected.as_f64().unwrap();
        assert!((found - expected).abs() < 1e-4, "{name}, logit {i}: {found}, expected {expected}");
    }
}

#[test]
fn forward_passes_equal_torchvisions() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    for name in ["mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "resnet18"] {
        let vs = VarStore::new(Device::Cpu);
        let net = preset(name, &vs);
        fill(&vs);
        let logits = tch::no_grad(|| net.forward(&images(96), Mode::EVAL).main);
        assert_golden(&logits, &golden[name], name);
        assert_eq!(net.cost(Shape::new(3, 224, 224)).params, golden[name]["params"].as_u64().unwrap(), "{name}");
    }
}

#[test]
fn torchvisions_weights_of_mobilenet_v2_load_by_name() {
    let Some(root) = std::env::var_os("NAS_DATA") else { return eprintln!("skipped: NAS_DATA is not set") };
    let path = Path::new(&root).join("mobilenet_v2/mobilenet_v2-b0353104.safetensors");
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let vs = VarStore::new(Device::Cpu);
    let net = preset("mobilenet_v2", &vs);
    copy_into(&all_variables(&vs), &read_tensors(&path).unwrap()).unwrap();
    let logits = tch::no_grad(|| net.forward(&images(224), Mode::EVAL).main);
    assert_golden(&logits, &golden["mobilenet_v2_pretrained"], "pretrained");
    assert_eq!(
        logits.argmax(1, false).int64_value(&[0]),
        golden["mobilenet_v2_pretrained"]["argmax"].as_i64().unwrap()
    );
}

fn counts(name: &str) -> (f64, f64) {
    let net = ModelConfig::preset(name).unwrap().build(&VarBuilder::dry(), 1000).unwrap();
    let cost = net.cost(Shape::new(3, 224, 224));
    (cost.params as f64 / 1e6, cost.macs as f64 / 1e6)
}

/// Millions of parameters and of multiply-adds as published (`specs/strategies.md`, section 3; ProxylessNAS-GPU as the
/// search of AngleNAS bounds itself by it), and how far they may be from ours in percent: they are rounded. What is further:
/// FBNet's multiply-adds are 1.3 to 2 % below the published ones, by 4.6 to 5.0 M in all three, the cause is not known;
/// MobileNetV3-Small's are 56.5 M, not the 66 M that TF-slim gives to a network of 2.9 M parameters.
#[test]
fn counts_agree_with_the_published_ones() {
    for (name, params, macs, percent) in [
        ("mobilenet_v2", 3.50, 300.0, 0.5),
        ("mobilenet_v3_large", 5.48, 217.0, 0.5),
        ("mobilenet_v3_small", 2.54, 56.5, 0.5),
        ("mnasnet_a1", 3.9, 312.0, 0.5),
        ("fbnet_a", 4.3, 249.4, 2.1),
        ("fbnet_b", 4.8, 295.6, 2.1),
        ("fbnet_c", 5.5, 383.0, 2.1),
        ("proxyless_gpu", 7.1, 465.0, 0.5),
    ] {
        let (found_params, found_macs) = counts(name);
        for (found, published) in [(found_params, params), (found_macs, macs)] {
            assert!((found / published - 1.0).abs() < percent / 100.0, "{name}: {found}, published {published}");
        }
    }
    let saved = 1.0 - counts("mobilenet_v3_large").1 / counts("mobilenet_v2").1;
    assert!((0.25..0.31).contains(&saved), "V3-Large saves near 30 % of V2's multiply-adds, not {saved}");
}

#[test]
fn resnet_20_has_the_papers_parameters() {
    let net = ModelConfig::preset("resnet20").unwrap().build(&VarBuilder::dry(), 10).unwrap();
    let cost = net.cost(Shape::new(3, 32, 32));
    assert_eq!((cost.params, cost.macs), (269_722, 40_551_040));
}

#[test]
fn networks_allocate_what_they_count() {
    for name in ["mobilenet_v3_small", "mnasnet_a1", "fbnet_a", "proxyless_gpu", "resnet18", "resnet20"] {
        let vs = VarStore::new(Device::Cpu);
        let net = preset(name, &vs);
        let allocated: usize = vs.trainable_variables().iter().map(Tensor::numel).sum();
        assert_eq!(net.cost(Shape::new(3, 64, 64)).params, allocated as u64, "{name}");
        assert_eq!(net.forward(&images(64), Mode::EVAL).main.size(), [1, 1000]);
    }
}

/// Blocks are combinations of kernel, expansion, gate and activation, 24 of them here, of which few occur twice among forty networks.
#[test]
fn what_one_block_says_of_an_expansion_is_said_of_all_blocks_that_have_it() {
    let stage = "channels = [8, 16], kernels = [3, 5], expansions = [2, 3, 6], squeeze = [false, true], \
                 activations = ['relu', 'hswish'], layers = 3, skip = true";
    let space: MobileSpace =
        toml::from_str(&format!("stages = [{{ {stage}, stride = 1 }}, {{ {stage}, stride = 2 }}]")).unwrap();
    let mut rng = stream(0, "traits", 0);
    let archs: Vec<Architecture> = (0..120).map(|_| space.sample(&mut rng)).collect();
    assert!(archs.iter().all(|arch| space.traits(arch).len() == 6 * 5 + 2));
    let value = |arch: &Architecture| {
        let of = |block: &nas_core::models::BlockConfig| (block.hidden / block.channels.0 + block.ksize) as f64;
        space.blocks(arch).iter().map(of).sum::<f64>()
    };
    let evaluated: Vec<(Architecture, f64)> = archs.iter().map(|arch| (arch.clone(), value(arch))).collect();
    let (known, unknown) = evaluated.split_at(40);
    let process = Predictor::fit(&PredictorConfig::GaussianProcess {}, &space, known, &mut rng).unwrap();
    let predicted: Vec<f64> = unknown.iter().map(|(arch, _)| process.predict(&space, arch)).collect();
    let rank = spearman(&predicted, &unknown.iter().map(|(_, value)| *value).collect::<Vec<_>>());
    assert!(rank > 0.8, "rank correlation {rank:.2}");
}
