//! Zero-cost proxies of a real NAS-Bench-201 network against a plain torch implementation, and what they leave behind.

use std::sync::{Mutex, PoisonError};

use nas_classify::model::{ModelConfig, NasBench201Model};
use nas_classify::nasbench201::NetworkConfig;
use nas_classify::task::Classification;
use nas_core::estimator::zero_cost::{Model, Proxy, ZeroCostError, score};
use nas_core::task::experiment::{LoaderSection, Setting};
use nas_core::task::searched::SearchedSpace;
use nas_core::task::zero_cost::{ZeroCost, ZeroCostConfig};

type Candidate = nas_core::task::zero_cost::Candidate<Classification>;
use nas_core::nn::Shape;
use nas_core::space::Architecture;
use nas_datasets::rng::stream;
use serde_json::Value;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// Whoever draws from libtorch's generator holds this: the tests of a process share it.
static GENERATOR: Mutex<()> = Mutex::new(());

fn candidate(config: &NetworkConfig, choices: [u16; 6], input: Shape) -> Candidate {
    let NetworkConfig { channels, cells, num_classes } = *config;
    let model = NasBench201Model { arch: Architecture::new(choices.to_vec()), channels, cells, stages: Vec::new() };
    Candidate::new(&ModelConfig::Nasbench201(model), num_classes as usize, input).unwrap()
}

/// The formula of zero_cost.py.
fn noise(shape: &[i64], phase: f64) -> Tensor {
    let index = Tensor::arange(shape.iter().product::<i64>(), (Kind::Double, Device::Cpu));
    let values = (index * 12.9898 + phase).sin() * 43758.5453;
    ((&values - values.floor()) * 2.0 - 1.0).reshape(shape)
}

fn fill(candidate: &Candidate) {
    tch::no_grad(|| {
        for (name, mut parameter) in candidate.parameters() {
            let values = noise(&parameter.size(), name.len() as f64);
            let values = match parameter.dim() {
                1 if name.ends_with("weight") => values * 0.2 + 1.0,
                1 => values * 0.2,
                _ => values * (6.0 / parameter.get(0).numel() as f64).sqrt(),
            };
            parameter.copy_(&values);
        }
    });
}

fn golden() -> Value {
    serde_json::from_str(include_str!("../../tests/golden/zero_cost/zero_cost.json")).unwrap()
}

/// The network, images and labels of the golden file.
fn golden_setting(golden: &Value) -> (Candidate, Tensor, Tensor) {
    let number = |key: &str| golden[key].as_i64().unwrap();
    let config = NetworkConfig {
        channels: number("channels"),
        cells: number("cells") as usize,
        num_classes: number("num_classes"),
    };
    let choices: [u16; 6] = serde_json::from_value(golden["choices"].clone()).unwrap();
    let (batch, size) = (number("batch"), number("size"));
    let candidate = candidate(&config, choices, Shape::new(3, size, size));
    fill(&candidate);
    let images = noise(&[batch, 3, size, size], 0.5).to_kind(Kind::Float);
    let labels = (Tensor::arange(batch, (Kind::Int64, Device::Cpu)) * 3).remainder(config.num_classes);
    (candidate, images, labels)
}

