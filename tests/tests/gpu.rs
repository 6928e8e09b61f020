//! The GPU path on a simulated card (`tests/fake_cuda`): placement, mixed precision, several cards, resumes on another device.
//! All tests are skipped with a word where there is no C++ compiler.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nas_core::search::log as trial_log;
use nas_core::train::read_tensors;
use nas_tests::{CLASSIFY, DETECT, SEGMENT, SimulatedCard, assert_same_file, assert_same_weights, data, root};
use serde_json::Value;
use tch::Kind;

const TRAIN: &str = "tests/configs/tiny_train.toml";
const SEARCH: &str = "tests/configs/tiny_search.toml";
const SANDWICH: &str = "tests/configs/tiny_mobile_seg_search.toml";

fn args<'a>(job: &'a str, config: &'a str, out: &'a Path, device: &'a str, sets: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["--config", config, "--out", out.to_str().unwrap(), "--device", device];
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    [job].into_iter().chain(fixed).chain(["--resume", "--threads", "1", "--format", "json"]).chain(sets).collect()
}

/// What a command prints whose norms are libtorch's on the CPU too: those of the simulated card to the bit.
fn plain(mut command: Command) -> String {
    let output = command.env("NAS_PLAIN_NORM", "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs one job on the CPU and on the card, both as [`plain`]; returns their run folders in `folder`.
fn on_both(card: &SimulatedCard, folder: &Path, job: &str, config: &str, sets: &[&str]) -> [PathBuf; 2] {
    let [cpu, cuda] = ["cpu", "cuda"].map(|device| folder.join(device));
    plain(SEGMENT.command(&args(job, config, &cpu, "cpu", sets)));
    plain(card.command(SEGMENT, &args(job, config, &cuda, "cuda", sets)));
    [cpu, cuda]
}

fn json(text: &str) -> Value {
    serde_json::from_str(text.trim()).unwrap()
}

/// Losses, gradients and outputs of all three tasks, in single precision to the last digits but one.
#[test]
fn gpu_check_finds_nothing_wrong() {
    let Some(card) = SimulatedCard::find() else { return };
    for (tool, cases) in [(SEGMENT, 4), (CLASSIFY, 4), (DETECT, 3)] {
        let report = json(&card.succeed(tool, &["gpu-check", "--device", "cuda", "--format", "json"]));
        let findings = report["findings"].as_array().unwrap();
        assert_eq!(findings.len(), 3 * cases, "{report}");
        for finding in findings.iter().filter(|finding| finding["precision"] == "single precision") {
            assert!(finding["difference"].as_f64().unwrap() < 1e-6, "{finding}");
        }
        assert!(report["device"].as_str().unwrap().contains("Simulated CUDA device"), "{report}");
        assert!(report["nccl"].as_str().unwrap().starts_with("NCCL 2.27.0: "), "{report}");
    }
}

/// What `cargo xtask gpu-bundle` packs for a real card (of these programs, so built for another libtorch) and runs there.
#[test]
fn the_bundle_for_a_card_runs_on_the_simulated_one() {
    let (Some(camvid), Some(_), Some(card)) = (data("camvid"), data("cifar10"), SimulatedCard::find()) else { return };
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    };
    let programs = SEGMENT.command(&[]).get_program().to_owned();
    run(Command::new("bash")
        .arg(root().join("xtask/gpu_bundle/make_bundle.sh"))
        .args([root(), camvid.parent().unwrap(), &path("bundle")])
        .env("PROGRAMS", Path::new(&programs).parent().unwrap())
        .env("GPU_BUILD", path("build"))
        .env("XZ_OPT", "-0"));
    fs::create_dir(path("torch")).unwrap();
    std::os::unix::fs::symlink(card.libraries(), path("torch/lib")).unwrap();
    fs::write(path("torch/version.py"), "__version__ = '2.13.0'\n").unwrap();
    run(Command::new("bash")
        .arg(path("bundle/run.sh"))
        .args(["cuda", "600"])
        .env("OUT", path("out"))
        .env("GPU_WORK", path("work"))
        .env("GPU_TORCH", path("torch"))
        .env("GPU_SMALL", "1")
        .env("GPU_THREADS", "1"));
    let report = json(&fs::read_to_string(path("out/gpu.json")).unwrap());
    assert_eq!((report["rows"].as_array().unwrap().len(), &report["failures"]), (38, &serde_json::json!([])));
}

/// All numbers in single precision of a run's last checkpoint are those of another's, up to rounding.
fn assert_close_weights(a: &Path, b: &Path) {
    let [a, b] = [a, b].map(|run| read_tensors(&run.join("checkpoints/last.safetensors")).unwrap());
    assert_eq!(a.keys().collect::<BTreeSet<_>>(), b.keys().collect::<BTreeSet<_>>());
    for (name, a) in a.iter().filter(|(_, tensor)| tensor.kind() == Kind::Float) {
        assert!(a.allclose(&b[name], 1e-5, 1e-6, false), "{name}");
    }
}

/// Initial weights, samples, masks of dropout and drop path, architecture parameters: one step from them is the same. The relaxed
/// cells of a search add up in another order on a card, which they give fewer launches.
#[test]
fn one_seed_is_one_network_on_every_device() {
    let Some(card) = SimulatedCard::find() else { return };
    let temp = tempfile::tempdir().unwrap();
    let jobs = [("train", TRAIN, "train.epochs=1", 2), ("search", SEARCH, "one_shot.epochs=1", 4)];
    for (job, config, epochs, images) in jobs {
        let num_images = format!("data.num_images={images}");
        let mut sets = vec![epochs, &num_images];
        sets.extend((job == "search").then_some("one_shot.method.arch_start_epoch=0"));
        let [cpu, cuda] = on_both(&card, &temp.path().join(job), job, config, &sets);
        match job {
            "train" => {
                assert_same_weights(&cpu, &cuda);
                assert_same_file(&cpu, &cuda, "metrics.jsonl");
            }
            _ => assert_close_weights(&cpu, &cuda),
        }
    }
}

/// Supernets whose steps train several networks, by the sandwich rule and by fair paths: weights and the candidates that they rank.
#[test]
fn supernets_of_paths_are_the_same_on_every_device() {
    let Some(card) = SimulatedCard::find() else { return };
    let temp = tempfile::tempdir().unwrap();
    let fair = "one_shot.method={ kind = 'spos', fair = true, num_trials = 12, recalibration_batches = 2, \
                strategy = { kind = 'random' } }";
    for (method, set) in [("bignas", None), ("fair", Some(fair))] {
        let sets: Vec<&str> = ["one_shot.epochs=1", "data.num_images=8"].into_iter().chain(set).collect();
        let [cpu, cuda] = on_both(&card, &temp.path().join(method), "search", SANDWICH, &sets);
        assert_close_weights(&cpu, &cuda);
        let [cpu, cuda] = [cpu, cuda].map(|run| trial_log::read(&run.join("supernet_search/trials.jsonl")).unwrap());
        assert_eq!(cpu.len(), 12);
        for (a, b) in cpu.iter().zip(&cuda) {
            assert_eq!(a.trial.arch, b.trial.arch);
            let [a, b] = [a, b].map(|record| record.metric("supernet_miou").unwrap());
            assert!((a - b).abs() < 1e-3, "{method}: {a} and {b}");
        }
    }
}

/// What a teacher says comes from the device that the network learns on.
#[test]
fn a_network_learns_the_same_from_a_trained_one_on_every_device() {
    let Some(card) = SimulatedCard::find() else { return };
    let temp = tempfile::tempdir().unwrap();
    let sets = ["train.epochs=1", "data.num_images=2"];
    let taught = temp.path().join("teacher");
    plain(SEGMENT.command(&args("train", TRAIN, &taught, "cpu", &sets)));
    let teacher = format!("train.teacher={{ run = '{}', weight = 0.5 }}", taught.display());
    let sets = [&sets[..], &["seed=1", &teacher]].concat();
    let [cpu, cuda] = on_both(&card, temp.path(), "train", TRAIN, &sets);
    assert_close_weights(&cpu, &cuda);
}

/// Dilated depthwise convolutions, which the CPU computes in another way, leave maps that lie otherwise in memory.
#[test]
fn what_is_dropped_does_not_hang_on_how_a_device_lays_maps_out() {
    let Some(card) = SimulatedCard::find() else { return };
    let temp = tempfile::tempdir().unwrap();
    let model = "model={preset='deeplabv3plus_mobilenet_v2'}";
    let sets = [model, "augment.crop=[32, 32]", "data.num_images=8", "train.batch_size=8", "train.epochs=1"];
    let [cpu, cuda] = ["cpu", "cuda"].map(|device| temp.path().join(device));
    SEGMENT.succeed(&args("train", TRAIN, &cpu, "cpu", &sets));
    card.succeed(SEGMENT, &args("train", TRAIN, &cuda, "cuda", &sets));
    let loss = |run: &Path| json(&fs::read_to_string(run.join("metrics.jsonl")).unwrap())["loss"].as_f64().unwrap();
    let (cpu, cuda) = (loss(&cpu), loss(&cuda));
    assert!((cpu - cuda).abs() < 1e-5 * cpu, "{cpu} and {cuda}");
}

#[test]
fn killed_runs_on_a_card_end_with_the_same_bits() {
    let Some(card) = SimulatedCard::find() else { return };
    let temp = tempfile::tempdir().unwrap();
    for (job, config, set) in [("train", TRAIN, "train.epochs=3"), ("search", SEARCH, "one_shot.epochs=3")] {
        let [straight, killed] = ["straight", "killed"].map(|run| temp.path().join(format!("{job}_{run}")));
        let amp = |out| [args(job, config, out, "cuda", &[set]), vec!["--amp"]].concat();
        card.succeed(SEGMENT, &amp(&straight));
        card.run_with_kills(SEGMENT, &amp(&killed));
        assert_same_file(&straight, &killed, "metrics.jsonl");
        assert_same_weights(&straight, &killed);
    }
}

/// Runs `command` until the run in `out` has as many epochs behind it, then ends it by SIGTERM; returns what the checkpoint says
/// of the loss's scale.
fn scale_after(mut command: Command, out: &Path, epochs: usize) -> Value {
    let done = || fs::read_to_string(out.join("metrics.jsonl")).is_ok_and(|text| text.lines().count() >= epochs);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "{epochs} epochs were not reached");
        sleep(Duration::from_millis(5));
    }
    // SAFETY: the id of a child that has not been waited for.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let state = json(&fs::read_to_string(out.join("checkpoints/state.json")).unwrap());
    let job = &state["job"];
    job.get("method").unwrap_or(job)["scaler"]["scale"].clone()
}

