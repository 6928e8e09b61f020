//! Searches around a trained network: which of its channels go together, what its smaller ones inherit, and the search itself.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use nas_classify::model::{ModelConfig, SearchedModel};
use nas_classify::task::Classification;
use nas_core::estimator::inheritance::inherit;
use nas_core::models::StageSize;
use nas_core::run::cli::Compute;
use nas_core::search::log as trial_log;
use nas_core::task::handed_down::{channels_of, lineage};
use nas_core::task::supervised::new_network;
use nas_core::task::{Task, TaskModel};
use nas_core::train::{all_variables, read_tensors};
use nas_detect::task::Detection;
use nas_segment::task::Segmentation;
use nas_tests::{CLASSIFY, DETECT, SEGMENT, Tool};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

const CPU: Compute = Compute { device: Device::Cpu, threads: 1, amp: false };

/// A network of a preset whose norms scale and shift at random.
fn network<T: Task>(model: &T::Model) -> (VarStore, T::Net) {
    let (vs, net) = new_network::<T>(model, 3, 1, CPU).unwrap();
    tch::no_grad(|| {
        for (_, variable) in all_variables(&vs).iter().filter(|(_, variable)| variable.dim() == 1) {
            variable.shallow_clone().copy_(&(variable.rand_like() + 0.25));
        }
    });
    (vs, net)
}

/// Five eighths of the channels, a multiple of 4.
fn narrower(stages: Vec<StageSize>) -> Vec<StageSize> {
    let channels = |stage: StageSize| (stage.channels * 5 / 8 / 4 * 4).max(4);
    stages.into_iter().map(|stage| StageSize { channels: channels(stage), ..stage }).collect()
}

/// Channels that give zero, to all that reads them, can go and nothing changes: what a child takes of a network whose other channels
/// give zero computes what the network does.
fn assert_cuts_what_goes_together<T: Task>(name: &str, model: &T::Model) {
    tch::manual_seed(7);
    let (vs, net) = network::<T>(model);
    let smaller = model.clone().with_stages(narrower(model.stages().unwrap())).unwrap();
    let (child_vs, child) = network::<T>(&smaller);
    let [own, theirs] = [(&vs, &net), (&child_vs, &child)].map(|(vs, net)| channels_of::<T>(all_variables(vs), net));
    let lineage = lineage(&smaller, model);
    let handed = own.unwrap().handed_to(&theirs.unwrap(), &lineage);
    let taken = |name: &str, axis: usize| handed.get(&(name.to_string(), axis)).cloned();
    let (variables, parent) = (all_variables(&child_vs), all_variables(&vs).into_iter().collect::<HashMap<_, _>>());
    let mut cut = 0;
    for (name, _) in &variables {
        let (Some(taken), Some(theirs)) = (taken(name, 0), parent.get(&lineage.name_of(name).unwrap())) else {
            continue;
        };
        let gone = (0..theirs.size()[0]).filter(|i| !taken.contains(&Some(*i))).collect::<Vec<_>>();
        cut += gone.len();
        tch::no_grad(|| drop(theirs.shallow_clone().index_fill_(0, &Tensor::from_slice(&gone), 0.0)));
    }
    assert!(cut > 0, "{name}");
    inherit(&variables, &parent, &lineage, &taken);
    let images = Tensor::randn([1, 3, 128, 128], (Kind::Float, Device::Cpu));
    let [theirs, ours] = tch::no_grad(|| [T::outputs(&net, &images), T::outputs(&child, &images)]);
    for (theirs, ours) in theirs.iter().zip(&ours) {
        let largest = |tensor: &Tensor| tensor.abs().max().double_value(&[]);
        let error = largest(&(theirs - ours)) / largest(theirs);
        assert!(error < 1e-4, "{name}: off by {error}");
    }
}

fn assert_cuts_every_preset<T: Task>() {
    T::Model::presets().iter().for_each(|(name, model)| assert_cuts_what_goes_together::<T>(name, model));
}

