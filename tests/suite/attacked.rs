//! Attack results of other programs, good and bad, through [`AttackedSet`].

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use crate::common::*;
use backstitch::input::{Attacked, AttackedSet, Layout};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn all(path: &Path) -> Vec<Attacked> {
    let set = AttackedSet::open(path, Some(Layout::Nchw)).unwrap();
    let items: Vec<Attacked> = set.iter().map(Result::unwrap).collect();
    assert_eq!(items.len(), set.len());
    items
}

/// The one-line message of an input that is refused, without the folder.
fn refusal(path: &Path) -> String {
    let error = AttackedSet::open(path, Some(Layout::Nchw))
        .unwrap_err()
        .to_string();
    assert!(error.starts_with(&path.display().to_string()), "{error}");
    assert!(!error.contains('\n'), "{error}");
    error
}

/// Levels of 255 of picture `n` of the fixtures, CHW.
fn levels(n: usize, more: usize) -> Vec<f32> {
    (0..24)
        .map(|i| ((n * 24 + i) * 3 + more) as f32 / 255.0)
        .collect()
}

fn assert_near(here: &[f32], there: &[f32], tolerance: f32) {
    assert_eq!(here.len(), there.len());
    for (here, there) in here.iter().zip(there) {
        assert!((here - there).abs() <= tolerance, "{here} {there}");
    }
}

#[test]
fn tensors_are_those_that_pytorch_saved() {
    for (name, tolerance, eight_bit) in [
        ("float", 1e-7, false),
        ("int", 0.0, true),
        ("half", 5e-4, false),
        ("bfloat", 2e-3, false),
    ] {
        let items = all(&fixture(&format!("attacked-{name}.pt")));
        assert_eq!(items.len(), 3, "{name}");
        for (n, item) in items.iter().enumerate() {
            assert_eq!(item.id, format!("attacked-{name}.pt#{n}"));
            assert_eq!(item.attack, format!("attacked-{name}"));
            assert_eq!(item.label, [5, 0, 7][n]);
            let predicted = (name == "float").then_some([1, 0, 2][n]);
            assert_eq!(item.predicted, predicted);
            let shape = item.adversarial.shape;
            assert_eq!((shape.channels, shape.height, shape.width), (3, 2, 4));
            assert_eq!(item.adversarial.eight_bit, eight_bit);
            assert_near(&item.adversarial.pixels, &levels(n, 0), tolerance);
            match &item.clean {
                Some(clean) => assert_near(&clean.pixels, &levels(n, 1), 1e-7),
                None => assert_eq!(name, "bfloat"),
            }
        }
    }
}

#[test]
fn cut_files_are_refused_wherever_they_end() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(fixture("attacked-float.pt")).unwrap();
    for length in (0..whole.len()).step_by(97) {
        let path = write(folder.path(), "cut.pt", &whole[..length]);
        refusal(&path);
    }
    let legacy = write(folder.path(), "old.pt", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9");
    assert!(refusal(&legacy).contains("before PyTorch 1.6"));
    let wrong = write(folder.path(), "wrong.pt", b"\x89PNG\r\n\x1a\n");
    assert!(refusal(&wrong).contains("no file that torch.save writes"));
}

#[test]
fn damaged_bytes_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(fixture("attacked-int.pt")).unwrap();
    let end = whole.len();
    // The pickle lies first, the directory last.
    for at in (0..600).chain(end - 400..end).step_by(3) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xa5;
        let path = write(folder.path(), "damaged.pt", bytes);
        if let Ok(set) = AttackedSet::open(&path, None) {
            set.iter().for_each(drop);
        }
    }
}

/// An archive as `torch.save` writes it.
fn torch_zip(method: CompressionMethod, members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        let options = SimpleFileOptions::default().compression_method(method);
        archive
            .start_file(format!("archive/{name}"), options)
            .unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = vec![b'X'];
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

fn long(value: i64) -> Vec<u8> {
    let mut bytes = vec![0x8a, 8];
    bytes.extend(value.to_le_bytes());
    bytes
}

fn tuple(parts: &[Vec<u8>]) -> Vec<u8> {
    [b"(".to_vec(), parts.concat(), b"t".to_vec()].concat()
}

/// A tensor as pickles describe it.
fn tensor(
    class: &str,
    storage: (&str, i64),
    offset: i64,
    shape: &[i64],
    strides: &[i64],
) -> Vec<u8> {
    let longs = |values: &[i64]| tuple(&values.iter().map(|&x| long(x)).collect::<Vec<_>>());
    let storage = tuple(&[
        text("storage"),
        format!("ctorch\n{class}\n").into(),
        text(storage.0),
        text("cpu"),
        long(storage.1),
    ]);
    let arguments = tuple(&[
        [storage, b"Q".to_vec()].concat(),
        long(offset),
        longs(shape),
        longs(strides),
        vec![0x89, b'N'],
    ]);
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec(),
        arguments,
        b"R".to_vec(),
    ]
    .concat()
}

