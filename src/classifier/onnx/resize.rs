//! The Resize operator, one axis after another: elements picked, or products with a matrix of
//! weights.

use super::builder::{Call, Item, Outputs, axis, check_size, size};
use crate::classifier::graph::Op;

/// Where on the input an element of the output lies.
#[derive(Clone, Copy, PartialEq)]
enum Coordinates {
    HalfPixel,
    /// Half pixel about the center of an output that its scale does not fill exactly.
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    /// Half pixel without the shift back (opset 11 only).
    TfHalfPixel,
}

impl Coordinates {
    fn of(name: &str) -> Result<Self, String> {
        Ok(match name {
            "half_pixel" => Coordinates::HalfPixel,
            "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
            "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
            "align_corners" => Coordinates::AlignCorners,
            "asymmetric" => Coordinates::Asymmetric,
            "tf_half_pixel_for_nn" => Coordinates::TfHalfPixel,
            _ => {
                return Err(format!(
                    "coordinate_transformation_mode {name} is not supported"
                ));
            }
        })
    }
}

/// What weighs the inputs about a position.
#[derive(Clone, Copy)]
enum Kernel {
    Linear,
    /// Keys' cubic convolution with this coefficient.
    Cubic(f64),
}

impl Kernel {
    /// Beyond this distance all weights are 0.
    fn radius(self) -> f64 {
        match self {
            Kernel::Linear => 1.0,
            Kernel::Cubic(_) => 2.0,
        }
    }

    fn weight(self, distance: f64) -> f64 {
        let x = distance.abs();
        match self {
            Kernel::Linear => (1.0 - x).max(0.0),
            Kernel::Cubic(a) if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            Kernel::Cubic(a) if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
            Kernel::Cubic(_) => 0.0,
        }
    }
}

/// An axis that is resized.
struct Resized {
    axis: usize,
    input: usize,
    output: usize,
    /// Output elements to those of the input, as a fraction: `output/input` where the output's size
    /// is what the model gives, so that no rounding moves a position.
    scale: [f64; 2],
}

impl Resized {
    /// Where on the input element `i` of the output lies.
    fn position(&self, coordinates: Coordinates, i: usize) -> f64 {
        let [up, down] = self.scale;
        let (input, output, i) = (self.input as f64, self.output as f64, i as f64);
        // The output's length, had it not to be a whole number.
        let length = input * up / down;
        let half_pixel = (i + 0.5) * down / up - 0.5;
        match coordinates {
            Coordinates::PytorchHalfPixel | Coordinates::AlignCorners if self.output == 1 => 0.0,
            Coordinates::HalfPixel | Coordinates::PytorchHalfPixel => half_pixel,
            Coordinates::HalfPixelSymmetric => half_pixel + input / 2.0 * (1.0 - output / length),
            // By the output's own length, as PyTorch and ONNX Runtime have it.
            Coordinates::AlignCorners => i * (input - 1.0) / (output - 1.0),
            Coordinates::Asymmetric => i * down / up,
            Coordinates::TfHalfPixel => half_pixel + 0.5,
        }
    }

    /// Whether it is more than every element in its place.
    fn changes(&self) -> bool {
        self.input != self.output || self.scale[0] != self.scale[1]
    }

    /// The input that each output copies.
    fn nearest(&self, coordinates: Coordinates, mode: &str) -> Result<Vec<usize>, String> {
        let round: fn(f64) -> f64 = match mode {
            "round_prefer_floor" => |x| (x - 0.5).ceil(),
            "round_prefer_ceil" => |x| (x + 0.5).floor(),
            "floor" => f64::floor,
            "ceil" => f64::ceil,
            // Before opset 11.
            "" if self.scale[0] < self.scale[1] => f64::ceil,
            "" => f64::floor,
            _ => return Err(format!("nearest_mode {mode} is not supported")),
        };
        let one = |i| {
            let x = self.position(coordinates, i);
            // A scale is rounded to float32: that must not decide between two neighbors.
            let half = (2.0 * x).round() / 2.0;
            let close = (x - half).abs() <= f64::from(f32::EPSILON) * x.abs().max(1.0);
            let x = round(if close { half } else { x });
            x.clamp(0.0, self.input as f64 - 1.0) as usize
        };
        Ok((0..self.output).map(one).collect())
    }

