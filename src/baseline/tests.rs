use std::collections::HashSet;

use serde_json::json;

use super::total_variation::minimize;
use super::*;
use crate::picture::psnr;
use crate::picture::resample::test_picture;
use crate::picture::rgb;

/// A picture whose three channels are `plane` in 8 bits.
fn gray(height: usize, width: usize, plane: &[u8]) -> Picture {
    assert_eq!(plane.len(), height * width);
    let bytes: Vec<u8> = plane.iter().flat_map(|&x| [x; 3]).collect();
    Picture::from_rgb8(&bytes, rgb(height, width))
}

/// The picture of the numbers that other programs gave for it, 5 rows of 7:
///
/// ```python
/// import numpy as np
/// from scipy.ndimage import median_filter              # SciPy 1.17.1
/// from skimage.restoration import denoise_tv_chambolle # scikit-image 0.26.0
///
/// y, x, c = np.mgrid[0:5, 0:7, 0:3]
/// b = (y * 37 + x * 61 + c * 40 + x * y * 13) % 256
/// u = denoise_tv_chambolle(b / 255, weight=0.1, channel_axis=-1)
/// print(", ".join(f"{v:.6f}" for v in u.transpose(2, 0, 1).ravel()))
/// for n in (3, 13):
///     print(median_filter(b, size=(n, n, 1), mode="reflect").transpose(2, 0, 1).ravel().tolist())
/// ```
fn compared() -> Picture {
    let byte = |i: usize| {
        let (y, x, c) = (i / 21, i / 3 % 7, i % 3);
        ((y * 37 + x * 61 + c * 40 + x * y * 13) % 256) as u8
    };
    Picture::from_rgb8(&(0..105).map(byte).collect::<Vec<_>>(), rgb(5, 7))
}

/// scikit-image's denoise_tv_chambolle of [`compared`].
#[rustfmt::skip]
const TV: [f32; 105] = [
    0.137395, 0.291782, 0.528237, 0.597908, 0.763567, 0.400510, 0.487392, 0.231664, 0.440126, 0.565979, 0.327549, 0.439730, 0.578219, 0.637832, 0.370559, 0.577263, 0.686668, 0.446924, 0.630930, 0.694589, 0.578617, 0.484528, 0.585384, 0.441514, 0.585422, 0.700111, 0.583028, 0.582107, 0.482320, 0.308214, 0.454047, 0.654909, 0.584283, 0.583969, 0.427311, 0.294305, 0.450095, 0.645530, 0.652489, 0.332184, 0.421449, 0.446486, 0.389316, 0.588359, 0.645251, 0.433031, 0.451501, 0.475805, 0.323960, 0.530515, 0.619628, 0.428340, 0.455094, 0.495641, 0.396827, 0.445573, 0.625472, 0.703260, 0.452745, 0.480430, 0.404498, 0.506156, 0.667799, 0.630594, 0.438039, 0.447126, 0.345814, 0.456476, 0.673272, 0.584194, 0.451958, 0.586486, 0.588598, 0.247342, 0.341615, 0.573308, 0.600700, 0.538339, 0.588712, 0.321663, 0.354126, 0.604400, 0.628686, 0.457027, 0.642776, 0.680642, 0.401231, 0.603152, 0.650556, 0.473719, 0.471333, 0.658382, 0.432438, 0.517025, 0.632110, 0.477602, 0.477156, 0.354012, 0.754866, 0.482340, 0.549585, 0.472023, 0.477182, 0.357382, 0.359370
];

/// SciPy's median_filter of [`compared`] with 3×3, in 8 bits.
#[rustfmt::skip]
const MEDIAN_3: [u8; 105] = [
    37, 61, 122, 183, 151, 110, 110, 61, 111, 122, 166, 151, 151, 110, 111, 111, 155, 155, 151, 166, 199, 111, 118, 155, 155, 166, 166, 99, 148, 118, 118, 118, 201, 99, 99, 77, 101, 162, 162, 89, 89, 150, 101, 114, 151, 119, 117, 117, 124, 151, 151, 151, 117, 119, 124, 124, 151, 151, 119, 119, 128, 128, 124, 188, 158, 95, 128, 128, 128, 139, 117, 141, 141, 68, 83, 129, 190, 141, 141, 141, 83, 129, 157, 164, 154, 135, 135, 135, 159, 157, 77, 191, 154, 135, 159, 159, 138, 138, 191, 191, 85, 168, 79, 138, 138
];

