//! What ptxas said of the kernels, and what their launches ask for, held against the table in
//! `kernels/report.md`.

mod launches;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::{ARCHITECTURES, MODULES, NVCC};

/// Dynamic shared memory of a block at most, in bytes, on a chip of compute capability 9.0.
const SHARED_LIMIT: u32 = 227 * 1024;

/// What a kernel takes on one architecture.
#[derive(Debug, PartialEq)]
struct Use {
    registers: u32,
    /// Static shared memory, in bytes.
    shared: u32,
    /// Bytes of local memory: the stack, and spilled registers.
    local: u32,
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
fn parse(report: &str) -> BTreeMap<(String, String), Use> {
    let mut uses = BTreeMap::new();
    let (mut kernel, mut local) = (None, 0);
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let (name, rest) = rest.split_once('\'').expect("a name ends");
            let (_, architecture) = rest.split_once("for 'sm_").expect("an architecture");
            kernel = Some((
                name.to_owned(),
                architecture.trim_end_matches('\'').to_owned(),
            ));
        } else if let Some(stack) = before(line, " bytes stack frame") {
            let stores = before(line, " bytes spill stores").expect("spills are told");
            let loads = before(line, " bytes spill loads").expect("spills are told");
            local = stack + stores + loads;
        } else if let Some(registers) = before(line, " registers") {
            let used = Use {
                registers,
                shared: before(line, " bytes smem").unwrap_or(0),
                local,
            };
            uses.insert(kernel.take().expect("a kernel before its registers"), used);
        }
    }
    uses
}

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
    assert_eq!(parse(report), BTreeMap::from([(key, used)]));
}

/// Blocks that a multiprocessor of compute capability 9.0 holds at once, by its limits of blocks, warps,
/// registers and shared memory (CUDA C++ Programming Guide, "Compute Capabilities"), and the pieces in which
/// it gives them out (Nsight Compute's occupancy calculator): registers by 256 to a warp, of four warps at a
/// time; shared memory by 128 bytes, and 1 KiB more for each block.
fn blocks_of_a_multiprocessor(threads: u32, registers: u32, shared: u32) -> u32 {
    let warps = threads.div_ceil(32);
    let of_a_warp = (registers * 32).next_multiple_of(256);
    let with_registers = 65_536 / of_a_warp / 4 * 4 / warps;
    let with_shared = 228 * 1024 / (shared.next_multiple_of(128) + 1024);
    (64 / warps).min(32).min(with_registers).min(with_shared)
}

#[test]
fn blocks_side_by_side_are_bounded_by_what_they_take() {
    // By blocks, threads, registers and shared memory.
    assert_eq!(blocks_of_a_multiprocessor(32, 10, 0), 32);
    assert_eq!(blocks_of_a_multiprocessor(256, 32, 0), 8);
    assert_eq!(blocks_of_a_multiprocessor(256, 33, 0), 6);
    assert_eq!(blocks_of_a_multiprocessor(256, 255, 0), 1);
    assert_eq!(blocks_of_a_multiprocessor(256, 32, SHARED_LIMIT), 1);
    assert_eq!(blocks_of_a_multiprocessor(256, 32, 75 * 1024), 3);
    assert_eq!(blocks_of_a_multiprocessor(256, 32, 75 * 1024 + 1), 2);
}

#[test]
fn no_kernel_spills_and_the_table_is_what_compiler_and_launches_say() {
    let Some(nvcc) = NVCC else {
        println!("skipped: this build had no nvcc");
        return;
    };
    let architectures: Vec<&str> = ARCHITECTURES.split(',').map(str::trim).collect();
    let launches = launches::largest(SHARED_LIMIT).unwrap();
    let all = (MODULES.iter()).flat_map(|(_, kernels)| kernels.iter().map(|kernel| kernel.name));
    let left: Vec<_> = all.filter(|&name| !launches.contains_key(name)).collect();
    assert!(left.is_empty(), "not launched: {left:?}");
    let head = format!(
        "# What kernels take\n\n\
         - **threads**: the largest block.\n\
         - **sm_..**: registers of a thread, as ptxas of nvcc {nvcc} has it. No kernel spills registers, or \
         has arrays in local memory.\n\
         - **shared**: bytes of shared memory of a block, the most that a launch asks for where a block can \
         have {SHARED_LIMIT}: in the presets' networks (`tiles` and `cifar` at 32×32 pixels, `skip` and \
         `wide` at 224×224, with noise on their inputs; float32, and bf16 on tensor cores), in classifiers of \
         224×224 pixels and in smaller ones of every operation, in the image operations at 224×224. All of \
         it is dynamic; by ptxas no kernel has static shared memory. `resident_step` is `cifar`'s: the \
         smaller `tiles` is in `src/backend/cuda/dip/resident/plan.rs`.\n\
         - **blocks**: of so many threads and so much shared memory, on a multiprocessor of sm_90 at once, \
         by the published limits of \
         registers, shared memory, warps and blocks.\n\n\
         A test holds this table against compiler and launches; \
         `BACKSTITCH_WRITE_REPORT=1 cargo test kernels::report` writes it.\n\n\
         | kernel | threads | sm_{} | shared | blocks |\n| --- | --- |{} --- | --- |\n",
        architectures.join(" | sm_"),
        " --- |".repeat(architectures.len()),
    );
    let mut table = head.clone();
    for (module, kernels) in MODULES {
        let uses = parse(module.report);
        for kernel in *kernels {
            let name = kernel.name;
            let (threads, shared) = (kernel.threads, launches[name].shared);
            write!(table, "| `{name}` | {threads} |").unwrap();
            let mut blocks = String::new();
            for &architecture in &architectures {
                let key = (name.to_owned(), architecture.to_owned());
                let used = &uses[&key];
                assert_eq!(used.local, 0, "{key:?} uses local memory");
                assert_eq!(used.shared, 0, "{key:?}: shared memory is dynamic");
                write!(table, " {} |", used.registers).unwrap();
                if architecture == "90" {
                    blocks =
                        blocks_of_a_multiprocessor(threads, used.registers, shared).to_string();
                }
            }
            writeln!(table, " {shared} | {blocks} |").unwrap();
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/report.md");
    if std::env::var_os("BACKSTITCH_WRITE_REPORT").is_some() {
        std::fs::write(&path, table).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    // Another compiler, or other architectures: other numbers, and nothing to hold them against.
    if kept.starts_with(&head) {
        assert!(
            kept == table,
            "kernels/report.md is not what compiler and launches say; they say\n{table}"
        );
    } else {
        println!(
            "not compared: kernels/report.md is about another compiler or other architectures"
        );
    }
}
