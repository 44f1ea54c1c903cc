//! Connections: TLS, timeouts, and both versions of HTTP on one port.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use backstitch::{Error, Result};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tower::ServiceExt;

use crate::intake::Peer;
use crate::options::Options;
use crate::service::Service;

/// How often HTTP/2's pings ask whether the other end is there.
const PING: Duration = Duration::from_secs(20);
/// Requests of one HTTP/2 connection that are open at once.
const STREAMS: u32 = 128;
/// How long to wait when the system has no more sockets.
const NO_SOCKET: Duration = Duration::from_millis(50);

/// Serves connections until `stop` is true, then waits for those that are open.
pub async fn serve(
    service: Service,
    router: Router,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    mut stop: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(service.options.max_connections.max(1)));
    let mut http = Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(service.options.header_timeout);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .max_concurrent_streams(STREAMS);
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(NO_SOCKET).await;
            continue;
        };
        let connection = Connection {
            service: service.clone(),
            router: router.clone(),
            http: http.clone(),
            watcher: graceful.watcher(),
        };
        let tls = tls.clone();
        tokio::spawn(async move {
            connection.run(stream, tls).await;
            drop(place);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// A connection's way through the service.
struct Connection {
    service: Service,
    router: Router,
    http: Builder<TokioExecutor>,
    watcher: Watcher,
}

impl Connection {
    async fn run(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        let connections = self.service.metrics.connections.clone();
        connections.inc();
        // Without a peer it is closed already.
        if let Ok(peer) = stream.peer_addr() {
            let peer = Peer(peer.ip());
            let _ = stream.set_nodelay(true);
            match tls {
                None => self.talk(stream, peer).await,
                Some(tls) => {
                    let handshake = tls.accept(stream);
                    let time = self.service.options.header_timeout;
                    if let Ok(Ok(stream)) = tokio::time::timeout(time, handshake).await {
                        self.talk(stream, peer).await;
                    }
                }
            }
        }
        connections.dec();
    }

    async fn talk(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer) {
        let begun = Arc::new(AtomicBool::new(false));
        let (router, has_begun) = (self.router, begun.clone());
        let answer = hyper_util::service::TowerToHyperService::new(tower::service_fn(
            move |mut request: axum::http::Request<hyper::body::Incoming>| {
                has_begun.store(true, Ordering::Relaxed);
                request.extensions_mut().insert(peer);
                router.clone().oneshot(request.map(Body::new))
            },
        ));
        let connection = self.http.serve_connection(TokioIo::new(stream), answer);
        let talk = self.watcher.watch(connection.into_owned());
        tokio::pin!(talk);
        // Whoever does not even begin a request is not waited for.
        tokio::select! {
            _ = &mut talk => return,
            () = tokio::time::sleep(self.service.options.header_timeout) => {}
        }
        if begun.load(Ordering::Relaxed) {
            let _ = talk.await;
        }
    }
}

/// The TLS of the options, if they ask for it.
///
/// # Errors
/// A file cannot be read, or the key is not the certificate's.
pub fn tls(options: &Options) -> Result<Option<TlsAcceptor>> {
    let (Some(cert), Some(key)) = (&options.tls_cert, &options.tls_key) else {
        return Ok(None);
    };
    let certificates = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect);
    let certificates: Vec<_> =
        certificates.map_err(|error| Error::file(cert, format!("is no PEM file: {error}")))?;
    if certificates.is_empty() {
        return Err(Error::file(cert, "has no certificate"));
    }
    let secret = PrivateKeyDer::from_pem_file(key);
    let secret =
        secret.map_err(|error| Error::file(key, format!("has no private key: {error}")))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| {
            config
                .with_no_client_auth()
                .with_single_cert(certificates, secret)
        });
    let mut config = config.map_err(|error| Error::file(cert, error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}
