//! The registry of codes: every way a packet, a name or an attempt can end, under a stable name.
//!
//! Codes are public interface: people script against them. Each has a page that `podwire explain CODE` prints.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// What a code's page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodePage {
    /// One sentence: what happened to the packet.
    pub meaning: &'static str,
    /// Why it usually happens.
    pub why: &'static str,
    /// What to do about it.
    pub fix: &'static str,
}

macro_rules! codes {
    ($($variant:ident $name:literal: $meaning:literal, why $why:literal, fix $fix:literal;)*) => {
        /// How something ended, under a stable name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $meaning] $variant,)*
        }

        impl Code {
            /// All codes, in the order of the registry.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the stable name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns the page `podwire explain` prints.
            pub const fn page(self) -> CodePage {
                match self {
                    $(Self::$variant => CodePage { meaning: $meaning, why: $why, fix: $fix },)*
                }
            }
        }
    };
}

codes! {
    Ok "OK": "the packet arrived and the answer came back",
        why "nothing stands in the way", fix "nothing to fix";

    SvcNoEndpoints "SVC_NO_ENDPOINTS": "the Service has no endpoint that may be used, so the node refuses the packet",
        why "the selector matches no ready pod: a typo in a label, all pods unready, or the Deployment scaled to zero",
        fix "compare the Service's spec.selector with the labels of the pods, and look at their readiness";
    SvcNoLocalEndpoints "SVC_NO_LOCAL_ENDPOINTS": "the traffic policy is Local and this node has no endpoint, so the packet is dropped",
        why "externalTrafficPolicy or internalTrafficPolicy is Local and every endpoint runs on other nodes",
        fix "use policy Cluster, run an endpoint on every node, or send to a node that has one";
    SvcPortUnlisted "SVC_PORT_UNLISTED": "the address belongs to a Service, but the Service does not list this port",
        why "the client uses the container's port, or another port, instead of one in spec.ports",
        fix "use a port from spec.ports, or add the port to the Service";

    NfDrop "NF_DROP": "a packet filter rule dropped the packet",
        why "a rule of the node with target DROP matched",
        fix "look at the rule named as the decider";
    NfReject "NF_REJECT": "a packet filter rule refused the packet and told the sender",
        why "a rule of the node with target REJECT matched",
        fix "look at the rule named as the decider";
    NpIngressDefaultDeny "NP_INGRESS_DEFAULT_DENY": "network policies isolate the destination for ingress, and none of their rules allows this",
        why "the client's labels, its namespace, its address or the port match no rule of the policies that select the pod",
        fix "add a rule that allows the client, or correct the selector that was meant to: `podwire reach --explain` names the nearest rule";
    NpEgressDefaultDeny "NP_EGRESS_DEFAULT_DENY": "network policies isolate the source for egress, and none of their rules allows this",
        why "the destination or the port match no rule of the policies that select the pod; for names, port 53 of the DNS pods is often forgotten",
        fix "add a rule that allows the destination, and one for DNS: `podwire reach --explain` names the nearest rule";
    CnpIngressDeny "CNP_INGRESS_DENY": "a cluster policy denies ingress to the destination",
        why "a rule of an AdminNetworkPolicy, BaselineAdminNetworkPolicy or ClusterNetworkPolicy with the action Deny came first",
        fix "put a rule that accepts or passes this traffic before it, in the same policy or in one with a lower priority number";
    CnpEgressDeny "CNP_EGRESS_DENY": "a cluster policy denies egress from the source",
        why "a rule of an AdminNetworkPolicy, BaselineAdminNetworkPolicy or ClusterNetworkPolicy with the action Deny came first",
        fix "put a rule that accepts or passes this traffic before it, in the same policy or in one with a lower priority number";
    NpNotEnforced "NP_NOT_ENFORCED": "a policy would drop the packet, but the network plugin enforces no policies",
        why "flannel and the bridge plugin program no policies: the API server stores them, and nobody reads them",
        fix "run a plugin or an agent that enforces policies (kindnet, Calico, Cilium, kube-network-policies), or do not rely on policies";
    NfPolicyDrop "NF_POLICY_DROP": "no rule decided and the default verdict of the chain is DROP",
        why "the FORWARD or INPUT chain of the node has policy DROP (Docker sets FORWARD so) and nothing accepts this packet",
        fix "accept the pod network in that chain, or set its policy to ACCEPT";

    CtInvalid "CT_INVALID": "connection tracking cannot attach the packet to any connection, and a rule drops such packets",
        why "the packet belongs to a connection this node never saw begin, often because the reply takes another path",
        fix "make both directions cross the same node, or look for asymmetric routes";
    CtInvalidLeak "CT_INVALID_LEAK": "an answer that connection tracking calls INVALID was not translated back, and the client reset the connection it does not know",
        why "the segment is outside the window that connection tracking expects, a late copy for instance, and no rule of the node drops such packets",
        fix "let kube-proxy drop INVALID packets (the default), or set net.netfilter.nf_conntrack_tcp_be_liberal to 1; kernels since 6.1 let late copies pass";
    CtTableFull "CT_TABLE_FULL": "the connection tracking table is full and no entry could be evicted",
        why "more connections than net.netfilter.nf_conntrack_max allows",
        fix "raise net.netfilter.nf_conntrack_max, or lower the rate of new connections";
    CtStaleEndpoint "CT_STALE_ENDPOINT": "an existing connection tracking entry sends the packet to an endpoint that no longer exists",
        why "the entry was made before the endpoint went away, and each packet keeps it alive",
        fix "delete the entry (conntrack -D), or let the client use a new source port";
    CtPreRule "CT_PRE_RULE": "an existing connection tracking entry without translation is older than the rules of the Service, so the packet goes to the Service's address as it is",
        why "a client sent to the address before kube-proxy had rules for it, goes on from the same source port, and each packet keeps the entry alive",
        fix "delete the entry (conntrack -D), or let the client use a new source port; kube-proxy deletes such entries itself once it has written its rules: look at its log";
    CtInsertClash "CT_INSERT_CLASH": "two first packets of one connection were tracked at once, and this one came second",
        why "the A and AAAA questions of a look-up leave one socket together; kernels before 5.7 drop the second one if the two were sent to different endpoints, before 5.0 always",
        fix "use a kernel of 5.7 or later, or NodeLocal DNSCache, or `options single-request-reopen` in resolv.conf";
    EpRemovalLag "EP_REMOVAL_LAG": "a node still sends to a pod that is being deleted, or is gone",
        why "a pod's programs end as soon as its kubelet hears of the deletion, and every node chooses it until its kube-proxy has written rules without it",
        fix "give the containers a preStop hook that sleeps longer than the slowest kube-proxy needs: lifecycle.preStop.sleep.seconds: 5";
    NpProbeBlocked "NP_PROBE_BLOCKED": "policies keep a pod's own kubelet out, so its readiness probe is never answered",
        why "the network plugin asks its policies about a pod's own node too, which it should let through (Cilium with allow-localhost=policy)",
        fix "let the plugin spare a pod's own node (Cilium: --allow-localhost=always), or let an ingress rule allow the nodes' addresses (ipBlock) on the probe's port";
    NpLag "NP_LAG": "a policy denies this connection, and the agents had not programmed it yet, so it was let in",
        why "agents hear of a policy, or of a new pod's address and labels, a little after the API server; what connects before that is judged as it was before",
        fix "do not rely on policies in a pod's first moments: let it wait until a connection that must fail fails (an init container), or use a plugin that holds pods back until their policies are programmed";
    IpReused "IP_REUSED": "a node sends to the address of a pod that is gone, and another pod has that address now and answers",
        why "addresses of deleted pods are given out again, soon where a node's range is small, while rules or names still lead to them",
        fix "look at why the rules lag behind (kube-proxy on that node), give nodes larger ranges, and let clients check whom they talk to (TLS)";
    ConnPinned "CONN_PINNED": "a connection that lives long stays with the endpoint it was given, although the Service has more of them now",
        why "kube-proxy chooses an endpoint for a connection, not for a request; HTTP/2 and gRPC clients keep one connection for all their requests",
        fix "let clients balance requests themselves (gRPC: a headless Service and round_robin), end connections on the server after a while (MAX_CONNECTION_AGE), or put a proxy that knows requests in between";
    StaleRules "STALE_RULES": "a node sends to a pod that is gone, because its kube-proxy has stopped writing rules",
        why "kube-proxy of that node hangs, waits for the lock of iptables, or has lost the API server",
        fix "look at kube-proxy's log on that node, and at the metric kubeproxy_sync_proxy_rules_last_timestamp_seconds; restart it";
    NatNoPort "NAT_NO_PORT": "no free source port was left for the translated connection",
        why "too many connections share one source address towards the same destination",
        fix "spread over more source addresses, reuse connections, or avoid masquerading";

    RouteNone "ROUTE_NONE": "there is no route to the destination",
        why "neither a route for the prefix nor a default route exists in this namespace",
        fix "look at `ip route` there; on a node, check that the CNI programmed the route to the pod network";
    RouteBlackhole "ROUTE_BLACKHOLE": "the route to the destination is a blackhole",
        why "a CNI covers its block with a blackhole route and the pod's own route is missing or gone",
        fix "check whether the destination pod still exists";
    RouteUnreachable "ROUTE_UNREACHABLE": "the route to the destination is of type unreachable",
        why "somebody added an unreachable route", fix "look at `ip route` there";
    RouteProhibit "ROUTE_PROHIBIT": "the route to the destination is of type prohibit",
        why "somebody added a prohibit route", fix "look at `ip route` there";
    CidrOverlap "CIDR_OVERLAP": "the address is in a pod range and in a network of machines, so one way leads to the other's",
        why "the cluster's pod range is part of the nodes' network, or of another one that is reached from it: the more specific route wins",
        fix "give pods a range that no network of machines contains (--cluster-cidr); for one host, add a route to it on every node";
    IpForwardOff "IP_FORWARD_OFF": "the packet is for somebody else and forwarding is switched off",
        why "net.ipv4.ip_forward (or net.ipv6.conf.all.forwarding) is 0 on the node",
        fix "set it to 1 on every node";
    RpFilter "RP_FILTER": "reverse path filtering dropped the packet",
        why "the route back to its source does not use the device it came in by",
        fix "make routing symmetric, or set net.ipv4.conf.*.rp_filter to 2 (loose) or 0";
    MartianSource "MARTIAN_SOURCE": "the source address cannot be genuine on this device",
        why "the packet claims to come from one of the host's own addresses, from 127.0.0.0/8, or from a group address",
        fix "find out who sends with that source";
    MartianDestination "MARTIAN_DESTINATION": "the destination address cannot be reached through this device",
        why "127.0.0.0/8 from outside the host, or a group address, needs net.ipv4.conf.*.route_localnet",
        fix "set route_localnet to 1, or use another address";
    TtlExceeded "TTL_EXCEEDED": "the time to live ran out on the way",
        why "a routing loop, or traceroute at work",
        fix "look for two nodes that route the prefix to each other";
    NeighUnresolved "NEIGH_UNRESOLVED": "nobody answered for the next hop's address",
        why "the pod or host is gone, the link to it is cut, or its address is wrong",
        fix "check that the next hop exists and is on that link";
    NeighOverflow "NEIGH_OVERFLOW": "the neighbour table is full, so the next hop gets no entry and the packet is dropped",
        why "more neighbours in use than net.ipv4.neigh.default.gc_thresh3 allows: many pods on one flat network",
        fix "raise net.ipv4.neigh.default.gc_thresh1, gc_thresh2 and gc_thresh3 on the node";
    MtuExceeded "MTU_EXCEEDED": "the packet is larger than the next device takes and must not be fragmented",
        why "the pod's MTU does not leave room for the tunnel's header (VXLAN takes 50 bytes over IPv4)",
        fix "lower the pod MTU to the underlay's minus the overhead";
    FragmentLost "FRAGMENT_LOST": "a fragment is missing, so the packet cannot be put together",
        why "one fragment was dropped on the way",
        fix "avoid fragmentation: lower the MTU of the sender";

    PortClosed "PORT_CLOSED": "no process listens on that port, so the host refuses",
        why "targetPort and the port the container listens on differ, or the process has not started",
        fix "make targetPort the port the process listens on";
    PortBoundElsewhere "PORT_BOUND_ELSEWHERE": "a process listens on that port, but not on that address, so the host refuses",
        why "the process is bound to 127.0.0.1 instead of 0.0.0.0 or the pod's address",
        fix "bind it to all addresses";
    SourcePortTaken "SOURCE_PORT_TAKEN": "the client asks for a source port that another socket of its machine has, so it sends nothing",
        why "a second client, or an earlier connection that is not closed yet or in TIME-WAIT, is bound to the same port",
        fix "let the kernel choose the source port, choose another one, or wait until the first socket is gone";
    EphemeralExhausted "EPHEMERAL_EXHAUSTED": "every ephemeral port of the client has a connection to this destination already, so it sends nothing",
        why "net.ipv4.ip_local_port_range is small, or connections are made faster than TIME-WAIT lets their ports go",
        fix "widen net.ipv4.ip_local_port_range, or keep connections open and reuse them";
    BacklogFull "BACKLOG_FULL": "the listening socket's queue is full, so the SYN is dropped",
        why "the process accepts more slowly than clients connect",
        fix "raise the backlog, or accept faster";
    NoSocket "NO_SOCKET": "the packet arrived, but its connection no longer exists",
        why "the application gave up or was restarted",
        fix "look at what ended the connection";
    UnexpectedReply "UNEXPECTED_REPLY": "an answer came from an address the client never talked to, so it is refused",
        why "the answer went around the node that translated the request (bridge-nf-call-iptables=0, or an asymmetric path)",
        fix "make the answer pass the node that did the translation";

    LinkDown "LINK_DOWN": "the wire between the two machines is cut",
        why "a LinkDown fault is in force", fix "end the fault";
    NodeDown "NODE_DOWN": "the machine is switched off",
        why "a NodeDown fault is in force", fix "end the fault";
    LinkLoss "LINK_LOSS": "the wire lost the packet",
        why "the link has a loss rate", fix "repair the link";
    CpFirewall "CP_FIREWALL": "a firewall between the control plane and the nodes drops the API server's call of a webhook",
        why "the firewall lets the Service's port through, and the packet goes to the port on which the webhook's pod listens",
        fix "let the firewall pass TCP from the control plane to the nodes and pods on the webhook's target port, or let the webhook listen on a port that is open";
    AclDenied "ACL_DENIED": "a firewall of the underlay dropped the packet",
        why "a rule of the network between the nodes (VPC firewall, security group) denies it; VXLAN needs its UDP port open between nodes",
        fix "allow that protocol and port between the nodes";
    DeviceDown "DEVICE_DOWN": "the device is down",
        why "the pod or its device was removed, or the device was never set up", fix "bring it up";
    BridgeNoHairpin "BRIDGE_NO_HAIRPIN": "the bridge does not send a frame back out of the port it came in by",
        why "a pod reached itself through its Service and hairpin mode is off on its port",
        fix "switch hairpin mode on for the pod's bridge port (CNI option hairpinMode)";
    NotForUs "NOT_FOR_US": "the frame is addressed to another machine",
        why "a bridge flooded it, or the neighbour entry at the sender is stale",
        fix "usually harmless; if a flow fails, look at the sender's neighbour table";
    FdbMiss "FDB_MISS": "the tunnel has no entry for the destination's hardware address",
        why "the tunnel device does not learn, and the agent has not programmed the peer",
        fix "check the CNI agent on this node";
    TunnelUnknown "TUNNEL_UNKNOWN": "an encapsulated packet arrived and no tunnel device takes it",
        why "network identifier or UDP port differ between the two nodes",
        fix "use the same settings on all nodes";

    LocalDrop "LOCAL_DROP": "the sender's own packet filter dropped the packet in OUTPUT",
        why "a rule of the node matched a packet of one of its own processes",
        fix "look at the rule named as the decider";
    VxlanCsum "VXLAN_CSUM": "the UDP checksum around a VXLAN frame is wrong, so the receiving node drops it",
        why "kernels before 5.7 spoil a checksum that is not used when they translate the outer packet, which kube-proxy before 1.18.6 makes them do",
        fix "use a kernel of 5.7 or later, or a kube-proxy that clears its mark (1.16.13, 1.17.9, 1.18.6), or: ethtool -K flannel.1 tx-checksum-ip-generic off";
    NoAnswer "NO_ANSWER": "nothing came back within the time the client waits",
        why "the request or its answer was dropped on the way; the steps before tell which and where",
        fix "look at the packet's last step";
    ConnectionReset "CONNECTION_RESET": "the other side reset the established connection",
        why "the process ended with unread data, or the connection is unknown to whoever received the segment",
        fix "look at who sent the RST";

    DnsNxDomain "DNS_NXDOMAIN": "the name does not exist",
        why "a typo in the Service's name or namespace, or the Service was not created",
        fix "check the name and namespace; from another namespace use name.namespace";
    DnsNoData "DNS_NODATA": "the name exists, but has no address of the wanted family",
        why "a headless Service without ready endpoints in that family, or an IPv4-only Service asked for IPv6",
        fix "check the Service's endpoints and IP families";
    DnsServFail "DNS_SERVFAIL": "the name server failed",
        why "its upstream does not answer, or it has not read the cluster's objects yet",
        fix "look at the name server and its upstream";
    DnsTimeout "DNS_TIMEOUT": "the name server did not answer in time",
        why "the query or its answer was dropped on the way, or the name server is down",
        fix "trace the query to the kube-dns Service";
    DnsRefused "DNS_REFUSED": "the name server's address refuses queries",
        why "the kube-dns Service has no endpoints, or nothing listens there",
        fix "check the CoreDNS pods";
    DnsStaleAnswer "DNS_STALE_ANSWER": "the client used an address that the name no longer has",
        why "the program keeps answers longer than they are true: a JVM (networkaddress.cache.ttl), a pool of connections, nscd",
        fix "let it ask again when a connection fails, keep answers for less time, or use a Service with an address of its own instead of a headless one";
    DnsOverload "DNS_OVERLOAD": "the name servers get more questions than they can answer, and end",
        why "each question that waits takes memory; a replica that is killed leaves its share to the others",
        fix "more replicas, more memory, and fewer questions: lower ndots, names with a dot at the end, NodeLocal DNSCache";
    DnsLoop "DNS_LOOP": "the name server forwards to itself, and ends when it notices",
        why "the node's resolv.conf names a server on the loopback device, as systemd-resolved's 127.0.0.53, which in a pod is the pod itself",
        fix "let kubelet's resolvConf name the file with the real servers";

    PodUnready "POD_UNREADY": "the pod exists and is not ready to be used",
        why "its readiness probe fails", fix "look at the pod's conditions";
    PodPending "POD_PENDING": "the pod has no node or no address yet",
        why "no node fits (selectors, taints), or the node has no free pod address",
        fix "look at the pod's events: scheduling and address allocation";
    PodGone "POD_GONE": "the pod that had this address no longer exists",
        why "it was deleted or killed and the sender still uses its address",
        fix "let clients look the name up again";
    CniUninitialized "CNI_UNINITIALIZED": "the container runtime of the node has no network configuration, so no pod with a network of its own starts there",
        why "the network plugin has not written its configuration to /etc/cni/net.d of that node: its DaemonSet does not run there, or its pod fails",
        fix "look at the plugin's pod on that node and at its log (kubectl -n kube-system get pods -o wide), and at /etc/cni/net.d";
    IpamExhausted "IPAM_EXHAUSTED": "no free address is left in the node's pod range",
        why "more pods on the node than its podCIDR has addresses",
        fix "use a larger podCIDR per node, or fewer pods per node";
    CidrExhausted "CIDR_EXHAUSTED": "no free pod range is left for the node",
        why "more nodes than the cluster's pod CIDR can be divided into",
        fix "use a larger cluster CIDR or a smaller mask per node";
    PortConflict "PORT_CONFLICT": "two containers of one pod want the same port",
        why "containers of a pod share one network namespace",
        fix "give one of them another port";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A text that is not a code of the registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a code; `podwire explain --list` lists them")]
pub struct ParseCodeError(pub String);

impl FromStr for Code {
    type Err = ParseCodeError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let wanted = |code: &&Self| code.name().eq_ignore_ascii_case(s);
        Self::ALL
            .iter()
            .find(wanted)
            .copied()
            .ok_or_else(|| ParseCodeError(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_readable() {
        for (n, code) in Code::ALL.iter().enumerate() {
            assert_eq!(code.name().parse(), Ok(*code));
            assert!(
                Code::ALL
                    .iter()
                    .skip(n + 1)
                    .all(|other| other.name() != code.name())
            );
        }
    }
}
