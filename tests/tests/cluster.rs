//! Trials as jobs of clusters: of a real Slurm of two nodes and four pretended cards (`tests/slurm/cluster.sh`), and of what answers as
//! Ray does.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

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
    if can_run() {
        is_killed_and_goes_on(false);
    }
}

/// The same with jobs that stay, of which there are more than cards; one of them is put into the queue again on the way.
#[test]
fn a_search_by_pilot_jobs_is_killed_goes_on_and_writes_the_log_of_processes() {
    if can_run() {
        is_killed_and_goes_on(true);
    }
}

fn is_killed_and_goes_on(pilots: bool) {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let script = "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES {id} >> where; sleep 1; \
                  echo \"{\\\"valid\\\": 0.$(echo {arch} | tr -d -)}\"";
    let script = script.replace("where", folder.join("where").to_str().unwrap());
    write_config(folder, "slurm.toml", 12, &script, &format!("{SLURM}pilots = {pilots}\n"));
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
    let again =
        if pilots { "scontrol requeue $(squeue --noheader --states=RUNNING --format=%i | head -n1)" } else { "" };
    let none_waits = "[ -z \"$(squeue --noheader --states=PENDING)\" ]";
    beside_slurm(folder, &format!("timeout --signal=KILL 4 {search} || true\n{again}\n{search}\n{none_waits}"));
    assert_same_file(&folder.join("own"), &folder.join("run"), "trials.jsonl");
    let text = fs::read_to_string(folder.join("where")).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    let cards: BTreeSet<(&str, &str)> = lines.iter().map(|line| (line[0], line[1])).collect();
    assert_eq!(cards.len(), 4, "two cards of two nodes: {text}");
    let twice = usize::from(pilots);
    assert!((12..=12 + twice).contains(&lines.len()), "no trial was started twice but by the job that was: {text}");
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

/// A search that gives up leaves no job in the queue that has not begun.
#[test]
fn what_waits_leaves_the_queue_with_a_search_that_gives_up() {
    if !can_run() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let script = "case {id} in [0-4]) exit 3;; esac; sleep 60";
    write_config(folder, "slurm.toml", 12, script, &SLURM.replace("workers = 6", "workers = 12"));
    let search = "$NAS search --config slurm.toml --out run --threads 1 && exit 9";
    let said = beside_slurm(folder, &format!("{search} || squeue --noheader --format='it %T'"));
    assert!(said.contains("the first 5 trials all failed") && !said.contains("it PENDING"), "{said}");
}

/// What stands for a Ray head: its jobs are processes of this machine.
struct Head {
    address: String,
    submitted: Arc<Mutex<Vec<(String, Child)>>>,
}

impl Head {
    fn executor(&self, pilots: bool) -> String {
        let address = &self.address;
        format!("[executor]\nkind = 'ray'\nworkers = 3\ngpus = 0.5\naddress = '{address}'\npilots = {pilots}\n")
    }

    /// Jobs begin with the commands `first`.
    fn start(first: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let submitted: Arc<Mutex<Vec<(String, Child)>>> = Arc::default();
        let jobs = submitted.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = answer(stream.unwrap(), &jobs, first);
            }
        });
        Self { address, submitted }
    }
}

fn answer(stream: TcpStream, jobs: &Mutex<Vec<(String, Child)>>, first: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_string());
    }
    let length = head.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let mut jobs = jobs.lock().unwrap();
    let describe = |(id, child): &mut (String, Child)| {
        let status = match child.try_wait().unwrap() {
            None => "RUNNING",
            Some(status) if status.success() => "SUCCEEDED",
            Some(_) => "FAILED",
        };
        serde_json::json!({ "submission_id": id, "status": status, "message": "Job is what its status says." })
    };
    let request = head.first().cloned().unwrap_or_default();
    let found = match request.split(' ').collect::<Vec<_>>()[..] {
        ["POST", "/api/jobs/", _] => {
            let job: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(
                (job["entrypoint_num_cpus"].as_f64(), job["entrypoint_num_gpus"].as_f64()),
                (Some(1.0), Some(0.5))
            );
            let (id, command) = (job["submission_id"].as_str().unwrap(), job["entrypoint"].as_str().unwrap());
            let command = format!("{first} {command}");
            let child = Command::new("sh").args(["-c", &command]).env("OMP_NUM_THREADS", "1").spawn().unwrap();
            jobs.push((id.to_string(), child));
            serde_json::json!({ "submission_id": id })
        }
        ["GET", "/api/jobs/", _] => jobs.iter_mut().map(describe).collect(),
        ["GET", path, _] => {
            let job = jobs.iter_mut().find(|(id, _)| path.ends_with(id.as_str()));
            job.map_or(serde_json::Value::Null, describe)
        }
        _ => serde_json::Value::Null,
    };
    let text = found.to_string();
    write!(&stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())
}

