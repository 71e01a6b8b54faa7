//! One file over HTTP: goes on where an earlier attempt ended, gives up on silence, never takes
//! more than it was told to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time to reach a host, and to its answer.
const CONNECT: Duration = Duration::from_secs(30);
/// Time without a byte.
const SILENCE: Duration = Duration::from_secs(60);
/// A connection that is cut is made again so often, each time after twice the pause.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// Why a file is not here.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// No way to the host.
    #[error("cannot reach {host} for {url}: {reason}")]
    Unreachable {
        /// The host.
        host: String,
        /// The address.
        url: String,
        /// Why not.
        reason: String,
    },
    /// The host has no such file, or does not give it.
    #[error("{url} answers with status {status}")]
    Status {
        /// The address.
        url: String,
        /// HTTP's number.
        status: u16,
    },
    /// The connection ended early, again and again.
    #[error(
        "{url} was cut off after {received} bytes{}, {ATTEMPTS} times: {reason}; the same command \
         goes on from there", of_total(*total)
    )]
    Cut {
        /// The address.
        url: String,
        /// Bytes that are here.
        received: u64,
        /// Bytes that there should be.
        total: Option<u64>,
        /// The last reason.
        reason: String,
    },
    /// A page, most often.
    #[error("{url} answers with something that is not an archive")]
    Other {
        /// The address.
        url: String,
    },
    /// More than was agreed to.
    #[error(
        "{url} sends more than {limit} bytes, which is no longer the file that the recipe means; \
         set its right size in the recipe (`bytes`)"
    )]
    TooLarge {
        /// The address.
        url: String,
        /// Bytes that were agreed to.
        limit: u64,
    },
    /// The disk, most often.
    #[error("cannot write {}: {source}; what is there stays, and the same command goes on", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn of_total(total: Option<u64>) -> String {
    total.map_or(String::new(), |total| format!(" of {total}"))
}

/// Why one connection did not bring the rest.
enum Failure {
    /// Another one may.
    Again(String),
    /// Another one would not.
    Final(DownloadError),
}

/// Brings the file at `url` to `part`, of which an earlier attempt may have left the beginning.
/// `show` hears how many bytes there are, and of how many.
///
/// # Errors
/// The file is not here: its beginning may be.
pub fn download(
    url: &str,
    part: &Path,
    limit: u64,
    show: &mut dyn FnMut(u64, Option<u64>),
) -> Result<(), DownloadError> {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(CONNECT))
        .timeout_per_read(Some(SILENCE))
        // Archives are compressed already, and are wanted as they are.
        .accept_encoding("identity")
        .user_agent(concat!("tandem/", env!("CARGO_PKG_VERSION")))
        .build();
    let mut transfer = Transfer { agent: config.new_agent(), url, part, limit, total: None };
    let mut pause = PAUSE;
    for attempt in 1.. {
        match transfer.attempt(show) {
            Ok(()) => break,
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Again(reason)) if attempt >= ATTEMPTS => {
                let (url, received) = (url.to_owned(), transfer.received());
                return Err(DownloadError::Cut { url, received, total: transfer.total, reason });
            }
            Err(Failure::Again(_)) => std::thread::sleep(pause),
        }
        pause *= 2;
    }
    let _ = fs::remove_file(transfer.validator());
    Ok(())
}

struct Transfer<'a> {
    agent: ureq::Agent,
    url: &'a str,
    part: &'a Path,
    limit: u64,
    total: Option<u64>,
}

