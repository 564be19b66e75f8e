//! gRPC calls by name, with messages as bytes: for tests that go over every RPC that there is.

use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status};

/// The RPCs of a package, as `package.Service` and `Rpc`, in the order of the `.proto` files.
pub fn rpcs_of(package: &str) -> anyhow::Result<Vec<(String, String)>> {
    let descriptors = prost_types::FileDescriptorSet::decode(molecule_proto::DESCRIPTORS)?;
    let files = descriptors.file.into_iter().filter(|file| file.package() == package);
    let services = files.flat_map(|file| file.service);
    let rpcs = services.flat_map(|service| {
        let name = format!("{package}.{}", service.name());
        service.method.into_iter().map(move |method| (name.clone(), method.name().to_owned()))
    });
    Ok(rpcs.collect())
}

/// Calls an RPC, unary or streaming; its first answer, empty where it gives none within a moment.
pub async fn call(
    channel: Channel,
    service: &str,
    rpc: &str,
    token: Option<&str>,
    message: Vec<u8>,
) -> Result<Vec<u8>, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = format!("/{service}/{rpc}").parse().map_err(|_| Status::internal("no path"))?;
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().map_err(|_| Status::internal("no token"))?;
        request.metadata_mut().insert("authorization", value);
    }
    let mut answers = client.server_streaming(request, path, Bytes).await?.into_inner();
    match tokio::time::timeout(std::time::Duration::from_secs(2), answers.message()).await {
        Ok(first) => Ok(first?.unwrap_or_default()),
        Err(_) => Ok(Vec::new()),
    }
}

#[derive(Clone, Copy, Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(to, &item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let all = bytes::Buf::copy_to_bytes(from, bytes::Buf::remaining(from));
        Ok(Some(all.to_vec()))
    }
}
