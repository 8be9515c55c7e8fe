//! Reading safetensors: kinds, shards, folders, and what is refused.

mod weights_support;

use recast_models::weights::{Dtype, WeightsError, check_finite, open};
use weights_support::{f32_bytes, file, ramp, safetensors, with_header};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// The error of opening `bytes` as a safetensors file.
fn refused(bytes: &[u8]) -> WeightsError {
    let (_folder, path) = file("model.safetensors", bytes);
    open(&path).err().expect("should have been refused")
}

#[test]
fn the_three_kinds_are_read_wherever_they_start() -> Outcome {
    let values = [1.0f32, -2.5, 0.0, 65504.0, -0.125, 3.0];
    let f16: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    let bf16: Vec<u8> = values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
    // Names of growing length move the data through every alignment.
    for extra in 0..9 {
        let long = format!("a{}", "x".repeat(extra));
        let bytes = safetensors(&[
            (&long, "F32", &[2, 3], f32_bytes(&values)),
            ("b", "F16", &[6], f16.clone()),
            ("c", "BF16", &[3, 1, 2], bf16.clone()),
        ]);
        let (_folder, path) = file("x.safetensors", &bytes);
        let checkpoint = open(&path)?;
        assert_eq!(checkpoint.read_f32(&long)?, values);
        assert_eq!(checkpoint.read_f32("b")?, values);
        assert_eq!(checkpoint.read_f32("c")?[..3], values[..3]);
        assert_eq!(checkpoint.raw("c"), Some((Dtype::BF16, bf16.as_slice())));
        let infos = checkpoint.infos();
        assert_eq!(infos.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), [long.as_str(), "b", "c"]);
        assert_eq!((infos[2].shape.as_slice(), infos[2].dtype), ([3, 1, 2].as_slice(), Dtype::BF16));
        assert!(checkpoint.gguf_vocab().is_none());
    }
    Ok(())
}

#[test]
fn large_tensors_are_converted_whole() -> Outcome {
    let values: Vec<f32> = (0..300_001).map(|i| (i % 2039) as f32 - 1000.0).collect();
    let f16: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    let (_folder, path) = file("x.safetensors", &safetensors(&[("t", "F16", &[300_001], f16)]));
    assert_eq!(open(&path)?.read_f32("t")?, values);
    Ok(())
}

#[test]
fn scalars_and_empty_tensors() -> Outcome {
    let bytes = safetensors(&[
        ("empty", "F32", &[4, 0, 7], vec![]),
        ("other", "BF16", &[0], vec![]),
        ("scalar", "F32", &[], f32_bytes(&[7.0])),
    ]);
    let (_folder, path) = file("x.safetensors", &bytes);
    let checkpoint = open(&path)?;
    assert!(checkpoint.read_f32("empty")?.is_empty());
    assert_eq!(checkpoint.raw("other"), Some((Dtype::BF16, [].as_slice())));
    assert_eq!(checkpoint.read_f32("scalar")?, [7.0]);
    assert_eq!(checkpoint.infos().len(), 3);
    Ok(())
}

