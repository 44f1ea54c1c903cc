//! A backend of one's own: the processor's, which also counts what the defense asks of it.
//!
//! `cargo run --release --example own_backend -- model.onnx cat.png`
//!
//! A backend is three things: [`ImageOps`] moves, cuts and joins images in the device's memory, a [`DipEngine`] fits
//! networks, a [`ClassifierEngine`](backstitch::backend::ClassifierEngine) runs the classifier. This one hands all of
//! it on to [`CpuBackend`] and counts launches; a real one would have its own images and engines.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backstitch::backend::cpu::CpuBackend;
use backstitch::backend::{
    At, Backend, Blend, DipEngine, ImageOps, ImagePair, ImageShape, Instance, Noisy, Push, Stitch,
    TileGrid, View,
};
use backstitch::classifier::Graph;
use backstitch::dip::NetSpec;
use backstitch::error::Result;
use backstitch::{Classifier, Error, Picture, Purifier};

type Images = <CpuBackend as ImageOps>::Images;

/// What was asked; clones count together.
#[derive(Clone, Default)]
struct Counts {
    /// Calls that make images of others.
    launches: Arc<AtomicU64>,
    /// Adam steps, each of all networks in flight.
    iterations: Arc<AtomicU64>,
}

/// The backend: a handle that is cheap to clone.
#[derive(Clone, Default)]
struct Counting {
    cpu: CpuBackend,
    counts: Counts,
}

impl Counting {
    /// Counts a launch, and says where it goes.
    fn launch(&self) -> &CpuBackend {
        self.counts.launches.fetch_add(1, Ordering::Relaxed);
        &self.cpu
    }
}

impl ImageOps for Counting {
    type Images = Images;

    fn allocate(&self, shape: ImageShape, len: usize) -> Result<Images> {
        self.cpu.allocate(shape, len)
    }
    fn upload(&self, pixels: &[f32], out: &mut Images, first: usize) -> Result<()> {
        self.cpu.upload(pixels, out, first)
    }
    fn download(&self, image: At<'_, Images>) -> Result<Vec<f32>> {
        self.cpu.download(image)
    }
    fn copy(&self, from: &[At<'_, Images>], out: &mut Images, first: usize) -> Result<()> {
        self.launch().copy(from, out, first)
    }
    fn view(&self, jobs: &[View<'_, Images>], out: &mut Images, first: usize) -> Result<()> {
        self.launch().view(jobs, out, first)
    }
    fn add_noise(&self, jobs: &[Noisy<'_, Images>], out: &mut Images, first: usize) -> Result<()> {
        self.launch().add_noise(jobs, out, first)
    }
    fn tile(
        &self,
        image: At<'_, Images>,
        grid: TileGrid,
        out: &mut Images,
        first: usize,
    ) -> Result<()> {
        self.launch().tile(image, grid, out, first)
    }
    fn untile(
        &self,
        tiles: &Images,
        first_tile: usize,
        grid: TileGrid,
        out: &mut Images,
        index: usize,
    ) -> Result<()> {
        self.launch().untile(tiles, first_tile, grid, out, index)
    }
    fn blend(&self, jobs: &[Blend<'_, Images>], out: &mut Images, first: usize) -> Result<()> {
        self.launch().blend(jobs, out, first)
    }
    fn push(&self, jobs: &[Push<'_, Images>], out: &mut Images, first: usize) -> Result<()> {
        self.launch().push(jobs, out, first)
    }
    fn stitch(&self, job: &Stitch<'_, Images>, out: &mut Images, index: usize) -> Result<()> {
        self.launch().stitch(job, out, index)
    }
    fn squared_error(&self, pairs: &[ImagePair<'_, Images>], cells: TileGrid) -> Result<Vec<f64>> {
        self.launch().squared_error(pairs, cells)
    }
    fn ssim(&self, pairs: &[ImagePair<'_, Images>]) -> Result<Vec<f64>> {
        self.launch().ssim(pairs)
    }
}

/// The processor's engine, its iterations counted.
struct CountingDip {
    engine: <CpuBackend as Backend>::Dip,
    counts: Counts,
}

impl DipEngine for CountingDip {
    type Images = Images;

    fn capacity(&self) -> usize {
        self.engine.capacity()
    }
    fn load(&mut self, instances: &[Instance<'_, Images>]) -> Result<()> {
        self.engine.load(instances)
    }
    fn release(&mut self, slots: &[usize]) -> Result<()> {
        self.engine.release(slots)
    }
    fn run(&mut self, iterations: u32) -> Result<()> {
        (self.counts.iterations).fetch_add(iterations.into(), Ordering::Relaxed);
        self.engine.run(iterations)
    }
    fn reconstructions(&mut self, slots: &[usize], out: &mut Images, first: usize) -> Result<()> {
        self.engine.reconstructions(slots, out, first)
    }
    fn losses(&mut self, slots: &[usize]) -> Result<Vec<f64>> {
        self.engine.losses(slots)
    }
    fn parameters(&mut self, slot: usize) -> Result<Vec<f64>> {
        self.engine.parameters(slot)
    }
    fn set_parameters(&mut self, slot: usize, parameters: &[f64]) -> Result<()> {
        self.engine.set_parameters(slot, parameters)
    }
    fn gradients(&mut self, slot: usize) -> Result<Vec<f64>> {
        self.engine.gradients(slot)
    }
    fn input(&mut self, slot: usize) -> Result<Vec<f64>> {
        self.engine.input(slot)
    }
    fn set_input(&mut self, slot: usize, input: &[f64]) -> Result<()> {
        self.engine.set_input(slot, input)
    }
    fn input_gradient(&mut self, slot: usize) -> Result<Vec<f64>> {
        self.engine.input_gradient(slot)
    }
}

impl Backend for Counting {
    type Dip = CountingDip;
    type Classifier = <CpuBackend as Backend>::Classifier;

    fn name(&self) -> String {
        format!("{}, counted", self.cpu.name())
    }
    fn dip(
        &self,
        spec: &NetSpec,
        height: usize,
        width: usize,
        capacity: usize,
    ) -> Result<CountingDip> {
        Ok(CountingDip {
            engine: self.cpu.dip(spec, height, width, capacity)?,
            counts: self.counts.clone(),
        })
    }
    fn classifier(&self, graph: &Graph, batch: usize) -> Result<Self::Classifier> {
        self.cpu.classifier(graph, batch)
    }
    fn dip_capacity(&self, spec: &NetSpec, height: usize, width: usize) -> Result<usize> {
        self.cpu.dip_capacity(spec, height, width)
    }
    fn dip_bytes(
        &self,
        spec: &NetSpec,
        height: usize,
        width: usize,
        capacity: usize,
    ) -> Result<u128> {
        self.cpu.dip_bytes(spec, height, width, capacity)
    }
    fn free_bytes(&self) -> Option<u64> {
        self.cpu.free_bytes()
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, input] = &arguments[..] else {
        return Err(Error::invalid("name a model and a picture"));
    };
    let backend = Counting::default();
    let counts = backend.counts.clone();
    let mut purifier = Purifier::builder(Classifier::open(model)?)
        .backend(backend)
        .build()?;
    let purified = purifier.purify(&Picture::open(input)?)?;
    println!(
        "{}: {:?}, {} iterations, {} launches, {} images classified",
        purifier.devices().join(", "),
        purified.verdict(),
        counts.iterations.load(Ordering::Relaxed),
        counts.launches.load(Ordering::Relaxed),
        purifier.classified()
    );
    Ok(())
}