/// A run has a scaler exactly where it is in mixed precision, wherever it began.
#[test]
fn a_run_goes_from_the_cpu_to_a_card_and_back_with_mixed_precision_on_the_way() {
    let Some(card) = SimulatedCard::find() else { return };
    let temp = tempfile::tempdir().unwrap();
    for (job, config, set) in [("train", TRAIN, "train.epochs=200"), ("search", SEARCH, "one_shot.epochs=200")] {
        let out = temp.path().join(job);
        let (cpu, cuda) = (args(job, config, &out, "cpu", &[set]), args(job, config, &out, "cuda", &[set]));
        let amp = [&cuda[..], &["--amp"]].concat();
        assert_eq!(scale_after(SEGMENT.command(&cpu), &out, 1), Value::Null);
        assert!(scale_after(card.command(SEGMENT, &amp), &out, 2).as_f64().is_some_and(|scale| scale >= 1.0));
        assert_eq!(scale_after(card.command(SEGMENT, &cuda), &out, 3), Value::Null);
        assert_eq!(scale_after(SEGMENT.command(&cpu), &out, 4), Value::Null);
    }
}

/// Whether numbers differ by rounding alone, and nothing else at all.
fn is_close(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            let [a, b] = [a, b].map(|number| number.as_f64().unwrap());
            (a - b).abs() <= 1e-5 * a.abs().max(1.0)
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_close(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| is_close(a, b)))
        }
        _ => a == b,
    }
}

