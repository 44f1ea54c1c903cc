//! The crate's main interface, as a program of someone else's uses it.

use backstitch::backend::{ImageShape, Precision};
use backstitch::dip::Preset;
use backstitch::purifier::PurifierBuilder;
use backstitch::{Classifier, Device, Picture, Purifier, Verdict};

use super::common::fixture;

fn builder() -> PurifierBuilder {
    let classifier = Classifier::open(fixture("toy.onnx")).unwrap();
    Purifier::builder(classifier)
        .device(Device::Cpu(1))
        .preset(Preset::Cifar)
        .iterations(10)
        .restarts(1)
}

fn gray(purifier: &Purifier, level: f32) -> Picture {
    let shape = purifier.classifier().shape();
    Picture::new(shape, vec![level; shape.elements()]).unwrap()
}

#[test]
fn what_is_no_picture_is_refused_and_fails_alone() {
    let mut purifier = builder().build().unwrap();
    let good = gray(&purifier, 0.5);
    let shape = good.shape;
    let with = |pixels: Vec<f32>| Picture {
        pixels,
        ..good.clone()
    };
    let mut not_finite = good.pixels.clone();
    not_finite[7] = f32::NAN;
    let flat = ImageShape {
        channels: 1,
        height: 3 * shape.height,
        width: shape.width,
    };
    let bad = [
        (with(vec![]), "0 pixel values"),
        (with([&good.pixels[..]; 2].concat()), "pixel values"),
        (with(vec![7.0; shape.elements()]), "7"),
        (with(not_finite), "NaN"),
        (
            Picture {
                shape: flat,
                ..good.clone()
            },
            "1 channels",
        ),
    ];
    let mut pictures = vec![good.clone()];
    for (picture, said) in bad {
        let made = Picture::new(picture.shape, picture.pixels.clone());
        assert!(made.unwrap_err().to_string().contains(said), "{said}");
        assert!(purifier.classify(std::slice::from_ref(&picture)).is_err());
        pictures.push(picture);
    }
    pictures.push(gray(&purifier, 0.25));
    let results = purifier.purify_batch(&pictures).unwrap();
    let fine: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(fine, [true, false, false, false, false, false, true]);
    assert!(purifier.purify_batch(&[]).unwrap().is_empty());
}

#[test]
fn a_purifier_is_as_good_as_new_after_a_run_that_failed() {
    let mut purifier = builder().pictures(2).build().unwrap();
    let picture = gray(&purifier, 0.5);
    let before = purifier.purify(&picture).unwrap();
    let pictures = (0..6).map(|i| {
        let pixels = vec![i as f32 / 8.0; picture.shape.elements()];
        (i, Picture::new(picture.shape, pixels))
    });
    let full = backstitch::Error::invalid("the disk is full");
    let full = std::sync::Mutex::new(Some(full));
    let (_, ended) = purifier.purify_stream(
        pictures,
        &|| false,
        || {},
        |_, _, _| match full.lock().unwrap().take() {
            Some(error) => Err(error),
            None => Ok(()),
        },
    );
    assert!(ended.unwrap_err().to_string().contains("the disk is full"));
    let after = purifier.purify(&picture).unwrap();
    assert_eq!(after.picture(), before.picture());
    assert_eq!(after.verdict(), Verdict::Clean);
}

#[test]
fn the_order_of_a_builder_s_calls_does_not_matter() {
    let classifier = || Purifier::builder(Classifier::open(fixture("toy.onnx")).unwrap());
    let one = classifier()
        .iterations(5)
        .iterations(400)
        .seed(3)
        .always(true)
        .preset(Preset::Cifar);
    let other = classifier()
        .preset(Preset::Cifar)
        .always(true)
        .seed(3)
        .iterations(400);
    let options = [one, other].map(|builder| {
        let purifier = builder.device(Device::Cpu(1)).build().unwrap();
        purifier.options().clone()
    });
    assert_eq!(format!("{:?}", options[0]), format!("{:?}", options[1]));
    let reconstruct = &options[0].reconstruct;
    assert_eq!((reconstruct.iterations, reconstruct.seed), (400, 3));
    assert!(reconstruct.probe_interval > 5, "not that of 5 iterations");
}

#[test]
fn what_cannot_be_obeyed_is_refused() {
    let open = || Device::Cpu(1).open(Precision::Float32, None).unwrap();
    for (builder, said) in [
        (builder().device(Device::Cpu(0)), "`device`"),
        (builder().device(Device::Cuda(vec![])), "`device`"),
        (builder().pictures(0), "`pictures` must be from 1"),
        (builder().pictures(5000), "`pictures` must be from 1"),
        (builder().capacity(0), "`capacity`"),
        (builder().iterations(0), "`iterations` must be at least 1"),
        (builder().restarts(0), "`restarts`"),
        (builder().devices(open()).memory(1), "`memory`"),
        (
            builder().devices(open()).precision(Precision::Float32),
            "`precision`",
        ),
        (builder().memory(1), "a device may take 1 bytes"),
    ] {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
}
