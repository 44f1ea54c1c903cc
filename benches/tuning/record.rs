//! Records reconstructions for the tuning study (docs/tuning.md), so that rules of voting and judging can
//! be replayed on them without fitting networks again.
//!
//! `cargo run --release --example record -- OUT LIST [KEY=VALUE...]`, where LIST has a picture's path a
//! line, `ATTACK/CLASS/NAME.png` at its end. `OUT/ATTACK/NAME.f16` gets the reconstructions of every
//! restart at the iterations `keep`, as half-precision numbers of shape (restarts, iterations, 3, height,
//! width). Pictures already there are left out.

use std::error::Error;
use std::fs::{create_dir_all, read_to_string, rename, write};
use std::path::{Path, PathBuf};

use backstitch::backend::{At, Backend, ImageOps, cpu::CpuBackend};
use backstitch::defense::{ReconstructOptions, ReconstructionId, Reconstructions, reconstruct};
use backstitch::dip::Preset;
use backstitch::io::Picture;
use clap::ValueEnum;
use half::f16;

struct Options {
    reconstruct: ReconstructOptions,
    /// Iterations to keep.
    keep: Vec<u32>,
    /// Pictures at a time.
    together: usize,
}

impl Options {
    /// The `tiles` preset, or the one that a first setting names, with what `settings` change.
    fn parse(settings: impl Iterator<Item = String>) -> Result<Options, Box<dyn Error>> {
        let mut o = ReconstructOptions::preset(Preset::Tiles, 3);
        o.probe_interval = 100;
        let (mut keep, mut together) = (vec![400, 500, 600], 1);
        for setting in settings {
            let (key, value) = setting.split_once('=').ok_or("settings are KEY=VALUE")?;
            match key {
                "preset" => {
                    o = ReconstructOptions::preset(Preset::from_str(value, true)?, 3);
                    o.probe_interval = 50;
                }
                "restarts" => o.restarts = value.parse()?,
                "iterations" => o.iterations = value.parse()?,
                "tile" => o.tile = Some(value.parse()?),
                "learning_rate" => o.spec.learning_rate = value.parse()?,
                "jitter" => o.spec.jitter = value.parse()?,
                "channels" => {
                    let channels: Vec<usize> = list(value)?;
                    o.spec.skip = vec![0; channels.len()];
                    (o.spec.down, o.spec.up) = (channels.clone(), channels);
                }
                "keep" => keep = list(value)?,
                "together" => together = value.parse::<usize>()?.max(1),
                _ => return Err(format!("{key} is no setting").into()),
            }
        }
        let reconstruct = o;
        Ok(Options {
            reconstruct,
            keep,
            together,
        })
    }
}

fn list<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, T::Err> {
    text.split(',').map(str::parse).collect()
}

/// `OUT/ATTACK/NAME.f16` for `…/ATTACK/CLASS/NAME.png`.
fn target(out: &Path, picture: &Path) -> Option<PathBuf> {
    let attack = picture.ancestors().nth(2)?.file_name()?;
    let name = Path::new(picture.file_stem()?).with_extension("f16");
    Some(out.join(attack).join(name))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "record OUT LIST [KEY=VALUE...]";
    let out = PathBuf::from(args.next().ok_or(usage)?);
    let pictures = read_to_string(args.next().ok_or(usage)?)?;
    let Options {
        reconstruct: options,
        keep,
        together,
    } = Options::parse(args)?;

    let backend = CpuBackend::FLOAT32;
    let first = pictures.lines().next().ok_or("the list is empty")?;
    let shape = Picture::open(Path::new(first))?.shape;
    let mut reconstructions = Reconstructions::allocate(&backend, &options, shape, together)?;
    let grid = options.grids(shape)?[0];
    let instances = together * reconstructions.instances_of_an_image();
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
                let kept = |probe: &usize| keep.contains(&options.iteration(*probe));
                for probe in (0..options.probes()).filter(kept) {
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
