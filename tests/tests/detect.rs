//! `nas-detect train`, `search`, `compare` and their companions as people call them.

use std::fs;
use std::path::Path;

use nas_core::search::log as trial_log;
use nas_tests::DETECT;
use serde_json::Value;

const TRAIN: &str = "tests/configs/tiny_detect.toml";
const SEARCH: &str = "tests/configs/tiny_detect_search.toml";

fn args<'a>(job: &'a str, config: &'a str, out: &'a Path) -> Vec<&'a str> {
    let out = out.to_str().unwrap();
    vec![job, "--config", config, "--out", out, "--device", "cpu", "--threads", "1", "--format", "json"]
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&DETECT.succeed(args)).unwrap()
}

#[test]
fn a_training_that_cannot_beat_the_best_ends_early_and_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let stop = "train.early_stop={best=1.0,rule={every=2,min_epochs=4}}";
    let more = ["--set", stop, "--set", "train.optimizer.lr=1e-6", "--set", "train.epochs=12"];
    let out = temp.path().join("run");
    let all = [args("train", TRAIN, &out), more.to_vec()].concat();
    let stderr = DETECT.fail(&all);
    assert!(stderr.contains("eval.every = 2, expected 1"), "{stderr}");
    let result = json(&[all, vec!["--set", "eval.every=1", "--resume"]].concat());
    let epochs = result["stopped"]["epochs"].as_u64().unwrap();
    assert!((4..12).contains(&epochs), "{result}");
}

#[test]
fn what_was_trained_is_scored_predicted_and_reported() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name).to_str().unwrap().to_string();
    let data = path("shapes");
    DETECT.succeed(&["data", "synth", "--out", &data, "--images", "24", "--seed", "1"]);
    let sets = format!("data={{kind='coco', root='{data}'}}");
    let more = ["--set", &sets, "--set", "train.epochs=3", "--set", "train.optimizer.lr=0.05"];
    let trained = json(&[args("train", TRAIN, &temp.path().join("run")), more.to_vec()].concat());
    assert_eq!(trained["scores"]["images"], 6);

    let run = path("run");
    let compute = ["--device", "cpu", "--threads", "1", "--format", "json", "--weights", "last"];
    let results = path("results.json");
    let scored = json(&[&["eval", "--run", &run, "--results", &results][..], &compute].concat());
    assert_eq!(scored, trained["scores"]);
    // The results file holds all that the score counts: scored as anybody's file, it gives the same numbers.
    let gt = format!("{data}/annotations/instances_val2017.json");
    let of_file = json(&["eval", "--gt", &gt, "--dt", &results, "--format", "json"]);
    assert_eq!(of_file["stats"], scored["stats"]);
    assert!(fs::read_to_string(&results).unwrap().contains("bbox"));
    assert_eq!(json(&[&["eval", "--run", &run, "--metric", "voc"][..], &compute].concat())["images"], 6);

    let (split, files) = (path("split"), path("files"));
    json(&[&["predict", "--run", &run, "--out", &split, "--min-score", "0"][..], &compute].concat());
    assert_eq!(fs::read(format!("{split}/results.json")).unwrap(), fs::read(&results).unwrap());
    assert_eq!(fs::read_dir(format!("{split}/pictures")).unwrap().count(), 6);
    let image = format!("{data}/val2017/000002.png");
    let predicted = json(&[&["predict", "--run", &run, &image, "--out", &files][..], &compute].concat());
    assert_eq!(predicted["images"], 1);
    let of_image: Vec<Value> = serde_json::from_slice(&fs::read(format!("{files}/results.json")).unwrap()).unwrap();
    let all: Vec<Value> = serde_json::from_slice(&fs::read(&results).unwrap()).unwrap();
    let boxes = |found: &[Value], id: i64| -> Vec<Value> {
        found.iter().filter(|found| found["image_id"] == id).map(|found| found["bbox"].clone()).collect()
    };
    assert_eq!(boxes(&of_image, 1), boxes(&all, 2));
    assert!(DETECT.succeed(&["report", &run]).contains("best ap"));

    let error = DETECT.fail(&["predict", "--run", &run, &path("none.png"), "--out", &files]);
    assert!(error.contains("none.png"), "{error}");
    let error = DETECT.fail(&["eval", "--run", &run, "--set", "model.neck.channels=24"]);
    assert!(error.contains("other network"), "{error}");
    assert!(DETECT.fail(&["eval"]).contains("--run DIR"));
}