#[test]
fn a_missing_tensor_gets_the_nearest_name_and_a_wrong_shape_both_shapes() -> Outcome {
    let bytes = safetensors(&[("model.norm.weight", "F32", &[2], f32_bytes(&[1.0, 2.0]))]);
    let (_folder, path) = file("x.safetensors", &bytes);
    let checkpoint = open(&path)?;
    match checkpoint.read_f32("model.norms.weight") {
        Err(WeightsError::Missing { nearest: Some(nearest), .. }) => assert_eq!(nearest, "model.norm.weight"),
        other => panic!("{other:?}"),
    }
    match checkpoint.read_f32("zzzz") {
        Err(WeightsError::Missing { nearest: None, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(matches!(checkpoint.read_shaped("zzzz", &[1]), Err(WeightsError::Missing { .. })));
    assert_eq!(checkpoint.read_shaped("model.norm.weight", &[2])?, [1.0, 2.0]);
    let error = checkpoint.read_shaped("model.norm.weight", &[2, 1]).expect_err("another shape");
    assert!(error.to_string().contains("has shape [2], expected [2, 1]"), "{error}");
    Ok(())
}

#[test]
fn other_kinds_are_an_error_only_when_asked_for() -> Outcome {
    let bytes = safetensors(&[
        ("ids", "I64", &[1], vec![0; 8]),
        ("w", "F32", &[1], f32_bytes(&[1.0])),
        ("f8", "F8_E4M3", &[3], vec![0; 3]),
    ]);
    let (_folder, path) = file("x.safetensors", &bytes);
    let checkpoint = open(&path)?;
    assert_eq!(checkpoint.infos().len(), 1);
    assert_eq!(checkpoint.read_f32("w")?, [1.0]);
    for name in ["ids", "f8"] {
        assert!(checkpoint.raw(name).is_none());
        assert!(matches!(checkpoint.read_shaped(name, &[9]), Err(WeightsError::UnsupportedKind { .. })));
    }
    Ok(())
}

#[test]
fn headers_that_lie_are_refused() {
    let one = |offsets: &str, shape: &str, data: usize| {
        refused(&with_header(
            &format!("{{\"t\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":{offsets}}}}}"),
            &vec![0; data],
        ))
    };
    assert!(matches!(refused(b""), WeightsError::Truncated { .. }));
    assert!(matches!(refused(b"\x02\0\0\0"), WeightsError::Truncated { .. }));
    assert!(matches!(refused(&[0xff; 16]), WeightsError::Limit { .. }));
    assert!(matches!(refused(b"\x10\0\0\0\0\0\0\0{}"), WeightsError::Truncated { .. }));
    assert!(matches!(one("[0,8]", "[2]", 7), WeightsError::Truncated { needed: 8, available: 7, .. }));
    assert!(matches!(one("[0,8]", "[2]", 9), WeightsError::Malformed { .. }));
    assert!(matches!(one("[0,8]", "[3]", 8), WeightsError::Malformed { .. }));
    assert!(matches!(one("[4,12]", "[2]", 12), WeightsError::Malformed { .. }));
    assert!(matches!(one("[8,0]", "[2]", 8), WeightsError::Malformed { .. }));
    assert!(matches!(one("[0,8]", "[18446744073709551615,2]", 8), WeightsError::Malformed { .. }));
    assert!(matches!(one("[0,8]", "[-2]", 8), WeightsError::Malformed { .. }));
    assert!(matches!(refused(&with_header("[]", &[])), WeightsError::Malformed { .. }));
    assert!(matches!(refused(&with_header("{\"t\":", &[])), WeightsError::Malformed { .. }));
    assert!(matches!(refused(&with_header(&"[".repeat(100_000), &[])), WeightsError::Malformed { .. }));
}

#[test]
fn ends_that_add_up_beyond_64_bits_are_refused() {
    // Eight tensors of 2^61 - 1 bytes: each is consistent, the chain ends just below 2^64.
    let size = (1u64 << 61) - 1;
    let tensors: Vec<String> = (0..8)
        .map(|i| {
            let (start, end) = (i * size, (i + 1) * size);
            format!("\"t{i}\":{{\"dtype\":\"U8\",\"shape\":[{size}],\"data_offsets\":[{start},{end}]}}")
        })
        .chain(["\"v\":{\"dtype\":\"U8\",\"shape\":[7],\"data_offsets\":[18446744073709551608,18446744073709551615]}".into()])
        .collect();
    let error = refused(&with_header(&format!("{{{}}}", tensors.join(",")), &[0; 64]));
    assert!(matches!(error, WeightsError::Truncated { .. } | WeightsError::Malformed { .. }), "{error}");
}

#[test]
fn a_contradictory_entry_is_named() {
    let t = |dtype: &str, shape: &str| format!("{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[4,8]}}");
    for entry in [t("F32", "[2]"), t("F31", "[1]"), t("F32", "3")] {
        let good = r#""good":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        let error = refused(&with_header(&format!("{{{good},\"odd\":{entry}}}"), &[0; 8])).to_string();
        assert!(error.contains("\"odd\"") && !error.contains("\"good\""), "{error}");
    }
}

#[test]
fn duplicate_names_and_overlaps_are_refused() {
    let t = |range: &str| format!("{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{range}}}");
    let twice = format!("{{\"t\":{},\"t\":{}}}", t("[0,4]"), t("[0,4]"));
    assert!(matches!(refused(&with_header(&twice, &[0; 4])), WeightsError::Duplicate { .. }));
    let overlap = format!("{{\"a\":{},\"b\":{}}}", t("[0,4]"), t("[2,6]"));
    assert!(matches!(refused(&with_header(&overlap, &[0; 6])), WeightsError::Malformed { .. }));
    let long = format!("{{\"{}\":{}}}", "n".repeat(5000), t("[0,4]"));
    assert!(matches!(refused(&with_header(&long, &[0; 4])), WeightsError::Limit { .. }));
}

