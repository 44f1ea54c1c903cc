//! `report.html`: a run's pictures on one page that needs no network and no other file.
//!
//! The file is a journal like `results.jsonl`: a head, then lines of one `<script>` each that add a picture or
//! the run's totals. It is therefore complete after every picture, needs no memory, and can be continued by a
//! resumed run: a later line for the same picture replaces the earlier one.

pub mod role;
#[cfg(test)]
pub(crate) mod test_outcome;
mod thumbnail;
pub mod trajectories;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};

pub use self::trajectories::Trajectories;
use crate::error::{Error, Result};
use crate::files::replace::write_error;
use crate::input::Classes;
use crate::run::record::ImageRecord;
use crate::run::{Counts, Pixels};

/// The most pictures that a report shows; a browser does not take millions.
pub const MAX_PICTURES: usize = 10_000;

/// What the difference of output and input is multiplied with to be seen.
const AMPLIFICATION: f32 = 8.0;

/// Everything before the first picture, but its style and its scripts.
const HEAD: &str = include_str!("page/head.html");
const STYLE: &str = include_str!("page/style.css");
const PLOT: &str = include_str!("page/plot.js");
const SCRIPT: &str = include_str!("page/script.js");

/// Fields of a record that the page does not show, or gets in a shorter form.
const LEFT_OUT: [&str; 5] = ["restarts", "consensus", "support", "output", "manifest"];

/// A report that pictures are added to.
///
/// Methods take `&self`: several threads may add pictures, and only their lines wait for each other.
#[derive(Debug)]
pub struct Report {
    path: PathBuf,
    /// Names for labels.
    classes: Option<Arc<Classes>>,
    page: Mutex<Page>,
}

#[derive(Debug)]
struct Page {
    file: File,
    pictures: usize,
}

impl Report {
    /// Starts a report, or goes on with the one that is there; a line that a crash tore is cut off.
    pub fn open(path: &Path, command: &str, classes: Option<Arc<Classes>>) -> Result<Report> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(Error::io(path))?;
        let head = HEAD
            .replace("{style}", STYLE)
            .replace("{plot}", PLOT)
            .replace("{script}", SCRIPT)
            .replace("{command}", command)
            .replace("{max}", &MAX_PICTURES.to_string())
            .replace("{amplification}", &AMPLIFICATION.to_string());
        let (end, pictures) = scan(&mut file, &head).map_err(Error::io(path))?;
        file.set_len(end).map_err(Error::io(path))?;
        file.seek(SeekFrom::End(0)).map_err(Error::io(path))?;
        if end == 0 {
            file.write_all(head.as_bytes()).map_err(write_error(path))?;
        }
        Ok(Report {
            path: path.to_owned(),
            classes,
            page: Mutex::new(Page { file, pictures }),
        })
    }

    /// Whether a file begins as a report of any run does, even one that a crash cut short.
    pub(super) fn wrote(path: &Path) -> bool {
        let head = HEAD.split("{command}").next().unwrap_or(HEAD).as_bytes();
        let mut start = Vec::new();
        let read =
            File::open(path).and_then(|file| file.take(head.len() as u64).read_to_end(&mut start));
        read.is_ok() && head.starts_with(&start)
    }

    /// Adds a picture; beyond [`MAX_PICTURES`] none.
    pub fn add(
        &self,
        record: &ImageRecord,
        pixels: Option<Pixels<'_>>,
        trajectories: Option<&Trajectories>,
    ) -> Result<()> {
        let full = |page: &Page| page.pictures >= MAX_PICTURES;
        if full(&self.page()) {
            return Ok(());
        }
        let mut picture = json!({ "result": compact(record), "names": self.names(record) });
        if let Some(trajectories) = trajectories {
            picture["trajectories"] = json!(trajectories);
        }
        if let Some(Pixels {
            shape,
            input,
            output,
        }) = pixels
        {
            let difference: Vec<f32> = output
                .iter()
                .zip(input)
                .map(|(output, input)| 0.5 + AMPLIFICATION * (output - input))
                .collect();
            let uri = |pixels: &[f32]| Value::from(thumbnail::data_uri(shape, pixels));
            picture["input"] = uri(input);
            picture["output"] = uri(output);
            picture["difference"] = uri(&difference);
        }
        let line = line("add", &picture);
        let mut page = self.page();
        if !full(&page) {
            page.file
                .write_all(line.as_bytes())
                .map_err(write_error(&self.path))?;
            page.pictures += 1;
        }
        Ok(())
    }

    /// Adds the pictures of another run's report, up to [`MAX_PICTURES`] in all.
    pub fn take_over(&self, other: &Path) -> Result<()> {
        let mut reader = BufReader::new(File::open(other).map_err(Error::io(other))?);
        let mut page = self.page();
        let mut line = Vec::new();
        while page.pictures < MAX_PICTURES {
            line.clear();
            let read = reader.read_until(b'\n', &mut line);
            if read.map_err(Error::io(other))? == 0 {
                break;
            }
            if line.starts_with(b"<script>add(") && line.ends_with(b"\n") {
                page.file
                    .write_all(&line)
                    .map_err(write_error(&self.path))?;
                page.pictures += 1;
            }
        }
        Ok(())
    }

    /// Writes the run's totals.
    pub fn total(&self, counts: Counts) -> Result<()> {
        let line = line("total", &json!(counts));
        self.page()
            .file
            .write_all(line.as_bytes())
            .map_err(write_error(&self.path))
    }

    fn page(&self) -> std::sync::MutexGuard<'_, Page> {
        self.page.lock().expect("no thread panics with the page")
    }

    /// The names of a record's labels, by label.
    fn names(&self, record: &ImageRecord) -> Map<String, Value> {
        let recovered = record.more.get("recovered_label").and_then(Value::as_u64);
        let labels = [
            record.label,
            record.input_label,
            record.output_label,
            recovered.map(|label| label as usize),
        ];
        let named = labels.into_iter().flatten().filter_map(|label| {
            let name = self.classes.as_ref()?.name(label)?;
            Some((label.to_string(), Value::from(name)))
        });
        named.collect()
    }
}

