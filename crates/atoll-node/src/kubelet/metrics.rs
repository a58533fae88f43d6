//! `/metrics`: the kubelet's names, so that dashboards and alerts for it work.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use http::StatusCode;

use crate::kubelet::routes::Routes;
use crate::kubelet::{Answer, text};

pub(crate) fn answer(routes: &Routes) -> Answer {
    let all = routes.pods.all();
    let mut states: BTreeMap<&str, usize> =
        BTreeMap::from([("running", 0), ("exited", 0), ("created", 0)]);
    let mut running_pods = 0;
    for handle in all.values() {
        let shown = handle.shown.borrow().clone();
        let mut any = false;
        for run in shown.containers.values().filter_map(|c| c.current.as_ref()) {
            let state = if run.is_running() {
                "running"
            } else if run.exit().is_some() {
                "exited"
            } else {
                "created"
            };
            any |= run.is_running();
            *states.entry(state).or_default() += 1;
        }
        running_pods += usize::from(any);
    }
    match render(&routes.cx.config.node_name, all.len(), running_pods, &states) {
        Ok(body) => text(StatusCode::OK, body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn render(
    node: &str,
    desired: usize,
    running: usize,
    states: &BTreeMap<&str, usize>,
) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let mut gauge = |name: &str, help: &str, values: &[(String, usize)]| {
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge")?;
        values.iter().try_for_each(|(labels, value)| writeln!(out, "{name}{labels} {value}"))
    };
    gauge(
        "kubelet_node_name",
        "The node's name. The count is always 1.",
        &[(format!("{{node=\"{node}\"}}"), 1)],
    )?;
    gauge(
        "kubelet_desired_pods",
        "Pods that the kubelet is to run.",
        &[("{static=\"\"}".to_owned(), desired)],
    )?;
    gauge(
        "kubelet_running_pods",
        "Pods that have a running container.",
        &[(String::new(), running)],
    )?;
    let containers: Vec<(String, usize)> = states
        .iter()
        .map(|(state, count)| (format!("{{container_state=\"{state}\"}}"), *count))
        .collect();
    gauge("kubelet_running_containers", "Containers by state.", &containers)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_the_kubelets_names() {
        let states = BTreeMap::from([("running", 3)]);
        let text = render("node-1", 2, 1, &states).unwrap();
        assert!(text.contains("kubelet_running_pods 1\n"));
        assert!(text.contains("kubelet_running_containers{container_state=\"running\"} 3\n"));
        assert!(text.contains("kubelet_node_name{node=\"node-1\"} 1\n"));
    }
}
