//! Every input form, good and bad, through [`Dataset`].

use std::path::{Path, PathBuf};

use crate::common::*;
use backstitch::input::stream::Stream;
use backstitch::input::{Classes, Dataset, Layout};
use backstitch::picture::Picture;
use image::{DynamicImage, ImageFormat};

fn open(inputs: &[PathBuf], layout: Option<Layout>) -> backstitch::Result<Dataset> {
    Dataset::open(inputs, layout, None)
}

/// The pictures of one input.
fn load(input: &Path, layout: Option<Layout>) -> Vec<backstitch::Result<Picture>> {
    let dataset = open(&[input.to_owned()], layout).unwrap();
    dataset.items().map(|item| dataset.load(&item)).collect()
}

/// The message of an input that is refused.
fn refusal(input: &Path, layout: Option<Layout>) -> String {
    let error = open(&[input.to_owned()], layout).unwrap_err().to_string();
    assert!(error.starts_with(&input.display().to_string()), "{error}");
    assert!(!error.contains('\n'), "{error}");
    error
}

/// The message of a file that is listed but cannot be decoded.
fn damage(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = write(folder, name, bytes);
    let error = load(&path, None).remove(0).unwrap_err().to_string();
    assert!(error.starts_with(&path.display().to_string()), "{error}");
    assert!(!error.contains('\n'), "{error}");
    error
}

fn ids(dataset: &Dataset) -> Vec<String> {
    dataset.items().map(|item| item.id).collect()
}

/// CHW floats of the 8-bit picture of `width × height` that [`pixel`] describes.
fn expected(width: u32, height: u32) -> Vec<f32> {
    let mut pixels = Vec::new();
    for channel in 0..3 {
        for y in 0..height {
            pixels.extend((0..width).map(|x| f32::from(pixel(x, y)[channel]) / 255.0));
        }
    }
    pixels
}

#[test]
fn lossless_formats_give_their_exact_pixels() {
    let folder = tempfile::tempdir().unwrap();
    for (name, format) in [
        ("a.png", ImageFormat::Png),
        ("a.bmp", ImageFormat::Bmp),
        ("a.tiff", ImageFormat::Tiff),
        ("a.webp", ImageFormat::WebP),
        // The content counts, not the name.
        ("a.jpg", ImageFormat::Png),
    ] {
        let path = write(folder.path(), name, encode(&picture(19, 7), format));
        let picture = load(&path, None).remove(0).unwrap();
        assert_eq!(
            (picture.shape.height, picture.shape.width),
            (7, 19),
            "{name}"
        );
        assert_eq!(picture.pixels, expected(19, 7), "{name}");
        assert!(picture.eight_bit);
    }
}

#[test]
fn lossy_formats_come_close() {
    let folder = tempfile::tempdir().unwrap();
    let flat = DynamicImage::ImageRgb8(image::RgbImage::from_pixel(
        20,
        10,
        image::Rgb([200, 90, 30]),
    ));
    for (name, format) in [("a.jpeg", ImageFormat::Jpeg), ("a.gif", ImageFormat::Gif)] {
        let image = match format {
            ImageFormat::Gif => DynamicImage::ImageRgba8(flat.to_rgba8()),
            _ => flat.clone(),
        };
        let path = write(folder.path(), name, encode(&image, format));
        let picture = load(&path, None).remove(0).unwrap();
        for (channel, value) in [200.0, 90.0, 30.0].into_iter().enumerate() {
            let pixel = picture.pixels[channel * 200 + 57];
            assert!((pixel - value / 255.0).abs() < 0.02, "{name}: {pixel}");
        }
    }
}

#[test]
fn gray_alpha_and_16_bit_become_rgb() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str, image: DynamicImage| {
        let path = write(folder.path(), name, encode(&image, ImageFormat::Png));
        load(&path, None).remove(0).unwrap()
    };
    let gray = open(
        "gray.png",
        image::GrayImage::from_pixel(2, 2, image::Luma([51])).into(),
    );
    assert_eq!(gray.pixels, [0.2; 12]);

    // A transparent pixel keeps its color.
    let alpha = image::RgbaImage::from_pixel(1, 1, image::Rgba([255, 51, 0, 0]));
    assert_eq!(open("alpha.png", alpha.into()).pixels, [1.0, 0.2, 0.0]);

    let deep = image::ImageBuffer::from_pixel(1, 1, image::Rgb([65535u16, 257, 1]));
    let deep = open("deep.png", DynamicImage::ImageRgb16(deep));
    assert_eq!(deep.pixels, [1.0, 257.0 / 65535.0, 1.0 / 65535.0]);
    assert!(!deep.eight_bit);

    let gray = image::ImageBuffer::from_pixel(1, 1, image::LumaA([13107u16, 9]));
    assert_eq!(
        open("deep-gray.png", DynamicImage::ImageLumaA16(gray)).pixels,
        [0.2; 3]
    );
}

#[test]
fn cmyk_and_progressive_jpegs_decode_as_pillow_does() {
    let folder = tempfile::tempdir().unwrap();
    // Pillow's values at rows 0 and 15, columns 0, 8 and 16.
    let cmyk = [
        [[0, 2, 8], [79, 2, 55], [160, 2, 102]],
        [[0, 224, 89], [79, 224, 137], [160, 224, 184]],
    ];
    let rgb = [
        [[0, 2, 0], [65, 5, 41], [148, 4, 91]],
        [[24, 212, 100], [95, 218, 151], [179, 218, 200]],
    ];
    for (name, bytes, values) in [("c.jpg", CMYK_JPEG, cmyk), ("p.jpg", PROGRESSIVE_JPEG, rgb)] {
        let path = write(folder.path(), name, bytes);
        let picture = load(&path, None).remove(0).unwrap();
        assert_eq!((picture.shape.height, picture.shape.width), (16, 24));
        for (y, row) in [0, 15].into_iter().zip(values) {
            for (x, value) in [0, 8, 16].into_iter().zip(row) {
                for (channel, value) in value.into_iter().enumerate() {
                    let got = picture.pixels[(channel * 16 + y) * 24 + x] * 255.0;
                    // Decoders may differ in rounding.
                    assert!(
                        (got - value as f32).abs() <= 4.0,
                        "{name} {x} {y} {channel}: {got} {value}"
                    );
                }
            }
        }
    }
}

