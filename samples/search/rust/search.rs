//! search: the same worker in Rust, with the standard library alone: a thread for each connection.
//!
//!     search PORT            listens on a port of this machine (or finds PORT in the environment)
//!     LISTEN_FDS=1 search    takes the listening socket that it inherits as descriptor 3
//!     GET /health            200 as soon as it listens
//!     GET /anything?q=tcp    {"query": "tcp", "results": ["..."], "pid": 4121, "language": "rust"}
//!
//! A value is freed where its owner's scope ends: each connection is closed on every way out, and nobody wrote `close`.
//! `?` hands an error to the caller: none is overlooked. What threads share is immutable, or it does not compile.
//! After SIGTERM it answers what has begun and exits with 0.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::io::{AsRawFd, FromRawFd};
use std::time::Duration;
use std::{env, process, ptr, thread};

const FACTS: &str = include_str!("../facts.inc"); // on each line a string in quotes, and a comma
const RESULTS: usize = 5;
const HEAD: usize = 8192;

/// The few calls of the C library that the standard library does not wrap; it is linked anyway.
mod c {
    pub type SignalSet = [u64; 16];
    pub const SIG_BLOCK: i32 = 0;
    pub const SIGINT: i32 = 2;
    pub const SIGTERM: i32 = 15;
    pub const POLLIN: i16 = 1;
    #[repr(C)]
    pub struct PollFd(pub i32, pub i16, pub i16); // descriptor, events to wait for, events that came
    extern "C" {
        pub fn poll(fds: *mut PollFd, count: u64, timeout: i32) -> i32;
        pub fn sigaddset(set: *mut SignalSet, signal: i32) -> i32;
        pub fn sigprocmask(how: i32, set: *const SignalSet, old: *mut SignalSet) -> i32;
        pub fn signalfd(fd: i32, set: *const SignalSet, flags: i32) -> i32;
    }
}

/// A descriptor that a signal makes readable. Nobody reads it, so it stays readable, and every thread can see it.
fn signals() -> i32 {
    let mut set: c::SignalSet = [0; 16];
    unsafe {
        c::sigaddset(&mut set, c::SIGINT);
        c::sigaddset(&mut set, c::SIGTERM);
        c::sigprocmask(c::SIG_BLOCK, &set, ptr::null_mut());
        c::signalfd(-1, &set, 0)
    }
}

/// Wait for something to read or accept, or for a signal: tells which of them is there.
fn wait(socket: &impl AsRawFd, signals: i32) -> (bool, bool) {
    let mut watched = [c::PollFd(socket.as_raw_fd(), c::POLLIN, 0), c::PollFd(signals, c::POLLIN, 0)];
    while unsafe { c::poll(watched.as_mut_ptr(), 2, -1) } < 0 {} // it was frozen and thawed: wait again
    (watched[0].2 != 0, watched[1].2 != 0)
}

/// Why a request is refused: status and explanation.
struct Refused(&'static str, &'static str);

struct Request<'a> {
    method: &'a str,
    target: &'a str,
    close: bool,
}

/// Read a head without its empty line. Doubtful framing is refused: where two servers disagree about the end of a
/// request, an attacker can hide a second one in the first (RFC 9112 section 11.2).
fn parse(head: &[u8]) -> Result<Request<'_>, Refused> {
    let bad = |expected| Refused("400 Bad Request", expected);
    let head = std::str::from_utf8(head).map_err(|_| bad("expected a head in UTF-8"))?;
    let mut lines = head.split("\r\n");
    let first: Vec<&str> = lines.next().unwrap_or("").split(' ').collect();
    let (method, target, version) = match first[..] {
        [method, target, version @ ("HTTP/1.0" | "HTTP/1.1")] => (method, target, version),
        _ => return Err(bad("expected a first line like: GET /path HTTP/1.1")),
    };
    if method != "GET" && method != "HEAD" {
        return Err(Refused("405 Method Not Allowed", "expected GET or HEAD"));
    }
    let (mut close, mut hosts) = (version == "HTTP/1.0", 0);
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| bad("expected fields like Name: value"))?;
        if name.is_empty() || name.contains([' ', '\t']) || line.contains(['\r', '\n', '\0']) {
            return Err(bad("expected fields like Name: value, each ended by CR LF"));
        }
        match (name.to_ascii_lowercase().as_str(), value.trim()) {
            ("transfer-encoding", _) => return Err(Refused("411 Length Required", "expected no chunked body")),
            ("content-length", length) if length != "0" => return Err(bad("expected no body")),
            ("connection", value) => close |= value.eq_ignore_ascii_case("close"),
            ("host", _) => hosts += 1,
            _ => {}
        }
    }
    if hosts != 1 && version == "HTTP/1.1" {
        return Err(bad("expected exactly one Host field"));
    }
    Ok(Request { method, target, close })
}

