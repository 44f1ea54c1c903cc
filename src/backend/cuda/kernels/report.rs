//! What ptxas said of the kernels, and what their launches ask for, held against the table in
//! `kernels/report.md`.

mod launches;

use std::fmt::Write as _;
use std::path::Path;

use super::uses::uses;
use super::{ARCHITECTURES, MODULES, NVCC};
use crate::backend::cuda::model::Chip;

/// Dynamic shared memory of a block at most, in bytes, on a chip of compute capability 9.0.
const SHARED_LIMIT: u32 = 227 * 1024;

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
    let h100 = Chip::named("h100").expect("a chip of the model");
    let mut table = head.clone();
    for (module, kernels) in MODULES {
        let uses = uses(module.report);
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
                    blocks = h100.blocks(threads, used.registers, shared).to_string();
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
