//! An inference request and its response, in the form that REST and gRPC share.

use std::time::{Duration, Instant};

use backstitch::defense::OwnOptions;
use backstitch::picture::{check_size, rgb};
use backstitch::{Picture, Verdict};
use bytes::Bytes;
use serde_json::{Map, Value};

use crate::engines::{Engine, Model};
use crate::found::Found;
use crate::queue::{Client, Pending, Queue};
use crate::refusal::Refusal;
use crate::service::Service;

/// A request's parameters, by name.
pub type Parameters = Map<String, Value>;

/// An inference request.
#[derive(Debug, Default)]
pub struct Infer {
    /// What the response repeats.
    pub id: String,
    /// The request's parameters.
    pub parameters: Parameters,
    /// The inputs.
    pub inputs: Vec<Tensor>,
    /// Names of the outputs that are wanted; none for the usual ones.
    pub outputs: Vec<String>,
}

/// An input.
#[derive(Debug)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its type, by the protocol's name.
    pub datatype: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its elements.
    pub data: Data,
}

/// The elements of an input, row by row.
#[derive(Debug)]
pub enum Data {
    /// As in memory, little endian; of `BYTES`, each with its length in four bytes before it.
    Raw(Bytes),
    /// Numbers.
    Numbers(Vec<f32>),
    /// Files.
    Files(Vec<Bytes>),
}

/// An output.
#[derive(Debug)]
pub struct Output {
    /// Its name.
    pub name: &'static str,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements.
    pub values: Values,
}

/// The elements of an output, row by row.
#[derive(Debug, PartialEq)]
pub enum Values {
    /// `UINT8`
    Bytes(Vec<u8>),
    /// `FP32`
    Floats(Vec<f32>),
    /// `FP64`
    Doubles(Vec<f64>),
    /// `INT64`
    Integers(Vec<i64>),
    /// `BYTES`
    Words(Vec<&'static str>),
}

impl Values {
    /// The protocol's name of the type.
    pub fn datatype(&self) -> &'static str {
        match self {
            Values::Bytes(_) => "UINT8",
            Values::Floats(_) => "FP32",
            Values::Doubles(_) => "FP64",
            Values::Integers(_) => "INT64",
            Values::Words(_) => "BYTES",
        }
    }

    /// The elements as in memory, little endian; of `BYTES`, each with its length in four bytes before it.
    pub fn raw(&self) -> Vec<u8> {
        match self {
            Values::Bytes(bytes) => bytes.clone(),
            Values::Floats(all) => all.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Values::Doubles(all) => all.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Values::Integers(all) => all.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Values::Words(all) => {
                let word = |word: &&str| {
                    let length = (word.len() as u32).to_le_bytes();
                    [&length, word.as_bytes()].concat()
                };
                all.iter().flat_map(word).collect()
            }
        }
    }

    /// The elements as JSON.
    pub fn json(&self) -> Value {
        match self {
            Values::Bytes(all) => all.as_slice().into(),
            Values::Floats(all) => all.as_slice().into(),
            Values::Doubles(all) => all.as_slice().into(),
            Values::Integers(all) => all.as_slice().into(),
            Values::Words(all) => all.as_slice().into(),
        }
    }
}

/// Every output, in the order of responses, with its type and the axes behind that of the pictures. The first five are
/// given unless a request names others.
pub const OUTPUTS: [(&str, &str, &[i64]); 7] = [
    ("image", "UINT8", &[-1, -1, -1]),
    ("verdict", "BYTES", &[]),
    ("score", "FP64", &[]),
    ("input_label", "INT64", &[]),
    ("output_label", "INT64", &[]),
    ("input_logits", "FP32", &[-1]),
    ("output_logits", "FP32", &[-1]),
];

/// The outputs that are given unless a request names others.
const USUAL: usize = 5;

/// The order of the axes of pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    Nchw,
    Nhwc,
}

