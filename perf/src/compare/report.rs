//! The report: a table, what it says in words, and JSON (`docs/COMPARE.md`).
#![forbid(unsafe_code)]

use super::figures::{METRICS, Metric, Unit, Value};
use super::raw::Raw;
use super::{Comparison, Entrant};
use crate::report::{nanoseconds, table, thousands};
use serde_json::{Map, Value as Json, json};
use std::fmt::Write;

/// What everybody is measured against.
const BASE: &str = "spinlock";

/// The whole report for people.
pub(super) fn text(comparison: &Comparison) -> String {
    let conditions = &comparison.conditions;
    let mut text = format!(
        "{}: {} rounds in {:.0} s, seed {}; poller on core {}, {} on {:?}\n\n",
        comparison.address,
        comparison.rounds,
        comparison.duration.as_secs_f64(),
        comparison.seed,
        conditions.cores.poller,
        if comparison.producers > conditions.cores.senders.len() { "producers share" } else { "producers" },
        conditions.cores.senders,
    );
    // Writing to a string does not fail.
    let _ = writeln!(text, "{}\n", figures_table(comparison));
    text.push_str(
        "Each figure: the median of the rounds (the longest: the maximum), its ratio to spinlock's (\"=\" where the\n\
         quartiles overlap: indistinguishable), and the quartiles below. Latencies that are measured one by one contain one clock reading.\n\n",
    );
    let _ = writeln!(text, "{}\n", counts_table(comparison));
    words(comparison, &mut text);
    text
}

fn figures_table(comparison: &Comparison) -> comfy_table::Table {
    let mut header = vec!["figure"];
    header.extend(comparison.entrants.iter().map(title));
    let base = base(comparison);
    let rows = METRICS.iter().filter(|metric| !metric.title.is_empty()).map(|metric| {
        let mut row = vec![metric.title.to_owned()];
        row.extend(comparison.entrants.iter().map(|entrant| cell(entrant, base, metric)));
        row
    });
    table(&header, rows.collect::<Vec<_>>())
}

fn title(entrant: &Entrant) -> &'static str {
    if entrant.is_control { "lockfree again (control)" } else { entrant.name }
}

fn base(comparison: &Comparison) -> &Entrant {
    let found = comparison.entrants.iter().find(|entrant| entrant.name == BASE);
    found.expect("the spinlock always takes part")
}

fn cell(entrant: &Entrant, base: &Entrant, metric: &Metric) -> String {
    let (Some(value), Some(against)) = (entrant.figures.get(metric), base.figures.get(metric)) else {
        return "-".into();
    };
    let mut text = number(value.middle, metric.unit);
    if !std::ptr::eq(entrant, base) {
        let mark = if value.overlaps(&against) { "=" } else { "" };
        let _ = match ratio(value.middle, against.middle) {
            Some(ratio) => write!(text, "  {mark}{ratio:.2}x"),
            None => write!(text, "  {mark}"),
        };
    }
    let _ = write!(text, "\n{} .. {}", number(value.low, metric.unit), number(value.high, metric.unit));
    text
}

/// `None` where there is nothing to divide by.
fn ratio(value: f64, against: f64) -> Option<f64> {
    (against > 0.0).then(|| value / against)
}

fn number(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Ns if value < 100.0 => format!("{value:.2} ns"),
        Unit::Ns => nanoseconds(value),
        Unit::PerS => thousands(value as u64),
        Unit::MsPerS => format!("{value:.3} ms"),
    }
}

fn counts_table(comparison: &Comparison) -> comfy_table::Table {
    let header = ["messages", "sent", "completed", "aborted", "rejected", "lost", "duplicated"];
    let rows = comparison.entrants.iter().map(|entrant| {
        let counts = &entrant.counts;
        let numbers =
            [counts.sent, counts.completed, counts.aborted, counts.rejected, counts.lost, counts.duplicated];
        let mut row = vec![title(entrant).to_owned()];
        row.extend(numbers.map(thousands));
        row
    });
    table(&header, rows.collect::<Vec<_>>())
}

