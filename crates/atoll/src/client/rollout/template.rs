//! A pod template in kubectl's words, as `rollout history --revision` shows it.

use k8s_openapi::api::core::v1::{
    Container, EnvVar, PodTemplateSpec, Probe, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// Longer annotations stand on lines of their own.
const ANNOTATION_LENGTH_MAX: usize = 140;

pub(super) fn describe(template: &PodTemplateSpec) -> String {
    let mut text = String::from("Pod Template:\n");
    let meta = template.metadata.clone().unwrap_or_default();
    let spec = template.spec.clone().unwrap_or_default();
    labels(&mut text, "  Labels", meta.labels.as_ref());
    if let Some(annotations) = meta.annotations.filter(|all| !all.is_empty()) {
        list(&mut text, "  Annotations", annotations.iter().map(annotation).collect());
    }
    if let Some(account) = spec.service_account_name {
        text.push_str(&format!("  Service Account:\t{account}\n"));
    }
    if let Some(init) = spec.init_containers.filter(|all| !all.is_empty()) {
        containers(&mut text, "Init Containers", &init);
    }
    containers(&mut text, "Containers", &spec.containers);
    volumes(&mut text, spec.volumes.as_deref().unwrap_or_default());
    if let Some(class) = spec.priority_class_name {
        text.push_str(&format!("  Priority Class Name:\t{class}\n"));
    }
    labels(&mut text, "  Node-Selectors", spec.node_selector.as_ref());
    let mut borne = spec.tolerations.unwrap_or_default();
    borne.sort_by(|one, other| one.key.cmp(&other.key));
    list(&mut text, "  Tolerations", borne.iter().map(toleration).collect());
    text
}

fn list(text: &mut String, title: &str, items: Vec<String>) {
    let all = if items.is_empty() { "<none>".to_owned() } else { items.join("\n\t") };
    text.push_str(&format!("{title}:\t{all}\n"));
}

fn labels(text: &mut String, title: &str, labels: Option<&BTreeMap<String, String>>) {
    let items = labels.into_iter().flatten().map(|(key, value)| format!("{key}={value}"));
    list(text, title, items.collect());
}

fn annotation((key, value): (&String, &String)) -> String {
    let value = value.trim_end_matches('\n');
    if key.len() + value.len() + 2 <= ANNOTATION_LENGTH_MAX && !value.contains('\n') {
        return format!("{key}: {value}");
    }
    let lines = value.split('\n').map(|line| {
        let short: String = line.chars().take(ANNOTATION_LENGTH_MAX - 2).collect();
        let dots = if short.len() < line.len() { "..." } else { "" };
        format!("\n\t  {short}{dots}")
    });
    format!("{key}:{}", lines.collect::<String>())
}

fn toleration(one: &Toleration) -> String {
    let mut text = one.key.clone().unwrap_or_default();
    let value = one.value.as_deref().filter(|value| !value.is_empty());
    if let Some(value) = value {
        text.push_str(&format!("={value}"));
    }
    if let Some(effect) = one.effect.as_deref().filter(|effect| !effect.is_empty()) {
        text.push_str(&format!(":{effect}"));
    }
    if one.operator.as_deref() == Some("Exists") && value.is_none() {
        text.push_str(if text.is_empty() { "op=Exists" } else { " op=Exists" });
    }
    if let Some(seconds) = one.toleration_seconds {
        text.push_str(&format!(" for {seconds}s"));
    }
    text
}

fn containers(text: &mut String, title: &str, containers: &[Container]) {
    let none = if containers.is_empty() { " <none>" } else { "" };
    text.push_str(&format!("  {title}:{none}\n"));
    for container in containers {
        self::container(text, container);
    }
}

fn container(text: &mut String, container: &Container) {
    text.push_str(&format!("   {}:\n", container.name));
    text.push_str(&format!("    Image:\t{}\n", container.image.as_deref().unwrap_or_default()));
    ports(text, container);
    for (title, words) in [("Command", &container.command), ("Args", &container.args)] {
        if let Some(words) = words.as_ref().filter(|words| !words.is_empty()) {
            text.push_str(&format!("    {title}:\n"));
            for line in words.iter().flat_map(|word| word.split('\n')) {
                text.push_str(&format!("      {line}\n"));
            }
        }
    }
    let resources = container.resources.clone().unwrap_or_default();
    amounts(text, "Limits", resources.limits.as_ref());
    amounts(text, "Requests", resources.requests.as_ref());
    for (title, checked) in [
        ("Liveness", &container.liveness_probe),
        ("Readiness", &container.readiness_probe),
        ("Startup", &container.startup_probe),
    ] {
        if let Some(checked) = checked {
            text.push_str(&format!("    {title}:\t{}\n", probe(checked)));
        }
    }
    environment(text, container);
    mounts(text, container.volume_mounts.as_deref().unwrap_or_default());
}

fn ports(text: &mut String, container: &Container) {
    let ports = container.ports.as_deref().unwrap_or_default();
    let protocol = |protocol: &Option<String>| protocol.clone().unwrap_or_else(|| "TCP".into());
    let own: Vec<String> = ports
        .iter()
        .map(|port| format!("{}/{}", port.container_port, protocol(&port.protocol)))
        .collect();
    let of_host: Vec<String> = ports
        .iter()
        .map(|port| format!("{}/{}", port.host_port.unwrap_or(0), protocol(&port.protocol)))
        .collect();
    for (title, all) in [("Port", own), ("Host Port", of_host)] {
        let plural = if all.len() > 1 { "s" } else { "" };
        let all = if all.is_empty() { "<none>".to_owned() } else { all.join(", ") };
        text.push_str(&format!("    {title}{plural}:\t{all}\n"));
    }
}

fn amounts(text: &mut String, title: &str, amounts: Option<&BTreeMap<String, Quantity>>) {
    let Some(amounts) = amounts.filter(|amounts| !amounts.is_empty()) else { return };
    text.push_str(&format!("    {title}:\n"));
    for (resource, amount) in amounts {
        text.push_str(&format!("      {resource}:\t{}\n", amount.0));
    }
}

fn probe(probe: &Probe) -> String {
    let timing = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        probe.initial_delay_seconds.unwrap_or(0),
        probe.timeout_seconds.unwrap_or(1),
        probe.period_seconds.unwrap_or(10),
        probe.success_threshold.unwrap_or(1),
        probe.failure_threshold.unwrap_or(3),
    );
    if let Some(exec) = &probe.exec {
        let command = exec.command.as_deref().unwrap_or_default().join(" ");
        return format!("exec [{command}] {timing}");
    }
    if let Some(get) = &probe.http_get {
        let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
        let (host, path) = (get.host.clone().unwrap_or_default(), get.path.clone());
        let port = text_of(&get.port);
        return format!("http-get {scheme}://{host}:{port}{} {timing}", path.unwrap_or_default());
    }
    if let Some(socket) = &probe.tcp_socket {
        let host = socket.host.clone().unwrap_or_default();
        return format!("tcp-socket {host}:{} {timing}", text_of(&socket.port));
    }
    if let Some(grpc) = &probe.grpc {
        let service = grpc.service.as_deref().unwrap_or_default();
        return format!("grpc <pod>:{} {service} {timing}", grpc.port);
    }
    format!("unknown {timing}")
}

