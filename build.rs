//! Compiles `kernels/*.cu`: for GPUs with nvcc, where there is one, and for the emulator with the host's
//! compiler. Writes `kernels.rs`, the table of all kernels, which `backend::cuda` includes.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// What machine code is made for, as far as nvcc knows it; `BACKSTITCH_CUDA_ARCHS` (such as `80,90`)
/// replaces the list.
const ARCHITECTURES: &str = "80,86,89,90,100,120";

/// Options of nvcc. Without contraction, results have the same bits everywhere. Spilled registers and arrays in
/// local memory are no errors here, for compilers differ: the test of `kernels/report.md` refuses them.
const NVCC_OPTIONS: &[&str] = &[
    "-fatbin",
    "-std=c++17",
    "-O3",
    "-fmad=false",
    "-Werror",
    "all-warnings",
    "-Xptxas",
    "-v",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=kernels");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let (mut table, mut modules) = (String::new(), String::new());
    let kernels = sources("kernels");
    let nvcc = if feature("CUDA") { find_nvcc() } else { None };
    for source in &kernels {
        let compiled = nvcc
            .as_ref()
            .map(|nvcc| compile_for_gpu(nvcc, source, &out));
        describe(source, compiled.as_deref(), "", &mut table);
        let module = stem(source);
        write!(modules, "(&{module}::MODULE, {module}::KERNELS), ")
            .expect("a string can be written");
    }
    for source in sources("kernels/emulator") {
        describe(
            &source,
            None,
            "#[cfg(feature = \"emulator\")]\n",
            &mut table,
        );
    }
    write!(
        table,
        "/// Every source file and the kernels in it.\n\
         pub const MODULES: &[(&Module, &[&Kernel])] = &[{modules}];\n\
         /// The compiler that made the machine code; `None` where there was none.\n\
         pub const NVCC: Option<&str> = {:?};\n\
         /// The architectures there is machine code for.\n\
         pub const ARCHITECTURES: &str = {:?};\n",
        nvcc.as_ref().map(|nvcc| &nvcc.version),
        nvcc.as_ref().map_or("", |nvcc| &nvcc.architectures),
    )
    .expect("a string can be written");
    #[cfg(feature = "emulator")]
    compile_for_host(&kernels, &mut table);
    fs::write(out.join("kernels.rs"), table).expect("OUT_DIR can be written");
}

fn feature(name: &str) -> bool {
    env::var_os(format!("CARGO_FEATURE_{name}")).is_some()
}

/// The files of a folder with an extension, in the order of their names.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{folder}: {e}"));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap_or_else(|e| panic!("{folder}: {e}")).path())
        .filter(|path| path.extension().is_some_and(|its| its == extension))
        .collect();
    files.sort();
    files
}

/// The kernel sources of a folder.
fn sources(folder: &str) -> Vec<PathBuf> {
    files(folder, "cu")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn stem(source: &Path) -> &str {
    source
        .file_stem()
        .and_then(|stem| stem.to_str())
        .expect("kernel files have plain names")
}

/// Adds a module of `kernels.rs`: what is in a source file, found by its `KERNEL` and `ARGUMENTS` lines.
fn describe(source: &Path, compiled: Option<&Path>, condition: &str, table: &mut String) {
    let text = read(source);
    let module = stem(source);
    let [mut kernels, mut names, mut layouts, mut externs] = [const { String::new() }; 4];
    for line in text.lines() {
        if let Some(parts) = call(line, "KERNEL(") {
            let [name, arguments, threads, ..] = parts[..] else {
                panic!(
                    "{}: KERNEL(name, Arguments, threads) in one line",
                    source.display()
                );
            };
            write!(names, "&{}, ", name.to_uppercase()).unwrap();
            writeln!(
                externs,
                "fn backstitch_kernel_{name}(arguments: *const c_void);"
            )
            .unwrap();
            write!(
                kernels,
                "pub static {}: Kernel = Kernel {{\n\
                 name: {name:?}, module: &MODULE, threads: {threads}, arguments: {arguments:?},\n\
                 #[cfg(feature = \"emulator\")]\n\
                 emulated: Emulated {{ entry: backstitch_kernel_{name}, fields: backstitch_arguments_{arguments} }},\n}};\n",
                name.to_uppercase(),
            )
            .unwrap();
        } else if let Some(rest) = line.strip_prefix("ARGUMENTS(") {
            let (name, _) = rest.split_once(',').expect("ARGUMENTS(Type, fields...)");
            writeln!(
                externs,
                "fn backstitch_arguments_{name}() -> *const RawField;"
            )
            .unwrap();
            write!(
                layouts,
                "({name:?}, backstitch_arguments_{name} as RawFields), "
            )
            .unwrap();
        }
    }
    let (fatbin, report, ptx) = match compiled {
        Some(fatbin) => (
            format!("Some(include_bytes!({fatbin:?}))"),
            format!("include_str!({:?})", fatbin.with_extension("txt")),
            format!("Some(include_str!({:?}))", fatbin.with_extension("ptx")),
        ),
        None => ("None".to_owned(), "\"\"".to_owned(), "None".to_owned()),
    };
    write!(
        table,
        "{condition}pub mod {module} {{\nuse super::*;\n\
         pub static MODULE: Module = Module {{\n\
         name: {module:?}, image: {fatbin}, report: {report},\n\
         #[cfg(feature = \"emulator\")]\n\
         ptx: {ptx},\n}};\n\
         {kernels}\
         pub const KERNELS: &[&Kernel] = &[{names}];\n\
         #[cfg(feature = \"emulator\")]\n\
         pub const LAYOUTS: &[(&str, RawFields)] = &[{layouts}];\n\
         #[cfg(feature = \"emulator\")]\n\
         unsafe extern \"C\" {{\n{externs}}}\n}}\n",
    )
    .unwrap();
}

/// The arguments of a macro that a line calls.
fn call<'a>(line: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let (arguments, _) = line.strip_prefix(name)?.split_once(')')?;
    Some(arguments.split(',').map(str::trim).collect())
}

