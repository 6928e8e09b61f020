use std::collections::HashMap;
use std::convert::Infallible;

use nas_datasets::rng;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::carry::rectified_moments;
use super::*;
use crate::estimator::batch_norm_recalibration::recalibrate;
use crate::nn::{Mode, Module, Shape, VarBuilder};
use crate::optim::{AdamConfig, Named, OptimizerConfig, SgdConfig, gradients, named_parameters};

/// The generator of one case of a test. Nothing is drawn from libtorch's own, which tests in other threads share.
fn seeded(purpose: &str, id: u64) -> ChaCha8Rng {
    tch::set_num_threads(1);
    rng::stream(0, purpose, id)
}

/// Uniform noise of mean 0 and variance 1, double precision.
fn noise(dims: &[i64], rng: &mut ChaCha8Rng) -> Tensor {
    let bound = 3f64.sqrt();
    let values: Vec<f64> = (0..dims.iter().product()).map(|_| rng.random_range(-bound..bound)).collect();
    Tensor::from_slice(&values).view(dims)
}

fn labels(n: usize, classes: i64, rng: &mut ChaCha8Rng) -> Tensor {
    Tensor::from_slice(&(0..n).map(|_| rng.random_range(0..classes)).collect::<Vec<i64>>())
}

/// The variables of `vs` by name, kernels and matrices drawn from `rng`: He initialization, logits of order one.
fn drawn(vs: &VarStore, rng: &mut ChaCha8Rng) -> Vec<Named> {
    let mut variables: Vec<Named> = vs.variables().into_iter().collect();
    variables.sort_by(|a, b| a.0.cmp(&b.0));
    for (_, tensor) in variables.iter_mut().filter(|(_, tensor)| tensor.dim() > 1) {
        let dims = tensor.size();
        let sd = if dims.len() == 2 { 1.0 } else { (2.0 / (dims[0] * dims[2] * dims[3]) as f64).sqrt() };
        tch::no_grad(|| tensor.copy_(&(noise(&dims, rng) * sd)));
    }
    variables
}

/// A network that has not been trained.
fn initial(text: &str, rng: &mut ChaCha8Rng) -> Trained {
    let net: ConvNet = text.parse().unwrap();
    let vs = VarStore::new(Device::Cpu);
    let _network = net.build(&VarBuilder::new(&vs));
    drawn(&vs, rng);
    Trained::capture(net, &vs, None)
}

/// One to three stages of one to three blocks, some with additions, of kernels 1, 3, 5.
fn random_net(rng: &mut ChaCha8Rng) -> ConvNet {
    let mut blocks: Vec<Block> = Vec::new();
    for stage in 0..rng.random_range(1..=3) {
        let (first, width) = (blocks.len() + 1, rng.random_range(3..=8));
        for b in 0..rng.random_range(1..=3) {
            let stride = if stage > 0 && b == 0 { 2 } else { 1 };
            let skip = (b > 0 && rng.random_bool(0.5)).then(|| rng.random_range(first..first + b));
            let width = if skip.is_some() || rng.random_bool(0.7) { width } else { width + 1 };
            let skip = skip.filter(|&from| blocks[from - 1].width == width);
            blocks.push(Block { ksize: 2 * rng.random_range(0..=2) + 1, width, stride, skip });
        }
    }
    ConvNet::new(3, blocks, 5).unwrap()
}

/// A network as training might leave it: random scales, shifts and gates, running statistics that are those of images up
/// to random factors and offsets, logits of order one, and a state for every parameter.
fn random_trained(net: ConvNet, kind: Kind, rng: &mut ChaCha8Rng) -> Trained {
    let vs = VarStore::new(Device::Cpu);
    let network = net.build(&VarBuilder::new(&vs));
    let mut variables = drawn(&vs, rng);
    let mut set = |suffix: &str, rng: &mut ChaCha8Rng, change: fn(&Tensor, Tensor) -> Tensor| {
        for (_, tensor) in variables.iter_mut().filter(|(name, _)| name.ends_with(suffix)) {
            let dims = tensor.size();
            let u = noise(&dims, rng) / 3f64.sqrt(); // -1 to 1
            tch::no_grad(|| tensor.copy_(&change(tensor, u)));
        }
    };
    set("gate", rng, |_, u| u);
    set("bn.weight", rng, |_, u| u * 0.5 + 1.0);
    set("bias", rng, |_, u| u * 0.5);
    let forward = |xs: &Tensor, mode| {
        let _ = network.forward(xs, mode);
        Ok::<_, Infallible>(())
    };
    recalibrate(&network.norms(), [images(16, net.c_in(), Kind::Float, rng)], forward).unwrap();
    set("running_mean", rng, |mean, u| mean + u * 0.1);
    set("running_var", rng, |var, u| var * (u * 0.5 + 1.0));
    let mut trained = Trained::capture(net, &vs, None);
    trained.tensors.values_mut().for_each(|tensor| *tensor = tensor.to_kind(kind));
    for (name, value) in variables.iter().filter(|(_, tensor)| tensor.requires_grad()) {
        let moment = noise(&value.size(), rng).to_kind(kind);
        trained.optimizer.extend([
            (format!("{name}.second"), moment.square()),
            (format!("{name}.first"), moment.copy()),
            (format!("{name}.velocity"), moment),
            (format!("{name}.steps"), Tensor::from(7i64)),
        ]);
    }
    trained
}