#[test]
fn exif_orientation_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "t.jpg", TURNED_JPEG);
    let turned = load(&path, None).remove(0).unwrap();
    assert_eq!((turned.shape.height, turned.shape.width), (24, 16));
    // Orientation 6: the stored lower left corner is the upper left one. There green is bright.
    assert!(turned.pixels[24 * 16] > 0.8 && turned.pixels[24 * 16 + 15] < 0.1);
}

#[test]
fn damaged_pictures_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert!(damage(folder, "t.png", truncated_png()).contains("cannot be decoded"));
    assert!(damage(folder, "t.jpg", truncated_jpeg()).contains("truncated JPEG"));
    assert!(damage(folder, "p.jpg", &PROGRESSIVE_JPEG[..400]).contains("truncated JPEG"));
    assert!(damage(folder, "c.jpg", &CMYK_JPEG[..120]).contains("decoded"));
    assert!(
        damage(folder, "h.png", huge_png())
            .contains("50000x50000 pixels (height x width), too large")
    );
    assert!(
        damage(folder, "h.jpg", huge_jpeg())
            .contains("50000x50000 pixels (height x width), too large")
    );
    assert!(damage(folder, "z.png", b"").contains("is empty (0 bytes)"));
    assert!(damage(folder, "n.png", b"no image at all").contains("is not an image"));
    for format in [
        ImageFormat::Bmp,
        ImageFormat::Tiff,
        ImageFormat::WebP,
        ImageFormat::Gif,
    ] {
        let bytes = encode(
            &DynamicImage::ImageRgba8(picture(64, 48).to_rgba8()),
            format,
        );
        damage(folder, "half.img", &bytes[..bytes.len() / 2]);
    }
}

#[test]
fn cutting_a_file_anywhere_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    for (bytes, format) in [
        (png(9, 8), "png"),
        (jpeg(9, 8), "jpg"),
        (npy_f32(&[1, 3, 2, 2], &[0.5; 12]), "npy"),
        (npz(&[("x", npy_u8(&[1, 3, 2, 2], &[1; 12]))]), "npz"),
    ] {
        for end in 0..bytes.len() {
            let path = write(folder.path(), &format!("cut.{format}"), &bytes[..end]);
            if let Ok(dataset) = open(&[path], None) {
                let item = dataset.item(0);
                let missing = bytes.len() - end;
                // What may be missing unnoticed: a PNG's last chunk, which holds nothing.
                assert!(dataset.load(&item).is_err() || (format == "png" && missing <= 12));
            }
        }
    }
}

#[test]
fn flipping_bytes_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let rgba = DynamicImage::ImageRgba8(picture(12, 9).to_rgba8());
    let mut files = vec![
        ("npy", npy_f32(&[1, 3, 2, 2], &[0.5; 12])),
        (
            "npz",
            npz(&[("x", npy_u8(&[1, 3, 2, 2], &[1; 12])), ("y", npy_i64(&[1]))]),
        ),
        (
            "npz",
            npz(&[
                ("x", npy_header("<f8", true, "(2, 3, 2, 2)", &[0; 192])),
                ("y", npy_f32(&[2, 3], &[0.0, 1.0, 0.0, 0.0, 0.0, 1.0])),
            ]),
        ),
        ("npy", npy_header(">f2", true, "(2, 2, 2, 3)", &[0; 48])),
        ("pt", std::fs::read(fixture("attacked-half.pt")).unwrap()),
        (
            "parquet",
            std::fs::read(fixture("parquet/hub.parquet")).unwrap(),
        ),
        (
            "parquet",
            std::fs::read(fixture("parquet/plain.parquet")).unwrap(),
        ),
        (
            "parquet",
            std::fs::read(fixture("parquet/gzip.parquet")).unwrap(),
        ),
        ("bin", cifar(&[1])),
        ("pkl", CIFAR_BATCH.to_vec()),
        ("tgz", gzip(&tar(&[("a.png", &png(2, 2)), ("a.cls", b"1")]))),
        ("jsonl", br#"{"file": "a.png", "label": 1}"#.to_vec()),
        ("jpg", CMYK_JPEG.to_vec()),
        ("jpg", PROGRESSIVE_JPEG.to_vec()),
        ("jpg", TURNED_JPEG.to_vec()),
    ];
    for format in [
        ImageFormat::Png,
        ImageFormat::Gif,
        ImageFormat::Tiff,
        ImageFormat::WebP,
        ImageFormat::Bmp,
    ] {
        files.push((format.extensions_str()[0], encode(&rgba, format)));
    }
    let mut random = 1u64;
    let mut next = |below: usize| {
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (random >> 33) as usize % below
    };
    for (extension, bytes) in files {
        for _ in 0..60 {
            let mut damaged = bytes.clone();
            for _ in 0..=next(4) {
                // Mostly the head, where sizes and offsets are.
                let reach = if next(2) == 0 { 64 } else { damaged.len() };
                let at = next(reach.min(damaged.len()));
                damaged[at] = [0, 0xff, 0x7f, next(256) as u8][next(4)];
            }
            let path = write(folder.path(), &format!("x.{extension}"), &damaged);
            if let Ok(dataset) = open(&[path], None) {
                let _ = dataset.load(&dataset.item(0));
            }
        }
    }
}

