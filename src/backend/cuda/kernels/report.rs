//! What ptxas said of the kernels, held against the table in `kernels/report.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::{ARCHITECTURES, MODULES, NVCC};

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

#[test]
fn no_kernel_spills_and_the_table_is_what_the_compiler_says() {
    let Some(nvcc) = NVCC else {
        println!("skipped: this build had no nvcc");
        return;
    };
    let architectures: Vec<&str> = ARCHITECTURES.split(',').map(str::trim).collect();
    let mut table = format!(
        "# What kernels take\n\n\
         Registers of a thread, as ptxas of nvcc {nvcc} has it. No kernel spills registers, or has arrays in \
         local memory.\nA test holds this table against the compiler; \
         `BACKSTITCH_WRITE_REPORT=1 cargo test kernels::report` writes it.\n\n\
         | kernel | threads | sm_{} |\n| --- | --- |{}\n",
        architectures.join(" | sm_"),
        " --- |".repeat(architectures.len()),
    );
    for (module, kernels) in MODULES {
        let uses = parse(module.report);
        for kernel in *kernels {
            write!(table, "| `{}` | {} |", kernel.name, kernel.threads).unwrap();
            for &architecture in &architectures {
                let key = (kernel.name.to_owned(), architecture.to_owned());
                let used = &uses[&key];
                assert_eq!(used.local, 0, "{key:?} uses local memory");
                assert_eq!(used.shared, 0, "{key:?}: shared memory is dynamic");
                write!(table, " {} |", used.registers).unwrap();
            }
            table.push('\n');
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/report.md");
    if std::env::var_os("BACKSTITCH_WRITE_REPORT").is_some() {
        std::fs::write(&path, table).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    // Another compiler, or other architectures: other numbers, and nothing to hold them against.
    let head = |table: &str| table.lines().take(7).collect::<Vec<_>>().join("\n");
    if head(&kept) == head(&table) {
        assert!(
            kept == table,
            "kernels/report.md is not what the compiler says; it says\n{table}"
        );
    } else {
        println!(
            "not compared: kernels/report.md is about another compiler or other architectures"
        );
    }
}
