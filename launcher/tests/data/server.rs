//! A stand-in for the hosts of the corpora: files with ranges and tags, and every fault of a network.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the host does with a file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Served {
    pub bytes: Vec<u8>,
    /// So many answers end after half of what they promise.
    pub cuts: usize,
    /// Answers end after half of what they promise and never close.
    pub stalls: bool,
    /// Changes with the file.
    pub tag: String,
}

/// Serves files by their paths, and remembers what was asked for.
pub(crate) struct Server {
    pub address: String,
    files: Arc<Mutex<HashMap<String, Served>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let server = Self { address, files: Arc::default(), requests: Arc::default() };
        let (files, requests) = (Arc::clone(&server.files), Arc::clone(&server.requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, requests) = (Arc::clone(&files), Arc::clone(&requests));
                std::thread::spawn(move || answer(stream, &files, &requests));
            }
        });
        server
    }

    pub(crate) fn serve(&self, name: &str, bytes: &[u8]) {
        let tag =
            format!("\"{}-{}\"", bytes.len(), bytes.iter().map(|b| u64::from(*b)).sum::<u64>());
        self.put(name, Served { bytes: bytes.to_vec(), tag, ..Served::default() });
    }

    pub(crate) fn put(&self, name: &str, served: Served) {
        self.files.lock().expect("no panic").insert(format!("/{name}"), served);
    }

    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut Served)) {
        change(self.files.lock().expect("no panic").get_mut(&format!("/{name}")).expect("a file"));
    }

    /// `PATH` or `PATH bytes=FROM-`, in order; each is told once.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock().expect("no panic"))
    }
}

/// Answers one request, and closes.
fn answer(
    mut stream: TcpStream,
    files: &Mutex<HashMap<String, Served>>,
    requests: &Mutex<Vec<String>>,
) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers: HashMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(k, v)| (k.to_lowercase(), v.to_owned())))
        .collect();
    let range = headers.get("range");
    let asked = range.map_or(path.clone(), |range| format!("{path} {range}"));
    requests.lock().expect("no panic").push(asked);
    let served = files.lock().expect("no panic").get_mut(&path).map(|served| {
        let before = served.clone();
        served.cuts = served.cuts.saturating_sub(1);
        before
    });
    let Some(Served { bytes, cuts, stalls, tag }) = served else {
        let head = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return stream.write_all(head.as_bytes()).ok();
    };
    let fits = headers.get("if-range") == Some(&tag);
    let from: usize = range
        .filter(|_| fits)
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        .unwrap_or(0);
    let total = bytes.len();
    let status = match from {
        0 => "200 OK".to_owned(),
        _ if from >= total => {
            let head = format!(
                "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{total}\r\n\
                 Content-Length: 0\r\nConnection: close\r\n\r\n"
            );
            return stream.write_all(head.as_bytes()).ok();
        }
        _ => format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}", total - 1),
    };
    let part = &bytes[from..];
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: {tag}\r\nConnection: close\r\n\r\n",
        part.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    if cuts > 0 || stalls {
        stream.write_all(&part[..part.len() / 2]).ok()?;
        stream.flush().ok()?;
        if stalls {
            std::thread::sleep(Duration::from_secs(600));
        }
        return Some(());
    }
    stream.write_all(part).ok()
}
