//! A run that is killed and resumed ends like one that was not: same weights, same metrics, same architecture, bit for bit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nas_core::run::run_dir;
use nas_core::search::log as trial_log;
use nas_core::train::{read_about, read_tensors};
use nas_tests::{DETECT, SEGMENT, Tool, assert_same_file, assert_same_weights};

const SEARCH: &str = "tests/configs/tiny_search.toml";
const TRAIN: &str = "tests/configs/tiny_train.toml";
const SANDWICH: &str = "tests/configs/tiny_mobile_seg_search.toml";

/// The method of [`SEARCH`].
const METHOD: &str = "[one_shot.method]\nkind = \"darts\"\narch_start_epoch = 1\n\
                      arch = { kind = \"adam\", lr = 3e-3, weight_decay = 1e-3 }";

fn args<'a>(job: &'a str, config: &'a str, out: &'a Path) -> Vec<&'a str> {
    let out = out.to_str().unwrap();
    vec![job, "--config", config, "--out", out, "--resume", "--device", "cpu", "--threads", "1", "--format", "json"]
}

/// A job that is killed and resumed ends like one that is not: the same `files` and weights.
fn killed_equals_straight(tool: Tool, job: &str, config: &str, files: &[&str]) {
    let temp = tempfile::tempdir().unwrap();
    let (straight, killed) = (temp.path().join("straight"), temp.path().join("killed"));
    tool.succeed(&args(job, config, &straight));
    tool.run_with_kills(&args(job, config, &killed));
    for file in files {
        assert_same_file(&straight, &killed, file);
    }
    assert_same_weights(&straight, &killed);
}

const FILES: [&str; 2] = ["metrics.jsonl", "checkpoints/best.safetensors"];

#[test]
fn a_killed_search_ends_with_the_same_bits() {
    killed_equals_straight(SEGMENT, "search", SEARCH, &FILES);
}

/// The bound excludes the paths that stay at stride 4.
#[test]
fn a_killed_search_over_a_trained_supernet_ends_with_the_same_bits_and_keeps_its_bound() {
    let temp = tempfile::tempdir().unwrap();
    let config = temp.path().join("spos.toml");
    let method = "[[constraints]]\nmetric = 'macs'\nupper = 120e6\n[one_shot.method]\nkind = 'spos'\nnum_trials = 40\n\
                  recalibration_batches = 2\nstrategy = { kind = 'random' }";
    let text = fs::read_to_string(nas_tests::root().join(SEARCH)).unwrap();
    fs::write(&config, text.replace(METHOD, method)).unwrap();
    let config = config.to_str().unwrap();
    killed_equals_straight(SEGMENT, "search", config, &["metrics.jsonl", "supernet_search/trials.jsonl"]);

    let out = temp.path().join("run");
    let result: serde_json::Value = serde_json::from_str(&SEGMENT.succeed(&args("search", config, &out))).unwrap();
    let records = trial_log::read(&out.join("supernet_search/trials.jsonl")).unwrap();
    let of = |metric| records.iter().map(move |record| record.metric(metric).unwrap());
    assert!(records.len() == 40 && of("macs").all(|macs| macs <= 120e6), "{records:?}");
    assert_eq!(result["candidate"]["supernet_miou"].as_f64(), of("supernet_miou").reduce(f64::max));
}

/// Every step trains several networks, and what is found can be used as it is.
#[test]
fn a_killed_sandwich_search_ends_with_the_same_bits_and_a_network_that_needs_no_training() {
    let temp = tempfile::tempdir().unwrap();
    let files = ["metrics.jsonl", "supernet_search/trials.jsonl", "network.safetensors"];
    killed_equals_straight(SEGMENT, "search", SANDWICH, &files);

    let out = temp.path().join("run");
    let result: serde_json::Value = serde_json::from_str(&SEGMENT.succeed(&args("search", SANDWICH, &out))).unwrap();
    let [train, inherited, weights] =
        ["train.toml", "train_inherited.toml", "network.safetensors"].map(|file| out.join(file).display().to_string());
    assert!(result["untrained"].as_str().unwrap().ends_with(&format!("--weights {weights}")), "{result}");
    let eval =
        SEGMENT.succeed(&["eval", "--model", &train, "--weights", &weights, "--threads", "1", "--format", "json"]);
    let score = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["miou"].as_f64().unwrap();
    assert!(score(&eval) > 0.0);
    // The same weights are where the inherited training begins: without a step they stay.
    let trained = temp.path().join("trained");
    let still = ["--set", "train.epochs=1", "--set", "train.optimizer.lr=0.0", "--set", "train.batch_size=2"];
    SEGMENT.succeed(&[&args("train", &inherited, &trained)[..], &still].concat());
    let [found, kept] =
        [PathBuf::from(weights), trained.join("checkpoints/best.safetensors")].map(|file| read_tensors(&file).unwrap());
    let weights: Vec<_> = found.iter().filter(|(name, _)| !name.contains("running_")).collect();
    assert!(weights.len() > 20 && weights.iter().all(|(name, tensor)| kept[*name] == **tensor));
}

