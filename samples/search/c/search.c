/* search: a worker that answers HTTP on one port of this machine, many connections at a time.
 *
 *     search PORT          (or PORT in the environment)
 *     GET /health          200 as soon as it listens
 *     GET /anything?q=tcp  {"query": "tcp", "results": ["..."], "pid": 4121, "language": "c"}
 *
 * The classic socket, bind, listen, accept program, grown up. One thread waits in epoll for whichever connection can go
 * on, so a slow client delays nobody. A read may bring half a request or three of them; a write may take only a part.
 * Memory is set aside once; a request costs one read and one write. After SIGTERM it answers what has arrived, closes
 * its socket and exits with 0; a request that never gets complete could hold it up: supervisors have SIGKILL. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <err.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

/* A reply is at most 5 facts of 160 bytes, a query of 256 bytes written as \u0000 (6 each), and 300 around them. */
enum { CLIENTS = 256, HEAD = 8192, QUERY = 256, RESULTS = 5, FACT = 160, REPLY = 4096, OUT = 4 * REPLY, BATCH = 64 };

static const char facts[][FACT] = {
#include "../facts.inc"
};
enum { FACTS = sizeof facts / sizeof *facts };
static char lowered[FACTS][FACT]; /* the facts in lower case, made once: a search ignores case */

struct client {
    int fd;
    bool open;                /* false: this place is free */
    bool closing;             /* no further request is read; hang up after the last answer */
    bool blocked;             /* the client does not take its answer: until it does, nothing is read */
    unsigned long long skip;  /* body bytes of the current request that are still to come */
    size_t got;               /* in[0, got) was read and not used yet */
    size_t sent, ready, used; /* out[0, sent) is gone, out[sent, ready) may go, out[ready, used) waits for the body */
    char in[HEAD + 1], out[OUT];
};
struct request {
    const char *method, *target, *status, *wrong; /* status and wrong are set when the request is refused */
    unsigned long long length;
    int hosts, lengths;
    bool close, expects;
};
static struct client clients[CLIENTS];
static int poller, listener, open_clients;
static bool stopping;

static void watch(int operation, int fd, uint32_t events, void *whom) {
    struct epoll_event event = {.events = events, .data.ptr = whom};
    if (epoll_ctl(poller, operation, fd, &event) < 0) err(1, "epoll_ctl");
}

/* Bytes of the UTF-8 character at s; 0 if it is none: too long, a surrogate, beyond U+10FFFF (RFC 3629 section 4). */
static size_t utf8(const unsigned char *s) {
    size_t length = *s < 0x80 ? 1 : *s < 0xC2 ? 0 : *s < 0xE0 ? 2 : *s < 0xF0 ? 3 : *s < 0xF5 ? 4 : 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    if ((*s == 0xE0 && s[1] < 0xA0) || (*s == 0xED && s[1] > 0x9F)) return 0;
    if ((*s == 0xF0 && s[1] < 0x90) || (*s == 0xF4 && s[1] > 0x8F)) return 0;
    return length;
}

/* Append `text` as a JSON string; returns the new end. */
static char *quote(char *to, const char *text) {
    *to++ = '"';
    for (const unsigned char *s = (const unsigned char *)text; *s;) {
        size_t length = utf8(s);
        if (length == 0) to = stpcpy(to, "\\ufffd"), s++;
        else if (*s < ' ' || *s == '"' || *s == '\\') to += sprintf(to, "\\u%04x", *s++);
        else to = mempcpy(to, s, length), s += length;
    }
    *to++ = '"';
    return to;
}

/* The first parameter `q`, decoded: `+` is a space and `%41` an A. A broken `%`, and `%00`, stay as they are. */
static void decode_query(const char *target, char query[QUERY]) {
    const char *s = strchr(target, '?');
    while (s && strncmp(s + 1, "q=", 2) != 0) s = strchr(s + 1, '&');
    char *end = query + QUERY - 1;
    for (s = s ? s + 3 : ""; *s && *s != '&' && query < end; s++) {
        bool escape = *s == '%' && isxdigit((unsigned char)s[1]) && isxdigit((unsigned char)s[2]);
        int byte = escape ? (int)strtol((char[]){s[1], s[2], 0}, NULL, 16) : 0;
        *query++ = byte ? (char)byte : *s == '+' ? ' ' : *s;
        if (byte) s += 2;
    }
    *query = '\0';
}

/* Every fact that has all words of the query, as the JSON document that the interface promises; returns its end. */
static char *search(char *to, const char *target) {
    char query[QUERY], *words[QUERY], *rest = query;
    size_t count = 0, found = 0;
    decode_query(target, query);
    to = stpcpy(quote(stpcpy(to, "{\"query\": "), query), ", \"results\": [");
    for (char *s = query; *s; s++) *s = (char)tolower((unsigned char)*s);
    while ((words[count] = strsep(&rest, " "))) count += *words[count] != '\0';
    for (size_t i = 0; i < FACTS && found < RESULTS && count; i++) {
        size_t have = 0;
        while (have < count && strstr(lowered[i], words[have])) have++;
        if (have == count) to = quote(stpcpy(to, found++ ? ", " : ""), facts[i]);
    }
    return to + sprintf(to, "], \"pid\": %d, \"language\": \"c\"}\n", getpid());
}

