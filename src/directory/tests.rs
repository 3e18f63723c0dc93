use std::fs;
use std::os::unix::fs::symlink;

use super::*;

fn scratch(name: &str) -> (PathBuf, Directory) {
    let path = std::env::temp_dir().join(format!("litestream-directory-{name}-{}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    let directory = Directory::open(&path).unwrap();
    (path, directory)
}

#[test]
fn nothing_that_was_put_there_is_opened_to_be_written() {
    let (path, directory) = scratch("planted");
    fs::write(path.join("victim"), "kept").unwrap();
    symlink("victim", path.join("link")).unwrap();
    symlink("nowhere", path.join("dangling")).unwrap();
    fs::hard_link(path.join("victim"), path.join("second")).unwrap();
    fs::create_dir(path.join("folder")).unwrap();
    for (name, why) in [
        ("link", "it is a symbolic link"),
        ("dangling", "it is a symbolic link"),
        ("second", "it has 2 names"),
        ("victim", "it has 2 names"),
    ] {
        let name = OsStr::new(name);
        assert_eq!(directory.create(name).unwrap_err().kind(), ErrorKind::AlreadyExists);
        let error = directory.open_own(name).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    assert!(directory.read_own(OsStr::new("folder")).unwrap_err().to_string().contains("not a regular file"));
    assert_eq!(fs::read(path.join("victim")).unwrap(), b"kept");
    assert!(!path.join("nowhere").exists());
    fs::remove_dir_all(&path).unwrap();
}

#[test]
fn no_directory_is_entered_through_a_link() {
    let (path, directory) = scratch("below");
    fs::create_dir(path.join("other")).unwrap();
    symlink("other", path.join("link")).unwrap();
    for make in [false, true] {
        let error = directory.resolve_parent(Path::new("link/a"), make).unwrap_err();
        assert!(error.to_string().contains("it is a symbolic link"), "{error}");
    }
    assert!(Directory::open_or_create(&path.join("link"), None).is_err());
    assert!(!path.join("other/a").exists());
    let made = directory.resolve_parent(Path::new("a/b"), true).unwrap();
    assert_eq!(made.metadata().unwrap().mode() & 0o777, 0o700);
    assert!(directory.resolve_parent(Path::new("../x"), true).is_err());
    fs::remove_dir_all(&path).unwrap();
}

#[test]
fn what_is_made_is_its_owners_alone() {
    let (path, directory) = scratch("mode");
    let (name, file) = directory.create_temporary(OsStr::new(".t-")).unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
    assert!(directory.is_linked_at(&file, &name));
    assert_ne!(name, directory.create_temporary(OsStr::new(".t-")).unwrap().0);
    assert_eq!(directory.create_unlinked().unwrap().metadata().unwrap().nlink(), 0);
    fs::remove_dir_all(&path).unwrap();
}

#[test]
fn output_created_meanwhile_is_kept() {
    let (path, directory) = scratch("rename");
    let [made, free, taken] = ["made", "free", "taken"].map(OsStr::new);
    fs::write(path.join(made), "restored").unwrap();
    fs::write(path.join(taken), "an application's").unwrap();
    assert_eq!(directory.rename_noreplace(made, taken).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs::read(path.join(taken)).unwrap(), b"an application's");
    directory.rename_noreplace(made, free).unwrap();
    assert_eq!(fs::read(path.join(free)).unwrap(), b"restored");
    assert!(!path.join(made).exists());
    fs::remove_dir_all(&path).unwrap();
}
