//! A server that is profiled while it serves, and tells of its heap over HTTP.
//!
//! ```sh
//! cargo run --release --all-features --example profile_a_server -- 8080
//! go tool pprof -top http://127.0.0.1:8080/debug/pprof/heap
//! curl http://127.0.0.1:8080/metrics
//! ```
//!
//! | page | for |
//! |---|---|
//! | `/debug/pprof/heap`, `/debug/pprof/allocs` | `go tool pprof`, and scrapers that ask Go's servers |
//! | `/metrics` | Prometheus |
//! | `/debug/heap` | a browser: flame graph, table, time |
//! | `/debug/heap.txt` | a terminal |
//!
//! Who can read these pages learns much about the program: serve them where
//! only its operators come. The port may be 0, for any; with `--self-test` it asks
//! itself for all pages and ends.

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use heapledger::profile::Value;
use heapledger::{HeapProfile, Profiler, TrackingAllocator, metrics};
use parking_lot::Mutex;

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

/// What all requests share.
struct Server {
    profiler: Profiler,
    notes: Mutex<HashMap<String, Vec<String>>>,
}

type Shared = State<Arc<Server>>;

// --- what the server is for: notes that it remembers

async fn remember(State(server): Shared, Path(name): Path<String>, body: Bytes) -> String {
    let words: Vec<String> = String::from_utf8_lossy(&body)
        .split_whitespace()
        .map(String::from)
        .collect();
    let known = words.len();
    server.notes.lock().insert(name, words);
    format!("{known} words\n")
}

async fn recall(State(server): Shared, Path(name): Path<String>) -> Response {
    match server.notes.lock().get(&name) {
        Some(words) => words.join(" ").into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn forget(State(server): Shared, Path(name): Path<String>) -> StatusCode {
    match server.notes.lock().remove(&name) {
        Some(_) => StatusCode::NO_CONTENT,
        None => StatusCode::NOT_FOUND,
    }
}

// --- what its operators ask

/// A snapshot as a page of this type. Looking up names takes some tens of
/// milliseconds, so it is done where nobody waits for the thread.
async fn page(
    server: Arc<Server>,
    content_type: &'static str,
    write: impl FnOnce(&HeapProfile, &mut Vec<u8>) -> io::Result<()> + Send + 'static,
) -> Response {
    let work = move || {
        let mut profile = server.profiler.snapshot();
        profile.symbolize();
        let mut page = Vec::new();
        write(&profile, &mut page).map(|()| page)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(page)) => ([(header::CONTENT_TYPE, content_type)], page).into_response(),
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn Error) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
}

/// As Go's servers answer; `shown` is what tools show first.
async fn pprof(server: Arc<Server>, uri: Uri, name: &'static str, shown: Value) -> Response {
    // What has come and gone between two moments is not kept; silence would pass for an answer.
    if uri.query().is_some_and(|query| query.contains("seconds=")) {
        let why = "seconds= is not supported: compare two profiles with pprof -diff_base\n";
        return (StatusCode::BAD_REQUEST, why).into_response();
    }
    let write =
        move |profile: &HeapProfile, page: &mut Vec<u8>| profile.write_pprof_showing(page, shown);
    let mut response = page(server, "application/octet-stream", write).await;
    if let Ok(value) = format!("attachment; filename=\"{name}\"").parse() {
        response
            .headers_mut()
            .insert(header::CONTENT_DISPOSITION, value);
    }
    response
}

async fn pprof_heap(State(server): Shared, uri: Uri) -> Response {
    pprof(server, uri, "heap", Value::LiveBytes).await
}

async fn pprof_allocs(State(server): Shared, uri: Uri) -> Response {
    pprof(server, uri, "allocs", Value::TotalBytes).await
}

async fn heap_page(State(server): Shared) -> Response {
    let write = |profile: &HeapProfile, page: &mut Vec<u8>| profile.write_html(page);
    page(server, "text/html; charset=utf-8", write).await
}

async fn heap_text(State(server): Shared) -> Response {
    let write = |profile: &HeapProfile, page: &mut Vec<u8>| profile.write_text(page);
    page(server, "text/plain; charset=utf-8", write).await
}

/// Only reads counters, so it may be done on the spot.
async fn prometheus() -> Response {
    let mut page = Vec::new();
    match metrics::write_prometheus(&mut page) {
        Ok(()) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response(),
        Err(error) => failed(&error),
    }
}

fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/notes/{name}", post(remember).get(recall).delete(forget))
        .route("/debug/pprof/heap", get(pprof_heap))
        .route("/debug/pprof/allocs", get(pprof_allocs))
        .route("/debug/heap", get(heap_page))
        .route("/debug/heap.txt", get(heap_text))
        .route("/metrics", get(prometheus))
        .with_state(server)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // From the beginning, so that nothing is missing; one sample in 512 KiB.
    let profiler = Profiler::builder().sample_every(512 * 1024).start()?;
    let argument = std::env::args().nth(1);
    let is_test = argument.as_deref() == Some("--self-test");
    let port = match argument {
        Some(port) if !is_test => port.parse()?,
        Some(_) => 0,
        None => 8080,
    };
    let server = Arc::new(Server {
        profiler,
        notes: Mutex::default(),
    });
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}");
    let serving = tokio::spawn(async { axum::serve(listener, router(server)).await });
    if is_test {
        let asked = tokio::task::spawn_blocking(move || self_test(address));
        return asked.await?.map_err(|error| -> Box<dyn Error> { error });
    }
    serving.await??;
    Ok(())
}

