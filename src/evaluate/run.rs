//! Running an evaluation: every picture through every case and every defence, a chunk at a time.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use rayon::prelude::*;

use super::attacked::{Subject, make};
use super::cell::{Answer, Cell, Excluded};
use super::defenses::{self, BACKSTITCH};
use super::journal::Journal;
use super::suite::{Case, Kind, NONE};
use crate::attack::adaptive::Defended;
use crate::attack::{Aim, Classifier, Loss, Victim};
use crate::backend::Backend;
use crate::baseline::{self, Baseline};
use crate::defense::{Defense, Outcome, Reading};
use crate::error::{Error, Result};
use crate::io::metrics::{psnr, ssim};
use crate::io::names::{OutputNames, id_of};
use crate::io::output::save_picture;
use crate::io::{Item, Picture, SaveFormat};

/// The folder of attacked pictures in the run folder.
pub const ATTACKED: &str = "attacked";

/// What an evaluation runs on a device.
pub struct Evaluator<'a, B: Backend> {
    /// With [`ablations`](crate::defense::Options::ablations).
    pub defense: Defense<'a, B>,
    /// The same classifier, for attacks and baselines.
    pub engine: B::Classifier,
    /// Images that it takes at a time.
    pub batch: usize,
    pub baselines: &'a [baseline::Method],
    pub cases: &'a [Case],
    /// Round attacked pictures and outputs to 8 bits.
    pub eight_bit: bool,
    /// Where attacked pictures are kept, by picture; `None` to keep none.
    pub keep: Option<OutputNames>,
    /// Pictures that are attacked together.
    pub chunk: usize,
}

/// What is told of a run while it goes on.
pub trait Watch {
    /// Whether the user wants to stop.
    fn stop(&self) -> bool;
    /// So many cells are done, or not needed.
    fn done(&self, cells: usize);
    /// A picture failed.
    fn failed(&self, error: &Error);
}

/// An attacked picture on its way through the defences.
struct Attacked<'s> {
    subject: &'s Subject,
    picture: Picture,
    seconds: f64,
}

/// A defence's output on its way to be judged.
struct Shown {
    name: String,
    pixels: Vec<f32>,
    reading: Reading,
    seconds: Option<f64>,
}