/// All that takes `--device` beside trainings and searches, of a network trained on the card.
#[test]
fn every_command_says_on_a_card_what_it_says_on_the_cpu() {
    let Some(card) = SimulatedCard::find() else { return };
    let temp = tempfile::tempdir().unwrap();
    const DEVICES: [&str; 3] = ["cpu", "cuda", "cuda --amp"];
    let few = "data.num_images=64";
    let pictures = "data={kind='synth', num_images=64, num_val=4, side=16}";
    for (tool, config, search, few) in [
        (SEGMENT, TRAIN, SEARCH, few),
        (CLASSIFY, "tests/configs/tiny_classify.toml", "configs/classify/cifar10_gdas_16px.toml", pictures),
        (DETECT, "tests/configs/tiny_detect.toml", "tests/configs/tiny_detect_search.toml", few),
    ] {
        let path = |name: &str| temp.path().join(tool.name()).join(name).to_str().unwrap().to_string();
        let sets = ["train.epochs=2", "data.num_images=32", "data.num_val=4", "eval.every=1"];
        let run = path("run");
        plain(card.command(tool, &args("train", config, Path::new(&run), "cuda", &sets)));
        let amp = path("amp");
        plain(card.command(tool, &[&args("train", config, Path::new(&amp), "cuda", &sets)[..], &["--amp"]].concat()));

        let on = |device: &str, args: &[&str]| {
            let (device, amp) = device.split_once(' ').map_or((device, None), |(device, amp)| (device, Some(amp)));
            let args = [args, &["--device", device, "--threads", "1", "--format", "json"], amp.as_slice()].concat();
            json(&plain(if device == "cpu" { tool.command(&args) } else { card.command(tool, &args) }))
        };
        let [cpu, cuda, amp] = DEVICES.map(|device| on(device, &["eval", "--run", &run, "--weights", "last"]));
        assert!(is_close(&cpu, &cuda), "{cpu} and {cuda}");
        assert_eq!(cpu["images"], amp["images"]);

        let [cpu, cuda, amp] = DEVICES.map(|device| {
            let out = path(&format!("predicted on {device}.csv"));
            on(device, &["predict", "--run", &run, "--split", "val", "--out", &out]);
            contents(Path::new(&out))
        });
        assert!(cpu.len() == amp.len() && cpu.len() == cuda.len());
        for ((name, cpu), (_, cuda)) in cpu.iter().zip(&cuda) {
            let same = match name.extension() {
                Some(json) if json == "json" => {
                    let [cpu, cuda] = [cpu, cuda].map(|bytes| serde_json::from_slice(bytes).unwrap());
                    is_close(&cpu, &cuda)
                }
                _ => cpu == cuda,
            };
            assert!(same, "{}: {} differs", tool.name(), name.display());
        }

        for device in &DEVICES[1..] {
            let found =
                on(device, &["latency", &run, "--rounds", "1", "--runs", "1", "--pause", "0", "--warm-up", "0"]);
            assert!(found["device"].as_str().unwrap().contains("Simulated") && found["latency_millis"].is_number());
            let (table, least) =
                (path("layers.csv"), ["--sample", "4", "--layers", "4", "--networks", "4", "--runs", "1"]);
            let of = ["latency-table", "--config", search, "--set", few, "--out", &table];
            let found = on(device, &[&of[..], &least].concat());
            assert!(found["place"].as_str().unwrap().contains("Simulated") && found["measured"] == 4, "{found}");
            let size = ["--steps", "1", "--layers", "3", "--blocks", "1", "--filters", "2", "--batch", "1"];
            match tool.name() {
                "nas-segment" => _ = on(device, &[&["bench-step"][..], &size].concat()),
                "nas-classify" => _ = on(device, &["bench-step", "--steps", "1", "--layers", "3", "--channels", "4"]),
                _ => {}
            }
        }

        let [cpu, cuda] = ["cpu", "cuda"].map(|device| {
            let out = path(&format!("page on {device}.html"));
            on(device, &["report", &run, "--html", &out, "--images", "1"]);
            fs::read_to_string(out).unwrap()
        });
        assert!(cpu.contains("data:image/") && cpu == cuda, "{}: pages differ", tool.name());

        let comparison = path("compare.toml");
        let text = fs::read_to_string(root().join(config)).unwrap();
        let text = text.replace("kind = \"train\"", "kind = \"compare\"").replace("seed = 3", "seeds = [3]");
        let text = text.replace("[model]", "[[models]]\nname = \"one\"\n[models.model]");
        fs::write(&comparison, text.replace("[model.", "[models.model.")).unwrap();
        let [cpu, cuda, _] = DEVICES.map(|device| {
            let out = path(&format!("compared on {device}"));
            let sets: Vec<&str> = sets.into_iter().flat_map(|set| ["--set", set]).collect();
            on(device, &[&["compare", "--config", &comparison, "--out", &out], &sets[..]].concat())
        });
        for metric in cpu["metrics"].as_array().unwrap() {
            let [cpu, cuda] = [&cpu, &cuda].map(|of| &of["rows"][0][metric[0].as_str().unwrap()]);
            assert!(cpu[0].is_number() && is_close(cpu, cuda), "{metric}: {cpu} and {cuda}");
        }

        for (job, config) in [("train", config), ("search", search)] {
            let [cuda, amp] = ["cuda", "cuda --amp"].map(|device| {
                let found = on(device, &[job, "--config", config, "--find-batch", "--set", few]);
                assert!(found["device"].as_str().unwrap().contains("Simulated"), "{found}");
                ["batch_size", "memory_mib"].map(|key| found[key].as_u64().unwrap())
            });
            assert!(cuda[0] == amp[0] && cuda[1] > amp[1], "{} {job}: {cuda:?} and {amp:?}", tool.name());
        }
    }
}

