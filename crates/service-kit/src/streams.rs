//! Answers that go on. They end with UNAVAILABLE when the server drains, so that their clients go elsewhere and
//! resume, and they wait for slow clients.

use std::time::Duration;

use futures::{Stream, StreamExt};
use molecule_domain::error::{Error, ErrorReason};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::status::to_status;

/// How many answers may wait for a slow client; then whoever makes them waits too.
const BUFFER: usize = 64;

/// What makes the answers sends them here. One that can't be sent is to nobody: the client has gone, and the work
/// ends with it.
#[derive(Debug)]
pub struct Answers<T>(mpsc::Sender<Result<T, Status>>);

impl<T> Answers<T> {
    /// Sends one, once there is room for it.
    pub async fn send(&self, answer: T) {
        let _ = self.0.send(Ok(answer)).await;
    }
}

/// The answers of work that goes on until its client has gone, the server drains, or it ends by itself.
pub fn answers<T, F>(
    drain: CancellationToken,
    work: impl FnOnce(Answers<T>) -> F,
) -> impl Stream<Item = Result<T, Status>> + Send + 'static
where
    T: Send + 'static,
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(BUFFER);
    let work = work(Answers(sender.clone()));
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = work => ended,
            () = drain.cancelled() => Err(draining()),
            () = sender.closed() => return,
        };
        if let Err(error) = ended {
            let _ = sender.send(Err(to_status(&error))).await;
        }
    });
    ReceiverStream::new(receiver)
}

/// The items of a stream as answers; its first error ends them.
pub fn items<T, U, E>(
    drain: CancellationToken,
    mut items: impl Stream<Item = Result<T, E>> + Send + Unpin + 'static,
    answer: impl Fn(T) -> U + Send + 'static,
) -> impl Stream<Item = Result<U, Status>> + Send + 'static
where
    T: Send + 'static,
    U: Send + 'static,
    E: Into<Error> + Send + 'static,
{
    answers(drain, |sender| async move {
        while let Some(item) = items.next().await {
            sender.send(answer(item.map_err(Into::into)?)).await;
        }
        Ok(())
    })
}

fn draining() -> Error {
    Error::new(ErrorReason::Draining, "this server is going away; connect again and resume")
        .with_retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn an_error_ends_the_answers_and_so_does_draining() {
        let drain = CancellationToken::new();
        let source = futures::stream::iter([Ok(1), Err(Error::internal("broken")), Ok(2)]);
        let all: Vec<_> = items(drain.clone(), source, |n| n * 10).collect().await;
        assert_eq!(all.len(), 2);
        assert_eq!(*all[0].as_ref().unwrap(), 10);
        assert_eq!(all[1].as_ref().unwrap_err().code(), Code::Internal);

        let endless = futures::stream::pending::<Result<i32, Error>>();
        let mut endless = Box::pin(items(drain.clone(), endless, |n| n));
        drain.cancel();
        assert_eq!(endless.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
        assert!(endless.next().await.is_none());
    }
}