    /// The weight of each input for each output, row by row. A kernel's inputs beyond the ends count as
    /// those at the ends, or not at all; antialiasing widens it to what an output element covers.
    fn weights(&self, kernel: Kernel, how: &How) -> Vec<f32> {
        let [up, down] = self.scale;
        let shrink = if how.antialias {
            (up / down).min(1.0)
        } else {
            1.0
        };
        let reach = kernel.radius() / shrink;
        let last = self.input as f64 - 1.0;
        let mut weights = Vec::with_capacity(self.output * self.input);
        for i in 0..self.output {
            let x = self.position(how.coordinates, i);
            let (from, to) = ((x - reach).floor() as i64, (x + reach).ceil() as i64);
            let taps: Vec<(f64, f64)> = (from..=to)
                .map(|at| (at as f64, kernel.weight((at as f64 - x) * shrink)))
                .filter(|&(at, _)| !how.exclude_outside || (0.0..=last).contains(&at))
                .collect();
            let sum: f64 = taps.iter().map(|tap| tap.1).sum();
            let sum = if sum == 0.0 { 1.0 } else { sum };
            let mut row = vec![0.0; self.input];
            for (at, weight) in taps {
                row[at.clamp(0.0, last) as usize] += weight / sum;
            }
            weights.extend(row.into_iter().map(|weight| weight as f32));
        }
        weights
    }
}

/// Upsample, and Resize as it was before opset 11, which is Upsample that makes pictures smaller too.
fn upsample(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let lengths = x.dims().to_vec();
    let sides = match call.float_list("scales")? {
        Some(scales) => by_scales(scales, &lengths)?,
        None => by_scales(&call.floats(1)?.1, &lengths)?,
    };
    let kernel = match call.string("mode", "nearest")?.as_str() {
        "nearest" => None,
        "linear" | "bilinear" => Some(Kernel::Linear),
        mode => return Err(format!("mode {mode} is not supported")),
    };
    let axes = sides.into_iter().zip(lengths).enumerate();
    let axes = axes.map(|(axis, ((output, scale), input))| Resized {
        axis,
        input,
        output,
        scale,
    });
    let how = How {
        coordinates: Coordinates::Asymmetric,
        kernel,
        rounding: String::new(),
        antialias: false,
        exclude_outside: false,
    };
    along(call, x, axes.filter(Resized::changes).collect(), &how)
}

/// How positions and their neighbors make an element.
struct How {
    coordinates: Coordinates,
    /// The nearest element where there is none.
    kernel: Option<Kernel>,
    /// Which of two elements is nearer.
    rounding: String,
    antialias: bool,
    exclude_outside: bool,
}

pub(super) fn resize(call: &mut Call<'_>) -> Outputs {
    if call.opset < 11 || call.node.op_type == "Upsample" {
        return upsample(call);
    }
    let x = call.input(0)?;
    let mode = call.string("mode", "nearest")?;
    let rounding = call.string("nearest_mode", "round_prefer_floor")?;
    let coordinates = call.string("coordinate_transformation_mode", "half_pixel")?;
    let coordinates = Coordinates::of(&coordinates)?;
    let antialias = call.int("antialias", 0)? != 0;
    let exclude_outside = call.int("exclude_outside", 0)? != 0;
    let coefficient = call.float("cubic_coeff_a", -0.75)?;
    if coefficient.is_nan() || coefficient.abs() > 16.0 {
        return Err(format!("cubic_coeff_a {coefficient} is not supported"));
    }
    // Only tf_crop_and_resize would need it.
    call.ignore("extrapolation_value");
    let kernel = match mode.as_str() {
        "nearest" if antialias || exclude_outside => {
            return Err("antialias and exclude_outside are not supported in mode nearest".into());
        }
        "nearest" => None,
        "linear" => Some(Kernel::Linear),
        "cubic" => Some(Kernel::Cubic(coefficient.into())),
        _ => return Err(format!("mode {mode} is not supported")),
    };
    let axes = resized(call, &x)?;
    let how = How {
        coordinates,
        kernel,
        rounding,
        antialias,
        exclude_outside,
    };
    along(call, x, axes, &how)
}

