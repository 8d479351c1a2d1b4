//! Numbers by chance, and texts changed by chance.

/// A generator of numbers (splitmix64).
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n.max(1) as u64).unwrap()
    }

    pub(crate) fn percent(&mut self, n: usize) -> bool {
        self.below(100) < n
    }

    pub(crate) fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    /// Between both, these included.
    pub(crate) fn within(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most - least + 1)
    }
}

const NUMBERS: &[&str] = &[
    "0",
    "-0",
    "1",
    "-1",
    "2",
    "15",
    "16",
    "17",
    "31",
    "32",
    "33",
    "63",
    "64",
    "65",
    "127",
    "128",
    "129",
    "255",
    "256",
    "1023",
    "32768",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "-2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999",
    "1e9",
    "0x10",
    "1.5",
    ".nan",
    "1_000",
    "007",
];

const WORDS: &[&str] = &[
    "",
    " ",
    "\n",
    "\r\n",
    "\t",
    ":",
    ": ",
    "- ",
    "---\n",
    "#",
    "\"",
    "'",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ",",
    "|",
    ">",
    "&a ",
    "*a",
    "<<: *a",
    "!!str ",
    "!",
    "?",
    "%",
    "@",
    "`",
    "\\",
    "/",
    "//",
    "/*",
    "*/",
    "r#\"",
    "null",
    "~",
    "true",
    "no",
    "None",
    "Some(",
    "\u{0}",
    "\u{7f}",
    "\u{85}",
    "\u{feff}",
    "\u{202e}",
    "\u{2028}",
    "é",
    "💥",
    "\u{301}",
    "::",
    "0.0.0.0/0",
    "::/0",
    "255.255.255.255",
    "10.0.0.0/33",
    "fe80::1%eth0",
    "::ffff:10.0.0.1",
    "-A",
    "-j",
    "!",
    "--",
    "-",
    "*",
    "=",
    "==",
    "%s",
    "$(x)",
    "../",
    "a.b.c",
    "1ns",
    "1h",
    "9999999h",
    "1/0",
    "0/1",
    "100%",
];

/// Changes a text in some places; `others` lend parts.
pub(crate) fn changed(text: &str, others: &[String], draw: &mut Draw) -> String {
    let mut bytes = text.as_bytes().to_vec();
    // Mostly a little: what is changed much is refused at its first line.
    let changes = if draw.percent(60) {
        1
    } else {
        draw.within(2, 6)
    };
    for _ in 0..changes {
        change(&mut bytes, others, draw);
        bytes.truncate(1 << 16);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn change(bytes: &mut Vec<u8>, others: &[String], draw: &mut Draw) {
    let at = draw.below(bytes.len() + 1);
    let long = match draw.below(3) {
        0 => draw.below(4),
        1 => draw.below(32),
        _ => draw.below(400),
    };
    let end = (at + long).min(bytes.len());
    match draw.below(12) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => {
            let part = bytes[at..end].to_vec();
            let to = draw.below(bytes.len() + 1);
            bytes.splice(to..to, part);
        }
        3 if at < bytes.len() => bytes[at] ^= 1 << draw.below(8),
        4 if at < bytes.len() => bytes[at] = u8::try_from(draw.below(256)).unwrap(),
        5 | 6 => drop(bytes.splice(at..at, draw.of(WORDS).bytes())),
        7 | 8 => {
            // A number becomes another one.
            let digit = |b: &u8| b.is_ascii_digit();
            let from = bytes.iter().skip(at).position(digit).map_or(0, |n| at + n);
            let len = bytes[from..].iter().take_while(|b| digit(b)).count();
            bytes.splice(from..from + len, draw.of(NUMBERS).bytes());
        }
        9 => {
            let other = &others[draw.below(others.len())].as_bytes();
            let from = draw.below(other.len() + 1);
            let to = (from + long).min(other.len());
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        10 => {
            // A line moves.
            let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
            let (from, to) = (draw.below(lines.len()), draw.below(lines.len()));
            let mut lines: Vec<Vec<u8>> = lines.into_iter().map(<[u8]>::to_vec).collect();
            if from < lines.len() {
                let line = lines[from].clone();
                lines.insert(to, line);
                if draw.percent(50) {
                    lines.remove(from);
                }
            }
            *bytes = lines.concat();
        }
        _ => {
            let part = bytes[at..end].repeat(draw.below(20));
            bytes.splice(at..at, part);
        }
    }
}
