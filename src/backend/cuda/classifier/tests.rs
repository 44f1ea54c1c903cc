//! What the operations' own tests are made of: an operation against the float64 reference, forward and
//! backward, on every device there is.

mod engine;

use super::operation::{Backward, Forward, Operation};
use crate::backend::cuda::driver::{Address, Buffer, Device};
use crate::classifier::interpreter::{self, Operand};
use crate::classifier::{Function, Op};

/// Images of a batch.
const IMAGES: usize = 3;

/// Uniform numbers from −1 to 1.
pub(super) fn uniform(n: usize, seed: u32) -> Vec<f32> {
    let mut word = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..n)
        .map(|_| {
            word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (word >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

/// A node's input: its shape, and its elements if it is a constant; else they are random, made from
/// numbers in [−1, 1] by a function.
pub(super) struct Input {
    pub dims: Vec<usize>,
    pub constant: Option<Vec<f32>>,
    pub from: fn(f32) -> f32,
}

impl Input {
    /// A computed input.
    pub(super) fn computed(dims: &[usize]) -> Input {
        Input {
            dims: dims.to_vec(),
            constant: None,
            from: |x| x,
        }
    }

    /// A constant.
    pub(super) fn constant(dims: &[usize], data: Vec<f32>) -> Input {
        assert_eq!(data.len(), dims.iter().product::<usize>());
        Input {
            constant: Some(data),
            ..Input::computed(dims)
        }
    }

    /// A constant of random numbers up to `scale`.
    pub(super) fn random(dims: &[usize], scale: f32, seed: u32) -> Input {
        let data = uniform(dims.iter().product(), seed);
        Input::constant(dims, data.into_iter().map(|x| x * scale).collect())
    }

    fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}

/// A node to check an operation against.
pub(super) struct Node {
    pub op: Op,
    pub inputs: Vec<Input>,
    pub output: Vec<usize>,
    /// Products in the longest sum, forward or backward.
    pub terms: usize,
}

/// An operation of `images` images on a device, its computed inputs there.
struct Bench<'a> {
    device: &'a Device,
    operation: &'a dyn Operation,
    images: usize,
    inputs: Vec<Buffer<f32>>,
}

impl Bench<'_> {
    fn addresses(&self) -> Vec<Address> {
        self.inputs.iter().map(|input| input.at(0)).collect()
    }

    fn scratch(&self, numbers: usize) -> Buffer<f32> {
        self.device.allocate(self.images * numbers).unwrap()
    }

    fn forward(&self, activation: Option<Function>, elements: usize) -> Vec<f32> {
        let output = self.device.allocate::<f32>(self.images * elements).unwrap();
        self.operation
            .forward(Forward {
                device: self.device,
                images: self.images,
                inputs: &self.addresses(),
                activation,
                output: output.at(0),
            })
            .unwrap();
        output.download(0, output.len()).unwrap()
    }

    /// `to` with the gradient by computed input `input` in it, or added to it. What the operation does not
    /// claim to read is not there.
    fn backward(
        &self,
        input: usize,
        output: &[f32],
        gradient: &[f32],
        to: Option<&[f32]>,
    ) -> Vec<f32> {
        let reads = self.operation.reads();
        let nothing = self.device.allocate::<f32>(1).unwrap();
        let inputs = match reads.inputs {
            true => self.addresses(),
            false => vec![nothing.at(0); self.inputs.len()],
        };
        let output = reads
            .output
            .then(|| self.device.allocate_with(output).unwrap());
        let gradient = self.device.allocate_with(gradient).unwrap();
        let place = match to {
            Some(to) => self.device.allocate_with(to).unwrap(),
            None => self.device.allocate(self.inputs[input].len()).unwrap(),
        };
        let scratch = self.scratch(self.operation.backward_scratch());
        self.operation
            .backward(Backward {
                device: self.device,
                images: self.images,
                input,
                inputs: &inputs,
                output: output.as_ref().map_or(nothing.at(0), |output| output.at(0)),
                gradient: gradient.at(0),
                to: place.at(0),
                accumulate: to.is_some(),
                scratch: scratch.at(0),
            })
            .unwrap();
        place.download(0, place.len()).unwrap()
    }
}

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&x| x.into()).collect()
}

