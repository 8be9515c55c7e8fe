//! Writing: round trips, the same bytes every time, and an old model that survives every failure.

mod weights_support;

use std::collections::BTreeMap;
use std::path::Path;

use recast_models::weights::{Dtype, ModelWriter, NamedTensor, WeightsError, Written, open, write_safetensors};
use serde_json::json;
use weights_support::{Gguf, f32_bytes, file, ramp, safetensors};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Names of all entries of a folder, hidden ones too.
fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A model of ten layers of 400 bytes and one half-precision tensor.
fn write_model(target: &Path, shard: u64, reversed: bool) -> Result<Written, WeightsError> {
    let mut writer = ModelWriter::create(target)?.max_shard_bytes(shard);
    writer.write_json("config.json", &json!({"model_type": "llama", "a": 1.5}))?;
    writer.write_bytes("README.md", b"a model\n")?;
    let mut tensors: Vec<NamedTensor<'_>> = (0..10)
        .map(|i| NamedTensor::f32(format!("model.layers.{i}.w"), &[10, 10], Dtype::F32, ramp(100)))
        .chain([NamedTensor::lazy("lm_head.weight", &[100], Dtype::BF16, || Ok(ramp(100)))])
        .collect();
    if reversed {
        tensors.reverse();
    }
    for tensor in tensors {
        writer.add(tensor);
    }
    writer.finish()
}

#[test]
fn a_single_file_round_trips_and_its_bytes_do_not_depend_on_the_order() -> Outcome {
    let folder = tempfile::tempdir()?;
    let (a, b) = (folder.path().join("a"), folder.path().join("new/b"));
    let written = write_model(&a, u64::MAX, false)?;
    assert_eq!((written.weights.as_slice(), written.tensor_bytes), (["model.safetensors".to_owned()].as_slice(), 4200));
    write_model(&b, u64::MAX, true)?;
    assert_eq!(entries(&a), ["README.md", "config.json", "model.safetensors"]);
    for name in entries(&a) {
        assert_eq!(std::fs::read(a.join(&name))?, std::fs::read(b.join(&name))?, "{name}");
    }
    let checkpoint = open(&a)?;
    assert_eq!(checkpoint.infos().len(), 11);
    assert_eq!(checkpoint.read_shaped("model.layers.7.w", &[10, 10])?, ramp(100));
    assert_eq!(checkpoint.read_f32("lm_head.weight")?, ramp(100));
    assert_eq!(checkpoint.info("lm_head.weight").ok_or("absent")?.dtype, Dtype::BF16);
    assert_eq!(checkpoint.config()?["a"], 1.5);
    // The format's own library agrees, and every tensor is aligned.
    let bytes = std::fs::read(a.join("model.safetensors"))?;
    let theirs = safetensors::SafeTensors::deserialize(&bytes)?;
    assert_eq!(theirs.len(), 11);
    for (_, view) in theirs.iter() {
        assert_eq!((view.data().as_ptr() as usize - bytes.as_ptr() as usize) % 4, 0);
    }
    assert!(entries(folder.path()).iter().all(|n| !n.ends_with(".tmp")));
    Ok(())
}

#[test]
fn shards_round_trip_with_an_index() -> Outcome {
    let folder = tempfile::tempdir()?;
    let target = folder.path().join("m");
    let written = write_model(&target, 1000, false)?;
    // 200 bytes of the head, then layers of 400: 200 + 2 * 400, then two a shard.
    assert_eq!(written.weights.len(), 5);
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(target.join("model.safetensors.index.json"))?)?;
    assert_eq!(index["metadata"]["total_size"], 4200);
    assert_eq!(index["weight_map"]["lm_head.weight"], "model-00001-of-00005.safetensors");
    assert_eq!(index["weight_map"]["model.layers.9.w"], "model-00005-of-00005.safetensors");
    assert_eq!(index["weight_map"].as_object().map(|m| m.len()), Some(11));
    let checkpoint = open(&target)?;
    for i in 0..10 {
        assert_eq!(checkpoint.read_f32(&format!("model.layers.{i}.w"))?, ramp(100));
    }
    // A tensor larger than a shard has one to itself, and a smaller model leaves no old shards.
    assert_eq!(write_model(&target, 1, false)?.weights.len(), 11);
    assert_eq!(write_model(&target, 10_000, false)?.weights.len(), 1);
    assert_eq!(entries(&target), ["README.md", "config.json", "model.safetensors"]);
    assert_eq!(entries(folder.path()), ["m"]);
    Ok(())
}

