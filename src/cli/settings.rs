//! A purifier's settings by the names of the command line's options, for front ends in other languages: what
//! `purify` takes as `--probe-interval 20` is the setting `probe_interval` with the value `20`.

use std::ffi::OsString;
use std::path::Path;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Args, Command, FromArgMatches};

use super::defense::DefenseArgs;
use super::device::Place;
use super::model::Model;
use crate::defense::Options;
use crate::error::{Error, Result};
use crate::purifier::PurifierBuilder;
use crate::run::Outputs;

/// Everything that a purifier is made of.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub defense: DefenseArgs,
    #[command(flatten)]
    pub place: Place,
}

/// A setting's value, before it is read.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Whether a flag is set, or a word that is true or false.
    Bool(bool),
    /// A number or a word.
    Text(OsString),
    /// Several of them.
    List(Vec<String>),
}

impl Settings {
    /// The settings' names, in the order of the command line's help, without that of the classifier.
    pub fn names() -> Vec<String> {
        let command = command();
        let arguments = command.get_arguments().map(|arg| arg.get_id().as_str());
        let settings = arguments.filter(|name| *name != CLASSIFIER);
        settings.map(str::to_owned).collect()
    }

    /// Reads settings of a classifier's file; those that are not named keep the command line's defaults.
    ///
    /// # Errors
    /// A name that is no setting, or a value that it cannot have.
    pub fn read(
        classifier: &Path,
        values: impl IntoIterator<Item = (impl AsRef<str>, Value)>,
    ) -> Result<Settings> {
        let command = command();
        let mut line = vec![word(CLASSIFIER, classifier.as_os_str())];
        for (name, value) in values {
            let name = name.as_ref();
            let mut settings = command.get_arguments();
            let Some(arg) = settings.find(|arg| arg.get_id() == name && name != CLASSIFIER) else {
                return Err(Error::option(name, "is no setting"));
            };
            line.extend(words(arg, value)?);
        }
        let matches = command.try_get_matches_from(line).map_err(refused)?;
        Settings::from_arg_matches(&matches).map_err(refused)
    }

    /// The description of a purifier of these settings, on devices that are opened now; `adjust` changes its
    /// options.
    ///
    /// # Errors
    /// The classifier or a device cannot be used, or a number.
    pub fn builder(&self, adjust: impl FnOnce(&mut Options)) -> Result<PurifierBuilder> {
        let classifier = self.model.open(&Outputs::default())?;
        self.defense.builder(classifier, self.place.open()?, adjust)
    }
}

/// The name of the classifier's option.
const CLASSIFIER: &str = "classifier";

fn command() -> Command {
    Settings::augment_args(Command::new("settings"))
        .no_binary_name(true)
        .disable_help_flag(true)
}

/// The option `name` with a value, in one word, so that the value may start with a hyphen.
fn word(name: &str, value: impl AsRef<std::ffi::OsStr>) -> OsString {
    let mut word = OsString::from(format!("--{}=", name.replace('_', "-")));
    word.push(value);
    word
}

/// The words of the command line that give `arg` a value.
fn words(arg: &Arg, value: Value) -> Result<Option<OsString>> {
    let name = arg.get_id().as_str();
    Ok(match (value, arg.get_action()) {
        (Value::Bool(true), ArgAction::SetTrue) => {
            Some(format!("--{}", name.replace('_', "-")).into())
        }
        (Value::Bool(false), ArgAction::SetTrue) => None,
        (_, ArgAction::SetTrue) => return Err(Error::option(name, "must be true or false")),
        (Value::Bool(value), _) => Some(word(name, value.to_string())),
        (Value::Text(text), _) => Some(word(name, text)),
        (Value::List(items), _) => {
            let value_name = arg.get_value_names().and_then(|names| names.first());
            let separator = match value_name.map(|name| name.as_str()) {
                Some("HxW") => "x",
                _ => ",",
            };
            Some(word(name, items.join(separator)))
        }
    })
}

