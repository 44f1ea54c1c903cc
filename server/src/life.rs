//! The service's life: bind, load, serve, drain.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use backstitch::{Error, Result};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::options::Options;
use crate::service::Service;
use crate::{listen, routes};

/// A service that listens.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it serves.
    pub service: Service,
    stop: watch::Sender<bool>,
    connections: JoinHandle<()>,
    loading: JoinHandle<Result<()>>,
}

/// How often the end of what is in flight is looked for.
const POLL: Duration = Duration::from_millis(20);

impl Server {
    /// Listens, and begins to load the models.
    ///
    /// # Errors
    /// The address is not free, or the files of keys and certificates cannot be used.
    pub async fn start(options: Options) -> Result<Server> {
        let tls = listen::tls(&options)?;
        let address = (options.host.clone(), options.port);
        let service = Service::new(options)?;
        let unbound = |error| Error::io(format!("{}:{}", address.0, address.1))(error);
        let listener = TcpListener::bind(&address).await.map_err(unbound)?;
        let address = listener.local_addr().map_err(unbound)?;
        let (stop, stopped) = watch::channel(false);
        let router = routes::router(service.clone());
        let connections = listen::serve(service.clone(), router, listener, tls, stopped);
        let loading = service.clone();
        Ok(Server {
            address,
            stop,
            connections: tokio::spawn(connections),
            loading: tokio::task::spawn_blocking(move || loading.load()),
            service,
        })
    }

    /// Waits until the models are loaded.
    ///
    /// # Errors
    /// A device or a model cannot be used.
    pub async fn loaded(&mut self) -> Result<()> {
        let loaded = (&mut self.loading).await;
        loaded.unwrap_or_else(|_| Err(Error::invalid("the models could not be loaded")))
    }

    /// Stops taking requests, after the drain delay, and finishes what is in flight. Gives whether all of it ended within
    /// the drain timeout.
    pub async fn drain(mut self) -> bool {
        let options = &self.service.options;
        self.service.drain();
        tokio::time::sleep(options.drain_delay).await;
        let deadline = Instant::now() + options.drain_timeout;
        // Whoever listens has ended if nobody hears it.
        let _ = self.stop.send(true);
        let finish = async {
            let _ = (&mut self.connections).await;
            while self.service.jobs.running() > 0 {
                tokio::time::sleep(POLL).await;
            }
        };
        let finished = tokio::time::timeout_at(deadline.into(), finish)
            .await
            .is_ok();
        self.connections.abort();
        self.service.queue.close();
        finished
    }
}
