//! Whether a node admits a pod, as far as the pod and the node themselves say so.
//!
//! Owns: selectors, affinity, taints and cordons as the scheduler reads them. Never: looks at what else runs there, or at storage.

use serde_json::Value;

use super::facts::{condition, list, name_of, text, texts};

/// What is said of a node that is not ready.
pub(super) const NOT_READY: &str = "it is not ready";

/// Why the scheduler passes the node over for this pod; nothing where it does not.
pub(super) fn refusals(node: &Value, pod: &Value) -> Vec<String> {
    let mut why = Vec::new();
    if !selects(node, pod) {
        why.push("the pod's nodeSelector or affinity excludes it".to_owned());
    }
    if !is_ready(node) {
        why.push(NOT_READY.to_owned());
    }
    let is_cordoned = node["spec"]["unschedulable"] == true;
    if is_cordoned && !tolerates(pod, "node.kubernetes.io/unschedulable", "", "NoSchedule") {
        why.push("it is cordoned".to_owned());
    }
    // Those say the same once more.
    let said = [
        "node.kubernetes.io/unschedulable",
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ];
    for taint in list(node, "/spec/taints") {
        let (key, value, effect) = (text(taint, "/key"), text(taint, "/value"), text(taint, "/effect"));
        let keeps_out = ["NoSchedule", "NoExecute"].contains(&effect);
        if keeps_out && !said.contains(&key) && !tolerates(pod, key, value, effect) {
            why.push(format!("the pod does not tolerate its taint {key}:{effect}"));
        }
    }
    why
}

/// Whether kubelet says that all is well.
pub(super) fn is_ready(node: &Value) -> bool {
    condition(node, "Ready").is_none_or(|ready| ready["status"] == "True")
}

fn tolerates(pod: &Value, key: &str, value: &str, effect: &str) -> bool {
    list(pod, "/spec/tolerations").any(|toleration| {
        let any = |field: &str, want: &str| ["", want].contains(&text(toleration, field));
        let is_it = toleration["operator"] == "Exists"
            || text(toleration, "/value") == value && !text(toleration, "/key").is_empty();
        any("/key", key) && any("/effect", effect) && is_it
    })
}

fn selects(node: &Value, pod: &Value) -> bool {
    let labels = &node["metadata"]["labels"];
    let wanted = pod["spec"]["nodeSelector"].as_object().into_iter().flatten();
    let has_all = wanted.into_iter().all(|(key, value)| labels[key] == *value);
    let terms = pod.pointer(
        "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms",
    );
    let terms = terms.and_then(Value::as_array);
    has_all && terms.is_none_or(|terms| terms.iter().any(|term| is_met(node, term)))
}

/// Whether a term of a node selector is met. An empty one never is.
fn is_met(node: &Value, term: &Value) -> bool {
    let labels = |rule: &Value| node["metadata"]["labels"][text(rule, "/key")].as_str();
    let fields = |rule: &Value| (rule["key"] == "metadata.name").then(|| name_of(node));
    let is_empty = list(term, "/matchExpressions").chain(list(term, "/matchFields")).next().is_none();
    !is_empty
        && list(term, "/matchExpressions").all(|rule| holds(rule, labels(rule)))
        && list(term, "/matchFields").all(|rule| holds(rule, fields(rule)))
}

/// Whether a label selector takes the node in.
pub(super) fn is_selected(node: &Value, selector: &Value) -> bool {
    let labels = &node["metadata"]["labels"];
    let mut wanted = selector["matchLabels"].as_object().into_iter().flatten();
    wanted.all(|(key, value)| labels[key] == *value)
        && list(selector, "/matchExpressions").all(|rule| holds(rule, labels[text(rule, "/key")].as_str()))
}

/// Whether a class allows the node.
pub(super) fn is_allowed(node: &Value, class: &Value) -> bool {
    let labels = &node["metadata"]["labels"];
    let met = |term: &Value| {
        list(term, "/matchLabelExpressions").all(|rule| {
            let label = labels[text(rule, "/key")].as_str();
            label.is_some_and(|label| texts(rule, "/values").contains(&label))
        })
    };
    let mut terms = list(class, "/allowedTopologies").peekable();
    terms.peek().is_none() || terms.any(met)
}

