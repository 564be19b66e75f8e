//! Daemons that fail: they agree on a version, then answer as badly as daemons do.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

/// How a daemon fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Never answers.
    Silence,
    /// Closes the connection in place of an answer.
    Eof,
    /// Answers 500.
    ServerError,
    /// Announces more than it sends.
    Truncated,
    /// Ends in the middle of a list, as if that were all.
    HalfAList,
}

impl Failure {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Silence, Self::Eof, Self::ServerError, Self::Truncated, Self::HalfAList];

    /// Its name, for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Silence => "silence",
            Self::Eof => "eof",
            Self::ServerError => "500",
            Self::Truncated => "truncated",
            Self::HalfAList => "half a list",
        }
    }
}

/// Starts an HTTP endpoint that fails so, for as long as the runtime lives; its address.
pub async fn endpoint(failure: Failure) -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, failure));
        }
    });
    Ok(format!("http://{address}"))
}

/// Starts a daemon that fails so, below `folder`, for as long as the runtime lives.
pub fn daemon(folder: &Path, failure: Failure) -> std::io::Result<PathBuf> {
    let path = folder.join(format!("{failure:?}.sock"));
    let listener = UnixListener::bind(&path)?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, failure));
        }
    });
    Ok(path)
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, failure: Failure) {
    let mut request = vec![0; 64 << 10];
    while let Ok(read @ 1..) = stream.read(&mut request).await {
        let head = String::from_utf8_lossy(&request[..read]).into_owned();
        let answer = if head.contains("/version") {
            let body = r#"{"ApiVersion":"1.41","MinAPIVersion":"1.12","Version":"20.10"}"#;
            format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
        } else {
            match failure {
                Failure::Silence => std::future::pending().await,
                Failure::Eof => return,
                Failure::ServerError => {
                    "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 17\r\n\r\n{\"message\":\"bad\"}"
                        .to_owned()
                }
                Failure::Truncated => "HTTP/1.1 200 OK\r\ncontent-length: 4000\r\n\r\n[".to_owned(),
                Failure::HalfAList => "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n[{}".to_owned(),
            }
        };
        if stream.write_all(answer.as_bytes()).await.is_err()
            || failure == Failure::Truncated && !head.contains("/version")
        {
            return;
        }
    }
}