fn text_of(port: &k8s_openapi::apimachinery::pkg::util::intstr::IntOrString) -> String {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}

fn environment(text: &mut String, container: &Container) {
    let sources = container.env_from.as_deref().unwrap_or_default();
    if !sources.is_empty() {
        text.push_str("    Environment Variables from:\n");
    }
    for source in sources {
        let (kind, name, optional) = match (&source.config_map_ref, &source.secret_ref) {
            (Some(map), _) => ("ConfigMap", &map.name, map.optional),
            (None, Some(secret)) => ("Secret", &secret.name, secret.optional),
            (None, None) => continue,
        };
        let prefix = source.prefix.as_deref().filter(|prefix| !prefix.is_empty());
        let prefix = prefix.map(|prefix| format!(" with prefix '{prefix}'")).unwrap_or_default();
        let optional = optional.unwrap_or(false);
        text.push_str(&format!("      {name}\t{kind}{prefix}\tOptional: {optional}\n"));
    }
    let variables = container.env.as_deref().unwrap_or_default();
    let none = if variables.is_empty() { "\t<none>" } else { "" };
    text.push_str(&format!("    Environment:{none}\n"));
    for one in variables {
        variable(text, one);
    }
}

fn variable(text: &mut String, variable: &EnvVar) {
    let name = &variable.name;
    let Some(from) = &variable.value_from else {
        let lines = variable.value.as_deref().unwrap_or_default().replace('\n', "\n      \t");
        text.push_str(&format!("      {name}:\t{lines}\n"));
        return;
    };
    let value = if let Some(field) = &from.field_ref {
        let version = field.api_version.as_deref().unwrap_or("v1");
        format!(" ({version}:{})", field.field_path)
    } else if let Some(resource) = &from.resource_field_ref {
        format!(" ({})", resource.resource)
    } else if let Some(secret) = &from.secret_key_ref {
        let optional = secret.optional.unwrap_or(false);
        format!(
            "<set to the key '{}' in secret '{}'>\tOptional: {optional}",
            secret.key, secret.name
        )
    } else if let Some(map) = &from.config_map_key_ref {
        let optional = map.optional.unwrap_or(false);
        format!("<set to the key '{}' of config map '{}'>\tOptional: {optional}", map.key, map.name)
    } else {
        String::new()
    };
    text.push_str(&format!("      {name}:\t{value}\n"));
}