#[test]
fn a_killed_training_ends_with_the_same_bits() {
    killed_equals_straight(SEGMENT, "train", TRAIN, &FILES);
}

#[test]
fn a_killed_training_whose_batches_come_in_parts_ends_with_the_same_bits() {
    let temp = tempfile::tempdir().unwrap();
    let config = temp.path().join("parts.toml");
    let text = fs::read_to_string(nas_tests::root().join(TRAIN)).unwrap();
    fs::write(&config, text.replace("batch_size = 2", "batch_size = 4\naccumulate = 2")).unwrap();
    let config = config.to_str().unwrap();
    killed_equals_straight(SEGMENT, "train", config, &FILES);
    let out = temp.path().join("run");
    let error = SEGMENT.fail(&[&args("train", config, &out)[..], &["--set", "train.accumulate=3"]].concat());
    assert!(error.contains("train.accumulate = 3; expected a number that divides train.batch_size = 4"), "{error}");
}

#[test]
fn weights_say_what_they_are() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    SEGMENT.succeed(&[&args("train", TRAIN, &out)[..], &["--set", "train.epochs=1"]].concat());
    let classes: Vec<String> = run_dir::read_classes(&out).unwrap();
    for file in ["best", "last"] {
        let about = read_about(&out.join(format!("checkpoints/{file}.safetensors"))).unwrap().unwrap();
        assert_eq!(about["classes"], serde_json::json!(classes));
        assert_eq!((&about["program"], &about["model"]["kind"]), (&"nas-segment".into(), &"auto_deeplab".into()));
        assert_eq!(about["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(about["command"][1], "train");
        assert_eq!((about["mean"].as_array().unwrap().len(), about["std"].as_array().unwrap().len()), (3, 3));
    }
}

/// With a rate and a network that do not depend on the end.
#[test]
fn a_training_goes_on_with_more_epochs_and_equals_one_that_had_them_from_the_start() {
    let temp = tempfile::tempdir().unwrap();
    let (straight, grown) = (temp.path().join("straight"), temp.path().join("grown"));
    let constant = ["--set", "train.schedule.decay={kind='constant'}", "--set", "model.drop_path_keep=1.0"];
    let with = |out, epochs| [&args("train", TRAIN, out)[..], &constant, &["--set", epochs]].concat();
    SEGMENT.succeed(&with(&straight, "train.epochs=3"));
    SEGMENT.succeed(&with(&grown, "train.epochs=1"));
    let output = SEGMENT.command(&with(&grown, "train.epochs=3")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("goes on from train.epochs = 1 to 3"), "{text}");
    assert_same_weights(&straight, &grown);
    assert_same_file(&straight, &grown, "metrics.jsonl");
    assert_same_file(&straight, &grown, "config.toml");
    let text = SEGMENT.fail(&with(&grown, "train.epochs=2"));
    assert!(text.contains("differs"), "{text}");
}

#[test]
fn a_killed_training_of_a_detector_ends_with_the_same_bits() {
    killed_equals_straight(DETECT, "train", "tests/configs/tiny_detect.toml", &FILES);
}

#[test]
fn a_killed_search_of_a_detector_ends_with_the_same_bits_in_each_of_its_parts() {
    let files =
        ["pretrain/metrics.jsonl", "metrics.jsonl", "supernet_search/trials.jsonl", "architecture.txt", "train.toml"];
    killed_equals_straight(DETECT, "search", "tests/configs/tiny_detect_search.toml", &files);
}

#[test]
fn a_signal_saves_the_step_and_a_second_process_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    // Long enough to be still at work when the second process has been refused.
    let args = [args("train", TRAIN, &out), vec!["--set", "train.epochs=40"]].concat();
    let mut first = SEGMENT.command(&args).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !out.join("checkpoints/last.safetensors").exists() {
        assert!(Instant::now() < deadline && first.try_wait().unwrap().is_none(), "no checkpoint was written");
        sleep(Duration::from_millis(20));
    }
    assert!(SEGMENT.fail(&args).contains("another process"));
    // SAFETY: the id of a child that has not been waited for.
    unsafe { libc::kill(first.id() as libc::pid_t, libc::SIGTERM) };
    let output = first.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("--resume"), "{stderr}");
    SEGMENT.succeed(&args);
}

