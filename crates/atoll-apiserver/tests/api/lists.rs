//! Lists: pages, selectors, every rule of resourceVersion.

use serde_json::{Value, json};

use crate::client::{Api, CONFIG_MAPS, config_map};

async fn filled(count: usize) -> Api {
    let api = Api::start().await;
    for index in 0..count {
        let mut object = config_map(&format!("c{index:03}"));
        object["metadata"]["labels"] = json!({"even": (index % 2 == 0).to_string()});
        api.create(CONFIG_MAPS, &object).await.ok();
    }
    api
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_show_one_moment() {
    let api = filled(25).await;
    let first = api.get(&format!("{CONFIG_MAPS}?limit=10")).await.ok();
    assert_eq!(names(&first).len(), 10);
    assert_eq!(first["metadata"]["remainingItemCount"], 15);
    // What happens between the pages is not in them.
    api.create(CONFIG_MAPS, &config_map("c0155")).await.ok();
    api.delete(&format!("{CONFIG_MAPS}/c020")).await.ok();
    let mut seen: Vec<String> = names(&first).into_iter().map(str::to_owned).collect();
    let mut token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    while !token.is_empty() {
        let page = api.get(&format!("{CONFIG_MAPS}?limit=10&continue={token}")).await.ok();
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        seen.extend(names(&page).into_iter().map(str::to_owned));
        token = page["metadata"]["continue"].as_str().unwrap_or("").to_owned();
    }
    let wanted: Vec<String> = (0..25).map(|index| format!("c{index:03}")).collect();
    assert_eq!(seen, wanted);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_select() {
    let api = filled(10).await;
    let list = api.get(&format!("{CONFIG_MAPS}?labelSelector=even=true&limit=3")).await.ok();
    assert_eq!(names(&list), ["c000", "c002", "c004"]);
    assert!(list["metadata"].get("remainingItemCount").is_none());
    let token = list["metadata"]["continue"].as_str().unwrap();
    let url = format!("{CONFIG_MAPS}?labelSelector=even=true&limit=3&continue={token}");
    assert_eq!(names(&api.get(&url).await.ok()), ["c006", "c008"]);
    let list = api.get(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name=c003")).await.ok();
    assert_eq!(names(&list), ["c003"]);
    api.get(&format!("{CONFIG_MAPS}?fieldSelector=spec.x=1")).await.fails(
        400,
        "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
    );
    let empty = api.get("/api/v1/namespaces/none/configmaps").await.ok();
    assert_eq!(empty["items"], json!([]));
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_mean_what_they_say() {
    let api = filled(3).await;
    let now = api.get(CONFIG_MAPS).await.ok();
    let revision = now["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    api.delete(&format!("{CONFIG_MAPS}/c001")).await.ok();
    let exact = format!("{CONFIG_MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact");
    let exact = api.get(&exact).await.ok();
    assert_eq!(names(&exact), ["c000", "c001", "c002"]);
    assert_eq!(exact["metadata"]["resourceVersion"], revision.as_str());
    let newer =
        format!("{CONFIG_MAPS}?resourceVersion={revision}&resourceVersionMatch=NotOlderThan");
    api.get(&newer).await.ok();
    assert_eq!(names(&api.get(CONFIG_MAPS).await.ok()), ["c000", "c002"]);
    let future = api.get(&format!("{CONFIG_MAPS}?resourceVersion=99999")).await;
    assert_eq!(future.code, 504);
    assert_eq!(future.body["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    let forbidden = api.get(&format!("{CONFIG_MAPS}?resourceVersionMatch=Exact")).await;
    forbidden.fails(
        422,
        "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: \
         resourceVersionMatch is forbidden unless resourceVersion is provided",
    );
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_has_the_kinds_columns() {
    let api = filled(2).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let headers = [("accept", accept)];
    let table = api.send(http::Method::GET, CONFIG_MAPS, &headers, "").await.ok();
    assert_eq!(table["kind"], "Table");
    let columns: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(columns, ["Name", "Data", "Age"]);
    let row = &table["rows"][0];
    assert_eq!(row["cells"][0], "c000");
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let headers = [("accept", accept)];
    let list = api.send(http::Method::GET, CONFIG_MAPS, &headers, "").await.ok();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert!(list["items"][0].get("data").is_none());
    api.shutdown().await;
}
