//! Convolutions on tensor cores, for layers of many channels: see `kernels/dip_conv_tensor.cu`.
//!
//! Each needs room beside its arguments, for weights as the product takes them or for sums over parts of the
//! picture: [`Batch::matrices`]. How a picture is divided depends on the layer's shape alone.

use super::super::super::driver::{self, Address, Kernel, Launch, Result, Work, shared_bytes};
use super::super::super::kernels::dip_conv_tensor as kernels;
use super::batch::{Batch, Maps, Parameters};
use super::shape::Conv;
use crate::backend::Precision;
use crate::dip::Padding;

// As in the kernels' source.
const TILE: u32 = 16;
const ROWS: u32 = 128;
const SLICE: u32 = 16;
const STRIP: u32 = 4;
const PRODUCT_THREADS: u32 = 256;
const THREADS: u32 = 256;
/// Bytes of eight numbers of bfloat16.
const PIECE: usize = 16;

/// Blocks that a derivative by weights is divided into at least, where its picture is large enough: about
/// as many as a large GPU has multiprocessors.
const BLOCKS: u32 = 96;
/// Strips that a block sums up at least.
const STRIPS: u32 = 8;

driver::arguments! {
    /// Packed weights of all slots.
    pub(crate) struct Packed {
        data: Address,
        stride: u64,
    }

    pub(crate) struct PackArgs {
        slots: Address,
        weight: Maps,
        packed: Packed,
        outputs: u32,
        inputs: u32,
        taps: u32,
        backward: u32,
    }

    pub(crate) struct ConvTensorArgs {
        slots: Address,
        from: Maps,
        to: Maps,
        bias: Maps,
        packed: Packed,
        channels: u32,
        rows: u32,
        from_height: u32,
        from_width: u32,
        to_height: u32,
        to_width: u32,
        reflect: u32,
        accumulate: u32,
        pairs: u32,
    }

    pub(crate) struct ConvTensorWeightsArgs {
        slots: Address,
        x: Maps,
        dy: Maps,
        sums: Maps,
        inputs: u32,
        outputs: u32,
        height: u32,
        width: u32,
        out_height: u32,
        out_width: u32,
        reflect: u32,
        parts: u32,
    }

    pub(crate) struct AddPartsArgs {
        slots: Address,
        sums: Maps,
        weight: Maps,
        bias: Maps,
        taps: u32,
        pairs: u32,
        outputs: u32,
        parts: u32,
    }
}

/// Whether tensor cores are for this layer. The networks have no 1×1 convolutions with a stride.
pub(crate) fn suits(conv: &Conv) -> bool {
    conv.inputs.min(conv.outputs) >= Precision::FEWEST_CHANNELS
        && (conv.kernel == 3 || conv.stride == 1)
}

/// float32 numbers of room that a layer needs for each instance.
pub(crate) fn room(conv: &Conv) -> usize {
    let sums = parts(conv) as usize * (conv.weights() + conv.outputs as usize);
    let packed = pieces(conv, false).max(pieces(conv, true)) as usize * PIECE / size_of::<f32>();
    sums.max(packed).next_multiple_of(PIECE / size_of::<f32>())
}

fn taps(conv: &Conv) -> u32 {
    conv.kernel * conv.kernel
}

/// Rows and channels of a product.
fn sides(conv: &Conv, backward: bool) -> [u32; 2] {
    match backward {
        false => [conv.outputs, conv.inputs],
        true => [conv.inputs, conv.outputs],
    }
}

/// Eights of packed weights.
fn pieces(conv: &Conv, backward: bool) -> u32 {
    let [rows, channels] = sides(conv, backward);
    channels.div_ceil(SLICE) * taps(conv) * rows * 2
}

/// Sixteens of inputs that a block of a derivative by weights takes.
fn slices(conv: &Conv) -> u32 {
    if conv.kernel == 3 { 2 } else { 8 }
}

/// Blocks of a derivative by weights that share a part of the picture.
fn blocks(conv: &Conv) -> u32 {
    conv.inputs.div_ceil(slices(conv) * SLICE) * conv.outputs.div_ceil(ROWS)
}

