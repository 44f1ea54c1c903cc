//! What launches ask for: those of the presets, of classifiers with every operation, and of the image
//! operations, on a device that only takes them down.

use std::collections::BTreeMap;

use crate::backend::cuda::classifier::CudaClassifier;
use crate::backend::cuda::dip::{CudaDip, StepMode};
use crate::backend::cuda::driver::{Device, Launch};
use crate::backend::cuda::{CudaBackend, images::DeviceImages};
use crate::backend::{
    At, Blend, ClassifierEngine, DipEngine, ImageOps, ImageShape, Instance, Noisy, Precision, Push,
    Stitch, TileGrid, View,
};
use crate::classifier::Graph;
use crate::classifier::onnx::samples::samples;
use crate::classifier::onnx::write::{FREE, ModelWriter, int, ints};
use crate::dip::{NetSpec, Preset};
use crate::error::Result;
use crate::random::RandomKey;

/// Side of a photograph.
const PICTURE: usize = 224;
/// Photographs that a classifier runs on at once.
const BATCH: usize = 128;

/// Of every kernel, the launch with the most shared memory, where a block has `shared_limit` bytes.
pub(super) fn largest(shared_limit: u32) -> Result<BTreeMap<&'static str, Launch>> {
    let (device, tally) = Device::tally(shared_limit);
    let backend = CudaBackend::new(device);
    for preset in Preset::ALL {
        iterate(&backend, preset, StepMode::OpByOp, Precision::Float32)?;
        match preset.tile() {
            Some(_) => iterate(&backend, preset, StepMode::Resident, Precision::Float32)?,
            None => iterate(&backend, preset, StepMode::OpByOp, Precision::Bf16)?,
        }
    }
    for (_, model) in samples() {
        classify(&backend, &model.import()?, 1)?;
        classify(&backend, &model.load()?, 1)?;
    }
    let graph = photographs().load()?;
    classify(&backend, &graph, 1)?;
    classify(&backend, &graph, BATCH)?;
    move_images(&backend)?;
    Ok(tally.launches())
}

fn shape(side: usize) -> ImageShape {
    ImageShape {
        channels: 3,
        height: side,
        width: side,
    }
}

/// An iteration of a preset's network, with noise on its input.
fn iterate(
    backend: &CudaBackend,
    preset: Preset,
    mode: StepMode,
    precision: Precision,
) -> Result<()> {
    let side = preset.tile().unwrap_or(PICTURE);
    let spec = NetSpec {
        jitter: 0.03,
        ..preset.spec(3)
    };
    let backend = backend.clone().with_precision(precision);
    let mut engine = CudaDip::with_mode(&backend, &spec, side, side, 1, mode)?;
    let targets = backend.allocate(shape(side), 1)?;
    engine.load(&[Instance {
        slot: 0,
        target: At::new(&targets, 0),
        key: RandomKey::default(),
    }])?;
    engine.run(1)
}

/// Logits and gradients of `count` pictures.
fn classify(backend: &CudaBackend, graph: &Graph, count: usize) -> Result<()> {
    let mut engine = CudaClassifier::new(backend, graph, count)?;
    let images = backend.allocate(graph.input_shape(), count)?;
    let mut gradients = backend.allocate(graph.input_shape(), count)?;
    let all: Vec<_> = (0..count).map(|i| At::new(&images, i)).collect();
    engine.gradient(&all, &mut |_, _, _| {}, &mut gradients, 0)?;
    Ok(())
}

