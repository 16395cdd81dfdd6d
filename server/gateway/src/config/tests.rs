use super::tokens::default_leeway;
use super::*;

fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("tern.toml");
    std::fs::write(&path, text).expect("writable");
    (dir, path)
}

fn overrides(key: &'static str, value: impl Into<toml::Value>, origin: Origin) -> Overrides {
    Overrides(vec![Override { key, value: value.into(), origin }])
}

/// The example with a data directory that every machine has.
fn example() -> String {
    EXAMPLE.replace("/var/lib/tern", "/tmp/tern")
}

#[test]
fn the_example_is_complete_and_valid() {
    let (_dir, path) = written(&example());
    let Loaded { config, .. } = Loaded::read(&path, &Overrides::default()).expect("the example can be used");
    assert_eq!(config.listen, default_listen());
    assert_eq!(config.tokens.leeway_seconds, default_leeway());
    assert_eq!(config.tokens.keys.len(), 1);
    assert_eq!(config.admin, Admin::default());
    assert_eq!(config.limits, Limits::default());
}

#[test]
fn mistakes_are_named() {
    #[track_caller]
    fn check(change: (&str, &str), expected: &[&str]) {
        assert!(example().contains(change.0));
        let text = example().replacen(change.0, change.1, 1);
        let (_dir, path) = written(&text);
        let error = Loaded::read(&path, &Overrides::default()).expect_err("refused").to_string();
        // The line of the change, which is the first that differs.
        let line = text.lines().zip(example().lines()).position(|(a, b)| a != b).expect("a change") + 1;
        let place = format!("{}:{line}: ", path.display());
        let missing = expected.contains(&"missing field");
        assert!(missing || error.starts_with(&place), "{place} {error}");
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
    }
    check(("listen =", "lissen ="), &["unknown field `lissen`", "`listen`"]);
    check(("[::]:7443", "nowhere"), &["socket address"]);
    check(("[\"[::]:7443\"]", "[]"), &["listen: 0 addresses", "1 to 16"]);
    check(("[\"[::]:7443\"]", "[\"[::]:1\", \"[::]:1\"]"), &["[::]:1", "twice"]);
    check(("[\"[::]:7443\"]", "\"[::]:7443\""), &["expected a sequence"]);
    check(("\"EdDSA\"", "\"HS512\""), &["HS512", "ES256"]);
    check(("data =", "# data ="), &["missing field", "data", "tern.toml: "]);
    check(("# shards = 4", "shards = 0"), &["shards: 0", "1 to 1024"]);
    check(("# shards = 4", "shards = -1"), &["-1", "expected"]);
    check(("# shards = 4", "shards = = 4"), &["="]);
    check(("# shards = 4", "shards ="), &["expected"]);
    check(("# shards = 4", "shards = \"4"), &["expected"]);
    check(("# allow_remote", "allow_remotely"), &["allow_remotely", "allow_remote"]);
    for address in ["0.0.0.0:7480", "[::]:7480", "192.0.2.7:7480"] {
        check(("127.0.0.1:7480", address), &["admin.listen", address, "allow_remote = true"]);
    }
    check(("/tmp/tern", "/proc/none/none"), &["/proc/none/none", "directory"]);
    check(("user_sends_burst = 1000", "user_sends_burst = 99"), &["limits.user_sends_burst: 99", "100"]);
    check(("device_sends_burst =", "device_send_burst ="), &["device_send_burst", "device_sends_burst"]);
    check(("before_login_per_address = 512", "before_login_per_address = -1"), &["-1", "u32"]);
}

#[test]
fn who_wants_the_admin_listener_elsewhere_says_so() {
    let text = example()
        .replace("127.0.0.1:7480", "0.0.0.0:7480")
        .replace("# allow_remote = false", "allow_remote = true");
    let (_dir, path) = written(&text);
    let Loaded { config, .. } = Loaded::read(&path, &Overrides::default()).expect("allowed");
    assert_eq!(config.admin, Admin { listen: ([0, 0, 0, 0], 7480).into(), allow_remote: true });
    let elsewhere = overrides("admin.listen", "[::]:1", Origin::Environment("TERN_ADMIN_LISTEN"));
    let (_dir, path) = written(&example());
    let error = Loaded::read(&path, &elsewhere).expect_err("refused").to_string();
    assert!(error.starts_with("TERN_ADMIN_LISTEN: admin.listen: ") && error.contains("[::]:1"), "{error}");
}

