use super::*;
use crate::format::differences::Composer;
use crate::source::ReadResult;
use crate::source::tests::{Live, copy};

/// The outbox is full, say, and the round before could not move the pin: what was committed since is not copied, and
/// anyone who wrote next would restart the WAL, over it.
#[test]
fn lock_won_without_progress_ends_without_checkpoint() {
    let live = Live::new("sealed");
    let mut source = live.follow();
    live.commit();
    assert_eq!(copy(&mut source), 1);
    live.commit();
    let now = Instant::now();
    assert!(try_lock_writers(&mut source, now, now).unwrap() && source.blocks_writers());
    assert!(!source.finish_round(now).unwrap() && !source.blocks_writers());
    (0..3).for_each(|_| live.commit());
    assert_eq!(copy(&mut source), 4);
}

/// Reads one batch, as a turn that is over in the middle does.
fn copy_batch(source: &mut Source, buffer: &mut [u8]) {
    let batch = source.read(buffer, &mut Composer::default()).unwrap();
    assert!(matches!(batch, ReadResult::Batch(_)));
}

/// No round ends by itself: something is committed while the last batch is copied.
#[test]
fn a_writer_that_never_pauses_lets_the_wal_stay_short() {
    let live = Live::new("never-pausing");
    live.application.execute_batch("PRAGMA synchronous = OFF").unwrap();
    let (mut source, mut now) = (live.follow(), Instant::now());
    let (mut buffer, mut longest, mut held) = (vec![0; 1 << 20], 0, 0);
    live.commit();
    for _ in 0..120 {
        (0..100).for_each(|_| live.commit());
        copy_batch(&mut source, &mut buffer);
        live.commit();
        now += Duration::from_millis(20);
        while source.lock_to_catch_up(now).unwrap() {
            held += 1;
            live.application.execute("DELETE FROM t", []).expect_err("writers are held off");
            assert!(copy(&mut source) <= LOCKED_CHECKPOINT_COPY.0 as usize);
            source.finish_round(now).unwrap();
        }
        assert!(!source.blocks_writers());
        longest = longest.max(source.header().unwrap().frames);
    }
    assert!(held > 0 && longest <= 5000, "{longest} frames, held off {held} times");
    live.commit();
    assert!(source.has_work(now).unwrap());
    assert!(copy(&mut source) >= 1);
}

/// What changed since the pin is kept for the snapshot while writers go on: under the lock is little left of that, too.
#[test]
fn what_a_snapshot_needs_is_kept_before_writers_are_held_off() {
    let live = Live::new("held-for-snapshot");
    let fill = |sql: &str| live.application.execute_batch(sql).unwrap();
    fill("PRAGMA synchronous = OFF");
    fill(
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<6000)
          INSERT INTO t SELECT zeroblob(3000) FROM n",
    );
    let (mut source, now) = (live.follow(), Instant::now());
    let meta = std::env::temp_dir();
    let _snapshot = source.snapshot(&meta).unwrap().unwrap();
    source.finish_round(now).unwrap();
    fill("UPDATE t SET a = zeroblob(3001)");
    copy(&mut source);
    live.commit();
    let now = now + MIN_CHECKPOINT_INTERVAL;
    let refused = (0..100).take_while(|_| !source.lock_to_catch_up(now).unwrap()).count();
    assert!(refused > 10 && source.blocks_writers(), "refused {refused} times");
    copy(&mut source);
    let rounds = (0..100).take_while(|_| source.finish_round(now).unwrap() && source.blocks_writers()).count();
    assert!(rounds <= 2, "{rounds} more rounds while writers are held off");
    assert!(!source.blocks_writers());
}

/// A copy that is far behind holds nobody off, and nor does one beside a short WAL.
#[test]
fn writers_are_held_off_for_a_long_wal_and_a_short_rest_only() {
    let live = Live::new("long-and-short");
    live.application.execute_batch("PRAGMA synchronous = OFF").unwrap();
    let (mut source, now) = (live.follow(), Instant::now());
    (0..3000).for_each(|_| live.commit());
    copy(&mut source);
    assert!(!source.lock_to_catch_up(now).unwrap(), "the WAL is short");
    (0..1500).for_each(|_| live.commit());
    assert!(!source.lock_to_catch_up(now).unwrap(), "much is left");
    copy(&mut source);
    live.commit();
    assert!(source.lock_to_catch_up(now).unwrap());
    source.release_writers();
    live.commit();
}

#[test]
fn work_under_the_lock_is_bounded_in_frames_and_bytes() {
    let few = |frames, size, most| within_limit(frames, PageSize::new(size).unwrap(), most);
    for (size, most) in [(512, 256), (4096, 254), (65_536, 15)] {
        assert!(few(most, size, LOCKED_CHECKPOINT_COPY) && !few(most + 1, size, LOCKED_CHECKPOINT_COPY), "{size}");
    }
    for (size, most) in [(512, 1000), (4096, 1000), (65_536, 63)] {
        assert!(
            few(most, size, LOCKED_CHECKPOINT_BACKFILL) && !few(most + 1, size, LOCKED_CHECKPOINT_BACKFILL),
            "{size}"
        );
    }
}
