//! Commands that measure the machine: the latency of a network, alone and in a search, and the largest batch.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nas_tests::{CLASSIFY, DETECT, SEGMENT, Tool};
use serde_json::Value;

/// Few and short.
const QUICK: [&str; 10] = ["--rounds", "2", "--runs", "3", "--pause", "0", "--warm-up", "0", "--threads", "1"];

fn at(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_string()
}

fn trained(tool: Tool, config: &str, folder: &Path) -> String {
    let run = at(folder, "run");
    let args = ["--set", "train.epochs=1", "--device", "cpu", "--threads", "1", "--out", &run];
    tool.succeed(&[&["train", "--config", config], &args[..]].concat());
    run
}

/// What `latency` prints as JSON.
fn latency(tool: Tool, args: &[&str]) -> Value {
    let args = [&["latency"], args, &QUICK, &["--format", "json"]].concat();
    serde_json::from_str(&tool.succeed(&args)).unwrap()
}

fn require_sound(found: &Value) {
    let number = |value: &Value| value.as_f64().unwrap();
    let (median, range) = (number(&found["latency_millis"]), &found["range_millis"]);
    assert!(0.0 < number(&range[0]) && number(&range[0]) <= median && median <= number(&range[1]), "{found}");
    assert_eq!((found["runs"].as_u64(), found["warm_up_runs"].as_u64()), (Some(6), Some(3)), "{found}");
    assert_eq!((found["rounds_millis"].as_array().unwrap().len(), found["threads"].as_u64()), (2, Some(1)), "{found}");
    assert!(found["device"].as_str().unwrap().starts_with("cpu ("), "{found}");
}

#[test]
fn a_run_its_file_and_an_experiment_are_timed() {
    let temp = tempfile::tempdir().unwrap();
    let config = "tests/configs/tiny_classify.toml";
    let run = trained(CLASSIFY, config, temp.path());
    let file = at(temp.path(), "latency.json");
    let found = latency(CLASSIFY, &[&run, "--device", "cpu", "--out", &file]);
    require_sound(&found);
    assert_eq!(found["input"], serde_json::json!([1, 3, 16, 16]));
    assert!(found["runtime"].as_str().unwrap().starts_with("libtorch 2."), "{found}");
    assert!(found["weights"].as_str().unwrap().ends_with("best.safetensors"), "{found}");
    let written: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(written, found);
    // Weights of an experiment are random, and nothing is read where the size is given.
    let nowhere = "data={kind='cifar10',root='nowhere'}";
    let found = latency(CLASSIFY, &[config, "--size", "24x32", "--device", "cpu"]);
    assert_eq!((&found["input"], &found["image"]), (&serde_json::json!([1, 3, 24, 32]), &"noise".into()));
    assert!(found.get("weights").is_none(), "{found}");
    let text = CLASSIFY.succeed(&[&["latency", &run, "--set", nowhere, "--size", "16x16"][..], &QUICK].concat());
    assert!(text.contains(" ms, quartiles ") && text.contains("1x3x16x16 (noise), forward pass"), "{text}");

    let onnx = at(temp.path(), "net.onnx");
    CLASSIFY.succeed(&["export", "--run", &run, "--out", &onnx]);
    let error = CLASSIFY.fail(&["latency", &onnx]);
    assert!(error.contains("net.onnx") && error.contains("expected --size HxW or --like RUN"), "{error}");
    let error = CLASSIFY.fail(&["latency", &onnx, "--size", "16x16", "--python", "no_such_python"]);
    assert!(error.contains("cannot start no_such_python") && error.contains("NAS_PYTHON"), "{error}");
    let bare = temp.path().join("python");
    fs::write(&bare, "#!/bin/sh\necho \"No module named 'onnxruntime'\" >&2\nexit 3\n").unwrap();
    fs::set_permissions(&bare, fs::Permissions::from_mode(0o755)).unwrap();
    let error = CLASSIFY.fail(&["latency", &onnx, "--size", "16x16", "--python", bare.to_str().unwrap()]);
    assert!(error.contains("No module named 'onnxruntime'") && error.contains("pip install onnxruntime"), "{error}");
    if std::env::var_os("NAS_PYTHON").is_none() {
        eprintln!("skipped: NAS_PYTHON names no Python with onnxruntime");
        return;
    }
    let found = latency(CLASSIFY, &[&onnx, "--like", &run]);
    require_sound(&found);
    assert_eq!((&found["input"], &found["includes"]), (&serde_json::json!([1, 3, 16, 16]), &"outputs logits".into()));
    assert!(found["runtime"].as_str().unwrap().starts_with("onnxruntime 1."), "{found}");
}

