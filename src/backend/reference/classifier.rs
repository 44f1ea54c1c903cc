//! The classifier in float64.

use crate::backend::checks::{check_classified, check_gradients};
use crate::backend::host::HostImages;
use crate::backend::{At, ClassifierEngine, ImageShape, LossGradient};
use crate::classifier::interpreter::{self, Operand};
use crate::classifier::{Graph, ValueId};
use crate::error::{Error, Result};

/// Runs any [`Graph`], fused or not, image by image.
#[derive(Debug)]
pub struct ReferenceClassifier {
    graph: Graph,
    /// Of each value, what a constant holds.
    constants: Vec<Vec<f64>>,
}

impl ReferenceClassifier {
    /// An engine for `graph`.
    pub fn new(graph: &Graph) -> Self {
        let widen = |data: Option<&[f32]>| -> Vec<f64> {
            data.unwrap_or_default().iter().map(|&x| x.into()).collect()
        };
        ReferenceClassifier {
            graph: graph.clone(),
            constants: (graph.values.iter())
                .map(|value| widen(value.data.as_deref()))
                .collect(),
        }
    }

    /// Logits of one image, CHW, in full precision.
    ///
    /// # Errors
    /// The image has not the classifier's shape.
    pub fn logits_f64(&self, pixels: &[f64]) -> Result<Vec<f64>> {
        let mut values = self.run(pixels)?;
        Ok(std::mem::take(&mut values[self.graph.output.0]))
    }

    /// Logits of one image, CHW, and the gradient with respect to it of a scalar whose derivative by
    /// each logit `loss_gradient` writes, in full precision.
    ///
    /// # Errors
    /// The image has not the classifier's shape.
    pub fn gradient_f64(
        &self,
        pixels: &[f64],
        loss_gradient: impl FnOnce(&[f64], &mut [f64]),
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        let mut values = self.run(pixels)?;
        let mut gradients: Vec<Vec<f64>> = vec![Vec::new(); values.len()];
        let logits = &values[self.graph.output.0];
        let by_logits = &mut gradients[self.graph.output.0];
        by_logits.resize(logits.len(), 0.0);
        loss_gradient(logits, by_logits);

        for node in self.graph.nodes.iter().rev() {
            let gradient = std::mem::take(&mut gradients[node.output.0]);
            if gradient.is_empty() {
                continue;
            }
            let inputs: Vec<_> = (node.inputs.iter())
                .map(|&id| self.operand(&values, id))
                .collect();
            let output = self.operand(&values, node.output);
            let by_inputs = interpreter::backward(&node.op, &inputs, output, &gradient);
            for (&id, by_input) in node.inputs.iter().zip(by_inputs) {
                let Some(by_input) = by_input.filter(|_| self.graph.constant(id).is_none()) else {
                    continue;
                };
                let sum = &mut gradients[id.0];
                if sum.is_empty() {
                    *sum = by_input;
                } else {
                    sum.iter_mut().zip(by_input).for_each(|(sum, g)| *sum += g);
                }
            }
        }
        let mut by_image = std::mem::take(&mut gradients[self.graph.input.0]);
        by_image.resize(pixels.len(), 0.0); // an output that ignores the image
        Ok((std::mem::take(&mut values[self.graph.output.0]), by_image))
    }

    /// Every computed value.
    fn run(&self, pixels: &[f64]) -> Result<Vec<Vec<f64>>> {
        let shape = self.graph.input_shape();
        if pixels.len() != shape.elements() {
            return Err(Error::invalid(format!(
                "an image of {} numbers where the classifier takes {shape}",
                pixels.len()
            )));
        }
        let mut values = vec![Vec::new(); self.graph.values.len()];
        values[self.graph.input.0] = pixels.to_vec();
        for node in &self.graph.nodes {
            let inputs: Vec<_> = (node.inputs.iter())
                .map(|&id| self.operand(&values, id))
                .collect();
            let dims = &self.graph.value(node.output).dims;
            values[node.output.0] = interpreter::forward(&node.op, &inputs, dims);
        }
        Ok(values)
    }

    fn operand<'a>(&'a self, values: &'a [Vec<f64>], id: ValueId) -> Operand<'a> {
        let data = match self.graph.constant(id) {
            Some(_) => &self.constants[id.0],
            None => &values[id.0],
        };
        Operand {
            dims: &self.graph.value(id).dims,
            data,
        }
    }
}

impl ClassifierEngine for ReferenceClassifier {
    type Images = HostImages<f64>;

    fn input_shape(&self) -> ImageShape {
        self.graph.input_shape()
    }

    fn classes(&self) -> usize {
        self.graph.classes()
    }

    fn bytes(&self) -> usize {
        self.constants.iter().map(|c| size_of_val(&**c)).sum()
    }

