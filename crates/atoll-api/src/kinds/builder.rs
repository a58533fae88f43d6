//! Small const functions by which the table reads like a table.

use super::{Hooks, ResourceInfo, Storage, Subresource, UpdateHooks, Verbs};
use crate::names;

pub(super) const EVERY_VERB: Verbs =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
pub(super) const CREATE: Verbs = &["create"];
pub(super) const GET: Verbs = &["get"];
pub(super) const UPDATE: Verbs = &["update"];
pub(super) const CREATE_GET: Verbs = &["create", "get"];
pub(super) const GET_PATCH_UPDATE: Verbs = &["get", "patch", "update"];
pub(super) const PROXY: Verbs = &["create", "delete", "get", "patch", "update"];

/// `row!(scope, package of the definition, group, version, resource, kind, singular)`
macro_rules! row {
    ($scope:ident, $package:literal, $group:literal, $version:literal,
     $resource:literal, $kind:literal, $singular:literal) => {
        ResourceInfo {
            group: $group,
            version: $version,
            resource: $resource,
            kind: $kind,
            list_kind: concat!($kind, "List"),
            singular: $singular,
            short_names: &[],
            categories: &[],
            scope: Scope::$scope,
            verbs: EVERY_VERB,
            subresources: &[],
            storage: Storage {
                group: $group,
                version: $version,
                resource: $resource,
                kind: $kind,
                to_storage: None,
                from_storage: None,
            },
            definition: concat!($package, ".", $version, ".", $kind),
            name_rule: names::subdomain_rule,
            served: false,
            deprecation: None,
            virtual_only: false,
            hooks: Hooks::NONE,
        }
    };
}
pub(super) use row;

pub(super) const SCALE: Subresource =
    foreign("scale", "Scale", "autoscaling", "v1", GET_PATCH_UPDATE);

pub(super) const fn status(kind: &'static str) -> Subresource {
    part("status", kind, GET_PATCH_UPDATE)
}

pub(super) const fn part(name: &'static str, kind: &'static str, verbs: Verbs) -> Subresource {
    foreign(name, kind, "", "", verbs)
}

/// A subresource whose kind is of another group than its resource.
pub(super) const fn foreign(
    name: &'static str,
    kind: &'static str,
    group: &'static str,
    version: &'static str,
    verbs: Verbs,
) -> Subresource {
    Subresource { name, kind, group, version, verbs, served: false, update: None }
}

impl Subresource {
    pub(super) const fn served(mut self) -> Self {
        self.served = true;
        self
    }

    pub(super) const fn updates(mut self, hooks: UpdateHooks) -> Self {
        self.update = Some(hooks);
        self
    }
}

impl ResourceInfo {
    pub(super) const fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short_names = names;
        self
    }

    pub(super) const fn categories(mut self, names: &'static [&'static str]) -> Self {
        self.categories = names;
        self
    }

    pub(super) const fn verbs(mut self, verbs: Verbs) -> Self {
        self.verbs = verbs;
        self
    }

    pub(super) const fn parts(mut self, parts: &'static [Subresource]) -> Self {
        self.subresources = parts;
        self
    }

    pub(super) const fn hooks(mut self, hooks: Hooks) -> Self {
        self.hooks = hooks;
        self
    }

    pub(super) const fn stored(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    pub(super) const fn names(mut self, rule: names::Rule) -> Self {
        self.name_rule = rule;
        self
    }

    pub(super) const fn virtual_only(mut self) -> Self {
        self.verbs = CREATE;
        self.name_rule = names::any_rule;
        self.virtual_only = true;
        self
    }

    pub(super) const fn served(mut self) -> Self {
        self.served = true;
        self
    }

    pub(super) const fn deprecated(mut self, warning: &'static str) -> Self {
        self.deprecation = Some(warning);
        self
    }
}