/// What a request asks for beside its pictures.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// What its pictures are purified by.
    pub engine: Engine,
    /// Its seed, and whether to purify clean pictures.
    pub own: OwnOptions,
    /// How long it may take, at most; `None` for as long as any.
    pub timeout: Option<Duration>,
    layout: Option<Layout>,
}

impl Wishes {
    /// Reads a request's parameters.
    ///
    /// # Errors
    /// One is unknown, or its value is of another kind.
    pub fn read(model: &Model, parameters: &Parameters) -> Result<Wishes, Refusal> {
        let mut preset = None;
        let (mut seed, mut always) = (None, None);
        let (mut timeout, mut layout) = (None, None);
        for (name, value) in parameters {
            let wrong = |what| Refusal::malformed(format!("the parameter {name} must be {what}"));
            let number = || value.as_u64().ok_or_else(|| wrong("a number from 0"));
            let word = || value.as_str().ok_or_else(|| wrong("a string"));
            match &**name {
                "seed" => seed = Some(number()?),
                "always" => {
                    always = Some(value.as_bool().ok_or_else(|| wrong("true or false"))?);
                }
                "preset" => preset = Some(word()?),
                "timeout" => timeout = Some(Duration::from_micros(number()?)),
                "layout" => {
                    layout = Some(match word()? {
                        "NCHW" => Layout::Nchw,
                        "NHWC" => Layout::Nhwc,
                        _ => return Err(wrong("NCHW or NHWC")),
                    });
                }
                _ => {
                    return Err(Refusal::malformed(
                        "an unknown parameter: there are seed, always, preset, timeout, layout",
                    ));
                }
            }
        }
        let engine = model.engine(preset)?;
        Ok(Wishes {
            own: OwnOptions {
                seed: seed.unwrap_or(engine.own.seed),
                always: always.unwrap_or(engine.own.always),
            },
            engine,
            timeout,
            layout,
        })
    }
}

/// The pictures of a request's input, not decoded yet.
#[derive(Debug)]
pub struct Pictures {
    kind: Kind,
    /// How outputs are laid out.
    layout: Layout,
}

#[derive(Debug)]
enum Kind {
    /// Arrays of this height and width.
    Arrays {
        count: usize,
        height: usize,
        width: usize,
        bytes: bool,
        data: Data,
    },
    /// Encoded files.
    Files(Vec<Bytes>),
}

impl Pictures {
    /// The pictures of the only input, `image` or `bytes`; everything that it claims is checked.
    ///
    /// # Errors
    /// Another input, type or shape, or other data than the shape says; pictures that are larger than `max_pixels`,
    /// or more than `most`.
    pub fn read(
        inputs: Vec<Tensor>,
        wishes: &Wishes,
        max_pixels: usize,
        most: usize,
    ) -> Result<Pictures, Refusal> {
        let [tensor]: [Tensor; 1] = inputs.try_into().map_err(|inputs: Vec<_>| {
            let count = inputs.len();
            Refusal::malformed(format!("one input is taken, image or bytes, not {count}"))
        })?;
        let pictures = match &*tensor.name {
            "image" => Pictures::arrays(tensor, wishes.layout, max_pixels),
            "bytes" => Pictures::files(tensor, wishes.layout),
            _ => Err(Refusal::malformed(
                "an unknown input: there are image and bytes",
            )),
        }?;
        match pictures.count() {
            0 => Err(Refusal::malformed("a request has at least one picture")),
            count if count > most => Err(Refusal::too_large(format!(
                "a request has at most {most} pictures, not {count}"
            ))),
            _ => Ok(pictures),
        }
    }

    /// One encoded file.
    pub fn file(bytes: Bytes) -> Pictures {
        Pictures {
            kind: Kind::Files(vec![bytes]),
            layout: Layout::Nchw,
        }
    }