#[test]
fn a_search_by_rays_jobs_is_killed_goes_on_and_writes_the_log_of_processes() {
    goes_on_with_rays_jobs(false);
}

#[test]
fn a_search_by_rays_pilot_jobs_is_killed_goes_on_and_writes_the_log_of_processes() {
    goes_on_with_rays_jobs(true);
}

fn goes_on_with_rays_jobs(pilots: bool) {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let script = "echo {id} >> where; case {id} in 7) exit 4;; esac; sleep 0.5; \
                  echo \"{\\\"valid\\\": 0.$(echo {arch} | tr -d -)}\"";
    let script = &script.replace("where", folder.join("where").to_str().unwrap());
    write_config(folder, "own.toml", 10, script, "");
    let head = Head::start("");
    write_config(folder, "ray.toml", 10, script, &head.executor(pilots));
    let path = |name: &str| folder.join(name).to_str().unwrap().to_string();
    let args = |config: &str, out: &str| -> Vec<String> {
        ["search", "--config", &path(config), "--out", &path(out), "--resume", "--threads", "1"]
            .map(String::from)
            .into()
    };
    let own = [args("own.toml", "own"), vec!["--workers".into(), "3".into()]].concat();
    CLASSIFY.succeed(&own.iter().map(String::as_str).collect::<Vec<_>>());
    fs::remove_file(folder.join("where")).unwrap();
    let of_ray = args("ray.toml", "run");
    let of_ray: Vec<&str> = of_ray.iter().map(String::as_str).collect();
    let started = || fs::read_to_string(folder.join("where")).unwrap_or_default().lines().count();
    CLASSIFY.kill_when(&of_ray, || started() >= 4);
    CLASSIFY.succeed(&of_ray);
    assert_same_file(&folder.join("own"), &folder.join("run"), "trials.jsonl");
    assert_eq!(started(), 10, "no trial was started twice");
    let mut jobs = head.submitted.lock().unwrap();
    assert_eq!(jobs.len(), if pilots { 3 } else { 10 });
    assert!(jobs.iter_mut().all(|(_, job)| job.wait().unwrap().success()), "told that the search has ended");
    let nobody = ["--set", "executor.address=http://127.0.0.1:9"];
    let none = args("ray.toml", "none");
    let error = CLASSIFY.fail(&[&none.iter().map(String::as_str).collect::<Vec<_>>()[..], &nobody].concat());
    assert!(error.contains("http://127.0.0.1:9/api/jobs/: cannot ask Ray"), "{error}");
}

/// A worker that is lost costs the trial that it had, and another comes in its place; those that never come end the search.
#[test]
fn what_happens_to_pilot_jobs_fails_their_trials_alone() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    // Between a program and the worker stands its supervisor.
    let script = "case {id} in 5) kill -9 $(cut -d' ' -f4 /proc/$PPID/stat); sleep 9;; esac; echo '{\"valid\": 0.5}'";
    let head = Head::start("");
    write_config(folder, "ray.toml", 12, script, &head.executor(true));
    let path = |name: &str| folder.join(name).to_str().unwrap().to_string();
    CLASSIFY.succeed(&["search", "--config", &path("ray.toml"), "--out", &path("run"), "--threads", "1"]);
    for record in records(&folder.join("run")) {
        match (record.trial.id, record.outcome) {
            (5, Outcome::Failed(reason)) => assert!(reason.contains("FAILED"), "{reason}"),
            (_, outcome) => assert!(matches!(outcome, Outcome::Metrics(_)), "{outcome:?}"),
        }
    }
    assert_eq!(head.submitted.lock().unwrap().len(), 4);
    let head = Head::start("echo no such card; exit 3;");
    write_config(folder, "broken.toml", 10, script, &head.executor(true));
    let error =
        CLASSIFY.fail(&["search", "--config", &path("broken.toml"), "--out", &path("broken"), "--threads", "1"]);
    assert!(error.contains("3 jobs in a row ended without having taken a trial"), "{error}");
    assert!(error.contains("FAILED"), "{error}");
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
