//! Calls that a consumer sends twice and means once.
//!
//! Invariant: of all calls with one idempotency key, one at most reaches a vendor and is paid for.

use anyhow::Result;
use keyhaven_tests::consumer_call::CALL_ID_HEADER;
use keyhaven_tests::consumer_call::Call;
use keyhaven_tests::consumer_call::refused;
use keyhaven_tests::form::Form;
use keyhaven_tests::house::House;
use keyhaven_tests::raw_client::RawClient;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivered_call_is_not_made_again_and_its_outcome_is_told() -> Result<()> {
    let house = House::build().await?;
    for form in [Form::OpenAi, Form::Anthropic] {
        let case = format!("{form:?}");
        let call = Call::new(form, &house.api_key).case(&case).with("idempotency-key", &case);

        let first = call.make(&house).await?;
        assert_eq!(first.head.status(), 200, "{}", String::from_utf8_lossy(&first.body));
        let again = call.make(&house).await?;

        let why = refused(&house, &again, form.errors(), 409, "KH-E2054")?;
        let id = first.head.first(CALL_ID_HEADER).unwrap_or_default();
        assert!(why.contains(&id) && why.contains("answered with 200 and cost $"), "{why}");
        assert_eq!(again.head.first("x-should-retry").as_deref(), Some("false"));
        let exchanges = house.upstream.exchanges_of(&case);
        assert_eq!(exchanges.len(), 1);
        assert_eq!(exchanges[0].request.head.first("idempotency-key"), None);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_under_way_is_not_made_again_and_one_that_nobody_served_is() -> Result<()> {
    let house = House::build().await?;
    let call = Call::new(Form::OpenAi, &house.api_key).streamed(Form::OpenAi).with("idempotency-key", "mine");
    let under_way = call.clone().case("under-way").play("step");
    let mut client = RawClient::connect(house.hub.consumer).await?;
    client.send(&under_way.bytes()).await?;
    house.upstream.steps().release("under-way", 1);
    client.until(|seen| !seen.messages().is_empty()).await?;

    let again = under_way.make(&house).await?;
    let why = refused(&house, &again, Form::OpenAi.errors(), 409, "KH-E2054")?;
    assert!(why.contains("is under way"), "{why}");

    // Refused before any agent had it, a call leaves its key free.
    let unserved = Call::new(Form::OpenAi, &house.api_key).with("idempotency-key", "later");
    let missing = unserved.clone().body(r#"{"model":"gpt-4o","messages":[],"n":0.5}"#).make(&house).await?;
    assert_eq!(missing.head.status(), 400, "{}", String::from_utf8_lossy(&missing.body));
    assert_eq!(unserved.make(&house).await?.head.status(), 200);
    let long = Call::new(Form::OpenAi, &house.api_key).with("idempotency-key", &"k".repeat(256)).make(&house).await?;
    refused(&house, &long, Form::OpenAi.errors(), 400, "KH-E2006")?;
    Ok(())
}
