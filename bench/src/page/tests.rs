//! Pages of made-up runs: all of it is there, well-formed, and where it can be seen.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Args, Error, render, run};
use crate::outcome::Outcome;

/// What a run of `send` writes, with these figures and this many seconds of series.
fn sample(transport: &str, connections: u32, acked: f64, seconds: u32) -> Value {
    let latency = |factor: f64| {
        json!({ "count": 600_000, "mean": 2.5 * factor, "p50": 2.0 * factor, "p90": 4.0 * factor, "p99": 9.0 * factor,
            "p999": 20.0 * factor, "max": 70.0 * factor })
    };
    let second = |t: u32| {
        json!({ "t_s": f64::from(t), "phase": "measuring", "connections": connections, "logins": 0.0, "offered": acked * 1.1, "acked": acked, "delivered": acked,
            "errors": 0, "ack_p50_ms": 2.0, "ack_p99_ms": 9.0 + f64::from(t), "deliver_p50_ms": 2.0, "deliver_p99_ms": 9.5, "server_cores": 1.4,
            "server_rss_bytes": 90_000_000 + 1_000 * t, "driver_cores": 0.5 })
    };
    json!({
        "scenario": "send", "transport": transport, "connections": connections, "duration_s": 10.0, "complete": true,
        "seed": 1, "command": format!("tern-bench send --transport {transport}"), "load": "window 8",
        "offered_per_s": acked * 1.1, "acked_per_s": acked, "delivered_per_s": acked, "errors": 0,
        "lost": 0, "duplicated": 0, "reordered": 0, "falsely_receipted": 0, "altered": 0, "split": 0,
        "unanswered": 0, "refused": 0, "disconnected": 0, "refusals": {},
        "ack_ms": latency(1.0), "deliver_ms": latency(1.1), "receipt_ms": latency(2.0), "login_ms": null,
        "server": { "cpu_us_per_message": 21.8, "cpu_us_per_delivery": 10.9, "rss_bytes": 90_000_000,
            "rss_bytes_per_connection": 20_400.0, "kernel_bytes_per_connection": 4_100.0, "cpu_cores": 1.37 },
        "driver": { "cpu_us_per_message": 8.0, "cpu_cores": 0.5 }, "other_cores": 0.07,
        "floor": { "relay_us_per_message": 9.0, "store_us_per_message": 6.0, "ratio": 1.45 },
        "machine": { "cores": 2, "cpu": "Some CPU", "kernel": "6.18", "load_before": 0.1 }, "version": "0.1.0",
        "series": (1..=seconds).map(second).collect::<Vec<_>>(),
        "scenario_figures": { "batch_mean": 41.5, "fsyncs_per_s": 812.0 },
    })
}

fn page(runs: &[Value]) -> String {
    let runs = run::parse(Value::from(runs).to_string().as_bytes()).expect("runs");
    render::page(&runs).into_string()
}

/// The page's body has no element without an end, so it is XML too: a parser checks its form.
fn body(page: &str) -> &str {
    let start = page.find("<body>").expect("a body");
    let end = page.find("</body>").expect("its end") + "</body>".len();
    &page[start..end]
}

fn texts(page: &str) -> Vec<String> {
    let tree = roxmltree::Document::parse(body(page)).expect("well-formed");
    tree.descendants().filter_map(|node| node.text().map(str::to_owned)).collect()
}