/// A pickle of a dict.
fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<u8> = entries
        .iter()
        .flat_map(|(key, value)| [text(key), value.clone()].concat())
        .collect();
    [b"\x80\x02}(".to_vec(), entries, b"u.".to_vec()].concat()
}

fn two_labels() -> (&'static str, Vec<u8>) {
    ("labels", tensor("ByteStorage", ("1", 2), 0, &[2], &[1]))
}

/// A set of two 1×1 pictures, with `adversarial` for their tensor and `storage` for their numbers.
fn pair(adversarial: Vec<u8>, storage: &[u8]) -> Vec<u8> {
    let pickle = dict(&[("adv_inputs", adversarial), two_labels()]);
    let members: [(&str, &[u8]); 3] = [
        ("data.pkl", &pickle),
        ("data/0", storage),
        ("data/1", &[1, 2]),
    ];
    torch_zip(CompressionMethod::Stored, &members)
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn tensors_that_do_not_fit_their_storage_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let six = bytes_of(&[0.25; 6]);
    let float = |elements, offset, shape: [i64; 4], strides: [i64; 4]| {
        tensor("FloatStorage", ("0", elements), offset, &shape, &strides)
    };
    let good = float(6, 0, [2, 3, 1, 1], [3, 1, 1, 1]);
    let items = all(&write(folder.path(), "good.pt", pair(good.clone(), &six)));
    assert_eq!(items[1].adversarial.pixels, [0.25; 3]);
    assert_eq!((items[1].label, &items[1].clean), (2, &None));

    let huge = i64::MAX;
    for (adversarial, said) in [
        (
            float(6, 1, [2, 3, 1, 1], [3, 1, 1, 1]),
            "beyond its storage",
        ),
        (
            float(6, 0, [2, 3, 1, 1], [4, 1, 1, 1]),
            "beyond its storage",
        ),
        (
            float(6, 0, [2, 3, 1, 1], [huge, 1, 1, 1]),
            "beyond its storage",
        ),
        (
            float(6, huge, [2, 3, 1, 1], [3, 1, 1, 1]),
            "beyond its storage",
        ),
        // One picture shown a trillion times, and shapes that overflow.
        (
            float(6, 0, [1 << 40, 3, 1, 1], [0, 1, 1, 1]),
            "contiguous()",
        ),
        (
            float(6, 0, [huge, huge, huge, huge], [0; 4]),
            "contiguous()",
        ),
        (float(600, 0, [2, 3, 1, 1], [3, 1, 1, 1]), "truncated"),
        (float(huge, 0, [huge, 3, 1, 1], [0; 4]), "contiguous()"),
        (
            float(huge, 0, [2, 3, 1, 1], [3, 1, 1, 1]),
            "more elements than",
        ),
        (float(6, 0, [2, 3, -1, 1], [3, 1, 1, 1]), "cannot be read"),
        (float(6, 0, [0, 3, 1, 1], [3, 1, 1, 1]), "no pictures"),
        (
            tensor("FloatStorage", ("0", 6), 0, &[2, 3], &[3, 1]),
            "not the layout nchw",
        ),
        (
            tensor("FloatStorage", ("0", 6), 0, &[2, 3, 1, 1], &[1]),
            "cannot be read",
        ),
        (
            tensor("FloatStorage", ("7", 6), 0, &[2, 3, 1, 1], &[3, 1, 1, 1]),
            "data/7",
        ),
        (
            tensor("IntStorage", ("0", 6), 0, &[2, 3, 1, 1], &[3, 1, 1, 1]),
            "uint8, or floats",
        ),
        (text("no tensor"), "is no tensor"),
    ] {
        let path = write(folder.path(), "bad.pt", pair(adversarial, &six));
        let error = refusal(&path);
        assert!(error.contains(said), "{error}");
    }
    let members = |method| {
        let pickle = dict(&[("adv_inputs", good.clone()), two_labels()]);
        let zeros = vec![0; 24];
        torch_zip(
            method,
            &[
                ("data.pkl", &pickle),
                ("data/0", &zeros),
                ("data/1", &[1, 2]),
            ],
        )
    };
    let compressed = members(CompressionMethod::Deflated);
    let path = write(folder.path(), "compressed.pt", compressed);
    assert!(refusal(&path).contains("compressed"));
}

