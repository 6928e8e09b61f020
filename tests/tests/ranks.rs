//! Several processes that share a training or a search on shared weights: they end where one process does, and a run that loses
//! one of them goes on.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nas_tests::{CLASSIFY, DETECT, SEGMENT, SimulatedCard, Tool, assert_same_file, assert_same_weights};
use serde_json::Value;
use tch::{Kind, Tensor};

fn args<'a>(job: &'a str, config: &'a str, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec![job, "--config", config, "--out", out.to_str().unwrap(), "--resume", "--threads", "1"];
    args.extend(more);
    args
}

/// Largest difference between the checkpoints of two runs; of tensors with numbers above 1, as a part of the largest.
fn difference(a: &Path, b: &Path) -> f64 {
    let read = |run: &Path| {
        let mut tensors = Tensor::read_safetensors(run.join("checkpoints/last.safetensors")).unwrap();
        tensors.retain(|(_, tensor)| tensor.kind() == Kind::Float);
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        tensors
    };
    let (a, b) = (read(a), read(b));
    assert!(a.len() > 10 && a.iter().map(|(name, _)| name).eq(b.iter().map(|(name, _)| name)));
    let largest = |tensor: &Tensor| tensor.abs().max().double_value(&[]);
    let of = |a: &Tensor, b: &Tensor| largest(&(a - b)) / largest(a).max(1.0);
    a.iter().zip(&b).filter(|((_, a), _)| a.numel() > 0).map(|((_, a), (_, b))| of(a, b)).fold(0.0, f64::max)
}