/// Well-formed, and nothing is drawn outside of the picture it belongs to.
fn check_form(page: &str) {
    let tree = roxmltree::Document::parse(body(page)).expect("well-formed");
    for svg in tree.descendants().filter(|node| node.has_tag_name("svg")) {
        let size: Vec<f64> =
            svg.attribute("viewBox").into_iter().flat_map(|size| size.split(' ')).map(number).collect();
        let (width, height) = (size[2], size[3]);
        for node in svg.descendants().filter(|node| node.is_element()) {
            for (name, most) in [("x", width), ("cx", width), ("y", height), ("cy", height)] {
                let place = node.attribute(name).map_or(0.0, number);
                assert!((0.0..=most).contains(&place), "{name}={place}");
            }
            let path = node.attribute("d").unwrap_or_default();
            let steps = path.split(|letter: char| letter.is_ascii_alphabetic() || letter == ' ');
            for step in steps.filter(|step| !step.is_empty()) {
                assert!(number(step).abs() <= width, "{step} in {path}");
            }
        }
    }
    for bar in tree.descendants().filter_map(|node| node.attribute("style")) {
        let width = bar.strip_prefix("width:").and_then(|width| width.strip_suffix('%')).map(number);
        assert!(width.is_some_and(|width| (0.0..=100.0).contains(&width)), "{bar}");
    }
}

/// Digits, so neither NaN nor infinite.
fn number(text: &str) -> f64 {
    assert!(text.bytes().all(|byte| byte.is_ascii_digit() || b".-".contains(&byte)), "{text}");
    text.parse().expect("a number")
}

fn count(page: &str, part: &str) -> usize {
    page.matches(part).count()
}

#[test]
fn samples_are_what_runs_write() {
    let sample = sample("tcp", 2_000, 60_000.0, 2);
    let outcome: Outcome = serde_json::from_value(sample.clone()).expect("every field of a result");
    assert_eq!(serde_json::to_value(outcome).expect("JSON"), sample);
}

#[test]
fn every_figure_is_there() {
    let page = page(&[sample("tcp", 2_000, 60_000.0, 2)]);
    let texts = texts(&page);
    for figure in [
        "2,000",
        "window 8",
        "60,000",
        "66,000",
        "2",
        "4",
        "9",
        "20",
        "70",
        "2.20",
        "9.90",
        "77",
        "18",
        "140",
        "21.8",
        "10.9",
        "6",
        "1.45",
        "1.37",
        "0.5",
        "8",
        "0.07",
        "90",
        "20.4",
        "4.10",
        "41.5",
        "812",
        "tern-bench send --transport tcp",
        "2 cores, Some CPU, kernel 6.18",
        "0.1.0",
    ] {
        assert!(texts.iter().any(|text| text == figure), "{figure}");
    }
}

#[test]
fn every_run_is_there() {
    let runs: Vec<Value> = (1..=12)
        .map(|index| sample(if index % 2 == 0 { "quic" } else { "tcp" }, 500 * index, 60_000.0, 10))
        .collect();
    let page = page(&runs);
    check_form(&page);
    let texts = texts(&page);
    for name in ["1 tcp 500", "2 quic 1,000", "11 tcp 5,500", "12 quic 6,000"] {
        assert!(texts.iter().any(|text| text == name), "{name}");
    }
    for (part, times) in
        [("✓ All promises kept in 12 runs.", 1), ("✓ kept", 12), ("<td class=\"number\">60,000</td>", 24)]
    {
        assert_eq!(count(&page, part), times, "{part}");
    }
    for title in
        ["Ack: durable", "Acked (dotted: offered)", "Server memory, resident", "Server CPU per message"]
    {
        assert!(texts.iter().any(|text| text.trim() == title), "{title}");
    }
}

#[test]
fn more_runs_than_colours_are_drawn_by_transport() {
    let transport = |index| if index % 2 == 0 { "quic" } else { "tcp" };
    let runs: Vec<Value> =
        (1..=40).map(|index| sample(transport(index), 2_000, 1e3 * f64::from(index), 3)).collect();
    let page = page(&runs);
    check_form(&page);
    assert!(page.contains("one line for each of 40 runs"));
    assert!(page.contains("<title>40 quic 2,000</title>"), "a line says which run it is");
    assert_eq!(count(&page, "class=\"s2"), 0, "two transports, two colours");
}

