//! Why a request is not served, for clients of both protocols.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::json;
use tonic::{Code, Status};

/// A request that is not served. It becomes an HTTP response or a gRPC status.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The status that says what kind of refusal it is.
    pub status: StatusCode,
    /// Why, in one line; it contains no pixel and no key.
    pub message: String,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal with this status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal {
            status,
            message: message.into(),
            retry_after: None,
        }
    }

    /// A request that cannot be understood.
    pub fn malformed(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, message)
    }

    /// Something that does not exist.
    pub fn not_found(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, message)
    }

    /// A request beyond a limit.
    pub fn too_large(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    /// There is no room now.
    pub fn full(message: impl Into<String>, retry_after: Duration) -> Refusal {
        Refusal {
            retry_after: Some(retry_after),
            ..Refusal::new(StatusCode::TOO_MANY_REQUESTS, message)
        }
    }

    /// The service is loading, draining, or has no device.
    pub fn unavailable(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// The request took longer than it may.
    pub fn too_late() -> Refusal {
        Refusal::new(
            StatusCode::GATEWAY_TIMEOUT,
            "the time for the request is over",
        )
    }

    /// A fault of the service.
    pub fn internal(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The response to a request of these headers: a gRPC status if it came over gRPC.
    pub fn answer(self, request: &HeaderMap) -> Response<Body> {
        match is_grpc(request) {
            true => Status::from(self).into_http(),
            false => self.into(),
        }
    }
}

/// Whether a request came over gRPC.
pub fn is_grpc(request: &HeaderMap) -> bool {
    let kind = request.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

/// Whole seconds, rounded up, as `Retry-After` has them.
fn whole_seconds(time: Duration) -> HeaderValue {
    HeaderValue::from(time.as_secs_f64().ceil().max(1.0) as u64)
}

impl From<Refusal> for Response<Body> {
    fn from(refusal: Refusal) -> Self {
        let body = json!({ "error": refusal.message }).to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = refusal.status;
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        if let Some(time) = refusal.retry_after {
            headers.insert(header::RETRY_AFTER, whole_seconds(time));
        }
        if refusal.status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

impl axum::response::IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        self.into()
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.status {
            StatusCode::UNAUTHORIZED => Code::Unauthenticated,
            StatusCode::NOT_FOUND | StatusCode::GONE => Code::NotFound,
            StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
            StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
            StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => Code::DeadlineExceeded,
            StatusCode::INTERNAL_SERVER_ERROR => Code::Internal,
            _ => Code::InvalidArgument,
        };
        let mut status = Status::new(code, refusal.message);
        if let Some(time) = refusal.retry_after {
            // Only what is a header can be put into the metadata.
            if let Ok(seconds) = whole_seconds(time).to_str().unwrap_or("1").parse() {
                status.metadata_mut().insert("retry-after", seconds);
            }
        }
        status
    }
}