    fn arrays(
        tensor: Tensor,
        layout: Option<Layout>,
        max_pixels: usize,
    ) -> Result<Pictures, Refusal> {
        let bytes = match &*tensor.datatype {
            "UINT8" => true,
            "FP32" => false,
            _ => return Err(Refusal::malformed("image is of the type UINT8 or FP32")),
        };
        let shape = &tensor.shape[..];
        let &[count, _, _, _] = shape else {
            return Err(Refusal::malformed("the shape of image has four axes"));
        };
        let layout = match (layout, shape[1], shape[3]) {
            (Some(layout), ..) => layout,
            (None, 3, _) => Layout::Nchw,
            _ => Layout::Nhwc,
        };
        let (channels, height, width) = match layout {
            Layout::Nchw => (shape[1], shape[2], shape[3]),
            Layout::Nhwc => (shape[3], shape[1], shape[2]),
        };
        if channels != 3 {
            return Err(Refusal::malformed("image has three channels, NCHW or NHWC"));
        }
        let small = |side: u64| usize::try_from(side).unwrap_or(usize::MAX);
        let (height, width) = (small(height), small(width));
        if height == 0 || width == 0 {
            return Err(Refusal::malformed("image has no pixels"));
        }
        check_size(width, height)
            .map_err(|message| Refusal::too_large(format!("image {message}")))?;
        if height * width > max_pixels {
            let most = format!("a picture has at most {max_pixels} pixels");
            return Err(Refusal::too_large(most));
        }
        let size = if bytes { 1 } else { 4 };
        let elements = (count as u128) * 3 * (height * width) as u128;
        let (there, wanted) = match &tensor.data {
            Data::Raw(raw) => (raw.len() as u128, elements * size),
            Data::Numbers(numbers) => (numbers.len() as u128, elements),
            Data::Files(_) => return Err(Refusal::malformed("image has numbers as its data")),
        };
        if there != wanted {
            let differs = "image has other data than its shape and type say";
            return Err(Refusal::malformed(differs));
        }
        Ok(Pictures {
            kind: Kind::Arrays {
                count: small(count),
                height,
                width,
                bytes,
                data: tensor.data,
            },
            layout,
        })
    }

    fn files(tensor: Tensor, layout: Option<Layout>) -> Result<Pictures, Refusal> {
        if tensor.datatype != "BYTES" {
            return Err(Refusal::malformed("bytes is of the type BYTES"));
        }
        let count = match tensor.shape[..] {
            [count] | [count, 1] => count,
            _ => return Err(Refusal::malformed("the shape of bytes is [N] or [N, 1]")),
        };
        let files = match tensor.data {
            Data::Raw(raw) => split(raw)?,
            Data::Files(files) => files,
            Data::Numbers(_) => return Err(Refusal::malformed("bytes has files as its data")),
        };
        if files.len() as u64 != count {
            return Err(Refusal::malformed(
                "bytes has other data than its shape says",
            ));
        }
        Ok(Pictures {
            kind: Kind::Files(files),
            layout: layout.unwrap_or(Layout::Nchw),
        })
    }

    /// Number of pictures.
    pub fn count(&self) -> usize {
        match &self.kind {
            Kind::Arrays { count, .. } => *count,
            Kind::Files(files) => files.len(),
        }
    }