#[test]
fn what_is_broken_is_seen() {
    let mut broken = sample("tcp", 2_000, 100.0, 4);
    broken["lost"] = json!(3);
    broken["duplicated"] = json!(1_200);
    broken["complete"] = json!(false);
    broken["problem"] = json!("the server has ended");
    broken["disconnected"] = json!(2_000);
    broken["refusals"] = json!({ "overloaded": 12 });
    let mut unchecked = sample("quic", 2_000, 100.0, 4);
    for promise in [
        "lost",
        "duplicated",
        "reordered",
        "falsely_receipted",
        "altered",
        "split",
        "unanswered",
        "refused",
        "disconnected",
    ] {
        unchecked[promise] = Value::Null;
    }
    let page = page(&[broken, unchecked, sample("tcp", 2_000, 100.0, 4)]);
    for part in [
        "✗ Promises were broken in 1 of 2 runs.",
        "✗ 1 run ended early.",
        "✗ 3 lost, 1,200 duplicated",
        "12 × overloaded",
        "the server has ended",
    ] {
        assert_eq!(count(&page, part), 1, "{part}");
    }
    assert_eq!(count(&page, "✓ kept"), 1);
    assert_eq!(count(&page, "✗ ended early"), 4, "in every table that has the run");
}

#[test]
fn a_run_that_ended_early_has_kept_nothing_to_the_end() {
    let mut cut = sample("tcp", 2_000, 100.0, 4);
    cut["complete"] = json!(false);
    (cut["unanswered"], cut["disconnected"]) = (json!(12), json!(2_000));
    cut["scenario_figures"] = json!({ "unsent": 3 });
    let alone = page(&[cut.clone()]);
    assert_eq!(count(&alone, "No run here has checked promises to its end."), 1);
    assert_eq!(count(&alone, "none broken until it ended early; 12 unanswered, 2,000 disconnected"), 1);
    assert_eq!(count(&alone, "unsent: messages that were due"), 1);
    let page = page(&[cut, sample("quic", 2_000, 100.0, 4)]);
    assert_eq!(count(&page, "✓ All promises kept in 1 run."), 1);
    assert_eq!(count(&page, "✓ kept"), 1);
}

#[test]
fn what_was_not_measured_is_told_apart() {
    let mut run = sample("tcp", 2_000, 100.0, 9);
    for (second, phase) in
        ["connecting", "warmup", "measuring", "draining", "leaving"].into_iter().enumerate()
    {
        run["series"][second]["phase"] = json!(phase);
        // A plot of connections would be drawn if they changed.
        run["series"][second]["connections"] = json!(if second < 3 { 2_000 } else { 7 });
    }
    let page = page(&[run]);
    check_form(&page);
    assert!(page.contains("class=\"s0 outside\""));
    assert!(!texts(&page).iter().any(|text| text.trim() == "Connections"), "clients that leave are no news");
}

#[test]
fn a_mean_over_a_break_is_not_drawn() {
    let mut run = sample("tcp", 2_000, 100.0, 9);
    for second in 5..9 {
        run["series"][second]["t_s"] = json!(second + 4);
    }
    run["series"][5]["acked"] = json!(1e6);
    let runs = run::parse(run.to_string().as_bytes()).expect("a run");
    let acked: Vec<_> = runs[0].series.iter().map(|second| second.acked.known()).collect();
    let expected: Vec<_> = (0..9).map(|second| (second != 5).then_some(100.0)).collect();
    assert_eq!(acked, expected);
}

#[test]
fn text_from_files_stays_text() {
    let nasty = "<script>alert(1)</script>\" onload='x' & \u{0}\u{1b}\u{ffff}";
    let mut run = sample("tcp", 2_000, 100.0, 4);
    for field in ["scenario", "transport", "load", "command", "version", "seed"] {
        run[field] = json!(nasty);
    }
    run["refusals"] = json!({ nasty: 1 });
    run["machine"] = json!({ "cpu": nasty, "kernel": nasty });
    run["scenario_figures"] = json!({ nasty: nasty, "nested": { nasty: [nasty] } });
    let page = page(&[run.clone(), run]);
    check_form(&page);
    let tree = roxmltree::Document::parse(body(&page)).expect("well-formed");
    assert!(!tree.descendants().any(|node| node.has_tag_name("script")));
    assert!(!tree.descendants().any(|node| node.attribute("onload").is_some()));
    assert!(texts(&page).iter().any(|text| text.contains("<script>alert(1)</script>\" onload='x' &")));
}

