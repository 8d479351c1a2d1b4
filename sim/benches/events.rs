//! What one event costs: the queue held at a depth of 1,000 and of 100,000. Under `cargo test` each runs once.

#![allow(missing_docs, reason = "criterion writes the main function")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use podwire::engine::{Queue, Seeded};
use podwire_models::base::{Dice as _, Purpose, Stream, Time};

const STREAM: Stream = Stream::new(Purpose::Delay, 0);

/// Returns a queue with `depth` events in the next millisecond.
fn filled(depth: u64, dice: &mut Seeded) -> Queue<u64> {
    let mut queue = Queue::with_capacity(usize::try_from(depth).unwrap_or(0));
    for n in 0..depth {
        queue.push(Time(dice.pick(STREAM, 1_000_000)), n);
    }
    queue
}

/// Takes the next event out and schedules another one: what every event of a run costs at least.
fn hold(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue/hold");
    for depth in [1_000, 100_000] {
        let mut dice = Seeded::new(1);
        let mut queue = filled(depth, &mut dice);
        let delays: Vec<Duration> = (0..1024)
            .map(|_| Duration::from_nanos(dice.pick(STREAM, 1_000_000)))
            .collect();
        let mut delays = delays.iter().cycle();
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(depth), |bencher| {
            bencher.iter(|| {
                let (now, event) = queue.pop().expect("as many go in as come out");
                queue.push(now + *delays.next().expect("a cycle has no end"), event)
            });
        });
    }
    group.finish();
}

/// Sets a timer and takes it back, as every acknowledged segment does.
fn cancel(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue/cancel");
    for depth in [1_000, 100_000] {
        let mut queue = filled(depth, &mut Seeded::new(1));
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(depth), |bencher| {
            bencher.iter(|| {
                let timer = queue.push(Time::from_millis(200), 0);
                black_box(queue.cancel(timer))
            });
        });
    }
    group.finish();
}

/// Asks one stream for chance again and again.
fn draw(criterion: &mut Criterion) {
    let mut dice = Seeded::new(1);
    criterion.bench_function("dice/pick", |bencher| bencher.iter(|| dice.pick(STREAM, 3)));
}

criterion_group!(benches, hold, cancel, draw);
criterion_main!(benches);
