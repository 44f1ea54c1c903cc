//! The command line, every option of which can be said in the environment too.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use backstitch::Device;
use backstitch::backend::Precision;
use backstitch::dip::Preset;
use bytesize::ByteSize;
use clap::{Arg, Parser};

/// Purifies pictures for other programs, over HTTP and gRPC on one port
#[derive(Clone, Debug, Parser)]
#[command(name = "backstitch-server", version, mut_args(with_variable))]
pub struct Options {
    /// A classifier to protect, and its name in requests; the first is the default of /purify and /classify
    #[arg(
        long = "model",
        value_name = "NAME=FILE",
        required = true,
        value_delimiter = ','
    )]
    pub models: Vec<NamedModel>,
    /// DIP networks to load for each model: tiles, cifar, skip, wide; the first is the default of requests
    #[arg(long = "preset", value_name = "PRESET", value_parser = preset, value_delimiter = ',', default_value = "tiles")]
    pub presets: Vec<Preset>,
    /// Adam steps a restart [default: the preset's]
    #[arg(long, value_name = "N")]
    pub iterations: Option<u32>,
    /// Adam steps between probes of the classifier [default: the preset's, at most all]
    #[arg(long, value_name = "N")]
    pub probe_interval: Option<u32>,
    /// Restarts a picture, each with its own seed [default: the preset's]
    #[arg(long, value_name = "N")]
    pub restarts: Option<usize>,
    /// Seed of the first restart, of requests that say none
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// auto, cpu, cuda, cuda:N, cuda:all; or several of one kind, with commas
    #[arg(long, default_value = "auto")]
    pub device: Device,
    /// What wide convolutions of DIP networks compute in: float32 or bf16
    #[arg(long, value_parser = precision, default_value = "float32")]
    pub precision: Precision,
    /// Memory that the models may take on the processor, in equal parts [default: what is free]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// DIP instances that run at once on each device [default: as many as it runs well]
    #[arg(long, value_name = "N")]
    pub capacity: Option<usize>,
    /// Pictures in flight on each device [default: as many as keep its instances busy]
    #[arg(long, value_name = "N")]
    pub pictures: Option<usize>,

    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// The port to listen on; 0 for any that is free
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// A file of keys, one a line, of which requests must show one: `Authorization: Bearer KEY`
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// The certificates to show, as PEM, for TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The first certificate's private key, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Pictures that are taken in at once, waiting or in flight
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub queue_pictures: usize,
    /// Bytes of request bodies that are held at once
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub queue_bytes: ByteSize,
    /// The largest body of a request, compressed or not
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub max_body: ByteSize,
    /// Pixels of the largest picture
    #[arg(long, value_name = "N", default_value_t = 16_777_216)]
    pub max_pixels: usize,
    /// Connections that are open at once; more wait
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_connections: usize,
    /// How long a request may take, from its headers to its response
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "600")]
    pub request_timeout: Duration,
    /// How long a request's headers, or a TLS handshake, may take
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "10")]
    pub header_timeout: Duration,
    /// How long a request's body may take
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "60")]
    pub body_timeout: Duration,

    /// Jobs that are kept, with their results
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub jobs: usize,
    /// How long a job may take, and how long its result is kept
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "3600")]
    pub job_time: Duration,

    /// How long to serve on after SIGTERM, not ready, so that load balancers notice
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "5")]
    pub drain_delay: Duration,
    /// How long what is in flight may then take
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "120")]
    pub drain_timeout: Duration,
    /// What is logged: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: tracing::Level,
}

/// An option that can be said in the environment too: `--max-body` as `BACKSTITCH_SERVER_MAX_BODY`.
fn with_variable(option: Arg) -> Arg {
    let name = option.get_long().unwrap_or_default();
    let name = name.to_uppercase().replace('-', "_");
    option.env(format!("BACKSTITCH_SERVER_{name}"))
}

/// A classifier and its name in requests.
#[derive(Clone, Debug)]
pub struct NamedModel {
    /// The name: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// The ONNX file.
    pub file: PathBuf,
}

impl FromStr for NamedModel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, file) = text.split_once('=').ok_or("write NAME=FILE")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || !name.chars().all(plain) {
            return Err("a name has letters, digits, -, _ and . only".into());
        }
        Ok(NamedModel {
            name: name.into(),
            file: file.into(),
        })
    }
}

/// The preset of this name.
///
/// # Errors
/// There is none.
pub fn preset(name: &str) -> Result<Preset, String> {
    let found = Preset::ALL.into_iter().find(|preset| preset.name() == name);
    found.ok_or_else(|| {
        let names = Preset::ALL.map(Preset::name);
        format!("the presets are {}", names.join(", "))
    })
}

fn precision(name: &str) -> Result<Precision, String> {
    match name {
        "float32" => Ok(Precision::Float32),
        "bf16" => Ok(Precision::Bf16),
        _ => Err("write float32 or bf16".into()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "write a number of seconds")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
