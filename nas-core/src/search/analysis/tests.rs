//! Analyses against numbers made elsewhere, planted effects and noise.

use nas_datasets::rng::stream;
use rand::Rng;
use serde_json::Value;

use super::forest::forest;
use super::samples::Source;
use super::vocabulary::Numbers;
use super::*;
use crate::stats::normal_quantile;

const LEVELS: [usize; 6] = [4, 3, 5, 2, 4, 3];

/// The value of `tests/golden/analysis/reference.py` without noise.
fn value(row: &[u16]) -> f64 {
    let [a, b, c, d] = [0, 1, 2, 3].map(|i| usize::from(row[i]));
    [0.0, 1.0, 3.0, 1.5][a]
        + 0.8 * b as f64
        + [0.0, 0.0, 0.4, 0.2, 0.0][c]
        + if (b == 2) == (d == 1) { 1.5 } else { 0.0 }
}

fn golden() -> Value {
    serde_json::from_str(include_str!("../../../../tests/golden/analysis/fanova.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Every combination once, the last decision fastest.
fn all(levels: &[usize]) -> Vec<Vec<u16>> {
    levels.iter().fold(vec![Vec::new()], |rows, n| {
        rows.iter().flat_map(|row| (0..*n as u16).map(|choice| [row.as_slice(), &[choice]].concat())).collect()
    })
}

fn design<'a>(levels: &[usize], rows: &'a [Vec<u16>], values: Vec<f64>) -> Design<'a> {
    Design { levels: levels.to_vec(), rows: rows.iter().map(Vec::as_slice).collect(), values }
}

#[test]
fn the_exact_shares_equal_numpys_and_add_up() {
    let rows = all(&LEVELS);
    let shares = exact(&design(&LEVELS, &rows, rows.iter().map(|row| value(row)).collect()));
    for (found, expected) in shares.main.iter().zip(numbers(&golden()["truth"])) {
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    }
    // Decisions 1 and 3 are the only ones that work together.
    let together = shares.pairs.iter().find(|pair| (pair.0, pair.1) == (1, 3)).unwrap().2;
    assert!((shares.main.iter().sum::<f64>() + together - 1.0).abs() < 1e-12);
    assert!(shares.pairs.iter().all(|pair| (pair.0, pair.1) == (1, 3) || pair.2 < 1e-12));
}

/// Decisions that depend on each other because architectures are missing: a sum of two functions has no interaction.
#[test]
fn a_sum_has_no_interaction_where_architectures_are_missing() {
    let levels = [3, 4];
    let rows: Vec<Vec<u16>> = all(&levels).into_iter().filter(|row| row[0] + row[1] < 5 && row[0] != row[1]).collect();
    let sum = |row: &Vec<u16>| f64::from(row[0]).powi(2) + [0.0, 3.0, 1.0, 7.0][usize::from(row[1])];
    let shares = exact(&design(&levels, &rows, rows.iter().map(sum).collect()));
    assert!(shares.pairs[0].2 < 1e-12, "{shares:?}");
    assert!(shares.main.iter().sum::<f64>() > 0.0);
    let product = |row: &Vec<u16>| f64::from(row[0]) * f64::from(row[1]);
    let shares = exact(&design(&levels, &rows, rows.iter().map(product).collect()));
    assert!(shares.pairs[0].2 > 0.01, "{shares:?}");
}

#[test]
fn the_forest_agrees_with_optunas_on_the_same_log() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/analysis/trials.jsonl");
    let sources = [Source::read(path.as_ref(), &["score"]).unwrap()];
    let vocabulary = Numbers::of(&sources[0].archs().unwrap());
    let samples = Samples::join(&sources, &vocabulary).unwrap();
    let question = Question { metric: "score".into(), ..Default::default() };
    let analysis = Analysis::new(&question, &vocabulary, &samples, None).unwrap();
    assert_eq!((analysis.variance.method, vocabulary.decisions().len()), (Method::Forest, 6));
    let found: Vec<f64> = (0..6).map(|i| analysis.variance.main[&format!("d{i}")]).collect();
    let (truth, optuna) = (numbers(&golden()["truth"]), numbers(&golden()["categories"]));
    println!("ours {found:.4?}\noptuna {optuna:.4?}\ntruth {truth:.4?}\n{:.4?}", analysis.variance.pairs["d1,d3"]);
    let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(distance(&found, &optuna) < 0.08);
    // Optuna's categories are columns of their own, whose impossible combinations count: ours comes nearer to the truth.
    assert!(distance(&found, &truth) < distance(&optuna, &truth));
    let together = analysis.variance.pairs["d1,d3"];
    assert!((together - (1.0 - truth.iter().sum::<f64>())).abs() < 0.05, "{together}");
}

