//! Pages of an answer's input items.

use crate::error::ApiError;
use crate::wire::within;
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Pages of an answer's input.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputItemsQuery {
    pub after: Option<String>,
    pub limit: Option<usize>,
    pub order: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ResponseItemList)]
pub struct InputItems {
    /// `list`
    pub object: &'static str,
    #[schema(value_type = Vec<Object>)]
    pub data: Vec<Value>,
    pub first_id: Option<String>,
    pub last_id: Option<String>,
    pub has_more: bool,
}

impl InputItemsQuery {
    /// A page of `items`, which are oldest first; newest first unless `order=asc`.
    pub fn page(self, mut items: Vec<Value>) -> Result<InputItems, ApiError> {
        let limit = self.limit.unwrap_or(limits::INPUT_ITEMS_LISTED_DEFAULT);
        let limit = within("limit", limit, 1, limits::INPUT_ITEMS_LISTED_MAX)?;
        match self.order.as_deref() {
            None | Some("desc") => items.reverse(),
            Some("asc") => {}
            Some(_) => {
                return Err(ApiError::field("order", "invalid_value", "order: must be asc or desc"));
            }
        }
        let from = match self.after {
            None => 0,
            Some(after) => {
                let place = items.iter().position(|item| item["id"] == after);
                let message = "after: no item of this answer's input is called so";
                1 + place.ok_or_else(|| ApiError::field("after", "invalid_value", message))?
            }
        };
        let has_more = items.len() > from + limit;
        let data: Vec<Value> = items.into_iter().skip(from).take(limit).collect();
        let id = |item: Option<&Value>| item.and_then(|item| item["id"].as_str()).map(str::to_owned);
        Ok(InputItems {
            object: "list",
            first_id: id(data.first()),
            last_id: id(data.last()),
            data,
            has_more,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pages_of_items_follow_each_other_in_both_orders() {
        let items: Vec<Value> = (0..5).map(|i| json!({"id": i.to_string()})).collect();
        let page = |after: Option<&str>, order: Option<&str>| {
            let (after, order) = (after.map(str::to_owned), order.map(str::to_owned));
            InputItemsQuery { after, limit: Some(2), order }.page(items.clone())
        };
        let first = page(None, None).unwrap();
        assert_eq!(
            (first.first_id.as_deref(), first.last_id.as_deref(), first.has_more),
            (Some("4"), Some("3"), true)
        );
        assert!(!page(Some("2"), None).unwrap().has_more);
        assert_eq!(page(Some("0"), Some("asc")).unwrap().first_id.as_deref(), Some("1"));
        assert!(page(Some("9"), None).is_err() && page(None, Some("up")).is_err());
    }
}
