//! Databases whose path goes through a symbolic link: where it leads, and when it leads elsewhere.
//!
//! Everything about a database stands beside its real file: the -wal and -shm files, the lock, the spool. So one whose link
//! was given another target is let go of as a whole, and begun again there. Its old file stays as it is, and would be
//! followed for ever: nothing happens to it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a path is looked at that goes through a link.
const LINK_INTERVAL: Duration = Duration::from_secs(1);
/// How often any other one is: a directory of it may have been replaced by a link.
const PLAIN_INTERVAL: Duration = Duration::from_secs(60);

/// Where the paths of databases lead.
#[derive(Default)]
pub struct LinkWatch {
    targets: HashMap<PathBuf, Target>,
    next_links: Option<Instant>,
    next_plain: Option<Instant>,
}

struct Target {
    real: PathBuf,
    through_link: bool,
}

/// A path that leads elsewhere now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MovedLink {
    pub path: PathBuf,
    pub was: PathBuf,
    pub is: PathBuf,
}

/// Real paths of directories, each looked up once.
#[derive(Default)]
struct RealDirectories(HashMap<PathBuf, Option<PathBuf>>);

impl LinkWatch {
    /// Those of these paths that lead to another file now than when they were first seen, if it is time to look. A link
    /// that leads nowhere is passed over: its target may be on its way.
    pub fn poll<'a>(&mut self, paths: impl Iterator<Item = &'a Path>, now: Instant) -> Vec<MovedLink> {
        let due = |next: &mut Option<Instant>, interval: Duration| {
            let due = next.is_none_or(|next| now >= next);
            *next = if due { Some(now + interval) } else { *next };
            due
        };
        if !due(&mut self.next_links, LINK_INTERVAL) {
            return Vec::new();
        }
        // Only with a look: what is due between two looks waits for the next one.
        let plain = due(&mut self.next_plain, PLAIN_INTERVAL);
        self.look(paths, plain)
    }

    /// The same now, whatever the time.
    pub fn look<'a>(&mut self, paths: impl Iterator<Item = &'a Path>, plain: bool) -> Vec<MovedLink> {
        let mut directories = RealDirectories::default();
        paths.filter_map(|path| self.look_at(path, plain, &mut directories)).collect()
    }

    fn look_at(&mut self, path: &Path, plain: bool, directories: &mut RealDirectories) -> Option<MovedLink> {
        let known = self.targets.get(path);
        if known.is_some_and(|target| !target.through_link && !plain) {
            return None;
        }
        let is = directories.real(path)?;
        match known {
            Some(target) if target.real == is => None,
            Some(target) => Some(MovedLink { path: path.to_path_buf(), was: target.real.clone(), is }),
            None => {
                let through_link = std::path::absolute(path).is_ok_and(|absolute| absolute != is);
                self.targets.insert(path.to_path_buf(), Target { real: is, through_link });
                None
            }
        }
    }

    /// A database is let go of: where its path leads then is where it begins.
    pub fn forget(&mut self, path: &Path) {
        self.targets.remove(path);
    }
}

impl RealDirectories {
    /// The real path of a file; none where there is none.
    fn real(&mut self, path: &Path) -> Option<PathBuf> {
        let parent = path.parent().filter(|parent| *parent != OsStr::new("")).unwrap_or(Path::new("."));
        let found = self.0.entry(parent.to_path_buf()).or_insert_with(|| fs::canonicalize(parent).ok());
        let real = found.as_ref()?.join(path.file_name()?);
        match fs::symlink_metadata(&real).ok()?.is_symlink() {
            true => fs::canonicalize(real).ok(),
            false => Some(real),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("litestream-links-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            let real = fs::canonicalize(path).unwrap();
            for release in ["one", "two"] {
                fs::create_dir(real.join(release)).unwrap();
                fs::write(real.join(release).join("a.db"), release).unwrap();
            }
            Folder(real)
        }

        fn link(&self, target: &str, name: &str) {
            let _ = fs::remove_file(self.0.join(name));
            symlink(self.0.join(target), self.0.join(name)).unwrap();
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// What the looks at one path give, at these seconds; `change` comes before the second one.
    fn looks(path: &Path, seconds: [u64; 2], change: impl Fn()) -> [Vec<MovedLink>; 2] {
        let (mut watch, begun) = (LinkWatch::default(), Instant::now());
        let mut look = |at| watch.poll(std::iter::once(path), begun + Duration::from_secs(at));
        let first = look(seconds[0]);
        change();
        [first, look(seconds[1])]
    }

    #[test]
    fn a_link_that_leads_elsewhere_is_found_within_a_second() {
        for (target, other, name, path) in
            [("one", "two", "current", "current/a.db"), ("one/a.db", "two/a.db", "link.db", "link.db")]
        {
            let folder = Folder::new(&name.replace('.', "-"));
            folder.link(target, name);
            let path = folder.0.join(path);
            let [first, second] = looks(&path, [0, 1], || folder.link(other, name));
            let (was, is) = (folder.0.join("one/a.db"), folder.0.join("two/a.db"));
            assert_eq!((first, second), (vec![], vec![MovedLink { path, was, is }]));
        }
    }

    #[test]
    fn same_target_by_another_link_and_a_dangling_one_are_nothing() {
        let folder = Folder::new("same");
        folder.link("one", "current");
        let path = folder.0.join("current/a.db");
        folder.link("one", "other");
        assert_eq!(looks(&path, [0, 1], || folder.link("other", "current")), [vec![], vec![]]);
        assert_eq!(looks(&path, [0, 1], || folder.link("three", "current")), [vec![], vec![]]);
    }

    /// The event loop asks more often than there is a look, and not at the seconds.
    #[test]
    fn a_look_that_falls_due_between_two_others_is_not_left_out() {
        let folder = Folder::new("between");
        let (mut watch, begun, path) = (LinkWatch::default(), Instant::now(), folder.0.join("one/a.db"));
        let mut look = |millis| watch.poll(std::iter::once(&*path), begun + Duration::from_millis(millis)).len();
        assert_eq!(look(0), 0);
        fs::rename(folder.0.join("one"), folder.0.join("old")).unwrap();
        folder.link("two", "one");
        assert_eq!([59_500, 60_000, 60_450, 60_500].map(&mut look), [0, 0, 0, 1]);
    }

    /// A real directory is moved away, and a link takes its name: no link was there to be looked at each second.
    #[test]
    fn a_directory_that_becomes_a_link_is_found_within_a_minute() {
        for (seconds, found) in [([0, 59], 0), ([0, 60], 1)] {
            let folder = Folder::new(&format!("becomes-{}", seconds[1]));
            let moved = looks(&folder.0.join("one/a.db"), seconds, || {
                fs::rename(folder.0.join("one"), folder.0.join("old")).unwrap();
                folder.link("two", "one");
            });
            assert_eq!(moved[1].len(), found, "{seconds:?}");
        }
    }
}
