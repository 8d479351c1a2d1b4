//! Going through rules: jumps, verdicts, marks, lists, and who is named as the decider.

use podwire_models::kernel::netfilter::NfVerdict;
use podwire_models::kernel::netfilter::chain::RejectWith;
use podwire_models::wire::{Action, Code, DeciderKind, IcmpError, TcpFlags};

use crate::nf::{Router, tcp, udp};

fn filter(rules: &str) -> Router {
    Router::new(&format!(
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         :A - [0:0]\n:B - [0:0]\n:C - [0:0]\n{rules}\nCOMMIT"
    ))
}

fn verdict(router: &mut Router) -> Result<u32, NfVerdict> {
    router
        .out(udp("10.244.1.2", 5, "8.8.8.8", 9))
        .map(|skb| skb.mark)
}

const fn drop(code: Code) -> Result<u32, NfVerdict> {
    Err(NfVerdict::Drop(code))
}

#[test]
fn return_goes_back_and_goto_does_not_come_back() {
    let mut router = filter(
        "-A FORWARD -j A\n-A FORWARD -j DROP\n-A A -j B\n-A A -j ACCEPT\n-A B -j RETURN\n-A B -j DROP",
    );
    assert_eq!(verdict(&mut router), Ok(0));
    let mut router =
        filter("-A FORWARD -j A\n-A FORWARD -j DROP\n-A A -g B\n-A A -j ACCEPT\n-A B -j RETURN");
    assert_eq!(verdict(&mut router), drop(Code::NfDrop));
    let mut router = filter("-A FORWARD -g A\n-A FORWARD -j DROP\n-A A -p tcp -j DROP");
    assert_eq!(verdict(&mut router), Ok(0), "policy");
}

#[test]
fn marks_are_set_under_their_masks() {
    let mut router = filter(
        "-A FORWARD -j MARK --or-mark 0x4000\n-A FORWARD -m mark ! --mark 0x4000/0x4000 -j DROP\n\
         -A FORWARD -j MARK --set-mark 0x1/0xf\n-A FORWARD -j MARK --xor-mark 0x4000",
    );
    assert_eq!(verdict(&mut router), Ok(1));
}

#[test]
fn codes_say_what_the_rule_is_for() {
    let reject = |code| {
        let with = RejectWith::Icmp(IcmpError::PortUnreachable);
        Err(NfVerdict::Reject(with, code))
    };
    let comment = |text: &str, target: &str| {
        let rule = format!("-A FORWARD -m comment --comment \"{text}\" -j {target}");
        verdict(&mut filter(&rule))
    };
    assert_eq!(
        comment("shop/cart has no endpoints", "REJECT"),
        reject(Code::SvcNoEndpoints)
    );
    assert_eq!(
        comment("shop/cart has no local endpoints", "DROP"),
        drop(Code::SvcNoLocalEndpoints)
    );
    assert_eq!(comment("mine", "REJECT"), reject(Code::NfReject));
    assert_eq!(comment("mine", "DROP"), drop(Code::NfDrop));
}

#[test]
fn a_reset_only_answers_tcp() {
    let mut router = filter("-A FORWARD -j REJECT --reject-with tcp-reset");
    assert_eq!(verdict(&mut router), drop(Code::NfReject));
    let syn = tcp(("10.244.1.2", 5), ("8.8.8.8", 9), TcpFlags::SYN, 0, 0);
    let reset = NfVerdict::Reject(RejectWith::TcpReset, Code::NfReject);
    assert_eq!(router.out(syn).map(|_| ()), Err(reset));
}