/// The error of a command line as one about a setting.
fn refused(error: clap::Error) -> Error {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        Some(ContextValue::StyledStr(text)) => Some(StyledStr::to_string(text)),
        _ => None,
    };
    // "--probe-interval <N>" is the setting probe_interval.
    let name = |text: String| {
        let word = text.split_whitespace().next().unwrap_or_default();
        word.trim_start_matches('-').replace('-', "_")
    };
    let setting = context(ContextKind::InvalidArg).map(name);
    let value = context(ContextKind::InvalidValue).unwrap_or_default();
    let source = std::error::Error::source(&error).map(ToString::to_string);
    match (setting, error.kind()) {
        (Some(setting), ErrorKind::InvalidValue | ErrorKind::ValueValidation) => {
            let why = source
                .or(context(ContextKind::ValidValue).map(|valid| format!("write one of {valid}")));
            let why = why.unwrap_or("it needs a value".into());
            Error::option(setting, format!("cannot be {value:?}: {why}"))
        }
        (Some(setting), ErrorKind::ArgumentConflict) => {
            let other = context(ContextKind::PriorArg).map(name).unwrap_or_default();
            Error::option(setting, "cannot be had with another setting")
                .hint(format!("leave out `{other}`"))
        }
        (Some(setting), ErrorKind::MissingRequiredArgument) => {
            Error::option(setting, "is needed by another setting")
        }
        _ => Error::invalid(error.kind().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[(&str, Value)]) -> Result<Settings> {
        Settings::read(Path::new("m.onnx"), values.iter().cloned())
    }

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    fn list(items: &[&str]) -> Value {
        Value::List(items.iter().map(|item| (*item).to_owned()).collect())
    }

    #[test]
    fn settings_are_the_options_of_the_command_line() {
        let settings = read(&[
            ("iterations", text("60")),
            ("shift", Value::Bool(false)),
            ("always", Value::Bool(true)),
            ("no_mirror", Value::Bool(false)),
            ("channels", list(&["8", "16"])),
            ("mean", list(&["-0.5", "0", "1"])),
            ("size", list(&["32", "48"])),
            ("memory", text("1GiB")),
            ("device", text("cpu,cpu")),
        ]);
        let Settings {
            model,
            defense,
            place,
        } = settings.unwrap();
        assert_eq!(model.classifier, Path::new("m.onnx"));
        assert_eq!(
            (defense.iterations, defense.shift, defense.always),
            (Some(60), Some(false), true)
        );
        assert!(!defense.no_mirror);
        assert_eq!(defense.channels, Some(vec![8, 16]));
        assert_eq!(model.preprocessing.mean, Some([-0.5, 0.0, 1.0]));
        let size = model.preprocessing.size.unwrap();
        assert_eq!((size.height, size.width), (32, 48));
        assert_eq!(place.memory, Some(1 << 30));
        assert_eq!(place.device, crate::purifier::Device::Cpu(2));
    }

    #[test]
    fn what_is_no_setting_is_refused_by_name() {
        for (settings, said) in [
            (vec![("iteration", text("1"))], "`iteration` is no setting"),
            (
                vec![("classifier", text("x"))],
                "`classifier` is no setting",
            ),
            (vec![("output", text("x"))], "`output` is no setting"),
            (
                vec![("iterations", text("x"))],
                "`iterations` cannot be \"x\"",
            ),
            (
                vec![("iterations", Value::Bool(true))],
                "`iterations` cannot be \"true\"",
            ),
            (
                vec![("iterations", text(""))],
                "`iterations` cannot be \"\"",
            ),
            (
                vec![("always", text("yes"))],
                "`always` must be true or false",
            ),
            (vec![("preset", text("x"))], "write one of tiles, cifar"),
            (vec![("size", text("x"))], "write HEIGHTxWIDTH"),
            (
                vec![("settled_margin", text("0.1"))],
                "`stop_early` is needed",
            ),
            (
                vec![("no_sidecar", Value::Bool(true)), ("sidecar", text("x"))],
                "leave out `",
            ),
        ] {
            let error = read(&settings).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn every_setting_is_an_option_of_purify() {
        use clap::CommandFactory;
        let program = super::super::Cli::command();
        let purify = program.find_subcommand("purify").unwrap();
        let options: Vec<_> = (purify.get_arguments().chain(program.get_arguments()))
            .map(|arg| arg.get_id().as_str())
            .collect();
        let names = Settings::names();
        assert!(names.len() > 40, "{names:?}");
        for name in names {
            assert!(options.contains(&&*name), "{name}");
        }
    }
}
