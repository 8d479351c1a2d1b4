//! What becomes of each field of each kind: modelled, without meaning for the network, or not
//! modelled. Nothing is skipped in silence: a field that has a meaning here and is not modelled is
//! listed with its place, and so is a field that no table names.

use std::sync::Arc;

use super::tree::{Entry, Node, Value};

/// What becomes of a field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// It is read.
    Modelled,
    /// No packet can notice it.
    NoMeaning,
    /// It matters, and is not modelled: why, or what happens instead.
    Gap(&'static str),
    /// The same, unless it has one of these values, which are what is modelled anyway.
    GapUnless(&'static [&'static str], &'static str),
    /// Its own fields have fates. A list stands for each of its items.
    Fields(Table),
}

use Fate::{Fields, Gap, GapUnless, Modelled, NoMeaning};

/// The fates of the fields of one type.
pub(super) type Table = &'static [(&'static str, Fate)];

/// A field of an object that matters and is not modelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found<'a> {
    /// The way to it, lists without numbers: `spec.containers.lifecycle`.
    pub(super) path: String,
    /// Where it is: the key.
    pub(super) span: crate::source::Span,
    /// The value.
    pub(super) node: &'a Arc<Node>,
    /// Why it is not modelled.
    pub(super) why: &'static str,
}

/// Goes through the fields of an object.
pub(super) fn walk<'a>(node: &'a Node, table: Table) -> Vec<Found<'a>> {
    let mut found = Vec::new();
    step(node, table, "", &mut found);
    found
}

fn step<'a>(node: &'a Node, table: Table, path: &str, found: &mut Vec<Found<'a>>) {
    for item in node.items() {
        step(item, table, path, found);
    }
    for entry in node
        .entries()
        .iter()
        .filter(|entry| says_something(&entry.value))
    {
        let path = if path.is_empty() {
            entry.key.to_string()
        } else {
            format!("{path}.{}", entry.key)
        };
        let fate = table
            .iter()
            .find(|(name, _)| *name == &*entry.key)
            .map(|(_, fate)| *fate);
        let why = match fate {
            Some(Modelled | NoMeaning) => None,
            Some(Fields(table)) => {
                step(&entry.value, table, &path, found);
                None
            }
            Some(Gap(why)) => Some(why),
            Some(GapUnless(fine, why)) => {
                let text = entry.value.text();
                (!text.is_some_and(|text| fine.contains(&&**text))).then_some(why)
            }
            None => Some("podwire does not know this field"),
        };
        if let Some(why) = why {
            found.push(Found {
                path,
                span: entry.span,
                node: &entry.value,
                why,
            });
        }
    }
}

/// Whether a value says more than leaving the field out would.
fn says_something(node: &Node) -> bool {
    match &node.value {
        Value::Null | Value::Bool(false) | Value::Int(0) => false,
        Value::String(text) => !text.is_empty(),
        Value::List(items) => !items.is_empty(),
        Value::Map(entries) => !entries.is_empty(),
        Value::Bool(true) | Value::Int(_) | Value::Float(_) => true,
    }
}

/// Annotations and labels by which people ask somebody else to change the network, and who that is.
pub(super) const KEYS: &[(&str, &str)] = &[
    (
        "service.kubernetes.io/topology-",
        "hints are taken from slices, not made from topology",
    ),
    (
        "service.kubernetes.io/service-proxy-name",
        "no other service proxy than kube-proxy is modelled",
    ),
    (
        "k8s.v1.cni.cncf.io/networks",
        "pods have one network: Multus is not modelled",
    ),
    ("k8s.ovn.org/", "OVN-Kubernetes is not modelled"),
    (
        "cni.projectcalico.org/",
        "Calico's annotations are not modelled",
    ),
    ("cilium.io/", "Cilium's annotations are not modelled"),
    ("io.cilium/", "Cilium's annotations are not modelled"),
    (
        "service.cilium.io/",
        "Cilium's annotations are not modelled",
    ),
    ("istio.io/", "no service mesh is modelled"),
    ("istio-injection", "no service mesh is modelled"),
    ("sidecar.istio.io/", "no service mesh is modelled"),
    ("traffic.sidecar.istio.io/", "no service mesh is modelled"),
    ("linkerd.io/", "no service mesh is modelled"),
    ("config.linkerd.io/", "no service mesh is modelled"),
    ("consul.hashicorp.com/", "no service mesh is modelled"),
    (
        "kubernetes.io/ingress-bandwidth",
        "traffic of pods is not shaped",
    ),
    (
        "kubernetes.io/egress-bandwidth",
        "traffic of pods is not shaped",
    ),
    ("metallb.universe.tf/", "MetalLB is not modelled"),
    ("metallb.io/", "MetalLB is not modelled"),
];