/// Every number is a sum of at most `terms` products; each rounding loses 2^-24 of a partial sum, and
/// partial sums stay within a few times the largest result. The functions lose up to eight times as
/// much.
fn close(what: &str, got: &[f32], want: &[f64], terms: usize) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(0.1, |m: f64, x| m.max(x.abs()));
    let bound = (terms as f64 + 8.0) * 4.0 * 2f64.powi(-24) * scale;
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(
            error <= bound,
            "{what} {i}: {got}, not {want} (error {error:.1e}, bound {bound:.1e})"
        );
    }
}

/// Holds an operation against the reference: its output, with the activation, and the gradient by each
/// computed input, alone and added to another's; and every image of a batch against the image alone.
pub(super) fn check(name: &str, device: &Device, operation: &dyn Operation, node: &Node) {
    let data: Vec<Vec<f32>> = (node.inputs.iter().zip(1..))
        .map(|(input, seed)| match &input.constant {
            Some(data) => data.clone(),
            None => uniform(IMAGES * input.elements(), seed)
                .into_iter()
                .map(input.from)
                .collect(),
        })
        .collect();
    let computed: Vec<usize> = (0..node.inputs.len())
        .filter(|&i| node.inputs[i].constant.is_none())
        .collect();
    let elements: usize = node.output.iter().product();
    let of_image = |i: usize, image: usize| match node.inputs[i].constant {
        Some(_) => &data[i][..],
        None => &data[i][image * node.inputs[i].elements()..][..node.inputs[i].elements()],
    };
    let bench = |images: std::ops::Range<usize>| Bench {
        device,
        operation,
        images: images.len(),
        inputs: (computed.iter())
            .map(|&i| {
                let n = node.inputs[i].elements();
                let part = &data[i][images.start * n..images.end * n];
                device.allocate_with(part).unwrap()
            })
            .collect(),
    };
    let all = bench(0..IMAGES);
    let activation = node.op.activation();
    let output = all.forward(activation, elements);
    let mut linear = node.op.clone();
    if let Some(activation) = linear.activation_mut() {
        *activation = None;
    }
    let before = match activation {
        Some(_) => all.forward(None, elements),
        None => output.clone(),
    };
    let gradient = uniform(IMAGES * elements, 77);
    let by_inputs: Vec<Vec<f32>> = (0..computed.len())
        .map(|n| all.backward(n, &before, &gradient, None))
        .collect();
    for image in 0..IMAGES {
        let wides: Vec<Vec<f64>> = (0..node.inputs.len())
            .map(|i| wide(of_image(i, image)))
            .collect();
        let operands: Vec<Operand<'_>> = (node.inputs.iter().zip(&wides))
            .map(|(input, data)| Operand {
                dims: &input.dims,
                data,
            })
            .collect();
        let part = image * elements..(image + 1) * elements;
        let want = interpreter::forward(&node.op, &operands, &node.output);
        close(
            &format!("{name}: output"),
            &output[part.clone()],
            &want,
            node.terms,
        );
        let alone = bench(image..image + 1);
        assert_eq!(
            alone.forward(activation, elements),
            output[part.clone()],
            "{name}: the image alone"
        );
        let want = interpreter::forward(&linear, &operands, &node.output);
        let want = Operand {
            dims: &node.output,
            data: &want,
        };
        let wanted =
            interpreter::backward(&linear, &operands, want, &wide(&gradient[part.clone()]));
        for (n, &i) in computed.iter().enumerate() {
            let size = node.inputs[i].elements();
            let got = &by_inputs[n][image * size..][..size];
            let want = wanted[i].as_ref().expect("a gradient by what is computed");
            close(
                &format!("{name}: gradient by input {i}"),
                got,
                want,
                node.terms,
            );
            assert_eq!(
                alone.backward(n, &before[part.clone()], &gradient[part.clone()], None),
                got,
                "{name}: the gradient of the image alone"
            );
        }
    }
    for (n, &i) in computed.iter().enumerate() {
        let there = uniform(IMAGES * node.inputs[i].elements(), 99);
        let sum = all.backward(n, &before, &gradient, Some(&there));
        let want: Vec<f64> = (by_inputs[n].iter().zip(&there))
            .map(|(&a, &b)| f64::from(a) + f64::from(b))
            .collect();
        close(
            &format!("{name}: added gradient by input {i}"),
            &sum,
            &want,
            node.terms,
        );
    }
}