#[test]
fn a_tensor_alone_has_its_labels_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let three = tensor("FloatStorage", ("0", 6), 0, &[2, 3, 1, 1], &[3, 1, 1, 1]);
    let alone = |pickle: &[u8]| [b"\x80\x02", pickle, b"."].concat();
    let zip = |pickle: &[u8], storage: &[u8]| {
        let members = [("data.pkl", pickle), ("data/0", storage)];
        torch_zip(CompressionMethod::Stored, &members)
    };
    let six = bytes_of(&[0.25; 6]);
    let pictures = write(folder.path(), "alone.pt", zip(&alone(&three), &six));
    let complete = dict(&[("adv_complete", three.clone())]);
    let complete = write(folder.path(), "aa.pth", zip(&complete, &six));
    for path in [&pictures, &complete] {
        assert!(refusal(path).contains("no true labels"));
    }
    let labels = tensor("FloatStorage", ("0", 2), 0, &[2, 1], &[1, 1]);
    let labels = zip(&alone(&labels), &bytes_of(&[3.0, 1.0]));
    write(folder.path(), "labels.pt", labels);
    for path in [pictures, complete] {
        let items = all(&path);
        assert_eq!((items[0].label, items[1].label), (3, 1));
        assert_eq!(items[1].adversarial.pixels, [0.25; 3]);
        // The other commands read the same.
        let dataset = backstitch::input::Dataset::open(&[path], Some(Layout::Nchw), None).unwrap();
        let labels: Vec<_> = dataset.items().map(|item| item.label).collect();
        assert_eq!(labels, [Some(3), Some(1)]);
        let picture = dataset.load(&dataset.item(1)).unwrap();
        assert_eq!(picture.pixels, [0.25; 3]);
    }
}

#[test]
fn storages_that_overlap_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let adversarial = tensor("FloatStorage", ("0", 6), 0, &[2, 3, 1, 1], &[3, 1, 1, 1]);
    let mut bytes = pair(adversarial, &bytes_of(&[0.25; 6]));
    // The directory entry of data/1 is made to point at the member data/0.
    let starts: Vec<usize> = (0..bytes.len() - 4)
        .filter(|&i| bytes[i..i + 4] == *b"PK\x01\x02")
        .collect();
    let offset = bytes[starts[1] + 42..][..4].to_vec();
    bytes[starts[2] + 42..][..4].copy_from_slice(&offset);
    let path = write(folder.path(), "overlap.pt", bytes);
    let error = refusal(&path);
    assert!(error.contains("overlaps"), "{error}");
}

#[test]
fn pickles_that_would_run_code_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("marker");
    let command = format!("touch {}", marker.display());
    let pickle = |bytes: Vec<u8>| torch_zip(CompressionMethod::Stored, &[("data.pkl", &bytes)]);
    let call = |module: &str, name: &str| {
        let global = format!("c{module}\n{name}\n").into_bytes();
        let arguments = tuple(&[text(&command)]);
        pickle([b"\x80\x02".to_vec(), global, arguments, b"R.".to_vec()].concat())
    };
    let stacked = [
        b"\x80\x04".to_vec(),
        text("posix"),
        text("system"),
        b"\x93.".to_vec(),
    ]
    .concat();
    for (bytes, said) in [
        (call("os", "system"), "names \"os.system\""),
        (call("builtins", "eval"), "names \"builtins.eval\""),
        (call("torch", "load"), "names \"torch.load\""),
        (pickle(stacked), "names \"posix.system\""),
        (
            pickle(b"\x80\x02}}R.".to_vec()),
            "calls what is no function",
        ),
        (
            pickle(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.".to_vec()),
            "cannot be read",
        ),
        (
            pickle(b"\x80\x02i__main__\nX\n.".to_vec()),
            "instruction 0x69",
        ),
        (pickle(b"\x80\x02)Q.".to_vec()), "no tensor's storage"),
        (pickle(b"\x80\x02h\x07.".to_vec()), "recalls value 7"),
        (pickle(b"\x80\x02(.".to_vec()), "lacks its values"),
        (pickle(b"\x80\x02}a.".to_vec()), "lacks its values"),
        (pickle(b"\x80\x02X\xff\xff\xff\xff.".to_vec()), "cut short"),
        (pickle(b"\x80\x09.".to_vec()), "protocol 9"),
        (
            pickle(b"\x80\x02\x8a\x09123456789.".to_vec()),
            "integer of 9 bytes",
        ),
        (
            pickle(b"\x80\x02]q\x00h\x00a.".to_vec()),
            "no attacked pictures",
        ),
    ] {
        let path = write(folder.path(), "hostile.pt", bytes);
        let error = refusal(&path);
        assert!(error.contains(said), "{said}: {error}");
    }
    assert!(!marker.exists());
}

