/* search: a worker that answers HTTP, many connections at a time.
 *
 *     search PORT, or search /PATH   listens on a port of this machine, or on a Unix socket of that name
 *     search                         finds PORT or SOCKET in its environment, or with LISTEN_FDS=1 a listening socket
 *                                    as descriptor 3, or with GATEWAY_INTERFACE one CGI request
 *     GET /health                    200 as soon as it listens
 *     GET /anything?q=tcp            {"query": "tcp", "results": ["..."], "pid": 4121, "language": "c"}
 *
 * The classic socket, bind, listen, accept program, grown up. One thread waits in poll for whichever connection can go
 * on, so a slow client delays nobody. A read may bring half a request or three of them; a write may take only a part.
 * A request costs one read and one write. After SIGTERM it answers what has arrived and exits with 0; a request that
 * never gets complete could hold it up: supervisors have SIGKILL. */
#define _GNU_SOURCE
#include "facts.h"
#include "http.h"
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/un.h>

enum { CLIENTS = 256, HEAD = 8192, REPLY = DOCUMENT + 300, OUT = 4 * REPLY };

struct client {
    bool closing; /* no further request is read; it hangs up after the last answer */
    size_t got;   /* in[0, got) was read and not used yet */
    size_t used;  /* out[0, used) was answered and not sent yet */
    char in[HEAD + 1], out[OUT];
};
static struct client clients[CLIENTS];
static struct pollfd watched[CLIENTS + 2]; /* one for each client, free where fd is -1; then these two */
static struct pollfd *const listener = &watched[CLIENTS], *const signals = &watched[CLIENTS + 1];
static int open_clients, places = CLIENTS, stopping;

/* Answer the next request. False: it, or room for its answer, has still to come. */
static bool answer(struct client *c) {
    if (c->closing) c->got = 0;
    char *end = memmem(c->in, c->got, "\r\n\r\n", 4), body[DOCUMENT], *to;
    if (sizeof c->out - c->used < REPLY || (!end && c->got < HEAD)) return false;
    size_t size = end ? (size_t)(end - c->in) + 4 : c->got;
    struct request r = parse(c->in, size);
    c->closing = r.close |= stopping;
    if (r.wrong) to = body + sprintf(body, "{\"error\": \"%s\"}\n", strchr(r.wrong, ':') + 2);
    else if (strcmp(r.target, "/health")) to = search(body, r.target);
    else to = body + sprintf(body, "{\"status\": \"ok\", \"pid\": %d}\n", getpid());
    c->used = (size_t)(respond(c->out + c->used, &r, body, to) - c->out);
    memmove(c->in, c->in + size, c->got -= size);
    return true;
}

static void hang_up(struct pollfd *place) {
    close(place->fd);
    place->fd = -1;
    open_clients--;
}

/* This connection can go on: read once, answer everything that is complete, write once. */
static void serve(struct client *c, struct pollfd *place) {
    ssize_t count = c->used ? 0 : recv(place->fd, c->in + c->got, HEAD - c->got, 0);
    if (!c->used && (count == 0 || (count < 0 && errno != EAGAIN))) return hang_up(place);
    if (count > 0) c->got += (size_t)count;
    do {
        while (answer(c)) continue;
        count = c->used ? send(place->fd, c->out, c->used, MSG_NOSIGNAL) : 0;
        if (count < 0 && errno != EAGAIN) return hang_up(place);
        if (count > 0) memmove(c->out, c->out + count, c->used -= (size_t)count);
    } while (count > 0 && !c->used); /* with room again, look again: complete requests may have waited for it */
    place->events = c->used ? POLLOUT : POLLIN; /* who does not take his answers is not read */
    if (stopping && !c->used && !c->got) hang_up(place);
    else if (c->closing && !c->used) shutdown(place->fd, SHUT_WR); /* close would destroy the answer on its way */
}

