//! Searches by trials: the log after kills, trials that go wrong, strategies on NAS-Bench-201.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nas_core::search::log as trial_log;
use nas_core::space::trial::{Outcome, Record};
use nas_core::strategy::StrategyConfig;
use nas_tests::{CLASSIFY, DETECT, SEGMENT, assert_same_file, data, root};

/// A search whose trials are a shell script.
fn config(folder: &Path, num_trials: u64, script: &str) -> String {
    let path = folder.join("search.toml");
    let text = format!(
        "kind = 'search'\nnum_trials = {num_trials}\n[space]\nkind = 'nasbench201'\n[strategy]\nkind = 'regularized_evolution'\n\
         population_size = 5\nsample_size = 3\n[[objectives]]\nmetric = 'valid'\n[evaluator]\nkind = 'command'\n\
         metrics = ['valid']\ncommand = ['sh', '-c', '''{script}''']\n"
    );
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_string()
}

/// A value that depends on the architecture, after a while.
const SLOW: &str = "sleep 0.05; echo \"{\\\"valid\\\": 0.$(echo {arch} | tr -d -)}\"";

fn args<'a>(config: &'a str, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["search", "--config", config, "--out", out.to_str().unwrap(), "--resume", "--threads", "1"];
    [&fixed[..], more].concat()
}