const METADATA: Table = &[
    ("annotations", Modelled),
    ("creationTimestamp", NoMeaning),
    ("deletionGracePeriodSeconds", NoMeaning),
    ("deletionTimestamp", Modelled),
    ("finalizers", NoMeaning),
    ("generateName", Modelled),
    ("generation", NoMeaning),
    ("labels", Modelled),
    ("managedFields", NoMeaning),
    ("name", Modelled),
    ("namespace", Modelled),
    ("ownerReferences", Modelled),
    ("resourceVersion", NoMeaning),
    ("selfLink", NoMeaning),
    ("uid", Modelled),
];

const PLACEMENT: &str =
    "the scheduler looks at node names, node selectors, taints and the number of pods only";
const PROBE: &str = "the kubelet sends no probes: a pod is ready as soon as it runs";

const CONTAINER: Table = &[
    ("args", Modelled),
    ("command", Modelled),
    ("env", Modelled),
    ("envFrom", NoMeaning),
    ("image", Modelled),
    ("imagePullPolicy", NoMeaning),
    ("lifecycle", Gap("hooks of containers are not run")),
    ("livenessProbe", Gap(PROBE)),
    ("name", Modelled),
    (
        "ports",
        Fields(&[
            ("containerPort", Modelled),
            ("hostIP", NoMeaning),
            (
                "hostPort",
                Gap("the node's ports are not forwarded to containers"),
            ),
            ("name", Modelled),
            ("protocol", Modelled),
        ]),
    ),
    ("readinessProbe", Gap(PROBE)),
    ("resizePolicy", NoMeaning),
    ("resources", NoMeaning),
    ("restartPolicy", Modelled),
    ("restartPolicyRules", NoMeaning),
    ("securityContext", NoMeaning),
    ("startupProbe", Gap(PROBE)),
    ("stdin", NoMeaning),
    ("stdinOnce", NoMeaning),
    ("terminationMessagePath", NoMeaning),
    ("terminationMessagePolicy", NoMeaning),
    ("tty", NoMeaning),
    ("volumeDevices", NoMeaning),
    ("volumeMounts", NoMeaning),
    ("workingDir", NoMeaning),
];

const POD_SPEC: Table = &[
    (
        "activeDeadlineSeconds",
        Gap("pods do not end by themselves"),
    ),
    ("affinity", Gap(PLACEMENT)),
    ("automountServiceAccountToken", NoMeaning),
    ("containers", Fields(CONTAINER)),
    ("dnsConfig", Modelled),
    ("dnsPolicy", Modelled),
    ("enableServiceLinks", NoMeaning),
    ("ephemeralContainers", NoMeaning),
    ("evictionResponders", NoMeaning),
    ("hostAliases", Modelled),
    ("hostIPC", NoMeaning),
    ("hostNetwork", Modelled),
    ("hostPID", NoMeaning),
    ("hostUsers", NoMeaning),
    ("hostname", Modelled),
    (
        "hostnameOverride",
        Gap("the pod is called by `hostname` and `subdomain`"),
    ),
    ("imagePullSecrets", NoMeaning),
    ("initContainers", Fields(CONTAINER)),
    ("nodeName", Modelled),
    ("nodeSelector", Modelled),
    ("os", GapUnless(&[], "nodes run Linux")),
    ("overhead", NoMeaning),
    ("preemptionPolicy", NoMeaning),
    ("priority", NoMeaning),
    ("priorityClassName", NoMeaning),
    ("readinessGates", Gap("a pod is ready as soon as it runs")),
    ("resourceClaims", NoMeaning),
    ("resources", NoMeaning),
    ("restartPolicy", Modelled),
    (
        "runtimeClassName",
        Gap("containers share the node's kernel, as with runc"),
    ),
    (
        "schedulerName",
        GapUnless(&["default-scheduler"], PLACEMENT),
    ),
    ("schedulingGates", Gap("pods are scheduled at once")),
    ("schedulingGroup", Gap("pods are scheduled one by one")),
    (
        "securityContext",
        Fields(&[
            ("appArmorProfile", NoMeaning),
            ("fsGroup", NoMeaning),
            ("fsGroupChangePolicy", NoMeaning),
            ("runAsGroup", NoMeaning),
            ("runAsNonRoot", NoMeaning),
            ("runAsUser", NoMeaning),
            ("seLinuxChangePolicy", NoMeaning),
            ("seLinuxOptions", NoMeaning),
            ("seccompProfile", NoMeaning),
            ("supplementalGroups", NoMeaning),
            ("supplementalGroupsPolicy", NoMeaning),
            ("sysctls", Modelled),
            ("windowsOptions", NoMeaning),
        ]),
    ),
    ("serviceAccount", NoMeaning),
    ("serviceAccountName", NoMeaning),
    ("setHostnameAsFQDN", Modelled),
    ("shareProcessNamespace", NoMeaning),
    ("subdomain", Modelled),
    ("terminationGracePeriodSeconds", Modelled),
    ("tolerations", Modelled),
    ("topologySpreadConstraints", Gap(PLACEMENT)),
    ("volumes", NoMeaning),
];

