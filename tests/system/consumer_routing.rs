//! Which vendor a call goes to, and which models are shown.
//!
//! Invariant: a call that could mean several vendors reaches none of them.

use anyhow::Context;
use anyhow::Result;
use keyhaven_tests::consumer_call::Call;
use keyhaven_tests::consumer_call::Calm;
use keyhaven_tests::consumer_call::calls_at_vendors;
use keyhaven_tests::consumer_call::has_call_id;
use keyhaven_tests::consumer_call::refused;
use keyhaven_tests::consumer_call::tells_nothing;
use keyhaven_tests::form::Errors;
use keyhaven_tests::form::Form;
use keyhaven_tests::house::House;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_named_vendor_path_headers_and_model_decide() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    let rows = [
        ("/v1/chat/completions", Form::OpenAi, "gpt-4o", "", "api.openai.com"),
        ("/v1/chat/completions", Form::OpenAi, "o4-mini", "", "api.openai.com"),
        ("/v1/chat/completions", Form::DeepSeek, "deepseek-chat", "", "api.deepseek.com"),
        ("/chat/completions", Form::OpenAi, "gpt-4o-mini", "", "api.openai.com"),
        ("/chat/completions", Form::DeepSeek, "deepseek-reasoner", "", "api.deepseek.com"),
        ("/v1/chat/completions", Form::AzureV1, "our-deployment", "api-key", "kit.openai.azure.com"),
        ("/openai/v1/chat/completions", Form::AzureV1, "gpt-4o", "", "kit.openai.azure.com"),
        (
            "/openai/deployments/mine/chat/completions?api-version=2024-10-21",
            Form::AzureDeployment,
            "x",
            "",
            "kit.openai.azure.com",
        ),
        ("/v1/messages", Form::Anthropic, "claude-haiku-4-5-20251001", "", "api.anthropic.com"),
        ("/v1/v1/messages", Form::Anthropic, "claude-haiku-4-5-20251001", "", "api.anthropic.com"),
        ("/anthropic/v1/messages", Form::DeepSeekMessages, "deepseek-chat", "", "api.deepseek.com"),
        ("/via/openai/chat/completions", Form::OpenAi, "gpt-4o", "", "api.openai.com"),
        ("/via/azure/KIT/openai/v1/chat/completions", Form::AzureV1, "gpt-4o", "", "kit.openai.azure.com"),
    ];

    for (number, (target, form, model, header, host)) in rows.into_iter().enumerate() {
        let case = format!("route-{number}");
        let bytes = String::from_utf8(form.body(false))?.replace(form.model(), model);
        let mut call = Call::new(form, &house.api_key).target(target).case(&case).body(bytes);
        if !header.is_empty() {
            call = call.without("authorization").with(header, &house.api_key);
        }
        let answer = call.make(&house).await?;
        assert_eq!(answer.head.status(), 200, "{target} {model}: {}", String::from_utf8_lossy(&answer.body));
        assert_eq!(house.upstream.exchange_of(&case).await?.host, host, "{target} {model}");
    }

    let before = calls_at_vendors(&house);
    for (target, model) in [("/v1/chat/completions", "mystery-1"), ("/chat/completions", "claude-haiku-4-5-20251001")] {
        let bytes = format!(r#"{{"model":"{model}","messages":[]}}"#);
        let answer = Call::new(Form::OpenAi, &house.api_key).target(target).body(bytes).make(&house).await?;
        let message = refused(&house, &answer, Errors::OpenAi, 404, "KH-E2005")?;
        assert!(message.contains("/via/openai") && message.contains("/via/azure/<resource>"), "{message}");
    }
    let call = Call::new(Form::AzureV1, &house.api_key).target("/via/azure/other/openai/v1/chat/completions");
    refused(&house, &call.make(&house).await?, Errors::Azure, 404, "KH-E2020")?;
    assert_eq!(calls_at_vendors(&house), before);
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_are_listed_and_read_in_the_shape_that_was_asked_for() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    let key = house.api_key.clone();
    let get = |target: &str, header: &str| {
        let call = Call::new(Form::OpenAi, &key).method("GET").target(target).body("");
        if header.is_empty() { call } else { call.with(header, if header == "api-key" { &key } else { "2023-06-01" }) }
    };
    let lists = [
        ("/v1/models", "", 16, "gpt-4o"),
        ("/models", "", 16, "deepseek-chat"),
        ("/v1/models", "anthropic-version", 3, "claude-haiku-4-5-20251001"),
        ("/v1/models", "api-key", 0, ""),
        ("/openai/v1/models", "", 0, ""),
        ("/via/openai/v1/models", "", 13, "o4-mini"),
        ("/via/openai/models", "", 13, "gpt-4o"),
        ("/via/azure/kit/openai/v1/models", "", 0, ""),
        ("/via/anthropic/v1/models", "", 3, "claude-haiku-4-5-20251001"),
        ("/via/deepseek/models", "", 3, "deepseek-chat"),
        ("/via/deepseek/v1/models", "", 3, "deepseek-reasoner"),
    ];
    for (target, header, count, one) in lists {
        let answer = get(target, header).make(&house).await?;
        assert_eq!(answer.head.status(), 200, "{target} {header}");
        assert_eq!(answer.head.all("content-type"), ["application/json"]);
        has_call_id(&answer.head)?;
        tells_nothing(&house, &answer)?;
        let json: Value = serde_json::from_slice(&answer.body)?;
        let ids: Vec<&str> =
            json["data"].as_array().into_iter().flatten().filter_map(|one| one["id"].as_str()).collect();
        assert_eq!(ids.len(), count, "{target} {header}: {ids:?}");
        assert!(one.is_empty() || ids.contains(&one), "{target} {header}: {ids:?}");
        if header == "anthropic-version" || target.contains("anthropic") {
            assert_eq!((&json["has_more"], &json["first_id"]), (&Value::Bool(false), &Value::from(ids[0])));
        } else {
            assert_eq!(json["object"], "list");
        }
    }

    let ones = [
        ("/v1/models/gpt-4o", "", "gpt-4o", "object"),
        ("/v1/models/claude-haiku-4-5-20251001", "anthropic-version", "claude-haiku-4-5-20251001", "type"),
        ("/via/openai/v1/models/gpt-4o-mini", "", "gpt-4o-mini", "object"),
        ("/via/anthropic/v1/models/claude-haiku-4-5-20251001", "", "claude-haiku-4-5-20251001", "type"),
        ("/via/deepseek/models/deepseek-chat", "", "deepseek-chat", "object"),
        ("/models/deepseek-chat", "", "deepseek-chat", "object"),
    ];
    for (target, header, id, kind) in ones {
        let answer = get(target, header).make(&house).await?;
        assert_eq!(answer.head.status(), 200, "{target} {header}");
        let json: Value = serde_json::from_slice(&answer.body)?;
        assert_eq!((&json["id"], &json[kind]), (&Value::from(id), &Value::from("model")), "{target}");
    }

    for (target, header, errors) in [
        ("/v1/models/gpt-unknown", "", Errors::OpenAi),
        ("/via/openai/v1/models/deepseek-chat", "", Errors::OpenAi),
        ("/via/deepseek/models/gpt-4o", "", Errors::OpenAi),
        ("/v1/models/claude-unknown", "anthropic-version", Errors::Anthropic),
        ("/via/anthropic/v1/models/gpt-4o", "", Errors::Anthropic),
    ] {
        let answer = get(target, header).make(&house).await?;
        refused(&house, &answer, errors, 404, "KH-E2020").with_context(|| format!("{target} {header}"))?;
    }
    let answer = get("/v1/models", "").without("authorization").make(&house).await?;
    refused(&house, &answer, Errors::OpenAi, 401, "KH-E2001")?;
    assert_eq!(calls_at_vendors(&house), 0);
    calm.holds(&house).await
}
