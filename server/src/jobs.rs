//! `/jobs`: pictures whose clients do not wait, but ask later.
//!
//! A job's name starts with that of the process that has it, so that another one can say that it has never had it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::task::AbortHandle;
use uuid::Uuid;

use crate::found::Found;
use crate::intake::Arrived;
use crate::pictures::{self, Asked};
use crate::queue::Client;
use crate::refusal::Refusal;
use crate::rest::{answer, arrived};
use crate::service::Service;

/// The jobs that are kept.
#[derive(Debug)]
pub struct Jobs {
    most: usize,
    process: String,
    kept: Mutex<Kept>,
}

/// The jobs by name.
type Kept = HashMap<String, Job>;

#[derive(Debug)]
struct Job {
    client: Client,
    state: JobState,
}

#[derive(Debug)]
enum JobState {
    /// Waiting or in flight.
    Running(AbortHandle),
    Ended(Arc<Result<Found, Refusal>>, Instant),
}

impl Jobs {
    /// No jobs, with room for `most`.
    pub fn new(most: usize) -> Jobs {
        Jobs {
            most,
            process: Uuid::new_v4().simple().to_string(),
            kept: Mutex::default(),
        }
    }

    /// Jobs that have not ended.
    pub fn running(&self) -> usize {
        let running = |job: &&Job| matches!(job.state, JobState::Running(_));
        self.lock().values().filter(running).count()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no thread panics with the jobs")
    }

    /// Makes room for a job: drops those that ended longer than `time` ago and, if there are too many, the oldest that
    /// has ended.
    ///
    /// # Errors
    /// None has ended.
    fn make_room(&self, kept: &mut Kept, time: Duration) -> Result<(), Refusal> {
        kept.retain(
            |_, job| !matches!(job.state, JobState::Ended(_, since) if since.elapsed() > time),
        );
        if kept.len() < self.most {
            return Ok(());
        }
        let ended = kept.iter().filter_map(|(name, job)| match job.state {
            JobState::Ended(_, since) => Some((since, name.clone())),
            JobState::Running(_) => None,
        });
        let Some((_, oldest)) = ended.min() else {
            return Err(Refusal::full("too many jobs wait", Duration::from_secs(1)));
        };
        kept.remove(&oldest);
        Ok(())
    }

    /// Reads a client's job.
    ///
    /// # Errors
    /// It is not there, or another client's.
    fn find<T>(
        &self,
        name: &str,
        client: &Client,
        time: Duration,
        read: impl FnOnce(&JobState) -> T,
    ) -> Result<T, Refusal> {
        let kept = self.lock();
        let found = kept.get(name).filter(|job| job.client == *client);
        let is_old =
            |job: &&Job| matches!(job.state, JobState::Ended(_, since) if since.elapsed() > time);
        match found.filter(|job| !is_old(job)) {
            Some(job) => Ok(read(&job.state)),
            None if name.starts_with(&self.process) => Err(Refusal::not_found(
                "there is no such job, or its result is no longer kept",
            )),
            None => {
                let lost = "this process has never had the job: ask the instance that took it in or, if that has ended, submit it again";
                Err(Refusal::new(StatusCode::GONE, lost))
            }
        }
    }
}

/// `POST /jobs`: takes a picture in like `/purify`, and answers at once.
pub async fn submit(
    State(service): State<Service>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let asked = Asked::read(&request)?;
    let Arrived { client, .. } = arrived(request.extensions())?;
    let file = pictures::file(&service, request).await?;
    let time = service.options.job_time;
    let deadline = Instant::now() + time;
    let pending = pictures::take(&service, asked, file, client.clone(), deadline);
    let mut pending = pending.await?;
    let name = format!("{}-{}", service.jobs.process, Uuid::new_v4().simple());
    let (ended_name, ended_in) = (name.clone(), service.clone());
    // The job must be in the map before it can end.
    let mut kept = service.jobs.lock();
    service.jobs.make_room(&mut kept, time)?;
    let task = tokio::spawn(async move {
        let ended = pending.all().await.map(|mut found| found.remove(0));
        if let Some(job) = ended_in.jobs.lock().get_mut(&ended_name) {
            job.state = JobState::Ended(Arc::new(ended), Instant::now());
        }
    });
    let job = Job {
        client,
        state: JobState::Running(task.abort_handle()),
    };
    kept.insert(name.clone(), job);
    service.metrics.jobs.set(kept.len() as i64);
    drop(kept);
    let mut response = answer(
        StatusCode::ACCEPTED,
        &json!({ "id": name, "state": "running" }),
    );
    if let Ok(location) = HeaderValue::from_str(&format!("/jobs/{name}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `GET /jobs/{id}`: whether it has ended, and what was found.
pub async fn poll(
    State(service): State<Service>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let Arrived { client, .. } = arrived(request.extensions())?;
    let describe = |state: &JobState| -> Value {
        match state {
            JobState::Running(_) => json!({ "id": name, "state": "running" }),
            JobState::Ended(ended, _) => match &**ended {
                Err(refusal) => json!({ "id": name, "state": "failed", "error": refusal.message }),
                Ok(found) => json!({
                    "id": name,
                    "state": "done",
                    "verdict": found.verdict.name(),
                    "score": found.score,
                    "input_label": found.input.label(),
                    "output_label": found.output.label(),
                }),
            },
        }
    };
    let time = service.options.job_time;
    let body = service.jobs.find(&name, &client, time, describe)?;
    Ok(answer(StatusCode::OK, &body))
}

/// `GET /jobs/{id}/picture`: the response that `/purify` would have given.
pub async fn fetch(
    State(service): State<Service>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let Arrived { client, .. } = arrived(request.extensions())?;
    let ended = service.jobs.find(
        &name,
        &client,
        service.options.job_time,
        |state| match state {
            JobState::Running(_) => None,
            JobState::Ended(ended, _) => Some(ended.clone()),
        },
    )?;
    let Some(ended) = ended else {
        return Err(Refusal::new(StatusCode::CONFLICT, "the job has not ended"));
    };
    let written = service.compute(move || match &*ended {
        Ok(found) => Ok(pictures::picture(found)),
        Err(refusal) => Err(refusal.clone()),
    });
    written.await?
}

/// `DELETE /jobs/{id}`: ends it if it runs, and forgets it.
pub async fn cancel(
    State(service): State<Service>,
    Path(name): Path<String>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let Arrived { client, .. } = arrived(request.extensions())?;
    service
        .jobs
        .find(&name, &client, service.options.job_time, |state| {
            if let JobState::Running(task) = state {
                task.abort();
            }
        })?;
    let mut kept = service.jobs.lock();
    kept.remove(&name);
    service.metrics.jobs.set(kept.len() as i64);
    Ok(StatusCode::NO_CONTENT)
}
