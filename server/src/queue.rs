//! The pictures that wait for a device: bounded, and fair to every client.
//!
//! A picture takes room from when its request is taken in until the request ends, so that the room bounds what waits,
//! what is in flight, and the results that are not yet sent. Devices take pictures from the clients in turn, and of
//! one client from its requests in turn: a short request need not wait for all of a long one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use backstitch::Picture;
use backstitch::defense::OwnOptions;
use backstitch::scheduler::Job;
use tokio::sync::mpsc;

use crate::found::Found;
use crate::refusal::Refusal;

/// Who sends requests: a key's place in the file of keys, or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// The key of this number.
    Key(usize),
    /// A client of this address, where no keys are asked for.
    Address(std::net::IpAddr),
}

/// What is done to the pictures of one model with one preset.
pub type EngineId = usize;

/// A result of one picture, with its number in the request.
pub type Done = (usize, Result<Found, Refusal>);

/// What a device knows of a request.
#[derive(Debug)]
pub struct Ask {
    number: u64,
    client: Client,
    deadline: Instant,
    cancelled: AtomicBool,
    results: mpsc::UnboundedSender<Done>,
}

impl Ask {
    /// Whether its client is gone, or its time is over.
    pub fn is_over(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) || Instant::now() >= self.deadline
    }
}

/// A picture of a request on its way through a device.
#[derive(Clone, Debug)]
pub struct Ticket {
    ask: Arc<Ask>,
    picture: usize,
    since: Instant,
}

impl Ticket {
    /// Whether nobody waits for it anymore.
    pub fn is_over(&self) -> bool {
        self.ask.is_over()
    }

    /// How long it has waited.
    pub fn waited(&self) -> Duration {
        self.since.elapsed()
    }

    /// Gives its result to the request. A request that has ended takes none.
    pub fn give(self, result: Result<Found, Refusal>) {
        let _ = self.ask.results.send((self.picture, result));
    }
}

/// How much the queue holds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Pictures of all requests.
    pub pictures: usize,
    /// Bytes of all bodies.
    pub bytes: u64,
}

/// The queue of all engines.
#[derive(Debug)]
pub struct Queue {
    limits: Limits,
    state: Mutex<State>,
    changed: Condvar,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    bytes: u64,
    /// Pictures that each client has room for; none has 0.
    room: Vec<(Client, usize)>,
    engines: Vec<Line>,
    closed: bool,
    /// Seconds of a device that a picture takes, averaged with more weight on the last ones.
    seconds: Option<f64>,
}

/// The pictures that wait for one engine.
#[derive(Debug, Default)]
struct Line {
    devices: usize,
    /// Pictures that a lost device had.
    returned: VecDeque<Job<Ticket>>,
    clients: VecDeque<(Client, VecDeque<VecDeque<Job<Ticket>>>)>,
}

/// How much a picture's time counts in the average.
const NEWEST: f64 = 0.1;

impl Queue {
    /// An empty queue for no engine.
    pub fn new(limits: Limits) -> Arc<Queue> {
        Arc::new(Queue {
            limits,
            state: Mutex::default(),
            changed: Condvar::new(),
            next: AtomicU64::new(0),
        })
    }

    /// Adds an engine of this many devices.
    pub fn add_engine(&self, devices: usize) -> EngineId {
        let engines = &mut self.lock().engines;
        engines.push(Line {
            devices,
            ..Line::default()
        });
        engines.len() - 1
    }

    /// The most pictures of one request: what a client gets of the empty queue.
    pub fn most_pictures(&self) -> usize {
        self.limits.pictures.div_ceil(2)
    }

    /// Room for a body of this many bytes.
    ///
    /// # Errors
    /// There is not as much.
    pub fn hold_bytes(self: &Arc<Self>, bytes: u64) -> Result<HeldBytes, Refusal> {
        let mut state = self.lock();
        if bytes > self.limits.bytes.saturating_sub(state.bytes) {
            let refusal = Refusal::full("too many bytes wait", state.time_for(1));
            return Err(refusal);
        }
        state.bytes += bytes;
        Ok(HeldBytes {
            queue: self.clone(),
            bytes,
        })
    }

    /// Refuses at once what would be refused after its body is read.
    ///
    /// # Errors
    /// Not even one picture of this client has room.
    pub fn check_room(&self, client: &Client) -> Result<(), Refusal> {
        self.lock().check_room(self.limits, client, 1)
    }

