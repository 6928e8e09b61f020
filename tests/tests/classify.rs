//! `nas-classify train` and its companions: killed and resumed runs, early ends, comparisons, searches whose trials train.

use std::fs;
use std::path::Path;

use nas_core::search::log as trial_log;
use nas_core::space::trial::Record;
use nas_tests::{CLASSIFY, assert_same_file, assert_same_weights};

const TRAIN: &str = "tests/configs/tiny_classify.toml";

fn args<'a>(job: &'a str, config: &'a str, out: &'a Path) -> Vec<&'a str> {
    let out = out.to_str().unwrap();
    vec![job, "--config", config, "--out", out, "--resume", "--device", "cpu", "--threads", "1", "--format", "json"]
}

#[test]
fn a_killed_training_ends_with_the_same_bits() {
    let temp = tempfile::tempdir().unwrap();
    let (straight, killed) = (temp.path().join("straight"), temp.path().join("killed"));
    CLASSIFY.succeed(&args("train", TRAIN, &straight));
    CLASSIFY.run_with_kills(&args("train", TRAIN, &killed));
    for file in ["metrics.jsonl", "checkpoints/best.safetensors", "confusion.csv"] {
        assert_same_file(&straight, &killed, file);
    }
    assert!(assert_same_weights(&straight, &killed).iter().any(|name| name.starts_with("raw/")));
}

#[test]
fn a_run_that_cannot_beat_the_best_ends_early_and_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    let stop = "train.early_stop={best=1.0,rule={every=2,min_epochs=4}}";
    let all = [args("train", TRAIN, &out), vec!["--set", stop, "--set", "train.optimizer.lr=1e-6"]].concat();
    let result: serde_json::Value = serde_json::from_str(&CLASSIFY.succeed(&all)).unwrap();
    let epochs = result["stopped"]["epochs"].as_u64().unwrap();
    assert!((4..12).contains(&epochs) && result["stopped"]["probability"].as_f64().unwrap() < 0.05, "{result}");
    assert_eq!(fs::read_to_string(out.join("metrics.jsonl")).unwrap().lines().count() as u64, epochs);
}

#[test]
fn what_was_trained_is_scored_predicted_exported_and_reported() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    let trained = CLASSIFY.succeed(&[args("train", TRAIN, &out), vec!["--set", "train.epochs=2"]].concat());
    let trained: serde_json::Value = serde_json::from_str(&trained).unwrap();
    let run = out.to_str().unwrap();
    let compute = ["--device", "cpu", "--threads", "1", "--format", "json"];
    let of_run = |command: &str, more: &[&str]| {
        let text = CLASSIFY.succeed(&[&[command, "--run", run], &compute[..], more].concat());
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    assert_eq!(of_run("eval", &["--weights", "last"])["top1"], trained["scores"]["top1"]);
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let of_epoch = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["top1"].as_f64();
    assert_eq!(of_run("eval", &[])["top1"].as_f64(), metrics.lines().filter_map(of_epoch).reduce(f64::max));
    let csv = temp.path().join("predictions.csv");
    let predicted = of_run("predict", &["--split", "val", "--top", "3", "--out", csv.to_str().unwrap()]);
    assert_eq!((predicted["images"].as_u64(), fs::read_to_string(&csv).unwrap().lines().count()), (Some(50), 51));
    let script = temp.path().join("net.pt");
    CLASSIFY.succeed(&["export", "--run", run, "--out", script.to_str().unwrap()]);
    let module = tch::CModule::load(&script).unwrap();
    for batch in [1, 3] {
        let logits = module.forward_ts(&[tch::Tensor::zeros([batch, 3, 16, 16], tch::kind::FLOAT_CPU)]).unwrap();
        assert_eq!(logits.size(), [batch, 10]);
    }
    let report = CLASSIFY.succeed(&["report", run, "--format", "json"]);
    assert!(report.contains("\"done\":true") && out.join("curves.svg").exists() && out.join("confusion.svg").exists());
}

