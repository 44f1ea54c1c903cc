use super::*;
use crate::picture::resample::{fnv, test_picture};

const ODD: Size = Size {
    height: 61,
    width: 97,
};

fn sidecar(name: &str, json: &str) -> Result<Sidecar> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(name), json).unwrap();
    Ok(Sidecar::beside(&folder.path().join("model.onnx"))?.expect("there is one"))
}

fn picture(size: Size) -> Picture {
    Picture::from_rgb8(
        &test_picture(size.height, size.width),
        rgb(size.height, size.width),
    )
}

/// The hash of what `preprocess` makes of a picture of 61×97.
fn hash(preprocess: &Preprocess) -> u64 {
    fnv(&preprocess.apply(picture(ODD)).unwrap().to_rgb8())
}

fn resolve(name: &str, json: &str) -> Preprocess {
    let sidecar = sidecar(name, json).unwrap();
    Preprocess::resolve(Some(&sidecar), &Overrides::default(), None).unwrap()
}

#[test]
fn timm_sidecars_do_what_timm_does() {
    // Hashes of timm's evaluation transforms, done with Pillow 13.0.
    for (json, hashed) in [
        (
            r#"{"input_size": [3, 32, 32], "crop_pct": 0.875, "interpolation": "bicubic"}"#,
            0xd6e2_fe5c_d6ec_ce39,
        ),
        (
            r#"{"architecture": "x", "pretrained_cfg": {"input_size": [3, 32, 32], "crop_pct": 0.9,
                "interpolation": "bilinear", "crop_mode": "squash"}}"#,
            0xc8b1_07ef_61ed_87fd,
        ),
        (
            r#"{"input_size": [3, 32, 32], "crop_mode": "border", "mean": [0.485, 0.456, 0.406]}"#,
            0x673d_d345_616f_52f4,
        ),
        (
            r#"{"input_size": [3, 24, 40], "interpolation": "bilinear"}"#,
            0x8cba_47b0_4856_373e,
        ),
    ] {
        assert_eq!(hash(&resolve("config.json", json)), hashed, "{json}");
    }
}

#[test]
fn transformers_sidecars_do_what_transformers_does() {
    for (json, hashed) in [
        (
            r#"{"do_resize": true, "size": 32, "resample": 2, "image_processor_type": "ViTImageProcessor"}"#,
            0x82bf_ba2f_1302_c30f,
        ),
        (
            r#"{"do_resize": true, "size": {"height": 32, "width": 32}, "resample": 2}"#,
            0x82bf_ba2f_1302_c30f,
        ),
        (
            r#"{"do_resize": true, "size": {"shortest_edge": 36}, "resample": 3, "do_center_crop": true,
                "crop_size": {"height": 31, "width": 31}}"#,
            0x9d1e_2fc9_6d00_ba95,
        ),
        (
            r#"{"size": 36, "resample": 3, "do_center_crop": true, "crop_size": 31, "do_resize": true,
                "feature_extractor_type": "CLIPFeatureExtractor"}"#,
            0x9d1e_2fc9_6d00_ba95,
        ),
        (
            r#"{"feature_extractor_type": "ConvNextFeatureExtractor", "do_resize": true, "size": 32,
                "crop_pct": 0.875, "resample": 3}"#,
            0xd6e2_fe5c_d6ec_ce39,
        ),
    ] {
        assert_eq!(
            hash(&resolve("preprocessor_config.json", json)),
            hashed,
            "{json}"
        );
    }
}