/// Layers of photographs, with many channels and few, and rows as long as a picture.
fn photographs() -> ModelWriter {
    let conv = |pad: i64, stride: i64| [ints("pads", &[pad; 4]), ints("strides", &[stride; 2])];
    let depthwise = |pad: i64, stride: i64| {
        let [pads, strides] = conv(pad, stride);
        [pads, strides, int("group", 64)]
    };
    ModelWriter::new(17, &[FREE, 3, 224, 224])
        .weights("stem", &[64, 3, 3, 3])
        .node("Conv", &["x", "stem"], &["wide"], &conv(1, 4))
        .weights("pointwise", &[32, 64, 1, 1])
        .node("Conv", &["wide", "pointwise"], &["narrow"], &[])
        .weights("conv", &[32, 64, 3, 3])
        .node("Conv", &["wide", "conv"], &["other"], &conv(1, 1))
        .node("Add", &["narrow", "other"], &["sum"], &[])
        .weights("d3", &[64, 1, 3, 3])
        .weights("d5", &[64, 1, 5, 5])
        .weights("d7", &[64, 1, 7, 7])
        .node("Conv", &["wide", "d3"], &["e3"], &depthwise(1, 1))
        .node("Conv", &["e3", "d7"], &["e7"], &depthwise(3, 1))
        .node("Conv", &["e7", "d3"], &["s3"], &depthwise(1, 2))
        .node("Conv", &["s3", "d5"], &["s5"], &depthwise(2, 2))
        .node("GlobalAveragePool", &["s5"], &["pooled"], &[])
        .node("Flatten", &["pooled"], &["e"], &[])
        // Attention between pixels, and between channels.
        .node("Concat", &["sum", "sum"], &["both"], &[int("axis", 1)])
        .ints("by_channel", &[0, 64, -1])
        .node(
            "MaxPool",
            &["both"],
            &["less"],
            &[ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])],
        )
        .node("Reshape", &["less", "by_channel"], &["k"], &[])
        .node("Transpose", &["k"], &["q"], &[ints("perm", &[0, 2, 1])])
        .node("MatMul", &["q", "k"], &["pixels"], &[])
        .ints("rows", &[0, 32, -1])
        .node("Reshape", &["sum", "rows"], &["u"], &[])
        .node("Transpose", &["u"], &["v"], &[ints("perm", &[0, 2, 1])])
        .node("MatMul", &["u", "v"], &["channels"], &[])
        // Whole pictures: one of them a row, and each channel a row.
        .node("Flatten", &["x"], &["row"], &[])
        .node("Softmax", &["row"], &["softmax"], &[])
        .weights("scale", &[3, 224, 224])
        .node(
            "LayerNormalization",
            &["x", "scale"],
            &["normal"],
            &[int("axis", 1)],
        )
        .node(
            "ReduceMax",
            &["normal"],
            &["largest"],
            &[ints("axes", &[2, 3])],
        )
        .node("Mul", &["normal", "largest"], &["gated"], &[])
        .node(
            "ReduceMean",
            &["gated"],
            &["a"],
            &[ints("axes", &[2, 3]), int("keepdims", 0)],
        )
        .node(
            "ReduceMean",
            &["pixels"],
            &["b"],
            &[ints("axes", &[2]), int("keepdims", 0)],
        )
        .node(
            "ReduceMean",
            &["channels"],
            &["c"],
            &[ints("axes", &[2]), int("keepdims", 0)],
        )
        .ints("first", &[0])
        .ints("end", &[7])
        .ints("axis", &[1])
        .node("Slice", &["softmax", "first", "end", "axis"], &["d"], &[])
        .node(
            "Concat",
            &["a", "b", "c", "d", "e"],
            &["y"],
            &[int("axis", 1)],
        )
}

/// Every operation on images.
fn move_images(backend: &CudaBackend) -> Result<()> {
    fn both(images: &DeviceImages) -> (At<'_, DeviceImages>, At<'_, DeviceImages>) {
        (At::new(images, 0), At::new(images, 1))
    }
    let images = backend.allocate(shape(PICTURE), 2)?;
    let mut out = backend.allocate(shape(PICTURE), 1)?;
    let (from, to) = both(&images);
    let cells = TileGrid::new(PICTURE, PICTURE, 32, 32);
    let mut tiles = backend.allocate(shape(32), cells.tiles())?;
    backend.copy(&[from], &mut out, 0)?;
    backend.view(&[View::mirror(from)], &mut out, 0)?;
    let noisy = Noisy {
        image: from,
        std: 0.1,
        key: RandomKey::default(),
    };
    backend.add_noise(&[noisy], &mut out, 0)?;
    backend.blend(&[Blend { from, to, t: 0.5 }], &mut out, 0)?;
    let push = Push {
        boundary: from,
        input: to,
        beta: 1.0,
    };
    backend.push(&[push], &mut out, 0)?;
    backend.tile(from, cells, &mut tiles, 0)?;
    backend.untile(&tiles, 0, cells, &mut out, 0)?;
    let stitch = Stitch {
        images: vec![from, to],
        cells,
        weights: vec![0.5; 2 * cells.tiles()],
    };
    backend.stitch(&stitch, &mut out, 0)?;
    backend.squared_error(&[(from, to)], cells)?;
    backend.ssim(&[(from, to)])?;
    Ok(())
}
