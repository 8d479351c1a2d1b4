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
pub(super) fn walk(node: &Node, table: Table) -> Vec<Found<'_>> {
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

const PLACEMENT: &str = "the scheduler looks at node names, node selectors, taints, host ports and the number of pods only";
const PROBE: &str = "nothing is restarted, and nothing waits for a start";
const HOOK: &str = "of hooks only preStop is run, if it sleeps";
const PATH: &str = "who listens answers every path well";
const COMMAND: &str = "commands in containers are not run: they succeed";

const CONTAINER: Table = &[
    ("args", Modelled),
    ("command", Modelled),
    ("env", Modelled),
    ("envFrom", NoMeaning),
    ("image", Modelled),
    ("imagePullPolicy", NoMeaning),
    (
        "lifecycle",
        Fields(&[
            ("postStart", Gap(HOOK)),
            (
                "preStop",
                Fields(&[
                    ("exec", Gap("of commands only `sleep` is run")),
                    ("httpGet", Gap(HOOK)),
                    ("sleep", Modelled),
                    ("tcpSocket", Gap(HOOK)),
                ]),
            ),
            ("stopSignal", NoMeaning),
        ]),
    ),
    ("livenessProbe", Gap(PROBE)),
    ("name", Modelled),
    (
        "ports",
        Fields(&[
            ("containerPort", Modelled),
            ("hostIP", Modelled),
            ("hostPort", Modelled),
            ("name", Modelled),
            ("protocol", Modelled),
        ]),
    ),
    (
        "readinessProbe",
        Fields(&[
            ("exec", Gap(COMMAND)),
            ("failureThreshold", Modelled),
            (
                "grpc",
                Fields(&[
                    ("mode", NoMeaning),
                    ("port", Modelled),
                    ("service", NoMeaning),
                ]),
            ),
            (
                "httpGet",
                Fields(&[
                    ("host", Modelled),
                    ("httpHeaders", NoMeaning),
                    ("path", GapUnless(&["/"], PATH)),
                    ("port", Modelled),
                    ("protocol", NoMeaning),
                    ("scheme", NoMeaning),
                ]),
            ),
            ("initialDelaySeconds", Modelled),
            ("periodSeconds", Modelled),
            ("successThreshold", Modelled),
            (
                "tcpSocket",
                Fields(&[("host", Modelled), ("port", Modelled)]),
            ),
            ("terminationGracePeriodSeconds", NoMeaning),
            ("timeoutSeconds", Modelled),
        ]),
    ),
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
    (
        "readinessGates",
        Gap("a pod is ready when its containers are"),
    ),
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
    ("minReadySeconds", Modelled),
    ("paused", NoMeaning),
    ("progressDeadlineSeconds", NoMeaning),
    ("replicas", Modelled),
    ("revisionHistoryLimit", NoMeaning),
    ("selector", Modelled),
    ("strategy", Modelled),
    ("template", Fields(TEMPLATE)),
]), "status" => NoMeaning);
object!(REPLICA_SET, "spec" => Fields(&[
    ("minReadySeconds", Modelled),
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
object!(CLUSTER_POLICY, "status" => NoMeaning, "spec" => Fields(&[
    ("egress", Fields(&[
        ("action", Modelled),
        ("name", Modelled),
        ("ports", Modelled),
        ("protocols", Modelled),
        ("to", Fields(&[
            ("domainNames", Gap("names outside the cluster are not resolved: the peer allows nothing")),
            ("namespaces", Modelled),
            ("networks", Modelled),
            ("nodes", Modelled),
            ("pods", Modelled),
        ])),
    ])),
    ("ingress", Modelled),
    ("priority", Modelled),
    ("subject", Modelled),
    ("tier", Modelled),
]));

/// Fields of one webhook.
const WEBHOOK: Table = &[
    ("admissionReviewVersions", NoMeaning),
    (
        "clientConfig",
        Fields(&[
            ("caBundle", NoMeaning),
            ("service", Modelled),
            ("url", Gap("a webhook outside the cluster is not called")),
        ]),
    ),
    ("failurePolicy", Modelled),
    ("matchConditions", Gap("CEL conditions are taken to hold")),
    ("matchPolicy", NoMeaning),
    ("name", Modelled),
    ("namespaceSelector", Modelled),
    ("objectSelector", Modelled),
    ("rules", Modelled),
    ("sideEffects", NoMeaning),
    ("timeoutSeconds", Modelled),
];
object!(VALIDATING_WEBHOOKS, "webhooks" => Fields(WEBHOOK));
object!(MUTATING_WEBHOOKS, "webhooks" => Gap("they are called, and what they would change is not known: objects are taken as written"));

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

#[cfg(test)]
mod tests {
    //! Every field of the schema has a fate. The fields come from the types themselves: a
    //! deserializer that is asked for a struct learns the names of its fields.

    use std::collections::BTreeSet;

    use serde::de::{self, DeserializeSeed, MapAccess, Visitor, value};
    use serde::forward_to_deserialize_any;

    use super::*;
    use crate::manifest::crd;
    use crate::manifest::kinds::{KINDS, Treatment};

    /// Gives every type one value of each field, and writes down the fields of structs that have fates.
    struct Probe<'a> {
        table: Option<Table>,
        path: String,
        missing: &'a std::cell::RefCell<BTreeSet<String>>,
    }

    type Error = value::Error;

    impl Probe<'_> {
        fn child(&self, field: &str) -> Probe<'_> {
            let fate = self
                .table
                .and_then(|table| table.iter().find(|(name, _)| *name == field));
            let table = match fate {
                Some((_, Fields(table))) => Some(*table),
                _ => None,
            };
            let path = format!("{}.{field}", self.path);
            Probe {
                table,
                path,
                missing: self.missing,
            }
        }
    }

    impl<'de> de::Deserializer<'de> for Probe<'_> {
        type Error = Error;

        fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_i64(1)
        }

        fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_str("2024-09-03T08:15:27Z")
        }

        fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.deserialize_str(visitor)
        }

        fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_bool(true)
        }

        fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            if self.table.is_some() {
                visitor.visit_some(self)
            } else {
                visitor.visit_none()
            }
        }

        fn deserialize_newtype_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            visitor: V,
        ) -> Result<V::Value, Error> {
            visitor.visit_newtype_struct(self)
        }

        fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_seq(One(Some(self)))
        }

        fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_map(value::MapDeserializer::new(
                std::iter::empty::<(&str, &str)>(),
            ))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Error> {
            let known = |field: &str| {
                self.table
                    .is_none_or(|table| table.iter().any(|(name, _)| *name == field))
            };
            let missing = fields.iter().filter(|field| !known(field));
            self.missing
                .borrow_mut()
                .extend(missing.map(|field| format!("{}.{field}", self.path)));
            // What has no table of its own is not looked into.
            let deeper = if self.table.is_some() { fields } else { &[] };
            // The names of the kind itself are checked by its type.
            let asked = deeper
                .iter()
                .filter(|field| !matches!(**field, "apiVersion" | "kind"))
                .collect();
            visitor.visit_map(Asked {
                rest: asked,
                next: None,
                owner: self,
            })
        }

        forward_to_deserialize_any! {
            i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
            tuple tuple_struct enum identifier ignored_any
        }
    }

    struct One<'a>(Option<Probe<'a>>);

    impl<'de> de::SeqAccess<'de> for One<'_> {
        type Error = Error;

        fn next_element_seed<T: DeserializeSeed<'de>>(
            &mut self,
            seed: T,
        ) -> Result<Option<T::Value>, Error> {
            self.0
                .take()
                .map(|probe| seed.deserialize(probe))
                .transpose()
        }
    }

    struct Asked<'a> {
        rest: Vec<&'static &'static str>,
        next: Option<&'static str>,
        owner: Probe<'a>,
    }

    impl<'de> MapAccess<'de> for Asked<'_> {
        type Error = Error;

        fn next_key_seed<K: DeserializeSeed<'de>>(
            &mut self,
            seed: K,
        ) -> Result<Option<K::Value>, Error> {
            self.next = self.rest.pop().copied();
            let key = self.next.map(value::StrDeserializer::new);
            key.map(|key: value::StrDeserializer<'_, Error>| seed.deserialize(key))
                .transpose()
        }

        fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
            seed.deserialize(self.owner.child(self.next.take().expect("after its key")))
        }
    }

    fn table(kind: &str) -> Table {
        let row = KINDS.iter().find(|row| row.kind == kind).expect("a kind");
        match row.treatment {
            Treatment::Modelled(_, table) => table,
            Treatment::NoMeaning(_) | Treatment::Gap(_) => panic!("{kind} has no table"),
        }
    }

    #[test]
    fn every_field_of_the_schema_has_a_fate() {
        use k8s_openapi::api::{
            admissionregistration::v1 as admission, discovery::v1 as discovery,
            networking::v1 as networking,
        };
        use k8s_openapi::api::{apps::v1 as apps, batch::v1 as batch, core::v1 as core};
        let missing = std::cell::RefCell::default();
        macro_rules! probe {
            ($($type:ty, $kind:literal;)*) => {$({
                let path = $kind.to_owned();
                let probe = Probe { table: Some(table($kind)), path, missing: &missing };
                <$type as de::Deserialize>::deserialize(probe).expect($kind);
            })*};
        }
        probe! {
            core::Node, "Node";
            core::Namespace, "Namespace";
            core::Pod, "Pod";
            core::Service, "Service";
            core::Endpoints, "Endpoints";
            core::ReplicationController, "ReplicationController";
            apps::Deployment, "Deployment";
            apps::ReplicaSet, "ReplicaSet";
            apps::StatefulSet, "StatefulSet";
            apps::DaemonSet, "DaemonSet";
            batch::Job, "Job";
            batch::CronJob, "CronJob";
            discovery::EndpointSlice, "EndpointSlice";
            networking::NetworkPolicy, "NetworkPolicy";
            crd::AdminNetworkPolicy, "AdminNetworkPolicy";
            crd::BaselineAdminNetworkPolicy, "BaselineAdminNetworkPolicy";
            crd::ClusterNetworkPolicy, "ClusterNetworkPolicy";
            admission::ValidatingWebhookConfiguration, "ValidatingWebhookConfiguration";
            admission::MutatingWebhookConfiguration, "MutatingWebhookConfiguration";
        }
        assert_eq!(missing.into_inner(), BTreeSet::new());
        let modelled = KINDS
            .iter()
            .filter(|row| matches!(row.treatment, Treatment::Modelled(..)));
        assert_eq!(modelled.count(), 19, "probe every modelled kind");
    }

    #[test]
    fn gaps_are_listed_unless_they_say_nothing() {
        let text = "\
spec:
  affinity: {}
  schedulerName: default-scheduler
  topologySpreadConstraints: [{maxSkew: 1}]
  containers:
  - {name: a, ports: [{containerPort: 80, hostPort: 8080}], lifecycle: {preStop: {}, postStart: {exec: {command: [a]}}}}
  surprise: 1
";
        let source = crate::source::Source::new("x", text);
        let (documents, _) = crate::manifest::yaml::read(&source);
        let root = documents.first().expect("one");
        let paths: Vec<String> = walk(root, POD)
            .into_iter()
            .map(|found| found.path)
            .collect();
        let expected = [
            "spec.topologySpreadConstraints",
            "spec.containers.lifecycle.postStart",
            "spec.surprise",
        ];
        assert_eq!(paths, expected);
    }
}
