//! Reads PTX as nvcc writes it: one statement a line, one parameter a kernel, dynamic shared memory only.

use std::collections::HashMap;

/// A kernel's text.
pub(super) struct Entry<'a> {
    pub name: &'a str,
    /// Of its one parameter.
    pub parameter_bytes: usize,
    /// The largest block.
    pub threads: u32,
    /// Registers declared, by prefix: `%r` and how many.
    pub registers: Vec<(&'a str, u32)>,
    pub code: Vec<Instruction<'a>>,
    /// The instruction that a label stands before; the length of the code for one at its end.
    pub labels: HashMap<&'a str, usize>,
}

pub(super) struct Instruction<'a> {
    /// Counted from 1.
    pub line: u32,
    pub guard: Option<Guard<'a>>,
    /// With its suffixes.
    pub opcode: &'a str,
    pub operands: Vec<Operand<'a>>,
    /// The bytes of a load that are used, where not all are.
    pub used_bytes: Option<u32>,
}

/// An instruction runs in the lanes where this predicate holds, or where it does not.
#[derive(Clone, Copy)]
pub(super) struct Guard<'a> {
    pub predicate: &'a str,
    pub holds: bool,
}

#[derive(Debug, PartialEq)]
pub(super) enum Operand<'a> {
    /// A register, a label, or what stands for an address.
    Name(&'a str),
    /// A number's bits: negative ones in two's complement.
    Number(u64),
    Address {
        base: &'a str,
        offset: i64,
    },
    Vector(Vec<&'a str>),
    /// `first|second`.
    Pair(&'a str, &'a str),
}

/// The kernels of a file.
///
/// # Errors
/// What is not understood, with its line.
pub(super) fn parse(text: &str) -> Result<Vec<Entry<'_>>, String> {
    let mut entries: Vec<Entry<'_>> = vec![];
    let mut inside = false;
    let mut used_bytes = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.split("//").next().unwrap_or("").trim();
        let statement = line.trim_end_matches([';', ',', '(']).trim_end();
        let number = number as u32 + 1;
        let refuse = || format!("line {number} is not understood: {line}");
        let words: Vec<&str> = statement.split_whitespace().collect();
        match (&words[..], entries.last_mut()) {
            (
                []
                | [")"]
                | [
                    ".version" | ".target" | ".address_size" | ".minnctapersm",
                    ..,
                ],
                _,
            ) => {}
            // Dynamic shared memory: its bytes are the launch's.
            ([".extern", ".shared", .., "block_memory[]"], _) if !inside => {}
            ([".visible", ".entry", name], _) if !inside => entries.push(Entry {
                name,
                parameter_bytes: 0,
                threads: 0,
                registers: vec![],
                code: vec![],
                labels: HashMap::new(),
            }),
            ([".param", .., declared], Some(entry)) if !inside && entry.parameter_bytes == 0 => {
                let bytes = declared.strip_prefix(entry.name);
                let bytes = bytes.and_then(|rest| rest.strip_prefix("_param_0["));
                let bytes = bytes.and_then(|rest| rest.strip_suffix(']'));
                entry.parameter_bytes = bytes.and_then(|n| n.parse().ok()).ok_or_else(refuse)?;
            }
            ([".maxntid", threads, "1,", "1"], Some(entry)) if !inside => {
                let threads = threads.trim_end_matches(',').parse();
                entry.threads = threads.ok().ok_or_else(refuse)?;
            }
            (["{"], Some(_)) if !inside => inside = true,
            (["}"], Some(_)) if inside => inside = false,
            ([".reg", _, declared], Some(entry)) if inside => {
                let declared = declared.strip_suffix('>').and_then(|d| d.split_once('<'));
                let (prefix, count) = declared.ok_or_else(refuse)?;
                let count = count.parse().ok().ok_or_else(refuse)?;
                entry.registers.push((prefix, count));
            }
            ([".pragma", "\"nounroll\""], Some(_)) if inside => {}
            ([".pragma", "\"used_bytes_mask", mask], Some(_)) if inside => {
                let mask = mask.trim_end_matches('"').parse();
                used_bytes = Some(mask.ok().ok_or_else(refuse)?);
            }
            ([label], Some(entry)) if inside && label.ends_with(':') => {
                let at = entry.code.len();
                entry.labels.insert(label.trim_end_matches(':'), at);
            }
            ([first, ..], Some(entry)) if inside && !first.starts_with('.') => {
                let mut instruction = instruction(statement, number).ok_or_else(refuse)?;
                instruction.used_bytes = used_bytes.take();
                entry.code.push(instruction);
            }
            _ => return Err(refuse()),
        }
    }
    match inside {
        false => Ok(entries),
        true => Err("the text ends within a kernel".to_owned()),
    }
}

fn instruction(statement: &str, line: u32) -> Option<Instruction<'_>> {
    let (guard, rest) = match statement.strip_prefix('@') {
        None => (None, statement),
        Some(guarded) => {
            let (predicate, rest) = guarded.split_once(char::is_whitespace)?;
            let negated = predicate.strip_prefix('!');
            let guard = Guard {
                predicate: negated.unwrap_or(predicate),
                holds: negated.is_none(),
            };
            (Some(guard), rest.trim_start())
        }
    };
    let (opcode, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    Some(Instruction {
        line,
        guard,
        opcode,
        operands: operands(rest.trim())?,
        used_bytes: None,
    })
}

fn operands(mut text: &str) -> Option<Vec<Operand<'_>>> {
    let mut operands = vec![];
    while !text.is_empty() {
        let end = match text.starts_with('{') {
            true => text.find('}')? + 1,
            false => text.find(',').unwrap_or(text.len()),
        };
        operands.push(operand(text[..end].trim())?);
        text = text[end..].trim_start_matches([',', ' ']);
    }
    Some(operands)
}

fn operand(text: &str) -> Option<Operand<'_>> {
    if let Some(list) = text.strip_prefix('{') {
        let names = list.strip_suffix('}')?.split(',').map(str::trim);
        return Some(Operand::Vector(names.collect()));
    }
    if let Some(address) = text.strip_prefix('[') {
        let address = address.strip_suffix(']')?;
        let (base, offset) = address.split_once('+').unwrap_or((address, "0"));
        let offset = offset.parse().ok()?;
        return Some(Operand::Address { base, offset });
    }
    if let Some(bits) = text.strip_prefix("0f").or(text.strip_prefix("0d")) {
        return u64::from_str_radix(bits, 16).ok().map(Operand::Number);
    }
    if text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        let number = text.parse::<i64>().map(|n| n as u64).or(text.parse());
        return number.ok().map(Operand::Number);
    }
    if let Some((first, second)) = text.split_once('|') {
        return Some(Operand::Pair(first, second));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "%$_.".contains(c);
    (!text.is_empty() && text.chars().all(plain)).then_some(Operand::Name(text))
}