#[test]
fn a_detector_is_timed_on_an_image_with_suppression() {
    let temp = tempfile::tempdir().unwrap();
    let run = trained(DETECT, "tests/configs/tiny_detect.toml", temp.path());
    let found = latency(DETECT, &[&run, "--device", "cpu"]);
    require_sound(&found);
    assert_eq!(found["image"], "the first of the val split");
    assert_eq!(found["includes"], "forward pass, boxes included");
    let Some(_) = std::env::var_os("NAS_PYTHON") else { return };
    let onnx = at(temp.path(), "net.onnx");
    DETECT.succeed(&["export", "--run", &run, "--out", &onnx, "--nms"]);
    let found = latency(DETECT, &[&onnx, "--like", &run]);
    require_sound(&found);
    assert!(found["includes"].as_str().unwrap().contains("num_detections"), "{found}");
}

#[test]
fn bench_of_a_network_says_which_command_times_it() {
    let error = CLASSIFY.fail(&["bench", "runs/derived"]);
    assert!(error.contains("latency runs/derived"), "{error}");
    let error = CLASSIFY.fail(&["latency", "runs/nowhere"]);
    assert!(error.contains("runs/nowhere"), "{error}");
}

/// A search whose trials are a shell script, with more sections.
fn search(folder: &Path, more: &str) -> String {
    let path = at(folder, "search.toml");
    let script = "echo \"{\\\"valid\\\": 0.$(echo {arch} | tr -d -)}\"";
    let text = format!(
        "kind = 'search'\nnum_trials = 12\n[space]\nkind = 'nasbench201'\n[strategy]\nkind = 'regularized_evolution'\n\
         population_size = 4\nsample_size = 2\n[[objectives]]\nmetric = 'valid'\n[evaluator]\nkind = 'command'\n\
         metrics = ['valid']\ncommand = ['sh', '-c', '''{script}''']\n{more}"
    );
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_search_keeps_to_predicted_latencies_and_measures_what_it_finds() {
    let temp = tempfile::tempdir().unwrap();
    // Choice c of any edge takes c ms, the rest 2 ms.
    let rows: String = (0..6).flat_map(|edge| (0..5).map(move |c| format!("{edge},{c},{c}\n"))).collect();
    fs::write(temp.path().join("operators.csv"), format!("decision,choice,millis\n,,2\n{rows}")).unwrap();
    let path = at(temp.path(), "operators.csv");
    let measure = "echo {arch} > '{folder}/seen'; echo '{\"latency_millis\": 9.5, \"more\": 1}'";
    let config = search(
        temp.path(),
        &format!(
            "[latency.predict]\nkind = 'operators'\npath = '{path}'\n[latency.measure]\ncommand = ['sh', '-c', '''{measure}''']\n\
             [[constraints]]\nmetric = 'predicted_latency_millis'\nupper = 10\n"
        ),
    );
    let run = temp.path().join("run");
    let args = ["search", "--config", &config, "--out", run.to_str().unwrap(), "--threads", "1"];
    let text = CLASSIFY.succeed(&args);
    let result: Value = serde_json::from_str(&fs::read_to_string(run.join("result.json")).unwrap()).unwrap();
    let (best, found) = (&result["best"], &result["latency"]["found"][0]);
    let arch = best["architecture"].as_str().unwrap();
    let sum = 2.0 + arch.split('-').map(|choice| choice.parse::<f64>().unwrap()).sum::<f64>();
    assert_eq!((found["predicted_millis"].as_f64(), found["measured_millis"].as_f64()), (Some(sum), Some(9.5)));
    assert_eq!(found["bounds"][0][1], true);
    assert!(text.contains("measured 9.50 ms") && text.contains("at most 10: met"), "{text}");
    let folder = run.join(format!("latency/{:05}", best["trial"].as_u64().unwrap()));
    assert_eq!(fs::read_to_string(folder.join("seen")).unwrap().trim(), arch);
    let log = fs::read_to_string(run.join("trials.jsonl")).unwrap();
    for line in log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let metrics = &line["outcome"]["metrics"];
        assert!(metrics["predicted_latency_millis"].as_f64().unwrap() <= 10.0, "{line}");
        assert!(metrics.get("latency_millis").is_none() && metrics.get("more").is_none(), "{line}");
    }

    // Of every trial, and no other number that the command prints.
    let run = temp.path().join("trials");
    let sets = ["--set", "latency.measure.when=trials", "--set", "num_trials=4"];
    let args = ["search", "--config", &config, "--out", run.to_str().unwrap(), "--threads", "1"];
    let text = CLASSIFY.succeed(&[&args[..], &sets].concat());
    assert!(text.contains("predicted against measured, 4 networks"), "{text}");
    let log = fs::read_to_string(run.join("trials.jsonl")).unwrap();
    assert_eq!(log.matches("\"latency_millis\":9.5").count(), 4, "{log}");
    assert!(!log.contains("more"), "{log}");

    fs::write(&path, "decision,choice,millis\n0,0,1\n").unwrap();
    let error = CLASSIFY.fail(&["search", "--config", &config, "--out", run.join("x").to_str().unwrap()]);
    assert!(error.contains("latency.predict") && error.contains("no row of 29 choices"), "{error}");
    let both = search(temp.path(), "[latency]\n");
    let error = CLASSIFY.fail(&["search", "--config", &both, "--out", run.join("y").to_str().unwrap()]);
    assert!(error.contains("latency: expected `predict`, `measure` or both"), "{error}");
}