/// A folder on a disk of its own.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// None where this process must not mount.
    fn of_kibibytes(size: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}k"), "tmpfs"]).arg(dir.path()).stderr(Stdio::null());
        let mounted = mount.status().is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("skipped: no right to mount a disk");
        }
        mounted.then(|| Self(dir))
    }

    fn grow(&self, size: u32) {
        let option = format!("remount,size={size}k");
        assert!(Command::new("mount").args(["-o", &option]).arg(self.0.path()).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What cannot be unmounted stays until the next start of the machine.
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_ends_a_search_with_a_message_and_more_room_lets_it_go_on() {
    let Some(table) = data("nasbench201/nasbench201.csv.gz") else { return };
    let Some(disk) = SmallDisk::of_kibibytes(100) else { return };
    let temp = tempfile::tempdir().unwrap();
    let table = format!("evaluator.path={}", table.display());
    let search = |out: &Path| {
        let config = "configs/classify/nasbench201_regularized_evolution.toml";
        let args = args(config, out, &["--set", &table, "--set", "num_trials=1000"]);
        args.into_iter().map(String::from).collect::<Vec<_>>()
    };
    let (straight, full) = (search(&temp.path().join("run")), search(&disk.0.path().join("run")));
    let [straight, full] = [&straight, &full].map(|args| args.iter().map(String::as_str).collect::<Vec<_>>());
    let stderr = CLASSIFY.fail(&full);
    assert!(stderr.contains("trials.jsonl: cannot write: No space left"), "{stderr}");
    disk.grow(10_000);
    CLASSIFY.succeed(&full);
    CLASSIFY.succeed(&straight);
    assert_same_file(&temp.path().join("run"), &disk.0.path().join("run"), "trials.jsonl");
}

#[test]
fn a_killed_search_writes_the_same_log() {
    let temp = tempfile::tempdir().unwrap();
    let config = config(temp.path(), 40, SLOW);
    let (straight, killed) = (temp.path().join("straight"), temp.path().join("killed"));
    CLASSIFY.succeed(&args(&config, &straight, &[]));
    CLASSIFY.run_with_kills(&args(&config, &killed, &[]));
    let log = |run: &Path| fs::read_to_string(run.join("trials.jsonl")).unwrap();
    assert_eq!(log(&straight).lines().count(), 40);
    assert_eq!(log(&straight), log(&killed));
    assert_eq!(
        fs::read_to_string(straight.join("trials.csv")).unwrap(),
        fs::read_to_string(killed.join("trials.csv")).unwrap()
    );
}

/// Whoever runs the trials of a search, the strategy proposes the same.
#[test]
fn a_search_that_is_asked_and_told_writes_the_log_of_one_that_runs_its_trials() {
    let temp = tempfile::tempdir().unwrap();
    let script = "echo \"{\\\"valid\\\": 0.$(echo {arch} | tr -d -)}\"";
    let own = config(temp.path(), 12, script);
    let straight = temp.path().join("straight");
    CLASSIFY.succeed(&args(&own, &straight, &[]));

    let by_hand = temp.path().join("by_hand.toml");
    let text = fs::read_to_string(&own).unwrap();
    let text = text
        .replace("'command'", "'manual'")
        .lines()
        .filter(|line| !line.starts_with("command"))
        .collect::<Vec<_>>()
        .join("\n");
    fs::write(&by_hand, text).unwrap();
    let (by_hand, run) = (by_hand.to_str().unwrap(), temp.path().join("told"));
    let run_name = run.to_str().unwrap();
    let none = CLASSIFY.fail(&["ask", "--run", run_name]);
    assert!(none.contains("no run yet; begin it by --config") && !run.exists(), "{none}");
    let mut config = vec!["--config", by_hand];
    for id in 0..12 {
        let asked = CLASSIFY.succeed(&[&["ask", "--run", run_name, "--format", "json"], &config[..]].concat());
        let asked: serde_json::Value = serde_json::from_str(&asked).unwrap();
        let trial = &asked["asked"][0];
        assert_eq!((trial["id"].as_u64(), asked["ended"].as_u64()), (Some(id), Some(id)), "{asked}");
        let value = format!("valid=0.{}", trial["architecture"].as_str().unwrap().replace('-', ""));
        CLASSIFY.succeed(&["tell", "--run", run_name, &id.to_string(), &value]);
        // From the second on the folder says what is searched.
        config.clear();
    }
    assert_same_file(&straight, &run, "trials.jsonl");
    let full = CLASSIFY.succeed(&["ask", "--run", run_name]);
    assert!(full.contains("12 of 12 trials have ended") && full.contains("search --config"), "{full}");
    for (tell, expected) in [
        (&["3", "valid=0.1"][..], "trial 3 has been told already"),
        (&["12", "valid=0.1"], "trial 12 was not asked for"),
        (&["x"], "invalid value 'x'"),
        (&["1", "valid"], "expected METRIC=VALUE"),
    ] {
        let error = CLASSIFY.fail(&[&["tell", "--run", run_name], tell].concat());
        assert!(error.contains(expected), "{tell:?}: {error}");
    }
    let watched = CLASSIFY.succeed(&["watch", run_name]);
    assert!(watched.contains("12 of 12 trials") && watched.contains("best: trial "), "{watched}");
    CLASSIFY.succeed(&args(by_hand, &run, &[]));
    assert!(CLASSIFY.succeed(&["watch", run_name, "--once"]).contains(", done"));
    assert_same_file(&straight, &run, "trials.csv");
    assert!(run.join("result.json").exists());
}

/// Several at a time, out of order, one lost, one run by the command `trial`.
#[test]
fn trials_can_be_asked_for_ahead_and_told_in_any_order() {
    let temp = tempfile::tempdir().unwrap();
    let own = config(temp.path(), 6, "echo '{\"valid\": 0.5}'");
    let run = temp.path().join("run");
    let run = run.to_str().unwrap();
    let ask = |count: &str| CLASSIFY.succeed(&["ask", "--config", &own, "--run", run, "--count", count]);
    let tell = |rest: &[&str]| CLASSIFY.succeed(&[&["tell", "--run", run], rest].concat());
    assert!(ask("4").contains("0 of 6 trials have ended, running: 0, 1, 2, 3"));
    tell(&["3", "valid=0.25"]);
    let error = CLASSIFY.fail(&["tell", "--run", run, "1", "accuracy=0.25"]);
    assert!(error.contains("trial 1: accuracy given; expected valid too"), "{error}");
    tell(&["1", "--failed", "the node was lost"]);
    let error = CLASSIFY.fail(&["tell", "--run", run, "2"]);
    assert!(error.contains("expected METRIC=VALUE, --failed REASON, or "), "{error}");
    CLASSIFY.succeed(&["trial", &format!("{run}/trials/00002"), "--threads", "1"]);
    assert!(tell(&["2"]).contains("3 of 6 trials have ended, running: 0"));
    // What is still open runs first, then the rest.
    CLASSIFY.succeed(&args(&own, Path::new(run), &[]));
    let ended: Vec<u64> = records(Path::new(run)).iter().map(|record| record.trial.id).collect();
    assert_eq!(ended, [3, 1, 2, 0, 4, 5]);
    let lost = records(Path::new(run)).remove(1).outcome;
    assert_eq!(lost, Outcome::Failed("the node was lost".into()));
}

#[test]
fn a_launcher_starts_trials_and_the_log_is_that_of_processes() {
    let temp = tempfile::tempdir().unwrap();
    let config = config(temp.path(), 12, SLOW);
    let [own, launched] = ["own", "launched"].map(|name| temp.path().join(name));
    CLASSIFY.succeed(&args(&config, &own, &["--workers", "2"]));
    let launcher = temp.path().join("launch.sh");
    fs::write(&launcher, format!("echo $1 $2 >> {}/launches\nshift 2\nexec \"$@\"\n", temp.path().display())).unwrap();
    let command = format!(
        "executor={{kind='command', workers=2, command=['sh', '{}', '{{trial}}', '{{device}}', '{{program}}', 'trial', '{{out}}', '--threads', '1']}}",
        launcher.display()
    );
    CLASSIFY.run_with_kills(&args(&config, &launched, &["--set", &command]));
    assert_same_file(&own, &launched, "trials.jsonl");
    let launches = fs::read_to_string(temp.path().join("launches")).unwrap();
    let ids: BTreeSet<u64> = launches.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    assert!(ids.len() == 12 && launches.lines().all(|line| line.ends_with(" cpu")), "{launches}");
    for (command, expected) in [
        ("['srun', '{program}', 'trial']", "nothing says which trial to run"),
        ("['srun', '{progam}', 'trial', '{out}']", "executor.command: {progam} is unknown; did you mean {program}?"),
        ("[]", "executor.command is empty"),
    ] {
        let set = format!("executor={{kind='command', workers=2, command={command}}}");
        let error = CLASSIFY.fail(&args(&config, &temp.path().join("no"), &["--set", &set]));
        assert!(error.contains(expected), "{error}");
    }
    // A launcher that fails fails its trial, and one that is not there ends the search.
    let set = "executor={kind='command', workers=2, command=['no-such-launcher', '{out}']}";
    let error = CLASSIFY.fail(&args(&config, &temp.path().join("none"), &["--set", set]));
    assert!(error.contains("no-such-launcher") || error.contains("cannot start"), "{error}");
}

fn records(run: &Path) -> Vec<Record> {
    trial_log::read(&run.join("trials.jsonl")).unwrap()
}

#[test]
fn a_search_begins_from_named_architectures_and_the_best_of_an_earlier_log() {
    let temp = tempfile::tempdir().unwrap();
    let config = config(temp.path(), 20, SLOW);
    let [earlier, straight, killed] = ["earlier", "straight", "killed"].map(|name| temp.path().join(name));
    CLASSIFY.succeed(&args(&config, &earlier, &[]));
    let log = format!("start.log={}", earlier.display());
    let sets = ["--set", &log, "--set", "start.best=2", "--set", "start.archs=['0-0-0-0-0-0']"];
    CLASSIFY.succeed(&args(&config, &straight, &sets));
    let mut best = records(&earlier);
    best.sort_by(|a, b| b.metric("valid").unwrap().total_cmp(&a.metric("valid").unwrap()));
    best.dedup_by(|a, b| a.trial.arch == b.trial.arch);
    let first: Vec<String> = records(&straight).iter().take(3).map(|record| record.trial.arch.to_string()).collect();
    assert_eq!(first, ["0-0-0-0-0-0".into(), best[0].trial.arch.to_string(), best[1].trial.arch.to_string()]);
    let refused = temp.path().join("refused");
    let sets_of_refused = ["--set", &log, "--set", "start.archs=['0-0-9-0-0-0']"];
    let stderr = CLASSIFY.fail(&args(&config, &refused, &sets_of_refused));
    assert!(stderr.contains("start.archs: \"0-0-9-0-0-0\"") && !refused.exists(), "{stderr}");
    // The same numbers may be other operators there.
    let said = "another [space], where a choice may be something else: `channels = 16` there, `channels = 8` here";
    assert!(!stderr.contains("another [space]"), "{stderr}");
    let other = [&sets_of_refused[..], &["--set", "space.channels=8"]].concat();
    let stderr = CLASSIFY.fail(&args(&config, &refused, &other));
    assert!(stderr.contains(said), "{stderr}");
    // What began from a log needs it no more.
    let log = killed.join("trials.jsonl");
    CLASSIFY.kill_when(&args(&config, &killed, &sets), || fs::read_to_string(&log).is_ok_and(|log| !log.is_empty()));
    fs::remove_dir_all(&earlier).unwrap();
    CLASSIFY.succeed(&args(&config, &killed, &sets));
    assert_same_file(&straight, &killed, "trials.jsonl");
}

#[test]
fn a_search_decides_on_the_recipe_too() {
    let temp = tempfile::tempdir().unwrap();
    let config = config(temp.path(), 30, "echo '{\"valid\": {optimizer.lr}}'");
    let out = temp.path().join("run");
    let recipe = ["--set", "space.recipe.optimizer.lr=[0.1, 0.4, 0.2]", "--set", "space.recipe.batch_size=[8, 16]"];
    let stdout = CLASSIFY.succeed(&args(&config, &out, &recipe));
    assert!(stdout.contains("optimizer.lr=0.4"), "{stdout}");
    assert!(records(&out).iter().all(|record| record.trial.arch.choices().len() == 8));
    for (set, expected) in [
        ("space.recipe.optimizer.lr=[0.1, -0.1]", "space.recipe.optimizer.lr = -0.1: "),
        ("space.recipe.rate=[0.1]", "space.recipe.rate = 0.1: "),
        ("space.recipe.epochs=3", "space.recipe: epochs = 3; expected a list"),
    ] {
        let stderr = CLASSIFY.fail(&args(&config, &temp.path().join("refused"), &["--set", set]));
        assert!(stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn a_finished_log_is_a_table_that_strategies_are_tried_on() {
    let temp = tempfile::tempdir().unwrap();
    let config = config(temp.path(), 20, "echo \"{\\\"valid\\\": 0.$(echo {arch} | tr -d -)}\"");
    let out = temp.path().join("run");
    CLASSIFY.succeed(&args(&config, &out, &[]));
    let log = out.join("trials.jsonl");
    let fixed = ["bench", "--table", log.to_str().unwrap(), "--valid", "valid", "--num-trials", "10", "--seeds", "5"];
    let more = ["--strategy", "random,regularized_evolution,gaussian_process", "--format", "json"];
    let rows: Vec<Row> = serde_json::from_str(&CLASSIFY.succeed(&[&fixed[..], &more].concat())).unwrap();
    let best = records(&out).iter().filter_map(|record| record.metric("valid")).fold(0.0, f64::max);
    assert_eq!(rows.len(), 9);
    assert!(rows.iter().all(|row| row.mean > 0.0 && row.values.iter().all(|value| *value <= best)));
    // The tool of another task does not know the space.
    let stderr = SEGMENT.fail(&[&fixed[..], &more].concat());
    assert!(stderr.contains("nasbench201"), "{stderr}");
}

#[test]
fn a_search_goes_on_with_more_trials_and_equals_one_that_had_them_from_the_start() {
    let temp = tempfile::tempdir().unwrap();
    let (straight, grown) = (temp.path().join("straight"), temp.path().join("grown"));
    let quick = SLOW.replace("sleep 0.05; ", "");
    let config = config(temp.path(), 14, &quick);
    CLASSIFY.succeed(&args(&config, &straight, &[]));
    CLASSIFY.succeed(&args(&config, &grown, &["--set", "num_trials=6"]));
    CLASSIFY.succeed(&args(&config, &grown, &[]));
    assert_same_file(&straight, &grown, "trials.jsonl");
    assert_same_file(&straight, &grown, "trials.csv");
    let text = CLASSIFY.fail(&args(&config, &grown, &["--set", "num_trials=6"]));
    assert!(text.contains("differs") && text.contains("num_trials"), "{text}");
}

#[test]
fn with_workers_every_trial_runs_once() {
    let temp = tempfile::tempdir().unwrap();
    let config = config(temp.path(), 16, SLOW);
    let out = temp.path().join("run");
    CLASSIFY.run_with_kills(&args(&config, &out, &["--workers", "2"]));
    let records = trial_log::read(&out.join("trials.jsonl")).unwrap();
    let ids: BTreeSet<u64> = records.iter().map(|record| record.trial.id).collect();
    assert_eq!((records.len(), ids), (16, (0..16).collect()));
    assert!(records.iter().all(|record| record.metric("valid").is_some()), "{records:?}");
}

#[test]
fn trials_that_go_wrong_are_records_and_the_search_goes_on() {
    let temp = tempfile::tempdir().unwrap();
    let script = "case {id} in
        1) exit 3;;
        2) echo '{\"valid\": \"no number\"}'; exit 0;;
        3) sleep 60;;
        4) kill -9 $PPID; sleep 1;;
        5) exec perl -e '$x = \"a\" x 400000000; sleep 60';;
        6) echo '{\"other\": 1}'; exit 0;;
        esac; echo '{\"valid\": 0.5}'";
    let config = config(temp.path(), 8, script);
    let out = temp.path().join("run");
    let limits = ["--set", "executor={kind='processes',workers=2}", "--set", "limits={time_secs=20,memory_mib=300}"];
    CLASSIFY.succeed(&args(&config, &out, &limits));
    let mut records = trial_log::read(&out.join("trials.jsonl")).unwrap();
    records.sort_by_key(|record| record.trial.id);
    let reason = |record: &Record| match &record.outcome {
        Outcome::Failed(reason) => reason.clone(),
        Outcome::Metrics(values) => format!("{values:?}"),
    };
    let reasons: Vec<String> = records.iter().map(reason).collect();
    let expected = [
        "0.5",
        "exit status: 3",
        "valid: \"no number\" found, expected a number",
        "longer than 20 s",
        "signal: 9",
        "300 MiB",
        "no valid",
        "0.5",
    ];
    for (found, expected) in reasons.iter().zip(expected) {
        assert!(found.contains(expected), "expected {expected} in {reasons:#?}");
    }
    assert_eq!(records.len(), expected.len());
}