#[test]
fn a_training_that_cannot_beat_the_best_ends_early_and_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    let stop = "train.early_stop={best=1.0,rule={every=2,min_epochs=4}}";
    let more = ["--set", stop, "--set", "train.optimizer.lr=1e-6", "--set", "eval.every=1", "--set", "train.epochs=12"];
    let result = SEGMENT.succeed(&[args("train", TRAIN, &out), more.to_vec()].concat());
    let result: serde_json::Value = serde_json::from_str(&result).unwrap();
    let epochs = result["stopped"]["epochs"].as_u64().unwrap();
    assert!((4..12).contains(&epochs), "{result}");
    assert_eq!(fs::read_to_string(out.join("metrics.jsonl")).unwrap().lines().count() as u64, epochs);
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    let mut args = args("train", TRAIN, &out);
    args.extend(["--set", "train.optimizer.lr=1e30"]);
    let stderr = SEGMENT.fail(&args);
    assert!(stderr.contains("the loss is") && stderr.contains("learning rate"), "{stderr}");
}

#[test]
fn a_run_is_not_overwritten_and_not_resumed_under_another_config() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    SEGMENT.succeed(&args("train", TRAIN, &out));
    let again = args("train", TRAIN, &out);
    let fresh: Vec<&str> = again.iter().copied().filter(|arg| *arg != "--resume").collect();
    assert!(SEGMENT.fail(&fresh).contains("--resume"));
    let other: Vec<&str> = again.iter().copied().chain(["--set", "seed=99"]).collect();
    assert!(SEGMENT.fail(&other).contains("seed = 99"));
}

#[test]
fn auto_deeplabs_space_is_searched_by_other_methods_too() {
    let temp = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(nas_tests::root().join(SEARCH)).unwrap();
    let with = |method: &str| -> String {
        let path = temp.path().join(format!("{method}.toml"));
        let text = text.replace(METHOD, &format!("[one_shot.method]\nkind = '{method}'"));
        assert!(text.contains(method));
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    };
    let never = temp.path().join("never");
    let none = ["--set", "constraints=[{metric='macs', upper=1}]"];
    for method in ["gdas", "mdenas"] {
        let (config, out) = (with(method), temp.path().join(method));
        let search = |out: &Path, bound: &[&str]| -> serde_json::Value {
            serde_json::from_str(&SEGMENT.succeed(&[&args("search", &config, out)[..], bound].concat())).unwrap()
        };
        let result = search(&out, &[]);
        assert_eq!(result["architecture"].as_str().unwrap().split('-').count(), 2 + 4, "{method}: {result}");
        let bound = 0.99 * result["cost"]["macs"].as_f64().unwrap();
        let within =
            search(&out.join("within"), &["--set", &format!("constraints=[{{metric='macs', upper={bound}}}]")]);
        assert!(within["cost"]["macs"].as_f64().unwrap() <= bound, "{method}: {within}");
        let error = SEGMENT.fail(&[&args("search", &config, &never)[..], &none].concat());
        assert!(error.contains("none of 10000 random architectures"), "{error}");
    }
    let error = SEGMENT.fail(&args("search", &with("spos"), &never));
    assert!(error.contains("one_shot.method.recalibration_batches = 200; expected at most 20"), "{error}");
}