/// The first parameter `q`, decoded: `+` is a space and `%41` an A. A broken `%` stays as it is.
fn decode(target: &str) -> String {
    let parameters = target.split_once('?').map_or("", |(_, rest)| rest);
    let text = parameters.split('&').find_map(|part| part.strip_prefix("q=")).unwrap_or("");
    let mut decoded = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        let digits = after.get(..2).filter(|two| two.iter().all(u8::is_ascii_hexdigit));
        let escaped = digits.filter(|_| *byte == b'%').and_then(|two| std::str::from_utf8(two).ok());
        decoded.push(match escaped {
            Some(hex) => u8::from_str_radix(hex, 16).unwrap_or(b'%'),
            None if *byte == b'+' => b' ',
            None => *byte,
        });
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The text as a JSON string.
fn quote(text: &str) -> String {
    let escape = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        '\0'..='\x1f' => format!("\\u{:04x}", c as u32),
        _ => c.to_string(),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

/// Every fact that has all words of the query, as the interface promises it.
fn search(target: &str) -> String {
    let query = decode(target);
    let lowered = query.to_lowercase();
    let words: Vec<&str> = lowered.split_whitespace().collect();
    let matches = |fact: &&str| !words.is_empty() && words.iter().all(|word| fact.to_lowercase().contains(word));
    let facts = FACTS.lines().map(|line| line.trim_end_matches(',').trim_matches('"'));
    let results: Vec<String> = facts.filter(matches).take(RESULTS).map(quote).collect();
    let (query, results, pid) = (quote(&query), results.join(", "), process::id());
    format!("{{\"query\": {query}, \"results\": [{results}], \"pid\": {pid}, \"language\": \"rust\"}}\n")
}

/// A whole response; `close` tells the client that it is the last one.
fn response(status: &str, body: &str, close: bool) -> String {
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let ending = if close { "Connection: close\r\n" } else { "" };
    let fields = format!("Content-Type: application/json\r\nContent-Length: {}\r\n{allow}{ending}", body.len());
    format!("HTTP/1.1 {status}\r\n{fields}\r\n{body}")
}

/// The answer to a head, and whether it is the last one of its connection.
fn answer(head: &[u8], stopping: bool) -> (String, bool) {
    let request = match parse(head) {
        Ok(request) => request,
        Err(Refused(status, wrong)) => {
            return (response(status, &format!("{{\"error\": {}}}\n", quote(wrong)), true), true);
        }
    };
    let close = request.close || stopping;
    let mut text = match request.target {
        "/health" => response("200 OK", &format!("{{\"status\": \"ok\", \"pid\": {}}}\n", process::id()), close),
        target => response("200 OK", &search(target), close),
    };
    if request.method == "HEAD" {
        text.truncate(text.find("\r\n\r\n").map_or(0, |end| end + 4));
    }
    (text, close)
}

/// Serve one client until one side has enough. A read may bring half a request, or three of them.
fn converse(mut client: TcpStream, signals: i32) -> io::Result<()> {
    client.set_nodelay(true)?; // an answer is one write: nothing more comes that it could wait for
    let (mut received, mut chunk) = (Vec::new(), [0; HEAD]);
    let mut last = false;
    while !last {
        let (readable, stopping) = wait(&client, signals);
        let count = if readable || !received.is_empty() { client.read(&mut chunk)? } else { 0 };
        if count == 0 {
            return Ok(()); // the client hung up, or it is idle and a signal came
        }
        received.extend_from_slice(&chunk[..count]);
        let mut answers = String::new();
        while let (false, Some(end)) = (last, received.windows(4).position(|four| four == b"\r\n\r\n")) {
            let (text, close) = answer(&received[..end], stopping);
            answers.push_str(&text);
            last = close;
            received.drain(..end + 4);
        }
        if !last && received.len() >= HEAD {
            let status = "431 Request Header Fields Too Large";
            answers.push_str(&response(status, "{\"error\": \"expected a head of at most 8192 bytes\"}\n", true));
            last = true;
        }
        client.write_all(answers.as_bytes())?;
    }
    client.shutdown(Shutdown::Write)?; // not both sides: unread input would destroy the answer on its way
    client.set_read_timeout(Some(Duration::from_secs(1)))?;
    io::copy(&mut client, &mut io::sink()).map(|_| ())
}

/// The listening socket: inherited, as sd_listen_fds(3) describes it, or a new one.
fn listen() -> Result<TcpListener, String> {
    let given = env::args().nth(1);
    if given.is_none() && env::var("LISTEN_FDS").is_ok() {
        return Ok(unsafe { TcpListener::from_raw_fd(3) });
    }
    let text = given.or_else(|| env::var("PORT").ok()).unwrap_or_default();
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|&number: &u16| digits && number > 0);
    let port = port.ok_or_else(|| format!("found port '{text}', expected 1 to 65535"))?;
    TcpListener::bind(("127.0.0.1", port)).map_err(|error| format!("cannot listen on port {port}: {error}"))
}

fn run() -> Result<(), String> {
    let signals = signals(); // before there are threads: they inherit what is blocked
    let listener = listen()?;
    listener.set_nonblocking(true).map_err(|error| error.to_string())?; // where workers share it, one is the faster
    eprintln!("search: pid {} listens at {:?}", process::id(), listener.local_addr());
    // The scope ends when the last of its threads has. A thread's error means that its client has gone.
    thread::scope(move |threads| {
        while let (_, false) = wait(&listener, signals) {
            match listener.accept() {
                Ok((client, _)) => drop(threads.spawn(move || converse(client, signals))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => thread::sleep(Duration::from_millis(10)), // no descriptor is left: until somebody hangs up
            }
        }
    });
    Ok(())
}

fn main() {
    if let Err(wrong) = run() {
        eprintln!("search: {wrong}");
        process::exit(1);
    }
}