/// Files below a path with their contents, by name.
fn contents(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![path.to_path_buf()];
    while let Some(next) = folders.pop() {
        match fs::read_dir(&next) {
            Ok(entries) => folders.extend(entries.map(|entry| entry.unwrap().path())),
            Err(_) => found.push((next.strip_prefix(path).unwrap().to_path_buf(), fs::read(&next).unwrap())),
        }
    }
    found.sort();
    found
}

/// What every process did on the cards.
fn reports(command: &mut Command, folder: &Path, cards: &str) -> Vec<Value> {
    let path = folder.join("reports.jsonl");
    let _ = fs::remove_file(&path);
    command.env("FAKE_CUDA_REPORT", &path).env("FAKE_CUDA_DEVICES", cards);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read_to_string(&path).unwrap_or_default().lines().map(json).collect()
}

/// What `bench-step` prints of a step is what one more step adds to all that the process did.
#[test]
fn search_steps_are_counted_on_the_simulated_card() {
    let Some(card) = SimulatedCard::find() else { return };
    let temp = tempfile::tempdir().unwrap();
    let args = |steps| {
        let size = ["--layers", "3", "--channels", "4", "--batch", "4", "--threads", "1"];
        [&["bench-step", "--device", "cuda", "--format", "json", "--steps", steps][..], &size].concat()
    };
    let step = &json(&card.succeed(CLASSIFY, &args("2")))["card_per_step"];
    let [one, three] = ["1", "3"].map(|steps| reports(&mut card.command(CLASSIFY, &args(steps)), temp.path(), "1"));
    for count in ["launches", "syncs", "to_device", "to_host"] {
        let [one, three] = [&one, &three].map(|reports| reports[0][count].as_i64().unwrap());
        assert_eq!(step[count], (three - one) / 2, "{count}");
    }
    assert!(step["launches"].as_i64().unwrap() > 100, "{step}");
}

