//! The experiment files of the repository, and what every search by trials must serve in every task.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nas_classify::task::Classification;
use nas_core::strategy::StrategyConfig;
use nas_core::task::Task;
use nas_core::task::experiment::{
    CompareExperiment, Kind, OneShotExperiment, SearchExperiment, TrainExperiment, kind_at, load,
};
use nas_detect::task::Detection;
use nas_segment::task::Segmentation;
use nas_tests::{CLASSIFY, DETECT, SEGMENT, Tool, root};

/// Reads a file as its kind says. Architectures that searches have found are replaced: their run folders are not here.
fn read<T: Task>(path: &Path, model: &str) -> Result<()> {
    let text = fs::read_to_string(path)?;
    let found = text.contains("\"runs/") || text.contains("'runs/");
    match kind_at(path, &[])?.context("an experiment of the repository says its kind")? {
        Kind::Train if found => load::<TrainExperiment<T>>(path, &[format!("model={model}")]).map(drop),
        Kind::Train => load::<TrainExperiment<T>>(path, &[]).map(drop),
        Kind::Compare if found => {
            load::<CompareExperiment<T>>(path, &[format!("models=[{{name='x', model={model}}}]")]).map(drop)
        }
        Kind::Compare => load::<CompareExperiment<T>>(path, &[]).map(drop),
        Kind::Search => load::<SearchExperiment<T>>(path, &[]).map(drop),
        Kind::OneShot => load::<OneShotExperiment<T>>(path, &[]).map(drop),
    }
}

#[test]
fn the_committed_experiments_are_read() {
    let mut read_files = 0;
    for (task, reader, model) in [
        ("classify", read::<Classification> as fn(&Path, &str) -> Result<()>, "{preset='resnet20'}"),
        ("segment", read::<Segmentation>, "{preset='auto_deeplab_s'}"),
        ("detect", read::<Detection>, "{preset='fcos_detnas_tiny'}"),
    ] {
        for entry in fs::read_dir(root().join("configs").join(task)).unwrap() {
            let path = entry.unwrap().path();
            reader(&path, model).unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
            read_files += 1;
        }
    }
    assert!(read_files >= 36, "{read_files} experiments");
}

/// The choices of a log mean the networks of its own space: where those of another have as many options nothing else would show it.
#[test]
fn the_last_round_of_a_search_is_in_its_space() {
    let space = |name: &str| {
        let path = root().join("configs/segment").join(name);
        load::<SearchExperiment<Segmentation>>(&path, &[]).unwrap().space
    };
    assert_eq!(space("camvid_mobile_seg.toml"), space("camvid_mobile_seg_final.toml"));
}

#[test]
fn a_file_of_another_kind_is_refused_with_both_kinds() {
    let error = SEGMENT.fail(&["train", "--config", "configs/segment/camvid_compare.toml"]);
    assert!(error.contains("kind = \"compare\"; this command takes kind = \"train\""), "{error}");
}

/// The sections of a search by trials that do not depend on the task.
const TRIALS: &str = "kind = 'search'\nnum_trials = 6\n[evaluator]\nkind = 'command'\nmetrics = ['score', 'cost']\n\
     command = ['sh', '-c', 'n=$(echo {arch} | cksum | cut -c1-4); echo \"{\\\"score\\\": 0.$n, \\\"cost\\\": $n}\"']\n\
     [executor]\nkind = 'processes'\nworkers = 2\n";

fn search_file(folder: &Path, strategy: &StrategyConfig, space: &str) -> PathBuf {
    let info = strategy.info();
    let budget = if info.multi_fidelity { ", min_epochs = 1, max_epochs = 3" } else { "" };
    let second = if info.kind == "nsga2" { "[[objectives]]\nmetric = 'cost'\ngoal = 'minimize'\n" } else { "" };
    let path = folder.join(format!("{}.toml", info.kind));
    let text = format!(
        "{TRIALS}[strategy]\nkind = '{}'{}\n[[objectives]]\nmetric = 'score'\n{second}[space]\n{space}\n",
        info.kind,
        budget.replace(", ", "\n"),
    );
    fs::write(&path, text).unwrap();
    path
}