fn bits(vs: &VarStore) -> Vec<(String, Tensor)> {
    let mut all: Vec<_> = vs.variables().into_iter().map(|(name, tensor)| (name, tensor.copy())).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn every_proxy_agrees_with_torch_and_leaves_the_network_as_it_was() {
    let _generator = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::set_num_threads(1);
    let golden = golden();
    let (candidate, images, labels) = golden_setting(&golden);
    let before = bits(&candidate.vs);
    for (name, expected) in golden["scores"].as_object().unwrap() {
        tch::manual_seed(golden["zen_seed"].as_i64().unwrap());
        let expected = expected.as_f64().unwrap();
        let found = score(name.parse().unwrap(), &candidate, &images, &labels).unwrap();
        println!("{name:12} {found:.9e} {expected:.9e} {:.1e}", (found / expected - 1.0).abs());
        // ZiCo divides by deviations of gradients that are nearly equal: kernels for SSE4.1, AVX2 and AVX-512 differ by 6e-5 to 4e-4.
        let limit = if name == "zico" { 1e-3 } else { 1e-4 };
        assert!((found / expected - 1.0).abs() < limit, "{name}: {found}, torch says {expected}");
    }
    assert_eq!(before, bits(&candidate.vs));
    let logits: Vec<f64> = candidate.logits(&images).flatten(0, 1).try_into().unwrap();
    let expected: Vec<f64> = serde_json::from_value(golden["logits"].clone()).unwrap();
    assert!(logits.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{logits:?} {expected:?}");
}

#[test]
fn a_network_that_ignores_its_input_has_no_score_where_none_is_defined() {
    let _generator = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::set_num_threads(1);
    let config = NetworkConfig { channels: 4, cells: 1, num_classes: 3 };
    let candidate = candidate(&config, [0; 6], Shape::new(3, 8, 8));
    let images = noise(&[4, 3, 8, 8], 0.5).to_kind(Kind::Float);
    let labels = Tensor::from_slice(&[0i64, 1, 2, 0]);
    let undefined = [Proxy::JacobCov, Proxy::Naswot, Proxy::Zen, Proxy::AzExpressivity, Proxy::AzProgressivity];
    for proxy in Proxy::ALL {
        let result = score(proxy, &candidate, &images, &labels);
        let refused = matches!(result, Err(ZeroCostError::NotFinite { .. }));
        assert_eq!(refused, undefined.contains(&proxy), "{proxy}: {result:?}");
    }
    let error = score(Proxy::JacobCov, &candidate, &images, &labels).unwrap_err().to_string();
    assert_eq!(error, "jacob_cov of this network is NaN, expected a finite number");
    for proxy in [Proxy::Synflow, Proxy::Logsynflow] {
        assert_eq!(score(proxy, &candidate, &images, &labels).unwrap(), 0.0);
    }
}

#[test]
fn zen_leaves_out_norms_of_nothing() {
    let _generator = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::set_num_threads(1);
    let config = NetworkConfig { channels: 4, cells: 1, num_classes: 3 };
    // The convolution on 1->2 sees zeros.
    let candidate = candidate(&config, [0, 0, 3, 1, 0, 0], Shape::new(3, 8, 8));
    let images = noise(&[4, 3, 8, 8], 0.5).to_kind(Kind::Float);
    score(Proxy::Zen, &candidate, &images, &Tensor::new()).unwrap();
}

/// Every space, on images of a set and on noise.
#[test]
fn networks_of_every_space_are_scored() {
    let _generator = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::set_num_threads(1);
    let spaces = [
        "kind = 'nasbench201'\nchannels = 4\ncells = 1",
        "kind = 'cells'\nlayers = 3\nchannels = 4",
        "kind = 'chain'\nlayers = 3\nchannels = 4",
        "kind = 'mobile'",
    ];
    let setting = || {
        let data = "kind = 'synth'\nnum_images = 20\nnum_val = 4\nside = 20";
        Ok(Setting::<Classification> {
            data: toml::from_str(data)?,
            augment: Default::default(),
            loader: LoaderSection::default(),
            eval: Default::default(),
            loss: Default::default(),
        })
    };
    for space in spaces {
        let space: SearchedSpace<Classification> = toml::from_str(space).unwrap();
        let arch = space.choices().unwrap().sample(&mut stream(1, "test", 0));
        for on in ["noise", "data"] {
            let proxies = "proxies = ['naswot', 'zen', 'grad_norm', 'zico', 'az_expressivity']";
            let text = format!("{proxies}\nbatch_size = 4\nimage = 32\non = '{on}'");
            let config: ZeroCostConfig = toml::from_str(&text).unwrap();
            let sized =
                |size, seed| ZeroCost::<Classification>::new(&config, &space, None, size, setting, seed).unwrap();
            let new = |seed| sized(None, seed);
            let values = new(0).evaluate(&arch).unwrap();
            let mut names = new(0).metrics();
            names.extend(["params".to_string(), "macs".to_string()]);
            assert!(values.keys().eq(&names), "{values:?}");
            assert_eq!(values, new(0).evaluate(&arch).unwrap());
            let other = new(1).evaluate(&arch).unwrap();
            assert!(values["grad_norm"] != other["grad_norm"] && values["macs"] == other["macs"], "{space:?}");
            // The size that costs are counted for is not that of the batch.
            let larger = sized(Some((64, 64)), 0).evaluate(&arch).unwrap();
            assert!(larger["macs"] > 3.5 * values["macs"] && larger["zen"] == values["zen"], "{space:?}: {larger:?}");
        }
    }
}