impl<B: Backend> Evaluator<'_, B> {
    /// Runs every open case of every picture.
    ///
    /// `load` reads a picture in the classifier's size. Pictures that fail are recorded as such; those
    /// that do not count, with the reason.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where the user stopped it; a failing device or disk. What is in the
    /// journal then is whole.
    pub fn run(
        &mut self,
        items: impl Iterator<Item = Item>,
        load: impl Fn(&Item) -> Result<Picture> + Sync,
        journal: &mut Journal,
        watch: &dyn Watch,
    ) -> Result<()> {
        let mut items = items.peekable();
        while items.peek().is_some() {
            let chunk: Vec<Item> = items.by_ref().take(self.chunk).collect();
            if watch.stop() {
                return Err(Error::Interrupted);
            }
            let pictures: Vec<Result<Picture>> = chunk.par_iter().map(&load).collect();
            let subjects = self.admit(chunk, pictures, journal, watch)?;
            for case in self.cases {
                let open: Vec<&Subject> = subjects
                    .iter()
                    .filter(|subject| !journal.has(&subject.id, &case.name))
                    .collect();
                self.case(case, &open, journal, watch)?;
            }
        }
        Ok(())
    }

    /// The classifier alone.
    fn classifier(&mut self) -> Result<Classifier<'_, B>> {
        Classifier::new(self.defense.backend(), &mut self.engine, self.batch)
    }

    /// The pictures that count.
    fn admit(
        &mut self,
        items: Vec<Item>,
        pictures: Vec<Result<Picture>>,
        journal: &mut Journal,
        watch: &dyn Watch,
    ) -> Result<Vec<Subject>> {
        let views: Vec<&[f32]> = pictures.iter().flatten().map(|p| &p.pixels[..]).collect();
        let mut readings = self.classifier()?.read(&views)?.into_iter();
        let mut subjects = Vec::new();
        for (item, picture) in items.into_iter().zip(pictures) {
            let judged = picture.and_then(|picture| {
                let reading = readings.next();
                let reading =
                    reading.ok_or_else(|| Error::Device("an answer is missing".into()))?;
                reading.check()?;
                Ok((picture, reading.label()))
            });
            let line = Cell {
                image: item.id.clone(),
                label: item.label,
                attack: Case::clean().name,
                ..Cell::default()
            };
            let excluded = match (judged, item.label) {
                (Err(error), _) => {
                    let error = error.about(&item.id);
                    journal.record(Cell {
                        error: Some(error.to_string()),
                        ..line
                    })?;
                    watch.failed(&error);
                    watch.done(self.cases.len().saturating_sub(1));
                    continue;
                }
                (Ok((picture, predicted)), Some(label)) if predicted == label => {
                    subjects.push(Subject {
                        id: item.id,
                        label,
                        picture,
                    });
                    continue;
                }
                (Ok((_, predicted)), Some(_)) => Excluded::WrongWhenClean { predicted },
                (Ok(_), None) => Excluded::NoLabel,
            };
            journal.record(Cell {
                excluded: Some(excluded),
                ..line
            })?;
            watch.done(self.cases.len());
        }
        Ok(subjects)
    }

    /// One case of a chunk.
    fn case(
        &mut self,
        case: &Case,
        subjects: &[&Subject],
        journal: &mut Journal,
        watch: &dyn Watch,
    ) -> Result<()> {
        if subjects.is_empty() {
            return Ok(());
        }
        let clock = Instant::now();
        let (stop, eight_bit) = (|| watch.stop(), self.eight_bit);
        let backend = self.defense.backend();
        let mut classifier = Classifier::new(backend, &mut self.engine, self.batch)?;
        let made = match &case.kind {
            Kind::Adaptive { through, .. } => {
                let mut victim = Defended::new(&mut self.defense, classifier, *through)?;
                make(&case.kind, subjects, eight_bit, &mut victim, &stop)?
            }
            _ => make(&case.kind, subjects, eight_bit, &mut classifier, &stop)?,
        };
        let seconds = clock.elapsed().as_secs_f64() / subjects.len() as f64;
        let of = subjects.iter().zip(made);
        let attacked: Vec<Attacked<'_>> = of
            .map(|(&subject, picture)| Attacked {
                subject,
                picture,
                seconds,
            })
            .collect();
        for batch in attacked.chunks(self.defense.places()) {
            if watch.stop() {
                return Err(Error::Interrupted);
            }
            let gradients = match case.kind {
                Kind::Clean => self.zero_gradients(batch)?.into_iter().map(Some).collect(),
                _ => vec![None; batch.len()],
            };
            let answered = self.defend(batch)?;
            for ((attacked, answered), zero_gradient) in batch.iter().zip(answered).zip(gradients) {
                let cell = Cell {
                    zero_gradient,
                    ..self.cell(case, attacked, answered, journal.folder())?
                };
                match &cell.error {
                    Some(error) => watch.failed(&Error::file(&cell.image, error)),
                    None => watch.done(1),
                }
                journal.record(cell)?;
            }
        }
        Ok(())
    }

    /// For each picture the share of values by which the loss does not change.
    fn zero_gradients(&mut self, batch: &[Attacked<'_>]) -> Result<Vec<f64>> {
        let images: Vec<&[f32]> = batch.iter().map(|a| &a.picture.pixels[..]).collect();
        let losses: Vec<Loss> = batch
            .iter()
            .map(|a| Loss::CrossEntropy(Aim::AwayFrom(a.subject.label)))
            .collect();
        let slopes = self.classifier()?.gradient(&images, &losses)?;
        let share = |gradient: &[f32]| {
            let zeros = gradient.iter().filter(|slope| **slope == 0.0).count();
            zeros as f64 / gradient.len().max(1) as f64
        };
        Ok(slopes.iter().map(|slope| share(&slope.gradient)).collect())
    }

    /// Every defence's output for every picture of a batch, and the whole defence's outcome.
    fn defend(&mut self, batch: &[Attacked<'_>]) -> Result<Vec<(Outcome, Vec<Shown>)>> {
        let pictures: Vec<&Picture> = batch.iter().map(|attacked| &attacked.picture).collect();
        let clock = Instant::now();
        let outcomes = self.defense.purify(&pictures)?;
        let seconds = clock.elapsed().as_secs_f64() / batch.len() as f64;

        let apply = |(picture, baseline): (&&Picture, &baseline::Method)| {
            let clock = Instant::now();
            let mut pixels = baseline.apply(picture)?;
            let seconds = clock.elapsed().as_secs_f64();
            // What is stored is what is judged; no defence stores nothing.
            if self.eight_bit && baseline.name() != NONE {
                for pixel in &mut pixels {
                    *pixel = (*pixel * 255.0).round() / 255.0;
                }
            }
            Ok((baseline.name(), pixels, seconds))
        };
        let jobs: Vec<_> = pictures
            .iter()
            .flat_map(|picture| {
                self.baselines
                    .iter()
                    .map(move |baseline| (picture, baseline))
            })
            .collect();
        let applied: Vec<(String, Vec<f32>, f64)> =
            jobs.into_par_iter().map(apply).collect::<Result<_>>()?;
        let views: Vec<&[f32]> = applied.iter().map(|(_, pixels, _)| &pixels[..]).collect();
        let readings = self.classifier()?.read(&views)?;

        let mut shown = applied.into_iter().zip(readings);
        Ok(outcomes
            .into_iter()
            .map(|mut outcome| {
                let mut all: Vec<Shown> = shown
                    .by_ref()
                    .take(self.baselines.len())
                    .map(|((name, pixels, seconds), reading)| Shown {
                        seconds: (name != NONE).then_some(seconds),
                        name,
                        pixels,
                        reading,
                    })
                    .collect();
                let ablations = defenses::ablations(&mut outcome);
                all.extend(ablations.into_iter().map(|(name, shown)| Shown {
                    name: name.into(),
                    pixels: shown.pixels,
                    reading: shown.reading,
                    seconds: None,
                }));
                all.push(Shown {
                    name: BACKSTITCH.into(),
                    pixels: std::mem::take(&mut outcome.pixels),
                    reading: outcome.output.clone(),
                    seconds: Some(seconds),
                });
                (outcome, all)
            })
            .collect())
    }

    /// The line of `cells.jsonl` of an attacked picture.
    fn cell(
        &self,
        case: &Case,
        attacked: &Attacked<'_>,
        (outcome, shown): (Outcome, Vec<Shown>),
        folder: &Path,
    ) -> Result<Cell> {
        let Attacked {
            subject,
            picture,
            seconds,
        } = attacked;
        let line = Cell {
            image: subject.id.clone(),
            label: Some(subject.label),
            attack: case.name.clone(),
            ..Cell::default()
        };
        if let Err(error) = outcome.input.check() {
            return Ok(Cell {
                error: Some(error.to_string()),
                ..line
            });
        }
        let clean = &subject.picture;
        let answer = |shown: Shown| {
            let psnr = psnr(&shown.pixels, &clean.pixels);
            let answer = Answer {
                label: shown.reading.label(),
                confidence: shown.reading.confidence(),
                psnr: psnr.is_finite().then_some(psnr),
                ssim: ssim(clean.shape, &shown.pixels, &clean.pixels),
                seconds: shown.seconds,
            };
            (shown.name, answer)
        };
        let answers: BTreeMap<String, Answer> = shown.into_par_iter().map(answer).collect();
        let change = || {
            let pixels = picture.pixels.iter().zip(&clean.pixels);
            pixels.map(|(a, b)| f64::from(*a) - f64::from(*b))
        };
        let is_attacked = !matches!(case.kind, Kind::Clean);
        Ok(Cell {
            linf: is_attacked.then(|| change().fold(0.0, |most: f64, x| most.max(x.abs()))),
            l2: is_attacked.then(|| change().map(|x| x * x).sum::<f64>().sqrt()),
            attack_seconds: case.is_attack().then_some(*seconds),
            saved: self.keep(case, attacked, folder)?,
            score: Some(outcome.score),
            verdict: Some(outcome.verdict),
            defenses: answers,
            ..line
        })
    }

    /// Stores an attacked picture, where that is wanted; gives its path in the run folder.
    fn keep(&self, case: &Case, attacked: &Attacked<'_>, folder: &Path) -> Result<Option<String>> {
        let (Some(names), false) = (&self.keep, matches!(case.kind, Kind::Clean)) else {
            return Ok(None);
        };
        let format = save_format(self.eight_bit);
        let name = Path::new(ATTACKED)
            .join(&case.name)
            .join(names.path(&attacked.subject.id));
        let picture = &attacked.picture;
        save_picture(folder, &name, format, picture.shape, &picture.pixels)?;
        Ok(Some(id_of(&name)))
    }
}

/// The form of attacked pictures that loses nothing.
pub fn save_format(eight_bit: bool) -> SaveFormat {
    match eight_bit {
        true => SaveFormat::Png,
        false => SaveFormat::Npy,
    }
}
