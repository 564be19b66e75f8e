//! A moto server as a process: an EC2 that nobody here wrote.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::form::Answer;
use crate::process::Process;

/// A running server. Dropping this kills it.
#[derive(Debug)]
pub struct Moto {
    process: Process,
    _folder: tempfile::TempDir,
    url: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Moto {
    /// Starts one on a free port, with images and types validated.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let tools = std::env::var("MOLECULE_PYTHON_TOOLS").context(
            "MOLECULE_PYTHON_TOOLS is not set: run the tests through `cargo xtask test`, which installs moto",
        )?;
        let port = crate::ports::free()?;
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(format!("{tools}/moto_server"));
        command
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .env("MOTO_ENABLE_AMI_VALIDATION", "true")
            .env("MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION", "true");
        let process = Process::start(&mut command, &folder.path().join("moto.log"))?;
        let mut moto = Self {
            process,
            _folder: folder,
            url: format!("http://127.0.0.1:{port}/"),
            client: Client::builder(TokioExecutor::new()).build_http(),
        };
        let began = Instant::now();
        while moto
            .forward(b"Action=DescribeRegions".to_vec(), super::front::AUTHORIZATION, &[])
            .await
            .is_err()
        {
            moto.process.lives()?;
            if began.elapsed() > Duration::from_secs(30) {
                bail!("moto does not answer");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(moto)
    }

    /// Makes a call, and brings its answer back.
    pub(super) async fn forward(
        &self,
        body: Vec<u8>,
        authorization: &str,
        headers: &[(&str, String)],
    ) -> anyhow::Result<Answer> {
        let mut request = hyper::Request::post(&self.url).header("authorization", authorization);
        if headers.is_empty() {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let response = self.client.request(request.body(Full::from(body))?).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok(Answer { status, xml: String::from_utf8(body.to_vec())? })
    }
}