#[test]
fn a_search_on_shared_weights_keeps_to_predicted_latencies_and_prices_them() {
    let temp = tempfile::tempdir().unwrap();
    let operators = at(temp.path(), "operators.csv");
    // Choice c of any edge takes c ms, the rest 2 ms.
    let rows = |last: &str| -> String {
        let of = |edge| (0..4).map(move |c| format!("{edge},{c},{c}\n")).chain([format!("{edge},4,{last}\n")]);
        format!("decision,choice,millis\n,,2\n{}", (0..6).flat_map(of).collect::<String>())
    };
    let path = at(temp.path(), "search.toml");
    let config = |latency: &str, method: &str| {
        let text = format!(
            "kind = 'one_shot'\n[space]\nkind = 'nasbench201'\nchannels = 2\ncells = 1\n[one_shot]\nepochs = 2\nbatch_size = 8\n\
             [one_shot.method]\n{method}\n{latency}\n[data]\nkind = 'synth'\nnum_images = 80\nnum_val = 2\nside = 16\n\
             [augment]\nsize = [16, 16]\n"
        );
        fs::write(&path, text).unwrap();
    };
    let args = |out: &str| {
        let out = at(temp.path(), out);
        ["search", "--config", &path, "--out", &out, "--threads", "1", "--device", "cpu"].map(String::from)
    };
    let found = |out: &str| -> Value {
        CLASSIFY.succeed(&args(out).each_ref().map(String::as_str));
        serde_json::from_str(&fs::read_to_string(temp.path().join(out).join("result.json")).unwrap()).unwrap()
    };
    let refused = |out: &str| CLASSIFY.fail(&args(out).each_ref().map(String::as_str));
    let predict = format!("[latency.predict]\nkind = 'operators'\npath = '{operators}'");
    let measure = "[latency.measure]\n\
                   command = ['sh', '-c', '''test -f {folder}/train.toml && echo '{\"latency_millis\": 9.5}' ''']";
    let bound = "[[constraints]]\nmetric = 'predicted_latency_millis'\nupper = 10\n";

    // Of candidates of a trained supernet; the last choice does not run.
    fs::write(&operators, rows("")).unwrap();
    config(&[&predict, measure, bound].join("\n"), "kind = 'spos'\nnum_trials = 6\nrecalibration_batches = 1");
    let result = found("spos");
    let arch = result["architecture"].as_str().unwrap();
    let sum = 2.0 + arch.split('-').map(|choice| choice.parse::<f64>().unwrap()).sum::<f64>();
    assert!(!arch.contains('4') && sum <= 10.0, "{result}");
    assert_eq!(result["cost"]["predicted_latency_millis"], sum);
    let latency = &result["latency"];
    assert_eq!((latency["predicted_millis"].as_f64(), latency["measured_millis"].as_f64()), (Some(sum), Some(9.5)));
    assert_eq!(latency["bounds"][0][1], true);

    // As a part of the loss, here all of it that counts.
    let fbnet = "kind = 'fbnet'\narch_start_epoch = 0\narch = { kind = 'adam', lr = 0.5 }\n\
                 cost = { kind = 'linear', lambda = 1e6, reference = 1000.0, of = 'latency' }";
    config(&predict, fbnet);
    let error = refused("x");
    assert!(error.contains("one_shot.method.cost.of") && error.contains("does not run there"), "{error}");
    fs::write(&operators, rows("4")).unwrap();
    let result = found("fbnet");
    assert_eq!(result["architecture"], "0-0-0-0-0-0");
    assert_eq!(result["latency"]["predicted_millis"], 2.0);
    config("", fbnet);
    let error = refused("y");
    assert!(error.contains("expected latency.predict of kind \"operators\""), "{error}");
    config(&format!("{predict}\n{measure}\nwhen = 'trials'"), fbnet);
    let error = refused("z");
    assert!(error.contains("latency.measure.when = \"trials\""), "{error}");
}

