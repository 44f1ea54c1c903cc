//! Files to feed the program, good and bad, and what a run leaves.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageFormat};
use serde_json::Value;

/// A CMYK JPEG, 24×16, written by Pillow.
pub(crate) const CMYK_JPEG: &[u8] = include_bytes!("../../data/cmyk.jpg");
/// A JPEG of 24×16 pixels that EXIF says to turn by 90°, so 16×24 upright; written by Pillow.
pub(crate) const TURNED_JPEG: &[u8] = include_bytes!("../../data/orientation-6.jpg");
/// A progressive JPEG, 24×16, written by Pillow.
pub(crate) const PROGRESSIVE_JPEG: &[u8] = include_bytes!("../../data/progressive.jpg");

/// A file of `tests/fixtures`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    folder.join(name)
}

/// `results.jsonl`, by image; a line that is being written is left out.
pub(crate) fn results(out: &Path) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(out.join("results.jsonl")).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .map(|record: Value| (record["image"].as_str().unwrap().to_owned(), record))
        .collect()
}

/// `run.json`.
pub(crate) fn run_json(out: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(out.join("run.json")).unwrap()).unwrap()
}

/// Sends a process the signal called `name`: `TERM`, `INT`.
pub(crate) fn signal(child: &std::process::Child, name: &str) {
    let line = format!("kill -s {name} {}", child.id());
    let mut shell = std::process::Command::new("sh");
    let status = shell.args(["-c", &line]).status();
    assert!(status.unwrap().success(), "{line}");
}

/// Writes `bytes` to `folder/name`, with the folders on the way.
pub(crate) fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The 8-bit RGB value of a pixel of [`picture`].
pub(crate) fn pixel(x: u32, y: u32) -> [u8; 3] {
    [(x * 7 + y) as u8, (y * 11 + 3 * x) as u8, (x * y) as u8]
}

/// An 8-bit RGB picture with a known value everywhere.
pub(crate) fn picture(width: u32, height: u32) -> DynamicImage {
    let pixels = image::RgbImage::from_fn(width, height, |x, y| image::Rgb(pixel(x, y)));
    DynamicImage::ImageRgb8(pixels)
}

/// A 32×32 picture of waves and noise, another one for each phase.
pub(crate) fn waves(phase: u32) -> DynamicImage {
    let pixels = image::RgbImage::from_fn(32, 32, |x, y| {
        let noise = 8 * ((x + y) % 2) as u8;
        let wave = ((x * 3 + y * 2 + 5 * phase) % 32) as u8;
        image::Rgb([160 + wave + noise, 80 + wave + noise, 90 + noise])
    });
    DynamicImage::ImageRgb8(pixels)
}

/// An image file's bytes.
pub(crate) fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A PNG of [`picture`].
pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    encode(&picture(width, height), ImageFormat::Png)
}

/// A JPEG of [`picture`].
pub(crate) fn jpeg(width: u32, height: u32) -> Vec<u8> {
    encode(&picture(width, height), ImageFormat::Jpeg)
}

/// A PNG whose second half is missing.
pub(crate) fn truncated_png() -> Vec<u8> {
    let bytes = png(64, 48);
    bytes[..bytes.len() / 2].to_vec()
}

/// A JPEG whose second half is missing.
pub(crate) fn truncated_jpeg() -> Vec<u8> {
    let bytes = jpeg(64, 48);
    bytes[..bytes.len() / 2].to_vec()
}

/// A PNG whose header declares 50,000 × 50,000 pixels.
pub(crate) fn huge_png() -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    bytes.extend(13u32.to_be_bytes());
    bytes.extend(b"IHDR");
    bytes.extend(50_000u32.to_be_bytes());
    bytes.extend(50_000u32.to_be_bytes());
    bytes.extend([8, 2, 0, 0, 0]);
    bytes.extend(0xc4cd_aa9du32.to_be_bytes());
    bytes.extend(8u32.to_be_bytes());
    bytes.extend(b"IDAT\x78\x9c\x03\x00\x00\x00\x00\x01");
    bytes.extend(0x480689d2u32.to_be_bytes());
    bytes
}

/// A JPEG whose header declares 50,000 × 50,000 pixels.
pub(crate) fn huge_jpeg() -> Vec<u8> {
    let mut bytes = jpeg(16, 16);
    let frame = bytes
        .windows(2)
        .position(|marker| marker == [0xff, 0xc0])
        .unwrap();
    for side in [frame + 5, frame + 7] {
        bytes[side..side + 2].copy_from_slice(&50_000u16.to_be_bytes());
    }
    bytes
}

