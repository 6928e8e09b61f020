use std::collections::HashMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::*;

/// A file that torch 2.13 wrote (tests/golden/torch_files/make.py).
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/torch_files").join(name)
}

fn read_bytes(bytes: &[u8]) -> Result<StateDict, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    read_state_dict(file.path(), None).map_err(|error| format!("{error:#}"))
}

#[test]
fn both_formats_give_what_torch_wrote() {
    for name in ["zip.pt", "legacy.pt"] {
        let state = read_state_dict(&golden(name), None).unwrap();
        assert_eq!((state.key.as_str(), state.others.len()), ("", 0));
        assert_eq!(state.tensors[0].0, "module.conv.weight");
        let tensors: HashMap<String, Tensor> = state.tensors.into_iter().collect();
        let base = Tensor::arange(24, (Kind::Float, Device::Cpu)).view([4, 6]);
        assert_eq!(tensors["module.same"], base);
        assert_eq!(tensors["module.view"], base.slice(0, 1, 3, 1).slice(1, 1, 5, 1).tr());
        assert_eq!(tensors["module.conv.weight"], base.slice(1, None, None, 2).reshape([2, 2, 3]));
        assert_eq!(tensors["module.scalar"], Tensor::from(7i64));
        assert_eq!(tensors["module.empty"].size(), [0, 3]);
        assert_eq!(tensors["module.parameter"], Tensor::from_slice(&[0.5f32, -0.5]));
        assert_eq!(tensors["module.bool"], Tensor::from_slice(&[true, false]));
        let kinds = [
            ("float64", Kind::Double),
            ("float16", Kind::Half),
            ("bfloat16", Kind::BFloat16),
            ("int32", Kind::Int),
            ("int16", Kind::Int16),
            ("int8", Kind::Int8),
            ("uint8", Kind::Uint8),
        ];
        for (kind, expected) in kinds {
            let tensor = &tensors[&format!("module.{kind}")];
            assert_eq!(tensor.kind(), expected);
            assert_eq!(tensor.to_kind(Kind::Int64), Tensor::from_slice(&[1i64, 2, 3]));
        }
        assert_eq!(tensors.len(), 14);
    }
}

#[test]
fn a_checkpoint_is_searched_for_its_only_state_dict() {
    for format in ["zip", "legacy"] {
        let state = read_state_dict(&golden(&format!("{format}_checkpoint.pt")), None).unwrap();
        assert_eq!((state.key.as_str(), state.tensors.len()), ("state_dict", 14));
        let two = golden(&format!("{format}_two.pt"));
        let error = format!("{:#}", read_state_dict(&two, None).unwrap_err());
        assert!(error.contains("--key: \"ema\", \"model\""), "{error}");
        let state = read_state_dict(&two, Some("ema")).unwrap();
        assert_eq!(state.tensors[0].1, Tensor::from_slice(&[0f32, 0.0]));
        assert!(read_state_dict(&two, Some("optimizer")).is_err());
    }
}

/// A file of the old format around a pickle of its object.
fn legacy(object: &[u8], rest: &[u8]) -> Vec<u8> {
    let whole = std::fs::read(golden("legacy_two.pt")).unwrap();
    let mut at = 0;
    for _ in 0..3 {
        at += pickle::read(&whole[at..]).unwrap().length;
    }
    [&whole[..at], object, rest].concat()
}

