//! Money as integers: amounts in nano-USD, prices in pico-USD per unit, shares in parts
//! per million.
//!
//! Invariant: nothing here rounds but the functions that say so, and nothing wraps.

use std::fmt;
use std::str::FromStr;

/// An amount in billionths of a US dollar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct NanoUsd(pub i64);

/// A price of one unit in trillionths of a US dollar: $1 per million tokens is 1,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct PicoUsd(pub i64);

/// A share in parts per million: 1,000,000 is the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Ppm(pub u32);

const NANO_PER_USD: i128 = 1_000_000_000;
const NANO_DIGITS: usize = 9;
const PICO_DIGITS: usize = 12;
const PICO_PER_NANO: i128 = 1_000;
const WHOLE_PPM: i128 = 1_000_000;

/// An amount beyond 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the amount is beyond 9.2 thousand million US dollars")]
pub struct TooMuch;

/// A text that is no price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPrice {
    /// No decimal number.
    #[error("it is no decimal number of US dollars")]
    NoNumber,
    /// Less than nothing.
    #[error("it is below 0")]
    Negative,
    /// Digits beyond the twelfth after the point.
    #[error("it is finer than a trillionth of a US dollar")]
    TooFine,
    /// Beyond 64 bits.
    #[error("it is too large")]
    TooLarge,
}

/// A text that is no share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadShare {
    /// No decimal number.
    #[error("it is no decimal number such as 1.15")]
    NoNumber,
    /// Digits beyond the sixth after the point.
    #[error("it is finer than a millionth")]
    TooFine,
    /// Beyond 4294.
    #[error("it is too large")]
    TooLarge,
}

/// A text that is no amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadAmount {
    /// No plain decimal number.
    #[error("it is no amount of US dollars such as 12.50")]
    NoNumber,
    /// Digits beyond the ninth after the point.
    #[error("it is finer than a billionth of a US dollar")]
    TooFine,
    /// Beyond 64 bits.
    #[error("it is beyond 9.2 thousand million US dollars")]
    TooLarge,
}

impl NanoUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The sum.
    ///
    /// # Errors
    /// When it is beyond 64 bits.
    pub fn plus(self, other: Self) -> Result<Self, TooMuch> {
        self.0.checked_add(other.0).map(Self).ok_or(TooMuch)
    }

    /// So much of it, rounded up: what a consumer is charged.
    ///
    /// # Errors
    /// When it is beyond 64 bits.
    pub fn share_rounded_up(self, share: Ppm) -> Result<Self, TooMuch> {
        let exact = i128::from(self.0) * i128::from(share.0);
        narrow(-(-exact).div_euclid(WHOLE_PPM))
    }

    /// So much of it, rounded down: what an owner is credited.
    ///
    /// # Errors
    /// When it is beyond 64 bits.
    pub fn share_rounded_down(self, share: Ppm) -> Result<Self, TooMuch> {
        let exact = i128::from(self.0) * i128::from(share.0);
        narrow(exact.div_euclid(WHOLE_PPM))
    }
}

impl PicoUsd {
    /// What so many units cost, rounded half to even: the one rounding of a line.
    ///
    /// # Errors
    /// When it is beyond 64 bits.
    pub fn times_rounded(self, quantity: u64) -> Result<NanoUsd, TooMuch> {
        self.times_per_rounded(quantity, PICO_PER_NANO)
    }

    /// The same of so many thousandths of a unit: milliseconds at a price per second.
    ///
    /// # Errors
    /// When it is beyond 64 bits.
    pub fn times_thousandths_rounded(self, quantity: u64) -> Result<NanoUsd, TooMuch> {
        self.times_per_rounded(quantity, PICO_PER_NANO * 1_000)
    }

    /// So much of it, rounded half to even: a price that rises with the way of serving.
    ///
    /// # Errors
    /// When it is beyond 64 bits.
    pub fn share_rounded(self, share: Ppm) -> Result<Self, TooMuch> {
        self.times_per_rounded(share.0.into(), WHOLE_PPM).map(|amount| Self(amount.0))
    }

