//! A monitor in this process that follows a source.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use kit::Clock;
use monitor::config::{Config, Flags};
use proto::wire;
use proto::wire::event_monitor_service_client::EventMonitorServiceClient;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// A monitor that runs in this process.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) channel: Channel,
    stop: CancellationToken,
    ended: JoinHandle<anyhow::Result<()>>,
}

/// The configuration of a monitor in `directory` that follows `source`.
pub(crate) fn config(directory: &Path, source: SocketAddr, set: &[(&str, &str)]) -> Config {
    let flags = Flags {
        data_dir: Some(directory.display().to_string()),
        orchestrators: vec![source.to_string()],
        set: set
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..Flags::default()
    };
    flags.load(directory, Vec::new()).unwrap().value
}

impl Running {
    pub(crate) async fn start(directory: &Path, source: SocketAddr, set: &[(&str, &str)]) -> Self {
        Self::start_with(config(directory, source, set)).await
    }

    pub(crate) async fn start_with(config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let ended = tokio::spawn(monitor::run(
            config,
            listener,
            Clock::system(0),
            stop.clone(),
        ));
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect_lazy();
        Self {
            address,
            channel,
            stop,
            ended,
        }
    }

    /// Stops it in order.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        drop(self.channel);
        self.ended.await.unwrap().unwrap();
    }

    pub(crate) fn events(&self) -> EventMonitorServiceClient<Channel> {
        EventMonitorServiceClient::new(self.channel.clone())
    }

    /// Waits until all events of the source are taken in; the metrics over the last hour then.
    pub(crate) async fn caught_up(&self, offset: u64) -> wire::GetEventMetricsResponse {
        let mut client = self.events();
        let request = wire::GetEventMetricsRequest {
            window: Some(seconds(3_600)),
            ..Default::default()
        };
        wait_for(async || {
            let metrics = client.get_event_metrics(request.clone()).await.ok()?;
            let metrics = metrics.into_inner();
            let sources = &metrics.as_of.as_ref()?.sources;
            (sources.first()?.offset >= offset).then_some(metrics)
        })
        .await
    }

    /// A page over HTTP/1.
    pub(crate) async fn page(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }
}

/// A wire duration.
pub(crate) fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

/// Asks until there is an answer, for at most ten seconds.
pub(crate) async fn wait_for<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        let mut pause = tokio::time::interval(Duration::from_millis(10));
        loop {
            pause.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), asking)
        .await
        .expect("the condition comes true")
}
