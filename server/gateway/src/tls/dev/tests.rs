use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const NOW: WallMillis = WallMillis(1_800_000_000_000);

fn later(days: u64) -> WallMillis {
    WallMillis(NOW.0 + days * DAY_MS)
}

fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn made_once_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("data");
    let made = DevIdentity::load_or_create(&dir, &[], NOW).unwrap();
    let files = contents(&dir);
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["ca.key", "ca.pem", "server.key", "server.pem"]);
    for name in ["ca.key", "server.key"] {
        assert_eq!(fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    let again = DevIdentity::load_or_create(&dir, &[], later(300)).unwrap();
    assert_eq!(contents(&dir), files);
    assert_eq!(again.ca_pem, made.ca_pem);
    // The files are also what a configuration may name.
    Identity::from_pem_files(&dir.join("server.pem"), &dir.join("server.key")).unwrap();
}

#[test]
fn issued_again_when_it_must_be() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let cert = || fs::read(dir.join("server.pem")).unwrap();
    let load = |names: &[&str], now| {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        DevIdentity::load_or_create(dir, &names, now).unwrap();
        cert()
    };
    let first = load(&["chat.test"], NOW);
    assert_eq!(load(&["chat.test"], NOW), first);
    assert_eq!(load(&[], NOW), first, "more names than wanted do no harm");
    let named = load(&["chat.test", "10.0.0.7", "fe80::1"], NOW);
    assert_ne!(named, first, "a new name");
    assert_eq!(load(&["10.0.0.7", "fe80::1"], NOW), named);
    let renewed = load(&[], later(340));
    assert_ne!(renewed, named, "about to expire");
    fs::remove_file(dir.join("server.key")).unwrap();
    assert_ne!(load(&[], later(340)), renewed, "the key is gone");

    let ca = fs::read(dir.join("ca.pem")).unwrap();
    let orphan = cert();
    for name in ["ca.pem", "ca.key"] {
        fs::remove_file(dir.join(name)).unwrap();
    }
    assert_ne!(load(&[], later(340)), orphan, "a new authority");
    assert_ne!(fs::read(dir.join("ca.pem")).unwrap(), ca);
    // At the end of its authority it cannot be renewed any further, and is not at every start.
    let last = load(&[], later(340 + 3645));
    assert_eq!(load(&[], later(340 + 3645)), last);
}

#[test]
fn trouble_is_told_with_what_helps() {
    let other = tempfile::tempdir().unwrap();
    DevIdentity::load_or_create(other.path(), &[], NOW).unwrap();
    let other_key = fs::read(other.path().join("ca.key")).unwrap();
    let cases: [(&str, Option<&[u8]>, WallMillis, &str); 8] = [
        ("ca.key", None, NOW, "ca.key is missing"),
        ("ca.key", Some(b"nonsense"), NOW, "ca.key is not a private key"),
        ("ca.key", Some(b"\xff\xfe"), NOW, "ca.key is not a private key"),
        ("ca.key", Some(&other_key), NOW, "ca.key is not the key of"),
        ("ca.pem", Some(b""), NOW, "ca.pem is not a certificate"),
        ("server.pem", Some(b"nonsense"), NOW, "server.pem is not a certificate"),
        ("server.key", Some(b"nonsense"), NOW, "server.key is not a private key"),
        ("unrelated", None, later(3650), "ca.pem has expired"),
    ];
    for (name, contents, now, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        DevIdentity::load_or_create(dir.path(), &[], NOW).unwrap();
        let path = dir.path().join(name);
        match contents {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => drop(fs::remove_file(&path)),
        }
        let error = DevIdentity::load_or_create(dir.path(), &[], now).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn configured_files_are_checked() {
    let [a, b] = [(); 2].map(|()| {
        let dir = tempfile::tempdir().unwrap();
        DevIdentity::load_or_create(dir.path(), &[], NOW).unwrap();
        dir
    });
    let (a, b) = (a.path(), b.path());
    let cases = [
        (a.join("server.pem"), b.join("server.key"), "is not the key of the first certificate"),
        (a.join("server.key"), a.join("server.key"), "has no certificate in it"),
        (a.join("server.pem"), a.join("server.pem"), "has no private key in it"),
        (a.join("none.pem"), a.join("server.key"), "there is no such file"),
    ];
    for (chain, key, expected) in cases {
        let error = Identity::from_pem_files(&chain, &key).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