#[test]
fn channels_of_classifiers_that_give_nothing_go_and_the_network_computes_the_same() {
    assert_cuts_every_preset::<Classification>();
}

/// What a search has found is a network like others, if it has stages.
#[test]
fn channels_of_what_a_search_found_go_too() {
    let searched = |space: &str, arch: &str| {
        let space = toml::from_str(space).unwrap();
        ModelConfig::Searched(SearchedModel { arch: arch.parse().unwrap(), space, stages: Vec::new() })
    };
    let stage = "{ channels = [16], layers = 2, stride = 2, kernels = [3], expansions = [3], skip = true }";
    let mobile = format!("kind = 'mobile'\nstages = [{stage}, {stage}]");
    assert_cuts_what_goes_together::<Classification>("mobile", &searched(&mobile, "0-0-0-1-0-0"));
    let error = searched("kind = 'chain'", "0-0-0").stages().unwrap_err().to_string();
    assert!(error.contains("a chain has no stages"), "{error}");
}

#[test]
fn channels_of_segmenters_that_give_nothing_go_and_the_network_computes_the_same() {
    assert_cuts_every_preset::<Segmentation>();
}

#[test]
fn channels_of_detectors_that_give_nothing_go_and_the_network_computes_the_same() {
    assert_cuts_every_preset::<Detection>();
}

/// The longest of the stages loses its last block and the first one gains one.
#[test]
fn networks_of_other_depths_inherit_all_blocks_that_both_have() {
    fn check<T: Task>(preset: &str) {
        let model = T::Model::preset(preset).unwrap();
        let mut stages = model.stages().unwrap();
        let longest = (0..stages.len()).max_by_key(|i| stages[*i].blocks).unwrap();
        stages[longest].blocks -= 1;
        let smaller = model.clone().with_stages(stages).unwrap();
        let [(vs, _), (child_vs, _)] = [&model, &smaller].map(|model| network::<T>(model));
        let parent = all_variables(&vs).into_iter().collect::<HashMap<_, _>>();
        let count = inherit(&all_variables(&child_vs), &parent, &lineage(&smaller, &model), &|_, _| None);
        let all = count.whole + count.in_part + count.new;
        assert!(all < parent.len() && count.new == 0, "{preset}: {count:?} of {}", parent.len());
    }
    for preset in ["nasbench201_resnet", "resnet20", "fbnet_a", "mobilenet_v2"] {
        check::<Classification>(preset);
    }
    for preset in ["auto_deeplab_s", "deeplabv3plus_xception41", "deeplabv3plus_resnet101", "squeezenas_mac_small"] {
        check::<Segmentation>(preset);
    }
    for preset in ["fcos_detnas_tiny", "fcos_shufflenet_v2_x0_5", "fcos_resnet18_fpn"] {
        check::<Detection>(preset);
    }
}

/// A training of one epoch in `folder`, and the sections of a search that has the same data.
fn trained(tool: Tool, folder: &Path, model: &str, rest: &str) -> String {
    let config = folder.join("train.toml");
    fs::write(&config, format!("kind = 'train'\nmodel = {model}\ntrain = {{ epochs = 1, batch_size = 2 }}\n{rest}"))
        .unwrap();
    let run = folder.join("run");
    tool.succeed(&["train", "--config", config.to_str().unwrap(), "--out", run.to_str().unwrap(), "--threads", "1"]);
    run.to_str().unwrap().to_string()
}

const SEGMENT_DATA: &str = "data = { kind = 'synth', num_images = 8, num_val = 2, height = 32, width = 64, seed = 0 }\naugment = { crop = [32, 32] }\n";
const CLASSIFY_DATA: &str =
    "data = { kind = 'synth', num_images = 40, num_val = 10, side = 16 }\naugment = { size = [16, 16] }\n";