/// What the table says.
fn words(comparison: &Comparison, text: &mut String) {
    wins(comparison, text);
    let by_key = |name: &str, key: &str| {
        let mut found = comparison.entrants.iter().filter(|entrant| entrant.name == name);
        found.next().and_then(|entrant| entrant.figures.by_key(key)).map_or(f64::NAN, |value| value.middle)
    };
    let of_each = |value: &dyn Fn(&str) -> f64| {
        let schemes = comparison.entrants.iter().filter(|entrant| !entrant.is_control);
        schemes
            .map(|entrant| format!("{:.1} with {}", value(entrant.name), entrant.name))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let Raw { ping_pong_ns, message_ns } = comparison.conditions.raw();
    let _ = writeln!(
        text,
        "A ping-pong through the poller takes {:.2} times a raw cache line's round trip ({ping_pong_ns:.0} ns) with lockfree, {:.2} with spinlock.",
        by_key("lockfree", "ping_pong_ns.p50") / ping_pong_ns,
        by_key(BASE, "ping_pong_ns.p50") / ping_pong_ns,
    );
    let _ = writeln!(
        text,
        "A message in a batch takes {:.2} times what a line there and a line back take by themselves ({message_ns:.0} ns) with lockfree, {:.2} with spinlock.",
        by_key("lockfree", "message_batch_ns") / message_ns,
        by_key(BASE, "message_batch_ns") / message_ns,
    );
    let _ = writeln!(
        text,
        "In the storm the poller lost, in ms per second: {}. Less what the machine took from it, by what it took between polls meanwhile: {}.",
        of_each(&|name| by_key(name, "storm_stall_ms")),
        of_each(&|name| by_key(name, "storm_stall_ms") - by_key(name, "storm_machine_ms")),
    );
    control(comparison, text);
    let conditions = &comparison.conditions;
    let _ = writeln!(
        text,
        "Load {:.2} before and {:.2} after; steal {:.1} %; the poller waited {:.1} % of a calm run for its core; a clock reading takes {:.0} ns.",
        conditions.load_before,
        conditions.load_after,
        conditions.steal * 100.0,
        conditions.mean_wait() * 100.0,
        conditions.clock_ns,
    );
    let emulated = conditions.emulated();
    if !emulated.is_empty() {
        let _ = writeln!(
            text,
            "These figures say that it works, and mean little beyond that: emulated in software are {}.",
            emulated.join(" and "),
        );
    }
    let doubts = conditions.doubts();
    if !doubts.is_empty() {
        let _ =
            writeln!(text, "The machine is too busy for these numbers to mean much: {}.", doubts.join("; "));
    }
    for entrant in comparison.entrants.iter().filter(|entrant| !entrant.counts.is_exact()) {
        let (lost, duplicated) = (entrant.counts.lost, entrant.counts.duplicated);
        let _ = writeln!(
            text,
            "FAILED: {} lost {lost} messages and answered {duplicated} twice.",
            title(entrant)
        );
    }
}

/// Where each scheme is better than all others, and where the best cannot be told apart.
fn wins(comparison: &Comparison, text: &mut String) {
    let schemes: Vec<&Entrant> = comparison.entrants.iter().filter(|entrant| !entrant.is_control).collect();
    let mut won: Vec<Vec<String>> = vec![Vec::new(); schemes.len()];
    let mut shared = Vec::new();
    let mut group = "";
    for metric in METRICS.iter().filter(|metric| !metric.title.is_empty()) {
        let title = if let Some(part) = metric.title.strip_prefix("  ") {
            format!("{group}, {part}")
        } else {
            group = metric.title.split(", p").next().unwrap_or(metric.title);
            metric.title.to_owned()
        };
        match winner(&schemes, metric) {
            Some((index, ratio)) => won[index].push(format!("{title} ({ratio})")),
            None => shared.push(title),
        }
    }
    for (entrant, won) in schemes.iter().zip(won) {
        let what = if won.is_empty() { "nothing".to_owned() } else { won.join("; ") };
        let _ = writeln!(text, "{} is best at: {what}.", entrant.name);
    }
    if !shared.is_empty() {
        let _ =
            writeln!(text, "No single best (the quartiles of the first two overlap): {}.", shared.join("; "));
    }
}

/// The scheme that is distinguishably better than all others, and by how much than the next.
fn winner(schemes: &[&Entrant], metric: &Metric) -> Option<(usize, String)> {
    let mut values: Vec<(usize, Value)> = schemes
        .iter()
        .enumerate()
        .filter_map(|(index, entrant)| Some((index, entrant.figures.get(metric)?)))
        .collect();
    values.sort_by(|one, other| one.1.middle.total_cmp(&other.1.middle));
    if metric.is_more_better() {
        values.reverse();
    }
    let [(index, best), (next, second), ..] = values.as_slice() else { return None };
    let is_clear = values.iter().skip(1).all(|(_, value)| !best.overlaps(value));
    let ratio = ratio(best.middle, second.middle)?;
    is_clear.then(|| (*index, format!("{ratio:.2} of {}'s", schemes[*next].name)))
}

/// What the control says of chance.
fn control(comparison: &Comparison, text: &mut String) {
    let differing = control_differs(comparison);
    if differing.is_empty() {
        text.push_str("Control: lockfree against itself is indistinguishable in every figure.\n");
        return;
    }
    let words: Vec<_> = differing
        .iter()
        .map(|(metric, ratio)| match ratio {
            Some(ratio) => format!("{} by {ratio:.2}x", metric.key),
            None => metric.key.to_owned(),
        })
        .collect();
    let _ = writeln!(
        text,
        "Control: lockfree differs from itself in {} of {} figures, by chance: {}. Differences of that size mean nothing there.",
        differing.len(),
        METRICS.len(),
        words.join(", "),
    );
}

/// The figures in which the control can be told from the scheme that it is.
fn control_differs(comparison: &Comparison) -> Vec<(&'static Metric, Option<f64>)> {
    let Some(control) = comparison.entrants.iter().find(|entrant| entrant.is_control) else {
        return Vec::new();
    };
    let twin = comparison.entrants.iter().find(|entrant| !entrant.is_control && entrant.name == control.name);
    let Some(twin) = twin else { return Vec::new() };
    let differs = |metric: &'static Metric| {
        let (one, other) = (control.figures.get(metric)?, twin.figures.get(metric)?);
        (!one.overlaps(&other)).then(|| (metric, ratio(one.middle, other.middle)))
    };
    METRICS.iter().filter_map(differs).collect()
}

