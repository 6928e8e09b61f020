//! What `nas-classify cost` counts is what is published, and mistakes are said clearly.

use nas_tests::CLASSIFY;
use serde_json::Value;

fn cost(args: &[&str]) -> Value {
    let report = CLASSIFY.succeed(&[&["cost"], args, &["--format", "json"]].concat());
    serde_json::from_str(&report).unwrap()
}

/// `specs/strategies.md`, section 3.
#[test]
fn published_counts_are_met_to_the_last_digit() {
    for (args, params, macs) in [
        (&["darts_v2", "--size", "32x32", "--num-classes", "10"][..], 3_349_342, 528_359_040),
        (&["darts_v2_imagenet", "--size", "224x224"], 4_718_752, 529_911_552),
        (&["darts_v1"], 3_169_414, 500_987_520),
    ] {
        let report = cost(args);
        assert_eq!((&report["params"], &report["macs"]), (&params.into(), &macs.into()), "{args:?}");
        for key in ["params", "macs"] {
            let parts = report["parts"].as_array().unwrap().iter();
            assert_eq!(report[key], parts.map(|part| part[key].as_u64().unwrap()).sum::<u64>(), "{key} of {args:?}");
        }
    }
    for (name, params) in
        [("mobilenet_v2", 3_504_872), ("mobilenet_v3_large", 5_483_032), ("mobilenet_v3_small", 2_542_856)]
    {
        assert_eq!(cost(&[name])["params"], params, "{name}");
    }
}

#[test]
fn an_experiment_file_names_a_model_too() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("experiment.toml");
    std::fs::write(&file, "seed = 3\n[model]\nkind = 'cells'\nchannels = 48\nlayers = 14\nstem = 'imagenet'").unwrap();
    let counted = cost(&[file.to_str().unwrap()]);
    assert_eq!(counted["params"], 4_718_752);
}

#[test]
fn mistakes_are_said_clearly() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("experiment.toml");
    let file = file.to_str().unwrap();
    for (model, expected) in [
        ("kind = 'cells'\nlayers = 2", "model.layers = 2: expected 3 to 100"),
        ("kind = 'cells'\ngenotype = 'Genotype()'", "no cell"),
        ("kind = 'mobile'\nnetwork = 'mobilenet_v9'", "mobilenet_v9"),
        ("kind = 'resnet'\ndepth = 50", "model.depth = 50: expected 18 or 20"),
    ] {
        std::fs::write(file, format!("[model]\n{model}")).unwrap();
        let error = CLASSIFY.fail(&["cost", file]);
        assert!(error.contains(expected) && error.contains("experiment.toml"), "{model}: {error}");
    }
    for (args, expected) in [
        (&["darts_v9"][..], "darts_v1, darts_v2"),
        (&["nowhere.toml"], "nowhere.toml"),
        (&["darts_v2", "--arch", "0-1"], "2 choices, expected 24"),
        (&["mobilenet_v2", "--arch", "0-1"], "no architecture to choose"),
        (&["darts_v2", "--num-classes", "0"], "0 is not in 1..=65536"),
    ] {
        let error = CLASSIFY.fail(&[&["cost"], args].concat());
        assert!(error.contains(expected), "{args:?}: {error}");
    }
}
