//! Bounds what decoding a file may allocate, before it is decoded.
//!
//! An empty message takes two bytes of a file and some hundreds in memory; a file of nothing else
//! would take a hundred times its size. So the messages are counted first, without keeping them.

use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Messages that a file may hold: several times what the largest exports do.
const MAX_MESSAGES: usize = 1 << 18;
/// Messages inside one another: what the decoder follows too.
const MAX_DEPTH: usize = 100;

/// The messages that hold others, named as in onnx.proto.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Model,
    Function,
    Graph,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    /// One that holds no others.
    Leaf,
}

impl Kind {
    /// The message in a field, if the field holds one.
    fn child(self, field: u32) -> Option<Kind> {
        Some(match (self, field) {
            (Kind::Model, 7) => Kind::Graph,
            (Kind::Model, 8) => Kind::Leaf,
            (Kind::Model, 25) => Kind::Function,
            (Kind::Function, 4..=6 | 9) => Kind::Leaf,
            (Kind::Graph, 1) | (Kind::Function, 7) => Kind::Node,
            (Kind::Graph, 5) | (Kind::Attribute, 5) => Kind::Tensor,
            (Kind::Graph, 11 | 12) => Kind::ValueInfo,
            // Names count too.
            (Kind::Node, 1 | 2) => Kind::Leaf,
            (Kind::Node, 5) | (Kind::Function, 11) => Kind::Attribute,
            (Kind::Attribute, 6) => Kind::Graph,
            (Kind::Tensor, 13) => Kind::Leaf,
            (Kind::ValueInfo, 2) => Kind::Type,
            (Kind::Type, 1) => Kind::TensorType,
            (Kind::TensorType, 2) => Kind::Shape,
            (Kind::Shape, 1) => Kind::Leaf,
            _ => return None,
        })
    }
}

/// Refuses a file of more messages than any model has.
///
/// # Errors
/// The file is that, or no protobuf.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let mut left = MAX_MESSAGES;
    count(Kind::Model, bytes, &mut left, MAX_DEPTH)
}

fn count(kind: Kind, mut bytes: &[u8], left: &mut usize, depth: usize) -> Result<(), String> {
    let depth = (depth.checked_sub(1)).ok_or("nests graphs deeper than any classifier does")?;
    let damaged = |error: prost::DecodeError| {
        format!("is not an ONNX model, or a truncated or damaged one ({error})")
    };
    while bytes.has_remaining() {
        let (field, wire) = decode_key(&mut bytes).map_err(damaged)?;
        match kind.child(field) {
            Some(child) if wire == WireType::LengthDelimited => {
                let length = decode_varint(&mut bytes).map_err(damaged)?;
                let Some((message, rest)) = usize::try_from(length)
                    .ok()
                    .and_then(|length| bytes.split_at_checked(length))
                else {
                    return Err("is not an ONNX model, or a truncated one".into());
                };
                *left = (left.checked_sub(1)).ok_or("holds more than any classifier does")?;
                if !matches!(child, Kind::Leaf) {
                    count(child, message, left, depth)?;
                }
                bytes = rest;
            }
            _ => skip_field(wire, field, &mut bytes, DecodeContext::default()).map_err(damaged)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classifier::onnx::samples::samples;

    #[test]
    fn counts_messages_without_decoding_them() {
        for (_, model) in samples() {
            check(&model.bytes()).unwrap();
        }
        // A graph of empty nodes: field 1, length 0.
        let nodes = [0x0a, 0x00].repeat(MAX_MESSAGES);
        let mut model = vec![0x3a]; // field 7, then its length
        prost::encoding::encode_varint(nodes.len() as u64, &mut model);
        model.extend(nodes);
        assert!(check(&model).unwrap_err().contains("more than any"));
        assert!(check(&model[..1000]).unwrap_err().contains("truncated"));
    }
}