/// A dictionary with one tensor `w` of this many numbers in the storage and this shape and stride.
fn one_tensor(numel: u32, size: u32, stride: u32) -> Vec<u8> {
    let int = |n: u32| [b"J".as_slice(), &n.to_le_bytes()].concat();
    let text = |text: &str| [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let storage =
        [b"((".to_vec(), text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text("k"), text("cpu")].concat();
    [
        [b"\x80\x02}".to_vec(), text("w"), b"ctorch._utils\n_rebuild_tensor\n".to_vec()].concat(),
        [storage, int(numel), b"NtQ".to_vec(), int(0), int(size), b"\x85".to_vec()].concat(),
        [int(stride), b"\x85tRs.".to_vec()].concat(),
    ]
    .concat()
}

/// The list of keys, and a storage that claims `count` numbers and has these.
fn storages(count: u64, numbers: &[f32]) -> Vec<u8> {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    [b"\x80\x02]X\x01\0\0\0ka.".as_slice(), &count.to_le_bytes(), &bytes].concat()
}

#[test]
fn a_hand_made_file_is_read() {
    let state = read_bytes(&legacy(&one_tensor(2, 2, 1), &storages(2, &[3.0, 4.0]))).unwrap();
    assert_eq!(state.tensors[0].1, Tensor::from_slice(&[3f32, 4.0]));
}

#[test]
fn names_that_are_no_tensors_are_refused_and_nothing_is_run() {
    let marker = tempfile::tempdir().unwrap();
    let made = marker.path().join("made");
    let command = format!("touch {}", made.display());
    for (module, name) in [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("torch", "load")] {
        let length = [command.len() as u8];
        let call = [
            b"\x80\x02c",
            module.as_bytes(),
            b"\n",
            name.as_bytes(),
            b"\n\x8c",
            &length,
            command.as_bytes(),
            b"\x85R.",
        ];
        let error = read_bytes(&legacy(&call.concat(), &[])).unwrap_err();
        assert!(error.contains(&format!("refused: the file names {module:?} {name:?}")), "{error}");
        // the same by a name from the stack
        let sizes = [[module.len() as u8], [name.len() as u8]];
        let call = [b"\x80\x04\x8c", &sizes[0][..], module.as_bytes(), b"\x8c", &sizes[1], name.as_bytes(), b"\x93."];
        let error = read_bytes(&legacy(&call.concat(), &[])).unwrap_err();
        assert!(error.contains("refused"), "{error}");
    }
    assert!(!made.exists());
    let error = format!("{:#}", read_state_dict(&golden("module.pt"), None).unwrap_err());
    assert!(error.contains("\"Linear\"") && error.contains("state_dict()"), "{error}");
}

#[test]
fn sizes_that_the_file_does_not_have_take_no_memory() {
    let error = read_bytes(&legacy(&one_tensor(2, 2, 1), &storages(1 << 61, &[3.0, 4.0]))).unwrap_err();
    assert!(error.contains("8 bytes are left"), "{error}");
    let error = read_bytes(&legacy(&one_tensor(2, 2, 1), &storages(1 << 40, &[3.0, 4.0]))).unwrap_err();
    assert!(error.contains("8 bytes are left"), "{error}");
    // A million numbers by a stride of zero, a view past the end, a storage that is larger in words than in bytes.
    for (numel, size, stride) in
        [(2, 1_000_000, 0), (2, 3, 1), (2, 2, 2), (3, 2, 1), (2, u32::MAX, 1), (2, 2, u32::MAX)]
    {
        let error = read_bytes(&legacy(&one_tensor(numel, size, stride), &storages(2, &[3.0, 4.0]))).unwrap_err();
        assert!(error.contains("does not lie in the file") || error.contains("expected 3 numbers"), "{error}");
    }
    let error = read_bytes(&legacy(b"\x80\x02X\xff\xff\xff\x7fab.", &[])).unwrap_err();
    assert!(error.contains("the file ends early"), "{error}");
    let error = read_bytes(&legacy(b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xffab.", &[])).unwrap_err();
    assert!(error.contains("the file ends early"), "{error}");
}

#[test]
fn nests_and_cycles_do_no_harm() {
    let deep = [b"\x80\x02N".to_vec(), vec![0x85; 1_000_000], b".".to_vec()].concat();
    assert!(read_bytes(&legacy(&deep, &storages(0, &[]))).is_err());
    // d = {}; d["a"] = d
    let cycle = b"\x80\x02}q\0\x8c\x01ah\0s.";
    let error = read_bytes(&legacy(cycle, b"\x80\x02].")).unwrap_err();
    assert!(error.contains("no dictionary of tensors"), "{error}");
}

#[test]
fn a_file_that_is_cut_anywhere_is_an_error() {
    for name in ["zip.pt", "legacy.pt"] {
        let whole = std::fs::read(golden(name)).unwrap();
        for length in (0..whole.len()).step_by(7) {
            assert!(read_bytes(&whole[..length]).is_err(), "{name} cut to {length}");
        }
    }
}

#[test]
fn other_files_are_refused_with_what_they_are() {
    assert!(read_bytes(b"").unwrap_err().contains("too short"));
    assert!(read_bytes(&[b'x'; 400]).unwrap_err().contains("not a file of torch.save"));
    let error = format!("{:#}", read_state_dict(Path::new("/does/not/exist"), None).unwrap_err());
    assert!(error.contains("/does/not/exist"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Damage of any kind ends in a result or an error, never in a panic.
    #[test]
    fn damaged_files_never_panic(
        old in any::<bool>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = std::fs::read(golden(if old { "legacy_two.pt" } else { "zip_two.pt" })).unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let _ = read_state_dict(file.path(), Some("ema"));
    }

    #[test]
    fn bytes_at_random_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = pickle::read(&bytes);
    }
}

fn store(names: &[(&str, i64)]) -> VarStore {
    let vs = VarStore::new(Device::Cpu);
    for (name, size) in names {
        let mut path = vs.root();
        let (parents, last) = name.rsplit_once('.').unwrap();
        parents.split('.').for_each(|part| path = &path / part);
        let _ = path.zeros(last, &[*size]);
    }
    vs
}

#[test]
fn weights_start_the_part_of_a_network_that_they_fit() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.safetensors");
    let tensor = |n: i64| Tensor::ones([n], (Kind::Float, Device::Cpu));
    let saved = [("a.weight", 2), ("b.weight", 3), ("fc.weight", 4), ("a.num_batches_tracked", 1)];
    crate::train::write_tensors(&file, saved.map(|(name, n)| (name.to_string(), tensor(n))).into()).unwrap();

    let vs = store(&[("backbone.a.weight", 2), ("backbone.b.weight", 5), ("head.weight", 1)]);
    let report = init_from(&vs, &file, "backbone.").unwrap();
    assert_eq!((report.taken(), report.parts["backbone"], report.parts["head"]), (1, (1, 2), (0, 1)));
    let text = report.to_string();
    let expected = [
        "1 of 2 backbone tensors, head new",
        "backbone.b.weight has shape [3] there and [5] here",
        "backbone.fc.weight",
    ];
    assert!(expected.iter().all(|part| text.contains(part)), "{text}");
    assert!(!text.contains("num_batches"), "{text}");
    assert_eq!(vs.variables()["backbone.a.weight"], tensor(2));
    assert_eq!(vs.variables()["backbone.b.weight"].sum(Kind::Float).double_value(&[]), 0.0);

    let error = init_from(&vs, &file, "").unwrap_err().to_string();
    assert!(error.contains("none of its 4 tensors fits") && error.contains("backbone.a.weight"), "{error}");
}

#[test]
fn a_run_folder_stands_for_its_best_weights() {
    let run = tempfile::tempdir().unwrap();
    assert!(weights_of(run.path()).is_err());
    std::fs::create_dir(run.path().join("checkpoints")).unwrap();
    for name in ["last", "best"] {
        let file = run.path().join(format!("checkpoints/{name}.safetensors"));
        std::fs::write(&file, "").unwrap();
        assert_eq!(weights_of(run.path()).unwrap(), file);
    }
}

#[test]
fn torch_files_start_a_network_too() {
    let vs = store(&[("module.parameter", 2)]);
    assert_eq!(init_from(&vs, &golden("zip.pt"), "").unwrap().taken(), 1);
    assert_eq!(vs.variables()["module.parameter"], Tensor::from_slice(&[0.5f32, -0.5]));
}