#[test]
fn a_search_keeps_its_bound_and_both_trainings_run() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("search");
    let found = json(&args("search", SEARCH, &out));
    let records = trial_log::read(&out.join("supernet_search/trials.jsonl")).unwrap();
    assert_eq!(records.len(), 12);
    let mut archs: Vec<_> = records.iter().map(|record| &record.trial.arch).collect();
    archs.sort();
    archs.dedup();
    assert_eq!(archs.len(), 12, "no candidate is scored twice");
    let best = records.iter().find(|record| found["architecture"] == record.trial.arch.to_string()).unwrap();
    let most = records.iter().filter_map(|record| record.metric("supernet_ap")).fold(0.0, f64::max);
    assert_eq!((best.metric("supernet_ap"), found["candidate"]["supernet_ap"].as_f64()), (Some(most), Some(most)));
    for record in &records {
        let macs = record.metric("backbone_macs").unwrap();
        assert!(macs <= 250e3, "{record:?}");
        let arch = record.trial.arch.to_string();
        let cost = json(&["cost", TRAIN, "--size", "64x64", "--num-classes", "3", "--arch", &arch, "--format", "json"]);
        assert_eq!((cost["backbone_macs"].as_f64(), cost["macs"].as_f64()), (Some(macs), record.metric("macs")));
    }

    let train = |name: &str| {
        let config = out.join(if name == "scratch" { "train.toml" } else { "train_inherited.toml" });
        let run = temp.path().join(name);
        // A rate of 0: the weights stay the initial ones.
        json(&[args("train", config.to_str().unwrap(), &run), vec!["--set", "train.optimizer.lr=0.0"]].concat());
    };
    train("scratch");
    train("inherited");
    let weights = |run: &Path| {
        let tensors = tch::Tensor::read_safetensors(run.join("checkpoints/last.safetensors")).unwrap();
        tensors.into_iter().collect::<std::collections::HashMap<_, _>>()
    };
    let (supernet, inherited, scratch) =
        (weights(&out), weights(&temp.path().join("inherited")), weights(&temp.path().join("scratch")));
    let op = best.trial.arch.choices()[1];
    let of_supernet = supernet
        .iter()
        .find(|(name, _)| name.starts_with(&format!("backbone.blocks.1.{op}.")) && name.ends_with("conv.weight"));
    let (name, tensor) = of_supernet.unwrap();
    let name = name.replacen(&format!("blocks.1.{op}."), "blocks.1.", 1);
    assert!(inherited[&name] == *tensor && scratch[&name] != *tensor, "{name}");

    let error = DETECT.fail(
        &[
            args("search", SEARCH, &temp.path().join("x")),
            vec!["--set", "constraints=[{metric='backbone_macs', upper=10}]"],
        ]
        .concat(),
    );
    assert!(error.contains("none of 10000 random architectures"), "{error}");
    let error = DETECT.fail(
        &[args("search", SEARCH, &temp.path().join("y")), vec!["--set", "one_shot.method.strategy={kind='hyperband'}"]]
            .concat(),
    );
    assert!(error.contains("hyperband"), "{error}");
}

#[test]
fn necks_of_both_spaces_are_searched_by_trials_that_can_be_killed() {
    let temp = tempfile::tempdir().unwrap();
    let train = fs::read_to_string(nas_tests::root().join(TRAIN))
        .unwrap()
        .replace("epochs = 6", "epochs = 1")
        .replace("kind = \"train\"", "kind = \"search\"");
    let train = train.replace("num_images = 80", "num_images = 40");
    for (kind, space) in [
        ("nas_fpn", "{ kind = 'nas_fpn', levels = { min = 3, max = 5 }, intermediate = 1, channels = 16, stacks = 1 }"),
        ("bifpn", "{ kind = 'bifpn', levels = { min = 3, max = 5 } }"),
    ] {
        let config = temp.path().join(format!("{kind}.toml"));
        let bound = "constraints = [{ metric = 'params', upper = 400e3 }]";
        let text = format!(
            "num_trials = 5\ncost_size = [64, 64]\nstrategy = {{ kind = 'random' }}\nobjectives = [{{ metric = 'ap' }}]\n\
             evaluator = {{ kind = 'train', held_out = 0.2 }}\n{bound}\nspace = {space}\n{train}"
        );
        fs::write(&config, text).unwrap();
        let config = config.to_str().unwrap();
        let [straight, killed] = ["straight", "killed"].map(|name| temp.path().join(kind).join(name));
        let found = json(&args("search", config, &straight));
        if kind == "nas_fpn" {
            DETECT.run_with_kills(&[args("search", config, &killed), vec!["--resume"]].concat());
            let log = |run: &Path| fs::read(run.join("trials.jsonl")).unwrap();
            assert!(log(&straight) == log(&killed));
        }
        let records = trial_log::read(&straight.join("trials.jsonl")).unwrap();
        assert!(records.len() == 5 && records.iter().all(|record| record.metric("params").unwrap() <= 400e3));
        assert_eq!(found["num_failed"], 0, "{kind}");
        let train = straight.join("train.toml");
        let cost =
            json(&["cost", train.to_str().unwrap(), "--size", "64x64", "--num-classes", "3", "--format", "json"]);
        assert_eq!(cost["params"].as_f64(), found["best"]["metrics"]["params"].as_f64(), "{kind}");
    }
}

#[test]
fn models_are_compared_on_every_seed_with_pictures() {
    let temp = tempfile::tempdir().unwrap();
    let train = fs::read_to_string(nas_tests::root().join(TRAIN)).unwrap();
    let network = |arch: &str| {
        let line = |key: &str| train.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))).unwrap();
        let backbone = line("backbone").replace(" }", &format!(", arch = '{arch}' }}"));
        format!("{{ backbone = {backbone}, neck = {}, head = {} }}", line("neck"), line("head"))
    };
    let models =
        ["0-0-0-0", "3-3-3-3"].map(|arch| format!("[[models]]\nname = 'a{arch}'\nmodel = {}\n", network(arch)));
    let (head, rest) = (train.find("[model]").unwrap(), train.find("[train]").unwrap());
    let text = format!("kind = 'compare'\nseeds = [0, 1]\npictures = 2\n{}{}", models.concat(), &train[rest..])
        .replace("epochs = 6", "epochs = 1");
    assert!(head < rest);
    let config = temp.path().join("compare.toml");
    fs::write(&config, text).unwrap();
    let out = temp.path().join("compared");
    let table = json(&args("compare", config.to_str().unwrap(), &out));
    assert_eq!(table["rows"].as_array().unwrap().len(), 2);
    assert_eq!(table["rows"][0]["ap50"].as_array().unwrap().len(), 2);
    assert_eq!(fs::read_dir(out.join("pictures")).unwrap().count(), 2);
    assert!(fs::read_to_string(out.join("table.md")).unwrap().contains("AP50 %"));
}
