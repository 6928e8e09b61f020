//! Every command that computes for long, killed at random moments by random signals and resumed, ends with the files of a run that
//! nobody disturbed: tensors, metrics and results.
//!
//! The seed of the moments changes and is printed; `NAS_SEED` repeats one. The test takes commands in a random order for about
//! `NAS_SECONDS` (default: 60); the ignored one takes all of them until there were a hundred kills.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use nas_datasets::rng::{self, ChaCha8Rng};
use nas_tests::{CLASSIFY, DETECT, SEGMENT, Tool, assert_same_file, root};
use rand::Rng;
use rand::seq::SliceRandom;
use serde_json::Value;
use tempfile::TempDir;
use toml::Table;

/// A command with its experiment.
struct Job {
    name: &'static str,
    tool: Tool,
    command: &'static str,
    config: Table,
    more: &'static [&'static str],
}

fn table(text: &str) -> Table {
    text.parse().unwrap()
}

fn committed(name: &str) -> Table {
    table(&fs::read_to_string(root().join("tests/configs").join(name)).unwrap())
}

/// `base` with the keys of `text` in the place of its own, section by section.
fn with(mut base: Table, text: &str) -> Table {
    fn merge(base: &mut Table, over: Table) {
        for (key, value) in over {
            match (base.get_mut(&key), value) {
                (Some(toml::Value::Table(base)), toml::Value::Table(over)) if !over.contains_key("kind") => {
                    merge(base, over)
                }
                (_, value) => _ = base.insert(key, value),
            }
        }
    }
    merge(&mut base, table(text));
    base
}

/// The comparison of a training's network with itself under another name, on two seeds.
fn comparison(mut training: Table) -> Table {
    let model = training.remove("model").unwrap();
    training.remove("seed");
    let named =
        |name: &str| Table::from_iter([("name".to_string(), name.into()), ("model".to_string(), model.clone())]);
    training.insert("models".into(), vec![named("a"), named("b")].into());
    with(training, "kind = 'compare'\nseeds = [1, 2]\npictures = 1")
}

/// A search whose trials are trainings.
fn trials(mut training: Table, more: &str) -> Table {
    training.remove("model");
    let search = "kind = 'search'\nnum_trials = 4\nstrategy = { kind = 'random' }\nevaluator = { kind = 'train', held_out = 0.25 }";
    with(with(training, search), more)
}

fn jobs() -> Vec<Job> {
    let classify = || with(committed("tiny_classify.toml"), "[train]\nepochs = 4\n[data]\nnum_images = 320");
    let segment = || with(committed("tiny_train.toml"), "[train]\nepochs = 4\n[data]\nnum_images = 40");
    let detect = || with(committed("tiny_detect.toml"), "[train]\nepochs = 4\n[data]\nnum_images = 40");
    let mut one_shot = with(classify(), "kind = 'one_shot'\nspace = { kind = 'nasbench201', channels = 4, cells = 1 }");
    one_shot.retain(|key, _| key != "model" && key != "train");
    let one_shot = with(one_shot, "[one_shot]\nepochs = 4\nbatch_size = 16\nmethod = { kind = 'gdas' }");
    let program = "sleep 0.03; echo \"{\\\"valid\\\": 0.$(echo {arch} | tr -d -)}\"";
    let program = format!(
        "kind = 'search'\nnum_trials = 24\nspace = {{ kind = 'nasbench201' }}\nstrategy = {{ kind = 'regularized_evolution', \
         population_size = 5, sample_size = 3 }}\nobjectives = [{{ metric = 'valid' }}]\nevaluator = {{ kind = 'command', \
         metrics = ['valid'], command = ['sh', '-c', '''{program}'''] }}"
    );
    let of_cells = "objectives = [{ metric = 'top1' }]\nspace = { kind = 'nasbench201', channels = 4, cells = 1 }\n\
                    [train]\nepochs = 2";
    let of_paths = "objectives = [{ metric = 'miou' }]\nspace = { kind = 'auto_deeplab', layers = 2, blocks = 1, filters = 2, \
                    stem = [4, 4, 4] }\n[train]\nepochs = 1";
    let of_blocks = "objectives = [{ metric = 'ap' }]\nspace = { kind = 'detnas', size = 'tiny', repeats = [1, 1, 1, 1], \
                     stem = 4, channels = [8, 16, 24, 32] }\n[train]\nepochs = 1";
    let detector = detect().get("model").cloned().unwrap();
    let mut detectors = trials(detect(), of_blocks);
    detectors.insert("model".into(), detector);
    let job = |name, tool, command, config| Job { name, tool, command, config, more: &[] };
    let parallel = |job: Job| Job { more: &["--workers", "2"], ..job };
    vec![
        job("classify train", CLASSIFY, "train", classify()),
        job("classify compare", CLASSIFY, "compare", comparison(with(classify(), "[train]\nepochs = 2"))),
        job("classify one-shot search", CLASSIFY, "search", one_shot),
        job("classify search of programs", CLASSIFY, "search", table(&program)),
        parallel(job("classify search of programs, parallel", CLASSIFY, "search", table(&program))),
        job("classify search of trainings", CLASSIFY, "search", trials(classify(), of_cells)),
        parallel(job("classify search of trainings, parallel", CLASSIFY, "search", trials(classify(), of_cells))),
        job("segment train", SEGMENT, "train", segment()),
        job("segment compare", SEGMENT, "compare", comparison(with(segment(), "[train]\nepochs = 2"))),
        job(
            "segment one-shot search",
            SEGMENT,
            "search",
            with(committed("tiny_search.toml"), "[data]\nnum_images = 40"),
        ),
        job("segment search of trainings", SEGMENT, "search", trials(segment(), of_paths)),
        job("detect train", DETECT, "train", detect()),
        job("detect compare", DETECT, "compare", comparison(with(detect(), "[train]\nepochs = 2"))),
        job(
            "detect one-shot search",
            DETECT,
            "search",
            with(committed("tiny_detect_search.toml"), "[data]\nnum_images = 40"),
        ),
        parallel(job("detect search of trainings, parallel", DETECT, "search", detectors)),
    ]
}