#[test]
fn a_promoted_trial_knows_its_parent_and_its_epochs() {
    let temp = tempfile::tempdir().unwrap();
    let script = "p={parent}; echo \"{\\\"valid\\\": 0.$(echo {arch} | tr -d -), \\\"from\\\": ${p:--1}, \\\"of\\\": {epochs}}\"";
    let config = config(temp.path(), 20, script);
    let out = temp.path().join("run");
    let strategy = "strategy={kind='asha',min_epochs=1,max_epochs=9,eta=3.0}";
    CLASSIFY.succeed(&args(&config, &out, &["--set", strategy]));
    let records = trial_log::read(&out.join("trials.jsonl")).unwrap();
    let number = |record: &Record, name: &str| record.metric(name).unwrap();
    assert!(records.iter().any(|record| record.trial.parent.is_some()), "{records:?}");
    for record in &records {
        let parent = record.trial.parent.map(|id| &records[id as usize]);
        assert_eq!(number(record, "from"), record.trial.parent.map_or(-1.0, |id| id as f64));
        assert_eq!(number(record, "of"), parent.map_or(1.0, |parent| 3.0 * number(parent, "of")));
        assert!(parent.is_none_or(|parent| parent.trial.arch == record.trial.arch));
    }
}

#[test]
fn what_cannot_be_served_is_refused_when_the_config_is_read() {
    let temp = tempfile::tempdir().unwrap();
    let config = config(temp.path(), 4, SLOW);
    let refused = |set: &str, expected: &str| {
        let error = CLASSIFY.fail(&args(&config, &temp.path().join("never"), &["--set", set]));
        assert!(error.contains(expected), "{set}: {error}");
    };
    refused("strategy.sample_size=0", "strategy.sample_size = 0; regularized_evolution needs at least 1");
    refused(
        "objectives=[{metric='valid'},{metric='macs', goal='minimize'}]",
        "unknown metric \"macs\"; expected one of valid",
    );
    refused(
        "objectives=[{metric='valid'},{metric='valid',goal='minimize'}]",
        "strategies that serve several: random, nsga2",
    );
    refused("strategy.kind='magic'", "unknown variant `magic`");
    refused("executor={kind='processes',workers=0}", "executor.workers = 0; expected at least 1");
    refused("limits.time_secs=1", "limits need --workers");
}