    /// Decodes picture number `index`.
    ///
    /// # Errors
    /// The file cannot be decoded, is larger than `max_pixels`, or a number is not from 0 to 1.
    pub fn decode(&self, index: usize, max_pixels: usize) -> Result<Picture, Refusal> {
        match &self.kind {
            Kind::Files(files) => {
                let picture = Picture::decode_within(&files[index], max_pixels);
                picture.map_err(|message| Refusal::malformed(format!("picture {index} {message}")))
            }
            &Kind::Arrays {
                height,
                width,
                bytes,
                ref data,
                ..
            } => {
                let shape = rgb(height, width);
                let elements = shape.elements();
                let range = index * elements..(index + 1) * elements;
                let level = |&byte: &u8| f32::from(byte) / 255.0;
                let pixels: Vec<f32> = match data {
                    Data::Raw(raw) if bytes => raw[range].iter().map(level).collect(),
                    Data::Raw(raw) => raw[4 * range.start..4 * range.end]
                        .chunks_exact(4)
                        .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
                        .collect(),
                    Data::Numbers(numbers) if bytes => {
                        let whole = |&number: &f32| {
                            let fits = number.fract() == 0.0 && (0.0..=255.0).contains(&number);
                            fits.then_some(number / 255.0)
                        };
                        let levels: Option<Vec<f32>> = numbers[range].iter().map(whole).collect();
                        levels.ok_or_else(|| {
                            Refusal::malformed("a UINT8 is a whole number from 0 to 255")
                        })?
                    }
                    Data::Numbers(numbers) => numbers[range].to_vec(),
                    Data::Files(_) => vec![],
                };
                let pixels = match self.layout {
                    Layout::Nchw => pixels,
                    Layout::Nhwc => by_channel(&pixels),
                };
                Picture::new(shape, pixels)
                    .map_err(|error| Refusal::malformed(format!("image is {error}")))
            }
        }
    }

    /// Whether `image` is given in 8 bits, as the pictures were.
    fn eight_bit(&self) -> bool {
        !matches!(self.kind, Kind::Arrays { bytes: false, .. })
    }
}

/// Interleaved channels as planes.
fn by_channel(pixels: &[f32]) -> Vec<f32> {
    let plane = |channel| pixels[channel..].iter().step_by(3).copied();
    (0..3).flat_map(plane).collect()
}

/// The elements of raw `BYTES`.
fn split(raw: Bytes) -> Result<Vec<Bytes>, Refusal> {
    let mut at = 0;
    let mut files = vec![];
    while at < raw.len() {
        let Some(length) = raw.get(at..at + 4) else {
            return Err(Refusal::malformed("bytes ends within a length"));
        };
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        at += 4;
        if length > raw.len() - at {
            return Err(Refusal::malformed("bytes is shorter than its lengths say"));
        }
        files.push(raw.slice(at..at + length));
        at += length;
    }
    Ok(files)
}

/// Takes pictures in: decodes them and puts them into the line of their engine. Runs for as long as decoding does.
///
/// # Errors
/// There is no room, or a picture cannot be decoded or resized.
pub fn submit(
    service: &Service,
    model: &Model,
    wishes: &Wishes,
    client: &Client,
    pictures: &Pictures,
    deadline: Instant,
) -> Result<Pending, Refusal> {
    let queue: &std::sync::Arc<Queue> = &service.queue;
    let pending = queue.admit(client, pictures.count(), deadline)?;
    for index in 0..pictures.count() {
        let picture = pictures.decode(index, service.options.max_pixels)?;
        let picture = model.prepare(picture)?;
        pending.put(wishes.engine.id, index, picture, wishes.own)?;
    }
    Ok(pending)
}

/// Purifies the pictures of a request; gives the outputs that it wants.
///
/// # Errors
/// Whatever is wrong with the request; there is no room; its time is over.
pub async fn infer(
    service: &Service,
    model: std::sync::Arc<Model>,
    request: Infer,
    client: Client,
    deadline: Instant,
) -> Result<Vec<Output>, Refusal> {
    let wishes = Wishes::read(&model, &request.parameters)?;
    let wanted = wanted(&request.outputs)?;
    let most = service.queue.most_pictures();
    let pictures = Pictures::read(request.inputs, &wishes, service.options.max_pixels, most)?;
    let deadline = wishes.timeout.map_or(deadline, |timeout| {
        Instant::now()
            .checked_add(timeout)
            .map_or(deadline, |soon| soon.min(deadline))
    });
    let (layout, eight_bit) = (pictures.layout, pictures.eight_bit());
    let decoding = service.clone();
    let taken = move || submit(&decoding, &model, &wishes, &client, &pictures, deadline);
    let mut pending = service.decode(deadline, taken).await?;
    let found = pending.all().await?;
    let outputs = service.compute(move || outputs(&found, &wanted, layout, eight_bit));
    outputs.await
}

