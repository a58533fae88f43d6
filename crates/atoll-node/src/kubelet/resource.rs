//! `/metrics/resource`: use of processors and memory, by the kubelet's names.

use std::fmt::Write as _;

use http::StatusCode;

use crate::kubelet::routes::Routes;
use crate::kubelet::usage::Reading;
use crate::kubelet::{Answer, stats, text};

/// Name, help and type of a metric, and its value of a reading.
type Metric = (&'static str, &'static str, &'static str, fn(&Reading) -> f64);

#[allow(clippy::cast_precision_loss, reason = "metrics are floats; 2^53 ns are 104 days of use")]
const CPU: fn(&Reading) -> f64 = |reading| reading.cpu_ns as f64 / 1e9;
#[allow(clippy::cast_precision_loss, reason = "metrics are floats")]
const MEMORY: fn(&Reading) -> f64 = |reading| reading.memory_working_set_bytes as f64;

const OF_CONTAINERS: [Metric; 2] = [
    (
        "container_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        "counter",
        CPU,
    ),
    (
        "container_memory_working_set_bytes",
        "[STABLE] Current working set of the container in bytes",
        "gauge",
        MEMORY,
    ),
];
const OF_NODE: [Metric; 2] = [
    (
        "node_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
        "counter",
        CPU,
    ),
    (
        "node_memory_working_set_bytes",
        "[STABLE] Current working set of the node in bytes",
        "gauge",
        MEMORY,
    ),
];
const OF_PODS: [Metric; 2] = [
    (
        "pod_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
        "counter",
        CPU,
    ),
    (
        "pod_memory_working_set_bytes",
        "[STABLE] Current working set of the pod in bytes",
        "gauge",
        MEMORY,
    ),
];

/// Labels and a reading.
type Row = (String, Reading);

pub(crate) fn answer(routes: &Routes) -> Answer {
    let (mut containers, mut pods) = (Vec::new(), Vec::new());
    for handle in routes.pods.all().values() {
        let shown = handle.shown.borrow().clone();
        let readings = stats::running(routes, &shown);
        let (namespace, pod) = (&handle.id.namespace, &handle.id.name);
        for (name, _, reading) in &readings {
            let labels =
                format!("{{container=\"{name}\",namespace=\"{namespace}\",pod=\"{pod}\"}}");
            containers.push((labels, *reading));
        }
        let labels = format!("{{namespace=\"{namespace}\",pod=\"{pod}\"}}");
        pods.extend(stats::sum(&readings).map(|sum| (labels, sum)));
    }
    let node: Vec<Row> =
        routes.usage.node().map(|reading| (String::new(), reading)).into_iter().collect();
    let mut out = String::new();
    let written = section(&mut out, &OF_CONTAINERS, &containers)
        .and_then(|()| section(&mut out, &OF_NODE, &node))
        .and_then(|()| section(&mut out, &OF_PODS, &pods));
    match written {
        Ok(()) => text(StatusCode::OK, out + ERRORS),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

const ERRORS: &str = "# HELP resource_scrape_error [STABLE] 1 if there was an error while getting \
    container metrics, 0 otherwise\n# TYPE resource_scrape_error gauge\nresource_scrape_error 0\n";

fn section(out: &mut String, metrics: &[Metric], rows: &[Row]) -> std::fmt::Result {
    for (name, help, kind, value) in metrics {
        if rows.is_empty() {
            continue;
        }
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
        for (labels, reading) in rows {
            let at = reading.at.as_millisecond();
            writeln!(out, "{name}{labels} {} {at}", value(reading))?;
        }
    }
    Ok(())
}
