use std::sync::LazyLock;

use super::tokens::default_leeway;
use super::*;
use crate::auth::Minter;
use crate::clock;

fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("tern.toml");
    std::fs::write(&path, text).expect("writable");
    (dir, path)
}

fn overrides(key: &'static str, value: impl Into<toml::Value>, origin: Origin) -> Overrides {
    Overrides(vec![Override { key, value: value.into(), origin }])
}

/// A directory with the files that the example names.
static FILES: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a temporary directory");
    tls::DevIdentity::load_or_create(dir.path(), &[], clock::wall()).expect("a certificate");
    Minter::load_or_create(dir.path()).expect("a key");
    dir
});

/// The example with directories that are there.
fn example() -> String {
    let files = FILES.path().to_str().expect("UTF-8");
    EXAMPLE.replace("/var/lib/tern", "/tmp/tern").replace("/etc/tern", files)
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
    assert_eq!(config.cluster, None);
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
        let missing = expected.iter().any(|part| part.contains("is missing"));
        assert!(missing || error.starts_with(&place), "{place} {error}");
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
    }
    check(("listen =", "lissen ="), &["lissen: ", "did you mean \"listen\"?"]);
    check(("[::]:7443", "nowhere"), &["listen[0]: \"nowhere\" is no address", "[::]:7443"]);
    check(("[\"[::]:7443\"]", "[]"), &["listen: a list of 0", "1 to 16", "[\"[::]:7443\"]"]);
    check(("[\"[::]:7443\"]", "[\"[::]:1\", \"[::]:1\"]"), &["[::]:1", "twice"]);
    check(("[\"[::]:7443\"]", "\"[::]:7443\""), &["listen: \"[::]:7443\": expected a list"]);
    check(
        ("# proxy_protocol_from = [\"10.0.0.0/8\"]", "proxy_protocol_from = [7]"),
        &["from[0]: 7: expected"],
    );
    check(("\"EdDSA\"", "\"HS512\""), &["HS512", "ES256"]);
    check(("data =", "# data ="), &["tern.toml: data: is missing", "/var/lib/tern"]);
    check(("key = ", "# key = "), &["tls.key: is missing"]);
    check(("# shards = 4", "shards = 0"), &["shards: 0", "1 to 1024"]);
    check(("# shards = 4", "shards = -1"), &["-1", "expected"]);
    check(("# shards = 4", "shards = 99999999999999999999"), &["99999999999999999999", "1 to 1024"]);
    check(("# shards = 4", "shards = = 4"), &["="]);
    check(("# shards = 4", "shards ="), &["expected"]);
    check(("# shards = 4", "shards = \"4"), &["expected"]);
    check(("[[tokens.keys]]", "[tokens.keys]"), &["tokens.keys: a section: expected", "[[tokens.keys]]"]);
    check(("# shards = 4", "audience = \"tern\""), &["audience: belongs in the section [tokens]"]);
    check(("# allow_remote", "shards = 4 #"), &["admin.shards: belongs before the first section"]);
    check(("# allow_remote", "allow_remotely"), &["allow_remotely", "allow_remote\"?"]);
    check(("# allow_remote = false", "allow_remote = \"no\""), &["\"no\"", "true or false"]);
    check(("= \"embedded\"", "= \"disk\""), &["store.kind: \"disk\"", "\"embedded\", \"fdb\""]);
    check(
        ("# cluster_file", "cluster_file"),
        &["store.cluster_file: the store is embedded", "kind = \"fdb\""],
    );
    if HAS_FDB {
        check(("= \"embedded\"", "= \"fdb\""), &["store.cluster_file: is missing"]);
        let both = "= \"fdb\"\ncluster_file = \"fdb.cluster\"\nprefix = \"";
        let long = format!("{both}{}\"", "x".repeat(101));
        check(("= \"embedded\"", &long), &["store.prefix: 101 bytes", "at most 100"]);
    } else {
        check(
            ("= \"embedded\"", "= \"fdb\""),
            &["store.kind: this ternd was built without", "--features fdb"],
        );
    }
    for address in ["0.0.0.0:7480", "[::]:7480", "192.0.2.7:7480"] {
        check(("127.0.0.1:7480", address), &["admin.listen", address, "allow_remote = true"]);
    }
    check(
        ("127.0.0.1:7480", "localhost:7480"),
        &["admin.listen: \"localhost:7480\": expected an IP address"],
    );
    for address in ["127.0.0.1:7443", "[::1]:7443"] {
        check(("127.0.0.1:7480", address), &["admin.listen", address, "taken by [::]:7443 in `listen`"]);
    }
    check(("/tmp/tern", "/proc/none/none"), &["/proc/none/none", "directory"]);
    check(("user_sends_burst = 1000", "user_sends_burst = 99"), &["limits.user_sends_burst: 99", "100"]);
    check(("device_sends_burst =", "device_send_burst ="), &["device_send_burst", "device_sends_burst"]);
    check(
        ("before_login_per_address = 512", "before_login_per_address = -1"),
        &["-1: expected a whole number from 0 to 4294967295"],
    );
    check(("leeway_seconds = 30", "leeway_seconds = 0.5"), &["0.5: expected a whole number from 0"]);
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = example()
        .replace("[::]:7443", "nowhere")
        .replace("# shards = 4", "shards = 0")
        .replace("listen = \"127.0.0.1:7480\"", "lisen = 1")
        .replace("server.pem", "none.pem")
        .replace("\"EdDSA\"", "\"HS512\"")
        .replace("[limits]", "[limits]\nnothing = 1");
    let (_dir, path) = written(&text);
    let bad = overrides("tls.key", "", Origin::Environment("TERN_TLS_KEY"));
    let told = Loaded::read(&path, &bad).expect_err("refused").to_string();
    let lines = Vec::from_iter(told.lines());
    let place = |start: &str| {
        let line = 1 + text.lines().position(|line| line.starts_with(start)).expect("a line");
        format!("{}:{line}: ", path.display())
    };
    let expected = [
        "7 mistakes".to_owned(),
        "TERN_TLS_KEY: tls.key: \"\": expected a path".to_owned(),
        place("listen =") + "listen[0]",
        place("shards =") + "shards",
        place("lisen =") + "admin.lisen",
        // Files are looked at, too; the key's, whose algorithm is wrong, tells nothing.
        place("certificate =") + "tls.certificate: ",
        place("nothing =") + "limits.nothing",
        place("algorithm =") + "tokens.keys[0].algorithm",
    ];
    assert_eq!(lines.len(), expected.len(), "{told}");
    for (line, expected) in lines.iter().zip(&expected) {
        assert!(line.starts_with(expected), "{expected:?} is not the beginning of {line:?}");
    }
    let (_dir, path) = written("data = = 1\nshards = = 2\n");
    let told = Loaded::read(&path, &Overrides::default()).expect_err("refused").to_string();
    assert!(told.contains(":1: ") && told.contains(":2: "), "{told}");
    let (_dir, path) = written("");
    let told = Loaded::read(&path, &Overrides::default()).expect_err("refused").to_string();
    let missing =
        ["data: is missing", "tls.certificate: is missing", "tls.key: is missing", "tokens: no keys"];
    assert!(missing.iter().all(|missing| told.contains(missing)) && told.starts_with("4 mistakes"), "{told}");
}

