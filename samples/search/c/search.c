/* search: a worker that answers HTTP. The classic socket, bind, listen, accept program, grown up to many clients.
 *
 *     search PORT, search /PATH   listens on a port of this machine (or on $PORT), or on a Unix socket; with LISTEN_FDS
 *                                 it inherits descriptor 3; with GATEWAY_INTERFACE it is a CGI program
 *     GET /anything?q=tcp         {"query": "tcp", "results": ["..."], "pid": 4121, "language": "c"}
 *
 * One thread waits in poll for whoever can go on, so a slow client delays nobody. A read may bring half a request or
 * three of them; a write may take only a part. After SIGTERM it answers what has come, and exits with 0. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/un.h>
#include <unistd.h>
#include "facts.h"

enum { CLIENTS = 256, HEAD = 8192, OUT = BODY + 256 };
static struct client {
    bool last;        /* nothing follows what is sent now, and whatever comes is not read */
    size_t got, left; /* bytes in `in` that are not answered yet, bytes in `out` that are not sent yet */
    char in[HEAD], out[OUT];
} clients[CLIENTS];
static struct pollfd watched[2 + CLIENTS], *const listener = watched, *const signals = watched + 1;
static struct pollfd *const places = watched + 2; /* places[i] watches clients[i] */
static bool stopping;

/* Write the document that a head asks for; returns the status. No bodies: where a request ends, there begins the next,
 * or what an attacker wants to be taken for it (RFC 9112 section 11.2). */
static const char *respond(char *body, char *head, bool *last) {
    char *line = strsep(&head, "\n"), *method = strsep(&line, " "), *target = strsep(&line, " ");
    if (strcmp(method, "GET") && strcmp(method, "HEAD")) return "405 expected GET or HEAD";
    if (!line || strncmp(line, "HTTP/1.", 7)) return "400 expected a first line like: GET /path HTTP/1.1";
    *last = stopping || line[7] == '0';
    while ((line = strsep(&head, "\n"))) {
        bool length = !strncasecmp(line, "Content-Length", 14) && line[14 + strspn(line + 14, ": \t0\r")];
        if (length || !strncasecmp(line, "Transfer-Encoding", 17)) return "400 expected no body";
        *last |= !strncasecmp(line, "Connection:", 11) && strcasestr(line, "close");
    }
    if (strcmp(strsep(&target, "?"), "/health")) search(body, target);
    else sprintf(body, "{\"status\": \"ok\", \"pid\": %d}\n", getpid());
    return "200 OK";
}

/* Answer the next request, if it has come whole. */
static bool answer(struct client *c) {
    char *end = memmem(c->in, c->got, "\r\n\r\n", 4), body[BODY];
    if (c->last || (!end && c->got < HEAD)) return false;
    size_t size = end ? (size_t)(end - c->in) + 4 : HEAD;
    c->in[size - 1] = '\0';
    const char *status = end ? "400 expected no NUL in a head" : "431 expected a head of at most 8192 bytes";
    if (end && strlen(c->in) == size - 1) status = respond(body, c->in, &c->last);
    bool refused = *status != '2';
    c->last |= refused;
    if (refused) sprintf(body, "{\"error\": \"%s\"}\n", status + 4);
    const char *head = "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n%s%s\r\n%s";
    c->left = (size_t)sprintf(c->out, head, status, strlen(body), refused ? "Allow: GET, HEAD\r\n" : "",
                              c->last ? "Connection: close\r\n" : "", *c->in == 'H' ? "" : body);
    memmove(c->in, c->in + size, c->got = c->last ? 0 : c->got - size);
    return true;
}

/* Go on with a client: read once, answer what is complete. False: it has gone, or it is idle while the worker stops. */
static bool serve(struct client *c, struct pollfd *place) {
    ssize_t count = c->left ? 1 : recv(place->fd, c->in + c->got, HEAD - c->got, 0);
    if (count == 0 || (count < 0 && errno != EAGAIN)) return false;
    if (!c->left && !c->last && count > 0) c->got += (size_t)count;
    while (c->left || answer(c)) {
        count = send(place->fd, c->out, c->left, MSG_NOSIGNAL);
        if (count < 0 && errno != EAGAIN) return false;
        if (count > 0) memmove(c->out, c->out + count, c->left -= (size_t)count);
        if (c->left) break;
    }
    if (c->last && !c->left) shutdown(place->fd, SHUT_WR); /* close would destroy the answer on its way */
    place->events = c->left ? POLLOUT : POLLIN; /* who does not take his answers is not read */
    return !stopping || c->left || c->got || c->last;
}

/* A new listening socket on a port or at a path. */
static int listen_at(const char *at) {
    long number = *at && !at[strspn(at, "0123456789")] ? strtol(at, NULL, 10) : 0;
    if (*at != '/' && (number < 1 || number > 65535)) errx(2, "found port '%s', expected 1 to 65535", at);
    struct sockaddr_in port = {AF_INET, htons((uint16_t)number), {htonl(INADDR_LOOPBACK)}, {0}};
    struct sockaddr_un path = {AF_UNIX, ""};
    if (strlen(at) >= sizeof path.sun_path) errx(2, "found '%s', expected a shorter path: unix(7)", at);
    strcpy(path.sun_path, at);
    int fd = socket(number ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)); /* old connections in TIME_WAIT are no obstacle */
    int bound = number ? bind(fd, (void *)&port, sizeof port) : bind(fd, (void *)&path, sizeof path);
    if (bound < 0 || listen(fd, SOMAXCONN) < 0) err(1, "cannot listen at %s", at);
    return fd;
}

int main(int argc, char **argv) {
    learn();
    if (getenv("GATEWAY_INTERFACE")) {
        search(clients->out, getenv("QUERY_STRING"));
        return printf("Content-Type: application/json\r\n\r\n%s", clients->out) < 0;
    }
    sigset_t term; /* it becomes one more thing that poll reports: between two requests, never inside one */
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
    const char *given = argc > 1 ? argv[1] : getenv("PORT") ? getenv("PORT") : "";
    *signals = (struct pollfd){signalfd(-1, &term, SFD_CLOEXEC), POLLIN, 0};
    listener->fd = argc < 2 && getenv("LISTEN_FDS") ? 3 : listen_at(given);
    fcntl(listener->fd, F_SETFL, O_NONBLOCK); /* other workers may share it, and be faster */

    for (int open = 0, most = CLIENTS; !stopping || open;) {
        listener->events = open < most ? POLLIN : 0; /* who finds no place waits in the backlog */
        poll(stopping ? places : watched, (nfds_t)(stopping ? open : open + 2), -1);
        if (!stopping && signals->revents) stopping = close(listener->fd) == 0;
        for (int i = open; i-- > 0;) {
            if (!(places[i].revents || stopping) || serve(&clients[i], &places[i])) continue;
            close(places[i].fd);
            places[i] = places[--open]; /* the last one moves to where this one was */
            clients[i] = clients[open];
        }
        if (stopping || !listener->revents) continue;
        int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && errno == EMFILE && open) most = open; /* it may not have more files */
        if (fd < 0) continue;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)); /* no answer waits for another one */
        clients[open].got = clients[open].left = clients[open].last = 0;
        places[open++] = (struct pollfd){fd, POLLIN, 0};
    }
    if (*given == '/') unlink(given);
    return 0;
}