static void refuse(struct request *r, const char *status, const char *wrong) {
    if (!r->status) r->status = status, r->wrong = wrong, r->close = true, r->length = 0;
}

static bool named(const char *line, const char *name) { return strncasecmp(line, name, strlen(name)) == 0; }

/* Read a head of `size` bytes, without its empty line. Doubtful framing is refused: where two servers disagree about
 * the end of a request, an attacker can hide a second one in the first (RFC 9112 section 11.2). */
static void parse(char *head, size_t size, struct request *r) {
    size_t method = strspn(head, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"), target = 0;
    if (method && head[method] == ' ') target = strcspn(head + method + 1, " \r\n");
    char *line = head + method + 1 + target, *end;
    if (strlen(head) != size) return refuse(r, "400 Bad Request", "expected a head without NUL bytes");
    if (!target || strncmp(line, " HTTP/1.", 8) || !isdigit((unsigned char)line[8]) || strncmp(line + 9, "\r\n", 2))
        return refuse(r, "400 Bad Request", "expected a first line like: GET /path HTTP/1.1");
    r->method = head, r->target = head + method + 1, r->close = line[8] == '0';
    head[method] = *line = '\0';
    for (line += 11; *line; line = end + 2) {
        size_t name = strcspn(line, ": \t\r\n");
        end = line + strcspn(line, "\r\n");
        if (!name || line[name] != ':' || strncmp(end, "\r\n", 2))
            return refuse(r, "400 Bad Request", "expected fields like Name: value, each ended by CR LF");
        *end = '\0';
        const char *value = line + name + 1 + strspn(line + name + 1, " \t");
        size_t digits = strspn(value, "0123456789");
        if (named(line, "Content-Length:")) {
            if (r->lengths++ || !digits || digits > 18 || value[digits + strspn(value + digits, " \t")])
                return refuse(r, "400 Bad Request", "expected one Content-Length, of digits only");
            r->length = strtoull(value, NULL, 10);
        } else if (named(line, "Transfer-Encoding:")) {
            return refuse(r, "411 Length Required", "expected a Content-Length; this server reads no chunked bodies");
        } else if (named(line, "Connection:")) r->close |= strcasestr(value, "close") != NULL;
        else if (named(line, "Expect:")) r->expects = strcasecmp(value, "100-continue") == 0;
        else if (named(line, "Host:")) r->hosts++;
    }
    if (r->hosts != 1 && !r->close) refuse(r, "400 Bad Request", "expected exactly one Host field");
}

/* The time as RFC 9110 section 5.6.7 wants it, written once a second. */
static const char *date(void) {
    static char text[64];
    static time_t written;
    time_t now = time(NULL);
    if (now != written) strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&now));
    written = now;
    return text;
}

/* Append the answer to `out`. It may go when all of the request's body has come. */
static void reply(struct client *c, const struct request *r) {
    char body[REPLY], *end = body, *to = c->out + c->used;
    if (r->status) end = stpcpy(quote(stpcpy(body, "{\"error\": "), r->wrong), "}\n");
    else if (strcmp(r->target, "/health") == 0) end += sprintf(body, "{\"status\": \"ok\", \"pid\": %d}\n", getpid());
    else end = search(body, r->target);
    c->closing = r->close || stopping;
    if (r->expects && r->length) to = stpcpy(to, "HTTP/1.1 100 Continue\r\n\r\n");
    c->ready = (size_t)(to - c->out);
    to += sprintf(to, "HTTP/1.1 %s\r\nDate: %s\r\nContent-Type: application/json\r\nContent-Length: %td\r\n%s\r\n",
                  r->status ? r->status : "200 OK", date(), end - body, c->closing ? "Connection: close\r\n" : "");
    if (strcmp(r->method, "HEAD") != 0) to = mempcpy(to, body, (size_t)(end - body));
    c->used = (size_t)(to - c->out);
}

/* Send what may go, in one write if the client takes it. Of a broken connection the next read will tell. */
static void flush(struct client *c) {
    while (c->sent < c->ready) {
        ssize_t count = send(c->fd, c->out + c->sent, c->ready - c->sent, MSG_NOSIGNAL);
        if (count < 0 && errno == EAGAIN) return;
        c->sent = count < 0 ? c->ready : c->sent + (size_t)count;
    }
    memmove(c->out, c->out + c->sent, c->used -= c->sent);
    c->sent = c->ready = 0;
}

static void take(struct client *c, size_t count) { memmove(c->in, c->in + count, c->got -= count); }