/// What the types take, the table knows, and the other way round.
#[test]
fn the_table_is_complete() {
    fn keys(prefix: &str, value: &toml::Value, into: &mut Vec<String>) {
        match value {
            toml::Value::Table(table) => {
                let dot = if prefix.is_empty() { "" } else { "." };
                table.iter().for_each(|(name, value)| keys(&format!("{prefix}{dot}{name}"), value, into));
            }
            toml::Value::Array(elements) if elements[0].is_table() => {
                keys(&format!("{prefix}[]"), &elements[0], into);
            }
            _ => into.push(prefix.to_owned()),
        }
    }
    let (_dir, path) = written(&example());
    let loaded = Loaded::read(&path, &Overrides::default()).expect("good");
    let key = Key { id: Some("k".into()), ..loaded.config.tokens.keys[0].clone() };
    let some = || Some("/x".into());
    let config = Config {
        listen_quic: Some(default_listen()),
        shards: Some(1),
        cluster: Some(ClusterSettings {
            listen: SocketAddr::from(([127, 0, 0, 1], 1)),
            advertise: Some(SocketAddr::from(([127, 0, 0, 1], 1))),
            advertise_clients: Some("n:1".into()),
            name: Some("n".into()),
            ca: "/x".into(),
            certificate: "/x".into(),
            key: "/x".into(),
        }),
        store: Store { cluster_file: some(), ..Store::default() },
        tokens: Tokens {
            issuer: Some("i".into()),
            audience: Some("a".into()),
            revoked: some(),
            keys: vec![key],
            jwks: Some(Jwks { file: some(), url: Some("u".into()), ca: some(), refresh_seconds: 1 }),
            ..loaded.config.tokens
        },
        proxy_protocol_from: vec!["10.0.0.0/8".parse().expect("a network")],
        ..loaded.config
    };
    let mut typed = Vec::new();
    keys("", &toml::Value::try_from(&config).expect("TOML"), &mut typed);
    let mut table: Vec<_> = schema::SETTINGS.iter().map(|setting| setting.key.to_owned()).collect();
    typed.sort();
    table.sort();
    assert_eq!(typed, table);
}

