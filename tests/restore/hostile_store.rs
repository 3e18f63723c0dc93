//! A store that somebody made up: headers that are true and sizes that are absurd, more names than anybody stores, names
//! that differ from ours in a letter. None of it takes more memory or disk than what is stored is worth.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use litestream::error::Kind;
use litestream::format::database_checksum::DatabaseChecksum;
use litestream::format::deflate_blocks::{Block, BlockCompressor};
use litestream::format::differences::Composer;
use litestream::format::key::{SegmentKey, SnapshotKey};
use litestream::format::listing::Listing;
use litestream::format::plan::{PlanTarget, listed_end, plan};
use litestream::format::position::{Generation, Offset, PageSize, WalPosition};
use litestream::format::running_checksum::RunningChecksum;
use litestream::format::segment::{self, Differences, MemberHeader, SegmentEncoder};
use litestream::format::snapshot::{SnapshotEncoder, SnapshotHeader};
use litestream::format::time::Timestamp;
use litestream::format::wal::{ByteOrder, Checksum, FRAME_HEADER, Salt, WAL_HEADER, WalHeader};

use crate::support;
use crate::support::raw;
use crate::support::{
    Bed, CORRUPT, DATABASE, LOCKED, NOTHING, Ran, assert_equal, litestream, on_a_directory_only, restore_command,
};

on_a_directory_only! {
    a_database_of_zeros_is_restored_in_the_memory_of_any_other
    a_snapshot_larger_than_its_header_says_is_given_up_at_once
    a_frame_that_leaps_far_ahead_asks_for_no_disk
    a_leap_behind_the_point_to_stop_at_asks_for_nothing_either
    snapshot_larger_than_the_disk_is_refused_at_once
    names_in_other_letters_are_of_strangers
    a_name_in_other_letters_beside_ours_is_never_read
    two_names_of_one_directory_are_one_store
    a_last_segment_of_any_size_is_not_read_into_memory
}

/// Bytes of addresses that a process may have: enough for the program and any restore, and far from what an absurd object
/// unpacks to.
const MEMORY: u64 = 96 << 20;
const PAGE: u32 = 65_536;
/// In pages: 281 TB.
const ABSURD: u32 = u32::MAX - 1;
const GENERATION: u64 = 0x019a_af3c_5d10_a1b2;

/// Runs a command with no more than so many bytes of addresses, those of the program itself included.
fn within(bed: &Bed, bytes: u64, command: &mut Command) -> Ran {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: setrlimit(2) is allowed between fork and exec.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_AS, &limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    bed.run_command(command)
}

