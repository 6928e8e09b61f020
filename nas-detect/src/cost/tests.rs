use super::*;

fn cost(name: &str, size: (i64, i64)) -> CostReport {
    let name = name.to_string();
    run(&CostArgs { name, size: Some(size), arch: None, num_classes: None, format: Format::Json }).unwrap().report
}

#[test]
fn shufflenets_count_as_torchvision() {
    for (name, params, macs) in [
        ("shufflenet_v2_x0_5", 1_366_792, 40_476_448),
        ("shufflenet_v2_x1_0", 2_278_604, 144_907_992),
        ("shufflenet_v2_x1_5", 3_503_624, 295_759_392),
        ("shufflenet_v2_x2_0", 7_393_996, 583_253_464),
    ] {
        assert_eq!(cost(name, (224, 224)).total, Cost { params, macs }, "{name}");
    }
}
/// Parameters to the last digit; multiply-adds as published, in G with two or three digits.
#[test]
fn detectors_count_as_torchvision() {
    for (name, params, macs) in [
        ("retinanet_resnet50_fpn", 34_014_999, "151.540"),
        ("retinanet_resnet50_fpn_v2", 38_198_935, "152.238"),
        ("fcos_resnet50_fpn", 32_269_600, "128.207"),
    ] {
        let found = cost(name, (800, 800)).total;
        assert_eq!((found.params, format!("{:.3}", found.macs as f64 / 1e9).as_str()), (params, macs), "{name}");
    }
}

#[test]
fn neck_and_head_of_efficientdet_d0_count_as_published() {
    let found = cost("efficientdet_d0", (512, 512));
    assert_eq!(found.parts[0].cost.params, 196_281);
    assert_eq!(found.total.params, 284_679);
    assert_eq!(format!("{:.3}", found.total.macs as f64 / 1e9), "0.591");
}

/// The paper's counts are twice the multiply-adds.
#[test]
fn nas_fpn_counts_as_in_the_specification() {
    let found = cost("nasfpn_r50_7at256", (640, 640)).total;
    assert_eq!(format!("{:.2}", found.params as f64 / 1e6), "60.04");
    assert_eq!(format!("{:.1}", 2.0 * found.macs as f64 / 1e9), "280.2");
}

/// The architecture released for RetinaNet, four convolutions of 256 channels, 800x800, 80 classes.
#[test]
fn detectors_on_detnas_count_as_in_the_specification() {
    const ARCH: &str = "2-3-1-1-3-2-1-3-3-1-1-1-3-3-2-0-3-3-3-3";
    for (name, params, macs) in [
        ("fcos_detnas_300m_fpn", "10.200", ["77.874", "3.714", "8.587", "65.573"]),
        ("retinanet_detnas_300m_fpn", "11.745", ["98.503", "3.714", "8.587", "86.201"]),
    ] {
        let (name, arch) = (name.to_string(), Some(ARCH.to_string()));
        let args = CostArgs { name, arch, size: None, num_classes: None, format: Format::Json };
        let DetectorCost { report: found, backbone_macs } = run(&args).unwrap();
        let [.., neck, head] = &found.parts[..] else { panic!("neck and head") };
        let macs_found = [found.total.macs, backbone_macs, neck.cost.macs, head.cost.macs];
        assert_eq!(macs_found.map(|macs| format!("{:.3}", macs as f64 / 1e9)), macs, "{}", found.name);
        assert_eq!(format!("{:.3}", found.total.params as f64 / 1e6), params, "{}", found.name);
    }
}

#[test]
fn unknown_names_and_wrong_architectures_are_explained() {
    let run = |name: &str, arch: Option<&str>, size| {
        let (name, arch) = (name.to_string(), arch.map(String::from));
        run(&CostArgs { name, size, arch, num_classes: None, format: Format::Text })
    };
    let error = |name, arch, size| format!("{:#}", run(name, arch, size).unwrap_err());
    assert!(error("detnas_30m", None, None).contains("detnas_300m"));
    assert!(error("detnas_tiny", Some("0-1"), None).contains("2 choices, expected 9"));
    assert!(error("detnas_tiny", Some("0-1-2-4-0-0-0-0-0"), None).contains("choice 3 is 4"));
    assert!(error("shufflenet_v2_x1_0", Some("0"), None).contains("no architecture"));
    assert!(error("nasfpn_r50_7at256", None, Some((600, 640))).contains("multiples of 128"));
    assert!(run("detnas_1_3g", None, None).is_ok() && run("detnas_1.3g", None, None).is_ok());
}

#[test]
fn the_json_report_has_the_documented_keys() {
    let arch = Some("2-1-2-0-2-1-1-2-3-3-1-3-0-0-3-1-3-1-3-2".to_string());
    let args = CostArgs { name: "detnas_300m".into(), size: None, arch, num_classes: None, format: Format::Json };
    let report = serde_json::to_value(run(&args).unwrap()).unwrap();
    assert_eq!(report["params"], 3_533_112);
    assert_eq!(report["macs"], 321_219_008);
    assert_eq!(report["backbone_macs"], 288_082_368);
    assert_eq!(report["parts"][0]["name"], "stem");
    assert_eq!(report["parts"][0]["macs"], 5_419_008);
}