#[test]
fn normalization_includes_rescaling() {
    let of = |json| resolve("preprocessor_config.json", json).normalization;
    let usual = of(
        r#"{"size": 8, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1],
        "do_rescale": true, "rescale_factor": 0.00392156862745098, "do_normalize": true}"#,
    );
    let expected = Normalization {
        mean: [0.5, 0.4, 0.3],
        std: [0.2, 0.2, 0.1],
    };
    assert_eq!(usual, Some(expected));
    // Pixels from 0 to 255, as they are.
    let raw = of(r#"{"size": 8, "do_rescale": false, "do_normalize": false}"#).unwrap();
    assert_eq!(raw.mean, [0.0; 3]);
    assert!((raw.std[0] - 1.0 / 255.0).abs() < 1e-9);
    // From -1 to 1.
    let offset = of(
        r#"{"size": 8, "rescale_factor": 0.00784313725490196, "rescale_offset": true,
        "do_normalize": false}"#,
    );
    assert_eq!(
        offset,
        Some(Normalization {
            mean: [0.5; 3],
            std: [0.5; 3]
        })
    );
    assert_eq!(of(r#"{"size": 8, "do_normalize": false}"#), None);
}

#[test]
fn preprocessor_config_comes_before_config() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.onnx");
    assert_eq!(Sidecar::beside(&model).unwrap(), None);
    // A transformers model's own configuration says nothing about pixels.
    let write = |name, json: &str| std::fs::write(folder.path().join(name), json).unwrap();
    write("config.json", r#"{"model_type": "vit", "image_size": 224}"#);
    assert_eq!(Sidecar::beside(&model).unwrap(), None);
    assert!(Sidecar::open(&folder.path().join("config.json")).is_err());
    write("config.json", r#"{"input_size": [3, 9, 9]}"#);
    assert_eq!(
        Sidecar::beside(&model)
            .unwrap()
            .unwrap()
            .geometry
            .size
            .unwrap()
            .height,
        9
    );
    write("preprocessor_config.json", r#"{"size": 7}"#);
    assert_eq!(
        Sidecar::beside(&model)
            .unwrap()
            .unwrap()
            .geometry
            .size
            .unwrap()
            .height,
        7
    );
}

#[test]
fn damaged_sidecars_are_refused() {
    for (json, message) in [
        ("{", "is no JSON"),
        ("[]", "is no JSON object"),
        (r#"{"input_size": [3, 0, 9]}"#, "no size"),
        (r#"{"input_size": 9}"#, "has input_size 9"),
        (r#"{"crop_pct": 0}"#, "crop_pct 0"),
        (r#"{"interpolation": "magic"}"#, "unknown interpolation"),
        (r#"{"mean": [1, 2], "std": 1}"#, "has mean [1,2]"),
        (r#"{"std": 0}"#, "std must be above 0"),
        (r#"{"size": {"longest_edge": 9}}"#, "has size"),
        (
            r#"{"size": 9, "do_center_crop": true}"#,
            "without a crop_size",
        ),
        (
            r#"{"size": 9, "do_normalize": true}"#,
            "without an image_mean",
        ),
        (r#"{"size": 9, "resample": 6}"#, "resample 6"),
        (r#"{"size": 99999}"#, "has size"),
    ] {
        let error = sidecar("config.json", json).unwrap_err().to_string();
        assert!(
            error.contains("config.json: ") && error.contains(message),
            "{error}"
        );
    }
}

#[test]
fn flags_override_the_sidecar() {
    let json = r#"{"input_size": [3, 64, 64], "crop_pct": 0.875, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}"#;
    let sidecar = sidecar("config.json", json).unwrap();
    let size = Size {
        height: 32,
        width: 32,
    };
    let overrides = Overrides {
        size: Some(size),
        std: Some([1.0, 2.0, 3.0]),
        ..Overrides::default()
    };
    let p = Preprocess::resolve(Some(&sidecar), &overrides, Some(size)).unwrap();
    assert_eq!(hash(&p), 0xd6e2_fe5c_d6ec_ce39);
    assert_eq!(p.normalization.unwrap().mean, [0.1, 0.2, 0.3]);
    assert_eq!(p.normalization.unwrap().std, [1.0, 2.0, 3.0]);
    // The model's own size against the sidecar's: the message names both and the way out.
    let error = Preprocess::resolve(Some(&sidecar), &Overrides::default(), Some(size));
    let error = error.unwrap_err().to_string();
    for part in ["32x32", "64x64", "config.json", "`size=32x32`"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn pictures_of_the_right_size_stay_as_they_are() {
    let p = resolve(
        "config.json",
        r#"{"input_size": [3, 61, 97], "crop_pct": 0.5}"#,
    );
    assert_eq!(p.apply(picture(ODD)).unwrap(), picture(ODD));
    let own = Preprocess::resolve(None, &Overrides::default(), Some(ODD)).unwrap();
    assert_eq!(own.apply(picture(ODD)).unwrap(), picture(ODD));
    assert_eq!(own.normalization, None);
}

#[test]
fn without_a_rule_another_size_is_refused() {
    let wanted = Size {
        height: 32,
        width: 48,
    };
    let p = Preprocess::resolve(None, &Overrides::default(), Some(wanted)).unwrap();
    let error = p.apply(picture(ODD)).unwrap_err().to_string();
    for part in ["61x97", "32x48", "`size=32x48`"] {
        assert!(error.contains(part), "{error}");
    }
    let error = Preprocess::resolve(None, &Overrides::default(), None).unwrap_err();
    assert!(error.to_string().contains("`size="));
}

#[test]
fn resizing_never_takes_unbounded_memory() {
    let size = Size {
        height: 512,
        width: 512,
    };
    let overrides = Overrides {
        size: Some(size),
        ..Overrides::default()
    };
    let p = Preprocess::resolve(None, &overrides, None).unwrap();
    let strip = picture(Size {
        height: 1,
        width: 16_000,
    });
    assert!(
        p.apply(strip)
            .unwrap_err()
            .to_string()
            .contains("too large")
    );
    let tiny = Overrides {
        size: Some(size),
        crop_pct: Some(1e-9),
        ..Overrides::default()
    };
    let result = Preprocess::resolve(None, &tiny, None).and_then(|p| p.apply(picture(ODD)));
    assert!(result.unwrap_err().to_string().contains("too large"));
}

#[test]
fn crops_center_as_their_library_does() {
    use Centering::{Torchvision, Transformers};
    // Margins of 3 and 5 pixels, then padding of 3.
    assert_eq!(
        [(10, 7), (12, 7), (7, 10)].map(|(n, c)| Torchvision.offset(n, c)),
        [2, 2, -1]
    );
    assert_eq!(
        [(10, 7), (12, 7), (7, 10)].map(|(n, c)| Transformers.offset(n, c)),
        [1, 2, -2]
    );
}

#[test]
fn float_pictures_are_resized_in_float() {
    let size = Size {
        height: 32,
        width: 32,
    };
    let overrides = Overrides {
        size: Some(size),
        ..Overrides::default()
    };
    let p = Preprocess::resolve(None, &overrides, None).unwrap();
    let eight = p.apply(picture(ODD)).unwrap();
    let float = p
        .apply(Picture {
            eight_bit: false,
            ..picture(ODD)
        })
        .unwrap();
    assert!(!float.eight_bit);
    assert!(
        eight
            .pixels
            .iter()
            .zip(&float.pixels)
            .all(|(a, b)| (a - b).abs() < 1.7 / 255.0)
    );
    assert_ne!(eight.pixels, float.pixels);
}

#[test]
fn sizes_are_height_first() {
    assert_eq!("61x97".parse(), Ok(ODD));
    assert_eq!(
        "7".parse(),
        Ok(Size {
            height: 7,
            width: 7
        })
    );
    for wrong in ["", "x", "0x7", "7x", "-1x2", "99999x7", "7x7x7"] {
        assert!(wrong.parse::<Size>().is_err(), "{wrong}");
    }
}