#[test]
fn a_key_set_is_in_one_place() {
    let check = |section: &str, expected: &[&str]| {
        let text = example() + section;
        let (_dir, path) = written(&text);
        let error = Loaded::read(&path, &Overrides::default()).expect_err("refused").to_string();
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
    };
    check("[tokens.jwks]\n", &["tokens.jwks", "a file or a url"]);
    check("[tokens.jwks]\nfile = \"a\"\nurl = \"b\"\n", &["tokens.jwks", "a file or a url"]);
    check("[tokens.jwks]\nfile = \"a\"\nca = \"b\"\n", &["tokens.jwks.ca"]);
    check("[tokens.jwks]\nurl = \"b\"\nrefresh_seconds = 0\n", &["refresh_seconds: 0", "1 to 86400"]);
}

#[test]
fn two_keys_of_one_algorithm_need_names() {
    let twice = "[[tokens.keys]]\nalgorithm = \"EdDSA\"\nfile = \"a\"\n\n[[tokens.keys]]";
    let text = example().replace("[[tokens.keys]]", twice);
    let line =
        text.lines().enumerate().filter(|(_, line)| line.starts_with("algorithm")).nth(1).expect("two").0;
    let (_dir, path) = written(&text);
    let error = Loaded::read(&path, &Overrides::default()).expect_err("refused").to_string();
    assert!(error.starts_with(&format!("{}:{}: tokens.keys[1]", path.display(), line + 1)), "{error}");
}

#[test]
fn flags_and_environment_go_before_the_file() {
    let (_dir, path) =
        written(&example().replace("data =", "# data =").replace("# shards = 4", "shards = 4"));
    let set = Overrides(vec![
        Override { key: "data", value: "/tmp".into(), origin: Origin::Environment("TERN_DATA") },
        Override { key: "tls.key", value: "/other.key".into(), origin: Origin::Flag("tls-key") },
    ]);
    let loaded = Loaded::read(&path, &set).expect("good");
    assert_eq!(loaded.config.data, Path::new("/tmp"));
    assert_eq!(loaded.config.tls.key, Path::new("/other.key"));
    assert_eq!(loaded.config.tls.certificate, Path::new("/etc/tern/server.pem"));
    assert_eq!(loaded.origins.at("data"), "TERN_DATA");
    assert_eq!(loaded.origins.at("tls.key"), "--tls-key");
    let error = Loaded::read(&path, &overrides("shards", 0, Origin::Flag("shards"))).expect_err("refused");
    assert!(error.to_string().contains("missing field `data`"), "{error}");
    let shards = Overrides([set.0, overrides("shards", 0, Origin::Flag("shards")).0].concat());
    let error = Loaded::read(&path, &shards).expect_err("refused").to_string();
    assert!(error.starts_with("--shards: shards: 0 threads"), "{error}");
}

#[test]
fn every_value_is_shown_with_its_origin() {
    let (_dir, path) = written(&example());
    let loaded =
        Loaded::read(&path, &overrides("shards", 3, Origin::Environment("TERN_SHARDS"))).expect("good");
    let all = loaded.show(true);
    let line = |start: &str| all.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
    assert!(line("shards = 3").ends_with("# TERN_SHARDS"), "{all}");
    assert!(line("listen_quic = [\"[::]:7443\"]").ends_with("# default"), "{all}");
    assert!(
        line("certificate = \"/etc/tern/server.pem\"").contains(&format!("# {}:", path.display())),
        "{all}"
    );
    let again: Config = toml::from_str(&all).expect("it is TOML");
    assert_eq!(again, Config { listen_quic: Some(default_listen()), ..loaded.config.clone() });
    assert!(!loaded.show(false).contains("# default"));
}