/// One process and two, whose norms see the whole batch, agree to `limit` after some steps, as far as single precision can tell; so
/// do their metrics.
fn agrees(tool: Tool, job: &str, config: &str, sets: &[&str], limit: f64) {
    let temp = tempfile::tempdir().unwrap();
    let [alone, shared] = ["alone", "shared"].map(|name| temp.path().join(name));
    let section = if job == "train" { "train" } else { "one_shot" };
    let sync = format!("{section}.sync_batch_norm=true");
    let more: Vec<&str> = [sync.as_str()].iter().chain(sets).flat_map(|set| ["--set", *set]).collect();
    tool.succeed(&args(job, config, &alone, &[&more[..], &["--device", "cpu"]].concat()));
    tool.succeed(&args(job, config, &shared, &[&more[..], &["--device", "cpu", "--procs", "2"]].concat()));
    let found = difference(&alone, &shared);
    println!("{} {job}: {found:.1e}", tool.name());
    assert!(found <= limit, "{} {config}: weights differ by {found}", tool.name());
    let metrics = |run: &Path| -> Vec<Value> {
        let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    for (a, b) in metrics(&alone).iter().zip(&metrics(&shared)) {
        for (name, value) in a.as_object().unwrap().iter().filter_map(|(name, value)| Some((name, value.as_f64()?))) {
            let other = b[name].as_f64().unwrap();
            assert!((value - other).abs() <= 10.0 * limit * value.abs().max(1.0), "{name}: {value} and {other}");
        }
    }
}

#[test]
fn two_processes_segment_as_one() {
    let sets = ["train.epochs=1", "data.num_images=8"];
    agrees(SEGMENT, "train", "tests/configs/tiny_train.toml", &sets, 5e-6);
    // Classes of the whole batch, not of its parts.
    let sets = [&sets[..], &["loss.jaccard=0.5"]].concat();
    agrees(SEGMENT, "train", "tests/configs/tiny_train.toml", &sets, 5e-6);
}

#[test]
fn two_processes_classify_as_one() {
    let sets = ["train.epochs=1", "data.num_images=64", "augment.mixup=0.4"];
    agrees(CLASSIFY, "train", "tests/configs/tiny_classify.toml", &sets, 5e-6);
}

/// Images of different sizes, objects of different numbers, detections of both.
#[test]
fn two_processes_detect_as_one() {
    let sets = ["train.epochs=1", "data.num_images=16", "eval.every=1"];
    agrees(DETECT, "train", "tests/configs/tiny_detect.toml", &sets, 1e-4);
}

/// Weights and architecture parameters. Adam makes much of the rounding of small gradients.
#[test]
fn two_processes_search_as_one() {
    let sets = ["one_shot.epochs=2", "data.num_images=4"];
    agrees(SEGMENT, "search", "tests/configs/tiny_search.toml", &sets, 1e-4);
}

/// A copy of a search whose supernet is trained, without what came after.
fn trained_supernet(of: &Path, to: &Path) {
    for name in ["checkpoints", ""] {
        fs::create_dir_all(to.join(name)).unwrap();
        let files = fs::read_dir(of.join(name)).unwrap().map(|entry| entry.unwrap().path());
        for file in files.filter(|path| path.is_file() && !path.ends_with("result.json")) {
            fs::copy(&file, to.join(name).join(file.file_name().unwrap())).unwrap();
        }
    }
}

fn lines(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Each has a part of a candidate's statistics and of the held-out images.
#[test]
fn two_processes_score_the_candidates_of_a_supernet_as_one() {
    let temp = tempfile::tempdir().unwrap();
    const RANDOM: &str =
        r#"one_shot.method={kind="random_nas_ws", num_trials=12, recalibration_batches=2, finalists=3}"#;
    let mobile = "tests/configs/tiny_mobile_seg_search.toml";
    for (number, (tool, config, set, finalists)) in [
        (SEGMENT, mobile, "one_shot.method.recalibration_batches=3", 0),
        (SEGMENT, mobile, RANDOM, 3),
        (DETECT, "tests/configs/tiny_detect_search.toml", "pretrain.train.epochs=1", 0),
    ]
    .into_iter()
    .enumerate()
    {
        let [alone, shared] = ["alone", "shared"].map(|name| temp.path().join(number.to_string()).join(name));
        let more = ["--set", "one_shot.epochs=1", "--set", set];
        tool.succeed(&args("search", config, &alone, &more));
        trained_supernet(&alone, &shared);
        tool.succeed(&args("search", config, &shared, &[&more[..], &["--procs", "2"]].concat()));
        for (name, len) in [("supernet_search/trials.jsonl", 12), ("supernet_search/finalists.jsonl", finalists)] {
            let [alone, shared] = [&alone, &shared].map(|run| lines(&run.join(name)));
            assert_eq!((alone.len(), shared.len()), (len, len), "{}: {name}", tool.name());
            for (a, b) in alone.iter().zip(&shared) {
                assert_eq!(a["arch"], b["arch"]);
                for (metric, value) in a["outcome"]["metrics"].as_object().unwrap() {
                    let [a, b] = [value, &b["outcome"]["metrics"][metric]].map(|value| value.as_f64().unwrap());
                    assert!((a - b).abs() <= 1e-3 * a.abs(), "{}: {metric} is {a} and {b}", tool.name());
                }
            }
        }
        let [mut alone, mut shared] =
            [&alone, &shared].map(|run| Tensor::read_safetensors(run.join("network.safetensors")).unwrap_or_default());
        alone.sort_by(|a, b| a.0.cmp(&b.0));
        shared.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!((alone.len(), alone.is_empty()), (shared.len(), tool.name() == DETECT.name()));
        for ((name, a), (_, b)) in alone.iter().zip(&shared) {
            let difference = (a - b).abs().max().double_value(&[]);
            assert!(difference <= 1e-5, "{name} differs by {difference}");
        }
    }
}

/// The supernet is pre-trained and trained by both.
#[test]
fn two_processes_search_a_detector_in_all_its_parts() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    let sets = ["one_shot.epochs=1", "pretrain.train.epochs=1", "pretrain.data.num_images=16", "data.num_images=30"];
    let more: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
    let more = [&more[..], &["--procs", "2", "--format", "json"]].concat();
    let text = DETECT.succeed(&args("search", "tests/configs/tiny_detect_search.toml", &out, &more));
    let result: Value = serde_json::from_str(&text).expect("one of the two speaks");
    assert_eq!(result["num_trials"], 12);
    assert!(out.join("result.json").exists() && out.join("pretrain/checkpoints/last.safetensors").exists());
}

/// The processes that a launcher has started.
fn children(of: &Child) -> Vec<i32> {
    let ids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_child = |id: &i32| {
        // Behind the name in brackets: state and parent.
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let behind = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        behind.split(' ').nth(1) == Some(of.id().to_string().as_str())
    };
    let mut children: Vec<i32> = ids.filter(is_child).collect();
    children.sort_unstable();
    children
}

/// Sends `signal` to a rank of a launcher, or to itself, once it is `due`: all end soon, which is no bug, and what they say holds `said`.
fn ends_by(signal: i32, victim: Option<usize>, said: &str, mut command: Command, due: impl Fn() -> bool) {
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while !due() {
        sleep(Duration::from_millis(5));
    }
    let victim = victim.map_or(child.id() as i32, |rank| children(&child)[rank]);
    // SAFETY: a process that this test has started.
    unsafe { libc::kill(victim, signal) };
    let killed = Instant::now();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(said) && !text.contains("panicked"), "{text}");
    assert!(killed.elapsed() < Duration::from_secs(30), "it took {:?}", killed.elapsed());
}

