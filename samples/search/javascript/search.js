// search: the same worker in JavaScript, with Node's own HTTP server.
//
//     node search.js PORT, or node search.js /PATH   listens on a port of this machine, or on a Unix socket
//     node search.js                                 finds PORT or SOCKET in its environment, or with LISTEN_FDS=1 a
//                                                    listening socket as descriptor 3
//     GET /health                                    200 as soon as it listens
//     GET /anything?q=tcp                            {"query": "tcp", "results": ["..."], "pid": 4121, ...}
//
// One thread runs an event loop: no callback ever waits, so thousands of connections may stay open; and while one
// computes, nobody else is served. After SIGTERM it answers the requests that have come and exits with 0.
"use strict";

const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");

const RESULTS = 5;
const HEAD = 8192;
const text = fs.readFileSync(path.join(__dirname, "..", "facts.inc"), "utf8");
const facts = JSON.parse(`[${text.trim().replace(/,$/, "")}]`);
let stopping = false;

/** Every fact that has all words of the first parameter `q`, as the interface promises it. */
function search(target) {
  // URLSearchParams knows the rules of forms: + is a space, %41 an A, and what is no UTF-8 becomes U+FFFD.
  const query = new URLSearchParams(target.replace(/^[^?]*\??/, "")).get("q") ?? "";
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const found = facts.filter((fact) => words.length && words.every((word) => fact.toLowerCase().includes(word)));
  return { query, results: found.slice(0, RESULTS), pid: process.pid, language: "javascript" };
}

/** Status, and what was expected, when the request is refused. Node's parser has refused doubtful framing already. */
function refusal(request) {
  const hosts = request.rawHeaders.filter((word, place) => place % 2 === 0 && word.toLowerCase() === "host");
  if (!["GET", "HEAD"].includes(request.method)) return [405, "expected GET or HEAD"];
  if ("transfer-encoding" in request.headers) return [411, "expected no chunked body"];
  if ((request.headers["content-length"] ?? "0") !== "0") return [400, "expected no body"];
  if (hosts.length !== 1 && request.httpVersionMinor > 0) return [400, "expected exactly one Host field"];
  return null;
}

/** A request has come: answer it. The length is known, so that the connection can stay open for the next one. */
function answer(request, response) {
  const [status, wrong] = refusal(request) ?? [200];
  const healthy = { status: "ok", pid: process.pid };
  const document = wrong ? { error: wrong } : request.url === "/health" ? healthy : search(request.url);
  const body = Buffer.from(JSON.stringify(document) + "\n");
  if (wrong) response.setHeader("Allow", "GET, HEAD");
  if (wrong || stopping) response.shouldKeepAlive = false; // Node writes `Connection: close`, and closes
  response.writeHead(status, { "Content-Type": "application/json", "Content-Length": body.length });
  if (!wrong) response.end(body); // of a HEAD, Node sends no body
  else request.resume().once("end", () => response.end(body)); // unread input would destroy the answer on its way
}

/** What Node's parser could not read has not become a request: its answer is written by hand. */
function refuse(error, socket) {
  const tooLong = error.code === "HPE_HEADER_OVERFLOW";
  const status = tooLong ? "431 Request Header Fields Too Large" : "400 Bad Request";
  const wrong = tooLong ? `expected a head of at most ${HEAD} bytes` : "expected a request as RFC 9112 describes it";
  const body = JSON.stringify({ error: wrong }) + "\n";
  const fields = ["Content-Type: application/json", `Content-Length: ${body.length}`, "Connection: close"];
  if (socket.writable) socket.end([`HTTP/1.1 ${status}`, ...fields, "", body].join("\r\n"));
}

/** Where to listen, as `server.listen` wants it: an inherited socket (sd_listen_fds(3)), a path or a port. */
function place(word) {
  if (word === undefined && process.env.LISTEN_PID === String(process.pid)) return { fd: 3 };
  const given = word ?? process.env.SOCKET ?? process.env.PORT ?? "";
  if (given.startsWith("/")) return { path: given };
  const port = /^[0-9]{1,5}$/.test(given) ? Number(given) : 0;
  if (port >= 1 && port <= 65535) return { host: "127.0.0.1", port };
  console.error(`search: found port '${given}', expected 1 to 65535; usage: search.js PORT`);
  return process.exit(2);
}

/** Listen no more, and close who is silent. When the last connection has ended, nothing is left to do: Node exits. */
function stop() {
  stopping = true;
  server.close();
  setImmediate(() => server.closeIdleConnections()); // after one more look at who has sent something
}

const server = http.createServer({ maxHeaderSize: HEAD, requireHostHeader: false }, answer);
server.keepAliveTimeout = 60_000; // longer than the proxy's: where both close at the same moment, a request is lost
server.on("clientError", refuse);
server.on("error", (error) => {
  const why = error.code === "EADDRINUSE" ? "Address already in use" : error.message;
  console.error(`search: cannot listen: ${why}`);
  process.exit(1);
});
process.once("SIGTERM", stop);
process.once("SIGINT", stop);
server.listen({ ...place(process.argv[2]), backlog: 511 }, () => {
  const address = server.address();
  const where = typeof address === "string" ? address : `${address.address}:${address.port}`;
  console.error(`search: pid ${process.pid} listens at ${where}`);
});