    fn times_per_rounded(self, quantity: u64, divisor: i128) -> Result<NanoUsd, TooMuch> {
        let exact = i128::from(self.0) * i128::from(quantity);
        let (whole, rest) = (exact.div_euclid(divisor), exact.rem_euclid(divisor));
        let half = divisor / 2;
        let up = rest > half || (rest == half && whole % 2 != 0);
        narrow(whole + i128::from(up))
    }
}

fn narrow(amount: i128) -> Result<NanoUsd, TooMuch> {
    i64::try_from(amount).map(NanoUsd).map_err(|_| TooMuch)
}

/// Dollars with as many decimals as there are, at least two.
impl fmt::Display for NanoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let amount = i128::from(self.0).abs();
        let decimals = format!("{:09}", amount % NANO_PER_USD);
        let shown = decimals.trim_end_matches('0').len().max(2);
        let decimals = decimals.get(..shown).unwrap_or_default();
        write!(f, "{sign}${}.{decimals}", amount / NANO_PER_USD)
    }
}

/// A decimal number: 1.15 of the whole.
impl fmt::Display for Ppm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = format!("{:06}", self.0 % 1_000_000);
        let shown = decimals.trim_end_matches('0');
        let point = if shown.is_empty() { "" } else { "." };
        write!(f, "{}{point}{shown}", self.0 / 1_000_000)
    }
}

/// Reads a decimal number such as `1.15`, exactly.
impl FromStr for Ppm {
    type Err = BadShare;

    fn from_str(text: &str) -> Result<Self, BadShare> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !all_digits(whole) || !all_digits(fraction) {
            return Err(BadShare::NoNumber);
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > 6 {
            return Err(BadShare::TooFine);
        }
        let millionths = format!("{whole}{fraction:0<6}");
        millionths.parse().map(Self).map_err(|_| BadShare::TooLarge)
    }
}

/// Reads plain decimal dollars such as `12` or `0.000000001`, exactly.
impl FromStr for NanoUsd {
    type Err = BadAmount;

    fn from_str(text: &str) -> Result<Self, BadAmount> {
        let (unsigned, is_negative) = text.strip_prefix('-').map_or((text, false), |rest| (rest, true));
        let (whole, decimals) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
        let are_digits = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !are_digits(whole) || !are_digits(decimals) {
            return Err(BadAmount::NoNumber);
        }
        let decimals = decimals.trim_end_matches('0');
        if decimals.len() > NANO_DIGITS {
            return Err(BadAmount::TooFine);
        }
        let digits = format!("{}{whole}{decimals:0<NANO_DIGITS$}", if is_negative { "-" } else { "" });
        digits.parse().map(Self).map_err(|_| BadAmount::TooLarge)
    }
}

/// Reads decimal dollars such as `0.0000025` or `2.5e-06`, exactly.
impl FromStr for PicoUsd {
    type Err = BadPrice;