/// A run of two that loses one, or is asked to stop, ends soon and says so, and goes on to what it would have come to.
#[test]
fn a_run_that_loses_a_process_goes_on() {
    let temp = tempfile::tempdir().unwrap();
    let [straight, broken] = ["straight", "broken"].map(|name| temp.path().join(name));
    let of = |out| args("train", "tests/configs/tiny_train.toml", out, &["--procs", "2", "--device", "cpu"]);
    SEGMENT.succeed(&of(&straight));
    let epochs = |count: usize| {
        let lines = fs::read_to_string(broken.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
        lines >= count
    };
    for (signal, victim, said) in [
        (libc::SIGKILL, Some(1), "cannot be reached"),
        (libc::SIGKILL, Some(0), "failed"),
        (libc::SIGTERM, None, "--resume"),
    ] {
        let done = fs::read_to_string(broken.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
        ends_by(signal, victim, said, SEGMENT.command(&of(&broken)), || epochs(done + 1));
    }
    SEGMENT.succeed(&of(&broken));
    assert_same_file(&straight, &broken, "metrics.jsonl");
    assert_same_weights(&straight, &broken);
}

/// So does the search over the supernet, and no candidate fails because of it.
#[test]
fn a_search_over_a_supernet_that_loses_a_process_goes_on() {
    let temp = tempfile::tempdir().unwrap();
    let [straight, broken] = ["straight", "broken"].map(|name| temp.path().join(name));
    let sets = ["--set", "one_shot.epochs=1", "--set", "one_shot.method.num_trials=400"];
    let more = [&sets[..], &["--procs", "2", "--device", "cpu"]].concat();
    let of = |out| args("search", "tests/configs/tiny_mobile_seg_search.toml", out, &more);
    let log = |run: &Path| lines(&run.join("supernet_search/trials.jsonl"));
    SEGMENT.succeed(&of(&straight));
    for (signal, victim, said) in [
        (libc::SIGKILL, Some(1), "cannot be reached"),
        (libc::SIGTERM, Some(1), "--resume"),
        (libc::SIGKILL, Some(0), "failed"),
        (libc::SIGTERM, None, "--resume"),
    ] {
        let done = log(&broken).len();
        ends_by(signal, victim, said, SEGMENT.command(&of(&broken)), || log(&broken).len() > done);
    }
    assert!(log(&broken).len() < 400, "all was done before the signals came");
    SEGMENT.succeed(&of(&broken));
    assert_eq!(log(&straight), log(&broken));
}

/// A candidate whose part fails on one process fails alone, and all go on: an image that cannot be read for a while.
#[test]
fn a_candidate_that_fails_on_one_process_fails_alone() {
    let temp = tempfile::tempdir().unwrap();
    let [data, run] = ["data", "run"].map(|name| temp.path().join(name));
    let synth = ["data", "synth", "--out", data.to_str().unwrap(), "--images", "16", "--size", "32x64"];
    SEGMENT.succeed(&synth);
    let root = format!("data={{kind='cityscapes',root='{}'}}", data.display());
    let sets =
        [&root, "one_shot.method={kind='bignas',num_trials=400,recalibration_batches=2,strategy={kind='random'}}"]
            .map(|set| ["--set", set])
            .concat();
    let more = [&["--procs", "2", "--set", "one_shot.held_out={end_of_sequences=0.5}"], &sets[..]].concat();
    let config = "tests/configs/tiny_mobile_seg_search.toml";
    let mut command = SEGMENT.command(&args("search", config, &run, &more));
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = || lines(&run.join("supernet_search/trials.jsonl"));
    let reasons = || -> Vec<String> {
        log().iter().filter_map(|line| Some(line["outcome"]["failed"].as_str()?.to_owned())).collect()
    };
    let until = |due: &dyn Fn() -> bool| {
        let started = Instant::now();
        while !due() {
            assert!(started.elapsed() < Duration::from_secs(60), "{:?}", log());
            sleep(Duration::from_millis(10));
        }
    };
    // The last held-out image is in the second one's part.
    let image = data.join("leftImg8bit/train/synth/synth_000000_000015_leftImg8bit.png");
    let hidden = image.with_extension("hidden");
    until(&|| !log().is_empty());
    fs::rename(&image, &hidden).unwrap();
    until(&|| !reasons().is_empty());
    fs::rename(&hidden, &image).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(reasons().iter().all(|reason| reason.starts_with("rank 1: ")), "{:?}", reasons());
    assert!(log().len() == 400 && reasons().len() < 200, "{} of {} failed", reasons().len(), log().len());
}

#[test]
fn what_cannot_be_shared_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    let config = "tests/configs/tiny_train.toml";
    let odd = SEGMENT.fail(&args("train", config, &out, &["--procs", "2", "--set", "train.batch_size=3"]));
    assert!(odd.contains("batch_size = 3") && odd.contains("2 processes"), "{odd}");
    let trials = args("search", "configs/segment/camvid_mobile_seg.toml", &out, &["--procs", "2"]);
    assert!(SEGMENT.fail(&trials).contains("--workers"));
    // A command that its launcher has started twice already.
    let mut command = SEGMENT.command(&args("train", config, &out, &["--procs", "3"]));
    let output = command.envs([("RANK", "0"), ("WORLD_SIZE", "2")]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("one of 2 processes already"));
    assert!(!out.exists(), "nothing was begun");
}

/// What a command that succeeds says on stderr.
fn stderr(mut command: Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

/// Each process has a card of its own, and what is added up goes from card to card: the host sees no more of it than of one.
#[test]
fn two_processes_use_two_cards() {
    let Some(card) = SimulatedCard::find() else { return };
    let temp = tempfile::tempdir().unwrap();
    let [cards, one, alone] = ["cards", "one", "alone"].map(|name| temp.path().join(name));
    let sets = ["--set", "train.epochs=1", "--set", "data.num_images=8", "--set", "train.sync_batch_norm=true"];
    let of = [&sets[..], &["--device", "cuda", "--procs", "2"]].concat();
    let config = "tests/configs/tiny_train.toml";
    let to_host = |out: &Path, devices: &str, of: &[&str]| {
        let report = out.with_extension("jsonl");
        let mut command = card.command(SEGMENT, &args("train", config, out, of));
        command.env("FAKE_CUDA_REPORT", &report).env("FAKE_CUDA_DEVICES", devices);
        let text = stderr(command);
        let most = lines(&report).iter().map(|report| report["to_host_bytes"].as_u64().unwrap()).max();
        (text, most.unwrap())
    };
    let (text, over_cards) = to_host(&cards, "2", &of);
    assert!(text.contains("gradients of 2 processes meet by NCCL 2.27.0"), "{text}");
    let (text, over_host) = to_host(&one, "1", &of);
    assert!(text.contains("meet by the host's memory (rank 0: ") && text.contains("on one card)"), "{text}");
    let (text, by_one) = to_host(&alone, "1", &[&sets[..], &["--device", "cuda"]].concat());
    assert!(!text.contains("meet by"), "{text}");
    assert!(over_cards <= by_one && over_host > 2 * by_one, "{over_cards}, {over_host} and {by_one} bytes");
    for shared in [&cards, &one] {
        assert!(difference(&alone, shared) < 5e-6);
    }
    let meta: Value = serde_json::from_str(&fs::read_to_string(cards.join("meta.json")).unwrap()).unwrap();
    assert!(meta["device"].as_str().unwrap().starts_with("cuda:0"), "{meta}");
}

/// On cards, where a process waits for good for what another one does not send.
#[test]
fn a_run_on_cards_that_loses_a_process_goes_on() {
    let Some(card) = SimulatedCard::find() else { return };
    let temp = tempfile::tempdir().unwrap();
    let sets = ["--set", "one_shot.epochs=1", "--set", "one_shot.method.num_trials=300"];
    for (job, config, sets, log, lost) in [
        ("train", "tests/configs/tiny_train.toml", &[][..], "metrics.jsonl", "its connection is closed"),
        // What candidates are scored by goes by Gloo.
        ("search", "tests/configs/tiny_mobile_seg_search.toml", &sets[..], "supernet_search/trials.jsonl", ""),
    ] {
        let [straight, broken] = ["straight", "broken"].map(|name| temp.path().join(job).join(name));
        let of = |out: &Path| {
            let more = [sets, &["--procs", "2", "--device", "cuda", "--amp"]].concat();
            let mut command = card.command(SEGMENT, &args(job, config, out, &more));
            command.env("FAKE_CUDA_DEVICES", "2");
            command
        };
        stderr(of(&straight));
        let done = || lines(&broken.join(log)).len();
        let lost = format!("cannot be reached: {lost}");
        for (signal, victim, said) in [
            (libc::SIGKILL, Some(1), lost.as_str()),
            (libc::SIGTERM, Some(1), "--resume"),
            (libc::SIGKILL, Some(0), "failed"),
        ] {
            let before = done();
            ends_by(signal, victim, said, of(&broken), || done() > before);
        }
        stderr(of(&broken));
        for name in ["metrics.jsonl", log] {
            assert_same_file(&straight, &broken, name);
        }
        assert_same_weights(&straight, &broken);
    }
}