/// Strips of the picture: rows of sixteen pixels, four at a time.
pub(crate) fn strips(conv: &Conv) -> u32 {
    conv.out_height().div_ceil(STRIP) * conv.out_width().div_ceil(TILE)
}

/// Parts of the picture that a derivative by weights is summed over one by one.
pub(crate) fn parts(conv: &Conv) -> u32 {
    (strips(conv) / STRIPS).clamp(1, BLOCKS.div_ceil(blocks(conv)))
}

/// Work of one instance: so many numbers, bytes and multiply-adds of the layer's pixels.
fn work(conv: &Conv, numbers: usize, bytes: u32) -> Work {
    let pixels = u64::from(conv.out_height()) * u64::from(conv.out_width());
    Work {
        bytes: (numbers * size_of::<f32>()) as u64 + u64::from(bytes),
        matrix_multiply_adds: conv.weights() as u64 * pixels,
        ..Work::default()
    }
}

fn x_numbers(conv: &Conv) -> usize {
    conv.inputs as usize * conv.height as usize * conv.width as usize
}

fn y_numbers(conv: &Conv) -> usize {
    conv.outputs as usize * conv.out_height() as usize * conv.out_width() as usize
}

impl Batch<'_> {
    /// `y = bias + weight * x`.
    pub(crate) fn conv_forward_tensor(
        &self,
        room: Maps,
        conv: &Conv,
        x: Maps,
        parameters: Parameters,
        y: Maps,
    ) -> Result<()> {
        let kernel = match (conv.kernel, conv.stride) {
            (1, _) => &kernels::DIP_CONV1_TENSOR_FORWARD,
            (_, 1) => &kernels::DIP_CONV3_TENSOR_FORWARD,
            _ => &kernels::DIP_CONV3_TENSOR_FORWARD_STRIDE,
        };
        self.product(kernel, room, conv, [x, y], parameters, None)
    }

    /// `dx` = the derivative by the input, or that much more.
    pub(crate) fn conv_backward_data_tensor(
        &self,
        room: Maps,
        conv: &Conv,
        dy: Maps,
        parameters: Parameters,
        dx: Maps,
        accumulate: bool,
    ) -> Result<()> {
        let kernel = match (conv.kernel, conv.stride) {
            (1, _) => &kernels::DIP_CONV1_TENSOR_BACKWARD_DATA,
            (_, 1) => &kernels::DIP_CONV3_TENSOR_BACKWARD_DATA,
            _ => &kernels::DIP_CONV3_TENSOR_BACKWARD_DATA_STRIDE,
        };
        self.product(kernel, room, conv, [dy, dx], parameters, Some(accumulate))
    }

    /// Forward, or backward with whether to add to what is there.
    fn product(
        &self,
        kernel: &Kernel,
        room: Maps,
        conv: &Conv,
        [from, to]: [Maps; 2],
        parameters: Parameters,
        accumulate: Option<bool>,
    ) -> Result<()> {
        let backward = accumulate.is_some();
        let [rows, channels] = sides(conv, backward);
        let pieces = pieces(conv, backward);
        let packed = Packed {
            data: room.data,
            stride: room.stride * size_of::<f32>() as u64 / PIECE as u64,
        };
        let arguments = PackArgs {
            slots: self.slots,
            weight: parameters.weight,
            packed,
            outputs: conv.outputs,
            inputs: conv.inputs,
            taps: taps(conv),
            backward: backward.into(),
        };
        let bytes = pieces * PIECE as u32;
        let launch = Launch::new([pieces.div_ceil(THREADS), 1, 1], THREADS).doing(Work {
            bytes: (conv.weights() * size_of::<f32>()) as u64 + u64::from(bytes),
            ..Work::default()
        });
        self.launch(&kernels::DIP_CONV_TENSOR_PACK, launch, &arguments)?;

        let small = [conv.out_height(), conv.out_width()];
        let large = [conv.height, conv.width];
        let ([from_height, from_width], [to_height, to_width]) = match backward {
            false => (large, small),
            true => (small, large),
        };
        let arguments = ConvTensorArgs {
            slots: self.slots,
            from,
            to,
            bias: parameters.bias,
            packed,
            channels,
            rows,
            from_height,
            from_width,
            to_height,
            to_width,
            reflect: (conv.padding == Padding::Reflect).into(),
            accumulate: accumulate.unwrap_or(false).into(),
            pairs: [
                to.data.0 / size_of::<f32>() as u64,
                to.stride,
                to_width.into(),
            ]
            .iter()
            .all(|numbers| numbers.is_multiple_of(2))
            .into(),
        };
        let patch = match backward {
            false => conv.stride * (TILE - 1) + conv.kernel,
            true => TILE / conv.stride + (conv.kernel - 1) / conv.stride,
        } as usize;
        let stages = if !backward && conv.stride == 2 { 2 } else { 3 };
        let shared = shared_bytes([
            2 * (2 * patch * patch + 2) * PIECE,
            stages * (conv.kernel * ROWS) as usize * 2 * PIECE,
        ]);
        let tiles = to_height.div_ceil(TILE) * to_width.div_ceil(TILE);
        // The bias, or what is added to.
        let more = match accumulate {
            None => conv.outputs as usize,
            Some(false) => 0,
            Some(true) => x_numbers(conv),
        };
        let work = work(conv, x_numbers(conv) + y_numbers(conv) + more, bytes);
        let launch = Launch::new([tiles * rows.div_ceil(ROWS), 1, 1], PRODUCT_THREADS)
            .with_shared(shared)
            .doing(work);
        self.launch(kernel, launch, &arguments)
    }

    /// The derivatives by weight and bias.
    pub(crate) fn conv_backward_weights_tensor(
        &self,
        room: Maps,
        conv: &Conv,
        x: Maps,
        dy: Maps,
        gradients: Parameters,
    ) -> Result<()> {
        let kernel = match (conv.kernel, conv.stride) {
            (1, _) => &kernels::DIP_CONV1_TENSOR_BACKWARD_WEIGHTS,
            (_, 1) => &kernels::DIP_CONV3_TENSOR_BACKWARD_WEIGHTS,
            _ => &kernels::DIP_CONV3_TENSOR_BACKWARD_WEIGHTS_STRIDE,
        };
        let parts = parts(conv);
        let arguments = ConvTensorWeightsArgs {
            slots: self.slots,
            x,
            dy,
            sums: room,
            inputs: conv.inputs,
            outputs: conv.outputs,
            height: conv.height,
            width: conv.width,
            out_height: conv.out_height(),
            out_width: conv.out_width(),
            reflect: (conv.padding == Padding::Reflect).into(),
            parts,
        };
        let reach = |pixels: u32| conv.stride * (pixels - 1) + conv.kernel;
        let x_pieces = slices(conv) * 2 * reach(STRIP) * reach(TILE);
        let pieces = (ROWS / SLICE * 2 * STRIP * TILE + x_pieces) as usize;
        let sums = conv.weights() + conv.outputs as usize;
        let numbers = x_numbers(conv) + y_numbers(conv) + parts as usize * sums;
        let launch = Launch::new([blocks(conv) * parts, 1, 1], conv.kernel * 128)
            .with_shared(shared_bytes([2 * pieces * PIECE]))
            .doing(work(conv, numbers, 0));
        self.launch(kernel, launch, &arguments)?;

        let arguments = AddPartsArgs {
            slots: self.slots,
            sums: room,
            weight: gradients.weight,
            bias: gradients.bias,
            taps: taps(conv),
            pairs: conv.outputs * conv.inputs,
            outputs: conv.outputs,
            parts,
        };
        let launch = Launch::new([(sums as u32).div_ceil(THREADS), 1, 1], THREADS).doing(Work {
            bytes: ((parts as usize + 1) * sums * size_of::<f32>()) as u64,
            ..Work::default()
        });
        self.launch(&kernels::DIP_CONV_TENSOR_ADD_PARTS, launch, &arguments)
    }
}
