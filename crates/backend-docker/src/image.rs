//! Images: looked at once in a while, pulled in the background where they are missing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::StreamExt;
use molecule_domain::lifecycle::Reason;
use molecule_provisioner::backend::{Prepared, Refusal};
use tracing::{info, warn};

use crate::client::Problem;

/// How long an image is taken to be what it was: tags move.
const FRESH: Duration = Duration::from_secs(10);
/// How long a pull that failed is not tried again.
const FAILED_PULL: Duration = Duration::from_secs(15);

/// What a launch needs to know of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageInfo {
    /// By which containers are made, so that a moved tag can't mix two images.
    pub(crate) id: String,
    /// Entrypoint and command.
    pub(crate) command: Vec<String>,
    /// The user that it runs as, as the image says it; empty is root.
    pub(crate) user: String,
}

#[derive(Default)]
struct State {
    known: HashMap<String, (Instant, Arc<ImageInfo>)>,
    pulls: HashMap<String, Pull>,
}

enum Pull {
    UnderWay(String),
    Failed(Instant, String),
}

/// The images of one daemon.
#[derive(Clone, Default)]
pub(crate) struct Images(Arc<Mutex<State>>);

impl Images {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image, where it was there a moment ago.
    pub(crate) fn known(&self, image: &str) -> Option<Arc<ImageInfo>> {
        let state = self.lock();
        state.known.get(image).filter(|(seen, _)| seen.elapsed() < FRESH).map(|(_, info)| Arc::clone(info))
    }

    /// The daemon says that it is gone.
    pub(crate) fn forget(&self, image: &str) {
        self.lock().known.remove(image);
    }

    /// Finds the image, or starts to pull it and tells how far that is.
    pub(crate) async fn prepare(&self, docker: &Docker, image: &str) -> Prepared {
        if self.known(image).is_some() {
            return Prepared::Ready(String::new());
        }
        match docker.inspect_image(image).await.map_err(Problem::from) {
            Ok(found) => {
                let config = found.config.unwrap_or_default();
                let command = config.entrypoint.into_iter().flatten().chain(config.cmd.into_iter().flatten());
                let info = ImageInfo {
                    id: found.id.unwrap_or_else(|| image.to_owned()),
                    command: command.collect(),
                    user: config.user.unwrap_or_default(),
                };
                self.lock().known.insert(image.to_owned(), (Instant::now(), Arc::new(info)));
                Prepared::Ready(String::new())
            }
            Err(Problem::NotFound(_)) => self.pull(docker, image),
            Err(Problem::BadRequest(message)) => unavailable(image, &message),
            Err(problem) => Prepared::Unknown(problem.into_call_error("look at the image").to_string()),
        }
    }

    fn pull(&self, docker: &Docker, image: &str) -> Prepared {
        let mut state = self.lock();
        match state.pulls.get(image) {
            Some(Pull::UnderWay(progress)) => return Prepared::InProgress(progress.clone()),
            Some(Pull::Failed(when, why)) if when.elapsed() < FAILED_PULL => return unavailable(image, why),
            _ => {}
        }
        let progress = format!("pulling {image}");
        state.pulls.insert(image.to_owned(), Pull::UnderWay(progress.clone()));
        drop(state);
        info!(image, "pulling an image");
        let (images, docker, image) = (self.clone(), docker.clone(), image.to_owned());
        tokio::spawn(async move {
            let ended = images.pull_to_end(&docker, &image).await;
            let mut state = images.lock();
            match ended {
                Ok(()) => state.pulls.remove(&image),
                Err(why) => {
                    warn!(image, why, "the image could not be pulled");
                    state.pulls.insert(image, Pull::Failed(Instant::now(), why))
                }
            };
        });
        Prepared::InProgress(progress)
    }

    async fn pull_to_end(&self, docker: &Docker, image: &str) -> Result<(), String> {
        // Without a tag the daemon would pull all of them.
        let named = image.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
        let reference = if named { image.to_owned() } else { format!("{image}:latest") };
        let options = CreateImageOptionsBuilder::default().from_image(&reference).build();
        let mut layers: HashMap<String, (i64, i64)> = HashMap::new();
        let mut steps = docker.create_image(Some(options), None, None);
        while let Some(step) = steps.next().await {
            let step = step.map_err(|error| error.to_string())?;
            if let (Some(layer), Some(detail)) = (step.id, step.progress_detail) {
                layers.insert(layer, (detail.current.unwrap_or(0), detail.total.unwrap_or(0)));
            }
            let (done, all) = layers.values().fold((0, 0), |(a, b), (done, all)| (a + done, b + all));
            let percent = if all > 0 { format!(": {} %", done * 100 / all) } else { String::new() };
            self.lock().pulls.insert(image.to_owned(), Pull::UnderWay(format!("pulling {image}{percent}")));
        }
        Ok(())
    }
}

fn unavailable(image: &str, why: &str) -> Prepared {
    Prepared::Refused(Refusal {
        reason: Reason::ImageUnavailable,
        message: format!(
            "the image {image} is not on the Docker host and can't be pulled: {why}. Pull or build it there, \
             or name another in the runtimes file; then restart the workspace"
        ),
    })
}