#[test]
fn the_trace_names_each_rule_and_counts_what_was_looked_at() {
    let mut router = filter(
        "-A FORWARD -p tcp -j DROP\n-A FORWARD -s 10.244.0.0/16 -j A\n-A A -d 8.8.8.8/32 -j DROP",
    );
    assert_eq!(verdict(&mut router), drop(Code::NfDrop));
    let told: Vec<String> = router
        .steps
        .iter()
        .map(|(_, step)| match (&step.action, &step.by) {
            (Action::Matched { chain, target }, Some(by)) => {
                format!("{chain}: {target} by {}", by.text)
            }
            (Action::Examined { chain, rules }, _) => format!("{chain}: {rules}"),
            (Action::Dropped { code }, Some(by)) => format!("{code} by {}", by.text),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(
        told,
        [
            "filter FORWARD: A by -A FORWARD -s 10.244.0.0/16 -j A",
            "filter A: DROP by -A A -d 8.8.8.8/32 -j DROP",
            "filter A: 1",
            "filter FORWARD: 2",
            "NF_DROP by -A A -d 8.8.8.8/32 -j DROP",
        ]
    );
    assert_eq!(router.netns.netfilter.as_ref().unwrap().examined(), 3);
    let mut router = Router::new("*filter\n:FORWARD DROP [0:0]\nCOMMIT");
    assert_eq!(verdict(&mut router), drop(Code::NfPolicyDrop));
    let by = router.steps.last().unwrap().1.by.clone().unwrap();
    assert_eq!(
        (by.kind, by.text.as_str()),
        (DeciderKind::ChainPolicy, "filter FORWARD policy DROP")
    );
}

#[test]
fn affinity_keeps_a_client_at_its_endpoint() {
    let mut router = Router::new(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:SEP1 - [0:0]\n:SEP2 - [0:0]\n\
         -A PREROUTING -m recent --rcheck --seconds 4 --reap --name SEP1 --mask 255.255.255.255 --rsource -j SEP1\n\
         -A PREROUTING -m recent --rcheck --seconds 4 --reap --name SEP2 --mask 255.255.255.255 --rsource -j SEP2\n\
         -A PREROUTING -m statistic --mode random --probability 0.50000000000 -j SEP1\n\
         -A PREROUTING -j SEP2\n\
         -A SEP1 -p udp -m recent --set --name SEP1 --mask 255.255.255.255 --rsource -m udp -j DNAT --to-destination 10.244.2.1:53\n\
         -A SEP2 -p udp -m recent --set --name SEP2 --mask 255.255.255.255 --rsource -m udp -j DNAT --to-destination 10.244.2.2:53\nCOMMIT",
    );
    let mut chosen = |port, wait| {
        router.wait(wait);
        router
            .out(udp("10.244.1.2", port, "10.96.0.10", 53))
            .unwrap()
            .packet
            .dst
    };
    let first = chosen(1000, 0);
    for port in 1001..1040 {
        assert_eq!(
            chosen(port, 3_500),
            first,
            "each new connection refreshes it"
        );
    }
    let after_gaps: std::collections::BTreeSet<_> =
        (2000..2040).map(|port| chosen(port, 4_500)).collect();
    assert_eq!(after_gaps.len(), 2, "balanced anew");
}

#[test]
fn rules_are_edited_in_place() {
    use podwire_models::base::Family::V4;
    use podwire_models::kernel::netfilter::chain::{Hook, Rule, Table, Target};
    let mut router = Router::new("");
    let netns = &mut router.netns;
    netns.netfilter = None;
    let chain = |name: &str| std::sync::Arc::<str>::from(name);
    let (forward, own) = (chain(Hook::Forward.name()), chain("OWN"));
    let rule = |target| Rule {
        target: Some(target),
        ..Rule::default()
    };
    let jump = rule(Target::Jump(own.clone()));
    let add = |netns: &mut podwire_models::kernel::Netns, chain, at, rule| {
        netns.add_rule(V4, Table::Filter, chain, at, rule)
    };
    assert!(
        add(netns, &forward, None, jump.clone()).is_err(),
        "no such chain yet"
    );
    netns.add_chain(V4, Table::Filter, &own, None).unwrap();
    assert!(netns.add_chain(V4, Table::Filter, &own, None).is_err());
    add(netns, &forward, None, rule(Target::Accept)).unwrap();
    add(netns, &own, None, rule(Target::Drop)).unwrap();
    assert_eq!(verdict(&mut router), Ok(0));
    add(&mut router.netns, &forward, Some(0), jump.clone()).unwrap();
    router.netns.netfilter.as_mut().unwrap().count_matches();
    assert_eq!(verdict(&mut router), drop(Code::NfDrop));
    let netfilter = router.netns.netfilter.as_ref().unwrap();
    assert_eq!(netfilter.matched(V4, Table::Filter, "OWN", 0), 1);
    assert_eq!(netfilter.matched(V4, Table::Filter, "FORWARD", 1), 0);
    router
        .netns
        .delete_rule(V4, Table::Filter, &forward, &jump)
        .unwrap();
    assert_eq!(verdict(&mut router), Ok(0));
    let chains = [
        (chain("NEW"), vec![rule(Target::Drop)]),
        (forward, vec![rule(Target::Goto(chain("NEW")))]),
    ];
    router
        .netns
        .replace_chains(V4, Table::Filter, chains, &[own])
        .unwrap();
    assert_eq!(verdict(&mut router), drop(Code::NfDrop));
    let rules = router.netns.netfilter.as_ref().unwrap().rules(V4).unwrap();
    assert!(!rules.ruleset().save(V4).contains("OWN"));
}

#[test]
fn the_path_back_decides() {
    let rules =
        "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m rpfilter --invert -j DROP\nCOMMIT";
    let mut router = Router::new(rules);
    assert_eq!(verdict(&mut router), Ok(0));
    let spoofed = router.out(udp("192.168.50.77", 5, "8.8.8.8", 9)).map(|_| 0);
    assert_eq!(spoofed, drop(Code::NfDrop));
}