/// SciPy's median_filter of [`compared`] with 13×13, larger than the picture, in 8 bits.
#[rustfmt::skip]
const MEDIAN_13: [u8; 105] = [
    118, 118, 118, 118, 118, 118, 118, 122, 118, 118, 118, 118, 118, 122, 118, 118, 118, 118, 111, 118, 122, 118, 111, 111, 118, 111, 118, 122, 118, 111, 111, 111, 111, 118, 118, 128, 128, 128, 128, 128, 128, 128, 128, 124, 124, 128, 124, 124, 124, 124, 124, 124, 124, 124, 124, 124, 119, 119, 124, 124, 119, 119, 124, 119, 119, 124, 119, 119, 119, 124, 138, 138, 138, 138, 138, 138, 138, 141, 141, 138, 138, 141, 138, 138, 141, 138, 138, 138, 141, 138, 138, 138, 141, 138, 141, 141, 138, 138, 135, 138, 135, 138, 135, 135, 135
];

/// CHW bytes of CHW floats, all of which must be bytes.
fn bytes(pixels: &[f32]) -> Vec<u8> {
    let byte = |&x: &f32| {
        let byte = (x * 255.0).round();
        assert!((x * 255.0 - byte).abs() < 1e-4, "{x} is no byte");
        byte as u8
    };
    pixels.iter().map(byte).collect()
}

/// The plane that all three channels are.
fn plane_of(pixels: &[f32]) -> &[f32] {
    let plane = pixels.len() / 3;
    assert_eq!(pixels[..plane], pixels[plane..2 * plane]);
    assert_eq!(pixels[..plane], pixels[2 * plane..]);
    &pixels[..plane]
}

#[test]
fn every_baseline_keeps_shape_and_range_at_any_size() {
    for (height, width) in [(1, 1), (1, 9), (7, 1), (2, 2), (13, 17), (32, 31)] {
        let picture = Picture::from_rgb8(&test_picture(height, width), rgb(height, width));
        for method in defaults() {
            let out = method.apply(&picture).unwrap();
            assert_eq!(out.len(), 3 * height * width, "{}", method.name());
            assert!(
                out.iter().all(|x| (0.0..=1.0).contains(x)),
                "{}",
                method.name()
            );
            assert_eq!(out, method.apply(&picture).unwrap(), "{}", method.name());
        }
    }
}

#[test]
fn black_and_white_stay_as_they_are() {
    for level in [0, 255] {
        let picture = gray(9, 11, &[level; 99]);
        for method in defaults() {
            assert_eq!(
                method.apply(&picture).unwrap(),
                picture.pixels,
                "{}",
                method.name()
            );
        }
    }
}

#[test]
fn no_defense_is_the_picture() {
    let picture = compared();
    assert_eq!(Nothing {}.apply(&picture).unwrap(), picture.pixels);
}

#[test]
fn jpeg_keeps_a_flat_block_and_loses_little_of_a_smooth_picture() {
    // A flat block is its DC coefficient: 8 · (136 − 128) = 64, which is 8 steps of 8 at quality 75.
    let flat = gray(8, 8, &[136; 64]);
    assert_eq!(Jpeg::default().apply(&flat).unwrap(), flat.pixels);

    let ramp: Vec<u8> = (0..40 * 24).map(|i| (i % 24 * 5 + i / 24) as u8).collect();
    let ramp = gray(40, 24, &ramp);
    let distance = |quality| psnr(&Jpeg { quality }.apply(&ramp).unwrap(), &ramp.pixels);
    assert!(distance(100) > 48.0, "{}", distance(100));
    assert!(distance(75) > 38.0, "{}", distance(75));
    assert!(distance(100) > distance(75) && distance(75) > distance(5));
}

#[test]
fn jpeg_halves_the_chroma() {
    // Of neighbors of equal luma and opposite chroma, the second gets the first one's chroma.
    let colors: [[u8; 3]; 2] = [[200, 98, 128], [56, 158, 128]];
    let checks: Vec<u8> = (0..256).flat_map(|i| colors[i % 2]).collect();
    let picture = Picture::from_rgb8(&checks, rgb(16, 16));
    let out = bytes(&Jpeg { quality: 95 }.apply(&picture).unwrap());
    for (x, wanted) in out.chunks_exact(256).zip(colors[0]) {
        assert!(x.iter().all(|x| x.abs_diff(wanted) <= 16), "{x:?} {wanted}");
    }
}