/// One experiment file serves the three tools, but for `[space]`: each strategy runs six trials with two workers and, killed and
/// resumed, ends with the log of a search that was not.
#[test]
fn every_strategy_searches_in_every_task_and_survives_kills() {
    let tools: [(Tool, &str); 3] = [
        (CLASSIFY, "kind = 'nasbench201'"),
        (SEGMENT, "kind = 'auto_deeplab'\nlayers = 3\nblocks = 1"),
        (DETECT, "kind = 'bifpn'\nlevels = { min = 3, max = 5 }"),
    ];
    let temp = tempfile::tempdir().unwrap();
    for strategy in StrategyConfig::all() {
        let kind = strategy.info().kind;
        for (i, (tool, space)) in tools.iter().enumerate() {
            let folder = temp.path().join(i.to_string());
            fs::create_dir_all(&folder).unwrap();
            let config = search_file(&folder, &strategy, space);
            let [straight, killed] = ["straight", "killed"].map(|name| folder.join(format!("{kind}_{name}")));
            let args = |out: &Path| {
                let args = ["search", "--config", config.to_str().unwrap(), "--resume", "--out", out.to_str().unwrap()];
                args.map(String::from)
            };
            let run = |out: &Path| tool.succeed(&args(out).each_ref().map(String::as_str));
            let started = std::time::Instant::now();
            run(&straight);
            let half = started.elapsed() / 2;
            tool.kill_once(&args(&killed).each_ref().map(String::as_str), half);
            run(&killed);
            let log = |run: &Path| fs::read_to_string(run.join("trials.jsonl")).unwrap();
            assert_eq!(log(&straight).lines().count(), 6, "{kind}");
            assert_eq!(log(&straight), log(&killed), "{kind}");
        }
    }
}

/// The val split chooses nothing: searches of both kinds end where there is none, and only then a training asks for it.
#[test]
fn no_search_opens_the_val_split() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name).to_str().unwrap().to_string();
    let data = path("streets");
    SEGMENT.succeed(&["data", "synth", "--out", &data, "--images", "40", "--size", "32x64", "--seed", "1"]);
    for folder in ["leftImg8bit", "gtFine"] {
        fs::remove_dir_all(Path::new(&data).join(folder).join("val")).unwrap();
    }
    let set = format!("data={{kind='cityscapes', root='{data}'}}");
    let compute = ["--device", "cpu", "--threads", "1"];
    let run = |config: &str, out: &str, more: &[&str]| {
        let args = [&["search", "--config", config, "--out", out, "--set", &set][..], &compute, more].concat();
        SEGMENT.succeed(&args);
    };
    run("tests/configs/tiny_search.toml", &path("shared"), &["--set", "one_shot.epochs=2"]);

    let trials = path("trials.toml");
    let text = "kind = 'search'\nnum_trials = 2\nobjectives = [{ metric = 'miou' }]\nstrategy = { kind = 'random' }\n\
                space = { kind = 'auto_deeplab', layers = 2, blocks = 1, filters = 2, stem = [4, 4, 4] }\n\
                evaluator = { kind = 'train' }\ntrain = { epochs = 1, batch_size = 2 }\naugment = { crop = [33, 33] }\n";
    fs::write(&trials, text).unwrap();
    run(&trials, &path("trials"), &[]);

    let training = format!("{}/train.toml", path("trials"));
    let error = SEGMENT.fail(&[&["train", "--config", &training, "--out", &path("net")][..], &compute].concat());
    assert!(error.contains("val"), "{error}");
}

/// Tests, all programs together and each program alone take the same features of the same crates: nothing is compiled twice.
#[test]
fn every_build_shares_its_crates() {
    let crates = |selection: &[&str], edges: &str| -> BTreeSet<String> {
        let mut tree = std::process::Command::new(env!("CARGO"));
        tree.args([
            "tree",
            "--offline",
            "--locked",
            "--prefix=none",
            "--no-dedupe",
            "--format={p} {f}",
            "--edges",
            edges,
        ]);
        let output = tree.args(selection).current_dir(nas_tests::root()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(|line| line.trim().to_string()).collect()
    };
    let all = crates(&["--workspace"], "normal,build");
    assert_eq!(all, crates(&["--workspace"], "normal,build,dev"));
    for program in ["nas-classify", "nas-segment", "nas-detect"] {
        let alone = crates(&["--package", program], "normal,build");
        assert!(alone.is_subset(&all), "{program}: {:?}", alone.difference(&all).collect::<Vec<_>>());
    }
}
