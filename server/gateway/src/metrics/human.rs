//! Numbers as people read them.

/// Whole, with commas; below ten with one digit if there is one.
pub(crate) fn number(value: f64) -> String {
    if value > 0.0 && value < 9.95 && value.fract() != 0.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (i, digit) in digits.char_indices() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// With a unit.
pub(crate) fn bytes(value: f64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (value, 0);
    while value >= 1_000.0 && unit + 1 < units.len() {
        value /= 1_000.0;
        unit += 1;
    }
    if value < 10.0 && unit > 0 {
        format!("{value:.1} {}", units[unit])
    } else {
        format!("{value:.0} {}", units[unit])
    }
}

/// Of so many seconds, with a unit.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if s.is_infinite() => "long".to_owned(),
        0.0 => "0 s".to_owned(),
        s if s < 0.001 => format!("{} us", (s * 1e6).round()),
        s if s < 1.0 => format!("{} ms", (s * 1e4).round() / 10.0),
        s => format!("{} s", (s * 10.0).round() / 10.0),
    }
}

/// A time that may be long, in the two largest units: 3d 4h, 5m 6s, 7.8 s.
pub(crate) fn age(seconds: f64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let whole = seconds.max(0.0).min(u64::MAX as f64) as u64;
    let pair = UNITS.windows(2).find(|pair| whole >= pair[0].0);
    match pair {
        Some([(large, name), (small, next)]) => {
            format!("{}{name} {}{next}", whole / large, whole % large / small)
        }
        _ => format!("{} s", (seconds.max(0.0) * 10.0).round() / 10.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.5, 9.0, 9.96, 999.0, 1_234.4, 1_234_567.0].map(number);
        assert_eq!(shown, ["0", "0.5", "9", "10", "999", "1,234", "1,234,567"]);
        assert_eq!(
            [0.0, 999.0, 1_500.0, 2e7, 3e15].map(bytes),
            ["0 B", "999 B", "1.5 kB", "20 MB", "3000 TB"]
        );
        let shown = [0.0, 0.00025, 0.0025, 0.5, 1.0, f64::INFINITY].map(duration);
        assert_eq!(shown, ["0 s", "250 us", "2.5 ms", "500 ms", "1 s", "long"]);

        let shown = [0.0, 0.44, 59.9, 60.0, 3_725.0, 90_000.0, -1.0].map(age);
        assert_eq!(shown, ["0 s", "0.4 s", "59.9 s", "1m 0s", "1h 2m", "1d 1h", "0 s"]);
    }
}
