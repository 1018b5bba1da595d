use super::*;

fn spec(spec: Value) -> StreamApiSpec {
    serde_json::from_value(spec).expect("a spec")
}

fn shop() -> StreamApiSpec {
    spec(json!({
        "description": "A small shop.",
        "servers": [{"name": "log", "kafka": {"brokers": ["kafka:9092"]}}],
        "channels": [
            {
                "name": "orders", "server": "log", "address": "orders.v1", "description": "Every order.",
                "message": {"name": "shop.order", "contentType": "application/json"},
                "subscribe": {"transports": {"websocket": {}, "sse": {}}},
                "publish": {"transports": {"http": {}, "websocket": {}}},
            },
            {
                "name": "parcels", "server": "log", "address": "parcels.v1", "path": "/out/parcels",
                "subscribe": {"transports": {"sse": {}}, "formats": ["envelope"]},
            },
        ],
    }))
}

/// The document of all channels of `spec`; those called `keyed` need a key.
fn made(spec: &StreamApiSpec, keyed: &[&str], base_urls: &[&str]) -> Value {
    let channels = spec
        .channels
        .iter()
        .map(|channel| Described { channel, needs_key: keyed.contains(&channel.name.as_str()) });
    let channels: Vec<_> = channels.collect();
    let base_urls: Vec<BaseUrl> = base_urls.iter().map(|url| url.parse().expect("a base URL")).collect();
    let lifecycle = &spec.lifecycle;
    document(&Description { name: "shop", spec, lifecycle, base_urls: &base_urls, channels: &channels })
}

/// `tests/browser/asyncapi.mjs` holds such documents against the official schema.
#[test]
fn a_document_says_what_clients_do_where_and_how() {
    let mut document = made(&shop(), &["orders"], &["https://streams.example"]);
    let version = document["info"]["version"].take();
    assert!(version.as_str().is_some_and(|version| version.len() == 16), "{version}");
    let order = json!([{"$ref": "#/channels/orders/messages/message"}]);
    let keys =
        ["apiKey", "bearer"].map(|scheme| json!({"$ref": format!("#/components/securitySchemes/{scheme}")}));
    let format = "raw: the payload alone. envelope: JSON with id, cursor, key, headers, timestamp, \
                  contentType and data. cloudevents: CloudEvents 1.0 as JSON.";
    let cursor =
        json!({"type": "string", "description": "The cursor of the last message, to go on after it."});
    let formats = json!({"type": "string", "description": format, "enum": ["raw", "envelope", "cloudevents"],
        "default": "raw"});
    let query = json!({"type": "object", "properties": {"format": formats, "cursor": cursor}});
    let envelope = json!({"type": "string", "description": format, "enum": ["envelope"]});
    let expected = json!({
        "asyncapi": "3.0.0",
        "id": "urn:sluice:shop",
        "info": {"title": "shop", "version": null, "description": "A small shop."},
        "servers": {
            "wss": {"host": "streams.example", "protocol": "wss"},
            "https": {"host": "streams.example", "protocol": "https"},
        },
        "channels": {
            "orders": {
                "address": "/shop/orders",
                "description": "Every order.",
                "servers": [{"$ref": "#/servers/wss"}, {"$ref": "#/servers/https"}],
                "messages": {"message": {"name": "shop.order", "contentType": "application/json"}},
                "bindings": {"ws": {"method": "GET", "query": query, "bindingVersion": "0.1.0"}},
            },
            "parcels": {
                "address": "/shop/out/parcels",
                "servers": [{"$ref": "#/servers/https"}],
                "messages": {"message":
                    {"name": "dev.sluice.message", "contentType": "application/octet-stream"}},
            },
        },
        "operations": {
            "orders.subscribe.websocket": {
                "action": "send", "channel": {"$ref": "#/channels/orders"}, "messages": order,
                "summary": "Clients receive over WebSocket", "bindings": {"ws": {}}, "security": keys,
            },
            "orders.subscribe.sse": {
                "action": "send", "channel": {"$ref": "#/channels/orders"}, "messages": order,
                "summary": "Clients receive server-sent events", "security": keys,
                "bindings": {"http": {"method": "GET", "query": query, "bindingVersion": "0.3.0"}},
            },
            "orders.publish.http": {
                "action": "receive", "channel": {"$ref": "#/channels/orders"}, "messages": order,
                "summary": "Clients publish by POST, answered after the broker's acknowledgement",
                "security": keys,
                "bindings": {"http": {"method": "POST", "bindingVersion": "0.3.0", "query": {"type": "object",
                    "properties": {"key": {"type": "string",
                        "description": "The message's key; or the header Message-Key."}}}}},
            },
            "orders.publish.websocket": {
                "action": "receive", "channel": {"$ref": "#/channels/orders"}, "messages": order,
                "summary": "Clients publish over WebSocket", "bindings": {"ws": {}}, "security": keys,
            },
            "parcels.subscribe.sse": {
                "action": "send", "channel": {"$ref": "#/channels/parcels"},
                "messages": [{"$ref": "#/channels/parcels/messages/message"}],
                "summary": "Clients receive server-sent events",
                "bindings": {"http": {"method": "GET", "bindingVersion": "0.3.0",
                    "query": {"type": "object", "properties": {"format": envelope, "cursor": cursor}}}},
            },
        },
        "components": {"securitySchemes": {
            "apiKey": {"type": "httpApiKey", "in": "header", "name": "X-API-Key",
                "description": "An API key. Browsers' WebSockets offer the subprotocol \
                                sluice.key.<base64url of the key> beside a real one instead."},
            "bearer": {"type": "http", "scheme": "bearer", "description": "The same API key."},
        }},
    });
    assert_eq!(document, expected);
}

