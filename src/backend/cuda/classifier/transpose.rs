//! Moves that swap the axis whose elements lie side by side, tile by tile.

use super::super::driver::{self, Address, Device, Launch, Result, Work, shared_bytes};
use super::super::kernels::classifier_moves as kernels;
use super::axes::{Axes, Axis, Divisor, THREADS};

/// The side of a tile: TILE in the kernels' source.
const TILE: usize = 32;
/// Shorter axes would leave most of a tile empty.
const SHORTEST: usize = 16;

driver::arguments! {
    pub(super) struct TransposeArgs {
        from: Address,
        to: Address,
        outer_from: Axes,
        outer_to: Axes,
        tiles: Divisor,
        tiles_across: Divisor,
        down: u32,
        across: u32,
        from_stride: u32,
        to_stride: u32,
        start: u32,
        accumulate: u32,
    }
}

/// A move between tensors that have different axes innermost.
#[derive(Clone, Copy)]
pub(super) struct Transpose {
    arguments: TransposeArgs,
    /// Tiles of an image.
    tiles: usize,
}

impl Transpose {
    /// From the axes of what is written, the images first, with their strides in what is read; `None`
    /// where no tiles are wanted. `elements` are an image's, and element 0 is read from `start`.
    ///
    /// # Errors
    /// There are too many axes.
    pub(super) fn new(
        axes: &[Axis],
        elements: usize,
        start: u32,
    ) -> crate::error::Result<Option<Self>> {
        let Some((across, others)) = axes.split_last() else {
            return Ok(None);
        };
        let beside = |axis: &Axis| axis.stride == Some(1) && axis.size >= SHORTEST;
        let down = others.iter().skip(1).position(beside).map(|k| k + 1);
        let (Some(down), Some(from_stride)) = (down, across.stride) else {
            return Ok(None);
        };
        if across.size < SHORTEST || axes.iter().any(|axis| axis.stride.is_none()) {
            return Ok(None);
        }
        // An axis' stride in what is written: the elements of the axes after it.
        let stride = |k: usize| axes[k + 1..].iter().map(|axis| axis.size).product();
        let outer = || (0..others.len()).filter(|&k| k != down);
        let outer_from: Vec<Axis> = outer().map(|k| axes[k].clone()).collect();
        let outer_to = outer().map(|k| Axis::new(axes[k].size, stride(k)));
        let tiles_across = across.size.div_ceil(TILE);
        let tiles = axes[down].size.div_ceil(TILE) * tiles_across;
        let arguments = TransposeArgs {
            from: Address(0),
            to: Address(0),
            outer_from: Axes::new(&outer_from)?,
            outer_to: Axes::new(&outer_to.collect::<Vec<_>>())?,
            tiles: Divisor::new(tiles)?,
            tiles_across: Divisor::new(tiles_across)?,
            down: axes[down].size as u32,
            across: across.size as u32,
            from_stride,
            to_stride: stride(down) as u32,
            start,
            accumulate: 0,
        };
        Ok(Some(Transpose {
            arguments,
            tiles: elements / (axes[down].size * across.size) * tiles,
        }))
    }

    /// Writes `to` from `from`, or adds to it.
    pub(super) fn run(
        &self,
        device: &Device,
        images: usize,
        [from, to]: [Address; 2],
        accumulate: bool,
        work: Work,
    ) -> Result<()> {
        let arguments = TransposeArgs {
            from,
            to,
            accumulate: accumulate.into(),
            ..self.arguments
        };
        let shared = shared_bytes([TILE * (TILE + 1) * size_of::<f32>()]);
        let launch = Launch::new([(images * self.tiles) as u32, 1, 1], THREADS)
            .with_shared(shared)
            .doing(work);
        device.launch(&kernels::CLASSIFIER_TRANSPOSE, launch, &arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_for_long_axes_of_different_sides() {
        let tiles = |axes: &[(usize, usize)]| {
            let elements: usize = axes.iter().map(|axis| axis.0).product();
            let axes = axes.iter().map(|&(size, stride)| Axis::new(size, stride));
            let axes: Vec<Axis> = [Axis::images(elements)].into_iter().chain(axes).collect();
            let transpose = Transpose::new(&axes, elements, 0).unwrap();
            transpose.map(|transpose| transpose.tiles)
        };
        assert_eq!(tiles(&[(40, 1), (33, 40)]), Some(4));
        assert_eq!(tiles(&[(40, 1), (5, 40 * 16), (16, 40)]), Some(10));
        assert_eq!(tiles(&[(40, 1), (3, 40)]), None);
        assert_eq!(tiles(&[(3, 1), (40, 3)]), None);
        assert_eq!(tiles(&[(40, 33), (33, 1)]), None);
    }
}