/// Data that are missing, more batches for a candidate's statistics than there are, a bound that nothing meets: known before the
/// first step.
#[test]
fn what_cannot_work_is_refused_at_once_and_leaves_no_folder() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    let missing = ["--set", "data={kind='cifar10',root='nowhere'}"];
    let stderr = CLASSIFY.fail(&[&args("train", TRAIN, &out)[..], &missing].concat());
    assert!(stderr.contains("nowhere") && !out.exists(), "{stderr}");

    let config = temp.path().join("spos.toml");
    let text = "kind = 'one_shot'\n[space]\nkind = 'nasbench201'\nchannels = 4\ncells = 1\n[one_shot]\nepochs = 9999\nbatch_size = 20\n\
                [one_shot.method]\nkind = 'spos'\n[data]\nkind = 'synth'\nnum_images = 400\nnum_val = 20\n";
    fs::write(&config, text).unwrap();
    let stderr = CLASSIFY.fail(&args("search", config.to_str().unwrap(), &out));
    assert!(stderr.contains("one_shot.method.recalibration_batches = 200; expected at most 10"), "{stderr}");
    let bound = ["--set", "constraints=[{metric='macs',upper=1}]", "--set", "one_shot.method.recalibration_batches=2"];
    let stderr = CLASSIFY.fail(&[&args("search", config.to_str().unwrap(), &out)[..], &bound].concat());
    assert!(stderr.contains("none of 10000 random architectures"), "{stderr}");
    assert!(!out.exists());
}

#[test]
fn a_comparison_trains_every_model_on_every_seed_and_can_be_killed() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("compare.toml");
    let recipe = fs::read_to_string(nas_tests::root().join(TRAIN)).unwrap();
    let recipe = &recipe[recipe.find("[train]").unwrap()..];
    let model = |name: &str, arch: &str| {
        format!(
            "[[models]]\nname = '{name}'\nmodel = {{ kind = 'nasbench201', arch = '{arch}', channels = 4, cells = 1 }}\n"
        )
    };
    let search = temp.path().join("search");
    let config = search_config(temp.path(), "kind = 'random'");
    CLASSIFY.succeed(&[&args("search", &config, &search)[..], &["--set", "num_trials=2", "--set", "seed=5"]].concat());
    let found = format!("[[models]]\nname = 'found'\nmodel = {{ preset = '{}' }}\n", search.display());
    let models = [model("conv", "3-0-3-1-0-1"), model("pool", "4-4-4-4-4-4"), found].concat();
    fs::write(&path, format!("kind = 'compare'\nseeds = [0, 1]\n{models}{recipe}")).unwrap();
    let out = temp.path().join("run");
    let more = ["--workers", "1", "--set", "train.epochs=1"];
    let all = [args("compare", path.to_str().unwrap(), &out), more.to_vec()].concat();
    CLASSIFY.run_with_kills(&all);
    let table: serde_json::Value = serde_json::from_str(&CLASSIFY.succeed(&all)).unwrap();
    let rows = table["rows"].as_array().unwrap();
    assert_eq!((rows.len(), rows[0]["top1"].as_array().unwrap().len()), (3, 2));
    let page = fs::read_to_string(out.join("table.md")).unwrap();
    assert!(page.contains("| conv") && page.contains("found: search of seed 5, 2 trials, "), "{page}");
    assert_eq!(table["searches"].as_array().unwrap().len(), 1);
}