fn search_of_classify(folder: &Path, evaluator: &str) -> String {
    let path = folder.join("search.toml");
    let text = format!(
        "kind = 'search'\nnum_trials = 4\n[space]\nkind = 'nasbench201'\nchannels = 4\ncells = 1\n[strategy]\nkind = 'random'\n{evaluator}"
    );
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_string()
}

const TRAINED: &str = "[[objectives]]\nmetric = 'top1'\n[budget]\nepochs = 1\n[evaluator]\nkind = 'train'\nheld_out = 0.25\n\
                       [train]\nbatch_size = 20\noptimizer = { kind = 'sgd', lr = 0.05 }\n\
                       [data]\nkind = 'synth'\nnum_images = 80\nnum_val = 10\nside = 16\n[augment]\nsize = [16, 16]\n";

#[test]
fn trials_in_processes_of_their_own_are_spread_over_the_cards() {
    let Some(card) = SimulatedCard::find() else { return };
    let temp = tempfile::tempdir().unwrap();
    let config = search_of_classify(temp.path(), TRAINED);
    let out = temp.path().join("run");
    let all = [args("search", &config, &out, "cuda", &[]), vec!["--workers", "2", "--amp"]].concat();
    let reports = reports(&mut card.command(CLASSIFY, &all), temp.path(), "2");
    // Whose allocator was asked: the search itself computes nothing, each trial computes on one card.
    let cards: Vec<u64> = reports.iter().map(|report| report["cards"].as_u64().unwrap()).collect();
    let used = |card: u64| cards.iter().filter(|cards| **cards & card != 0).count();
    assert!(cards.contains(&0b01) && used(0b10) >= 1, "{cards:?}");
    let halves = |report: &&Value| report["by_op"].as_object().unwrap().contains_key("aten::_amp_update_scale_");
    assert_eq!(reports.iter().filter(halves).count(), 4, "{reports:?}");
}