/// The outputs that a request names, as places in [`OUTPUTS`].
fn wanted(names: &[String]) -> Result<Vec<usize>, Refusal> {
    if names.is_empty() {
        return Ok((0..USUAL).collect());
    }
    let mut wanted = vec![];
    for name in names {
        let place = OUTPUTS.iter().position(|(output, ..)| output == name);
        let Some(place) = place.filter(|place| !wanted.contains(place)) else {
            let names = OUTPUTS.map(|(name, ..)| name).join(", ");
            let wrong = format!("an output is unknown or named twice: there are {names}");
            return Err(Refusal::malformed(wrong));
        };
        wanted.push(place);
    }
    Ok(wanted)
}

/// The outputs at these places of [`OUTPUTS`].
fn outputs(found: &[Found], wanted: &[usize], layout: Layout, eight_bit: bool) -> Vec<Output> {
    let count = found.len();
    let output = |&place: &usize| {
        let name = OUTPUTS[place].0;
        let label = |label: fn(&Found) -> usize| {
            Values::Integers(found.iter().map(|found| label(found) as i64).collect())
        };
        let logits = |logits: fn(&Found) -> &[f32]| {
            Values::Floats(found.iter().flat_map(logits).copied().collect())
        };
        let (values, more) = match name {
            "image" => images(found, layout, eight_bit),
            "verdict" => {
                let verdicts = found.iter().map(|found| Verdict::name(found.verdict));
                (Values::Words(verdicts.collect()), vec![])
            }
            "score" => {
                let scores = found.iter().map(|found| found.score).collect();
                (Values::Doubles(scores), vec![])
            }
            "input_label" => (label(|found| found.input.label()), vec![]),
            "output_label" => (label(|found| found.output.label()), vec![]),
            "input_logits" => {
                let classes = found.first().map_or(0, |found| found.input.classes());
                (logits(|found| found.input.logits()), vec![classes])
            }
            _ => {
                let classes = found.first().map_or(0, |found| found.output.classes());
                (logits(|found| found.output.logits()), vec![classes])
            }
        };
        let mut shape = vec![count];
        shape.extend(more);
        Output {
            name,
            shape,
            values,
        }
    };
    wanted.iter().map(output).collect()
}

/// The purified pictures, and the axes of each.
fn images(found: &[Found], layout: Layout, eight_bit: bool) -> (Values, Vec<usize>) {
    let shape = found.first().map(|found| found.picture.shape);
    let shape = shape.unwrap_or(rgb(0, 0));
    let axes = match layout {
        Layout::Nchw => vec![shape.channels, shape.height, shape.width],
        Layout::Nhwc => vec![shape.height, shape.width, shape.channels],
    };
    // The 8-bit pixels of a file come interleaved.
    let interleaved = layout == Layout::Nhwc;
    let values = match (eight_bit, interleaved) {
        (true, true) => Values::Bytes(
            found
                .iter()
                .flat_map(|found| found.picture.to_rgb8())
                .collect(),
        ),
        (true, false) => {
            let planes = |found: &Found| {
                let pixels = found.picture.to_rgb8();
                let plane = |channel| pixels[channel..].iter().step_by(3).copied().collect();
                let planes: [Vec<u8>; 3] = [0, 1, 2].map(plane);
                planes.concat()
            };
            Values::Bytes(found.iter().flat_map(planes).collect())
        }
        (false, false) => {
            let pixels = found.iter().flat_map(|found| &found.picture.pixels);
            Values::Floats(pixels.copied().collect())
        }
        (false, true) => {
            let interleave = |found: &Found| {
                let pixels = &found.picture.pixels;
                let plane = shape.height * shape.width;
                let pixel = |i: usize| [0, 1, 2].map(|channel| pixels[channel * plane + i]);
                (0..plane).flat_map(pixel).collect::<Vec<f32>>()
            };
            Values::Floats(found.iter().flat_map(interleave).collect())
        }
    };
    (values, axes)
}