/// A `.npy` file with this header and these data.
pub(crate) fn npy_header(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
    let order = if fortran { "True" } else { "False" };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}")
        .into_bytes();
    while (10 + text.len() + 1) % 64 != 0 {
        text.push(b' ');
    }
    text.push(b'\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text);
    bytes.extend(data);
    bytes
}

/// A shape as Python writes a tuple.
fn tuple(shape: &[usize]) -> String {
    let parts: Vec<String> = shape.iter().map(|n| format!("{n},")).collect();
    format!("({})", parts.join(" "))
}

/// A float32 `.npy` file.
pub(crate) fn npy_f32(shape: &[usize], values: &[f32]) -> Vec<u8> {
    let data: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    npy_header("<f4", false, &tuple(shape), &data)
}

/// A uint8 `.npy` file.
pub(crate) fn npy_u8(shape: &[usize], values: &[u8]) -> Vec<u8> {
    npy_header("|u1", false, &tuple(shape), values)
}

/// Shape and elements of a float32 `.npy` file in C order, with a header of the form that NumPy writes.
pub(crate) fn read_npy_f32(bytes: &[u8]) -> (Vec<usize>, Vec<f32>) {
    let (header, data) = bytes.split_at(10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]])));
    assert!(header.starts_with(b"\x93NUMPY\x01\x00") && header.len().is_multiple_of(64));
    let shape = std::str::from_utf8(&header[10..])
        .unwrap()
        .strip_prefix("{'descr': '<f4', 'fortran_order': False, 'shape': (")
        .and_then(|rest| rest.trim_end().strip_suffix("), }"))
        .unwrap();
    let shape = shape.split_terminator(", ").map(|n| n.parse().unwrap());
    let values = data.chunks_exact(4);
    let values = values.map(|x| f32::from_le_bytes(x.try_into().unwrap()));
    (shape.collect(), values.collect())
}

/// An int64 `.npy` file of one axis.
pub(crate) fn npy_i64(values: &[i64]) -> Vec<u8> {
    let data: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    npy_header("<i8", false, &tuple(&[values.len()]), &data)
}

/// A compressed `.npz` archive of named `.npy` files.
pub(crate) fn npz(arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    for (name, bytes) in arrays {
        archive.start_file(format!("{name}.npy"), options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// A float32 batch, NCHW, with a NaN at `[1, 2, 0, 1]`.
pub(crate) fn npy_with_nan() -> Vec<u8> {
    let shape = [2, 3, 4, 5];
    let mut values = vec![0.5; shape.iter().product()];
    values[((3 + 2) * 4) * 5 + 1] = f32::NAN;
    npy_f32(&shape, &values)
}

/// What gzip makes of bytes.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// A `.tar` file of these members.
pub(crate) fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

/// A batch of CIFAR in Python's form, of two pictures with the labels 3 and 8, written by NumPy 2: byte `i` of all
/// pixels is `i % 251`.
pub(crate) const CIFAR_BATCH: &[u8] = include_bytes!("../../data/cifar-batch.pkl");

/// The same as the authors of CIFAR-10 wrote theirs, with Python 2; `labels` are what follows the key.
pub(crate) fn cifar_of_python_2(key: &str, labels: &[u8], shape: &[u8], pixels: &[u8]) -> Vec<u8> {
    let short = |text: &str| [&[b'U', text.len() as u8][..], text.as_bytes()].concat();
    let length = (pixels.len() as u32).to_le_bytes();
    [
        &b"\x80\x02}q\x01("[..],
        &short("batch_label"),
        &short("testing batch 1 of 1"),
        &short(key),
        labels,
        &short("data"),
        b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85",
        &short("b"),
        b"\x87Rq\x04(K\x01",
        shape,
        b"cnumpy\ndtype\nq\x05",
        &short("u1"),
        b"K\x00K\x01\x87R(K\x03",
        &short("|"),
        b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T",
        &length,
        pixels,
        b"tbu.",
    ]
    .concat()
}

/// CIFAR-10 records with these labels; every pixel of record `i` is `i`.
pub(crate) fn cifar(labels: &[u8]) -> Vec<u8> {
    let records = labels.iter().enumerate();
    records
        .flat_map(|(i, &label)| std::iter::once(label).chain([i as u8; 3072]))
        .collect()
}
