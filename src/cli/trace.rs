//! `backstitch trace`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::defense::DefenseArgs;
use super::inputs::Inputs;
use super::model::Model;
use super::{Global, Outcome, device};
use crate::error::{Error, Result};
use crate::files::replace::{not_created, replace};
use crate::input::{Dataset, Layout};
use crate::purifier::{Classifier, OpenDevices};
use crate::trace::Trace;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The picture: an image file, or an array or a manifest of one picture
    #[arg(value_name = "IMAGE")]
    pub image: PathBuf,
    /// File with one class-folder name a line, in label order (a tab and a name to show may follow): a
    /// picture in such a folder gets its true label
    #[arg(long, value_name = "FILE")]
    pub classes: Option<PathBuf>,
    /// Order of an array's axes, where its shape leaves it open
    #[arg(long, value_enum)]
    pub layout: Option<Layout>,
    #[command(flatten)]
    pub model: Model,
    /// Folder for trace.svg, trace.png and trace.json
    #[arg(short, long, value_name = "OUT", help_heading = "Output")]
    pub output: PathBuf,
    /// Replace the trace that OUT holds
    #[arg(long, help_heading = "Output")]
    pub overwrite: bool,
    #[command(flatten)]
    pub defense: DefenseArgs,
}

/// The drawing, and the numbers behind it.
const FILES: [&str; 3] = ["trace.svg", "trace.png", "trace.json"];

/// Runs the defense on one picture and draws what it did.
pub(crate) fn run(args: &Args, global: &Global) -> Result<Outcome> {
    let outputs = global.outputs().files_in(&args.output, &FILES);
    let inputs = Inputs {
        inputs: vec![args.image.clone()],
        list: None,
        classes: args.classes.clone(),
        shard: None,
        layout: args.layout,
    };
    let dataset = inputs.open(&outputs, false)?;
    let classifier = args.model.open(&outputs)?;
    prepare(&args.output, args.overwrite)?;
    device::run(global, |devices| trace(args, &dataset, classifier, devices))
}

/// Makes the output folder, and refuses one that holds a trace already, or files of a trace's names that no
/// trace is.
fn prepare(folder: &Path, overwrite: bool) -> Result<()> {
    if folder.exists() && !folder.is_dir() {
        return Err(Error::file(folder, "is a file; -o takes a folder"));
    }
    let held = FILES.map(|name| folder.join(name));
    let held = held.iter().find(|path| path.exists());
    if let (true, Some(held)) = (overwrite, held)
        && !holds_trace(folder)
    {
        let stranger = "was not written by a trace that the folder holds whole; it stays";
        return Err(
            Error::file(held, stranger).hint("move it away, or give `output` another folder")
        );
    }
    if !overwrite && held.is_some() {
        return Err(Error::file(
            folder,
            "holds another trace; replace it with --overwrite, or name another folder",
        ));
    }
    std::fs::create_dir_all(folder).map_err(not_created(folder))
}

/// Whether a folder has the numbers of a trace, which are written last.
fn holds_trace(folder: &Path) -> bool {
    let text = std::fs::read(folder.join("trace.json")).unwrap_or_default();
    serde_json::from_slice(&text).is_ok_and(|trace: Value| trace["backstitch"].is_string())
}

fn trace(
    args: &Args,
    dataset: &Dataset,
    classifier: Classifier,
    devices: OpenDevices,
) -> Result<Outcome> {
    if dataset.len() != 1 {
        return Err(Error::file(
            &args.image,
            format!("has {} pictures; trace takes one", dataset.len()),
        ));
    }
    let item = dataset.item(0);
    let picture = dataset.load_for(classifier.preprocess(), classifier.classes(), &item)?;
    let devices = devices.only("trace")?;
    let mut purifier = args
        .defense
        .builder(classifier, devices, |options| {
            options.whole_maps = true;
        })?
        .pictures(1)
        .build()?;
    let purified = purifier.purify(&picture);
    let outcome = &purified.map_err(|error| error.about(&item.id))?.outcome;
    let trace = Trace {
        image: &item.id,
        picture: &picture,
        truth: item.label,
        outcome,
        classes: dataset.classes().map(|classes| &**classes),
    };
    let svg = trace.svg();
    let json = format!("{:#}\n", trace.json());
    let files = [
        svg.as_bytes(),
        #[cfg(feature = "draw")]
        &crate::trace::png(&svg)?,
        json.as_bytes(),
    ];
    for (name, bytes) in std::iter::zip(FILES, files) {
        replace(&args.output.join(name), bytes)?;
    }
    #[cfg(not(feature = "draw"))]
    super::messages::say(
        log::Level::Warn,
        "there is no trace.png: this build has not the feature draw",
    );
    super::print(&format!(
        "{}: {:?}, score {:.3}, {} -> {}",
        item.id.escape_debug(),
        outcome.verdict,
        outcome.score,
        outcome.input.label(),
        outcome.output.label()
    ))?;
    for name in FILES {
        super::print(&args.output.join(name).display().to_string())?;
    }
    Ok(Outcome::Done)
}