const TEMPLATE: Table = &[("metadata", Fields(METADATA)), ("spec", Fields(POD_SPEC))];

macro_rules! object {
    ($name:ident, $($field:literal => $fate:expr),* $(,)?) => {
        pub(super) const $name: Table = &[
            ("apiVersion", Modelled),
            ("kind", Modelled),
            ("metadata", Fields(METADATA)),
            $(($field, $fate),)*
        ];
    };
}

object!(POD, "spec" => Fields(POD_SPEC), "status" => Modelled);
object!(NAMESPACE, "spec" => NoMeaning, "status" => NoMeaning);
object!(NODE, "spec" => Fields(&[
    ("configSource", NoMeaning),
    ("externalID", NoMeaning),
    ("podCIDR", Modelled),
    ("podCIDRs", Modelled),
    ("podPreemptionPolicy", NoMeaning),
    ("providerID", NoMeaning),
    ("taints", Modelled),
    ("unschedulable", Modelled),
]), "status" => Modelled);
object!(DEPLOYMENT, "spec" => Fields(&[
    ("minReadySeconds", NoMeaning),
    ("paused", NoMeaning),
    ("progressDeadlineSeconds", NoMeaning),
    ("replicas", Modelled),
    ("revisionHistoryLimit", NoMeaning),
    ("selector", Modelled),
    ("strategy", NoMeaning),
    ("template", Fields(TEMPLATE)),
]), "status" => NoMeaning);
object!(REPLICA_SET, "spec" => Fields(&[
    ("minReadySeconds", NoMeaning),
    ("replicas", Modelled),
    ("selector", Modelled),
    ("template", Fields(TEMPLATE)),
]), "status" => NoMeaning);
object!(STATEFUL_SET, "spec" => Fields(&[
    ("minReadySeconds", NoMeaning),
    ("ordinals", Modelled),
    ("persistentVolumeClaimRetentionPolicy", NoMeaning),
    ("podManagementPolicy", NoMeaning),
    ("replicas", Modelled),
    ("revisionHistoryLimit", NoMeaning),
    ("selector", Modelled),
    ("serviceName", Modelled),
    ("template", Fields(TEMPLATE)),
    ("updateStrategy", NoMeaning),
    ("volumeClaimTemplates", NoMeaning),
]), "status" => NoMeaning);
object!(DAEMON_SET, "spec" => Fields(&[
    ("minReadySeconds", NoMeaning),
    ("revisionHistoryLimit", NoMeaning),
    ("selector", Modelled),
    ("template", Fields(TEMPLATE)),
    ("updateStrategy", NoMeaning),
]), "status" => NoMeaning);