fn put(bed: &Bed, name: &str, bytes: &[u8]) -> PathBuf {
    let path = bed.path("store").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

/// A snapshot of so many pages of zeros, of which `written` are in it.
fn put_snapshot(bed: &Bed, pages: u32, written: u32) {
    let page_size = PageSize::new(PAGE).unwrap();
    let mut running = RunningChecksum::new(page_size);
    let page = vec![0; PAGE as usize];
    (0..written).for_each(|_| running.push(&page));
    let header = SnapshotHeader {
        generation: Generation::new(GENERATION),
        position: WalPosition { index: 0, offset: Offset::ZERO },
        page_size,
        order: ByteOrder::Little,
        wal_known: false,
        salt: Salt(0, 0),
        checksum: Checksum::default(),
        pages,
        time: Timestamp::from_millis(1),
        database: Some(running.sum()),
    };
    // The encoder refuses what its header belies: the header of another is put before it.
    let whole = |pages| {
        let (mut encoder, mut piece, mut out) =
            (SnapshotEncoder::new(&SnapshotHeader { pages, ..header }, None), Block::default(), Vec::new());
        let (mut blocks, some) = (BlockCompressor::new(9), vec![0; 64 * PAGE as usize]);
        let mut left = written as usize * PAGE as usize;
        while left > 0 {
            let count = left.min(some.len());
            blocks.compress(&some[..count], &mut piece);
            encoder.add(&piece, &mut out);
            left -= count;
        }
        (encoder.finish(&mut out).map(|()| out.clone()), out)
    };
    let (made, cut_short) = whole(pages);
    put(bed, &header.key().to_string(), &made.unwrap_or(cut_short));
}

/// A segment whose frames hold pages of zeros: each with its number, and the size of the database if it ends a transaction.
fn put_segment(bed: &Bed, frames: &[(u32, u32)]) {
    put_frames(bed, frames, false);
}

/// The same, as what the pages differ in or whole.
fn put_frames(bed: &Bed, frames: &[(u32, u32)], differences: bool) {
    let page_size = PageSize::new(PAGE).unwrap();
    let header = WalHeader {
        order: ByteOrder::Little,
        page_size,
        checkpoint: 0,
        salt: Salt(1, 2),
        checksum: Checksum::default(),
    };
    let mut payload = header.encode().to_vec();
    let header = WalHeader::parse(payload.first_chunk().unwrap()).unwrap();
    let mut sum = header.checksum;
    for (number, commit) in frames {
        let mut frame = vec![0; FRAME_HEADER + PAGE as usize];
        frame[..4].copy_from_slice(&number.to_be_bytes());
        frame[4..8].copy_from_slice(&commit.to_be_bytes());
        sum = sum.over_frame(ByteOrder::Little, &frame);
        for (at, word) in [1, 2, sum.0, sum.1].into_iter().enumerate() {
            frame[8 + at * 4..12 + at * 4].copy_from_slice(&word.to_be_bytes());
        }
        payload.extend(frame);
    }
    let (start, seen) = (WalPosition { index: 0, offset: Offset::ZERO }, Timestamp::from_millis(2));
    let member = MemberHeader {
        generation: Generation::new(GENERATION),
        start,
        index: 0,
        payload_offset: Offset::ZERO,
        end: Offset::end_of_frame(frames.len() as u32, page_size),
        page_size,
        order: ByteOrder::Little,
        part: false,
        unchecksummed: false,
        salt: header.salt,
        checksum_before: header.checksum,
        checksum_after: sum,
        pages: frames.last().unwrap().1,
        visible_after: seen,
        visible_by: seen,
        previous_crc: 0,
        differences: None,
        rollup: None,
    };
    let mut object = Vec::new();
    if differences {
        let mut composer = Composer::default();
        composer.begin(member.pages);
        let page = vec![0; PAGE as usize];
        payload[WAL_HEADER..].chunks_exact(page_size.frame()).for_each(|frame| composer.frame(frame, &page));
        assert!(composer.finish());
        let told = Differences { checksum: DatabaseChecksum::new(0), checkpoint: 0, tells_wal: true };
        let member = MemberHeader { differences: Some(told), ..member };
        SegmentEncoder::new(9).differences(&member, &composer, &mut object);
    } else {
        SegmentEncoder::new(9).member(&member, &[&payload], &mut object);
    }
    put(bed, &segment::key_of(&member, &member).to_string(), &object);
}

fn verify(bed: &Bed) -> Command {
    let mut command = litestream();
    command.arg("verify").arg(bed.url());
    command
}

/// Nothing is left of a restore that was refused.
fn assert_nothing_beside(output: &Path) {
    let beside = fs::read_dir(output.parent().unwrap()).unwrap();
    let left: Vec<_> = beside
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().contains("out.db"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A thousandth of its size is stored, as of a database that was emptied without VACUUM.
fn a_database_of_zeros_is_restored_in_the_memory_of_any_other(bed: &Bed) {
    let pages = 256 * 16;
    put_snapshot(bed, pages, pages);
    put_segment(bed, &[(1, pages)]);
    let stored: u64 = support::tree(&bed.path("store"))
        .iter()
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum();
    assert!(stored * 500 < u64::from(pages) * u64::from(PAGE), "{stored}");
    let output = bed.path("out.db");
    within(bed, MEMORY, &mut restore_command(&bed.url(), &output)).succeeded();
    assert_eq!(fs::metadata(&output).unwrap().len(), u64::from(pages) * u64::from(PAGE));
    within(bed, MEMORY, &mut verify(bed)).succeeded();
    // The limit is one.
    assert_ne!(within(bed, 8 << 20, &mut verify(bed)).status, 0);
}

/// Two pages by its header, and a gigabyte by what is in it.
fn a_snapshot_larger_than_its_header_says_is_given_up_at_once(bed: &Bed) {
    put_snapshot(bed, 2, 16 << 10);
    let output = bed.path("out.db");
    let complaint = ["/snapshots/", "payload: expected 131072 bytes, found more"];
    within(bed, MEMORY, &mut restore_command(&bed.url(), &output)).refused(CORRUPT, &complaint);
    assert_nothing_beside(&output);
}

fn a_frame_that_leaps_far_ahead_asks_for_no_disk(bed: &Bed) {
    let output = bed.path("out.db");
    for frames in [&[(ABSURD, 1)][..], &[(1, ABSURD)], &[(ABSURD, 0), (1, 1)], &[(1, ABSURD), (1, 1)]] {
        let _ = fs::remove_dir_all(bed.path("store"));
        put_snapshot(bed, 2, 2);
        put_segment(bed, frames);
        let ran = within(bed, MEMORY, &mut restore_command(&bed.url(), &output));
        ran.refused(DATABASE, &["/wal/", "expected room for 28", "TB"]);
        assert_nothing_beside(&output);
        let ran = within(bed, MEMORY, &mut verify(bed));
        assert_eq!(ran.status, DATABASE, "{}", ran.stderr);
        assert!(ran.stderr.contains("expected room for 28"), "{}", ran.stderr);
    }
}

/// A member is read to its end also where the restore stops inside of it.
fn a_leap_behind_the_point_to_stop_at_asks_for_nothing_either(bed: &Bed) {
    put_snapshot(bed, 2, 2);
    put_frames(bed, &[(1, 2), (1, ABSURD)], true);
    let output = bed.path("out.db");
    let position = format!("{GENERATION:016x}/0:{:x}", Offset::end_of_frame(1, PageSize::new(PAGE).unwrap()).get());
    let mut command = restore_command(&bed.url(), &output);
    let ran = within(bed, MEMORY, command.args(["-position", &position]));
    ran.refused(DATABASE, &["/wal/", "expected room for 28", "TB"]);
    assert_nothing_beside(&output);
}

fn snapshot_larger_than_the_disk_is_refused_at_once(bed: &Bed) {
    put_snapshot(bed, ABSURD, 2);
    let output = bed.path("out.db");
    let ran = within(bed, MEMORY, &mut restore_command(&bed.url(), &output));
    ran.refused(DATABASE, &["/snapshots/", "expected room for 281 TB", "hint: "]);
    assert_nothing_beside(&output);
    let ran = within(bed, MEMORY, &mut verify(bed));
    assert_eq!(ran.status, DATABASE, "{}", ran.stderr);
    assert!(ran.stderr.contains("expected room for 281"), "{}", ran.stderr);
}

/// A backup of several segments; their paths, oldest first.
fn stored(bed: &Bed) -> (PathBuf, Vec<PathBuf>) {
    let database = bed.database();
    let mut application = bed.session(&database);
    for number in 0..4 {
        application.sql(&format!("CREATE TABLE t{number} (x)"));
        bed.replicate_once(&database);
    }
    let top = bed.path("store");
    let mut segments: Vec<PathBuf> =
        bed.objects("wal").iter().map(|line| top.join(line.rsplit_once(' ').unwrap().0)).collect();
    segments.sort();
    assert!(segments.len() > 2, "{segments:?}");
    (database, segments)
}

/// The same path with its last part in other letters: small ones for capitals, and digits as wide as a Chinese character,
/// which some file systems and tools take for the same.
fn in_other_letters(path: &Path) -> [PathBuf; 2] {
    let name = path.file_name().unwrap().to_str().unwrap();
    let wide = name.replace('0', "\u{ff10}");
    [name.to_lowercase(), wide].map(|other| {
        assert_ne!(other, name);
        path.with_file_name(other)
    })
}

/// As a copy that went through a file system without capitals leaves them.
fn names_in_other_letters_are_of_strangers(bed: &Bed) {
    let (database, segments) = stored(bed);
    let (middle, last) = (&segments[1], segments.last().unwrap());
    for (ours, complaint) in [(middle, Some("gap")), (last, None)] {
        for other in in_other_letters(ours) {
            fs::rename(ours, &other).unwrap();
            let output = bed.fresh("restored.db");
            let ran = bed.restore(&bed.url(), &output);
            match complaint {
                Some(complaint) => {
                    ran.refused(CORRUPT, &[complaint]);
                }
                None => {
                    let ran = ran.succeeded();
                    assert!(ran.stderr.contains("object(s) of other programs"), "{}", ran.stderr);
                    assert!(support::equal(&database, &output).is_err(), "the last segment was applied");
                }
            }
            fs::rename(&other, ours).unwrap();
        }
    }
    let (ours, other) = (bed.path("store/generations"), bed.path("store/GENERATIONS"));
    fs::rename(&ours, &other).unwrap();
    bed.restore(&bed.url(), &bed.fresh("restored.db")).refused(NOTHING, &[]);
    fs::rename(&other, &ours).unwrap();
    assert_equal(&database, &bed.restored());
}

fn a_name_in_other_letters_beside_ours_is_never_read(bed: &Bed) {
    let (database, segments) = stored(bed);
    let strangers: Vec<PathBuf> = segments.iter().flat_map(|path| in_other_letters(path)).collect();
    strangers.iter().for_each(|path| fs::write(path, "of a stranger").unwrap());
    assert_equal(&database, &bed.restored());
    bed.run(&["verify", &bed.url()]).succeeded();
    bed.write(&database, &["--commits", "1"]);
    bed.replicate_once(&database);
    assert_equal(&database, &bed.restored());
    bed.run(&["delete", "-yes", &bed.url()]).succeeded();
    for path in strangers {
        assert_eq!(fs::read_to_string(&path).unwrap(), "of a stranger", "{}", path.display());
    }
}

/// What two prefixes that differ in case alone are on a file system that does not tell them apart.
fn two_names_of_one_directory_are_one_store(bed: &Bed) {
    let (one, other) = (bed.path("App.db"), bed.path("app.db"));
    bed.write(&one, &["--commits", "2"]);
    bed.write(&other, &["--commits", "5"]);
    let top = bed.path("store");
    fs::create_dir_all(top.join("App.db")).unwrap();
    std::os::unix::fs::symlink("App.db", top.join("app.db")).unwrap();
    let entry = |database: &Path, prefix: &str| {
        format!("  - {{path: {}, replica: {{url: \"{}\"}}}}\n", database.display(), bed.url_below(prefix))
    };
    let config = bed.path("litestream.yml");
    fs::write(&config, format!("dbs:\n{}{}", entry(&one, "App.db"), entry(&other, "app.db"))).unwrap();
    let ran = bed.run(&["-config", config.to_str().unwrap(), "replicate", "-once"]);
    ran.refused(LOCKED, &["app.db", "is already replicated to by"]);
    assert_equal(&one, &bed.restored_from(&bed.url_below("App.db")));
    let ran = bed.run(&["replicate", "-once", other.to_str().unwrap(), &bed.url_below("app.db")]);
    ran.refused(LOCKED, &["app.db", "found those of database"]);
    assert_equal(&one, &bed.restored_from(&bed.url_below("app.db")));
}

/// What only calls itself the end of the history.
fn a_last_segment_of_any_size_is_not_read_into_memory(bed: &Bed) {
    let (database, segments) = stored(bed);
    fs::File::options().write(true).open(segments.last().unwrap()).unwrap().set_len(1 << 30).unwrap();
    let mut command = bed.replicate_command(&database, &bed.url());
    let ran = within(bed, 2 * MEMORY, command.arg("-once")).succeeded();
    assert!(ran.stderr.contains("newest stored object damaged"), "{}", ran.stderr);
    assert_equal(&database, &bed.restored());
}

/// In kilobytes: the most memory that this process has had.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn listing_of(count: u32, name: impl Fn(u32) -> String) -> Listing {
    Listing::new((0..count).map(|number| (name(number), 100)))
}

/// Names of ours take some hundreds of bytes each, two plans included, of which a quarter of a million is enough to see;
/// those of others nothing.
#[test]
fn a_million_names_are_planned_in_bounded_memory() {
    const CHILD: &str = "LITESTREAM_TEST_LISTING";
    let (generation, millis) = (Generation::new(GENERATION), Timestamp::from_millis);
    let point = |number: u32| WalPosition { index: number, offset: Offset::ZERO };
    match std::env::var(CHILD).as_deref() {
        Ok("strangers") => {
            let listing = listing_of(1_000_000, |number| format!("generations/{number:016X}/wal/{number}.gz"));
            assert_eq!(listing.foreign_count(), 1_000_000);
            assert_eq!(plan(&listing, None, &PlanTarget::Latest).unwrap_err().kind(), Kind::NothingToRestore);
            println!("peak {}", peak());
        }
        Ok(_) => {
            let snapshot = SnapshotKey { generation, position: point(0), time: millis(0) };
            let listing = listing_of(250_000, |number| match number {
                0 => snapshot.to_string(),
                _ => {
                    let (start, end) = (point(number - 1), point(number));
                    let seen = millis(number.into());
                    SegmentKey { generation, start, end, first_seen: seen, last_seen: seen, part: false }.to_string()
                }
            });
            let planned = plan(&listing, None, &PlanTarget::Latest).unwrap();
            assert_eq!(planned.segments.len(), 249_999);
            let planned = plan(&listing, None, &PlanTarget::Time(millis(125_000))).unwrap();
            assert_eq!(planned.segments.len(), 125_000);
            assert_eq!(listed_end(&listing).unwrap().unwrap().end, point(249_999));
            println!("peak {}", peak());
        }
        Err(_) => {
            let test = std::thread::current().name().unwrap().to_string();
            let peak = |names: &str| -> u64 {
                let mut child = Command::new(std::env::current_exe().unwrap());
                child.args([test.as_str(), "--exact", "--nocapture"]).env(CHILD, names);
                let output = child.output().unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let number = text.split("peak ").nth(1).and_then(|rest| rest.split_whitespace().next());
                number.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
            };
            let (strangers, ours) = (peak("strangers"), peak("ours"));
            println!("{strangers} kB for strangers, {ours} kB for ours");
            assert!(strangers < 48 << 10, "{strangers} kB");
            assert!(ours < 120 << 10, "{ours} kB");
        }
    }
}

/// Below our own prefix, from a server: names and sizes are held until the listing has ended, and nothing else.
#[test]
fn names_that_somebody_pours_into_a_bucket_stop_no_restore() {
    let bed = Bed::nats("poured");
    let database = bed.database();
    bed.replicate_once(&database);
    let address = bed.url().trim_start_matches("nats://").split('/').next().unwrap().to_string();
    let junk = |number: u32| {
        raw::Message::meta("backup", &format!("generations/{number:016X}/snapshots/{number:0100}.gz"), "x", 9)
    };
    for some in 0..20 {
        raw::publish(&address, &(some * 5_000..(some + 1) * 5_000).map(junk).collect::<Vec<_>>());
    }
    let output = bed.path("out.db");
    let ran = within(&bed, MEMORY + (96 << 20), &mut restore_command(&bed.url(), &output)).succeeded();
    assert!(ran.stderr.contains("100000 object(s) of other programs"), "{}", ran.stderr);
    assert_equal(&database, &output);
}
