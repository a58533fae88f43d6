//! Probes and lifecycle hooks: exactly one handler each, and sane numbers.

use serde_json::Value;

use super::{faults, not_negative};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
const SIGNAL_NUMBER_MAX: u32 = 14;
const REAL_TIME_MIN_MAX: u32 = 15;
const SIGNALS: [&str; 35] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMIN",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
];

/// Checks the three probes and the lifecycle of a container.
pub(crate) fn container(at: &Path, container: &Value, pod_spec: &Value, errors: &mut Vec<Error>) {
    let grace = pod_spec.int("terminationGracePeriodSeconds");
    if container.has("lifecycle") {
        lifecycle(&at.child("lifecycle"), &container["lifecycle"], grace, pod_spec, errors);
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container.has(field) {
            probe(&at.child(field), &container[field], field, errors);
        }
    }
}

fn probe(at: &Path, probe: &Value, kind: &str, errors: &mut Vec<Error>) {
    handler(at, probe, None, errors);
    let numbers = [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ];
    for field in numbers {
        not_negative(&at.child(field), probe.int(field).unwrap_or(0), errors);
    }
    let grace = probe.int("terminationGracePeriodSeconds");
    let grace_at = at.child("terminationGracePeriodSeconds");
    if let Some(seconds) = grace.filter(|seconds| *seconds <= 0) {
        errors.push(grace_at.invalid(seconds, "must be greater than 0"));
    }
    if kind == "readinessProbe" {
        if let Some(seconds) = grace {
            errors.push(grace_at.invalid(seconds, "must not be set for readinessProbes"));
        }
        return;
    }
    let successes = probe.int("successThreshold").unwrap_or(1);
    if successes != 1 {
        errors.push(at.child("successThreshold").invalid(successes, "must be 1"));
    }
}

fn lifecycle(
    at: &Path,
    lifecycle: &Value,
    grace: Option<i64>,
    pod_spec: &Value,
    errors: &mut Vec<Error>,
) {
    for field in ["postStart", "preStop"] {
        if lifecycle.has(field) {
            handler(&at.child(field), &lifecycle[field], grace, errors);
        }
    }
    if let Some(signal) = lifecycle.opt_text("stopSignal") {
        stop_signal(&at.child("stopSignal"), signal, pod_spec["os"].text("name"), errors);
    }
}

fn handler(at: &Path, handler: &Value, grace: Option<i64>, errors: &mut Vec<Error>) {
    let mut found = 0;
    for kind in HANDLERS {
        if !handler.has(kind) {
            continue;
        }
        found += 1;
        let (at, action) = (at.child(kind), &handler[kind]);
        if found > 1 {
            errors.push(at.forbidden("may not specify more than 1 handler type"));
            continue;
        }
        match kind {
            "exec" if action.items("command").is_empty() => {
                errors.push(at.child("command").required(""));
            }
            "httpGet" => http_get(&at, action, errors),
            "tcpSocket" | "grpc" => port(&at.child("port"), &action["port"], errors),
            "sleep" => sleep(&at, action.int("seconds").unwrap_or(0), grace, errors),
            _ => {}
        }
    }
    if found == 0 {
        errors.push(at.required("must specify a handler type"));
    }
}

fn http_get(at: &Path, action: &Value, errors: &mut Vec<Error>) {
    if action.text("path").is_empty() {
        errors.push(at.child("path").required(""));
    }
    port(&at.child("port"), &action["port"], errors);
    let scheme = action.text("scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.push(at.child("scheme").not_supported(scheme, &["HTTP", "HTTPS"]));
    }
    for header in action.items("httpHeaders") {
        let name = header.text("name");
        let valid = !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !valid {
            let text = names::regex_error(
                "a valid HTTP header must consist of alphanumeric characters or '-'",
                "[-A-Za-z0-9]+",
                &["X-Header-Name"],
            );
            errors.push(at.child("httpHeaders").invalid(name, text));
        }
    }
}

fn sleep(at: &Path, seconds: i64, grace: Option<i64>, errors: &mut Vec<Error>) {
    if let Some(grace) = grace
        && !(0..=grace).contains(&seconds)
    {
        errors.push(at.invalid(
            seconds,
            format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})"),
        ));
    }
}

/// A port by number or by name.
pub(crate) fn port(at: &Path, port: &Value, errors: &mut Vec<Error>) {
    match port.as_str() {
        Some(name) => faults(at, name, names::port_name(name), errors),
        None => {
            let number = port.as_i64().unwrap_or(0);
            if let Some(fault) = names::port_number(number) {
                errors.push(at.invalid(number, fault));
            }
        }
    }
}

fn stop_signal(at: &Path, signal: &str, system: &str, errors: &mut Vec<Error>) {
    let windows = ["SIGKILL", "SIGTERM"];
    match system {
        "" => {
            let text = "may not be set for containers with empty `spec.os.name`";
            errors.push(at.forbidden(text));
        }
        "windows" if !windows.contains(&signal) => {
            errors.push(at.not_supported(signal, &windows));
        }
        "linux" if !is_signal(signal) => errors.push(at.not_supported(signal, &SIGNALS)),
        _ => {}
    }
}

fn is_signal(signal: &str) -> bool {
    let number_in = |prefix: &str, max: u32| {
        let number = signal.strip_prefix(prefix).and_then(|text| text.parse::<u32>().ok());
        number.is_some_and(|number| (1..=max).contains(&number))
    };
    SIGNALS.contains(&signal)
        || signal == "SIGXFSZ"
        || number_in("SIGRTMIN+", REAL_TIME_MIN_MAX)
        || number_in("SIGRTMAX-", SIGNAL_NUMBER_MAX)
}
