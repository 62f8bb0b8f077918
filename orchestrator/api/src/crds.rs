//! The CustomResourceDefinitions, as they are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

/// Formats of numbers that an API server knows. Others only make it warn.
const KNOWN_NUMBER_FORMATS: &[&str] = &["int32", "int64", "float", "double"];

/// Every CustomResourceDefinition of the group, in the order in which they are best read.
pub fn crds() -> Vec<CustomResourceDefinition> {
    [
        crate::Vault::crd(),
        crate::ProtectedDatabase::crd(),
        crate::StandbyDatabase::crd(),
        crate::RecoveryPlan::crd(),
        crate::Failover::crd(),
        crate::Drill::crd(),
    ]
    .into_iter()
    .map(finish)
    .collect()
}

/// Labels the definition and drops number formats that only Rust knows (`uint32`, ...).
fn finish(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    crd.metadata.labels.get_or_insert_default().insert("app.kubernetes.io/part-of".to_owned(), "holdfast".to_owned());
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut();
        if let Some(root) = schema.and_then(|s| s.open_api_v3_schema.as_mut()) {
            drop_unknown_formats(root);
        }
    }
    crd
}

fn drop_unknown_formats(schema: &mut JSONSchemaProps) {
    let number = matches!(schema.type_.as_deref(), Some("integer" | "number"));
    let known = |f: &String| KNOWN_NUMBER_FORMATS.contains(&f.as_str());
    if number && !schema.format.as_ref().is_some_and(known) {
        schema.format = None;
    }
    for property in schema.properties.iter_mut().flat_map(|p| p.values_mut()) {
        drop_unknown_formats(property);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => drop_unknown_formats(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => {
            items.iter_mut().for_each(drop_unknown_formats);
        }
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        drop_unknown_formats(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything about a definition that a cluster would only tell at installation or never.
    #[test]
    fn definitions_are_as_the_design_says() {
        for crd in crds() {
            let name = crd.metadata.name.clone().unwrap_or_default();
            assert_eq!(crd.spec.group, crate::GROUP, "{name}");
            assert_eq!(crd.spec.scope, "Namespaced", "{name}");
            assert_eq!(crd.spec.names.categories, Some(vec!["holdfast".to_owned()]), "{name}");
            let version = &crd.spec.versions[0];
            assert_eq!(version.name, crate::VERSION, "{name}");
            assert!(version.subresources.as_ref().is_some_and(|s| s.status.is_some()), "{name}");
            let columns = version.additional_printer_columns.clone().unwrap_or_default();
            assert!(!columns.is_empty(), "{name} has no printer columns");
            for column in columns {
                let by_index = column.json_path.contains("conditions[") && !column.json_path.contains("@.type");
                assert!(!by_index, "{name}: {} reads a condition by its index", column.json_path);
            }
            let json = serde_json::to_string(&crd).unwrap();
            assert!(!json.contains("\"uint"), "{name} has a format that API servers do not know");
        }
    }

    #[test]
    fn every_field_is_documented() {
        fn check(path: &str, schema: &JSONSchemaProps, missing: &mut Vec<String>) {
            for (name, property) in schema.properties.iter().flatten() {
                let path = format!("{path}.{name}");
                if property.description.is_none() {
                    missing.push(path.clone());
                }
                check(&path, property, missing);
            }
            if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
                check(&format!("{path}[]"), item, missing);
            }
        }
        let mut missing = Vec::new();
        for crd in crds() {
            let schema = crd.spec.versions[0].schema.clone().and_then(|s| s.open_api_v3_schema);
            let properties = schema.and_then(|s| s.properties).unwrap_or_default();
            for part in ["spec", "status"] {
                check(&format!("{}.{part}", crd.spec.names.kind), &properties[part], &mut missing);
            }
        }
        assert!(missing.is_empty(), "without a description: {missing:#?}");
    }
}