/// 729 architectures of six decisions with standard normal noise, and `effect` where two decisions are as they should be.
fn planted(effect: f64, seed: u64) -> (Vec<Architecture>, Vec<f64>) {
    let mut rng = stream(seed, "planted", 0);
    let archs: Vec<Architecture> = all(&[3; 6]).into_iter().map(Architecture::new).collect();
    let of = |arch: &Architecture| if arch.choices()[0] == 2 && arch.choices()[3] == 1 { effect } else { 0.0 };
    let values = archs.iter().map(|arch| of(arch) + normal_quantile(rng.random_range(1e-12..1.0))).collect();
    (archs, values)
}

fn motifs_of(archs: &[Architecture]) -> Motifs {
    let references: Vec<&Architecture> = archs.iter().collect();
    Motifs::of(&Numbers::of(archs), &references)
}

/// Power: an effect of one standard deviation on a ninth of the architectures is the surest motif of the best tenth in at least 95
/// of 100 tables.
#[test]
fn a_planted_motif_is_found() {
    let motifs = motifs_of(&planted(1.0, 0).0);
    let found = |seed: &u64| {
        let among = motifs.among_the_best(&planted(1.0, *seed).1);
        let first = among.iter().find(|motif| motif.top == 10).unwrap();
        first.name == "d0 2 & d3 1" && first.q < SURE && first.odds_ratio > 1.0
    };
    let power = (0..100).filter(found).count();
    assert!(power >= 95, "{power} of 100");
}

/// Level: of 400 tables of noise at most 5 % have a motif with q < 0.05 in the best tenth (and three standard errors of that share).
#[test]
fn nothing_is_found_in_noise() {
    let motifs = motifs_of(&planted(0.0, 0).0);
    let found = |seed: &u64| {
        let among = motifs.among_the_best(&planted(0.0, *seed).1);
        among.iter().any(|motif| motif.top == 10 && motif.q < SURE)
    };
    const TABLES: u64 = 400;
    let level = (0..TABLES).filter(found).count() as f64 / TABLES as f64;
    assert!(level <= 0.05 + 3.0 * (0.05f64 * 0.95 / TABLES as f64).sqrt(), "{level}");
}

/// Power of a log: of 100 random trials, one choice of three being worth 1.5 standard deviations of the noise; the forest gives this
/// decision the largest share in at least 95 of 100 logs.
#[test]
fn a_forest_finds_the_planted_decision_in_a_log() {
    let found = |seed: &u64| {
        let mut rng = stream(*seed, "planted log", 0);
        let rows: Vec<Vec<u16>> = (0..100).map(|_| (0..6).map(|_| rng.random_range(0..3)).collect()).collect();
        let noise = |rng: &mut rand_chacha::ChaCha8Rng| normal_quantile(rng.random_range(1e-12..1.0));
        let values = rows.iter().map(|row| if row[2] == 1 { 1.5 } else { 0.0 } + noise(&mut rng)).collect();
        let shares = forest(&design(&[3; 6], &rows, values), 0).unwrap();
        (0..6).all(|i| shares.main[i] <= shares.main[2])
    };
    let power = (0..100).filter(found).count();
    assert!(power >= 95, "{power} of 100");
}

#[test]
fn swaps_compare_what_differs_in_one_choice_and_contexts_turn_them() {
    let archs: Vec<Architecture> = all(&[2, 2, 2]).into_iter().map(Architecture::new).collect();
    // Choice 1 of d0 is worth 3 where d1 is 1 and costs 4 elsewhere.
    let value = |arch: &Architecture| match arch.choices() {
        [1, 1, _] => 3.0,
        [1, 0, _] => -4.0,
        _ => 0.0,
    };
    let values: Vec<f64> = archs.iter().map(value).collect();
    let references: Vec<&Architecture> = archs.iter().collect();
    let decisions = Numbers::of(&archs).decisions();
    let matched = Matched::new(&decisions, &references);
    let swaps = matched.swaps(&values, None);
    let of =
        |swaps: &[Swap], choice: &str| swaps.iter().find(|s| s.choice == choice && s.from == "0").cloned().unwrap();
    let over_all = of(&swaps, "d0");
    assert_eq!((over_all.n, over_all.mean, over_all.median, over_all.share_better), (4, -0.5, -0.5, 0.5));
    assert_eq!(of(&swaps, "d2").mean, 0.0);
    let motifs = motifs_of(&archs);
    let inside = of(&matched.swaps(&values, motifs.get("d1 1").map(|has| ("d1 1", has))), "d0");
    assert_eq!((inside.n, inside.mean, inside.condition.as_deref()), (2, 3.0, Some("d1 1")));
}

