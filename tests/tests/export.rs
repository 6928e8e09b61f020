//! One network of every family as ONNX: against the network by this program's own interpreter, and by onnxruntime where the
//! variable `NAS_PYTHON` names a Python that has it (`cargo xtask test` makes one). With `NAS_EXPORT_ALL=1`, which needs PyTorch
//! there, TorchScript and PyTorch source too. One trained network of every tool in int8, byte by byte.

use std::path::Path;
use std::process::Command;

use nas_core::nn::{Activation, Mode, VarBuilder, channels_last};
use nas_core::run::export::{MAX_DIFFERENCE, Network, onnx, write};
use nas_core::task::TaskModel;
use nas_core::train::{all_variables, write_tensors};
use nas_tests::{CLASSIFY, DETECT, SEGMENT, Tool};
use serde_json::Value;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// Outputs for images; in training any.
type Forward = Box<dyn Fn(&Tensor, Mode) -> Vec<Tensor>>;

/// A network to be written.
struct Case {
    name: String,
    vs: VarStore,
    forward: Forward,
    outputs: &'static [&'static str],
    size: (i64, i64),
    divisor: i64,
    fixed: Option<&'static str>,
}

/// Gives norms the statistics of a batch, scattered: with fresh ones a swapped mean or scale would not show, and in deep networks
/// the outputs would hardly depend on the images.
fn settle(vs: &VarStore, forward: &Forward, (h, w): (i64, i64)) {
    tch::manual_seed(1);
    let images = Tensor::randn([2, 3, h, w], (Kind::Float, Device::Cpu));
    let statistics = |vs: &VarStore| -> Vec<(String, Tensor)> {
        all_variables(vs).into_iter().filter(|(name, _)| name.contains("running_")).collect()
    };
    // After a step from `a` with momentum m statistics are (1 - m) a + m s: those from 0 and from 1 tell m and s.
    let after = |start: f64| -> Vec<Tensor> {
        tch::no_grad(|| {
            statistics(vs).iter_mut().for_each(|(_, tensor)| _ = tensor.fill_(start));
            forward(&images, Mode::train(0.0));
        });
        statistics(vs).into_iter().map(|(_, tensor)| tensor.copy()).collect()
    };
    let (from_zero, from_one) = (after(0.0), after(1.0));
    tch::no_grad(|| {
        for (((name, mut tensor), zero), one) in statistics(vs).into_iter().zip(from_zero).zip(from_one) {
            let momentum = 1.0 - (one - &zero);
            let is_var = name.ends_with("var");
            // Frozen norms have none.
            let of_batch = (&zero / &momentum).where_scalarother(&momentum.gt(1e-6), f64::from(u8::from(is_var)));
            let random = tensor.rand_like() - 0.5;
            let values = if is_var { of_batch * (1.0 + 0.5 * random) + 1e-3 } else { of_batch + 0.1 * random };
            tensor.copy_(&values);
        }
    });
}

/// Norms that differ from fresh ones, where a swapped mean or scale would not show. Where norms are frozen, nothing else keeps the sums of
/// a deep network from growing: larger variances do.
fn scatter(vs: &VarStore, frozen: bool) {
    let least = if frozen { 1.5 } else { 0.75 };
    tch::manual_seed(1);
    tch::no_grad(|| {
        for (name, mut tensor) in all_variables(vs).into_iter().filter(|(name, _)| name.contains("running_")) {
            let values = tensor.rand_like() * 0.5 + if name.ends_with("var") { least } else { -0.25 };
            tensor.copy_(&values);
        }
    });
}

/// Writes networks and what they give for images of two sizes, and has onnxruntime run them.
fn check(cases: impl Iterator<Item = Case>) {
    let dir = tempfile::tempdir().unwrap();
    let failed: Vec<String> = cases.filter_map(|case| export(dir.path(), case).err()).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    check_by_onnxruntime(dir.path());
}

