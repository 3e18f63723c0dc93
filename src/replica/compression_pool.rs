//! Threads that compress blocks of a snapshot, which is nearly all of its work. The event loop hands out blocks and collects
//! them in the same order.
//!
//! A worker has nothing but bytes: no file, no store, no clock. Workers stop when the pool is dropped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle, available_parallelism};

use crate::error::{Error, Kind, Result};
use crate::format::deflate_blocks::{Block, BlockCompressor};
use crate::format::snapshot::LEVEL;

/// More would take memory and memory bandwidth, and on a small machine the application's cores.
const MAX_WORKERS: usize = 2;
/// Blocks that wait at a worker besides the one in it, so that it need not wait for the loop.
const QUEUE_DEPTH: usize = 1;
/// Deflate's state is on the heap.
const STACK_BYTES: usize = 128 << 10;

/// There is one pool in a process, however many snapshots are under way: the second one compresses without.
static IN_USE: AtomicBool = AtomicBool::new(false);

/// Bytes of the database, and what becomes of them. The buffers are used again and again.
#[derive(Default)]
pub struct CompressionJob {
    /// The first `len` bytes are the payload.
    pub pages: Vec<u8>,
    pub len: usize,
    /// gzip's level.
    pub level: u32,
    pub block: Block,
}

pub struct CompressionPool {
    workers: Vec<Worker>,
    free_buffers: Vec<CompressionJob>,
    /// Pieces given out so far, and taken back.
    submitted: usize,
    collected: usize,
}

struct Worker {
    /// None: to be ended.
    jobs: Option<SyncSender<CompressionJob>>,
    done: Receiver<CompressionJob>,
    thread: Option<JoinHandle<()>>,
}

impl CompressionPool {
    /// As many workers as help here; none if there is one core, no thread can be started, or another pool is at work.
    pub fn new(piece_len: usize) -> CompressionPool {
        let cores = available_parallelism().map_or(1, usize::from);
        let wanted = if cores < 2 || IN_USE.swap(true, Ordering::SeqCst) { 0 } else { cores.min(MAX_WORKERS) };
        let hands: Vec<Worker> = (0..wanted).map_while(|_| Worker::new()).collect();
        let job = || CompressionJob { pages: vec![0; piece_len], ..CompressionJob::default() };
        let idle = (0..hands.len() * (1 + QUEUE_DEPTH)).map(|_| job()).collect();
        CompressionPool { workers: hands, free_buffers: idle, submitted: 0, collected: 0 }
    }

    /// Whether there is nobody, so that the loop must do it itself.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// An empty job, if a worker has time for it.
    pub fn take_buffer(&mut self) -> Option<CompressionJob> {
        self.free_buffers.pop()
    }

    /// Takes a job back that came to nothing, or one that is done.
    pub fn recycle(&mut self, job: CompressionJob) {
        self.free_buffers.push(job);
    }

    /// Hands out the next piece.
    pub fn submit(&mut self, job: CompressionJob) -> Result<()> {
        let at = self.submitted % self.workers.len();
        self.submitted += 1;
        let jobs = self.workers.get(at).and_then(|worker| worker.jobs.as_ref());
        jobs.and_then(|jobs| jobs.send(job).ok()).ok_or_else(worker_died)
    }

    /// The oldest piece that was given out, as soon as it is compressed; none if all were taken. Waits at most for one
    /// piece, as the loop would if it did the work itself.
    pub fn next_result(&mut self) -> Result<Option<CompressionJob>> {
        if self.collected == self.submitted {
            return Ok(None);
        }
        let at = self.collected % self.workers.len();
        self.collected += 1;
        let job = self.workers.get(at).and_then(|worker| worker.done.recv().ok());
        job.map(Some).ok_or_else(worker_died)
    }
}

impl Drop for CompressionPool {
    fn drop(&mut self) {
        if !self.workers.is_empty() {
            IN_USE.store(false, Ordering::SeqCst);
        }
    }
}

impl Worker {
    fn new() -> Option<Worker> {
        let (jobs, todo) = sync_channel::<CompressionJob>(1 + QUEUE_DEPTH);
        let (finished, done) = sync_channel::<CompressionJob>(1 + QUEUE_DEPTH);
        let work = move || {
            let mut packer = BlockCompressor::new(LEVEL);
            for mut job in todo {
                packer.set_level(job.level);
                packer.compress(job.pages.get(..job.len).unwrap_or_default(), &mut job.block);
                if finished.send(job).is_err() {
                    return;
                }
            }
        };
        let thread = Builder::new().name("deflate".into()).stack_size(STACK_BYTES).spawn(work).ok()?;
        Some(Worker { jobs: Some(jobs), done, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        // It is at most in the middle of one piece, and its results have room.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn worker_died() -> Error {
    Error::new(Kind::Database, "snapshot: a thread that compresses has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_back_in_order_however_long_each_takes() {
        let mut pool = CompressionPool::new(4);
        if pool.is_empty() {
            return;
        }
        let mut seen = Vec::new();
        for number in 0..50u8 {
            let mut job = match pool.take_buffer() {
                Some(job) => job,
                None => {
                    let job = pool.next_result().unwrap().unwrap();
                    seen.push(job.pages[0]);
                    job
                }
            };
            job.pages[0] = number;
            job.len = 1 + usize::from(number % 3);
            pool.submit(job).unwrap();
        }
        while let Some(job) = pool.next_result().unwrap() {
            seen.push(job.pages[0]);
        }
        assert_eq!(seen, (0..50).collect::<Vec<u8>>());
    }

    #[test]
    fn a_crew_can_be_dropped_in_the_middle_of_its_work() {
        let mut pool = CompressionPool::new(100_000);
        while let Some(mut job) = pool.take_buffer() {
            job.len = job.pages.len();
            pool.submit(job).unwrap();
        }
    }
}
