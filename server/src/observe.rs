//! What is known of a request when it has ended: a line in the log, and the metrics.

use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response};
use axum::middleware::Next;
use uuid::Uuid;

use crate::service::Service;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request that is worked on. If it is dropped before it has a response, its client went away.
struct Observed {
    service: Service,
    start: Instant,
    route: &'static str,
    method: String,
    id: String,
    trace: Option<(String, String)>,
    ended: bool,
}

/// Counts a request, logs it, and gives its response the request's id.
pub async fn observe(
    State(service): State<Service>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let id = (request.headers().get(REQUEST_ID))
        .and_then(|id| id.to_str().ok())
        .filter(|id| {
            (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
        });
    let mut observed = Observed {
        start: Instant::now(),
        route: route(&request),
        method: request.method().to_string(),
        id: id.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned),
        trace: trace(request.headers()),
        ended: false,
        service,
    };
    let mut response = next.run(request).await;
    // Of a gRPC call the HTTP status is always 200.
    let code = match response.headers().get("grpc-status") {
        Some(status) => format!("grpc-{}", status.to_str().unwrap_or("2")),
        None => response.status().as_u16().to_string(),
    };
    observed.end(&code);
    if let Ok(id) = HeaderValue::from_str(&observed.id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The route that a request is counted under.
fn route(request: &Request) -> &'static str {
    let path = request.extensions().get::<MatchedPath>();
    match path.map_or("", |path| path.as_str()) {
        path if path.ends_with("/infer") => "infer",
        "/purify" => "purify",
        "/classify" => "classify",
        path if path.starts_with("/jobs") => "jobs",
        path if path.starts_with("/inference.") => "grpc",
        _ => "other",
    }
}

/// The trace and the caller's span of a `traceparent` (W3C Trace Context).
fn trace(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    let parts: Vec<&str> = value.split('-').collect();
    let [version, trace, span, ..] = parts[..] else {
        return None;
    };
    let hex =
        |part: &str, length| part.len() == length && part.bytes().all(|b| b.is_ascii_hexdigit());
    (hex(version, 2) && hex(trace, 32) && hex(span, 16)).then(|| (trace.into(), span.into()))
}

impl Observed {
    fn end(&mut self, code: &str) {
        self.ended = true;
        let seconds = self.start.elapsed().as_secs_f64();
        let metrics = &self.service.metrics;
        metrics
            .requests
            .with_label_values(&[self.route, code])
            .inc();
        let times = metrics.request_seconds.with_label_values(&[self.route]);
        times.observe(seconds);
        // Probes and scrapes would fill the log.
        if self.route == "other" && !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let (trace_id, parent_id) = self.trace.clone().unzip();
        tracing::info!(
            request_id = self.id,
            trace_id,
            parent_id,
            method = self.method,
            route = self.route,
            code,
            seconds,
            "request"
        );
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        if !self.ended {
            // As nginx calls it: the client closed the request.
            self.end("499");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparents_are_read_where_they_are_whole() {
        let read = |value: &str| {
            let value = HeaderValue::from_str(value).unwrap();
            trace(&HeaderMap::from_iter([(
                HeaderName::from_static("traceparent"),
                value,
            )]))
        };
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let whole = format!("00-{trace}-{span}-01");
        assert_eq!(read(&whole), Some((trace.into(), span.into())));
        for wrong in [
            "",
            "00",
            &whole[..40],
            "00-x-y-01",
            &whole.replace("0af7", "0ag7"),
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