fn export(dir: &Path, case: Case) -> Result<(), String> {
    let Case { name, vs, forward, outputs, size, divisor, fixed } = case;
    // Boxes grow by exponentials of what a head says: with the statistics of its coarsest maps, of few pixels, rounding would be
    // magnified to pixels.
    let is_detector = divisor > 1;
    if is_detector {
        scatter(&vs, name.starts_with("retinanet_resnet50"))
    } else {
        settle(&vs, &forward, (64, 96))
    }
    let forward = |images: &Tensor| forward(images, Mode::EVAL);
    let outputs: Vec<String> = outputs.iter().map(|output| output.to_string()).collect();
    let network =
        Network { variables: all_variables(&vs), forward: &forward, outputs, size, divisor, fixed, suppressed: None };
    let all = std::env::var_os("NAS_EXPORT_ALL").is_some();
    let mut compared = Vec::new();
    for ending in if all { ["pt", "py", "onnx"].as_slice() } else { &["onnx"] } {
        let path = dir.join(format!("{name}.{ending}"));
        let written = write(&network, &path, &[("classes".into(), "[]".into())]);
        let written = written.map_err(|error| format!("{name}: {error:#}"))?;
        assert_eq!(written.fixed_because.as_deref(), fixed, "{name}");
        println!("{name}.{ending}: {:.1e}", written.max_difference.expect("compared"));
        compared = written.compared;
    }
    let mut tensors = Vec::new();
    tch::manual_seed(2);
    for (i, shape) in compared.iter().enumerate() {
        let images = Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let results = tch::no_grad(|| forward(&images));
        // A network whose outputs hardly depend on the images would hide what differs before its last layer.
        let variation = |ys: &Tensor| ((ys.get(0) - ys.get(1)).abs().max() / ys.abs().max()).double_value(&[]);
        if shape[0] > 1 {
            let variation = results.iter().map(variation).fold(0.0, f64::max);
            println!("{name}: variation {variation:.1e}");
            if variation < 1e-2 && !is_detector {
                return Err(format!("{name}: outputs of two images differ by {variation:e} of the largest"));
            }
        }
        tensors.extend(network.outputs.iter().zip(results).map(|(name, result)| (format!("{name}.{i}"), result)));
        tensors.push((format!("images.{i}"), images));
    }
    write_tensors(&dir.join(format!("{name}.check.safetensors")), tensors).unwrap();
    let names = serde_json::to_string(&network.outputs).unwrap();
    std::fs::write(dir.join(format!("{name}.outputs.json")), names).unwrap();
    Ok(())
}

/// What onnxruntime says of the files in a folder.
fn check_by_onnxruntime(dir: &Path) {
    let Some(python) = std::env::var_os("NAS_PYTHON") else {
        eprintln!("skipped: NAS_PYTHON names no Python with onnxruntime");
        return;
    };
    let script = nas_tests::root().join("tests/golden/onnx/check.py");
    let output = Command::new(python).arg(script).arg(dir).output().expect("Python starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    print!("{text}");
    let files =
        std::fs::read_dir(dir).unwrap().flatten().filter(|file| file.path().extension().is_some_and(|e| e == "onnx"));
    let mut seen = 0;
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["relative"].as_f64().unwrap() < MAX_DIFFERENCE, "{line}");
        seen += usize::from(line["file"].as_str().unwrap().ends_with(".onnx"));
    }
    assert_eq!(seen, files.count());
}