#[test]
fn runs_without_figures_have_a_page() {
    let mut zeros = sample("quic", 0, 0.0, 5);
    zeros["ack_ms"] = json!({ "count": 0, "mean": 0, "p50": 0, "p99": 0, "max": 0 });
    let mut outlier = sample("tcp", 2_000, 9e14, 5);
    outlier["ack_ms"]["max"] = json!(9e14);
    for runs in [
        vec![json!({ "scenario": "idle" })],
        vec![sample("tcp", 2_000, 1.0, 0), sample("tcp", 4_000, 2.0, 1)],
        vec![zeros.clone()],
        vec![zeros, outlier, sample("tcp", 2_000, 60_000.0, 5)],
        vec![sample("tcp", 2_000, 60_000.0, 5_000)],
    ] {
        check_form(&page(&runs));
    }
}

#[test]
fn what_is_no_report_is_an_error() {
    for (text, problem) in [
        ("", "not JSON: EOF while parsing a value at line 1 column 0"),
        ("{\"scenario\": ", "not JSON: EOF while parsing a value at line 1 column 13"),
        ("[]", "an empty array"),
        ("7", "neither an object nor an array of objects"),
        ("[[]]", "neither an object nor an array of objects"),
        ("{}", "it has no \"scenario\""),
        ("{\"scenario\": \"send\", \"series\": 5}", "invalid type: integer `5`, expected a sequence"),
    ] {
        assert_eq!(run::parse(text.as_bytes()).expect_err(text), problem, "{text}");
    }
}

#[test]
fn a_page_needs_nothing_beside_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (good, bad, output) =
        (dir.path().join("good.json"), dir.path().join("bad.json"), dir.path().join("page.html"));
    std::fs::write(&good, sample("tcp", 2_000, 100.0, 4).to_string()).expect("a file");
    std::fs::write(&bad, "{}").expect("a file");
    let report = |runs: &[_]| super::run(&Args { runs: runs.to_vec(), output: output.clone() });

    let error = report(&[good.clone(), bad.clone()]).expect_err("a file is no report");
    assert!(matches!(&error, Error::Format { file, .. } if *file == bad), "{error}");
    let error = report(&[dir.path().join("none.json")]).expect_err("there is no such file");
    assert!(matches!(error, Error::Read { .. }), "{error}");
    assert!(!output.exists(), "a page of a part of the runs would mislead");

    report(&[good.clone(), good]).expect("a page");
    let page = std::fs::read_to_string(&output).expect("a page");
    for part in ["http:", "https:", "<script", "<link", "src=", "url(", "@import"] {
        assert!(!page.contains(part), "{part}");
    }
}

/// Anything that a program might write where a figure is expected.
fn any_figure() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (0.0f64..1e5).prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => Just(Value::from(0)),
        1 => Just(Value::Null),
        1 => Just(Value::from("12")),
    ]
}

/// The same object with other figures.
fn with_figures(value: &mut Value, figures: &mut impl Iterator<Item = Value>) {
    match value {
        Value::Number(_) => *value = figures.next().unwrap_or(Value::Null),
        Value::Object(fields) => fields.values_mut().for_each(|field| with_figures(field, figures)),
        Value::Array(values) => values.iter_mut().for_each(|value| with_figures(value, figures)),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_figures_make_a_page(
        figures in prop::collection::vec(any_figure(), 200),
        seconds in 0u32..6,
        text in any::<String>(),
        count in 1usize..15,
    ) {
        let mut figures = figures.into_iter().cycle();
        let runs: Vec<Value> = (0..count).map(|_| {
            let mut run = sample("tcp", 2_000, 100.0, seconds);
            with_figures(&mut run, &mut figures);
            run["load"] = json!(text);
            run
        }).collect();
        check_form(&page(&runs));
    }
}