#[test]
fn folders_are_listed_in_order_with_labels() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for name in [
        "data/n2/b.png",
        "data/n2/a.PNG",
        "data/n1/x.png",
        "data/y.png",
        "data/n1/.hidden.png",
    ] {
        write(folder, name, png(2, 2));
    }
    write(folder, "data/n1/readme.txt", "text");
    let classes = write(folder, "classes.txt", "n1\ttench\nn2\tgoldfish\n");
    let dataset = || Classes::open(&classes).map(Some).unwrap();
    let data = Dataset::open(&[folder.join("data")], None, dataset()).unwrap();
    assert_eq!(ids(&data), ["n1/x.png", "n2/a.PNG", "n2/b.png", "y.png"]);
    let labels: Vec<_> = data.items().map(|item| item.label).collect();
    assert_eq!(labels, [Some(0), Some(1), Some(1), None]);
    assert_eq!(data.classes().unwrap().name(1), Some("goldfish"));
    // The folder itself may be the class folder; so may a single file's.
    let inputs = [folder.join("data/n2"), folder.join("data/n1/x.png")];
    let data = Dataset::open(&inputs, None, dataset()).unwrap();
    assert_eq!(ids(&data), ["n2/a.PNG", "n2/b.png", "x.png"]);
    assert_eq!(data.item(1).label, Some(1));
    assert_eq!(data.item(2).label, Some(0));

    write(folder, "other/y.png", png(2, 2));
    let error = Dataset::open(&[folder.join("other")], None, dataset()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no folder that the list of classes names"),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_those_that_lead_nowhere_fail_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    write(&data, "b.png", png(2, 2));
    std::os::unix::fs::symlink("b.png", data.join("a.png")).unwrap();
    std::os::unix::fs::symlink("gone.png", data.join("c.png")).unwrap();
    std::os::unix::fs::symlink("gone", data.join("d")).unwrap();
    std::os::unix::fs::symlink("self.png", data.join("self.png")).unwrap();
    let dataset = open(std::slice::from_ref(&data), None).unwrap();
    assert_eq!(ids(&dataset), ["a.png", "b.png", "c.png", "self.png"]);
    let loaded: Vec<bool> = dataset.items().map(|i| dataset.load(&i).is_ok()).collect();
    assert_eq!(loaded, [true, true, false, false]);
    std::os::unix::fs::symlink(".", data.join("loop")).unwrap();
    let error = open(&[data], None).unwrap_err().to_string();
    assert!(
        error.contains("a link to a folder that contains it"),
        "{error}"
    );
}

#[test]
fn outputs_of_a_run_below_an_input_are_no_inputs() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.png", png(4, 4));
    write(folder.path(), "out/images/a.png", png(4, 4));
    let listed = |path: &Path| ids(&open(&[path.to_owned()], None).unwrap());
    assert_eq!(listed(folder.path()), ["a.png", "out/images/a.png"]);
    // Another program's run.
    write(folder.path(), "out/run.json", r#"{"epoch": 1}"#);
    write(folder.path(), "out/results.jsonl", "");
    assert_eq!(listed(folder.path()), ["a.png", "out/images/a.png"]);
    write(folder.path(), "out/run.json", r#"{"backstitch": "0.1.0"}"#);
    assert_eq!(listed(folder.path()), ["a.png"]);
    assert_eq!(listed(&folder.path().join("out")), ["images/a.png"]);
}

#[test]
fn several_inputs_have_unique_ids() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for name in ["p/a.png", "q/p/a.png", "a.png"] {
        write(folder, name, png(2, 2));
    }
    let inputs = ["p", "q/p", "a.png", "p/a.png"].map(|name| folder.join(name));
    let dataset = open(&inputs, None).unwrap();
    assert_eq!(ids(&dataset), ["p/a.png", "p~2/a.png", "a.png", "a~2.png"]);
}

#[test]
fn missing_and_empty_inputs_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert!(refusal(&folder.join("nowhere"), None).contains("No such file"));
    assert!(refusal(folder, None).contains("holds no pictures"));
    write(folder, "x.npy", npy_u8(&[1, 3, 2, 2], &[0; 12]));
    assert!(refusal(folder, None).contains("1 other files"));
    let empty = write(folder, "empty.jsonl", "\n");
    assert!(refusal(&empty, None).contains("lists no pictures"));
    assert!(open(&[], None).is_err());
}

#[test]
fn arrays_of_both_types_and_layouts_agree() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: Vec<u8>| write(folder.path(), name, bytes);
    // Two pictures of 2 × 4; element values name their place.
    let value = |n: usize, c: usize, y: usize, x: usize| (n * 100 + c * 30 + y * 10 + x) as u8;
    let (mut chw, mut hwc) = (Vec::new(), Vec::new());
    for n in 0..2 {
        for i in 0..24 {
            chw.push(value(n, i / 8, i / 4 % 2, i % 4));
            hwc.push(value(n, i % 3, i / 12, i / 3 % 4));
        }
    }
    let float = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|&b| f32::from(b) / 255.0)
            .collect::<Vec<_>>()
    };
    let big_endian: Vec<u8> = float(&hwc).iter().flat_map(|x| x.to_be_bytes()).collect();
    for path in [
        write("a.npy", npy_u8(&[2, 3, 2, 4], &chw)),
        write("b.npy", npy_u8(&[2, 2, 4, 3], &hwc)),
        write("c.npy", npy_f32(&[2, 3, 2, 4], &float(&chw))),
        write("d.npy", npy_f32(&[2, 2, 4, 3], &float(&hwc))),
        write(
            "e.npy",
            npy_header(">f4", false, "(2, 2, 4, 3)", &big_endian),
        ),
        write("f.npz", npz(&[("images", npy_u8(&[2, 3, 2, 4], &chw))])),
    ] {
        let pictures = load(&path, None);
        assert_eq!(pictures.len(), 2);
        for (n, picture) in pictures.into_iter().enumerate() {
            assert_eq!(
                picture.unwrap().pixels,
                float(&chw[n * 24..][..24]),
                "{}",
                path.display()
            );
        }
    }
    // One picture, and one channel.
    let one = write("one.npy", npy_u8(&[3, 2, 4], &chw[..24]));
    assert_eq!(
        load(&one, None).remove(0).unwrap().pixels,
        float(&chw[..24])
    );
    let gray = write("gray.npy", npy_u8(&[2, 4, 1], &[51; 8]));
    assert_eq!(load(&gray, None).remove(0).unwrap().pixels, [0.2; 24]);
    assert_eq!(ids(&open(&[one], None).unwrap()), ["one.npy#0"]);
}