fn mounts(text: &mut String, mounts: &[VolumeMount]) {
    let none = if mounts.is_empty() { "\t<none>" } else { "" };
    text.push_str(&format!("    Mounts:{none}\n"));
    let mut sorted: Vec<&VolumeMount> = mounts.iter().collect();
    sorted.sort_by_key(|mount| &mount.mount_path);
    for mount in sorted {
        let mut flags = if mount.read_only == Some(true) { "ro" } else { "rw" }.to_owned();
        if let Some(path) = mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
            flags.push_str(&format!(",path={path:?}"));
        }
        text.push_str(&format!("      {} from {} ({flags})\n", mount.mount_path, mount.name));
    }
}

fn volumes(text: &mut String, volumes: &[Volume]) {
    if volumes.is_empty() {
        text.push_str("  Volumes:\t<none>\n");
        return;
    }
    text.push_str("  Volumes:\n");
    for volume in volumes {
        text.push_str(&format!("   {}:\n", volume.name));
        for line in volume_lines(volume) {
            text.push_str(&format!("    {line}\n"));
        }
    }
}

fn volume_lines(volume: &Volume) -> Vec<String> {
    let optional = |optional: Option<bool>| format!("Optional:\t{}", optional.unwrap_or(false));
    if let Some(path) = &volume.host_path {
        let kind = path.type_.as_deref().unwrap_or_default();
        return vec![
            "Type:\tHostPath (bare host directory volume)".into(),
            format!("Path:\t{}", path.path),
            format!("HostPathType:\t{kind}"),
        ];
    }
    if let Some(empty) = &volume.empty_dir {
        let limit = empty.size_limit.as_ref().map_or("<unset>", |limit| limit.0.as_str());
        return vec![
            "Type:\tEmptyDir (a temporary directory that shares a pod's lifetime)".into(),
            format!("Medium:\t{}", empty.medium.as_deref().unwrap_or_default()),
            format!("SizeLimit:\t{limit}"),
        ];
    }
    if let Some(secret) = &volume.secret {
        return vec![
            "Type:\tSecret (a volume populated by a Secret)".into(),
            format!("SecretName:\t{}", secret.secret_name.as_deref().unwrap_or_default()),
            optional(secret.optional),
        ];
    }
    if let Some(map) = &volume.config_map {
        return vec![
            "Type:\tConfigMap (a volume populated by a ConfigMap)".into(),
            format!("Name:\t{}", map.name),
            optional(map.optional),
        ];
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        return vec![
            "Type:\tPersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same \
             namespace)"
                .into(),
            format!("ClaimName:\t{}", claim.claim_name),
            format!("ReadOnly:\t{}", claim.read_only.unwrap_or(false)),
        ];
    }
    if volume.projected.is_some() {
        let what = "a volume that contains injected data from multiple sources";
        return vec![format!("Type:\tProjected ({what})")];
    }
    if volume.downward_api.is_some() {
        let what = "a volume populated by information about the pod";
        return vec![format!("Type:\tDownwardAPI ({what})")];
    }
    vec!["<unknown>".into()]
}
