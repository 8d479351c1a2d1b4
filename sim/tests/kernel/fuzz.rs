//! Random rules and random packets, through the simulated kernel and the real one: the same rules match, the same
//! frames come out, the same datagrams arrive, a local sender is told the same.

use std::fmt::Write as _;
use std::path::Path;

use podwire_models::kernel::netfilter::nft::NftCommand;

use super::cases::{Case, Port};
use super::generate::{self, Draw};
use super::router::{Router, Seen};
use super::twin::Twin;

/// Packets for each set of rules.
const PACKETS: u64 = 25;

/// Where the two kernels part.
pub(super) struct Difference {
    /// Which packet of the case.
    at: usize,
    pub(super) says: String,
}

/// Passes a case through both.
fn compare(case: &Case, router: &mut Router) -> Result<(), Difference> {
    let broken = |says: String| Difference { at: 0, says };
    let mut twin = Twin::new(case).map_err(|e| broken(format!("load: podwire: {e}")))?;
    router
        .load(case)
        .map_err(|e| broken(format!("load: kernel: {e}")))?;
    for (at, shot) in case.shots.iter().enumerate() {
        if !twin.can_tell(shot) {
            continue;
        }
        let (ours, real) = (twin.send(shot), router.send(shot));
        differ(&twin, at, &ours, &real)?;
    }
    Ok(())
}

pub(super) fn differ(twin: &Twin, at: usize, ours: &Seen, real: &Seen) -> Result<(), Difference> {
    if ours == real {
        return Ok(());
    }
    let mut says = String::new();
    for (chain, counts) in &ours.counters {
        if real.counters.get(chain) != Some(counts) {
            let _ = writeln!(
                says,
                "{chain}: podwire {counts:?} kernel {:?}",
                real.counters.get(chain)
            );
        }
    }
    for (chain, counts) in &real.counters {
        if !ours.counters.contains_key(chain) {
            let _ = writeln!(says, "{chain}: podwire nothing, kernel {counts:?}");
        }
    }
    if ours.frames != real.frames {
        let _ = writeln!(
            says,
            "podwire: {:#?}\nkernel: {:#?}",
            ours.frames, real.frames
        );
    }
    if (&ours.errno, ours.delivered) != (&real.errno, real.delivered) {
        let (a, b) = (&ours.errno, &real.errno);
        let _ = writeln!(
            says,
            "errno {a:?} / {b:?}, delivered {} / {}",
            ours.delivered, real.delivered
        );
    }
    for (place, step) in &twin.steps {
        let _ = writeln!(says, "  {:?} {:?} {:?}", place.stage, step.action, step.by);
    }
    Err(Difference { at, says })
}

/// Makes a case, packet by packet, and stops where the kernels part.
fn random(
    seed: u64,
    make: fn(&mut Draw) -> Case,
    router: &mut Router,
) -> (Case, Option<Difference>) {
    let mut draw = Draw::new(seed);
    let mut case = make(&mut draw);
    let broken = |says: String| Some(Difference { at: 0, says });
    let mut twin = match Twin::new(&case) {
        Ok(twin) => twin,
        Err(error) => return (case, broken(format!("load: podwire: {error}"))),
    };
    if let Err(error) = router.load(&case) {
        return (case, broken(format!("load: kernel: {error}")));
    }
    if !case.nft.is_empty() && twin.nft() != router.nft() {
        let (ours, real) = (twin.nft(), router.nft());
        return (
            case,
            broken(format!("load: podwire: {ours}\nkernel: {real}")),
        );
    }
    let mut out = Vec::new();
    for n in 1..=PACKETS {
        let shot = generate::shot(&mut draw, case.family, n, &out);
        if !twin.can_tell(&shot) {
            continue;
        }
        case.shots.push(shot.clone());
        let (ours, real) = (twin.send(&shot), router.send(&shot));
        out.extend(twin.out.iter().cloned());
        if let Err(difference) = differ(&twin, case.shots.len() - 1, &ours, &real) {
            return (case, Some(difference));
        }
    }
    (case, None)
}

/// How often a seed is tried whose difference is not there a second time.
const TRIES: usize = 5;

/// Makes a seed's case until it is whole, or the kernels part at the same place twice: timers of a busy machine are
/// late now and then, and what is counted must not depend on them.
fn settled(
    seed: u64,
    make: fn(&mut Draw) -> Case,
    router: &mut Router,
) -> (Case, Option<Difference>) {
    for _ in 1..TRIES {
        let (case, difference) = random(seed, make, router);
        let Some(difference) = difference else {
            return (case, None);
        };
        if difference.says.starts_with("load:") || compare(&case, router).is_err() {
            return (case, Some(difference));
        }
        println!("seed {seed}, once more, because of\n{}", difference.says);
    }
    random(seed, make, router)
}

