//! What convolutions and matrix products share: tiles, and what follows the sums.

use super::super::driver::{
    self, Address, Arguments, Device, Kernel, Launch, Result, Work, shared_bytes,
};
use super::super::kernels::classifier_conv;
use super::function::FunctionArgs;
use super::operation::Backward;
use crate::classifier::Function;

/// Terms of the sums that come through shared memory at once: SLICE of `kernels/product.cuh`.
pub(super) const SLICE: usize = 16;
/// Of the chip that tiles are chosen for. That of an H100; other chips have about as many, or fewer.
const MULTIPROCESSORS: usize = 132;
const THREADS: u32 = 256;

driver::arguments! {
    /// What follows a sum of products: + bias, + what is added, and the function of that.
    pub(super) struct Ending {
        bias: Address,
        added: Address,
        has_bias: u32,
        has_added: u32,
        function: FunctionArgs,
    }

    pub(super) struct ResidualArgs {
        dy: Address,
        to: Address,
        elements: u64,
        accumulate: u32,
    }
}

impl Ending {
    /// Of a forward pass.
    pub(super) fn forward(
        bias: Option<Address>,
        residual: Option<Address>,
        activation: Option<Function>,
    ) -> Ending {
        let nowhere = Address(0);
        Ending {
            bias: bias.unwrap_or(nowhere),
            added: residual.unwrap_or(nowhere),
            has_bias: bias.is_some().into(),
            has_added: residual.is_some().into(),
            function: activation.into(),
        }
    }

    /// Of a gradient that goes to `to`, or is added to it.
    pub(super) fn backward(to: Address, accumulate: bool) -> Ending {
        Ending::forward(None, accumulate.then_some(to), None)
    }

    /// Whether something is added that has to be read.
    pub(super) fn reads(&self) -> bool {
        self.has_added != 0
    }
}

/// A part of a product that a block computes: Tile of `kernels/product.cuh`.
#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    columns: usize,
    threads: u32,
    /// Of the multiply-adds that a multiprocessor could do, those it does while it is full of such tiles:
    /// from the instructions of the kernels' inner loops.
    efficiency: f64,
}

const LARGE: Tile = Tile {
    rows: 64,
    columns: 128,
    threads: 128,
    efficiency: 0.8,
};
const FLAT: Tile = Tile {
    rows: 32,
    columns: 128,
    threads: 128,
    efficiency: 0.7,
};
const SMALL: Tile = Tile {
    rows: 32,
    columns: 32,
    threads: 64,
    efficiency: 0.4,
};

/// A kernel that computes a product in tiles of a kind.
pub(super) struct Tiled {
    tile: Tile,
    kernel: &'static Kernel,
}

/// The kernels there are for a product. An element has the same bits from all of them.
pub(super) const fn kernels(
    large: &'static Kernel,
    flat: &'static Kernel,
    small: &'static Kernel,
) -> [Tiled; 3] {
    const fn of(tile: Tile, kernel: &'static Kernel) -> Tiled {
        Tiled { tile, kernel }
    }
    [of(LARGE, large), of(FLAT, flat), of(SMALL, small)]
}

impl Tile {
    /// Tiles of rows x columns.
    fn count(&self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.rows)
            .saturating_mul(columns.div_ceil(self.columns))
    }

    /// What they take, relative to other tiles: the multiprocessors take them in turns.
    fn cost(&self, tiles: usize) -> f64 {
        let area = (self.rows * self.columns) as f64;
        tiles.div_ceil(MULTIPROCESSORS) as f64 * area / self.efficiency
    }

    fn shared_bytes(&self) -> u32 {
        shared_bytes([2 * SLICE * (self.rows + self.columns + 8) * size_of::<f32>()])
    }
}

/// Launches the one of the kernels whose tile fits products of rows x columns best, a block to a tile: of
/// `first` products along the grid's first axis, and as many again for each place on its `others`.
pub(super) fn launch<A: Arguments>(
    device: &Device,
    kernels: &[Tiled],
    [rows, columns, first]: [usize; 3],
    others: [u32; 2],
    work: Work,
    arguments: &A,
) -> Result<()> {
    let more: usize = others.map(|n| n as usize).into_iter().product();
    let blocks = |tile: &Tile| tile.count(rows, columns).saturating_mul(first);
    let cost = |tile: &Tile| tile.cost(blocks(tile).saturating_mul(more));
    let Tiled { tile, kernel } = (kernels.iter())
        .min_by(|a, b| cost(&a.tile).total_cmp(&cost(&b.tile)))
        .expect("there are kernels");
    let [y, z] = others;
    let x = grid(blocks(tile), columns.max(rows));
    let launch = Launch::new([x, y, z], tile.threads)
        .with_shared(tile.shared_bytes())
        .doing(work);
    device.launch(kernel, launch, arguments)
}

/// `blocks` for elements that kernels count; more elements than they can are refused at the launch, as
/// more blocks than a grid has.
pub(super) fn grid(blocks: usize, elements: usize) -> u32 {
    match i32::try_from(elements) {
        Ok(_) => blocks.try_into().unwrap_or(u32::MAX),
        Err(_) => u32::MAX,
    }
}

/// The gradient by what an operation adds to its sums, which is that by the output, of so many elements an
/// image.
pub(super) fn residual_backward(pass: &Backward<'_>, elements: usize) -> Result<()> {
    let elements = pass.images * elements;
    let arguments = ResidualArgs {
        dy: pass.gradient,
        to: pass.to,
        elements: elements as u64,
        accumulate: pass.accumulate.into(),
    };
    let blocks = elements.div_ceil(THREADS as usize);
    let moved = if pass.accumulate { 3 } else { 2 };
    let launch = Launch::new([blocks.try_into().unwrap_or(u32::MAX), 1, 1], THREADS).doing(Work {
        bytes: (moved * elements * size_of::<f32>()) as u64,
        ..Work::default()
    });
    let kernel = &classifier_conv::CLASSIFIER_RESIDUAL_BACKWARD;
    pass.device.launch(kernel, launch, &arguments)
}