struct Nvcc {
    path: PathBuf,
    /// As in `13.0.88`.
    version: String,
    /// What it compiles for.
    architectures: String,
}

/// Looks in `NVCC`, `CUDA_HOME`, `CUDA_PATH`, `PATH` and `/usr/local/cuda`, in this order.
fn find_nvcc() -> Option<Nvcc> {
    for name in [
        "NVCC",
        "CUDA_HOME",
        "CUDA_PATH",
        "BACKSTITCH_CUDA",
        "BACKSTITCH_CUDA_ARCHS",
    ] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
    let in_toolkit = |folder: PathBuf| folder.join("bin").join(&name);
    let in_path = || {
        let path = env::var_os("PATH").unwrap_or_default();
        let found: Vec<PathBuf> = env::split_paths(&path)
            .map(|folder| folder.join(&name))
            .collect();
        found.into_iter()
    };
    let setting = env::var("BACKSTITCH_CUDA").unwrap_or_default();
    if setting == "off" {
        return None;
    }
    let named = env::var_os("NVCC").map(PathBuf::from);
    let toolkits = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os);
    let found = named
        .into_iter()
        .chain(toolkits.map(|folder| in_toolkit(folder.into())))
        .chain(in_path())
        .chain([in_toolkit("/usr/local/cuda".into())])
        .find_map(|path| path.canonicalize().ok())
        .and_then(ask);
    match &found {
        Some(nvcc) => println!("cargo:rerun-if-changed={}", nvcc.path.display()),
        None if setting == "require" => panic!(
            "BACKSTITCH_CUDA=require, but there is no nvcc in NVCC, CUDA_HOME, CUDA_PATH, PATH or \
             /usr/local/cuda; scripts/install-nvcc.sh installs one"
        ),
        None => {
            println!("cargo:rerun-if-env-changed=PATH");
            println!(
                "cargo:warning=no nvcc in NVCC, CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda: this \
                 build will not run on GPUs (scripts/install-nvcc.sh installs nvcc)"
            );
        }
    }
    found
}

