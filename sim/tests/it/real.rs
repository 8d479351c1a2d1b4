//! Manifests of real applications: every Service of them answers somebody, all the way and back.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use podwire::attempt::Request;
use podwire::lab::{Lab, Plan};
use podwire::manifest;
use podwire::render::{Detail, Style, text};
use podwire::scenario::address::Target;
use podwire::source::{OriginTable, Source};
use podwire::traffic::ProbeResult;
use podwire_models::api::{ServiceType, WorkloadKind};
use podwire_models::base::{Protocol, Ratio};
use podwire_models::wire::L4;

use crate::handbook;

/// Every Service of a file, from a pod of the file's first Deployment.
fn every_service_answers(file: &str) {
    let Some(path) = handbook(&format!("real/{file}")) else {
        return;
    };
    let text = std::fs::read_to_string(&path).unwrap();
    let mut origins = OriginTable::default();
    let (manifests, problems) = manifest::read(&[Source::new(file, text)], &mut origins);
    assert!(problems.is_empty(), "{problems:?}");
    let objects = manifests.objects.iter().cloned().collect();
    let lab = Lab::build(objects, Plan::default());
    assert_eq!(lab.shortfalls, []);
    let first =
        lab.objects.workloads.values().find(|w| {
            w.kind == WorkloadKind::Deployment && w.key.namespace.as_str() != "kube-system"
        });
    let deployment = first.unwrap();
    let sender = format!("deploy/{}", deployment.key);
    let source = lab.source(&sender.parse().unwrap()).unwrap();
    let mut walked = 0;
    for service in lab.objects.services.values() {
        if service.key.namespace.as_str() == "kube-system"
            || service.service_type == ServiceType::ExternalName
        {
            continue;
        }
        for port in service
            .ports
            .iter()
            .filter(|port| port.protocol == Protocol::Tcp)
        {
            let name = format!(
                "{}.{}:{}",
                service.key.name, service.key.namespace, port.port
            );
            let request = Request::new(
                name.parse::<Target>().unwrap(),
                L4::Tcp,
                Duration::from_secs(5),
            );
            let outcomes = lab.explore(&source, &request, &origins, 1, 4096).unwrap();
            let sum = outcomes.iter().fold(Ratio::ZERO, |sum, o| sum + o.chance);
            assert_eq!(sum, Ratio::ONE, "{name}");
            for attempted in &outcomes {
                let story = || text::trace(&attempted.trace, Detail::Detailed, Style::Plain);
                let result = attempted.outcome.result;
                assert_eq!(
                    result,
                    ProbeResult::Connected,
                    "{sender} to {name}\n{}",
                    story()
                );
                let story = story();
                assert!(
                    story.contains("dns A?"),
                    "{name}: the name was looked up\n{story}"
                );
                assert!(
                    story.contains("(undone)"),
                    "{name}: the reply is translated back\n{story}"
                );
                assert!(
                    story.contains(file),
                    "{name}: a step names its line\n{story}"
                );
            }
            walked += 1;
        }
    }
    assert!(walked > 5, "{walked} ports were walked");
}

#[test]
fn online_boutique() {
    every_service_answers("online-boutique/kubernetes-manifests.yaml");
}

#[test]
fn sock_shop() {
    every_service_answers("sock-shop/complete-demo.yaml");
}