#[test]
fn layers_are_measured_once_and_predict_networks() {
    let temp = tempfile::tempdir().unwrap();
    let (table, path) = (at(temp.path(), "layers.csv"), at(temp.path(), "search.toml"));
    let config = |method: &str| {
        let text = format!(
            "kind = 'one_shot'\n[space]\nkind = 'nasbench201'\nchannels = 2\ncells = 1\n[one_shot]\nepochs = 2\nbatch_size = 8\n\
             [one_shot.method]\n{method}\n[latency.predict]\nkind = 'layers'\npath = '{table}'\n[data]\nkind = 'synth'\n\
             num_images = 80\nnum_val = 2\nside = 16\n[augment]\nsize = [16, 16]\n"
        );
        fs::write(&path, text).unwrap();
    };
    config("kind = 'spos'\nnum_trials = 6\nrecalibration_batches = 1");
    let quick = ["--sample", "60", "--networks", "8", "--runs", "2", "--threads", "1", "--device", "cpu"];
    let args = [&["latency-table", "--config", &path, "--out", &table, "--format", "json"], &quick[..]].concat();
    let fewer = [&args[..], &["--layers", "3"]].concat();
    let found: Value = serde_json::from_str(&CLASSIFY.succeed(&fewer)).unwrap();
    assert_eq!((found["measured"].as_u64(), found["layers"].as_u64().unwrap() > 3), (Some(3), true), "{found}");
    // A run that was stopped: one layer, and a line without its end.
    let (part, resumed) = (format!("{table}.part"), [&args[..], &["--resume"]].concat());
    let stopped = |place: &str| fs::write(&part, format!("{place}\nlinear 8>10,123\nnorm 2")).unwrap();
    stopped("another card");
    assert!(CLASSIFY.fail(&args).contains("--resume goes on with them"));
    assert!(CLASSIFY.fail(&resumed).contains("layers.csv.part: measured on \"another card\""));
    stopped(found["place"].as_str().unwrap());
    let found: Value = serde_json::from_str(&CLASSIFY.succeed(&resumed)).unwrap();
    let written = fs::read_to_string(&table).unwrap();
    let rows: Vec<Vec<&str>> = written.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((rows[0].as_slice(), rows[1][0]), (&["layer", "millis", "alone"][..], ""), "{written}");
    let all = Some(rows.len() as u64 - 2);
    assert_eq!((found["measured"].as_u64(), found["layers"].as_u64()), (all, all), "{found}");
    assert_eq!(found["agreement"]["networks"], 4, "half of the networks are not fitted to");
    let kept = rows.iter().find(|row| row[0] == "linear 8>10").unwrap_or_else(|| panic!("{written}"));
    assert_eq!(kept[2], "123.0");
    assert!(rows[1..].iter().all(|row| row[1].parse::<f64>().unwrap() >= 0.0), "{written}");
    assert!(!Path::new(&part).exists());

    // Every 3x3 takes a millisecond, the rest two: one of the stem, two of either reduction, those of the three cells.
    let of = |row: &Vec<&str>| match row[0] {
        "layer" => "layer,millis\n".into(),
        "" => ",2\n".into(),
        layer => format!("{layer},{}\n", u8::from(layer.contains(" 3x3 "))),
    };
    fs::write(&table, rows.iter().map(of).collect::<String>()).unwrap();
    let result = |out: &str, sets: &[&str]| -> Value {
        let out = at(temp.path(), out);
        let args = ["search", "--config", &path, "--out", &out, "--threads", "1", "--device", "cpu"];
        CLASSIFY.succeed(&[&args[..], sets].concat());
        serde_json::from_str(&fs::read_to_string(Path::new(&out).join("result.json")).unwrap()).unwrap()
    };
    let millis = |arch: &Value| 7.0 + 3.0 * arch.as_str().unwrap().matches('3').count() as f64;
    let bound = ["--set", "constraints=[{metric='predicted_latency_millis',lower=9.5,upper=14}]"];
    let found = result("spos", &bound);
    assert_eq!(found["cost"]["predicted_latency_millis"], millis(&found["architecture"]), "{found}");
    assert!((9.5..14.0).contains(&millis(&found["architecture"])), "{found}");
    // As a price, here all of the loss that counts.
    config(
        "kind = 'fbnet'\narch_start_epoch = 0\narch = { kind = 'adam', lr = 0.5 }\n\
         cost = { kind = 'linear', lambda = 1e6, reference = 1000.0, of = 'latency' }",
    );
    let found = result("fbnet", &[]);
    assert_eq!(
        (millis(&found["architecture"]), &found["latency"]["predicted_millis"]),
        (7.0, &Value::from(7.0)),
        "{found}"
    );

    fs::write(&table, "layer,millis\npool 8,1\n").unwrap();
    let error = CLASSIFY.fail(&["search", "--config", &path, "--out", &at(temp.path(), "x")]);
    assert!(error.contains("latency.predict") && error.contains("\"pool 8\" is no layer"), "{error}");
}