impl Job {
    fn args(&self, config: &Path, out: &Path) -> Vec<String> {
        let fixed = ["--resume", "--device", "cpu", "--threads", "1", "--format", "json"];
        let named = [self.command, "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap()];
        named.iter().chain(&fixed).chain(self.more).map(ToString::to_string).collect()
    }

    /// Runs it once in peace, and once with at most `kills` kills; returns how many there were.
    fn survives(&self, kills: usize, rng: &mut ChaCha8Rng) -> usize {
        let temp: TempDir = tempfile::tempdir().unwrap();
        let [config, straight, killed] = ["job.toml", "straight", "killed"].map(|name| temp.path().join(name));
        fs::write(&config, self.config.to_string()).unwrap();
        // The programs are built once, which is not the run's time.
        self.tool.succeed(&["--version"]);
        let started = Instant::now();
        let args = self.args(&config, &straight);
        self.tool.succeed(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let span = started.elapsed();
        let args = self.args(&config, &killed);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let done = (0..kills)
            .take_while(|_| !self.is_done_after(&args, span.mul_f64(rng.random_range(0.05..0.7)), rng))
            .count();
        self.tool.succeed(&args);
        self.compare(&straight, &killed);
        done
    }

    /// Whether the process ended by itself within `patience`; a signal ends it otherwise.
    fn is_done_after(&self, args: &[&str], patience: Duration, rng: &mut ChaCha8Rng) -> bool {
        let mut command = self.tool.command(args);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let started = Instant::now();
        while started.elapsed() < patience && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(2));
        }
        let signal = [libc::SIGKILL, libc::SIGKILL, libc::SIGKILL, libc::SIGTERM, libc::SIGINT][rng.random_range(0..5)];
        if child.try_wait().unwrap().is_none() {
            // SAFETY: kill(2) on a child that has not been waited for.
            unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // Nothing but a signal may end it, and no signal is a bug.
        let by_signal = matches!(output.status.code(), None | Some(1)) && !said.contains("this is a bug");
        assert!(output.status.success() || by_signal, "{}: {}\n{said}", self.name, output.status);
        let refused = output.status.code() == Some(1) && signal == libc::SIGKILL;
        assert!(!refused, "{}: refused to go on\n{said}", self.name);
        output.status.success()
    }

    /// The same files, but for what tells of times and places.
    fn compare(&self, a: &Path, b: &Path) {
        let names = |run: &Path| files(run, run).into_iter().filter(|name| is_result(name)).collect::<BTreeSet<_>>();
        assert_eq!(names(a), names(b), "{}", self.name);
        assert!(names(a).iter().any(|name| name.ends_with("result.json")), "{}: {:?}", self.name, names(a));
        for name in names(a) {
            let path = Path::new(&name);
            match path.extension().and_then(|ending| ending.to_str()) {
                Some("safetensors" | "jsonl" | "csv" | "png") => assert_same_file(a, b, &name),
                Some("json") => assert_eq!(json(a, &name), json(b, &name), "{}: {name}", self.name),
                _ => {}
            }
        }
    }
}

/// Whether a file must be there, the same in both runs.
fn is_result(name: &str) -> bool {
    let file = Path::new(name).file_name().unwrap().to_str().unwrap();
    !matches!(file, ".lock" | "run.log" | "meta.json" | "times.jsonl")
        && !name.starts_with("logs/")
        && !file.ends_with(".svg")
}

fn files(root: &Path, folder: &Path) -> Vec<String> {
    let of = |path: PathBuf| match path.is_dir() {
        true => files(root, &path),
        false => vec![path.strip_prefix(root).unwrap().to_str().unwrap().to_string()],
    };
    fs::read_dir(folder).unwrap().flat_map(|entry| of(entry.unwrap().path())).collect()
}

/// A JSON file without times, and with the run's folder as a name.
fn json(run: &Path, name: &str) -> Value {
    fn timeless(value: &mut Value) {
        match value {
            Value::Object(keys) => {
                keys.retain(|key, _| !key.ends_with("_secs") && !key.ends_with("_per_sec") && key != "made_with");
                keys.values_mut().for_each(timeless);
            }
            Value::Array(values) => values.iter_mut().for_each(timeless),
            _ => {}
        }
    }
    let text = fs::read_to_string(run.join(name)).unwrap().replace(run.to_str().unwrap(), "RUN");
    let mut value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    timeless(&mut value);
    value
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: expected a number")))
}

fn seed() -> u64 {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    number("NAS_SEED").unwrap_or(clock.as_secs())
}

#[test]
fn killed_commands_end_like_those_that_were_not() {
    let (seed, started) = (seed(), Instant::now());
    let time = Duration::from_secs(number("NAS_SECONDS").unwrap_or(60));
    println!("NAS_SEED={seed}");
    let mut rng = rng::stream(seed, "kills", 0);
    let mut jobs = jobs();
    jobs.shuffle(&mut rng);
    let mut kills = 0;
    for job in jobs {
        if started.elapsed() >= time {
            break;
        }
        let of_job = job.survives(4, &mut rng);
        println!("{}: {of_job} kills", job.name);
        kills += of_job;
    }
    assert!(kills > 0, "nothing was killed");
}

/// `ask` and `tell`, each killed once before it is run again: a trial is asked for and told once, and the log is that of a search
/// that nobody disturbed.
#[test]
fn killed_asks_and_tells_are_done_once() {
    let seed = seed();
    println!("NAS_SEED={seed}");
    let mut rng = rng::stream(seed, "kills", 1000);
    let temp: TempDir = tempfile::tempdir().unwrap();
    let config = temp.path().join("search.toml");
    let experiment = "kind = 'search'\nnum_trials = 8\nspace = { kind = 'nasbench201' }\nstrategy = { kind = 'random' }\n\
                      objectives = [{ metric = 'valid' }]\nevaluator = { kind = 'manual', metrics = ['valid'] }";
    fs::write(&config, experiment).unwrap();
    let search = |run: &Path, kill: &mut dyn FnMut(&[&str])| {
        let (config, run) = (config.to_str().unwrap(), run.to_str().unwrap());
        let ask = ["ask", "--config", config, "--run", run, "--format", "json"];
        loop {
            kill(&ask);
            let standing: Value = serde_json::from_str(&CLASSIFY.succeed(&ask)).unwrap();
            for id in standing["running"].as_array().unwrap() {
                let [id, value] = [id.to_string(), format!("valid=0.{id}")];
                let tell = ["tell", "--run", run, &id, &value];
                kill(&tell);
                let output = CLASSIFY.command(&tell).output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success() || said.contains("has been told already"), "{tell:?}: {said}");
            }
            if standing["ended"] == 8 {
                return;
            }
        }
    };
    let [straight, killed] = ["straight", "killed"].map(|name| temp.path().join(name));
    CLASSIFY.succeed(&["--version"]);
    let started = Instant::now();
    search(&straight, &mut |_| ());
    // Eight times asked and told, and asked once more.
    let span = started.elapsed() / 17;
    search(&killed, &mut |args| CLASSIFY.kill_once(args, span.mul_f64(rng.random_range(0.2..1.1))));
    assert_same_file(&straight, &killed, "trials.jsonl");
}

#[test]
#[ignore = "takes some minutes: all commands, a hundred kills"]
fn a_hundred_kills_change_nothing() {
    let seed = seed();
    println!("NAS_SEED={seed}");
    let mut kills = 0;
    for round in 0..10 {
        for (i, job) in (0..).zip(jobs()) {
            let of_job = job.survives(10, &mut rng::stream(seed, "kills", 100 * round + i));
            println!("{}: {of_job} kills", job.name);
            kills += of_job;
        }
        if kills >= 100 {
            println!("{kills} kills in all");
            return;
        }
    }
    panic!("{kills} kills");
}