#[test]
fn an_open_layout_is_refused_and_a_flag_settles_it() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: Vec<u8>| write(folder.path(), name, bytes);
    let open = write("open.npy", npy_u8(&[2, 3, 5, 3], &[0; 90]));
    assert!(refusal(&open, None).contains("`layout=nchw` or `layout=nhwc`"));
    let shape = |layout| {
        let picture = load(&open, Some(layout)).remove(0).unwrap();
        (picture.shape.height, picture.shape.width)
    };
    assert_eq!(shape(Layout::Nchw), (5, 3));
    assert_eq!(shape(Layout::Nhwc), (3, 5));
    assert!(refusal(&open, Some(Layout::Chw)).contains("is not the layout chw"));
    let flat = write("flat.npy", npy_u8(&[4, 4], &[0; 16]));
    assert!(refusal(&flat, None).contains("[4, 4]"));
    let gray = write("gray.npy", npy_u8(&[4, 4, 4], &[0; 64]));
    assert!(refusal(&gray, None).contains("no axis is 1 or 3 channels"));
    let wrong = write("wrong.npy", npy_u8(&[2, 3, 4, 4], &[0; 96]));
    assert!(refusal(&wrong, Some(Layout::Nhwc)).contains("4 channels"));
}

#[test]
fn damaged_arrays_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8]| refusal(&write(folder.path(), name, bytes), None);
    let header = |descr, fortran, shape| npy_header(descr, fortran, shape, &[0; 96]);
    assert!(refused("a.npy", &header("<c8", false, "(1, 3, 2, 2)")).contains("dtype <c8"));
    assert!(refused("b.npy", &header("|O", false, "(1, 3, 2, 2)")).contains("dtype |O"));
    assert!(refused("c.npy", &header("<i4", true, "(1, 3, 2, 2)")).contains("dtype int32"));
    assert!(refused("d.npy", &header("<f4", false, "(9, 3, 2, 2)")).contains("is truncated"));
    assert!(refused("e.npy", &header("<f4", false, "(0, 3, 2, 2)")).contains("no pictures"));
    let huge = "(4611686018427387904, 3, 4611686018427387904, 4)";
    assert!(refused("f.npy", &header("<f4", false, huge)).contains("more than a file can hold"));
    let many = "(4611686018427387904, 3, 2, 2)";
    assert!(refused("g.npy", &header("<f4", false, many)).contains("more than a file can hold"));
    let beyond = "(18446744073709551616, 3, 2, 2)";
    assert!(refused("h.npy", &header("<f4", false, beyond)).contains("header that cannot be read"));
    assert!(refused("i.npy", &header("<f4", false, "(1, -3, 2, 2)")).contains("cannot be read"));
    assert!(refused("j.npy", b"PK\x03\x04").contains(".npy header"));
    assert!(refused("k.npy", b"not an array at all").contains("is not a NumPy array"));
    assert!(refused("l.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff").contains("it is damaged"));
    assert!(refused("m.npz", b"not an archive").contains("damaged .npz"));
}

#[test]
fn array_values_must_be_pixels() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "nan.npy", npy_with_nan());
    let mut pictures = load(&path, None);
    let error = pictures.pop().unwrap().unwrap_err().to_string();
    assert!(
        error.contains("nan.npy: has NaN at [1, 2, 0, 1]"),
        "{error}"
    );
    // The other picture of the batch is none the worse for it.
    assert!(pictures.pop().unwrap().is_ok());
    for (value, text) in [
        (f32::INFINITY, "has inf at [0, 1, 3]"),
        (-0.1, "has -0.1 at [0, 1, 3]"),
        (200.0, "divide by 255"),
    ] {
        let mut values = [0.5; 24];
        values[7] = value;
        let path = write(folder.path(), "bad.npy", npy_f32(&[3, 2, 4], &values));
        let error = load(&path, None).remove(0).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn archives_give_pictures_and_labels() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, arrays: &[(&str, Vec<u8>)]| write(folder.path(), name, npz(arrays));
    let pictures = || npy_u8(&[2, 3, 2, 2], &[7; 24]);
    let path = write(
        "a.npz",
        &[("y_test", npy_i64(&[4, 2])), ("x_test", pictures())],
    );
    let dataset = open(&[path], None).unwrap();
    assert_eq!(ids(&dataset), ["a.npz#0", "a.npz#1"]);
    assert_eq!(dataset.item(0).label, Some(4));
    assert_eq!(dataset.item(1).label, Some(2));
    let path = write("b.npz", &[("whatever", pictures())]);
    assert_eq!(open(&[path], None).unwrap().item(0).label, None);

    let message = |name, arrays: &[(&str, Vec<u8>)]| refusal(&write(name, arrays), None);
    let two = [("a", pictures()), ("b", pictures())];
    assert!(message("c.npz", &two).contains("several arrays that could be the pictures (a, b)"));
    assert!(message("d.npz", &[("y", npy_i64(&[1]))]).contains("no array of 3 or 4 axes"));
    let short = [("x", pictures()), ("labels", npy_i64(&[1]))];
    assert!(message("e.npz", &short).contains("1 labels for 2 pictures"));
    let negative = [("x", pictures()), ("labels", npy_i64(&[1, -1]))];
    assert!(message("f.npz", &negative).contains("has label -1 at [1]"));
    let cut = npy_header("|u1", false, "(9, 3, 2, 2)", &[0; 12]);
    assert!(message("g.npz", &[("x", cut)]).contains("truncated"));
}

