//! Records reconstructions for the tuning study (docs/tuning.md), so that rules of voting and judging can
//! be replayed on them without fitting networks again.
//!
//! `cargo run --release --example record -- OUT LIST --keep 400,500,600`, and the defense's options, where
//! LIST has a picture's path a line, `ATTACK/CLASS/NAME.png` at its end. `OUT/ATTACK/NAME.f16` gets the
//! reconstructions of every restart at the iterations to keep, as half-precision numbers of shape (restarts,
//! iterations, 3, height, width). Pictures already there are left out.

use std::error::Error;
use std::fs::{create_dir_all, read_to_string, rename, write};
use std::path::{Path, PathBuf};

use backstitch::backend::{At, Backend, ImageOps, cpu::CpuBackend};
use backstitch::cli::defense::DefenseArgs;
use backstitch::defense::{ReconstructionId, Reconstructions, reconstruct};
use backstitch::picture::Picture;
use clap::Parser;
use half::f16;

/// Records reconstructions of pictures.
#[derive(Parser)]
struct Args {
    /// Folder for the recordings
    out: PathBuf,
    /// File with a picture's path a line
    list: PathBuf,
    /// Iterations to keep: multiples of the probe interval
    #[arg(long, value_delimiter = ',', required = true)]
    keep: Vec<u32>,
    /// Pictures at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    together: u16,
    #[command(flatten)]
    defense: DefenseArgs,
}

/// `OUT/ATTACK/NAME.f16` for `…/ATTACK/CLASS/NAME.png`.
fn target(out: &Path, picture: &Path) -> Option<PathBuf> {
    let attack = picture.ancestors().nth(2)?.file_name()?;
    let name = Path::new(picture.file_stem()?).with_extension("f16");
    Some(out.join(attack).join(name))
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let (out, together) = (args.out, usize::from(args.together));
    let pictures = read_to_string(&args.list)?;
    let options = args.defense.options(3)?.reconstruct;
    let probed: Vec<u32> = (0..options.probes())
        .map(|probe| options.iteration(probe))
        .collect();
    if let Some(missing) = args.keep.iter().find(|&keep| !probed.contains(keep)) {
        return Err(format!("iteration {missing} is not probed; change --probe-interval").into());
    }
    let kept: Vec<usize> = (0..probed.len())
        .filter(|&probe| args.keep.contains(&probed[probe]))
        .collect();

    let backend = CpuBackend::FLOAT32;
    let first = pictures.lines().next().ok_or("the list is empty")?;
    let shape = Picture::open(Path::new(first))?.shape;
    let mut reconstructions = Reconstructions::allocate(&backend, &options, shape, together)?;
    let grid = options.grids(shape)?[0];
    let instances = together * reconstructions.instances_per_image();
    let mut dip = backend.dip(&options.spec, grid.tile_height, grid.tile_width, instances)?;
    let mut inputs = backend.allocate(shape, together)?;
    let mut image = backend.allocate(shape, 1)?;
    let mut missing = vec![];
    for path in pictures.lines().map(Path::new) {
        let target = target(&out, path).ok_or("paths end in ATTACK/CLASS/NAME.png")?;
        if !target.exists() {
            missing.push((path, target));
        }
    }
    for missing in missing.chunks(together) {
        let mut hashes = vec![];
        for (i, (path, _)) in missing.iter().enumerate() {
            let picture = Picture::open(path)?;
            backend.upload(&picture.pixels, &mut inputs, i)?;
            hashes.push(picture.hash());
        }
        let pictures = hashes.iter().enumerate();
        let pictures: Vec<_> = pictures
            .map(|(i, &hash)| (At::new(&inputs, i), hash))
            .collect();
        reconstruct(
            &backend,
            &mut dip,
            &options,
            &pictures,
            &mut reconstructions,
        )?;
        for (i, (_, target)) in missing.iter().enumerate() {
            let mut bytes = Vec::new();
            for path in options.paths().into_iter().take(options.restarts) {
                for &probe in &kept {
                    let id = ReconstructionId {
                        image: i,
                        path,
                        probe,
                    };
                    reconstructions.assemble(&backend, id, &mut image, 0)?;
                    for x in backend.download(At::new(&image, 0))? {
                        bytes.extend(f16::from_f32(x).to_le_bytes());
                    }
                }
            }
            create_dir_all(target.parent().ok_or("a folder")?)?;
            let unfinished = target.with_extension("unfinished");
            write(&unfinished, bytes)?;
            rename(unfinished, target)?;
            println!("{}", target.display());
        }
    }
    Ok(())
}