#[test]
fn sources_are_joined_and_what_is_wrong_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = temp.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let table = file("a.csv", "index,arch,acc,note\n0,0-1,0.5,x\n1,1-0,0.7,y\n");
    let log = file(
        "trials.jsonl",
        "{\"id\":0,\"arch\":\"0-1\",\"outcome\":{\"metrics\":{\"acc\":0.7,\"ms\":3.0}}}\n\
         {\"id\":1,\"arch\":\"1-1\",\"outcome\":{\"failed\":\"killed\"}}\n\
         {\"id\":2,\"arch\":\"1-1\",\"budget\":{\"epochs\":3},\"outcome\":{\"metrics\":{\"acc\":0.1}}}\n",
    );
    let wanted = ["acc", "ms"];
    let sources = [Source::read(&table, &wanted).unwrap(), Source::read(&log, &wanted).unwrap()];
    // The failed trial and the one of three epochs.
    assert_eq!(sources[1].left_out, 2);
    let archs = sources.iter().flat_map(|source| source.archs().unwrap()).collect::<Vec<_>>();
    let samples = Samples::join(&sources, &Numbers::of(&archs)).unwrap();
    let columns = samples.columns(&wanted);
    assert_eq!((columns.len(), columns[0].0.to_string(), &columns[0].1), (1, "0-1".to_string(), &vec![0.6, 3.0]));
    assert_eq!(samples.columns(&["acc"]).len(), 2);
    let error = |text: &str| format!("{:#}", Source::read(&file("b.csv", text), &["acc"]).unwrap_err());
    assert!(error("arch,acc\n0-1,abc\n").contains("line 2, column acc: \"abc\" is no number"));
    assert!(error("a,acc\n0-1,1\n").contains("no column `arch`; found a, acc"));
    let few =
        Analysis::new(&Question { metric: "acc".into(), ..Default::default() }, &Numbers::of(&archs), &samples, None);
    assert!(few.unwrap_err().to_string().contains("2 architectures take part and have acc"));
    assert!("connect".parse::<Where>().is_err() && "params<".parse::<Where>().is_err());
    assert_eq!("ms > 0".parse::<Where>().unwrap(), Where::Above("ms".into(), 0.0));
}

#[test]
fn the_page_has_names_as_text() {
    let (archs, values) = planted(1.0, 1);
    let metrics = archs.iter().zip(&values).map(|(arch, value)| format!("{arch},{value}\n"));
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("t.csv");
    std::fs::write(&path, format!("arch,a<b&c\n{}", metrics.collect::<String>())).unwrap();
    let sources = [Source::read(&path, &["a<b&c"]).unwrap()];
    let vocabulary = Numbers::of(&archs);
    let samples = Samples::join(&sources, &vocabulary).unwrap();
    let metric = "a<b&c".to_string();
    let question = Question { metric: metric.clone(), transfer: Some(metric), contexts: 3, ..Default::default() };
    let analysis = Analysis::new(&question, &vocabulary, &samples, None).unwrap();
    assert_eq!(analysis.variance.method, Method::Exact);
    let transfer = analysis.transfer.as_ref().unwrap();
    assert_eq!((transfer.spearman, transfer.overlap_top_1, transfer.regret), (Some(1.0), Some(1.0), 0.0));
    let text = page::page(&analysis, &vocabulary, &page::pairs(&samples, "a<b&c", &samples, "a<b&c"));
    assert!(text.contains("a&lt;b&amp;c") && !text.contains("a<b&c"));
    assert!(text.contains("d0 2 &amp; d3 1") && text.contains("<circle"), "motifs and dots are drawn");
    let again: Analysis = serde_json::from_str(&serde_json::to_string(&analysis).unwrap()).unwrap();
    assert_eq!(again, analysis);
}