    /// Room for a request's pictures.
    ///
    /// A client gets pictures as long as an equal share would remain for one client more than there are: alone it
    /// gets half of the queue, one of two a third.
    ///
    /// # Errors
    /// There is not as much.
    pub fn admit(
        self: &Arc<Self>,
        client: &Client,
        pictures: usize,
        deadline: Instant,
    ) -> Result<Pending, Refusal> {
        let mut state = self.lock();
        state.check_room(self.limits, client, pictures)?;
        match state.room.iter_mut().find(|(of, _)| of == client) {
            Some((_, room)) => *room += pictures,
            None => state.room.push((client.clone(), pictures)),
        }
        drop(state);
        let (results, received) = mpsc::unbounded_channel();
        Ok(Pending {
            queue: self.clone(),
            pictures,
            results: received,
            ask: Arc::new(Ask {
                number: self.next.fetch_add(1, Ordering::Relaxed),
                client: client.clone(),
                deadline,
                cancelled: AtomicBool::new(false),
                results,
            }),
        })
    }

    /// Up to `most` pictures for a device of an engine: its share of what waits. If `wait` is true, waits for one;
    /// none then means that the engine is to end.
    pub fn take(&self, engine: EngineId, most: usize, wait: bool) -> Vec<Job<Ticket>> {
        let mut state = self.lock();
        loop {
            let State {
                engines, closed, ..
            } = &mut *state;
            let line = &mut engines[engine];
            let share = line.len().div_ceil(line.devices.max(1)).min(most);
            let jobs: Vec<_> = std::iter::from_fn(|| line.next()).take(share).collect();
            if !jobs.is_empty() || !wait || *closed {
                return jobs;
            }
            state = self.changed.wait(state).expect(SOUND);
        }
    }

    /// Takes the seconds of a device that a picture took.
    pub fn took(&self, seconds: f64) {
        let average = &mut self.lock().seconds;
        let before = average.unwrap_or(seconds);
        *average = Some(before + NEWEST * (seconds - before));
    }

    /// A device of an engine is lost: its pictures come first on the others. Gives how many devices are left; with
    /// the last one all of the engine's pictures are refused.
    pub fn lose_device(&self, engine: EngineId, jobs: Vec<Job<Ticket>>) -> usize {
        let mut state = self.lock();
        let line = &mut state.engines[engine];
        line.devices = line.devices.saturating_sub(1);
        line.returned.extend(jobs);
        let left = line.devices;
        if left == 0 {
            for job in std::iter::from_fn(|| line.next()) {
                let refusal = Refusal::unavailable("the model's last device failed");
                job.name.give(Err(refusal));
            }
        }
        self.changed.notify_all();
        left
    }

    /// Whether every engine has a device.
    pub fn has_devices(&self) -> bool {
        self.lock().engines.iter().all(|line| line.devices > 0)
    }

    /// Pictures that wait, of all engines.
    pub fn waiting(&self) -> usize {
        self.lock().engines.iter().map(Line::len).sum()
    }

    /// Pictures that requests have room for, and bytes of bodies that are held.
    pub fn held(&self) -> (usize, u64) {
        let state = self.lock();
        (state.pictures(), state.bytes)
    }

    /// Ends the engines, once nothing waits for them.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(SOUND)
    }
}

const SOUND: &str = "no thread panics with the queue";

impl State {
    fn pictures(&self) -> usize {
        self.room.iter().map(|(_, room)| room).sum()
    }

    fn check_room(&self, limits: Limits, client: &Client, pictures: usize) -> Result<(), Refusal> {
        let own = self.room.iter().find(|(of, _)| of == client);
        let own = own.map_or(0, |(_, room)| *room);
        let clients = self.room.len() + usize::from(own == 0);
        let share = limits.pictures.div_ceil(clients + 1);
        let used = self.pictures();
        if own + pictures <= share && used + pictures <= limits.pictures {
            return Ok(());
        }
        let over = (own + pictures).saturating_sub(share).max(1);
        let over = over.max((used + pictures).saturating_sub(limits.pictures));
        Err(Refusal::full("too many pictures wait", self.time_for(over)))
    }

    /// When this many pictures will have ended, as far as the last ones tell.
    fn time_for(&self, pictures: usize) -> Duration {
        let devices: usize = self.engines.iter().map(|line| line.devices).sum();
        let seconds = self.seconds.unwrap_or(1.0) * pictures as f64 / devices.max(1) as f64;
        Duration::from_secs_f64(seconds.min(3600.0))
    }
}

impl Line {
    fn len(&self) -> usize {
        let requests = self.clients.iter().flat_map(|(_, requests)| requests);
        self.returned.len() + requests.map(VecDeque::len).sum::<usize>()
    }

    /// Appends a picture to those of its request.
    fn push(&mut self, job: Job<Ticket>) {
        let ask = &job.name.ask;
        let client = match (self.clients.iter()).position(|(client, _)| *client == ask.client) {
            Some(place) => place,
            None => {
                self.clients
                    .push_back((ask.client.clone(), VecDeque::new()));
                self.clients.len() - 1
            }
        };
        let requests = &mut self.clients[client].1;
        let same = |pictures: &&mut VecDeque<Job<Ticket>>| {
            (pictures.front()).is_some_and(|first| first.name.ask.number == ask.number)
        };
        match requests.iter_mut().find(same) {
            Some(pictures) => pictures.push_back(job),
            None => requests.push_back(VecDeque::from([job])),
        }
    }

