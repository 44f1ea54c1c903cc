//! What kernels take of a multiprocessor, as ptxas said it.

use std::collections::BTreeMap;

/// What a kernel takes on one architecture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Use {
    pub registers: u32,
    /// Static shared memory, in bytes.
    pub shared: u32,
    /// Bytes of local memory: the stack, and spilled registers.
    pub local: u32,
}

/// The number before a word.
fn before(line: &str, word: &str) -> Option<u32> {
    line.split_once(word)?
        .0
        .split_whitespace()
        .last()?
        .parse()
        .ok()
}

/// By kernel and architecture.
pub(crate) fn uses(report: &str) -> BTreeMap<(String, String), Use> {
    let mut uses = BTreeMap::new();
    let (mut kernel, mut local) = (None, 0);
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let (name, rest) = rest.split_once('\'').unwrap_or((rest, ""));
            let architecture = rest.split_once("for 'sm_").map_or("", |(_, after)| after);
            kernel = Some((
                name.to_owned(),
                architecture.trim_end_matches('\'').to_owned(),
            ));
        } else if let Some(stack) = before(line, " bytes stack frame") {
            let spilled =
                ["stores", "loads"].map(|what| before(line, &format!(" bytes spill {what}")));
            local = stack + spilled.into_iter().flatten().sum::<u32>();
        } else if let (Some(registers), Some(kernel)) = (before(line, " registers"), &kernel) {
            let used = Use {
                registers,
                shared: before(line, " bytes smem").unwrap_or(0),
                local,
            };
            uses.insert(kernel.clone(), used);
        }
    }
    uses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read() {
        let report = "\
ptxas info    : Compiling entry function 'a' for 'sm_90'
ptxas info    : Function properties for a
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 30 registers, used 1 barriers, 64 bytes smem, 400 bytes cmem[0]
ptxas info    : Compile time = 14.875 ms";
        let used = Use {
            registers: 30,
            shared: 64,
            local: 24,
        };
        let key = ("a".to_owned(), "90".to_owned());
        assert_eq!(uses(report), BTreeMap::from([(key, used)]));
    }
}