#[test]
fn jpeg_rounds_to_bytes_first() {
    let mut picture = compared();
    let exact = Jpeg::default().apply(&picture).unwrap();
    for x in &mut picture.pixels {
        *x = (*x + 0.4 / 255.0).min(1.0);
    }
    assert_eq!(Jpeg::default().apply(&picture).unwrap(), exact);
}

#[test]
fn bits_are_the_nearest_level() {
    let picture = gray(1, 5, &[0, 18, 19, 128, 255]);
    // 3 bits: multiples of 1/7, which is 36.43 levels of 255: 18 is below the first half, 19 above.
    let out = BitDepth { bits: 3 }.apply(&picture).unwrap();
    assert_eq!(plane_of(&out), [0.0, 0.0, 1.0 / 7.0, 4.0 / 7.0, 1.0]);
    let out = BitDepth { bits: 1 }.apply(&picture).unwrap();
    assert_eq!(plane_of(&out), [0.0, 0.0, 0.0, 1.0, 1.0]);
    // Half of 1 is a tie, which goes to the even level.
    let half = Picture {
        pixels: vec![0.5; 3],
        shape: rgb(1, 1),
        eight_bit: false,
    };
    assert_eq!(BitDepth { bits: 1 }.apply(&half).unwrap(), [0.0; 3]);
    assert_eq!(
        BitDepth { bits: 8 }.apply(&compared()).unwrap(),
        compared().pixels
    );
}

#[test]
fn bits_twice_are_bits_once() {
    let ramp: Vec<u8> = (0..=255).collect();
    for bits in 1..=8 {
        let baseline = BitDepth { bits };
        let once = Picture {
            pixels: baseline.apply(&gray(16, 16, &ramp)).unwrap(),
            shape: rgb(16, 16),
            eight_bit: false,
        };
        let levels: HashSet<u32> = once.pixels.iter().map(|x| x.to_bits()).collect();
        assert_eq!(levels.len(), 1 << bits);
        assert_eq!(baseline.apply(&once).unwrap(), once.pixels);
    }
}

#[test]
fn medians_are_exact() {
    let out = Median::default()
        .apply(&gray(1, 4, &[10, 200, 30, 40]))
        .unwrap();
    // One row is its own neighbor above and below: the medians of (10, 10, 200), (10, 200, 30) …
    assert_eq!(bytes(plane_of(&out)), [10, 30, 40, 40]);
    let mut lone = [50; 25];
    lone[12] = 255;
    let out = Median::default().apply(&gray(5, 5, &lone)).unwrap();
    assert_eq!(bytes(plane_of(&out)), [50; 25]);
    assert_eq!(
        Median { size: 1 }.apply(&compared()).unwrap(),
        compared().pixels
    );
}

#[test]
fn medians_are_those_of_scipy() {
    for (size, there) in [(3, MEDIAN_3), (13, MEDIAN_13)] {
        let here = Median { size }.apply(&compared()).unwrap();
        assert_eq!(bytes(&here), there, "{size}");
    }
}

#[test]
fn an_edge_that_is_straight_survives_the_median_again_and_again() {
    let edge: Vec<u8> = (0..81).map(|i| if i % 9 < 4 { 20 } else { 220 }).collect();
    let picture = gray(9, 9, &edge);
    assert_eq!(Median::default().apply(&picture).unwrap(), picture.pixels);
}

#[test]
fn total_variation_moves_two_pixels_by_the_weight() {
    // ½((u₀ − 0)² + (u₁ − 1)²) + w·(u₁ − u₀) is least at w and 1 − w, or from w = ½ on at the mean.
    for (weight, least) in [(0.1, [0.1, 0.9]), (0.4, [0.4, 0.6]), (3.0, [0.5, 0.5])] {
        for width in [1, 2] {
            let u = minimize(&[0.0, 1.0], width, weight, 0.0, 100_000);
            for (u, least) in u.iter().zip(least) {
                assert!((u - least).abs() < 1e-3, "{weight} {width}: {u} {least}");
            }
        }
    }
}

