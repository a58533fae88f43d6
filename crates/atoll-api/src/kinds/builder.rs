//! Small const functions by which the table reads like a table.

use std::borrow::Cow;
use std::mem::{forget, replace};

use super::{Hooks, ResourceInfo, Storage, Subresource, UpdateHooks, Verbs, Words};
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
            group: Cow::Borrowed($group),
            version: Cow::Borrowed($version),
            resource: Cow::Borrowed($resource),
            kind: Cow::Borrowed($kind),
            list_kind: Cow::Borrowed(concat!($kind, "List")),
            singular: Cow::Borrowed($singular),
            short_names: Words::Fixed(&[]),
            categories: Words::Fixed(&[]),
            scope: Scope::$scope,
            verbs: EVERY_VERB,
            subresources: Cow::Borrowed(&[]),
            storage: Storage {
                group: Cow::Borrowed($group),
                version: Cow::Borrowed($version),
                resource: Cow::Borrowed($resource),
                kind: Cow::Borrowed($kind),
                to_storage: None,
                from_storage: None,
            },
            definition: Cow::Borrowed(concat!($package, ".", $version, ".", $kind)),
            name_rule: names::subdomain_rule,
            served: false,
            deprecation: None,
            virtual_only: false,
            hooks: Hooks::NONE,
            custom: None,
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
    let kind = Cow::Borrowed(kind);
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

/// Sets a field; the value before is always a fixed one, so there is nothing to free (and a
/// constant function may free nothing).
const fn set<T>(field: &mut T, value: T) {
    forget(replace(field, value));
}

impl ResourceInfo {
    pub(super) const fn short(mut self, names: &'static [&'static str]) -> Self {
        set(&mut self.short_names, Words::Fixed(names));
        self
    }

    pub(super) const fn categories(mut self, names: &'static [&'static str]) -> Self {
        set(&mut self.categories, Words::Fixed(names));
        self
    }

    pub(super) const fn verbs(mut self, verbs: Verbs) -> Self {
        self.verbs = verbs;
        self
    }

    pub(super) const fn parts(mut self, parts: &'static [Subresource]) -> Self {
        set(&mut self.subresources, Cow::Borrowed(parts));
        self
    }

    pub(super) const fn hooks(mut self, hooks: Hooks) -> Self {
        self.hooks = hooks;
        self
    }

    pub(super) const fn stored(mut self, storage: Storage) -> Self {
        set(&mut self.storage, storage);
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
        set(&mut self.deprecation, Some(Cow::Borrowed(warning)));
        self
    }
}