#[test]
fn shards_are_one_checkpoint() -> Outcome {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("m-1.safetensors"), safetensors(&[("a", "F32", &[4], f32_bytes(&ramp(4)))]))?;
    std::fs::write(at("m-2.safetensors"), safetensors(&[("b", "F32", &[2], f32_bytes(&[5.0, 6.0]))]))?;
    let index = |map: &str| {
        std::fs::write(at("model.safetensors.index.json"), format!("{{\"metadata\":{{\"total_size\":24}},\"weight_map\":{map}}}"))
    };
    let error = || open(folder.path()).err().expect("should have been refused");

    index(r#"{"a":"m-1.safetensors","b":"m-2.safetensors"}"#)?;
    std::fs::write(at("config.json"), "{\"model_type\":\"llama\"}")?;
    let checkpoint = open(folder.path())?;
    assert_eq!(checkpoint.read_f32("a")?, ramp(4));
    assert_eq!(checkpoint.read_f32("b")?, [5.0, 6.0]);
    assert_eq!(checkpoint.config()?["model_type"], "llama");
    assert_eq!(checkpoint.folder(), Some(folder.path()));

    index(r#"{"a":"m-1.safetensors","b":"m-3.safetensors"}"#)?;
    assert!(matches!(error(), WeightsError::MissingShard { tensors: 1, .. }));
    index(r#"{"a":"m-1.safetensors","c":"m-2.safetensors"}"#)?;
    assert!(matches!(error(), WeightsError::Malformed { .. }));
    index(r#"{"a":"m-2.safetensors","b":"m-1.safetensors"}"#)?;
    assert!(matches!(error(), WeightsError::Malformed { .. }));
    index(r#"{"a":"../m-1.safetensors"}"#)?;
    assert!(error().to_string().contains("without a path"));
    index("{}")?;
    assert!(matches!(error(), WeightsError::Malformed { .. }));
    index(r#"{"a":3}"#)?;
    assert!(matches!(error(), WeightsError::Malformed { .. }));
    // The same tensor in both shards.
    std::fs::write(at("m-2.safetensors"), safetensors(&[("a", "F32", &[1], f32_bytes(&[5.0]))]))?;
    index(r#"{"a":"m-1.safetensors","b":"m-2.safetensors"}"#)?;
    assert!(matches!(error(), WeightsError::Duplicate { .. }));
    Ok(())
}

#[test]
fn what_is_not_a_checkpoint_says_what_would_be_one() -> Outcome {
    let folder = tempfile::tempdir()?;
    let error = |path: &std::path::Path| open(path).err().expect("should have been refused").to_string();
    assert!(error(folder.path()).contains("expected model.safetensors"));
    std::fs::write(folder.path().join("pytorch_model.bin"), "x")?;
    assert!(error(folder.path()).contains("convert them to safetensors"));
    assert!(error(&folder.path().join("pytorch_model.bin")).contains(".gguf"));
    assert!(error(&folder.path().join("nothing.gguf")).contains("cannot open it"));
    assert!(error(std::path::Path::new("")).contains("an empty path"));
    std::fs::create_dir(folder.path().join("model.safetensors"))?;
    assert!(error(folder.path()).contains("regular file"));

    let (folder, path) = file("m.safetensors", &safetensors(&[]));
    let checkpoint = open(&path)?;
    assert!(matches!(checkpoint.config(), Err(WeightsError::NoConfig { .. })));
    std::fs::write(folder.path().join("config.json"), "[1]")?;
    assert!(matches!(checkpoint.config(), Err(WeightsError::Malformed { .. })));
    Ok(())
}

#[test]
fn values_that_are_not_finite_are_counted() {
    assert!(check_finite("t", &ramp(1000)).is_ok());
    let mut values = ramp(100_000);
    values[70_000] = f32::NEG_INFINITY;
    values[99_999] = f32::NAN;
    match check_finite("t", &values) {
        Err(WeightsError::NonFinite { index: 70_000, count: 2, total: 100_000, .. }) => {}
        other => panic!("{other:?}"),
    }
}
