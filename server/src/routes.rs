//! Which path leads where.

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post, post_service};
use tower_http::compression::CompressionLayer;
use tower_http::decompression::RequestDecompressionLayer;

use crate::refusal::Refusal;
use crate::service::Service;
use crate::{grpc, intake, jobs, observe, pictures, rest};

/// All routes, behind what every request passes.
pub fn router(service: Service) -> Router {
    let grpc = grpc::server(service.clone());
    let mut router = Router::new()
        .route("/v2", get(rest::server))
        .route("/v2/health/live", get(rest::live))
        .route("/v2/health/ready", get(rest::ready))
        .route("/purify", post(pictures::purify))
        .route("/classify", post(pictures::classify))
        .route("/jobs", post(jobs::submit))
        .route("/jobs/{id}", get(jobs::poll).delete(jobs::cancel))
        .route("/jobs/{id}/picture", get(jobs::fetch))
        .route("/metrics", get(metrics))
        .route(
            "/inference.GRPCInferenceService/{method}",
            post_service(grpc),
        );
    for model in [
        "/v2/models/{model}",
        "/v2/models/{model}/versions/{version}",
    ] {
        router = router
            .route(model, get(rest::model))
            .route(&format!("{model}/ready"), get(rest::model_ready))
            .route(&format!("{model}/infer"), post(rest::infer));
    }
    router
        .fallback(async || Refusal::not_found("there is nothing at this path"))
        // Bodies are limited when they are read.
        .layer(DefaultBodyLimit::disable())
        .layer(RequestDecompressionLayer::new())
        .layer(from_fn_with_state(service.clone(), intake::intake))
        .layer(CompressionLayer::new())
        .layer(from_fn_with_state(service.clone(), observe::observe))
        .with_state(service)
}

/// `GET /metrics`
async fn metrics(State(service): State<Service>) -> (HeaderMap, String) {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]);
    (headers, service.metrics.text(&service.queue))
}
