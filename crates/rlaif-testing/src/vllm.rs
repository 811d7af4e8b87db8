//! A real vLLM.

use std::{
    env,
    fs::{self, File},
    io,
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// A server of vLLM on this machine's processor, which ends with this value.
#[derive(Debug)]
pub struct RealVllm {
    environment: PathBuf,
    model: PathBuf,
    log: PathBuf,
    options: Vec<String>,
    port: u16,
    child: Option<Child>,
}

impl RealVllm {
    /// Starts vLLM with `model` under the name `base`, if `RLAIF_VLLM` names the folder of a Python environment that
    /// has it. `options` are further ones of `vllm serve`; the log is written to `place`.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn start(model: &Path, place: &Path, options: &[&str]) -> Option<Self> {
        let Some(environment) = env::var_os("RLAIF_VLLM") else {
            eprintln!("SKIPPED: RLAIF_VLLM names no environment with vLLM");
            return None;
        };
        let port = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr());
        let mut server = Self {
            environment: environment.into(),
            model: model.to_owned(),
            log: place.join("vllm.log"),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            port: port.expect("a port").port(),
            child: None,
        };
        server.restart();
        Some(server)
    }

    /// Starts the server again on the same port, with the weights that it began with.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        self.signal("-KILL");
        let said = File::create(&self.log).expect("a log");
        let child = Command::new(self.environment.join("bin/vllm"))
            .arg("serve")
            .arg(&self.model)
            .args(["--host", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--served-model-name", "base", "--dtype", "float32", "--enforce-eager"])
            .args(["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"])
            .args(&self.options)
            .env("VLLM_CPU_KVCACHE_SPACE", "1")
            .env("VLLM_SERVER_DEV_MODE", "1")
            .env("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
            .env("HF_HUB_OFFLINE", "1")
            .stdin(Stdio::null())
            .stdout(said.try_clone().expect("a log"))
            .stderr(said)
            .process_group(0)
            .spawn();
        self.child = Some(child.expect("vLLM in the environment of RLAIF_VLLM"));
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.as_mut().map(Child::try_wait);
            let lives = matches!(ended, Some(Ok(None))) && begin.elapsed().as_secs() < 600;
            assert!(lives, "{}", fs::read_to_string(&self.log).unwrap_or_default());
            sleep(Duration::from_millis(200));
        }
    }

    /// Kills the server and its processes.
    pub fn kill(&mut self) {
        self.signal("-KILL");
    }

    /// The address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sends a signal to the server and its processes, and waits for their end.
    fn signal(&mut self, signal: &str) {
        if let Some(mut child) = self.child.take() {
            let group = format!("-{}", child.id());
            let _: io::Result<_> = Command::new("kill").args([signal, "--", &group]).status();
            let _: io::Result<_> = child.wait();
        }
    }
}

impl Drop for RealVllm {
    fn drop(&mut self) {
        self.signal("-TERM");
    }
}
