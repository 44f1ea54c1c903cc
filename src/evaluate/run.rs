//! Running an evaluation: every picture through every case and every defense, a chunk at a time.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rayon::prelude::*;

use super::attacked::make;
use super::case::{Case, CaseKind};
use super::cell::{Answer, Cell, Excluded};
use super::defenses;
use super::journal::Journal;
use super::pictures::{Entry, Given, Load};
use super::row::{BACKSTITCH, NONE};
use crate::attack::adaptive::Defended;
use crate::attack::{Aim, Classifier, Loss, Victim};
use crate::baseline::{self, Baseline};
use crate::defense::{DeviceDefense, Outcome, Reading};
use crate::error::{Error, Result};
use crate::input::names::id_of;
use crate::picture::Picture;
use crate::picture::{psnr, ssim};
use crate::run::names::OutputNames;
use crate::run::{ATTACKED, SaveFormat, save_picture};

/// What an evaluation runs on a device.
pub struct Evaluator<'a> {
    /// The whole defense, with the option [`ablations`](crate::defense::Options::ablations).
    pub defense: &'a mut dyn DeviceDefense,
    /// Baselines to compare with.
    pub baselines: &'a [baseline::Method],
    /// The attacks, the clean pictures first.
    pub cases: &'a [Case],
    /// Round attacked pictures and outputs to 8 bits.
    pub eight_bit: bool,
    /// Where attacked pictures are kept, by picture; `None` to keep none.
    pub keep: Option<OutputNames>,
    /// Pictures that are attacked together.
    pub chunk: usize,
}

/// Gets the progress of a run, and may stop it.
pub trait Watch {
    /// Whether the user wants to stop.
    fn stop(&self) -> bool;
    /// `cells` more cells are done, or turned out not to be needed.
    fn done(&self, cells: usize);
    /// A picture failed.
    fn failed(&self, error: &Error);
}

/// A picture that counts: the classifier labels it correctly when it is clean, or its clean version is not
/// known.
struct Subject {
    entry: Entry,
    label: usize,
    /// The clean picture; `None` if only attacked versions are known.
    clean: Option<Picture>,
}

/// An attacked picture that the defenses are tried on.
struct Attacked<'s> {
    subject: &'s Subject,
    /// The clean picture, if it is known.
    clean: Option<Cow<'s, Picture>>,
    picture: Picture,
    /// Seconds that the attack took, if it was made here.
    seconds: Option<f64>,
}

/// What is known of a picture before any attack.
struct Known {
    label: Option<usize>,
    clean: Option<Picture>,
}

/// Reads a picture and its true label from the data set or, if the data set does not have it, from its first
/// attacked version.
fn read_known(entry: &Entry, load: &dyn Load) -> Result<Known> {
    match (&entry.item, entry.given.first()) {
        (Some(item), _) => Ok(Known {
            label: item.label,
            clean: Some(load.item(item)?),
        }),
        (None, Some(given)) => {
            let attacked = load.given(given)?;
            Ok(Known {
                label: Some(attacked.label),
                clean: attacked.clean,
            })
        }
        (None, None) => Err(Error::invalid("is in no input")),
    }
}

/// The subjects' versions that others attacked; those that cannot be read are recorded as failed.
fn take_given<'s>(
    case: &Case,
    subjects: &[&'s Subject],
    load: &dyn Load,
    journal: &mut Journal,
    watch: &dyn Watch,
) -> Result<Vec<Attacked<'s>>> {
    let mut attacked = Vec::new();
    for &subject in subjects {
        let all = &subject.entry.given;
        let Some(given) = all.iter().find(|given| given.case == case.name) else {
            continue;
        };
        match read_given(subject, given, load) {
            Ok(read) => attacked.push(read),
            Err(error) => {
                let error = error.about(&subject.entry.id);
                watch.failed(&error);
                journal.record(Cell {
                    image: subject.entry.id.clone(),
                    label: Some(subject.label),
                    attack: case.name.clone(),
                    error: Some(error.to_string()),
                    ..Cell::default()
                })?;
            }
        }
    }
    Ok(attacked)
}