/// The section of the example, with the lines of these settings switched on.
fn cluster(settings: &[&str]) -> String {
    let mut text = example().replacen("\n# [cluster]", "\n[cluster]", 1);
    let at = text.find("\n[cluster]").expect("a section");
    for setting in settings {
        let line = format!("\n# {setting} = ");
        let line_at = at + text[at..].find(&line).expect("a setting");
        text.replace_range(line_at..line_at + line.len(), &line.replace("# ", ""));
    }
    text
}

#[test]
fn a_cluster_is_whole_or_not_there() {
    const REQUIRED: [&str; 4] = ["listen", "ca", "certificate", "key"];
    const EVERYTHING: [&str; 7] =
        ["listen", "advertise", "advertise_clients", "name", "ca", "certificate", "key"];
    let read = |text: &str, set: &Overrides| {
        let (_dir, path) = written(text);
        Loaded::read(&path, set)
    };
    let none = Overrides::default();
    assert_eq!(read(&example(), &none).expect("good").config.cluster, None);
    let files = FILES.path();
    let expected = ClusterSettings {
        listen: "192.0.2.11:7444".parse().expect("an address"),
        advertise: Some("192.0.2.11:7444".parse().expect("an address")),
        advertise_clients: Some("node-1.chat.example.com:7443".into()),
        name: Some("node-1".into()),
        ca: files.join("cluster-ca.pem"),
        certificate: files.join("node.pem"),
        key: files.join("node.key"),
    };
    let all = read(&cluster(&EVERYTHING), &none).expect("it is read");
    assert_eq!(all.config.cluster, Some(expected.clone()));

    let required = read(&cluster(&REQUIRED), &none).expect("it is read");
    let node = required.config.cluster.clone().expect("a cluster");
    assert_eq!(node, ClusterSettings { advertise: None, advertise_clients: None, name: None, ..expected });
    assert_eq!(node.advertised(), node.listen);
    let name = node.name_or_host();
    assert!(!name.is_empty() && !name.contains('\n'), "{name:?}");
    let shown = required.show(true);
    assert!(shown.contains("advertise = \"192.0.2.11:7444\"") && shown.contains(&format!("name = {name:?}")));

    for missing in REQUIRED {
        let others: Vec<_> = REQUIRED.into_iter().filter(|other| *other != missing).collect();
        let error = read(&cluster(&others), &none).expect_err("refused").to_string();
        let line = cluster(&[]).lines().position(|line| line == "[cluster]").expect("a section") + 1;
        let told = format!(":{line}: cluster.{missing}: is missing: expected");
        assert!(error.contains(&told), "{told}: {error}");
    }
    let alone = overrides("cluster.listen", "127.0.0.1:1", Origin::Environment("TERN_CLUSTER_LISTEN"));
    let error = read(&example(), &alone).expect_err("refused").to_string();
    assert!(error.contains("cluster.ca: is missing") && !error.contains("cluster.listen"), "{error}");
}

#[test]
fn a_node_has_its_own_certificate() {
    let refused = |changes: &[(&str, &str)]| {
        let text = cluster(&["listen", "ca", "certificate", "key"]);
        let text = changes.iter().fold(text, |text, (from, to)| text.replace(from, to));
        let (_dir, path) = written(&text);
        let loaded = Loaded::read(&path, &Overrides::default()).expect("it is read");
        let told = loaded.link_identity().expect_err("refused").to_string();
        let line = |key: &str| {
            let begin = text.find("\n[cluster]").expect("a section");
            let at = begin + text[begin..].find(&format!("\n{key} = ")).expect("a setting");
            format!("{}:{}: cluster.{key}: ", path.display(), text[..at].lines().count() + 1)
        };
        (told, ["ca", "certificate", "key"].map(line))
    };
    let (told, places) = refused(&[]);
    assert!(told.starts_with("3 mistakes") && places.iter().all(|place| told.contains(place)), "{told}");
    // The clients' certificate is none.
    let (ca, node) = (("cluster-ca.pem", "ca.pem"), ("node.pem", "server.pem"));
    let (told, places) = refused(&[ca, node, ("node.key", "server.key")]);
    assert!(told.starts_with(&places[1]) && told.contains("not for the name tern-node"), "{told}");
    let (told, places) = refused(&[ca, node, ("node.key", "ca.key")]);
    assert!(told.starts_with(&places[2]) && told.contains("is not the key of"), "{told}");
    let (told, places) = refused(&[("cluster-ca.pem", "ca.key"), node, ("node.key", "server.key")]);
    assert!(told.starts_with(&places[0]) && told.contains("no certificate of an authority"), "{told}");
}