    /// The next picture that somebody waits for.
    fn next(&mut self) -> Option<Job<Ticket>> {
        loop {
            let job = match self.returned.pop_front() {
                Some(job) => job,
                None => self.next_in_turn()?,
            };
            if !job.name.is_over() {
                return Some(job);
            }
        }
    }

    fn next_in_turn(&mut self) -> Option<Job<Ticket>> {
        let (client, mut requests) = self.clients.pop_front()?;
        let mut pictures = requests.pop_front()?;
        let job = pictures.pop_front();
        if !pictures.is_empty() {
            requests.push_back(pictures);
        }
        if !requests.is_empty() {
            self.clients.push_back((client, requests));
        }
        job
    }

    /// Removes a request's pictures.
    fn remove(&mut self, number: u64) {
        let of_others = |job: &Job<Ticket>| job.name.ask.number != number;
        self.returned.retain(of_others);
        for (_, requests) in &mut self.clients {
            requests.retain(|pictures| pictures.front().is_some_and(of_others));
        }
        self.clients.retain(|(_, requests)| !requests.is_empty());
    }
}

/// Room for the bytes of a body, until it is dropped.
#[derive(Debug)]
pub struct HeldBytes {
    queue: Arc<Queue>,
    bytes: u64,
}

impl HeldBytes {
    /// Gives back what a body of this many bytes does not need.
    pub fn shrink(&mut self, bytes: u64) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.queue.lock().bytes -= less;
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.queue.lock().bytes -= self.bytes;
    }
}

/// A request that has room. When it is dropped, as when its client goes away, its pictures leave the queue and, within
/// one probe, the devices.
#[derive(Debug)]
pub struct Pending {
    queue: Arc<Queue>,
    ask: Arc<Ask>,
    pictures: usize,
    results: mpsc::UnboundedReceiver<Done>,
}

impl Pending {
    /// When its time is over.
    pub fn deadline(&self) -> Instant {
        self.ask.deadline
    }

    /// Puts picture number `picture` into the line of an engine.
    ///
    /// # Errors
    /// The engine has no device anymore.
    pub fn put(
        &self,
        engine: EngineId,
        picture: usize,
        pixels: Picture,
        own: OwnOptions,
    ) -> Result<(), Refusal> {
        let mut state = self.queue.lock();
        let line = &mut state.engines[engine];
        if line.devices == 0 {
            return Err(Refusal::unavailable("the model has no device"));
        }
        line.push(Job {
            name: Ticket {
                ask: self.ask.clone(),
                picture,
                since: Instant::now(),
            },
            picture: pixels,
            own: Some(own),
        });
        self.queue.changed.notify_all();
        Ok(())
    }

    /// The results of all pictures, in their order.
    ///
    /// # Errors
    /// The first picture's that has none; the time is over.
    pub async fn all(&mut self) -> Result<Vec<Found>, Refusal> {
        let deadline = self.ask.deadline.into();
        let mut found: Vec<Option<Found>> = (0..self.pictures).map(|_| None).collect();
        for _ in 0..self.pictures {
            let next = tokio::time::timeout_at(deadline, self.results.recv()).await;
            // It holds a sender itself, so there is always one.
            let Some((picture, result)) = next.map_err(|_| Refusal::too_late())? else {
                return Err(Refusal::too_late());
            };
            found[picture] = Some(result?);
        }
        Ok(found.into_iter().flatten().collect())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.ask.cancelled.store(true, Ordering::Relaxed);
        let mut state = self.queue.lock();
        for line in &mut state.engines {
            line.remove(self.ask.number);
        }
        if let Some((_, room)) = (state.room.iter_mut()).find(|(of, _)| *of == self.ask.client) {
            *room -= self.pictures;
        }
        state.room.retain(|(_, room)| *room > 0);
    }
}

#[cfg(test)]
mod tests {
    use backstitch::picture::rgb;

    use super::*;

    const LIMITS: Limits = Limits {
        pictures: 12,
        bytes: 100,
    };

    fn queue(devices: usize) -> Arc<Queue> {
        let queue = Queue::new(LIMITS);
        queue.add_engine(devices);
        queue
    }

    fn admitted(queue: &Arc<Queue>, key: usize, pictures: usize) -> Pending {
        let soon = Instant::now() + Duration::from_secs(60);
        let pending = queue.admit(&Client::Key(key), pictures, soon).unwrap();
        (0..pictures).for_each(|picture| put(&pending, picture).unwrap());
        pending
    }