#[test]
fn raw_bytes_pass_unchanged_and_other_dtypes_are_rounded() -> Outcome {
    // Bits that any arithmetic would change: signalling NaN, subnormals, odd payloads.
    let odd: Vec<u8> = [0x7f81u16, 0xff81, 0x0001, 0x8000, 0x7fff, 0x1234].iter().flat_map(|v| v.to_le_bytes()).collect();
    let source = safetensors(&[
        ("odd", "BF16", &[2, 3], odd.clone()),
        ("third", "F32", &[1], f32_bytes(&[1.0 / 3.0])),
        ("none", "F16", &[0, 3], vec![]),
    ]);
    let (_source, path) = file("s.safetensors", &source);
    let checkpoint = open(&path)?;
    let folder = tempfile::tempdir()?;
    let target = folder.path().join("m");
    let mut writer = ModelWriter::create(&target)?;
    writer.add(NamedTensor::copied(&*checkpoint, "odd", None)?);
    writer.add(NamedTensor::copied(&*checkpoint, "none", None)?);
    writer.add(NamedTensor::copied(&*checkpoint, "third", Some(Dtype::F16))?);
    assert!(matches!(NamedTensor::copied(&*checkpoint, "od", None), Err(WeightsError::Missing { .. })));
    writer.finish()?;
    let back = open(&target)?;
    assert_eq!(back.raw("odd"), Some((Dtype::BF16, odd.as_slice())));
    assert_eq!(back.raw("none"), Some((Dtype::F16, [].as_slice())));
    assert_eq!(back.read_f32("third")?, [half::f16::from_f32(1.0 / 3.0).to_f32()]);

    let (_gguf, path) = file("m.gguf", &Gguf::tiny("llama").bytes());
    let checkpoint = open(&path)?;
    let name = "model.layers.0.self_attn.q_proj.weight";
    let out = folder.path().join("one.safetensors");
    write_safetensors(&out, vec![NamedTensor::copied(&*checkpoint, name, None)?], &BTreeMap::new())?;
    assert_eq!(open(&out)?.read_f32(name)?, checkpoint.read_f32(name)?);
    Ok(())
}

#[test]
fn whatever_fails_leaves_the_old_model_and_nothing_else() -> Outcome {
    let folder = tempfile::tempdir()?;
    let target = folder.path().join("m");
    write_model(&target, u64::MAX, false)?;
    let before = std::fs::read(target.join("model.safetensors"))?;
    type Make = fn() -> Vec<NamedTensor<'static>>;
    let failures: [(Make, &str); 7] = [
        (|| vec![NamedTensor::f32("t", &[2], Dtype::F32, vec![1.0, f32::NAN])], "not finite"),
        (|| vec![NamedTensor::f32("t", &[2], Dtype::F16, vec![1.0, 70_000.0])], "beyond the range of F16"),
        (|| vec![NamedTensor::f32("t", &[3], Dtype::F32, vec![1.0])], "needs 3 values, 1 were given"),
        (|| vec![NamedTensor::lazy("t", &[3], Dtype::F32, || Ok(vec![1.0]))], "needs 3 values, 1 were given"),
        (|| vec![NamedTensor::raw("t", &[3], Dtype::F16, vec![0u8; 5])], "needs 6 bytes, 5 were given"),
        (|| vec![NamedTensor::raw("t", &[32], Dtype::Q8_0, vec![0u8; 34])], "Q8_0 cannot be written"),
        (|| (0..2).map(|_| NamedTensor::f32("t", &[1], Dtype::F32, vec![1.0])).collect(), "is there twice"),
    ];
    for (tensors, message) in failures {
        let mut writer = ModelWriter::create(&target)?;
        writer.write_json("config.json", &json!({}))?;
        tensors().into_iter().for_each(|t| writer.add(t));
        let error = writer.finish().expect_err("should have failed").to_string();
        assert!(error.contains(message), "{error}");
        assert_eq!(std::fs::read(target.join("model.safetensors"))?, before);
        assert_eq!(entries(folder.path()), ["m"]);
    }
    drop(ModelWriter::create(&target)?);
    assert_eq!(entries(folder.path()), ["m"]);
    Ok(())
}

