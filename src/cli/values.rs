//! Values that clap does not know how to parse.

use bytesize::ByteSize;

/// A positive number, or a fraction of two: `0.03`, `4/255`.
pub(crate) fn fraction(text: &str) -> Result<f32, String> {
    let number = |part: &str| part.trim().parse::<f64>().ok();
    let value = match text.split_once('/') {
        Some((above, below)) => number(above).zip(number(below)).map(|(a, b)| a / b),
        None => number(text),
    };
    match value {
        Some(value) if value.is_finite() && value > 0.0 => Ok(value as f32),
        _ => Err("write a number above 0 or a fraction, such as 4/255".into()),
    }
}

/// A number that is 0 or above.
pub(crate) fn not_negative(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("write a number that is 0 or above, such as 0.5".into()),
    }
}

/// A share: above 0 and at most 1.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(value),
        _ => Err("write a number above 0 and at most 1, such as 0.875".into()),
    }
}

/// A number of bytes: `500M`, `8GiB`, `1.5 GB`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(ByteSize(bytes)) if bytes > 0 => Ok(bytes),
        _ => Err(
            "write a number of bytes above 0, such as 500M (500,000,000) or 8GiB (8 x 2^30)".into(),
        ),
    }
}

/// A number per channel, `r,g,b`.
pub(crate) fn channels(text: &str) -> Result<[f32; 3], String> {
    let numbers: Option<Vec<f32>> = text
        .split(',')
        .map(|part| part.trim().parse().ok())
        .collect();
    numbers
        .and_then(|numbers| <[f32; 3]>::try_from(numbers).ok())
        .filter(|numbers| numbers.iter().all(|x| x.is_finite()))
        .ok_or_else(|| "write three numbers, such as 0.485,0.456,0.406".into())
}

/// A number above 0 per channel, `r,g,b`.
pub(crate) fn positive_channels(text: &str) -> Result<[f32; 3], String> {
    let numbers = channels(text)?;
    match numbers.iter().all(|&x| x > 0.0) {
        true => Ok(numbers),
        false => Err("the numbers must be above 0".into()),
    }
}

/// What is said of means or standard deviations that are for pixels from 0 to 255.
pub(crate) fn channels_off_by_255(flag: &str, values: [f32; 3]) -> Option<String> {
    let list = |values: [f32; 3]| values.map(|x| x.to_string()).join(",");
    let meant = values.map(|x| (x / 255.0 * 1e4).round() / 1e4);
    values.iter().any(|x| x.abs() > 1.0).then(|| {
        format!(
            "{flag} {} is above 1, and pixels are from 0 to 1: {} was probably meant",
            list(values),
            list(meant)
        )
    })
}

/// What is said of an attack's size that is for pixels from 0 to 255. In the Euclidean norm, which sums over all
/// pixels, sizes up to 10 are in use.
pub(crate) fn eps_off_by_255(eps: f32, euclidean: bool) -> Option<String> {
    let most = if euclidean { 10.0 } else { 1.0 };
    (eps > most)
        .then(|| format!("an eps of {eps} is above {most}, and pixels are from 0 to 1: {eps}/255 was probably meant"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_exact() {
        assert_eq!(fraction("4/255"), Ok((4.0f64 / 255.0) as f32));
        assert_eq!(fraction("0.5"), Ok(0.5));
        for wrong in ["", "4/", "1/0", "-1", "nan", "inf", "0", "a/b"] {
            assert!(fraction(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_may_be_zero_where_that_means_something() {
        assert_eq!(not_negative("0"), Ok(0.0));
        assert_eq!(not_negative("1.5"), Ok(1.5));
        for wrong in ["-1", "nan", "inf", "x", ""] {
            assert!(not_negative(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_for_bytes_are_noticed() {
        let said = channels_off_by_255("--mean", [123.675, 116.28, 103.53]).unwrap();
        assert!(
            said.contains("--mean 123.675,116.28,103.53 is above 1"),
            "{said}"
        );
        assert!(
            said.contains("0.485,0.456,0.406 was probably meant"),
            "{said}"
        );
        assert_eq!(channels_off_by_255("--std", [1.0, 0.5, 0.2]), None);
        let said = eps_off_by_255(8.0, false).unwrap();
        assert!(said.contains("8/255 was probably meant"), "{said}");
        for (eps, euclidean) in [(1.0, false), (3.0, true), (0.03, false)] {
            assert_eq!(eps_off_by_255(eps, euclidean), None);
        }
        assert!(eps_off_by_255(128.0, true).is_some());
    }

    #[test]
    fn channels_are_three_numbers() {
        assert_eq!(channels("0,-0.5, 1"), Ok([0.0, -0.5, 1.0]));
        for wrong in ["1", "1,2", "1,2,3,4", "1,,2", "1,nan,2"] {
            assert!(channels(wrong).is_err(), "{wrong}");
        }
        assert!(positive_channels("1,0,1").is_err());
    }

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        for (text, wanted) in [
            ("4096", 4096),
            ("500M", 500_000_000),
            ("8GiB", 8 << 30),
            ("1.5 GB", 1_500_000_000),
            ("2g", 2_000_000_000),
        ] {
            assert_eq!(bytes(text), Ok(wanted), "{text}");
        }
        for wrong in [
            "", "0", "0GiB", "-1", "8 cats", "GiB", "1.2.3M", "nan", "inf",
        ] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_are_bounded() {
        assert_eq!(share("1"), Ok(1.0));
        for wrong in ["0", "1.01", "nan", "x"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
