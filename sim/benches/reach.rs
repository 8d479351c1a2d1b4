//! Who may talk to whom, by the number of pods; and one connection explained. Under `cargo test` each runs once.

#![allow(missing_docs, reason = "criterion writes the main function")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use podwire::bench::reach::cluster;
use podwire_models::base::Protocol;
use podwire_models::control::policy::reach::Reach;
use podwire_models::control::policy::{Flow, Policies};

fn all_pairs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reach");
    group.sample_size(10);
    // The law is that time grows with classes, not with the square of the pods.
    let sizes: &[u32] = if std::env::args().any(|word| word == "--bench") {
        &[1_000, 10_000, 50_000, 150_000]
    } else {
        &[1_000]
    };
    for pods in sizes {
        let objects = cluster(*pods);
        group.bench_with_input(
            BenchmarkId::from_parameter(pods),
            &objects,
            |bencher, objects| {
                bencher.iter(|| black_box(Reach::new(objects).open_pairs()));
            },
        );
    }
    group.finish();
}

fn one_pair(criterion: &mut Criterion) {
    let objects = Arc::new(cluster(1_000));
    let reach = Reach::new(&objects);
    let policies = Policies::new(Arc::clone(&objects));
    let ends = [reach.members.first(), reach.members.last()];
    let ends = ends.map(|member| member.expect("there are pods").ip);
    criterion.bench_function("one connection explained", |bencher| {
        bencher.iter(|| {
            let [source, destination] = ends.map(|ip| policies.party(ip));
            let flow = Flow::Port(Protocol::Tcp, 8080);
            black_box(policies.verdict(&source, &destination, flow).allowed())
        });
    });
}

criterion_group!(benches, all_pairs, one_pair);
criterion_main!(benches);
