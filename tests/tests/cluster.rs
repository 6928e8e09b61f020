//! Trials as jobs of a real Slurm of two nodes and four pretended cards (`tests/slurm/cluster.sh`).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nas_core::search::log as trial_log;
use nas_core::space::trial::{Outcome, Record};
use nas_tests::{CLASSIFY, assert_same_file, root};

/// Whether Slurm is installed and this process may make namespaces; else says what is missing.
fn can_run() -> bool {
    let runs = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let tools = ["slurmctld", "slurmd", "munged", "ip"].iter().all(|tool| runs("which", &[tool]));
    let able = tools && runs("unshare", &["--net", "--pid", "--fork", "--mount", "--mount-proc", "true"]);
    if !able {
        eprintln!("skipped: no Slurm here (apt-get install slurm-wlm munge iproute2), or no right to make namespaces");
    }
    able
}

/// Runs a shell script beside Slurm, `$NAS` the program; returns what it printed.
fn beside_slurm(folder: &Path, script: &str) -> String {
    let program = CLASSIFY.command(&[]).get_program().to_os_string();
    let mut command = Command::new("unshare");
    command.args(["--net", "--pid", "--fork", "--mount", "--mount-proc"]).arg(root().join("tests/slurm/cluster.sh"));
    command.args(["sh", "-euc", script]).env("NAS", program).current_dir(folder);
    command.env("LD_LIBRARY_PATH", std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default());
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

/// A search whose trials are `script`.
fn write_config(folder: &Path, name: &str, num_trials: u64, script: &str, executor: &str) {
    let text = format!(
        "kind = 'search'\nnum_trials = {num_trials}\n[space]\nkind = 'nasbench201'\n[strategy]\nkind = 'regularized_evolution'\n\
         population_size = 5\nsample_size = 3\n[[objectives]]\nmetric = 'valid'\n[evaluator]\nkind = 'command'\n\
         metrics = ['valid']\ncommand = ['sh', '-c', '''{script}''']\n{executor}"
    );
    fs::write(folder.join(name), text).unwrap();
}

fn records(run: &Path) -> Vec<Record> {
    trial_log::read(&run.join("trials.jsonl")).unwrap()
}

const SLURM: &str = "[executor]\nkind = 'slurm'\nworkers = 6\noptions = ['--gres=gpu:1']\n";

/// The search is killed while its jobs run, and goes on with those same jobs.
#[test]
fn a_search_by_jobs_is_killed_goes_on_and_writes_the_log_of_processes() {
    if !can_run() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let script = "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES {id} >> where; sleep 1; \
                  echo \"{\\\"valid\\\": 0.$(echo {arch} | tr -d -)}\"";
    let script = script.replace("where", folder.join("where").to_str().unwrap());
    write_config(folder, "slurm.toml", 12, &script, SLURM);
    write_config(folder, "own.toml", 12, &script, "");
    CLASSIFY.succeed(&[
        "search",
        "--config",
        folder.join("own.toml").to_str().unwrap(),
        "--out",
        folder.join("own").to_str().unwrap(),
        "--workers",
        "6",
        "--threads",
        "1",
    ]);
    fs::remove_file(folder.join("where")).unwrap();
    let search = "$NAS search --config slurm.toml --out run --resume --threads 1";
    beside_slurm(folder, &format!("timeout --signal=KILL 4 {search} || true\n{search}"));
    assert_same_file(&folder.join("own"), &folder.join("run"), "trials.jsonl");
    let text = fs::read_to_string(folder.join("where")).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    let cards: BTreeSet<(&str, &str)> = lines.iter().map(|line| (line[0], line[1])).collect();
    assert_eq!(cards.len(), 4, "two cards of two nodes: {text}");
    assert_eq!(lines.len(), 12, "no trial was started twice: {text}");
}

/// A job that is cancelled, one that fails, one whose time ends: each costs its trial alone. One that is told of its end saves and goes on.
#[test]
fn what_happens_to_jobs_fails_their_trials_alone() {
    if !can_run() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let script = "case {id} in 1) sleep 60;; 2) exit 3;; esac; sleep 0.2; echo '{\"valid\": 0.5}'";
    write_config(folder, "slurm.toml", 6, script, &SLURM.replace("workers = 6", "workers = 6\nordered = false"));
    let cancel = "(for i in $(seq 100); do job=$(squeue --noheader --states=RUNNING --format='%i %j' | grep -e '-00001$' | cut -d' ' -f1); \
                  [ -n \"$job\" ] && break; sleep 0.1; done; scancel $job) &";
    beside_slurm(folder, &format!("{cancel}\n$NAS search --config slurm.toml --out run --threads 1"));
    for record in records(&folder.join("run")) {
        match (record.trial.id, record.outcome) {
            (1, Outcome::Failed(reason)) => assert!(reason.contains("CANCELLED"), "{reason}"),
            (2, Outcome::Failed(reason)) => assert!(reason.contains("exit status: 3"), "{reason}"),
            (_, outcome) => assert!(matches!(outcome, Outcome::Metrics(_)), "{outcome:?}"),
        }
    }
}

#[test]
fn a_cluster_that_is_not_there_is_said_at_once() {
    let temp = tempfile::tempdir().unwrap();
    write_config(temp.path(), "slurm.toml", 4, "true", SLURM);
    let config = temp.path().join("slurm.toml");
    let run = temp.path().join("run");
    let mut command =
        CLASSIFY.command(&["search", "--config", config.to_str().unwrap(), "--out", run.to_str().unwrap()]);
    let output = command.env("PATH", "/nowhere").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("squeue; is Slurm installed here?"), "{said}");
    let limits = ["--set", "limits.time_secs=5"];
    let args = ["search", "--config", config.to_str().unwrap(), "--out", run.to_str().unwrap()];
    let error = CLASSIFY.fail(&[&args[..], &limits].concat());
    assert!(error.contains("limits: Slurm keeps them; expected --time and --mem in executor.options"), "{error}");
}