impl Transfer<'_> {
    fn received(&self) -> u64 {
        fs::metadata(self.part).map_or(0, |metadata| metadata.len())
    }

    /// Where it is kept what the beginning is the beginning of.
    fn validator(&self) -> PathBuf {
        self.part.with_added_extension("of")
    }

    fn write_error(&self, path: &Path, source: io::Error) -> Failure {
        Failure::Final(DownloadError::Write { path: path.to_owned(), source })
    }

    /// One request, for all that is missing.
    fn attempt(&mut self, show: &mut dyn FnMut(u64, Option<u64>)) -> Result<(), Failure> {
        // A beginning of which it is not known what it belongs to could be of another file.
        let validator = fs::read_to_string(self.validator()).unwrap_or_default();
        let mut have = if validator.starts_with(self.url) { self.received() } else { 0 };
        let mut request = self.agent.get(self.url);
        if have > 0 {
            let known = validator.lines().nth(1).unwrap_or_default();
            request = request.header("Range", format!("bytes={have}-")).header("If-Range", known);
        }
        let response = request.call().map_err(|error| self.failure(error))?;
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let length: Option<u64> = header("content-length").and_then(|text| text.parse().ok());
        match response.status().as_u16() {
            200 => {
                have = 0;
                self.total = length;
                self.begin(header("etag"), header("last-modified"))?;
            }
            206 => {
                // `bytes FROM-TO/TOTAL`
                let range = header("content-range").unwrap_or_default();
                let range = range.strip_prefix("bytes ").unwrap_or_default();
                let from = range.split('-').next().and_then(|from| from.parse().ok());
                if from != Some(have) {
                    return Err(self.start_over("the host sent another part than was asked for"));
                }
                self.total = length.map(|length| have + length);
            }
            // Nothing lies behind what is here: it is all, or of something else.
            416 if header("content-range") == Some(format!("bytes */{have}")) => return Ok(()),
            416 => return Err(self.start_over("the host has no such part of it")),
            status @ (408 | 429 | 500..) => {
                return Err(Failure::Again(format!("status {status}")));
            }
            status => {
                let url = self.url.to_owned();
                return Err(Failure::Final(DownloadError::Status { url, status }));
            }
        }
        self.receive(response.into_body().into_reader(), have, show)
    }

    /// Forgets the beginning, and notes what the next one belongs to.
    fn begin(&self, etag: Option<String>, modified: Option<String>) -> Result<(), Failure> {
        let path = self.validator();
        // Weak tags do not promise the same bytes.
        let strong = etag.filter(|etag| !etag.starts_with("W/")).or(modified);
        let written = match strong {
            Some(strong) => fs::write(&path, format!("{}\n{strong}\n", self.url)),
            None => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        written.map_err(|source| self.write_error(&path, source))?;
        let opened = OpenOptions::new().write(true).create(true).truncate(true).open(self.part);
        opened.map(drop).map_err(|source| self.write_error(self.part, source))
    }

    fn start_over(&self, reason: &str) -> Failure {
        let _ = fs::remove_file(self.validator());
        Failure::Again(reason.into())
    }

    /// Appends the answer to the `have` bytes that are here.
    fn receive(
        &self,
        mut body: impl Read,
        mut have: u64,
        show: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<(), Failure> {
        let too_large = || {
            let (url, limit) = (self.url.to_owned(), self.limit);
            Failure::Final(DownloadError::TooLarge { url, limit })
        };
        if self.total.is_some_and(|total| total > self.limit) {
            return Err(too_large());
        }
        let mut file = OpenOptions::new()
            .append(true)
            .open(self.part)
            .map_err(|source| self.write_error(self.part, source))?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::Again(error.to_string())),
            };
            have += count as u64;
            if have > self.limit {
                return Err(too_large());
            }
            file.write_all(&buffer[..count])
                .map_err(|source| self.write_error(self.part, source))?;
            show(have, self.total);
        }
        if self.total.is_some_and(|total| have < total) {
            return Err(Failure::Again("the connection was closed".into()));
        }
        self.sync(&file)
    }

    fn sync(&self, file: &File) -> Result<(), Failure> {
        file.sync_all().map_err(|source| self.write_error(self.part, source))
    }

    fn failure(&self, error: ureq::Error) -> Failure {
        let url = self.url.to_owned();
        let host = host(&url);
        let reason = error.to_string();
        let unreachable = |reason| DownloadError::Unreachable { host, url, reason };
        match error {
            ureq::Error::Io(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionReset
                        | io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::UnexpectedEof
                        | io::ErrorKind::BrokenPipe
                ) =>
            {
                Failure::Again(reason)
            }
            ureq::Error::Timeout(ureq::Timeout::RecvResponse | ureq::Timeout::RecvBody)
            | ureq::Error::Protocol(_) => Failure::Again(reason),
            _ => Failure::Final(unreachable(reason)),
        }
    }
}

/// The host of an address.
pub fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default().to_owned()
}
