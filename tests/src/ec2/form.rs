//! What the EC2 Query protocol sends: a form whose lists are numbered names, and errors as XML.

use std::collections::BTreeMap;

/// The names and values of one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Form(BTreeMap<String, String>);

/// What is answered: an HTTP status and XML.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) xml: String,
}

impl Form {
    pub(super) fn parse(body: &[u8]) -> Self {
        Self(form_urlencoded::parse(body).into_owned().collect())
    }

    pub(super) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// The values of `Prefix.1`, `Prefix.2`, …
    pub(super) fn list(&self, prefix: &str) -> Vec<&str> {
        (1..).map_while(|n| self.0.get(&format!("{prefix}.{n}"))).map(String::as_str).collect()
    }

    /// The forms below `Prefix.1.`, `Prefix.2.`, …
    pub(super) fn forms(&self, prefix: &str) -> Vec<Self> {
        let below = |n: u32| {
            let start = format!("{prefix}.{n}.");
            let those = self
                .0
                .iter()
                .filter_map(|(name, value)| Some((name.strip_prefix(&start)?.to_owned(), value.clone())));
            Self(those.collect())
        };
        (1..=1000).map(below).take_while(|form| !form.0.is_empty()).collect()
    }

    /// The tags that a launch asks for on a kind of resource.
    pub(super) fn tags(&self, kind: &str) -> Vec<(String, String)> {
        let specifications = self.forms("TagSpecification");
        let wanted = specifications.iter().filter(|one| one.get("ResourceType") == kind);
        let tags = wanted.flat_map(|one| one.forms("Tag"));
        tags.map(|tag| (tag.get("Key").to_owned(), tag.get("Value").to_owned())).collect()
    }
}

impl Answer {
    pub(super) fn ok(action: &str, inner: &str) -> Self {
        let xml = format!(
            "<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>{inner}</{action}Response>"
        );
        Self { status: 200, xml }
    }

    pub(super) fn error(status: u16, code: &str, message: &str) -> Self {
        let xml = format!(
            "<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors><RequestID>r</RequestID></Response>"
        );
        Self { status, xml }
    }

    pub(super) fn not_found(kind: &str, id: &str) -> Self {
        Self::error(400, &format!("Invalid{kind}.NotFound"), &format!("The ID '{id}' does not exist"))
    }
}
