//! The sentences that wait for their translation, between the requests and the worker.
//!
//! A sentence is *waiting* until it is sent to the worker, then *sent* until it is answered. What a worker
//! that died had been sent is waiting again, in its old place.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tandem_cluster::run::control::{Answer, Link, Sentence, Translated};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;

/// How often a batch with a sentence is begun before the sentence is given up.
const TRIES: usize = 2;
/// A worker has at least so many sentences to choose its batches from, where there are that many.
const LEAST_SENT: usize = 64;
/// A message to the worker ends with the sentence that makes it longer than this.
const MESSAGE_BYTES: usize = 1 << 20;
/// How long a thread sleeps for which there is nothing to do.
const IDLE: Duration = Duration::from_secs(1);

/// Why a sentence has no translation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unanswered {
    /// There is no room for more sentences.
    #[error("too many sentences are waiting (--queue {0}); try again later")]
    Full(usize),
    /// The server takes nothing more.
    #[error("the server is stopping")]
    Stopping,
    /// The worker cannot translate it.
    #[error("{0}")]
    Failed(String),
}

type Outcome = Result<Translated, Unanswered>;

/// Room for sentences, which they give back when the worker has nothing more to do with them.
pub(super) struct Room {
    permits: OwnedSemaphorePermit,
    _of_streams: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Room for one of the sentences, if there is any left.
    pub(super) fn split(&mut self) -> Option<Self> {
        Some(Self { permits: self.permits.split(1)?, _of_streams: None })
    }
}

/// The sentences of all requests.
pub(super) struct Queue {
    state: Mutex<State>,
    /// There may be something to send.
    changed: Condvar,
    room: Arc<Semaphore>,
    /// Streams, which wait for room, leave half of it to requests, which do not.
    room_of_streams: Arc<Semaphore>,
    size: usize,
    closed: CancellationToken,
    metrics: Arc<Metrics>,
}

struct State {
    worker: Worker,
    waiting: VecDeque<(u64, Entry)>,
    sent: BTreeMap<u64, Entry>,
    next: u64,
    is_closed: bool,
    has_ended: bool,
}

enum Worker {
    /// It does not translate, because of this.
    Away(String),
    /// It can be sent so many sentences at a time.
    Ready { link: Link, most_sent: usize, longest: usize },
}

struct Entry {
    text: String,
    tries: usize,
    reply: oneshot::Sender<Outcome>,
    _room: Room,
}

impl Queue {
    /// An empty queue with room for `size` sentences.
    pub(super) fn new(size: usize, metrics: Arc<Metrics>) -> Self {
        let state = State {
            worker: Worker::Away("the model is being loaded".into()),
            waiting: VecDeque::new(),
            sent: BTreeMap::new(),
            next: 0,
            is_closed: false,
            has_ended: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            room: Arc::new(Semaphore::new(size)),
            room_of_streams: Arc::new(Semaphore::new(size.div_ceil(2))),
            size,
            closed: CancellationToken::new(),
            metrics,
        }
    }

    /// Room for so many sentences at once.
    ///
    /// # Errors
    /// [`Unanswered::Full`].
    pub(super) fn room(&self, sentences: usize) -> Result<Room, Unanswered> {
        let wanted = u32::try_from(sentences).map_err(|_| Unanswered::Full(self.size))?;
        self.state().forget_abandoned();
        match Arc::clone(&self.room).try_acquire_many_owned(wanted) {
            Ok(permits) => Ok(Room { permits, _of_streams: None }),
            Err(TryAcquireError::Closed) => Err(Unanswered::Stopping),
            Err(TryAcquireError::NoPermits) => Err(Unanswered::Full(self.size)),
        }
    }

    /// Waits for room for one line of a stream.
    ///
    /// # Errors
    /// [`Unanswered::Stopping`].
    pub(super) async fn wait_for_room(&self) -> Result<Room, Unanswered> {
        let of_streams = Arc::clone(&self.room_of_streams).acquire_owned().await;
        let permits = Arc::clone(&self.room).acquire_owned().await;
        match (of_streams, permits) {
            (Ok(of_streams), Ok(permits)) => Ok(Room { permits, _of_streams: Some(of_streams) }),
            _ => Err(Unanswered::Stopping),
        }
    }

    /// Puts a sentence at the end; its outcome can be received.
    ///
    /// # Errors
    /// [`Unanswered::Stopping`].
    pub(super) fn push(
        &self,
        text: String,
        room: Room,
    ) -> Result<oneshot::Receiver<Outcome>, Unanswered> {
        let mut state = self.state();
        if state.is_closed {
            return Err(Unanswered::Stopping);
        }
        let (reply, outcome) = oneshot::channel();
        let id = state.next;
        state.next += 1;
        state.waiting.push_back((id, Entry { text, tries: 0, reply, _room: room }));
        self.note(&state);
        Ok(outcome)
    }

