//! The models of offers: each distinct list is read once and held once, whoever offers it.
//!
//! Invariant: equal lists are one list, and equal models of different lists one model, for
//! as long as somebody offers them.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::HashSet;
use std::hash::Hash;
use std::hash::Hasher;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::Digest;
use sha2::Sha256;

/// Models of one offer; more are ignored.
const MODELS_MAX: usize = 1024;

/// Bytes of a model's id.
const MODEL_ID_BYTES_MAX: usize = 256;

/// What is held may grow to this before it is looked through for what nobody offers any more.
const SWEEP_FROM: usize = 4096;

/// One model of an offer: its id, and the vendor's own object that describes it.
#[derive(Debug)]
pub struct Offered {
    /// What consumers name.
    pub id: Arc<str>,
    /// The model behind a deployment, as its owner states it.
    pub behind: Option<Arc<str>>,
    /// The vendor's object, as the vendor wrote it.
    pub object: Box<RawValue>,
}

/// The models of an offer, in the vendor's order, each id once.
#[derive(Debug)]
pub struct ModelList {
    /// No other list has the same number.
    pub(super) number: u64,
    models: Box<[Arc<Offered>]>,
}

impl Deref for ModelList {
    type Target = [Arc<Offered>];

    fn deref(&self) -> &Self::Target {
        &self.models
    }
}

/// Every list that somebody offers.
#[derive(Default)]
pub(super) struct ModelLists {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    lists: HashMap<[u8; 32], Arc<ModelList>>,
    models: HashSet<ByObject>,
    last_number: u64,
    sweep_at: usize,
}

/// A model that is found by its object's text.
struct ByObject(Arc<Offered>);

impl ModelLists {
    /// The list that this JSON array says. What is no object with an id is left out: an agent
    /// may say anything.
    ///
    /// # Errors
    /// When it is no array.
    pub(super) fn read(&self, array: &RawValue) -> Result<Arc<ModelList>, serde_json::Error> {
        let digest: [u8; 32] = Sha256::digest(array.get().as_bytes()).into();
        if let Some(list) = self.lock().lists.get(&digest) {
            return Ok(list.clone());
        }
        let objects: Vec<&RawValue> = serde_json::from_str(array.get())?;
        let mut ids = HashSet::new();
        let named = objects.into_iter().take(MODELS_MAX).filter_map(|object| Some((Named::of(object)?, object)));
        let named: Vec<(Named, &RawValue)> = named.filter(|(named, _)| ids.insert(named.id.clone())).collect();
        Ok(self.lock().hold(digest, named))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn hold(&mut self, digest: [u8; 32], named: Vec<(Named, &RawValue)>) -> Arc<ModelList> {
        if let Some(list) = self.lists.get(&digest) {
            return list.clone();
        }
        self.sweep();
        let models = named.into_iter().map(|(named, object)| self.model(named, object)).collect();
        self.last_number += 1;
        let list = Arc::new(ModelList { number: self.last_number, models });
        self.lists.insert(digest, list.clone());
        list
    }

    fn model(&mut self, named: Named, object: &RawValue) -> Arc<Offered> {
        if let Some(ByObject(held)) = self.models.get(object.get()) {
            return held.clone();
        }
        let model =
            Arc::new(Offered { id: named.id.into(), behind: named.model.map(Arc::from), object: object.to_owned() });
        self.models.insert(ByObject(model.clone()));
        model
    }

    /// Forgets what nobody offers any more, whenever what is held has doubled.
    fn sweep(&mut self) {
        if self.lists.len() + self.models.len() < self.sweep_at.max(SWEEP_FROM) {
            return;
        }
        self.lists.retain(|_, list| Arc::strong_count(list) > 1);
        self.models.retain(|ByObject(model)| Arc::strong_count(model) > 1);
        self.sweep_at = 2 * (self.lists.len() + self.models.len());
    }
}

/// What is read of a model's object.
#[derive(Deserialize)]
struct Named {
    id: String,
    #[serde(default)]
    model: Option<String>,
}

impl Named {
    fn of(object: &RawValue) -> Option<Self> {
        let named: Self = serde_json::from_str(object.get()).ok()?;
        let fits = |name: &str| !name.is_empty() && name.len() <= MODEL_ID_BYTES_MAX;
        let all_fit = fits(&named.id) && named.model.as_deref().is_none_or(fits);
        (all_fit && object.get().starts_with('{')).then_some(named)
    }
}

impl Borrow<str> for ByObject {
    fn borrow(&self) -> &str {
        self.0.object.get()
    }
}

impl Hash for ByObject {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.object.get().hash(state);
    }
}

impl PartialEq for ByObject {
    fn eq(&self, other: &Self) -> bool {
        self.0.object.get() == other.0.object.get()
    }
}

impl Eq for ByObject {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lists_and_equal_models_are_held_once() {
        let lists = ModelLists::default();
        let first = read(&lists, r#"[{"id":"a"},{"id":"b"}]"#);
        let same = read(&lists, r#"[{"id":"a"},{"id":"b"}]"#);
        let other = read(&lists, r#"[{"id":"c"},{"id":"b"}]"#);

        assert!(Arc::ptr_eq(&first, &same));
        assert!(first.number != other.number);
        assert!(Arc::ptr_eq(&first[1], &other[1]));
    }

    #[test]
    fn what_is_no_model_is_left_out_and_an_id_comes_once() {
        let lists = ModelLists::default();
        let list = read(
            &lists,
            r#"[{"id":"gpt-9","object":"model"},{"object":"model"},7,{"id":""},["id"],{"id":"gpt-9","created":1}]"#,
        );

        let objects: Vec<&str> = list.iter().map(|model| model.object.get()).collect();
        assert_eq!(objects, [r#"{"id":"gpt-9","object":"model"}"#]);
        assert!(lists.read(&RawValue::from_string("7".to_owned()).unwrap()).is_err());
    }

    #[test]
    fn the_model_behind_a_deployment_is_what_its_owner_states() {
        let lists = ModelLists::default();
        let list = read(
            &lists,
            r#"[{"id":"prod","model":"gpt-4o"},{"id":"gpt-4o"},{"id":"x","model":""},{"id":"y","model":7}]"#,
        );

        let behind: Vec<_> = list.iter().map(|model| (&*model.id, model.behind.as_deref())).collect();
        assert_eq!(behind, [("prod", Some("gpt-4o")), ("gpt-4o", None)]);
    }

    #[test]
    fn what_nobody_offers_any_more_is_forgotten() {
        let lists = ModelLists::default();
        let kept = read(&lists, r#"[{"id":"kept"}]"#);
        for number in 0..3 * SWEEP_FROM {
            read(&lists, &format!(r#"[{{"id":"m{number}"}}]"#));
        }

        let held = lists.lock();
        assert!(held.lists.len() <= SWEEP_FROM && held.models.len() <= SWEEP_FROM);
        assert!(held.lists.values().any(|list| Arc::ptr_eq(list, &kept)));
    }

    fn read(lists: &ModelLists, json: &str) -> Arc<ModelList> {
        lists.read(&RawValue::from_string(json.to_owned()).unwrap()).unwrap()
    }
}