#[test]
fn labels_have_any_form_that_says_them() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = || npy_u8(&[3, 3, 2, 2], &[7; 36]);
    let labels = |name: &str, array: Vec<u8>| -> Vec<Option<usize>> {
        let path = write(
            folder.path(),
            "a.npz",
            npz(&[("x", pictures()), (name, array)]),
        );
        let dataset = open(&[path], None).unwrap();
        dataset.items().map(|item| item.label).collect()
    };
    let wanted = [Some(2), Some(0), Some(1)];
    let column: Vec<u8> = [2i64, 0, 1].iter().flat_map(|x| x.to_le_bytes()).collect();
    let one_hot = [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0];
    for (name, array) in [
        ("y_test", npy_i64(&[2, 0, 1])),
        ("labels", npy_header("<i8", false, "(3, 1)", &column)),
        ("y", npy_f32(&[3, 3], &one_hot)),
        ("label", npy_f32(&[3], &[2.0, 0.0, 1.0])),
        ("target", npy_i64(&[2, 0, 1])),
        ("targets", npy_u8(&[3], &[2, 0, 1])),
        (
            "y",
            npy_header("|b1", true, "(3, 3)", &[0, 1, 0, 0, 0, 1, 1, 0, 0]),
        ),
    ] {
        assert_eq!(labels(name, array), wanted, "{name}");
    }
    // What cannot be labels is left.
    for array in [
        npy_f32(&[3], &[0.5, 0.0, 1.0]),
        npy_f32(&[3, 2], &[0.3, 0.7, 1.0, 0.0, 0.0, 1.0]),
        npy_header("<U3", false, "(3,)", &[0; 36]),
        npy_u8(&[3, 0], &[]),
    ] {
        assert_eq!(labels("labels", array), [None; 3]);
    }
}

#[test]
fn label_arrays_of_the_cases_agree() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/cases/label-arrays");
    if !cases.is_dir() {
        eprintln!("skipped: no ../shared/cases");
        return;
    }
    let wanted = [1, 3, 3, 3, 2, 3, 4, 2, 2, 3, 0, 2].map(Some);
    for name in ["lab_int", "lab_n1", "lab_onehot", "lab_float"] {
        let dataset = open(&[cases.join(format!("{name}.npz"))], None).unwrap();
        let labels: Vec<_> = dataset.items().map(|item| item.label).collect();
        assert_eq!(labels, wanted, "{name}");
    }
}

#[test]
fn numbers_of_every_width_and_order_are_the_same_pictures() {
    let folder = tempfile::tempdir().unwrap();
    // Quarters, which float16 has too.
    let value = |n: usize, c: usize, y: usize, x: usize| ((n + 2 * c + 3 * y + x) % 5) as f32 / 4.0;
    let shape = [2, 3, 2, 4];
    let (mut c_order, mut fortran) = (Vec::new(), vec![0.0; 48]);
    for n in 0..2 {
        for (c, y, x) in (0..24).map(|i| (i / 8, i / 4 % 2, i % 4)) {
            c_order.push(value(n, c, y, x));
            fortran[n + 2 * (c + 3 * (y + 2 * x))] = value(n, c, y, x);
        }
    }
    let doubles = |values: &[f32]| -> Vec<u8> {
        values
            .iter()
            .flat_map(|&x| f64::from(x).to_le_bytes())
            .collect()
    };
    let halves = |values: &[f32]| -> Vec<u8> {
        let bits = |x: &f32| [0x0000u16, 0x3400, 0x3800, 0x3a00, 0x3c00][(x * 4.0) as usize];
        values.iter().flat_map(|x| bits(x).to_be_bytes()).collect()
    };
    let text = "(2, 3, 2, 4)";
    for (name, bytes) in [
        ("f4.npy", npy_f32(&shape, &c_order)),
        ("f8.npy", npy_header("<f8", false, text, &doubles(&c_order))),
        ("f2.npy", npy_header(">f2", false, text, &halves(&c_order))),
        (
            "f8-fortran.npy",
            npy_header("<f8", true, text, &doubles(&fortran)),
        ),
        (
            "f2-fortran.npz",
            npz(&[("x", npy_header(">f2", true, text, &halves(&fortran)))]),
        ),
    ] {
        let pictures = load(&write(folder.path(), name, bytes), None);
        let pixels: Vec<f32> = pictures
            .into_iter()
            .flat_map(|p| p.unwrap().pixels)
            .collect();
        assert_eq!(pixels, c_order, "{name}");
    }
}

#[test]
fn rounding_is_clipped_and_what_is_wrong_is_guessed() {
    let cases = fixture("cases/rounding");
    let archive = load(&cases.join("roundtrip.npz"), None);
    let tensors = load(&cases.join("roundtrip.pt"), None);
    assert_eq!(archive.len(), 4);
    for (here, there) in archive.into_iter().zip(tensors) {
        let (here, there) = (here.unwrap(), there.unwrap());
        assert_eq!(here, there);
        assert!(here.pixels.iter().all(|x| (0.0..=1.0).contains(x)));
    }
    let folder = tempfile::tempdir().unwrap();
    for (value, other, hint) in [
        (1.002, 0.5, "clip"),
        (200.0, 0.0, "divide by 255"),
        (2.4, -2.1, "looks normalized"),
        (f32::NAN, 0.5, "not finite"),
    ] {
        let mut values = [other; 12];
        values[4] = value;
        let path = write(folder.path(), "bad.npy", npy_f32(&[3, 2, 2], &values));
        let error = load(&path, None).remove(0).unwrap_err().to_string();
        assert!(error.contains(hint), "{error}");
    }
}

#[test]
fn byte_order_marks_are_no_part_of_the_text() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        write(folder.path(), &format!("d/{name}.png"), png(2, 2));
    }
    let manifest = std::fs::read(fixture("cases/bom/bom.jsonl")).unwrap();
    let manifest = write(folder.path(), "bom.jsonl", manifest);
    let dataset = open(&[manifest], None).unwrap();
    assert_eq!(ids(&dataset), ["d/a.png", "d/b.png"]);
    assert_eq!(dataset.item(0).label, Some(3));
    let classes = Classes::open(&fixture("cases/bom/bom.txt")).unwrap();
    assert_eq!(classes.label_of(Path::new("cat/a.png")), Some(0));
    let bytes = std::fs::read(fixture("cases/bom/bom.jsonl")).unwrap();
    let stream = Stream::new(std::io::Cursor::new(bytes), || false);
    let streamed: Vec<_> = stream.items().map(|item| (item.id, item.label)).collect();
    let listed: Vec<_> = dataset.items().map(|item| (item.id, item.label)).collect();
    assert_eq!(streamed, listed);
    // A second file of this kind: lists that were joined.
    let lines = "{\"file\": \"d/a.png\"}\r\n\u{feff}\r\n\u{feff}{\"file\": \"d/b.png\"}";
    let joined = write(folder.path(), "joined.jsonl", lines);
    assert_eq!(ids(&open(&[joined], None).unwrap()), ["d/a.png", "d/b.png"]);
}

