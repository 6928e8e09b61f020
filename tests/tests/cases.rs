//! Inputs on which the tools once failed (`tests/cases`), each with its right outcome. `reports` are situations that people met
//! with tools of this field; `attack` are hostile inputs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nas_tests::{CLASSIFY, DETECT, SEGMENT, Tool, data, root};
use serde_json::Value;
use tempfile::TempDir;

/// A copy of a case's folder.
struct Case {
    tool: Tool,
    temp: TempDir,
    lines: Vec<String>,
}

/// How a line ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Case {
    fn new(tool: Tool, name: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let source = root().join("tests/cases").join(name);
        copy(&source, temp.path());
        let lines = fs::read_to_string(source.join("cmd")).unwrap_or_default();
        Self { tool, temp, lines: lines.lines().map(String::from).collect() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn run(&self, line: &str) -> Ended {
        let output = self.tool.shell(self.temp.path(), line);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Line `i` of `cmd`, which must be done.
    fn succeeds(&self, i: usize) -> String {
        self.run(&self.lines[i]).succeeds()
    }

    /// Line `i` of `cmd`, which must be refused with all of `expected` in its output.
    fn refuses(&self, i: usize, expected: &[&str]) {
        self.run(&self.lines[i]).refuses(expected);
    }
}

impl Ended {
    fn succeeds(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    fn refuses(self, expected: &[&str]) {
        assert_eq!(self.code, Some(1), "{self:?}");
        let said = format!("{}{}", self.stdout, self.stderr);
        for words in expected {
            assert!(said.contains(words), "{words:?} is missing in {said}");
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (source, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if source.is_dir() {
            copy(&source, &target);
        } else {
            fs::copy(source, target).unwrap();
        }
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The tests' training of a few seconds, in a folder of its own.
const TINY: &str = "nas-segment train --config $REPO/tests/configs/tiny_train.toml --device cpu --threads 1 \
                    --set train.epochs=1 --set data.num_images=8";

#[test]
fn cityscapes_predictions_score_as_cityscapesscripts_says() {
    let case = Case::new(SEGMENT, "reports/01-cityscapes-own-predictions");
    for i in 0..2 {
        let miou = json(&case.succeeds(i))["miou"].as_f64().unwrap();
        assert!((miou - 0.6142938875806226).abs() < 1e-12, "{miou}");
    }
    case.refuses(
        2,
        &["pred/frankfurt_000000_00000", "found, expected 0..=18", "look like Cityscapes' label ids", "train ids"],
    );
}

#[test]
fn photographs_are_read_as_viewers_show_them() {
    let case = Case::new(SEGMENT, "reports/02-exif-orientation");
    let said = case.succeeds(0);
    assert!(said.contains("train: 4 samples, 0 broken") && said.contains("val: 4 samples, 0 broken"), "{said}");
    assert!(said.contains("4 images are in the train and in the val split"), "{said}");
    let trained =
        case.run("nas-segment train --config train.toml --set train.epochs=1 --device cpu --threads 1 --out run");
    assert!(trained.stderr.contains("warning: 4 images are in the train and in the val split"), "{trained:?}");
}

#[test]
fn a_byte_order_mark_is_no_text() {
    let case = Case::new(SEGMENT, "reports/03-byte-order-mark");
    assert!(case.succeeds(0).contains("train: 3 samples, 0 broken"));
    let said = case.succeeds(1);
    assert!(said.lines().any(|line| line.starts_with("sky ")), "{said}");
    assert_eq!(json(&fs::read_to_string(case.path("run/classes.json")).unwrap())[0], "sky");
}

#[test]
fn classes_in_another_order_are_refused_in_segmentation() {
    let case = Case::new(SEGMENT, "reports/05-eval-classes-in-other-order");
    case.succeeds(0);
    case.succeeds(1);
    case.refuses(2, &["class 0 is \"sky\" in the run, \"road\" in", "data2/classes.txt", "\"sky\", \"road\", \"car\""]);
}

#[test]
fn endings_may_be_of_any_case() {
    let said = Case::new(SEGMENT, "reports/06-mask-upper-case-extension").succeeds(0);
    assert!(said.contains("train: 2 samples, 0 broken"), "{said}");
}

#[test]
fn a_mistyped_command_line_ends_with_1() {
    let case = Case::new(SEGMENT, "reports/07-usage-error-exit-code");
    (0..3).for_each(|i| case.refuses(i, &["error:"]));
    assert_eq!(case.run("nas-segment --help").code, Some(0));
}

#[test]
fn other_classes_are_refused_in_classification() {
    let case = Case::new(CLASSIFY, "reports/08-classify-eval-other-classes");
    case.succeeds(0);
    case.succeeds(1);
    case.refuses(2, &["class 0 is \"cat\" in the run, \"dog\" in", "\"zebra\""]);
}

#[test]
fn coco_json_may_have_a_mark_and_utf_16_is_named() {
    let case = Case::new(DETECT, "reports/09-coco-json-bom");
    const EXPECTED: [f64; 12] = [
        0.233050910681,
        0.559955995600,
        0.167876787679,
        0.100495049505,
        0.281775570414,
        0.391666666667,
        0.133838383838,
        0.425252525253,
        0.425252525253,
        0.1,
        0.45625,
        0.9,
    ];
    let found = json(&case.succeeds(0));
    for (found, expected) in found["stats"].as_array().unwrap().iter().zip(EXPECTED) {
        assert!((found.as_f64().unwrap() - expected).abs() < 1e-11, "{found} {expected}");
    }
    case.refuses(1, &["gt_utf16.json", "UTF-16 found, UTF-8 expected"]);
}

#[test]
fn the_encoding_that_xml_declares_is_read() {
    let said = Case::new(DETECT, "reports/11-voc-declared-encoding").succeeds(0);
    assert!(said.contains('猫') && said.contains("Öl") && said.contains("0 broken") && !said.contains('è'), "{said}");
}

#[test]
fn a_search_without_its_program_stops_with_1() {
    let case = Case::new(CLASSIFY, "reports/12-all-trials-failed");
    case.refuses(0, &["cannot start"]);
    assert!(!case.path("run/result.json").exists());
    let records = fs::read_to_string(case.path("run/trials.jsonl")).unwrap();
    assert_eq!(records.lines().count(), 1);
    let line = "nas-classify search --config search.toml --workers 1 --out other --set 'evaluator.command=[\"sh\",\"-c\",\"exit 3\"]'";
    case.run(line).refuses(&["all 4 trials failed, the first with: sh ended with exit status: 3"]);
}

#[test]
fn what_systems_leave_in_class_folders_is_left_out() {
    let case = Case::new(CLASSIFY, "reports/14-ds-store-in-class-folder");
    assert!(case.succeeds(0).contains("train: 12 samples, 0 broken"));
    case.succeeds(1);
}

#[test]
fn an_image_of_the_annotations_name_is_found() {
    let said = Case::new(DETECT, "reports/15-voc-image-extension").succeeds(0);
    assert!(said.contains("train: 4 samples, 0 broken"), "{said}");
}

#[test]
fn swapped_corners_are_a_box() {
    let said = Case::new(DETECT, "reports/16-voc-swapped-corners").succeeds(0);
    assert!(said.contains("0 broken") && !said.contains("no width"), "{said}");
}

#[test]
fn what_was_not_asked_for_fails_no_trial() {
    let said = Case::new(CLASSIFY, "reports/19-trial-extra-metrics").succeeds(0);
    assert!(
        said.contains("4 trials, 0 failed") && said.contains("trial 3:") && said.contains("valid_acc 0.8"),
        "{said}"
    );
}

#[test]
fn json_errors_are_in_the_words_of_json() {
    let case = Case::new(DETECT, "reports/22-json-messages");
    case.refuses(0, &["annotations[0].iscrowd: \"0\" found, expected 0 or 1"]);
    case.refuses(1, &["[0].score: NaN found, expected a number"]);
    case.refuses(2, &["an object found, expected a list of detections"]);
}

#[test]
fn ids_that_differ_between_splits_are_told_by_file() {
    let case = Case::new(DETECT, "reports/24-splits-differ-message");
    case.refuses(0, &["train.json: class cat has id 1; val.json: id 0"]);
}

#[test]
fn a_label_that_lies_about_its_size_is_refused_at_once() {
    let case = Case::new(SEGMENT, "attack/01-label-png-size");
    let started = Instant::now();
    case.run("ulimit -v 4000000; nas-segment miou --pred pred --gt gt --num-classes 3")
        .refuses(&["v.png", "1000000x1000000 pixels"]);
    assert!(started.elapsed() < Duration::from_secs(10));
}

/// A list's names must not lead out of the folder of predictions: they are refused before anything is written.
#[test]
fn names_of_lists_are_no_paths() {
    let case = Case::new(SEGMENT, "attack/02-list-stem-traversal");
    case.run("nas-segment train --config train.toml --set train.epochs=1 --device cpu --threads 1 --out run")
        .succeeds();
    let line = "nas-segment predict --run run --split test --out out --device cpu --threads 1";
    case.run(line).refuses(&["test.txt: line 1", "/absolute/victim"]);
    fs::write(case.path("data/test.txt"), "../../up\n").unwrap();
    case.run(line).refuses(&["test.txt: line 1", "../../up"]);
    assert!(!case.path("out").exists());
    let case = Case::new(DETECT, "attack/08-voc-list-traversal");
    case.run("nas-detect data check --config train.toml").succeeds();
    for name in ["/absolute/victim/abs/pwn", "../../up/pwn"] {
        fs::write(case.path("data/ImageSets/Main/val.txt"), name).unwrap();
        case.run("nas-detect data check --config train.toml").refuses(&["val.txt: line 1", name]);
    }
}

#[test]
fn folders_of_the_users_own_stay_as_they_are() {
    let case = Case::new(SEGMENT, "attack/03-own-files-lost");
    for (name, text) in [("meta.json", "{\"my\":\"meta\"}"), ("metrics.jsonl", "{\"mine\":1}\n")] {
        fs::create_dir(case.path(name)).unwrap();
        fs::write(case.path(name).join(name), text).unwrap();
        for resume in ["", " --resume"] {
            case.run(&format!("{TINY} --out {name}{resume}")).refuses(&["no run of this program", "empty folder"]);
        }
        let left: Vec<_> = fs::read_dir(case.path(name)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!((left, fs::read_to_string(case.path(name).join(name)).unwrap()), (vec![name.into()], text.into()));
    }
}

#[test]
fn a_path_need_not_be_utf_8() {
    let case = Case::new(SEGMENT, "attack/04-non-utf8-out");
    case.run(&format!("{TINY} --out $'bad\\xff'")).succeeds();
}

#[test]
fn models_of_a_comparison_have_names_and_seeds_of_their_own() {
    let case = Case::new(SEGMENT, "attack/06-compare-name");
    for (config, found) in [("cmp_trav", "../../../cmp_escape"), ("cmp_nl", "the model"), ("cmp_dup", "\"x\" twice")] {
        case.run(&format!("nas-segment compare --config {config}.toml --out out --device cpu")).refuses(&[found]);
    }
    assert!(!case.path("out").exists());
    let case = Case::new(SEGMENT, "attack/16-seeds-twice");
    case.run("nas-segment compare --config cmp.toml --out out --device cpu").refuses(&["seeds", "1 twice"]);
}

#[test]
fn predictions_of_equal_names_do_not_replace_each_other() {
    let case = Case::new(DETECT, "attack/09-coco-name-collision");
    case.run("nas-detect data check --config run.toml").refuses(&["images[4].file_name", "../im/x.png"]);
    let text = fs::read_to_string(case.path("v.json")).unwrap();
    let text = text.replace(", {\"id\": 5, \"width\": 64, \"height\": 64, \"file_name\": \"../im/x.png\"}", "");
    fs::write(case.path("v.json"), text).unwrap();
    let said = case.run("nas-detect data check --config run.toml").succeeds();
    assert!(said.contains("2 samples have the name of another one and got a number"), "{said}");
    let case = Case::new(SEGMENT, "attack/17-camvid-same-stem");
    let said = case.run("nas-segment data check --config cvt.toml").succeeds();
    assert!(said.contains("val: 2 samples, 0 broken") && said.contains("1 samples are listed a second time"), "{said}");
    assert!(said.contains("1 samples have the name of another one and got a number"), "{said}");
}

#[test]
fn a_checkpoint_without_its_config_is_not_taken_up() {
    let case = Case::new(SEGMENT, "attack/11-checkpoint-without-config");
    case.run(&format!("{TINY} --out a")).succeeds();
    case.run("cp -r a b && rm b/config.toml b/result.json").succeeds();
    case.run(&format!("{TINY} --set seed=99 --out b")).refuses(&["no run of this program"]);
}

#[test]
fn a_report_follows_no_link() {
    let case = Case::new(SEGMENT, "attack/12-report-symlink");
    case.run(&format!("{TINY} --out run")).succeeds();
    fs::write(case.path("victim.txt"), "precious").unwrap();
    let curves = case.path("run/curves.svg");
    fs::remove_file(&curves).unwrap();
    symlink("../victim.txt", &curves).unwrap();
    case.run("nas-segment report run").succeeds();
    assert_eq!(fs::read_to_string(case.path("victim.txt")).unwrap(), "precious");
    assert!(!curves.is_symlink());
    // What cannot be written costs the picture alone.
    fs::remove_file(&curves).unwrap();
    fs::create_dir(&curves).unwrap();
    let report = case.run("nas-segment report run");
    assert!(report.stderr.contains("warning: run/curves.svg: cannot write") && report.succeeds().contains("done"));
}

#[test]
fn architecture_parameters_that_are_no_numbers_end_a_search() {
    let case = Case::new(CLASSIFY, "attack/13-gdas-nan");
    for rate in ["nan", "inf"] {
        let method = format!("'one_shot.method={{kind=\"gdas\",arch={{kind=\"adam\",lr={rate}}}}}'");
        let line =
            format!("nas-classify search --config k_gdas.toml --set {method} --device cpu --threads 1 --out {rate}");
        assert_eq!(case.run(&line).code, Some(1));
        assert!(!case.path(rate).join("result.json").exists());
    }
}

#[test]
fn what_a_program_leaves_behind_or_prints_without_end_does_no_harm() {
    let case = Case::new(CLASSIFY, "attack/14-command-edge");
    let started = Instant::now();
    case.run("nas-classify search --config daemon_setsid_holds_stdout_ip.toml --out a").succeeds();
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    let left = case.run("pgrep -f '^sleep 1001$'");
    assert_eq!(left.stdout, "", "a sleeper is left");
    assert_eq!(case.run("nas-classify search --config one_line_60MB.toml --out b").code, Some(1));
    let size = |name: &str| fs::metadata(case.path("b").join(name)).map_or(0, |file| file.len());
    assert!(size("trials.jsonl") < 100_000 && size("run.log") < 100_000);
}

#[test]
fn bombs_are_refused_in_a_second() {
    let case = Case::new(CLASSIFY, "attack/15-bombs");
    let made = "python3 -c \"import gzip;m=gzip.compress(b'a'*(100<<20),9);open('b.csv.gz','wb').write(m*20)\"";
    case.run(made).succeeds();
    let started = Instant::now();
    let line = "ulimit -v 4000000; nas-classify bench --table b.csv.gz --valid cifar10_valid_200 --test cifar10_test_200 \
                --strategy random --num-trials 10 --seeds 1";
    case.run(line).refuses(&["b.csv.gz"]);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn a_half_that_fills_no_batch_is_told_with_both_numbers() {
    let case = Case::new(SEGMENT, "reports/23-search-halves-message");
    case.refuses(0, &["5 training images", "halves of 3 and 2", "fill a batch of 3"]);
}

#[test]
fn what_makes_no_sense_is_refused_before_the_first_step() {
    for case in ["attack/05-eval-scales-empty", "attack/07-epochs-0"] {
        let case = Case::new(SEGMENT, case);
        for scales in ["[]", "[0.0]", "[nan]", "[-1.0]", "[1e9]"] {
            case.run(&format!("{TINY} --set 'eval.scales={scales}' --out x")).refuses(&["eval.scales"]);
        }
        case.run(&format!("{TINY} --set train.epochs=0 --out x")).refuses(&["train.epochs = 0; expected at least 1"]);
        assert!(!case.path("x").exists());
    }
}

/// A log is checked before a strategy hears of it, and so is what earlier processes have started.
#[test]
fn a_log_of_another_space_is_refused_by_its_line() {
    let Some(table) = data("nasbench201/nasbench201.csv.gz") else { return };
    let case = Case::new(CLASSIFY, "attack/10-trials-log-arch");
    let path = format!("--set evaluator.path={}", table.display());
    let search = format!("nas-classify search --config re.toml {path} --threads 1 --out run");
    case.run(&search).succeeds();
    let sound = fs::read_to_string(case.path("run/trials.jsonl")).unwrap();
    fs::remove_file(case.path("run/result.json")).unwrap();
    let third = sound.lines().nth(2).unwrap();
    let arch = json(third)["arch"].as_str().unwrap().to_string();
    for (from, to, expected) in [
        (arch.as_str(), "9-9-9-9-9-9", "9-9-9-9-9-9 is not of the space"),
        (&arch, "1-2", "1-2 is not of the space"),
        ("\"id\":2", "\"id\":1000000000", "trial 1000000000 is out of place"),
    ] {
        fs::write(case.path("run/trials.jsonl"), sound.replace(third, &third.replace(from, to))).unwrap();
        case.run(&format!("{search} --resume")).refuses(&["trials.jsonl: line 3", expected]);
    }
    fs::write(case.path("run/trials.jsonl"), &sound[..sound.len() / 2]).unwrap();
    for (folder, id, arch, expected) in [
        ("00077", 4, "0-0-0-0-0-0", "trials/00077/trial.json: trial 4; expected in"),
        (
            "00011",
            11,
            "9-9-9-9-9-9",
            "trial 11, which was started and has not ended: architecture 9-9-9-9-9-9 is not of the space",
        ),
        ("1000000000", 1_000_000_000, "0-0-0-0-0-0", "trial 1000000000 is out of place"),
    ] {
        let folder = case.path("run/trials").join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("trial.json"), format!("{{\"id\":{id},\"arch\":\"{arch}\"}}")).unwrap();
        case.run(&format!("{search} --resume --workers 1")).refuses(&[expected]);
        fs::remove_dir_all(&folder).unwrap();
    }
    case.run(&format!("{search} --resume")).succeeds();
    assert_eq!(fs::read_to_string(case.path("run/trials.jsonl")).unwrap(), sound);
}

/// Neighbours of the bombs: other commands that read tables, logs and weights.
#[test]
fn pipes_and_bombs_are_refused_by_every_command() {
    let case = Case::new(CLASSIFY, "attack/15-bombs");
    let bomb = "python3 -c \"import gzip;m=gzip.compress(b'a'*(100<<20),9);open('b.csv.gz','wb').write(m*20)\"";
    case.run(&format!("{bomb}; mkfifo pipe trials.jsonl pipe.pt")).succeeds();
    let started = Instant::now();
    for (line, expected) in [
        ("nas-classify analyse b.csv.gz --metric valid", "b.csv.gz: "),
        ("nas-classify analyse trials.jsonl --metric valid", "trials.jsonl: cannot read: a pipe is no file"),
        ("nas-classify analyse pipe --metric valid", "pipe: cannot open: a pipe is no file"),
        ("nas-classify bench --table trials.jsonl --valid valid --strategy random --seeds 1", "a pipe is no file"),
        ("nas-classify import pipe.pt --out w.safetensors", "pipe.pt: cannot open: a pipe is no file"),
        ("nas-classify import /dev/zero --out w.safetensors", "a device is no file"),
        ("nas-classify train --config pipe --out run", "a pipe is no file"),
    ] {
        case.run(&format!("ulimit -v 4000000; {line}")).refuses(&[expected]);
    }
    let init = "nas-classify train --config $REPO/tests/configs/tiny_classify.toml --device cpu --threads 1 --set train.init=pipe";
    for prefix in ["", " --set train.init_prefix="] {
        case.run(&format!("{init}{prefix} --out run")).refuses(&["train.init", "a pipe is no file"]);
    }
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn numbers_of_the_command_line_are_of_their_ranges() {
    let case = Case::new(SEGMENT, "attack/07-epochs-0");
    for line in [
        "nas-segment cost auto_deeplab_s --num-classes 9223372036854775807",
        "nas-segment bench-step --crop 0",
        "nas-segment bench-step --layers 1000000",
        "nas-segment data synth --out x --images 18446744073709551615 --size 10x10",
        "nas-segment data synth --out x --images 1 --size 100000x100000",
        "nas-segment sample --out x --count 0",
        "nas-classify cost darts_v2 --num-classes 0",
        "nas-classify bench-step --batch 0",
        "nas-detect cost fcos_resnet50_fpn --num-classes -1",
        "nas-detect data synth --out x --images 0",
        "nas-detect data check --set data.kind=shapes --set data.num_images=1000000000000 --set data.num_val=1",
        "nas-segment search --config $REPO/tests/configs/tiny_search.toml --workers 0 --out x",
    ] {
        case.run(line).refuses(&["error: "]);
    }
    for threads in ["0", "9223372036854775807"] {
        let tiny = TINY.replace("--threads 1", &format!("--threads {threads}"));
        case.run(&format!("{tiny} --out x")).refuses(&["--threads", "not in 1..=4096"]);
    }
    assert!(!case.path("x").exists(), "nothing is written");
}

/// Commands that write folders take those of their own alone, and replace links.
#[test]
fn folders_and_files_that_commands_write_are_their_own() {
    let case = Case::new(SEGMENT, "attack/03-own-files-lost");
    fs::create_dir(case.path("own")).unwrap();
    fs::write(case.path("own/000.toml"), "precious").unwrap();
    for line in [
        "nas-segment sample --count 1 --out own",
        "nas-segment data synth --images 1 --size 16x16 --out own",
        "nas-detect data synth --images 1 --out own",
    ] {
        case.run(line).refuses(&["own: the folder holds files that are no run"]);
    }
    assert_eq!(fs::read_to_string(case.path("own/000.toml")).unwrap(), "precious");
    let rows: String = (0..16).map(|i| format!("{}-{},0.{i}\n", i / 4, i % 4)).collect();
    fs::write(case.path("table.csv"), format!("arch,valid\n{rows}")).unwrap();
    fs::write(case.path("victim.txt"), "precious").unwrap();
    symlink("victim.txt", case.path("page.html")).unwrap();
    case.run("nas-segment analyse table.csv --metric valid --html page.html").succeeds();
    assert_eq!(fs::read_to_string(case.path("victim.txt")).unwrap(), "precious");
    assert!(!case.path("page.html").is_symlink());
}

/// In bash nothing was completed behind a command (clap issue 6421).
#[test]
fn completions_go_below_the_commands() {
    let temp = tempfile::tempdir().unwrap();
    let run = |tool: Tool, line: &str| {
        let output = tool.shell(temp.path(), &line.replace("NAME", tool.name()));
        assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let bash = "source <(NAME completions bash)
        function=$(complete -p NAME); function=${function#*-F }; function=${function%% *}
        complete_words() { COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); $function NAME \"${@: -1}\" \"${@: -2:1}\"; echo \"${COMPREPLY[@]}\"; }
        complete_words NAME search --; complete_words NAME data check --; complete_words NAME gpu-check --; complete_words NAME report --format j";
    let fish = "for words in 'search --' 'data check --' 'gpu-check --' 'report --format j'
            NAME completions fish | source
            complete -C \"NAME $words\" | cut -f1 | string join ' '
        end
        true # one word alone is nothing to join";
    for tool in [SEGMENT, CLASSIFY, DETECT] {
        let expected = [&["--config", "--workers"][..], &["--set", "--format"], &["--device"], &["json"]];
        let check = |shell: &str, printed: String| {
            assert_eq!(printed.lines().count(), expected.len(), "{shell}: {printed}");
            for (line, expected) in printed.lines().zip(expected) {
                let offered: Vec<&str> = line.split(' ').collect();
                assert!(expected.iter().all(|word| offered.contains(word)), "{shell}: {line}");
            }
        };
        check("bash", run(tool, bash));
        if tool.shell(temp.path(), "fish --version").status.success() {
            fs::write(temp.path().join("complete.fish"), fish.replace("NAME", tool.name())).unwrap();
            check("fish", run(tool, "fish complete.fish"));
        }
    }
}
