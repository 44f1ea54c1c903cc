//! The Rust library, as `overhead.py` measures it: purifies the same pictures once for each line of standard input.
//!
//! `library MODEL PICTURES SIZE ITERATIONS`; the file has pictures of float32, planes of SIZE×SIZE.

use std::error::Error;

use backstitch::dip::Preset;
use backstitch::picture::rgb;
use backstitch::{Classifier, Device, Picture, Purifier};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, file, size, iterations] = &arguments[..] else {
        return Err("give MODEL PICTURES SIZE ITERATIONS".into());
    };
    let size: usize = size.parse()?;
    let bytes = std::fs::read(file)?;
    let (words, _) = bytes.as_chunks();
    let numbers: Vec<f32> = words.iter().copied().map(f32::from_ne_bytes).collect();
    let picture = |pixels: &[f32]| Picture {
        shape: rgb(size, size),
        pixels: pixels.to_vec(),
        eight_bit: false,
    };
    let pictures: Vec<Picture> = numbers.chunks_exact(3 * size * size).map(picture).collect();
    let mut purifier = Purifier::builder(Classifier::open(model)?)
        .preset(Preset::Cifar)
        .iterations(iterations.parse()?)
        .device(Device::Cpu(1))
        .build()?;
    for line in std::io::stdin().lines() {
        line?;
        let mut sum = 0.0;
        for purified in purifier.purify_batch(&pictures)? {
            sum += purified?
                .outcome
                .pixels
                .iter()
                .map(|&x| f64::from(x))
                .sum::<f64>();
        }
        println!("{sum}");
    }
    Ok(())
}