/// What a run is of does not depend on whose repository it is started in.
#[test]
fn a_run_names_the_commit_of_the_program() {
    let git = |folder: &Path, args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(folder).args(args).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    assert!(git(folder, &["init", "--quiet"]).0);
    let theirs = ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "--quiet", "--allow-empty", "-m", "theirs"];
    assert!(git(folder, &theirs).0);
    let config = config(folder, 1, "echo '{\"valid\": 0.5}'");
    let run = |program: &Path, name: &str| -> serde_json::Value {
        let mut command = Command::new(program);
        command.args(args(&config, Path::new(name), &[])).current_dir(folder).stdout(Stdio::null());
        command.env("LD_LIBRARY_PATH", std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default());
        assert!(command.status().unwrap().success());
        serde_json::from_str(&fs::read_to_string(folder.join(name).join("meta.json")).unwrap()).unwrap()
    };
    let program = CLASSIFY.command(&[]).get_program().to_owned();
    let meta = run(Path::new(&program), "checkout");
    if git(root(), &["rev-parse", "HEAD"]).0 {
        let commit = meta["commit"].as_str().unwrap();
        assert!(git(root(), &["merge-base", "--is-ancestor", commit, "HEAD"]).0, "{commit}");
    }
    // As packages have it.
    let packed = folder.join("nas-classify");
    fs::copy(&program, &packed).unwrap();
    fs::write(folder.join("commit"), "0123abc\n").unwrap();
    assert_eq!(run(&packed, "packed")["commit"], "0123abc");
}

