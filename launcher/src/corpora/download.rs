//! Downloads one file over HTTP: resumes an earlier attempt, times out, and never takes more bytes than
//! its limit.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const ATTEMPTS: u32 = 5;
/// The pause after the first failed attempt; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);

/// Why a file could not be downloaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DownloadError {
    /// The host cannot be reached.
    #[error("cannot reach {host} for {url}: {reason}")]
    Unreachable {
        host: String,
        /// The address.
        url: String,
        /// The cause.
        reason: String,
    },
    /// The host does not deliver the file.
    #[error("{url} returned status {status}")]
    Status {
        /// The address.
        url: String,
        /// The HTTP status code.
        status: u16,
    },
    /// The connection was closed too early in every attempt.
    #[error(
        "{url} was interrupted after {received} bytes{}, {ATTEMPTS} times: {reason}; run the same \
         command again to resume", of_total(*total)
    )]
    Interrupted {
        /// The address.
        url: String,
        /// Bytes received so far.
        received: u64,
        /// The size of the file, if known.
        total: Option<u64>,
        /// The last cause.
        reason: String,
    },
    /// The host returned something else, usually a web page.
    #[error("{url} returned something that is not an archive")]
    NotAnArchive {
        /// The address.
        url: String,
    },
    /// The file is larger than expected.
    #[error(
        "{url} sends more than {limit} bytes, so it is not the file that the recipe describes; if \
         it was republished, correct its size in the recipe (`bytes`)"
    )]
    TooLarge {
        /// The address.
        url: String,
        /// The most bytes that were accepted.
        limit: u64,
    },
    /// The file cannot be written, usually because the disk is full.
    #[error(
        "cannot write {}: {source}; the downloaded part is kept, run the same command again to resume",
        path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

fn of_total(total: Option<u64>) -> String {
    total.map_or(String::new(), |total| format!(" of {total}"))
}

/// Why one attempt failed.
enum Failure {
    /// Trying again may help.
    Transient(String),
    /// Trying again would not help.
    Permanent(DownloadError),
}

/// Downloads `url` to the file `part`, which may hold the beginning from an earlier attempt. Calls `show`
/// with the bytes received so far and the total, if known.
///
/// # Errors
/// A file that could not be downloaded completely; its beginning may be kept.
pub(crate) fn download(
    url: &str,
    part: &Path,
    limit: u64,
    show: &mut dyn FnMut(u64, Option<u64>),
) -> Result<(), DownloadError> {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(CONNECT_TIMEOUT))
        .timeout_per_read(Some(READ_TIMEOUT))
        // Archives are compressed already, and their checksums are those of the compressed files.
        .accept_encoding("identity")
        .user_agent(concat!("tandem/", env!("CARGO_PKG_VERSION")))
        .build();
    let mut transfer = Transfer { agent: config.new_agent(), url, part, limit, total: None };
    let mut backoff = FIRST_BACKOFF;
    for attempt in 1.. {
        match transfer.attempt(show) {
            Ok(()) => break,
            Err(Failure::Permanent(error)) => return Err(error),
            Err(Failure::Transient(reason)) if attempt >= ATTEMPTS => {
                let (url, received) = (url.to_owned(), transfer.received());
                let total = transfer.total;
                return Err(DownloadError::Interrupted { url, received, total, reason });
            }
            Err(Failure::Transient(_)) => std::thread::sleep(backoff),
        }
        backoff *= 2;
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

    /// The file that records which version of which file `part` is the beginning of: its address and its
    /// ETag or modification time.
    fn validator(&self) -> PathBuf {
        self.part.with_added_extension("of")
    }

    fn write_error(&self, path: &Path, source: io::Error) -> Failure {
        Failure::Permanent(DownloadError::Write { path: path.to_owned(), source })
    }

    /// Makes one request for the missing bytes.
    fn attempt(&mut self, show: &mut dyn FnMut(u64, Option<u64>)) -> Result<(), Failure> {
        // Without a validator, the part could belong to another version of the file.
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
                    return Err(self.start_over("the host sent another range than requested"));
                }
                self.total = length.map(|length| have + length);
            }
            // Nothing follows the part: it is the whole file, or belongs to another one.
            416 if header("content-range") == Some(format!("bytes */{have}")) => return Ok(()),
            416 => return Err(self.start_over("the host does not have the requested range")),
            status @ (408 | 429 | 500..) => {
                return Err(Failure::Transient(format!("status {status}")));
            }
            status => {
                let url = self.url.to_owned();
                return Err(Failure::Permanent(DownloadError::Status { url, status }));
            }
        }
        self.receive(response.into_body().into_reader(), have, show)
    }

    /// Truncates the part, and records which version of the file it will belong to.
    fn begin(&self, etag: Option<String>, modified: Option<String>) -> Result<(), Failure> {
        let path = self.validator();
        // Weak ETags do not guarantee the same bytes.
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
        Failure::Transient(reason.into())
    }

    /// Appends the response's body to the `have` bytes of the part.
    fn receive(
        &self,
        mut body: impl Read,
        mut have: u64,
        show: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<(), Failure> {
        let too_large = || {
            let (url, limit) = (self.url.to_owned(), self.limit);
            Failure::Permanent(DownloadError::TooLarge { url, limit })
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
                Err(error) => return Err(Failure::Transient(error.to_string())),
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
            return Err(Failure::Transient("the connection was closed".into()));
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
                Failure::Transient(reason)
            }
            ureq::Error::Timeout(ureq::Timeout::RecvResponse | ureq::Timeout::RecvBody)
            | ureq::Error::Protocol(_) => Failure::Transient(reason),
            _ => Failure::Permanent(unreachable(reason)),
        }
    }
}

/// The host of an address.
pub(crate) fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default().to_owned()
}
