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
enum WireKind {
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

impl WireKind {
    /// The message in a field, if the field holds one.
    fn child(self, field: u32) -> Option<WireKind> {
        Some(match (self, field) {
            (WireKind::Model, 7) => WireKind::Graph,
            (WireKind::Model, 8) => WireKind::Leaf,
            (WireKind::Model, 25) => WireKind::Function,
            (WireKind::Function, 4..=6 | 9) => WireKind::Leaf,
            (WireKind::Graph, 1) | (WireKind::Function, 7) => WireKind::Node,
            (WireKind::Graph, 5) | (WireKind::Attribute, 5) => WireKind::Tensor,
            (WireKind::Graph, 11 | 12) => WireKind::ValueInfo,
            // Names count too.
            (WireKind::Node, 1 | 2) => WireKind::Leaf,
            (WireKind::Node, 5) | (WireKind::Function, 11) => WireKind::Attribute,
            (WireKind::Attribute, 6) => WireKind::Graph,
            (WireKind::Tensor, 13) => WireKind::Leaf,
            (WireKind::ValueInfo, 2) => WireKind::Type,
            (WireKind::Type, 1) => WireKind::TensorType,
            (WireKind::TensorType, 2) => WireKind::Shape,
            (WireKind::Shape, 1) => WireKind::Leaf,
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
    count(WireKind::Model, bytes, &mut left, MAX_DEPTH)
}

fn count(kind: WireKind, mut bytes: &[u8], left: &mut usize, depth: usize) -> Result<(), String> {
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
                if !matches!(child, WireKind::Leaf) {
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