/* Drop what came of a body, then answer the next request. False: it, or room for its answer, has still to come. */
static bool answer(struct client *c) {
    size_t body = c->skip < c->got ? (size_t)c->skip : c->got;
    take(c, body);
    c->skip -= body;
    if (c->skip) return false;
    c->ready = c->used;
    if (c->closing) c->got = 0;
    if (sizeof c->out - c->used < REPLY) flush(c);
    char *end = memmem(c->in, c->got, "\r\n\r\n", 4);
    if (sizeof c->out - c->used < REPLY || (!end && c->got < HEAD)) return false;
    struct request r = {.method = "", .target = ""};
    size_t size = end ? (size_t)(end - c->in) + 4 : c->got;
    c->in[size - 2] = '\0';
    if (end) parse(c->in, size - 2, &r);
    else refuse(&r, "431 Request Header Fields Too Large", "expected a head of at most 8192 bytes");
    reply(c, &r);
    take(c, size);
    c->skip = r.length;
    return true;
}

static void hang_up(struct client *c) {
    close(c->fd);
    memset(c, 0, offsetof(struct client, in));
    open_clients--;
    if (!stopping) watch(EPOLL_CTL_MOD, listener, EPOLLIN, &listener);
}

/* This connection can go on: read once, answer everything that is complete, write once. */
static void serve(struct client *c) {
    ssize_t count = c->blocked ? 1 : recv(c->fd, c->in + c->got, HEAD - c->got, 0);
    if (count == 0 || (count < 0 && errno != EAGAIN)) return hang_up(c);
    if (count > 0 && !c->blocked) c->got += (size_t)count;
    while (answer(c)) continue;
    flush(c);
    bool blocked = c->sent < c->ready, idle = !c->used && !c->got && !c->skip;
    if (idle && stopping) return hang_up(c);
    if (idle && c->closing) shutdown(c->fd, SHUT_WR); /* not close: unread input would destroy the answer on its way */
    if (blocked != c->blocked) watch(EPOLL_CTL_MOD, c->fd, blocked ? EPOLLOUT : EPOLLIN, c);
    c->blocked = blocked;
}

/* Take in one connection. When there is no place, those that follow wait in the backlog until somebody hangs up. */
static bool admit(void) {
    struct client *c = clients;
    bool full = open_clients == CLIENTS;
    int fd = full ? -1 : accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (full || (fd < 0 && errno == EMFILE)) watch(EPOLL_CTL_MOD, listener, 0, &listener);
    if (fd < 0) return false;
    while (c->open) c++;
    c->open = true, c->fd = fd, open_clients++;
    watch(EPOLL_CTL_ADD, fd, EPOLLIN, c);
    return true;
}

/* Take in who connected already, then listen no more. A request that came is answered, an idle connection closed. */
static void stop(void) {
    stopping = true;
    while (admit()) continue;
    close(listener);
    for (struct client *c = clients; c < clients + CLIENTS; c++)
        if (c->open) serve(c);
}

static void start(const char *text) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    size_t digits = text ? strspn(text, "0123456789") : 0;
    long port = digits && !text[digits] ? strtol(text, NULL, 10) : 0;
    if (port < 1 || port > 65535) errx(2, "found port '%s', expected 1 to 65535; usage: search PORT", text ? text : "");
    address.sin_port = htons((uint16_t)port);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)); /* its connections inherit it */
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) err(1, "cannot bind port %ld", port);
    if (listen(listener, SOMAXCONN) < 0) err(1, "cannot listen on port %ld", port);
    fprintf(stderr, "search: pid %d listens on 127.0.0.1:%ld\n", getpid(), port);
}

int main(int argc, char **argv) {
    for (size_t i = 0; i < FACTS; i++)
        for (size_t j = 0; facts[i][j]; j++) lowered[i][j] = (char)tolower((unsigned char)facts[i][j]);
    sigset_t signals; /* a signal becomes one more thing that epoll reports: between two requests, never inside one */
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    start(argc > 1 ? argv[1] : getenv("PORT"));
    if ((poller = epoll_create1(EPOLL_CLOEXEC)) < 0) err(1, "epoll_create1");
    watch(EPOLL_CTL_ADD, listener, EPOLLIN, &listener);
    watch(EPOLL_CTL_ADD, signalfd(-1, &signals, SFD_CLOEXEC), EPOLLIN | EPOLLONESHOT, &stopping);
    while (!stopping || open_clients) {
        struct epoll_event events[BATCH];
        bool asked = false;
        int count = epoll_wait(poller, events, BATCH, -1); /* -1 after SIGCONT: nothing to do */
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == &listener) admit();
            else if (events[i].data.ptr == &stopping) asked = true;
            else serve(events[i].data.ptr);
        }
        if (asked) stop(); /* after the batch, which may still name connections that stopping closes */
    }
    return 0;
}