fn holds(rule: &Value, label: Option<&str>) -> bool {
    let values = texts(rule, "/values");
    let compare = |is: fn(i64, i64) -> bool| {
        let number = |text: &str| text.parse::<i64>().ok();
        let pair = label.and_then(number).zip(values.first().and_then(|value| number(value)));
        pair.is_some_and(|(have, want)| is(have, want))
    };
    match text(rule, "/operator") {
        "In" => label.is_some_and(|label| values.contains(&label)),
        "NotIn" => label.is_none_or(|label| !values.contains(&label)),
        "Exists" => label.is_some(),
        "DoesNotExist" => label.is_none(),
        "Gt" => compare(|have, want| have > want),
        "Lt" => compare(|have, want| have < want),
        // A later release knows more; what is not understood is not called a reason.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node() -> Value {
        json!({
            "metadata": { "name": "n1", "labels": { "disk": "nvme", "cores": "8" } },
            "spec": { "taints": [{ "key": "dedicated", "value": "db", "effect": "NoSchedule" }] },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        })
    }

    fn affine(rules: Value) -> Value {
        let terms = json!({ "nodeSelectorTerms": [{ "matchExpressions": rules }] });
        let tolerations = json!([{ "operator": "Exists" }]);
        json!({ "spec": { "tolerations": tolerations, "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": terms } } } })
    }

    #[test]
    fn a_taint_keeps_out_who_does_not_tolerate_it() {
        let pod = |toleration: Value| json!({ "spec": { "tolerations": [toleration] } });
        for toleration in [
            json!({ "operator": "Exists" }),
            json!({ "key": "dedicated", "value": "db" }),
            json!({ "key": "dedicated", "operator": "Exists", "effect": "NoSchedule" }),
        ] {
            assert!(refusals(&node(), &pod(toleration.clone())).is_empty(), "{toleration}");
        }
        for toleration in [
            json!({ "key": "dedicated", "value": "web" }),
            json!({ "key": "dedicated", "operator": "Exists", "effect": "NoExecute" }),
            json!({ "key": "other", "operator": "Exists" }),
        ] {
            let why = refusals(&node(), &pod(toleration.clone()));
            assert_eq!(why, ["the pod does not tolerate its taint dedicated:NoSchedule"], "{toleration}");
        }
    }

    #[test]
    fn affinity_is_read_with_every_operator() {
        let rule = |key: &str, operator: &str, values: Value| json!([{ "key": key, "operator": operator, "values": values }]);
        for (rules, is_met) in [
            (rule("disk", "In", json!(["nvme", "ssd"])), true),
            (rule("disk", "In", json!(["ssd"])), false),
            (rule("disk", "NotIn", json!(["ssd"])), true),
            (rule("zone", "NotIn", json!(["z1"])), true),
            (rule("zone", "Exists", Value::Null), false),
            (rule("zone", "DoesNotExist", Value::Null), true),
            (rule("cores", "Gt", json!(["4"])), true),
            (rule("cores", "Lt", json!(["8"])), false),
            (json!([]), false),
        ] {
            assert_eq!(refusals(&node(), &affine(rules.clone())).is_empty(), is_met, "{rules}");
        }
    }

    #[test]
    fn a_cordoned_node_and_one_that_is_not_ready_are_passed_over_and_said_once() {
        let pod = json!({ "spec": { "tolerations": [{ "key": "dedicated", "operator": "Exists" }] } });
        let mut node = node();
        node["spec"]["unschedulable"] = json!(true);
        node["status"]["conditions"][0]["status"] = json!("Unknown");
        node["spec"]["taints"] = json!([
            { "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" },
            { "key": "node.kubernetes.io/unreachable", "effect": "NoExecute" },
        ]);
        assert_eq!(refusals(&node, &pod), ["it is not ready", "it is cordoned"]);
    }

    #[test]
    fn a_class_allows_what_its_topologies_name() {
        let class = |values: Value| json!({ "allowedTopologies": [{ "matchLabelExpressions": [{ "key": "disk", "values": values }] }] });
        assert!(is_allowed(&node(), &json!({})) && is_allowed(&node(), &class(json!(["nvme"]))));
        assert!(!is_allowed(&node(), &class(json!(["ssd"]))));
    }
}