/* Take in one connection. When there is no place, those that follow wait in the backlog until somebody hangs up. */
static bool admit(void) {
    int fd = open_clients < places ? accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC) : -1;
    if (fd < 0 && errno == EMFILE && open_clients) places = open_clients; /* it may not have more files */
    if (fd < 0) return false;
    size_t i = 0;
    while (watched[i].fd >= 0) i++;
    watched[i] = (struct pollfd){.fd = fd, .events = POLLIN};
    clients[i].closing = false, clients[i].got = clients[i].used = 0;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)); /* no answer waits for more to send */
    return ++open_clients;
}

/* Listen no more; a request that came is answered, an idle connection closed. Who waits in the backlog of a socket of
 * our own is taken in first. An inherited one stays open elsewhere: there the next worker takes them. */
static void stop(const char *given, bool inherited) {
    while (!inherited && admit()) continue;
    stopping = true;
    close(listener->fd);
    listener->fd = signals->fd = -1;
    if (!inherited && *given == '/') unlink(given);
    for (size_t i = 0; i < CLIENTS; i++)
        if (watched[i].fd >= 0) serve(&clients[i], &watched[i]);
}

/* A new listening socket at `text`: a path or a port. */
static int listen_at(const char *text) {
    bool local = *text == '/';
    long number = text[strspn(text, "0123456789")] ? 0 : strtol(text, NULL, 10);
    if (!local && (number < 1 || number > 65535)) errx(2, "found port '%s', expected 1 to 65535", text);
    struct sockaddr_in port = {AF_INET, htons((uint16_t)number), {htonl(INADDR_LOOPBACK)}, {0}};
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    if (strlen(text) >= sizeof path.sun_path) errx(2, "found '%s', expected a shorter path: unix(7)", text);
    strcpy(path.sun_path, text);
    int fd = socket(local ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)); /* old connections in TIME_WAIT are no obstacle */
    void *address = local ? (void *)&path : (void *)&port;
    if (bind(fd, address, local ? sizeof path : sizeof port) < 0 || listen(fd, SOMAXCONN) < 0)
        err(1, "cannot listen at %s", text);
    fprintf(stderr, "search: pid %d listens at %s\n", getpid(), text);
    return fd;
}

/* CGI (RFC 3875): the request is in the environment, the answer goes to standard output, and the process ends. */
static int answer_cgi(const char *query) {
    char target[HEAD], body[DOCUMENT], *method = getenv("REQUEST_METHOD");
    if (method && strcmp(method, "GET") && strcmp(method, "HEAD"))
        return puts("Status: 405 Method Not Allowed\r\nAllow: GET, HEAD\r\n\r") < 0;
    snprintf(target, sizeof target, "?%s", query ? query : "");
    *search(body, target) = '\0';
    return printf("Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body) < 0;
}

int main(int argc, char **argv) {
    if (getenv("GATEWAY_INTERFACE")) return answer_cgi(getenv("QUERY_STRING"));
    char *given = argc > 1 ? argv[1] : getenv("SOCKET") ? getenv("SOCKET") : getenv("PORT") ? getenv("PORT") : "";
    bool inherited = argc < 2 && getenv("LISTEN_FDS"); /* sd_listen_fds(3) */
    for (size_t i = 0; i < CLIENTS; i++) watched[i].fd = -1;
    sigset_t asked; /* a signal becomes one more thing that poll reports: between two requests, never inside one */
    sigemptyset(&asked), sigaddset(&asked, SIGTERM), sigaddset(&asked, SIGINT);
    sigprocmask(SIG_BLOCK, &asked, NULL);
    *signals = (struct pollfd){.fd = signalfd(-1, &asked, SFD_CLOEXEC), .events = POLLIN};
    *listener = (struct pollfd){.fd = inherited ? 3 : listen_at(given), .events = POLLIN};
    fcntl(listener->fd, F_SETFL, O_NONBLOCK);
    while (!stopping || open_clients) {
        listener->events = open_clients < places ? POLLIN : 0;
        poll(watched, CLIENTS + 2, -1);
        for (size_t i = 0; i < CLIENTS; i++)
            if (watched[i].fd >= 0 && watched[i].revents) serve(&clients[i], &watched[i]);
        if (listener->revents) admit();
        if (signals->revents && !stopping) stop(given, inherited);
    }
    return 0;
}