/// The committed experiment on the table, in small.
#[test]
fn a_predictor_learns_searches_and_has_its_best_verified() {
    let Some(table) = data("nasbench201/nasbench201.csv.gz") else { return };
    let temp = tempfile::tempdir().unwrap();
    let path = format!("evaluator.path={}", table.display());
    let search = |kind: &str, name: &str, more: &[&str]| -> serde_json::Value {
        let (out, model) = (temp.path().join(name), format!("predictor.model.kind={kind}"));
        let config = "configs/classify/nasbench201_predictor.toml";
        let small = ["num_trials=1000", "honesty.samples=150", &path, &model].map(|set| ["--set", set]).concat();
        let args =
            [&["search", "--config", config, "--out", out.to_str().unwrap(), "--format", "json"], &small[..], more];
        serde_json::from_str(&CLASSIFY.succeed(&args.concat())).unwrap()
    };
    for kind in ["gradient_boosted_trees", "mlp_ensemble", "gaussian_process"] {
        let result = search(kind, kind, &[]);
        let valid = |part: &serde_json::Value| part["best"]["metrics"]["cifar10_valid_200"].as_f64().unwrap();
        assert_eq!((&result["num_predicted"], &result["num_trials"]), (&1000.into(), &10.into()), "{kind}");
        assert_eq!(result["baseline"]["num_trials"], 110, "{kind}: as many full evaluations");
        assert!(valid(&result) > valid(&result["baseline"]), "{kind}: {result}");
        let rho = |row: usize| result["honesty"]["rows"][row]["spearman"].as_f64().unwrap();
        assert_eq!(result["honesty"]["rows"][0]["estimate"], "predicted");
        assert!(rho(0) > rho(1), "{kind} ranks better than the parameter count: {result}");
    }
    // Child processes learn the same from the same log.
    let parallel = search("mlp_ensemble", "parallel", &["--workers", "2", "--set", "num_trials=12"]);
    assert_eq!((&parallel["num_failed"], &parallel["num_predicted"]), (&0.into(), &12.into()), "{parallel}");
}

#[test]
fn zero_cost_proxies_evaluate_trials_and_are_compared_with_the_table() {
    let Some(table) = data("nasbench201/nasbench201.csv.gz") else { return };
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    let path = format!("honesty.evaluator.path={}", table.display());
    let small = ["space.channels=4", "space.cells=1", "evaluator.image=8", "evaluator.batch_size=4"];
    let sets = [&["num_trials=6", "honesty.samples=6", &path][..], &small].concat();
    let config = "configs/classify/nasbench201_zero_cost.toml";
    let args = [
        &["search", "--config", config, "--out", out.to_str().unwrap(), "--format", "json"],
        &sets.iter().flat_map(|set| ["--set", set]).collect::<Vec<_>>()[..],
    ];
    let result: serde_json::Value = serde_json::from_str(&CLASSIFY.succeed(&args.concat())).unwrap();
    let metrics = result["best"]["metrics"].as_object().unwrap();
    assert_eq!(metrics.keys().collect::<Vec<_>>(), ["logsynflow", "macs", "naswot", "params"]);
    assert_eq!(result["honesty"]["truth"], "cifar10_test_200");
    let error = CLASSIFY.fail(&[&args.concat()[..], &["--set", "evaluator.proxies=['magic']"]].concat());
    assert!(error.contains("magic") && error.contains("synflow"), "{error}");
}