    /// Sends sentences to the worker until [`Self::end`]. Writing to a worker can block, so this has a thread
    /// of its own.
    pub(super) fn send_all(&self) {
        let mut state = self.state();
        while !state.has_ended {
            let Some((link, sentences)) = state.take() else {
                let (woken, _) =
                    self.changed.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
                state = woken;
                continue;
            };
            self.metrics.queue(state.waiting.len() + state.sent.len());
            drop(state);
            link.translate(sentences);
            state = self.state();
        }
    }

    /// A worker has loaded the model.
    pub(super) fn ready(&self, link: Link, batch_tokens: usize, longest: usize) {
        // Enough to fill two batches with sentences of 8 tokens.
        let most_sent = (batch_tokens / 4).max(LEAST_SENT);
        let mut state = self.state();
        state.worker = Worker::Ready { link, most_sent, longest };
        self.note(&state);
    }

    /// The worker translates a batch.
    pub(super) fn began(&self, sentences: &[u64]) {
        self.metrics.batch(sentences.len());
        let mut state = self.state();
        for id in sentences {
            if let Some(entry) = state.sent.get_mut(id) {
                entry.tries += 1;
            }
        }
    }

    /// The worker has answered.
    pub(super) fn answered(&self, answers: Vec<Answer>) {
        let mut state = self.state();
        for Answer { id, outcome } in answers {
            if let Some(entry) = state.sent.remove(&id) {
                if let Ok(translated) = &outcome {
                    self.metrics.sentence(translated.is_cut);
                }
                // Whoever asked may have gone.
                let _ = entry.reply.send(outcome.map_err(Unanswered::Failed));
            }
        }
        self.note(&state);
    }

    /// The worker is gone. What it was translating is given up if that was not the first time.
    pub(super) fn lost(&self, cause: &str) {
        let mut state = self.state();
        state.worker = Worker::Away(format!("the worker is being restarted: {cause}"));
        while let Some((id, entry)) = state.sent.pop_last() {
            if entry.tries < TRIES {
                state.waiting.push_front((id, entry));
            } else {
                let cause = format!("the worker failed twice in the sentence's batch: {cause}");
                let _ = entry.reply.send(Err(Unanswered::Failed(cause)));
            }
        }
        self.note(&state);
    }

    /// Takes nothing more; what is there is still translated.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.room_of_streams.close();
        self.room.close();
        self.closed.cancel();
    }

    /// Cancelled by [`Self::close`].
    pub(super) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// Answers everything that is left with `why`, and ends [`Self::send_all`].
    pub(super) fn end(&self, why: &Unanswered) {
        self.close();
        let mut state = self.state();
        state.has_ended = true;
        let waiting = std::mem::take(&mut state.waiting).into_iter().map(|(_, entry)| entry);
        for entry in waiting.chain(std::mem::take(&mut state.sent).into_values()) {
            let _ = entry.reply.send(Err(why.clone()));
        }
        self.note(&state);
    }

    /// Whether no sentence is left that somebody waits for.
    pub(super) fn is_empty(&self) -> bool {
        let mut state = self.state();
        state.forget_abandoned();
        state.waiting.is_empty() && state.sent.is_empty()
    }

    /// The tokens of the longest sentence that the worker does not cut, if a worker is ready.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn longest(&self) -> Result<usize, String> {
        let state = self.state();
        match &state.worker {
            _ if state.is_closed => Err(Unanswered::Stopping.to_string()),
            Worker::Ready { longest, .. } => Ok(*longest),
            Worker::Away(why) => Err(why.clone()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, state: &State) {
        self.metrics.queue(state.waiting.len() + state.sent.len());
        self.changed.notify_all();
    }
}

impl State {
    /// Drops what nobody waits for any more.
    fn forget_abandoned(&mut self) {
        self.waiting.retain(|(_, entry)| !entry.reply.is_closed());
    }