/// The report for programs; `docs/COMPARE.md` is its contract.
pub(super) fn json(comparison: &Comparison) -> Json {
    let conditions = &comparison.conditions;
    let (schemes, control): (Vec<_>, Vec<_>) =
        comparison.entrants.iter().partition(|entrant| !entrant.is_control);
    let mut control = control.first().map_or(Json::Null, |entrant| scheme(entrant));
    if let Some(object) = control.as_object_mut() {
        let keys: Vec<_> = control_differs(comparison).iter().map(|(metric, _)| metric.key).collect();
        object.insert("differs".into(), json!(keys));
    }
    let doubts = conditions.doubts();
    let raw = conditions.raw();
    json!({
        "address": comparison.address,
        "seed": comparison.seed,
        "rounds": comparison.rounds,
        "duration_s": comparison.duration.as_secs_f64(),
        "producers": comparison.producers,
        "schemes": schemes.into_iter().map(scheme).collect::<Vec<_>>(),
        "control": control,
        "machine": {
            "poller_core": conditions.cores.poller,
            "producer_cores": conditions.cores.senders,
            "load_before": conditions.load_before,
            "load_after": conditions.load_after,
            "steal_share": conditions.steal,
            "poller_wait_share": conditions.mean_wait(),
            "raw_ping_pong_ns": raw.ping_pong_ns,
            "raw_message_ns": raw.message_ns,
            "clock_ns": conditions.clock_ns,
            "too_busy": !doubts.is_empty(),
            "doubts": doubts,
            "emulated": conditions.emulated(),
        },
    })
}

/// One scheme's object.
fn scheme(entrant: &Entrant) -> Json {
    let mut object = Map::new();
    object.insert("name".into(), entrant.name.into());
    let mut spread = Map::new();
    for metric in METRICS {
        let Some(value) = entrant.figures.get(metric) else { continue };
        insert(&mut object, metric.key, rounded(value.middle));
        insert(&mut spread, metric.key, json!([rounded(value.low), rounded(value.high)]));
    }
    object.insert("spread".into(), spread.into());
    let counts = &entrant.counts;
    let counted = [
        ("sent", counts.sent),
        ("completed", counts.completed),
        ("aborted", counts.aborted),
        ("rejected", counts.rejected),
        ("lost", counts.lost),
        ("duplicated", counts.duplicated),
    ];
    object.extend(counted.map(|(key, count)| (key.to_owned(), count.into())));
    object.into()
}

/// Three digits behind the point are more than any of this is worth.
fn rounded(value: f64) -> Json {
    json!((value * 1000.0).round() / 1000.0)
}

/// Inserts under a key whose part behind a dot is a key of an inner object.
fn insert(object: &mut Map<String, Json>, key: &str, value: Json) {
    match key.split_once('.') {
        None => {
            object.insert(key.to_owned(), value);
        }
        Some((outer, inner)) => {
            let inside = object.entry(outer).or_insert_with(|| json!({}));
            if let Some(inside) = inside.as_object_mut() {
                inside.insert(inner.to_owned(), value);
            }
        }
    }
}