/// What the page shows of a record, numbers to four digits.
fn compact(record: &ImageRecord) -> Value {
    let mut fields = match json!(record) {
        Value::Object(fields) => fields,
        _ => unreachable!("a record is an object"),
    };
    fields.retain(|name, _| !LEFT_OUT.contains(&name.as_str()));
    for value in fields.values_mut() {
        if let Some(number) = value.as_f64().filter(|_| value.is_f64()) {
            *value = format!("{number:.3e}")
                .parse::<f64>()
                .map_or(Value::Null, Value::from);
        }
    }
    fields.into()
}

/// Where the last whole line of the report that is there ends, 0 where it does not start with `head`;
/// and how many pictures it has.
fn scan(file: &mut File, head: &str) -> std::io::Result<(u64, usize)> {
    let mut reader = BufReader::new(file);
    let (mut end, mut pictures) = (0, 0);
    let mut line = Vec::new();
    let mut lines = head.split_inclusive('\n');
    loop {
        line.clear();
        reader.read_until(b'\n', &mut line)?;
        match lines.next() {
            Some(wanted) if wanted.as_bytes() != line => return Ok((0, 0)),
            None if !line.ends_with(b"\n") => return Ok((end, pictures)),
            _ => {}
        }
        pictures += usize::from(line.starts_with(b"<script>add("));
        end += line.len() as u64;
    }
}

/// A line of the page that calls one of its functions.
fn line(function: &str, value: &Value) -> String {
    format!("<script>{function}({})</script>\n", script_safe(value))
}

/// JSON that can stand in a `<script>`: nothing in it can end the script or start markup.
fn script_safe(value: &Value) -> String {
    let mut safe = String::new();
    for c in value.to_string().chars() {
        match c {
            // Only strings have these, and there an escape means the same.
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                safe.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            _ => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::rgb;

    fn record(image: &str) -> ImageRecord {
        ImageRecord {
            image: image.into(),
            ..ImageRecord::default()
        }
    }

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn markup_in_names_stays_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        let report = Report::open(&path, "purify", None).unwrap();
        let head = read(&path).len();
        report
            .add(&record("</script><script>alert(1)//\u{2028}&"), None, None)
            .unwrap();
        let line = read(&path)[head..].to_owned();
        assert_eq!(line.matches("<script>").count(), 1);
        assert_eq!(line.matches("</script>").count(), 1);
        assert!(line.contains(r"\u003c/script\u003e\u003cscript\u003ealert(1)//\u2028\u0026"));
    }

    #[test]
    fn labels_have_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("classes.txt");
        std::fs::write(&list, "n1\ttench\nn2\t<b>\nn3\tshark\n").unwrap();
        let classes = Arc::new(Classes::open(&list).unwrap());
        let path = folder.path().join("report.html");
        let report = Report::open(&path, "purify", Some(classes)).unwrap();
        let record = ImageRecord {
            input_label: Some(1),
            output_label: Some(9),
            label: Some(0),
            ..record("a.png")
        };
        report.add(&record, None, None).unwrap();
        assert!(read(&path).contains(r#""names":{"0":"tench","1":"\u003cb\u003e"}"#));
    }

    #[test]
    fn a_report_goes_on_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        let report = Report::open(&path, "purify", None).unwrap();
        report.add(&record("a.png"), None, None).unwrap();
        let whole = read(&path);
        std::fs::write(&path, whole.clone() + "<script>add({\"resu").unwrap();
        let report = Report::open(&path, "purify", None).unwrap();
        assert_eq!(report.page().pictures, 1);
        assert_eq!(read(&path), whole);
        report.add(&record("b.png"), None, None).unwrap();
        report.total(Counts::default()).unwrap();
        let text = read(&path);
        assert!(text.starts_with(&whole));
        assert_eq!(text.matches("<script>add(").count(), 2);
        assert_eq!(text.matches("<script>total(").count(), 1);
        // Another command's report is not gone on with.
        Report::open(&path, "attack", None).unwrap();
        assert!(!read(&path).contains("<script>add("));
    }

    #[test]
    fn a_report_needs_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        let report = Report::open(&path, "purify", None).unwrap();
        let pixels = vec![0.25; 3 * 8 * 8];
        let pixels = Pixels {
            shape: rgb(8, 8),
            input: &pixels,
            output: &pixels,
        };
        report.add(&record("a.png"), Some(pixels), None).unwrap();
        let text = read(&path);
        assert_eq!(text.matches("data:image/png;base64,").count(), 3);
        for outside in ["http:", "https:", "src=\"", "href=", "@import", "url("] {
            assert!(!text.contains(outside), "{outside}");
        }
    }

    #[test]
    fn a_report_stays_small_enough_to_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        let report = Report::open(&path, "purify", None).unwrap();
        for i in 0..MAX_PICTURES + 5 {
            report.add(&record(&i.to_string()), None, None).unwrap();
        }
        assert_eq!(read(&path).matches("<script>add(").count(), MAX_PICTURES);
    }
}