    /// The next sentences for the worker, if it can be sent any.
    fn take(&mut self) -> Option<(Link, Vec<Sentence>)> {
        let Worker::Ready { link, most_sent, .. } = &self.worker else { return None };
        let (mut sentences, mut bytes) = (Vec::new(), 0);
        while self.sent.len() < *most_sent
            && bytes < MESSAGE_BYTES
            && let Some((id, entry)) = self.waiting.pop_front()
        {
            // Nobody waits for it any more.
            if entry.reply.is_closed() {
                continue;
            }
            bytes += entry.text.len();
            sentences.push(Sentence { id, text: entry.text.clone() });
            self.sent.insert(id, entry);
        }
        (!sentences.is_empty()).then(|| (link.clone(), sentences))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tandem_cluster::run::control::Server;

    struct Case {
        queue: Queue,
        server: Server,
    }

    impl Case {
        fn new(size: usize) -> Self {
            let server = Server::bind(&[], 1, "secret".into(), 1).unwrap();
            let queue = Queue::new(size, Arc::new(Metrics::default()));
            let case = Self { queue, server };
            case.ready();
            case
        }

        fn ready(&self) {
            self.queue.ready(self.server.link(), 0, 24);
        }

        fn push(&self, text: &str) -> oneshot::Receiver<Outcome> {
            self.queue.push(text.into(), self.queue.room(1).unwrap()).unwrap()
        }

        /// The numbers and texts that the worker is sent.
        fn sent(&self) -> Vec<(u64, String)> {
            let taken = self.queue.state().take();
            let sentences = taken.map_or_else(Vec::new, |(_, sentences)| sentences);
            sentences.into_iter().map(|sentence| (sentence.id, sentence.text)).collect()
        }

        fn answer(&self, id: u64, text: &str) {
            let outcome = Ok(Translated { text: text.into(), is_cut: false });
            self.queue.answered(vec![Answer { id, outcome }]);
        }
    }

    fn text(outcome: &mut oneshot::Receiver<Outcome>) -> Result<String, Unanswered> {
        outcome.try_recv().expect("an outcome").map(|translated| translated.text)
    }

    #[test]
    fn a_dead_workers_sentences_keep_their_place_and_are_tried_twice() {
        let case = Case::new(9);
        let [mut one, mut two, _three] = ["eins", "zwei", "drei"].map(|text| case.push(text));
        assert_eq!(case.sent(), [(0, "eins".into()), (1, "zwei".into()), (2, "drei".into())]);
        case.queue.began(&[0, 1]);
        case.answer(1, "two");
        assert_eq!(text(&mut two).unwrap(), "two");
        case.push("vier").close();
        case.queue.lost("killed");
        assert_eq!(case.queue.longest().unwrap_err(), "the worker is being restarted: killed");
        assert_eq!(case.sent(), [], "there is no worker");
        case.ready();
        // Nobody waits for the fourth.
        assert_eq!(case.sent(), [(0, "eins".into()), (2, "drei".into())]);
        case.queue.began(&[0]);
        case.queue.lost("killed");
        let error = text(&mut one).unwrap_err().to_string();
        assert_eq!(error, "the worker failed twice in the sentence's batch: killed");
        case.ready();
        assert_eq!(case.sent(), [(2, "drei".into())], "it was in no batch");
    }

    #[test]
    fn room_is_given_back_by_the_answer_or_by_giving_up_before_it_was_sent() {
        let case = Case::new(2);
        let full = || case.queue.room(1).err();
        assert_eq!(case.queue.room(3).err(), Some(Unanswered::Full(2)));
        let one = case.push("eins");
        let mut two = case.push("zwei");
        assert_eq!(full(), Some(Unanswered::Full(2)));
        drop(one);
        assert_eq!(full(), None);
        assert_eq!(case.sent(), [(1, "zwei".into())]);
        drop(case.queue.room(1).unwrap());
        case.answer(1, "two");
        assert_eq!(text(&mut two).unwrap(), "two");
        assert!(case.queue.room(2).is_ok() && case.queue.is_empty());
    }

    #[test]
    fn streams_leave_half_of_the_room() {
        let case = Case::new(4);
        let mut lines: Vec<_> = (0..9).map(|_| Box::pin(case.queue.wait_for_room())).collect();
        let mut has_room = Vec::new();
        for line in &mut lines {
            has_room.push(line.as_mut().now_or_never());
        }
        assert_eq!(has_room.iter().flatten().count(), 2);
        assert!(case.queue.room(2).is_ok(), "however many lines wait");
        has_room.remove(0);
        assert!(lines[2].as_mut().now_or_never().is_some(), "it is the next");
        case.queue.close();
        let waiting = lines[3].as_mut().now_or_never().expect("an end");
        assert_eq!(waiting.err(), Some(Unanswered::Stopping));
    }

    #[test]
    fn a_closed_queue_takes_nothing_and_is_emptied() {
        let case = Case::new(4);
        let (mut one, mut two) = (case.push("eins"), case.push("zwei"));
        let room = case.queue.room(1).unwrap();
        case.queue.close();
        assert_eq!(case.queue.push("drei".into(), room).err(), Some(Unanswered::Stopping));
        assert_eq!(case.sent().len(), 2);
        case.answer(0, "one");
        assert_eq!(text(&mut one).unwrap(), "one");
        assert!(!case.queue.is_empty());
        case.queue.end(&Unanswered::Stopping);
        assert_eq!(text(&mut two).unwrap_err(), Unanswered::Stopping);
        assert!(case.queue.is_empty());
    }

    #[test]
    fn a_worker_is_sent_only_so_many_at_a_time() {
        let case = Case::new(100);
        let _outcomes: Vec<_> = (0..100).map(|_| case.push("eins")).collect();
        assert_eq!(case.sent().len(), LEAST_SENT);
        assert_eq!(case.sent(), []);
        case.answer(7, "one");
        assert_eq!(case.sent(), [(LEAST_SENT as u64, "eins".into())]);
    }
}
