//! Trainings that start from weights of others.

use std::fs;
use std::path::PathBuf;

use nas_core::train::read_tensors;
use nas_tests::{DETECT, SEGMENT, Tool, data};

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

/// `[model] init` says the same in every kind of experiment; what fits of a supernet is taken and reported.
#[test]
fn a_supernet_and_a_model_start_from_a_run_by_one_key() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name).display().to_string();
    fs::write(at("train.toml"), TRAIN).unwrap();
    let train = |out: &str, sets: &[&str]| {
        let fixed = ["train", "--config", &at("train.toml"), "--out", &at(out), "--device", "cpu"].map(String::from);
        fixed.into_iter().chain(sets.iter().map(|set| set.to_string())).collect::<Vec<_>>()
    };
    let run = |args: &[String]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = SEGMENT.command(&args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    run(&train("first", &[]));
    let from = format!("model.init={}", at("first"));
    let said = run(&train("second", &["--set", &from, "--set", "model.init_prefix="]));
    assert!(said.contains("backbone tensors") && !said.contains("new"), "{said}");
    let config = fs::read_to_string(at("second/config.toml")).unwrap();
    assert!(config.contains("init_prefix = \"\"") && config.find("[train]").unwrap() < config.find("init = ").unwrap());

    let data = &TRAIN[TRAIN.find("[data]").unwrap()..];
    let search = "kind = 'one_shot'\n[space]\nkind = 'auto_deeplab'\nlayers = 2\nblocks = 1\nfilters = 2\nstem = [4, 4, 4]\n\
                  [one_shot]\nepochs = 1\nbatch_size = 1\n[one_shot.method]\nkind = 'darts'\narch_start_epoch = 0\n";
    fs::write(at("search.toml"), format!("{search}{data}")).unwrap();
    let search = |out: &str, sets: &[&str]| {
        let fixed = ["search", "--config", &at("search.toml"), "--out", &at(out), "--device", "cpu"].map(String::from);
        fixed.into_iter().chain(sets.iter().map(|set| set.to_string())).collect::<Vec<_>>()
    };
    run(&search("supernet", &[]));
    let from = format!("model.init={}", at("supernet"));
    let said = run(&search("again", &["--set", &from]));
    assert!(said.contains(" tensors") && !said.contains("new"), "{said}");
    let other = format!("model.init={}", at("first"));
    let args = search("other", &["--set", &other]);
    let error = SEGMENT.fail(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(error.contains("one_shot.init") && error.contains("fits"), "{error}");
    let both = ["--set", &from, "--set", "one_shot.init=x"];
    let args = search("both", &both);
    let error = SEGMENT.fail(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(error.contains("model.init and one_shot.init: expected one of them"), "{error}");
}

/// What the schema takes in a model of a comparison, the loader takes too.
#[test]
fn models_of_a_comparison_start_from_weights_below_a_prefix_of_their_own() {
    use nas_core::task::experiment::{CompareExperiment, load};
    use nas_segment::task::Segmentation;
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("compare.toml");
    let rest = &TRAIN[TRAIN.find("[train]").unwrap()..];
    let write = |own: &str| {
        let preset = "preset = 'mobile_seg_deeplabv3plus_11'";
        let models = format!(
            "models = [{{ name = 'a', model = {{ {preset}{own} }} }}, {{ name = 'b', model = {{ {preset} }} }}]"
        );
        fs::write(&path, format!("kind = 'compare'\nseeds = [0]\n{models}\n{rest}")).unwrap();
        load::<CompareExperiment<Segmentation>>(&path, &[])
    };
    let found = write(", init = '/w.pt', init_prefix = 'backbone.'").unwrap();
    let recipes = [0, 1].map(|model| found.training_of(model, 0).train);
    assert_eq!(recipes[0].init.as_deref(), Some(std::path::Path::new("/w.pt")));
    assert_eq!(recipes.map(|recipe| recipe.init_prefix), [Some("backbone.".to_string()), None]);
    let error = format!("{:#}", write(", init_prefix = 'backbone.'").unwrap_err());
    assert!(error.contains("models: a") && error.contains("init_prefix without train.init"), "{error}");
}

/// What a teacher of no weight says changes nothing; one of some weight is learned beside the labels, as the losses of an epoch show.
#[test]
fn a_network_learns_from_a_trained_one() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name).display().to_string();
    fs::write(at("train.toml"), TRAIN).unwrap();
    let train = |tool: Tool, out: &str, sets: &[String]| {
        let fixed = ["train", "--config", &at("train.toml"), "--out", &at(out), "--device", "cpu"].map(String::from);
        let sets = sets.iter().flat_map(|set| ["--set".to_string(), set.clone()]);
        let args: Vec<String> = fixed.into_iter().chain(sets).collect();
        let output = tool.command(&args.iter().map(String::as_str).collect::<Vec<_>>()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let seed = || "seed=1".to_string();
    let teacher = |weight: f64| format!("train.teacher={{ run = '{}', weight = {weight} }}", at("teacher"));
    let losses = |run: &str| {
        let text = fs::read_to_string(at(&format!("{run}/metrics.jsonl"))).unwrap();
        let epoch: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        ["loss", "label_loss", "teacher_loss"].map(|key| epoch[key].as_f64())
    };
    let weights = |run: &str| read_tensors(&PathBuf::from(at(&format!("{run}/checkpoints/last.safetensors")))).unwrap();
    let apart = |a: &str, b: &str| -> f64 {
        let (a, b) = (weights(a), weights(b));
        // What a checkpoint says of the run stands in it as bytes.
        let numbers = a.iter().filter(|(_, tensor)| tensor.is_floating_point());
        numbers.map(|(name, tensor)| (tensor - &b[name]).abs().max().double_value(&[])).fold(0.0, f64::max)
    };
    assert_eq!(train(SEGMENT, "teacher", &[]).0, Some(0));
    assert_eq!(train(SEGMENT, "alone", &[seed()]).0, Some(0));
    let (code, text) = train(SEGMENT, "deaf", &[seed(), teacher(0.0)]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(train(SEGMENT, "taught", &[seed(), teacher(0.25)]).0, Some(0));
    let [alone, deaf, taught] = ["alone", "deaf", "taught"].map(losses);
    assert_eq!((alone[0], None), (deaf[0], alone[1]));
    let [loss, label, teachers] = taught.map(|loss| loss.unwrap());
    assert!((loss - (0.75 * label + 0.25 * teachers)).abs() < 1e-6, "{taught:?}");
    // Of the first step, before anything was learned.
    assert!((label - alone[0].unwrap()).abs() < 1e-6, "{taught:?}, {alone:?}");
    let apart = [apart("alone", "deaf"), apart("alone", "taught")];
    assert!(apart[0] < 1e-6 && apart[1] > 1e-4, "{apart:?}");

    let (code, text) = train(SEGMENT, "a", &[format!("train.teacher.run={}", at("nowhere"))]);
    assert!(code == Some(1) && text.contains("train.teacher") && text.contains("result.json is missing"), "{text}");
    let (code, text) = train(SEGMENT, "b", &[teacher(0.5), "augment.mean=[0.0, 0.0, 0.0]".into()]);
    assert!(code == Some(1) && text.contains("images are normalised by"), "{text}");
    let (code, text) = train(SEGMENT, "c", &[teacher(1.5)]);
    assert!(code == Some(1) && text.contains("teacher.weight = 1.5; expected at least 0 and at most 1"), "{text}");
    fs::write(
        at("train.toml"),
        "kind = 'train'\nmodel = { preset = 'fcos_detnas_tiny' }\ndata = { kind = 'shapes', num_images = 4, num_val = 1, seed = 0 }\n",
    )
    .unwrap();
    let (code, text) = train(DETECT, "d", &[teacher(0.5)]);
    assert!(
        code == Some(1) && text.contains("train.teacher: the outputs of nas-detect's networks are no classes"),
        "{text}"
    );
}
