//! `report --html`, `--optuna` and `--tensorboard`: what they hold, and that a browser, Optuna and TensorBoard show it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nas_core::run::tensorboard::Events;
use nas_core::search::log as trial_log;
use nas_core::train::read_metrics;
use nas_tests::{CLASSIFY, DETECT, SEGMENT, root};
use serde_json::Value;

/// A search on a table that is written here: two objectives, a bound, a far outlier, a name that would be markup.
const SEARCH: &str = r#"
kind = "search"
num_trials = 60
[space]
kind = "nasbench201"
[strategy]
kind = "nsga2"
population_size = 10
[[objectives]]
metric = "acc"
[[objectives]]
metric = "<b>cost</b>"
goal = "minimize"
[[constraints]]
metric = "size"
upper = 14.0
[evaluator]
kind = "table"
path = "table.csv"
[baseline]
kind = "random"
"#;

const COMPARE: &str = r#"
kind = "compare"
seeds = [0, 1]
[[models]]
name = "wide & <wide>"
model = { kind = "nasbench201", arch = "3-0-1-2-1-3", channels = 8, cells = 1 }
[[models]]
name = "narrow"
model = { kind = "nasbench201", arch = "3-0-1-2-1-3", channels = 4, cells = 1 }
[train]
epochs = 3
batch_size = 20
[data]
kind = "synth"
num_images = 60
num_val = 20
side = 16
[augment]
size = [16, 16]
"#;

fn table() -> String {
    let mut text = String::from("arch,acc,<b>cost</b>,size\n");
    for code in 0..5u32.pow(6) {
        let choices: Vec<u32> = (0..6).map(|i| code / 5u32.pow(i) % 5).collect();
        let sum: u32 = choices.iter().sum();
        let acc = if code % 97 == 0 { 0.01 } else { 0.9 + 0.002 * f64::from(choices[0] * 3 + choices[5]) };
        let arch = choices.iter().map(u32::to_string).collect::<Vec<_>>().join("-");
        text += &format!("{arch},{acc},{},{sum}\n", 1.0 + f64::from(choices[1] + choices[2]));
    }
    text
}

/// The runs in a folder: a search and a comparison.
fn runs(folder: &Path, more: &[&str]) -> [PathBuf; 2] {
    fs::write(folder.join("table.csv"), table()).unwrap();
    let all = [("a<b>&\"c\"", "search", SEARCH), ("compare", "compare", COMPARE)];
    all.map(|(name, command, config)| {
        let file = folder.join(format!("{command}.toml"));
        fs::write(&file, config.replace("table.csv", folder.join("table.csv").to_str().unwrap())).unwrap();
        let out = folder.join(name);
        let [config, out_text] = [&file, &out].map(|path| path.to_str().unwrap());
        let args = [command, "--config", config, "--out", out_text, "--device", "cpu", "--threads", "1"];
        CLASSIFY.succeed(&[&args[..], more].concat());
        out
    })
}

/// The data that a page embeds.
fn data(page: &str) -> Value {
    let (_, text) = page.split_once("type=\"application/json\">").expect("the page has data");
    serde_json::from_str(text.split_once("</script>").expect("they end").0).expect("they are JSON")
}

