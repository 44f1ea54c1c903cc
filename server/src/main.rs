//! `backstitch-server`: starts the service, and ends it when it is told to.

use std::process::ExitCode;

use backstitch_server::life::Server;
use backstitch_server::options::Options;
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::prelude::*;

fn main() -> ExitCode {
    #[cfg(feature = "faults")]
    let _faults = fail::FailScenario::setup();
    let options = Options::parse();
    tracing_subscriber::registry()
        .with(tracing_subscriber::filter::LevelFilter::from_level(
            options.log,
        ))
        .with(
            tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(std::io::stderr),
        )
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("no threads for connections: {error}")),
    };
    let code = runtime.block_on(run(options));
    // The devices' threads end with the process.
    runtime.shutdown_background();
    code
}

/// Serves until a signal comes. A second one ends the process at once.
async fn run(options: Options) -> ExitCode {
    let signals = signal(SignalKind::terminate())
        .and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    let (mut term, mut int) = match signals {
        Ok(signals) => signals,
        Err(error) => return failed(&format!("no signals: {error}")),
    };
    let mut server = match Server::start(options).await {
        Ok(server) => server,
        Err(error) => return failed(&error.to_string()),
    };
    tracing::info!(address = %server.address, "listening");
    tokio::select! {
        loaded = server.loaded() => match loaded {
            Ok(()) => tracing::info!("ready"),
            Err(error) => return failed(&error.to_string()),
        },
        () = either(&mut term, &mut int) => return ExitCode::SUCCESS,
    }
    either(&mut term, &mut int).await;
    tracing::info!("draining");
    tokio::select! {
        finished = server.drain() => match finished {
            true => ExitCode::SUCCESS,
            false => failed("the drain timeout is over, and not everything had ended"),
        },
        () = either(&mut term, &mut int) => failed("stopped at once"),
    }
}

/// Waits for one of two signals.
async fn either(term: &mut Signal, int: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

fn failed(why: &str) -> ExitCode {
    tracing::error!("{why}");
    ExitCode::FAILURE
}