#[test]
fn every_family_of_classifiers_is_the_same_in_onnx() {
    use nas_classify::model::ModelConfig;
    let families =
        ["nasbench201_best_cifar10", "nasbench201_resnet", "darts_v2", "pc_darts", "nasnet_a", "amoebanet_a"];
    let published =
        ["mobilenet_v2", "mobilenet_v3_small", "mnasnet_a1", "fbnet_a", "proxyless_gpu", "resnet18", "resnet20"];
    // Every second operator, and some of the connections that skip layers.
    let chain = serde_json::json!({"kind": "searched", "arch": "0-2-1-4-0-1-5-1-0-1",
        "space": {"kind": "chain", "layers": 4, "channels": 8}});
    let chain: ModelConfig = serde_json::from_value(chain).unwrap();
    let preset = |name: &&'static str| (*name, ModelConfig::preset(name).unwrap());
    let all = families.iter().chain(&published).map(preset).chain([("chain", chain)]);
    check(all.map(|(name, config)| {
        let config = match config {
            // As many layers as have every kind of cell.
            ModelConfig::Cells(config) => {
                ModelConfig::Cells(nas_classify::cells::NetworkConfig { layers: 5, channels: 8, ..config })
            }
            other => other,
        };
        let vs = VarStore::new(Device::Cpu);
        let net = config.build(&VarBuilder::new(&vs), 10).unwrap();
        let forward: Forward = Box::new(move |images, mode| vec![net.forward(&channels_last(images), mode).main]);
        let (name, size) = (name.to_string(), (64, 64));
        Case { name, vs, forward, outputs: &["logits"], size, divisor: 1, fixed: None }
    }));
}

#[test]
fn every_family_of_segmenters_is_the_same_in_onnx() {
    use nas_segment::mobile_seg::{DecoderStep, HeadConfig, MobileSegConfig, Tap};
    use nas_segment::model::ModelConfig;
    let preset = |name: &str| (name.to_string(), ModelConfig::preset(name).unwrap());
    let mut cases: Vec<(String, ModelConfig)> = ["auto_deeplab_s", "deeplabv3plus_xception41"].map(preset).into();
    cases.extend(["deeplabv3plus_resnet101", "deeplabv3plus_mobilenet_v2"].map(preset));
    cases.extend(["mobile_seg_deeplabv3plus_11", "mobile_seg_hand_c"].map(preset));
    cases.extend(["squeezenas_mac_small", "squeezenas_lat_xlarge"].map(preset));
    // The other context modules of the space.
    let decoder = vec![DecoderStep { stride: 4, tap: Tap::Hidden, low_level_channels: 8, channels: 16, convs: 1 }];
    for head in [HeadConfig::LrAspp { channels: 32, decoder }, HeadConfig::Pooling { channels: 32, decoder: vec![] }] {
        let ModelConfig::MobileSeg(config) = ModelConfig::preset("mobile_seg_hand_a").unwrap() else { panic!() };
        let name = if matches!(head, HeadConfig::LrAspp { .. }) { "lr_aspp" } else { "pooling" };
        cases.push((name.to_string(), ModelConfig::MobileSeg(MobileSegConfig { head, ..config })));
    }
    // The operators that no named network has.
    let ModelConfig::MobileSeg(mut config) = ModelConfig::preset("mobile_seg_hand_a").unwrap() else { panic!() };
    config.activation = Activation::Hswish;
    for (stage, operator) in config.stages.iter_mut().zip(["fused_k3_e2", "extra_k3_k5_e2_se", "ib_k3_e4_g2_se"]) {
        stage.blocks.fill(operator.parse().unwrap());
    }
    cases.push(("operators".into(), ModelConfig::MobileSeg(config)));
    check(cases.into_iter().map(|(name, config)| {
        let vs = VarStore::new(Device::Cpu);
        let net = config.build(&VarBuilder::new(&vs), 5).unwrap();
        let fixed = net.head.varies_with_size();
        assert_eq!(fixed.is_some(), name == "squeezenas_mac_small");
        // Large enough for a window of 49x49 at stride 16.
        let size = if fixed.is_some() { (784, 800) } else { (65, 97) };
        let forward: Forward = Box::new(move |images, mode| vec![net.forward(images, mode)]);
        Case { name, vs, forward, outputs: &["logits"], size, divisor: 1, fixed }
    }));
}

