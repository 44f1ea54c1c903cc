//! Pictures a second that `purify` moves when the engines take no time: what decoding, scheduling,
//! encoding and writing cost.
//!
//! `cargo bench --bench overhead -- [PICTURES [FOLDER]]`; the folder, by default the system's for
//! temporary files, says which disk takes the results.

use std::path::Path;
use std::time::Instant;

use backstitch::backend::{
    At, Backend, Blend, ClassifierEngine, DipEngine, ImageBuffer, ImageOps, ImagePair, ImageShape,
    Instance, LossGradient, Noisy, Push, Stitch, TileGrid, View,
};
use backstitch::classifier::Graph;
use backstitch::cli::{self, Cli};
use backstitch::dip::NetSpec;
use backstitch::error::Result;
use backstitch::input::Dataset;
use backstitch::{Classifier, Purifier};
use clap::Parser;

/// Images without pixels.
struct Nothing {
    shape: ImageShape,
    len: usize,
}

impl ImageBuffer for Nothing {
    fn shape(&self) -> ImageShape {
        self.shape
    }
    fn len(&self) -> usize {
        self.len
    }
}

/// A device that is always done.
#[derive(Clone)]
struct Idle;

/// Its DIP engine, of so many slots.
struct IdleDip(usize);

/// Its classifier, which never takes a picture for anything but class 0.
struct IdleClassifier {
    shape: ImageShape,
    classes: usize,
}

impl ImageOps for Idle {
    type Images = Nothing;

