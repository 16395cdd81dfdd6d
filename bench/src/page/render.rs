//! The page.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use time::OffsetDateTime;

use super::columns::{self, Column};
use super::number;
use super::run::Run;
use super::scenario::{self, Shown};
use super::style::{self, Palette};
use super::table::{self, Head, Row};

const STYLE: &str = include_str!("style.css");

/// The runs of one scenario.
struct Section<'a> {
    scenario: &'a str,
    palette: Palette,
    runs: Vec<Shown<'a>>,
}

/// All of it.
pub(super) fn page(runs: &[Run]) -> Markup {
    let sections = sections(runs);
    let mut shown: Vec<&Shown> = sections.iter().flat_map(|section| &section.runs).collect();
    shown.sort_by_key(|shown| shown.index);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "tern-bench report" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { "tern-bench report" }
                    (verdict(runs))
                    (about(&shown))
                    h2 { "Runs" }
                    (of_runs(columns::RESULTS, &shown))
                    p.unit {
                        "Promises: nothing lost, duplicated, reordered or altered, everything answered, no receipt for what \
                         was not delivered; by the load generator's own records. " (number::UNKNOWN) ": not measured."
                    }
                    @for section in &sections { (scenario::draw(section.scenario, &section.runs, section.palette)) }
                    h2 { "All figures" }
                    h3 { "Times" }
                    (of_runs(columns::TIMES, &shown))
                    h3 { "Costs" }
                    (of_runs(columns::COSTS, &shown))
                    @let troubled: Vec<&Shown> =
                        shown.iter().copied().filter(|shown| columns::troubled(shown.run)).collect();
                    @if !troubled.is_empty() {
                        h3 { "Refused or failed" }
                        (of_runs(columns::TROUBLE, &troubled))
                    }
                    h2 { "Commands" }
                    (commands(&shown))
                }
            }
        }
    }
}

/// In the order in which scenarios first appear.
fn sections(runs: &[Run]) -> Vec<Section<'_>> {
    let mut sections: Vec<Section> = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let scenario = run.scenario.0.as_str();
        let number = if runs.len() > 1 { (index + 1).to_string() } else { String::new() };
        let shown = Shown { run, index, number, name: name(run, runs), class: String::new() };
        match sections.iter_mut().find(|section| section.scenario == scenario) {
            Some(section) => section.runs.push(shown),
            None => sections.push(Section { scenario, palette: Palette::Runs, runs: vec![shown] }),
        }
    }
    for section in &mut sections {
        section.palette = Palette::new(section.runs.len());
        for (index, shown) in section.runs.iter_mut().enumerate() {
            shown.class = section.palette.class(index, &shown.run.transport.0);
        }
    }
    sections
}

/// Transport, connections; the load, where that tells it from another of its scenario.
fn name(run: &Run, all: &[Run]) -> String {
    let connections = run.connections.known().map(number::count).unwrap_or_default();
    let mut parts = vec![run.transport.0.as_str(), connections.as_str()];
    let alike = |other: &&Run| {
        (&other.scenario, &other.transport, other.connections)
            == (&run.scenario, &run.transport, run.connections)
    };
    if all.iter().filter(alike).any(|other| other.load != run.load) {
        parts.push(&run.load.0);
    }
    parts.retain(|part| !part.is_empty());
    if parts.is_empty() { run.scenario.0.clone() } else { parts.join(" ") }
}

fn verdict(runs: &[Run]) -> Markup {
    let looked: Vec<(bool, Vec<String>)> =
        runs.iter().filter_map(|run| Some((run.complete == Some(false), columns::broken(run)?))).collect();
    let broken = looked.iter().filter(|(_, broken)| !broken.is_empty()).count();
    let kept = looked.iter().filter(|(ended_early, _)| !ended_early).count();
    let early = runs.iter().filter(|run| run.complete == Some(false)).count();
    html! {
        p.verdict {
            @if broken > 0 {
                span.bad { "✗ Promises were broken in " (broken) " of " (number::runs(looked.len())) "." }
            } @else if kept == 0 {
                span { "No run here has checked promises to its end." }
            } @else {
                span.good { "✓ All promises kept in " (number::runs(kept)) "." }
            }
            @if early > 0 { " " span.bad { "✗ " (number::runs(early)) " ended early." } }
        }
    }
}