#[test]
fn depth_and_size_are_harmless() {
    let folder = tempfile::tempdir().unwrap();
    // A million tuples in each other, and tuples that double fifty times by sharing.
    let deep = [b"\x80\x02N".to_vec(), vec![0x85; 1_000_000], b".".to_vec()].concat();
    let doubled = b"q\x00h\x00\x86".repeat(50);
    let doubled = [b"\x80\x02N".to_vec(), doubled, b".".to_vec()].concat();
    for pickle in [deep, doubled] {
        let bytes = torch_zip(CompressionMethod::Stored, &[("data.pkl", &pickle)]);
        let path = write(folder.path(), "deep.pt", bytes);
        assert!(refusal(&path).contains("no attacked pictures"));
    }
    // 64 MiB of zeros in a few kilobytes.
    let bomb = vec![0; 64 << 20];
    let bytes = torch_zip(CompressionMethod::Deflated, &[("data.pkl", &bomb)]);
    assert!(bytes.len() < 1 << 17);
    let path = write(folder.path(), "bomb.pt", bytes);
    assert!(refusal(&path).contains("of more than 16777216 bytes"));
}

#[test]
fn big_endian_files_and_strange_archives_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let stored = |members: &[(&str, &[u8])]| torch_zip(CompressionMethod::Stored, members);
    let path = write(
        folder.path(),
        "big.pt",
        stored(&[("data.pkl", b"\x80\x02}."), ("byteorder", b"big")]),
    );
    assert!(refusal(&path).contains("byte order \"big\""));
    for members in [&[("a/data.pkl", &b""[..])][..], &[("x", &b""[..])]] {
        let path = write(folder.path(), "none.pt", stored(members));
        assert!(refusal(&path).contains("0 members FOLDER/data.pkl"));
    }
    let path = write(folder.path(), "a.tar", b"");
    assert!(refusal(&path).contains("no attack result"));
}

#[test]
fn values_beyond_the_range_are_rounding_or_errors_of_their_picture() {
    let folder = tempfile::tempdir().unwrap();
    let values = [-0.001, 0.5, 1.0009, 0.25, 1.003, 0.5];
    let shape = tensor("FloatStorage", ("0", 6), 0, &[2, 3, 1, 1], &[3, 1, 1, 1]);
    let torch = write(folder.path(), "t.pt", pair(shape, &bytes_of(&values)));
    let numpy = npz(&[
        ("adv", npy_f32(&[2, 3, 1, 1], &values)),
        ("y", npy_i64(&[1, 2])),
    ]);
    let numpy = write(folder.path(), "n.npz", numpy);
    for path in [torch, numpy] {
        let set = AttackedSet::open(&path, Some(Layout::Nchw)).unwrap();
        assert_eq!(set.load(0).unwrap().adversarial.pixels, [0.0, 0.5, 1.0]);
        let error = set.load(1).unwrap_err().to_string();
        assert!(
            error.contains("has 1.003") && error.contains('1'),
            "{error}"
        );
        assert!(error.starts_with(&path.display().to_string()), "{error}");
    }
}