#[test]
fn total_variation_keeps_the_mean() {
    let x: Vec<f64> = compared().pixels[..35].iter().map(|&x| x.into()).collect();
    let u = minimize(&x, 7, 0.2, 2e-4, 200);
    assert!((u.iter().sum::<f64>() - x.iter().sum::<f64>()).abs() < 1e-9);
}

#[test]
fn total_variation_is_that_of_scikit_image() {
    let here = TotalVariation { weight: 0.1 }.apply(&compared()).unwrap();
    for (here, there) in here.iter().zip(TV) {
        // Half of the last digit printed, and float32's rounding.
        assert!((here - there).abs() < 1e-6, "{here} {there}");
    }
}

#[test]
fn names_are_unique_and_mean_the_baseline() {
    let methods = defaults();
    let names: HashSet<String> = methods.iter().map(Baseline::name).collect();
    assert_eq!(names.len(), methods.len());
    for method in methods {
        assert_eq!(method.name().parse::<Method>().unwrap(), method);
    }
    assert_eq!(
        "jpeg".parse::<Method>().unwrap(),
        Method::Jpeg(Jpeg::default())
    );
    assert_eq!("tv-0.25".parse::<Method>().unwrap().name(), "tv-0.25");
    for (wrong, said) in [
        ("", "none, jpeg-75, bits-3, median-3, tv-"),
        ("webp", "none, jpeg-75"),
        ("none-1", "no baseline"),
        ("jpeg-", "no baseline"),
        ("jpeg-256", "no baseline"),
        ("jpeg-101", "quality must be from 1 to 100, not 101"),
        ("bits-9", "bits must be from 1 to 8, not 9"),
        ("median-4", "size must be odd and from 1 to 15, not 4"),
        ("tv-nan", "weight must be above 0 and at most 100, not NaN"),
        ("tv--1", "weight must be above 0"),
    ] {
        let error = wrong.parse::<Method>().unwrap_err().to_string();
        assert!(error.contains(said), "{wrong}: {error}");
        assert!(!error.contains('\n'));
    }
}

#[test]
fn options_survive_json_and_are_checked() {
    for method in defaults() {
        let value = serde_json::to_value(&method).unwrap();
        assert_eq!(serde_json::from_value::<Method>(value).unwrap(), method);
    }
    let read = |value| serde_json::from_value::<Method>(value);
    let jpeg = read(json!({"baseline": "jpeg", "quality": 60})).unwrap();
    assert_eq!(jpeg, Method::Jpeg(Jpeg { quality: 60 }));
    let median = read(json!({"baseline": "median"})).unwrap();
    assert_eq!(median, Method::Median(Median::default()));
    assert!(read(json!({"baseline": "jpeg", "bits": 3})).is_err());
    assert!(read(json!({"baseline": "blur"})).is_err());

    let picture = compared();
    for unusable in [
        Method::Jpeg(Jpeg { quality: 0 }),
        Method::Bits(BitDepth { bits: 0 }),
        Method::Bits(BitDepth { bits: 64 }),
        Method::Median(Median { size: 0 }),
        Method::Median(Median { size: 17 }),
        Method::Tv(TotalVariation { weight: 0.0 }),
        Method::Tv(TotalVariation {
            weight: f64::INFINITY,
        }),
    ] {
        assert!(unusable.validate().is_err());
        assert!(unusable.apply(&picture).is_err(), "{}", unusable.name());
    }
}

#[test]
fn pictures_that_are_none_are_refused() {
    let with = |change: fn(&mut Picture)| {
        let mut picture = compared();
        change(&mut picture);
        picture
    };
    for (picture, said) in [
        (with(|p| p.pixels[3] = f32::NAN), "a pixel is NaN"),
        (with(|p| p.pixels[3] = -0.1), "a pixel is -0.1"),
        (with(|p| p.pixels.truncate(5)), "5 numbers are no picture"),
        (with(|p| p.shape.channels = 1), "no picture"),
        (
            with(|p| {
                p.shape.height = 0;
                p.pixels.clear();
            }),
            "no picture",
        ),
    ] {
        for method in defaults() {
            let error = method.apply(&picture).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
            assert!(error.starts_with(&method.name()), "{error}");
        }
    }
}