#[test]
fn addresses_of_a_node_can_be_dialled_and_are_its_own() {
    let refused = |change: (&str, &str), expected: &[&str]| {
        let text = cluster(&["listen", "advertise", "advertise_clients", "name", "ca", "certificate", "key"]);
        assert!(text.contains(change.0));
        let (_dir, path) = written(&text.replacen(change.0, change.1, 1));
        let error = Loaded::read(&path, &Overrides::default()).expect_err("refused").to_string();
        // The files of the example are not there, which is told as well.
        let line = error.lines().find(|line| expected.iter().all(|part| line.contains(part)));
        assert!(line.is_some(), "{expected:?}: {error}");
        error
    };
    let advertise = "advertise = \"192.0.2.11:7444\"";
    refused((advertise, "advertise = \"0.0.0.0:7444\""), &["cluster.advertise: 0.0.0.0:7444: no node"]);
    refused((advertise, "advertise = \"192.0.2.11:0\""), &["cluster.advertise: 192.0.2.11:0: no node"]);
    refused(
        (advertise, "advertise = \"node-1:7444\""),
        &["cluster.advertise: \"node-1:7444\": expected an IP"],
    );
    let everywhere = format!("listen = \"[::]:7444\"\n# {advertise}");
    refused(
        (&format!("listen = \"192.0.2.11:7444\"\n{advertise}"), &everywhere),
        &["cluster.advertise: is missing, and [::]:7444", "\"192.0.2.11:7444\""],
    );
    let listen = "listen = \"192.0.2.11:7444\"";
    refused((listen, "listen = \"192.0.2.11:7443\""), &["cluster.listen: ", "taken by [::]:7443"]);
    let told = refused((listen, "listen = 7444"), &["cluster.listen: 7444: expected an IP address"]);
    assert!(!told.contains("cluster.listen: is missing") && !told.contains("cluster.advertise"), "{told}");
    for wrong in ["", "node-1", ":7443", "node-1:0", "node-1:70000", "a b:1", "0.0.0.0:7443", "[::]:7443"] {
        let wrong = format!("{wrong:?}");
        let told = format!("cluster.advertise_clients: {wrong}: expected a name or an address and a port");
        refused(("\"node-1.chat.example.com:7443\"", &wrong), &[&told]);
    }
    refused(("\"node-1\"", "\"\""), &["cluster.name: \"\": expected 1 to 64 bytes"]);
    refused(("\"node-1\"", "\"a\\nb\""), &["cluster.name", "control"]);
}

#[test]
fn variables_without_an_effect_are_told() {
    let told = |name: &str| strangers([name.to_owned()]).join("\n");
    assert!(told("TERN_SHRADS").ends_with("did you mean TERN_SHARDS?"), "{}", told("TERN_SHRADS"));
    assert!(told("TERN_ADMIN_LISTENS").ends_with("did you mean TERN_ADMIN_LISTEN?"));
    assert!(told("TERN_PORT_7443_TCP").contains("no such variable"));
    for good in ["TERN_SHARDS", "TERN_LOG", "TERN_CONFIG", "TERN_SERVER", "TERN_TOKEN", "PATH"] {
        assert_eq!(told(good), "");
    }
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
    check("[tokens.jwks]\nurl = \"b\"\nrefresh_seconds = 0\n", &["refresh_seconds: 0", "from 1 to 86400"]);
}

#[test]
fn two_keys_of_one_algorithm_need_names() {
    let file = FILES.path().join("token.pub");
    let twice = format!("[[tokens.keys]]\nalgorithm = \"EdDSA\"\nfile = {file:?}\n\n[[tokens.keys]]");
    let text = example().replace("[[tokens.keys]]", &twice);
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
    assert_eq!(loaded.config.tls.certificate, FILES.path().join("server.pem"));
    let origin = |key: &str| loaded.origins.get(key).map(Origin::to_string);
    assert_eq!(origin("data").as_deref(), Some("TERN_DATA"));
    assert_eq!(origin("tls.key").as_deref(), Some("--tls-key"));
    let error = Loaded::read(&path, &overrides("shards", 0, Origin::Flag("shards"))).expect_err("refused");
    assert!(error.to_string().contains("data: is missing"), "{error}");
    let shards = Overrides([set.0, overrides("shards", 0, Origin::Flag("shards")).0].concat());
    let error = Loaded::read(&path, &shards).expect_err("refused").to_string();
    assert!(error.contains("\n--shards: shards: 0: expected a whole number from 1"), "{error}");
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
    assert!(line("certificate = ").contains(&format!("# {}:", path.display())), "{all}");
    let again: Config = toml::from_str(&all).expect("it is TOML");
    assert_eq!(again, Config { listen_quic: Some(default_listen()), ..loaded.config.clone() });
    assert!(!loaded.show(false).contains("# default"));
}
