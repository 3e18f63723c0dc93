//! Helping hands for compression, which is nearly all of the work of a large snapshot. The loop stays one thread: it hands
//! out pieces of the database and takes them back, compressed, in the same order.
//!
//! A hand knows nothing but bytes: no file, no store, no clock. It ends when its crew is dropped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle, available_parallelism};

use crate::error::{Error, Kind, Result};
use crate::format::pieces::{Packer, Piece};

/// More would take memory and memory bandwidth, and on a small machine the application's cores.
const MOST: usize = 2;
/// Pieces that wait at a hand besides the one in it: so it need not wait for the loop.
const AHEAD: usize = 1;
/// Deflate's state is on the heap.
const STACK: usize = 128 << 10;

/// There is one crew in a process, however many snapshots are under way: who comes second works alone.
static ENGAGED: AtomicBool = AtomicBool::new(false);

/// Bytes of the database, and what becomes of them. The buffers are used again and again.
#[derive(Default)]
pub struct Job {
    /// The first `len` bytes are the payload.
    pub pages: Vec<u8>,
    pub len: usize,
    pub piece: Piece,
}

pub struct Crew {
    hands: Vec<Hand>,
    idle: Vec<Job>,
    /// Pieces given out so far, and taken back.
    given: usize,
    taken: usize,
}

struct Hand {
    /// None: to be ended.
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Job>,
    thread: Option<JoinHandle<()>>,
}

impl Crew {
    /// As many hands as are worth while here; none where there is one core, no thread to be had, or another crew at work.
    pub fn new(level: u32, piece_len: usize) -> Crew {
        let cores = available_parallelism().map_or(1, usize::from);
        let wanted = if cores < 2 || ENGAGED.swap(true, Ordering::SeqCst) { 0 } else { cores.min(MOST) };
        let hands: Vec<Hand> = (0..wanted).map_while(|_| Hand::new(level)).collect();
        let job = || Job { pages: vec![0; piece_len], ..Job::default() };
        let idle = (0..hands.len() * (1 + AHEAD)).map(|_| job()).collect();
        Crew { hands, idle, given: 0, taken: 0 }
    }

    /// Whether there is nobody, so that the loop must do it itself.
    pub fn is_empty(&self) -> bool {
        self.hands.is_empty()
    }

    /// An empty job, if somebody has time for it.
    pub fn idle(&mut self) -> Option<Job> {
        self.idle.pop()
    }

    /// Takes a job back that came to nothing, or one that is done.
    pub fn rest(&mut self, job: Job) {
        self.idle.push(job);
    }

    /// Hands out the next piece.
    pub fn give(&mut self, job: Job) -> Result<()> {
        let at = self.given % self.hands.len();
        self.given += 1;
        let hand = self.hands.get(at).and_then(|hand| hand.jobs.as_ref());
        hand.and_then(|jobs| jobs.send(job).ok()).ok_or_else(lost)
    }

    /// The oldest piece that was given out, as soon as it is compressed; none if all were taken. Waits at most for one
    /// piece, as the loop would if it did the work itself.
    pub fn take(&mut self) -> Result<Option<Job>> {
        if self.taken == self.given {
            return Ok(None);
        }
        let at = self.taken % self.hands.len();
        self.taken += 1;
        let job = self.hands.get(at).and_then(|hand| hand.done.recv().ok());
        job.map(Some).ok_or_else(lost)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        if !self.hands.is_empty() {
            ENGAGED.store(false, Ordering::SeqCst);
        }
    }
}

impl Hand {
    fn new(level: u32) -> Option<Hand> {
        let (jobs, todo) = sync_channel::<Job>(1 + AHEAD);
        let (finished, done) = sync_channel::<Job>(1 + AHEAD);
        let work = move || {
            let mut packer = Packer::new(level);
            for mut job in todo {
                packer.pack(job.pages.get(..job.len).unwrap_or_default(), &mut job.piece);
                if finished.send(job).is_err() {
                    return;
                }
            }
        };
        let thread = Builder::new().name("deflate".into()).stack_size(STACK).spawn(work).ok()?;
        Some(Hand { jobs: Some(jobs), done, thread: Some(thread) })
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.jobs = None;
        // It is at most in the middle of one piece, and its results have room.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lost() -> Error {
    Error::new(Kind::Database, "snapshot: a thread that compresses has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_back_in_order_however_long_each_takes() {
        let mut crew = Crew::new(1, 4);
        if crew.is_empty() {
            return;
        }
        let mut seen = Vec::new();
        for number in 0..50u8 {
            let mut job = match crew.idle() {
                Some(job) => job,
                None => {
                    let job = crew.take().unwrap().unwrap();
                    seen.push(job.pages[0]);
                    job
                }
            };
            job.pages[0] = number;
            job.len = 1 + usize::from(number % 3);
            crew.give(job).unwrap();
        }
        while let Some(job) = crew.take().unwrap() {
            seen.push(job.pages[0]);
        }
        assert_eq!(seen, (0..50).collect::<Vec<u8>>());
    }

    #[test]
    fn a_crew_can_be_dropped_in_the_middle_of_its_work() {
        let mut crew = Crew::new(1, 100_000);
        while let Some(mut job) = crew.idle() {
            job.len = job.pages.len();
            crew.give(job).unwrap();
        }
    }
}