    fn from_str(text: &str) -> Result<Self, BadPrice> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| BadPrice::NoNumber)?),
            None => (text, 0),
        };
        let (mantissa, negative) = mantissa.strip_prefix('-').map_or((mantissa, false), |rest| (rest, true));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        if whole.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) || exponent.abs() > 64 {
            return Err(BadPrice::NoNumber);
        }
        let digits = digits.trim_start_matches('0');
        if digits.is_empty() {
            return Ok(Self(0));
        }
        if negative {
            return Err(BadPrice::Negative);
        }
        let decimals = i64::try_from(fraction.len()).map_err(|_| BadPrice::NoNumber)? - i64::from(exponent);
        let shift = i64::try_from(PICO_DIGITS).unwrap_or(i64::MAX) - decimals;
        let kept = match usize::try_from(-shift) {
            Ok(dropped) => {
                let (kept, rest) = digits.split_at(digits.len().saturating_sub(dropped));
                if rest.bytes().any(|byte| byte != b'0') || digits.len() < dropped {
                    return Err(BadPrice::TooFine);
                }
                kept.to_owned()
            }
            Err(_) => digits.to_owned() + &"0".repeat(usize::try_from(shift).unwrap_or(0).min(128)),
        };
        if kept.is_empty() { Ok(Self(0)) } else { kept.parse().map(Self).map_err(|_| BadPrice::TooLarge) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shares_are_read_exactly_and_shown_as_they_are_written() {
        let shares = [("1.15", 1_150_000), ("1", 1_000_000), ("0.8", 800_000), ("0", 0), ("12.000001", 12_000_001)];
        for (text, ppm) in shares {
            assert_eq!(text.parse(), Ok(Ppm(ppm)), "{text}");
            assert_eq!(Ppm(ppm).to_string(), text);
        }
        assert_eq!("1.150".parse(), Ok(Ppm(1_150_000)));
        for text in ["", ".5", "1.", "-1", "1e3", "1,5", "0x1", "1.1.1", " 1"] {
            assert_eq!(text.parse::<Ppm>(), Err(BadShare::NoNumber), "{text}");
        }
        assert_eq!("0.0000001".parse::<Ppm>(), Err(BadShare::TooFine));
        assert_eq!("4295".parse::<Ppm>(), Err(BadShare::TooLarge));
    }

    #[test]
    fn published_prices_are_read_exactly() {
        let prices = [
            ("2.5e-06", 2_500_000),
            ("0.0000025", 2_500_000),
            ("6.3e-07", 630_000),
            ("2.8E-8", 28_000),
            ("0.01", 10_000_000_000),
            ("0", 0),
            ("0.0", 0),
            ("-0.0", 0),
            ("1e-12", 1),
            ("10e-13", 1),
            ("1", 1_000_000_000_000),
            ("1.50000000000000000", 1_500_000_000_000),
        ];
        for (text, pico) in prices {
            assert_eq!(text.parse(), Ok(PicoUsd(pico)), "{text}");
        }
    }

    #[test]
    fn what_is_no_price_is_said_to_be_none() {
        let bad = [
            ("", BadPrice::NoNumber),
            ("x", BadPrice::NoNumber),
            (".5", BadPrice::NoNumber),
            ("1e", BadPrice::NoNumber),
            ("1e999999999999", BadPrice::NoNumber),
            ("NaN", BadPrice::NoNumber),
            ("-1", BadPrice::Negative),
            ("1e-13", BadPrice::TooFine),
            ("1.0000000000001", BadPrice::TooFine),
            ("1e-60", BadPrice::TooFine),
            ("1e8", BadPrice::TooLarge),
            ("1e60", BadPrice::TooLarge),
        ];
        for (text, error) in bad {
            assert_eq!(text.parse::<PicoUsd>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_line_is_rounded_half_to_even() {
        let cost = |pico, quantity| PicoUsd(pico).times_rounded(quantity).unwrap().0;

        assert_eq!(cost(2_500_000, 176), 440_000);
        assert_eq!(cost(500, 1), 0);
        assert_eq!(cost(500, 3), 2);
        assert_eq!(cost(501, 1), 1);
        assert_eq!(cost(1, 1499), 1);
        assert_eq!(PicoUsd(i64::MAX).times_rounded(u64::MAX), Err(TooMuch));
    }

    #[test]
    fn a_raised_price_is_rounded_half_to_even() {
        assert_eq!(PicoUsd(500_000).share_rounded(Ppm(1_100_000)), Ok(PicoUsd(550_000)));
        assert_eq!(PicoUsd(5).share_rounded(Ppm(1_100_000)), Ok(PicoUsd(6)));
        assert_eq!(PicoUsd(15).share_rounded(Ppm(1_100_000)), Ok(PicoUsd(16)));
        assert_eq!(PicoUsd(i64::MAX).share_rounded(Ppm(1_000_001)), Err(TooMuch));
    }

    #[test]
    fn a_charge_is_rounded_up_and_a_credit_down() {
        assert_eq!(NanoUsd(1001).share_rounded_up(Ppm(500_000)), Ok(NanoUsd(501)));
        assert_eq!(NanoUsd(1001).share_rounded_down(Ppm(500_000)), Ok(NanoUsd(500)));
        assert_eq!(NanoUsd(1000).share_rounded_up(Ppm(1_000_000)), Ok(NanoUsd(1000)));
        assert_eq!(NanoUsd(i64::MAX).share_rounded_up(Ppm(1_000_001)), Err(TooMuch));
    }

    #[test]
    fn amounts_are_read_exactly_or_not_at_all() {
        let amounts = [
            ("12", 12_000_000_000),
            ("12.5", 12_500_000_000),
            ("0.000000001", 1),
            ("0.1000000000000", 100_000_000),
            ("-3.25", -3_250_000_000),
            ("9223372036.854775807", i64::MAX),
            ("-9223372036.854775808", i64::MIN),
            ("007", 7_000_000_000),
        ];
        for (text, nano) in amounts {
            assert_eq!(text.parse(), Ok(NanoUsd(nano)), "{text}");
        }
        for bad in ["", "-", ".5", "5.", "1e3", "1,000", "$5", "+5", " 5", "5 ", "--5", "0x5", "NaN", "1.-5"] {
            assert_eq!(bad.parse::<NanoUsd>(), Err(BadAmount::NoNumber), "{bad}");
        }
        assert_eq!("0.0000000001".parse::<NanoUsd>(), Err(BadAmount::TooFine));
        assert_eq!("9223372036.854775808".parse::<NanoUsd>(), Err(BadAmount::TooLarge));
    }

    #[test]
    fn amounts_are_shown_as_dollars() {
        assert_eq!(NanoUsd(1_234_500_000).to_string(), "$1.2345");
        assert_eq!(NanoUsd(0).to_string(), "$0.00");
        assert_eq!(NanoUsd(1).to_string(), "$0.000000001");
        assert_eq!(NanoUsd(-5_000_000_000).to_string(), "-$5.00");
        assert_eq!(NanoUsd(i64::MIN).to_string(), "-$9223372036.854775808");
    }

    proptest! {
        #[test]
        fn no_share_creates_or_loses_more_than_a_billionth(amount in 0..1_i64 << 40, share in 0..=2_000_000_u32) {
            let (up, down) = (NanoUsd(amount).share_rounded_up(Ppm(share)).unwrap(), NanoUsd(amount).share_rounded_down(Ppm(share)).unwrap());
            let exact = i128::from(amount) * i128::from(share);
            prop_assert!(i128::from(up.0) * 1_000_000 >= exact && i128::from(down.0) * 1_000_000 <= exact);
            prop_assert!(up.0 - down.0 <= 1);
        }

        #[test]
        fn a_price_is_read_as_it_is_written(pico in 0..i64::MAX) {
            let text = format!("{}.{:012}", pico / 1_000_000_000_000, pico % 1_000_000_000_000);
            prop_assert_eq!(text.parse(), Ok(PicoUsd(pico)));
            prop_assert_eq!(format!("{pico}e-12").parse(), Ok(PicoUsd(pico)));
        }

        #[test]
        fn an_amount_is_read_as_it_is_shown(nano in any::<i64>()) {
            prop_assert_eq!(NanoUsd(nano).to_string().replace('$', "").parse(), Ok(NanoUsd(nano)));
        }

        #[test]
        fn no_text_leads_to_a_panic(text in "[-+0-9.eE]{0,24}") {
            let _ = text.parse::<NanoUsd>();
            let _ = text.parse::<PicoUsd>();
        }
    }
}