#[test]
fn metadata_of_hugging_face_lists_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.png", "deep/b.png", "c.png"] {
        write(folder.path(), &format!("train/{name}"), png(2, 2));
    }
    let lines = concat!(
        r#"{"file_name": "deep/b.png", "label": 4, "text": "a cat"}"#,
        "\n",
        r#"{"file_name": "a.png", "label": 1}"#,
    );
    let metadata = write(folder.path(), "train/metadata.jsonl", lines);
    for input in [folder.path().join("train"), metadata] {
        let dataset = open(&[input], None).unwrap();
        assert_eq!(ids(&dataset), ["deep/b.png", "a.png"]);
        let item = dataset.item(0);
        assert_eq!(item.label, Some(4));
        assert_eq!(item.more["text"], "a cat");
        assert_eq!(item.more.len(), 1);
        assert!(dataset.load(&item).is_ok());
    }
}

#[test]
fn lists_name_pictures() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["cat/a b.png", "dog/c.png"] {
        write(folder.path(), name, png(2, 2));
    }
    let classes = write(folder.path(), "classes.txt", "dog\ncat\n");
    let classes = || Classes::open(&classes).ok();
    let lines = "\u{feff}dog/c.png\r\n\r\ncat/a b.png\r\ngone.png";
    let list = write(folder.path(), "list.txt", lines);
    let elsewhere = write(folder.path(), "other/list.txt", lines);
    for (list, base) in [(list, None), (elsewhere, Some(folder.path()))] {
        let dataset = Dataset::open_list(&list, base, classes()).unwrap();
        assert_eq!(ids(&dataset), ["dog/c.png", "cat/a b.png", "gone.png"]);
        let labels: Vec<_> = dataset.items().map(|item| item.label).collect();
        assert_eq!(labels, [Some(0), Some(1), None]);
        let loads: Vec<_> = dataset
            .items()
            .map(|item| dataset.load(&item).is_ok())
            .collect();
        assert_eq!(loads, [true, true, false]);
    }
    let empty = write(folder.path(), "empty.txt", "\n");
    let error = Dataset::open_list(&empty, None, None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("lists no pictures"), "{error}");
}

/// Files that pyarrow wrote: one as Hugging Face does, with a dictionary, snappy and two row groups; one of plain
/// bytes with one missing beside text, in pages of the second version, with zstd; one with gzip.
#[test]
fn parquet_gives_pictures_and_labels() {
    let labels = [
        ("hub", [Some(3), Some(0), None, None, Some(7), Some(1)]),
        (
            "plain",
            [Some(3), Some(0), Some(2), Some(1), Some(7), Some(1)],
        ),
        ("gzip", [Some(3), Some(0), None, None, Some(7), Some(1)]),
    ];
    for (name, labels) in labels {
        let path = fixture(&format!("parquet/{name}.parquet"));
        let dataset = open(std::slice::from_ref(&path), None).unwrap();
        let its: Vec<_> = dataset.items().map(|item| item.label).collect();
        assert_eq!(its, labels, "{name}");
        assert_eq!(dataset.item(4).id, format!("{name}.parquet#4"));
        // Not in their order, so that pages are read again.
        for i in [5, 0, 4, 1, 3, 2] {
            let picture = dataset.load(&dataset.item(i));
            if (name, i) == ("plain", 2) {
                let error = picture.unwrap_err().to_string();
                assert!(error.contains("row 2 has no bytes"), "{error}");
                continue;
            }
            let picture = picture.unwrap();
            let (height, width) = (picture.shape.height, picture.shape.width);
            assert_eq!((height, width), (3, 4));
            let level = 10 * i as u8;
            let wanted = [level, 2 * level, 255 - level].repeat(12);
            assert_eq!(picture.to_rgb8(), wanted, "{name} {i}");
        }
    }
    // Labels as pandas writes integers with gaps; and a column of words, which is named and left.
    for (name, labels) in [
        ("floats", [Some(3), None, Some(0)]),
        ("words", [None, None, None]),
    ] {
        let dataset = open(&[fixture(&format!("parquet/{name}.parquet"))], None).unwrap();
        let its: Vec<_> = dataset.items().map(|item| item.label).collect();
        assert_eq!(its, labels, "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    let hub = std::fs::read(fixture("parquet/hub.parquet")).unwrap();
    let cut = write(folder.path(), "cut.parquet", &hub[..hub.len() - 9]);
    assert!(refusal(&cut, None).contains("is no Parquet file, or is cut short"));
    let text = write(folder.path(), "text.parquet", b"PAR1 no parquet");
    assert!(refusal(&text, None).contains("is no Parquet file"));
}

#[test]
fn cifar_records_have_labels() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "test_batch.bin", cifar(&[3, 9]));
    let dataset = open(std::slice::from_ref(&path), None).unwrap();
    assert_eq!(ids(&dataset), ["test_batch.bin#0", "test_batch.bin#1"]);
    let item = dataset.item(1);
    assert_eq!(item.label, Some(9));
    let picture = dataset.load(&item).unwrap();
    assert_eq!((picture.shape.height, picture.shape.width), (32, 32));
    assert_eq!(picture.pixels, [1.0 / 255.0; 3072]);

    let odd = write(folder.path(), "odd.bin", &cifar(&[1, 2])[..5000]);
    assert!(refusal(&odd, None).contains("no whole number of CIFAR-10 records"));
    let label = write(folder.path(), "label.bin", cifar(&[1, 10]));
    assert!(refusal(&label, None).contains("label 10 at record 1"));
}