type Fact = fn(&Run) -> String;

/// Version and machine, each once if it is the same for all; time.
fn about(shown: &[&Shown]) -> Markup {
    let facts: [(&str, Fact); 2] = [("Version", version), ("Machine", machine)];
    html! {
        dl {
            @for (name, fact) in facts {
                dt { (name) }
                dd {
                    @for (text, numbers) in same(shown, fact) {
                        div {
                            (text)
                            @if numbers.len() < shown.len() { " " span.unit { "(" (ranges(&numbers)) ")" } }
                        }
                    }
                }
            }
            dt { "When" }
            dd { (when(shown)) }
        }
    }
}

/// Each text once, with the numbers of its runs.
fn same(shown: &[&Shown], fact: Fact) -> Vec<(String, Vec<usize>)> {
    let mut texts: Vec<(String, Vec<usize>)> = Vec::new();
    for one in shown {
        let text = fact(one.run);
        match texts.iter_mut().find(|(known, _)| *known == text) {
            Some((_, numbers)) => numbers.push(one.index + 1),
            None => texts.push((text, vec![one.index + 1])),
        }
    }
    texts
}

/// `run 3`, `runs 1–4, 7`.
fn ranges(numbers: &[usize]) -> String {
    let range = |range: &[usize]| match range {
        [first, .., last] => format!("{first}–{last}"),
        other => other.iter().map(usize::to_string).collect(),
    };
    let ranges: Vec<String> = numbers.chunk_by(|one, next| one + 1 == *next).map(range).collect();
    format!("{} {}", if numbers.len() == 1 { "run" } else { "runs" }, ranges.join(", "))
}

fn version(run: &Run) -> String {
    if run.version.0.is_empty() { "not known".into() } else { run.version.0.clone() }
}

fn machine(run: &Run) -> String {
    let machine = &run.machine;
    let mut parts = Vec::new();
    parts.extend(machine.cores.known().map(|cores| format!("{} cores", number::count(cores))));
    parts.extend(Some(machine.cpu.0.clone()).filter(|cpu| !cpu.is_empty()));
    parts.extend(
        Some(&machine.kernel.0).filter(|kernel| !kernel.is_empty()).map(|kernel| format!("kernel {kernel}")),
    );
    if parts.is_empty() { "not known".into() } else { parts.join(", ") }
}

/// When the files were written: the first and the last.
fn when(shown: &[&Shown]) -> String {
    let written = || shown.iter().filter_map(|shown| shown.run.written);
    match (written().min().map(minute), written().max().map(minute)) {
        (Some(first), Some(last)) if first == last => format!("{first} UTC"),
        (Some(first), Some(last)) => format!("{first} to {last} UTC"),
        _ => "not known".into(),
    }
}

/// `2026-11-22 09:15`.
fn minute(at: OffsetDateTime) -> String {
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    format!("{year}-{month:02}-{day:02} {:02}:{:02}", at.hour(), at.minute())
}

fn of_runs(columns: &[Column], shown: &[&Shown]) -> Markup {
    let heads: Vec<Head> =
        columns.iter().map(|column| Head { name: column.name.to_owned(), unit: column.unit }).collect();
    let row = |shown: &&Shown| Row {
        head: html! {
            (style::sample(&shown.class)) (shown.number) " " (shown.run.scenario.0) " " (shown.run.transport.0)
            @if shown.run.complete == Some(false) { div.bad { "✗ ended early" } }
        },
        cells: columns.iter().map(|column| (column.cell)(shown.run)).collect(),
    };
    table::draw("run", &heads, &shown.iter().map(row).collect::<Vec<_>>())
}

fn commands(shown: &[&Shown]) -> Markup {
    html! {
        ol.commands {
            @for shown in shown {
                li {
                    code { (shown.run.command.0) }
                    div.unit {
                        (shown.run.file)
                        @if !shown.run.seed.0.is_empty() { ", seed " (shown.run.seed.0) }
                        @if let Some(load) = shown.run.machine.load_before.known() {
                            ", load before " (number::fixed(load, 2))
                        }
                    }
                }
            }
        }
    }
}
