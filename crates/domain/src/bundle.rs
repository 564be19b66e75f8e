//! What workspace-init is given for a workspace: the contract between tenant-svc and the program that starts
//! every runtime. JSON over HTTP; fields are only ever added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Asks for the bundle, with the bootstrap token or the credential as bearer token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BundleRequest {
    /// Chosen once by init and kept until it has its credential: with the same token and nonce it gets the
    /// same credential, whoever else has the token gets none. Only with a bootstrap token.
    #[serde(default)]
    pub nonce: Option<String>,
}

/// Everything that a workspace needs before its runtime starts.
#[derive(Clone, Serialize, Deserialize)]
pub struct Bundle {
    /// The credential of this generation.
    pub auth_token: String,
    /// Files to write.
    pub files: Vec<BundleFile>,
    /// The runtime's environment, secrets included.
    pub env: BTreeMap<String, String>,
}

/// A file to write.
#[derive(Clone, Serialize, Deserialize)]
pub struct BundleFile {
    /// Absolute, below the home with a leading `~/`, or relative to `/configs`.
    pub path: String,
    /// In base64.
    pub content: String,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle")
            .field("files", &self.files.iter().map(|file| &file.path).collect::<Vec<_>>())
            .field("env", &self.env.keys())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_reach_debug_output() {
        let file = BundleFile { path: "~/key".to_owned(), content: "c2VjcmV0".to_owned() };
        let env = [("TOKEN".to_owned(), "hidden".to_owned())].into();
        let bundle = Bundle { auth_token: "credential".to_owned(), files: vec![file], env };
        assert_eq!(format!("{bundle:?}"), r#"Bundle { files: ["~/key"], env: ["TOKEN"], .. }"#);
    }
}