/// Takes away rules, packets and settings as long as the kernels still part.
fn shrink(mut case: Case, first: Difference, router: &mut Router) -> (Case, Difference) {
    case.shots.truncate(first.at + 1);
    let mut difference = first;
    loop {
        let size = |case: &Case| {
            let nft: usize = case.nft.iter().map(|c| c.to_string().len()).sum();
            (case.rules.len(), nft, case.shots.len(), case.sysctls.len())
        };
        let before = size(&case);
        let mut tries: Vec<Case> = Vec::new();
        for n in (0..case.shots.len().saturating_sub(1)).rev() {
            let mut less = case.clone();
            less.shots.remove(n);
            tries.push(less);
        }
        let lines: Vec<&str> = case.rules.lines().collect();
        for n in (0..lines.len())
            .rev()
            .filter(|n| lines[*n].starts_with("-A"))
        {
            let mut left = lines.clone();
            left.remove(n);
            let mut less = case.clone();
            less.rules = left.join("\n") + "\n";
            tries.push(less);
        }
        for (n, command) in case.nft.iter().enumerate() {
            let NftCommand::SetRules { rules, .. } = command else {
                continue;
            };
            for position in 0..rules.len() {
                let mut less = case.clone();
                if let NftCommand::SetRules { rules, .. } = &mut less.nft[n] {
                    rules.remove(position);
                }
                tries.push(less);
            }
        }
        for n in (0..case.sysctls.len())
            .filter(|n| case.sysctls[*n].1 != i64::from(case.sysctls[*n].0.ends_with("_loose")))
        {
            let mut less = case.clone();
            less.sysctls[n].1 = i64::from(less.sysctls[n].0.ends_with("_loose"));
            tries.push(less);
        }
        for less in tries {
            if let Err(found) = compare(&less, router)
                && !found.says.starts_with("load:")
            {
                case = less;
                case.shots.truncate(found.at + 1);
                difference = found;
                break;
            }
        }
        if size(&case) == before {
            return (case, difference);
        }
    }
}

#[test]
fn random_rules_and_packets() {
    if super::kernel_is_there() {
        let how_much = random_cases("fuzz", [120, 900], generate::rules);
        super::referee::checked("random-packets", &how_much);
    }
}

/// Passes cases of many seeds through both kernels, in the short and in the long form, and returns how many that were.
pub(crate) fn random_cases(
    name: &str,
    [short, long]: [u64; 2],
    make: fn(&mut Draw) -> Case,
) -> String {
    let number = |name: &str, otherwise: u64| {
        super::variable(name).map_or(otherwise, |text| text.parse().expect("a number"))
    };
    let full = super::variable("PODWIRE_KERNEL_FULL").is_some();
    let sets = number("PODWIRE_KERNEL_SETS", if full { long } else { short });
    let first = number("PODWIRE_KERNEL_SEED", 1);
    let most = number("PODWIRE_KERNEL_MOST", 1);
    let mut router = Router::start(name, "-legacy");
    let (mut packets, mut by_port, mut failures) = (0, [0; 3], Vec::new());
    for seed in first..first + sets {
        let (case, difference) = settled(seed, make, &mut router);
        packets += case.shots.len();
        for shot in &case.shots {
            by_port[match shot.port {
                Port::A => 0,
                Port::B => 1,
                Port::Local => 2,
            }] += 1;
        }
        if let Some(difference) = difference {
            assert!(
                !difference.says.starts_with("load:"),
                "seed {seed}: {}\n{}",
                difference.says,
                case.rules
            );
            let (case, difference) = shrink(case, difference, &mut router);
            println!(
                "\n===== seed {seed}: packet {}\n{}\n{}",
                difference.at,
                case.text(),
                difference.says
            );
            if let Some(dir) = super::variable("PODWIRE_KERNEL_KEEP") {
                std::fs::write(
                    Path::new(&dir).join(format!("seed-{seed}.case")),
                    case.text(),
                )
                .unwrap();
            }
            failures.push(seed);
            if failures.len() as u64 >= most {
                break;
            }
        }
    }
    println!("seeds from {first}; a0, b0, local: {by_port:?}");
    assert!(
        failures.is_empty(),
        "the kernels differ with seeds {failures:?}"
    );
    format!("{sets} sets of rules, {packets} packets")
}

#[test]
fn named_cases() {
    if !super::kernel_is_there() {
        return;
    }
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel/cases");
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .map(|dir| dir.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    files.sort();
    let mut router = Router::start("cases", "-legacy");
    let mut failures = String::new();
    for file in &files {
        let case = Case::read(&std::fs::read_to_string(file).unwrap());
        let once = compare(&case, &mut router);
        if let Err(difference) = once.or_else(|_| compare(&case, &mut router)) {
            let _ = writeln!(
                failures,
                "{}: packet {}\n{}",
                file.display(),
                difference.at,
                difference.says
            );
        }
    }
    assert!(failures.is_empty(), "{failures}");
    let how_much = format!("{} sets of rules and packets", files.len());
    super::referee::checked("named-packets", &how_much);
}
