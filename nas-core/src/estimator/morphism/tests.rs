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

/// Runs `test` on one thread of libtorch, from a fixed seed.
fn seeded(seed: i64) {
    tch::set_num_threads(1);
    tch::manual_seed(seed);
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
fn random_trained(net: ConvNet, kind: Kind) -> Trained {
    let vs = VarStore::new(Device::Cpu);
    let network = net.build(&VarBuilder::new(&vs));
    let mut variables: Vec<Named> = vs.variables().into_iter().collect();
    variables.sort_by(|a, b| a.0.cmp(&b.0));
    let mut set = |suffix: &str, change: &dyn Fn(&Tensor, Tensor) -> Tensor| {
        let chosen = variables.iter_mut().filter(|(name, _)| name.ends_with(suffix));
        tch::no_grad(|| chosen.for_each(|(_, tensor)| tensor.copy_(&change(tensor, tensor.rand_like()))));
    };
    set("gate", &|_, u| u * 2.0 - 1.0);
    set("bn.weight", &|_, u| u + 0.5);
    set("bias", &|_, u| u - 0.5);
    set("classifier.weight", &|weight, _| weight * 5.0);
    let forward = |xs: &Tensor, mode| {
        let _ = network.forward(xs, mode);
        Ok::<_, Infallible>(())
    };
    recalibrate(&network.norms(), [images(16, Kind::Float)], forward).unwrap();
    set("running_mean", &|mean, u| mean + (u - 0.5) * 0.2);
    set("running_var", &|var, u| var * (u + 0.5));
    let mut trained = Trained::capture(net, &vs, None);
    trained.tensors.values_mut().for_each(|tensor| *tensor = tensor.to_kind(kind));
    for (name, value) in variables.iter().filter(|(_, tensor)| tensor.requires_grad()) {
        let moment = value.detach().randn_like().to_kind(kind);
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
fn images(n: i64, kind: Kind) -> Tensor {
    let randn = |dims| Tensor::randn(dims, (Kind::Double, Device::Cpu));
    (randn([n, 3, 12, 11]) + randn([n, 3, 1, 1])).to_kind(kind)
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
    let xs = images(4, kind);
    let (before, after) = (logits(parent, &xs, Mode::EVAL), logits(child, &xs, Mode::EVAL));
    let spread = before.std_dim([0i64].as_slice(), true, false).max().double_value(&[]);
    assert!(spread > 0.1, "the network {} gives {spread} of spread: nothing is tested", parent.net);
    max_abs(&(before - after))
}

#[test]
fn ten_networks_keep_their_function_under_each_morphism() {
    seeded(1);
    let mut seen: HashMap<std::mem::Discriminant<Morphism>, f64> = HashMap::new();
    for id in 0..10 {
        let mut rng = rng::stream(3, "morphism", id);
        // two blocks of one stage and width at the end, so that every kind is possible
        let mut net = random_net(&mut rng);
        net = Morphism::Deepen { after: net.len(), ksize: 3 }.apply(&net).unwrap();
        let parent = random_trained(net, Kind::Float);
        let morphisms = one_of_each_kind(&parent.net, &mut rng);
        assert_eq!(morphisms.len(), 4, "{}: {morphisms:?}", parent.net);
        for morphism in morphisms {
            let child = morph(&parent, &morphism, &Morphing::default(), &mut rng).unwrap();
            assert_eq!(child.net, morphism.apply(&parent.net).unwrap());
            let largest = difference(&parent, &child, Kind::Float);
            assert!(largest < 1e-5, "{}: {morphism}: {largest}", parent.net);
            let entry = seen.entry(std::mem::discriminant(&morphism)).or_default();
            *entry = entry.max(largest);
        }
    }
    println!("largest differences in f32 by kind: {:?}", seen.values().collect::<Vec<_>>());
}

#[test]
fn ten_networks_keep_their_function_under_chains_of_five() {
    seeded(2);
    for (kind, bound) in [(Kind::Float, 1e-5), (Kind::Double, 1e-12)] {
        let mut worst: f64 = 0.0;
        for id in 0..10 {
            let mut rng = rng::stream(4, "chain", id);
            let parent = random_trained(random_net(&mut rng), kind);
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
    seeded(3);
    let mut rng = rng::stream(5, "control", 0);
    let parent = random_trained("3|3x6-3x6+1|3x5|4".parse().unwrap(), Kind::Float);
    let mut child = morph(&parent, &Morphism::Widen { block: 1, width: 9 }, &Morphing::default(), &mut rng).unwrap();
    // what an undivided weight would do: rows of the next convolution read the replicas in full
    let kernel = child.tensors.get_mut("blocks.3.conv.weight").unwrap();
    tch::no_grad(|| kernel.narrow(1, 0, 6).copy_(&parent.tensors["blocks.3.conv.weight"]));
    assert!(difference(&parent, &child, Kind::Float) > 1e-3);
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
        let net = random_net(&mut rng::stream(6, "specs", id));
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
    seeded(4);
    let mut checked = [0; 4];
    for id in 0..10 {
        let mut rng = rng::stream(7, "gradients", id);
        let mut net = random_net(&mut rng);
        net = Morphism::Deepen { after: net.len(), ksize: 3 }.apply(&net).unwrap();
        let mut parent = random_trained(net, Kind::Double);
        let (xs, labels) = (images(6, Kind::Double), Tensor::randint(5, [6], (Kind::Int64, Device::Cpu)));
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
    seeded(5);
    let parent = random_trained("3|3x4|2".parse().unwrap(), Kind::Float);
    let grow = Morphism::GrowKernel { block: 1 };
    let child = morph(&parent, &grow, &Morphing::default(), &mut rng::stream(8, "taps", 0)).unwrap();
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
    seeded(6);
    for id in 0..10 {
        let mut rng = rng::stream(9, "loss", id);
        let mut net = random_net(&mut rng);
        net = Morphism::Deepen { after: net.len(), ksize: 3 }.apply(&net).unwrap();
        let parent = random_trained(net, Kind::Float);
        let (xs, labels) = (images(8, Kind::Float), Tensor::randint(5, [8], (Kind::Int64, Device::Cpu)));
        for morphism in one_of_each_kind(&parent.net, &mut rng) {
            let fitted = Morphing { batch: Some(&xs), ..Default::default() };
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
    seeded(7);
    let xs = images(64, Kind::Float);
    for net in ["3|3x8-3x8|5", "3|3x8-3x8+1|3x6-3x6+3|5"] {
        let parent = random_trained(net.parse().unwrap(), Kind::Float);
        let in_training = |trained: &Trained| logits(trained, &xs, Mode::train(0.0));
        let before = in_training(&parent);
        let off = |child: &Trained| (in_training(child) - &before).norm().double_value(&[]);
        let deepen = Morphism::Deepen { after: 2, ksize: 3 };
        let mut child = morph(&parent, &deepen, &Morphing::default(), &mut rng::stream(10, "near", 0)).unwrap();
        let derived = off(&child);
        // the norm as it would start without any statistics
        for (name, value) in [("weight", 1.0), ("bias", 0.0)] {
            let _ = child.tensors.get_mut(&format!("blocks.3.bn.{name}")).unwrap().fill_(value);
        }
        let (plain, norm) = (off(&child), before.norm().double_value(&[]));
        println!("{net}: logits of norm {norm:.4}, off by {derived:.4} with derived moments, by {plain:.4} with none");
        assert!(derived < 0.2 * plain, "{net}: off by {derived} with derived moments, by {plain} with none");
    }
}

#[test]
fn moments_of_a_rectified_gaussian_are_those_of_a_sample() {
    seeded(8);
    let (mean, sd) = ([0.0, 0.7, -1.2, 3.0, -0.5], [1.0, 0.5, 0.9, 2.0, 0.0]);
    let [means, sds] = [mean, sd].map(|values| Tensor::from_slice(&values));
    let (first, variance) = rectified_moments(&means, &sds.square());
    let sample = (Tensor::randn([2_000_000, 5], (Kind::Double, Device::Cpu)) * &sds + &means).relu();
    assert!(max_abs(&(sample.mean_dim([0i64].as_slice(), false, None) - &first)) < 5e-3);
    assert!(max_abs(&(sample.var_dim([0i64].as_slice(), true, false) - &variance)) < 1e-2);
    // half a normal distribution: 1 / sqrt(2 pi) and 1/2 - 1 / (2 pi)
    assert!((first.double_value(&[0]) - 0.398_942_280_401_432_7).abs() < 1e-12);
    assert!((variance.double_value(&[0]) - (0.5 - std::f64::consts::FRAC_1_PI / 2.0)).abs() < 1e-12);
}

/// Images whose class is the channel that is brighter on one half; 4 classes.
fn task(n: i64) -> (Tensor, Tensor) {
    let labels = Tensor::randint(4, [n], (Kind::Int64, Device::Cpu));
    let xs = Tensor::randn([n, 3, 8, 8], (Kind::Float, Device::Cpu));
    for i in 0..n {
        let label = labels.int64_value(&[i]);
        let _ = xs.get(i).get(label % 2).narrow(0, 4 * (label / 2), 4).g_add_scalar_(0.8);
    }
    (xs, labels)
}

/// Losses of `steps` training steps from `trained` on; what comes out.
fn train(trained: &Trained, config: &OptimizerConfig, steps: usize) -> (Vec<f64>, Trained) {
    let (vs, network, mut optimizer) = trained.resume(Device::Cpu, config).unwrap();
    let losses = (0..steps).map(|_| {
        let (xs, labels) = task(32);
        let loss = network.forward(&xs, Mode::train(0.0)).cross_entropy_for_logits(&labels);
        optimizer.step(&gradients(&loss, optimizer.parameters()), config.lr());
        loss.double_value(&[])
    });
    let losses: Vec<f64> = losses.collect();
    (losses, Trained::capture(trained.net.clone(), &vs, Some(optimizer.as_ref())))
}

#[test]
fn children_train_on_with_the_inherited_state() {
    seeded(9);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let configs = [
        OptimizerConfig::Sgd(SgdConfig { lr: 0.02, ..Default::default() }),
        OptimizerConfig::Adam(AdamConfig { lr: 2e-3, ..Default::default() }),
    ];
    for config in configs {
        let net: ConvNet = "3|3x6-3x6+1|3x8|4".parse().unwrap();
        let vs = VarStore::new(Device::Cpu);
        let _network = net.build(&VarBuilder::new(&vs));
        let (losses, parent) = train(&Trained::capture(net, &vs, None), &config, 30);
        let parent_end = mean(&losses[20..]);
        assert!(parent_end < losses[0]);
        let mut rng = rng::stream(11, "train", 0);
        let fitted_on = task(64).0;
        let with = Morphing { batch: Some(&fitted_on), ..Default::default() };
        for Child { morphisms, trained } in
            children(&parent, (4, 3), &MorphismSpace::default(), &with, &mut rng).unwrap()
        {
            let (losses, after) = train(&trained, &config, 40);
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
    seeded(12);
    for config in [OptimizerConfig::Sgd(SgdConfig::default()), OptimizerConfig::Adam(AdamConfig::default())] {
        let net: ConvNet = "3|3x4|4".parse().unwrap();
        let vs = VarStore::new(Device::Cpu);
        let _network = net.build(&VarBuilder::new(&vs));
        let (_, trained) = train(&Trained::capture(net, &vs, None), &config, 2);
        let copy = |tensors: &HashMap<String, Tensor>| -> Vec<Named> {
            tensors.iter().map(|(name, tensor)| (name.clone(), tensor.copy())).collect()
        };
        let before = [copy(&trained.tensors), copy(&trained.optimizer)];
        let (_, after) = train(&trained, &config, 2);
        assert!(after.tensors["blocks.1.conv.weight"] != trained.tensors["blocks.1.conv.weight"]);
        for (saved, now) in before.iter().zip([&trained.tensors, &trained.optimizer]) {
            assert!(!saved.is_empty());
            saved.iter().for_each(|(name, tensor)| assert_eq!(*tensor, now[name], "{name}"));
        }
    }
}

#[test]
fn replicas_part_unless_their_shares_are_even() {
    seeded(10);
    let parent = random_trained("3|3x3|3x4|4".parse().unwrap(), Kind::Double);
    let parent = Trained { optimizer: HashMap::new(), ..parent };
    let apart = |noise| {
        let widen = Morphism::Widen { block: 1, width: 4 };
        let mut rng = rng::stream(12, "part", 0);
        let mut child = morph(&parent, &widen, &Morphing { noise, batch: None }, &mut rng).unwrap();
        let kernels = child.tensors["blocks.1.conv.weight"].copy();
        let twin = (0..3).find(|&i| max_abs(&(kernels.get(i) - kernels.get(3))) == 0.0).expect("a replica");
        let (xs, labels) = (images(8, Kind::Double), Tensor::randint(4, [8], (Kind::Int64, Device::Cpu)));
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
        let mut parent = random_trained("3|3x4|2".parse().unwrap(), Kind::Float);
        change(&mut parent);
        let grow = Morphism::GrowKernel { block: 1 };
        morph(&parent, &grow, &Morphing::default(), &mut rng::stream(13, "broken", 0)).unwrap_err().to_string()
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
    let parent = random_trained("3|3x4|2".parse().unwrap(), Kind::Float);
    let deepen = Morphism::Deepen { after: 1, ksize: 3 };
    for (with, part) in [
        (Morphing { noise: 1.0, batch: None }, "noise is 1"),
        (Morphing { noise: f64::NAN, batch: None }, "noise is NaN"),
        (Morphing { noise: 0.0, batch: Some(&scalar()) }, "expected [B, 3, H, W]"),
    ] {
        let error = morph(&parent, &deepen, &with, &mut rng::stream(13, "broken", 1)).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn children_are_different_neighbours_and_follow_from_the_rng() {
    seeded(11);
    let parent = random_trained("3|3x4-3x4|2".parse().unwrap(), Kind::Float);
    let draw = || {
        let mut rng = rng::stream(14, "children", 0);
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
    let mut rng = rng::stream(15, "bounds", 0);
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