#[test]
fn every_family_of_detectors_is_the_same_in_onnx() {
    use nas_detect::model::ModelConfig;
    let names = ["fcos_detnas_tiny", "fcos_shufflenet_v2_x0_5", "fcos_mobilenet_v2_fpn", "retinanet_resnet18_bifpn"];
    check(names.into_iter().chain(["retinanet_resnet50_fpn", "nasfpn_r50_7at256"]).map(|name| {
        let vs = VarStore::new(Device::Cpu);
        // Few channels, so that a neck and a head of full width do not take most of the time.
        let mut config = serde_json::to_value(ModelConfig::preset(name).unwrap()).unwrap();
        config["neck"]["channels"] = 64.into();
        config["head"]["convs"] = 1.into();
        let config: ModelConfig = serde_json::from_value(config).unwrap();
        let divisor = config.largest_stride();
        let net = config.build(&VarBuilder::new(&vs), 3).unwrap();
        let forward: Forward = Box::new(move |images, _| net.scores_and_boxes(images).into());
        let (name, size) = (name.to_string(), (divisor, 2 * divisor));
        Case { name, vs, forward, outputs: &["scores", "boxes"], size, divisor, fixed: None }
    }));
}

/// Trains by a config of the tests, exports in int8, and returns what the command printed and the folder.
fn exported_in_int8(tool: Tool, config: &str, sets: &[&str]) -> (Value, tempfile::TempDir) {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name).to_str().unwrap().to_string();
    let (run, file) = (path("run"), path("int8.onnx"));
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let threads = ["--device", "cpu", "--threads", "1"];
    tool.succeed(&[&["train", "--config", config, "--out", &run], &threads[..], &sets].concat());
    let export = ["export", "--run", &run, "--out", &file, "--int8", "--calibration", "24"];
    let found: Value = serde_json::from_str(&tool.succeed(&[&export[..], &["--format", "json"]].concat())).unwrap();
    // The network's score is the one that `eval` gives it.
    let scored = tool.succeed(&[&["eval", "--run", &run, "--format", "json"], &threads[..]].concat());
    let scored: Value = serde_json::from_str(&scored).unwrap();
    let metric = found["int8"]["metric"].as_str().unwrap();
    let of_eval = scored.get(metric).unwrap_or_else(|| &scored["stats"][0]);
    assert_eq!(found["int8"]["fp32"], *of_eval, "{found}");
    let text = tool.succeed(&[&export[..], &["--samples", "3"]].concat());
    assert!(text.contains("of 3 images of the val split: fp32 ") && text.contains(", drop "), "{text}");
    assert!(text.contains("ranges of 24 images of the train split"), "{text}");
    (found, temp)
}