// --- the self-test

/// Head and body of the answer.
fn ask(to: SocketAddr, what: &str, body: &str) -> io::Result<(String, Vec<u8>)> {
    let mut stream = TcpStream::connect(to)?;
    write!(
        stream,
        "{what} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.ok_or(io::ErrorKind::InvalidData)?;
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    Ok((head, answer.split_off(end + 4)))
}

fn self_test(to: SocketAddr) -> Result<(), Box<dyn Error + Send + Sync>> {
    // Some 40 MB of words, so that there are samples of them.
    let note = "remembered words ".repeat(30_000);
    for i in 0..20 {
        let (head, _) = ask(to, &format!("POST /notes/{i}"), &note)?;
        assert!(head.starts_with("http/1.1 200"), "{head}");
    }
    assert_eq!(ask(to, "GET /notes/3", "")?.1.len(), note.len() - 1);
    assert!(
        ask(to, "DELETE /notes/3", "")?
            .0
            .starts_with("http/1.1 204")
    );
    assert!(ask(to, "GET /notes/3", "")?.0.starts_with("http/1.1 404"));

    let text = |path: &str, kind: &str| -> io::Result<String> {
        let (head, body) = ask(to, &format!("GET {path}"), "")?;
        assert!(head.starts_with("http/1.1 200"), "{path}: {head}");
        assert!(
            head.contains(&format!("content-type: {kind}")),
            "{path}: {head}"
        );
        Ok(String::from_utf8_lossy(&body).into_owned())
    };
    let metrics = text("/metrics", "text/plain; version=0.0.4")?;
    let live = metrics
        .lines()
        .find_map(|line| line.strip_prefix("heapledger_live_bytes "));
    let live: u64 = live.ok_or("no live bytes")?.parse()?;
    assert!(live > 10_000_000, "the notes: {live}");
    for (path, kind) in [
        ("/debug/heap", "text/html"),
        ("/debug/heap.txt", "text/plain"),
    ] {
        assert!(
            text(path, kind)?.contains("profile_a_server::remember"),
            "{path}"
        );
    }
    for name in ["heap", "allocs"] {
        let (head, body) = ask(to, &format!("GET /debug/pprof/{name}"), "")?;
        assert!(
            head.contains("content-type: application/octet-stream"),
            "{head}"
        );
        let file = format!("content-disposition: attachment; filename=\"{name}\"");
        assert!(head.contains(&file), "{head}");
        assert!(body.starts_with(&[0x1f, 0x8b]), "{name} is no gzip file");
        let (head, _) = ask(to, &format!("GET /debug/pprof/{name}?seconds=1"), "")?;
        assert!(head.starts_with("http/1.1 400"), "{head}");
    }
    println!("all pages are there");
    Ok(())
}