#[test]
fn the_largest_batch_keeps_to_the_memory_it_may_take() {
    let fixed =
        ["train", "--config", "tests/configs/tiny_classify.toml", "--find-batch", "--device", "cpu", "--threads", "1"];
    let wide = ["--set", "model.channels=16", "--set", "data.side=32", "--set", "augment.size=[32,32]"];
    let more = ["--set", "train.batch_size=512", "--memory", "400", "--format", "json"];
    let text = CLASSIFY.succeed(&[&fixed[..], &wide, &more].concat());
    let found: Value = serde_json::from_str(&text).unwrap();
    let number = |key: &str| found[key].as_u64().unwrap();
    assert!(number("memory_mib") <= 400 && number("limit_mib") == 400, "{found}");
    assert!((8..800).contains(&number("batch_size")) && found["whole_split"] == false, "{found}");
    let parts = number("accumulate");
    assert!(512 % parts == 0 && 512 / parts <= number("batch_size"), "{found}");
    // Where there is room, the train split is the limit.
    let text = CLASSIFY.succeed(&[&fixed[..], &["--set", "data.num_images=40"]].concat());
    assert!(text.contains("largest batch: 40 images") && text.contains("the train split has no more"), "{text}");
    assert!(text.contains("[train]\nbatch_size = 40") && text.contains("batch_size = 16 fits too"), "{text}");
}

#[test]
fn the_largest_batch_of_a_supernet_keeps_to_its_parts_of_the_train_split() {
    let search = |more: &[&'static str]| {
        let fixed = ["search", "--find-batch", "--device", "cpu", "--threads", "1"];
        [&fixed[..], more].concat()
    };
    // Halves of 80 images for weights and architecture.
    let two_level = ["--config", "tests/configs/tiny_search.toml"];
    let text = SEGMENT.succeed(&search(&two_level));
    assert!(text.contains("largest batch: 40 images") && text.contains("the train split has no more"), "{text}");
    assert!(text.contains("[one_shot]\nbatch_size = 40") && text.contains("batch_size = 2 fits too"), "{text}");
    let text = SEGMENT.succeed(&search(&[&two_level[..], &["--memory", "80", "--format", "json"]].concat()));
    let found: Value = serde_json::from_str(&text).unwrap();
    let [memory, images] = ["memory_mib", "batch_size"].map(|key| found[key].as_u64().unwrap());
    assert!(memory <= 80 && (2..40).contains(&images) && found["section"] == "one_shot", "{found}");
    let trials = ["--config", "configs/classify/nasbench201_few_epochs.toml"];
    let error = CLASSIFY.fail(&search(&trials));
    assert!(error.contains("--find-batch: a search by trials has no batch of its own"), "{error}");
}