/// What onnxruntime makes of the file beside this program's interpreter.
fn int8_by_onnxruntime(found: &Value, dir: &Path, shape: [i64; 4]) {
    let int8 = &found["int8"];
    let number = |key: &str| int8[key].as_f64().unwrap();
    assert!((number("fp32") - number("int8") - number("drop")).abs() < 1e-12, "{found}");
    let path = dir.join("int8.onnx");
    assert_eq!(number("bytes") as u64, std::fs::metadata(&path).unwrap().len());
    let model = onnx::read(&path).unwrap();
    let graph = model.graph.as_ref().unwrap();
    tch::manual_seed(4);
    let images = Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let results: Vec<&str> = graph.output.iter().map(|output| output.name()).collect();
    let values = onnx::interpreter::run(graph, &images).unwrap();
    let kept =
        values.into_iter().filter(|(name, value)| value.kind() == Kind::Uint8 || results.contains(&name.as_str()));
    let tensors = kept.chain([("images".to_string(), images.shallow_clone())]).collect();
    let check = dir.join("int8.safetensors");
    write_tensors(&check, tensors).unwrap();
    let Some(python) = std::env::var_os("NAS_PYTHON") else {
        eprintln!("skipped: NAS_PYTHON names no Python with onnxruntime");
        return;
    };
    let script = nas_tests::root().join("tests/golden/onnx/int8.py");
    let output = Command::new(python).arg(script).arg(&path).arg(&check).output().expect("Python starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    let line: Value = serde_json::from_str(text.trim()).unwrap();
    // A sum that ends between two steps may go either way, and what follows then differs by a step too.
    assert!(line["largest"].as_u64().unwrap() <= 2 && line["equal"].as_f64().unwrap() > 0.99, "{line}");
    assert_eq!(line["layers"], line["joined"], "layers that onnxruntime computes in floats: {line}");
}

#[test]
fn a_classifier_in_int8_is_scored_and_the_same_in_onnxruntime() {
    let (found, temp) = exported_in_int8(CLASSIFY, "tests/configs/tiny_classify.toml", &["train.epochs=3"]);
    assert_eq!(found["int8"]["metric"], "top1");
    assert!(found["int8"]["drop"].as_f64().unwrap().abs() < 0.1, "{found}");
    int8_by_onnxruntime(&found, temp.path(), [4, 3, 16, 16]);
    let file = temp.path().join("net.pt");
    let stderr = CLASSIFY.fail(&["export", "--run", "nowhere", "--out", file.to_str().unwrap(), "--int8"]);
    assert!(stderr.contains("--int8") && stderr.contains("net.pt") && stderr.contains(".onnx"), "{stderr}");
}

#[test]
fn a_segmenter_in_int8_is_scored_and_the_same_in_onnxruntime() {
    let (found, temp) = exported_in_int8(SEGMENT, "tests/configs/tiny_train.toml", &["train.epochs=2"]);
    assert_eq!(found["int8"]["metric"], "miou");
    assert!(found["int8"]["drop"].as_f64().unwrap().abs() < 0.1, "{found}");
    int8_by_onnxruntime(&found, temp.path(), [2, 3, 33, 65]);
    let file = temp.path().join("fixed.onnx");
    let data = "data={kind='synth',num_images=4,num_val=4,height=96,width=128,seed=1}";
    let fixed = ["export", "--model", "squeezenas_mac_small", "--out", file.to_str().unwrap(), "--int8", "--set", data];
    let stderr = SEGMENT.fail(&[&fixed[..], &["--size", "64x128"]].concat());
    assert!(stderr.contains("--size") && stderr.contains("96, 128") && stderr.contains("64, 128"), "{stderr}");
}

#[test]
fn a_detector_in_int8_is_scored_and_the_same_in_onnxruntime() {
    let sets = ["train.epochs=3", "train.optimizer.lr=0.05", "eval.every=1"];
    let (found, temp) = exported_in_int8(DETECT, "tests/configs/tiny_detect.toml", &sets);
    assert_eq!(found["int8"]["metric"], "ap");
    assert!(found["int8"]["drop"].as_f64().unwrap().abs() < 0.1, "{found}");
    int8_by_onnxruntime(&found, temp.path(), [2, 3, 64, 96]);
}

/// Two detectors whose files suppress doubles: onnxruntime finds in its own scores and boxes what this program does.
#[test]
fn detections_in_a_file_are_the_programs_own_in_onnxruntime_too() {
    use nas_core::run::export::Suppressed;
    use nas_detect::head::Detections;
    use nas_detect::model::{Detector, ModelConfig};
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, ending: &str| dir.path().join(format!("{name}.{ending}"));
    let mut detectors: Vec<(&str, Detector, Vec<[i64; 4]>)> = Vec::new();
    for name in ["fcos_detnas_tiny", "retinanet_resnet18_bifpn"] {
        let vs = VarStore::new(Device::Cpu);
        let mut config = serde_json::to_value(ModelConfig::preset(name).unwrap()).unwrap();
        config["neck"]["channels"] = 64.into();
        config["head"]["convs"] = 1.into();
        // More candidates than a level may have, and more detections than an image may have.
        config["head"]["detect"] = serde_json::json!({"score": 0.0, "per_level": 60, "iou": 0.3, "max": 20});
        let config: ModelConfig = serde_json::from_value(config).unwrap();
        let divisor = config.largest_stride();
        let net = config.build(&VarBuilder::new(&vs), 3).unwrap();
        scatter(&vs, false);
        let forward = |images: &Tensor| net.scores_and_boxes(images).into();
        let detect = |[scores, boxes]: [&Tensor; 2], size: (i64, i64), room: i64| {
            Ok(Detections::padded(&net.top.detections(scores, boxes, size)?, room as usize))
        };
        let network = Network {
            variables: all_variables(&vs),
            forward: &forward,
            outputs: ["scores", "boxes"].map(String::from).to_vec(),
            size: (divisor, 2 * divisor),
            divisor,
            fixed: None,
            suppressed: Some(Suppressed { suppression: net.top.suppression(3), detect: &detect }),
        };
        // Here the program's own interpreter is compared.
        let shapes = write(&network, &at(name, "onnx"), &[]).unwrap().compared;
        tch::manual_seed(2);
        let image =
            |(i, shape): (usize, &[i64; 4])| (format!("images.{i}"), Tensor::randn(shape, (Kind::Float, Device::Cpu)));
        write_tensors(&at(name, "images.safetensors"), shapes.iter().enumerate().map(image).collect()).unwrap();
        drop(network);
        detectors.push((name, net, shapes));
    }
    let Some(python) = std::env::var_os("NAS_PYTHON") else {
        eprintln!("skipped: NAS_PYTHON names no Python with onnxruntime");
        return;
    };
    let script = nas_tests::root().join("tests/golden/onnx/nms.py");
    let output = Command::new(python).arg(script).arg(dir.path()).output().expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (name, net, shapes) in detectors {
        let found = nas_core::train::read_tensors(&at(name, "found.safetensors")).unwrap();
        for (i, [_, _, h, w]) in shapes.into_iter().enumerate() {
            let of = |output: &str| &found[&format!("{output}.{i}")];
            let own = net.top.detections(of("scores"), of("boxes"), (h, w)).unwrap();
            assert!(own.iter().all(|image| !image.scores.is_empty()), "{name}: nothing was found");
            let room = of(onnx::DETECTIONS[1]).size()[1] as usize;
            for (output, expected) in onnx::DETECTIONS.into_iter().zip(Detections::padded(&own, room)) {
                assert!(of(output).equal(&expected), "{name}: {output} of batch {i}");
            }
            // Doubles were there: the best scores of all are not those of the detections.
            let best = of("scores").get(0).reshape([-1]).topk(room as i64, 0, true, true).0;
            assert!(!best.equal(&of(onnx::DETECTIONS[1]).get(0)), "{name}: nothing was suppressed");
        }
    }
}

#[test]
fn a_detector_is_exported_with_suppression_in_int8_too_and_in_no_other_format() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name).to_str().unwrap().to_string();
    let train = ["train", "--config", "tests/configs/tiny_detect.toml", "--device", "cpu", "--threads", "1"];
    let sets = ["--set", "train.epochs=3", "--set", "train.optimizer.lr=0.05", "--out", &path("run")];
    DETECT.succeed(&[&train[..], &sets].concat());
    let export = |file: &str, more: &[&str]| -> Value {
        let args = ["export", "--run", &path("run"), "--out", &path(file), "--nms", "--format", "json"];
        serde_json::from_str(&DETECT.succeed(&[&args[..], more].concat())).unwrap()
    };
    let found = export("net.onnx", &[]);
    assert_eq!(found["outputs"], serde_json::json!(onnx::DETECTIONS));
    let model = onnx::read(Path::new(&path("net.onnx"))).unwrap();
    let nms = model.metadata_props.iter().find(|entry| entry.key.as_deref() == Some("nms")).unwrap();
    let nms: Value = serde_json::from_str(nms.value.as_deref().unwrap()).unwrap();
    assert!(nms["iou"].is_number() && nms["per_level"].is_number(), "{nms}");
    // The file with suppression scores as that without, which the program suppresses.
    let args = ["export", "--run", &path("run"), "--out", &path("plain.onnx"), "--int8", "--format", "json"];
    let plain: Value = serde_json::from_str(&DETECT.succeed(&args)).unwrap();
    let suppressed = export("int8.onnx", &["--int8"]);
    assert_eq!(suppressed["int8"]["int8"], plain["int8"]["int8"], "{suppressed}");
    assert_eq!(suppressed["int8"]["fp32"], plain["int8"]["fp32"], "{suppressed}");
    let stderr = DETECT.fail(&["export", "--run", &path("run"), "--out", &path("net.pt"), "--nms"]);
    assert!(stderr.contains("--nms") && stderr.contains("net.pt") && stderr.contains(".onnx"), "{stderr}");
}
