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

/// What a head asks for.
struct Request<'a> {
    method: &'a str,
    target: &'a str,
    close: bool,
}

/// Read a head without its empty line, or say why it is refused. No bodies: where a request ends, there begins the
/// next, or what an attacker wants to be taken for it (RFC 9112 section 11.2).
fn parse(head: &str) -> Result<Request<'_>, &'static str> {
    let mut lines = head.split('\n');
    let first: Vec<&str> = lines.next().unwrap_or("").trim_end().split(' ').collect();
    let (method, target, version) = match first[..] {
        [method, target, version @ ("HTTP/1.0" | "HTTP/1.1")] => (method, target, version),
        _ => return Err("400 expected a first line like: GET /path HTTP/1.1"),
    };
    if method != "GET" && method != "HEAD" {
        return Err("405 expected GET or HEAD");
    }
    let mut close = version == "HTTP/1.0";
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("400 expected fields like Name: value")?;
        match (name.trim().to_ascii_lowercase().as_str(), value.trim()) {
            ("transfer-encoding", _) => return Err("400 expected no body"),
            ("content-length", length) if length != "0" => return Err("400 expected no body"),
            ("connection", value) => close |= value.eq_ignore_ascii_case("close"),
            _ => {}
        }
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

/// The answer to a head, and whether it is the last one of its connection.
fn answer(head: &[u8], stopping: bool) -> (String, bool) {
    let head = String::from_utf8_lossy(head);
    let parsed = if head.len() < HEAD { parse(&head) } else { Err("431 expected a head of less than 8192 bytes") };
    let (status, body, close) = match &parsed {
        Err(wrong) => (*wrong, format!("{{\"error\": {}}}\n", quote(&wrong[4..])), true),
        Ok(Request { target: "/health", close, .. }) => {
            ("200 OK", format!("{{\"status\": \"ok\", \"pid\": {}}}\n", process::id()), *close)
        }
        Ok(Request { target, close, .. }) => ("200 OK", search(target), *close),
    };
    let last = close || stopping;
    let allow = if parsed.is_err() { "Allow: GET, HEAD\r\n" } else { "" };
    let ending = if last { "Connection: close\r\n" } else { "" };
    let fields = format!("Content-Type: application/json\r\nContent-Length: {}\r\n{allow}{ending}", body.len());
    let body = if matches!(parsed, Ok(request) if request.method == "HEAD") { "" } else { &body };
    (format!("HTTP/1.1 {status}\r\n{fields}\r\n{body}"), last)
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
            answers.push_str(&answer(&received, stopping).0);
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
    let place = listener.local_addr().map_err(|error| error.to_string())?;
    eprintln!("search: pid {} listens at {place}", process::id());
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