/// The labels and pictures of a batch.
fn batch(path: &Path) -> Vec<(Option<usize>, Picture)> {
    let dataset = open(&[path.to_owned()], None).unwrap();
    dataset
        .items()
        .map(|item| (item.label, dataset.load(&item).unwrap()))
        .collect()
}

#[test]
fn batches_of_cifar_for_python_have_labels() {
    let folder = tempfile::tempdir().unwrap();
    let pixels: Vec<u8> = (0..2 * 3072).map(|i| (i % 251) as u8).collect();
    let list = b"](K\x03K\x08e";
    let shape = b"K\x02M\x00\x0c\x86";
    let python_2 = cifar_of_python_2("labels", list, shape, &pixels);
    let fine = cifar_of_python_2("fine_labels", list, shape, &pixels);
    for (name, bytes) in [
        ("test_batch", CIFAR_BATCH),
        ("data_batch_1", &python_2[..]),
        ("train", &fine[..]),
    ] {
        let path = write(folder.path(), name, bytes);
        assert_eq!(
            ids(&open(std::slice::from_ref(&path), None).unwrap())[1],
            format!("{name}#1")
        );
        let pictures = batch(&path);
        let labels: Vec<_> = pictures.iter().map(|(label, _)| *label).collect();
        assert_eq!(labels, [Some(3), Some(8)], "{name}");
        for (row, (_, picture)) in pictures.iter().enumerate() {
            let wanted = pixels[row * 3072..][..3072].iter();
            let wanted: Vec<f32> = wanted.map(|&byte| f32::from(byte) / 255.0).collect();
            assert_eq!((picture.shape.height, picture.shape.width), (32, 32));
            assert!(picture.pixels == wanted && picture.eight_bit, "{name}");
        }
    }
    // One that is in columns, as Fortran has them.
    let turned: Vec<u8> = (0..2 * 3072)
        .map(|i| pixels[i % 2 * 3072 + i / 2])
        .collect();
    let mut columns = cifar_of_python_2("labels", list, shape, &turned);
    let flag = columns.windows(2).rposition(|two| two == b"\x89T").unwrap();
    columns[flag] = 0x88;
    let columns = write(folder.path(), "columns", columns);
    assert!(batch(&columns) == batch(&folder.path().join("test_batch")));
}

#[test]
fn other_pickles_are_refused_and_run_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("marker");
    let command = format!("touch {}", marker.display());
    let command = [&[b'U', command.len() as u8][..], command.as_bytes()].concat();
    let call = [&b"\x80\x02cos\nsystem\n"[..], &command, b"\x85R."].concat();
    let of = |labels: &[u8], shape: &[u8]| cifar_of_python_2("labels", labels, shape, &[7; 3072]);
    let (one, shape) = (b"](K\x03e", b"K\x01M\x00\x0c\x86");
    for (bytes, said) in [
        (call, "names \"os.system\""),
        (b"\x80\x02}.".to_vec(), "without an array data"),
        (b"\x80\x02N0.".to_vec(), "instruction 0x30"),
        (b"\x80\x02Nb.".to_vec(), "lacks its values"),
        (b"\x80\x02NNb.".to_vec(), "description cannot be read"),
        (of(b"](K\x03K\x08e", shape), "has 2 labels for 1 pictures"),
        (of(b"](J\xff\xff\xff\xffe", shape), "no integers from 0"),
        (
            of(one, b"K\x02M\x00\x0c\x86"),
            "has shape [2, 3072] and 3072 bytes",
        ),
        (of(one, b"K\x03M\x00\x04\x86"), "with 3072 columns"),
        (
            of(one, b"J\xff\xff\xff\xffM\x00\x0c\x86"),
            "description cannot be read",
        ),
    ] {
        let path = write(folder.path(), "data_batch_1", bytes);
        let error = refusal(&path, None);
        assert!(error.contains(said), "{said}: {error}");
    }
    assert!(!marker.exists());
    for end in (2..CIFAR_BATCH.len()).step_by(5) {
        let path = write(folder.path(), "cut", &CIFAR_BATCH[..end]);
        assert!(refusal(&path, None).contains("cut short"));
    }
}

#[test]
fn compressed_tars_are_tars() {
    let folder = tempfile::tempdir().unwrap();
    let plain = tar(&[
        ("cat/a.png", &png(5, 4)),
        ("cat/a.cls", b"3"),
        ("b.png", &png(2, 9)),
    ]);
    let packed = gzip(&plain);
    let shards = |name: &str, bytes: &[u8]| {
        let dataset = open(&[write(folder.path(), name, bytes)], None).unwrap();
        let items: Vec<_> = dataset.items().collect();
        let loaded: Vec<_> = items.iter().map(|i| dataset.load(i)).collect();
        let named = items.into_iter().map(|item| (item.id, item.label));
        named.zip(loaded).collect::<Vec<_>>()
    };
    // The content counts, not the name.
    for (name, bytes) in [
        ("x.tgz", &packed),
        ("x.tar.gz", &packed),
        ("x.tar", &packed),
        ("y.tgz", &plain),
    ] {
        let all = shards(name, bytes);
        let said: Vec<_> = all.iter().map(|(named, _)| named.clone()).collect();
        let wanted = [("cat/a.png", Some(3)), ("b.png", None)];
        assert_eq!(
            said,
            wanted.map(|(id, label)| (format!("{name}/{id}"), label))
        );
        for ((_, picture), (width, height)) in all.iter().zip([(5, 4), (2, 9)]) {
            assert_eq!(picture.as_ref().unwrap().pixels, expected(width, height));
        }
    }
    // Cut short: what is whole counts, and the end is an error.
    for end in [packed.len() - 1, packed.len() - 9, packed.len() * 7 / 8] {
        let all = shards("cut.tgz", &packed[..end]);
        assert!(all[0].1.is_ok());
        let error = all.last().unwrap().1.as_ref().unwrap_err().to_string();
        assert!(error.contains("cut short"), "{error}");
    }
    let mut damaged = packed.clone();
    let end = damaged.len() - 6;
    damaged[end] ^= 1;
    let path = write(folder.path(), "sum.tgz", damaged);
    assert!(refusal(&path, None).contains("damaged gzip archive"));
    let path = write(folder.path(), "none.tgz", gzip(b""));
    assert!(refusal(&path, None).contains("truncated tar archive"));
}