#[test]
fn arrays_are_pairs() {
    let folder = tempfile::tempdir().unwrap();
    let adv = || npy_u8(&[2, 3, 1, 2], &(0..12).map(|i| i * 20).collect::<Vec<_>>());
    let x = || npy_u8(&[2, 3, 1, 2], &[51; 12]);
    let labels = || npy_i64(&[4, 9]);
    let packed = npz(&[
        ("x", x()),
        ("x_adv", adv()),
        ("y", labels()),
        ("preds", npy_i64(&[1, 9])),
    ]);
    let packed = write(folder.path(), "pgd.npz", packed);
    let plain = write(folder.path(), "sets/pgd.npy", adv());
    assert!(refusal(&plain).contains("labels.npy"));
    write(folder.path(), "sets/labels.npy", npy_f32(&[2], &[4.5, 9.0]));
    let error = AttackedSet::open(&plain, None).unwrap_err().to_string();
    assert!(error.contains("labels must be integers"), "{error}");
    for (name, bytes) in [
        ("labels", labels()),
        ("clean", x()),
        ("preds", npy_i64(&[1, 9])),
    ] {
        write(folder.path(), &format!("sets/{name}.npy"), bytes);
    }
    for path in [packed, plain] {
        let items = all(&path);
        let name = path.file_name().unwrap().to_string_lossy();
        assert_eq!(
            (items[1].id.clone(), items[1].label),
            (format!("{name}#1"), 9)
        );
        assert_eq!(
            (items[0].attack.as_str(), items[0].predicted),
            ("pgd", Some(1))
        );
        assert_eq!(
            items[1].adversarial.to_rgb8(),
            [120, 160, 200, 140, 180, 220]
        );
        assert_eq!(items[1].clean.as_ref().unwrap().to_rgb8(), [51; 6]);
    }
    for (arrays, said) in [
        (vec![("adv", adv())], "no true labels"),
        (vec![("y", labels())], "no attacked pictures"),
        (vec![("adv", adv()), ("y", npy_i64(&[1]))], "1 labels for 2"),
        (
            vec![
                ("adv", adv()),
                ("y", labels()),
                ("x", npy_u8(&[1, 3, 1, 2], &[0; 6])),
            ],
            "1 clean pictures for 2",
        ),
    ] {
        let path = write(folder.path(), "bad.npz", npz(&arrays));
        let error = refusal(&path);
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn manifests_pair_by_field_or_by_folder() {
    let folder = tempfile::tempdir().unwrap();
    for (name, width) in [
        ("clean/a/x.png", 4),
        ("pgd/a/x.png", 4),
        ("pgd/a/y.png", 4),
        ("other.png", 4),
        ("small.png", 3),
    ] {
        write(folder.path(), name, png(width, 3));
    }
    let lines = [
        r#"{"file": "clean/a/x.png", "label": 3, "attack": "none", "predicted": 3}"#,
        r#"{"file": "pgd/a/x.png", "label": 3, "attack": "pgd", "predicted": 5}"#,
        r#"{"file": "pgd/a/y.png", "label": 4, "attack": "pgd"}"#,
        r#"{"file": "other.png", "label": 4, "clean": "clean/a/x.png"}"#,
        r#"{"file": "small.png", "label": 4, "attack": "cw", "clean": "clean/a/x.png"}"#,
        r#"{"file": "absent.png", "label": 4}"#,
    ];
    let path = write(folder.path(), "manifest.jsonl", lines.join("\n"));
    for input in [path.as_path(), folder.path()] {
        let set = AttackedSet::open(input, None).unwrap();
        assert_eq!(
            (set.len(), set.id(0), set.attack(2)),
            (5, "pgd/a/x.png", "manifest")
        );
        let first = set.load(0).unwrap();
        assert_eq!((first.label, first.predicted), (3, Some(5)));
        assert_eq!(first.attack, "pgd");
        assert!(first.clean.is_some() && set.load(2).unwrap().clean.is_some());
        assert_eq!(set.load(1).unwrap().clean, None);
        let error = set.load(3).unwrap_err().to_string();
        assert!(
            error.contains("3×3 pixels and its clean counterpart 4×3"),
            "{error}"
        );
        assert!(set.load(4).unwrap_err().to_string().contains("absent.png"));
    }
    for (line, said) in [
        (lines[0], "no attacked pictures"),
        (r#"{"file": "other.png"}"#, "no label"),
        (
            r#"{"file": "other.png", "label": 1, "attack": 7}"#,
            "attack 7",
        ),
        (
            r#"{"file": "other.png", "label": 1, "predicted": -1}"#,
            "predicted -1",
        ),
    ] {
        let path = write(folder.path(), "bad.jsonl", line);
        let error = refusal(&path);
        assert!(error.contains(said), "{error}");
    }
}
