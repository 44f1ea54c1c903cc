//! What every request passes before its route: keys, limits, and the reading of its body, over REST and gRPC alike.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use axum::middleware::Next;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::queue::{Client, HeldBytes};
use crate::refusal::Refusal;
use crate::service::Service;

/// The address of a connection's other end.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Who sent a request, and when its time is over.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Who sent it.
    pub client: Client,
    /// When its time is over.
    pub deadline: Instant,
}

/// How long the rest of a refused request is read, so that its client can read the refusal.
const LINGER: Duration = Duration::from_millis(20);

/// Lets a request pass, with its body read, or refuses it.
pub async fn intake(
    State(service): State<Service>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let headers = request.headers().clone();
    match admit(&service, request).await {
        Ok((request, _held)) => next.run(request).await,
        Err((refusal, rest)) => {
            // Whoever asks first whether to send the body has not sent it.
            let waits = headers.contains_key(header::EXPECT);
            if let Some(rest) = rest.filter(|_| !waits) {
                let _ = tokio::time::timeout(LINGER, discard(rest)).await;
            }
            refusal.answer(&headers)
        }
    }
}

async fn discard(mut body: Body) {
    while let Some(Ok(_)) = body.frame().await {}
}

/// The request with its body read, and the room that the body takes; or the refusal, with what of the body is not
/// read.
async fn admit(
    service: &Service,
    mut request: Request,
) -> Result<(Request, Option<HeldBytes>), (Refusal, Option<Body>)> {
    let path = request.uri().path();
    // Probes have no keys.
    let open = path.starts_with("/v2/health/");
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    let address = Client::Address(peer.unwrap_or(IpAddr::from([0; 4])));
    let client = match &service.keys {
        Some(keys) if !open => match keys.check(request.headers()) {
            Ok(key) => Client::Key(key),
            Err(refusal) => return Err((refusal, Some(request.into_body()))),
        },
        _ => address,
    };
    let takes_pictures = request.method() == Method::POST && !is_question(path);
    request.extensions_mut().insert(Arrived {
        client: client.clone(),
        deadline: Instant::now() + service.options.request_timeout,
    });
    if request.method() != Method::POST {
        return Ok((request, None));
    }
    let room = match takes_pictures {
        true => service
            .models()
            .map(drop)
            .and_then(|()| service.queue.check_room(&client)),
        false => Ok(()),
    };
    let held = room.and_then(|()| {
        let most = service.options.max_body.as_u64();
        let bytes = length(request.headers())?.unwrap_or(most);
        if bytes > most {
            let limit = format!("a body has at most {most} bytes");
            return Err(Refusal::too_large(limit));
        }
        // What it will be when it is decompressed is not known.
        let compressed = request.headers().contains_key(header::CONTENT_ENCODING);
        service
            .queue
            .hold_bytes(if compressed { most } else { bytes })
    });
    let mut held = match held {
        Ok(held) => held,
        Err(refusal) => return Err((refusal, Some(request.into_body()))),
    };
    let compressed = request.headers().contains_key(header::CONTENT_ENCODING);
    let (parts, body) = request.into_parts();
    let reading = read(body, service.options.max_body.as_u64() as usize);
    let bytes = match tokio::time::timeout(service.options.body_timeout, reading).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(refusal)) => return Err((refusal, None)),
        Err(_) => {
            let late = "the body took longer than it may";
            return Err((Refusal::new(StatusCode::REQUEST_TIMEOUT, late), None));
        }
    };
    if !compressed {
        held.shrink(bytes.len() as u64);
    }
    Ok((Request::from_parts(parts, Body::from(bytes)), Some(held)))
}

/// Whether a gRPC call asks something that a full service answers too.
fn is_question(path: &str) -> bool {
    path.starts_with("/inference.") && !path.ends_with("/ModelInfer")
}

/// The length that the headers declare.
fn length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(length) = headers.get(header::CONTENT_LENGTH) else {
        return Ok(None);
    };
    let number = length.to_str().ok().and_then(|length| length.parse().ok());
    let number = number.ok_or_else(|| Refusal::malformed("Content-Length is a number"))?;
    Ok(Some(number))
}

/// A body of at most this many bytes.
///
/// # Errors
/// It is longer, or its client ended it early; if it was compressed, it is damaged.
pub async fn read(body: Body, most: usize) -> Result<Bytes, Refusal> {
    match Limited::new(body, most).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if is_limit(&*error) => {
            let limit = format!("a body has at most {most} bytes");
            Err(Refusal::too_large(limit))
        }
        Err(_) => Err(Refusal::malformed("the body ends early, or is damaged")),
    }
}

/// Whether an error, or one of its causes, is that of the limit.
fn is_limit(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .into_iter()
        .any(|error| error.is::<LengthLimitError>())
}
