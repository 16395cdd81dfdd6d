//! Figures as people read them.

/// For what is not known.
pub(super) const UNKNOWN: &str = "–";

/// With as many digits as say something: `62,900`, `23.4`, `1.85`, `0.02`; whole numbers with none.
pub(super) fn figure(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 99.95 || size.fract() == 0.0 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.995 => 2,
        size if size >= 0.0095 => 3,
        _ => return format!("{value:.1e}"),
    };
    let text = fixed(value, digits);
    if digits == 3 { text.trim_end_matches('0').to_owned() } else { text }
}

/// A whole number: `19,000`.
pub(super) fn count(value: f64) -> String {
    fixed(value, 0)
}

/// `1 run`, `40 runs`.
pub(super) fn runs(number: usize) -> String {
    if number == 1 { "1 run".into() } else { format!("{} runs", count(number as f64)) }
}

/// With this many digits after the point, and commas between thousands.
pub(super) fn fixed(value: f64, digits: usize) -> String {
    let text = format!("{:.digits$}", value.abs());
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let mut out = String::new();
    if value < 0.0 && text.bytes().any(|digit| (b'1'..=b'9').contains(&digit)) {
        out.push('−');
    }
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// A unit for bytes up to this many: how many bytes it is, and its name.
pub(super) fn byte_unit(most: f64) -> (f64, &'static str) {
    match most {
        most if most >= 2e9 => (1e9, "GB"),
        most if most >= 2e6 => (1e6, "MB"),
        most if most >= 2e3 => (1e3, "kB"),
        _ => (1.0, "B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_digits_that_say_something() {
        let cases = [
            (0.0, "0"),
            (62_912.4, "62,912"),
            (1_234_567.0, "1,234,567"),
            (123.4, "123"),
            (99.97, "100"),
            (23.44, "23.4"),
            (1.849, "1.85"),
            (4.0, "4"),
            (0.5, "0.5"),
            (0.0213, "0.021"),
            (0.00004, "4.0e-5"),
            (-1_500.2, "−1,500"),
            (-0.0, "0"),
        ];
        for (value, text) in cases {
            assert_eq!(figure(value), text, "{value}");
        }
    }
}
