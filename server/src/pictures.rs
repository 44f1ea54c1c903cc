//! `POST /purify` and `POST /classify`: a picture's file in, what became of it out.

use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Multipart, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::json;

use crate::found::Found;
use crate::infer::{Parameters, Pictures, Wishes, submit};
use crate::intake::read;
use crate::queue::{Client, Pending};
use crate::refusal::Refusal;
use crate::rest::{answer, arrived};
use crate::service::Service;

/// What the query of `/purify`, `/classify` and `/jobs` may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    model: Option<String>,
    preset: Option<String>,
    seed: Option<u64>,
    always: Option<bool>,
}

impl Asked {
    /// What a request's query says.
    ///
    /// # Errors
    /// It says anything else.
    pub fn read(request: &Request) -> Result<Asked, Refusal> {
        let asked = Query::try_from_uri(request.uri()).map(|Query(asked)| asked);
        asked.map_err(|error| Refusal::malformed(error.body_text()))
    }

    fn parameters(&self) -> Parameters {
        let preset = self.preset.as_ref().map(|preset| ("preset", json!(preset)));
        let seed = self.seed.map(|seed| ("seed", json!(seed)));
        let always = self.always.map(|always| ("always", json!(always)));
        let all = [preset, seed, always].into_iter().flatten();
        all.map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// The picture's file: the body, or of a form its first field.
///
/// # Errors
/// The body is too large or damaged; the form has no field.
pub async fn file(service: &Service, request: Request) -> Result<Bytes, Refusal> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let form = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"multipart/form-data"));
    let most = service.options.max_body.as_u64() as usize;
    if !form {
        return read(request.into_body(), most).await;
    }
    // What is decompressed has a limit, too.
    let (parts, body) = request.into_parts();
    let body = read(body, most).await?;
    let whole = Request::from_parts(parts, Body::from(body));
    let malformed = |text: String| Refusal::malformed(text);
    let form = Multipart::from_request(whole, &()).await;
    let mut form = form.map_err(|error| malformed(error.body_text()))?;
    let field = form
        .next_field()
        .await
        .map_err(|error| malformed(error.body_text()))?;
    let field = field.ok_or_else(|| malformed("the form has no field".into()))?;
    let bytes = field.bytes().await;
    bytes.map_err(|error| malformed(error.body_text()))
}

/// Takes one picture in.
///
/// # Errors
/// There is no such model or preset, or no room; the picture cannot be decoded.
pub async fn take(
    service: &Service,
    asked: Asked,
    file: Bytes,
    client: Client,
    deadline: Instant,
) -> Result<Pending, Refusal> {
    let model = service.model(asked.model.as_deref(), None)?;
    let wishes = Wishes::read(&model, &asked.parameters())?;
    let decoding = service.clone();
    let pictures = Pictures::file(file);
    let taken = move || submit(&decoding, &model, &wishes, &client, &pictures, deadline);
    service.decode(deadline, taken).await
}

/// `POST /purify`
pub async fn purify(
    State(service): State<Service>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let asked = Asked::read(&request)?;
    let arrived = arrived(request.extensions())?;
    let file = file(&service, request).await?;
    let mut pending = take(&service, asked, file, arrived.client, arrived.deadline).await?;
    let found = pending.all().await?.remove(0);
    service.compute(move || picture(&found)).await
}

/// A purified picture as a response: PNG, and in the headers what was found.
pub fn picture(found: &Found) -> Response<Body> {
    let mut response = Response::new(Body::from(found.png()));
    *response.headers_mut() = headers(found);
    let kind = HeaderValue::from_static("image/png");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn headers(found: &Found) -> HeaderMap {
    let verdict = HeaderValue::from_static(found.verdict.name());
    let score = HeaderValue::from_str(&found.score.to_string());
    let all = [
        ("backstitch-verdict", verdict),
        // A number's text is always a header's.
        (
            "backstitch-score",
            score.unwrap_or(HeaderValue::from_static("")),
        ),
        (
            "backstitch-input-label",
            HeaderValue::from(found.input.label()),
        ),
        (
            "backstitch-output-label",
            HeaderValue::from(found.output.label()),
        ),
    ];
    let named = |(name, value)| (HeaderName::from_static(name), value);
    all.into_iter().map(named).collect()
}

/// The most probable classes that `/classify` gives.
const TOP: usize = 5;

/// `POST /classify`: what the classifier says of the picture as it is.
pub async fn classify(
    State(service): State<Service>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let asked = Asked::read(&request)?;
    if asked.preset.is_some() || asked.seed.is_some() || asked.always.is_some() {
        return Err(Refusal::malformed(
            "of /classify only the model can be chosen",
        ));
    }
    let arrived = arrived(request.extensions())?;
    let file = file(&service, request).await?;
    let model = service.model(asked.model.as_deref(), None)?;
    let (queue, max_pixels) = (service.queue.clone(), service.options.max_pixels);
    let classified = service.decode(arrived.deadline, move || {
        let _room = queue.admit(&arrived.client, 1, arrived.deadline)?;
        let picture = Pictures::file(file).decode(0, max_pixels)?;
        model.classify(&model.prepare(picture)?)
    });
    let reading = classified.await?;
    let top = reading.top(TOP).into_iter();
    let top = top.map(|(label, probability)| json!({ "label": label, "probability": probability }));
    let body = json!({
        "label": reading.label(),
        "confidence": reading.confidence(),
        "top": top.collect::<Vec<_>>(),
    });
    Ok(answer(StatusCode::OK, &body))
}
