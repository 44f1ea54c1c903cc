//! Purifies one picture: `cargo run --release --example purify_file -- model.onnx cat.png purified.png`.

use backstitch::{Classifier, Device, Error, Picture, Purifier};

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, input, output] = &arguments[..] else {
        return Err(Error::invalid(
            "name a model, a picture and where its purified one shall go",
        ));
    };
    let classifier = Classifier::open(model)?;
    let mut purifier = Purifier::builder(classifier).device(Device::Auto).build()?;
    let purified = purifier.purify(&Picture::open(input)?)?;
    purified.save(output)?;
    println!(
        "{:?}: label {} was {}",
        purified.verdict(),
        purified.output_label(),
        purified.input_label()
    );
    Ok(())
}
