//! `/metrics/probes`: how the probes of the node's pods went.

use std::fmt::Write as _;

use http::StatusCode;

use crate::kubelet::routes::Routes;
use crate::kubelet::{Answer, text};
use crate::pod::identity::PodId;
use crate::probe::counts::Count;

const HEAD: &str = "# HELP prober_probe_total [BETA] Cumulative number of a liveness, readiness or \
                    startup probe for a container by result.\n\
                    # TYPE prober_probe_total counter\n";

pub(crate) fn answer(routes: &Routes) -> Answer {
    let mut body = HEAD.to_owned();
    for handle in routes.pods.all().values() {
        for ((container, kind), count) in handle.probed.all() {
            if let Err(error) = lines(&mut body, &handle.id, &container, &kind.to_string(), count) {
                return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
            }
        }
    }
    text(StatusCode::OK, body)
}

fn lines(
    body: &mut String,
    pod: &PodId,
    container: &str,
    kind: &str,
    count: Count,
) -> std::fmt::Result {
    let PodId { namespace, name, uid } = pod;
    for (result, times) in [("successful", count.successful), ("failed", count.failed)] {
        if times > 0 {
            writeln!(
                body,
                "prober_probe_total{{container=\"{container}\",namespace=\"{namespace}\",\
                 pod=\"{name}\",pod_uid=\"{uid}\",probe_type=\"{kind}\",result=\"{result}\"}} \
                 {times}"
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_have_the_kubelets_labels() {
        let pod = PodId { namespace: "ns".into(), name: "p".into(), uid: "u".into() };
        let mut body = String::new();
        lines(&mut body, &pod, "c", "Liveness", Count { successful: 0, failed: 2 }).unwrap();
        assert_eq!(
            body,
            "prober_probe_total{container=\"c\",namespace=\"ns\",pod=\"p\",pod_uid=\"u\",\
             probe_type=\"Liveness\",result=\"failed\"} 2\n"
        );
    }
}