const DETECT_DATA: &str = "data = { kind = 'shapes', num_images = 6, num_val = 2, seed = 0 }\naugment = { short = 64, long = 64, pad_multiple = 128 }\n";

#[test]
fn a_search_around_a_run_finds_smaller_networks_that_start_from_its_weights() {
    for (tool, model, data, metric) in [
        (SEGMENT, "{ preset = 'squeezenas_mac_small' }", SEGMENT_DATA, "miou"),
        (CLASSIFY, "{ preset = 'mobilenet_v3_small', small_images = true }", CLASSIFY_DATA, "top1"),
        (DETECT, "{ preset = 'fcos_detnas_tiny' }", DETECT_DATA, "ap"),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let run = trained(tool, temp.path(), model, data);
        let config = temp.path().join("search.toml");
        let text = format!(
            "kind = 'search'\nnum_trials = 3\nspace = {{ kind = 'around', run = '{run}', widths = [0.5, 1.0] }}\n\
             strategy = {{ kind = 'random' }}\nobjectives = [{{ metric = '{metric}', goal = 'maximize' }}]\n\
             evaluator = {{ kind = 'train', held_out = 0.34 }}\ntrain = {{ epochs = 1, batch_size = 2 }}\n{data}"
        );
        fs::write(&config, text).unwrap();
        let (straight, killed) = (temp.path().join("straight"), temp.path().join("killed"));
        let args = |out: &Path| {
            let args = ["search", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap(), "--resume"];
            args.into_iter().chain(["--threads", "1"]).map(String::from).collect::<Vec<_>>()
        };
        let [a, b] = [&straight, &killed].map(|out| args(out));
        let [a, b] = [&a, &b].map(|args| args.iter().map(String::as_str).collect::<Vec<_>>());
        tool.succeed(&a);
        tool.run_with_kills(&b);
        let log = |run: &Path| fs::read_to_string(run.join("trials.jsonl")).unwrap();
        assert_eq!(log(&straight), log(&killed), "{}", tool.name());
        assert_eq!(trial_log::read(&straight.join("trials.jsonl")).unwrap().len(), 3);
        let stored = fs::read_to_string(straight.join("config.toml")).unwrap();
        assert!(stored.contains("[[space.stages]]") && stored.contains("[model"), "{stored}");
        for weights in ["trials/00000/inherited.safetensors", "inherited.safetensors"] {
            assert!(!read_tensors(&straight.join(weights)).unwrap().is_empty());
        }
        let training = fs::read_to_string(straight.join("train.toml")).unwrap();
        assert!(training.contains("inherited.safetensors"), "{training}");
        let out = temp.path().join("final");
        let train = straight.join("train.toml");
        tool.succeed(&["train", "--config", train.to_str().unwrap(), "--out", out.to_str().unwrap(), "--threads", "1"]);
    }
}

/// What a search begins from is trained without the images that its trials are scored on, and without the val split.
#[test]
fn a_training_holds_a_part_of_its_split_out_and_opens_no_other() {
    let temp = tempfile::tempdir().unwrap();
    let data = SEGMENT_DATA.replace("num_val = 2", "num_val = 0");
    let run = trained(SEGMENT, temp.path(), "{ preset = 'mobile_seg_hand_c' }", &format!("held_out = 0.25\n{data}"));
    let result = fs::read_to_string(Path::new(&run).join("result.json")).unwrap();
    assert!(result.contains("miou"), "{result}");
    let config = temp.path().join("train.toml");
    fs::write(&config, fs::read_to_string(&config).unwrap().replace("held_out = 0.25", "held_out = 1.0")).unwrap();
    let error = SEGMENT.fail(&["train", "--config", config.to_str().unwrap(), "--out", &format!("{run}_other")]);
    assert!(error.contains("held_out = 1"), "{error}");
}