#[test]
fn manifests_list_files_labels_and_more() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "data/x/a.png", png(3, 2));
    let lines = concat!(
        r#"{"file": "x/a.png", "label": 5, "attack": "pgd"}"#,
        "\n\n",
        r#"{"file": "x/a.png"}"#,
        "\n",
        r#"{"file": "gone.png", "label": null}"#,
    );
    let path = write(folder.path(), "data/list.jsonl", lines);
    let dataset = open(&[path], None).unwrap();
    assert_eq!(ids(&dataset), ["x/a.png", "x/a~2.png", "gone.png"]);
    let item = dataset.item(0);
    assert_eq!(item.label, Some(5));
    assert_eq!(item.more["attack"], "pgd");
    assert_eq!(dataset.load(&item).unwrap().pixels, expected(3, 2));
    assert!(dataset.load(&dataset.item(1)).is_ok());
    assert!(
        dataset
            .load(&dataset.item(2))
            .unwrap_err()
            .to_string()
            .contains("No such file")
    );

    for (line, message) in [
        ("[1]", "line 1 is no JSON object"),
        ("{\"label\": 1}", "line 1 has no field file"),
        ("{\"file\": 1}", "line 1 has a file that is no path"),
        ("{\"file\": \"a\", \"label\": -1}", "line 1 has label -1"),
        (
            "{\"file\": \"a\", \"label\": \"cat\"}",
            "line 1 has label \"cat\"",
        ),
        ("{\"file\": ", "line 1 is no JSON object"),
    ] {
        let path = write(folder.path(), "bad.jsonl", line);
        let error = refusal(&path, None);
        assert!(error.contains(message), "{error}");
        // Among others it fails alone.
        write(folder.path(), "ok.png", png(2, 2));
        let lines = format!("{line}\n{{\"file\": \"ok.png\"}}");
        let path = write(folder.path(), "mixed.jsonl", lines);
        let dataset = open(&[path], None).unwrap();
        assert_eq!(ids(&dataset)[0], "line 1");
        let error = dataset.load(&dataset.item(0)).unwrap_err().to_string();
        let (_, why) = message.split_once("line 1").unwrap();
        assert!(
            error.contains("mixed.jsonl") && error.contains(why),
            "{error}"
        );
        assert!(dataset.load(&dataset.item(1)).is_ok());
    }
    // Class folders give the labels that lines do not have.
    let lines = "{\"file\": \"cat/a.png\"}\n{\"file\": \"cat/b.png\", \"target\": 7}";
    let path = write(folder.path(), "folders.jsonl", lines);
    let classes = write(folder.path(), "two.txt", "dog\ncat\n");
    let dataset = Dataset::open(&[path], None, Classes::open(&classes).ok()).unwrap();
    let labels: Vec<_> = dataset.items().map(|item| item.label).collect();
    assert_eq!(labels, [Some(1), Some(7)]);
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_refused_without_waiting() {
    let error = load(Path::new("/dev/zero"), None).remove(0).unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
}

#[test]
fn the_sample_photographs_load() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/imagenet");
    if !data.is_dir() {
        eprintln!("skipped: no ../shared/imagenet");
        return;
    }
    let classes = Classes::open(&data.join("classes.txt")).unwrap();
    assert_eq!(classes.len(), 1000);
    let clean = Dataset::open(&[data.join("clean")], None, Some(classes)).unwrap();
    let manifest = open(&[data.join("manifest.jsonl")], None).unwrap();
    for (item, listed) in clean.items().zip(manifest.items()) {
        assert_eq!(format!("clean/{}", item.id), listed.id);
        assert_eq!(item.label, listed.label);
        assert_eq!(clean.load(&item).unwrap(), manifest.load(&listed).unwrap());
    }
}

#[test]
fn absolute_paths_of_a_manifest_are_named_below_their_common_folder() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let named = |files: &[String]| {
        let line = |file: &String| serde_json::json!({ "file": file }).to_string() + "\n";
        let lines: String = files.iter().map(line).collect();
        let list = write(folder.path(), "list.jsonl", lines);
        ids(&open(&[list], None).unwrap())
    };
    let (x, y) = (at("set/ab/x.png"), at("set/ac/deep/y.png"));
    let all = [x.clone(), y.clone(), x.clone()];
    assert_eq!(named(&all), ["ab/x.png", "ac/deep/y.png", "ab/x~2.png"]);
    assert_eq!(named(std::slice::from_ref(&y)), ["y.png"]);
    assert_eq!(
        named(&[at("ä/1.png"), at("ö/1.png")]),
        ["ä/1.png", "ö/1.png"]
    );
    // A relative path has nothing in common with an absolute one.
    assert_eq!(named(&["z.png".to_owned(), y.clone()]), ["z.png", &y]);
    // It is their names alone that are shorter.
    write(folder.path(), "set/ab/x.png", png(2, 2));
    write(folder.path(), "set/ac/deep/y.png", png(2, 2));
    let dataset = open(&[folder.path().join("list.jsonl")], None).unwrap();
    assert!(dataset.load(&dataset.item(1)).is_ok());
}

#[test]
fn a_header_decides_whether_a_picture_is_too_large() {
    let png = png(4, 3);
    let whole = Picture::decode_within(&png, 12).unwrap();
    assert_eq!(whole, Picture::decode(&png).unwrap());
    // Only the header is left: what is refused is not decoded.
    let header = &png[..png.windows(4).position(|four| four == b"IDAT").unwrap() + 4];
    let refused = Picture::decode_within(header, 11).unwrap_err();
    assert!(refused.contains("4×3 pixels, too large"), "{refused}");
}