const JOB_SPEC: Table = &[
    (
        "activeDeadlineSeconds",
        Gap("jobs do not end by themselves"),
    ),
    ("backoffLimit", NoMeaning),
    ("backoffLimitPerIndex", NoMeaning),
    (
        "completionMode",
        GapUnless(&["NonIndexed"], "the pods of a job have no index"),
    ),
    ("completions", Modelled),
    (
        "managedBy",
        GapUnless(
            &["kubernetes.io/job-controller"],
            "jobs are run by the job controller",
        ),
    ),
    ("manualSelector", NoMeaning),
    ("maxFailedIndexes", NoMeaning),
    ("parallelism", Modelled),
    ("podFailurePolicy", NoMeaning),
    ("podReplacementPolicy", NoMeaning),
    ("scheduling", Gap("pods are scheduled one by one")),
    ("selector", Modelled),
    ("successPolicy", NoMeaning),
    ("suspend", Modelled),
    ("template", Fields(TEMPLATE)),
    ("ttlSecondsAfterFinished", NoMeaning),
];

object!(JOB, "spec" => Fields(JOB_SPEC), "status" => NoMeaning);
object!(CRON_JOB, "spec" => Fields(&[
    ("concurrencyPolicy", NoMeaning),
    ("failedJobsHistoryLimit", NoMeaning),
    ("jobTemplate", Fields(&[("metadata", Fields(METADATA)), ("spec", Fields(JOB_SPEC))])),
    ("schedule", Modelled),
    ("startingDeadlineSeconds", NoMeaning),
    ("successfulJobsHistoryLimit", NoMeaning),
    ("suspend", Modelled),
    ("timeZone", NoMeaning),
]), "status" => NoMeaning);
object!(SERVICE, "spec" => Fields(&[
    ("allocateLoadBalancerNodePorts", Modelled),
    ("clusterIP", Modelled),
    ("clusterIPs", Modelled),
    ("externalIPs", Modelled),
    ("externalName", Modelled),
    ("externalTrafficPolicy", Modelled),
    ("healthCheckNodePort", Modelled),
    ("internalTrafficPolicy", Modelled),
    ("ipFamilies", Modelled),
    ("ipFamilyPolicy", Modelled),
    ("loadBalancerClass", Modelled),
    ("loadBalancerIP", Modelled),
    ("loadBalancerSourceRanges", Modelled),
    ("ports", Modelled),
    ("publishNotReadyAddresses", Modelled),
    ("selector", Modelled),
    ("sessionAffinity", Modelled),
    ("sessionAffinityConfig", Modelled),
    ("trafficDistribution", Modelled),
    ("type", Modelled),
]), "status" => Fields(&[("conditions", NoMeaning), ("loadBalancer", Modelled)]));
object!(ENDPOINT_SLICE,
    "addressType" => Modelled,
    "endpoints" => Fields(&[
        ("addresses", Modelled),
        ("conditions", Modelled),
        ("deprecatedTopology", NoMeaning),
        ("hints", Modelled),
        ("hostname", Modelled),
        ("nodeName", Modelled),
        ("targetRef", Modelled),
        ("zone", Modelled),
    ]),
    "ports" => Modelled,
);
object!(ENDPOINTS, "subsets" => Modelled);
object!(NETWORK_POLICY, "spec" => Fields(&[
    ("egress", Modelled),
    ("ingress", Modelled),
    ("podSelector", Modelled),
    ("policyTypes", Modelled),
]));

/// Returns the labels and annotations, of an object and of its template, that ask somebody else to
/// change the network.
pub(super) fn asks(root: &Node) -> Vec<(&Entry, &'static str)> {
    let template = root.get("spec").and_then(|spec| spec.get("template"));
    let metadata = [
        root.get("metadata"),
        template.and_then(|template| template.get("metadata")),
    ];
    let maps = metadata
        .into_iter()
        .flatten()
        .flat_map(|node| [node.get("labels"), node.get("annotations")]);
    let entries = maps.flatten().flat_map(|map| map.entries());
    let known = |entry: &&'static (&'static str, &'static str), key: &str| key.starts_with(entry.0);
    entries
        .filter_map(|entry| {
            let (_, why) = KEYS.iter().find(|row| known(row, &entry.key))?;
            Some((entry, *why))
        })
        .collect()
}