#[test]
fn only_models_are_replaced() -> Outcome {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let refused = |name: &str| match ModelWriter::create(&at(name)) {
        Err(WeightsError::WillNotReplace { reason, .. }) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{name} would be replaced"),
    };
    std::fs::write(at("file"), "x")?;
    assert!(refused("file").contains("expected a folder"));
    std::fs::create_dir(at("home"))?;
    std::fs::write(at("home").join("thesis.tex"), "x")?;
    assert!(refused("home").contains("no config.json"));
    std::fs::write(at("home").join("config.json"), "{}")?;
    std::fs::create_dir(at("home").join("photos"))?;
    assert!(refused("home").contains("photos"));
    std::fs::create_dir(at("empty"))?;
    write_model(&at("empty"), u64::MAX, false)?;
    // What somebody put beside a model would be lost with it.
    let others = ["config.json", "README.md"].map(String::from);
    ModelWriter::check(&at("empty"), &others)?;
    std::fs::write(at("empty").join("notes.txt"), "precious")?;
    for refused in [ModelWriter::check(&at("empty"), &others), write_model(&at("empty"), 1000, false).map(drop)] {
        assert!(matches!(refused, Err(WeightsError::WillNotReplace { reason, .. }) if reason.contains("\"notes.txt\"")));
    }
    assert_eq!(entries(&at("empty")), ["README.md", "config.json", "model.safetensors", "notes.txt"]);

    let mut writer = ModelWriter::create(&at("new"))?;
    for name in ["../x", "a/b", "", "..", "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    {
        assert!(matches!(writer.write_bytes(name, b"x"), Err(WeightsError::BadTensor { .. })), "{name}");
    }
    Ok(())
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_permissions_are_ordinary() -> Outcome {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir()?;
    let (real, link) = (folder.path().join("real"), folder.path().join("link"));
    write_model(&real, u64::MAX, false)?;
    std::os::unix::fs::symlink(&real, &link)?;
    write_model(&link, 1000, false)?;
    assert!(std::fs::symlink_metadata(&link)?.is_symlink());
    assert!(real.join("model.safetensors.index.json").exists());
    std::fs::create_dir(folder.path().join("plain"))?;
    let mode = |path: &Path| std::fs::metadata(path).map(|m| m.permissions().mode());
    assert_eq!(mode(&real)?, mode(&folder.path().join("plain"))?);
    let out = folder.path().join("t.safetensors");
    write_safetensors(&out, vec![], &BTreeMap::new())?;
    std::fs::write(folder.path().join("plain.txt"), "")?;
    assert_eq!(mode(&out)?, mode(&folder.path().join("plain.txt"))?);
    Ok(())
}

#[test]
fn a_single_file_is_replaced_whole_or_not_at_all() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("state.safetensors");
    let metadata = BTreeMap::from([("step".to_owned(), "12".to_owned()), ("a".to_owned(), "\"b\"".to_owned())]);
    let logits = [0.5, f32::NEG_INFINITY, f32::NAN];
    write_safetensors(&path, vec![NamedTensor::f32("logits", &[3], Dtype::F32, logits.as_slice())], &metadata)?;
    let before = std::fs::read(&path)?;
    let (_, read) = safetensors::SafeTensors::read_metadata(&before)?;
    assert_eq!(read.metadata().as_ref().and_then(|m| m.get("step")).map(String::as_str), Some("12"));
    assert_eq!(open(&path)?.raw("logits"), Some((Dtype::F32, f32_bytes(&logits).as_slice())));

    let failing =
        NamedTensor::lazy("t", &[1], Dtype::F32, || Err(WeightsError::BadTensor { name: "t".into(), what: "no".into() }));
    assert!(write_safetensors(&path, vec![failing], &metadata).is_err());
    assert_eq!(std::fs::read(&path)?, before);
    assert_eq!(entries(folder.path()), ["state.safetensors"]);
    assert!(matches!(write_safetensors(folder.path(), vec![], &metadata), Err(WeightsError::WillNotReplace { .. })));
    Ok(())
}