    fn put(pending: &Pending, picture: usize) -> Result<(), Refusal> {
        let own = OwnOptions {
            seed: 0,
            always: false,
        };
        let pixels = Picture::new(rgb(1, 1), vec![0.0; 3]).unwrap();
        pending.put(0, picture, pixels, own)
    }

    /// The request and picture numbers that a device gets.
    fn taken(queue: &Queue, most: usize) -> Vec<(u64, usize)> {
        let jobs = queue.take(0, most, false);
        let numbers = jobs
            .iter()
            .map(|job| (job.name.ask.number, job.name.picture));
        numbers.collect()
    }

    #[test]
    fn clients_and_their_requests_are_served_in_turn() {
        let queue = queue(1);
        let _long = admitted(&queue, 7, 4);
        let _short = admitted(&queue, 7, 1);
        let _other = admitted(&queue, 8, 2);
        let order = [(0, 0), (2, 0), (1, 0), (2, 1), (0, 1), (0, 2)];
        assert_eq!(taken(&queue, 6), order);
        assert_eq!(taken(&queue, 6), [(0, 3)]);
        assert_eq!(taken(&queue, 6), []);
    }

    #[test]
    fn equal_requests_of_one_client_are_served_in_order() {
        let queue = queue(1);
        let _all: Vec<Pending> = (0..5).map(|_| admitted(&queue, 1, 1)).collect();
        assert_eq!(taken(&queue, 9), [0, 1, 2, 3, 4].map(|number| (number, 0)));
    }

    #[test]
    fn a_client_leaves_room_for_another() {
        let queue = queue(1);
        let client = |key| Client::Key(key);
        let soon = Instant::now() + Duration::from_secs(60);
        let first = admitted(&queue, 1, 6);
        assert_eq!(queue.most_pictures(), 6);
        for pictures in [1, usize::MAX / 4] {
            let refused = queue.admit(&client(1), pictures, soon).unwrap_err();
            assert_eq!(refused.status, 429);
        }
        let second = admitted(&queue, 2, 4);
        let third = admitted(&queue, 3, 2);
        assert_eq!(queue.held().0, 12);
        assert!(queue.check_room(&client(4)).is_err());
        drop((second, third));
        assert!(queue.check_room(&client(4)).is_ok() && queue.check_room(&client(1)).is_err());
        drop(first);
        assert_eq!((queue.held(), queue.waiting()), ((0, 0), 0));
        assert!(queue.check_room(&client(1)).is_ok());
    }

    #[test]
    fn who_leaves_gives_back_the_room_and_the_line() {
        let queue = queue(1);
        let gone = admitted(&queue, 1, 3);
        let stays = admitted(&queue, 1, 1);
        let [first]: [_; 1] = queue.take(0, 1, false).try_into().unwrap();
        assert!(!first.name.is_over());
        drop(gone);
        assert!(first.name.is_over());
        assert_eq!((queue.held().0, queue.waiting()), (1, 1));
        assert_eq!(taken(&queue, 9), [(1, 0)]);
        drop(stays);
        let bytes = queue.hold_bytes(60).unwrap();
        assert_eq!(queue.hold_bytes(60).unwrap_err().status, 429);
        drop(bytes);
        let mut all = queue.hold_bytes(100).unwrap();
        all.shrink(10);
        assert_eq!(queue.held().1, 10);
    }

    #[test]
    fn what_is_late_is_not_begun() {
        let queue = queue(1);
        let late = queue.admit(&Client::Key(1), 1, Instant::now()).unwrap();
        put(&late, 0).unwrap();
        assert_eq!(taken(&queue, 9), []);
    }

    #[tokio::test]
    async fn a_lost_device_s_pictures_come_first_and_the_last_loss_refuses_all() {
        let queue = queue(2);
        let mut pending = admitted(&queue, 1, 6);
        // Each device gets its share.
        let lost = queue.take(0, 9, false);
        assert_eq!(lost.len(), 3);
        assert_eq!(queue.lose_device(0, lost), 1);
        assert!(queue.has_devices());
        let all = queue.take(0, 9, false);
        let order: Vec<usize> = all.iter().map(|job| job.name.picture).collect();
        assert_eq!(order, [0, 1, 2, 3, 4, 5]);
        assert_eq!(queue.lose_device(0, all), 0);
        assert!(!queue.has_devices());
        assert_eq!(pending.all().await.unwrap_err().status, 503);
        assert_eq!(put(&pending, 0).unwrap_err().status, 503);
    }

    #[test]
    fn retry_after_follows_the_measured_rate() {
        let queue = queue(2);
        let _most = admitted(&queue, 1, 6);
        (0..200).for_each(|_| queue.took(30.0));
        let refused = queue.check_room(&Client::Key(1)).unwrap_err();
        assert_eq!(refused.retry_after.unwrap().as_secs(), 15);
    }
}