/// K77, X14: the directions are those of the API, not of its clients.
#[test]
fn what_clients_subscribe_to_the_api_sends_and_what_they_publish_it_receives() {
    let transports = |subscribe: Value, publish: Value| {
        let mut channel = json!({"name": "c", "server": "log", "address": "c"});
        if subscribe != json!({}) {
            channel["subscribe"] = json!({"transports": subscribe});
        }
        if publish != json!({}) {
            channel["publish"] = json!({"transports": publish, "contentTypes": ["text/plain", "text/csv"]});
        }
        spec(json!({"servers": [{"name": "log", "memory": {}}], "channels": [channel]}))
    };
    let (socket, sse, http) = (json!({"websocket": {}}), json!({"sse": {}}), json!({"http": {}}));
    for (subscribe, publish, operation, action, protocol) in [
        (socket.clone(), json!({}), "c.subscribe.websocket", "send", "ws"),
        (sse, json!({}), "c.subscribe.sse", "send", "http"),
        (json!({}), http, "c.publish.http", "receive", "http"),
        (json!({}), socket, "c.publish.websocket", "receive", "ws"),
    ] {
        let document = made(&transports(subscribe, publish), &[], &["http://a"]);
        let operations = document["operations"].as_object().expect("an object");
        assert_eq!(operations.keys().collect::<Vec<_>>(), [operation]);
        let operation = &operations[operation];
        assert_eq!(operation["action"], action);
        let taken = (action == "receive").then_some("Taken are text/plain, text/csv");
        assert_eq!(operation["description"].as_str(), taken);
        // Where it is not reached there is no server.
        let servers = document["servers"].as_object().expect("an object");
        assert_eq!(servers.keys().collect::<Vec<_>>(), [protocol]);
        assert_eq!(document["channels"]["c"]["bindings"]["ws"].is_object(), protocol == "ws");
        assert_eq!(
            operation["bindings"].as_object().expect("an object").keys().collect::<Vec<_>>(),
            [protocol]
        );
    }
}

#[test]
fn a_key_is_asked_for_only_where_one_is_needed() {
    let security =
        |document: &Value, operation: &str| document["operations"][operation]["security"].is_array();
    let none = made(&shop(), &[], &[]);
    assert!(none.get("components").is_none() && none.get("servers").is_none());
    assert!(!none.to_string().contains("security"));
    let one = made(&shop(), &["parcels"], &[]);
    assert!(security(&one, "parcels.subscribe.sse") && !security(&one, "orders.subscribe.sse"));
    assert_eq!(one["components"]["securitySchemes"].as_object().map(Map::len), Some(2));
}

#[test]
fn the_version_changes_with_the_contract_and_not_with_the_place() {
    let version = |spec: &StreamApiSpec, keyed: &[&str], urls: &[&str]| {
        made(spec, keyed, urls)["info"]["version"].as_str().map(str::to_owned)
    };
    let first = version(&shop(), &[], &[]);
    assert_eq!(version(&shop(), &[], &["https://a", "http://b/c"]), first);
    assert_ne!(version(&shop(), &["orders"], &[]), first);
    let mut moved = shop();
    moved.channels[0].address = "orders.v2".into();
    assert_eq!(version(&moved, &[], &[]), first, "where a channel is at its broker is not for clients");
    moved.channels[0].path = Some("/elsewhere".into());
    assert_ne!(version(&moved, &[], &[]), first);
}