    fn logits(&mut self, images: &[At<'_, HostImages<f64>>]) -> Result<Vec<f32>> {
        check_classified(images, self.input_shape())?;
        let mut all = Vec::new();
        for image in images {
            let logits = self.logits_f64(image.pixels())?;
            all.extend(logits.into_iter().map(|x| x as f32));
        }
        Ok(all)
    }

    fn gradient(
        &mut self,
        images: &[At<'_, HostImages<f64>>],
        loss_gradient: &mut LossGradient<'_>,
        out: &mut HostImages<f64>,
        first: usize,
    ) -> Result<Vec<f32>> {
        check_classified(images, self.input_shape())?;
        check_gradients(out, self.input_shape(), first, images.len())?;
        let mut all = Vec::new();
        for (i, image) in images.iter().enumerate() {
            let (logits, gradient) = self.gradient_f64(image.pixels(), |logits, gradient| {
                let logits: Vec<f32> = logits.iter().map(|&x| x as f32).collect();
                let mut narrow = vec![0.0; logits.len()];
                loss_gradient(i, &logits, &mut narrow);
                for (wide, narrow) in gradient.iter_mut().zip(narrow) {
                    *wide = narrow.into();
                }
            })?;
            out.image_mut(first + i).copy_from_slice(&gradient);
            all.extend(logits.into_iter().map(|x| x as f32));
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::classifier::onnx::samples::{picture, samples};

    /// Weights of a scalar of the logits.
    fn weight(i: usize) -> f64 {
        ((i * 31 + 7) % 17) as f64 / 8.0 - 1.0
    }

    fn scalar(engine: &ReferenceClassifier, pixels: &[f64]) -> f64 {
        let logits = engine.logits_f64(pixels).unwrap();
        logits.iter().enumerate().map(|(i, x)| weight(i) * x).sum()
    }

    #[test]
    fn gradients_match_finite_differences() {
        let mut operations = BTreeSet::new();
        for (name, model) in samples() {
            for graph in [model.import().unwrap(), model.load().unwrap()] {
                operations.extend(graph.nodes.iter().map(|node| node.op.name()));
                let engine = ReferenceClassifier::new(&graph);
                let mut pixels = picture(graph.input_shape().elements());
                let (logits, gradient) = engine
                    .gradient_f64(&pixels, |_, gradient| {
                        for (i, g) in gradient.iter_mut().enumerate() {
                            *g = weight(i);
                        }
                    })
                    .unwrap();
                assert_eq!(logits, engine.logits_f64(&pixels).unwrap());
                let largest = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
                assert!(largest > 1e-3, "{name}");
                for i in 0..pixels.len() {
                    let (x, h) = (pixels[i], 1e-5);
                    pixels[i] = x + h;
                    let above = scalar(&engine, &pixels);
                    pixels[i] = x - h;
                    let below = scalar(&engine, &pixels);
                    pixels[i] = x;
                    let difference = (above - below) / (2.0 * h);
                    assert!(
                        (difference - gradient[i]).abs() < 1e-6 * largest,
                        "{name}, pixel {i}: {} against {difference}",
                        gradient[i]
                    );
                }
            }
        }
        let all = [
            "AveragePool",
            "Binary",
            "Concat",
            "Conv",
            "Expand",
            "Gather",
            "Gemm",
            "LogSoftmax",
            "Map",
            "MatMul",
            "MaxPool",
            "Normalize",
            "Pad",
            "Reduce",
            "Reshape",
            "ScaleShift",
            "Slice",
            "Softmax",
            "Transpose",
        ];
        assert!(operations.into_iter().eq(all));
    }

    #[test]
    fn engine_takes_batches_and_refuses_other_shapes() {
        let (_, model) = &samples()[0];
        let graph = model.load().unwrap();
        let mut engine = ReferenceClassifier::new(&graph);
        let shape = engine.input_shape();
        let mut images = HostImages::zeroed(shape, 3).unwrap();
        for i in 0..3 {
            for (j, x) in images.image_mut(i).iter_mut().enumerate() {
                *x = ((j * (i + 3)) % 11) as f64 / 11.0;
            }
        }
        let all: Vec<_> = (0..3).map(|i| At::new(&images, i)).collect();
        let logits = engine.logits(&all).unwrap();
        assert_eq!(logits.len(), 3 * engine.classes());
        let mut out = HostImages::zeroed(shape, 3).unwrap();
        let mut seen = Vec::new();
        let again = engine
            .gradient(
                &all[1..],
                &mut |i, logits, gradient| {
                    seen.push((i, logits.to_vec()));
                    gradient[2] = 1.0;
                },
                &mut out,
                1,
            )
            .unwrap();
        assert_eq!(again, logits[engine.classes()..]);
        assert_eq!(seen[1], (1, again[engine.classes()..].to_vec()));
        assert!(out.image(0).iter().all(|&g| g == 0.0));
        let (_, gradient) = engine
            .gradient_f64(images.image(2), |_, gradient| gradient[2] = 1.0)
            .unwrap();
        assert_eq!(out.image(2), gradient);

        let small = HostImages::zeroed(ImageShape { width: 4, ..shape }, 1).unwrap();
        assert!(engine.logits(&[At::new(&small, 0)]).is_err());
        assert!(
            engine
                .gradient(&all, &mut |_, _, _| {}, &mut out, 1)
                .is_err()
        );
        assert!(engine.logits_f64(&[0.0; 5]).is_err());
    }
}