fn has(program: &str) -> bool {
    let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

#[test]
fn one_page_shows_a_search_and_a_comparison_and_a_browser_uses_it() {
    let temp = tempfile::tempdir().unwrap();
    let [search, compare] = runs(temp.path(), &[]);
    let page = temp.path().join("page.html");
    let text = [&search, &compare, &page].map(|path| path.to_str().unwrap());
    let printed = CLASSIFY.succeed(&["report", text[0], text[1], "--html", text[2], "--format", "json"]);
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(printed["runs"].as_array().unwrap().len(), 2);

    let html = fs::read_to_string(&page).unwrap();
    assert!(
        !html.contains("<b>cost") && html.contains("\\u003cb\\u003ecost"),
        "markup of the data is none of the page"
    );
    let data = data(&html);
    let runs = data["runs"].as_array().unwrap();
    let names: Vec<&str> = runs.iter().map(|run| run["name"].as_str().unwrap()).collect();
    assert_eq!(names[..2], ["a<b>&\"c\"", "compare"]);
    assert_eq!(names.len(), 2 + 4, "two models on two seeds");
    let part = &runs[0]["parts"][0];
    let trials = part["trials"].as_array().unwrap();
    assert_eq!((trials.len(), runs[0]["parts"][1]["name"].as_str()), (60, Some("baseline")));
    assert_eq!(part["decisions"][5]["name"], "3<-2");
    assert!(trials.iter().any(|trial| trial["front"] == true) && trials.iter().any(|trial| trial["feasible"] == false));
    assert!(trials.iter().all(|trial| trial["secs"].is_number()), "the search has marked the times");
    assert!(part["drawings"][0].as_str().unwrap().starts_with("<svg"));
    let epoch = &runs[2]["epochs"][1];
    for key in ["loss", "lr", "top1", "secs", "images_per_sec"] {
        assert!(epoch[key].is_number(), "{key} in {epoch}");
    }
    assert_eq!(runs[2]["confusion"]["counts"].as_array().unwrap().len(), 10);
    assert_eq!(runs[2]["classes"]["rows"].as_array().unwrap().len(), 10);
    assert_eq!(runs[0]["notes"].as_array().unwrap().len() + runs[1]["notes"].as_array().unwrap().len(), 0);
    in_a_browser(&page, "a<b>&\"c\", compare");
}

/// The worst come first, the best last, of every task; each is a picture with what was said of it.
#[test]
fn a_page_shows_the_samples_that_a_network_does_worst_and_best_on() {
    let temp = tempfile::tempdir().unwrap();
    let classify = "model = { kind = 'nasbench201', arch = '3-0-1-2-1-3', channels = 4, cells = 1 }
data = { kind = 'synth', num_images = 20, num_val = 6, side = 16 }
augment = { size = [16, 16] }";
    let segment = "model = { preset = 'mobile_seg_deeplabv3plus_11' }
data = { kind = 'synth', num_images = 4, num_val = 6, height = 32, width = 64, seed = 0 }
augment = { crop = [33, 33] }";
    let detect = "model = { preset = 'fcos_detnas_tiny' }
data = { kind = 'shapes', num_images = 4, num_val = 6, seed = 0 }
augment = { short = 64, long = 64, pad_multiple = 128 }";
    for (tool, config, unit) in [(CLASSIFY, classify, ": "), (SEGMENT, segment, "mIOU "), (DETECT, detect, "AP ")] {
        let at =
            |name: &str| temp.path().join(format!("{tool:?}{name}").replace(['"', '(', ')'], "")).display().to_string();
        fs::write(at("train.toml"), format!("kind = 'train'\ntrain = {{ epochs = 1, batch_size = 2 }}\n{config}\n"))
            .unwrap();
        let (config, run, page) = (at("train.toml"), at("run"), at("page.html"));
        tool.succeed(&["train", "--config", &config, "--out", &run, "--device", "cpu"]);
        tool.succeed(&["report", &run, "--html", &page, "--images", "2", "--device", "cpu"]);
        let data = data(&fs::read_to_string(&page).unwrap());
        let pictures = data["runs"][0]["pictures"].as_array().unwrap();
        let names: Vec<&str> = pictures.iter().map(|picture| picture["name"].as_str().unwrap()).collect();
        let place = |name: &&str| name.split(':').next().unwrap().to_string();
        assert_eq!(names.iter().map(place).collect::<Vec<_>>(), ["worst", "worst", "best", "best"], "{names:?}");
        assert!(names.iter().all(|name| name.contains(unit) && name.ends_with('%')), "{names:?}");
        let score = |name: &str| -> f64 {
            let (_, said) = name.split_once(", ").unwrap();
            said.split_whitespace().find_map(|word| word.parse().ok()).unwrap()
        };
        let scores: Vec<f64> = names.iter().map(|name| score(name)).collect();
        assert!(scores[0] <= scores[1] && scores[1] <= scores[3] && scores[3] <= scores[2], "{names:?}");
        assert!(
            pictures.iter().all(|picture| picture["data"].as_str().unwrap().starts_with("data:image/png;base64,iVBOR"))
        );
    }
}

/// Opens the page in headless Chromium, where there is one.
fn in_a_browser(page: &Path, title: &str) {
    if !(has("chromium") && has("chromedriver") && has("python3")) {
        eprintln!("skipped: chromium, chromedriver or python3 is missing (Debian: chromium chromium-driver)");
        return;
    }
    let shot = page.with_extension("png");
    let script = root().join("tests/browser/page.py");
    let seen = Command::new("python3").arg(script).arg(page).arg(&shot).arg("dark").output().expect("python3 runs");
    assert!(seen.status.success(), "{}", String::from_utf8_lossy(&seen.stderr));
    let seen: Value = serde_json::from_slice(&seen.stdout).expect("what was seen is JSON");
    let none: [Value; 0] = [];
    assert_eq!(seen["errors"].as_array().unwrap()[..], none, "the console");
    assert_eq!(seen["requests"].as_array().unwrap()[..], none, "the network");
    assert_eq!((seen["title"].as_str(), seen["heading"].as_str()), (Some(title), Some(title)));
    assert_eq!(seen["markup"], 0, "names are text");
    assert!(seen["overflow"].as_i64().unwrap() <= 0, "wider than the window");
    let sections = ["result", "curves", "trials", "classes", "experiments"];
    assert_eq!(seen["sections"].as_array().unwrap()[..], sections.map(Value::from));
    assert!(
        seen["pictures"].as_array().unwrap().iter().all(|is_shown| is_shown == true) && seen["pictures"][0] == true
    );
    let chart = |name: &str| {
        let charts = seen["charts"].as_array().unwrap();
        charts
            .iter()
            .find(|chart| chart["name"] == name)
            .unwrap_or_else(|| panic!("no chart {name} in {charts:?}"))
            .clone()
    };
    assert!(chart("loss")["lines"].as_u64() >= Some(4), "every training");
    assert!(chart("acc over <b>cost</b>")["dots"].as_u64() > Some(60), "every trial");
    assert!(chart("best so far")["lines"].as_u64() >= Some(2), "search and baseline");
    assert_eq!(chart("choices of all trials")["ways"], 60);
    let tip = |name: &str| seen["tips"][name].as_str().unwrap_or_else(|| panic!("no tip over a {name}")).to_string();
    assert!(tip("point").contains("trial ") && tip("point").contains("<b>cost</b>"), "{}", tip("point"));
    assert!(tip("curve").contains("epoch") && tip("cell").contains("predicted") && tip("way").contains("trial "));
    for (turn, direction) in [(0, "ascending"), (1, "descending")] {
        let (column, sorted) = (&seen["sorted"][turn][0], seen["sorted"][turn][1].as_str());
        let number = |cell: &Value| cell.as_str().unwrap().parse::<f64>().unwrap();
        let mut values: Vec<f64> = column.as_array().unwrap().iter().map(number).collect();
        if direction == "descending" {
            values.reverse();
        }
        assert!(values.len() > 40 && values.is_sorted() && sorted == Some(direction), "{column}");
    }
}

/// A Python that has TensorBoard and Optuna.
fn python_with_boards() -> Option<std::ffi::OsString> {
    let python = std::env::var_os("NAS_PYTHON");
    let imports = |python: &std::ffi::OsString| {
        let import = Command::new(python).args(["-c", "import tensorboard, optuna, pkg_resources"]).output();
        import.is_ok_and(|output| output.status.success())
    };
    let found = python.filter(imports);
    if found.is_none() {
        eprintln!("skipped: NAS_PYTHON names no Python with tensorboard and optuna (`cargo xtask test` makes one)");
    }
    found
}

#[test]
fn tensorboard_and_optuna_read_the_figures_of_the_logs() {
    let temp = tempfile::tempdir().unwrap();
    let [search, compare] = runs(temp.path(), &["--tensorboard"]);
    // A training that goes on: its third epoch stands once.
    let training = compare.join("configs/narrow-s0.toml");
    let (config, out) = (training.to_str().unwrap(), temp.path().join("longer"));
    let args = ["train", "--config", config, "--out", out.to_str().unwrap(), "--threads", "1", "--tensorboard"];
    let until = |epochs: &str| {
        CLASSIFY.succeed(&[&args[..], &["--device", "cpu", "--resume", "--set", epochs]].concat());
    };
    until("train.epochs=2");
    until("train.epochs=4");
    let mut png = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(6, 4).write_to(&mut png, image::ImageFormat::Png).unwrap();
    Events::create(&temp.path().join("drawn"), None).unwrap().image(0, "a sheet", png.into_inner()).unwrap();
    let journal = temp.path().join("journal.log");
    let text = [&search, &compare, &journal].map(|path| path.to_str().unwrap());
    CLASSIFY.succeed(&["report", text[0], text[1], "--optuna", text[2]]);
    let error = CLASSIFY.fail(&["report", text[1], "--optuna", text[2]]);
    assert!(error.contains("--optuna: no run has trials"), "{error}");

    let Some(python) = python_with_boards() else { return };
    let script = root().join("tests/browser/boards.py");
    let seen = Command::new(python).arg(script).arg(temp.path()).arg(&journal).output().expect("python runs");
    assert!(seen.status.success(), "{}", String::from_utf8_lossy(&seen.stderr));
    let seen: Value = serde_json::from_slice(&seen.stdout).expect("what was seen is JSON");
    let board = &seen["tensorboard"];
    assert_eq!(board["images"]["drawn"]["a sheet"]["samples"], 1, "{}", board["images"]);

    for (run, folder) in [("compare/runs/narrow-s0", compare.join("runs/narrow-s0")), ("longer", out.clone())] {
        let scalars = &board["scalars"][format!("{run}/tensorboard")];
        let lines = read_metrics(&folder).unwrap();
        assert_eq!(scalars["images_per_sec"].as_array().unwrap().len(), lines.len());
        for key in ["loss", "lr", "top1"] {
            let expected: Vec<(u64, f32)> = lines
                .iter()
                .map(|line| (line["epoch"].as_u64().unwrap(), line[key].as_f64().unwrap() as f32))
                .collect();
            let pair = |pair: &Value| (pair[0].as_u64().unwrap(), pair[1].as_f64().unwrap() as f32);
            let found: Vec<(u64, f32)> = scalars[key].as_array().unwrap().iter().map(pair).collect();
            assert_eq!(found, expected, "{key} of {run}");
        }
    }

    let records = trial_log::read(&search.join("trials.jsonl")).unwrap();
    let baseline = trial_log::read(&search.join("baseline/trials.jsonl")).unwrap();
    let name = search.file_name().unwrap().to_str().unwrap();
    let groups = board["hparams"].as_array().unwrap();
    assert_eq!(groups.len(), records.len() + baseline.len() + 4 + 1, "trials and trainings");
    let record = &records[7];
    let row =
        groups.iter().find(|group| group["sessions"][0]["name"] == format!("{name}/tensorboard/trial_00007")).unwrap();
    let operators = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"];
    assert_eq!(row["hparams"]["1<-0"], operators[usize::from(record.trial.arch.choices()[0])]);
    let acc = row["metricValues"].as_array().unwrap().iter().find(|value| value["name"]["tag"] == "acc").unwrap();
    assert_eq!(acc["value"].as_f64().map(|value| value as f32), record.metric("acc").map(|value| value as f32));
    let best = board["scalars"][format!("{name}/tensorboard")]["best acc"].as_array().unwrap();
    let feasible = records.iter().filter(|record| record.metric("size") <= Some(14.0));
    let expected = feasible.filter_map(|record| record.metric("acc")).fold(0.0, f64::max) as f32;
    assert_eq!(best.last().unwrap()[1].as_f64().map(|value| value as f32), Some(expected));

    let study = &seen["optuna"][name];
    assert_eq!(study["directions"], serde_json::json!(["MAXIMIZE", "MINIMIZE"]));
    assert_eq!(study["metrics"], serde_json::json!(["acc", "<b>cost</b>"]));
    let trials = study["trials"].as_array().unwrap();
    assert_eq!(trials.len(), records.len());
    for (trial, record) in trials.iter().zip(&records) {
        assert_eq!(trial["state"], "COMPLETE");
        assert_eq!(trial["values"][0].as_f64(), record.metric("acc"));
        assert_eq!(trial["params"]["3<-2"], operators[usize::from(record.trial.arch.choices()[5])]);
        assert_eq!(trial["constraints"][0].as_f64() > Some(0.0), record.metric("size") > Some(14.0));
    }
    let result: Value = serde_json::from_slice(&fs::read(search.join("result.json")).unwrap()).unwrap();
    let acc = |number: &Value| trials[number.as_u64().unwrap() as usize]["values"][0].as_f64();
    let best = study["best"].as_array().unwrap().iter().map(acc).fold(None, |a, b| if a > b { a } else { b });
    assert_eq!(best, result["best"]["metrics"]["acc"].as_f64(), "Optuna's best by the same bounds");
    assert_eq!(seen["optuna"][format!("{name} baseline")]["directions"], serde_json::json!(["MAXIMIZE"]));
}

#[test]
fn a_page_needs_runs_and_says_which_is_none() {
    let temp = tempfile::tempdir().unwrap();
    let error = CLASSIFY.fail(&["report", temp.path().to_str().unwrap(), "--html", "x.html"]);
    assert!(error.contains("no run folder"), "{error}");
    let error =
        CLASSIFY.fail(&["bench", "--table", "x.csv", "--valid", "a", "--strategy", "random", "--plot", "x.png"]);
    assert!(error.contains("--plot") && error.contains("ends in .svg"), "{error}");
}