#[test]
fn a_search_around_nothing_says_what_is_missing() {
    let temp = tempfile::tempdir().unwrap();
    let config = temp.path().join("search.toml");
    let base = "num_trials = 2\nstrategy = { kind = 'random' }\nobjectives = [{ metric = 'miou', goal = 'maximize' }]\nevaluator = { kind = 'train' }\n";
    for (kind, space, model, expected) in [
        ("search", "{ kind = 'around' }", "", "space.run, model: neither is given"),
        ("search", "{ kind = 'around', run = 'nowhere' }", "", "nowhere/config.toml"),
        (
            "search",
            "{ kind = 'around', run = 'nowhere' }",
            "model = { preset = 'mobile_seg_hand_a' }",
            "no training that has ended",
        ),
        ("search", "{ kind = 'around', widths = [] }", "model = { preset = 'mobile_seg_hand_a' }", "space.widths"),
        ("search", "{ kind = 'around', width = [1] }", "model = { preset = 'mobile_seg_hand_a' }", "width"),
        ("one_shot", "{ kind = 'around' }", "model = { preset = 'mobile_seg_hand_a' }", "share no weights"),
    ] {
        fs::write(&config, format!("kind = '{kind}'\nspace = {space}\n{model}\n{base}{SEGMENT_DATA}")).unwrap();
        let out = temp.path().join("out");
        let error = SEGMENT.fail(&["search", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap()]);
        assert!(error.contains(expected), "{space}: {error}");
    }
}

/// From random weights: group norms make another network of a trained head that loses channels.
#[test]
fn a_search_around_an_untrained_detector_sizes_its_neck_and_head() {
    let temp = tempfile::tempdir().unwrap();
    let [config, out] = ["search.toml", "out"].map(|name| temp.path().join(name));
    let text = "kind = 'search'\nnum_trials = 3\ncost_size = [128, 128]\nspace = { kind = 'around', widths = [0.5, 1.0] }\n\
                model = { preset = 'fcos_detnas_tiny' }\nstrategy = { kind = 'random' }\nobjectives = [{ metric = 'l2' }]\n\
                evaluator = { kind = 'zero_cost', proxies = ['l2'], batch_size = 2, image = 64 }\n";
    fs::write(&config, format!("{text}{DETECT_DATA}")).unwrap();
    DETECT.succeed(&["search", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    let read = |file: &str| fs::read_to_string(out.join(file)).unwrap();
    let result: serde_json::Value = serde_json::from_str(&read("result.json")).unwrap();
    let found: Vec<usize> =
        result["best"]["architecture"].as_str().unwrap().split('-').map(|choice| choice.parse().unwrap()).collect();
    let [.., channels, convs] = found[..] else { panic!("{result}") };
    let model = &read("train.toml").parse::<toml::Table>().unwrap()["model"];
    assert_eq!(found.len(), 2 * (5 + 1));
    assert_eq!(model["neck"]["channels"].as_integer().unwrap(), [32, 64][channels]);
    assert_eq!(model["head"]["convs"].as_integer().unwrap(), [1, 2][convs]);
    // Sizes that are given are those of all stages, and of the top where it is said.
    let stored = read("config.toml").parse::<toml::Table>().unwrap();
    let text = fs::read_to_string(&config).unwrap();
    for (sizes, top, expected) in
        [(6, "false", "6 stages; expected the network's 5"), (5, "true", "5 stages; expected the network's 6")]
    {
        let sizes = &stored["space"]["stages"].as_array().unwrap()[..sizes];
        let sizes =
            sizes.iter().map(|size| format!("{{ channels = {}, blocks = {} }}", size["channels"], size["blocks"]));
        let keys = format!("kind = 'around', top = {top}, stages = [{}]", sizes.collect::<Vec<_>>().join(", "));
        fs::write(&config, text.replace("kind = 'around'", &keys)).unwrap();
        let error = DETECT.fail(&["search", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap()]);
        assert!(error.contains(expected), "{error}");
    }
}