/// `x` resized along each of these axes.
fn along(call: &mut Call<'_>, mut x: Item, axes: Vec<Resized>, how: &How) -> Outputs {
    let mut dims = x.dims().to_vec();
    for resized in &axes {
        dims[resized.axis] = resized.output;
    }
    check_size(&dims)?;
    for resized in axes {
        let Resized { axis, output, .. } = resized;
        x = match how.kernel {
            None => {
                call.builder.reserve(&[output])?;
                let indices = resized.nearest(how.coordinates, &how.rounding)?;
                let mut dims = x.dims().to_vec();
                dims[axis] = output;
                call.apply(Op::Gather { axis, indices }, &[x], dims)?
            }
            Some(kernel) => {
                call.builder.reserve(&[output, resized.input])?;
                let weights = resized.weights(kernel, how);
                call.product_along(axis, output, weights, x)?
            }
        };
    }
    Ok(vec![x])
}

/// The axes that change, from the operator's scales or sizes.
fn resized(call: &mut Call<'_>, x: &Item) -> Result<Vec<Resized>, String> {
    let rank = x.dims().len();
    let axes: Vec<usize> = match call.ints("axes")? {
        None => (0..rank).collect(),
        Some(list) => (list.iter())
            .map(|&a| axis(a, rank))
            .collect::<Result<_, _>>()?,
    };
    if (1..axes.len()).any(|i| axes[..i].contains(&axes[i])) {
        return Err(format!("axes {axes:?} name an axis twice"));
    }
    let lengths: Vec<usize> = axes.iter().map(|&axis| x.dims()[axis]).collect();
    if lengths.contains(&0) {
        return Err("its input is empty".into());
    }
    let policy = call.string("keep_aspect_ratio_policy", "stretch")?;
    // Where one of the two is given, old exporters leave the other empty.
    let given = |index| -> Result<bool, String> {
        let constant = call.optional_constant(index)?;
        Ok(constant.is_some_and(|constant| !constant.data.is_empty()))
    };
    let sides = match (given(2)?, given(3)?) {
        (true, false) => by_scales(&call.floats(2)?.1, &lengths)?,
        (false, true) => by_sizes(call, &lengths, &policy)?,
        _ => return Err("it needs either scales or sizes".into()),
    };
    let all = axes.into_iter().zip(lengths).zip(sides);
    Ok(all
        .map(|((axis, input), (output, scale))| Resized {
            axis,
            input,
            output,
            scale,
        })
        .filter(Resized::changes)
        .collect())
}

/// A new length and its scale for each of `lengths`.
type Sides = Vec<(usize, [f64; 2])>;

fn by_scales(scales: &[f32], lengths: &[usize]) -> Result<Sides, String> {
    if scales.len() != lengths.len() {
        return Err(format!("scales {scales:?} do not fit {lengths:?}"));
    }
    let side = |(&length, &scale): (&usize, &f32)| {
        // In float32, as ONNX's own shape inference has it.
        let output = (length as f32 * scale).floor();
        if !(scale > 0.0 && (1.0..2e9).contains(&output)) {
            return Err(format!("scale {scale} of an axis of {length}"));
        }
        Ok((output as usize, [f64::from(scale), 1.0]))
    };
    lengths.iter().zip(scales).map(side).collect()
}

fn by_sizes(call: &Call<'_>, lengths: &[usize], policy: &str) -> Result<Sides, String> {
    let Some(sizes) = call.integers(3)?.filter(|list| list.len() == lengths.len()) else {
        return Err(format!("its sizes do not fit {lengths:?}"));
    };
    let sizes = (sizes.iter())
        .map(|&n| match size(n)? {
            0 => Err("its output is empty".to_string()),
            n => Ok(n),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let sides = sizes.iter().zip(lengths);
    let stretched = sides.map(|(&size, &length)| (size, [size as f64, length as f64]));
    // Of what is not refused for its size, products are exact.
    let larger = |a: &[f64; 2], b: &[f64; 2]| (a[0] * b[1]).total_cmp(&(b[0] * a[1]));
    let scales = stretched.clone().map(|side| side.1);
    let common = match policy {
        "stretch" => return Ok(stretched.collect()),
        "not_larger" => scales.min_by(larger),
        "not_smaller" => scales.max_by(larger),
        _ => {
            return Err(format!(
                "keep_aspect_ratio_policy {policy} is not supported"
            ));
        }
    };
    let [up, down] = common.ok_or("it resizes nothing")?;
    let side = |&length: &usize| match (length as f64 * up / down + 0.5).floor() {
        output if (1.0..2e9).contains(&output) => Ok((output as usize, [up, down])),
        _ => Err(format!("sizes {sizes:?} leave nothing of {lengths:?}")),
    };
    lengths.iter().map(side).collect()
}