/// Proxies are computed on the CPU; the device is chosen before libtorch is asked for anything.
#[test]
fn a_search_by_zero_cost_proxies_finds_the_card() {
    let Some(card) = SimulatedCard::find() else { return };
    let temp = tempfile::tempdir().unwrap();
    let evaluator = "[[objectives]]\nmetric = 'naswot'\n[evaluator]\nkind = 'zero_cost'\nproxies = ['naswot']\n\
                     batch_size = 4\nimage = 8\n";
    let config = search_of_classify(temp.path(), evaluator);
    let [cpu, cuda] = ["cpu", "cuda"].map(|device| temp.path().join(device));
    CLASSIFY.succeed(&args("search", &config, &cpu, "cpu", &[]));
    card.succeed(CLASSIFY, &args("search", &config, &cuda, "cuda", &[]));
    assert_same_file(&cpu, &cuda, "trials.jsonl");
}

#[test]
fn a_card_that_is_not_there_is_named() {
    let Some(card) = SimulatedCard::find() else { return };
    let temp = tempfile::tempdir().unwrap();
    let mut command = card.command(SEGMENT, &args("train", TRAIN, &temp.path().join("never"), "cuda:2", &[]));
    let output = command.env("FAKE_CUDA_DEVICES", "2").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("there are 2 CUDA devices, counted from 0"), "{stderr}");
}
