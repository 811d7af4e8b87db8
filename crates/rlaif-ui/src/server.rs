//! The server: an address, a bound on connections, and the stop at Ctrl-C.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rlaif_core::Interrupted;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

use crate::error::UiError;

/// Connections at a time; further ones wait. Each holds a buffer of at most [`MAX_BUFFER`] bytes and a body of
/// at most the limit of its route.
const CONNECTIONS: usize = 256;
/// Time for the head of a request, and for the next request on an open connection.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Largest buffer of a connection, and so the largest head of a request.
const MAX_BUFFER: usize = 64 * 1024;
/// Time that requests have to end after the stop.
const LAST_TIME: Duration = Duration::from_secs(5);
/// Time after which a failed `accept` is repeated: the process has no file descriptor left.
const PAUSE: Duration = Duration::from_millis(50);
/// Interval at which Ctrl-C is looked for.
const TICK: Duration = Duration::from_millis(100);

/// A server that has its address and serves nothing yet.
#[derive(Debug)]
pub struct UiServer {
    runtime: Runtime,
    listener: TcpListener,
    address: SocketAddr,
}

impl UiServer {
    /// Listens on an address; port 0 for a free one.
    ///
    /// # Errors
    /// [`UiError::Listen`], [`UiError::Server`].
    pub fn bind(address: SocketAddr) -> Result<Self, UiError> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().map_err(UiError::Server)?;
        let listen = runtime.block_on(TcpListener::bind(address));
        let listener = listen.map_err(|source| UiError::Listen { address, source })?;
        let address = listener.local_addr().map_err(UiError::Server)?;
        Ok(Self { runtime, listener, address })
    }

    /// The address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` returns true, or Ctrl-C is pressed. Requests that are being answered then have five
    /// seconds to end.
    pub(crate) fn serve(self, router: Router, stop: &dyn Fn() -> bool) {
        let Self { runtime, listener, .. } = self;
        runtime.block_on(async {
            let permits = Arc::new(Semaphore::new(CONNECTIONS));
            let (ending, ended) = watch::channel(false);
            let accepting = tokio::spawn(accept(listener, router, permits.clone(), ended));
            while !stop() && Interrupted::check().is_ok() {
                sleep(TICK).await;
            }
            accepting.abort();
            let _ = ending.send(true);
            let since = Instant::now();
            while permits.available_permits() < CONNECTIONS && since.elapsed() < LAST_TIME {
                sleep(TICK / 10).await;
            }
        });
        // Blocking work of a request that did not end in time is not waited for.
        runtime.shutdown_timeout(TICK);
    }
}

async fn accept(
    listener: TcpListener,
    router: Router,
    permits: Arc<Semaphore>,
    ended: watch::Receiver<bool>,
) {
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        // Without it, small answers wait for the acknowledgement of earlier ones.
        let _ = stream.set_nodelay(true);
        let (router, mut ended) = (router.clone(), ended.clone());
        tokio::spawn(async move {
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .max_buf_size(MAX_BUFFER);
            let service = TowerToHyperService::new(router);
            let mut connection =
                std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
            // Ends with the connection, or with the server.
            let first = std::future::poll_fn(|context| {
                if connection.as_mut().poll(context).is_ready() {
                    return std::task::Poll::Ready(true);
                }
                let mut end = std::pin::pin!(ended.wait_for(|ended| *ended));
                end.as_mut().poll(context).map(|_| false)
            });
            if !first.await {
                connection.as_mut().graceful_shutdown();
                let _ = timeout(LAST_TIME, connection).await;
            }
            drop(permit);
        });
    }
}
