//! What all requests share.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::engines::Model;
use crate::jobs::Jobs;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::queue::{Limits, Queue};
use crate::refusal::Refusal;

/// The service; clones are the same one.
#[derive(Clone)]
pub struct Service(Arc<Shared>);

/// What all requests share.
pub struct Shared {
    /// The command line.
    pub options: Options,
    /// The pictures that wait.
    pub queue: Arc<Queue>,
    /// What Prometheus reads.
    pub metrics: Arc<Metrics>,
    /// The keys that requests must show; `None` if they need none.
    pub keys: Option<Keys>,
    /// The jobs that are kept.
    pub jobs: Jobs,
    /// The models; empty while they load.
    models: OnceLock<Vec<Arc<Model>>>,
    draining: AtomicBool,
    /// Requests that are decoded at once: as many as there are processors, because each takes memory for pictures
    /// that are not yet made smaller.
    decoders: Semaphore,
}

impl Deref for Service {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Service {
    /// A service without models.
    ///
    /// # Errors
    /// The file of keys cannot be read, or has no key.
    pub fn new(options: Options) -> backstitch::Result<Service> {
        let limits = Limits {
            pictures: options.queue_pictures.max(1),
            bytes: options.queue_bytes.as_u64(),
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Service(Arc::new(Shared {
            queue: Queue::new(limits),
            metrics: Arc::new(Metrics::new()),
            keys: options.keys.as_deref().map(Keys::open).transpose()?,
            jobs: Jobs::new(options.jobs),
            models: OnceLock::new(),
            draining: AtomicBool::new(false),
            decoders: Semaphore::new(processors),
            options,
        })))
    }

    /// Loads the models; takes as long as that does.
    ///
    /// # Errors
    /// A device or a model cannot be used.
    pub fn load(&self) -> backstitch::Result<()> {
        let models = crate::engines::load(&self.options, &self.queue, &self.metrics)?;
        // Loading happens once.
        let _ = self.models.set(models);
        Ok(())
    }

    /// The models, in the order of the command line.
    ///
    /// # Errors
    /// They are not loaded yet.
    pub fn models(&self) -> Result<&[Arc<Model>], Refusal> {
        let loaded = self.models.get().map(Vec::as_slice);
        loaded.ok_or_else(|| Refusal::unavailable("the models are being loaded"))
    }

    /// A model; without a name, the first. Models have one version, 1.
    ///
    /// # Errors
    /// There is none of this name or version; the models are not loaded yet.
    pub fn model(&self, name: Option<&str>, version: Option<&str>) -> Result<Arc<Model>, Refusal> {
        let models = self.models()?;
        if version.is_some_and(|version| !["", "1"].contains(&version)) {
            return Err(Refusal::not_found("the only version of a model is 1"));
        }
        let found = match name {
            None => models.first(),
            Some(name) => models.iter().find(|model| model.name == name),
        };
        let found = found.cloned();
        found.ok_or_else(|| Refusal::not_found("there is no model of this name"))
    }

    /// Whether new requests are wanted.
    pub fn is_ready(&self) -> bool {
        let draining = self.draining.load(Ordering::Relaxed);
        !draining && self.models.get().is_some() && self.queue.has_devices()
    }

    /// From now on the service is not ready.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Runs `work`, which decodes, on a thread that may block, when it is its turn.
    ///
    /// # Errors
    /// Those of `work`; it panicked; its turn has not come until `deadline`.
    pub async fn decode<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let turn = tokio::time::timeout_at(deadline.into(), self.decoders.acquire()).await;
        let turn = turn.map_err(|_| Refusal::too_late())?;
        let _turn = turn.map_err(|_| Refusal::internal("no more requests are decoded"))?;
        self.compute(work).await?
    }

    /// Runs `work` on a thread that may block.
    ///
    /// # Errors
    /// It panicked.
    pub async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let ended = tokio::task::spawn_blocking(work).await;
        ended.map_err(|_| Refusal::internal("the request could not be worked on"))
    }
}