#[test]
fn every_base_url_is_a_server_of_each_protocol() {
    let document = made(&shop(), &[], &["https://a:8443/edge/", "http://[::1]:8080", "https://b"]);
    let expected = json!({
        "wss": {"host": "a:8443", "pathname": "/edge", "protocol": "wss"},
        "https": {"host": "a:8443", "pathname": "/edge", "protocol": "https"},
        "ws": {"host": "[::1]:8080", "protocol": "ws"},
        "http": {"host": "[::1]:8080", "protocol": "http"},
        "wss-2": {"host": "b", "protocol": "wss"},
        "https-2": {"host": "b", "protocol": "https"},
    });
    assert_eq!(document["servers"], expected);
    let parcels = &document["channels"]["parcels"]["servers"];
    let over_http = ["https", "http", "https-2"].map(|name| json!({"$ref": format!("#/servers/{name}")}));
    assert_eq!(*parcels, json!(over_http));
    let long = format!("https://{}", "a".repeat(MAX_HOST + 1));
    for wrong in [
        "",
        "streams.example",
        "ftp://a",
        "https://",
        "https:///a",
        "https://a b",
        "https://user@a",
        "https://{a}",
        "https://a/{b}",
        "https://a/?b",
        long.as_str(),
    ] {
        assert!(wrong.parse::<BaseUrl>().is_err(), "{wrong}");
    }
    assert_eq!(BaseUrl::new("http", "a/b"), None);
}

#[test]
fn a_deprecated_api_says_so() {
    let mut api = shop();
    assert!(made(&api, &[], &[])["info"].get("x-lifecycle").is_none());
    api.lifecycle = Lifecycle {
        state: LifecycleState::Deprecated,
        deprecated_at: None,
        sunset_at: Some("2027-01-31T00:00:00Z".into()),
        link: Some("https://shop.example/next".into()),
    };
    let info = made(&api, &[], &[])["info"].take();
    assert_eq!(info["tags"], json!([{"name": "deprecated"}]));
    assert_eq!(info["externalDocs"], json!({"url": "https://shop.example/next"}));
    assert_eq!(info["x-lifecycle"]["sunsetAt"], "2027-01-31T00:00:00Z");
    api.lifecycle.link = Some("https://shop.example/{next}".into());
    assert!(made(&api, &[], &[])["info"].get("externalDocs").is_none());
}

#[test]
fn a_content_type_that_all_channels_share_is_the_default() {
    let mut api = shop();
    assert!(made(&api, &[], &[]).get("defaultContentType").is_none());
    api.channels[1].message.content_type = api.channels[0].message.content_type.clone();
    assert_eq!(made(&api, &[], &[])["defaultContentType"], "application/json");
}

/// A schema's references are resolved from the root of the document that it stands in.
#[test]
fn a_schema_is_told_with_references_that_lead_to_itself() {
    let payload = json!({
        "type": "object", "required": ["line"],
        "properties": {
            "line": {"$ref": "#/$defs/line"}, "more": {"$ref": "#"}, "named": {"$ref": "#line"},
            "kind": {"const": {"$ref": "#/$defs/line"}},
        },
        "$defs": {"line": {"type": "string"}},
    });
    let mut api = shop();
    api.channels[0].message.payload = payload.as_object().cloned();
    let told = made(&api, &[], &[]);
    let message = &told["channels"]["orders"]["messages"]["message"];
    assert_eq!(message["payload"]["schemaFormat"], "application/schema+json;version=draft-2020-12");
    let properties = &message["payload"]["schema"]["properties"];
    let reference = |name: &str| properties[name]["$ref"].as_str().expect("a reference").to_owned();
    for (name, leads_to) in
        [("line", json!({"type": "string"})), ("more", message["payload"]["schema"].clone())]
    {
        let pointer = reference(name);
        assert_eq!(told.pointer(pointer.trim_start_matches('#')), Some(&leads_to), "{pointer}");
    }
    assert_eq!(reference("named"), "#line");
    assert_eq!(properties["kind"]["const"]["$ref"], "#/$defs/line");
}
