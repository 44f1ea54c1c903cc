//! The image that a model takes: its name, its shape, and how its pixels are laid out.

use super::body::{Known, Names};
use super::builder::{self, Builder, Item, check_size};
use super::proto::{self, DataType};
use crate::classifier::graph::{Binary, InputLayout, LoadOptions, Op};
use crate::error::Message;

/// The input of a graph.
pub(super) struct Image<'a> {
    pub name: &'a str,
    /// `[1, channels, height, width]`.
    pub dims: Vec<usize>,
    pub layout: InputLayout,
    /// Whether its pixels are integers from 0 to 255.
    pub bytes: bool,
}

impl<'a> Image<'a> {
    /// The one input of `graph` that is none of the `constants`.
    pub(super) fn of(
        graph: &'a proto::Graph,
        constants: &Names<'_>,
        options: &LoadOptions,
    ) -> Result<Self, Message> {
        let mut inputs = (graph.input.iter()).filter(|input| !constants.contains_key(&*input.name));
        let input = inputs.next().ok_or("has no input")?;
        if let Some(second) = inputs.next() {
            return Err(format!(
                "has more than one input (\"{}\", \"{}\"); a classifier takes one image",
                input.name, second.name
            )
            .into());
        }
        let name = &*input.name;
        let tensor = (input.kind.as_ref()).and_then(|kind| kind.tensor.as_ref());
        let bytes = match tensor.map_or(DataType::Undefined, proto::TensorType::element) {
            DataType::Float | DataType::Float16 | DataType::Double => false,
            DataType::Uint8 => true,
            kind => {
                return Err(format!(
                    "input \"{name}\" is of type {kind:?}; images are floats, or uint8"
                )
                .into());
            }
        };
        let shape = tensor.and_then(|tensor| tensor.shape.as_ref());
        let sizes: Vec<Option<i64>> = shape
            .ok_or_else(|| format!("input \"{name}\" has no shape"))?
            .dim
            .iter()
            .map(|dim| match dim.value {
                Some(proto::DimValue::Size(size)) if size > 0 => Some(size),
                _ => None,
            })
            .collect();
        let shown: Vec<String> = (sizes.iter())
            .map(|size| size.map_or("?".into(), |size| size.to_string()))
            .collect();
        let shown = shown.join("×");
        let [batch, first, middle, last] = sizes[..] else {
            return Err(format!(
                "input \"{name}\" is {shown}; a classifier takes images×channels×height×width, or \
                 images×height×width×channels"
            )
            .into());
        };
        if let Some(batch) = batch.filter(|&batch| batch != 1) {
            return Err(format!(
                "input \"{name}\" is {shown}, its batch fixed at {batch}; export it with a free batch or \
                 one of 1"
            ).into());
        }
        let layout = layout([first, middle, last], options.input_layout)
            .map_err(|reason| reason.before(&format!("input \"{name}\" is {shown}; ")))?;
        let (channels, height, width) = match layout {
            InputLayout::Nchw => (first, middle, last),
            InputLayout::Nhwc => (last, first, middle),
        };
        let mut dims = vec![1, if channels == Some(1) { 1 } else { 3 }];
        for (axis, (size, wanted)) in [
            ("height", (height, options.image_size.map(|size| size.0))),
            ("width", (width, options.image_size.map(|size| size.1))),
        ] {
            dims.push(match (size, wanted) {
                (None, None) => {
                    let free = format!("input \"{name}\" is {shown}: its {axis} is free");
                    let hint = "give the image size to run at, with `size`";
                    return Err(Message::from(free).hint(hint));
                }
                (Some(size), Some(wanted)) if size != wanted as i64 => {
                    return Err(format!(
                        "input \"{name}\" is {shown}: its {axis} is fixed at {size}, not {wanted}"
                    )
                    .into());
                }
                (None, Some(0)) => return Err(format!("no image has {axis} 0").into()),
                (Some(size), _) => builder::size(size)?,
                (None, Some(wanted)) => builder::size(wanted.try_into().unwrap_or(-1))?,
            });
        }
        check_size(&dims)?;
        Ok(Image {
            name,
            dims,
            layout,
            bytes,
        })
    }

    /// What the model's nodes are handed, made of pixels in `[0, 1]`, channels first.
    pub(super) fn handed(&self, builder: &mut Builder) -> Result<Known, String> {
        let mut image = builder.image();
        if self.bytes {
            let scale = Item::floats(vec![], [255.0]);
            let op = Op::Binary(Binary::Mul);
            image = builder.apply("input/bytes", op, &[image, scale], self.dims.clone())?;
        }
        if self.layout == InputLayout::Nhwc {
            let [images, channels, height, width] = self.dims[..] else {
                unreachable!("an image has four axes");
            };
            let perm = vec![0, 2, 3, 1];
            let dims = vec![images, height, width, channels];
            image = builder.apply("input/nhwc", Op::Transpose { perm }, &[image], dims)?;
        }
        Ok(Known::Item(image))
    }
}

/// The layout of an image of these sizes, the batch left out: the one that was asked for, or the one that
/// has its channels where there are 1 or 3, channels first where both do.
fn layout(sizes: [Option<i64>; 3], wanted: Option<InputLayout>) -> Result<InputLayout, Message> {
    let [first, _, last] = sizes;
    let channels = |layout| match layout {
        InputLayout::Nchw => first,
        InputLayout::Nhwc => last,
    };
    let is = |layout: &InputLayout| matches!(channels(*layout), Some(1 | 3));
    match wanted {
        Some(layout) if is(&layout) || channels(layout).is_none() => Ok(layout),
        Some(layout) => {
            Err(format!("laid out as {} it has not 1 or 3 channels", layout.name()).into())
        }
        None => [InputLayout::Nchw, InputLayout::Nhwc]
            .into_iter()
            .find(is)
            .ok_or_else(|| match (first, last) {
                (Some(_), Some(_)) => {
                    "images have 1 or 3 channels, in the second place or in the last".into()
                }
                _ => Message::from("its channels are free")
                    .hint("say where they are, with `input_layout`"),
            }),
    }
}