/// Noise around a colour of its own in each image, so that pooling over an image leaves something.
fn images(n: i64, c: i64, kind: Kind, rng: &mut ChaCha8Rng) -> Tensor {
    (noise(&[n, c, 12, 11], rng) + noise(&[n, c, 1, 1], rng)).to_kind(kind)
}

fn logits(trained: &Trained, xs: &Tensor, mode: Mode) -> Tensor {
    let (_vs, network) = trained.build(Device::Cpu).unwrap();
    tch::no_grad(|| network.forward(xs, mode))
}

fn max_abs(xs: &Tensor) -> f64 {
    xs.abs().max().double_value(&[])
}

/// One random morphism of each kind that `net` admits.
fn one_of_each_kind(net: &ConvNet, rng: &mut ChaCha8Rng) -> Vec<Morphism> {
    let space = MorphismSpace::default();
    let all = space.neighbours(net);
    let pick = |wanted: fn(&Morphism) -> bool, rng: &mut ChaCha8Rng| {
        let kind: Vec<Morphism> = all.iter().copied().filter(wanted).collect();
        (!kind.is_empty()).then(|| kind[rng.random_range(0..kind.len())])
    };
    [
        pick(|m| matches!(m, Morphism::Widen { .. }), rng),
        pick(|m| matches!(m, Morphism::Deepen { .. }), rng),
        pick(|m| matches!(m, Morphism::AddSkip { .. }), rng),
        pick(|m| matches!(m, Morphism::GrowKernel { .. }), rng),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Largest difference of the functions of parent and child, and a check that the parent's says something.
fn difference(parent: &Trained, child: &Trained, kind: Kind) -> f64 {
    let xs = images(4, 3, kind, &mut seeded("images", 0));
    let (before, after) = (logits(parent, &xs, Mode::EVAL), logits(child, &xs, Mode::EVAL));
    let spread = before.std_dim([0i64].as_slice(), true, false).max().double_value(&[]);
    assert!(spread > 0.1, "the network {} gives {spread} of spread: nothing is tested", parent.net);
    max_abs(&(before - after))
}

#[test]
fn ten_networks_keep_their_function_under_each_morphism() {
    let mut worst = [0f64; 4];
    for id in 0..10 {
        let mut rng = seeded("morphism", id);
        // two blocks of one stage and width at the end, so that every kind is possible
        let mut net = random_net(&mut rng);
        net = Morphism::Deepen { after: net.len(), ksize: 3 }.apply(&net).unwrap();
        let parent = random_trained(net, Kind::Float, &mut rng);
        let morphisms = one_of_each_kind(&parent.net, &mut rng);
        assert_eq!(morphisms.len(), 4, "{}: {morphisms:?}", parent.net);
        for (kind, morphism) in morphisms.into_iter().enumerate() {
            let child = morph(&parent, &morphism, &Morphing::default(), &mut rng).unwrap();
            assert_eq!(child.net, morphism.apply(&parent.net).unwrap());
            let largest = difference(&parent, &child, Kind::Float);
            assert!(largest < 1e-5, "{}: {morphism}: {largest}", parent.net);
            worst[kind] = worst[kind].max(largest);
        }
    }
    println!("largest differences in f32, widen, deepen, add a skip, grow: {worst:?}");
}

#[test]
fn ten_networks_keep_their_function_under_chains_of_five() {
    for (kind, bound) in [(Kind::Float, 1e-5), (Kind::Double, 1e-12)] {
        let mut worst: f64 = 0.0;
        for id in 0..10 {
            let mut rng = seeded("chain", id);
            let parent = random_trained(random_net(&mut rng), kind, &mut rng);
            let chain = children(&parent, (1, 5), &MorphismSpace::default(), &Morphing::default(), &mut rng).unwrap();
            assert_eq!(chain[0].morphisms.len(), 5);
            let largest = difference(&parent, &chain[0].trained, kind);
            assert!(largest < bound, "{} to {}: {largest} in {kind:?}", parent.net, chain[0].trained.net);
            worst = worst.max(largest);
        }
        println!("chains of five in {kind:?}: {worst:e}");
    }
}

#[test]
fn the_check_of_the_function_can_fail() {
    let mut rng = seeded("control", 0);
    let parent = random_trained("3|3x6-3x6+1|3x5|4".parse().unwrap(), Kind::Float, &mut rng);
    let mut child = morph(&parent, &Morphism::Widen { block: 1, width: 9 }, &Morphing::default(), &mut rng).unwrap();
    // what an undivided weight would do: rows of the next convolution read the replicas in full
    let kernel = child.tensors.get_mut("blocks.3.conv.weight").unwrap();
    tch::no_grad(|| kernel.narrow(1, 0, 6).copy_(&parent.tensors["blocks.3.conv.weight"]));
    assert!(difference(&parent, &child, Kind::Float) > 1e-3);
}

#[test]
fn a_forward_pass_equals_one_by_hand() {
    let mut rng = seeded("forward", 0);
    let parent = random_trained("1|1x1-1x1+1|1".parse().unwrap(), Kind::Double, &mut rng);
    let values = [
        ("blocks.1.conv.weight", 2.0),
        ("blocks.1.bn.bias", -1.0),
        ("blocks.2.conv.weight", -1.0),
        ("blocks.2.bn.bias", 1.0),
        ("blocks.2.gate", 0.5),
        ("classifier.weight", 2.0),
        ("classifier.bias", 1.0),
    ];
    for (name, tensor) in &parent.tensors {
        let default = match name.rsplit_once('.').unwrap().1 {
            "running_mean" => 0.0,
            "running_var" => 1.0 - 1e-5,
            _ => 1.0,
        };
        let value = values.iter().find(|(known, _)| known == name).map_or(default, |(_, value)| *value);
        let _ = tensor.shallow_clone().fill_(value);
    }
    // relu(2x - 1) is 0, 3, 1; with relu(-y + 1 + y/2) that gives 1, 0, 1/2 of mean 1/2
    let xs = Tensor::from_slice(&[-1.0, 2.0, 1.0]).view([1, 1, 1, 3]);
    assert!((logits(&parent, &xs, Mode::EVAL).double_value(&[0, 0]) - 2.0).abs() < 1e-12);
}

#[test]
fn costs_grow_as_counted() {
    let input = Shape::new(3, 16, 16);
    let cost = |net: &ConvNet| net.cost(input).unwrap();
    let parent: ConvNet = "3|3x8-5x8+1|3x12|10".parse().unwrap();
    let grown = |morphism: Morphism| {
        let (old, new) = (cost(&parent), cost(&morphism.apply(&parent).unwrap()));
        (new.params - old.params, new.macs - old.macs)
    };
    // blocks 1 and 2 are tied: their kernels, norms (2 a channel), the gate, and the kernel that reads block 2
    let widened = |c: u64| 27 * c + 25 * c * c + 2 * 2 * c + c + 9 * c * 12;
    let macs = |c: u64| 256 * (27 * c + 25 * c * c) + 64 * 9 * c * 12;
    let expected = (widened(13) - widened(8), macs(13) - macs(8));
    assert_eq!(grown(Morphism::Widen { block: 2, width: 13 }), expected);
    assert_eq!(grown(Morphism::Widen { block: 1, width: 13 }), expected);
    assert_eq!(grown(Morphism::Deepen { after: 3, ksize: 3 }), (9 * 144 + 24, 64 * 9 * 144));
    assert_eq!(grown(Morphism::GrowKernel { block: 3 }), (16 * 96, 64 * 16 * 96));
    let deeper = Morphism::Deepen { after: 3, ksize: 3 }.apply(&parent).unwrap();
    let skipping = Morphism::AddSkip { from: 3, to: 4 }.apply(&deeper).unwrap();
    assert_eq!((cost(&skipping).params, cost(&skipping).macs), (cost(&deeper).params + 12, cost(&deeper).macs));
}

#[test]
fn a_network_holds_the_tensors_that_it_lists_and_counts() {
    for id in 0..10 {
        let net = random_net(&mut seeded("specs", id));
        let vs = VarStore::new(Device::Cpu);
        let _network = net.build(&VarBuilder::new(&vs));
        let by_name = |mut list: Vec<(String, Vec<i64>, bool)>| {
            list.sort();
            list
        };
        let built = vs.variables().into_iter().map(|(name, t)| (name, t.size(), t.requires_grad()));
        let listed = net.specs().into_iter().map(|spec| (spec.name, spec.dims, spec.trained));
        assert_eq!(by_name(listed.collect()), by_name(built.collect()), "{net}");
        let params: usize = vs.trainable_variables().iter().map(Tensor::numel).sum();
        assert_eq!(net.cost(Shape::new(3, 16, 16)).unwrap().params, params as u64, "{net}");
        assert_eq!(net.to_string().parse::<ConvNet>().unwrap(), net);
        assert_eq!(serde_json::from_str::<ConvNet>(&serde_json::to_string(&net).unwrap()).unwrap(), net);
    }
}

/// Mean cross-entropy and its gradients by name.
fn loss_and_gradients(trained: &Trained, xs: &Tensor, labels: &Tensor, mode: Mode) -> (f64, HashMap<String, Tensor>) {
    let (vs, network) = trained.build(Device::Cpu).unwrap();
    let parameters = named_parameters(&vs);
    let loss = network.forward(xs, mode).cross_entropy_for_logits(labels);
    let grads = gradients(&loss, &parameters);
    let named = parameters.into_iter().zip(grads).map(|((name, _), grad)| (name, grad));
    (loss.double_value(&[]), named.collect())
}

/// Puts the gradients of `trained` in the place of every moment.
fn with_gradients_as_state(trained: &mut Trained, grads: &HashMap<String, Tensor>) {
    trained.optimizer = grads
        .iter()
        .flat_map(|(name, grad)| {
            [("velocity", grad.copy()), ("first", grad.copy()), ("second", grad.square())]
                .map(|(suffix, tensor)| (format!("{name}.{suffix}"), tensor))
        })
        .collect();
}

#[test]
fn the_state_changes_as_the_gradients_do() {
    let mut checked = [0; 4];
    for id in 0..10 {
        let mut rng = seeded("gradients", id);
        let mut net = random_net(&mut rng);
        net = Morphism::Deepen { after: net.len(), ksize: 3 }.apply(&net).unwrap();
        let mut parent = random_trained(net, Kind::Double, &mut rng);
        let (xs, labels) = (images(6, 3, Kind::Double, &mut rng), labels(6, 5, &mut rng));
        for (kind, morphism) in one_of_each_kind(&parent.net, &mut rng).into_iter().enumerate() {
            // the new norm of a deeper network has a gradient of its own in training
            let mode = if matches!(morphism, Morphism::Deepen { .. }) { Mode::EVAL } else { Mode::train(0.0) };
            let (loss, grads) = loss_and_gradients(&parent, &xs, &labels, mode);
            with_gradients_as_state(&mut parent, &grads);
            let even = Morphing { noise: 0.0, batch: None };
            let child = morph(&parent, &morphism, &even, &mut rng).unwrap();
            let (child_loss, child_grads) = loss_and_gradients(&child, &xs, &labels, mode);
            assert!((loss - child_loss).abs() < 1e-12);
            for (name, grad) in child_grads {
                if !child.optimizer.contains_key(&format!("{name}.velocity")) {
                    let new = match morphism {
                        Morphism::Deepen { after, .. } => format!("blocks.{}.", after + 1),
                        Morphism::AddSkip { to, .. } => format!("blocks.{to}.gate"),
                        _ => panic!("{morphism} lost the state of {name}"),
                    };
                    assert!(name.starts_with(&new), "{morphism} lost the state of {name}");
                    continue;
                }
                // the new ring of a kernel has a gradient, but no momentum
                let grad = match morphism {
                    Morphism::GrowKernel { block } if name == format!("blocks.{block}.conv.weight") => {
                        let k = grad.size()[2] - 2;
                        grad.narrow(2, 1, k).narrow(3, 1, k).constant_pad_nd([1, 1, 1, 1])
                    }
                    _ => grad,
                };
                let scale = max_abs(&grad).max(1e-6);
                for (suffix, expected) in [("velocity", &grad), ("first", &grad), ("second", &grad.square())] {
                    let mut found = child.optimizer[&format!("{name}.{suffix}")].shallow_clone();
                    if suffix == "second" && matches!(morphism, Morphism::GrowKernel { .. }) {
                        found = &found * expected.ne(0.0);
                    }
                    let error = max_abs(&(found - expected)) / if suffix == "second" { scale * scale } else { scale };
                    assert!(error < 1e-9, "{} after {morphism}: {name}.{suffix} is off by {error}", parent.net);
                }
                checked[kind] += 1;
            }
        }
    }
    assert!(checked.iter().all(|&n| n > 100), "{checked:?}");
}

#[test]
fn new_taps_have_the_mean_second_moment_and_no_first() {
    let mut rng = seeded("taps", 0);
    let parent = random_trained("3|3x4|2".parse().unwrap(), Kind::Float, &mut rng);
    let grow = Morphism::GrowKernel { block: 1 };
    let child = morph(&parent, &grow, &Morphing::default(), &mut rng).unwrap();
    let state = |of: &Trained, suffix: &str| of.optimizer[&format!("blocks.1.conv.weight.{suffix}")].copy();
    let (old, new) = (state(&parent, "second"), state(&child, "second"));
    let mean = old.get(2).get(1).mean(Kind::Float).double_value(&[]);
    assert!((new.double_value(&[2, 1, 0, 4]) - mean).abs() < 1e-6);
    assert_eq!(new.double_value(&[2, 1, 3, 1]), old.double_value(&[2, 1, 2, 0]));
    assert_eq!(state(&child, "first").double_value(&[2, 1, 0, 4]), 0.0);
    assert_eq!(state(&child, "steps").int64_value(&[]), 7);
}

#[test]
fn a_training_step_starts_from_the_parents_loss() {
    for id in 0..10 {
        let mut rng = seeded("loss", id);
        let mut net = random_net(&mut rng);
        net = Morphism::Deepen { after: net.len(), ksize: 3 }.apply(&net).unwrap();
        let parent = random_trained(net, Kind::Float, &mut rng);
        let (xs, labels) = (images(8, 3, Kind::Float, &mut rng), labels(8, 5, &mut rng));
        for morphism in one_of_each_kind(&parent.net, &mut rng) {
            let double = xs.to_kind(Kind::Double); // kinds need not agree
            let fitted = Morphing { batch: Some(&double), ..Default::default() };
            let child = morph(&parent, &morphism, &fitted, &mut rng).unwrap();
            let (before, _) = loss_and_gradients(&parent, &xs, &labels, Mode::train(0.0));
            let (after, _) = loss_and_gradients(&child, &xs, &labels, Mode::train(0.0));
            assert!((before - after).abs() < 1e-5, "{} after {morphism}: {before} becomes {after}", parent.net);
            assert!(difference(&parent, &child, Kind::Float) < 1e-5, "{} after {morphism}, fitted", parent.net);
        }
    }
}

#[test]
fn without_a_batch_a_deeper_network_trains_from_near_the_parents_function() {
    let mut rng = seeded("near", 0);
    let xs = images(64, 3, Kind::Float, &mut rng);
    for net in ["3|3x8-3x8|5", "3|3x8-3x8+1|3x6-3x6+3|5"] {
        let mut parent = random_trained(net.parse().unwrap(), Kind::Float, &mut rng);
        if let Some(gate) = parent.tensors.get_mut("blocks.2.gate") {
            let _ = gate.fill_(1.0); // features that are added must count in the moments
        }
        let in_training = |trained: &Trained| logits(trained, &xs, Mode::train(0.0));
        let before = in_training(&parent);
        let off = |child: &Trained| (in_training(child) - &before).norm().double_value(&[]);
        let deepen = Morphism::Deepen { after: 2, ksize: 3 };
        let mut child = morph(&parent, &deepen, &Morphing::default(), &mut rng).unwrap();
        let derived = off(&child);
        let with = Morphing { batch: Some(&xs), ..Default::default() };
        let fitted = morph(&parent, &deepen, &with, &mut rng).unwrap();
        for (name, bound) in [("blocks.3.bn.bias", 0.1), ("blocks.3.bn.weight", 0.25)] {
            let (a, b) = (&child.tensors[name], &fitted.tensors[name]);
            let error = (a - b).norm().double_value(&[]) / b.norm().double_value(&[]);
            println!("{net}: {name} is off by {error}");
            assert!(error < bound, "{net}: {name} is off by {error}");
        }
        // the norm as it would start without any statistics
        for (name, value) in [("weight", 1.0), ("bias", 0.0)] {
            let _ = child.tensors.get_mut(&format!("blocks.3.bn.{name}")).unwrap().fill_(value);
        }
        let (plain, norm) = (off(&child), before.norm().double_value(&[]));
        println!("{net}: logits of norm {norm:.4}, off by {derived:.4} with derived moments, by {plain:.4} with none");
        // not nearer, because features are neither Gaussian nor, where one is added, independent
        assert!(derived < 0.5 * plain, "{net}: off by {derived} with derived moments, by {plain} with none");
    }
}

#[test]
fn moments_of_a_rectified_gaussian_are_those_of_a_sample() {
    let mut rng = seeded("moments", 0);
    let (mean, sd) = ([0.0, 0.7, -1.2, 3.0, -0.5], [1.0, 0.5, 0.9, 2.0, 0.0]);
    let [means, sds] = [mean, sd].map(|values| Tensor::from_slice(&values));
    let (first, variance) = rectified_moments(&means, &sds.square());
    // Box and Muller: normal numbers from uniform ones
    let uniform = |rng: &mut ChaCha8Rng| (noise(&[1_000_000, 5], rng) / 12f64.sqrt() + 0.5).clamp_min(1e-12);
    let normal = (uniform(&mut rng).log() * -2.0).sqrt() * (uniform(&mut rng) * 2.0 * std::f64::consts::PI).cos();
    let sample = (normal * &sds + &means).relu();
    assert!(max_abs(&(sample.mean_dim([0i64].as_slice(), false, None) - &first)) < 5e-3);
    assert!(max_abs(&(sample.var_dim([0i64].as_slice(), true, false) - &variance)) < 1e-2);
    // half a normal distribution: 1 / sqrt(2 pi) and 1/2 - 1 / (2 pi)
    assert!((first.double_value(&[0]) - 0.398_942_280_401_432_7).abs() < 1e-12);
    assert!((variance.double_value(&[0]) - (0.5 - std::f64::consts::FRAC_1_PI / 2.0)).abs() < 1e-12);
}

/// Images whose class is the channel that is brighter on one half; 4 classes.
fn task(n: usize, rng: &mut ChaCha8Rng) -> (Tensor, Tensor) {
    let labels = labels(n, 4, rng);
    let xs = noise(&[n as i64, 3, 8, 8], rng).to_kind(Kind::Float);
    for (i, label) in (0..).zip(Vec::<i64>::try_from(&labels).unwrap()) {
        let _ = xs.get(i).get(label % 2).narrow(0, 4 * (label / 2), 4).g_add_scalar_(0.8);
    }
    (xs, labels)
}

/// Losses of `steps` training steps from `trained` on; what comes out.
fn train(trained: &Trained, config: &OptimizerConfig, steps: usize, rng: &mut ChaCha8Rng) -> (Vec<f64>, Trained) {
    let (vs, network, mut optimizer) = trained.resume(Device::Cpu, config).unwrap();
    let losses = (0..steps).map(|_| {
        let (xs, labels) = task(32, rng);
        let loss = network.forward(&xs, Mode::train(0.0)).cross_entropy_for_logits(&labels);
        optimizer.step(&gradients(&loss, optimizer.parameters()), config.lr());
        loss.double_value(&[])
    });
    let losses: Vec<f64> = losses.collect();
    (losses, Trained::capture(trained.net.clone(), &vs, Some(optimizer.as_ref())))
}

#[test]
fn children_train_on_with_the_inherited_state() {
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let configs = [
        OptimizerConfig::Sgd(SgdConfig { lr: 0.02, ..Default::default() }),
        OptimizerConfig::Adam(AdamConfig { lr: 2e-3, ..Default::default() }),
    ];
    for config in configs {
        let mut rng = seeded("train", 0);
        let (losses, parent) = train(&initial("3|3x6-3x6+1|3x8|4", &mut rng), &config, 30, &mut rng);
        let parent_end = mean(&losses[20..]);
        assert!(parent_end < losses[0]);
        let fitted_on = task(64, &mut rng).0;
        let with = Morphing { batch: Some(&fitted_on), ..Default::default() };
        for Child { morphisms, trained } in
            children(&parent, (4, 3), &MorphismSpace::default(), &with, &mut rng).unwrap()
        {
            let (losses, after) = train(&trained, &config, 40, &mut rng);
            let (start, end) = (mean(&losses[..5]), mean(&losses[30..]));
            println!("{} to {}: {parent_end:.3}, {start:.3} to {end:.3}", parent.net, trained.net);
            assert!(start < parent_end + 0.2, "{morphisms:?} starts at {start}, the parent ended at {parent_end}");
            assert!(end < 0.8 * start, "{morphisms:?}: {start} to {end} with {config:?}");
            let steps = after.optimizer.get("classifier.weight.steps");
            assert!(steps.is_none_or(|steps| steps.int64_value(&[]) == 70), "the parent's steps count on");
        }
    }
}

#[test]
fn training_on_leaves_the_captured_state_alone() {
    for config in [OptimizerConfig::Sgd(SgdConfig::default()), OptimizerConfig::Adam(AdamConfig::default())] {
        let mut rng = seeded("alone", 0);
        let (_, trained) = train(&initial("3|3x4|4", &mut rng), &config, 2, &mut rng);
        let copy = |tensors: &HashMap<String, Tensor>| -> Vec<Named> {
            tensors.iter().map(|(name, tensor)| (name.clone(), tensor.copy())).collect()
        };
        let before = [copy(&trained.tensors), copy(&trained.optimizer)];
        let (_, after) = train(&trained, &config, 2, &mut rng);
        assert!(after.tensors["blocks.1.conv.weight"] != trained.tensors["blocks.1.conv.weight"]);
        for (saved, now) in before.iter().zip([&trained.tensors, &trained.optimizer]) {
            assert!(!saved.is_empty());
            saved.iter().for_each(|(name, tensor)| assert_eq!(*tensor, now[name], "{name}"));
        }
    }
}

#[test]
fn replicas_part_unless_their_shares_are_even() {
    let parent = random_trained("3|3x3|3x4|4".parse().unwrap(), Kind::Double, &mut seeded("parent", 0));
    let parent = Trained { optimizer: HashMap::new(), ..parent };
    let apart = |noise| {
        let widen = Morphism::Widen { block: 1, width: 4 };
        let mut rng = seeded("part", 0);
        let mut child = morph(&parent, &widen, &Morphing { noise, batch: None }, &mut rng).unwrap();
        let kernels = child.tensors["blocks.1.conv.weight"].copy();
        let twin = (0..3).find(|&i| max_abs(&(kernels.get(i) - kernels.get(3))) == 0.0).expect("a replica");
        let (xs, labels) = (images(8, 3, Kind::Double, &mut rng), labels(8, 4, &mut rng));
        for _ in 0..5 {
            let (_, grads) = loss_and_gradients(&child, &xs, &labels, Mode::train(0.0));
            tch::no_grad(|| {
                grads.iter().for_each(|(name, grad)| {
                    let _ = child.tensors.get_mut(name).unwrap().g_sub_(&(grad * 0.1));
                })
            });
        }
        let kernels = &child.tensors["blocks.1.conv.weight"];
        max_abs(&(kernels.get(twin) - kernels.get(3)))
    };
    let (even, uneven) = (apart(0.0), apart(0.1));
    assert!(even < 1e-12 && uneven > 1e-5, "{even} {uneven}");
}

#[test]
fn wrong_requests_are_named() {
    let net: ConvNet = "3|3x8-3x6-3x8|3x8-3x8+4|10".parse().unwrap();
    let expect = |morphism: Morphism, parts: &[&str]| {
        let error = morphism.apply(&net).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    let skip = |from, to| Morphism::AddSkip { from, to };
    expect(skip(1, 2), &["block 1 has 8 channels, block 2 that adds it has 6", "equal widths"]);
    expect(skip(3, 5), &["block 5 adds block 4 already"]);
    expect(skip(1, 4), &["stride of block 4", "one stage"]);
    expect(skip(3, 1), &["block 1 adds block 3", "before it"]);
    expect(skip(2, 2), &["block 2 adds block 2", "before it"]);
    expect(skip(0, 2), &["block 0 is the image", "3 channels", "1 to 5"]);
    expect(Morphism::Widen { block: 0, width: 8 }, &["block 0 is the image", "3 channels"]);
    expect(Morphism::Widen { block: 6, width: 8 }, &["no block 6", "1 to 5"]);
    expect(Morphism::Widen { block: 2, width: 6 }, &["block 2 has 6 channels", "above"]);
    expect(Morphism::Widen { block: 2, width: 1 << 40 }, &["block 2 has 1099511627776 channels", "65536"]);
    expect(Morphism::Deepen { after: 9, ksize: 3 }, &["no block 9"]);
    expect(Morphism::Deepen { after: 2, ksize: 2 }, &["block 3 has a kernel of side 2", "odd"]);
    expect(Morphism::GrowKernel { block: 7 }, &["grow the kernel of block 7 in 3|3x8", "no block 7"]);
}

#[test]
fn texts_that_are_no_networks_are_named() {
    for (text, part) in [
        ("3", "no stages"),
        ("3|10", "0 blocks"),
        ("3|3y8|10", "\"3y8\" is no block"),
        ("3|3x8-|10", "\"\" is no block"),
        ("x|3x8|10", "\"x\" is no number"),
        ("3|3x8|0", "0 classes"),
        ("3|4x8|10", "block 1 has a kernel of side 4"),
        ("3|3x0|10", "block 1 has 0 channels"),
        ("3|3x8-3x8+2|10", "block 2 adds block 2"),
        ("3|3x8|3x8+1|10", "across the stride of block 2"),
        ("3|3x8-3x9+1|10", "equal widths"),
    ] {
        let error = text.parse::<ConvNet>().unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(text), "{error}");
    }
    let strided_stem = Block { ksize: 3, width: 4, stride: 2, skip: None };
    assert!(ConvNet::new(3, vec![strided_stem], 2).unwrap_err().to_string().contains("1 in the stem"));
    let net: ConvNet = "3|3x8|10".parse().unwrap();
    assert!(net.cost(Shape::new(1, 8, 8)).unwrap_err().to_string().contains("1 channels; expected 3"));
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let broken = |change: fn(&mut Trained)| {
        let mut rng = seeded("broken", 0);
        let mut parent = random_trained("3|3x4|2".parse().unwrap(), Kind::Float, &mut rng);
        change(&mut parent);
        let grow = Morphism::GrowKernel { block: 1 };
        morph(&parent, &grow, &Morphing::default(), &mut rng).unwrap_err().to_string()
    };
    let scalar = || Tensor::from(0f32);
    let error = broken(|p| _ = p.tensors.remove("blocks.1.bn.bias"));
    assert!(error.contains("blocks.1.bn.bias") && error.contains("found none, expected shape [4]"), "{error}");
    let error = broken(|p| _ = p.tensors.insert("blocks.1.bn.bias".into(), Tensor::from(0f32)));
    assert!(error.contains("found shape [], expected shape [4]"), "{error}");
    let error = broken(|p| _ = p.tensors.insert("blocks.2.bn.bias".into(), Tensor::from(0f32)));
    assert!(error.contains("blocks.2.bn.bias"), "{error}");
    let error = broken(|p| _ = p.optimizer.insert("classifier.bias.velocity".into(), Tensor::from(0f32)));
    assert!(error.contains("found shape [], expected shape [2]"), "{error}");
    let error = broken(|p| _ = p.optimizer.insert("classifier.bias.curvature".into(), Tensor::from(0f32)));
    assert!(error.contains("classifier.bias.curvature"), "{error}");
    let error = broken(|p| _ = p.tensors.insert("classifier.bias".into(), Tensor::from_slice(&[1i64, 2])));
    assert!(error.contains("classifier.bias") && error.contains("found kind Int64"), "{error}");
    let mut rng = seeded("broken", 1);
    let parent = random_trained("3|3x4|2".parse().unwrap(), Kind::Float, &mut rng);
    let deepen = Morphism::Deepen { after: 1, ksize: 3 };
    for (with, part) in [
        (Morphing { noise: 1.0, batch: None }, "noise is 1"),
        (Morphing { noise: f64::NAN, batch: None }, "noise is NaN"),
        (Morphing { noise: 0.0, batch: Some(&scalar()) }, "expected [B, 3, H, W]"),
    ] {
        let error = morph(&parent, &deepen, &with, &mut rng).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn children_are_different_neighbours_and_follow_from_the_rng() {
    let parent = random_trained("3|3x4-3x4|2".parse().unwrap(), Kind::Float, &mut seeded("parent", 1));
    let draw = || {
        let mut rng = seeded("children", 0);
        children(&parent, (8, 1), &MorphismSpace::default(), &Morphing::default(), &mut rng).unwrap()
    };
    let (first, second) = (draw(), draw());
    let nets: std::collections::HashSet<&ConvNet> = first.iter().map(|child| &child.trained.net).collect();
    assert_eq!(nets.len(), 8);
    assert!(!nets.contains(&parent.net));
    for (a, b) in first.iter().zip(&second) {
        assert_eq!(a.morphisms, b.morphisms);
        assert!(a.trained.tensors.iter().all(|(name, tensor)| *tensor == b.trained.tensors[name]));
    }
}

#[test]
fn a_space_stays_in_its_bounds_and_ends_where_they_are_reached() {
    let space = MorphismSpace { max_blocks: 3, max_width: 6, max_ksize: 3 };
    let mut rng = seeded("bounds", 0);
    let mut net: ConvNet = "3|1x2-1x2|2".parse().unwrap();
    let mut steps = 0;
    while let Some(morphism) = space.random(&net, &mut rng) {
        net = morphism.apply(&net).unwrap();
        assert!(net.len() <= 3 && net.blocks().iter().all(|block| block.width <= 6 && block.ksize <= 3), "{net}");
        steps += 1;
        assert!(steps < 100);
    }
    assert!(net.len() == 3 && net.blocks().iter().all(|block| block.ksize == 3 && block.width > 4), "{net}");
}

#[test]
fn captured_tensors_are_copies() {
    let net: ConvNet = "3|3x4|2".parse().unwrap();
    let vs = VarStore::new(Device::Cpu);
    let _network = net.build(&VarBuilder::new(&vs));
    let captured = Trained::capture(net, &vs, None);
    let named: Vec<Named> = vs.variables().into_iter().collect();
    tch::no_grad(|| named.into_iter().for_each(|(_, mut tensor)| _ = tensor.fill_(9.0)));
    assert!(max_abs(&captured.tensors["blocks.1.bn.weight"]) == 1.0);
}
