//! Who does what the front lets through.

use super::form::{Answer, Form};
use super::memory::Memory;
use super::moto::Moto;

/// An EC2 without its weather.
#[derive(Debug)]
pub enum Cloud {
    /// A moto server.
    Moto(Box<Moto>),
    /// A few maps.
    Memory(Box<Memory>),
}

impl Cloud {
    /// Starts a moto server.
    pub async fn moto() -> anyhow::Result<Self> {
        Ok(Self::Moto(Box::new(Moto::start().await?)))
    }

    /// Nothing but memory.
    pub fn memory() -> Self {
        Self::Memory(Box::default())
    }

    pub(super) async fn act(&self, form: &Form, body: &[u8], authorization: &str) -> anyhow::Result<Answer> {
        match self {
            Self::Moto(moto) => moto.forward(body.to_vec(), authorization, &[]).await,
            Self::Memory(memory) => Ok(memory.act(form)),
        }
    }

    /// A call of another service's (SSM), which has headers of its own.
    pub(super) async fn other(
        &self,
        body: &[u8],
        authorization: &str,
        headers: &[(&str, String)],
    ) -> anyhow::Result<Answer> {
        match self {
            Self::Moto(moto) => moto.forward(body.to_vec(), authorization, headers).await,
            Self::Memory(_) => {
                let xml = r#"{"Parameter":{"Name":"image","Value":"ami-memory"}}"#.to_owned();
                Ok(Answer { status: 200, xml })
            }
        }
    }
}