/// AZ-NAS' proxies look at the outputs of blocks.
#[test]
fn networks_of_every_space_say_what_their_blocks_give() {
    let temp = tempfile::tempdir().unwrap();
    let [segment, detect] = ["kind = 'synth', height = 64, width = 64", "kind = 'shapes'"];
    for (tool, data, space) in [
        (SEGMENT, segment, "space = { kind = 'auto_deeplab', layers = 3, filters = 4 }"),
        (SEGMENT, segment, "space = { kind = 'mobile_seg' }"),
        (SEGMENT, segment, "space = { kind = 'around' }\nmodel = { preset = 'deeplabv3plus_mobilenet_v2' }"),
        (SEGMENT, segment, "space = { kind = 'around' }\nmodel = { preset = 'deeplabv3plus_xception41' }"),
        (CLASSIFY, "", "space = { kind = 'nasbench201', channels = 4, cells = 1 }"),
        (CLASSIFY, "", "space = { kind = 'cells', layers = 3, channels = 4 }"),
        (CLASSIFY, "", "space = { kind = 'chain', layers = 4, channels = 4 }"),
        (CLASSIFY, "", "space = { kind = 'mobile', preset = 'fbnet' }"),
        (DETECT, detect, "space = { kind = 'detnas', size = 'tiny' }\nmodel = { preset = 'fcos_detnas_tiny' }"),
        (DETECT, detect, "space = { kind = 'around' }\nmodel = { preset = 'fcos_shufflenet_v2_x0_5' }"),
        (DETECT, detect, "space = { kind = 'around' }\nmodel = { preset = 'fcos_resnet18_fpn' }"),
    ] {
        let [config, out] = ["search.toml", "out"].map(|name| temp.path().join(name));
        let data = if data.is_empty() {
            String::new()
        } else {
            format!("data = {{ {data}, num_images = 4, num_val = 2, seed = 0 }}\n")
        };
        let text = format!(
            "kind = 'search'\nnum_trials = 1\n{space}\n{data}strategy = {{ kind = 'random' }}\n\
             objectives = [{{ metric = 'az_expressivity' }}]\n\
             evaluator = {{ kind = 'zero_cost', proxies = ['az_expressivity', 'az_progressivity'], batch_size = 2, image = 64 }}\n"
        );
        fs::write(&config, text).unwrap();
        let _ = fs::remove_dir_all(&out);
        let args = ["search", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap(), "--format", "json"];
        let result: serde_json::Value = serde_json::from_str(&tool.succeed(&args)).unwrap();
        let metrics = &result["best"]["metrics"];
        assert!(metrics["az_expressivity"].as_f64().unwrap() > 0.0, "{space}: {result}");
        assert!(metrics["az_progressivity"].is_number(), "{space}: {result}");
    }
}

/// One object of `bench --format json`.
#[derive(serde::Deserialize)]
struct Row {
    strategy: String,
    num_trials: u64,
    mean: f64,
    std: f64,
    values: Vec<f64>,
}

fn bench(data_set: &str, strategies: &str, seeds: u64, more: &[&str]) -> Option<Vec<Row>> {
    let table = data("nasbench201/nasbench201.csv.gz")?;
    let (valid, test) = (format!("{data_set}_valid_200"), format!("{data_set}_test_200"));
    let low = format!("{data_set}_test_12");
    let seeds = seeds.to_string();
    let fixed = ["bench", "--table", table.to_str()?, "--valid", &valid, "--test", &test, "--strategy", strategies];
    let fixed = [&fixed[..], &["--seeds", &seeds, "--low-fidelity", &low, "--format", "json"], more].concat();
    Some(serde_json::from_str(&CLASSIFY.succeed(&fixed)).unwrap())
}

/// Bands of `specs/strategies.md`, section 1: mean and deviation of 300 seeds at 100, 200 and 500 evaluations. Ours are the
/// mean of 200 seeds; they may differ by three standard errors of the difference.
fn within_bands(data_set: &str, strategy: &str, more: &[&str], bands: [(f64, f64); 3]) {
    const SEEDS: u64 = 200;
    let Some(rows) = bench(data_set, strategy, SEEDS, more) else { return };
    assert_eq!(rows.iter().map(|row| row.num_trials).collect::<Vec<_>>(), [100, 200, 500]);
    for (row, (mean, std)) in rows.iter().zip(bands) {
        let error = (row.std.powi(2) / SEEDS as f64 + std * std / 300.0).sqrt();
        // Local search always finds the optimum of CIFAR-100: no deviation, and the last digit of a rounded mean.
        let error = error.max(0.002);
        let Row { strategy, num_trials, mean: found, .. } = row;
        assert!(
            (found - mean).abs() < 3.0 * error,
            "{data_set} {strategy} {num_trials}: {found}, expected {mean} ± {error}"
        );
    }
}