/// A search whose trials train for an epoch or more.
fn search_config(folder: &Path, strategy: &str) -> String {
    let text = format!(
        "kind = 'search'\nnum_trials = 8\n[space]\nkind = 'nasbench201'\nchannels = 4\ncells = 1\n[strategy]\n{strategy}\n[[objectives]]\nmetric = 'top1'\n\
         [budget]\nepochs = 1\n[evaluator]\nkind = 'train'\n\
         held_out = 0.25\n[train]\nbatch_size = 20\noptimizer = {{ kind = 'sgd', lr = 0.05 }}\n[data]\n\
         kind = 'synth'\nnum_images = 400\nnum_val = 10\nside = 16\n\
         [augment]\nsize = [16, 16]\n"
    );
    let path = folder.join("search.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_string()
}

#[test]
fn a_killed_search_whose_trials_train_writes_the_same_log() {
    let temp = tempfile::tempdir().unwrap();
    let config = search_config(temp.path(), "kind = 'random'");
    let (straight, killed) = (temp.path().join("straight"), temp.path().join("killed"));
    CLASSIFY.succeed(&args("search", &config, &straight));
    CLASSIFY.run_with_kills(&args("search", &config, &killed));
    let log = |run: &Path| fs::read_to_string(run.join("trials.jsonl")).unwrap();
    assert_eq!(log(&straight).lines().count(), 8);
    assert_eq!(log(&straight), log(&killed));
}

#[test]
fn a_promoted_trial_goes_on_with_its_parents_training() {
    let temp = tempfile::tempdir().unwrap();
    let config = search_config(temp.path(), "kind = 'asha'\nmin_epochs = 1\nmax_epochs = 2\neta = 2.0");
    let out = temp.path().join("run");
    CLASSIFY.succeed(&args("search", &config, &out));
    let records = trial_log::read(&out.join("trials.jsonl")).unwrap();
    let metrics = |id: u64| fs::read_to_string(out.join(format!("trials/{id:05}/train/metrics.jsonl"))).unwrap();
    let promoted: Vec<&Record> = records.iter().filter(|record| record.trial.parent.is_some()).collect();
    assert!(!promoted.is_empty(), "{records:?}");
    for record in promoted {
        let (of_parent, own) = (metrics(record.trial.parent.unwrap()), metrics(record.trial.id));
        assert!(own.starts_with(&of_parent), "{own}\n{of_parent}");
        assert_eq!(own.lines().count(), 2);
    }
}

/// Methods that mix, that draw paths, that search the trained supernet, and that build the supernet anew.
#[test]
fn killed_searches_on_shared_weights_end_with_the_same_bits() {
    let temp = tempfile::tempdir().unwrap();
    let nasbench201 = "kind = 'nasbench201'\nchannels = 4\ncells = 1";
    let methods = [
        (
            "gdas",
            nasbench201,
            "kind = 'gdas'\n[honesty]\ntruth = 'naswot'\nsamples = 4\ntop = 2\ncontrols = ['params']\n\
             recalibration_batches = 2\n[honesty.evaluator]\nkind = 'zero_cost'\nproxies = ['naswot']\nbatch_size = 4\n\
             image = 8",
        ),
        ("mdenas", nasbench201, "kind = 'mdenas'"),
        (
            "spos",
            nasbench201,
            "kind = 'spos'\nnum_trials = 12\nrecalibration_batches = 2\nstrategy = { kind = 'random' }",
        ),
        // Killed in each of its stages: what is resumed has another depth than the space.
        (
            "p_darts",
            "kind = 'cells'\nlayers = 3\nchannels = 2",
            "kind = 'p_darts'\nlayers = [3, 4, 5]\nwarmup = 0.2\nskip_dropout = [0.1, 0.4, 0.7]",
        ),
    ];
    for (name, space, method) in methods {
        let config = temp.path().join(format!("{name}.toml"));
        let text = format!(
            "kind = 'one_shot'\nseed = 1\n[space]\n{space}\n[one_shot]\nepochs = 5\nbatch_size = 20\n\
             eval_every = 2\n[one_shot.method]\n{method}\n[data]\nkind = 'synth'\nnum_images = 400\nnum_val = 20\n\
             side = 16\n[augment]\nsize = [16, 16]\n"
        );
        fs::write(&config, text).unwrap();
        let config = config.to_str().unwrap();
        let [straight, killed] = ["straight", "killed"].map(|run| temp.path().join(format!("{name}_{run}")));
        CLASSIFY.succeed(&args("search", config, &straight));
        CLASSIFY.run_with_kills(&args("search", config, &killed));
        let all = [
            "metrics.jsonl",
            "checkpoints/best.safetensors",
            "arch_parameters.safetensors",
            "train.toml",
            "architecture.svg",
        ];
        let files = all
            .iter()
            .filter(|file| straight.join(file).exists())
            .chain(&["supernet_search/trials.jsonl"][..usize::from(name == "spos")])
            .chain(&["honesty/trials.jsonl"][..usize::from(name == "gdas")]);
        for file in files {
            assert_same_file(&straight, &killed, file);
        }
    }
}

/// OpenMP reads its environment before `main`: the program starts itself anew, under the same id.
#[cfg(target_os = "linux")]
#[test]
fn threads_that_wait_sleep_soon_unless_the_environment_decides() {
    use std::process::Stdio;
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    let run = |variables: &[(&str, &str)]| -> String {
        let mut command = CLASSIFY.command(&["bench-step", "--threads", "2", "--device", "cpu"]);
        command.env_remove("OMP_WAIT_POLICY").env_remove("GOMP_SPINCOUNT").envs(variables.iter().copied());
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        // Long enough for a start anew; the program itself runs for many seconds.
        let deadline = Instant::now() + Duration::from_secs(3);
        let environment = || fs::read_to_string(format!("/proc/{}/environ", child.id())).unwrap();
        while !environment().contains("GOMP_SPINCOUNT=5000") && Instant::now() < deadline {
            sleep(Duration::from_millis(20));
        }
        let found = environment();
        child.kill().and_then(|()| child.wait()).unwrap();
        found
    };
    let found = run(&[]);
    assert!(found.contains("GOMP_SPINCOUNT=5000") && found.contains("OMP_WAIT_POLICY=passive"), "{found}");
    for decided in [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "7")] {
        let found = run(&[decided]);
        assert!(!found.contains("GOMP_SPINCOUNT=5000") && found.contains(&format!("{}={}", decided.0, decided.1)));
    }
}