fn read_given<'s>(subject: &'s Subject, given: &Given, load: &dyn Load) -> Result<Attacked<'s>> {
    let read = load.given(given)?;
    if read.label != subject.label {
        return Err(Error::invalid(format!(
            "has label {} in one input and {} in another",
            subject.label, read.label
        )));
    }
    let own = read.clean.map(Cow::Owned);
    Ok(Attacked {
        subject,
        clean: own.or(subject.clean.as_ref().map(Cow::Borrowed)),
        picture: read.adversarial,
        seconds: None,
    })
}

/// A defense's output and its reading.
struct Shown {
    name: String,
    pixels: Vec<f32>,
    reading: Reading,
    seconds: Option<f64>,
}

impl Evaluator<'_> {
    /// Runs every case of every picture that the journal does not have yet.
    ///
    /// Pictures that fail are recorded as failed, and pictures that do not count with the reason.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the user stopped it; a failing device or disk. The journal is whole in any
    /// case.
    pub fn run(
        &mut self,
        entries: Vec<Entry>,
        load: &dyn Load,
        journal: &mut Journal,
        watch: &dyn Watch,
    ) -> Result<()> {
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let chunk: Vec<Entry> = entries.by_ref().take(self.chunk).collect();
            if watch.stop() {
                return Err(Error::Interrupted);
            }
            let subjects = self.admit(chunk, load, journal, watch)?;
            for case in self.cases {
                let open: Vec<&Subject> = subjects
                    .iter()
                    .filter(|s| s.entry.has(case) && !journal.has(&s.entry.id, &case.name))
                    .collect();
                self.case(case, &open, load, journal, watch)?;
            }
        }
        Ok(())
    }

    /// The classifier alone.
    fn classifier(&mut self) -> Classifier<'_> {
        Classifier::new(self.defense.oracle_mut())
    }

    /// The pictures that count.
    fn admit(
        &mut self,
        entries: Vec<Entry>,
        load: &dyn Load,
        journal: &mut Journal,
        watch: &dyn Watch,
    ) -> Result<Vec<Subject>> {
        let known: Vec<Result<Known>> = entries
            .par_iter()
            .map(|entry| read_known(entry, load))
            .collect();
        let clean = known
            .iter()
            .flatten()
            .filter_map(|known| known.clean.as_ref());
        let views: Vec<&[f32]> = clean.map(|picture| &picture.pixels[..]).collect();
        let mut readings = self.classifier().read(&views)?.into_iter();
        let mut subjects = Vec::new();
        for (entry, known) in entries.into_iter().zip(known) {
            let open = |case: &&Case| entry.has(case) && !journal.has(&entry.id, &case.name);
            let cells = self.cases.iter().filter(open).count();
            let label = match &known {
                Ok(known) => known.label,
                Err(_) => entry.item.as_ref().and_then(|item| item.label),
            };
            let line = Cell {
                image: entry.id.clone(),
                label,
                attack: Case::clean().name,
                ..Cell::default()
            };
            let judged = known.and_then(|known| {
                let reading = known.clean.as_ref().and_then(|_| readings.next());
                if let Some(reading) = &reading {
                    reading.check()?;
                }
                self.check_label(known.label)?;
                Ok((known, reading.map(|reading| reading.label())))
            });
            let (excluded, error) = match judged {
                Err(error) => (None, Some(error.about(&entry.id))),
                Ok((Known { label: None, .. }, _)) => (Some(Excluded::NoLabel), None),
                Ok((
                    Known {
                        label: Some(label), ..
                    },
                    Some(predicted),
                )) if predicted != label => (Some(Excluded::WrongWhenClean { predicted }), None),
                Ok((
                    Known {
                        label: Some(label),
                        clean,
                    },
                    _,
                )) => {
                    if clean.is_none() && !journal.has(&entry.id, &line.attack) {
                        journal.record(line)?;
                        watch.done(1);
                    }
                    subjects.push(Subject {
                        entry,
                        label,
                        clean,
                    });
                    continue;
                }
            };
            match &error {
                Some(error) => {
                    watch.failed(error);
                    watch.done(cells.saturating_sub(1));
                }
                None => watch.done(cells),
            }
            journal.record(Cell {
                excluded,
                error: error.map(|error| error.to_string()),
                ..line
            })?;
        }
        Ok(subjects)
    }

    /// Refuses a label that the classifier does not have.
    fn check_label(&self, label: Option<usize>) -> Result<()> {
        let classes = self.defense.oracle().classes();
        match label {
            Some(label) if label >= classes => Err(Error::invalid(format!(
                "has label {label}; the classifier has {classes} classes, from 0 on"
            ))),
            _ => Ok(()),
        }
    }

    /// One case of a chunk.
    fn case(
        &mut self,
        case: &Case,
        subjects: &[&Subject],
        load: &dyn Load,
        journal: &mut Journal,
        watch: &dyn Watch,
    ) -> Result<()> {
        if subjects.is_empty() {
            return Ok(());
        }
        let attacked = match case.is_given() {
            true => take_given(case, subjects, load, journal, watch)?,
            false => self.attack(case, subjects, watch)?,
        };
        for batch in attacked.chunks(self.defense.places()) {
            if watch.stop() {
                return Err(Error::Interrupted);
            }
            let gradients = match case.kind {
                CaseKind::Clean => self.zero_gradients(batch)?.into_iter().map(Some).collect(),
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

    /// Attacks the subjects by a case of this program.
    fn attack<'s>(
        &mut self,
        case: &Case,
        subjects: &[&'s Subject],
        watch: &dyn Watch,
    ) -> Result<Vec<Attacked<'s>>> {
        let clock = Instant::now();
        // A subject without a clean picture has only cases that others made.
        let subjects: Vec<(&Subject, &Picture)> = subjects
            .iter()
            .filter_map(|&subject| Some((subject, subject.clean.as_ref()?)))
            .collect();
        let pictures: Vec<Picture> = subjects.iter().map(|(_, clean)| (*clean).clone()).collect();
        let labels: Vec<Option<usize>> = subjects.iter().map(|(s, _)| Some(s.label)).collect();
        let (stop, eight_bit) = (|| watch.stop(), self.eight_bit);
        let made = match &case.kind {
            CaseKind::Adaptive { through, .. } => {
                let mut victim = Defended::new(self.defense, *through)?;
                make(
                    &case.kind,
                    &pictures,
                    &labels,
                    eight_bit,
                    &mut victim,
                    &stop,
                )?
            }
            kind => {
                let mut classifier = self.classifier();
                make(kind, &pictures, &labels, eight_bit, &mut classifier, &stop)?
            }
        };
        let seconds = clock.elapsed().as_secs_f64() / subjects.len().max(1) as f64;
        let of = subjects.into_iter().zip(made);
        Ok(of
            .map(|((subject, clean), picture)| Attacked {
                subject,
                clean: Some(Cow::Borrowed(clean)),
                picture,
                seconds: case.is_attack().then_some(seconds),
            })
            .collect())
    }

    /// For each picture the share of values by which the derivative of the loss is zero.
    fn zero_gradients(&mut self, batch: &[Attacked<'_>]) -> Result<Vec<f64>> {
        let images: Vec<&[f32]> = batch.iter().map(|a| &a.picture.pixels[..]).collect();
        let losses: Vec<Loss> = batch
            .iter()
            .map(|a| Loss::CrossEntropy(Aim::AwayFrom(a.subject.label)))
            .collect();
        let slopes = self.classifier().gradient(&images, &losses)?;
        let share = |gradient: &[f32]| {
            let zeros = gradient.iter().filter(|slope| **slope == 0.0).count();
            zeros as f64 / gradient.len().max(1) as f64
        };
        Ok(slopes.iter().map(|slope| share(&slope.gradient)).collect())
    }

    /// Every defense's output for every picture of a batch, and the whole defense's outcome.
    fn defend(&mut self, batch: &[Attacked<'_>]) -> Result<Vec<(Outcome, Vec<Shown>)>> {
        let pictures: Vec<&Picture> = batch.iter().map(|attacked| &attacked.picture).collect();
        let clock = Instant::now();
        let outcomes = self.defense.purify(&pictures)?;
        let seconds = clock.elapsed().as_secs_f64() / batch.len() as f64;

        let apply = |(picture, baseline): (&&Picture, &baseline::Method)| {
            let clock = Instant::now();
            let mut pixels = baseline.apply(picture)?;
            let seconds = clock.elapsed().as_secs_f64();
            // An output is rounded as it is stored, before it is classified; without a defense nothing is stored.
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
        let readings = self.classifier().read(&views)?;

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

    /// The line of `cells.jsonl` for an attacked picture.
    fn cell(
        &self,
        case: &Case,
        attacked: &Attacked<'_>,
        (outcome, shown): (Outcome, Vec<Shown>),
        folder: &Path,
    ) -> Result<Cell> {
        let Attacked {
            subject,
            clean,
            picture,
            seconds,
        } = attacked;
        let line = Cell {
            image: subject.entry.id.clone(),
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
        let clean = clean.as_deref();
        let answer = |shown: Shown| {
            let psnr = clean.map(|clean| psnr(&shown.pixels, &clean.pixels));
            let answer = Answer {
                label: shown.reading.label(),
                confidence: shown.reading.confidence(),
                psnr: psnr.filter(|psnr| psnr.is_finite()),
                ssim: clean.map(|clean| ssim(clean.shape, &shown.pixels, &clean.pixels)),
                seconds: shown.seconds,
            };
            (shown.name, answer)
        };
        let answers: BTreeMap<String, Answer> = shown.into_par_iter().map(answer).collect();
        let change = match (clean, case.is_clean()) {
            (Some(clean), false) => Some(change(&picture.pixels, &clean.pixels)),
            _ => None,
        };
        Ok(Cell {
            linf: change.map(|[linf, _]| linf),
            l2: change.map(|[_, l2]| l2),
            attack_seconds: *seconds,
            saved: self.keep(case, attacked, folder)?,
            score: Some(outcome.score),
            verdict: Some(outcome.verdict),
            defenses: answers,
            ..line
        })
    }

    /// Stores an attacked picture, if that is wanted; gives its path in the run folder.
    fn keep(&self, case: &Case, attacked: &Attacked<'_>, folder: &Path) -> Result<Option<String>> {
        let (Some(names), false) = (&self.keep, case.is_given()) else {
            return Ok(None);
        };
        let format = save_format(self.eight_bit);
        let name = kept_name(names, &attacked.subject.entry.id, case);
        let picture = &attacked.picture;
        save_picture(folder, &name, format, picture.shape, &picture.pixels)?;
        Ok(Some(id_of(&name)))
    }
}

/// Where a picture's version of a case is kept, in the run folder.
pub fn kept_name(names: &OutputNames, id: &str, case: &Case) -> PathBuf {
    Path::new(ATTACKED).join(&case.name).join(names.path(id))
}

/// The largest change of a value, and the Euclidean length of the change.
fn change(attacked: &[f32], clean: &[f32]) -> [f64; 2] {
    let pixels = attacked.iter().zip(clean);
    let change = || pixels.clone().map(|(a, b)| f64::from(*a) - f64::from(*b));
    [
        change().fold(0.0, |most: f64, x| most.max(x.abs())),
        change().map(|x| x * x).sum::<f64>().sqrt(),
    ]
}

/// The format that stores attacked pictures without loss.
pub fn save_format(eight_bit: bool) -> SaveFormat {
    match eight_bit {
        true => SaveFormat::Png,
        false => SaveFormat::Npy,
    }
}