/// Options of the command line.
type Options = &'static [&'static str];

/// Mean and deviation at 100, 200 and 500 evaluations.
type Band = [(f64, f64); 3];

/// What a strategy must show on the table, by its name.
enum Evidence {
    /// Bands on CIFAR-10 and CIFAR-100, for every set of options.
    Bands(Vec<(Options, [Band; 2])>),
    /// More than random search by three standard errors of the difference, at 200 evaluations on this many seeds.
    BeatsRandom { seeds: u64 },
}

fn evidence(strategy: &str) -> Evidence {
    const SMALL: &[&str] = &["--set", "strategy.population_size=10", "--set", "strategy.sample_size=3"];
    let quick = Evidence::BeatsRandom { seeds: 100 };
    match strategy {
        "random" => Evidence::Bands(vec![(
            &[],
            [[(93.760, 0.286), (93.834, 0.261), (93.982, 0.224)], [(71.538, 0.794), (71.879, 0.756), (72.387, 0.641)]],
        )]),
        "regularized_evolution" => Evidence::Bands(vec![
            (
                SMALL,
                [
                    [(94.023, 0.254), (94.114, 0.189), (94.197, 0.152)],
                    [(72.571, 0.769), (73.066, 0.518), (73.346, 0.202)],
                ],
            ),
            (
                &[],
                [
                    [(94.029, 0.237), (94.121, 0.209), (94.222, 0.176)],
                    [(72.801, 0.788), (73.320, 0.301), (73.437, 0.138)],
                ],
            ),
        ]),
        "reinforce" => Evidence::Bands(vec![(
            &[],
            [[(93.936, 0.274), (94.079, 0.238), (94.184, 0.184)], [(72.284, 0.846), (72.864, 0.684), (73.268, 0.346)]],
        )]),
        "local_search" => Evidence::Bands(vec![(
            &[],
            [[(94.078, 0.199), (94.158, 0.158), (94.259, 0.102)], [(73.109, 0.661), (73.422, 0.190), (73.480, 0.000)]],
        )]),
        "genetic" | "nsga2" | "tpe" | "sng" | "mdenas" | "ddpnas" => quick,
        "successive_halving" | "hyperband" | "asha" | "bohb" => quick,
        "controller" => Evidence::BeatsRandom { seeds: 48 },
        "gaussian_process" | "bananas" => Evidence::BeatsRandom { seeds: 16 },
        _ => panic!("{strategy}: no evidence on the table is asked for; every strategy needs an entry"),
    }
}

const DATA_SETS: [&str; 2] = ["cifar10", "cifar100"];

#[test]
fn strategies_lie_in_their_bands_or_beat_random_search() {
    let random = |data_set| bench(data_set, "random", 100, &["--num-trials", "200"]);
    for strategy in StrategyConfig::all() {
        let kind = strategy.info().kind;
        match evidence(kind) {
            Evidence::Bands(bands) => {
                for (options, bands) in bands {
                    DATA_SETS
                        .iter()
                        .zip(bands)
                        .for_each(|(data_set, bands)| within_bands(data_set, kind, options, bands));
                }
            }
            Evidence::BeatsRandom { seeds } => {
                for data_set in DATA_SETS {
                    let Some(rows) = bench(data_set, kind, seeds, &["--num-trials", "200"]) else { return };
                    let Some(random) = random(data_set) else { return };
                    beats(&rows[rows.len() - 1], &random[random.len() - 1], 3.0, data_set);
                }
            }
        }
    }
}

/// The first row's mean is larger by more than `errors` standard errors of the difference.
fn beats(row: &Row, random: &Row, errors: f64, what: &str) {
    let error = (row.std.powi(2) / row.values.len() as f64 + random.std.powi(2) / random.values.len() as f64).sqrt();
    let (Row { strategy, mean, .. }, least) = (row, random.mean + errors * error);
    assert_eq!(row.num_trials, random.num_trials);
    assert!(*mean > least, "{what} {strategy}: {mean}, random search {} + {errors} x {error}", random.mean);
}

#[test]
fn the_honesty_report_says_what_few_epochs_are_worth() {
    let Some(table) = data("nasbench201/nasbench201.csv.gz") else { return };
    let temp = tempfile::tempdir().unwrap();
    let table = format!("evaluator.path={}", table.display());
    let config = "configs/classify/nasbench201_few_epochs.toml";
    let more = ["--set", &table, "--set", "num_trials=30", "--format", "json"];
    let result: serde_json::Value =
        serde_json::from_str(&CLASSIFY.succeed(&args(config, &temp.path().join("run"), &more))).unwrap();
    let rows = result["honesty"]["rows"].as_array().unwrap();
    let spearman = |i: usize| rows[i]["spearman"].as_f64().unwrap();
    // All 15,625 cells, scipy: 0.8705 for the accuracy after 12 epochs, 0.7527 for the parameters; 500 samples here.
    assert!((spearman(0) - 0.8705).abs() < 0.04 && (spearman(1) - 0.7527).abs() < 0.08, "{rows:?}");
}