/// What nvcc says of itself.
fn ask(path: PathBuf) -> Option<Nvcc> {
    let say = |option| {
        let output = Command::new(&path).arg(option).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let text = say("--version")?;
    let version = text.split_once(", V")?.1.split_whitespace().next()?;
    let known = say("--list-gpu-code")?;
    let knows = |wanted: &&str| {
        known
            .lines()
            .any(|code| code.trim() == format!("sm_{wanted}"))
    };
    let architectures = env::var("BACKSTITCH_CUDA_ARCHS").unwrap_or_else(|_| {
        let known: Vec<&str> = ARCHITECTURES.split(',').filter(knows).collect();
        known.join(",")
    });
    Some(Nvcc {
        version: version.to_owned(),
        architectures,
        path,
    })
}

/// Compiles one source to a fatbin, with its PTX and what ptxas said of it beside; returns the fatbin's path.
/// What was compiled from the same text with the same compiler and options stays.
fn compile_for_gpu(nvcc: &Nvcc, source: &Path, out: &Path) -> PathBuf {
    let fatbin = out.join(stem(source)).with_extension("fatbin");
    let mut options: Vec<String> = NVCC_OPTIONS
        .iter()
        .map(|&option| option.to_owned())
        .collect();
    for architecture in nvcc.architectures.split(',').map(str::trim) {
        options.push(format!(
            "-gencode=arch=compute_{architecture},code=sm_{architecture}"
        ));
    }
    // Machine code is most of the program, and shrinks to a fifth. Drivers that run what nvcc 13 compiles unpack it;
    // older ones of CUDA 12 know only the faster form.
    let major = nvcc.version.split('.').next();
    if major.and_then(|major| major.parse().ok()) >= Some(13) {
        options.push("--compress-mode=size".to_owned());
    }
    // Chips that are not in the list compile this when they load it.
    options.push("-gencode=arch=compute_80,code=compute_80".to_owned());

    let mut hasher = DefaultHasher::new();
    (&nvcc.path, &nvcc.version, &options, read(source)).hash(&mut hasher);
    for header in files("kernels", "cuh") {
        read(&header).hash(&mut hasher);
    }
    let (stamp, hash) = (fatbin.with_extension("hash"), hasher.finish().to_string());
    if fatbin.exists()
        && fatbin.with_extension("ptx").exists()
        && fs::read_to_string(&stamp).is_ok_and(|old| old == hash)
    {
        return fatbin;
    }

    // nvcc makes the PTX in any case; with everything else on its way, it leaves it here.
    let steps = fatbin.with_extension("steps");
    let _ = fs::remove_dir_all(&steps);
    fs::create_dir_all(&steps).expect("OUT_DIR can be written");
    let output = Command::new(&nvcc.path)
        .args(&options)
        .arg("--keep")
        .arg("--keep-dir")
        .arg(&steps)
        .arg(format!(
            "--threads={}",
            env::var("NUM_JOBS").unwrap_or("1".to_owned())
        ))
        .arg("-o")
        .arg(&fatbin)
        .arg(source)
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}", nvcc.path.display()));
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(
        output.status.success(),
        "{} cannot compile {} (BACKSTITCH_CUDA=off builds without it):\n{said}",
        nvcc.path.display(),
        source.display(),
    );
    // Its name tells the architecture where there are several.
    let names = ["compute_80.ptx", "ptx"].map(|end| steps.join(format!("{}.{end}", stem(source))));
    let ptx = names.iter().find(|name| name.exists());
    fs::copy(
        ptx.expect("nvcc keeps its PTX"),
        fatbin.with_extension("ptx"),
    )
    .and_then(|_| fs::remove_dir_all(&steps))
    .and_then(|()| fs::write(fatbin.with_extension("txt"), &*said))
    .and_then(|()| fs::write(stamp, hash))
    .expect("OUT_DIR can be written");
    fatbin
}

/// The largest frame that a function of a kernel may have on the emulator, in bytes. Threads run there on
/// small stacks, and to overflow one would end the process; so what could is an error of the compiler.
/// Kernels do not recurse, and call few functions that are not inlined.
#[cfg(feature = "emulator")]
const LARGEST_FRAME: usize = 8 * 1024;

/// Compiles the kernels and the emulator's C++ with the host's compiler, and notes how.
#[cfg(feature = "emulator")]
fn compile_for_host(kernels: &[PathBuf], table: &mut String) {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++20")
        .include("kernels")
        .opt_level(3)
        .extra_warnings(true)
        .warnings_into_errors(true)
        // As nvcc does it: see NVCC_OPTIONS.
        .flag("-ffp-contract=off")
        .flag("-fno-math-errno")
        .flag("-fno-exceptions")
        .flag("-fno-rtti")
        .flag("-ftls-model=initial-exec")
        .flag(format!("-Wframe-larger-than={LARGEST_FRAME}"))
        .flag("-xc++");
    if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        // Fused multiply-adds in hardware; the emulator asks the processor for them.
        build.flag("-march=x86-64-v3");
    }
    let compiler = build.get_compiler().to_command();
    let command: Vec<_> = std::iter::once(compiler.get_program())
        .chain(compiler.get_args())
        .map(|part| part.to_string_lossy())
        .collect();
    write!(
        table,
        "/// The largest frame of a kernel's function on the emulator, in bytes.\n\
         pub const LARGEST_FRAME: usize = {LARGEST_FRAME};\n\
         /// What compiles the emulator's kernels.\n\
         #[cfg(test)]\n\
         pub const HOST_COMPILER: &[&str] = &{command:?};\n",
    )
    .expect("a string can be written");
    build
        .files(kernels)
        .files(sources("kernels/emulator"))
        .file("kernels/emulator/context.cpp")
        .compile("backstitch_emulator");
}