    fn allocate(&self, shape: ImageShape, len: usize) -> Result<Nothing> {
        Ok(Nothing { shape, len })
    }
    fn upload(&self, _: &[f32], _: &mut Nothing, _: usize) -> Result<()> {
        Ok(())
    }
    fn download(&self, image: At<'_, Nothing>) -> Result<Vec<f32>> {
        Ok(vec![0.5; image.buffer.shape.elements()])
    }
    fn copy(&self, _: &[At<'_, Nothing>], _: &mut Nothing, _: usize) -> Result<()> {
        Ok(())
    }
    fn view(&self, _: &[View<'_, Nothing>], _: &mut Nothing, _: usize) -> Result<()> {
        Ok(())
    }
    fn add_noise(&self, _: &[Noisy<'_, Nothing>], _: &mut Nothing, _: usize) -> Result<()> {
        Ok(())
    }
    fn tile(&self, _: At<'_, Nothing>, _: TileGrid, _: &mut Nothing, _: usize) -> Result<()> {
        Ok(())
    }
    fn untile(&self, _: &Nothing, _: usize, _: TileGrid, _: &mut Nothing, _: usize) -> Result<()> {
        Ok(())
    }
    fn blend(&self, _: &[Blend<'_, Nothing>], _: &mut Nothing, _: usize) -> Result<()> {
        Ok(())
    }
    fn push(&self, _: &[Push<'_, Nothing>], _: &mut Nothing, _: usize) -> Result<()> {
        Ok(())
    }
    fn stitch(&self, _: &Stitch<'_, Nothing>, _: &mut Nothing, _: usize) -> Result<()> {
        Ok(())
    }
    fn ssim(&self, pairs: &[ImagePair<'_, Nothing>]) -> Result<Vec<f64>> {
        Ok(vec![1.0; pairs.len()])
    }
    fn squared_error(&self, pairs: &[ImagePair<'_, Nothing>], cells: TileGrid) -> Result<Vec<f64>> {
        Ok(vec![0.01; pairs.len() * cells.tiles()])
    }
}

impl DipEngine for IdleDip {
    type Images = Nothing;

    fn capacity(&self) -> usize {
        self.0
    }
    fn load(&mut self, _: &[Instance<'_, Nothing>]) -> Result<()> {
        Ok(())
    }
    fn release(&mut self, _: &[usize]) -> Result<()> {
        Ok(())
    }
    fn run(&mut self, _: u32) -> Result<()> {
        Ok(())
    }
    fn reconstructions(&mut self, _: &[usize], _: &mut Nothing, _: usize) -> Result<()> {
        Ok(())
    }
    fn losses(&mut self, slots: &[usize]) -> Result<Vec<f64>> {
        Ok(vec![0.0; slots.len()])
    }
    fn parameters(&mut self, _: usize) -> Result<Vec<f64>> {
        Ok(vec![])
    }
    fn set_parameters(&mut self, _: usize, _: &[f64]) -> Result<()> {
        Ok(())
    }
    fn gradients(&mut self, _: usize) -> Result<Vec<f64>> {
        Ok(vec![])
    }
    fn input(&mut self, _: usize) -> Result<Vec<f64>> {
        Ok(vec![])
    }
    fn set_input(&mut self, _: usize, _: &[f64]) -> Result<()> {
        Ok(())
    }
    fn input_gradient(&mut self, _: usize) -> Result<Vec<f64>> {
        Ok(vec![])
    }
}

impl ClassifierEngine for IdleClassifier {
    type Images = Nothing;

    fn input_shape(&self) -> ImageShape {
        self.shape
    }
    fn classes(&self) -> usize {
        self.classes
    }
    fn bytes(&self) -> usize {
        0
    }
    fn logits(&mut self, images: &[At<'_, Nothing>]) -> Result<Vec<f32>> {
        let mut row = vec![0.0; self.classes];
        row[0] = 5.0;
        Ok(row.repeat(images.len()))
    }
    fn gradient(
        &mut self,
        images: &[At<'_, Nothing>],
        _: &mut LossGradient<'_>,
        _: &mut Nothing,
        _: usize,
    ) -> Result<Vec<f32>> {
        self.logits(images)
    }
}

impl Backend for Idle {
    type Dip = IdleDip;
    type Classifier = IdleClassifier;

    fn name(&self) -> String {
        "idle".into()
    }
    fn dip(&self, _: &NetSpec, _: usize, _: usize, capacity: usize) -> Result<IdleDip> {
        Ok(IdleDip(capacity))
    }
    fn classifier(&self, graph: &Graph, _: usize) -> Result<IdleClassifier> {
        Ok(IdleClassifier {
            shape: graph.input_shape(),
            classes: graph.classes(),
        })
    }
    fn dip_capacity(&self, _: &NetSpec, _: usize, _: usize) -> Result<usize> {
        Ok(256)
    }
    fn dip_bytes(&self, _: &NetSpec, _: usize, _: usize, _: usize) -> Result<u128> {
        Ok(0)
    }
    fn free_bytes(&self) -> Option<u64> {
        None
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let count = arguments
        .next()
        .map_or(4000, |n| n.parse().expect("a number of pictures"));
    let disk = arguments.next().map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::tempdir_in(disk).expect("a folder that can be written");
    let pictures = folder.path().join("pictures");
    std::fs::create_dir(&pictures).expect("a folder that can be written");
    for i in 0..count {
        let picture = image::RgbImage::from_fn(32, 32, |x, y| {
            image::Rgb([7 * x + i, 5 * y, x * y + i].map(|value| (value % 251) as u8))
        });
        let path = pictures.join(format!("{i}.png"));
        picture.save(path).expect("a disk with room");
    }
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/toy.onnx");
    let out = folder.path().join("out");
    let line = ["backstitch", "purify", "--preset", "cifar", "--no-report"];
    let line = line.map(std::ffi::OsString::from).into_iter();
    let line = line.chain([
        pictures.clone().into(),
        "--classifier".into(),
        model.clone().into(),
        "-o".into(),
        out.clone().into(),
    ]);
    let cli::Command::Purify(args) = Cli::parse_from(line).command else {
        unreachable!("the command is purify")
    };
    let dataset = Dataset::open(&[pictures], None, None).expect("pictures");
    let classifier = Classifier::open(&model).expect("the fixture");
    let options = args.defense.options(3).expect("options");
    let builder = Purifier::builder(classifier).options(options);
    let start = Instant::now();
    let purifier = builder.backend(Idle).build().expect("no memory is needed");
    cli::purify::purify(&args, &dataset, purifier).expect("a run");
    let seconds = start.elapsed().as_secs_f64();
    let run = std::fs::read(out.join("run.json")).expect("the run's description");
    let run: serde_json::Value = serde_json::from_slice(&run).expect("JSON");
    println!(
        "{count} pictures in {seconds:.2} s: {:.0} a second; {}",
        f64::from(count) / seconds,
        run["seconds_by_phase"]
    );
}