#[test]
fn the_published_darts_cell_is_in_the_table() {
    let Some(path) = data("nasbench201/nasbench201.csv.gz") else { return };
    let parse = |text: &str| Ok(nas_classify::nasbench201::NasBench201::parse(text)?);
    let table = nas_core::search::table::Table::read(&[path], &parse).unwrap();
    // NATS-Bench's results file: DARTS ends in skip connections on all edges; published 54.30 %.
    let all_skip = "1-1-1-1-1-1".parse().unwrap();
    assert_eq!(table.get(&all_skip, table.column("index").unwrap()), Some(1835.0));
    assert_eq!(table.get(&all_skip, table.column("cifar10_test_200").unwrap()), Some(54.2967));
}

/// Two-sample Kolmogorov-Smirnov: largest distance of the distribution functions.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    let below = |sample: &[f64], x: f64| sample.iter().filter(|y| **y <= x + 1e-9).count() as f64 / sample.len() as f64;
    a.iter().chain(b).map(|x| (below(a, *x) - below(b, *x)).abs()).fold(0.0, f64::max)
}

/// Best values of 1000 searches by optuna's sampler and of 2000 by ours are one distribution: their distance is under the bound
/// that equal distributions exceed once in a hundred times, and that random search exceeds.
#[test]
fn tpe_is_in_distribution_equal_to_optunas() {
    const SEEDS: u64 = 2000;
    let bound = 1.628 * (1.0 / SEEDS as f64 + 1.0 / 1000.0).sqrt();
    let golden: serde_json::Value = serde_json::from_str(include_str!("../golden/tpe/optuna_tpe.json")).unwrap();
    let test_as_signal = ["--valid", "cifar10_test_200", "--num-trials", "100"];
    let Some(table) = data("nasbench201/nasbench201.csv.gz") else { return };
    let of = |strategy: &str| -> Vec<Row> {
        let fixed = ["bench", "--table", table.to_str().unwrap(), "--test", "cifar10_test_200", "--strategy", strategy];
        let seeds = ["--seeds", "2000", "--format", "json"];
        serde_json::from_str(&CLASSIFY.succeed(&[&fixed[..], &test_as_signal, &seeds].concat())).unwrap()
    };
    let (tpe, random) = (of("tpe"), of("random"));
    for (tpe, random) in tpe.iter().zip(&random) {
        let optuna: Vec<f64> = serde_json::from_value(golden["best"][tpe.num_trials.to_string()].clone()).unwrap();
        let (ours, others) = (distance(&tpe.values, &optuna), distance(&random.values, &optuna));
        assert!(ours < bound, "after {} trials: {ours}, {bound}", tpe.num_trials);
        assert!(tpe.num_trials < 40 || others > bound, "after {} trials: {others}", tpe.num_trials);
    }
}

#[test]
fn trials_inherit_weights_from_the_nearest_before_them_and_kills_change_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let config = temp.path().join("inherit.toml");
    let text = "kind = 'search'\nnum_trials = 5\nobjectives = [{ metric = 'miou' }]\n\
                strategy = { kind = 'regularized_evolution', population_size = 2, sample_size = 2 }\n\
                start = { archs = ['mobile_seg_hand_a'] }\nspace = { kind = 'mobile_seg' }\n\
                evaluator = { kind = 'train', inherit = true }\ntrain = { epochs = 1, batch_size = 2 }\n\
                data = { kind = 'synth', num_images = 8, num_val = 2, height = 32, width = 64, seed = 0 }\n\
                augment = { crop = [32, 32] }\n";
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let [straight, killed] = ["straight", "killed"].map(|name| temp.path().join(name));
    let more = ["--device", "cpu", "--workers", "2"];
    SEGMENT.succeed(&args(config, &straight, &more));
    let log = killed.join("trials.jsonl");
    let begun = || fs::read_to_string(&log).is_ok_and(|log| log.lines().count() >= 2);
    SEGMENT.kill_when(&args(config, &killed, &more), begun);
    SEGMENT.succeed(&args(config, &killed, &more));
    assert_same_file(&straight, &killed, "trials.jsonl");
    let records = records(&straight);
    let differing = |a: &Record, b: &Record| {
        let pairs = a.trial.arch.choices().iter().zip(b.trial.arch.choices());
        pairs.filter(|(a, b)| a != b).count()
    };
    assert_eq!(records[0].trial.parent, None);
    for record in &records[2..] {
        // With two workers the trial before it may still have been running.
        let before = records.iter().take(record.trial.id as usize - 1);
        let nearest = before.map(|other| differing(other, record)).min();
        let parent = record.trial.parent.expect("a trial that has ended is there to inherit from");
        assert!(Some(differing(&records[parent as usize], record)) <= nearest);
        let weights = straight.join(format!("trials/{:05}/inherited.safetensors", record.trial.id));
        let told = nas_core::run::tensor_file::read_about(&weights).unwrap().unwrap();
        assert!(told["whole"].as_u64().unwrap() > 50, "{told}");
    }
}
