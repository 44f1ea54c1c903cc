//! A manifest on standard input, whose pictures are worked on before its end is read.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use serde_json::Map;

use super::item::{Item, Place};
use super::manifest::{Entry, MAX_LINE, Names, read_line};

/// Number of lines that are read ahead.
const AHEAD: usize = 256;

/// How often a stream that waits for a line checks whether it was ended.
const PATIENCE: Duration = Duration::from_millis(50);

/// A `.jsonl` manifest that is read line by line; `file` is relative to the working folder.
///
/// A damaged line is a picture with the name `line 7` that fails when it is loaded; the others are not affected.
#[derive(Debug)]
pub struct Stream {
    lines: Mutex<Lines>,
    ended: AtomicBool,
    stop: fn() -> bool,
    refuse: Refuse,
}

/// Says why a file must not be read; `None` where it may.
type Refusal = dyn Fn(&Path) -> Option<String> + Send + Sync;

/// What says why a file must not be read.
struct Refuse(Box<Refusal>);

impl std::fmt::Debug for Refuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Refuse")
    }
}

#[derive(Debug)]
struct Lines {
    lines: Receiver<std::io::Result<Vec<u8>>>,
    number: usize,
    names: Names,
}

impl Stream {
    /// Starts to read on a thread of its own. When `stop` becomes true, no more pictures come. No thread waits for
    /// the reading thread to end, because it may wait forever for a line.
    pub fn new(reader: impl Read + Send + 'static, stop: fn() -> bool) -> Stream {
        let (sender, lines) = sync_channel(AHEAD);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            let mut next = || {
                let mut line = Vec::new();
                let more = read_line(&mut reader, &mut line);
                // The rest of a line that is too long is skipped.
                while line.len() >= MAX_LINE as usize && !line.ends_with(b"\n") {
                    let rest = match reader.fill_buf() {
                        Ok([]) => break,
                        Ok(rest) => rest,
                        Err(error) => return Some(Err(error)),
                    };
                    let end = rest.iter().position(|&byte| byte == b'\n');
                    let used = end.map_or(rest.len(), |end| end + 1);
                    reader.consume(used);
                    if end.is_some() {
                        break;
                    }
                }
                more.map(|more| more.then_some(line)).transpose()
            };
            while let Some(line) = next() {
                let last = line.is_err();
                if sender.send(line).is_err() || last {
                    break;
                }
            }
        });
        Stream {
            lines: Mutex::new(Lines {
                lines,
                number: 0,
                names: Names::default(),
            }),
            ended: AtomicBool::new(false),
            stop,
            refuse: Refuse(Box::new(|_| None)),
        }
    }

    /// The same, in which files fail of which `refuse` says why they must not be read.
    pub fn refusing(
        self,
        refuse: impl Fn(&Path) -> Option<String> + Send + Sync + 'static,
    ) -> Stream {
        Stream {
            refuse: Refuse(Box::new(refuse)),
            ..self
        }
    }

    /// Ends the stream: no more pictures come, and a thread that waits for one gets none at once.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// The pictures that have not been taken yet, as they come.
    pub fn items(&self) -> impl Iterator<Item = Item> + Send + '_ {
        std::iter::from_fn(|| self.next())
    }

    /// Waits for the next picture; `None` at the end.
    fn next(&self) -> Option<Item> {
        let mut lines = self.lines.lock().expect("no thread panics with the lines");
        while !(self.ended.load(Ordering::Relaxed) || (self.stop)()) {
            match lines.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    lines.number += 1;
                    match line {
                        Ok(line) if line.trim_ascii().is_empty() => {}
                        Ok(line) => return Some(self.allowed(lines.item(Entry::parse(&line)))),
                        Err(error) => {
                            let message = format!("cannot be read: {error}");
                            return Some(lines.item(Err(message)));
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        None
    }

    /// The picture, or in its place the reason why it must not be read.
    fn allowed(&self, item: Item) -> Item {
        match &item.place {
            Place::File(path) => match (self.refuse.0)(path) {
                Some(why) => Item {
                    place: Place::Unknown(why),
                    ..item
                },
                None => item,
            },
            _ => item,
        }
    }
}

impl Lines {
    /// The picture of the line that was read last.
    fn item(&mut self, entry: Result<Entry, String>) -> Item {
        let number = self.number;
        let entry = match entry {
            Ok(entry) => entry,
            Err(message) => {
                return Item {
                    id: format!("line {number}"),
                    label: None,
                    more: Map::new(),
                    place: Place::Unknown(format!("of standard input {message}")),
                };
            }
        };
        let again = self.names.again(&entry.file);
        let more = entry.more.and_then(|json| serde_json::from_str(&json).ok());
        Item {
            id: again.unwrap_or_else(|| entry.file.clone()),
            label: entry.label.map(|label| label as usize),
            more: more.unwrap_or_default(),
            place: Place::File(PathBuf::from(entry.file)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn pictures_come_before_the_end_and_damaged_lines_fail_alone() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let stream = Stream::new(reader, || false);
        let mut items = stream.items();
        writer
            .write_all(b"{\"file\":\"a/x.png\",\"label\":3,\"note\":1}\n\n")
            .unwrap();
        let item = items.next().unwrap();
        assert_eq!((item.id.as_str(), item.label), ("a/x.png", Some(3)));
        assert_eq!(item.more["note"], 1);
        writer.write_all(b"[1]\n{\"file\":\"a/x.png\"}\n").unwrap();
        let item = items.next().unwrap();
        assert_eq!(item.id, "line 3");
        let Place::Unknown(message) = item.place else {
            panic!("{item:?}");
        };
        assert!(message.contains("is no JSON object"), "{message}");
        assert_eq!(items.next().unwrap().id, "a/x~2.png");
        // A line without its end, and one that is too long.
        let mut long = vec![b'x'; 3 << 20];
        long.extend(b"\n{\"file\":\"b.png\"}");
        let writing = std::thread::spawn(move || writer.write_all(&long).unwrap());
        assert_eq!(items.next().unwrap().id, "line 5");
        assert_eq!(items.next().unwrap().id, "b.png");
        assert!(items.next().is_none());
        writing.join().unwrap();
    }

    #[test]
    fn a_stream_that_is_ended_waits_for_nothing() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let stream = Stream::new(reader, || false);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| stream.items().next().is_none());
            stream.end();
            assert!(waiting.join().unwrap());
        });
    }
}
